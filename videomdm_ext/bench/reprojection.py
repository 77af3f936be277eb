"""How far denoised held-out clips are from keypoints: those of their own camera, and of another that saw the same.

Motions are in the coordinates of a clip's own camera, positions [T, J, 3], m; errors on the normalised image plane.
"""

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from videomdm_ext.bench.metrics import Clips
from videomdm_ext.bench.spaces import mean
from videomdm_ext.data.batch import Crop, crop
from videomdm_ext.data.clip import Clip
from videomdm_ext.geometry.cameras import image_points, to_camera, to_world

NEAREST = 0.1
"""Metres; what is nearer to a camera, or behind it, is projected as if it were that far."""


def reprojection_scores(groups: Mapping[str, Clips], clips: Sequence[Clip]) -> dict[str, dict[str, float]]:
    """Of each group its errors by the names of METRICS: means over the clips for which there are keypoints."""
    crops = [crop(clip, 0, len(made)) for clip, made in zip(clips, next(iter(groups.values())), strict=True)]
    others = other_views(clips)
    found: dict[str, dict[str, float]] = {}
    for name, motions in groups.items():
        own = [own_error(made, seen) for made, seen in zip(motions, crops, strict=True)]
        other = [other_error(motions[place], crops[place], crops[there]) for place, there in others.items()]
        rows = {"heldout_reprojection": own, "heldout_other_view": other}
        known = {metric: [error for error in errors if error is not None] for metric, errors in rows.items()}
        found[name] = {metric: mean(errors) for metric, errors in known.items() if errors}
    return found


def other_views(clips: Sequence[Clip]) -> dict[int, int]:
    """For each clip whose true motion another camera saw too, the place of the next such clip; no clip without truth.

    Only a shared truth tells where one camera stands to the other: teachers are lifted one by one.
    """
    same: dict[bytes, list[int]] = {}
    for place, clip in enumerate(clips):
        if clip.truth is not None and not clip.is_known:
            same.setdefault(hashlib.sha256(clip.truth.tobytes()).digest(), []).append(place)
    return {
        place: places[(number + 1) % len(places)]
        for places in same.values()
        if len(places) > 1
        for number, place in enumerate(places)
    }


def own_error(made: Tensor, seen: Crop) -> float | None:
    """Mean distance to the clip's own keypoints by confidence, or None where there are none."""
    return weighted_distance(image_points(made, NEAREST)[0], seen.keypoints, seen.confidence)


def other_error(made: Tensor, own: Crop, other: Crop) -> float | None:
    """The same in another camera, each frame moved in that image so that the root is on its keypoint.

    How far away a person is cannot be known from the own camera, and would outweigh everything else there.
    """
    assert own.truth_extrinsics is not None
    assert other.truth_extrinsics is not None
    points, _ = image_points(to_camera(to_world(made, own.truth_extrinsics), other.truth_extrinsics), NEAREST)
    keypoints = torch.where(other.confidence.unsqueeze(-1) > 0, other.keypoints, 0.0)
    placed = points - points[:, :1] + keypoints[:, :1]
    return weighted_distance(placed, keypoints, other.confidence * (other.confidence[:, :1] > 0))


def weighted_distance(points: Tensor, keypoints: Tensor, confidence: Tensor) -> float | None:
    """Mean distance of points to keypoints [T, J, 2] by confidence [T, J]; what has none may be anything."""
    if not bool((confidence > 0).any()):
        return None
    apart = torch.where(confidence > 0, torch.linalg.vector_norm(points - keypoints, dim=-1), 0.0)
    return ((confidence * apart).sum() / confidence.sum()).item()
