"""What a comparison says in words, computed from the scores."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence

from videomdm_ext.bench.contrasts import (
    EXCLUDED,
    REACHED,
    Comparison,
    ablations,
    compare,
    compare_with,
    compared_arms,
    over_arms,
    reaches,
    variations,
)
from videomdm_ext.bench.metrics import by_name
from videomdm_ext.bench.numerals import estimate_text, number, p_text, ratio_text, share_text, with_unit
from videomdm_ext.bench.scores import CONTROL, FROZEN_BELOW, FULL, REFERENCE, Arm, Results

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
