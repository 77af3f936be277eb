"""Which clips a training takes, and whose true motion it is given: shares of a set, for baselines."""

import dataclasses
import hashlib
import math

import numpy as np
import torch

from videomdm_ext.data.clip import Clip, with_truth_as_teacher
from videomdm_ext.data.index import Clips
from videomdm_ext.data.video.placing import reprojection
from videomdm_ext.geometry.cameras import to_camera
from videomdm_ext.motion.features import decode


def best(clips: Clips, share: float) -> Clips:
    """The share of the clips, one at least, whose teachers are nearest to their keypoints, in the set's order.

    Every clip is read once. Motion that is known as it is has no error.
    """
    errors = [0.0 if entry.is_known else reprojection_error(clips.read(entry)) for entry in clips.entries]
    order = sorted(range(len(errors)), key=lambda number: (errors[number], number))
    chosen = sorted(order[: count_of(share, len(clips))])
    return Clips([clips.entries[number] for number in chosen], clips.read)


def reprojection_error(clip: Clip) -> float:
    """Weighted RMS distance of a clip's projected teacher from its keypoints, on the normalised image plane."""
    keypoints = torch.from_numpy(clip.keypoints)
    weight = torch.from_numpy(clip.confidence) * torch.isfinite(keypoints).all(-1)
    camera = torch.from_numpy(clip.extrinsics).reshape(-1, 3, 4)
    seen = to_camera(decode(torch.from_numpy(clip.teacher), clip.skeleton), camera)
    return reprojection(seen, keypoints.nan_to_num(), weight)


def with_known(clips: Clips, original: Clips, share: float) -> Clips:
    """The clips with the truth of a share of them, one at least, as motion that is known and that no camera saw.

    The share is drawn by a hash of the ids, so that a larger one holds a smaller one. `original` are the same clips,
    which may have other teachers, and DatasetError names one that is drawn and has no truth.
    """
    draw = sorted(entry.id for entry in clips.entries)
    draw.sort(key=lambda clip_id: hashlib.sha256(f"known/{clip_id}".encode()).digest())
    drawn = set(draw[: count_of(share, len(draw))])
    entries = [
        entry._replace(marks=entry.marks.replace("k", "") + "k") if entry.id in drawn else entry
        for entry in clips.entries
    ]
    return Clips(entries, lambda entry: as_known(original.read(entry)) if entry.id in drawn else clips.read(entry))


def as_known(clip: Clip) -> Clip:
    """The clip with its truth in the place of its teacher, and nothing seen."""
    return dataclasses.replace(with_truth_as_teacher(clip), confidence=np.zeros_like(clip.confidence))


def count_of(share: float, total: int) -> int:
    """Clips of a share, rounded, one at least."""
    return max(1, math.floor(share * total + 0.5))
