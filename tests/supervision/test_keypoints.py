"""What is wrong with keypoints by themselves is found, and what moves fast is not taken for it."""

import math

import pytest
import torch

from videomdm_ext.motion.skeletons import SMPL22
from videomdm_ext.supervision.keypoints import _median, exchanged, without_outliers
from videomdm_ext.supervision.observation import Observation


def seen(frames: int = 40, hertz: float = 2.0, swing: float = 0.03) -> Observation:
    """Joints that swing, at 20 frames a second, each in its own phase."""
    time, joints = torch.arange(frames) / 20, torch.arange(22)
    phase = 2 * math.pi * hertz * time[:, None] + joints
    place = torch.stack((0.01 * joints.expand(frames, 22) + swing * phase.sin(), 0.02 * joints.expand(frames, 22)), -1)
    return Observation.of(
        keypoints=place.expand(2, -1, -1, -1).clone(),
        confidence=torch.ones(2, frames, 22),
        extrinsics=torch.eye(3, 4).expand(2, frames, 3, 4),
        initial_heading=torch.zeros(2),
        valid=torch.ones(2, frames, dtype=torch.bool),
    )


@pytest.mark.parametrize("hertz", [0.0, 0.5, 1.0, 2.0])
def test_a_fast_swing_loses_no_keypoint(hertz: float) -> None:
    before = seen(hertz=hertz, swing=0.03)
    after = without_outliers(before)
    assert torch.equal(after.weight, before.weight)
    assert not exchanged(before, SMPL22)[1].any()


@pytest.mark.parametrize("frames", [(12,), (12, 13), (12, 16), (2,), (37,)])
def test_a_jump_of_one_or_two_frames_counts_as_unseen_and_what_is_far_from_it_stays(frames: tuple[int, ...]) -> None:
    before = seen(hertz=1.0)
    before.keypoints[1, list(frames), 20, 1] += 0.08
    weight = without_outliers(before).weight
    assert (weight[1, list(frames), 20] == 0).all()
    near = range(min(frames) - 3, max(frames) + 4)
    weight[1, [frame for frame in near if 0 <= frame < 40], 20] = 1.0
    assert torch.equal(weight, before.weight)
    assert len(frames) > 1 or (without_outliers(before).weight == 0).sum() == 1


def test_what_lies_in_unseen_keypoints_changes_nothing() -> None:
    before = seen()
    before.weight[0, 3:6, 7] = 0.0
    after = without_outliers(before)
    before.keypoints[0, 3:6, 7] = 1e6
    assert torch.equal(without_outliers(before).weight, after.weight)
    assert (after.weight == 0).sum() == 3


def test_the_sorting_network_finds_the_lower_median_bit_for_bit(generator: torch.Generator) -> None:
    five = torch.randn(5, 4000, generator=generator)
    five = five.masked_fill(torch.rand(five.shape, generator=generator) < 0.4, torch.nan)
    count = five.isfinite().sum(0)
    assert set(count.tolist()) == set(range(6))
    torch.testing.assert_close(_median(list(five), count), five.nanmedian(0).values, rtol=0, atol=0, equal_nan=True)
