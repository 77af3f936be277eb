"""A parser of GLB files that shares nothing with what writes them, and what a viewer makes of them."""

import json
import struct

import numpy as np
from scipy.spatial.transform import Rotation

TYPES = {5121: "<u1", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
WIDTHS = {"SCALAR": 1, "VEC3": 3, "VEC4": 4, "MAT4": 16}


def taken_apart(content):
    """-> the document, and a function that reads an accessor"""
    magic, version, length = struct.unpack_from("<4sII", content)
    assert (magic, version, length) == (b"glTF", 2, len(content))
    size, kind = struct.unpack_from("<I4s", content, 12)
    assert kind == b"JSON"
    document = json.loads(content[20 : 20 + size])
    rest, kind = struct.unpack_from("<I4s", content, 20 + size)
    assert kind == b"BIN\0"
    assert size % 4 == rest % 4 == 0
    assert 28 + size + rest == len(content)
    buffer = content[28 + size :]
    assert document["buffers"] == [{"byteLength": len(buffer)}]

    def read(number):
        accessor = document["accessors"][number]
        view = document["bufferViews"][accessor["bufferView"]]
        width = WIDTHS[accessor["type"]]
        values = np.frombuffer(buffer, TYPES[accessor["componentType"]], accessor["count"] * width, view["byteOffset"])
        assert values.nbytes == view["byteLength"]
        return values.reshape(-1, width) if width > 1 else values

    return document, read


def worlds(document, read, frame):
    """The matrix of every node in the world, [N, 4, 4], with the animation's values of a frame."""
    nodes = [dict(node) for node in document["nodes"]]
    for channel in document["animations"][0]["channels"]:
        sampler = document["animations"][0]["samplers"][channel["sampler"]]
        nodes[channel["target"]["node"]][channel["target"]["path"]] = read(sampler["output"])[frame]
    found = np.tile(np.eye(4), (len(nodes), 1, 1))

    def place(number, above):
        own = np.eye(4)
        own[:3, :3] = Rotation.from_quat(nodes[number].get("rotation", (0, 0, 0, 1))).as_matrix()
        own[:3, 3] = nodes[number].get("translation", (0, 0, 0))
        found[number] = above @ own
        for child in nodes[number].get("children", ()):
            place(child, found[number])

    for root in document["scenes"][0]["nodes"]:
        place(root, np.eye(4))
    return found


def skinned(document, read, frame):
    """The vertices of a frame as glTF tells a viewer to place them, [V, 3]."""
    (mesh,), (skin,) = document["meshes"], document["skins"]
    attributes = mesh["primitives"][0]["attributes"]
    binds = read(skin["inverseBindMatrices"]).reshape(-1, 4, 4).transpose(0, 2, 1)
    moves = worlds(document, read, frame)[skin["joints"]] @ binds
    points = np.concatenate((read(attributes["POSITION"]), np.ones((len(read(attributes["POSITION"])), 1))), 1)
    joints, weights = read(attributes["JOINTS_0"]), read(attributes["WEIGHTS_0"])
    each = np.einsum("vkab,vb->vka", moves[joints], points)
    return (weights[..., None] * each).sum(1)[:, :3]
