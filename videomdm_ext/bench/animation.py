"""An animation of a report: motions of one caption side by side in 3D, as a .gif or an .mp4.

Needs the `demo` extra, for an .mp4 the `video` extra too; nothing is imported before a picture is made.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from videomdm_ext.bench import drawing
from videomdm_ext.bench.drawing import INK, LEFT, MIDDLE, PAPER, QUIET, RIGHT, RULE, Array, require
from videomdm_ext.bench.results import Example
from videomdm_ext.motion.skeletons import Skeleton

SHADES = ("#d4d4d4", "#cfcfcf", "#e4e4e4")
"""Shadow, and the grid near and far."""
FPS = 20


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
    example = drawing.finite(example)
    moves = example.motions
    tracks = {name: _followed(motion) for name, motion in moves.items()}
    stage = Stage(size=max(200, min(300, 1200 // max(len(moves), 1))), height=drawing.highest([example]) + 0.5)
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
        depth = drawing.seen(points - centre, azimuth=stage.azimuth, elevation=stage.elevation)[:, 2]
        for joint in drawing.far_to_near(depth, skeleton):
            colour = SHADES[0] if shadow else drawing.side(skeleton.joints[joint])
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
    right, up, near = drawing.seen(points - aim, azimuth=stage.azimuth, elevation=stage.elevation).T
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
