"""What a motion tells by itself: units, up axis, facing, floor, tempo, jumps and bones. Positions [T, J, 3], metres.

The bounds are far outside of what 102 clips of walking, running and jumping, 180 of acrobatics and a lifter with
90 mm of error show; what a lifter may do is a warning, what nobody can do is an error.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from videomdm_ext.data.damage_files import Files
from videomdm_ext.data.files import Array
from videomdm_ext.data.findings import ERROR, WARNING
from videomdm_ext.motion.features import channels, decode
from videomdm_ext.motion.kinematics import RAW, HeadingRule, heading
from videomdm_ext.motion.skeletons import Skeleton

Positions = NDArray[np.float64]

LEG = 0.83
"""Metres from hip to ankle along the bones, of an adult."""
IMPOSSIBLE_LEG, UNUSUAL_LEG = (0.3, 2.5), (0.55, 1.35)
UNITS = {0.001: "kilometres", 0.0254**-1: "inches", 100.0: "centimetres", 1000.0: "millimetres"}
FACING = (math.radians(20), math.radians(60))
"""Warning and error, of the angle from +z at the first frame; smoothed headings differ by up to 24 degrees."""
FACING_SMOOTHED = (math.radians(60), math.radians(120))
FLOOR = (0.6, 1.5)
"""Metres of the lowest joints from y = 0; lifters are off by half a metre."""
FASTEST = (22.0, 40.0)
"""m/s of any joint: kicks and throws reach 16, with a lifter's jitter 20."""
STILLEST = (1e-4, 0.01)
"""Metres that the joint that moves most moves in the whole clip."""
BONE, BONE_CHANGE = 0.15, 0.3
"""Metres of the bones that are looked at, and the share of its length by which a true bone may not change."""
OFF_TEACHER, OFF_FAR = 0.12, 0.8
"""The same of a teacher, which mistakes depth: in this share of all bones and frames (5 % is usual), or one bone by
OFF_FAR of its length in a tenth of the frames."""
BACKWARD = {"truth": (-0.2, -0.2), "teacher": (-0.2, -0.6)}
"""Warning and error, of the mean cosine of toes or nose against the body's forward side: people have 0.4 and more, one
of 300 lifted clips -0.43, since a lifter may take near for far."""
STRIDE = (0.42, 1.4)
"""Hz of a walking person's strides: people have 0.6 to 1.15."""
WALKED, STEPPED = 24, 0.12
"""Frames, and metres that the ankles swing, from which a stride can be timed."""


@dataclass(frozen=True)
class Moved:
    """A decoded motion, `name` teacher or truth; `upright` is the mean direction from pelvis to neck. Where its sides
    are exchanged, and that was told, it is not compared with an image."""

    name: str
    positions: Positions
    upright: Positions
    exchanged: bool = False


def look(
    found: Files, name: str, features: Array, skeleton: Skeleton, *, fps: float, rule: HeadingRule
) -> Moved | None:
    """Tell what is wrong with raw features [T, D]. -> the motion, or None where it cannot be compared with an image."""
    if _is_scored(found, name, features, skeleton):
        return None
    positions = decode(torch.from_numpy(features.astype(np.float64)), skeleton).numpy()
    if not _is_sized(found, name, positions, skeleton):
        return None
    forward = _is_forward(found, name, positions, skeleton)
    if forward:
        _check_facing(found, name, positions, skeleton, rule)
    _check_floor(found, name, positions)
    _check_steadiness(found, name, positions, fps)
    _check_bones(found, name, positions, skeleton)
    spine = unit(positions[:, skeleton.index("neck")] - positions[:, 0])
    return Moved(name, positions, spine.mean(0), exchanged=not forward)


def unit(vectors: Positions) -> Positions:
    """The directions of vectors [..., 3]; a zero stays one."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    made: Positions = vectors / np.maximum(length, 1e-9)
    return made


def _is_scored(found: Files, name: str, features: Array, skeleton: Skeleton) -> bool:
    """Raw rotation channels are two columns of length 1, at right angles; nothing else has such."""
    columns = features[:, channels(skeleton).rotations].reshape(len(features), -1, 2, 3)
    off = np.abs(np.linalg.norm(columns, axis=-1) - 1) > 0.2
    if off.mean() < 0.25:
        return False
    found.add("z-scored", f"{name}: {100 * off.mean():.0f} % of the rotation columns have no length of 1")
    return True


def _is_sized(found: Files, name: str, positions: Positions, skeleton: Skeleton) -> bool:
    length = float(np.median([_chain(positions, skeleton, side) for side in "lr"]))
    if IMPOSSIBLE_LEG[0] < length < IMPOSSIBLE_LEG[1]:
        if not UNUSUAL_LEG[0] < length < UNUSUAL_LEG[1]:
            found.add("units", f"{name}: legs of {length:.2f} m, adults have {LEG:.2f}", WARNING)
        return True
    factor, guess = min(UNITS.items(), key=lambda item: abs(math.log(max(length, 1e-9) / (LEG * item[0]))))
    fits = abs(math.log(max(length, 1e-9) / (LEG * factor))) < 0.5
    found.add("units", f"{name}: legs of {length:.4g} m, adults have {LEG:.2f}" + (f"; {guess}?" if fits else ""))
    return False


def _chain(positions: Positions, skeleton: Skeleton, side: str) -> Positions:
    """Length of a leg [T]."""
    hip, knee, ankle = (positions[:, skeleton.index(f"{side}_{joint}")] for joint in ("hip", "knee", "ankle"))
    made: Positions = np.linalg.norm(knee - hip, axis=-1) + np.linalg.norm(ankle - knee, axis=-1)
    return made


def _is_forward(found: Files, name: str, positions: Positions, skeleton: Skeleton) -> bool:
    """Toes, or the nose, point to where hips and spine say that the front is: else left is called right."""
    joints = {joint: positions[:, number] for number, joint in enumerate(skeleton.joints)}
    front = np.cross(joints["l_hip"] - joints["r_hip"], joints["neck"] - joints["pelvis"])
    if "l_foot" in joints:
        ahead = joints["l_foot"] - joints["l_ankle"] + joints["r_foot"] - joints["r_ankle"]
    else:
        ahead = joints["nose"] - joints["neck"]
    cosine = float((unit(front) * unit(ahead)).sum(-1).mean())
    warn, refuse = BACKWARD[name]
    if cosine < warn:
        message = f"{name}: toes or nose point backwards (cosine {cosine:.2f}): left is right, or near is far"
        found.add("left-right", message, ERROR if cosine < refuse else WARNING)
    return cosine >= refuse


def _check_facing(found: Files, name: str, positions: Positions, skeleton: Skeleton, rule: HeadingRule) -> None:
    warn, refuse = FACING if rule == RAW else FACING_SMOOTHED
    angle = float(heading(torch.from_numpy(positions), skeleton, rule)[0])
    if abs(angle) > warn:
        level = ERROR if abs(angle) > refuse else WARNING
        found.add("facing", f"{name}: faces {math.degrees(angle):.0f} degrees off +z at the first frame", level)


def _check_floor(found: Files, name: str, positions: Positions) -> None:
    lowest = float(np.quantile(positions[..., 1].min(-1), 0.05))
    warn, refuse = FLOOR
    if abs(lowest) > warn:
        level = ERROR if abs(lowest) > refuse else WARNING
        found.add("floor", f"{name}: the lowest joints are at y = {lowest:.2f} m", level)


def _check_steadiness(found: Files, name: str, positions: Positions, fps: float) -> None:
    moved = float(np.linalg.norm(np.ptp(positions, axis=0), axis=-1).max())
    if moved < STILLEST[1]:
        level = ERROR if moved < STILLEST[0] else WARNING
        found.add("frozen", f"{name}: no joint moves more than {1000 * moved:.2f} mm in {len(positions)} frames", level)
    speed = np.linalg.norm(np.diff(positions, axis=0), axis=-1) * fps
    frame, joint = np.unravel_index(int(speed.argmax()), speed.shape)
    if speed.max() > FASTEST[0]:
        level = ERROR if speed.max() > FASTEST[1] else WARNING
        kind = "teleport" if _is_alone(speed.max(-1), int(frame)) else "speed"
        found.add(kind, f"{name}: joint {joint} has {speed.max():.0f} m/s after frame {frame}", level)


def _is_alone(fastest: Positions, frame: int) -> bool:
    """Whether a step [T - 1] is much larger than those about it: a jump, not a quick movement."""
    near = np.delete(fastest[max(frame - 3, 0) : frame + 4], min(frame, 3))
    return bool(fastest[frame] > 3 * np.median(near))


def _check_bones(found: Files, name: str, positions: Positions, skeleton: Skeleton) -> None:
    lengths = np.linalg.norm(positions[:, 1:] - positions[:, list(skeleton.parents[1:])], axis=-1)
    usual = np.median(lengths, axis=0)
    long = usual > BONE
    low, high = np.quantile(lengths, (0.05, 0.95), axis=0)
    change = (high - low) / np.maximum(usual, 1e-6) * long
    bad = change.max() > BONE_CHANGE
    if name == "teacher":
        off = np.abs(lengths / np.maximum(usual, 1e-6) - 1) * long
        bad = (off > BONE_CHANGE).sum() / max(off.shape[0] * long.sum(), 1) > OFF_TEACHER
        bad = bad or (off > OFF_FAR).mean(0).max() > 0.1
    if bad:
        worst = int(change.argmax())
        message = f"{name}: the bone to {skeleton.joints[worst + 1]} is {low[worst]:.2f} to {high[worst]:.2f} m long"
        found.add("bones", message, WARNING if name == "teacher" else ERROR)


def stride(positions: Positions, skeleton: Skeleton, fps: float) -> float | None:
    """Hz at which the ankles pass each other back and forth, None where they do not."""
    across = positions[:, skeleton.index("l_hip")] - positions[:, skeleton.index("r_hip")]
    ahead = unit(across[:, [2, 1, 0]] * np.array((-1.0, 0.0, 1.0)))
    apart = positions[:, skeleton.index("l_ankle")] - positions[:, skeleton.index("r_ankle")]
    swing = (apart * ahead).sum(-1)
    swing = swing - swing.mean()
    if len(swing) < WALKED or swing.std() < STEPPED:
        return None
    size = max(1024, 1 << (len(swing) * 4).bit_length())
    power = np.abs(np.fft.rfft(swing * np.hanning(len(swing)), size)) ** 2
    rate = np.fft.rfftfreq(size, 1 / fps)
    return float(rate[int(np.where(rate > 0.2, power, 0).argmax())])


def check_stride(found: Files, texts: tuple[str, ...], moved: Moved, skeleton: Skeleton, fps: float) -> float | None:
    """Tell of a walk at twice or half the pace of people. -> strides a second where a caption speaks of walking."""
    if not any("walk" in text.lower() for text in texts):
        return None
    rate = stride(moved.positions, skeleton, fps)
    if rate is not None and not STRIDE[0] < rate < STRIDE[1]:
        found.add("speed", f"walks with {rate:.2f} strides a second, people have 0.6 to 1.15", WARNING)
    return rate


def facts(moved: Moved) -> dict[str, Any]:
    """What the look at the whole set needs of a motion."""
    return {"upright": [round(float(x), 3) for x in moved.upright]}
