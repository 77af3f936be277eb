"""What a whole set tells: the card, split lists, trials on two sides, twins, files of no clip, statistics."""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import blobfile as bf
import numpy as np

from videomdm_ext.data import files
from videomdm_ext.data.files import Array
from videomdm_ext.data.findings import ERROR, WARNING, WHOLE, Finding
from videomdm_ext.data.folder import CARD, SPLITS, Card, is_unfinished, names, read_card
from videomdm_ext.errors import DatasetError
from videomdm_ext.motion.features import Moments
from videomdm_ext.motion.skeletons import by_name

PART = re.compile(r"_[smv]\d+$")
"""The end of an id that tells segments, mirror images, speeds and views of one trial apart."""
MIRROR = re.compile(r"M(?=\d{6})")
"""HumanML3D's mark of a mirrored clip."""
STRIDES = (0.55, 1.35)
"""Hz, of the median walk of a set; in 102 clips of CMU it is 0.84."""
SHIFT = (0.05, 0.5)
"""Warning and error: how far Mean, or the logarithm of Std, may be off, in units of Std."""
COARSE = 0.02
"""Metres, or parts of the image's unit, to which sketches are rounded."""


def card_of(path: str) -> tuple[Card | None, list[Finding]]:
    """The card, or None and why not."""
    place = bf.join(path, CARD)
    if is_unfinished(path):
        return None, [Finding(WHOLE, "unfinished", f"{path} holds an unfinished import")]
    try:
        if bf.exists(place):
            files.read_json(place)
        return read_card(path), []
    except DatasetError as error:
        return None, [Finding(WHOLE, "card", str(error))]


def lists(path: str, card: Card) -> tuple[dict[str, list[str]], list[Finding]]:
    """The ids of each split, each at its first place, and what is wrong with the lists."""
    splits: dict[str, list[str]] = {}
    findings: list[Finding] = []
    placed: dict[str, str] = {}
    for split in SPLITS:
        lines = _lines(bf.join(path, f"{split}.txt"), split, card, findings)
        splits[split] = []
        for name in lines:
            if name in placed:
                findings.append(Finding(name, "split-twice", f"listed in {placed[name]}.txt and in {split}.txt"))
                continue
            placed[name] = split
            try:
                splits[split].append(files.checked_id(name, f"{split}.txt"))
            except DatasetError as error:
                findings.append(Finding(WHOLE, "bad-name", str(error)))
        told = card.counts.get(split, 0)
        if told != len(lines):
            findings.append(Finding(WHOLE, "card-counts", f"{split}: {told} on the card, {len(lines)} in the list"))
    if not splits["train"]:
        findings.append(Finding(WHOLE, "splits", "train.txt lists no clip"))
    return splits, findings


def _lines(place: str, split: str, card: Card, findings: list[Finding]) -> list[str]:
    if not bf.exists(place):
        if card.counts.get(split):
            findings.append(Finding(WHOLE, "splits", f"{split}.txt is not there, the card counts clips of it"))
        return []
    try:
        return [line.strip() for line in files.read_text(place).splitlines() if line.strip()]
    except DatasetError as error:
        findings.append(Finding(WHOLE, "splits", str(error)))
        return []


def trial(clip_id: str) -> str:
    """The id without what tells segments, mirror images, speeds and views of one trial apart."""
    name = MIRROR.sub("", clip_id, count=1) if MIRROR.match(clip_id) else clip_id
    while PART.search(name):
        name = PART.sub("", name)
    return name


def leaks(splits: Mapping[str, Sequence[str]], facts: Mapping[str, Mapping[str, Any]]) -> list[Finding]:
    """Trials, told by name or by an equal truth, of which another split has a part already."""
    homes: dict[str, tuple[str, str]] = {}
    found: dict[str, Finding] = {}
    for split, ids in splits.items():
        for clip_id in ids:
            for mark in (f"name {trial(clip_id)}", f"truth {facts.get(clip_id, {}).get('truth') or clip_id}"):
                first, home = homes.setdefault(mark, (clip_id, split))
                if home != split and clip_id not in found:
                    what = "the same trial" if mark.startswith("name") else "the same true motion"
                    message = f"in {split}, and {first} of {what} in {home}"
                    found[clip_id] = Finding(clip_id, "split-leak", message)
    return list(found.values())


def twins(facts: Mapping[str, Mapping[str, Any]]) -> list[Finding]:
    """Clips with the content of another, exactly or nearly."""
    found: list[Finding] = []
    seen: dict[str, str] = {}
    near: dict[str, str] = {}
    for clip_id, fact in facts.items():
        first = seen.setdefault(fact["twin"], clip_id) if fact.get("twin") else clip_id
        alike = [near.setdefault(key, clip_id) for key in fact.get("sketch", ())]
        if first != clip_id:
            found.append(Finding(clip_id, "duplicate", f"has motion, keypoints and camera of {first}"))
        elif other := next((name for name in alike if name != clip_id), ""):
            found.append(Finding(clip_id, "near-duplicate", f"hardly differs from {other}", WARNING))
    return found


def sketch(teacher: Array, points: Array) -> list[str]:
    """Two keys, at least one of which equal clips share after small changes: rounded means over thirds of the clip."""
    thirds = [slice(len(teacher) * k // 3, len(teacher) * (k + 1) // 3) for k in range(3)]
    numbers = [np.concatenate((teacher[part, 1:40:3].mean(0), points[part, ::3].mean(0).ravel())) for part in thirds]
    coarse = np.concatenate(numbers).astype(np.float64) / COARSE
    keys = [np.floor(coarse + shift).astype(np.int64).tobytes() for shift in (0.0, 0.5)]
    return [f"{n}{len(teacher)}-" + hashlib.sha256(key).hexdigest()[:24] for n, key in enumerate(keys)]


def tendencies(facts: Iterable[Mapping[str, Any]]) -> list[Finding]:
    """What single clips cannot tell for sure: which way is up, and whether time passes as it should."""
    facts = list(facts)
    found = []
    ways = [_lies_along(fact["upright"]) for fact in facts if fact.get("upright")]
    lying = [way for way in ways if way]
    if len(ways) >= 4 and len(lying) > 0.6 * len(ways):
        way = max(set(lying), key=lying.count)
        found.append(Finding(WHOLE, "up-axis", f"in {len(lying)} of {len(ways)} clips people lie, mostly along {way}"))
    strides = [fact["stride"] for fact in facts if fact.get("stride")]
    if len(strides) >= 2 and not STRIDES[0] < float(np.median(strides)) < STRIDES[1]:
        message = f"{len(strides)} walks have {np.median(strides):.2f} strides a second, people have 0.6 to 1.15"
        found.append(Finding(WHOLE, "speed", message, WARNING))
    return found


def _lies_along(upright: Sequence[float]) -> str:
    axis = int(np.abs(upright).argmax())
    if abs(upright[axis]) < 0.6 or (axis == 1 and upright[1] > 0):
        return ""
    return ("-" if upright[axis] < 0 else "") + "xyz"[axis]


def strangers(path: str, card: Card, ids: set[str]) -> list[Finding]:
    """Clips in no split, and files of no clip."""
    whole = {"teacher", "keypoints", "camera", "texts"}
    owners: dict[str, dict[str, str]] = {}
    found = []
    for key, pattern in names("*", card).items():
        folder, ending = pattern.split("*")
        for name in sorted(files.entries(bf.join(path, folder))):
            clip_id = name.removesuffix(ending)
            if (key == "teacher" and name in ("Mean.npy", "Std.npy")) or clip_id in ids:
                continue
            if name == clip_id:
                found.append(Finding(WHOLE, "orphan-file", f"{folder}{name} is no {ending} file", WARNING))
            else:
                owners.setdefault(clip_id, {})[key] = f"{folder}{name}"
    for clip_id, owned in owners.items():
        if whole <= set(owned):
            found.append(Finding(clip_id, "not-listed", "has all of its files and is in no split", WARNING))
        else:
            missing = ", ".join(sorted(whole - set(owned)))
            found.extend(Finding(clip_id, "orphan-file", f"{f}: no {missing}", WARNING) for f in owned.values())
    return found


def statistics(path: str, card: Card, teacher: Moments | None, truth: Moments | None) -> list[Finding]:
    """Mean and Std of the folder and of the lifter, against the moments of the training clips where they are known."""
    lifted = f"teacher_vecs/{card.lifter}/"
    found: list[Finding] = []
    for folder, moments in (("", truth if truth is not None and truth.count else teacher), (lifted, teacher)):
        made = {}
        for name in ("Mean.npy", "Std.npy"):
            try:
                made[name] = files.read_array(bf.join(path, folder, name))
            except DatasetError as error:
                found.append(Finding(WHOLE, "statistics", str(error)))
        if len(made) == 2:
            found.extend(_compare(folder, made["Mean.npy"], made["Std.npy"], moments, card))
    return found


def _compare(folder: str, mean: Array, std: Array, moments: Moments | None, card: Card) -> list[Finding]:
    width = by_name(card.skeleton).num_features
    if mean.shape != (width,) or std.shape != (width,):
        message = f"{folder}Mean.npy and Std.npy: expected [{width}], found {list(mean.shape)} and {list(std.shape)}"
        return [Finding(WHOLE, "statistics", message)]
    if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std > 0).all()):
        return [Finding(WHOLE, "statistics", f"{folder}Mean.npy and Std.npy: not finite, or Std not above 0")]
    if moments is None or not moments.count:
        return []
    expected, spread = (values.double().numpy() for values in moments.mean_and_std())
    shift = float(max(np.abs((mean - expected) / spread).max(), np.abs(np.log(std / spread)).max()))
    if shift <= SHIFT[0]:
        return []
    message = f"{folder}Mean.npy and Std.npy are off those of the training clips by {shift:.2f} Std"
    return [Finding(WHOLE, "statistics", message, ERROR if shift > SHIFT[1] else WARNING)]
