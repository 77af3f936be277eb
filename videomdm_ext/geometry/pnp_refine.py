"""Refining cameras on their keypoints: Levenberg-Marquardt on rotation and translation, with robust weights.

Everything is float64 and batched: points X [B, N, 3], image [B, N, 2] on the normalised plane (or, with a focal length
to be found, in units of a fixed length), weight [B, N]. A camera is R [B, 3, 3], t [B, 3] with X_c = R X + t, and
log_focal [B]; the image of a point is exp(log_focal) (x, y) / z. A step is (w, v, s): R' = exp(w) R, t' = t + v,
log_focal' = log_focal + s. Move the points to their mean first: then w and v hardly depend on one another.
"""

from dataclasses import dataclass, replace

import roma
import torch
from torch import Tensor

NEAREST = 1e-3
"""Depth under which a point counts as behind the camera."""
HIDDEN = 10.0
"""Residual of a point behind the camera: farther out than any keypoint."""
CUT = 4.0
"""Residuals beyond this many standard deviations hardly count (Geman-McClure); they are no inliers."""
FINEST = 1e-7
"""Smallest standard deviation, on the normalised plane, that a fit may claim."""


@dataclass(frozen=True)
class Sight:
    """What B cameras saw: points [B, N, 3], image [B, N, 2], weight [B, N]."""

    points: Tensor
    image: Tensor
    weight: Tensor

    def repeat(self, times: int) -> "Sight":
        """Every camera's part `times` times in a row. -> B * times cameras."""
        return Sight(*(part.repeat_interleave(times, 0) for part in (self.points, self.image, self.weight)))

    def pick(self, rows: Tensor) -> "Sight":
        """The parts of some cameras."""
        return Sight(self.points[rows], self.image[rows], self.weight[rows])


@dataclass(frozen=True)
class Cameras:
    """R [B, 3, 3], t [B, 3] and log_focal [B], 0 on the normalised plane."""

    rotation: Tensor
    translation: Tensor
    log_focal: Tensor

    def pick(self, rows: Tensor) -> "Cameras":
        """Some of the cameras."""
        return Cameras(self.rotation[rows], self.translation[rows], self.log_focal[rows])

    def moved(self, step: Tensor) -> "Cameras":
        """The cameras after a step [B, 7]."""
        turned = roma.rotvec_to_rotmat(step[:, :3]) @ self.rotation
        return Cameras(turned, self.translation + step[:, 3:6], self.log_focal + step[:, 6])


def normalised_cameras(rotation: Tensor, translation: Tensor) -> Cameras:
    """Cameras of focal length 1."""
    return Cameras(rotation, translation, translation.new_zeros(len(translation)))


def camera_points(cameras: Cameras, points: Tensor) -> Tensor:
    """Points in the cameras' coordinates. -> [B, N, 3]"""
    return points @ cameras.rotation.transpose(-1, -2) + cameras.translation.unsqueeze(-2)


def residuals(cameras: Cameras, sight: Sight) -> Tensor:
    """Length of each point's error in the image; HIDDEN behind the camera. -> [B, N]"""
    seen = camera_points(cameras, sight.points)
    found = cameras.log_focal.exp()[:, None, None] * seen[..., :2] / seen[..., 2:].clamp_min(NEAREST)
    error = torch.linalg.vector_norm(found - sight.image, dim=-1)
    return torch.where(seen[..., 2] > NEAREST, error, HIDDEN)


def weighted_median(values: Tensor, weight: Tensor) -> Tensor:
    """The value under which half of the weight lies. [B, N], [B, N] -> [B]"""
    ordered, order = values.sort(-1)
    share = weight.gather(-1, order).cumsum(-1)
    half = (share < 0.5 * share[..., -1:]).sum(-1, keepdim=True).clamp_max(values.shape[-1] - 1)
    return ordered.gather(-1, half).squeeze(-1)


def spread(errors: Tensor, weight: Tensor) -> Tensor:
    """Standard deviation of one image coordinate that the median error tells. -> [B]"""
    return (weighted_median(errors, weight) / 1.1774).clamp_min(FINEST)


def robust_cost(errors: Tensor, weight: Tensor, sigma: Tensor) -> Tensor:
    """Geman and McClure's cost, which a far point raises no further. [B, N], [B, N], [B] -> [B]"""
    squared = (errors / (CUT * sigma)[:, None]).square()
    return (weight * squared / (1 + squared)).sum(-1)


def robust_weight(errors: Tensor, weight: Tensor, sigma: Tensor) -> Tensor:
    """The weight with which least squares do the same step; points behind the camera have none. -> [B, N]"""
    squared = (errors / (CUT * sigma)[:, None]).square()
    return torch.where(errors < HIDDEN, weight / (1 + squared).square(), 0.0)


def normal_equations(cameras: Cameras, sight: Sight, weight: Tensor) -> tuple[Tensor, Tensor]:
    """J^T W J [B, 7, 7] and J^T W r [B, 7] of the errors in the image, in (w, v, s)."""
    turned = sight.points @ cameras.rotation.transpose(-1, -2)
    seen = turned + cameras.translation.unsqueeze(-2)
    depth = seen[..., 2:].clamp_min(NEAREST)
    focal = cameras.log_focal.exp()[:, None, None]
    found = focal * seen[..., :2] / depth
    (a, b, c), (u, v), scale = turned.unbind(-1), found.unbind(-1), (focal / depth).squeeze(-1)
    down, zero = 1 / depth.squeeze(-1), torch.zeros_like(u)
    across = torch.stack((scale, zero, -u * down), -1)  # d u / d X_c
    along = torch.stack((zero, scale, -v * down), -1)
    rows = []
    for gradient, value in ((across, u), (along, v)):
        gx, gy, gz = gradient.unbind(-1)
        spin = torch.stack((b * gz - c * gy, c * gx - a * gz, a * gy - b * gx), -1)  # (R X) x gradient
        rows.append(torch.cat((spin, gradient, value.unsqueeze(-1)), -1))
    jacobian = torch.cat(rows, -2)
    error = torch.cat((found - sight.image).unbind(-1), -1)
    weighted = jacobian * weight.repeat(1, 2).unsqueeze(-1)
    return weighted.transpose(-1, -2) @ jacobian, (weighted * error.unsqueeze(-1)).sum(-2)


def solve_step(matrix: Tensor, gradient: Tensor, damping: Tensor, free: int) -> Tensor:
    """The damped step [B, 7] in the first `free` parameters, 0 in the others."""
    part = matrix[:, :free, :free]
    diagonal = part.diagonal(dim1=-2, dim2=-1)
    floor = 1e-12 * diagonal.amax(-1, keepdim=True).clamp_min(1e-30)
    damped = part + torch.diag_embed(damping[:, None] * diagonal + floor)
    step = -torch.linalg.solve_ex(damped, gradient[:, :free])[0]
    step = torch.where(torch.isfinite(step), step, 0.0)
    longest = torch.linalg.vector_norm(step[:, :3], dim=-1, keepdim=True)
    step = step * (1.0 / longest.clamp_min(1.0))
    return torch.nn.functional.pad(step, (0, matrix.shape[-1] - free))


def descend(cameras: Cameras, sight: Sight, sigma: Tensor, *, steps: int, free: int = 6) -> Cameras:
    """Levenberg-Marquardt on the robust cost of fixed scale sigma [B]; a step that does not lower it is not taken.

    `free` 6 keeps the focal length, 7 finds it too.
    """
    damping = torch.full_like(sigma, 1e-3)
    cost = robust_cost(residuals(cameras, sight), sight.weight, sigma)
    for _ in range(steps):
        weight = robust_weight(residuals(cameras, sight), sight.weight, sigma)
        step = solve_step(*normal_equations(cameras, sight, weight), damping, free)
        tried = cameras.moved(step)
        after = robust_cost(residuals(tried, sight), sight.weight, sigma)
        better = after <= cost
        cameras = _chosen(better, tried, cameras)
        cost = torch.where(better, after, cost)
        damping = torch.where(better, damping * 0.2, damping * 8.0).clamp(1e-9, 1e6)
        if bool((step.abs() < 1e-10).all()):
            break
    return cameras


def _chosen(first: Tensor, one: Cameras, other: Cameras) -> Cameras:
    return Cameras(
        torch.where(first[:, None, None], one.rotation, other.rotation),
        torch.where(first[:, None], one.translation, other.translation),
        torch.where(first, one.log_focal, other.log_focal),
    )


def settle(cameras: Cameras, sight: Sight, *, rounds: int = 5, steps: int = 5, free: int = 6) -> tuple[Cameras, Tensor]:
    """Descend with the scale that the errors themselves tell, until both agree. -> cameras and sigma [B]"""
    sigma = 3 * spread(residuals(cameras, sight), sight.weight)
    for _ in range(rounds):
        cameras = descend(cameras, sight, sigma, steps=steps, free=free)
        sigma = spread(residuals(cameras, sight), sight.weight).minimum(sigma)
    cameras = descend(cameras, sight, sigma, steps=3 * steps, free=free)
    return replace(cameras, rotation=roma.special_procrustes(cameras.rotation)), sigma
