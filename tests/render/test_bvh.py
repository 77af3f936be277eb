"""BVH read back by a parser written here and by pybvh: forward kinematics gives the fitted positions."""

from functools import cache

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from videomdm_ext.data.motions import load_motions, time_scaled
from videomdm_ext.motion.skeletons import SMPL22
from videomdm_ext.render.bvh import to_bvh
from videomdm_ext.render.fitting import Fitted, fit

MOTIONS = {motion.name: motion for motion in load_motions()}
SAME_M = 1e-5
"""Six decimals of degrees and centimetres."""


@cache
def written(name):
    """-> what was fitted, its positions [T, 22, 3], and the text"""
    fitted = fit(torch.from_numpy(MOTIONS[name].positions), SMPL22, 20.0)
    return fitted, fitted.positions(SMPL22).numpy(), to_bvh(fitted, SMPL22, 20.0)


def parsed(text):
    """-> joints in file order as (name, parent, offset, channels), frames [T, C], frame time"""
    head, _, motion = text.partition("MOTION\n")
    joints, stack = [], []
    for line in head.splitlines()[1:]:
        words = line.split()
        if words[0] in ("ROOT", "JOINT", "End"):
            parent = next((k for k in reversed(stack) if k is not None), -1)
            stack.append(len(joints) if words[0] != "End" else None)
            if words[0] != "End":
                joints.append([words[1], parent, None, []])
        elif words[0] == "OFFSET" and stack[-1] is not None:
            joints[stack[-1]][2] = np.array(words[1:], dtype=float)
        elif words[0] == "CHANNELS":
            assert int(words[1]) == len(words) - 2
            joints[stack[-1]][3] = words[2:]
        elif words[0] == "}":
            stack.pop()
    assert not stack
    lines = motion.splitlines()
    frames = np.array([line.split() for line in lines[2:]], dtype=float)
    assert lines[0] == f"Frames: {len(frames)}"
    return joints, frames, float(lines[1].removeprefix("Frame Time: "))


def played(joints, frames):
    """Positions by name, [T, 3] each, in the file's unit: every channel in its turn, rotations about own axes."""
    at, turned, column = {}, {}, 0
    for name, parent, offset, channels in joints:
        values = dict(zip(channels, frames[:, column : column + len(channels)].T, strict=True))
        column += len(channels)
        moved = np.stack([values.get(f"{axis}position", np.zeros(len(frames))) for axis in "XYZ"], -1)
        order = "".join(channel[0] for channel in channels if channel.endswith("rotation"))
        own = Rotation.from_euler(order, np.stack([values[f"{axis}rotation"] for axis in order], -1), degrees=True)
        if parent < 0:
            at[name], turned[name] = offset + moved, own
        else:
            above = joints[parent][0]
            at[name] = at[above] + turned[above].apply(offset + moved)
            turned[name] = turned[above] * own
    assert column == frames.shape[1]
    return at


@pytest.mark.parametrize("name", ["cartwheel", "spin"])
def test_the_file_played_by_a_parser_written_out_gives_the_fitted_positions(name):
    _, wanted, text = written(name)
    joints, frames, seconds = parsed(text)
    at = played(joints, frames)
    for number, joint in enumerate(SMPL22.joints):
        np.testing.assert_allclose(at[joint] / 100, wanted[:, number], atol=SAME_M, err_msg=joint)
    assert seconds == 0.05
    assert len(frames) == len(MOTIONS[name].positions)


@pytest.mark.parametrize("name", ["walk", "cartwheel"])
def test_pybvh_reads_the_same_positions(name, tmp_path):
    pybvh = pytest.importorskip("pybvh", reason="pybvh is in the `test` extra")
    _, wanted, text = written(name)
    (tmp_path / "a.bvh").write_text(text)
    take = pybvh.read_bvh_file(tmp_path / "a.bvh", world_up="+y")
    names = [None if node.is_end_site() else node.name for node in take.nodes]
    found = take.node_positions() / 100
    for number, joint in enumerate(SMPL22.joints):
        np.testing.assert_allclose(found[:, names.index(joint)], wanted[:, number], atol=SAME_M, err_msg=joint)
    assert take.fps == pytest.approx(20)


def test_joints_hang_on_each_other_as_in_the_skeleton_and_every_last_one_has_an_end():
    _, _, text = written("walk")
    joints, _, _ = parsed(text)
    tree = {name: joints[parent][0] if parent >= 0 else None for name, parent, _, _ in joints}
    assert tree == {bone.joint: bone.parent for bone in SMPL22.bones}
    assert text.count("End Site") == 5
    assert all(len(channels) == (6 if parent < 0 else 3) for _, parent, _, channels in joints)


def turning(joint, turns):
    """The text of a person in the walk's rest pose who turns one joint, by rotations of SciPy."""
    frames = len(turns)
    rotations = torch.zeros(frames, 22, 4).double()
    rotations[..., 0] = 1
    rotations[:, SMPL22.index(joint)] = torch.from_numpy(turns.as_quat(scalar_first=True))
    nothing = torch.zeros(22)
    turned = Fitted(written("walk")[0].offsets, rotations, torch.zeros(frames, 3).double(), nothing, nothing)
    return to_bvh(turned, SMPL22, 20.0)


def turns_of(text):
    """Angles by joint, [T, 3] each."""
    joints, frames, _ = parsed(text)
    found, column = {}, 0
    for name, _, _, channels in joints:
        column += len(channels)
        found[name] = frames[:, column - 3 : column]
    return found


def test_angles_do_not_jump_when_a_person_spins():
    turns = Rotation.from_rotvec(np.linspace(0, 5 * np.pi, 90)[:, None] * (0, 1, 0))
    angles = turns_of(turning("pelvis", turns))["pelvis"]
    np.testing.assert_allclose(np.abs(np.diff(angles, axis=0)).sum(1), 900 / 89, atol=1e-3)
    np.testing.assert_allclose(np.ptp(angles, axis=0).max(), 900, atol=1e-3)


def test_angles_do_not_jump_when_a_person_tumbles_about_one_axis_after_the_other():
    part = np.linspace(0, np.pi, 30)[:, None]
    tumbled = Rotation.concatenate([Rotation.from_rotvec(part * axis) for axis in np.eye(3)])
    half = [Rotation.identity(), Rotation.from_rotvec((np.pi, 0, 0)), Rotation.from_rotvec((0, 0, np.pi))]
    turns = Rotation.concatenate([half[k] * tumbled[30 * k : 30 * k + 30] for k in range(3)])
    assert np.abs(np.diff(turns_of(turning("pelvis", turns))["pelvis"], axis=0)).max() < 10


def test_angles_do_not_jump_where_joints_turn_slowly():
    slow = torch.from_numpy(time_scaled(MOTIONS["backflip"], 2.0).positions)
    for joint, angles in turns_of(to_bvh(fit(slow, SMPL22, 40.0), SMPL22, 40.0)).items():
        assert np.abs(np.diff(angles, axis=0)).max() < 120, joint


def test_a_joint_that_turns_through_90_degrees_about_any_axis_gets_angles_that_tell_its_turn_apart():
    turns = np.linspace(60, 120, 20)
    for number, axis in enumerate("XYZ"):
        text = turning("l_knee", Rotation.from_rotvec(np.radians(turns)[:, None] * np.eye(3)[number]))
        channels = {name: "".join(word[0] for word in words[-3:]) for name, _, _, words in parsed(text)[0]}
        assert channels["l_knee"][1] != axis
        assert channels["r_knee"] == "ZXY"
        angles = turns_of(text)["l_knee"]
        np.testing.assert_allclose(angles[:, channels["l_knee"].index(axis)], turns, atol=1e-4)
