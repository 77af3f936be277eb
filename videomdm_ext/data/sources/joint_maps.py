"""From the joints that detectors find to the 22 joints of SMPL, in the image as in space, with a confidence each.

Every joint of SMPL is a fixed mixture of detected ones (shares add up to 1), so that one matrix serves 2D and 3D. Those
that no detector finds lie on the torso: with H the middle of the hips, S that of the shoulders and u = S - H, the
fractions below were measured on motion capture. Derived joints get a low confidence; feet a medium one, for a toe is
not the ball of the foot. What the detector has not at all (COCO's 17 joints have no toes) gets confidence 0.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from videomdm_ext.errors import ConfigError
from videomdm_ext.motion.skeletons import SMPL22

Numbers = NDArray[np.float64]

DERIVED, TOES = 0.3, 0.7
"""Factors on the confidence of joints on the torso, and of feet."""
TORSO = {"pelvis": 0.201, "spine1": 0.433, "spine2": 0.663, "spine3": 0.767, "neck": 1.074}
"""Share of u above H."""
COLLAR_HEIGHT, COLLAR_WIDTH = 0.936, 0.4
"""Collars start at this share of u and go this far towards the shoulder."""
HEAD = 0.8
"""Of the way from S to the middle of the ears."""
HEEL = 0.3
"""Of the way from the toes to the heel."""
DIRECT = ("hip", "knee", "ankle", "shoulder", "elbow", "wrist")
"""Joints that detectors find themselves."""

_SIDED = ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")
_COCO = ("nose", *(f"{side}_{part}" for part in _SIDED for side in ("l", "r")))


@dataclass(frozen=True)
class Layout:
    """The joints of a detector, in the order of its files. `toes` and `heels` name the joints of one side's foot."""

    name: str
    joints: tuple[str, ...]
    toes: tuple[str, ...] = ()
    heel: str = ""

    def index(self, joint: str) -> int:
        return self.joints.index(joint)

    @cached_property
    def matrix(self) -> Numbers:
        """Shares [22, K] of the detected joints in each of SMPL's."""
        rows = [_shares(self, joint) for joint in SMPL22.joints]
        matrix = np.zeros((len(rows), len(self.joints)))
        for row, shares in enumerate(rows):
            for joint, share in shares.items():
                matrix[row, self.index(joint)] += share
        return matrix

    @cached_property
    def trust(self) -> Numbers:
        """Factor [22] on the confidence of each of SMPL's joints; 0 where the detector has nothing to tell it by."""
        return np.array([_trust(self, joint) for joint in SMPL22.joints])


COCO17 = Layout("coco17", _COCO)
HALPE26 = Layout(
    "halpe26",
    (*_COCO, "head", "neck", "hip", *(f"{s}_{p}" for p in ("big_toe", "small_toe", "heel") for s in ("l", "r"))),
    toes=("big_toe", "small_toe"),
    heel="heel",
)
BODY25 = Layout(
    "body25",
    (
        *("nose", "neck", "r_shoulder", "r_elbow", "r_wrist", "l_shoulder", "l_elbow", "l_wrist", "mid_hip"),
        *("r_hip", "r_knee", "r_ankle", "l_hip", "l_knee", "l_ankle", "r_eye", "l_eye", "r_ear", "l_ear"),
        *("l_big_toe", "l_small_toe", "l_heel", "r_big_toe", "r_small_toe", "r_heel"),
    ),
    toes=("big_toe", "small_toe"),
    heel="heel",
)
WHOLEBODY23 = Layout(
    "wholebody23",
    (*_COCO, *(f"{s}_{p}" for s in ("l", "r") for p in ("big_toe", "small_toe", "heel"))),
    toes=("big_toe", "small_toe"),
    heel="heel",
)
_FACE = ("nose", *(f"{s}_eye{part}" for s in ("l", "r") for part in ("_inner", "", "_outer")))
_HAND = ("pinky", "index", "thumb")
BLAZEPOSE33 = Layout(
    "blazepose33",
    (
        *_FACE,
        *("l_ear", "r_ear", "l_mouth", "r_mouth"),
        *(f"{s}_{p}" for p in ("shoulder", "elbow", "wrist", *_HAND, "hip", "knee", "ankle") for s in ("l", "r")),
        *(f"{s}_{p}" for p in ("heel", "toe") for s in ("l", "r")),
    ),
    toes=("toe",),
    heel="heel",
)
LAYOUTS = {layout.name: layout for layout in (COCO17, HALPE26, BODY25, WHOLEBODY23, BLAZEPOSE33)}
"""wholebody23 is the body and the feet of COCO-WholeBody's 133 joints."""
BY_COUNT = {17: COCO17, 25: BODY25, 26: HALPE26, 33: BLAZEPOSE33, 133: WHOLEBODY23, 136: HALPE26}
"""Layout by the number of joints of a person in a file; of 133 and 136 the first ones are the body."""


def layout_named(name: str, place: str) -> Layout:
    """A layout by its name; ConfigError lists the known ones."""
    if name not in LAYOUTS:
        raise ConfigError(f"{place}: expected joints as one of {', '.join(LAYOUTS)}, found {name!r}. Correct it.")
    return LAYOUTS[name]


def to_smpl22(values: Numbers, layout: Layout) -> Numbers:
    """Points of detected joints [..., K, C], in the image or in space, at SMPL's joints. -> [..., 22, C]

    A joint that cannot be told is put where the nearest detected one is.
    """
    return np.asarray(layout.matrix @ values)


def confidence22(score: Numbers, layout: Layout) -> Numbers:
    """Confidence of SMPL's joints: the least of the detected ones in the mixture, times its factor. -> [..., 22]"""
    used = layout.matrix != 0
    least = np.where(used, score[..., None, :], np.inf).min(-1)
    return np.asarray(np.clip(least, 0.0, 1.0) * layout.trust)


def _shares(layout: Layout, joint: str) -> dict[str, float]:
    """Shares of detected joints in one of SMPL's."""
    side, part = joint[:2], joint[2:]
    if joint in TORSO:
        return _on_torso(TORSO[joint])
    if joint == "head":
        return _mixed((1 - HEAD, _on_torso(1.0)), (HEAD, {"l_ear": 0.5, "r_ear": 0.5}))
    if part == "collar":
        return _mixed((1 - COLLAR_WIDTH, _on_torso(COLLAR_HEIGHT)), (COLLAR_WIDTH, {f"{side}shoulder": 1.0}))
    if part == "foot":
        if not layout.toes:
            return {f"{side}ankle": 1.0}
        toes = {f"{side}{toe}": 1 / len(layout.toes) for toe in layout.toes}
        return _mixed((1 - HEEL, toes), (HEEL, {f"{side}{layout.heel}": 1.0}))
    return {joint: 1.0}


def _on_torso(height: float) -> dict[str, float]:
    """H + height * (S - H)."""
    hips = dict.fromkeys(("l_hip", "r_hip"), (1 - height) / 2)
    return hips | dict.fromkeys(("l_shoulder", "r_shoulder"), height / 2)


def _mixed(*parts: tuple[float, Mapping[str, float]]) -> dict[str, float]:
    shares: dict[str, float] = {}
    for weight, part in parts:
        for joint, share in part.items():
            shares[joint] = shares.get(joint, 0.0) + weight * share
    return shares


def _trust(layout: Layout, joint: str) -> float:
    if joint[2:] in DIRECT:
        return 1.0
    if joint[2:] == "foot":
        return TOES if layout.toes else 0.0
    return DERIVED
