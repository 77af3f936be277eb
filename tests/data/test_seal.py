"""Whether a set's files are those it was made with, and one identity on every CPU, another for other sources."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from clips import CARD, FILES, change, make_clip
from people import real_motions

from videomdm_ext.data import motions, seal
from videomdm_ext.data.building import repack, write_folder
from videomdm_ext.data.folder import Card, read_card
from videomdm_ext.data.importing import find_importer, merge, run_import
from videomdm_ext.data.sources.base import ImportOptions
from videomdm_ext.data.sources.humanml3d import JointsImporter
from videomdm_ext.errors import DatasetError


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """-> a set that is copied and not changed."""
    place = tmp_path_factory.mktemp("sealed") / "set"
    write_folder(str(place), {"train": [make_clip(), make_clip(name="walk")], "test": [make_clip(name="jump")]}, CARD)
    return place


@pytest.fixture
def made(whole, tmp_path) -> Path:
    """-> a copy of its own, with equal times."""
    return Path(shutil.copytree(whole, tmp_path / "set"))


@pytest.mark.parametrize("name", FILES)
def test_a_change_of_any_one_file_is_found_and_named(made, name):
    seal.verify(str(made))
    change(made / name)
    with pytest.raises(DatasetError, match=rf"that this data set was made with, found others: {re.escape(name)} "):
        seal.verify(str(made))


def test_what_is_missing_and_a_truth_that_came_later_are_named(made):
    (made / "cameras" / "walk_0.npz").unlink()
    with pytest.raises(DatasetError, match=r"cameras/walk_0\.npz .*now it is missing"):
        seal.verify(str(made))
    blind = make_clip(name="spin", truth=None, truth_extrinsics=None)
    write_folder(str(made.parent / "blind"), {"train": [make_clip(), blind]}, CARD)
    shutil.copy(made / "new_joint_vecs" / "walk_0.npy", made.parent / "blind" / "new_joint_vecs" / "spin_0.npy")
    with pytest.raises(DatasetError, match=r"new_joint_vecs/spin_0\.npy \(no such file"):
        seal.verify(str(made.parent / "blind"))


def test_what_is_touched_and_not_changed_is_read_once_and_accepted(made, monkeypatch, caplog):
    caplog.set_level("INFO")
    seal.verify(str(made), thorough=True)
    assert "files" in caplog.text
    assert "others than before" not in caplog.text
    for place in made.rglob("*"):
        os.utime(place, (1, 1))
    seal.verify(str(made))
    assert "whose sizes or times are others than before" in caplog.text
    monkeypatch.setattr(seal.Table, "digest", lambda *_: pytest.fail("read again"))
    seal.verify(str(made))


def test_a_change_that_keeps_size_and_time_is_found_by_a_thorough_look_alone(made):
    place = made / "keypoints_2d" / "walk_0.npz"
    state = place.stat()
    change(place)
    os.utime(place, ns=(state.st_atime_ns, state.st_mtime_ns))
    seal.verify(str(made))
    with pytest.raises(DatasetError, match=r"keypoints_2d/walk_0\.npz"):
        seal.verify(str(made), thorough=True)


@pytest.mark.parametrize("changed", [False, True])
def test_a_set_of_an_earlier_version_is_read_once_and_believed_if_it_has_the_cards_hash(made, changed):
    card = dataclasses.replace(read_card(str(made)), files={}, identity="", values=())
    (made / "dataset.json").write_text(card.to_json())
    (made / seal.TABLE).unlink()
    if changed:
        change(made / "texts" / "walk_0.txt")
        with pytest.raises(DatasetError, match=r"found others: of the clip walk_0 "):
            seal.verify(str(made))
        return
    seal.verify(str(made))
    for name in FILES:
        before = (made / name).read_bytes()
        change(made / name)
        with pytest.raises(DatasetError):
            seal.verify(str(made))
        (made / name).write_bytes(before)


def test_changes_that_are_meant_are_made_the_sets_own_with_another_identity(made):
    before = read_card(str(made))
    assert seal.accept(str(made)) == before
    change(made / "teacher_vecs" / "bent" / "walk_0.npy")
    (made / "train.txt").write_text("walk_0\n")
    after = seal.accept(str(made))
    assert seal.verify(str(made), thorough=True) == read_card(str(made)) == after
    assert after.counts == {"test": 1, "train": 1}
    assert after.seal != before.seal
    assert after.content_hash != before.content_hash
    assert after.recipe["changed"] == [before.content_hash]
    change(made / "Mean.npy")
    assert seal.accept(str(made)).seal != after.seal
    seal.verify(str(made))


def test_changes_that_cannot_be_accepted_leave_the_card_as_it_was(made):
    before = (made / "dataset.json").read_bytes()
    (made / "test.txt").write_text("walk_0\n")
    with pytest.raises(DatasetError, match="split-twice"):
        seal.accept(str(made))
    (made / "Mean.npy").write_bytes(b"no array")
    with pytest.raises(DatasetError):
        seal.accept(str(made))
    assert (made / "dataset.json").read_bytes() == before


def test_packed_and_merged_sets_are_sealed_and_a_changed_shard_is_named(made, tmp_path):
    pytest.importorskip("pyarrow")
    packed, merged = tmp_path / "packed", tmp_path / "merged"
    card = repack(str(made), str(packed), packed=True)
    assert card.seal == read_card(str(made)).seal
    seal.verify(str(packed), thorough=True)
    (packed / seal.TABLE).unlink()
    seal.verify(str(packed))
    merge([str(packed), str(made)], str(merged))
    seal.verify(str(merged), thorough=True)
    repack(str(packed), str(tmp_path / "plain"), packed=False)
    assert seal.verify(str(tmp_path / "plain"), thorough=True) == read_card(str(made))
    change(packed / "shards" / "train-00000.parquet")
    with pytest.raises(DatasetError, match=r"shards/train-00000\.parquet"):
        seal.verify(str(packed))


def test_where_nothing_can_be_written_a_set_is_verified_all_the_same(made, monkeypatch):
    (made / seal.TABLE).unlink()

    def refuse(*_: object) -> None:
        raise PermissionError("read only")

    monkeypatch.setattr(os, "replace", refuse)
    seal.verify(str(made))
    change(made / "texts" / "jump_0.txt")
    with pytest.raises(DatasetError, match="of the clip jump_0"):
        seal.verify(str(made))


MOTIONS = ("walk", "jump", "spin", "kick")
NARROW = """
import json, sys, torch
torch.set_num_threads(1)
from test_seal import sets
print(json.dumps(sets(*sys.argv[1:])))
"""


def sets(source: str, out: str) -> tuple[str, dict[str, tuple[str, str, list[float]]]]:
    """-> the width of this CPU, and of the sets that are made of the sources and of two bundled motions: identity,
    hash of the content, and values"""
    cards = {
        kind: run_import(find_importer(kind)(f"{source}/{kind}", ImportOptions()), f"{out}/{kind}").card
        for kind in ("joints", "humanml3d")
    }
    few = [motion for motion in motions.load_motions() if motion.name in ("kick", "run")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(motions, "load_motions", lambda: few)
        cards["demo"] = motions.build_demo(f"{out}/demo", fast=True)
    found = {kind: (card.identity, card.content_hash, list(card.values)) for kind, card in cards.items()}
    return torch.backends.cpu.get_cpu_capability(), found


def write_source(root: Path) -> Path:
    """-> a folder with four motions and their captions."""
    for name in ("joints", "texts"):
        (root / name).mkdir(parents=True)
    for name in MOTIONS:
        np.save(root / "joints" / f"{name}.npy", real_motions()[name].numpy()[:60])
        (root / "texts" / f"{name}.txt").write_text(f"a person does {name}#a/DET#0.0#0.0\n")
    return root


def imported(source: Path, out: Path, **options: object) -> Card:
    return run_import(JointsImporter(str(source), ImportOptions(**options)), str(out)).card


def test_one_import_has_one_identity_on_cpus_of_every_width_and_differs_by_rounding(tmp_path):
    source = tmp_path / "source"
    write_source(source / "joints")
    vectors = imported(source / "joints", tmp_path / "vectors")
    ids = [line for split in vectors.counts for line in (tmp_path / "vectors" / f"{split}.txt").read_text().split()]
    for name in ("new_joint_vecs", "texts"):
        shutil.copytree(tmp_path / "vectors" / name, source / "humanml3d" / name)
    (source / "humanml3d" / "train.txt").write_text("".join(f"{name}\n" for name in ids))
    paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    narrow = subprocess.Popen(
        [sys.executable, "-c", NARROW, str(source), str(tmp_path / "narrow")],
        env={**os.environ, "PYTHONPATH": paths, "ATEN_CPU_CAPABILITY": "default"}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    widest = sets(str(source), str(tmp_path / "widest"))
    found = dict([widest, json.loads(narrow.communicate()[0].splitlines()[-1])])
    for kind in ("joints", "humanml3d", "demo"):
        identities, contents, values = zip(*(cards[kind] for cards in found.values()), strict=True)
        assert len(set(identities)) == 1
        assert len(identities[0]) == 64
        assert len(set(contents)) > 1 or len(found) == 1  # this machine has one width alone
        assert all(seal.near(values[0], others) for others in values)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Card:
    """-> the card of a set of the source"""
    place = tmp_path_factory.mktemp("first")
    return imported(write_source(place / "source"), place / "set")


@pytest.mark.parametrize("what", ["nothing", "motion", "caption", "seed", "split", "place"])
def test_what_a_set_is_made_from_gives_its_identity(first, tmp_path, what):
    source, options = write_source(tmp_path / "source"), {}
    assert first.identity != first.content_hash
    if what == "motion":
        np.save(source / "joints" / "walk.npy", real_motions()["walk"].numpy()[1:61])
    elif what == "caption":
        (source / "texts" / "walk.txt").write_text("somebody else#a/DET#0.0#0.0\n")
    elif what in ("seed", "split"):
        options = {"seed": {"seed": 1}, "split": {"split": (0.5, 0.25, 0.25)}}[what]
    elif what == "place":
        source = source.rename(tmp_path / "elsewhere")
        (source / "notes.md").write_text("unread")
    same = imported(source, tmp_path / "two", **options).identity == first.identity
    assert same == (what in ("nothing", "place"))


def test_a_merged_set_is_known_by_its_parts_and_one_of_unknown_parts_by_its_content(tmp_path):
    source = write_source(tmp_path / "source")
    for name, seed in (("a", 0), ("b", 1)):
        imported(source, tmp_path / name, seed=seed)
    once, again = (merge([str(tmp_path / "a"), str(tmp_path / "b")], str(tmp_path / name)) for name in ("m", "n"))
    assert len(once.identity) == 64
    assert once.identity == again.identity
    lone = write_folder(str(tmp_path / "lone"), {"train": [make_clip(), make_clip(name="walk")]}, CARD)
    assert (lone.identity, seal.name_of(lone)) == ("", lone.content_hash)


def mirrored(clip):
    return dataclasses.replace(clip, keypoints=clip.keypoints * np.float32((-1, 1)))


def test_numbers_that_are_others_by_more_than_rounding_are_no_longer_near():
    clips = [make_clip(), make_clip(name="walk", moving=True), make_clip(name="jump")]
    some = seal.values_of({clip.id: seal.sketch(clip) for clip in clips})
    changes = {
        "keypoints": mirrored,
        "teacher": lambda c: dataclasses.replace(c, teacher=c.teacher[::-1]),
        "confidence": lambda c: dataclasses.replace(c, confidence=c.confidence * np.float32(0.9)),
        "extrinsics": lambda c: dataclasses.replace(c, extrinsics=c.extrinsics + np.float32(0.05)),
        "truth": lambda c: dataclasses.replace(c, truth=c.truth * np.float32(1.1)),
    }
    for changed in changes.values():
        others = seal.values_of({clip.id: seal.sketch(changed(clip)) for clip in clips})
        assert not seal.near(some, others)
    noise = np.random.default_rng(0)
    for name in ("teacher", "keypoints", "truth"):
        shaken = [
            dataclasses.replace(c, **{name: getattr(c, name) + noise.normal(0, 1e-4, getattr(c, name).shape)})
            for c in clips
        ]
        assert seal.near(some, seal.values_of({clip.id: seal.sketch(clip) for clip in shaken}))


def test_a_recorded_set_is_known_again_by_its_files_or_as_made_anew_and_others_are_named(tmp_path, caplog):
    card = imported(write_source(tmp_path / "source"), tmp_path / "set")
    before = json.loads(json.dumps(seal.record(card)))
    assert seal.difference(before, read_card(str(tmp_path / "set"))) == ""
    anew = dataclasses.replace(card, content_hash="0" * 64)
    assert seal.difference(before, anew) == ""
    assert "was made anew, of the same sources" in caplog.text
    far = dataclasses.replace(anew, values=tuple(value + 0.1 for value in card.values))
    for other, message in (
        (far, "numbers of the data set"),
        (dataclasses.replace(anew, identity="1" * 64), "found.*1111"),
    ):
        with pytest.raises(DatasetError, match=rf"^SET: expected, as recorded in RUN, the .*{message}.* Go on\."):
            seal.check(before, other, "RUN", "SET", "Go on.")
