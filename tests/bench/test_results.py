"""What a comparison finds, and the sentence it says, for any number of arms and seeds."""

import dataclasses
import math
from typing import Any

import pytest
from comparisons import CALIBRATION, LEVELS, held_out, make_arm, make_results, scattered, with_scores

from videomdm_ext.bench.report.results import Arm, Results
from videomdm_ext.bench.report.verdict import (
    Comparison,
    ablations,
    against,
    compare,
    compare_with,
    headline,
    over_clips,
    variations,
    verdict,
)
from videomdm_ext.bench.scoring import Curve


def comparison(results: Results, metric: str = "pose_frechet") -> Comparison:
    return next(entry for entry in compare(results, results.arms[2]) if entry.metric == metric)


def three(**changes: float) -> Results:
    """-> results of the three arms, with these levels of the 2D one."""
    return make_results(make_arm("3d"), make_arm("lifted"), make_arm("2d", **changes))


SIZE = comparison(scattered()).detectable
DETECTABLE = f"this design could detect ≥ {SIZE:.1f} × 10⁻² m²"  # noqa: RUF001


@pytest.mark.parametrize(
    ("results", "start", "end"),
    [
        (three(), "`2d` beats `lifted` in 3 of 3 metrics that may rank: better in ", "pose Fréchet distance, acceler"),
        (
            three(pose_frechet=23.0),
            "`2d` is worse than `lifted` in a headline metric, and better in 2 of 3 that may rank:",
            "better in acceleration, bone-length error; worse in pose Fréchet distance.",
        ),
        (dataclasses.replace(three(), reference_rows=dataclasses.replace(CALIBRATION, teacher=CALIBRATION.truth)),
         "No metric tells the teacher's own data from the truth here", "none may rank the arms."),
        (three(motion_energy=0.2), "`2d` hardly moves (motion energy under 0.25", "does not beat `lifted`."),
        (make_results(*(make_arm(name, motion_energy=0.2) for name in LEVELS)),
         "`2d` hardly moves (motion energy under 0.25", "nor does `lifted`: they were trained too short to be c"),
        (make_results(make_arm("3d"), make_arm("lifted", motion_energy=0.2), make_arm("2d")),
         "`lifted` itself hardly moves. `2d` beats", ""),
        (make_results(*(make_arm(name, 1) for name in LEVELS)),
         "With one seed no difference can be told from chance; `2d` against `lifted`: ", "ahead in pose Fréchet"),
        (held_out({"3d": (0.02,), "lifted": (0.06,), "2d": (0.04,)}),
         "`2d` beats `lifted` in 3 of 4 metrics that may rank: better in ",
         "; ahead with one seed in MPJPE of denoised held-out clips, root-aligned."),
        (held_out({"3d": (0.020, 0.021, 0.019), "lifted": (0.06, 0.061, 0.062), "2d": (0.04, 0.041, 0.039)}),
         "`2d` beats `lifted` in 4 of 4 metrics that may rank: ", ""),
        (three(pose_frechet=math.nan), "", "not finite in pose Fréchet distance"),
        (scattered(), "`2d` does not beat `lifted` in any metric that may rank: no difference detected in pose Fréchet "
         f"distance ({DETECTABLE})",
         "nothing claimed, since the headline metric shows no difference, in acceleration, bone-length error."),
        (make_results(make_arm("3d"), make_arm("2d")), "No arm `lifted`: nothing to compare with.", ""),
        (make_results(make_arm("3d"), make_arm("lifted")), "No arm to compare with the control.", ""),
    ],
)  # fmt: skip
def test_the_verdict_says_what_was_found_in_one_sentence(results: Results, start: str, end: str) -> None:
    (sentence,) = verdict(results)
    assert sentence.startswith(start)
    assert end in sentence
    assert sentence.endswith(end) or not end.endswith(".")


def test_gains_closures_and_ratios_are_those_of_the_errors() -> None:
    found = comparison(make_results())
    assert found.closure is not None
    assert found.ratio is not None
    assert found.closure.value == pytest.approx((20 - 10) / (20 - 5))
    assert found.ratio.value == pytest.approx(10 / 5)
    assert comparison(make_results(), "acceleration").gain.mean == pytest.approx((11 * 1.01 - 4) - (4.5 * 1.01 - 4))
    assert comparison(three(pose_frechet=23.0)).gain.mean < 0
    without_gap = make_results(make_arm("3d", pose_frechet=20.5), make_arm("lifted"), make_arm("2d"))
    assert comparison(without_gap).closure is None


def test_a_quarter_of_the_truths_energy_is_enough_to_move() -> None:
    assert make_results().frozen(make_arm("2d", 1, motion_energy=0.249))
    assert not make_results().frozen(make_arm("2d", 1, motion_energy=0.25))


def test_seeds_are_paired_and_those_of_one_arm_alone_do_not_count() -> None:
    found = comparison(make_results(make_arm("3d", 3), make_arm("lifted", 3), make_arm("2d", 2)))
    assert found.closure is not None
    assert (found.gain.n, found.closure.n) == (2, 2)


def test_other_metrics_have_wider_intervals_than_the_headline() -> None:
    found = {entry.metric: entry for entry in compare(scattered(), scattered().arms[2])}
    assert [entry.outcome for entry in found.values()] == ["undetected", "unclaimed", "unclaimed"]
    assert [entry.headline for entry in found.values()] == [True, False, False]
    assert found["pose_frechet"].decisive == found["pose_frechet"].gain
    assert sorted(found[name].decisive.level for name in ("acceleration", "bone_length_error")) == [0.95, 0.975]
    results = dataclasses.replace(make_results(), primary=("jitter",))  # which may not rank
    assert [entry.metric for entry in compare(results, results.arms[2]) if entry.headline] == ["pose_frechet"]


def test_the_closing_sentence_tells_gap_ratio_and_what_they_are_from() -> None:
    control = with_scores(make_arm("lifted"), "pose_frechet", (20.0, 21.0, 19.0))
    own = with_scores(make_arm("2d"), "pose_frechet", (10.0, 11.2, 9.1))
    results = make_results(make_arm("3d"), control, own)
    found = comparison(results)
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
    ("scores", "reached"), [((6.0, 6.1, 5.9), True), ((9.0, 9.1, 8.9), False), ((0.0, 14.0, 4.0), False)]
)
def test_the_aim_is_four_fifths_of_the_gap_with_a_half_excluded(scores: tuple[float, ...], reached: bool) -> None:
    """The last closes 93 % with an interval that does not leave out a half."""
    three_d = with_scores(make_arm("3d"), "pose_frechet", (5.0, 5.0, 5.0))
    results = make_results(three_d, make_arm("lifted"), with_scores(make_arm("2d"), "pose_frechet", scores))
    assert ("at least 80 % with 50 % excluded" in headline(results)[0]) == reached


@pytest.mark.parametrize(
    ("results", "start"),
    [
        (three(pose_frechet=23.0), "`2d` has (3.030 ± 0.075) × 10⁻² m² more error than `lifted`"),  # noqa: RUF001
        (make_results(make_arm("lifted"), make_arm("2d")),
         "`2d` has (10.10 ± 0.25) × 10⁻² m² less error than"),  # noqa: RUF001
        (scattered(), "No difference detected between `2d` and `lifted` in pose Fréchet distance; "
         f"{DETECTABLE} (3 seeds, N = 18"),
        (make_results(*(make_arm(name, 1) for name in LEVELS)),
         "With one seed nothing is claimed between `2d` and `lifted` in pose Fréchet distance (1 seed, N = 18 clips a"),
    ],
)  # fmt: skip
def test_the_closing_sentence_says_what_else_may_be_found(results: Results, start: str) -> None:
    assert headline(results)[0].startswith(start)
    assert headline(make_results(make_arm("3d"), make_arm("2d"))) == []
    assert headline(three(motion_energy=0.1)) == []  # the verdict says that it hardly moves


def test_every_arm_beyond_the_two_references_is_compared_and_p_values_are_adjusted_for_their_number() -> None:
    results = make_results(*(make_arm(name) for name in (*LEVELS, "2d-ray", "paper")))
    sentences = verdict(results)
    assert [sentence.split("`")[1] for sentence in sentences[:-1]] == ["2d", "2d-ray", "paper"]
    assert sentences[-1].startswith("3 arms are compared with `lifted`")
    arms = [with_scores(make_arm(name), "pose_frechet", (10.0, 13.0, 9.0)) for name in ("2d", "2d-ray", "2d-gt")]
    results = make_results(make_arm("3d"), make_arm("lifted"), *arms)
    single = comparison(results).gain.p
    assert single is not None
    assert verdict(results)[-1].count(f"p = {3 * single:.2g}") == 3


def test_a_variation_is_held_against_the_arm_that_it_varies_if_that_is_there() -> None:
    def varied(*names: str) -> Results:
        changed = {"equal": make_arm("2d"), "blind": make_arm("2d", pose_frechet=18.0)}
        own = [dataclasses.replace(arm, name=name, of="paper") for name, arm in changed.items()]
        return make_results(*map(make_arm, names), *own)

    results = varied(*LEVELS, "paper")
    ((base, arms),) = variations(results)
    assert (base.name, [arm.name for arm in arms]) == ("paper", ["equal", "blind"])
    same, worse, many = against(results, arms, base)
    assert same.startswith("`equal` does not beat `paper` in any metric")
    assert worse.startswith("`blind` is worse than `paper` in a headline metric")
    assert many.startswith("2 arms are compared with `paper`")
    assert variations(varied(*LEVELS)) == []
    assert variations(make_results(*map(make_arm, LEVELS), make_arm("2d-gt"))) == []
    assert len(ablations(varied(*LEVELS))) == 2
    assert ablations(make_results(make_arm("3d"), make_arm("lifted"), make_arm("2d-gt"))) == []
    found = compare_with(results, arms[1], base)[0]
    assert (found.closure, found.ratio and found.ratio.value) == (None, pytest.approx(18 / 5))
    assert found.gain.mean == pytest.approx(1.01 * (10 - 18))


def test_many_metrics_without_a_difference_are_counted_and_headline_ones_named() -> None:
    names = ("kinematic_frechet", "essential/fid", "penetration", "foot_skating", "floating")
    ones = dict.fromkeys(names, 1.0)
    rows = {"truth": 0.0, "teacher": 9.0, "floor": 0.1}
    able = {row: {**getattr(CALIBRATION, row), **dict.fromkeys(names, value)} for row, value in rows.items()}

    def sentence(**levels: float) -> str:
        arms = [make_arm("3d", **ones), make_arm("lifted", **ones), make_arm("2d", **ones, **levels)]
        calibrated = dataclasses.replace(CALIBRATION, **able)  # type: ignore[arg-type]
        (found,) = verdict(dataclasses.replace(make_results(*arms), reference_rows=calibrated))
        return found

    assert "better in pose Fréchet distance" in sentence()
    assert "no difference detected in 5 others" in sentence()
    found = sentence(pose_frechet=20.0)
    assert "no difference detected in pose Fréchet distance (equal scores) and 5 others; nothing claimed" in found


def changed(arm: Arm, *each: dict[str, Any]) -> Arm:
    """-> the arm with these fields of its first trainings."""
    runs = [dataclasses.replace(run, **fields) for run, fields in zip(arm.trainings, each, strict=False)]
    return dataclasses.replace(arm, trainings=(*runs, *arm.trainings[len(runs) :]))


def with_curves(*curves: list[float], metric: str = "pose_frechet") -> Arm:
    """-> an arm with scores at 100, 200, ... steps for its first seeds."""
    steps = [100 * (index + 1) for index in range(len(curves[0]))]
    return changed(make_arm("2d", max(2, len(curves))), *({"progress": Curve(steps, {metric: row})} for row in curves))


@pytest.mark.parametrize(
    ("arm", "converged"),
    [
        (with_curves([40.0, 20.0, 11.2, 10.0], [42.0, 22.0, 13.2, 12.0]), True),
        (with_curves([40.0, 20.0, 15.0, 10.0], [42.0, 22.0, 16.0, 11.0]), False),
        (with_curves([40.0, 10.0, 10.0, 15.0], [42.0, 11.0, 11.0, 16.0]), True),
        # three quarters of the steps are between scored steps: at 22.5 and 22.5, and then at 22.5 and 23.5
        (with_curves([50.0, 40.0, 30.0, 20.0, 10.0], [50.0, 40.0, 30.0, 20.0, 28.0]), True),
        (with_curves([50.0, 40.0, 30.0, 20.0, 10.0], [51.0, 41.0, 31.0, 21.0, 14.0]), False),
        (with_curves([4.0, 3.0, 2.0, 1.0]), None),
        (with_curves([3.0, 2.0, 1.0], [3.0, 2.0, 1.1]), None),
        (make_arm("2d"), None),
    ],
)
def test_an_arm_has_converged_when_its_last_quarter_gains_less_than_its_seeds_differ(
    arm: Arm, converged: bool | None
) -> None:
    assert make_results().converged(arm, "pose_frechet") is converged


def test_convergence_is_that_of_the_error_and_the_verdict_names_what_has_not_converged() -> None:
    nearer = with_curves([1.0, 1.5, 2.0, 3.0], [1.0, 1.5, 2.1, 3.1], metric="acceleration")
    assert make_results().converged(nearer, "acceleration") is False
    falling = with_curves([40.0, 20.0, 15.0, 10.0], [42.0, 22.0, 16.0, 11.0])
    sentence = verdict(make_results(make_arm("3d"), make_arm("lifted"), falling))[-1]
    assert sentence.startswith("Not converged")
    assert "`2d` in pose Fréchet distance." in sentence
    assert "`3d`" not in sentence


def with_clips(name: str, metric: str, *scores: list[float]) -> Arm:
    """-> an arm with a score for each clip in its first seeds."""
    return changed(make_arm(name), *({"per_clip": {metric: row}} for row in scores))


def test_clips_are_paired_and_the_interval_over_them_has_the_sign_of_the_gain() -> None:
    arm = with_clips("2d", "bone_length_error", [1.0, 5.0, 9.0], [2.0, 6.0, 10.0])
    baseline = with_clips("lifted", "bone_length_error", [3.0, 7.0, 11.0], [4.0, 8.0, 12.0])
    found = over_clips(make_results(), arm, baseline, "bone_length_error")
    assert found is not None
    assert (found.value, found.low, found.high, found.clips) == pytest.approx((2, 2, 2, 3))
    pair = with_clips("2d", "acceleration", [3.0, 5.0]), with_clips("lifted", "acceleration", [6.0, 8.0])
    level = over_clips(make_results(), *pair, "acceleration")
    assert level is not None
    assert level.value == pytest.approx(3.0)
    for other in (make_arm("3d"), with_clips("3d", "bone_length_error", [1.0, 2.0])):
        assert over_clips(make_results(), arm, other, "bone_length_error") is None


def test_the_spread_of_replications_holds_nothing_of_the_spread_of_seeds() -> None:
    rows = [[1.0, 3.0], [101.0, 103.0]]
    arm = changed(make_arm("2d", 2), *({"replications": tuple({"x": score} for score in row)} for row in rows))
    assert arm.spreads("x")[0] == pytest.approx(2**0.5)
