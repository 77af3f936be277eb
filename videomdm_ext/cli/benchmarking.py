"""The verbs `bench`, `bench score`, `bench report`, `bench ls` and `bench validate`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from rich.markup import escape

from videomdm_ext.bench import drawing, provenance
from videomdm_ext.bench.plan import Plan, Run, read_plan
from videomdm_ext.bench.report import terminal_table
from videomdm_ext.bench.results import headline, verdict
from videomdm_ext.bench.run import Bench
from videomdm_ext.bench.scores import PRIMARY, Results
from videomdm_ext.cli.console import bars, by_name, console, counting, parse
from videomdm_ext.cli.training import text_choice
from videomdm_ext.data.folder import read_card
from videomdm_ext.errors import ConfigError

GROUP = 32
"""Samples of a group of R-precision."""


@dataclass(frozen=True)
class Options:
    """Train arms on a data set with equal seeds and steps, sample, score and report; started again, it goes on.

    With --protocol mdm: MDM's own evaluation of trained runs instead (videomdm bench --protocol mdm --help).
    """

    dataset: str
    """Folder of a data set."""
    arms: str = "3d,lifted,2d"
    """Names in configs/arms, or YAML files, with commas between."""
    seeds: int = 3
    """Trainings of each arm."""
    steps: int = 20000
    """Steps of each training; the learning rate falls to zero over them."""
    mdm: str = ""
    """MDM checkout that trains and samples, auto searches for one; empty: the stand-in."""
    out: Path | None = None
    """Folder of the bench, by default runs/bench-DATASET."""
    replications: int = 20
    """Times each training is sampled, with a fixed list of seeds."""
    samples: int = 1000
    """Motions of each replication."""
    crop_frames: int = 64
    """Longest crop of a clip, frames."""
    batch_size: int = 32
    """Crops of a step."""
    layers: int = 4
    """Layers of the denoiser."""
    latent_dim: int = 256
    """Width of the denoiser."""
    ff_size: int = 512
    """Width of its feed-forward layers; with --mdm always 1024."""
    dropout: float = 0.0
    """Dropout of the denoiser; with --mdm always 0.1."""
    lr: float = 5e-4
    """Learning rate."""
    average: float = 0.999
    """Decay of the weights' moving average."""
    adam_beta2: float = 0.99
    """Decay of the optimizer's squared gradients."""
    diffusion_steps: int = 50
    """Steps of the diffusion."""
    guidance: float = 1.0
    """Classifier-free guidance scale of the samples."""
    text_features: str = "auto"
    """words, minilm, clip, or auto: MiniLM where it is installed."""
    workers: int = 2
    """Trainings at a time, one thread each; 0: one after the other in this process."""
    threads: int = 0
    """Threads for scoring; 0: torch's own choice."""
    windows: int = 4
    """Random crops of each true clip that samples are compared with."""
    reference: str = "train"
    """Split whose captions are sampled and whose truth is compared with: train, val or test."""
    equal_passes: bool = False
    """Train arms that unroll again, with as many denoiser passes as the others."""
    curve: int = 0
    """Checkpoints of each training that are scored on validation clips; 0: none."""
    select: str = ""
    """Report the checkpoint with the best of this metric on validation clips; empty: the last one."""
    primary: str = ",".join(PRIMARY)
    """Metrics that claims are made in, chosen beforehand, with commas between."""
    without: str = ""
    """Evaluators that are not made, with commas between."""


def bench(words: Sequence[str]) -> int:
    """All stages, or the published protocol."""
    rest = _without_protocol(list(words))
    if rest is not None:
        return int(import_module("videomdm_ext.cli.protocol").protocol(rest))
    options = parse(Options, "bench", words)
    drawing.require()
    plan, out = plan_of(options), options.out or Path("runs") / f"bench-{Path(options.dataset).name}"
    if options.workers < 0 or options.threads < 0:
        raise ConfigError("--workers and --threads: expected 0 or more. Correct the option.")
    if options.threads:
        torch.set_num_threads(options.threads)
    console.print(f"{out}: {len(plan.runs())} trainings, {plan.replications} replications of {plan.samples} motions")
    if plan.samples < GROUP:
        console.print(f"R-precision in groups of {plan.samples}: {GROUP} samples or more would make groups of {GROUP}.")
    command = ["videomdm", "bench", *words]
    with bars() as progress:
        show = by_name(progress)

        def watch(done: Mapping[str, int]) -> None:
            for run in plan.runs():
                show(run.name, done[run.name], run.steps)

        made = Bench(plan, out, options.workers, command, show, counting(progress, "refining"), watch)
        results, place = made.run()
    return tell(results, place, plan.runs()[-1], out)


def _without_protocol(words: list[str]) -> list[str] | None:
    """The words without `--protocol mdm`, or None where they are not there."""
    for index, word in enumerate(words):
        name, _, value = word.partition("=")
        if name == "--protocol":
            value = value or next(iter(words[index + 1 :]), "")
            if value != "mdm":
                raise ConfigError(f"--protocol: expected mdm, found {value or 'nothing'}. Leave it out for our own.")
            return words[:index] + words[index + (1 if "=" in word else 2) :]
    return None


def plan_of(options: Options) -> Plan:
    """The plan that the options ask for."""
    return Plan(
        clips=options.dataset,
        content=read_card(options.dataset).content_hash,
        arms=_listed(options.arms),
        seeds=options.seeds,
        steps=options.steps,
        batch_size=options.batch_size,
        crop_frames=options.crop_frames,
        learning_rate=options.lr,
        latent_dim=options.latent_dim,
        layers=options.layers,
        ff_size=options.ff_size,
        dropout=options.dropout,
        diffusion_steps=options.diffusion_steps,
        average=options.average,
        adam_beta2=options.adam_beta2,
        text_features=text_choice(options.text_features),
        samples=options.samples,
        guidance=options.guidance,
        replications=options.replications,
        windows=options.windows,
        reference=options.reference,
        mdm=options.mdm,
        curve=options.curve,
        select=options.select,
        equal_passes=options.equal_passes,
        primary=_listed(options.primary),
        without=_listed(options.without),
    )


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def tell(results: Results, place: Path, run: Run, out: Path) -> int:
    """The table, the verdict, and what comes next."""
    console.print(terminal_table(results))
    for sentence in [
        *(f"[bold]{escape(sentence)}[/]" for sentence in headline(results)),
        *map(escape, verdict(results)),
    ]:
        console.print(sentence)
    console.print(f"\nReport: {place}\nNext: videomdm bench validate {out}")
    return 0


@dataclass(frozen=True)
class Existing:
    """Work on what a bench has made."""

    out: Annotated[Path, tyro.conf.Positional]
    """Folder of a bench, with plan.json."""


def score(words: Sequence[str]) -> int:
    """Score saved samples again, all of them, and report."""
    return _again(words, "bench score", anew=True)


def report(words: Sequence[str]) -> int:
    """Rebuild the report; only what has no score yet is scored."""
    return _again(words, "bench report", anew=False)


def _again(words: Sequence[str], verb: str, *, anew: bool) -> int:
    options = parse(Existing, verb, words)
    drawing.require()
    plan = read_plan(options.out)
    with bars() as progress:
        made = Bench(plan, options.out, progress=by_name(progress))
        results, place = made.report(made.score(anew=anew))
    return tell(results, place, plan.runs()[-1], options.out)


@dataclass(frozen=True)
class Ls:
    """List the benches under a folder."""

    folder: Annotated[Path, tyro.conf.Positional] = Path("runs")
    """Where to look."""
    json: bool = False
    """Print everything as JSON."""


def ls(words: Sequence[str]) -> int:
    """A paragraph for each bench."""
    options = parse(Ls, "bench ls", words)
    if not options.folder.is_dir():
        raise ConfigError(f"{options.folder}: expected a folder, found none. Name the folder where benches lie.")
    found = provenance.benches(options.folder)
    if options.json:
        print(json.dumps([_as_json(made) for made in found], indent=2))
        return 0
    for made in found:
        plan = made.plan
        what = f"{', '.join(plan.arms)}; {plan.seeds} seeds, {plan.steps} steps; {made.stage}"
        console.print(f"[bold]{made.folder}[/]: {what}")
        if made.headline:
            console.print(f"    {made.headline}", markup=False)
    if not found:
        console.print(f"{options.folder}: no bench.")
    following = f"videomdm bench validate {found[0].folder}" if found else "videomdm bench --dataset DIR"
    console.print(f"Next: {following}", markup=False, soft_wrap=True)
    return 0


def _as_json(made: provenance.Listed) -> dict[str, Any]:
    """What --json tells of a bench."""
    plan = made.plan
    told = {"folder": str(made.folder), "arms": list(plan.arms), "seeds": plan.seeds, "steps": plan.steps}
    return told | {"dataset": plan.clips, "stage": made.stage, "headline": made.headline}


@dataclass(frozen=True)
class Validate:
    """Say what is missing or changed in the folder of a bench. Exit status: 0 nothing, 1 something."""

    out: Annotated[Path, tyro.conf.Positional]
    """Folder of a bench, with plan.json."""
    json: bool = False
    """Print everything as JSON."""


def validate(words: Sequence[str]) -> int:
    """Say what is missing or changed in a bench. -> 1 where something is"""
    options = parse(Validate, "bench validate", words)
    problems = provenance.problems(options.out)
    if options.json:
        print(json.dumps({"folder": str(options.out), "problems": problems}, indent=2))
        return 1 if problems else 0
    for problem in problems:
        console.print(problem, markup=False, soft_wrap=True)
    console.print(f"{options.out}: " + (f"{len(problems)} problems" if problems else "all is as it should be"))
    following = "bench report" if problems else "view"
    console.print(f"Next: videomdm {following} {options.out}", markup=False, soft_wrap=True)
    return 1 if problems else 0
