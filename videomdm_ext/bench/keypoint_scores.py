"""Scores against 2D keypoints: of samples where no 3D truth is known (the protocol of MAS), and of held-out clips.

Samples are seen by random cameras that no training saw and compared with what the clips' own cameras saw. Kinematic
measures are shown and rank nothing. Denoised held-out clips are compared with the keypoints of their own camera, and of
another that saw the same motion; they are in the coordinates of a clip's own camera, positions [T, J, 3], m, errors on
the normalised image plane.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from videomdm_ext.bench import metrics
from videomdm_ext.bench.embedding_scores import Embedded, EmbeddingScores, Scores, check_captions, mean
from videomdm_ext.bench.evaluators.base import Evaluator
from videomdm_ext.bench.evaluators.views_2d import Views2D, is_whole
from videomdm_ext.bench.metrics import Clips
from videomdm_ext.bench.reference_rows import ReferenceRows, static_pose
from videomdm_ext.data.clip import Clip, Crop, crop
from videomdm_ext.data.folder import Card
from videomdm_ext.data.motions import Optics
from videomdm_ext.errors import DatasetError
from videomdm_ext.geometry.cameras import image_points, to_camera, to_world
from videomdm_ext.motion.features import decode
from videomdm_ext.motion.skeletons import Skeleton

MOST_CAMERAS = 256
"""Clips from whose cameras the range of the held-out ones is taken, evenly chosen."""
TAIL = 0.1
"""Share of the cameras that lies outside that range on either side."""
NEAREST = 0.1
"""Metres; joints are at least this far from a held-out camera, and nearer ones are projected as if they were."""
STEEPEST = math.radians(80.0)
"""Elevation at which a held-out camera still has a level horizon."""


@dataclass(frozen=True)
class View:
    """A window of a clip as its own camera saw it: points [T, J, 2] on the normalised plane, confidence [T, J].

    `group` names the recorded motion.
    """

    points: Tensor
    confidence: Tensor
    caption: str
    group: str


def whole_views(views: Sequence[View], place: str) -> tuple[View, ...]:
    """Those in which every joint was found often enough. DatasetError where fewer than two are left."""
    found = tuple(view for view in views if is_whole(view.confidence))
    if len(found) < 2:
        raise DatasetError(
            f"{place}: expected at least 2 windows of keypoints in which every joint is found in half of the frames, "
            f"found {len(found)} of {len(views)}. Detect the keypoints again, raise --windows, or add clips."
        )
    return found


class KeypointScores(EmbeddingScores):
    """Scores sets of samples against views of clips; `captions` are those of the teacher's motions in `reference_rows`.

    `refilmed` are such views of the teacher itself, each set with other cameras, one a clip.
    """

    def __init__(
        self,
        views: Sequence[View],
        captions: Sequence[str],
        evaluator: Views2D,
        skeleton: Skeleton,
        fps: float,
        *,
        refilmed: Sequence[Sequence[View]] = (),
    ) -> None:
        super().__init__([evaluator], skeleton, fps)
        self.space, self.views, self.captions = evaluator, tuple(views), tuple(captions)
        self.refilmed = tuple(refilmed)

    def plain_scores(self, samples: Clips) -> Scores:
        metrics.check_clips(samples, self.skeleton, "samples")
        found = metrics.mean_measures(samples, self.skeleton, self.fps)
        if not metrics.is_finite(samples):
            found = dict.fromkeys(found, math.nan)
        return {**found, "clips": float(len(samples))}

    def embed_truth(self, evaluator: Evaluator) -> Embedded:
        return self._embed_views(self.views)

    def _embed_views(self, views: Sequence[View]) -> Embedded:
        rows = self.space.seen([(view.points, view.confidence) for view in views], self.fps).double()
        return Embedded(rows, (1,) * len(rows), tuple(view.caption for view in views), None)

    def reference_rows(self, teacher: Clips, groups: Sequence[str] | None = None, seed: int = 0) -> ReferenceRows:
        """The rows that are not arms; the kinematic measures have none of the truth, and no floor.

        The floor is one half of the views against the other, or, where that is more, the teacher's own motions against
        themselves as filmed by one camera a clip: the halves share their cameras, which samples never do. `groups` are
        the views' own. The static pose is the teacher's mean.
        """
        check_captions(teacher, self.captions, "teacher")
        still = [clip.to(teacher[0].dtype) for clip in static_pose(teacher, self.skeleton)]
        rows = self.rows(teacher, self.captions, still, [view.group for view in self.views], seed)
        for row, clips in (("teacher", teacher), ("static", still)):
            rows[row] = {**self.plain_scores(clips), **rows[row]}
        again = self._refilmed_errors(teacher, rows["truth"])
        rows["floor"] = {name: max(floor, again.get(name, 0.0)) for name, floor in rows["floor"].items()}
        return ReferenceRows(**rows, clips=len(self.views), distrust=self.distrust)

    def _refilmed_errors(self, teacher: Clips, truth: Scores) -> Scores:
        """What motions that are right by definition have as errors for their cameras alone, mean over the sets."""
        name, rows = self.space.name, []
        made = self.embed(self.space, teacher, self.captions)
        for films in map(self._embed_views, self.refilmed):
            found = self._in_space(made, name, films)
            best = {**truth, f"{name}/diversity": self._in_space(films, name, films)[f"{name}/diversity"]}
            rows.append({metric: metrics.by_name(metric).error(found[metric], best[metric]) for metric in found})
        return {metric: mean([row[metric] for row in rows]) for metric in (rows[0] if rows else ())}


def with_own_range(evaluator: Views2D, card: Card, clips: Sequence[Clip]) -> Views2D:
    """The evaluator with cameras as far and as high as the clips' own, unless the card holds the set's range."""
    return evaluator if "optics" in card.recipe else Views2D(own_range(clips))


def own_range(clips: Sequence[Clip]) -> Optics:
    """Elevation and nearest depth of the cameras of some clips, without the tails, as their teachers stand to them."""
    seen = [clip for clip in clips if not clip.is_known]
    every = max(1, math.ceil(len(seen) / MOST_CAMERAS))
    places = torch.tensor([camera_place(clip) for clip in seen[::every]], dtype=torch.float64)
    low, high = torch.quantile(places, torch.tensor([TAIL, 1 - TAIL], dtype=torch.float64), dim=0).tolist()
    return Optics(elevation=(low[0], high[0]), nearest_joint=(low[1], high[1]))


def camera_place(clip: Clip) -> tuple[float, float]:
    """Elevation of a clip's camera above the teacher's mean root, radians, and depth of the nearest joint, m."""
    positions = decode(torch.from_numpy(clip.teacher), clip.skeleton).double()
    extrinsics = torch.from_numpy(clip.extrinsics).double().expand(len(positions), 3, 4)
    depth = to_camera(positions, extrinsics)[..., 2].min().item()
    centre = -(extrinsics[..., :3].transpose(-1, -2) @ extrinsics[..., 3:]).squeeze(-1)
    outwards = (centre - positions[:, 0]).mean(0)
    elevation = torch.atan2(outwards[1], torch.linalg.vector_norm(outwards[[0, 2]])).item()
    return min(max(elevation, -STEEPEST), STEEPEST), max(depth, NEAREST)


# -- held-out clips against their keypoints ----------------------------------------------------------------------------


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
