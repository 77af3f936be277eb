"""What a detector found in Fit3D's videos, in the place of the projected truth (--option keypoints=DIR).

DIR/SUBJECT/CAMERA/ACTION...   the detector's file or folder, named as the source names the video (`find_file`)

Pixels are those of the videos, which the lens distorts. The videos may go on after the motion has ended.
"""

from dataclasses import dataclass

import blobfile as bf
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from videomdm_ext.data import files
from videomdm_ext.data.sources.fit3d_files import Lens
from videomdm_ext.data.sources.joint_maps import confidence22, to_smpl22
from videomdm_ext.data.video.cutting import confidence_at
from videomdm_ext.data.video.detections import Detections, find_file, read_detections
from videomdm_ext.data.video.people import choose, follow
from videomdm_ext.errors import DatasetError

Numbers = NDArray[np.float64]

LONGER = 500
"""Frames by which a video may be longer than its motion."""
ALIKE = 0.2
"""Of a person's size, the distance between keypoints and projected truth in the middle, at most."""


@dataclass(frozen=True)
class Detected:
    """One person in a video: points [F, 22, 2] on the normalised plane and confidence [F, 22] at times [F], seconds."""

    times: Numbers
    points: Numbers
    confidence: Numbers

    def at(self, seconds: Numbers) -> tuple[Tensor, Tensor]:
        """Keypoints [T, 22, 2] and confidence [T, 22] at other times [T], linearly from frames with the joint."""
        points = np.zeros((len(seconds), *self.points.shape[1:]))
        for joint in range(points.shape[1]):
            rows = self.confidence[:, joint] > 0
            for axis in range(2) if rows.any() else ():
                points[:, joint, axis] = np.interp(seconds, self.times[rows], self.points[rows, joint, axis])
        confidence = confidence_at(seconds, self.times, self.confidence)
        confidence[(seconds < self.times[0] - 1e-6) | (seconds > self.times[-1] + 1e-6)] = 0.0
        return torch.from_numpy(points).float(), torch.from_numpy(confidence).float()


def read_detected(
    folder: str, kind: str, take: tuple[str, str, str], *, frames: int, fps: float, lens: Lens
) -> Detected:
    """What the detector found in a take (subject, action, camera) of so many frames. DatasetError where nothing."""
    subject, action, camera = take
    place = find_file(bf.join(folder, files.checked_id(subject, folder), camera), action, kind)
    found = read_detections(place, kind, count=frames + LONGER, fps=fps)
    times = found.times - first_frame(found, frames) / fps
    pixels, score = _one_person(found, place)
    points = lens.on_plane(torch.from_numpy(to_smpl22(pixels, found.layout))).numpy()
    return Detected(times, points, confidence22(score, found.layout))


def first_frame(found: Detections, frames: int) -> int:
    """The number of the first frame: 1 where people are found to the frame `frames`, but none in frame 0."""
    seen = np.flatnonzero((found.score > 0).any((1, 2)))
    return int(found.world is None and seen[0] > 0 and seen[-1] == frames)


def _one_person(found: Detections, place: str) -> tuple[Numbers, Numbers]:
    """Pixels [F, K, 2] and score [F, K] of the tallest person of a take, for others only pass by."""
    pixels, score = np.zeros_like(found.pixels[:, 0]), np.zeros_like(found.score[:, 0])
    for track in choose(follow(found), found.times, "largest", place):
        pixels[track.frames] = found.pixels[track.frames, track.slots]
        score[track.frames] = found.score[track.frames, track.slots]
    return pixels, score


def check_alike(points: Tensor, confidence: Tensor, projected: Tensor, place: str) -> None:
    """Refuse keypoints [T, J, 2] that are not those of the projected motion [T, J, 2]."""
    seen = confidence > 0
    if not bool(seen.any()):
        raise DatasetError(f"{place}: expected a person in these frames, found none. Leave the part out.")
    size = (projected.amax(1) - projected.amin(1)).amax(-1, keepdim=True).expand(seen.shape)
    apart = float((torch.linalg.vector_norm(points - projected, dim=-1) / size)[seen].median())
    if not apart <= ALIKE:
        raise DatasetError(
            f"{place}: expected keypoints of this take, found them {apart:.2f} of the person's size away. "
            "Are they of this subject, action and camera, in pixels of the original video?"
        )
