"""One pure function a loss term. Each returns one number a clip, [B]: a true mean over its valid entries."""

import torch
from torch import Tensor

from videomdm_ext.geometry.cameras import image_points, to_camera
from videomdm_ext.motion.kinematics import bone_lengths
from videomdm_ext.motion.skeletons import Skeleton


def masked_mean(values: Tensor, weight: Tensor) -> Tensor:
    """sum(weight * values) / sum(weight) over all but the first dimension; 0 where nothing weighs. -> [B].

    Values under a zero weight change nothing, NaN included.
    """
    total = torch.where(weight > 0, values, 0.0).mul(weight).flatten(1).sum(1)
    return total / weight.flatten(1).sum(1).clamp_min(torch.finfo(values.dtype).tiny)


def depth_scale(depth: Tensor, weight: Tensor, rule: str) -> Tensor:
    """Detached weight [B, T, J] that turns squared image residuals into squared lengths (METHOD 3).

    `depth2` and `isotropic`: each joint's predicted depth, squared. `mean1`: first power of the clip's mean depth,
    as in the released program. `none`: 1.
    """
    depth = depth.detach()
    if rule == "none":
        return torch.ones_like(depth)
    if rule == "mean1":
        return masked_mean(depth, (weight > 0).to(depth.dtype))[:, None, None].expand_as(depth)
    return depth.square()


def horizontal_weight(extrinsics: Tensor, rule: str) -> Tensor:
    """Weight of (u, v) residuals [..., 1, 2]: for `isotropic` (2 - 3 sin^2 elevation, 1), not below 0 (METHOD 3)."""
    sine2 = extrinsics[..., 2, 1].square()
    one = torch.ones_like(sine2)
    u = (2.0 - 3.0 * sine2).clamp_min(0.0) if rule == "isotropic" else one
    return torch.stack((u, one), -1).unsqueeze(-2)


class Reprojected:
    """A prediction in the image: what position, velocity and near-plane terms share.

    positions [B, T, J, 3], keypoints [B, T, J, 2], weight [B, T, J], extrinsics [B, T, 3, 4].
    """

    def __init__(
        self, positions: Tensor, keypoints: Tensor, weight: Tensor, extrinsics: Tensor, *, nearest: float, rule: str
    ) -> None:
        points, depth = image_points(to_camera(positions, extrinsics), nearest)
        self.depth, self.nearest = depth, nearest
        self.seen = weight
        self.weight = torch.where(depth.detach() >= nearest, weight, 0.0)
        self.residual = points - keypoints
        self.scale = depth_scale(depth, self.weight, rule)
        self.axes = horizontal_weight(extrinsics, rule)

    def position(self) -> Tensor:
        """L = sum m z^2 |p_hat - p|^2 / sum m, z the predicted depth held constant (METHOD 3). -> [B], m^2."""
        return masked_mean(self.scale * (self.axes * self.residual.square()).sum(-1), self.weight)

    def velocity(self) -> Tensor:
        """The same on forward differences in time, weighed by the later frame's depth. -> [B], m^2 per frame^2."""
        change = (self.axes[:, 1:] * self.residual.diff(dim=1).square()).sum(-1)
        return masked_mean(self.scale[:, 1:] * change, self.weight[:, 1:] * self.weight[:, :-1])

    def near(self) -> Tensor:
        """Mean of (z_near - z)_+^2 over observed joints: pulls joints out from behind the near plane. -> [B], m^2."""
        return masked_mean((self.nearest - self.depth).clamp_min(0.0).square(), self.seen)

    def behind(self) -> Tensor:
        """Share of the observed joints that lie nearer than the near plane. -> [B]."""
        seen = (self.seen > 0).to(self.depth.dtype)
        return masked_mean((self.depth.detach() < self.nearest).to(self.depth.dtype), seen)


def feature_distance(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean of |x_hat - y*|^2 over valid channels: the ray and the alignment term. All [B, T, C], mask bool -> [B]."""
    difference = torch.where(mask, prediction - target, 0.0)
    return difference.square().flatten(1).sum(1) / mask.flatten(1).sum(1).clamp_min(1)


def floor(positions: Tensor, valid: Tensor) -> Tensor:
    """Squared height of each frame's lowest joint: for activities that never leave the ground. -> [B], m^2."""
    lowest = positions[..., 1].amin(-1)
    return masked_mean(lowest.square(), valid.to(positions.dtype))


def bone_length(positions: Tensor, valid: Tensor, skeleton: Skeleton) -> Tensor:
    """Variance over time of each bone's length, mean over bones. -> [B], m^2."""
    lengths = bone_lengths(positions, skeleton)
    mask = valid.to(positions.dtype).unsqueeze(-1)
    mean = (torch.where(mask > 0, lengths, 0.0) * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp_min(1.0)
    return masked_mean((lengths - mean).square(), mask.expand_as(lengths))
