"""Measures of motion against hand-made motions whose values are known."""

import math

import pytest
import torch
from people import random_motion, real_motions, turned

from videomdm_ext.motion import measures
from videomdm_ext.motion.skeletons import NBA16, SMPL22

FPS = 20.0


def standing(frames: int = 11) -> torch.Tensor:
    """A person at rest with the feet on the floor, [T, J, 3], float64."""
    pose = random_motion(SMPL22, (), 1, torch.Generator(), bend=0.0, dtype=torch.float64)
    return (pose - pose[..., 1].amin() * torch.tensor((0.0, 1.0, 0.0))).repeat(frames, 1, 1)


def seconds(frames: int = 11) -> torch.Tensor:
    return (torch.arange(frames, dtype=torch.float64) / FPS)[:, None, None]


def test_a_constant_acceleration_is_measured_in_metres_and_seconds() -> None:
    motion = standing() + 0.5 * 3.0 * seconds() ** 2 * torch.tensor((0.0, 0.6, 0.8))
    assert measures.acceleration(motion, FPS).item() == pytest.approx(3.0)
    assert measures.jitter(motion, FPS).item() == pytest.approx(0.0, abs=1e-6)


def test_a_cubic_path_has_the_jitter_of_its_third_derivative() -> None:
    motion = standing() + seconds() ** 3 * torch.tensor((2.0, 0.0, 0.0))
    assert measures.jitter(motion, FPS).item() == pytest.approx(12.0)


def test_motion_energy_is_the_squared_speed_and_zero_for_who_stands_still() -> None:
    assert measures.motion_energy(standing(), FPS).item() == 0.0
    moving = standing() + seconds() * torch.tensor((1.0, 0.0, 2.0))
    assert measures.motion_energy(moving, FPS).item() == pytest.approx(5.0)


def test_feet_that_slide_on_the_floor_skate_at_their_speed_and_lifted_ones_do_not() -> None:
    sliding = standing() + seconds() * torch.tensor((0.3, 0.0, 0.4))
    assert measures.foot_skating(sliding, SMPL22, FPS).item() == pytest.approx(0.5)
    assert measures.foot_skating(standing(), SMPL22, FPS).item() == 0.0
    stepping = standing()
    foot = [SMPL22.index("l_ankle"), SMPL22.index("l_foot")]
    stepping[1:-1, foot] += torch.tensor((1.0, 0.2, 0.0)).double()
    assert measures.foot_skating(stepping, SMPL22, FPS).item() == pytest.approx(0.0)


def test_floating_and_penetration_are_signed_distances_of_the_lowest_joint() -> None:
    up = torch.tensor((0.0, 1.0, 0.0))
    high, low = standing() + 0.1 * up, standing() - 0.2 * up
    assert (measures.floating(high).item(), measures.penetration(high).item()) == pytest.approx((0.1, 0.0))
    assert (measures.floating(low).item(), measures.penetration(low).item()) == pytest.approx((0.0, 0.2))


def test_bones_that_grow_drift_and_rigid_ones_do_not(generator: torch.Generator) -> None:
    motion = random_motion(NBA16, (3,), 30, generator, bend=1.0, dtype=torch.float64)
    assert measures.bone_length_drift(motion, NBA16).max() < 1e-10
    assert torch.allclose(measures.mean_bone_length(motion, NBA16), torch.tensor((2 * 0.1 + 13 * 0.25) / 15).double())
    scale = 1.0 + 0.1 * torch.tensor((-1.0, 1.0)).repeat(15).double()
    drift = measures.bone_length_drift(motion * scale[:, None, None], NBA16)
    assert torch.allclose(drift, 0.1 * measures.mean_bone_length(motion, NBA16))


@pytest.mark.parametrize("name", ["walk", "dance_a"])
def test_no_measure_depends_on_where_the_person_is_or_faces(name: str) -> None:
    motion = real_motions()[name].double()
    away = turned(motion, torch.tensor(1.2).expand(len(motion), 22)) + torch.tensor((4.0, 0.0, 5.0))
    for measure in (
        lambda m: measures.acceleration(m, FPS),
        lambda m: measures.jitter(m, FPS),
        lambda m: measures.motion_energy(m, FPS),
        lambda m: measures.foot_skating(m, SMPL22, FPS),
        lambda m: measures.bone_length_drift(m, SMPL22),
        measures.floating,
    ):
        assert measure(motion).item() == pytest.approx(measure(away).item(), rel=1e-6, abs=1e-9)


def test_each_clip_of_a_batch_is_measured_alone() -> None:
    batch = torch.stack((standing(), standing() + seconds() * torch.tensor((math.pi, 0.0, 0.0))))
    assert measures.motion_energy(batch, FPS).tolist() == pytest.approx([0.0, math.pi**2])
    assert measures.foot_skating(batch, SMPL22, FPS).tolist() == pytest.approx([0.0, math.pi])
