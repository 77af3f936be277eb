"""Guidance of a sampler by what a camera saw: clean predictions are drawn towards their keypoints' rays (METHOD 7).

A clip's features start at the origin, facing +z, so they cannot express a move of its first frame: that moves the
camera instead, in the observation that is returned with the features.
"""

import dataclasses

import torch
from torch import Tensor

from videomdm_ext.geometry.cameras import ray_directions, reexpress
from videomdm_ext.motion.features import FeatureSpace, channel_validity, decode, decode_root, encode
from videomdm_ext.motion.kinematics import smooth
from videomdm_ext.supervision.observation import Observation
from videomdm_ext.supervision.targets import headings_of, hold, on_rays

NEARBY = 3.0
"""Frames, the standard deviation of the weights by which frames nearby count in placing a body."""
LEAST = 1e-6
"""Weight of keypoints under which they place nothing."""


@torch.no_grad()
def guide(
    x: Tensor, observation: Observation, space: FeatureSpace, strength: float, *, nearest: float
) -> tuple[Tensor, Observation]:
    """Predictions [B, D, 1, T] with joints moved to their rays by the share `strength` times weight, and their cameras.

    The features change by what the move changes in those of the motion: nothing where nothing moves, however little
    the redundant channels of a prediction agree with its positions. Headings turn with the body.
    """
    skeleton, raw = space.skeleton, space.raw(x)
    positions = decode(raw, skeleton)
    headings, _ = decode_root(raw, skeleton)
    placed = positions + place(positions, observation).unsqueeze(-2)
    drawn = positions + strength * (on_rays(placed, observation, nearest) - positions)
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
    nearby. Depth follows from the size of the body.
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
    system = torch.cat(((weight.unsqueeze(-1) * flat).sum(2).flatten(-2), (weight * across).sum(2)), -1)
    normal, pull = smooth(hold(system, observation.valid), NEARBY).split((9, 3), -1)
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
