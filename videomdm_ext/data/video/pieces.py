"""The parts of a video that make clips: where one person is seen without a break, cut by length and by captions."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from videomdm_ext.data.clip import MIN_FRAMES
from videomdm_ext.data.motions import interpolate, interpolate_confidence
from videomdm_ext.data.sources.base import LONGEST
from videomdm_ext.data.texts import Caption
from videomdm_ext.data.video.people import segments
from videomdm_ext.data.video.watch import Sighting
from videomdm_ext.motion.joint_maps import BLAZEPOSE33, Numbers, confidence22, to_smpl22
from videomdm_ext.motion.skeletons import SMPL22

BAD = 0.35  # mean confidence of hips, knees, ankles and shoulders below which a frame is none
_CORE = [SMPL22.index(f"{side}_{part}") for side in ("l", "r") for part in ("hip", "knee", "ankle", "shoulder")]


@dataclass(frozen=True)
class Stretch:
    """A part of a video at an even rate, from `start` seconds on: T frames.

    pixels [T, 22, 2] and confidence [T, 22] in the picture; body [T, 22, 3] metres, hip-centred, along camera axes;
    `lifted` what a lifter that ran elsewhere made of the person (lifted.Lifted), or None; `person` is p0, p1, ... where
    several were watched, else empty; `texts` the captions of one that makes a clip.
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
    note = f"{len(dropped)} part(s) shorter than {MIN_FRAMES} frames at {fps:g} fps were left out"
    return found, [f"{note}, {sum(dropped):.1f} s in all."] if dropped else []


def _stretch(seen: Sighting, pixels: Numbers, confidence: Numbers, rows: slice, fps: float) -> Stretch:
    times = seen.times[rows]
    count = int((times[-1] - times[0]) * fps + 1e-6) + 1
    at = times[0] + np.arange(count) / fps
    body = to_smpl22(seen.world[rows], BLAZEPOSE33)
    placed = interpolate(at, times, pixels[rows], confidence[rows] > 0)
    lifted = interpolate(at, times, body, np.broadcast_to((seen.presence[rows] > 0)[:, None], body.shape[:2]))
    sure = interpolate_confidence(at, times, confidence[rows])
    person = f"p{seen.person}" if seen.person >= 0 else ""
    return Stretch(
        float(times[0]), torch.from_numpy(placed), torch.from_numpy(sure), torch.from_numpy(lifted), person=person
    )


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
