"""What the verbs share: arguments, progress bars, and a lifter's error in words."""

import dataclasses
import difflib
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, get_origin, get_type_hints

import tyro
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from videomdm_ext.data.folder import SPLITS, Card, read_ids
from videomdm_ext.errors import ConfigError, printable


class PlainConsole(Console):
    """A console that prints no control character of a name or a caption as it is."""

    def render_str(self, text: str, **style: Any) -> Text:
        """The text as rich renders it, which is all that it prints: lines, cells of tables and their titles."""
        return super().render_str(printable(text), **style)


console = PlainConsole(width=None if sys.stdout.isatty() else 110, soft_wrap=not sys.stdout.isatty())
Arguments = TypeVar("Arguments")


def parse(arguments: type[Arguments], verb: str, words: Sequence[str]) -> Arguments:
    """A dataclass from the command line; --help describes its fields, and those of dataclasses in it."""
    config = (tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes)
    return tyro.cli(arguments, prog=f"videomdm {verb}", args=list(words), config=config)


def refuse_repeated(arguments: Any, words: Sequence[str]) -> None:
    """Raise ConfigError where an option that collects values is given twice, as those of the first would be lost."""
    names = [word.split("=")[0].replace("_", "-") for word in words]
    hints = get_type_hints(arguments, include_extras=True)
    for field in dataclasses.fields(arguments):
        option = f"--{field.name.replace('_', '-')}"
        if dataclasses.is_dataclass(hints[field.name]):
            refuse_repeated(hints[field.name], words)
        elif get_origin(hints[field.name]) is tuple and field.default == () and names.count(option) > 1:
            raise ConfigError(f"{option}: expected once, found it twice. Give all its values behind one.")


def take(words: list[str], option: str) -> tuple[str | None, list[str]]:
    """The value of an option, and the words without it."""
    for index, word in enumerate(words):
        if word.startswith(f"{option}="):
            return word.split("=", 1)[1], words[:index] + words[index + 1 :]
        if word == option:
            if index + 1 == len(words):
                raise ConfigError(f"{option}: expected a value behind it, found none.")
            return words[index + 1], words[:index] + words[index + 2 :]
    return None, words


@contextmanager
def bars() -> Iterator[Progress]:
    """Progress bars that vanish in a pipe."""
    columns = (TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn())
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, *times, console=console, disable=not console.is_terminal) as progress:
        yield progress


@contextmanager
def counting(label: str) -> Iterator[Callable[[int, int], None]]:
    """A callback (done, total) that moves the one bar."""
    with bars() as progress:
        yield partial(by_name(progress), label)


def by_name(progress: Progress, *, alone: bool = False) -> Callable[[str, int, int], None]:
    """A callback (name, done, total) that moves the name's own bar, a new one for each, alone or beside the others."""
    tasks: dict[str, TaskID] = {}

    def move(name: str, done: int, total: int) -> None:
        if name not in tasks:
            for task in tasks.values():
                progress.update(task, visible=not alone)
            tasks[name] = progress.add_task(printable(name), total=total)
        progress.update(tasks[name], completed=done, total=total)

    return move


def say_next(command: str) -> None:
    """Print the command that is useful now, as one line to be pasted into a shell."""
    console.print(f"Next: videomdm {command}", markup=False, soft_wrap=True)


def quoted(path: str | Path) -> str:
    """A path as one word of a command line that is printed to be pasted into a shell."""
    return shlex.quote(str(path))


def clips_of(card: Card) -> str:
    """How many clips each split has, in words."""
    clips = "clip" if sum(card.counts.values()) == 1 else "clips"
    return f"{', '.join(f'{count} {split}' for split, count in card.counts.items())} {clips}"


def lifter_summary(card: Card) -> str:
    """A lifter's error in words."""
    error = card.lifter_error
    return (
        f"{1000 * error['mpjpe']:.0f} mm globally, {1000 * error['root_aligned_mpjpe']:.0f} mm root-aligned, "
        f"{1000 * error['pa_mpjpe']:.0f} mm PA; bones wander by {100 * error['bone_wander']:.1f} %"
    )


def chosen_ids(path: str, card: Card, ids: Sequence[str], split: str) -> Sequence[str]:
    """The clips of --ids, all of which the data set at `path` must have; without any, those of --split. ConfigError."""
    if split not in SPLITS:
        raise ConfigError(f"--split: expected one of {', '.join(SPLITS)}, found {split!r}. Correct it.")
    if not ids and not card.counts.get(split):
        raise ConfigError(f"--split {split}: expected clips in {path}, found none. Choose another split.")
    if not ids:
        return read_ids(path, split)
    known = [clip_id for name in SPLITS if card.counts.get(name) for clip_id in read_ids(path, name)]
    for clip_id in ids:
        if clip_id not in known:
            near = difflib.get_close_matches(clip_id, known, 3) or known[:3]
            raise ConfigError(f"--ids {clip_id}: expected a clip of {path}, found none. There are {', '.join(near)}.")
    return ids


def pairs(words: Sequence[str]) -> dict[str, str]:
    """KEY=VALUE words as a dictionary; the values may hold further equals signs."""
    found = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key or key in found:
            raise ConfigError(f"--option {word!r}: expected KEY=VALUE, each key once. Correct it.")
        found[key] = value
    return found
