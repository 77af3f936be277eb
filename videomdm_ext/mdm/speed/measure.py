"""Where a training step's time goes: MDM as it is, with this package in 3D, in 2D without unrolling, and unrolled.

Each variant runs in its own process (this module as a program) on the same batch, and the processes take turns step by
step, so that a busy machine slows them alike. Captions are new in the first pass over the pool and known in the second,
as in the first and the later epochs of a training: only --encode_once makes a difference of that.
"""

import argparse
import dataclasses
import hashlib
import importlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from videomdm_ext.config import Source, Supervision, as_flags
from videomdm_ext.data.building import write_folder
from videomdm_ext.data.clip import to_clip
from videomdm_ext.data.folder import Card
from videomdm_ext.data.motions import Optics, find_lifter, lift, load_motions, observe, own_generator
from videomdm_ext.data.schemas import text_of
from videomdm_ext.errors import HostError
from videomdm_ext.mdm import checkout, evaluation, hook, remedies, text
from videomdm_ext.mdm.checkout import NOT_INSTALLED, PARSER, Checkout, examine
from videomdm_ext.mdm.data import open_dataset
from videomdm_ext.mdm.speed import exact, fake_clip, texts
from videomdm_ext.motion.skeletons import SMPL22
from videomdm_ext.supervision.observation import PREFIX

PARTS = ("text encoding", "denoiser forward", "loss", "backward", "optimizer and norms", "average", "rest")
PHASES = ("first epoch", "later epochs")
UNROLLED, CHECKS = "2d, unrolled", "checks"
VARIANTS = ("stock", "3d", "3d --encode_once", "2d")
WORDS = ("a person", "walks", "turns left", "turns right", "jumps", "sits down", "and", "then", "slowly", "in a circle")
FPS = 20.0
TOWER: dict[str, int] = {}
"""Size of the random text tower, where it is not that of ViT-B/32."""
TWO = Supervision(supervision="2d", teacher="lifted", unroll="off")
TWICE = dataclasses.replace(TWO, unroll="on", unroll_below=50)
"""All but the noisiest timesteps of MDM's schedule are unrolled, so nearly every step is."""


@dataclass(frozen=True)
class Sizes:
    """A training step and how it is timed; `cpu_time` counts what the process computed, not what passed meanwhile."""

    batch: int = 64
    frames: int = 196
    layers: int = 8
    width: int = 512
    steps: int = 5
    threads: int = 2
    cpu_time: bool = False
    many: int = 1000
    """Motions sampled and clips refined by the checks of `device`."""

    @property
    def pool(self) -> int:
        """Captions; each is drawn once in a phase."""
        return self.batch * self.steps


@dataclass(frozen=True)
class Timing:
    """Medians of one variant in seconds, by phase and part ("total" too), its weights after all steps, and the most
    memory that its process held, bytes, on its GPU where it has one."""

    seconds: Mapping[str, Mapping[str, float]]
    digest: str
    memory: float = 0.0


@dataclass(frozen=True)
class Speeds:
    """What was measured, on what."""

    sizes: Sizes
    timings: Mapping[str, Timing]
    device: str
    text: str

    def ratios(self) -> dict[str, float]:
        """Quotients of total times, by what they compare."""
        total = {name: {p: timing.seconds[p]["total"] for p in PHASES} for name, timing in self.timings.items()}
        pairs = [("stock", "3d"), ("stock", "3d --encode_once"), ("3d", "3d --encode_once"), ("2d", "3d")]
        return {
            f"{one} / {two}, {phase}": total[one][phase] / total[two][phase]
            for one, two in pairs
            for phase in PHASES
            if {one, two} <= total.keys()
        }

    @property
    def same_weights(self) -> bool | None:
        """Whether stock MDM and ours in 3D ended with equal weights; None without stock MDM."""
        if "stock" not in self.timings:
            return None
        return self.timings["stock"].digest == self.timings["3d"].digest

    def as_json(self) -> str:
        content = {**dataclasses.asdict(self), "ratios": self.ratios(), "same_weights": self.same_weights}
        return text_of(content, indent=2) + "\n"


def measure(
    checkout: Checkout,
    sizes: Sizes,
    watch: Callable[[int, int], None] = lambda done, total: None,
    variants: Sequence[str] = (),
) -> Speeds:
    """Time these variants, or every one that the checkout has. `watch` gets the steps done and the steps in all."""
    variants = variants or (VARIANTS if checkout.kind == "mdm" else VARIANTS[1:])
    if "stock" in variants and examine(checkout.root).state != NOT_INSTALLED:
        raise HostError(
            f"{checkout.root / PARSER}: edited by videomdm install, so stock MDM cannot be timed in this checkout. "
            f"Run videomdm uninstall --mdm {checkout.root} before, or name another clone with --mdm."
        )
    with working(checkout, sizes) as folder, ExitStack() as stack:
        workers = {variant: stack.enter_context(worker(folder, variant, checkout, sizes)) for variant in variants}
        turns = ["warm-up", *(f"{phase}/{step}" for phase in PHASES for step in range(sizes.steps))]
        taken: dict[str, dict[str, list[dict[str, float]]]] = {v: {phase: [] for phase in PHASES} for v in variants}
        for number, turn in enumerate(turns):
            for variant, ask in workers.items():
                seconds = ask(turn)
                if number:
                    taken[variant][turn.split("/")[0]].append(seconds)
            watch(number + 1, len(turns))
        ends = {variant: ask("end") for variant, ask in workers.items()}
    timings = {
        variant: Timing({phase: medians(steps) for phase, steps in phases.items()}, end["digest"], end["memory"])
        for (variant, phases), end in zip(taken.items(), ends.values(), strict=True)
    }
    random_tower = "a random tower of ViT-B/32 size (CLIP's weights are not here)"
    encoder = "CLIP ViT-B/32" if text.clip_path().is_file() else random_tower
    return Speeds(sizes, timings, next(iter(ends.values()))["device"], encoder)


@contextmanager
def working(checkout: Checkout, sizes: Sizes) -> Iterator[Path]:
    """A temporary folder with the batch and what the processes have to know."""
    with tempfile.TemporaryDirectory(prefix="videomdm-speed-") as name:
        folder = Path(name)
        write_batch(folder, sizes)
        tower = None if text.clip_path().is_file() else TOWER
        plan = {"root": str(checkout.root), "kind": checkout.kind, "tower": tower, **dataclasses.asdict(sizes)}
        (folder / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
        yield folder


def medians(steps: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of each part over the steps."""
    return {part: median(step[part] for step in steps) for part in (*PARTS, "total")}


# -- the batch --------------------------------------------------------------------------------------------------------


def write_batch(folder: Path, sizes: Sizes) -> None:
    """Bundled motion, played to and fro, as clips in FOLDER/clips and as one batch in FOLDER/batch.pt."""
    lifter, clips = find_lifter("synthetic", 0, SMPL22), []
    for motion in load_motions()[:4]:
        there = torch.from_numpy(motion.positions)
        both = torch.cat([there, there.flip(0)])
        positions = both.repeat(-(-(sizes.frames + 1) // len(both)), 1, 1)[: sizes.frames + 1]
        draw = own_generator("speed", motion.name)
        seen = observe(motion.name, motion.captions, positions, skeleton=SMPL22, fps=FPS, optics=Optics(), draw=draw)
        clips.append(to_clip(lift(lifter, seen)))
    card = Card("speed", SMPL22.name, FPS, "synthetic", "zlib", ("bundled motion",))
    write_folder(str(folder / "clips"), {"train": clips}, card)
    dataset = open_dataset(Source(clips=str(folder / "clips"), crop_frames=sizes.frames), TWO, "train", 0)
    dataset.set_epoch(0)
    x_start, condition = dataset.collate([dataset[index % len(dataset)] for index in range(sizes.batch)])
    torch.save({"motion": x_start, "y": condition["y"]}, folder / "batch.pt")


def captions(sizes: Sizes, turn: str) -> list[str]:
    """The captions of a turn: others in each step, the same in each phase."""
    step = turn.split("/")[-1]
    draw = random.Random(f"captions/{step}")
    return [f"{' '.join(draw.choices(WORDS, k=draw.randint(5, 20)))} {step} {number}" for number in range(sizes.batch)]


# -- the processes ----------------------------------------------------------------------------------------------------


@contextmanager
def worker(folder: Path, variant: str, checkout: Checkout, sizes: Sizes) -> Iterator[Callable[[str], dict[str, Any]]]:
    """A process that runs one variant. -> ask(turn), which waits for what the turn took."""
    environment = {**evaluation.environment(), "OMP_NUM_THREADS": str(sizes.threads)}
    environment[texts.VARIABLE] = str(folder / "texts")  # no caption is known before
    command = [sys.executable, "-W", "ignore", "-m", "videomdm_ext.mdm.speed.measure", str(folder), variant]
    with (folder / f"{variant}.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=checkout.root, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
        )
    assert process.stdin is not None
    assert process.stdout is not None
    writing, reading = process.stdin, process.stdout

    def ask(turn: str) -> dict[str, Any]:
        try:
            writing.write(f"{turn}\n".encode())
            writing.flush()
            answer: dict[str, Any] = json.loads(reading.readline())
        except (OSError, ValueError) as error:
            process.wait()
            last = (folder / f"{variant}.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise HostError(
                f"timing {variant} in {checkout.root} ended with status {process.returncode}: "
                f"{' | '.join(last[-3:]) or 'it printed nothing'}. videomdm doctor reports what MDM lacks here."
            ) from error
        return answer

    try:
        yield ask
    finally:
        process.kill()
        process.wait()
        writing.close()
        reading.close()


# -- one variant, in its process ---------------------------------------------------------------------------------------


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
    if variant != CHECKS:
        attach(clock, loop)
    device: Any = importlib.import_module("videomdm_ext.mdm.speed.device")
    motion, y = load(folder, variant, loop)
    for line in sys.stdin:
        turn = line.strip()
        if turn == "end":
            gpu = torch.cuda.is_available()
            name = torch.cuda.get_device_name() if gpu else f"CPU, {torch.get_num_threads()} threads"
            answer: dict[str, Any] = {"digest": digest(loop), "device": name, "memory": device.peak_memory()}
        elif variant == CHECKS:
            answer = device.CHECKS[turn](loop, motion, {**y, "text": captions(sizes, turn)}, sizes)
        else:
            answer = step(clock, loop, motion, {**y, "text": captions(sizes, turn)})
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def build(folder: Path, variant: str, plan: dict[str, Any], sizes: Sizes) -> Any:
    """The host's training loop, made as its training program makes it."""
    if plan["tower"] is not None:
        sys.modules["clip"] = fake_clip.module(**plan["tower"])
        sys.modules["clip.model"] = sys.modules["clip"].model
    here = checkout.Checkout(Path(plan["root"]), None, plan["kind"])
    if variant == "stock":
        remedies.prepare()
        hook.claim(here)
    else:
        hook.use(here)
    source, two = Source(clips=str(folder / "clips"), crop_frames=sizes.frames), is_2d(variant)
    (folder / variant).mkdir()
    sys.argv = [
        "train.train_mdm", "--save_dir", str(folder / variant), "--batch_size", str(sizes.batch), "--use_ema",
        "--layers", str(sizes.layers), "--latent_dim", str(sizes.width), "--log_interval", "1000000",
        "--diffusion_steps", "50",
        *([] if variant == "stock" else ["--text_features", "clip"]),
        *(["--encode_once"] if variant == "3d --encode_once" else []),
        *([*as_flags(source), *as_flags(TWICE if variant == UNROLLED else TWO)] if two else []),
    ]  # fmt: skip
    args = importlib.import_module("utils.parser_util").train_args()
    importlib.import_module("utils.fixseed").fixseed(args.seed)
    dist_util = importlib.import_module("utils.dist_util")
    dist_util.setup_dist(args.device)
    training = importlib.import_module("train.training_loop")
    dataset = open_dataset(source, TWO, "train", 0) if two else argparse.Namespace()
    model, diffusion = importlib.import_module("utils.model_util").create_model_and_diffusion(args, Data(dataset))
    model.to(dist_util.dev())
    return training.TrainLoop(args, None, model, diffusion, Data(dataset))


def is_2d(variant: str) -> bool:
    return variant in ("2d", UNROLLED, CHECKS)


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
    kept = {key: value for key, value in batch["y"].items() if is_2d(variant) or not key.startswith(PREFIX)}
    return batch["motion"].to(device), exact.on_device(kept, device)


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


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
