"""The results of a comparison: trainings, arms, paired comparisons, and a verdict computed from the data."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from videomdm_ext.benchmark.metrics import METRICS, Calibration, by_name
from videomdm_ext.benchmark.statistics import Estimate, Ratio, mean_interval, paired_difference, paired_ratio
from videomdm_ext.datasets.card import Card

REFERENCE, CONTROL = "3d", "3d-on-teacher"
"""The arm that sees the truth, and the arm that a 2D method must beat; every other arm is compared with both."""
FROZEN_BELOW = 0.25
"""An arm with less than this share of the truth's motion energy does not move."""


@dataclass(frozen=True)
class Curve:
    """Values of some terms at training steps; every term has one value a step."""

    steps: Sequence[int]
    terms: Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Example:
    """One caption and motions [T, J, 3] made for it, by name, in the order in which they are shown."""

    caption: str
    motions: Mapping[str, NDArray[np.floating[Any]]]


@dataclass(frozen=True)
class Training:
    """One training of an arm: seed, scores by metric name, losses, and what it cost; `progress` is scores by step.

    `replications` holds the scores of each sampling replication; `metrics` are their means. `memory` is the peak in
    MiB, `parameters` the number of trained weights; both None where they are not known.
    """

    seed: int
    metrics: Mapping[str, float]
    losses: Curve
    steps: int
    passes: int
    seconds: float
    progress: Curve | None = None
    replications: tuple[Mapping[str, float], ...] = ()
    memory: float | None = None
    parameters: int | None = None


@dataclass(frozen=True)
class Arm:
    """A way to train, with a training for each seed; `settings` says in one line how it differs from the others."""

    name: str
    trainings: tuple[Training, ...]
    settings: str = ""

    def values(self, metric: str) -> dict[int, float]:
        """Scores by seed, those that there are."""
        return {run.seed: run.metrics[metric] for run in self.trainings if metric in run.metrics}


@dataclass(frozen=True)
class Results:
    """All that a report tells. `clips` is N, the clips scored for each seed; examples share captions over arms."""

    arms: tuple[Arm, ...]
    calibration: Calibration
    card: Card
    clips: int
    text_features: str
    examples: tuple[Example, ...] = ()
    notes: tuple[str, ...] = ()
    title: str = "2D against 3D supervision"

    @property
    def metrics(self) -> list[str]:
        """Names of the scores that any arm has, in the order of METRICS, others behind."""
        found = dict.fromkeys(name for arm in self.arms for run in arm.trainings for name in run.metrics)
        return [name for name in METRICS if name in found] + [n for n in found if n not in METRICS and n != "clips"]

    def arm(self, name: str) -> Arm | None:
        return next((arm for arm in self.arms if arm.name == name), None)

    def errors(self, arm: Arm, metric: str) -> dict[int, float]:
        """How far each seed is from the best score."""
        return {seed: self.calibration.error(metric, value) for seed, value in arm.values(metric).items()}

    def frozen(self, arm: Arm) -> bool:
        """Whether the arm's samples hardly move."""
        energy, truth = list(arm.values("motion_energy").values()), self.calibration.truth.get("motion_energy")
        return bool(energy) and truth is not None and mean_interval(energy).mean < FROZEN_BELOW * truth

    @property
    def ranking_metrics(self) -> list[str]:
        return [name for name in self.metrics if self.calibration.ranking(name)[0]]


@dataclass(frozen=True)
class Comparison:
    """An arm against the control in one metric, seeds paired: positive `gain` is less error than the control.

    `closure` is the share of the gap from control to reference that is closed, `ratio` error over the reference's.
    """

    metric: str
    gain: Estimate
    closure: Ratio | None
    ratio: Ratio | None

    @property
    def outcome(self) -> str:
        """ "better", "worse", "undetected", "single" for one seed, or "not finite"."""
        if not math.isfinite(self.gain.mean):
            return "not finite"
        if self.gain.low is None or self.gain.high is None:
            return "single"
        return "better" if self.gain.low > 0 else "worse" if self.gain.high < 0 else "undetected"


def compare(results: Results, arm: Arm) -> list[Comparison]:
    """The arm against the control in every metric that may rank and that both have seeds in common for."""
    control, reference = results.arm(CONTROL), results.arm(REFERENCE)
    found = []
    for metric in results.ranking_metrics if control else []:
        own, other = results.errors(arm, metric), results.errors(control, metric)  # type: ignore[arg-type]
        gain = paired_difference(other, own)
        if gain is None:
            continue
        best = results.errors(reference, metric) if reference else {}
        seeds = [seed for seed in own if seed in other and seed in best]
        gap = [other[seed] - best[seed] for seed in seeds]
        closure = paired_ratio([other[seed] - own[seed] for seed in seeds], gap) if seeds else None
        ratio = paired_ratio([own[seed] for seed in seeds], [best[seed] for seed in seeds]) if seeds else None
        found.append(Comparison(metric, gain, closure, ratio))
    return found


def compared_arms(results: Results) -> list[Arm]:
    """Arms that are neither reference nor control."""
    return [arm for arm in results.arms if arm.name not in (REFERENCE, CONTROL)]


def verdict(results: Results) -> list[str]:
    """One sentence for every compared arm, computed from the scores."""
    if results.arm(CONTROL) is None:
        return [f"No arm `{CONTROL}`: nothing to compare with."]
    if not results.ranking_metrics:
        return ["No metric tells the teacher's own data from the truth here, so none may rank the arms."]
    return [_sentence(results, arm) for arm in compared_arms(results)] or ["No arm to compare with the control."]


def _sentence(results: Results, arm: Arm) -> str:
    comparisons = compare(results, arm)
    if results.frozen(arm):
        return (
            f"`{arm.name}` hardly moves (motion energy under {FROZEN_BELOW:g} of the truth's): "
            f"a failure, whatever its distances; it does not beat `{CONTROL}`."
        )
    if not comparisons:
        return f"`{arm.name}` and `{CONTROL}` have no seed in common: no comparison."
    groups: dict[str, list[str]] = {}
    for comparison in comparisons:
        groups.setdefault(_word(comparison), []).append(by_name(comparison.metric).label)
    lead = _lead(arm, groups, len(comparisons))
    if results.frozen(results.arm(CONTROL) or arm):
        lead = f"`{CONTROL}` itself hardly moves. {lead}"
    shown = {"undetected": "no difference detected"}
    if _told(groups):
        shown |= {"ahead": "ahead with one seed", "behind": "behind with one seed"}
    words = ("better", "worse", "undetected", "ahead", "behind", "not finite")
    parts = [f"{shown.get(word, word)} in {', '.join(groups[word])}" for word in words if word in groups]
    return f"{lead} {'; '.join(parts)}."


def _word(comparison: Comparison) -> str:
    """The outcome; for one seed "ahead" or "behind"."""
    if comparison.outcome != "single":
        return comparison.outcome
    return "ahead" if comparison.gain.mean > 0 else "behind"


def _told(outcomes: Collection[str]) -> bool:
    """Whether any metric has an interval over seeds."""
    return any(outcome in outcomes for outcome in ("better", "worse", "undetected"))


def _lead(arm: Arm, groups: Mapping[str, Sequence[str]], total: int) -> str:
    """How a sentence starts that goes on with what is better, worse and so on."""
    if not _told(groups) and ("ahead" in groups or "behind" in groups):
        return f"With one seed no difference can be told from chance; `{arm.name}` against `{CONTROL}`:"
    count = len(groups.get("better", []))
    verb = "beats" if count else "does not beat"
    where = f"in {count} of {total} metrics that may rank" if count else "in any metric that may rank"
    return f"`{arm.name}` {verb} `{CONTROL}` {where}:"
