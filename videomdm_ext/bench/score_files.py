"""Scores in files, so that none is computed twice.

OUT/scores/ARM-SEED/REP.json     scores of a replication, and of each of its clips
OUT/scores/ARM-SEED/heldout.json, several.json, step*.json   held-out clips; all replications together; the curve
OUT/scores/ARM-SEED/owndata.json                             all replications against what the arm was trained on
OUT/scores/calibration.json      the rows that are not arms
Each holds a key: what was scored, against what and by whom. Where the key fits, nothing is computed again.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from videomdm_ext.data.files import write_bytes


def kept(place: Path, parts: list[str], compute: Callable[[], dict[str, Any]], *, anew: bool = False) -> dict[str, Any]:
    """What the file holds where its key fits, else, or if it is wanted anew, what is computed now and written there.

    `parts` say what was scored, against what and by whom; numbers that are not finite are NaN.
    """
    key = hashlib.sha256("/".join(parts).encode()).hexdigest()
    stored = {} if anew else read_scores(place)
    if stored.get("key") != key:
        stored = {"key": key, "parts": parts, **_nulls(compute())}
        text = json.dumps(stored, indent=1, sort_keys=True, allow_nan=False) + "\n"
        write_bytes(str(place), text.encode())
    return {name: _numbers(entry) for name, entry in stored.items() if name not in ("key", "parts")}


def read_scores(place: Path) -> dict[str, Any]:
    """A file of scores; empty where there is none, or something else, which is then written anew."""
    try:
        found = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def digest(place: Path) -> str:
    """Hex SHA-256 of a file."""
    return hashlib.sha256(place.read_bytes()).hexdigest()


def _nulls(value: Any) -> Any:
    """NaN and infinity as None, which JSON has."""
    if isinstance(value, Mapping):
        return {name: _nulls(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_nulls(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _numbers(value: Any) -> Any:
    """None as NaN."""
    if isinstance(value, Mapping):
        return {name: _numbers(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_numbers(entry) for entry in value]
    return math.nan if value is None else value
