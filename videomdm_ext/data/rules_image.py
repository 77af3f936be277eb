"""What a motion, its camera and the keypoints show together: whose axes, sides or camera are wrong.

The keypoints are compared with the projection of the motion as they are, and with each of a few known mistakes undone.
Errors are shares of the person's size in the image, medians over what was seen. On 180 clips with a lifter's error of
90 mm the projection is off by 0.02 (0.04 at most), and with any of the mistakes by at least 0.04, which undoing it
brings down to 0.56 of that at most.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from videomdm_ext.data.files import Array
from videomdm_ext.motion.skeletons import Skeleton

NEAREST, FARTHEST = 0.1, 100.0  # metres of the person's median depth
UNDONE, CLEAR, FITS = 0.7, 0.02, 0.15
"""A mistake is named where undoing it leaves this share of an error that was at least this large, and this at most."""
FAR_OFF = (0.15, 0.4)
"""Errors of the projection that get a warning and an error: a lifter may drift, but not by half a person."""
OTHER_POSE = (0.06, 0.1)
"""The same after moving each frame's centre onto the other. Keypoints of other clips have 0.12 and more in 90 % of all
pairs; the clip's own 0.03 at most, under a lifter's error of 90 mm."""
OPPOSITE = -0.5
"""Cosine between the left-to-right differences of keypoints and motion in a frame whose sides are exchanged."""
FLIPPED_FRAMES = (0.04, 0.9)
TILTED = 0.8  # length of the mean direction of a spine that keeps its direction

ERROR, WARNING = "error", "warning"
Positions = NDArray[np.float64]
Told = tuple[str, str, str]  # kind, message and level of a finding

MISTAKES: dict[tuple[int, int, bool], str] = {
    # (sign of u, sign of v, sides exchanged): kind
    (1, 1, True): "left-right",
    (1, -1, False): "flipped-v",
    (-1, 1, False): "flipped-u",
    (-1, 1, True): "flipped-u",
    (-1, -1, False): "rolled",
    (1, -1, True): "flipped-v",
    (-1, -1, True): "rolled",
}


@dataclass(frozen=True)
class Image:
    """Keypoints [T, J, 2], which of them were seen [T, J], and the person's size on the normalised plane."""

    points: Positions
    seen: NDArray[np.bool_]
    size: float

    @classmethod
    def of(cls, points: Array, confidence: Array) -> "Image":
        seen = confidence > 0
        spread = np.where(seen[..., None], points.astype(np.float64), np.nan)
        frames = seen.sum(-1) > 1
        extent = np.nanmax(spread[frames], 1) - np.nanmin(spread[frames], 1) if frames.any() else np.zeros((1, 2))
        size = float(np.median(np.linalg.norm(extent, axis=-1)))
        return cls(np.where(seen[..., None], points, 0).astype(np.float64), seen, max(size, 1e-6))


def compare(positions: Positions, extrinsics: Array, image: Image, skeleton: Skeleton) -> Told | None:
    """The first thing that does not fit between a motion [T, J, 3], its camera and the keypoints, or None."""
    depth, points = project(positions, extrinsics)
    middle = float(np.median(depth))
    undone = _undone(positions, extrinsics, image, skeleton, points, in_front=middle > 0)
    before = _error(points, image)
    kind, error = min(undone.items(), key=lambda item: item[1])
    if error < FITS and (middle <= 0 or (before > CLEAR and error < UNDONE * before)):
        off = f"the projection is off by {before:.2f} of the person"
        what = "the person is behind the camera" if middle <= 0 else off
        return kind, f"{what}; it is off by {error:.2f} of the person with this undone", ERROR
    if not NEAREST < abs(middle) < FARTHEST:
        return "camera-units", f"the person is {middle:.4g} m from the camera", ERROR
    if (depth[image.seen] <= 0).any():
        share = 100 * float((depth[image.seen] <= 0).mean())
        return "behind", f"{share:.0f} % of the joints are behind the camera", ERROR
    tilted = _tilted(positions, extrinsics, image, skeleton, points)
    return tilted or _elsewhere(image, points) or _flipped(image, skeleton, points)


def project(positions: Positions, extrinsics: Array) -> tuple[Positions, Positions]:
    """Signed depth [T, J] and normalised image points [T, J, 2] of positions [T, J, 3]."""
    matrices = np.broadcast_to(extrinsics.astype(np.float64), (len(positions), 3, 4))
    seen = np.einsum("tij,tkj->tki", matrices[..., :3], positions) + matrices[:, None, :, 3]
    nearest = np.where(np.abs(seen[..., 2:]) < 1e-3, 1e-3, seen[..., 2:])
    return seen[..., 2], seen[..., :2] / nearest


def _error(points: Positions, image: Image) -> float:
    """Median distance of image points from the keypoints, as a share of the person."""
    return float(np.median(np.linalg.norm(points - image.points, axis=-1)[image.seen])) / image.size


def _undone(
    positions: Positions, extrinsics: Array, image: Image, skeleton: Skeleton, points: Positions, *, in_front: bool
) -> dict[str, float]:
    """The error that is left when each known mistake is undone, by its kind."""
    turned = np.swapaxes(extrinsics[..., :3], -1, -2)
    inverse = np.concatenate((turned, -turned @ extrinsics[..., 3:]), -1)  # [R | t] of the way back
    errors = {"camera-inverse": _error(_in_front(positions, inverse), image)}
    if not in_front:
        turned = extrinsics * np.array((1.0, -1.0, -1.0), dtype=np.float32)[:, None]
        return errors | {"behind": _error(_in_front(positions, turned), image)}
    mirror = list(skeleton.mirror)
    for (u, v, exchanged), kind in MISTAKES.items():
        undone = points * np.array((u, v))
        error = _error(undone[:, mirror] if exchanged else undone, image)
        errors[kind] = min(error, errors.get(kind, error))
    return errors


def _in_front(positions: Positions, extrinsics: Array) -> Positions:
    """Image points, at infinity where the person is behind."""
    depth, points = project(positions, extrinsics)
    return np.where((depth > 0)[..., None], points, np.inf)


def upright(positions: Positions, skeleton: Skeleton) -> Positions:
    """Mean direction [3] from pelvis to neck."""
    return np.asarray(unit(positions[:, skeleton.index("neck")] - positions[:, 0]).mean(0))


def unit(vectors: Positions) -> Positions:
    """The directions of vectors [..., 3]; a zero stays one."""
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9))


def lies_along(direction: Positions, least: float) -> str:
    """The axis along which somebody lies, such as -x; empty for one who stands along y, or along no axis."""
    axis = int(np.abs(direction).argmax())
    if abs(direction[axis]) < least or (axis == 1 and direction[1] > 0):
        return ""
    return ("-" if direction[axis] < 0 else "") + "xyz"[axis]


def _tilted(
    positions: Positions, extrinsics: Array, image: Image, skeleton: Skeleton, points: Positions
) -> Told | None:
    """A person who stands in the image lies in the world along an axis that is the camera's up, or does not fit."""
    direction = upright(positions, skeleton)
    along, neck = lies_along(direction, TILTED), skeleton.index("neck")
    both = image.seen[:, 0] & image.seen[:, neck]
    if not along or not both.any():
        return None
    spine = (image.points[:, neck] - image.points[:, 0])[both]
    if (-spine[:, 1] / np.maximum(np.linalg.norm(spine, axis=-1), 1e-9)).mean() < TILTED:
        return None  # how far the direction from pelvis to neck points up in the image
    up = -np.broadcast_to(extrinsics, (len(positions), 3, 4))[:, 1, :3].mean(0)
    axis = "xyz".index(along[-1])
    misfit = _error(points, image) > FAR_OFF[0]
    if not misfit and (float(up[axis]) * np.sign(direction[axis]) < 0.7 or up[1] > 0.5):
        return None
    message = f"the person stands in the image, and along {along} in the world"
    return "up-axis", message, ERROR if misfit else WARNING


def _elsewhere(image: Image, points: Positions) -> Told | None:
    apart = np.where(image.seen[..., None], points - image.points, np.nan)
    centred = apart[image.seen.any(-1)]
    centred = centred - np.nanmean(centred, 1, keepdims=True)
    pose = float(np.nanmedian(np.linalg.norm(centred, axis=-1))) / image.size
    place = _error(points, image)
    for number, level in ((1, ERROR), (0, WARNING)):
        if place > FAR_OFF[number] or pose > OTHER_POSE[number]:
            message = f"the projection is off by {place:.2f} of the person, its pose by {pose:.2f}"
            return "reprojection", message, level
    return None


def _flipped(image: Image, skeleton: Skeleton, points: Positions) -> Told | None:
    """Frames in which the detector, or the lifter, took left for right."""
    left = [joint for joint, other in enumerate(skeleton.mirror) if other > joint]
    right = [skeleton.mirror[joint] for joint in left]
    both = (image.seen[:, left] & image.seen[:, right])[..., None]
    seen, made = ((p[:, left] - p[:, right]) * both for p in (image.points, points))
    sizes = [np.sqrt((d**2).sum((1, 2)) / np.maximum(both.sum((1, 2)), 1)) for d in (seen, made)]
    wide = (np.minimum(*sizes) > 0.05 * image.size) & both.any((1, 2))
    length = np.sqrt((seen**2).sum((1, 2)) * (made**2).sum((1, 2)))
    cosine = (seen * made).sum((1, 2)) / np.maximum(length, 1e-12)
    share = float(((cosine < OPPOSITE) & wide).mean())
    if FLIPPED_FRAMES[0] < share < FLIPPED_FRAMES[1]:
        return "left-right-flips", f"left and right are exchanged in {100 * share:.0f} % of the frames", WARNING
    return None
