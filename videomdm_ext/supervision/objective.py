"""The 2D objective: a weighted sum of terms over a clean prediction and what the camera saw. Pure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from videomdm_ext.config import Supervision
from videomdm_ext.motion.features import FeatureSpace, channel_validity, decode, redundant
from videomdm_ext.supervision.observation import Observation
from videomdm_ext.supervision.targets import ray_target
from videomdm_ext.supervision.terms import Reprojected, bone_length, feature_distance, floor


@dataclass(frozen=True)
class Prediction:
    """What a term may look at: x [B, D, 1, T] (with gradient), its positions [B, T, J, 3], x_start, timesteps [B].

    The padding of x and x_start holds the mean pose, whatever the network or the file had there.
    """

    x: Tensor
    positions: Tensor
    x_start: Tensor
    timesteps: Tensor


Term = Callable[[Prediction, Observation, FeatureSpace], Tensor]
"""A plugin's loss term: one number a clip, [B]."""


@dataclass(frozen=True)
class Objective:
    """`objective(x, observation, x_start, timesteps)` -> {"loss": [B], one entry a term: [B]}.

    A clip whose motion is known (mixed supervision) pays the host's own loss, the term `motion`, and no other.

    `extra` holds further terms by name with their weights, given by plugins.
    """

    config: Supervision
    space: FeatureSpace
    extra: Mapping[str, tuple[float, Term]] = field(default_factory=dict)

    def __call__(self, x: Tensor, observation: Observation, x_start: Tensor, timesteps: Tensor) -> dict[str, Tensor]:
        frames = observation.valid[:, None, None]
        x, x_start = torch.where(frames, x, 0.0), torch.where(frames, x_start, 0.0)
        raw = self.space.raw(x)
        positions = decode(raw, self.space.skeleton)
        terms: dict[str, Tensor] = {}
        weights: dict[str, float] = {}
        notes: dict[str, Tensor] = {}
        if self.config.uses_ray:
            terms["ray"], weights["ray"] = self._ray(x, raw, observation, x_start, timesteps), self.config.weight_ray
        if self.config.uses_reprojection:
            reprojected, notes = self._reprojection(x, raw, positions, observation)
            terms |= reprojected
            weights |= {name: getattr(self.config, f"weight_{name}") for name in reprojected}
        for name, value in self._optional(positions, observation).items():
            terms[name], weights[name] = value, getattr(self.config, f"weight_{name}")
        for name, (weight, term) in self.extra.items():
            prediction = Prediction(x, positions, x_start, timesteps)
            terms[name], weights[name] = term(prediction, observation, self.space), weight
        loss = torch.stack([weights[name] * value for name, value in terms.items()]).sum(0)
        if observation.known is None:
            return {"loss": loss, **terms, **notes}
        motion = torch.where(observation.known, self._distance(x, x_start, observation, slice(None)), 0.0)
        terms = {name: torch.where(observation.known, 0.0, value) for name, value in terms.items()}
        return {"loss": torch.where(observation.known, motion, loss), **terms, "motion": motion, **notes}

    def _ray(self, x: Tensor, raw: Tensor, observation: Observation, x_start: Tensor, timesteps: Tensor) -> Tensor:
        source, is_teacher = self._depth_source(raw.detach(), x_start, timesteps)
        target = ray_target(source, observation, self.space, self.config.z_near, turning=is_teacher)
        return self._distance(x, target, observation, slice(None))

    def _depth_source(self, raw: Tensor, x_start: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor | None]:
        """Raw features [B, T, D] that give a ray target its depth, and which clips' are the teacher's, [B]."""
        if self.config.ray_depth == "prediction":
            return raw, None
        teacher = self.space.raw(x_start)
        if self.config.ray_depth == "teacher":
            return teacher, torch.ones_like(timesteps, dtype=torch.bool)
        is_teacher = timesteps >= self.config.unroll_below
        return torch.where(is_teacher[:, None, None], teacher, raw), is_teacher

    def _distance(self, x: Tensor, target: Tensor, observation: Observation, part: slice) -> Tensor:
        mask = channel_validity(observation.valid, self.space.skeleton)[..., part]
        prediction, target = (vector[:, part].squeeze(2).transpose(1, 2) for vector in (x, target))
        return feature_distance(prediction, target, mask)

    def _reprojection(
        self, x: Tensor, raw: Tensor, positions: Tensor, observation: Observation
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        image = Reprojected(
            positions,
            observation.keypoints,
            observation.weight,
            observation.extrinsics,
            nearest=self.config.z_near,
            rule=self.config.depth_weight,
        )
        terms = {"position": image.position(), "velocity": image.velocity(), "near": image.near()}
        if self.config.weight_alignment > 0:
            target = ray_target(raw.detach(), observation, self.space, self.config.z_near)
            terms["alignment"] = self._distance(x, target, observation, redundant(self.space.skeleton))
        return terms, {"behind": image.behind()}

    def _optional(self, positions: Tensor, observation: Observation) -> dict[str, Tensor]:
        terms = {}
        if self.config.weight_floor > 0:
            terms["floor"] = floor(positions, observation.valid)
        if self.config.weight_bone_length > 0:
            terms["bone_length"] = bone_length(positions, observation.valid, self.space.skeleton)
        return terms
