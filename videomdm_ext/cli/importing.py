"""The verbs `data import` and `data merge`: a data set from other people's data, or from several data sets."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro

from videomdm_ext import plugins
from videomdm_ext.cli.console import bars, console, counted, counting, lifter_summary, parse, quoted
from videomdm_ext.data.importing import Imported, find_importer, merge, run_import
from videomdm_ext.data.motions import PREFIX
from videomdm_ext.data.sources.base import SHARES, ImportOptions
from videomdm_ext.errors import ConfigError

REASONS = 8
"""Kinds of reason for which clips were left out that are shown."""


@dataclass(frozen=True)
class ImportData:
    """Make a data set folder from other people's data; started again, it goes on where it stopped.

    `videomdm data import list .` names the kinds and their options.
    """

    kind: Annotated[str, tyro.conf.Positional]
    """What the source is, such as joints or humanml3d; list: show them all."""
    source: Annotated[str, tyro.conf.Positional] = "."
    """Folder or file of the source."""
    out: str = ""
    """Folder of the data set; by default runs/data/KIND."""
    name: str = ""
    """Name on the card; by default the kind."""
    seed: int = 0
    """Seed of splits, cameras, detector and lifter."""
    views: int = 1
    """Cameras a clip, where the cameras are ours to place."""
    lifter: str = "synthetic"
    """A registered lifter, for sources that bring no teacher of their own."""
    captions: str = ""
    """A file with lines ID<tab>caption, for sources without texts."""
    split: str = ",".join(map(str, SHARES))
    """Shares of the trials for train, val and test, where the source has no splits of its own."""
    option: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """KEY=VALUE of one kind alone; may be repeated."""


def import_data(words: Sequence[str]) -> int:
    """Run an importer, and print what came of it."""
    options = parse(ImportData, "data import", words)
    if options.kind == "list":
        return list_kinds()
    if options.views < 1:
        raise ConfigError(f"--views: expected 1 or more, found {options.views}. Correct it.")
    kind = find_importer(options.kind)
    out = options.out or str(Path("runs/data") / options.kind)
    importer = kind(
        options.source,
        ImportOptions(
            seed=options.seed,
            views=options.views,
            lifter=options.lifter,
            captions=options.captions,
            extra=pairs(options.option),
            split=shares(options.split),
        ),
    )
    torch.set_num_threads(1)  # arrays this small only wait for each other
    with bars() as progress:
        done = run_import(importer, out, progress=counting(progress, f"importing {options.kind}"), name=options.name)
    tell(done, out)
    return 0


def list_kinds() -> int:
    """The registered importers and lifters, and what --option takes for each."""
    manager = plugins.create_manager()
    for name, importer in sorted(plugins.collect(manager, "datasets").items()):
        tell_options(f"[bold]{name}[/]  {importer.about}", importer.extras or {})
    console.print("A lifter for kinds without a teacher; lifter.KEY may be KEY where the kind has no option KEY:")
    for name, lifter in sorted(plugins.collect(manager, "lifters").items()):
        options = getattr(lifter, "options", {})
        tell_options(f"[bold]--lifter {name}[/]", {f"{PREFIX}{key}": about for key, about in options.items()})
    return 0


def tell_options(title: str, options: Mapping[str, str]) -> None:
    """A title, and below it keys of --option with a line of help each."""
    console.print(title)
    for key, about in options.items():
        console.print(f"    --option {key}=...  {about}", highlight=False)


def shares(text: str) -> tuple[float, float, float]:
    """Three numbers with commas between them; ImportOptions checks what they add up to."""
    try:
        train, val, test = map(float, text.split(","))
    except ValueError as error:
        raise ConfigError(
            f"--split: expected three numbers, the shares of train, val and test, found {text!r}. Write them as in "
            "--split 0.8,0.05,0.15."
        ) from error
    return train, val, test


def pairs(words: Sequence[str]) -> dict[str, str]:
    """KEY=VALUE words as a dictionary; the values may hold further equals signs."""
    found = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key or key in found:
            raise ConfigError(f"--option {word!r}: expected KEY=VALUE, each key once. Correct it.")
        found[key] = value
    return found


def tell(done: Imported, out: str) -> None:
    """The counts, the lifter's error, what was left out and why, and the next command."""
    card = done.card
    counts = ", ".join(f"{count} {split}" for split, count in card.counts.items())
    console.print(f"{out}: {counts} clips of {card.skeleton} at {card.fps:g} fps, content {card.content_hash[:12]}")
    error = lifter_summary(card) if card.lifter_error else "its error is unknown, for the source has no true motion"
    console.print(f"    teachers by {card.lifter}: {error}")
    if done.left_out:
        console.print(f"    {len(done.left_out)} left out:")
    for count, clip_id, message in grouped(done.left_out)[:REASONS]:
        console.print(f"    {count:>5} such as {clip_id}: {message}", markup=False, highlight=False)
    if len(grouped(done.left_out)) > REASONS:
        console.print(f"          and for {len(grouped(done.left_out)) - REASONS} further reasons")
    clips = quoted(out)
    console.print(f"Next: videomdm train --arm 2d --clips {clips} --save_dir runs/2d")


def grouped(left_out: Mapping[str, str]) -> list[tuple[int, str, str]]:
    """Reasons by kind, the most frequent first: how many clips, the first of them, and its message.

    Messages are of one kind when they expect the same, whatever place and numbers they name.
    """
    kinds: dict[str, list[str]] = {}
    for clip_id, message in left_out.items():
        expected = message.partition(": expected ")[2].partition(", found ")[0] or message.partition(": ")[2]
        kinds.setdefault(re.sub(r"[\d.]+", "0", expected), []).append(clip_id)
    rows = [(len(ids), ids[0], left_out[ids[0]]) for ids in kinds.values()]
    return sorted(rows, key=lambda row: -row[0])


@dataclass(frozen=True)
class Merge:
    """Copy the clips of several data sets into one: more views, more videos, or motion capture beside videos."""

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Data sets with the same skeleton, frame rate and heading rule."""
    out: Path = Path("merged")
    """Folder of the new data set; an interrupted merge goes on."""
    name: str = ""
    """Name on the card; empty: the names of the parts."""


def merge_data(words: Sequence[str]) -> int:
    """One folder with all clips."""
    options = parse(Merge, "data merge", words)
    with bars() as progress:
        report = counting(progress, "merging")
        card = merge([str(folder) for folder in options.folders], str(options.out), name=options.name, progress=report)
    console.print(f"{options.out}: {counted(card)}, lifter {card.lifter}, content {card.content_hash[:12]}")
    console.print(f"Next: videomdm data check {quoted(options.out)}")
    return 0
