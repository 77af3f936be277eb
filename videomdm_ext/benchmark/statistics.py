"""Means over seeds with t intervals (ddof 1), paired differences and ratios of paired means."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LEVEL = 0.95
POWER = 0.8


@dataclass(frozen=True)
class Estimate:
    """A mean over n values and the half-width of its t interval, None for a single value."""

    mean: float
    half_width: float | None
    n: int

    @property
    def low(self) -> float | None:
        return None if self.half_width is None else self.mean - self.half_width

    @property
    def high(self) -> float | None:
        return None if self.half_width is None else self.mean + self.half_width

    @property
    def detectable(self) -> float | None:
        """The true mean that an interval of LEVEL would tell from 0 with the probability POWER."""
        if self.half_width is None:
            return None
        both = t_quantile(LEVEL, self.n - 1)
        return self.half_width * (both + t_quantile(2 * POWER - 1, self.n - 1)) / both


@dataclass(frozen=True)
class Ratio:
    """A ratio of two paired means; the interval is None where it has no finite ends."""

    value: float
    interval: tuple[float, float] | None
    n: int


def student_probability(t: float, freedom: int) -> float:
    """P(|T| < t) for whole degrees of freedom, by the finite sums of Abramowitz and Stegun 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term, total = (cosine, 0.0) if odd else (1.0, 0.0)
    for power in range(1 if odd else 0, freedom - 1, 2):
        total += term
        term *= cosine**2 * (power + 1) / (power + 2)
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def t_quantile(level: float, freedom: int) -> float:
    """t with P(|T| < t) = level, by bisection of the angle atan(t / sqrt(freedom))."""
    if not 0 < level < 1 or freedom < 1:
        raise ValueError(f"expected 0 < level < 1 and freedom >= 1, found {level} and {freedom}")
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = 0.5 * (low + high)
        below = student_probability(math.tan(middle) * math.sqrt(freedom), freedom) < level
        low, high = (middle, high) if below else (low, middle)
    return math.tan(0.5 * (low + high)) * math.sqrt(freedom)


def mean_interval(values: Sequence[float], level: float = LEVEL) -> Estimate:
    """Mean and t interval of at least one value."""
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(mean, None, n)
    return Estimate(mean, t_quantile(level, n - 1) * math.sqrt(_covariance(values, values) / n), n)


def paired_difference(first: Mapping[int, float], second: Mapping[int, float]) -> Estimate | None:
    """Interval of first - second over the seeds that both have; None where there are none."""
    seeds = [seed for seed in first if seed in second]
    return mean_interval([first[seed] - second[seed] for seed in seeds]) if seeds else None


def paired_ratio(numerator: Sequence[float], denominator: Sequence[float], level: float = LEVEL) -> Ratio:
    """Ratio of the means of paired values with Fieller's interval.

    The ends are the roots of (a - r b)² = t²/n var(a - r b) in r; there is no interval where the denominator's own
    mean cannot be told from 0.
    """
    n = len(numerator)
    a, b = math.fsum(numerator) / n, math.fsum(denominator) / n
    if b == 0:
        return Ratio(math.nan, None, n)
    if n == 1:
        return Ratio(a / b, None, n)
    c = t_quantile(level, n - 1) ** 2 / n
    square = b * b - c * _covariance(denominator, denominator)
    linear = a * b - c * _covariance(numerator, denominator)
    constant = a * a - c * _covariance(numerator, numerator)
    if not square > 0:
        return Ratio(a / b, None, n)
    spread = math.sqrt(max(linear * linear - square * constant, 0.0))
    return Ratio(a / b, ((linear - spread) / square, (linear + spread) / square), n)


def _covariance(first: Sequence[float], second: Sequence[float]) -> float:
    """With ddof 1, of at least two pairs."""
    n = len(first)
    a, b = math.fsum(first) / n, math.fsum(second) / n
    return math.fsum((x - a) * (y - b) for x, y in zip(first, second, strict=True)) / (n - 1)
