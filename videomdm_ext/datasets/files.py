"""Files of a dataset folder, local or remote, through blobfile: whole or not at all, and never a pickle."""

import io
import os
import re
import zipfile
from collections.abc import Mapping, Sequence

import blobfile as bf
import numpy as np

from videomdm_ext.datasets.clip import Array
from videomdm_ext.errors import DatasetError

_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def checked_id(clip_id: str, place: str) -> str:
    """The id, if it can be a file's name and nothing else."""
    if not _ID.fullmatch(clip_id):
        raise DatasetError(
            f"{place}: expected an id of letters, digits, '_', '-' and '.', found {clip_id!r}. "
            "An id names files inside the folder; rename the clip."
        )
    return clip_id


def check_writable(folder: str) -> None:
    """Make the folder and write into it once; DatasetError if that fails, so that no work is lost later."""
    probe = bf.join(folder, ".writable")
    try:
        bf.makedirs(folder)
        with bf.BlobFile(probe, "wb") as file:
            file.write(b"")
        bf.remove(probe)
    except (OSError, bf.Error) as error:
        raise DatasetError(
            f"{folder}: expected a folder that can be written, found none ({error}). Choose another output folder."
        ) from error


def write_bytes(path: str, content: bytes) -> None:
    """Write a file whole: beside its place and then renamed (a remote store does that by itself)."""
    beside = path if "://" in path else f"{path}.part"
    try:
        bf.makedirs(bf.dirname(path))
        with bf.BlobFile(beside, "wb") as file:
            file.write(content)
        if beside != path:
            os.replace(beside, path)
    except (OSError, bf.Error) as error:
        raise DatasetError(f"{path}: cannot be written ({error}). Choose another folder.") from error


def read_bytes(path: str) -> bytes:
    """The content of a file; DatasetError where there is none to read."""
    try:
        with bf.BlobFile(path, "rb") as file:
            return bytes(file.read())
    except (OSError, bf.Error) as error:
        advice = "Check the path and the rights, or make the data set again."
        raise DatasetError(f"{path}: expected a file that can be read, found none ({error}). {advice}") from error


def read_text(path: str) -> str:
    """The content of a file in UTF-8."""
    try:
        return read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: expected text in UTF-8, found other bytes ({error}). Save it as UTF-8.") from error


def as_array(values: Sequence[float]) -> Array:
    """Numbers as an array of float32."""
    return np.asarray(values, dtype=np.float32)


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
    content = read_bytes(path)
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise ValueError("several arrays")
        return array.astype(np.float32)
    except (ValueError, TypeError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise _unreadable(path, "one array of numbers (.npy)", error) from error


def read_arrays(path: str, *, needed: tuple[str, ...]) -> dict[str, Array]:
    """The arrays of a .npz file as float32; those `needed` must be there."""
    content = read_bytes(path)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            arrays = {name: archive[name].astype(np.float32) for name in archive.files}
    except (ValueError, TypeError, EOFError, OSError, AttributeError, zipfile.BadZipFile) as error:
        raise _unreadable(path, f"arrays {', '.join(needed)} (.npz)", error) from error
    missing = [name for name in needed if name not in arrays]
    if missing:
        found = ", ".join(arrays) or "none"
        raise DatasetError(f"{path}: expected {', '.join(needed)}, found {found}. Make the data set again.")
    return arrays


def _unreadable(path: str, expected: str, error: Exception) -> DatasetError:
    advice = "Pickled arrays are never loaded. Make the file again."
    return DatasetError(f"{path}: expected {expected}, found something else ({error}). {advice}")
