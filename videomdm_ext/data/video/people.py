"""Who is who among the people that a detector found in a video, whom to take, and where to cut.

People are followed by the overlap of their boxes with where they are expected to be, and among several whom a box may
be by how far the joints are from there. One who jumps is another one, and so are those of whom that does not tell
clearly who is who, as where they hide each other: both tracks end there, and new ones begin.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from videomdm_ext.data.video.detections import Detections
from videomdm_ext.errors import DatasetError

Numbers = NDArray[np.float64]

SEEN = 0.3  # score from which on a joint counts for a box
FEWEST_JOINTS = 5  # joints of a person that count, at least
PATIENCE = 0.5  # seconds without detections after which a person is given up
NEAREST = 0.2  # least overlap with the expected box
FASTEST = 5.0  # own sizes per second that a person moves in the image; faster is a jump to another person, or a cut
JUMP = 0.25  # own sizes that a person may always move from frame to frame
SIGNIFICANT = 0.4  # height of another person as a share of the tallest one's from which on he counts
SHORTEST = 0.8  # seconds that a person among several has to be followed to be watched
TWICE = 0.05  # own sizes that the joints of one person are apart whom a detector found twice
CLEAR = 0.06  # own sizes that the joints have to be farther from another person's than from their own
LOSING = 1.0  # own sizes per second by which that grows while both are out of sight
TOGETHER = 0.25  # seconds that two people have to be in view together to be two
LONGEST_GAP = 0.25  # seconds of bad keypoints that are bridged


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

    def seconds(self, times: Numbers) -> float:
        """How long he is in view."""
        return float(times[self.frames[-1]] - times[self.frames[0]])


@dataclass(frozen=True)
class _Body:
    """One person in one frame: his box [4], and the joints [K, 2] behind its corners; NaN for those that are unseen."""

    box: Numbers
    points: Numbers

    @classmethod
    def of(cls, pixels: Numbers, score: Numbers) -> "_Body | None":
        seen = score > SEEN
        if seen.sum() < FEWEST_JOINTS:
            return None
        box = np.concatenate((pixels[seen].min(0), pixels[seen].max(0)))
        return cls(box, np.concatenate((box.reshape(2, 2), np.where(seen[:, None], pixels, np.nan))))

    def apart(self, other: "_Body", moved: Numbers | float = 0.0) -> float:
        """Mean distance of the joints from another's that have `moved` [2], in shares of the larger one's size."""
        size = max(float((box[2:] - box[:2]).max()) for box in (self.box, other.box))
        gap = np.linalg.norm(self.points - other.points - moved, axis=-1)
        return float(gap[np.isfinite(gap)].mean()) / max(size, 1.0)


def follow(found: Detections) -> list[Track]:
    """Everybody who is in view for more than a moment, in the order in which they appear."""
    people: list[list[_Body | None]] = []
    for pixels, scores in zip(found.pixels, found.score, strict=True):
        row = [_Body.of(*one) for one in zip(pixels, scores, strict=True)]
        for slot in np.argsort(-scores.mean(-1), kind="stable")[::-1]:  # the less sure one of two of one person goes
            rivals = [one for at, one in enumerate(row) if one is not None and at != slot]
            if (body := row[slot]) is not None and any(
                overlap(body.box, one.box) > 0.5 and body.apart(one) < TWICE for one in rivals
            ):
                row[slot] = None
        people.append(row)
    return _follow(people, found.times, NEAREST, PATIENCE, CLEAR)


def follow_boxes(
    people: Sequence[Sequence[Numbers]], times: Numbers, *, nearest: float, patience: float
) -> list[Track]:
    """The same from the boxes of frames that are far apart, at `times` [F]: by them alone."""
    bodies = [[_Body(box, box.reshape(2, 2)) for box in boxes] for boxes in people]
    return _follow(bodies, times, nearest, patience, -np.inf)


def _follow(
    people: Sequence[Sequence[_Body | None]], times: Numbers, nearest: float, patience: float, clear: float
) -> list[Track]:
    closed: list[_Path] = []
    alive: list[_Path] = []
    before = -np.inf
    for frame, (bodies, time) in enumerate(zip(people, times, strict=True)):
        closed += [path for path in alive if time - path.time > patience]
        alive = [path for path in alive if time - path.time <= patience]
        free = {slot: body for slot, body in enumerate(bodies) if body is not None}
        fits = {(i, slot): path.match(body.box, time) for i, path in enumerate(alive) for slot, body in free.items()}
        fits = {pair: fit for pair, fit in fits.items() if fit >= nearest}
        apart = {(i, slot): alive[i].apart(free[slot], time) for i, slot in fits}
        order = sorted(fits, key=lambda pair: (-fits[pair], pair) if clear < 0 else (apart[pair], pair))
        chosen: dict[int, int] = {}
        for i, slot in order:  # the best first
            if i not in chosen and slot not in chosen.values():
                chosen[i] = slot
        doubted = set[int]()
        for i, slot in chosen.items():
            for j, other in enumerate(alive):
                if j == i or (j, slot) not in fits or not (j not in chosen or (i, chosen[j]) in fits):
                    continue
                farther = apart[j, slot] - apart[i, slot]
                farther += apart[i, chosen[j]] - apart[j, chosen[j]] if j in chosen else 0.0
                if farther < clear + LOSING * max(0.0, before - max(alive[i].time, other.time)):
                    doubted |= {i, j}
        for i, slot in chosen.items():
            if i not in doubted:
                alive[i].add(frame, slot, free.pop(slot), time)
        closed += [alive[i] for i in doubted]
        alive = [path for i, path in enumerate(alive) if i not in doubted]
        alive += [_Path(frame, slot, body, time) for slot, body in free.items()]
        before = time
    tracks = [path.track for path in closed + alive]
    return sorted(tracks, key=lambda track: (track.frames[0], track.boxes[0, 0]))


class _Path:
    """A track in the making, with its velocity."""

    def __init__(self, frame: int, slot: int, body: _Body, time: float) -> None:
        self.rows = [(frame, slot, body.box)]
        self.body, self.time, self.velocity = body, time, np.zeros(4)

    def add(self, frame: int, slot: int, body: _Body, time: float) -> None:
        fresh = (body.box - self.body.box) / max(time - self.time, 1e-6)
        self.velocity = 0.5 * self.velocity + 0.5 * fresh
        self.rows.append((frame, slot, body.box))
        self.body, self.time = body, time

    def match(self, box: Numbers, time: float) -> float:
        """How well a box fits, 0 to 1; 0 where it is another person's."""
        last, passed = self.body.box, time - self.time
        size = float(max((last[2:] - last[:2]).max(), (box[2:] - box[:2]).max(), 1.0))
        far = float(np.linalg.norm((box - last).reshape(2, 2).mean(0))) / size
        if far > JUMP + FASTEST * passed:
            return 0.0
        return float(overlap(np.stack((last, last + self.velocity * passed)), box).max())

    def apart(self, body: _Body, time: float) -> float:
        """How far joints are from where this person's are expected, in shares of his size."""
        return body.apart(self.body, self.velocity.reshape(2, 2).mean(0) * (time - self.time))

    @property
    def track(self) -> Track:
        frames, slots, boxes = zip(*self.rows, strict=True)
        return Track(np.array(frames, np.int64), np.array(slots, np.int64), np.array(boxes))


def overlap(one: Numbers, other: Numbers) -> Numbers:
    """Area that boxes [..., 4] share over the area that they cover, [...]."""
    sides = np.minimum(one[..., 2:], other[..., 2:]) - np.maximum(one[..., :2], other[..., :2])
    shared = np.maximum(sides, 0.0).prod(-1)
    covered = sum(np.maximum(box[..., 2:] - box[..., :2], 1.0).prod(-1) for box in (one, other))
    return np.asarray(shared / np.maximum(covered - shared, 1e-9))


def significant(tracks: Sequence[Track], place: str) -> list[Track]:
    """Who is in view for more than a frame and not far smaller than the tallest. DatasetError where nobody is."""
    known = [track for track in tracks if len(track.frames) > 1]
    if not known:
        together = max(Counter(int(track.frames[0]) for track in tracks).values(), default=0)
        found = "none" if together < 2 else f"up to {together} people at a time, of whom none can be followed"
        raise DatasetError(f"{place}: expected a person in view, found {found} for more than a frame. Leave it out.")
    tallest = max(track.height for track in known)
    return [track for track in known if track.height >= SIGNIFICANT * tallest]


def choose(tracks: Sequence[Track], times: Numbers, person: str, place: str) -> list[Track]:
    """The tracks to take, in order, no two of them at one time: the tallest person's, or the one with that number.

    Without `person` only one may be in view at a time. DatasetError lists who is there otherwise.
    """
    known = significant(tracks, place)
    if person not in ("", "largest"):
        if int(person) >= len(known):
            raise DatasetError(f"{place}: expected a person number {person}, found {len(known)} people. Count from 0.")
        return [known[int(person)]]
    taken, others = _one_at_a_time(known, times)
    if others and person == "":
        raise _crowd(known, times, place)
    return taken


def everybody(tracks: Sequence[Track], times: Numbers, place: str) -> list[list[Track]]:
    """The tracks of each person: of one where never two are in view at a time, else each track that lasts is one."""
    known = significant(tracks, place)
    taken, others = _one_at_a_time(known, times)
    lasting = [[track] for track in known if track.seconds(times) >= SHORTEST]
    return lasting if others and lasting else [taken]


def count_others(tracks: Iterable[Track], taken: Iterable[Track], times: Numbers) -> int:
    """How many others than those taken are long in view."""
    ours = set(map(id, taken))
    return sum(id(track) not in ours and track.seconds(times) >= SHORTEST for track in tracks)


def _one_at_a_time(known: Sequence[Track], times: Numbers) -> tuple[list[Track], bool]:
    """The longest and tallest tracks, in order, no two at one time, and whether others are left."""
    taken: list[Track] = []
    left = False
    for track in sorted(known, key=lambda track: -track.height * len(track.frames)):
        ends = [(max(track.frames[0], t.frames[0]), min(track.frames[-1], t.frames[-1])) for t in taken]
        if any(stop > start and times[stop] - times[start] > TOGETHER for start, stop in ends):
            left = True
        else:
            taken.append(track)
    return sorted(taken, key=lambda track: track.frames[0]), left


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
        "Say which with --person NUMBER or largest, or take each of them with --person all."
    )


def segments(times: Numbers, pixels: Numbers, score: Numbers, cuts: Numbers, *, bad: float) -> list[tuple[int, int]]:
    """First frame and the frame behind the last of each stretch of one person without gap, jump or cut.

    times [F]; pixels [F, J, 2] and score [F, J] of joints that matter; cuts [F] is above 0 where another shot begins.
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
    apart |= np.diff(np.cumsum(cuts > 0)[good]) > 0
    edges = np.flatnonzero(apart)
    starts, stops = good[np.concatenate(([0], edges + 1))], good[np.concatenate((edges, [len(good) - 1]))] + 1
    return [(int(a), int(b)) for a, b in zip(starts, stops, strict=True)]
