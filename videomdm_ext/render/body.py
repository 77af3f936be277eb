"""The surface of SMPL, SMPL-H and SMPL-X bodies as a skinned mesh, from model files that the user has.

The mean body of a gender, made as large as the person. A pose bends it by its weights alone: the models' corrections of
the surface by pose are left out, as a skinned mesh has no place for them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from videomdm_ext.data import files
from videomdm_ext.errors import ConfigError, DatasetError
from videomdm_ext.motion.body_models import BODY_JOINTS, GENDERS, SITES, find_model, unpickled
from videomdm_ext.motion.skeletons import SMPL22
from videomdm_ext.render.mesh import Mesh, Part
from videomdm_ext.render.rest import rest_offsets

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
