"""Savings in MDM's own modules that leave every bit of a result as it was.

Each does the host's own operations on the host's own numbers, one tensor at a time; it only leaves out what nobody
reads, and copies between devices. What might round otherwise somewhere is in approximate.py, and asked for by name.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from videomdm_ext.mdm import imports
from videomdm_ext.mdm.text import encodes

TABLES = 64
"""Schedule tables kept on their device, a few KB each; the one longest unused is forgotten first."""
Table = np.ndarray[Any, Any]
Extract = Callable[[Table, Tensor, Sequence[int]], Tensor]


def attach() -> None:
    """Arrange for the changes, each right after its module is imported. Repeating it is harmless."""
    imports.after("diffusion.gaussian_diffusion", keep_tables)
    imports.after("diffusion.respace", keep_map)
    imports.after("diffusion.fp16_util", fetch_norms_at_once)


# -- the schedule -----------------------------------------------------------------------------------------------------


def keep_tables(module: ModuleType) -> None:
    """Look schedule values up in tables that are on the device; on the CPU the host's own way costs no copy."""
    own: Extract = module._extract_into_tensor

    @functools.wraps(own)
    def extract(arr: Table, timesteps: Tensor, broadcast_shape: Sequence[int]) -> Tensor:
        if timesteps.device.type == "cpu":
            return own(arr, timesteps, broadcast_shape)
        return look_up(arr, timesteps, broadcast_shape)

    module._extract_into_tensor = extract  # type: ignore[attr-defined]


def look_up(table: Table, timesteps: Tensor, shape: Sequence[int]) -> Tensor:
    """The table's values at the timesteps [B] in float32, along the first axis of `shape`.

    Tables are told apart by content: the host makes some of them anew for each use.
    """
    kept = _table(table.tobytes(), table.dtype.str, timesteps.device)
    values = kept[timesteps].float()
    return values.view(-1, *(1,) * (len(shape) - 1)).expand(tuple(shape))


@functools.lru_cache(TABLES)
def _table(content: bytes, kind: str, device: torch.device) -> Tensor:
    return torch.from_numpy(np.frombuffer(content, kind).copy()).to(device)


@functools.lru_cache(TABLES)
def _steps(steps: tuple[int, ...], device: torch.device, kind: torch.dtype) -> Tensor:
    return torch.tensor(steps, device=device, dtype=kind)


def keep_map(module: ModuleType) -> None:
    """Make the tensor that maps a spaced schedule's timesteps once for each schedule."""

    def call(self: Any, x: Tensor, ts: Tensor, **named: Any) -> Any:
        steps = _steps(tuple(self.timestep_map), ts.device, ts.dtype)[ts]
        if self.rescale_timesteps:
            steps = steps.float() * (1000.0 / self.original_num_steps)
        return self.model(x, steps, **named)

    module._WrappedModel.__call__ = call


# -- norms and the average --------------------------------------------------------------------------------------------


def fetch_norms_at_once(module: ModuleType) -> None:
    """Let the trainer read all norms of weights and gradients with one transfer; frozen weights keep theirs."""
    trainer: Any = module.MixedPrecisionTrainer

    def compute_norms(self: Any, grad_scale: float = 1.0) -> tuple[Any, Any]:
        gradient, weight = norms(self.master_params, vars(self).setdefault("_videomdm_frozen", {}))
        return np.sqrt(gradient) / grad_scale, np.sqrt(weight)

    trainer._compute_norms = compute_norms


@torch.no_grad()
def norms(parameters: Sequence[Tensor], frozen: dict[int, tuple[tuple[int, int], float]]) -> tuple[float, float]:
    """Squared norms of all gradients and of all weights, added up in the weights' order.

    `frozen` holds the norms of weights that are not trained, with what would show that they have changed.
    """
    known = [_known(parameter, frozen) for parameter in parameters]
    asked = [parameter for parameter, norm in zip(parameters, known, strict=True) if norm is None]
    graded = [parameter.grad for parameter in parameters if parameter.grad is not None]
    tensors = [torch.norm(tensor, p=2, dtype=torch.float32) for tensor in (*asked, *graded)]
    fetched = iter(torch.stack(tensors).tolist() if tensors else [])
    weight = gradient = 0.0
    for parameter, norm in zip(parameters, known, strict=True):
        if norm is None:
            norm = next(fetched)
            if not parameter.requires_grad:
                frozen[id(parameter)] = (_stamp(parameter), norm)
        weight += norm**2
    for norm in fetched:
        gradient += norm**2
    return gradient, weight


def _known(parameter: Tensor, frozen: dict[int, tuple[tuple[int, int], float]]) -> float | None:
    stamp, norm = frozen.get(id(parameter), ((0, 0), 0.0))
    return norm if not parameter.requires_grad and stamp == _stamp(parameter) else None


def _stamp(parameter: Tensor) -> tuple[int, int]:
    return parameter.data_ptr(), parameter._version


@torch.no_grad()
def move_average(model: Any, average: Any, beta: float, *, frozen: bool) -> None:
    """average = beta average + (1 - beta) weight; of the text encoder, which is never saved, only with `frozen`."""
    for (name, weight), mean in zip(model.named_parameters(), average.parameters(), strict=True):
        if frozen or weight.requires_grad or not name.startswith("clip_model."):
            mean.mul_(beta).add_(weight, alpha=1 - beta)


# -- texts ------------------------------------------------------------------------------------------------------------


def keep_last_text(denoiser: type) -> None:
    """Let the host's denoiser encode a batch of texts once where it is asked for them again and again. Repeatable.

    Evaluation asks twice at every step of guided sampling, and an unrolled step of training at each pass. The same
    texts in the same batch on the same device go through the same products, so the features are the same bits.
    """
    name = encodes(denoiser)
    own = getattr(denoiser, name, None)
    if own is None or hasattr(own, "__wrapped__"):
        return

    @functools.wraps(own)
    def encode(self: Any, raw_text: Sequence[str]) -> Any:
        asked = tuple(raw_text), next(self.parameters()).device
        known = vars(self).get("_videomdm_last_text")
        if known is not None and known[0] == asked:
            return known[1].clone()
        features = own(self, raw_text)
        encoder = getattr(self, "clip_model", None)
        if isinstance(encoder, nn.Module) and not any(weight.requires_grad for weight in encoder.parameters()):
            vars(self)["_videomdm_last_text"] = asked, features.clone()
        return features

    setattr(denoiser, name, encode)


# -- batches ----------------------------------------------------------------------------------------------------------


def on_device(y: Mapping[str, Any], device: torch.device, *, non_blocking: bool = False) -> dict[str, Any]:
    """A batch's condition with its tensors on the device."""
    found = {name: value.to(device, non_blocking=non_blocking) for name, value in y.items() if torch.is_tensor(value)}
    return {**y, **found}


class OnDevice:
    """A loader whose batches come on the device, copied from pinned memory while the device works."""

    def __init__(self, data: Any, device: torch.device) -> None:
        self.data, self.device = data, device
        if isinstance(data, DataLoader) and device.type == "cuda":
            data.pin_memory = True

    def __len__(self) -> int:
        return len(self.data)

    def __iter__(self) -> Iterator[tuple[Tensor, dict[str, Any]]]:
        for motion, condition in self.data:
            y = on_device(condition["y"], self.device, non_blocking=True)
            yield motion.to(self.device, non_blocking=True), {**condition, "y": y}

    def __getattr__(self, name: str) -> Any:
        if name == "data" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.data, name)
