"""The report says what the numbers say, for any number of arms and seeds."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from videomdm_ext.benchmark import pictures, report
from videomdm_ext.benchmark.metrics import Calibration
from videomdm_ext.benchmark.statistics import Estimate, Ratio
from videomdm_ext.datasets.card import Card
from videomdm_ext.datasets.motions import load_motions
from videomdm_ext.errors import DatasetError, VideoMDMError
from videomdm_ext.skeletons import SMPL22

CALIBRATION = Calibration(
    truth={"acceleration": 4.0, "bone_length": 0.2, "motion_energy": 1.0, "pose_frechet": 0.0, "jitter": 50.0},
    floor={"acceleration": 0.5, "bone_length": 0.0001, "motion_energy": 0.1, "pose_frechet": 4.0, "jitter": 30.0},
    teacher={"acceleration": 12.0, "bone_length": 0.22, "motion_energy": 1.4, "pose_frechet": 31.0, "jitter": 80.0},
    static={"acceleration": 0.0, "bone_length": 0.15, "motion_energy": 0.0, "pose_frechet": 90.0, "jitter": 0.0},
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
    "3d": {"pose_frechet": 5.0, "acceleration": 5.0, "bone_length": 0.203, "motion_energy": 0.9, "jitter": 60.0},
    "3d-on-teacher": {
        "pose_frechet": 20.0, "acceleration": 11.0, "bone_length": 0.23, "motion_energy": 1.3, "jitter": 90.0,
    },
    "2d": {"pose_frechet": 10.0, "acceleration": 4.5, "bone_length": 0.205, "motion_energy": 0.8, "jitter": 40.0},
}  # fmt: skip


def make_arm(name: str, seeds: int = 3, **changes: float) -> report.Arm:
    """-> an arm of LEVELS with one part in a hundred between seeds."""
    levels = {**LEVELS.get(name, LEVELS["2d"]), **changes}
    losses = pictures.Curve([0, 50, 100], {"loss": [1.0, 0.3, 0.1], "ray": [0.9, 0.8, 0.7]})
    return report.Arm(
        name,
        tuple(
            report.Replication(seed, {k: v * (1 + 0.01 * seed) for k, v in levels.items()}, losses, 100, 400, 12.5)
            for seed in range(seeds)
        ),
        settings=f"{name} settings",
    )


def make_results(*arms: report.Arm) -> report.Results:
    """-> results of the three arms, or of those given."""
    arms = arms or tuple(make_arm(name) for name in LEVELS)
    return report.Results(arms, CALIBRATION, CARD, 18, "MiniLM", notes=("One note.",))


def comparison(results: report.Results, metric: str, arm: str = "2d") -> report.Comparison:
    found = results.arm(arm)
    assert found is not None
    return next(entry for entry in report.compare(results, found) if entry.metric == metric)


def test_a_2d_arm_that_is_better_everywhere_is_said_to_beat_the_control() -> None:
    (sentence,) = report.verdict(make_results())
    assert sentence.startswith("`2d` beats `3d-on-teacher` in 3 of 3 metrics that may rank: better in ")
    assert "pose Fréchet distance" in sentence
    assert "worse" not in sentence


def test_a_2d_arm_that_is_worse_in_one_metric_is_said_to_be_worse_there() -> None:
    results = make_results(make_arm("3d"), make_arm("3d-on-teacher"), make_arm("2d", pose_frechet=23.0))
    (sentence,) = report.verdict(results)
    assert "in 2 of 3" in sentence
    assert "worse in pose Fréchet distance." in sentence
    assert comparison(results, "pose_frechet").gain.mean < 0


def test_a_difference_within_the_spread_of_seeds_is_not_detected_and_the_report_says_what_could_be() -> None:
    own = make_arm("2d")
    spread = zip(own.replications, (5.0, 19.0, 34.0), strict=True)
    runs = tuple(dataclasses.replace(run, metrics={**run.metrics, "pose_frechet": fd}) for run, fd in spread)
    results = make_results(make_arm("3d"), make_arm("3d-on-teacher"), dataclasses.replace(own, replications=runs))
    assert comparison(results, "pose_frechet").outcome == "undetected"
    assert "no difference detected in pose Fréchet distance" in report.verdict(results)[0]
    assert "no difference detected; could detect" in report.markdown(results, {})


def test_the_gap_closure_is_the_share_of_the_way_from_control_to_reference() -> None:
    found = comparison(make_results(), "pose_frechet")
    assert found.closure is not None
    assert found.ratio is not None
    assert found.closure.value == pytest.approx((20 - 10) / (20 - 5))
    assert found.ratio.value == pytest.approx(10 / 5)
    assert comparison(make_results(), "acceleration").gain.mean == pytest.approx((11 * 1.01 - 4) - (4.5 * 1.01 - 4))


def test_a_metric_that_does_not_separate_the_teacher_takes_no_part_in_the_verdict() -> None:
    results = make_results()
    assert "jitter" in results.metrics
    assert "jitter" not in results.ranking_metrics
    text = report.markdown(results, {})
    row = next(line for line in text.splitlines() if line.startswith("| jitter |"))
    assert "| no |" in row
    assert "under 2 times the floor" in row


def test_no_arm_is_ranked_where_no_metric_may_rank() -> None:
    blind = dataclasses.replace(CALIBRATION, teacher=CALIBRATION.truth)
    (sentence,) = report.verdict(dataclasses.replace(make_results(), calibration=blind))
    assert "none may rank" in sentence


def test_an_arm_that_does_not_move_is_frozen_and_beats_nothing() -> None:
    results = make_results(make_arm("3d"), make_arm("3d-on-teacher"), make_arm("2d", motion_energy=0.2))
    assert "hardly moves" in report.verdict(results)[0]
    assert "does not beat" in report.verdict(results)[0]
    text = report.markdown(results, {})
    assert "2d (frozen)" in text
    assert "not counted, frozen" in text


def test_a_quarter_of_the_truths_energy_is_enough_to_move() -> None:
    results = make_results()
    assert results.frozen(make_arm("2d", 1, motion_energy=0.249))
    assert not results.frozen(make_arm("2d", 1, motion_energy=0.25))


def test_one_seed_has_no_interval_and_no_winner() -> None:
    results = make_results(*(make_arm(name, 1) for name in LEVELS))
    (sentence,) = report.verdict(results)
    assert sentence.startswith("With one seed no difference can be told from chance")
    assert "ahead in pose Fréchet distance" in sentence
    text = report.markdown(results, {})
    table = text.split("## Scores")[1].split("N = ")[0]
    assert "±" not in next(line for line in table.splitlines() if line.startswith("| pose")).split("|")[2]
    assert "N = 18 clips a seed; 1 training seeds (0); one seed, no interval." in text


def test_every_arm_beyond_the_two_references_is_compared() -> None:
    results = make_results(*(make_arm(name) for name in (*LEVELS, "2d-ray", "2d-reprojection")))
    assert [sentence.split("`")[1] for sentence in report.verdict(results)] == ["2d", "2d-ray", "2d-reprojection"]


@pytest.mark.parametrize("names", [("2d",), ("3d", "2d"), ("3d", "3d-on-teacher"), ("3d-on-teacher", "2d")])
def test_any_selection_of_arms_is_reported(names: tuple[str, ...]) -> None:
    results = make_results(*(make_arm(name, 2) for name in names))
    assert report.verdict(results)
    assert report.markdown(results, {}).startswith("# ")
    json.loads(report.to_json(results))


def test_a_score_that_is_not_finite_is_said_to_be_so() -> None:
    results = make_results(make_arm("3d"), make_arm("3d-on-teacher"), make_arm("2d", pose_frechet=math.nan))
    assert "not finite in pose Fréchet distance" in report.verdict(results)[0]
    assert "not finite" in report.markdown(results, {})
    stored = json.loads(report.to_json(results))
    assert stored["arms"][2]["replications"][0]["metrics"]["pose_frechet"] is None


def test_the_text_holds_n_seeds_data_and_notes() -> None:
    text = report.markdown(make_results(), {"metrics.png": "Scores"})
    for part in (
        "N = 18",
        "3 training seeds (0, 1, 2)",
        "pa mpjpe 0.0912",
        "`abc123`",
        "MiniLM",
        "One note.",
        "144 train",
    ):
        assert part in text
    assert "![Scores](metrics.png)" in text
    assert "| 2d | 3 | 100 | 400 | 12.5 | 2d settings |" in text


def test_every_row_of_a_table_has_as_many_cells_as_its_head() -> None:
    lines = report.markdown(make_results(), {}).splitlines()
    blocks, width = 0, 0
    for before, line in zip(["", *lines], lines, strict=False):
        if line.startswith("|"):
            blocks, width = (blocks, width) if before.startswith("|") else (blocks + 1, line.count("|"))
            assert line.count("|") == width
    assert blocks == 4


def test_the_terminal_shows_every_arm_and_n() -> None:
    console = Console(width=150, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        console.print(report.terminal_table(make_results()))
        text = console.export_text()
    for part in ("3d-on-teacher", "pose Fréchet distance", "halves", "N = 18"):
        assert part in text


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (Estimate(206.312, 0.31, 3), "206.31 ± 0.31"),
        (Estimate(31.24, 12.3, 3), "31 ± 12"),
        (Estimate(0.2, 0.0, 3), "0.200 ± 0.000"),
        (Estimate(5.0, None, 1), "5.00"),
        (Estimate(math.nan, math.nan, 2), "not finite"),
    ],
)
def test_an_estimate_is_written_to_the_places_its_interval_allows(estimate: Estimate, text: str) -> None:
    assert report.estimate_text(estimate) == text


def test_a_ratio_without_finite_ends_is_said_to_be_unbounded() -> None:
    assert report.ratio_text(Ratio(0.5, None, 3)) == "0.50 (unbounded)"
    assert report.ratio_text(Ratio(0.5, (0.25, 1.0), 3)) == "0.50 [0.25, 1.00]"


def test_writing_leaves_text_numbers_and_pictures(tmp_path: Path) -> None:
    motions = {m.name: m for m in load_motions()}
    walk = motions["walk"].positions[:6]
    arms = tuple(make_arm(name, 2) for name in LEVELS)
    example = pictures.Example("a person walks forward.", {"truth": walk, **dict.fromkeys(LEVELS, walk)})
    results = dataclasses.replace(make_results(*arms), examples=(example,))
    place = report.write(results, tmp_path / "report")
    names = {"report.md", "metrics.json", "metrics.png", "losses.png", "strips.png", "motion.gif"}
    assert {path.name for path in place.parent.iterdir()} == names
    assert place.read_text(encoding="utf-8").count("![") == 4
    assert (place.parent / "motion.gif").read_bytes()[:6] == b"GIF89a"
    assert (place.parent / "strips.png").read_bytes()[1:4] == b"PNG"


def test_pictures_hold_for_one_arm_one_seed_one_step_and_motion_that_is_not_finite(tmp_path: Path) -> None:
    curve = pictures.Curve([0], {"loss": [0.0]})
    pictures.loss_curves(str(tmp_path / "losses.png"), {"2d": [curve]})
    panel = pictures.Panel(
        "score", {"2d": ([1.0], Estimate(1.0, None, 1)), "x": ([math.nan], Estimate(math.nan, None, 1))}
    )
    pictures.metric_bars(str(tmp_path / "metrics.png"), [panel])
    wild = np.full((4, 22, 3), np.nan, dtype=np.float32)
    pictures.strips(str(tmp_path / "strips.png"), [pictures.Example("wild", {"2d": wild})], SMPL22, 20.0)
    pictures.animation(str(tmp_path / "motion.gif"), pictures.Example("wild", {"2d": wild * 1e30}), SMPL22)
    assert len(list(tmp_path.iterdir())) == 4


def test_a_figure_keeps_left_and_right_as_a_camera_in_front_sees_them() -> None:
    left, up, ahead = np.eye(3)
    seen = pictures._seen(np.stack((left, up, ahead)), azimuth=0.0, elevation=0.0)
    np.testing.assert_allclose(seen, np.eye(3), atol=1e-12)
    from_the_right = pictures._seen(ahead, azimuth=-np.pi / 2, elevation=0.0)
    np.testing.assert_allclose(from_the_right, (1, 0, 0), atol=1e-12)


def test_a_missing_package_names_its_extra() -> None:
    with pytest.raises(VideoMDMError, match=r"\[demo\]"):
        pictures.require("no_such_package.part")


def test_a_folder_that_cannot_be_written_is_an_error_before_anything_is_drawn(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(DatasetError, match="file"):
        report.write(make_results(), tmp_path / "file" / "report")
