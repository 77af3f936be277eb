"""The verb that makes one data set of several."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from videomdm_ext.cli.console import bars, console, counting, parse
from videomdm_ext.data.importing import merge


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
    console.print(f"{options.out}: {card.counts} clips, lifter {card.lifter}, content {card.content_hash[:12]}")
    console.print(f"Next: videomdm data check {options.out}")
    return 0
