"""Shapes, lengths and numbers of one clip's arrays, before anybody decodes or projects them."""

import numpy as np
from numpy.typing import NDArray

from videomdm_ext.data.clip import MIN_FRAMES, WIDEST_IMAGE
from videomdm_ext.data.damage_files import Files, Raw
from videomdm_ext.data.files import Array
from videomdm_ext.data.findings import WARNING
from videomdm_ext.motion.skeletons import Skeleton

MOTIONS = {"teacher": "extrinsics", "truth": "truth_extrinsics"}
"""Each motion and its camera."""
ABSURD = 1e8
"""No metre, millimetre, pixel or z-score is as large; what is counts as infinite."""
SQUARE = 1e-2
"""Largest entry of R R^T - 1 of a rotation stored with little precision."""


def usable(found: Files, raw: Raw, skeleton: Skeleton) -> dict[str, Array]:
    """The arrays that can be computed with; findings tell of the others. Those of one clip have one length."""
    good = _shaped(found, raw, skeleton)
    good = _as_long(found, good)
    good = {name: values for name, values in good.items() if _is_finite(found, name, values, good)}
    if "confidence" in good and not _has_confidence(found, good):
        good.pop("confidence")
    for name in MOTIONS.values():
        if name in good and not _is_camera(found, name, good[name]):
            good.pop(name)
    if {"points", "confidence"} <= set(good) and not _is_image(found, good["points"], good["confidence"]):
        good.pop("points")
    return good


def _shaped(found: Files, raw: Raw, skeleton: Skeleton) -> dict[str, Array]:
    """Arrays with the right channels, joints and dimensions."""
    joints, width = skeleton.num_joints, skeleton.num_features
    expected: dict[str, tuple[tuple[int, ...], ...]] = {
        "teacher": ((width,),),
        "truth": ((width,),),
        "points": ((joints, 2),),
        "confidence": ((joints,),),
        "extrinsics": ((3, 4),),
        "truth_extrinsics": ((3, 4),),
    }
    good = {}
    for name, shapes in expected.items():
        values = raw.arrays.get(name)
        if values is None:
            continue
        moving = values.ndim == len(shapes[0]) + 1 and values.shape[1:] in shapes
        still = name in MOTIONS.values() and values.shape in shapes
        if moving or still:
            good[name] = values
        else:
            found.add("channels", f"{name}: expected [T, {str(list(shapes[0]))[1:]}, found {list(values.shape)}")
    return good


def _as_long(found: Files, arrays: dict[str, Array]) -> dict[str, Array]:
    """Arrays that are as long as most of them; a length that nobody shares is told."""
    lengths = {name: len(values) for name, values in arrays.items() if name not in MOTIONS.values() or values.ndim == 3}
    if not lengths:
        return arrays
    counts = list(lengths.values())
    usual = max(counts, key=lambda length: (counts.count(length), length))
    for name, length in lengths.items():
        if length != usual:
            found.add("lengths", f"{name} has {length} frames, the others have {usual}")
    if usual < MIN_FRAMES:
        found.add("too-short", f"{usual} frames, at least {MIN_FRAMES} are needed")
        return {}
    return {name: values for name, values in arrays.items() if lengths.get(name, usual) == usual}


def _is_finite(found: Files, name: str, values: Array, arrays: dict[str, Array]) -> bool:
    bad: NDArray[np.bool_] = ~(np.abs(values) < ABSURD)
    if name == "points" and "confidence" in arrays:
        bad = bad & ~(arrays["confidence"] == 0)[..., None]
    if not bad.any():
        return True
    first = tuple(int(i) for i in np.argwhere(bad)[0])
    found.add("not-a-number", f"{name}: {int(bad.sum())} of {bad.size} are NaN or infinite, the first at {first}")
    return False


def _has_confidence(found: Files, arrays: dict[str, Array]) -> bool:
    confidence = arrays["confidence"]
    low, high = float(confidence.min()), float(confidence.max())
    if low < 0 or high > 1:
        found.add("confidence", f"confidence from {low:g} to {high:g}, expected 0 to 1")
        return False
    if high > 0:
        return True
    known = "teacher" in arrays and "truth" in arrays and np.array_equal(arrays["teacher"], arrays["truth"])
    if not known:
        found.add("confidence", "confidence is 0 everywhere, and the teacher is not the truth")
    return False


def _is_camera(found: Files, name: str, extrinsics: Array) -> bool:
    rotation = extrinsics.reshape(-1, 3, 4)[..., :3].astype(np.float64)
    off = np.abs(rotation @ rotation.transpose(0, 2, 1) - np.eye(3)).max((1, 2))
    determinant = np.linalg.det(rotation)
    worst = int(off.argmax())
    if off[worst] > SQUARE:
        message = f"{name}: rows of lengths {np.linalg.norm(rotation[worst], axis=-1).round(3).tolist()} in matrix"
        found.add("camera-rotation", f"{message} {worst} of {len(off)}, determinant {determinant[worst]:.3f}")
        return False
    if (determinant < 0).any():
        found.add("camera-mirrored", f"{name}: determinant -1 in {int((determinant < 0).sum())} of {len(off)} matrices")
        return False
    return True


def _is_image(found: Files, points: Array, confidence: Array) -> bool:
    """Whether keypoints may lie on the normalised plane."""
    seen = np.abs(points[confidence > 0]).max(-1)
    far = seen > WIDEST_IMAGE
    if not far.any():
        return True
    if np.median(seen) > WIDEST_IMAGE:
        found.add(
            "pixels", f"keypoints reach {seen.max():.0f}, on the normalised plane they stay within {WIDEST_IMAGE:g}"
        )
        return False
    found.add("out-of-view", f"{int(far.sum())} of {far.size} keypoints are beyond {WIDEST_IMAGE:g}: {seen.max():.3g}")
    return True


def check_mean_confidence(found: Files, confidence: Array) -> None:
    """A detector that hardly saw anything."""
    seen = float((confidence > 0.1).mean())
    if seen < 0.2:
        found.add("confidence", f"only {100 * seen:.0f} % of the keypoints have a confidence above 0.1", WARNING)
