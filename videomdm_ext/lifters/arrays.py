"""Arrays in the files of other programs, read as if an enemy had written them: no pickles, sizes looked at first."""

import io
import math
import pickle
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from videomdm_ext.errors import DatasetError

BYTES_LIMIT = 1 << 29
"""Of one file, and of what an archive unpacks to."""
RATIO_LIMIT, RATIO_FLOOR = 100, 1 << 24
"""An archive that unpacks to more than the floor may be at most this many times as large unpacked as packed."""
BROKEN = (ValueError, SyntaxError, TypeError, KeyError, EOFError, OSError, OverflowError, MemoryError, RuntimeError)

Numbers = NDArray[np.float32]


def read_npy(path: Path) -> Numbers:
    """The array of a .npy file as float32."""
    try:
        return _array(_content(path))
    except BROKEN as error:
        raise _refused(path, "an array of numbers", error) from error


def read_npz(path: Path, names: Sequence[str]) -> dict[str, Numbers]:
    """Those of the arrays `names` that a .npz file has, as float32."""
    try:
        with _archive(path) as archive:
            here = [name for name in names if f"{name}.npy" in archive.namelist()]
            return {name: _member(archive, name) for name in here}
    except (*BROKEN, zipfile.BadZipFile, zlib.error) as error:
        raise _refused(path, "an archive of arrays of numbers", error) from error


def read_pt(path: Path) -> dict[str, Any]:
    """The dictionary of tensors that torch.save wrote; nothing else is let in."""
    try:
        with _archive(path):
            found = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(found, dict):
            raise ValueError(f"it holds a {type(found).__name__}")
    except (*BROKEN, zipfile.BadZipFile, zlib.error, pickle.UnpicklingError) as error:
        raise _refused(path, "a dictionary of tensors and nothing else", error) from error
    return found


def as_numbers(value: object) -> Numbers | None:
    """A tensor of a file as an array; None for anything else."""
    plain = isinstance(value, Tensor) and value.layout == torch.strided and not value.is_complex()
    return value.detach().float().numpy() if isinstance(value, Tensor) and plain else None


def _content(path: Path) -> bytes:
    """The bytes of a plain file that is not too large."""
    if not path.is_file():
        raise OSError("no plain file")
    if path.stat().st_size > BYTES_LIMIT:
        raise ValueError(f"it has {path.stat().st_size} bytes, more than {BYTES_LIMIT}")
    return path.read_bytes()


def _archive(path: Path) -> zipfile.ZipFile:
    """An archive that can be unpacked without harm."""
    archive = zipfile.ZipFile(io.BytesIO(_content(path)))
    members, packed = archive.infolist(), path.stat().st_size
    total = sum(info.file_size for info in members)
    bomb = total > RATIO_FLOOR and total > RATIO_LIMIT * packed
    if total > BYTES_LIMIT or bomb or sum(info.compress_size for info in members) > packed:
        raise ValueError(f"it unpacks from {packed} to {total} bytes, far more than motion does")
    return archive


def _member(archive: zipfile.ZipFile, name: str) -> Numbers:
    info = archive.getinfo(f"{name}.npy")
    with archive.open(info) as file:
        _check(file, info.file_size)
    return _array(archive.read(info))


def _array(content: bytes) -> Numbers:
    """The array of the bytes of a .npy file; its header is checked before the rest is looked at."""
    shape, fortran, dtype, start = _check(io.BytesIO(content), len(content))
    flat = np.frombuffer(content, dtype, offset=start)
    with np.errstate(all="ignore"):
        return flat.astype(np.float32).reshape(shape, order="F" if fortran else "C")


def _check(file: IO[bytes], size: int) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, order, type and the first byte of the numbers, if they are numbers and as many as the file has."""
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    shape, fortran, dtype = readers[version](file)
    if dtype.kind not in "fiub":
        raise ValueError("it holds pickled objects" if dtype.hasobject else f"it holds {dtype}")
    found = size - file.tell()
    if math.prod(shape) * dtype.itemsize != found:
        raise ValueError(f"it declares {list(shape)} and has {found} bytes")
    return shape, fortran, dtype, file.tell()


def _refused(path: Path, expected: str, error: BaseException) -> DatasetError:
    return DatasetError(
        f"{path}: expected {expected}, found something else ({error}). Run the lifter again, or convert the file."
    )
