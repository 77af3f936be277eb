"""What is wrong with a set as a whole: its lists, clips that leak or are there twice, strange files, Mean and Std."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import blobfile as bf
import numpy as np

from videomdm_ext.data import files, index, shards
from videomdm_ext.data.checks.motion import lies_along
from videomdm_ext.data.checks.rules import WARNING, WHOLE, Finding
from videomdm_ext.data.folder import SPLITS, Card, facts_of, names, read_moments
from videomdm_ext.data.index import Entry
from videomdm_ext.errors import DatasetError
from videomdm_ext.motion.features import Moments
from videomdm_ext.motion.skeletons import by_name

PART = re.compile(r"(_[smv]\d+)+$")
"""The end of an id that distinguishes segments, mirror images, speeds and views of one trial."""
MIRROR = re.compile(r"^M(?=\d{6})")  # HumanML3D's mark of a mirrored clip
STRIDES = (0.55, 1.35)  # Hz, of the median walk of a set; in 102 clips of CMU it is 0.84
SHIFT = 0.05  # how far Mean, or the logarithm of Std, may be off, in units of Std


def lists(path: str, card: Card) -> tuple[dict[str, list[str]], list[Finding]]:
    """The ids of each split, each at its first place, and what is wrong with the lists."""
    splits: dict[str, list[str]] = {}
    findings: list[Finding] = []
    placed: dict[str, str] = {}
    for split in SPLITS:
        place, lines = bf.join(path, f"{split}.txt"), []
        if bf.exists(place):
            try:
                lines = [line.strip() for line in files.read_text(place).splitlines() if line.strip()]
            except DatasetError as error:
                findings.append(Finding(WHOLE, "corrupt-file", str(error)))
        elif card.counts.get(split):
            findings.append(Finding(WHOLE, "splits", f"{split}.txt is not there, the card counts clips of it"))
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
        stated = card.counts.get(split, 0)
        if stated != len(lines):
            findings.append(Finding(WHOLE, "card-counts", f"{split}: {stated} on the card, {len(lines)} in the list"))
    if not splits["train"]:
        findings.append(Finding(WHOLE, "splits", "train.txt lists no clip"))
    return splits, findings


def packed_places(path: str, card: Card) -> tuple[dict[str, str], list[Finding]]:
    """Where the clips of a packed set lie, by id, and which shards cannot be read."""
    failed: list[str] = []
    places: dict[str, str] = {}
    for split in SPLITS if card.packed else ():
        entries = map(Entry.parse, index.read(path, split, facts_of(card)))
        places |= {entry.id: entry.place for entry in entries} | shards.places(path, split, failed)
    return places, [Finding(WHOLE, "corrupt-file", message) for message in failed]


def trial(clip_id: str) -> str:
    """The id without what distinguishes segments, mirror images, speeds and views of one trial."""
    return PART.sub("", MIRROR.sub("", clip_id))


def leaks(splits: Mapping[str, Sequence[str]], facts: Mapping[str, Mapping[str, Any]]) -> list[Finding]:
    """Trials, known by name or by an equal truth, of which another split has a part already."""
    homes: dict[str, tuple[str, str]] = {}
    found: dict[str, Finding] = {}
    for split, ids in splits.items():
        for clip_id in ids:
            for mark in (f"name {trial(clip_id)}", f"truth {facts.get(clip_id, {}).get('truth') or clip_id}"):
                first, home = homes.setdefault(mark, (clip_id, split))
                if home != split and clip_id not in found:
                    what = "the same trial" if mark.startswith("name") else "the same true motion"
                    message = f"in {split}, and {first} of {what} in {home}"
                    found[clip_id] = Finding(clip_id, "split-leak", message, WARNING)
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
            found.append(Finding(clip_id, "duplicate", f"has motion, keypoints and camera of {first}", WARNING))
        elif other := next((name for name in alike if name != clip_id), ""):
            found.append(Finding(clip_id, "near-duplicate", f"hardly differs from {other}", WARNING))
    return found


def tendencies(facts: Iterable[Mapping[str, Any]]) -> list[Finding]:
    """What single clips cannot show for sure: which way is up, and whether time passes as it should."""
    facts = list(facts)
    found = []
    ways = [lies_along(np.array(fact["upright"]), 0.6) for fact in facts if fact.get("upright")]
    lying = [way for way in ways if way]
    if len(ways) >= 4 and len(lying) > 0.6 * len(ways):
        way = max(set(lying), key=lying.count)
        message = f"in {len(lying)} of {len(ways)} clips people lie, mostly along {way}"
        found.append(Finding(WHOLE, "up-axis", message, WARNING))
    strides = [fact["stride"] for fact in facts if fact.get("stride")]
    if len(strides) >= 2 and not STRIDES[0] < float(np.median(strides)) < STRIDES[1]:
        message = f"{len(strides)} walks have {np.median(strides):.2f} strides a second, people have 0.6 to 1.15"
        found.append(Finding(WHOLE, "speed", message, WARNING))
    return found


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
    lifted, width = f"teacher_vecs/{card.lifter}/", by_name(card.skeleton).num_features
    found: list[Finding] = []
    for folder, moments in (("", truth if truth is not None and truth.count else teacher), (lifted, teacher)):
        try:
            mean, std = read_moments(bf.join(path, folder) if folder else path, width)
        except DatasetError as error:
            found.append(Finding(WHOLE, "statistics", str(error)))
            continue
        if moments is None or not moments.count:
            continue
        expected, spread = (values.double().numpy() for values in moments.mean_and_std())
        shift = float(max(np.abs((mean - expected) / spread).max(), np.abs(np.log(std / spread)).max()))
        if shift > SHIFT:
            what = f"{folder}Mean.npy and Std.npy are off those of the training clips by {shift:.2f} Std"
            found.append(Finding(WHOLE, "statistics", what, WARNING))
    return found
