"""The animation follows each person and shows what a camera sees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from videomdm_ext.bench import animation
from videomdm_ext.bench.results import Example
from videomdm_ext.data.motions import load_motions
from videomdm_ext.motion.skeletons import SMPL22

WALK = {motion.name: motion.positions for motion in load_motions()}["walk"]


def test_motion_that_is_not_finite_is_animated(tmp_path: Path) -> None:
    wild = np.full((4, 22, 3), np.nan, dtype=np.float32)
    path = tmp_path / "motion.gif"
    animation.animation(str(path), Example("wild", {"2d": wild * 1e30}), SMPL22)
    assert path.read_bytes()[:6] == b"GIF89a"


def test_a_panel_stands_for_each_motion_and_a_frame_for_each_of_the_longest(tmp_path: Path) -> None:
    path = tmp_path / "motion.gif"
    animation.animation(str(path), Example("walk", {"long": WALK[:5], "short": WALK[:3]}), SMPL22, fps=20.0)
    with Image.open(path) as image:
        assert image.width == 2 * 300
        assert image.n_frames == 5
        assert image.info["duration"] == 50


def test_the_camera_follows_a_straight_walk_on_the_floor() -> None:
    motion = np.zeros((40, 22, 3))
    motion[..., 1], motion[..., 2] = 0.9, np.arange(40)[:, None] * 0.05
    track = animation._followed(motion)
    np.testing.assert_array_equal(track[:, :2], 0.0)
    assert (np.diff(track[:, 2]) > 0).all()
    np.testing.assert_allclose(track.mean(0), (0, 0, motion[:, 0, 2].mean()), atol=1e-9)


def test_up_goes_up_and_what_is_nearer_is_larger() -> None:
    stage, centre = animation.Stage(azimuth=0.0, elevation=0.0), np.zeros(3)
    (_, low), (_, high) = animation._pixels(np.array(((0.0, 0.0, 0.0), (0.0, 1.0, 0.0))), centre, stage)
    assert high < low
    far, near = (animation._pixels(np.array(((1.0, 1.0, z),)), centre, stage)[0] for z in (-1.0, 1.0))
    middle = stage.size * stage.finer / 2
    assert near[0] > far[0] > middle
