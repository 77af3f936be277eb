"""The report of the demo on videos: errors of each view's motions against what all views give, and a picture."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from videomdm_ext.bench.report import templates
from videomdm_ext.bench.report.tables import Table, markdown_block
from videomdm_ext.data import files
from videomdm_ext.data.folder import Card
from videomdm_ext.data.schemas import text_of
from videomdm_ext.geometry.triangulation import NEAR
from videomdm_ext.motion.skeletons import SMPL22
from videomdm_ext.render import figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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


Shown = Mapping[str, Mapping[str, Tensor]]
"""By clip: the truth and each source's motion [T, 22, 3] in camera coordinates, and `known` [T, 22]."""

NAMES = {
    "lifted": "lifted (one view)",
    "refined": "refined on its rays",
    "arm lifted": "3D-trained on lifted",
    "arm 2d": "2D-supervised",
}
LOOKS = {"truth": ("#9a9a9a", 4.5), "lifted": ("#d55e00", 1.8), "arm 2d": ("#0072b2", 1.8)}
"""Colour and width of what the picture shows, from back to front."""
MOMENTS = 6
FIGURES = ("pa_mpjpe", "root_aligned_mpjpe", "depth")


def means(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Means over the views of each source's figures, weighted by frames."""
    found = {}
    for source in dict.fromkeys(row.source for row in rows):
        own = [row for row in rows if row.source == source and row.frames]
        total = max(sum(row.frames for row in own), 1)
        found[source] = {key: sum(getattr(row, key) * row.frames for row in own) / total for key in FIGURES}
    return found


def table(rows: Sequence[Row]) -> Table:
    """A line a clip and source, and the means."""
    lines = []
    for row in rows:
        cells = [f"{getattr(row, key):.0f}" for key in FIGURES]
        lines.append([row.clip, NAMES.get(row.source, row.source), str(row.frames), *cells])
    for source, mean in means(rows).items():
        lines.append(["**all**", f"**{NAMES.get(source, source)}**", "", *(f"**{mean[key]:.0f}**" for key in FIGURES)])
    return Table(["view", "motion", "frames", "PA-MPJPE, mm", "root-aligned, mm", "depth, mm"], lines, ("motion",))


def write_report(
    out: Path, rows: Sequence[Row], shown: Shown, *, steps: int, card: Card, truth: str, videos: Mapping[str, Any]
) -> Path:
    """OUT/report.md, report.json and depth.png, with the true motion's quality in words and what is known of each
    video, by name. -> the report"""
    if shown:
        figures.save(depth_picture(shown), str(out / "depth.png"))
    text = templates().get_template("video_demo.md").render(
        clips=sum(card.counts.values()), steps=steps, judged=len({row.clip for row in rows}), truth=truth,
        table=markdown_block(table(rows)), videos={name: json.dumps(dict(found)) for name, found in videos.items()},
        near=f"{100 * NEAR:.0f}",
    )  # fmt: skip
    files.write_bytes(str(out / "report.md"), text.encode())
    entries = {"rows": [dataclasses.asdict(row) for row in rows], "means": means(rows), "truth": truth, "steps": steps}
    content = text_of(entries | {"content": card.content_hash, "videos": videos}, indent=2) + "\n"
    files.write_bytes(str(out / "report.json"), content.encode())
    return out / "report.md"


def depth_picture(shown: Shown) -> "Figure":
    """A row a clip: poses from the side, the camera at the left; the true motion grey, one view's lifter and the 2D arm
    over it."""
    with figures.styled():
        figure = figures.new_figure(figures.WIDTH, 2.6 * len(shown) + 0.6, layout="constrained")
        axes = figure.subplots(len(shown), MOMENTS, squeeze=False)
        for row, (name, motions) in zip(axes, shown.items(), strict=True):
            known = motions["known"].numpy()
            for place, frame in zip(row, np.linspace(0, len(known) - 1, MOMENTS).round().astype(int), strict=True):
                for order, (source, (colour, width)) in enumerate(LOOKS.items(), 1):
                    if source not in motions:
                        continue
                    pose = motions[source][frame].numpy()
                    flat = (pose - pose[:1])[:, [2, 1]] * np.array((1.0, -1.0))  # depth to the right, and up
                    flat = np.where(known[frame, :, None], flat, np.nan) if source == "truth" else flat
                    look: dict[str, Any] = {"colour": colour, "width": width, "order": order, "opacity": 0.9}
                    figures.draw_poses(place, flat[None], SMPL22, **look)
                place.set(xlim=(-0.9, 0.9), ylim=(-1.1, 1.1), aspect="equal")
                figures.bare(place)
            row[0].set_ylabel(name, size=11, color=figures.INK)
        line = figures.require("matplotlib.lines").Line2D
        words = {"truth": "all four views", **NAMES}
        handles = [line([], [], color=colour, lw=width, label=words[n]) for n, (colour, width) in LOOKS.items()]
        figure.legend(handles=handles, loc="outside upper center", ncols=3)
        note = "from the side, camera at the left, pelvis aligned"
        figure.text(0.005, 0.995, note, size=9, color=figures.QUIET, va="top")
    return figure
