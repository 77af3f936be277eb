"""One clip: as an importer finds it in its world (Recording), and as feature vectors with cameras (Clip)."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from videomdm_ext.data.files import Array
from videomdm_ext.errors import DatasetError
from videomdm_ext.geometry.cameras import is_rotation, reexpress
from videomdm_ext.motion.features import decode, decode_root, encode
from videomdm_ext.motion.initial_heading import initial_heading
from videomdm_ext.motion.kinematics import RAW, HeadingRule, canonicalise, heading
from videomdm_ext.motion.skeletons import Skeleton

MIN_FRAMES = 16
"""Shorter clips teach no motion."""
WIDEST_IMAGE = 5.0
"""Largest |u| or |v| of a keypoint on the normalised plane: 79 degrees off the axis; pixels are far beyond it."""
FARTHEST_JOINT = 100.0
"""Metres from the start of the clip."""
TALLEST_CLIP = 10.0
"""Metres between the lowest and the highest joint of a clip."""
SMALLEST_PERSON = 0.2
"""Metres; the largest extent of a pose is at least this."""


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


def validate(clip: Clip, *, fps: float, min_frames: int = MIN_FRAMES) -> None:
    """Refuse a clip that cannot be trained on: DatasetError names it, what was expected and found, and what to do."""
    _check_length_and_rate(clip, fps, min_frames)
    _check_shapes(clip)
    _check_texts(clip)
    _check_numbers(clip)
    _check_camera(clip, "extrinsics", clip.extrinsics)
    if clip.truth_extrinsics is not None:
        _check_camera(clip, "truth_extrinsics", clip.truth_extrinsics)
    _check_image(clip)
    _check_motion(clip, "teacher", clip.teacher)
    if clip.truth is not None:
        _check_motion(clip, "truth", clip.truth)


def _refuse(clip: Clip, expected: object, found: object, advice: str) -> DatasetError:
    return DatasetError(f"{clip.label}: expected {expected}, found {found}. {advice}")


def _check_length_and_rate(clip: Clip, fps: float, min_frames: int) -> None:
    if not math.isclose(clip.fps, fps, rel_tol=1e-3):
        raise _refuse(clip, f"{fps:g} fps", f"{clip.fps:g} fps", "Resample the motion and its 2D keypoints together.")
    if clip.teacher.ndim < 1 or clip.length < min_frames:
        found = clip.length if clip.teacher.ndim else 0
        raise _refuse(clip, f"at least {min_frames} frames", found, "Leave the clip out.")


def _check_shapes(clip: Clip) -> None:
    """Joint count and lengths; a wrong joint count is told apart from a wrong length."""
    frames, joints, width = clip.length, clip.skeleton.num_joints, clip.skeleton.num_features
    expected = {"teacher": (frames, width), "keypoints": (frames, joints, 2), "confidence": (frames, joints)}
    if clip.truth is not None:
        expected["truth"] = (frames, width)
    for name, shape in expected.items():
        found = getattr(clip, name).shape
        if found == shape:
            continue
        if len(found) == len(shape) and found[1:] != shape[1:]:
            what, advice = _joint_count(clip, name, found), "Re-import it with the skeleton that it has."
            raise _refuse(clip, f"{name} of {clip.skeleton.name} ({joints} joints, {list(shape)})", what, advice)
        advice = "Cut teacher, truth, keypoints and camera to the same frames."
        raise _refuse(clip, f"{name} {list(shape)}, as long as the teacher", list(found), advice)
    if (clip.truth is None) != (clip.truth_extrinsics is None):
        advice = "Give both, or neither."
        raise _refuse(clip, "a true motion with truth_extrinsics, its camera", "only one of the two", advice)


def _joint_count(clip: Clip, name: str, shape: tuple[int, ...]) -> str:
    """The joint count that a wrong shape tells."""
    if name in ("teacher", "truth"):
        joints, rest = divmod(shape[1] + 1, 12)
        return f"{shape[1]} channels ({joints} joints)" if rest == 0 else f"{shape[1]} channels, of no skeleton"
    return f"{shape[1]} joints, {list(shape)}"


def _check_texts(clip: Clip) -> None:
    if not clip.texts:
        raise _refuse(clip, "at least one caption", "none", "Write one, or leave the clip out.")
    for text in clip.texts:
        if not text.strip():
            raise _refuse(clip, "captions with words", "an empty text", "Write the caption, or remove the line.")
        if "#" in text or "\n" in text:
            raise _refuse(clip, "captions without '#' and line breaks", repr(text), "Remove them.")


def _check_numbers(clip: Clip) -> None:
    """No NaN, and no infinity, wherever an entry counts; confidence in [0, 1]."""
    arrays: dict[str, Any] = {"confidence": clip.confidence, "teacher": clip.teacher, "extrinsics": clip.extrinsics}
    arrays |= {"truth": clip.truth, "truth_extrinsics": clip.truth_extrinsics}
    for name, values in arrays.items():
        if values is not None and not np.isfinite(values).all():
            bad, first = _first(~np.isfinite(values))
            raise _refuse(clip, f"numbers in {name}", f"{bad} NaN or infinite, the first at {first}", "Make it again.")
    outside = (clip.confidence < 0) | (clip.confidence > 1)
    if outside.any():
        _, first = _first(outside)
        advice = "Scale the detector's scores."
        raise _refuse(clip, "confidence from 0 to 1", f"{clip.confidence[first]:g} at {first}", advice)


def _check_camera(clip: Clip, name: str, extrinsics: Array) -> None:
    if extrinsics.shape not in ((3, 4), (clip.length, 3, 4)):
        expected = f"{name} [3, 4] or {[clip.length, 3, 4]}"
        raise _refuse(clip, expected, list(extrinsics.shape), "Give one matrix [R | t], or one a frame.")
    good = is_rotation(torch.tensor(extrinsics))
    if not bool(good.all()):
        matrix = extrinsics.reshape(-1, 3, 4)[int(torch.argmin(good.reshape(-1).int()))][:, :3]
        found = f"one with determinant {np.linalg.det(matrix.astype(np.float64)):.3f}"
        advice = "Give [R | t] with x right, y down, z forward, X_camera = R X + t, without intrinsics."
        raise _refuse(clip, f"a rotation in {name}", found, advice)


def _check_image(clip: Clip) -> None:
    seen = clip.confidence > 0
    if clip.is_known:
        return
    if not seen.any():
        advice = "Leave the clip out; motion that no camera saw needs the truth as its teacher."
        raise _refuse(clip, "keypoints with a confidence above 0", "none", advice)
    with np.errstate(invalid="ignore"):
        sane = (np.abs(clip.keypoints) <= WIDEST_IMAGE).all(-1)
    if (seen & ~sane).any():
        _, first = _first(seen & ~sane)
        expected = f"keypoints within +-{WIDEST_IMAGE:g} on the normalised image plane"
        found = f"{np.round(clip.keypoints[first], 3).tolist()} at frame and joint {first}"
        advice = "Remove the intrinsics from pixels first, and give keypoints that were not found confidence 0."
        raise _refuse(clip, expected, found, advice)


def _check_motion(clip: Clip, name: str, features: Array) -> None:
    """The decoded motion is one of a person in metres."""
    positions = decode(torch.tensor(features), clip.skeleton)
    farthest = torch.linalg.vector_norm(positions, dim=-1).max().item()
    height = (positions[..., 1].max() - positions[..., 1].min()).item()
    size = (positions.amax(-2) - positions.amin(-2)).amax().item()
    advice = "Are the units metres, not millimetres? The features must be raw, not z-scored; make them again."
    if farthest > FARTHEST_JOINT:
        raise _refuse(clip, f"a {name} within {FARTHEST_JOINT:g} m", f"a joint {farthest:.4g} m away", advice)
    if height > TALLEST_CLIP:
        raise _refuse(clip, f"a {name} within {TALLEST_CLIP:g} m of height", f"{height:.4g} m", advice)
    if size < SMALLEST_PERSON:
        advice = advice.replace("not millimetres", "not kilometres")
        raise _refuse(clip, f"a person of at least {SMALLEST_PERSON:g} m in the {name}", f"{size:.4g} m", advice)


def _first(bad: NDArray[np.bool_]) -> tuple[int, tuple[int, ...]]:
    """How many entries are bad, and where the first one is."""
    where = np.argwhere(bad)
    return len(where), tuple(int(i) for i in where[0])
