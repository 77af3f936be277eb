"""The next round's teachers: a trained prior lifts the clips of its own data set (docs/method.md, 5a).

Training pays for what the keypoints say and the prior remembers it over all clips, so what it makes of a clip is closer
to the truth than what the lifter made. Teachers change from round to round; keypoints and cameras' errors never do.
"""

import dataclasses
from collections.abc import Callable, Sequence

from torch import Tensor

from videomdm_ext.data.building import Builder
from videomdm_ext.data.checks.rules import errors_of
from videomdm_ext.data.clip import Clip, cameras_of, measured_error, replaced, teacher_of
from videomdm_ext.data.folder import SPLITS, Card, read_clip, read_clip_files, read_ids
from videomdm_ext.data.importing import MEASURED
from videomdm_ext.data.locks import writing
from videomdm_ext.errors import DatasetError
from videomdm_ext.geometry.cameras import to_world
from videomdm_ext.inference.lift import Lifting, lift, off_rays
from videomdm_ext.inference.sample import Trained
from videomdm_ext.motion.kinematics import HeadingRule, bone_lengths

REFRESHING = Lifting(strength=0.5, start=0.5, draws=4, ddim=25)
SHRUNK = 1.5
"""Factor of a clip's size, either way, by which the prior may change it before the lifted motion is kept."""
WORSE = 2.0
"""Factor of the distance from the keypoints' rays beyond which the lifted motion is kept."""
TOGETHER = 16
"""Clips that are lifted before the first of them is written."""


def refresh(
    trained: Trained,
    clips: Sequence[Clip],
    rule: HeadingRule,
    how: Lifting = REFRESHING,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[Clip], list[str]]:
    """Clips with what the prior makes of them as their teachers, and the ids of those that keep their own.

    The pose is the prior's, with the size and the path of the root of the old teacher, which was placed by the image. A
    clip keeps its teacher where the prior changes its size by more than SHRUNK, or leaves the rays by WORSE, or where
    the new one would be an error (`data.checks.rules`).
    """
    made, kept = [], []
    for clip, motion in zip(clips, lift(trained, clips, how, progress=progress), strict=True):
        teacher = teacher_of(clip)
        size = float(_size(teacher, clip) / _size(motion, clip))
        motion = teacher[:, :1] + size * (motion - motion[:, :1])
        new = replaced(clip, to_world(motion, cameras_of(clip.extrinsics)), rule)
        good = 1 / SHRUNK < size < SHRUNK and off_rays(motion, clip) < WORSE * off_rays(teacher, clip)
        if good and not errors_of(new):
            made.append(new)
        else:
            made.append(clip)
            kept.append(clip.id)
    return made, kept


def _size(positions: Tensor, clip: Clip) -> Tensor:
    """Sum of the bones' lengths, the median over frames, m."""
    return bone_lengths(positions, clip.skeleton).sum(-1).median()


@writing("out")
def refresh_folder(
    trained: Trained,
    source: str,
    card: Card,
    out: str,
    how: Lifting = REFRESHING,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Card, list[str]]:
    """A data set like `source` with refreshed teachers; started again, it goes on. -> its card, ids that kept theirs.

    The card names the run that made the teachers, the round, and the Mean and Std in which that run goes on.
    DatasetError where `out` is `source`.
    """
    if out.rstrip("/") == source.rstrip("/"):
        raise DatasetError(f"{out}: expected another folder than the data set's own, found the same. Choose one.")
    past = card.recipe.get("refreshed", {})
    made_by = {
        "round": past.get("round", 0) + 1,
        "from": card.content_hash,
        "checkpoint": str(trained.checkpoint),
        "mean": trained.space.mean.tolist(),
        "std": trained.space.std.tolist(),
        "lifting": dataclasses.asdict(how),
    }
    lifter = f"{past.get('lifter', card.lifter)}-r{made_by['round']}"
    made_by["lifter"] = past.get("lifter", card.lifter)
    rows = [(split, i) for split in SPLITS if card.counts.get(split) for i in read_ids(source, split)]
    plan = dataclasses.replace(
        card, lifter=lifter, lifter_error={}, counts={}, content_hash="", recipe={**card.recipe, "refreshed": made_by}
    )
    builder = Builder(out, plan)
    left = [row for row in rows if row[1] not in builder]
    kept: list[str] = []
    for start in range(0, len(left), TOGETHER):
        part = left[start : start + TOGETHER]
        read = [read_clip_files(source, card, clip_id) for _, clip_id in part]
        clips = [clip for _, clip in read]
        seen = [clip for clip in clips if not clip.is_known]
        new, own = refresh(trained, seen, card.heading, how)
        kept += own
        by_id = {clip.id: clip for clip in (*clips, *new)}
        for (split, clip_id), (content, _) in zip(part, read, strict=True):
            builder.add(by_id[clip_id], split, content["texts"])
        if progress:
            progress(len(rows) - len(left) + start + len(part), len(rows))
    finished = [read_clip(builder.place, plan, clip_id) for _, clip_id in rows[:: max(len(rows) // MEASURED, 1)]]
    return builder.finish(lifter_error=measured_error(finished)), kept
