"""A human mesh that wears 22 SMPL joints: Anny's, without a licensed file (extras `body` and `film`).

Every vertex follows the segments of the body that its skinning weights name. A segment turns from its rest direction to
that of its two joints, the shortest way from how the segment before it turned, and stretches along itself, so that the
mesh's joints are the given ones exactly. V vertices, S segments, T frames.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from videomdm_ext.errors import optional
from videomdm_ext.motion.skeletons import SMPL22

Vertices = NDArray[np.float32]


class Segment(NamedTuple):
    """From joint `start` to joint `end`; it turns with `parent` first, and keeps to that where `rigid`. `bones`: a
    pattern of the mesh's bones that belong to it."""

    start: str
    end: str
    parent: str
    bones: str
    rigid: bool = False


_SIDE = {
    "thigh": Segment("hip", "knee", "pelvis", r"upperleg0\d"),
    "shin": Segment("knee", "ankle", "thigh", r"lowerleg0\d"),
    "foot": Segment("ankle", "foot", "shin", r"foot|toe.*"),
    "shoulder": Segment("collar", "shoulder", "chest", r"clavicle|shoulder01"),
    "upper_arm": Segment("shoulder", "elbow", "shoulder", r"upperarm0\d"),
    "forearm": Segment("elbow", "wrist", "upper_arm", r"lowerarm0\d"),
    "hand": Segment("elbow", "wrist", "forearm", r"wrist|finger.*|metacarpal.*", rigid=True),
}
TRUNK = {
    "pelvis": Segment("pelvis", "spine1", "", r"root|pelvis\..|spine05"),
    "abdomen": Segment("spine1", "spine2", "pelvis", r"spine04"),
    "waist": Segment("spine2", "spine3", "abdomen", r"spine03"),
    "chest": Segment("spine3", "neck", "", r"spine02|spine01"),
    "neck": Segment("neck", "head", "chest", r"neck0\d"),
    "head": Segment("neck", "head", "chest", r"head|eye\..", rigid=True),
}
SEGMENTS = TRUNK | {
    f"{side}_{name}": Segment(
        f"{side}_{s.start}",
        f"{side}_{s.end}",
        s.parent if s.parent in TRUNK else f"{side}_{s.parent}",
        rf"(?:{s.bones})\.{side.upper()}",
        s.rigid,
    )
    for side in "lr"
    for name, s in _SIDE.items()
}
"""By name, parents before children."""
HEADS = {"neck": "neck01", "head": "head", "spine1": "spine04", "spine2": "spine03", "spine3": "spine02"} | {
    f"{side}_{joint}": f"{bone}.{side.upper()}"
    for side in "lr"
    for joint, bone in {
        "hip": "upperleg01",
        "knee": "lowerleg01",
        "ankle": "foot",
        "foot": "toe1-1",
        "collar": "clavicle",
        "shoulder": "upperarm01",
        "elbow": "lowerarm01",
        "wrist": "wrist",
    }.items()
}
"""The bone of the mesh at whose head a joint lies; the pelvis lies between the hips."""


@dataclass(frozen=True)
class Body:
    """A person at rest, y up, metres: vertices [V, 3], normals [V, 3], faces [F, 3], joints [22, 3], weights [V, S]."""

    vertices: Tensor
    normals: Tensor
    faces: Tensor
    joints: Tensor
    weights: Tensor

    def coarser(self, cell: float) -> "Body":
        """The body with fewer vertices: those of a segment in one cube of this size, m, become one; hands and head keep
        half the size."""
        fine = torch.tensor([0.5 if segment.rigid else 1.0 for segment in SEGMENTS.values()])
        own = self.weights.argmax(-1)
        place = torch.floor(self.vertices / (cell * fine[own])[:, None])
        _, group, counts = torch.cat((place, own[:, None]), 1).unique(dim=0, return_inverse=True, return_counts=True)

        def mean(values: Tensor) -> Tensor:
            total = values.new_zeros(len(counts), values.shape[1]).index_add_(0, group, values)
            return total / counts[:, None]

        faces = group[self.faces]
        whole = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])
        first = faces[whole].argmin(-1, keepdim=True)
        faces = faces[whole].gather(1, (first + torch.arange(3)) % 3).unique(dim=0)
        normals = torch.nn.functional.normalize(mean(self.normals), dim=-1)
        return Body(mean(self.vertices), normals, faces, self.joints, mean(self.weights))

    @property
    def parts(self) -> NDArray[np.intp]:
        """The segment, as a number in SEGMENTS, that moves each vertex most, [V]."""
        return self.weights.argmax(-1).numpy()

    def wear(self, positions: Tensor) -> tuple[Vertices, Vertices]:
        """Vertices and normals [T, V, 3] of the body whose joints are `positions` [T, 22, 3], metres."""
        turns = self._turns(positions)
        blended = torch.einsum("vs,tsij->tvij", self.weights, turns)
        vertices = (blended[..., :3] @ self.vertices.unsqueeze(-1)).squeeze(-1) + blended[..., 3]
        normals = (blended[..., :3] @ self.normals.unsqueeze(-1)).squeeze(-1)
        return vertices.numpy(), torch.nn.functional.normalize(normals, dim=-1).numpy()

    def _turns(self, positions: Tensor) -> Tensor:
        """The affine map of every segment, [T, S, 3, 4]."""
        rest, index = self.joints, SMPL22.index
        ends = {"pelvis": ("pelvis", "spine1", "hip"), "chest": ("spine3", "neck", "shoulder")}
        turned = {name: trunk_frame(positions, *three) @ trunk_frame(rest, *three).mT for name, three in ends.items()}
        maps = []
        for name, segment in SEGMENTS.items():
            start, end = index(segment.start), index(segment.end)
            bone, seen = rest[end] - rest[start], positions[:, end] - positions[:, start]
            if name not in turned:
                turn = turned[segment.parent]
                turned[name] = turn if segment.rigid else _shortest(turn @ bone, seen) @ turn
            length = seen.norm(dim=-1) / bone.norm()
            along = torch.outer(bone, bone) / bone.square().sum()
            stretch = torch.eye(3) + (0.0 if segment.rigid else 1.0) * (length - 1.0)[:, None, None] * along
            linear = turned[name] @ stretch
            at = end if segment.rigid else start
            maps.append(torch.cat((linear, (positions[:, at] - linear @ rest[at]).unsqueeze(-1)), -1))
        return torch.stack(maps, 1)


def trunk_frame(joints: Tensor, low: str, high: str, pair: str) -> Tensor:
    """A frame [..., 3, 3] of columns left, up, ahead, from the trunk's axis and a pair of joints."""
    at = {name: joints[..., SMPL22.index(name), :] for name in (low, high, f"l_{pair}", f"r_{pair}")}
    up = torch.nn.functional.normalize(at[high] - at[low], dim=-1)
    ahead = torch.nn.functional.normalize(torch.linalg.cross(at[f"l_{pair}"] - at[f"r_{pair}"], up), dim=-1)
    return torch.stack((torch.linalg.cross(up, ahead), up, ahead), -1)


def _shortest(before: Tensor, after: Tensor) -> Tensor:
    """The rotation [T, 3, 3] that turns directions [T, 3] into others the shortest way (Rodrigues)."""
    before, after = (torch.nn.functional.normalize(v, dim=-1) for v in (before, after))
    x, y, z = torch.linalg.cross(before, after).unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), -1).unflatten(-1, (3, 3))
    cosine = (before * after).sum(-1)[:, None, None]
    return torch.eye(3) + cross + cross @ cross / (1.0 + cosine).clamp_min(1e-4)


@cache
def _model() -> Any:
    warp = optional("warp", user="body", extra="body")
    warp.config.log_level = warp.LOG_ERROR
    anny = optional("anny", user="body", extra="body")
    return anny.Anny().to(dtype=torch.float32)


def build_body(shape: Mapping[str, float]) -> Body:
    """A person of Anny's phenotypes (gender, age, muscle, weight, height, proportions), each from 0 to 1, half if not
    named. ConfigError where the package is missing."""
    model = _model()
    labels = list(model.bone_labels)
    kinds = dict.fromkeys(model.phenotype_labels, 0.5) | dict(shape)
    still = torch.eye(4).expand(1, model.bone_count, 4, 4)
    with torch.no_grad():
        rest = model(pose_parameters=still, phenotype_kwargs=kinds)
    upright = torch.tensor(((1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.0, -1.0, 0.0)))
    vertices = rest["rest_vertices"][0].float() @ upright.mT
    heads = rest["rest_bone_heads"][0].float() @ upright.mT
    joints = torch.zeros(SMPL22.num_joints, 3)
    for joint, bone in HEADS.items():
        joints[SMPL22.index(joint)] = heads[labels.index(bone)]
    joints[0] = (joints[SMPL22.index("l_hip")] + joints[SMPL22.index("r_hip")]) / 2.0
    weights = torch.zeros(len(vertices), len(SEGMENTS))
    owners = torch.tensor([_segment_of(label) for label in labels])
    weights.scatter_add_(1, owners[model.vertex_bone_indices.long()], model.vertex_bone_weights.float())
    faces = model.faces.long()
    corners = vertices[faces]
    flat = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = torch.zeros_like(vertices).index_add_(0, faces.flatten(), flat.repeat_interleave(3, 0))
    normals = torch.nn.functional.normalize(normals, dim=-1)
    return Body(vertices, normals, faces, joints, weights / weights.sum(-1, keepdim=True))


def _segment_of(bone: str) -> int:
    return next(number for number, s in enumerate(SEGMENTS.values()) if re.fullmatch(s.bones, bone))
