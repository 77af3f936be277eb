"""Arms against one another, seeds paired, and what the comparison shows in words, computed from the scores.

Claims are made in a fixed order. The headline metrics come first, one after the other, each at LEVEL; once one shows no
difference, nothing behind it is claimed. The other metrics come last, together, by Holm. So two arms that are equal in
all metrics are separated in at most 1 - LEVEL of comparisons, whatever the number of metrics.
"""

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from videomdm_ext.bench.metrics import by_name
from videomdm_ext.bench.plan import CONTROL, FULL, REFERENCE
from videomdm_ext.bench.report.document import estimate_text, number, p_text, ratio_text, share_text, with_unit
from videomdm_ext.bench.results import FROZEN_BELOW, Arm, Results
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
        best = results.reference_rows.truth.get(metric, math.nan)
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


PUBLISHED_RATIO = 0.88 / 0.54
"""FID of 2D over that of 3D supervision on HumanML3D, as published for VideoMDM."""
NAMED = 4
"""As many metrics without a difference are named; where there are more, they are counted, but for headline metrics."""
WORDS = ("better", "worse", "undetected", "unclaimed", "ahead", "behind", "not finite")


def verdict(results: Results) -> list[str]:
    """A sentence for every compared arm; one on what many arms mean; one on the arms that have not converged."""
    control = results.arm(CONTROL)
    if control is None:
        return [f"No arm `{CONTROL}`: nothing to compare with."]
    if not results.ranking_metrics:
        return ["No metric tells the teacher's own data from the truth here, so none may rank the arms."]
    arms = compared_arms(results)
    sentences = [_sentence(results, arm, control) for arm in arms] or ["No arm to compare with the control."]
    return sentences + _many(results, arms, control) + _unconverged(results)


def headline(results: Results) -> list[str]:
    """The closing sentence on the full method, or else on the first compared arm, in each headline metric."""
    arm = next(iter(sorted(compared_arms(results), key=lambda arm: arm.name != FULL)), None)
    if arm is None or results.arm(CONTROL) is None:
        return []
    if results.frozen(arm):
        return [_frozen(arm, CONTROL)]
    return [_closing(results, arm, found) for found in compare(results, arm) if found.headline]


def ablation_verdict(results: Results) -> list[str]:
    """A sentence for every arm beyond reference, control and full method, against the full method."""
    full = results.arm(FULL)
    if full is None or not results.ranking_metrics:
        return []
    arms = ablations(results)
    return [_sentence(results, arm, full) for arm in arms] + _many(results, arms, full)


def variation_verdict(results: Results, base: Arm) -> list[str]:
    """A sentence for every arm that is a variation of this one, against it."""
    arms = next((arms for found, arms in variations(results) if found.name == base.name), [])
    if not results.ranking_metrics:
        return []
    return [_sentence(results, arm, base) for arm in arms] + _many(results, arms, base)


def _closing(results: Results, arm: Arm, found: Comparison) -> str:
    metric = by_name(found.metric)
    pair = f"`{arm.name}` and `{CONTROL}` in {metric.label}"
    made = f"{found.gain.n} seed{'s' * (found.gain.n > 1)}, N = {results.clips} clips a seed"
    if found.outcome == "not finite":
        return f"The difference between {pair} is not finite ({made})."
    if found.outcome == "single":
        return f"With one seed nothing is claimed between {pair} ({made})."
    if found.outcome == "unclaimed":
        return f"Nothing is claimed between {pair}: a headline metric before it shows no difference ({made})."
    if found.outcome == "undetected":
        return f"No difference detected between {pair}; {_detectable(found)} ({made}, {_evidence(found)})."
    if found.outcome == "worse" or found.closure is None:
        less = "less" if found.gain.mean > 0 else "more"
        size = dataclasses.replace(found.gain, mean=abs(found.gain.mean))
        gain = with_unit(estimate_text(size, metric.scale), metric.unit)
        return f"`{arm.name}` has {gain} {less} error than `{CONTROL}` in {metric.label} ({made}, {_evidence(found)})."
    aim = f", at least {REACHED:.0%} with {EXCLUDED:.0%} excluded".replace("%", " %") if reaches(found.closure) else ""
    return (
        f"`{arm.name}` closes {share_text(found.closure)} of the gap between `{CONTROL}` and `{REFERENCE}` in "
        f"{metric.label}{aim}; its error is {ratio_text(found.ratio)} times that of `{REFERENCE}` (published, FID on "
        f"HumanML3D: {PUBLISHED_RATIO:.2f}) ({made}, {_evidence(found)})."
    )


def _evidence(found: Comparison) -> str:
    """The p-values of a comparison."""
    if found.gain.p is None:
        return "no interval"
    least = f", the least that {found.flip.n} seeds can give" if found.flip.p <= found.flip.smallest else ""
    return f"paired t {p_text(found.gain.p)}, sign flips {p_text(found.flip.p)}{least}"


def _frozen(arm: Arm, baseline: str) -> str:
    return (
        f"`{arm.name}` hardly moves (motion energy under {FROZEN_BELOW:g} of the truth's): "
        f"a failure, whatever its distances; it does not beat `{baseline}`."
    )


def _sentence(results: Results, arm: Arm, baseline: Arm) -> str:
    """One arm against another in all metrics that may rank."""
    if results.frozen(arm):
        return _frozen(arm, baseline.name)
    comparisons = compare_with(results, arm, baseline)
    if not comparisons:
        return f"`{arm.name}` and `{baseline.name}` have no seed in common: no comparison."
    sorted_out: dict[str, list[Comparison]] = {}
    for comparison in comparisons:
        sorted_out.setdefault(_word(comparison), []).append(comparison)
    groups = {word: _listed(found, counted=word == "undetected") for word, found in sorted_out.items()}
    lead = _lead(arm.name, baseline.name, comparisons)
    if results.frozen(baseline):
        lead = f"`{baseline.name}` itself hardly moves. {lead}"
    shown = {
        "undetected": "no difference detected",
        "unclaimed": "nothing claimed, since the headline metric shows no difference,",
    }
    if _told(groups):
        shown |= {"ahead": "ahead with one seed", "behind": "behind with one seed"}
    parts = [f"{shown.get(word, word)} in {groups[word]}" for word in WORDS if word in groups]
    return f"{lead} {'; '.join(parts)}."


def _listed(comparisons: Sequence[Comparison], *, counted: bool) -> str:
    """The metrics' names; where only few are named and the rest is counted, headline metrics are."""
    if not counted or len(comparisons) <= NAMED:
        return ", ".join(map(_metric_text, comparisons))
    named = [_metric_text(comparison) for comparison in comparisons if comparison.headline]
    rest = len(comparisons) - len(named)
    return f"{', '.join(named)} and {rest} other{'s' * (rest > 1)}" if named else f"{rest} others"


def _metric_text(comparison: Comparison) -> str:
    """The metric's name; of a headline metric also what could be detected where nothing was."""
    label, told = by_name(comparison.metric).label, comparison.headline and comparison.outcome == "undetected"
    return f"{label} ({_detectable(comparison)})" if told else label


def _detectable(comparison: Comparison) -> str:
    """What could be detected where nothing was; equal scores of all seeds have no spread to tell it from."""
    metric, size = by_name(comparison.metric), comparison.detectable
    if not size:
        return "equal scores"
    return f"this design could detect ≥ {with_unit(number(size, metric.scale), metric.unit)}"


def _word(comparison: Comparison) -> str:
    """The outcome; for one seed "ahead" or "behind"."""
    if comparison.outcome != "single":
        return comparison.outcome
    return "ahead" if comparison.gain.mean > 0 else "behind"


def _told(outcomes: Collection[str]) -> bool:
    """Whether any metric has an interval over seeds."""
    return any(outcome in outcomes for outcome in ("better", "worse", "undetected", "unclaimed"))


def _lead(arm: str, baseline: str, comparisons: Sequence[Comparison]) -> str:
    """How a sentence starts that goes on with what is better, worse and so on."""
    outcomes = [comparison.outcome for comparison in comparisons]
    if not _told(outcomes) and "single" in outcomes:
        return f"With one seed no difference can be told from chance; `{arm}` against `{baseline}`:"
    count, total = outcomes.count("better"), len(comparisons)
    if any(found.headline and found.outcome == "worse" for found in comparisons):
        return (
            f"`{arm}` is worse than `{baseline}` in a headline metric, and better in {count} of {total} that may rank:"
        )
    if count:
        return f"`{arm}` beats `{baseline}` in {count} of {total} metrics that may rank:"
    return f"`{arm}` does not beat `{baseline}` in any metric that may rank:"


def _many(results: Results, arms: Sequence[Arm], baseline: Arm) -> list[str]:
    """With several arms compared, what their number does to the headline."""
    p_values: Mapping[str, float] = over_arms(results, arms, baseline) if len(arms) > 1 else {}
    if len(p_values) < 2:
        return []
    listed = ", ".join(f"`{name}` {p_text(p)}" for name, p in p_values.items())
    return [
        f"{len(p_values)} arms are compared with `{baseline.name}`, and each sentence may err by itself in 1 of 20; "
        f"adjusted for their number (Holm), in the headline metric: {listed}."
    ]


def _unconverged(results: Results) -> list[str]:
    found = [
        f"`{arm.name}` in {by_name(metric).label}"
        for arm in results.arms
        for metric in results.primary
        if metric in results.ranking_metrics and results.converged(arm, metric) is False
    ]
    if not found:
        return []
    return [
        f"Not converged, the last quarter of the steps still lowers the error by more than the seeds differ: "
        f"{'; '.join(found)}. Longer trainings may say something else."
    ]
