"""The representation of 272 channels a frame (MotionStreamer, ICCV 2025), of SMPL's 22 joints, both ways.

Channels: the root's step in x and z, in the frame of the last heading (2); the change of heading, 6D (6); joints from
the root's place on the floor, without heading (66); their differences (66); local rotations, 6D, the root's without
heading (132). 6D is the first two rows of the matrix. Frame i holds differences from frame i - 1, the first one none.
The heading is the root rotation's. The clip's lowest joint is on the floor; it starts facing +z, at x = z = 0.
"""

import torch
from torch import Tensor

from videomdm_ext.geometry.rotations import rotate_yaw, rotate_yaw_together, yaw_matrix

JOINTS, CHANNELS, FPS = 22, 272, 30.0
STEP, TURN, PLACES, SPEEDS, ROTATIONS = slice(2), slice(2, 8), slice(8, 74), slice(74, 140), slice(140, 272)


def canonical_272(positions: Tensor, turns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A clip where the representation has it: positions [T, 22, 3], local rotations [T, 22, 3, 3] and headings [T]."""
    headings = torch.atan2(turns[:, 0, 0, 2], turns[:, 0, 2, 2])
    start = headings[:1]
    origin = positions[0, 0] * positions.new_tensor((1.0, 0.0, 1.0))
    origin = origin + positions[..., 1].min() * positions.new_tensor((0.0, 1.0, 0.0))
    moved = rotate_yaw_together(positions - origin, -start.expand(len(positions)))
    root = yaw_matrix(-start) @ turns[:, 0]
    return moved, torch.cat((root.unsqueeze(1), turns[:, 1:]), 1), headings - start


def encode_272(positions: Tensor, turns: Tensor) -> Tensor:
    """Positions [T, 22, 3], m, y up, and SMPL's local rotations [T, 22, 3, 3], the root's in the world. -> [T, 272]"""
    placed, local, headings = canonical_272(positions, turns)
    root = placed[:, 0]
    step = rotate_yaw(root.diff(dim=0), -headings[:-1])[:, ::2]
    turned = yaw_matrix(-headings.diff())[:, :2].flatten(1)
    joints = rotate_yaw_together(placed - root.unsqueeze(1) * root.new_tensor((1.0, 0.0, 1.0)), -headings)
    upright = torch.cat(((yaw_matrix(-headings) @ local[:, 0]).unsqueeze(1), local[:, 1:]), 1)
    found = positions.new_zeros(len(positions), CHANNELS)
    found[0, TURN] = torch.eye(3).to(found)[:2].flatten()
    found[1:, STEP], found[1:, TURN] = step, turned
    found[:, PLACES], found[1:, SPEEDS] = joints.flatten(1), joints.diff(dim=0).flatten(1)
    found[:, ROTATIONS] = upright[..., :2, :].flatten(1)
    return found


def decode_272(features: Tensor) -> tuple[Tensor, Tensor]:
    """Positions [T, 22, 3], m, from the positions' channels, and local rotations [T, 22, 3, 3]."""
    turn, sixes = features[:, TURN], features[:, ROTATIONS].unflatten(1, (JOINTS, 2, 3))
    headings = -torch.atan2(turn[:, 2], turn[:, 0]).cumsum(0)
    x, z = features[1:, STEP].unbind(1)
    step = rotate_yaw(torch.stack((x, torch.zeros_like(x), z), 1), headings[:-1])
    ground = torch.cat((torch.zeros_like(step[:1]), step.cumsum(0)))
    positions = rotate_yaw_together(features[:, PLACES].unflatten(1, (JOINTS, 3)), headings) + ground.unsqueeze(1)
    first = torch.nn.functional.normalize(sixes[..., 0, :], dim=-1)
    second = sixes[..., 1, :] - (first * sixes[..., 1, :]).sum(-1, keepdim=True) * first
    second = torch.nn.functional.normalize(second, dim=-1)
    turns = torch.stack((first, second, torch.linalg.cross(first, second)), -2)
    return positions, torch.cat(((yaw_matrix(headings) @ turns[:, 0]).unsqueeze(1), turns[:, 1:]), 1)
