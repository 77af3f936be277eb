"""Files of a dataset folder, local or remote, through blobfile: whole or not at all, and never a pickle.

What is read may have been written by an enemy: sizes are looked at before anything is read, special files are not
opened, and `npfiles` parses arrays.
"""

import io
import json
import os
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import blobfile as bf
import numpy as np

from videomdm_ext.data import npfiles
from videomdm_ext.data.clip import Array
from videomdm_ext.errors import DatasetError

_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
BYTES_LIMIT = 1 << 30
"""Bytes of any file that is read into memory at once."""
TEXT_LIMIT = 1 << 28
"""Bytes of a text file: motion files and detectors' results are texts too."""
JSON_LIMIT = 1 << 26
"""Bytes of a card or another small JSON file."""


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


def read_bytes(path: str, *, limit: int = BYTES_LIMIT) -> bytes:
    """The content of a file of at most `limit` bytes; DatasetError where there is none to read, or more."""
    advice = "Check the path and the rights, or make the data set again."
    try:
        if "://" not in path and os.path.exists(path) and not os.path.isfile(path):
            raise OSError("not a plain file")
        size = bf.stat(path).size
        if size <= limit:
            with bf.BlobFile(path, "rb") as file:
                content = bytes(file.read(limit + 1))
            size = len(content)
    except (OSError, bf.Error) as error:
        raise DatasetError(f"{path}: expected a file that can be read, found none ({error}). {advice}") from error
    if size > limit:
        advice = "Nothing of this kind is so large; look what it is, then cut or remove it."
        raise DatasetError(f"{path}: expected at most {limit} bytes, found {size}. {advice}")
    return content


def read_text(path: str, *, limit: int = TEXT_LIMIT) -> str:
    """The content of a file in UTF-8, of at most `limit` bytes."""
    try:
        return read_bytes(path, limit=limit).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: expected text in UTF-8, found other bytes ({error}). Save it as UTF-8.") from error


def read_json(path: str, *, limit: int = JSON_LIMIT) -> Any:
    """The content of a JSON file of at most `limit` bytes."""
    return parse_json(read_text(path, limit=limit), path)


def parse_json(text: str, path: str) -> Any:
    """The value that a JSON text holds; DatasetError where it is none, or nested too deep to be one of ours."""
    try:
        return json.loads(text)
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
    return array_from(read_bytes(path), path)


def array_from(content: bytes, path: str) -> Array:
    """The array of the bytes of a .npy file as float32; messages name `path`."""
    try:
        return npfiles.parse_array(content)
    except npfiles.BROKEN as error:
        raise _unreadable(path, "one array of numbers (.npy)", error) from error


def read_arrays(path: str, *, needed: tuple[str, ...], optional: tuple[str, ...] | None = None) -> dict[str, Array]:
    """The arrays of a .npz file as float32; those `needed` must be there.

    With `optional` no others than `needed` and `optional` are looked at: for the files of others, which may hold words.
    """
    return arrays_from(read_bytes(path), path, needed=needed, optional=optional)


def arrays_from(
    content: bytes, path: str, *, needed: tuple[str, ...], optional: tuple[str, ...] | None = None
) -> dict[str, Array]:
    """The arrays of the bytes of a .npz file as float32; messages name `path`."""
    try:
        arrays = npfiles.parse_arrays(content, None if optional is None else needed + optional)
    except npfiles.BROKEN_ARCHIVE as error:
        raise _unreadable(path, f"arrays {', '.join(needed)} (.npz)", error) from error
    missing = [name for name in needed if name not in arrays]
    if missing:
        found = ", ".join(arrays) or "none"
        raise DatasetError(f"{path}: expected {', '.join(needed)}, found {found}. Make the data set again.")
    return arrays


def _unreadable(path: str, expected: str, error: BaseException) -> DatasetError:
    if isinstance(error, npfiles.PickleError):
        advice = "Pickled arrays are never loaded, they may run any program. Make the file again without."
        return PickleInsideError(f"{path}: expected {expected}, found a pickle ({error}). {advice}")
    advice = "Pickled arrays are never loaded. Make the file again."
    return DatasetError(f"{path}: expected {expected}, found something else ({error}). {advice}")
