"""Cameras from poses (perspective-n-point): points whose 3D is known and their image give the camera.

A still camera starts from OpenCV's SQPNP in RANSAC and is refined by SciPy's least squares with Cauchy's loss; a moving
one starts from stretches of frames and is refined by `pnp_moving`. Weights are those of the squared errors, such as
confidences; points of weight 0 may hold anything. Wrong keypoints, up to a third or so, do little harm. Everything is
computed in float64 and given back in the points' type. What no camera explains is refused: too few points, points on a
line, large errors, a person behind the camera.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from videomdm_ext.errors import DatasetError, optional
from videomdm_ext.geometry import pnp_moving
from videomdm_ext.geometry.pnp_moving import CUT, Cameras, Sight, residuals, spread

Array = NDArray[np.float64]

FEWEST = 6
"""Points of a camera, at least."""
LIMIT = 0.06
"""Largest weighted RMS error, on the normalised plane: 24 cm at 4 m, about twice what a bad lifter gets wrong."""
INLIERS = 0.5
"""Share of the weight that must fit."""
FLAT = 0.02
"""Points whose second extent is below this share of their first lie on a line."""
WIDEST = 5.0
"""Largest |u| or |v| of a keypoint on the normalised plane, 79 degrees off the axis; pixels are far beyond it."""
FARTHEST = 1000.0
"""Sizes of the point set away from it: farther cameras are at infinity."""
THRESHOLDS = (0.003, 0.012, 0.05)
"""Errors on the normalised plane up to which RANSAC counts a point in; each gives a start."""
JUDGES = 1024
"""Points, at most, among which RANSAC searches; all of them refine what it finds."""
CAUTIOUS = 2.0
"""Cauchy's scale in standard deviations while points may still change sides; it is CUT for those that then remain."""
WINDOW = 5
"""Frames that share a camera in the starts of a moving one."""


@dataclass(frozen=True)
class Pose:
    """Cameras that explain keypoints: extrinsics [3, 4], or [T, 3, 4] of a moving one, and how well they do.

    `error` is the weighted RMS distance of the inliers on the normalised image plane, `inliers` [T, J] says which
    points count as found; the others, and those of weight 0, are False.
    """

    extrinsics: Tensor
    error: float
    inliers: Tensor


def solve_static(points: Tensor, image: Tensor, weight: Tensor, *, limit: float = LIMIT, place: str = "clip") -> Pose:
    """One camera for a clip: points [T, J, 3], seen at image [T, J, 2] on the normalised plane, weight [T, J].

    `limit` is the largest error; `place` is the file or clip that a DatasetError names.
    """
    sight, middle = _prepared(points, image, weight, place)
    flat = Sight(*(part.reshape(1, weight.numel(), *part.shape[2:]) for part in vars(sight).values()))
    cameras = _search(flat)
    if cameras is None or cameras.translation[0, 2] > FARTHEST * np.sqrt(np.square(flat.points).sum(-1).mean()):
        raise DatasetError(
            f"{place}: expected a camera within {FARTHEST:g} sizes of the person, found none. "
            "Do the keypoints lie in one place?"
        )
    pose = _report(cameras, flat, middle, points, weight, limit, place)
    return replace(pose, extrinsics=pose.extrinsics[0])


def solve_moving(points: Tensor, image: Tensor, weight: Tensor, *, limit: float = LIMIT, place: str = "clip") -> Pose:
    """One camera a frame, smooth in time: points [T, J, 3], image [T, J, 2], weight [T, J] -> extrinsics [T, 3, 4].

    Frames without keypoints are passed through smoothly.
    """
    sight, middle = _prepared(points, image, weight, place)
    cameras = pnp_moving.smoothed(_starts(sight, place), sight)
    return _report(cameras, sight, middle, points, weight, limit, place)


def library(name: str) -> Any:
    """OpenCV or a module of SciPy."""
    return optional(name, user="cameras from keypoints", extra="video")


# -- one still camera -------------------------------------------------------------------------------------------------


def _search(sight: Sight) -> Cameras | None:
    """The camera [1] of all points [1, N] that leaves the least robust error, or None where RANSAC finds none."""
    cv2, chosen = library("cv2"), _chosen(sight.weight[0])
    given = sight.points[0, chosen], sight.image[0, chosen], np.eye(3), None
    found: list[tuple[float, Cameras]] = []
    for threshold in THRESHOLDS:
        try:
            done, turn, shift, _ = cv2.solvePnPRansac(
                *given, iterationsCount=200, reprojectionError=threshold, confidence=0.9999, flags=cv2.SOLVEPNP_SQPNP
            )
        except cv2.error:  # points in one place
            continue
        if done and np.isfinite(turn).all() and np.isfinite(shift).all():
            cameras = _refined(np.concatenate((turn, shift)).ravel(), sight)
            found.append((float(spread(residuals(cameras, sight), sight.weight)), cameras))
    return min(found, key=lambda pair: pair[0])[1] if found else None


def _chosen(weight: Array) -> NDArray[np.intp]:
    """Points among which RANSAC searches: drawn by weight where there are many, none of little weight otherwise."""
    if np.count_nonzero(weight) > JUDGES:
        return np.random.default_rng(0).choice(len(weight), JUDGES, replace=False, p=weight / weight.sum())
    trusted = np.flatnonzero(weight >= 0.1 * weight.max())
    return trusted if len(trusted) > FEWEST else np.flatnonzero(weight)


def _refined(pose: Array, sight: Sight) -> Cameras:
    """The camera near `pose` (rotation vector, translation) that fits the points which do not stand out."""
    cv2, optimize = library("cv2"), library("scipy.optimize")
    for scale, doubt in ((CAUTIOUS, 3.0), (CAUTIOUS, 1.0), (CAUTIOUS, 1.0), (CUT, 1.0)):
        errors = residuals(_camera(pose), sight)
        sigma = doubt * spread(errors, sight.weight)
        kept = (errors < CUT * sigma) & (sight.weight > 0)
        root = np.sqrt(sight.weight[kept]).repeat(2)
        given = cv2, sight.points[kept], sight.image[kept], root / root.mean()
        pose = optimize.least_squares(
            lambda pose, *given: _projected(pose, *given)[0], pose, lambda pose, *given: _projected(pose, *given)[1],
            args=given, loss="cauchy", f_scale=scale * sigma, x_scale="jac", max_nfev=30, ftol=1e-10, xtol=1e-10,
        ).x  # fmt: skip
    return _camera(pose)


def _projected(pose: Array, cv2: Any, points: Array, image: Array, root: Array) -> tuple[Array, Array]:
    """Weighted residuals [2 N] of points [N, 3] in the image of a camera, and their derivatives [2 N, 6]."""
    seen, jacobian = cv2.projectPoints(points, pose[:3], pose[3:], np.eye(3), None)
    return root * (seen[:, 0] - image).ravel(), root[:, None] * jacobian[:, :6]


def _camera(pose: Array) -> Cameras:
    turn = library("scipy.spatial.transform").Rotation.from_rotvec(pose[:3])
    return Cameras(turn.as_matrix()[None], pose[None, 3:])


def _starts(sight: Sight, place: str) -> Cameras:
    """A camera for every frame, shared by WINDOW frames; windows with too few keypoints take the nearest one's."""
    frames, joints = sight.weight.shape
    length = min(WINDOW, frames)
    middles, found = [], []
    for first in (*range(0, frames - length, length), frames - length):
        part = Sight(
            *(values[first : first + length].reshape(1, -1, *values.shape[2:]) for values in vars(sight).values())
        )
        if np.count_nonzero(part.weight) >= max(FEWEST, length * joints // 4):
            cameras = _search(part)
            if cameras is not None:
                middles.append(first + (length - 1) / 2)
                found.append(cameras)
    if not found:
        raise DatasetError(
            f"{place}: expected a quarter of the keypoints in at least {length} frames in a row, found fewer. "
            "Look for one still camera instead."
        )
    nearest = np.abs(np.arange(frames)[:, None] - np.array(middles)).argmin(-1)
    return Cameras(
        np.concatenate([found[at].rotation for at in nearest]),
        np.concatenate([found[at].translation for at in nearest]),
    )


# -- what goes in and what comes out ----------------------------------------------------------------------------------


def _prepared(points: Tensor, image: Tensor, weight: Tensor, place: str) -> tuple[Sight, Array]:
    """Checked, float64 and moved to the middle. -> sight [T, J], middle [3]"""
    given, found, believed = (part.detach().double().numpy() for part in (points, image, weight))
    seen = believed > 0
    if seen.sum() < FEWEST:
        raise DatasetError(
            f"{place}: expected at least {FEWEST} keypoints with a weight to find a camera, found "
            f"{seen.sum() or 'none'}. Leave the clip out, or lower the detector's threshold."
        )
    for name, values in (("points", given), ("keypoints", found)):
        if not np.isfinite(values[seen]).all():
            raise DatasetError(f"{place}: expected numbers in the {name}, found NaN. Give missing ones weight 0.")
    if (believed[seen] * (np.abs(found[seen]).max(-1) > WIDEST)).sum() > (1 - INLIERS) * believed[seen].sum():
        raise DatasetError(
            f"{place}: expected keypoints within +-{WIDEST:g} on the normalised image plane, found most beyond. "
            "Remove the intrinsics from pixels first."
        )
    middle: Array = np.average(given[seen], axis=0, weights=believed[seen])
    moved, image_of = (np.where(seen[..., None], values, 0.0) for values in (given - middle, found))
    extents = np.linalg.svd((moved[seen] * believed[seen][:, None]).T @ moved[seen], compute_uv=False)
    if extents[1] <= FLAT**2 * extents[0]:
        raise DatasetError(
            f"{place}: expected points that span a plane or more, found them on a line. No camera follows from it; "
            "is the lifted pose a pose?"
        )
    return Sight(moved, image_of, believed), middle


def _report(
    cameras: Cameras, sight: Sight, middle: Array, points: Tensor, weight: Tensor, limit: float, place: str
) -> Pose:
    """The cameras for points that were not moved, and their quality. Raises DatasetError where it is bad."""
    errors, total = residuals(cameras, sight), sight.weight.sum()
    inliers = (errors < CUT * spread(errors, sight.weight)) & (sight.weight > 0)
    kept = np.where(inliers, sight.weight, 0.0)
    error = float(np.sqrt((kept * np.square(errors)).sum() / max(kept.sum(), 1e-12)))
    behind = float((sight.weight * pnp_moving.behind(cameras, sight)).sum() / total)
    if behind > 0.1:
        raise DatasetError(
            f"{place}: expected the person in front of the camera, found {100 * behind:.0f} % of the points behind "
            "it. Do points and keypoints belong together?"
        )
    advice = "Do points and keypoints belong together, is v down, and is the focal length right?"
    if not error <= limit:
        raise DatasetError(
            f"{place}: expected a reprojection error of at most {limit:g} on the normalised image plane, found "
            f"{error:.3g}, {1000 * error:.0f} px at a focal length of 1000. {advice}"
        )
    if kept.sum() < INLIERS * total:
        raise DatasetError(
            f"{place}: expected a camera that {100 * INLIERS:.0f} % of the keypoints fit, found "
            f"{100 * kept.sum() / total:.0f} %. {advice}"
        )
    shift = cameras.translation - cameras.rotation @ middle
    extrinsics = torch.from_numpy(np.concatenate((cameras.rotation, shift[..., None]), -1)).to(points.dtype)
    return Pose(extrinsics, error, torch.from_numpy(inliers).reshape(weight.shape))
