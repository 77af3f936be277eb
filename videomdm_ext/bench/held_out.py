"""Errors of denoised held-out clips, in the coordinates of their camera, against the truth and against keypoints; and
where cameras stand that no training saw.

Distances are in metres, those in the image on the normalised plane; names are those of METRICS.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from videomdm_ext.bench.metrics import Clips, mean
from videomdm_ext.data.clip import Clip, crop
from videomdm_ext.data.motions import Optics
from videomdm_ext.geometry.cameras import image_points, to_camera, to_world
from videomdm_ext.motion import measures
from videomdm_ext.motion.features import decode

NEAREST = 0.1
"""Metres; joints are at least this far from a held-out camera, and nearer ones are projected as if they were."""


def held_out_scores(made: Clips, truth: Clips, fps: float) -> dict[str, float]:
    """Errors of clips against the true ones in camera coordinates, means over clips, by the names of METRICS.

    All but PA-MPJPE and acceleration after the roots are made one; along the ray of a true joint is the depth, across
    it the image.
    """
    rows = []
    for clip, true in zip(made, truth, strict=True):
        aligned = measures.root_aligned(clip, true)
        depth, image = measures.depth_and_image_error(aligned, true)
        row = {
            "heldout_mpjpe": measures.root_aligned_mpjpe(clip, true),
            "heldout_pa_mpjpe": measures.pa_mpjpe(clip, true),
            "heldout_depth_error": depth,
            "heldout_image_error": image,
            "heldout_pck_50": measures.pck(aligned, true, within=0.05),
            "heldout_pck_100": measures.pck(aligned, true, within=0.1),
            "heldout_acceleration_error": measures.acceleration_error(clip, true, fps),
        }
        rows.append({name: value.item() for name, value in row.items()})
    return {name: mean([row[name] for row in rows]) for name in rows[0]}


def reprojection_scores(groups: Mapping[str, Clips], clips: Sequence[Clip]) -> dict[str, dict[str, float]]:
    """Of each group its errors by the names of METRICS: means over the clips for which there are keypoints.

    In another camera each frame is moved so that the root is on its keypoint: how far away a person is cannot be known
    from the own camera, and would outweigh everything else there.
    """
    crops = [crop(clip, 0, len(made)) for clip, made in zip(clips, next(iter(groups.values())), strict=True)]
    found: dict[str, dict[str, float]] = {}
    for name, motions in groups.items():
        own = [
            weighted_distance(image_points(made, NEAREST)[0], seen.keypoints, seen.confidence)
            for made, seen in zip(motions, crops, strict=True)
        ]
        other: list[float | None] = []
        for place, there in other_views(clips).items():
            first, second = crops[place].truth_extrinsics, crops[there].truth_extrinsics
            assert first is not None
            assert second is not None
            points, _ = image_points(to_camera(to_world(motions[place], first), second), NEAREST)
            seen, confidence = crops[there].keypoints, crops[there].confidence
            seen = torch.where(confidence.unsqueeze(-1) > 0, seen, 0.0)
            placed = points - points[:, :1] + seen[:, :1]
            other.append(weighted_distance(placed, seen, confidence * (confidence[:, :1] > 0)))
        rows = {"heldout_reprojection": own, "heldout_other_view": other}
        known = {metric: [error for error in errors if error is not None] for metric, errors in rows.items()}
        found[name] = {metric: mean(errors) for metric, errors in known.items() if errors}
    return found


def other_views(clips: Sequence[Clip]) -> dict[int, int]:
    """For each clip whose true motion another camera saw too, the place of the next such clip; no clip without truth.

    Only a shared truth gives the pose of one camera in another: teachers are lifted one by one.
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


def weighted_distance(points: Tensor, keypoints: Tensor, confidence: Tensor) -> float | None:
    """Mean distance of points to keypoints [T, J, 2] by confidence [T, J]; what has none may be anything."""
    if not bool((confidence > 0).any()):
        return None
    apart = torch.where(confidence > 0, torch.linalg.vector_norm(points - keypoints, dim=-1), 0.0)
    return ((confidence * apart).sum() / confidence.sum()).item()


# -- held-out cameras --------------------------------------------------------------------------------------------------

MOST_CAMERAS = 256
"""Clips from whose cameras the range of the held-out ones is taken, evenly chosen."""
TAIL = 0.1
"""Share of the cameras that lies outside that range on either side."""
STEEPEST = math.radians(80.0)
"""Elevation at which a held-out camera still has a level horizon."""


def own_range(clips: Sequence[Clip]) -> Optics:
    """Elevation above the teacher's mean root and nearest depth of the clips' cameras, without the tails."""
    seen, places = [clip for clip in clips if not clip.is_known], []
    for clip in seen[:: max(1, math.ceil(len(seen) / MOST_CAMERAS))]:
        positions = decode(torch.from_numpy(clip.teacher), clip.skeleton).double()
        extrinsics = torch.from_numpy(clip.extrinsics).double().expand(len(positions), 3, 4)
        depth = to_camera(positions, extrinsics)[..., 2].min().item()
        centre = -(extrinsics[..., :3].transpose(-1, -2) @ extrinsics[..., 3:]).squeeze(-1)
        outwards = (centre - positions[:, 0]).mean(0)
        elevation = torch.atan2(outwards[1], torch.linalg.vector_norm(outwards[[0, 2]])).item()
        places.append((min(max(elevation, -STEEPEST), STEEPEST), max(depth, NEAREST)))
    tails = torch.tensor([TAIL, 1 - TAIL], dtype=torch.float64)
    low, high = torch.quantile(torch.tensor(places, dtype=torch.float64), tails, dim=0).tolist()
    return Optics(elevation=(low[0], high[0]), nearest_joint=(low[1], high[1]))
