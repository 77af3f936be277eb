"""Means over seeds with t intervals (ddof 1), paired differences, ratios of paired means, Holm's adjustment, sign flips
over seeds, and the bootstrap over clips.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import covariance
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

LEVEL = 0.95
POWER = 0.85
"""Chance to find what is called detectable, for normal scores: a margin, so that heavy tails leave 0.8 or more."""


@dataclass(frozen=True)
class Estimate:
    """A mean over n values and the half-width of its t interval at `level`, None for a single value."""

    mean: float
    half_width: float | None
    n: int
    level: float = LEVEL

    @property
    def low(self) -> float | None:
        return None if self.half_width is None else self.mean - self.half_width

    @property
    def high(self) -> float | None:
        return None if self.half_width is None else self.mean + self.half_width

    @property
    def p(self) -> float | None:
        """Two-sided probability, were the true mean 0, of a mean as far from 0 in its own standard errors."""
        if self.half_width is None:
            return None
        if not math.isfinite(self.mean) or self.mean == 0:
            return 1.0
        if self.half_width == 0:
            return 0.0
        from scipy.special import stdtr

        t = abs(self.mean) / self.half_width * t_quantile(self.level, self.n - 1)
        return float(2 * stdtr(self.n - 1, -t))

    @property
    def detectable(self) -> float | None:
        """A true mean that a repeat of this design finds at `level` with the probability POWER.

        The spread is known from these n values alone, in which it may be small by chance; the size allows for that.
        """
        return None if self.half_width is None else self.half_width * detectable_factor(self.level, self.n - 1)

    def at(self, level: float) -> "Estimate":
        """The interval of the same values at another level."""
        if self.half_width is None or level == self.level:
            return self
        wider = t_quantile(level, self.n - 1) / t_quantile(self.level, self.n - 1)
        return Estimate(self.mean, self.half_width * wider, self.n, level)


@dataclass(frozen=True)
class Ratio:
    """A ratio of two paired means; the interval is None where it has no finite ends."""

    value: float
    interval: tuple[float, float] | None
    n: int


@dataclass(frozen=True)
class Adjusted:
    """One of several tests: its p-value by Holm, and the level at which its own interval agrees with the decision."""

    p: float
    level: float


def t_quantile(level: float, freedom: int) -> float:
    """t with P(|T| < t) = level."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + level) / 2))


@lru_cache(maxsize=1024)
def detectable_factor(level: float, freedom: int) -> float:
    """c with P(Z + c t S > t S') = POWER: a mean of c half-widths S of one sample is found in another, of spread S'.

    Z is standard normal, S and S' are spreads over their true value, all independent, t the quantile of the level.
    The chance is integrated over Z (Gauss-Hermite) and S (midpoints) with the distribution of S' in closed form.
    """
    t = t_quantile(level, freedom)
    nodes, weights = np.polynomial.hermite_e.hermegauss(24)
    step = (1 + 8 / math.sqrt(2 * freedom)) / 160
    spread = step * (torch.arange(160, dtype=torch.float64) + 0.5)
    density = torch.exp((freedom - 1) * spread.log() - freedom * spread.square() / 2 + freedom / 2)
    weight = torch.from_numpy(weights / weights.sum())[:, None] * (density / density.sum())
    noise = torch.from_numpy(nodes / t)[:, None]
    shape = torch.tensor(freedom / 2, dtype=torch.float64)
    low, high = 0.0, 16.0
    for _ in range(30):
        middle = 0.5 * (low + high)
        bound = (noise + middle * spread).clamp_min(0)
        found = (weight * torch.special.gammainc(shape, shape * bound.square())).sum().item()
        low, high = (middle, high) if found < POWER else (low, middle)
    return 0.5 * (low + high)


def mean_interval(values: Sequence[float], level: float = LEVEL) -> Estimate:
    """Mean and t interval of at least one value."""
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(mean, None, n, level)
    return Estimate(mean, t_quantile(level, n - 1) * math.sqrt(covariance(values, values) / n), n, level)


def paired_ratio(numerator: Sequence[float], denominator: Sequence[float]) -> Ratio:
    """Ratio of the means of paired values with Fieller's interval.

    The ends are the roots of (a - r b)² = t²/n var(a - r b) in r; there is no interval where the denominator's own
    mean is not significantly different from 0.
    """
    n = len(numerator)
    a, b = math.fsum(numerator) / n, math.fsum(denominator) / n
    if b == 0:
        return Ratio(math.nan, None, n)
    if n == 1:
        return Ratio(a / b, None, n)
    c = t_quantile(LEVEL, n - 1) ** 2 / n
    square = b * b - c * covariance(denominator, denominator)
    linear = a * b - c * covariance(numerator, denominator)
    constant = a * a - c * covariance(numerator, numerator)
    if not square > 0:
        return Ratio(a / b, None, n)
    spread = math.sqrt(max(linear * linear - square * constant, 0.0))
    return Ratio(a / b, ((linear - spread) / square, (linear + spread) / square), n)


def holm(p_values: Sequence[float]) -> list[Adjusted]:
    """Holm's adjustment: with all of them true, any p <= 1 - LEVEL comes up in at most 1 - LEVEL of cases.

    The k-th smallest of m is tested at (1 - LEVEL) / (m - k + 1), and the first that fails ends the testing; those
    behind it keep its level.
    """
    m, order = len(p_values), sorted(range(len(p_values)), key=lambda index: p_values[index])
    found: dict[int, Adjusted] = {}
    highest, stopped = 0.0, 0
    for rank, index in enumerate(order):
        highest = max(highest, min((m - rank) * p_values[index], 1.0))
        if not stopped and highest > 1 - LEVEL:
            stopped = m - rank
        found[index] = Adjusted(highest, 1 - (1 - LEVEL) / (stopped or m - rank))
    return [found[index] for index in range(m)]


# -- by counting: sign flips over seeds, and the bootstrap over clips --------------------------------------------------

EXACT_UP_TO = 14
"""Differences of which all 2^n signs are tried; with more, DRAWS random ones."""
DRAWS = 10_000
Scores = NDArray[np.floating[Any]]


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


def sign_flip(differences: Sequence[float]) -> SignFlip:
    """How often random signs give a sum as far from 0, were either arm as good as the other.

    Exact for EXACT_UP_TO differences and fewer; else (1 + hits) / (1 + DRAWS) with seeded signs.
    """
    values, n = np.asarray(differences, float), len(differences)
    exact = n <= EXACT_UP_TO
    smallest = 2.0 ** (1 - n) if exact else 1 / (1 + DRAWS)
    if not np.isfinite(values).all():
        return SignFlip(1.0, smallest, n, exact)
    if exact:
        bits = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
    else:
        bits = np.random.default_rng(0).integers(0, 2, (DRAWS, n))
    bound = abs(math.fsum(differences)) - 1e-12 * np.abs(values).sum()
    hits = int((np.abs((1 - 2 * bits) @ values) >= bound).sum())
    return SignFlip(hits / 2**n if exact else (1 + hits) / (1 + DRAWS), smallest, n, exact)


def clip_interval(first: Scores, second: Scores, *, best: float = 0.0, draws: int = 2000) -> ClipInterval:
    """Percentile interval of error(first) - error(second) over clips; scores [S, N] of S trainings, the same N clips.

    A draw takes N clips with replacement, the same ones for both arms and all trainings. A training's error is how far
    the mean over its clips is from the `best` score; then the mean over trainings.
    """
    clips = first.shape[1]
    counts = np.random.default_rng(0).multinomial(clips, np.full(clips, 1 / clips), draws)
    weights = np.concatenate((np.ones((1, clips)), counts)) / clips
    means = [weights @ scores.T for scores in (first, second)]
    errors = [np.abs(mean - best).mean(1) for mean in means]
    found = errors[0] - errors[1]
    low, high = np.quantile(found[1:], ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return ClipInterval(float(found[0]), float(low), float(high), clips)


# -- numbers as texts --------------------------------------------------------------------------------------------------


def decimals(value: float, digits: int) -> int:
    """Places behind the point that show so many significant digits, 0 to 4."""
    if value == 0 or not math.isfinite(value):
        return 0
    return min(max(digits - 1 - math.floor(math.log10(abs(value))), 0), 4)


def number(value: float | None, scale: float = 1.0) -> str:
    """Three significant digits; "not finite" for NaN, a dash for none."""
    if value is None:
        return "–"  # noqa: RUF001
    if not math.isfinite(value):
        return "not finite"
    if 0 < abs(value * scale) < 5e-5:
        return "< 0.0001"
    return f"{value * scale:.{decimals(value * scale, 3)}f}"


def estimate_text(estimate: Estimate, scale: float = 1.0, sign: str = "") -> str:
    """Mean and half-width of the interval; the mean alone for one value."""
    mean, half = estimate.mean * scale, estimate.half_width
    if half is None or not math.isfinite(mean):
        return number(mean)
    places = min(decimals(half * scale, 2), decimals(mean, 3) + 2) if half else decimals(mean, 3)
    return f"{mean:{sign}.{places}f} ± {half * scale:.{places}f}"


def ratio_text(ratio: Ratio | None) -> str:
    """Value and interval; says where an interval has no finite ends."""
    if ratio is None or not math.isfinite(ratio.value):
        return "–"  # noqa: RUF001
    if ratio.interval is None:
        return f"{ratio.value:.2f}" + (" (unbounded)" if ratio.n > 1 else "")
    return f"{ratio.value:.2f} [{ratio.interval[0]:.2f}, {ratio.interval[1]:.2f}]"


def share_text(ratio: Ratio) -> str:
    """A share in per cent with its interval; says where an interval has no finite ends."""
    if ratio.interval is None:
        return f"{100 * ratio.value:.0f} %" + (" (unbounded)" if ratio.n > 1 else "")
    return f"{100 * ratio.value:.0f} % [{100 * ratio.interval[0]:.0f}, {100 * ratio.interval[1]:.0f}]"


def with_unit(text: str, unit: str) -> str:
    """A written number with its unit; a unit that starts with a power of ten takes a sign of multiplication."""
    if not unit[:1].isdigit():
        return f"{text} {unit}".strip()
    return f"({text}) × {unit}" if "±" in text else f"{text} × {unit}"  # noqa: RUF001


def p_text(p: float) -> str:
    """A p-value to two significant digits, "p < 0.0001" below that."""
    return "p < 0.0001" if p < 1e-4 else "p = 1" if p > 0.995 else f"p = {p:.{decimals(p, 2)}f}"
