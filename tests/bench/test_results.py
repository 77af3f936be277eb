"""What a comparison finds, and the sentence it says, for any number of arms and seeds."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import pytest
from comparisons import CALIBRATION, LEVELS, held_out, make_arm, make_results, scattered, with_scores

from videomdm_ext.bench.results import Arm, Curve, Results
from videomdm_ext.bench.statistics import Ratio
from videomdm_ext.bench.verdict import (
    Comparison,
    ablation_verdict,
    compare,
    compare_with,
    headline,
    over_arms,
    over_clips,
    reaches,
    variation_verdict,
    variations,
    verdict,
)


def comparison(results: Results, metric: str, arm: str = "2d") -> Comparison:
    found = results.arm(arm)
    assert found is not None
    return next(entry for entry in compare(results, found) if entry.metric == metric)


def test_a_2d_arm_that_is_better_everywhere_is_said_to_beat_the_control() -> None:
    (sentence,) = verdict(make_results())
    assert sentence.startswith("`2d` beats `lifted` in 3 of 3 metrics that may rank: better in ")
    assert "pose Fréchet distance" in sentence
    assert "worse" not in sentence


def test_a_2d_arm_that_is_worse_in_one_metric_is_said_to_be_worse_there() -> None:
    results = make_results(make_arm("3d"), make_arm("lifted"), make_arm("2d", pose_frechet=23.0))
    (sentence,) = verdict(results)
    assert sentence.startswith("`2d` is worse than `lifted` in a headline metric, and better in 2 of 3 ")
    assert sentence.endswith("better in acceleration, bone-length error; worse in pose Fréchet distance.")
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
    (sentence,) = verdict(dataclasses.replace(make_results(), reference_rows=blind))
    assert "none may rank" in sentence


def test_a_quarter_of_the_truths_energy_is_enough_to_move() -> None:
    results = make_results()
    assert results.frozen(make_arm("2d", 1, motion_energy=0.249))
    assert not results.frozen(make_arm("2d", 1, motion_energy=0.25))


def test_every_arm_beyond_the_two_references_is_compared() -> None:
    results = make_results(*(make_arm(name) for name in (*LEVELS, "2d-ray", "paper")))
    sentences = verdict(results)
    assert [sentence.split("`")[1] for sentence in sentences[:-1]] == ["2d", "2d-ray", "paper"]
    assert sentences[-1].startswith("3 arms are compared with `lifted`")


def test_a_difference_within_the_spread_of_seeds_is_not_detected() -> None:
    results = scattered()
    assert comparison(results, "pose_frechet").outcome == "undetected"
    size = comparison(results, "pose_frechet").detectable
    assert size is not None
    assert (
        f"no difference detected in pose Fréchet distance (this design could detect ≥ {size:.1f} ×"  # noqa: RUF001
        in verdict(results)[0]
    )


def test_an_arm_that_does_not_move_beats_nothing() -> None:
    (sentence,) = verdict(make_results(make_arm("3d"), make_arm("lifted"), make_arm("2d", motion_energy=0.2)))
    assert "hardly moves" in sentence
    assert "does not beat" in sentence


def test_a_control_that_does_not_move_is_said_to_be_so() -> None:
    results = make_results(make_arm("3d"), make_arm("lifted", motion_energy=0.2), make_arm("2d"))
    assert verdict(results)[0].startswith("`lifted` itself hardly moves. `2d` beats")


def test_one_seed_has_no_winner() -> None:
    (sentence,) = verdict(make_results(*(make_arm(name, 1) for name in LEVELS)))
    assert sentence.startswith("With one seed no difference can be told from chance")
    assert "ahead in pose Fréchet distance" in sentence


def test_a_score_of_one_seed_takes_no_interval_away_from_the_scores_of_several() -> None:
    results = held_out({"3d": (0.02,), "lifted": (0.06,), "2d": (0.04,)})
    (sentence,) = verdict(results)
    assert sentence.startswith("`2d` beats `lifted` in 3 of 4 metrics that may rank: better in ")
    assert sentence.endswith("; ahead with one seed in MPJPE of denoised held-out clips, root-aligned.")


def test_seeds_are_paired_and_those_of_one_arm_alone_do_not_count() -> None:
    results = make_results(make_arm("3d", 3), make_arm("lifted", 3), make_arm("2d", 2))
    found = comparison(results, "pose_frechet")
    assert found.closure is not None
    assert (found.gain.n, found.closure.n) == (2, 2)


def test_an_error_that_is_not_finite_is_said_to_be_so() -> None:
    results = make_results(make_arm("3d"), make_arm("lifted"), make_arm("2d", pose_frechet=math.nan))
    assert "not finite in pose Fréchet distance" in verdict(results)[0]


def test_the_held_out_error_ranks_over_several_seeds_like_any_other() -> None:
    results = held_out({"3d": (0.020, 0.021, 0.019), "lifted": (0.06, 0.061, 0.062), "2d": (0.04, 0.041, 0.039)})
    assert "heldout_mpjpe" in results.ranking_metrics
    found = comparison(results, "heldout_mpjpe")
    assert found.closure is not None
    assert (found.outcome, found.gain.n) == ("better", 3)
    assert found.gain.mean == pytest.approx(0.021)
    assert found.closure.value == pytest.approx(0.021 / 0.041)
    assert verdict(results)[0].startswith("`2d` beats `lifted` in 4 of 4 metrics that may rank: ")


def test_the_held_out_error_of_an_arm_ranks_nothing_without_that_of_the_teacher() -> None:
    results = held_out({"3d": (0.02, 0.03), "lifted": (0.06, 0.07), "2d": (0.04, 0.05)})
    blind = dataclasses.replace(results, reference_rows=CALIBRATION)
    assert "heldout_mpjpe" in blind.metrics
    assert "heldout_mpjpe" not in blind.ranking_metrics
    assert "MPJPE" not in verdict(blind)[0]


def with_curves(arm: Arm, *curves: list[float], metric: str = "pose_frechet") -> Arm:
    """-> the arm with scores at 100, 200, ... steps for its first seeds."""
    pairs = zip(arm.trainings, curves, strict=False)
    steps = [100 * (index + 1) for index in range(len(curves[0]))]
    runs = tuple(dataclasses.replace(run, progress=Curve(steps, {metric: curve})) for run, curve in pairs)
    return dataclasses.replace(arm, trainings=runs + arm.trainings[len(runs) :])


def with_clips(arm: Arm, metric: str, *scores: list[float]) -> Arm:
    """-> the arm with a score for each clip in its first seeds."""
    runs = tuple(
        dataclasses.replace(run, per_clip={metric: row}) for run, row in zip(arm.trainings, scores, strict=False)
    )
    return dataclasses.replace(arm, trainings=runs + arm.trainings[len(runs) :])


def test_without_a_difference_in_the_headline_nothing_is_claimed_elsewhere() -> None:
    results = scattered()
    assert [found.outcome for found in compare(results, results.arms[2])] == ["undetected", "unclaimed", "unclaimed"]
    (sentence,) = verdict(results)
    assert sentence.startswith("`2d` does not beat `lifted` in any metric that may rank:")
    assert sentence.endswith(
        "nothing claimed, since the headline metric shows no difference, in acceleration, bone-length error."
    )


def test_other_metrics_have_wider_intervals_than_the_headline() -> None:
    found = {entry.metric: entry for entry in compare(scattered(), scattered().arms[2])}
    assert found["pose_frechet"].headline
    assert found["pose_frechet"].decisive == found["pose_frechet"].gain
    assert sorted(found[name].decisive.level for name in ("acceleration", "bone_length_error")) == [0.95, 0.975]
    assert not found["acceleration"].headline


def test_where_the_chosen_metric_may_not_rank_the_first_that_may_is_the_headline() -> None:
    results = dataclasses.replace(make_results(), primary=("jitter",))
    assert [entry.metric for entry in compare(results, results.arms[2]) if entry.headline] == ["pose_frechet"]


def test_the_closing_sentence_tells_gap_ratio_and_what_they_are_from() -> None:
    control = with_scores(make_arm("lifted"), "pose_frechet", (20.0, 21.0, 19.0))
    own = with_scores(make_arm("2d"), "pose_frechet", (10.0, 11.2, 9.1))
    results = make_results(make_arm("3d"), control, own)
    found = comparison(results, "pose_frechet")
    assert found.closure is not None
    assert found.closure.interval is not None
    low, high = (round(100 * end) for end in found.closure.interval)
    (sentence,) = headline(results)
    assert sentence.startswith(f"`2d` closes {100 * found.closure.value:.0f} % [{low}, {high}] of the gap between ")
    assert "(published, FID on HumanML3D: 1.63)" in sentence
    assert "3 seeds, N = 18 clips a seed" in sentence
    assert sentence.endswith("sign flips p = 0.25, the least that 3 seeds can give).")
    assert "at least" not in sentence


@pytest.mark.parametrize(
    ("closure", "expected"),
    [
        (Ratio(0.8, (0.501, 1.1), 3), True),
        (Ratio(0.79, (0.7, 0.9), 3), False),
        (Ratio(0.9, (0.5, 1.3), 3), False),
        (Ratio(0.9, None, 3), False),
        (None, False),
    ],
)
def test_the_aim_is_four_fifths_of_the_gap_with_a_half_excluded(closure: Ratio | None, expected: bool) -> None:
    assert reaches(closure) == expected


def test_the_closing_sentence_says_when_the_aim_is_reached() -> None:
    results = make_results(make_arm("3d"), make_arm("lifted"), make_arm("2d", pose_frechet=6.0))
    assert "closes 93 %" in headline(results)[0]
    assert "at least 80 % with 50 % excluded" in headline(results)[0]


def test_the_closing_sentence_says_more_and_less_the_right_way_round() -> None:
    worse = make_results(make_arm("3d"), make_arm("lifted"), make_arm("2d", pose_frechet=23.0))
    assert headline(worse)[0].startswith("`2d` has (3.030 ± 0.075) × 10⁻² m² more error than `lifted`")  # noqa: RUF001
    alone = make_results(make_arm("lifted"), make_arm("2d"))
    assert headline(alone)[0].startswith("`2d` has (10.10 ± 0.25) × 10⁻² m² less error than")  # noqa: RUF001


def test_the_closing_sentence_of_a_difference_that_is_not_detected_says_what_could_be() -> None:
    (sentence,) = headline(scattered())
    size = comparison(scattered(), "pose_frechet").detectable
    assert size is not None
    assert sentence.startswith("No difference detected between `2d` and `lifted` in pose Fréchet distance; ")
    assert f"this design could detect ≥ {size:.1f} × 10⁻² m² (3 seeds, N = 18" in sentence  # noqa: RUF001


def test_the_closing_sentence_of_one_seed_a_frozen_arm_and_no_control() -> None:
    (single,) = headline(make_results(*(make_arm(name, 1) for name in LEVELS)))
    assert single.startswith("With one seed nothing is claimed between `2d` and `lifted` in pose Fréchet")
    assert single.endswith("(1 seed, N = 18 clips a seed).")
    (frozen,) = headline(make_results(make_arm("3d"), make_arm("lifted"), make_arm("2d", motion_energy=0.1)))
    assert "hardly moves" in frozen
    assert headline(make_results(make_arm("3d"), make_arm("2d"))) == []


def test_a_control_without_a_gap_has_no_gap_to_close() -> None:
    results = make_results(make_arm("3d", pose_frechet=20.5), make_arm("lifted"), make_arm("2d"))
    assert comparison(results, "pose_frechet").closure is None


def test_an_ablation_is_held_against_the_full_method() -> None:
    worse, same = make_arm("2d-lifted", pose_frechet=12.0), make_arm("2d-gt")
    results = make_results(*(make_arm(name) for name in LEVELS), worse, same)
    sentences = ablation_verdict(results)
    assert sentences[0].startswith("`2d-lifted` is worse than `2d` in a headline metric")
    assert sentences[1].startswith("`2d-gt` does not beat `2d`")
    assert "no difference detected in pose Fréchet distance (equal scores)" in sentences[1]
    found = compare_with(results, worse, results.arms[2])[0]
    assert found.gain.mean == pytest.approx(1.01 * (10 - 12))
    assert found.closure is None
    assert found.ratio is not None
    assert found.ratio.value == pytest.approx(12 / 5)
    assert ablation_verdict(make_results(make_arm("3d"), make_arm("lifted"), make_arm("2d-gt"))) == []


def varied(*names: str) -> Results:
    """-> results with these arms, and two that vary `paper` instead of the full method."""
    of = dataclasses.replace(make_arm("2d"), of="paper")
    worse = dataclasses.replace(make_arm("2d", pose_frechet=18.0), name="blind", of="paper")
    return make_results(*map(make_arm, names), dataclasses.replace(of, name="equal"), worse)


def test_a_variation_is_held_against_the_arm_that_it_varies() -> None:
    results = varied(*LEVELS, "paper")
    ((base, arms),) = variations(results)
    assert (base.name, [arm.name for arm in arms]) == ("paper", ["equal", "blind"])
    same, worse, many = variation_verdict(results, base)
    assert same.startswith("`equal` does not beat `paper` in any metric")
    assert worse.startswith("`blind` is worse than `paper` in a headline metric")
    assert many.startswith("2 arms are compared with `paper`")


def test_a_variation_of_an_arm_that_is_missing_or_of_the_full_method_stands_with_the_ablations_alone() -> None:
    assert variations(varied(*LEVELS)) == []
    assert variations(make_results(*map(make_arm, LEVELS), make_arm("2d-gt"))) == []
    assert len(ablation_verdict(varied(*LEVELS))) == 3
    assert variation_verdict(make_results(), make_arm("2d")) == []


def test_many_metrics_without_a_difference_are_counted_and_headline_ones_named() -> None:
    names = ("kinematic_frechet", "essential/fid", "penetration", "foot_skating", "floating")
    rows = dict.fromkeys(names, 1.0)
    arms = [make_arm("3d", **rows), make_arm("lifted", **rows), make_arm("2d", **rows)]
    (sentence,) = verdict(calibrated(make_results(*arms), names))
    assert "better in pose Fréchet distance" in sentence
    assert "no difference detected in 5 others" in sentence
    arms[2] = make_arm("2d", **rows, pose_frechet=20.0)
    (sentence,) = verdict(calibrated(make_results(*arms), names))
    assert "no difference detected in pose Fréchet distance (equal scores) and 5 others; nothing claimed" in sentence


def calibrated(results: Results, names: Sequence[str]) -> Results:
    """The results with these metrics allowed to rank."""
    old = results.reference_rows
    rows = {name: dict.fromkeys(names, value) for name, value in (("truth", 0.0), ("teacher", 9.0), ("floor", 0.1))}
    kept = {name: {**getattr(old, name), **row} for name, row in rows.items()}
    return dataclasses.replace(results, reference_rows=dataclasses.replace(old, **kept))


def test_p_values_of_several_arms_are_adjusted_for_their_number() -> None:
    arms = [with_scores(make_arm(name), "pose_frechet", (10.0, 13.0, 9.0)) for name in ("2d", "2d-ray", "2d-gt")]
    results = make_results(make_arm("3d"), make_arm("lifted"), *arms)
    single = comparison(results, "pose_frechet").gain.p
    assert single is not None
    assert list(over_arms(results, arms, results.arms[1]).values()) == pytest.approx([3 * single] * 3)


def test_an_arm_has_converged_when_its_last_quarter_gains_less_than_its_seeds_differ() -> None:
    arm, results = make_arm("2d", 2), make_results()
    assert (
        results.converged(with_curves(arm, [40.0, 20.0, 11.2, 10.0], [42.0, 22.0, 13.2, 12.0]), "pose_frechet") is True
    )
    assert (
        results.converged(with_curves(arm, [40.0, 20.0, 15.0, 10.0], [42.0, 22.0, 16.0, 11.0]), "pose_frechet") is False
    )
    rising = with_curves(arm, [40.0, 10.0, 10.0, 15.0], [42.0, 11.0, 11.0, 16.0])
    assert results.converged(rising, "pose_frechet") is True
    nearer = with_curves(arm, [1.0, 1.5, 2.0, 3.0], [1.0, 1.5, 2.1, 3.1], metric="acceleration")
    assert results.converged(nearer, "acceleration") is False


def test_three_quarters_of_the_steps_are_found_between_scored_steps() -> None:
    arm = with_curves(make_arm("2d", 2), [50.0, 40.0, 30.0, 20.0, 10.0], [50.0, 40.0, 30.0, 20.0, 28.0])
    spread = math.sqrt(2) * 9
    gained = (22.5 + 22.5) / 2 - (10 + 28) / 2
    assert make_results().converged(arm, "pose_frechet") is (gained <= spread)
    steep = with_curves(make_arm("2d", 2), [50.0, 40.0, 30.0, 20.0, 10.0], [51.0, 41.0, 31.0, 21.0, 28.0 - 14.0])
    assert make_results().converged(steep, "pose_frechet") is False


def test_convergence_is_not_told_from_one_seed_or_few_steps() -> None:
    results = make_results()
    assert results.converged(make_arm("2d"), "pose_frechet") is None
    assert results.converged(with_curves(make_arm("2d"), [4.0, 3.0, 2.0, 1.0]), "pose_frechet") is None
    assert results.converged(with_curves(make_arm("2d"), [3.0, 2.0, 1.0], [3.0, 2.0, 1.1]), "pose_frechet") is None


def test_the_verdict_names_the_arms_that_have_not_converged() -> None:
    falling = with_curves(make_arm("2d"), [40.0, 20.0, 15.0, 10.0], [42.0, 22.0, 16.0, 11.0])
    sentences = verdict(make_results(make_arm("3d"), make_arm("lifted"), falling))
    assert sentences[-1].startswith("Not converged")
    assert "`2d` in pose Fréchet distance." in sentences[-1]
    assert "`3d`" not in sentences[-1]


def test_clips_are_paired_and_the_interval_over_them_has_the_sign_of_the_gain() -> None:
    own, control = [[1.0, 5.0, 9.0], [2.0, 6.0, 10.0]], [[3.0, 7.0, 11.0], [4.0, 8.0, 12.0]]
    arm = with_clips(make_arm("2d"), "bone_length_error", *own)
    baseline = with_clips(make_arm("lifted"), "bone_length_error", *control)
    found = over_clips(make_results(), arm, baseline, "bone_length_error")
    assert found is not None
    assert (found.value, found.low, found.high, found.clips) == pytest.approx((2, 2, 2, 3))
    level = over_clips(
        make_results(),
        with_clips(make_arm("2d"), "acceleration", [3.0, 5.0]),
        with_clips(make_arm("lifted"), "acceleration", [6.0, 8.0]),
        "acceleration",
    )
    assert level is not None
    assert level.value == pytest.approx(3.0)
    assert over_clips(make_results(), arm, make_arm("3d"), "bone_length_error") is None
    shorter = with_clips(make_arm("3d"), "bone_length_error", [1.0, 2.0])
    assert over_clips(make_results(), arm, shorter, "bone_length_error") is None


def test_the_spread_of_replications_holds_nothing_of_the_spread_of_seeds() -> None:
    rows = [[1.0, 3.0], [101.0, 103.0]]
    runs = tuple(
        dataclasses.replace(run, replications=tuple({"pose_frechet": score} for score in scores))
        for run, scores in zip(make_arm("2d", 2).trainings, rows, strict=True)
    )
    assert dataclasses.replace(make_arm("2d"), trainings=runs).replication_spread("pose_frechet") == pytest.approx(
        2**0.5
    )
    assert make_arm("2d").replication_spread("pose_frechet") is None
