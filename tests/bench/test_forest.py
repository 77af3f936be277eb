"""Forest plots and curves of the page put values where they belong."""

from __future__ import annotations

import dataclasses
import math
import re

import numpy as np
import pytest
from comparisons import LEVELS, make_arm, make_results, scattered, with_scores
from hypothesis import given
from hypothesis import strategies as st

from videomdm_ext.bench import curves, forest
from videomdm_ext.bench.results import Curve, Results

COLOURS = {name: number for number, name in enumerate(LEVELS)}


def spread() -> Results:
    """-> three arms with a little scatter of seeds that is not the same in all."""
    arms = [
        with_scores(make_arm(name), "pose_frechet", [level * factor for factor in factors])
        for name, level, factors in (
            ("3d", 5.0, (1.0, 1.1, 0.9)),
            ("lifted", 20.0, (1.0, 1.02, 0.97)),
            ("2d", 8.0, (1.0, 0.9, 1.05)),
        )
    ]
    return make_results(*arms)


def drawn(plot: forest.Plot, metric: str) -> str:
    """-> the row of the plot's only arm in one metric."""
    return forest.forest_html(plot, COLOURS).split(f">{metric}</p>")[1].split("</svg>")[0]


def test_gap_closure_lies_where_its_numbers_say() -> None:
    plot = next(plot for plot in forest.forest_plots(spread()) if plot.name == "closure")
    bar = next(bar for bar in plot.bars if bar.metric == "pose_frechet")
    gap = (19.9333 - 7.8667) / (19.9333 - 5.0)
    assert bar.value == pytest.approx(gap, abs=1e-4)
    assert bar.interval is not None
    row = drawn(plot, "pose Fréchet distance")
    control, reference = (float(x) for x in re.findall(r'class="mark" x1="([\d.-]+)%', row))
    value = float(re.findall(r'cx="([\d.-]+)%', row)[0])
    assert (value - control) / (reference - control) == pytest.approx(gap, abs=2e-3)
    low, high = (float(x) for x in re.findall(r'class="span" x1="([\d.-]+)%" x2="([\d.-]+)%', row)[0])
    assert control < low < value < high


def test_a_gain_is_a_share_of_the_error_of_the_control_and_its_reading_is_in_words() -> None:
    plot = next(plot for plot in forest.forest_plots(spread()) if plot.name == "gain")
    bar = next(bar for bar in plot.bars if bar.metric == "pose_frechet")
    assert bar.value == pytest.approx((19.9333 - 7.8667) / 19.9333, abs=1e-4)
    assert bar.said.startswith("+12.1 ± ")
    assert bar.said.endswith("× 10⁻² m², better")  # noqa: RUF001
    assert 'class="said better"' in forest.forest_html(plot, COLOURS)


def test_one_seed_is_a_point_without_a_line() -> None:
    plots = forest.forest_plots(make_results(*(make_arm(name, 1) for name in LEVELS)))
    assert all(bar.interval is None for plot in plots for bar in plot.bars)
    text = forest.forest_html(plots[0], COLOURS)
    assert "<circle" in text
    assert 'class="span' not in text


def test_an_interval_without_finite_ends_is_dashed_from_end_to_end() -> None:
    control = with_scores(make_arm("lifted"), "pose_frechet", (2.0, 40.0, 9.0))
    plots = forest.forest_plots(make_results(make_arm("3d"), control, make_arm("2d")))
    row = drawn(next(plot for plot in plots if plot.name == "closure"), "pose Fréchet distance")
    assert 'class="span open" x1="0.00%" x2="100.00%"' in row


def test_an_interval_beyond_the_axis_ends_in_an_arrow_within_it() -> None:
    bar = forest.Bar("pose_frechet", "2d", 0.5, (-9.0, 0.9), "")
    plot = forest.Plot("", "", [bar], {0.0: "a", 1.0: "b"}, "closure")
    row = forest.forest_html(plot, COLOURS)
    assert 'x1="0.00%"' in row
    assert row.count('class="arrow from"') == 1
    assert "▸" not in row


def test_an_arm_that_is_frozen_is_not_drawn() -> None:
    still = make_results(make_arm("3d"), make_arm("lifted"), make_arm("2d", motion_energy=0.01))
    assert forest.forest_plots(still) == []


def test_a_difference_that_is_not_detected_is_no_colour() -> None:
    plot = next(plot for plot in forest.forest_plots(scattered()) if plot.name == "gain")
    assert "no difference detected" in drawn_row(plot, "pose Fréchet distance")
    assert 'said better"' not in drawn_row(plot, "pose Fréchet distance")


def drawn_row(plot: forest.Plot, metric: str) -> str:
    return forest.forest_html(plot, COLOURS).split(f">{metric}</p>")[1].split('<p class="metric">')[0]


def test_a_score_that_is_not_finite_has_no_bar() -> None:
    broken = make_results(make_arm("3d"), make_arm("lifted"), make_arm("2d", pose_frechet=math.nan))
    assert all(bar.metric != "pose_frechet" for plot in forest.forest_plots(broken) for bar in plot.bars)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=9))
def test_every_value_has_a_place_within_its_scale(values: list[float]) -> None:
    scale = curves.Scale.of(np.array(values))
    places = [scale.place(value) for value in values]
    assert all(0 <= place <= 100 for place in places)
    assert all(0 <= scale.place(tick) <= 100 for tick in scale.ticks())
    ordered = [scale.place(value) for value in sorted(values)]
    assert ordered == sorted(places)


def test_a_curve_that_falls_goes_down_and_right_in_the_colour_of_its_arm() -> None:
    text = curves.curve_plots({"2d": [Curve([0, 50, 100], {"loss": [3.0, 2.0, 1.0]})]}, {"2d": 5}, smooth=False)
    (points,) = re.findall(r'<polyline class="a5" points="([^"]+)"', text)
    x, y = zip(*((float(a), float(b)) for a, b in (pair.split(",") for pair in points.split())), strict=True)
    assert x[0] < x[1] < x[2]
    assert y[0] < y[1] < y[2]
    assert y[1] == pytest.approx((y[0] + y[2]) / 2, abs=0.01)


def test_seeds_are_thin_and_their_mean_is_last() -> None:
    seeds = [Curve([0, 100], {"loss": [1.0, 2.0]}), Curve([0, 100], {"loss": [3.0, 4.0]})]
    text = curves.curve_plots({"2d": seeds}, {"2d": 0}, smooth=False)
    lines = re.findall(r'<polyline class="([^"]+)" points="[\d.]+,([\d.]+)', text)
    assert [kind for kind, _ in lines] == ["a0 seed", "a0 seed", "a0"]
    first, second, mean = (float(y) for _, y in lines)
    assert mean == pytest.approx((first + second) / 2, abs=0.01)


def test_curves_without_a_finite_value_and_no_curves_give_nothing() -> None:
    assert curves.curve_plots({"2d": [Curve([0], {"loss": [math.nan]})]}, {"2d": 0}, smooth=False) == ""
    assert curves.curve_plots({"2d": [Curve([], {})]}, {"2d": 0}, smooth=True) == ""


def test_losses_that_span_decades_are_drawn_by_logarithms() -> None:
    scale = curves.Scale.of(np.array([0.01, 0.1, 1.0]))
    assert scale.place(0.1) == pytest.approx(50.0)
    assert 0.1 in scale.ticks()


def test_a_metric_in_metres_is_drawn_in_the_unit_that_is_shown() -> None:
    arm = {"2d": [Curve([0, 1], {"bone_length_error": [0.010, 0.020]})]}
    text = curves.curve_plots(arm, {"2d": 0}, smooth=False)
    assert "bone-length error (mm)" in text
    assert ">15</span>" in text or ">14</span>" in text


def test_an_arm_whose_name_is_markup_is_escaped() -> None:
    results = spread()
    arms = tuple(dataclasses.replace(arm, name="<b>") if arm.name == "2d" else arm for arm in results.arms)
    plots = forest.forest_plots(dataclasses.replace(results, arms=arms))
    text = forest.forest_html(plots[0], {"<b>": 0})
    assert "<b>" not in text
    assert "&lt;b&gt;" in text
