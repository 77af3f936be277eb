"""The demo's data set: bundled real motion, seen by orbit cameras, with a teacher from a synthetic lifter.

Split by motion, never by segment. The three motions of HELD_OUT are tested on: each has a relative in the training set
(another dance, walking, getting up the other way), so a caption means something to the model that never saw the motion.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from videomdm_ext.data import files
from videomdm_ext.data.clip import Clip, Recording, to_clip
from videomdm_ext.data.folder import Card, write_folder
from videomdm_ext.data.motions import FPS, Motion, load_motions, mirrored, time_scaled
from videomdm_ext.data.synthetic_camera import Optics, find_lifter, lift, observe, own_generator
from videomdm_ext.motion.measures import measure_error
from videomdm_ext.motion.skeletons import SMPL22

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
    lifter: str = "synthetic",
    optics: Optics | None = None,
) -> Card:
    """Make the demo's data set in a folder; the same arguments make the same files. -> its card.

    `fast` leaves out all but the recorded pace and one view. The lifter is looked up among the registered ones.
    """
    files.check_writable(path)
    optics, durations = optics or Optics(), (1.0,) if fast else DURATIONS
    views = 1 if fast else views
    model = find_lifter(lifter, seed, SMPL22)
    splits: dict[str, list[Clip]] = {"train": [], "test": []}
    errors: list[dict[str, float]] = []
    for motion in load_motions():
        members = splits["test" if motion.name in HELD_OUT else "train"]
        for view in _views(motion, durations, views, optics, seed):
            seen = lift(model, view)
            assert seen.lifted is not None
            assert seen.truth is not None
            errors.append(measure_error(seen.lifted, seen.truth, SMPL22, fps=FPS))
            members.append(to_clip(seen))
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


def _views(motion: Motion, durations: Sequence[float], views: int, optics: Optics, seed: int) -> Iterator[Recording]:
    for name, variant in variants(motion, durations):
        for number in range(views):
            clip_id = f"{name}_v{number}"
            positions = torch.from_numpy(variant.positions[window(len(variant.positions), number, views)])
            draw = own_generator("demo", seed, clip_id)
            yield observe(
                clip_id, variant.captions, positions, skeleton=SMPL22, fps=float(FPS), optics=optics, draw=draw
            )


def _mean(errors: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of every figure over the clips, to 5 decimals."""
    return {name: round(float(np.mean([error[name] for error in errors])), 5) for name in errors[0]}
