"""A refined teacher is nearer the truth than the lifted one, stays on its keypoints' rays, and leaves an exact one be."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from people import observe, real_batch
from torch import Tensor

from videomdm_ext.geometry.cameras import orbit, project, to_camera, to_world, uniform
from videomdm_ext.motion.accuracy import bone_wander, mpjpe, root_aligned_mpjpe
from videomdm_ext.motion.kinematics import bone_lengths, smooth
from videomdm_ext.skeletons import SMPL22
from videomdm_ext.supervision.observation import Observation
from videomdm_ext.supervision.refinement import Refinement, refine
from videomdm_ext.supervision.targets import on_rays

FRAMES, NEAREST = 32, 0.5
BRIEF = Refinement(iterations=20)


@dataclass(frozen=True)
class Lifted:
    """True motions [B, T, J, 3], what cameras saw of them, and the same with errors along the rays."""

    truth: Tensor
    observation: Observation
    positions: Tensor


def lift(generator: torch.Generator, error: float = 0.09) -> Lifted:
    """Every joint is off along its ray by `error`, m: a constant and a smooth part, hands as much as hips."""
    truth = real_batch(FRAMES)
    observation = observe(truth, around(truth, generator))
    seen = to_camera(truth, observation.extrinsics)
    constant = torch.randn(len(truth), 1, 22, generator=generator)
    wander = 4.0 * smooth(torch.randn(len(truth), FRAMES, 22, generator=generator), 5.0)
    moved = seen * (1 + error / 1.4 * (constant + wander).unsqueeze(-1) / seen[..., 2:])
    return Lifted(truth, observation, to_world(moved, observation.extrinsics))


def around(motions: Tensor, generator: torch.Generator) -> Tensor:
    """Still cameras [B, 3, 4] about five metres from the middle of each motion, from all sides."""
    bounds = ((-math.pi, math.pi), (-0.1, 0.4), (4.5, 6.0))
    return orbit(*(uniform(*bound, (len(motions),), generator) for bound in bounds), motions[:, :, 0].mean(1))


@pytest.fixture(scope="module")
def case() -> tuple[Lifted, Tensor, Tensor]:
    """-> lifted motions, the refined ones, and the lengths of their bones."""
    lifted = lift(torch.Generator().manual_seed(3))
    return lifted, *refine(lifted.positions, lifted.observation, SMPL22)


def test_an_exact_teacher_moves_by_a_quarter_of_what_lifters_err_and_keeps_its_bones(generator):
    """Quick motion is taken for a little jitter: hence centimetres where a lifter is off by a decimetre."""
    exact = lift(generator, error=0.0)
    refined, lengths = refine(exact.positions, exact.observation, SMPL22)
    assert root_aligned_mpjpe(refined, exact.truth).mean() < 0.025
    assert mpjpe(refined, exact.truth).mean() < 0.07
    torch.testing.assert_close(lengths, bone_lengths(exact.truth, SMPL22).mean((0, 1)), atol=0.003, rtol=0.01)
    assert bone_wander(refined, SMPL22).mean() < 0.03


def test_errors_along_the_rays_shrink_by_a_third_in_every_measure_of_the_pose(case):
    lifted, refined, _ = case
    before, after = (root_aligned_mpjpe(p, lifted.truth) for p in (lifted.positions, refined))
    assert before.mean() > 0.08
    assert after.mean() < 0.65 * before.mean()
    assert (after < before).float().mean() > 0.9


def test_bones_keep_their_lengths_over_time_as_they_do_in_the_truth(case):
    lifted, refined, _ = case
    before, after = (bone_wander(p, SMPL22).mean() for p in (lifted.positions, refined))
    assert after < 0.25 * before


def test_the_shared_lengths_are_nearer_the_true_ones_than_any_clip_was(case):
    lifted, _, lengths = case
    true = bone_lengths(lifted.truth, SMPL22).mean((0, 1))
    own = bone_lengths(lifted.positions, SMPL22).mean(1)
    errors = (own - true).abs().mean(-1)
    assert (lengths - true).abs().mean() < 0.5 * errors.min()


def test_every_joint_stays_on_the_ray_of_its_keypoint(case):
    lifted, refined, _ = case
    points, depth = project(refined, lifted.observation.extrinsics)
    torch.testing.assert_close(points, lifted.observation.keypoints, atol=1e-5, rtol=0)
    assert depth.min() >= NEAREST
    assert torch.linalg.vector_norm(refined - lifted.positions, dim=-1).mean() > 0.03


def test_a_joint_that_is_half_trusted_stays_on_the_ray_between_its_keypoint_and_its_lifted_place(generator):
    exact = lift(generator, error=0.05)
    confidence = 0.3 + 0.6 * torch.rand(exact.truth.shape[:-1], generator=generator)
    confidence[:, :, 4] = 0.0
    shifted = exact.observation.keypoints + 0.02
    observation = observe(exact.truth, exact.observation.extrinsics[:, 0], confidence=confidence, keypoints=shifted)
    refined, _ = refine(exact.positions, observation, SMPL22, config=BRIEF)
    expected = project(on_rays(exact.positions, observation, NEAREST), observation.extrinsics)[0]
    found = project(refined, observation.extrinsics)[0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    unseen = project(exact.positions, observation.extrinsics)[0][:, :, 4]
    torch.testing.assert_close(found[:, :, 4], unseen, atol=1e-5, rtol=0)


@pytest.fixture
def padded(generator) -> Lifted:
    """-> motions of which the last third of the first, and the end of the others, is padding."""
    lifted = lift(generator)
    valid = torch.ones(lifted.truth.shape[:2], dtype=torch.bool)
    valid[0, 20:], valid[:, 30:] = False, False
    cameras = lifted.observation.extrinsics[:, 0]
    return Lifted(lifted.truth, observe(lifted.truth, cameras, valid=valid), lifted.positions)


def test_padding_comes_back_as_it_went_in(padded):
    refined, _ = refine(padded.positions, padded.observation, SMPL22, config=BRIEF)
    valid = padded.observation.valid
    assert torch.equal(refined[~valid], padded.positions[~valid])
    assert not torch.isclose(refined[valid], padded.positions[valid], atol=1e-4).all(-1).any(-1).all()


@pytest.mark.parametrize("garbage", [float("nan"), 1e6, -3.0])
def test_what_padding_holds_changes_no_bit(padded, garbage):
    frames = padded.observation.valid[..., None, None]
    spoilt = {
        "keypoints": torch.where(frames, padded.observation.keypoints, garbage),
        "extrinsics": torch.where(frames, padded.observation.extrinsics, garbage),
        "valid": padded.observation.valid,
    }
    observation = observe(padded.truth, padded.observation.extrinsics[:, 0], **spoilt)
    positions = torch.where(frames, padded.positions, garbage)
    clean, lengths = refine(padded.positions, padded.observation, SMPL22, config=BRIEF)
    other, other_lengths = refine(positions, observation, SMPL22, config=BRIEF)
    assert torch.equal(clean[padded.observation.valid], other[padded.observation.valid])
    assert torch.equal(lengths, other_lengths)


def test_more_padding_moves_no_clip(padded):
    cut = observe(padded.truth[:, :30], padded.observation.extrinsics[:, 0], valid=padded.observation.valid[:, :30])
    long, long_lengths = refine(padded.positions, padded.observation, SMPL22, config=BRIEF)
    short, short_lengths = refine(padded.positions[:, :30], cut, SMPL22, config=BRIEF)
    torch.testing.assert_close(long[:, :30], short, atol=1e-3, rtol=0)
    torch.testing.assert_close(long_lengths, short_lengths, atol=1e-4, rtol=0)


def test_lengths_that_are_known_stay_and_bones_approach_them(generator):
    lifted = lift(generator)
    true = bone_lengths(lifted.truth, SMPL22).mean((0, 1))
    known = (true + true[[joint - 1 for joint in SMPL22.mirror[1:]]]) / 2
    refined, lengths = refine(lifted.positions, lifted.observation, SMPL22, lengths=known)
    torch.testing.assert_close(lengths, known, atol=1e-7, rtol=1e-6)
    assert (bone_lengths(refined, SMPL22) - known).abs().mean() < 0.01


def test_left_and_right_bones_are_equally_long(case):
    lengths = case[2]
    mirror = [joint - 1 for joint in SMPL22.mirror[1:]]
    assert mirror != sorted(mirror)
    assert torch.equal(lengths, lengths[mirror])
    lifted = bone_lengths(case[0].positions, SMPL22).mean((0, 1))
    assert (lifted - lifted[mirror]).abs().max() > 0.01


def test_the_mean_scale_of_the_clips_stays_the_lifters(case):
    """People twice as tall at twice the distance look the same, so no more than the lifter knows may decide it."""
    lifted, refined, _ = case
    depth = [to_camera(p, lifted.observation.extrinsics)[..., 0, 2].mean(1) for p in (lifted.positions, refined)]
    assert (depth[1] / depth[0]).mean() == pytest.approx(1.0, abs=1e-3)
    assert (depth[1] / depth[0]).std() > 1e-3


def test_clips_of_one_person_that_were_lifted_too_large_and_too_small_meet_in_the_middle(generator):
    exact = lift(generator, error=0.0)
    factor = torch.linspace(0.94, 1.06, len(exact.truth))
    seen = to_camera(exact.truth, exact.observation.extrinsics) * factor[:, None, None, None]
    refined, _ = refine(to_world(seen, exact.observation.extrinsics), exact.observation, SMPL22)
    size = bone_lengths(refined, SMPL22).mean((1, 2)) / bone_lengths(exact.truth, SMPL22).mean((1, 2))
    assert size.mean() == pytest.approx(1.0, abs=0.01)
    assert size.std() < 0.35 * factor.std()
    assert torch.corrcoef(torch.stack((size, factor)))[0, 1] > 0


def test_progress_is_told_every_iteration():
    lifted = lift(torch.Generator().manual_seed(1))
    calls: list[tuple[int, int]] = []
    refine(
        lifted.positions,
        lifted.observation,
        SMPL22,
        config=Refinement(iterations=3),
        progress=lambda *a: calls.append(a),
    )
    assert calls == [(1, 3), (2, 3), (3, 3)]
