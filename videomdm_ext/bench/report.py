"""The report of a comparison: report.md, report.html, table.tex, metrics.json and the pictures."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videomdm_ext.bench import pictures
from videomdm_ext.bench.document import Section, plain, unmarked
from videomdm_ext.bench.document import markdown as written
from videomdm_ext.bench.facts import Facts
from videomdm_ext.bench.metrics import by_name
from videomdm_ext.bench.pictures import Panel
from videomdm_ext.bench.reference_rows import ReferenceRows
from videomdm_ext.bench.report_html import page
from videomdm_ext.bench.report_json import to_json
from videomdm_ext.bench.report_tex import latex
from videomdm_ext.bench.results import Arm, Curve, Results
from videomdm_ext.bench.score_tables import score_table, seeds_text
from videomdm_ext.bench.sections import sections
from videomdm_ext.bench.statistics import mean_interval
from videomdm_ext.bench.verdict import headline, verdict
from videomdm_ext.data.files import check_writable, write_bytes
from videomdm_ext.motion.skeletons import by_name as skeleton_by_name
from videomdm_ext.render import figures

if TYPE_CHECKING:
    from rich.table import Table

BEFORE_PICTURES = "Cost"
"""The pictures of report.md stand before this section."""
CURVES = 9
"""Metrics whose curves progress.png shows."""


def terminal_table(results: Results) -> "Table":
    """The table of scores for a terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    scores, arms = score_table(results), len(results.arms)
    head = [*scores.head[: arms + 2], "halves", "teacher"]
    style: dict[str, Any] = {"title_style": "bold", "box": SIMPLE_HEAD, "pad_edge": False, "collapse_padding": True}
    table = Table(title=results.title, caption=f"{seeds_text(results)} Dim: may not rank.", **style)
    table.add_column(head[0], min_width=12, overflow="fold")
    for column, name in enumerate(head[1:]):
        table.add_column(name, justify="right", style="bold" if column < arms else None, no_wrap=True)
    for index, row in enumerate(scores.rows):
        cells = [unmarked(cell).replace(" ± ", "±").replace("± ", "±") for cell in row[: arms + 4]]
        table.add_row(*cells, style="dim" if index in scores.quiet else None)
    return table


def markdown(results: Results, images: Mapping[str, str], facts: Facts | None = None) -> str:
    """The text of report.md; `images` maps file names to what they show."""
    found = sections(results, facts or Facts())
    if images:
        place = next((at for at, section in enumerate(found) if section.title == BEFORE_PICTURES), len(found))
        shown = [block for name, text in images.items() for block in (text, f"![{text}]({name})")]
        found.insert(place, Section("Pictures", shown))
    opening = [*(f"**{sentence}**" for sentence in headline(results)), *verdict(results)]
    return "\n\n".join([f"# {plain(results.title)}", *opening, *(written(section) for section in found)]) + "\n"


def panels(results: Results) -> list[Panel]:
    """What `pictures.metric_bars` draws, in the units shown."""
    found, reference_rows = [], results.reference_rows
    for name in results.metrics:
        metric = by_name(name)
        scaled = {arm.name: [v * metric.scale for v in arm.values(name).values()] for arm in results.arms}
        rows = {arm: (values, mean_interval(values)) for arm, values in scaled.items() if values}
        label = f"{metric.label} ({metric.unit})" if metric.unit else metric.label
        title = label if reference_rows.ranking(name)[0] or metric.kind == "column" else f"{label}, may not rank"
        lines = {key: row[name] * metric.scale for key, row in _lines(reference_rows) if name in row}
        if metric.kind in ("distance", "paired"):
            lines.pop("truth", None)
        if metric.kind == "column":
            lines.pop("floor", None)
        found.append(Panel(title, rows, **lines))
    return found


def _lines(reference_rows: ReferenceRows) -> tuple[tuple[str, Mapping[str, float]], ...]:
    return ("truth", reference_rows.truth), ("floor", reference_rows.floor), ("teacher", reference_rows.teacher)


def draw(results: Results, folder: str) -> dict[str, str]:
    """Make the pictures. -> what each file shows, by its name."""
    skeleton, fps = skeleton_by_name(results.card.skeleton), results.card.fps
    images = {"metrics.png": "Scores of every seed with 95 % intervals", "losses.png": "Losses over training steps"}
    pictures.metric_bars(f"{folder}/metrics.png", panels(results))
    pictures.loss_curves(f"{folder}/losses.png", {arm.name: [r.losses for r in arm.trainings] for arm in results.arms})
    progress = {arm.name: _main_curves(results, arm) for arm in results.arms}
    if any(progress.values()):
        images["progress.png"] = "Scores over training steps"
        pictures.loss_curves(f"{folder}/progress.png", progress)
    if results.examples:
        images |= {
            "strips.png": "Samples, from left to right in time",
            "motion.gif": "Samples of one caption, side by side",
        }
        figures.save(figures.strips(results.examples, skeleton, fps), f"{folder}/strips.png")
        figures.animation(f"{folder}/motion.gif", results.examples[0], skeleton, fps=fps)
    return images


def _main_curves(results: Results, arm: Arm) -> list[Curve]:
    """Scores over steps in the CURVES first metrics that may rank, headline ones in front; report.html has all."""
    order = dict.fromkeys([*results.primary, *results.ranking_metrics])
    names = [name for name in order if name in results.ranking_metrics]
    found = []
    for curve in (run.progress for run in arm.trainings if run.progress is not None):
        drawn = [by_name(name) for name in names if name in curve.terms][:CURVES]
        terms = {metric.label: [value * metric.scale for value in curve.terms[metric.name]] for metric in drawn}
        found.append(Curve(curve.steps, terms))
    return found


def write(results: Results, folder: Path | str, facts: Facts | None = None) -> Path:
    """Write metrics.json, table.tex, the pictures, report.html and report.md; numbers first. -> report.md's path."""
    folder, facts = Path(folder), facts or Facts()
    check_writable(str(folder))
    write_bytes(str(folder / "metrics.json"), to_json(results, facts).encode())
    write_bytes(str(folder / "table.tex"), latex(results).encode())
    write_bytes(str(folder / "report.html"), page(results, facts).encode())
    images = draw(results, str(folder))
    write_bytes(str(folder / "report.md"), markdown(results, images, facts).encode())
    return folder / "report.md"
