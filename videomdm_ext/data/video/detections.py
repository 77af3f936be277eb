"""People that a detector found in a video, from the files of several programs.

openpose   {"people": [{"pose_keypoints_2d": [...]}]} a picture; Pose2Sim's and Sports2D's files are such too
mmpose     a list of frames, or {"instance_info": [...]}, each with frame_id and instances; or those of one picture
alphapose  a list of {image_id, keypoints, score}; {image: {"bodies"|"people": [...]}} (its formats cmu and open)
coco       a list of {image_id, keypoints}, or {"annotations": [...]} with them
blazepose  npz: pixels [F, 33, 2], visibility [F, 33], world [F, 33, 3] in metres, times [F] in seconds

JSON is one file a video, or a folder of one a picture, whose names differ in the number of the frame: VIDEO_0012.json,
00012.json, VIDEO_000000000012_keypoints.json. Which joints they are is told by their number: 17 COCO, 18 OpenPose's
COCO, 25 OpenPose BODY_25, 26 Halpe (also the first of 136), 133 COCO-WholeBody, of which body and feet are taken.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import blobfile as bf
import numpy as np

from videomdm_ext.data import files
from videomdm_ext.errors import ConfigError, DatasetError, counted
from videomdm_ext.motion.joint_maps import BLAZEPOSE33, BY_COUNT, Layout, Numbers

FORMATS = ("openpose", "mmpose", "alphapose", "coco", "blazepose")
FEWEST = 8  # pictures of which one can say that they are of a lower frame rate
MOST_PEOPLE = 64  # people in one frame; the surest ones are kept
JSON_LIMIT = 1 << 28  # bytes of a detector's JSON
BROKEN = (KeyError, TypeError, ValueError, IndexError, AttributeError)  # what JSON of another shape raises here


@dataclass(frozen=True)
class Detections:
    """F frames, P people at most in one of them, K joints of the layout.

    times [F] in seconds; pixels [F, P, K, 2]; score [F, P, K] from 0 to 1, 0 where nothing was found; world
    [F, P, K, 3] in metres, centred on the hips and along the camera's axes, or None where the detector sees no depth.
    `notes` has what was left out and why; `doubt`, where the numbers of the frames may count from 0 or from 1, or be
    those of a `rate` times lower frame rate, says so.
    """

    layout: Layout
    times: Numbers
    pixels: Numbers
    score: Numbers
    world: Numbers | None = None
    notes: tuple[str, ...] = ()
    doubt: str = ""
    rate: int = 1


Person = tuple[Numbers, Numbers]  # pixels [K, 2] and score [K] of one person in one frame
Rows = Iterable[tuple[int, Sequence[Any]]]  # numbers of frames, and who is there as the file has it


def find_file(folder: str, video: str, kind: str) -> str:
    """Where the detections of a video lie: a file FOLDER/VIDEO.json (.npz), or a folder with a file a picture."""
    if kind == "blazepose":
        names, folders = [f"{video}.npz"], []
    else:
        alphapose = [bf.join(video, f"alphapose-results{suffix}.json") for suffix in ("", "-cmu", "-open")]
        names = [] if kind == "openpose" else [f"{video}.json", *alphapose, f"results_{video}.json"]
        folders = [bf.join(folder, name) for name in (video, f"{video}_json", bf.join(video, "sep-json"))]
    found = [place for name in names if bf.exists(place := bf.join(folder, name))]
    found += [place for place in folders if files.list_files(place, ".json")]
    if kind != "blazepose":
        own = re.compile(rf"({re.escape(video)}[^A-Za-z0-9])?\d+(_keypoints)?\.json")
        found += [folder] if any(map(own.fullmatch, files.list_files(folder))) else []
    if not found:
        single = [] if kind == "openpose" else names[:1]
        expected = " or ".join([*single, *([f"the folder {video} with a JSON file a picture"] if folders else [])])
        raise DatasetError(
            f"{folder}: expected {expected}, detections of the video {video}, found none. Name them after the video."
        )
    return found[0]


def find_files(folder: str, video: str, kind: str) -> list[str]:
    """The files with the detections of a video: one, or one a picture."""
    place = find_file(folder, video, kind)
    return [bf.join(place, name) for name in files.list_files(place, ".json")] or [place]


def read_detections(
    path: str, kind: str, *, count: int, fps: float, times: Numbers | None = None, video: str = ""
) -> Detections:
    """The detections of a video of `count` frames at `fps`, or at `times` [count] where these are uneven.

    Frames that the files do not name are empty. `video` is its name, for files that hold several.
    """
    if kind not in FORMATS:
        raise ConfigError(f"--format: expected one of {', '.join(FORMATS)}, found {kind!r}. Correct it.")
    if kind == "blazepose":
        return _blazepose(path)
    notes: list[str] = []
    try:
        rows = _read_pictures(path, kind, video, notes) if bf.isdir(path) else _read_whole(path, kind, video, notes)
        found = [(number, [one for one in map(_person, people) if one is not None]) for number, people in rows]
    except BROKEN as error:
        raise DatasetError(
            f"{path}: expected detections as {kind} writes them, found something else ({error!r}). "
            f"Is --format right? It takes {', '.join(FORMATS)}."
        ) from error
    if not any(people for _, people in found):
        why = "".join(f" {note}" for note in notes[:1])
        raise DatasetError(f"{path}: expected people, found none in any frame.{why} Leave the video out.")
    shift, doubt, rate = _counted_from([number for number, _ in found], count, path)
    people: dict[int, list[Person]] = {}
    for number, members in found:
        people.setdefault(number - shift, []).extend(members)
    layout, pixels, score = _arrays(people, count, path)
    times = np.arange(count) / fps if times is None else times
    return Detections(layout, times, pixels, score, None, tuple(notes), doubt, rate)


def _arrays(people: Mapping[int, list[Person]], count: int, path: str) -> tuple[Layout, Numbers, Numbers]:
    """Layout, pixels [F, P, K, 2] and score [F, P, K] of people by frame; the surest come first."""
    sizes = {len(score) for members in people.values() for _, score in members}
    if len(sizes) != 1 or not sizes <= BY_COUNT.keys():
        raise DatasetError(
            f"{path}: expected people of {', '.join(map(str, BY_COUNT))} joints, all alike, found "
            f"{', '.join(map(str, sorted(sizes)))}. Use a detector of one of these skeletons."
        )
    layout = BY_COUNT[sizes.pop()]
    most, joints = min(max(map(len, people.values())), MOST_PEOPLE), len(layout.joints)
    pixels, score = np.zeros((count, most, joints, 2)), np.zeros((count, most, joints))
    for frame, members in people.items():
        ranked = sorted(members, key=lambda person: -float(np.nansum(person[1])))
        for slot, (points, sure) in enumerate(ranked[:MOST_PEOPLE]):
            pixels[frame, slot], score[frame, slot] = points[:joints], sure[:joints]
    known = np.isfinite(pixels).all(-1) & np.isfinite(score) & (score > 0)
    if not known.any():
        raise DatasetError(
            f"{path}: expected scores above 0, found none of {sum(map(len, people.values()))} people with one. "
            "A joint of score 0 counts as not seen; write the detector's scores, or 1 where it has none."
        )
    if np.median(score[known]) > 1.5:
        raise DatasetError(
            f"{path}: expected scores from 0 to 1, found {np.median(score[known]):.3g} in the middle. Scale them."
        )
    if np.abs(pixels[known]).max() <= 1.5:
        raise DatasetError(
            f"{path}: expected keypoints in pixels, found them all from {pixels[known].min():.2f} to "
            f"{pixels[known].max():.2f}. Multiply x by the picture's width and y by its height."
        )
    return layout, np.where(known[..., None], pixels, 0.0), np.where(known, score, 0.0).clip(0, 1)


def _blazepose(path: str) -> Detections:
    arrays = files.read_arrays(path, needed=("pixels", "visibility", "world", "times"), optional=())
    pixels, score, world, times = (arrays[key].astype(np.float64) for key in ("pixels", "visibility", "world", "times"))
    count = len(times) if times.ndim == 1 else 0
    shapes = (count, 33, 2), (count, 33), (count, 33, 3)
    found = pixels.shape, score.shape, world.shape
    if found != shapes or count == 0 or not (np.diff(times) > 0).all():
        raise DatasetError(
            f"{path}: expected pixels [F, 33, 2], visibility [F, 33], world [F, 33, 3] and rising times [F], found "
            f"{', '.join(str(list(shape)) for shape in found)} and {list(times.shape)}. Write it so."
        )
    score = np.where(np.isfinite(pixels).all(-1) & np.isfinite(world).all(-1), score, 0.0).clip(0, 1)
    pixels, world = np.nan_to_num(pixels), np.nan_to_num(world)
    if 0 < np.abs(pixels[score > 0]).max(initial=0.0) <= 1.5:
        raise DatasetError(
            f"{path}: expected keypoints in pixels, found none above 1.5. Multiply x by the picture's width and y by "
            "its height."
        )
    return Detections(BLAZEPOSE33, times, pixels[:, None], score[:, None], world[:, None])


def _read_pictures(folder: str, kind: str, video: str, notes: list[str]) -> Iterator[tuple[int, Sequence[Any]]]:
    """Number and people of each file of a folder; others are left out with a note."""
    names = files.list_files(folder, ".json")
    numbers = _numbers_of([name.removesuffix(".json").removesuffix("_keypoints") for name in names], video)
    foreign = [name for name, number in zip(names, numbers, strict=True) if number is None]
    if foreign:
        some = ", ".join(foreign[:5])
        notes.append(f"{folder}: left out {counted(len(foreign), 'file')} of other names than this video's: {some}.")
    for name, number in zip(names, numbers, strict=True):
        place = bf.join(folder, name)
        if number is None:
            continue
        try:
            people = _people_of(files.read_json(place, "picture"), kind)
            for one in people:
                _person(one)
        except (*BROKEN, DatasetError) as error:
            found = str(error).removeprefix(f"{place}: ") if isinstance(error, DatasetError) else repr(error)
            found = found.removesuffix(".")
            notes.append(f"{place}: expected the people of one picture as {kind} writes them, {found}. It is left out.")
            continue
        yield number, people
    others = [name for name in files.list_files(folder) if not name.endswith(".json")]
    if others:
        notes.append(f"{folder}: left out {counted(len(others), 'file')} of no JSON: {', '.join(others[:5])}.")


def _people_of(content: Any, kind: str) -> Sequence[Any]:
    """Who is in a picture, by the content of its own file."""
    if isinstance(content, dict):
        keys = ("instances", "instance_info") if kind == "mmpose" else ("people", "bodies", "annotations")
        return list(content[next((key for key in keys if key in content), keys[0])])
    if any("instances" in one or "image_id" in one for one in content if one):
        raise ValueError("people of several pictures")
    return list(content)


def _read_whole(path: str, kind: str, video: str, notes: list[str]) -> Rows:
    """Number and people of each frame that the one file of a video names."""
    content = files.read_json(path, "mmpose" if kind == "mmpose" else "detections", limit=JSON_LIMIT)
    if kind == "mmpose":
        rows = content["instance_info"] if isinstance(content, dict) else content
        return [(int(row["frame_id"]), row["instances"]) for row in rows]
    if isinstance(content, dict) and "annotations" not in content:
        found = [(name, one["bodies" if "bodies" in one else "people"]) for name, one in content.items()]
    else:
        images: Mapping[Any, Any] = {}
        if isinstance(content, dict):
            images = {image["id"]: image.get("file_name", image["id"]) for image in content.get("images", ())}
            content = content["annotations"]
        found = [(name, []) for name in images.values()]  # a picture without anybody has its number too
        found += [(images.get(one["image_id"], one["image_id"]), [one]) for one in content if one]
    words = dict.fromkeys(name for name, _ in found if not isinstance(name, int))
    numbers = dict(zip(words, _numbers_of([os.path.splitext(str(name))[0] for name in words], video), strict=True))
    foreign = [str(name) for name, number in numbers.items() if number is None]
    if foreign:
        notes.append(f"{path}: left out {counted(len(foreign), 'picture')} of other names: {', '.join(foreign[:5])}.")
    return [(number, people) for name, people in found if (number := numbers.get(name, name)) is not None]


def _numbers_of(names: Sequence[str], video: str) -> list[int | None]:
    """The number of the frame in each of the names of pictures; None for one that is not named like most of them.

    It is the part in digits that differs among them, the last part where none does. Where names begin with that of the
    video, the others are not its. ValueError where several parts differ.
    """
    own = re.compile(rf"(?:.*/)?{re.escape(video)}[^A-Za-z0-9]")
    named = [name for name in names if own.match(name)] if video else []
    named = [name for name in named if own.sub("", name, count=1).isdigit()] or named  # VIDEO_2_0001 is another's
    split = {name: re.split(r"(\d+)", name) for name in named or names}  # words and digits in turn
    shapes = Counter(tuple(parts[::2]) for parts in split.values() if len(parts) > 1)
    if names and not shapes:
        raise ValueError(f"names without a number, as {names[0]}")
    usual = max(shapes, key=lambda shape: shapes[shape], default=())
    digits = {name: parts[1::2] for name, parts in split.items() if tuple(parts[::2]) == usual}
    differing = [at for at, column in enumerate(zip(*digits.values(), strict=True)) if len({*column}) > 1] or [-1]
    if len(differing) > 1:
        raise ValueError(f"pictures of several videos, as {names[0]} and {names[-1]}")
    return [int(digits[name][differing[0]]) if name in digits else None for name in names]


def _person(one: Any) -> Person | None:
    """One person of any of the formats; None for an empty entry."""
    if not one:
        return None
    values = one[next((key for key in ("pose_keypoints_2d", "joints", "keypoints") if key in one), "keypoints")]
    if not len(values):
        return None
    if "keypoint_scores" in one:
        pixels, score = np.asarray(values, np.float64), np.asarray(one["keypoint_scores"], np.float64)
        if pixels.ndim != 2 or pixels.shape[1] != 2 or score.shape != pixels.shape[:1]:
            raise ValueError(f"keypoints {list(pixels.shape)} with scores {list(score.shape)}")
        return pixels, score
    rows = np.asarray(values, np.float64).reshape(-1, 3)
    score = rows[:, 2]
    flags = bool(np.isin(score, (0, 1, 2)).all()) and score.max() > 1  # COCO's flags 0, 1, 2 become 0, 0.5, 1
    return rows[:, :2], score / 2 if flags else score


def _counted_from(numbers: Sequence[int], count: int, path: str) -> tuple[int, str, int]:
    """Whether frames count from 0 or from 1, a doubt in words where both are possible, or where pictures in a row are
    as many as a lower frame rate would give, and how many times lower, else 1."""
    low, high = min(numbers), max(numbers)
    shift = int(high == count and low > 0)
    if low < 0 or high - shift >= count:
        raise DatasetError(
            f"{path}: expected frames 0 to {count - 1}, as the video has, found frame {low if low < 0 else high}. "
            "Do these detections belong to this video?"
        )
    pictures, doubt = len(set(numbers)), ""
    rate = round(count / pictures)
    if (
        low <= 1
        and pictures == high - low + 1
        and pictures >= FEWEST
        and rate > 1
        and abs(count / rate - pictures) <= 1
    ):
        doubt = (
            f"{path}: pictures {low} to {high} are one in {rate} of the {count} frames of the video. If they were "
            "taken at a lower rate, they are at the wrong times: give each the number of its frame."
        )
    if shift or low == 0 or doubt:
        return int(shift or low == 1), doubt, rate if doubt else 1
    shift = int(low == 1)  # whoever counts from 0 seldom lacks just the first
    doubt = f"{path}: frames {low} to {high} of {count} may count from 0 or from 1; they are taken from {shift}."
    return shift, doubt, 1
