"""What is wrong with a detector's keypoints: exchanged sides, outliers in time, noise; and how wrong a lifter is."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from videomdm_ext.geometry.cameras import image_points
from videomdm_ext.motion.kinematics import bone_lengths
from videomdm_ext.motion.skeletons import Skeleton
from videomdm_ext.supervision.observation import Observation

ASTRAY = 0.012
"""Distance on the image plane, from where the frames around tell, beyond which a keypoint may be an outlier."""
LIFTED_TRUST = 10.0
"""Precision of a keypoint beside that of the lifter in the image."""
USUAL_WANDER, USUAL_MISS, LEAST_DOUBT = 0.02, 0.015, 0.005
"""Median share by which a usual lifter's bones wander, median distance by which it misses keypoints, m; least doubt."""


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


def _apart(points: Tensor, others: Tensor, weight: Tensor) -> Tensor:
    """Weighted sum of distances over the joints. [..., J, 2] -> [...]."""
    return (torch.linalg.vector_norm(points - others, dim=-1) * weight).sum(-1)


# -- keypoints and lifter beside each other ----------------------------------------------------------------------------


def repaired(
    lifted: Tensor, observation: Observation, skeleton: Skeleton, nearest: float
) -> tuple[Tensor, Observation]:
    """Exchanged sides put right, outliers made unseen.

    The lifted joints [B, T, J, 3], in camera coordinates, are exchanged too where this brings them nearer.
    """
    observation, turned = exchanged(observation, skeleton)
    sides, (image, _) = list(skeleton.mirror), image_points(lifted, nearest)
    apart, mirrored = (_apart(one, observation.keypoints, observation.weight) for one in (image, image[..., sides, :]))
    lifted = torch.where((turned & (mirrored < apart))[..., None, None], lifted[..., sides, :], lifted)
    return lifted, without_outliers(observation)


def trust(weight: Tensor) -> Tensor:
    """How far from the lifted place to the keypoint a joint starts, for weights [...] in [0, 1]: 0 and 1 at the ends.

    In between a keypoint counts LIFTED_TRUST times as much as the lifter's image of the joint, which is centimetres
    off where keypoints are millimetres off.
    """
    return weight / (weight + (1 - weight) / LIFTED_TRUST)


def keypoint_noise(observation: Observation) -> Tensor:
    """Standard deviation [B] of the keypoints' noise on the image plane, from the median of their sixth differences.

    It is that of white noise with such a median: motion hardly has sixth differences.
    """
    seen = (observation.weight > 0) & observation.valid.unsqueeze(-1)
    for _ in range(6):
        seen = seen[:, 1:] & seen[:, :-1]
    found = observation.keypoints.diff(n=6, dim=1).abs()
    return _medians(found, seen.unsqueeze(-1)) / (0.6745 * math.sqrt(924.0))


def _medians(values: Tensor, where: Tensor) -> Tensor:
    """Of each clip, [B], over the places that count; 0 where none does."""
    return values.where(where, torch.nan).flatten(1).nanmedian(1).values.nan_to_num()


def lifter_doubt(lifted: Tensor, gap: Tensor, observation: Observation, skeleton: Skeleton) -> Tensor:
    """How wrong the lifter is, [B], 1 for a usual one: from how its bones wander and how far it misses the keypoints.

    `lifted` [B, T, J, 3] is in camera coordinates, `gap` [B, T, J, 2] from its image to the keypoints.
    """
    lengths, frames = bone_lengths(lifted, skeleton), observation.valid.unsqueeze(-1)
    mean = lengths.where(frames, torch.nan).nanmean(1, keepdim=True)
    wander = _medians((lengths / mean - 1).abs(), frames)
    off = torch.linalg.vector_norm(gap, dim=-1) - 1.5 * keypoint_noise(observation)[:, None, None]
    missed = _medians(off * lifted[..., 2], observation.weight > 0)
    return torch.hypot(wander / USUAL_WANDER, missed.clamp_min(0.0) / USUAL_MISS).clamp(LEAST_DOUBT, 1.0)
