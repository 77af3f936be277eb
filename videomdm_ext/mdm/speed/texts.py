"""Features of texts that are encoded once, by themselves: kept in memory, and on disk for the next program.

What an encoder makes of a text depends, in its last bits, on the texts beside it, on the number of threads and on the
processor, as matrix products are blocked by their shape. So the features of a text are here those of the text alone,
computed by one thread; texts are spread over threads, never put into one product. On disk they lie under the hash of
the encoder (its weights, its program, torch, the processor) and of the text: what is read has the bits that this
machine would compute, or it is not read.
"""

import functools
import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from videomdm_ext.data import files
from videomdm_ext.errors import StorageError

logger = logging.getLogger(__name__)

VARIABLE, OFF = "VIDEOMDM_TEXTS", "off"
"""Environment variable with the folder, or OFF."""
CPU = torch.device("cpu")
SUM = hashlib.sha256().digest_size
"""Bytes of the checksum in front of a file's numbers."""


def folder() -> Path | None:
    """Where features are kept on disk; None where that is switched off."""
    place = os.environ.get(VARIABLE, "")
    if place == OFF:
        return None
    return Path(place) if place else Path.home() / ".cache" / "videomdm" / "texts"


def describe() -> str:
    """How many texts are kept where, and how much room they take."""
    place = folder()
    if place is None:
        return f"not kept on disk ({VARIABLE}={OFF})"
    sizes = [found.stat().st_size for found in place.glob("*/*/*") if found.is_file()]
    return f"{len(sizes)} kept in {place}, {sum(sizes) / 1e6:.1f} MB; {VARIABLE}=DIR|{OFF} puts them elsewhere"


def identity(name: str, weights: Iterable[Tensor]) -> str:
    """A hash of an encoder's program and weights."""
    total = hashlib.sha256(name.encode())
    for weight in weights:
        total.update(f"{weight.dtype}{list(weight.shape)}".encode())
        total.update(weight.detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()


@functools.cache
def processor(device: torch.device) -> str:
    """What computes, by its name: the bits depend on it."""
    if device.type == "cuda":
        return f"{torch.__version__} {torch.cuda.get_device_name(device)}"
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.is_file() else []
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), os.uname().machine
    )
    return f"{torch.__version__} {model} {torch.backends.cpu.get_cpu_capability()}"


@contextmanager
def one_thread() -> Iterator[int]:
    """Within, torch computes with one thread in each of Python's threads that are started there; yields the number
    of threads that it had."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield before
    finally:
        torch.set_num_threads(before)


class OnDisk:
    """Features [C] float32 of the texts of one encoder, a file each: whole, written beside and renamed.

    Any number of processes may read and write; a damaged file is computed anew. Nothing fails for want of a disk.
    """

    def __init__(self, encoder: Callable[[], str]) -> None:
        self.encoder = encoder
        self.refused = False

    @functools.cached_property
    def place(self) -> Path | None:
        kept = folder()
        return kept / self.encoder()[:32] if kept else None

    def __call__(self, text: str, compute: Callable[[], Tensor], device: torch.device = CPU) -> Tensor:
        """The features on the CPU of a text, read or else computed on the device and written."""
        if self.place is None:
            return compute().float().cpu()
        name = hashlib.sha256(f"{processor(device)}\0{text}".encode("utf-8", "surrogatepass")).hexdigest()
        path = self.place / name[:2] / name
        row = self._read(path)
        if row is None:
            row = compute().float().cpu()
            self._write(path, row.numpy().tobytes())
        return row

    def _read(self, path: Path) -> Tensor | None:
        try:
            content = path.read_bytes()
        except OSError:
            return None
        if len(content) <= SUM or hashlib.sha256(content[SUM:]).digest() != content[:SUM]:
            logger.warning("%s: expected a text's features as they were written, found others; encoded anew", path)
            return None
        return torch.frombuffer(bytearray(content[SUM:]), dtype=torch.float32)

    def _write(self, path: Path, numbers: bytes) -> None:
        if self.refused:
            return
        content = hashlib.sha256(numbers).digest() + numbers
        try:
            files.write_bytes(str(path), content)
        except StorageError as error:
            self.refused = True
            logger.warning("texts' features cannot be kept (%s); %s=DIR names a folder", error, VARIABLE)


def spread(call: Callable[[str], Any], texts: Iterable[str], device: torch.device) -> list[Any]:
    """call(text) of each text, in order; on a CPU each by one thread, and as many at a time as torch has threads."""
    asked = list(texts)
    new = dict.fromkeys(asked)
    if device.type == "cpu":
        with one_thread() as threads, ThreadPoolExecutor(threads) as pool:
            found = dict(zip(new, pool.map(call, new), strict=True))
    else:
        found = {text: call(text) for text in new}
    return [found[text] for text in asked]
