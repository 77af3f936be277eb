"""Building a folder clip by clip: the same bytes as at once, and an interrupted build goes on where it stopped."""

from pathlib import Path

import numpy as np
import pytest
import torch
from clips import CARD, make_clip, verify_folder

from videomdm_ext.data import files
from videomdm_ext.data.building import Builder, is_unfinished, write_folder
from videomdm_ext.data.folder import Card, read_clip, read_folder
from videomdm_ext.errors import DatasetError
from videomdm_ext.motion.features import Moments, channels, mean_and_std
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
