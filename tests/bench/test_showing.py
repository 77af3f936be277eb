"""The picture of one clip: what is read for it, where things land in it, and that damage does not stop it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from clips import make_clip
from matplotlib.image import imread

from videomdm_ext.bench import showing
from videomdm_ext.bench.shown import camera_facts, gather, misfit
from videomdm_ext.data.card import Card
from videomdm_ext.data.folder import write_folder
from videomdm_ext.errors import DatasetError

CARD = Card(name="two", skeleton="smpl22", fps=20.0, lifter="bent", licence="zlib", sources=("a source",))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """-> a set of a clip with a still camera, one with a moving camera, and one without a truth."""
    still, moving = make_clip(name="walk"), make_clip(name="punch", moving=True)
    lone = make_clip(name="kick", truth=None, truth_extrinsics=None)
    write_folder(str(tmp_path), {"train": [still, moving], "test": [lone]}, CARD)
    return tmp_path


@pytest.fixture
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures of few pixels and moments, which are quicker."""
    monkeypatch.setattr(showing, "DPI", 50)
    monkeypatch.setattr(showing, "FRAMES", 2)


def share(picture: np.ndarray, colour: str) -> float:
    """-> the share of pixels of nearly this colour."""
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return float((np.abs(picture[..., :3] - wanted).max(-1) < 0.06).mean())


def drawn(folder: Path, clip_id: str) -> np.ndarray:
    place = folder / f"{clip_id}.png"
    showing.draw(str(place), gather(str(folder), clip_id))
    return imread(place)


def test_a_sound_clip_is_drawn_with_keypoints_teacher_and_truth(folder: Path):
    picture = drawn(folder, "punch_0")
    assert picture.shape[1] == 1800
    assert 1500 < picture.shape[0] < 2200
    assert share(picture, showing.TEACHER) > 0.0005
    assert share(picture, "#9bd0ac") > 0.0003  # the truth, pale under the others
    assert share(picture, showing.drawing.LEFT) > 0.0003
    assert share(picture, "#ffffff") > 0.7


def test_a_clip_without_a_truth_has_no_row_for_it(folder: Path, coarse: None):
    shown = gather(str(folder), "kick_0")
    assert list(shown.positions) == ["teacher"]
    assert shown.split == "test"
    assert drawn(folder, "kick_0").shape[0] < drawn(folder, "walk_0").shape[0] - 60


def test_the_truth_lies_on_the_keypoints_and_the_text_tells_the_clip(folder: Path):
    shown = gather(str(folder), "walk_0")
    np.testing.assert_allclose(shown.projected["truth"], shown.keypoints, atol=2e-3)
    assert np.nanmedian(misfit(shown.projected["truth"], shown.keypoints)) < 0.005
    assert 0.005 < np.nanmedian(misfit(shown.projected["teacher"], shown.keypoints)) < 0.2
    assert shown.title == f"walk_0, train, {shown.length} frames, {shown.length / 20:.1f} s"


def test_the_camera_is_told_in_words(folder: Path):
    """`clips.camera` stands 40 degrees to the side of +z, 6 m from the hips and 0.2 rad above them."""
    clip = make_clip(name="walk")
    place, side, look = camera_facts(gather(str(folder), "walk_0"))
    centre = -clip.extrinsics[:, :3].T @ clip.extrinsics[:, 3]
    assert place == f"still; {math.hypot(centre[0], centre[2]):.1f} m from the person's start, {centre[1]:.1f} m high"
    azimuth = math.degrees(math.atan2(centre[0], centre[2]))
    assert side == f"stands {'left' if azimuth > 0 else 'right'} of the person, at {azimuth:.0f}°"
    assert 30 < abs(azimuth) < 50
    assert look == "looks 11° down, turned by 0° about its axis"
    assert camera_facts(gather(str(folder), "punch_0"))[0].startswith("moving, ")


def test_a_camera_that_was_rolled_is_told_to_be(folder: Path):
    place = folder / "cameras" / "walk_0.npz"
    with np.load(place) as archive:
        arrays = dict(archive)
    arrays["extrinsics"] = np.diag([-1, -1, 1]).astype(np.float32) @ arrays["extrinsics"]
    np.savez(place, **arrays)
    shown = gather(str(folder), "walk_0")
    assert [item.kind for item in shown.findings] == ["rolled"]
    assert camera_facts(shown)[2].endswith(("turned by 180° about its axis", "turned by -180° about its axis"))


def test_poses_of_the_side_view_face_right_and_stand_upright(folder: Path):
    """What `_draw_side` draws: toes to the right of the ankles, the head above the pelvis."""
    shown = gather(str(folder), "walk_0")
    pose = shown.positions["truth"][0]
    right, up, _ = np.moveaxis(showing.drawing.seen(pose, azimuth=-math.pi / 2, elevation=0.0), -1, 0)
    index = shown.skeleton.index
    np.testing.assert_allclose(right, pose[:, 2], atol=1e-6)
    assert right[index("l_foot")] > right[index("l_ankle")]
    assert up[index("head")] > up[0] > up[index("l_ankle")]


DAMAGES = {
    "nothing but captions and a teacher": lambda f: [
        (f / name).unlink() for name in ("keypoints_2d/walk_0.npz", "cameras/walk_0.npz", "new_joint_vecs/walk_0.npy")
    ],
    "no motion": lambda f: [p.unlink() for p in (f / "teacher_vecs/bent/walk_0.npy", f / "new_joint_vecs/walk_0.npy")],
    "NaN everywhere": lambda f: np.savez(
        f / "keypoints_2d/walk_0.npz", points=np.full((50, 22, 2), np.nan), confidence=np.ones((50, 22))
    ),
    "nothing seen": lambda f: np.savez(
        f / "keypoints_2d/walk_0.npz", points=np.zeros((50, 22, 2)), confidence=np.zeros((50, 22))
    ),
    "huge numbers": lambda f: np.save(f / "teacher_vecs/bent/walk_0.npy", np.full((50, 263), 3e30, np.float32)),
    "no frames": lambda f: np.save(f / "teacher_vecs/bent/walk_0.npy", np.zeros((0, 263), np.float32)),
    "a camera of zeros": lambda f: np.savez(f / "cameras/walk_0.npz", extrinsics=np.zeros((3, 4))),
    "pixels": lambda f: np.savez(
        f / "keypoints_2d/walk_0.npz",
        points=np.random.default_rng(0).random((50, 22, 2)) * 1e3,
        confidence=np.ones((50, 22)),
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_clip_is_drawn_as_far_as_it_can_be_read(folder: Path, coarse: None, name: str):
    DAMAGES[name](folder)
    shown = gather(str(folder), "walk_0")
    assert shown.findings
    showing.draw(str(folder / "x.png"), shown)
    assert (folder / "x.png").stat().st_size > 5_000


def test_a_clip_of_which_there_is_nothing_is_refused_with_ids_that_exist(folder: Path):
    with pytest.raises(DatasetError, match=r"expected a clip 'nobody'.*Ids there: walk_0, punch_0"):
        gather(str(folder), "nobody")
    with pytest.raises(DatasetError, match="expected an id of letters"):
        gather(str(folder), "../walk_0")
