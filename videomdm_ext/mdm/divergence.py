"""Numbers that are not finite: a training stops at them, no checkpoint is written with them, none of those is used.

A step is examined by one reduction over its loss and all weights, whose norms are read in one transfer.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from videomdm_ext.errors import HostError
from videomdm_ext.mdm import remedies, resume

MALFORMED = (RuntimeError, LookupError, TypeError, AttributeError, AssertionError, OSError, EOFError, UnpicklingError)
"""What torch and the hosts raise for a file that is no checkpoint."""


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether every number is finite.

    A finite norm says so at once; where one is not, finite numbers may have overflowed in it, and the largest magnitude
    of each tensor, seven times as slow on a CPU, decides.
    """
    alike: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for tensor in tensors:
        if tensor.is_floating_point() and tensor.numel():
            alike.setdefault((tensor.device, tensor.dtype), []).append(tensor.detach())
    return all(_finite_norms(part, 2) or _finite_norms(part, math.inf) for part in alike.values())


def _finite_norms(tensors: Sequence[Tensor], order: float) -> bool:
    """Whether the norms of tensors of one kind are finite; one transfer."""
    return bool(torch.stack(torch._foreach_norm(list(tensors), order)).isfinite().all())


def tensors_in(content: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors of a checkpoint's nested content, with the names of their places joined by dots."""
    if torch.is_tensor(content):
        yield name, content
    elif isinstance(content, Mapping | list | tuple):
        for key, part in content.items() if isinstance(content, Mapping) else enumerate(content):
            yield from tensors_in(part, f"{name}.{key}" if name else str(key))


def first_broken(content: Any) -> str:
    """The name of the first tensor that has a number which is not finite; empty where there is none."""
    if all_finite(tensor for _, tensor in tensors_in(content)):
        return ""
    return next(name for name, tensor in tensors_in(content) if not all_finite([tensor]))


# -- a training -------------------------------------------------------------------------------------------------------


def start_of(args: Any) -> Path | None:
    """The checkpoint that a training with these arguments goes on from, by the rule of both hosts, or None."""
    found = None if getattr(args, "paired", False) else resume.newest(args.save_dir)
    named = getattr(args, "resume_checkpoint", "")
    return found or (Path(named) if named else None)


class Guard:
    """Stops a training at the step whose loss or weights are not finite, and before it saves any such number."""

    def __init__(self, args: Any, weights: Mapping[str, Tensor]) -> None:
        self.args, self.weights = args, weights
        self.good = start_of(args)

    def check_step(self, step: int, loss: Tensor) -> None:
        """Raise HostError where the loss [B] or a weight is not finite after this step."""
        if all_finite([loss, *self.weights.values()]):
            return
        if not all_finite([loss]):
            raise self._error(f"the loss is {loss.mean().item()} at step {step}")
        raise self._error(f"the weight {first_broken(self.weights)} is not finite at step {step}")

    def check_saved(self, content: Any, name: str) -> None:
        """Raise HostError, before anything is written, where what is to be saved under this name is not finite."""
        broken = first_broken(content)
        if broken:
            raise self._error(f"{broken}, which {name} would hold, is not finite")

    def _error(self, what: str) -> HostError:
        last = f"The last good checkpoint is {self.good}" if self.good else "No checkpoint was written before"
        unlimited = getattr(self.args, "gradient_clip", None) == 0  # MDM has no such option
        limit = "or limit the gradient with --gradient_clip 1, " if unlimited else ""
        return HostError(
            f"{self.args.save_dir}: {what}; the training stopped. {last}. Lower --lr, which is {self.args.lr:g}, "
            f"{limit}and train again in another --save_dir."
        )


# -- a checkpoint -----------------------------------------------------------------------------------------------------


def refuse_resumed(args: Any) -> None:
    """Raise HostError where a training would go on from a checkpoint with a number that is not finite."""
    start = start_of(args)
    if start is not None and resume.CHECKPOINT.fullmatch(start.name):
        number = start.name.removeprefix("model")
        refuse(start, start.with_name(f"opt{number}"), start.with_name(f"bundle{number}"))


def refuse(checkpoint: Path, *beside: Path) -> None:
    """Raise HostError where the checkpoint, or a file beside it, holds a number that is not finite.

    What cannot be read is left to the host, which says what is the matter with it.
    """
    for path in (checkpoint, *beside):
        broken = broken_in(path)
        if broken:
            raise HostError(_refusal(path, broken, checkpoint))


def broken_in(path: Path) -> str:
    """The first tensor of a file that is not finite; empty where there is none or the file cannot be read."""
    try:
        with torch.serialization.safe_globals(remedies.numbers()):
            return first_broken(torch.load(path, map_location="cpu", weights_only=True))
    except MALFORMED:
        return ""


def _refusal(path: Path, broken: str, checkpoint: Path) -> str:
    """What to say of a file, and which earlier checkpoint of its folder can be used instead."""
    step = int(match[1]) if (match := resume.CHECKPOINT.fullmatch(checkpoint.name)) else math.inf
    earlier = [other for other in resume.checkpoints(checkpoint.parent) if resume.step_of(other) < step]
    good = next((other for other in reversed(earlier) if not broken_in(other)), None)
    advice = f"Use {good}, the last good one, and remove what is later" if good else "Train again with a lower --lr"
    return f"{path}: expected finite numbers, found others in {broken}, as its training diverged. {advice}."
