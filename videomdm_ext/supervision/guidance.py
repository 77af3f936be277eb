"""Guidance of a sampler by what a camera saw: clean predictions are drawn towards their keypoints' rays (METHOD 7).

A clip's features start at the origin, facing +z, so a move of its first frame cannot be told in them: it moves the
camera instead, in the observation that comes back beside the features.
"""

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from videomdm_ext.errors import ConfigError
from videomdm_ext.geometry.cameras import reexpress
from videomdm_ext.geometry.rays import ray_directions
from videomdm_ext.motion.features import FeatureSpace, channel_validity, decode, decode_root, encode
from videomdm_ext.motion.kinematics import smooth
from videomdm_ext.supervision.observation import Observation
from videomdm_ext.supervision.targets import headings_of, hold, on_rays

MODES = ("soft", "hard")
SCHEDULES = ("constant", "late", "early")
NEARBY = 3.0
"""Frames, the standard deviation of the weights by which frames nearby tell where a body is."""
LEAST = 1e-6
"""Keypoints' weight under which they do not tell it."""


@dataclass(frozen=True)
class Guidance:
    """How strongly predictions are drawn, and when. Strengths are fractions of the way to the ray.

    soft: the fraction `strength` g(confidence); hard, the parity option: all of the way for every keypoint with a
    confidence above 0.4. `late` grows as the noise falls, `early` falls with it. `nearest` is the least depth, m.
    """

    mode: str = "soft"
    strength: float = 1.0
    schedule: str = "constant"
    nearest: float = 0.5

    def __post_init__(self) -> None:
        for name, found, known in (("mode", self.mode, MODES), ("schedule", self.schedule, SCHEDULES)):
            if found not in known:
                raise ConfigError(f"--guidance-{name}: expected one of {', '.join(known)}, found {found!r}.")
        if not 0 <= self.strength <= 1:
            raise ConfigError(f"--guidance-strength: expected a fraction from 0 to 1, found {self.strength:g}.")
        if self.mode == "hard" and (self.strength != 1 or self.schedule != "constant"):
            raise ConfigError("--guidance-mode hard: expected no strength and no schedule. Leave them out.")

    @property
    def rule(self) -> str:
        """Of a keypoint's weight, for `Observation.of`."""
        return "above0.4" if self.mode == "hard" else "square"

    def at(self, noise: Tensor) -> Tensor:
        """Strengths at shares of the schedule [...], 0 for the last step and 1 for pure noise."""
        shape = {"constant": torch.ones_like(noise), "late": 1 - noise, "early": noise}
        return self.strength * shape[self.schedule]


@torch.no_grad()
def guide(
    x: Tensor, observation: Observation, space: FeatureSpace, strength: Tensor, *, nearest: float
) -> tuple[Tensor, Observation]:
    """Predictions [B, D, 1, T] with every joint moved by `strength` [B] times its weight to its ray, and their cameras.

    The features change by what the move changes in those of the motion: nothing where nothing moves, however little
    the redundant channels of a prediction agree with its positions. Headings turn with the body.
    """
    skeleton, raw = space.skeleton, space.raw(x)
    positions = decode(raw, skeleton)
    headings, _ = decode_root(raw, skeleton)
    placed = positions + place(positions, observation).unsqueeze(-2)
    drawn = positions + strength.view(-1, 1, 1, 1) * (on_rays(placed, observation, nearest) - positions)
    turned = headings_of(drawn, positions, headings, observation.valid, skeleton, space.rule)
    start = observation.initial_heading
    change = encode(drawn, skeleton, turned, initial_heading=start) - encode(
        positions, skeleton, headings, initial_heading=start
    )
    change = torch.where(channel_validity(observation.valid, skeleton), change, 0.0) / space.std
    return x + change.transpose(1, 2).unsqueeze(2), moved(observation, turned[:, 0], drawn[:, 0, 0])


def place(positions: Tensor, observation: Observation) -> Tensor:
    """The move [B, T, 3] of the whole body of [B, T, J, 3] that brings its joints nearest to their rays, m.

    With P across a joint's ray it is the least squares solution of P (X + move) = 0 over all joints of the frames
    nearby. The size of the body tells its depth.
    """
    rotation, origin = observation.extrinsics[..., :3], observation.extrinsics[..., 3]
    rays = ray_directions(observation.keypoints) @ rotation
    rays = rays / torch.linalg.vector_norm(rays, dim=-1, keepdim=True)
    centre = -(origin.unsqueeze(-2) @ rotation)
    offset = positions - centre
    across = offset - (offset * rays).sum(-1, keepdim=True) * rays
    eye = torch.eye(3, dtype=positions.dtype, device=positions.device)
    flat = eye - rays.unsqueeze(-1) * rays.unsqueeze(-2)
    weight = observation.weight.unsqueeze(-1)
    told = torch.cat(((weight.unsqueeze(-1) * flat).sum(2).flatten(-2), (weight * across).sum(2)), -1)
    normal, pull = smooth(hold(told, observation.valid), NEARBY).split((9, 3), -1)
    normal = normal.unflatten(-1, (3, 3))
    return -torch.linalg.solve(normal + LEAST * eye, pull.unsqueeze(-1)).squeeze(-1)


def moved(observation: Observation, heading: Tensor, root: Tensor) -> Observation:
    """What was seen of clips whose first frame has turned to `heading` [B], radians, and gone to `root` [B, 3], m."""
    shape = observation.extrinsics.shape[:2]
    origin = root * root.new_tensor((1.0, 0.0, 1.0))
    extrinsics = reexpress(
        observation.extrinsics, heading.unsqueeze(1).expand(shape), origin.unsqueeze(1).expand(*shape, 3)
    )
    start = observation.initial_heading + heading
    return dataclasses.replace(observation, extrinsics=extrinsics, initial_heading=start)
