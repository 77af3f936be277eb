"""The LaTeX table says what the report says, and compiles whatever names hold."""

from __future__ import annotations

import dataclasses
import re

from comparisons import LEVELS, make_arm, make_results, scattered
from hypothesis import given
from hypothesis import strategies as st

from videomdm_ext.bench.report_tex import escaped, latex
from videomdm_ext.bench.verdict import compare


def rows_of(text: str) -> list[list[str]]:
    """-> the cells of every line between the rules."""
    body = text.split("\\toprule\n")[1].split("\\bottomrule")[0]
    return [
        [cell.strip() for cell in re.split(r"(?<!\\)&", line.removesuffix("\\\\"))]
        for line in body.splitlines()
        if line.endswith("\\\\")
    ]


def test_every_row_has_a_cell_for_each_column() -> None:
    text = latex(make_results())
    columns = re.search(r"\\begin\{tabular\}\{(\w+)\}", text)
    assert columns
    assert {len(row) for row in rows_of(text)} == {len(columns.group(1))}


def test_only_what_is_found_better_is_bold() -> None:
    results = make_results()
    arm = results.arm("2d")
    assert arm
    better = {found.metric for found in compare(results, arm) if found.outcome == "better"}
    rows = {row[0]: row for row in rows_of(latex(results))}
    assert better == {"pose_frechet", "acceleration", "bone_length_error"}
    bold = {name for name, row in rows.items() if any("textbf" in cell for cell in row)}
    assert {name.split(" (")[0] for name in bold} == {"pose Fréchet distance", "acceleration", "bone-length error"}
    assert all("textbf" not in cell for row in rows.values() for cell in (*row[:3], *row[4:]))


def test_nothing_is_bold_where_no_difference_is_detected_or_the_arm_does_not_move() -> None:
    pose = next(row for row in rows_of(latex(scattered())) if row[0].startswith("pose"))
    assert not any("textbf" in cell for cell in pose)
    still = make_results(make_arm("3d"), make_arm("lifted"), make_arm("2d", motion_energy=0.01))
    assert "textbf" not in latex(still)
    assert "Bold" not in latex(still)


def test_metrics_that_may_not_rank_stand_below_the_line() -> None:
    text = latex(make_results())
    above, below = text.split("\\midrule\n")[1:]
    assert "jitter" not in above
    assert "jitter" in below
    assert "bone-length" in above


def test_units_with_powers_and_names_with_signs_are_escaped() -> None:
    assert escaped("10⁻² m²") == "10$^{-2}$ m$^{2}$"
    assert escaped("a_b & 5 % #1 {x} $y ~ ^ \\ <z>") == (
        r"a\_b \& 5 \% \#1 \{x\} \$y \textasciitilde{} \textasciicircum{} \textbackslash{} \textless{}z\textgreater{}"
    )
    arms = [
        dataclasses.replace(make_arm(name), name=f"{name}_&") if name == "2d" else make_arm(name) for name in LEVELS
    ]
    assert r"2d\_\&" in latex(make_results(*arms))


@given(st.text())
def test_no_sign_that_latex_reads_is_left_bare(text: str) -> None:
    left = re.sub(r"\\(text\w+|dots)\{\}|\\[{}$&%#_]|\$(\\pm|-|\^\{[-\d]+\})\$", "", escaped(text))
    assert not re.search(r"[\\{}$&%#_~^<>|]", left)
