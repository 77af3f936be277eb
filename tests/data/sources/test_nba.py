"""The importer of MAS's basketball sequences: axes, left and right, scale, rate, split."""

import numpy as np
import pytest
import torch
from lifters import tools
from official import FRAMES, J, write_nba
from people import decoded

from videomdm_ext.data.folder import read_clip, read_ids
from videomdm_ext.data.importing import run_import
from videomdm_ext.data.sources.base import ImportOptions
from videomdm_ext.data.sources.nba import NBAImporter
from videomdm_ext.errors import ConfigError, DatasetError
from videomdm_ext.motion.skeletons import NBA16


def imported(tmp_path, **changes):
    source, lifted = write_nba(tmp_path / "source", **changes)
    importer = NBAImporter(source, ImportOptions(extra={"lifted": lifted, "lifted_name": "elepose"}))
    return run_import(importer, str(tmp_path / "set"))


@pytest.mark.parametrize("torso", [False, True])
@pytest.mark.parametrize("turned", [0.4, 2.8, -1.2])
def test_players_have_their_right_hand_on_the_right_and_fall_on_their_2d(tmp_path, turned, torso):
    done = imported(tmp_path, turned=turned, torso=torso, names=("b", "a"))
    clip = read_clip(str(tmp_path / "set"), done.card, "b")
    assert (clip.fps, clip.length, clip.skeleton.name) == (30, FRAMES // 2 - 1, "nba16")
    assert clip.truth is None
    positions = decoded(clip.teacher, NBA16)
    assert positions[0, J("l_hip"), 0] > 0.05 > positions[0, J("r_hip"), 0]  # faces +z
    assert positions[0, J("nose"), 2] > positions[0, J("neck"), 2]
    assert positions[5, J("r_wrist"), 1] > positions[5, J("l_wrist"), 1] + 0.2  # the hand that waves
    points = tools.seen(positions, clip.extrinsics)
    np.testing.assert_allclose(points, clip.keypoints, atol=0.04 * np.abs(clip.keypoints).max())
    source = np.load(tmp_path / "source" / "motions" / "b.npy")[::2][:-1]
    factor = clip.keypoints[0, J("neck"), 1] / -source[0, J("neck"), 1]
    np.testing.assert_allclose(clip.keypoints, source[..., :2] * (factor, -factor), atol=1e-6)
    np.testing.assert_allclose(clip.confidence[0], 0.8, atol=1e-6)


def test_a_player_is_as_tall_as_said_and_stands_on_the_floor(tmp_path):
    source, lifted = write_nba(tmp_path / "source", names=("a", "b"))
    for height in ("2.0", "1.5"):
        importer = NBAImporter(source, ImportOptions(extra={"lifted": lifted, "height": height}))
        body = importer.read(importer.members()[0]).lifted
        assert float(body[:, J("head"), 1].max()) == pytest.approx(float(height), rel=0.08)
        assert float(body[:, [J("l_ankle"), J("r_ankle")], 1].min()) == pytest.approx(0.1, abs=0.02)


def test_a_camera_that_looks_down_sees_the_same_image(tmp_path):
    source, lifted = write_nba(tmp_path / "source", names=("a", "b"))
    seen = {}
    for degrees in ("0", "12"):
        importer = NBAImporter(source, ImportOptions(extra={"lifted": lifted, "elevation": degrees}))
        found = importer.read(importer.members()[0])
        camera = found.lifted @ found.extrinsics[:, :3].T + found.extrinsics[:, 3]
        seen[degrees] = (camera, float(torch.asin(-found.extrinsics[2, 1])))
    torch.testing.assert_close(seen["12"][0], seen["0"][0], atol=1e-3, rtol=0)
    assert seen["12"][1] == pytest.approx(np.radians(12) + seen["0"][1], abs=1e-5)


def test_a_mirrored_lifter_is_refused_and_its_axes_can_be_named(tmp_path):
    source, lifted = write_nba(tmp_path / "source", names=("a", "b"), near=True)
    importer = NBAImporter(source, ImportOptions(extra={"lifted": lifted}))
    with pytest.raises(DatasetError, match="expected knees and a nose ahead"):
        importer.read(importer.members()[0])
    importer = NBAImporter(source, ImportOptions(extra={"lifted": lifted, "lifted_axes": "right-up-near"}))
    source, lifted = write_nba(tmp_path / "other")
    other = NBAImporter(source, ImportOptions(extra={"lifted": lifted}))
    torch.testing.assert_close(importer.read(importer.members()[0]).lifted, other.read(other.members()[1]).lifted)


def test_the_first_tenth_of_the_sorted_names_is_the_test_split(tmp_path):
    imported(tmp_path)
    assert read_ids(str(tmp_path / "set"), "test") == ["a"]
    assert read_ids(str(tmp_path / "set"), "train") == list("bcdefghij")


def test_what_does_not_fit_is_refused(tmp_path):
    source, lifted = write_nba(tmp_path / "source", names=("a", "b", "c", "d"))
    np.save(tmp_path / "source" / "motions" / "a.npy", np.zeros((90, 17, 3)))
    np.save(tmp_path / "source" / "lifted" / "b.npy", np.zeros((90, 15, 3)))
    wrong = np.random.default_rng(0).standard_normal((90, 16, 3))
    np.save(tmp_path / "source" / "lifted" / "c.npy", wrong)
    done = run_import(NBAImporter(source, ImportOptions(extra={"lifted": lifted})), str(tmp_path / "set"))
    assert done.card.counts == {"train": 1}
    assert done.card.lifter_error == {}
    assert "expected [T, 16, 3] or [T, 16, 2]" in done.left_out["a"]
    assert "expected joints [T, 16 or 17, 3]" in done.left_out["b"]
    assert "expected a lifted motion that falls on its 2D" in done.left_out["c"]
    with pytest.raises(ConfigError, match="expected --option lifted=DIR"):
        NBAImporter(source, ImportOptions())
    with pytest.raises(ConfigError, match="--option elevation: expected a number, 0 or more"):
        NBAImporter(source, ImportOptions(extra={"lifted": lifted, "elevation": "-3"}))
