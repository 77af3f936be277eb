"""Figures of a report put values where they belong, and are drawn for whatever a report holds."""

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparisons import LEVELS, make_arm, make_results, scattered, with_scores
from matplotlib.colors import to_hex

from videomdm_ext.bench.report import figures
from videomdm_ext.bench.report.figures import ARMS, Bar, Plot, draw_curves, draw_forest, forest_plots, svg
from videomdm_ext.bench.report.results import Case, Results
from videomdm_ext.bench.scoring import Curve
from videomdm_ext.data.motions import load_motions
from videomdm_ext.motion.skeletons import SMPL22
from videomdm_ext.render.figures import Example, save

WALK = {motion.name: motion.positions for motion in load_motions()}["walk"]


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


def drawn(plot: Plot, metric: str) -> dict[str, Any]:
    """-> of the row of the plot's only arm in one metric: its lines (ends and style) and markers by kind, its words."""
    (axes,) = draw_forest(plot, list(LEVELS)).axes
    bars = list(dict.fromkeys(bar.metric for bar in plot.bars))
    y = 2 * bars.index(metric) + 1
    lines = [line for line in axes.get_lines() if np.atleast_1d(line.get_ydata())[0] == y]
    return {
        "spans": [(tuple(line.get_xdata()), line.get_linestyle()) for line in lines if len(line.get_xdata()) == 2],
        "markers": {line.get_marker(): line.get_xdata()[0] for line in lines if len(line.get_xdata()) == 1},
        "colours": {to_hex(line.get_color()) for line in lines},
        "words": {text.get_text(): to_hex(text.get_color()) for text in axes.texts if text.get_position()[1] == y},
    }


def test_gap_closure_lies_where_its_numbers_say_in_the_colour_of_its_arm() -> None:
    plot = forest_plots(spread())[0]
    bar = next(bar for bar in plot.bars if bar.metric == "pose_frechet")
    gap = (19.9333 - 7.8667) / (19.9333 - 5.0)
    assert bar.value == pytest.approx(gap, abs=1e-4)
    row = drawn(plot, "pose_frechet")
    assert row["markers"]["o"] == pytest.approx(gap, abs=1e-4)
    (((low, high), style),) = row["spans"]
    assert (low, high) == bar.interval
    assert 0 < low < gap < high
    assert style == "-"
    assert row["colours"] == {ARMS[2]}
    assert plot.marks == {0.0: "lifted", 1.0: "3d"}


def test_a_gain_is_a_share_of_the_error_of_the_control_and_its_reading_is_in_words() -> None:
    plot = forest_plots(spread())[1]
    bar = next(bar for bar in plot.bars if bar.metric == "pose_frechet")
    assert bar.value == pytest.approx((19.9333 - 7.8667) / 19.9333, abs=1e-4)
    assert bar.said.startswith("(+12.1 ± ")
    assert bar.said.endswith(") × 10⁻² m², better")  # noqa: RUF001
    words = drawn(plot, "pose_frechet")["words"]
    assert words[bar.said] == figures.GOOD
    undetected = forest_plots(scattered())[1]
    said = {text: colour for text, colour in drawn(undetected, "pose_frechet")["words"].items() if "no diff" in text}
    assert list(said.values()) == [figures.QUIET]


def test_one_seed_is_a_point_without_a_line() -> None:
    plots = forest_plots(make_results(*(make_arm(name, 1) for name in LEVELS)))
    assert all(bar.interval is None for plot in plots for bar in plot.bars)
    row = drawn(plots[0], "pose_frechet")
    assert (list(row["markers"]), row["spans"]) == (["o"], [])


def test_an_interval_without_finite_ends_is_dashed_from_end_to_end() -> None:
    control = with_scores(make_arm("lifted"), "pose_frechet", (2.0, 40.0, 9.0))
    plot = forest_plots(make_results(make_arm("3d"), control, make_arm("2d")))[0]
    ((ends, style),) = drawn(plot, "pose_frechet")["spans"]
    assert ends == plot.axis
    assert style != "-"


def test_an_interval_beyond_the_axis_ends_in_an_arrow_within_it() -> None:
    plot = Plot("", "", [Bar("pose_frechet", "2d", 0.5, (-9.0, 0.9), "")], {0.0: "a", 1.0: "b"})
    row = drawn(plot, "pose_frechet")
    assert set(row["markers"]) == {"o", "<"}
    assert row["markers"]["<"] == plot.axis[0] == row["spans"][0][0][0] > -2


def test_an_arm_that_is_frozen_and_a_score_that_is_not_finite_are_not_drawn() -> None:
    still = make_results(make_arm("3d"), make_arm("lifted"), make_arm("2d", motion_energy=0.01))
    assert forest_plots(still) == []
    broken = make_results(make_arm("3d"), make_arm("lifted"), make_arm("2d", pose_frechet=math.nan))
    assert all(bar.metric != "pose_frechet" for plot in forest_plots(broken) for bar in plot.bars)


def test_a_curve_is_drawn_in_the_unit_shown_with_seeds_thin_and_their_mean_bold() -> None:
    seeds = [Curve([0, 100], {"bone_length_error": [0.01, 0.02]}), Curve([0, 100], {"bone_length_error": [0.03, 0.04]})]
    (axes,) = draw_curves({"2d": seeds}).axes
    assert axes.get_title(loc="left") == "bone-length error (mm)"
    *thin, mean = axes.get_lines()
    assert [list(line.get_ydata()) for line in (*thin, mean)] == [[10, 20], [30, 40], [20, 30]]
    assert len(thin) == 2
    assert all(line.get_linewidth() < mean.get_linewidth() for line in thin)
    assert to_hex(mean.get_color()) == ARMS[0]


def test_losses_that_span_decades_are_drawn_by_logarithms_and_long_ones_by_few_points() -> None:
    steps = list(range(5000))
    curve = Curve(steps, {"loss": [10.0 ** (-step / 2500) for step in steps], "flat": [1.0] * 5000})
    wide, flat = draw_curves({"2d": [curve]}).axes
    assert (wide.get_yscale(), flat.get_yscale()) == ("log", "linear")
    (line,) = wide.get_lines()
    assert len(line.get_xdata()) == figures.POINTS
    assert (line.get_xdata()[0], line.get_xdata()[-1]) == (0, 4999)


def test_curves_without_a_finite_value_and_no_curves_give_nothing(tmp_path: Path) -> None:
    assert figures.finite_terms({"2d": [Curve([0], {"loss": [math.nan]})]}) == []
    assert figures.finite_terms({"2d": [Curve([], {})]}) == []
    save(draw_curves({"2d": [Curve([0], {"loss": [0.0]})]}), str(tmp_path / "figure.png"))


def test_smoothing_keeps_straight_lines_and_both_ends() -> None:
    line = np.arange(400.0)
    np.testing.assert_allclose(figures.smoothed_curve(line), line)
    noisy = line + np.random.default_rng(0).normal(0, 5, 400)
    smoothed = figures.smoothed_curve(noisy)
    assert (smoothed[0], smoothed[-1]) == (pytest.approx(noisy[0]), pytest.approx(noisy[-1]))
    assert np.abs(smoothed - line).mean() < 0.5 * np.abs(noisy - line).mean()


def test_every_arm_of_a_distance_lies_within_its_panel_and_what_is_not_finite_is_drawn(tmp_path: Path) -> None:
    results = make_results(with_scores(make_arm("2d"), "pose_frechet", (19.0, 21.0, 20.0)))
    axes = figures.draw_scores(results).axes[results.metrics.index("pose_frechet")]
    left, right = axes.get_xlim()
    assert left == 0.0
    assert right >= 21.0
    save(
        figures.draw_scores(make_results(make_arm("2d", 1), make_arm("x", 1, pose_frechet=math.nan))),
        str(tmp_path / "figure.png"),
    )


def test_titles_are_narrower_where_the_names_of_arms_take_their_room() -> None:
    assert figures.title_width(["3d", "lifted", "2d"]) == 40
    assert figures.title_width(["2d", "2d-reprojection-no-depth-weight"]) == 35
    assert figures.title_width(["x" * 500]) == 20


def test_a_figure_of_the_page_has_its_colours_its_own_names_and_no_address() -> None:
    plot = forest_plots(spread())[0]
    first, again, other = (svg(draw_forest(plot, list(LEVELS)), name) for name in ("one", "one", "two"))
    assert first == again
    assert "var(--arm2)" in first
    assert ARMS[2] not in first
    assert not re.search(r"https?:|<metadata|<style", first)
    names = [set(re.findall(r' id="([^"]+)"', text)) for text in (first, other)]
    assert not names[0] & names[1]
    assert set(re.findall(r"(?:href=\"|url\()#([^\")]+)", first)) <= names[0]
    hostile = dataclasses.replace(plot, bars=[dataclasses.replace(bar, said="<b>") for bar in plot.bars])
    assert "<b>" not in svg(draw_forest(hostile, list(LEVELS)), "x")


def test_scenes_start_at_the_root_and_those_beyond_the_size_of_a_page_are_left_out() -> None:
    example = Example("walk", {"truth": WALK[:50] + np.array((5.0, 0.0, 3.0)), "none": WALK[:0]})
    cases = (Case("2d", "acceleration", 9.0, 4.0, example),)
    results = dataclasses.replace(make_results(), examples=(example,) * 3, cases=cases)
    scenes = figures.player_scenes(results, SMPL22)
    assert [scene.caption for scene in scenes] == ["walk", "walk", "walk", "worst of 2d: walk"]
    (track,) = scenes[0].tracks
    np.testing.assert_allclose(track.positions[0, 0] * np.array((1, 0, 1)), 0.0, atol=1e-6)
    np.testing.assert_allclose(track.positions[..., 1], WALK[:50, :, 1])
    size = 50 * 22 * 3 * 8 // 3
    assert len(figures.player_scenes(results, SMPL22, most=2 * size)) == 2
    assert len(figures.player_scenes(results, SMPL22, most=10)) == 1
