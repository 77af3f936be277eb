"""Keypoints in pixels, for folders that other programs write: brought to the normalised image plane when read."""

from collections.abc import Mapping

import torch

from videomdm_ext.data.clip import Array
from videomdm_ext.errors import DatasetError
from videomdm_ext.geometry.cameras import normalise

NEEDED = ("confidence",)
"""What a file of keypoints must hold beside `points`, or `pixels`."""


def on_plane(seen: Mapping[str, Array], camera: Mapping[str, Array], place: str) -> Array:
    """`points` [T, J, 2] as they are, or `pixels` [T, J, 2] with the camera's intrinsics and lens removed.

    `camera` may hold intrinsics [3, 3] and distortion [5] (k1, k2, p1, p2, k3). DatasetError names the file `place`.
    """
    if "points" in seen:
        return seen["points"]
    if "pixels" not in seen:
        found = ", ".join(seen) or "none"
        raise DatasetError(f"{place}: expected points or pixels, found {found}. Make the data set again.")
    matrix, distortion = camera.get("intrinsics"), camera.get("distortion")
    if matrix is None or matrix.shape != (3, 3) or not matrix[0, 0] * matrix[1, 1] > 0:
        found = "none" if matrix is None else str(matrix.tolist())
        raise DatasetError(
            f"{place}: pixels, expected intrinsics [3, 3] in the clip's camera file, found {found}. Write them there, "
            "or points on the normalised plane."
        )
    lens = None if distortion is None else torch.from_numpy(distortion).double()
    points = normalise(torch.from_numpy(seen["pixels"]).double(), torch.from_numpy(matrix).double(), lens)
    result: Array = points.float().numpy()
    return result
