"""Whether the files of a set are those it was made with: any change is named, what is only touched is not."""

import dataclasses
import os
import re
import shutil
from pathlib import Path

import pytest
from clips import CARD, FILES, change, make_clip

from videomdm_ext.data import seal
from videomdm_ext.data.building import repack, write_folder
from videomdm_ext.data.folder import read_card
from videomdm_ext.data.importing import merge
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


def test_what_is_touched_and_not_changed_is_read_once_and_accepted(made, monkeypatch):
    for place in made.rglob("*"):
        os.utime(place, (1, 1))
    seal.verify(str(made))
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
