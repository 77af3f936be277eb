"""Look through a data set once: every clip by the rulebook, and the set as a whole (`check_folder`, `examine_clip`).

Errors are what reading (`rules.validate`) or `seal.verify` refuses too; `drop` takes the clips that have one out of the
splits. A check changes nothing but DIR/checked.json, which keeps what was found in each clip by the content of its
files. It is used only for the very same content and the very same check; a cache that was changed is left aside, and
where it cannot be written all is as well.
"""

import contextlib
import dataclasses
import hashlib
import inspect
import itertools
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import blobfile as bf
import numpy as np
import torch

from videomdm_ext.data import files, index, locks, rules, rules_motion, schemas, seal, shards
from videomdm_ext.data.building import is_unfinished, write_statistics
from videomdm_ext.data.files import Array
from videomdm_ext.data.folder import CARD, SPLITS, Card, facts_of, names, on_plane, read_card, read_files, read_moments
from videomdm_ext.data.index import Entry
from videomdm_ext.data.rules import ERROR, KINDS, WARNING, WHOLE, Finding, Sight
from videomdm_ext.data.rules_motion import lies_along, upright
from videomdm_ext.data.tasks import HERE, Engine
from videomdm_ext.data.texts import looks_decoded_twice, parse_texts
from videomdm_ext.errors import DatasetError, StorageError
from videomdm_ext.motion.features import Moments
from videomdm_ext.motion.skeletons import by_name

FILES = ("teacher", "truth", "keypoints", "camera", "texts")  # kinds of file of a clip
STATES = ("found", "missing", "empty", "corrupt")
CACHE = "checked.json"
LEFT_OUT = "left_out.txt"
"""In the folder: ids that are in no split, and why."""
TASK = 32
"""Clips that a process looks at in one go."""
CAPTIONS_LIMIT = 1 << 20  # bytes of the captions of a clip
PART = re.compile(r"_[smv]\d+$")
"""The end of an id that distinguishes segments, mirror images, speeds and views of one trial."""
MIRROR = re.compile(r"M(?=\d{6})")  # HumanML3D's mark of a mirrored clip
STRIDES = (0.55, 1.35)  # Hz, of the median walk of a set; in 102 clips of CMU it is 0.84
SHIFT = 0.05  # how far Mean, or the logarithm of Std, may be off, in units of Std
COARSE = 0.02  # metres, or parts of the image's unit, to which sketches are rounded
KEPT = ("split-twice",)
"""Kinds of errors of a clip that are put right by listing it once."""
SPARED = ("missing-file", "link-out")
"""Kinds after which the files of the other clips are compared with those that the set was made with."""
Progress = Callable[[int, int], None]  # `progress(done, total)` in clips
Counts = dict[str, dict[str, int]]  # how many files of each kind are in each state


@dataclass(frozen=True)
class Checked:
    """The result of a check: clips looked at, files by kind and state, findings, and clips known from the cache."""

    path: str
    clips: int
    counts: Counts
    findings: tuple[Finding, ...]
    cached: int = 0

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(item for item in self.findings if item.level == ERROR)

    @property
    def warnings(self) -> tuple[Finding, ...]:
        return tuple(item for item in self.findings if item.level == WARNING)

    @property
    def bad_clips(self) -> tuple[str, ...]:
        """Ids of clips with an error, each once, in order."""
        return tuple(dict.fromkeys(item.clip_id for item in self.errors if item.clip_id != WHOLE))

    def to_json(self) -> str:
        """The text that --json prints."""
        content: dict[str, Any] = {"path": self.path, "clips": self.clips, "cached": self.cached, "files": self.counts}
        content |= {"errors": len(self.errors), "warnings": len(self.warnings), "bad_clips": list(self.bad_clips)}
        content["findings"] = [item.to_json() for item in self.findings]
        return schemas.text_of(content, indent=2)


def counted(count: int, name: str) -> str:
    """`1 error`, `2 errors`."""
    return f"{count} {name}" + ("" if count == 1 else "s")


def by_kind(findings: Iterable[Finding]) -> dict[tuple[str, str], list[Finding]]:
    """Findings by level and kind, errors first, in the order of KINDS."""
    order = {kind: number for number, kind in enumerate(KINDS)}
    groups: dict[tuple[str, str], list[Finding]] = {}
    for item in sorted(findings, key=lambda item: (item.level != ERROR, order[item.kind])):
        groups.setdefault((item.level, item.kind), []).append(item)
    return groups


def check_folder(
    path: str, progress: Progress | None = None, use_cache: bool = True, *, engine: Engine = HERE
) -> Checked:
    """Check every listed clip and the set as a whole; DatasetError only where there is no folder."""
    if not bf.isdir(path):
        raise DatasetError(f"{path}: expected a data set folder, found none. Check the path.")
    if (unfinished := is_unfinished(path)) and not bf.exists(bf.join(path, CARD)):
        return Checked(path, 0, {}, (Finding(WHOLE, "unfinished", f"{path} holds an unfinished import"),))
    try:
        card = read_card(path)
    except DatasetError as error:
        return Checked(path, 0, {}, (Finding(WHOLE, "card", str(error)),))
    splits, found = lists(path, card)
    if unfinished:
        found.append(Finding(WHOLE, "unfinished", "an import of its next version began, and may go on", WARNING))
    ids = [clip_id for members in splits.values() for clip_id in members]
    check, skeleton = version(card), by_name(card.skeleton)
    known = remembered(path, check) if use_cache else {}
    moments, sound, cached = {"teacher": Moments(skeleton), "truth": Moments(skeleton)}, True, 0
    places, broken = packed_places(path, card)
    found += broken
    counts: Counts = {key: dict.fromkeys(STATES, 0) for key in FILES}
    seen: dict[str, Clipfiles] = {}
    calls = {}
    for at in range(0, len(ids), TASK):
        some = {clip_id: (places.get(clip_id, ""), known.get(clip_id, {})) for clip_id in ids[at : at + TASK]}
        calls[f"clip {ids[at]} and others"] = (path, card, some)
    looks = itertools.chain.from_iterable(engine.run(_look, calls, path, ordered=True))
    for number, clip in enumerate(looks):
        seen[clip.clip_id] = clip
        cached += clip.cached
        for key, state in clip.states.items():
            counts[key][state] += 1
        if number < len(splits["train"]):  # Mean and Std are compared where all of the training clips are sound
            sound = sound and not any(item.level == ERROR for item in clip.findings)
            for name in clip.facts["usable"] if sound else ():
                moments[name].add(torch.from_numpy(files.array_from(clip.content[name], clip.places[name])))
        clip.content, clip.places = {}, {}
        if progress:
            progress(number + 1, len(ids))
    found += [item for clip in seen.values() for item in clip.findings]
    facts = {clip_id: clip.facts for clip_id, clip in seen.items()}
    found += [
        Finding(i, "not-listed", f"is in {p} and in no split", WARNING) for i, p in places.items() if i not in seen
    ]
    found += leaks(splits, facts) + twins(facts) + tendencies(facts.values()) + strangers(path, card, set(ids))
    found += statistics(path, card, *(moments.values() if sound else (None, None)))
    try:
        seal.verify_files(path, card, thorough=True, without={f.clip_id for f in found if f.kind in SPARED})
    except DatasetError as error:
        found.append(Finding(WHOLE, "card-hash", str(error).removeprefix(f"{path}: ")))
    if use_cache:
        remember(path, check, seen)
    return Checked(path, len(ids), counts, tuple(found), cached)


# -- one clip --------------------------------------------------------------------------------------------------------


@dataclass
class Clipfiles:
    """A clip's files: their names and bytes by kind, their states, what is wrong, facts for the look at the set."""

    clip_id: str
    places: dict[str, str]
    content: dict[str, bytes] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    digest: str = ""
    cached: bool = False

    def add(self, kind: str, message: str, level: str = ERROR) -> None:
        self.findings.append(Finding(self.clip_id, kind, message, level))

    def spoilt(self, key: str, kind: str, message: str) -> None:
        """Report a file that cannot be used."""
        self.states[key] = "corrupt"
        self.add(kind, message)


def _look(path: str, card: Card, clips: Mapping[str, tuple[str, Mapping[str, Any]]]) -> list[Clipfiles]:
    """What is wrong with each of some clips, given with their places in a packed set and entries of the cache."""
    made = []
    for clip_id, (place, entry) in clips.items():
        clip = _fetch(path, card, clip_id, place)
        clip.cached = entry.get("content") == clip.digest
        if clip.cached:
            clip.findings = [Finding(clip_id, *item) for item in entry["findings"]]
            clip.states, clip.facts = entry["states"], entry["facts"]
        else:
            sight = _sight(clip, card)
            clip.findings, clip.facts = sight.findings, _facts(clip, sight)
        made.append(clip)
    return made


def examine_clip(path: str, card: Card, clip_id: str) -> Sight:
    """What can be read of one clip, and what is wrong with it by itself."""
    place = packed_places(path, card)[0].get(files.checked_id(clip_id, path), "")
    return _sight(_fetch(path, card, clip_id, place), card)


def _fetch_packed(path: str, card: Card, found: Clipfiles, place: str) -> None:
    """Read the files of a packed clip; of a broken shard nothing is known."""
    try:
        if not place:
            raise DatasetError("it is in no shard that can be read")
        found.content = read_files(path, card, found.clip_id, place)
    except DatasetError as error:
        found.add("corrupt-file", str(error))
        found.states = {key: "missing" if key == "truth" else "corrupt" for key in FILES}
        return
    found.states = {key: "found" if key in found.content else "missing" for key in FILES}
    for key in FILES:
        if key not in found.content and key != "truth":
            found.add("missing-file", f"{found.places[key]} is not in the shard")


def _fetch(path: str, card: Card, clip_id: str, place: str = "") -> Clipfiles:
    """Read the files of a clip; nothing is raised, what is wrong is stored as findings."""
    found, content = Clipfiles(clip_id, names(clip_id, card)), hashlib.sha256()
    if card.packed:
        _fetch_packed(path, card, found, place)
    for key, name in () if card.packed else found.places.items():
        place = bf.join(path, name)
        found.states[key] = "found"
        if files.leads_out(place, path):
            found.spoilt(key, "link-out", f"{name} leads out of the folder and was not read")
        elif not bf.exists(place):
            found.states[key] = "missing"
            if key != "truth":
                found.add("missing-file", f"{name} is not there")
        else:
            try:
                limit = CAPTIONS_LIMIT if key == "texts" else files.BYTES_LIMIT
                found.content[key] = files.read_bytes(place, limit=limit)
            except DatasetError as error:
                found.spoilt(key, "corrupt-file", str(error))
    for key, read in found.content.items():
        if not read.strip():
            found.states[key] = "empty"
            found.add("caption-missing" if key == "texts" else "empty-file", f"{found.places[key]} has no content")
    for key, name in found.places.items():
        data = found.content.get(key)
        content.update(f"{name}\0{found.states[key]}\0{-1 if data is None else len(data)}\0".encode() + (data or b""))
    found.digest = content.hexdigest()
    return found


def _sight(found: Clipfiles, card: Card) -> Sight:
    sight = Sight(found.clip_id, by_name(card.skeleton), card.fps, _parse(found), _captions(found), card.heading)
    rules.examine(sight)
    sight.findings = found.findings + sight.findings
    return sight


def _parse(found: Clipfiles) -> dict[str, Array]:
    """The arrays that can be read, by name; states and findings of the others are stored in `found`."""
    arrays: dict[str, Array] = {}
    for key in ("teacher", "truth", "camera", "keypoints"):
        if found.states[key] != "found":
            continue
        data, name = found.content[key], found.places[key]
        try:
            if key == "camera":
                arrays |= files.arrays_from(data, name, needed=("extrinsics",))
            elif key == "keypoints":
                seen = files.arrays_from(data, name, needed=("confidence",))
                arrays |= {"points": on_plane(seen, arrays, name), "confidence": seen["confidence"]}
            else:
                arrays[key] = files.array_from(data, name)
        except DatasetError as error:
            found.spoilt(key, "pickle" if isinstance(error, files.PickleInsideError) else "corrupt-file", str(error))
    if found.states["truth"] not in ("found", "missing"):
        arrays.pop("truth_extrinsics", None)  # the truth was there
    known = ("teacher", "truth", "points", "confidence", "extrinsics", "truth_extrinsics")
    return {name: values for name, values in arrays.items() if name in known}


def _captions(found: Clipfiles) -> tuple[str, ...] | None:
    if found.states["texts"] != "found":
        return None
    name = found.places["texts"]
    try:
        text = found.content["texts"].decode("utf-8-sig")
        if looks_decoded_twice(text):
            found.add("caption-encoding", f"{name} looks decoded twice: {text.strip()[:60]!r}", WARNING)
        return parse_texts(text, name)
    except UnicodeDecodeError as error:
        found.spoilt("texts", "caption-encoding", f"{name} is not UTF-8 ({error})")
    except DatasetError as error:
        found.spoilt("texts", "caption-format", str(error))
    return None


def _facts(found: Clipfiles, sight: Sight) -> dict[str, Any]:
    """What the look at the whole set needs of a clip."""
    parts = [found.content.get(key, b"") for key in ("teacher", "keypoints", "camera")]
    facts: dict[str, Any] = {"usable": [name for name in rules.MOTIONS if name in sight.sound], "stride": sight.stride}
    if all(parts):
        facts["twin"] = hashlib.sha256(b"\0".join(parts)).hexdigest()
    if "truth" in sight.sound:
        facts["truth"] = hashlib.sha256(found.content["truth"]).hexdigest()
    points = sight.sound.get("points")
    if "teacher" in sight.sound and points is not None and np.isfinite(points).all():
        facts["sketch"] = sketch(sight.sound["teacher"], points)
    if "teacher" in sight.moved:
        direction = upright(sight.moved["teacher"], sight.skeleton)
        facts["upright"] = [round(float(x), 3) for x in direction]
    return facts


# -- the whole set ---------------------------------------------------------------------------------------------------


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
                findings.append(Finding(WHOLE, "splits", str(error)))
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
    name = MIRROR.sub("", clip_id, count=1) if MIRROR.match(clip_id) else clip_id
    while PART.search(name):
        name = PART.sub("", name)
    return name


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


def sketch(teacher: Array, points: Array) -> list[str]:
    """Two keys, at least one of which equal clips share after small changes: rounded means over thirds of the clip."""
    thirds = [slice(len(teacher) * k // 3, len(teacher) * (k + 1) // 3) for k in range(3)]
    numbers = [np.concatenate((teacher[part, 1:40:3].mean(0), points[part, ::3].mean(0).ravel())) for part in thirds]
    coarse = np.concatenate(numbers).astype(np.float64) / COARSE
    keys = [np.floor(coarse + shift).astype(np.int64).tobytes() for shift in (0.0, 0.5)]
    return [f"{n}{len(teacher)}-" + hashlib.sha256(key).hexdigest()[:24] for n, key in enumerate(keys)]


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


def drop(checked: Checked) -> dict[str, str]:
    """Take the clips with errors out of the split lists; their files stay, and DIR/left_out.txt has their reasons.

    Lists, Mean, Std and card are those of the clips that are left: it is another data set. Nothing is changed where
    there is no error, or, with a DatasetError, where no clip would be left to train on. -> the reasons by id
    """
    if not checked.errors:
        return {}
    path, reasons = checked.path, dict[str, str]()
    for item in checked.errors:
        if item.clip_id != WHOLE and item.kind not in KEPT:
            reasons.setdefault(item.clip_id, f"{item.kind}: {' '.join(item.message.splitlines())}")
    with locks.held(path):
        card = read_card(path)
        before, _ = lists(path, card)
        splits = {split: [i for i in ids if i not in reasons] for split, ids in before.items()}
        if not splits["train"]:
            first = next(iter(reasons.items()), ("none", ""))
            raise DatasetError(
                f"{path}: expected clips without an error in the split train, found none (the first: "
                f"{': '.join(first)}). Correct the source and import again."
            )
        place = bf.join(path, LEFT_OUT)
        rows = files.read_text(place).splitlines() if bf.exists(place) else []
        rows += [f"{i}\t{split}: {reasons[i]}" for split, ids in before.items() for i in ids if i in reasons]
        if rows:  # those that an interrupted drop has written already stay once
            files.write_bytes(place, "".join(f"{row}\n" for row in dict.fromkeys(rows)).encode(), durable=True)
        for split, ids in splits.items():
            files.write_bytes(bf.join(path, f"{split}.txt"), "".join(f"{i}\n" for i in ids).encode(), durable=True)
        write_statistics(path, card, splits["train"])
        seal.accept(path)
    return reasons


# -- what an earlier check found -------------------------------------------------------------------------------------


def version(card: Card) -> str:
    """A hash of the check itself and of what it takes from the card."""
    content = hashlib.sha256()
    for module in (rules, rules_motion, inspect.getmodule(version)):
        content.update(inspect.getsource(module).encode())  # type: ignore[arg-type]
    facts = (card.skeleton, card.fps, card.lifter, dataclasses.asdict(card.heading))
    content.update(json.dumps(facts).encode())
    return content.hexdigest()


def remember(path: str, check: str, seen: Mapping[str, Clipfiles]) -> None:
    """Write the cache, whole; a folder that cannot be written goes without."""
    entries = {}
    for clip_id, clip in seen.items():
        told = [[item.kind, item.message, item.level] for item in clip.findings]
        entries[clip_id] = {"content": clip.digest, "findings": told, "states": clip.states, "facts": clip.facts}
    content = schemas.text_of({"check": check, "seal": sealed(entries), "clips": entries})
    with contextlib.suppress(StorageError):
        files.write_bytes(bf.join(path, CACHE), content.encode())


def remembered(path: str, check: str) -> dict[str, Any]:
    """Entries of the cache by clip id, none where there is none of this check, or one that was changed."""
    place = bf.join(path, CACHE)
    if not bf.exists(place) or files.leads_out(place, path):
        return {}
    try:
        content = files.read_json(place, "checked", limit=files.TEXT_LIMIT)
        whole = content["check"] == check and content["seal"] == sealed(content["clips"])
        return dict(content["clips"]) if whole else {}
    except DatasetError:
        return {}


def sealed(entries: object) -> str:
    """A hash by which a cache is known to be as it was written."""
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()
