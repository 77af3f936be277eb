"""The importer of BVH: joints by name in every known naming, units, axes, pieces, and files that are none.

Files are written here from known rotations; where joints are is found again by kinematics in numpy.
"""

import logging
import math

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from videomdm_ext.data.folder import read_folder
from videomdm_ext.data.importing import run_import
from videomdm_ext.data.motions import Optics
from videomdm_ext.data.sources.base import ImportOptions
from videomdm_ext.data.sources.bvh import BvhImporter, Reading, read_take
from videomdm_ext.errors import ConfigError, DatasetError
from videomdm_ext.motion.kinematics import bone_lengths
from videomdm_ext.motion.skeletons import SMPL22

BODY = {
    "pelvis": (0, 0, 0), "hip": (0.09, -0.07, 0.01), "knee": (0.02, -0.40, 0.01), "ankle": (0, -0.41, -0.03),
    "foot": (0.02, -0.06, 0.13), "toes": (0.01, 0, 0.07), "spine1": (0, 0.11, -0.01), "spine2": (0, 0.13, 0.01),
    "spine3": (0, 0.06, 0), "neck": (0, 0.21, -0.03), "head": (0, 0.09, 0.03), "crown": (0, 0.15, 0.02),
    "collar": (0.06, 0.12, 0), "shoulder": (0.12, 0.03, -0.02), "elbow": (0.26, 0, 0), "wrist": (0.25, 0, 0.01),
    "fingers": (0.1, 0, 0),
}  # fmt: skip
"""Metres from the joint before, x to the left, y up, z ahead; on the right side x is the other way."""
LIMBS = ("hip knee ankle foot toes", "collar shoulder elbow wrist fingers")
MIXAMO_ARM = {"collar": "Shoulder", "shoulder": "Arm", "elbow": "ForeArm", "wrist": "Hand"}
PLAIN_ARM = {"collar": "Collar", "shoulder": "Shoulder", "elbow": "Elbow", "wrist": "Wrist"}
MIXAMO_LEG = {"hip": "UpLeg", "knee": "Leg", "ankle": "Foot", "foot": "ToeBase"}
PLAIN_LEG = {"hip": "Hip", "knee": "Knee", "ankle": "Ankle", "foot": "Toe"}
DAZ = {"hip": "Thigh", "knee": "Shin", "ankle": "Foot", "collar": "Collar", "shoulder": "Shldr", "elbow": "ForeArm"}
SPINE = {"pelvis": "Hips", "spine1": "Spine", "spine2": "Spine1", "spine3": "Spine2", "neck": "Neck", "head": "Head"}
CHEST = {"pelvis": "Hips", "spine1": "Chest", "spine2": "Chest2", "spine3": "Chest3", "neck": "Neck", "head": "Head"}

UPPER = {"hip": "UpLeg", "knee": "Leg", "ankle": "Foot"}
PARTS = ("hip", "knee", "ankle", "foot", "collar", "shoulder", "elbow", "wrist")
TOP = {"neck": "Neck", "head": "Head"}


def named(words):
    return dict(zip(PARTS, words.split(), strict=True))


NAMINGS = {
    "mixamo": (SPINE, MIXAMO_LEG | MIXAMO_ARM, "mixamorig:{}", ("Left", "Right")),
    "lafan1": (SPINE, MIXAMO_LEG | MIXAMO_ARM | {"foot": "Toe"}, "{}", ("Left", "Right")),
    "sfu": ({k: v for k, v in SPINE.items() if k != "spine3"}, MIXAMO_LEG | MIXAMO_ARM, "{}", ("Left", "Right")),
    "100style": (CHEST | {"extra": "Chest4"}, PLAIN_LEG | PLAIN_ARM, "{}", ("Left", "Right")),
    "cmu-max": ({"pelvis": "Hips", "spine2": "Chest", "neck": "Neck", "head": "Head"}, PLAIN_LEG | PLAIN_ARM,
                "{}", ("LEFT", "RIGHT")),
    "cmu-daz": ({"pelvis": "hip", "spine1": "abdomen", "spine2": "chest", "neck": "neck", "head": "head"},
                DAZ | {"wrist": "Hand"}, "{}", ("l", "r")),
    "smpl": ({k: k for k in SPINE}, {k: f"_{k}" for k in MIXAMO_LEG | MIXAMO_ARM}, "{}", ("L", "R")),
    "smpl2bvh": ({k: k for k in SPINE}, {k: f"_{k}" for k in MIXAMO_LEG | MIXAMO_ARM}, "{}", ("Left", "Right")),
    "perception-neuron": (SPINE | {"extra": "Spine3"}, UPPER | MIXAMO_ARM, "{}", ("Left", "Right")),
    "bandai-namco": (
        {"pelvis": "Hips", "spine1": "Spine", "spine2": "Chest", "neck": "Neck", "head": "Head"},
        named("UpperLeg_ LowerLeg_ Foot_ Toes_ Shoulder_ UpperArm_ LowerArm_ Hand_"),
        "{}", ("L", "R")),
    "rokoko": (
        {"pelvis": "Hips", "spine1": "Spine1", "spine2": "Spine2", "spine3": "Spine3", "extra": "Spine4"} | TOP,
        named("Thigh Shin Foot Toe Shoulder Arm ForeArm Hand"),
        "{}", ("Left", "Right")),
    "xsens": (
        {"pelvis": "Pelvis", "spine1": "L3", "spine2": "T12", "spine3": "T8"} | TOP,
        named("UpperLeg LowerLeg Foot Toe Shoulder UpperArm ForeArm Hand"),
        "{}", ("Left", "Right")),
    "iclone": (
        {"pelvis": "Hip", "spine1": "Waist", "spine2": "Spine01", "spine3": "Spine02", "neck": "NeckTwist01",
         "head": "Head"},
        named("_Thigh _Calf _Foot _ToeBase _Clavicle _Upperarm _Forearm _Hand"),
        "CC_Base_{}", ("L", "R")),
    "unreal": (
        {"pelvis": "pelvis", "spine1": "spine_01", "spine2": "spine_02", "spine3": "spine_03", "neck": "neck_01",
         "head": "head"},
        named("thigh_ calf_ foot_ ball_ clavicle_ upperarm_ lowerarm_ hand_"),
        "{}", ("l", "r")),
    "pymo": ({"pelvis": "Hips", "spine1": "Spine", "head": "Head"}, MIXAMO_LEG | MIXAMO_ARM, "{}", ("Left", "Right")),
}  # fmt: skip
"""Names of the trunk and of a side's joints, how they are written, and how the sides begin."""


class Human:
    """A skeleton in one naming: names, parents (-1 for the root), offsets [N, 3] in metres; "" is an end site."""

    def __init__(self, naming):
        trunk, limbs, style, sides = NAMINGS[naming]
        self.names, self.parents, self.offsets, self.smpl = [], [], [], []
        self.style = style
        before, carried = -1, np.zeros(3)
        for joint in ("pelvis", "spine1", "spine2", "spine3", "extra", "neck", "head", "crown"):
            carried = carried + BODY.get(joint, (0, 0, 0))
            if joint == "neck":
                chest = before, carried - BODY["neck"]  # arms leave the last joint below the neck
            if joint in trunk or joint == "crown":
                before = self.add(trunk.get(joint, ""), before, carried, joint)
                carried = np.zeros(3)
        for number, side in enumerate(sides):
            for limb, start in zip(LIMBS, ((0, np.zeros(3)), chest), strict=True):
                before, carried = start
                for joint in limb.split():
                    end = joint in ("toes", "fingers")
                    carried = carried + np.array(BODY[joint]) * (1 - 2 * number, 1, 1)
                    if joint in limbs or end:
                        name = (
                            "" if end else f"{limbs[joint]}{side}" if limbs[joint][-1] == "_" else side + limbs[joint]
                        )
                        before = self.add(name, before, carried, f"{'lr'[number]}_{joint}")
                        carried = np.zeros(3)

    def add(self, name, parent, offset, smpl):
        self.names.append(name and self.style.format(name))
        self.parents.append(parent)
        self.offsets.append(np.array(offset, dtype=float))
        self.smpl.append(smpl)
        return len(self.names) - 1

    def children(self, node):
        return [child for child, parent in enumerate(self.parents) if parent == node]

    def order(self, node=0):
        return [node, *(below for child in self.children(node) for below in self.order(child))]


def moves(human, frames, fps):
    """Local rotations [T, N, 3, 3] and places of the root [T, 3] of someone who walks, turns and waves."""
    time = np.arange(frames)[:, None] / fps
    node = np.arange(len(human.names))
    angles = np.stack([0.25 * np.sin(3 * time + node * (axis + 1.3)) for axis in range(3)], -1)
    angles[:, 0] *= 0.2
    turns = Rotation.from_rotvec(angles.reshape(-1, 3)).as_matrix().reshape(frames, -1, 3, 3)
    spin = Rotation.from_rotvec(np.array((0, 1, 0)) * 0.5 * time).as_matrix()
    turns[:, 0] = spin @ turns[:, 0]
    return turns, np.concatenate((0.7 * time, 0.95 + 0.02 * np.sin(5 * time), 0.3 * time), 1)


def placed(human, turns, root):
    """Where the nodes are, [T, N, 3], by walking down the tree."""
    at, frame = {}, {}
    for node in human.order():
        parent = human.parents[node]
        at[node] = root if parent < 0 else at[parent] + frame[parent] @ human.offsets[node]
        frame[node] = turns[:, node] if parent < 0 else frame[parent] @ turns[:, node]
    return np.stack([at[node] for node in range(len(human.names))], 1)


def write_bvh(path, human, turns, root, *, fps=60.0, unit=1.0, order="ZXY", basis=None, offsets=None):
    """A file of these motions; `basis` [N, 3, 3] are the axes that each joint has in the rest pose of the file."""
    basis = np.tile(np.eye(3), (len(human.names), 1, 1)) if basis is None else basis
    parents = np.array(human.parents)
    above = np.where((parents < 0)[:, None, None], np.eye(3), basis[parents])
    local = np.swapaxes(above, -1, -2) @ turns @ basis
    given = np.einsum("nji,nj->ni", above, np.stack(human.offsets if offsets is None else offsets)) / unit
    angles = Rotation.from_matrix(local.reshape(-1, 3, 3)).as_euler(order, degrees=True).reshape(*local.shape[:2], 3)
    lines, columns = ["HIERARCHY"], []
    spins = " ".join(f"{axis}rotation" for axis in order)

    def block(node, depth):
        name, pad = human.names[node], "\t" * depth
        kind = f"{'ROOT' if depth == 0 else 'JOINT'} {name}" if name else "End Site"
        lines.extend((pad + kind, pad + "{", pad + "\tOFFSET " + " ".join(f"{x:.6f}" for x in given[node])))
        if name:
            places = "6 Xposition Yposition Zposition" if depth == 0 else "3"
            lines.append(f"{pad}\tCHANNELS {places} {spins}")
            columns.append(node)
        for child in human.children(node):
            block(child, depth + 1)
        lines.append(pad + "}")

    block(0, 0)
    values = np.concatenate((root / unit, angles[:, columns].reshape(len(root), -1)), 1)
    lines += ["MOTION", f"Frames: {len(root)}", f"Frame Time: {1 / fps:.7f}"]
    lines += [" ".join(f"{value:.6f}" for value in row) for row in values]
    path.write_text("\n".join(lines) + "\n")
    return path


def written(path, naming="mixamo", *, frames=121, fps=60.0, **options):
    """A file of a human who moves, and where the joints are, [T, N, 3] at the file's rate. -> human, positions"""
    human = Human(naming)
    turns, root = moves(human, frames, fps)
    write_bvh(path, human, turns, root, fps=fps, **options)
    return human, placed(human, turns, root)


def assert_joints(found, human, positions, joints=SMPL22.joints, tolerance=2e-4):
    """`found` [T, 22, 3] has these joints where kinematics puts them, all of it moved up or down to the floor."""
    lowest = found[..., 1].amin(-1).quantile(0.05)
    found = found.numpy()
    named = {name: positions[: len(found), human.smpl.index(name)] for name in joints if name in human.smpl}
    assert len(named) >= 16
    lift = np.mean([found[:, SMPL22.index(name), 1] - at[:, 1] for name, at in named.items()])
    for name, at in named.items():
        expected = at + np.array((0, lift, 0))
        np.testing.assert_allclose(found[:, SMPL22.index(name)], expected, atol=tolerance, err_msg=name)
    assert abs(float(lowest)) < 1e-5


@pytest.mark.parametrize("naming", [name for name in NAMINGS if name != "lafan1"])
def test_joints_are_where_kinematics_puts_them_in_every_naming(tmp_path, naming, caplog):
    caplog.set_level(logging.INFO)
    spine = {"spine1", "spine2", "spine3"}
    derived = {"sfu": spine, "cmu-max": {"spine2"}, "cmu-daz": {"spine1", "spine2"}, "bandai-namco": spine}
    derived |= {"rokoko": spine, "pymo": spine | {"neck"}}
    unsure = derived.get(naming, set()) | ({"l_collar", "r_collar"} if naming in ("sfu", "pymo") else set())
    order = {"100style": "YXZ", "cmu-daz": "ZYX"}.get(naming, "ZXY")
    human, positions = written(tmp_path / "a.bvh", naming, unit=0.01, order=order)
    found = read_take(tmp_path / "a.bvh", Reading())
    assert found.shape == (41, 22, 3)
    assert_joints(found, human, positions[::3], [name for name in SMPL22.joints if name not in unsure])
    assert f"joints of {naming}," in caplog.text
    lengths = bone_lengths(found, SMPL22)
    assert (lengths > 0.03).all()
    trunk = [SMPL22.index(name) for name in ("pelvis", "spine1", "spine2", "spine3", "neck", "head")]
    heights = found.mean(0)[trunk, 1]
    assert (heights.diff() > 0.02).all()


def taken_apart(path):
    """-> what stands before the word MOTION, the lines of the frames and of their time, and the rows."""
    head, motion = path.read_text().split("MOTION\n")
    frames, seconds, *rows = motion.splitlines()
    return head, frames, seconds, rows


def put_together(path, head, *lines):
    path.write_text(head + "MOTION\n" + "\n".join(lines) + "\n")


def reference(path, above=("Reference",)):
    """A file of a mixamo human below nodes that never move, with position channels at every joint; the OFFSETs, which
    these replace, are wrong. -> human, positions"""
    human, positions = written(path)
    head, frames, seconds, rows = taken_apart(path)
    out, order = ["HIERARCHY"], [node for node in human.order() if human.names[node]]
    six = "CHANNELS 6 Xposition Yposition Zposition"
    for name in above:
        kind = "JOINT" if len(out) > 1 else "ROOT"
        out += [f"{kind} {name}", "{", "OFFSET 0 0 0", f"{six} Zrotation Xrotation Yrotation"]
    for line in head.splitlines()[1:]:
        wrong = "OFFSET" in line and "End Site" not in out[-2]
        out.append("OFFSET 3 -2 7" if wrong else line.replace("ROOT", "JOINT").replace("CHANNELS 3", six))
    moved = []
    for row in rows:
        values = row.split()
        cells = [*[0] * 6 * len(above), *values[:6]]
        for column, node in enumerate(order[1:]):
            cells += [*human.offsets[node], *values[6 + 3 * column : 9 + 3 * column]]
        moved.append(" ".join(map(str, cells)))
    put_together(path, "\n".join([*out, "}" * len(above), ""]), frames, seconds, *moved)
    return human, positions


def test_position_channels_take_the_place_of_the_offset_below_still_nodes(tmp_path):
    """As MotionBuilder, Unreal and Bandai-Namco write: Reference and the like above Hips, six channels a joint."""
    for above in (("Reference",), ("joint_Root", "Armature")):
        human, positions = reference(tmp_path / "a.bvh", above)
        found = read_take(tmp_path / "a.bvh", Reading())
        assert_joints(found, human, positions[::3])
        assert float((found[-1, 0] - found[0, 0])[[0, 2]].norm()) == pytest.approx(2 * math.hypot(0.7, 0.3), abs=1e-3)


def test_a_still_node_that_turns_the_world_says_what_is_up(tmp_path):
    """Unreal's skeletons have z up and turn at the top of the file, so that rest pose and motion lie otherwise."""
    up = Rotation.from_euler("x", -90, degrees=True).as_matrix()
    human = Human("mixamo")
    human.offsets = [up.T @ offset for offset in human.offsets]
    turns, root = moves(Human("mixamo"), 121, 60.0)
    write_bvh(tmp_path / "z.bvh", human, up.T @ turns @ up, root @ up)
    head, *lines, rows = taken_apart(tmp_path / "z.bvh")
    top = "HIERARCHY\nROOT root\n{\nOFFSET 0 0 0\nCHANNELS 3 Xrotation Yrotation Zrotation\n"
    head = head.replace("HIERARCHY\n", top).replace("ROOT mixamo", "JOINT mixamo")
    put_together(tmp_path / "z.bvh", f"{head}}}\n", *lines, *(f"-90 0 0 {row}" for row in rows))
    assert_joints(read_take(tmp_path / "z.bvh", Reading()), Human("mixamo"), placed(Human("mixamo"), turns, root)[::3])


@pytest.mark.parametrize("value", ["0", "0.000001"])
def test_position_channels_of_zero_at_a_bone_are_refused(tmp_path, value):
    reference(tmp_path / "a.bvh")
    head, *lines, rows = taken_apart(tmp_path / "a.bvh")
    names = [line.split()[1] for line in head.splitlines() if line.strip().startswith(("ROOT", "JOINT"))]
    column = 6 * names.index("mixamorig:LeftLeg")
    cut = [" ".join([*(w := row.split())[:column], *3 * [value], *w[column + 3 :]]) for row in rows]
    put_together(tmp_path / "a.bvh", head, *lines, *cut)
    with pytest.raises(DatasetError, match=r"OFFSET of mixamorig:LeftLeg, found about zeros throughout\. Export it"):
        read_take(tmp_path / "a.bvh", Reading())


def test_two_people_below_one_root_are_refused_and_not_the_first_taken(tmp_path):
    written(tmp_path / "a.bvh")
    head, *lines, rows = taken_apart(tmp_path / "a.bvh")
    one = head.removeprefix("HIERARCHY\n").replace("ROOT", "JOINT")
    top = "HIERARCHY\nROOT Reference\n{\nOFFSET 0 0 0\nCHANNELS 3 Xposition Yposition Zposition\n"
    both = one.replace("mixamorig:", "A:") + one.replace("mixamorig:", "B:")
    put_together(tmp_path / "a.bvh", f"{top}{both}}}\n", *lines, *(f"0 0 0 {row} {row}" for row in rows))
    with pytest.raises(DatasetError, match=r"expected one person, found Hips, .* more than once"):
        read_take(tmp_path / "a.bvh", Reading())


def test_no_space_behind_a_colon_and_a_joint_called_motion_do_no_harm(tmp_path):
    human, positions = written(tmp_path / "a.bvh")
    text = (tmp_path / "a.bvh").read_text().replace("Frames: ", "Frames:").replace("Frame Time: ", "Frame Time:")
    top = "ROOT MOTIONBUILDER\n{\nOFFSET 0 0 0\n"
    head, _, motion = text.replace("ROOT", "JOINT").partition("\nMOTION\n")
    (tmp_path / "a.bvh").write_text(head.replace("HIERARCHY\n", f"HIERARCHY\n{top}") + "\n}\nMOTION\n" + motion)
    assert_joints(read_take(tmp_path / "a.bvh", Reading()), human, positions[::3])


def test_a_person_of_odd_size_is_read_with_a_warning(tmp_path, caplog):
    """Legs of 0.81 m in centimetres; of 21.7 units, 0.55 m as inches, they may as well be another unit's."""
    for legs, unit, warned in ((0.81, 0.01, False), (0.5506, 0.0254, True), (0.64, 1.0, True), (0.66, 1.0, False)):
        caplog.clear()
        human = Human("mixamo")
        human.offsets = [legs / 0.8126 * offset for offset in human.offsets]
        turns, root = moves(human, 61, 60.0)
        write_bvh(tmp_path / "a.bvh", human, turns, root, unit=unit)
        read_take(tmp_path / "a.bvh", Reading())
        assert ("--option scale" in caplog.text) == warned, (legs, caplog.text)


def test_a_rest_pose_in_which_nobody_stands_is_no_hindrance(tmp_path):
    """LAFAN1's joints have axes of their own: in the rest pose legs and spine all point along x."""
    human = Human("lafan1")
    turns, root = moves(human, 121, 60.0)
    down = Rotation.from_euler("z", -90, degrees=True).as_matrix()  # x of the joint points down the leg
    up = Rotation.from_euler("z", 90, degrees=True).as_matrix()
    sides = [down if any(part in name for part in ("Leg", "Foot", "Toe")) else up for name in human.names]
    write_bvh(tmp_path / "a.bvh", human, turns, root, basis=np.stack(sides), unit=0.01)
    found = read_take(tmp_path / "a.bvh", Reading())
    assert_joints(found, human, placed(human, turns, root)[::3])


@pytest.mark.parametrize("unit", [1.0, 0.01, 0.001, 0.0254, 0.0254 / 0.45])
def test_units_are_told_from_the_legs_and_said(tmp_path, unit, caplog):
    caplog.set_level(logging.INFO)
    human, positions = written(tmp_path / "a.bvh", unit=unit)
    assert_joints(read_take(tmp_path / "a.bvh", Reading()), human, positions[::3], tolerance=3e-4)
    assert "legs of 0.81 m" in caplog.text


def test_a_unit_that_makes_no_person_is_refused_unless_it_is_given(tmp_path):
    human, positions = written(tmp_path / "a.bvh", unit=0.3)
    with pytest.raises(DatasetError, match=r"a\.bvh: expected legs of 0\.55 to 1\.15 m .*--option scale=NUMBER"):
        read_take(tmp_path / "a.bvh", Reading())
    assert_joints(read_take(tmp_path / "a.bvh", Reading(scale=0.3)), human, positions[::3])


def test_z_up_is_turned_to_y_up_and_left_stays_left(tmp_path):
    human = Human("mixamo")
    turns, root = moves(human, 121, 60.0)
    up = np.array(((1.0, 0, 0), (0, 0, -1), (0, 1, 0)))  # y up to z up
    offsets = [up @ offset for offset in human.offsets]
    write_bvh(tmp_path / "a.bvh", human, up @ turns @ up.T, root @ up.T, offsets=offsets)
    for reading in (Reading(), Reading(up="z")):
        assert_joints(read_take(tmp_path / "a.bvh", reading), human, placed(human, turns, root)[::3])


def test_a_person_of_whom_nothing_says_what_is_up_is_refused(tmp_path):
    human = Human("mixamo")
    turns, root = moves(human, 61, 60.0)
    lying = Rotation.from_euler("z", 90, degrees=True).as_matrix()
    write_bvh(tmp_path / "a.bvh", human, lying @ turns @ lying.T, root, offsets=[lying @ o for o in human.offsets])
    with pytest.raises(DatasetError, match=r"stands along y or z, found one along -x.*--option up=y"):
        read_take(tmp_path / "a.bvh", Reading())
    turns[:, 0] = Rotation.from_euler("x", 90, degrees=True).as_matrix() @ turns[:, 0]
    write_bvh(tmp_path / "b.bvh", human, turns, root, order="XZY")
    with pytest.raises(DatasetError, match=r"a rest pose that stands along y and a motion along z"):
        read_take(tmp_path / "b.bvh", Reading())


def test_other_frame_rates_are_resampled_without_changing_bones(tmp_path):
    human, positions = written(tmp_path / "a.bvh", frames=61, fps=30.0)
    found = read_take(tmp_path / "a.bvh", Reading())
    assert len(found) == 41
    assert_joints(found[::2], human, positions[::3])
    assert bone_lengths(found, SMPL22).std(0).max() < 2e-3  # a spine joint may lie between two others
    limbs = [SMPL22.index(name) - 1 for name in ("l_knee", "l_ankle", "r_elbow", "r_wrist")]
    assert bone_lengths(found, SMPL22)[:, limbs].std(0).max() < 1e-5


CMU = """Hips - 0 0 0; LHipJoint Hips 0 0 0; LeftUpLeg LHipJoint 1.4 -1.8 .8; LeftLeg LeftUpLeg 2.4 -6.7 0;
LeftFoot LeftLeg 2.5 -7 0; LeftToeBase LeftFoot .2 -.4 2.3; RHipJoint Hips 0 0 0; RightUpLeg RHipJoint -1.3 -1.8 .8;
RightLeg RightUpLeg -2.5 -7 0; RightFoot RightLeg -2.6 -7 0; RightToeBase RightFoot -.2 -.4 2.4; LowerBack Hips 0 0 0;
Spine LowerBack 0 2 -.2; Spine1 Spine .06 2.1 -.04; Neck Spine1 0 0 0; Neck1 Neck -.05 1.7 .2; Head Neck1 .1 1.8 -.1;
LeftShoulder Spine1 0 0 0; LeftArm LeftShoulder 3.4 1.2 -.3; LeftForeArm LeftArm 5 0 0; LeftHand LeftForeArm 3.5 0 0;
LeftFingerBase LeftHand 0 0 0; RightShoulder Spine1 0 0 0; RightArm RightShoulder -3.1 1.4 -.4;
RightForeArm RightArm -5.2 0 0; RightHand RightForeArm -3.4 0 0; RightFingerBase RightHand 0 0 0"""


def test_cmu_gets_its_dropped_bones_back_and_loses_its_rest_frame(tmp_path):
    unit = 0.0254 / 0.45
    human = object.__new__(Human)
    human.names, human.parents, human.offsets, human.smpl, human.style = [], [], [], [], "{}"
    for line in CMU.replace("\n", " ").split(";"):
        name, parent, *offset = line.split()
        human.add(name, human.names.index(parent) if parent != "-" else -1, unit * np.array(offset, float), name)
    turns, root = moves(human, 122, 60.0)
    at_rest = np.tile(np.eye(3), (1, len(human.names), 1, 1))
    write_bvh(
        tmp_path / "a.bvh", human, np.concatenate((at_rest, turns)), np.concatenate((root[:1] - 0.5, root)), unit=unit
    )
    for joint in ("Neck", "LeftShoulder", "RightShoulder"):
        human.offsets[human.names.index(joint)] = human.offsets[human.names.index("Spine1")]
    for joint in ("LeftHand", "RightHand"):
        human.offsets[human.names.index(joint)] = 1.5 * human.offsets[human.names.index(joint)]
    true = placed(human, turns, root)[::3]
    found = read_take(tmp_path / "a.bvh", Reading())[: len(true)]
    names = {"pelvis": "Hips", "spine1": "Spine", "spine2": "Spine1", "neck": "Neck1", "head": "Head"}
    for number, side in enumerate(("Left", "Right")):
        names |= {f"{'lr'[number]}_{k}": f"{side}{v}" for k, v in (MIXAMO_LEG | MIXAMO_ARM).items() if k != "collar"}
    lift = found[0, 0, 1].item() - true[0, 0, 1]
    for joint, name in names.items():
        expected = true[:, human.names.index(name)] + np.array((0, lift, 0))
        np.testing.assert_allclose(found[:, SMPL22.index(joint)], expected, atol=3e-4, err_msg=joint)
    assert abs(found[0, 12, 1] - found[0, 9, 1]) > 0.08


def imported(source, out, **options):
    return run_import(BvhImporter(str(source), ImportOptions(optics=Optics(noise=0.0), **options)), str(out))


def test_an_import_cuts_long_takes_and_shows_what_cameras_see(tmp_path):
    source = tmp_path / "source"
    for folder, frames in (("slow", 700), ("quick", 100), ("turns", 100), ("bad", 100)):
        (source / folder).mkdir(parents=True)
        written(source / folder / f"Walk_{folder}.BVH", frames=frames)
    (source / "bad" / "Walk_bad.BVH").write_text("HIERARCHY\n")
    (tmp_path / "captions.tsv").write_text("Walk_slow\ta person walks slowly.\n")
    importer = BvhImporter(str(source), ImportOptions(captions=str(tmp_path / "captions.tsv"), views=2))
    ids = [member.id for member in importer.members() if member.trial == "Walk_slow"]
    assert ids == ["Walk_slow_s0_v0", "Walk_slow_s0_v1", "Walk_slow_s1_v0", "Walk_slow_s1_v1"]
    done = imported(source, tmp_path / "set", captions=str(tmp_path / "captions.tsv"), views=2)
    assert set(done.left_out) == {"Walk_bad_v0", "Walk_bad_v1"}
    assert "expected a BVH file with HIERARCHY" in done.left_out["Walk_bad_v0"]
    clips = [clip for split in ("train", "val", "test") for clip in read_folder(str(tmp_path / "set"), split)[1]]
    assert len(clips) == 8
    sides = {split: {c.id[:8] for c in read_folder(str(tmp_path / "set"), split)[1]} for split in ("train", "test")}
    assert not sides["train"] & sides["test"]
    by_id = {clip.id: clip for clip in clips}
    assert by_id["Walk_slow_s1_v0"].texts == ("a person walks slowly.",)
    assert by_id["Walk_quick_v0"].texts == ("a person moves: walk quick.",)
    assert [by_id[f"Walk_slow_s{part}_v0"].length for part in (0, 1)] == [116, 116]  # of 234 frames
    assert not np.allclose(by_id["Walk_slow_s0_v0"].extrinsics, by_id["Walk_slow_s0_v1"].extrinsics)


def test_a_map_of_ones_own_names_the_joints(tmp_path):
    human = Human("mixamo")
    human.names = [name and f"bone{number}" for number, name in enumerate(human.names)]
    turns, root = moves(human, 121, 60.0)
    write_bvh(tmp_path / "a.bvh", human, turns, root)
    with pytest.raises(DatasetError, match=r"a\.bvh: expected the joints of .*lacks .*--option map=FILE"):
        read_take(tmp_path / "a.bvh", Reading())
    lines = {joint: human.names[human.smpl.index(joint)] for joint in SMPL22.joints}
    lines["head"] = f"[{lines['neck']}, {lines['head']}, 1.0]"
    (tmp_path / "map.yaml").write_text("".join(f"{joint}: {name}\n" for joint, name in lines.items()))
    importer = BvhImporter(str(tmp_path), ImportOptions(extra={"map": str(tmp_path / "map.yaml")}))
    assert_joints(importer.read(importer.members()[0]).truth, human, placed(human, turns, root)[::3])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pelvis: Hips\n", "expected the 22 joints .*l_hip"),
        ("- a\n", "a line `pelvis: Hips`"),
        ("a: [1\n", "expected YAML"),
        ("".join(f"{j}: Nose\n" for j in SMPL22.joints), "found no Nose"),
        ("".join(f"{j}: [a, b]\n" for j in SMPL22.joints), r"\[A, B, share\] for pelvis"),
    ],
)
def test_a_map_that_names_no_skeleton_is_refused(tmp_path, text, message):
    written(tmp_path / "a.bvh", frames=20)
    (tmp_path / "map.yaml").write_text(text)
    importer = BvhImporter(str(tmp_path), ImportOptions(extra={"map": str(tmp_path / "map.yaml")}))
    with pytest.raises(DatasetError, match=message):
        importer.read(importer.members()[0])


def test_options_that_are_none_are_refused(tmp_path):
    written(tmp_path / "a.bvh", frames=20)
    for extra in ({"up": "x"}, {"scale": "-1"}, {"scale": "tall"}, {"colour": "red"}):
        with pytest.raises(ConfigError, match=f"--option {next(iter(extra))}"):
            (importer := BvhImporter(str(tmp_path), ImportOptions(extra=extra))).read(importer.members()[0])


MISCOUNTED = r"20 frames, as its line Frames: says, found {} lines .* Correct the line Frames:"
DEFECTS = {  # head, the lines about frames and their time, and rows of a file with one thing broken; what is said
    "declares a billion frames": (lambda h, f, s, r: (h, "Frames: 1000000000", s, *r), r"2 to 400000 frames"),
    "has a line cut off": (
        lambda h, f, s, r: (h, f, s, *r[:-1], r[-1][: len(r[-1]) // 2]),
        r"numbers a line, as its CHANNELS add up to, found \d+ in line \d+\. The file is cut off",
    ),
    "has a word for a number": (
        lambda h, f, s, r: (h, f, s, *r[:3], f"word {r[3]}", *r[4:]),
        r"numbers in line \d+, found 'word",
    ),
    "has NaN": (lambda h, f, s, r: (h, f, s, *r[:3], "nan " + r[3].split(" ", 1)[1], *r[4:]), r"NaN"),
    "has no frame time": (lambda h, f, s, r: (h, f, "Frame Time: 0", *r), r"Correct the line Frame Time"),
    "has more channels than numbers": (
        lambda h, f, s, r: (h.replace("CHANNELS 3", "CHANNELS 6 Xposition Yposition Zposition", 1), f, s, *r),
        r"numbers a line, as its CHANNELS add up to",
    ),
    "scales its joints": (
        lambda h, f, s, r: (h.replace("CHANNELS 3 Z", "CHANNELS 4 Xscale Z", 1), f, s, *r),
        r"channels of positions and rotations, found Xscale",
    ),
    "has two roots": (
        lambda h, f, s, r: (h + h.replace("HIERARCHY\n", ""), f, s, *r),
        r"one ROOT, found 2\. Export each person",
    ),
    "has too many braces": (lambda h, f, s, r: (h + "}\n", f, s, *r), r"hierarchy of joints"),
    "has a frame too few": (lambda h, f, s, r: (h, f, s, *r[:-1]), MISCOUNTED.format(19)),
    "has a frame too many": (lambda h, f, s, r: (h, f, s, *r, r[0]), MISCOUNTED.format(21)),
    "has half the frames": (lambda h, f, s, r: (h, f, s, *r[:10]), MISCOUNTED.format(10)),
    "has glued numbers": (
        lambda h, f, s, r: (h, f, s, *(row.replace(" -", "-") for row in r)),
        r"glued together\. Export it with a space",
    ),
    "has numbers glued at the point": (
        lambda h, f, s, r: (h, f, s, "0.0000007.500000 " + r[0].split(" ", 2)[2], *r[1:]),
        r"'0\.0000007\.500000' in line \d+, glued together",
    ),
    "has commas": (
        lambda h, f, s, r: (h, f, s, *(row.replace(" ", ",") for row in r)),
        r"found commas .* decimal points and spaces, or replace the commas",
    ),
    "has decimal commas everywhere": (
        lambda h, f, s, r: (h.replace(".", ","), f, s.replace(".", ","), *r),
        r"found commas in '.* decimal points",
    ),
    "is mostly blank": (lambda h, f, s, r: ("HIERARCHY\n" + " \n" * 300_000, f, s, *r), r"HIERARCHY"),
    "is garbage": (lambda h, f, s, r: ("\x00\x01" * 1000, f, s, *r), r"HIERARCHY"),
}


@pytest.mark.parametrize("kind", DEFECTS)
def test_a_file_is_refused_with_advice_of_its_own_that(tmp_path, kind):
    written(tmp_path / "good.bvh", frames=20)
    change, said = DEFECTS[kind]
    put_together(tmp_path / "bad.bvh", *change(*taken_apart(tmp_path / "good.bvh")))
    assert len(read_take(tmp_path / "good.bvh", Reading())) == 7
    with pytest.raises(DatasetError, match=rf"bad\.bvh: expected .*{said}"):
        read_take(tmp_path / "bad.bvh", Reading())
    members = BvhImporter(str(tmp_path), ImportOptions()).members()
    assert [member.id for member in members] == ["bad", "good"]


def test_other_texts_than_plain_ones_are_refused_with_what_to_save_and_a_mark_is_none(tmp_path):
    human, positions = written(tmp_path / "good.bvh")
    text = (tmp_path / "good.bvh").read_text()
    for content, message in (
        (text.encode("utf-16"), "found UTF-16. Save it as UTF-8"),
        (text.encode("utf-16-le"), "found UTF-16. Save it as UTF-8"),
        (text.replace("\n", "\r").encode(), "found ends of CR alone. Convert"),
    ):
        (tmp_path / "bad.bvh").write_bytes(content)
        with pytest.raises(DatasetError, match=message):
            read_take(tmp_path / "bad.bvh", Reading())
    lines = text.split("\n")
    start = lines.index("MOTION") + 3
    broken = lines[:start] + [
        part
        for line in lines[start:]
        for part in (line[:70].rsplit(" ", 1)[0], line[len(line[:70].rsplit(" ", 1)[0]) :])
    ]
    for content in (text.encode("utf-8-sig"), text.replace("\n", "\r\n").encode(), "\n".join(broken).encode()):
        (tmp_path / "a.bvh").write_bytes(content)  # a frame may stand in several lines
        assert_joints(read_take(tmp_path / "a.bvh", Reading()), human, positions[::3])


def test_odd_file_names_become_ids_and_links_out_of_the_folder_are_left_out(tmp_path):
    source = tmp_path / "source"
    for name in ("a/walk", "b/walk", "-run é fast"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        written(source / f"{name}.bvh", frames=20)
    written(tmp_path / "secret.bvh", frames=20)
    (source / "link.bvh").symlink_to(tmp_path / "secret.bvh")
    importer = BvhImporter(str(source), ImportOptions())
    assert [member.id for member in importer.members()] == ["_-run___fast", "a_walk", "b_walk"]
    assert list(importer.refused) == [str(source / "link.bvh")]
    assert "a link that leads out of it" in importer.refused[str(source / "link.bvh")]
