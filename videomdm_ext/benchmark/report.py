"""The report of a comparison: scores with intervals, what may rank, the verdict, and pictures."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videomdm_ext.benchmark import pictures
from videomdm_ext.benchmark.animation import animation
from videomdm_ext.benchmark.metrics import Calibration, by_name
from videomdm_ext.benchmark.numerals import estimate_text, number, ratio_text
from videomdm_ext.benchmark.pictures import Panel
from videomdm_ext.benchmark.results import CONTROL, REFERENCE, Results, compare, compared_arms, verdict
from videomdm_ext.benchmark.statistics import mean_interval
from videomdm_ext.datasets.files import check_writable, write_bytes
from videomdm_ext.skeletons import by_name as skeleton_by_name

if TYPE_CHECKING:
    from rich.table import Table


def score_rows(results: Results) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table of scores: a row for each metric, a column for each arm and calibration row."""
    names = [f"{arm.name} (frozen)" if results.frozen(arm) else arm.name for arm in results.arms]
    head = ["metric", *names, "truth", "split halves", "teacher", "static pose", "may rank"]
    return head, [_score_row(results, name) for name in results.metrics]


def _score_row(results: Results, name: str) -> list[str]:
    metric, calibration = by_name(name), results.calibration
    floor = number(calibration.floor.get(name), metric.scale)
    if metric.kind == "level" and name in calibration.floor:
        floor = f"± {floor}"
    elif metric.kind == "column":
        floor = number(None)
    cells = []
    for arm in results.arms:
        values = list(arm.values(name).values())
        cells.append(estimate_text(mean_interval(values), metric.scale) if values else number(None))
    truth = 0.0 if metric.kind == "paired" else calibration.truth.get(name)
    rows = (truth, floor, calibration.teacher.get(name), calibration.static.get(name))
    shown = [row if isinstance(row, str) else number(row, metric.scale) for row in rows]
    label = f"{metric.label} ({metric.unit})" if metric.unit else metric.label
    return [label, *cells, *shown, "yes" if calibration.ranking(name)[0] else "no"]


def seeds_text(results: Results) -> str:
    """What a ± is made of."""
    seeds = list(dict.fromkeys(run.seed for arm in results.arms for run in arm.trainings))
    listed = ", ".join(str(seed) for seed in seeds)
    interval = (
        "mean ± half-width of the 95 % t interval over seeds (ddof 1)" if len(seeds) > 1 else "one seed, no interval"
    )
    return f"N = {results.clips} clips a seed; {len(seeds)} training seeds ({listed}); {interval}."


def terminal_table(results: Results) -> "Table":
    """The table of scores for a terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    head, rows = score_rows(results)
    head = [*head[:-4], "halves", "teacher"]
    style: dict[str, Any] = {"title_style": "bold", "box": SIMPLE_HEAD, "pad_edge": False, "collapse_padding": True}
    table = Table(title=results.title, caption=f"{seeds_text(results)} Dim: may not rank.", **style)
    table.add_column(head[0], min_width=12, overflow="fold")
    for column, name in enumerate(head[1:]):
        table.add_column(name, justify="right", style="bold" if column < len(results.arms) else None, no_wrap=True)
    for row in rows:
        cells = [cell.replace(" ± ", "±").replace("± ", "±") for cell in row]
        table.add_row(*cells[:-2], style=None if row[-1] == "yes" else "dim")
    return table


TEXT_COLUMNS = ("arm", "because", "reading", "settings")


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of which all but the first column and TEXT_COLUMNS are aligned right."""
    ruler = ["---" if name in (head[0], *TEXT_COLUMNS) else "---:" for name in head]
    lines = [head, ruler, *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def markdown(results: Results, images: Mapping[str, str]) -> str:
    """The text of report.md; `images` maps file names to what they show."""
    sections = [
        f"# {results.title}",
        "\n\n".join(f"**{sentence}**" for sentence in verdict(results)),
        f"## Scores\n\n{markdown_table(*score_rows(results))}\n\n{seeds_text(results)} {READING}",
        _ranking_section(results),
        _comparison_section(results),
        _cost_section(results),
        "## Pictures\n\n" + "\n\n".join(f"{text}\n\n![{text}]({name})" for name, text in images.items())
        if images
        else "",
        _data_section(results),
        "## Notes\n\n" + "\n".join(f"- {note}" for note in results.notes) if results.notes else "",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


READING = (
    "Fréchet distances and errors are best at 0, all other scores at the truth's own value. *Split halves*: one half "
    "of the true clips against the other. *Teacher*: the lifted motion itself. *Static pose*: the mean pose, held."
)


def _ranking_section(results: Results) -> str:
    calibration, rows = results.calibration, []
    for name in results.metrics:
        metric, (may, reason) = by_name(name), results.calibration.ranking(name)
        if metric.kind == "column":
            continue
        teacher = calibration.teacher.get(name)
        error = None if teacher is None else calibration.error(name, teacher)
        floor = 0.0 if metric.kind == "paired" else calibration.floor.get(name)
        shown = (number(error, metric.scale), number(floor, metric.scale))
        rows.append([metric.label, *shown, "yes" if may else "no", reason])
    text = "A metric may rank arms only if it sees what is wrong with the teacher's own data."
    head = ["metric", "teacher's error", "floor", "may rank", "because"]
    return f"## Which metrics may rank\n\n{text}\n\n{markdown_table(head, rows)}"


def _comparison_section(results: Results) -> str:
    rows = []
    for arm in compared_arms(results):
        for found in compare(results, arm):
            metric = by_name(found.metric)
            gain = estimate_text(found.gain, metric.scale, "+")
            outcome = "not counted, frozen" if results.frozen(arm) else found.outcome
            if outcome == "undetected" and found.gain.detectable is not None:
                outcome = f"no difference detected; could detect {number(found.gain.detectable, metric.scale)}"
            label = f"{metric.label} ({metric.unit})" if metric.unit else metric.label
            rows.append([label, arm.name, gain, ratio_text(found.closure), ratio_text(found.ratio), outcome])
    if not rows:
        return ""
    head = ["metric", "arm", f"error less than {CONTROL}", "gap closed", f"error / {REFERENCE}", "reading"]
    text = (
        f"Errors are distances to the best score, seeds paired. Gap closed: ({CONTROL} - arm) / ({CONTROL} - "
        f"{REFERENCE}). Fieller intervals of 95 %, not adjusted for the number of metrics. What could be detected: "
        "with a probability of 0.8."
    )
    return f"## Against {CONTROL}\n\n{markdown_table(head, rows)}\n\n{text}"


def _cost_section(results: Results) -> str:
    rows = []
    for arm in results.arms:
        runs = arm.trainings
        counts = [_same([run.steps for run in runs]), _same([run.passes for run in runs])]
        rows.append(
            [arm.name, str(len(runs)), *counts, number(mean_interval([r.seconds for r in runs]).mean), arm.settings]
        )
    head = ["arm", "seeds", "steps", "denoiser passes", "seconds, mean", "settings"]
    return f"## Cost\n\n{markdown_table(head, rows)}"


def _same(counts: Sequence[int]) -> str:
    return f"{counts[0]:,}" if len(set(counts)) == 1 else f"{min(counts):,} to {max(counts):,}"


def _data_section(results: Results) -> str:
    card = results.card
    facts = {
        "data set": card.name,
        "clips": ", ".join(f"{count} {split}" for split, count in card.counts.items()),
        "skeleton": f"{card.skeleton}, {card.fps:g} fps",
        "teacher": f"the lifter `{card.lifter}`",
        "its error": ", ".join(
            f"{name.replace('_', ' ')} {number(value)}" for name, value in card.lifter_error.items()
        ),
        "text features": results.text_features,
        "sources": "; ".join(card.sources),
        "licence": card.licence,
        "content": f"`{card.content_hash}`" if card.content_hash else "",
    }
    return "## Data\n\n" + "\n".join(f"- {name}: {fact}" for name, fact in facts.items() if fact)


def to_json(results: Results) -> str:
    """Every replication, raw, with calibration, comparisons and facts; numbers that are not finite become null."""
    content = {
        "title": results.title,
        "verdict": verdict(results),
        "clips": results.clips,
        "text_features": results.text_features,
        "arms": [
            {**dataclasses.asdict(arm), "frozen": results.frozen(arm)}
            for arm in results.arms
        ],
        "calibration": dataclasses.asdict(results.calibration),
        "ranking": {name: dict(zip(("may_rank", "reason"), results.calibration.ranking(name), strict=True))
                    for name in results.metrics},
        "comparisons": {
            arm.name: [{**dataclasses.asdict(found), "outcome": found.outcome} for found in compare(results, arm)]
            for arm in compared_arms(results)
        },
        "card": json.loads(results.card.to_json()),
        "notes": list(results.notes),
    }  # fmt: skip
    return json.dumps(_plain(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    """Lists, dictionaries and numbers of Python, NaN and infinity as None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, str | bool) or value is None:
        return value
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, Sequence):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def panels(results: Results) -> list[Panel]:
    """What `pictures.metric_bars` draws, in the units shown."""
    found, calibration = [], results.calibration
    for name in results.metrics:
        metric = by_name(name)
        scaled = {arm.name: [v * metric.scale for v in arm.values(name).values()] for arm in results.arms}
        rows = {arm: (values, mean_interval(values)) for arm, values in scaled.items() if values}
        label = f"{metric.label} ({metric.unit})" if metric.unit else metric.label
        title = label if calibration.ranking(name)[0] or metric.kind == "column" else f"{label}, may not rank"
        lines = {key: row[name] * metric.scale for key, row in _lines(calibration) if name in row}
        if metric.kind in ("distance", "paired"):
            lines.pop("truth", None)
        if metric.kind == "column":
            lines.pop("floor", None)
        found.append(Panel(title, rows, **lines))
    return found


def _lines(calibration: Calibration) -> tuple[tuple[str, Mapping[str, float]], ...]:
    return ("truth", calibration.truth), ("floor", calibration.floor), ("teacher", calibration.teacher)


def draw(results: Results, folder: str) -> dict[str, str]:
    """Make the pictures. -> what each file shows, by its name."""
    skeleton, fps = skeleton_by_name(results.card.skeleton), results.card.fps
    images = {"metrics.png": "Scores of every seed with 95 % intervals", "losses.png": "Losses over training steps"}
    pictures.metric_bars(f"{folder}/metrics.png", panels(results))
    pictures.loss_curves(
        f"{folder}/losses.png", {arm.name: [r.losses for r in arm.trainings] for arm in results.arms}
    )
    progress = {arm.name: [r.progress for r in arm.trainings if r.progress is not None] for arm in results.arms}
    if any(progress.values()):
        images["progress.png"] = "Scores over training steps"
        pictures.loss_curves(f"{folder}/progress.png", progress)
    if results.examples:
        images |= {
            "strips.png": "Samples, from left to right in time",
            "motion.gif": "Samples of one caption, side by side",
        }
        pictures.strips(f"{folder}/strips.png", results.examples, skeleton, fps)
        animation(f"{folder}/motion.gif", results.examples[0], skeleton, fps=fps)
    return images


def write(results: Results, folder: Path | str) -> Path:
    """Write report.md, metrics.json and the pictures into a folder; numbers first. -> the path of report.md."""
    folder = Path(folder)
    check_writable(str(folder))
    write_bytes(str(folder / "metrics.json"), to_json(results).encode())
    images = draw(results, str(folder))
    write_bytes(str(folder / "report.md"), markdown(results, images).encode())
    return folder / "report.md"
