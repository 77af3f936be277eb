"""A person's rest pose: constant bone lengths, equal on both sides, the arms out to the sides (a T pose)."""

import torch
from torch import Tensor

from videomdm_ext.geometry.rotations import roma
from videomdm_ext.motion.kinematics import bone_lengths, bone_vectors
from videomdm_ext.motion.skeletons import Skeleton

DIRECTIONS = {"shoulder": (1.0, 0.0, 0.0), "elbow": (1.0, 0.0, 0.0), "wrist": (1.0, 0.0, 0.0),
              "foot": (0.0, -0.4, 0.9)}  # fmt: skip
"""Where bones to these joints point at rest, on the left side, if not as `Skeleton.rest_directions` has it."""
ROUNDS = 12


def children(skeleton: Skeleton) -> tuple[tuple[int, ...], ...]:
    """The joints whose parent each joint is."""
    return tuple(tuple(k for k, p in enumerate(skeleton.parents) if p == j) for j in range(skeleton.num_joints))


def rest_offsets(positions: Tensor, skeleton: Skeleton) -> Tensor:
    """Every joint in its parent's frame at rest, zero for the root. [T, J, 3] -> [J, 3], m.

    Lengths are medians over time and both sides. Where bones part, as at the pelvis, the angles between them are the
    motion's own: the mean shape of that part of the body, made symmetric.
    """
    lengths = bone_lengths(positions, skeleton).median(-2).values
    lengths = torch.cat((lengths.new_zeros(1), lengths))
    lengths = (lengths + lengths[list(skeleton.mirror)]) / 2
    offsets = torch.nn.functional.normalize(_directions(skeleton).to(positions), dim=-1) * lengths[:, None]
    bones = torch.cat((torch.zeros_like(positions[:, :1]), bone_vectors(positions, skeleton)), 1)
    for kids in children(skeleton):
        if len(kids) > 1:
            offsets = _shaped(offsets, bones, list(kids), skeleton)
    return offsets


def _directions(skeleton: Skeleton) -> Tensor:
    """Unit directions of the bones at rest, [J, 3]."""
    found = []
    for joint, usual in zip(skeleton.joints, skeleton.rest_directions, strict=True):
        side, _, part = joint.rpartition("_")
        x, y, z = DIRECTIONS.get(part, usual) if side else usual
        found.append((-x if side == "r" and part in DIRECTIONS else x, y, z))
    up = [joint == "head" for joint in skeleton.joints]
    return torch.where(torch.tensor(up)[:, None], torch.tensor((0.0, 1.0, 0.0)), torch.tensor(found))


def _shaped(offsets: Tensor, bones: Tensor, kids: list[int], skeleton: Skeleton) -> Tensor:
    """Offsets of one joint's children from the mean of what the motion [T, J, 3] has there, turned into one frame."""
    flip = offsets.new_tensor((-1.0, 1.0, 1.0))
    length = torch.linalg.vector_norm(offsets, dim=-1, keepdim=True)
    for _ in range(ROUNDS):
        shape, found = offsets[kids].expand(len(bones), -1, -1), bones[:, kids]
        turned = roma.rigid_vectors_registration(shape, found)
        mean = torch.zeros_like(offsets)
        mean[kids] = (found @ turned).mean(0)
        mean = torch.nn.functional.normalize(mean + mean[list(skeleton.mirror)] * flip, dim=-1) * length
        offsets = offsets.index_copy(0, torch.tensor(kids), mean[kids])
    return offsets
