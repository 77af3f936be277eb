"""Own random streams of a paired run: each draw depends on the seed, its purpose and its place in the run alone.

So two arms see the same order, crops, captions, timesteps, noise and hidden conditions, whatever else they draw, and
a resumed run goes on where another would have been.
"""

import argparse
import hashlib
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from videomdm_ext.config import Fairness, from_args
from videomdm_ext.mdm import distributed
from videomdm_ext.mdm.imports import Beside, swapped


def derive(seed: int, *label: int | str) -> int:
    """A seed below 2^63 for the purpose that `label` names: a stable hash of both."""
    words = "/".join(map(str, (seed, *label)))
    return int.from_bytes(hashlib.sha256(words.encode()).digest()[:8], "big") >> 1


def trains_paired(args: argparse.Namespace) -> bool:
    """Whether the arguments are those of a training with --paired; what samples or evaluates has no save_dir."""
    return from_args(Fairness, args).paired and hasattr(args, "save_dir") and hasattr(args, "num_steps")


def seed_all(seed: int) -> None:
    """Seed the global generators of Python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    seed_torch(seed)


def seed_torch(seed: int) -> None:
    """What torch.manual_seed does for the CPU and CUDA, without its wait for devices that are not in use (1 ms)."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(seed)


def random_states() -> dict[str, Any]:
    """States of the global generators of Python, numpy and torch, as plain values and tensors."""
    kind, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_states(states: dict[str, Any]) -> None:
    """Undo what was drawn since `random_states`."""
    random.setstate(states["python"])
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"][: torch.cuda.device_count()])


@contextmanager
def preserved() -> Iterator[None]:
    """What is drawn within leaves no trace."""
    states = random_states()
    try:
        yield
    finally:
        restore_random_states(states)


# -- data -------------------------------------------------------------------------------------------------------------


class Keyed(Dataset[Any]):
    """A dataset of the host whose item (epoch, index) is drawn from a stream of its own.

    A dataset with `set_epoch` does that itself; another one finds the global generators seeded. The epoch comes with
    the index, so that workers which live on need not be told. Everything else is the dataset's own.
    """

    def __init__(self, dataset: Any, seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, place: tuple[int, int]) -> Any:
        epoch, index = place
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)
            return self.dataset[index]
        # not `preserved`, as a worker may be a fork of a process that uses CUDA, and so cannot ask for its states
        before = random.getstate(), np.random.get_state(), torch.get_rng_state()
        seed = derive(self.seed, "item", epoch, index)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.default_generator.manual_seed(seed)
        try:
            return self.dataset[index]
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])
            torch.set_rng_state(before[2])

    def __getattr__(self, name: str) -> Any:
        if name == "dataset" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.dataset, name)


class Order(Sampler[list[tuple[int, int]]]):
    """Whole batches of (epoch, index): a permutation that depends on the seed and the epoch alone."""

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.epoch = self.start = 0

    def begin(self, epoch: int, start: int) -> None:
        """The next pass is over this epoch, from its batch `start` on."""
        self.epoch, self.start = epoch, start

    def __len__(self) -> int:
        return self.count // self.batch_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        generator = torch.Generator().manual_seed(derive(self.seed, "order", self.epoch))
        indices = torch.randperm(self.count, generator=generator).tolist()
        epoch, size = self.epoch, self.batch_size
        for batch in range(self.start, len(self)):
            yield [(epoch, index) for index in indices[batch * size : (batch + 1) * size]]


def keyed_loader(data: Any, seed: int) -> tuple["DataLoader[Any]", Order]:
    """The host's loader made anew with keyed draws, and what tells it where to begin. Its workers live on."""
    order = Order(len(data.dataset), data.batch_size, seed)
    loader: DataLoader[Any] = DataLoader(
        Keyed(data.dataset, seed),
        batch_sampler=order,
        collate_fn=data.collate_fn,
        num_workers=data.num_workers,
        persistent_workers=data.num_workers > 0,
    )
    vars(loader)["batch_size"] = data.batch_size  # which forks read; torch keeps none beside a sampler of batches
    return loader, order


def fresh_dataset_class(get_dataset_class: Callable[..., type], seed: int) -> Callable[..., type]:
    """The host's `get_dataset_class`, with classes that read the files as they are now and leave its cache alone.

    The names of sub-clips, which MDM draws while it reads, come from a stream of their own.
    """

    def get(name: str, *rest: Any) -> type:
        own: Any = get_dataset_class(name, *rest)
        if name not in ("humanml", "kit"):  # MDM keeps these in a file beside the program, whatever the data are
            return own
        module = sys.modules[own.__module__]

        class Fresh(own):
            def __init__(self, *positional: Any, **named: Any) -> None:
                numpy = Beside(vars(module)["np"], save=lambda *_, **__: None)
                with preserved(), swapped(module, np=numpy):
                    seed_all(derive(seed, "dataset", named.get("split", "train")))
                    super().__init__(*positional, **{**named, "use_cache": False})

        Fresh.__module__ = own.__module__
        return Fresh

    return get


# -- a step -----------------------------------------------------------------------------------------------------------


def paired_diffusion(base: type, seed: int) -> type:
    """A subclass of the host's diffusion whose training losses draw from the streams of the step that began."""

    class PairedDiffusion(base):
        paired_step: int | None = None

        def begin_step(self, step: int) -> None:
            """Timesteps and whatever else comes before the loss; call it before they are drawn."""
            self.paired_step = step
            seed_all(derive(seed, "timesteps", step))

        def training_losses(
            self, model: Any, x_start: Tensor, *rest: Any, noise: Tensor | None = None, **named: Any
        ) -> dict[str, Tensor]:
            step = self.paired_step
            if step is None:
                losses: dict[str, Tensor] = super().training_losses(model, x_start, *rest, noise=noise, **named)
                return losses
            noise = keyed_noise(x_start, derive(seed, "noise", step)) if noise is None else noise
            seed_torch(derive(seed, "unrolling", step))
            begin = getattr(model, "begin_step", lambda step: None)
            begin(step)
            try:
                losses = super().training_losses(model, x_start, *rest, noise=noise, **named)
            finally:
                begin(None)
            return losses

    return PairedDiffusion


def keyed_noise(x_start: Tensor, seed: int) -> Tensor:
    """Gaussian noise like x_start, drawn on the CPU, for all processes, so that every device gets the same."""
    generator = torch.Generator().manual_seed(seed)
    total = len(x_start) * distributed.size()
    noise = torch.randn((total, *x_start.shape[1:]), generator=generator, dtype=x_start.dtype)
    return noise[distributed.part(total)].to(x_start.device)


def spread(args: argparse.Namespace, step: int) -> None:
    """Give each process of a training without --paired, from this step on, global generators of its own."""
    if distributed.size() > 1 and not from_args(Fairness, args).paired:
        distributed.common = torch.Generator().manual_seed(derive(args.seed, "common", step))
        seed_all(derive(args.seed, "process", distributed.rank(), step))


def paired_model(base: type, seed: int) -> type:
    """A subclass of the host's MDM: initial weights, dropout and hidden conditions have streams of their own.

    Dropout starts anew at the first pass of a step, so that what a step draws before it does not matter. Several
    processes draw both for the clips of all; on a GPU, dropout in each has a stream of its own.
    """

    class PairedModel(base):
        paired_step: int | None = None
        passes = masks = 0

        def __init__(self, *positional: Any, **named: Any) -> None:
            seed_torch(derive(seed, "weights"))
            super().__init__(*positional, **named)

        def begin_step(self, step: int | None) -> None:
            """The next pass is the first of this step; None after its last."""
            self.paired_step = step
            self.passes = self.masks = 0

        def forward(self, x: Tensor, timesteps: Tensor, *rest: Any, **named: Any) -> Tensor:
            if self.paired_step is not None and self.passes == 0:
                other = (distributed.rank(),) if x.is_cuda and distributed.rank() else ()
                seed_torch(derive(seed, "network", self.paired_step, *other))
            self.passes += 1
            several = self.paired_step is not None and distributed.size() > 1 and not x.is_cuda
            with distributed.SharedDropout() if several else nullcontext():
                output: Tensor = super().forward(x, timesteps, *rest, **named)
            return output

        def mask_cond(self, cond: Tensor, force_mask: bool = False) -> Tensor:
            if self.paired_step is None or not self.training or force_mask:
                masked: Tensor = super().mask_cond(cond, force_mask=force_mask)
                return masked
            label = derive(seed, "condition", self.paired_step, self.masks)
            self.masks += 1
            with torch.random.fork_rng([cond.device] if cond.is_cuda else []):
                seed_torch(label)
                if distributed.size() == 1:
                    masked = super().mask_cond(cond, force_mask=force_mask)
                    return masked
                total = cond.shape[-2] * distributed.size()
                shown: Tensor = super().mask_cond(cond.new_ones(*cond.shape[:-2], total, 1), force_mask=force_mask)
            return cond * shown[..., distributed.part(total), :]

    return PairedModel
