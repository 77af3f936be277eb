"""Make a data set of a source (`run_import`), of several sets (`merge`), or of a set and another lifter (`relift`).

Each goes on where it stopped. A second lifter's teachers are in DIR/lifters/NAME, which is a data set of its own: its
motion has another canonical frame, so that cameras, statistics and refined teachers are its own, and clips that the
lifter does not have are not in its lists. Keypoints, captions, splits and truth are those of DIR.
"""

import contextlib
import dataclasses
import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import blobfile as bf
import torch

from videomdm_ext import plugins
from videomdm_ext.data import files, locks, seal
from videomdm_ext.data.building import MARKS, Builder, Inputs
from videomdm_ext.data.clip import Clip, detector_error, measured_error, replaced
from videomdm_ext.data.folder import CARD, SPLITS, Card, read_card, read_clip, read_clip_files, read_files, read_ids
from videomdm_ext.data.motions import find_lifter
from videomdm_ext.data.seal import name_of
from videomdm_ext.data.sources.base import SHARES, Importer, Member
from videomdm_ext.data.texts import Tagger, composed, untagged
from videomdm_ext.data.video import lifted
from videomdm_ext.data.video.frames import open_video
from videomdm_ext.data.video.pieces import Stretch
from videomdm_ext.data.video.watch import stem
from videomdm_ext.errors import ConfigError, DatasetError
from videomdm_ext.geometry import cameras
from videomdm_ext.motion.skeletons import by_name

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]  # `progress(done, total)` in clips
EQUAL = ("skeleton", "fps", "heading", "units")
"""Facts of the card that all parts of a merged set must share: the feature vectors mean the same."""
FOLDER = "lifters"
FACTS = "videos.json"
"""File of a data set from videos: where in them its clips lie."""
Made = tuple[str, Clip | str]  # id, and the clip with its new teacher or why there is none
MEASURED = 256  # clips, about, on which the lifter's error on the card is measured


@dataclass(frozen=True)
class Imported:
    """The card of a finished import, and why members were left out, by id, and lines and captions, by their place."""

    card: Card
    left_out: dict[str, str]


def find_importer(name: str) -> type[Importer]:
    """A registered importer by its name."""
    known = plugins.collect(plugins.create_manager(), "datasets")
    if name not in known:
        raise ConfigError(f"data import {name!r}: expected one of {', '.join(sorted(known)) or 'none'}. Correct it.")
    found: type[Importer] = known[name]
    return found


@locks.writing("out")
def run_import(
    importer: Importer, out: str, *, tagger: Tagger | None = None, progress: Progress | None = None, name: str = ""
) -> Imported:
    """Make a data set folder of everything the source holds; started again after an interruption, it goes on.

    A member that cannot be used is left out and reported; DatasetError where none can.
    """
    options = importer.options
    inputs = Inputs([importer.source, options.captions, *filter(os.path.exists, options.extra.values())])
    with files.watched(inputs) if importer.reads_here else contextlib.nullcontext():
        made = _import(importer, out, inputs, tagger=tagger, progress=progress, name=name)
    return made


def _import(
    importer: Importer, out: str, inputs: Inputs, *, tagger: Tagger | None, progress: Progress | None, name: str
) -> Imported:
    _ = importer.captions.table  # refused before any work where it is none
    members, options = importer.members(), importer.options
    if not members:
        raise importer.refuse(importer.source, f"clips for {importer.name}", "none", "Name the folder that holds them.")
    model = None
    if not importer.has_lifter:
        model = find_lifter(options.lifter, options.seed, importer.skeleton, importer.lifter_extra)
    card = Card(
        name=name or importer.name,
        skeleton=importer.skeleton.name,
        fps=importer.fps,
        lifter=importer.lifter,
        licence=importer.licence or "as the source",
        sources=importer.sources or (importer.name,),
        heading=importer.heading,
        recipe={"importer": importer.name, **dataclasses.asdict(options)},
    )
    other = tagger or untagged  # where the source has no words and tags of its own
    for place in importer.inputs():
        inputs(place)
    builder = Builder(out, card, tagger=lambda caption: importer.tagged.get(caption) or other(caption), inputs=inputs)
    splits = split_by_trial(members, options.seed, options.split)
    moved = [clip_id for clip_id, mark in builder.done.items() if splits.get(clip_id) != mark["split"]]
    others = [*builder.changed(), *moved]  # a member that is gone or new may change the splits of all
    if others:
        logger.warning("%s: %s is another than before the import was interrupted; it begins anew", out, others[0])
        builder.forget()
    left_out: dict[str, str] = {}
    left = [member for member in members if member.id not in builder]
    for number, (member, clip) in enumerate(importer.clips(left, model), len(members) - len(left) + 1):
        try:
            if isinstance(clip, DatasetError):
                raise clip
            builder.add(clip, splits[member.id])
        except DatasetError as error:
            left_out[member.id] = str(error)
        if progress:
            progress(number, len(members))
    if not builder.done:
        first = next(iter(left_out.values()))
        raise DatasetError(f"{importer.source}: expected clips that can be used, found none. The first: {first}")
    importer.captions.used |= {composed(name) for member in members for name in importer.caption_names(member)}
    importer.refused |= importer.captions.unused
    some = list(builder.done)[:: max(len(builder.done) // MEASURED, 1)]
    clips = [read_clip(builder.place, card, clip_id) for clip_id in some]
    done = builder.finish(
        order=[member.id for member in members],
        lifter_error=measured_error(clips),
        detector_error=detector_error(clips),
        sides_exchanged=importer.counted(),
    )
    return Imported(done, importer.refused | left_out)


def split_by_trial(members: Sequence[Member], seed: int, shares: tuple[float, float, float] = SHARES) -> dict[str, str]:
    """The split of every member: the source's own where it has one, else by trial, so that no trial is on two sides.

    Trials are ordered by a hash of seed and name; test and validation take their share of them, each that has one at
    least one trial where there are as many trials as splits with a share, and training the rest, never none.
    """
    trials = {m.trial or m.id for m in members if not m.split}
    free = sorted(trials, key=lambda trial: hashlib.sha256(f"split/{seed}/{trial}".encode()).hexdigest())
    counts = [0, 0, 0]
    if len(free) >= sum(share > 0 for share in shares):
        counts[1:] = [max(1, round(share * len(free))) if share > 0 else 0 for share in shares[1:]]
    while sum(counts) >= len(free) > 0:
        counts[counts.index(max(counts))] -= 1
    given = dict.fromkeys(free[: counts[2]], "test") | dict.fromkeys(free[counts[2] : counts[1] + counts[2]], "val")
    splits = {m.id: m.split or given.get(m.trial or m.id, "train") for m in members}
    wrong = sorted(set(splits.values()) - set(SPLITS))
    if wrong:
        raise DatasetError(
            f"splits: expected {', '.join(SPLITS)}, found {', '.join(wrong)}. Correct the source's lists."
        )
    return splits


@locks.writing("out")
def merge(paths: Sequence[str], out: str, *, name: str = "", progress: Progress | None = None) -> Card:
    """Copy the clips of several folders, split by split, into one. Started again after an interruption, it goes on.

    An id gets its folder's name in front where two folders share ids. DatasetError where the cards do not fit.
    """
    if len(paths) < 2 or len(set(paths)) < len(paths):
        raise ConfigError(f"data merge: expected two or more folders, each once, found {' '.join(paths) or 'none'}.")
    cards = [read_card(path) for path in paths]
    for path, card in zip(paths[1:], cards[1:], strict=True):
        for fact in EQUAL:
            if getattr(cards[0], fact) != getattr(card, fact):
                raise DatasetError(
                    f"{path}: expected {fact} {getattr(cards[0], fact)} as in {paths[0]}, found {getattr(card, fact)}. "
                    "Import one of them again so that both agree."
                )
    members = [
        (path, card, split, clip_id)
        for split in SPLITS
        for path, card in zip(paths, cards, strict=True)
        if card.counts.get(split)
        for clip_id in read_ids(path, split)
    ]
    short = {path: bf.basename(path.rstrip("/")) or "set" for path in paths}
    lifters = {card.lifter for card in cards}
    merged = Card(  # where the lifters differ, `mixed` with no error of its own
        name=name or "-".join(dict.fromkeys(card.name for card in cards)),
        skeleton=cards[0].skeleton,
        fps=cards[0].fps,
        heading=cards[0].heading,
        lifter=lifters.pop() if len(lifters) == 1 else "mixed",
        licence="; ".join(dict.fromkeys(card.licence for card in cards)),
        sources=tuple(dict.fromkeys(source for card in cards for source in card.sources)),
        recipe={"merged": {short[path]: name_of(card) for path, card in zip(paths, cards, strict=True)}},
    )
    parts = Inputs([name_of(card) for card in cards])
    parts.known = {name: name for name in parts.places}
    builder = Builder(out, merged, inputs=parts if all(card.identity for card in cards) else None)
    shared = len({clip_id for *_, clip_id in members}) < len(members)
    for number, (path, card, split, clip_id) in enumerate(members):
        new = f"{short[path]}-{clip_id}" if shared else clip_id
        if new not in builder:
            content, clip = read_clip_files(path, card, clip_id)
            builder.add(dataclasses.replace(clip, id=new), split, content["texts"])
        if progress:
            progress(number + 1, len(members))
    return builder.finish()


# -- a second lifter's teachers ----------------------------------------------------------------------------------------


def lifters_beside(path: str) -> list[str]:
    """The lifters whose teachers lie in DIR/lifters beside the set's own, each a data set."""
    inside = bf.join(path, FOLDER)
    names = [name.strip("/") for name in sorted(bf.listdir(inside))] if bf.isdir(inside) else []
    return [name for name in names if bf.exists(bf.join(inside, name, CARD))]


def with_lifter(path: str, lifter: str) -> str:
    """The folder of the data set in `path` with a lifter's teachers: `path` itself, or DIR/lifters/NAME.

    DatasetError where there are none, or where they were made for another set than lies in `path` now.
    """
    if not lifter or lifter == (card := read_card(path)).lifter:
        return path
    place = bf.join(path, FOLDER, files.checked_id(lifter, "--lifter"))
    if not bf.exists(bf.join(place, CARD)):
        known = [card.lifter, *lifters_beside(path)]
        raise DatasetError(
            f"--lifter {lifter}: expected one whose teachers {path} has, {', '.join(known)}, found another. Add them: "
            f"videomdm data relift {path} --lifter {lifter} --option results=DIR."
        )
    if (of := read_card(place).recipe.get("relifted", {}).get("of")) != name_of(card):
        raise DatasetError(
            f"{place}: expected teachers made for the data set {name_of(card)[:12]} in {path}, found those of "
            f"{str(of)[:12]}. Make them again: videomdm data relift."
        )
    return place


@locks.writing("path")
def relift(
    path: str,
    lifter: str,
    options: Mapping[str, str],
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Card, str, dict[str, str]]:
    """Add a lifter's teachers to a data set; started again after an interruption, it goes on. -> card, folder, left out

    Results are found by the videos' names where the set was made from videos, else by the clips' ids. Of what is left
    out the third value has the reasons, by id or place.
    """
    card = seal.verify(path)
    if lifter == card.lifter:
        raise ConfigError(f"--lifter {lifter}: expected another than the set's own, found it. Choose another.")
    model = find_lifter(lifter, seed, by_name(card.skeleton), options)
    facts = bf.join(path, FACTS)
    videos = files.read_json(facts, "videos")["videos"] if bf.exists(facts) and hasattr(model, "people") else {}
    places = {clip: found for video in videos.values() for clip, found in video["clips"].items()}
    rows = {i: split for split in SPLITS if card.counts.get(split) for i in read_ids(path, split)}
    left_out = _unfound(model, path, rows, places)
    if len(left_out) == len(rows):
        by_id = "" if places else f"There is no {FACTS}, as of a set that was merged or packed: ids count, not videos. "
        first = next(iter(left_out.values()))
        raise DatasetError(f"{path}: expected results of its clips, found none. {by_id}The first: {first}")
    if places:
        left_out |= lifted.unclaimed(model.videos(), [stem(place["video"]) for place in places.values()])

    named = {"of": name_of(card), "lifter": lifter, "options": dict(options), "seed": seed}
    plan = dataclasses.replace(
        card, lifter=lifter, lifter_error={}, counts={}, content_hash="", files={}, identity="", values=(),
        recipe={**card.recipe, "relifted": named},
    )  # fmt: skip
    inputs, out = Inputs(filter(os.path.exists, options.values())), bf.join(path, FOLDER, lifter)
    inputs.known[name_of(card)] = name_of(card)
    with contextlib.ExitStack() as after, files.watched(inputs), locks.held(out):
        after.callback(_remove_empty, out, bf.join(path, FOLDER))
        builder = Builder(out, plan, inputs=inputs)
        if builder.changed():
            builder.forget()
        left = [clip_id for clip_id in rows if clip_id not in builder and clip_id not in left_out]
        makers = _from_videos(model, path, card, left, places) if places else _by_id(model, path, card, left)
        for number, (clip_id, made) in enumerate(makers, len(rows) - len(left) + 1):
            try:
                if isinstance(made, str):
                    raise DatasetError(made)
                builder.add(made, rows[clip_id], read_files(path, card, clip_id)["texts"])
            except DatasetError as error:
                left_out[clip_id] = str(error)
            if progress:
                progress(number, len(rows))
        if not builder.done:
            bf.rmtree(bf.join(out, MARKS))  # nothing goes on from there, perhaps with other options
            first = next(left_out[clip_id] for clip_id in rows if clip_id in left_out)
            raise DatasetError(f"{path}: expected clips that {lifter} has lifted, found none. The first: {first}")
        for place in model.sources() if hasattr(model, "sources") else ():
            inputs(place)
        some = [read_clip(builder.place, plan, clip_id) for clip_id in list(builder.done)[:: len(rows) // MEASURED + 1]]
        return builder.finish(order=list(rows), lifter_error=measured_error(some)), out, left_out


def _remove_empty(*folders: str) -> None:
    """Remove the folders of a lifter that has lifted nothing."""
    for folder in folders:
        with contextlib.suppress(OSError):  # it holds something
            os.rmdir(folder)


def _unfound(model: Any, path: str, rows: Mapping[str, str], places: Mapping[str, Any]) -> dict[str, str]:
    """Why there is no result of a clip, by id: a cheap look, before any work."""
    found: dict[str, str] = {}
    videos = {stem(place["video"]) for place in places.values()}
    for clip_id in rows if hasattr(model, "find") else ():
        try:
            if not places:
                model.find(clip_id)
            elif clip_id not in places:
                raise DatasetError(
                    f"{bf.join(path, FACTS)}: expected the video of {clip_id}, found none. Import again."
                )
            else:
                model.find_video(stem(places[clip_id]["video"]), videos)
        except DatasetError as error:
            found[clip_id] = str(error)
    return found


def _by_id(model: Any, path: str, card: Card, ids: Sequence[str]) -> Iterator[Made]:
    """Each clip with what the lifter makes of it, or of its id."""
    for clip_id in ids:
        clip = read_clip(path, card, clip_id)
        seen = [torch.from_numpy(part) for part in (clip.keypoints, clip.confidence, clip.extrinsics)]
        try:
            positions = model.lift(
                clip_id, keypoints=seen[0].nan_to_num(), confidence=seen[1], extrinsics=seen[2], fps=clip.fps
            )
            yield clip_id, replaced(clip, positions, card.heading)
        except DatasetError as error:
            yield clip_id, str(error)


def _from_videos(model: Any, path: str, card: Card, ids: Sequence[str], places: Mapping[str, Any]) -> Iterator[Made]:
    """Each clip with what the lifter made of its person in its video, which still has to be there."""
    videos: dict[str, list[str]] = {}
    for clip_id in ids:
        videos.setdefault(places[clip_id]["video"], []).append(clip_id)
    for name, members in videos.items():
        clips = {clip_id: read_clip(path, card, clip_id) for clip_id in members}
        try:
            if not os.path.isfile(name):
                raise DatasetError(
                    f"{name}: expected the video that {bf.join(path, FACTS)} names, found none. Put it there; a "
                    "relative path is one from the folder in which the set was made: start there."
                )
            video, result = open_video(name), model.find_video(stem(name), {stem(other) for other in videos})
            people = model.people(stem(name), video.stored_size)
            stretches = [_stretch(clip, float(places[i]["start"])) for i, clip in clips.items()]
            found = lifted.given_to(stretches, people, video, card.fps, model.description.fps, result)
        except DatasetError as error:
            yield from ((clip_id, str(error)) for clip_id in members)
            continue
        for (clip_id, clip), (parts, notes) in zip(clips.items(), found, strict=True):
            try:
                if len(parts) > 1 and not notes:
                    names = " and then ".join(dict.fromkeys(part.lifted.name for part in parts))
                    raise DatasetError(
                        f"{result}: expected one person for all of {clip_id}, found {names}. It is left out."
                    )
                if len(parts) != 1 or len(parts[0].pixels) != clip.length:
                    raise DatasetError(notes[0].removeprefix("Left out: "))
                yield clip_id, _with(model, clip, parts[0], card)
            except DatasetError as error:
                yield clip_id, str(error)


def _stretch(clip: Clip, start: float) -> Stretch:
    """A clip as a part of its video."""
    if clip.intrinsics is None:
        raise DatasetError(f"{clip.label}: expected the camera's intrinsics in pixels, found none. Import again.")
    points, lens = torch.from_numpy(clip.keypoints).double(), torch.from_numpy(clip.intrinsics).double()
    confidence = torch.from_numpy(clip.confidence).double()
    pixels = cameras.to_pixels(points.nan_to_num(), lens)
    return Stretch(start, pixels, confidence, torch.zeros(clip.length, clip.skeleton.num_joints, 3))


def _with(model: Any, clip: Clip, part: Stretch, card: Card) -> Clip:
    """The clip with the motion of its part as the teacher."""
    assert clip.intrinsics is not None
    image, lens = torch.from_numpy(clip.keypoints).double().nan_to_num(), torch.from_numpy(clip.intrinsics).double()
    weight = part.confidence.square()
    body = part.lifted.before(lens, image, weight, clip.skeleton, clip.fps, clip.label)
    model.check(clip.label, body, image, part.confidence)
    world = cameras.to_world(body, torch.from_numpy(clip.extrinsics).double().expand(clip.length, 3, 4))
    return replaced(clip, world.float(), card.heading)
