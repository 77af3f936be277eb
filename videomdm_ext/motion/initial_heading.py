"""The heading at which the rotation channels of stored feature vectors start, found from the vectors themselves.

`decode` starts every clip at heading zero, but the shortest arcs of the rotation channels were taken in the frame of
whatever longer or otherwise turned clip the vectors come from. That is no matter of taste: arcs do not turn along.
"""

import math

import torch
from torch import Tensor

from videomdm_ext.motion.features import channels, rotations
from videomdm_ext.motion.kinematics import bone_vectors, wrap_angle
from videomdm_ext.motion.skeletons import Skeleton

NOTHING = 1e-3
"""Radians, below which an angle is rounding."""
FITS = 0.2
"""Largest root mean square residual of rotation channels at which they count as this format's."""


def initial_heading(features: Tensor, skeleton: Skeleton) -> float:
    """Radians to give `encode` as `initial_heading` for its rotation channels to equal those of `features` [T, D].

    The first frame tells. A bone that starts at the root and rests along u has the local rotation L = Ry(h) A, with A
    the arc from u to the bone's direction, so L u is that direction turned by the heading h, both in the frame in which
    the arcs were taken. As decoded, heading and direction are each short of the angle a sought: L u is the decoded
    direction turned by 2 a. Half of that turn, modulo pi, is a, and of the two candidates the one that fits all
    rotation channels is right. 0 where neither fits: the channels then hold something else.
    """
    joints = _first_pose(features, skeleton)
    stored = features[0, channels(skeleton).rotations].unflatten(-1, (-1, 6))
    twice = _turn(joints, stored, skeleton)
    candidates = wrap_angle(torch.stack((twice / 2, twice / 2 + math.pi)))
    poses = joints.expand(2, 1, *joints.shape)
    made = rotations(poses, torch.zeros_like(poses[..., 0, 0]), skeleton, candidates)
    residual = (made[:, 0] - stored).square().mean((-1, -2)).sqrt()
    best = int(residual.argmin())
    angle = candidates[best].item()
    return angle if residual[best] < FITS and abs(angle) > NOTHING else 0.0


def _first_pose(features: Tensor, skeleton: Skeleton) -> Tensor:
    """Joints [J, 3] of the first frame, as decoded."""
    part = channels(skeleton)
    root = features.new_zeros(1, 3)
    root[0, 1] = features[0, part.height.start]
    return torch.cat((root, features[0, part.positions].unflatten(-1, (-1, 3))))


def _turn(joints: Tensor, stored: Tensor, skeleton: Skeleton) -> Tensor:
    """Angle [] about +y from bones of a pose [J, 3] to L u, mean over those that start at the root and rest along x."""
    rest, start = skeleton.rest_directions, skeleton.rotation_parents
    bones = [joint for joint in range(1, skeleton.num_joints) if start[joint] == 0 and abs(rest[joint][0]) == 1.0]
    rows = [joint - 1 for joint in bones]
    seen = bone_vectors(joints, skeleton)[rows]
    turned = stored[rows, :3] * seen.new_tensor([rest[joint][0] for joint in bones])[:, None]
    along = (turned[:, 0] * seen[:, 0] + turned[:, 2] * seen[:, 2]).sum()
    across = (turned[:, 0] * seen[:, 2] - turned[:, 2] * seen[:, 0]).sum()
    return torch.atan2(across, along)
