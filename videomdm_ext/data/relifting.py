"""A second lifter's teachers for a finished data set: DIR/lifters/NAME, which is a data set of its own.

Another motion has another canonical frame, so that cameras, statistics and refined teachers are its own, and clips that
the lifter does not have are not in its lists. Keypoints, captions, splits and truth are those of DIR.
"""

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import blobfile as bf
import torch

from videomdm_ext.data import files, locks, seal
from videomdm_ext.data.building import MARKS, Builder
from videomdm_ext.data.clip import Clip
from videomdm_ext.data.folder import CARD, SPLITS, Card, read_card, read_clip, read_files, read_ids
from videomdm_ext.data.identity import Inputs, name_of
from videomdm_ext.data.importing import MEASURED
from videomdm_ext.data.motions import find_lifter
from videomdm_ext.data.refined import measured_error, replaced
from videomdm_ext.data.texts import Words
from videomdm_ext.data.video import lifted
from videomdm_ext.data.video.frames import open_video
from videomdm_ext.data.video.pieces import Stretch
from videomdm_ext.data.video.watch import stem
from videomdm_ext.errors import ConfigError, DatasetError
from videomdm_ext.geometry import cameras
from videomdm_ext.motion.skeletons import by_name

FOLDER = "lifters"
FACTS = "videos.json"
"""File of a data set from videos: where in them its clips lie."""
Made = tuple[str, Clip | str]  # id, and the clip with its new teacher or why there is none


def with_lifter(path: str, lifter: str) -> str:
    """The folder of the data set in `path` with a lifter's teachers: `path` itself, or DIR/lifters/NAME.

    DatasetError where there are none, or where they were made for another set than lies in `path` now.
    """
    if not lifter or lifter == (card := read_card(path)).lifter:
        return path
    place = bf.join(path, FOLDER, files.checked_id(lifter, "--lifter"))
    if not bf.exists(bf.join(place, CARD)):
        inside = bf.join(path, FOLDER)
        others = [name.strip("/") for name in sorted(bf.listdir(inside))] if bf.isdir(inside) else []
        known = [card.lifter, *(name for name in others if bf.exists(bf.join(inside, name, CARD)))]
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
        packed=False, recipe={**card.recipe, "relifted": named},
    )  # fmt: skip
    inputs, out = Inputs(filter(os.path.exists, options.values())), bf.join(path, FOLDER, lifter)
    inputs.known[name_of(card)] = name_of(card)
    tagged: dict[str, Words] = {}
    with files.watched(inputs), locks.held(out):
        builder = Builder(out, plan, tagger=lambda caption: tagged[caption], inputs=inputs)
        if builder.changed():
            builder.forget()
        left = [clip_id for clip_id in rows if clip_id not in builder and clip_id not in left_out]
        makers = _from_videos(model, path, card, left, places) if places else _by_id(model, path, card, left)
        for number, (clip_id, made) in enumerate(makers, len(rows) - len(left) + 1):
            try:
                if isinstance(made, str):
                    raise DatasetError(made)
                tagged |= _tags(read_files(path, card, clip_id)["texts"].decode())
                builder.add(made, rows[clip_id])
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
        wrong = {name: round(value, 5) for name, value in measured_error(some, some).items()}
        return builder.finish(order=list(rows), lifter_error=wrong), out, left_out


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


def _tags(content: str) -> dict[str, Words]:
    """Words and parts of speech of captions, as the lines of a text file have them."""
    lines = [line.split("#") for line in content.splitlines() if line.strip()]
    return {line[0].strip(): [word.rpartition("/")[::2] for word in line[1].split()] for line in lines}
