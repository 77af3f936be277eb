"""DeepMimic's motion capture clips, as pybullet ships them, converted to 22 SMPL joints at 20 fps.

    python third_party/deepmimic/convert.py --from FOLDER_OR_WHEEL --to FILE.npz

The source is pybullet's wheel or any folder that holds `humanoid3d_*.txt` and `humanoid.urdf` somewhere below it.
Cycles are joined, their seams closed, rotations resampled and joints placed by forward kinematics.

DeepMimic's axes are x forward, y up, z to the person's right; units are metres, quaternions (w, x, y, z) in the files
and roma's (x, y, z, w) here. Ball joints hold a quaternion, knees and elbows an angle about +z: a knee bends backwards
with a negative angle, an elbow forwards with a positive one.
"""

import argparse
import hashlib
import io
import json
import math
import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

import numpy as np
import roma
import torch
from numpy.typing import NDArray
from torch import Tensor

from videomdm_ext.data.motions import FPS, Motion
from videomdm_ext.errors import DatasetError, VideoMDMError
from videomdm_ext.motion.kinematics import canonicalise
from videomdm_ext.motion.skeletons import SMPL22

PREFIX, SUFFIX, SKELETON_FILE = "humanoid3d_", ".txt", "humanoid.urdf"

SCALE = 0.25
"""Metres per unit of the skeleton file; pybullet loads it with this scale, which makes the humanoid 1.62 m tall."""
SHORTEST_SECONDS = 2.5
"""Cycles are repeated until a looping clip lasts at least this long."""
STEP_SEAMS = {"walk": 19, "run": 12}
"""Frame at which a cycle's second half starts: it is the first half mirrored, so there is a seam as well."""
FLOOR_QUANTILE = 0.05
"""The floor lies where the lowest joint is in the lowest 5 % of the frames; a single stray frame moves it little."""
DECIMALS = 5
"""Positions are rounded to 0.01 mm: the same numbers on every machine, and a smaller file."""

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

CAPTIONS = {
    "backflip": (
        "a person does two backflips.",
        "someone jumps up and flips backwards, then does it again.",
        "a person throws both arms up and somersaults backwards through the air two times.",
    ),
    "cartwheel": (
        "a person does a cartwheel to the left.",
        "someone bends to the left, puts both hands on the ground and cartwheels.",
        "a person turns a cartwheel, starting with the left hand.",
    ),
    "crawl": (
        "a person crawls on the ground.",
        "someone crawls low on elbows and knees, close to the floor.",
        "a person drags the body forward along the floor.",
    ),
    "dance_a": (
        "a person dances to the left, spinning around to the right.",
        "someone twirls with outstretched arms while moving to the left.",
        "a person swings both arms and turns around twice in a dance.",
    ),
    "dance_b": (
        "a person dances from side to side.",
        "someone steps to the right and back to the left, swinging the arms up.",
        "a person raises the left arm, then the right arm while dancing.",
    ),
    "getup_facedown": (
        "a person gets up from lying face down.",
        "someone pushes off the floor with both hands and stands up.",
        "a person rises from the stomach to hands and knees and then to standing.",
    ),
    "getup_faceup": (
        "a person gets up from lying on the back.",
        "someone swings both legs up, rocks forward to a squat and stands up.",
        "a person rolls up from the back and rises to the feet.",
    ),
    "jump": (
        "a person jumps forward twice.",
        "someone bends the knees and leaps forward with both feet, two times.",
        "a person does two standing jumps forward.",
    ),
    "kick": (
        "a person kicks with the right leg.",
        "someone turns to the left and does a side kick with the right leg.",
        "a person performs a high kick of martial arts with the right foot.",
    ),
    "punch": (
        "a person punches with the right hand.",
        "someone steps forward and throws a punch with the right fist.",
        "a person lunges forward with a straight right punch.",
    ),
    "roll": (
        "a person does two forward rolls.",
        "someone crouches, rolls over the ground and stands up, then does it again.",
        "a person rolls forward on the floor twice.",
    ),
    "run": (
        "a person runs forward.",
        "someone runs straight ahead with bent arms.",
        "a person runs in a straight line.",
    ),
    "spin": (
        "a person spins through the air with the legs swinging high, moving to the left.",
        "someone leaps into a butterfly kick, turning to the left.",
        "a person bends down, jumps into a horizontal spin and lands on the feet.",
    ),
    "spinkick": (
        "a person does two spinning kicks.",
        "someone jumps, spins to the left and kicks high with the right leg, twice.",
        "a person turns around in the air and kicks with the right foot, then does it again.",
    ),
    "walk": (
        "a person walks forward.",
        "someone walks straight ahead with swinging arms.",
        "a person takes four steps forward.",
    ),
}
"""Captions in the manner of HumanML3D: each starts with who moves, followed by the verb, so that an adverb fits between
the two, and none names a pace."""


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


def convert(folder: Path) -> dict[str, Motion]:
    """Convert every clip of a folder (or wheel), by name in alphabetical order."""
    return convert_sources(read_sources(folder))


def convert_sources(sources: Mapping[str, bytes]) -> dict[str, Motion]:
    """Convert clips from the bytes of their files, {file name: bytes}, the skeleton file among them."""
    offsets = read_offsets(sources[SKELETON_FILE])
    clips = sorted(name for name in sources if name != SKELETON_FILE)
    motions = [_motion(name, sources[name], offsets) for name in clips]
    return {motion.name: motion for motion in motions}


def read_sources(source: Path) -> dict[str, bytes]:
    """Bytes of the clips and of the skeleton file, from an unpacked folder or from the wheel itself."""
    if source.is_dir():
        found = {path.name: path.read_bytes() for path in sorted(source.rglob("*")) if _wanted(path.name)}
    elif zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as wheel:
            found = {PurePosixPath(n).name: wheel.read(n) for n in wheel.namelist() if _wanted(PurePosixPath(n).name)}
    else:
        raise DatasetError(
            f"{source}: expected a folder or a wheel, found neither. Give pybullet's wheel or its folder."
        )
    if SKELETON_FILE not in found or len(found) < 2:
        raise DatasetError(
            f"{source}: expected {PREFIX}*{SUFFIX} and {SKELETON_FILE} in it, found {sorted(found) or 'none of them'}. "
            "Give pybullet's wheel, or the folder it was unpacked to."
        )
    return found


def _wanted(name: str) -> bool:
    return name == SKELETON_FILE or (name.startswith(PREFIX) and name.endswith(SUFFIX))


def read_offsets(urdf: bytes) -> dict[str, Tensor]:
    """Offset [3] of every joint from its parent, metres, from the humanoid's skeleton file."""
    text = urdf.rstrip(b"\0 \r\n")  # the file as shipped ends in a zero byte
    try:
        joints = {str(joint.get("name")): joint.find("origin") for joint in ElementTree.fromstring(text).iter("joint")}
        values = {name: origin.get("xyz", "").split() for name, origin in joints.items() if origin is not None}
        offsets = {
            name: SCALE * torch.tensor([float(value) for value in xyz], dtype=torch.float64)
            for name, xyz in values.items()
        }
    except (ElementTree.ParseError, ValueError) as error:
        raise DatasetError(f"{SKELETON_FILE}: cannot be read ({error}). Unpack pybullet's wheel again.") from error
    missing = [joint for joint in (*PARENTS, *WRISTS) if len(offsets.get(joint, ())) != 3]
    if missing:
        raise DatasetError(f"{SKELETON_FILE}: no offset of {', '.join(missing)}. Use the humanoid of pybullet.")
    return offsets


def read_frames(name: str, source: bytes) -> tuple[Tensor, bool]:
    """Values [T, 44] of a clip's file, and whether it loops."""
    try:
        content = json.loads(source)
        frames, loop = torch.tensor(content["Frames"], dtype=torch.float64), content["Loop"] == "wrap"
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{name}: not a clip of DeepMimic ({error!r}). Unpack pybullet's wheel again.") from error
    if frames.ndim != 2 or frames.shape[1] != FRAME_VALUES or len(frames) < 4:
        raise DatasetError(
            f"{name}: expected at least 4 frames of {FRAME_VALUES} values, found {list(frames.shape)}. "
            "Use the clips of the humanoid, not of another character."
        )
    return frames, loop


def _motion(name: str, source: bytes, offsets: Mapping[str, Tensor]) -> Motion:
    clip = name[len(PREFIX) : -len(SUFFIX)]
    frames, loop = read_frames(name, source)
    recorded = recording(frames)
    if loop:
        recorded = _looped(clip, recorded)
    positions = _grounded(to_smpl22(resample(recorded, FPS), offsets))
    positions = canonicalise(positions, SMPL22)[0].round(decimals=DECIMALS)
    default = (f"a person does a {clip.replace('_', ' ')}.",)
    return Motion(clip, positions.numpy().astype("float32"), CAPTIONS.get(clip, default), loop)


def _looped(clip: str, cycle: Recording) -> Recording:
    """Repeat a cycle to SHORTEST_SECONDS and close every seam, also the one from the end back to the start.

    The outermost two cycles are there for their seams only; the closing frame stays, for what lies just before it.
    """
    period, length = cycle.times[-1].item(), len(cycle.times) - 1
    times = math.ceil(SHORTEST_SECONDS / period)
    seams = {k * length for k in range(1, times + 2)}
    if clip in STEP_SEAMS:
        seams |= {k * length + STEP_SEAMS[clip] for k in range(times + 2)}
    closed = close_seams(repeat(cycle, times + 2), sorted(seams))
    return cut(closed, length, (times + 1) * length + 1)


def _grounded(positions: Tensor) -> Tensor:
    """Move a clip so that the floor, found from the lowest joint of each frame, is y = 0."""
    floor = positions[..., 1].amin(-1).quantile(FLOOR_QUANTILE)
    return positions - positions.new_tensor((0.0, 1.0, 0.0)) * floor


def save_motions(path: Path, motions: Sequence[Motion], sources: Mapping[str, str]) -> None:
    """Write a bundle; `sources` maps the files it was made from to their SHA-256. Same content, same bytes."""
    arrays: dict[str, NDArray[np.generic]] = {motion.name: motion.positions for motion in motions}
    most = max(len(motion.captions) for motion in motions)
    arrays |= {
        "meta.names": np.array([motion.name for motion in motions]),
        "meta.captions": np.array([(*m.captions, *[""] * (most - len(m.captions))) for m in motions]),
        "meta.loop": np.array([motion.loop for motion in motions]),
        "meta.fps": np.array(FPS),
        "meta.joints": np.array(SMPL22.joints),
        "meta.sources": np.array(sorted(sources.items())),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    with zipfile.ZipFile(beside, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as bundle:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.save(content, array, allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            bundle.writestr(entry, content.getvalue(), compresslevel=9)
    beside.replace(path)


def digests(sources: Mapping[str, bytes]) -> dict[str, str]:
    """SHA-256 of every source file."""
    return {name: hashlib.sha256(sources[name]).hexdigest() for name in sorted(sources)}


def main(arguments: list[str] | None = None) -> int:
    """Convert and write the bundle; 0, or 1 with a message for an error the user can fix."""
    parser = argparse.ArgumentParser(prog="convert.py", description=__doc__)
    parser.add_argument("--from", dest="source", type=Path, required=True, help="pybullet's wheel or a folder")
    parser.add_argument("--to", dest="target", type=Path, required=True, help="the .npz to write")
    options = parser.parse_args(arguments)
    try:
        sources = read_sources(options.source)
        motions = list(convert_sources(sources).values())
        save_motions(options.target, motions, digests(sources))
    except VideoMDMError as error:
        print(error, file=sys.stderr)
        return 1
    frames = sum(len(motion.positions) for motion in motions)
    print(f"{options.target}: {len(motions)} clips, {frames} frames, {frames / FPS:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
