"""Errors of one motion against another: what each alignment forgives, and the parts along and across a camera's ray."""

import math

import pytest
import roma
import torch
from hypothesis import given
from hypothesis import strategies as st
from people import real_batch
from torch import Tensor

from videomdm_ext.geometry.cameras import image_points, orbit, to_camera
from videomdm_ext.motion import measures as accuracy

SEEDS = st.integers(0, 10_000)
TRUTH = real_batch(12, torch.float64)[:4]


def drawn(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def wrong(seed: int, size: float = 0.05) -> Tensor:
    return TRUTH + size * drawn(tuple(TRUTH.shape), seed)


def rotations(count: int, seed: int) -> Tensor:
    return roma.special_procrustes(drawn((count, 3, 3), seed))


def in_camera(positions: Tensor) -> Tensor:
    camera = orbit(*torch.tensor((0.8, 0.2, 5.0), dtype=torch.float64), torch.tensor((0.0, 0.9, 0.0)).double())
    return to_camera(positions, camera.expand(*positions.shape[:-2], 3, 4))


@given(seed=SEEDS)
def test_each_alignment_forgives_more_and_the_true_motion_has_no_error(seed: int) -> None:
    made = wrong(seed) + torch.tensor((0.3, 0.0, -0.2))
    plain, rooted = accuracy.mpjpe(made, TRUTH), accuracy.root_aligned_mpjpe(made, TRUTH)
    assert (rooted < plain).all()
    assert (accuracy.pa_mpjpe(made, TRUTH) < rooted).all()
    for error in (accuracy.mpjpe, accuracy.root_aligned_mpjpe, accuracy.pa_mpjpe):
        assert error(TRUTH, TRUTH).abs().max() < 1e-9


@given(seed=SEEDS, scale=st.floats(0.2, 4.0))
def test_pa_mpjpe_forgives_any_similarity_of_each_frame(seed: int, scale: float) -> None:
    turn = rotations(TRUTH.shape[0] * TRUTH.shape[1], seed).view(*TRUTH.shape[:2], 3, 3)
    moved = scale * TRUTH @ turn + drawn((*TRUTH.shape[:2], 1, 3), seed)
    assert accuracy.pa_mpjpe(moved, TRUTH).max() < 1e-8
    torch.testing.assert_close(
        accuracy.pa_mpjpe(scale * wrong(seed) @ turn, TRUTH), accuracy.pa_mpjpe(wrong(seed), TRUTH), rtol=0, atol=1e-8
    )


@given(seed=SEEDS)
def test_a_mirrored_pose_is_aligned_by_a_proper_rotation_with_its_own_best_scale(seed: int) -> None:
    """No small turn or change of scale of the aligned pose comes nearer, and no reflection hides in it."""
    mirrored = wrong(seed) * torch.tensor((-1.0, 1.0, 1.0))
    aligned = accuracy.similarity_aligned(mirrored, TRUTH)
    source, result = (pose - pose.mean(-2, keepdim=True) for pose in (mirrored, aligned))
    volume = [torch.linalg.det(part[..., [4, 12, 18], :]).sign() for part in (source, result)]
    assert torch.equal(*volume)
    centre = aligned.mean(-2, keepdim=True)
    best = (aligned - TRUTH).square().sum((-1, -2))
    for change in (0.99, 1.01):
        assert ((centre + change * result - TRUTH).square().sum((-1, -2)) > best).all()
    small = roma.rotvec_to_rotmat(0.02 * torch.nn.functional.normalize(drawn((3,), seed), dim=0))
    assert ((centre + result @ small - TRUTH).square().sum((-1, -2)) > best).all()


@given(seed=SEEDS, within=st.sampled_from([0.05, 0.1]))
def test_pck_counts_the_joints_within_a_distance(seed: int, within: float) -> None:
    made = wrong(seed)
    plain = [
        sum(math.dist(a, b) <= within for a, b in zip(x.tolist(), y.tolist(), strict=True)) / (12 * 22)
        for x, y in zip(made.flatten(1, 2), TRUTH.flatten(1, 2), strict=True)
    ]
    assert accuracy.pck(made, TRUTH, within=within).tolist() == pytest.approx(plain)


def test_pck_is_one_for_the_truth_and_none_beyond_the_distance() -> None:
    assert accuracy.pck(TRUTH, TRUTH, within=0.05).tolist() == [1.0] * 4
    away = TRUTH + torch.tensor((0.0, 0.06, 0.0))
    assert accuracy.pck(away, TRUTH, within=0.05).tolist() == [0.0] * 4
    assert accuracy.pck(away, TRUTH, within=0.1).tolist() == [1.0] * 4
    assert accuracy.pck(accuracy.root_aligned(away, TRUTH), TRUTH, within=0.001).tolist() == [1.0] * 4


@given(seed=SEEDS)
def test_the_root_aligned_motion_has_the_true_roots_and_the_root_aligned_error(seed: int) -> None:
    aligned = accuracy.root_aligned(wrong(seed), TRUTH)
    torch.testing.assert_close(aligned[..., 0, :], TRUTH[..., 0, :])
    torch.testing.assert_close(accuracy.mpjpe(aligned, TRUTH), accuracy.root_aligned_mpjpe(wrong(seed), TRUTH))


@given(speed=st.floats(-2, 2), gain=st.floats(0.1, 3.0))
def test_acceleration_error_sees_a_planted_one_and_no_steady_drift(speed: float, gain: float) -> None:
    time = torch.arange(12).double() / 20.0
    along = torch.tensor((0.6, 0.0, 0.8)).double()
    moved = TRUTH + (speed * time + 0.5 * gain * time.square())[:, None, None] * along
    assert accuracy.acceleration_error(moved, TRUTH, 20.0).tolist() == pytest.approx([gain] * 4, rel=1e-6)


@given(seed=SEEDS)
def test_an_error_along_the_rays_is_depth_alone_and_the_camera_does_not_see_it(seed: int) -> None:
    true = in_camera(TRUTH)
    moved = true * (1 + 0.05 * drawn((*true.shape[:-1], 1), seed))
    torch.testing.assert_close(image_points(moved, 0.1)[0], image_points(true, 0.1)[0])
    depth, image = accuracy.depth_and_image_error(moved, true)
    torch.testing.assert_close(depth, accuracy.mpjpe(moved, true))
    assert image.max() < 1e-9


@given(seed=SEEDS)
def test_the_two_parts_of_each_joints_error_are_at_right_angles(seed: int) -> None:
    true, made = in_camera(TRUTH), in_camera(wrong(seed))
    one = [part[0, 0, 5].expand(1, 1, 3) for part in (made, true)]
    depth, image = accuracy.depth_and_image_error(*one)
    assert (depth.square() + image.square()).item() == pytest.approx((one[0] - one[1]).square().sum().item())
    ray = one[1].flatten() / one[1].norm()
    assert depth.item() == pytest.approx(abs(float((one[0] - one[1]).flatten() @ ray)))
