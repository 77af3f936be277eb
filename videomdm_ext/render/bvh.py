"""BVH text: centimetres, y up, the rest pose in a T, one rotation order a joint.

Euler angles are three turns about the joint's own axes, in the order of the file's channels. A joint whose middle turn
comes near 90 degrees, where the other two are about one axis, has another order.
"""

import math
from itertools import permutations

import torch
from torch import Tensor

from videomdm_ext.geometry.rotations import roma
from videomdm_ext.motion.skeletons import Skeleton
from videomdm_ext.render.fitting import Fitted, children

CENTIMETRES = 100.0
USUAL = "ZXY"
LOCKED = math.radians(75.0)
"""A middle turn beyond this is too near 90 degrees."""
END = 0.05
"""Length of a last bone, m."""


def to_bvh(fitted: Fitted, skeleton: Skeleton, fps: float) -> str:
    """The file's text. Blender reads it with scale 0.01."""
    turns = [_turns(fitted.rotations[:, joint]) for joint in range(skeleton.num_joints)]
    lines = ["HIERARCHY", *_joint(0, 0, fitted.offsets, [name for name, _ in turns], skeleton)]
    columns = [fitted.root * CENTIMETRES, *(turns[joint][1] for joint in _depth_first(0, children(skeleton)))]
    table = torch.cat(columns, 1).tolist()
    lines += ["MOTION", f"Frames: {len(table)}", f"Frame Time: {1 / fps:.8f}"]
    return "\n".join([*lines, *(" ".join(f"{value:.6f}" for value in row) for row in table), ""])


def _depth_first(joint: int, kids: tuple[tuple[int, ...], ...]) -> list[int]:
    return [joint, *(each for kid in kids[joint] for each in _depth_first(kid, kids))]


def _joint(joint: int, depth: int, offsets: Tensor, orders: list[str], skeleton: Skeleton) -> list[str]:
    """The lines of a joint and all that hangs on it."""
    kids, pad = children(skeleton)[joint], "\t" * depth
    place = " ".join(f"{value * CENTIMETRES:.6f}" for value in offsets[joint].tolist())
    turns = " ".join(f"{axis}rotation" for axis in orders[joint])
    if joint == 0:
        place, kind, channels = "0.000000 0.000000 0.000000", "ROOT", f"6 Xposition Yposition Zposition {turns}"
    else:
        kind, channels = "JOINT", f"3 {turns}"
    lines = [f"{pad}{kind} {skeleton.joints[joint]}", f"{pad}{{"]
    lines += [f"{pad}\tOFFSET {place}", f"{pad}\tCHANNELS {channels}"]
    for kid in kids:
        lines += _joint(kid, depth + 1, offsets, orders, skeleton)
    if not kids:  # an end site that goes on as the last bone goes
        way = torch.nn.functional.normalize(offsets[joint], dim=-1) * END * CENTIMETRES
        end = " ".join(f"{value:.6f}" for value in way.tolist())
        lines += [f"{pad}\tEnd Site", f"{pad}\t{{", f"{pad}\t\tOFFSET {end}", f"{pad}\t}}"]
    return [*lines, f"{pad}}}"]


def _turns(rotations: Tensor) -> tuple[str, Tensor]:
    """The order of a joint's turns, and their angles without jumps. [T, 4], wxyz -> [T, 3], degrees"""
    matrices = roma.unitquat_to_rotmat(roma.quat_wxyz_to_xyzw(rotations))
    first = _euler(USUAL, matrices)
    found = {USUAL: first}
    if first[:, 1].abs().max() > LOCKED:
        found |= {"".join(order): _euler("".join(order), matrices) for order in permutations("XYZ")}
    best = min(found, key=lambda order: float(found[order][:, 1].abs().max()))
    return best, torch.rad2deg(_unwrapped(found[best]))


def _euler(order: str, matrices: Tensor) -> Tensor:
    """Angles [T, 3] of turns about the own axes in this order, the middle one within 90 degrees."""
    i, j, k = ("XYZ".index(axis) for axis in order)
    sign = 1.0 if (j - i) % 3 == 1 else -1.0
    middle = torch.asin((sign * matrices[:, i, k]).clamp(-1, 1))
    first = torch.atan2(-sign * matrices[:, j, k], matrices[:, k, k])
    last = torch.atan2(-sign * matrices[:, i, j], matrices[:, i, i])
    return torch.stack((first, middle, last), -1)


def _unwrapped(angles: Tensor) -> Tensor:
    """Of the equal triples the one nearest to the frame before: (a, b, c) is (a + pi, pi - b, c + pi). [T, 3]"""
    found = [angles[0]]
    for each in angles[1:]:
        other = torch.stack((each[0] + math.pi, math.pi - each[1], each[2] + math.pi))
        steps = torch.stack((each, other)) - found[-1]
        steps = torch.remainder(steps + math.pi, 2 * math.pi) - math.pi
        found.append(found[-1] + steps[steps.square().sum(-1).argmin()])
    return torch.stack(found)
