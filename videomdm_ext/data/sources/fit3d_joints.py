"""The 25 joints of Fit3D as 22 SMPL joints.

Order: 0 pelvis, 1 to 3 a leg, 4 to 6 the other, 7 spine, 8 neck, 9 chin, 10 crown, 11 to 13 an arm, 14 to 16 the other,
17 and 18 the foot at 3, 19 and 20 that at 6, 21 to 24 the hands. Hips, knees, ankles, shoulders, elbows and wrists are
direct. Toes lie 30 % from the farther point of a foot towards the ankle. The rest is derived with H = mid-hip,
S = mid-shoulder and u = S - H, by fractions measured on real motion (`SPINE`); the head from the middle of chin and
crown, about where the ears are.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from videomdm_ext.errors import DatasetError
from videomdm_ext.motion.skeletons import SMPL22

SPINE = {"pelvis": 0.201, "spine1": 0.433, "spine2": 0.663, "spine3": 0.767, "neck": 1.074}
"""Shares of u above the middle of the hips."""
COLLAR, TOWARDS_SHOULDER = 0.936, 0.4
"""Collars start at this share of u, and lie this share of the way to the shoulder."""
HEAD = 0.8
"""Share of the way from the middle of the shoulders to that of the ears."""
TOES = 0.7
"""Share of the way from the ankle to the tip of the foot."""


@dataclass(frozen=True)
class Sides:
    """First joints of the left and right leg and arm, and the two points of each foot."""

    left_leg: int = 4
    right_leg: int = 1
    left_arm: int = 11
    right_arm: int = 14

    @property
    def feet(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Points of the left and of the right foot."""
        points = {1: (17, 18), 4: (19, 20)}
        return points[self.left_leg], points[self.right_leg]


def smpl22_of(joints: Tensor, place: str) -> Tensor:
    """SMPL joints [T, 22, 3] of Fit3D's [T, 25, 3], in the same world."""
    sides = sides_of(joints, place)
    hips = (joints[:, sides.left_leg] + joints[:, sides.right_leg]) / 2
    shoulders = (joints[:, sides.left_arm] + joints[:, sides.right_arm]) / 2
    found = {name: hips + share * (shoulders - hips) for name, share in SPINE.items()}
    found["head"] = shoulders + HEAD * ((joints[:, 9] + joints[:, 10]) / 2 - shoulders)
    base = hips + COLLAR * (shoulders - hips)
    for side, leg, arm, foot in zip(
        "lr", (sides.left_leg, sides.right_leg), (sides.left_arm, sides.right_arm), sides.feet, strict=True
    ):
        found |= {f"{side}_{name}": joints[:, leg + i] for i, name in enumerate(("hip", "knee", "ankle"))}
        found |= {f"{side}_{name}": joints[:, arm + i] for i, name in enumerate(("shoulder", "elbow", "wrist"))}
        found[f"{side}_foot"] = joints[:, leg + 2] + TOES * _tip(joints, leg + 2, foot)
        found[f"{side}_collar"] = base + TOWARDS_SHOULDER * (joints[:, arm] - base)
    return torch.stack([found[joint] for joint in SMPL22.joints], 1)


def _tip(joints: Tensor, ankle: int, foot: tuple[int, int]) -> Tensor:
    """Vector [T, 3] from an ankle to the farther of a foot's two points, by its mean distance."""
    reach = joints[:, list(foot)] - joints[:, ankle : ankle + 1]
    farther = torch.linalg.vector_norm(reach, dim=-1).mean(0).argmax()
    return reach[:, farther]


def sides_of(joints: Tensor, place: str) -> Sides:
    """Which leg and arm are the left ones, from what the body tells: toes point ahead, and shoulders go with hips.

    With up along the back, ahead is up x (right - left). DatasetError where the toes point neither way.
    """
    usual = Sides()
    up = _unit(joints[:, 8] - joints[:, 0])
    across = joints[:, usual.right_leg] - joints[:, usual.left_leg]
    ahead = _unit(torch.linalg.cross(up, across, dim=-1))
    toes = sum(_unit(_tip(joints, ankle, foot)) for ankle, foot in ((3, (17, 18)), (6, (19, 20))))
    vote = float((toes * ahead).sum(-1).mean())
    if not abs(vote) > 0.2:
        raise DatasetError(
            f"{place}: expected toes that point ahead of hips and back, found a mean of {vote:.2f} of 2. "
            "Is it the order of joints3d_25?"
        )
    legs = (usual.left_leg, usual.right_leg) if vote > 0 else (usual.right_leg, usual.left_leg)
    width = joints[:, usual.right_arm] - joints[:, usual.left_arm]
    agree = float((_unit(width) * _unit(joints[:, legs[1]] - joints[:, legs[0]])).sum(-1).mean()) > 0
    arms = (usual.left_arm, usual.right_arm) if agree else (usual.right_arm, usual.left_arm)
    return Sides(*legs, *arms)


def _unit(vectors: Tensor) -> Tensor:
    return vectors / torch.linalg.vector_norm(vectors, dim=-1, keepdim=True).clamp_min(1e-9)
