"""What was seen in one video: people's joints in the image and in space, frame by frame, kept in a file.

Detection is the slow part, so its result is kept under the hash of the video and of all that it depends on.

MediaPipe's BlazePose (extra `video`) finds 33 joints of one person in the image and in metres. Those in space are
centred on the hips and lie along the axes of a camera that looks straight at the person: x right, y down, z away. The
model comes with the package, nothing is fetched. It finds one person at a time; others are found by painting over those
already found, so that several people in view do not go unnoticed. With the choice `all` everybody is watched in the box
where he is expected, and then followed by what was found there in every frame (people.py).
"""

import dataclasses
import hashlib
import itertools
import json
import os
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import blobfile as bf
import numpy as np
from numpy.typing import NDArray

from videomdm_ext.data import files
from videomdm_ext.data.video import comparing
from videomdm_ext.data.video import frames as video_frames
from videomdm_ext.data.video.detections import Detections, find_file, find_files, read_detections
from videomdm_ext.data.video.frames import Picture, Video, require, shots
from videomdm_ext.data.video.people import (
    FEWEST_JOINTS,
    SEEN,
    Track,
    choose,
    count_others,
    everybody,
    follow,
    follow_boxes,
    overlap,
    significant,
)
from videomdm_ext.errors import DatasetError, VideoMDMError
from videomdm_ext.motion.joint_maps import BLAZEPOSE33, DETECTORS, Layout, Numbers

Progress = Callable[[int, int], None]
Shown = tuple[float, Picture, bool]  # time, picture, and whether a shot begins

VERSION = 4  # of the way in which videos are watched; a new one does not trust what an old one kept
SURVEY = 0.25  # seconds between the frames that are searched for several people, at least
SURVEYED = 240  # frames that are searched so, at most
LOST = 0.3  # seconds after which a person's box is taken from the survey again
PRESENT = 0.5  # mean visibility of shoulders, hips and knees of a person who counts
MARGIN = 0.15  # share of a person's box that is painted over beyond it
CROP = 0.35  # share of a person's box that is looked at beyond it
HALF = 0.6  # share of the picture's longer side that its halves have
ANOTHER = 0.25  # share of a person's size that MediaPipe's joints are off another tool's in the mean, if he is another
MISSING = 0.5  # seconds that a video may declare beyond its last picture
SMALLEST = 64  # pixels of a crop's side, at least
_CORE = [BLAZEPOSE33.index(f"{side}_{part}") for side in ("l", "r") for part in ("shoulder", "hip", "knee")]


@dataclass(frozen=True)
class Found:
    """One person in one picture: pixels [33, 2], visibility [33] from 0 to 1, world [33, 3] in metres."""

    pixels: Numbers
    visibility: Numbers
    world: Numbers

    @property
    def presence(self) -> float:
        """How surely this is a person, 0 to 1."""
        return float(self.visibility[_CORE].mean())

    @property
    def box(self) -> Numbers:
        """Left, top, right and bottom [4] of the joints, pixels."""
        return np.concatenate((self.pixels.min(0), self.pixels.max(0)))


Row = tuple[float, bool, list[tuple[Found | None, int]]]  # time, cut, and who was found of each person in which track
Engine = Callable[[Picture], Found | None]  # finds one person in a picture, or none


@dataclass(frozen=True)
class Choice:
    """Whom to watch: `person` is empty, `largest`, a number or `all`; detections of another program lie in a folder.

    `as_given`: these are taken as they are, wherever MediaPipe sees the joints.
    """

    person: str = ""
    detections: str = ""
    format: str = ""
    as_given: bool = False


@dataclass(frozen=True)
class Sighting:
    """One person in F frames; a frame without him has score 0.

    times [F] seconds; pixels [F, K, 2] and score [F, K] of the joints of a detector's layout, in a picture of `size`;
    world [F, 33, 3] BlazePose's joints in metres, centred on the hips; presence [F] how surely they are right; cuts
    [F] 1 where a shot begins, else 0; part [F] number of the track, -1 for none; `notes` what a user should know.
    `person` is his number among several who were watched, else -1; `others` how many people were seen beside them.
    """

    layout: Layout
    size: tuple[int, int]
    times: Numbers
    pixels: Numbers
    score: Numbers
    world: Numbers
    presence: Numbers
    cuts: Numbers
    part: Numbers
    notes: tuple[str, ...] = ()
    person: int = -1
    others: int = 0

    @property
    def who(self) -> str:
        """p0, p1, ... where several were watched, else empty."""
        return f"p{self.person}" if self.person >= 0 else ""


def watch(video: Video, choice: Choice, cache: str = "", progress: Progress | None = None) -> list[Sighting]:
    """Watch a video, or take what was kept in the folder `cache` of an earlier time: of each person who was chosen.

    DatasetError without a person.
    """
    place = bf.join(cache, f"{fingerprint(video.path, choice)}.npz") if cache else ""
    if place and bf.exists(place):
        return _read(place)
    people = _with_detections(video, choice, progress) if choice.detections else _alone(video, choice, progress)
    people = [seen for seen in people if (seen.score > 0).any()]
    if not people:
        raise DatasetError(f"{video.path}: expected a person in view, found none. Leave it out.")
    if place:
        arrays = {name: np.stack([np.asarray(getattr(seen, name)) for seen in people]) for name in ARRAYS}
        arrays["layout"] = np.array([DETECTORS.index(people[0].layout)])  # its place among the known ones
        arrays["notes"] = np.frombuffer(json.dumps([seen.notes for seen in people]).encode(), np.uint8)
        content = files.arrays_bytes({name: np.asarray(values, np.float32) for name, values in arrays.items()})
        files.write_bytes(place, content)
        return _read(place)  # in the precision in which it is kept, as an interrupted import finds it
    return people


def fingerprint(path: str, choice: Choice) -> str:
    """A name for what is seen in a video: a hash of its content, of the choice and of the other program's files."""
    digest = hashlib.sha256(json.dumps([VERSION, choice.person, choice.format, choice.as_given]).encode())
    given = find_files(choice.detections, stem(path), choice.format) if choice.detections else []
    for place in (path, *given):
        with open(place, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:20]


def stem(path: str) -> str:
    """A file's name without folder and ending."""
    return os.path.splitext(os.path.basename(path))[0]


def _alone(video: Video, choice: Choice, progress: Progress | None) -> list[Sighting]:
    """MediaPipe by itself: look who is there, then watch whom the choice names."""
    step = max(SURVEY, video.seconds / SURVEYED)
    times, seen = _searched(video, step)
    boxes = [[one.box for one in found] for found in seen]
    tracks = follow_boxes(boxes, times, nearest=0.05, patience=2.5 * step)
    pictures = _pictures(video, progress)
    people = _people(tracks, times, choice.person, video.path)
    if len(people) > 1:
        known = [[(times[track.frames], track)] for track in significant(tracks, video.path)]
        rough = _gather(video, _in_boxes(pictures, known))
        pixels, score, world = (np.stack([getattr(s, name) for s in rough], 1) for name in ("pixels", "score", "world"))
        given = Detections(BLAZEPOSE33, rough[0].times, pixels, score, world)
        found = follow(given)
        return _taken(given, found, _people(found, given.times, "all", video.path), rough)
    is_alone = len(tracks) == len(people[0])  # nobody else, however small and for however short a time
    if choice.person not in ("", "all") or not is_alone:
        rows = _in_boxes(pictures, [[(times[track.frames], track) for track in people[0]]])
    else:
        rows = _followed(pictures)
    others = count_others(tracks, people[0], times)
    return [dataclasses.replace(one, others=others) for one in _gather(video, rows)]


def _people(tracks: list[Track], times: Numbers, person: str, place: str) -> list[list[Track]]:
    """The tracks of each person who is to be watched."""
    return everybody(tracks, times, place) if person == "all" else [choose(tracks, times, person, place)]


def _taken(given: Detections, found: list[Track], chosen: list[list[Track]], lifted: list[Sighting]) -> list[Sighting]:
    """The image of each person from his tracks; space from there too, or from what was `lifted` in their boxes."""
    base, people = lifted[0], list[Sighting]()
    others = count_others(found, itertools.chain(*chosen), given.times)
    nearest = np.abs(base.times[None] - given.times[:, None]).argmin(1)
    ends = np.searchsorted(base.times, given.times + 1e-6)
    between = zip(np.concatenate(([0], ends[:-1])), ends, strict=True)  # each time and the one before
    cuts = np.array([base.cuts[a:b].max(initial=0.0) for a, b in between])
    count, joints = len(given.times), len(given.layout.joints)
    for number, (tracks, own) in enumerate(zip(chosen, itertools.cycle(lifted))):
        pixels, score, part = np.zeros((count, joints, 2)), np.zeros((count, joints)), np.full(count, -1.0)
        world, presence = own.world[nearest], own.presence[nearest]
        for place, track in enumerate(tracks):
            at, who = track.frames, (track.frames, track.slots)
            pixels[at], score[at], part[at] = given.pixels[who], given.score[who], place
            if given.world is not None:
                world[at], presence[at] = given.world[who], given.score[who].mean(-1)
        if given.world is None and len(chosen) > 1:
            presence[_is_another(pixels, score, given.layout, own, nearest)] = 0.0
        seen = dataclasses.replace(
            base, layout=given.layout, times=given.times, pixels=pixels, score=score, part=part, world=world,
            presence=presence, cuts=cuts, person=number if len(chosen) > 1 else -1, others=others,
        )  # fmt: skip
        people.append(seen)
    return people


def _is_another(
    pixels: Numbers, score: Numbers, layout: Layout, own: Sighting, nearest: NDArray[Any]
) -> NDArray[np.bool_]:
    """Frames [F] in which MediaPipe saw somebody else in a person's box than another tool did."""
    shown, sure = comparing.direct(pixels, score, layout)
    found, visible = comparing.direct(own.pixels[nearest], own.score[nearest], own.layout)
    both = (sure > SEEN) & (visible > SEEN)
    low, high = (np.where(both[..., None], shown, edge) for edge in (np.inf, -np.inf))
    size = (high.max(1) - low.min(1)).max(-1).clip(1.0)
    apart = (np.linalg.norm(shown - found, axis=-1) * both).sum(1) / both.sum(1).clip(1)
    return np.asarray((both.sum(1) >= FEWEST_JOINTS) & (apart > ANOTHER * size))


def _followed(pictures: Iterable[Shown]) -> Iterator[Row]:
    """Watch the one person in view. Behind a cut he is searched anew: whoever was followed there is seen on for a
    while, though he is gone."""
    find = engine(following=True)
    for time, picture, cut in pictures:
        if cut:
            find = engine(following=True)
        yield time, cut, [(find(picture), 0)]


def _searched(video: Video, step: float) -> tuple[Numbers, list[list[Found]]]:
    """Times [N] of frames at least `step` seconds apart, and everybody in each."""
    find = engine(following=False)
    times: list[float] = []
    people: list[list[Found]] = []
    for time, picture in video_frames.frames(video):
        if not times or time >= times[-1] + step - 1e-6:
            times.append(time)
            people.append(find_people(picture, find))
    if not times:
        raise DatasetError(f"{video.path}: expected frames, found none. Leave it out.")
    return np.array(times), people


def _pictures(video: Video, progress: Progress | None) -> Iterator[Shown]:
    for number, shown in enumerate(shots(video_frames.frames(video))):
        yield shown
        if progress:
            progress(number + 1, max(video.count, number + 1))


def _in_boxes(pictures: Iterable[Shown], people: Sequence[list[tuple[Numbers, Track]]]) -> Iterator[Row]:
    """Watch each person's tracks, with their times, in their boxes, or between where he was found last."""
    find = engine(following=False)
    last: list[tuple[float, Found] | None] = [None] * len(people)
    for time, picture, cut in pictures:
        row: list[tuple[Found | None, int]] = []
        for who, tracks in enumerate(people):
            part, box, found, before = -1, None, None, last[who]
            for number, (times, track) in enumerate(tracks):  # which one is in view, and its box there
                margin = SURVEY if len(times) > 1 else 0.0
                if times[0] - margin <= time <= times[-1] + margin:
                    part, box = number, np.array([np.interp(time, times, side) for side in track.boxes.T])
                    break
            if box is not None:
                near = before is not None and time - before[0] <= LOST and overlap(before[1].box, box) > 0.1
                found = find_in_box(picture, before[1].box if near and before is not None else box, find)
            if found is not None:
                last[who] = time, found
            row.append((found, part))
        yield time, cut, row


def _with_detections(video: Video, choice: Choice, progress: Progress | None) -> list[Sighting]:
    """The image from another program's files; space from the same file, or from MediaPipe in that person's box."""
    place = find_file(choice.detections, stem(video.path), choice.format)
    own = video_frames.frame_times(video)
    given = read_detections(place, choice.format, count=len(own), fps=video.fps, times=own, video=stem(video.path))
    samples = [] if choice.as_given or given.world is not None else _samples(video, given.times)
    given, notes = comparing.as_pictured(given, samples, video, place, as_given=choice.as_given)
    found = follow(given)
    people = _people(found, given.times, choice.person, place)
    rows: Iterable[Row] = ((time, cut, [(None, -1)]) for time, _, cut in _pictures(video, progress))
    if given.world is None:
        boxes = [[(given.times[track.frames], track) for track in tracks] for tracks in people]
        rows = _in_boxes(_pictures(video, progress), boxes)
    taken = _taken(given, found, people, _gather(video, rows))
    return [dataclasses.replace(seen, notes=(*notes, *seen.notes)) for seen in taken]


def _samples(video: Video, times: Numbers) -> list[comparing.Sample]:
    """Whom MediaPipe sees in some pictures, by the number of the frame among those shown at `times` [F]."""
    at, people = _searched(video, video.seconds / comparing.SAMPLES)
    frames = (np.searchsorted(times, at + 0.5 / video.fps, side="right") - 1).clip(0)
    samples: list[comparing.Sample] = []
    for frame, found in zip(frames.tolist(), people, strict=True):
        if found:
            seen = [comparing.direct(one.pixels, one.visibility, BLAZEPOSE33) for one in found]
            samples.append((frame, np.stack([pixels for pixels, _ in seen]), np.stack([score for _, score in seen])))
    return samples


def _gather(video: Video, rows: Iterable[Row]) -> list[Sighting]:
    """What was seen of each person."""
    rows = list(rows)
    if not rows:
        raise DatasetError(f"{video.path}: expected frames, found none. Leave it out.")
    times, cuts = np.array([row[0] for row in rows]), np.array([row[1] for row in rows], dtype=np.float64)
    notes: tuple[str, ...] = ()
    if video.seconds - times[-1] - 1 / video.fps > MISSING:
        end = f"its pictures end at {times[-1]:.1f} of {video.seconds:.1f} s"
        notes = (f"{end}: it was not downloaded whole, or its sound is longer than they are.",)
    nobody = Found(np.zeros((33, 2)), np.zeros(33), np.zeros((33, 3)))
    people = []
    for seen in zip(*(row[2] for row in rows), strict=True):
        found = [person or nobody for person, _ in seen]
        people.append(Sighting(
            BLAZEPOSE33, video.size, times, np.stack([p.pixels for p in found]),
            np.stack([p.visibility for p in found]), np.stack([p.world for p in found]),
            np.array([p.presence for p in found]), cuts, np.array([part for _, part in seen], dtype=np.float64), notes,
        ))  # fmt: skip
    return people


ARRAYS = tuple(field.name for field in dataclasses.fields(Sighting) if field.name not in ("layout", "notes"))


def _read(place: str) -> list[Sighting]:
    found = files.read_arrays(place, needed=("layout", "notes", *ARRAYS))
    notes = json.loads(found["notes"].astype(np.uint8).tobytes())
    people = []
    for number, words in enumerate(notes):
        arrays: dict[str, Any] = {name: found[name][number].astype(np.float64) for name in ARRAYS}
        arrays |= {name: int(arrays[name]) for name in ("person", "others")}
        width, height = arrays.pop("size")
        layout, size = DETECTORS[int(found["layout"][0])], (round(width), round(height))
        people.append(Sighting(layout=layout, size=size, notes=tuple(words), **arrays))
    return people


def engine(*, following: bool) -> Engine:
    """MediaPipe. `following`: pictures are the frames of one video, and a person is looked for where he was before."""
    os.environ.setdefault("GLOG_minloglevel", "2")
    try:
        solution = require("mediapipe").solutions.pose
    except (VideoMDMError, AttributeError) as error:
        raise VideoMDMError(
            f"{error}. MediaPipe 0.10.14 is the last that brings a model along, and ends at Python 3.12; without it "
            "give --detections DIR --format blazepose (docs/data.md, Videos)."
        ) from error
    pose = solution.Pose(static_image_mode=not following, model_complexity=1, smooth_landmarks=False)

    def find(picture: Picture) -> Found | None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*GetPrototype", category=UserWarning)
            result = pose.process(np.ascontiguousarray(picture))
        if result.pose_landmarks is None:
            return None
        height, width = picture.shape[:2]
        image = np.array([(j.x * width, j.y * height, j.visibility) for j in result.pose_landmarks.landmark])
        world = np.array([(j.x, j.y, j.z) for j in result.pose_world_landmarks.landmark])
        return Found(image[:, :2], image[:, 2].clip(0.0, 1.0), world)

    weakref.finalize(find, pose.close)  # else it keeps its 100 MB until the process ends
    return find


def find_people(picture: Picture, find: Engine, most: int = 6) -> list[Found]:
    """People in one picture, the most striking first. `find` must not follow.

    The whole picture is searched until nobody is left, then its halves, in which the small ones are larger.
    """
    people: list[Found] = []
    rest = picture.copy()
    height, width = picture.shape[:2]
    reach = round(HALF * max(width, height))
    wide = [(0, 0, reach, height), (width - reach, 0, width, height)]
    tall = [(0, 0, width, reach), (0, height - reach, width, height)]
    views = [(0, 0, width, height), *(wide if width >= height else tall)]
    for left, top, right, bottom in views:
        while len(people) < most:
            found = find(rest[top:bottom, left:right])
            if found is None or found.presence < PRESENT:
                break
            found = dataclasses.replace(found, pixels=found.pixels + np.array((left, top)))
            if any(overlap(found.box, other.box) > 0.3 for other in people):
                break
            people.append(found)
            a, b, c, d = grown(found.box, MARGIN, rest.shape[1], rest.shape[0])
            rest[b:d, a:c] = 128
    return people


def find_in_box(picture: Picture, box: Numbers, find: Engine) -> Found | None:
    """The person in a box [4] of a picture; none where another one than the box's is found. `find` must not follow."""
    left, top, right, bottom = grown(box, CROP, picture.shape[1], picture.shape[0])
    found = find(picture[top:bottom, left:right])
    if found is None:
        return None
    moved = dataclasses.replace(found, pixels=found.pixels + np.array((left, top)))
    return moved if overlap(moved.box, box) > 0.3 else None


def grown(box: Numbers, share: float, width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a box with a margin, inside the picture and at least a few pixels wide."""
    middle, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
    reach = np.maximum(half + share * half.max() * 2, SMALLEST / 2)
    low, high = np.floor(middle - reach), np.ceil(middle + reach)
    left, top = int(np.clip(low[0], 0, width - 1)), int(np.clip(low[1], 0, height - 1))
    return left, top, int(np.clip(high[0], left + 1, width)), int(np.clip(high[1], top + 1, height))
