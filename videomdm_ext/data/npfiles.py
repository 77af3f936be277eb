"""The bytes of .npy and .npz files as float32 arrays, read as if an enemy had written them.

A header is parsed here and never evaluated; the number of elements that it declares has to fit the bytes that are there
before anything is allocated. Only plain numbers are read: no pickles, no records, no text, no complex numbers.
"""

import ast
import io
import math
import re
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from videomdm_ext.data.clip import Array

MAGIC = b"\x93NUMPY"
HEADER_LIMIT = 10_000
"""Bytes; numpy's own limit."""
ELEMENTS_LIMIT = 1 << 28
"""Elements of one array, 1 GiB as float32: a hundred times the longest clip."""
ARCHIVE_LIMIT = 1 << 30
"""Bytes of all arrays of an archive, unpacked."""
MEMBERS_LIMIT = 256
RATIO_LIMIT, RATIO_FLOOR = 100, 1 << 24
"""An archive that unpacks to more than the floor may be at most this many times as large unpacked as packed."""
PLAIN = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248])")
DIMENSIONS_LIMIT = 8
BROKEN = (ValueError, SyntaxError, TypeError, KeyError, IndexError, EOFError, OSError, OverflowError, MemoryError)
"""What broken files make the parsers raise; RuntimeError comes with encrypted and unknown kinds of archive."""
BROKEN_ARCHIVE = (*BROKEN, RuntimeError, struct.error, zlib.error, zipfile.BadZipFile)


class NotPlainError(ValueError):
    """The file holds something else than plain numbers."""


class PickleError(NotPlainError):
    """The file holds pickled objects, which may run any program when they are loaded."""


@dataclass(frozen=True)
class Header:
    """What the first bytes of an array declare; its numbers begin at `start`."""

    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    fortran: bool
    start: int

    @property
    def size(self) -> int:
        """Bytes of the numbers."""
        return math.prod(self.shape) * self.dtype.itemsize


def parse_array(content: bytes) -> Array:
    """The array of the bytes of a .npy file; NotPlainError or one of BROKEN where there is none."""
    header = parse_header(content, len(content))
    flat = np.frombuffer(content, header.dtype, offset=header.start)
    with np.errstate(all="ignore"):  # what is too large for float32 becomes infinite, and is found as such
        return flat.astype(np.float32).reshape(header.shape, order="F" if header.fortran else "C")


def parse_header(content: bytes, total: int) -> Header:
    """The header of an array whose first bytes are `content`, of `total` bytes in all."""
    if content[:1] == b"\x80":
        raise PickleError("it is a pickle")
    if content[:6] != MAGIC or len(content) < 12:
        raise NotPlainError("it does not begin as an array of numpy does")
    wide = content[6] >= 2
    start = (12 if wide else 10) + int.from_bytes(content[8 : 12 if wide else 10], "little")
    if content[6] not in (1, 2, 3) or start > min(HEADER_LIMIT, len(content)):
        raise NotPlainError("its header has an unknown version, is cut off or too long")
    header = _declared(content[12 if wide else 10 : start].decode("latin1"), start)
    if math.prod(header.shape) > ELEMENTS_LIMIT:
        raise NotPlainError(f"it declares {list(header.shape)} elements, more than the {ELEMENTS_LIMIT} allowed")
    if header.size != total - start:
        raise NotPlainError(f"it declares {list(header.shape)}, {header.size} bytes, and has {total - start}")
    return header


def _declared(text: str, start: int) -> Header:
    try:
        entries = ast.literal_eval(text.strip())
    except RecursionError as error:
        raise NotPlainError("its header is nested too deep") from error
    if not isinstance(entries, dict) or set(entries) != {"descr", "fortran_order", "shape"}:
        raise NotPlainError("its header is not numpy's")
    kind, shape, fortran = entries["descr"], entries["shape"], entries["fortran_order"]
    if isinstance(kind, str) and kind.lstrip("<>|=").startswith("O"):
        raise PickleError("it holds pickled objects")
    if not isinstance(kind, str) or PLAIN.fullmatch(kind) is None:
        raise NotPlainError(f"it holds {str(kind)[:40]!r}, not plain numbers")
    sane = isinstance(shape, tuple) and len(shape) <= DIMENSIONS_LIMIT and isinstance(fortran, bool)
    if not sane or not all(type(n) is int and 0 <= n < 1 << 63 for n in shape):
        raise NotPlainError(f"its header declares the shape {str(shape)[:60]}")
    return Header(np.dtype(kind), shape, fortran, start)


def parse_arrays(content: bytes, wanted: tuple[str, ...] | None = None) -> dict[str, Array]:
    """The arrays of the bytes of a .npz file by name, those `wanted` or all; raises one of BROKEN_ARCHIVE."""
    if content[:1] == b"\x80":
        raise PickleError("it is a pickle")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {_name(info): info for info in _safe(archive.infolist(), len(content))}
        chosen = members if wanted is None else {name: members[name] for name in wanted if name in members}
        return {name: _member(archive, info) for name, info in chosen.items()}


def _safe(members: list[zipfile.ZipInfo], packed: int) -> list[zipfile.ZipInfo]:
    """The members, if unpacking them does no harm."""
    total = sum(info.file_size for info in members)
    if len(members) > MEMBERS_LIMIT or len({info.filename for info in members}) < len(members):
        raise NotPlainError(f"it has {len(members)} members, more than {MEMBERS_LIMIT} or some of one name")
    if total > ARCHIVE_LIMIT or (total > RATIO_FLOOR and total > RATIO_LIMIT * packed):
        raise NotPlainError(f"it unpacks from {packed} to {total} bytes, far more than an archive of motions does")
    if sum(info.compress_size for info in members) > packed:
        raise NotPlainError("its members overlap")
    for info in members:
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
            raise NotPlainError(f"its member {info.filename[:40]!r} is encrypted or packed in a way numpy does not")
    return members


def _name(info: zipfile.ZipInfo) -> str:
    """The name of the array in a member; one that would leave a folder is refused, although nothing is unpacked."""
    path = PurePosixPath(info.filename.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in info.filename or not info.filename.endswith(".npy"):
        raise NotPlainError(f"it has a member {info.filename[:60]!r}, which is no name of an array")
    return info.filename[: -len(".npy")]


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Array:
    """One array; its header is checked before the rest is unpacked."""
    with archive.open(info) as file:
        parse_header(file.read(HEADER_LIMIT), info.file_size)
    with archive.open(info) as file:
        content = file.read(info.file_size)
    return parse_array(content)
