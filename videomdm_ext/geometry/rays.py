"""Rays through keypoints, in camera coordinates: direction d = (u, v, 1)."""

import torch
from torch import Tensor


def ray_directions(keypoints: Tensor) -> Tensor:
    """d = (u, v, 1) of normalised keypoints [..., 2]. -> [..., 3]; a multiple of d has that multiple as its depth."""
    return torch.cat((keypoints, torch.ones_like(keypoints[..., :1])), -1)


def closest_on_ray(points: Tensor, keypoints: Tensor, nearest: float) -> Tensor:
    """Point of each keypoint's ray closest to the camera points [..., 3], no nearer than `nearest` metres.

    X* = d (X . d) / (d . d) (METHOD 4, step 1). Keypoints [..., 2] -> [..., 3].
    """
    directions = ray_directions(keypoints)
    depth = (points * directions).sum(-1, keepdim=True) / directions.square().sum(-1, keepdim=True)
    return directions * depth.clamp_min(nearest)
