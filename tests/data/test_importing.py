"""Building a set clip by clip and importing one: trials on one side, and an interruption costs nothing but time."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from clips import CARD, camera, make_clip, motion, verify_folder

from videomdm_ext.data import files, importing
from videomdm_ext.data.building import Builder, is_unfinished, write_folder
from videomdm_ext.data.clip import Recording, to_clip
from videomdm_ext.data.folder import Card, read_card, read_clip, read_folder
from videomdm_ext.data.importing import find_importer, run_import, split_by_trial
from videomdm_ext.data.motions import frames_at, resample
from videomdm_ext.data.seal import verify
from videomdm_ext.data.sources.base import Importer, ImportOptions, Member
from videomdm_ext.errors import ConfigError, DatasetError
from videomdm_ext.geometry.cameras import project
from videomdm_ext.motion.features import Moments, channels, decode, mean_and_std
from videomdm_ext.motion.skeletons import SMPL22

CLIPS = [make_clip(), make_clip(name="walk", moving=True), make_clip(name="jump")]
SPLITS = ("train", "train", "test")


def content(folder: Path) -> dict[str, bytes]:
    """-> every file of a folder but the table of times."""
    found = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "files.bin"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def build(path: Path, clips=CLIPS) -> Card:
    builder = Builder(str(path), CARD)
    for clip, split in zip(clips, SPLITS, strict=True):
        if clip.id not in builder:
            builder.add(clip, split)
    return builder.finish()


def test_clip_by_clip_gives_the_bytes_of_all_at_once(tmp_path):
    build(tmp_path / "one")
    write_folder(str(tmp_path / "all"), {"train": CLIPS[:2], "test": CLIPS[2:]}, CARD)
    assert content(tmp_path / "one") == content(tmp_path / "all")
    assert verify_folder(str(tmp_path / "one")).counts == {"test": 1, "train": 2}


@pytest.mark.parametrize("kill_at", [1, 2, 6, 9, 13, 20, 25])
def test_a_build_killed_at_any_file_leaves_no_half_clip_and_goes_on(tmp_path, monkeypatch, kill_at):
    build(tmp_path / "whole")
    written = 0
    write = files.write_bytes

    def dying(path, data):
        nonlocal written
        written += 1
        if written == kill_at:
            Path(f"{path}.part").parent.mkdir(parents=True, exist_ok=True)
            Path(f"{path}.part").write_bytes(data[: len(data) // 2])
            raise KeyboardInterrupt
        write(path, data)

    monkeypatch.setattr(files, "write_bytes", dying)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "set")
    monkeypatch.undo()
    assert not (tmp_path / "set" / "dataset.json").exists()
    started = Builder(str(tmp_path / "set"), CARD)
    for clip_id in started.done:
        read_clip(str(tmp_path / "set"), CARD, clip_id)
    build(tmp_path / "set")
    found = {name: data for name, data in content(tmp_path / "set").items() if not name.endswith(".part")}
    assert found == content(tmp_path / "whole")


def test_a_clip_that_is_there_is_not_written_again(tmp_path, monkeypatch):
    builder = Builder(str(tmp_path / "set"), CARD)
    builder.add(CLIPS[0], "train")
    assert is_unfinished(str(tmp_path / "set"))
    again = Builder(str(tmp_path / "set"), CARD)
    assert CLIPS[0].id in again
    assert CLIPS[1].id not in again
    with pytest.raises(DatasetError, match="appears twice"):
        again.add(CLIPS[0], "train")
    again.add(CLIPS[1], "train")
    again.finish()
    assert not is_unfinished(str(tmp_path / "set"))


def test_a_set_without_training_clips_is_refused_and_a_wrong_split_too(tmp_path):
    builder = Builder(str(tmp_path / "set"), CARD)
    with pytest.raises(DatasetError, match="expected a split among train, val, test, found 'dev'"):
        builder.add(CLIPS[0], "dev")
    builder.add(CLIPS[0], "test")
    with pytest.raises(DatasetError, match=r"expected clips in the split train, found test \(1\)"):
        builder.finish()


def test_intrinsics_and_image_size_come_back(tmp_path):
    matrix = np.array([[900.0, 0, 640], [0, 900, 360], [0, 0, 1]], dtype=np.float32)
    clip = make_clip(intrinsics=matrix, image_size=(1280, 720))
    write_folder(str(tmp_path), {"train": [clip, CLIPS[1]]}, CARD)
    _, (known, unknown) = read_folder(str(tmp_path), "train")
    np.testing.assert_array_equal(known.intrinsics, matrix)
    assert known.image_size == (1280, 720)
    assert unknown.intrinsics is None
    assert unknown.image_size is None


def test_statistics_do_not_depend_on_how_frames_are_cut_into_clips():
    frames = torch.randn(90, SMPL22.num_features, generator=torch.Generator().manual_seed(1)) * 3 + 1
    whole = mean_and_std([frames], SMPL22)
    parts = mean_and_std(frames.split((7, 50, 1, 32)), SMPL22)
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(whole[0], frames.mean(0))
    heights = channels(SMPL22).height
    torch.testing.assert_close(whole[1][heights], frames.std(0)[heights])
    assert Moments(SMPL22).mean_and_std()[1].min() > 0


def test_a_file_is_written_where_no_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files.write_bytes("table.md", b"| |")
    assert [path.name for path in tmp_path.iterdir()] == ["table.md"]


NAMES = ("walk", "jump", "kick", "punch", "spin")


def recording(name: str, **changes: object) -> Recording:
    """-> a bundled motion in a world of its own, turned and moved, seen by a camera in that world."""
    angle = torch.tensor(0.8)
    turn = torch.tensor([[angle.cos(), 0, angle.sin()], [0, 1, 0], [-angle.sin(), 0, angle.cos()]])
    truth = motion(name) @ turn.T + torch.tensor([3.0, 0.0, -2.0])
    seen = camera()
    away = seen[:, 3] - seen[:, :3] @ turn.T @ torch.tensor([3.0, 0, -2])
    placed = torch.cat((seen[:, :3] @ turn.T, away[:, None]), 1)
    points, _ = project(truth, placed.unsqueeze(0))
    content = {"keypoints": points, "confidence": torch.full(points.shape[:-1], 0.9), "extrinsics": placed}
    content |= {"lifted": 1.1 * truth, "truth": truth, "id": name, "texts": (f"a {name}.",), "fps": 20.0}
    return Recording(skeleton=SMPL22, **{**content, **changes})  # type: ignore[arg-type]


class Few(Importer):
    name, about, has_lifter = "few", "a few motions", "bent"
    broken: tuple[str, ...] = ()
    stop_at: str = ""

    def members(self):
        return [Member(name, trial=name[0]) for name in NAMES]

    def read(self, member):
        if member.id == self.stop_at:
            raise KeyboardInterrupt
        if member.id in self.broken:
            raise self.refuse(member.id, "a motion", "nothing", "Record it again.")
        return recording(member.id)


def test_a_recording_of_any_world_becomes_a_clip_whose_camera_sees_what_was_seen():
    seen = recording("walk")
    clip = to_clip(seen)
    assert clip.truth is not None
    for features, extrinsics, scale in ((clip.truth, clip.truth_extrinsics, 1.0), (clip.teacher, clip.extrinsics, 1.1)):
        positions = decode(torch.from_numpy(features), SMPL22)
        points, _ = project(positions, torch.from_numpy(extrinsics).unsqueeze(0))
        world = seen.truth * scale
        expected, _ = project(world[:-1], seen.extrinsics.unsqueeze(0))
        torch.testing.assert_close(points, expected, atol=2e-4, rtol=0)
        hips = positions[0, 1] - positions[0, 2]
        assert hips[0] > 0.05
        torch.testing.assert_close(positions[0, 0, [0, 2]], torch.zeros(2), atol=1e-6, rtol=0)


def test_a_moving_camera_comes_along_frame_by_frame_and_without_a_lifter_there_is_no_clip():
    still = recording("jump")
    frames = len(still.keypoints)
    clip = to_clip(recording("jump", extrinsics=still.extrinsics.expand(frames, 3, 4)))
    assert clip.extrinsics.shape == (frames - 1, 3, 4)
    torch.testing.assert_close(torch.from_numpy(clip.extrinsics[4]), torch.from_numpy(to_clip(still).extrinsics))
    with pytest.raises(DatasetError, match="walk: expected a lifted motion, found none"):
        to_clip(recording("walk", lifted=None))


def test_resampling_hits_frames_and_halves_between_them():
    values = torch.arange(10.0).reshape(5, 2)
    torch.testing.assert_close(resample(values, [0, 1.5, 4]), torch.tensor([[0, 1], [3, 4], [8, 9.0]]))
    torch.testing.assert_close(frames_at(121, 60, 20), torch.arange(41, dtype=torch.float64) * 3)
    assert len(frames_at(50, 25, 20)) == 40


def test_an_import_writes_what_it_read_and_measures_the_lifter(tmp_path):
    out = str(tmp_path / "set")
    seen = []
    done = run_import(Few("here", ImportOptions()), out, progress=lambda done, total: seen.append((done, total)))
    assert done.left_out == {}
    assert seen == [(number, 5) for number in range(1, 6)]
    card = read_card(out)
    assert sum(card.counts.values()) == 5
    assert (card.lifter, card.recipe["importer"]) == ("bent", "few")
    assert 0.05 < card.lifter_error["mpjpe"] < 1.0
    assert {clip.id for clip in read_folder(out, "train")[1]} <= set(NAMES)


def test_what_cannot_be_used_is_left_out_and_told_and_nothing_left_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(Few, "broken", ("walk",))
    done = run_import(Few("here", ImportOptions()), str(tmp_path / "set"))
    assert done.left_out == {"walk": "walk: expected a motion, found nothing. Record it again."}
    monkeypatch.setattr(Few, "broken", NAMES)
    with pytest.raises(DatasetError, match=r"here: expected clips that can be used, found none\. The first: walk"):
        run_import(Few("here", ImportOptions()), str(tmp_path / "none"))


def test_an_interrupted_import_reads_only_the_rest(tmp_path, monkeypatch):
    out = str(tmp_path / "set")
    run_import(Few("here", ImportOptions()), str(tmp_path / "whole"))
    monkeypatch.setattr(Few, "stop_at", "punch")
    with pytest.raises(KeyboardInterrupt):
        run_import(Few("here", ImportOptions()), out)
    monkeypatch.setattr(Few, "stop_at", "")
    read = []
    original = Few.read
    monkeypatch.setattr(Few, "read", lambda self, member: read.append(member.id) or original(self, member))
    run_import(Few("here", ImportOptions()), out)
    assert read == ["punch", "spin"]
    assert read_card(out).content_hash == read_card(str(tmp_path / "whole")).content_hash


class Listed(Few):
    """Its captions and its members are those of a file."""

    def members(self):
        return [Member(name, trial=name) for name in files.read_text(f"{self.source}/list ü.txt").split()]

    def read(self, member):
        if member.id == self.stop_at:
            raise KeyboardInterrupt
        return recording(member.id, texts=(files.read_text(f"{self.source}/{member.id}.txt"),))


@pytest.mark.parametrize("change", ["nothing", "touched", "caption", "gone", "more"])
def test_an_interrupted_import_whose_source_was_changed_begins_anew_and_mixes_nothing(
    tmp_path, monkeypatch, caplog, change
):
    source, out = tmp_path / "source", str(tmp_path / "set")
    source.mkdir()
    listed = source / "list ü.txt"
    listed.write_text(" ".join(NAMES))
    for name in NAMES:
        (source / f"{name}.txt").write_text(f"a {name}.")
    monkeypatch.setattr(Listed, "stop_at", "punch")
    with pytest.raises(KeyboardInterrupt):
        run_import(Listed(str(source), ImportOptions()), out)
    monkeypatch.setattr(Listed, "stop_at", "")
    if change == "touched":
        os.utime(source / "walk.txt")
    elif change == "caption":
        (source / "walk.txt").write_text("a stroll.")
    elif change == "gone":
        listed.write_text(" ".join(NAMES[1:]))
    elif change == "more":
        (source / "dance_a.txt").write_text("a dance.")
        listed.write_text(" ".join((*NAMES, "dance_a")))
    run_import(Listed(str(source), ImportOptions()), out)
    assert ("begins anew" in caplog.text) == (change not in ("nothing", "touched"))
    run_import(Listed(str(source), ImportOptions()), str(tmp_path / "whole"))
    found, whole = read_card(out), read_card(str(tmp_path / "whole"))
    assert (found.content_hash, found.identity) == (whole.content_hash, whole.identity)


def test_what_a_machine_that_was_switched_off_left_half_written_is_made_again(tmp_path, monkeypatch, caplog):
    out = tmp_path / "set"
    run_import(Few("here", ImportOptions()), str(tmp_path / "whole"))
    monkeypatch.setattr(Few, "stop_at", "spin")
    with pytest.raises(KeyboardInterrupt):
        run_import(Few("here", ImportOptions()), str(out))
    (out / "keypoints_2d" / "walk.npz").write_bytes(b"")
    teacher = out / "teacher_vecs" / "bent" / "jump.npy"
    teacher.write_bytes(bytes(teacher.stat().st_size))
    (out / "building" / "kick.json").write_bytes(b"")
    monkeypatch.setattr(Few, "stop_at", "")
    run_import(Few("here", ImportOptions()), str(out))
    assert "making 2 clips again" in caplog.text
    found = read_card(str(out))
    assert found.identity == read_card(str(tmp_path / "whole")).identity
    verify(str(out), found, thorough=True)
    assert {clip.id for split in found.counts for clip in read_folder(str(out), split)[1]} == set(NAMES)


def test_a_trial_is_never_on_two_sides_and_shares_are_the_users_or_the_sources():
    members = [Member(f"t{trial}_s{part}", trial=f"t{trial}") for trial in range(100) for part in range(3)]
    splits = split_by_trial(members, seed=0)
    assert all(len({splits[f"t{trial}_s{part}"] for part in range(3)}) == 1 for trial in range(100))
    assert Counter(splits.values()) == {"train": 240, "val": 15, "test": 45}
    assert split_by_trial(members[::-1], seed=0) == splits
    assert split_by_trial(members, seed=1) != splits
    members = [Member(f"t{trial}_s{part}", trial=f"t{trial}") for trial in range(100) for part in range(2)]
    assert Counter(split_by_trial(members, 0, (0.7, 0.1, 0.2)).values()) == {"train": 140, "val": 20, "test": 40}
    assert Counter(split_by_trial(members, 0, (0.75, 0.25, 0.0)).values()) == {"train": 150, "val": 50}
    assert set(split_by_trial(members, 0, (1.0, 0.0, 0.0)).values()) == {"train"}
    few = [Member("a"), Member("b")]
    assert sorted(split_by_trial(few, 0, (0.5, 0.0, 0.5)).values()) == ["test", "train"]
    for trials in range(1, 7):
        found = Counter(split_by_trial([Member(str(n)) for n in range(trials)], 0, (0.001, 0.4, 0.599)).values())
        assert found["train"] >= 1
        assert trials < 3 or (found["val"] >= 1 and found["test"] >= found["val"])
    three = split_by_trial([Member("a"), Member("b"), Member("c")], 0)
    assert sorted(three.values()) == ["test", "train", "val"]
    assert set(split_by_trial([Member("a"), Member("b")], 0).values()) == {"train"}
    assert split_by_trial([Member("a", split="test"), Member("b", split="train")], 0) == {"a": "test", "b": "train"}
    with pytest.raises(DatasetError, match="expected train, val, test, found dev"):
        split_by_trial([Member("a", split="dev")], 0)


@pytest.mark.parametrize(
    "split", [(0.8, 0.1, 0.2), (1.2, -0.1, -0.1), (0.0, 0.5, 0.5), (0.5, 0.5), (float("nan"), 0.5, 0.5), (1.0, 0, 1e-3)]
)
def test_shares_that_are_none_are_refused(split):
    with pytest.raises(ConfigError, match="--split: expected shares of train, val and test, none below 0"):
        ImportOptions(split=split)


def test_the_shares_are_on_the_card_and_an_import_does_not_go_on_with_others(tmp_path, monkeypatch):
    monkeypatch.setattr(Few, "members", lambda self: [Member(name, trial=name) for name in NAMES])
    shares, out = ImportOptions(split=(0.4, 0.2, 0.4)), str(tmp_path / "set")
    monkeypatch.setattr(Few, "stop_at", "punch")
    with pytest.raises(KeyboardInterrupt):
        run_import(Few("here", shares), out)
    monkeypatch.setattr(Few, "stop_at", "")
    with pytest.raises(DatasetError, match="an unfinished import with other settings"):
        run_import(Few("here", ImportOptions()), out)
    assert run_import(Few("here", shares), out).card.counts == {"train": 2, "val": 1, "test": 2}
    assert read_card(out).recipe["split"] == [0.4, 0.2, 0.4]


def test_an_unknown_importer_is_refused_with_those_there_are(monkeypatch):
    monkeypatch.setattr(importing.plugins, "collect", lambda manager, kind: {"few": Few})
    assert find_importer("few") is Few
    with pytest.raises(ConfigError, match="data import 'fwe': expected one of few"):
        find_importer("fwe")
