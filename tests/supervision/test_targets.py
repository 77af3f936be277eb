"""Targets on the rays: how far joints move, how headings follow, and that no gradient flows through them."""

from dataclasses import replace

import torch
from people import features_of, observe, orbiting, random_motion, space_of, turned

from videomdm_ext.geometry.cameras import closest_on_ray, project, to_camera
from videomdm_ext.motion.features import decode, decode_root
from videomdm_ext.motion.kinematics import HUMANML3D, RAW, HeadingRule, heading, wrap_angle
from videomdm_ext.motion.skeletons import SMPL22
from videomdm_ext.supervision.rays import headings_of, hold, on_rays, ray_target


def wrong(motion: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return motion + 0.1 * torch.randn(motion.shape, generator=generator, dtype=motion.dtype)


def test_joints_move_onto_their_rays_in_proportion_to_the_weight(generator: torch.Generator) -> None:
    motion = random_motion(SMPL22, (2,), 5, generator, dtype=torch.float64)
    observation = observe(motion, orbiting((2,), generator, dtype=torch.float64))
    start = wrong(motion, generator)
    moved = on_rays(start, observation, 0.5)
    assert torch.allclose(project(moved, observation.extrinsics)[0], observation.keypoints, atol=1e-12)
    weight = torch.tensor((0.25, 0.0)).repeat(11).double().expand(2, 5, 22)
    part = on_rays(start, replace(observation, weight=weight), 0.5)
    assert torch.allclose(part - start, weight.unsqueeze(-1) * (moved - start))
    assert torch.equal(part[:, :, 1::2], start[:, :, 1::2])
    camera = to_camera(start, observation.extrinsics)
    distance = (camera - closest_on_ray(camera, observation.keypoints, 0.5)).square().sum(-1)
    assert torch.allclose((moved - start).square().sum(-1), distance)


def test_headings_turn_by_what_the_body_turned(generator: torch.Generator) -> None:
    motion = random_motion(SMPL22, (2,), 9, generator, dtype=torch.float64)
    valid = torch.ones(2, 9, dtype=torch.bool)
    stored = torch.linspace(0.0, 4.0, 9, dtype=torch.float64).expand(2, 9)
    for rule in (RAW, HUMANML3D):
        same = headings_of(motion, motion, stored, valid, SMPL22, rule)
        assert torch.equal(same, stored)
        for angle in (0.3, -2.0, 3.1):
            moved = turned(motion, torch.tensor(angle).expand(2, 9, 22))
            assert torch.allclose(headings_of(moved, motion, stored, valid, SMPL22, rule), stored + angle, atol=1e-6)


def test_smoothed_sets_get_smoothed_turns_even_across_the_half_turn(generator: torch.Generator) -> None:
    motion = random_motion(SMPL22, (1,), 200, generator, dtype=torch.float64)
    valid, stored = torch.ones(1, 200, dtype=torch.bool), torch.zeros(1, 200, dtype=torch.float64)
    shaking = 3.1 + 0.2 * torch.tensor((1.0, -1.0)).repeat(100).double()
    moved = turned(motion, shaking[None, :, None].expand(1, 200, 22))
    raw = headings_of(moved, motion, stored, valid, SMPL22, RAW)
    smoothed = headings_of(moved, motion, stored, valid, SMPL22, HeadingRule(20.0))
    assert (wrap_angle(raw - shaking)).abs().max() < 1e-6
    assert (wrap_angle(smoothed - 3.1))[:, 80:120].abs().max() < 0.02


def test_a_hold_repeats_the_last_valid_frame() -> None:
    values = torch.arange(12.0).view(2, 6, 1)
    valid = torch.tensor(((True,) * 4 + (False,) * 2, (True, True, False, True, True, False)))
    assert hold(values, valid)[..., 0].tolist() == [[0, 1, 2, 3, 3, 3], [6, 7, 7, 9, 10, 10]]


def test_the_target_of_a_prediction_keeps_its_frame_and_has_its_body_on_the_rays(generator: torch.Generator) -> None:
    motion = random_motion(SMPL22, (3,), 12, generator, dtype=torch.float64)
    space = space_of(motion, SMPL22)
    observation = observe(motion, orbiting((3,), generator, dtype=torch.float64))
    source = space.raw(features_of(wrong(motion, generator), space)).requires_grad_()
    target = ray_target(source, space.raw(features_of(motion, space)), observation, space, 0.5)
    assert not target.requires_grad
    moved = on_rays(decode(source, SMPL22), observation, 0.5)
    start = moved[:, :1, :1] * torch.tensor((1.0, 0.0, 1.0))
    assert torch.allclose(decode(space.raw(target), SMPL22), moved - start, atol=1e-9)


def test_the_headings_of_a_target_are_those_of_the_teacher_on_its_rays(generator: torch.Generator) -> None:
    """Whatever headings the prediction claims, and however its body turned."""
    motion = random_motion(SMPL22, (3,), 12, generator, dtype=torch.float64)
    space = space_of(motion, SMPL22)
    observation = observe(motion, orbiting((3,), generator, dtype=torch.float64))
    teacher = space.raw(features_of(wrong(motion, generator), space))
    expected = heading(on_rays(decode(teacher, SMPL22), observation, 0.5), SMPL22)
    for source in (teacher, space.raw(features_of(wrong(motion, generator), space))):
        target = space.raw(ray_target(source, teacher, observation, space, 0.5))
        assert torch.allclose(decode_root(target, SMPL22)[0], expected - expected[:, :1], atol=1e-6)
