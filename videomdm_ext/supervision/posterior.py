"""The posterior target: 2D supervision in its natural-gradient form (docs/method.md, section 5).

With z the prediction (no gradient), r(z) the depth-weighted image residual over its expected error, J its Jacobian
with respect to the essential channels and Lambda the precision of the prediction in z-scored features,

    delta = argmin |r + J delta|^2 + |delta|^2_Lambda,    y* = features of dec(z + delta).

y* is the posterior mean of the motion given the prediction as a Gaussian prior and the detector's keypoints as the
measurement, so it has the fixed points of reprojection and the conditioning of a distance between features. Decoding
is cumulative sums and rotations, so J and its transpose are written by hand; the system is solved by conjugate
gradients, all clips and frames at once.

B clips, T frames, J joints, E = 3 J + 1 essential channels.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from videomdm_ext.geometry.cameras import image_points, to_camera
from videomdm_ext.geometry.rotations import rotate_yaw_together
from videomdm_ext.motion.features import FeatureSpace, channel_validity, decode, decode_root, encode, redundant
from videomdm_ext.motion.kinematics import HeadingRule, heading, wrap_angle
from videomdm_ext.skeletons import Skeleton
from videomdm_ext.supervision.observation import Observation

MOST_RELAXED = 4.0
"""Largest factor of over-relaxation: a camera that looks straight down sees no heights at all."""


HEADING_SLACK = math.radians(30.0)
"""Smoothing the teacher's motion and the prediction's leaves this much between their headings at the most."""


@dataclass(frozen=True)
class Gaussian:
    """What is known beside the prediction, as standard deviations; infinity leaves a kind of row out.

    keypoint: of a keypoint of full weight, across its ray, m. acceleration: of each joint's second difference,
    m per frame^2. bone: of a bone's length about its mean over the clip, m.
    """

    keypoint: float = 0.01
    acceleration: float = 0.025
    bone: float = 0.01


class Decoding:
    """The derivative of `decode` at raw features [B, T, D], with respect to the raw essential channels [B, T, E]."""

    def __init__(self, raw: Tensor, skeleton: Skeleton) -> None:
        self.headings, root = decode_root(raw, skeleton)
        self.positions = decode(raw, skeleton)
        ground = root[:, :, (0, 2)]
        self.step = ground.diff(dim=1)
        self.local = self.positions[:, :, 1:, (0, 2)] - ground.unsqueeze(2)
        self.cos, self.sin = self.headings[:, 1:].cos(), self.headings[:, 1:].sin()

    def push(self, change: Tensor) -> Tensor:
        """J v: what a change of the channels [B, T, E] does to the positions. -> [B, T, J, 3]."""
        yaw, velocity, height, local = change.split((1, 2, 1, change.shape[-1] - 4), -1)
        turn = _after(-2.0 * yaw[:, :-1])
        vx, vz = velocity[:, :-1].unbind(-1)
        later = turn[:, 1:, 0]
        x = self.cos * vx + self.sin * vz + later * self.step[..., 1]
        z = self.cos * vz - self.sin * vx - later * self.step[..., 0]
        ground = _after(torch.stack((x, z), -1))
        joints = rotate_yaw_together(local.unflatten(-1, (-1, 3)), self.headings)
        joints[..., 0] += ground[..., :1] + turn * self.local[..., 1]
        joints[..., 2] += ground[..., 1:] - turn * self.local[..., 0]
        root = torch.cat((ground[..., :1], height, ground[..., 1:]), -1)
        return torch.cat((root.unsqueeze(2), joints), 2)

    def pull(self, force: Tensor) -> Tensor:
        """J^T u: the gradient in the channels [B, T, E] of a gradient in the positions [B, T, J, 3]."""
        joints = force[:, :, 1:]
        turn = (joints[..., 0] * self.local[..., 1] - joints[..., 2] * self.local[..., 0]).sum(2)
        step = _before(force[..., (0, 2)].sum(2))
        x, z = step.unbind(-1)
        velocity = torch.stack((self.cos * x - self.sin * z, self.sin * x + self.cos * z), -1)
        turn = torch.cat((turn[:, :1], turn[:, 1:] + x * self.step[..., 1] - z * self.step[..., 0]), 1)
        yaw = -2.0 * _before(turn.unsqueeze(-1))
        ahead = torch.nn.functional.pad(torch.cat((yaw, velocity), -1), (0, 0, 0, 1))
        local = rotate_yaw_together(joints, -self.headings).flatten(2)
        return torch.cat((ahead, force[:, :, 0, 1:2], local), -1)


def _after(values: Tensor) -> Tensor:
    """Sums over all earlier frames: [B, T - 1, C] -> [B, T, C], the first 0."""
    return torch.nn.functional.pad(values.cumsum(1), (0, 0, 1, 0))


def _before(values: Tensor) -> Tensor:
    """The transpose of `_after`: sums over all later frames. [B, T, C] -> [B, T - 1, C]."""
    return values[:, 1:].flip(1).cumsum(1).flip(1)


class Rows:
    """The rows of r at given positions: their gradient J_r^T r and their curvature J_r^T J_r, in the positions."""

    def __init__(
        self, positions: Tensor, observation: Observation, skeleton: Skeleton, known: Gaussian, nearest: float
    ):
        camera = to_camera(positions, observation.extrinsics)
        points, depth = image_points(camera, nearest)
        weight = torch.where(depth >= nearest, observation.weight, 0.0) / known.keypoint**2
        across = (
            observation.extrinsics[:, :, None, :2, :3] - points[..., None] * observation.extrinsics[:, :, None, 2:, :3]
        )
        self.image = weight[..., None, None] * across.transpose(-1, -2) @ across
        missed = (weight * depth)[..., None] * (points - observation.keypoints)
        force = (missed[..., None] * across).sum(-2)
        valid = observation.valid.to(positions.dtype)
        self.smooth = (valid[:, 2:] * valid[:, 1:-1] * valid[:, :-2] / known.acceleration**2)[..., None, None]
        force = force + self._accelerations(positions)
        self.ends = positions.new_zeros(skeleton.num_joints - 1, skeleton.num_joints)
        bones = torch.arange(skeleton.num_joints - 1, device=positions.device)
        self.ends[bones, bones + 1] = 1.0
        self.ends[bones, list(skeleton.parents[1:])] -= 1.0
        vectors = self.ends @ positions
        lengths = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True).clamp_min(1e-6)
        self.along = vectors / lengths
        frames = valid[..., None, None]
        mean = (lengths * frames).sum(1, keepdim=True) / frames.sum(1, keepdim=True).clamp_min(1.0)
        self.stiff = frames / known.bone**2
        self.force = force + self.ends.T @ (self.stiff * (lengths - mean) * self.along)

    def curvature(self, change: Tensor) -> Tensor:
        """J_r^T J_r of a change of the positions. [B, T, J, 3] -> the same shape."""
        stretch = (self.along * (self.ends @ change)).sum(-1, keepdim=True)
        image = (self.image * change.unsqueeze(-2)).sum(-1)
        return image + self._accelerations(change) + self.ends.T @ (self.stiff * stretch * self.along)

    def _accelerations(self, positions: Tensor) -> Tensor:
        """D^T W D of the second differences D in time of [B, T, J, 3]."""
        force = self.smooth * positions.diff(n=2, dim=1)
        return torch.nn.functional.pad(force, (0, 0, 0, 0, 2, 2)).diff(n=2, dim=1)


@torch.no_grad()
def posterior_target(
    x: Tensor,
    observation: Observation,
    space: FeatureSpace,
    precision: Tensor | float = 1.0,
    *,
    known: Gaussian = Gaussian(),
    teacher: Tensor | None = None,
    nearest: float = 0.5,
    iterations: int = 10,
    relaxed: bool = False,
) -> Tensor:
    """y* of predictions x [B, D, 1, T], z-scored. No gradient. -> [B, D, 1, T].

    `precision` Lambda broadcasts to [B, T, E]: the squared inverse deviation of z's essential channels. `iterations`
    of conjugate gradients; `relaxed` moves by Omega delta (see `relaxation`). Joints nearer to the camera than
    `nearest` metres have no image row. Padded frames and channels that do not exist keep the prediction.

    The same positions can be written with any headings from the second frame on, and no image tells which. Where the
    headings are further from the body's own direction than HEADING_SLACK more than in `teacher` [B, D, 1, T], whose
    headings follow the set's rule, the target's are turned back.
    """
    skeleton = space.skeleton
    essential = slice(redundant(skeleton).start)
    raw = space.raw(x)
    decoding = Decoding(raw, skeleton)
    rows = Rows(decoding.positions, observation, skeleton, known, nearest)
    scale = space.std[essential] * channel_validity(observation.valid, skeleton)[..., essential]

    def system(change: Tensor) -> Tensor:
        return scale * decoding.pull(rows.curvature(decoding.push(scale * change))) + precision * change

    move = scale * conjugate_gradients(system, -scale * decoding.pull(rows.force), iterations)
    if relaxed:
        move = move * relaxation(observation.extrinsics, move.shape[-1])
    raw = torch.cat((raw[..., essential] + move, raw[..., redundant(skeleton)]), -1)
    headings, _ = decode_root(raw, skeleton)
    positions = decode(raw, skeleton)
    stray = stray_heading(positions, headings, space)
    if teacher is not None:
        stray = stray - stray_heading(
            decode(space.raw(teacher), skeleton), decode_root(space.raw(teacher), skeleton)[0], space
        )
    stray = torch.nn.functional.softshrink(wrap_angle(stray), HEADING_SLACK)
    headings = torch.cat((headings[:, :1], headings[:, 1:] + stray[:, 1:]), 1)
    return space.features(encode(positions, skeleton, headings, initial_heading=observation.initial_heading))


def stray_heading(positions: Tensor, headings: Tensor, space: FeatureSpace) -> Tensor:
    """By how much the body faces another way than its headings [B, T] record. -> [B, T], radians."""
    return wrap_angle(heading(positions, space.skeleton, HeadingRule(0.0, space.rule.hips)) - headings)


def conjugate_gradients(system: Callable[[Tensor], Tensor], right: Tensor, iterations: int) -> Tensor:
    """Solve system(x) = right, positive definite, for each of B clips by itself (Hestenes, Stiefel 1952). [B, ...]"""
    axes = tuple(range(1, right.ndim))
    solution, residual, direction = torch.zeros_like(right), right, right
    size = residual.square().sum(axes, keepdim=True)
    tiny = torch.finfo(right.dtype).tiny
    for _ in range(iterations):
        image = system(direction)
        rate = size / (direction * image).sum(axes, keepdim=True).clamp_min(tiny)
        solution = solution + rate * direction
        residual = residual - rate * image
        size, before = residual.square().sum(axes, keepdim=True), size
        direction = residual + size / before.clamp_min(tiny) * direction
    return solution


def relaxation(extrinsics: Tensor, channels: int) -> Tensor:
    """Omega: factors [B, T, E] that make the move's expectation over a uniform azimuth the whole error.

    A camera at elevation phi sees (1 + sin^2 phi) / 2 of a horizontal error on average and cos^2 phi of a vertical
    one. Both kinds stay what they are in a person's heading frame, so the inverses weight channels.
    At most MOST_RELAXED.
    """
    sine2 = extrinsics[..., 2, 1].square()
    level, upright = 2.0 / (1.0 + sine2), (1.0 / (1.0 - sine2).clamp_min(1e-6)).clamp_max(MOST_RELAXED)
    joint = torch.stack((level, upright, level), -1)
    root = torch.stack((level, level, level, upright), -1)
    return torch.cat((root, joint.repeat(1, 1, (channels - 4) // 3)), -1)
