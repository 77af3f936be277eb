"""MediaPipe's BlazePose as a detector of one person: 33 joints in the image and 33 in metres (extra `video`).

Its joints in space are centred on the hips and lie along the axes of a camera that looks straight at the person: x
right, y down, z away. The model comes with the package, nothing is fetched. It finds one person at a time; others
are found by painting over those already found, so that several people in view do not go unnoticed.
"""

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from videomdm_ext.data.sources.joint_maps import BLAZEPOSE33
from videomdm_ext.data.video.frames import Picture, require
from videomdm_ext.data.video.people import overlap

Numbers = NDArray[np.float64]

PRESENT = 0.5
"""Mean visibility of shoulders, hips and knees of a person who counts."""
MARGIN = 0.15
"""Share of a person's box that is painted over beyond it."""
CROP = 0.35
"""Share of a person's box that is looked at beyond it."""
HALF = 0.6
"""Share of the picture's longer side that its halves have."""
SMALLEST = 64
"""Pixels of a crop's side, at least."""
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


Engine = Callable[[Picture], Found | None]
"""Finds one person in a picture, or none."""


def engine(*, following: bool) -> Engine:
    """MediaPipe. `following`: pictures are the frames of one video, and a person is looked for where he was before."""
    os.environ.setdefault("GLOG_minloglevel", "2")
    solution = require("mediapipe").solutions.pose
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

    return find


def find_people(picture: Picture, find: Engine, most: int = 6) -> list[Found]:
    """People in one picture, the most striking first. `find` must not follow.

    The whole picture is searched until nobody is left, then its halves, in which the small ones are larger.
    """
    people: list[Found] = []
    rest = picture.copy()
    for left, top, right, bottom in _views(picture.shape[1], picture.shape[0]):
        while len(people) < most:
            found = find(rest[top:bottom, left:right])
            if found is None or found.presence < PRESENT:
                break
            found = _moved(found, left, top)
            if any(overlap(found.box, other.box) > 0.3 for other in people):
                break
            people.append(found)
            a, b, c, d = grown(found.box, MARGIN, rest.shape[1], rest.shape[0])
            rest[b:d, a:c] = 128
    return people


def _views(width: int, height: int) -> list[tuple[int, int, int, int]]:
    """Left, top, right and bottom of the whole picture and of the halves of its longer side, which overlap."""
    reach = round(HALF * max(width, height))
    if width >= height:
        halves = [(0, 0, reach, height), (width - reach, 0, width, height)]
    else:
        halves = [(0, 0, width, reach), (0, height - reach, width, height)]
    return [(0, 0, width, height), *halves]


def _moved(found: Found, left: int, top: int) -> Found:
    """What was found in a part of a picture, in the pixels of the whole."""
    return Found(found.pixels + np.array((left, top)), found.visibility, found.world)


def find_in_box(picture: Picture, box: Numbers, find: Engine) -> Found | None:
    """The person in a box [4] of a picture; none where another one than the box's is found. `find` must not follow."""
    left, top, right, bottom = grown(box, CROP, picture.shape[1], picture.shape[0])
    found = find(picture[top:bottom, left:right])
    if found is None:
        return None
    moved = _moved(found, left, top)
    return moved if overlap(moved.box, box) > 0.3 else None


def grown(box: Numbers, share: float, width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a box with a margin, inside the picture and at least a few pixels wide."""
    middle, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
    reach = np.maximum(half + share * half.max() * 2, SMALLEST / 2)
    low, high = np.floor(middle - reach), np.ceil(middle + reach)
    left, top = int(np.clip(low[0], 0, width - 1)), int(np.clip(low[1], 0, height - 1))
    return left, top, int(np.clip(high[0], left + 1, width)), int(np.clip(high[1], top + 1, height))
