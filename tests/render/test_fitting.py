"""Rotations fitted to positions: exact where bones are constant, twisted as elbows and knees bend, without flips."""

import math
from functools import cache

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from videomdm_ext.data.motions import load_motions, mirrored, time_scaled
from videomdm_ext.errors import DatasetError
from videomdm_ext.motion.measures import foot_skating
from videomdm_ext.motion.skeletons import NBA16, SMPL22
from videomdm_ext.render import fitting
from videomdm_ext.render.fitting import fit, rest_offsets

PARENTS = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19)
"""SMPL's tree, written out."""
MOTIONS = {motion.name: motion for motion in load_motions()}
EXACT_MM = 0.5


@cache
def fitted_to(name):
    """A bundled motion at its own pace."""
    return fit(positions(name), SMPL22, 20.0)


def positions(name):
    return torch.from_numpy(MOTIONS[name].positions).double()


def walked_down(fitted):
    """Forward kinematics in numpy, joint by joint. -> [T, 22, 3]"""
    turns = Rotation.from_quat(fitted.rotations.numpy().reshape(-1, 4), scalar_first=True).as_matrix()
    turns = turns.reshape(-1, 22, 3, 3)
    at, frame = [fitted.root.numpy()], [turns[:, 0]]
    for joint, parent in enumerate(PARENTS[1:], start=1):
        at.append(at[parent] + frame[parent] @ fitted.offsets[joint].numpy())
        frame.append(frame[parent] @ turns[:, joint])
    return np.stack(at, 1)


def steps(fitted):
    """Degrees by which each joint turns from frame to frame. -> [T - 1, J]"""
    cosine = (fitted.rotations[1:] * fitted.rotations[:-1]).sum(-1).abs().clamp(max=1)
    return torch.rad2deg(2 * torch.acos(cosine))


def rotations_of(fitted, joint):
    return Rotation.from_quat(fitted.rotations[:, SMPL22.index(joint)].numpy(), scalar_first=True)


def posed(turns, frames=30):
    """Positions of a person in a T pose, the joints named turned by rotation vectors [T, 3] or [3], degrees."""
    offsets = rest_offsets(positions("walk"), SMPL22)
    rotations = np.zeros((frames, 22, 3))
    for joint, turn in turns.items():
        rotations[:, SMPL22.index(joint)] = np.radians(turn)
    quaternions = Rotation.from_rotvec(rotations.reshape(-1, 3)).as_quat(scalar_first=True).reshape(frames, 22, 4)
    nothing = torch.zeros(22)
    made = fitting.Fitted(offsets, torch.from_numpy(quaternions), torch.zeros(frames, 3).double(), nothing, nothing)
    return torch.from_numpy(walked_down(made))


@pytest.mark.parametrize("name", ["walk", "cartwheel", "jump"])
def test_a_body_of_constant_bones_is_reproduced_by_kinematics_written_out(name):
    wanted, fitted = positions(name), fitted_to(name)
    found = walked_down(fitted)
    assert np.abs(found - wanted.numpy()).max() < EXACT_MM / 1000
    np.testing.assert_allclose(fitted.positions(SMPL22), found, atol=1e-9)
    off = 1000 * np.linalg.norm(found - wanted.numpy(), axis=-1)
    np.testing.assert_allclose(fitted.mean_mm, off.mean(0), atol=1e-6)
    np.testing.assert_allclose(fitted.max_mm, off.max(0), atol=1e-6)


def test_bones_have_one_length_on_both_sides_whatever_the_motion_has():
    noise = torch.from_numpy(np.random.default_rng(0).normal(0, 0.01, (51, 22, 3)))
    fitted = fit(positions("walk") + noise, SMPL22, 20.0)
    found = walked_down(fitted)
    lengths = np.linalg.norm(found[:, 1:] - found[:, PARENTS[1:]], axis=-1)
    assert lengths.std(0).max() < 1e-9
    np.testing.assert_allclose(lengths[0], lengths[0, np.array(SMPL22.mirror[1:]) - 1], atol=1e-9)
    np.testing.assert_allclose(
        fitted.offsets[list(SMPL22.mirror)] * torch.tensor([-1, 1, 1]), fitted.offsets, atol=1e-9
    )


def test_the_rest_pose_stands_in_a_t_with_its_left_at_x():
    offsets = dict(zip(SMPL22.joints, rest_offsets(positions("walk"), SMPL22).tolist(), strict=True))
    assert offsets["l_elbow"][0] > 0.2
    assert offsets["r_wrist"][0] < -0.2
    assert offsets["l_knee"][1] < -0.3
    assert offsets["r_foot"][2] > 0.08
    assert offsets["neck"][1] > 0.1
    assert offsets["l_hip"][0] > 0.05
    assert max(abs(offsets["l_wrist"][1]), abs(offsets["l_wrist"][2]), abs(offsets["l_knee"][0])) < 1e-9


@pytest.mark.parametrize("name", ["cartwheel", "jump", "spin", "backflip", "spinkick"])
def test_no_joint_turns_by_60_degrees_a_frame_and_quaternions_keep_to_their_side(name):
    slow = name in ("backflip", "spinkick")
    fitted = fit(torch.from_numpy(time_scaled(MOTIONS[name], 2.0).positions), SMPL22, 40.0) if slow else fitted_to(name)
    assert float(steps(fitted).max()) < (40 if slow else 60)
    assert float((fitted.rotations[1:] * fitted.rotations[:-1]).sum(-1).min()) > 0
    np.testing.assert_allclose(fitted.rotations.norm(dim=-1), 1.0, atol=1e-9)


def test_a_motion_moved_and_turned_as_a_whole_changes_the_root_alone():
    turn = Rotation.from_rotvec((0.4, -2.0, 1.1))
    before = fitted_to("jump")
    moved = torch.from_numpy(positions("jump").numpy() @ turn.as_matrix().T) + torch.tensor((1.0, -2.0, 3.0))
    after = fit(moved, SMPL22, 20.0)
    for joint in SMPL22.joints[1:]:
        change = rotations_of(before, joint).inv() * rotations_of(after, joint)
        assert np.degrees(change.magnitude()).max() < 0.5, joint
    change = turn.inv() * rotations_of(after, "pelvis") * rotations_of(before, "pelvis").inv()
    assert np.degrees(change.magnitude()).max() < 0.5


def test_a_mirrored_motion_has_the_mirrored_rotations():
    before = fitted_to("cartwheel")
    after = fit(torch.from_numpy(mirrored(MOTIONS["cartwheel"]).positions), SMPL22, 20.0)
    flip = np.diag((-1.0, 1.0, 1.0))
    for number, joint in enumerate(SMPL22.joints):
        other = SMPL22.joints[SMPL22.mirror[number]]
        expected = Rotation.from_matrix(flip @ rotations_of(before, other).as_matrix() @ flip)
        change = expected.inv() * rotations_of(after, joint)
        assert np.degrees(change.magnitude()).max() < 0.5, joint


@pytest.mark.parametrize(
    "turns",
    [
        {
            "l_shoulder": (40, 0, 0), "l_elbow": (0, -70, 0), "r_shoulder": (-35, 0, 0), "r_elbow": (0, 70, 0),
            "l_hip": (0, 30, 0), "l_knee": (60, 0, 0), "r_hip": (0, -30, 0), "r_knee": (60, 0, 0),
        },
        {"l_hip": (0, 35, 0), "r_hip": (0, -35, 0), "l_ankle": (0, 0, 0), "r_ankle": (0, 0, 0)},
        {"l_shoulder": (0, 0, 50), "r_shoulder": (0, 0, 50)},
    ],
    ids=["bent ones", "straight legs", "straight arms"],
)  # fmt: skip
def test_limbs_are_twisted_as_their_next_joints_bend_or_else_feet_point_or_else_not_at_all(turns):
    fitted = fit(posed(turns), SMPL22, 20.0)
    for name, turn in turns.items():
        found = np.degrees(rotations_of(fitted, name).as_rotvec())
        np.testing.assert_allclose(found, np.tile(turn, (30, 1)), atol=4.0, err_msg=name)


def test_an_elbow_that_passes_through_straight_does_not_make_the_arm_flip():
    """Bent to the front, straight for a while, then bent as if the arm had been turned by 150 degrees."""
    frames = 60
    bend = 70 * np.abs(np.cos(np.linspace(0, math.pi, frames))) ** 3
    late = np.arange(frames) >= frames // 2
    turns = {"l_shoulder": np.stack((150.0 * late, 0 * bend, 0 * bend), -1), "l_elbow": np.outer(bend, (0, -1, 0))}
    fitted = fit(posed(turns, frames), SMPL22, 20.0)
    assert float(fitted.max_mm.max()) < EXACT_MM
    assert float(steps(fitted).max()) < 30
    twist = np.degrees(rotations_of(fitted, "l_shoulder").as_rotvec())[:, 0]
    assert abs(twist[0]) < 10
    assert abs(twist[-1] - 150) < 10


def test_an_arm_that_is_twisted_beyond_a_half_turn_goes_on_without_a_jump():
    twist = np.linspace(0, 300, 60)
    turns = {"l_shoulder": np.outer(twist, (1, 0, 0)), "l_elbow": (0, -60, 0)}
    fitted = fit(posed(turns, 60), SMPL22, 20.0)
    assert float(steps(fitted).max()) < 10
    bend = np.degrees(rotations_of(fitted, "l_elbow").as_rotvec())
    np.testing.assert_allclose(bend[10:-10], np.tile((0, -60, 0), (40, 1)), atol=8.0)


def test_the_spine_shares_the_chest_turn():
    turned = posed({"spine3": (0, 45, 0)})
    fitted = fit(turned, SMPL22, 20.0)
    shares = [np.degrees(rotations_of(fitted, f"spine{k}").as_rotvec())[:, 1].mean() for k in (1, 2, 3)]
    np.testing.assert_allclose(shares, 15.0, atol=2.0)


def stretched(name, share=0.03):
    """Positions whose bones grow and shrink together, slowly, by this share about the left foot."""
    wanted = positions(name)
    wave = 1 + share * torch.sin(torch.arange(len(wanted)) / 4)[:, None, None]
    foot = wanted[:, SMPL22.index("l_foot"), None]
    return foot + wave * (wanted - foot)


@pytest.mark.parametrize("name", ["walk", "cartwheel"])
def test_feet_do_not_slide_more_than_in_the_positions(name):
    given = stretched(name)
    for wanted, fitted in ((positions(name), fitted_to(name)), (given, fit(given, SMPL22, 20.0))):
        before = float(foot_skating(wanted, SMPL22, 20.0))
        assert float(foot_skating(fitted.positions(SMPL22), SMPL22, 20.0)) < 1.03 * before


def test_feet_are_kept_nearer_than_the_rest_of_the_body():
    off = fit(stretched("walk"), SMPL22, 20.0).mean_mm
    assert float(off[list(SMPL22.contact_joints)].mean()) < 0.45 * float(off.mean())


def test_what_is_left_comes_from_the_bones_that_change_and_no_more():
    longer = positions("walk").clone()
    shin = longer[20, SMPL22.index("l_ankle")] - longer[20, SMPL22.index("l_knee")]
    longer[20, [SMPL22.index("l_ankle"), SMPL22.index("l_foot")]] += 0.02 * shin / shin.norm()
    off = 1000 * (fit(longer, SMPL22, 20.0).positions(SMPL22) - longer).norm(dim=-1)
    assert 2 < float(off[20].max()) < 20
    assert float(off[:20].max()) < EXACT_MM
    assert float(off[21:].max()) < EXACT_MM


def test_frames_are_fitted_alike_in_one_piece_and_in_several(monkeypatch):
    whole = fitted_to("walk")
    monkeypatch.setattr(fitting, "FRAMES", 13)
    parts = fit(positions("walk"), SMPL22, 20.0)
    np.testing.assert_allclose(parts.rotations, whole.rotations, atol=1e-9)


def test_a_given_rest_pose_is_kept_and_reached():
    own = rest_offsets(positions("walk"), SMPL22)
    turn = Rotation.from_rotvec((0, 0, -0.3)).as_matrix()
    arms = [SMPL22.index(f"l_{joint}") for joint in ("elbow", "wrist")]
    lower = own.clone()
    lower[arms] = own[arms] @ torch.from_numpy(turn).T
    fitted = fit(positions("walk"), SMPL22, 20.0, offsets=lower)
    np.testing.assert_allclose(fitted.offsets, lower)
    assert float(fitted.max_mm.max()) < EXACT_MM
    np.testing.assert_allclose(walked_down(fitted), positions("walk"), atol=EXACT_MM / 1000)


def test_a_single_frame_and_the_skeleton_of_16_joints_are_fitted():
    walk = positions("walk")
    nose = walk[:, SMPL22.index("head")]
    beyond = nose + 0.5 * (nose - walk[:, SMPL22.index("neck")])
    places = {"nose": nose, "head": beyond}
    players = torch.stack(
        [places.get(j, walk[:, SMPL22.index(j)] if j in SMPL22.joints else nose) for j in NBA16.joints], 1
    )
    fitted = fit(players[:1], NBA16, 20.0)
    assert fitted.rotations.shape == (1, 16, 4)
    fitted = fit(players, NBA16, 20.0)
    assert float(fitted.max_mm.max()) < 15
    assert float(steps(fitted).max()) < 60


@pytest.mark.parametrize(
    ("shape", "value", "message"),
    [
        ((5, 16, 3), 0.0, "expected positions"),
        ((0, 22, 3), 0.0, "expected positions"),
        ((5, 22, 3), math.nan, "5 of 5"),
    ],
)
def test_what_is_no_motion_is_refused(shape, value, message):
    with pytest.raises(DatasetError, match=message):
        fit(torch.full(shape, value), SMPL22, 20.0)
