"""Targets in feature space: a motion moved onto its keypoints' rays, as a feature vector (METHOD 4)."""

import torch
from torch import Tensor

from videomdm_ext.geometry.cameras import closest_on_ray, to_camera, to_world
from videomdm_ext.motion.features import FeatureSpace, decode, decode_root, encode
from videomdm_ext.motion.kinematics import HeadingRule, heading, smooth, wrap_angle
from videomdm_ext.motion.skeletons import Skeleton
from videomdm_ext.supervision.observation import Observation


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
    headings, _ = decode_root(teacher, skeleton)
    source = decode(teacher, skeleton)
    on_its = on_rays(source, observation, nearest)
    headings = headings_of(on_its, source, headings, observation.valid, skeleton, space.rule)
    headings = headings - headings[:, :1]
    moved = on_rays(decode(raw, skeleton), observation, nearest)
    return space.features(encode(moved, skeleton, headings, initial_heading=observation.initial_heading))
