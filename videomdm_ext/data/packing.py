"""Pack a data set into Parquet shards, and unpack one: the same clips, lists, statistics and content hash."""

import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import blobfile as bf

from videomdm_ext.config import MADE
from videomdm_ext.data import files, index, locks, seal, shards
from videomdm_ext.data.folder import (
    CARD,
    SPLITS,
    Card,
    facts_of,
    names,
    read_card,
    read_entries,
    read_files,
    update_hash,
)
from videomdm_ext.data.index import Entry
from videomdm_ext.errors import ConfigError, DatasetError

Progress = Callable[[int, int], None]  # `progress(done, total)` in clips
Rows = Iterator[tuple[Entry, Mapping[str, bytes]]]


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
    digests = seal.Digests(made)
    for split in (split for split in SPLITS if card.counts.get(split)):
        entries, lines = read_entries(path, card, split), []
        for start in range(0, len(entries), shards.SIZE):
            stem, part = f"{split}-{start // shards.SIZE:05d}", entries[start : start + shards.SIZE]
            rows = _shard(path, card, out, stem, part) if packed else _read(path, card, part)
            for row, (entry, found) in enumerate(rows):
                update_hash(content, made, entry.id, found)
                if not packed:
                    digests.add(entry.id, found)
                place = names(entry.id, card)
                for kind, data in () if packed else found.items():
                    files.write_bytes(bf.join(out, place[kind]), data)
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
    seal.write_table(out, made, digests.found)
    files.write_bytes(bf.join(out, CARD), made.to_json().encode(), durable=True)
    return made


def _read(path: str, card: Card, entries: Sequence[Entry]) -> Rows:
    return ((entry, read_files(path, card, entry.id, entry.place)) for entry in entries)


def _shard(path: str, card: Card, out: str, stem: str, entries: Sequence[Entry]) -> Rows:
    """The clips of a shard as it holds them; one that an earlier attempt made is not made again."""
    shard = shards.shard_of(out, stem)
    try:
        whole = bf.exists(shard) and shards.ids(shard) == [entry.id for entry in entries]
    except DatasetError:
        whole = False
    if not whole:
        rows = [(entry.id, found) for entry, found in _read(path, card, entries)]
        files.write_bytes(shard, shards.packed(rows, shard))
    for row, entry in enumerate(entries):
        yield entry, shards.read(out, f"{stem}:{row}", entry.id)


def _others(path: str, card: Card) -> Iterator[str]:
    """Files of the set beside those of its clips: lists, statistics, and refined teachers."""
    yield from (name for split in SPLITS if bf.exists(bf.join(path, name := f"{split}.txt")))
    for folder in ("", f"teacher_vecs/{card.lifter}/"):
        yield from (f"{folder}{name}" for name in ("Mean.npy", "Std.npy"))
    made = [place for kind in MADE if bf.isdir(place := bf.join(path, kind))]
    for root, _, found in itertools.chain.from_iterable(map(bf.walk, made)):
        yield from (bf.join(root, name)[len(path.rstrip("/")) + 1 :] for name in found)
