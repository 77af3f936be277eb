"""Look through a data set once: every clip by the rulebook, and the set as a whole (`check_folder`, `examine_clip`).

Errors are what reading (`rules.validate`) or `seal.verify` refuses too; `drop` takes the clips that have one out of the
splits. A check changes nothing but DIR/checked.json, which keeps what was found in each clip by the content of its
files. It is used only for the very same content and the very same check; a cache that was changed is left aside, and
where it cannot be written all is as well.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import blobfile as bf
import numpy as np
import torch

from videomdm_ext.data import files, locks, refined, schemas, seal
from videomdm_ext.data.building import is_unfinished, write_statistics
from videomdm_ext.data.checks import rules, sets
from videomdm_ext.data.checks.motion import upright
from videomdm_ext.data.checks.rules import ERROR, KINDS, WARNING, WHOLE, Finding, Sight
from videomdm_ext.data.files import Array
from videomdm_ext.data.folder import CARD, Card, names, on_plane, read_card, read_files
from videomdm_ext.data.shards import KINDS as FILES
from videomdm_ext.data.tasks import HERE, Engine
from videomdm_ext.data.texts import looks_decoded_twice, parse_texts
from videomdm_ext.errors import DatasetError, StorageError
from videomdm_ext.motion.features import Moments
from videomdm_ext.motion.skeletons import by_name

STATES = ("found", "missing", "empty", "corrupt")
CACHE = "checked.json"
LEFT_OUT = "left_out.txt"
"""In the folder: ids that are in no split, and why."""
TASK = 32
"""Clips that a process looks at in one go."""
CAPTIONS_LIMIT = 1 << 20  # bytes of the captions of a clip
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
    splits, found = sets.lists(path, card)
    if unfinished:
        found.append(Finding(WHOLE, "unfinished", "an import of its next version began, and may go on", WARNING))
    ids = [clip_id for members in splits.values() for clip_id in members]
    check, skeleton = version(card), by_name(card.skeleton)
    known = remembered(path, check) if use_cache else {}
    moments, sound = {"teacher": Moments(skeleton), "truth": Moments(skeleton)}, True
    places, broken = sets.packed_places(path, card)
    found += broken
    seen: dict[str, Clipfiles] = {}
    calls = {}
    for at in range(0, len(ids), TASK):
        some = {clip_id: (places.get(clip_id, ""), known.get(clip_id, {})) for clip_id in ids[at : at + TASK]}
        calls[f"clip {ids[at]} and others"] = (path, card, some)
    looks = itertools.chain.from_iterable(engine.run(_look, calls, path, ordered=True))
    for number, clip in enumerate(looks):
        seen[clip.clip_id] = clip
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
    found += sets.leaks(splits, facts) + sets.twins(facts) + sets.tendencies(facts.values())
    found += sets.strangers(path, card, set(ids)) + outdated(path, card)
    found += sets.statistics(path, card, *(moments.values() if sound else (None, None)))
    try:
        seal.verify_files(path, card, thorough=True, without={f.clip_id for f in found if f.kind in SPARED})
    except DatasetError as error:
        found.append(Finding(WHOLE, "card-hash", str(error).removeprefix(f"{path}: ")))
    if use_cache:
        remember(path, check, seen)
    states = {key: Counter(clip.states[key] for clip in seen.values()) for key in FILES}
    counts = {key: {state: of_key[state] for state in STATES} for key, of_key in states.items()}
    return Checked(path, len(ids), counts, tuple(found), sum(clip.cached for clip in seen.values()))


def outdated(path: str, card: Card) -> list[Finding]:
    """Refined teachers that a training would make anew: of other clips, or made by another version."""
    found = []
    for kind in refined.KINDS:
        folder = refined.folder_of(path, card, kind)
        if bf.exists(bf.join(folder, refined.MARK)) and not refined.is_made(path, card, kind):
            again = f"videomdm data refine {shlex.quote(path)} --kind {kind}"
            what = f"{kind}/{card.lifter} is of other clips than now, or of another version of the package: {again}"
            found.append(Finding(WHOLE, "outdated", what, WARNING))
    return found


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
    place = sets.packed_places(path, card)[0].get(files.checked_id(clip_id, path), "")
    return _sight(_fetch(path, card, clip_id, place), card)


def _fetch(path: str, card: Card, clip_id: str, place: str = "") -> Clipfiles:
    """Read the files of a clip; nothing is raised, what is wrong is stored as findings."""
    found = Clipfiles(clip_id, names(clip_id, card))
    if card.packed:
        _fetch_packed(path, card, found, place)
    else:
        for key, name in found.places.items():
            _fetch_file(path, found, key, name)
    for key, read in found.content.items():
        if not read.strip():
            found.states[key] = "empty"
            found.add("caption-missing" if key == "texts" else "empty-file", f"{found.places[key]} has no content")
    content = hashlib.sha256()
    for key, name in found.places.items():
        data = found.content.get(key)
        content.update(f"{name}\0{found.states[key]}\0{-1 if data is None else len(data)}\0".encode() + (data or b""))
    found.digest = content.hexdigest()
    return found


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
    for key, name in found.places.items():
        found.states[key] = "found" if key in found.content else "missing"
        if key not in found.content and key != "truth":
            found.add("missing-file", f"{name} is not in the shard")


def _fetch_file(path: str, found: Clipfiles, key: str, name: str) -> None:
    place, found.states[key] = bf.join(path, name), "found"
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
    return {name: values for name, values in arrays.items() if name in rules.ARRAYS}


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


def sketch(teacher: Array, points: Array) -> list[str]:
    """Two keys, at least one of which equal clips share after small changes: rounded means over thirds of the clip."""
    thirds = [slice(len(teacher) * k // 3, len(teacher) * (k + 1) // 3) for k in range(3)]
    numbers = [np.concatenate((teacher[part, 1:40:3].mean(0), points[part, ::3].mean(0).ravel())) for part in thirds]
    coarse = np.concatenate(numbers).astype(np.float64) / COARSE
    keys = [np.floor(coarse + shift).astype(np.int64).tobytes() for shift in (0.0, 0.5)]
    return [f"{n}{len(teacher)}-" + hashlib.sha256(key).hexdigest()[:24] for n, key in enumerate(keys)]


def drop(checked: Checked) -> dict[str, str]:
    """Take the clips with errors out of the split lists; their files stay, and DIR/left_out.txt has their reasons.

    Lists, Mean, Std and card are those of the clips that are left: it is another data set. Nothing is changed where
    there is no error, or, with a DatasetError, where a list cannot be read or no clip would be left to train on.

    -> the reasons by id
    """
    if not checked.errors:
        return {}
    path, reasons = checked.path, dict[str, str]()
    if lost := [item.message for item in checked.errors if item.clip_id == WHOLE and item.kind == "corrupt-file"]:
        raise DatasetError(
            f"{path}: expected lists and shards that can be read, found one that cannot, so that it is unknown which "
            f"clips it has: {lost[0]} Put it right, or remove it to go on without; then start the same command again."
        )
    for item in checked.errors:
        if item.clip_id != WHOLE and item.kind not in KEPT:
            reasons.setdefault(item.clip_id, f"{item.kind}: {' '.join(item.message.splitlines())}")
    with locks.held(path):
        card = read_card(path)
        before, found = sets.lists(path, card)
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
        rows += [f"-\t{item.kind}: {item.message}" for item in found if item.kind == "bad-name"]
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
    facts = (card.skeleton, card.fps, card.lifter, dataclasses.asdict(card.heading))
    source = Path(__file__).read_text(encoding="utf-8")
    return hashlib.sha256(f"{rules.version()}{source}{json.dumps(facts)}".encode()).hexdigest()


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
