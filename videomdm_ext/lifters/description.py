"""What the files of a lifter hold: skeleton, units, axes, rate, frame, scale and root. Stated once, then checked."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from videomdm_ext.errors import ConfigError
from videomdm_ext.lifters.skeleton_maps import LAYOUTS

UNITS = {"m": 1.0, "cm": 0.01, "mm": 0.001}
"""Metres in each."""
FRAMES = ("camera", "world", "own")
"""The camera's axes, the clip's own world, or a level world of the lifter's, turned and moved against the clip's."""
UP_AXES = {"camera": ("-y", "y"), "world": ("y", "z", "-y"), "own": ("y", "z", "-y")}
"""A camera's y points down as OpenCV's, or up, with z towards the viewer then."""
SCALES = ("metric", "arbitrary")
ROOTS = ("absolute", "relative")
OPTIONS = {
    "skeleton": f"joints of the files: {', '.join(LAYOUTS)}",
    "units": f"of the files: {', '.join(UNITS)}",
    "up": "their upward axis: y, z or -y; -y for a camera with y down",
    "fps": "frames per second of the files, by default those of the clip",
    "frame": "camera, world for the clip's own world, own for a level world of the lifter's",
    "scale": "metric, or arbitrary: fixed by the lengths of arms and legs",
    "root": "absolute, or relative: placed by the 2D keypoints",
}
"""Keys of options that change a description, each with a line of help."""


@dataclass(frozen=True)
class Description:
    """What the files of a lifter hold. `fps` is None where they follow the clip frame by frame."""

    skeleton: str
    units: str = "m"
    up_axis: str = "-y"
    fps: float | None = None
    frame: str = "camera"
    scale: str = "metric"
    root: str = "absolute"

    def __post_init__(self) -> None:
        _among("skeleton", self.skeleton, tuple(LAYOUTS))
        _among("units", self.units, tuple(UNITS))
        _among("frame", self.frame, FRAMES)
        _among("up", self.up_axis, UP_AXES[self.frame], f" of frame {self.frame}")
        _among("scale", self.scale, SCALES)
        _among("root", self.root, ROOTS)
        if self.fps is not None and not (math.isfinite(self.fps) and self.fps > 0):
            raise ConfigError(f"fps of the lifter: expected a number above 0, found {self.fps:g}. Correct it.")
        if self.frame == "own" and self.root == "relative":
            raise ConfigError("root of the lifter: expected absolute with frame own, found relative. Choose another.")
        if self.frame == "world" and self.scale == "arbitrary" and self.root == "absolute":
            raise ConfigError(
                "scale of the lifter: expected metric with an absolute root in the clip's world, found arbitrary. "
                "Say root=relative, so that the keypoints place the person."
            )

    def changed(self, options: Mapping[str, str]) -> "Description":
        """The description with what options KEY=VALUE of `OPTIONS` say instead."""
        found: dict[str, object] = {{"up": "up_axis"}.get(key, key): value for key, value in options.items()}
        if "fps" in options:
            found["fps"] = _number(options["fps"])
        if "up" not in options and options.get("frame", self.frame) in UP_AXES:
            was, now = (frame == "camera" for frame in (self.frame, options.get("frame", self.frame)))
            if was != now:
                found["up_axis"] = "-y" if now else "y"
        return dataclasses.replace(self, **found)  # type: ignore[arg-type]

    @property
    def joints(self) -> int:
        """Joints of a pose in the files."""
        return len(LAYOUTS[self.skeleton])

    def turned(self, positions: Tensor) -> Tensor:
        """Positions [..., 3] of the files in metres, a camera's with x right, y down, z forward, a world's y up.

        All axes stay right-handed. Units of an arbitrary scale mean nothing and are left alone.
        """
        if self.scale == "metric":
            positions = positions * UNITS[self.units]
        x, y, z = positions.unbind(-1)
        if self.up_axis == "z":
            return torch.stack((x, z, -y), -1)
        usual = "-y" if self.frame == "camera" else "y"
        return positions if self.up_axis == usual else torch.stack((x, -y, -z), -1)


def _among(key: str, found: str, expected: tuple[str, ...], where: str = "") -> None:
    if found not in expected:
        raise ConfigError(
            f"{key} of the lifter: expected one of {', '.join(expected)}{where}, found {found!r}. Correct it."
        )


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
