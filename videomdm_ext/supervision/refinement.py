"""A better teacher from the same evidence: joints near their keypoints' rays, one skeleton, smooth and likely motion.

A lifter's depth errors show in what must not change (the lengths of a person's bones), in how joints accelerate, and
in poses that the other clips do not have: cameras look from all sides, so what is depth in one clip is seen exactly in
another. For each clip this solves for the depths along the rays (and one scale) that agree with a skeleton shared by
all clips up to what people differ in proportions, with smooth motion, with feet that rest where they hardly move or
are low, with the lifted depths within their usual error, and with a heavy-tailed distribution of heading-aligned poses.
What the clips share is estimated first, the skeleton in one round and the distribution after every round, as
expectation maximisation does, and then held while all clips are solved anew: a clip comes out the same in any company.
No 3D truth enters. The mean scale over the clips that are estimated from stays the lifter's.

Keypoints are not believed: left and right are put where they were in the frames around, outliers in time are let go
before, others by a robust term that sharpens from round to round, and how far a joint of a clip may leave its rays is
estimated from how far it does, so that errors which are smooth in time count too. How wrong the lifter is, is estimated
from its bones and from what it misses in the image. A clip that comes out far less likely than others keeps its lifted
motion.

Letting go: Geman and McClure, "Statistical methods for tomographic image reconstruction", Bull. ISI 52 (1987).
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from videomdm_ext.geometry.cameras import image_points, to_camera, to_world
from videomdm_ext.motion.kinematics import bone_lengths, bone_vectors
from videomdm_ext.motion.skeletons import Skeleton
from videomdm_ext.supervision.keypoints import keypoint_noise, lifter_doubt, repaired, trust
from videomdm_ext.supervision.observation import Observation
from videomdm_ext.supervision.poses import aligned_poses, estimate_poses, pooled_poses, unlikeliness

Progress = Callable[[int, int], None]
"""Called with the iterations done and their number."""
SHARPEST = 2e-4
"""Least expected distance from a ray on the image plane: what rounding and lenses leave."""
LEAST_TRUST = 0.05
"""Weight of a keypoint below which a joint becomes no looser."""
SOFTEST = 100.0
"""Distance from its ray, in units of what is expected, beyond which a keypoint is let go in the first round."""
GUARD, FEWEST = 2.0, 8
"""Energy, in units of a usual clip's, from which on a clip keeps its lifted motion; clips that tell what is usual."""


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
    share: float = 0.1
    """Share of the square of a keypoint's error that shows as distance from its ray; depths take up the rest."""
    outlier: float = 4.0
    """Distance from its ray, in units of what is expected, beyond which a keypoint is let go in the last round."""
    acceleration: float = 0.025
    """Change of a joint's displacement from frame to frame, m."""
    rest: float = 0.01
    """Step of a foot that rests, m; one that is much quicker is let go."""
    low: float = 0.05
    """Height of a foot joint above the lowest it reaches in the clip, m, from which on it hardly needs to rest."""
    standing: float = 4.0
    """How many times as much a step counts of a foot that is low; no step of it is let go."""
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
    """What all clips have in common: bone lengths [J - 1] in m, mean pose [P] and whitening [P, P], P = 3 (J - 1).

    `energy` is the upper quartile of that of refined clips, a frame; infinite where it is not known.
    """

    lengths: Tensor
    mean: Tensor
    whitening: Tensor
    energy: Tensor = field(default_factory=lambda: torch.tensor(math.inf))

    @classmethod
    def pooled(cls, parts: Sequence[tuple[int, "Shared"]]) -> "Shared":
        """What several groups of clips share, from the number of frames of each and what it shares by itself."""
        total = sum(frames for frames, _ in parts)
        lengths = torch.stack([frames / total * one.lengths.log() for frames, one in parts]).sum(0).exp()
        return cls(lengths, *pooled_poses([(frames, one.mean, one.whitening) for frames, one in parts]))


class _Unknown:
    """What is sought for B clips: depths [B, T, J], a scale [B], shifts in the image [B, T, J, 2], proportions.

    Lengths [J - 1], equal on both sides, are shared by all clips; proportions [B, J - 1] are each clip's own. Depths
    and scale are sought in units of the lifter's doubt: a step must not be longer than they are certain. While lengths
    are sought `common` holds their growth, the scales [N] of all clips, and the place of these among them.
    """

    def __init__(
        self,
        depth: Tensor,
        problem: "_Problem",
        lengths: Tensor,
        nearest: float,
        common: tuple[Tensor, Tensor, int] | None = None,
    ) -> None:
        self.depth, self.nearest, self.initial, self.seeking = depth, nearest, lengths, common is not None
        self.doubt, valid, skeleton = problem.doubt[:, None, None], problem.valid, problem.skeleton
        self.share = (valid / valid.sum(1, keepdim=True)).unsqueeze(-1)
        self.other = [joint - 1 for joint in skeleton.mirror[1:]]
        common = common or (torch.zeros_like(lengths), depth.new_zeros(len(depth), requires_grad=True), 0)
        self.growth, self.scale, self.rows = *common[:2], slice(common[2], common[2] + len(depth))
        self.offset = torch.zeros_like(depth, requires_grad=True)
        self.shifts = depth.new_zeros(*depth.shape, 2, requires_grad=True)
        self.own = depth.new_zeros(len(depth), len(lengths), requires_grad=True)

    def drift(self) -> Tensor:
        """Offset of the root about the clip's mean, [B, T, 1]: the mean is the scale's matter."""
        root = self.doubt * self.offset[..., :1]
        return root - (root * self.share).sum(1, keepdim=True)

    def clip_scale(self) -> Tensor:
        """[B]; with mean 0 over the clips while their lengths are sought, where the lifter is a usual one."""
        return 0.3 * self.doubt[:, 0, 0] * (self.scale - self.scale.mean() if self.seeking else self.scale)[self.rows]

    def depths(self) -> Tensor:
        """Depths [B, T, J], never nearer than the near plane."""
        scaled = self.depth * (1.0 + self.clip_scale())[:, None, None]
        return (scaled + torch.cat((self.drift(), self.doubt * self.offset[..., 1:]), -1)).clamp_min(self.nearest)

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

    `looseness` [B, T, J] is how far, on the image plane, a joint is expected from its ray, `loosest` [B, 1, J] the most
    it can be, and `outlier` how many times as far a keypoint is let go; `doubt` [B] scales what is expected of the
    lifter's errors.
    """

    rays: Tensor
    looseness: Tensor
    loosest: Tensor
    outlier: float
    doubt: Tensor
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
        """Of each clip, [B]: sum over frames of squared deviations in units of their expected size, most robustly."""
        points, config, frame = self.points(unknown), self.config, self.valid.unsqueeze(-1)
        doubt = self.doubt[:, None, None]
        bones, lengths = bone_vectors(points, self.skeleton), unknown.lengths()
        stretch = (torch.linalg.vector_norm(bones, dim=-1) - lengths) / config.bone
        bend = points.diff(n=2, dim=1) / config.acceleration
        lifted = bone_vectors(self.rays * unknown.depth.unsqueeze(-1), self.skeleton)[..., 2]
        tilt = (bones[..., 2] - lifted) / (config.tilt * doubt * lengths)
        person = (unknown.proportions() / config.proportion).square().unsqueeze(1)
        drift = (unknown.drift() / (config.root * doubt)).square()
        persistent = _sum(tilt.square() * frame) + _sum(person * frame) + _sum(drift * frame)
        running = frame[:, 2:] * frame[:, 1:-1] * frame[:, :-2]
        off = unknown.image_shifts().square().sum(-1) / (self.outlier * self.looseness).square()
        total = self.outlier**2 * _sum(_let_go(off) * frame) + persistent / config.correlation
        total = total + _sum(_robust(stretch.square()) * frame) + _sum(_robust(bend.square().sum(-1)) * running)
        total = total + (unknown.clip_scale() / (config.scale * self.doubt)).square()
        if shared is None:
            return total
        world = to_world(points, self.extrinsics)
        feet = world[..., list(self.skeleton.contact_joints), :]
        rest = config.rest * (1.0 + unknown.clip_scale())[:, None, None]  # so that no one is smaller for resting more
        slide = feet.diff(dim=1).square().sum(-1) / rest.square()
        height = feet[..., 1].detach()
        height = height - height.where(frame > 0, math.inf).amin(1, keepdim=True)
        low = torch.exp(-(height / config.low).square()) * frame
        standing = config.standing * low[:, 1:] * low[:, :-1]
        total = total + _sum(_let_go(slide) * (frame[:, 1:] * frame[:, :-1])) + _sum(standing * _robust(slide))
        unusual = unlikeliness(aligned_poses(world, self.skeleton), shared.mean, shared.whitening)
        return total + _sum(unusual * self.valid) / config.pose_frames


# -- solving -----------------------------------------------------------------------------------------------------------


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

    With `shared` given, from other clips, it is held fixed; else it is estimated before. A joint that was not seen
    starts where the lifter put it, but for what the lifter missed in the frames around. Joints leave their rays by
    little more than the keypoints' errors, those that are trusted less by more. Frames that are not valid come back as
    they went in, and so do clips that come out unlikely.
    """
    config = config or Refinement()
    steps, total, given = itertools.count(1), config.total * (1 if shared else 2), shared
    count = (lambda: progress(next(steps), total)) if progress else (lambda: None)
    named: dict[str, Any] = {"nearest": nearest, "config": config, "count": count}
    if shared is None:
        shared = estimate([(positions, observation)], skeleton, **named)
    moved, energy = solve(positions, observation, skeleton, shared, **named)
    if given is None:
        shared = replace(shared, energy=usual_energy(energy))
    likely = observation.valid & (energy < GUARD * shared.energy).unsqueeze(1)
    return torch.where(likely[..., None, None], moved, positions), shared


def usual_energy(energy: Tensor) -> Tensor:
    """Upper quartile of clips' energies [N], infinite where too few clips tell."""
    return energy.quantile(0.75) if len(energy) >= FEWEST else energy.new_tensor(math.inf)


def estimate(
    batches: Sequence[tuple[Tensor, Observation]],
    skeleton: Skeleton,
    *,
    nearest: float = 0.5,
    config: Refinement | None = None,
    count: Callable[[], None] = lambda: None,
    begun: Mapping[str, Any] | None = None,
    keep: Callable[[dict[str, Any]], None] | None = None,
) -> Shared:
    """What all clips of these batches share, solved together, a batch at a time in memory but for what is sought.

    `count` is called after each iteration, `keep` after each round with a state from which the same call goes on that
    is `begun` with it.
    """
    posed = [_pose(*batch, skeleton, nearest, config or Refinement()) for batch in batches]
    found = [bone_lengths(lifted, skeleton)[problem.valid > 0] for lifted, problem, _ in posed]
    lengths, at = torch.cat(found).median(0).values, 0
    growth = torch.zeros_like(lengths, requires_grad=True)
    scale, unknowns = lengths.new_zeros(sum(len(one[0]) for one in posed), requires_grad=True), []
    for _, problem, depth in posed:
        unknowns.append(_Unknown(depth, problem, lengths, nearest, (growth, scale, at)))
        at += len(depth)
    return _solve([problem for _, problem, _ in posed], unknowns, None, count, begun, keep)[1]


def solve(
    positions: Tensor,
    observation: Observation,
    skeleton: Skeleton,
    shared: Shared,
    *,
    nearest: float = 0.5,
    config: Refinement | None = None,
    count: Callable[[], None] = lambda: None,
) -> tuple[Tensor, Tensor]:
    """Every clip by itself, with what is shared held. -> positions [B, T, J, 3], arbitrary in frames that are not
    valid, and energies a frame [B]."""
    _, problem, depth = _pose(positions, observation, skeleton, nearest, config or Refinement())
    unknown = _Unknown(depth, problem, shared.lengths, nearest)
    (problem,), _ = _solve([problem], [unknown], shared, count)
    with torch.no_grad():
        energy = problem.energy(unknown, shared) / problem.valid.sum(1).clamp_min(1.0)
        return problem.world(unknown), energy


def _pose(
    positions: Tensor, observation: Observation, skeleton: Skeleton, nearest: float, config: Refinement
) -> tuple[Tensor, _Problem, Tensor]:
    """Repaired joints in camera coordinates, what is to be solved, with rays between keypoints and lifted places, and
    the depths [B, T, J] to start from."""
    lifted = torch.where(observation.valid[..., None, None], to_camera(positions, observation.extrinsics), 1.0)
    lifted, observation = repaired(lifted, observation, skeleton, nearest)
    image, weight = image_points(lifted, nearest)[0], observation.weight.unsqueeze(-1)
    gap, sure = (observation.keypoints - image) * (weight > 0), trust(weight)
    rays = image + sure * gap + (1 - sure) * _around(weight * gap) / (_around(weight) + LEAST_TRUST)
    rays = torch.nn.functional.pad(rays, (0, 1), value=1.0)
    depth = ((lifted * rays).sum(-1) / rays.square().sum(-1)).clamp_min(nearest)
    noise = (config.off_ray * keypoint_noise(observation)).clamp_min(SHARPEST)[:, None, None]
    looseness = noise / observation.weight.clamp_min(LEAST_TRUST).sqrt()
    missed = gap.norm(dim=-1).where(observation.weight > 0, torch.nan).nanmedian(1, keepdim=True).values.nan_to_num()
    looseness = looseness.maximum(missed.mean(-1, keepdim=True) * (observation.weight == 0))
    doubt = lifter_doubt(lifted, gap, observation, skeleton)
    valid = observation.valid.to(lifted.dtype)
    problem = _Problem(rays, looseness, missed, SOFTEST, doubt, valid, observation.extrinsics, skeleton, config)
    return lifted, problem, depth


def _solve(
    problems: list[_Problem],
    unknowns: list[_Unknown],
    shared: Shared | None,
    count: Callable[[], None],
    begun: Mapping[str, Any] | None = None,
    keep: Callable[[dict[str, Any]], None] | None = None,
) -> tuple[list[_Problem], Shared]:
    """Minimise the energy in rounds, a batch at a time. -> the problems as they were in the last, what is shared."""
    config, least, common = problems[0].config, [problem.looseness for problem in problems], unknowns[0]
    sought = [leaf for u in unknowns for leaf in (u.offset, u.shifts, u.own)] + [common.scale, common.growth]
    optimizer = torch.optim.Adam(sought, lr=config.rate, betas=(0.9, 0.98))
    first, done, found = 0, 0, None
    if begun:
        first, done = begun["round"] + 1, config.first + begun["round"] * config.iterations
        optimizer.load_state_dict(begun["adam"])
        with torch.no_grad():
            for leaf, values in zip(sought, begun["sought"], strict=True):
                leaf.copy_(values)
        for _ in range(done):
            count()
    for number in range(first, config.rounds + 1):
        if number:
            found = shared or _estimate(problems, unknowns)
            common.growth.requires_grad_(False)
            outlier = SOFTEST * (config.outlier / SOFTEST) ** (number / config.rounds)
            problems = [
                replace(problem, looseness=_looseness(problem, unknown, loose), outlier=outlier)
                for problem, unknown, loose in zip(problems, unknowns, least, strict=True)
            ]
        for _ in range(config.iterations if number else config.first):
            optimizer.param_groups[0]["lr"] = config.rate * (1 - done / config.total) + 1e-4
            optimizer.zero_grad()
            for problem, unknown in zip(problems, unknowns, strict=True):
                problem.energy(unknown, found).sum().backward()
            optimizer.step()
            done += 1
            count()
        if keep:
            keep({"round": number, "sought": [leaf.detach() for leaf in sought], "adam": optimizer.state_dict()})
    return problems, shared or _estimate(problems, unknowns)


@torch.no_grad()
def _estimate(problems: list[_Problem], unknowns: list[_Unknown]) -> Shared:
    """Lengths, and the distribution of the valid frames' poses as they are now."""
    poses = [
        aligned_poses(problem.world(unknown), problem.skeleton)[problem.valid > 0]
        for problem, unknown in zip(problems, unknowns, strict=True)
    ]
    return Shared(unknowns[0].shared_lengths(), *estimate_poses(torch.cat(poses), problems[0].config.pose_floor))


@torch.no_grad()
def _looseness(problem: _Problem, unknown: _Unknown, least: Tensor) -> Tensor:
    """Looseness [B, T, J], at least `least`, from the median distance of each joint of each clip from its rays.

    Keypoints are not further off than the lifter sees the joints from them.
    """
    off = (unknown.image_shifts().norm(dim=-1) / least).where(problem.valid.unsqueeze(-1) > 0, torch.nan)
    spread = off.nanmedian(1, keepdim=True).values.nan_to_num() / 1.177  # of a normal distribution in the plane
    return (least * spread / math.sqrt(problem.config.share)).minimum(problem.loosest).maximum(least)


def _around(values: Tensor) -> Tensor:
    """Values [B, T, J, C] summed over time with Gaussian weights, 1 at the frame itself and 2 frames wide."""
    weights = torch.exp(-torch.arange(-6, 7, device=values.device, dtype=values.dtype).square() / 8.0)
    return torch.nn.functional.pad(values, (0, 0, 0, 0, 6, 6)).unfold(1, 13, 1) @ weights


def _sum(values: Tensor) -> Tensor:
    """[B, ...] -> [B]."""
    return values.flatten(1).sum(1)


def _robust(squared: Tensor) -> Tensor:
    """Pseudo-Huber of a squared deviation: quadratic under 1, then linear."""
    return 2.0 * (torch.sqrt(1.0 + squared / 2.0) - 1.0)


def _let_go(squared: Tensor) -> Tensor:
    """Geman-McClure of a squared deviation: quadratic under 1, then constant, so that what is far off is let go."""
    return squared / (1.0 + squared)
