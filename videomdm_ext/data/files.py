"""Files of a dataset folder, local or remote, through blobfile: whole or not at all, and never a pickle.

What is read may have been written by an enemy. Sizes are looked at before anything is read, special files are not
opened, and arrays are checked by their headers: the number of elements that one declares has to fit the bytes that are
there before anything is allocated. Only plain numbers are read: no pickles, no records, no complex numbers; words on
demand.
"""

import codecs
import contextlib
import functools
import io
import math
import os
import pickle
import re
import struct
import tokenize
import uuid
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import blobfile as bf
import numpy as np
import torch
from numpy.typing import NDArray

from videomdm_ext.data import schemas
from videomdm_ext.errors import DatasetError, StorageError, of_storage

Array = NDArray[np.float32]
Pairs = Callable[[list[tuple[str, Any]]], Any]

_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
BYTES_LIMIT = 1 << 30  # bytes of any file that is read into memory at once
TEXT_LIMIT = 1 << 28  # bytes of a text file: motion files and detectors' results are texts too
JSON_LIMIT = 1 << 26  # bytes of a card or another small JSON file
HEADER_LIMIT = 10_000  # bytes of an array's header; numpy's own limit
ELEMENTS_LIMIT = 1 << 28  # elements of one array, 1 GiB as float32: a hundred times the longest clip
ARCHIVE_LIMIT, MEMBERS_LIMIT = 1 << 30, 256  # bytes of all arrays of an archive, unpacked, and their number
RATIO_LIMIT, RATIO_FLOOR = 100, 1 << 24
"""An archive that unpacks to more than the floor may be at most this many times as large unpacked as packed."""
DIMENSIONS_LIMIT = 8
PART = ".part"
"""Ending of what is being written; none of it is ever read."""
BROKEN = (
    ValueError, SyntaxError, TypeError, KeyError, IndexError, EOFError, OSError, OverflowError, MemoryError,
    RuntimeError, UserWarning, tokenize.TokenError, struct.error, zlib.error, zipfile.BadZipFile,
    pickle.UnpicklingError,
)  # fmt: skip
"""What broken files make the parsers raise."""


class NotPlainError(ValueError):
    """The file holds something else than plain numbers."""


class PickleError(NotPlainError):
    """The file holds pickled objects, which may run any program when they are loaded."""


class PickleInsideError(DatasetError):
    """A file that would run a program if it were loaded."""


def checked_id(clip_id: str, place: str) -> str:
    """The id, if it can be a file's name and nothing else."""
    if not _ID.fullmatch(clip_id):
        raise DatasetError(
            f"{place}: expected an id of letters, digits, '_', '-' and '.', found {clip_id!r}. "
            "An id names files inside the folder; rename the clip."
        )
    return clip_id


def check_writable(folder: str) -> None:
    """Make the folder and write into it once; StorageError if that fails, so that no work is lost later."""
    probe = bf.join(folder, f".writable-{uuid.uuid4().hex}")  # its own: others may begin at the same moment
    try:
        bf.makedirs(folder)
        with bf.BlobFile(probe, "wb") as file:
            file.write(b"")
        bf.remove(probe)
    except (OSError, bf.Error) as error:
        raise StorageError(
            f"{folder}: expected a folder that can be written, found none ({error}). Choose another output folder."
        ) from error


def write_bytes(path: str, content: bytes, *, beside: str = "", durable: bool = False) -> None:
    """Write a file whole: under a name of its own and then renamed (a remote store does that by itself).

    What is `durable`, as the only record of finished work, is on the disk before it has its name, and the name too
    before this returns: after a power loss it is whole, or as before. A device or a pipe, such as /dev/stdout, is
    written to and stays one. StorageError where it cannot be written, and nothing of it is left.
    """
    direct = "://" in path or (os.path.exists(path) and not os.path.isfile(path))
    beside = path if direct else beside or f"{path}.{uuid.uuid4().hex[:12]}{PART}"
    try:
        for folder in {bf.dirname(path), bf.dirname(beside)} - {""}:
            bf.makedirs(folder)
        with bf.BlobFile(beside, "wb") as file:
            file.write(content)
        if beside != path:
            if durable:
                flush(beside)
            os.replace(beside, path)
            if durable:
                flush(os.path.dirname(path) or ".")
    except (OSError, bf.Error) as error:
        if beside != path:
            with contextlib.suppress(OSError):
                os.remove(beside)
        known = of_storage(error, path) if isinstance(error, OSError) else None
        raise known or StorageError(f"{path}: cannot be written ({error}). Choose another folder.") from error


def flush(path: str | os.PathLike[str]) -> None:
    """Wait until a file, or a folder's list of files, is on the disk; folders cannot be asked everywhere."""
    if os.path.isdir(path) and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY if os.path.isdir(path) else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


_watch: Callable[[str, bytes | None], None] | None = None


@contextlib.contextmanager
def watched(watch: Callable[[str, bytes | None], None]) -> Iterator[None]:
    """Within, `watch(path, content)` is called for every file that is read; content is None where another read it."""
    global _watch
    before, _watch = _watch, watch
    try:
        yield
    finally:
        _watch = before


def note_read(path: str) -> None:
    """Tell whoever watches of a file that is read by another than `read_bytes`."""
    if _watch:
        _watch(path, None)


def read_bytes(path: str, *, limit: int = BYTES_LIMIT) -> bytes:
    """The content of a file of at most `limit` bytes; DatasetError where there is none to read, or more."""
    advice = "Check the path and the rights, or make the data set again."
    try:
        local = "://" not in path
        if local and os.path.exists(path) and not os.path.isfile(path):
            raise OSError("not a plain file")
        size = os.stat(path).st_size if local else bf.stat(path).size
        if size <= limit:
            with open(path, "rb") if local else bf.BlobFile(path, "rb") as file:
                content = bytes(file.read(size + 1))  # Python makes room for as many
            size = len(content)
    except (OSError, bf.Error) as error:
        raise DatasetError(f"{path}: expected a file that can be read, found none ({error}). {advice}") from error
    if size > limit:
        advice = "Nothing of this kind is so large; look what it is, then cut or remove it."
        raise DatasetError(f"{path}: expected at most {limit} bytes, found {size}. {advice}")
    if _watch:
        _watch(path, content)
    return content


def read_text(path: str, *, limit: int = TEXT_LIMIT, errors: str = "strict") -> str:
    """The content of a text file of at most `limit` bytes, decoded as by `text_from`."""
    return text_from(read_bytes(path, limit=limit), path, errors=errors)


def text_from(content: bytes, path: str, *, errors: str = "strict") -> str:
    """The text of the bytes of a file in UTF-8, or in UTF-16 with a byte order mark; messages name `path`.

    Byte order marks, which Windows programs write, are no part of the text. `errors` is that of bytes.decode.
    """
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if wide else "utf-8-sig", errors)
    except UnicodeDecodeError as error:
        advice = "Save it as UTF-8; for Excel that is the type CSV UTF-8."
        raise DatasetError(f"{path}: expected text in UTF-8, found other bytes ({error}). {advice}") from error


def read_json(path: str | os.PathLike[str], kind: str, *, limit: int = JSON_LIMIT) -> Any:
    """The content of a JSON file of at most `limit` bytes, as schemas.json describes this kind of file."""
    return parse_json(read_text(str(path), limit=limit), str(path), kind)


def parse_json(text: str, path: str, kind: str, *, pairs: Pairs | None = None) -> Any:
    """The value of a JSON text; DatasetError names `path` where it is none, nested too deep, or no file of `kind`.

    `pairs` makes the value of each object, a dictionary by default; a ValueError of it counts as one of the text.
    """
    try:
        return schemas.check(schemas.read(text, pairs), kind, path)
    except (ValueError, RecursionError) as error:
        found = "one nested too deep" if isinstance(error, RecursionError) else f"other text ({error})"
        raise DatasetError(f"{path}: expected JSON, found {found}. Make the file again.") from error


def leads_out(path: str, root: str) -> bool:
    """Whether a link leads from `path` to a place outside the folder `root`; never for a remote one."""
    if "://" in path:
        return False
    inside = os.path.realpath(root)
    return os.path.commonpath((inside, os.path.realpath(path))) != inside


def list_files(folder: str, ending: str = "", *, root: str | None = None) -> list[str]:
    """Names of the files in a folder that end so, in order; none where there is no folder.

    DatasetError where a link among them leads out of `root`, by default the folder itself.
    """
    found = sorted(entries(folder))
    for name in found:
        if name.endswith(ending) and leads_out(bf.join(folder, name), root or folder):
            raise DatasetError(
                f"{bf.join(folder, name)}: expected a file inside {root or folder}, found a link that leads out of it. "
                "Copy the file there, or remove the link."
            )
    return [name for name in found if name.endswith(ending)]


def entries(folder: str) -> Iterator[str]:
    """Names of what lies in a folder, without hidden files and folders."""
    if not bf.isdir(folder):
        return
    if "://" in folder:
        yield from (name for name in bf.listdir(folder) if not name.startswith("."))
        return
    with os.scandir(folder) as found:
        yield from (e.name for e in found if not e.name.startswith(".") and (e.is_symlink() or not e.is_dir()))


def stems(folder: str, ending: str) -> list[str]:
    """Names of the files in a folder that end so, without the ending, sorted; none where there is no folder."""
    return sorted(name.removesuffix(ending) for name in entries(folder) if name.endswith(ending))


def array_bytes(array: Array) -> bytes:
    """An array as the bytes of a .npy file."""
    content = io.BytesIO()
    np.save(content, array.astype(np.float32), allow_pickle=False)
    return content.getvalue()


def arrays_bytes(arrays: Mapping[str, Array]) -> bytes:
    """Arrays as the bytes of a .npz file; equal arrays give equal bytes."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, array in arrays.items():
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), array_bytes(array))
    return content.getvalue()


def read_array(path: str) -> Array:
    """The array of a .npy file as float32."""
    return array_from(read_bytes(path), path)


def array_from(content: bytes, path: str) -> Array:
    """The array of the bytes of a .npy file as float32; messages name `path`."""
    try:
        return _numbers(content)
    except BROKEN as error:
        raise _unreadable(path, "one array of numbers (.npy)", error) from error


def read_arrays(path: str, *, needed: tuple[str, ...], optional: tuple[str, ...] | None = None) -> dict[str, Array]:
    """The arrays of a .npz file as float32; those `needed` must be there.

    With `optional` no others than `needed` and `optional` are looked at: for the files of others, which may hold words.
    """
    return arrays_from(read_bytes(path), path, needed=needed, optional=optional)


def read_only(path: str, needed: tuple[str, ...]) -> dict[str, Array]:
    """These arrays of a .npz file as float32, whatever else it holds."""
    return read_arrays(path, needed=needed, optional=())


def arrays_from(
    content: bytes,
    path: str,
    *,
    needed: tuple[str, ...],
    optional: tuple[str, ...] | None = None,
    words: tuple[str, ...] = (),
) -> dict[str, Array]:
    """The arrays of the bytes of a .npz file as float32, but those of `words`; messages name `path`."""
    try:
        members = _members(content, None if optional is None else needed + optional)
        arrays = {name: _numbers(data) for name, data in members.items() if name not in words}
    except BROKEN as error:
        raise _unreadable(path, f"arrays {', '.join(needed or optional or ())} (.npz)", error) from error
    missing = [name for name in needed if name not in arrays]
    if missing:
        found = ", ".join(arrays) or "none"
        raise DatasetError(f"{path}: expected {', '.join(needed)}, found {found}. Make the data set again.")
    return arrays


def texts_from(content: bytes, path: str, names: tuple[str, ...]) -> dict[str, NDArray[np.str_]]:
    """The arrays of words of the bytes of a .npz file; messages name `path`."""
    try:
        members = _members(content, names)
        found = {name: _read(members[name], "biufU") for name in names}
        if numbers := [name for name, array in found.items() if array.dtype.kind != "U" and array.size]:
            raise NotPlainError(f"{', '.join(numbers)} has no words")
        return {name: array.astype(np.str_) for name, array in found.items()}  # numpy takes none for numbers
    except BROKEN as error:
        raise _unreadable(path, f"words {', '.join(names)} (.npz)", error) from error


def read_tensors(path: str) -> dict[str, Any]:
    """The dictionary of tensors, or of dictionaries of tensors, that torch.save wrote; nothing else is let in."""
    content = read_bytes(path)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            _check_members(archive.infolist(), len(content))
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        if not isinstance(found, dict):
            raise ValueError(f"it holds a {type(found).__name__}")
    except BROKEN as error:
        raise _unreadable(path, "a dictionary of tensors and nothing else", error) from error
    return found


def start_of_member(path: str, name: str) -> tuple[bytes, int]:
    """The first HEADER_LIMIT bytes of an array in a local .npz file, and its whole size, without the rest of the file.

    KeyError, or another of BROKEN, where there is none.
    """
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(f"{name}.npy")
        with archive.open(info) as file:
            return file.read(HEADER_LIMIT), info.file_size


class Header(NamedTuple):
    """What the first bytes of an array declare; its numbers begin at `start`."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool
    start: int


def header_of(content: bytes, total: int, kinds: str = "biuf") -> Header:
    """The header of an array whose first bytes are `content`, of `total` bytes in all. Raises one of BROKEN."""
    if content[:1] == b"\x80":
        raise PickleError("it is a pickle")
    if content[:6] != np.lib.format.MAGIC_PREFIX:
        raise NotPlainError("it does not begin as an array of numpy does")
    short = content[6:8] == b"\x01\0"  # version 1, whose header says in two bytes how long it is
    length = min(10 + int.from_bytes(content[8:10], "little"), HEADER_LIMIT) if short else HEADER_LIMIT + 12
    dtype, shape, _, start = header = _declared(content[:length])
    if dtype.hasobject:
        raise PickleError("it holds pickled objects")
    if dtype.kind not in kinds or (dtype.itemsize > 8 and dtype.kind != "U"):
        raise NotPlainError(f"it holds {dtype.str!r}, not plain {'words' if kinds == 'U' else 'numbers'}")
    if len(shape) > DIMENSIONS_LIMIT or not all(type(n) is int and 0 <= n < 1 << 63 for n in shape):
        raise NotPlainError(f"its header declares the shape {str(shape)[:60]}")
    if math.prod(shape) > ELEMENTS_LIMIT:
        raise NotPlainError(f"it declares {list(shape)} elements, more than the {ELEMENTS_LIMIT} allowed")
    size = math.prod(shape) * dtype.itemsize
    if size != total - start:
        raise NotPlainError(f"it declares {list(shape)}, {size} bytes, and has {total - start}")
    return header


@functools.lru_cache(maxsize=1024)
def _declared(content: bytes) -> Header:
    """The header as it is, remembered: clips of equal length have equal ones."""
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise NotPlainError("its header has an unknown version")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a header of Python 2 is one that nobody writes any more
        shape, fortran, dtype = read(file)
    return Header(dtype, shape, fortran, file.tell())


def _read(content: bytes, kinds: str = "biuf") -> NDArray[Any]:
    header = header_of(content, len(content), kinds)
    flat = np.frombuffer(content, header.dtype, offset=header.start) if len(content) > header.start else np.zeros(0)
    return flat.reshape(header.shape, order="F" if header.fortran else "C")


def _numbers(content: bytes) -> Array:
    with np.errstate(all="ignore"):  # what is too large for float32 becomes infinite, and is found as such
        return _read(content).astype(np.float32)


def _members(content: bytes, wanted: tuple[str, ...] | None) -> dict[str, bytes]:
    """Bytes of the arrays of a .npz file by name, those `wanted` or all; headers are checked before unpacking."""
    if content[:1] == b"\x80":
        raise PickleError("it is a pickle")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        _check_members(archive.infolist(), len(content))
        members = {_name(info): info for info in archive.infolist()}
        found = {}
        for name, info in members.items():
            if wanted is None or name in wanted:
                with archive.open(info) as file:
                    header_of(file.read(HEADER_LIMIT), info.file_size, "biufU")
                found[name] = archive.read(info)
        return found


def _check_members(members: list[zipfile.ZipInfo], packed: int) -> None:
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


def _name(info: zipfile.ZipInfo) -> str:
    """The name of the array in a member; one that would leave a folder is refused, although nothing is unpacked."""
    path = PurePosixPath(info.filename.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in info.filename or not info.filename.endswith(".npy"):
        raise NotPlainError(f"it has a member {info.filename[:60]!r}, which is no name of an array")
    return info.filename[: -len(".npy")]


def _unreadable(path: str, expected: str, error: BaseException) -> DatasetError:
    if isinstance(error, PickleError | pickle.UnpicklingError):
        advice = "Pickled arrays are never loaded, they may run any program. Make the file again without."
        return PickleInsideError(f"{path}: expected {expected}, found a pickle ({error}). {advice}")
    advice = "Pickled arrays are never loaded. Make the file again."
    return DatasetError(f"{path}: expected {expected}, found something else ({str(error)[:200]}). {advice}")
