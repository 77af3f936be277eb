"""How likely a pose is: heading-aligned poses follow Student's t.

A Gaussian of poses would pull rare ones to the mean as hard as errors; Student's t leaves them. Source: Lange, Little
and Taylor, "Robust statistical modeling using the t distribution", JASA 84 (1989).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from videomdm_ext.geometry.rotations import rotate_yaw
from videomdm_ext.motion.kinematics import heading
from videomdm_ext.motion.skeletons import Skeleton

FREEDOM = 5.0
"""Degrees of freedom of the distribution of poses: the fewer, the heavier its tails."""
SWEEPS = 10
"""Reweightings in an estimate of the distribution of poses."""


def aligned_poses(positions: Tensor, skeleton: Skeleton) -> Tensor:
    """Root-relative joints in the heading's frame, the heading held constant. [..., J, 3] -> [..., 3 (J - 1)]."""
    angle = heading(positions.detach(), skeleton)
    local = positions[..., 1:, :] - positions[..., :1, :]
    return rotate_yaw(local, -angle.unsqueeze(-1)).flatten(-2)


def unlikeliness(poses: Tensor, mean: Tensor, whitening: Tensor) -> Tensor:
    """Twice the negative logarithm of the density, 0 at the mean. [..., P] -> [...].

    Near the mean (FREEDOM + P) / FREEDOM times the squared distance in standard deviations, far from it a logarithm: a
    pose at the usual distance, the root of P, is pulled about as hard as by a Gaussian, one beyond it less.
    """
    distance = ((poses - mean) @ whitening).square().sum(-1)
    return (FREEDOM + poses.shape[-1]) * torch.log1p(distance / FREEDOM)


def estimate_poses(poses: Tensor, least: float) -> tuple[Tensor, Tensor]:
    """Location [P] and whitening [P, P] of poses [N, P], by maximum likelihood; none deviates by less than `least`, m.

    `(poses - location) @ whitening` has the unit matrix as its scatter.
    """
    weight, mean, whitening = poses.new_ones(len(poses)), poses.mean(0), poses
    for _ in range(SWEEPS):
        mean = (weight.unsqueeze(1) * poses).sum(0) / weight.sum()
        apart = poses - mean
        whitening = _whitening((weight.unsqueeze(1) * apart).T @ apart / len(poses), least)
        weight = (FREEDOM + poses.shape[1]) / (FREEDOM + (apart @ whitening).square().sum(1))
    return mean, whitening


def pooled_poses(parts: Sequence[tuple[int, Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Location and whitening of several sets of poses together, from the number, location and whitening of each."""
    total, found = sum(number for number, _, _ in parts), [(n, mean.double(), w.double()) for n, mean, w in parts]
    mean = torch.stack([number / total * location for number, location, _ in found]).sum(0)
    apart = [torch.outer(location - mean, location - mean) for _, location, _ in found]
    scatter = [n / total * (torch.linalg.inv(w @ w.T) + off) for (n, _, w), off in zip(found, apart, strict=True)]
    return mean.float(), _whitening(torch.stack(scatter).sum(0), 0.0).float()


def _whitening(scatter: Tensor, least: float) -> Tensor:
    floor = least**2 * torch.eye(len(scatter), device=scatter.device, dtype=scatter.dtype)
    values, vectors = torch.linalg.eigh(scatter + floor)
    return vectors / values.clamp_min(least**2).sqrt()
