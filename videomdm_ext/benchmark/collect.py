"""Score what a comparison has made, and gather it for the report."""

import csv
import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from videomdm_ext import plugins
from videomdm_ext.benchmark import metrics
from videomdm_ext.benchmark.arms import arm_name, load_arm, settings
from videomdm_ext.benchmark.comparison import Plan, Run
from videomdm_ext.benchmark.results import Arm, Curve, Example, Results, Training
from videomdm_ext.benchmark.sampling import read_motions
from videomdm_ext.datasets.card import Card
from videomdm_ext.datasets.clip import Clip
from videomdm_ext.datasets.folder import read_folder
from videomdm_ext.errors import ConfigError, PluginError
from videomdm_ext.host import adapter
from videomdm_ext.motion.accuracy import root_aligned_mpjpe
from videomdm_ext.motion.features import decode
from videomdm_ext.skeletons import by_name

EXAMPLES = 3
"""Captions whose motions are drawn."""
TEXT_FEATURES = {
    "words": "hashed words (no language model installed)",
    "minilm": "MiniLM sentence embeddings (all-MiniLM-L6-v2)",
    "clip": "the host's own encoder (CLIP ViT-B/32)",
}


def gather(plan: Plan, out: Path) -> Results:
    """Score every run of the plan against the true training motions, which no 2D arm has seen."""
    missing = [run.name for run in plan.runs() if not run.samples(out).is_file()]
    if missing:
        raise ConfigError(f"{out}: expected samples of all runs, found none of {', '.join(missing)}. Run it again.")
    card, clips = read_folder(plan.clips, "train")
    if card.content_hash != plan.content:
        raise ConfigError(f"{plan.clips}: its clips were changed since {out} was made. Make the comparison again.")
    truth, teacher = motions(clips, "truth", plan.crop_frames), motions(clips, "teacher", plan.crop_frames)
    groups = [motion_of(clip) for clip in clips]
    calibration = metrics.calibrate(truth, teacher, by_name(card.skeleton), card.fps, groups=groups)
    lifted = held_out_error(read_motions(plan.runs()[0].samples(out))[0], "teacher")
    calibration = dataclasses.replace(calibration, teacher={**calibration.teacher, "heldout_mpjpe": lifted})
    arms = tuple(
        Arm(
            arm_name(name),
            tuple(score_run(run, out, truth, card) for run in plan.runs() if run.arm == name),
            settings(load_arm(name)),
        )
        for name in plan.arms
    )
    return Results(
        arms=arms,
        calibration=calibration,
        card=card,
        clips=plan.samples,
        text_features=TEXT_FEATURES[plan.text_features],
        examples=examples(plan, out, clips),
        notes=notes(plan, card),
    )


def motion_of(clip: Clip) -> str:
    """Name of the recorded motion of which a clip is a variant or a part: its id up to the first variant mark."""
    return re.split(r"_[mswv]\d", clip.id)[0]


def motions(clips: Sequence[Clip], kind: str, frames: int) -> list[Tensor]:
    """Positions [T, J, 3] of the clips' `truth` or `teacher`, each cut to its first `frames`."""
    features = [getattr(clip, kind) for clip in clips]
    if any(part is None for part in features):
        raise ConfigError("expected a true motion for every training clip to compare with, found clips without.")
    return [decode(torch.from_numpy(part[:frames]), clip.skeleton) for part, clip in zip(features, clips, strict=True)]


def score_run(run: Run, out: Path, truth: Sequence[Tensor], card: Card) -> Training:
    """All scores of one run, with its losses and what it cost."""
    groups, _ = read_motions(run.samples(out))
    scores = metrics.score(groups["samples"], truth, by_name(card.skeleton), card.fps)
    scores["heldout_mpjpe"] = held_out_error(groups, "prediction")
    scores = with_plugins(scores, groups["samples"], truth, card)
    place = run.folder(out) / "seconds.txt"
    seconds = place.read_text(encoding="utf-8") if place.is_file() else "nan"
    return Training(
        seed=run.seed,
        metrics=scores,
        losses=read_losses(run.folder(out) / "progress.csv"),
        steps=run.plan.steps,
        passes=round(run.passes()),
        seconds=float(seconds),
    )


def with_plugins(
    scores: dict[str, float], samples: Sequence[Tensor], truth: Sequence[Tensor], card: Card
) -> dict[str, float]:
    """The scores with those of plugins: their metrics, and a Fréchet distance in the space of each evaluator.

    They are columns: without calibration rows they rank nothing. PluginError for a name that is taken.
    """
    skeleton, manager = by_name(card.skeleton), adapter.manager()
    added = plugins.add_metrics(manager, samples=samples, reference=truth)
    for name, evaluator in plugins.collect(manager, "evaluators").items():
        spaces = [metrics.gaussian(evaluator(clips, skeleton, card.fps)) for clips in (samples, truth)]
        added[f"{name}_frechet"] = metrics.frechet(*spaces[0], *spaces[1])
    taken = sorted(added.keys() & scores.keys())
    if taken:
        raise PluginError(f"metric {taken[0]!r}: a plugin's name for a built-in score. Rename it in the plugin.")
    return {**scores, **added}


def held_out_error(groups: dict[str, list[Tensor]], kind: str) -> float:
    """Root-aligned MPJPE of held-out predictions, or of the teacher itself, mean over clips, m."""
    errors = [root_aligned_mpjpe(made, true) for made, true in zip(groups[kind], groups["truth"], strict=True)]
    return torch.stack(errors).mean().item()


def read_losses(path: Path) -> Curve:
    """A run's progress.csv."""
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    terms = [name for name in rows[0] if name not in ("step", "passes", "behind")]
    steps = [int(row["step"]) for row in rows]
    return Curve(steps, {name: [float(row[name]) for row in rows] for name in terms})


def examples(plan: Plan, out: Path, clips: Sequence[Clip]) -> tuple[Example, ...]:
    """The first captions with different motions: truth, teacher, and what each arm made of them with the first seed."""
    made = {arm_name(arm): read_motions(Run(plan, arm, 0).samples(out)) for arm in plan.arms}
    captions = next(iter(made.values()))[1]
    by_caption = {text: clip for clip in clips for text in clip.texts}
    chosen: dict[str, int] = {}
    for index, caption in enumerate(captions):
        chosen.setdefault(motion_of(by_caption[caption]), index)
    found = []
    for index in list(chosen.values())[:EXAMPLES]:
        clip = by_caption[captions[index]]
        own = {kind: motions([clip], kind, plan.crop_frames)[0].numpy() for kind in ("truth", "teacher")}
        found.append(
            Example(captions[index], {**own, **{arm: m["samples"][index].numpy() for arm, (m, _) in made.items()}})
        )
    return tuple(found)


def notes(plan: Plan, card: Card) -> tuple[str, ...]:
    """What a reader must know to judge the numbers."""
    return (
        f"A small denoiser ({plan.layers} layers, {plan.latent_dim} wide) after {plan.steps} steps of batch "
        f"{plan.batch_size} on crops of {plan.crop_frames} frames: an illustration, far from a converged model.",
        "Samples follow the training captions and are compared with the true training motions, which only the 3d arm "
        "has seen. The halves of the floor hold the same motions, in other variants.",
        f"The lifter is {card.lifter}; its error is on the data set's card.",
        "Guidance scale "
        f"{plan.guidance:g}; the weights are the moving average; captions, lengths and x_T are equal for all arms.",
    )
