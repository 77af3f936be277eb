"""Pictures of a clip: bones where the joints are, sides in their colours, damage drawn as far as it can be read."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from clips import make_clip
from PIL import Image

from videomdm_ext.data.building import write_folder
from videomdm_ext.data.folder import Card
from videomdm_ext.errors import DatasetError
from videomdm_ext.motion.skeletons import SMPL22
from videomdm_ext.render import clip_figure, contact_sheet, figures
from videomdm_ext.render.clip_figure import camera_facts, misfit, view_clip

CARD = Card(name="two", skeleton="smpl22", fps=20.0, lifter="bent", licence="zlib", sources=("a source",))
SIZE, FOCAL = (640, 480), 500.0


def filmed_clip(**changes):
    """A clip with the lens of a camera, and black pictures of its video."""
    lens = np.float32(((FOCAL, 0, SIZE[0] / 2), (0, FOCAL, SIZE[1] / 2), (0, 0, 1)))
    clip = make_clip(name="walk", intrinsics=lens, image_size=SIZE, **changes)
    return clip, [(n, np.zeros((SIZE[1], SIZE[0], 3), np.uint8)) for n in contact_sheet.shown_frames(clip)]


def pixels_of(picture, colour, off=40):
    """Rows and columns [N, 2] of the pixels that are nearly of a colour such as #0077bb."""
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return np.argwhere(np.abs(picture.astype(int) - wanted).max(-1) < off)


def read(place):
    with Image.open(place) as image:
        return np.asarray(image.convert("RGB"))


def drawn(place, clip, pictures, **options):
    contact_sheet.contact_sheet(str(place), clip, pictures, **options)
    return read(place)


def test_the_persons_left_is_blue_and_at_the_right_of_one_who_faces_the_camera(tmp_path):
    clip, pictures = filmed_clip()
    sides = [clip.keypoints[:, SMPL22.index(f"{s}_hip"), 0].mean() for s in "lr"]
    page = drawn(tmp_path / "sheet.png", clip, pictures[:1])
    first = page[: page.shape[0] // 2]
    left, right = (pixels_of(first[150:], colour)[:, 1].mean() for colour in (figures.LEFT, figures.RIGHT))
    assert (left > right) == (sides[0] > sides[1])
    assert abs(left - right) > 5


def test_keypoints_and_reprojection_are_in_the_pixels_of_the_video():
    clip, _ = filmed_clip()
    keypoints, lifted, error = contact_sheet._in_pixels(clip)
    assert np.allclose(keypoints, clip.keypoints * FOCAL + np.array(SIZE) / 2, atol=1e-3)
    truth = dataclasses.replace(clip, teacher=clip.truth, extrinsics=clip.truth_extrinsics)
    assert contact_sheet._in_pixels(truth)[2] < 0.05
    assert error == pytest.approx(np.median(np.linalg.norm(keypoints - lifted, axis=-1)), rel=1e-3)
    assert error > 2  # the teacher of these clips is wrong


def test_the_side_view_shows_what_faces_the_camera_as_facing_left():
    clip, _ = filmed_clip()
    side = contact_sheet._from_the_side(clip)
    centre = -clip.extrinsics[:, :3].T @ clip.extrinsics[:, 3]
    ahead = np.array((0.0, 0.0, 1.0))  # a person faces +z at the start
    toes = side[0, SMPL22.index("l_foot"), 0] - side[0, SMPL22.index("l_ankle"), 0]
    assert (toes < 0) == (centre @ ahead > 0)
    assert np.allclose(side[:, SMPL22.index("head"), 1].mean(), side[..., 1].max(1).mean(), atol=0.3)


def test_windows_hold_the_person_and_are_all_of_one_size():
    clip, pictures = filmed_clip()
    points = clip.keypoints * FOCAL + np.array(SIZE) / 2
    window = contact_sheet._window(points, clip.confidence, pictures)
    assert np.ptp(window[:, 2:] - window[:, :2], axis=0).max() < 1e-6
    for (number, _), (left, top, right, bottom) in zip(pictures, window, strict=True):
        assert (points[number] > (left, top)).all()
        assert (points[number] < (right, bottom)).all()


def test_a_moving_camera_few_frames_and_notes_are_drawn_too(tmp_path):
    clip, pictures = filmed_clip(moving=True)
    page = drawn(tmp_path / "sheet.png", clip, pictures[:2], notes=["the focal length is assumed"])
    assert page.shape[1] == round(contact_sheet.SHEET * 150)


def test_a_clip_without_a_lens_is_refused_with_another_way(tmp_path):
    with pytest.raises(DatasetError, match="data show"):
        contact_sheet.contact_sheet(str(tmp_path / "x.png"), make_clip(), [(0, np.zeros((4, 4, 3), np.uint8))])


@pytest.mark.parametrize("unseen", [0, slice(None)])
def test_a_frame_without_a_seen_joint_and_a_clip_without_one_are_drawn(tmp_path, unseen):
    clip, pictures = filmed_clip()
    confidence = clip.confidence.copy()
    confidence[unseen] = 0
    page = drawn(tmp_path / "sheet.png", dataclasses.replace(clip, confidence=confidence), pictures[:2])
    assert len(pixels_of(page[page.shape[0] // 3 :], figures.LEFT)) > 200  # the lifted pose is there all the same


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
    monkeypatch.setattr(figures, "DPI", 50)
    monkeypatch.setattr(clip_figure, "FRAMES", 2)


def pictured(folder: Path, clip_id: str) -> np.ndarray:
    place = folder / f"{clip_id}.png"
    clip_figure.clip_figure(str(place), view_clip(str(folder), clip_id))
    return read(place)


def test_a_sound_clip_is_drawn_with_keypoints_teacher_and_truth(folder: Path):
    picture = pictured(folder, "punch_0")
    assert picture.shape[1] == 1800
    assert 1500 < picture.shape[0] < 2200
    pale_truth = "#9bd0ac"  # as it lies under the others
    for colour, least in (
        (clip_figure.COLOURS["teacher"], 0.0005), (pale_truth, 0.0003), (figures.LEFT, 0.0003), ("#ffffff", 0.7),
    ):  # fmt: skip
        assert len(pixels_of(picture, colour, off=15)) > least * picture[..., 0].size


def test_a_clip_without_a_truth_has_no_row_for_it(folder: Path, coarse: None):
    shown = view_clip(str(folder), "kick_0")
    assert list(shown.positions) == ["teacher"]
    assert shown.split == "test"
    assert pictured(folder, "kick_0").shape[0] < pictured(folder, "walk_0").shape[0] - 60


def test_the_truth_lies_on_the_keypoints_and_the_text_tells_the_clip(folder: Path):
    shown = view_clip(str(folder), "walk_0")
    np.testing.assert_allclose(shown.projected["truth"], shown.keypoints, atol=2e-3)
    assert np.nanmedian(misfit(shown.projected["truth"], shown.keypoints)) < 0.005
    assert 0.005 < np.nanmedian(misfit(shown.projected["teacher"], shown.keypoints)) < 0.2
    assert shown.title == f"walk_0, train, {shown.length} frames, {shown.length / 20:.1f} s"


def test_the_camera_is_told_in_words(folder: Path):
    """`clips.camera` stands 40 degrees to the side of +z, 6 m from the hips and 0.2 rad above them."""
    clip = make_clip(name="walk")
    place, side, look = camera_facts(view_clip(str(folder), "walk_0"))
    centre = -clip.extrinsics[:, :3].T @ clip.extrinsics[:, 3]
    assert place == f"still; {math.hypot(centre[0], centre[2]):.1f} m from the person's start, {centre[1]:.1f} m high"
    azimuth = math.degrees(math.atan2(centre[0], centre[2]))
    assert side == f"stands {'left' if azimuth > 0 else 'right'} of the person, at {azimuth:.0f}°"
    assert 30 < abs(azimuth) < 50
    assert look == "looks 11° down, turned by 0° about its axis"
    assert camera_facts(view_clip(str(folder), "punch_0"))[0].startswith("moving, ")


def test_a_camera_that_was_rolled_is_told_to_be(folder: Path):
    place = folder / "cameras" / "walk_0.npz"
    with np.load(place) as archive:
        arrays = dict(archive)
    arrays["extrinsics"] = np.diag([-1, -1, 1]).astype(np.float32) @ arrays["extrinsics"]
    np.savez(place, **arrays)
    shown = view_clip(str(folder), "walk_0")
    assert [item.kind for item in shown.findings] == ["rolled"]
    assert camera_facts(shown)[2].endswith(("turned by 180° about its axis", "turned by -180° about its axis"))


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
    shown = view_clip(str(folder), "walk_0")
    assert shown.findings
    clip_figure.clip_figure(str(folder / "x.png"), shown)
    assert (folder / "x.png").stat().st_size > 5_000


def test_a_clip_of_which_there_is_nothing_is_refused_with_ids_that_exist(folder: Path):
    with pytest.raises(DatasetError, match=r"expected a clip 'nobody'.*Ids there: walk_0, punch_0"):
        view_clip(str(folder), "nobody")
    with pytest.raises(DatasetError, match="expected an id of letters"):
        view_clip(str(folder), "../walk_0")
