"""Whether a text-motion space finds the captions of true motions, beside what chance would find.

A motion has several captions, and all of them fit it; captions of equal text are one entry. Chance is exact: the share
of random orders that have a fitting caption on top.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from videomdm_ext.bench.evaluators.base import TrueMotion
from videomdm_ext.bench.evaluators.text_motion_training import random_crop
from videomdm_ext.bench.metrics import TOPS, distances, seeded_groups

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
        for number, top in enumerate(TOPS):
            found[f"{where} R-precision {top}"] = self.groups[number]
            found[f"{where} R-precision {top} by chance"] = self.groups_chance[number]
        for number, top in enumerate(TOPS):
            found[f"{where} R-precision {top}, full gallery"] = self.gallery[number]
            found[f"{where} R-precision {top}, full gallery, by chance"] = self.gallery_chance[number]
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


def retrieve(motions: Sequence[TrueMotion], embed: Embed, embed_text: EmbedText, *, seed: int = 0) -> Retrieval:
    """How well captions are found, mean over seeded crops and groups of true motions."""
    draw = torch.Generator().manual_seed(seed)
    rounds = [_round(motions, embed, embed_text, number, draw) for number in range(ROUNDS)]
    grouped, gallery = (torch.stack([one[kind] for one in rounds]) for kind in (0, 1))
    classes = sorted({motion.texts for motion in motions})
    own = torch.tensor([classes.index(motion.texts) for motion in motions])
    means = [tuple(part.nanmean((0, 1)).tolist()) for part in (*grouped.unbind(1), *gallery.unbind(1))]
    gains = (grouped[:, 0, :, -1] - grouped[:, 1, :, -1]).nanmean(0)
    return Retrieval(len(motions), len(classes), means[0], means[1], means[2], means[3], _interval(gains, own, draw))


def _round(
    motions: Sequence[TrueMotion], embed: Embed, embed_text: EmbedText, number: int, draw: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Hits and chance [2, N, 3] in groups, NaN for clips left over, and on the full gallery."""
    crops = [random_crop(m.positions, min(FRAMES, len(m.positions)), draw) for m in motions]
    captions = [motion.texts[number % len(motion.texts)] for motion in motions]
    apart, place = _distances(embed(crops), captions, embed_text)
    grouped = torch.full((2, len(motions), len(TOPS)), math.nan, dtype=torch.float64)
    for group in seeded_groups(len(motions), int(torch.randint(2**31, (), generator=draw))):
        grouped[:, group] = _found(apart, place, motions, captions, group)
    return grouped, _found(apart, place, motions, captions, torch.arange(len(motions)))


def _distances(rows: Tensor, captions: Sequence[str], embed_text: EmbedText) -> tuple[Tensor, dict[str, int]]:
    """Distances [N, M] to the M different captions, and the column of each."""
    texts = sorted(set(captions))
    return distances(rows, embed_text(texts)), {text: column for column, text in enumerate(texts)}


def _found(
    apart: Tensor, place: dict[str, int], motions: Sequence[TrueMotion], captions: Sequence[str], group: Tensor
) -> Tensor:
    """Whether a fitting caption is among the nearest 1, 2, 3 of the group's, and how often by chance. [2, N, 3]"""
    rows = group.tolist()
    texts = sorted({captions[row] for row in rows})
    fits = torch.tensor([[text in motions[row].texts for text in texts] for row in rows])
    near = apart[group][:, [place[text] for text in texts]].argsort(1)
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
