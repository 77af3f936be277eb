"""DeepMimic's motion capture clips, as pybullet ships them, converted to 22 SMPL joints at 20 fps.

    python -m videomdm_ext.data.sources.deepmimic --from FOLDER_OR_WHEEL --to FILE.npz

The source is pybullet's wheel or any folder that holds `humanoid3d_*.txt` and `humanoid.urdf` somewhere below it.
"""

import argparse
import hashlib
import json
import math
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

import torch
from torch import Tensor

from videomdm_ext.data.motions import FPS, Motion, save_motions
from videomdm_ext.data.sources import deepmimic_pose as pose
from videomdm_ext.data.sources.deepmimic_captions import CAPTIONS
from videomdm_ext.errors import DatasetError, VideoMDMError
from videomdm_ext.motion.kinematics import canonicalise
from videomdm_ext.skeletons import SMPL22

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
    missing = [joint for joint in (*pose.PARENTS, *pose.WRISTS) if len(offsets.get(joint, ())) != 3]
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
    if frames.ndim != 2 or frames.shape[1] != pose.FRAME_VALUES or len(frames) < 4:
        raise DatasetError(
            f"{name}: expected at least 4 frames of {pose.FRAME_VALUES} values, found {list(frames.shape)}. "
            "Use the clips of the humanoid, not of another character."
        )
    return frames, loop


def _motion(name: str, source: bytes, offsets: Mapping[str, Tensor]) -> Motion:
    clip = name[len(PREFIX) : -len(SUFFIX)]
    frames, loop = read_frames(name, source)
    recorded = pose.recording(frames)
    if loop:
        recorded = _looped(clip, recorded)
    positions = _grounded(pose.to_smpl22(pose.resample(recorded, FPS), offsets))
    positions = canonicalise(positions, SMPL22)[0].round(decimals=DECIMALS)
    default = (f"a person does a {clip.replace('_', ' ')}.",)
    return Motion(clip, positions.numpy().astype("float32"), CAPTIONS.get(clip, default), loop)


def _looped(clip: str, cycle: pose.Recording) -> pose.Recording:
    """Repeat a cycle to SHORTEST_SECONDS and close every seam, also the one from the end back to the start.

    The outermost two cycles are there for their seams only; the closing frame stays, for what lies just before it.
    """
    period, length = cycle.times[-1].item(), len(cycle.times) - 1
    times = math.ceil(SHORTEST_SECONDS / period)
    seams = {k * length for k in range(1, times + 2)}
    if clip in STEP_SEAMS:
        seams |= {k * length + STEP_SEAMS[clip] for k in range(times + 2)}
    closed = pose.close_seams(pose.repeat(cycle, times + 2), sorted(seams))
    return pose.cut(closed, length, (times + 1) * length + 1)


def _grounded(positions: Tensor) -> Tensor:
    """Move a clip so that the floor, found from the lowest joint of each frame, is y = 0."""
    floor = positions[..., 1].amin(-1).quantile(FLOOR_QUANTILE)
    return positions - positions.new_tensor((0.0, 1.0, 0.0)) * floor


def digests(sources: Mapping[str, bytes]) -> dict[str, str]:
    """SHA-256 of every source file."""
    return {name: hashlib.sha256(sources[name]).hexdigest() for name in sorted(sources)}


def main(arguments: list[str] | None = None) -> int:
    """Convert and write the bundle; 0, or 1 with a message for an error the user can fix."""
    parser = argparse.ArgumentParser(prog="videomdm_ext.data.sources.deepmimic", description=__doc__)
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
