"""The folder format (docs/data.md): a file a clip for each of teacher, truth, keypoints, camera, texts, and a card."""

import dataclasses
import functools
import hashlib
import json
import logging
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import blobfile as bf
import numpy as np
import torch

from videomdm_ext.data import files, index, schemas, shards
from videomdm_ext.data.checks.rules import validate
from videomdm_ext.data.clip import Clip
from videomdm_ext.data.files import Array
from videomdm_ext.data.index import Clips, Entry, Lines
from videomdm_ext.data.texts import parse_texts
from videomdm_ext.errors import ConfigError, DatasetError
from videomdm_ext.geometry.cameras import normalise
from videomdm_ext.motion.kinematics import RAW, HeadingRule
from videomdm_ext.motion.skeletons import by_name

logger = logging.getLogger(__name__)

FORMAT = 1  # version of the folder format; a reader refuses any other
CARD = "dataset.json"
SPLITS = ("train", "val", "test")
NEEDED = ("confidence",)  # arrays of a keypoints file, beside `points`, or `pixels`
LOOKED_AT = 256  # clips of a split, at most, that are all read and checked when it is opened


@dataclass(frozen=True)
class Card:
    """What a folder holds. `lifter` names the maker of the teacher; `lifter_error` its measured figures, by name, and
    `detector_error` those of the keypoints, in units of the focal length; `sides_exchanged` counts the frames of videos
    in which left and right were exchanged, `repaired` and `doubted` (data/video/pieces.py).

    `heading` is the rule by which headings of the feature vectors were found, `counts` the clips of each split,
    `recipe` the settings it was made with. `content_hash` is the SHA-256 of all clip files, and `files` has those of
    the lists and the statistics by name: they name these very bytes. `identity` names what the set was made from, and
    `values` sketch its numbers, so that it is known again where another machine has made it anew (data/seal.py).
    Clips that are `packed` lie in shards. `write_folder` fills in all of these.
    """

    name: str
    skeleton: str
    fps: float
    lifter: str
    licence: str
    sources: tuple[str, ...]
    heading: HeadingRule = RAW
    units: str = "m"
    lifter_error: Mapping[str, float] = field(default_factory=dict)
    detector_error: Mapping[str, float] = field(default_factory=dict)
    sides_exchanged: Mapping[str, int] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    content_hash: str = ""
    packed: bool = False
    files: Mapping[str, str] = field(default_factory=dict)
    identity: str = ""
    values: tuple[float, ...] = ()

    @property
    def seal(self) -> str:
        """One hash of all files of the set; that of the clips where an earlier version sealed nothing else."""
        if not self.files:
            return self.content_hash
        return hashlib.sha256(json.dumps([self.content_hash, sorted(self.files.items())]).encode()).hexdigest()

    def to_json(self) -> str:
        """The text of dataset.json; the same card always gives the same text."""
        entries = {"format": FORMAT, **dataclasses.asdict(self)}
        for name in ("detector_error", "sides_exchanged", "packed", "files", "identity", "values"):
            if not entries[name]:  # then the text is what it was before there was such an entry
                del entries[name]
        return schemas.text_of(entries, indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str, path: str) -> "Card":
        """Read the text of dataset.json; DatasetError names `path` and the entry that does not fit."""
        entries = files.parse_json(text, path, "object")
        if (found := entries.pop("format", None)) != FORMAT or found is True:
            found = schemas.shortened(found)
            raise DatasetError(f"{path}: expected format {FORMAT}, found {found}. Make the data set again.")
        schemas.check(entries, "card", path)
        if entries.get("units", "m") != "m":
            found = schemas.shortened(entries["units"])
            raise DatasetError(f"{path}: expected units 'm', found {found}. Convert the set, then correct the card.")
        heading, values = HeadingRule(**entries["heading"]), tuple(map(float, entries.get("values", ())))
        exact = {"heading": heading, "sources": tuple(entries["sources"]), "fps": float(entries["fps"])}
        return cls(**{**entries, **exact, "values": values})


def read_card(path: str) -> Card:
    """The card of a folder; raises DatasetError where there is none."""
    place = bf.join(path, CARD)
    if not bf.exists(place):
        raise DatasetError(
            f"{place}: expected the card of a complete data set, found none. "
            "Correct the folder, or make the data set again: it may have been interrupted."
        )
    card = Card.from_json(files.read_text(place), place)
    try:
        by_name(card.skeleton)
    except ConfigError as error:
        raise DatasetError(f"{place}: {error}") from error
    files.checked_id(card.lifter, place)
    return card


def read_ids(path: str, split: str) -> list[str]:
    """The ids of a split; at least one, none twice."""
    place = bf.join(path, f"{split}.txt")
    ids = [files.checked_id(line.strip(), place) for line in files.read_text(place).splitlines() if line.strip()]
    if not ids or len(set(ids)) < len(ids):
        found = "none" if not ids else f"{len(ids) - len(set(ids))} twice"
        raise DatasetError(f"{place}: expected ids, each once, found {found}. Correct the list.")
    return ids


def names(clip_id: str, card: Card) -> dict[str, str]:
    """Where a clip's files lie in the folder, in the order in which they are hashed."""
    return {
        "teacher": f"teacher_vecs/{card.lifter}/{clip_id}.npy",
        "truth": f"new_joint_vecs/{clip_id}.npy",
        "keypoints": f"keypoints_2d/{clip_id}.npz",
        "camera": f"cameras/{clip_id}.npz",
        "texts": f"texts/{clip_id}.txt",
    }


def content_hash(
    path: str, card: Card, ids: Iterable[str], found: Callable[[str, Mapping[str, bytes]], None] | None = None
) -> str:
    """SHA-256 over names and contents of the files of these clips, in this order; a truth need not be there.

    `found` is called with each id and the contents of its files by kind.
    """
    content = hashlib.sha256()
    for clip_id in ids:
        contents = read_files(path, card, clip_id)
        update_hash(content, card, clip_id, contents)
        if found:
            found(clip_id, contents)
    return content.hexdigest()


def update_hash(content: Any, card: Card, clip_id: str, found: Mapping[str, bytes]) -> None:
    """Add names and contents of a clip's files to a hash of the whole set."""
    place = names(clip_id, card)
    for key, data in found.items():
        content.update(f"{place[key]}\0{len(data)}\0".encode())
        content.update(data)


def read_folder(path: str, split: str, *, fixed: bool = False) -> tuple[Card, Clips]:
    """The card, and the clips of one split, read as they are used. DatasetError where one of them cannot be.

    All of a small split are checked here; those of a larger one were when its index was made, and are again as they are
    read if their files are others than then. Where the set is `fixed`, as while it is trained on, others are refused.
    """
    card = read_card(path)
    entries = read_entries(path, card, split)
    clips = Clips(entries, lambda entry: _read_known(path, card, entry, fixed))
    if len(clips) <= LOOKED_AT:
        for _ in clips:
            pass
    return card, clips


def read_entries(path: str, card: Card, split: str) -> Lines:
    """The index of a split; clips that it does not have are read, checked and added."""
    ids, lines = read_ids(path, split), index.read(path, split, facts_of(card))
    known = {line.partition("\t")[0]: line for line in lines}
    if list(known) == ids:
        return Lines(lines)
    missing = [clip_id for clip_id in ids if clip_id not in known]
    if len(missing) > LOOKED_AT:
        logger.info("%s: reading %d clips once for the index of the split %s", path, len(missing), split)
    places = shards.places(path, split) if card.packed and missing else {}
    for clip_id in missing:
        place = places.get(clip_id, "")
        content, clip = read_clip_files(path, card, clip_id, place)
        known[clip_id] = Entry.of(clip, content, place).line
    lines = [known[clip_id] for clip_id in ids]
    if missing:
        index.write(path, split, facts_of(card), lines)
    return Lines(lines)


def facts_of(card: Card) -> str:
    """What the index depends on, beside the rules of a clip."""
    facts = (FORMAT, card.content_hash, card.skeleton, card.fps, card.lifter, card.packed)
    return json.dumps((*facts, dataclasses.asdict(card.heading)))


def read_files(path: str, card: Card, clip_id: str, place: str = "") -> dict[str, bytes]:
    """The contents of a clip's files by kind, a truth only where there is one; `place` is that in a packed set."""
    files.checked_id(clip_id, path)
    if card.packed:
        place = place or _places(path, card.content_hash, tuple(card.counts)).get(clip_id, "")
        if not place:
            raise DatasetError(
                f"{bf.join(path, shards.FOLDER)}: expected the clip {clip_id} in a shard, found it in none. "
                "Copy the shards again, or take it out of the split lists."
            )
        return shards.read(path, place, clip_id)
    found = _labels(path, card, clip_id)
    for name in found.values():
        if files.leads_out(name, path):
            raise DatasetError(f"{name}: expected a file of the set, found a link that leads out of it. Copy the file.")
    return {key: files.read_bytes(name) for key, name in found.items() if key != "truth" or bf.exists(name)}


def _labels(path: str, card: Card, clip_id: str) -> dict[str, str]:
    """Where a clip's files lie, or what messages call them in a packed set."""
    root = f"{path} (packed)" if card.packed else path.rstrip("/")
    return {key: f"{root}/{name}" for key, name in names(clip_id, card).items()}


@functools.lru_cache(maxsize=4)
def _places(path: str, content: str, splits: tuple[str, ...]) -> dict[str, str]:
    """Where the clips of a packed set lie, for those that are read by their ids."""
    return {clip_id: place for split in splits for clip_id, place in shards.places(path, split).items()}


def read_clip(path: str, card: Card, clip_id: str) -> Clip:
    """One clip, checked."""
    return read_clip_files(path, card, clip_id)[1]


def read_clip_files(
    path: str, card: Card, clip_id: str, place: str = "", content: Mapping[str, bytes] | None = None
) -> tuple[Mapping[str, bytes], Clip]:
    """The contents of a clip's files by kind, and the clip, where it has no error of the rulebook; else DatasetError
    says how to go on without it."""
    try:
        content = content or read_files(path, card, clip_id, place)
        clip = _parsed(path, card, clip_id, content)
        validate(clip, fps=card.fps)
    except DatasetError as error:
        raise type(error)(
            f"{error} Make the set again from a source that is right, or leave out all clips with errors: "
            f"videomdm data check {shlex.quote(path)} --drop."
        ) from error
    return content, clip


def _read_known(path: str, card: Card, entry: Entry, fixed: bool) -> Clip:
    """A clip of the index; one whose files are as they were when the index was made has been checked."""
    content = read_files(path, card, entry.id, entry.place)
    if index.checksum(content) == entry.sum:
        return _parsed(path, card, entry.id, content)
    if fixed:
        raise DatasetError(
            f"{bf.join(path, entry.id)}: expected the files of this clip as they were when the data set was opened, "
            "found them changed. Put them back, or make them the data set's own: "
            f"videomdm data check {shlex.quote(path)} --accept."
        )
    _, clip = read_clip_files(path, card, entry.id, content=content)
    if Entry.of(clip, content, entry.place)._replace(sum=entry.sum) != entry:
        raise DatasetError(
            f"{bf.join(path, entry.id)}: expected {entry.frames} frames, captions and truth as in "
            f"{bf.join(path, index.FOLDER)}, found others. Remove that folder; it is made again."
        )
    return clip


def _parsed(path: str, card: Card, clip_id: str, content: Mapping[str, bytes]) -> Clip:
    """The clip that its files hold, not yet checked."""
    place = _labels(path, card, clip_id)
    seen = files.arrays_from(content["keypoints"], place["keypoints"], needed=NEEDED)
    cameras = files.arrays_from(content["camera"], place["camera"], needed=("extrinsics",))
    size = cameras.get("image_size")
    return Clip(
        id=clip_id,
        fps=card.fps,
        skeleton=by_name(card.skeleton),
        teacher=files.array_from(content["teacher"], place["teacher"]),
        keypoints=on_plane(seen, cameras, place["keypoints"]),
        confidence=seen["confidence"],
        extrinsics=cameras["extrinsics"],
        texts=parse_texts(files.text_from(content["texts"], place["texts"]), place["texts"]),
        truth=files.array_from(content["truth"], place["truth"]) if "truth" in content else None,
        truth_extrinsics=cameras.get("truth_extrinsics"),
        intrinsics=cameras.get("intrinsics"),
        image_size=None if size is None else (round(float(size[0])), round(float(size[1]))),
        source=bf.join(path, clip_id),
    )


def read_statistics(path: str, lifter: str | None = None) -> tuple[Array, Array]:
    """Mean and Std [D]: those of a lifter's teacher, or with None those of the folder."""
    folder = path if lifter is None else bf.join(path, "teacher_vecs", files.checked_id(lifter, path))
    return read_moments(folder, by_name(read_card(path).skeleton).num_features)


def read_moments(folder: str, width: int) -> tuple[Array, Array]:
    """Mean.npy and Std.npy [D] of a folder. DatasetError where they are not finite, or Std not above 0."""
    mean, std = (files.read_array(bf.join(folder, name)) for name in ("Mean.npy", "Std.npy"))
    good = mean.shape == std.shape == (width,) and bool(np.isfinite(mean).all() and np.isfinite(std).all())
    if not good or not (std > 0).all():
        raise DatasetError(
            f"{folder}: expected Mean.npy and Std.npy [{width}], finite, Std above 0, found {list(mean.shape)} and "
            f"{list(std.shape)} or bad numbers. Make the data set again."
        )
    return mean, std


def on_plane(seen: Mapping[str, Array], camera: Mapping[str, Array], place: str) -> Array:
    """`points` [T, J, 2] as they are, or `pixels` [T, J, 2] with the camera's intrinsics and lens removed.

    `camera` may hold intrinsics [3, 3] and distortion [5] (k1, k2, p1, p2, k3). DatasetError names the file `place`.
    """
    if "points" in seen:
        return seen["points"]
    if "pixels" not in seen:
        found = ", ".join(seen) or "none"
        raise DatasetError(f"{place}: expected points or pixels, found {found}. Make the data set again.")
    matrix, distortion = camera.get("intrinsics"), camera.get("distortion")
    if matrix is None or matrix.shape != (3, 3) or not matrix[0, 0] * matrix[1, 1] > 0:
        found = "none" if matrix is None else str(matrix.tolist())
        raise DatasetError(
            f"{place}: pixels, expected intrinsics [3, 3] in the clip's camera file, found {found}. Write them there, "
            "or points on the normalised plane."
        )
    lens = None if distortion is None else torch.from_numpy(distortion).double()
    points = normalise(torch.from_numpy(seen["pixels"]).double(), torch.from_numpy(matrix).double(), lens)
    result: Array = points.float().numpy()
    return result
