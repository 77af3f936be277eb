"""Motions are packed for the page without loss that can be seen, and with their sides."""

from __future__ import annotations

import base64
import json
import re
import struct

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from videomdm_ext.bench import player
from videomdm_ext.data.motions import load_motions
from videomdm_ext.motion.skeletons import SMPL22
from videomdm_ext.render.figures import Example

WALK = {motion.name: motion.positions for motion in load_motions()}["walk"]


def unpacked(text: str, joints: int) -> NDArray[np.float64]:
    """-> the positions [T, J, 3] that were packed, m, read number by number."""
    content = base64.b64decode(text)
    return np.array(struct.unpack(f"<{len(content) // 2}h", content)).reshape(-1, joints, 3) / 1000


@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_unpacking_gives_positions_from_the_first_root_to_half_a_millimetre(seed: int, frames: int) -> None:
    motion = np.random.default_rng(seed).normal(0, 3, (frames, 22, 3))
    moved = motion - motion[0, 0] * np.array((1, 0, 1))
    np.testing.assert_allclose(unpacked(player.packed(motion), 22), moved, atol=0.0005001)


def test_numbers_are_little_endian_millimetres_frame_by_frame() -> None:
    motion = np.zeros((2, 22, 3))
    motion[1, 3] = (0.001, -0.002, 1.5)
    numbers = struct.unpack("<132h", base64.b64decode(player.packed(motion)))
    assert numbers[66 + 9 : 66 + 12] == (1, -2, 1500)
    assert not any(numbers[: 66 + 9])


def test_a_place_too_far_for_the_format_stays_at_its_end() -> None:
    motion = np.zeros((2, 22, 3))
    motion[1] = (50.0, -50.0, 0.0)
    np.testing.assert_array_equal(unpacked(player.packed(motion), 22)[1, 0], (32.767, -32.767, 0.0))


def test_the_content_names_parents_sides_and_every_motion() -> None:
    examples = [("first", Example("a <b> & c", {"truth": WALK[:5], "2d": WALK[:3]}))]
    text, held = player.player_content(examples, SMPL22, 20.0)
    assert held == 1
    assert not re.search("[<>&]", text)
    content = json.loads(text)
    assert content["parents"] == list(SMPL22.parents)
    by_side = dict(zip(SMPL22.joints, content["sides"], strict=True))
    assert (by_side["l_knee"], by_side["r_wrist"], by_side["head"]) == ("left", "right", "middle")
    assert content["head"] == SMPL22.index("head")
    assert content["examples"][0]["caption"] == "a <b> & c"
    lengths = {m["name"]: len(unpacked(m["positions"], 22)) for m in content["examples"][0]["motions"]}
    assert lengths == {"truth": 5, "2d": 3}


def test_examples_beyond_the_size_of_a_page_are_left_out_and_counted() -> None:
    examples = [(str(number), Example("walk", {"truth": WALK[:50]})) for number in range(5)]
    one = len(player.packed(WALK[:50]))
    text, held = player.player_content(examples, SMPL22, 20.0, most=3 * one)
    assert held == len(json.loads(text)["examples"]) == 3
    assert player.player_content(examples, SMPL22, 20.0, most=1)[1] == 1


def test_motion_that_is_not_finite_is_packed() -> None:
    wild = np.full((4, 22, 3), np.nan, dtype=np.float32)
    text, _ = player.player_content([("", Example("wild", {"2d": wild}))], SMPL22, 20.0)
    assert "NaN" not in text
    assert "nan" not in player.strip_html("2d", wild, SMPL22)


def test_a_strip_shows_the_head_above_the_feet_and_time_from_left_to_right() -> None:
    pose = np.zeros((9, 22, 3))
    pose[:, SMPL22.index("head"), 1] = 1.6
    text = player.strip_html("2d", pose, SMPL22)
    middle = re.search(r'class="middle" d="([^"]+)"', text)
    assert middle
    ends = np.array([[float(v) for v in part.split()] for part in re.findall(r"L([\d. -]+)", middle.group(1))])
    assert ends[:, 1].min() < 0.5
    np.testing.assert_allclose(ends[:, 1].max(), 2.0, atol=0.02)
    assert len(np.unique(ends[:, 0])) == player.POSES
    assert (np.diff(ends[:: len(ends) // player.POSES, 0]) >= 0).all()
