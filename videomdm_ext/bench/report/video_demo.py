"""The report of the demo on real videos: a table a view, and a picture of what each source says about depth."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from videomdm_ext.bench.report.document import Table, markdown_block
from videomdm_ext.data import files
from videomdm_ext.data.folder import Card
from videomdm_ext.geometry.triangulation import NEAR
from videomdm_ext.motion.skeletons import SMPL22
from videomdm_ext.render import figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMES = {
    "lifted": "lifted (one view)",
    "refined": "refined on its rays",
    "arm lifted": "3D-trained on lifted",
    "arm 2d": "2D-supervised",
}
COLOURS = {"truth": "#9a9a9a", "lifted": "#d55e00", "arm 2d": "#0072b2"}
LOOKS = {"truth": (4.5, 1), "lifted": (1.8, 2), "arm 2d": (1.8, 3)}
MOMENTS = 6
TEXT = """# Depth from one view, judged by four

{clips} clips were made from {videos} videos, each from one video by itself, and two denoisers trained on them for
{steps} steps. The true motion is triangulated from the keypoints of all calibrated views, which no training saw, and
judges the {judged} clips of these views: {truth}.
It is itself as good as the detector.

{table}

PA-MPJPE: after the best similarity of each frame. Root-aligned: the pelvis moved onto the true one. Depth: the part of
it along the view. The last rows are means weighted by frames. The denoisers say what the clips are that they were
trained on, noised a little. A few clips and a short training show that the way works from video to model; they do not
rank methods.

![depth](depth.png)

Up is the camera's up, and these cameras are tilted.

## The videos

{told}

`keypoints_that_agree_percent`: the share of the true joints that a view's own keypoints show within {near:.0f} % of
their distance. Where it is low, keypoints of that view are wrong, left and right confused perhaps, and so is its clip.
"""


@dataclass(frozen=True)
class Row:
    """Errors of one source on one clip against all views, millimetres; `depth` is along the view, root-aligned."""

    view: str
    clip: str
    source: str
    frames: int
    pa_mpjpe: float
    root_aligned_mpjpe: float
    depth: float


def means(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Means over the views of each source's figures, weighted by frames."""
    found = {}
    for source in dict.fromkeys(row.source for row in rows):
        own = [row for row in rows if row.source == source and row.frames]
        total = max(sum(row.frames for row in own), 1)
        keys = ("pa_mpjpe", "root_aligned_mpjpe", "depth")
        found[source] = {key: sum(getattr(row, key) * row.frames for row in own) / total for key in keys}
    return found


def table(rows: Sequence[Row]) -> Table:
    """A line a clip and source, and the means."""
    lines = []
    for row in rows:
        cells = [f"{value:.0f}" for value in (row.pa_mpjpe, row.root_aligned_mpjpe, row.depth)]
        lines.append([row.clip, NAMES.get(row.source, row.source), str(row.frames), *cells])
    for source, mean in means(rows).items():
        cells = [f"**{mean[key]:.0f}**" for key in ("pa_mpjpe", "root_aligned_mpjpe", "depth")]
        lines.append(["**all**", f"**{NAMES.get(source, source)}**", "", *cells])
    return Table(["view", "motion", "frames", "PA-MPJPE, mm", "root-aligned, mm", "depth, mm"], lines, ("motion",))


@dataclass(frozen=True)
class About:
    """What the report tells beside the errors: steps of each training, the clips' card, the true motion's quality in
    words, and what is known of each video, by name."""

    steps: int
    card: Card
    truth: str
    videos: Mapping[str, Mapping[str, Any]]


def write_report(out: Path, rows: Sequence[Row], shown: Mapping[str, Mapping[str, Tensor]], about: About) -> Path:
    """OUT/report.md, report.json and depth.png. -> the report"""
    if shown:
        figures.save(depth_picture(shown), str(out / "depth.png"))
    text = TEXT.format(
        clips=sum(about.card.counts.values()),
        videos=len(about.videos),
        steps=about.steps,
        judged=len({row.clip for row in rows}),
        truth=about.truth,
        table=markdown_block(table(rows)),
        told="\n".join(f"- {name}: {json.dumps(dict(found))}" for name, found in about.videos.items()),
        near=100 * NEAR,
    )
    files.write_bytes(str(out / "report.md"), text.encode())
    entries: dict[str, Any] = {
        "rows": [dataclasses.asdict(row) for row in rows],
        "means": means(rows),
        "truth": about.truth,
    }
    entries |= {"steps": about.steps, "content": about.card.content_hash, "videos": about.videos}
    files.write_bytes(str(out / "report.json"), (json.dumps(entries, indent=2) + "\n").encode())
    return out / "report.md"


def depth_picture(shown: Mapping[str, Mapping[str, Tensor]]) -> "Figure":
    """A row a clip: poses from the side, the camera at the left; the true motion grey, one view's lifter and the 2D arm
    over it."""
    with figures.styled():
        figure = figures.new_figure(figures.WIDTH, 2.6 * len(shown) + 0.6, layout="constrained")
        axes = figure.subplots(len(shown), MOMENTS, squeeze=False)
        for row, (name, motions) in zip(axes, shown.items(), strict=True):
            for place, frame in zip(row, np.linspace(0, len(motions["truth"]) - 1, MOMENTS).round(), strict=True):
                _draw_moment(place, motions, int(frame))
            row[0].set_ylabel(name, size=11, color=figures.INK)
        line = figures.require("matplotlib.lines").Line2D
        words = {"truth": "all four views", "lifted": NAMES["lifted"], "arm 2d": NAMES["arm 2d"]}
        handles = [line([], [], color=COLOURS[n], lw=LOOKS[n][0], label=text) for n, text in words.items()]
        figure.legend(handles=handles, loc="outside upper center", ncols=3)
        note = "from the side, camera at the left, pelvis aligned"
        figure.text(0.005, 0.995, note, size=9, color=figures.QUIET, va="top")
    return figure


def _draw_moment(axes: "Axes", motions: Mapping[str, Tensor], frame: int) -> None:
    """The true motion where it is known, and the others, with depth to the right and up."""
    known = motions["known"][frame].numpy()
    for name, (width, order) in LOOKS.items():
        if name in motions:
            pose = motions[name][frame].numpy()
            flat = (pose - pose[:1])[:, [2, 1]] * np.array((1.0, -1.0))
            flat = np.where(known[:, None], flat, np.nan) if name == "truth" else flat
            look: dict[str, Any] = {"colour": COLOURS[name], "width": width, "order": order, "opacity": 0.9}
            figures.draw_poses(axes, flat[None], SMPL22, **look)
    axes.set(xlim=(-0.9, 0.9), ylim=(-1.1, 1.1), aspect="equal")
    figures.bare(axes)
