"""The JSON files of Fit3D: cameras, its list of subjects and takes, and numbers that are checked."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import blobfile as bf
import numpy as np
import torch
from torch import Tensor

from videomdm_ext.data import files
from videomdm_ext.data.sources.joints import y_up
from videomdm_ext.errors import DatasetError

ITERATIONS = 20
"""Rounds in which a lens's distortion is removed."""


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


@dataclass(frozen=True)
class Lens:
    """Focal lengths and centre [2] in pixels of the videos, and their distortion, radial [3] and tangential [2].

    The source's own formula: with q the tangential pair exchanged, x becomes x (1 + k1 r^2 + k2 r^4 + k3 r^6 + q.x) +
    r^2 q, in which OpenCV has 2 q.x.
    """

    focal: Tensor
    centre: Tensor
    radial: Tensor
    tangential: Tensor

    def distort(self, points: Tensor) -> Tensor:
        """Points [..., 2] of the normalised plane as the lens bends them."""
        r2 = points.square().sum(-1, keepdim=True)
        crossed = self.tangential.flip(-1)
        powers = torch.cat((r2, r2.square(), r2**3), -1)
        along = 1 + (powers * self.radial).sum(-1, keepdim=True) + (points * crossed).sum(-1, keepdim=True)
        return points * along + r2 * crossed

    def on_plane(self, pixels: Tensor) -> Tensor:
        """Pixels [..., 2] on the normalised plane, the distortion removed by fixed-point iteration."""
        bent = (pixels - self.centre) / self.focal
        points = bent
        for _ in range(ITERATIONS):
            points = points + bent - self.distort(points)
        return points


def read_lens(place: str) -> Lens:
    """The lens of the videos from one camera's file."""
    stored = read_json(place).get("intrinsics_w_distortion")
    stored = stored if isinstance(stored, dict) else {}
    sizes = {"f": 2, "c": 2, "k": 3, "p": 2}
    found = [numbers(stored.get(key), place, f"intrinsics_w_distortion {key}", (n,)) for key, n in sizes.items()]
    return Lens(*(values.double() for values in found))


@dataclass(frozen=True)
class Info:
    """What fit3d_info.json says: the takes of every subject, and the subjects that are not for training."""

    actions: Mapping[str, tuple[str, ...]]
    tested: frozenset[str]


def read_info(root: str) -> Info:
    """The list beside the folder `root` of the subjects, or in it; empty where there is none."""
    places = [bf.join(folder, "fit3d_info.json") for folder in (bf.dirname(root.rstrip("/")), root)]
    found = [place for place in places if bf.exists(place)]
    stored = read_json(found[0]) if found else {}
    takes = stored.get("subj_to_act")
    actions = {name: _names(listed) for name, listed in takes.items()} if isinstance(takes, dict) else {}
    trained = _names(stored.get("train_subj_names"))
    return Info(actions, frozenset(actions) - frozenset(trained) if trained else frozenset())


def _names(listed: object) -> tuple[str, ...]:
    """The names in a list; none where it is no list of names."""
    return tuple(name for name in listed if isinstance(name, str)) if isinstance(listed, list) else ()


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
