"""The index of a set and its clips, which are read as they are used."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
from clips import CARD, make_clip

from videomdm_ext.data import folder as folders
from videomdm_ext.data import index
from videomdm_ext.data.building import write_folder
from videomdm_ext.data.clip import Clip, with_truth_as_teacher
from videomdm_ext.data.files import array_bytes
from videomdm_ext.data.folder import read_folder
from videomdm_ext.data.index import Clips
from videomdm_ext.errors import DatasetError

KNOWN = make_clip(name="jump")
KNOWN = dataclasses.replace(
    KNOWN, teacher=KNOWN.truth, extrinsics=KNOWN.truth_extrinsics, confidence=np.zeros_like(KNOWN.confidence)
)
BARE = make_clip(name="walk", truth=None, truth_extrinsics=None, texts=(" a\tperson, é walks", "walks"))
CLIPS = (make_clip(), BARE, KNOWN)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """-> a set whose training clips are too many to be looked at when it is opened."""
    monkeypatch.setattr(folders, "LOOKED_AT", 0)
    write_folder(str(tmp_path / "set"), {"train": CLIPS[:1] + CLIPS[2:], "test": [BARE]}, CARD)
    return str(tmp_path / "set")


def same(clip: Clip, other: Clip) -> bool:
    return np.array_equal(clip.teacher, other.teacher) and (clip.id, clip.texts) == (other.id, other.texts)


def opened(path: str, split: str = "train") -> Clips:
    return read_folder(path, split)[1]


def refuse(*_: object) -> None:
    raise AssertionError("a clip was read")


def test_a_set_is_opened_without_reading_a_clip_and_tells_what_each_has(path, monkeypatch):
    monkeypatch.setattr(folders, "read_files", refuse)
    for split, members in (("train", CLIPS[:1] + CLIPS[2:]), ("test", [BARE])):
        entries = opened(path, split).entries
        assert [entry.id for entry in entries] == [clip.id for clip in members]
        assert [entry.frames for entry in entries] == [clip.length for clip in members]
        assert [entry.texts for entry in entries] == [tuple(t.strip() for t in clip.texts) for clip in members]
        assert [entry.has_truth for entry in entries] == [clip.truth is not None for clip in members]
        assert [entry.is_known for entry in entries] == [clip.is_known for clip in members]
        assert opened(path, split).longest == max(clip.length for clip in members)
    assert opened(path, "test").missing_truth() == [BARE.id]
    with pytest.raises(AssertionError, match="a clip was read"):
        opened(path)[0]


def test_clips_are_a_sequence_and_those_beyond_the_room_are_read_again(path, monkeypatch):
    clips = opened(path)
    assert clips[-1].id == KNOWN.id
    assert clips[0] is clips[0]
    with pytest.raises(IndexError):
        clips[2]
    assert all(same(found, clip) for found, clip in zip(clips, CLIPS[::2], strict=True))
    assert [clip.id for clip in clips[1:]] == [KNOWN.id]
    monkeypatch.setattr(index, "KEPT_BYTES", clips[0].teacher.nbytes)
    small = opened(path)
    assert small[0] is not small[0]
    assert same(small[0], clips[0])
    assert not small.kept


def test_a_change_is_made_as_clips_are_read_and_a_list_can_be_such_a_set(path):
    for clips in (opened(path), Clips.of(list(CLIPS[::2]))):
        changed = clips.map(with_truth_as_teacher)
        assert not changed.kept
        assert Clips.of(changed) is changed
        for clip, before in zip(changed, CLIPS[::2], strict=True):
            np.testing.assert_array_equal(clip.teacher, before.truth)
        assert same(clips[0], CLIPS[0])


@pytest.mark.parametrize("damage", ["none", "gone", "torn", "no text", "changed", "of other clips"])
def test_an_index_that_is_gone_or_does_not_fit_is_made_anew_by_reading_every_clip(path, damage, monkeypatch):
    place = Path(path, "index/train.tsv")
    whole = place.read_bytes()
    if damage == "gone":
        place.unlink()
    elif damage == "torn":
        place.write_bytes(whole[:-20])
    elif damage == "no text":
        place.write_bytes(b"\xff\xfe\0")
    elif damage == "changed":
        place.write_bytes(whole.replace(b"\tt\t", b"\t\t"))
    elif damage == "of other clips":
        card = Path(path, "dataset.json")
        card.write_text(card.read_text().replace('"content_hash": "', '"content_hash": "0'))
    read = []
    monkeypatch.setattr(folders, "validate", lambda clip, **_: read.append(clip.id))
    assert [entry.has_truth for entry in opened(path).entries] == [True, True]
    assert read == ([] if damage == "none" else [clip.id for clip in CLIPS[::2]])
    assert (place.read_bytes() == whole) == (damage != "of other clips")
    assert opened(path)[1].id == KNOWN.id
    assert len(read) == (0 if damage == "none" else 2)


def test_a_folder_that_cannot_be_written_is_opened_without_an_index(path, monkeypatch):
    Path(path, "index/train.tsv").unlink()
    monkeypatch.setattr(os, "replace", refuse_to_write)
    assert [clip.id for clip in opened(path)] == [CLIPS[0].id, KNOWN.id]


def refuse_to_write(*_: object) -> None:
    raise PermissionError("read only")


def test_lists_that_were_made_shorter_or_longer_are_followed(path):
    Path(path, "train.txt").write_text(f"{KNOWN.id}\n")
    assert [entry.id for entry in opened(path).entries] == [KNOWN.id]
    Path(path, "train.txt").write_text(f"{BARE.id}\n{KNOWN.id}\n")
    assert [entry.frames for entry in opened(path).entries] == [BARE.length, KNOWN.length]


def test_a_clip_that_was_changed_is_checked_again_and_refused_where_it_no_longer_fits(path):
    place = Path(path, "teacher_vecs/bent", f"{CLIPS[0].id}.npy")
    place.write_bytes(array_bytes(CLIPS[0].teacher + np.float32(0.01)))
    assert opened(path)[0].teacher[0, 3] == CLIPS[0].teacher[0, 3] + np.float32(0.01)
    place.write_bytes(array_bytes(CLIPS[0].teacher * np.float32(np.nan)))
    with pytest.raises(DatasetError, match=rf"{CLIPS[0].id}: expected numbers in teacher, found"):
        opened(path)[0]
    Path(path, "texts", f"{CLIPS[0].id}.txt").write_text("other words#other/X words/X#0.0#0.0\n")
    place.write_bytes(array_bytes(CLIPS[0].teacher))
    with pytest.raises(DatasetError, match=r"captions and truth as in .*index, found others. Remove that folder"):
        opened(path)[0]


def test_a_clip_that_is_changed_while_it_is_trained_on_is_refused(path):
    clips = read_folder(path, "train", fixed=True)[1]
    place = Path(path, "teacher_vecs/bent", f"{CLIPS[0].id}.npy")
    place.write_bytes(array_bytes(CLIPS[0].teacher + np.float32(0.01)))
    with pytest.raises(DatasetError, match=rf"{CLIPS[0].id}: expected the files of this clip as they were when"):
        clips[0]


def test_all_clips_of_a_small_split_are_checked_when_it_is_opened(path, monkeypatch):
    Path(path, "cameras", f"{KNOWN.id}.npz").write_bytes(b"broken")
    clips = opened(path)
    with pytest.raises(DatasetError, match=rf"{KNOWN.id}\.npz: expected arrays"):
        clips[1]
    monkeypatch.setattr(folders, "LOOKED_AT", 2)
    with pytest.raises(DatasetError, match=rf"{KNOWN.id}\.npz: expected arrays"):
        opened(path)
