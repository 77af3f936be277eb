"""A picture of one clip over its own video: what the detector saw, the lifted pose as the clip's camera sees it, and
that pose from the side.

Everything is drawn from the clip as it is in the data set, so that a wrong camera, axis or side shows. Needs the `demo`
extra.
"""

import math
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from videomdm_ext.data.clip import Clip
from videomdm_ext.errors import DatasetError
from videomdm_ext.geometry import cameras
from videomdm_ext.motion.features import decode
from videomdm_ext.motion.skeletons import Skeleton
from videomdm_ext.render import figures
from videomdm_ext.render.figures import INK, QUIET, RULE, Array, draw_poses, require

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Picture = NDArray[np.uint8]

MOMENTS = 7
"""Frames that are drawn."""
SHEET, LABELS = 13.0, 1.2
"""Inches of the page, and of the words at its left."""
MARGIN = 0.22
"""Share of the person's largest size around him."""
UNSURE = 0.05
"""Confidence up to which a keypoint is not drawn."""
PAINT = 0.55
"""How far the video is turned to white under the lifted pose."""
WORDS = {
    "keypoints": "what the\ndetector saw",
    "lifted": "lifted pose\nthrough the\nclip's camera",
    "side": "lifted pose\nfrom the side,\nthe camera is\nat the left",
}
"""What the rows show."""
HIGH = 2.0
"""Metres that the side view shows, at least."""


def shown_frames(clip: Clip, count: int = MOMENTS) -> list[int]:
    """Numbers of the frames that a sheet shows, evenly over the clip."""
    return [int(n) for n in np.linspace(0, clip.length - 1, min(count, clip.length)).round()]


def contact_sheet(path: str, clip: Clip, pictures: Iterable[tuple[int, Picture]], *, notes: Sequence[str] = ()) -> None:
    """Draw a clip over its video as a PNG: pairs of a frame's number and its picture [height, width, 3]."""
    shown = list(pictures)
    if not shown or clip.intrinsics is None or clip.image_size is None:
        raise DatasetError(
            f"{clip.label}: expected intrinsics, an image size and pictures of the video to draw it on, found none. "
            "Draw it without: videomdm data show."
        )
    scale = shown[0][1].shape[1] / clip.image_size[0]
    keypoints, lifted, error = _in_pixels(clip)
    side = _from_the_side(clip)
    window = _window(keypoints, clip.confidence, shown) * scale
    column = (SHEET - LABELS - 0.1) / max(len(shown), 4)
    tall = min(column * float((window[0, 3] - window[0, 1]) / (window[0, 2] - window[0, 0])), 4.2)
    title = textwrap.shorten(f"{clip.id}: “{clip.texts[0]}”", 110)
    lines = [line for fact in (_fact(clip, error), *notes) for line in textwrap.wrap(fact, 175)]
    head, below = 0.62 + 0.19 * len(lines), column * 1.25
    height = head + 2 * tall + below + 0.35
    rows = {"keypoints": (height - head - tall, tall), "lifted": (height - head - 2 * tall - 0.08, tall)}
    rows["side"] = (0.3, below)
    with figures.styled():
        figure = figures.new_figure(SHEET, height)
        figure.text(0.1 / SHEET, 1 - 0.28 / height, title, size=12, weight="bold", va="center")
        for number, line in enumerate(lines):
            figure.text(0.1 / SHEET, 1 - (0.55 + 0.19 * number) / height, line, size=8.5, color=QUIET, va="center")
        dot = require("matplotlib.lines").Line2D([], [], color=INK, marker="o", ls="", ms=4, mfc="white")
        dot.set_label("keypoint")
        handles, edge = figures.sides(dot, names=("person's left", "right")), (0.995, 1 - 0.06 / height)
        figure.legend(handles=handles, loc="upper right", ncols=3, bbox_to_anchor=edge, borderaxespad=0)
        for place, (number, picture) in enumerate(shown):
            left, wide = (LABELS + place * column) / SHEET, (column - 0.05) / SHEET
            axes = {name: figure.add_axes((left, y / height, wide, high / height)) for name, (y, high) in rows.items()}
            sure = np.where(clip.confidence[number] > UNSURE, clip.confidence[number], 0.0)
            known = np.where(sure[:, None] > 0, keypoints[number] * scale, np.nan)
            opacity = 0.45 + 0.55 * np.minimum(sure, sure[list(clip.skeleton.parents)])
            _draw_picture(axes["keypoints"], picture, window[place], 0.0)
            draw_poses(axes["keypoints"], known[None], clip.skeleton, opacity=opacity, halo=0.7)
            _draw_picture(axes["lifted"], picture, window[place], PAINT)
            draw_poses(axes["lifted"], lifted[number][None] * scale, clip.skeleton, halo=0.7)
            dots: dict[str, Any] = {"facecolors": "white", "edgecolors": INK, "linewidths": 0.7, "zorder": 4}
            axes["lifted"].scatter(known[:, 0], known[:, 1], s=4 + 12 * sure, **dots)
            _draw_side_view(axes["side"], side[number], clip.skeleton, below / column)
            axes["side"].set_xlabel(f"{number / clip.fps:.2f} s", size=9, labelpad=2)
        for name, (y, high) in rows.items():
            figure.text(0.1 / SHEET, (y + high / 2) / height, WORDS[name], size=9.5, va="center", color=INK)
        figures.save(figure, path)


def _in_pixels(clip: Clip) -> tuple[Array, Array, float]:
    """Keypoints and reprojected teacher [T, J, 2] in pixels, and their median distance (nan where none was seen)."""
    assert clip.intrinsics is not None
    intrinsics = torch.from_numpy(clip.intrinsics).double()
    camera = torch.from_numpy(clip.extrinsics).double()
    positions = decode(torch.from_numpy(clip.teacher).double(), clip.skeleton)
    points, _ = cameras.project(positions, camera if camera.ndim == 3 else camera.unsqueeze(0), nearest=0.05)
    seen, lifted = (
        cameras.to_pixels(p, intrinsics).numpy() for p in (torch.from_numpy(clip.keypoints).double(), points)
    )
    apart = np.linalg.norm(seen - lifted, axis=-1)[clip.confidence > UNSURE]
    return seen, lifted, float(np.median(apart)) if apart.size else math.nan


def _from_the_side(clip: Clip) -> Array:
    """Teacher [T, J, 3] as right, up and near, from the camera's right or left, where more is seen of the person."""
    positions = decode(torch.from_numpy(clip.teacher), clip.skeleton)
    camera = clip.extrinsics if clip.extrinsics.ndim == 2 else clip.extrinsics[len(clip.extrinsics) // 2]
    centre = -camera[:, :3].T @ camera[:, 3]
    middle = positions[:, 0].mean(0).numpy()
    azimuth = math.atan2(centre[0] - middle[0], centre[2] - middle[2]) + math.pi / 2
    return figures.seen(positions.numpy().astype(np.float64), azimuth=azimuth, elevation=0.0)


def _window(keypoints: Array, confidence: Array, shown: Sequence[tuple[int, Picture]]) -> Array:
    """Left, top, right and bottom [N, 4] of the part of each picture that is drawn, all of one size, in pixels."""
    boxes = []
    for number, _ in shown:
        seen = keypoints[number][confidence[number] > UNSURE]
        seen = keypoints[number] if len(seen) < 2 else seen
        boxes.append((*seen.min(0), *seen.max(0)))
    sides = np.array(boxes)
    middle, reach = (sides[:, :2] + sides[:, 2:]) / 2, (sides[:, 2:] - sides[:, :2]).max(0) / 2
    reach = reach + MARGIN * reach.max()
    reach[0] = max(reach[0], 0.55 * reach[1])
    return np.concatenate((middle - reach, middle + reach), 1)


def _fact(clip: Clip, error: float) -> str:
    """The clip, and how far its lifted pose is off, in words."""
    assert clip.intrinsics is not None
    size = clip.image_size or (0, 0)
    field = math.degrees(2 * math.atan(max(size) / 2 / float(clip.intrinsics[0, 0])))
    kind = "a moving camera" if clip.extrinsics.ndim == 3 else "a still camera"
    off = "no joint seen" if math.isnan(error) else f"lifted pose {error:.0f} px from the keypoints (median)"
    return (
        f"{clip.length} frames at {clip.fps:g} fps, {clip.length / clip.fps:.1f} s · mean confidence "
        f"{clip.confidence.mean():.2f} · {off} · {size[0]} x {size[1]} px, {kind}, field of view {field:.0f}°"
    )


def _draw_picture(axes: "Axes", picture: Picture, window: Array, white: float) -> None:
    """The part of a picture in a window; what lies outside of it is grey."""
    left, top, right, bottom = window
    low_x, low_y = max(0, int(left)), max(0, int(top))
    part = picture[low_y : max(low_y + 1, math.ceil(bottom)), low_x : max(low_x + 1, math.ceil(right))]
    step = max(1, part.shape[0] // 700)
    pale = (part[::step, ::step] * (1 - white) + 255 * white).astype(np.uint8)
    edges = (low_x - 0.5, low_x + part.shape[1] - 0.5, low_y + part.shape[0] - 0.5, low_y - 0.5)
    axes.imshow(pale, extent=edges, aspect="auto", interpolation="bilinear")
    axes.set(xlim=(left, right), ylim=(bottom, top))
    axes.set_facecolor("#bbbbbb")
    figures.bare(axes)


def _draw_side_view(axes: "Axes", pose: Array, skeleton: Skeleton, ratio: float) -> None:
    """A pose [J, 3] (right, up, near) with the floor at height 0."""
    high = max(HIGH, float(pose[:, 1].max()) + 0.15)
    low = min(-0.15, float(pose[:, 1].min()) - 0.05)
    half = (high - low) / ratio / 2
    middle = float(pose[:, 0].mean())
    axes.plot((middle - half, middle + half), (0, 0), color=QUIET, lw=1.0, zorder=0)
    axes.axhspan(low, 0, color=RULE, alpha=0.5, zorder=0)
    draw_poses(axes, pose[None], skeleton, width=2.2, head=30)
    axes.set(xlim=(middle - half, middle + half), ylim=(low, high))
    figures.bare(axes)
