"""Which data set it is, on whatever machine it was made: what runs record of their data, and how that is known again.

No hash of computed numbers is equal on every CPU: sums in another order differ in the last bits, and however coarsely
numbers are rounded, some of millions lie close enough to a boundary to fall on either side (docs/data.md). So what is
hashed is exact: the bytes of the sources, the recipe, the version of the making, and of every clip the split, id,
length and captions. Numbers are sketched by few sums, which are compared with a tolerance.
"""

import dataclasses
import hashlib
import json
import logging
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from videomdm_ext.data.clip import Clip
from videomdm_ext.data.files import Array
from videomdm_ext.data.folder import Card
from videomdm_ext.errors import DatasetError

logger = logging.getLogger(__name__)

WAY = "1"
"""Version of what importers compute: one that changes a clip by more than rounding raises it."""
SUMS = 8
"""Sums over all clips, each with random signs of its own, of every number that sketches a clip."""
NEAR = 2e-3
"""Least standard deviation of a clip's numbers that counts as another data set; two machines differ by 1e-5."""


def name_of(card: Card) -> str:
    """The identity of a set; its content hash where nothing is known of what it was made from."""
    return card.identity or card.content_hash


def of_sources(card: Card, inputs: Iterable[str], clips: Sequence[str], places: Iterable[str] = ()) -> str:
    """The identity of a set made of files with the hex digests `inputs`; `clips` has what `exact` says of each clip.

    Values of the recipe that are `places` of inputs do not count: their bytes do.
    """
    facts = {
        "way": WAY,
        "recipe": _without(card.recipe, set(places)),
        "inputs": sorted(set(inputs)),
        "motion": [card.skeleton, card.fps, card.lifter, dataclasses.asdict(card.heading)],
        "clips": clips,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _without(recipe: Any, places: set[str]) -> Any:
    """A recipe less the places of files, and what options were called in messages."""
    if not isinstance(recipe, Mapping):
        return recipe
    kept = {key: value for key, value in recipe.items() if str(value) not in places and key != "flag"}
    return {key: _without(value, places) for key, value in kept.items()}


def exact(clip: Clip, split: str) -> str:
    """A hash of what of a clip is the same on every machine."""
    facts = [split, clip.id, clip.length, clip.truth is not None, clip.is_known, list(clip.texts)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


# -- a sketch of the numbers -------------------------------------------------------------------------------------------


def sketch(clip: Clip) -> list[float]:
    """A few numbers that a change of teacher, keypoints, confidence, camera or truth moves, not its last bits.

    Of each array two sums over channels with fixed signs: its mean over time, and its mean weighted by time. Foot
    contacts, which are decided by a threshold, do not count, nor keypoints that were not seen.
    """
    seen = np.where(clip.confidence[..., None] > 0, np.nan_to_num(clip.keypoints), 0.0)
    arrays = [clip.teacher[:, :-4], seen, clip.confidence, clip.extrinsics]
    arrays += [] if clip.truth is None or clip.truth_extrinsics is None else [clip.truth[:, :-4], clip.truth_extrinsics]
    return [float(value) for array in arrays for value in _moments(array)]


def _moments(array: Array) -> list[float]:
    rows = array.astype(np.float64).reshape(1 if array.shape == (3, 4) else len(array), -1)
    signs = np.cos(np.arange(1.0, rows.shape[1] + 1) ** 2) / math.sqrt(rows.shape[1])
    line = rows @ signs
    return [float(line.mean()), float((line * np.linspace(-1, 1, len(line))).mean()) if len(line) > 1 else 0.0]


def values_of(sketches: Mapping[str, Sequence[float]]) -> tuple[float, ...]:
    """Sums of the clips' sketches by id, SUMS of each number, over the square root of the number of clips."""
    width = max(map(len, sketches.values()), default=0)
    total = np.zeros((SUMS, width))
    for clip_id, numbers in sketches.items():
        bits = np.frombuffer(hashlib.sha256(clip_id.encode()).digest()[:1], np.uint8)
        signs = np.where(np.unpackbits(bits)[:SUMS, None], 1.0, -1.0)
        total[:, : len(numbers)] += signs * np.asarray(numbers)
    return tuple(round(float(value), 6) + 0.0 for value in (total / math.sqrt(max(len(sketches), 1))).ravel())


def near(some: Sequence[float], others: Sequence[float]) -> bool:
    """Whether two sketches of sets are of one set, up to rounding."""
    return len(some) == len(others) and float(np.abs(np.subtract(some, others)).max(initial=0.0)) < NEAR


# -- what is recorded of data, and known again -------------------------------------------------------------------------


def record(card: Card) -> dict[str, Any]:
    """What a run records of the set that it is made from."""
    named = {"name": card.name, "identity": name_of(card), "content": card.content_hash, "seal": card.seal}
    return {**named, "statistics": statistics_of(card), "values": list(card.values)}


def statistics_of(card: Card) -> dict[str, str]:
    """Hex digests of every Mean and Std by name; none where the card is an earlier version's."""
    return {name: digest for name, digest in sorted(card.files.items()) if name.endswith(".npy")}


def difference(before: Mapping[str, Any], card: Card) -> str:
    """How a set is another than the recorded one, empty where it is the same, perhaps made anew elsewhere."""
    if before.get("seal") == card.seal:
        return ""
    was, now = (f"{one['name']} {str(one['identity'])[:12]}" for one in (before, record(card)))
    if before.get("identity") != name_of(card):
        return f"the data set {was}, found {now}"
    if not before.get("values") or not near(before["values"], card.values):
        return f"the numbers of the data set {was}, found others of the same sources, as another version makes them"
    logger.warning("%s was made anew, of the same sources: its numbers differ from the recorded ones by rounding", now)
    return ""


def check(before: Mapping[str, Any], card: Card, place: object, path: str, advice: str) -> None:
    """Raise DatasetError where the set in `path` is another than `place` has recorded; `advice` says what to do."""
    if found := difference(before, card):
        raise DatasetError(f"{path}: expected, as recorded in {place}, {found}. {advice}")


# -- the files that an import reads ------------------------------------------------------------------------------------


class Inputs:
    """Hex digests by place of the files at or below some places, as they are read (`files.watched`)."""

    def __init__(self, places: Iterable[str]) -> None:
        self.places = {place for place in places if place}
        self.roots = [_absolute(place) for place in self.places]
        self.known: dict[str, str] = {}

    def __call__(self, path: str, content: bytes | None = None) -> None:
        """Count a file, which is read for it without `content`."""
        place = _absolute(path)
        if place in self.known or not any(place == root or place.startswith(f"{root}/") for root in self.roots):
            return
        if content is None:
            with open(place, "rb") as file:
                self.known[place] = hashlib.file_digest(file, "sha256").hexdigest()
        else:
            self.known[place] = hashlib.sha256(content).hexdigest()


def _absolute(path: str) -> str:
    return path.rstrip("/") if "://" in path else os.path.abspath(path)
