"""True motions of a data set with their captions: what evaluators are made from. No teacher is read."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from videomdm_ext.bench.evaluators.base import Ground, UnavailableError
from videomdm_ext.data.folder import read_clip
from videomdm_ext.data.layout import read_ids
from videomdm_ext.motion.features import decode


@dataclass(frozen=True)
class TrueMotion:
    """positions [T, J, 3], m, y up, and the captions of one clip."""

    id: str
    positions: Tensor
    texts: tuple[str, ...]


def read_true(ground: Ground, splits: Sequence[str], limit: int) -> list[TrueMotion]:
    """The true motions of some splits, at most `limit` clips chosen by their ids' hashes, in the order of their ids.

    Clips without a truth are left out; the order in which the data set lists its clips makes no difference.
    """
    listed = [clip_id for split in splits if ground.card.counts.get(split) for clip_id in read_ids(ground.clips, split)]
    chosen = sorted(sorted(listed, key=lambda clip_id: hashlib.sha256(clip_id.encode()).digest())[:limit])
    clips = [read_clip(ground.clips, ground.card, clip_id) for clip_id in chosen]
    return [
        TrueMotion(clip.id, decode(torch.from_numpy(clip.truth), clip.skeleton), clip.texts)
        for clip in clips
        if clip.truth is not None
    ]


def training_truth(ground: Ground, limit: int, name: str) -> list[TrueMotion]:
    """The training clips' true motions; UnavailableError where there are none, as with clips from videos."""
    motions = read_true(ground, ("train",), limit)
    if not motions:
        raise UnavailableError(
            f"{ground.clips}: expected training clips with a true motion for the evaluator {name}, found none. "
            "Compare without it (views-2d needs no truth), or import motion that is known."
        )
    return motions
