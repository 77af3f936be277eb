"""The 272 channels against a computation frame by frame, and back."""

import math

import numpy as np
import pytest
import torch
from people import real_motions

from videomdm_ext.geometry.rotations import roma, yaw_matrix
from videomdm_ext.motion.body_models import posed
from videomdm_ext.motion.features_272 import CHANNELS, ROTATIONS, canonical_272, decode_272, encode_272
from videomdm_ext.motion.kinematics import heading
from videomdm_ext.motion.skeletons import SMPL22

NAMES = ("dance_a", "backflip", "spin", "getup_facedown")


def turned(positions: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    """-> local rotations [T, 22, 3, 3] whose root faces as the joints do, tilted; the others are any."""
    turns = roma.rotvec_to_rotmat(0.5 * torch.randn(len(positions), 22, 3, generator=draw).double())
    tilt = roma.rotvec_to_rotmat(0.2 * torch.randn(len(positions), 3, generator=draw).double())
    turns[:, 0] = yaw_matrix(heading(positions, SMPL22)) @ tilt
    return turns


def by_hand(positions: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """The description of the representation, with loops."""

    def about_y(angle: float) -> np.ndarray:
        return np.array([[math.cos(angle), 0, math.sin(angle)], [0, 1, 0], [-math.sin(angle), 0, math.cos(angle)]])

    facing = [about_y(-math.atan2(turn[0, 0, 2], turn[0, 2, 2])) for turn in turns]
    floor = positions[..., 1].min()
    rows, before = [], np.zeros((22, 3))
    for frame, pose in enumerate(positions):
        local = np.array([facing[frame] @ (joint - [pose[0, 0], floor, pose[0, 2]]) for joint in pose])
        own = [facing[frame] @ turns[frame, 0], *turns[frame, 1:]]
        step, change, speed = np.zeros(3), np.eye(3), np.zeros((22, 3))
        if frame:
            step = facing[frame - 1] @ (pose[0] - positions[frame - 1, 0])
            change, speed = facing[frame] @ facing[frame - 1].T, local - before
        six = [turn[:2].ravel() for turn in (change, *own)]
        rows.append(np.concatenate((step[[0, 2]], six[0], local.ravel(), speed.ravel(), *six[1:])))
        before = local
    return np.array(rows)


@pytest.mark.parametrize("name", NAMES)
def test_channels_are_those_of_the_description_and_joints_and_rotations_come_back(name, generator):
    clips = real_motions()
    positions = clips.get(name, clips["dance_a"]).double() + torch.tensor((1.5, 0.3, -2.0))
    turns = turned(positions, generator)
    found = encode_272(positions, turns)
    assert found.shape == (len(positions), CHANNELS)
    expected = by_hand(positions.numpy(), turns.numpy())
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-9)
    placed, local, headings = canonical_272(positions, turns)
    assert placed[..., 1].min().abs() < 1e-12
    assert placed[0, 0, ::2].abs().max() < 1e-12
    assert headings[0] == 0
    joints, rotations = decode_272(found.float())
    assert (joints - placed).abs().max() < 1e-4
    assert (rotations - local).abs().max() < 1e-4
    apart = torch.cdist(positions[::7].flatten(0, 1), positions[::7].flatten(0, 1))
    moved = torch.cdist(joints[::7].flatten(0, 1).double(), joints[::7].flatten(0, 1).double())
    assert (apart - moved).abs().max() < 2e-4


def test_a_body_posed_by_the_rotations_is_where_the_positions_are(generator):
    rest = torch.randn(22, 3, generator=generator).double()
    moved = torch.randn(30, 3, generator=generator).double().cumsum(0)
    turns = roma.rotvec_to_rotmat(torch.randn(30, 22, 3, generator=generator).double())
    positions = posed(rest, turns, moved)
    joints, rotations = decode_272(encode_272(positions, turns))
    again = posed(rest, rotations, joints[:, 0] - rest[0])
    assert (again - joints).abs().max() < 1e-9
    longer = encode_272(positions, turns)
    longer[:, ROTATIONS] *= 3.0
    assert (decode_272(longer)[1] - rotations).abs().max() < 1e-9
