"""What is known of the clips of a split without reading them, and the set of clips that is read as it is used.

DIR/index/SPLIT.tsv has a line for each clip: id, frames, `t` where it has a truth and `k` where its motion is known,
CRC-32 of its files, its place in a packed set, captions. It is written with the clips. Its first line is a hash of the
rest, of the card and of the rules of a clip: an index that does not fit is made anew by reading every clip once.
Baselines train on shares of such a set (`best`, `with_known`).
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, overload

import blobfile as bf
import numpy as np

from videomdm_ext.data import files
from videomdm_ext.data.checks import rules
from videomdm_ext.data.clip import Clip, reprojection_error, with_truth_as_teacher
from videomdm_ext.errors import DatasetError, StorageError

FOLDER = "index"
KEPT_BYTES = 1 << 28
"""Bytes of clips that stay in memory once they were read; the others are read again whenever they are used."""


class Entry(NamedTuple):
    """A clip in the index. `captions` is a JSON list; `place` is where a packed set keeps the clip."""

    id: str
    frames: int
    marks: str
    sum: int
    place: str
    captions: str

    @classmethod
    def of(cls, clip: Clip, content: Mapping[str, bytes] | None = None, place: str = "") -> "Entry":
        """The entry of a clip; `content` is that of its files."""
        marks = "t" * (clip.truth is not None) + "k" * clip.is_known
        captions = json.dumps([text.strip() for text in clip.texts])
        return cls(clip.id, clip.length, marks, checksum(content or {}), place, captions)

    @classmethod
    def parse(cls, line: str) -> "Entry":
        """ValueError for a line that is none of ours."""
        clip_id, frames, marks, found, place, captions = line.split("\t", 5)
        return cls(clip_id, int(frames), marks, int(found), place, captions)

    @classmethod
    def known(cls, line: str, clip_id: str) -> str:
        """The line, where it is one of this clip; else an empty one, for which the clip is read again."""
        with contextlib.suppress(ValueError, TypeError):
            entry = cls.parse(line)
            if entry.id == clip_id and all(map(str.strip, entry.texts)):
                return line
        return ""

    @property
    def line(self) -> str:
        return "\t".join(map(str, self))

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(json.loads(self.captions))

    @property
    def has_truth(self) -> bool:
        return "t" in self.marks

    @property
    def is_known(self) -> bool:
        return "k" in self.marks


def checksum(content: Mapping[str, bytes]) -> int:
    """CRC-32 of the files of a clip."""
    found = 0
    for key, data in content.items():
        found = zlib.crc32(data, zlib.crc32(f"{key}\0{len(data)}\0".encode(), found))
    return found


class Lines(Sequence[Entry]):
    """Entries that are parsed as they are used: a million of them take the memory of their text."""

    def __init__(self, lines: Sequence[str]) -> None:
        self.lines = lines

    def __len__(self) -> int:
        return len(self.lines)

    @overload
    def __getitem__(self, index: int) -> Entry: ...
    @overload
    def __getitem__(self, index: slice) -> "Lines": ...
    def __getitem__(self, index: int | slice) -> "Entry | Lines":
        return Lines(self.lines[index]) if isinstance(index, slice) else Entry.parse(self.lines[index])


def write(path: str, split: str, facts: str, lines: Sequence[str]) -> None:
    """Write the index of a split; a folder that cannot be written goes without. `facts` are what it depends on."""
    rest = "".join(f"{line}\n" for line in lines)
    with contextlib.suppress(StorageError):
        files.write_bytes(_place(path, split), f"{_seal(facts, rest)}\n{rest}".encode())


def read(path: str, split: str, facts: str) -> list[str]:
    """The lines of the index of a split, none where there is no index, or one of other clips or damaged."""
    place = _place(path, split)
    if not bf.exists(place) or files.leads_out(place, path):
        return []
    try:
        seal, _, rest = files.read_text(place, limit=files.BYTES_LIMIT).partition("\n")
    except DatasetError:
        return []
    return rest.split("\n")[:-1] if seal == _seal(facts, rest) else []


def _place(path: str, split: str) -> str:
    return bf.join(path, FOLDER, f"{split}.tsv")


def _seal(facts: str, rest: str) -> str:
    return hashlib.sha256(f"{facts}{rules.version()}{rest}".encode()).hexdigest()


class Clips(Sequence[Clip]):
    """Clips of which a few are in memory: those beyond KEPT_BYTES are read again whenever they are used.

    `entries` hold what is known of each without reading it. A slice and what `map` returns are as lazy.
    """

    def __init__(self, entries: Sequence[Entry], read: Callable[[Entry], Clip]) -> None:
        self.entries, self.read = entries, read
        self.kept: dict[int, Clip] = {}
        self.room = KEPT_BYTES

    @classmethod
    def of(cls, clips: Sequence[Clip]) -> "Clips":
        """Those in memory as such a set; the set itself where it is one."""
        if isinstance(clips, Clips):
            return clips
        known = {clip.id: clip for clip in clips}
        return cls([Entry.of(clip) for clip in clips], lambda entry: known[entry.id])

    def map(self, change: Callable[[Clip], Clip]) -> "Clips":
        """The clips, each changed once it was read. The change leaves id, length and captions as they are."""
        return Clips(self.entries, lambda entry: change(self.read(entry)))

    def __len__(self) -> int:
        return len(self.entries)

    @overload
    def __getitem__(self, index: int) -> Clip: ...
    @overload
    def __getitem__(self, index: slice) -> "Clips": ...
    def __getitem__(self, index: int | slice) -> "Clip | Clips":
        if isinstance(index, slice):
            return Clips(self.entries[index], self.read)
        index = range(len(self.entries))[index]
        if index not in self.kept:
            clip = self.read(self.entries[index])
            size = sum(values.nbytes for values in vars(clip).values() if isinstance(values, np.ndarray))
            if size > self.room:
                return clip
            self.kept[index], self.room = clip, self.room - size
        return self.kept[index]

    @property
    def longest(self) -> int:
        """Frames of the longest clip."""
        return max(entry.frames for entry in self.entries)

    def missing_truth(self) -> list[str]:
        """Ids of the clips without a true motion."""
        return [entry.id for entry in self.entries if not entry.has_truth]


# -- shares of a set, for baselines ------------------------------------------------------------------------------------


def best(clips: Clips, share: float) -> Clips:
    """The share of the clips, one at least, whose teachers are nearest to their keypoints, in the set's order.

    Every clip is read once. Motion that is known as it is has no error.
    """
    errors = [0.0 if entry.is_known else reprojection_error(clips.read(entry)) for entry in clips.entries]
    order = sorted(range(len(errors)), key=lambda number: (errors[number], number))
    chosen = sorted(order[: count_of(share, len(clips))])
    return Clips([clips.entries[number] for number in chosen], clips.read)


def with_known(clips: Clips, original: Clips, share: float) -> Clips:
    """The clips with the truth of a share of them, one at least, as motion that is known and that no camera saw.

    The share is drawn by a hash of the ids, so that a larger one holds a smaller one. `original` are the same clips,
    which may have other teachers, and DatasetError names one that is drawn and has no truth.
    """
    draw = sorted(entry.id for entry in clips.entries)
    draw.sort(key=lambda clip_id: hashlib.sha256(f"known/{clip_id}".encode()).digest())
    drawn = set(draw[: count_of(share, len(draw))])
    entries = [
        entry._replace(marks=entry.marks.replace("k", "") + "k") if entry.id in drawn else entry
        for entry in clips.entries
    ]
    return Clips(entries, lambda entry: as_known(original.read(entry)) if entry.id in drawn else clips.read(entry))


def as_known(clip: Clip) -> Clip:
    """The clip with its truth in the place of its teacher, and nothing seen."""
    return dataclasses.replace(with_truth_as_teacher(clip), confidence=np.zeros_like(clip.confidence))


def count_of(share: float, total: int) -> int:
    """Clips of a share, rounded, one at least."""
    return max(1, math.floor(share * total + 0.5))
