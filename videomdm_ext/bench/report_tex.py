"""The table of scores for a paper: LaTeX with booktabs."""

import re

from videomdm_ext.bench.metrics import by_name
from videomdm_ext.bench.numerals import estimate_text, number
from videomdm_ext.bench.plan import CONTROL
from videomdm_ext.bench.results import Arm, Results
from videomdm_ext.bench.score_tables import seeds_text
from videomdm_ext.bench.statistics import mean_interval
from videomdm_ext.bench.verdict import compare, compared_arms

_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "±": r"$\pm$", "\u2013": "--", "\u2212": "$-$", "…": r"\dots{}",
}  # fmt: skip
_RAISED = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
_POWERS = re.compile("[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+")


def escaped(text: str) -> str:
    """Text as LaTeX that shows it as it is; raised figures as powers."""
    parts = []
    for piece in re.split(f"({_POWERS.pattern})", " ".join(text.split())):
        if _POWERS.fullmatch(piece):
            parts.append(f"$^{{{piece.translate(_RAISED)}}}$")
        else:
            parts.append("".join(_SPECIAL.get(letter, letter) for letter in piece))
    return "".join(parts)


def latex(results: Results) -> str:
    """A table environment: metrics that may rank, then the others; bold where an arm is better than the control."""
    better = {
        (arm.name, found.metric)
        for arm in compared_arms(results)
        if not results.frozen(arm)
        for found in compare(results, arm)
        if found.outcome == "better"
    }
    ranking = results.ranking_metrics
    others = [name for name in results.metrics if name not in ranking]
    groups = [[_row(results, name, better) for name in names] for names in (ranking, others)]
    body = "\n\\midrule\n".join("\n".join(rows) for rows in groups if rows)
    names = [escaped(arm.name) + (" (frozen)" if results.frozen(arm) else "") for arm in results.arms]
    head = " & ".join(["", *names, "truth", "teacher"])
    columns = "l" + "r" * (len(results.arms) + 2)
    return (
        "% Needs \\usepackage{booktabs}\n\\begin{table}\n\\centering\n"
        f"\\caption{{{_caption(results, bool(others), bool(better))}}}\n"
        f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n{head} \\\\\n\\midrule\n{body}\n\\bottomrule\n"
        "\\end{tabular}\n\\end{table}\n"
    )


def _caption(results: Results, others: bool, bold: bool) -> str:
    parts = [f"{results.title}. {seeds_text(results)}"]
    if bold:
        parts.append(f"Bold: better than {CONTROL}, seeds paired.")
    if others:
        parts.append("Below the line: may not rank arms.")
    return escaped(" ".join(parts))


def _row(results: Results, name: str, better: set[tuple[str, str]]) -> str:
    metric = by_name(name)
    label = f"{metric.label} ({metric.unit})" if metric.unit else metric.label
    cells = [_cell(arm, name, metric.scale, (arm.name, name) in better) for arm in results.arms]
    truth = metric.best if metric.kind == "paired" else results.reference_rows.truth.get(name)
    rows = [number(value, metric.scale) for value in (truth, results.reference_rows.teacher.get(name))]
    return " & ".join([escaped(label), *cells, *(escaped(row) for row in rows)]) + r" \\"


def _cell(arm: Arm, name: str, scale: float, bold: bool) -> str:
    values = list(arm.values(name).values())
    text = escaped(estimate_text(mean_interval(values), scale) if values else number(None))
    return rf"\textbf{{{text}}}" if bold else text
