"""What a check remembers of a data set, DIR/checked.json: what it found in each clip, by the content of its files.

It is believed only for the very same content and the very same check; broken entries are left aside.
"""

import dataclasses
import hashlib
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import blobfile as bf

from videomdm_ext.data import damage_arrays, damage_files, damage_image, damage_motion, damage_set, files, findings
from videomdm_ext.data.findings import FILES, STATES, Finding
from videomdm_ext.data.folder import Card
from videomdm_ext.errors import DatasetError

CACHE = "checked.json"


@dataclass
class Seen:
    """What is known of a clip: findings, states of its files, facts for the look at the whole set."""

    findings: list[Finding]
    states: dict[str, str]
    facts: dict[str, Any]


def version(card: Card) -> str:
    """A hash of the check itself and of what it takes from the card."""
    modules = (damage_arrays, damage_files, damage_image, damage_motion, damage_set, findings)
    content = hashlib.sha256()
    for module in modules:
        content.update(inspect.getsource(module).encode())
    facts = (card.skeleton, card.fps, card.lifter, dataclasses.asdict(card.heading))
    content.update(json.dumps(facts).encode())
    return content.hexdigest()


def remembered(path: str, check: str) -> dict[str, Any]:
    """Entries of the cache by clip id, none where there is none of this check."""
    place = bf.join(path, CACHE)
    if not bf.exists(place) or files.leads_out(place, path):
        return {}
    try:
        content = files.read_json(place, limit=files.TEXT_LIMIT)
    except DatasetError:
        return {}
    fits = isinstance(content, dict) and content.get("check") == check and isinstance(content.get("clips"), dict)
    return dict(content["clips"]) if fits else {}


def recall(entry: Any, digest: str, clip_id: str) -> Seen | None:
    """What the cache knows of exactly this content."""
    if not isinstance(entry, dict) or entry.get("content") != digest:
        return None
    states, facts, told = entry.get("states"), entry.get("facts"), entry.get("findings")
    if not (isinstance(states, dict) and isinstance(facts, dict) and isinstance(told, list)):
        return None
    if set(states) != set(FILES) or not all(state in STATES for state in states.values()) or not _are_facts(facts):
        return None
    found = findings.stored(told, clip_id)
    return None if found is None else Seen(list(found), states, facts)


def _are_facts(facts: Mapping[str, Any]) -> bool:
    """Whether every fact is of the kind that a look at a clip gives."""
    words = [facts.get(name, "") for name in ("twin", "truth")]
    lists = [facts.get(name, []) for name in ("usable", "sketch")]
    upright, stride = facts.get("upright", [0, 0, 0]), facts.get("stride")
    good = all(isinstance(word, str) for word in words) and (stride is None or isinstance(stride, float))
    good = good and all(isinstance(item, list) and all(isinstance(x, str) for x in item) for item in lists)
    return good and isinstance(upright, list) and len(upright) == 3 and all(isinstance(x, int | float) for x in upright)


def remember(path: str, check: str, digests: Mapping[str, str], clips: Mapping[str, Seen]) -> None:
    """Write what was found, whole; a folder that cannot be written goes without."""
    entries = {}
    for clip_id, seen in clips.items():
        told = [[item.kind, item.message, item.level] for item in seen.findings]
        entries[clip_id] = {"content": digests[clip_id], "findings": told, "states": seen.states, "facts": seen.facts}
    content = json.dumps({"check": check, "clips": entries})
    try:
        files.write_bytes(bf.join(path, CACHE), content.encode())
    except DatasetError:
        return
