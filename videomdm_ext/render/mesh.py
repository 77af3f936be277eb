"""Surfaces that hang on a skeleton in its rest pose; here a figure of capsules, one a bone, coloured by side."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from videomdm_ext.geometry.rotations import roma, shortest_arc
from videomdm_ext.motion.skeletons import Skeleton

Colour = tuple[float, float, float]
LEFT, RIGHT, MIDDLE = (0.0, 0.184, 0.497), (0.855, 0.184, 0.033), (0.06, 0.06, 0.06)
"""The colours of the reports' stick figures, linear red, green and blue."""
AROUND, UP = 12, 3
"""Vertices of a ring, and rings of a capsule's round end."""
RADII = (0.018, 0.045)
"""Least and most of a bone's radius, m."""
SLENDER = 0.2
"""A bone's radius over its length, between those."""
SKULL = (0.08, 0.07)
"""Length and radius of the capsule above the joint called head, m."""


@dataclass(frozen=True)
class Part:
    """Triangles [F, 3] of one colour: indices of vertices, counterclockwise seen from outside."""

    name: str
    colour: Colour
    faces: Tensor


@dataclass(frozen=True)
class Mesh:
    """vertices and normals [V, 3], m from the root at rest; joints [V, 4] that move them, weights [V, 4] of sum 1."""

    vertices: Tensor
    normals: Tensor
    joints: Tensor
    weights: Tensor
    parts: tuple[Part, ...]


def capsules(offsets: Tensor, skeleton: Skeleton) -> Mesh:
    """A figure on a rest pose [J, 3]: every bone a capsule that its upper joint moves, and a head."""
    rest = at_rest(offsets, skeleton)
    pieces = []
    for joint in range(1, skeleton.num_joints):
        length = float(torch.linalg.vector_norm(offsets[joint]))
        radius = min(max(SLENDER * length, RADII[0]), RADII[1])
        parent = skeleton.parents[joint]
        pieces.append((_capsule(rest[parent], offsets[joint], radius), parent, _side(skeleton.joints[joint])))
    if "head" in skeleton.joints:
        head = skeleton.index("head")
        way = torch.nn.functional.normalize(offsets[head], dim=-1) * SKULL[0]
        pieces.append((_capsule(rest[head], way, SKULL[1]), head, "middle"))
    return _joined(pieces)


def at_rest(offsets: Tensor, skeleton: Skeleton) -> Tensor:
    """Where the joints are in the rest pose, from the root. [J, 3] -> [J, 3]"""
    places = [torch.zeros_like(offsets[0])]
    for joint in range(1, skeleton.num_joints):
        places.append(places[skeleton.parents[joint]] + offsets[joint])
    return torch.stack(places)


def _side(joint: str) -> str:
    return {"l_": "left", "r_": "right"}.get(joint[:2], "middle")


def _joined(pieces: list[tuple[tuple[Tensor, Tensor], int, str]]) -> Mesh:
    """One mesh of capsules (vertices, normals), each with the joint that moves it and its side."""
    count = len(pieces[0][0][0])
    owners = torch.tensor([joint for _, joint, _ in pieces]).repeat_interleave(count)
    joints = torch.zeros(len(owners), 4, dtype=torch.long)
    joints[:, 0] = owners
    weights = torch.zeros(len(owners), 4).index_fill_(1, torch.tensor([0]), 1.0)
    parts = []
    for name, colour in (("left", LEFT), ("right", RIGHT), ("middle", MIDDLE)):
        starts = [count * number for number, (_, _, side) in enumerate(pieces) if side == name]
        if starts:
            parts.append(Part(name, colour, torch.cat([_triangles() + start for start in starts])))
    vertices, normals = (torch.cat([shape[k] for shape, _, _ in pieces]) for k in (0, 1))
    return Mesh(vertices, normals, joints, weights, tuple(parts))


def _capsule(start: Tensor, bone: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """Vertices and normals of a capsule from `start` along `bone`, both [3]: a pole, rings from below, a pole."""
    quarter = torch.linspace(0, math.pi / 2, UP + 1, dtype=bone.dtype)
    rise = torch.cat((-quarter[1:-1].flip(0), quarter[:1], quarter[:-1])).repeat_interleave(AROUND)
    turn = (2 * math.pi / AROUND * torch.arange(AROUND, dtype=bone.dtype)).repeat(2 * UP)
    normals = torch.stack((rise.cos() * turn.sin(), rise.sin(), rise.cos() * turn.cos()), -1)
    pole = bone.new_tensor(((0.0, 1.0, 0.0),))
    normals = torch.cat((-pole, normals, pole))
    upper = torch.arange(len(normals)) > UP * AROUND
    normals = normals @ roma.unitquat_to_rotmat(shortest_arc(pole[0], bone)).T
    return start + radius * normals + upper[:, None] * bone, normals


def _triangles() -> Tensor:
    """Triangles of a capsule's vertices, [F, 3]."""
    rings, faces = 2 * UP, []
    last = 1 + rings * AROUND
    for k in range(AROUND):
        right = (k + 1) % AROUND
        faces.append((0, 1 + right, 1 + k))
        for ring in range(rings - 1):
            low, high = 1 + ring * AROUND, 1 + (ring + 1) * AROUND
            faces += [(low + k, low + right, high + right), (low + k, high + right, high + k)]
        top = 1 + (rings - 1) * AROUND
        faces.append((top + k, top + right, last))
    return torch.tensor(faces)
