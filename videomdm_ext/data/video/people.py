"""Who is who among the people that a detector found in a video, whom to take, and where to cut.

People are followed by the overlap of their boxes with where they are expected to be. One who jumps is another one.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from videomdm_ext.data.video.detections import Detections
from videomdm_ext.errors import ConfigError, DatasetError

Numbers = NDArray[np.float64]

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
        together = max(Counter(int(track.frames[0]) for track in tracks).values(), default=0)
        found = "none" if together < 2 else f"up to {together} people at a time, of whom none can be followed"
        raise DatasetError(f"{place}: expected a person in view, found {found} for more than a frame. Leave it out.")
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
