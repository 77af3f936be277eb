"""Each loss term alone: what it measures, where its gradient points, what its options are known for."""

import math

import pytest
import torch
from people import observe, orbiting, random_motion, real_motions
from tolerances import DEPTH_WEIGHT_SPREAD
from torch import Tensor

from videomdm_ext.geometry.cameras import orbit
from videomdm_ext.motion.features import FeatureSpace
from videomdm_ext.motion.skeletons import NBA16, SMPL22
from videomdm_ext.supervision import terms
from videomdm_ext.supervision.observation import Observation
from videomdm_ext.supervision.terms import Step

ERROR_M = 0.05
NEAREST = 0.5
CLIPS = 400


def step_of(positions: Tensor, observation: Observation, rule: str = "depth2") -> Step:
    """A step that predicts these positions [B, T, J, 3], whatever their features would be."""
    skeleton = SMPL22 if positions.shape[2] == SMPL22.num_joints else NBA16
    blank = positions.new_zeros(len(positions), skeleton.num_features, 1, positions.shape[1])
    ones = positions.new_ones(skeleton.num_features)
    space = FeatureSpace(skeleton, 0 * ones, ones)
    still = torch.zeros(len(positions))
    step = Step(blank, blank, still, still, observation, space, NEAREST, rule)
    vars(step)["positions"] = positions
    return step


def reprojected(truth: Tensor, predicted: Tensor, extrinsics: Tensor, rule: str = "depth2") -> Step:
    """Motions [B, T, J, 3] in the image of still cameras [B, 3, 4]."""
    return step_of(predicted, observe(truth, extrinsics), rule)


def ring(azimuth: Tensor, elevation: float, distance: float, dtype: torch.dtype = torch.float64) -> Tensor:
    """Cameras about the hips of a person, [B, 3, 4]."""
    target = torch.tensor((0.0, 1.0, 0.0), dtype=dtype).expand(len(azimuth), 3)
    height, radius = torch.full_like(azimuth, elevation), torch.full_like(azimuth, distance)
    return orbit(azimuth, height, radius, target)


def people(frames: int = 2) -> tuple[Tensor, Tensor]:
    """Upright people near the origin, and independent errors of 5 cm a coordinate, [B, T, J, 3] float64."""
    generator = torch.Generator().manual_seed(11)
    truth = real_motions()["walk"][:frames].double().expand(CLIPS, -1, -1, -1)
    return truth, ERROR_M * torch.randn(truth.shape, generator=generator, dtype=torch.float64)


def across(error: Tensor, extrinsics: Tensor) -> Tensor:
    """Mean over everything of the squared part of the errors parallel to the image."""
    axis = extrinsics[:, None, None, 2, :3]
    return (error.square().sum(-1) - (error * axis).sum(-1).square()).mean()


def loss_over_transverse(rule: str, distance: float) -> float:
    truth, error = people()
    cameras = ring(torch.linspace(-math.pi, math.pi, CLIPS + 1).double()[1:], 0.0, distance)
    loss = terms.position(reprojected(truth, truth + error, cameras, rule)).mean()
    return (loss / across(error, cameras)).item()


@pytest.mark.parametrize("distance", [2.0, 2.5, 3.0, 4.0, 6.0, 8.0, 10.0])
def test_the_depth_weighted_loss_is_the_squared_transverse_error_at_any_distance(distance: float) -> None:
    assert abs(loss_over_transverse("depth2", distance) - 1.0) < DEPTH_WEIGHT_SPREAD


@pytest.mark.parametrize(("rule", "growth"), [("none", 26.0), ("mean1", 5.3)])
def test_the_parity_options_favour_near_people_by_their_known_growth(rule: str, growth: float) -> None:
    near, far = (loss_over_transverse(rule, distance) for distance in (2.0, 10.0))
    assert near / far == pytest.approx(growth, rel=0.08)


@pytest.mark.parametrize("elevation", [0.0, 0.3, 0.6])
def test_over_the_azimuth_the_loss_is_the_closed_form_and_isotropic_is_a_multiple_of_the_error(
    elevation: float,
) -> None:
    generator = torch.Generator().manual_seed(12)
    truth, _ = people()
    error = torch.tensor((0.03, 0.05, -0.02), dtype=torch.float64)
    azimuth = 2 * math.pi * torch.rand(CLIPS, generator=generator, dtype=torch.float64)
    cameras = ring(azimuth, elevation, 200.0)
    steps = {rule: reprojected(truth, truth + error, cameras, rule) for rule in ("depth2", "isotropic")}
    image = {rule: terms.position(step).mean() for rule, step in steps.items()}
    sine2, horizontal2, vertical2 = math.sin(elevation) ** 2, 0.03**2 + 0.02**2, 0.05**2
    closed = 0.5 * (1 + sine2) * horizontal2 + (1 - sine2) * vertical2
    assert image["depth2"].item() == pytest.approx(closed, rel=0.05)
    assert image["isotropic"].item() == pytest.approx((1 - sine2) * (horizontal2 + vertical2), rel=0.05)


def test_horizontal_weights_fall_with_elevation_and_never_below_zero() -> None:
    elevation = torch.tensor((0.0, 0.4, 1.5), dtype=torch.float64)
    cameras = torch.cat([ring(torch.zeros(1).double(), e.item(), 3.0) for e in elevation])
    truth = people(1)[0][:3]
    found, plain = (reprojected(truth, truth, cameras, rule).image.scale for rule in ("isotropic", "depth2"))
    ratio = (found / plain)[:, 0, 0]
    assert ratio[:, 0].tolist() == pytest.approx([2.0, 2.0 - 3.0 * math.sin(0.4) ** 2, 0.0])
    assert ratio[:, 1].tolist() == [1.0, 1.0, 1.0]
    assert torch.equal(plain[..., 0], plain[..., 1])


def test_the_mean_depth_of_mean1_is_over_seen_joints_of_the_clip_to_the_first_power() -> None:
    depth = torch.tensor((((2.0, 4.0), (6.0, 99.0)), ((3.0, 3.0), (3.0, 3.0))))
    weight = torch.tensor((((1.0, 0.2), (1.0, 0.0)), ((1.0, 1.0), (1.0, 1.0))))
    assert terms.depth_scale(depth, weight, "mean1")[:, 0, 0].tolist() == [4.0, 3.0]
    assert torch.equal(terms.depth_scale(depth, weight, "depth2"), depth**2)


@pytest.mark.parametrize("rule", ["depth2", "mean1", "none", "isotropic"])
def test_gradients_of_reprojection_match_finite_differences_with_the_weight_held(
    rule: str, generator: torch.Generator
) -> None:
    truth = random_motion(NBA16, (2,), 2, generator, dtype=torch.float64)
    cameras = orbiting((2,), generator, dtype=torch.float64)
    wrong = truth + ERROR_M * torch.randn(truth.shape, generator=generator, dtype=torch.float64)
    held = reprojected(truth, wrong, cameras, rule).image.scale

    def losses(predicted: Tensor) -> tuple[Tensor, Tensor]:
        image = reprojected(truth, predicted, cameras, rule)
        vars(image)["image"] = image.image._replace(scale=held)
        return terms.position(image), terms.velocity(image)

    wrong.requires_grad_()
    assert torch.autograd.gradcheck(losses, wrong, fast_mode=True)
    as_used = torch.autograd.grad(terms.position(reprojected(truth, wrong, cameras, rule)).sum(), wrong)[0]
    assert torch.allclose(as_used, torch.autograd.grad(losses(wrong)[0].sum(), wrong)[0])


def test_gradients_of_near_floor_and_bone_length_match_finite_differences(generator: torch.Generator) -> None:
    motion = random_motion(NBA16, (2,), 3, generator, dtype=torch.float64)
    valid = torch.tensor(((True, True, True), (True, True, False)))
    close = ring(torch.zeros(2).double(), 0.0, 0.6)
    observed = observe(motion, close, valid=valid)
    wrong = motion + ERROR_M * torch.randn(motion.shape, generator=generator, dtype=torch.float64)
    wrong.requires_grad_()
    assert terms.near(reprojected(motion, wrong, close)).min() > 0
    for term in (
        lambda p: terms.near(reprojected(motion, p, close)),
        lambda p: terms.floor(step_of(p, observed)),
        lambda p: terms.bone_length(step_of(p, observed)),
    ):
        assert torch.autograd.gradcheck(term, wrong, fast_mode=True)


def test_a_joint_behind_the_camera_or_too_near_is_pulled_forward_and_never_costs_zero() -> None:
    truth, _ = people(1)
    truth, camera = truth[:1], ring(torch.zeros(1).double(), 0.0, 4.0)
    for depth in (-3.0, -0.1, 0.3):
        wrong = truth.clone()
        wrong[..., 5, 2] = 4.0 - depth
        wrong.requires_grad_()
        image = reprojected(truth, wrong, camera)
        assert image.image.depth[0, 0, 5].item() == pytest.approx(depth)
        assert terms.near(image).item() == pytest.approx((NEAREST - depth) ** 2 / 22)
        assert image.behind.item() == pytest.approx(1 / 22)
        loss = terms.near(image) + terms.position(image)
        gradient = torch.autograd.grad(loss.sum(), wrong)[0][0, 0, 5]
        assert gradient[2] > 0  # a step against it goes to -z, away from the camera, which stands at +z
        assert gradient[:2].abs().max() == 0


def test_a_joint_behind_the_camera_takes_no_part_in_the_mean_of_the_others() -> None:
    truth, error = people(2)
    truth, error, camera = truth[:1], error[:1], ring(torch.zeros(1).double(), 0.0, 4.0)
    error[..., 5, :] = 0.0
    whole = terms.position(reprojected(truth, truth + error, camera))
    error[..., 5, 2] = 7.0
    assert torch.allclose(terms.position(reprojected(truth, truth + error, camera)), whole * 22 / 21)


def test_velocity_is_blind_to_a_constant_offset_in_the_image_and_sees_shaking() -> None:
    truth, _ = people(6)
    truth, camera = truth[:1], ring(torch.zeros(1).double(), 0.0, 50.0)
    offset = torch.tensor((0.05, 0.05, 0.0), dtype=torch.float64)
    sign = torch.tensor((1.0, -1.0) * 3)[:, None, None]
    constant, shaking = (reprojected(truth, truth + part, camera) for part in (offset, offset * sign))
    assert terms.velocity(constant).item() < 1e-3 * terms.position(constant).item()
    assert terms.velocity(shaking).item() == pytest.approx(4 * terms.position(shaking).item(), rel=0.05)


def test_velocity_needs_both_frames_and_weighs_by_the_later_depth() -> None:
    points = torch.zeros(1, 3, 1, 3, dtype=torch.float64)
    points[0, :, 0, 2] = torch.tensor((2.0, 3.0, 5.0))
    points[0, :, 0, 0] = torch.tensor((0.0, 0.3, 0.0))
    still = torch.eye(3, 4, dtype=torch.float64).expand(1, 3, 3, 4)
    keypoints = torch.zeros(1, 3, 1, 2, dtype=torch.float64)
    for weight, expected in (((1.0, 1.0, 1.0), (0.01 * 9 + 0.01 * 25) / 2), ((1.0, 1.0, 0.0), 0.01 * 9)):
        mask = torch.tensor(weight, dtype=torch.float64).view(1, 3, 1)
        valid = torch.ones(1, 3, dtype=torch.bool)
        seen = Observation(keypoints, mask, still, torch.zeros(1), valid)
        assert terms.velocity(step_of(points, seen)).item() == pytest.approx(expected)


def test_masked_means_are_true_means_that_ignore_nan_under_no_weight() -> None:
    values = torch.tensor(((1.0, 3.0, math.nan), (math.inf, math.nan, math.nan)))
    weight = torch.tensor(((1.0, 3.0, 0.0), (0.0, 0.0, 0.0)))
    assert terms.masked_mean(values, weight).tolist() == [2.5, 0.0]


def test_the_floor_costs_nothing_to_who_stands_on_it_and_the_squared_height_to_who_floats() -> None:
    walk = real_motions()["walk"].double()[None]
    grounded = walk - walk[..., 1].amin(-1)[..., None, None] * torch.tensor((0.0, 1.0, 0.0))
    seen = observe(walk, ring(torch.zeros(1).double(), 0.0, 9.0))
    assert terms.floor(step_of(grounded, seen)).item() < 1e-20
    for height in (0.1, -0.1):
        moved = grounded + height * torch.tensor((0.0, 1.0, 0.0))
        assert terms.floor(step_of(moved, seen)).item() == pytest.approx(height**2)


def test_constant_bones_cost_nothing_and_pulsing_ones_their_variance(generator: torch.Generator) -> None:
    motion = random_motion(SMPL22, (2,), 20, generator, bend=1.0, dtype=torch.float64)
    seen = observe(motion, orbiting((2,), generator, dtype=torch.float64))
    assert terms.bone_length(step_of(motion, seen)).max() < 1e-20
    pulse = 1.0 + 0.1 * torch.tensor((-1.0, 1.0)).repeat(10).double()[:, None, None]
    expected = (2 * (0.1 * 0.1) ** 2 + 19 * (0.1 * 0.25) ** 2) / 21
    found = terms.bone_length(step_of(motion * pulse, seen))
    assert found.tolist() == pytest.approx([expected, expected], rel=1e-6)
