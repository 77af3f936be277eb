"""The parts of a video that make clips: where one person is seen without a break, cut by length and by captions.

Before, left and right that a detector exchanged for a while, as on a person who turns, are put back. The differences
D_t of left and right joints, in space or in the image, turn slowly: between frames a moment apart cos(D_t, D_t-1) is
near 1, and near -1 where the sides were exchanged in between. Which frames are exchanged is the cheapest sequence of
signs s_t (Viterbi's algorithm) with the cost 1 - s_t s_t-1 cos(D_t, D_t-1) of each step and, of each frame, PRIOR if it
is exchanged; in the image also 1 - s_t cos with the lifted motion as the camera sees it.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from videomdm_ext.data.clip import MIN_FRAMES
from videomdm_ext.data.motions import interpolate, interpolate_confidence
from videomdm_ext.data.sources.base import LONGEST
from videomdm_ext.data.texts import Caption
from videomdm_ext.data.video.comparing import direct, mirror_of, other_side
from videomdm_ext.data.video.people import LONGEST_GAP, SEEN, segments
from videomdm_ext.data.video.watch import Sighting
from videomdm_ext.errors import counted
from videomdm_ext.motion.joint_maps import BLAZEPOSE33, DIRECT, Layout, Numbers, confidence22, to_smpl22
from videomdm_ext.motion.skeletons import SMPL22

BAD = 0.35  # mean confidence of hips, knees, ankles and shoulders below which a frame is none
PRIOR = 0.02  # cost of a frame with exchanged sides: of two parts the shorter one is exchanged
FLIP = -0.3  # cosine of two frames below which the sides were exchanged between them
DOUBTED = 0.5  # factor on the confidence of a part that is exchanged up to an end: it may be the other part
_LEFT = [i for i, name in enumerate(DIRECT) if name.startswith("l_")]
_RIGHT = [DIRECT.index(other_side(DIRECT[i])) for i in _LEFT]
_CORE = [SMPL22.index(f"{side}_{part}") for side in ("l", "r") for part in ("hip", "knee", "ankle", "shoulder")]


@dataclass(frozen=True)
class Stretch:
    """A part of a video at an even rate, from `start` seconds on: T frames.

    pixels [T, 22, 2] and confidence [T, 22] in the picture; body [T, 22, 3] metres, along camera axes, hip-centred
    until it is placed; `lifted` what a lifter that ran elsewhere made of the person (lifted.Person), or None;
    `person` is p0, p1, ... where several were watched, else empty; `texts` the captions of one that makes a clip.
    """

    start: float
    pixels: Tensor
    confidence: Tensor
    body: Tensor
    lifted: Any = None
    person: str = ""
    texts: tuple[str, ...] = ()

    def part(self, rows: slice, fps: float, texts: tuple[str, ...] = ()) -> "Stretch":
        """Some of the frames."""
        parts = {name: getattr(self, name)[rows] for name in ("pixels", "confidence", "body")}
        lifted = None if self.lifted is None else self.lifted.part(rows)
        return dataclasses.replace(self, start=self.start + rows.start / fps, lifted=lifted, texts=texts, **parts)

    def liveliness(self) -> float:
        """How far joints move about their middle, as a share of the person's size."""
        core = self.pixels[:, _CORE]
        size = (core.amax(1) - core.amin(1)).amax(-1).median().clamp_min(1.0)
        return float(torch.linalg.vector_norm(core - core.mean(0), dim=-1).mean() / size)


@dataclass(frozen=True)
class Sides:
    """How many frames had exchanged sides: `repaired` between right ones, and `doubted` up to an end of a track."""

    repaired: int = 0
    doubted: int = 0


def put_right(seen: Sighting) -> tuple[Sighting, Sides]:
    """The sighting with its sides put right, and how many frames had others."""
    one_tool = seen.layout is BLAZEPOSE33  # image and space come from one network, which exchanges both
    lifted = seen.presence > 0
    space, _ = direct(seen.world, np.ones(seen.world.shape[:2]), BLAZEPOSE33)
    image, score = direct(seen.pixels, seen.score, seen.layout)
    linked = _linked(seen, image, score)
    known = (score[:, _LEFT] > SEEN) & (score[:, _RIGHT] > SEEN)
    flat = (image[:, _LEFT] - image[:, _RIGHT]) * known[..., None]
    deep = space[:, _LEFT] - space[:, _RIGHT]
    in_space = _exchanged(deep, lifted, linked, np.zeros(len(deep)))
    world = _turned(seen.world, in_space != 0, BLAZEPOSE33)
    if one_tool:
        in_image = in_space
    else:
        deep = np.where((in_space != 0)[:, None, None], -deep, deep)
        seen_from_camera = np.where(lifted, _cosine(flat, deep[..., :2] * known[..., None]), 0.0)
        in_image = _exchanged(flat, known.sum(1) >= 3, linked, seen_from_camera)
    turned = in_image != 0
    pixels, score = _turned(seen.pixels, turned, seen.layout), _turned(seen.score, turned, seen.layout)
    doubted = np.maximum(in_image, in_space) == 2
    score = np.where(doubted[:, None], DOUBTED * score, score)
    wrong = turned | (in_space != 0)
    found = Sides(int((wrong & ~doubted).sum()), int(doubted.sum()))
    return dataclasses.replace(seen, pixels=pixels, score=score, world=world), found


def _linked(seen: Sighting, image: Numbers, score: Numbers) -> NDArray[np.bool_]:
    """Whether each frame [F] continues the one before: one track, no jump or cut, a moment apart."""
    apart = np.diff(seen.times, prepend=-np.inf) > LONGEST_GAP
    apart |= (np.diff(seen.part, prepend=-2.0) != 0) | (seen.cuts > 0)
    for first, _ in segments(seen.times, image, score, seen.cuts, bad=1e-6):
        apart[first] = True
    return ~apart


def _exchanged(
    between: Numbers, known: NDArray[np.bool_], linked: NDArray[np.bool_], told: Numbers
) -> NDArray[np.int64]:
    """Which frames [F] have exchanged sides: 0 no, 1 yes, 2 as far as one can tell; differences [F, 6, C].

    `told` [F] is the cosine with another witness, 0 without.
    """
    result = np.zeros(len(between), np.int64)
    rows = np.flatnonzero(known)
    breaks = [i for i in range(1, len(rows)) if not linked[rows[i - 1] + 1 : rows[i] + 1].all()]
    for part in np.split(rows, breaks):
        if len(part) < 3:
            continue
        steps = _cosine(between[part[1:]], between[part[:-1]])
        signs = _cheapest(steps, told[part])
        edges = [0, *(np.flatnonzero(np.diff(signs)) + 1), len(part)]
        for start, stop in pairwise(edges):
            if signs[start] > 0:
                continue
            witness = told[part[start:stop]].mean()
            ends = [steps[edge - 1] for edge in (start, stop) if 0 < edge < len(part)]
            if witness < FLIP:
                result[part[start:stop]] = 1
            elif ends and max(ends) < FLIP and witness <= 0:
                result[part[start:stop]] = 1 if len(ends) == 2 else 2
    return result


def _cheapest(steps: Numbers, told: Numbers) -> NDArray[np.int64]:
    """Signs [N] by Viterbi's algorithm; steps [N - 1] are the cosines of neighbours."""
    own = np.stack((1 - told, 1 + told + PRIOR), 1)  # of sign 1 and -1
    cost, came = own[0], np.zeros((len(told), 2), np.int64)
    for at, step in enumerate(steps, 1):
        moves = cost[:, None] + np.array(((1 - step, 1 + step), (1 + step, 1 - step)))
        came[at] = moves.argmin(0)
        cost = moves.min(0) + own[at]
    signs, state = np.zeros(len(told), np.int64), int(cost.argmin())
    for at in range(len(told) - 1, -1, -1):
        signs[at], state = (1, -1)[state], int(came[at][state])
    return signs


def _cosine(one: Numbers, other: Numbers) -> Numbers:
    """Cosine of differences [..., 6, C] as vectors; 0 where one has no length."""
    lengths = np.sqrt((one**2).sum((-1, -2)) * (other**2).sum((-1, -2)))
    return np.asarray((one * other).sum((-1, -2)) / np.maximum(lengths, 1e-9))


def _turned(values: Any, rows: NDArray[np.bool_], layout: Layout) -> Numbers:
    """Values [F, K, ...] with the sides of those frames exchanged."""
    where = rows.reshape(-1, *(1,) * (values.ndim - 1))
    return np.where(where, values[:, mirror_of(layout)], values)


def stretches(seen: Sighting, fps: float, *, lifted: bool = True) -> tuple[list[Stretch], list[str]]:
    """Parts of a video that show one person without a break, long enough to use, and notes about the others.

    Frames in which no pose in space was seen are none, unless they need not be `lifted`: another one brings the motion.
    """
    pixels, confidence = to_smpl22(seen.pixels, seen.layout), confidence22(seen.score, seen.layout)
    score = confidence[:, _CORE] * ((seen.presence > 0) | (not lifted))[:, None]
    track = seen.part.copy()
    for frame in range(1, len(track)):
        track[frame] = track[frame] if track[frame] >= 0 else track[frame - 1]
    breaks = (np.diff(track, prepend=track[:1]) != 0) | (seen.cuts > 0)  # another track or shot begins
    found: list[Stretch] = []
    dropped: list[float] = []
    for first, stop in segments(seen.times, pixels[:, _CORE], score, breaks, bad=BAD):
        seconds = seen.times[stop - 1] - seen.times[first]
        if int(seconds * fps + 1e-6) < MIN_FRAMES:  # a clip loses the last of its frames
            dropped.append(float(seconds))
            continue
        found.append(_stretch(seen, pixels, confidence, slice(first, stop), fps))
    note = f"Left out {counted(len(dropped), 'part')} shorter than {MIN_FRAMES} frames at {fps:g} fps"
    return found, [f"{note}, {sum(dropped):.1f} s in all."] if dropped else []


def _stretch(seen: Sighting, pixels: Numbers, confidence: Numbers, rows: slice, fps: float) -> Stretch:
    times = seen.times[rows]
    count = int((times[-1] - times[0]) * fps + 1e-6) + 1
    at = times[0] + np.arange(count) / fps
    body = to_smpl22(seen.world[rows], BLAZEPOSE33)
    placed = interpolate(at, times, pixels[rows], confidence[rows] > 0)
    lifted = interpolate(at, times, body, np.broadcast_to((seen.presence[rows] > 0)[:, None], body.shape[:2]))
    sure = interpolate_confidence(at, times, confidence[rows])
    pixels_at, sure_at, body_at = (torch.from_numpy(values) for values in (placed, sure, lifted))
    return Stretch(float(times[0]), pixels_at, sure_at, body_at, person=seen.who)


def cut(stretch: Stretch, captions: Sequence[Caption], fps: float) -> list[Stretch]:
    """Clips of a stretch: its parts of at most LONGEST frames with the captions of the whole video, and one for every
    caption of a part of it."""
    count = len(stretch.pixels)
    whole = tuple(dict.fromkeys(caption.text for caption in captions if caption.is_whole))
    clips = [(rows, whole) for rows in _even(0, count) if whole]
    for start, stop in dict.fromkeys((c.start, c.stop) for c in captions if not c.is_whole):
        texts = tuple(dict.fromkeys(c.text for c in captions if (c.start, c.stop) == (start, stop)))
        low = max(0, int(np.ceil((start - stretch.start) * fps - 1e-6)))
        high = min(count, int(min((stop - stretch.start) * fps + 1e-6, count)) + 1)
        clips += [(rows, texts) for rows in _even(low, high)]
    return [stretch.part(rows, fps, texts) for rows, texts in clips]


def _even(low: int, high: int) -> list[slice]:
    """Rows low to high - 1 in equal parts that make clips of at most LONGEST frames; none where they are too few.

    A clip loses the last of its frames, so that neighbouring parts share one.
    """
    steps = high - low - 1
    if steps < MIN_FRAMES:
        return []
    parts = -(-steps // LONGEST)
    edges = [low + round(part * steps / parts) for part in range(parts + 1)]
    return [slice(a, b + 1) for a, b in pairwise(edges)]
