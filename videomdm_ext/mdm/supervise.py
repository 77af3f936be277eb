"""2D supervision as plugins of the host events: options, their check, and the diffusion that computes the loss."""

import argparse
from collections.abc import Mapping
from math import inf
from typing import Any

import torch
from torch import Tensor

from videomdm_ext.config import Fairness, Source, Speed, Supervision
from videomdm_ext.errors import ConfigError
from videomdm_ext.hookspecs import hookimpl
from videomdm_ext.mdm.data import HostDataset, check_host, check_source
from videomdm_ext.options import add_arguments, from_args
from videomdm_ext.supervision.objective import Objective, Term
from videomdm_ext.supervision.observation import Observation
from videomdm_ext.supervision.unrolling import Ladder, walk

OWN = ("loss", "passes", "ray", "position", "velocity", "near", "behind", "alignment", "floor", "bone_length", "motion")
"""Names of what training logs by itself; a plugin's term must not hide one."""


@hookimpl
def add_options(group: "argparse._ArgumentGroup") -> None:
    """--supervision and everything that says how."""
    for config in (Supervision, Source, Fairness, Speed):
        add_arguments(group, config)


@hookimpl
def configure(args: argparse.Namespace) -> None:
    """Every switch is valid, 2D supervision has clips, and nothing is asked of the host that they cannot serve."""
    source, supervision = from_args(Source, args), from_args(Supervision, args)
    check_source(source, supervision)
    check_host(source, supervision, args)


def supervised(base: type, config: Supervision, extra: Mapping[str, tuple[float, Term]]) -> type:
    """A subclass of the host's SpacedDiffusion that replaces its training loss by the 2D objective."""

    class Supervised2D(base):
        def training_losses(
            self,
            model: Any,
            x_start: Tensor,
            t: Tensor,
            model_kwargs: dict[str, Any] | None = None,
            noise: Tensor | None = None,
            dataset: HostDataset | None = None,
        ) -> dict[str, Tensor]:
            """Loss and terms [B], means over the passes of a walk; t [B] serves a step that is not unrolled."""
            assert model_kwargs is not None
            assert dataset is not None
            observation, rest = Observation.take(model_kwargs["y"], config.confidence)
            objective = Objective(config, dataset.space.to(x_start.device), extra)
            network = self._wrap_model(model)
            timesteps = self.walk_timesteps(t)
            noise = torch.randn_like(x_start) if noise is None else noise
            alpha_bar = torch.as_tensor(self.alphas_cumprod, dtype=x_start.dtype, device=x_start.device)

            def denoise(x_t: Tensor, now: Tensor) -> Tensor:
                return network(x_t, self._scale_timesteps(now), y=rest)

            passes = [
                objective(prediction, observation, x_start, now)
                for prediction, now in walk(denoise, x_start, timesteps, alpha_bar, noise)
            ]
            means = {name: torch.stack([terms[name] for terms in passes]).mean(0) for name in passes[0]}
            return {**means, "passes": torch.full_like(means["loss"], float(len(passes)))}

        def walk_timesteps(self, t: Tensor) -> Tensor:
            """[B, K] of an unrolled walk, or [B, 1]: t itself where nothing is unrolled."""
            if not config.unrolls:
                return t.unsqueeze(1)
            ladder = Ladder.of(config, self.num_timesteps)
            return ladder.draw(len(t), torch.default_generator).to(t.device)

    return Supervised2D


@hookimpl
def make_diffusion(base: type, args: argparse.Namespace, terms: Mapping[str, Term]) -> type | None:
    """The subclass under `2d`; nothing under `3d`."""
    config = from_args(Supervision, args)
    return supervised(base, config, weighted(terms, args.extra_terms)) if config.supervision == "2d" else None


def weighted(terms: Mapping[str, Term], asked: str) -> dict[str, tuple[float, Term]]:
    """Plugins' loss terms that --extra_terms asks for, as in "name=0.1,other=2", with their weights."""
    chosen: dict[str, tuple[float, Term]] = {}
    for part in filter(None, asked.split(",")):
        name, _, weight = part.partition("=")
        if name not in terms:
            known = ", ".join(terms) or "none; is the plugin installed?"
            raise ConfigError(f"--extra_terms: expected terms among {known}, found {name!r}.")
        if name in OWN:
            raise ConfigError(f"--extra_terms: {name!r} names a built-in figure. Register the term under another name.")
        if name in chosen:
            raise ConfigError(f"--extra_terms: expected each term once, found {name!r} twice.")
        chosen[name] = (_weight(part, weight), terms[name])
    return chosen


def _weight(part: str, text: str) -> float:
    """The number behind a term's name."""
    try:
        weight = float(text)
    except ValueError as error:
        raise ConfigError(f"--extra_terms {part}: expected NAME=WEIGHT, found weight {text!r}.") from error
    if not 0 <= weight < inf:
        raise ConfigError(f"--extra_terms {part}: expected a weight not below 0, found {text!r}.")
    return weight
