"""How well the trainings of a comparison lift: errors of unseen clips by action, the paper's table of Fit3D.

Every training lifts the clips of a split (`inference.lift`) from the teachers that it knows; rows beside are those of
the lifter and of the teachers that were made. What is measured of a clip is what `videomdm lift` reports.

OUT/lifting/SPLIT/ARM-SEED.json   figures of each clip; lifted anew where checkpoint, clips or settings are others
OUT/lifting.json, lifting.md      means over the clips and seeds of each arm, and by action
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from videomdm_ext.bench import fairness
from videomdm_ext.bench.evaluators.base import Progress
from videomdm_ext.bench.plan import Plan, Run
from videomdm_ext.bench.report.tables import Table, markdown_block, plain
from videomdm_ext.bench.statistics import number
from videomdm_ext.data.clip import Clip, teacher_of
from videomdm_ext.data.files import read_json, write_bytes
from videomdm_ext.data.refined import is_made
from videomdm_ext.data.schemas import text_of
from videomdm_ext.errors import ConfigError, counted
from videomdm_ext.inference import lift, sample
from videomdm_ext.inference.lift import COLUMNS, Lifting
from videomdm_ext.mdm.data import MADE, with_teacher
from videomdm_ext.mdm.evaluation import hash_of

SHOWN = ("mpjpe", "root_aligned_mpjpe", "pa_mpjpe", "pck50", "pck150", "auc", "acceleration_error")
LIFTING = Lifting(ddim=10)
"""As `videomdm lift` does by default."""
ALL = "all"
"""What the row of all actions is called."""
ACTIONS = 60
"""Actions at most that a table shows, in the order of their names."""

Figures = Mapping[str, float]


@dataclass(frozen=True)
class Lifted:
    """Means by source ("lifted", "refined", an arm) and by action, `ALL` first, over so many clips of a split."""

    means: Mapping[str, Mapping[str, Figures]]
    clips: int
    split: str
    seeds: int


def lift_all(plan: Plan, out: Path, how: Lifting, *, split: str = "test", progress: Progress) -> Lifted:
    """Lift the clips of a split with every training. ConfigError where they have no truth or a training is missing.

    DatasetError where the data set is not that of the comparison.
    """
    card, clips = fairness.check_data(plan, out), fairness.clips_of(plan, split)
    if blind := clips.missing_truth():
        raise ConfigError(
            f"{plan.clips}: expected a truth for every clip of its split {split} to measure lifted motion by, found "
            f"none for {len(blind)} of {len(clips)} ({blind[0]}, ...). Choose another split."
        )
    made = [kind for kind in MADE if is_made(plan.clips, card, kind)]
    teachers = {kind: with_teacher(plan.clips, card, clips, kind)[0] for kind in ("lifted", *made)}
    rows: dict[str, list[list[Figures]]] = {
        kind: [[lift.measure(teacher_of(clip), clip) for clip in taught]] for kind, taught in teachers.items()
    }
    for run in plan.runs():
        diffused = run.config.supervision.teacher
        kind = diffused if diffused in teachers else "refined" if "refined" in teachers else "lifted"
        found = _of_run(run, out, teachers[kind], how, f"{card.content_hash} {split} {kind}", progress)
        rows.setdefault(f"lift with {run.label}", []).append(found)
    means = {}
    for source, trainings in rows.items():
        each = [{ALL: lift.means(found), **lift.by_action(found, clips)} for found in trainings]
        means[source] = {action: lift.means([one[action] for one in each]) for action in each[0]}
    lifted = Lifted(means, len(clips), split, plan.seeds)
    content = {"units": "metres, seconds, shares", **dataclasses.asdict(lifted), "settings": dataclasses.asdict(how)}
    write_bytes(str(out / "lifting.json"), f"{text_of(content, indent=1)}\n".encode())
    write_bytes(str(out / "lifting.md"), f"# Lifting\n\n{document(lifted)}\n".encode())
    return lifted


def _of_run(run: Run, out: Path, taught: Sequence[Clip], how: Lifting, data: str, progress: Progress) -> list[Figures]:
    """Figures of each clip lifted by a training, from its file where that is of the same checkpoint and settings."""
    checkpoint = run.checkpoint(out, run.chosen_step(out))
    if not checkpoint.is_file():
        raise ConfigError(f"{checkpoint}: expected a finished training, found none. Start the comparison again.")
    split = data.split()[1]
    place, key = out / "lifting" / split / f"{run.name}.json", f"{hash_of(checkpoint)} {data} {dataclasses.asdict(how)}"
    stored = read_json(place, "object") if place.is_file() else {}
    if stored.get("key") != key:
        trained = sample.open_run(checkpoint, mdm=run.plan.mdm, clips=run.plan.clips)
        usable = dataclasses.replace(how, ddim=min(how.ddim, trained.diffusion.num_timesteps))

        def step(done: int, total: int) -> None:
            progress(f"lifting with {run.name}", done, total)

        motions = lift.lift(trained, taught, usable, progress=step)
        found = [lift.measure(motion, clip) for motion, clip in zip(motions, taught, strict=True)]
        stored = {"key": key, "clips": [{"id": clip.id, **row} for clip, row in zip(taught, found, strict=True)]}
        write_bytes(str(place), f"{text_of(stored, indent=1)}\n".encode())
    return [{name: value for name, value in row.items() if name != "id"} for row in stored["clips"]]


def document(lifted: Lifted) -> str:
    """The table of all actions, and one of each error that the paper reports by action, as Markdown."""
    clips, trainings = counted(lifted.clips, "clip"), counted(lifted.seeds, "training")
    what = f"{clips} of the split {lifted.split}, {trainings} of each arm; mm but where named."
    actions = [action for action in next(iter(lifted.means.values())) if action != ALL]
    parts = [what, markdown_block(table(lifted))]
    for name in ("mpjpe", "acceleration_error") if 1 < len(actions) <= ACTIONS else ():
        label, scale = COLUMNS[name]
        rows = [
            [plain(action), *(number(means[action][name] * scale) for means in lifted.means.values())]
            for action in actions
        ]
        parts += [f"{label} by action", markdown_block(Table(["action", *lifted.means], rows))]
    return "\n\n".join(parts)


def table(lifted: Lifted) -> Table:
    """A row a source, over all actions."""
    rows = [
        [source, *(number(means[ALL][name] * COLUMNS[name][1]) for name in SHOWN)]
        for source, means in lifted.means.items()
    ]
    return Table(["motion", *(COLUMNS[name][0] for name in SHOWN)], rows)
