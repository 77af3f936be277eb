"""The HumanML3D vector of 12 J - 1 channels, both ways, for any skeleton, batched and differentiable.

Channels: root yaw velocity (half angle), root x and z velocity, root height, root-relative positions,
6D rotations, joint velocities, foot contacts. Frame i holds forward differences to frame i + 1.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from videomdm_ext.geometry.rotations import rotate_yaw, rotate_yaw_together
from videomdm_ext.motion.kinematics import (
    RAW,
    HeadingRule,
    bone_vectors,
    contacts,
    heading,
    inverse_kinematics,
    wrap_angle,
)
from videomdm_ext.motion.skeletons import Skeleton


@dataclass(frozen=True)
class Channels:
    """Slices of the vector, by name."""

    yaw: slice
    root_velocity: slice
    height: slice
    positions: slice
    rotations: slice
    velocities: slice
    contacts: slice


def channels(skeleton: Skeleton) -> Channels:
    """Where each part of the vector lies; `essential` ones feed `decode`, the rest is redundant."""
    bones = skeleton.num_joints - 1
    ends = [0, 1, 3, 4]
    for width in (3 * bones, 6 * bones, 3 * skeleton.num_joints, 4):
        ends.append(ends[-1] + width)
    return Channels(*(slice(start, stop) for start, stop in pairwise(ends)))


def redundant(skeleton: Skeleton) -> slice:
    """Channels that `decode` does not read: rotations, velocities and contacts (67 to 262 for SMPL-22)."""
    return slice(channels(skeleton).rotations.start, skeleton.num_features)


def encode(
    positions: Tensor, skeleton: Skeleton, headings: Tensor | None = None, *, initial_heading: Tensor | float = 0.0
) -> Tensor:
    """Positions [..., T, J, 3] to raw features [..., T, D].

    The last frame repeats the differences of the one before it; HumanML3D's own files are `encode(...)[..., :-1, :]`.
    `headings` [..., T] default to those of the positions. `initial_heading` [...] is the angle by which the clip was
    turned when it was cut from a longer one: the rotation channels alone see it, since shortest arcs are taken in
    the frame of the longer clip. At least 2 frames.
    """
    if headings is None:
        headings = heading(positions, skeleton)
    step = positions.diff(dim=-3)
    step = torch.cat((step, step[..., -1:, :, :]), -3)
    yaw = -0.5 * wrap_angle(headings.diff(dim=-1))
    yaw = torch.cat((yaw, yaw[..., -1:]), -1)
    ahead = headings - 2.0 * yaw
    root_velocity = rotate_yaw(step[..., 0, :], -ahead)[..., ::2]
    local = positions[..., 1:, :] - positions[..., :1, :] * positions.new_tensor((1.0, 0.0, 1.0))
    touch = contacts(positions, skeleton)
    parts = (
        yaw.unsqueeze(-1),
        root_velocity,
        positions[..., 0, 1:2],
        rotate_yaw_together(local, -headings).flatten(-2),
        rotations(positions, headings, skeleton, initial_heading).flatten(-2),
        rotate_yaw_together(step, -headings).flatten(-2),
        torch.cat((touch, touch[..., -1:, :]), -2),
    )
    return torch.cat(parts, -1)


def rotations(positions: Tensor, headings: Tensor, skeleton: Skeleton, initial_heading: Tensor | float) -> Tensor:
    """6D rotation channels [..., T, J - 1, 6], with arcs taken in the frame turned by `initial_heading`."""
    start = torch.as_tensor(initial_heading, dtype=positions.dtype, device=positions.device)
    angle = start[..., None].expand(headings.shape)
    return inverse_kinematics(rotate_yaw_together(positions, angle), headings + angle, skeleton)


def essential(features: Tensor, skeleton: Skeleton) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Yaw [..., T], root velocity [..., T, 2], height [..., T, 1], local positions [..., T, 3 (J - 1)]; copies nothing.

    `features` [..., T, D] may end before the redundant channels.
    """
    used = redundant(skeleton).start
    yaw, velocity, height, local = features[..., :used].split((1, 2, 1, used - 4), -1)
    return yaw.squeeze(-1), velocity, height, local


def decode_root(features: Tensor, skeleton: Skeleton) -> tuple[Tensor, Tensor]:
    """Headings [..., T] and root positions [..., T, 3] of raw features [..., T, D]; both start at zero (x, z)."""
    yaw, velocity, height, _ = essential(features, skeleton)
    headings = torch.nn.functional.pad((-2.0 * yaw[..., :-1]).cumsum(-1), (1, 0))
    x, z = velocity.unbind(-1)
    step = rotate_yaw(torch.stack((x, torch.zeros_like(x), z), -1)[..., :-1, :], headings[..., 1:])
    ground = torch.nn.functional.pad(step.cumsum(-2), (0, 0, 1, 0))
    return headings, torch.cat((ground[..., :1], height, ground[..., 2:]), -1)


def decode(features: Tensor, skeleton: Skeleton) -> Tensor:
    """Raw features [..., T, D] to positions [..., T, J, 3] in the clip's canonical frame."""
    return decode_with_headings(features, skeleton)[1]


def decode_with_headings(features: Tensor, skeleton: Skeleton) -> tuple[Tensor, Tensor]:
    """Headings [..., T] and positions [..., T, J, 3] of raw features [..., T, D]."""
    headings, root = decode_root(features, skeleton)
    local = essential(features, skeleton)[3].unflatten(-1, (-1, 3))
    joints = rotate_yaw_together(local, headings) + (root * root.new_tensor((1.0, 0.0, 1.0))).unsqueeze(-2)
    return headings, torch.cat((root.unsqueeze(-2), joints), -2)


def channel_validity(valid: Tensor, skeleton: Skeleton) -> Tensor:
    """Which channels of a clip exist: differences need the next frame too. bool [..., T] -> bool [..., T, D]."""
    parts = channels(skeleton)
    differences = torch.zeros(skeleton.num_features, dtype=torch.bool, device=valid.device)
    for part in (parts.yaw, parts.root_velocity, parts.velocities, parts.contacts):
        differences[part] = True
    following = torch.cat((valid[..., 1:], torch.zeros_like(valid[..., :1])), -1) & valid
    return torch.where(differences, following.unsqueeze(-1), valid.unsqueeze(-1))


class Moments:
    """Mean and Std of raw features, gathered clip by clip."""

    def __init__(self, skeleton: Skeleton) -> None:
        self.skeleton = skeleton
        self.count = 0
        self.mean = torch.zeros(skeleton.num_features, dtype=torch.float64)
        self.squares = torch.zeros(skeleton.num_features, dtype=torch.float64)

    def add(self, features: Tensor) -> None:
        """The frames of one clip [T, D], by the parallel rule of Chan et al. (1979)."""
        frames = features.to(torch.float64)
        count = self.count + len(frames)
        apart = frames.mean(0) - self.mean
        self.squares += (frames - frames.mean(0)).square().sum(0) + apart.square() * (self.count * len(frames) / count)
        self.mean += apart * (len(frames) / count)
        self.count = count

    def mean_and_std(self) -> tuple[Tensor, Tensor]:
        """Mean and Std [D] over all frames; Std is one number per group of like channels. float32

        Groups: each root channel kind, positions, rotations, velocities, contacts, as in HumanML3D. Never zero.
        """
        std = (self.squares / max(self.count - 1, 1)).sqrt()
        parts = channels(self.skeleton)
        groups = (parts.yaw, parts.root_velocity, parts.height, parts.positions, parts.rotations, parts.velocities)
        for part in (*groups, parts.contacts):
            std[part] = std[part].mean()
        return self.mean.float(), std.clamp_min(1e-4).float()


def mean_and_std(clips: Iterable[Tensor], skeleton: Skeleton) -> tuple[Tensor, Tensor]:
    """Mean and Std [D] of raw features [T, D] over all frames of all clips, as `Moments` groups them."""
    moments = Moments(skeleton)
    for features in clips:
        moments.add(features)
    return moments.mean_and_std()


@dataclass(frozen=True)
class FeatureSpace:
    """A skeleton with the Mean and Std [D] of a data set: the space that is diffused.

    Host tensors are [B, D, 1, T], z-scored; `rule` says how the set's headings were made.
    """

    skeleton: Skeleton
    mean: Tensor
    std: Tensor
    rule: HeadingRule = RAW

    def to(self, device: torch.device) -> "FeatureSpace":
        return FeatureSpace(self.skeleton, self.mean.to(device), self.std.to(device), self.rule)

    def raw(self, x: Tensor) -> Tensor:
        """Host tensor [B, D, 1, T] to raw features [B, T, D]."""
        return x.squeeze(2).transpose(1, 2).contiguous() * self.std + self.mean

    def features(self, raw: Tensor) -> Tensor:
        """Raw features [B, T, D] to the host's [B, D, 1, T]."""
        return ((raw - self.mean) / self.std).transpose(1, 2).unsqueeze(2)


# -- the heading at which stored vectors start ------------------------------------------------------------------------

ROUNDING = 1e-3
"""Radians, below which an initial heading counts as 0."""
FITS = 0.2
"""Largest root mean square residual of rotation channels at which they count as this format's."""


def initial_heading(features: Tensor, skeleton: Skeleton) -> float:
    """Radians to give `encode` as `initial_heading` for its rotation channels to equal those of `features` [T, D].

    `decode` starts every clip at heading zero, but the arcs of stored rotation channels were taken in the frame of
    whatever longer or otherwise turned clip the vectors come from, and arcs do not turn along. A bone of the first
    frame that starts at the root and rests along u has the local rotation L = Ry(h) A, with A the arc from u to the
    bone's direction, so L u is that direction turned by the heading h, both in the frame of the arcs. As decoded,
    heading and direction are each short of the angle a sought: L u is the decoded direction turned by 2 a. Half of that
    turn, modulo pi, is a, and of the two candidates the one that fits all rotation channels is right. 0 where neither
    fits: the channels then hold something else.
    """
    joints = decode(features[:1], skeleton)[0]
    stored = features[0, channels(skeleton).rotations].unflatten(-1, (-1, 6))
    twice = _turn(joints, stored, skeleton)
    candidates = wrap_angle(torch.stack((twice / 2, twice / 2 + math.pi)))
    poses = joints.expand(2, 1, *joints.shape)
    made = rotations(poses, torch.zeros_like(poses[..., 0, 0]), skeleton, candidates)
    residual = (made[:, 0] - stored).square().mean((-1, -2)).sqrt()
    best = int(residual.argmin())
    angle = candidates[best].item()
    return angle if residual[best] < FITS and abs(angle) > ROUNDING else 0.0


def _turn(joints: Tensor, stored: Tensor, skeleton: Skeleton) -> Tensor:
    """Angle [] about +y from bones of a pose [J, 3] to L u, mean over those that start at the root and rest along x."""
    rest, start = skeleton.rest_directions, skeleton.rotation_parents
    bones = [joint for joint in range(1, skeleton.num_joints) if start[joint] == 0 and abs(rest[joint][0]) == 1.0]
    rows = [joint - 1 for joint in bones]
    seen = bone_vectors(joints, skeleton)[rows]
    turned = stored[rows, :3] * seen.new_tensor([rest[joint][0] for joint in bones])[:, None]
    along = (turned[:, 0] * seen[:, 0] + turned[:, 2] * seen[:, 2]).sum()
    across = (turned[:, 0] * seen[:, 2] - turned[:, 2] * seen[:, 0]).sum()
    return torch.atan2(across, along)
