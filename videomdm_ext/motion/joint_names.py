"""Joint names of BVH files and what becomes of them in the 22 SMPL joints.

A rule is a joint's name, or (A, B, share): the point that far from A towards B, also beyond it. `A/end` is the end site
below A. Names are compared without case, without what stands before a colon, without `_`, `-`, `.` and spaces, without
`CC_Base`, and without a beginning that all names share, such as `mixamorig`.

Joints that a source lacks are derived: SMPL's spine joints lie 27, 53 and 65 % of the way from the pelvis to the neck
(measured on CMU), a collar 40 % of the way from the bottom of the neck to the shoulder, the ball of the foot 70 % of
the way from the ankle to the end of a foot without a toe joint.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from videomdm_ext.errors import DatasetError
from videomdm_ext.motion.skeletons import SMPL22

Rule = str | tuple[str, str, float]
Rules = Mapping[str, Rule]


def _sided(left: Rules) -> dict[str, Rule]:
    """Rules of the left side, and the same of the right."""

    def other(rule: Rule) -> Rule:
        return _right(rule) if isinstance(rule, str) else (_right(rule[0]), _right(rule[1]), rule[2])

    return {**left, **{f"r_{joint.removeprefix('l_')}": other(rule) for joint, rule in left.items()}}


def _right(name: str) -> str:
    if re.match(r"[Ll]eft", name):
        return ("R" if name[0] == "L" else "r") + "ight" + name[4:]
    if name.startswith("L_") or name.endswith(("_L", "_l")):
        return "R_" + name[2:] if name.startswith("L_") else name[:-1] + ("R" if name[-1] == "L" else "r")
    return "r" + name[1:] if re.match(r"l[A-Z]", name) else name


LEG = {"l_hip": "LeftUpLeg", "l_knee": "LeftLeg", "l_ankle": "LeftFoot", "l_foot": "LeftToeBase"}
ARM = {"l_shoulder": "LeftArm", "l_elbow": "LeftForeArm", "l_wrist": "LeftHand"}
PLAIN_LEG = {"l_hip": "LeftHip", "l_knee": "LeftKnee", "l_ankle": "LeftAnkle"}
PLAIN_ARM = {
    "l_collar": "LeftCollar", "l_shoulder": "LeftShoulder", "l_elbow": "LeftElbow", "l_wrist": "LeftWrist",
}  # fmt: skip
TOP: dict[str, Rule] = {"neck": "Neck", "head": "Head"}
STRAIGHT: dict[str, Rule] = {
    "spine1": ("Hips", "Neck", 0.27), "spine2": ("Hips", "Neck", 0.53), "spine3": ("Hips", "Neck", 0.65),
}  # fmt: skip
THREE: dict[str, Rule] = {"pelvis": "Hips", "spine1": "Spine", "spine2": "Spine1", "spine3": "Spine2", **TOP}

TABLES: Mapping[str, Rules] = {
    "smpl": {joint: joint for joint in SMPL22.joints},
    "smpl2bvh": {joint: re.sub("^l_", "left_", re.sub("^r_", "right_", joint)) for joint in SMPL22.joints},
    "cmu": {  # B. Hahne's conversion for MotionBuilder, cgspeed
        "pelvis": "Hips", "spine1": "Spine", "spine2": "Spine1", "spine3": ("Spine1", "LeftShoulder", 0.45),
        "neck": "Neck1", "head": "Head",
        **_sided({**LEG, **ARM, "l_collar": ("LeftShoulder", "LeftArm", 0.4)}),
    },
    "cmu-daz": {  # the same for Daz
        "pelvis": "hip", "spine1": ("hip", "neck", 0.27), "spine2": ("hip", "neck", 0.53),
        "spine3": ("hip", "neck", 0.65), "neck": "neck", "head": "head",
        **_sided({
            "l_hip": "lThigh", "l_knee": "lShin", "l_ankle": "lFoot", "l_foot": ("lFoot", "lFoot/end", 0.7),
            "l_collar": "lCollar", "l_shoulder": "lShldr", "l_elbow": "lForeArm", "l_wrist": "lHand",
        }),
    },
    "100style": {  # and others recorded with Xsens
        "pelvis": "Hips", "spine1": "Chest", "spine2": "Chest2", "spine3": "Chest3", **TOP,
        **_sided({**PLAIN_LEG, **PLAIN_ARM, "l_foot": "LeftToe"}),
    },
    "mixamo": {**THREE, **_sided({**LEG, **ARM, "l_collar": "LeftShoulder"})},
    "lafan1": {**THREE, **_sided({**LEG, **ARM, "l_collar": "LeftShoulder", "l_foot": "LeftToe"})},
    "sfu": {  # its Spine is at the hips, its shoulders begin at the neck
        "pelvis": "Hips", **STRAIGHT, **TOP, **_sided({**LEG, **ARM, "l_collar": ("Neck", "LeftArm", 0.4)}),
    },
    "cmu-max": {  # Hahne's conversion for 3ds Max, and other small skeletons
        "pelvis": "Hips", **STRAIGHT, **TOP, **_sided({**PLAIN_LEG, **PLAIN_ARM, "l_foot": "LeftToe"}),
    },
    "cmu-max without toes": {
        "pelvis": "Hips", **STRAIGHT, **TOP,
        **_sided({**PLAIN_LEG, **PLAIN_ARM, "l_foot": ("LeftAnkle", "LeftAnkle/end", 0.7)}),
    },
    "perception-neuron": {  # without toes; a fourth joint of the spine, where there is one, is not needed
        **THREE,
        **_sided({**LEG, **ARM, "l_foot": ("LeftFoot", "LeftFoot/end", 0.7), "l_collar": "LeftShoulder"}),
    },
    "bandai-namco": {
        "pelvis": "Hips", **STRAIGHT, **TOP,
        **_sided({
            "l_hip": "UpperLeg_L", "l_knee": "LowerLeg_L", "l_ankle": "Foot_L", "l_foot": "Toes_L",
            "l_collar": "Shoulder_L", "l_shoulder": "UpperArm_L", "l_elbow": "LowerArm_L", "l_wrist": "Hand_L",
        }),
    },
    "rokoko": {
        "pelvis": "Hips", **STRAIGHT, **TOP,
        **_sided({
            **ARM, "l_hip": "LeftThigh", "l_knee": "LeftShin", "l_ankle": "LeftFoot", "l_foot": "LeftToe",
            "l_collar": "LeftShoulder",
        }),
    },
    "xsens": {  # its segments' names; those of its joints are 100STYLE's
        "pelvis": "Pelvis", "spine1": "L3", "spine2": "T12", "spine3": "T8", **TOP,
        **_sided({
            "l_hip": "LeftUpperLeg", "l_knee": "LeftLowerLeg", "l_ankle": "LeftFoot", "l_foot": "LeftToe",
            "l_collar": "LeftShoulder", "l_shoulder": "LeftUpperArm", "l_elbow": "LeftForeArm", "l_wrist": "LeftHand",
        }),
    },
    "iclone": {  # and Character Creator, whose names begin with CC_Base
        "pelvis": "Hip", "spine1": "Waist", "spine2": "Spine01", "spine3": "Spine02", "neck": "NeckTwist01",
        "head": "Head",
        **_sided({
            "l_hip": "L_Thigh", "l_knee": "L_Calf", "l_ankle": "L_Foot", "l_foot": "L_ToeBase",
            "l_collar": "L_Clavicle", "l_shoulder": "L_Upperarm", "l_elbow": "L_Forearm", "l_wrist": "L_Hand",
        }),
    },
    "unreal": {
        "pelvis": "pelvis", "spine1": "spine_01", "spine2": "spine_02", "spine3": "spine_03", "neck": "neck_01",
        "head": "head",
        **_sided({
            "l_hip": "thigh_l", "l_knee": "calf_l", "l_ankle": "foot_l", "l_foot": "ball_l", "l_collar": "clavicle_l",
            "l_shoulder": "upperarm_l", "l_elbow": "lowerarm_l", "l_wrist": "hand_l",
        }),
    },
    "pymo": {  # the skeleton of PyMO's examples, without a neck; its shoulders begin above the spine
        "pelvis": "Hips", "spine1": ("Hips", "Head", 0.22), "spine2": ("Hips", "Head", 0.44),
        "spine3": ("Hips", "Head", 0.54), "neck": ("Hips", "Head", 0.83), "head": "Head",
        **_sided({**LEG, **ARM, "l_collar": ("LeftShoulder", "LeftArm", 0.4)}),
    },
}  # fmt: skip
"""In the order in which they are tried; the first whose names are all there is taken."""
MARKS: Mapping[str, tuple[str, ...]] = {"cmu": ("LHipJoint", "LowerBack"), "100style": ("Chest4",)}
"""Further names by which a table is told from another that would fit as well."""

DROPPED_BONES: Mapping[str, tuple[str, str, float]] = {
    "Neck": ("Neck", "Spine1", 1.0),
    "LeftShoulder": ("LeftShoulder", "Spine1", 1.0),
    "RightShoulder": ("RightShoulder", "Spine1", 1.0),
    "LeftHand": ("LeftFingerBase", "LeftHand", 1.5),
    "RightHand": ("RightFingerBase", "RightHand", 1.5),
}
"""Bones that Hahne's conversion of CMU leaves out: where the offset of the first name is zero, the joint gets that of
the second one times the factor. The thorax is as long as the bone below it, the wrist half as long as the radius;
with both put back, the joints agree with the original recordings."""


@dataclass(frozen=True)
class Nodes:
    """The names of a file's joints and end sites in their order, NAME and NAME/end, as they are compared.

    `whole` names still have the beginning that all share.
    """

    names: tuple[str, ...]
    whole: tuple[str, ...]

    @classmethod
    def of(cls, names: Sequence[str]) -> "Nodes":
        """Of names as the file has them, end sites as NAME/end."""
        short = tuple(_short(name) for name in names)
        first, last = min(short), max(short)  # what these two share, all share
        shared = next((k for k, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
        cut = shared if shared >= 3 and first[:shared] not in short else 0
        return cls(tuple(name[cut:] for name in short), short)

    def has(self, name: str) -> bool:
        return _short(name) in self.names or _short(name) in self.whole

    def index(self, name: str) -> int:
        short = _short(name)
        return self.names.index(short) if short in self.names else self.whole.index(short)


def _short(name: str) -> str:
    return re.sub(r"[_\-.\s]", "", name.rpartition(":")[2]).lower().removeprefix("ccbase")


def choose_table(nodes: Nodes, place: str) -> str:
    """The name of the table that fits; DatasetError lists what the nearest one misses."""
    missing = {
        name: [part for part in (*_all_names(rules), *MARKS.get(name, ())) if not nodes.has(part)]
        for name, rules in TABLES.items()
    }
    for name, names in missing.items():
        if not names:
            return name
    nearest = min(missing, key=lambda name: len(missing[name]))
    raise DatasetError(
        f"{place}: expected the joints of {', '.join(TABLES)}, found others: of {nearest} it lacks "
        f"{', '.join(missing[nearest][:12])}; it has {', '.join(nodes.whole[:40])}. "
        "Name a YAML file with --option map=FILE that says which of them are the 22 SMPL joints."
    )


def _all_names(rules: Rules) -> list[str]:
    named = ((rule,) if isinstance(rule, str) else rule[:2] for rule in rules.values())
    return list(dict.fromkeys(itertools.chain.from_iterable(named)))


def check_rules(rules: Rules, nodes: Nodes, place: str) -> None:
    """All joints that the rules name are in the file."""
    lost = [name for name in _all_names(rules) if not nodes.has(name)]
    if lost:
        raise DatasetError(
            f"{place}: expected the joints that --option map names, found no {', '.join(lost)}; it has "
            f"{', '.join(nodes.whole[:60])}. Correct the map."
        )


def check_single(rules: Rules, nodes: Nodes, place: str) -> None:
    """No joint that the rules name is there twice, as in a file of two people."""
    twice = [name for name in _all_names(rules) if "/" not in name and nodes.names.count(_short(name)) > 1]
    if twice:
        raise DatasetError(
            f"{place}: expected one person, found {', '.join(twice[:6])} more than once. Export each person to a file "
            "of its own, or give another name to what is no joint of the body."
        )


def rules_from(entries: Any, place: str) -> Rules:
    """The rules of a user's map: a joint's name, or [A, B, share], for each of the 22."""
    if not isinstance(entries, dict):
        raise DatasetError(f"{place}: expected a line `pelvis: Hips` for each SMPL joint, found none. Write them.")
    lost = [joint for joint in SMPL22.joints if joint not in entries]
    unknown = [str(joint) for joint in entries if joint not in SMPL22.joints]
    if lost or unknown:
        raise DatasetError(
            f"{place}: expected the 22 joints {', '.join(SMPL22.joints)}, found {', '.join(lost) or 'none'} missing "
            f"and {', '.join(unknown) or 'none'} unknown. Correct the map."
        )
    return {joint: _rule(entries[joint], joint, place) for joint in SMPL22.joints}


def _rule(entry: Any, joint: str, place: str) -> Rule:
    if isinstance(entry, str) and entry.strip():
        return entry
    if isinstance(entry, list) and len(entry) == 3 and isinstance(entry[2], int | float):
        return str(entry[0]), str(entry[1]), float(entry[2])
    raise DatasetError(
        f"{place}: expected a joint's name or [A, B, share] for {joint}, found {str(entry)[:60]!r}. Correct the map."
    )


def to_smpl(positions: Tensor, nodes: Nodes, rules: Rules) -> Tensor:
    """Positions [..., N, 3] of a file's nodes as the 22 SMPL joints. -> [..., 22, 3]"""

    def at(name: str) -> Tensor:
        return positions[..., nodes.index(name), :]

    found = []
    for joint in SMPL22.joints:
        rule = rules[joint]
        found.append(at(rule) if isinstance(rule, str) else torch.lerp(at(rule[0]), at(rule[1]), rule[2]))
    return torch.stack(found, -2)
