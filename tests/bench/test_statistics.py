"""Intervals over seeds against SciPy's distribution and simulation; sign flips and bootstrap against plain counting."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import assume, given
from hypothesis import strategies as st

from videomdm_ext.bench import statistics
from videomdm_ext.bench.statistics import SignFlip, clip_interval, sign_flip


def test_the_interval_of_a_mean_is_scipys() -> None:
    values = [3.1, 2.7, 4.4]
    found = statistics.mean_interval(values)
    low, high = scipy.stats.t.interval(0.95, 2, loc=np.mean(values), scale=scipy.stats.sem(values))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert found.n == 3


def test_one_value_has_a_mean_and_no_interval() -> None:
    found = statistics.mean_interval([2.0])
    assert found == statistics.Estimate(2.0, None, 1)
    assert found.low is found.high is found.detectable is None


@pytest.mark.parametrize("n", [2, 3, 5, 30])
@pytest.mark.parametrize("level", [0.95, 0.99])
def test_what_one_sample_calls_detectable_another_sample_finds_with_the_stated_power(n: int, level: float) -> None:
    generator = np.random.default_rng(n)
    first, second = generator.normal(0, 3.0, (2, 4000, n))
    stated = [statistics.mean_interval(row, level).detectable for row in first.tolist()]
    planted = second + np.array(stated, float)[:, None]
    test = scipy.stats.ttest_1samp(planted, 0, axis=1)
    found = (test.pvalue < 1 - level) & (test.statistic > 0)
    assert found.mean() == pytest.approx(statistics.POWER, abs=0.02)


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=12), st.sampled_from([0.5, 0.9, 0.99, 0.999]))
def test_the_p_value_is_scipys_and_agrees_with_the_interval_at_any_level(values: list[float], level: float) -> None:
    assume(np.ptp(values) > 1e-3)
    found = statistics.mean_interval(values)
    assert found.p == pytest.approx(scipy.stats.ttest_1samp(values, 0).pvalue, abs=1e-9)
    assert found.p is not None
    wide = found.at(level)
    assert wide.half_width == pytest.approx(statistics.mean_interval(values, level).half_width)
    assert (wide.mean, wide.n, wide.level) == (found.mean, found.n, level)
    assume(abs(found.p - (1 - level)) > 1e-9)
    assert (abs(wide.mean) > (wide.half_width or 0)) == (found.p < 1 - level)


def test_values_without_spread_are_certain_and_zeros_are_no_difference() -> None:
    assert statistics.mean_interval([2.0, 2.0]).p == 0
    assert statistics.mean_interval([0.0, 0.0]).p == 1
    assert statistics.mean_interval([math.nan, 1.0]).p == 1
    assert statistics.mean_interval([2.0]).p is None


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_holms_p_values_are_those_of_the_closed_test(p_values: list[float]) -> None:
    expected = []
    for index in range(len(p_values)):
        others = [p for place, p in enumerate(p_values) if place != index]
        subsets = [c for size in range(len(others) + 1) for c in itertools.combinations(others, size)]
        expected.append(max(min(1.0, (1 + len(c)) * min((p_values[index], *c))) for c in subsets))
    assert [found.p for found in statistics.holm(p_values)] == pytest.approx(expected)


@given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=9))
def test_the_level_of_each_of_holms_tests_agrees_with_its_decision(p_values: list[float]) -> None:
    for p, found in zip(p_values, statistics.holm(p_values), strict=True):
        assume(abs(found.p - 0.05) > 1e-9)
        assert (p <= 1 - found.level + 1e-12) == (found.p <= 0.05)


def test_holm_by_hand() -> None:
    found = statistics.holm([0.04, 0.01, 0.03])
    assert [entry.p for entry in found] == pytest.approx([0.06, 0.03, 0.06])
    assert [entry.level for entry in found] == pytest.approx([1 - 0.05 / 2, 1 - 0.05 / 3, 1 - 0.05 / 2])
    assert statistics.holm([]) == []


def test_a_ratio_over_a_constant_has_the_interval_of_its_numerator() -> None:
    values = [1.0, 2.0, 4.0]
    found, mean = statistics.paired_ratio(values, [2.0, 2.0, 2.0]), statistics.mean_interval(values)
    assert found.interval is not None
    assert found.value == pytest.approx(mean.mean / 2)
    assert [2 * end for end in found.interval] == pytest.approx([mean.low, mean.high])


def test_a_constant_ratio_has_an_interval_without_width() -> None:
    found = statistics.paired_ratio([1.5, 1.65, 1.8], [1.0, 1.1, 1.2])
    assert found.value == pytest.approx(1.5)
    assert found.interval == pytest.approx((1.5, 1.5), abs=1e-6)


def test_fiellers_interval_holds_the_true_ratio_in_95_of_100_trials() -> None:
    generator = np.random.default_rng(1)
    held = 0
    for _ in range(2000):
        shared = generator.normal(0, 0.5, 5)
        top, bottom = 2 + shared + generator.normal(0, 0.3, 5), 4 + shared + generator.normal(0, 0.3, 5)
        interval = statistics.paired_ratio(top.tolist(), bottom.tolist()).interval
        held += interval is not None and interval[0] <= 0.5 <= interval[1]
    assert held / 2000 == pytest.approx(0.95, abs=0.02)


def test_a_gap_that_may_be_zero_gives_a_ratio_without_an_interval() -> None:
    assert statistics.paired_ratio([1.0, 1.2, 0.9], [-1.0, 1.2, 0.5]).interval is None
    assert math.isnan(statistics.paired_ratio([1.0], [0.0]).value)
    assert statistics.paired_ratio([1.0], [2.0]) == statistics.Ratio(0.5, None, 1)


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=7))
def test_the_exact_p_value_counts_the_signs_that_reach_the_sum(differences: list[int]) -> None:
    sums = [
        abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
        for signs in itertools.product((-1, 1), repeat=len(differences))
    ]
    expected = sum(found >= abs(sum(differences)) for found in sums) / len(sums)
    assert sign_flip([float(value) for value in differences]).p == expected


def test_three_seeds_reach_no_smaller_p_than_a_quarter_and_six_reach_a_thirtysecond() -> None:
    assert sign_flip([5.0, 6.0, 7.0]) == SignFlip(0.25, 0.25, 3, True)
    assert sign_flip([-5.0, -6.0, -7.0]).p == 0.25
    assert sign_flip([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).p == 1 / 32
    assert sign_flip([0.1, 0.2, -0.3]).p == 1


def test_many_seeds_are_drawn_and_agree_with_scipys_permutation_test() -> None:
    differences = np.random.default_rng(3).normal(0.4, 1, 30)
    found = sign_flip(differences.tolist())
    test = scipy.stats.permutation_test(
        (differences,), np.sum, permutation_type="samples", n_resamples=20_000, rng=np.random.default_rng(4)
    )
    assert not found.exact
    assert found.p == pytest.approx(test.pvalue, abs=0.01)
    assert found == sign_flip(differences.tolist())
    assert sign_flip([1.0] * 30).p == found.smallest == pytest.approx(1e-4, rel=1e-3)


def test_differences_that_are_not_finite_show_nothing() -> None:
    assert sign_flip([1.0, math.nan, 2.0]).p == 1


def test_the_interval_over_clips_is_scipys_paired_bootstrap() -> None:
    generator = np.random.default_rng(6)
    shared = generator.normal(10, 3, 80)
    first, second = shared + generator.normal(1, 1, (2, 3, 80)) * [[[1.0]], [[0.5]]]
    found = clip_interval(first, second, draws=4000)
    difference = (first.mean(0) - second.mean(0),)
    expected = scipy.stats.bootstrap(
        difference, np.mean, method="percentile", n_resamples=4000, rng=np.random.default_rng(7)
    )
    assert found.value == pytest.approx(first.mean() - second.mean())
    assert found.clips == 80
    spread = expected.standard_error
    assert found.low == pytest.approx(expected.confidence_interval.low, abs=0.15 * spread)
    assert found.high == pytest.approx(expected.confidence_interval.high, abs=0.15 * spread)


def test_a_levels_error_is_that_of_the_mean_and_not_the_mean_of_errors() -> None:
    first, second = np.array([[2.0, 8.0]]), np.array([[4.0, 5.0]])
    assert clip_interval(first, second, best=5.0).value == pytest.approx(0.0 - 0.5)
    assert clip_interval(first / 10, second / 10).value == pytest.approx(0.05)
