"""The contract of lifters: what they declare, what they see, what they return. The checks come with the base class."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from videomdm_ext.errors import DatasetError, PluginError
from videomdm_ext.geometry import cameras
from videomdm_ext.motion.skeletons import Skeleton


@dataclass(frozen=True)
class LifterInfo:
    """What a lifter declares. `fps` is the frame rate it was made for, None for any."""

    name: str
    skeleton: Skeleton
    units: str = "m"
    up_axis: str = "y"
    fps: float | None = None

    def __post_init__(self) -> None:
        for field, expected in (("units", "m"), ("up_axis", "y")):
            found = getattr(self, field)
            if found != expected:
                raise PluginError(
                    f"lifter {self.name!r}: declares {field} {found!r}, expected {expected!r}. "
                    "Convert inside the lifter and declare what it returns."
                )
        if self.fps is not None and not (math.isfinite(self.fps) and self.fps > 0):
            raise PluginError(f"lifter {self.name!r}: declares {self.fps} fps, expected a positive number or None.")


class Lifter(ABC):
    """Makes a 3D motion from what one camera saw. A subclass sets `info` and writes `positions`."""

    info: LifterInfo

    @abstractmethod
    def positions(
        self, clip_id: str, keypoints: Tensor, confidence: Tensor, extrinsics: Tensor, fps: float, truth: Tensor | None
    ) -> Tensor:
        """Lift one clip; called by `lift`, which has checked the arguments. Extrinsics are always [T, 3, 4]."""

    def lift(
        self,
        clip_id: str,
        *,
        keypoints: Tensor,
        confidence: Tensor,
        extrinsics: Tensor,
        fps: float,
        truth: Tensor | None = None,
    ) -> Tensor:
        """Lift one clip. -> positions [T, J, 3] in the world of the camera, metres, y up.

        Keypoints [T, J, 2] on the normalised plane, confidence [T, J] in [0, 1], extrinsics [3, 4] or [T, 3, 4].
        `truth` [T, J, 3], in the same world, is for lifters that imitate the errors of real ones; others leave it be.
        """
        frames, joints, name = keypoints.shape[0], self.info.skeleton.num_joints, self.info.name
        moving = extrinsics if extrinsics.ndim == 3 else extrinsics.expand(frames, 3, 4)
        seen = {"keypoints": (keypoints, (frames, joints, 2)), "confidence": (confidence, (frames, joints))}
        seen |= {"extrinsics": (moving, (frames, 3, 4))}
        seen |= {} if truth is None else {"truth": (truth, (frames, joints, 3))}
        for what, (tensor, shape) in seen.items():
            if tuple(tensor.shape) != shape:
                raise DatasetError(
                    f"{clip_id}: {what} {list(tensor.shape)}, but the lifter {name!r} expects {list(shape)} "
                    f"({self.info.skeleton.name}). Convert the clip, or choose another lifter."
                )
        if self.info.fps is not None and abs(fps - self.info.fps) > 1e-3:
            expected = f"lifter {name!r} expects {self.info.fps:g}"
            raise DatasetError(f"{clip_id}: {fps:g} fps, but {expected}. Resample the clip.")
        if not bool(cameras.is_rotation(moving).all()):
            raise DatasetError(f"{clip_id}: expected a camera [R | t] with R a rotation, found none. Correct it.")
        lifted: object = self.positions(clip_id, keypoints, confidence, moving, fps, truth)
        if not isinstance(lifted, Tensor) or tuple(lifted.shape) != (frames, joints, 3):
            found = list(lifted.shape) if isinstance(lifted, Tensor) else type(lifted).__name__
            raise PluginError(
                f"lifter {name!r}: returned {found} for {clip_id}, expected a tensor {[frames, joints, 3]} "
                f"({self.info.skeleton.name}). Correct the lifter, or the skeleton that it declares."
            )
        if not bool(torch.isfinite(lifted).all()):
            raise PluginError(f"lifter {name!r}: NaN or infinite positions for {clip_id}. Correct it.")
        return lifted
