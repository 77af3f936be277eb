"""What papers published about each data set, and what is measured here for it.

Published figures are those of the VideoMDM paper (arXiv 2606.13364).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from videomdm_ext.bench.plan import Plan
from videomdm_ext.bench.report.results import Results
from videomdm_ext.bench.reproduction import lifting
from videomdm_ext.bench.reproduction.lifting import ALL, Lifted
from videomdm_ext.bench.reproduction.protocol_mdm import Evaluated
from videomdm_ext.bench.statistics import estimate_text, mean_interval, number
from videomdm_ext.mdm.evaluation import MADE

VIDEOMDM = "VideoMDM, arXiv 2606.13364"
PAPER = Plan(
    arms=("3d", "lifted", "refined", "paper", "2d", "motionmix"), steps=600_000, batch_size=64, crop_frames=196,
    learning_rate=1e-4, latent_dim=512, layers=8, ff_size=1024, dropout=0.1, average=0.9999, adam_beta2=0.999,
    guidance=2.5, reference="test", windows=1,
)  # fmt: skip
"""The published settings, and ours of scoring."""
NOT_STATED = "not stated"
EVALUATORS = {
    "t2m/fid": "MDM's evaluator, our protocol",
    "text-motion/fid": "bundled evaluator: not on the published scale",
}
"""Where an FID that MDM's own program did not give is from, the better first."""


@dataclass(frozen=True)
class Published:
    """A figure of a paper, and what is measured here for it: an arm or source of motion, and a metric of it."""

    what: str
    figure: str
    source: str
    measured: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Recipe:
    """How a data set of the paper is reproduced. `has_truth`: there is true motion, for arms and errors in 3D;
    `official`: MDM's own evaluation speaks of this set."""

    name: str
    folder: str
    lifter: str
    published: tuple[Published, ...]
    second: str
    names: str = NOT_STATED
    has_truth: bool = True
    official: bool = False


RECIPES: Mapping[str, Recipe] = {
    "humanml3d": Recipe(
        "humanml3d", "HumanML3D", "mvlift",
        (
            Published("FID, MDM supervised in 3D", "0.54", VIDEOMDM, (("3d", "fid"),)),
            Published("FID, supervised in 2D", "0.88", VIDEOMDM, (("paper", "fid"), ("2d", "fid"))),
        ),
        "true motion projected to random cameras", "23,384 train, 1,460 val, 4,384 test", official=True,
    ),
    "fit3d": Recipe(
        "fit3d", "fit3d", "wham",
        (
            Published("MPJPE, WHAM", "228 mm", VIDEOMDM, (("lifted", "mpjpe"),)),
            Published("MPJPE, VideoMDM", "111 mm", VIDEOMDM, (("lift with paper", "mpjpe"), ("lift with 2d", "mpjpe"))),
            Published("Accel, WHAM", "17.66 m/s²", VIDEOMDM, (("lifted", "acceleration_error"),)),
            Published(
                "Accel, VideoMDM", "3.16 m/s²", VIDEOMDM,
                (("lift with paper", "acceleration_error"), ("lift with 2d", "acceleration_error")),
            ),
        ),
        "keypoints of the videos",
    ),
    "nba": Recipe(
        "nba", "nba", "elepose",
        (Published("people who prefer it to MAS", "64 %", VIDEOMDM),),
        "keypoints of the videos", has_truth=False,
    ),
}  # fmt: skip


def measured(
    recipe: Recipe, plan: Plan, results: Results, lifted: Lifted | None, evaluated: Sequence[Evaluated]
) -> list[tuple[Published, str]]:
    """Each published figure with what was measured for it, in words."""
    found = []
    for one in recipe.published:
        parts = []
        for name, metric in one.measured:
            if metric == "fid":
                parts += [f"{name} {text}" for text in fids(plan, name, results, evaluated)]
            elif lifted and name in lifted.means:
                label, scale = lifting.COLUMNS[metric]
                unit = "m/s²" if "m/s²" in label else "mm"
                parts.append(f"{name} {number(lifted.means[name][ALL][metric] * scale)} {unit}")
        none = "not measured" if one.measured else "not measured: it takes people (videomdm study)"
        found.append((one, "; ".join(parts) or none))
    return found


def fids(plan: Plan, arm: str, results: Results, evaluated: Sequence[Evaluated]) -> list[str]:
    """FID of an arm by MDM's program, else by its evaluator in our protocol, else by the bundled one; with interval."""
    names = {run.name for run in plan.runs() if run.label == arm}
    official = [one.scores[MADE].mean["fid"] for one in evaluated if one.name in names]
    if official:
        return [f"{estimate_text(mean_interval(official))} (MDM's evaluation)"]
    own = results.arm(arm)
    for metric, told in EVALUATORS.items():
        values = list(own.values(metric).values()) if own else []
        if values:
            return [f"{estimate_text(mean_interval(values))} ({told})"]
    return []
