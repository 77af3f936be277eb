"""Still pictures are drawn for whatever a report holds."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from videomdm_ext.bench import pictures
from videomdm_ext.bench.results import Curve
from videomdm_ext.bench.statistics import Estimate

PNG = b"\x89PNG"


def test_losses_of_one_arm_one_seed_and_one_step_are_drawn(tmp_path: Path) -> None:
    path = tmp_path / "losses.png"
    pictures.loss_curves(str(path), {"2d": [Curve([0], {"loss": [0.0]})]})
    assert path.read_bytes()[:4] == PNG


def test_scores_that_are_not_finite_are_drawn(tmp_path: Path) -> None:
    arms = {"2d": ([1.0], Estimate(1.0, None, 1)), "x": ([math.nan], Estimate(math.nan, None, 1))}
    path = tmp_path / "metrics.png"
    pictures.metric_bars(str(path), [pictures.Panel("score", arms)])
    assert path.read_bytes()[:4] == PNG


def test_smoothing_keeps_straight_lines_and_both_ends() -> None:
    line = np.arange(400.0)
    np.testing.assert_allclose(pictures.smoothed_curve(line), line)
    noisy = line + np.random.default_rng(0).normal(0, 5, 400)
    smoothed = pictures.smoothed_curve(noisy)
    assert (smoothed[0], smoothed[-1]) == (pytest.approx(noisy[0]), pytest.approx(noisy[-1]))
    assert np.abs(smoothed - line).mean() < 0.5 * np.abs(noisy - line).mean()


def test_every_arm_of_a_distance_lies_within_its_panel() -> None:
    axes = Figure().add_subplot()
    panel = pictures.Panel("distance", {"2d": ([19.0, 21.0], Estimate(20.0, 3.0, 2))}, floor=2.0, teacher=10.0)
    pictures._draw_panel(axes, panel, ["2d"])
    left, right = axes.get_xlim()
    assert left == 0.0
    assert right >= 23.0


def test_titles_are_narrower_where_the_names_of_arms_take_their_room() -> None:
    assert pictures.title_width(["3d", "lifted", "2d"]) == 40
    assert pictures.title_width(["2d", "a-name-of-an-arm-that-is-long"]) == 35
    assert pictures.title_width(["x" * 500]) == 20
