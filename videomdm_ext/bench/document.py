"""Sections of a report, written once and shown twice: as Markdown and as HTML.

Texts and cells are Markdown with `code`, **strong**, *emphasis* and backslash escapes; `plain` escapes what others
wrote.
"""

import html
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

_MARKS = re.compile(r"([\\`*_<>\[\]#&~])")
_INLINE = re.compile(r"\\([^A-Za-z0-9\s])|`([^`]+)`|\*\*(.+?)\*\*|\*(.+?)\*|(.)", re.DOTALL)


@dataclass(frozen=True)
class Table:
    """Head and rows of cells; the first column and those named in `words` are aligned left, rows in `quiet` are dim."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: Collection[str] = ()
    quiet: Collection[int] = ()

    def left(self, column: int) -> bool:
        """Whether a column is aligned left."""
        return column == 0 or self.head[column] in self.words


@dataclass(frozen=True)
class Items:
    """A list of points."""

    texts: Sequence[str]


@dataclass(frozen=True)
class Listing:
    """Lines that keep their breaks and spaces and hold no marks."""

    text: str


Block = str | Table | Items | Listing


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    title: str
    blocks: Sequence[Block]

    @property
    def anchor(self) -> str:
        """Its name in links."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


def plain(text: str) -> str:
    """Words of others as Markdown that shows them as they are, on one line."""
    return _MARKS.sub(r"\\\1", " ".join(text.split()))


def unmarked(text: str) -> str:
    """A cell as it reads: without marks and escapes."""
    return html.unescape(re.sub(r"<[^>]*>", "", inline(text)))


def markdown(section: Section) -> str:
    """A section of report.md."""
    return "\n\n".join([f"## {section.title}", *(_markdown_block(block) for block in section.blocks)])


def _markdown_block(block: Block) -> str:
    if isinstance(block, Table):
        ruler = ["---" if block.left(column) else "---:" for column in range(len(block.head))]
        lines = [block.head, ruler, *block.rows]
        return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    if isinstance(block, Items):
        return "\n".join(f"- {text}" for text in block.texts)
    if isinstance(block, Listing):
        fence = max(["```", *(f"{run}`" for run in re.findall("`{3,}", block.text))], key=len)
        return f"{fence}\n{block.text.rstrip()}\n{fence}"
    return block


def html_section(section: Section) -> str:
    """The content of a section of report.html, without its heading."""
    return "\n".join(_html_block(block) for block in section.blocks)


def _html_block(block: Block) -> str:
    if isinstance(block, Table):
        return _html_table(block)
    if isinstance(block, Items):
        return "<ul>" + "".join(f"<li>{inline(text)}</li>" for text in block.texts) + "</ul>"
    if isinstance(block, Listing):
        return f'<pre tabindex="0">{html.escape(block.text.rstrip())}</pre>'
    return f"<p>{inline(block)}</p>"


def _html_table(table: Table) -> str:
    """A table in a box of its own, which scrolls sideways on a narrow screen."""
    kinds = [' class="word"' if table.left(column) else "" for column in range(len(table.head))]
    head = "".join(f'<th scope="col"{kind}>{inline(name)}</th>' for name, kind in zip(table.head, kinds, strict=True))
    rows = []
    for number, row in enumerate(table.rows):
        first = f'<th scope="row">{inline(row[0])}</th>'
        rest = "".join(f"<td{kind}>{inline(cell)}</td>" for cell, kind in zip(row[1:], kinds[1:], strict=True))
        quiet = ' class="quiet"' if number in table.quiet else ""
        rows.append(f"<tr{quiet}>{first}{rest}</tr>")
    body = "\n".join(rows)
    return (
        f'<div class="wide" tabindex="0"><table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'
    )


def inline(text: str) -> str:
    """A line of Markdown as HTML; everything in it is escaped."""
    return _INLINE.sub(_mark, text)


def _mark(found: re.Match[str]) -> str:
    literal, code, strong, emphasis, other = found.groups()
    if code is not None:
        return f"<code>{html.escape(code)}</code>"
    if strong is not None:
        return f"<strong>{inline(strong)}</strong>"
    if emphasis is not None:
        return f"<em>{inline(emphasis)}</em>"
    return html.escape(literal if literal is not None else other)
