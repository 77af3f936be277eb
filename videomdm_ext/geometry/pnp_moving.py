"""A camera that moves: one pose a frame, tied to its neighbours by how suddenly a camera can change its motion.

Minimises sum w rho(r / sigma) + sum |second difference of rotation|^2 / turn^2 + the same of the centre / shift^2 by
Gauss-Newton. A step is (w, v): R' = exp(w) R, centre' = centre + v. Frames only meet those up to two away, so that the
equations are block-tridiagonal in pairs of frames and a long clip costs no more per frame than a short one.
"""

from dataclasses import dataclass

import roma
import torch
from torch import Tensor

from videomdm_ext.geometry.pnp_refine import (
    CUT,
    Cameras,
    Sight,
    normal_equations,
    normalised_cameras,
    residuals,
    robust_cost,
    robust_weight,
    spread,
)


@dataclass(frozen=True)
class Steadiness:
    """Standard deviation of a camera's acceleration: `turn` in radians, `shift` in metres, per frame and frame."""

    turn: float = 0.005
    shift: float = 0.005

    def stiffness(self, like: Tensor) -> Tensor:
        """Inverse variances of (w, v). -> [6]"""
        return like.new_tensor([self.turn**-2] * 3 + [self.shift**-2] * 3)


def smoothed(cameras: Cameras, sight: Sight, steadiness: Steadiness, *, rounds: int = 5, steps: int = 6) -> Cameras:
    """The cameras [T] of a clip's frames [T, N], from starts that are roughly right."""
    sigma = 3 * _spread(cameras, sight)
    for _ in range(rounds):
        cameras = _descend(cameras, sight, steadiness, sigma, steps)
        sigma = _spread(cameras, sight).minimum(sigma)
    return _descend(cameras, sight, steadiness, sigma, 2 * steps)


def _spread(cameras: Cameras, sight: Sight) -> Tensor:
    """One sigma for the clip. -> [1]"""
    return spread(residuals(cameras, sight).reshape(1, -1), sight.weight.reshape(1, -1))


def _descend(cameras: Cameras, sight: Sight, steadiness: Steadiness, sigma: Tensor, steps: int) -> Cameras:
    """Levenberg-Marquardt on the whole clip with a fixed sigma."""
    damping, stiffness, each = 1e-4, steadiness.stiffness(sigma), sigma.expand(len(sight.points))
    cost = _cost(cameras, sight, stiffness, each)
    for _ in range(steps):
        weight = robust_weight(residuals(cameras, sight), sight.weight, each) / sigma.square()
        matrix, gradient = _about_centres(cameras, *normal_equations(cameras, sight, weight))
        gradient = gradient + stiffness * _pulled(_accelerations(cameras), len(gradient))
        floor = damping * matrix.diagonal(dim1=-2, dim2=-1) + 1e-9 * stiffness
        step = -solve_banded(matrix + torch.diag_embed(floor), gradient, stiffness)
        tried = _moved(cameras, step)
        after = _cost(tried, sight, stiffness, each)
        if after <= cost:
            done = bool(cost - after < 1e-10 * cost)
            cameras, cost, damping = tried, after, max(damping * 0.1, 1e-9)
            if done:
                break
        else:
            damping = damping * 20
    return cameras


def _cost(cameras: Cameras, sight: Sight, stiffness: Tensor, sigma: Tensor) -> Tensor:
    data = CUT**2 * robust_cost(residuals(cameras, sight), sight.weight, sigma).sum()
    return data + (stiffness * _accelerations(cameras).square()).sum()


def centres(cameras: Cameras) -> Tensor:
    """Where the cameras stand. -> [T, 3]"""
    return -(cameras.rotation.transpose(-1, -2) @ cameras.translation.unsqueeze(-1)).squeeze(-1)


def _accelerations(cameras: Cameras) -> Tensor:
    """Second differences of rotation (as rotation vectors) and centre. -> [T - 2, 6]"""
    turns = roma.rotmat_to_rotvec(cameras.rotation[1:] @ cameras.rotation[:-1].transpose(-1, -2))
    return torch.cat((turns.diff(dim=0), centres(cameras).diff(n=2, dim=0)), -1)


def _pulled(accelerations: Tensor, frames: int) -> Tensor:
    """What accelerations [T - 2, 6] pull at every frame: the transpose of the second difference. -> [T, 6]"""
    pull = accelerations.new_zeros(frames, 6)
    for offset, factor in ((0, 1.0), (1, -2.0), (2, 1.0)):
        pull[offset : offset + len(accelerations)] += factor * accelerations
    return pull


def _about_centres(cameras: Cameras, matrix: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Normal equations in (rotation, shift of the centre) from those in (rotation, shift of t): dt = w x t - R v."""
    change = torch.eye(6).to(matrix).repeat(len(matrix), 1, 1)
    change[:, 3:, :3] = -_cross_matrix(cameras.translation)
    change[:, 3:, 3:] = -cameras.rotation
    turned = change.transpose(-1, -2)
    return turned @ matrix[:, :6, :6] @ change, (turned @ gradient[:, :6].unsqueeze(-1)).squeeze(-1)


def _cross_matrix(vector: Tensor) -> Tensor:
    """[v]x with [v]x a = v x a. [T, 3] -> [T, 3, 3]"""
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), -1).unflatten(-1, (3, 3))


def _moved(cameras: Cameras, step: Tensor) -> Cameras:
    rotation = roma.special_procrustes(roma.rotvec_to_rotmat(step[:, :3]) @ cameras.rotation)
    centre = centres(cameras) + step[:, 3:]
    return normalised_cameras(rotation, -(rotation @ centre.unsqueeze(-1)).squeeze(-1))


def solve_banded(matrix: Tensor, gradient: Tensor, stiffness: Tensor) -> Tensor:
    """Solve (diag(matrix) + D^T diag(stiffness) D) x = gradient, D the second difference in time.

    matrix [T, 6, 6], gradient [T, 6], stiffness [6] -> x [T, 6].
    """
    frames = len(gradient)
    ends = max(frames - 2, 0)
    bands = [gradient.new_zeros(frames) for _ in range(3)]
    for first, second, factor in ((0, 0, 1), (1, 1, 4), (2, 2, 1), (0, 1, -2), (1, 2, -2), (0, 2, 1)):
        bands[second - first][first : first + ends] += factor
    spring = torch.diag_embed(stiffness)
    blocks = [matrix + bands[0][:, None, None] * spring, *(band[:, None, None] * spring for band in bands[1:])]
    if frames % 2:
        blocks = [torch.cat((block, torch.zeros_like(block[:1]))) for block in blocks]
        blocks[0][-1] = torch.eye(6).to(matrix)
        gradient = torch.cat((gradient, torch.zeros_like(gradient[:1])))
    return _solve_pairs(blocks[0], blocks[1], blocks[2], gradient)[:frames]


def _solve_pairs(own: Tensor, next_one: Tensor, after_next: Tensor, right: Tensor) -> Tensor:
    """Block-tridiagonal elimination, two frames a block; the bands are [T, 6, 6] with T even, right [T, 6]."""
    even, odd = slice(0, None, 2), slice(1, None, 2)
    zero = torch.zeros_like(own[even])
    diagonal = _block(own[even], next_one[even], next_one[even], own[odd])
    upper = _block(after_next[even], zero, next_one[odd], after_next[odd])
    values = right.reshape(len(diagonal), 12, 1)
    factors, known = [diagonal[0]], [values[0]]
    for k in range(1, len(diagonal)):
        carried = torch.linalg.solve(factors[-1], torch.cat((upper[k - 1], known[-1]), -1))
        factors.append(diagonal[k] - upper[k - 1].T @ carried[:, :12])
        known.append(values[k] - upper[k - 1].T @ carried[:, 12:])
    found = [torch.linalg.solve(factors[-1], known[-1])]
    for k in range(len(diagonal) - 2, -1, -1):
        found.append(torch.linalg.solve(factors[k], known[k] - upper[k] @ found[-1]))
    return torch.stack(found[::-1]).reshape(-1, 6)


def _block(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """[[a, b], [c, d]] of blocks [n, 6, 6]. -> [n, 12, 12]"""
    return torch.cat((torch.cat((a, b), -1), torch.cat((c, d), -1)), -2)
