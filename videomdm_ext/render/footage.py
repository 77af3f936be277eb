"""What the video of a clip shows, small enough for a page: every second frame about the person, as WebP."""

import base64
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from videomdm_ext.data import files
from videomdm_ext.data.clip import Clip
from videomdm_ext.data.video.frames import Picture, frames_at, open_video
from videomdm_ext.errors import VideoMDMError
from videomdm_ext.render.figures import require

FACTS, FILMS = "videos.json", "films"
"""Of a data set's folder: what is known of its videos, and where its films are."""
EVERY, HIGH, ROOM = 2, 240, 0.35
"""Frames from one picture to the next, pixels of its height, and the room about the person, shares of his size."""
LEFT_OUT = "The video is left out, so that the page stays small."
STEPS = ((1, HIGH, 60), (1, HIGH, 35), (2, HIGH, 35), (3, 180, 30), (5, 150, 25))
"""Pictures from one kept one to the next, their height and quality: the first that fits into a page is taken."""


@dataclass(frozen=True)
class Footage:
    """Pictures [h, w, 3] of every second frame of a clip, and the edges left, top, right and bottom of what each shows,
    on the normalised image plane."""

    pictures: Sequence[Picture]
    box: tuple[float, float, float, float]

    def packed(self, most: float) -> dict[str, Any]:
        """What the page's script reads, in at most so many bytes; `note` says what was left out for it."""
        for step, high, quality in STEPS:
            images = [_webp(picture, high, quality) for picture in self.pictures[::step]]
            if sum(map(len, images)) <= most:
                less = f"Of {EVERY * step} frames one is kept, {high} pixels high, so that the page stays small."
                note = "" if (step, high, quality) == STEPS[0] else less
                return {"images": images, "every": EVERY * step, "box": self.box, "note": note}
        return {"images": [], "every": 1, "box": self.box, "note": LEFT_OUT}


def _webp(picture: Picture, high: int, quality: int) -> str:
    image, content = require("PIL.Image").fromarray(picture), io.BytesIO()
    image.thumbnail((4 * high, high))
    image.save(content, "webp", quality=quality)
    return base64.b64encode(content.getvalue()).decode()


def footage(folder: str, clip: Clip, *, every: int = EVERY, high: int = HIGH) -> Footage | str:
    """The pictures of a clip from the video that FOLDER/videos.json names for it, or why there are none; "" where the
    set is not made from videos.

    A video that is no longer there is looked for in FOLDER/films.
    """
    if not os.path.isfile(os.path.join(folder, FACTS)):
        return ""
    videos = files.read_json(os.path.join(folder, FACTS), "videos")["videos"]
    place = _place(videos, clip.id)
    if place is None or clip.intrinsics is None or clip.image_size is None:
        return f"{folder}/{FACTS} names no video of {clip.id}, or its lens is not known."
    moved = os.path.join(folder, FILMS, os.path.basename(place["video"]))
    video = next((path for path in (place["video"], moved) if os.path.isfile(path)), place["video"])
    try:
        return _cut(video, place["start"], clip, every, high)
    except VideoMDMError as error:
        return str(error).replace(video, os.path.basename(video))  # a page is passed on, its maker's folders are not


def _place(videos: Mapping[str, Any], clip_id: str) -> Mapping[str, Any] | None:
    """Where a clip lies in a video: by its own name, or by that of the video of which it is the longest part."""
    own = [place for video in videos.values() for name, place in video["clips"].items() if name == clip_id]
    longest = sorted(videos.get(clip_id, {"clips": {}})["clips"].values(), key=lambda place: int(place["frames"]))
    return next(iter(own + longest[::-1]), None)


def _cut(path: str, start: float, clip: Clip, every: int, high: int) -> Footage:
    """The part of a video's pictures about the keypoints of the clip."""
    video, image = open_video(path), require("PIL.Image")
    assert clip.intrinsics is not None
    assert clip.image_size is not None
    scale = np.array(video.size) / np.array(clip.image_size)
    focal, centre = clip.intrinsics[(0, 1), (0, 1)] * scale, clip.intrinsics[:2, 2] * scale
    seen = clip.keypoints[clip.confidence > 0] * focal + centre
    low, far = (seen.min(0), seen.max(0)) if len(seen) else (np.zeros(2), np.array(video.size))
    room = ROOM * float((far - low).max())
    left, top = np.clip(np.floor(low - room), 0, np.array(video.size) - 2).astype(int).tolist()
    right, bottom = np.clip(np.ceil(far + room), (left + 2, top + 2), video.size).astype(int).tolist()
    pictures = []
    for picture in frames_at(video, start + np.arange(0, clip.length, every) / clip.fps):
        small = image.fromarray(picture[top:bottom, left:right])
        small.thumbnail((4 * high, high))
        pictures.append(np.asarray(small))
    edges = (np.array(((left, top), (right, bottom))) - centre) / focal
    return Footage(pictures, (edges[0, 0], edges[0, 1], edges[1, 0], edges[1, 1]))
