"""One clip: as an importer finds it in its world (Recording), and as feature vectors with cameras (Clip)."""

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from videomdm_ext.data.files import Array
from videomdm_ext.errors import DatasetError
from videomdm_ext.geometry.cameras import reexpress
from videomdm_ext.motion.features import decode_root, encode, initial_heading
from videomdm_ext.motion.kinematics import RAW, HeadingRule, canonicalise, heading
from videomdm_ext.motion.skeletons import Skeleton

MIN_FRAMES = 16  # shorter clips teach no motion


@dataclass(frozen=True)
class Clip:
    """One clip as one camera saw it. Arrays are float32; T frames, J joints, D channels.

    teacher [T, D] raw features of the lifted motion; keypoints [T, J, 2] on the normalised image plane, of any value
    (NaN too) where confidence [T, J] is 0; extrinsics [3, 4], or [T, 3, 4] of a moving camera, in the teacher's
    canonical frame. truth [T, D] raw features of the true motion and truth_extrinsics, the same camera in the canonical
    frame of the truth, are None where nothing is known; the teacher never stands in for them. intrinsics [3, 3] and
    image_size (width, height), where known, serve to draw keypoints on the video. `source` is the file or name that
    messages show.
    """

    id: str
    fps: float
    skeleton: Skeleton
    teacher: Array
    keypoints: Array
    confidence: Array
    extrinsics: Array
    texts: tuple[str, ...]
    truth: Array | None = None
    truth_extrinsics: Array | None = None
    intrinsics: Array | None = None
    image_size: tuple[int, int] | None = None
    source: str = ""

    @property
    def length(self) -> int:
        """Number of frames T."""
        return len(self.teacher)

    @property
    def is_known(self) -> bool:
        """Whether the motion itself is given and no camera saw it: its teacher is the truth. Such a clip supervises
        in 3D, also beside clips that supervise in 2D."""
        if self.truth is None or bool((self.confidence > 0).any()):
            return False
        return np.array_equal(self.teacher, self.truth)

    @property
    def label(self) -> str:
        """What to call this clip in a message."""
        return self.source or self.id


def with_truth_as_teacher(clip: Clip) -> Clip:
    """The clip with the truth in the place of its teacher, for the ablation; the camera comes with it."""
    if clip.truth is None or clip.truth_extrinsics is None:
        raise DatasetError(
            f"{clip.label}: expected a true motion with its camera, found none. Use the lifted teacher instead."
        )
    return dataclasses.replace(clip, teacher=clip.truth, extrinsics=clip.truth_extrinsics)


@dataclass(frozen=True)
class Path:
    """Headings [T] and roots [T, 3] of a motion, float64: where the canonical frame of each crop lies in its clip.

    `initial` is the heading that the first frame itself had when its rotation channels were made: 0, unless the vectors
    were cut from a longer clip or canonicalised by another rule than their headings'.
    """

    headings: Tensor
    roots: Tensor
    initial: float = 0.0

    @classmethod
    def of(cls, features: Array, skeleton: Skeleton) -> "Path":
        """From raw features [T, D]."""
        raw = torch.from_numpy(features.astype(np.float64))
        return cls(*decode_root(raw, skeleton), initial_heading(raw, skeleton))


def moved_camera(features: Array, skeleton: Skeleton, extrinsics: Array, frames: slice) -> Array:
    """A clip's camera [3, 4], or [T, 3, 4] of these frames, in the canonical frame of a crop."""
    path = Path.of(features, skeleton)
    heading, origin = _place(path, frames.start)
    cameras = torch.from_numpy((extrinsics[frames] if extrinsics.ndim == 3 else extrinsics).astype(np.float64))
    shape = cameras.shape[:-2]
    return reexpress(cameras, heading.expand(shape), origin.expand(*shape, 3)).float().numpy()


def _place(path: Path, start: int) -> tuple[Tensor, Tensor]:
    """Heading [] and ground position [3] of the clip at a frame."""
    return path.headings[start], path.roots[start] * path.roots.new_tensor((1.0, 0.0, 1.0))


def crop_camera(path: Path, extrinsics: Array, frames: slice) -> tuple[Tensor, float]:
    """The clip's camera [T, 3, 4] for the canonical frame of a crop, and the heading its rotation channels start at."""
    count = frames.stop - frames.start
    heading, origin = _place(path, frames.start)
    cameras = torch.from_numpy((extrinsics[frames] if extrinsics.ndim == 3 else extrinsics[None]).astype(np.float64))
    moved = reexpress(cameras, heading.expand(len(cameras)), origin.expand(len(cameras), 3)).float()
    return moved.expand(count, 3, 4), heading.item() + path.initial


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
