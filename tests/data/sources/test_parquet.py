"""The importer of other people's Parquet files, on files in the layouts that are published."""

import numpy as np
import pytest
import torch
from bodies import body_arrays, write_body
from clips import motion

from videomdm_ext.cli.main import main
from videomdm_ext.data.folder import read_card, read_clip, read_folder, read_ids
from videomdm_ext.data.importing import run_import
from videomdm_ext.data.motions import frames_at, resample
from videomdm_ext.data.sources.base import ImportOptions
from videomdm_ext.data.sources.humanml3d import JointsImporter
from videomdm_ext.data.sources.parquet import ParquetImporter
from videomdm_ext.errors import ConfigError, DatasetError
from videomdm_ext.motion.features import decode, encode
from videomdm_ext.motion.kinematics import HUMANML3D_FILES, canonicalise, heading
from videomdm_ext.motion.skeletons import SMPL22

arrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
pytestmark = pytest.mark.extras
CARD = """---
license: cc-by-nc-4.0
pretty_name: Some Motion
---
| Property | Value |
|---|---|
| Frame rate | {fps} fps |
"""


def features(name="walk"):
    """-> raw features [T, 263] as HumanML3D's files hold them."""
    moved = canonicalise(motion(name), SMPL22, HUMANML3D_FILES)[0]
    return encode(moved, SMPL22, heading(moved, SMPL22, HUMANML3D_FILES))[:-1]


def row(number, name="walk", fps=20, split="train", **changes):
    """-> a row in the layout of RoMo-HML-263, with what its sister sets show of names, kinds and labels."""
    found = {"sample_id": f"4397{number:04d}", "split": split, "fps": fps, "representation": "humanml3d_263"}
    found |= {"motion": features(name).tolist(), "taxonomy_category": "Locomotion", "taxonomy_atomic_action": ""}
    return found | {"caption_l0": "walking", "caption_l1": "a person walks #1\nslowly.", "caption_l2": None} | changes


def write(place, rows, name="train-00000-of-00001", fps=None, **named):
    place.mkdir(exist_ok=True, parents=True)
    columns = [key for key in rows[0] if key != "motion"]
    table = arrow.table({key: [one[key] for one in rows] for key in columns})
    if "motion" in rows[0]:
        cells = arrow.array([one["motion"] for one in rows], arrow.list_(arrow.list_(arrow.float32())))
        table = table.append_column("motion", cells)
    parquet.write_table(table, place / f"{name}.parquet", compression="zstd", row_group_size=2)
    if fps:
        (place / "README.md").write_text(CARD.format(fps=fps))
    return str(place)


def imported(source, out, **extra):
    options = ImportOptions(extra=extra, split=(0.8, 0.0, 0.2))
    return run_import(ParquetImporter(source, options), str(out))


def test_features_at_20_fps_are_kept_bit_for_bit_with_captions_splits_and_the_cards_licence(tmp_path):
    source = write(tmp_path / "in", [row(1), row(2, "jump"), row(3, "kick", split="test")], fps=20)
    out = str(tmp_path / "out")
    assert main(["data", "import", "parquet", source, "--out", out]) == 0
    card = read_card(out)
    assert (card.licence, card.counts) == ("cc-by-nc-4.0", {"train": 2, "test": 1})
    assert card.sources == ("Some Motion, projected to orbit cameras",)
    for clip_id, name in (("43970001", "walk"), ("43970002", "jump"), ("43970003", "kick")):
        clip = read_clip(out, card, clip_id)
        np.testing.assert_array_equal(clip.truth, features(name).numpy())
        assert clip.texts == ("walking", "a person walks 1 slowly.")


def test_a_card_that_names_another_rate_than_the_rows_is_refused_until_an_option_decides(tmp_path):
    source = write(tmp_path / "in", [row(1, fps=20)], fps=30)
    said = r"README\.md: expected the frame rate of the rows, 20 fps in .*train-00000.*, found 30\. .*fps=rows"
    with pytest.raises(ConfigError, match=said):
        imported(source, tmp_path / "out")
    imported(source, tmp_path / "rows", fps="rows")
    np.testing.assert_array_equal(read_folder(str(tmp_path / "rows"), "train")[1][0].truth, features().numpy())
    imported(source, tmp_path / "thirty", fps="30")
    (clip,) = read_folder(str(tmp_path / "thirty"), "train")[1]
    assert clip.length == len(frames_at(len(features()) + 1, 30, 20)) - 1


def test_rows_of_other_rates_are_resampled_each_from_its_own(tmp_path):
    source = write(tmp_path / "in", [row(1, fps=30), row(2, fps=20), row(3, fps=None)])
    done = imported(source, tmp_path / "out")
    assert set(done.left_out) == {"43970003"}
    assert "expected frames per second" in done.left_out["43970003"]
    clip, whole = (read_clip(str(tmp_path / "out"), done.card, f"4397000{number}") for number in (1, 2))
    assert clip.length == len(frames_at(whole.length + 1, 30, 20)) - 1
    expected = resample(decode(torch.from_numpy(whole.truth), SMPL22), frames_at(whole.length, 30, 20))
    found = decode(torch.from_numpy(clip.truth), SMPL22)
    height = [part[: len(found), :, 1] for part in (expected, found)]
    torch.testing.assert_close(*height, atol=1e-4, rtol=0)


@pytest.mark.parametrize("flat", [False, True])
def test_joints_are_read_with_their_own_names_and_texts(tmp_path, flat):
    joints = motion("jump")
    cell = (joints.flatten(1) if flat else joints).tolist()
    rows = [{"name": f"a/b {n}", "text": ["someone jumps", "jump"], "joints": cell, "fps": 20.0} for n in range(2)]
    imported(write(tmp_path / "in", rows), tmp_path / "out", licence="mine")
    card = read_card(str(tmp_path / "out"))
    assert card.licence == "mine"
    clip = read_clip(str(tmp_path / "out"), card, "a_b_0")
    assert clip.texts == ("someone jumps", "jump")
    found, expected = decode(torch.from_numpy(clip.truth), SMPL22), canonicalise(joints, SMPL22, HUMANML3D_FILES)[0]
    torch.testing.assert_close(found, expected[:-1], atol=1e-3, rtol=0)


@pytest.mark.parametrize("prefix", ["", "smpl_"])
def test_smpl_parameters_are_posed_where_the_body_model_is_and_refused_where_it_is_not(tmp_path, prefix):
    """RoMo-SMPL's names have a prefix, and its shape parameters are one row a frame."""
    frames = 60
    shape = [1.5] + [0.0] * 9
    shapes = [[one + drift for one in shape] for drift in np.linspace(-0.1, 0.1, frames)] if prefix else shape
    turn = 0.2 * np.sin(np.arange(frames)[:, None] / 9 + np.arange(63))
    moved = np.stack((np.arange(frames) / 30, np.full(frames, 1.0), np.zeros(frames)), -1)
    rows = [
        {"sample_id": f"s{n}", "fps": 30, "caption_l0": "moving", f"{prefix}body_pose": turn.tolist(),
         f"{prefix}betas": shapes, f"{prefix}global_orient": np.zeros((frames, 3)).tolist(),
         f"{prefix}transl": moved.tolist()}
        for n in range(2)
    ]  # fmt: skip
    source = write(tmp_path / "in", rows)
    model = body_arrays()
    grown = np.zeros((*model["v_template"].shape, 10))
    grown[..., 0] = 0.1 * model["v_template"]
    imported(source, tmp_path / "out", smpl=write_body(tmp_path / "bodies", shapedirs=grown), model="smpl")
    clip = read_clip(str(tmp_path / "out"), read_card(str(tmp_path / "out")), "s0")
    assert clip.length == len(frames_at(frames, 30, 20)) - 1
    joints = decode(torch.from_numpy(clip.truth), SMPL22)
    thigh = np.linalg.norm(np.subtract(*(model["J_regressor"] @ model["v_template"])[[1, 4]]))
    assert float((joints[:, 1] - joints[:, 4]).norm(dim=-1).mean()) == pytest.approx(1.15 * thigh, rel=1e-4)
    root = joints[:, 0]
    way = (root[-1] - root[0])[[0, 2]].norm()
    assert float(way) == pytest.approx((clip.length - 1) / 20, abs=0.01)
    with pytest.raises(DatasetError, match="expected the body model smplx of gender neutral, found none"):
        imported(source, tmp_path / "none", smpl=str(tmp_path / "bodies"))


def test_names_with_smpl_before_them_take_the_place_of_no_others(tmp_path):
    jump = {"caption": "someone jumps", "joints": motion("jump").flatten(1).tolist(), "fps": 20.0}
    other = {"smpl_joints": [], "smpl_caption": "seen by another", "smpl_transl": []}
    rows = [{"sample_id": f"s{n}"} | jump for n in range(2)]
    for name, added in (("plain", {}), ("beside", other)):
        imported(write(tmp_path / f"{name}-in", [one | added for one in rows]), tmp_path / name)
    plain, beside = (read_clip(str(tmp_path / n), read_card(str(tmp_path / n)), "s0") for n in ("plain", "beside"))
    assert np.array_equal(plain.truth, beside.truth)
    assert plain.texts == beside.texts == ("someone jumps",)


def test_a_part_is_taken_with_where_and_limit(tmp_path):
    rows = [row(n, fps=30 if n % 2 else 20, split="train" if n < 7 else "validation") for n in range(9)]
    source = write(tmp_path / "in", rows)
    words = ["data", "import", "parquet", source, "--out", str(tmp_path / "out"), "--limit", "3"]
    assert main([*words, "--where", "fps>=30", "--where", "split=train"]) == 0
    assert read_ids(str(tmp_path / "out"), "train") == ["43970001", "43970003", "43970005"]
    imported(source, tmp_path / "val", where="sample_id!=43970000,fps<30")
    assert read_card(str(tmp_path / "val")).counts == {"train": 3, "val": 1}
    for text, said in (
        ("speed=2", "--where speed: expected a column"),
        ("fps", "expected COLUMN=VALUE"),
        ("fps=a", "number"),
    ):
        with pytest.raises(ConfigError, match=said):
            imported(source, tmp_path / "x", where=text)


def test_what_cannot_be_used_is_left_out_with_the_reason_and_a_broken_file_is_named(tmp_path):
    bad = features()
    bad[3, 5] = float("nan")
    uneven = [*features().tolist()[:-1], [0.0]]
    rows = [row(0), row(1, motion=bad.tolist()), row(2, motion=uneven), row(3, motion=features()[:, :251].tolist())]
    rows += [row(4, caption_l0="", caption_l1=None), row(5, motion=None), row(6)]
    source = write(tmp_path / "in", rows)
    whole = (tmp_path / "in/train-00000-of-00001.parquet").read_bytes()
    (tmp_path / "in/train-00001.parquet").write_bytes(whole[: len(whole) // 2])
    done = imported(source, tmp_path / "out")
    reasons = {name.removeprefix("4397000"): said for name, said in done.left_out.items()}
    expected = {
        "1": "NaN or infinite ones in motion", "2": "unequal lengths", "3": r"found \[\d+, 251\]",
        "4": "expected a caption",
        "5": "expected a column motion, joints, body_pose", "train-00001": "expected a Parquet file that can be read",
    }  # fmt: skip
    assert set(reasons) == set(expected)
    for name, said in expected.items():
        with pytest.raises(AssertionError, match=said):
            raise AssertionError(reasons[name])
    assert done.card.counts["train"] == 2


def test_other_kinds_do_not_take_a_part(tmp_path):
    with pytest.raises(ConfigError, match="limit: expected one that data import joints knows"):
        JointsImporter(str(tmp_path), ImportOptions(extra={"limit": "3"}))
