"""What a training cost and logged: files in its folder beside the host's own.

seconds.txt    seconds of all its parts together; one that was killed is not counted
cost.json      peak memory of its process, MiB, and number of trained weights, where they are known
progress.csv   losses; the stand-in writes it, MDM's logger is read into it
"""

import contextlib
import csv
import io
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from videomdm_ext.data.files import write_bytes

PEAK = Path("/proc/self/status")
"""Where Linux says how much memory a process took at most."""


@contextmanager
def counted(folder: Path) -> Iterator[None]:
    """Count what happens within as a part of a training."""
    started = time.monotonic()
    forget_peak()
    try:
        yield
    finally:
        note_time(folder, time.monotonic() - started)
        note(folder, memory=max(peak_memory(), read(folder).get("memory") or 0.0))


def note_time(folder: Path, seconds: float) -> None:
    """Add the seconds of this part of a training to those before an interruption."""
    write_bytes(str(folder / "seconds.txt"), f"{(read_seconds(folder) or 0.0) + seconds:.1f}".encode())


def read_seconds(folder: Path) -> float | None:
    place = folder / "seconds.txt"
    return float(place.read_text(encoding="utf-8")) if place.is_file() else None


def note(folder: Path, **facts: float) -> None:
    """Add facts to cost.json."""
    text = json.dumps({**read(folder), **facts}, indent=2, sort_keys=True) + "\n"
    write_bytes(str(folder / "cost.json"), text.encode())


def read(folder: Path) -> dict[str, Any]:
    place = folder / "cost.json"
    return dict(json.loads(place.read_text(encoding="utf-8"))) if place.is_file() else {}


def forget_peak() -> None:
    """Let the peak memory of this process begin anew, so that a run is not told an earlier one's."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif PEAK.is_file():
        with contextlib.suppress(OSError):
            PEAK.with_name("clear_refs").write_text("5", encoding="ascii")


def peak_memory() -> float:
    """MiB: of the GPU where one is used, else of this process on Linux; 0 where neither can be known."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    lines = PEAK.read_text(encoding="ascii").splitlines() if PEAK.is_file() else []
    return next((int(line.split()[1]) / 2**10 for line in lines if line.startswith("VmHWM")), 0.0)


def gather_log(folder: Path, host: Path) -> None:
    """Read what MDM's logger wrote in `host` since the last time into progress.csv; later rows replace earlier ones."""
    place = host / "progress.csv"
    fresh = read_rows(place)
    if not fresh:
        return
    kept = [row for row in read_rows(folder / "progress.csv") if int(row["step"]) < int(fresh[0]["step"])]
    rows = [*kept, *({name: row[name] for name in row if _is_loss(name)} for row in fresh)]
    columns = [name for name in rows[-1] if all(row.get(name) for row in rows)]
    text = io.StringIO()
    writer = csv.DictWriter(
        text, ["step", *(name for name in columns if name != "step")], extrasaction="ignore", lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(str(folder / "progress.csv"), text.getvalue().encode())
    place.unlink()


def _is_loss(name: str) -> bool:
    """Not MDM's count of samples, its norms, nor a loss by quarter of the schedule."""
    return name not in ("samples", "grad_norm", "param_norm") and "_q" not in name


def read_rows(place: Path) -> list[dict[str, str]]:
    """The rows of a progress.csv that have a step, none where there is no file."""
    if not place.is_file():
        return []
    with place.open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if (row.get("step") or "").isdigit()]
