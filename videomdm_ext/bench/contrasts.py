"""Arms against one another, seeds paired: differences, gap closure, and how sure they are over all metrics.

Claims are made in a fixed order. The headline metrics come first, one after the other, each at LEVEL; once one shows no
difference, nothing behind it is claimed. The other metrics come last, together, by Holm. So two arms that are equal in
all metrics are told apart in at most 1 - LEVEL of comparisons, whatever the number of metrics.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from videomdm_ext.bench.metrics import by_name
from videomdm_ext.bench.scores import CONTROL, FULL, REFERENCE, Arm, Results
from videomdm_ext.bench.statistics import (
    LEVEL,
    Adjusted,
    ClipInterval,
    Estimate,
    Ratio,
    SignFlip,
    clip_interval,
    holm,
    mean_interval,
    paired_ratio,
    sign_flip,
)

REACHED, EXCLUDED = 0.8, 0.5
"""The share of the gap that is aimed at, and one that its interval must leave out."""


@dataclass(frozen=True)
class Comparison:
    """An arm against a baseline in one metric, seeds paired: positive `gain` is less error than the baseline.

    `closure` is the share of the gap from control to reference that is closed, None against other baselines and where
    the control has no more error than the reference; `ratio` is error over the reference's. `gain` has an interval of
    LEVEL for itself alone, `adjusted` the p-value among all metrics, None for one seed; `flip` is told, and decides
    nothing.
    """

    metric: str
    gain: Estimate
    closure: Ratio | None
    ratio: Ratio | None
    flip: SignFlip
    headline: bool = False
    adjusted: Adjusted | None = None

    @property
    def decisive(self) -> Estimate:
        """The gain with the interval of the test that decided on it; LEVEL for a headline metric, wider for others."""
        return self.gain.at(self.adjusted.level) if self.adjusted else self.gain

    @property
    def detectable(self) -> float | None:
        """A true difference that a repeat of this design finds, in the unit of the error; None for one seed."""
        return self.decisive.detectable

    @property
    def outcome(self) -> str:
        """ "better", "worse", "undetected", "unclaimed", "single" for one seed, or "not finite".

        "unclaimed": a difference by itself, where a headline metric shows none.
        """
        if not math.isfinite(self.gain.mean):
            return "not finite"
        low, high = self.decisive.low, self.decisive.high
        if self.adjusted is None or low is None or high is None:
            return "single"
        if low <= 0 <= high:
            return "undetected"
        if self.adjusted.p > 1 - LEVEL:
            return "unclaimed"
        return "better" if low > 0 else "worse"


def compare(results: Results, arm: Arm) -> list[Comparison]:
    """The arm against the control in every metric that may rank and that both have seeds in common for."""
    control = results.arm(CONTROL)
    return compare_with(results, arm, control) if control else []


def compare_with(results: Results, arm: Arm, baseline: Arm) -> list[Comparison]:
    """The arm against any other, in the metrics that may rank and that both have seeds in common for."""
    found = [_contrast(results, arm, baseline, metric) for metric in results.ranking_metrics]
    return _adjust([comparison for comparison in found if comparison], results.primary)


def compared_arms(results: Results) -> list[Arm]:
    """Arms that are neither reference nor control."""
    return [arm for arm in results.arms if arm.name not in (REFERENCE, CONTROL)]


def ablations(results: Results) -> list[Arm]:
    """Arms to hold against the full method: those beyond reference, control and itself; none where it is missing."""
    return [arm for arm in compared_arms(results) if arm.name != FULL] if results.arm(FULL) else []


def variations(results: Results) -> list[tuple[Arm, list[Arm]]]:
    """Arms other than the full method of which there are variations, each with those; a missing arm has none."""
    arms = compared_arms(results)
    found = [(base, [arm for arm in arms if base.name == arm.of != arm.name]) for base in results.arms]
    return [(base, arms) for base, arms in found if arms and base.name != FULL]


def over_arms(results: Results, arms: Sequence[Arm], baseline: Arm) -> dict[str, float]:
    """p-values of the arms in their first headline metric, adjusted by Holm for the number of arms."""
    found = {arm.name: next((c for c in compare_with(results, arm, baseline) if c.headline), None) for arm in arms}
    p_values = {name: entry.adjusted.p for name, entry in found.items() if entry and entry.adjusted}
    return dict(zip(p_values, (adjusted.p for adjusted in holm(list(p_values.values()))), strict=True))


def over_clips(results: Results, arm: Arm, baseline: Arm, metric: str) -> ClipInterval | None:
    """How much less error the arm has than the baseline, with an interval over the clips that both were scored on.

    The trainings are held fixed: it tells how far the choice of clips matters, and nothing of other seeds. None where
    the two have no seed in common with one score a clip, for the same number of clips.
    """
    scores = [
        {run.seed: run.per_clip[metric] for run in a.trainings if metric in run.per_clip} for a in (baseline, arm)
    ]
    seeds = [seed for seed in scores[0] if seed in scores[1]]
    rows = [[by_seed[seed] for seed in seeds] for by_seed in scores]
    if not seeds or len({len(row) for side in rows for row in side}) != 1 or not np.isfinite(rows).all():
        return None
    best = by_name(metric).best
    if by_name(metric).kind == "level":
        best = results.calibration.truth.get(metric, math.nan)
    return clip_interval(np.array(rows[0], float), np.array(rows[1], float), best=best)


def reaches(closure: Ratio | None, *, share: float = REACHED, excluded: float = EXCLUDED) -> bool:
    """Whether so much of the gap is closed, with an interval that lies above `excluded`."""
    return closure is not None and closure.value >= share and bool(closure.interval and closure.interval[0] > excluded)


def _contrast(results: Results, arm: Arm, baseline: Arm, metric: str) -> Comparison | None:
    """Without adjustment; None where the two have no seed in common."""
    own, other = results.errors(arm, metric), results.errors(baseline, metric)
    differences = [other[seed] - own[seed] for seed in other if seed in own]
    if not differences:
        return None
    reference = results.arm(REFERENCE)
    best = results.errors(reference, metric) if reference else {}
    seeds = [seed for seed in own if seed in other and seed in best]
    gap = [other[seed] - best[seed] for seed in seeds]
    closes = baseline.name == CONTROL and math.fsum(gap) > 0
    closure = paired_ratio([other[seed] - own[seed] for seed in seeds], gap) if closes else None
    ratio = paired_ratio([own[seed] for seed in seeds], [best[seed] for seed in seeds]) if seeds else None
    return Comparison(metric, mean_interval(differences), closure, ratio, sign_flip(differences))


def _adjust(comparisons: Sequence[Comparison], primary: Sequence[str]) -> list[Comparison]:
    """Mark the headline metrics, the first metric where none of `primary` may rank, and adjust the p-values."""
    p_values = {entry.metric: entry.gain.p for entry in comparisons}
    tested = {metric: p for metric, p in p_values.items() if p is not None}
    able = tested or p_values
    first = [metric for metric in primary if metric in able] or list(able)[:1]
    rest = [metric for metric in tested if metric not in first]
    adjusted, gate = {}, 0.0
    for metric in (metric for metric in first if metric in tested):
        gate = max(gate, tested[metric])
        adjusted[metric] = Adjusted(gate, LEVEL)
    for metric, found in zip(rest, holm([tested[metric] for metric in rest]), strict=True):
        adjusted[metric] = Adjusted(max(gate, found.p), found.level)
    return [
        dataclasses.replace(entry, headline=entry.metric in first, adjusted=adjusted.get(entry.metric))
        for entry in comparisons
    ]
