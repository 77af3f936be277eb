"""The identity of a data set: one on every CPU, another for other sources, captions, options or splits."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from clips import CARD, make_clip
from people import real_motions

from videomdm_ext.data import motions, seal
from videomdm_ext.data.building import write_folder
from videomdm_ext.data.folder import Card, read_card
from videomdm_ext.data.importing import find_importer, merge, run_import
from videomdm_ext.data.sources.base import ImportOptions
from videomdm_ext.data.sources.humanml3d import JointsImporter
from videomdm_ext.errors import DatasetError

MOTIONS = ("walk", "jump", "spin", "kick")
NARROW = """
import json, sys, torch
torch.set_num_threads(1)
from test_identity import sets
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


def test_an_interrupted_import_comes_out_with_the_identity_of_a_whole_one(first, tmp_path, monkeypatch):
    source, read = write_source(tmp_path / "source"), JointsImporter.read

    def stops(self, member):
        if member.id.startswith("kick"):
            raise KeyboardInterrupt
        return read(self, member)

    with monkeypatch.context() as patch:
        patch.setattr(JointsImporter, "read", stops)
        with pytest.raises(KeyboardInterrupt):
            imported(source, tmp_path / "cut")
    made = imported(source, tmp_path / "cut")
    assert (made.identity, made.content_hash, made.counts) == (first.identity, first.content_hash, first.counts)


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
    for change in changes.values():
        others = seal.values_of({clip.id: seal.sketch(change(clip)) for clip in clips})
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
