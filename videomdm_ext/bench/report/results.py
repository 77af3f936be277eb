"""The results of a comparison, gathered from its scores, and what a report states beside them."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from videomdm_ext.bench import fairness
from videomdm_ext.bench.evaluators.untrained import VIEWS_2D
from videomdm_ext.bench.metrics import METRICS, describe_groups, mean
from videomdm_ext.bench.plan import EQUAL_PASSES, FULL, PRIMARY, Plan, Run, settings
from videomdm_ext.bench.provenance import read_cost, read_seconds
from videomdm_ext.bench.reference import ReferenceRows, motion, motion_of
from videomdm_ext.bench.report import templates
from videomdm_ext.bench.scoring import Curve, Scoring, make_scoring
from videomdm_ext.bench.statistics import mean_interval
from videomdm_ext.data.folder import Card
from videomdm_ext.errors import ConfigError
from videomdm_ext.inference.sample import read_motions
from videomdm_ext.mdm.loop import read_rows
from videomdm_ext.render.figures import Example

TEXT_FEATURES = {
    "words": "hashed words (no language model installed)",
    "minilm": "MiniLM sentence embeddings (all-MiniLM-L6-v2)",
    "clip": "the host's own encoder (CLIP ViT-B/32)",
}
EXAMPLES = 3
"""Captions whose motions are drawn."""
WORST = 2
"""Captions an arm that are shown as the worst."""
FROZEN_BELOW = 0.25
"""An arm with less than this share of the truth's motion energy does not move."""
CURVE_POINTS = 4
"""Scored steps that a training needs before the report judges whether it has converged."""


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

    def spreads(self, metric: str) -> tuple[float | None, float | None]:
        """Standard deviations (ddof 1) over the replications of one training, pooled over seeds, and over seeds."""
        scores = [[row[metric] for row in run.replications if metric in row] for run in self.trainings]
        variances = [float(np.var(row, ddof=1)) for row in scores if len(row) > 1]
        pooled = float(np.sqrt(np.mean(variances))) if variances else None
        seeds = list(self.values(metric).values())
        return pooled, float(np.std(seeds, ddof=1)) if len(seeds) > 1 else None


@dataclass(frozen=True)
class Judge:
    """An evaluator as a report describes it; `missing` says why it could not be had."""

    name: str
    identity: str = ""
    comparable: str = ""
    distrust: str = ""
    facts: Mapping[str, float | str] = field(default_factory=dict)
    missing: str = ""


@dataclass(frozen=True)
class Case:
    """A caption for which an arm's sample is far from the truth, by the score of that clip alone."""

    arm: str
    metric: str
    score: float
    truth: float
    example: Example


@dataclass(frozen=True)
class Results:
    """All that a report is made of. `clips` is N, the clips scored for each seed; examples share captions over arms.

    `primary` names the metrics that claims are made in; `differences` is the diff of the arms' settings as lines,
    `batch_size` the clips of a training step; `run` holds what else must be known to repeat it (versions, ...).
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
    judges: tuple[Judge, ...] = ()
    differences: str = ""
    batch_size: int | None = None
    run: Mapping[str, Any] = field(default_factory=dict)
    cases: tuple[Case, ...] = ()

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
        pairs = zip(curves, errors, strict=True)
        before = [np.interp(0.75 * curve.steps[-1], curve.steps, row) for curve, row in pairs]
        last = [row[-1] for row in errors]
        return bool(np.mean(before) - np.mean(last) <= np.std(last, ddof=1))

    @property
    def ranking_metrics(self) -> list[str]:
        return [name for name in self.metrics if self.reference_rows.ranking(name)[0]]


def check_whole(plan: Plan, out: Path) -> None:
    """Every run has its samples. ConfigError names those that do not."""
    missing = [run.name for run in plan.runs() if run.missing_samples(out) or run.missing_curve(out)]
    if missing:
        raise ConfigError(f"{out}: expected samples of all runs, found none of {', '.join(missing)}. Run it again.")


def gather(plan: Plan, out: Path, scoring: Scoring | None = None) -> Results:
    """Score every run of the plan against the true motions of the plan's split, and draw on the files for the rest."""
    check_whole(plan, out)
    scoring = scoring or make_scoring(plan, out)
    reference, rows, runs = scoring.reference(plan.reference), scoring.reference_rows(), plan.runs()
    rows = dataclasses.replace(
        rows,
        teacher={**rows.teacher, **scoring.held_out(runs[0], "teacher")},
        floor={**rows.floor, **scoring.held_out(runs[0], "truth")},  # what the keypoints themselves are off
    )
    by_label: dict[str, list[Run]] = {}
    for run in runs:
        by_label.setdefault(run.label, []).append(run)
    arms = []
    for label, own in by_label.items():
        repeated = label.removesuffix(EQUAL_PASSES) if own[0].equal_passes else ""
        trainings = tuple(score_run(run, out, scoring) for run in own)
        arms.append(Arm(label, trainings, settings(own[0].config), repeated, own[0].config.of))
    judges = [Judge(e.name, e.identity, e.comparable, e.distrust, dict(e.facts)) for e in scoring.evaluators]
    judges += [Judge(name, missing=reason) for name, reason in scoring.missing.items()]
    made = {label: read_motions(own[0].replication(out, 0)) for label, own in by_label.items()}
    captions = next(iter(made.values()))[1]
    by_caption = {text: clip for clip in reference.clips for text in clip.texts}

    def example(index: int) -> Example:
        """Truth, teacher, and what each arm made of a caption with the first seed."""
        clip = by_caption[captions[index]]
        kinds = ("truth", "teacher") if clip.truth is not None else ("teacher",)
        own = {kind: motion(clip, kind, 0, plan.crop_frames).numpy() for kind in kinds}
        own |= {name: part["samples"][index].numpy() for name, (part, _) in made.items()}
        return Example(captions[index], own)

    of_motion = {motion_of(by_caption[text]): index for index, text in reversed(list(enumerate(captions)))}
    results = Results(
        arms=tuple(arms),
        reference_rows=rows,
        card=reference.card,
        clips=plan.samples,
        text_features=TEXT_FEATURES.get(plan.text_features, f"the encoder {plan.text_features} of a plugin"),
        examples=tuple(example(index) for index in sorted(of_motion.values())[:EXAMPLES]),
        notes=notes(plan, out, scoring),
        primary=scoring.primary,
        judges=tuple(judges),
        differences=fairness.differences(runs, out),
        batch_size=plan.batch_size,
    )
    return dataclasses.replace(results, cases=worst_cases(results, captions, example))


def score_run(run: Run, out: Path, scoring: Scoring) -> Training:
    """All scores of one run, with its losses and what it cost."""
    found = [scoring.replication(run, number) for number in range(run.plan.replications)]
    rows, per_clip = [row["scores"] for row in found], [row["per_clip"] for row in found]
    facts, seconds = read_cost(run.folder(out)), read_seconds(run.folder(out))
    metrics = {name: mean([row[name] for row in rows]) for name in rows[0]}
    clips = {name: zip(*(row[name] for row in per_clip), strict=True) for name in per_clip[0]}
    return Training(
        seed=run.seed,
        metrics={**metrics, **scoring.several(run), **scoring.against_own_data(run), **scoring.held_out(run)},
        losses=read_losses(run.folder(out)),
        steps=run.chosen_step(out) or run.steps,
        passes=round(run.passes()),
        seconds=math.nan if seconds is None else seconds,
        progress=scoring.progress(run),
        replications=tuple(rows),
        memory=facts.get("memory") or None,
        parameters=facts.get("parameters"),
        per_clip={name: [mean(values) for values in each] for name, each in clips.items()},
    )


def read_losses(folder: Path) -> Curve:
    """The losses of a training by step, from its log. ConfigError for a cell that holds no number."""
    place = folder / "progress.csv"
    logged = read_rows(place)
    names = [name for name in (logged[0] if logged else ()) if name not in ("step", "passes", "behind")]
    try:
        terms = {name: [float(row[name]) for row in logged] for name in names}
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{place}: expected numbers in every row, found others ({error}).") from error
    return Curve([int(row["step"]) for row in logged], terms)


def worst_cases(results: Results, captions: Sequence[str], example: Callable[[int], Example]) -> tuple[Case, ...]:
    """The WORST different captions where each arm's first training is furthest from the truth, the worst first.

    `captions` names every sample, `example(index)` gives caption and motions of one. By the first metric that may rank
    and has a score for each clip. Clips without a finite score come first: nothing is further from the truth.
    """
    known = {name for arm in results.arms for run in arm.trainings for name in run.per_clip}
    chosen = next((name for name in results.ranking_metrics if name in known), "")
    truth, found = results.reference_rows.truth.get(chosen, 0.0), []
    for arm in results.arms:
        scores = arm.trainings[0].per_clip.get(chosen, ()) if arm.trainings else ()
        errors = [results.reference_rows.error(chosen, score) for score in scores]
        far = [-error if math.isfinite(error) else -math.inf for error in errors]
        order = sorted(range(len(far)), key=far.__getitem__)
        first = {captions[index]: index for index in reversed(order)}
        worst = sorted(first.values(), key=order.index)[:WORST]
        found += [Case(arm.name, chosen, scores[index], truth, example(index)) for index in worst]
    return tuple(found)


def notes(plan: Plan, out: Path, scoring: Scoring) -> tuple[str, ...]:
    """What a reader must know to judge the numbers; the texts are those of templates/notes.md."""
    reference, fixed = scoring.reference(plan.reference), [run for run in plan.runs() if not run.equal_passes]
    text = templates().get_template("notes.md").render(
        plan=plan, split={"train": "training", "val": "validation", "test": "test"}[plan.reference],
        blind=sum(clip.truth is None for clip in reference.clips), clips=len(reference.clips),
        windows=len(reference.views), lifter=scoring.card.lifter,
        chosen=", ".join(f"{run.name} {run.chosen_step(out) or run.steps}" for run in fixed) if plan.select else "",
        shortened=EQUAL_PASSES if len(fixed) < len(plan.runs()) else "",
        groups=describe_groups(plan.samples) if any(one != VIEWS_2D for one in scoring.identities) else "",
    )  # fmt: skip
    return tuple(text.splitlines())
