"""From the joints that detectors and lifters find to the 22 of SMPL, in the image as in space.

Hips, knees, ankles, shoulders, elbows and wrists are direct. The others are derived with H the middle of the hips, S
that of the shoulders and u = S - H, by fractions measured on motion capture: the spine on u, collars from H + 0.936 u
40 % of the way to each shoulder, the head 80 % of the way from S to the middle of the ears (of nose and crown, where
there are no ears; 53 % of the way to the crown alone). Toes lie 30 % of the way from the toes to the heel; without toes
from the ankle along the shank and ahead, by the shares of its length that the bundled motions have on average, 6 cm
off. Everything but such a foot is a fixed mixture of detected joints, so that one matrix serves 2D and 3D.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from videomdm_ext.errors import ConfigError
from videomdm_ext.motion.skeletons import NBA16, SMPL22, Skeleton

Numbers = NDArray[np.float64]
Joints = dict[str, Tensor]

TORSO = {"pelvis": 0.201, "spine1": 0.433, "spine2": 0.663, "spine3": 0.767, "neck": 1.074}
"""Shares of u above H."""
COLLAR, TOWARDS_SHOULDER = 0.936, 0.4
HEAD, HEAD_TO_CROWN = 0.8, 0.53
HEEL = 0.3
FOOT_DOWN, FOOT_AHEAD = 0.066, 0.251
"""From the ankle to the foot's joint as shares of the shank: along it, and ahead at right angles to it; measured on the
bundled motions (median of each, mean of all)."""
DERIVED, TOES = 0.3, 0.7
"""Factors on the confidence of derived joints, and of feet: a toe is not the ball of the foot."""
_PAIRS = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
DIRECT = tuple(f"{side}_{part}" for part in _PAIRS for side in "lr")
_SMPL24 = (*SMPL22.joints, "l_hand", "r_hand")
_FINGERS = tuple(f"{s}_{f}{n}" for s in "lr" for f in ("index", "middle", "pinky", "ring", "thumb") for n in (1, 2, 3))
_ARMS = ("l_shoulder", "l_elbow", "l_wrist", "r_shoulder", "r_elbow", "r_wrist")
_LEGS = ("hips", "r_hip", "r_knee", "r_ankle", "l_hip", "l_knee", "l_ankle")
_COCO = ("nose", *(f"{side}_{part}" for part in ("eye", "ear", *_PAIRS) for side in "lr"))
_FACE = ("nose", *(f"{s}_eye{part}" for s in "lr" for part in ("_inner", "", "_outer")))
_HANDS = ("shoulder", "elbow", "wrist", "pinky", "index", "thumb", "hip", "knee", "ankle", "heel", "toe")
_FEET = ("big_toe", "small_toe", "heel")


@dataclass(frozen=True)
class Layout:
    """The joints of a detector or lifter, in the order of its files."""

    name: str
    joints: tuple[str, ...]

    def index(self, joint: str) -> int:
        return self.joints.index(joint)

    @property
    def has_toes(self) -> bool:
        return any(joint.endswith("toe") for joint in self.joints)

    @cached_property
    def matrix(self) -> Numbers:
        """Shares [22, K] of the detected joints in each of SMPL's; a foot without toes is the ankle."""
        named = _named(torch.eye(len(self.joints), dtype=torch.float64), self)
        found = smpl22_of(named)
        if not self.has_toes:
            found |= {f"{side}_foot": named[f"{side}_ankle"] for side in "lr"}
        return torch.stack([found[joint] for joint in SMPL22.joints]).numpy()

    @cached_property
    def trust(self) -> Numbers:
        """Factor [22] on the confidence of each of SMPL's joints; 0 where the detector has nothing to tell it by."""
        feet = dict.fromkeys(("l_foot", "r_foot"), TOES if self.has_toes else 0.0)
        return np.array([(dict.fromkeys(DIRECT, 1.0) | feet).get(joint, DERIVED) for joint in SMPL22.joints])


DETECTORS = (
    Layout("coco17", _COCO),
    Layout("halpe26", (*_COCO, "head", "neck", "hip", *(f"{s}_{p}" for p in _FEET for s in "lr"))),
    Layout(
        "body25",
        (
            *("nose", "neck", "r_shoulder", "r_elbow", "r_wrist", "l_shoulder", "l_elbow", "l_wrist", "mid_hip"),
            *("r_hip", "r_knee", "r_ankle", "l_hip", "l_knee", "l_ankle", "r_eye", "l_eye", "r_ear", "l_ear"),
            *(f"{s}_{p}" for s in "lr" for p in _FEET),
        ),
    ),
    Layout(
        "coco18",
        (
            *("nose", "neck", "r_shoulder", "r_elbow", "r_wrist", "l_shoulder", "l_elbow", "l_wrist", "r_hip"),
            *("r_knee", "r_ankle", "l_hip", "l_knee", "l_ankle", "r_eye", "l_eye", "r_ear", "l_ear"),
        ),
    ),
    Layout("wholebody23", (*_COCO, *(f"{s}_{p}" for s in "lr" for p in _FEET))),
    Layout(
        "blazepose33", (*_FACE, "l_ear", "r_ear", "l_mouth", "r_mouth", *(f"{s}_{p}" for p in _HANDS for s in "lr"))
    ),
)
"""wholebody23 is the body and the feet of COCO-WholeBody's 133 joints."""
LIFTERS = (
    Layout("smpl22", SMPL22.joints),
    Layout("smpl24", _SMPL24),
    Layout("smplx55", (*SMPL22.joints, "jaw", "l_eye", "r_eye", *_FINGERS)),
    Layout("h36m17", (*_LEGS, "spine", "thorax", "nose", "crown", *_ARMS)),
    Layout("h36m16", (*_LEGS, "spine", "thorax", "crown", *_ARMS)),
    DETECTORS[0],
    DETECTORS[-1],
    Layout("nba16", NBA16.joints),
)
"""H36M begins at the mid-hip, right leg first; h36m16 lacks the nose."""
LAYOUTS = {layout.name: layout for layout in (*LIFTERS, *DETECTORS)}
COCO17, HALPE26, BODY25, COCO18, WHOLEBODY23, BLAZEPOSE33 = DETECTORS
BY_COUNT = {17: COCO17, 18: COCO18, 25: BODY25, 26: HALPE26, 33: BLAZEPOSE33, 133: WHOLEBODY23, 136: HALPE26}
"""Layout by the number of joints of a person in a detector's file; of 133 and 136 the first ones are the body."""


def to_smpl22(values: Numbers, layout: Layout) -> Numbers:
    """Points of detected joints [..., K, C], in the image or in space, at SMPL's joints. -> [..., 22, C]"""
    return np.asarray(layout.matrix @ values)


def confidence22(score: Numbers, layout: Layout) -> Numbers:
    """Confidence of SMPL's joints: the least of the detected ones in the mixture, times its factor. -> [..., 22]"""
    least = np.where(layout.matrix != 0, score[..., None, :], np.inf).min(-1)
    return np.asarray(np.clip(least, 0.0, 1.0) * layout.trust)


def to_skeleton(positions: Tensor, layout: str, skeleton: Skeleton) -> Tensor:
    """Positions [..., K, 3] of a layout's joints at those of a skeleton, in any right-handed axes. -> [..., J, 3]"""
    if not can_map(layout, skeleton):
        raise ConfigError(
            f"skeleton of the lifter: expected one that {skeleton.name} can be told from, found {layout}. "
            "Choose another lifter, or convert its joints."
        )
    if LAYOUTS[layout].joints[: skeleton.num_joints] == skeleton.joints:
        return positions[..., : skeleton.num_joints, :]
    joints = _named(positions, LAYOUTS[layout])
    if skeleton == SMPL22:
        found = smpl22_of(joints)
    else:  # all of the NBA's joints are in H36M-17 under one name or another
        found = joints | {"pelvis": joints["hips"], "neck": joints["thorax"], "head": joints["crown"]}
    return torch.stack([found[name] for name in skeleton.joints], -2)


def can_map(layout: str, skeleton: Skeleton) -> bool:
    """Whether the joints of a skeleton can be told from those of a layout."""
    names = LAYOUTS[layout].joints
    if names[: skeleton.num_joints] == skeleton.joints:
        return True
    if skeleton == NBA16:
        return layout == "h36m17"
    return skeleton == SMPL22 and set(DIRECT) <= set(names) and ("crown" in names or "l_ear" in names)


def smpl22_of(joints: Joints) -> Joints:
    """SMPL's joints [..., 3] by name, from limbs and head."""
    hips, shoulders = _middle(joints, "hip"), _middle(joints, "shoulder")
    along = shoulders - hips
    found = {name: joints[name] for name in DIRECT}
    found |= {name: hips + share * along for name, share in TORSO.items()}
    if "l_ear" in joints:
        found["head"] = torch.lerp(shoulders, _middle(joints, "ear"), HEAD)
    elif "nose" in joints:
        found["head"] = torch.lerp(shoulders, (joints["nose"] + joints["crown"]) / 2, HEAD)
    else:
        found["head"] = torch.lerp(shoulders, joints["crown"], HEAD_TO_CROWN)
    for side in "lr":
        found[f"{side}_collar"] = torch.lerp(hips + COLLAR * along, joints[f"{side}_shoulder"], TOWARDS_SHOULDER)
        if f"{side}_toe" in joints:
            found[f"{side}_foot"] = torch.lerp(joints[f"{side}_toe"], joints[f"{side}_heel"], HEEL)
        elif along.shape[-1] == 3:
            found[f"{side}_foot"] = _foot(joints, side, along)
    return found


def _named(positions: Tensor, layout: Layout) -> Joints:
    """Joints [..., C] by name; the toe of a foot with two is in the middle of them."""
    joints = dict(zip(layout.joints, positions.unbind(-2), strict=True))
    if "l_big_toe" in joints:
        joints |= {f"{side}_toe": (joints[f"{side}_big_toe"] + joints[f"{side}_small_toe"]) / 2 for side in "lr"}
    return joints


def _middle(joints: Joints, part: str) -> Tensor:
    return (joints[f"l_{part}"] + joints[f"r_{part}"]) / 2


def _foot(joints: Joints, side: str, along: Tensor) -> Tensor:
    """The ball of a foot without toes; with x left, y up and z ahead, ahead is x cross y."""
    ankle = joints[f"{side}_ankle"]
    shank = ankle - joints[f"{side}_knee"]
    size = torch.linalg.vector_norm(shank, dim=-1, keepdim=True)
    down = shank / size.clamp_min(1e-9)
    ahead = torch.linalg.cross(joints["l_hip"] - joints["r_hip"], along, dim=-1)
    ahead = ahead - (ahead * down).sum(-1, keepdim=True) * down
    ahead = ahead / torch.linalg.vector_norm(ahead, dim=-1, keepdim=True).clamp_min(1e-9)
    return ankle + size * (FOOT_DOWN * down + FOOT_AHEAD * ahead)
