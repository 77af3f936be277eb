"""Numbers are written to the places that their intervals allow."""

from __future__ import annotations

import math

import pytest

from videomdm_ext.bench import numerals
from videomdm_ext.bench.statistics import Estimate, Ratio


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
    assert numerals.estimate_text(estimate) == text


def test_a_ratio_without_finite_ends_is_said_to_be_unbounded() -> None:
    assert numerals.ratio_text(Ratio(0.5, None, 3)) == "0.50 (unbounded)"
    assert numerals.ratio_text(Ratio(0.5, (0.25, 1.0), 3)) == "0.50 [0.25, 1.00]"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "\N{EN DASH}"),
        (math.inf, "not finite"),
        (0.0, "0"),
        (1e-9, "< 0.0001"),
        (0.0123456, "0.0123"),
        (1234.5, "1234"),
    ],
)
def test_a_number_has_three_significant_digits_and_what_is_none_is_told_from_what_is_not_finite(
    value: float | None, text: str
) -> None:
    assert numerals.number(value) == text


def test_a_scaled_number_and_its_interval_are_written_in_the_unit_shown() -> None:
    assert numerals.number(0.0912, 1e3) == "91.2"
    assert numerals.estimate_text(Estimate(0.0912, 0.0034, 3), 1e3, "+") == "+91.2 ± 3.4"


def test_a_ratio_that_is_not_there_is_a_dash() -> None:
    assert numerals.ratio_text(None) == numerals.ratio_text(Ratio(math.nan, None, 2)) == "\N{EN DASH}"
    assert numerals.ratio_text(Ratio(0.5, None, 1)) == "0.50"


def test_a_share_is_written_in_per_cent_with_its_interval() -> None:
    assert numerals.share_text(Ratio(0.667, (0.5, 0.812), 3)) == "67 % [50, 81]"
    assert numerals.share_text(Ratio(-0.2, None, 3)) == "-20 % (unbounded)"
    assert numerals.share_text(Ratio(0.5, None, 1)) == "50 %"


@pytest.mark.parametrize(
    ("text", "unit", "expected"),
    [
        ("21.0", "mm", "21.0 mm"),
        ("4.2", "", "4.2"),
        ("4.2", "10⁻² m²", "4.2 × 10⁻² m²"),  # noqa: RUF001
        ("4.2 ± 0.1", "10⁻² m²", "(4.2 ± 0.1) × 10⁻² m²"),  # noqa: RUF001
    ],
)
def test_a_power_of_ten_in_a_unit_multiplies_the_number(text: str, unit: str, expected: str) -> None:
    assert numerals.with_unit(text, unit) == expected


@pytest.mark.parametrize(
    ("p", "text"),
    [(0.25, "p = 0.25"), (0.0123, "p = 0.012"), (0.00021, "p = 0.0002"), (1e-9, "p < 0.0001"), (1.0, "p = 1")],
)
def test_a_p_value_has_two_significant_digits(p: float, text: str) -> None:
    assert numerals.p_text(p) == text
