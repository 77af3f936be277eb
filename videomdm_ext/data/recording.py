"""One clip as an importer finds it: in one world, before it is turned into features. Importers yield recordings."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from videomdm_ext.data.batch import moved_camera
from videomdm_ext.data.clip import Array, Clip
from videomdm_ext.errors import DatasetError
from videomdm_ext.geometry.cameras import reexpress
from videomdm_ext.motion.features import encode
from videomdm_ext.motion.kinematics import RAW, HeadingRule, canonicalise, heading
from videomdm_ext.motion.skeletons import Skeleton


@dataclass(frozen=True)
class Recording:
    """What one camera saw of one person, and where a lifter puts the joints. Metres, y up, T frames, J joints.

    keypoints [T, J, 2] on the normalised image plane; confidence [T, J]; extrinsics [3, 4] or [T, 3, 4], in the world
    of `lifted` [T, J, 3] and `truth` [T, J, 3] (None where it is not known). `lifted` is None while no lifter has
    worked. intrinsics [3, 3] and image_size (width, height) are kept for drawing where they are known. All tensors are
    float32.

    Where the source holds feature vectors already, `truth_features` and `lifted_features` [T - 1, D] are written as
    they are, bit for bit; the world is then the one that they decode to. `part` names the first row and the row behind
    the last to keep of a clip, cut from everything together.
    """

    id: str
    texts: tuple[str, ...]
    fps: float
    skeleton: Skeleton
    keypoints: Tensor
    confidence: Tensor
    extrinsics: Tensor
    lifted: Tensor | None = None
    truth: Tensor | None = None
    intrinsics: Tensor | None = None
    image_size: tuple[int, int] | None = None
    source: str = ""
    truth_features: Tensor | None = None
    lifted_features: Tensor | None = None
    part: tuple[int, int] | None = None


def to_clip(recording: Recording, rule: HeadingRule = RAW) -> Clip:
    """Teacher and truth as features, each in its own canonical frame, with the camera for each.

    The last frame is dropped, as in HumanML3D's files: it has no difference to a next one.
    """
    if recording.lifted is None:
        raise DatasetError(f"{recording.source or recording.id}: expected a lifted motion, found none. Lift it first.")
    teacher, extrinsics = _features(recording.lifted, recording.lifted_features, recording, rule)
    truth, truth_extrinsics = None, None
    if recording.truth is not None:
        truth, truth_extrinsics = _features(recording.truth, recording.truth_features, recording, rule)
    clip = Clip(
        id=recording.id,
        fps=recording.fps,
        skeleton=recording.skeleton,
        teacher=teacher,
        keypoints=recording.keypoints[:-1].numpy(),
        confidence=recording.confidence[:-1].numpy(),
        extrinsics=extrinsics,
        texts=recording.texts,
        truth=truth,
        truth_extrinsics=truth_extrinsics,
        intrinsics=None if recording.intrinsics is None else recording.intrinsics.numpy(),
        image_size=recording.image_size,
        source=recording.source,
    )
    return clip if recording.part is None else cut(clip, *recording.part)


def _features(positions: Tensor, stored: Tensor | None, recording: Recording, rule: HeadingRule) -> tuple[Array, Array]:
    """Raw features [T - 1, D] of positions [T, J, 3], and the camera in their canonical frame, as many frames."""
    camera, skeleton = recording.extrinsics, recording.skeleton
    if stored is not None:
        return stored.numpy(), (camera[:-1] if camera.ndim == 3 else camera).numpy()
    moved, turned, origin = canonicalise(positions, skeleton, rule)
    shape = camera.shape[:-2]
    seen = reexpress(camera, turned.expand(shape), origin.expand(*shape, 3))
    features = encode(moved, skeleton, heading(moved, skeleton, rule))[:-1]
    return features.numpy(), (seen[:-1] if camera.ndim == 3 else seen).numpy()


def cut(clip: Clip, start: int, stop: int) -> Clip:
    """Frames start to stop - 1 of a clip as a clip of its own: slices of the stored vectors, as MDM cuts them.

    Each camera moves into the canonical frame of the slice (METHOD 6).
    """
    if not 0 <= start < stop <= clip.length:
        raise DatasetError(
            f"{clip.label}: expected a part within {clip.length} frames, found {start} to {stop}. Correct its times."
        )
    rows = slice(start, stop)
    truth, truth_extrinsics = None, None
    if clip.truth is not None and clip.truth_extrinsics is not None:
        truth, truth_extrinsics = clip.truth[rows], moved_camera(clip.truth, clip.skeleton, clip.truth_extrinsics, rows)
    return dataclasses.replace(
        clip,
        teacher=clip.teacher[rows],
        keypoints=clip.keypoints[rows],
        confidence=clip.confidence[rows],
        extrinsics=moved_camera(clip.teacher, clip.skeleton, clip.extrinsics, rows),
        truth=truth,
        truth_extrinsics=truth_extrinsics,
    )


def resample(values: Tensor, frames: Sequence[float] | Tensor) -> Tensor:
    """Values [T, ...] at fractional frame numbers [S], linearly. -> [S, ...]"""
    at = torch.as_tensor(frames, dtype=torch.float64).clamp(0, len(values) - 1)
    low = at.floor().long().clamp_max(max(len(values) - 2, 0))
    high = (low + 1).clamp_max(len(values) - 1)
    share = (at - low).to(values.dtype).reshape(-1, *[1] * (values.ndim - 1))
    return values[low] * (1 - share) + values[high] * share


def frames_at(count: int, fps: float, wanted: float) -> Tensor:
    """Fractional numbers of the frames of a recording of `count` frames at `fps` that a rate of `wanted` shows."""
    last = (count - 1) / fps
    return torch.arange(int(last * wanted + 1e-6) + 1, dtype=torch.float64) * (fps / wanted)
