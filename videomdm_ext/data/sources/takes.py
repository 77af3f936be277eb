"""Long takes of motion capture cut to clips: their ids, their pieces, their floor, a caption where there is none."""

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from videomdm_ext.data import files
from videomdm_ext.data.sources.base import Member

LONGEST = 196
"""Frames of a clip at most, as in HumanML3D."""
FLOOR_QUANTILE = 0.05
"""The floor lies where the lowest joint is in the lowest 5 % of the frames; a single stray frame moves it little."""


@dataclass(frozen=True)
class Piece:
    """Part `number` of `count` of the take in the file `path`, at camera `view`."""

    path: Path
    number: int
    count: int
    view: int

    def cut(self, positions: Tensor) -> Tensor:
        """This part's frames of the whole take [T, J, 3]; the parts are equally long, within a frame."""
        edges = [round(len(positions) * k / self.count) for k in (self.number, self.number + 1)]
        return positions[edges[0] : edges[1]]


def pieces(path: Path, name: str, frames: int, views: int) -> list[Member]:
    """The members of a take of `frames` frames: NAME, NAME_s0 ... of a long one, NAME_v0 ... for several views."""
    count = max(math.ceil(frames / LONGEST), 1)
    found = []
    for number in range(count):
        for view in range(views):
            part = f"_s{number}" if count > 1 else ""
            seen = f"_v{view}" if views > 1 else ""
            found.append(Member(f"{name}{part}{seen}", trial=name, place=Piece(path, number, count, view)))
    return found


def take_names(folder: Path, ending: str) -> dict[Path, str]:
    """Files below a folder that end so, in order, with an id for each: the stem, or the path where stems repeat.

    Letters that an id cannot have become `_`. Links that lead out of the folder are left out.
    """
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() == ending and p.is_file())
    inside = [path for path in found if not files.leads_out(str(path), str(folder))]
    stems = [_plain(path.stem) for path in inside]
    times, taken = Counter(stems), set[str]()
    named: dict[Path, str] = {}
    for path, stem in zip(inside, stems, strict=True):
        name = stem if times[stem] == 1 else _plain("_".join(path.relative_to(folder).with_suffix("").parts))
        while name in taken:
            name += "_"
        taken.add(name)
        named[path] = name
    return named


def _plain(name: str) -> str:
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", name)
    return plain if re.match(r"[A-Za-z0-9_]", plain) else f"_{plain}"


def captions_of(path: Path, name: str, given: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """The captions given for a take, by its id or the file's stem, else a neutral one from the file's name."""
    return given.get(name) or given.get(path.stem) or (neutral_caption(path.stem),)


def neutral_caption(stem: str) -> str:
    """What the words of a file's name say: `Aeroplane_FW2` gives "a person moves: aeroplane fw."."""
    split = re.sub(r"([a-z])([A-Z])", r"\1 \2", stem)
    words = " ".join(re.findall(r"[^\W\d_]{2,}", split)).lower()
    return f"a person moves: {words}." if words else "a person moves."


def grounded(positions: Tensor) -> Tensor:
    """The take [T, J, 3] with its floor at y = 0."""
    floor = positions[..., 1].amin(-1).quantile(FLOOR_QUANTILE)
    return positions - positions.new_tensor((0.0, 1.0, 0.0)) * floor
