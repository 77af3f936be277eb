"""Lens and place of calibrated cameras from files: Pose2Sim's toml, and Qualisys's qca.txt.

toml: a table a camera with name, size [width, height], matrix [3, 3], distortions (k1, k2, p1, p2, perhaps k3),
rotation (a rotation vector) and translation, X_camera = R X + t, metres. qca.txt: XML; intrinsics in 64ths of a pixel,
the place in millimetres, axes of the camera x right, y up, z backwards. In both the world's z is up.
"""

import math
import re
import tomllib
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from typing import Any

import roma
import torch
from torch import Tensor

from videomdm_ext.data import files
from videomdm_ext.errors import DatasetError

LIMIT = 1 << 20  # bytes of a calibration file


@dataclass(frozen=True)
class Calibration:
    """One camera: intrinsics [3, 3] in pixels of a picture of `size`, distortion (k1, k2, p1, p2, k3) [5].

    extrinsics [3, 4] of a world with z up, metres, or None where the file holds the lens alone. All float64.
    """

    name: str
    size: tuple[int, int]
    intrinsics: Tensor
    distortion: Tensor
    extrinsics: Tensor | None

    @property
    def up(self) -> Tensor | None:
        """The direction up [3] in camera coordinates, where it is known."""
        return None if self.extrinsics is None else self.extrinsics[:, 2]

    def scaled(self, size: tuple[int, int]) -> Tensor:
        """Intrinsics for a picture of another size. A few pixels of difference are a cut edge, not a scale."""
        scale = [given / own for given, own in zip(size, self.size, strict=True)]
        if all(abs(given - own) <= 16 for given, own in zip(size, self.size, strict=True)):
            scale = [1.0, 1.0]
        if abs(scale[0] / scale[1] - 1) > 0.02:
            raise DatasetError(
                f"camera {self.name}: expected pictures of {self.size[0]} x {self.size[1]} or that shape, found "
                f"{size[0]} x {size[1]}. Name the calibration of this video."
            )
        return torch.diag(torch.tensor([*scale, 1.0], dtype=torch.float64)) @ self.intrinsics


def read_calibration(path: str) -> dict[str, Calibration]:
    """Cameras by name. DatasetError where the file has none."""
    text = files.read_text(path, limit=LIMIT)
    try:
        found = _from_qca(text) if text.lstrip().startswith("<") else _from_toml(text)
    except (ValueError, KeyError, TypeError, IndexError, ElementTree.ParseError, RuntimeError) as error:
        raise DatasetError(
            f"{path}: expected a calibration (Pose2Sim's toml, or Qualisys's qca.txt), found something else ({error}). "
            "Name another file, or give --focal."
        ) from error
    if not found or not all(_is_sane(camera) for camera in found.values()):
        raise DatasetError(f"{path}: expected cameras with a focal length and a size, found none. Correct the file.")
    return found


def _is_sane(camera: Calibration) -> bool:
    numbers = [camera.intrinsics, camera.distortion, *([] if camera.extrinsics is None else [camera.extrinsics])]
    positive = min(camera.size) > 0 and bool((camera.intrinsics.diagonal() > 0).all())
    return positive and all(bool(torch.isfinite(part).all()) for part in numbers)


def camera_of(cameras: dict[str, Calibration], video: str, path: str) -> Calibration:
    """The camera of a video: the only one, or that whose name or number the video's name has."""
    if len(cameras) == 1:
        return next(iter(cameras.values()))
    for name, camera in cameras.items():
        if name.lower() in video.lower() or _number(name) == _number(video) != "":
            return camera
    raise DatasetError(
        f"{path}: expected a camera for the video {video}, found {', '.join(cameras)}. Name the video after its camera."
    )


def _number(name: str) -> str:
    digits: list[str] = re.findall(r"\d+", name)
    return digits[-1].lstrip("0") if digits else ""


def _numbers(values: Any, *shape: int) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).reshape(shape)


def _from_toml(text: str) -> dict[str, Calibration]:
    found = {}
    for key, table in tomllib.loads(text).items():
        if not isinstance(table, dict) or "matrix" not in table:
            continue
        if table.get("fisheye"):
            raise ValueError("a fisheye lens, which is not supported")
        distortion = [float(value) for value in table.get("distortions", ())][:5]
        extrinsics = None
        if "rotation" in table and "translation" in table:
            rotation = roma.rotvec_to_rotmat(_numbers(table["rotation"], 3))
            extrinsics = torch.cat((rotation, _numbers(table["translation"], 3, 1)), 1)
        width, height = (round(float(value)) for value in table["size"])
        name = str(table.get("name", key))
        padded = _numbers(distortion + [0.0] * (5 - len(distortion)), 5)
        found[name] = Calibration(name, (width, height), _numbers(table["matrix"], 3, 3), padded, extrinsics)
    return found


def _from_qca(text: str) -> dict[str, Calibration]:
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError("it declares entities")
    found: dict[str, Calibration] = {}
    for camera in ElementTree.fromstring(text).iter("camera"):
        lens, place = camera.find("intrinsic"), camera.find("transform")
        picture = camera.find("fov_video")
        if lens is None or place is None or picture is None:
            raise ValueError("a camera without intrinsic, transform or fov_video")
        edges = {side: int(picture.attrib[side]) for side in ("left", "right", "top", "bottom")}
        size = edges["right"] - edges["left"] + 1, edges["bottom"] - edges["top"] + 1
        name = camera.attrib.get("serial", str(len(found)))
        names = ("radialDistortion1", "radialDistortion2", "tangentalDistortion1", "tangentalDistortion2")
        distortion = [float(lens.attrib[key]) for key in (*names, "radialDistortion3")]
        found[name] = Calibration(
            name, size, _qca_matrix(lens.attrib), _numbers(distortion, 5), _qca_place(place.attrib)
        )
    return found


def _qca_matrix(lens: dict[str, str]) -> Tensor:
    fu, fv, cu, cv = (float(lens[f"{kind}{axis}"]) / 64 for kind in ("focalLength", "centerPoint") for axis in "UV")
    if not math.isfinite(fu * fv):
        raise ValueError("a focal length that is no number")
    return _numbers([fu, 0, cu, 0, fv, cv, 0, 0, 1], 3, 3)


def _qca_place(place: dict[str, str]) -> Tensor:
    rows = _numbers([float(place[f"r{i}{j}"]) for i in (1, 2, 3) for j in (1, 2, 3)], 3, 3)
    rotation = torch.diag(_numbers([1, -1, -1], 3)) @ rows
    centre = _numbers([float(place[axis]) / 1000 for axis in "xyz"], 3, 1)
    return torch.cat((rotation, -rotation @ centre), 1)
