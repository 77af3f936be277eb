"""Where a camera sees a pose, and what is in front."""

from __future__ import annotations

import numpy as np
import pytest

from videomdm_ext.bench import drawing
from videomdm_ext.bench.results import Example
from videomdm_ext.errors import VideoMDMError
from videomdm_ext.motion.skeletons import SMPL22


def test_a_figure_keeps_left_and_right_as_a_camera_in_front_sees_them() -> None:
    left, up, ahead = np.eye(3)
    seen = drawing.seen(np.stack((left, up, ahead)), azimuth=0.0, elevation=0.0)
    np.testing.assert_allclose(seen, np.eye(3), atol=1e-12)
    from_the_right = drawing.seen(ahead, azimuth=-np.pi / 2, elevation=0.0)
    np.testing.assert_allclose(from_the_right, (1, 0, 0), atol=1e-12)


def test_a_missing_package_names_its_extra() -> None:
    with pytest.raises(VideoMDMError, match=r"\[demo\]"):
        drawing.require("no_such_package.part")


def test_what_is_looked_down_on_goes_down_the_picture_where_it_is_near() -> None:
    near, above = drawing.seen(np.eye(3)[[2, 1]], azimuth=0.0, elevation=0.3)
    assert near[1] < 0 < above[1]
    assert near[2] > 0


def test_bones_are_drawn_from_far_to_near() -> None:
    depth = np.zeros(22)
    depth[SMPL22.index("l_wrist")], depth[SMPL22.index("r_wrist")] = 2.0, -2.0
    order = drawing.far_to_near(depth, SMPL22)
    assert (order[0], order[-1]) == (SMPL22.index("r_wrist"), SMPL22.index("l_wrist"))
    assert sorted(order) == list(range(1, 22))


def test_left_right_and_middle_have_their_own_colours() -> None:
    sides = [drawing.side(joint) for joint in ("l_knee", "r_knee", "head")]
    assert sides == [drawing.LEFT, drawing.RIGHT, drawing.MIDDLE]


def test_motion_that_is_not_finite_is_made_drawable_and_the_rest_is_kept() -> None:
    motion = np.array([[[np.nan, np.inf, 1.5]]], dtype=np.float32)
    made = drawing.finite(Example("wild", {"2d": motion})).motions["2d"]
    np.testing.assert_array_equal(made, [[[0.0, 100.0, 1.5]]])


def test_a_row_is_as_high_as_the_highest_joint_within_reason() -> None:
    heights = [drawing.highest([Example("", {"2d": np.full((2, 22, 3), y)})]) for y in (0.3, 2.0, 50.0)]
    assert heights == [1.8, 2.1, 2.8]
