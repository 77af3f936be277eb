"""What a lifter outside this package made of the clips: a folder of joints, one file a clip."""

import re

import blobfile as bf
import torch
from torch import Tensor

from videomdm_ext.data import files
from videomdm_ext.errors import DatasetError
from videomdm_ext.geometry.cameras import to_world

FRAMES_OF = ("camera", "world")
"""Whose axes a lifter's results are in: the camera's (x right, y down, z forward) or the world's (y up)."""


def read_results(folder: str, names: tuple[str, ...], *joints: int) -> tuple[str, Tensor]:
    """The first of these names that has a file DIR/NAME.npy, or DIR/NAME.npz with `joints`, and its [T, J, 3].

    J is one of `joints`. DatasetError where there is none, or where it is of another shape or has gaps.
    """
    for name in names:
        for ending in (".npy", ".npz"):
            place = bf.join(folder, files.checked_id(name, folder) + ending)
            if bf.exists(place):
                return name, _checked(place, joints)
    raise DatasetError(
        f"{folder}: expected {names[0]}.npy [T, {joints[0]}, 3], what the lifter made of this clip, found none. "
        "Lift the clip, or leave it out."
    )


def _checked(place: str, joints: tuple[int, ...]) -> Tensor:
    if place.endswith(".npy"):
        positions = torch.from_numpy(files.read_array(place))
    else:
        positions = torch.from_numpy(files.read_arrays(place, needed=("joints",))["joints"])
    fits = positions.ndim == 3 and positions.shape[1] in joints and positions.shape[2] == 3
    if not fits or not bool(torch.isfinite(positions).all()):
        raise DatasetError(
            f"{place}: expected joints [T, {' or '.join(map(str, joints))}, 3] without gaps, found "
            f"{list(positions.shape)} or NaN. Write the lifter's joints in the skeleton's order."
        )
    return positions


def as_long_as(lifted: Tensor, frames: int, place: str) -> Tensor:
    """Results for `frames` frames, of which the last may be missing: the motion then goes on as it was going."""
    if len(lifted) == frames - 1 and frames > 2:
        lifted = torch.cat((lifted, 2 * lifted[-1:] - lifted[-2:-1]))
    if len(lifted) != frames:
        raise DatasetError(
            f"{place}: expected {frames - 1} or {frames} frames, as the clip has, found {len(lifted)}. "
            "Lift the same frames at the same rate."
        )
    return lifted


def placed(lifted: Tensor, frame: str, extrinsics: Tensor) -> Tensor:
    """Positions [T, J, 3] of a lifter in the world of the camera [3, 4] or [T, 3, 4]."""
    if frame == "world":
        return lifted
    return to_world(lifted, extrinsics if extrinsics.ndim == 3 else extrinsics.unsqueeze(0))


def lifter_name(folder: str, given: str) -> str:
    """What the card calls the lifter: as given, else after the folder."""
    name = given or re.sub(r"[^a-z0-9_-]+", "-", bf.basename(folder.rstrip("/")).lower()).strip("-_")
    return files.checked_id(name or "lifted", folder)
