"""Which data set it is, and whether its files are those that it was made with.

DIR/index/files.bin holds size, time and SHA-256 of every file: of the lists, the statistics, and the clips' or, in a
packed set, the shards'. Sizes and times are looked at first, contents where these differ. Its first line binds it to
the card and the lists. It is written with the clips; where there is none that fits, every file is read once, and
believed if the clips have the card's content hash. The refined teachers have such a table of their own.

No hash of computed numbers is equal on every CPU: sums in another order differ in the last bits, and however coarsely
numbers are rounded, some of millions lie close enough to a boundary to fall on either side (docs/data.md). So what is
hashed for the identity is exact: the bytes of the sources, the recipe, the version of the making, and of every clip the
split, id, length and captions. Numbers are sketched by few sums, which are compared with a tolerance.
"""

import dataclasses
import hashlib
import json
import logging
import math
import os
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import blobfile as bf
import numpy as np
from numpy.typing import NDArray

from videomdm_ext.data import files, index, locks, shards
from videomdm_ext.data.checks import sets
from videomdm_ext.data.clip import Clip
from videomdm_ext.data.files import Array
from videomdm_ext.data.folder import (
    CARD,
    LOOKED_AT,
    SPLITS,
    Card,
    content_hash,
    facts_of,
    names,
    read_card,
    read_files,
    read_ids,
    read_statistics,
)
from videomdm_ext.data.index import Entry
from videomdm_ext.errors import DatasetError, StorageError

logger = logging.getLogger(__name__)

TABLE = f"{index.FOLDER}/files.bin"
ROW = np.dtype([("state", "<i8", 2), ("digest", "u1", 32)])
"""Size in bytes and time of change in ns, -1 where there is no file; SHA-256, zeros where there is none."""
WAY = "1"
"""Version of what importers compute: one that changes a clip by more than rounding raises it."""
SUMS = 8
"""Sums over all clips, each with random signs of its own, of every number that sketches a clip."""
NEAR = 2e-3
"""Least standard deviation of a clip's numbers that counts as another data set; two machines differ by 1e-5."""
NAMED = 3
"""Changed files that a message names."""
Rows = NDArray[np.void]


@dataclass(frozen=True)
class Table:
    """States and digests of files `names` of a folder, kept in its file `place`; `key` is what they depend on."""

    path: str
    place: str
    key: str
    names: Sequence[str]

    @property
    def head(self) -> bytes:
        return hashlib.sha256(f"{self.key}\0{len(self.names)}".encode()).hexdigest().encode() + b"\n"

    def read(self) -> Rows | None:
        """The rows, or None where there are none of these files."""
        place = bf.join(self.path, self.place)
        if not bf.exists(place) or files.leads_out(place, self.path):
            return None
        content, head = files.read_bytes(place), self.head
        whole = len(content) == len(head) + ROW.itemsize * len(self.names) and content.startswith(head)
        return np.frombuffer(content, ROW, offset=len(head)) if whole else None

    def write(self, states: NDArray[np.int64], digests: Iterable[bytes]) -> None:
        """Keep what was found; a folder that cannot be written goes without."""
        rows = np.zeros(len(self.names), ROW)
        rows["state"] = states
        rows["digest"] = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)
        try:
            files.write_bytes(bf.join(self.path, self.place), self.head + rows.tobytes(), durable=True)
        except StorageError:
            logger.debug("%s: no table of its files can be kept", self.path)

    def states(self) -> NDArray[np.int64]:
        """Size and time of every file as it is now [N, 2]."""
        if "://" in self.path:
            return self._remote_states()
        found = np.full((len(self.names), 2), -1, np.int64)
        root = self.path.rstrip("/")
        for number, name in enumerate(self.names):
            try:
                state = os.lstat(f"{root}/{name}")
            except OSError:
                continue
            found[number] = state.st_size, state.st_mtime_ns
        return found

    def _remote_states(self) -> NDArray[np.int64]:
        """A store lists a folder faster than it answers for each file."""
        known: dict[str, tuple[int, int]] = {}
        for folder in {name.rpartition("/")[0] for name in self.names}:
            place = bf.join(self.path, folder) if folder else self.path
            for entry in bf.scandir(place) if bf.isdir(place) else ():
                if entry.stat:
                    name = f"{folder}/{entry.name}" if folder else entry.name
                    known[name] = entry.stat.size, round((entry.stat.mtime or 0) * 1e9)
        return np.array([known.get(name, (-1, -1)) for name in self.names], np.int64).reshape(-1, 2)

    def digest(self, number: int) -> bytes:
        return digest_of(self.path, self.names[number])

    def changed(self, rows: Rows, thorough: bool) -> list[str]:
        """Names of the files whose contents are others than those of the rows; new times of equal ones are kept.

        Contents are read where size or time differ, all of them with `thorough`.
        """
        states = self.states()
        moved = (states != rows["state"]).any(1)
        suspects = np.arange(len(rows)) if thorough else np.nonzero(moved)[0]
        if len(suspects) > len(self.names) // 2 > NAMED:
            why = "" if thorough else ", whose sizes or times are others than before"
            logger.info("%s: reading %d files%s", self.path, len(suspects), why)
        found = [n for n in suspects.tolist() if self.digest(n) != rows["digest"][n].tobytes()]
        if moved.any() and not found:
            self.write(states, map(bytes, rows["digest"]))
        return [self.names[number] for number in found]


def digest_of(path: str, name: str) -> bytes:
    """SHA-256 of a file of a folder, zeros where there is none, or a link that leads out."""
    place = bf.join(path, name)
    there = bf.exists(place) and not files.leads_out(place, path)
    return hashlib.sha256(files.read_bytes(place)).digest() if there else bytes(32)


def whole_files(card: Card) -> list[str]:
    """Names of the lists and the statistics of a set."""
    folders = ("", f"teacher_vecs/{card.lifter}/")
    return [*(f"{split}.txt" for split in SPLITS), *(f"{f}{name}.npy" for f in folders for name in ("Mean", "Std"))]


def digests_of(path: str, card: Card) -> dict[str, str]:
    """Hex SHA-256 of the lists and the statistics that are there, by name."""
    found = {name: digest_of(path, name) for name in whole_files(card)}
    return {name: digest.hex() for name, digest in found.items() if any(digest)}


def members_of(path: str) -> dict[str, list[str]]:
    """The ids of each split whose list is there, as it is now."""
    places = {split: bf.join(path, f"{split}.txt") for split in SPLITS}
    listed = [split for split, place in places.items() if bf.exists(place)]
    return {split: read_ids(path, split) if files.read_text(places[split]).strip() else [] for split in listed}


def table_of(path: str, card: Card) -> tuple[Table, list[str]]:
    """The table of a set's files as its lists are now, and the ids in their order."""
    ids = [clip_id for members in members_of(path).values() for clip_id in members]
    if card.packed:
        places = [f"{shards.FOLDER}/{stem}.parquet" for stem in files.stems(bf.join(path, shards.FOLDER), ".parquet")]
    else:
        patterns = [pattern.split("*") for pattern in names("*", card).values()]
        places = [f"{before}{clip_id}{after}" for clip_id in ids for before, after in patterns]
    listed = hashlib.sha256("\n".join(ids).encode()).hexdigest()
    return Table(path, TABLE, f"{facts_of(card)}{card.seal}{listed}", [*whole_files(card), *places]), ids


def write_table(path: str, card: Card, contents: Mapping[str, bytes], states: NDArray[np.int64] | None = None) -> None:
    """Keep what a set is made of; `contents` are digests of its clips' files by name, taken after the `states`."""
    table, _ = table_of(path, card)
    digests = [contents.get(name) or digest_of(path, name) for name in table.names]
    table.write(table.states() if states is None else states, digests)


def verify(path: str, card: Card | None = None, *, thorough: bool = False) -> Card:
    """Raise DatasetError, which names them, where files of a set are others than those it was made with. -> its card

    Sizes and times are looked at, and contents where these differ; all contents with `thorough`. Errors of the set as a
    whole (`data.checks.sets`) are refused too: counts and lists that do not fit, Mean and Std that cannot be used.
    """
    card = card or read_card(path)
    verify_files(path, card, thorough=thorough)
    verify_lists(path, card)
    return card


def verify_lists(path: str, card: Card) -> None:
    """The errors of a set as a whole alone."""
    for item in sets.lists(path, card)[1]:
        raise DatasetError(
            f"{path}: expected a set without {item.title}, found {item.clip_id} {item.message} ({item.kind}). "
            f"{item.advice} Lists are corrected by videomdm data check {shlex.quote(path)} --drop."
        )
    for lifter in (None, card.lifter):
        read_statistics(path, lifter)


def verify_files(path: str, card: Card, *, thorough: bool = False, without: Collection[str] = ()) -> None:
    """The same of the files alone, whatever clips the card counts; those of the clips `without` may be others, where
    a table holds what the rest was."""
    verify_whole(path, card)
    table, ids = table_of(path, card)
    rows, spared = table.read(), {name for clip_id in without for name in names(clip_id, card).values()}
    if rows is None and without:
        raise DatasetError(
            f"{path}: expected {TABLE}, which holds what the files of the other clips than {min(without)} were, found "
            "none that fits: they may have been changed. Put that clip's files back; or, if all are meant to be so, "
            f"make them the data set's own: videomdm data check {shlex.quote(path)} --accept."
        )
    if rows is None:
        _begin(table, card, ids)
    elif found := [name for name in table.changed(rows, thorough) if name not in spared]:
        first = table.names.index(found[0])
        then, now = (d.hex() if any(d) else "" for d in (rows["digest"][first].tobytes(), table.digest(first)))
        raise _others(path, found, then, now)


def verify_whole(path: str, card: Card) -> None:
    """Raise DatasetError where the lists or the statistics of a set are others than its card says."""
    now = digests_of(path, card)
    if found := [name for name in whole_files(card) if card.files and card.files.get(name, "") != now.get(name, "")]:
        raise _others(path, found, card.files.get(found[0], ""), now.get(found[0], ""))


def some(names: Sequence[str]) -> str:
    """The first NAMED of the names, and how many more there are."""
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def _others(path: str, found: Sequence[str], expected: str, now: str) -> DatasetError:
    """`expected` and `now` are hex digests of the first of the files, empty where there is none."""
    what = f"SHA-256 {expected[:12]}" if expected else "no such file"
    return DatasetError(
        f"{path}: expected the files that this data set was made with, found others: {some(found)} "
        f"({what} of the first then, {f'now {now[:12]}' if now else 'now it is missing'}). Put them back; or, if they "
        f"are meant to be so, make them the data set's own: videomdm data check {shlex.quote(path)} --accept."
    )


def _begin(table: Table, card: Card, ids: Sequence[str]) -> None:
    """The first look at a set without a table: read all of it, and compare with the hash on its card."""
    if len(ids) > LOOKED_AT:
        logger.info("%s: reading %d clips once, for the table of its files", table.path, len(ids))
    states, known, sums = table.states(), dict[str, bytes](), dict[str, int]()

    def keep(clip_id: str, contents: Mapping[str, bytes]) -> None:
        sums[clip_id] = index.checksum(contents)
        known.update(digests(clip_id, card, contents))

    found = content_hash(table.path, card, ids, keep)
    if found != card.content_hash:
        entries = [Entry.parse(line) for split in SPLITS for line in index.read(table.path, split, facts_of(card))]
        others = [entry.id for entry in entries if entry.sum != sums.get(entry.id)]
        raise _others(table.path, [f"of the clip {i}" for i in others] or ["of some clip"], card.content_hash, found)
    write_table(table.path, card, {} if card.packed else known, states)


def clip_digests(path: str, card: Card, kinds: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Of each clip a hash of its files of some kinds, by id, as they are in the table; without one they are read."""
    table, ids = table_of(path, card)
    rows = None if card.packed else table.read()
    places = {name: number for number, name in enumerate(table.names)} if rows is not None else {}
    for clip_id in ids:
        if rows is None:
            found = read_files(path, card, clip_id)
            parts = [hashlib.sha256(found[kind]).digest() for kind in kinds]
        else:
            parts = [rows["digest"][places[names(clip_id, card)[kind]]].tobytes() for kind in kinds]
        yield clip_id, hashlib.sha256(b"".join(parts)).hexdigest()


def digests(clip_id: str, card: Card, contents: Mapping[str, bytes]) -> dict[str, bytes]:
    """SHA-256 of a clip's files by name, from their contents by kind."""
    place = names(clip_id, card)
    return {place[kind]: hashlib.sha256(data).digest() for kind, data in contents.items()}


@locks.writing("path")
def accept(path: str) -> Card:
    """Make the files as they are the data set's own: hashes, counts and lists of its card. -> the new card

    What the set was made from no longer says what it is: its content is its identity.
    """
    card = read_card(path)
    if card.seal == (now := sealed(path, card)).seal:
        return card
    recipe = {**card.recipe, "changed": [*card.recipe.get("changed", ()), card.identity or card.content_hash]}
    made = dataclasses.replace(now, recipe=recipe, identity="", values=())
    verify_lists(path, made)
    files.write_bytes(bf.join(path, CARD), made.to_json().encode(), durable=True)
    verify_files(path, made)
    return made


def sealed(path: str, card: Card) -> Card:
    """The card with counts and hashes of the files as they are."""
    members = members_of(path)
    counts = {split: len(ids) for split, ids in members.items() if ids}
    ordered = [clip_id for ids in members.values() for clip_id in ids]
    now = dataclasses.replace(card, counts=dict(sorted(counts.items())))
    return dataclasses.replace(now, content_hash=content_hash(path, now, ordered), files=digests_of(path, card))


# -- which set it is, on whatever machine it was made ------------------------------------------------------------------


def name_of(card: Card) -> str:
    """The identity of a set; its content hash where nothing is known of what it was made from."""
    return card.identity or card.content_hash


def of_sources(card: Card, inputs: Iterable[str], clips: Sequence[str], places: Iterable[str] = ()) -> str:
    """The identity of a set made of files with the hex digests `inputs`; `clips` has what `exact` says of each clip.

    Values of the recipe that are `places` of inputs do not count: their bytes do.
    """
    facts = {
        "way": WAY,
        "recipe": _without(card.recipe, set(places)),
        "inputs": sorted(set(inputs)),
        "motion": [card.skeleton, card.fps, card.lifter, dataclasses.asdict(card.heading)],
        "clips": clips,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _without(recipe: Any, places: set[str]) -> Any:
    """A recipe less the places of files, and what options were called in messages."""
    if not isinstance(recipe, Mapping):
        return recipe
    kept = {key: value for key, value in recipe.items() if str(value) not in places and key != "flag"}
    return {key: _without(value, places) for key, value in kept.items()}


def exact(clip: Clip, split: str) -> str:
    """A hash of what of a clip is the same on every machine."""
    facts = [split, clip.id, clip.length, clip.truth is not None, clip.is_known, list(clip.texts)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


# -- a sketch of the numbers -------------------------------------------------------------------------------------------


def sketch(clip: Clip) -> list[float]:
    """A few numbers that a change of teacher, keypoints, confidence, camera or truth moves, not its last bits.

    Of each array two sums over channels with fixed signs: its mean over time, and its mean weighted by time. Foot
    contacts, which are decided by a threshold, do not count, nor keypoints that were not seen.
    """
    seen = np.where(clip.confidence[..., None] > 0, np.nan_to_num(clip.keypoints), 0.0)
    arrays = [clip.teacher[:, :-4], seen, clip.confidence, clip.extrinsics]
    arrays += [] if clip.truth is None or clip.truth_extrinsics is None else [clip.truth[:, :-4], clip.truth_extrinsics]
    return [float(value) for array in arrays for value in _moments(array)]


def _moments(array: Array) -> list[float]:
    rows = array.astype(np.float64).reshape(1 if array.shape == (3, 4) else len(array), -1)
    signs = np.cos(np.arange(1.0, rows.shape[1] + 1) ** 2) / math.sqrt(rows.shape[1])
    line = rows @ signs
    return [float(line.mean()), float((line * np.linspace(-1, 1, len(line))).mean()) if len(line) > 1 else 0.0]


def values_of(sketches: Mapping[str, Sequence[float]]) -> tuple[float, ...]:
    """Sums of the clips' sketches by id, SUMS of each number, over the square root of the number of clips."""
    width = max(map(len, sketches.values()), default=0)
    total = np.zeros((SUMS, width))
    for clip_id, numbers in sketches.items():
        bits = np.frombuffer(hashlib.sha256(clip_id.encode()).digest()[:1], np.uint8)
        signs = np.where(np.unpackbits(bits)[:SUMS, None], 1.0, -1.0)
        total[:, : len(numbers)] += signs * np.asarray(numbers)
    return tuple(round(float(value), 6) + 0.0 for value in (total / math.sqrt(max(len(sketches), 1))).ravel())


def near(some: Sequence[float], others: Sequence[float]) -> bool:
    """Whether two sketches of sets are of one set, up to rounding."""
    return len(some) == len(others) and float(np.abs(np.subtract(some, others)).max(initial=0.0)) < NEAR


# -- what is recorded of data, and known again -------------------------------------------------------------------------


def record(card: Card) -> dict[str, Any]:
    """What a run records of the set that it is made from."""
    named = {"name": card.name, "identity": name_of(card), "content": card.content_hash, "seal": card.seal}
    return {**named, "statistics": statistics_of(card), "values": list(card.values)}


def statistics_of(card: Card) -> dict[str, str]:
    """Hex digests of every Mean and Std by name; none where the card is an earlier version's."""
    return {name: digest for name, digest in sorted(card.files.items()) if name.endswith(".npy")}


def difference(before: Mapping[str, Any], card: Card) -> str:
    """How a set is another than the recorded one, empty where it is the same, perhaps made anew elsewhere."""
    if before.get("seal") == card.seal:
        return ""
    was, now = (f"{one['name']} {str(one['identity'])[:12]}" for one in (before, record(card)))
    if before.get("identity") != name_of(card):
        return f"the data set {was}, found {now}"
    if not before.get("values") or not near(before["values"], card.values):
        return f"the numbers of the data set {was}, found others of the same sources, as another version makes them"
    logger.warning("%s was made anew, of the same sources: its numbers differ from the recorded ones by rounding", now)
    return ""


def check(before: Mapping[str, Any], card: Card, place: object, path: str, advice: str) -> None:
    """Raise DatasetError where the set in `path` is another than `place` has recorded; `advice` says what to do."""
    if found := difference(before, card):
        raise DatasetError(f"{path}: expected, as recorded in {place}, {found}. {advice}")
