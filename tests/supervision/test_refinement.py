"""A refined teacher is nearer the truth than the lifted, stays on its keypoints' rays, and leaves an exact one be."""

import copy
import dataclasses
import math
from dataclasses import dataclass

import pytest
import torch
from people import observe, real_batch
from torch import Tensor

from videomdm_ext.geometry.cameras import orbit, project, to_camera, to_world, uniform
from videomdm_ext.motion.kinematics import bone_lengths, bone_vectors, smooth
from videomdm_ext.motion.measures import bone_wander, foot_skating, mpjpe, pa_mpjpe, root_aligned_mpjpe
from videomdm_ext.motion.skeletons import SMPL22
from videomdm_ext.supervision.observation import Observation
from videomdm_ext.supervision.poses import aligned_poses, estimate_poses, unlikeliness
from videomdm_ext.supervision.rays import on_rays
from videomdm_ext.supervision.refinement import (
    Refinement,
    Shared,
    estimate,
    keypoint_noise,
    refine,
    repaired,
    solve,
)

FRAMES, NEAREST = 32, 0.5
BRIEF = Refinement(first=20, rounds=1, iterations=5)
USUAL = Refinement(first=60, rounds=3, iterations=30)
QUICK = Refinement(first=40, rounds=2, iterations=20)
BRIEFEST = Refinement(first=3, rounds=2, iterations=1)


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


def rows_of(lifted: Lifted, rows: slice) -> tuple[Tensor, Observation]:
    """-> positions and observation of some clips."""
    seen = lifted.observation
    return lifted.positions[rows], Observation(*(getattr(seen, f.name)[rows] for f in dataclasses.fields(seen)[:5]))


@pytest.fixture(scope="module")
def case() -> tuple[Lifted, Tensor, Shared]:
    """-> lifted motions, the refined ones, and what they share."""
    lifted = lift(torch.Generator().manual_seed(3))
    return lifted, *refine(lifted.positions, lifted.observation, SMPL22, config=USUAL)


def test_an_exact_teacher_moves_by_less_than_a_centimetre_and_keeps_its_bones(generator):
    exact = lift(generator, error=0.0)
    refined, shared = refine(exact.positions, exact.observation, SMPL22, config=QUICK)
    assert mpjpe(refined, exact.truth).mean() < 0.01
    torch.testing.assert_close(shared.lengths, bone_lengths(exact.truth, SMPL22).mean((0, 1)), atol=0.003, rtol=0.01)
    assert bone_wander(refined, SMPL22).mean() < 0.03


def spoilt(lifted: Lifted, what: str, generator: torch.Generator) -> Lifted:
    """The same with worse evidence: keypoints on a picture whose focal length is 1, angles in radians."""
    seen, positions = lifted.observation, lifted.positions
    keypoints, cameras, shape = seen.keypoints, seen.extrinsics, seen.keypoints.shape
    confidence = torch.ones(shape[:-1])
    if what == "smooth":
        noise = smooth(torch.randn(shape, generator=generator), 3.0)
        keypoints = keypoints + 0.005 * noise / noise.std()
    if what in ("1 % off", "5 % off"):
        off = torch.rand(shape[:-1], generator=generator) < float(what[0]) / 100
        way = torch.nn.functional.normalize(torch.randn(shape, generator=generator), dim=-1)
        keypoints = keypoints + 0.08 * off.unsqueeze(-1) * way
    if what == "10 % missing":
        confidence = (torch.rand(shape[:-1], generator=generator) > 0.1).float()
    if what == "exchanged":
        frames = torch.rand(shape[:2], generator=generator) < 0.05
        keypoints = torch.where(frames[..., None, None], keypoints[:, :, list(SMPL22.mirror)], keypoints)
    if what in ("longer", "shorter"):
        factor = 1.15 if what == "longer" else 0.85
        keypoints = keypoints * factor
        root = to_camera(positions, cameras)[..., :1, :]
        nearer = to_camera(positions, cameras) - root + root * root.new_tensor((1.0, 1.0, 1 / factor))
        positions = to_world(nearer, cameras)
    if what == "tilted":
        angle = math.radians(10.0)
        tilt = torch.tensor(((1, 0, 0), (0, math.cos(angle), -math.sin(angle)), (0, math.sin(angle), math.cos(angle))))
        positions = positions @ tilt.T  # and the camera with them: up is elsewhere, and the picture is the same
        cameras = torch.cat((cameras[..., :3] @ tilt.T, cameras[..., 3:]), -1)
    observation = observe(lifted.truth, cameras[:, 0], keypoints=keypoints, confidence=confidence, extrinsics=cameras)
    return Lifted(lifted.truth, observation, positions)


HARMLESS = ("smooth", "1 % off", "5 % off", "10 % missing", "exchanged", "longer", "shorter", "tilted")


def test_refinement_never_harms(case, generator):
    """Whatever is wrong with keypoints and cameras, the pose is hardly worse than the lifted; and mostly much better.

    All at once, with what the clean clips share, so that it takes seconds.
    """
    whole, _, shared = case
    positions, seen = rows_of(whole, slice(None, None, 3))
    clean = Lifted(whole.truth[::3], seen, positions)
    rows = [spoilt(clean, what, generator) for what in HARMLESS]
    fields = ("keypoints", "weight", "extrinsics", "initial_heading", "valid")
    together = Observation(**{name: torch.cat([getattr(row.observation, name) for row in rows]) for name in fields})
    refined, _ = refine(torch.cat([row.positions for row in rows]), together, SMPL22, shared=shared, config=QUICK)
    found = {}
    for what, row, positions in zip(HARMLESS, rows, refined.split(len(clean.truth)), strict=True):
        true, *both = (
            to_camera(p, o.extrinsics)
            for p, o in (
                (clean.truth, clean.observation),
                (row.positions, row.observation),
                (positions, row.observation),
            )
        )
        found[what] = [[float(of(p, true).mean()) for p in both] for of in (root_aligned_mpjpe, pa_mpjpe)]
    for what, ((rooted, better), (aligned, after)) in found.items():
        assert better < 1.02 * rooted, (what, found)
        assert after < 1.02 * aligned, (what, found)
    for what in ("1 % off", "5 % off", "10 % missing", "exchanged"):
        assert found[what][0][1] < 0.7 * found[what][0][0], (what, found)


def test_a_clip_alone_comes_out_as_in_any_group(case):
    lifted, refined, shared = case
    alone, same = refine(*rows_of(lifted, slice(2, 3)), SMPL22, shared=shared, config=USUAL)
    assert mpjpe(alone, refined[2:3]).max() < 1e-3
    assert same is shared


def test_a_clip_whose_keypoints_are_another_persons_keeps_its_lifted_motion(case):
    lifted, refined, shared = case
    keypoints = lifted.observation.keypoints[:3].clone()
    keypoints[0, 10:] = lifted.observation.keypoints[3, 10:].flip(-1) + 0.1
    seen = observe(lifted.truth[:3], lifted.observation.extrinsics[:3, 0], keypoints=keypoints)
    found, _ = refine(lifted.positions[:3], seen, SMPL22, shared=shared, config=USUAL)
    assert torch.equal(found[0], lifted.positions[0])
    assert mpjpe(found[1:], refined[1:3]).max() < 1e-3


def test_left_and_right_are_put_back_and_outliers_are_let_go(case):
    """The lifted joints are exchanged where the lifter was fooled too, and only there."""
    seen, lifted = case[0].observation, to_camera(case[0].positions, case[0].observation.extrinsics)
    sides, apart = list(SMPL22.mirror), case[0].observation.keypoints[0].diff(dim=-2).abs().sum((-1, -2))
    frame = int(apart[3:-3].argmax()) + 3
    keypoints, fooled = seen.keypoints.clone(), lifted.clone()
    keypoints[0, frame] = keypoints[0, frame, sides]
    fooled[0, frame] = fooled[0, frame, sides]
    keypoints[1, 5, 20] += 0.05
    for start in (lifted, fooled):
        joints, found = repaired(start, dataclasses.replace(seen, keypoints=keypoints), SMPL22, NEAREST)
        assert torch.equal(found.keypoints[0, frame], seen.keypoints[0, frame])
        torch.testing.assert_close(joints[0, frame], lifted[0, frame])
        assert found.weight[1, 5, 20] == 0
        assert (found.weight > 0).float().mean() > 0.9


def test_poses_are_nearer_to_the_truth_by_a_third_with_steady_bones_and_every_joint_on_its_ray(case):
    lifted, refined, _ = case
    before, after = (root_aligned_mpjpe(p, lifted.truth) for p in (lifted.positions, refined))
    assert before.mean() > 0.08
    assert after.mean() < 0.65 * before.mean()
    assert (after < before).float().mean() > 0.9
    assert bone_wander(refined, SMPL22).mean() < 0.25 * bone_wander(lifted.positions, SMPL22).mean()
    points, depth = project(refined, lifted.observation.extrinsics)
    assert (points - lifted.observation.keypoints).square().mean().sqrt() < 1e-3
    assert depth.min() >= NEAREST
    assert torch.linalg.vector_norm(refined - lifted.positions, dim=-1).mean() > 0.03


def test_an_unseen_joint_stays_on_its_lifted_ray_and_goes_with_the_frames_around_where_they_were_seen(generator):
    exact = lift(generator, error=0.05)
    confidence = torch.ones(exact.truth.shape[:-1])
    confidence[:, :, 4], confidence[:, 14:17, 5] = 0.0, 0.0
    shifted = exact.observation.keypoints + 0.02
    observation = observe(exact.truth, exact.observation.extrinsics[:, 0], confidence=confidence, keypoints=shifted)
    refined, _ = refine(exact.positions, observation, SMPL22, config=BRIEF)
    found, lifted = (project(p, observation.extrinsics)[0] for p in (refined, exact.positions))
    assert (lifted - found)[:, :, 4].square().mean().sqrt() < 4e-3
    assert (shifted - found)[:, 14:17, 5].square().mean().sqrt() < 4e-3


def test_noise_of_keypoints_makes_no_motion_shake(generator):
    """In the image a quarter of the noise in accelerations goes and more, also in motion as quick as this."""
    exact = lift(generator, error=0.0)
    noise = 5e-4 * torch.randn(exact.observation.keypoints.shape, generator=generator)
    seen = observe(exact.truth, exact.observation.extrinsics[:, 0], keypoints=exact.observation.keypoints + noise)
    assert 4e-4 < keypoint_noise(seen).median() < 7.5e-4
    moved = on_rays(exact.truth, seen, NEAREST)
    refined, _ = refine(moved, seen, SMPL22, config=QUICK)
    true = exact.observation.keypoints
    images = [seen.keypoints, project(refined, seen.extrinsics)[0]]
    before, after = ((image - true).diff(n=2, dim=1).norm(dim=-1).median() for image in images)
    assert after < 0.75 * before


def test_people_of_different_proportions_keep_their_own(generator):
    """Long shins and short forearms beside the opposite: one skeleton for all would be wrong about both."""
    lifted = lift(generator, error=0.05)
    longer = torch.zeros(21)
    longer[[6, 7]], longer[[19, 20]] = 0.05, -0.05
    longer = longer - longer.mean()
    sign = torch.where(torch.arange(len(lifted.truth)) % 2 == 0, 1.0, -1.0)
    factor = torch.exp(sign[:, None, None, None] * longer[:, None])
    truth = rebuilt(lifted.truth, bone_vectors(lifted.truth, SMPL22) * factor)
    observation = observe(truth, lifted.observation.extrinsics[:, 0])
    refined, _ = refine(truth + lifted.positions - lifted.truth, observation, SMPL22, config=QUICK)
    size = bone_lengths(refined, SMPL22).mean(1).log()
    ratio = size[:, [6, 7]].mean(1) - size[:, [19, 20]].mean(1)
    told = ratio[sign > 0].mean() - ratio[sign < 0].mean()
    alike = bone_lengths(lifted.truth, SMPL22).mean(1).log()
    before = alike[:, [6, 7]].mean(1) - alike[:, [19, 20]].mean(1)
    assert told - (before[sign > 0].mean() - before[sign < 0].mean()) > 0.1


def rebuilt(positions: Tensor, bones: Tensor) -> Tensor:
    """The same roots with these bones [B, T, J - 1, 3] hung on one another."""
    joints = [positions[..., 0, :]]
    for joint in range(1, SMPL22.num_joints):
        joints.append(joints[SMPL22.parents[joint]] + bones[..., joint - 1, :])
    return torch.stack(joints, -2)


@pytest.fixture(scope="module")
def padded() -> tuple[Lifted, Tensor, Shared]:
    """-> motions of which the last third of the first, and the end of the others, is padding, and as `case`."""
    lifted = lift(torch.Generator().manual_seed(20260101))
    valid = torch.ones(lifted.truth.shape[:2], dtype=torch.bool)
    valid[0, 20:], valid[:, 30:] = False, False
    seen = observe(lifted.truth, lifted.observation.extrinsics[:, 0], valid=valid)
    return Lifted(lifted.truth, seen, lifted.positions), *refine(lifted.positions, seen, SMPL22, config=BRIEF)


def test_padding_comes_back_as_it_went_in_and_what_it_holds_changes_no_bit(padded):
    """No number at all in some clips, a huge one or one behind the camera in others."""
    lifted, clean, shared = padded
    seen, frames = lifted.observation, lifted.observation.valid[..., None, None]
    assert torch.equal(clean[~seen.valid], lifted.positions[~seen.valid])
    assert not torch.isclose(clean[seen.valid], lifted.positions[seen.valid], atol=1e-4).all(-1).any(-1).all()
    garbage = torch.tensor((math.nan, 1e6, -3.0)).repeat(len(frames))[: len(frames), None, None, None]
    spoilt = {name: torch.where(frames, getattr(seen, name), garbage) for name in ("keypoints", "extrinsics")}
    observation = observe(lifted.truth, seen.extrinsics[:, 0], **spoilt, valid=seen.valid)
    other, same = refine(torch.where(frames, lifted.positions, garbage), observation, SMPL22, config=BRIEF)
    assert torch.equal(clean[seen.valid], other[seen.valid])
    for item in dataclasses.fields(Shared):
        assert torch.equal(getattr(shared, item.name), getattr(same, item.name)), item.name


def test_more_padding_moves_no_clip(padded):
    lifted, long, shared = padded
    seen = lifted.observation
    cut = observe(lifted.truth[:, :30], seen.extrinsics[:, 0], valid=seen.valid[:, :30])
    short, same = refine(lifted.positions[:, :30], cut, SMPL22, config=BRIEF)
    assert (long[:, :30] - short).abs().mean() < 1e-5
    torch.testing.assert_close(shared.lengths, same.lengths, atol=1e-4, rtol=0)
    torch.testing.assert_close(shared.mean, same.mean, atol=1e-3, rtol=0)


def test_what_is_shared_stays_where_it_is_given_and_bones_approach_it(generator):
    lifted = lift(generator)
    true = bone_lengths(lifted.truth, SMPL22).mean((0, 1))
    known = (true + true[[joint - 1 for joint in SMPL22.mirror[1:]]]) / 2
    poses = aligned_poses(lifted.truth, SMPL22).flatten(0, 1)
    given = Shared(known, poses.mean(0), torch.eye(63))
    refined, shared = refine(lifted.positions, lifted.observation, SMPL22, shared=given, config=QUICK)
    for item in dataclasses.fields(Shared):
        torch.testing.assert_close(getattr(shared, item.name), getattr(given, item.name), atol=1e-7, rtol=1e-6)
    assert (bone_lengths(refined, SMPL22) - known).abs().mean() < 0.01


def test_likely_poses_bring_a_pose_nearer_to_the_truth_than_bones_and_smoothness_alone(case):
    """Cameras from all sides see each direction of a pose exactly somewhere; other clips' depths are taught by them."""
    lifted, refined, shared = case
    config = Refinement(first=USUAL.total, rounds=0)
    plain, _ = refine(lifted.positions, lifted.observation, SMPL22, shared=shared, config=config)
    alone, together = (root_aligned_mpjpe(p, lifted.truth).mean() for p in (plain, refined))
    assert together < 0.95 * alone


def test_the_distribution_is_that_of_the_refined_poses(case):
    _, refined, shared = case
    poses = aligned_poses(refined, SMPL22).flatten(0, 1)
    mean, whitening = estimate_poses(poses, Refinement().pose_floor)
    torch.testing.assert_close(shared.mean, mean, atol=0.02, rtol=0)
    spread = [unlikeliness(poses, *one).mean() for one in ((shared.mean, shared.whitening), (mean, whitening))]
    assert spread[0] == pytest.approx(spread[1].item(), rel=0.05)


def test_feet_that_rest_slide_less_than_if_nothing_held_them_and_quick_ones_keep_their_speed(case):
    lifted, refined, shared = case
    config = dataclasses.replace(USUAL, rest=1e3)
    loose, _ = refine(lifted.positions, lifted.observation, SMPL22, shared=shared, config=config)

    def steps(positions: Tensor) -> Tensor:
        return positions[:, :, list(SMPL22.contact_joints)].diff(dim=1).norm(dim=-1)

    true, held, free = map(steps, (lifted.truth, refined, loose))
    assert held[true < 0.005].mean() < 0.9 * free[true < 0.005].mean()
    assert held[true > 0.05].mean() > 0.95 * free[true > 0.05].mean()


def test_feet_near_the_floor_slide_less_at_no_price_in_the_pose(case):
    lifted, refined, shared = case
    config = dataclasses.replace(USUAL, standing=0.0)
    loose, _ = refine(lifted.positions, lifted.observation, SMPL22, shared=shared, config=config)
    true, held, free = (foot_skating(p, SMPL22, 20.0).mean() for p in (lifted.truth, refined, loose))
    assert held - true < 0.6 * (free - true)
    kept, without = (root_aligned_mpjpe(p, lifted.truth).mean() for p in (refined, loose))
    assert kept < 1.02 * without


def test_the_shared_lengths_are_equal_on_both_sides_and_nearer_the_true_ones_than_any_clip_was(case):
    lifted, _, shared = case
    mirror = [joint - 1 for joint in SMPL22.mirror[1:]]
    true, own = (bone_lengths(motions, SMPL22).mean(1) for motions in (lifted.truth, lifted.positions))
    assert torch.equal(shared.lengths, shared.lengths[mirror])
    assert (own.mean(0) - own.mean(0)[mirror]).abs().max() > 0.01
    errors = (own - true.mean(0)).abs().mean(-1)
    assert (shared.lengths - true.mean(0)).abs().mean() < 0.5 * errors.min()


def test_the_mean_scale_of_the_clips_stays_the_lifters(case):
    """People twice as tall at twice the distance look the same, so no more than the lifter knows may decide it."""
    lifted, refined, _ = case
    depth = [to_camera(p, lifted.observation.extrinsics)[..., 0, 2].mean(1) for p in (lifted.positions, refined)]
    assert (depth[1] / depth[0]).mean() == pytest.approx(1.0, abs=1e-3)
    assert (depth[1] / depth[0]).std() > 1e-3


def test_clips_of_one_person_that_were_lifted_too_large_and_too_small_meet_in_the_middle(generator):
    exact = lift(generator, error=0.05)
    factor = torch.linspace(0.94, 1.06, len(exact.truth))
    seen = to_camera(exact.positions, exact.observation.extrinsics) * factor[:, None, None, None]
    refined, _ = refine(to_world(seen, exact.observation.extrinsics), exact.observation, SMPL22, config=QUICK)
    size = bone_lengths(refined, SMPL22).mean((1, 2)) / bone_lengths(exact.truth, SMPL22).mean((1, 2))
    assert size.mean() == pytest.approx(1.0, abs=0.03)
    assert size.std() < 0.35 * factor.std()
    assert torch.corrcoef(torch.stack((size, factor)))[0, 1] > 0


def test_progress_is_told_every_iteration_of_every_round():
    lifted = lift(torch.Generator().manual_seed(1))
    calls: list[tuple[int, int]] = []
    refine(lifted.positions, lifted.observation, SMPL22, config=BRIEFEST, progress=lambda *a: calls.append(a))
    assert calls == [(done, 10) for done in range(1, 11)]


# -- many clips --------------------------------------------------------------------------------------------------------


def test_what_is_shared_is_that_of_all_clips_whatever_the_batches(generator):
    lifted = lift(generator)
    whole = estimate([rows_of(lifted, slice(None))], SMPL22, config=BRIEF)
    parts = estimate(
        [rows_of(lifted, rows) for rows in (slice(0, 1), slice(1, 6), slice(6, None))], SMPL22, config=BRIEF
    )
    torch.testing.assert_close(parts.lengths, whole.lengths, atol=1e-4, rtol=0)
    torch.testing.assert_close(parts.mean, whole.mean, atol=1e-3, rtol=0)


def test_begun_with_the_state_after_a_round_the_estimate_goes_on_to_the_same_end(generator):
    batch, states = rows_of(lift(generator), slice(0, 3)), []
    steps: list[int] = []
    whole = estimate([batch], SMPL22, config=BRIEFEST, keep=lambda state: states.append(copy.deepcopy(state)))
    assert [state["round"] for state in states] == [0, 1, 2]
    again = estimate([batch], SMPL22, config=BRIEFEST, begun=states[1], count=lambda: steps.append(1))
    assert len(steps) == BRIEFEST.total
    assert torch.equal(again.lengths, whole.lengths)
    assert torch.equal(again.whitening, whole.whitening)


def test_what_two_groups_share_is_pooled_by_their_frames(generator):
    """As if every pose had the weight 1: the mean, and the scatter within and between the groups; lengths by ratios."""
    poses = torch.randn(300, 6, generator=generator) @ torch.randn(6, 6, generator=generator)
    poses[:100] += 2.0
    groups = ((poses[:100], torch.tensor((0.1, 0.8))), (poses[100:], torch.tensor((0.1, 0.1))))
    pooled = Shared.pooled([(len(one), Shared(lengths, one.mean(0), factor(one))) for one, lengths in groups])
    torch.testing.assert_close(pooled.lengths, torch.tensor((0.1, 0.2)))
    torch.testing.assert_close(pooled.mean, poses.mean(0), atol=1e-5, rtol=1e-5)
    scatter = (pooled.whitening @ pooled.whitening.T).inverse()
    torch.testing.assert_close(scatter, torch.cov(poses.T, correction=0), atol=1e-3, rtol=1e-3)


def factor(poses: Tensor) -> Tensor:
    return torch.linalg.cholesky(torch.cov(poses.T, correction=0).inverse())


def test_every_tensor_is_made_on_the_device_of_the_clips(case):
    """Those of a default device that computes nothing would stop it."""
    batch = rows_of(case[0], slice(0, 2))
    with torch.device("meta"):
        shared = estimate([batch], SMPL22, config=BRIEFEST)
        positions, energy = solve(*batch, SMPL22, shared, config=BRIEFEST)
    assert {tensor.device.type for tensor in (shared.lengths, shared.whitening, positions, energy)} == {"cpu"}
