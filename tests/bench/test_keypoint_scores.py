"""Held-out clips against the keypoints of their own camera and of another, in image coordinates."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from clips import make_clip
from torch import Tensor

from videomdm_ext.bench.held_out import other_views, reprojection_scores, weighted_distance
from videomdm_ext.data.clip import Clip, crop
from videomdm_ext.geometry import cameras
from videomdm_ext.motion.features import decode
from videomdm_ext.motion.skeletons import SMPL22

OWN, OTHER = "heldout_reprojection", "heldout_other_view"
FRAMES = 20


def seen_by(clip: Clip, azimuth: float) -> Clip:
    """-> the same true motion as another camera saw it, with a teacher that is the truth."""
    assert clip.truth is not None
    positions = decode(torch.from_numpy(clip.truth), SMPL22)
    camera = cameras.orbit(*torch.tensor((azimuth, 0.2, 6.0)), torch.tensor((0.1, 0.9, 0.3)))
    points, _ = cameras.project(positions, camera.unsqueeze(0))
    return dataclasses.replace(
        clip, id=f"{clip.id}_v{azimuth}", teacher=clip.truth, extrinsics=camera.numpy(),
        truth_extrinsics=camera.numpy(), keypoints=points.numpy(),
    )  # fmt: skip


@pytest.fixture(scope="module")
def pair() -> list[Clip]:
    """-> a motion from two cameras, and another motion from one."""
    clip = make_clip(name="walk")
    return [seen_by(clip, 0.3), seen_by(clip, 1.9), seen_by(make_clip(name="dance_b"), 0.3)]


def truth_of(clip: Clip, frames: int = FRAMES) -> Tensor:
    """-> the true motion in the coordinates of the clip's camera [T, J, 3]."""
    one = crop(clip, 0, frames)
    assert one.truth is not None
    assert one.truth_extrinsics is not None
    return cameras.to_camera(decode(one.truth, SMPL22), one.truth_extrinsics)


def test_the_truth_is_on_its_keypoints_in_both_views(pair):
    found = reprojection_scores({"truth": [truth_of(clip) for clip in pair]}, pair)["truth"]
    assert found == pytest.approx({OWN: 0.0, OTHER: 0.0}, abs=1e-6)


def test_an_error_along_the_own_rays_is_seen_by_the_other_camera_alone(pair):
    """Each joint 5 % nearer or farther: nothing moves in the own image."""
    factors = 1 + 0.05 * torch.linspace(-1, 1, 22).view(1, 22, 1)
    found = reprojection_scores({"one": [truth_of(clip) * factors for clip in pair]}, pair)["one"]
    assert found[OWN] == pytest.approx(0.0, abs=1e-6)
    assert found[OTHER] > 0.01


def test_a_person_who_stands_elsewhere_is_told_by_the_own_camera_and_not_by_the_other(pair):
    """A step to the right is an error in the own image; how far away a person stands is none in the other."""
    aside = [truth_of(clip) + torch.tensor((0.3, 0.0, 0.0)) for clip in pair]
    depth = torch.stack([truth_of(clip)[..., 2] for clip in pair])
    found = reprojection_scores({"aside": aside}, pair)["aside"]
    assert found[OWN] == pytest.approx((0.3 / depth).mean().item(), rel=1e-4)
    assert found[OTHER] < 0.1 * found[OWN]


def test_the_other_view_is_that_of_a_plain_pinhole(pair):
    """Against matrices written out: world from the first camera, then into the second, the root on its keypoint."""
    made = [truth_of(clip) + 0.1 * torch.sin(torch.arange(22.0)).view(1, 22, 1) for clip in pair]
    errors = []
    for one, two in ((0, 1), (1, 0)):
        first, second = (pair[index].truth_extrinsics for index in (one, two))
        assert first is not None
        assert second is not None
        world = (made[one].numpy() - first[:, 3]) @ first[:, :3]
        there = world @ second[:, :3].T + second[:, 3]
        points, seen = there[..., :2] / there[..., 2:], pair[two].keypoints[:FRAMES]
        apart = (points - points[:, :1]) - (seen - seen[:, :1])
        errors.append(np.sqrt((apart**2).sum(-1)).mean())
    found = reprojection_scores({"one": made}, pair)["one"]
    assert found[OTHER] == pytest.approx(np.mean(errors), rel=1e-3)


def test_a_clip_looks_for_a_camera_that_saw_the_same_truth(pair):
    assert other_views(pair) == {0: 1, 1: 0}
    third = seen_by(make_clip(name="walk"), 4.0)
    assert other_views([*pair, third]) == {0: 1, 1: 3, 3: 0}
    blind = [dataclasses.replace(clip, truth=None, truth_extrinsics=None) for clip in pair]
    assert other_views(blind) == {}
    known = [dataclasses.replace(clip, confidence=0 * clip.confidence) for clip in pair]
    assert other_views(known) == {}


def test_without_truth_there_is_the_own_view_alone(pair):
    blind = [dataclasses.replace(clip, truth=None, truth_extrinsics=None) for clip in pair]
    made = {"prediction": [truth_of(clip) for clip in pair], "teacher": [1.1 * truth_of(clip) for clip in pair]}
    found = reprojection_scores(made, blind)
    assert {name: set(row) for name, row in found.items()} == {"prediction": {OWN}, "teacher": {OWN}}


def test_keypoints_count_by_their_confidence_and_where_there_is_none_they_may_be_anything():
    points, keypoints = torch.zeros(2, 3, 2), torch.zeros(2, 3, 2)
    keypoints[..., 0] = torch.tensor((1.0, 2.0, math.nan))
    confidence = torch.tensor((0.5, 0.25, 0.0)).expand(2, 3)
    assert weighted_distance(points, keypoints, confidence) == pytest.approx((0.5 + 0.5) / 0.75)
    assert weighted_distance(points, keypoints, torch.zeros(2, 3)) is None


def test_a_frame_whose_root_was_not_found_does_not_count_in_the_other_view(pair):
    broken = pair[1].keypoints.copy()
    confidence = pair[1].confidence.copy()
    broken[3, 0], confidence[3, 0] = math.nan, 0.0
    clips = [pair[0], dataclasses.replace(pair[1], keypoints=broken, confidence=confidence), pair[2]]
    found = reprojection_scores({"truth": [truth_of(clip) for clip in clips]}, clips)["truth"]
    assert found == pytest.approx({OWN: 0.0, OTHER: 0.0}, abs=1e-6)
