"""Savings in MDM's own modules that leave every bit of a result as it was."""

import functools
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from videomdm_ext.mdm import imports

logger = logging.getLogger(__name__)

TABLES = 64
"""Schedule tables kept on their device, a few KB each; the one longest unused is forgotten first."""
Table = np.ndarray[Any, Any]
Extract = Callable[[Table, Tensor, Sequence[int]], Tensor]


def attach() -> None:
    """Arrange for the changes, each right after its module is imported. Repeating it is harmless."""
    imports.after("diffusion.gaussian_diffusion", keep_tables)
    imports.after("diffusion.respace", keep_map)
    imports.after("diffusion.fp16_util", fetch_norms_at_once)


class Kept:
    """Tensors by what they are made of, as many as TABLES."""

    def __init__(self) -> None:
        self.tensors: OrderedDict[Any, Tensor] = OrderedDict()

    def get(self, key: Any, make: Callable[[], Tensor]) -> Tensor:
        if key not in self.tensors:
            self.tensors[key] = make()
            if len(self.tensors) > TABLES:
                self.tensors.popitem(last=False)
        self.tensors.move_to_end(key)
        return self.tensors[key]


# -- the schedule -----------------------------------------------------------------------------------------------------

_tables = Kept()


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
    key = (table.tobytes(), table.dtype.str, timesteps.device)
    kept = _tables.get(key, lambda: torch.from_numpy(table.copy()).to(timesteps.device))
    values = kept[timesteps].float()
    return values.view(-1, *(1,) * (len(shape) - 1)).expand(tuple(shape))


def keep_map(module: ModuleType) -> None:
    """Make the tensor that maps a spaced schedule's timesteps once for each schedule."""
    wrapped: Any = module._WrappedModel
    kept: OrderedDict[Any, tuple[list[int], list[int], Tensor]] = OrderedDict()

    def tensor_of(steps: list[int], like: Tensor) -> Tensor:
        key = (id(steps), like.device, like.dtype)
        entry = kept.get(key)
        if entry is None or entry[1] != steps:
            made = torch.tensor(steps, device=like.device, dtype=like.dtype)
            entry = kept[key] = (steps, list(steps), made)
            if len(kept) > TABLES:
                kept.popitem(last=False)
        return entry[2]

    def call(self: Any, x: Tensor, ts: Tensor, **named: Any) -> Any:
        steps = tensor_of(self.timestep_map, ts)[ts]
        if self.rescale_timesteps:
            steps = steps.float() * (1000.0 / self.original_num_steps)
        return self.model(x, steps, **named)

    wrapped.__call__ = call


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


class Average:
    """A moving average of many weights in few operations, checked at its first use against one weight at a time.

    Half-precision weights go one at a time: all at once, the factor would be rounded to their precision first.
    """

    def __init__(self, averages: Sequence[Tensor], weights: Sequence[Tensor], beta: float) -> None:
        pairs = list(zip(averages, weights, strict=True))
        self.single = [pair for pair in pairs if pair[0].dtype != torch.float32]
        self.together = [pair for pair in pairs if pair[0].dtype == torch.float32]
        self.beta, self.examined = beta, False

    @torch.no_grad()
    def update(self) -> None:
        """average = beta average + (1 - beta) weight"""
        self._one_by_one(self.single)
        if not self.together:
            return
        if not self.examined:
            self._examine()
            return
        self._at_once(self.together)

    def _examine(self) -> None:
        self.examined = True
        slow = [(average.clone(), weight) for average, weight in self.together]
        self._one_by_one(slow)
        self._at_once(self.together)
        if not all(torch.equal(ours, own) for (ours, _), (own, _) in zip(self.together, slow, strict=True)):
            logger.info("averaging all weights at once gives other bits on this device; they are averaged one by one")
            for (ours, _), (own, _) in zip(self.together, slow, strict=True):
                ours.copy_(own)
            self.single, self.together = self.single + self.together, []

    def _at_once(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
        averages, weights = map(list, zip(*pairs, strict=True))
        torch._foreach_mul_(averages, self.beta)
        torch._foreach_add_(averages, weights, alpha=1 - self.beta)

    def _one_by_one(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
        for average, weight in pairs:
            average.mul_(self.beta).add_(weight, alpha=1 - self.beta)


def averaged(model: Any, average: Any, *, frozen: bool) -> tuple[list[Tensor], list[Tensor]]:
    """The averages to move and their weights; of the text encoder, which is never saved, only with `frozen`."""
    pairs = [
        (mean, weight)
        for (name, weight), mean in zip(model.named_parameters(), average.parameters(), strict=True)
        if frozen or weight.requires_grad or not name.startswith("clip_model.")
    ]
    return [mean for mean, _ in pairs], [weight for _, weight in pairs]


# -- batches ----------------------------------------------------------------------------------------------------------


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
            y = {name: self._moved(value) for name, value in condition["y"].items()}
            yield self._moved(motion), {**condition, "y": y}

    def _moved(self, value: Any) -> Any:
        return value.to(self.device, non_blocking=True) if torch.is_tensor(value) else value

    def __getattr__(self, name: str) -> Any:
        if name == "data" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.data, name)
