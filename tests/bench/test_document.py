"""What is written once reads the same as Markdown and as HTML, whatever others wrote."""

from __future__ import annotations

import html
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videomdm_ext.bench.document import (
    Items,
    Listing,
    Section,
    Table,
    html_section,
    inline,
    markdown,
    plain,
    unmarked,
)


@given(st.text())
def test_plain_words_read_as_they_are_on_one_line(text: str) -> None:
    assert unmarked(plain(text)) == " ".join(text.split())


@given(st.text())
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
    shown = re.findall(r"<t[hd](?: [^>]*)?>(.*?)</t[hd]>", html_section(Section("Scores", [table])))
    assert [html.unescape(cell) for cell in shown] == [*table.head, *(cell for row in rows for cell in row)]


def test_rows_that_are_quiet_are_marked_and_no_others() -> None:
    text = html_section(Section("", [Table(["m"], [["loud"], ["soft"]], quiet=[1])]))
    assert re.findall(r'<tr class="quiet"><th scope="row">(\w+)', text) == ["soft"]


def test_a_listing_keeps_its_lines_even_with_a_fence_inside() -> None:
    block = Listing("a: 1\n```\n<b>: 2\n")
    assert markdown(Section("D", [block])) == "## D\n\n````\na: 1\n```\n<b>: 2\n````"
    assert html_section(Section("D", [block])) == '<pre tabindex="0">a: 1\n```\n&lt;b&gt;: 2</pre>'


def test_points_become_a_list() -> None:
    assert markdown(Section("N", [Items(["a", "b"])])) == "## N\n\n- a\n- b"
    assert html_section(Section("N", [Items(["a", "`b`"])])) == "<ul><li>a</li><li><code>b</code></li></ul>"


def test_an_anchor_is_a_plain_word() -> None:
    assert Section("Which metrics may rank?", []).anchor == "which-metrics-may-rank"
