"""Captions of videos: lines NAME<tab>CAPTION, perhaps with the start and the end in seconds behind further tabs."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

from videomdm_ext.data import files
from videomdm_ext.errors import DatasetError


@dataclass(frozen=True)
class Caption:
    """What happens in a video: in all of it, or from `start` to `stop` seconds."""

    text: str
    start: float = 0.0
    stop: float = math.inf

    @property
    def is_whole(self) -> bool:
        return self.start == 0.0 and self.stop == math.inf


def read_captions(place: str) -> dict[str, list[Caption]]:
    """Captions by the name in the first column, a video's file name with or without its ending."""
    found: dict[str, list[Caption]] = {}
    for number, line in enumerate(files.read_text(place).splitlines(), start=1):
        if line.strip():
            name, caption = _line(line, f"{place}: line {number}")
            found.setdefault(name, []).append(caption)
    return found


def _line(line: str, place: str) -> tuple[str, Caption]:
    fields = [field.strip() for field in line.split("\t")]
    try:
        start, stop = (float(field) for field in fields[2:]) if len(fields) > 2 else (0.0, math.inf)
        good = len(fields) > 1 and all(fields[:2]) and "#" not in fields[1] and 0 <= start < stop
    except ValueError:
        good = False
    if not good:
        raise DatasetError(
            f"{place}: expected NAME, a tab and a caption without '#', perhaps start and end in seconds behind further "
            f"tabs, found {line[:80]!r}. Write it so."
        )
    return fields[0], Caption(fields[1], start, stop)


def captions_of(found: dict[str, list[Caption]], video: str, place: str) -> Sequence[Caption]:
    """The captions of a video; DatasetError where there are none."""
    name = os.path.basename(video)
    captions = [*found.get(name, ()), *found.get(os.path.splitext(name)[0], ())]
    if not captions:
        raise DatasetError(f"{video}: expected a caption in {place}, found none. Add a line {name}<tab>CAPTION.")
    return captions
