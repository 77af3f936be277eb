"""The terms of the 2D loss: one table, each defined, named, described and weighted in one place. Pure.

A term is a function of a training step that returns one number a clip, [B]: never negative, a true mean over valid
entries, zero for an exact prediction, and blind to padding. `TERMS` holds those of this package; plugins add theirs
(docs/hooks.md). Formulas: docs/method.md, sections 3 to 6.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from videomdm_ext.geometry.cameras import image_points, to_camera
from videomdm_ext.motion.features import FeatureSpace, channel_validity, channels, decode, redundant
from videomdm_ext.motion.kinematics import bone_lengths
from videomdm_ext.supervision.keypoints import exchanged, without_outliers
from videomdm_ext.supervision.observation import Observation
from videomdm_ext.supervision.posterior import Gaussian, posterior_target
from videomdm_ext.supervision.rays import ray_target


class Image(NamedTuple):
    """A prediction in the image: signed depth [B, T, J] in m, residual p_hat - p and scale of its squares [B, T, J, 2],
    weight [B, T, J], 0 for joints nearer than the near plane."""

    depth: Tensor
    residual: Tensor
    scale: Tensor
    weight: Tensor


@dataclass(frozen=True)
class Step:
    """What a loss term may read of a training step, and quantities that several terms share.

    x [B, D, 1, T] is the prediction of x_0, with its gradient, x_start [B, D, 1, T] the motion that was diffused, both
    z-scored by `space` and zero (the mean pose) in the padding; timesteps [B] and their alpha_bar [B], the share of
    x_start in the variance of x_t; `observation` holds the keypoints, their weight, the cameras and the valid frames.
    `near` is the depth of the near plane, m, `depth_weight` the rule by which image residuals are weighted.
    """

    x: Tensor
    x_start: Tensor
    timesteps: Tensor
    alpha_bar: Tensor
    observation: Observation
    space: FeatureSpace
    near: float = 0.5
    depth_weight: str = "depth2"

    def __post_init__(self) -> None:
        frames = self.observation.valid[:, None, None]
        for name in ("x", "x_start"):
            object.__setattr__(self, name, torch.where(frames, getattr(self, name), 0.0))

    @cached_property
    def raw(self) -> Tensor:
        """Predicted features in their own units, [B, T, D]."""
        return self.space.raw(self.x)

    @cached_property
    def positions(self) -> Tensor:
        """Predicted joints [B, T, J, 3], m."""
        return decode(self.raw, self.space.skeleton)

    @cached_property
    def projected(self) -> tuple[Tensor, Tensor]:
        """Image points [B, T, J, 2] of the predicted joints and their signed depth [B, T, J], m."""
        return image_points(to_camera(self.positions, self.observation.extrinsics), self.near)

    @cached_property
    def image(self) -> Image:
        """The predicted joints as the camera sees them (METHOD 3)."""
        seen, (points, depth) = self.observation, self.projected
        weight = torch.where(depth.detach() >= self.near, seen.weight, 0.0)
        scale = depth_scale(depth.detach(), weight, self.depth_weight).unsqueeze(-1)
        if self.depth_weight == "isotropic":
            sine2 = seen.extrinsics[..., 2, 1].square()
            horizontal = (2.0 - 3.0 * sine2).clamp_min(0.0)
            scale = scale * torch.stack((horizontal, torch.ones_like(sine2)), -1).unsqueeze(-2)
        return Image(depth, points - seen.keypoints, scale.expand_as(points), weight)

    @cached_property
    def repaired(self) -> Observation:
        """The observation without exchanged sides and outliers of its keypoints (METHOD 4a)."""
        return without_outliers(exchanged(self.observation, self.space.skeleton)[0])

    @cached_property
    def missed(self) -> Tensor:
        """Variance of the predicted poses, in z-scored features, that shows across the repaired keypoints' rays, [B].

        In each frame the joints' mean distance is taken away: where the root is does not tell how good a pose is.
        """
        seen, (points, depth) = self.repaired, (part.detach() for part in self.projected)
        weight = torch.where(depth >= self.near, seen.weight, 0.0).unsqueeze(-1)
        off = (points - seen.keypoints) * depth.unsqueeze(-1)
        total = weight.sum(-2, keepdim=True).clamp_min(torch.finfo(off.dtype).tiny)
        common = (weight * off).sum(-2, keepdim=True) / total
        size = self.space.std[channels(self.space.skeleton).positions].square().mean()
        return masked_mean((off - common).square(), weight.expand_as(off)) / size

    @cached_property
    def behind(self) -> Tensor:
        """Share of the observed joints that lie nearer than the near plane, [B]."""
        depth, seen = self.image.depth.detach(), self.observation.weight > 0
        return masked_mean((depth < self.near).to(depth.dtype), seen.to(depth.dtype))

    def distance(self, target: Tensor, part: Tensor) -> Tensor:
        """Mean of |x - target|^2 over valid entries of the channels `part`, bool [D]; target [B, D, 1, T] -> [B]."""
        mask = channel_validity(self.observation.valid, self.space.skeleton) & part
        difference = torch.where(mask, (self.x - target).squeeze(2).transpose(1, 2), 0.0)
        return difference.square().flatten(1).sum(1) / mask.flatten(1).sum(1).clamp_min(1)


def depth_scale(depth: Tensor, weight: Tensor, rule: str) -> Tensor:
    """Weight [B, T, J] that turns squared image residuals into squared lengths (METHOD 3), from depths [B, T, J].

    `depth2` and `isotropic`: each joint's predicted depth, squared. `mean1`: first power of the clip's mean depth,
    as in the released program. `none`: 1.
    """
    if rule == "none":
        return torch.ones_like(depth)
    if rule == "mean1":
        return masked_mean(depth, (weight > 0).to(depth.dtype))[:, None, None].expand_as(depth)
    return depth.square()


def masked_mean(values: Tensor, weight: Tensor) -> Tensor:
    """sum(weight * values) / sum(weight) over all but the first dimension; 0 where nothing weighs. -> [B].

    Values under a zero weight change nothing, NaN included.
    """
    total = torch.where(weight > 0, values, 0.0).mul(weight).flatten(1).sum(1)
    return total / weight.flatten(1).sum(1).clamp_min(torch.finfo(values.dtype).tiny)


@dataclass(frozen=True)
class Term:
    """A loss term: `compute(step)` -> [B], the weight it has unless another is asked for, and a line of description."""

    compute: Callable[[Step], Tensor]
    weight: float = 1.0
    about: str = ""

    @classmethod
    def of(cls, compute: Callable[[Step], Tensor], weight: float = 1.0) -> "Term":
        """A function described by the first line of its docstring."""
        return cls(compute, weight, (inspect.getdoc(compute) or "").partition("\n")[0])

    def __call__(self, step: Step) -> Tensor:
        return self.compute(step)

    @property
    def __signature__(self) -> inspect.Signature:
        """Of the function, which is what plugins are checked for."""
        return inspect.signature(self.compute)


DIFFUSED = 1 / 4
"""Variance of the diffused motion about the true one, in z-scored features."""
LEAST_VARIANCE = 0.02
"""Of a prediction, at the lowest noise."""
KNOWN = Gaussian(tremble=0.05, rest=0.0025)
"""What the term `posterior` knows beside the keypoints."""
FORM = 2
"""Of the term `posterior`; another one where these figures, those of posterior.py or its rows give other targets."""
TERMS: dict[str, Term] = {}
"""The terms of this package by name."""


def term(weight: float) -> Callable[[Callable[[Step], Tensor]], Callable[[Step], Tensor]]:
    """Enter the decorated function in `TERMS`, under its name, described by the first line of its docstring."""

    def enter(compute: Callable[[Step], Tensor]) -> Callable[[Step], Tensor]:
        TERMS[compute.__name__] = Term.of(compute, weight)
        return compute

    return enter


@term(weight=7 / 22)
def position(step: Step) -> Tensor:
    """Distance of projected joints from their keypoints: sum m z^2 |p_hat - p|^2 / sum m, z held constant, m^2."""
    image = step.image
    return masked_mean((image.scale * image.residual.square()).sum(-1), image.weight)


@term(weight=350 / 22)
def velocity(step: Step) -> Tensor:
    """The same for forward differences in time, weighed by the later frame's depth, m^2 per frame^2."""
    image = step.image
    change = (image.scale[:, 1:] * image.residual.diff(dim=1).square()).sum(-1)
    return masked_mean(change, image.weight[:, 1:] * image.weight[:, :-1])


@term(weight=1.0)
def near(step: Step) -> Tensor:
    """Hinge (z_near - z)_+^2 that pulls joints out from behind the near plane, m^2."""
    return masked_mean((step.near - step.image.depth).clamp_min(0.0).square(), step.observation.weight)


@term(weight=1.0)
def alignment(step: Step) -> Tensor:
    """Distance from the features of the prediction on its rays, in the channels that the image leaves open (METHOD 4).

    These are the redundant ones and the root's yaw velocity: the same positions can be encoded with any headings.
    """
    skeleton = step.space.skeleton
    target = ray_target(step.raw.detach(), step.space.raw(step.x_start), step.observation, step.space, step.near)
    part = torch.zeros(skeleton.num_features, dtype=torch.bool, device=step.x.device)
    part[channels(skeleton).yaw] = True
    part[redundant(skeleton)] = True
    return step.distance(target, part)


@term(weight=1.0)
def posterior(step: Step) -> Tensor:
    """Distance from the posterior mean of the motion given prediction, diffused motion and keypoints (METHOD 4b).

    Prediction and diffused motion are two Gaussian sources. The variance of the diffused motion is the same at any
    noise; a prediction's is that of the noise in its input or, where this is more, what the image shows of it, as
    before much is learned. So the target follows the diffused motion where a prediction knows little, and the
    prediction where it knows what the keypoints of all clips taught.
    """
    predicted = (1.0 - step.alpha_bar).clamp_min(LEAST_VARIANCE).maximum(step.missed)
    precision = (1.0 / predicted + 1.0 / DIFFUSED)[:, None, None]
    share = (1.0 / DIFFUSED / precision).unsqueeze(-1)
    target = posterior_target(
        torch.lerp(step.x.detach(), step.x_start, share), step.repaired, step.space, precision,
        known=KNOWN, teacher=step.x_start, nearest=step.near, relaxed=True,
    )  # fmt: skip
    return step.distance(target, torch.ones_like(step.space.mean, dtype=torch.bool))


@term(weight=1.0)
def motion(step: Step) -> Tensor:
    """MDM's own loss: distance of the features from those of the diffused motion."""
    return step.distance(step.x_start, torch.ones_like(step.space.mean, dtype=torch.bool))


@term(weight=1.0)
def floor(step: Step) -> Tensor:
    """Squared height of each frame's lowest joint, for activities that never leave the ground, m^2."""
    lowest = step.positions[..., 1].amin(-1)
    return masked_mean(lowest.square(), step.observation.valid.to(lowest.dtype))


@term(weight=1.0)
def bone_length(step: Step) -> Tensor:
    """Variance over time of each bone's length, mean over bones, m^2."""
    lengths = bone_lengths(step.positions, step.space.skeleton)
    mask = step.observation.valid.to(lengths.dtype).unsqueeze(-1)
    mean = (torch.where(mask > 0, lengths, 0.0) * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp_min(1.0)
    return masked_mean((lengths - mean).square(), mask.expand_as(lengths))
