"""A better teacher from the same evidence: joints on their keypoints' rays, one skeleton, smooth motion, likely poses.

A lifter's depth errors show in what must not change (the lengths of a person's bones), in how joints accelerate, and
in poses that the other clips do not have: cameras look from all sides, so what is depth in one clip is seen exactly in
another. For each clip this solves for the depths along the rays (and one scale) that agree with a skeleton shared by
all clips, with smooth motion, with the lifted depths within their usual error, and with a Gaussian of heading-aligned
poses. The skeleton is estimated from the clips in the first round, the Gaussian again after every round, as
expectation maximisation does.
No 3D truth enters. The mean scale over the clips stays the lifter's: a single camera cannot tell it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from videomdm_ext.geometry.cameras import to_camera, to_world
from videomdm_ext.geometry.rotations import rotate_yaw
from videomdm_ext.motion.kinematics import bone_lengths, bone_vectors, heading
from videomdm_ext.skeletons import Skeleton
from videomdm_ext.supervision.observation import Observation
from videomdm_ext.supervision.targets import on_rays

Progress = Callable[[int, int], None]
"""Called with the iterations done and their number."""


@dataclass(frozen=True)
class Refinement:
    """Expected deviations, in metres and frames; each term is weighed by the inverse square of its own."""

    rounds: int = 6
    """Rounds with poses; the round before them has none."""
    first: int = 150
    """Iterations of the round without poses."""
    iterations: int = 50
    """Iterations of each further round."""
    rate: float = 0.02
    bone: float = 0.006
    """Length of a bone about the shared one, m."""
    acceleration: float = 0.015
    """Change of a joint's displacement from frame to frame, m."""
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
    pose_floor: float = 0.01
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


class _Depths:
    """Unknowns of B clips: depth offsets [B, T, J], a scale [B], and lengths [J - 1] shared and equal on both sides."""

    def __init__(self, depth: Tensor, valid: Tensor, lengths: Tensor, skeleton: Skeleton, nearest: float) -> None:
        self.depth, self.nearest, self.initial = depth, nearest, lengths
        self.share = (valid / valid.sum(1, keepdim=True)).unsqueeze(-1)
        self.other = [joint - 1 for joint in skeleton.mirror[1:]]
        self.offset = torch.zeros_like(depth, requires_grad=True)
        self.scale = depth.new_zeros(len(depth), requires_grad=True)
        self.growth = torch.zeros_like(lengths, requires_grad=True)

    def drift(self) -> Tensor:
        """Offset of the root about the clip's mean, [B, T, 1]: the mean is the scale's matter."""
        root = self.offset[..., :1]
        return root - (root * self.share).sum(1, keepdim=True)

    def clip_scale(self) -> Tensor:
        """[B], with mean 0 over the clips."""
        return 0.3 * (self.scale - self.scale.mean())

    def values(self) -> Tensor:
        """Depths [B, T, J], never nearer than the near plane."""
        scaled = self.depth * (1.0 + self.clip_scale())[:, None, None]
        return (scaled + torch.cat((self.drift(), self.offset[..., 1:]), -1)).clamp_min(self.nearest)

    def lengths(self) -> Tensor:
        """[J - 1], m."""
        free = self.initial * torch.exp(self.growth)
        return (free + free[self.other]) / 2


@dataclass(frozen=True)
class _Problem:
    """What is fixed while the depths are sought: rays [B, T, J, 3] of unit depth, valid [B, T] as numbers."""

    rays: Tensor
    valid: Tensor
    extrinsics: Tensor
    skeleton: Skeleton
    config: Refinement

    def world(self, unknown: _Depths) -> Tensor:
        return to_world(self.rays * unknown.values().unsqueeze(-1), self.extrinsics)

    def energy(self, unknown: _Depths, shared: Shared | None) -> Tensor:
        """Sum over frames of squared deviations in units of their expected size; bones and motion robustly."""
        points, config, frame = self.rays * unknown.values().unsqueeze(-1), self.config, self.valid.unsqueeze(-1)
        bones, lengths = bone_vectors(points, self.skeleton), unknown.lengths()
        stretch = (torch.linalg.vector_norm(bones, dim=-1) - lengths) / config.bone
        bend = points.diff(n=2, dim=1) / config.acceleration
        lifted = bone_vectors(self.rays * unknown.depth.unsqueeze(-1), self.skeleton)[..., 2]
        tilt = (bones[..., 2] - lifted) / (config.tilt * lengths)
        persistent = (tilt.square() * frame).sum() + ((unknown.drift() / config.root).square() * frame).sum()
        running = frame[:, 2:] * frame[:, 1:-1] * frame[:, :-2]
        total = (_robust(stretch.square()) * frame).sum() + (_robust(bend.square().sum(-1)) * running).sum()
        total = total + persistent / config.correlation + (unknown.clip_scale() / config.scale).square().sum()
        if shared is None:
            return total
        unusual = (aligned_poses(to_world(points, self.extrinsics), self.skeleton) - shared.mean) @ shared.whitening
        return total + (unusual.square().sum(-1) * self.valid).sum() / config.pose_frames


def aligned_poses(positions: Tensor, skeleton: Skeleton) -> Tensor:
    """Root-relative joints in the heading's frame, the heading held constant. [..., J, 3] -> [..., 3 (J - 1)]."""
    angle = heading(positions.detach(), skeleton)
    local = positions[..., 1:, :] - positions[..., :1, :]
    return rotate_yaw(local, -angle.unsqueeze(-1)).flatten(-2)


@torch.no_grad()
def _estimate(problem: _Problem, unknown: _Depths) -> Shared:
    """Lengths, and the Gaussian of the valid frames' poses as they are now."""
    poses = aligned_poses(problem.world(unknown), problem.skeleton)[problem.valid > 0]
    values, vectors = torch.linalg.eigh(torch.cov(poses.T))
    deviation = (values.clamp_min(0.0) + problem.config.pose_floor**2).sqrt()
    return Shared(unknown.lengths(), poses.mean(0), vectors / deviation)


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

    With `shared` given, from other clips of the same people, it is held fixed. A joint that was not seen keeps the ray
    on which the lifter put it. Frames that are not valid come back as they went in.
    """
    config = config or Refinement()
    start = to_camera(on_rays(positions, observation, nearest), observation.extrinsics)
    start = torch.where(observation.valid[..., None, None], start, 1.0)
    depth = start[..., 2].clamp_min(nearest)
    valid = observation.valid.to(positions.dtype)
    problem = _Problem(start / depth.unsqueeze(-1), valid, observation.extrinsics, skeleton, config)
    lengths = shared.lengths if shared else bone_lengths(positions, skeleton)[observation.valid].median(0).values
    unknown = _Depths(depth, valid, lengths, skeleton, nearest)
    done, found = 0, None
    for number in range(config.rounds + 1):
        steps, rate = (config.first, config.rate) if number == 0 else (config.iterations, config.rate / 2)
        free = [unknown.offset, unknown.scale] + ([unknown.growth] if found is None and shared is None else [])
        optimizer = torch.optim.Adam(free, lr=rate)
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = rate * (1 - step / steps) + 1e-4
            optimizer.zero_grad()
            problem.energy(unknown, found).backward()
            optimizer.step()
            done += 1
            if progress:
                progress(done, config.total)
        found = shared or _estimate(problem, unknown)
    moved = problem.world(unknown).detach()
    return torch.where(observation.valid[..., None, None], moved, positions), found or _estimate(problem, unknown)


def _robust(squared: Tensor) -> Tensor:
    """Pseudo-Huber of a squared deviation: quadratic under 1, then linear."""
    return 2.0 * (torch.sqrt(1.0 + squared / 2.0) - 1.0)
