"""The files of one clip as they are: what is there, what can be read, and what is wrong with it."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import blobfile as bf

from videomdm_ext.data import files
from videomdm_ext.data.files import Array
from videomdm_ext.data.findings import ERROR, WARNING, Finding
from videomdm_ext.data.folder import Card, names, on_plane
from videomdm_ext.data.texts import parse_texts
from videomdm_ext.errors import DatasetError

CAPTIONS_LIMIT = 1 << 20
"""Bytes of the captions of a clip."""


@dataclass
class Files:
    """The bytes of a clip's files by kind, their states, and what is wrong already."""

    clip_id: str
    places: dict[str, str]
    content: dict[str, bytes] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def add(self, kind: str, message: str, level: str = ERROR) -> None:
        self.findings.append(Finding(self.clip_id, kind, message, level))

    def digest(self) -> str:
        """A hash of the names and bytes, and of what could not be read."""
        content = hashlib.sha256()
        for key, name in self.places.items():
            data = self.content.get(key)
            content.update(f"{name}\0{self.states.get(key)}\0{-1 if data is None else len(data)}\0".encode())
            content.update(data or b"")
        return content.hexdigest()


@dataclass
class Raw:
    """What could be read of a clip: arrays by name, captions. Names: teacher, truth, points, confidence, extrinsics,
    truth_extrinsics, intrinsics, image_size."""

    clip_id: str
    arrays: dict[str, Array] = field(default_factory=dict)
    texts: tuple[str, ...] = ()


def fetch(path: str, card: Card, clip_id: str) -> Files:
    """Read the files of a clip; nothing is raised, the findings tell."""
    found = Files(clip_id, names(clip_id, card))
    for key, name in found.places.items():
        place = bf.join(path, name)
        found.states[key] = "found"
        if files.leads_out(place, path):
            found.states[key] = "corrupt"
            found.add("link-out", f"{name} leads out of the folder and was not read")
        elif not bf.exists(place):
            found.states[key] = "missing"
            if key != "truth":
                found.add("missing-file", f"{name} is not there")
        else:
            _read(found, key, place)
    return found


def _read(found: Files, key: str, place: str) -> None:
    limit = CAPTIONS_LIMIT if key == "texts" else files.BYTES_LIMIT
    try:
        found.content[key] = files.read_bytes(place, limit=limit)
    except DatasetError as error:
        found.states[key] = "corrupt"
        found.add("corrupt-file", str(error))
        return
    if not found.content[key].strip():
        found.states[key] = "empty"
        kind = "caption-missing" if key == "texts" else "empty-file"
        found.add(kind, f"{found.places[key]} has no content")


def parse(found: Files) -> Raw:
    """The arrays and captions of a clip's files, those that can be read; states and findings are told in `found`."""
    raw = Raw(found.clip_id)
    parsers: dict[str, Callable[[bytes, str], dict[str, Array]]] = {
        "teacher": lambda data, name: {"teacher": files.array_from(data, name)},
        "truth": lambda data, name: {"truth": files.array_from(data, name)},
        "keypoints": lambda data, name: files.arrays_from(data, name, needed=("confidence",)),
        "camera": lambda data, name: files.arrays_from(data, name, needed=("extrinsics",)),
    }
    for key, parser in parsers.items():
        if found.states[key] == "found":
            try:
                raw.arrays |= parser(found.content[key], found.places[key])
            except DatasetError as error:
                found.states[key] = "corrupt"
                kind = "pickle" if isinstance(error, files.PickleInsideError) else "corrupt-file"
                found.add(kind, str(error))
    if found.states["keypoints"] == "found":
        try:
            raw.arrays["points"] = on_plane(raw.arrays, raw.arrays, found.places["keypoints"])
        except DatasetError as error:
            found.states["keypoints"] = "corrupt"
            found.add("corrupt-file", str(error))
    raw.arrays.pop("pixels", None)
    if found.states["texts"] == "found":
        raw.texts = _captions(found)
    _check_pair(found, raw)
    return raw


def _check_pair(found: Files, raw: Raw) -> None:
    """A truth and its camera come together."""
    if found.states["truth"] == "missing" and "truth_extrinsics" in raw.arrays:
        found.add("missing-file", f"{found.places['truth']} is not there, but a camera for it is")
    if "truth" in raw.arrays and "extrinsics" in raw.arrays and "truth_extrinsics" not in raw.arrays:
        found.add("missing-file", f"{found.places['camera']} has no truth_extrinsics, the camera of the truth")


def _captions(found: Files) -> tuple[str, ...]:
    name = found.places["texts"]
    try:
        text = found.content["texts"].decode("utf-8")
    except UnicodeDecodeError as error:
        found.states["texts"] = "corrupt"
        found.add("caption-encoding", f"{name} is not UTF-8 ({error})")
        return ()
    if _looks_decoded_twice(text):
        found.add("caption-encoding", f"{name} looks decoded twice: {text.strip()[:60]!r}", WARNING)
    try:
        captions = parse_texts(text, name)
    except DatasetError as error:
        found.states["texts"] = "corrupt"
        found.add("caption-format", str(error))
        return ()
    if not captions or not all(caption.strip() for caption in captions):
        found.add("caption-missing", f"{name} has a line without a caption")
    return captions


def _looks_decoded_twice(text: str) -> bool:
    """Whether UTF-8 was read as Latin-1 or Windows-1252 and saved again."""
    if text.isascii():
        return False
    for encoding in ("latin-1", "cp1252"):
        try:
            text.encode(encoding).decode("utf-8")
        except UnicodeError:
            continue
        return True
    return "\ufffd" in text
