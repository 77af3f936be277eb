"""The verb `reproduce`: a table of the paper from the official folders, after a list of what is needed for it."""

import dataclasses
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from videomdm_ext.bench.report.tables import markdown_block
from videomdm_ext.bench.reproduction import needed
from videomdm_ext.bench.reproduction.published import PAPER, RECIPES
from videomdm_ext.bench.reproduction.reproduce import Reproduction
from videomdm_ext.bench.run import Plan
from videomdm_ext.cli.benchmarking import Trainings, text_choice
from videomdm_ext.cli.console import bars, by_name, console, pairs, quoted, say_next
from videomdm_ext.data import locks
from videomdm_ext.errors import counted
from videomdm_ext.mdm import distributed
from videomdm_ext.render import figures


@dataclass(frozen=True)
class Reproduce:
    """Make a table of the paper from the official folders: import, refine, train, evaluate; started again, it goes on.

    First everything that is needed is listed, found or missing; with something missing nothing starts.
    """

    kind: Annotated[Literal["humanml3d", "fit3d", "nba"], tyro.conf.Positional]
    """Data set of the paper."""
    plan: Plan = PAPER
    data: Path = Path("data")
    """Folder that holds HumanML3D, fit3d or nba, and the lifter's results in a folder of its name."""
    out: Path | None = None
    """Folder for everything that is made, by default runs/reproduce-KIND."""
    lifter: str = ""
    """Lifter whose results are taken; by default mvlift, wham or elepose, as in the paper."""
    results: Path | None = None
    """Their folder, where it is not DATA/LIFTER."""
    smpl: str = ""
    """Folder of the body models' files, for results that are parameters of a body."""
    cameras: Literal["given", "pnp"] = "given"
    """Cameras of humanml3d: given, or found from lifted motion and keypoints."""
    option: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """KEY=VALUE of the importer or, as lifter.KEY=VALUE, of the lifter (videomdm data import list .)."""
    seed: int = 0
    """Seed of cameras and splits of the import."""
    engine: Trainings = field(default=Trainings())
    dry_run: bool = False
    """Print the check list and the plan with hours and gigabytes, from a step timed here, and do nothing."""

    def __call__(self) -> int:
        figures.require()
        distributed.check_one_process()
        out = self.out or Path("runs") / f"reproduce-{self.kind}"
        made = Reproduction(
            RECIPES[self.kind], self.plan, self.data, out, self.lifter, self.results, self.smpl, self.cameras,
            pairs(self.option), self.seed, engine=self.engine, command=["videomdm", *sys.argv[1:]],
        )  # fmt: skip
        needs = made.needs()
        console.print(markdown_block(needed.table(needs)), markup=False)
        if self.dry_run:
            self.forecast(made)
        needed.refuse(needs)
        if self.dry_run:
            return 0
        plan = dataclasses.replace(self.plan, text_features=text_choice(self.plan.text_features))
        with locks.held(out), bars() as progress:
            place = dataclasses.replace(made, plan=plan, progress=by_name(progress)).run()
        console.print(place.read_text(encoding="utf-8"), markup=False)
        say_next(f"bench validate {quoted(out)}")
        return 0

    def forecast(self, made: Reproduction) -> None:
        """Print what would be run, and what it would take."""
        plan, without = made.planned(), made.own_arms[1]
        console.print(
            f"{counted(len(plan.runs()), 'training')} ({', '.join(plan.arms)}; {counted(plan.seeds, 'seed')}) of "
            f"{plan.steps:,} steps, {counted(plan.replications, 'replication')} of {counted(plan.samples, 'motion')}"
        )
        for arm, why in without.items():
            console.print(f"not run: {arm}; {why}")
        for name, value in made.estimate().items():
            console.print(f"{name}: {value:.3g}")
        console.print(
            "Timed: a denoiser pass of this size on this machine, one training at a time; text encoding and the loss "
            "come on top, and refining, scoring and MDM's own evaluation are not counted."
        )
