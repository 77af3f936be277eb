"""What tests share of comparisons: a plan, and results of three arms, several seeds, and calibration rows."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from videomdm_ext.bench.reference import ReferenceRows
from videomdm_ext.bench.report.results import Arm, Results, Training
from videomdm_ext.bench.scoring import Curve
from videomdm_ext.data.folder import Card, read_card

CALIBRATION = ReferenceRows(
    truth={"acceleration": 4.0, "bone_length_error": 0.0, "motion_energy": 1.0, "pose_frechet": 0.0, "jitter": 50.0},
    floor={"acceleration": 0.5, "bone_length_error": 0.0001, "motion_energy": 0.1, "pose_frechet": 4.0, "jitter": 30.0},
    teacher={
        "acceleration": 12.0,
        "bone_length_error": 0.02,
        "motion_energy": 1.4,
        "pose_frechet": 31.0,
        "jitter": 80.0,
    },
    static={"acceleration": 0.0, "bone_length_error": 0.05, "motion_energy": 0.0, "pose_frechet": 90.0, "jitter": 0.0},
    clips=18,
)
CARD = Card(
    name="demo",
    skeleton="smpl22",
    fps=20.0,
    lifter="synthetic",
    licence="zlib",
    sources=("DeepMimic",),
    lifter_error={"pa_mpjpe": 0.0912},
    counts={"train": 144, "test": 18},
    content_hash="abc123",
)
LEVELS = {
    "3d": {"pose_frechet": 5.0, "acceleration": 5.0, "bone_length_error": 0.003, "motion_energy": 0.9, "jitter": 60.0},
    "lifted": {
        "pose_frechet": 20.0, "acceleration": 11.0, "bone_length_error": 0.03, "motion_energy": 1.3, "jitter": 90.0,
    },
    "2d": {"pose_frechet": 10.0, "acceleration": 4.5, "bone_length_error": 0.005, "motion_energy": 0.8, "jitter": 40.0},
}  # fmt: skip


def write_plan(bench: Path, clips: Path, /, **changes: object) -> Path:
    """Write the plan of the arms 3d and 2d on a data set. -> the folder"""
    plan = {"clips": str(clips), "content": read_card(str(clips)).content_hash, "arms": ["3d", "2d"]} | changes
    bench.mkdir()
    (bench / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    return bench


def make_arm(name: str, seeds: int = 3, **changes: float) -> Arm:
    """-> an arm of LEVELS with one part in a hundred between seeds."""
    levels = {**LEVELS.get(name, LEVELS["2d"]), **changes}
    losses = Curve([0, 50, 100], {"loss": [1.0, 0.3, 0.1], "ray": [0.9, 0.8, 0.7]})
    return Arm(
        name,
        tuple(
            Training(seed, {k: v * (1 + 0.01 * seed) for k, v in levels.items()}, losses, 100, 400, 12.5)
            for seed in range(seeds)
        ),
        settings=f"{name} settings",
    )


def make_results(*arms: Arm) -> Results:
    """-> results of the three arms, or of those given."""
    arms = arms or tuple(make_arm(name) for name in LEVELS)
    return Results(arms, CALIBRATION, CARD, 18, "MiniLM", notes=("One note.",))


def with_scores(arm: Arm, metric: str, scores: Sequence[float]) -> Arm:
    """-> the arm with these scores of its first seeds in one metric."""
    pairs = list(zip(arm.trainings, scores, strict=False))
    changed = tuple(dataclasses.replace(run, metrics={**run.metrics, metric: score}) for run, score in pairs)
    return dataclasses.replace(arm, trainings=changed + arm.trainings[len(changed) :])


def scattered() -> Results:
    """-> results whose 2D arm has one score that is lower only by chance."""
    return make_results(
        make_arm("3d"), make_arm("lifted"), with_scores(make_arm("2d"), "pose_frechet", (5.0, 19.0, 34.0))
    )


def held_out(scores: Mapping[str, Sequence[float]]) -> Results:
    """-> results with these errors of denoised held-out clips in the first seeds, m; the teacher's is 0.09."""
    arms = [with_scores(make_arm(name), "heldout_mpjpe", found) for name, found in scores.items()]
    rows = dataclasses.replace(CALIBRATION, teacher={**CALIBRATION.teacher, "heldout_mpjpe": 0.09})
    return dataclasses.replace(make_results(*arms), reference_rows=rows)
