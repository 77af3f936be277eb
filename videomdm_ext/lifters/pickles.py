"""Numbers out of the pickles that joblib and pickle write, without running anything that a file names.

A pickle is a program: it names functions and calls them. Here no name is looked up. Those of arrays, numbers and plain
dictionaries stand for classes of this module, those of torch for one that does nothing, and any other is refused. What
is read is made of dictionaries, lists, words, numbers and `Stored` arrays, whose bytes `numbers` looks at on demand.
"""

import io
import math
import pickle
import zlib
from typing import Any

import numpy as np

from videomdm_ext.data import files
from videomdm_ext.data.files import ARCHIVE_LIMIT, Array, NotPlainError, PickleInsideError
from videomdm_ext.errors import DatasetError

PACKED = (b"\x78", b"\x1f\x8b")  # as zlib and gzip begin
BROKEN = (*files.BROKEN, AttributeError, RecursionError)


class Stored:
    """An array of a pickle: its bytes, and what they hold; not yet looked at."""

    def __init__(self, dtype: Any, shape: Any, content: Any, *, fortran: bool = False) -> None:
        self.dtype, self.shape, self.content, self.fortran = dtype, shape, content, fortran


def numbers(value: Any) -> Array:
    """A `Stored` array, a list of numbers or one number as float32; ValueError, or another of BROKEN, for others."""
    if not isinstance(value, Stored):
        if isinstance(value, list | tuple) and any(isinstance(one, Stored) for one in value):
            return np.stack([numbers(one) for one in value])
        if isinstance(value, str | bytes | dict) or np.asarray(value).dtype.kind not in "biuf":
            raise NotPlainError(f"a {type(value).__name__} in the place of numbers")
        return np.asarray(value).astype(np.float32)
    shape = tuple(int(side) for side in value.shape)
    dtype = np.dtype(str(value.dtype))
    if dtype.kind not in "biuf" or dtype.itemsize > 8 or min(shape, default=0) < 0:
        raise NotPlainError(f"an array of {dtype.str} {list(shape)}")
    if not isinstance(value.content, bytes | bytearray) or len(value.content) != math.prod(shape) * dtype.itemsize:
        raise NotPlainError(f"an array {list(shape)} without its bytes")
    flat = np.frombuffer(value.content, dtype)
    with np.errstate(all="ignore"):
        return flat.reshape(shape, order="F" if value.fortran else "C").astype(np.float32)


def read(path: str) -> Any:
    """The content of a file that joblib.dump or pickle.dump wrote, perhaps packed by zlib or gzip.

    PickleInsideError where it names anything that could run, DatasetError where it cannot be read.
    """
    content = files.read_bytes(path)
    try:
        return _Reader(_unpacked(content) if content.startswith(PACKED) else content).load()
    except files.PickleError as error:
        raise PickleInsideError(
            f"{path}: expected arrays, numbers and words in a pickle, found {error}, which could run when it is "
            "loaded. It was not. Where you trust the file, load it yourself and write the arrays to a .npz."
        ) from error
    except BROKEN as error:
        raise DatasetError(
            f"{path}: expected what joblib or pickle wrote, found something else ({str(error)[:200]}). Run the tool "
            "again, or copy its file again."
        ) from error


def _unpacked(content: bytes) -> bytes:
    """The bytes that zlib or gzip packed, ARCHIVE_LIMIT at most."""
    machine = zlib.decompressobj(wbits=47)
    found = machine.decompress(content, ARCHIVE_LIMIT)
    if machine.unconsumed_tail or not machine.eof:
        raise NotPlainError(f"it unpacks to more than {ARCHIVE_LIMIT} bytes, or was cut off")
    return found


class _Reader(pickle.Unpickler):
    """Reads from bytes; the stand-ins are made anew for each file, which may change what it is given."""

    def __init__(self, content: bytes) -> None:
        self.file = io.BytesIO(content)  # without a `peek` the unpickler never reads ahead
        super().__init__(self.file)
        file, total = self.file, len(content)

        class Dtype:
            """numpy's dtype: a letter and a size, then the order of bytes."""

            def __init__(self, code: Any = "", *given: Any) -> None:
                self.code = str(code)

            def __setstate__(self, state: Any) -> None:
                order, rest = state[1], state[2:5]
                if any(part is not None for part in rest):
                    raise NotPlainError("an array of records")
                self.code = (order if order in "<>" else "") + self.code.lstrip("<>=|")

            def __str__(self) -> str:
                return self.code

        class Plain(Stored):
            """numpy's way: an empty array that is then given a state."""

            def __init__(self, *given: Any) -> None:
                super().__init__("", (), None)

            def __setstate__(self, state: Any) -> None:
                _, self.shape, self.dtype, self.fortran, self.content = state

        class Wrapped(Stored):
            """joblib's way: the bytes stand in the file behind the pickle's instruction."""

            def __init__(self, *given: Any) -> None:
                super().__init__("", (), None)

            def __setstate__(self, state: Any) -> None:
                self.dtype, self.shape, self.fortran = state["dtype"], state["shape"], state["order"] == "F"
                if state.get("numpy_array_alignment_bytes") is not None:
                    file.read(file.read(1)[0])
                dtype = np.dtype(str(self.dtype))
                size = math.prod(self.shape) * dtype.itemsize
                if dtype.kind not in "biuf" or not 0 <= size <= total - file.tell():
                    raise NotPlainError(f"an array of {dtype.str} {str(self.shape)[:60]}, longer than its file")
                self.content = file.read(size)

        class Nothing(dict[Any, Any]):
            """Whatever torch would make."""

            def __init__(self, *given: Any, **named: Any) -> None:
                super().__init__()

            def __setstate__(self, state: Any) -> None:
                pass

        class Name:
            """A name that is an argument only."""

        def scalar(dtype: Any, content: Any) -> Any:
            kind = np.dtype(str(dtype))
            if kind.kind not in "biuf":
                raise NotPlainError(f"a number of {kind.str}")
            return np.frombuffer(content, kind)[0].item()

        def buffered(content: Any, dtype: Any, shape: Any, order: Any) -> Stored:
            return Stored(dtype, shape, content, fortran=order == "F")

        def mapping(*given: Any) -> dict[Any, Any]:
            return {}

        def encoded(text: Any, coding: Any) -> bytes:
            """How protocol 2 writes bytes."""
            return str(text).encode("latin1")

        self.nothing = Nothing
        self.stand_ins: dict[tuple[str, str], Any] = {
            ("numpy", "dtype"): Dtype,
            ("numpy", "ndarray"): Name,
            ("builtins", "dict"): Name,
            ("builtins", "list"): Name,
            ("joblib.numpy_pickle", "NumpyArrayWrapper"): Wrapped,
            ("collections", "defaultdict"): mapping,
            ("collections", "OrderedDict"): mapping,
            ("_codecs", "encode"): encoded,
        }
        for core in ("core", "_core"):
            self.stand_ins |= {
                (f"numpy.{core}.multiarray", "_reconstruct"): Plain,
                (f"numpy.{core}.multiarray", "scalar"): scalar,
                (f"numpy.{core}.numeric", "_frombuffer"): buffered,
            }

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in of a name."""
        if (module, name) in self.stand_ins:
            return self.stand_ins[module, name]
        if module.partition(".")[0] == "torch":
            return self.nothing
        raise files.PickleError(f"the name {module[:80]}.{name[:80]}")
