"""A better teacher from the same evidence: joints on their keypoints' rays, one skeleton, smooth motion, likely poses.

A lifter's depth errors show in what must not change (the lengths of a person's bones), in how joints accelerate, and
in poses that the other clips do not have: cameras look from all sides, so what is depth in one clip is seen exactly in
another. For each clip this solves for the depths along the rays (and one scale) that agree with a skeleton shared by
all clips up to what people differ in proportions, with smooth motion, with feet that rest where they hardly move, with
the lifted depths within their usual error, and with a heavy-tailed distribution of heading-aligned poses. Joints may
leave their rays by as much as the keypoints are noisy. The skeleton is estimated from the clips in the first round, the
distribution again after every round, as expectation maximisation does.
No 3D truth enters. The mean scale over the clips stays the lifter's: a single camera does not determine it.

A Gaussian of poses would pull rare ones to the mean as hard as errors; Student's t leaves them. Source: Lange, Little
and Taylor, "Robust statistical modeling using the t distribution", JASA 84 (1989).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from videomdm_ext.geometry.cameras import to_camera, to_world
from videomdm_ext.geometry.rotations import rotate_yaw
from videomdm_ext.motion.kinematics import bone_lengths, bone_vectors, heading
from videomdm_ext.motion.skeletons import Skeleton
from videomdm_ext.supervision.observation import Observation
from videomdm_ext.supervision.targets import on_rays

Progress = Callable[[int, int], None]
"""Called with the iterations done and their number."""
SHARPEST = 2e-4
"""Least expected distance from a ray on the image plane: what rounding and lenses leave."""
LIFTED_TRUST = 10.0
"""Precision of a keypoint beside that of the lifter in the image."""
LEAST_TRUST = 0.05
"""Weight of a keypoint below which a joint becomes no looser."""
FREEDOM = 5.0
"""Degrees of freedom of the distribution of poses: the fewer, the heavier its tails."""
SWEEPS = 10
"""Reweightings in an estimate of the distribution of poses."""


@dataclass(frozen=True)
class Refinement:
    """Expected deviations, in metres and frames; each term is weighed by the inverse square of its own."""

    rounds: int = 5
    """Rounds with poses; the round before them has none."""
    first: int = 100
    """Iterations of the round without poses."""
    iterations: int = 50
    """Iterations of each further round."""
    rate: float = 0.04
    """Of learning at the start; it falls to nearly nothing over all rounds."""
    bone: float = 0.006
    """Length of a bone about the person's own, m."""
    proportion: float = 0.03
    """Share by which a person's bone differs from the shared one, size apart: that is the scale's matter."""
    off_ray: float = 1.75
    """Distance of a joint from its keypoint's ray, in units of the keypoints' own noise."""
    acceleration: float = 0.025
    """Change of a joint's displacement from frame to frame, m."""
    rest: float = 0.01
    """Step of a foot that rests, m; one that is much quicker is let go."""
    tilt: float = 0.4
    """Lifted depth along a bone, as a share of its length."""
    root: float = 0.15
    """Lifted depth of the root about the clip's scale, m."""
    scale: float = 0.05
    """Lifted scale of a clip about 1."""
    correlation: float = 20.0
    """Frames over which a lifter's errors persist: so many count as one."""
    pose_frames: float = 2.0
    """Frames that count as one pose."""
    pose_floor: float = 0.005
    """Least standard deviation of a direction of poses, m."""

    @property
    def total(self) -> int:
        """Iterations in all."""
        return self.first + self.rounds * self.iterations


@dataclass(frozen=True)
class Shared:
    """What all clips have in common: bone lengths [J - 1] in m, mean pose [P] and whitening [P, P], P = 3 (J - 1)."""

    lengths: Tensor
    mean: Tensor
    whitening: Tensor


class _Unknown:
    """What is sought for B clips: depths [B, T, J], a scale [B], shifts in the image [B, T, J, 2], proportions.

    Lengths [J - 1], equal on both sides, are shared by all clips; proportions [B, J - 1] are each clip's own.
    """

    def __init__(self, depth: Tensor, valid: Tensor, lengths: Tensor, skeleton: Skeleton, nearest: float) -> None:
        self.depth, self.nearest, self.initial = depth, nearest, lengths
        self.share = (valid / valid.sum(1, keepdim=True)).unsqueeze(-1)
        self.other = [joint - 1 for joint in skeleton.mirror[1:]]
        self.offset = torch.zeros_like(depth, requires_grad=True)
        self.scale = depth.new_zeros(len(depth), requires_grad=True)
        self.shifts = depth.new_zeros(*depth.shape, 2, requires_grad=True)
        self.growth = torch.zeros_like(lengths, requires_grad=True)
        self.own = depth.new_zeros(len(depth), len(lengths), requires_grad=True)

    def drift(self) -> Tensor:
        """Offset of the root about the clip's mean, [B, T, 1]: the mean is the scale's matter."""
        root = self.offset[..., :1]
        return root - (root * self.share).sum(1, keepdim=True)

    def clip_scale(self) -> Tensor:
        """[B], with mean 0 over the clips."""
        return 0.3 * (self.scale - self.scale.mean())

    def depths(self) -> Tensor:
        """Depths [B, T, J], never nearer than the near plane."""
        scaled = self.depth * (1.0 + self.clip_scale())[:, None, None]
        return (scaled + torch.cat((self.drift(), self.offset[..., 1:]), -1)).clamp_min(self.nearest)

    def image_shifts(self) -> Tensor:
        """On the normalised image plane, [B, T, J, 2]."""
        return 0.01 * self.shifts

    def proportions(self) -> Tensor:
        """Logarithms [B, J - 1], with mean 0 over the bones."""
        own = (self.own + self.own[:, self.other]) / 2
        return own - own.mean(1, keepdim=True)

    def shared_lengths(self) -> Tensor:
        """[J - 1], m."""
        free = self.initial * torch.exp(self.growth)
        return (free + free[self.other]) / 2

    def lengths(self) -> Tensor:
        """Of each clip, [B, 1, J - 1], m."""
        return (self.shared_lengths() * torch.exp(self.proportions())).unsqueeze(1)


@dataclass(frozen=True)
class _Problem:
    """What is fixed while the motion is sought: rays [B, T, J, 3] of unit depth, valid [B, T] as numbers.

    `looseness` [B, T, J] is how far, on the image plane, a joint is expected from its ray.
    """

    rays: Tensor
    looseness: Tensor
    valid: Tensor
    extrinsics: Tensor
    skeleton: Skeleton
    config: Refinement

    def points(self, unknown: _Unknown) -> Tensor:
        """In camera coordinates, [B, T, J, 3]."""
        image = self.rays[..., :2] + unknown.image_shifts()
        return torch.cat((image, self.rays[..., 2:]), -1) * unknown.depths().unsqueeze(-1)

    def world(self, unknown: _Unknown) -> Tensor:
        return to_world(self.points(unknown), self.extrinsics)

    def energy(self, unknown: _Unknown, shared: Shared | None) -> Tensor:
        """Sum over frames of squared deviations in units of their expected size; bones and motion robustly."""
        points, config, frame = self.points(unknown), self.config, self.valid.unsqueeze(-1)
        bones, lengths = bone_vectors(points, self.skeleton), unknown.lengths()
        stretch = (torch.linalg.vector_norm(bones, dim=-1) - lengths) / config.bone
        bend = points.diff(n=2, dim=1) / config.acceleration
        lifted = bone_vectors(self.rays * unknown.depth.unsqueeze(-1), self.skeleton)[..., 2]
        tilt = (bones[..., 2] - lifted) / (config.tilt * lengths)
        person = (unknown.proportions() / config.proportion).square().unsqueeze(1)
        persistent = sum(((part * frame).sum() for part in (tilt.square(), person)), points.new_zeros(()))
        persistent = persistent + ((unknown.drift() / config.root).square() * frame).sum()
        running = frame[:, 2:] * frame[:, 1:-1] * frame[:, :-2]
        loose = (unknown.image_shifts().square().sum(-1) / self.looseness.square() * frame).sum()
        total = (_robust(stretch.square()) * frame).sum() + (_robust(bend.square().sum(-1)) * running).sum() + loose
        total = total + persistent / config.correlation + (unknown.clip_scale() / config.scale).square().sum()
        if shared is None:
            return total
        world = to_world(points, self.extrinsics)
        feet = world[..., list(self.skeleton.contact_joints), :]
        slide = feet.diff(dim=1).square().sum(-1) / config.rest**2
        total = total + (_resting(slide) * (frame[:, 1:] * frame[:, :-1])).sum()
        unusual = unlikeliness(aligned_poses(world, self.skeleton), shared.mean, shared.whitening)
        return total + (unusual * self.valid).sum() / config.pose_frames


def trust(weight: Tensor) -> Tensor:
    """How far from the lifted place to the keypoint a joint starts, for weights [...] in [0, 1]: 0 and 1 at the ends.

    In between a keypoint counts LIFTED_TRUST times as much as the lifter's image of the joint, which is centimetres
    off where keypoints are millimetres off.
    """
    return weight / (weight + (1 - weight) / LIFTED_TRUST)


def keypoint_noise(observation: Observation) -> Tensor:
    """Standard deviation [] of the keypoints' noise on the image plane, from the median of their sixth differences.

    It is that of white noise with such a median: motion hardly has sixth differences.
    """
    seen = (observation.weight > 0) & observation.valid.unsqueeze(-1)
    for _ in range(6):
        seen = seen[:, 1:] & seen[:, :-1]
    found = observation.keypoints.diff(n=6, dim=1)[seen].abs()
    return found.median() / (0.6745 * math.sqrt(924.0)) if len(found) else observation.keypoints.new_zeros(())


@torch.no_grad()
def _estimate(problem: _Problem, unknown: _Unknown) -> Shared:
    """Lengths, and the distribution of the valid frames' poses as they are now."""
    poses = aligned_poses(problem.world(unknown), problem.skeleton)[problem.valid > 0]
    return Shared(unknown.shared_lengths(), *estimate_poses(poses, problem.config.pose_floor))


def refine(
    positions: Tensor,
    observation: Observation,
    skeleton: Skeleton,
    *,
    shared: Shared | None = None,
    nearest: float = 0.5,
    config: Refinement | None = None,
    progress: Progress | None = None,
) -> tuple[Tensor, Shared]:
    """Move lifted positions [B, T, J, 3] along their rays. -> positions [B, T, J, 3] and what the clips share.

    With `shared` given, from other clips, it is held fixed. A joint that was not seen starts from the ray on which the
    lifter put it. Joints leave their rays by little more than the keypoints' noise, those that are trusted less by
    more. Frames that are not valid come back as they went in.
    """
    config = config or Refinement()
    anchored = replace(observation, weight=trust(observation.weight))
    start = to_camera(on_rays(positions, anchored, nearest), observation.extrinsics)
    start = torch.where(observation.valid[..., None, None], start, 1.0)
    depth = start[..., 2].clamp_min(nearest)
    valid = observation.valid.to(positions.dtype)
    looseness = (config.off_ray * keypoint_noise(observation)).clamp_min(SHARPEST)
    looseness = looseness / observation.weight.clamp_min(LEAST_TRUST).sqrt()
    rays = start / depth.unsqueeze(-1)
    problem = _Problem(rays, looseness, valid, observation.extrinsics, skeleton, config)
    lengths = shared.lengths if shared else bone_lengths(positions, skeleton)[observation.valid].median(0).values
    unknown = _Unknown(depth, valid, lengths, skeleton, nearest)
    unknown.growth.requires_grad_(shared is None)
    sought = [unknown.offset, unknown.scale, unknown.shifts, unknown.own, unknown.growth]
    optimizer = torch.optim.Adam(sought, lr=config.rate, betas=(0.9, 0.98))
    done, found = 0, None
    for number in range(config.rounds + 1):
        for _ in range(config.iterations if number else config.first):
            optimizer.param_groups[0]["lr"] = config.rate * (1 - done / config.total) + 1e-4
            optimizer.zero_grad()
            problem.energy(unknown, found).backward()
            optimizer.step()
            done += 1
            if progress:
                progress(done, config.total)
        found = shared or _estimate(problem, unknown)
        unknown.growth.requires_grad_(False)
    moved = problem.world(unknown).detach()
    return torch.where(observation.valid[..., None, None], moved, positions), found or _estimate(problem, unknown)


def _robust(squared: Tensor) -> Tensor:
    """Pseudo-Huber of a squared deviation: quadratic under 1, then linear."""
    return 2.0 * (torch.sqrt(1.0 + squared / 2.0) - 1.0)


def _resting(squared: Tensor) -> Tensor:
    """Geman-McClure of a squared deviation: quadratic under 1, then constant, so that what is far off is let go."""
    return squared / (1.0 + squared)


# -- how likely a pose is ----------------------------------------------------------------------------------------------


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
    size = poses.shape[1]
    weight, floor = poses.new_ones(len(poses)), least**2 * torch.eye(size).to(poses)
    mean, whitening = poses.mean(0), floor
    for _ in range(SWEEPS):
        mean = (weight.unsqueeze(1) * poses).sum(0) / weight.sum()
        apart = poses - mean
        values, vectors = torch.linalg.eigh((weight.unsqueeze(1) * apart).T @ apart / len(poses) + floor)
        whitening = vectors / values.clamp_min(least**2).sqrt()
        weight = (FREEDOM + size) / (FREEDOM + (apart @ whitening).square().sum(1))
    return mean, whitening
