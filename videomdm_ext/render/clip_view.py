"""What there is to draw of one clip: everything that can be read, also of a damaged one, and its camera in words."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from videomdm_ext.data.checking import examine_clip
from videomdm_ext.data.folder import SPLITS, Card, read_card, read_ids
from videomdm_ext.data.rules import Finding
from videomdm_ext.data.rules_motion import project
from videomdm_ext.errors import DatasetError
from videomdm_ext.motion.features import decode
from videomdm_ext.motion.skeletons import Skeleton, by_name
from videomdm_ext.render.figures import Array

CAMERAS = {"teacher": "extrinsics", "truth": "truth_extrinsics"}
FARTHEST = 1e6
"""Numbers beyond this are not drawn."""


@dataclass(frozen=True)
class ClipView:
    """What there is to draw: keypoints [T, J, 2], confidence [T, J], of each motion its positions [T, J, 3] and image
    points [T, J, 2], and the teacher's extrinsics; None, or left out, where it could not be read."""

    clip_id: str
    split: str
    card: Card
    texts: tuple[str, ...]
    findings: Sequence[Finding]
    keypoints: Array | None
    confidence: Array | None
    positions: Mapping[str, Array]
    projected: Mapping[str, Array]
    extrinsics: Array | None

    @property
    def skeleton(self) -> Skeleton:
        return by_name(self.card.skeleton)

    @property
    def length(self) -> int:
        """Frames of the longest part."""
        parts = [self.keypoints, self.confidence, *self.positions.values()]
        return max((len(part) for part in parts if part is not None), default=0)

    @property
    def title(self) -> str:
        """The clip in a line."""
        seconds = self.length / self.card.fps
        return f"{self.clip_id}, {self.split}, {self.length} frames, {seconds:.1f} s"


def view_clip(path: str, clip_id: str) -> ClipView:
    """Read what can be read of a clip; DatasetError where there is nothing of it."""
    card = read_card(path)
    sight = examine_clip(path, card, clip_id)
    ids = {split: _ids(path, split) for split in SPLITS}
    if not sight.arrays and not sight.texts:
        known = ", ".join([one for split in SPLITS for one in ids[split]][:3])
        raise DatasetError(
            f"{path}: expected a clip {clip_id!r} with files that can be read, found none. "
            f"{sight.findings[0].message if sight.findings else ''}. Ids there: {known} ..."
        )
    skeleton, arrays = by_name(card.skeleton), sight.arrays
    confidence = _shaped(arrays.get("confidence"), (skeleton.num_joints,))
    points = _shaped(arrays.get("points"), (skeleton.num_joints, 2))
    if points is not None and confidence is not None and confidence.shape == points.shape[:-1]:
        points = np.where((confidence > 0)[..., None], points, np.nan)
    positions = {
        name: _drawable(decode(torch.from_numpy(arrays[name].astype(np.float64)), skeleton).numpy())
        for name in CAMERAS
        if name in arrays and arrays[name].shape[1:] == (skeleton.num_features,) and len(arrays[name])
    }
    return ClipView(
        clip_id=clip_id,
        split=next((split for split in SPLITS if clip_id in ids[split]), "in no split"),
        card=card,
        texts=sight.texts or (),
        findings=sight.findings,
        keypoints=points,
        confidence=confidence,
        positions=positions,
        projected=_projected(positions, arrays),
        extrinsics=arrays.get("extrinsics"),
    )


def _projected(positions: Mapping[str, Array], arrays: Mapping[str, Any]) -> dict[str, Array]:
    """Image points of the motions whose camera can be read, NaN behind it."""
    found = {}
    for name, moved in positions.items():
        camera = arrays.get(CAMERAS[name])
        if camera is not None and camera.shape in ((3, 4), (len(moved), 3, 4)):
            depth, points = project(moved.astype(np.float64), camera)
            found[name] = _drawable(np.where((depth > 0)[..., None], points, np.nan))
    return found


def _ids(path: str, split: str) -> list[str]:
    """Ids of a split; an unreadable list has none."""
    try:
        return list(read_ids(path, split))
    except DatasetError:
        return []


def _shaped(values: Array | None, shape: tuple[int, ...]) -> Array | None:
    """The values as numbers that can be drawn, if each frame of them has this shape."""
    return None if values is None or values.shape[1:] != shape or not len(values) else _drawable(values)


def _drawable(values: Array) -> Array:
    """In float64, NaN where a number is infinite or absurd."""
    made = values.astype(np.float64)
    with np.errstate(invalid="ignore"):
        return np.where(np.abs(made) < FARTHEST, made, np.nan)


def has(values: Array | None) -> bool:
    return values is not None and bool(np.isfinite(values).any())


def extent(points: Array) -> tuple[Array, Array]:
    """Lowest and highest image point [T, 2] of each frame; one in which nothing was seen is at the image's middle."""
    empty: NDArray[np.bool_] = ~np.asarray(np.isfinite(points).any(axis=(1, 2)))
    known = np.where(np.expand_dims(empty, (1, 2)), 0.0, points)
    return np.nanmin(known, 1), np.nanmax(known, 1)


def size_of(points: Array) -> float:
    """The median diagonal of the person over the frames."""
    low, high = extent(points)
    return max(float(np.median(np.linalg.norm(high - low, axis=-1))), 1e-9)


def misfit(points: Array, keypoints: Array | None) -> Array | None:
    """Median distance from the keypoints in each frame, as a share of the person. [T]"""
    if keypoints is None or not has(keypoints):
        return None
    frames = min(len(points), len(keypoints))
    apart = np.linalg.norm(points[:frames] - keypoints[:frames], axis=-1)
    apart = np.where(np.isfinite(apart), apart, np.inf)
    middle = np.median(apart, axis=1) / size_of(keypoints)
    return np.where(np.isfinite(middle), middle, np.nan)


def camera_facts(view: ClipView) -> list[str]:
    """The camera in words: where it stands about the person at the first frame, and whether it moves."""
    camera = view.extrinsics
    if camera is None or camera.shape[-2:] != (3, 4) or camera.ndim not in (2, 3) or not np.isfinite(camera).all():
        return ["none that can be read"]
    matrices = camera.reshape(-1, 3, 4).astype(np.float64)
    centres = -np.einsum("tij,ti->tj", matrices[..., :3], matrices[..., 3])
    moving = "still" if len(matrices) == 1 else f"moving, {np.linalg.norm(np.ptp(centres, axis=0)):.1f} m of way"
    x, y, z = centres[0]
    azimuth, distance = math.degrees(math.atan2(x, z)), math.hypot(x, z)
    side = "left of" if x > 0 else "right of"
    side = "in front of" if abs(azimuth) < 30 else "behind" if abs(azimuth) > 150 else side
    right, down, ahead = matrices[0, :, :3]
    pitch = math.degrees(math.asin(max(-1.0, min(1.0, -ahead[1]))))
    roll = math.degrees(math.atan2(right[1], -down[1]))
    return [
        f"{moving}; {distance:.1f} m from the person's start, {y:.1f} m high",
        f"stands {side} the person, at {azimuth:.0f}°",
        f"looks {abs(pitch):.0f}° {'down' if pitch > 0 else 'up'}, turned by {roll:.0f}° about its axis",
    ]
