"""DeepMimic's humanoid: cycles joined, seams closed, resampled, forward kinematics, 22 SMPL joints.

DeepMimic's axes are x forward, y up, z to the person's right; units are metres, quaternions (w, x, y, z) in the files
and roma's (x, y, z, w) here. Ball joints hold a quaternion, knees and elbows an angle about +z: a knee bends backwards
with a negative angle, an elbow forwards with a positive one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import roma
import torch
from torch import Tensor

from videomdm_ext.skeletons import SMPL22

PARENTS = {
    "root": "", "chest": "root", "neck": "chest",
    "right_hip": "root", "right_knee": "right_hip", "right_ankle": "right_knee",
    "right_shoulder": "chest", "right_elbow": "right_shoulder",
    "left_hip": "root", "left_knee": "left_hip", "left_ankle": "left_knee",
    "left_shoulder": "chest", "left_elbow": "left_shoulder",
}  # fmt: skip
"""Joints in the order of a frame's values, with their parents; the wrists have no rotation of their own."""
HINGES = ("right_knee", "right_elbow", "left_knee", "left_elbow")
WRISTS = {"right_wrist": "right_elbow", "left_wrist": "left_elbow"}

FRAME_VALUES = 4 + sum(1 if joint in HINGES else 4 for joint in PARENTS)
"""Values of one frame: its duration, the root's position, then the joints."""

SEAM_SECONDS = 0.3
"""A jump is spread over this time on either side, or over half the stretch to the next seam if that is shorter."""

ATTACHED = {
    "pelvis": ("root", (0.0, 0.095, 0.0)),
    "spine1": ("chest", (0.0, 0.0, 0.0)),
    "spine2": ("chest", (0.005, 0.085, 0.0)),
    "spine3": ("chest", (0.02, 0.135, 0.0)),
    "neck": ("chest", (-0.024, 0.275, 0.0)),
    "l_collar": ("chest", (-0.012, 0.22, -0.073)),
    "r_collar": ("chest", (-0.012, 0.22, 0.073)),
    "l_foot": ("left_ankle", (0.115, -0.04, -0.015)),
    "r_foot": ("right_ankle", (0.115, -0.04, 0.015)),
}
"""SMPL joints DeepMimic lacks: rigid in a body's frame, offset forward, up, right from the body's joint, metres."""
HEAD_FROM_NECK = (0.05, 0.07, 0.0)
"""The head turns with DeepMimic's neck, about the SMPL neck, so that its distance from it is constant."""


@dataclass(frozen=True)
class Recording:
    """T frames at `times` [T], seconds: root [T, 3] and for every joint of PARENTS a rotation [T, 4], x y z w."""

    times: Tensor
    root: Tensor
    rotations: Mapping[str, Tensor]


def recording(frames: Tensor) -> Recording:
    """Read the values of a file, [T, 44]. Hand-edited files hold quaternions of other lengths than 1."""
    durations, root = frames[:, 0], frames[:, 1:4]
    times = torch.cat((durations.new_zeros(1), durations[:-1].cumsum(0)))
    rotations, column = {}, 4
    for joint in PARENTS:
        width = 1 if joint in HINGES else 4
        values = frames[:, column : column + width]
        rotations[joint] = _hinge(values) if width == 1 else _ball(values)
        column += width
    return Recording(times, root, rotations)


def _ball(values: Tensor) -> Tensor:
    return roma.quat_normalize(roma.quat_wxyz_to_xyzw(values))


def _hinge(angle: Tensor) -> Tensor:
    return roma.rotvec_to_unitquat(torch.nn.functional.pad(angle, (2, 0)))


def repeat(cycle: Recording, times: int) -> Recording:
    """Lay `times` cycles end to end; each starts where the one before arrived (x and z; the height starts anew).

    The last frame of a cycle restates the first of the next one and is dropped.
    """
    period, travel = cycle.times[-1], cycle.root[-1] - cycle.root[0]
    travel = travel * travel.new_tensor((1.0, 0.0, 1.0))
    starts = range(times)
    return Recording(
        torch.cat([cycle.times[:-1] + k * period for k in starts]),
        torch.cat([cycle.root[:-1] + k * travel for k in starts]),
        {joint: q[:-1].repeat(times, 1) for joint, q in cycle.rotations.items()},
    )


def cut(recorded: Recording, start: int, stop: int) -> Recording:
    """Frames start ... stop - 1, time counted from the first of them."""
    keep = slice(start, stop)
    times = recorded.times[keep] - recorded.times[start]
    return Recording(times, recorded.root[keep], {joint: q[keep] for joint, q in recorded.rotations.items()})


def close_seams(recorded: Recording, seams: Sequence[int]) -> Recording:
    """Spread the jump before each frame of `seams` over its neighbourhood, half to either side.

    The jump is what remains between the frame and the one before it after a step of the usual size, the mean of the
    steps just before and just after. The correction fades with a smooth step, so it has no jump in velocity either.
    """
    root, rotations = recorded.root.clone(), {joint: q.clone() for joint, q in recorded.rotations.items()}
    edges = (0, *seams, len(recorded.times))
    for before, seam, after in zip(edges, edges[1:], edges[2:], strict=False):
        share = _shares(recorded.times, before, seam, after)
        root[:, 1] += share * _jump(recorded.root[seam - 2 : seam + 2, 1])
        for joint, q in recorded.rotations.items():
            step = _turn_jump(q[seam - 2 : seam + 2])
            rotations[joint] = roma.quat_product(rotations[joint], roma.rotvec_to_unitquat(share[:, None] * step))
    return Recording(recorded.times, root, rotations)


def _shares(times: Tensor, before: int, seam: int, after: int) -> Tensor:
    """[T]: the part of the jump to add to every frame, 1/2 just before the seam, -1/2 just after, 0 far away."""
    end = times[min(after, len(times) - 1)]
    reach = min(SEAM_SECONDS, (times[seam] - times[before]).item() / 2, (end - times[seam]).item() / 2)
    distance = ((times - times[seam]).abs() / reach).clamp_max(1.0)
    share = 0.5 * (1.0 - distance.square() * (3.0 - 2.0 * distance))
    return torch.where(torch.arange(len(times)) < seam, share, -share)


def _jump(values: Tensor) -> Tensor:
    """Jump between the middle two of four values."""
    return values[2] - values[1] - 0.5 * ((values[1] - values[0]) + (values[3] - values[2]))


def _turn_jump(q: Tensor) -> Tensor:
    """The same for four rotations [4, 4], as a rotation vector [3]."""
    steps = roma.unitquat_to_rotvec(roma.quat_product(roma.quat_conjugation(q[:-1]), q[1:]))
    expected = roma.quat_product(q[1], roma.rotvec_to_unitquat(0.5 * (steps[0] + steps[2])))
    return roma.unitquat_to_rotvec(roma.quat_product(roma.quat_conjugation(expected), q[2]))


def resample(recorded: Recording, fps: float) -> Recording:
    """Frames exactly 1 / fps apart, up to the last but without it: rotations by slerp, the root linearly."""
    count = math.ceil(recorded.times[-1].item() * fps - 1e-3)
    wanted = torch.arange(count, dtype=recorded.times.dtype) / fps
    right = torch.searchsorted(recorded.times, wanted, right=True).clamp(1, len(recorded.times) - 1)
    left = right - 1
    gap = recorded.times[right] - recorded.times[left]
    weight = (wanted - recorded.times[left]) / gap
    root = torch.lerp(recorded.root[left], recorded.root[right], weight[:, None])
    rotations = {joint: _slerp(q[left], q[right], weight) for joint, q in recorded.rotations.items()}
    return Recording(wanted, root, rotations)


def _slerp(start: Tensor, end: Tensor, weight: Tensor) -> Tensor:
    """[T, 4], [T, 4], [T] -> [T, 4], along the shorter way."""
    turn = roma.unitquat_to_rotvec(roma.quat_product(roma.quat_conjugation(start), end))
    return roma.quat_product(start, roma.rotvec_to_unitquat(weight[:, None] * turn))


def forward(recorded: Recording, offsets: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Positions [T, 3] and orientations [T, 4] of DeepMimic's joints, and of the wrists, in its axes."""
    positions, orientations = {}, {}
    for joint, parent in (PARENTS | WRISTS).items():
        if not parent:
            positions[joint], orientations[joint] = recorded.root, recorded.rotations[joint]
            continue
        above = orientations[parent]
        positions[joint] = positions[parent] + _turned(above, offsets[joint])
        turn = recorded.rotations.get(joint)
        orientations[joint] = above if turn is None else roma.quat_product(above, turn)
    return positions, orientations


def _turned(q: Tensor, offset: Tensor) -> Tensor:
    """Rotate one vector [3] by every rotation [T, 4]. -> [T, 3]."""
    return roma.quat_action(q, offset.expand(len(q), 3))


def to_smpl22(recorded: Recording, offsets: Mapping[str, Tensor]) -> Tensor:
    """[T, 22, 3], metres, y up, in our axes: DeepMimic's (forward, up, right) become (left, up, forward)."""
    positions, orientations = forward(recorded, offsets)
    found = {}
    for joint in SMPL22.joints:
        side = {"l_": "left_", "r_": "right_"}.get(joint[:2], "")
        if joint in ATTACHED:
            body, offset = ATTACHED[joint]
            found[joint] = positions[body] + _turned(orientations[body], recorded.root.new_tensor(offset))
        elif joint == "head":
            found[joint] = found["neck"] + _turned(orientations["neck"], recorded.root.new_tensor(HEAD_FROM_NECK))
        else:
            found[joint] = positions[side + joint[2:]]
    ahead, up, right = torch.stack([found[joint] for joint in SMPL22.joints], dim=1).unbind(-1)
    return torch.stack((-right, up, ahead), dim=-1)
