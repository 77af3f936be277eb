"""What an evaluator is: a space for motions, perhaps for captions too, with a hash that identifies it.

An evaluator is registered as a function that makes it (hook `register_evaluators`): `make(ground) -> Evaluator`. What
has to be trained or loaded is trained or loaded there; `UnavailableError` gives the reason where it cannot be had, and
the report then does without it. Evaluators are made from true motions alone; no teacher is read.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pluggy
import torch
from torch import Tensor

from videomdm_ext import plugins
from videomdm_ext.data.folder import Card, read_clip, read_ids
from videomdm_ext.errors import PluginError, VideoMDMError
from videomdm_ext.mdm.checkout import Checkout
from videomdm_ext.motion.features import decode

Progress = Callable[[str, int, int], None]
"""`progress(what, done, total)`."""


class UnavailableError(VideoMDMError):
    """An evaluator that cannot be made here: it names what was looked for, and what to do to get it."""


@dataclass(frozen=True)
class Ground:
    """What an evaluator may be made from: a data set folder with its card, a place for what is trained once.

    `checkout` is the MDM checkout whose own files may be used, `text_features` the name of the features a text space
    is to be built on.
    """

    clips: str
    card: Card
    cache: Path
    text_features: str = "words"
    checkout: Checkout | None = None
    progress: Progress = field(default=lambda what, done, total: None)


class Evaluator(ABC):
    """A space of motions [N, D], one row a clip (`per_clip`) or a frame, and of captions where it has a text side."""

    name: ClassVar[str]
    per_clip: ClassVar[bool] = True
    comparable: ClassVar[str]
    """What its numbers may be set beside, in one sentence."""

    @property
    @abstractmethod
    def identity(self) -> str:
        """Hex SHA-256 of weights and settings: equal identities give equal numbers."""

    @property
    def distrust(self) -> str:
        """Why nothing may be ranked by it, or an empty text."""
        return ""

    @property
    def facts(self) -> Mapping[str, float | str]:
        """What a report shows of it, such as its own retrieval quality."""
        return {}

    @abstractmethod
    def motions(self, clips: Sequence[Tensor], fps: float) -> Tensor:
        """Positions [T, J, 3] each, m, y up, without padding. -> [N, D], a row a clip, or a row a frame."""

    def captions(self, captions: Sequence[str]) -> Tensor | None:
        """-> [N, D] in the same space, or None where it has no text side."""
        return None


# -- the evaluators that plugins register ------------------------------------------------------------------------------


def make_all(
    manager: pluggy.PluginManager, ground: Ground, *, without: Collection[str] = ()
) -> tuple[list[Evaluator], dict[str, str]]:
    """-> the evaluators in the order of loading, and for each that cannot be had here the reason, by name.

    `without` names those that are not wanted: they are neither made nor listed as missing.
    """
    made: list[Evaluator] = []
    missing: dict[str, str] = {}
    for name, make in plugins.collect(manager, "evaluators").items():
        if name in without:
            continue
        try:
            made.append(_checked(name, make(ground)))
        except UnavailableError as error:
            missing[name] = str(error)
    return made, missing


def _checked(name: str, evaluator: object) -> Evaluator:
    """The evaluator, if it is one and calls itself what it is registered as: metrics bear its name."""
    if not isinstance(evaluator, Evaluator) or evaluator.name != name:
        found = f"one named {evaluator.name!r}" if isinstance(evaluator, Evaluator) else type(evaluator).__name__
        raise PluginError(
            f"evaluator {name!r}: expected make(ground) to return an Evaluator of this name, found {found}. "
            "Correct the plugin (docs/hooks.md)."
        )
    return evaluator


# -- true motions of a data set ----------------------------------------------------------------------------------------


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
