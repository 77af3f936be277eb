"""One training in several processes, as torchrun starts them, each with an equal part of every batch (PyTorch's DDP).

--batch_size is that of all processes together, and every loss is a mean over clips, so that the mean of the processes'
gradients is the gradient of the whole batch. The process of rank 0 alone writes, reports, evaluates and samples.
"""

import argparse
import atexit
import datetime
import io
import logging
import os
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, Sampler

from videomdm_ext.errors import ConfigError, HostError

TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Variables in the environment of a process that torchrun has started."""
PATIENCE = 15.0
"""Seconds after which a process above rank 0 that fails says why; if rank 0 has the same to say, it ends all before."""
UNLIMITED = datetime.timedelta(days=30)
"""How long the others wait for rank 0, which may evaluate for hours; torchrun ends all where one dies."""

common: torch.Generator | None = None
"""Of a training without --paired: what is drawn alike in all processes. None: torch's own generator is."""
_finished = False


# -- start and end ----------------------------------------------------------------------------------------------------


def launched() -> bool:
    """Whether torchrun has started this process beside others."""
    return all(os.environ.get(name) for name in TORCHRUN) and int(os.environ["WORLD_SIZE"]) > 1


def check_one_process() -> None:
    """Raise HostError in one of several processes, as torchrun, mpirun or srun start them."""
    alone_if = {"WORLD_SIZE": "1", "RANK": "0", "OMPI_COMM_WORLD_SIZE": "1", "PMI_SIZE": "1"}
    if "SLURM_PROCID" in os.environ:  # a step of srun; a batch script alone has the other variable too
        alone_if["SLURM_NTASKS"] = "1"
    for name, alone in alone_if.items():
        found = os.environ.get(name, "") or alone
        if found != alone:
            raise HostError(
                f"{name}={found}: expected one process, as each would do the same into one folder. A training can be "
                f"started as several by torchrun; start all else without it, mpirun or srun, or unset {name}."
            )


def check_parts(args: argparse.Namespace) -> None:
    """Raise ConfigError where the processes cannot share a training with these arguments."""
    if not launched():
        return
    count, local = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_RANK"])
    if args.batch_size % count:
        nearest = max(1, round(args.batch_size / count)) * count
        raise ConfigError(
            f"--batch_size: expected a multiple of {count}, the number of processes, which share a batch, found "
            f"{args.batch_size}. Choose {nearest}, or start another number of processes."
        )
    if _on_gpu(args) and (args.device or local >= torch.cuda.device_count()):
        raise ConfigError(
            f"--device {args.device}: expected 0 and a GPU for each process of a machine, found "
            f"{torch.cuda.device_count()} for number {local} here. Start fewer, choose GPUs with CUDA_VISIBLE_DEVICES, "
            "or pass --device -1 to train on the CPU."
        )


def _on_gpu(args: argparse.Namespace) -> bool:
    return torch.cuda.is_available() and getattr(args, "cuda", True) and args.device >= 0


def join(args: argparse.Namespace) -> None:
    """Meet the other processes. From then on one above rank 0 has a folder of its own, which is thrown away."""
    global common, _finished
    common, _finished = None, False
    on_gpu, local = _on_gpu(args), int(os.environ["LOCAL_RANK"])
    if on_gpu:
        torch.cuda.set_device(local)
        args.device = local
    if not distributed.is_initialized():
        distributed.init_process_group("nccl" if on_gpu else "gloo", timeout=UNLIMITED)
        atexit.register(_leave)
    distributed.barrier(device_ids=[local] if on_gpu else None)
    if rank():
        folder = tempfile.mkdtemp(prefix="videomdm-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        args.save_dir, args.train_platform_type = os.path.join(folder, f"rank{rank()}"), "NoPlatform"
        args.eval_during_training = args.gen_during_training = False
        os.environ["OPENAI_LOGDIR"] = folder


def finish() -> None:
    """The training has come to its end: nobody waits for this process any more."""
    global _finished
    _finished = True


def _leave() -> None:
    if _finished:
        distributed.destroy_process_group()


class Held(io.TextIOBase):
    """A stream whose end is kept."""

    def __init__(self) -> None:
        self.kept: deque[str] = deque(maxlen=400)

    def write(self, text: str) -> int:
        self.kept.append(text)
        return len(text)


def hush() -> None:
    """Silence the processes above rank 0, as all have the same to say. Repeating it is harmless."""
    if not launched() or os.environ["RANK"] == "0" or isinstance(sys.stderr, Held):
        return
    own, held = sys.stderr, Held()
    sys.stdout, sys.stderr = Held(), held
    for handler in logging.root.handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(held)
    signal.signal(signal.SIGINT, signal.SIG_DFL)

    def speak() -> None:
        if not _finished:
            time.sleep(PATIENCE)
            own.write(f"process {os.environ['RANK']}: " + "".join(held.kept).rpartition("\r")[2])
            own.flush()

    atexit.register(speak)


# -- parts of a whole -------------------------------------------------------------------------------------------------


def size() -> int:
    """The number of processes that have met."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return distributed.get_rank() if size() > 1 else 0


def part(total: int) -> slice:
    """Which of `total` things, a multiple of the number of processes, are this one's."""
    each = total // size()
    return slice(rank() * each, (rank() + 1) * each)


def parts_of(draw: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
    """A function of a count which draws for all processes and returns this one's parts."""

    def drawn(count: int, *rest: Any, **named: Any) -> tuple[Any, ...]:
        total = count * size()
        return tuple(values[part(total)] for values in draw(total, *rest, **named))

    return drawn


class Parts(Sampler[list[Any]]):
    """This process's part of each batch of a sampler that is alike in all."""

    def __init__(self, batches: Any) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Any]]:
        for batch in self.batches:
            yield batch[part(len(batch))]


def shared(data: "DataLoader[Any]", seed: int) -> "DataLoader[Any]":
    """The host's loader with this process's part of each batch; their order comes from `seed` or its own generator."""
    if size() == 1:
        return data
    if data.generator is None:
        vars(data.sampler)["generator"] = torch.Generator().manual_seed(seed)
    return DataLoader(
        data.dataset,
        batch_sampler=Parts(data.batch_sampler),
        collate_fn=data.collate_fn,
        num_workers=data.num_workers,
        persistent_workers=data.persistent_workers,
        generator=data.generator,
    )


class SharedDropout(TorchDispatchMode):
    """Within, dropout on a CPU draws for the clips of all processes and takes this one's.

    The clips of a sequence [T, B, d] lie along its second axis, those of attention [B, H, T, T] along its first.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not torch.ops.aten.bernoulli_.float:
            return func(*args, **(kwargs or {}))
        noise, keep = args
        shape, axis = list(noise.shape), 1 if noise.ndim == 3 else 0
        shape[axis] *= size()
        whole = noise.new_empty(shape).bernoulli_(keep).movedim(axis, 0)
        return noise.copy_(whole[part(len(whole))].movedim(0, axis))


# -- a step -----------------------------------------------------------------------------------------------------------


def share(loop: Any, *, sparse: bool = False) -> None:
    """Let a host's loop train with gradients of all clips, and draw timesteps for all. `sparse`: a step may leave
    weights out."""
    loop.ddp_model = loop.model
    if size() > 1:
        loop.use_ddp, loop.ddp_model = True, wrapped(loop.model, sparse)
        loop.schedule_sampler.sample = parts_of(loop.schedule_sampler.sample)


def wrapped(model: nn.Module, sparse: bool) -> nn.Module:
    """The model in PyTorch's DDP, with the model's own attributes."""
    from torch.nn.parallel import DistributedDataParallel

    class Distributed(DistributedDataParallel):
        def __getattr__(self, name: str) -> Any:
            try:
                return super().__getattr__(name)
            except AttributeError:
                return getattr(super().__getattr__("module"), name)

    # Several passes go before a backward: buffers that are sent along would change under the earlier ones.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        return Distributed(model, broadcast_buffers=False, find_unused_parameters=sparse)


def gathered(values: Tensor) -> Tensor:
    """The values [..., B] of all processes, along the last axis: the same in each."""
    if size() == 1:
        return values
    parts = [torch.empty_like(values) for _ in range(size())]
    distributed.all_gather(parts, values.contiguous())
    return torch.cat(parts, dim=-1)


def gathered_terms(terms: dict[str, Tensor]) -> dict[str, Tensor]:
    """Loss terms [B] of all clips, for the log."""
    if size() == 1:
        return terms
    return dict(zip(terms, gathered(torch.stack([value.detach() for value in terms.values()])), strict=True))
