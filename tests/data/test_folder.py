"""The folder format: what is written comes back, and what cannot be read is refused before any work."""

import dataclasses
import functools
import itertools
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from clips import make_clip, verify_folder

from videomdm_ext.data import building, files
from videomdm_ext.data.building import write_folder
from videomdm_ext.data.checks.checking import check_folder
from videomdm_ext.data.files import arrays_bytes
from videomdm_ext.data.folder import Card, read_card, read_folder, read_statistics
from videomdm_ext.data.texts import parse_texts, untagged
from videomdm_ext.errors import DatasetError, StorageError
from videomdm_ext.motion.features import mean_and_std
from videomdm_ext.motion.kinematics import HUMANML3D
from videomdm_ext.motion.skeletons import SMPL22

CARD = Card(
    name="two dances", skeleton="smpl22", fps=20.0, lifter="bent", licence="zlib", sources=("a source",),
    heading=HUMANML3D, lifter_error={"pa_mpjpe": 0.09}, recipe={"seed": 3},
)  # fmt: skip
STILL = make_clip()
MOVING = make_clip(name="walk", moving=True)
UNKNOWN = make_clip(name="jump", truth=None, truth_extrinsics=None)
ARRAYS = ("teacher", "keypoints", "confidence", "extrinsics", "truth", "truth_extrinsics")


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """-> a folder with two training clips and a test clip that has no truth."""
    path = str(tmp_path / "set")
    write_folder(path, {"test": [UNKNOWN], "train": [STILL, MOVING]}, CARD)
    return path


def test_what_is_written_comes_back_bit_for_bit_and_a_clip_without_truth_without_one(folder: str):
    card, clips = read_folder(folder, "train")
    assert [clip.id for clip in clips] == [STILL.id, MOVING.id]
    for clip, original in zip(clips, (STILL, MOVING), strict=True):
        for name in ARRAYS:
            np.testing.assert_array_equal(getattr(clip, name), getattr(original, name))
        assert clip.texts == original.texts
        assert clip.source == f"{folder}/{clip.id}"
    assert card.heading == HUMANML3D
    assert card.counts == {"train": 2, "test": 1}
    made = {name: getattr(card, name) for name in ("counts", "content_hash", "files", "values")}
    assert card == dataclasses.replace(CARD, **made)
    assert "detector_error" not in card.to_json()  # cards without it are those of earlier versions, byte for byte
    (clip,) = read_folder(folder, "test")[1]
    assert clip.truth is None
    assert clip.truth_extrinsics is None
    assert not os.path.exists(f"{folder}/new_joint_vecs/{clip.id}.npy")


def test_statistics_are_of_the_training_split_once_of_a_known_truth_and_once_of_the_teacher(
    folder: str, tmp_path: Path
):
    for lifter, part in ((None, "truth"), ("bent", "teacher")):
        expected = mean_and_std([torch.tensor(getattr(clip, part)) for clip in (STILL, MOVING)], SMPL22)
        for found, values in zip(read_statistics(folder, lifter), expected, strict=True):
            np.testing.assert_allclose(found, values.numpy(), atol=1e-6)
    write_folder(str(tmp_path), {"train": [UNKNOWN]}, CARD)
    np.testing.assert_array_equal(read_statistics(str(tmp_path))[0], read_statistics(str(tmp_path), "bent")[0])


def test_equal_clips_have_an_equal_hash_and_one_changed_number_another(tmp_path: Path, folder: str):
    again = write_folder(str(tmp_path / "again"), {"train": [STILL, MOVING], "test": [UNKNOWN]}, CARD)
    assert again.content_hash == verify_folder(folder).content_hash
    keypoints = STILL.keypoints.copy()
    keypoints[0, 0, 0] += 1e-6
    other = dataclasses.replace(STILL, keypoints=keypoints)
    changed = write_folder(str(tmp_path / "other"), {"train": [other, MOVING], "test": [UNKNOWN]}, CARD)
    assert changed.content_hash != again.content_hash


def test_a_new_import_leaves_no_card_and_one_over_a_good_set_leaves_that_whole_until_it_is_done(folder, tmp_path):
    """Cut off at every rename, and started again."""
    changed = dataclasses.replace(STILL, texts=("a person stands.",), teacher=STILL.teacher + np.float32(0.01))
    wanted = write_folder(str(tmp_path / "straight"), {"train": [changed, UNKNOWN]}, CARD).content_hash
    old = read_card(folder)
    for place, before in ((str(tmp_path / "new"), None), (folder, old)):
        for cut in itertools.count():
            shutil.rmtree(tmp_path / "cut", ignore_errors=True)
            if before:
                shutil.copytree(place, tmp_path / "cut")
            renamed = itertools.count()
            own = {name: getattr(os, name) for name in ("replace", "rename")}

            def power_cut(name, source, target, renamed=renamed, own=own, cut=cut):
                if next(renamed) == cut:
                    raise KeyboardInterrupt
                own[name](source, target)

            with pytest.MonkeyPatch.context() as patch:
                for name in own:
                    patch.setattr(os, name, functools.partial(power_cut, name))
                patch.setattr(building, "validate", lambda *_, **__: None)  # most of the time, and not in question
                try:
                    done = write_folder(str(tmp_path / "cut"), {"train": [changed, UNKNOWN]}, CARD)
                except KeyboardInterrupt:
                    done = None
            if done is not None:
                assert cut > 12, "it was cut off everywhere"
                break
            if (tmp_path / "cut" / "dataset.json").is_file():  # then what it says is there is there
                assert read_card(str(tmp_path / "cut")) == before
                assert [clip.id for clip in read_folder(str(tmp_path / "cut"), "train")[1]] == [STILL.id, MOVING.id]
                assert verify_folder(str(tmp_path / "cut"))
            else:  # an old set has none only while a new one, whole, is put in its place
                assert before is None or (tmp_path / "cut" / "building" / "moving").exists()
                with pytest.raises(DatasetError, match=r"dataset\.json: expected the card of a complete data set"):
                    read_folder(str(tmp_path / "cut"), "train")
            again = write_folder(str(tmp_path / "cut"), {"train": [changed, UNKNOWN]}, CARD)
            assert again.content_hash == wanted
            assert read_folder(str(tmp_path / "cut"), "train")[1][1].truth is None
            assert not (tmp_path / "cut" / "building").exists()


def test_another_data_set_is_never_written_over(folder: str):
    with pytest.raises(DatasetError, match="found 'two dances'"):
        write_folder(folder, {"train": [STILL]}, dataclasses.replace(CARD, name="mine"))
    assert len(read_folder(folder, "train")[1]) == 2


def test_an_id_or_a_lifter_that_leaves_the_folder_is_refused(folder: str, tmp_path: Path):
    for clip_id in (
        "../x",
        "/etc/x",
        "a/b",
        "a\\b",
        "",
        ".",
        "..",
        ".hidden",
        "a\0b",
        "a\n",
        "a\nb",
        "a b",
        "é",
        "-rf",
    ):
        with pytest.raises(DatasetError, match="expected an id of letters"):
            write_folder(str(tmp_path / "new"), {"train": [dataclasses.replace(STILL, id=clip_id)]}, CARD)
    assert not (tmp_path / "new").exists()
    Path(folder, "train.txt").write_text(f"{STILL.id}\n../../secret\n")
    with pytest.raises(DatasetError, match=r"train\.txt: expected an id.*\.\./\.\./secret"):
        read_folder(folder, "train")
    with pytest.raises(DatasetError, match="expected an id"):
        write_folder(str(tmp_path / "x"), {"train": [STILL]}, dataclasses.replace(CARD, lifter="../up"))
    with pytest.raises(DatasetError, match="expected an id"):
        read_statistics(folder, "../..")


def test_an_id_that_appears_twice_is_refused(folder: str, tmp_path: Path):
    with pytest.raises(DatasetError, match="appears twice"):
        write_folder(str(tmp_path / "x"), {"train": [STILL], "test": [STILL]}, CARD)
    Path(folder, "train.txt").write_text(f"{STILL.id}\n{STILL.id}\n")
    with pytest.raises(DatasetError, match="each once, found 1 twice"):
        read_folder(folder, "train")


def test_what_cannot_be_written_stops_the_writing_before_anything_is_made(tmp_path: Path):
    (tmp_path / "file").write_text("not a folder")
    splits = [{}, {"train": []}, {"test": [STILL]}, {"train": [STILL], "tets": [MOVING]}]
    cases = [("set", members, CARD, "expected splits among train, val, test") for members in splits]
    cases += [("file/set", {"train": [STILL]}, CARD, "expected a folder that can be written")]
    bad = {"train": [STILL, dataclasses.replace(MOVING, fps=30.0)]}
    cases += [("set", bad, CARD, "expected 20 fps, found 30")]
    for place, members, card, message in cases:
        with pytest.raises(StorageError if "file" in place else DatasetError, match=message):
            write_folder(str(tmp_path / place), members, card)
        assert not (tmp_path / "set").exists()
    with pytest.raises(DatasetError, match="expected nba16 as on the card, found smpl22"):
        write_folder(str(tmp_path / "set"), {"train": [STILL]}, dataclasses.replace(CARD, skeleton="nba16"))


def test_an_empty_split_and_a_missing_folder_are_refused(folder: str, tmp_path: Path):
    with pytest.raises(DatasetError, match=r"val\.txt: expected ids, each once, found none"):
        read_folder(folder, "val")
    with pytest.raises(DatasetError, match="expected the card of a complete data set, found none"):
        read_folder(str(tmp_path / "nowhere"), "train")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "expected format 1, found 2"),
        ({"skeleton": "smpl24"}, "smpl24"),
        ({"units": "mm"}, "units 'm'"),
        ({"colour": "red"}, "expected no other entries, found colour"),
        ({"heading": {"sigma": 1, "angle": 2}}, "json: heading: expected no other entries"),
        ({"fps": "fast"}, "json: fps: expected a number, found 'fast'"),
        ({"fps": 1e-320}, "json: fps: expected 1 or more, found 1e-320"),
        ({"lifter": "../x"}, "expected an id"),
        *[(content, r"dataset\.json: expected") for content in ("", "[]", "{", '{"format": 1}')],
    ],
)
def test_a_card_that_does_not_fit_or_is_none_is_refused(tmp_path: Path, changes: dict | str, message: str):
    path, card = tmp_path / "dataset.json", json.loads(CARD.to_json())
    path.write_text(changes if isinstance(changes, str) else json.dumps({**card, **changes}))
    with pytest.raises(DatasetError, match=message) as caught:
        read_card(str(tmp_path))
    assert "dataset.json" in str(caught.value)


def test_texts_are_lines_in_the_format_of_humanml3d_with_a_taggers_tags(folder: str, tmp_path: Path):
    lines = Path(folder, "texts", f"{STILL.id}.txt").read_text().splitlines()
    assert lines[0] == "a person dances.#a/OTHER person/OTHER dances/OTHER#0.0#0.0"
    assert lines[1] == "someone's dancing#someone's/OTHER dancing/OTHER#0.0#0.0"
    write_folder(str(tmp_path), {"train": [STILL]}, CARD, tagger=lambda text: [(text.split()[-1], "VERB")])
    assert Path(tmp_path, "texts", f"{STILL.id}.txt").read_text().startswith("a person dances.#dances./VERB#0.0#0.0\n")
    assert untagged("Turns left, twice") == [("turns", "OTHER"), ("left", "OTHER"), ("twice", "OTHER")]


def test_texts_of_a_part_of_a_clip_and_other_lines_are_refused():
    assert parse_texts("a b#a/OTHER#0.0#0.0\n\nc#c/OTHER#nan#nan\n", "x.txt") == ("a b", "c")
    for line in ("a b#a/DET#1.0#3.0", "a b", "a#b#0.0", "a#b#0.0#end"):
        with pytest.raises(DatasetError, match=r"x\.txt: line 2"):
            parse_texts(f"fine#fine/ADJ#0.0#0.0\n{line}\n", "x.txt")


def test_writing_beside_leaves_nothing_beside(folder: str):
    assert not [path for path in Path(folder).rglob("*") if path.name.endswith(".part") or path.name == ".writable"]
    with pytest.raises(StorageError, match="cannot be written"):
        files.write_bytes(f"{folder}/dataset.json/below", b"")


MATRIX = np.array([[900.0, 0.0, 640.0], [0.0, 950.0, 360.0], [0.0, 0.0, 1.0]], dtype=np.float32)
LENS = np.array([0.05, -0.02, 0.001, -0.002, 0.0], dtype=np.float32)


def in_pixels(points: np.ndarray, lens: np.ndarray | None) -> np.ndarray:
    """The pinhole and Brown-Conrady formulas, written out."""
    x, y = points[..., 0].astype(np.float64), points[..., 1].astype(np.float64)
    if lens is not None:
        k1, k2, p1, p2, k3 = lens.astype(np.float64)
        r = x * x + y * y
        bent = 1 + k1 * r + k2 * r**2 + k3 * r**3
        x, y = x * bent + 2 * p1 * x * y + p2 * (r + 2 * x * x), y * bent + p1 * (r + 2 * y * y) + 2 * p2 * x * y
    return np.stack((900 * x + 640, 950 * y + 360), -1).astype(np.float32)


@pytest.mark.parametrize("lens", [None, LENS], ids=["pinhole", "lens"])
def test_pixels_and_points_give_the_same_clip(tmp_path, lens):
    clip = make_clip(intrinsics=MATRIX)
    write_folder(str(tmp_path), {"train": [clip, make_clip(name="walk")]}, CARD)
    before = read_folder(str(tmp_path), "train")[1][0]
    seen = arrays_bytes({"pixels": in_pixels(clip.keypoints, lens), "confidence": clip.confidence})
    camera = {"extrinsics": clip.extrinsics, "truth_extrinsics": clip.truth_extrinsics, "intrinsics": MATRIX}
    (tmp_path / f"keypoints_2d/{clip.id}.npz").write_bytes(seen)
    (tmp_path / f"cameras/{clip.id}.npz").write_bytes(
        arrays_bytes(camera | ({} if lens is None else {"distortion": lens}))
    )
    after = read_folder(str(tmp_path), "train")[1][0]
    np.testing.assert_allclose(after.keypoints, before.keypoints, atol=2e-5)
    kinds = {finding.kind for finding in check_folder(str(tmp_path), use_cache=False).findings}
    assert kinds <= {"card-hash"}


def test_pixels_without_intrinsics_and_files_with_neither_are_refused(tmp_path):
    clip = make_clip()
    write_folder(str(tmp_path), {"train": [clip]}, CARD)
    place = tmp_path / f"keypoints_2d/{clip.id}.npz"
    place.write_bytes(arrays_bytes({"pixels": in_pixels(clip.keypoints, None), "confidence": clip.confidence}))
    with pytest.raises(DatasetError, match=rf"{clip.id}\.npz: pixels, expected intrinsics \[3, 3\]"):
        read_folder(str(tmp_path), "train")
    assert "corrupt-file" in {finding.kind for finding in check_folder(str(tmp_path), use_cache=False).findings}
    place.write_bytes(arrays_bytes({"confidence": clip.confidence}))
    with pytest.raises(DatasetError, match="expected points or pixels, found confidence"):
        read_folder(str(tmp_path), "train")
