"""Stick figures: where a camera sees a pose, what is in front, whose side it is, and that anything can be drawn."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from videomdm_ext.data.motions import load_motions
from videomdm_ext.errors import VideoMDMError
from videomdm_ext.motion.skeletons import SMPL22
from videomdm_ext.render import figures
from videomdm_ext.render.figures import Example

WALK = {motion.name: motion.positions for motion in load_motions()}["walk"]
WILD = Example("wild", {"2d": np.full((4, 22, 3), np.nan, dtype=np.float32)})


def test_a_figure_keeps_left_and_right_as_a_camera_in_front_sees_them() -> None:
    left, up, ahead = np.eye(3)
    seen = figures.seen(np.stack((left, up, ahead)), azimuth=0.0, elevation=0.0)
    np.testing.assert_allclose(seen, np.eye(3), atol=1e-12)
    from_the_right = figures.seen(ahead, azimuth=-np.pi / 2, elevation=0.0)
    np.testing.assert_allclose(from_the_right, (1, 0, 0), atol=1e-12)
    near, above = figures.seen(np.stack((ahead, up)), azimuth=0.0, elevation=0.3)  # looked down on
    assert near[1] < 0 < above[1]
    assert near[2] > 0


def test_a_missing_package_names_its_extra() -> None:
    with pytest.raises(VideoMDMError, match=r"\[demo\]"):
        figures.require("no_such_package.part")


def test_bones_are_drawn_from_far_to_near_in_the_colours_of_their_sides() -> None:
    pose = np.zeros((1, 22, 3))
    pose[0, :, 0] = np.arange(22)
    pose[0, SMPL22.index("l_wrist"), 2], pose[0, SMPL22.index("r_wrist"), 2] = 2.0, -2.0
    order = figures.far_to_near(pose[0, :, 2], SMPL22)
    assert (order[0], order[-1]) == (SMPL22.index("r_wrist"), SMPL22.index("l_wrist"))
    assert sorted(order) == list(range(1, 22))
    axes = Figure().add_subplot()
    figures.draw_poses(axes, pose, SMPL22)
    (lines,) = axes.collections
    assert [segment[1, 0] for segment in lines.get_segments()] == order
    assert [to_hex(lines.get_colors()[at]) for at in (0, -1)] == [figures.RIGHT, figures.LEFT]
    assert figures.side("head") == figures.MIDDLE


def test_a_bone_to_a_joint_that_is_not_known_is_left_out_and_the_rest_is_as_strong_as_asked() -> None:
    axes = Figure().add_subplot()
    pose = np.zeros((1, 22, 2))
    pose[0, SMPL22.index("r_wrist")] = np.nan
    strength = np.full(22, 0.5)
    strength[SMPL22.index("l_wrist")] = 0.0
    figures.draw_poses(axes, pose, SMPL22, opacity=strength, colour="#123456", halo=1.0)
    halo, lines = axes.collections
    assert len(lines.get_segments()) == len(halo.get_segments()) == 19
    assert set(lines.get_alpha()) == {0.5}
    assert {to_hex(colour) for colour in lines.get_colors()} == {"#123456"}
    assert halo.get_zorder() <= lines.get_zorder()
    figures.draw_poses(axes, np.full((1, 22, 2), np.nan), SMPL22)
    assert len(axes.collections) == 2


def test_motion_that_is_not_finite_is_made_drawable_and_the_rest_is_kept() -> None:
    made = Example("wild", {"2d": np.array([[[np.nan, np.inf, 1.5]]], dtype=np.float32)}).finite.motions["2d"]
    np.testing.assert_array_equal(made, [[[0.0, 100.0, 1.5]]])


def test_a_row_is_as_high_as_the_highest_joint_within_reason() -> None:
    heights = [figures.highest([Example("", {"2d": np.full((2, 22, 3), y)})]) for y in (0.3, 2.0, 50.0)]
    assert heights == [1.8, 2.1, 2.8]


def test_a_strip_of_any_motion_is_drawn(tmp_path: Path) -> None:
    path = tmp_path / "strips.png"
    figures.save(figures.strips([WILD, Example("walk", {"2d": WALK[:3]})], SMPL22, 20.0), str(path))
    assert path.read_bytes()[1:4] == b"PNG"


def test_a_panel_stands_for_each_motion_and_a_frame_for_each_of_the_longest(tmp_path: Path) -> None:
    path = tmp_path / "motion.gif"
    figures.animation(str(path), Example("walk", {"long": WALK[:5], "short": WALK[:3]}), SMPL22, fps=20.0)
    with Image.open(path) as image:
        assert image.width == 2 * 300
        assert image.n_frames == 5
        assert image.info["duration"] == 50
        first = np.asarray(image.convert("RGB"))
        image.seek(1)
        assert (np.asarray(image.convert("RGB")) != first).any()
    figures.animation(str(path), WILD, SMPL22)
    assert path.read_bytes()[:6] == b"GIF89a"


def test_the_camera_follows_a_straight_walk_on_the_floor() -> None:
    motion = np.zeros((40, 22, 3))
    motion[..., 1], motion[..., 2] = 0.9, np.arange(40)[:, None] * 0.05
    track = figures.followed(motion)
    np.testing.assert_array_equal(track[:, :2], 0.0)
    assert (np.diff(track[:, 2]) > 0).all()
    np.testing.assert_allclose(track.mean(0), (0, 0, motion[:, 0, 2].mean()), atol=1e-9)


def test_up_goes_up_and_what_is_nearer_is_larger() -> None:
    low, high, far, near = figures.perspective(np.array(((0, -1, 0), (0, 1, 0), (-1, 0, -2), (1, 0, 2.0))))
    assert high[1] > 0.9 > -0.9 > low[1]
    assert np.linalg.norm(near[:2]) > np.linalg.norm(far[:2])
    assert near[2] > far[2]
