"""Writing a folder (data/folder.py): clip by clip, so that it need not fit into memory and a cut-off import goes on;
and the same set in Parquet shards, or as files again (`repack`).

While a folder is being built it has no card, and DIR/building/ holds one small file a clip: its split and its place in
the order. A clip counts once that file is there, and it is written after the clip's own files.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote_from_bytes, unquote_to_bytes

import blobfile as bf
import numpy as np
import torch

from videomdm_ext.config import MADE
from videomdm_ext.data import files, index, locks, seal, shards
from videomdm_ext.data.checks.rules import validate
from videomdm_ext.data.clip import Clip
from videomdm_ext.data.folder import (
    CARD,
    SPLITS,
    Card,
    content_hash,
    facts_of,
    names,
    read_card,
    read_entries,
    read_files,
    update_hash,
)
from videomdm_ext.data.index import Entry
from videomdm_ext.data.texts import Tagger, untagged
from videomdm_ext.errors import ConfigError, DatasetError, counted
from videomdm_ext.motion.features import Moments
from videomdm_ext.motion.skeletons import by_name

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]  # `progress(done, total)` in clips
MARKS, RECIPE, NEW, MOVING = "building", "recipe.json", "new", "moving"


def contents(clip: Clip, tagger: Tagger, texts: bytes = b"") -> dict[str, bytes]:
    """The contents of a clip's files by kind; `texts` is that of its captions, where there is one already."""
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
    tags = {text: " ".join(f"{word}/{tag}" for word, tag in tagger(text)) for text in clip.texts}
    lines = [f"{text}#{tags[text]}#0.0#0.0\n" for text in clip.texts]
    content["keypoints"] = files.arrays_bytes(seen)
    content["camera"] = files.arrays_bytes(cameras)
    content["texts"] = texts or "".join(lines).encode()
    return content


class Builder:
    """A folder in the making. `add` clips, then `finish`; a second Builder with the same card goes on.

    An earlier version of the same data set stays whole until then: the new one is made in `place`, beside it. Raises
    DatasetError where the folder holds another data set, or another recipe's unfinished clips.
    """

    def __init__(self, path: str, card: Card, *, tagger: Tagger | None = None, inputs: "Inputs | None" = None) -> None:
        files.checked_id(card.lifter, "lifter")
        files.check_writable(path)
        card = dataclasses.replace(card, packed=False)
        self.path, self.card, self.tagger = path, card, tagger or untagged
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
        self.done: dict[str, dict[str, Any]] = {}  # marks by clip id: split, place in the order, entry, facts
        for name in listed:
            with contextlib.suppress(DatasetError):  # of a machine that was switched off: the clip is made again
                self.done[name.removesuffix(".json")] = files.read_json(self._mark(name), "mark")
        self.next = 1 + max((mark["place"] for mark in self.done.values()), default=-1)
        rows = [row for mark in self.done.values() for row in mark.get("inputs", ())]
        self.inputs, self.read = inputs, {row.rpartition(" ")[2]: row for row in rows}
        self.noted = 0  # of the inputs, how many marks have
        if torn := [clip_id for clip_id in self.done if not self._is_whole(clip_id)]:
            some = counted(len(torn), "clip")
            logger.warning("%s: making %s again, whose files were cut off (%s)", path, some, torn[0])
            self._drop(torn)

    def __contains__(self, clip_id: str) -> bool:
        return clip_id in self.done

    def forget(self) -> None:
        """Start from nothing: what an interrupted import left is written again."""
        self._drop(list(self.done))
        self.read, self.noted = {}, 0

    def _drop(self, clips: Iterable[str]) -> None:
        for clip_id in clips:
            bf.remove(self._mark(f"{clip_id}.json"))
            del self.done[clip_id]

    def _is_whole(self, clip_id: str) -> bool:
        """Whether a clip's files are as they were written."""
        line = Entry.known(self.done[clip_id]["entry"], clip_id)
        with contextlib.suppress(DatasetError):
            return line != "" and index.checksum(read_files(self.place, self.card, clip_id)) == Entry.parse(line).sum
        return False

    def changed(self) -> list[str]:
        """Local files that were read before an interruption and are others now; contents count, not times."""
        found, own = [], os.path.abspath(self.path) + os.sep
        for digest, *known in (row.split(" ") for row in self.read.values()):
            place = os.fsdecode(unquote_to_bytes(known[-1])) if known else own
            if place.startswith(own) or _row(place, digest) == " ".join((digest, *known)):
                continue
            try:
                with open(place, "rb") as file:
                    now = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError:
                now = ""
            found += [place] if now != digest else []
        return found

    def add(self, clip: Clip, split: str, texts: bytes = b"") -> None:
        """Check and write one clip; `texts` is the content of its file of captions, where there is one already."""
        if split not in SPLITS:
            raise DatasetError(f"{clip.label}: expected a split among {', '.join(SPLITS)}, found {split!r}.")
        if files.checked_id(clip.id, clip.label) in self.done:
            raise DatasetError(f"{clip.label}: the id {clip.id!r} appears twice. Give every clip its own.")
        if clip.skeleton.name != self.card.skeleton:
            raise DatasetError(
                f"{clip.label}: expected {self.card.skeleton} as on the card, found {clip.skeleton.name}. "
                "Re-import the clip, or correct the card."
            )
        validate(clip, fps=self.card.fps)
        content, place = contents(clip, self.tagger, texts), names(clip.id, self.card)
        for key, data in content.items():
            files.write_bytes(bf.join(self.place, place[key]), data)
        known = self.inputs.known if self.inputs else {}
        rows = [_row(*one) for one in itertools.islice(known.items(), self.noted, None)]
        new, self.noted = [row for row in rows if row.rpartition(" ")[2] not in self.read], len(known)
        self.read |= {row.rpartition(" ")[2]: row for row in new}
        mark = {"id": clip.id, "split": split, "place": self.next, "entry": Entry.of(clip, content).line}
        mark |= {"facts": (seal.exact(clip, split), seal.sketch(clip)), "inputs": new}
        files.write_bytes(self._mark(f"{clip.id}.json"), json.dumps(mark).encode())
        self.done[clip.id], self.next = mark, self.next + 1

    def finish(self, *, order: Sequence[str] = (), **changes: object) -> Card:
        """Write splits, statistics and, last, the card with counts, hash and `changes`. -> the card

        The clips are in the `order` of these ids, or else in that in which they were added.
        """
        places = {clip_id: number for number, clip_id in enumerate(order)}
        order = sorted(self.done, key=lambda clip_id: (places.get(clip_id, 0), self.done[clip_id]["place"]))
        members = {split: [i for i in order if self.done[i]["split"] == split] for split in SPLITS}
        if not members["train"]:
            found = ", ".join(f"{split} ({len(ids)})" for split, ids in members.items() if ids) or "none"
            raise DatasetError(f"{self.path}: expected clips in the split train, found {found}. Put clips there.")
        for split, ids in members.items():
            files.write_bytes(bf.join(self.place, f"{split}.txt"), "".join(f"{i}\n" for i in ids).encode())
        write_statistics(self.place, self.card, members["train"])
        ordered, digests = [clip_id for split in SPLITS for clip_id in members[split]], dict[str, bytes]()
        self.card = dataclasses.replace(
            self.card,
            counts={split: len(ids) for split, ids in sorted(members.items()) if ids},
            content_hash=content_hash(
                self.place, self.card, ordered, lambda i, c: digests.update(seal.digests(i, self.card, c))
            ),
            files=seal.digests_of(self.place, self.card),
            identity=self._identity(ordered),
            values=seal.values_of({clip_id: self.done[clip_id]["facts"][1] for clip_id in ordered}),
            **changes,  # type: ignore[arg-type]
        )
        seal.write_table(self.place, self.card, digests)
        for split, ids in members.items():
            if ids:
                index.write(self.place, split, facts_of(self.card), [self.done[i]["entry"] for i in ids])
        files.write_bytes(bf.join(self.place, CARD), self.card.to_json().encode(), durable=True)
        if self.place != self.path:
            bf.makedirs(bf.join(self.place, "new_joint_vecs"))  # where no truth is known, that of before goes too
            files.write_bytes(self._mark(MOVING), b"", durable=True)
            self._move()
        else:
            bf.rmtree(bf.join(self.path, MARKS))
        return read_card(self.path)

    def _identity(self, ordered: Sequence[str]) -> str:
        """The identity of the set, empty where it is not known what it was made from."""
        if self.inputs is None:
            return ""
        read = {row.partition(" ")[0] for row in self.read.values()} | set(self.inputs.known.values())
        clips = [self.done[clip_id]["facts"][0] for clip_id in ordered]
        return seal.of_sources(self.card, read, clips, self.inputs.places)

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


class Inputs:
    """Hex digests by place of the files at or below some places, as they are read (`files.watched`)."""

    def __init__(self, places: Iterable[str]) -> None:
        self.places = {place for place in places if place}
        self.roots = [_absolute(place) for place in self.places]
        self.known: dict[str, str] = {}

    def __call__(self, path: str, content: bytes | None = None) -> None:
        """Count a file, which is read for it without `content`."""
        place = _absolute(path)
        if place in self.known or not any(place == root or place.startswith(f"{root}/") for root in self.roots):
            return
        if content is None:
            with open(place, "rb") as file:
                self.known[place] = hashlib.file_digest(file, "sha256").hexdigest()
        else:
            self.known[place] = hashlib.sha256(content).hexdigest()


def _absolute(path: str) -> str:
    return path.rstrip("/") if "://" in path else os.path.abspath(path)


def write_statistics(path: str, card: Card, ids: Iterable[str]) -> None:
    """Write Mean and Std of the teacher, and in the folder itself of the truth, or where there is none the teacher."""
    teacher, truth = Moments(by_name(card.skeleton)), Moments(by_name(card.skeleton))
    for clip_id in ids:
        found = read_files(path, card, clip_id)
        teacher.add(torch.from_numpy(files.array_from(found["teacher"], clip_id)))
        if "truth" in found:
            truth.add(torch.from_numpy(files.array_from(found["truth"], clip_id)))
    lifted = bf.join(path, "teacher_vecs", card.lifter)
    for folder, moments in ((path, truth if truth.count else teacher), (lifted, teacher)):
        for name, values in zip(("Mean.npy", "Std.npy"), moments.mean_and_std(), strict=True):
            files.write_bytes(bf.join(folder, name), files.array_bytes(values.numpy()))


def _row(place: str, digest: str) -> str:
    """What a mark holds of a file that was read: digest, size, time in ns and place; of no local one its digest."""
    try:
        state = os.stat(place)
    except OSError:
        return digest
    return f"{digest} {state.st_size} {state.st_mtime_ns} {quote_from_bytes(os.fsencode(place))}"


def is_unfinished(path: str) -> bool:
    """Whether an import was interrupted in this folder."""
    return bool(bf.exists(bf.join(path, MARKS, RECIPE)))


@locks.writing("path")
def write_folder(
    path: str,
    clips: Mapping[str, Sequence[Clip]],
    card: Card,
    *,
    tagger: Tagger | None = None,
    inputs: "Inputs | None" = None,
) -> Card:
    """Check everything, then write the clips of each split, the statistics of the training split, and the card last.

    An earlier version of the same data set is replaced at the end. `inputs` are the files that the clips were made
    from, where that is known. -> the card with counts and hashes.
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
    builder = Builder(path, card, tagger=tagger, inputs=inputs)
    builder.forget()
    for clip, split in members:
        builder.add(clip, split)
    return builder.finish()


# -- the same set in shards, or as files -------------------------------------------------------------------------------


@locks.writing("out")
def repack(path: str, out: str, *, packed: bool, progress: Progress | None = None) -> Card:
    """The clips of a set of files `packed` in shards in `out`, or those of a packed set as files. -> the card of `out`

    Every byte of a clip's files comes out again. Started again, packing goes on. DatasetError where the content is not
    that of the card, ConfigError where the set is already as asked for.
    """
    verb, card = "pack" if packed else "unpack", read_card(path)
    shards.parquet(path)
    if card.packed == packed:
        kind = "a packed one" if packed else "one of files"
        raise ConfigError(f"data {verb} {path}: expected another kind of set, found {kind}. Use it as it is.")
    if bf.exists(bf.join(out, CARD)):
        raise DatasetError(f"{out}: expected a folder without a data set, found one. Choose another --out.")
    files.check_writable(out)
    made, content, done = dataclasses.replace(card, packed=packed), hashlib.sha256(), 0
    digests: dict[str, bytes] = {}
    for split in (split for split in SPLITS if card.counts.get(split)):
        entries, lines = read_entries(path, card, split), []
        for start in range(0, len(entries), shards.SIZE):
            stem, part = f"{split}-{start // shards.SIZE:05d}", entries[start : start + shards.SIZE]
            if packed:
                _write_shard(path, card, out, stem, part)
            for row, entry in enumerate(part):
                if packed:
                    found = shards.read(out, f"{stem}:{row}", entry.id)
                else:
                    found = read_files(path, card, entry.id, entry.place)
                    digests |= seal.digests(entry.id, made, found)
                    for kind, place in names(entry.id, card).items():
                        if kind in found:
                            files.write_bytes(bf.join(out, place), found[kind])
                update_hash(content, made, entry.id, found)
                lines.append(entry._replace(place=f"{stem}:{row}" if packed else "").line)
                done += 1
                if progress:
                    progress(done, sum(card.counts.values()))
        index.write(out, split, facts_of(made), lines)
    if content.hexdigest() != card.content_hash:
        raise DatasetError(
            f"{path}: expected the content {card.content_hash[:12]} of its card, found {content.hexdigest()[:12]}, as "
            f"files were changed after the card was written. videomdm data check {path} names what is wrong."
        )
    for name in _others(path, card):
        files.write_bytes(bf.join(out, name), files.read_bytes(bf.join(path, name)))
    seal.write_table(out, made, digests)
    files.write_bytes(bf.join(out, CARD), made.to_json().encode(), durable=True)
    return made


def _write_shard(path: str, card: Card, out: str, stem: str, entries: Sequence[Entry]) -> None:
    """A shard of these clips; one that an earlier attempt made is not made again."""
    shard = shards.shard_of(out, stem)
    try:
        whole = bf.exists(shard) and shards.ids(shard) == [entry.id for entry in entries]
    except DatasetError:
        whole = False
    if not whole:
        rows = [(entry.id, read_files(path, card, entry.id, entry.place)) for entry in entries]
        files.write_bytes(shard, shards.packed(rows, shard))


def _others(path: str, card: Card) -> Iterator[str]:
    """Files of the set beside those of its clips: lists, statistics, and refined teachers."""
    yield from (name for split in SPLITS if bf.exists(bf.join(path, name := f"{split}.txt")))
    for folder in ("", f"teacher_vecs/{card.lifter}/"):
        yield from (f"{folder}{name}" for name in ("Mean.npy", "Std.npy"))
    made = [place for kind in MADE if bf.isdir(place := bf.join(path, kind))]
    for root, _, found in itertools.chain.from_iterable(map(bf.walk, made)):
        yield from (bf.join(root, name)[len(path.rstrip("/")) + 1 :] for name in found)
