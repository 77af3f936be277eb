"""The files of a report: report.md, report.html, table.tex, metrics.json and the pictures.

report.html needs nothing else. Template, style and script are in templates/. The page may load nothing and run nothing
but its own script and those of the viewer (render/page), a document of its own inside it; their hashes are named.
"""

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from videomdm_ext.bench.plan import CONTROL, FULL
from videomdm_ext.bench.report import figures, tables, templates, verdict
from videomdm_ext.bench.report.results import Arm, Results
from videomdm_ext.bench.report.tables import Figure, Motions, Section, inline, markdown, plain, unmarked
from videomdm_ext.data.files import check_writable, write_bytes
from videomdm_ext.data.schemas import text_of
from videomdm_ext.errors import printable
from videomdm_ext.render import page as viewer
from videomdm_ext.render.figures import save

ELSEWHERE = ("seconds", "memory", "per_clip")
"""Fields of a training that are not in metrics.json: what differs from run to run, and the scores of single clips."""
FIGURES_BEFORE = {"Pictures": "Cost", "Worst captions": "Cost"}
"""Where figures stand that do not come right behind the scores."""


def sections(results: Results) -> list[Section]:
    """The whole report in order: every table and figure once."""
    found = {section.title: list(section.blocks) for section in tables.sections(results)}
    order = list(found)
    for section in figures.sections(results):
        if section.title not in found and section.blocks:
            place = FIGURES_BEFORE.get(section.title, "Against the control")
            order.insert(order.index(place) if place in order else min(1, len(order)), section.title)
        found.setdefault(section.title, []).extend(section.blocks)
    return [Section(title, found[title]) for title in order]


def text(results: Results, found: Sequence[Section]) -> str:
    """The text of report.md."""
    opening = [*(f"**{sentence}**" for sentence in verdict.headline(results)), *verdict.verdict(results)]
    parts = [f"# {plain(results.title)}", *opening, *map(markdown, found)]
    return printable("\n\n".join(part for part in parts if part)) + "\n"


def write(results: Results, folder: Path | str) -> Path:
    """Write metrics.json, table.tex, the pictures, report.html and report.md; numbers first. -> report.md's path."""
    folder = Path(folder)
    check_writable(str(folder))
    write_bytes(str(folder / "metrics.json"), to_json(results).encode(), durable=True)
    write_bytes(str(folder / "table.tex"), latex_table(results).encode())
    found = sections(results)
    write_bytes(str(folder / "report.html"), page(results, found).encode())
    for block in (block for section in found for block in section.blocks):
        if isinstance(block, Figure) and block.file.endswith(".gif"):
            block.draw(str(folder / block.file))
        elif isinstance(block, Figure) and block.file:
            save(block.draw(), str(folder / block.file))
    write_bytes(str(folder / "report.md"), text(results, found).encode())
    return folder / "report.md"


# -- report.html ------------------------------------------------------------------------------------------------------


def page(results: Results, sections: Sequence[Section]) -> str:
    """The text of report.html."""
    return whole_page(results.title, verdict.headline(results), verdict.verdict(results), sections)


def whole_page(title: str, lead: Sequence[str], said: Sequence[str], sections: Sequence[Section]) -> str:
    """A page with a title, sentences in strong and in plain, and sections."""
    from markupsafe import Markup

    made = templates()
    made.filters["inline"] = lambda text: Markup(inline(printable(text)))
    made.filters["svg"] = lambda figure, name: Markup(figures.svg(figure.draw(), name))
    made.filters["viewer"] = lambda block: viewer.page(block.scenes, block.skeleton, block.fps, "Motions")
    made.filters["kind"] = lambda block: type(block).__name__.lower()
    made.tests["in_page"] = lambda block: not getattr(block, "file", "")
    style, script = (Markup(viewer.shipped(__package__, "templates", name)) for name in ("report.css", "report.js"))
    plays = any(isinstance(block, Motions) for section in sections for block in section.blocks)
    content = {"title": title, "lead": lead, "verdict": said, "sections": sections}
    policy = viewer.policy([viewer.digest(script), *viewer.script_digests()] if plays else [])
    template = made.get_template("report.html")
    return template.render(**content, policy=policy, style=style, script=script if plays else "")


# -- table.tex --------------------------------------------------------------------------------------------------------

_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "±": r"$\pm$", "\u2013": "--", "\u2212": "$-$", "…": r"\dots{}",
}  # fmt: skip
_RAISED = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")


def escaped(text: str) -> str:
    """Text as LaTeX that shows it as it is; raised figures as powers."""
    pieces = re.split("([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)", " ".join(text.split()))
    pieces[1::2] = [f"$^{{{piece.translate(_RAISED)}}}$" for piece in pieces[1::2]]
    pieces[::2] = ["".join(_SPECIAL.get(letter, letter) for letter in piece) for piece in pieces[::2]]
    return "".join(pieces)


def latex_table(results: Results) -> str:
    """table.tex (booktabs): arms, truth and teacher; bold where an arm is better than the control; what may not rank
    stands below a line."""
    scores, arms = tables.score_table(results), len(results.arms)
    kept = [*range(arms + 2), arms + 3]
    bold = {
        (results.metrics.index(found.metric), 1 + results.arms.index(arm))
        for arm in verdict.compared_arms(results)
        if not results.frozen(arm)
        for found in verdict.compare(results, arm)
        if found.outcome == "better"
    }
    caption = [f"{results.title}. {tables.seeds_text(results)}"]
    caption += [f"Bold: better than {CONTROL}, seeds paired."] if bold else []
    caption += ["Below the line: may not rank arms."] if scores.quiet else []
    groups: tuple[list[str], list[str]] = [], []
    for place, row in enumerate(scores.rows):
        cells = {column: escaped(unmarked(row[column])) for column in kept}
        cells |= {column: rf"\textbf{{{cells[column]}}}" for column in kept if (place, column) in bold}
        groups[place in scores.quiet].append(" & ".join(cells.values()) + r" \\")
    body = "\n\\midrule\n".join("\n".join(group) for group in groups if group)
    head = " & ".join(["", *(escaped(unmarked(scores.head[column])) for column in kept[1:])])
    return (
        "% Needs \\usepackage{booktabs}\n\\begin{table}\n\\centering\n"
        f"\\caption{{{escaped(' '.join(caption))}}}\n\\begin{{tabular}}{{l{'r' * (len(kept) - 1)}}}\n"
        f"\\toprule\n{head} \\\\\n\\midrule\n{body}\n\\bottomrule\n\\end{{tabular}}\n\\end{{table}}\n"
    )


# -- metrics.json -----------------------------------------------------------------------------------------------------


def to_json(results: Results) -> str:
    """metrics.json: every replication of every training, and what was found; equal results give equal bytes.

    Numbers that are not finite are null.
    """

    def compared(arm: Arm, baseline: Arm) -> list[dict[str, Any]]:
        found = verdict.compare_with(results, arm, baseline)
        return [{**dataclasses.asdict(one), "outcome": one.outcome, "detectable": one.detectable} for one in found]

    full, control, may = results.arm(FULL), results.arm(CONTROL), results.reference_rows.ranking
    arms = [{**dataclasses.asdict(arm), "frozen": results.frozen(arm)} for arm in results.arms]
    for training in (training for arm in arms for training in arm["trainings"]):
        for name in ELSEWHERE:
            del training[name]
    content = {
        "title": results.title,
        "headline": verdict.headline(results),
        "verdict": verdict.verdict(results),
        "ablations": verdict.against(results, verdict.ablations(results), full) if full else [],
        "primary": list(results.primary),
        "clips": results.clips,
        "text_features": results.text_features,
        "arms": arms,
        "calibration": dataclasses.asdict(results.reference_rows),
        "ranking": {name: dict(zip(("may_rank", "reason"), may(name), strict=True)) for name in results.metrics},
        "comparisons": {arm.name: compared(arm, control) if control else [] for arm in verdict.compared_arms(results)},
        "against_full": {arm.name: compared(arm, full) for arm in verdict.ablations(results) if full},
        "against_varied": {arm.name: compared(arm, base) for base, own in verdict.variations(results) for arm in own},
        "evaluators": [dataclasses.asdict(judge) for judge in results.judges],
        "differences": results.differences,
        "worst": [
            {"arm": c.arm, "metric": c.metric, "score": c.score, "truth": c.truth, "caption": c.example.caption}
            for c in results.cases
        ],
        "card": json.loads(results.card.to_json()),
        "notes": list(results.notes),
    }
    return text_of(content, indent=2, ensure_ascii=False) + "\n"
