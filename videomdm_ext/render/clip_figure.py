"""A picture of one clip by itself: what the camera saw, what the motions make of it, and what the check found.

Everything is drawn from the clip as it is in the data set, so that a wrong camera, axis or side shows. `view_clip`
reads what can be read, also of a damaged clip, for `clip_figure` to draw. Needs the `demo` extra.
"""

import contextlib
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from videomdm_ext.data.checks.checking import examine_clip
from videomdm_ext.data.checks.motion import project
from videomdm_ext.data.checks.rules import ERROR, KINDS, Finding
from videomdm_ext.data.folder import SPLITS, Card, read_card, read_ids
from videomdm_ext.errors import DatasetError, counted
from videomdm_ext.motion.features import decode
from videomdm_ext.motion.skeletons import Skeleton, by_name
from videomdm_ext.render import figures
from videomdm_ext.render.figures import INK, LEFT, QUIET, RIGHT, RULE, WIDTH, Array, draw_poses, require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Place = tuple[float, float]
"""Bottom and height of a row, as shares of the page."""
GOOD, WARNED, WRONG = "#1b7837", "#b35806", "#b2182b"
COLOURS = {"keypoints": INK, "teacher": "#d01c8b", "truth": "#1b9e4b"}
NAMES = {"keypoints": "keypoints (2D detector)", "teacher": "teacher (lifted)", "truth": "truth (measured)"}
LOOKS = {"truth": (5.0, 2, 0.45), "teacher": (2.2, 3, 0.9), "keypoints": (1.0, 4, 1.0)}
"""Width, order and opacity of a figure in the image."""
FRAMES = 6
"""Moments that are drawn."""
TOLD = 3
"""Findings that are written out."""
NARROW = 0.62
"""Width of an image's panel, as a share of its height."""
GAP = 0.5
"""Inches above a row."""
ENDS = ("l_wrist", "l_ankle")
"""Joints with a large dot, which tells left from right."""
CAMERAS = {"teacher": "extrinsics", "truth": "truth_extrinsics"}
FARTHEST = 1e6
"""Numbers beyond this are not drawn."""


@dataclass(frozen=True)
class ClipView:
    """What there is to draw: keypoints [T, J, 2], confidence [T, J], of each motion its positions [T, J, 3] and image
    points [T, J, 2], and the teacher's extrinsics; None, or left out, where it could not be read."""

    clip_id: str
    split: str
    card: Card
    texts: tuple[str, ...]
    findings: Sequence[Finding]
    keypoints: Array | None
    confidence: Array | None
    positions: Mapping[str, Array]
    projected: Mapping[str, Array]
    extrinsics: Array | None

    @property
    def skeleton(self) -> Skeleton:
        return by_name(self.card.skeleton)

    @property
    def length(self) -> int:
        """Frames of the longest part."""
        parts = [self.keypoints, self.confidence, *self.positions.values()]
        return max((len(part) for part in parts if part is not None), default=0)

    @property
    def title(self) -> str:
        """The clip in a line."""
        seconds = self.length / self.card.fps
        return f"{self.clip_id}, {self.split}, {self.length} frames, {seconds:.1f} s"


def view_clip(path: str, clip_id: str) -> ClipView:
    """Read what can be read of a clip; DatasetError where there is nothing of it."""
    card = read_card(path)
    sight, splits = examine_clip(path, card, clip_id), dict[str, str]()
    for split in SPLITS:
        with contextlib.suppress(DatasetError):  # an unreadable list has no ids
            splits |= {one: split for one in read_ids(path, split) if one not in splits}
    if not sight.arrays and not sight.texts:
        raise DatasetError(
            f"{path}: expected a clip {clip_id!r} with files that can be read, found none. "
            f"{sight.findings[0].message if sight.findings else ''}. Ids there: {', '.join(list(splits)[:3])} ..."
        )
    skeleton, arrays = by_name(card.skeleton), sight.arrays
    confidence = _shaped(arrays.get("confidence"), (skeleton.num_joints,))
    points = _shaped(arrays.get("points"), (skeleton.num_joints, 2))
    if points is not None and confidence is not None and confidence.shape == points.shape[:-1]:
        points = np.where((confidence > 0)[..., None], points, np.nan)
    positions, projected = dict[str, Array](), dict[str, Array]()
    for name, camera in CAMERAS.items():
        features, extrinsics = arrays.get(name), arrays.get(camera)
        if features is None or features.shape[1:] != (skeleton.num_features,) or not len(features):
            continue
        positions[name] = moved = _drawable(decode(torch.from_numpy(features.astype(np.float64)), skeleton).numpy())
        if extrinsics is not None and extrinsics.shape in ((3, 4), (len(moved), 3, 4)):
            depth, image = project(moved.astype(np.float64), extrinsics)
            projected[name] = _drawable(np.where((depth > 0)[..., None], image, np.nan))
    return ClipView(
        clip_id=clip_id, split=splits.get(clip_id, "in no split"), card=card, texts=sight.texts or (),
        findings=sight.findings, keypoints=points, confidence=confidence, positions=positions, projected=projected,
        extrinsics=arrays.get("extrinsics"),
    )  # fmt: skip


def _shaped(values: Array | None, shape: tuple[int, ...]) -> Array | None:
    """The values as numbers that can be drawn, if each frame of them has this shape."""
    return None if values is None or values.shape[1:] != shape or not len(values) else _drawable(values)


def _drawable(values: Array) -> Array:
    """In float64, NaN where a number is infinite or absurd."""
    made = values.astype(np.float64)
    with np.errstate(invalid="ignore"):
        return np.where(np.abs(made) < FARTHEST, made, np.nan)


def has(values: Array | None) -> bool:
    return values is not None and bool(np.isfinite(values).any())


def extent(points: Array) -> tuple[Array, Array]:
    """Lowest and highest image point [T, 2] of each frame; one in which nothing was seen is at the image's middle."""
    empty: NDArray[np.bool_] = ~np.asarray(np.isfinite(points).any(axis=(1, 2)))
    known = np.where(np.expand_dims(empty, (1, 2)), 0.0, points)
    return np.nanmin(known, 1), np.nanmax(known, 1)


def size_of(points: Array) -> float:
    """The median diagonal of the person over the frames."""
    low, high = extent(points)
    return max(float(np.median(np.linalg.norm(high - low, axis=-1))), 1e-9)


def misfit(points: Array, keypoints: Array | None) -> Array | None:
    """Median distance from the keypoints in each frame, as a share of the person. [T]"""
    if keypoints is None or not has(keypoints):
        return None
    frames = min(len(points), len(keypoints))
    apart = np.linalg.norm(points[:frames] - keypoints[:frames], axis=-1)
    apart = np.where(np.isfinite(apart), apart, np.inf)
    middle = np.median(apart, axis=1) / size_of(keypoints)
    return np.where(np.isfinite(middle), middle, np.nan)


def camera_facts(view: ClipView) -> list[str]:
    """The camera in words: where it stands about the person at the first frame, and whether it moves."""
    camera = view.extrinsics
    if camera is None or camera.shape[-2:] != (3, 4) or camera.ndim not in (2, 3) or not np.isfinite(camera).all():
        return ["none that can be read"]
    matrices = camera.reshape(-1, 3, 4).astype(np.float64)
    centres = -np.einsum("tij,ti->tj", matrices[..., :3], matrices[..., 3])
    moving = "still" if len(matrices) == 1 else f"moving, {np.linalg.norm(np.ptp(centres, axis=0)):.1f} m of way"
    x, y, z = centres[0]
    azimuth, distance = math.degrees(math.atan2(x, z)), math.hypot(x, z)
    side = "left of" if x > 0 else "right of"
    side = "in front of" if abs(azimuth) < 30 else "behind" if abs(azimuth) > 150 else side
    right, down, ahead = matrices[0, :, :3]
    pitch = math.degrees(math.asin(max(-1.0, min(1.0, -ahead[1]))))
    roll = math.degrees(math.atan2(right[1], -down[1]))
    return [
        f"{moving}; {distance:.1f} m from the person's start, {y:.1f} m high",
        f"stands {side} the person, at {azimuth:.0f}°",
        f"looks {abs(pitch):.0f}° {'down' if pitch > 0 else 'up'}, turned by {roll:.0f}° about its axis",
    ]


def clip_figure(path: str, view: ClipView) -> None:
    """Write the picture, a PNG 12 inches wide."""
    texts = "   ".join(f"“{text}”" for text in view.texts) or "no caption could be read"
    caption = textwrap.wrap(textwrap.shorten(texts, 330), 125)
    rows = [2.9, *[1.7] * max(1, len(view.positions)), 3.1]
    edge = sum(rows) + GAP * len(rows) + 0.45
    height = edge + 0.85 + 0.18 * len(caption)
    places: list[Place] = []
    for row in rows:
        edge -= row + GAP
        places.append((edge / height, row / height))
    moments = np.linspace(0, max(view.length - 1, 0), FRAMES).round().astype(int)
    with figures.styled():
        figure = figures.new_figure(WIDTH, height)
        _draw_head(figure, view, caption, height)
        _draw_images(figure, view, moments, places[0])
        for name, place in zip(view.positions, places[1:-1], strict=False):
            _draw_motion(figure, view, name, moments, place)
        if not view.positions:
            _say(figure, (0.0, places[1][0], 1.0, places[1][1]), "Neither the teacher nor a truth could be decoded.")
        _draw_foot(figure, view, places[-1])
        figures.save(figure, path)


def _heading(figure: "Figure", place: Place, text: str, colour: str = INK, lift: float = 0.1) -> None:
    """A row's heading, so many inches above it."""
    edge = place[0] + place[1] + lift / figure.get_figheight()
    figure.text(0.02, edge, text, weight="bold", size=10.5, color=colour)


def _say(figure: "Figure", box: tuple[float, float, float, float], message: str) -> None:
    """What is not there, in the middle of its place."""
    middle = (box[0] + box[2] / 2, box[1] + box[3] / 2)
    figure.text(*middle, message, ha="center", va="center", color=WRONG, size=12)


def _draw_head(figure: "Figure", view: ClipView, caption: Sequence[str], height: float) -> None:
    errors = sum(item.level == ERROR for item in view.findings)
    state = f"{counted(errors, 'error')}, {counted(len(view.findings) - errors, 'warning')}"
    shown: dict[str, Any] = {"size": 12, "color": WRONG if errors else WARNED if view.findings else GOOD}
    figure.text(0.02, 1 - 0.3 / height, view.title, size=14, weight="bold")
    said = state if view.findings else "nothing found wrong"
    figure.text(0.98, 1 - 0.3 / height, said, weight="bold", ha="right", **shown)
    figure.text(0.02, 1 - 0.42 / height, "\n".join(caption), size=10, va="top")
    line = require("matplotlib.lines").Line2D
    present = [name for name in COLOURS if name in view.positions or (name == "keypoints" and has(view.keypoints))]
    handles = [line([], [], color=COLOURS[name], lw=2.5, label=NAMES[name]) for name in present]
    handles.append(line([], [], color=QUIET, marker="o", ms=6, lw=0, label="left wrist and ankle"))
    place = (0.02, 1 - (0.55 + 0.18 * len(caption)) / height)
    figure.legend(handles=handles, loc="upper left", ncols=4, bbox_to_anchor=place, borderaxespad=0, borderpad=0)


def _draw_images(figure: "Figure", view: ClipView, moments: Array, place: Place) -> None:
    """The image plane at a few moments, all at the same scale, each about the person: the first layer in full, the
    others if they are near."""
    layers = ({"keypoints": view.keypoints} if view.keypoints is not None else {}) | dict(view.projected)
    _heading(figure, place, "In the image: u to the right, v down, on the plane one metre away", lift=0.27)
    first = next((layer for layer in layers.values() if has(layer)), None)
    if first is None:
        _say(figure, (0.0, place[0], 1.0, place[1]), "No keypoints, and no motion with its camera, could be read.")
        return
    low, high = extent(first)
    size, chosen = max(size_of(first), 1e-3), np.minimum(moments, len(first) - 1)
    centres = (low[chosen] + high[chosen]) / 2
    half, width = 0.6 * size, 0.96 / len(moments)
    for layer in layers.values():
        apart = np.abs(layer[np.minimum(moments, len(layer) - 1)] - centres[:, None]) / np.array((NARROW, 1.0))
        apart = apart[np.isfinite(apart)]
        if len(apart):
            half = max(half, min(1.1 * float(np.quantile(apart, 0.995)), 1.6 * size))
    for column, moment in enumerate(moments):
        axes = figure.add_axes((0.02 + column * width + 0.004, place[0], width - 0.008, place[1]))
        _draw_image(axes, view, layers, int(moment), centres[column], half)


def _draw_image(
    axes: "Axes", view: ClipView, layers: Mapping[str, Array], moment: int, centre: Array, half: float
) -> None:
    """What was seen and what the motions project to at a moment; what lies outside is said."""
    outside, ends = [], [view.skeleton.index(joint) for joint in ENDS if joint in view.skeleton.joints]
    for name, layer in layers.items():
        if moment >= len(layer):
            outside.append(f"{name}: ended")
            continue
        points, colour = layer[moment], COLOURS[name]
        width, order, alpha = LOOKS[name]
        draw_poses(axes, points[None], view.skeleton, colour=colour, width=width, opacity=alpha, order=order)
        dots: dict[str, Any] = {"s": 18 + 9 * width, "color": colour, "linewidths": 0, "zorder": order, "alpha": alpha}
        axes.scatter(points[ends, 0], points[ends, 1], **dots)
        inside = np.asarray(np.abs(points - centre) < half).all(-1)
        if not np.isfinite(points).any():
            outside.append(f"{name}: {'not seen' if name == 'keypoints' else 'behind the camera'}")
        elif not inside.any():
            outside.append(f"{name}: outside, at\n({np.nanmean(points[:, 0]):.1f}, {np.nanmean(points[:, 1]):.1f})")
    box = axes.get_window_extent()
    wide = half * box.width / box.height
    axes.set(xlim=(centre[0] - wide, centre[0] + wide), ylim=(centre[1] + half, centre[1] - half))
    axes.set_title(f"{moment / view.card.fps:.2f} s", size=9, weight="normal")
    axes.locator_params(nbins=3)
    axes.tick_params(labelsize=6.5, length=0, pad=1)
    for spine in axes.spines.values():
        spine.set(visible=True, color=RULE)
    axes.text(0.04, 0.03, "\n".join(outside), transform=axes.transAxes, size=7, color=WRONG, va="bottom")


def _draw_motion(figure: "Figure", view: ClipView, name: str, moments: Array, place: Place) -> None:
    """Poses of a motion from the person's right at the start, side by side on the floor, with metres at the left."""
    bottom, height = place
    title = f"{name.capitalize()} in 3D, seen from the person's right: starts facing right, stands on the floor"
    _heading(figure, place, title, COLOURS[name])
    for at, side, colour in ((0.9, "left", LEFT), (0.94, "right", RIGHT)):
        edge = bottom + height + 0.1 / figure.get_figheight()
        figure.text(at, edge, side, color=colour, weight="bold", size=10)
    axes = figure.add_axes((0.055, bottom, 0.925, height))
    motion = view.positions[name]
    aside = figures.in_place(motion[np.minimum(moments, len(motion) - 1)])
    seen = figures.seen(aside, azimuth=-math.pi / 2, elevation=0.0)
    values = seen[..., 1][np.isfinite(seen[..., 1])]
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    low, high = min(low, 0.0), max(high, 0.0, low + 0.5)
    span = max(1.12 * (high - low), 1.9 if high - low < 4 else 0.0)
    wide = span * (0.925 * WIDTH) / (height * figure.get_figheight())
    columns = wide * (np.arange(len(seen))[:, None] + 0.5) / len(seen)
    draw_poses(axes, seen + columns[..., None] * np.array((1, 0, 0)), view.skeleton, head=26)
    middle = (low + high) / 2
    axes.axhline(0, color=QUIET, lw=1.2, zorder=0)
    axes.set(xlim=(0, wide), ylim=(middle - span / 2, middle + span / 2), xticks=[], ylabel="height, m")
    axes.spines["bottom"].set_visible(False)
    axes.locator_params(axis="y", nbins=5)


def _draw_foot(figure: "Figure", view: ClipView, place: Place) -> None:
    """Confidence by joint and time, the misfit over time, and in words the camera and the findings."""
    bottom, height = place
    _draw_confidence(figure, view, (0.075, bottom, 0.24, height))
    _draw_misfit(figure, view, (0.385, bottom, 0.195, height))
    lines = [("Camera", INK, "bold"), *((line, INK, "normal") for line in camera_facts(view))]
    lines.append(("What the check found", INK, "bold"))
    if not view.findings:
        lines.append(("nothing", GOOD, "normal"))
    for item in view.findings[:TOLD]:
        colour = WRONG if item.level == ERROR else WARNED
        lines.append((f"{item.level} {item.kind}: {KINDS[item.kind].title}", colour, "bold"))
        lines.append((textwrap.shorten(item.message, 170), colour, "normal"))
        lines.append((item.advice, INK, "normal"))
    if len(view.findings) > TOLD:
        lines.append((f"and {len(view.findings) - TOLD} more: videomdm data check", QUIET, "normal"))
    top, step = bottom + height + 0.16 / figure.get_figheight(), 0.155 / figure.get_figheight()
    for text, colour, weight in lines:
        for line in textwrap.wrap(text, 66):
            top -= step
            figure.text(0.615, top, line, size=8.5, color=colour, weight=weight)
        top -= 0.3 * step


def _draw_confidence(figure: "Figure", view: ClipView, box: tuple[float, float, float, float]) -> None:
    axes = figure.add_axes(box)
    axes.set_title("Confidence of the detector")
    if view.confidence is None:
        axes.set(xticks=[], yticks=[])
        _say(figure, box, "none")
        return
    seconds = len(view.confidence) / view.card.fps
    ends = (0, seconds, view.skeleton.num_joints - 0.5, -0.5)
    picture = axes.imshow(view.confidence.T, aspect="auto", vmin=0, vmax=1, cmap="viridis", extent=ends)
    axes.set_yticks(range(view.skeleton.num_joints), view.skeleton.joints)
    axes.tick_params(axis="y", labelsize=6.5, length=0)
    axes.set_xlabel("seconds", size=8, labelpad=1)
    axes.grid(False)
    bar = figure.colorbar(picture, cax=figure.add_axes((box[0] + box[2] + 0.005, box[1], 0.008, box[3])))
    bar.ax.tick_params(labelsize=7)


def _draw_misfit(figure: "Figure", view: ClipView, box: tuple[float, float, float, float]) -> None:
    axes = figure.add_axes(box)
    axes.set_title("Off the keypoints, % of person")
    found = {name: misfit(points, view.keypoints) for name, points in view.projected.items()}
    drawn = {name: apart for name, apart in found.items() if apart is not None and np.isfinite(apart).any()}
    if not drawn:
        axes.set(xticks=[], yticks=[])
        _say(figure, box, "none")
        return
    for name, apart in drawn.items():
        axes.plot(np.arange(len(apart)) / view.card.fps, 100 * apart, color=COLOURS[name], lw=1.8, label=name)
    axes.set_ylim(0, min(max(10.0, 1.2 * axes.get_ylim()[1]), 300.0))
    axes.set_xlabel("seconds", size=8, labelpad=1)
    axes.legend(fontsize=8, loc="upper right")
