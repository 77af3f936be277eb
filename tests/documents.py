"""Commands in the documents: those of bash blocks, and those in `code` in the running text."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
GENERATED = ROOT / "docs" / "options.md"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`(videomdm [^`]+)`(?!`)")
DEVELOPERS = frozenset({"dev", "test"})
"""Extras whose packages no command of a user needs."""


@dataclass(frozen=True)
class Command:
    """One command: its words, the document it stands in, the folder that `cd` before it leads to, and its extras.

    `extras` are those that the document has asked for up to there, without those for developers; a document that asks
    for none is read beside README.md, whose first command installs `demo`.
    """

    words: tuple[str, ...]
    document: str
    folder: str = "."
    extras: frozenset[str] = frozenset({"demo"})

    def __str__(self) -> str:
        return f"{self.document}: {' '.join(self.words)}"


def blocks(text: str, language: str) -> list[str]:
    """The code blocks of a language."""
    return [block for name, block in BLOCK.findall(text) if name == language]


def commands() -> list[Command]:
    """Every command in the documents that are written by hand, each once, in the order in which they stand."""
    found: dict[tuple[str, tuple[str, ...]], Command] = {}
    for place in DOCUMENTS:
        if place != GENERATED:
            name = place.relative_to(ROOT).as_posix()
            for command in of_document(place.read_text(encoding="utf-8"), name):
                found.setdefault((name, command.words), command)
    return list(found.values())


def of_document(text: str, name: str) -> Iterator[Command]:
    """The commands of a document, with the extras that it has asked for."""
    extras: frozenset[str] = frozenset()
    for section in re.split(r"^(?=## )", text, flags=re.MULTILINE):
        named = frozenset(re.findall(r"extras? `(\w+)`", BLOCK.sub("", section)))
        for match in re.finditer(f"{BLOCK.pattern}|{INLINE.pattern}", section, BLOCK.flags):
            block = match[2] if match[1] == "bash" else ""
            for command in of_text(match[0], name) if match[2] is None else of_block(block, name):
                if command.words[:2] == ("pip", "install"):
                    asked = re.search(r"\[([\w,]+)\]", " ".join(command.words))
                    extras |= set(asked[1].split(",")) - DEVELOPERS if asked else set()
                yield replace(command, extras=(extras or Command.extras) | named)


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
