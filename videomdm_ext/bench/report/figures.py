"""The figures of a report: scores with intervals, curves over steps, forest plots of comparisons, and motions.

They are matplotlib's: PNG beside report.md, SVG in the page, where colours follow the page's light or dark.
"""

import io
import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from videomdm_ext.bench.metrics import by_name
from videomdm_ext.bench.plan import CONTROL, REFERENCE
from videomdm_ext.bench.report.results import Results
from videomdm_ext.bench.report.tables import Figure, Motions, Section, label, reading
from videomdm_ext.bench.report.verdict import compare, compared_arms
from videomdm_ext.bench.scoring import Curve
from videomdm_ext.bench.statistics import estimate_text, mean_interval, number, share_text, with_unit
from videomdm_ext.errors import counted
from videomdm_ext.motion.skeletons import Skeleton
from videomdm_ext.motion.skeletons import by_name as skeleton_by_name
from videomdm_ext.render import figures
from videomdm_ext.render.figures import INK, QUIET, RULE, WIDTH, Array, Example, require
from videomdm_ext.render.page import MOTIONS, Scene, Track, fitting

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

ARMS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#5d3a9b")
"""Okabe and Ito's palette, which colour-blind readers can tell apart."""
GOOD, BAD, TEACHER, BAND = "#00754f", "#b13a00", "#8c510a", "#bbbbbb"
VARIABLES = {
    INK: "ink", QUIET: "quiet", RULE: "line", "#ffffff": "paper", figures.LEFT: "left", figures.RIGHT: "right",
    figures.MIDDLE: "middle", GOOD: "good", BAD: "bad", BAND: "shadow", TEACHER: "teacher",
    **{colour: f"arm{number}" for number, colour in enumerate(ARMS)},
}  # fmt: skip
"""What colours are called in the page's style."""
CURVES = 9
"""Metrics whose curves progress.png shows; the page has all."""
POINTS = 320
"""Points of a curve at most."""
WIDEST = (-1.5, 2.0)
"""No axis of a forest plot goes further; what lies beyond ends in an arrow."""


def sections(results: Results) -> list[Section]:
    """The sections of figures, those that hold none among them."""
    skeleton, fps = skeleton_by_name(results.card.skeleton), results.card.fps
    forests = [
        Figure(p.title, partial(draw_forest, p, [arm.name for arm in results.arms]), note=p.text)
        for p in forest_plots(results)
    ]
    scenes = player_scenes(results, skeleton)
    left_out = len(results.examples) + len(results.cases) - len(scenes)
    note = f"Left out to keep the page small: {counted(left_out, 'caption')}." if left_out else ""
    losses = {arm.name: [run.losses for run in arm.trainings] for arm in results.arms}
    progress = {arm.name: [run.progress for run in arm.trainings if run.progress] for arm in results.arms}
    scored, lost = "Scores over training steps", "Losses over training steps"
    drawn = [(title, found) for title, found in ((scored, progress), (lost, losses)) if finite_terms(found)]
    curves = [Figure(title, partial(draw_curves, found)) for title, found in drawn]
    pictures = [
        Figure("Scores of every seed with 95 % intervals", partial(draw_scores, results), "metrics.png"),
        Figure(lost, partial(draw_curves, losses), "losses.png"),
    ]
    if any(progress.values()):
        known, able = {term for found in progress.values() for c in found for term in c.terms}, results.ranking_metrics
        first = [name for name in dict.fromkeys([*results.primary, *able]) if name in able and name in known][:CURVES]
        pictures.append(Figure(scored, partial(draw_curves, progress, first), "progress.png"))
    if results.examples:
        draw = partial(figures.strips, results.examples, skeleton, fps)
        pictures.append(Figure("Samples, from left to right in time", draw, "strips.png"))
        move = partial(figures.animation, example=results.examples[0], skeleton=skeleton, fps=fps)
        pictures.append(Figure("Samples of one caption, side by side", move, "motion.gif"))
    worst = []
    for index, case in enumerate(results.cases, len(results.examples)):
        motions = {name: case.example.motions[name] for name in ("truth", case.arm) if name in case.example.motions}
        metric, caption = by_name(case.metric), case.example.caption
        score, truth = (f"{number(value, metric.scale)} {metric.unit}".strip() for value in (case.score, case.truth))
        text = f"{case.arm}: “{caption}”; {metric.label} {score}, truth {truth}"
        draw = partial(figures.strips, [Example(caption, motions)], skeleton, fps, poses=6)
        worst += [Figure(text, draw, scene=index if index < len(scenes) else None)] if motions else []
    return [
        Section("Gap and differences", forests),
        Section("Motion", [Motions(scenes, skeleton, fps, note)] if scenes else []),
        Section("Curves", curves),
        Section("Worst captions", worst),
        Section("Pictures", pictures),
    ]


def player_scenes(results: Results, skeleton: Skeleton, most: int = MOTIONS) -> list[Scene]:
    """The examples and then the worst captions, each motion from its root's first place on, up to a size."""
    titled = [(example.caption, example) for example in results.examples]
    titled += [(f"worst of {case.arm}: {case.example.caption}", case.example) for case in results.cases]
    scenes = []
    for title, example in titled:
        motions = {name: motion for name, motion in example.motions.items() if len(motion)}
        moved = {name: motion - motion[0, 0] * np.array((1, 0, 1)) for name, motion in motions.items()}
        scenes.append(Scene(title, [Track.of(name, motion, skeleton) for name, motion in moved.items()]))
    return fitting(scenes, most)


def svg(figure: "Drawing", name: str) -> str:
    """A figure as an element of the page: its colours are the page's, its identifiers start with `name`."""
    file = io.StringIO()
    with figures.styled(), require("matplotlib").rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    text = re.sub(r"<(metadata|style)\b.*?</\1>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r' (?:xmlns(?::\w+)?|version)="[^"]*"', "", text)
    text = re.sub(r' id="|(?<=href="#)|(?<=url\(#)', lambda found: f"{found.group()}{name}-", text)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    return text.replace("'DejaVu Sans'", "'DejaVu Sans', Verdana, sans-serif").strip()


# -- scores with intervals --------------------------------------------------------------------------------------------


LINES: dict[str, dict[str, Any]] = {
    "truth": {"color": INK, "lw": 1.4, "label": "truth"},
    "floor": {"color": QUIET, "lw": 1.4, "ls": ":", "label": "split halves"},
    "teacher": {"color": TEACHER, "lw": 1.4, "ls": "--", "label": "teacher"},
}
"""How the calibration rows are drawn; around a truth the floor is a band."""


def draw_scores(results: Results) -> "Drawing":
    """One panel a metric: a dot for each seed, mean and interval for each arm, lines for truth, floor and teacher."""
    rows, arms = results.reference_rows, [arm.name for arm in results.arms]
    known = {"truth": rows.truth, "floor": rows.floor, "teacher": rows.teacher}
    line, patch = require("matplotlib.lines").Line2D, require("matplotlib.patches").Patch
    mean = line([], [], color=QUIET, marker="o", ms=7, lw=2, label="mean and 95 % interval")
    handles = {"mean": mean, "seed": line([], [], color=QUIET, marker="o", ms=4, lw=0, alpha=0.6, label="one seed")}
    columns = _columns(len(results.metrics))
    with figures.styled():
        figure, places = _grid(len(results.metrics), columns, 1.05 + 0.32 * len(arms))
        for place, (name, axes) in enumerate(zip(results.metrics, places, strict=True)):
            metric, may = by_name(name), rows.ranking(name)[0]
            left_out = {"distance": "truth", "paired": "truth", "column": "floor"}.get(metric.kind)
            levels = {key: row[name] * metric.scale for key, row in known.items() if name in row and key != left_out}
            for key, level in levels.items():
                if key == "floor" and "truth" in levels:
                    look: dict[str, Any] = {"color": BAND, "alpha": 0.5, "lw": 0}
                    axes.axvspan(levels["truth"] - level, levels["truth"] + level, **look)
                    handles["band"] = patch(**look, label="truth ± split halves")
                else:
                    axes.axvline(level, **LINES[key])
                    handles[key] = line([], [], **LINES[key])
            for row, (arm, colour) in enumerate(zip(results.arms, colours(arms).values(), strict=True)):
                values = [value * metric.scale for value in arm.values(name).values()]
                axes.scatter(values, [row + 0.2] * len(values), s=14, color=colour, alpha=0.5, linewidths=0, zorder=3)
                estimate = mean_interval(values) if values else None
                if estimate and math.isfinite(estimate.mean):
                    style: dict[str, Any] = {"fmt": "o", "ms": 7, "color": colour, "capsize": 4, "lw": 2, "zorder": 4}
                    axes.errorbar(estimate.mean, row - 0.08, xerr=estimate.half_width, **style)
            if "truth" not in levels:
                axes.set_xlim(left=0)
            title = label(name) if may or metric.kind == "column" else f"{label(name)}, may not rank"
            axes.set_title(textwrap.fill(title, title_width(arms)))
            axes.set_ylim(len(arms) - 0.45, -0.55)
            axes.set_yticks(range(len(arms)), arms if place % columns == 0 else [""] * len(arms))
            axes.tick_params(axis="y", length=0)
            axes.grid(False, axis="y")
            axes.locator_params(axis="x", nbins=6)
        shown = ("mean", "seed", "truth", "band", "floor", "teacher")
        _legend(figure, [handles[key] for key in shown if key in handles])
    return figure


def title_width(arms: Sequence[str]) -> int:
    """Characters of a panel's title that fit on a line: the names of arms beside the panels take their room."""
    return max(20, 40 - max(0, max(map(len, arms)) - 14) // 3)


# -- curves over steps ------------------------------------------------------------------------------------------------


def finite_terms(arms: Mapping[str, Sequence[Curve]]) -> list[str]:
    """The terms that have a value to draw."""
    terms = [(t, row) for curves in arms.values() for curve in curves for t, row in curve.terms.items()]
    return list(dict.fromkeys(term for term, row in terms if np.isfinite(row).any()))


def draw_curves(arms: Mapping[str, Sequence[Curve]], terms: Sequence[str] | None = None) -> "Drawing":
    """One panel a term, in the unit shown, one colour an arm: seeds thin, their mean bold, all smoothed a little."""
    terms = finite_terms(arms) if terms is None else terms
    with figures.styled():
        figure, places = _grid(len(terms), _columns(len(terms)), 2.7)
        for term, axes in zip(terms, places, strict=True):
            for colour, curves in zip(colours(arms).values(), arms.values(), strict=True):
                known = [(np.asarray(c.steps), np.asarray(c.terms[term], float)) for c in curves if term in c.terms]
                rows = [(steps, smoothed_curve(by_name(term).scale * values)) for steps, values in known]
                if not rows:
                    continue
                shared = min(len(steps) for steps, _ in rows)
                drawn = [(*row, 0.8, 0.45) for row in rows if len(rows) > 1]
                mean = np.mean([values[:shared] for _, values in rows], axis=0)
                for steps, values, width, alpha in [*drawn, (rows[0][0][:shared], mean, 2.2, 1.0)]:
                    chosen = np.unique(np.linspace(0, len(values) - 1, min(len(values), POINTS)).round().astype(int))
                    axes.plot(steps[chosen], values[chosen], color=colour, lw=width, alpha=alpha)
            axes.set_title(textwrap.fill(label(term), 40))
            axes.set_xlabel("training step")
            values = np.concatenate([np.asarray(line.get_ydata(), float) for line in axes.get_lines()] or [np.ones(1)])
            values = values[np.isfinite(values)]
            if len(values) and 0 < 5 * values.min() < values.max():
                axes.set_yscale("log")
                axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
                axes.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")
                axes.grid(True, which="minor", axis="y", alpha=0.4)
        line = require("matplotlib.lines").Line2D
        _legend(figure, [line([], [], color=colour, lw=2.2, label=arm) for arm, colour in colours(arms).items()])
    return figure


def smoothed_curve(values: Array) -> Array:
    """Mean over a window of a fortieth of the curve, narrower at its ends."""
    reach = len(values) // 80
    sums = np.concatenate(([0.0], np.cumsum(values)))
    at = np.arange(len(values))
    half = np.minimum(np.minimum(at, len(values) - 1 - at), reach)
    return (sums[at + half + 1] - sums[at - half]) / (2 * half + 1)


# -- forest plots -----------------------------------------------------------------------------------------------------


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
    """Bars on one axis of shares, with marked places by name."""

    title: str
    text: str
    bars: Sequence[Bar]
    marks: Mapping[float, str]

    @property
    def axis(self) -> tuple[float, float]:
        """The ends of an axis that holds every bar and mark, within WIDEST, with a margin."""
        ends = [end for bar in self.bars for end in (bar.value, *(bar.interval or ()))] + list(self.marks)
        low, high = (min(max(end, WIDEST[0]), WIDEST[1]) for end in (min(ends), max(ends)))
        margin = 0.06 * max(high - low, 0.1)
        return low - margin, high + margin


def forest_plots(results: Results) -> list[Plot]:
    """Gap closure and paired differences of every compared arm that moves, for the metrics that may rank.

    A difference is drawn as a share of the control's mean error, and not where that is 0 or no number.
    """
    closures, gains, control = list[Bar](), list[Bar](), results.arm(CONTROL)
    moving = [arm for arm in compared_arms(results) if not results.frozen(arm)]
    for arm, found in [(one, found) for one in moving for found in compare(results, one)]:
        closure, gain, metric = found.closure, found.gain, by_name(found.metric)
        if closure and math.isfinite(closure.value):
            unbounded = closure.interval is None and closure.n > 1
            words = share_text(closure)
            closures.append(Bar(found.metric, arm.name, closure.value, closure.interval, words, unbounded=unbounded))
        errors = list(results.errors(control, found.metric).values()) if control else []
        unit, decisive = math.fsum(errors) / max(len(errors), 1), found.decisive
        if unit > 0 and math.isfinite(gain.mean):
            low, high = decisive.low, decisive.high
            interval = None if low is None or high is None else (low / unit, high / unit)
            outcome = found.outcome if found.outcome in ("better", "worse") else ""
            words = with_unit(estimate_text(gain, metric.scale, "+"), metric.unit)
            said = f"{words}, {outcome or reading(results, arm, found)}"
            gains.append(Bar(found.metric, arm.name, gain.mean / unit, interval, said, outcome))
    plots = [
        Plot(
            "Gap closed",
            f"Share of the way from {CONTROL} to {REFERENCE}, with Fieller's interval of 95 %. "
            "Dashed: the interval has no finite ends.",
            closures,
            {0.0: CONTROL, 1.0: REFERENCE},
        ),
        Plot(
            f"Error less than {CONTROL}",
            f"Paired difference as a share of the error of {CONTROL}; to the right of 0 is better. Drawn is the t "
            "interval over seeds that decided: of 95 % for a headline metric, wider for others (Holm). In words: the "
            "difference in the metric's unit, with its own interval of 95 %.",
            gains,
            {0.0: "0"},
        ),
    ]
    return [plot for plot in plots if plot.bars]


def draw_forest(plot: Plot, arms: Sequence[str]) -> "Drawing":
    """A row for each metric and arm, with its name at the left and its words at the right."""
    shades, span = colours(arms), plot.axis
    rows = list[Bar | str]()
    for metric in dict.fromkeys(bar.metric for bar in plot.bars):
        rows += [by_name(metric).label, *(bar for bar in plot.bars if bar.metric == metric)]
    height = 0.3 * len(rows) + 0.6
    with figures.styled():
        figure = figures.new_figure(WIDTH, height)
        axes = figure.add_axes((0.16, 0.45 / height, 0.46, 0.3 * len(rows) / height))
        axes.set(xlim=span, ylim=(len(rows) - 0.5, -0.5), yticks=[])
        axes.spines["left"].set_visible(False)
        for mark, name in plot.marks.items():
            axes.axvline(mark, color=QUIET, lw=1, ls=(0, (3, 3)), zorder=1)
            place: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "ha": "center", "va": "bottom"}
            axes.annotate(name, (mark, 1), size=9, color=QUIET, **place)
        for y, row in enumerate(rows):
            if isinstance(row, str):
                figure.text(0.01, 1 - (0.3 + 0.3 * y) / height, row, weight="bold", va="center", size=9.5)
                axes.axhline(y - 0.5, color=RULE, lw=0.7, zorder=0)
            else:
                draw_bar(axes, row, y, shades[row.arm], span)
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        axes.locator_params(axis="x", nbins=7)
    return figure


def draw_bar(axes: "Axes", bar: Bar, y: int, colour: str, span: tuple[float, float]) -> None:
    """Interval and value of a bar with its words; an end beyond the axis is an arrow."""
    beside = axes.get_yaxis_transform()
    axes.text(-0.02, y, bar.arm, transform=beside, ha="right", va="center", size=9)
    said = GOOD if bar.outcome == "better" else BAD if bar.outcome == "worse" else QUIET
    axes.text(1.02, y, bar.said, transform=beside, va="center", size=9, color=said)
    ends = bar.interval or (span if bar.unbounded else None)
    if ends:
        style = "-" if bar.interval else (0, (1, 1.5))
        axes.plot(np.clip(ends, *span), (y, y), color=colour, lw=3, ls=style, solid_capstyle="round", zorder=2)
    if span[0] <= bar.value <= span[1]:
        axes.plot(bar.value, y, marker="o", ms=7, color=colour, mec="#ffffff", mew=1.2, zorder=3)
    low, high = bar.interval or (bar.value, bar.value)
    arrow: dict[str, Any] = {"ms": 7, "color": colour, "clip_on": False, "zorder": 3}
    if min(low, bar.value) < span[0]:
        axes.plot(span[0], y, marker="<", **arrow)
    if max(high, bar.value) > span[1]:
        axes.plot(span[1], y, marker=">", **arrow)


# -- what figures share -----------------------------------------------------------------------------------------------


def colours(arms: Mapping[str, Any] | Sequence[str]) -> dict[str, str]:
    """A colour for each arm, by its place."""
    return {arm: ARMS[place % len(ARMS)] for place, arm in enumerate(arms)}


def _columns(count: int) -> int:
    """Panels in a row: at most 3, without a row that holds a single one where 2 do better."""
    return 2 if count == 4 else max(min(3, count), 1)


def _grid(count: int, columns: int, row_height: float) -> tuple["Drawing", list["Axes"]]:
    """A figure with `count` panels."""
    rows = max(math.ceil(count / columns), 1)
    layout = require("matplotlib.layout_engine").ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1)
    figure = figures.new_figure(WIDTH, row_height * rows + 0.6, layout=layout)
    return figure, [figure.add_subplot(rows, columns, place + 1) for place in range(count)]


def _legend(figure: "Drawing", handles: list[Any]) -> None:
    figure.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), 6))
