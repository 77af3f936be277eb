"""Surfaces on a skeleton in its rest pose: a figure of capsules, or the mean SMPL, SMPL-H or SMPL-X body of a gender.

The body comes from model files that the user has, made as large as the person. A pose bends it by its weights alone:
the models' corrections of the surface by pose are left out, as a skinned mesh has no place for them.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from videomdm_ext.data import files
from videomdm_ext.errors import ConfigError, DatasetError
from videomdm_ext.geometry.rotations import roma, shortest_arc
from videomdm_ext.motion.body_models import BODY_JOINTS, GENDERS, SITES, find_model, unpickled
from videomdm_ext.motion.skeletons import SMPL22, Skeleton
from videomdm_ext.render.fitting import rest_offsets

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


SKIN = (0.45, 0.45, 0.5)
INFLUENCES = 4
"""Joints that move a vertex, at most, in a GLB."""
ARRAYS = ("J_regressor", "v_template", "weights", "f", "kintree_table")
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Body:
    """A mesh in the model's rest pose, and each of its 22 joints in its parent's frame, [22, 3], m."""

    mesh: Mesh
    offsets: Tensor

    def sized(self, positions: Tensor) -> "Body":
        """The body as large as a person of positions [T, 22, 3]: bones of the same length in sum."""
        lengths = (
            torch.linalg.vector_norm(o, dim=-1).sum() for o in (rest_offsets(positions.double(), SMPL22), self.offsets)
        )
        scale = float(next(lengths)) / float(next(lengths))
        mesh = self.mesh
        larger = Mesh(scale * mesh.vertices, mesh.normals, mesh.joints, mesh.weights, mesh.parts)
        return Body(larger, scale * self.offsets)


def read_body(folder: str, gender: str = "neutral") -> Body:
    """The mean body of a gender from a folder of model files, SMPL's, SMPL-H's or SMPL-X's."""
    if gender not in GENDERS:
        raise ConfigError(f"--gender: expected one of {', '.join(GENDERS)}, found {gender!r}. Correct it.")
    path = _find(folder, gender)
    arrays = _from_pickle(path) if path.suffix == ".pkl" else files.read_arrays(str(path), needed=ARRAYS, optional=())
    return _body({name: np.asarray(array, dtype=np.float64) for name, array in arrays.items()}, path)


def _find(folder: str, gender: str) -> Path:
    for kind in ("smpl", "smplx"):
        try:
            return find_model(folder, kind, gender)
        except DatasetError:
            continue
    raise ConfigError(
        f"--smpl {folder}: expected a body model of gender {gender}, found none. Get one from {SITES['smpl']} or "
        f"{SITES['smplx']}, or choose another --gender."
    )


def _from_pickle(path: Path) -> Arrays:
    model = unpickled(path)
    found = (model.J_regressor, model.v_template, model.lbs_weights, model.faces_tensor, model.parents[None])
    return {name: part.numpy() for name, part in zip(ARRAYS, found, strict=True)}


def _body(arrays: Arrays, path: Path) -> Body:
    regressor, template, weights, faces, tree = (torch.from_numpy(arrays[name]) for name in ARRAYS)
    count, joints = len(template), len(regressor)
    sizes = regressor.shape == (joints, count), weights.shape == (count, joints), template.shape == (count, 3)
    if joints < BODY_JOINTS or not all(sizes) or faces.shape[1:] != (3,) or tree.shape[-1] != joints:
        shapes = ", ".join(f"{name} {list(arrays[name].shape)}" for name in ARRAYS)
        raise DatasetError(f"{path}: expected a body model of 22 joints or more, found {shapes}. Download it again.")
    rest = (regressor @ template)[:BODY_JOINTS]
    parents = list(SMPL22.parents[1:])
    offsets = torch.cat((torch.zeros_like(rest[:1]), rest[1:] - rest[parents]))
    owners, shares = _influences(weights, [int(parent) for parent in tree[0, 1:].tolist()])
    faces = faces.long()
    mesh = Mesh(template - rest[0], _normals(template, faces), owners, shares, (Part("skin", SKIN, faces),))
    return Body(mesh, offsets)


def _influences(weights: Tensor, parents: list[int]) -> tuple[Tensor, Tensor]:
    """The four joints of the first 22 that move each vertex most; hands and face move as the joint they hang on."""
    owner = list(range(BODY_JOINTS))
    for parent in parents[BODY_JOINTS - 1 :]:
        owner.append(owner[parent])
    own = weights.new_zeros(len(weights), BODY_JOINTS).index_add_(1, torch.tensor(owner), weights)
    shares, owners = own.topk(INFLUENCES, dim=-1)
    return torch.where(shares > 0, owners, 0), shares / shares.sum(-1, keepdim=True)


def _normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Unit normals [V, 3], by the area of the triangles around."""
    a, b, c = vertices[faces].unbind(1)
    outward = torch.linalg.cross(b - a, c - a)
    total = torch.zeros_like(vertices)
    for corner in faces.unbind(1):
        total = total.index_add(0, corner, outward)
    lost = torch.linalg.vector_norm(total, dim=-1, keepdim=True) == 0
    return torch.nn.functional.normalize(torch.where(lost, total.new_tensor((0.0, 1.0, 0.0)), total), dim=-1)
