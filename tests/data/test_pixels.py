"""Folders whose keypoints are in pixels are read as if they lay on the normalised plane."""

import numpy as np
import pytest
from clips import CARD, make_clip

from videomdm_ext.data.building import write_folder
from videomdm_ext.data.checks.checking import check_folder
from videomdm_ext.data.files import arrays_bytes
from videomdm_ext.data.folder import read_folder
from videomdm_ext.errors import DatasetError

MATRIX = np.array([[900.0, 0.0, 640.0], [0.0, 950.0, 360.0], [0.0, 0.0, 1.0]], dtype=np.float32)
LENS = np.array([0.05, -0.02, 0.001, -0.002, 0.0], dtype=np.float32)


def in_pixels(points: np.ndarray, lens: np.ndarray | None) -> np.ndarray:
    """The pinhole and Brown-Conrady formulas, written out."""
    x, y = points[..., 0].astype(np.float64), points[..., 1].astype(np.float64)
    if lens is not None:
        k1, k2, p1, p2, k3 = lens.astype(np.float64)
        r = x * x + y * y
        bent = 1 + k1 * r + k2 * r**2 + k3 * r**3
        x, y = x * bent + 2 * p1 * x * y + p2 * (r + 2 * x * x), y * bent + p1 * (r + 2 * y * y) + 2 * p2 * x * y
    return np.stack((900 * x + 640, 950 * y + 360), -1).astype(np.float32)


@pytest.mark.parametrize("lens", [None, LENS], ids=["pinhole", "lens"])
def test_pixels_and_points_give_the_same_clip(tmp_path, lens):
    clip = make_clip(intrinsics=MATRIX)
    write_folder(str(tmp_path), {"train": [clip, make_clip(name="walk")]}, CARD)
    before = read_folder(str(tmp_path), "train")[1][0]
    seen = arrays_bytes({"pixels": in_pixels(clip.keypoints, lens), "confidence": clip.confidence})
    camera = {"extrinsics": clip.extrinsics, "truth_extrinsics": clip.truth_extrinsics, "intrinsics": MATRIX}
    (tmp_path / f"keypoints_2d/{clip.id}.npz").write_bytes(seen)
    (tmp_path / f"cameras/{clip.id}.npz").write_bytes(
        arrays_bytes(camera | ({} if lens is None else {"distortion": lens}))
    )
    after = read_folder(str(tmp_path), "train")[1][0]
    np.testing.assert_allclose(after.keypoints, before.keypoints, atol=2e-5)
    kinds = {finding.kind for finding in check_folder(str(tmp_path), use_cache=False).findings}
    assert kinds <= {"card-hash"}


def test_pixels_without_intrinsics_and_files_with_neither_are_refused(tmp_path):
    clip = make_clip()
    write_folder(str(tmp_path), {"train": [clip]}, CARD)
    place = tmp_path / f"keypoints_2d/{clip.id}.npz"
    place.write_bytes(arrays_bytes({"pixels": in_pixels(clip.keypoints, None), "confidence": clip.confidence}))
    with pytest.raises(DatasetError, match=rf"{clip.id}\.npz: pixels, expected intrinsics \[3, 3\]"):
        read_folder(str(tmp_path), "train")
    assert "corrupt-file" in {finding.kind for finding in check_folder(str(tmp_path), use_cache=False).findings}
    place.write_bytes(arrays_bytes({"confidence": clip.confidence}))
    with pytest.raises(DatasetError, match="expected points or pixels, found confidence"):
        read_folder(str(tmp_path), "train")
