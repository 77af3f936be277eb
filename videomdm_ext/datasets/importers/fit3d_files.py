"""The JSON files of Fit3D: cameras, and numbers that are checked."""

import json
from typing import Any

import numpy as np
import torch
from torch import Tensor

from videomdm_ext.datasets import files
from videomdm_ext.datasets.importers.joints import y_up
from videomdm_ext.errors import DatasetError


def read_camera(place: str) -> tuple[Tensor, Tensor | None]:
    """Extrinsics [3, 4] in the world with y up, and intrinsics [3, 3] of the undistorted image, from one camera's file.

    The stored world has z up: X = (x, y, z) is (x, z, -y) here.
    """
    stored = read_json(place)
    extrinsics = stored.get("extrinsics")
    extrinsics = extrinsics if isinstance(extrinsics, dict) else {}
    rotation = numbers(extrinsics.get("R"), place, "extrinsics R", (3, 3)).double()
    centre = numbers(extrinsics.get("T"), place, "extrinsics T", (3,)).double()
    turned = y_up(rotation)
    seen = torch.cat((turned, -(turned @ y_up(centre)).unsqueeze(-1)), -1).float()
    lens = stored.get("intrinsics_wo_distortion") or stored.get("intrinsics_w_distortion")
    if not isinstance(lens, dict):
        return seen, None
    focal = numbers(lens.get("f"), place, "intrinsics f", (2,))
    middle = numbers(lens.get("c"), place, "intrinsics c", (2,))
    intrinsics = torch.eye(3)
    intrinsics[0, 0], intrinsics[1, 1] = focal
    intrinsics[:2, 2] = middle
    return seen, intrinsics


def read_json(place: str) -> dict[str, Any]:
    """The object of a JSON file."""
    try:
        found = json.loads(files.read_text(place, limit=files.JSON_LIMIT))
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{place}: expected JSON, found other text ({error}). Download the file again.") from error
    if not isinstance(found, dict):
        raise DatasetError(f"{place}: expected names with values, found {type(found).__name__}. Download it again.")
    return found


def numbers(values: object, place: str, what: str, shape: tuple[int | None, ...]) -> Tensor:
    """Finite numbers of a JSON file, [shape] with None for any length; leading axes of length 1 do not matter."""
    try:
        array = np.asarray(values, dtype=np.float32)
        wanted = tuple(-1 if length is None else length for length in shape)
        if None not in shape or array.ndim != len(shape):
            array = array.reshape(wanted)
        good = all(length is None or length == found for length, found in zip(shape, array.shape, strict=True))
    except (ValueError, TypeError, OverflowError):
        array, good = np.zeros(0, dtype=np.float32), False
    if not good or not np.isfinite(array).all():
        expected = [length or "T" for length in shape]
        raise DatasetError(f"{place}: expected numbers {what} {expected}, found others. Download the file again.")
    return torch.from_numpy(array)
