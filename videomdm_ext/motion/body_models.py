"""The resting joints of SMPL, SMPL-H and SMPL-X bodies, from model files that the user has.

Only three arrays of a model are needed: joints = J_regressor (v_template + shapedirs betas). They are read from a .npz
by the reader that the caller gives; a .pkl goes through the package smplx, which unpickles it, so name only files from
the official sites. The first 22 joints are the same ones in all three kinds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from videomdm_ext.errors import ConfigError, DatasetError
from videomdm_ext.motion.skeletons import SMPL22

BODY_JOINTS = SMPL22.num_joints
GENDERS = ("neutral", "male", "female")
SITES = {
    "smplh": "mano.is.tue.mpg.de (extended SMPL+H for AMASS, smplh/GENDER/model.npz)",
    "smplx": "smpl-x.is.tue.mpg.de (smplx/SMPLX_GENDER.npz)",
    "smpl": "smpl.is.tue.mpg.de (smpl/SMPL_GENDER.pkl)",
}
"""Where each kind is to be had, and the file."""
ARRAYS = ("J_regressor", "v_template", "shapedirs")
INSTEAD = {"smplh": ("smplh", "smpl"), "smplx": ("smplx",), "smpl": ("smpl", "smplh")}
"""Kinds that have the same shape parameters, the best first."""

Reader = Callable[[str, tuple[str, ...]], Mapping[str, NDArray[np.float32]]]
"""Arrays of a .npz file by name."""


@dataclass(frozen=True)
class BodyModel:
    """Resting joints [22, 3] of the mean body, metres, and what each shape parameter adds, [22, 3, S]."""

    mean: Tensor
    shapes: Tensor

    def rest(self, betas: Tensor) -> Tensor:
        """Resting joints of a body with these shape parameters; those that the model lacks are left out. -> [22, 3]"""
        used = min(len(betas), self.shapes.shape[-1])
        return self.mean + self.shapes[..., :used] @ betas[:used]


def find_model(folder: str, kind: str, gender: str) -> Path:
    """The model file of a kind and gender below a folder, in the layouts of the official downloads."""
    for each in INSTEAD[kind]:
        plain = f"{each.upper()}_{gender.upper()}"
        for name in (f"{each}/{gender}/model.npz", f"{gender}/model.npz", f"{each}/{plain}.npz", f"{plain}.npz",
                     f"{each}/{plain}.pkl", f"{plain}.pkl"):  # fmt: skip
            if (Path(folder) / name).is_file():
                return Path(folder) / name
    raise DatasetError(
        f"{folder}: expected the body model {kind} of gender {gender}, found none. Get it from {SITES[kind]} and name "
        "its folder with --option smpl=FOLDER. Joints without a body model go through `videomdm data import joints`."
    )


def read_model(path: Path, read: Reader) -> BodyModel:
    """The resting joints of a model file; `read` reads arrays."""
    if path.suffix == ".pkl":
        model = unpickled(path)
        parts = [getattr(model, name).double() for name in ARRAYS]
    else:
        arrays = read(str(path), ARRAYS)
        if [arrays[name].ndim if name in arrays else 0 for name in ARRAYS] != [2, 2, 3]:
            raise DatasetError(f"{path}: expected a body model's arrays, found other shapes. Download it again.")
        parts = [torch.from_numpy(arrays[name].astype(np.float64)) for name in ARRAYS]
    regressor, template, shapes = parts
    sizes = regressor.shape[-1], template.shape, shapes.shape[:2]
    if len(regressor) < BODY_JOINTS or sizes != (len(template), (len(template), 3), (len(template), 3)):
        raise DatasetError(
            f"{path}: expected a body model of at least {BODY_JOINTS} joints, found J_regressor "
            f"{list(regressor.shape)}, v_template {list(template.shape)}, shapedirs {list(shapes.shape)}. "
            "Download it again."
        )
    regressor = regressor[:BODY_JOINTS]
    return BodyModel(regressor @ template, torch.einsum("jv,vcs->jcs", regressor, shapes))


def unpickled(path: Path) -> Any:
    """A model file KIND_GENDER.pkl as a layer of the package smplx, which unpickles it."""
    try:
        smplx = import_module("smplx")
    except ImportError as error:
        raise ConfigError(
            f"{path}: expected the package smplx to read a .pkl, found none. Install it: "
            'pip install -e ".[mdm]" -c constraints.txt, or get the model as .npz.'
        ) from error
    layer = {"SMPL": smplx.SMPLLayer, "SMPLH": smplx.SMPLHLayer, "SMPLX": smplx.SMPLXLayer}
    kind, _, gender = path.stem.partition("_")
    try:
        return layer[kind.upper()](str(path), gender=gender.lower(), ext="pkl")
    except Exception as error:  # whatever unpickling a file may raise
        raise DatasetError(f"{path}: expected a body model, found none ({error}). Download it again.") from error


def posed(rest: Tensor, turns: Tensor, moved: Tensor) -> Tensor:
    """Joints of a body at rest [22, 3] with local rotations [T, 22, 3, 3], moved by [T, 3]. -> [T, 22, 3]"""
    parents: Sequence[int] = SMPL22.parents
    places, frames = [rest[0] + moved], [turns[:, 0]]
    for joint in range(1, BODY_JOINTS):
        parent = parents[joint]
        places.append(places[parent] + frames[parent] @ (rest[joint] - rest[parent]))
        frames.append(frames[parent] @ turns[:, joint])
    return torch.stack(places, 1)
