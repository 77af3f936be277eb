"""GLB (binary glTF 2.0): a skinned mesh on a skeleton with its motion, metres, y up; nothing but the standard library
writes it.
"""

import json
import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from videomdm_ext import __version__
from videomdm_ext.geometry.rotations import roma
from videomdm_ext.motion.skeletons import Skeleton
from videomdm_ext.render.body import Mesh, Part, at_rest, capsules
from videomdm_ext.render.fitting import Fitted, children

VERTICES, INDICES = 34962, 34963
"""glTF's names for what a piece of the buffer holds."""
COMPONENTS = {np.dtype(np.uint8): 5121, np.dtype(np.uint16): 5123, np.dtype(np.uint32): 5125, np.dtype("<f4"): 5126}
SHAPES = {(): "SCALAR", (3,): "VEC3", (4,): "VEC4", (4, 4): "MAT4"}


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
        accessor = {
            "bufferView": len(self.views) - 1,
            "componentType": COMPONENTS[array.dtype],
            "count": len(array),
            "type": SHAPES[array.shape[1:]],
        }
        if bounds:
            flat = array.reshape(len(array), -1)
            accessor |= {"min": flat.min(0).tolist(), "max": flat.max(0).tolist()}
        self.accessors.append(accessor)
        return len(self.accessors) - 1


def to_glb(fitted: Fitted, skeleton: Skeleton, fps: float, name: str, *, mesh: Mesh | None = None) -> bytes:
    """The file's bytes: a figure of capsules, or a `mesh` made for the same rest pose, that moves as fitted."""
    store, joints = Store(), skeleton.num_joints
    moving = [joint for joint, kids in enumerate(children(skeleton)) if kids]
    mesh = mesh or capsules(fitted.offsets, skeleton)
    document = {
        "asset": {"version": "2.0", "generator": f"videomdm_ext {__version__}"},
        "scene": 0,
        "scenes": [{"name": name, "nodes": [0, joints]}],
        "nodes": [*_joints(fitted, skeleton), {"name": name, "mesh": 0, "skin": 0}],
        "meshes": [{"name": "body", "primitives": _primitives(mesh, store)}],
        "materials": [_material(part) for part in mesh.parts],
        "skins": [
            {"skeleton": 0, "joints": list(range(joints)), "inverseBindMatrices": _binds(fitted, skeleton, store)}
        ],
        "animations": [_animation(fitted, fps, name, store, moving)],
        "accessors": store.accessors,
        "bufferViews": store.views,
        "buffers": [{"byteLength": len(store.content)}],
    }
    return _packed(document, bytes(store.content))


def _joints(fitted: Fitted, skeleton: Skeleton) -> list[dict[str, Any]]:
    """A node for every joint, as it is in the first frame."""
    nodes: list[dict[str, Any]] = []
    for joint, kids in enumerate(children(skeleton)):
        place = fitted.offsets[joint] if joint else fitted.root[0]
        turn = roma.quat_wxyz_to_xyzw(fitted.rotations[0, joint])
        node = {
            "name": skeleton.joints[joint],
            "translation": _floats(place).tolist(),
            "rotation": _floats(turn).tolist(),
        }
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
    return [
        {
            "attributes": attributes,
            "indices": store.add(part.faces.numpy().astype(kind).reshape(-1), INDICES),
            "material": number,
        }
        for number, part in enumerate(mesh.parts)
    ]


def _material(part: Part) -> dict[str, Any]:
    look = {"baseColorFactor": [*part.colour, 1.0], "metallicFactor": 0.0, "roughnessFactor": 0.7}
    return {"name": part.name, "pbrMetallicRoughness": look}


def _binds(fitted: Fitted, skeleton: Skeleton, store: Store) -> int:
    """The accessor of the matrices that lead from the rest pose to each joint, column after column."""
    matrices = torch.eye(4, dtype=torch.float64).repeat(skeleton.num_joints, 1, 1)
    matrices[:, 3, :3] = -at_rest(fitted.offsets, skeleton)
    return store.add(_floats(matrices))


def _animation(fitted: Fitted, fps: float, name: str, store: Store, moving: list[int]) -> dict[str, Any]:
    """The root's way and the turns of the joints that have children."""
    times = store.add((np.arange(len(fitted.root)) / fps).astype("<f4"), bounds=True)
    channels, samplers = [], []
    tracks = [(0, "translation", fitted.root)]
    tracks += [(joint, "rotation", roma.quat_wxyz_to_xyzw(fitted.rotations[:, joint])) for joint in moving]
    for number, (joint, path, values) in enumerate(tracks):
        channels.append({"sampler": number, "target": {"node": joint, "path": path}})
        samplers.append({"input": times, "output": store.add(_floats(values)), "interpolation": "LINEAR"})
    return {"name": name, "channels": channels, "samplers": samplers}


def _packed(document: dict[str, Any], content: bytes) -> bytes:
    """Header, the document's chunk and the buffer's chunk, each of whole words."""
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(content), b"BIN\0") + content
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks
