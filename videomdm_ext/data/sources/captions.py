"""Text files of HumanML3D as other people write them: with or without tags, and about a part of a clip or all of it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import blobfile as bf

from videomdm_ext.data import files
from videomdm_ext.errors import DatasetError

Words = tuple[tuple[str, str], ...]
"""Words with their part of speech."""


@dataclass(frozen=True)
class Caption:
    """What happens from `start` to `stop` seconds; 0 and 0: in the whole clip. `words` are empty where untagged."""

    text: str
    words: Words = ()
    start: float = 0.0
    stop: float = 0.0

    @property
    def is_whole(self) -> bool:
        return self.start == 0.0 and self.stop == 0.0


def read_captions(place: str) -> list[Caption]:
    """Captions of a file: `caption`, `caption#word/TAG ...` or `caption#word/TAG ...#start#stop` a line."""
    lines = enumerate(files.read_text(place).splitlines(), start=1)
    return [_caption(line.strip(), f"{place}: line {number}") for number, line in lines if line.strip()]


def _caption(line: str, place: str) -> Caption:
    fields = line.split("#")
    try:
        text, words = fields[0].strip(), _words(fields[1] if len(fields) > 1 else "")
        start, stop = (_seconds(field) for field in (fields[2:] or ("0", "0")))
    except ValueError:
        text, words, start, stop = "", (), 0.0, 0.0
    if not text or start < 0 or stop < start:
        raise DatasetError(
            f"{place}: expected caption#word/TAG ...#start#stop, the words and times optional, found {line[:60]!r}. "
            "Write it so."
        )
    return Caption(text, words, start, stop)


def _words(field: str) -> Words:
    pairs = [word.rpartition("/") for word in field.split()]
    return tuple((word, tag) for word, slash, tag in pairs if slash and word and tag)


def _seconds(field: str) -> float:
    """A time as HumanML3D has it: `nan` stands for 0."""
    value = float(field)
    return 0.0 if math.isnan(value) else value


def tags_of(captions: Sequence[Caption]) -> dict[str, Sequence[tuple[str, str]]]:
    """The words of those captions that have them, by text."""
    return {caption.text: caption.words for caption in captions if caption.words}


def caption_table(place: str) -> Mapping[str, tuple[str, ...]]:
    """Captions by id from a file of lines ID<tab>caption; several lines of one id are several captions."""
    found: dict[str, list[str]] = {}
    for number, line in enumerate(files.read_text(place).splitlines(), start=1):
        name, tab, text = line.partition("\t")
        if not line.strip():
            continue
        text = text.split("\t")[0].strip()
        if not tab or not name.strip() or not text:
            raise DatasetError(
                f"{place}: line {number}: expected ID, a tab and a caption, found {line[:60]!r}. Write it so."
            )
        found.setdefault(name.strip(), []).append(text)
    return {name: tuple(texts) for name, texts in found.items()}


def stems(folder: str, ending: str) -> list[str]:
    """Names of the files in a folder that end so, without the ending, sorted."""
    if not bf.isdir(folder):
        return []
    return sorted(name.removesuffix(ending) for name in bf.listdir(folder) if name.endswith(ending))
