"""Score what a comparison has made, and gather it for the report."""

import csv
import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from videomdm_ext.bench import cost, fairness
from videomdm_ext.bench.arms import settings
from videomdm_ext.bench.evaluators.views_2d import NAME as VIEWS_2D
from videomdm_ext.bench.facts import Facts, Judge, worst_cases
from videomdm_ext.bench.metrics import describe_groups
from videomdm_ext.bench.plan import EQUAL_PASSES, Plan, Run
from videomdm_ext.bench.reference import Reference, first_frames, motion_of
from videomdm_ext.bench.results import Arm, Curve, Example, Results, Training
from videomdm_ext.bench.scoring import Scoring, make_scoring
from videomdm_ext.errors import ConfigError
from videomdm_ext.inference.sample import read_motions

EXAMPLES = 3
"""Captions whose motions are drawn."""
TEXT_FEATURES = {
    "words": "hashed words (no language model installed)",
    "minilm": "MiniLM sentence embeddings (all-MiniLM-L6-v2)",
    "clip": "the host's own encoder (CLIP ViT-B/32)",
}


def check_whole(plan: Plan, out: Path) -> None:
    """Every run has its samples. ConfigError names those that do not."""
    missing = [run.name for run in plan.runs() if run.missing_samples(out) or run.missing_curve(out)]
    if missing:
        raise ConfigError(f"{out}: expected samples of all runs, found none of {', '.join(missing)}. Run it again.")


def gather(plan: Plan, out: Path, scoring: Scoring | None = None) -> Results:
    """Score every run of the plan against the true motions of the plan's split."""
    check_whole(plan, out)
    scoring = scoring or make_scoring(plan, out)
    reference, calibration, runs = scoring.reference(plan.reference), scoring.calibration(), plan.runs()
    calibration = dataclasses.replace(
        calibration,
        teacher={**calibration.teacher, **scoring.held_out(runs[0], "teacher")},
        floor={**calibration.floor, **scoring.held_out(runs[0], "truth")},  # what the keypoints themselves are off
    )
    labels = dict.fromkeys(run.label for run in runs)
    return Results(
        arms=tuple(_arm([run for run in runs if run.label == label], out, scoring) for label in labels),
        calibration=calibration,
        card=reference.card,
        clips=plan.samples,
        text_features=TEXT_FEATURES[plan.text_features],
        examples=examples(plan, out, scoring),
        notes=notes(plan, out, scoring),
        primary=scoring.primary,
        captions=tuple(shown(plan, out, scoring)[0]),
    )


def _arm(runs: Sequence[Run], out: Path, scoring: Scoring) -> Arm:
    """The trainings of one arm."""
    again = runs[0].label.removesuffix(EQUAL_PASSES) if runs[0].equal_passes else ""
    trained, config = tuple(score_run(run, out, scoring) for run in runs), runs[0].config
    return Arm(runs[0].label, trained, settings(config), again, config.of)


def score_run(run: Run, out: Path, scoring: Scoring) -> Training:
    """All scores of one run, with its losses and what it cost."""
    found = [scoring.replication(run, number) for number in range(run.plan.replications)]
    rows = [row["scores"] for row in found]
    facts = cost.read(run.folder(out))
    seconds = cost.read_seconds(run.folder(out))
    return Training(
        seed=run.seed,
        metrics={**means(rows), **scoring.several(run), **scoring.against_own_data(run), **scoring.held_out(run)},
        losses=read_losses(run.folder(out) / "progress.csv"),
        steps=run.chosen_step(out) or run.steps,
        passes=round(run.passes()),
        seconds=math.nan if seconds is None else seconds,
        progress=scoring.progress(run),
        replications=tuple(rows),
        memory=facts.get("memory") or None,
        parameters=facts.get("parameters"),
        per_clip=mean_clips([row["per_clip"] for row in found]),
    )


def means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean over replications of each score."""
    return {name: math.fsum(row[name] for row in rows) / len(rows) for name in rows[0]}


def mean_clips(rows: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, list[float]]:
    """Of each clip the mean over replications."""
    return {
        name: [math.fsum(values) / len(rows) for values in zip(*(row[name] for row in rows), strict=True)]
        for name in rows[0]
    }


def read_losses(path: Path) -> Curve:
    """A run's progress.csv; empty where a training was too short for a row."""
    if not path.is_file():
        return Curve([], {})
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    terms = [name for name in rows[0] if name not in ("step", "passes", "behind")] if rows else []
    steps = [int(row["step"]) for row in rows]
    return Curve(steps, {name: [float(row[name]) for row in rows] for name in terms})


def examples(plan: Plan, out: Path, scoring: Scoring) -> tuple[Example, ...]:
    """The first captions with different motions: truth, teacher, and what each arm made of them with the first seed."""
    captions, example = shown(plan, out, scoring)
    by_caption = {text: clip for clip in scoring.reference(plan.reference).clips for text in clip.texts}
    chosen: dict[str, int] = {}
    for index, caption in enumerate(captions):
        chosen.setdefault(motion_of(by_caption[caption]), index)
    return tuple(example(index) for index in list(chosen.values())[:EXAMPLES])


def shown(plan: Plan, out: Path, scoring: Scoring) -> tuple[list[str], Any]:
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


def tell(plan: Plan, out: Path, results: Results, scoring: Scoring, run: Mapping[str, Any] | None = None) -> Facts:
    """What the report tells beside the scores: who judged, how the arms differ, the worst captions, what ran."""
    missing = tuple(Judge(name, missing=reason) for name, reason in scoring.missing.items())
    captions, example = shown(plan, out, scoring)
    rows = fairness.table(plan.runs(), out)
    return Facts(
        judges=(*(Judge.of(evaluator) for evaluator in scoring.evaluators), *missing),
        differences="\n".join(
            f"{row[0]}: {', '.join(f'{arm} {value}' for arm, value in zip(rows[0][1:], row[1:], strict=True))}"
            for row in rows[1:]
        ),
        batch_size=plan.batch_size,
        run=run or {},
        cases=worst_cases(results, captions, example),
    )


def notes(plan: Plan, out: Path, scoring: Scoring) -> tuple[str, ...]:
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
