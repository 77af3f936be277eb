"""Motions in time; the package's real ones, mirrored, retimed and seen by cameras; the demo's data set.

The demo is bundled real motion, seen by orbit cameras, with a teacher from a synthetic lifter. It is split by motion,
never by segment. The three motions of HELD_OUT are tested on: each has a relative in the training set (another dance,
walking, getting up the other way), so a caption means something to the model that never saw the motion.
"""

import dataclasses
import hashlib
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from videomdm_ext import plugins
from videomdm_ext.data import files
from videomdm_ext.data.building import Inputs, write_folder
from videomdm_ext.data.clip import Clip, Recording, floor_height, to_clip
from videomdm_ext.data.folder import Card
from videomdm_ext.errors import DatasetError, PluginError
from videomdm_ext.geometry import cameras
from videomdm_ext.geometry.rotations import roma
from videomdm_ext.motion.measures import measure_error
from videomdm_ext.motion.skeletons import SMPL22, Skeleton

FPS = 20
BUNDLED = Path(__file__).parent / "bundled" / "deepmimic.npz"

UNSURE = 0.5  # factor on the confidence of keypoints between two frames of which one lacks them
SIDES = {"left": "right", "right": "left", "clockwise": "counterclockwise", "counterclockwise": "clockwise"}
PLAIN_PACE = 0.1  # durations changed by less than this share keep their captions: nobody would say slowly or quickly
SUBJECT = re.compile(r"^((?:a|the) (?:person|man|woman|figure)|someone|somebody)\b", re.IGNORECASE)
PACE = re.compile(r"\b(slow|slowly|quick|quickly|fast|rapidly)\b", re.IGNORECASE)

Positions = NDArray[np.float32]
Numbers = NDArray[np.float64]


def frames_at(count: int, fps: float, wanted: float) -> Tensor:
    """Fractional numbers of the frames of a recording of `count` frames at `fps` that a rate of `wanted` shows."""
    last = (count - 1) / fps
    return torch.arange(int(last * wanted + 1e-6) + 1, dtype=torch.float64) * (fps / wanted)


def resample(values: Tensor, frames: Sequence[float] | Tensor) -> Tensor:
    """Values [T, ...] at fractional frame numbers [S], linearly. -> [S, ...]"""
    low, high, share = _beside(len(values), torch.as_tensor(frames, dtype=torch.float64))
    share = share.to(values.dtype).reshape(-1, *[1] * (values.ndim - 1))
    return values[low] * (1 - share) + values[high] * share


def resample_rotations(turns: Tensor, frames: Tensor) -> Tensor:
    """Rotations [T, ..., 3, 3] at fractional frame numbers [S], along the shortest way. -> [S, ..., 3, 3]"""
    low, high, share = _beside(len(turns), frames)
    between = roma.rotmat_to_rotvec(turns[low].transpose(-1, -2) @ turns[high])
    return turns[low] @ roma.rotvec_to_rotmat(share.to(turns.dtype).reshape(-1, *[1] * (between.ndim - 1)) * between)


def _beside(count: int, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Numbers [S] of the frames before and after, and the share of the one after."""
    at = frames.clamp(0, count - 1)
    low = at.floor().long().clamp_max(max(count - 2, 0))
    return low, (low + 1).clamp_max(count - 1), at - low


def interpolate(at: Numbers, times: Numbers, values: Numbers, known: NDArray[np.bool_]) -> Numbers:
    """Values [F, J, C] at other times [T], linearly between those of the rising `times` [F] at which `known` [F, J].

    Beyond the first and the last known time the value stays; a joint that is never known gets 0. -> [T, J, C]
    """
    out = np.zeros((len(at), *values.shape[1:]))
    for joint in range(values.shape[1]):
        rows = known[:, joint]
        for channel in range(values.shape[2]) if rows.any() else ():
            out[:, joint, channel] = np.interp(at, times[rows], values[rows, joint, channel])
    return out


def interpolate_confidence(at: Numbers, times: Numbers, confidence: Numbers) -> Numbers:
    """Confidence [F, J] at other times [T]: linear, and less where one of the two frames beside lacks the joint."""
    after = np.searchsorted(times, at - 1e-9).clip(0, len(times) - 1)
    before = (after - (times[after] > at + 1e-9)).clip(0, None)
    span = np.maximum(times[after] - times[before], 1e-9)
    share = ((at - times[before]) / span).clip(0, 1)[:, None]
    between = confidence[before] * (1 - share) + confidence[after] * share
    lacking = np.minimum(confidence[before], confidence[after]) <= 0
    return np.where(lacking, between * UNSURE, between)


def grounded(positions: Tensor) -> Tensor:
    """The motion [T, J, 3] with its floor at y = 0."""
    return positions - positions.new_tensor((0.0, floor_height(positions), 0.0))


@dataclass(frozen=True)
class Motion:
    """positions [T, 22, 3]: metres, y up, floor y = 0, first frame over the origin facing +z, the left being +x.

    `loop` marks that the source is a cycle; the motion then holds whole cycles, ready to go on from the start.
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
    advice = "Make the bundle with third_party/deepmimic/convert.py."
    content = files.read_bytes(str(path))
    texts = files.texts_from(content, str(path), ("meta.names", "meta.captions", "meta.joints"))
    names, captions = texts["meta.names"].ravel().tolist(), texts["meta.captions"].tolist()
    facts = files.arrays_from(content, str(path), needed=("meta.loop", "meta.fps", *names), optional=())
    if texts["meta.joints"].tolist() != list(SMPL22.joints) or (facts["meta.fps"] != FPS).any():
        raise DatasetError(f"{path}: expected {SMPL22.name} at {FPS} fps, found others. {advice}")
    shapes = texts["meta.names"].shape, texts["meta.captions"].shape[:1], facts["meta.loop"].shape
    if texts["meta.captions"].ndim != 2 or len(set(shapes)) > 1:
        raise DatasetError(f"{path}: expected captions and a loop for each of {len(names)} motions. {advice}")
    rows = zip(names, captions, facts["meta.loop"], strict=True)
    try:
        return [Motion(name, facts[name], tuple(filter(None, said)), bool(loop)) for name, said, loop in rows]
    except DatasetError as error:
        raise DatasetError(f"{path}: {error}") from error


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
    positions = motion.positions.astype(np.float64)
    positions[:, 1:] -= positions[:, list(SMPL22.parents[1:])]  # the root, and each joint's vector from its parent
    positions = _interpolated(positions, at)
    for joint, parent in enumerate(SMPL22.parents[1:], start=1):  # parents come before their children
        positions[:, joint] += positions[:, parent]
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


PREFIX = "lifter."  # options with this prefix go to the lifter alone


@dataclass(frozen=True)
class Optics:
    """Orbit cameras and a 2D detector. Angles in radians, metres; noise on the normalised plane."""

    elevation: tuple[float, float] = (0.0, math.radians(25.0))
    nearest_joint: tuple[float, float] = (2.5, 5.0)
    noise: float = 0.0005  # 2 mm at 4 m
    confidence: tuple[float, float] = (0.7, 1.0)


def observe(
    clip_id: str,
    texts: tuple[str, ...],
    truth: Tensor,
    *,
    skeleton: Skeleton,
    fps: float,
    optics: Optics,
    draw: torch.Generator,
) -> Recording:
    """Place a camera about the motion [T, J, 3] and detect its joints; `draw` is the clip's own generator."""
    camera = cameras.sample_orbit(
        truth[:, 0].mean(0), draw, elevation=optics.elevation, distance=optics.nearest_joint, positions=truth
    )
    points, _ = cameras.project(truth, camera.unsqueeze(0))
    keypoints = points + optics.noise * torch.randn(points.shape, generator=draw)
    confidence = cameras.uniform(*optics.confidence, tuple(points.shape[:-1]), draw)
    return Recording(clip_id, texts, fps, skeleton, keypoints, confidence, camera, truth=truth)


def own_generator(*label: object) -> torch.Generator:
    """The generator of a purpose: a stable hash of its label, such as set, seed and clip id."""
    digest = hashlib.sha256("/".join(map(str, label)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def find_lifter(name: str, seed: int, skeleton: Skeleton, extra: Mapping[str, str] | None = None) -> Any:
    """A registered lifter by its name, for this skeleton; of `extra` it gets the keys that its `options` name."""
    made = _registered(name)
    taken = getattr(made, "options", None)
    given = {} if taken is None else {"target": skeleton, **(extra or {})}
    lifter = made(seed=seed, **given)
    if lifter.info.skeleton != skeleton:
        raise PluginError(
            f"lifter {name!r}: expected {skeleton.name}, found {lifter.info.skeleton.name}. Choose another."
        )
    return lifter


def lifter_options(name: str) -> Mapping[str, str]:
    """Keys of options that a registered lifter takes, each with a line of help."""
    found: Mapping[str, str] = getattr(_registered(name), "options", {})
    return found


def _registered(name: str) -> Any:
    """What makes the lifter of this name; PluginError where none has it."""
    known = plugins.collect(plugins.create_manager(), "lifters")
    if name not in known:
        raise PluginError(f"lifter {name!r}: expected one of {', '.join(known)}. Install the plugin that has it.")
    return known[name]


def lift(lifter: Any, recording: Recording) -> Recording:
    """The recording with what the lifter makes of it.

    A lifter that ran elsewhere saw of a clip's part no more than that; its motion is then held before and after.
    """
    start, stop = (
        recording.part if recording.part and getattr(lifter, "elsewhere", False) else (0, len(recording.keypoints))
    )
    rows, camera = slice(start, stop + 1), recording.extrinsics
    lifted: Tensor = lifter.lift(
        recording.id,
        keypoints=recording.keypoints[rows],
        confidence=recording.confidence[rows],
        extrinsics=camera[rows] if camera.ndim == 3 else camera,
        fps=recording.fps,
        truth=None if recording.truth is None else recording.truth[rows],
    )
    held = (torch.arange(len(recording.keypoints)) - start).clamp(0, len(lifted) - 1)
    return dataclasses.replace(recording, lifted=lifted if len(held) == len(lifted) else lifted[held])


HELD_OUT = ("dance_b", "getup_faceup", "run")
MAX_FRAMES = 60
DURATIONS = (0.85, 1.0, 1.18)
VIEWS = 2  # cameras a variant: 12 motions, mirrored or not, in 3 durations, make 144 training clips
SOURCES = ("DeepMimic (Peng et al. 2018), 15 motion capture clips as shipped with pybullet 3.2.7",)
LICENCE = "zlib (pybullet 3.2.7, altered version); see third_party/deepmimic"


def build_demo(
    path: str,
    *,
    seed: int = 0,
    views: int = VIEWS,
    fast: bool = False,
    durations: Sequence[float] = DURATIONS,
) -> Card:
    """Make the demo's data set in a folder; the same arguments make the same files. -> its card.

    `durations` are factors of the recorded one; `fast` leaves out all but that and one view.
    """
    files.check_writable(path)
    durations, views = ((1.0,), 1) if fast else (tuple(durations), views)
    optics, model = Optics(), find_lifter("synthetic", seed, SMPL22)
    splits: dict[str, list[Clip]] = {"train": [], "test": []}
    errors: list[dict[str, float]] = []
    inputs = Inputs([str(BUNDLED)])
    with files.watched(inputs):
        motions = load_motions()
    for motion in motions:
        members = splits["test" if motion.name in HELD_OUT else "train"]
        for (name, variant), number in itertools.product(variants(motion, durations), range(views)):
            clip_id = f"{name}_v{number}"
            positions = torch.from_numpy(variant.positions[window(len(variant.positions), number, views)])
            draw = own_generator("demo", seed, clip_id)
            seen = observe(
                clip_id, variant.captions, positions, skeleton=SMPL22, fps=float(FPS), optics=optics, draw=draw
            )
            made = lift(model, seen)
            assert made.lifted is not None
            errors.append(measure_error(made.lifted, positions, SMPL22, fps=FPS))
            members.append(to_clip(made))
    card = Card(
        name="demo",
        skeleton=SMPL22.name,
        fps=float(FPS),
        lifter="synthetic",
        licence=LICENCE,
        sources=SOURCES,
        lifter_error={name: round(float(np.mean([error[name] for error in errors])), 5) for name in errors[0]},
        recipe={"seed": seed, "views": views, "durations": durations, "cameras": dataclasses.asdict(optics)},
    )
    return write_folder(path, splits, card, inputs=inputs)


def variants(motion: Motion, durations: Sequence[float]) -> Iterator[tuple[str, Motion]]:
    """The motion and its mirror image in each duration, with a name such as walk_m1_s085... -> (name, motion)."""
    for side, seen in enumerate((motion, mirrored(motion))):
        for factor in durations:
            paced = seen if factor == 1.0 else time_scaled(seen, factor)
            yield f"{motion.name}_m{side}_s{round(100 * factor)}", paced


def window(frames: int, view: int, views: int) -> slice:
    """The part of a motion that a view sees: one frame more than MAX_FRAMES, spread over the motion by the views."""
    length = min(frames, MAX_FRAMES + 1)
    start = (frames - length) * view // max(views - 1, 1)
    return slice(start, start + length)
