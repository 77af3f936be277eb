"""2D supervision as a plugin of the host: options, their check, the loss terms, and the diffusion that pays them."""

import argparse
import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pluggy
import torch
from torch import Tensor

from videomdm_ext import plugins
from videomdm_ext.config import OLD_OPTIONS, Fairness, Source, Speed, Supervision, add_arguments, from_args
from videomdm_ext.errors import ConfigError, HostError, PluginError
from videomdm_ext.hookspecs import Register, hookimpl
from videomdm_ext.mdm import distributed
from videomdm_ext.mdm.data import HostDataset, check_host, check_source
from videomdm_ext.supervision.objective import PRESETS, Objective, weights_of
from videomdm_ext.supervision.observation import Observation
from videomdm_ext.supervision.terms import TERMS, Step, Term
from videomdm_ext.supervision.unrolling import TimestepBuckets, divided, unrolled_predictions, with_gradient_taken

NUMBERS: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("batch_size", "num_steps", "layers", "latent_dim", "ff_size", "num_heads"), (1, math.inf)),
    **dict.fromkeys(("log_interval", "save_interval"), (1, math.inf)),
    **dict.fromkeys(("lr", "weight_decay", "lr_anneal_steps", "gradient_clip"), (0, math.inf)),
    **dict.fromkeys(("dropout", "cond_mask_prob", "avg_model_beta"), (0, 1)),
    "conv_kernel": (0, 255),
    "adam_beta2": (0, math.nextafter(1, 0)),
    "diffusion_steps": (2, math.inf),
    "seed": (0, 2**32 - 1),
}
"""Options of the hosts' trainings with the least and the greatest value with which one can train; infinity is none."""
LINEAR = 21
"""Fewest steps of the hosts' linear schedule, whose betas reach 20 over their number."""
LOGGED = ("loss", "passes", "behind")
"""What training logs beside the terms."""


@hookimpl
def register_loss_terms(register: Register) -> None:
    """Offer the terms of this package."""
    for name, term in TERMS.items():
        register(name, term)


def loss_terms(manager: pluggy.PluginManager) -> dict[str, Term]:
    """The loss terms of this package and of plugins by name; a function of a step is a term of weight 1.

    Raises PluginError for what cannot be called as one, and for a name that means something else.
    """
    owners: dict[str, str] = {}
    found = plugins.collect(manager, "loss_terms", owners)
    for name in (*LOGGED, *PRESETS):
        if name in found:
            raise PluginError(
                f"plugin {owners[name]}: loss term {name!r}: expected a name that neither training logs by itself nor "
                "--loss has as a preset. Rename the term."
            )
    return {name: thing if isinstance(thing, Term) else Term.of(thing) for name, thing in found.items()}


@hookimpl
def add_options(group: "argparse._ArgumentGroup") -> None:
    """Add --supervision and the options beside it."""
    for config in (Supervision, Source, Fairness, Speed):
        add_arguments(group, config)


@hookimpl
def configure(args: argparse.Namespace) -> None:
    """Refuse invalid options, 2D supervision without clips, and what the host cannot do with clips.

    The supervision is written back, with what `auto` and options of earlier versions stand for.
    """
    source, supervision = from_args(Source, args), from_args(Supervision, args)
    check_source(source, supervision)
    check_host(source, supervision, args)
    steps = getattr(args, "diffusion_steps", supervision.unroll_steps)
    if supervision.supervision == "2d" and supervision.unroll == "on" and steps < supervision.unroll_steps:
        raise ConfigError(
            f"--diffusion_steps: expected {supervision.unroll_steps} or more, as --unroll_steps says, found {steps}. "
            "Raise it, or choose --unroll off."
        )
    vars(args).update(dataclasses.asdict(supervision))
    for name in OLD_OPTIONS:
        vars(args).pop(name, None)


def check_numbers(args: argparse.Namespace) -> None:
    """Raise ConfigError for a number of the host's own options with which nothing can be trained."""
    for name, (least, most) in NUMBERS.items():
        found = getattr(args, name, least)
        if not (least <= found <= most and math.isfinite(found)):
            expected = f"from {least} to {most}" if math.isfinite(most) else f"not below {least}"
            raise ConfigError(f"--{name}: expected a number {expected}, found {found:g}. Correct it.")
    width, heads = getattr(args, "latent_dim", 0), getattr(args, "num_heads", 4)  # MDM: always 4
    kernel = getattr(args, "conv_kernel", 0)
    if kernel and kernel % 2 == 0:
        raise ConfigError(f"--conv_kernel: expected 0 or an odd number of frames, found {kernel}. Correct it.")
    if getattr(args, "arch", "") != "gru" and (width % heads or width % 2):
        raise ConfigError(
            f"--latent_dim: expected an even number that the {heads} attention heads divide, found {width}. Correct it."
        )
    steps, table = getattr(args, "diffusion_steps", 0), getattr(args, "pos_embed_max_len", math.inf)
    if getattr(args, "noise_schedule", "") == "linear" and steps < LINEAR:
        raise ConfigError(
            f"--diffusion_steps: expected {LINEAR} or more with --noise_schedule linear, which leaves nothing of a "
            f"motion before the last of fewer, found {steps}. Raise it, or choose --noise_schedule cosine."
        )
    if table < steps:
        raise ConfigError(
            f"--pos_embed_max_len: expected {steps} or more, as many as --diffusion_steps, found {table}. Raise it."
        )


def check_stored(args: argparse.Namespace, checkpoint: Path) -> None:
    """Raise HostError where a model with these arguments of args.json cannot be the one in the checkpoint."""
    place = checkpoint.with_name("args.json")
    try:
        check_numbers(args)
    except ConfigError as error:
        raise HostError(f"{place}: {error} Keep each checkpoint beside its own args.json.") from error
    width, layers, wide = (getattr(args, name, 0) for name in ("latent_dim", "layers", "ff_size"))
    least = 2 * layers * width * (4 * width + 2 * wide)  # bytes of half precision
    if checkpoint.is_file() and least > max(checkpoint.stat().st_size, 1 << 20):
        raise HostError(
            f"{place}: expected latent_dim, layers and ff_size of {checkpoint}, found {width}, {layers} and {wide}. "
            "Keep each checkpoint beside its own args.json."
        )


@hookimpl
def make_diffusion(base: type, args: argparse.Namespace, terms: Mapping[str, Term]) -> type | None:
    """Under `2d` a subclass of the host's diffusion class; under `3d` nothing. ConfigError for an unknown term."""
    config = from_args(Supervision, args)
    if config.supervision == "3d":
        return None
    return supervised(base, config, Objective(weights_of(config.loss, terms), terms))


def supervised(base: type, config: Supervision, objective: Objective) -> type:
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
            **_: Any,
        ) -> dict[str, Tensor]:
            """Loss and terms [B], means over the passes of a step; t [B] serves a step that is not unrolled."""
            assert model_kwargs is not None
            assert dataset is not None
            observation, rest = Observation.take(model_kwargs["y"])
            space, network = dataset.space.to(x_start.device), self._wrap_model(model)
            noise = torch.randn_like(x_start) if noise is None else noise
            alpha_bar = torch.as_tensor(self.alphas_cumprod, dtype=x_start.dtype, device=x_start.device)

            def denoise(x_t: Tensor, now: Tensor) -> Tensor:
                return network(x_t, self._scale_timesteps(now), y=rest)

            timesteps = self.timesteps_of(t, observation.known)
            weights, count = [weight for weight in model.parameters() if weight.requires_grad], timesteps.shape[1]
            passes: list[dict[str, Tensor]] = []
            for x, now in unrolled_predictions(denoise, x_start, timesteps, alpha_bar, noise):
                step = Step(x, x_start, now, alpha_bar[now], observation, space, config.z_near, config.depth_weight)
                terms = objective(step)
                if len(passes) + 1 < count:
                    loss = with_gradient_taken(terms["loss"], weights, count)
                    terms = {name: value.detach() for name, value in terms.items()} | {"loss": loss}
                passes.append(terms)
            means = {name: torch.stack([terms[name] for terms in passes]).mean(0) for name in passes[0]}
            return {**means, "passes": torch.full_like(means["loss"], float(len(passes)))}

        def timesteps_of(self, t: Tensor, known: Tensor | None) -> Tensor:
            """Timesteps [B, K] of an unrolled step, or [B, 1]: t itself where nothing is unrolled."""
            if config.unroll == "off":
                return divided(t, known, config.mix_below, self.num_timesteps).unsqueeze(1)
            buckets = TimestepBuckets.of(config.unroll_below, config.unroll_steps, self.num_timesteps)
            total, generator = len(t) * distributed.size(), distributed.common or torch.default_generator
            return buckets.draw(total, generator)[distributed.part(total)].to(t.device)

    return Supervised2D
