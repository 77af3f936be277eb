"""How a bone is turned about itself, which the ends of the bone do not tell.

Thighs and upper arms are turned so that knee and elbow bend in their own plane, the spine's parts share what the chest
is turned against the pelvis. Where a limb is straight nothing tells its twist: it then comes from the frames around,
and fades to none.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from videomdm_ext.motion.skeletons import Skeleton
from videomdm_ext.render.rest import children

HINGES = {"hip": (1.0, 0.0, 0.0), "l_shoulder": (0.0, -1.0, 0.0), "r_shoulder": (0.0, 1.0, 0.0)}
"""The axis about which the next joint bends, in the rest pose."""
FOOT = 0.3
"""Weight of the foot's direction beside the knee's bend."""
FAINT, CLEAR = 0.1, 0.4
"""Sines of bend under which a limb is straight, and above which its plane is wholly believed."""
SETTLING, FADING = 0.1, 0.7
"""Seconds over which a twist is smoothed, and over which it fades where nothing tells it."""


@dataclass(frozen=True)
class Cue:
    """An axis of the rest pose [3], where it points in the motion [T, 3] as clearly as it is long, and what share of
    the twist this bone takes."""

    rest: Tensor
    found: Tensor
    share: float = 1.0


def cue(joint: int, target: Tensor, offsets: Tensor, skeleton: Skeleton) -> Cue | None:
    """What tells the twist of a joint with one child, if anything does."""
    name, kids = skeleton.joints[joint], children(skeleton)
    hinge = HINGES.get(name) or HINGES.get(name.rpartition("_")[2])
    chain = [joint]
    while len(kids[chain[-1]]) == 1:
        chain.append(kids[chain[-1]][0])
    if name.startswith(("l_", "r_")) and hinge and len(chain) > 2:
        return Cue(offsets.new_tensor(hinge), _bend(target, chain))
    pair = [k for side in ("l_", "r_") for k in kids[chain[-1]] if skeleton.joints[k].startswith(side)]
    if len(pair) == 2:
        across = target[:, pair[0]] - target[:, pair[1]]
        found = torch.nn.functional.normalize(across, dim=-1)
        return Cue(offsets[pair[0]] - offsets[pair[1]], found, 1 / len(chain))
    return None


def _bend(target: Tensor, chain: list[int]) -> Tensor:
    """The axis of a limb's bend, as long as the sine of the angle; a foot tells a straight leg's sides. -> [T, 3]"""
    ways = torch.nn.functional.normalize(target[:, chain[1:]] - target[:, chain[:-1]], dim=-1).unbind(1)
    axis = torch.linalg.cross(ways[0], ways[1])
    return axis + FOOT * torch.linalg.cross(ways[2], ways[0]) if len(ways) > 2 else axis


def twist(swing: Tensor, way: Tensor, cue: Cue, fps: float) -> Tensor:
    """Angle about the unit direction `way` [T, 3] that a bone turned by `swing` [T, 3, 3] has to be turned. -> [T]"""
    axis = swing @ cue.rest
    sine = (way * torch.linalg.cross(axis, cue.found)).sum(-1)
    axis, found = (v - (v * way).sum(-1, keepdim=True) * way for v in (axis, cue.found))
    angle = torch.atan2(sine, (axis * found).sum(-1))
    clear = ((torch.linalg.vector_norm(found, dim=-1) - FAINT) / (CLEAR - FAINT)).clamp(0, 1)
    return cue.share * _settled(angle, clear.square() * (3 - 2 * clear), fps)


def _settled(angle: Tensor, weight: Tensor, fps: float) -> Tensor:
    """Angles [T] made continuous and smooth, as near to `angle` as the weights [T] ask for, fading to 0 without any."""
    wanted, last = [], 0.0
    for each, believed in zip(angle.tolist(), weight.tolist(), strict=True):
        near = last + math.remainder(each - last, 2 * math.pi)
        last += believed * (near - last)
        wanted.append(near)
    stiff = (SETTLING * fps) ** 2
    diagonal = (weight + stiff / (FADING * fps) ** 2 + 2 * stiff).tolist()
    diagonal[0] -= stiff
    diagonal[-1] -= stiff
    return angle.new_tensor(
        _tridiagonal(diagonal, -stiff, [w * a for w, a in zip(weight.tolist(), wanted, strict=True)])
    )


def _tridiagonal(diagonal: list[float], beside: float, right: list[float]) -> list[float]:
    """Solve a symmetric system with one value beside its diagonal (Thomas)."""
    above, found = [0.0], [0.0]
    for middle, value in zip(diagonal, right, strict=True):
        pivot = middle - beside * above[-1]
        above.append(beside / pivot)
        found.append((value - beside * found[-1]) / pivot)
    for k in range(len(right) - 1, 0, -1):
        found[k] -= above[k] * found[k + 1]
    return found[1:]
