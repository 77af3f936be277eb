"""The files of a report: report.md, report.html, table.tex, metrics.json and the pictures."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from videomdm_ext.bench.plan import FULL
from videomdm_ext.bench.report import figures, tables
from videomdm_ext.bench.report.data import ReportData
from videomdm_ext.bench.report.document import Animation, Figure, Section, markdown, plain
from videomdm_ext.bench.report.html import page
from videomdm_ext.bench.results import Arm, Results
from videomdm_ext.bench.verdict import (
    Comparison,
    ablation_verdict,
    ablations,
    compare,
    compare_with,
    compared_arms,
    headline,
    variations,
    verdict,
)
from videomdm_ext.data.files import check_writable, write_bytes

ELSEWHERE = ("seconds", "memory", "per_clip")
"""Fields of a training that are not in metrics.json: what differs from run to run, and the scores of single clips."""
FIGURES_BEFORE = {"Pictures": "Cost", "Worst captions": "Cost"}
"""Where figures stand that do not come right behind the scores."""


def sections(results: Results, data: ReportData) -> list[Section]:
    """The whole report in order: every table and figure once."""
    found = {section.title: list(section.blocks) for section in tables.sections(results, data)}
    order = list(found)
    for section in figures.sections(results, data):
        if section.title not in found and section.blocks:
            place = FIGURES_BEFORE.get(section.title, "Against the control")
            order.insert(order.index(place) if place in order else min(1, len(order)), section.title)
        found.setdefault(section.title, []).extend(section.blocks)
    return [Section(title, found[title]) for title in order]


def text(results: Results, found: Sequence[Section]) -> str:
    """The text of report.md."""
    opening = [*(f"**{sentence}**" for sentence in headline(results)), *verdict(results)]
    parts = [f"# {plain(results.title)}", *opening, *map(markdown, found)]
    return "\n\n".join(part for part in parts if part) + "\n"


def write(results: Results, folder: Path | str, data: ReportData | None = None) -> Path:
    """Write metrics.json, table.tex, the pictures, report.html and report.md; numbers first. -> report.md's path."""
    folder, data = Path(folder), data or ReportData()
    check_writable(str(folder))
    write_bytes(str(folder / "metrics.json"), to_json(results, data).encode())
    write_bytes(str(folder / "table.tex"), tables.latex_table(results).encode())
    found = sections(results, data)
    write_bytes(str(folder / "report.html"), page(results, found).encode())
    for block in (block for section in found for block in section.blocks):
        if isinstance(block, Figure | Animation) and block.file:
            block.save(str(folder / block.file))
    write_bytes(str(folder / "report.md"), text(results, found).encode())
    return folder / "report.md"


# -- metrics.json -----------------------------------------------------------------------------------------------------


def to_json(results: Results, data: ReportData) -> str:
    """metrics.json: every replication of every training, and what was found; equal results give equal bytes.

    Numbers that are not finite are null.
    """
    full = results.arm(FULL)
    pairs = [(base, arm) for base, arms in variations(results) for arm in arms]
    content = {
        "title": results.title,
        "headline": headline(results),
        "verdict": verdict(results),
        "ablations": ablation_verdict(results),
        "primary": list(results.primary),
        "clips": results.clips,
        "text_features": results.text_features,
        "arms": [_arm(results, arm) for arm in results.arms],
        "calibration": dataclasses.asdict(results.reference_rows),
        "ranking": {
            name: dict(zip(("may_rank", "reason"), results.reference_rows.ranking(name), strict=True))
            for name in results.metrics
        },
        "comparisons": {arm.name: _comparisons(compare(results, arm)) for arm in compared_arms(results)},
        "against_full": {
            arm.name: _comparisons(compare_with(results, arm, full)) for arm in ablations(results) if full
        },
        "against_varied": {arm.name: _comparisons(compare_with(results, arm, base)) for base, arm in pairs},
        "evaluators": [dataclasses.asdict(judge) for judge in data.judges],
        "differences": data.differences,
        "worst": [
            {"arm": c.arm, "metric": c.metric, "score": c.score, "truth": c.truth, "caption": c.example.caption}
            for c in data.cases
        ],
        "card": json.loads(results.card.to_json()),
        "notes": list(results.notes),
    }
    return json.dumps(_plain(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _arm(results: Results, arm: Arm) -> dict[str, Any]:
    """An arm with its trainings, without what stands elsewhere."""
    stored = dataclasses.asdict(arm)
    for training in stored["trainings"]:
        for name in ELSEWHERE:
            del training[name]
    return {**stored, "frozen": results.frozen(arm)}


def _comparisons(found: Sequence[Comparison]) -> list[dict[str, Any]]:
    return [{**dataclasses.asdict(one), "outcome": one.outcome, "detectable": one.detectable} for one in found]


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
