"""Statistics by counting instead of by a distribution: sign flips over seeds, and the bootstrap over clips."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from videomdm_ext.bench.statistics import LEVEL

EXACT_UP_TO = 14
"""Differences of which all 2^n signs are tried; with more, DRAWS random ones."""
DRAWS = 10_000


@dataclass(frozen=True)
class SignFlip:
    """A two-sided sign-flip test of n paired differences: `p`, and the `smallest` p that so many can give."""

    p: float
    smallest: float
    n: int
    exact: bool


@dataclass(frozen=True)
class ClipInterval:
    """A difference of two arms and its bootstrap interval over clips, for the trainings that there are."""

    value: float
    low: float
    high: float
    clips: int


def sign_flip(differences: Sequence[float], *, seed: int = 0) -> SignFlip:
    """How often random signs give a sum as far from 0, were either arm as good as the other.

    Exact for EXACT_UP_TO differences and fewer; else (1 + hits) / (1 + DRAWS) with seeded signs.
    """
    values, n = np.asarray(differences, float), len(differences)
    exact = n <= EXACT_UP_TO
    smallest = 2.0 ** (1 - n) if exact else 1 / (1 + DRAWS)
    if not np.isfinite(values).all():
        return SignFlip(1.0, smallest, n, exact)
    signs = _all_signs(n) if exact else 1 - 2 * np.random.default_rng(seed).integers(0, 2, (DRAWS, n))
    bound = abs(math.fsum(differences)) - 1e-12 * np.abs(values).sum()
    hits = int((np.abs(signs @ values) >= bound).sum())
    return SignFlip(hits / 2**n if exact else (1 + hits) / (1 + DRAWS), smallest, n, exact)


@lru_cache(maxsize=EXACT_UP_TO)
def _all_signs(n: int) -> NDArray[np.int64]:
    """[2^n, n]"""
    return 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)


def clip_interval(
    first: NDArray[np.floating[Any]],
    second: NDArray[np.floating[Any]],
    *,
    best: float = 0.0,
    level: float = LEVEL,
    draws: int = 2000,
    seed: int = 0,
) -> ClipInterval:
    """Percentile interval of error(first) - error(second) over clips; scores [S, N] of S trainings, the same N clips.

    A draw takes N clips with replacement, the same ones for both arms and all trainings. A training's error is how far
    the mean over its clips is from the `best` score; then the mean over trainings.
    """
    clips = first.shape[1]
    generator = np.random.default_rng(seed)
    counts = generator.multinomial(clips, np.full(clips, 1 / clips), draws)
    weights = np.concatenate((np.ones((1, clips)), counts)) / clips
    means = [weights @ scores.T for scores in (first, second)]
    errors = [np.abs(mean - best).mean(1) for mean in means]
    found = errors[0] - errors[1]
    low, high = np.quantile(found[1:], ((1 - level) / 2, (1 + level) / 2))
    return ClipInterval(float(found[0]), float(low), float(high), clips)
