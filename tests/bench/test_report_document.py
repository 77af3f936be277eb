"""What is written once reads the same as Markdown, as HTML and as LaTeX, whatever others wrote; numbers as texts."""

import dataclasses
import html
import math
import re

import pytest
from comparisons import LEVELS, make_arm, make_results, scattered
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure as Drawing

from videomdm_ext.bench import statistics as numerals
from videomdm_ext.bench.report.html import escaped, page
from videomdm_ext.bench.report.html import latex_table as latex
from videomdm_ext.bench.report.tables import Figure, Items, Listing, Section, Table, inline, markdown, plain, unmarked
from videomdm_ext.bench.report.verdict import compare
from videomdm_ext.bench.statistics import Estimate, Ratio

WORDS = st.text(st.characters(exclude_characters="\0"))


def in_page(*blocks: object) -> str:
    """-> the section of a page that holds these blocks."""
    text = page(make_results(), [Section("Blocks", blocks)])  # type: ignore[arg-type]
    return text.split("<h2>Blocks</h2>")[1].split("</section>")[0]


@given(WORDS)
def test_plain_words_read_as_they_are_on_one_line(text: str) -> None:
    assert unmarked(plain(text)) == " ".join(text.split())


@given(WORDS)
def test_plain_words_hold_no_element_in_either_form(text: str) -> None:
    assert not re.search(r"(?<!\\)[<`*]", plain(text).replace("\\\\", ""))
    assert "<" not in inline(plain(text))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("**a `b` c** *d*", "<strong>a <code>b</code> c</strong> <em>d</em>"),
        ("2 < 3 & 4", "2 &lt; 3 &amp; 4"),
        ("`<script>`", "<code>&lt;script&gt;</code>"),
        (r"\*no\*", "*no*"),
        ("3 * 4", "3 * 4"),
    ],
)
def test_marks_become_elements_and_all_else_is_escaped(text: str, found: str) -> None:
    assert inline(text) == found


def test_a_table_has_the_same_cells_in_both_forms() -> None:
    table = Table(["metric", "2d", "reading"], [["a | b", "1 ± 2", "better"], ["c", "3", "worse"]], words=("reading",))
    lines = markdown(Section("Scores", [table])).splitlines()[2:]
    assert lines[1] == "| --- | ---: | --- |"
    rows = [[cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]
    shown = re.findall(r"<t[hd](?: [^>]*)?>(.*?)</t[hd]>", in_page(table))
    assert [html.unescape(cell) for cell in shown] == [*table.head, *(cell for row in rows for cell in row)]


def test_rows_that_are_quiet_are_marked_and_no_others() -> None:
    text = in_page(Table(["m"], [["loud"], ["soft"]], quiet=[1]))
    assert re.findall(r'<tr class="quiet"><th scope="row">(\w+)', text) == ["soft"]


def test_a_listing_keeps_its_lines_even_with_a_fence_inside() -> None:
    block = Listing("a: 1\n```\n<b>: 2\n")
    assert markdown(Section("D", [block])) == "## D\n\n````\na: 1\n```\n<b>: 2\n````"
    assert '<pre tabindex="0">a: 1\n```\n&lt;b&gt;: 2</pre>' in in_page(block)


def test_points_become_a_list() -> None:
    assert markdown(Section("N", [Items(["a", "b"])])) == "## N\n\n- a\n- b"
    assert "<ul><li>a</li><li><code>b</code></li></ul>" in in_page(Items(["a", "`b`"]))


def test_a_figure_with_a_file_stands_beside_the_text_and_one_without_in_the_page() -> None:
    beside, inside = Figure("Scores", Drawing, "scores.png"), Figure("Curves", Drawing, note="over steps")
    assert markdown(Section("N", [beside, inside])) == "## N\n\nScores\n\n![Scores](scores.png)"
    assert markdown(Section("N", [inside])) == ""
    text = in_page(beside, inside)
    assert "Scores" not in text
    assert re.search(r"<figcaption><strong>Curves</strong>\s*<br/><span class=\"note\">over steps</span>", text)
    assert "<svg" in text


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


@given(WORDS)
def test_no_sign_that_latex_reads_is_left_bare(text: str) -> None:
    left = re.sub(r"\\(text\w+|dots)\{\}|\\[{}$&%#_]|\$(\\pm|-|\^\{[-\d]+\})\$", "", escaped(text))
    assert not re.search(r"[\\{}$&%#_~^<>|]", left)


TEXTS = [
    (numerals.estimate_text(Estimate(206.312, 0.31, 3)), "206.31 ± 0.31"),
    (numerals.estimate_text(Estimate(31.24, 12.3, 3)), "31 ± 12"),
    (numerals.estimate_text(Estimate(0.2, 0.0, 3)), "0.200 ± 0.000"),
    (numerals.estimate_text(Estimate(5.0, None, 1)), "5.00"),
    (numerals.estimate_text(Estimate(math.nan, math.nan, 2)), "not finite"),
    (numerals.estimate_text(Estimate(0.0912, 0.0034, 3), 1e3, "+"), "+91.2 ± 3.4"),
    (numerals.number(0.0912, 1e3), "91.2"),
    (numerals.number(None), "\N{EN DASH}"),
    (numerals.number(math.inf), "not finite"),
    (numerals.number(0.0), "0"),
    (numerals.number(1e-9), "< 0.0001"),
    (numerals.number(0.0123456), "0.0123"),
    (numerals.number(1234.5), "1234"),
    (numerals.ratio_text(None), "\N{EN DASH}"),
    (numerals.ratio_text(Ratio(math.nan, None, 2)), "\N{EN DASH}"),
    (numerals.ratio_text(Ratio(0.5, None, 1)), "0.50"),
    (numerals.ratio_text(Ratio(0.5, None, 3)), "0.50 (unbounded)"),
    (numerals.ratio_text(Ratio(0.5, (0.25, 1.0), 3)), "0.50 [0.25, 1.00]"),
    (numerals.share_text(Ratio(0.667, (0.5, 0.812), 3)), "67 % [50, 81]"),
    (numerals.share_text(Ratio(-0.2, None, 3)), "-20 % (unbounded)"),
    (numerals.share_text(Ratio(0.5, None, 1)), "50 %"),
    (numerals.with_unit("21.0", "mm"), "21.0 mm"),
    (numerals.with_unit("4.2", ""), "4.2"),
    (numerals.with_unit("4.2", "10⁻² m²"), "4.2 × 10⁻² m²"),  # noqa: RUF001
    (numerals.with_unit("4.2 ± 0.1", "10⁻² m²"), "(4.2 ± 0.1) × 10⁻² m²"),  # noqa: RUF001
    *((numerals.p_text(p), text) for p, text in ((0.25, "p = 0.25"), (0.0123, "p = 0.012"), (0.00021, "p = 0.0002"))),
    *((numerals.p_text(p), text) for p, text in ((1e-9, "p < 0.0001"), (1.0, "p = 1"))),
]


@pytest.mark.parametrize(("text", "expected"), TEXTS)
def test_numbers_are_written_to_the_places_that_mean_something(text: str, expected: str) -> None:
    assert text == expected
