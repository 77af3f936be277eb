"""The demo's data set: bundled real motion, seen by orbit cameras, with a teacher from a synthetic lifter.

Split by motion, never by segment. The three motions of HELD_OUT are tested on: each has a relative in the training set
(another dance, walking, getting up the other way), so a caption means something to the model that never saw the motion.
"""

import dataclasses
import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from videomdm_ext import plugins
from videomdm_ext.datasets import files
from videomdm_ext.datasets.clip import Array, Clip
from videomdm_ext.datasets.folder import Card, write_folder
from videomdm_ext.datasets.motions import FPS, Motion, load_motions, mirrored, time_scaled
from videomdm_ext.errors import PluginError
from videomdm_ext.geometry import cameras
from videomdm_ext.motion.accuracy import measure_error
from videomdm_ext.motion.features import encode
from videomdm_ext.motion.kinematics import RAW, canonicalise
from videomdm_ext.skeletons import SMPL22

HELD_OUT = ("dance_b", "getup_faceup", "run")
MAX_FRAMES = 60
DURATIONS = (0.85, 1.0, 1.18)
VIEWS = 2
"""Cameras a variant: 12 motions, mirrored or not, in 3 durations, make 144 training clips."""
SOURCES = ("DeepMimic (Peng et al. 2018), 15 motion capture clips as shipped with pybullet 3.2.7",)
LICENCE = "zlib (pybullet 3.2.7, altered version); see third_party/deepmimic"


@dataclass(frozen=True)
class DemoCameras:
    """Orbit cameras and a 2D detector. Angles in radians, metres; noise on the normalised plane."""

    elevation: tuple[float, float] = (0.0, math.radians(25.0))
    nearest_joint: tuple[float, float] = (2.5, 5.0)
    noise: float = 0.0005  # 2 mm at 4 m
    confidence: tuple[float, float] = (0.7, 1.0)


@dataclass(frozen=True)
class _View:
    """A part of a motion [T, J, 3] as one camera saw it, in the world of the camera."""

    id: str
    texts: tuple[str, ...]
    positions: Tensor
    camera: Tensor
    keypoints: Tensor
    confidence: Tensor


def build_demo(
    path: str,
    *,
    seed: int = 0,
    views: int = VIEWS,
    fast: bool = False,
    lifter: str = "synthetic",
    optics: DemoCameras | None = None,
) -> Card:
    """Make the demo's data set in a folder; the same arguments make the same files. -> its card.

    `fast` leaves out all but the recorded pace and one view. The lifter is looked up among the registered ones.
    """
    files.check_writable(path)
    optics, durations = optics or DemoCameras(), (1.0,) if fast else DURATIONS
    views = 1 if fast else views
    model = _lifter(lifter, seed)
    splits: dict[str, list[Clip]] = {"train": [], "test": []}
    errors: list[dict[str, float]] = []
    for motion in load_motions():
        members = splits["test" if motion.name in HELD_OUT else "train"]
        for view in _views(motion, durations, views, optics, seed):
            lifted = _lift(model, view)
            errors.append(measure_error(lifted, view.positions, SMPL22, fps=FPS))
            members.append(_clip(view, lifted))
    recipe = {"seed": seed, "views": views, "durations": durations, "cameras": dataclasses.asdict(optics)}
    card = Card(
        name="demo",
        skeleton=SMPL22.name,
        fps=float(FPS),
        lifter=lifter,
        licence=LICENCE,
        sources=SOURCES,
        lifter_error=_mean(errors),
        recipe=recipe,
    )
    return write_folder(path, splits, card)


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


def _views(motion: Motion, durations: Sequence[float], views: int, optics: DemoCameras, seed: int) -> Iterator[_View]:
    for name, variant in variants(motion, durations):
        for number in range(views):
            clip_id = f"{name}_v{number}"
            positions = torch.from_numpy(variant.positions[window(len(variant.positions), number, views)])
            yield _seen(clip_id, variant.captions, positions, optics, seed)


def _seen(clip_id: str, texts: tuple[str, ...], positions: Tensor, optics: DemoCameras, seed: int) -> _View:
    """Place a camera and detect the joints; every clip has its own stream of random numbers."""
    draw = _generator(clip_id, seed)
    camera = cameras.sample_orbit(
        positions[:, 0].mean(0),
        draw,
        elevation=optics.elevation,
        distance=optics.nearest_joint,
        positions=positions,
    )
    points, _ = cameras.project(positions, camera.unsqueeze(0))
    keypoints = points + optics.noise * torch.randn(points.shape, generator=draw)
    confidence = cameras.uniform(*optics.confidence, tuple(points.shape[:-1]), draw)
    return _View(clip_id, texts, positions, camera, keypoints, confidence)


def _lifter(name: str, seed: int) -> Any:
    """A registered lifter by its name, for the skeleton of the motions."""
    known = plugins.collect(plugins.create_manager(), "lifters")
    if name not in known:
        raise PluginError(f"lifter {name!r}: expected one of {', '.join(known)}. Install the plugin that has it.")
    lifter = known[name](seed=seed)
    if lifter.info.skeleton != SMPL22:
        raise PluginError(
            f"lifter {name!r}: expected {SMPL22.name}, found {lifter.info.skeleton.name}. Choose another."
        )
    return lifter


def _lift(lifter: Any, view: _View) -> Tensor:
    lifted: Tensor = lifter.lift(
        view.id,
        keypoints=view.keypoints,
        confidence=view.confidence,
        extrinsics=view.camera,
        fps=FPS,
        truth=view.positions,
    )
    return lifted


def _clip(view: _View, lifted: Tensor) -> Clip:
    """Truth and teacher as features, each in its own canonical frame, with the camera for each.

    The last frame is dropped, as in HumanML3D's files: it has no difference to a next one.
    """
    truth, truth_camera = _features(view.positions, view.camera)
    teacher, camera = _features(lifted, view.camera)
    return Clip(
        id=view.id,
        fps=float(FPS),
        skeleton=SMPL22,
        teacher=teacher,
        keypoints=view.keypoints[:-1].numpy(),
        confidence=view.confidence[:-1].numpy(),
        extrinsics=camera,
        texts=view.texts,
        truth=truth,
        truth_extrinsics=truth_camera,
    )


def _features(positions: Tensor, camera: Tensor) -> tuple[Array, Array]:
    """Raw features [T - 1, D] of positions [T, J, 3], and the camera [3, 4] in their canonical frame."""
    moved, heading, origin = canonicalise(positions, SMPL22, RAW)
    return encode(moved, SMPL22)[:-1].numpy(), cameras.reexpress(camera, heading, origin).numpy()


def _mean(errors: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of every figure over the clips, to 5 decimals."""
    return {name: round(float(np.mean([error[name] for error in errors])), 5) for name in errors[0]}


def _generator(clip_id: str, seed: int) -> torch.Generator:
    digest = hashlib.sha256(f"demo/{seed}/{clip_id}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
