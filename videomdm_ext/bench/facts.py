"""What a report tells beside the scores: who judged, how the arms differ, what ran, and the worst captions."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from videomdm_ext.bench.evaluators.base import Evaluator
from videomdm_ext.bench.results import Example, Results


@dataclass(frozen=True)
class Judge:
    """An evaluator as a report tells of it; `missing` says why it could not be had."""

    name: str
    identity: str = ""
    comparable: str = ""
    distrust: str = ""
    facts: Mapping[str, float | str] = field(default_factory=dict)
    missing: str = ""

    @classmethod
    def of(cls, evaluator: Evaluator) -> "Judge":
        return cls(evaluator.name, evaluator.identity, evaluator.comparable, evaluator.distrust, dict(evaluator.facts))


@dataclass(frozen=True)
class Case:
    """A caption for which an arm's sample is far from the truth, by the score of that clip alone."""

    arm: str
    metric: str
    score: float
    truth: float
    example: Example


@dataclass(frozen=True)
class Facts:
    """`differences` is the diff of the arms' settings as lines, `batch_size` the clips of a training step.

    `run` holds what else must be known to repeat it (versions, commit, command, ...).
    """

    judges: tuple[Judge, ...] = ()
    differences: str = ""
    batch_size: int | None = None
    run: Mapping[str, Any] = field(default_factory=dict)
    cases: tuple[Case, ...] = ()


def worst_cases(
    results: Results,
    captions: Sequence[str],
    example: Callable[[int], Example],
    *,
    metric: str | None = None,
    count: int = 2,
) -> tuple[Case, ...]:
    """The `count` different captions where each arm's first training is furthest from the truth, the worst first.

    `captions` names every sample, `example(index)` gives caption and motions of one. Without a metric: the first that
    may rank and has a score for each clip. Clips without a finite score come first: nothing is further from the truth.
    """
    chosen = metric or _first_metric(results) or ""
    truth, found = results.calibration.truth.get(chosen, 0.0), []
    for arm in results.arms:
        scores = arm.trainings[0].per_clip.get(chosen, ()) if arm.trainings else ()
        errors = [results.calibration.error(chosen, score) for score in scores]
        order = sorted(
            range(len(errors)), key=lambda index: -errors[index] if math.isfinite(errors[index]) else -math.inf
        )
        first = {captions[index]: index for index in reversed(order)}
        worst = sorted(first.values(), key=order.index)[:count]
        found += [Case(arm.name, chosen, scores[index], truth, example(index)) for index in worst]
    return tuple(found)


def _first_metric(results: Results) -> str | None:
    known = {name for arm in results.arms for run in arm.trainings for name in run.per_clip}
    return next((name for name in results.ranking_metrics if name in known), None)
