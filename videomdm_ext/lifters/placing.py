"""Where a lifted person is: size from the limbs, place from the 2D keypoints, both in closed form.

A point X in camera coordinates lies on the ray of (u, v) where X_x = u X_z and X_y = v X_z: linear in a translation.
"""

import math

import numpy as np
import torch
from torch import Tensor

from videomdm_ext.geometry.cameras import to_camera
from videomdm_ext.geometry.rotations import yaw_matrix
from videomdm_ext.motion.kinematics import smooth
from videomdm_ext.motion.skeletons import Skeleton

LIMBS = {"knee": 0.422, "ankle": 0.410, "elbow": 0.275, "wrist": 0.259}
"""Metres of thigh, shank, upper arm and forearm by the joint at their end: the bundled motions' means."""
SMOOTHED = 0.15
"""Seconds, standard deviation of the filter over the depth of a person whom keypoints place."""
FEWEST = 4
"""Keypoints of a frame, at least, to place a person by."""


def size_ratio(positions: Tensor, skeleton: Skeleton) -> float:
    """Median over the eight long bones of length (median over time) by `LIMBS`. [T, J, 3] -> 1 for the usual person."""
    ratios = []
    for joint, length in LIMBS.items():
        for side in "lr":
            end = skeleton.index(f"{side}_{joint}")
            bone = positions[:, end] - positions[:, skeleton.parents[end]]
            ratios.append(torch.linalg.vector_norm(bone, dim=-1).median() / length)
    return float(torch.stack(ratios).median())


def place_root(offsets: Tensor, keypoints: Tensor, confidence: Tensor, fps: float) -> Tensor | None:
    """Move poses [T, J, 3] in a camera's axes to where their keypoints [T, J, 2] are; None if no frame tells that.

    One translation a frame by least squares, weighted by confidence [T, J] squared; its depth is smoothed in time, by
    how much each frame tells of it, and frames that tell nothing are bridged.
    """
    poses, points = offsets.double(), keypoints.double().nan_to_num()
    weight = confidence.double().square() * torch.isfinite(keypoints).all(-1)
    total = weight.sum(-1).clamp_min(1e-12)
    centre = (weight.unsqueeze(-1) * points).sum(-2) / total.unsqueeze(-1)
    away = points - centre.unsqueeze(-2)
    told = (weight * away.square().sum(-1)).sum(-1)
    misses = points * poses[..., 2:] - poses[..., :2]  # of a person at depth 0, by which t_xy = misses + (u, v) t_z
    mean = (weight.unsqueeze(-1) * misses).sum(-2) / total.unsqueeze(-1)
    depth = -(weight.unsqueeze(-1) * away * (misses - mean.unsqueeze(-2))).sum((-1, -2)) / told.clamp_min(1e-12)
    good = ((weight > 0).sum(-1) >= FEWEST) & (told > 1e-9) & (depth > 0)
    if not bool(good.any()):
        return None
    depth = _smoothed(depth, told * good, good, SMOOTHED * fps)
    across = torch.stack([_bridged(column, good) for column in (mean + centre * depth.unsqueeze(-1)).unbind(-1)], -1)
    return (poses + torch.cat((across, depth.unsqueeze(-1)), -1).unsqueeze(-2)).to(offsets.dtype)


def _smoothed(depth: Tensor, told: Tensor, good: Tensor, sigma: float) -> Tensor:
    """Depth [T] filtered with weights `told`; frames that are not good get the line between their neighbours."""
    weight = torch.where(good, told, 1e-3 * told[good].median())
    filtered = smooth(torch.stack((weight * _bridged(depth, good), weight), -1), sigma)
    return filtered[:, 0] / filtered[:, 1]


def _bridged(values: Tensor, good: Tensor) -> Tensor:
    at = np.arange(len(values))
    return torch.from_numpy(np.interp(at, at[good.numpy()], values[good].numpy()))


def place_whole(positions: Tensor, keypoints: Tensor, confidence: Tensor, extrinsics: Tensor) -> Tensor:
    """Turn a motion [T, J, 3] in a level world about its vertical and move it, so that it fits its keypoints best.

    Each angle has its best translation in closed form; the best angle is searched in steps of 5, then 0.5 and 0.05
    degrees. Extrinsics [T, 3, 4] are the clip's, and so is the world of what is returned.
    """
    points = keypoints.double().nan_to_num()
    weight = confidence.double() * torch.isfinite(keypoints).all(-1)
    camera, motion = extrinsics.double(), positions.double()
    rows = camera[:, None, :2, :3] - points.unsqueeze(-1) * camera[:, None, 2:, :3]
    rows = (rows * weight[..., None, None]).flatten(0, 2)
    inverse = torch.linalg.pinv(rows)

    def fit(angle: float) -> tuple[float, Tensor]:
        turned = motion @ yaw_matrix(torch.tensor(angle, dtype=torch.float64)).T
        seen = to_camera(turned, camera)
        wanted = ((points * seen[..., 2:] - seen[..., :2]) * weight.unsqueeze(-1)).flatten()
        moved = inverse @ wanted
        return float((rows @ moved - wanted).square().sum()), turned + moved

    best, width = 0.0, math.pi
    for steps in (36, 10, 10):
        angles = [best + width * step / steps for step in range(-steps, steps + 1)]
        best, width = min(angles, key=lambda angle: fit(angle)[0]), width / steps
    return fit(best)[1].to(positions.dtype)


def agreement(seen: Tensor, keypoints: Tensor, confidence: Tensor) -> float:
    """Correlation of camera points [T, J, 3] with keypoints, each about its middle: 1 the same pose, -1 upside down.

    Place and size do not matter. The median over frames; nan where no frame has enough keypoints.
    """
    weight = (confidence.double() * torch.isfinite(keypoints).all(-1)).unsqueeze(-1)
    total = weight.sum(-2, keepdim=True).clamp_min(1e-12)
    parts = []
    for points in (seen[..., :2].double(), keypoints.double().nan_to_num()):
        parts.append(points - (weight * points).sum(-2, keepdim=True) / total)
    product = [(weight * a * b).sum((-1, -2)) for a, b in ((parts[0], parts[1]), (parts[0],) * 2, (parts[1],) * 2)]
    found = product[0] / (product[1] * product[2]).clamp_min(1e-24).sqrt()
    return float(found[(weight > 0).sum((-1, -2)) >= FEWEST].nanmedian())
