"""Where MDM's logger writes, and its rows as progress.csv, which the stand-in writes itself."""

import csv
import io
import os
from pathlib import Path

from videomdm_ext.data.files import write_bytes

NO_LOSSES = ("samples", "grad_norm", "param_norm")
"""Columns of MDM's logger that are no losses; those with _q are losses by quarter of the schedule."""


def write_csv(folder: Path) -> None:
    """Let the logger write progress.csv into a folder, from when the host opens it: once in a process."""
    os.environ |= {"OPENAI_LOGDIR": str(folder.resolve()), "OPENAI_LOG_FORMAT": "csv"}


def gather_log(folder: Path, host: Path) -> None:
    """Read what MDM's logger wrote in `host` since the last time into progress.csv; later rows replace earlier ones."""
    place = host / "progress.csv"
    fresh = read_rows(place)
    if not fresh:
        return
    kept = [row for row in read_rows(folder / "progress.csv") if int(row["step"]) < int(fresh[0]["step"])]
    rows = [*kept, *({name: row[name] for name in row if name not in NO_LOSSES and "_q" not in name} for row in fresh)]
    columns = [name for name in rows[-1] if all(row.get(name) for row in rows)]
    text = io.StringIO()
    writer = csv.DictWriter(
        text, ["step", *(name for name in columns if name != "step")], extrasaction="ignore", lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(str(folder / "progress.csv"), text.getvalue().encode())
    place.unlink()


def read_rows(place: Path) -> list[dict[str, str]]:
    """The rows of a progress.csv that have a step, none where there is no file."""
    if not place.is_file():
        return []
    with place.open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if (row.get("step") or "").isdigit()]
