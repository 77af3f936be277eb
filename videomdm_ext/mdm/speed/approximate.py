"""Speed for last bits, each only where it is asked for: one pass of guidance, bf16, TF32, torch.compile, texts once.

Unlike the host's other options these are no part of a checkpoint: what the command line of a program says wins over
what args.json records.
"""

import argparse
import functools
import importlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from videomdm_ext.config import Speed, add_arguments, from_args
from videomdm_ext.mdm.speed import texts
from videomdm_ext.mdm.text import encodes

GUIDED = ("utils.sampler_util", "model.cfg_sampler")
"""Modules with a ClassifierFreeSampleModel."""
READ = ("mask", "text", "text_embed", "action", "prefix", "target_cond", "target_joint_names", "is_heading")
"""What a denoiser reads of a batch's condition, one entry a clip."""
HALF = object()
"""Given to `mask_cond` as force_mask: the second half of the batch has no condition."""
TEXTS = 200_000
"""Texts whose features are kept, 2 KB each; the one longest unused is forgotten first."""

_one_pass = False


def from_command_line(args: argparse.Namespace, argv: Sequence[str]) -> None:
    """Write the Speed options that `argv` names into `args`, over what args.json has put there."""
    parser = argparse.ArgumentParser(add_help=False)
    add_arguments(parser.add_argument_group("speed"), Speed)
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    for name, value in vars(parser.parse_known_args(list(argv))[0]).items():
        setattr(args, name, value)


def activate(args: argparse.Namespace, argv: Sequence[str]) -> Speed:
    """Make the process as fast as the options say. -> the options; `quicker` makes the denoiser fit them."""
    global _one_pass
    from_command_line(args, argv)
    speed = from_args(Speed, args)
    if speed.tf32:
        torch.set_float32_matmul_precision("high")
    _one_pass = speed.one_pass_guidance
    for name in GUIDED if _one_pass or getattr(args, "unconstrained", False) else ():
        if importlib.util.find_spec(name) is not None:
            guide_in_one_pass(importlib.import_module(name).ClassifierFreeSampleModel)
    return speed


# -- the denoiser -----------------------------------------------------------------------------------------------------


def quicker(base: type, speed: Speed) -> type:
    """The host's MDM as `speed` says; `base` itself where it asks for nothing that concerns the denoiser.

    With `encode_once`, a text's features depend on nothing but the text, so that a resumed training sees the same ones.
    A copy of the model, such as the moving average, shares them.
    """
    if speed.autocast == "off" and not (speed.compile_model or speed.encode_once):
        return base

    class Quicker(base):
        def __init__(self, *positional: Any, **named: Any) -> None:
            super().__init__(*positional, **named)
            if speed.compile_model:
                _compile(self)
            self._features_of = functools.lru_cache(TEXTS)(self._encode_alone)

        def forward(self, x: Tensor, timesteps: Tensor, *rest: Any, **named: Any) -> Tensor:
            with torch.autocast(x.device.type, torch.bfloat16, enabled=speed.autocast == "bf16"):
                output: Tensor = super().forward(x, timesteps, *rest, **named)
            return output.float()

        def load_and_freeze_clip(self, clip_version: str) -> Any:
            tower = super().load_and_freeze_clip(clip_version)
            if speed.encode_once and hasattr(tower, "token_embedding"):
                tower.encode_text = functools.partial(encode_kept, tower, kept_of(tower))
            return tower

        def _encode(self, raw_text: Any) -> Any:
            device = next(self.parameters()).device
            with torch.autocast(device.type, enabled=False):
                if not speed.encode_once:
                    return getattr(super(), name)(raw_text)
                rows = texts.spread(self._features_of, raw_text, device)
                return torch.cat(rows, dim=-2).to(device)

        def _encode_alone(self, text: str) -> Any:
            return getattr(super(), name)([text])

        def bert_encode_text(self, raw_text: Any) -> Any:
            with torch.autocast(next(self.parameters()).device.type, enabled=False):
                return super().bert_encode_text(raw_text)

    name = encodes(base)
    setattr(Quicker, name, Quicker._encode)
    return Quicker


def kept_of(tower: Any) -> texts.OnDisk:
    """CLIP's text tower in single precision, also where the host halves it, and where its features are kept.

    Processors without half precision take several times as long for it.
    """
    tower.transformer.float()
    tower.text_projection.data = tower.text_projection.data.float()
    parts = ("transformer", "token_embedding", "ln_final")
    weights = [weight for part in parts for weight in getattr(tower, part).parameters()]
    weights += [tower.positional_embedding, tower.text_projection]
    return texts.OnDisk(functools.partial(texts.identity, "CLIP, alone, 1", weights))


def encode_kept(tower: Any, kept: texts.OnDisk, tokens: Tensor) -> Tensor:
    """CLIP's features of the tokens [1, L] of one text. -> [1, C]"""
    known = tokens[0, : int(tokens.argmax()) + 1]
    key = " ".join(map(str, known.tolist()))
    return kept(key, lambda: encode_alone(tower, known), tokens.device).to(tokens.device)[None]


def encode_alone(tower: Any, tokens: Tensor) -> Tensor:
    """CLIP's features [C] of the tokens [L] of a text up to its end, which is the highest.

    The tower is causal and its features are read at the end, so what follows cannot matter but for last bits. Tokens
    are columns: products with few columns are half again as quick as those with few rows.
    """
    count = len(tokens)
    x = (tower.token_embedding(tokens) + tower.positional_embedding[:count]).T
    for block in tower.transformer.resblocks:
        attention, (up, bend, down) = block.attn, block.mlp
        of_all = attention.in_proj_weight @ block.ln_1(x.T).T + attention.in_proj_bias[:, None]
        queries, keys, values = of_all.view(3, attention.num_heads, -1, count)
        scores = queries.transpose(1, 2) @ keys / attention.head_dim**0.5 + block.attn_mask[:count, :count].to(x)
        mixed = (values @ scores.softmax(-1).transpose(1, 2)).reshape(-1, count)
        x = x + attention.out_proj.weight @ mixed + attention.out_proj.bias[:, None]
        x = x + down.weight @ bend(up.weight @ block.ln_2(x.T).T + up.bias[:, None]) + down.bias[:, None]
    features: Tensor = tower.ln_final(x[:, -1]) @ tower.text_projection
    return features


def _compile(denoiser: Any) -> None:
    """Compile the transformer in place; names of weights stay. A recurrent denoiser has nothing to gain.

    Its class gets the compiled function, and not the module: a copy would call the one it was copied from. The function
    is ours, because torch.compile leaves the code of torch.nn alone, as it does with Module.compile.
    """
    for name in ("seqTransEncoder", "seqTransDecoder"):
        if hasattr(denoiser, name):
            part = getattr(denoiser, name)
            part.__class__ = _compiled(type(part))


def _compiled(base: type) -> type:
    def forward(self: Any, *rest: Any, **named: Any) -> Any:
        return base.forward(self, *rest, **named)  # type: ignore[attr-defined]

    return type(base.__name__, (base,), {"forward": torch.compile(forward)})


# -- guidance ---------------------------------------------------------------------------------------------------------


def guide_in_one_pass(guided: Any) -> None:
    """Give the class ClassifierFreeSampleModel a forward of one pass where that is surely the same. Repeatable.

    A model trained with --unconstrained has nothing to be guided by: one pass is all there is.
    """
    own: Callable[..., Tensor] = guided.forward
    if hasattr(own, "__wrapped__"):
        return

    @functools.wraps(own)
    def forward(self: Any, x: Tensor, timesteps: Tensor, y: dict[str, Any] | None = None) -> Tensor:
        model, twice = self.model, None
        if model.cond_mode == "no_cond":
            alone: Tensor = model(x, timesteps, y)
            return alone
        if _one_pass and y is not None and not model.training and model.cond_mode in ("text", "action"):
            twice = doubled(model, y, len(x))
        if y is None or twice is None:
            return own(self, x, timesteps, y)
        with _half_masked(model):
            both = model(torch.cat([x, x]), torch.cat([timesteps, timesteps]), twice)
        conditional, free = both.chunk(2)
        return free + y["scale"].view(-1, 1, 1, 1) * (conditional - free)

    guided.forward = forward


def doubled(model: Any, y: Mapping[str, Any], count: int) -> dict[str, Any] | None:
    """The condition of a batch and, behind it, of the same batch unconditionally; None where that is not sure.

    MDM's recurrent denoiser runs over the clips of a batch as if they were its frames, so it needs them as they are.
    """
    if getattr(model, "arch", "") == "gru":
        return None
    if "text_embed" not in y and "text" in model.cond_mode:
        y = {**y, "text_embed": model.encode_text(y["text"])}
    twice: dict[str, Any] = {key: y[key] for key in ("target_uncond",) if key in y}
    for key in READ:
        if key in y:
            double = _double_text(y[key], count) if key == "text_embed" else _double(y[key], count)
            if double is None:
                return None
            twice[key] = double
    return {**twice, "uncond": HALF}


def _double(value: Any, count: int, axis: int = 0) -> Any | None:
    """A value with one entry a clip, along `axis` of a tensor, twice."""
    if torch.is_tensor(value) and value.ndim > axis and value.shape[axis] == count:
        return torch.cat([value, value], axis)
    if isinstance(value, np.ndarray) and value.shape[:1] == (count,):
        return np.concatenate([value, value])
    return list(value) * 2 if isinstance(value, list | tuple) and len(value) == count else None


def _double_text(features: Any, count: int) -> Any | None:
    """Features [L, B, C] or [B, C], or BERT's with which of the tokens are padding, [B, L]."""
    if not isinstance(features, tuple):
        return _double(features, count, features.ndim - 2) if torch.is_tensor(features) else None
    both = _double_text(features[0], count), _double(features[1], count)
    return None if both[0] is None or both[1] is None else both


@contextmanager
def _half_masked(model: Any) -> Iterator[None]:
    """Within, the denoiser hides the condition of a batch's second half where it is told HALF."""
    own = model.mask_cond

    def mask_cond(cond: Tensor, force_mask: Any = False) -> Tensor:
        if force_mask is not HALF:
            masked: Tensor = own(cond, force_mask=force_mask)
            return masked
        first, second = cond.chunk(2, dim=-2)
        return torch.cat([first, torch.zeros_like(second)], dim=-2)

    vars(model)["mask_cond"] = mask_cond
    try:
        yield
    finally:
        del vars(model)["mask_cond"]
