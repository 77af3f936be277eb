"""From clips to batches: crops in their own canonical frame, padded, and the flat tensors of an observation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from videomdm_ext.data.clip import Clip, Path, crop_camera
from videomdm_ext.data.files import Array
from videomdm_ext.errors import DatasetError
from videomdm_ext.supervision.observation import PREFIX

OBSERVED = ("keypoints", "confidence", "extrinsics", "initial_heading")
"""What a batch holds of an observation, by the names that `Observation` has for them."""


@dataclass(frozen=True)
class Crop:
    """Frames start to start + T of a clip, in the crop's own canonical frame. Tensors, float32.

    teacher and truth [T, D], keypoints [T, J, 2], confidence [T, J], extrinsics and truth_extrinsics [T, 3, 4];
    initial_heading and truth_heading are the radians by which the crop was turned back, in the teacher and the truth;
    `known` marks motion that is given and that no camera saw.
    """

    id: str
    teacher: Tensor
    keypoints: Tensor
    confidence: Tensor
    extrinsics: Tensor
    initial_heading: float
    truth: Tensor | None
    truth_extrinsics: Tensor | None
    truth_heading: float | None
    known: bool = False

    @property
    def length(self) -> int:
        return len(self.teacher)


def crop(clip: Clip, start: int, length: int, *, path: Path | None = None, with_truth: bool = True) -> Crop:
    """Cut teacher, truth, keypoints, confidence and camera together.

    Features are slices of the stored vectors, as MDM's are; decoding a slice starts again at the origin, facing +z,
    so the camera moves there too (METHOD 6), by the heading and place that the whole clip has at `start`.
    `path` is the teacher's, where it is at hand already; without `with_truth` the crop has none.
    """
    if start < 0 or length < 1 or start + length > clip.length:
        raise DatasetError(
            f"{clip.label}: expected a crop within {clip.length} frames, found {length} frames from frame {start}. "
            "Choose a shorter crop."
        )
    frames = slice(start, start + length)
    extrinsics, heading = crop_camera(path or Path.of(clip.teacher, clip.skeleton), clip.extrinsics, frames)
    truth, truth_extrinsics, truth_heading = None, None, None
    if with_truth and clip.truth is not None and clip.truth_extrinsics is not None:
        truth = _tensor(clip.truth[frames])
        truth_extrinsics, truth_heading = crop_camera(Path.of(clip.truth, clip.skeleton), clip.truth_extrinsics, frames)
    return Crop(
        id=clip.id,
        teacher=_tensor(clip.teacher[frames]),
        keypoints=_tensor(clip.keypoints[frames]),
        confidence=_tensor(clip.confidence[frames]),
        extrinsics=extrinsics,
        initial_heading=heading,
        truth=truth,
        truth_extrinsics=truth_extrinsics,
        truth_heading=truth_heading,
        known=clip.is_known,
    )


def collate(crops: Sequence[Crop], *, length: int) -> dict[str, Tensor | None]:
    """Pad crops to `length` frames with zeros and stack them.

    -> teacher and truth [B, T, D], keypoints [B, T, J, 2], confidence [B, T, J] (0 in the padding), extrinsics
    [B, T, 3, 4] (those of the last frame in the padding), initial_heading [B], lengths [B], known [B]. `truth` is None
    unless every crop has one, and so are truth_extrinsics and truth_heading.
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
        "truth_heading": torch.tensor([item.truth_heading for item in crops]) if known else None,
        "lengths": torch.tensor([item.length for item in crops]),
        "known": torch.tensor([item.known for item in crops]),
    }


def tensor_of(batch: Mapping[str, Tensor | None], name: str) -> Tensor:
    """A tensor of a collated batch that is never missing."""
    tensor = batch[name]
    assert tensor is not None
    return tensor


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
    padded = tensors[0].new_zeros((len(tensors), length, *tensors[0].shape[1:]))
    for row, tensor in zip(padded, tensors, strict=True):
        row[: len(tensor)] = tensor
    return padded


def _held(tensors: Sequence[Tensor], length: int) -> Tensor:
    """Stack [t, ...] tensors as [B, length, ...], the last frame repeated behind their ends."""
    padded = _padded(tensors, length)
    for row, tensor in zip(padded, tensors, strict=True):
        row[len(tensor) :] = tensor[-1]
    return padded
