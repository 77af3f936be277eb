"""People that a detector found in a video, from the files of several programs.

openpose   a folder of NAME_000000000012_keypoints.json, one a frame (Pose2Sim's and Sports2D's files are such too)
mmpose     one JSON: a list of frames, or {"instance_info": [...]}, each with frame_id and instances
alphapose  one JSON: a list of {image_id, keypoints, score, perhaps idx}
coco       one JSON: a list of {image_id, keypoints}, or {"annotations": [...]} with them
blazepose  one npz: pixels [F, 33, 2], visibility [F, 33], world [F, 33, 3] in metres, times [F] in seconds

Which joints they are is told by their number: 17 COCO, 25 OpenPose BODY_25, 26 Halpe (also the first of 136), 133
COCO-WholeBody, of which body and feet are taken.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import blobfile as bf
import numpy as np
from numpy.typing import NDArray

from videomdm_ext.data import files
from videomdm_ext.errors import ConfigError, DatasetError
from videomdm_ext.motion.joint_maps import BLAZEPOSE33, BY_COUNT, Layout

Numbers = NDArray[np.float64]
FORMATS = ("openpose", "mmpose", "alphapose", "coco", "blazepose")
MOST_PEOPLE = 64  # people in one frame; the surest ones are kept
JSON_LIMIT = 1 << 28  # bytes of a detector's JSON


@dataclass(frozen=True)
class Detections:
    """F frames, P people at most in one of them, K joints of the layout.

    times [F] in seconds; pixels [F, P, K, 2]; score [F, P, K] from 0 to 1, 0 where nothing was found; world
    [F, P, K, 3] in metres, centred on the hips and along the camera's axes, or None where the detector sees no depth.
    """

    layout: Layout
    times: Numbers
    pixels: Numbers
    score: Numbers
    world: Numbers | None = None


Person = tuple[Numbers, Numbers]  # pixels [K, 2] and score [K] of one person in one frame


def find_file(folder: str, video: str, kind: str) -> str:
    """Where the detections of a video lie: FOLDER/VIDEO.json (.npz), or the folder FOLDER/VIDEO."""
    ending = ".npz" if kind == "blazepose" else ".json"
    if kind == "openpose":
        candidates = [bf.join(folder, name) for name in (video, f"{video}_json", "")]
        found = [place for place in candidates if files.list_files(place, "_keypoints.json")]
    else:
        inside = [bf.join(folder, video, "alphapose-results.json"), bf.join(folder, f"results_{video}.json")]
        found = [place for place in (bf.join(folder, video + ending), *inside) if bf.exists(place)]
    if not found:
        expected = f"the folder {video} with files *_keypoints.json" if kind == "openpose" else video + ending
        raise DatasetError(
            f"{folder}: expected {expected}, detections of the video {video}, found none. Name them after the video."
        )
    return found[0]


def read_detections(path: str, kind: str, *, count: int, fps: float) -> Detections:
    """The detections of a video of `count` frames at `fps`; frames that the files do not name are empty."""
    if kind not in FORMATS:
        raise ConfigError(f"--format: expected one of {', '.join(FORMATS)}, found {kind!r}. Correct it.")
    if kind == "blazepose":
        return _blazepose(path)
    try:
        found = list({"openpose": _openpose, "mmpose": _mmpose}.get(kind, _coco)(path))
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise DatasetError(
            f"{path}: expected detections as {kind} writes them, found something else ({error!r}). "
            f"Is --format right? It takes {', '.join(FORMATS)}."
        ) from error
    return _stacked(_by_frame(found, count, path), count, fps, path)


def _blazepose(path: str) -> Detections:
    arrays = files.read_arrays(path, needed=("pixels", "visibility", "world", "times"), optional=())
    pixels, score, world, times = (arrays[key].astype(np.float64) for key in ("pixels", "visibility", "world", "times"))
    shapes = (len(times), 33, 2), (len(times), 33), (len(times), 33, 3)
    found = pixels.shape, score.shape, world.shape
    if found != shapes or len(times) == 0 or times.ndim != 1 or not (np.diff(times) > 0).all():
        raise DatasetError(
            f"{path}: expected pixels [F, 33, 2], visibility [F, 33], world [F, 33, 3] and rising times [F], found "
            f"{', '.join(str(list(shape)) for shape in found)} and {list(times.shape)}. Write it so."
        )
    score = np.where(np.isfinite(pixels).all(-1) & np.isfinite(world).all(-1), score, 0.0)
    kept = [np.nan_to_num(values)[:, None] for values in (pixels, np.clip(score, 0, 1), world)]
    return Detections(BLAZEPOSE33, times, kept[0], kept[1], kept[2])


def _openpose(path: str) -> Iterator[tuple[int, Person]]:
    names = files.list_files(path, "_keypoints.json")
    for name in names:
        number = int(re.findall(r"\d+", name.removesuffix("_keypoints.json"))[-1])
        for person in files.read_json(bf.join(path, name))["people"]:
            if person["pose_keypoints_2d"]:
                yield number, _triples(person["pose_keypoints_2d"])


def _mmpose(path: str) -> Iterator[tuple[int, Person]]:
    content = files.read_json(path, limit=JSON_LIMIT)
    rows = content["instance_info"] if isinstance(content, dict) else content
    first = min((int(row["frame_id"]) for row in rows), default=0)  # it counts from 0 or from 1, and leaves none out
    for row in rows:
        for one in row["instances"]:
            pixels, score = np.asarray(one["keypoints"], np.float64), np.asarray(one["keypoint_scores"], np.float64)
            if pixels.ndim != 2 or pixels.shape[1] != 2 or score.shape != pixels.shape[:1]:
                raise ValueError(f"keypoints {list(pixels.shape)} with scores {list(score.shape)}")
            yield int(row["frame_id"]) - first, (pixels, score)


def _coco(path: str) -> Iterator[tuple[int, Person]]:
    content = files.read_json(path, limit=JSON_LIMIT)
    names: Mapping[Any, Any] = {}
    if isinstance(content, dict):
        names = {image["id"]: image.get("file_name", image["id"]) for image in content.get("images", ())}
        content = content["annotations"]
    for one in content:
        image = names.get(one["image_id"], one["image_id"])
        number = image if isinstance(image, int) else int(re.findall(r"\d+", str(image))[-1])
        if len(one["keypoints"]):
            yield number, _triples(one["keypoints"])


def _triples(values: Sequence[float]) -> Person:
    """x, y and score, joint after joint; COCO's flags of visibility 0, 1, 2 become 0, 0.5 and 1."""
    rows = np.asarray(values, np.float64).reshape(-1, 3)
    score = rows[:, 2]
    flags = bool(np.isin(score, (0, 1, 2)).all()) and score.max() > 1
    return rows[:, :2], score / 2 if flags else score


def _by_frame(found: Sequence[tuple[int, Person]], count: int, path: str) -> dict[int, list[Person]]:
    """People by frame, the surest first. Frames are counted from 0, or from 1 where the last one shows it."""
    if not found:
        raise DatasetError(f"{path}: expected people, found none in any frame. Leave the video out.")
    numbers = [number for number, _ in found]
    shift = 1 if max(numbers) == count and min(numbers) > 0 else 0
    if min(numbers) < 0 or max(numbers) - shift >= count:
        raise DatasetError(
            f"{path}: expected frames 0 to {count - 1}, as the video has, found frame {max(numbers)}. "
            "Do these detections belong to this video?"
        )
    people: dict[int, list[Person]] = {}
    for number, person in found:
        people.setdefault(number - shift, []).append(person)
    for members in people.values():
        members.sort(key=lambda person: -float(np.nansum(person[1])))
        del members[MOST_PEOPLE:]
    return people


def _stacked(people: Mapping[int, Sequence[Person]], count: int, fps: float, path: str) -> Detections:
    sizes = {len(score) for members in people.values() for _, score in members}
    if len(sizes) != 1 or not sizes <= BY_COUNT.keys():
        raise DatasetError(
            f"{path}: expected people of {', '.join(map(str, BY_COUNT))} joints, all alike, found "
            f"{', '.join(map(str, sorted(sizes)))}. Use a detector of one of these skeletons."
        )
    layout = BY_COUNT[sizes.pop()]
    most, joints = max(map(len, people.values())), len(layout.joints)
    pixels, score = np.zeros((count, most, joints, 2)), np.zeros((count, most, joints))
    for frame, members in people.items():
        for slot, (points, sure) in enumerate(members):
            pixels[frame, slot], score[frame, slot] = points[:joints], sure[:joints]
    found = np.isfinite(pixels).all(-1) & np.isfinite(score) & (score > 0)
    if found.any() and np.median(score[found]) > 1.5:
        raise DatasetError(
            f"{path}: expected scores from 0 to 1, found {np.median(score[found]):.3g} in the middle. Scale them."
        )
    return Detections(
        layout, np.arange(count) / fps, np.where(found[..., None], pixels, 0.0), np.where(found, score, 0.0).clip(0, 1)
    )
