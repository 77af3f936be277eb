"""Stick figures: poses as a camera sees them, rows of poses over time, and animations.

Pictures are matplotlib's; the `demo` extra brings it. Nothing is imported before a picture is made.
"""

import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from videomdm_ext.data import files
from videomdm_ext.errors import StorageError, optional
from videomdm_ext.motion.skeletons import Skeleton

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.floating[Any]]

INK, QUIET, RULE, PAPER = "#222222", "#666666", "#dddddd", "#ffffff"
LEFT, RIGHT, MIDDLE = "#0077bb", "#ee7733", "#333333"
SHADOW, GRID = "#d4d4d4", ("#cfcfcf", "#e4e4e4")
"""Of an animation's floor: shadows, and the grid near and far."""
DPI, WIDTH = 150, 12.0
"""Pixels an inch of a still picture, and its inches."""
STYLE = {
    "font.family": "DejaVu Sans", "font.size": 10, "text.color": INK, "axes.edgecolor": QUIET, "axes.labelcolor": INK,
    "axes.titlesize": 10.5, "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True, "grid.color": RULE, "grid.linewidth": 0.7,
    "xtick.color": QUIET, "ytick.color": QUIET, "xtick.labelsize": 9, "ytick.labelsize": 9, "legend.frameon": False,
    "figure.facecolor": PAPER, "savefig.facecolor": PAPER,
}  # fmt: skip
PANEL, HEIGHT, DISTANCE, REACH = 300, 2.4, 6.0, 2.5
"""Of an animation: pixels of a panel at most, metres above the person, of the camera's way, of the floor's radius."""
ANGLES = {"azimuth": -0.7, "elevation": 0.22}


def require(module: str = "matplotlib", extra: str = "demo") -> Any:
    """A module that draws or writes pictures, with the extra it comes with."""
    return optional(module, user="pictures", extra=extra)


def styled() -> Any:
    """A context in which figures are made in the one style."""
    return require("matplotlib").rc_context(STYLE)


def save(figure: "Figure", path: str) -> None:
    """Write a figure as PNG."""
    content = io.BytesIO()
    with styled():
        figure.savefig(content, format="png")
    files.write_bytes(path, content.getvalue())


def new_figure(width: float, height: float, **options: Any) -> "Figure":
    """An empty figure, inches."""
    figure: Figure = require("matplotlib.figure").Figure(figsize=(width, height), dpi=DPI, **options)
    return figure


@dataclass(frozen=True)
class Example:
    """One caption and motions [T, J, 3] made for it, by name, in the order in which they are shown."""

    caption: str
    motions: Mapping[str, NDArray[np.floating[Any]]]

    @property
    def finite(self) -> "Example":
        """The example in float64 with every coordinate a number within 100 m."""
        motions = {name: np.nan_to_num(np.asarray(m, np.float64)).clip(-100, 100) for name, m in self.motions.items()}
        return Example(self.caption, motions)


# -- poses ------------------------------------------------------------------------------------------------------------


def far_to_near(depth: Array, skeleton: Skeleton) -> list[int]:
    """Joints but the root by how near the middle of their bone is, `depth` [J] being larger for what is nearer."""
    return sorted(range(1, skeleton.num_joints), key=lambda joint: depth[joint] + depth[skeleton.parents[joint]])


def side(joint: str) -> str:
    """The colour of a joint's side of the body."""
    return LEFT if joint.startswith("l_") else RIGHT if joint.startswith("r_") else MIDDLE


def seen(positions: Array, *, azimuth: float, elevation: float) -> Array:
    """[..., 3] as seen by a camera at that angle from +z: right, up, and towards the camera."""
    x, y, z = np.moveaxis(positions, -1, 0)
    right, near = math.cos(azimuth) * x - math.sin(azimuth) * z, math.sin(azimuth) * x + math.cos(azimuth) * z
    up = math.cos(elevation) * y - math.sin(elevation) * near
    return np.stack((right, up, math.cos(elevation) * near + math.sin(elevation) * y), -1)


def in_place(positions: Array) -> Array:
    """Poses [N, J, 3], each with its root above the origin of the floor."""
    return positions - positions[:, :1] * np.array((1, 0, 1))


def draw_poses(
    axes: "Axes", poses: Array, skeleton: Skeleton, *, colour: str = "", width: float = 2.0, head: float = 0.0,
    opacity: Array | float = 1.0, halo: float = 0.0, order: int = 3,
) -> None:  # fmt: skip
    """Draw the bones of poses [N, J, 2] or [N, J, 3] (the third towards the reader, far ones first).

    They have the colours of their sides, or the one `colour`. A bone to a joint that is not finite is left out.
    `opacity` is a number or [J], of the bone to each joint; `head` is the size of a disc, `halo` the width of a white
    edge in points.
    """
    strengths = np.broadcast_to(opacity, skeleton.num_joints)
    segments, colours, opacities = [], [], []
    for points in poses:
        depth = np.nan_to_num(points[:, 2]) if points.shape[1] == 3 else np.zeros(len(points))
        for joint in far_to_near(depth, skeleton):
            bone = points[[skeleton.parents[joint], joint], :2]
            if np.isfinite(bone).all() and strengths[joint] > 0:
                segments.append(bone)
                colours.append(colour or side(skeleton.joints[joint]))
                opacities.append(float(strengths[joint]))
    if not segments:
        return  # matplotlib takes no empty list of opacities
    lines = require("matplotlib.collections").LineCollection
    look: dict[str, Any] = {"capstyle": "round", "zorder": order}
    if halo:
        axes.add_collection(lines(segments, colors="white", linewidths=width + 2 * halo, alpha=0.55, **look))
    axes.add_collection(lines(segments, colors=colours, linewidths=width, alpha=opacities, **look))
    if head and "head" in skeleton.joints:
        heads = poses[:, skeleton.index("head")]
        axes.scatter(heads[:, 0], heads[:, 1], s=head, color=colour or MIDDLE, linewidths=0, zorder=order + 1)


def bare(axes: "Axes") -> None:
    """Take away ticks, grid and frame."""
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def sides(*more: Any, names: Sequence[str] = ("left", "right")) -> list[Any]:
    """Handles of a legend for the two sides, and more of them."""
    line = require("matplotlib.lines").Line2D
    return [*(line([], [], color=c, lw=3, label=name) for c, name in zip((LEFT, RIGHT), names, strict=True)), *more]


# -- rows of poses ----------------------------------------------------------------------------------------------------


def strips(examples: Sequence[Example], skeleton: Skeleton, fps: float, *, poses: int = 8) -> "Figure":
    """One row for each caption and motion: poses evenly over time, side by side, from one fixed camera."""
    examples = [example.finite for example in examples]
    top = highest(examples)
    row = 0.7 * (top + 0.25)  # 0.7 inches for a metre
    height = row * sum(len(example.motions) for example in examples) + 0.42 * len(examples) + 0.5
    with styled():
        figure = new_figure(WIDTH, height)
        place = (0.99, 1 - 0.05 / height)
        figure.legend(handles=sides(), loc="upper right", ncols=2, bbox_to_anchor=place, borderaxespad=0)
        edge = height - 0.45
        for example in examples:
            edge -= 0.42
            longest = max(len(motion) for motion in example.motions.values())
            title = textwrap.shorten(example.caption, 105)
            figure.text(0.012, (edge + 0.12) / height, f"“{title}”  {longest / fps:.1f} s", size=11, weight="bold")
            for name, motion in example.motions.items():
                edge -= row
                axes = figure.add_axes((0.0, edge / height, 1.0, row / height))
                _draw_strip(axes, motion, skeleton, name, poses, (WIDTH / 0.7, top))
    return figure


def highest(examples: Sequence[Example]) -> float:
    """Height of a row, metres: nearly everything in view, within reason."""
    heights = [np.percentile(motion[..., 1], 99.9) for e in examples for motion in e.motions.values()]
    return float(np.clip(max(heights, default=1.9) + 0.1, 1.8, 2.8))


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
    found = seen(in_place(chosen), azimuth=-0.65, elevation=0.06)
    found[..., 0] += label + step * (np.arange(poses)[:, None] + 0.5)
    draw_poses(axes, found, skeleton, head=34)


# -- animations -------------------------------------------------------------------------------------------------------


def animation(path: str, example: Example, skeleton: Skeleton, *, fps: float = 20.0) -> None:
    """Motions of one caption side by side in 3D, a panel each: a .gif, or an .mp4 with the `video` extra.

    The camera keeps its direction and follows each person; the grid, of half a metre, shows how far they go.
    """
    example = example.finite
    if path.endswith(".mp4"):
        require("imageio_ffmpeg", "video")
        writer = require("imageio.v2", "video")
    image = require("PIL.Image")
    with styled():
        pictures = _frames(example, skeleton, fps)
    if path.endswith(".mp4"):
        try:
            writer.mimwrite(path, pictures, fps=fps, macro_block_size=2)
        except OSError as error:  # a broken pipe: ffmpeg's own words come after it
            raise StorageError(f"{path}: ffmpeg cannot write it ({error}). Make room, or name another file.") from error
        return
    palette = _palette()
    frames = [image.fromarray(picture).quantize(palette=palette, dither=0) for picture in pictures]
    held = [round(1000 / fps)] * (len(frames) - 1) + [700]
    content = io.BytesIO()
    frames[0].save(content, format="GIF", save_all=True, append_images=frames[1:], duration=held, loop=0, disposal=1)
    files.write_bytes(path, content.getvalue())


def _palette() -> Any:
    """An image with every colour that is drawn and its blends with the paper."""
    shades = [PAPER, SHADOW, *GRID]
    for colour in (INK, QUIET, LEFT, RIGHT, MIDDLE):
        full = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)])
        shades += ["#{:02x}{:02x}{:02x}".format(*(255 - (255 - full) * part // 5)) for part in (1, 2, 3, 4, 5)]
    image = require("PIL.Image").new("P", (1, 1))
    image.putpalette([int(shade[at : at + 2], 16) for shade in shades for at in (1, 3, 5)])
    return image


def followed(motion: Array) -> Array:
    """Where the camera looks on the floor, [T, 3]: the root's way, made smooth."""
    sigma, frames = 8.0, np.arange(len(motion))
    weights = np.exp(-0.5 * ((frames[:, None] - frames) / sigma) ** 2)
    return (weights / weights.sum(1, keepdims=True)) @ (motion[:, 0] * np.array((1, 0, 1)))


def _frames(example: Example, skeleton: Skeleton, fps: float) -> list[NDArray[np.uint8]]:
    """The pictures [height, width, 3] of an animation."""
    moves = example.motions
    unit = max(200, min(PANEL, 1200 // max(len(moves), 1)))
    width, height = unit * len(moves), unit + unit // 4 + unit // 9
    figure = require("matplotlib.figure").Figure(figsize=(width / 100, height / 100), dpi=100)
    canvas = require("matplotlib.backends.backend_agg").FigureCanvasAgg(figure)
    clock = _write_around(figure, example, unit)
    metres, panels = highest([example]) + 0.5, []
    for number, motion in enumerate(moves.values()):
        axes = figure.add_axes((number / len(moves), (unit // 9) / height, 1 / len(moves), unit / height))
        axes.set(xlim=(-0.5 * metres, 0.5 * metres), ylim=(-0.5 * metres, 0.5 * metres))
        axes.axis("off")
        panels.append((axes, motion, followed(motion)))
    canvas.draw()
    still, found = canvas.copy_from_bbox(figure.bbox), []
    for frame in range(max(len(motion) for motion in moves.values())):
        canvas.restore_region(still)
        for axes, motion, track in panels:
            at = min(frame, len(motion) - 1)
            _draw_person(axes, motion[at], track[at], skeleton, metres, unit)
            for artist in sorted(axes.collections, key=lambda artist: artist.get_zorder()):
                figure.draw_artist(artist)
                artist.remove()
        clock.set_text(f"{frame / fps:.1f} s")
        figure.draw_artist(clock)
        found.append(np.asarray(canvas.buffer_rgba())[..., :3].copy())
    return found


def _write_around(figure: "Figure", example: Example, unit: int) -> Any:
    """Caption, names, edges of panels and the legend of sides. -> the text of the time"""
    count, high = len(example.motions), unit + unit // 4 + unit // 9
    caption = textwrap.shorten(f"“{example.caption}”", 32 * count, placeholder="…”")
    size = unit * 0.048  # points of a fifteenth of the panel
    centred: dict[str, Any] = {"ha": "center", "va": "center"}
    figure.text(0.5, 1 - 0.3 * (unit // 4) / high, caption, size=size if len(caption) < 24 * count else 0.75 * size,
                **centred)  # fmt: skip
    line = require("matplotlib.lines").Line2D
    for number, name in enumerate(example.motions):
        shown = textwrap.shorten(name, 30, placeholder="…")
        figure.text((number + 0.5) / count, 1 - 0.82 * (unit // 4) / high, shown, weight="bold",
                    size=(0.88 if len(shown) < 24 else 0.66) * size, **centred)  # fmt: skip
        if number:
            ends = [(unit // 9) / high, 1 - 0.16 * unit / high]
            figure.add_artist(line([number / count] * 2, ends, color=RULE, lw=0.8))
    place = (1 - 0.01 / count, 0.055 * unit / high)
    small = {"size": 0.75 * size}
    figure.legend(handles=sides(), loc="center right", ncols=2, bbox_to_anchor=place, borderaxespad=0, prop=small,
                  labelcolor=QUIET, borderpad=0)  # fmt: skip
    return figure.text(0.1 / count, 0.05 * unit / high, "", color=QUIET, size=0.75 * size, **centred)


def _draw_person(axes: "Axes", pose: Array, centre: Array, skeleton: Skeleton, metres: float, unit: int) -> None:
    """Grid, shadow and bones of one pose [J, 3], seen by the camera that is aimed at `centre`."""
    aim = centre + np.array((0, 0.4 * metres, 0))
    lines = require("matplotlib.collections").LineCollection
    starts, ends, shades = _grid(centre)
    grid = np.stack([perspective(points - aim)[:, :2] for points in (starts, ends)], 1)
    axes.add_collection(lines(list(grid), colors=shades, linewidths=0.7, zorder=0))
    shadow = perspective(pose * np.array((1, 0, 1)) - aim)[None]
    draw_poses(axes, shadow, skeleton, colour=SHADOW, width=1.8 * unit / PANEL, order=1)
    body = perspective(pose - aim)[None]
    draw_poses(axes, body, skeleton, width=2.9 * unit / PANEL, head=160 * (unit / PANEL) ** 2)


def perspective(points: Array) -> Array:
    """Points [N, 3] about where the camera is aimed -> right, up, near; metres at the aim's distance.

    What comes too near the camera is kept at a distance.
    """
    found = seen(points, **ANGLES)
    scale = DISTANCE / np.maximum(DISTANCE - found[:, 2:], 0.5)
    return np.concatenate((np.clip(found[:, :2] * scale, -99, 99), found[:, 2:]), 1)


def _grid(centre: Array, step: float = 0.5) -> tuple[Array, Array, list[str]]:
    """Starts and ends [N, 3] and colours of the floor's lines in a circle about `centre`, lighter towards its edge."""
    starts, ends, shades = list[Array](), list[Array](), list[str]()
    for axis, other in ((0, 2), (2, 0)):
        for k in range(math.ceil((centre[axis] - REACH) / step), math.floor((centre[axis] + REACH) / step) + 1):
            offset = k * step - centre[axis]
            half = math.sqrt(max(REACH**2 - offset**2, 0.0))
            for places, way in ((starts, -half), (ends, half)):
                places.append(np.zeros(3))
                places[-1][[axis, other]] = k * step, centre[other] + way
            shades.append(GRID[0] if abs(offset) < 0.6 * REACH else GRID[1])
    return np.array(starts), np.array(ends), shades
