"""Where to start looking for a camera: few points at a time, so that some starts see no wrong keypoint.

From six points come one start by the direct linear transform, which needs depth, and two by scaled orthography of the
plane that the points are nearest to, which a flat set needs; the two are the set and its reversal in depth, between
which a far camera can hardly decide. All are refined on their own points and judged by the median error of all points.
"""

import math

import roma
import torch
from torch import Tensor

from videomdm_ext.geometry.pnp_refine import (
    HIDDEN,
    Cameras,
    Sight,
    descend,
    normalised_cameras,
    residuals,
    robust_cost,
    settle,
    weighted_median,
)
from videomdm_ext.geometry.rotations import shortest_arc

SAMPLE = 6
"""Points of a start; the direct linear transform needs as many."""
SAMPLES = 40
"""Draws; with 20 % wrong keypoints a quarter of them is clean."""
JUDGES = 1024
"""Points, at most, that judge the starts."""
FINALISTS = 4
"""Starts that are refined on all points."""


def search(sight: Sight, draw: torch.Generator) -> tuple[Cameras, Tensor]:
    """The cameras that fit best, and sigma [B], the standard deviation of the image coordinates that they leave."""
    few = thinned(sight, draw)
    count = len(sight.points)
    chosen = torch.multinomial(few.weight.repeat_interleave(SAMPLES, 0), SAMPLE, generator=draw)
    rows = torch.arange(count).repeat_interleave(SAMPLES)[:, None]
    sample = Sight(few.points[rows, chosen], few.image[rows, chosen], few.weight[rows, chosen])
    starts = _joined(from_sample(sample), count)
    each = len(starts.translation) // count
    errors = residuals(starts, few.repeat(each)).nan_to_num(HIDDEN)
    score = weighted_median(errors, few.weight.repeat_interleave(each, 0)).reshape(count, each)
    best = score.topk(FINALISTS, dim=-1, largest=False).indices
    finalists = starts.pick((best + each * torch.arange(count)[:, None]).reshape(-1))
    settled, sigma = settle(finalists, few.repeat(FINALISTS))
    return settle(settled.pick(_winners(settled, sigma, few)), sight)


def _winners(settled: Cameras, sigma: Tensor, few: Sight) -> Tensor:
    """Row of the finalist with the least robust cost, at the scale of the best of them. -> [B]"""
    count = len(few.points)
    scale = sigma.reshape(count, FINALISTS).amin(-1).repeat_interleave(FINALISTS)
    again = few.repeat(FINALISTS)
    cost = robust_cost(residuals(settled, again), again.weight, scale).reshape(count, FINALISTS)
    return cost.argmin(-1) + FINALISTS * torch.arange(count)


def thinned(sight: Sight, draw: torch.Generator, most: int = JUDGES) -> Sight:
    """At most `most` points of every camera, drawn by weight."""
    if sight.points.shape[1] <= most:
        return sight
    chosen = torch.multinomial(sight.weight.clamp_min(1e-12), most, generator=draw)
    rows = torch.arange(len(chosen))[:, None]
    return Sight(sight.points[rows, chosen], sight.image[rows, chosen], sight.weight[rows, chosen])


def from_sample(sample: Sight) -> list[Cameras]:
    """One linear and two orthographic starts of each sample, refined on it."""
    turn = _view_centre(sample.image)
    rays = torch.nn.functional.pad(sample.image, (0, 1), value=1.0) @ turn.transpose(-1, -2)
    image = rays[..., :2] / rays[..., 2:].clamp_min(0.05)
    middle = sample.points.mean(1, keepdim=True)
    centred = Sight(sample.points - middle, image, sample.weight)
    starts = []
    for rotation, translation in (linear(centred), *orthographic(centred)):
        rotation, translation = _finite(rotation, translation)
        cameras = descend(normalised_cameras(rotation, translation), centred, torch.ones(len(image)).to(image), steps=6)
        back = turn.transpose(-1, -2)
        moved = cameras.translation - (cameras.rotation @ middle.transpose(-1, -2)).squeeze(-1)
        starts.append(normalised_cameras(back @ cameras.rotation, (back @ moved.unsqueeze(-1)).squeeze(-1)))
    return starts


def _view_centre(image: Tensor) -> Tensor:
    """Rotations that bring the middle of the keypoints onto the viewing axis. [S, K, 2] -> [S, 3, 3]"""
    rays = torch.nn.functional.normalize(torch.nn.functional.pad(image, (0, 1), value=1.0), dim=-1)
    axis = image.new_tensor((0.0, 0.0, 1.0)).expand(len(image), 3)
    return roma.unitquat_to_rotmat(shortest_arc(axis, rays.mean(1))).transpose(-1, -2)


def linear(sample: Sight) -> tuple[Tensor, Tensor]:
    """The direct linear transform: the matrix [R | t] that explains the image, made a rotation. Points are centred."""
    size = sample.points.square().sum(-1).mean(-1).sqrt().clamp_min(1e-9)[:, None, None]
    spread = sample.image.square().sum(-1).mean(-1).sqrt().clamp_min(1e-9)[:, None, None]
    points = torch.nn.functional.pad(sample.points / size, (0, 1), value=1.0)
    u, v = (sample.image / spread).split(1, -1)
    zero, weight = torch.zeros_like(points), sample.weight.sqrt().unsqueeze(-1)
    rows = (torch.cat((points, zero, -u * points), -1), torch.cat((zero, points, -v * points), -1))
    equations = torch.cat([weight * row for row in rows], 1)
    matrix = torch.linalg.svd(equations)[2][:, -1].reshape(-1, 3, 4)
    matrix = matrix * torch.cat((spread, spread, torch.ones_like(spread)), 1)
    matrix = matrix * torch.linalg.det(matrix[..., :3]).sign()[:, None, None]
    left, values, right = torch.linalg.svd(matrix[..., :3])
    return left @ right, size.squeeze(-1) * matrix[..., 3] / values.mean(-1, keepdim=True).clamp_min(1e-12)


def orthographic(sample: Sight) -> list[tuple[Tensor, Tensor]]:
    """Both poses of the plane nearest to the points under scaled orthography. Points are centred."""
    basis = torch.linalg.svd(sample.points)[2]
    basis = basis * torch.linalg.det(basis)[:, None, None]
    plane = torch.nn.functional.pad((sample.points @ basis.transpose(-1, -2))[..., :2], (0, 1), value=1.0)
    weight = sample.weight.sqrt().unsqueeze(-1)
    affine = torch.linalg.pinv(weight * plane) @ (weight * sample.image)  # [S, 3, 2]
    (a, c), (b, d) = affine[:, 0].unbind(-1), affine[:, 1].unbind(-1)  # u = a p + b q + ..., v = c p + d q + ...
    depth = torch.sqrt(torch.complex((c * c + d * d) - (a * a + b * b), -2 * (a * c + b * d)))
    scale = torch.sqrt(a * a + b * b + depth.real.square()).clamp_min(1e-12)[:, None]
    poses = []
    for sign in (1.0, -1.0):
        first = torch.stack((a, b, sign * depth.real), -1) / scale
        second = torch.stack((c, d, sign * depth.imag), -1) / scale
        rotation = torch.stack((first, second, torch.linalg.cross(first, second)), -2) @ basis
        translation = torch.cat((affine[:, 2], torch.ones_like(scale)), -1) / scale
        poses.append((roma.special_procrustes(rotation), translation))
    return poses


def _finite(rotation: Tensor, translation: Tensor) -> tuple[Tensor, Tensor]:
    """The start, or a plain one where a degenerate sample gave no numbers or put the points behind the camera."""
    good = torch.isfinite(rotation).all(-1).all(-1) & torch.isfinite(translation).all(-1) & (translation[:, 2] > 0)
    plain = translation.new_tensor((0.0, 0.0, 4.0))
    upright = rotation.new_tensor(((1.0, 0, 0), (0, -1.0, 0), (0, 0, -1.0)))
    return torch.where(good[:, None, None], rotation, upright), torch.where(good[:, None], translation, plain)


def _joined(starts: list[Cameras], count: int) -> Cameras:
    """Several starts a sample as one batch, those of a camera in a row."""

    def rows(parts: list[Tensor]) -> Tensor:
        together = torch.stack([part.reshape(count, -1, *part.shape[1:]) for part in parts], 1)
        return together.reshape(math.prod(together.shape[:3]), *together.shape[3:])

    return Cameras(
        rows([s.rotation for s in starts]), rows([s.translation for s in starts]), rows([s.log_focal for s in starts])
    )
