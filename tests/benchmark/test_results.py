"""What a comparison finds, and the sentence it says, for any number of arms and seeds."""

from __future__ import annotations

import dataclasses
import math

import pytest
from comparisons import CALIBRATION, LEVELS, held_out, make_arm, make_results, scattered

from videomdm_ext.benchmark.results import Comparison, Results, compare, verdict


def comparison(results: Results, metric: str, arm: str = "2d") -> Comparison:
    found = results.arm(arm)
    assert found is not None
    return next(entry for entry in compare(results, found) if entry.metric == metric)


def test_a_2d_arm_that_is_better_everywhere_is_said_to_beat_the_control() -> None:
    (sentence,) = verdict(make_results())
    assert sentence.startswith("`2d` beats `3d-on-teacher` in 3 of 3 metrics that may rank: better in ")
    assert "pose Fréchet distance" in sentence
    assert "worse" not in sentence


def test_a_2d_arm_that_is_worse_in_one_metric_is_said_to_be_worse_there() -> None:
    results = make_results(make_arm("3d"), make_arm("3d-on-teacher"), make_arm("2d", pose_frechet=23.0))
    (sentence,) = verdict(results)
    assert "in 2 of 3" in sentence
    assert "worse in pose Fréchet distance." in sentence
    assert comparison(results, "pose_frechet").gain.mean < 0


def test_the_gap_closure_is_the_share_of_the_way_from_control_to_reference() -> None:
    found = comparison(make_results(), "pose_frechet")
    assert found.closure is not None
    assert found.ratio is not None
    assert found.closure.value == pytest.approx((20 - 10) / (20 - 5))
    assert found.ratio.value == pytest.approx(10 / 5)
    assert comparison(make_results(), "acceleration").gain.mean == pytest.approx((11 * 1.01 - 4) - (4.5 * 1.01 - 4))


def test_no_arm_is_ranked_where_no_metric_may_rank() -> None:
    blind = dataclasses.replace(CALIBRATION, teacher=CALIBRATION.truth)
    (sentence,) = verdict(dataclasses.replace(make_results(), calibration=blind))
    assert "none may rank" in sentence


def test_a_quarter_of_the_truths_energy_is_enough_to_move() -> None:
    results = make_results()
    assert results.frozen(make_arm("2d", 1, motion_energy=0.249))
    assert not results.frozen(make_arm("2d", 1, motion_energy=0.25))


def test_every_arm_beyond_the_two_references_is_compared() -> None:
    results = make_results(*(make_arm(name) for name in (*LEVELS, "2d-ray", "2d-reprojection")))
    assert [sentence.split("`")[1] for sentence in verdict(results)] == ["2d", "2d-ray", "2d-reprojection"]


def test_a_difference_within_the_spread_of_seeds_is_not_detected() -> None:
    results = scattered()
    assert comparison(results, "pose_frechet").outcome == "undetected"
    assert "no difference detected in pose Fréchet distance" in verdict(results)[0]


def test_an_arm_that_does_not_move_beats_nothing() -> None:
    (sentence,) = verdict(make_results(make_arm("3d"), make_arm("3d-on-teacher"), make_arm("2d", motion_energy=0.2)))
    assert "hardly moves" in sentence
    assert "does not beat" in sentence


def test_a_control_that_does_not_move_is_said_to_be_so() -> None:
    results = make_results(make_arm("3d"), make_arm("3d-on-teacher", motion_energy=0.2), make_arm("2d"))
    assert verdict(results)[0].startswith("`3d-on-teacher` itself hardly moves. `2d` beats")


def test_one_seed_has_no_winner() -> None:
    (sentence,) = verdict(make_results(*(make_arm(name, 1) for name in LEVELS)))
    assert sentence.startswith("With one seed no difference can be told from chance")
    assert "ahead in pose Fréchet distance" in sentence


def test_a_score_of_one_seed_takes_no_interval_away_from_the_scores_of_several() -> None:
    results = held_out({"3d": (0.02,), "3d-on-teacher": (0.06,), "2d": (0.04,)})
    (sentence,) = verdict(results)
    assert sentence.startswith("`2d` beats `3d-on-teacher` in 3 of 4 metrics that may rank: better in ")
    assert sentence.endswith("; ahead with one seed in MPJPE of denoised held-out clips, root-aligned.")


def test_seeds_are_paired_and_those_of_one_arm_alone_do_not_count() -> None:
    results = make_results(make_arm("3d", 3), make_arm("3d-on-teacher", 3), make_arm("2d", 2))
    found = comparison(results, "pose_frechet")
    assert found.closure is not None
    assert (found.gain.n, found.closure.n) == (2, 2)


def test_an_error_that_is_not_finite_is_said_to_be_so() -> None:
    results = make_results(make_arm("3d"), make_arm("3d-on-teacher"), make_arm("2d", pose_frechet=math.nan))
    assert "not finite in pose Fréchet distance" in verdict(results)[0]


def test_the_held_out_error_ranks_over_several_seeds_like_any_other() -> None:
    results = held_out({"3d": (0.020, 0.021, 0.019), "3d-on-teacher": (0.06, 0.061, 0.062), "2d": (0.04, 0.041, 0.039)})
    assert "heldout_mpjpe" in results.ranking_metrics
    found = comparison(results, "heldout_mpjpe")
    assert found.closure is not None
    assert (found.outcome, found.gain.n) == ("better", 3)
    assert found.gain.mean == pytest.approx(0.021)
    assert found.closure.value == pytest.approx(0.021 / 0.041)
    assert verdict(results)[0].startswith("`2d` beats `3d-on-teacher` in 4 of 4 metrics that may rank: ")


def test_the_held_out_error_of_an_arm_ranks_nothing_without_that_of_the_teacher() -> None:
    results = held_out({"3d": (0.02, 0.03), "3d-on-teacher": (0.06, 0.07), "2d": (0.04, 0.05)})
    blind = dataclasses.replace(results, calibration=CALIBRATION)
    assert "heldout_mpjpe" in blind.metrics
    assert "heldout_mpjpe" not in blind.ranking_metrics
    assert "MPJPE" not in verdict(blind)[0]
