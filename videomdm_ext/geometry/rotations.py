"""Rotations that roma does not have: yaw, shortest arcs and the two-column 6D form. Unit quaternions are xyzw."""

from importlib import import_module
from typing import Any

import torch
from torch import Tensor


class _Roma:
    """roma, imported where one of its functions is used: it imports torch._dynamo, which takes seconds."""

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module("roma"), name)


roma = _Roma()


def rotate_yaw(vectors: Tensor, angle: Tensor) -> Tensor:
    """Rotate [..., 3] vectors about +y by `angle` [...] radians; +z turns towards +x. -> [..., 3]."""
    cos, sin = torch.cos(angle), torch.sin(angle)
    x, y, z = vectors.unbind(-1)
    return torch.stack((cos * x + sin * z, torch.broadcast_tensors(y, cos)[0], cos * z - sin * x), -1)


def yaw_matrix(angle: Tensor) -> Tensor:
    """Rotation matrices [..., 3, 3] about +y by `angle` [...] radians: yaw_matrix(a) @ z = (sin a, 0, cos a)."""
    cos, sin, zero, one = torch.cos(angle), torch.sin(angle), torch.zeros_like(angle), torch.ones_like(angle)
    rows = (cos, zero, sin, zero, one, zero, -sin, zero, cos)
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def yaw_quaternion(angle: Tensor) -> Tensor:
    """Unit quaternions xyzw [..., 4] of a rotation about +y by `angle` [...] radians."""
    zero = torch.zeros_like(angle)
    return torch.stack((zero, torch.sin(angle / 2), zero, torch.cos(angle / 2)), -1)


def rotate_yaw_together(points: Tensor, angle: Tensor) -> Tensor:
    """Rotate the points [..., J, 3] of each frame about +y by the frame's own `angle` [...]. -> [..., J, 3]."""
    return points @ yaw_matrix(-angle)


def shortest_arc(start: Tensor, end: Tensor) -> Tensor:
    """Unit quaternions xyzw [..., 4] of the smallest rotation from directions `start` to `end`, both [..., 3].

    `start` has unit length; `end` may have any length. Opposite directions turn about an axis at right angles
    to `start`; a zero `end` gives the identity.
    """
    return torch.stack(arc_components(start, end), -1)


Components = tuple[Tensor, Tensor, Tensor, Tensor]
"""x, y, z and w of quaternions, each [...]: arithmetic on whole components is several times as quick."""


def arc_components(start: Tensor, end: Tensor) -> Components:
    """What `shortest_arc` gives, by component."""
    length = torch.linalg.vector_norm(end, dim=-1)
    (sx, sy, sz), (ex, ey, ez) = start.unbind(-1), end.movedim(-1, 0).contiguous().unbind(0)
    arc = (sy * ez - sz * ey, sz * ex - sx * ez, sx * ey - sy * ex, length + sx * ex + sy * ey + sz * ez)
    opposite, nowhere = (arc[3] <= 1e-6 * length) & (length > 0), length == 0
    half_turn = (*_aside(start).unbind(-1), torch.zeros_like(sx))
    usual = [torch.where(opposite, half, part) for half, part in zip(half_turn, arc, strict=True)]
    x, y, z, w = (torch.where(nowhere, same, part) for same, part in zip((0.0, 0.0, 0.0, 1.0), usual, strict=True))
    scale = (x * x + y * y + z * z + w * w).rsqrt()
    return x * scale, y * scale, z * scale, w * scale


def _aside(direction: Tensor) -> Tensor:
    """A unit vector at right angles to each unit vector [..., 3]."""
    along_x, along_z = direction.new_tensor((1.0, 0.0, 0.0)), direction.new_tensor((0.0, 0.0, 1.0))
    aside = torch.where(direction[..., :1].abs() > 0.5, along_z, along_x)
    aside = aside - (aside * direction).sum(-1, keepdim=True) * direction
    return aside / torch.linalg.vector_norm(aside, dim=-1, keepdim=True)


def relative(before: Components, after: Components) -> Components:
    """The rotation that leads from `before` to `after`: before^-1 after, by component."""
    (bx, by, bz, bw), (x, y, z, w) = before, after
    return (
        bw * x - bx * w - by * z + bz * y,
        bw * y + bx * z - by * w - bz * x,
        bw * z - bx * y + by * x - bz * w,
        bw * w + bx * x + by * y + bz * z,
    )


def components_to_6d(quaternion: Components) -> Tensor:
    """First two columns of the rotation matrix, one after the other, as HumanML3D stores them. -> [..., 6]."""
    x, y, z, w = quaternion
    x2, y2, z2 = 2 * x, 2 * y, 2 * z
    xy, zw, zz = x2 * y, z2 * w, z2 * z
    first = (1 - (y2 * y + zz), xy + zw, x2 * z - y2 * w)
    second = (xy - zw, 1 - (x2 * x + zz), y2 * z + x2 * w)
    return torch.stack((*first, *second), -1)
