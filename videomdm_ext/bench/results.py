"""The results of a comparison: trainings of arms with their scores, rows that are not arms, and examples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from videomdm_ext.bench.metrics import METRICS
from videomdm_ext.bench.plan import FULL, PRIMARY
from videomdm_ext.bench.reference_rows import ReferenceRows
from videomdm_ext.bench.statistics import mean_interval
from videomdm_ext.data.folder import Card
from videomdm_ext.render.figures import Example

FROZEN_BELOW = 0.25
"""An arm with less than this share of the truth's motion energy does not move."""
CURVE_POINTS = 4
"""Scored steps that a training needs before the report judges whether it has converged."""


@dataclass(frozen=True)
class Curve:
    """Values of some terms at training steps; every term has one value a step."""

    steps: Sequence[int]
    terms: Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Training:
    """One training of an arm: seed, scores by metric name, losses, and what it cost; `progress` is scores by step.

    `replications` holds the scores of each sampling replication; `metrics` are their means. `per_clip` has one value a
    clip for metrics that are means over clips, in the order of `Results.captions`. `memory` is the peak in MiB,
    `parameters` the number of trained weights; both None where they are not known.
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
    per_clip: Mapping[str, Sequence[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Arm:
    """A way to train, with a training for each seed; `settings` lists its options that differ from the defaults.

    `equal_passes_of` names the arm of which this one is a repeat with the denoiser passes of the others; `of` the arm
    of which it is a variation.
    """

    name: str
    trainings: tuple[Training, ...]
    settings: str = ""
    equal_passes_of: str = ""
    of: str = FULL

    def values(self, metric: str) -> dict[int, float]:
        """Scores by seed, those that there are."""
        return {run.seed: run.metrics[metric] for run in self.trainings if metric in run.metrics}

    def replication_spread(self, metric: str) -> float | None:
        """Standard deviation (ddof 1) over the replications of one training, pooled; no spread of seeds is in it."""
        scores = [[row[metric] for row in run.replications if metric in row] for run in self.trainings]
        variances = [float(np.var(row, ddof=1)) for row in scores if len(row) > 1]
        return float(np.sqrt(np.mean(variances))) if variances else None


@dataclass(frozen=True)
class Results:
    """All that a report is made of. `clips` is N, the clips scored for each seed; examples share captions over arms.

    `primary` names the metrics that claims are made in; `captions` are those of the scored clips; `facts` is what else
    is reported of the run, by section.
    """

    arms: tuple[Arm, ...]
    reference_rows: ReferenceRows
    card: Card
    clips: int
    text_features: str
    examples: tuple[Example, ...] = ()
    notes: tuple[str, ...] = ()
    title: str = "2D against 3D supervision"
    primary: tuple[str, ...] = PRIMARY
    captions: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def metrics(self) -> list[str]:
        """Names of the scores that any arm has, in the order of METRICS, others behind."""
        found = dict.fromkeys(name for arm in self.arms for run in arm.trainings for name in run.metrics)
        return [name for name in METRICS if name in found] + [n for n in found if n not in METRICS and n != "clips"]

    def arm(self, name: str) -> Arm | None:
        return next((arm for arm in self.arms if arm.name == name), None)

    def errors(self, arm: Arm, metric: str) -> dict[int, float]:
        """How far each seed is from the best score."""
        return {seed: self.reference_rows.error(metric, value) for seed, value in arm.values(metric).items()}

    def frozen(self, arm: Arm) -> bool:
        """Whether the arm's samples hardly move."""
        energy, truth = list(arm.values("motion_energy").values()), self.reference_rows.truth.get("motion_energy")
        return bool(energy) and truth is not None and mean_interval(energy).mean < FROZEN_BELOW * truth

    def converged(self, arm: Arm, metric: str) -> bool | None:
        """Whether the last quarter of the steps lowers the error by no more than the seeds differ (ddof 1).

        None where that is not known: fewer than two trainings with CURVE_POINTS scored steps.
        """
        curves = [run.progress for run in arm.trainings if run.progress and metric in run.progress.terms]
        curves = [curve for curve in curves if len(curve.steps) >= CURVE_POINTS]
        if len(curves) < 2:
            return None
        errors = [[self.reference_rows.error(metric, value) for value in curve.terms[metric]] for curve in curves]
        before = [
            np.interp(0.75 * curve.steps[-1], curve.steps, row) for curve, row in zip(curves, errors, strict=True)
        ]
        last = [row[-1] for row in errors]
        return bool(np.mean(before) - np.mean(last) <= np.std(last, ddof=1))

    @property
    def ranking_metrics(self) -> list[str]:
        return [name for name in self.metrics if self.reference_rows.ranking(name)[0]]
