"""GLB (binary glTF 2.0): a skinned mesh on a skeleton with its motion, metres, y up; nothing but the standard library
writes it.

The mesh is a figure of capsules, or the mean SMPL, SMPL-H or SMPL-X body of a gender from the user's own model files,
made as large as the person. A pose bends it by its weights alone: the models' corrections of the surface by pose are
left out, as a skinned mesh has no place for them.
"""

import json
import math
import struct
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from videomdm_ext import __version__
from videomdm_ext.data import files
from videomdm_ext.errors import ConfigError, DatasetError
from videomdm_ext.geometry.rotations import roma, shortest_arc
from videomdm_ext.motion.body_models import BODY_JOINTS, GENDERS, SITES, find_model, unpickled
from videomdm_ext.motion.skeletons import SMPL22, Skeleton
from videomdm_ext.render.fitting import Fitted, children, rest_offsets

Colour = tuple[float, float, float]
SIDES: dict[str, Colour] = {"left": (0.0, 0.184, 0.497), "right": (0.855, 0.184, 0.033), "middle": (0.06, 0.06, 0.06)}
"""The colours of the reports' stick figures, linear red, green and blue."""
AROUND, UP = 12, 3
"""Vertices of a ring, and rings of a capsule's round end."""
RADII = (0.018, 0.045)
"""Least and most of a bone's radius, m."""
SLENDER = 0.2
"""A bone's radius over its length, between those."""
SKULL = (0.08, 0.07)
"""Length and radius of the capsule above the joint called head, m."""
SKIN = (0.45, 0.45, 0.5)
INFLUENCES = 4
"""Joints that move a vertex, at most, in a GLB."""
STILL = 1e-4
"""A joint that stays as near to its offset, m, does not shift."""
ARRAYS = ("J_regressor", "v_template", "weights", "f", "kintree_table")
VERTICES, INDICES = 34962, 34963
"""glTF's names for what a piece of the buffer holds."""
COMPONENTS = {np.dtype(np.uint8): 5121, np.dtype(np.uint16): 5123, np.dtype(np.uint32): 5125, np.dtype("<f4"): 5126}
MATTE = {"metallicFactor": 0.0, "roughnessFactor": 0.7}
SHAPES = {(): "SCALAR", (3,): "VEC3", (4,): "VEC4", (4, 4): "MAT4"}


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


# -- a figure of capsules ----------------------------------------------------------------------------------------------


def capsules(offsets: Tensor, skeleton: Skeleton) -> Mesh:
    """A figure on a rest pose [J, 3]: every bone a capsule that its upper joint moves, and a head."""
    rest, shapes, owners = at_rest(offsets, skeleton), list[tuple[Tensor, Tensor]](), list[int]()
    faces: dict[str, list[Tensor]] = {side: [] for side in SIDES}

    def add(owner: int, bone: Tensor, radius: float, side: str) -> None:
        shapes.append(_capsule(rest[owner], bone, radius))
        faces[side].append(_triangles() + len(owners) * len(shapes[0][0]))
        owners.append(owner)

    for joint in range(1, skeleton.num_joints):
        length = float(torch.linalg.vector_norm(offsets[joint]))
        side = {"l_": "left", "r_": "right"}.get(skeleton.joints[joint][:2], "middle")
        add(skeleton.parents[joint], offsets[joint], min(max(SLENDER * length, RADII[0]), RADII[1]), side)
    if "head" in skeleton.joints:
        head = skeleton.index("head")
        add(head, torch.nn.functional.normalize(offsets[head], dim=-1) * SKULL[0], SKULL[1], "middle")
    vertices, normals = (torch.cat(part) for part in zip(*shapes, strict=True))
    joints = torch.zeros(len(vertices), INFLUENCES, dtype=torch.long)
    joints[:, 0] = torch.tensor(owners).repeat_interleave(len(shapes[0][0]))
    weights = torch.zeros(len(vertices), INFLUENCES)
    weights[:, 0] = 1.0
    parts = tuple(Part(side, SIDES[side], torch.cat(own)) for side, own in faces.items() if own)
    return Mesh(vertices, normals, joints, weights, parts)


def at_rest(offsets: Tensor, skeleton: Skeleton) -> Tensor:
    """Where the joints are in the rest pose, from the root. [J, 3] -> [J, 3]"""
    places = [torch.zeros_like(offsets[0])]
    for joint in range(1, skeleton.num_joints):
        places.append(places[skeleton.parents[joint]] + offsets[joint])
    return torch.stack(places)


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


# -- the body of a model file ------------------------------------------------------------------------------------------


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
        return Body(replace(self.mesh, vertices=scale * self.mesh.vertices), scale * self.offsets)


def read_body(folder: str, gender: str = "neutral") -> Body:
    """The mean body of a gender from a folder of model files, SMPL's, SMPL-H's or SMPL-X's."""
    if gender not in GENDERS:
        raise ConfigError(f"--gender: expected one of {', '.join(GENDERS)}, found {gender!r}. Correct it.")
    path = _find(folder, gender)
    if path.suffix == ".pkl":
        model = unpickled(path)
        found = [model.J_regressor, model.v_template, model.lbs_weights, model.faces_tensor, model.parents[None]]
    else:
        stored = files.read_arrays(str(path), needed=ARRAYS, optional=())
        found = [torch.from_numpy(np.asarray(stored[name], np.float64)) for name in ARRAYS]
    regressor, template, weights, faces, tree = (part.double() for part in found)
    count, joints = len(template), len(regressor)
    sizes = regressor.shape == (joints, count), weights.shape == (count, joints), template.shape == (count, 3)
    if joints < BODY_JOINTS or not all(sizes) or faces.shape[1:] != (3,) or tree.shape[-1] != joints:
        shapes = ", ".join(f"{name} {list(part.shape)}" for name, part in zip(ARRAYS, found, strict=True))
        raise DatasetError(f"{path}: expected a body model of 22 joints or more, found {shapes}. Download it again.")
    rest = (regressor @ template)[:BODY_JOINTS]
    offsets = torch.cat((torch.zeros_like(rest[:1]), rest[1:] - rest[list(SMPL22.parents[1:])]))
    owner = list(range(BODY_JOINTS))  # hands and face move as the joint they hang on
    for parent in tree[0, BODY_JOINTS:].tolist():
        owner.append(owner[int(parent)])
    own = weights.new_zeros(count, BODY_JOINTS).index_add_(1, torch.tensor(owner), weights)
    owners, shares = strongest(own)
    skin = Part("skin", SKIN, faces.long())
    return Body(Mesh(template - rest[0], normals_of(template, skin.faces), owners, shares, (skin,)), offsets)


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


def strongest(weights: Tensor) -> tuple[Tensor, Tensor]:
    """The four joints that move each vertex most, and their shares, of sum 1. [V, J] -> [V, 4], [V, 4]"""
    shares, owners = weights.topk(INFLUENCES, dim=-1)
    return torch.where(shares > 0, owners, 0), shares / shares.sum(-1, keepdim=True)


def normals_of(vertices: Tensor, faces: Tensor) -> Tensor:
    """Unit normals [V, 3], by the area of the triangles around."""
    a, b, c = vertices[faces].unbind(1)
    outward = torch.linalg.cross(b - a, c - a)
    total = torch.zeros_like(vertices)
    for corner in faces.unbind(1):
        total = total.index_add(0, corner, outward)
    lost = torch.linalg.vector_norm(total, dim=-1, keepdim=True) == 0
    return torch.nn.functional.normalize(torch.where(lost, total.new_tensor((0.0, 1.0, 0.0)), total), dim=-1)


# -- the file ----------------------------------------------------------------------------------------------------------


@dataclass
class Store:
    """The file's one buffer, and the views and accessors into it."""

    content: bytearray = field(default_factory=bytearray)
    views: list[dict[str, Any]] = field(default_factory=list)
    accessors: list[dict[str, Any]] = field(default_factory=list)

    def add(self, array: NDArray[Any], target: int | None = None, *, bounds: bool = False) -> int:
        """Append an array, its first dimension counting elements; the number of its accessor."""
        view = {"buffer": 0, "byteOffset": len(self.content), "byteLength": array.nbytes}
        self.views.append(view | ({"target": target} if target else {}))
        self.content += array.tobytes()
        self.content += bytes(-len(self.content) % 4)
        kind: dict[str, Any] = {"componentType": COMPONENTS[array.dtype]}
        accessor = {"bufferView": len(self.views) - 1} | kind | {"count": len(array), "type": SHAPES[array.shape[1:]]}
        if bounds:
            flat = array.reshape(len(array), -1)
            accessor |= {"min": flat.min(0).tolist(), "max": flat.max(0).tolist()}
        self.accessors.append(accessor)
        return len(self.accessors) - 1


def to_glb(
    fitted: Fitted, skeleton: Skeleton, fps: float, name: str, *, mesh: Mesh | None = None, shifts: Tensor | None = None
) -> bytes:
    """The file's bytes: a figure of capsules, or a `mesh` made for the same rest pose, that moves as fitted.

    `shifts` [T, J, 3] are the joints in their parents' frames, m, where they do not keep to their offsets.
    """
    store, joints = Store(), skeleton.num_joints
    mesh = mesh or capsules(fitted.offsets, skeleton)
    binds = torch.eye(4, dtype=torch.float64).repeat(joints, 1, 1)  # from the rest pose to each joint, by columns
    binds[:, 3, :3] = -at_rest(fitted.offsets, skeleton)
    document = {
        "asset": {"version": "2.0", "generator": f"videomdm_ext {__version__}"},
        "scene": 0,
        "scenes": [{"name": name, "nodes": [0, joints]}],
        "nodes": [*_joints(fitted, skeleton), {"name": name, "mesh": 0, "skin": 0}],
        "meshes": [{"name": "body", "primitives": _primitives(mesh, store)}],
        "materials": [
            {"name": part.name, "pbrMetallicRoughness": {"baseColorFactor": [*part.colour, 1.0], **MATTE}}
            for part in mesh.parts
        ],
        "skins": [{"skeleton": 0, "joints": list(range(joints)), "inverseBindMatrices": store.add(_floats(binds))}],
        "animations": [_animation(fitted, fps, name, store, skeleton, shifts)],
        "accessors": store.accessors,
        "bufferViews": store.views,
        "buffers": [{"byteLength": len(store.content)}],
    }
    return _packed(document, bytes(store.content))


def _joints(fitted: Fitted, skeleton: Skeleton) -> list[dict[str, Any]]:
    """A node for every joint, as it is in the first frame."""
    nodes: list[dict[str, Any]] = []
    for joint, kids in enumerate(children(skeleton)):
        place = _floats(fitted.offsets[joint] if joint else fitted.root[0]).tolist()
        turn = _floats(roma.quat_wxyz_to_xyzw(fitted.rotations[0, joint])).tolist()
        node = {"name": skeleton.joints[joint], "translation": place, "rotation": turn}
        nodes.append(node | ({"children": list(kids)} if kids else {}))
    return nodes


def _floats(values: Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(values.numpy(), dtype="<f4")


def _primitives(mesh: Mesh, store: Store) -> list[dict[str, Any]]:
    """One for every part; all of them share the vertices."""
    attributes = {
        "POSITION": store.add(_floats(mesh.vertices), VERTICES, bounds=True),
        "NORMAL": store.add(_floats(mesh.normals), VERTICES),
        "JOINTS_0": store.add(mesh.joints.numpy().astype(np.uint8), VERTICES),
        "WEIGHTS_0": store.add(_floats(mesh.weights), VERTICES),
    }
    kind = np.uint16 if len(mesh.vertices) < 1 << 16 else np.uint32
    indices = [store.add(part.faces.numpy().astype(kind).reshape(-1), INDICES) for part in mesh.parts]
    return [{"attributes": attributes, "indices": one, "material": number} for number, one in enumerate(indices)]


def _animation(
    fitted: Fitted, fps: float, name: str, store: Store, skeleton: Skeleton, shifts: Tensor | None
) -> dict[str, Any]:
    """The root's way, the turns of the joints that have children or turn, and the shifts of those that shift."""
    times = store.add((np.arange(len(fitted.root)) / fps).astype("<f4"), bounds=True)
    channels, samplers = [], []
    tracks = [(0, "translation", fitted.root)]
    for joint, kids in enumerate(children(skeleton)):
        turn = fitted.rotations[:, joint]
        if kids or not torch.equal(turn, turn[:1].expand_as(turn)):
            tracks.append((joint, "rotation", roma.quat_wxyz_to_xyzw(turn)))
        if joint and shifts is not None and (shifts[:, joint] - fitted.offsets[joint]).abs().max() > STILL:
            tracks.append((joint, "translation", shifts[:, joint]))
    for number, (joint, path, values) in enumerate(tracks):
        channels.append({"sampler": number, "target": {"node": joint, "path": path}})
        samplers.append({"input": times, "output": store.add(_floats(values)), "interpolation": "LINEAR"})
    return {"name": name, "channels": channels, "samplers": samplers}


def _packed(document: dict[str, Any], content: bytes) -> bytes:
    """Header, the document's chunk and the buffer's chunk, each of whole words."""
    text = json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(content), b"BIN\0") + content
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks
