"""A clip is checked once, by messages that say what to do; crops and batches take their camera along."""

import dataclasses
import re

import numpy as np
import pytest
import torch
from clips import make_clip
from tolerances import CROPPED_PROJECTION

from videomdm_ext.data.checks.rules import validate
from videomdm_ext.data.clip import MIN_FRAMES, Clip, collate, crop, flatten_observation, with_truth_as_teacher
from videomdm_ext.errors import DatasetError
from videomdm_ext.geometry.cameras import project
from videomdm_ext.motion.features import decode, decode_root, encode
from videomdm_ext.motion.skeletons import NBA16, SMPL22
from videomdm_ext.supervision.observation import Observation

CLIP = make_clip()
T = CLIP.length


def changed(array: str, index: object, value: float) -> Clip:
    """-> the clip with one entry of an array replaced."""
    values = getattr(CLIP, array).copy()
    values[index] = value
    return dataclasses.replace(CLIP, **{array: values})


def scaled(array: str, factor: float) -> Clip:
    return dataclasses.replace(CLIP, **{array: getattr(CLIP, array) * np.float32(factor)})


def grown(name: str, factor: float) -> Clip:
    """-> the clip with a motion in another unit."""
    positions = decode(torch.from_numpy(getattr(CLIP, name)), SMPL22)
    return dataclasses.replace(CLIP, **{name: encode(factor * positions, SMPL22).numpy()})


def far_camera() -> Clip:
    return dataclasses.replace(CLIP, extrinsics=CLIP.extrinsics + np.eye(1, 4, 3) * [[0], [0], [1e6]])


def turned_camera() -> Clip:
    return dataclasses.replace(CLIP, extrinsics=CLIP.extrinsics * np.array([[1], [-1], [-1]], np.float32))


BAD = {  # what `data check` finds too is in test_checking.py
    "nan in a keypoint that was seen": (changed("keypoints", (4, 7, 1), np.nan), "numbers in", r"\(4, 7, 1\)"),
    "confidence above one": (changed("confidence", (2, 1), 1.5), "from 0 to 1", r"1.5 at \(2, 1\)"),
    "joint count": (dataclasses.replace(CLIP, skeleton=NBA16), "16 joints", r"263 channels \(22 joints\)"),
    "length of the truth": (dataclasses.replace(CLIP, truth=CLIP.truth[:-2]), "as long as the others", str(T - 2)),
    "rate": (dataclasses.replace(CLIP, fps=30.0), "20 fps", "30 fps"),
    "no text": (dataclasses.replace(CLIP, texts=()), "caption", "none"),
    "empty text": (dataclasses.replace(CLIP, texts=("a person walks", "  ")), "words", "empty"),
    "camera of the truth": (scaled("truth_extrinsics", 1.1), "rotation in truth_extrinsics", "1.331"),
    "camera as 4x4": (dataclasses.replace(CLIP, extrinsics=np.eye(4, dtype=np.float32)), r"\[3, 4\]", r"\[4, 4\]"),
    "truth without its camera": (dataclasses.replace(CLIP, truth_extrinsics=None), "truth_extrinsics", "only one"),
    "kilometres": (grown("teacher", 0.001), "metres, .* in the teacher", "kilometres"),
    "millimetres in the truth": (grown("truth", 1000), "metres, .* in the truth", "millimetres"),
    "a camera a thousand kilometres away": (far_camera(), "camera-units", "teacher: the person is 1e.06 m"),
    "a person behind the camera": (turned_camera(), r"\(behind\)", "teacher: the person is behind the camera"),
}


@pytest.mark.parametrize("moving", [False, True])
def test_a_good_clip_passes(moving: bool):
    validate(make_clip(moving=moving), fps=20)


@pytest.mark.parametrize("case", BAD)
def test_a_bad_clip_is_refused_with_its_file_what_was_expected_and_what_was_found(case: str):
    clip, expected, found = BAD[case]
    with pytest.raises(DatasetError) as caught:
        validate(clip, fps=20)
    message = str(caught.value)
    assert message.startswith("clips/dance_a.npy: expected ")
    assert re.search(expected, message), message
    assert re.search(found, message), message
    assert len(message.split(". ")) > 1, f"no advice in: {message}"


def test_too_few_frames_are_refused_and_the_least_number_passes():
    short = {name: getattr(CLIP, name)[:MIN_FRAMES] for name in ("teacher", "truth", "keypoints", "confidence")}
    validate(dataclasses.replace(CLIP, **short), fps=20)
    shorter = {name: values[:-1] for name, values in short.items()}
    with pytest.raises(DatasetError, match=f"at least {MIN_FRAMES} frames, found {MIN_FRAMES - 1}"):
        validate(dataclasses.replace(CLIP, **shorter), fps=20)


def test_keypoints_that_were_not_seen_may_hold_anything():
    keypoints, confidence = CLIP.keypoints.copy(), CLIP.confidence.copy()
    keypoints[3, 4], keypoints[5, 6], confidence[3, 4], confidence[5, 6] = np.nan, 1e9, 0, 0
    validate(dataclasses.replace(CLIP, keypoints=keypoints, confidence=confidence), fps=20)


def test_a_clip_of_no_file_is_named_itself():
    with pytest.raises(DatasetError, match=r"^dance_a_0: "):
        validate(dataclasses.replace(CLIP, source="", fps=30.0), fps=20)


def test_the_truth_can_be_the_teacher_with_its_camera_and_the_teacher_never_stands_in_for_it():
    unknown = dataclasses.replace(CLIP, truth=None, truth_extrinsics=None)
    validate(unknown, fps=20)
    with pytest.raises(DatasetError, match="expected a true motion"):
        with_truth_as_teacher(unknown)
    clip = with_truth_as_teacher(CLIP)
    assert clip.teacher is CLIP.truth
    assert clip.extrinsics is CLIP.truth_extrinsics


def projected(features: torch.Tensor, extrinsics: torch.Tensor) -> torch.Tensor:
    """-> image points [T, J, 2] of raw features seen by cameras [3, 4] or [T, 3, 4]."""
    moving = extrinsics if extrinsics.ndim == 3 else extrinsics.unsqueeze(0)
    return project(decode(features, SMPL22), moving)[0]


def of_clip(clip: Clip, part: str) -> torch.Tensor:
    camera = clip.extrinsics if part == "teacher" else clip.truth_extrinsics
    return projected(torch.from_numpy(getattr(clip, part)), torch.from_numpy(camera))


@pytest.mark.parametrize("moving", [False, True])
@pytest.mark.parametrize("start", [0, 1, 17, 40])
@pytest.mark.parametrize("part", ["teacher", "truth"])
def test_projecting_a_crop_equals_cropping_the_projection(moving: bool, start: int, part: str):
    clip = make_clip(moving=moving)
    cut = crop(clip, start, 20)
    camera = cut.extrinsics if part == "teacher" else cut.truth_extrinsics
    cut_after = of_clip(clip, part)[start : start + 20]
    torch.testing.assert_close(projected(getattr(cut, part), camera), cut_after, atol=CROPPED_PROJECTION, rtol=0)


@pytest.mark.parametrize("moving", [False, True])
def test_the_true_motion_of_a_crop_lands_on_its_keypoints(moving: bool):
    cut = crop(make_clip(moving=moving), 23, 30)
    points = projected(cut.truth, cut.truth_extrinsics)
    torch.testing.assert_close(points, cut.keypoints, atol=CROPPED_PROJECTION, rtol=0)


def test_the_initial_heading_is_the_one_that_the_whole_clip_has_there_and_explains_the_stored_rotations():
    clip = make_clip()
    cut = crop(clip, 30, 25)
    headings, _ = decode_root(torch.from_numpy(clip.teacher), SMPL22)
    assert abs(cut.initial_heading) > 0.3
    assert cut.initial_heading == pytest.approx(headings[30].item(), abs=1e-5)
    positions = decode(cut.teacher, SMPL22)
    own, _ = decode_root(cut.teacher, SMPL22)
    again = encode(positions, SMPL22, own, initial_heading=cut.initial_heading)
    torch.testing.assert_close(again[:-1, :193], cut.teacher[:-1, :193], atol=2e-4, rtol=0)


def test_crops_beyond_the_end_or_longer_than_the_batch_are_refused():
    clip = make_clip()
    for start, length in ((clip.length - 5, 6), (-1, 5), (0, 0)):
        with pytest.raises(DatasetError, match=f"within {clip.length} frames"):
            crop(clip, start, length)
    with pytest.raises(DatasetError, match="at most 20 frames, found 21"):
        collate([crop(make_clip(), 0, 21)], length=20)


def test_collating_pads_with_zeros_and_a_batch_has_a_truth_only_if_all_its_clips_have_one():
    clip = make_clip()
    batch = collate([crop(clip, 0, 40), crop(clip, 7, 25)], length=48)
    assert batch["teacher"].shape == batch["truth"].shape == (2, 48, 263)
    assert batch["keypoints"].shape == (2, 48, 22, 2)
    assert batch["extrinsics"].shape == batch["truth_extrinsics"].shape == (2, 48, 3, 4)
    assert batch["lengths"].tolist() == [40, 25]
    for name in ("teacher", "truth", "keypoints", "confidence"):
        assert batch[name][0, 40:].abs().max() == 0
        assert batch[name][1, 25:].abs().max() == 0
        torch.testing.assert_close(batch[name][1, :25], getattr(crop(clip, 7, 25), name), atol=0, rtol=0)
    clip = make_clip()
    unknown = dataclasses.replace(clip, truth=None, truth_extrinsics=None)
    batch = collate([crop(clip, 0, 20), crop(unknown, 0, 20)], length=20)
    assert batch["truth"] is None
    assert batch["truth_extrinsics"] is None
    assert batch["teacher"].shape == (2, 20, 263)


def test_the_flat_tensors_are_what_an_observation_is_taken_from():
    batch = collate([crop(make_clip(), 0, 20), crop(make_clip(moving=True), 5, 16)], length=20)
    mask = (torch.arange(20) < batch["lengths"][:, None])[:, None, None]
    observation, rest = Observation.take({"mask": mask, "text": ["a", "b"], **flatten_observation(batch)})
    assert set(rest) == {"mask", "text"}
    assert torch.equal(observation.keypoints[1, :16], batch["keypoints"][1, :16])
    assert torch.equal(observation.initial_heading, batch["initial_heading"])
    assert torch.equal(observation.extrinsics[0], batch["extrinsics"][0])
    assert observation.weight[1, 16:].abs().max() == 0
