"""A comparison of arms: train and sample what is missing, two runs at a time, score, report. Every stage resumes.

OUT/plan.json            what is compared; a folder holds one plan
OUT/runs/ARM-SEED/       the host's checkpoints and logs
OUT/samples/ARM-SEED.npz motions from captions, and predictions of held-out clips
OUT/report.md ...        the report
"""

import contextlib
import dataclasses
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from videomdm_ext.benchmark import sampling
from videomdm_ext.benchmark.arms import arm_name, load_arm
from videomdm_ext.config import Supervision
from videomdm_ext.datasets.files import check_writable
from videomdm_ext.datasets.folder import read_card
from videomdm_ext.datasets.refined import is_made, make_refined
from videomdm_ext.errors import ConfigError, HostError
from videomdm_ext.host import adapter, checkout, launcher
from videomdm_ext.supervision.unrolling import Ladder

DENOISE_AT = 0.2
"""Held-out clips are noised to this share of the schedule."""


@dataclass(frozen=True)
class Plan:
    """What is equal for all arms, and which arms and seeds there are."""

    clips: str
    content: str
    arms: tuple[str, ...] = ("3d", "3d-on-teacher", "2d")
    seeds: int = 3
    steps: int = 650
    batch_size: int = 16
    crop_frames: int = 32
    learning_rate: float = 2e-3
    latent_dim: int = 192
    layers: int = 2
    ff_size: int = 384
    dropout: float = 0.0
    diffusion_steps: int = 50
    average: float = 0.99
    adam_beta2: float = 0.999
    text_features: str = "words"
    samples: int = 128
    guidance: float = 1.0

    def runs(self) -> list["Run"]:
        """All pairs of arm and seed, seed by seed, so that an early stop leaves whole comparisons."""
        return [Run(self, arm, seed) for seed in range(self.seeds) for arm in self.arms]


@dataclass(frozen=True)
class Run:
    """One training of one arm."""

    plan: Plan
    arm: str
    seed: int

    @property
    def name(self) -> str:
        return f"{arm_name(self.arm)}-{self.seed}"

    def folder(self, out: Path) -> Path:
        return out / "runs" / self.name

    def samples(self, out: Path) -> Path:
        return out / "samples" / f"{self.name}.npz"

    def is_trained(self, out: Path) -> bool:
        return (self.folder(out) / f"model{self.plan.steps:09d}.pt").is_file()

    def steps_done(self, out: Path) -> int:
        """All of them, or those that the log of an unfinished run has seen."""
        if self.is_trained(out):
            return self.plan.steps
        log = self.folder(out) / "progress.csv"
        if not log.is_file():
            return 0
        last = log.read_text(encoding="utf-8").splitlines()[-1].split(",")[0]
        return int(last) if last.isdigit() else 0

    def arguments(self, out: Path) -> list[str]:
        """The host's command line."""
        plan = self.plan
        flags = {
            "save_dir": self.folder(out), "clips": plan.clips, "seed": self.seed, "num_steps": plan.steps,
            "lr_anneal_steps": plan.steps, "batch_size": plan.batch_size, "crop_frames": plan.crop_frames,
            "lr": plan.learning_rate, "latent_dim": plan.latent_dim, "layers": plan.layers, "ff_size": plan.ff_size,
            "dropout": plan.dropout, "diffusion_steps": plan.diffusion_steps, "avg_model_beta": plan.average,
            "text_features": plan.text_features, "gradient_clip": 1.0, "log_interval": 25,
            "save_interval": max(50, plan.steps // 4), "pos_embed_max_len": 256, "adam_beta2": plan.adam_beta2,
        }  # fmt: skip
        words = [part for name, value in flags.items() for part in (f"--{name}", str(value))]
        return [
            *words,
            "--use_ema",
            "--mask_frames",
            "--overwrite",
            "--paired",
            "--resume_checkpoint",
            "latest",
            *load_arm(self.arm).flags,
        ]

    def passes(self) -> float:
        """Expected denoiser passes of the training."""
        config = load_arm(self.arm).supervision
        unrolled = config.supervision == "2d" and config.unrolls
        return self.plan.steps * (Ladder.of(config, self.plan.diffusion_steps).passes if unrolled else 1.0)


def prepare(plan: Plan, out: Path, refining: Callable[[int, int], None] | None = None) -> None:
    """Check everything before work begins; refine the teachers where an arm needs them."""
    arms = [load_arm(arm).supervision for arm in plan.arms]
    names = [arm_name(arm) for arm in plan.arms]
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"--arms: expected names, each once, found {' '.join(names) or 'none'}. Correct the list.")
    check_writable(str(out))
    place = out / "plan.json"
    settings = {arm: dataclasses.asdict(config) for arm, config in zip(names, arms, strict=True)}
    text = json.dumps({**dataclasses.asdict(plan), "settings": settings}, indent=2) + "\n"
    if place.is_file() and place.read_text(encoding="utf-8") != text:
        raise ConfigError(f"{place}: holds another comparison than this one. Choose another --out, or remove {out}.")
    place.write_text(text, encoding="utf-8")
    card = read_card(plan.clips)
    if card.content_hash != plan.content:
        raise ConfigError(f"{plan.clips}: its clips are not those of {place}. Choose another --out.")
    if any(_refined(arm) for arm in arms) and not is_made(plan.clips, card):
        make_refined(plan.clips, card, refining)


def _refined(config: Supervision) -> bool:
    return config.diffused == "refined"


def execute(
    plan: Plan,
    out: Path,
    *,
    workers: int,
    watch: Callable[[Mapping[str, int]], None],
    finish: Callable[[Run, Path], None] | None = None,
) -> None:
    """Train every run that is not done, then sample it, or let `finish(run, out)` write what is to be scored.

    Each run has a process of its own. `watch` is told the steps of each run, now and then.
    """
    todo = [run for run in plan.runs() if not run.samples(out).is_file()]
    if not todo:
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(todo)), mp_context=context, initializer=_start_worker) as pool:
        pending: set[Future[None]] = {pool.submit(complete, run, out, finish or make_samples) for run in todo}
        try:
            while pending:
                done, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
                watch({run.name: run.steps_done(out) for run in plan.runs()})
                for future in done:
                    future.result()
        except BaseException:
            for process in list(pool._processes.values()):
                process.terminate()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _start_worker() -> None:
    torch.set_num_threads(1)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def complete(run: Run, out: Path, finish: Callable[[Run, Path], None]) -> None:
    """Train from the last checkpoint on, then finish. What the host prints goes to the run's log."""
    folder = run.folder(out)
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "run.log"
    with log.open("a", encoding="utf-8") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        started = time.monotonic()
        try:
            if not run.is_trained(out):
                try:
                    launcher.run(
                        checkout.standin(), "train.train_mdm", run.arguments(out),
                        add_options=adapter.add_options, activate=adapter.activate,
                    )  # fmt: skip
                finally:
                    _note_time(folder, time.monotonic() - started)
            _forget_earlier(folder)
            finish(run, out)
        except SystemExit as stop:
            raise HostError(f"{log}: the host stopped with status {stop.code}. Read the end of that file.") from stop


def _forget_earlier(folder: Path) -> None:
    """Keep the last checkpoint alone: the others only served to resume."""
    for kind in ("model", "opt"):
        for place in sorted(folder.glob(f"{kind}*.pt"))[:-1]:
            place.unlink()


def _note_time(folder: Path, seconds: float) -> None:
    """Add the seconds of this part of a training to those before an interruption."""
    place = folder / "seconds.txt"
    before = float(place.read_text(encoding="utf-8")) if place.is_file() else 0.0
    place.write_text(f"{before + seconds:.1f}", encoding="utf-8")


def make_samples(run: Run, out: Path) -> None:
    """Motions for the training captions, and clean predictions of the held-out clips."""
    plan = run.plan
    trained = sampling.load(checkout.standin(), sampling.newest_checkpoint(run.folder(out)))
    wanted = sampling.prompts(trained.dataset, plan.samples, seed=0)
    groups: dict[str, Any] = {"samples": sampling.sample(trained, wanted, seed=run.seed, guidance=plan.guidance)}
    timestep = int(DENOISE_AT * plan.diffusion_steps)
    groups |= sampling.denoise_held_out(trained, timestep=timestep, seed=run.seed)
    sampling.write_motions(run.samples(out), groups, [text for text, _ in wanted])
