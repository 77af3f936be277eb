"""Curves of a report's page: small plots of HTML and SVG, a colour for each arm, seeds thin and their mean bold."""

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from videomdm_ext.bench.metrics import by_name
from videomdm_ext.bench.pictures import smoothed_curve
from videomdm_ext.bench.results import Curve

POINTS = 160
"""Points of a line at most."""
Values = NDArray[np.floating[Any]]
Line = tuple[Values, Values]


def curve_plots(arms: Mapping[str, Sequence[Curve]], colours: Mapping[str, int], *, smooth: bool) -> str:
    """A plot for each term of the arms' curves; "" where there are none. `colours` numbers the arms."""
    terms = dict.fromkeys(term for curves in arms.values() for curve in curves for term in curve.terms)
    plots = [_plot(term, _lines(arms, term, smooth), colours) for term in terms]
    return '<div class="curves">\n' + "\n".join(plot for plot in plots if plot) + "\n</div>" if any(plots) else ""


def _lines(arms: Mapping[str, Sequence[Curve]], term: str, smooth: bool) -> dict[str, list[Line]]:
    """For each arm a line for each seed and, the last, their mean over the steps that all have."""
    found = {}
    for arm, curves in arms.items():
        lines: list[Line] = [
            (np.asarray(curve.steps, dtype=float), np.asarray(curve.terms[term], dtype=float) * by_name(term).scale)
            for curve in curves
            if term in curve.terms and len(curve.steps)
        ]
        if smooth:
            lines = [(steps, smoothed_curve(values)) for steps, values in lines]
        if lines:
            shared = min(len(steps) for steps, _ in lines)
            mean = np.mean([values[:shared] for _, values in lines], axis=0)
            found[arm] = [*(lines if len(lines) > 1 else []), (lines[0][0][:shared], mean)]
    return found


@dataclass(frozen=True)
class Scale:
    """From values to percentages of a length, straight or by logarithms."""

    low: float
    high: float
    logarithmic: bool = False

    @classmethod
    def of(cls, values: Values) -> "Scale":
        """One that holds the finite values, with a margin; by logarithms where they span more than a factor of 5."""
        finite = values[np.isfinite(values)]
        low, high = float(finite.min()), float(finite.max())
        logarithmic = low > 0 and high > 5 * low
        if logarithmic:
            low, high = math.log10(low), math.log10(high)
        margin = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
        return cls(low - margin, high + margin, logarithmic)

    def place(self, value: float) -> float:
        """Percentage of the length; NaN stays NaN."""
        if self.logarithmic:
            value = math.log10(value) if value > 0 else math.nan
        return 100 * (value - self.low) / (self.high - self.low)

    def ticks(self, count: int = 5) -> list[float]:
        """A few round values inside."""
        if self.logarithmic:
            decades = range(math.floor(self.low), math.ceil(self.high) + 1)
            for digits in ((1, 2, 5), (1, 3), (1,)):
                found = [digit * 10.0**power for power in decades for digit in digits]
                inside = [value for value in found if self.low <= math.log10(value) <= self.high]
                if len(inside) <= count or digits == (1,):
                    return inside
        raw = (self.high - self.low) / count
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(power * digit for digit in (1, 2, 5, 10) if power * digit >= raw)
        return [step * k for k in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]


def _plot(term: str, arms: Mapping[str, Sequence[Line]], colours: Mapping[str, int]) -> str:
    """One figure with its axes; "" where no value is finite."""
    values = np.concatenate([line[1] for lines in arms.values() for line in lines] or [np.zeros(0)])
    if not np.isfinite(values).any():
        return ""
    up, last = Scale.of(values), max(float(line[0][-1]) for lines in arms.values() for line in lines) or 1.0
    across = Scale(0.0, last)
    metric = by_name(term)
    title = html.escape(f"{metric.label} ({metric.unit})" if metric.unit else metric.label)
    grid = "".join(f'<path class="grid" d="M0 {100 - up.place(tick):.2f}H100"/>' for tick in up.ticks())
    drawn = grid + _polylines(arms, across, up, colours)
    svg = f'<svg viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true">{drawn}</svg>'
    sides = "".join(f'<span style="top:{100 - up.place(tick):.2f}%">{tick:g}</span>' for tick in up.ticks())
    below = "".join(f'<span style="left:{across.place(tick):.2f}%">{tick:,.0f}</span>' for tick in across.ticks(4))
    return (
        f'<figure class="curve"><figcaption>{title}</figcaption><div class="plot">{svg}'
        f'<div class="up">{sides}</div></div><div class="across">{below}</div></figure>'
    )


def _polylines(arms: Mapping[str, Sequence[Line]], across: Scale, up: Scale, colours: Mapping[str, int]) -> str:
    parts = []
    for arm, lines in arms.items():
        for number, (steps, values) in enumerate(lines):
            kind = f"a{colours[arm]}" + (" seed" if number < len(lines) - 1 else "")
            chosen = np.unique(np.linspace(0, len(values) - 1, min(len(values), POINTS)).round().astype(int))
            pairs = ((across.place(steps[at]), 100 - up.place(values[at])) for at in chosen)
            points = " ".join(f"{x:.2f},{y:.2f}" for x, y in pairs if math.isfinite(y))
            parts.append(f'<polyline class="{kind}" points="{points}"/>')
    return "".join(parts)
