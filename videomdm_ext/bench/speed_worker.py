"""One variant of the speed benchmark in its own process: it times a step for each line it reads.

python -m videomdm_ext.bench.speed_worker FOLDER VARIANT, with plan.json and batch.pt in FOLDER.
"""

import argparse
import hashlib
import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from videomdm_ext.bench.speed import PARTS, TWO, Sizes, captions
from videomdm_ext.config import Source
from videomdm_ext.mdm import adapter, checkout, compat, launcher, tower
from videomdm_ext.mdm.data import open_dataset
from videomdm_ext.options import as_flags
from videomdm_ext.supervision.observation import PREFIX


class Data:
    """As much of a data loader as the host's loop asks for."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return 1000

    def __iter__(self) -> Iterator[Any]:
        return iter(())


class Clock:
    """Seconds that calls have taken, by part; a part's own time excludes the parts called within."""

    def __init__(self, cpu_time: bool = False) -> None:
        self.read = time.process_time if cpu_time else time.perf_counter
        self.seconds: dict[str, float] = {}
        self.inner: list[float] = []

    def now(self) -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return self.read()

    def timed(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*positional: Any, **named: Any) -> Any:
            self.inner.append(0.0)
            start = self.now()
            try:
                return call(*positional, **named)
            finally:
                took = self.now() - start
                self.seconds[part] = self.seconds.get(part, 0.0) + took - self.inner.pop()
                if self.inner:
                    self.inner[-1] += took

        return wrapper


def main(folder: Path, variant: str) -> None:
    """Answer every line of the standard input with one line of JSON; what the host prints goes to the log."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    sizes = Sizes(**{name: plan[name] for name in Sizes.__dataclass_fields__})
    torch.set_num_threads(sizes.threads)
    loop = build(folder, variant, plan, sizes)
    clock = Clock(sizes.cpu_time)
    attach(clock, loop)
    motion, y = load(folder, variant, loop)
    for line in sys.stdin:
        turn = line.strip()
        if turn == "end":
            answer: dict[str, Any] = {"digest": digest(loop), "device": device_name()}
        else:
            answer = step(clock, loop, motion, {**y, "text": captions(sizes, turn)})
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def build(folder: Path, variant: str, plan: dict[str, Any], sizes: Sizes) -> Any:
    """The host's training loop, made as its training program makes it."""
    if plan["tower"] is not None:
        sys.modules["clip"] = tower.module(**plan["tower"])
        sys.modules["clip.model"] = sys.modules["clip"].model
    here = checkout.Checkout(Path(plan["root"]), None, plan["kind"])
    if variant == "stock":
        compat.prepare()
        launcher.claim(here)
    else:
        adapter.begin()
        launcher.use(here, add_options=adapter.add_options, activate=adapter.activate)
    source = Source(clips=str(folder / "clips"), crop_frames=sizes.frames)
    (folder / variant).mkdir()
    sys.argv = [
        "train.train_mdm", "--save_dir", str(folder / variant), "--batch_size", str(sizes.batch), "--use_ema",
        "--layers", str(sizes.layers), "--latent_dim", str(sizes.width), "--log_interval", "1000000",
        *([] if variant == "stock" else ["--text_features", "clip"]),
        *(["--text_once"] if variant == "3d --text_once" else []),
        *([*as_flags(source), *as_flags(TWO)] if variant == "2d" else []),
    ]  # fmt: skip
    args = importlib.import_module("utils.parser_util").train_args()
    importlib.import_module("utils.fixseed").fixseed(args.seed)
    dist_util = importlib.import_module("utils.dist_util")
    dist_util.setup_dist(args.device)
    training = importlib.import_module("train.training_loop")
    dataset = open_dataset(source, TWO, "train", 0) if variant == "2d" else argparse.Namespace()
    model, diffusion = importlib.import_module("utils.model_util").create_model_and_diffusion(args, Data(dataset))
    model.to(dist_util.dev())
    return training.TrainLoop(args, None, model, diffusion, Data(dataset))


def attach(clock: Clock, loop: Any) -> None:
    """Time the parts of a step, by wrapping them on these objects."""
    loop.model.encode_text = clock.timed("text encoding", loop.model.encode_text)
    loop.model.forward = clock.timed("denoiser forward", loop.model.forward)
    loop.diffusion.training_losses = clock.timed("loss", loop.diffusion.training_losses)
    torch.Tensor.backward = clock.timed("backward", torch.Tensor.backward)  # type: ignore[method-assign]
    holder, name = (loop.mp_trainer, "optimize") if hasattr(loop, "mp_trainer") else (loop.opt, "step")
    setattr(holder, name, clock.timed("optimizer and norms", getattr(holder, name)))
    loop.update_average_model = clock.timed("average", loop.update_average_model)
    loop.run_step = clock.timed("rest", loop.run_step)


def load(folder: Path, variant: str, loop: Any) -> tuple[torch.Tensor, dict[str, Any]]:
    """The batch on the device; what the cameras saw only where it is used."""
    batch, device = torch.load(folder / "batch.pt"), next(loop.model.parameters()).device
    kept = {key: value for key, value in batch["y"].items() if variant == "2d" or not key.startswith(PREFIX)}
    moved = {key: value.to(device) if torch.is_tensor(value) else value for key, value in kept.items()}
    return batch["motion"].to(device), moved


def step(clock: Clock, loop: Any, motion: torch.Tensor, y: dict[str, Any]) -> dict[str, float]:
    """One update of the host's loop. -> seconds of every part and in total"""
    clock.seconds.clear()
    before = loop.step
    loop.run_step(motion, {"y": y})
    loop.step = before + 1
    parts = {part: clock.seconds.get(part, 0.0) for part in PARTS}
    return {**parts, "total": sum(parts.values())}


def digest(loop: Any) -> str:
    """A hash of the weights and their average, without the frozen text encoder's."""
    total = hashlib.sha256()
    for model in (loop.model, loop.model_avg):
        for name, value in model.state_dict().items():
            if not name.startswith("clip_model."):
                total.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()


def device_name() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads"


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
