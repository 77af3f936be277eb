"""One clip: as an importer finds it in its world (Recording), as feature vectors with cameras (Clip), and in batches.

Crops are cut in their own canonical frame and padded; `flatten_observation` gives the flat tensors of an observation.
`measured_error` and `detector_error` are what teachers and keypoints get wrong, where a truth is known.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from videomdm_ext.data.files import Array
from videomdm_ext.errors import DatasetError
from videomdm_ext.geometry.cameras import project, reexpress, reprojection, to_camera
from videomdm_ext.motion.features import decode, decode_root, encode, initial_heading
from videomdm_ext.motion.kinematics import RAW, HeadingRule, canonicalise, heading
from videomdm_ext.motion.measures import measure_error
from videomdm_ext.motion.skeletons import Skeleton
from videomdm_ext.supervision.observation import PREFIX, Observation

MIN_FRAMES = 16  # shorter clips teach no motion
FLOOR = 0.05
"""Quantile over the frames of the lowest joint's height at which the floor is; a single stray frame moves it little."""
ABOVE = 0.3  # height, m, above which the lowest joint is not taken to stand on the floor


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
        unseen = not bool((self.confidence > 0).any())
        return self.truth is not None and unseen and np.array_equal(self.teacher, self.truth)

    @cached_property
    def path(self) -> "Path":
        """Headings and roots of the teacher, for the frames of its crops."""
        return Path.of(self.teacher, self.skeleton)

    @property
    def label(self) -> str:
        """What to call this clip in a message."""
        return self.source or self.id


def with_truth_as_teacher(clip: Clip) -> Clip:
    """The clip with the truth in the place of its teacher, for the ablation; the camera comes with it."""
    if clip.truth is None or clip.truth_extrinsics is None:
        raise DatasetError(
            f"{clip.label}: expected a true motion with its camera, found none. Choose --teacher lifted or "
            "refined, as the arms lifted, refined and 2d do."
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


def moved_camera(path: Path, extrinsics: Array, frames: slice) -> Tensor:
    """A clip's camera [3, 4], or [T, 3, 4] of these frames, in the canonical frame of a crop (METHOD 6)."""
    origin = path.roots[frames.start] * path.roots.new_tensor((1.0, 0.0, 1.0))
    cameras = torch.from_numpy((extrinsics[frames] if extrinsics.ndim == 3 else extrinsics).astype(np.float64))
    shape = cameras.shape[:-2]
    return reexpress(cameras, path.headings[frames.start].expand(shape), origin.expand(*shape, 3)).float()


def crop_camera(path: Path, extrinsics: Array, frames: slice) -> tuple[Tensor, float]:
    """The clip's camera [T, 3, 4] for the canonical frame of a crop, and the heading its rotation channels start at."""
    moved = moved_camera(path, extrinsics, frames).expand(frames.stop - frames.start, 3, 4)
    return moved, path.headings[frames.start].item() + path.initial


@dataclass(frozen=True)
class Recording:
    """What one camera saw of one person, and where a lifter puts the joints. Metres, y up, T frames, J joints.

    keypoints [T, J, 2] on the normalised image plane; confidence [T, J]; extrinsics [3, 4] or [T, 3, 4], in the world
    of `lifted` [T, J, 3] and `truth` [T, J, 3] (None where it is not known). `lifted` is None while no lifter has
    worked. Where the true camera is known beside an estimated one, `truth_extrinsics` is it, in the world of `truth`.
    intrinsics [3, 3] and image_size (width, height) are kept for drawing where they are known. All tensors are
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
    truth_extrinsics: Tensor | None = None
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
    camera, true_camera = recording.extrinsics, recording.truth_extrinsics
    teacher, extrinsics = _features(recording.lifted, recording.lifted_features, camera, recording.skeleton, rule)
    truth, truth_extrinsics = None, None
    if recording.truth is not None:
        camera = camera if true_camera is None else true_camera
        truth, truth_extrinsics = _features(recording.truth, recording.truth_features, camera, recording.skeleton, rule)
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


def _features(
    positions: Tensor, stored: Tensor | None, camera: Tensor, skeleton: Skeleton, rule: HeadingRule
) -> tuple[Array, Array]:
    """Raw features [T - 1, D] of positions [T, J, 3], and the camera in their canonical frame, as many frames."""
    if stored is None:
        features, camera = _canonical(positions, camera, skeleton, rule)
        stored = features[:-1]
    return stored.numpy(), (camera[:-1] if camera.ndim == 3 else camera).numpy()


def _canonical(
    positions: Tensor, camera: Tensor, skeleton: Skeleton, rule: HeadingRule, floor: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Raw features [T, D] of positions [T, J, 3], `floor` put to y = 0, and the camera in their canonical frame."""
    down = positions.new_tensor((0.0, floor, 0.0))
    moved, turned, origin = canonicalise(positions - down, skeleton, rule)
    shape = camera.shape[:-2]
    features = encode(moved, skeleton, heading(moved, skeleton, rule))
    return features, reexpress(camera, turned.expand(shape), (origin + down).expand(*shape, 3))


def replaced(clip: Clip, positions: Tensor, rule: HeadingRule) -> Clip:
    """The clip with these positions [T, J, 3], in its old canonical frame, as its teacher.

    The floor is put where the new feet are, unless they are so far above it that they may stand on something else.
    """
    height, camera = floor_height(positions), torch.from_numpy(clip.extrinsics)
    features, camera = _canonical(positions, camera, clip.skeleton, rule, height if height < ABOVE else 0.0)
    return dataclasses.replace(clip, teacher=features.numpy(), extrinsics=camera.numpy())


def floor_height(positions: Tensor) -> float:
    """Height of the floor under a clip [T, J, 3] with y up, metres: a low quantile of each frame's lowest joint."""
    return float(torch.quantile(positions[..., 1].amin(-1), FLOOR))


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
        path, truth = Path.of(clip.truth, clip.skeleton), clip.truth[rows]
        truth_extrinsics = moved_camera(path, clip.truth_extrinsics, rows).numpy()
    return dataclasses.replace(
        clip,
        teacher=clip.teacher[rows],
        keypoints=clip.keypoints[rows],
        confidence=clip.confidence[rows],
        extrinsics=moved_camera(clip.path, clip.extrinsics, rows).numpy(),
        truth=truth,
        truth_extrinsics=truth_extrinsics,
    )


OBSERVED = ("keypoints", "confidence", "extrinsics", "initial_heading")
"""What a batch holds of an observation, by the names that `Observation` has for them."""


@dataclass(frozen=True)
class Crop:
    """Frames start to start + T of a clip, in the crop's own canonical frame. Tensors, float32.

    teacher and truth [T, D], keypoints [T, J, 2], confidence [T, J], extrinsics and truth_extrinsics [T, 3, 4];
    initial_heading is the radians by which the teacher was turned back; `known` marks motion that is given and that no
    camera saw.
    """

    id: str
    teacher: Tensor
    keypoints: Tensor
    confidence: Tensor
    extrinsics: Tensor
    initial_heading: float
    truth: Tensor | None
    truth_extrinsics: Tensor | None
    known: bool = False

    @property
    def length(self) -> int:
        return len(self.teacher)


def crop(clip: Clip, start: int, length: int, *, with_truth: bool = True) -> Crop:
    """Cut teacher, truth, keypoints, confidence and camera together.

    Features are slices of the stored vectors, as MDM's are; decoding a slice starts again at the origin, facing +z,
    so the camera moves there too (METHOD 6), by the heading and place that the whole clip has at `start`.
    Without `with_truth` the crop has none.
    """
    if start < 0 or length < 1 or start + length > clip.length:
        raise DatasetError(
            f"{clip.label}: expected a crop within {clip.length} frames, found {length} frames from frame {start}. "
            "Choose a shorter crop."
        )
    frames = slice(start, start + length)
    extrinsics, heading = crop_camera(clip.path, clip.extrinsics, frames)
    truth, truth_extrinsics = None, None
    if with_truth and clip.truth is not None and clip.truth_extrinsics is not None:
        truth = _tensor(clip.truth[frames])
        truth_extrinsics, _ = crop_camera(Path.of(clip.truth, clip.skeleton), clip.truth_extrinsics, frames)
    return Crop(
        id=clip.id,
        teacher=_tensor(clip.teacher[frames]),
        keypoints=_tensor(clip.keypoints[frames]),
        confidence=_tensor(clip.confidence[frames]),
        extrinsics=extrinsics,
        initial_heading=heading,
        truth=truth,
        truth_extrinsics=truth_extrinsics,
        known=clip.is_known,
    )


def collate(crops: Sequence[Crop], *, length: int) -> dict[str, Tensor | None]:
    """Pad crops to `length` frames with zeros and stack them.

    -> teacher and truth [B, T, D], keypoints [B, T, J, 2], confidence [B, T, J] (0 in the padding), extrinsics
    [B, T, 3, 4] (those of the last frame in the padding), initial_heading [B], lengths [B], known [B]. `truth` is None
    unless every crop has one, and so is truth_extrinsics.
    """
    longest = max(item.length for item in crops)
    if longest > length:
        raise DatasetError(f"batch: expected crops of at most {length} frames, found {longest}. Crop before collating.")
    truths = [item.truth for item in crops if item.truth is not None]
    cameras = [item.truth_extrinsics for item in crops if item.truth_extrinsics is not None]
    known = len(truths) == len(cameras) == len(crops)
    return {
        "teacher": _padded([item.teacher for item in crops], length),
        "keypoints": _padded([item.keypoints for item in crops], length),
        "confidence": _padded([item.confidence for item in crops], length),
        "extrinsics": _held([item.extrinsics for item in crops], length),
        "initial_heading": torch.tensor([item.initial_heading for item in crops]),
        "truth": _padded(truths, length) if known else None,
        "truth_extrinsics": _held(cameras, length) if known else None,
        "lengths": torch.tensor([item.length for item in crops]),
        "known": torch.tensor([item.known for item in crops]),
    }


def tensor_of(batch: Mapping[str, Tensor | None], name: str) -> Tensor:
    """A tensor of a collated batch that is never missing."""
    tensor = batch[name]
    assert tensor is not None
    return tensor


def observed(batch: Mapping[str, Tensor | None]) -> Observation:
    """What the cameras saw of a collated batch."""
    seen = {name: tensor_of(batch, name) for name in OBSERVED}
    frames = torch.arange(seen["keypoints"].shape[1], device=seen["keypoints"].device)
    return Observation.of(**seen, valid=frames < tensor_of(batch, "lengths").unsqueeze(1))


def flatten_observation(batch: Mapping[str, Tensor | None], *, mixed: bool = False) -> dict[str, Tensor]:
    """The observed tensors of a collated batch under the keys that `Observation.take` looks for in `cond['y']`.

    `mixed` adds which clips are known, for data sets that hold some.
    """
    observed = {name: batch[name] for name in (*OBSERVED, *(("known",) if mixed else ()))}
    return {PREFIX + name: tensor for name, tensor in observed.items() if tensor is not None}


def _tensor(values: Array) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))


def _padded(tensors: Sequence[Tensor], length: int) -> Tensor:
    """Stack [t, ...] tensors as [B, length, ...], zero behind their ends."""
    return torch.stack([torch.cat((t, t.new_zeros(length - len(t), *t.shape[1:]))) for t in tensors])


def _held(tensors: Sequence[Tensor], length: int) -> Tensor:
    """Stack [t, ...] tensors as [B, length, ...], the last frame repeated behind their ends."""
    return torch.stack([torch.cat((t, t[-1:].expand(length - len(t), *t.shape[1:]))) for t in tensors])


# -- what teachers and keypoints get wrong -----------------------------------------------------------------------------


def teacher_of(clip: Clip) -> Tensor:
    """A clip's teacher in camera coordinates, [T, J, 3]."""
    return to_camera(decode(torch.from_numpy(clip.teacher), clip.skeleton), cameras_of(clip.extrinsics))


def truth_of(clip: Clip) -> Tensor | None:
    """A clip's truth in camera coordinates, [T, J, 3], where it is known."""
    if clip.truth is None or clip.truth_extrinsics is None:
        return None
    return to_camera(decode(torch.from_numpy(clip.truth), clip.skeleton), cameras_of(clip.truth_extrinsics))


def cameras_of(extrinsics: Array) -> Tensor:
    """Extrinsics [1, 3, 4] or [T, 3, 4] of a clip's [3, 4] or [T, 3, 4]."""
    return torch.from_numpy(extrinsics).reshape(-1, 3, 4)


def reprojection_error(clip: Clip) -> float:
    """Weighted RMS distance of a clip's projected teacher from its keypoints, on the normalised image plane."""
    keypoints = torch.from_numpy(clip.keypoints)
    weight = torch.from_numpy(clip.confidence) * torch.isfinite(keypoints).all(-1)
    return reprojection(teacher_of(clip), keypoints.nan_to_num(), weight)


def measured_error(clips: Sequence[Clip], refined: Sequence[Clip] | None = None) -> dict[str, float]:
    """What the teachers of clips, or refined ones, get wrong, seen from their cameras, mean over those with a truth.

    The figures of `measure_error`, rounded to five digits behind the point; empty where no clip has a truth.
    """
    rows = []
    for clip, made in zip(clips, refined or clips, strict=True):
        if (true := truth_of(clip)) is not None:
            rows.append(measure_error(teacher_of(made), true, clip.skeleton, fps=clip.fps))
    return {name: round(sum(row[name] for row in rows) / len(rows), 5) for name in rows[0]} if rows else {}


def detector_error(clips: Sequence[Clip]) -> dict[str, float]:
    """Distances of the keypoints from the projected truth, over all joints seen, in units of the focal length.

    The median, the 90 and the 99 % quantile; the share of joints not seen; the share of frames whose left and right are
    exchanged. Empty where no clip has a truth and keypoints.
    """
    distances, unseen, exchanged = [], [], []
    for clip in clips:
        if clip.truth is None or clip.truth_extrinsics is None or clip.is_known:
            continue
        points, _ = project(decode(torch.from_numpy(clip.truth), clip.skeleton), cameras_of(clip.truth_extrinsics))
        keypoints, seen = torch.from_numpy(clip.keypoints), torch.from_numpy(clip.confidence) > 0
        distances.append((keypoints - points).norm(dim=-1)[seen])
        unseen.append(~seen)
        sides = list(clip.skeleton.mirror)
        own, other = ((keypoints - p).norm(dim=-1).where(seen, 0.0).sum(-1) for p in (points, points[:, sides]))
        exchanged.append(other < 0.5 * own)
    if not distances:
        return {}
    whole = torch.cat(distances)
    whole = whole[:: max(len(whole) // 1_000_000, 1)]  # torch.quantile takes no more than 16 million
    found = {name: torch.quantile(whole, q) for name, q in (("median", 0.5), ("q90", 0.9), ("q99", 0.99))}
    found |= {"unseen": torch.cat(unseen).float().mean(), "exchanged": torch.cat(exchanged).float().mean()}
    return {name: round(float(value), 5) for name, value in found.items()}
