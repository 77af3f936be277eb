"""Commands in the documents: those of bash blocks, and those in `code` in the running text."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
GENERATED = ROOT / "docs" / "options.md"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`(videomdm [^`]+)`(?!`)")


@dataclass(frozen=True)
class Command:
    """One command: its words, the document it stands in, and the folder that `cd` before it leads to."""

    words: tuple[str, ...]
    document: str
    folder: str = "."

    def __str__(self) -> str:
        return f"{self.document}: {' '.join(self.words)}"


def blocks(text: str, language: str) -> list[str]:
    """The code blocks of a language."""
    return [block for name, block in BLOCK.findall(text) if name == language]


def commands() -> list[Command]:
    """Every command in the documents that are written by hand, each once."""
    found: list[Command] = []
    for place in DOCUMENTS:
        if place != GENERATED:
            text = place.read_text(encoding="utf-8")
            name = place.relative_to(ROOT).as_posix()
            found += [command for block in blocks(text, "bash") for command in of_block(block, name)]
            found += of_text(BLOCK.sub("", text), name)
    return list(dict.fromkeys(found))


def of_block(block: str, document: str) -> Iterator[Command]:
    """The commands of a bash block; `cd` is followed until the block ends."""
    folder = "."
    for line in block.replace("\\\n", "").splitlines():
        for words in simple_commands(line):
            if words[0] == "cd":
                folder = words[1]
            yield Command(words, document, folder if words[0] != "cd" else ".")


def simple_commands(line: str) -> Iterator[tuple[str, ...]]:
    """A line of bash without its comment, cut at && and the like, and without assignments in front."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";|&")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if set(word) <= set(";|&"):
            if words:
                yield tuple(words)
            words = []
        elif words or not re.match(r"[A-Z_]+=", word):
            words.append(word)


def of_text(text: str, document: str) -> Iterator[Command]:
    """Commands in running text: `[--mdm PATH]` counts as given, `a|b` as its first, `ARGS...` as one word."""
    for span in INLINE.findall(text):
        words = [word.split("|")[0].removesuffix("...") for word in re.sub(r"[\[\]]", "", span).split()]
        yield Command(tuple(shlex.split(" ".join(words))), document)
