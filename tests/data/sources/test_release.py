"""The importer of the release's layout: its cameras have u to the left and v up, and its vectors are kept."""

import numpy as np
import pytest
import torch
from clips import make_clip
from lifters import tools
from people import decoded

from videomdm_ext.data.folder import read_clip
from videomdm_ext.data.importing import run_import
from videomdm_ext.data.sources.base import ImportOptions
from videomdm_ext.data.sources.humanml3d import ReleaseImporter
from videomdm_ext.errors import DatasetError

NAMES = ("walk", "jump", "kick", "spin")


def write_source(root, *, teacher="mvlift_vecs", npz=False, moving=False, truth=True):
    """Clips in the layout, whose teachers are right on their rays; cameras and points have u left and v up."""
    folders = ("keypoints_2d", "cameras", teacher, "texts", *(("new_joint_vecs",) if truth else ()))
    for name in folders:
        (root / name).mkdir(parents=True)
    for name in NAMES:
        clip = make_clip(name=name, moving=moving)
        extrinsics = clip.truth_extrinsics
        rolled = np.array((-1, -1, 1), dtype=np.float32)[:, None] * extrinsics
        points = -clip.keypoints
        if npz:
            square = np.zeros((*rolled.shape[:-2], 4, 4), dtype=np.float32)
            square[..., :3, :], square[..., 3, 3] = rolled, 1
            np.savez(root / "cameras" / f"{name}.npz", extrinsics=square)
            np.savez(root / "keypoints_2d" / f"{name}.npz", keypoints=points, conf=clip.confidence)
        else:
            np.save(root / "cameras" / f"{name}.npy", rolled)
            np.save(root / "keypoints_2d" / f"{name}.npy", np.concatenate((points, clip.confidence[..., None]), -1))
        np.save(root / teacher / f"{name}.npy", clip.truth)
        if truth:
            np.save(root / "new_joint_vecs" / f"{name}.npy", clip.truth)
        (root / "texts" / f"{name}.txt").write_text(f"a {name}.#a/DET {name}/NOUN#0.0#0.0\n")
    (root / "train.txt").write_text("walk\njump\nkick\n")
    (root / "test.txt").write_text("spin\n")
    return str(root)


@pytest.mark.parametrize(("npz", "moving"), [(False, False), (True, True)])
def test_cameras_are_rolled_and_vectors_are_kept(tmp_path, npz, moving):
    source = write_source(tmp_path / "source", npz=npz, moving=moving)
    done = run_import(ReleaseImporter(source, ImportOptions()), str(tmp_path / "set"))
    assert done.left_out == {}
    assert (done.card.lifter, done.card.counts) == ("mvlift", {"test": 1, "train": 3})
    for name in NAMES:
        original, clip = make_clip(name=name, moving=moving), read_clip(str(tmp_path / "set"), done.card, name)
        assert clip.teacher.tobytes() == original.truth.tobytes()
        assert clip.truth.tobytes() == original.truth.tobytes()
        np.testing.assert_allclose(clip.keypoints, original.keypoints)
        np.testing.assert_allclose(clip.confidence, original.confidence)
        positions = decoded(clip.teacher)
        seen = tools.into_camera(positions, clip.extrinsics)
        np.testing.assert_allclose(seen[..., :2] / seen[..., 2:], clip.keypoints, atol=1e-4)
        assert np.linalg.det(clip.extrinsics[..., :3]) == pytest.approx(1)
        assert seen[0, 15, 1] < seen[0, 0, 1] - 0.2  # the head is higher in the image, where y points down
        assert positions[0, 1, 0] > positions[0, 2, 0]  # faces +z


def test_a_truth_that_this_camera_has_not_seen_is_refused_and_can_be_left_out(tmp_path):
    source = write_source(tmp_path / "source")
    shifted = make_clip(name="walk").truth.copy()
    shifted[:, 3] += 1.0
    shifted[:, 5:67:3] += 1.0  # all heights
    np.save(tmp_path / "source" / "new_joint_vecs" / "walk.npy", shifted)
    done = run_import(ReleaseImporter(source, ImportOptions()), str(tmp_path / "set"))
    assert "expected a true motion that falls on its keypoints" in done.left_out["walk"]
    importer = ReleaseImporter(source, ImportOptions(extra={"truth": "none"}))
    assert importer.read(importer.members()[0]).truth is None


def test_data_with_usual_axes_is_taken_as_it_is(tmp_path):
    source = write_source(tmp_path / "source", truth=False)
    left, right = (ReleaseImporter(source, ImportOptions(extra={"axes": axes})) for axes in ("left-up", "right-down"))
    one, other = (importer.read(importer.members()[0]) for importer in (left, right))
    torch.testing.assert_close(one.keypoints, -other.keypoints)
    torch.testing.assert_close(one.extrinsics[:2], -other.extrinsics[:2])
    torch.testing.assert_close(one.extrinsics[2], other.extrinsics[2])


def test_folders_may_have_other_names_and_missing_ones_are_told(tmp_path):
    source = write_source(tmp_path / "source", teacher="lifted_by_me")
    with pytest.raises(DatasetError, match="expected a folder mvlift_vecs, wham_vecs"):
        ReleaseImporter(source, ImportOptions())
    importer = ReleaseImporter(source, ImportOptions(extra={"teacher": "lifted_by_me"}))
    assert importer.lifter == "lifted_by_me"
    assert [member.id for member in importer.members()] == ["walk", "jump", "kick", "spin"]
    (tmp_path / "source" / "cameras" / "walk.npy").unlink()
    with pytest.raises(DatasetError, match=r"cameras/walk\.npy: expected a file"):
        importer.read(importer.members()[0])


def test_shapes_that_do_not_fit_are_refused(tmp_path):
    source = write_source(tmp_path / "source")
    folder = tmp_path / "source"
    np.save(folder / "mvlift_vecs" / "walk.npy", np.zeros((50, 251), dtype=np.float32))
    np.save(folder / "cameras" / "jump.npy", np.eye(3, dtype=np.float32))
    np.save(folder / "keypoints_2d" / "kick.npy", np.zeros((20, 22, 2), dtype=np.float32))
    importer = ReleaseImporter(source, ImportOptions())
    messages = []
    for member in importer.members()[:3]:
        with pytest.raises(DatasetError) as caught:
            importer.read(member)
        messages.append(str(caught.value))
    assert "expected features [T, 263]" in messages[0]
    assert "expected [3, 4] or [T, 3, 4]" in messages[1]
    assert "expected keypoints [" in messages[2]
