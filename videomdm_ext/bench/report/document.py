"""What a report is made of: sections of words, tables and figures, written once; as Markdown and as LaTeX.

Texts and cells are Markdown with `code`, **strong** and *emphasis*; `plain` escapes what others wrote. The page
(`html`) renders the same blocks. Numbers are written here too.
"""

import html
import math
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from videomdm_ext.bench.statistics import Estimate, Ratio
from videomdm_ext.motion.skeletons import Skeleton
from videomdm_ext.render import figures
from videomdm_ext.render.figures import Example
from videomdm_ext.render.page import Scene

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from matplotlib.figure import Figure as Drawing

_MARKS = re.compile(r"([\\`*_<>\[\]#&~])")


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


@dataclass(frozen=True)
class Figure:
    """A picture: what it shows, in words, and a function that draws it.

    With a `file`, its name, it stands beside report.md, without in the page, under a `note`. `scene` is the number of
    the scene of the page's player that it is of.
    """

    text: str
    draw: Callable[[], "Drawing"]
    file: str = ""
    note: str = ""
    scene: int | None = None

    def save(self, path: str) -> None:
        """Write it as PNG."""
        figures.save(self.draw(), path)


@dataclass(frozen=True)
class Animation:
    """An animation beside report.md."""

    text: str
    file: str
    example: Example
    skeleton: Skeleton
    fps: float

    def save(self, path: str) -> None:
        """Write it as GIF."""
        figures.animation(path, self.example, self.skeleton, fps=self.fps)


@dataclass(frozen=True)
class Motions:
    """Scenes that the page plays, under a note."""

    scenes: Sequence[Scene]
    skeleton: Skeleton
    fps: float
    note: str = ""


Block = str | Table | Items | Listing | Figure | Animation | Motions


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    title: str
    blocks: Sequence[Block]

    @property
    def anchor(self) -> str:
        """Its name in links."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


# -- Markdown ---------------------------------------------------------------------------------------------------------


def plain(text: str) -> str:
    """Words of others as Markdown that shows them as they are, on one line."""
    return _MARKS.sub(r"\\\1", " ".join(text.split()))


@cache
def _reader() -> "MarkdownIt":
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark", {"html": False})


def inline(text: str) -> str:
    """A line of Markdown as HTML; everything in it is escaped."""
    return str(_reader().renderInline(text))


def unmarked(text: str) -> str:
    """A cell as it reads: without marks and escapes."""
    return html.unescape(re.sub(r"<[^>]*>", "", inline(text)))


def markdown(section: Section) -> str:
    """A section of report.md; nothing where all of it is for the page."""
    blocks = [text for block in section.blocks if (text := markdown_block(block))]
    return "\n\n".join([f"## {section.title}", *blocks]) if blocks else ""


def markdown_block(block: Block) -> str:
    """A block of report.md; nothing where it is for the page."""
    if isinstance(block, Table):
        ruler = ["---" if block.left(column) else "---:" for column in range(len(block.head))]
        lines = [block.head, ruler, *block.rows]
        return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    if isinstance(block, Items):
        return "\n".join(f"- {text}" for text in block.texts)
    if isinstance(block, Listing):
        fence = max(["```", *(f"{run}`" for run in re.findall("`{3,}", block.text))], key=len)
        return f"{fence}\n{block.text.rstrip()}\n{fence}"
    if isinstance(block, Figure | Animation):
        return f"{block.text}\n\n![{block.text}]({block.file})" if block.file else ""
    return block if isinstance(block, str) else ""


# -- LaTeX ------------------------------------------------------------------------------------------------------------

_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "±": r"$\pm$", "\u2013": "--", "\u2212": "$-$", "…": r"\dots{}",
}  # fmt: skip
_RAISED = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")


def escaped(text: str) -> str:
    """Text as LaTeX that shows it as it is; raised figures as powers."""
    pieces = re.split("([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)", " ".join(text.split()))
    words = ["".join(_SPECIAL.get(letter, letter) for letter in piece) for piece in pieces[::2]]
    powers = [f"$^{{{piece.translate(_RAISED)}}}$" for piece in pieces[1::2]]
    return "".join(word + power for word, power in zip(words, [*powers, ""], strict=True))


def latex(table: Table, caption: str, bold: Collection[tuple[int, int]] = ()) -> str:
    """A table environment (booktabs) without the first head: rows that are quiet stand below a line; cells (row,
    column) in `bold` are bold."""
    rows = [[escaped(unmarked(cell)) for cell in row] for row in table.rows]
    for row, column in bold:
        rows[row][column] = rf"\textbf{{{rows[row][column]}}}"
    groups: tuple[list[str], list[str]] = [], []
    for place, cells in enumerate(rows):
        groups[place in table.quiet].append(" & ".join(cells) + r" \\")
    body = "\n\\midrule\n".join("\n".join(group) for group in groups if group)
    head = " & ".join(["", *(escaped(unmarked(name)) for name in table.head[1:])])
    return (
        "% Needs \\usepackage{booktabs}\n\\begin{table}\n\\centering\n"
        f"\\caption{{{escaped(caption)}}}\n\\begin{{tabular}}{{l{'r' * (len(table.head) - 1)}}}\n"
        f"\\toprule\n{head} \\\\\n\\midrule\n{body}\n\\bottomrule\n\\end{{tabular}}\n\\end{{table}}\n"
    )


# -- numbers ----------------------------------------------------------------------------------------------------------


def decimals(value: float, digits: int) -> int:
    """Places behind the point that show so many significant digits, 0 to 4."""
    if value == 0 or not math.isfinite(value):
        return 0
    return min(max(digits - 1 - math.floor(math.log10(abs(value))), 0), 4)


def number(value: float | None, scale: float = 1.0) -> str:
    """Three significant digits; "not finite" for NaN, a dash for none."""
    if value is None:
        return "–"  # noqa: RUF001
    if not math.isfinite(value):
        return "not finite"
    if 0 < abs(value * scale) < 5e-5:
        return "< 0.0001"
    return f"{value * scale:.{decimals(value * scale, 3)}f}"


def estimate_text(estimate: Estimate, scale: float = 1.0, sign: str = "") -> str:
    """Mean and half-width of the interval; the mean alone for one value."""
    mean, half = estimate.mean * scale, estimate.half_width
    if half is None or not math.isfinite(mean):
        return number(mean)
    places = min(decimals(half * scale, 2), decimals(mean, 3) + 2) if half else decimals(mean, 3)
    return f"{mean:{sign}.{places}f} ± {half * scale:.{places}f}"


def ratio_text(ratio: Ratio | None) -> str:
    """Value and interval; says where an interval has no finite ends."""
    if ratio is None or not math.isfinite(ratio.value):
        return "–"  # noqa: RUF001
    if ratio.interval is None:
        return f"{ratio.value:.2f}" + (" (unbounded)" if ratio.n > 1 else "")
    return f"{ratio.value:.2f} [{ratio.interval[0]:.2f}, {ratio.interval[1]:.2f}]"


def share_text(ratio: Ratio) -> str:
    """A share in per cent with its interval; says where an interval has no finite ends."""
    if ratio.interval is None:
        return f"{100 * ratio.value:.0f} %" + (" (unbounded)" if ratio.n > 1 else "")
    return f"{100 * ratio.value:.0f} % [{100 * ratio.interval[0]:.0f}, {100 * ratio.interval[1]:.0f}]"


def with_unit(text: str, unit: str) -> str:
    """A written number with its unit; a unit that starts with a power of ten takes a sign of multiplication."""
    if not unit[:1].isdigit():
        return f"{text} {unit}".strip()
    return f"({text}) × {unit}" if "±" in text else f"{text} × {unit}"  # noqa: RUF001


def p_text(p: float) -> str:
    """A p-value to two significant digits, "p < 0.0001" below that."""
    return "p < 0.0001" if p < 1e-4 else "p = 1" if p > 0.995 else f"p = {p:.{decimals(p, 2)}f}"
