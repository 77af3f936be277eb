"""The stages of a comparison: train, sample, score, report. Each does what is missing and leaves the rest alone."""

import contextlib
import dataclasses
import math
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from videomdm_ext.bench import fairness, provenance
from videomdm_ext.bench.evaluators.base import Progress
from videomdm_ext.bench.fairness import check_numbers, check_plan, check_truth, clips_of, write_plan
from videomdm_ext.bench.plan import Plan, Run, arm_name
from videomdm_ext.bench.report.html import write
from videomdm_ext.bench.report.results import Results, check_whole, gather
from videomdm_ext.bench.scoring import Scoring, make_scoring
from videomdm_ext.data import locks
from videomdm_ext.data.files import check_writable, write_bytes
from videomdm_ext.data.refined import identity, is_made, make_refined, teachers_of
from videomdm_ext.data.schemas import text_of
from videomdm_ext.data.tasks import HERE, Engine
from videomdm_ext.errors import ConfigError, HostError
from videomdm_ext.inference import sample as sampling
from videomdm_ext.mdm import distributed, hook, loop

DENOISE_AT = 0.2
"""Held-out clips are noised to this share of the schedule."""
Finish = Callable[[Run, Path], None]
Watch = Callable[[Mapping[str, int]], None]


def prepare(
    plan: Plan,
    out: Path,
    refining: Callable[[int, int], None] | None = None,
    *,
    engine: Engine = HERE,
    thorough: bool = False,
) -> None:
    """Check everything before work begins; refine the teachers where an arm needs them."""
    names = [arm_name(arm) for arm in plan.arms]
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"--arms: expected names, each once, found {' '.join(names) or 'none'}. Correct the list.")
    check_numbers(plan)
    fairness.check_pairs(plan.runs(), out)
    card = check_plan(plan, out, thorough=thorough)
    check_truth(plan)
    for run in plan.runs():
        fairness.check_trained(run, out)
        fairness.check_teachers(run, out, teachers_of(card), identity(card))
    check_writable(str(out))
    write_plan(plan, out, card)
    for kind in fairness.kinds(plan):
        if not is_made(plan.clips, card, kind):
            make_refined(plan.clips, card, refining, engine=engine, kind=kind)


# -- trainings --------------------------------------------------------------------------------------------------------


def execute(
    plan: Plan,
    out: Path,
    *,
    engine: Engine,
    watch: Watch,
    finish: Finish | None = None,
    todo: Sequence[Run] | None = None,
) -> None:
    """Train the runs of `todo` to their ends, then `finish(run, out)`; by default sample what is missing.

    `watch` gets the steps of each run, now and then.
    """
    if todo is None:
        removed = {run.name for run in plan.runs() if not (run.folder(out) / "args.json").is_file()}
        todo = [r for r in plan.runs() if r.name in removed or r.missing_samples(out) or r.missing_curve(out)]
    longest_first = sorted(todo, key=Run.passes, reverse=True)  # the last to end is then a short one
    calls = {run.name: (run, out, finish or make_samples) for run in longest_first}
    renewed = 1 if plan.mdm else None  # MDM's logger is opened once a process

    def look() -> None:
        watch({run.name: run.steps_done(out) for run in plan.runs()})

    for _ in engine.run(complete, calls, str(out), renewed=renewed, watch=look, device=True):
        pass


def complete(run: Run, out: Path, finish: Finish) -> None:
    """Train from the last checkpoint on, then finish. What the host prints goes to the run's log."""
    folder = run.folder(out)
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "run.log"
    with (
        locks.held(folder),
        log.open("a", encoding="utf-8") as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        try:
            card = fairness.check_data(run.plan, out, trains=not run.is_trained(out))
            if not run.is_trained(out):
                for place in run.all_samples(out):  # of a training that was removed
                    place.unlink(missing_ok=True)
                fairness.note_teachers(run, out, teachers_of(card))
                with provenance.cost_counted(folder), _host_log(run, folder):
                    hook.run(run.plan.host(), "train.train_mdm", run.arguments(out))
            _forget_earlier(folder, [] if run.equal_passes else run.plan.curve_steps)
            finish(run, out)
        except SystemExit as stop:
            raise HostError(f"{log}: the host stopped with status {stop.code}. Read the end of that file.") from stop


@contextlib.contextmanager
def _host_log(run: Run, folder: Path) -> Iterator[None]:
    """MDM's logger writes into the run's folder; what it writes becomes progress.csv, as the stand-in's."""
    if not run.plan.mdm:
        yield
        return
    if "fork" in multiprocessing.get_all_start_methods():  # as where MDM is the main program: its loader forks
        multiprocessing.set_start_method("fork", force=True)
    place = folder / "host"
    loop.gather_log(folder, place)
    loop.write_csv(place)
    try:
        yield
    finally:
        loop.gather_log(folder, place)


def _forget_earlier(folder: Path, kept: Sequence[int] = ()) -> None:
    """Keep the last checkpoint, and the weights at the steps of a curve: the others only served to resume."""
    for kind in ("model", "opt", "bundle"):
        for place in sorted(folder.glob(f"{kind}*.pt"))[:-1]:
            if kind != "model" or int(place.stem.removeprefix(kind)) not in kept:
                place.unlink()


# -- samples ----------------------------------------------------------------------------------------------------------


def make_samples(run: Run, out: Path) -> None:
    """What the run lacks: each replication's motions for captions, held-out clips made clean, and its curve."""
    make_curve(run, out)
    missing = run.missing_samples(out)
    if not missing:
        return
    plan = run.plan
    trained = _load(run, run.checkpoint(out, run.chosen_step(out)))
    weights = sum(weight.numel() for weight in trained.model.parameters_wo_clip())
    provenance.note_cost(run.folder(out), parameters=weights)
    places = {run.replication(out, number): run.noise_seed(number) for number in range(plan.replications)}
    _sample(plan, plan.reference, trained, {place: seed for place, seed in places.items() if place in missing})
    if run.held_out(out) in missing:
        timestep = int(DENOISE_AT * plan.diffusion_steps)
        groups = sampling.denoise_held_out(trained, timestep=timestep, seed=run.seed)
        sampling.write_motions(run.held_out(out), groups, [])


def make_curve(run: Run, out: Path) -> None:
    """Motions for validation captions from the checkpoints of the curve, all from the same noise."""
    for step in run.missing_curve(out):
        if not run.checkpoint(out, step).is_file():
            raise HostError(
                f"{run.checkpoint(out, step)}: expected the checkpoint of step {step} for --curve, found none. The "
                f"training was done without --curve: leave it out, or remove {run.folder(out)} to train again."
            )
        trained = _load(run, run.checkpoint(out, step))
        _sample(run.plan, "val", trained, {run.curve_samples(out, step): run.seed})


def _load(run: Run, checkpoint: Path) -> sampling.Trained:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return sampling.load(run.plan.host(), checkpoint, device=device, clips=run.plan.clips)


def _sample(plan: Plan, split: str, trained: sampling.Trained, places: Mapping[Path, int]) -> None:
    """Write motions for captions of a split to some places, each from the noise of its seed."""
    asked = dataclasses.replace(trained.dataset, clips=clips_of(plan, split))  # an arm may train on a part of them
    wanted = sampling.prompts(asked, plan.samples, seed=0)
    for place, seed in places.items():
        made = sampling.sample(trained, wanted, seed=seed, guidance=plan.guidance)
        sampling.write_motions(place, {"samples": made}, [text for text, _ in wanted])


# -- the checkpoint that is chosen -------------------------------------------------------------------------------------


def select(run: Run, out: Path, scoring: Scoring) -> int:
    """The step whose samples for validation captions have the least error in `plan.select`; the earliest of equals."""
    metric = run.plan.select
    found = scoring.progress(run)
    if found is None or metric not in found.terms:
        known = ", ".join(found.terms) if found else "none"
        raise ConfigError(f"--select: expected a metric that is scored here ({known}), found {metric!r}.")
    reference_rows = scoring.reference_rows("val")
    errors = [reference_rows.error(metric, value) for value in found.terms[metric]]
    best = min(range(len(errors)), key=lambda index: (not math.isfinite(errors[index]), errors[index]))
    content = {"step": found.steps[best], "metric": metric, "split": "val", "errors": errors}
    write_bytes(str(run.chosen(out)), f"{text_of(content, indent=2)}\n".encode(), durable=True)
    return found.steps[best]


# -- all stages --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bench:
    """A plan in its folder, where its trainings run, and who hears of progress: (what, done, total)."""

    plan: Plan
    out: Path
    engine: Engine = field(default=Engine(processes=2))
    command: Sequence[str] = ()
    progress: Progress = lambda what, done, total: None
    thorough: bool = False
    """Whether every file of the data set is read before work begins."""

    def prepare(self) -> None:
        """Check everything before work begins; refine the teachers where an arm needs them."""
        distributed.check_one_process()
        if self.engine.is_alone and self.plan.mdm:
            raise ConfigError(
                "--workers 0: expected 1 or more with --mdm, whose logger needs a process for each run. Correct it."
            )
        check_numbers(self.plan)
        fairness.check_judged(self.plan)
        refining = partial(self.progress, "refining")
        prepare(self.plan, self.out, refining, engine=self.engine, thorough=self.thorough)

    def train(self) -> None:
        """Train and sample what is missing; with --select the checkpoints are chosen in between."""
        plan, out = self.plan, self.out
        if plan.select:
            todo = [run for run in plan.runs() if not run.is_trained(out) or run.missing_curve(out)]
            execute(plan, out, engine=self.engine, watch=self._watch, finish=make_curve, todo=todo)
            scoring = make_scoring(plan, out, progress=self.progress)
            for run in plan.runs():
                if not run.equal_passes and not run.chosen(out).is_file():
                    select(run, out, scoring)
        execute(plan, out, engine=self.engine, watch=self._watch)

    def _watch(self, done: Mapping[str, int]) -> None:
        for run in self.plan.runs():
            self.progress(run.name, done[run.name], run.steps)

    def score(self, *, anew: bool = False) -> Scoring:
        """Score what is not scored yet, or all of it; the scores are kept in files."""
        check_whole(self.plan, self.out)
        scoring = make_scoring(self.plan, self.out, anew=anew, progress=self.progress)
        runs = self.plan.runs()
        total = len(runs) * self.plan.replications
        self.progress("scoring", 0, total)
        for split in (self.plan.reference, *(["val"] if self.plan.select else [])):
            scoring.reference_rows(split)
        for place, run in enumerate(runs):
            for number in range(self.plan.replications):
                scoring.replication(run, number)
                self.progress("scoring", place * self.plan.replications + number + 1, total)
            scoring.several(run)
            scoring.against_own_data(run)
            scoring.held_out(run)
            scoring.progress(run)
        scoring.anew = False
        return scoring

    def report(self, scoring: Scoring | None = None) -> tuple[Results, Path]:
        """Write run.json, metrics.json, the report and its pictures. -> results, the path of report.md"""
        scoring = scoring or make_scoring(self.plan, self.out, progress=self.progress)
        results = gather(self.plan, self.out, scoring)
        ran = provenance.summary(provenance.write(self.plan, self.out, scoring, self.command))
        results = dataclasses.replace(results, run=ran)
        return results, write(results, self.out)

    def run(self) -> tuple[Results, Path]:
        """All of it."""
        with locks.held(self.out):
            self.prepare()
            self.train()
            return self.report(self.score())
