"""The verbs `bench`, `bench score`, `report`, `lift`, `ls`, `validate`, `export`, `compare` and --protocol mdm."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from rich.markup import escape

from videomdm_ext.bench import provenance, record
from videomdm_ext.bench.plan import Plan, read_plan
from videomdm_ext.bench.report.results import Results
from videomdm_ext.bench.report.tables import terminal_table
from videomdm_ext.bench.report.verdict import headline, verdict
from videomdm_ext.bench.reproduction import lifting, protocol_mdm
from videomdm_ext.bench.reproduction.lifting import LIFTING
from videomdm_ext.bench.reproduction.protocol_mdm import Asked, Settings
from videomdm_ext.bench.run import Bench
from videomdm_ext.cli.console import bars, by_name, console, parse, quoted, say_next, take
from videomdm_ext.data import locks
from videomdm_ext.data.files import check_writable, write_bytes
from videomdm_ext.data.folder import read_card
from videomdm_ext.data.importing import with_lifter
from videomdm_ext.data.tasks import Engine
from videomdm_ext.errors import ConfigError, counted
from videomdm_ext.mdm import checkout, distributed, hook, text
from videomdm_ext.render import figures

GROUP = 32
"""Samples of a group of R-precision."""


@dataclass(frozen=True)
class Trainings(Engine):
    """Where trainings run, each with its samplings."""

    processes: Annotated[int, tyro.conf.arg(aliases=["--workers"])] = 2
    """Trainings at a time, one thread each; 0: one after the other in this process. Ray takes every core it has."""


@dataclass(frozen=True)
class Options:
    """Train arms on a data set with equal seeds and steps, sample, score and report; started again, it goes on.

    With --protocol mdm: MDM's own evaluation of trained runs instead (videomdm bench --protocol mdm --help).
    """

    dataset: str
    """Folder of a data set."""
    plan: Plan
    out: Path | None = None
    """Folder of the bench, by default runs/bench-DATASET."""
    engine: Trainings = field(default=Trainings())
    threads: int = 0
    """Threads for scoring; 0: torch's own choice."""
    verify: bool = False
    """Read every file of the data set before work begins; else those whose size or time is another than before."""
    lifter: str = ""
    """Whose motion is the teacher, of those that the set has (data relift); by default the set's own."""


def bench(words: Sequence[str]) -> int:
    """All stages, or the published protocol."""
    name, rest = take(list(words), "--protocol")
    if name == "mdm":
        return parse(Protocol, "bench --protocol mdm", rest)()
    if name is not None:
        raise ConfigError(f"--protocol: expected mdm, found {name or 'nothing'}. Leave it out for our own.")
    options = parse(Options, "bench", words)
    figures.require()
    distributed.check_one_process()
    named = f"bench-{Path(options.dataset).name}{options.lifter and f'-{options.lifter}'}"
    out, dataset = options.out or Path("runs") / named, with_lifter(options.dataset, options.lifter)
    if options.threads < 0:
        raise ConfigError(f"--threads: expected 0 or more, found {options.threads}. Correct it.")
    if options.threads:
        torch.set_num_threads(options.threads)
    content, features = read_card(dataset).content_hash, text_choice(options.plan.text_features)
    plan = dataclasses.replace(options.plan, clips=dataset, content=content, text_features=features)
    each = f"{counted(plan.replications, 'replication')} of {counted(plan.samples, 'motion')}"
    console.print(f"{out}: {counted(len(plan.runs()), 'training')}, {each}")
    if plan.samples < GROUP:
        console.print(f"R-precision in groups of {plan.samples}: {GROUP} samples or more would make groups of {GROUP}.")
    with bars() as progress:
        command = ["videomdm", "bench", *words]
        made = Bench(plan, out, options.engine, command, by_name(progress), options.verify)
        results, place = made.run()
    return show(results, place, f"bench validate {quoted(out)}")


def text_choice(asked: str) -> str:
    """`auto` resolved; what was chosen is printed, recorded with the run, and stated in the report."""
    try:
        chosen, problems = text.first(hook.manager(), text.OURS) if asked == "auto" else (asked, [])
        text.load(hook.manager(), chosen)
    except ConfigError as error:
        raise ConfigError(str(error).replace("--text_features", "--text-features")) from error
    console.print(f"text features: {chosen}")
    for problem in problems:
        console.print(problem, markup=False)
    return chosen


def show(results: Results, place: Path, following: str) -> int:
    """Print the table, the verdict, and the next command."""
    console.print(terminal_table(results))
    for sentence in headline(results):
        console.print(f"[bold]{escape(sentence)}[/]")
    for sentence in verdict(results):
        console.print(escape(sentence))
    console.print(f"\nReport: {place}")
    say_next(following)
    return 0


@dataclass(frozen=True)
class Score:
    """Score a bench's saved samples again, all of them, and report."""

    out: Annotated[Path, tyro.conf.Positional]
    """Folder of a bench, with plan.json."""

    def __call__(self) -> int:
        return self.again(f"bench validate {quoted(self.out)}", anew=True)

    def again(self, following: str, *, anew: bool = False) -> int:
        """Report again what is there; what has no score yet, or all if `anew`, is scored."""
        figures.require()
        with locks.held(self.out), bars() as progress:
            made = Bench(read_plan(self.out), self.out, progress=by_name(progress))
            results, place = made.report(made.score(anew=anew))
        return show(results, place, following)


@dataclass(frozen=True)
class Rebuild(Score):
    """Rebuild the report of a bench; only what has no score yet is scored."""

    def __call__(self) -> int:
        return self.again(f"bench validate {quoted(self.out)}")


@dataclass(frozen=True)
class Report(Score):
    """Rebuild the report of a demo or a bench; only what has no score yet is scored."""

    out: Annotated[Path, tyro.conf.Positional] = Path("runs/demo")
    """Folder of a comparison, with plan.json."""

    def __call__(self) -> int:
        return self.again(f"view {quoted(self.out)}")


@dataclass(frozen=True)
class LiftAll:
    """Lift unseen clips with every training of a bench; errors by action beside those of the lifter's motion."""

    out: Annotated[Path, tyro.conf.Positional]
    """Folder of a bench, with plan.json, whose clips have a truth."""
    split: Literal["train", "val", "test"] = "test"
    """Clips to lift."""
    guidance_strength: float = LIFTING.strength
    """Fraction of the way to the rays, times the squared confidence; 0 samples without keypoints."""
    start: float = LIFTING.start
    """Share of the schedule to whose noise the teacher is taken; 1: noise alone, the teacher gives the camera only."""
    draws: int = LIFTING.draws
    """Draws of noise; their mean is taken."""

    def __call__(self) -> int:
        how = dataclasses.replace(LIFTING, strength=self.guidance_strength, start=self.start, draws=self.draws)
        with locks.held(self.out), bars() as progress:
            watch = by_name(progress)
            found = lifting.lift_all(read_plan(self.out), self.out, how, split=self.split, progress=watch)
        console.print(lifting.document(found), markup=False)
        console.print(f"{self.out / 'lifting.json'}: every number")
        say_next(f"bench report {quoted(self.out)}")
        return 0


@dataclass(frozen=True)
class Ls:
    """List the benches under a folder."""

    folder: Annotated[Path, tyro.conf.Positional] = Path("runs")
    """Where to look."""
    json: bool = False
    """Print everything as JSON."""

    def __call__(self) -> int:
        if not self.folder.is_dir():
            raise ConfigError(f"{self.folder}: expected a folder, found none. Name the folder where benches lie.")
        found = provenance.benches(self.folder)
        if self.json:
            print(json.dumps(found, indent=2))
            return 0
        for one in found:
            what = f"{', '.join(one['arms'])}; {one['seeds']} seeds, {one['steps']} steps; {one['stage']}"
            console.print(f"[bold]{one['folder']}[/]: {what}")
            if one["headline"]:
                console.print(f"    {one['headline']}", markup=False)
        if not found:
            console.print(f"{self.folder}: no bench.")
        say_next(f"bench validate {quoted(found[0]['folder'])}" if found else "bench --dataset DIR")
        return 0


@dataclass(frozen=True)
class Validate:
    """Report what is missing or changed in the folder of a bench. Exit status: 0 nothing, 1 something."""

    out: Annotated[Path, tyro.conf.Positional]
    """Folder of a bench, with plan.json."""
    json: bool = False
    """Print everything as JSON."""
    verify: bool = False
    """Read every file of the data set; else those whose size or time is another than before."""

    def __call__(self) -> int:
        problems = provenance.problems(self.out, thorough=self.verify)
        if self.json:
            print(json.dumps({"folder": str(self.out), "problems": problems}, indent=2))
            return 1 if problems else 0
        for problem in problems:
            console.print(problem, markup=False, soft_wrap=True)
        console.print(f"{self.out}: " + (counted(len(problems), "problem") if problems else "all is as it should be"))
        say_next(f"{'bench report' if problems else 'view'} {quoted(self.out)}")
        return 1 if problems else 0


@dataclass(frozen=True)
class Export:
    """Write the record of a bench as one file that others can check and compare: plan, versions, data, every score."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of a bench that is reported."""
    out: Path
    """The file, a ZIP archive."""
    samples: bool = False
    """Put the sampled motions in too."""

    def __call__(self) -> int:
        written = record.export(self.run, self.out, samples=self.samples)
        console.print(f"{self.out}: record.json and {counted(len(written['files']), 'file')}", soft_wrap=True)
        say_next(f"bench compare {quoted(self.out)} OTHER")
        return 0


@dataclass(frozen=True)
class Compare:
    """Compare the records of two laboratories; refused where what must be equal is not."""

    first: Annotated[Path, tyro.conf.Positional]
    """A record, written by bench export."""
    second: Annotated[Path, tyro.conf.Positional]
    """Another record."""
    without: tuple[str, ...] = ()
    """Evaluators that do not count."""
    all: bool = False
    """Show every score, not those alone that may rank in both."""
    out: Path | None = None
    """Write the tables to this file too, as Markdown."""

    def __call__(self) -> int:
        pair = [record.read_record(place) for place in (self.first, self.second)]
        try:
            found = record.compare(pair[0], pair[1], without=self.without, everything=self.all)
        except ConfigError as error:
            raise ConfigError(f"{self.first}, {self.second}: {error}") from error
        text = record.document(found, str(self.first), str(self.second))
        console.print(text, markup=False, soft_wrap=True)
        if self.out is not None:
            write_bytes(str(self.out), text.encode())
        return 0


# -- the published protocol -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Protocol:
    """MDM's own evaluation of trained runs, through a checkout's own code; hours a run, and it goes on from where it
    was."""

    out: Path | None = None
    """Folder of a bench, whose runs are evaluated unless others are named; protocol_mdm.md and the logs go there."""
    run: tuple[Path, ...] = ()
    """Folders of trained runs."""
    model_path: tuple[Path, ...] = ()
    """Checkpoints, where not the last of a run is wanted."""
    mdm: str = "auto"
    """MDM checkout with the evaluator's files; auto searches for one."""
    eval_mode: Literal["wo_mm", "debug", "mm_short"] = "wo_mm"
    """wo_mm: 20 replications, as published; debug: 5; mm_short: 5, with multimodality."""
    guidance: float = 2.5
    """Classifier-free guidance, MDM's own default."""
    seed: int = 10
    """Seed of the evaluation, MDM's own default."""

    def __call__(self) -> int:
        host = checkout.find(None if self.mdm == "auto" else self.mdm)
        asked, out = self.asked()
        settings = Settings(self.eval_mode, self.guidance, self.seed)
        protocol_mdm.check(host, asked)
        check_writable(str(out))
        with locks.held(out), bars() as progress:
            protocol_mdm.evaluate_all(host, asked, settings, out, by_name(progress))
        console.print((out / "protocol_mdm.md").read_text(encoding="utf-8"), markup=False)
        console.print(f"{out / 'protocol_mdm.json'}: every number")
        say_next(f"bench ls {quoted(out.parent)}")
        return 0

    def asked(self) -> tuple[list[Asked], Path]:
        """The checkpoints to evaluate, and the folder of the results."""
        named = [*map(protocol_mdm.of_run, self.run), *map(protocol_mdm.of_checkpoint, self.model_path)]
        if named:
            return named, self.out or Path("runs/protocol_mdm")
        if self.out is None:
            raise ConfigError(
                "--out, --run, --model_path: expected the folder of a bench, of runs, or a checkpoint, found none. "
                "Name one of them."
            )
        return protocol_mdm.runs_of_bench(self.out), self.out
