"""Rows that are not arms: the truth, its halves, a teacher's data, a still pose; and which metrics may rank by them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from videomdm_ext.bench.metrics import (
    DISTANCES,
    METRICS,
    Clips,
    by_name,
    mean_measures,
    pose_features,
    score,
)
from videomdm_ext.errors import DatasetError
from videomdm_ext.motion.skeletons import Skeleton

RANKING_FACTOR = 2.0
"""A metric may rank arms if the teacher's own data is at least this many times as far from the truth as the floor."""


@dataclass(frozen=True)
class ReferenceRows:
    """Rows that are not arms, each by metric name.

    `truth`: the true clips' levels. `floor`: errors of one half of the truth against the other. `teacher`: scores of
    the teacher's own data. `static`: scores of a mean pose that does not move. `clips`: their number; the halves of the
    floor hold half of them. `shuffled`: scores of the truth with its captions exchanged, where captions count.
    `distrust`: why an evaluator may rank nothing, by its name.
    """

    truth: Mapping[str, float]
    floor: Mapping[str, float]
    teacher: Mapping[str, float]
    static: Mapping[str, float]
    clips: int
    shuffled: Mapping[str, float] = field(default_factory=dict)
    distrust: Mapping[str, str] = field(default_factory=dict)

    def error(self, name: str, value: float) -> float:
        """How far a score is from the best one; NaN for a level whose truth is not known."""
        return by_name(name).error(value, self.truth.get(name, math.nan))

    def ranking(self, name: str) -> tuple[bool, str]:
        """Whether the metric may rank arms, and why."""
        metric, floor = by_name(name), self.floor.get(name)
        if metric.kind == "column":
            return False, "shown only"
        if reason := self.distrust.get(name.rpartition("/")[0]):
            return False, reason
        if metric.kind == "paired":
            floor = self.floor.get(name, 0.0)
        if metric.kind == "level" and name not in self.truth:
            return False, "the truth's own value is not known"
        if name not in self.teacher or floor is None:
            return False, "no calibration row"
        if name in self.shuffled and not separates(self.error(name, self.shuffled[name]), floor):
            return False, f"the error of shuffled captions is under {RANKING_FACTOR:g} times the floor"
        error = self.error(name, self.teacher[name])
        if separates(error, floor):
            return True, "the teacher is clearly worse than the floor"
        return False, f"the teacher's error is under {RANKING_FACTOR:g} times the floor"


def separates(row_teacher: float, floor: float) -> bool:
    """Whether an error sees what is wrong with the teacher: RANKING_FACTOR times the split-half floor, or more."""
    return row_teacher > 0 and row_teacher >= RANKING_FACTOR * floor


def score_reference_rows(
    truth: Clips,
    teacher: Clips,
    skeleton: Skeleton,
    fps: float,
    *,
    groups: Sequence[str] | None = None,
    seed: int = 0,
    splits: int = 8,
) -> ReferenceRows:
    """Score the rows that are not arms. The floor is the mean error over `splits` seeded splits of the true clips.

    Clips of one group (such as one motion) are shared out between the halves, as arms follow the reference's captions;
    without groups the halves may hold different motions. A half holds half of the clips, so the floor lies above that
    of the whole set: the rule errs on the strict side.
    """
    if len(truth) < 2:
        raise DatasetError(f"truth: expected at least 2 clips to split, found {len(truth)}. Score more clips.")
    generator = torch.Generator().manual_seed(seed)
    names = list(groups) if groups is not None else [""] * len(truth)
    rows = [split_half(truth, names, skeleton, fps, generator) for _ in range(splits)]
    return ReferenceRows(
        truth={**dict.fromkeys(DISTANCES, 0.0), **mean_measures(truth, skeleton, fps)},
        floor={name: math.fsum(row[name] for row in rows) / splits for name in rows[0]},
        teacher=score(teacher, truth, skeleton, fps),
        static=score(static_pose(truth, skeleton), truth, skeleton, fps),
        clips=len(truth),
    )


def split_half(
    truth: Clips, groups: Sequence[str], skeleton: Skeleton, fps: float, generator: torch.Generator
) -> dict[str, float]:
    """Errors of one random half of the clips against the other."""
    first, second = ([truth[index] for index in half] for half in halves(groups, generator))
    found, levels = score(first, second, skeleton, fps), mean_measures(second, skeleton, fps)
    return {name: by_name(name).error(found[name], levels.get(name, 0.0)) for name in found if name in METRICS}


def halves(groups: Sequence[str], generator: torch.Generator) -> tuple[list[int], list[int]]:
    """Two random halves of the clips, of equal size; each group is halved, odd ones go in turn."""
    shuffled = [(groups[index], index) for index in torch.randperm(len(groups), generator=generator).tolist()]
    order = [index for _, index in sorted(shuffled, key=lambda pair: pair[0])]
    whole = 2 * (len(order) // 2)
    return order[0:whole:2], order[1:whole:2]


def static_pose(reference: Clips, skeleton: Skeleton) -> list[Tensor]:
    """The mean pose of the clips, facing +z and held: one clip for each, of its length."""
    mean = pose_features(torch.cat(list(reference)), skeleton).mean(0)
    root = mean.new_tensor((0.0, mean[-1].item(), 0.0))
    pose = torch.cat((root[None], mean[:-1].unflatten(0, (-1, 3)) + root))
    return [pose.expand(len(clip), -1, -1) for clip in reference]
