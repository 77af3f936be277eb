"""Points from several calibrated cameras, by the direct linear transform, weighted by confidence.

A view that disagrees with the others about a point is left out of it, as long as two views remain.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

NEAR = 0.02
"""On the normalised plane: 8 cm at 4 m. A view that is farther from the point than this disagrees."""


@dataclass(frozen=True)
class Triangulated:
    """positions [..., 3], metres; error [...] RMS distance on the normalised plane; views [...] that agree."""

    positions: Tensor
    error: Tensor
    views: Tensor


def triangulate(points: Tensor, weight: Tensor, extrinsics: Tensor, *, near: float = NEAR) -> Triangulated:
    """Points [V, ..., 2] on the normalised planes of V cameras [V, 3, 4], weight [V, ...]. Float64.

    Points that fewer than two views see, or on which no two agree, have fewer than two `views`.
    """
    kept = weight.clone()
    for _ in range(max(len(points) - 2, 0)):
        whole = _worst(points, kept, extrinsics)
        left_out = [kept.index_fill(0, torch.tensor(view), 0.0) for view in range(len(points))]
        without = torch.stack([_worst(points, others, extrinsics) for others in left_out])
        usable = (kept > 0) & ((kept > 0).sum(0) > 2)
        best = torch.where(usable, without, torch.inf).argmin(0)
        chosen = torch.nn.functional.one_hot(best, len(points)).movedim(-1, 0).bool()
        kept = torch.where(chosen & usable & (whole > near), 0.0, kept)
    positions = _linear(points, kept, extrinsics)
    apart = _apart(positions, points, extrinsics)
    error = ((kept * apart.square()).sum(0) / kept.sum(0).clamp_min(1e-12)).sqrt()
    return Triangulated(positions, error, ((kept > 0) & (apart <= near)).sum(0))


def _worst(points: Tensor, weight: Tensor, extrinsics: Tensor) -> Tensor:
    """Largest distance [...] of the views that count from the point that they give together."""
    apart = _apart(_linear(points, weight, extrinsics), points, extrinsics)
    return torch.where(weight > 0, apart, 0.0).amax(0)


def _linear(points: Tensor, weight: Tensor, extrinsics: Tensor) -> Tensor:
    """The point whose homogeneous equations are broken least."""
    shape = (len(points), *[1] * (points.ndim - 2), 4)
    first, second, third = (row.reshape(shape) for row in extrinsics.unbind(1))
    u, v = points.split(1, -1)
    rows = torch.stack((weight.unsqueeze(-1) * (u * third - first), weight.unsqueeze(-1) * (v * third - second)))
    matrix = rows.flatten(0, 1).movedim(0, -2)
    solution = torch.linalg.svd(matrix, full_matrices=True)[2][..., -1, :]
    scale = solution[..., 3:]
    return solution[..., :3] / torch.where(scale.abs() < 1e-12, 1e-12, scale)


def _apart(positions: Tensor, points: Tensor, extrinsics: Tensor) -> Tensor:
    """Distance [V, ...] of points from where each camera sees the positions; far for what is behind a camera."""
    rotation = extrinsics[:, :, :3].reshape(len(points), *[1] * (positions.ndim - 1), 3, 3)
    shift = extrinsics[:, :, 3].reshape(len(points), *[1] * (positions.ndim - 1), 3)
    seen = (rotation @ positions.unsqueeze(-1)).squeeze(-1) + shift
    flat = seen[..., :2] / seen[..., 2:].clamp_min(1e-3)
    return torch.linalg.vector_norm(flat - points, dim=-1)
