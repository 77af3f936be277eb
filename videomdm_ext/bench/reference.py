"""What samples are compared with: windows of one split's clips; rows that are not arms, and which metrics may rank by
them."""

import hashlib
import json
import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from videomdm_ext.bench.evaluators.untrained import VIEWS, Views2D, is_whole, project_views
from videomdm_ext.bench.metrics import DISTANCES, METRICS, Clips, by_name, mean_measures, pose_features, score
from videomdm_ext.bench.plan import Plan
from videomdm_ext.config import Supervision
from videomdm_ext.data.clip import Clip
from videomdm_ext.data.folder import Card, read_folder
from videomdm_ext.errors import ConfigError, DatasetError
from videomdm_ext.mdm.data import supervised_clips
from videomdm_ext.motion.features import decode
from videomdm_ext.motion.skeletons import Skeleton


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


@dataclass(frozen=True)
class Reference:
    """Windows of the clips of a split: `truth` and `teacher` [T, J, 3] each, m, a caption each, and their motions.

    `groups` names the recorded motion that a window is of. `key` is a hash of what the windows depend on. Where a clip
    has no truth, none is compared with: `truth` is empty, and `views` holds what the clips' own cameras saw.
    """

    card: Card
    clips: Sequence[Clip]
    truth: tuple[Tensor, ...]
    teacher: tuple[Tensor, ...]
    captions: tuple[str, ...]
    groups: tuple[str, ...]
    key: str
    views: tuple[View, ...] = ()


def read_reference(plan: Plan, split: str) -> Reference:
    """`plan.windows` crops of every clip of a split."""
    card, clips = read_folder(plan.clips, split)
    windows = [(clip, number) for clip in clips for number in range(plan.windows)]
    known = not clips.missing_truth()
    cut = {kind: _cut(clips, kind, plan) for kind in (["truth", "teacher"] if known else ["teacher"])}
    facts = [card.content_hash, split, plan.windows, plan.crop_frames]
    seen = [] if known else [clip for clip in clips if not clip.is_known]
    views = [view for clip in seen for view in _windows(clip, torch.from_numpy(clip.keypoints), plan)]
    return Reference(
        card=card,
        clips=clips,
        truth=cut.get("truth", ()),
        teacher=cut["teacher"],
        captions=tuple(clip.texts[number % len(clip.texts)] for clip, number in windows),
        groups=tuple(motion_of(clip) for clip, _ in windows),
        key=hashlib.sha256(json.dumps(facts).encode()).hexdigest(),
        views=() if known else whole_views(views, f"{plan.clips}, split {split}"),
    )


def taught(plan: Plan, reference: Reference, supervision: Supervision) -> tuple[Tensor, ...]:
    """The windows of a reference as an arm was taught them."""
    return _cut(supervised_clips(plan.clips, reference.card, reference.clips, supervision)[0], "teacher", plan)


def _cut(clips: Sequence[Clip], kind: str, plan: Plan) -> tuple[Tensor, ...]:
    """The windows of all clips, clip by clip."""
    return tuple(
        motion(clip, kind, start_of(clip, number, plan), plan.crop_frames)
        for clip in clips
        for number in range(plan.windows)
    )


def refilmed(clips: Sequence[Clip], plan: Plan, space: Views2D, seed: int) -> list[View]:
    """The same windows, as one held-out camera a clip would have seen the teacher."""
    draw, found = torch.Generator().manual_seed(seed), []
    for clip in (clip for clip in clips if not clip.is_known):
        positions = decode(torch.from_numpy(clip.teacher), clip.skeleton).double()
        camera = space.cameras(positions, draw)[:1]
        found += _windows(clip, project_views(positions, camera)[0], plan)
    return [view for view in found if is_whole(view.confidence)]


def _windows(clip: Clip, points: Tensor, plan: Plan) -> list[View]:
    """Windows of a clip's image points [T, J, 2], as many as a truth would have views, and no window twice."""
    starts = [drawn_start(clip, number, plan.crop_frames) for number in range(VIEWS * plan.windows)]
    confidence, found = torch.from_numpy(clip.confidence), []
    for number, start in enumerate(dict.fromkeys(starts)):
        frames = slice(start, start + plan.crop_frames)
        caption = clip.texts[number % len(clip.texts)]
        found.append(View(points[frames], confidence[frames], caption, motion_of(clip)))
    return found


def start_of(clip: Clip, number: int, plan: Plan) -> int:
    """First frame of a window: 0 where there is one a clip, else drawn for the clip and the window alone."""
    return 0 if plan.windows == 1 else drawn_start(clip, number, plan.crop_frames)


def drawn_start(clip: Clip, number: int, frames: int) -> int:
    """First frame of a window of some frames, drawn for the clip and the number alone."""
    spare = clip.length - min(clip.length, frames)
    seed = int.from_bytes(hashlib.sha256(f"window/{number}/{clip.id}".encode()).digest()[:8], "big")
    return random.Random(seed).randint(0, spare)


def motion(clip: Clip, kind: str, start: int, frames: int) -> Tensor:
    """Positions [T, J, 3] of a clip's `truth` or `teacher`, at most `frames` from `start` on, in the window's frame."""
    features = getattr(clip, kind)
    if features is None:
        raise ConfigError(
            f"{clip.label}: expected a true motion for every clip to compare with, found none. Choose another "
            "--reference, or add the truth."
        )
    return decode(torch.from_numpy(features[start : start + frames]), clip.skeleton)


def motion_of(clip: Clip) -> str:
    """Name of the recorded motion of which a clip is a variant or a part: its id up to the first variant mark."""
    return re.split(r"_[mswv]\d", clip.id)[0]


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


SPLITS = 8
"""Random splits of the truth, and random exchanges of its captions, whose mean is reported."""
Halves = tuple[list[int], list[int]]


def random_halves(groups: Sequence[str], seed: int = 0) -> list[Halves]:
    """Random halves of the clips, SPLITS times, of equal size; each group is halved, odd ones go in turn.

    So clips of one group (such as one motion) are shared out between the halves, as arms follow the reference's
    captions. A half holds half of the clips, so a floor made of them lies above that of the whole set: the rule errs
    on the strict side.
    """
    draw, found = torch.Generator().manual_seed(seed), []
    for _ in range(SPLITS):
        shuffled = [(groups[index], index) for index in torch.randperm(len(groups), generator=draw).tolist()]
        order = [index for _, index in sorted(shuffled, key=lambda pair: pair[0])]
        whole = 2 * (len(order) // 2)
        found.append((order[0:whole:2], order[1:whole:2]))
    return found


def score_reference_rows(
    truth: Clips, teacher: Clips, skeleton: Skeleton, fps: float, splits: Sequence[Halves]
) -> ReferenceRows:
    """Score the rows that are not arms; the floor is the mean error of one half of the truth against the other."""
    if len(truth) < 2:
        raise DatasetError(f"truth: expected at least 2 clips to split, found {len(truth)}. Score more clips.")
    rows = []
    for split in splits:
        first, second = ([truth[index] for index in half] for half in split)
        found, levels = score(first, second, skeleton, fps), mean_measures(second, skeleton, fps)
        known = [name for name in found if name in METRICS]
        rows.append({name: by_name(name).error(found[name], levels.get(name, 0.0)) for name in known})
    return ReferenceRows(
        truth={**dict.fromkeys(DISTANCES, 0.0), **mean_measures(truth, skeleton, fps)},
        floor={name: math.fsum(row[name] for row in rows) / len(rows) for name in rows[0]},
        teacher=score(teacher, truth, skeleton, fps),
        static=score(static_pose(truth, skeleton), truth, skeleton, fps),
        clips=len(truth),
    )


def static_pose(reference: Clips, skeleton: Skeleton) -> list[Tensor]:
    """The mean pose of the clips, facing +z and held: one clip for each, of its length."""
    mean = pose_features(torch.cat(list(reference)), skeleton).mean(0)
    root = mean.new_tensor((0.0, mean[-1].item(), 0.0))
    pose = torch.cat((root[None], mean[:-1].unflatten(0, (-1, 3)) + root))
    return [pose.expand(len(clip), -1, -1) for clip in reference]
