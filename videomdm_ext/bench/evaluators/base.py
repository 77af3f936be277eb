"""What an evaluator is: a space for motions, perhaps for captions too, with a hash that identifies it.

An evaluator is registered as a function that makes it (hook `register_evaluators`): `make(ground) -> Evaluator`. What
has to be trained or loaded is trained or loaded there; `UnavailableError` gives the reason where it cannot be had, and
the report then does without it. Evaluators are made from true motions alone; no teacher is read.
"""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import ClassVar

import pluggy
import torch
from torch import Tensor

from videomdm_ext import plugins
from videomdm_ext.bench.metrics import TOPS, distances, seeded_groups
from videomdm_ext.data.folder import Card, read_clip, read_ids
from videomdm_ext.errors import PluginError, VideoMDMError
from videomdm_ext.mdm.checkout import Checkout
from videomdm_ext.motion.features import decode

Progress = Callable[[str, int, int], None]
"""`progress(what, done, total)`."""


class UnavailableError(VideoMDMError):
    """An evaluator that cannot be made here: it names what was looked for, and what to do to get it."""


class NotAskedError(UnavailableError):
    """The same of an evaluator that has to be asked for with --evaluators, and was not: no report lists it."""


@dataclass(frozen=True)
class Ground:
    """What an evaluator may be made from: a data set folder with its card, a place for what is trained once.

    `checkout` is the MDM checkout whose own files may be used, `text_features` the name of the features a text space
    is to be built on, `weights` the folder of pretrained evaluators' files (evaluators/weights.py), empty for none.
    """

    clips: str
    card: Card
    cache: Path
    text_features: str = "words"
    checkout: Checkout | None = None
    weights: str = ""
    progress: Progress = field(default=lambda what, done, total: None)


class Evaluator(ABC):
    """A space of motions [N, D], one row a clip (`per_clip`) or a frame, and of captions where it has a text side."""

    name: ClassVar[str]
    per_clip: ClassVar[bool] = True
    published: ClassVar[bool] = False
    """Whether papers have figures in it: scores as MDM's program takes them, and of normalised rows, stand beside."""
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
            evaluator = make(ground)
        except NotAskedError:
            continue
        except UnavailableError as error:
            missing[name] = str(error)
            continue
        if not isinstance(evaluator, Evaluator) or evaluator.name != name:  # metrics bear its name
            found = f"one named {evaluator.name!r}" if isinstance(evaluator, Evaluator) else type(evaluator).__name__
            raise PluginError(
                f"evaluator {name!r}: expected make(ground) to return an Evaluator of this name, found {found}. "
                "Correct the plugin (docs/hooks.md)."
            )
        made.append(evaluator)
    return made, missing


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


# -- whether a space with a text side finds the captions of true motions -----------------------------------------------

FRAMES = 64
"""Frames of a crop, at most."""
ROUNDS = 4
"""Crops of every clip, each with another of its captions."""
FEWEST_CAPTIONS = 5
"""Different captions that are needed to judge a space."""
RESAMPLED = 1000

Embed = Callable[[Sequence[Tensor]], Tensor]
EmbedText = Callable[[Sequence[str]], Tensor]


@dataclass(frozen=True)
class Retrieval:
    """R-precision 1, 2, 3 in groups of 32 and on the full gallery, each with its chance; numbers of clips and captions.

    `gain` is the 95 % interval of R-precision 3 less its chance, in groups, by resampling the different captions.
    """

    clips: int
    captions: int
    groups: tuple[float, ...]
    groups_chance: tuple[float, ...]
    gallery: tuple[float, ...]
    gallery_chance: tuple[float, ...]
    gain: tuple[float, float]

    def facts(self, where: str) -> dict[str, float | str]:
        """What a report shows of it."""
        found: dict[str, float | str] = {f"{where} clips": float(self.clips)}
        gallery = (", full gallery", ", full gallery, by chance")
        rows = ((("", " by chance"), self.groups, self.groups_chance), (gallery, self.gallery, self.gallery_chance))
        for kinds, *pair in rows:
            for number, top in enumerate(TOPS):
                found |= {f"{where} R-precision {top}{k}": v[number] for k, v in zip(kinds, pair, strict=True)}
        return found

    def distrust(self) -> str:
        """Why a space that retrieves like this may rank nothing, or an empty text."""
        found, chance = self.groups[-1], self.groups_chance[-1]
        measured = f"R-precision 3 on held-out true motions is {found:.2f}, by chance {chance:.2f}"
        if self.captions < FEWEST_CAPTIONS:
            return f"only {self.captions} different captions are held out, {FEWEST_CAPTIONS} are needed to judge it"
        if found < min(2 * chance, (1 + chance) / 2):
            return f"{measured}: too near"
        if self.gain[0] <= 0:
            return f"{measured}: its 95 % interval includes chance"
        return ""


def retrieve(motions: Sequence[TrueMotion], embed: Embed, embed_text: EmbedText) -> Retrieval:
    """How well captions are found, mean over seeded crops and groups of true motions."""
    draw = torch.Generator().manual_seed(0)
    grouped, gallery = [], []
    for number in range(ROUNDS):
        crops = [random_crop(m.positions, min(FRAMES, len(m.positions)), draw) for m in motions]
        captions = [motion.texts[number % len(motion.texts)] for motion in motions]
        texts = sorted(set(captions))
        found = partial(_found, distances(embed(crops), embed_text(texts)), texts, motions, captions)
        hits = torch.full((2, len(motions), len(TOPS)), math.nan, dtype=torch.float64)  # NaN for clips left over
        for group in seeded_groups(len(motions), int(torch.randint(2**31, (), generator=draw))):
            hits[:, group] = found(group)
        grouped.append(hits)
        gallery.append(found(torch.arange(len(motions))))
    in_groups, in_gallery = torch.stack(grouped), torch.stack(gallery)
    classes = sorted({motion.texts for motion in motions})
    own = torch.tensor([classes.index(motion.texts) for motion in motions])
    means = [tuple(part.nanmean((0, 1)).tolist()) for part in (*in_groups.unbind(1), *in_gallery.unbind(1))]
    gains = (in_groups[:, 0, :, -1] - in_groups[:, 1, :, -1]).nanmean(0)
    return Retrieval(len(motions), len(classes), means[0], means[1], means[2], means[3], _interval(gains, own, draw))


def _found(
    apart: Tensor, columns: Sequence[str], motions: Sequence[TrueMotion], captions: Sequence[str], group: Tensor
) -> Tensor:
    """Whether a fitting caption is among the nearest 1, 2, 3 of the group's, and how often by chance. [2, N, 3]"""
    rows = group.tolist()
    texts = sorted({captions[row] for row in rows})
    fits = torch.tensor([[text in motions[row].texts for text in texts] for row in rows])
    near = apart[group][:, [columns.index(text) for text in texts]].argsort(1)
    ranked = fits.gather(1, near).cumsum(1) > 0
    tops = [min(top, len(texts)) for top in TOPS]
    hits = ranked[:, [top - 1 for top in tops]].double()
    by_chance = [[chance(len(texts), int(row.sum()), top) for top in tops] for row in fits]
    return torch.stack((hits, torch.tensor(by_chance, dtype=torch.float64)))


def chance(captions: int, fitting: int, top: int) -> float:
    """How often one of `fitting` among `captions` in random order is among the first `top`."""
    return 1 - math.comb(captions - fitting, top) / math.comb(captions, top)


def _interval(gains: Tensor, own: Tensor, draw: torch.Generator) -> tuple[float, float]:
    """95 % interval of the mean of `gains` [N] when the different captions [N] are drawn anew."""
    known = ~gains.isnan()
    gains, own = gains[known], own[known].unique(return_inverse=True)[1]
    sums, counts = (
        torch.zeros(int(own.max()) + 1, dtype=torch.float64).index_add_(0, own, part)
        for part in (gains, torch.ones_like(gains))
    )
    drawn = torch.randint(len(sums), (RESAMPLED, len(sums)), generator=draw)
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = means.quantile(torch.tensor((0.025, 0.975), dtype=torch.float64)).tolist()
    return low, high


def random_crop(positions: Tensor, frames: int, draw: torch.Generator) -> Tensor:
    """`frames` frames in a row of [T, J, 3], T >= frames."""
    start = int(torch.randint(len(positions) - frames + 1, (), generator=draw))
    return positions[start : start + frames]
