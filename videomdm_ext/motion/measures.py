"""Kinematic measures of positions [..., T, J, 3], metres, y up. Every frame counts: cut padding first."""

import torch
from torch import Tensor

from videomdm_ext.motion.kinematics import bone_lengths
from videomdm_ext.motion.skeletons import Skeleton

FOOT_HEIGHT = 0.05
"""A foot joint lower than this above its own lowest height counts as standing, m."""


def acceleration(positions: Tensor, fps: float) -> Tensor:
    """Mean length of the joints' accelerations. [..., T, J, 3] -> [...], m/s^2. At least 3 frames."""
    return torch.linalg.vector_norm(positions.diff(n=2, dim=-3), dim=-1).mean((-1, -2)) * fps**2


def jitter(positions: Tensor, fps: float) -> Tensor:
    """Mean length of the third time derivative. [..., T, J, 3] -> [...], m/s^3. At least 4 frames."""
    return torch.linalg.vector_norm(positions.diff(n=3, dim=-3), dim=-1).mean((-1, -2)) * fps**3


def motion_energy(positions: Tensor, fps: float) -> Tensor:
    """Mean squared speed of the joints; a pose that does not move has none. [..., T, J, 3] -> [...], m^2/s^2."""
    return positions.diff(dim=-3).square().sum(-1).mean((-1, -2)) * fps**2


def foot_skating(positions: Tensor, skeleton: Skeleton, fps: float) -> Tensor:
    """Mean horizontal speed of foot joints while they stand near the floor. [..., T, J, 3] -> [...], m/s.

    A joint stands where it is under FOOT_HEIGHT above the lowest height it reaches in the clip, in both frames.
    """
    feet = positions[..., list(skeleton.contact_joints), :]
    height = feet[..., 1] - feet[..., 1].amin(-2, keepdim=True)
    standing = (height[..., 1:, :] < FOOT_HEIGHT) & (height[..., :-1, :] < FOOT_HEIGHT)
    speed = torch.linalg.vector_norm(feet[..., ::2].diff(dim=-3), dim=-1) * fps
    return (speed * standing).sum((-1, -2)) / standing.sum((-1, -2)).clamp_min(1)


def floating(positions: Tensor) -> Tensor:
    """Mean height of the lowest joint above the floor y = 0, where it is above. [..., T, J, 3] -> [...], m."""
    return positions[..., 1].amin(-1).clamp_min(0).mean(-1)


def penetration(positions: Tensor) -> Tensor:
    """Mean depth of the lowest joint under the floor y = 0, where it is under. [..., T, J, 3] -> [...], m."""
    return positions[..., 1].amin(-1).clamp_max(0).neg().mean(-1)


def mean_bone_length(positions: Tensor, skeleton: Skeleton) -> Tensor:
    """Mean over bones and frames. [..., T, J, 3] -> [...], m."""
    return bone_lengths(positions, skeleton).mean((-1, -2))


def bone_length_drift(positions: Tensor, skeleton: Skeleton) -> Tensor:
    """Standard deviation over time of each bone's length, mean over bones. [..., T, J, 3] -> [...], m."""
    return bone_lengths(positions, skeleton).std(-2, correction=0).mean(-1)
