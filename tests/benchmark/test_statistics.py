"""Intervals over seeds against SciPy's distribution and against simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from videomdm_ext.benchmark import statistics


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 9, 10, 19, 30, 101])
@pytest.mark.parametrize("level", [0.01, 0.6, 0.95, 0.999])
def test_the_t_quantile_is_scipys(freedom: int, level: float) -> None:
    expected = scipy.stats.t.ppf(0.5 + level / 2, freedom)
    assert statistics.t_quantile(level, freedom) == pytest.approx(expected, rel=1e-9)


@given(st.floats(0, 50), st.integers(1, 60))
def test_the_probability_is_scipys(t: float, freedom: int) -> None:
    expected = 1 - 2 * scipy.stats.t.sf(t, freedom)
    assert statistics.student_probability(t, freedom) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("level", "freedom"), [(0.0, 3), (1.0, 3), (0.95, 0)])
def test_a_level_or_a_freedom_without_a_quantile_is_refused(level: float, freedom: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        statistics.t_quantile(level, freedom)


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


def test_a_paired_difference_takes_the_seeds_in_common_and_keeps_its_sign() -> None:
    found = statistics.paired_difference({0: 5.0, 1: 7.0, 2: 100.0}, {1: 4.0, 0: 3.0, 9: 1.0})
    assert found is not None
    assert (found.mean, found.n) == (2.5, 2)
    assert statistics.paired_difference({0: 1.0}, {1: 1.0}) is None


def test_pairing_removes_what_seeds_share() -> None:
    first = {0: 1.0, 1: 11.0, 2: 21.0}
    second = {seed: value - 0.5 for seed, value in first.items()}
    found = statistics.paired_difference(first, second)
    assert found is not None
    assert found.half_width == pytest.approx(0, abs=1e-12)


def test_what_is_detectable_is_found_in_four_of_five_trials() -> None:
    generator = np.random.default_rng(0)
    n, sigma = 30, 1.0
    shift = statistics.Estimate(0.0, statistics.t_quantile(0.95, n - 1) * sigma / math.sqrt(n), n).detectable
    assert shift is not None
    trials = generator.normal(shift, sigma, (2000, n))
    found = scipy.stats.ttest_1samp(trials, 0, axis=1).pvalue < 0.05
    assert found.mean() == pytest.approx(0.8, abs=0.03)


def test_a_ratio_over_a_constant_has_the_interval_of_its_numerator() -> None:
    values = [1.0, 2.0, 4.0]
    found, mean = statistics.paired_ratio(values, [2.0, 2.0, 2.0]), statistics.mean_interval(values)
    assert found.interval is not None
    assert found.value == pytest.approx(mean.mean / 2)
    assert [2 * end for end in found.interval] == pytest.approx([mean.low, mean.high])


def test_a_constant_ratio_has_an_interval_without_width() -> None:
    found = statistics.paired_ratio([1.5, 3.0, 4.5], [1.0, 2.0, 3.0])
    assert found.value == pytest.approx(1.5)
    assert found.interval is None or found.interval == (pytest.approx(1.5), pytest.approx(1.5))
    assert statistics.paired_ratio([1.5, 1.65, 1.8], [1.0, 1.1, 1.2]).interval == (
        pytest.approx(1.5, abs=1e-6),
        pytest.approx(1.5, abs=1e-6),
    )


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
