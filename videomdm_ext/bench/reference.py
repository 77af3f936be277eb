"""What samples are compared with: random crops of the true clips of one split, as a training sees them."""

import hashlib
import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from videomdm_ext.bench.evaluators.views_2d import VIEWS, Views2D, is_whole, project_views
from videomdm_ext.bench.keypoint_scores import View, whole_views
from videomdm_ext.bench.plan import Plan
from videomdm_ext.data.clip import Clip
from videomdm_ext.data.folder import Card, read_folder
from videomdm_ext.errors import ConfigError
from videomdm_ext.mdm.data import with_teacher
from videomdm_ext.motion.features import decode


@dataclass(frozen=True)
class Reference:
    """Windows of the clips of a split: `truth` and `teacher` [T, J, 3] each, m, a caption each, and their motions.

    `groups` names the recorded motion that a window is of. `key` is a hash of what the windows depend on. Where a clip
    has no truth, none is compared with: `truth` is empty, and `views` holds what the clips' own cameras saw.
    """

    card: Card
    clips: tuple[Clip, ...]
    truth: tuple[Tensor, ...]
    teacher: tuple[Tensor, ...]
    captions: tuple[str, ...]
    groups: tuple[str, ...]
    key: str
    views: tuple[View, ...] = ()


def read_reference(plan: Plan, split: str) -> Reference:
    """`plan.windows` crops of every clip of a split. ConfigError where the clips are not the plan's."""
    card, clips = read_folder(plan.clips, split)
    if card.content_hash != plan.content:
        raise ConfigError(f"{plan.clips}: its clips were changed since the plan was made. Make the comparison again.")
    windows = [(clip, number) for clip in clips for number in range(plan.windows)]
    known = has_truth(clips)
    cut = {kind: _cut(clips, kind, plan) for kind in (["truth", "teacher"] if known else ["teacher"])}
    facts = [card.content_hash, split, plan.windows, plan.crop_frames]
    return Reference(
        card=card,
        clips=tuple(clips),
        truth=cut.get("truth", ()),
        teacher=cut["teacher"],
        captions=tuple(clip.texts[number % len(clip.texts)] for clip, number in windows),
        groups=tuple(motion_of(clip) for clip, _ in windows),
        key=hashlib.sha256(json.dumps(facts).encode()).hexdigest(),
        views=() if known else whole_views(views_of(clips, plan), f"{plan.clips}, split {split}"),
    )


def taught(plan: Plan, reference: Reference, diffused: str) -> tuple[Tensor, ...]:
    """The windows of a reference as an arm that diffuses that motion was taught them: lifted, refined or gt."""
    return _cut(with_teacher(plan.clips, reference.card, reference.clips, diffused)[0], "teacher", plan)


def _cut(clips: Sequence[Clip], kind: str, plan: Plan) -> tuple[Tensor, ...]:
    """The windows of all clips, clip by clip."""
    return tuple(
        motion(clip, kind, start_of(clip, number, plan), plan.crop_frames)
        for clip in clips
        for number in range(plan.windows)
    )


def has_truth(clips: Sequence[Clip]) -> bool:
    """Whether the true motion of every clip is known."""
    return all(clip.truth is not None for clip in clips)


def views_of(clips: Sequence[Clip], plan: Plan) -> list[View]:
    """Windows of the clips' keypoints, as many as the truth would have views if it were known; no window twice."""
    seen = [clip for clip in clips if not clip.is_known]
    return [view for clip in seen for view in _windows(clip, torch.from_numpy(clip.keypoints), plan)]


def refilmed(clips: Sequence[Clip], plan: Plan, space: Views2D, seed: int) -> list[View]:
    """The same windows, as one held-out camera a clip would have seen the teacher."""
    draw, found = torch.Generator().manual_seed(seed), []
    for clip in (clip for clip in clips if not clip.is_known):
        positions = decode(torch.from_numpy(clip.teacher), clip.skeleton).double()
        camera = space.cameras(positions, draw)[:1]
        found += _windows(clip, project_views(positions, camera)[0], plan)
    return [view for view in found if is_whole(view.confidence)]


def _windows(clip: Clip, points: Tensor, plan: Plan) -> list[View]:
    """Different windows of a clip's image points [T, J, 2]."""
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


def first_frames(clips: Sequence[Clip], kind: str, frames: int) -> list[Tensor]:
    """Positions [T, J, 3] of the clips' `truth` or `teacher`, each cut to its first `frames`."""
    return [motion(clip, kind, 0, frames) for clip in clips]
