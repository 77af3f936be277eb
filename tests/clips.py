"""Clips for the tests: bundled motion seen by a still or a moving camera, with a wrong teacher."""

import dataclasses
from functools import cache
from pathlib import Path

import numpy as np
import torch
from people import real_motions

from videomdm_ext.data import files
from videomdm_ext.data.clip import Clip
from videomdm_ext.data.folder import SPLITS, Card, content_hash, read_card, read_ids
from videomdm_ext.geometry import cameras
from videomdm_ext.motion.features import encode
from videomdm_ext.motion.kinematics import canonicalise
from videomdm_ext.motion.skeletons import SMPL22

CARD = Card(name="a few", skeleton="smpl22", fps=20.0, lifter="bent", licence="zlib", sources=("a source",))
"""Of the sets that tests write of these clips."""


def motion(name: str = "dance_a") -> torch.Tensor:
    """-> positions [T, 22, 3] of a bundled motion."""
    return real_motions()[name].clone()


def camera(frames: int | None = None) -> torch.Tensor:
    """-> a still camera [3, 4], or one that circles and climbs, [T, 3, 4]."""
    if frames is None:
        return cameras.orbit(*torch.tensor((0.7, 0.2, 6.0)), torch.tensor((0.1, 0.9, 0.3)))
    way = torch.linspace(0, 1, frames)
    target = torch.stack((0.5 * way, 0.9 + 0 * way, 0.3 * way), -1)
    return cameras.orbit(0.7 + 1.5 * way, 0.1 + 0.3 * way, 5.0 + way, target)


def make_clip(*, name: str = "dance_a", moving: bool = False, **changes: object) -> Clip:
    """-> a valid clip whose teacher is the true motion, turned, grown and bent; fields can be replaced."""
    clip = _clip(name, moving)
    own = {f.name: a.copy() for f in dataclasses.fields(clip) if isinstance(a := getattr(clip, f.name), np.ndarray)}
    return dataclasses.replace(clip, **{**own, **changes})  # type: ignore[arg-type]


@cache
def _clip(name: str, moving: bool) -> Clip:
    true = motion(name)
    world = camera(len(true) if moving else None)
    lifted = 1.1 * true + 0.05 * torch.sin(torch.arange(len(true)) / 9.0)[:, None, None]
    points, _ = cameras.project(true, world if moving else world.unsqueeze(0))
    views = {}
    for key, positions in (("teacher", lifted), ("truth", true)):
        moved, heading, origin = canonicalise(positions, SMPL22)
        seen = cameras.reexpress(world, heading.expand(world.shape[:-2]), origin.expand(*world.shape[:-2], 3))
        views[key] = encode(moved, SMPL22)[:-1].numpy(), (seen[:-1] if moving else seen).numpy()
    return Clip(
        id=f"{name}_0",
        fps=20.0,
        skeleton=SMPL22,
        teacher=views["teacher"][0],
        keypoints=points[:-1].numpy(),
        confidence=np.full((len(true) - 1, 22), 0.9, dtype=np.float32),
        extrinsics=views["teacher"][1],
        texts=("a person dances.", "someone's dancing"),
        truth=views["truth"][0],
        truth_extrinsics=views["truth"][1],
        source=f"clips/{name}.npy",
    )


def verify_folder(path: str) -> Card:
    """-> the card of a folder, whose hash is that of the clip files as they are."""
    card = read_card(path)
    ids = [clip_id for split in SPLITS if card.counts.get(split) for clip_id in read_ids(path, split)]
    assert content_hash(path, card, ids) == card.content_hash
    return card


def content_of(path: str | Path) -> dict[str, bytes]:
    """-> the content of every file of a set, by name; without what is made on demand."""
    found = {str(p.relative_to(path)): p.read_bytes() for p in Path(path).rglob("*") if p.is_file()}
    return {name: data for name, data in found.items() if not name.startswith("index/")}


FILES = (
    "teacher_vecs/bent/walk_0.npy", "new_joint_vecs/walk_0.npy", "keypoints_2d/walk_0.npz", "cameras/walk_0.npz",
    "texts/walk_0.txt", "texts/jump_0.txt", "train.txt", "test.txt", "val.txt", "Mean.npy", "Std.npy",
    "teacher_vecs/bent/Mean.npy", "teacher_vecs/bent/Std.npy",
)  # fmt: skip
"""One file of each kind of a set that has the clips walk_0 and jump_0."""


def change(place: Path) -> None:
    """Change the end of a file in place, at equal size; a list of clips gets one more."""
    data = bytearray(place.read_bytes())
    if place.name in ("train.txt", "val.txt", "test.txt"):
        data += b"walk_1\n"
    else:
        data[-1], data[-2] = data[-2], data[-1] ^ 1
    place.write_bytes(data)


def nudge(place: Path) -> None:
    """Move the keypoints of a file by a thousandth of the focal length."""
    arrays = files.read_arrays(str(place), needed=("points", "confidence"))
    place.write_bytes(files.arrays_bytes({**arrays, "points": arrays["points"] + np.float32(1e-3)}))
