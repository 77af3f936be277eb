"""Heading, canonical frame, contacts and inverse kinematics, batched over any leading dimensions."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from videomdm_ext.geometry.cameras import canonical
from videomdm_ext.geometry.rotations import arc_components, components_to_6d, relative, yaw_quaternion
from videomdm_ext.motion.skeletons import Skeleton

CONTACT_SPEED = 0.002
"""Squared displacement per frame, m^2, under which HumanML3D calls a foot joint in contact."""


@dataclass(frozen=True)
class HeadingRule:
    """How a facing direction is read off the joints.

    `sigma` frames of Gaussian smoothing, 0 for none; `hips` weights the hips' axis against the shoulders'. `anchored`
    takes the first frame of a clip from its own joints alone, not smoothed and with the hips as they are.
    """

    sigma: float = 0.0
    hips: float = 1.0
    anchored: bool = False


RAW = HeadingRule()
"""Hips and shoulders of each frame."""
HUMANML3D = HeadingRule(sigma=20.0, hips=-1.0)
"""HumanML3D's headings: smoothed, and with left and right hip exchanged, as its script has them."""
HUMANML3D_FILES = HeadingRule(sigma=20.0, hips=-1.0, anchored=True)
"""The same in the files of the data set, whose first frame faces +z by its own joints and is stored with heading 0."""


def facing(positions: Tensor, skeleton: Skeleton, hips: float = 1.0) -> Tensor:
    """Horizontal facing direction from hips and shoulders, at most unit length. [..., T, J, 3] -> [..., T, 3]."""
    right_hip, left_hip, right_shoulder, left_shoulder = skeleton.face_joints
    across = hips * (positions[..., right_hip, :] - positions[..., left_hip, :])
    across = across + positions[..., right_shoulder, :] - positions[..., left_shoulder, :]
    across = across / torch.linalg.vector_norm(across, dim=-1, keepdim=True).clamp_min(1e-9)
    return torch.stack((across[..., 2], torch.zeros_like(across[..., 2]), -across[..., 0]), -1)


def heading(positions: Tensor, skeleton: Skeleton, rule: HeadingRule = RAW) -> Tensor:
    """Angle about +y of the facing direction, 0 along +z, towards +x positive. [..., T, J, 3] -> [..., T], radians."""
    forward = facing(positions, skeleton, rule.hips)
    if rule.sigma > 0:
        forward = smooth(forward, rule.sigma)
    if rule.anchored:
        forward = torch.cat((facing(positions[..., :1, :, :], skeleton), forward[..., 1:, :]), -2)
    return torch.atan2(forward[..., 0], forward[..., 2])


def smooth(values: Tensor, sigma: float) -> Tensor:
    """Gaussian filter over the frames of [..., T, C], cut at 4 sigma, ends repeated."""
    radius = int(4.0 * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1, dtype=values.dtype, device=values.device)
    kernel = torch.exp(-0.5 * (offsets / sigma).square())
    kernel = kernel / kernel.sum()
    frames = torch.arange(values.shape[-2], device=values.device)
    index = (frames[:, None] + offsets.to(torch.long)).clamp(0, values.shape[-2] - 1)
    weights = values.new_zeros(len(frames), len(frames)).scatter_add_(1, index, kernel.expand(len(frames), -1))
    return weights @ values


def wrap_angle(angle: Tensor) -> Tensor:
    """The same angle in [-pi, pi)."""
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi


def canonicalise(positions: Tensor, skeleton: Skeleton, rule: HeadingRule = RAW) -> tuple[Tensor, Tensor, Tensor]:
    """Move a clip so that at frame 0 the pelvis is over x = z = 0 and the person faces +z. Heights stay.

    [..., T, J, 3] -> (positions [..., T, J, 3], heading [...], origin [..., 3]); `cameras.reexpress` takes the
    last two to move the clip's camera with it.
    """
    start = heading(positions, skeleton, rule)[..., 0]
    origin = positions[..., 0, 0, :] * positions.new_tensor((1.0, 0.0, 1.0))
    return canonical(positions, start, origin), start, origin


def contacts(positions: Tensor, skeleton: Skeleton) -> Tensor:
    """1 where a foot joint moves less than sqrt(0.002) m to the next frame. [..., T, J, 3] -> [..., T - 1, 4]."""
    feet = positions[..., list(skeleton.contact_joints), :]
    return (feet.diff(dim=-3).square().sum(-1) < CONTACT_SPEED).to(positions.dtype)


def bone_vectors(positions: Tensor, skeleton: Skeleton) -> Tensor:
    """Vector from its parent to every joint but the root. [..., J, 3] -> [..., J - 1, 3]."""
    return positions[..., 1:, :] - positions[..., list(skeleton.parents[1:]), :]


def bone_lengths(positions: Tensor, skeleton: Skeleton) -> Tensor:
    """[..., J, 3] -> [..., J - 1], metres."""
    return torch.linalg.vector_norm(bone_vectors(positions, skeleton), dim=-1)


def inverse_kinematics(positions: Tensor, headings: Tensor, skeleton: Skeleton) -> Tensor:
    """Local bone rotations as 6D, all bones in one call (METHOD 4). [..., J, 3], [...] -> [..., J - 1, 6].

    The rotation after a bone is that bone's shortest arc from its rest direction, so
    local = arc(parent bone)^-1 arc(bone); at the start of a chain the parent is the heading's removal.
    """
    rest = positions.new_tensor(skeleton.rest_directions[1:])
    arcs = arc_components(rest, bone_vectors(positions, skeleton))
    root = yaw_quaternion(-headings).split(1, -1)
    parents = torch.tensor(skeleton.rotation_parents[1:], device=positions.device)
    bx, by, bz, bw = (torch.cat(pair, -1).index_select(-1, parents) for pair in zip(root, arcs, strict=True))
    return components_to_6d(relative((bx, by, bz, bw), arcs))
