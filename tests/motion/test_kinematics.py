"""Skeletons, heading, canonical frame, contacts and the batched inverse kinematics beside a plain loop."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from people import curves, random_motion, real_motions, turned
from scipy.ndimage import gaussian_filter1d
from scipy.spatial.transform import Rotation
from tolerances import BATCHED_KINEMATICS

from videomdm_ext.errors import ConfigError
from videomdm_ext.motion import kinematics
from videomdm_ext.motion.kinematics import HUMANML3D, HeadingRule
from videomdm_ext.motion.skeletons import NBA16, SKELETONS, SMPL22, Skeleton, by_name

each_skeleton = pytest.mark.parametrize("skeleton", SKELETONS.values(), ids=SKELETONS)


def one_arc(start: np.ndarray, end: np.ndarray) -> Rotation:
    """Shortest arc between two directions, from its axis and angle."""
    end = end / np.linalg.norm(end)
    axis = np.cross(start, end)
    sine = np.linalg.norm(axis)
    if sine < 1e-12:
        return Rotation.identity()
    return Rotation.from_rotvec(axis / sine * math.atan2(sine, float(start @ end)))


def loop_over_bones(positions: np.ndarray, heading: float, skeleton: Skeleton) -> np.ndarray:
    """Local rotations of one frame by walking every chain: undo what came before, turn the bone, go on. [J - 1, 6]."""
    arrived = {0: Rotation.from_rotvec((0.0, -heading, 0.0))}
    columns = []
    for joint in range(1, skeleton.num_joints):
        parent = skeleton.parents[joint]
        before = arrived[0] if skeleton.joints[joint] in skeleton.chain_starts else arrived[parent]
        local = before.inv() * one_arc(np.array(skeleton.rest_directions[joint]), positions[joint] - positions[parent])
        arrived[joint] = before * local
        columns.append(np.concatenate((local.as_matrix()[:, 0], local.as_matrix()[:, 1])))
    return np.stack(columns)


@each_skeleton
def test_batched_inverse_kinematics_equals_a_loop_over_the_bones(
    skeleton: Skeleton, generator: torch.Generator
) -> None:
    motion = random_motion(skeleton, (2,), 6, generator, bend=1.0)
    headings = kinematics.heading(motion, skeleton)
    found = kinematics.inverse_kinematics(motion, headings, skeleton)
    for clip in range(2):
        for frame in range(6):
            slow = loop_over_bones(motion[clip, frame].double().numpy(), headings[clip, frame].item(), skeleton)
            assert np.abs(found[clip, frame].numpy() - slow.reshape(-1, 6)).max() < BATCHED_KINEMATICS


def test_gradients_of_inverse_kinematics_match_finite_differences(generator: torch.Generator) -> None:
    motion = random_motion(NBA16, (), 2, generator, dtype=torch.float64).requires_grad_()
    headings = torch.tensor((0.3, -0.2), dtype=torch.float64, requires_grad=True)
    inputs = (motion, headings)
    assert torch.autograd.gradcheck(lambda p, h: kinematics.inverse_kinematics(p, h, NBA16), inputs, fast_mode=True)


@each_skeleton
def test_left_is_plus_x_and_right_is_minus_x_of_a_person_at_rest(skeleton: Skeleton) -> None:
    rest = torch.zeros(skeleton.num_joints, 3)
    for joint in range(1, skeleton.num_joints):
        rest[joint] = rest[skeleton.parents[joint]] + torch.tensor(skeleton.rest_directions[joint])
    for joint, name in enumerate(skeleton.joints):
        side = {"l_": 1, "r_": -1}.get(name[:2], 0)
        assert torch.sign(rest[joint, 0]) == side, name
    assert kinematics.heading(rest, skeleton).abs() < 1e-6
    sides = [rest[joint, 0].sign().item() for joint in skeleton.face_joints]
    assert sides == [-1, 1, -1, 1]
    assert [rest[joint, 0].sign().item() for joint in skeleton.contact_joints] == [1, 1, -1, -1]


@pytest.mark.parametrize("name", ["walk", "run", "jump", "punch"])
def test_left_joints_of_real_people_are_on_plus_x_at_the_start(name: str) -> None:
    first = real_motions()[name][0]
    for left, right in (("l_hip", "r_hip"), ("l_shoulder", "r_shoulder")):
        assert first[SMPL22.index(left), 0] > first[SMPL22.index(right), 0]


@each_skeleton
def test_mirroring_exchanges_sides_twice_over_and_keeps_the_tree(skeleton: Skeleton) -> None:
    mirror = skeleton.mirror
    assert [mirror[joint] for joint in mirror] == list(range(skeleton.num_joints))
    for joint, name in enumerate(skeleton.joints):
        assert skeleton.joints[mirror[joint]][:2] == {"l_": "r_", "r_": "l_"}.get(name[:2], name[:2])
        if joint:
            assert skeleton.parents[mirror[joint]] == mirror[skeleton.parents[joint]]
            x, y, z = skeleton.rest_directions[joint]
            assert skeleton.rest_directions[mirror[joint]] == (-x, y, z)


@each_skeleton
def test_parents_come_first(skeleton: Skeleton) -> None:
    assert all(parent < joint for joint, parent in enumerate(skeleton.parents))


def test_the_skeletons_have_the_channels_of_their_data_sets() -> None:
    assert (SMPL22.num_joints, SMPL22.num_features) == (22, 263)
    assert (NBA16.num_joints, NBA16.num_features) == (16, 191)


def test_an_unknown_skeleton_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"h36m.*smpl22, nba16"):
        by_name("h36m")


@given(st.floats(-3.1, 3.1))
def test_turning_a_person_adds_to_the_heading(angle: float) -> None:
    motion = random_motion(SMPL22, (), 4, torch.Generator().manual_seed(1), dtype=torch.float64)
    change = torch.tensor(angle, dtype=torch.float64)
    before, after = (kinematics.heading(clip, SMPL22) for clip in (motion, turned(motion, change.expand(4, 1))))
    difference = kinematics.wrap_angle(after - before - change)
    assert difference.abs().max() < 1e-9


def test_a_person_whose_left_is_minus_z_faces_plus_x() -> None:
    rest = random_motion(SMPL22, (), 2, torch.Generator(), bend=0.0)[0]
    facing_x = turned(rest, torch.tensor(math.pi / 2).expand(22))
    assert facing_x[SMPL22.index("l_hip"), 2] < facing_x[SMPL22.index("r_hip"), 2]
    assert kinematics.heading(facing_x, SMPL22).item() == pytest.approx(math.pi / 2, abs=1e-5)


def test_wrapped_angles_lie_within_a_half_turn_and_are_the_same_angle() -> None:
    angles = torch.linspace(-20, 20, 999, dtype=torch.float64)
    wrapped = kinematics.wrap_angle(angles)
    assert wrapped.abs().max() <= math.pi
    assert torch.allclose(wrapped.sin(), angles.sin())
    assert torch.allclose(wrapped.cos(), angles.cos())


@pytest.mark.parametrize("frames", [2, 30, 196])
def test_smoothing_is_the_gaussian_filter_with_repeated_ends(frames: int, generator: torch.Generator) -> None:
    values = torch.randn(3, frames, 2, dtype=torch.float64, generator=generator)
    expected = gaussian_filter1d(values.numpy(), 20.0, axis=1, mode="nearest")
    assert np.abs(kinematics.smooth(values, 20.0).numpy() - expected).max() < 1e-12


def test_the_smoothed_heading_keeps_a_steady_direction_and_drops_shaking() -> None:
    still = random_motion(SMPL22, (), 2, torch.Generator(), bend=0.0, dtype=torch.float64)[:1].expand(200, 22, 3)
    shaking = 0.3 * torch.tensor((1.0, -1.0)).repeat(100).double()
    for angle, spread in ((torch.full((200,), 0.8).double(), 1e-6), (0.8 + shaking, 0.02)):
        smoothed = kinematics.heading(turned(still, angle[:, None].expand(200, 22)), SMPL22, HeadingRule(20.0))
        assert (smoothed - 0.8)[80:120].abs().max() < spread  # away from the ends, which are repeated


def test_humanml3ds_rule_takes_the_shoulders_less_the_hips(generator: torch.Generator) -> None:
    motion = random_motion(SMPL22, (), 1, generator, dtype=torch.float64)[0]
    right_hip, left_hip, right_shoulder, left_shoulder = (motion[joint] for joint in (2, 1, 17, 16))
    across = left_hip - right_hip + right_shoulder - left_shoulder
    found = kinematics.heading(motion, SMPL22, HeadingRule(0.0, HUMANML3D.hips))
    assert found.item() == pytest.approx(math.atan2(across[2], -across[0]))


@each_skeleton
def test_a_canonical_clip_starts_over_the_origin_facing_z_and_keeps_heights(
    skeleton: Skeleton, generator: torch.Generator
) -> None:
    clip = random_motion(skeleton, (4,), 9, generator, dtype=torch.float64)
    angle = curves((4,), 1, (1,), generator)
    away = turned(clip, angle) + torch.tensor((2.0, 0.0, -1.0))
    back, start, origin = kinematics.canonicalise(away, skeleton)
    assert back[:, 0, 0, ::2].abs().max() < 1e-12
    assert kinematics.heading(back, skeleton)[:, 0].abs().max() < 1e-12
    assert torch.allclose(back, clip, atol=1e-12)
    assert torch.allclose(start, kinematics.wrap_angle(angle[:, 0, 0]))
    assert torch.allclose(origin, torch.tensor((2.0, 0.0, -1.0)).double().expand(4, 3))


def test_a_foot_is_in_contact_while_it_moves_less_than_the_threshold() -> None:
    motion = torch.zeros(3, 22, 3, dtype=torch.float64)
    limit = math.sqrt(kinematics.CONTACT_SPEED)
    motion[1:, SMPL22.index("r_ankle")] = torch.tensor((0.0, limit * 1.01, 0.0)).double()
    motion[2, SMPL22.index("l_foot")] = torch.tensor((limit * 0.7, 0.0, limit * 0.7)).double()
    assert kinematics.contacts(motion, SMPL22).tolist() == [[1, 1, 0, 1], [1, 1, 1, 1]]
    motion[2, SMPL22.index("l_foot"), 0] *= 1.05
    assert kinematics.contacts(motion, SMPL22)[1].tolist() == [1, 0, 1, 1]
