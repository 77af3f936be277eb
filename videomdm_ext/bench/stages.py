"""The stages of a benchmark: train, sample, score, report. Each does what is missing and leaves the rest alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from videomdm_ext.bench import checks, collect, comparison, learning, record, report
from videomdm_ext.bench.evaluators.base import Progress
from videomdm_ext.bench.evaluators.views_2d import NAME as VIEWS_2D
from videomdm_ext.bench.jury import Jury, call_jury
from videomdm_ext.bench.plan import Plan
from videomdm_ext.bench.reference import has_truth
from videomdm_ext.bench.results import Results
from videomdm_ext.bench.scores import PRIMARY
from videomdm_ext.data.clip import Clip
from videomdm_ext.errors import ConfigError

SEEN_HELD_OUT = ("heldout_reprojection",)
"""Scores of held-out clips that need no truth."""


def _nothing(what: str, done: int, total: int) -> None:
    """No progress is shown."""


@dataclass(frozen=True)
class Bench:
    """A plan in its folder, how many trainings run at a time, and who hears of progress."""

    plan: Plan
    out: Path
    workers: int = 2
    command: Sequence[str] = ()
    progress: Progress = _nothing
    refining: Callable[[int, int], None] | None = None
    watch: comparison.Watch = field(default=lambda done: None)

    def prepare(self) -> None:
        """Check everything before work begins."""
        if self.workers < 1 and self.plan.mdm:
            raise ConfigError("--workers 0: expected 1 or more with --mdm, whose logger needs a process for each run.")
        checks.check_numbers(self.plan)
        check_judged(self.plan)
        comparison.prepare(self.plan, self.out, self.refining)

    def train(self) -> None:
        """Train and sample what is missing; with --select the checkpoints are chosen in between."""
        plan, out = self.plan, self.out
        if plan.select:
            todo = [run for run in plan.runs() if not run.is_trained(out) or run.missing_curve(out)]
            comparison.perform(plan, out, todo, comparison.make_curve, workers=self.workers, watch=self.watch)
            jury = call_jury(plan, out, progress=self.progress)
            for run in plan.runs():
                if not run.equal_passes and not run.chosen(out).is_file():
                    learning.select(run, out, jury)
        comparison.execute(plan, out, workers=self.workers, watch=self.watch)

    def score(self, *, anew: bool = False) -> Jury:
        """Score what is not scored yet, or all of it; the scores are kept in files."""
        collect.check_whole(self.plan, self.out)
        jury = call_jury(self.plan, self.out, anew=anew, progress=self.progress)
        runs = self.plan.runs()
        total = len(runs) * self.plan.replications
        self.progress("scoring", 0, total)
        for split in (self.plan.reference, *(["val"] if self.plan.select else [])):
            jury.calibration(split)
        for place, run in enumerate(runs):
            for number in range(self.plan.replications):
                jury.replication(run, number)
                self.progress("scoring", place * self.plan.replications + number + 1, total)
            jury.several(run)
            jury.against_own_data(run)
            jury.held_out(run)
            learning.progress(run, jury)
        jury.anew = False
        return jury

    def report(self, jury: Jury | None = None) -> tuple[Results, Path]:
        """Write run.json, metrics.json, the report and its pictures. -> results, the path of report.md"""
        jury = jury or call_jury(self.plan, self.out, progress=self.progress)
        results = collect.gather(self.plan, self.out, jury)
        facts = record.told(record.write(self.plan, self.out, jury, self.command))
        return results, report.write(results, self.out, collect.tell(self.plan, self.out, results, jury, facts))

    def run(self) -> tuple[Results, Path]:
        """All of it."""
        self.prepare()
        self.train()
        return self.report(self.score())


def check_judged(plan: Plan) -> None:
    """There are held-out clips, and what is asked for can be scored with what is known of them. ConfigError otherwise.

    Where clips that samples are compared with have no truth, their keypoints are compared with, by views-2d alone.
    """
    checks.clips_of(plan, "test")
    asked = {plan.reference: ("primary", () if plan.primary == PRIMARY else plan.primary)}
    if plan.curve:
        asked = {"val": ("select", (plan.select,) if plan.select else ()), **asked}
    for split, (option, names) in asked.items():
        clips = checks.clips_of(plan, split)
        if not has_truth(clips):
            _check_blind(plan, clips, f"its split {split}", option, names)


def _check_blind(plan: Plan, clips: Sequence[Clip], what: str, option: str, names: Sequence[str]) -> None:
    """Keypoints can be compared with instead of the truth, and the metrics `names` are known then."""
    blind = [clip.id for clip in clips if clip.truth is None]
    found = f"found none for {len(blind)} of {len(clips)} ({blind[0]}, ...)"
    if VIEWS_2D in plan.without:
        raise ConfigError(
            f"{plan.clips}: expected a truth for every clip of {what} to compare with, {found}. Take {VIEWS_2D}, which "
            "needs none, out of --without."
        )
    for name in names:
        if not (name.startswith(f"{VIEWS_2D}/") or (option == "primary" and name in SEEN_HELD_OUT)):
            raise ConfigError(
                f"--{option} {name}: expected a metric that needs no truth, such as {VIEWS_2D}/fid, as every clip of "
                f"{what} would have to have one, {found}. Choose another."
            )
