"""Forest plots of a report's page: a bar for each metric and arm, of HTML and SVG whose width is the reader's.

Coordinates across are percentages of the width, so that words keep their size on a narrow screen.
"""

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from videomdm_ext.bench.metrics import by_name
from videomdm_ext.bench.numerals import estimate_text, share_text
from videomdm_ext.bench.plan import CONTROL, REFERENCE
from videomdm_ext.bench.results import Results
from videomdm_ext.bench.score_tables import reading
from videomdm_ext.bench.verdict import Comparison, compare, compared_arms

WIDEST = (-1.5, 2.0)
"""No axis goes further; what lies beyond ends in an arrow."""


@dataclass(frozen=True)
class Bar:
    """A value of an arm with its interval, None where there is none; `said` stands beside it in words.

    `unbounded`: there are several seeds, but the interval has no finite ends.
    """

    metric: str
    arm: str
    value: float
    interval: tuple[float, float] | None
    said: str
    outcome: str = ""
    unbounded: bool = False


@dataclass(frozen=True)
class Plot:
    """Bars on one axis, with marked places by name; `percent` says how the axis is numbered."""

    title: str
    text: str
    bars: Sequence[Bar]
    marks: Mapping[float, str]
    name: str


def forest_plots(results: Results) -> list[Plot]:
    """Gap closure and paired differences of every compared arm that moves, for the metrics that may rank."""
    found = [(arm.name, item, reading(results, arm, item)) for arm in compared_arms(results) if not results.frozen(arm)
             for item in compare(results, arm)]  # fmt: skip
    closures = [_closure(arm, item) for arm, item, _ in found if item.closure and math.isfinite(item.closure.value)]
    gains = [bar for arm, item, said in found if (bar := _gain(results, arm, item, said))]
    plots = [
        Plot(
            "Gap closed",
            f"Share of the way from {CONTROL} to {REFERENCE}, with Fieller's interval of 95 %. "
            "Dashed: the interval has no finite ends.",
            closures,
            {0.0: CONTROL, 1.0: REFERENCE},
            "closure",
        ),
        Plot(
            f"Error less than {CONTROL}",
            f"Paired difference as a share of the error of {CONTROL}; to the right of 0 is better. Drawn is the t "
            "interval over seeds that decided: of 95 % for a headline metric, wider for others (Holm). In words: the "
            "difference in the metric's unit, with its own interval of 95 %.",
            gains,
            {0.0: "0"},
            "gain",
        ),
    ]
    return [plot for plot in plots if plot.bars]


def _closure(arm: str, found: Comparison) -> Bar:
    closure = found.closure
    assert closure is not None
    unbounded = closure.interval is None and closure.n > 1
    return Bar(found.metric, arm, closure.value, closure.interval, share_text(closure), unbounded=unbounded)


def _gain(results: Results, arm: str, found: Comparison, said: str) -> Bar | None:
    """The gain over the control's mean error; None where that is 0 or no number."""
    control = results.arm(CONTROL)
    errors = list(results.errors(control, found.metric).values()) if control else []
    unit = math.fsum(errors) / len(errors) if errors else 0.0
    gain, metric = found.gain, by_name(found.metric)
    if not unit > 0 or not math.isfinite(gain.mean):
        return None
    low, high = found.decisive.low, found.decisive.high
    interval = None if low is None or high is None else (low / unit, high / unit)
    times = " × " if metric.unit[:1].isdigit() else " "  # noqa: RUF001
    words = f"{estimate_text(gain, metric.scale, '+')}{times}{metric.unit}".strip()
    outcome = found.outcome if found.outcome in ("better", "worse") else ""
    return Bar(found.metric, arm, gain.mean / unit, interval, f"{words}, {outcome or said}", outcome)


def axis(bars: Sequence[Bar], marks: Mapping[float, str]) -> tuple[float, float]:
    """The ends of an axis that holds every bar and mark, within WIDEST, with a margin."""
    ends = [end for bar in bars for end in (bar.value, *(bar.interval or ()))] + list(marks)
    low, high = (min(max(end, WIDEST[0]), WIDEST[1]) for end in (min(ends), max(ends)))
    margin = 0.06 * max(high - low, 0.1)
    return low - margin, high + margin


def forest_html(plot: Plot, colours: Mapping[str, int]) -> str:
    """The plot as HTML; `colours` numbers the arms."""
    span = axis(plot.bars, plot.marks)
    lines = []
    for metric in dict.fromkeys(bar.metric for bar in plot.bars):
        lines.append(f'<p class="metric">{html.escape(by_name(metric).label)}</p>')
        lines += [_row(bar, span, plot.marks, colours) for bar in plot.bars if bar.metric == metric]
    rows = "\n".join(lines)
    ticks = "".join(
        f'<span style="left:{_across(value, span):.2f}%">{html.escape(name)}</span>'
        for value, name in _ticks(plot, span)
    )
    below = f'<div class="row"><div class="bar ticks">{ticks}</div></div>'
    return f'<div class="forest" data-plot="{plot.name}">\n{rows}\n{below}\n</div>'


def _row(bar: Bar, span: tuple[float, float], marks: Mapping[float, str], colours: Mapping[str, int]) -> str:
    name, said = html.escape(bar.arm), html.escape(bar.said)
    state = f" {bar.outcome}" if bar.outcome else ""
    return (
        f'<div class="row a{colours[bar.arm]}"><div class="name">{name}</div>'
        f'<div class="bar">{_drawn(bar, span, marks)}</div><div class="said{state}">{said}</div></div>'
    )


def _drawn(bar: Bar, span: tuple[float, float], marks: Mapping[float, str]) -> str:
    """Marks, interval and value of a bar; an end beyond the axis is an arrow."""
    parts = [
        f'<line class="mark" x1="{x:.2f}%" x2="{x:.2f}%" y1="0" y2="100%"/>' for x in (_across(m, span) for m in marks)
    ]
    if bar.interval or bar.unbounded:
        ends = [min(max(_across(end, span), 0.0), 100.0) for end in bar.interval or span]
        kind = "span" if bar.interval else "span open"
        parts.append(f'<line class="{kind}" x1="{ends[0]:.2f}%" x2="{ends[1]:.2f}%" y1="50%" y2="50%"/>')
    middle = _across(bar.value, span)
    if 0 <= middle <= 100:
        parts.append(f'<circle cx="{middle:.2f}%" cy="50%" r="5"/>')
    words = html.escape(f"{by_name(bar.metric).label}, {bar.arm}: {bar.said}", quote=True)
    return f'<svg role="img" aria-label="{words}">{"".join(parts)}{_arrows(bar, span)}</svg>'


def _arrows(bar: Bar, span: tuple[float, float]) -> str:
    low, high = bar.interval or (bar.value, bar.value)
    left = '<text class="arrow from" x="0" y="50%">◂</text>' if min(low, bar.value) < span[0] else ""
    right = '<text class="arrow" x="100%" y="50%">▸</text>' if max(high, bar.value) > span[1] else ""
    return left + right


def _across(value: float, span: tuple[float, float]) -> float:
    """Place on the axis, per cent."""
    return 100 * (value - span[0]) / (span[1] - span[0])


def _ticks(plot: Plot, span: tuple[float, float]) -> list[tuple[float, str]]:
    """Round places on the axis with their names, those of the marks in words."""
    step = next(step for step in (0.1, 0.25, 0.5, 1.0, 2.0) if (span[1] - span[0]) / step <= 6)
    places = [step * k for k in range(math.ceil(span[0] / step), math.floor(span[1] / step) + 1)]
    return [
        (place, f"{100 * place:+.0f} %" if plot.name == "gain" and place else f"{100 * place:.0f} %")
        for place in places
        if 3 < _across(place, span) < 97
    ]
