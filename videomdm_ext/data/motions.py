"""Real motions that come with the package: 22 SMPL joints at 20 fps with captions, mirrored and retimed at will."""

import dataclasses
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from videomdm_ext.errors import DatasetError
from videomdm_ext.motion.skeletons import SMPL22

FPS = 20
BUNDLED = Path(__file__).parent / "bundled" / "deepmimic.npz"

SIDES = {"left": "right", "right": "left", "clockwise": "counterclockwise", "counterclockwise": "clockwise"}
PLAIN_PACE = 0.1
"""Durations changed by less than this share keep their captions: nobody would say slowly or quickly."""
SUBJECT = re.compile(r"^((?:a|the) (?:person|man|woman|figure)|someone|somebody)\b", re.IGNORECASE)
PACE = re.compile(r"\b(slow|slowly|quick|quickly|fast|rapidly)\b", re.IGNORECASE)

Positions = NDArray[np.float32]


@dataclass(frozen=True)
class Motion:
    """positions [T, 22, 3]: metres, y up, floor y = 0, first frame over the origin facing +z, the left being +x.

    `loop` tells that the source is a cycle; the motion then holds whole cycles, ready to go on from the start.
    """

    name: str
    positions: Positions
    captions: tuple[str, ...]
    loop: bool
    fps: int = FPS

    def __post_init__(self) -> None:
        shape = self.positions.shape
        if len(shape) != 3 or shape[1:] != (SMPL22.num_joints, 3) or shape[0] < 2:
            raise DatasetError(
                f"motion {self.name}: expected positions [T, {SMPL22.num_joints}, 3] with T > 1, found {list(shape)}. "
                "Convert the clip again."
            )
        if not self.captions:
            raise DatasetError(f"motion {self.name}: expected at least one caption, found none. Write one.")


def load_motions(path: Path = BUNDLED) -> list[Motion]:
    """The motions of a bundle, in alphabetical order; by default those that come with the package."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as bundle:
            if tuple(bundle["meta.joints"].tolist()) != SMPL22.joints or int(bundle["meta.fps"]) != FPS:
                raise DatasetError(
                    f"{path}: expected {SMPL22.name} at {FPS} fps, found others. Convert the clips anew."
                )
            facts = zip(bundle["meta.names"], bundle["meta.captions"], bundle["meta.loop"], strict=True)
            return [
                Motion(str(name), bundle[str(name)], tuple(str(text) for text in texts if text), bool(loop))
                for name, texts, loop in facts
            ]
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise DatasetError(
            f"{path}: expected a bundle of motions, found a file that cannot be read as one ({error}). "
            "Make it with third_party/deepmimic/convert.py."
        ) from error


def mirrored(motion: Motion) -> Motion:
    """The motion seen in a mirror: x negated, left and right joints exchanged, also left and right in the captions."""
    positions = motion.positions[:, list(SMPL22.mirror)] * np.array((-1, 1, 1), dtype=np.float32)
    name = motion.name.removesuffix("_mirrored") if motion.name.endswith("_mirrored") else f"{motion.name}_mirrored"
    captions = tuple(swap_sides(caption) for caption in motion.captions)
    return dataclasses.replace(motion, name=name, positions=positions, captions=captions)


def swap_sides(caption: str) -> str:
    """Exchange left and right (also clockwise and counterclockwise), whole words, in lower case."""
    words = "|".join(SIDES)
    return re.sub(rf"\b({words})\b", lambda match: SIDES[match.group()], caption)


def time_scaled(motion: Motion, factor: float) -> Motion:
    """The motion made to last `factor` times as long: above 1 slower, below 1 quicker.

    The root follows a Catmull-Rom spline; so does every bone as a vector from its parent, which is then given the
    length interpolated between the two frames around it. Bones of constant length keep it exactly, and the motion has
    no kinks at the old frames. Captions get the adverb slowly or quickly unless they name a pace already.
    """
    if not 0.25 <= factor <= 4.0:
        raise DatasetError(
            f"motion {motion.name}: expected a time factor from 0.25 to 4, not {factor}. Choose another."
        )
    last = len(motion.positions) - 1
    at = np.arange(int(last * factor + 1e-6) + 1) / factor
    positions = _assembled(_interpolated(_bones(motion.positions.astype(np.float64)), at))
    captions = tuple(with_pace(caption, factor) for caption in motion.captions)
    name = f"{motion.name}_x{factor:g}"
    return dataclasses.replace(motion, name=name, positions=positions.astype(np.float32), captions=captions)


def with_pace(caption: str, factor: float) -> str:
    """Put slowly or quickly behind the subject of a caption, if the change of pace is one to be seen."""
    if abs(factor - 1.0) < PLAIN_PACE or PACE.search(caption):
        return caption
    adverb = "slowly" if factor > 1 else "quickly"
    changed, count = SUBJECT.subn(rf"\1 {adverb}", caption)
    return changed if count else f"{caption.rstrip('.')} {adverb}."


def _bones(positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Root position and the vector from its parent to every other joint, [T, J, 3]."""
    bones = positions.copy()
    bones[:, 1:] -= positions[:, list(SMPL22.parents[1:])]
    return bones


def _assembled(bones: NDArray[np.float64]) -> NDArray[np.float64]:
    """Inverse of `_bones`; parents come before their children."""
    positions = bones.copy()
    for joint, parent in enumerate(SMPL22.parents[1:], start=1):
        positions[:, joint] += positions[:, parent]
    return positions


def _interpolated(bones: NDArray[np.float64], at: NDArray[np.float64]) -> NDArray[np.float64]:
    """Catmull-Rom spline through [T, J, 3] at the frame numbers `at`; all but the root keep their lengths."""
    last = len(bones) - 1
    start = np.clip(at.astype(int), 0, last - 1)
    u = (at - start)[:, None, None]
    padded = np.concatenate((2 * bones[:1] - bones[1:2], bones, 2 * bones[-1:] - bones[-2:-1]))
    a, b, c, d = (padded[start + k] for k in range(4))
    curve = b + 0.5 * u * (c - a + u * (2 * a - 5 * b + 4 * c - d + u * (3 * (b - c) + d - a)))
    length = np.linalg.norm(b, axis=-1, keepdims=True) * (1 - u) + np.linalg.norm(c, axis=-1, keepdims=True) * u
    curve[:, 1:] *= (length / np.linalg.norm(curve, axis=-1, keepdims=True).clip(1e-9))[:, 1:]
    return curve
