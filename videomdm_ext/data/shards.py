"""Packed clips: DIR/shards/SPLIT-00000.parquet and so on, a row a clip, in the order of the split's list.

Columns are the id and the bytes of each of the clip's files: what is unpacked is what was packed, byte for byte. Every
row is a row group of its own, so that a clip is read, from a mapped file, without its neighbours. zstd, with checksums.
"""

import functools
import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

import blobfile as bf

from videomdm_ext.data import files
from videomdm_ext.errors import DatasetError

FOLDER = "shards"
KINDS = ("teacher", "truth", "keypoints", "camera", "texts")
SIZE = 128
"""Clips of a shard: 20 to 60 MB. A shard that is not open yet has to be opened for one of its clips, which takes longer
the more there are."""
OPENED = 16
"""Shards that are kept open: what was read of them counts as memory of the process until others need it."""


def parquet(place: str) -> Any:
    """The module pyarrow.parquet; DatasetError where it is not installed."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise DatasetError(
            f"{place}: expected the package pyarrow for Parquet files, found none. "
            'Install it: pip install -e ".[scale]" -c constraints.txt'
        ) from error
    return pyarrow.parquet


def shard_of(path: str, place: str) -> str:
    """The file in which `place`, such as train-00012:17, lies."""
    return bf.join(path, FOLDER, f"{files.checked_id(place.partition(':')[0], path)}.parquet")


def packed(rows: Sequence[tuple[str, Mapping[str, bytes]]], place: str) -> bytes:
    """A shard of clips, each with the contents of its files by kind; messages name `place`."""
    writer_of, arrow = parquet(place).ParquetWriter, __import__("pyarrow")
    schema = arrow.schema([("id", arrow.string()), *((kind, arrow.binary()) for kind in KINDS)])
    content = io.BytesIO()
    options = {"compression": "zstd", "use_dictionary": False, "write_statistics": False, "write_page_checksum": True}
    with writer_of(content, schema, **options) as writer:
        for clip_id, found in rows:
            columns = [[clip_id], *([found.get(kind)] for kind in KINDS)]
            writer.write_batch(arrow.record_batch(columns, schema=schema))
    return content.getvalue()


def read(path: str, place: str, clip_id: str) -> dict[str, bytes]:
    """The contents of the files of a clip by kind. DatasetError names the shard where it cannot be read."""
    shard = shard_of(path, place)
    try:
        row = int(place.partition(":")[2])
        opened = open_file(shard)
        if opened.metadata.row_group(row).total_byte_size > files.BYTES_LIMIT:
            raise ValueError(f"row {row} declares more than {files.BYTES_LIMIT} bytes")
        (found,) = opened.read_row_group(row, use_threads=False).to_pylist()
        if found.pop("id") != clip_id:
            raise ValueError(f"row {row} is not the clip {clip_id}")
        return {kind: found[kind] for kind in KINDS if found[kind] is not None}
    except files.BROKEN as error:
        raise broken(shard, error) from error


def ids(shard: str) -> list[str]:
    """The ids of the clips of a shard, in order."""
    try:
        found = open_file(shard).read(["id"], use_threads=False)["id"].to_pylist()
        return [files.checked_id(str(clip_id), shard) for clip_id in found]
    except files.BROKEN as error:
        raise broken(shard, error) from error


def places(path: str, split: str, failed: list[str] | None = None) -> dict[str, str]:
    """Where each clip of a split lies, by id. Messages of broken shards are added to `failed`, or else raised."""
    found: dict[str, str] = {}
    for stem in files.stems(bf.join(path, FOLDER), ".parquet"):
        if stem.rpartition("-")[0] == split:
            try:
                found |= {clip_id: f"{stem}:{row}" for row, clip_id in enumerate(ids(shard_of(path, stem)))}
            except DatasetError as error:
                if failed is None:
                    raise
                failed.append(str(error))
    return found


def broken(place: str, error: BaseException) -> DatasetError:
    """The error for a Parquet file that cannot be read."""
    return DatasetError(
        f"{place}: expected a Parquet file that can be read, found another ({str(error)[:200]}). "
        "Copy it again from where it was made, or make it again."
    )


def open_file(place: str) -> Any:
    """An opened Parquet file, mapped into memory where it is local."""
    parquet(place)
    if "://" in place:
        return _opened(place, 0, 0)
    found = os.stat(place)
    return _opened(place, found.st_size, found.st_mtime_ns)


@functools.lru_cache(maxsize=OPENED)
def _opened(place: str, size: int, changed: int) -> Any:
    source = bf.BlobFile(place, "rb") if "://" in place else place
    options = {"memory_map": "://" not in place, "pre_buffer": False, "page_checksum_verification": True}
    return parquet(place).ParquetFile(source, **options)
