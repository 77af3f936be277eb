"""What a lifter that ran elsewhere made of a whole video: whose motion is whose, at which times, and for which lens.

A lifter's entry k belongs to the k-th frame that the file stores, at that frame's time stamp. Its people are matched to
those who were watched by how much their boxes share (of the detector, or of the joints as the lifter's own camera sees
them) times how alike the poses are in the image; where a lifter has no place, by the poses alone. A lifter assumes a
focal length: a person at depth z is as large at z f' / f before another lens, on the ray through the same pixel.
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from videomdm_ext.data.clip import MIN_FRAMES
from videomdm_ext.data.motions import grounded, resample
from videomdm_ext.data.video import placing
from videomdm_ext.data.video.frames import Video, frame_times
from videomdm_ext.data.video.people import LONGEST_GAP, SEEN, overlap
from videomdm_ext.data.video.pieces import Stretch
from videomdm_ext.errors import DatasetError
from videomdm_ext.geometry import cameras
from videomdm_ext.geometry.rotations import roma, shortest_arc
from videomdm_ext.motion.skeletons import Skeleton

Numbers = NDArray[np.float64]

FITS = 0.3  # shared part of the boxes times correlation of the poses, at least, of one who is the same person
RIVAL = 0.8  # share of it from which on another one may be the person just as well
SLACK = 2  # frames by which two programs count a video's frames differently
SAME = 0.1  # own sizes by which the keypoints of one person may differ in two stretches
RATES = (5, 6, 8, 10, 12, 12.5, 15, 20, 24, 25, 30, 48, 50, 60)  # frames per second that a lifter may have seen instead
OFFSET, STEP = 2.0, 0.05  # seconds by which entries may be early or late at most, and between those that are tried
ROUGH, BETTER = 0.06, 0.65
"""Mean distance of a motion from its keypoints, in shares of a person's size, beyond which other times are tried, and
share of it up to which it is sure that these are right."""
FAR, EXAMINED = 0.5, 240  # shares of a size that a joint is off at most, and frames that are compared at most


@dataclass(frozen=True)
class Person:
    """One person of a lifter's results: numbers of the frames [N], rising; `whole`: they should be all of the video's.

    joints [N, 22, 3] in metres, x right, y down, z forward; level [N, 22, 3] the same in a level world of the lifter's,
    y up, or None; boxes [N, 4] in stored pixels, or None; lens [3, 3] the lifter's intrinsics, or None: in stored
    pixels, and of the person of a stretch in those of the picture. `placed`: the joints are where the camera saw them,
    not about the root; `straight`: as a camera sees them that looks straight at the person.
    """

    name: str
    frames: NDArray[np.int64]
    joints: Tensor
    whole: bool = True
    level: Tensor | None = None
    boxes: Numbers | None = None
    lens: Tensor | None = None
    placed: bool = False
    straight: bool = False

    def times(self, own: Numbers, rate: float | None, place: object) -> Numbers:
        """When its frames are shown [N], of a video whose frames are shown at `own` [F]; `rate` is the lifter's, where
        it is not the video's."""
        if rate is not None:
            return self.frames / rate
        last = int(self.frames[-1]) + 1
        if last > len(own) + SLACK or (self.whole and last < len(own) - SLACK):
            guess = last * (len(own) - 1) / max(len(own) * (own[-1] - own[0]), 1e-9)
            raise DatasetError(
                f"{place}: expected one entry for each of the {len(own)} frames of the video, found {last}. Is it the "
                f"result of this video? If the lifter ran at another rate (about {guess:.4g}), say --option "
                "lifter.fps=RATE."
            )
        return own[self.frames.clip(0, len(own) - 1)]

    def part(self, rows: slice) -> "Person":
        """Some of the frames."""
        level = None if self.level is None else self.level[rows]
        return dataclasses.replace(self, frames=self.frames[rows], joints=self.joints[rows], level=level, boxes=None)

    def before(self, lens: Tensor, image: Tensor, weight: Tensor, skeleton: Skeleton, fps: float, place: str) -> Tensor:
        """The person [T, 22, 3] in coordinates of a camera with intrinsics `lens`, whose keypoints are image [T, 22, 2]
        on the normalised plane with weight [T, 22]. DatasetError where the keypoints have to place him and cannot."""
        if not self.placed:
            pose = placing.turned(self.joints, image, skeleton) if self.straight else self.joints
            return placing.in_front(pose - pose[:, :1], image, weight, fps, place)
        own = self.lens if self.lens is not None and self._is_nearer(lens, image, weight) else lens
        root = self.joints[:, 0]
        ray = cameras.normalise(cameras.to_pixels(root[:, :2] / root[:, 2:], own), lens)
        there = torch.nn.functional.pad(ray, (0, 1), value=1.0)
        arc = roma.unitquat_to_rotmat(shortest_arc(root, there))
        depth = root[:, 2:] * lens[0, 0] / own[0, 0]
        return (self.joints - root.unsqueeze(1)) @ arc.transpose(-1, -2) + (there * depth).unsqueeze(1)

    def _is_nearer(self, lens: Tensor, image: Tensor, weight: Tensor) -> bool:
        """Whether the joints are nearer to the keypoints through the lifter's own lens than through the other one."""
        assert self.lens is not None
        points, wanted = self.joints[..., :2] / self.joints[..., 2:].clamp_min(0.05), cameras.to_pixels(image, lens)
        seen = [cameras.to_pixels(points, one) for one in (self.lens, lens)]
        errors = [(weight * (pixels - wanted).norm(dim=-1)).sum(-1).median() for pixels in seen]
        return bool(errors[0] < errors[1])


def turns_of(body: Tensor, level: Tensor) -> Tensor:
    """Rotations [T, 3, 3] from a level world to a camera in which the person is the same, about the root."""
    there, here = body - body[:, :1], level - level[:, :1]
    turns: Tensor = roma.special_procrustes(there.transpose(-1, -2) @ here)
    return turns


def up_of(clips: Sequence[Stretch]) -> placing.Up:
    """Up in the coordinates of one still camera, by a lifter's level world, over all clips that were placed."""
    ups = torch.cat([turns_of(clip.body, clip.lifted.level)[..., 1] for clip in clips])
    mean = torch.nn.functional.normalize(ups.mean(0), dim=0)
    return placing.Up(mean, float(torch.acos((ups @ mean).clamp(-1, 1)).mean()), "the lifter's level world")


def moving(body: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
    """The motion [T, J, 3] of a level world with its floor at y = 0, and the camera [T, 3, 4] of every frame in it that
    sees it as it is in the camera's coordinates, body [T, J, 3]."""
    world = grounded(level)
    turns = turns_of(body, world)
    moved = body[:, 0] - (turns @ world[:, 0].unsqueeze(-1)).squeeze(-1)
    return world, torch.cat((turns, moved.unsqueeze(-1)), -1)


def given_to(
    stretches: Sequence[Stretch], people: Sequence[Person], video: Video, fps: float, rate: float | None, place: object
) -> list[tuple[list[Stretch], list[str]]]:
    """Of each stretch of a video the parts with what the lifter made of its person, and notes about what is left out.

    Stretches may overlap in time, of several people too. DatasetError where the results are not of the video.
    """
    own = frame_times(video) if rate is None else np.zeros(0)
    times = [person.times(own, rate, place) for person in people]
    fits = [[_Fit.of(s, p, t, video.scale, fps) for p, t in zip(people, times, strict=True)] for s in stretches]
    made: list[tuple[list[Stretch], list[str]]] = []
    misses = _Misses(fps)
    for number, stretch in enumerate(stretches):
        found: list[Stretch] = []
        notes: list[str] = []
        made.append((found, notes))
        label = f"{place}, from {stretch.start:.2f} s"
        beside = [n for n in range(len(stretches)) if n != number and _overlap(stretch, stretches[n], fps)]
        who, doubt = _whose(fits[number], [fits[n] for n in beside])
        if not doubt and (who < 0).all():
            fit = max(fits[number], key=lambda fit: fit.score)
            doubt = f"the nearest, {fit.lifted.name}, fits by {fit.score:.2f} of 1"
        if doubt:
            notes.append(f"Left out: {label}: expected one person of the results to be the watched one, found {doubt}.")
            continue
        for one in sorted({*who.tolist()} - {-1}):
            misses.add(stretch, who == one, people[one], times[one])
        missing, edges = 0, np.flatnonzero(np.diff(who)) + 1
        for rows in (slice(int(a), int(b)) for a, b in zip((0, *edges), (*edges, len(who)), strict=True)):
            if who[rows.start] < 0 or rows.stop - rows.start < MIN_FRAMES + 1:
                missing += rows.stop - rows.start
            else:
                known = fits[number][who[rows.start]].lifted
                found.append(dataclasses.replace(stretch, lifted=known).part(rows, fps))
        if missing:
            notes.append(f"{label}: the results lack the person for {missing / fps:.2f} s, which are left out.")
    misses.check(place)
    return made


class _Misses:
    """How far motions are from the keypoints at the times that they should have, and at others."""

    def __init__(self, fps: float) -> None:
        self.fps = fps
        self.sums: dict[tuple[float, float], Numbers] = {}  # of a rate or an offset: frames, miss as given, and then

    def add(self, stretch: Stretch, mine: NDArray[np.bool_], person: Person, times: Numbers) -> None:
        """Compare one person's frames `mine` [T] of a stretch; `times` [N] are those of his entries."""
        rows = np.flatnonzero(mine)[:: -(-int(mine.sum()) // EXAMINED)]
        at, size = stretch.start + rows / self.fps, float(len(rows))
        given = _miss(stretch, rows, at, person, times)
        self.sums[0.0, 0.0] = self.sums.get((0.0, 0.0), np.zeros(3)) + np.array((size, size * given, size * given))
        if given <= ROUGH:
            return
        own = (person.frames[-1] - person.frames[0]) / (times[-1] - times[0])
        others = {(rate, 0.0): person.frames / rate for rate in RATES if abs(rate / own - 1) > 0.03}
        steps = np.arange(1, round(OFFSET / STEP) + 1) * STEP
        others |= {(0.0, late): times + late for late in (*-steps, *steps)}
        for key, then in others.items():
            there = (at >= then[0]) & (at <= then[-1])
            if there.sum() >= max(MIN_FRAMES, 0.3 * size):
                part, when, count = rows[there], at[there], float(there.sum())
                both = [_miss(stretch, part, when, person, one) for one in (times, then)]
                sums = np.array((count, count * both[0], count * both[1]))
                self.sums[key] = self.sums.get(key, np.zeros(3)) + sums

    def check(self, place: object) -> None:
        """Raise DatasetError where the motions are clearly nearer to the keypoints at other times."""
        count, given, _ = self.sums.pop((0.0, 0.0), np.zeros(3))
        known = {key: one for key, one in self.sums.items() if one[0] >= 0.3 * count}
        if given <= ROUGH * count or not known:
            return
        share = {key: after / before for key, (_, before, after) in known.items()}
        if min(share.values()) > BETTER:
            return
        likely = [key for key in share if share[key] < 1.1 * min(share.values())]  # steps repeat: the least change
        rate, late = min(likely, key=lambda key: (abs(key[1]), share[key]))
        rows, before, after = known[rate, late]
        far, near = (f"{100 * miss / rows:.0f} %" for miss in (before, after))
        what = f"at {rate:g} entries a second" if rate else f"{abs(late):.2f} s {'later' if late > 0 else 'earlier'}"
        advice = f"say --option lifter.fps={rate:g}" if rate else "run it on this file"
        raise DatasetError(
            f"{place}: expected the motion at the times of the video, found it {far} of a person's size off the "
            f"keypoints, and {near} {what}. Did the lifter see another version of the video? Then {advice}."
        )


def _miss(stretch: Stretch, rows: NDArray[np.int64], at: Numbers, person: Person, times: Numbers) -> float:
    """Mean distance of joints at the seconds `at` [T] from the keypoints of `rows` [T], in shares of a person's size.

    Place, size, and what stays of the distances (tools place a joint differently) do not count.
    """
    numbers = torch.from_numpy(np.interp(at, times, np.arange(len(times))))
    joints, wanted = resample(person.joints, numbers), stretch.pixels[rows]
    seen = joints[..., :2]
    seen = seen / joints[..., 2:].clamp_min(0.05) if person.placed else seen
    weight = stretch.confidence[rows].unsqueeze(-1) * torch.isfinite(wanted).all(-1, keepdim=True)
    total = weight.sum(1, keepdim=True).clamp_min(1e-9)
    seen, wanted = (one - (weight * one).sum(1, keepdim=True) / total for one in (seen, wanted.nan_to_num()))
    share = (weight * seen * wanted).sum((1, 2), keepdim=True) / (weight * seen * seen).sum((1, 2), keepdim=True)
    size = ((weight * wanted * wanted).sum((1, 2), keepdim=True) / total).sqrt().clamp_min(1e-9)
    off = (share.nan_to_num() * seen - wanted) / size
    off = off - (weight * off).sum(0) / weight.sum(0).clamp_min(1e-9)
    return float((weight[..., 0] * off.norm(dim=-1).clamp_max(FAR)).sum() / weight.sum().clamp_min(1e-9))


def _whose(fits: Sequence["_Fit"], beside: Sequence[Sequence["_Fit"]]) -> tuple[NDArray[np.int64], str]:
    """The number of the person in each frame [T] of a stretch, -1 for none, and why that is not sure, or nothing.

    `beside` has the fits of those who were watched at the same time.
    """
    who = np.full(len(fits[0].valid), -1) if fits else np.zeros(0, np.int64)
    for number in sorted(range(len(fits)), key=lambda n: -fits[n].score):
        fit, others = fits[number], [other[number].score for other in beside]
        if fit.score < FITS or any(RIVAL * score > fit.score for score in others):  # nobody here, or another one
            continue
        if any(score > RIVAL * fit.score for score in others):
            return who, f"{fit.lifted.name}, who may be one of two who were watched at the same time"
        for known in set(who[fit.valid & (who >= 0)].tolist()):
            shared = int((fit.valid & (who == known)).sum())
            if fit.score > RIVAL * fits[known].score and shared > MIN_FRAMES // 2:
                return who, f"{fits[known].lifted.name} and {fit.lifted.name}, who fit equally well"
        who[fit.valid & (who < 0)] = number
    return who, ""


def _overlap(one: Stretch, other: Stretch, fps: float) -> bool:
    """Whether two stretches show two people at the same time."""
    late = round((other.start - one.start) * fps)
    here, there = one.pixels[max(late, 0) :], other.pixels[max(-late, 0) :]
    count = min(len(here), len(there))
    if count <= LONGEST_GAP * fps:
        return False
    sizes = (here[:count].amax(1) - here[:count].amin(1)).amax(-1)
    apart = (here[:count] - there[:count]).norm(dim=-1).median(-1).values / sizes.clamp_min(1.0)
    return float(apart.median()) > SAME


@dataclass(frozen=True)
class _Fit:
    """A person at the frames of a stretch, his lens in pixels of the picture; those `valid` [T] that he has; and how
    well he fits, 0 to 1."""

    lifted: Person
    valid: NDArray[np.bool_]
    score: float

    @classmethod
    def of(cls, stretch: Stretch, person: Person, times: Numbers, scale: Numbers, fps: float) -> "_Fit":
        at = stretch.start + np.arange(len(stretch.pixels)) / fps
        after = np.searchsorted(times, at - 1e-6).clip(0, len(times) - 1)
        before = np.where(times[after] > at + 1e-6, (after - 1).clip(0), after)
        edge = 1.5 / fps  # the last frame of a video is shown for a while
        valid = (times[after] - times[before] <= LONGEST_GAP) & (at >= times[0] - edge) & (at <= times[-1] + edge)

        numbers = torch.from_numpy(np.interp(at, times, np.arange(len(times))))  # of the entries
        parts = person.joints, person.level, person.boxes
        joints, level, boxes = (None if v is None else resample(torch.as_tensor(v).double(), numbers) for v in parts)
        assert joints is not None
        stretched = torch.diag(torch.tensor([*scale, 1.0], dtype=torch.float64))
        lens = None if person.lens is None else stretched @ person.lens.double()
        rows = np.arange(len(at))
        lifted = dataclasses.replace(person, frames=rows, joints=joints, level=level, boxes=None, lens=lens)
        if not valid.any():
            return cls(lifted, valid, 0.0)
        pixels, sure = stretch.pixels[valid], stretch.confidence[valid]
        score = max(0.0, float(np.nan_to_num(placing.agreement(joints[valid], pixels, sure))))
        if boxes is None and lens is not None and person.placed:
            points = cameras.to_pixels(joints[..., :2] / joints[..., 2:].clamp_min(0.05), lens)
            boxes = torch.cat((points.amin(1), points.amax(1)), -1)
        elif boxes is not None:
            boxes = boxes * torch.from_numpy(np.tile(scale, 2))
        if boxes is not None:
            shared = overlap(_box(pixels, sure).numpy(), boxes[valid].numpy())
            score *= float(torch.from_numpy(shared).nanmedian().nan_to_num())
        return cls(lifted, valid, score)


def _box(pixels: Tensor, confidence: Tensor) -> Tensor:
    """Left, top, right and bottom [T, 4] of keypoints [T, J, 2] that are seen; NaN where none is."""
    seen = (confidence > SEEN).unsqueeze(-1)
    low, high = pixels.where(seen, torch.inf).amin(1), pixels.where(seen, -torch.inf).amax(1)
    return torch.cat((low, high), -1).where(seen.any(1), torch.nan)


def unclaimed(results: dict[str, list[str]], videos: Sequence[str]) -> dict[str, str]:
    """Why files of results are of no use, by their place; `results` has them by the video that they are named after."""
    cuts = Counter(video.partition(".")[0] for video in {*videos})
    known = {*videos, *(cut for cut in cuts if cuts[cut] == 1)}
    return {
        place: f"{place}: expected a video named {video}, found none. Name the result after its video, or leave it."
        for video, places in results.items()
        if video not in known
        for place in places
    }
