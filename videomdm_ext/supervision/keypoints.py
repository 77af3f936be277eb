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
    told, count = _around(keypoints, weight)
    usual = _median(told, count.unsqueeze(-1)).nan_to_num()
    known = count > 2
    both = known & known[..., sides] & (weight > 0) & (weight[..., sides] > 0)
    turned = _apart(keypoints[..., sides, :], usual, both) + ASTRAY < 0.5 * _apart(keypoints, usual, both)
    keypoints = torch.where(turned[..., None, None], keypoints[..., sides, :], keypoints)
    weight = torch.where(turned[..., None], weight[..., sides], weight)
    return replace(observation, keypoints=keypoints, weight=weight), turned


def without_outliers(observation: Observation) -> Observation:
    """Keypoints further from where the frames around put them than ASTRAY, and than these differ, count as unseen."""
    told, count = _around(observation.keypoints, observation.weight)
    usual = _median(told, count.unsqueeze(-1))
    spread = _median([torch.linalg.vector_norm(one - usual, dim=-1) for one in told], count)
    off = torch.linalg.vector_norm(observation.keypoints - usual.nan_to_num(), dim=-1)
    astray = (count > 2) & (off > spread.nan_to_num().clamp_min(ASTRAY))
    return replace(observation, weight=observation.weight.masked_fill(astray, 0.0))


def _around(keypoints: Tensor, weight: Tensor) -> tuple[list[Tensor], Tensor]:
    """Five places [B, T, J, 2] where the frames around put a keypoint, NaN where none does; how many do, [B, T, J].

    The middles of three frames before and after and the lines through two on either side; of their median: what moves
    evenly is where they put it, and one or two outliers among them do not move it.
    """
    held = torch.where(weight.unsqueeze(-1) > 0, keypoints, torch.nan)
    padded = torch.nn.functional.pad(held, (0, 0, 0, 0, 3, 3), value=torch.nan)
    near = [padded[:, k : k + held.shape[1]] for k in range(7)]
    middles = [(near[k] + near[6 - k]) / 2.0 for k in range(3)]
    told = [*middles, 2.0 * near[2] - near[1], 2.0 * near[4] - near[5]]
    return told, torch.stack([one[..., 0].isfinite() for one in told]).sum(0)


def _median(five: list[Tensor], count: Tensor) -> Tensor:
    """The lower median of those of five tensors that are not NaN, of which there are `count`; NaN where none is.

    A sorting network: whole tensors at a time, many times as quick as torch's median of a short last axis.
    """
    ordered = [one.nan_to_num(torch.inf) for one in five]
    for i, j in ((0, 3), (1, 4), (0, 2), (1, 3), (0, 1), (2, 4), (1, 2), (3, 4), (2, 3)):
        ordered[i], ordered[j] = torch.minimum(ordered[i], ordered[j]), torch.maximum(ordered[i], ordered[j])
    lower = torch.where(count > 2, ordered[1], ordered[0])
    return torch.where(count > 4, ordered[2], lower).masked_fill(count == 0, torch.nan)


def _apart(points: Tensor, others: Tensor, where: Tensor) -> Tensor:
    return (torch.linalg.vector_norm(points - others, dim=-1) * where).sum(-1)
