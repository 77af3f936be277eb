"""The posterior target: 2D supervision in its natural-gradient form (docs/method.md, section 4b).

With z the prediction (no gradient), r(z) the depth-weighted image residual over its expected error, J its Jacobian
with respect to the essential channels and Lambda the precision of the prediction in z-scored features,

    delta = argmin |r + J delta|^2 + |delta|^2_Lambda,    y* = features of dec(z + Omega delta).

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
from videomdm_ext.motion.features import FeatureSpace, channel_validity, decode_with_headings, encode
from videomdm_ext.motion.kinematics import HeadingRule, heading, wrap_angle
from videomdm_ext.motion.skeletons import Skeleton
from videomdm_ext.supervision.observation import Observation

MOST_RELAXED = 4.0
"""Largest factor of over-relaxation: a camera that looks straight down sees no heights at all."""
PLAUSIBLE = 0.15
"""m per frame^4: the fourth difference in time of a coordinate at 20 frames a second, 98 % of motion capture."""
QUICK = 0.03
"""m per frame: a step of a foot that hardly rests."""
HEADING_SLACK = math.radians(30.0)
"""Smoothing the teacher's motion and the prediction's leaves this much between their headings at the most."""


@dataclass(frozen=True)
class Gaussian:
    """Standard deviations of what is known beside the prediction's own precision; infinity leaves a kind of row out.

    keypoint: of a keypoint of full weight, across its ray, m. acceleration: of the second difference in time of a
    joint's error, m per frame^2: errors of a prediction are smooth, tremble is the detector's. tremble: of what exceeds
    PLAUSIBLE of the fourth difference in time of each coordinate, m per frame^4: no motion of a person has more, and no
    image shows it along the ray. rest: of the step of an ankle or a foot that rests, m; the quicker it is the less it
    is held, a quarter at QUICK.
    """

    keypoint: float = 0.01
    acceleration: float = 0.025
    tremble: float = math.inf
    rest: float = math.inf


class Decoding:
    """The derivative of `decode` at raw features [B, T, D], with respect to the raw essential channels.

    Channels [B, T, E] are in the order of `by_axis`: the root's four, then all joints' x, y and z. What is pushed to
    positions or pulled from them is [B, T, 3, J], so that one operation serves all axes: on a GPU each costs, however
    small. What turns about the vertical axis is a pair, x and z. `positions` as decoded, [B, T, J, 3].
    """

    def __init__(self, raw: Tensor, skeleton: Skeleton) -> None:
        headings, self.positions = decode_with_headings(raw, skeleton)
        x, _, z = self.positions.unbind(-1)
        self.root_x, self.root_z = x[..., :1], z[..., :1]
        self.x, self.z = x[..., 1:] - self.root_x, z[..., 1:] - self.root_z
        self.swing = torch.stack((self.z, -self.x), 2)
        self.step = torch.cat((self.root_z.diff(dim=1), -self.root_x.diff(dim=1)), -1)
        self.cos, self.sin = headings.cos().unsqueeze(-1), headings.sin().unsqueeze(-1)
        self.across = torch.cat((self.sin, -self.sin), -1)

    def push(self, change: Tensor) -> Tensor:
        """J v: what a change of the channels does to the positions."""
        root, joints = change.split((4, change.shape[-1] - 4), -1)
        joints, velocity = joints.unflatten(-1, (3, -1)), root[:, :-1, 1:3]
        turn = _after(-2.0 * root[:, :-1, :1])
        steps = self.cos[:, 1:] * velocity + self.across[:, 1:] * velocity.flip(-1) + turn[:, 1:] * self.step
        ground, level = _after(steps), joints[:, :, ::2]
        level = self.cos.unsqueeze(-1) * level + self.across.unsqueeze(-1) * level.flip(2)
        x, z = (level + turn.unsqueeze(-1) * self.swing + ground.unsqueeze(-1)).unbind(2)
        parts = (ground[..., :1], x, root[..., 3:], joints[:, :, 1], ground[..., 1:], z)
        return torch.cat(parts, -1).unflatten(-1, (3, -1))

    def pull(self, force: Tensor) -> Tensor:
        """J^T u: the gradient in the channels of a gradient in the positions."""
        level, height = force[:, :, ::2, 1:], force[:, :, 1]
        steps = _before(force[:, :, ::2].sum(-1))
        swung, stepped = level * self.swing, steps * self.step
        turn = (swung[:, 1:, 0] + swung[:, 1:, 1]).sum(-1, keepdim=True) + stepped[..., :1] + stepped[..., 1:]
        yaw = -2.0 * turn.flip(1).cumsum(1).flip(1)
        ahead = torch.cat((yaw, self.cos[:, 1:] * steps - self.across[:, 1:] * steps.flip(-1)), -1)
        x, z = (self.cos.unsqueeze(-1) * level - self.across.unsqueeze(-1) * level.flip(2)).unbind(2)
        return torch.cat((torch.nn.functional.pad(ahead, (0, 0, 0, 1)), height[..., :1], x, height[..., 1:], z), -1)


def _after(values: Tensor) -> Tensor:
    """Sums over all earlier frames: [B, T - 1, C] -> [B, T, C], the first 0."""
    return torch.nn.functional.pad(values.cumsum(1), (0, 0, 1, 0))


def _before(values: Tensor) -> Tensor:
    """The transpose of `_after`: sums over all later frames. [B, T, C] -> [B, T - 1, C]."""
    return values[:, 1:].flip(1).cumsum(1).flip(1)


def _difference_back(values: Tensor, order: int) -> Tensor:
    """The transpose of an order's differences in time, for an odd one its negative: [B, T - order, 3, J] -> T."""
    return torch.nn.functional.pad(values, (0, 0, 0, 0, order, order)).diff(n=order, dim=1)


def _diagonal_back(weight: Tensor, squares: tuple[float, ...]) -> Tensor:
    """The diagonal of D^T W D for differences D in time whose coefficients have these squares. [B, T - n, C] -> T."""
    last = len(squares) - 1
    frames, padded = weight.shape[1] + last, torch.nn.functional.pad(weight, (0, 0, last, last))
    return torch.stack([s * padded[:, last - k : last - k + frames] for k, s in enumerate(squares)]).sum(0)


def _turned(cos: Tensor, sin: Tensor, xx: Tensor, zx: Tensor, zz: Tensor) -> tuple[Tensor, Tensor]:
    """The diagonal, x and z, of a symmetric form over the ground in axes that are turned by a heading."""
    cross = 2.0 * cos * sin * zx
    return cos.square() * xx - cross + sin.square() * zz, sin.square() * xx + cross + cos.square() * zz


def by_axis(skeleton: Skeleton) -> list[int]:
    """Essential channels with the joints' coordinates axis by axis."""
    return [*range(4), *(channel for axis in range(3) for channel in range(4 + axis, 3 * skeleton.num_joints + 1, 3))]


class Rows:
    """The rows of r at given positions: their gradient J_r^T r (`force`) and curvature J_r^T J_r, in the positions.

    Rows of accelerations only resist the move; those of tremble and of feet that rest have a residual where the guess
    misses the keypoints, from 0 to 1 of it: what they confirm is motion. All of positions are [B, T, 3, J]. `relaxed`
    [B, 1 or T, 3, 1] are the factors by which the move is over-relaxed.
    """

    def __init__(
        self,
        positions: Tensor,
        observation: Observation,
        skeleton: Skeleton,
        known: Gaussian,
        nearest: float,
        relaxed: Tensor,
    ) -> None:
        points, depth = image_points(to_camera(positions, observation.extrinsics), nearest)
        weight = torch.where(depth >= nearest, observation.weight, 0.0) / known.keypoint**2
        points, rows = points.mT.contiguous(), observation.extrinsics[..., :3].unsqueeze(-1)
        off = points - observation.keypoints.mT
        u, v = (rows[..., :2, :, :] - points.unsqueeze(3) * rows[..., 2:, :, :]).unbind(2)
        pull = (weight * depth).unsqueeze(2) * off
        missed = (pull * depth.unsqueeze(2) * off).clamp(0.0, 1.0).amax(2)
        self.calm: Tensor | None = None
        self.still: Tensor | None = None
        self.force = pull[:, :, :1] * u + pull[:, :, 1:] * v
        pairs = u.movedim(2, 0).unsqueeze(3) * u + v.movedim(2, 0).unsqueeze(3) * v
        self.image = (weight.unsqueeze(2) * pairs).contiguous()
        valid = observation.valid.to(positions.dtype).unsqueeze(-1)
        self.smooth = valid[:, 2:] * valid[:, 1:-1] * valid[:, :-2] / known.acceleration**2
        if math.isfinite(known.tremble) and valid.shape[1] > 4:
            self._calm(positions, valid, missed, known.tremble)
        if math.isfinite(known.rest):
            self._still(positions, valid, missed, list(skeleton.contact_joints), known.rest, relaxed)

    def _calm(self, positions: Tensor, valid: Tensor, missed: Tensor, tremble: float) -> None:
        """Rows for what exceeds PLAUSIBLE of the fourth differences; they weigh as the image is `missed` [B, T, J]."""
        whole = valid.unfold(1, 5, 1).amin(-1) / tremble**2 * missed.unfold(1, 5, 1).amax(-1)
        excess = torch.nn.functional.softshrink(positions.mT.contiguous().diff(n=4, dim=1), PLAUSIBLE)
        self.calm = whole.unsqueeze(2) * (excess != 0)
        self.force = self.force + _difference_back(whole.unsqueeze(2) * excess, 4)

    def _still(
        self, positions: Tensor, valid: Tensor, missed: Tensor, feet: list[int], rest: float, relaxed: Tensor
    ) -> None:
        """Rows for the steps of feet, which are let go as they are quick (Geman, McClure 1985).

        They ask for so much less as the move is over-relaxed: what it takes away of a step is the step, and no more.
        """
        step = positions.mT.diff(dim=1)
        held = (1.0 + step.square().sum(2) / QUICK**2).pow(-2) * valid[:, 1:] * valid[:, :-1] / rest**2
        self.still = torch.zeros_like(held).unsqueeze(2)
        self.still[..., feet] = held[..., feet].unsqueeze(2)
        pulled = self.still * missed.unfold(1, 2, 1).amax(-1).unsqueeze(2) * step / relaxed[:, -step.shape[1] :]
        self.force = self.force - _difference_back(pulled, 1)

    def curvature(self, change: Tensor) -> Tensor:
        """J_r^T J_r of a change of the positions."""
        moved = (self.image * change.movedim(2, 0).unsqueeze(3)).sum(0)
        step = change.diff(dim=1)
        bend = step.diff(dim=1)
        bent = self.smooth.unsqueeze(-1) * bend
        if self.calm is not None:
            bent = bent + _difference_back(self.calm * bend.diff(n=2, dim=1), 2)
        moved = moved + _difference_back(bent, 2)
        return moved if self.still is None else moved - _difference_back(self.still * step, 1)

    def diagonal(self, decoding: Decoding) -> Tensor:
        """The diagonal of J^T J_r^T J_r J, in the channels, but for what turns do to rows in time.

        A turn swings all later frames about the root's place before it.
        """
        xx, yy, zz, zx = (self.image[i][:, :, j] for i, j in ((0, 0), (1, 1), (2, 2), (2, 0)))
        cos, sin = decoding.cos, decoding.sin
        level, root_x, root_z = (xx + zz) / 2.0, decoding.root_x, decoding.root_z
        away_x, away_z = decoding.x + root_x, decoding.z + root_z
        far = level[..., :1] * (root_x.square() + root_z.square())
        far = far + (level[..., 1:] * (away_x.square() + away_z.square())).sum(-1, keepdim=True)
        far_x = level[..., :1] * root_x + (level[..., 1:] * away_x).sum(-1, keepdim=True)
        far_z = level[..., :1] * root_z + (level[..., 1:] * away_z).sum(-1, keepdim=True)
        total = torch.cat((far, far_x, far_z, *(part.sum(-1, keepdim=True) for part in (level, xx, zx, zz))), -1)
        far, far_x, far_z, level, step_xx, step_zx, step_zz = torch.nn.functional.pad(
            _before(total), (0, 0, 0, 1)
        ).split(1, -1)
        turn = far - 2.0 * (root_x * far_x + root_z * far_z) + (root_x.square() + root_z.square()) * level
        ahead_cos, ahead_sin = (torch.cat((part[:, 1:], part[:, -1:]), 1) for part in (cos, sin))
        jolt = xx.shape[-1] * _diagonal_back(self.smooth, (1.0, 1.0, 0.0))
        if self.still is not None:
            jolt = jolt + _diagonal_back(self.still[:, :, 0].sum(-1, keepdim=True), (1.0, 0.0))
        steps = (step + jolt for step in _turned(ahead_cos, ahead_sin, step_xx, step_zx, step_zz))
        x, z = _turned(cos, sin, xx[..., 1:], zx[..., 1:], zz[..., 1:])
        resist = _diagonal_back(self.smooth, (1.0, 4.0, 1.0))
        if self.calm is not None:
            calm = self.calm.sum(2).mean(-1, keepdim=True) / 3.0
            resist = resist + _diagonal_back(calm, (1.0, 16.0, 36.0, 16.0, 1.0))
        held = resist if self.still is None else resist + _diagonal_back(self.still[:, :, 0, 1:], (1.0, 1.0))
        joints = (x + held, yy[..., 1:] + held, z + held)
        return torch.cat((4.0 * turn, *steps, yy[..., :1] + resist, *joints), -1)


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
    iterations: int = 8,
    relaxed: bool = False,
) -> Tensor:
    """y* of predictions x [B, D, 1, T], z-scored. No gradient. -> [B, D, 1, T].

    `precision` Lambda broadcasts to [B, T, E], in the order of `by_axis`: the squared inverse deviation of z's
    essential channels. `iterations` of conjugate gradients; `relaxed` moves by Omega delta (see `relaxation`). Joints
    nearer to the camera than `nearest` metres have no image row. Padded frames and channels that do not exist keep
    the prediction.

    The same positions can be written with any headings from the second frame on, and no image tells which. Where the
    headings are further from the body's own direction than HEADING_SLACK more than in `teacher` [B, D, 1, T], whose
    headings follow the set's rule, the target's are turned back.
    """
    skeleton = space.skeleton
    order = by_axis(skeleton)
    raw = space.raw(x)
    decoding = Decoding(raw, skeleton)
    omega = relaxation(observation.extrinsics) if relaxed else raw.new_ones(1, 1, 3, 1)
    rows = Rows(decoding.positions, observation, skeleton, known, nearest, omega)
    scale = space.std[order] * channel_validity(observation.valid, skeleton)[..., order]

    def system(change: Tensor) -> Tensor:
        return scale * decoding.pull(rows.curvature(decoding.push(scale * change))) + precision * change

    diagonal = scale.square() * rows.diagonal(decoding) + precision
    move = scale * conjugate_gradients(system, -scale * decoding.pull(rows.force), diagonal, iterations)
    axes = [0, 0, 0, 1, *(axis for axis in range(3) for _ in range(skeleton.num_joints - 1))]
    raw[..., order] += move * omega[..., axes, 0]
    headings, positions = decode_with_headings(raw, skeleton)
    stray = _stray_heading(headings, positions, space)
    if teacher is not None:
        stray = stray - _stray_heading(*decode_with_headings(space.raw(teacher), skeleton), space)
    stray = torch.nn.functional.softshrink(wrap_angle(stray), HEADING_SLACK)
    headings = torch.cat((headings[:, :1], headings[:, 1:] + stray[:, 1:]), 1)
    return space.features(encode(positions, skeleton, headings, initial_heading=observation.initial_heading))


def _stray_heading(headings: Tensor, positions: Tensor, space: FeatureSpace) -> Tensor:
    """By how much the body faces another way than its headings [B, T] record. -> [B, T], radians."""
    return wrap_angle(heading(positions, space.skeleton, HeadingRule(0.0, space.rule.hips)) - headings)


def conjugate_gradients(system: Callable[[Tensor], Tensor], right: Tensor, diagonal: Tensor, iterations: int) -> Tensor:
    """Solve system(x) = right, positive definite, for each of B clips by itself (Hestenes, Stiefel 1952). [B, ...].

    Preconditioned by `diagonal`, about that of the system.
    """
    axes = tuple(range(1, right.ndim))
    tiny = torch.finfo(right.dtype).tiny
    solution, residual = torch.zeros_like(right), right
    direction = residual / diagonal
    size = (residual * direction).sum(axes, keepdim=True)
    for _ in range(iterations):
        image = system(direction)
        rate = size / (direction * image).sum(axes, keepdim=True).clamp_min(tiny)
        solution = solution + rate * direction
        residual = residual - rate * image
        scaled = residual / diagonal
        size, before = (residual * scaled).sum(axes, keepdim=True), size
        direction = scaled + size / before.clamp_min(tiny) * direction
    return solution


def relaxation(extrinsics: Tensor) -> Tensor:
    """Omega: factors [B, 1 or T, 3, 1] of x, y and z that make the move's expectation the whole error.

    A camera at elevation phi sees (1 + sin^2 phi) / 2 of a horizontal error on average over a uniform azimuth and
    cos^2 phi of a vertical one. Both kinds stay what they are in a person's heading frame, so the inverses weight
    channels. At most MOST_RELAXED.
    """
    sine2 = extrinsics[..., 2, 1].square().unsqueeze(-1)
    level, upright = 2.0 / (1.0 + sine2), (1.0 / (1.0 - sine2).clamp_min(1e-6)).clamp_max(MOST_RELAXED)
    return torch.stack((level, upright, level), -2)
