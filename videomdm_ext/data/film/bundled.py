"""The demo's data set: bundled real motion, filmed once, with what MediaPipe saw in the films and made of it.

The detections are a file of the package, so nothing is rendered or watched here. `docs/make_demo_film.py` makes it of a
set of `videomdm data film bundled --moving 0`. The truth is the bundled motion at the same moments.
"""

import io
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from videomdm_ext.data import files
from videomdm_ext.data.building import Inputs, write_folder
from videomdm_ext.data.clip import Clip, Recording, detector_error, measured_error, to_clip
from videomdm_ext.data.film.filming import Shown, positions_at
from videomdm_ext.data.folder import SPLITS, Card, read_card, read_folder
from videomdm_ext.data.motions import FPS, HELD_OUT, LICENCE, SOURCES, VIEWS, Motion, load_motions, variants, window
from videomdm_ext.motion.features import decode
from videomdm_ext.motion.kinematics import canonicalise
from videomdm_ext.motion.skeletons import SMPL22

Numbers = NDArray[Any]
BUNDLED = Path(__file__).parents[1] / "bundled" / "film.npz"
STEPS = {"keypoints": 2e-4, "confidence": 1 / 100, "lifted": 1e-3}
"""Steps in which keypoints (normalised plane), confidence and lifted joints (m) are kept."""
EVERYDAY = ("walk", "run", "jump", "kick", "punch", "dance_a", "dance_b")
"""Motions on two feet, which a small denoiser learns in minutes. Beside flips, rolls and spins it takes three times as
long until its walkers walk; of a person who crawls, as the only one, it makes one who stands in some trainings."""
SHORTEST = 24
"""Frames of a filmed clip that the demo takes."""


def pack(folder: str) -> bytes:
    """The bundle of a film set's folder; each film gives its longest clip. DatasetError where it is no such set."""
    card = read_card(folder)
    videos = files.read_json(f"{folder}/videos.json", "videos")["videos"]
    clips = {clip.id: clip for split in SPLITS if card.counts.get(split) for clip in read_folder(folder, split)[1]}
    names = []
    rows: dict[str, list[Numbers]] = {key: [] for key in (*STEPS, "cameras", "lens")}
    for name, video in sorted(videos.items()):
        found = [(place["frames"], clip_id) for clip_id, place in video["clips"].items() if clip_id in clips]
        if not found or max(found)[0] < SHORTEST:
            continue
        clip, place = clips[max(found)[1]], video["clips"][max(found)[1]]
        assert clip.intrinsics is not None
        assert clip.image_size is not None
        lifted = decode(torch.from_numpy(clip.teacher), SMPL22).numpy()
        for key, values in zip(STEPS, (clip.keypoints, clip.confidence, lifted), strict=True):
            whole = np.rint(np.nan_to_num(values) / STEPS[key]).astype(np.int32)
            rows[key].append(np.diff(whole, axis=0, prepend=0).astype(np.int16))
        true = Shown.of(f"{folder}/films/{name}.npz").extrinsics[0].numpy()
        rows["cameras"].append(np.stack([clip.extrinsics, true])[None].astype(np.float32))
        lens = clip.length, place["start"], clip.intrinsics[0, 0], *clip.image_size
        rows["lens"].append(np.array([lens], np.float32))
        names.append(name)
    content = io.BytesIO()
    arrays = {key: np.concatenate(values) for key, values in rows.items()}
    np.savez_compressed(content, allow_pickle=False, names=np.array(names), **arrays)
    return content.getvalue()


def build_film_demo(path: str, *, motions: Collection[str] = (), views: int = VIEWS) -> Card:
    """Make the demo's data set in a folder; the same each time. -> its card.

    `motions`: names of those that are taken, by default all; `views`: films of each, 1 or 2.
    """
    files.check_writable(path)
    splits: dict[str, list[Clip]] = {"train": [], "test": []}
    inputs = Inputs([str(BUNDLED.parent)])
    with files.watched(inputs):
        for motion, recording in _recordings(motions, views):
            splits["test" if motion.name in HELD_OUT else "train"].append(to_clip(recording))
    whole = [clip for clips in splits.values() for clip in clips]
    card = Card(
        name="demo",
        skeleton=SMPL22.name,
        fps=float(FPS),
        lifter="mediapipe",
        licence=LICENCE,
        sources=(*SOURCES, "filmed with Anny's body (CC0), watched by MediaPipe 0.10.14"),
        lifter_error=measured_error(whole),
        detector_error=detector_error(whole),
        recipe=recipe(motions, views),
    )
    return write_folder(path, splits, card, inputs=inputs)


def recipe(motions: Collection[str], views: int) -> dict[str, Any]:
    """What the card of such a data set holds of how it was made."""
    return {"film": True, "views": views} | ({"motions": sorted(motions)} if motions else {})


def _recordings(chosen: Collection[str], views: int) -> Iterator[tuple[Motion, Recording]]:
    content = files.read_bytes(str(BUNDLED))
    names = files.texts_from(content, str(BUNDLED), ("names",))["names"].tolist()
    found = files.arrays_from(content, str(BUNDLED), needed=(*STEPS, "cameras", "lens"), optional=())
    ends = np.cumsum(found["lens"][:, 0]).astype(int)
    places = {name: (k, slice(ends[k - 1] if k else 0, ends[k])) for k, name in enumerate(names)}
    for motion in load_motions():
        if chosen and motion.name not in chosen:
            continue
        for name, variant in variants(motion, (1.0,)):
            for view in range(views):
                if (clip_id := f"{name}_v{view}") in places:
                    number, rows = places[clip_id]
                    seen = [np.cumsum(found[key][rows], axis=0, dtype=np.float64) * step for key, step in STEPS.items()]
                    positions = torch.from_numpy(variant.positions[window(len(variant.positions), view, VIEWS)])
                    cameras, lens = torch.from_numpy(found["cameras"][number]), found["lens"][number].tolist()
                    yield motion, _recording(clip_id, variant, positions, seen, cameras, lens)


def _recording(
    name: str, motion: Motion, positions: Tensor, seen: Sequence[Numbers], cameras: Tensor, lens: Sequence[float]
) -> Recording:
    """What the bundle has of one film of positions [T, 22, 3], with the truth at the same moments."""
    keypoints, confidence, lifted = (torch.from_numpy(values).float() for values in seen)
    _, start, focal, width, height = lens
    world = canonicalise(positions, SMPL22)[0][:-1]
    times = start + np.arange(len(lifted)) / FPS
    return Recording(
        id=name,
        texts=motion.captions,
        fps=float(FPS),
        skeleton=SMPL22,
        keypoints=keypoints,
        confidence=confidence,
        extrinsics=cameras[0],
        lifted=lifted,
        truth=positions_at(world.double(), float(FPS), times).float(),
        truth_extrinsics=cameras[1],
        intrinsics=torch.tensor(((focal, 0.0, width / 2), (0.0, focal, height / 2), (0.0, 0.0, 1.0))),
        image_size=(round(width), round(height)),
        source=name,
    )
