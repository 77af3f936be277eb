"""Arms against one another, seeds paired, and what the comparison shows in words, computed from the scores.

Claims are made in a fixed order. The headline metrics come first, one after the other, each at LEVEL; once one shows no
difference, nothing behind it is claimed. The other metrics come last, together, by Holm. So two arms that are equal in
all metrics are separated in at most 1 - LEVEL of comparisons, whatever the number of metrics.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from videomdm_ext.bench.metrics import by_name
from videomdm_ext.bench.plan import CONTROL, FULL, REFERENCE
from videomdm_ext.bench.report.results import FROZEN_BELOW, Arm, Results
from videomdm_ext.bench.statistics import (
    LEVEL,
    Adjusted,
    ClipInterval,
    Estimate,
    Ratio,
    SignFlip,
    clip_interval,
    estimate_text,
    holm,
    mean_interval,
    number,
    p_text,
    paired_ratio,
    ratio_text,
    share_text,
    sign_flip,
    with_unit,
)
from videomdm_ext.errors import counted

REACHED, EXCLUDED = 0.8, 0.5
"""The share of the gap that is aimed at, and one that its interval must leave out."""
PUBLISHED_RATIO = 0.88 / 0.54
"""FID of 2D over that of 3D supervision on HumanML3D, as published for VideoMDM."""
NAMED = 4
"""As many metrics without a difference are named; where there are more, they are counted, but for headline metrics."""
WORDS = {
    "better": "better",
    "worse": "worse",
    "undetected": "no difference detected",
    "unclaimed": "nothing claimed, since the headline metric shows no difference,",
    "ahead": "ahead{alone}",
    "behind": "behind{alone}",
    "not finite": "not finite",
}
"""What is said of metrics by the outcome of their comparison."""


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
        best = results.reference_rows.truth.get(metric, math.nan)
    return clip_interval(np.array(rows[0], float), np.array(rows[1], float), best=best)


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


def verdict(results: Results) -> list[str]:
    """A sentence for every compared arm; one on what many arms mean; one on the arms that have not converged."""
    control, arms = results.arm(CONTROL), compared_arms(results)
    if control is None:
        return [f"No arm `{CONTROL}`: nothing to compare with."]
    if not results.ranking_metrics:
        return ["No metric tells the teacher's own data from the truth here, so none may rank the arms."]
    unconverged = [
        f"`{arm.name}` in {by_name(metric).label}"
        for arm in results.arms
        for metric in results.primary
        if metric in results.ranking_metrics and results.converged(arm, metric) is False
    ]
    sentences = against(results, arms, control) or ["No arm to compare with the control."]
    if unconverged:
        sentences.append(
            "Not converged, the last quarter of the steps still lowers the error by more than the seeds differ: "
            f"{'; '.join(unconverged)}. Longer trainings may say something else."
        )
    return sentences


def against(results: Results, arms: Sequence[Arm], baseline: Arm) -> list[str]:
    """A sentence for every arm against this one; with several, what their number does to the headline (Holm)."""
    if not results.ranking_metrics:
        return []
    sentences, tested = [_sentence(results, arm, baseline) for arm in arms], {}
    for arm in arms if len(arms) > 1 else ():
        first = next((found for found in compare_with(results, arm, baseline) if found.headline), None)
        if first and first.adjusted:
            tested[arm.name] = first.adjusted.p
    if len(tested) > 1:
        adjusted = zip(tested, holm(list(tested.values())), strict=True)
        listed = ", ".join(f"`{name}` {p_text(found.p)}" for name, found in adjusted)
        sentences.append(
            f"{len(tested)} arms are compared with `{baseline.name}`, and each sentence may err by itself in 1 of 20; "
            f"adjusted for their number (Holm), in the headline metric: {listed}."
        )
    return sentences


def headline(results: Results) -> list[str]:
    """The closing sentence on the full method, or else on the first compared arm, in each headline metric.

    None on an arm that hardly moves, of which the verdict says so.
    """
    arm = next(iter(sorted(compared_arms(results), key=lambda arm: arm.name != FULL)), None)
    if arm is None or results.arm(CONTROL) is None or results.frozen(arm):
        return []
    return [_closing(results, arm, found) for found in compare(results, arm) if found.headline]


def _closing(results: Results, arm: Arm, found: Comparison) -> str:
    metric, flip = by_name(found.metric), found.flip
    pair = f"`{arm.name}` and `{CONTROL}` in {metric.label}"
    made = f"{counted(found.gain.n, 'seed')}, N = {counted(results.clips, 'clip')} a seed"
    if found.outcome == "not finite":
        return f"The difference between {pair} is not finite ({made})."
    if found.outcome == "single":
        return f"With one seed nothing is claimed between {pair} ({made})."
    if found.outcome == "unclaimed":
        return f"Nothing is claimed between {pair}: a headline metric before it shows no difference ({made})."
    if found.gain.p is not None:
        least = f", the least that {flip.n} seeds can give" if flip.p <= flip.smallest else ""
        made += f", paired t {p_text(found.gain.p)}, sign flips {p_text(flip.p)}{least}"
    if found.outcome == "undetected":
        return f"No difference detected between {pair}; {_detectable(found)} ({made})."
    if found.outcome == "worse" or found.closure is None:
        less = "less" if found.gain.mean > 0 else "more"
        size = dataclasses.replace(found.gain, mean=abs(found.gain.mean))
        gain = with_unit(estimate_text(size, metric.scale), metric.unit)
        return f"`{arm.name}` has {gain} {less} error than `{CONTROL}` in {metric.label} ({made})."
    closure = found.closure
    reached = closure.value >= REACHED and closure.interval is not None and closure.interval[0] > EXCLUDED
    aim = f", at least {100 * REACHED:.0f} % with {100 * EXCLUDED:.0f} % excluded" if reached else ""
    return (
        f"`{arm.name}` closes {share_text(closure)} of the gap between `{CONTROL}` and `{REFERENCE}` in "
        f"{metric.label}{aim}; its error is {ratio_text(found.ratio)} times that of `{REFERENCE}` (published, FID on "
        f"HumanML3D: {PUBLISHED_RATIO:.2f}) ({made})."
    )


def _sentence(results: Results, arm: Arm, baseline: Arm) -> str:
    """One arm against another in all metrics that may rank."""
    if results.frozen(arm):
        still = f"`{arm.name}` hardly moves (motion energy under {FROZEN_BELOW:g} of the truth's)"
        if results.frozen(baseline):
            return f"{still}, nor does `{baseline.name}`: they were trained too short to be compared."
        return f"{still}: a failure, whatever its distances; it does not beat `{baseline.name}`."
    comparisons = compare_with(results, arm, baseline)
    if not comparisons:
        return f"`{arm.name}` and `{baseline.name}` have no seed in common: no comparison."
    by_outcome: dict[str, list[Comparison]] = {}
    for found in comparisons:
        side = "ahead" if found.gain.mean > 0 else "behind"
        by_outcome.setdefault(side if found.outcome == "single" else found.outcome, []).append(found)
    tested = not by_outcome.keys().isdisjoint(("better", "worse", "undetected", "unclaimed"))
    better, total = len(by_outcome.get("better", ())), len(comparisons)
    if not tested and not by_outcome.keys().isdisjoint(("ahead", "behind")):
        lead = f"With one seed no difference can be told from chance; `{arm.name}` against `{baseline.name}`:"
    elif any(found.headline for found in by_outcome.get("worse", ())):
        lead = (
            f"`{arm.name}` is worse than `{baseline.name}` in a headline metric, and better in {better} of {total} "
            "that may rank:"
        )
    elif better:
        lead = f"`{arm.name}` beats `{baseline.name}` in {better} of {total} metrics that may rank:"
    else:
        lead = f"`{arm.name}` does not beat `{baseline.name}` in any metric that may rank:"
    if results.frozen(baseline):
        lead = f"`{baseline.name}` itself hardly moves. {lead}"
    alone = " with one seed" if tested else ""
    parts = [
        f"{words.format(alone=alone)} in {_listed(by_outcome[outcome], counted=outcome == 'undetected')}"
        for outcome, words in WORDS.items()
        if outcome in by_outcome
    ]
    return f"{lead} {'; '.join(parts)}."


def _listed(comparisons: Sequence[Comparison], *, counted: bool) -> str:
    """The metrics' names, of a headline metric also what could be detected where nothing was; where only few are named
    and the rest is counted, headline metrics are."""
    named = comparisons
    if counted and len(comparisons) > NAMED:
        named = [found for found in comparisons if found.headline]
    texts = [by_name(found.metric).label for found in named]
    for place, found in enumerate(named):
        if found.headline and found.outcome == "undetected":
            texts[place] += f" ({_detectable(found)})"
    rest = len(comparisons) - len(named)
    more = f"{rest} other{'s' * (rest > 1)}"
    return ", ".join(texts) + (f" and {more}" if texts and rest else more if rest else "")


def _detectable(comparison: Comparison) -> str:
    """What could be detected where nothing was; equal scores of all seeds have no spread to tell it from."""
    metric, size = by_name(comparison.metric), comparison.detectable
    if not size:
        return "equal scores"
    return f"this design could detect ≥ {with_unit(number(size, metric.scale), metric.unit)}"
