"""What a camera saw of a batch of clips: keypoints, their weight, the camera, and which frames exist."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

PREFIX = "observation/"
"""Keys of the flat tensors in the host's `cond['y']`: the host moves tensors, not objects, to the device."""


@dataclass(frozen=True)
class Observation:
    """Tensors of B clips of T frames and J joints. Make one with `take`, which silences what was not seen.

    keypoints [B, T, J, 2] on the normalised image plane, weight [B, T, J] = validity times squared confidence
    (METHOD 3), extrinsics [B, T, 3, 4], initial_heading [B] (radians, of the crop in its clip), valid [B, T] bool.
    known [B] bool, in mixed data sets: clips whose motion is given, which no camera saw.
    """

    keypoints: Tensor
    weight: Tensor
    extrinsics: Tensor
    initial_heading: Tensor
    valid: Tensor
    known: Tensor | None = None

    @classmethod
    def of(
        cls,
        *,
        keypoints: Tensor,
        confidence: Tensor,
        extrinsics: Tensor,
        initial_heading: Tensor,
        valid: Tensor,
        known: Tensor | None = None,
    ) -> "Observation":
        """From keypoints [B, T, J, 2], confidence [B, T, J], valid [B, T]; unseen and padded entries may hold anything.

        An infinite or NaN keypoint is unseen.
        """
        usable = valid.unsqueeze(-1) & (confidence > 0) & torch.isfinite(keypoints).all(-1)
        still = torch.eye(3, 4, dtype=extrinsics.dtype, device=extrinsics.device)
        return cls(
            keypoints=torch.where(usable.unsqueeze(-1), keypoints, 0.0),
            weight=torch.where(usable, confidence, 0.0).square(),
            extrinsics=torch.where(valid[..., None, None], extrinsics, still),
            initial_heading=initial_heading,
            valid=valid,
            known=known,
        )

    @classmethod
    def take(cls, y: Mapping[str, Any]) -> tuple["Observation", dict[str, Any]]:
        """Split the host's `cond['y']` into the observation and the rest, before network or guidance can copy it."""
        mine = {key.removeprefix(PREFIX): value for key, value in y.items() if key.startswith(PREFIX)}
        rest = {key: value for key, value in y.items() if not key.startswith(PREFIX)}
        valid = y["mask"].flatten(1)
        return cls.of(**mine, valid=valid), rest

    def repeat(self, times: int) -> "Observation":
        """The same clips `times` over, along the batch."""
        parts = {item.name: getattr(self, item.name) for item in fields(self)}
        parts = {name: value for name, value in parts.items() if value is not None}
        return Observation(**{name: value.repeat(times, *(1,) * (value.ndim - 1)) for name, value in parts.items()})
