"""Sets that are packed into Parquet shards: the same clips, bit for bit, and broken shards named."""

import builtins
import dataclasses
import json
import shutil
from pathlib import Path

import clips
import numpy as np
import pytest
import torch
from clips import content_of, make_clip, verify_folder

from videomdm_ext.cli.main import main
from videomdm_ext.config import Source, Supervision
from videomdm_ext.data import folder as folders
from videomdm_ext.data import shards
from videomdm_ext.data.building import repack, write_folder
from videomdm_ext.data.checks.checking import check_folder, drop
from videomdm_ext.data.folder import CARD, read_card, read_clip, read_folder
from videomdm_ext.data.refined import make_refined
from videomdm_ext.errors import ConfigError, DatasetError
from videomdm_ext.mdm.data import check_unpacked, open_dataset

pytest.importorskip("pyarrow")
pytestmark = pytest.mark.extras
BARE = make_clip(name="jump", truth=None, truth_extrinsics=None)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(shards, "SIZE", 2)


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> str:
    """-> a set of five training clips, one of which has no truth, and a test clip; its teachers are refined."""
    path = str(tmp_path_factory.mktemp("plain") / "set")
    moving = make_clip(name="walk", moving=True)
    train = [make_clip(name=name) for name in ("dance_a", "kick", "spin")]
    write_folder(path, {"train": [*train, moving, BARE], "test": [make_clip(name="punch")]}, clips.CARD)
    make_refined(path, read_card(path))
    return path


@pytest.fixture
def packed(plain, tmp_path) -> str:
    repack(plain, str(tmp_path / "packed"), packed=True)
    return str(tmp_path / "packed")


def test_a_packed_and_unpacked_set_is_byte_for_byte_what_it_was(plain, packed, tmp_path, capsys):
    assert sorted(p.name for p in Path(packed, "shards").iterdir()) == [
        "test-00000.parquet", "train-00000.parquet", "train-00001.parquet", "train-00002.parquet",
    ]  # fmt: skip
    assert not Path(packed, "texts").exists()
    verify_folder(packed)
    assert not main(["data", "unpack", packed, "--out", str(tmp_path / "again")])
    assert read_card(plain).content_hash[:12] in capsys.readouterr().out
    assert content_of(str(tmp_path / "again")) == content_of(plain)
    assert not check_folder(packed).errors


def test_clips_and_batches_of_a_packed_set_are_those_of_its_files(plain, packed, monkeypatch):
    Path(packed, "index/test.tsv").unlink()
    monkeypatch.setattr(folders, "LOOKED_AT", 0)
    for split in ("train", "test"):
        for clip, other in zip(read_folder(packed, split)[1], read_folder(plain, split)[1], strict=True):
            for item in dataclasses.fields(clip):
                if item.name != "source":
                    np.testing.assert_array_equal(getattr(clip, item.name), getattr(other, item.name))
            np.testing.assert_array_equal(read_clip(packed, read_card(packed), clip.id).teacher, clip.teacher)
    for teacher in ("lifted", "refined"):
        batches = []
        for path in (plain, packed):
            dataset = open_dataset(
                Source(clips=path, crop_frames=20), Supervision(supervision="2d", teacher=teacher), "train", 3
            )
            dataset.set_epoch(1)
            batches.append(dataset.collate([dataset[number] for number in (4, 0, 3, 1)]))
        (motion, first), (other, second) = batches
        assert torch.equal(motion, other)
        for name, values in first["y"].items():
            assert torch.equal(values, second["y"][name]) if torch.is_tensor(values) else values == second["y"][name]


def test_a_broken_shard_is_named_and_the_rest_is_read(packed):
    place = Path(packed, "shards/train-00001.parquet")
    sound = place.read_bytes()
    middle = sound.index(b"PAR1") + 3000
    for damage, lost in ((sound[:-5], 2), (sound[:middle] + bytes(50) + sound[middle + 50 :], 1)):
        place.write_bytes(damage)
        for _ in range(2):  # with the index, and without
            checked = check_folder(packed, use_cache=False)
            assert len(checked.bad_clips) == lost
            assert any(str(place) in f.message and f.kind == "corrupt-file" for f in checked.errors)
            assert checked.counts["teacher"] == {"found": 6 - lost, "missing": 0, "empty": 0, "corrupt": lost}
            with pytest.raises(DatasetError, match=r"train-00001\.parquet: expected a Parquet file that can be read"):
                read_folder(packed, "train")
            shutil.rmtree(Path(packed, "index"))
            Path(packed, "index").mkdir()
        assert read_folder(packed, "test")[1][0].id == "punch_0"


def test_a_drop_changes_nothing_beside_a_broken_shard_and_goes_on_without_it(packed):
    place = Path(packed, "shards/test-00000.parquet")
    place.write_bytes(place.read_bytes()[:-5])
    before = content_of(packed)
    with pytest.raises(DatasetError, match=r"expected lists and shards that can be read.*test-00000\.parquet"):
        drop(check_folder(packed, use_cache=False))
    assert content_of(packed) == before
    place.unlink()
    assert list(drop(check_folder(packed))) == ["punch_0"]
    assert not check_folder(packed).errors


def test_a_clip_of_no_shard_and_one_of_no_list_are_reported(packed):
    Path(packed, "test.txt").write_text("lost\n")
    found = {(item.kind, item.clip_id) for item in check_folder(packed).findings}
    assert {("corrupt-file", "lost"), ("not-listed", "punch_0")} <= found
    with pytest.raises(DatasetError, match="expected the clip lost in a shard, found it in none"):
        read_folder(packed, "test")


def test_an_interrupted_packing_goes_on_with_the_shards_that_are_whole(plain, tmp_path):
    out = tmp_path / "out"

    def stop(done: int, total: int) -> None:
        assert total == 6
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        repack(plain, str(out), packed=True, progress=stop)
    whole, torn = out / "shards/train-00000.parquet", out / "shards/train-00001.parquet"
    torn.write_bytes(torn.read_bytes()[:-9])
    made = whole.stat().st_mtime_ns
    assert not (out / CARD).exists()
    repack(plain, str(out), packed=True)
    assert whole.stat().st_mtime_ns == made
    verify_folder(str(out))


def test_sets_that_cannot_be_packed_are_refused_by_name(plain, packed, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"data pack .*packed: expected another kind of set, found a packed one"):
        repack(packed, str(tmp_path / "x"), packed=True)
    with pytest.raises(ConfigError, match=r"data unpack .*set: expected another kind of set, found one of files"):
        repack(plain, str(tmp_path / "x"), packed=False)
    with pytest.raises(DatasetError, match="expected a folder without a data set"):
        repack(plain, packed, packed=True)
    with pytest.raises(ConfigError, match=r"for MDM's evaluation, found a packed one\. Unpack it"):
        check_unpacked(packed)
    changed = Path(shutil.copytree(plain, tmp_path / "changed"))
    (changed / "texts/kick_0.txt").write_text("other#other/X#0.0#0.0\n")
    with pytest.raises(DatasetError, match=r"of its card, found .*data check .*changed names what is wrong"):
        repack(str(changed), str(tmp_path / "y"), packed=True)
    assert not (tmp_path / "y" / CARD).exists()


def test_without_pyarrow_the_extra_is_named(packed, monkeypatch):
    own = builtins.__import__

    def refuse(name: str, *rest: object, **named: object) -> object:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return own(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(DatasetError, match=r"expected the package pyarrow .*pip install -e \"\.\[scale\]\""):
        read_folder(packed, "train")


def test_a_shard_that_declares_more_than_may_be_read_is_refused_unread(packed, monkeypatch):
    monkeypatch.setattr("videomdm_ext.data.files.BYTES_LIMIT", 1000)
    with pytest.raises(DatasetError, match="declares more than 1000 bytes"):
        shards.read(packed, "train-00000:1", "kick_0")
    monkeypatch.undo()
    with pytest.raises(DatasetError, match="row 1 is not the clip spin_0"):
        shards.read(packed, "train-00000:1", "spin_0")


def test_cards_of_sets_of_files_are_as_they_were(plain, packed):
    assert "packed" not in json.loads(Path(plain, CARD).read_text())
    assert json.loads(Path(packed, CARD).read_text())["packed"] is True
    assert read_card(packed) == dataclasses.replace(read_card(plain), packed=True)
