"""Motions moved onto their keypoints' rays: the target of the term `alignment` (METHOD 4), and guidance of a sampler,
whose clean predictions are drawn towards the rays (METHOD 7)."""

import dataclasses

import torch
from torch import Tensor

from videomdm_ext.geometry.cameras import closest_on_ray, ray_directions, reexpress, to_camera, to_world
from videomdm_ext.motion.features import FeatureSpace, channel_validity, decode, decode_with_headings, encode
from videomdm_ext.motion.kinematics import HeadingRule, heading, smooth, wrap_angle
from videomdm_ext.motion.skeletons import Skeleton
from videomdm_ext.supervision.observation import Observation

NEARBY = 3.0
"""Frames, the standard deviation of the weights by which frames nearby count in placing a body."""
LEAST = 1e-6
"""Weight of keypoints under which they place nothing."""


def on_rays(positions: Tensor, observation: Observation, nearest: float) -> Tensor:
    """X*: every joint moved by the fraction `weight` to the closest point of its keypoint's ray. [B, T, J, 3], m.

    Never nearer to the camera than `nearest`; a joint without a confident keypoint stays where it is.
    """
    camera = to_camera(positions, observation.extrinsics)
    ray = closest_on_ray(camera, observation.keypoints, nearest)
    moved = to_world(ray, observation.extrinsics) - positions
    return positions + observation.weight.unsqueeze(-1) * moved


def headings_of(
    moved: Tensor, source: Tensor, headings: Tensor, valid: Tensor, skeleton: Skeleton, rule: HeadingRule
) -> Tensor:
    """Headings [B, T] of moved positions: the source's own, turned by what the body turned from source to moved.

    Equal positions keep the source's headings exactly, however they were made (smoothed ones too); the turn is
    smoothed where the set's headings are, as a direction, and padding takes no part in it.
    """
    unsmoothed = HeadingRule(0.0, rule.hips)
    change = wrap_angle(heading(moved, skeleton, unsmoothed) - heading(source, skeleton, unsmoothed))
    if rule.sigma > 0:
        direction = smooth(hold(torch.stack((torch.sin(change), torch.cos(change)), -1), valid), rule.sigma)
        change = torch.atan2(direction[..., 0], direction[..., 1])
    return headings + change


def hold(values: Tensor, valid: Tensor) -> Tensor:
    """Each frame of [B, T, C], or the last valid one before it: a clip then smooths as if it had no padding."""
    frames = torch.arange(valid.shape[1], device=valid.device)
    last = torch.where(valid, frames, 0).cummax(1).values
    return values.gather(1, last.unsqueeze(-1).expand_as(values))


@torch.no_grad()
def ray_target(raw: Tensor, teacher: Tensor, observation: Observation, space: FeatureSpace, nearest: float) -> Tensor:
    """y*: z-scored features [B, D, 1, T] of a prediction moved onto its rays. No gradient.

    `raw` and `teacher` are raw features [B, T, D]. Headings are those of the teacher moved onto its rays, however they
    were made (smoothed ones too), and start at zero as decoded ones do. Those of the prediction would be their own
    target: the same positions can be encoded with any headings, and headings read off the moved body would turn as the
    prediction turns it. A prediction that equals the teacher and lies on its rays is its own target.
    """
    skeleton = space.skeleton
    headings, source = decode_with_headings(teacher, skeleton)
    taught = on_rays(source, observation, nearest)
    headings = headings_of(taught, source, headings, observation.valid, skeleton, space.rule)
    headings = headings - headings[:, :1]
    moved = on_rays(decode(raw, skeleton), observation, nearest)
    return space.features(encode(moved, skeleton, headings, initial_heading=observation.initial_heading))


# -- guidance of a sampler ---------------------------------------------------------------------------------------------


@torch.no_grad()
def guide(
    x: Tensor, observation: Observation, space: FeatureSpace, strength: float, *, nearest: float
) -> tuple[Tensor, Observation]:
    """Predictions [B, D, 1, T] with joints moved to their rays by the share `strength` times weight, and their cameras.

    The features change by what the move changes in those of the motion: nothing where nothing moves, however little
    the redundant channels of a prediction agree with its positions. Headings turn with the body. Features start at the
    origin, facing +z, so they cannot express a move of the first frame: that moves the camera instead.
    """
    skeleton, raw = space.skeleton, space.raw(x)
    headings, positions = decode_with_headings(raw, skeleton)
    placed = positions + place(positions, observation).unsqueeze(-2)
    drawn = positions + strength * (on_rays(placed, observation, nearest) - positions)
    turned = headings_of(drawn, positions, headings, observation.valid, skeleton, space.rule)
    start = observation.initial_heading
    before = encode(positions, skeleton, headings, initial_heading=start)
    change = encode(drawn, skeleton, turned, initial_heading=start) - before
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
