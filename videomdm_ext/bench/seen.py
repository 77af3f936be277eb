"""Scores against true 2D keypoints, for clips whose 3D truth nobody knows (the protocol of MAS).

Samples are seen by random cameras that no training saw and compared with what the clips' own cameras saw. Kinematic
measures are told and rank nothing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from videomdm_ext.bench import metrics
from videomdm_ext.bench.calibration import Calibration, static_pose
from videomdm_ext.bench.evaluators.base import Evaluator
from videomdm_ext.bench.evaluators.views_2d import Views2D, is_whole
from videomdm_ext.bench.metrics import Clips
from videomdm_ext.bench.spaces import Embedded, Scores, Spaces, check_captions, mean
from videomdm_ext.data.card import Card
from videomdm_ext.data.clip import Clip
from videomdm_ext.data.observing import Optics
from videomdm_ext.errors import DatasetError
from videomdm_ext.geometry.cameras import to_camera
from videomdm_ext.motion.features import decode
from videomdm_ext.skeletons import Skeleton

MOST_CAMERAS = 256
"""Clips whose cameras tell the range of the held-out ones, evenly chosen."""
TAIL = 0.1
"""Share of the cameras that lies outside that range on either side."""
NEAREST = 0.1
"""Metres; a joint is at least this far from a held-out camera."""
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


class SeenScorer(Spaces):
    """Scores sets of samples against views of clips; `captions` are those of the teacher's motions in `calibrate`.

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

    def calibrate(self, teacher: Clips, groups: Sequence[str] | None = None, seed: int = 0) -> Calibration:
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
        return Calibration(**rows, clips=len(self.views), distrust=self.distrust)

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
    """The evaluator with cameras as far and as high as the clips' own, unless the card tells the set's range."""
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
