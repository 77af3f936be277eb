"""People that a detector found in a video, from the files of several programs; who is who, and where to cut.

openpose   a folder of NAME_000000000012_keypoints.json, one a frame (Pose2Sim's and Sports2D's files are such too)
mmpose     one JSON: a list of frames, or {"instance_info": [...]}, each with frame_id and instances
alphapose  one JSON: a list of {image_id, keypoints, score, perhaps idx}
coco       one JSON: a list of {image_id, keypoints}, or {"annotations": [...]} with them
blazepose  one npz: pixels [F, 33, 2], visibility [F, 33], world [F, 33, 3] in metres, times [F] in seconds

Which joints they are is told by their number: 17 COCO, 25 OpenPose BODY_25, 26 Halpe (also the first of 136), 133
COCO-WholeBody, of which body and feet are taken.

People are followed by the overlap of their boxes with where they are expected to be. One who jumps is another one.
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
    people = _by_frame(found, count, path)
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
    known = np.isfinite(pixels).all(-1) & np.isfinite(score) & (score > 0)
    if known.any() and np.median(score[known]) > 1.5:
        raise DatasetError(
            f"{path}: expected scores from 0 to 1, found {np.median(score[known]):.3g} in the middle. Scale them."
        )
    pixels, score = np.where(known[..., None], pixels, 0.0), np.where(known, score, 0.0).clip(0, 1)
    return Detections(layout, np.arange(count) / fps, pixels, score)


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
        for person in files.read_json(bf.join(path, name), "openpose")["people"]:
            if person["pose_keypoints_2d"]:
                yield number, _triples(person["pose_keypoints_2d"])


def _mmpose(path: str) -> Iterator[tuple[int, Person]]:
    content = files.read_json(path, "mmpose", limit=JSON_LIMIT)
    rows = content["instance_info"] if isinstance(content, dict) else content
    first = min((int(row["frame_id"]) for row in rows), default=0)  # it counts from 0 or from 1, and leaves none out
    for row in rows:
        for one in row["instances"]:
            pixels, score = np.asarray(one["keypoints"], np.float64), np.asarray(one["keypoint_scores"], np.float64)
            if pixels.ndim != 2 or pixels.shape[1] != 2 or score.shape != pixels.shape[:1]:
                raise ValueError(f"keypoints {list(pixels.shape)} with scores {list(score.shape)}")
            yield int(row["frame_id"]) - first, (pixels, score)


def _coco(path: str) -> Iterator[tuple[int, Person]]:
    content = files.read_json(path, "coco", limit=JSON_LIMIT)
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


SEEN = 0.3  # score from which on a joint counts for a box
FEWEST_JOINTS = 5  # joints of a person that count, at least
PATIENCE = 0.5  # seconds without detections after which a person is given up
NEAREST = 0.2  # least overlap with the expected box
FASTEST = 5.0  # own sizes per second that a person moves in the image; faster is a jump to another person, or a cut
JUMP = 0.25  # own sizes that a person may always move from frame to frame
SIGNIFICANT = 0.4  # height of another person as a share of the tallest one's from which on he counts
TOGETHER = 0.25  # seconds that two people have to be in view together to be two
LONGEST_GAP = 0.25  # seconds of bad keypoints that are bridged
CUT = 0.5  # share of the pixels that change their colour between two frames at a cut


@dataclass(frozen=True)
class Track:
    """One person: numbers of the frames [N], and his boxes [N, 4] there: left, top, right, bottom in pixels.

    `slots` [N] are his places among the people of those frames.
    """

    frames: NDArray[np.int64]
    slots: NDArray[np.int64]
    boxes: Numbers

    @property
    def height(self) -> float:
        """Usual height in pixels."""
        return float(np.median(self.boxes[:, 3] - self.boxes[:, 1]))


def follow(found: Detections) -> list[Track]:
    """Everybody who is in view for more than a moment, in the order in which they appear."""
    boxes: list[list[Numbers | None]] = []
    for people, scores in zip(found.pixels, found.score, strict=True):
        seen = [pixels[score > SEEN] for pixels, score in zip(people, scores, strict=True)]
        boxes.append([np.concatenate((p.min(0), p.max(0))) if len(p) >= FEWEST_JOINTS else None for p in seen])
    return follow_boxes(boxes, found.times)


def follow_boxes(
    people: Sequence[Sequence[Numbers | None]], times: Numbers, *, nearest: float = NEAREST, patience: float = PATIENCE
) -> list[Track]:
    """The same from the boxes of each frame at `times` [F]; for frames far apart `nearest` is less, `patience` more."""
    closed: list[_Path] = []
    alive: list[_Path] = []
    for frame, (boxes, time) in enumerate(zip(people, times, strict=True)):
        closed += [path for path in alive if time - path.time > patience]
        alive = [path for path in alive if time - path.time <= patience]
        free = {slot: box for slot, box in enumerate(boxes) if box is not None}
        fits = [(path.match(box, time), -i, slot) for i, path in enumerate(alive) for slot, box in free.items()]
        taken = set[int]()
        for fit, i, slot in sorted(fits, reverse=True):  # the best first
            if fit >= nearest and i not in taken and slot in free:
                taken.add(i)
                alive[-i].add(frame, slot, free.pop(slot), time)
        alive += [_Path(frame, slot, box, time) for slot, box in free.items()]
    tracks = [path.track for path in closed + alive]
    return sorted(tracks, key=lambda track: (track.frames[0], track.boxes[0, 0]))


class _Path:
    """A track in the making, with its velocity."""

    def __init__(self, frame: int, slot: int, box: Numbers, time: float) -> None:
        self.rows = [(frame, slot, box)]
        self.time, self.velocity = time, np.zeros(4)

    def add(self, frame: int, slot: int, box: Numbers, time: float) -> None:
        fresh = (box - self.rows[-1][2]) / max(time - self.time, 1e-6)
        self.velocity = 0.5 * self.velocity + 0.5 * fresh
        self.rows.append((frame, slot, box))
        self.time = time

    def match(self, box: Numbers, time: float) -> float:
        """How well a box fits, 0 to 1; 0 where it is another person's."""
        last, passed = self.rows[-1][2], time - self.time
        size = float(max((last[2:] - last[:2]).max(), (box[2:] - box[:2]).max(), 1.0))
        far = float(np.linalg.norm((box - last).reshape(2, 2).mean(0))) / size
        if far > JUMP + FASTEST * passed:
            return 0.0
        return max(overlap(last, box), overlap(last + self.velocity * passed, box))

    @property
    def track(self) -> Track:
        frames, slots, boxes = zip(*self.rows, strict=True)
        return Track(np.array(frames, np.int64), np.array(slots, np.int64), np.array(boxes))


def overlap(one: Numbers, other: Numbers) -> float:
    """Area that two boxes [4] share over the area that they cover."""
    sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    shared = float(np.prod(np.maximum(sides, 0.0)))
    covered = sum(float(np.prod(np.maximum(box[2:] - box[:2], 1.0))) for box in (one, other))
    return shared / max(covered - shared, 1e-9)


def choose(tracks: Sequence[Track], times: Numbers, person: str, place: str) -> list[Track]:
    """The tracks to take, in order, no two of them at one time: the tallest person's, or the one with that number.

    Without `person` only one may be in view at a time. DatasetError lists who is there otherwise.
    """
    known = [track for track in tracks if len(track.frames) > 1]
    if not known:
        raise DatasetError(f"{place}: expected a person in view, found none for more than a frame. Leave it out.")
    tallest = max(track.height for track in known)
    known = [track for track in known if track.height >= SIGNIFICANT * tallest]
    if person not in ("", "largest"):
        if not person.isdigit():
            raise ConfigError(f"--person: expected 'largest' or a number from 0, found {person!r}. Correct it.")
        if int(person) >= len(known):
            raise DatasetError(f"{place}: expected a person number {person}, found {len(known)} people. Count from 0.")
        return [known[int(person)]]
    taken: list[Track] = []
    for track in sorted(known, key=lambda track: -track.height * len(track.frames)):
        ends = [(max(track.frames[0], t.frames[0]), min(track.frames[-1], t.frames[-1])) for t in taken]
        others = any(stop > start and times[stop] - times[start] > TOGETHER for start, stop in ends)
        if others and person == "":
            raise _crowd(known, times, place)
        if not others:
            taken.append(track)
    return sorted(taken, key=lambda track: track.frames[0])


def _crowd(tracks: Sequence[Track], times: Numbers, place: str) -> DatasetError:
    rows = []
    for number, track in enumerate(tracks):
        x, y = (track.boxes[0, :2] + track.boxes[0, 2:]) / 2
        rows.append(
            f"{number}: from {times[track.frames[0]]:.1f} to {times[track.frames[-1]]:.1f} s, first about "
            f"x = {x:.0f}, y = {y:.0f}, {track.height:.0f} px tall"
        )
    return DatasetError(
        f"{place}: expected one person in view, found several ({'; '.join(rows)}). "
        "Say which with --person NUMBER, or --person largest."
    )


def segments(times: Numbers, pixels: Numbers, score: Numbers, changes: Numbers, *, bad: float) -> list[tuple[int, int]]:
    """First frame and the frame behind the last of each stretch of one person without gap, jump or cut.

    times [F]; pixels [F, J, 2] and score [F, J] of joints that matter; changes [F] from the frame before, 0 to 1.
    Frames whose mean score is below `bad` are a gap; short ones are left to be bridged.
    """
    good = np.flatnonzero(score.mean(1) >= bad)
    if len(good) == 0:
        return []
    passed, seen = np.diff(times[good]), np.where(score[good][..., None] > 0, pixels[good], np.nan)
    seen[~(score[good] > 0).any(1)] = 0.0
    sizes = (np.nanmax(seen, axis=1) - np.nanmin(seen, axis=1)).max(1)
    step = np.median(np.linalg.norm(np.diff(pixels[good], axis=0), axis=-1), axis=1)
    jumps = step > (JUMP + FASTEST * passed) * np.maximum(sizes[1:], 1.0)  # farther than a person can
    apart = (passed > LONGEST_GAP) | jumps
    cut = np.cumsum(changes > CUT)
    apart |= np.diff(cut[good]) > 0
    edges = np.flatnonzero(apart)
    starts, stops = good[np.concatenate(([0], edges + 1))], good[np.concatenate((edges, [len(good) - 1]))] + 1
    return [(int(a), int(b)) for a, b in zip(starts, stops, strict=True)]


def histogram(picture: NDArray[np.uint8]) -> Numbers:
    """Share of the pixels in each of 64 colours."""
    step = max(1, int((picture.shape[0] * picture.shape[1] / 20000) ** 0.5))
    coarse = (picture[::step, ::step] >> 6).reshape(-1, 3).astype(np.int64)
    counts = np.bincount(coarse @ np.array((16, 4, 1)), minlength=64)
    return np.asarray(counts / counts.sum(), np.float64)
