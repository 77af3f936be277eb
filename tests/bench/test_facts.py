"""The worst captions of an arm are those furthest from the truth."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from comparisons import make_arm, make_results

from videomdm_ext.bench.facts import Case, worst_cases
from videomdm_ext.bench.results import Results
from videomdm_ext.render.figures import Example

CAPTIONS = ("walk", "run", "walk", "jump", "sit")


def results_with(scores: Sequence[float], metric: str = "acceleration") -> Results:
    arm = make_arm("2d", 1)
    run = dataclasses.replace(arm.trainings[0], per_clip={metric: scores})
    return make_results(make_arm("3d", 1), dataclasses.replace(arm, trainings=(run,)))


def found_in(results: Results, **options: object) -> list[Case]:
    def example(index: int) -> Example:
        return Example(CAPTIONS[index], {"2d": np.full((4, 22, 3), float(index))})

    return list(worst_cases(results, CAPTIONS, example, **options))  # type: ignore[arg-type]


def test_the_worst_is_furthest_from_the_truth_on_either_side() -> None:
    cases = found_in(results_with([4.1, 9.0, 3.9, 0.5, -3.0]), count=3)
    assert [case.example.caption for case in cases] == ["sit", "run", "jump"]
    assert [(case.arm, case.metric, case.score, case.truth) for case in cases[:1]] == [
        ("2d", "acceleration", -3.0, 4.0)
    ]
    assert [case.example.motions["2d"][0, 0, 0] for case in cases] == [4.0, 1.0, 3.0]


def test_a_caption_is_told_once_by_its_worst_clip() -> None:
    cases = found_in(results_with([30.0, 5.0, 40.0, 4.0, 4.0]))
    assert [(case.example.caption, case.score) for case in cases] == [("walk", 40.0), ("run", 5.0)]


def test_a_score_that_is_not_finite_is_the_worst() -> None:
    cases = found_in(results_with([4.0, 90.0, 4.0, math.nan, 4.0]))
    assert [case.example.caption for case in cases] == ["jump", "run"]


def test_a_metric_that_may_not_rank_chooses_no_captions_unless_asked_to() -> None:
    results = results_with([50.0, 90.0, 50.0, 51.0, 52.0], "jitter")
    assert found_in(results) == []
    assert [case.example.caption for case in found_in(results, metric="jitter", count=1)] == ["run"]


def test_without_scores_of_single_clips_there_are_no_cases() -> None:
    assert found_in(make_results()) == []
