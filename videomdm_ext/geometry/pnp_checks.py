"""What goes into a search for a camera and what comes out: shapes and numbers checked, bad cameras refused."""

from dataclasses import dataclass

import torch
from torch import Tensor

from videomdm_ext.errors import DatasetError
from videomdm_ext.geometry.pnp_refine import CUT, NEAREST, Cameras, Sight, camera_points, residuals

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


@dataclass(frozen=True)
class Pose:
    """Cameras that explain keypoints: extrinsics [..., 3, 4], and how well they do.

    `error` [...] is the weighted RMS distance of the inliers on the normalised image plane, `inliers` [..., N] tells
    which points count as found; the others, and those of weight 0, are False.
    """

    extrinsics: Tensor
    error: Tensor
    inliers: Tensor

    def pixels(self, focal: float) -> Tensor:
        """The error in pixels of a camera with this focal length. -> [...]"""
        return self.error * focal


def prepared(points: Tensor, image: Tensor, weight: Tensor, place: str) -> tuple[Sight, Tensor]:
    """Checked, in one batch dimension, float64 and moved to the middle. -> sight [B, N], middle [B, 1, 3]"""
    shape = weight.shape
    if points.shape != (*shape, 3) or image.shape != (*shape, 2) or not shape:
        raise DatasetError(
            f"{place}: expected points [..., N, 3], image [..., N, 2] and weight [..., N], found "
            f"{list(points.shape)}, {list(image.shape)} and {list(shape)}. Cut them to the same frames and joints."
        )
    flat = weight.detach().reshape(-1, shape[-1]).double()
    seen = flat > 0
    _check_weight(flat, seen, place)
    given = points.detach().reshape(-1, shape[-1], 3).double(), image.detach().reshape(-1, shape[-1], 2).double()
    for name, values in zip(("points", "keypoints"), given, strict=True):
        if not bool(torch.isfinite(values[seen]).all()):
            raise DatasetError(f"{place}: expected numbers in the {name}, found NaN. Give missing ones weight 0.")
    far = (flat * (given[1].abs().amax(-1).nan_to_num() > WIDEST)).sum(-1) / flat.sum(-1)
    if bool((far > 1 - INLIERS).any()):
        raise DatasetError(
            f"{place}: expected keypoints within +-{WIDEST:g} on the normalised image plane, found most beyond. "
            "Remove the intrinsics from pixels first."
        )
    known, found = (torch.where(seen.unsqueeze(-1), values, 0.0) for values in given)
    middle = (flat.unsqueeze(-1) * known).sum(1, keepdim=True) / flat.sum(1)[:, None, None]
    moved = torch.where(seen.unsqueeze(-1), known - middle, 0.0)
    _check_extent(moved, flat, place)
    return Sight(moved, found, flat), middle


def _check_weight(weight: Tensor, seen: Tensor, place: str) -> None:
    if not bool(torch.isfinite(weight).all()) or bool((weight < 0).any()):
        raise DatasetError(f"{place}: expected weights of 0 or more, found others. Give confidences from 0 to 1.")
    fewest = int(seen.sum(-1).min()) if weight.numel() else 0
    if fewest < FEWEST:
        found = "none" if fewest == 0 else f"{fewest}"
        raise DatasetError(
            f"{place}: expected at least {FEWEST} keypoints with a weight to find a camera, found {found}. "
            "Leave the clip out, or lower the detector's threshold."
        )


def _check_extent(moved: Tensor, weight: Tensor, place: str) -> None:
    """The points are not all on one line."""
    extents = torch.linalg.svdvals((moved * weight.unsqueeze(-1)).transpose(-1, -2) @ moved)
    flat = extents[:, 1] <= FLAT**2 * extents[:, 0]
    if bool(flat.any()):
        raise DatasetError(
            f"{place}: expected points that span a plane or more, found them on a line. No camera can be told from "
            "it; is the lifted pose a pose?"
        )


def to_extrinsics(cameras: Cameras, middle: Tensor) -> Tensor:
    """[R | t] for points that were not moved to the middle. -> [B, 3, 4]"""
    shift = cameras.translation.unsqueeze(-1) - cameras.rotation @ middle.transpose(-1, -2)
    return torch.cat((cameras.rotation, shift), -1)


def quality(errors: Tensor, weight: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted RMS error of the inliers [B], and which points they are [B, N]."""
    inliers = (errors < CUT * sigma[:, None]) & (weight > 0)
    kept = torch.where(inliers, weight, 0.0)
    return ((kept * errors.square()).sum(-1) / kept.sum(-1).clamp_min(1e-12)).sqrt(), inliers


def behind_camera(cameras: Cameras, sight: Sight) -> Tensor:
    return (camera_points(cameras, sight.points)[..., 2] <= NEAREST) & (sight.weight > 0)


def report(
    cameras: Cameras, sight: Sight, sigma: Tensor, middle: Tensor, points: Tensor, limit: float, place: str
) -> Pose:
    error, inliers = quality(residuals(cameras, sight), sight.weight, sigma)
    refuse_bad(error, inliers, sight.weight, behind_camera(cameras, sight), limit, place)
    size = sight.points.square().sum(-1).mean(-1).sqrt()
    if bool((cameras.translation[:, 2] > FARTHEST * size).any()):
        raise DatasetError(
            f"{place}: expected a camera within {FARTHEST:g} sizes of the person, found one farther away. "
            "Do the keypoints lie in one place?"
        )
    shape, dtype = points.shape[:-2], points.dtype
    extrinsics = to_extrinsics(cameras, middle).to(dtype).reshape(*shape, 3, 4)
    return Pose(extrinsics, error.to(dtype).reshape(shape), inliers.reshape(points.shape[:-1]))


def refuse_bad(error: Tensor, inliers: Tensor, weight: Tensor, hidden: Tensor, limit: float, place: str) -> None:
    """Refuse cameras that explain too little, one bad one among several is enough."""
    total = weight.sum(-1)
    share = float(((weight * hidden).sum(-1) / total).max())
    if share > 0.1:
        raise DatasetError(
            f"{place}: expected the person in front of the camera, found {100 * share:.0f} % of the points behind "
            "it. Do points and keypoints belong together?"
        )
    advice = "Do points and keypoints belong together, is v down, and is the focal length right?"
    worst, fitting = float(error.max()), float(((weight * inliers).sum(-1) / total).min())
    if not worst <= limit:
        raise DatasetError(
            f"{place}: expected a reprojection error of at most {limit:g} on the normalised image plane, found "
            f"{worst:.3g}, {1000 * worst:.0f} px at a focal length of 1000. {advice}"
        )
    if fitting < INLIERS:
        raise DatasetError(
            f"{place}: expected a camera that {100 * INLIERS:.0f} % of the keypoints fit, found {100 * fitting:.0f} %. "
            f"{advice}"
        )
