"""What pictures share: colours, the stick figure's sides and order of bones, and how a camera sees a pose.

Nothing is imported before a picture is made: `require` names the extra that a missing package comes with.
"""

import importlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from videomdm_ext.bench.results import Example
from videomdm_ext.errors import VideoMDMError
from videomdm_ext.motion.skeletons import Skeleton

Array = NDArray[np.floating[Any]]

INK, QUIET, RULE, PAPER = "#222222", "#666666", "#dddddd", "#ffffff"
LEFT, RIGHT, MIDDLE = "#0077bb", "#ee7733", "#333333"


def require(module: str = "matplotlib", extra: str = "demo") -> Any:
    """The optional module, or an error that names the extra it comes with."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise VideoMDMError(
            f"pictures: expected the package {module.partition('.')[0]}, found none ({error}). "
            f"Install the extra: pip install -e '.[{extra}]' -c constraints.txt"
        ) from error


def far_to_near(depth: Array, skeleton: Skeleton) -> list[int]:
    """Joints but the root by how near the middle of their bone is, `depth` [J] being larger for what is nearer."""
    return sorted(range(1, skeleton.num_joints), key=lambda joint: depth[joint] + depth[skeleton.parents[joint]])


def side(joint: str) -> str:
    """The colour of a joint's side of the body."""
    return LEFT if joint.startswith("l_") else RIGHT if joint.startswith("r_") else MIDDLE


def seen(positions: Array, *, azimuth: float, elevation: float) -> Array:
    """[..., 3] as seen by a camera at that angle from +z: right, up, and towards the camera."""
    x, y, z = np.moveaxis(positions, -1, 0)
    right, near = math.cos(azimuth) * x - math.sin(azimuth) * z, math.sin(azimuth) * x + math.cos(azimuth) * z
    up = math.cos(elevation) * y - math.sin(elevation) * near
    return np.stack((right, up, math.cos(elevation) * near + math.sin(elevation) * y), -1)


def finite(example: Example) -> Example:
    """The example in float64 with every coordinate a number within 100 m."""
    motions = {name: np.asarray(motion, dtype=np.float64) for name, motion in example.motions.items()}
    return Example(example.caption, {name: np.nan_to_num(motion).clip(-100, 100) for name, motion in motions.items()})


def highest(examples: Sequence[Example]) -> float:
    """Height of a row, metres: nearly everything in view, within reason."""
    heights = [np.percentile(motion[..., 1], 99.9) for e in examples for motion in e.motions.values()]
    return float(np.clip(max(heights, default=1.9) + 0.1, 1.8, 2.8))
