"""Crops and batches: the camera goes with its clip."""

import dataclasses

import pytest
import torch
from clips import make_clip
from tolerances import CROPPED_PROJECTION

from videomdm_ext.data.clip import Clip, collate, crop, flatten_observation
from videomdm_ext.errors import DatasetError
from videomdm_ext.geometry.cameras import project
from videomdm_ext.motion.features import decode, decode_root, encode
from videomdm_ext.motion.skeletons import SMPL22
from videomdm_ext.supervision.observation import Observation


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
