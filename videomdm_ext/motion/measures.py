"""Measures of positions [..., T, J, 3], metres, y up: of one motion, and errors of one against another.

Every frame counts: cut padding first.
"""

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


def mpjpe(positions: Tensor, truth: Tensor) -> Tensor:
    """Mean distance of joints, nothing aligned. [..., T, J, 3] -> [...], m."""
    return torch.linalg.vector_norm(positions - truth, dim=-1).mean((-1, -2))


def root_aligned_mpjpe(positions: Tensor, truth: Tensor) -> Tensor:
    """Mean distance of joints after moving each frame's root onto the true one. [..., T, J, 3] -> [...], m."""
    return mpjpe(positions - positions[..., :1, :], truth - truth[..., :1, :])


def root_aligned(positions: Tensor, truth: Tensor) -> Tensor:
    """Each frame moved so that its root is the true one. [..., J, 3] -> [..., J, 3]."""
    return positions - positions[..., :1, :] + truth[..., :1, :]


def pck(positions: Tensor, truth: Tensor, *, within: float) -> Tensor:
    """Share of joints at most `within` metres from the true ones, nothing aligned. [..., T, J, 3] -> [...]."""
    near = torch.linalg.vector_norm(positions - truth, dim=-1) <= within
    return near.to(positions.dtype).mean((-1, -2))


def depth_and_image_error(positions: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Mean error along the ray of the true joint, which its keypoint cannot tell, and mean error across that ray.

    Camera coordinates [..., T, J, 3], nothing aligned; the squares of a joint's two parts add up to its squared error.
    -> two of [...], m.
    """
    ray = truth / torch.linalg.vector_norm(truth, dim=-1, keepdim=True)
    error = positions - truth
    along = (error * ray).sum(-1, keepdim=True)
    across = torch.linalg.vector_norm(error - along * ray, dim=-1)
    return along.squeeze(-1).abs().mean((-1, -2)), across.mean((-1, -2))


def pa_mpjpe(positions: Tensor, truth: Tensor) -> Tensor:
    """Mean distance of joints after the best similarity of each frame. [..., T, J, 3] -> [...], m."""
    return mpjpe(similarity_aligned(positions, truth), truth)


def similarity_aligned(positions: Tensor, truth: Tensor) -> Tensor:
    """Each frame [J, 3] moved, turned and scaled onto the true one with the least squared error. -> [..., J, 3].

    Where the best orthogonal map is a reflection, the smallest singular value changes its sign in the rotation and
    in the scale alike; otherwise a mirrored pose would come out too large.
    """
    centre = truth.mean(-2, keepdim=True)
    source, target = positions - positions.mean(-2, keepdim=True), truth - centre
    left, values, right = torch.linalg.svd(source.transpose(-1, -2) @ target)
    sign = torch.ones_like(values)
    sign[..., 2] = torch.linalg.det(left @ right).sign()
    scale = (values * sign).sum(-1) / source.square().sum((-1, -2)).clamp_min(1e-12)
    return scale[..., None, None] * (source @ (left * sign.unsqueeze(-2)) @ right) + centre


def acceleration_error(positions: Tensor, truth: Tensor, fps: float) -> Tensor:
    """Mean length of the difference of the joints' accelerations. [..., T, J, 3] -> [...], m/s^2. At least 3 frames."""
    difference = (positions - truth).diff(n=2, dim=-3)
    return torch.linalg.vector_norm(difference, dim=-1).mean((-1, -2)) * fps**2


def bone_wander(positions: Tensor, skeleton: Skeleton) -> Tensor:
    """Standard deviation over time of each bone's length as a share of its mean, mean over bones. -> [...]."""
    lengths = bone_lengths(positions, skeleton)
    return (lengths.std(-2, correction=0) / lengths.mean(-2)).mean(-1)


def measure_error(lifted: Tensor, truth: Tensor, skeleton: Skeleton, *, fps: float) -> dict[str, float]:
    """What a lifter gets wrong, over clips [..., T, J, 3] in the same world: metres, m/s^2, and a share for bones."""
    return {
        "mpjpe": mpjpe(lifted, truth).mean().item(),
        "root_aligned_mpjpe": root_aligned_mpjpe(lifted, truth).mean().item(),
        "pa_mpjpe": pa_mpjpe(lifted, truth).mean().item(),
        "acceleration_error": acceleration_error(lifted, truth, fps).mean().item(),
        "bone_wander": bone_wander(lifted, skeleton).mean().item(),
    }
