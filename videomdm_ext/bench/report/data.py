"""What a report states beside the scores: who judged, how the arms differ, what ran, and the worst captions."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videomdm_ext.bench import fairness
from videomdm_ext.bench.evaluators.base import Evaluator
from videomdm_ext.bench.evaluators.views_2d import NAME as VIEWS_2D
from videomdm_ext.bench.metrics import describe_groups
from videomdm_ext.bench.plan import EQUAL_PASSES, Plan
from videomdm_ext.bench.reference import Reference, first_frames, motion_of
from videomdm_ext.bench.results import Results
from videomdm_ext.inference.sample import read_motions
from videomdm_ext.render.figures import Example

if TYPE_CHECKING:
    from videomdm_ext.bench.scoring import Scoring

EXAMPLES = 3
"""Captions whose motions are drawn."""


@dataclass(frozen=True)
class Judge:
    """An evaluator as a report describes it; `missing` says why it could not be had."""

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
class ReportData:
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
    known = {name for arm in results.arms for run in arm.trainings for name in run.per_clip}
    chosen = metric or next((name for name in results.ranking_metrics if name in known), "")
    truth, found = results.reference_rows.truth.get(chosen, 0.0), []
    for arm in results.arms:
        scores = arm.trainings[0].per_clip.get(chosen, ()) if arm.trainings else ()
        errors = [results.reference_rows.error(chosen, score) for score in scores]
        order = sorted(
            range(len(errors)), key=lambda index: -errors[index] if math.isfinite(errors[index]) else -math.inf
        )
        first = {captions[index]: index for index in reversed(order)}
        worst = sorted(first.values(), key=order.index)[:count]
        found += [Case(arm.name, chosen, scores[index], truth, example(index)) for index in worst]
    return tuple(found)


def examples(plan: Plan, out: Path, scoring: "Scoring") -> tuple[Example, ...]:
    """The first captions with different motions: truth, teacher, and what each arm made of them with the first seed."""
    captions, example = shown(plan, out, scoring)
    by_caption = {text: clip for clip in scoring.reference(plan.reference).clips for text in clip.texts}
    chosen: dict[str, int] = {}
    for index, caption in enumerate(captions):
        chosen.setdefault(motion_of(by_caption[caption]), index)
    return tuple(example(index) for index in list(chosen.values())[:EXAMPLES])


def shown(plan: Plan, out: Path, scoring: "Scoring") -> tuple[list[str], Any]:
    """The captions of the samples, and a function that makes an `Example` of one by its index."""
    runs = [run for run in plan.runs() if run.seed == 0]
    made = {run.label: read_motions(run.replication(out, 0)) for run in runs}
    captions = next(iter(made.values()))[1]
    by_caption = {text: clip for clip in scoring.reference(plan.reference).clips for text in clip.texts}

    def example(index: int) -> Example:
        clip = by_caption[captions[index]]
        kinds = ("truth", "teacher") if clip.truth is not None else ("teacher",)
        own = {kind: first_frames([clip], kind, plan.crop_frames)[0].numpy() for kind in kinds}
        arms = {label: groups["samples"][index].numpy() for label, (groups, _) in made.items()}
        return Example(captions[index], {**own, **arms})

    return captions, example


def report_data(
    plan: Plan, out: Path, results: Results, scoring: "Scoring", run: Mapping[str, Any] | None = None
) -> ReportData:
    """What the report states beside the scores: who judged, how the arms differ, the worst captions, what ran."""
    missing = tuple(Judge(name, missing=reason) for name, reason in scoring.missing.items())
    captions, example = shown(plan, out, scoring)
    rows = fairness.table(plan.runs(), out)
    return ReportData(
        judges=(*(Judge.of(evaluator) for evaluator in scoring.evaluators), *missing),
        differences="\n".join(
            f"{row[0]}: {', '.join(f'{arm} {value}' for arm, value in zip(rows[0][1:], row[1:], strict=True))}"
            for row in rows[1:]
        ),
        batch_size=plan.batch_size,
        run=run or {},
        cases=worst_cases(results, captions, example),
    )


def notes(plan: Plan, out: Path, scoring: "Scoring") -> tuple[str, ...]:
    """What a reader must know to judge the numbers."""
    split = {"train": "training", "val": "validation", "test": "test"}[plan.reference]
    found = [
        f"A denoiser of {plan.layers} layers, {plan.latent_dim} wide, after {plan.steps} steps of batch "
        f"{plan.batch_size} on crops of {plan.crop_frames} frames; curves over steps say how far it converged.",
        compared_with(plan, split, scoring.reference(plan.reference)),
        f"The lifter is {scoring.card.lifter}; its error is on the data set's card.",
        f"Guidance scale {plan.guidance:g}; the weights are the moving average; captions, lengths and x_T are equal "
        "for all arms.",
    ]
    if plan.replications > 1:
        found.append(
            f"Every training is sampled {plan.replications} times, with one fixed list of seeds for all trainings; a "
            "training's score is the mean, and no ± over seeds contains the spread over replications."
        )
    if plan.select:
        steps = ", ".join(
            f"{run.name} {run.chosen_step(out) or run.steps}" for run in plan.runs() if not run.equal_passes
        )
        found.append(
            f"**The checkpoints were chosen** by {plan.select} on validation clips, not fixed beforehand: step {steps}."
        )
    if any(run.equal_passes for run in plan.runs()):
        found.append(
            f'"ARM{EQUAL_PASSES}" is that arm with as many denoiser passes as the others, so with fewer steps.'
        )
    if plan.mdm:
        found.append("MDM's own denoiser and trainer; it does not clip gradients, as the stand-in does.")
    if any(one != VIEWS_2D for one in scoring.identities):
        found.append(f"R-precision of the samples is taken in {describe_groups(plan.samples)}.")
    return tuple(found)


def compared_with(plan: Plan, split: str, reference: Reference) -> str:
    """What samples follow and what they are compared with, in words."""
    follow = f"Samples follow the {split} captions and are compared with "
    if reference.views:
        blind = sum(clip.truth is None for clip in reference.clips)
        return (
            f"{follow}true 2D keypoints, as no truth is known of {blind} of the {len(reference.clips)} clips: samples "
            f"are seen by random cameras as far and as high as the clips' own, the clips by their own in "
            f"{len(reference.views)} windows. Part of every distance is that difference of cameras, for all arms "
            "alike; the floor holds what chance makes of it: what the teacher scores against itself when one random "
            "camera films each clip, or the split halves where that is more. What needs the truth is left out (pose "
            "Fréchet distance, MPJPE, other evaluators, plugins' metrics), kinematic measures rank nothing, and no gap "
            "to an arm with truth can be told."
        )
    crops = "their first frames" if plan.windows == 1 else f"{plan.windows} seeded random crops of each"
    seen = "Only arms that diffuse the truth have seen them. " if plan.reference == "train" else ""
    halves = "The halves of the floor hold the same motions, in other variants."
    return f"{follow}the true {split} motions ({crops}). {seen}{halves}"
