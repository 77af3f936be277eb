"""Still pictures of a report: loss curves, and metrics with intervals.

Figures are 12 inches wide. Needs the `demo` extra; nothing is imported before a picture is made.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from videomdm_ext.bench.results import Curve
from videomdm_ext.bench.statistics import Estimate
from videomdm_ext.render.figures import DPI, INK, QUIET, STYLE, Array, require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ARMS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#5d3a9b")
"""Okabe and Ito's palette, which colour-blind readers can tell apart."""


@dataclass(frozen=True)
class Panel:
    """One metric, in the unit shown: a value for each seed and their mean by arm, and lines of the calibration rows.

    With a `truth` the floor is a band around it, else a line.
    """

    title: str
    arms: Mapping[str, tuple[Sequence[float], Estimate]]
    truth: float | None = None
    floor: float | None = None
    teacher: float | None = None


def loss_curves(path: str, arms: Mapping[str, Sequence[Curve]]) -> None:
    """One panel a term, one colour an arm: every seed thin, the mean over seeds bold, both smoothed a little."""
    terms = list(dict.fromkeys(term for curves in arms.values() for curve in curves for term in curve.terms))
    with require("matplotlib").rc_context(STYLE):
        figure, panels = _grid(len(terms), _columns(len(terms)), 2.7)
        for term, axes in zip(terms, panels, strict=True):
            for colour, curves in zip(_colours(arms), arms.values(), strict=True):
                _draw_curves(axes, [curve for curve in curves if term in curve.terms], term, colour)
            axes.set_title(term.replace("_", " "))
            axes.set_xlabel("training step")
            _logarithmic_if_wide(axes)
        line = require("matplotlib.lines").Line2D
        named = zip(arms, _colours(arms), strict=True)
        handles = [line([], [], color=colour, lw=2.2, label=arm) for arm, colour in named]
        _finish(figure, path, handles)


def metric_bars(path: str, panels: Sequence[Panel]) -> None:
    """One panel a metric: a dot for each seed, mean and interval for each arm, lines for truth, floor and teacher."""
    arms = list(dict.fromkeys(arm for panel in panels for arm in panel.arms))
    columns = _columns(len(panels))
    with require("matplotlib").rc_context(STYLE):
        figure, places = _grid(len(panels), columns, 1.05 + 0.32 * len(arms))
        for number, (panel, axes) in enumerate(zip(panels, places, strict=True)):
            _draw_panel(axes, panel, arms)
            axes.set_yticks(range(len(arms)), arms if number % columns == 0 else [""] * len(arms))
            axes.tick_params(axis="y", length=0)
        _finish(figure, path, _panel_legend(panels))


def _draw_curves(axes: "Axes", curves: Sequence[Curve], term: str, colour: str) -> None:
    smoothed = [
        (np.asarray(curve.steps), smoothed_curve(np.asarray(curve.terms[term], dtype=float))) for curve in curves
    ]
    for steps, values in smoothed:
        axes.plot(steps, values, color=colour, lw=0.8, alpha=0.45 if len(smoothed) > 1 else 0.0)
    if smoothed:
        shared = min(len(steps) for steps, _ in smoothed)
        mean = np.mean([values[:shared] for _, values in smoothed], axis=0)
        axes.plot(smoothed[0][0][:shared], mean, color=colour, lw=2.2)


def smoothed_curve(values: Array) -> Array:
    """Mean over a window of a fortieth of the curve, narrower at its ends."""
    reach = len(values) // 80
    sums = np.concatenate(([0.0], np.cumsum(values)))
    at = np.arange(len(values))
    half = np.minimum(np.minimum(at, len(values) - 1 - at), reach)
    return (sums[at + half + 1] - sums[at - half]) / (2 * half + 1)


def _logarithmic_if_wide(axes: "Axes") -> None:
    values = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in axes.get_lines()] or [np.ones(1)])
    values = values[np.isfinite(values)]
    if len(values) and values.min() > 0 and values.max() > 5 * values.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")
        axes.grid(True, which="minor", axis="y", alpha=0.4)


def _draw_panel(axes: "Axes", panel: Panel, arms: Sequence[str]) -> None:
    _draw_calibration(axes, panel)
    for row, (arm, colour) in enumerate(zip(arms, _colours(arms), strict=True)):
        values, estimate = panel.arms.get(arm, ((), None))
        axes.scatter(values, [row + 0.2] * len(values), s=14, color=colour, alpha=0.5, linewidths=0, zorder=3)
        if estimate is not None and math.isfinite(estimate.mean):
            look: dict[str, Any] = {"fmt": "o", "ms": 7, "color": colour, "capsize": 4, "lw": 2, "zorder": 4}
            axes.errorbar(estimate.mean, row - 0.08, xerr=estimate.half_width, **look)
    if panel.truth is None:
        axes.set_xlim(left=0)
    axes.set_title(textwrap.fill(panel.title, title_width(arms)))
    axes.set_ylim(len(arms) - 0.45, -0.55)
    axes.grid(False, axis="y")
    axes.locator_params(axis="x", nbins=6)


def title_width(arms: Sequence[str]) -> int:
    """Characters of a panel's title that fit on a line: the names of arms beside the panels take their room."""
    return max(20, 40 - max(0, max(map(len, arms)) - 14) // 3)


def _draw_calibration(axes: "Axes", panel: Panel) -> None:
    if panel.truth is not None:
        axes.axvline(panel.truth, color=INK, lw=1.4)
        if panel.floor is not None:
            axes.axvspan(panel.truth - panel.floor, panel.truth + panel.floor, color="#bbbbbb", alpha=0.5, lw=0)
    elif panel.floor is not None:
        axes.axvline(panel.floor, color=QUIET, lw=1.4, ls=":")
    if panel.teacher is not None:
        axes.axvline(panel.teacher, color="#8c510a", lw=1.4, ls="--")


def _panel_legend(panels: Sequence[Panel]) -> list[Any]:
    """Handles for what the panels show."""
    line, patch = require("matplotlib.lines").Line2D, require("matplotlib.patches").Patch
    handles = [
        line([], [], color=QUIET, marker="o", ms=7, lw=2, label="mean and 95 % interval"),
        line([], [], color=QUIET, marker="o", ms=4, lw=0, alpha=0.6, label="one seed"),
    ]
    levels = [panel for panel in panels if panel.truth is not None]
    if levels:
        handles.append(line([], [], color=INK, lw=1.4, label="truth"))
    if any(panel.floor is not None for panel in levels):
        handles.append(patch(color="#bbbbbb", alpha=0.5, lw=0, label="truth ± split halves"))
    if any(panel.floor is not None for panel in panels if panel.truth is None):
        handles.append(line([], [], color=QUIET, lw=1.4, ls=":", label="split halves"))
    if any(panel.teacher is not None for panel in panels):
        handles.append(line([], [], color="#8c510a", lw=1.4, ls="--", label="teacher"))
    return handles


def _colours(arms: Mapping[str, Any] | Sequence[str]) -> list[str]:
    return [ARMS[number % len(ARMS)] for number in range(len(arms))]


def _columns(count: int) -> int:
    """Panels in a row: at most 3, without a row that holds a single one where 2 do better."""
    return 2 if count == 4 else max(min(3, count), 1)


def _grid(count: int, columns: int, row_height: float) -> tuple["Figure", list["Axes"]]:
    """A figure 12 inches wide with `count` panels."""
    rows = max(math.ceil(count / columns), 1)
    size = (12, row_height * rows + 0.6)
    figure = require("matplotlib.figure").Figure(figsize=size, dpi=DPI, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1)
    return figure, [figure.add_subplot(rows, columns, number + 1) for number in range(count)]


def _finish(figure: "Figure", path: str, handles: list[Any]) -> None:
    figure.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), 6))
    _save(figure, path)


def _save(figure: "Figure", path: str) -> None:
    require("matplotlib.backends.backend_agg").FigureCanvasAgg(figure).print_png(path)
