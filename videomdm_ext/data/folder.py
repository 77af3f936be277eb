"""The folder format (docs/data.md): a file a clip for each of teacher, truth, keypoints, camera, texts, and a card.

A folder is written clip by clip, so that it need not fit into memory and an interrupted import goes on. While it is
being built it has no card, and DIR/building/ holds one small file a clip: its split and its place in the order. A clip
counts once that file is there, and it is written after the clip's own files.
"""

import dataclasses
import functools
import hashlib
import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import blobfile as bf
import numpy as np
import torch

from videomdm_ext.data import files, index, shards
from videomdm_ext.data.clip import MIN_FRAMES, Clip
from videomdm_ext.data.files import Array
from videomdm_ext.data.index import Clips, Entry, Lines
from videomdm_ext.data.rules import validate
from videomdm_ext.data.texts import Tagger, caption_tokens, parse_texts, untagged
from videomdm_ext.errors import ConfigError, DatasetError
from videomdm_ext.geometry.cameras import normalise
from videomdm_ext.motion.features import Moments
from videomdm_ext.motion.kinematics import RAW, HeadingRule
from videomdm_ext.motion.skeletons import by_name

logger = logging.getLogger(__name__)

FORMAT = 1  # version of the folder format; a reader refuses any other
CARD, MARKS, RECIPE = "dataset.json", "building", "recipe.json"
NEW, MOVING = "new", "moving"
SPLITS = ("train", "val", "test")
NEEDED = ("confidence",)  # arrays of a keypoints file, beside `points`, or `pixels`
LOOKED_AT = 256  # clips of a split, at most, that are all read and checked when it is opened


@dataclass(frozen=True)
class Card:
    """What a folder holds. `lifter` names the maker of the teacher; `lifter_error` its measured figures, by name, and
    `detector_error` those of the keypoints, in units of the focal length.

    `heading` is the rule by which headings of the feature vectors were found, `counts` the clips of each split,
    `recipe` the settings it was made with, `content_hash` the SHA-256 of all clip files. Clips that are `packed` lie in
    shards. `write_folder` fills in counts and hash.
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
    recipe: Mapping[str, Any] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    content_hash: str = ""
    packed: bool = False

    def to_json(self) -> str:
        """The text of dataset.json; the same card always gives the same text."""
        entries = {"format": FORMAT, **dataclasses.asdict(self)}
        for name in ("detector_error", "packed"):
            if not entries[name]:  # then the text is what it was before there was such an entry
                del entries[name]
        return json.dumps(entries, indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str, path: str) -> "Card":
        """Read the text of dataset.json; DatasetError names `path` and the entry that does not fit."""
        entries = files.parse_json(text, path)
        if not isinstance(entries, dict) or entries.get("format") != FORMAT:
            found = entries.get("format") if isinstance(entries, dict) else type(entries).__name__
            raise DatasetError(f"{path}: expected format {FORMAT}, found {found!r}. Make the data set again.")
        del entries["format"]
        needed = ("name", "skeleton", "fps", "lifter", "licence", "sources", "heading", "content_hash")
        missing = [name for name in needed if name not in entries]
        unknown = sorted(set(entries) - {item.name for item in dataclasses.fields(cls)})
        if missing or unknown:
            raise DatasetError(
                f"{path}: expected the entries of format {FORMAT}, found {', '.join(missing) or 'none'} missing and "
                f"{', '.join(unknown) or 'none'} unknown. Make the data set again, or correct the card."
            )
        try:
            heading, sources = HeadingRule(**entries["heading"]), tuple(entries["sources"])
            card = cls(**{**entries, "heading": heading, "sources": sources, "fps": float(entries["fps"])})
        except (TypeError, ValueError) as error:
            raise DatasetError(f"{path}: an entry has the wrong type ({error}). Correct the card.") from error
        if card.units != "m" or not card.fps > 0:
            raise DatasetError(
                f"{path}: expected units 'm' and a positive fps, found {card.units!r} and {card.fps:g}. "
                "Convert the data set, then correct the card."
            )
        return card


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


def contents(clip: Clip, tagger: Tagger) -> dict[str, bytes]:
    """The contents of a clip's files by kind."""
    cameras = {"extrinsics": clip.extrinsics}
    content = {"teacher": files.array_bytes(clip.teacher)}
    if clip.truth is not None and clip.truth_extrinsics is not None:
        content["truth"] = files.array_bytes(clip.truth)
        cameras["truth_extrinsics"] = clip.truth_extrinsics
    if clip.intrinsics is not None:
        cameras["intrinsics"] = clip.intrinsics
    if clip.image_size is not None:
        cameras["image_size"] = np.asarray(clip.image_size, dtype=np.float32)
    seen = {"points": clip.keypoints, "confidence": clip.confidence}
    lines = [f"{text}#{caption_tokens(text, tagger)}#0.0#0.0\n" for text in clip.texts]
    content["keypoints"] = files.arrays_bytes(seen)
    content["camera"] = files.arrays_bytes(cameras)
    content["texts"] = "".join(lines).encode()
    return content


def content_hash(path: str, card: Card, ids: Iterable[str]) -> str:
    """SHA-256 over names and contents of the files of these clips, in this order; a truth need not be there."""
    content = hashlib.sha256()
    for clip_id in ids:
        update_hash(content, card, clip_id, read_files(path, card, clip_id))
    return content.hexdigest()


def update_hash(content: Any, card: Card, clip_id: str, found: Mapping[str, bytes]) -> None:
    """Add names and contents of a clip's files to a hash of the whole set."""
    place = names(clip_id, card)
    for key, data in found.items():
        content.update(f"{place[key]}\0{len(data)}\0".encode())
        content.update(data)


class Builder:
    """A folder in the making. `add` clips, then `finish`; a second Builder with the same card goes on.

    An earlier version of the same data set stays whole until then: the new one is made in `place`, beside it. Raises
    DatasetError where the folder holds another data set, or another recipe's unfinished clips.
    """

    def __init__(self, path: str, card: Card, *, tagger: Tagger | None = None, min_frames: int = MIN_FRAMES) -> None:
        files.checked_id(card.lifter, "lifter")
        files.check_writable(path)
        self.path, self.card, self.tagger, self.min_frames = path, card, tagger or untagged, min_frames
        place, recipe, wanted = bf.join(path, CARD), self._mark(RECIPE), card.to_json()
        if bf.exists(self._mark(MOVING)):  # cut off in the middle of it
            self._move()
        earlier = bf.exists(place)
        if earlier and not bf.isdir(self._mark(NEW)) and bf.isdir(bf.join(path, MARKS)):
            bf.rmtree(bf.join(path, MARKS))  # of what is finished
        if earlier and (found := read_card(path).name) != card.name:
            raise DatasetError(
                f"{place}: expected no data set or {card.name!r}, found {found!r}. Choose another folder."
            )
        if bf.exists(recipe) and files.read_text(recipe) != wanted:
            raise DatasetError(
                f"{recipe}: an unfinished import with other settings lies here. Start it again with its own settings, "
                f"or remove {path}."
            )
        files.write_bytes(recipe, wanted.encode())
        self.place = path
        if "://" in path and earlier:  # nothing can be moved there
            bf.remove(place)
        elif earlier or bf.isdir(self._mark(NEW)):
            self.place = self._mark(NEW)
        listed = [name for name in bf.listdir(bf.join(path, MARKS)) if name.endswith(".json") and name != RECIPE]
        marks = [files.read_json(self._mark(name)) for name in listed]
        self.done = {mark["id"]: (mark["split"], int(mark["place"])) for mark in marks}
        self.entries = {mark["id"]: mark.get("entry", "") for mark in marks}

    def __contains__(self, clip_id: str) -> bool:
        return clip_id in self.done

    def forget(self) -> None:
        """Start from nothing: what an interrupted import left is written again."""
        for clip_id in self.done:
            bf.remove(self._mark(f"{clip_id}.json"))
        self.done = {}

    def add(self, clip: Clip, split: str) -> None:
        """Check and write one clip."""
        if split not in SPLITS:
            raise DatasetError(f"{clip.label}: expected a split among {', '.join(SPLITS)}, found {split!r}.")
        if files.checked_id(clip.id, clip.label) in self.done:
            raise DatasetError(f"{clip.label}: the id {clip.id!r} appears twice. Give every clip its own.")
        if clip.skeleton.name != self.card.skeleton:
            raise DatasetError(
                f"{clip.label}: expected {self.card.skeleton} as on the card, found {clip.skeleton.name}. "
                "Re-import the clip, or correct the card."
            )
        validate(clip, fps=self.card.fps, min_frames=self.min_frames)
        content, place = contents(clip, self.tagger), names(clip.id, self.card)
        for key, data in content.items():
            files.write_bytes(bf.join(self.place, place[key]), data)
        number, entry = len(self.done), Entry.of(clip, content).line
        mark = json.dumps({"id": clip.id, "split": split, "place": number, "entry": entry})
        files.write_bytes(self._mark(f"{clip.id}.json"), mark.encode())
        self.done[clip.id], self.entries[clip.id] = (split, number), entry

    def finish(self, **changes: object) -> Card:
        """Write splits, statistics and, last, the card with counts, hash and `changes`. -> the card"""
        order = sorted(self.done, key=lambda clip_id: self.done[clip_id][1])
        members = {split: [i for i in order if self.done[i][0] == split] for split in SPLITS}
        if not members["train"]:
            found = ", ".join(f"{split} ({len(ids)})" for split, ids in members.items() if ids) or "none"
            raise DatasetError(f"{self.path}: expected clips in the split train, found {found}. Put clips there.")
        for split, ids in members.items():
            files.write_bytes(bf.join(self.place, f"{split}.txt"), "".join(f"{i}\n" for i in ids).encode())
        # Mean and Std of the truth (of the teacher where there is none) and of the teacher
        skeleton, lifted = by_name(self.card.skeleton), bf.join(self.place, "teacher_vecs", self.card.lifter)
        teacher, truth = Moments(skeleton), Moments(skeleton)
        for clip_id in members["train"]:
            place = {key: bf.join(self.place, name) for key, name in names(clip_id, self.card).items()}
            teacher.add(torch.from_numpy(files.read_array(place["teacher"])))
            if bf.exists(place["truth"]):
                truth.add(torch.from_numpy(files.read_array(place["truth"])))
        for folder, moments in ((self.place, truth if truth.count else teacher), (lifted, teacher)):
            for name, values in zip(("Mean.npy", "Std.npy"), moments.mean_and_std(), strict=True):
                files.write_bytes(bf.join(folder, name), files.array_bytes(values.numpy()))
        ordered = [clip_id for split in SPLITS for clip_id in members[split]]
        self.card = dataclasses.replace(
            self.card,
            counts={split: len(ids) for split, ids in sorted(members.items()) if ids},
            content_hash=content_hash(self.place, self.card, ordered),
            **changes,  # type: ignore[arg-type]
        )
        for split, ids in members.items():
            if ids and all(self.entries[i] for i in ids):
                index.write(self.place, split, facts_of(self.card), [self.entries[i] for i in ids])
        files.write_bytes(bf.join(self.place, CARD), self.card.to_json().encode())
        if self.place != self.path:
            bf.makedirs(bf.join(self.place, "new_joint_vecs"))  # where no truth is known, that of before goes too
            files.write_bytes(self._mark(MOVING), b"")
            self._move()
        else:
            bf.rmtree(bf.join(self.path, MARKS))
        return read_card(self.path)

    def _move(self) -> None:
        """Put the new version, which is whole, in the place of the earlier one, its card last; cut off, it goes on."""
        new, left = self._mark(NEW), sorted(os.listdir(self._mark(NEW)), key=CARD.__eq__)
        if left and bf.exists(bf.join(self.path, CARD)):  # from here on neither version is whole
            bf.remove(bf.join(self.path, CARD))
        for name in left:
            old = bf.join(self.path, name)
            if bf.isdir(old):
                bf.rmtree(old)
            elif bf.exists(old):
                bf.remove(old)
            os.rename(bf.join(new, name), old)
        bf.rmtree(new)
        bf.rmtree(bf.join(self.path, MARKS))

    def _mark(self, name: str) -> str:
        return bf.join(self.path, MARKS, name)


def is_unfinished(path: str) -> bool:
    """Whether an import was interrupted in this folder."""
    return bool(bf.exists(bf.join(path, MARKS, RECIPE)))


def write_folder(path: str, clips: Mapping[str, Sequence[Clip]], card: Card, *, tagger: Tagger | None = None) -> Card:
    """Check everything, then write the clips of each split, the statistics of the training split, and the card last.

    An earlier version of the same data set is replaced at the end. -> the card with counts and hash.
    """
    unknown = [split for split in clips if split not in SPLITS]
    if unknown or not clips.get("train"):
        found = ", ".join(f"{split} ({len(members)})" for split, members in clips.items()) or "none"
        raise DatasetError(f"{path}: expected splits among {', '.join(SPLITS)}, train not empty, found {found}.")
    members = [(clip, split) for split in SPLITS for clip in clips.get(split, ())]
    seen: set[str] = set()
    for clip, _ in members:
        if files.checked_id(clip.id, clip.label) in seen:
            raise DatasetError(f"{clip.label}: the id {clip.id!r} appears twice. Give every clip its own.")
        seen.add(clip.id)
        validate(clip, fps=card.fps)
    builder = Builder(path, card, tagger=tagger)
    builder.forget()
    for clip, split in members:
        builder.add(clip, split)
    return builder.finish()


def read_folder(path: str, split: str, *, min_frames: int = MIN_FRAMES) -> tuple[Card, Clips]:
    """The card, and the clips of one split, read as they are used. DatasetError where one of them cannot be.

    All of a small split are checked here; those of a larger one were when its index was made, and are again as they are
    read if their files are others than then.
    """
    card = read_card(path)
    entries = read_entries(path, card, split, min_frames=min_frames)
    clips = Clips(entries, lambda entry: _read_known(path, card, entry, min_frames))
    if len(clips) <= LOOKED_AT:
        for _ in clips:
            pass
    return card, clips


def read_entries(path: str, card: Card, split: str, *, min_frames: int = MIN_FRAMES) -> Lines:
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
        content = read_files(path, card, clip_id, place)
        clip = _parsed(path, card, clip_id, content)
        validate(clip, fps=card.fps, min_frames=min_frames)
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
    return {key: files.read_bytes(name) for key, name in found.items() if key != "truth" or bf.exists(name)}


def _labels(path: str, card: Card, clip_id: str) -> dict[str, str]:
    """Where a clip's files lie, or what messages call them in a packed set."""
    root = f"{path} (packed)" if card.packed else path.rstrip("/")
    return {key: f"{root}/{name}" for key, name in names(clip_id, card).items()}


@functools.lru_cache(maxsize=4)
def _places(path: str, content: str, splits: tuple[str, ...]) -> dict[str, str]:
    """Where the clips of a packed set lie, for those that are read by their ids."""
    return {clip_id: place for split in splits for clip_id, place in shards.places(path, split).items()}


def read_clip(path: str, card: Card, clip_id: str, *, min_frames: int = MIN_FRAMES) -> Clip:
    """One clip, checked."""
    clip = _parsed(path, card, clip_id, read_files(path, card, clip_id))
    validate(clip, fps=card.fps, min_frames=min_frames)
    return clip


def _read_known(path: str, card: Card, entry: Entry, min_frames: int) -> Clip:
    """A clip of the index; one whose files are as they were when the index was made has been checked."""
    content = read_files(path, card, entry.id, entry.place)
    clip = _parsed(path, card, entry.id, content)
    if index.checksum(content) != entry.sum or clip.length < min_frames:
        validate(clip, fps=card.fps, min_frames=min_frames)
        now = Entry.of(clip, content, entry.place)
        if now._replace(sum=entry.sum) != entry:
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
    mean, std = (files.read_array(bf.join(folder, name)) for name in ("Mean.npy", "Std.npy"))
    width = by_name(read_card(path).skeleton).num_features
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
