"""Sign flips and the bootstrap over clips against counting by hand, SciPy, and simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from videomdm_ext.bench import statistics
from videomdm_ext.bench.statistics import SignFlip, clip_interval, sign_flip


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


def test_the_drawn_p_value_is_near_the_exact_one(monkeypatch: pytest.MonkeyPatch) -> None:
    differences = np.random.default_rng(5).normal(0.6, 1, 12).tolist()
    exact = sign_flip(differences)
    monkeypatch.setattr(statistics, "EXACT_UP_TO", 4)
    assert exact.exact
    assert sign_flip(differences).p == pytest.approx(exact.p, abs=0.01)


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


def test_what_clips_share_is_taken_out_by_pairing_them() -> None:
    hard = np.random.default_rng(8).uniform(0, 200, (1, 40))
    found = clip_interval(hard + 3, hard + 1)
    assert (found.low, found.value, found.high) == pytest.approx((2, 2, 2))


def test_a_levels_error_is_that_of_the_mean_and_not_the_mean_of_errors() -> None:
    first, second = np.array([[2.0, 8.0]]), np.array([[4.0, 5.0]])
    assert clip_interval(first, second, best=5.0).value == pytest.approx(0.0 - 0.5)
    assert clip_interval(first / 10, second / 10).value == pytest.approx(0.05)


def test_the_interval_over_clips_holds_the_truth_in_95_of_100_trials() -> None:
    generator, held = np.random.default_rng(9), 0
    for trial in range(300):
        first, second = generator.gamma(2.0, 1.0, (1, 60)) + 2, generator.gamma(2.0, 1.0, (1, 60)) + 1
        found = clip_interval(first, second, draws=400, seed=trial)
        held += found.low <= 1 <= found.high
    assert held / 300 == pytest.approx(0.95, abs=0.03)
