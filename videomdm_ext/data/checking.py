"""Look through a data set once and tell what is wrong with it: `check_folder`, and `examine` for one clip.

Nothing is changed but DIR/checked.json, which remembers what was found in each clip by the content of its files. It is
believed only for the very same content and the very same check, and where it cannot be written all is as well.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import blobfile as bf
import numpy as np
import torch

from videomdm_ext.data import damage_arrays, damage_files, damage_image, damage_motion, damage_set, files, findings
from videomdm_ext.data.clip import Clip, validate
from videomdm_ext.data.damage_files import Files, Raw
from videomdm_ext.data.damage_image import Image
from videomdm_ext.data.damage_motion import Moved
from videomdm_ext.data.files import Array
from videomdm_ext.data.findings import FILES, STATES, WHOLE, Checked, Counts, Finding
from videomdm_ext.data.folder import Card
from videomdm_ext.data.remembering import Seen, recall, remember, remembered, version
from videomdm_ext.errors import DatasetError
from videomdm_ext.motion.features import Moments
from videomdm_ext.motion.skeletons import Skeleton, by_name

ALIKE = "teacher and truth alike, so it is the keypoints or both cameras"
"""What is wrong with both motions' projections is wrong with the keypoints, or with both cameras."""
Progress = Callable[[int, int], None]
"""`progress(done, total)` in clips."""


def check_folder(path: str, progress: Progress | None = None, use_cache: bool = True) -> Checked:
    """Check every listed clip and the set as a whole; DatasetError only where there is no folder."""
    if not bf.isdir(path):
        raise DatasetError(f"{path}: expected a data set folder, found none. Check the path.")
    card, found = damage_set.card_of(path)
    if card is None:
        return Checked(path, 0, {}, tuple(found))
    splits, listed = damage_set.lists(path, card)
    look = _Look(path, card, use_cache)
    ids = [clip_id for members in splits.values() for clip_id in members]
    for number, clip_id in enumerate(ids):
        look.add(clip_id, trained=number < len(splits["train"]))
        if progress:
            progress(number + 1, len(ids))
    found += listed + [item for seen in look.seen.values() for item in seen.findings]
    facts = {clip_id: seen.facts for clip_id, seen in look.seen.items()}
    found += damage_set.leaks(splits, facts) + damage_set.twins(facts) + damage_set.tendencies(facts.values())
    found += damage_set.strangers(path, card, set(ids)) + look.statistics()
    if look.content.hexdigest() != card.content_hash and not any(f.kind in _UNHASHED for f in found):
        found.append(Finding(WHOLE, "card-hash", f"the card has {card.content_hash[:12]!r}"))
    if use_cache:
        look.remember()
    return Checked(path, len(ids), look.counts, tuple(found), look.cached)


_UNHASHED = ("missing-file", "split-twice", "bad-name", "link-out", "splits")
"""Kinds after which the card's hash cannot be compared."""


def examine(path: str, card: Card, clip_id: str) -> tuple[Raw, list[Finding]]:
    """What can be read of one clip, and what is wrong with it by itself."""
    found = damage_files.fetch(path, card, files.checked_id(clip_id, path))
    return inspect_clip(found, card)[:2]


def inspect_clip(found: Files, card: Card) -> tuple[Raw, list[Finding], dict[str, Any]]:
    """What can be read of a clip's files, what is wrong with them, and its facts."""
    skeleton = by_name(card.skeleton)
    raw = damage_files.parse(found)
    good = damage_arrays.usable(found, raw, skeleton)
    moved = {}
    for name in damage_arrays.MOTIONS:
        if name in good:
            seen = damage_motion.look(found, name, good[name], skeleton, fps=card.fps, rule=card.heading)
            if seen is not None:
                moved[name] = seen
    if {"points", "confidence"} <= set(good):
        damage_arrays.check_mean_confidence(found, good["confidence"])
        _compare(found, moved, good, skeleton)
    facts = _facts(found, good, moved)
    main = moved.get("truth") or moved.get("teacher")
    if main is not None:
        facts["stride"] = damage_motion.check_stride(found, raw.texts, main, skeleton, card.fps)
    if not any(item.level == findings.ERROR for item in found.findings):
        _validate(found, raw, card, skeleton)
    return raw, found.findings, facts


def _compare(found: Files, moved: Mapping[str, Moved], good: Mapping[str, Array], skeleton: Skeleton) -> None:
    """Each motion with the image; what is wrong with both alike is told once."""
    if not (good["confidence"] > 0).any():
        return
    image = Image.of(good["points"], good["confidence"])
    if _is_still(good["points"], good["confidence"]):
        found.add("frozen", "keypoints: the same in every frame")
    own = Files(found.clip_id, found.places)
    kinds = {}
    for name, camera in damage_arrays.MOTIONS.items():
        if name in moved and camera in good and not moved[name].exchanged:
            kinds[name] = damage_image.compare(own, moved[name], good[camera], image, skeleton)
    if len(kinds) == 2 and len(set(kinds.values())) == 1 and "" not in kinds.values():
        first = own.findings[0]
        own.findings = [dataclasses.replace(first, message=f"{ALIKE}: {first.message.partition(': ')[2]}")]
    tilted = [item for item in own.findings if item.kind == "up-axis"]
    found.findings = [item for item in found.findings if not (tilted and item.kind in ("floor", "facing"))]
    found.findings += own.findings


def _is_still(points: Array, confidence: Array) -> bool:
    """Whether a detector repeats itself to the last bit, wherever it saw anything."""
    same = (points[1:] == points[:-1]).all(-1) | (confidence[1:] == 0)
    return bool(same.all())


def _facts(found: Files, good: Mapping[str, Array], moved: Mapping[str, Moved]) -> dict[str, Any]:
    parts = [found.content.get(key, b"") for key in ("teacher", "keypoints", "camera")]
    facts: dict[str, Any] = {"usable": [name for name in ("teacher", "truth") if name in good]}
    if all(parts):
        facts["twin"] = hashlib.sha256(b"\0".join(parts)).hexdigest()
    if "truth" in good:
        facts["truth"] = hashlib.sha256(found.content["truth"]).hexdigest()
    if "teacher" in good and "points" in good and np.isfinite(good["points"]).all():
        facts["sketch"] = damage_set.sketch(good["teacher"], good["points"])
    if "teacher" in moved:
        facts |= damage_motion.facts(moved["teacher"])
    return facts


def _validate(found: Files, raw: Raw, card: Card, skeleton: Skeleton) -> None:
    """What training itself would refuse, for whatever reason."""
    try:
        validate(clip_of(raw, card, skeleton), fps=card.fps)
    except (DatasetError, KeyError) as error:
        found.add("refused", str(error))


def clip_of(raw: Raw, card: Card, skeleton: Skeleton) -> Clip:
    """A clip of what was read, checked by nobody; KeyError where an array is missing."""
    arrays = raw.arrays
    return Clip(
        id=raw.clip_id,
        fps=card.fps,
        skeleton=skeleton,
        teacher=arrays["teacher"],
        keypoints=arrays["points"],
        confidence=arrays["confidence"],
        extrinsics=arrays["extrinsics"],
        texts=raw.texts,
        truth=arrays.get("truth"),
        truth_extrinsics=arrays.get("truth_extrinsics"),
    )


@dataclass
class _Look:
    """The pass over the clips of a folder: what was seen, the hash of the content, sums for the statistics."""

    path: str
    card: Card
    use_cache: bool
    seen: dict[str, Seen] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    cached: int = 0

    def __post_init__(self) -> None:
        skeleton = by_name(self.card.skeleton)
        self.content = hashlib.sha256()
        self.moments = {"teacher": Moments(skeleton), "truth": Moments(skeleton)}
        self.spoilt = False
        self.counts: Counts = {key: dict.fromkeys(STATES, 0) for key in FILES}
        self.version = version(self.card)
        self.known = remembered(self.path, self.version) if self.use_cache else {}

    def add(self, clip_id: str, *, trained: bool) -> None:
        """Read a clip's files, and look at them unless they were looked at before."""
        found = damage_files.fetch(self.path, self.card, clip_id)
        for key, data in found.content.items():
            self.content.update(f"{found.places[key]}\0{len(data)}\0".encode())
            self.content.update(data)
        digest = found.digest()
        seen = recall(self.known.get(clip_id), digest, clip_id)
        self.cached += seen is not None
        if seen is None:
            _, wrong, facts = inspect_clip(found, self.card)
            seen = Seen(wrong, found.states, facts)
        self.seen[clip_id], self.digests[clip_id] = seen, digest
        for key, state in seen.states.items():
            self.counts[key][state] += 1
        if trained:
            self._sum(found, seen)

    def _sum(self, found: Files, seen: Seen) -> None:
        """Add a training clip to the moments; one with an error spoils them."""
        self.spoilt |= any(item.level == findings.ERROR for item in seen.findings)
        width = by_name(self.card.skeleton).num_features
        for name, moments in self.moments.items():
            if self.spoilt or name not in found.content or name not in seen.facts.get("usable", ()):
                continue
            try:
                features = files.array_from(found.content[name], found.places[name])
            except DatasetError:
                self.spoilt = True
                return
            self.spoilt |= features.shape[1:] != (width,) or not len(features)
            if not self.spoilt:
                moments.add(torch.from_numpy(features))

    def statistics(self) -> list[Finding]:
        """Mean and Std; they are compared with the clips where all of the training clips are sound."""
        known = (None, None) if self.spoilt else (self.moments["teacher"], self.moments["truth"])
        return damage_set.statistics(self.path, self.card, *known)

    def remember(self) -> None:
        """Write the cache, whole; a folder that cannot be written goes without."""
        remember(self.path, self.version, self.digests, self.seen)
