"""Pictures of a report: loss curves, metrics with intervals, stick-figure strips and a side-by-side animation.

Figures are 12 inches wide. Needs the `demo` extra; nothing is imported before a picture is made.
"""

import importlib
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from videomdm_ext.benchmark.statistics import Estimate
from videomdm_ext.errors import VideoMDMError
from videomdm_ext.skeletons import Skeleton

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.floating[Any]]

INK, QUIET, RULE, PAPER = "#222222", "#666666", "#dddddd", "#ffffff"
LEFT, RIGHT, MIDDLE = "#0077bb", "#ee7733", "#333333"
ARMS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#5d3a9b")
"""Okabe and Ito's palette, which colour-blind readers can tell apart."""
SHADES = ("#d4d4d4", "#cfcfcf", "#e4e4e4")
"""Shadow, and the grid near and far, of the animation."""
DPI = 150
FPS = 20
STYLE = {
    "font.family": "DejaVu Sans", "font.size": 10, "text.color": INK, "axes.edgecolor": QUIET, "axes.labelcolor": INK,
    "axes.titlesize": 10.5, "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True, "grid.color": RULE, "grid.linewidth": 0.7,
    "xtick.color": QUIET, "ytick.color": QUIET, "xtick.labelsize": 9, "ytick.labelsize": 9, "legend.frameon": False,
    "figure.facecolor": PAPER, "savefig.facecolor": PAPER,
}  # fmt: skip


@dataclass(frozen=True)
class Curve:
    """Values of some terms at training steps; every term has one value a step."""

    steps: Sequence[int]
    terms: Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Example:
    """One caption and motions [T, J, 3] made for it, by name, in the order in which they are shown."""

    caption: str
    motions: Mapping[str, Array]


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


def require(module: str = "matplotlib", extra: str = "demo") -> Any:
    """The optional module, or an error that names the extra it comes with."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise VideoMDMError(
            f"pictures: expected the package {module.partition('.')[0]}, found none ({error}). "
            f"Install the extra: pip install -e '.[{extra}]' -c constraints.txt"
        ) from error


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


def strips(path: str, examples: Sequence[Example], skeleton: Skeleton, fps: float, *, poses: int = 8) -> None:
    """One row for each caption and motion: poses evenly over time, side by side, from one fixed camera."""
    examples = [_finite(example) for example in examples]
    rows = [(example, name) for example in examples for name in example.motions]
    top = _highest(examples)
    width, inches = 12.0, 0.7  # of the page, and for a metre
    row = inches * (top + 0.25)
    height = row * len(rows) + 0.42 * len(examples) + 0.5
    with require("matplotlib").rc_context(STYLE):
        figure = require("matplotlib.figure").Figure(figsize=(width, height), dpi=DPI)
        edge = height - 0.45
        _sides_legend(figure, height)
        for example in examples:
            edge -= 0.42
            longest = max(len(motion) for motion in example.motions.values())
            title = textwrap.shorten(example.caption, 105)
            figure.text(0.012, (edge + 0.12) / height, f"“{title}”  {longest / fps:.1f} s", size=11, weight="bold")
            for name, motion in example.motions.items():
                edge -= row
                axes = figure.add_axes((0.0, edge / height, 1.0, row / height))
                _draw_strip(axes, motion, skeleton, name, poses, (width / inches, top))
        _save(figure, path)


def _draw_strip(
    axes: "Axes", motion: Array, skeleton: Skeleton, name: str, poses: int, size: tuple[float, float]
) -> None:
    """A row of poses on a ground line; `size` is the width of the page and the height of a row, metres."""
    page, top = size
    label = 1.9
    axes.set(xlim=(0, page), ylim=(-0.2, top + 0.05))
    axes.axis("off")
    axes.plot((label, page - 0.2), (0, 0), color=RULE, lw=1.2, zorder=0)
    axes.text(0.2, 0.45 * top, textwrap.fill(name, 16), size=10, va="center")
    step = (page - label - 0.2) / poses
    chosen = motion[np.linspace(0, len(motion) - 1, poses).round().astype(int)]
    seen = _seen(chosen - chosen[:, :1] * np.array((1, 0, 1)), azimuth=-0.65, elevation=0.06)
    seen[..., 0] += label + step * (np.arange(poses)[:, None] + 0.5)
    _draw_figures(axes, seen, skeleton)


def _draw_figures(axes: "Axes", poses: Array, skeleton: Skeleton) -> None:
    """Bones of poses [N, J, 3] (right, up, towards the reader), in each the far ones first, and heads."""
    segments, colours = [], []
    for points in poses:
        for joint in _far_to_near(points[:, 2], skeleton):
            segments.append(points[[skeleton.parents[joint], joint], :2])
            colours.append(_side(skeleton.joints[joint]))
    lines = require("matplotlib.collections").LineCollection(segments, colors=colours, linewidths=2.0, capstyle="round")
    axes.add_collection(lines)
    if "head" in skeleton.joints:
        heads = poses[:, skeleton.index("head")]
        axes.scatter(heads[:, 0], heads[:, 1], s=34, color=MIDDLE, linewidths=0, zorder=3)


def _far_to_near(depth: Array, skeleton: Skeleton) -> list[int]:
    """Joints but the root by how near the middle of their bone is, `depth` [J] being larger for what is nearer."""
    return sorted(range(1, skeleton.num_joints), key=lambda joint: depth[joint] + depth[skeleton.parents[joint]])


def _side(joint: str) -> str:
    return LEFT if joint.startswith("l_") else RIGHT if joint.startswith("r_") else MIDDLE


def _seen(positions: Array, *, azimuth: float, elevation: float) -> Array:
    """[..., 3] as seen by a camera at that angle from +z: right, up, and towards the camera."""
    x, y, z = np.moveaxis(positions, -1, 0)
    right, near = math.cos(azimuth) * x - math.sin(azimuth) * z, math.sin(azimuth) * x + math.cos(azimuth) * z
    up = math.cos(elevation) * y - math.sin(elevation) * near
    return np.stack((right, up, math.cos(elevation) * near + math.sin(elevation) * y), -1)


def _finite(example: Example) -> Example:
    """The example in float64 with every coordinate a number within 100 m."""
    motions = {name: np.asarray(motion, dtype=np.float64) for name, motion in example.motions.items()}
    return Example(example.caption, {name: np.nan_to_num(motion).clip(-100, 100) for name, motion in motions.items()})


def _highest(examples: Sequence[Example]) -> float:
    """Height of a row, metres: nearly everything in view, within reason."""
    heights = [np.percentile(motion[..., 1], 99.9) for e in examples for motion in e.motions.values()]
    return float(np.clip(max(heights, default=1.9) + 0.1, 1.8, 2.8))


def _sides_legend(figure: "Figure", height: float) -> None:
    line = require("matplotlib.lines").Line2D
    handles = [line([], [], color=c, lw=3, label=name) for c, name in ((LEFT, "left"), (RIGHT, "right"))]
    place = (0.99, 1 - 0.05 / height)
    figure.legend(handles=handles, loc="upper right", ncols=2, bbox_to_anchor=place, borderaxespad=0)


def _draw_curves(axes: "Axes", curves: Sequence[Curve], term: str, colour: str) -> None:
    smoothed = [(np.asarray(curve.steps), _smoothed(np.asarray(curve.terms[term], dtype=float))) for curve in curves]
    for steps, values in smoothed:
        axes.plot(steps, values, color=colour, lw=0.8, alpha=0.45 if len(smoothed) > 1 else 0.0)
    if smoothed:
        shared = min(len(steps) for steps, _ in smoothed)
        mean = np.mean([values[:shared] for _, values in smoothed], axis=0)
        axes.plot(smoothed[0][0][:shared], mean, color=colour, lw=2.2)


def _smoothed(values: Array) -> Array:
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
    axes.set_title(textwrap.fill(panel.title, 40))
    axes.set_ylim(len(arms) - 0.45, -0.55)
    axes.grid(False, axis="y")
    axes.locator_params(axis="x", nbins=6)


def _draw_calibration(axes: "Axes", panel: Panel) -> None:
    if panel.truth is not None:
        axes.axvline(panel.truth, color=INK, lw=1.4)
        if panel.floor is not None:
            axes.axvspan(panel.truth - panel.floor, panel.truth + panel.floor, color="#bbbbbb", alpha=0.5, lw=0)
    elif panel.floor is not None:
        axes.axvline(panel.floor, color=QUIET, lw=1.4, ls=":")
    if panel.teacher is not None:
        axes.axvline(panel.teacher, color="#8c510a", lw=1.4, ls="--")
    if panel.truth is None:
        axes.set_xlim(left=0)


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


@dataclass(frozen=True)
class Stage:
    """How the animation is drawn: panels of `size` pixels that show `height` metres, drawn `finer` times as large."""

    size: int = 300
    height: float = 2.4
    finer: int = 2
    azimuth: float = -0.7
    elevation: float = 0.22
    distance: float = 6.0
    reach: float = 2.5


def animation(path: str, example: Example, skeleton: Skeleton, *, fps: float = FPS) -> None:
    """Motions of one caption side by side in 3D, a panel each: a .gif, or an .mp4 with the `video` extra.

    The camera keeps its direction and follows each person; the grid, of half a metre, shows how far they go.
    """
    example = _finite(example)
    moves = example.motions
    tracks = {name: _followed(motion) for name, motion in moves.items()}
    stage = Stage(size=max(200, min(300, 1200 // max(len(moves), 1))), height=_highest([example]) + 0.5)
    scenes = (
        _draw_scene(example.caption, {name: (moves[name], tracks[name]) for name in moves}, frame, fps, skeleton, stage)
        for frame in range(max(len(motion) for motion in moves.values()))
    )
    if path.endswith(".mp4"):
        require("imageio_ffmpeg", "video")
        require("imageio.v2", "video").mimwrite(
            path, [np.asarray(scene) for scene in scenes], fps=fps, macro_block_size=2
        )
        return
    palette = _palette()
    frames = [scene.quantize(palette=palette, dither=0) for scene in scenes]
    held = [round(1000 / fps)] * (len(frames) - 1) + [700]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=held, loop=0, disposal=1)


def _palette() -> Any:
    """An image with every colour that is drawn and its blends with the paper."""
    shades = [PAPER, *SHADES]
    for colour in (INK, QUIET, LEFT, RIGHT, MIDDLE):
        full = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)])
        shades += ["#{:02x}{:02x}{:02x}".format(*(255 - (255 - full) * part // 5)) for part in (1, 2, 3, 4, 5)]
    image = require("PIL.Image").new("P", (1, 1))
    image.putpalette([int(shade[at : at + 2], 16) for shade in shades for at in (1, 3, 5)])
    return image


def _followed(motion: Array) -> Array:
    """Where the camera looks on the floor, [T, 3]: the root's way, made smooth."""
    sigma, frames = 8.0, np.arange(len(motion))
    weights = np.exp(-0.5 * ((frames[:, None] - frames) / sigma) ** 2)
    return (weights / weights.sum(1, keepdims=True)) @ (motion[:, 0] * np.array((1, 0, 1)))


def _draw_scene(
    caption: str, moves: Mapping[str, tuple[Array, Array]], frame: int, fps: float, skeleton: Skeleton, stage: Stage
) -> Any:
    """One image of the animation: caption, panels, time and the legend of sides."""
    image_module, draw_module = require("PIL.Image"), require("PIL.ImageDraw")
    unit = stage.size * stage.finer
    width, head, foot = unit * len(moves), unit // 4, unit // 9
    image = image_module.new("RGB", (width, head + unit + foot), PAPER)
    draw = draw_module.Draw(image)
    for number, (name, (motion, track)) in enumerate(moves.items()):
        panel = image_module.new("RGB", (unit, unit), PAPER)
        at = min(frame, len(motion) - 1)
        _draw_person(draw_module.Draw(panel), motion[at], track[at], skeleton, stage)
        image.paste(panel, (unit * number, head))
        _write(draw, name, (unit * (number + 0.5), head * 0.82), unit // 17, bold=True, most=unit * 0.96)
        if number:
            draw.line((unit * number, head * 0.65, unit * number, head + unit), fill=RULE, width=stage.finer)
    _write(draw, f"“{caption}”", (width / 2, head * 0.3), unit // 15, most=width * 0.96)
    base = head + unit + foot * 0.45
    _write(draw, f"{frame / fps:.1f} s", (unit * 0.1, base), unit // 20, colour=QUIET)
    for place, colour, word in ((0.52, LEFT, "left"), (0.24, RIGHT, "right")):
        x = width - unit * place
        draw.line((x, base, x + unit * 0.07, base), fill=colour, width=4 * stage.finer)
        _write(draw, word, (x + unit * 0.15, base), unit // 20, colour=QUIET)
    return image.reduce(stage.finer)


def _draw_person(draw: Any, pose: Array, centre: Array, skeleton: Skeleton, stage: Stage) -> None:
    """Grid, shadow and bones of one pose [J, 3], seen from the stage's camera aimed at `centre`."""
    for start, end, shade in _grid_lines(centre, stage.reach):
        draw.line(_pixels(np.stack((start, end)), centre, stage), fill=shade, width=stage.finer)
    for points, shadow in ((pose * np.array((1, 0, 1)), True), (pose, False)):
        flat = _pixels(points, centre, stage)
        depth = _seen(points - centre, azimuth=stage.azimuth, elevation=stage.elevation)[:, 2]
        for joint in _far_to_near(depth, skeleton):
            colour = SHADES[0] if shadow else _side(skeleton.joints[joint])
            _limb(draw, flat[skeleton.parents[joint]], flat[joint], colour, (2.5 if shadow else 4.0) * stage.finer)
        if "head" in skeleton.joints and not shadow:
            (x, y), radius = flat[skeleton.index("head")], stage.size * stage.finer / 34
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=MIDDLE)


def _limb(draw: Any, start: tuple[float, float], end: tuple[float, float], colour: str, width: float) -> None:
    """A line with round ends."""
    draw.line((*start, *end), fill=colour, width=round(width))
    for x, y in (start, end):
        draw.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=colour)


def _pixels(points: Array, centre: Array, stage: Stage) -> list[tuple[float, float]]:
    """Perspective of points [N, 3] in a panel; what comes too near the camera is kept at a distance."""
    aim = centre + np.array((0, 0.4 * stage.height, 0))
    right, up, near = _seen(points - aim, azimuth=stage.azimuth, elevation=stage.elevation).T
    unit = stage.size * stage.finer
    scale = unit / stage.height * stage.distance / np.maximum(stage.distance - near, 0.5)
    return [(unit / 2 + x, unit / 2 - y) for x, y in np.clip(np.stack((right * scale, up * scale), -1), -9e3, 9e3)]


def _grid_lines(centre: Array, reach: float, step: float = 0.5) -> list[tuple[Array, Array, str]]:
    """Lines of the floor inside a circle about `centre`, lighter towards its edge."""
    lines: list[tuple[Array, Array, str]] = []
    for axis, other in ((0, 2), (2, 0)):
        for k in range(math.ceil((centre[axis] - reach) / step), math.floor((centre[axis] + reach) / step) + 1):
            offset = k * step - centre[axis]
            start, end = (np.zeros(3) for _ in range(2))
            start[axis] = end[axis] = k * step
            half = math.sqrt(max(reach**2 - offset**2, 0.0))
            start[other], end[other] = centre[other] - half, centre[other] + half
            lines.append((start, end, SHADES[1] if abs(offset) < 0.6 * reach else SHADES[2]))
    return lines


def _write(
    draw: Any,
    text: str,
    place: tuple[float, float],
    size: int,
    *,
    colour: str = INK,
    bold: bool = False,
    most: float = math.inf,
) -> None:
    """Text centred at a place, in smaller type where it would be wider than `most`, then shortened."""
    font = _font(size, bold)
    if draw.textlength(text, font=font) > most:
        font = _font(max(round(size * 0.75), 8), bold)
    while draw.textlength(text, font=font) > most and len(text) > 4:
        text = text[:-2].rstrip("…") + "…"
    draw.text(place, text, fill=colour, font=font, anchor="mm")


@cache
def _font(size: int, bold: bool) -> Any:
    """The typeface that comes with matplotlib."""
    face = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return require("PIL.ImageFont").truetype(f"{require('matplotlib').get_data_path()}/fonts/ttf/{face}", size)
