"""Joints of Fit3D's SMPL-X parameters, through the package smplx and body model files that the user has."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy as np
import roma
import torch
from torch import Tensor

from videomdm_ext.errors import DatasetError

BODY = {"transl": (3,), "global_orient": (1, 3, 3), "body_pose": (21, 3, 3)}
"""What is read, and its shape in each frame; rotations may also be vectors of three."""

CHUNK = 64
"""Frames at a time: the body has ten thousand vertices, each with its own transformation."""


def smplx_joints(parameters: Mapping[str, Any], models: str, place: str) -> Tensor:
    """The 22 body joints [T, 22, 3] of SMPL-X parameters, in their own world, metres."""
    moved, turned, posed = (_parameter(parameters, name, shape, place) for name, shape in BODY.items())
    betas = _array(parameters.get("betas"), place, "betas")
    betas = betas.reshape(-1, betas.shape[-1])[:, :10]
    betas = betas.expand(len(moved), betas.shape[-1]) if len(betas) == 1 else betas
    layer, found = _layer(models), []
    for rows in torch.arange(len(moved)).split(CHUNK):
        with torch.no_grad():
            made = layer(betas=betas[rows], global_orient=turned[rows], body_pose=posed[rows], transl=moved[rows])
        found.append(made.joints[:, :22].float())
    return torch.cat(found)


def _layer(models: str) -> Any:
    """The body model in a folder; DatasetError says what to install or to get."""
    try:
        smplx = import_module("smplx")
    except ImportError as error:
        raise DatasetError(
            f"--option smpl={models}: expected the package smplx, found none. Install it: "
            'pip install -e ".[mdm]" -c constraints.txt'
        ) from error
    try:
        return smplx.build_layer(models, model_type="smplx", gender="neutral", num_betas=10, use_pca=False)
    except (OSError, ValueError, AssertionError, KeyError) as error:
        raise DatasetError(
            f"--option smpl={models}: expected a folder with smplx/SMPLX_NEUTRAL.npz, found none that can be read "
            f"({error}). Get it from the SMPL-X site, or leave the option out to use joints3d_25."
        ) from error


def _parameter(parameters: Mapping[str, Any], name: str, shape: tuple[int, ...], place: str) -> Tensor:
    """One parameter [T, *shape]; rotation vectors become matrices."""
    values = _array(parameters.get(name), place, name)
    frames = len(values) if values.ndim else 0
    if len(shape) == 3 and values.numel() == frames * shape[0] * 3:
        return roma.rotvec_to_rotmat(values.reshape(frames, shape[0], 3))
    if frames == 0 or values.numel() != frames * int(np.prod(shape)):
        raise DatasetError(f"{place}: expected {name} [T, {shape}], found {list(values.shape)}. Download it again.")
    return values.reshape(frames, *shape)


def _array(values: object, place: str, name: str) -> Tensor:
    try:
        array = np.asarray(values, dtype=np.float32)
    except (ValueError, TypeError) as error:
        raise DatasetError(f"{place}: expected numbers in {name}, found others. Download the file again.") from error
    if not np.isfinite(array).all() or not array.size:
        raise DatasetError(f"{place}: expected numbers in {name}, found NaN or none. Download the file again.")
    return torch.from_numpy(array)
