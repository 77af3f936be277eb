"""From the joints of lifters to those of ours, in space. Works in any right-handed axes, at any scale.

SMPL's bodies begin with our 22 joints. H36M-17, COCO-17 and BlazePose-33 have hips, knees, ankles, shoulders, elbows
and wrists (12 joints, direct). The others are derived on H = mid-hip, S = mid-shoulder, u = S - H, by fractions
measured on motion capture: the spine on u, collars from H + 0.936 u 40 % towards each shoulder, the head 80 % of the
way from S to the middle of the ears (of nose and crown, which lies about there, where there are no ears; 53 % of the
way to the crown alone). Toes are 30 % from the toe towards the heel; without toes they lie from the ankle along the
shank and ahead, by the shares of its length that the bundled motions have on average, 6 cm off.
"""

import torch
from torch import Tensor

from videomdm_ext.errors import ConfigError
from videomdm_ext.motion.skeletons import NBA16, SMPL22, Skeleton

_SMPL24 = (*SMPL22.joints, "l_hand", "r_hand")
_FINGERS = tuple(f"{s}_{f}{n}" for s in "lr" for f in ("index", "middle", "pinky", "ring", "thumb") for n in (1, 2, 3))
_ARMS = ("l_shoulder", "l_elbow", "l_wrist", "r_shoulder", "r_elbow", "r_wrist")
_LEGS = ("hips", "r_hip", "r_knee", "r_ankle", "l_hip", "l_knee", "l_ankle")
_PAIRS = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
_COCO = ("nose", *(f"{side}_{part}" for part in ("eye", "ear", *_PAIRS) for side in "lr"))
_FACE = ("nose", *(f"{s}_eye{part}" for s in "lr" for part in ("_inner", "", "_outer")))
_HANDS = ("shoulder", "elbow", "wrist", "pinky", "index", "thumb", "hip", "knee", "ankle", "heel", "toe")
LAYOUTS: dict[str, tuple[str, ...]] = {
    "smpl22": SMPL22.joints,
    "smpl24": _SMPL24,
    "smplx55": (*SMPL22.joints, "jaw", "l_eye", "r_eye", *_FINGERS),
    "h36m17": (*_LEGS, "spine", "thorax", "nose", "crown", *_ARMS),
    "h36m16": (*_LEGS, "spine", "thorax", "crown", *_ARMS),
    "coco17": _COCO,
    "blazepose33": (*_FACE, "l_ear", "r_ear", "l_mouth", "r_mouth", *(f"{s}_{p}" for p in _HANDS for s in "lr")),
    "nba16": NBA16.joints,
}
"""Joints of each in the order of files. H36M begins at the mid-hip, right leg first; h36m16 lacks the nose."""
DIRECT = tuple(f"{side}_{part}" for part in _PAIRS for side in "lr")
TORSO = {"pelvis": 0.201, "spine1": 0.433, "spine2": 0.663, "spine3": 0.767, "neck": 1.074}
"""Shares of u above H."""
COLLAR, TOWARDS_SHOULDER = 0.936, 0.4
HEAD, HEAD_TO_CROWN = 0.8, 0.53
HEEL = 0.3
FOOT_DOWN, FOOT_AHEAD = 0.066, 0.251
"""From the ankle to the foot's joint as shares of the shank: along it, and ahead at right angles to it; measured on the
bundled motions (median of each, mean of all)."""

Joints = dict[str, Tensor]


def to_skeleton(positions: Tensor, layout: str, skeleton: Skeleton) -> Tensor:
    """Positions [..., K, 3] of a layout's joints at those of a skeleton. -> [..., J, 3]"""
    names = LAYOUTS[layout]
    if names[: skeleton.num_joints] == skeleton.joints:
        return positions[..., : skeleton.num_joints, :]
    joints = dict(zip(names, positions.unbind(-2), strict=True))
    if not can_map(layout, skeleton):
        raise ConfigError(
            f"skeleton of the lifter: expected one that {skeleton.name} can be told from, found {layout}. "
            "Choose another lifter, or convert its joints."
        )
    found = smpl22_of(joints) if skeleton == SMPL22 else nba16_of(joints)
    return torch.stack([found[name] for name in skeleton.joints], -2)


def can_map(layout: str, skeleton: Skeleton) -> bool:
    """Whether the joints of a skeleton can be told from those of a layout."""
    names = LAYOUTS[layout]
    if names[: skeleton.num_joints] == skeleton.joints:
        return True
    if skeleton == NBA16:
        return layout == "h36m17"
    return skeleton == SMPL22 and set(DIRECT) <= set(names) and ("crown" in names or "l_ear" in names)


def smpl22_of(joints: Joints) -> Joints:
    """SMPL's joints by name, from limbs and head."""
    hips, shoulders = _middle(joints, "hip"), _middle(joints, "shoulder")
    along = shoulders - hips
    found = {name: joints[name] for name in DIRECT}
    found |= {name: hips + share * along for name, share in TORSO.items()}
    found["head"] = _head(joints, shoulders)
    for side in "lr":
        start = hips + COLLAR * along
        found[f"{side}_collar"] = torch.lerp(start, joints[f"{side}_shoulder"], TOWARDS_SHOULDER)
        found[f"{side}_foot"] = _foot(joints, side, along)
    return found


def nba16_of(joints: Joints) -> Joints:
    """The joints of the NBA's skeleton by name, from H36M-17: all of them are there under one name or another."""
    return joints | {"pelvis": joints["hips"], "neck": joints["thorax"], "head": joints["crown"]}


def _middle(joints: Joints, part: str) -> Tensor:
    return (joints[f"l_{part}"] + joints[f"r_{part}"]) / 2


def _head(joints: Joints, shoulders: Tensor) -> Tensor:
    if "l_ear" in joints:
        return torch.lerp(shoulders, _middle(joints, "ear"), HEAD)
    if "nose" in joints:
        return torch.lerp(shoulders, (joints["nose"] + joints["crown"]) / 2, HEAD)
    return torch.lerp(shoulders, joints["crown"], HEAD_TO_CROWN)


def _foot(joints: Joints, side: str, along: Tensor) -> Tensor:
    """The ball of a foot; with x left, y up and z ahead, ahead is x cross y."""
    if f"{side}_toe" in joints:
        return torch.lerp(joints[f"{side}_toe"], joints[f"{side}_heel"], HEEL)
    ankle = joints[f"{side}_ankle"]
    shank = ankle - joints[f"{side}_knee"]
    size = torch.linalg.vector_norm(shank, dim=-1, keepdim=True)
    down = shank / size.clamp_min(1e-9)
    ahead = torch.linalg.cross(joints["l_hip"] - joints["r_hip"], along, dim=-1)
    ahead = ahead - (ahead * down).sum(-1, keepdim=True) * down
    ahead = ahead / torch.linalg.vector_norm(ahead, dim=-1, keepdim=True).clamp_min(1e-9)
    return ankle + size * (FOOT_DOWN * down + FOOT_AHEAD * ahead)
