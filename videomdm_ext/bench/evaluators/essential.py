"""The evaluator `essential`: the channels of each frame that a motion is decoded from, with no training and no text.

Root yaw velocity, root velocity, height and root-relative positions (67 channels for 22 joints), each kind divided by
its standard deviation over the true training motions.
"""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from videomdm_ext.bench.evaluators.base import Evaluator, Ground, training_truth
from videomdm_ext.hookspecs import Register, hookimpl
from videomdm_ext.motion.features import encode, mean_and_std, redundant
from videomdm_ext.motion.skeletons import Skeleton, by_name

NAME = "essential"
VERSION = 1
"""To be raised with every change that changes numbers."""
MOST_READ = 2048
"""Training clips whose frames give the scale, at most; the ones with the lowest hashes of their ids."""


class Essential(Evaluator):
    """A row a frame, [N, 3 J + 1]; the last frame of a clip, which has no next one, has none."""

    name = NAME
    per_clip = False
    comparable = "Only numbers of the same true training motions (see the hash)."

    def __init__(self, skeleton: Skeleton, std: Tensor) -> None:
        self.skeleton, self.std = skeleton, std

    @cached_property
    def _identity(self) -> str:
        content = hashlib.sha256(f"{NAME}\0{VERSION}\0{self.skeleton.name}\0".encode())
        content.update(self.std.numpy().tobytes())
        return content.hexdigest()

    @property
    def identity(self) -> str:
        return self._identity

    @property
    def facts(self) -> Mapping[str, float | str]:
        return {"channels of a frame": float(len(self.std)), "features": "fixed, nothing is trained"}

    def motions(self, clips: Sequence[Tensor], fps: float) -> Tensor:
        return torch.cat([channels_of(clip.double(), self.skeleton) for clip in clips]) / self.std


def channels_of(positions: Tensor, skeleton: Skeleton) -> Tensor:
    """The essential channels of all frames but the last, by each frame's heading. [T, J, 3] -> [T - 1, 3 J + 1]"""
    return encode(positions, skeleton)[:-1, : redundant(skeleton).start]


def make(ground: Ground) -> Evaluator:
    """With the scale of the true training motions."""
    skeleton = by_name(ground.card.skeleton)
    true = [encode(motion.positions, skeleton)[:-1] for motion in training_truth(ground, MOST_READ, NAME)]
    return Essential(skeleton, mean_and_std(true, skeleton)[1][: redundant(skeleton).start])


@hookimpl
def register_evaluators(register: Register) -> None:
    register(NAME, make)
