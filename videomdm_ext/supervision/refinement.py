"""A better teacher from the same evidence: every joint on its keypoint's ray, one skeleton, smooth in time.

A lifter's depth errors show in what must not change: the lengths of a person's bones, and how joints accelerate.
For each clip this solves for the depths along the rays (and one scale) that agree with a skeleton shared by all
clips, which is estimated on the way, with smooth motion, and with the lifted depths within their usual error.
No 3D truth enters. The mean scale over the clips stays the lifter's: a single camera cannot tell it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from videomdm_ext.geometry.cameras import to_camera, to_world
from videomdm_ext.motion.kinematics import bone_lengths, bone_vectors
from videomdm_ext.skeletons import Skeleton
from videomdm_ext.supervision.observation import Observation
from videomdm_ext.supervision.targets import on_rays

Progress = Callable[[int, int], None]
"""Called with the iterations done and their number."""


@dataclass(frozen=True)
class Refinement:
    """Expected deviations, in metres and frames; each term is weighed by the inverse square of its own."""

    iterations: int = 300
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


def refine(
    positions: Tensor,
    observation: Observation,
    skeleton: Skeleton,
    *,
    lengths: Tensor | None = None,
    nearest: float = 0.5,
    config: Refinement | None = None,
    progress: Progress | None = None,
) -> tuple[Tensor, Tensor]:
    """Move lifted positions [B, T, J, 3] along their rays. -> positions [B, T, J, 3], shared bone lengths [J - 1], m.

    `lengths` holds the skeleton fixed where it is known already. A joint that was not seen keeps the ray on which the
    lifter put it. Frames that are not valid come back as they went in, and may hold anything.
    """
    config = config or Refinement()
    valid = observation.valid.to(positions.dtype)
    held = torch.where(observation.valid[..., None, None], positions, 1.0)
    start = to_camera(on_rays(held, observation, nearest), observation.extrinsics)
    depth = start[..., 2].clamp_min(nearest)
    rays = start / depth.unsqueeze(-1)
    known = lengths if lengths is not None else bone_lengths(positions, skeleton)[observation.valid].median(0).values
    unknown = _Depths(depth, valid, known, skeleton, nearest)
    free = [unknown.offset, unknown.scale] + ([unknown.growth] if lengths is None else [])
    optimizer = torch.optim.Adam(free, lr=config.rate)
    for step in range(config.iterations):
        for group in optimizer.param_groups:
            group["lr"] = config.rate * (1 - step / config.iterations) + 1e-4
        optimizer.zero_grad()
        _energy(unknown, rays, valid, skeleton, config).backward()
        optimizer.step()
        if progress:
            progress(step + 1, config.iterations)
    with torch.no_grad():
        moved = to_world(rays * unknown.values().unsqueeze(-1), observation.extrinsics)
        return torch.where(observation.valid[..., None, None], moved, positions), unknown.lengths().detach()


def _energy(unknown: _Depths, rays: Tensor, valid: Tensor, skeleton: Skeleton, config: Refinement) -> Tensor:
    """Sum over frames of squared deviations in units of their expected size; bones and motion robustly."""
    points = rays * unknown.values().unsqueeze(-1)
    bones = bone_vectors(points, skeleton)
    lengths = unknown.lengths()
    frame = valid.unsqueeze(-1)
    stretch = (torch.linalg.vector_norm(bones, dim=-1) - lengths) / config.bone
    bend = points.diff(n=2, dim=1) / config.acceleration
    lifted = bone_vectors((rays * unknown.depth.unsqueeze(-1)), skeleton)[..., 2]
    tilt = (bones[..., 2] - lifted) / (config.tilt * lengths)
    persistent = (tilt.square() * frame).sum() + (unknown.drift() / config.root).square().mul(frame).sum()
    running = frame[:, 2:] * frame[:, 1:-1] * frame[:, :-2]
    return (
        (_robust(stretch.square()) * frame).sum()
        + (_robust(bend.square().sum(-1)) * running).sum()
        + persistent / config.correlation
        + (unknown.clip_scale() / config.scale).square().sum()
    )


def _robust(squared: Tensor) -> Tensor:
    """Pseudo-Huber of a squared deviation: quadratic under 1, then linear."""
    return 2.0 * (torch.sqrt(1.0 + squared / 2.0) - 1.0)
