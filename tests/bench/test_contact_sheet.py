"""Contact sheets: bones where the joints are, the person's left in its own colour, and a picture that can be opened."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from clips import make_clip
from PIL import Image

from videomdm_ext.bench import contact_sheet, drawing
from videomdm_ext.errors import DatasetError
from videomdm_ext.motion.skeletons import SMPL22

SIZE, FOCAL = (640, 480), 500.0


def filmed_clip(**changes):
    """A clip with the lens of a camera, and black pictures of its video."""
    lens = np.float32(((FOCAL, 0, SIZE[0] / 2), (0, FOCAL, SIZE[1] / 2), (0, 0, 1)))
    clip = make_clip(name="walk", intrinsics=lens, image_size=SIZE, **changes)
    return clip, [(n, np.zeros((SIZE[1], SIZE[0], 3), np.uint8)) for n in contact_sheet.shown_frames(clip)]


def pixels_of(picture, colour):
    """Rows and columns [N, 2] of the pixels that are nearly of a colour such as #0077bb."""
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return np.argwhere(np.abs(picture.astype(int) - wanted).max(-1) < 40)


def drawn(place, clip, pictures, **options):
    contact_sheet.contact_sheet(str(place), clip, pictures, **options)
    with Image.open(place) as image:
        return np.asarray(image.convert("RGB"))


def test_the_persons_left_is_blue_and_at_the_right_of_one_who_faces_the_camera(tmp_path):
    clip, pictures = filmed_clip()
    sides = [clip.keypoints[:, SMPL22.index(f"{s}_hip"), 0].mean() for s in "lr"]
    page = drawn(tmp_path / "sheet.png", clip, pictures[:1])
    first = page[: page.shape[0] // 2]
    left, right = (pixels_of(first[150:], colour)[:, 1].mean() for colour in (drawing.LEFT, drawing.RIGHT))
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
    assert page.shape[1] == round(contact_sheet.WIDTH * 150)


def test_a_clip_without_a_lens_is_refused_with_another_way(tmp_path):
    with pytest.raises(DatasetError, match="data show"):
        contact_sheet.contact_sheet(str(tmp_path / "x.png"), make_clip(), [(0, np.zeros((4, 4, 3), np.uint8))])


@pytest.mark.parametrize("unseen", [0, slice(None)])
def test_a_frame_without_a_seen_joint_and_a_clip_without_one_are_drawn(tmp_path, unseen):
    clip, pictures = filmed_clip()
    confidence = clip.confidence.copy()
    confidence[unseen] = 0
    page = drawn(tmp_path / "sheet.png", dataclasses.replace(clip, confidence=confidence), pictures)
    assert len(pixels_of(page[page.shape[0] // 3 :], drawing.LEFT)) > 200  # the lifted pose is there all the same
