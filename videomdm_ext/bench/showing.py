"""One picture of one clip, for people: what the camera saw, what the motions make of it, and what the check found.

A damaged clip is drawn as far as it can be read. Needs the `demo` extra.
"""

import math
import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from videomdm_ext.bench import drawing
from videomdm_ext.bench.drawing import INK, MIDDLE, QUIET, RULE, Array, require
from videomdm_ext.bench.pictures import DPI, STYLE
from videomdm_ext.bench.shown import Shown, camera_facts, finite_or_zero, has, misfit
from videomdm_ext.data.findings import ERROR, KINDS, counted
from videomdm_ext.motion.skeletons import Skeleton

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KEYPOINTS, TEACHER, TRUTH = "#222222", "#d01c8b", "#1b9e4b"
COLOURS = {"keypoints": KEYPOINTS, "teacher": TEACHER, "truth": TRUTH}
LOOKS = {"truth": (5.0, 2, 0.45), "teacher": (2.2, 3, 0.9), "keypoints": (1.0, 4, 1.0)}
"""Width, order and opacity of a figure in the image."""
FRAMES = 6
"""Moments that are drawn."""
WIDTH = 12.0
"""Inches."""
TOLD = 3
"""Findings that are written out."""
NARROW = 0.62
"""Width of an image's panel, as a share of its height."""
GAP = 0.5
"""Inches above a row."""
ENDS = ("l_wrist", "l_ankle")
"""Joints with a large dot, which tells left from right."""


def draw(path: str, shown: Shown) -> None:
    """Write the picture, a PNG 12 inches wide."""
    rows = [*(shown.positions or ("",))]
    heights = [2.9, *[1.7] * len(rows), 3.1]
    head = 0.85 + 0.18 * len(_caption(shown))
    height = head + sum(heights) + GAP * len(heights) + 0.45
    with require("matplotlib").rc_context(STYLE):
        figure = require("matplotlib.figure").Figure(figsize=(WIDTH, height), dpi=DPI)
        _draw_head(figure, shown, height)
        moments = np.linspace(0, max(shown.length - 1, 0), FRAMES).round().astype(int)
        places = []
        edge = height - head
        for row in heights:
            edge -= row + GAP
            places.append((edge / height, row / height))
        _draw_image_row(figure, shown, moments, places[0])
        for name, place in zip(rows, places[1:-1], strict=True):
            _draw_side(figure, shown, name, moments, place)
        _draw_foot(figure, shown, places[-1])
        require("matplotlib.backends.backend_agg").FigureCanvasAgg(figure).print_png(path)


def _heading(figure: "Figure", place: tuple[float, float], text: str, colour: str = INK, lift: float = 0.1) -> None:
    """A row's heading, so many inches above it."""
    edge = place[0] + place[1] + lift / figure.get_figheight()
    figure.text(0.02, edge, text, weight="bold", size=10.5, color=colour)


def _caption(shown: Shown) -> list[str]:
    texts = "   ".join(f"“{text}”" for text in shown.texts) or "no caption could be read"
    return textwrap.wrap(textwrap.shorten(texts, 330), 125)


def _draw_head(figure: "Figure", shown: Shown, height: float) -> None:
    errors = sum(item.level == ERROR for item in shown.findings)
    state = (
        f"{counted(errors, 'error')}, {counted(len(shown.findings) - errors, 'warning')}"
        if shown.findings
        else "nothing found wrong"
    )
    colour = "#b2182b" if errors else "#b35806" if shown.findings else "#1b7837"
    figure.text(0.02, 1 - 0.3 / height, shown.title, size=14, weight="bold")
    figure.text(0.98, 1 - 0.3 / height, state, size=12, weight="bold", color=colour, ha="right")
    figure.text(0.02, 1 - 0.42 / height, "\n".join(_caption(shown)), size=10, va="top")
    line = require("matplotlib.lines").Line2D
    present = [name for name in COLOURS if name in shown.positions or (name == "keypoints" and has(shown.keypoints))]
    names = {"keypoints": "keypoints (2D detector)", "teacher": "teacher (lifted)", "truth": "truth (measured)"}
    handles = [line([], [], color=COLOURS[name], lw=2.5, label=names[name]) for name in present]
    handles.append(line([], [], color=QUIET, marker="o", ms=6, lw=0, label="left wrist and ankle"))
    place = (0.02, 1 - (0.55 + 0.18 * len(_caption(shown))) / height)
    figure.legend(handles=handles, loc="upper left", ncols=4, bbox_to_anchor=place, borderaxespad=0, borderpad=0)


def _draw_image_row(figure: "Figure", shown: Shown, moments: Array, place: tuple[float, float]) -> None:
    """The image plane at a few moments, all at the same scale, each about the person."""
    bottom, height = place
    layers = {"keypoints": shown.keypoints} if shown.keypoints is not None else {}
    layers = {**layers, **shown.projected}
    _heading(figure, place, "In the image: u to the right, v down, on the plane one metre away", lift=0.27)
    if not any(has(layer) for layer in layers.values()):
        _say(figure, place, "No keypoints, and no motion with its camera, could be read.")
        return
    centres, half = _frame(layers, moments)
    width = 0.96 / len(moments)
    for column, moment in enumerate(moments):
        axes = figure.add_axes((0.02 + column * width + 0.004, bottom, width - 0.008, height))
        _draw_image(axes, shown, layers, int(moment), centres[column], half)


def _frame(layers: Mapping[str, Array], moments: Array) -> tuple[Array, float]:
    """Centres of the panels [N, 2] and half their height: the first layer in full, the others if they are near."""
    first = next(layer for layer in layers.values() if has(layer))
    with np.errstate(all="ignore"):
        low, high = np.nanmin(finite_or_zero(first), 1), np.nanmax(finite_or_zero(first), 1)
    size = max(float(np.median(np.linalg.norm(high - low, axis=-1))), 1e-3)
    chosen = np.minimum(moments, len(first) - 1)
    centres = (low[chosen] + high[chosen]) / 2
    half = 0.6 * size
    for layer in layers.values():
        apart = np.abs(layer[np.minimum(moments, len(layer) - 1)] - centres[:, None]) / np.array((NARROW, 1.0))
        apart = apart[np.isfinite(apart)]
        if len(apart):
            half = max(half, min(1.1 * float(np.quantile(apart, 0.995)), 1.6 * size))
    return centres, half


def _draw_image(
    axes: "Axes", shown: Shown, layers: Mapping[str, Array], moment: int, centre: Array, half: float
) -> None:
    outside = []
    for name, layer in layers.items():
        if moment >= len(layer):
            outside.append(f"{name}: ended")
            continue
        points = layer[moment]
        _draw_figure(axes, points, shown.skeleton, name)
        inside = np.asarray(np.abs(points - centre) < half).all(-1)
        if not np.isfinite(points).any():
            outside.append(f"{name}: {'not seen' if name == 'keypoints' else 'behind the camera'}")
        elif not inside.any():
            outside.append(f"{name}: outside, at\n({np.nanmean(points[:, 0]):.1f}, {np.nanmean(points[:, 1]):.1f})")
    box = axes.get_window_extent()
    wide = half * box.width / box.height
    axes.set(xlim=(centre[0] - wide, centre[0] + wide), ylim=(centre[1] + half, centre[1] - half))
    axes.set_title(f"{moment / shown.card.fps:.2f} s", size=9, weight="normal")
    axes.locator_params(nbins=3)
    axes.tick_params(labelsize=6.5, length=0, pad=1)
    for spine in axes.spines.values():
        spine.set(visible=True, color=RULE)
    axes.text(0.04, 0.03, "\n".join(outside), transform=axes.transAxes, size=7, color="#b2182b", va="bottom")


def _draw_figure(axes: "Axes", points: Array, skeleton: Skeleton, name: str) -> None:
    """A stick figure of points [J, 2], with dots at the left hand and foot; what lies below is drawn wider."""
    width, order, alpha = LOOKS[name]
    segments = [points[[parent, joint]] for joint, parent in enumerate(skeleton.parents) if parent >= 0]
    segments = [segment for segment in segments if np.isfinite(segment).all()]
    look: dict[str, Any] = {"linewidths": width, "capstyle": "round", "alpha": alpha, "zorder": order}
    axes.add_collection(require("matplotlib.collections").LineCollection(segments, colors=COLOURS[name], **look))
    ends = points[[skeleton.index(joint) for joint in ENDS if joint in skeleton.joints]]
    size = 18 + 9 * width
    axes.scatter(ends[:, 0], ends[:, 1], s=size, color=COLOURS[name], linewidths=0, zorder=order, alpha=alpha)


def _draw_side(figure: "Figure", shown: Shown, name: str, moments: Array, place: tuple[float, float]) -> None:
    """Poses of a motion from the person's right at the start, side by side on the floor, with metres at the left."""
    bottom, height = place
    if not name:
        _say(figure, place, "Neither the teacher nor a truth could be decoded.")
        return
    title = f"{name.capitalize()} in 3D, seen from the person's right: starts facing right, stands on the floor"
    _heading(figure, place, title, COLOURS[name])
    for at, side, colour in ((0.9, "left", drawing.LEFT), (0.94, "right", drawing.RIGHT)):
        edge = bottom + height + 0.1 / figure.get_figheight()
        figure.text(at, edge, side, color=colour, weight="bold", size=10)
    axes = figure.add_axes((0.055, bottom, 0.925, height))
    motion = shown.positions[name]
    chosen = motion[np.minimum(moments, len(motion) - 1)]
    aside = chosen * np.array((1, 1, 1.0)) - chosen[:, :1] * np.array((1, 0, 1))
    seen = drawing.seen(aside, azimuth=-math.pi / 2, elevation=0.0)
    values = seen[..., 1][np.isfinite(seen[..., 1])]
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    low, high = min(low, 0.0), max(high, 0.0, low + 0.5)
    span = max(1.12 * (high - low), 1.9 if high - low < 4 else 0.0)
    wide = span * (0.925 * WIDTH) / (height * figure.get_figheight())
    for column, pose in enumerate(seen):
        _draw_pose(axes, pose + np.array((wide * (column + 0.5) / len(seen), 0, 0)), shown.skeleton)
    middle = (low + high) / 2
    axes.axhline(0, color=QUIET, lw=1.2, zorder=0)
    axes.set(xlim=(0, wide), ylim=(middle - span / 2, middle + span / 2), xticks=[], ylabel="height, m")
    axes.spines["bottom"].set_visible(False)
    axes.locator_params(axis="y", nbins=5)


def _draw_pose(axes: "Axes", points: Array, skeleton: Skeleton) -> None:
    """Bones of a pose [J, 3] (right, up, towards the reader), the far ones first, left and right in their colours."""
    points = np.where(np.isfinite(points), points, 0.0)
    order = drawing.far_to_near(points[:, 2], skeleton)
    segments = [points[[skeleton.parents[joint], joint], :2] for joint in order]
    colours = [drawing.side(skeleton.joints[joint]) for joint in order]
    axes.add_collection(require("matplotlib.collections").LineCollection(segments, colors=colours, linewidths=2.0))
    if "head" in skeleton.joints:
        head = points[skeleton.index("head")]
        axes.scatter(head[:1], head[1:2], s=26, color=MIDDLE, linewidths=0, zorder=3)


def _draw_foot(figure: "Figure", shown: Shown, place: tuple[float, float]) -> None:
    """Confidence by joint and time, the misfit over time, and in words the camera and the findings."""
    bottom, height = place
    _draw_confidence(figure, shown, (0.075, bottom, 0.24, height))
    _draw_misfit(figure, shown, (0.385, bottom, 0.195, height))
    lines = [("Camera", INK, "bold"), *((line, INK, "normal") for line in camera_facts(shown))]
    lines.append(("What the check found", INK, "bold"))
    if not shown.findings:
        lines.append(("nothing", "#1b7837", "normal"))
    for item in shown.findings[:TOLD]:
        colour = "#b2182b" if item.level == ERROR else "#b35806"
        lines.append((f"{item.level} {item.kind}: {KINDS[item.kind][0]}", colour, "bold"))
        lines.append((textwrap.shorten(item.message, 170), colour, "normal"))
        lines.append((item.advice, INK, "normal"))
    if len(shown.findings) > TOLD:
        lines.append((f"and {len(shown.findings) - TOLD} more: videomdm data check", QUIET, "normal"))
    top, step = bottom + height + 0.16 / figure.get_figheight(), 0.155 / figure.get_figheight()
    for text, colour, weight in lines:
        for line in textwrap.wrap(text, 66):
            top -= step
            figure.text(0.615, top, line, size=8.5, color=colour, weight=weight)
        top -= 0.3 * step


def _draw_confidence(figure: "Figure", shown: Shown, box: tuple[float, float, float, float]) -> None:
    axes = figure.add_axes(box)
    axes.set_title("Confidence of the detector")
    if shown.confidence is None:
        _none(axes)
        return
    seconds = len(shown.confidence) / shown.card.fps
    extent = (0, seconds, shown.skeleton.num_joints - 0.5, -0.5)
    picture = axes.imshow(shown.confidence.T, aspect="auto", vmin=0, vmax=1, cmap="viridis", extent=extent)
    axes.set_yticks(range(shown.skeleton.num_joints), shown.skeleton.joints)
    axes.tick_params(axis="y", labelsize=6.5, length=0)
    axes.set_xlabel("seconds", size=8, labelpad=1)
    axes.grid(False)
    bar = figure.colorbar(picture, cax=figure.add_axes((box[0] + box[2] + 0.005, box[1], 0.008, box[3])))
    bar.ax.tick_params(labelsize=7)


def _draw_misfit(figure: "Figure", shown: Shown, box: tuple[float, float, float, float]) -> None:
    axes = figure.add_axes(box)
    axes.set_title("Off the keypoints, % of person")
    drawn = False
    for name, points in shown.projected.items():
        apart = misfit(points, shown.keypoints)
        if apart is not None and np.isfinite(apart).any():
            axes.plot(np.arange(len(apart)) / shown.card.fps, 100 * apart, color=COLOURS[name], lw=1.8, label=name)
            drawn = True
    if not drawn:
        _none(axes)
        return
    axes.set_ylim(0, min(max(10.0, 1.2 * axes.get_ylim()[1]), 300.0))
    axes.set_xlabel("seconds", size=8, labelpad=1)
    axes.legend(fontsize=8, loc="upper right")


def _none(axes: "Axes") -> None:
    axes.set(xticks=[], yticks=[])
    axes.text(0.5, 0.5, "none", transform=axes.transAxes, ha="center", va="center", color="#b2182b", size=12)


def _say(figure: "Figure", place: tuple[float, float], message: str) -> None:
    figure.text(0.5, place[0] + place[1] / 2, message, ha="center", va="center", color="#b2182b", size=12)
