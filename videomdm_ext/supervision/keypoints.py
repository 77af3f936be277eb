"""What is wrong with a detector's keypoints by themselves: exchanged sides and outliers in time."""

from dataclasses import replace

import torch
from torch import Tensor

from videomdm_ext.motion.skeletons import Skeleton
from videomdm_ext.supervision.observation import Observation

ASTRAY = 0.012
"""Distance on the image plane, from where the frames around tell, beyond which a keypoint may be an outlier."""


def exchanged(observation: Observation, skeleton: Skeleton) -> tuple[Observation, Tensor]:
    """Left and right of a frame exchanged where they then are much nearer to the frames around; and where, [B, T]."""
    sides = list(skeleton.mirror)
    keypoints, weight = observation.keypoints, observation.weight
    usual, _, known = _around(keypoints, weight)
    both = known & known[..., sides] & (weight > 0) & (weight[..., sides] > 0)
    turned = _apart(keypoints[..., sides, :], usual, both) + ASTRAY < 0.5 * _apart(keypoints, usual, both)
    keypoints = torch.where(turned[..., None, None], keypoints[..., sides, :], keypoints)
    weight = torch.where(turned[..., None], weight[..., sides], weight)
    return replace(observation, keypoints=keypoints, weight=weight), turned


def without_outliers(observation: Observation) -> Observation:
    """Keypoints further from where the frames around put them than ASTRAY, and than these differ, count as unseen."""
    usual, spread, known = _around(observation.keypoints, observation.weight)
    off = torch.linalg.vector_norm(observation.keypoints - usual, dim=-1)
    astray = known & (off > spread.clamp_min(ASTRAY))
    return replace(observation, weight=observation.weight.masked_fill(astray, 0.0))


def _around(keypoints: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where the frames around put a keypoint, [B, T, J, 2], by how much they differ, [B, T, J], whether they suffice.

    The median of the middles of three frames before and after and of the lines through two on either side: what moves
    evenly is where they put it, and one or two outliers among them do not move it.
    """
    held = torch.where(weight.unsqueeze(-1) > 0, keypoints, torch.nan)
    near = torch.nn.functional.pad(held, (0, 0, 0, 0, 3, 3), value=torch.nan).unfold(1, 7, 1)
    middles = (near[..., :3] + near[..., 4:].flip(-1)) / 2.0
    lines = 2.0 * near[..., [2, 4]] - near[..., [1, 5]]
    told = torch.cat((middles, lines), -1)
    usual = told.nanmedian(-1, keepdim=True).values
    spread = torch.linalg.vector_norm(told - usual, dim=-2).nanmedian(-1).values
    return usual[..., 0].nan_to_num(), spread.nan_to_num(), torch.isfinite(told[..., 0, :]).sum(-1) > 2


def _apart(points: Tensor, others: Tensor, where: Tensor) -> Tensor:
    return (torch.linalg.vector_norm(points - others, dim=-1) * where).sum(-1)
