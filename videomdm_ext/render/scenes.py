"""Scenes of clips: teacher, refined teacher and truth in one frame, as the clip's camera relates them."""

from collections.abc import Mapping

import numpy as np
import torch

from videomdm_ext.data.clip import Clip
from videomdm_ext.data.files import Array
from videomdm_ext.geometry.cameras import to_camera, to_world
from videomdm_ext.motion.features import decode
from videomdm_ext.render.page import Scene, Track, View


def clip_scene(clip: Clip, *, refined: Clip | None = None, more: Mapping[str, Array] | None = None) -> Scene:
    """The motions of a clip in the frame of its truth, or of its teacher where the truth is not known.

    The truth comes first, then the teacher. `refined` is the clip with its refined teacher; `more` are further motions
    [T, J, 3] in the frame of the teacher, by name. All move by what the camera sees: where it saw them is kept.
    """
    base = clip.extrinsics if clip.truth_extrinsics is None else clip.truth_extrinsics
    motions: dict[str, Array] = {}
    if clip.truth is not None:
        motions["truth"] = _decoded(clip, clip.truth)
    if not clip.is_known:
        motions["teacher"] = _moved(_decoded(clip, clip.teacher), clip.extrinsics, base)
    if refined is not None and not clip.is_known:
        motions["refined teacher"] = _moved(_decoded(refined, refined.teacher), refined.extrinsics, base)
    for name, positions in (more or {}).items():
        motions[name] = _moved(positions, clip.extrinsics, base)
    view = None if clip.is_known else View(base, clip.keypoints, clip.confidence)
    tracks = [Track.of(name, positions, clip.skeleton) for name, positions in motions.items()]
    return Scene(clip.texts[0], tracks, view)


def _decoded(clip: Clip, features: Array) -> Array:
    return decode(torch.from_numpy(features.astype(np.float64)), clip.skeleton).numpy()


def _moved(positions: Array, old: Array, new: Array) -> Array:
    """Positions [T, J, 3] that the camera `old` sees, placed where `new`, the same camera in another frame, sees them
    alike."""
    before, after = (torch.from_numpy(np.asarray(camera, np.float64)).reshape(-1, 3, 4) for camera in (old, new))
    points = torch.from_numpy(np.asarray(positions, np.float64))
    return to_world(to_camera(points, before), after).numpy()
