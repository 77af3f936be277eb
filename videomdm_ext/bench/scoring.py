"""Scores of a comparison: the evaluators, what is scored against what, and the files that keep scores.

OUT/scores/ARM-SEED/REP.json     scores of a replication, and of each of its clips
OUT/scores/ARM-SEED/heldout.json, several.json, step*.json   held-out clips; all replications together; the curve
OUT/scores/ARM-SEED/owndata.json                             all replications against what the arm was trained on
OUT/scores/calibration.json      the rows that are not arms
Each holds a key: what was scored, against what and by whom. Where the key fits, nothing is computed again.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from videomdm_ext import __version__, plugins
from videomdm_ext.bench import fairness
from videomdm_ext.bench.embedding_scores import EmbeddingScores, KeypointScores, TruthScores
from videomdm_ext.bench.evaluators.base import Evaluator, Ground, Progress, make_all
from videomdm_ext.bench.evaluators.untrained import VIEWS_2D, Views2D
from videomdm_ext.bench.held_out import held_out_scores, own_range, reprojection_scores
from videomdm_ext.bench.metrics import is_finite, mean, pose_frechet
from videomdm_ext.bench.plan import PRIMARY, Plan, Run
from videomdm_ext.bench.reference import Reference, ReferenceRows, read_reference, refilmed, taught
from videomdm_ext.data.files import read_json, write_bytes
from videomdm_ext.data.folder import Card, read_folder
from videomdm_ext.data.schemas import plain, text_of
from videomdm_ext.errors import ConfigError, DatasetError, HostError, PluginError
from videomdm_ext.inference.sample import read_motions
from videomdm_ext.mdm import checkout, hook
from videomdm_ext.mdm.evaluation import hash_of
from videomdm_ext.motion.skeletons import by_name

DIGITS = 7
"""Significant digits of a single clip's score that are kept."""
RULES = 1
"""Version of the rules of scoring: a change makes all scores anew."""
HELD_OUT_RULES = 2
"""The same, of held-out clips alone."""
BLIND = "It compares with true motions, and no truth is known of the clips of split {split}; views-2d needs none."
"""Why an evaluator is left out."""
REFILMED = 4
"""Times that the teachers are filmed by other cameras, for the floor without truth."""

Scores = dict[str, float]


@dataclass(frozen=True)
class Curve:
    """Values of some terms at training steps; every term has one value a step."""

    steps: Sequence[int]
    terms: Mapping[str, Sequence[float]]


@dataclass
class Scoring:
    """The evaluators that could be made, why others could not, and scorers for each split, made when needed."""

    plan: Plan
    out: Path
    card: Card
    evaluators: tuple[Evaluator, ...] = ()
    missing: Mapping[str, str] = field(default_factory=dict)
    anew: bool = False
    scorers: dict[str, EmbeddingScores] = field(default_factory=dict)
    references: dict[str, Reference] = field(default_factory=dict)
    lessons: dict[str, tuple[Tensor, ...]] = field(default_factory=dict)

    def reference(self, split: str) -> Reference:
        if split not in self.references:
            self.references[split] = read_reference(self.plan, split)
        return self.references[split]

    def scorer(self, split: str) -> EmbeddingScores:
        """Against the truth of a split, or against keypoints where there is none."""
        if split in self.scorers:
            return self.scorers[split]
        found, skeleton, fps = self.reference(split), by_name(self.card.skeleton), self.card.fps
        space = next((one for one in self.evaluators if isinstance(one, Views2D)), None)
        if not found.views:
            made: EmbeddingScores = TruthScores(
                found.truth, found.captions, found.groups, self.evaluators, skeleton, fps
            )
        elif space is None:
            raise ConfigError(
                f"{self.plan.clips}: expected the evaluator {VIEWS_2D}, as some clips have no truth to compare with, "
                f"found it left out. Take it out of --without."
            )
        else:
            again = [refilmed(found.clips, self.plan, space, seed) for seed in range(REFILMED)]
            made = KeypointScores(found.views, found.captions, space, skeleton, fps, refilmed=again)
        self.scorers[split] = made
        return made

    @property
    def primary(self) -> tuple[str, ...]:
        """The metrics that claims are made in: the plan's, or what there is without truth."""
        blind = bool(self.reference(self.plan.reference).views)
        return (f"{VIEWS_2D}/fid",) if blind and self.plan.primary == PRIMARY else self.plan.primary

    @property
    def identities(self) -> dict[str, str]:
        return {evaluator.name: evaluator.identity for evaluator in self.evaluators}

    # -- what is scored -----------------------------------------------------------------------------------------------

    def replication(self, run: Run, number: int) -> dict[str, Any]:
        """-> scores and per_clip of one replication."""
        return self._of_samples(run.replication(self.out, number), run.scores(self.out, number), self.plan.reference)

    def progress(self, run: Run) -> Curve | None:
        """Scores of the samples for validation captions at the steps of the curve; None without a curve."""
        steps = [] if run.equal_passes else self.plan.curve_steps
        if not steps:
            return None
        places = [(run.curve_samples(self.out, step), run.curve_scores(self.out, step)) for step in steps]
        rows = [self._of_samples(samples, scores, "val")["scores"] for samples, scores in places]
        names = [name for name in rows[0] if all(name in row for row in rows) and name != "clips"]
        return Curve(steps, {name: [row[name] for row in rows] for name in names})

    def several(self, run: Run) -> Scores:
        """What takes all replications of a training: how far those of one caption are apart."""

        def compute(sets: list[list[Tensor]], captions: list[str]) -> Scores:
            return self.scorer(self.plan.reference).multimodality(sets, captions)

        return self._of_replications(run, "several", [], compute)

    def against_own_data(self, run: Run) -> Scores:
        """How far a training's samples are from the motion that taught it, and that from the truth, if it is known.

        The first is what the denoiser gets wrong, the second what its teacher did. None where samples follow other
        captions than those of the training clips.
        """
        reference, plan = self.reference(self.plan.reference), self.plan
        if plan.reference != "train" or reference.views:
            return {}
        config, skeleton = run.config.supervision, by_name(self.card.skeleton)
        taken = f"{config.teacher} {config.best_share:g} {config.known_share:g}"
        if taken not in self.lessons:
            self.lessons[taken] = taught(plan, reference, config)
        data = self.lessons[taken]

        def compute(sets: list[list[Tensor]], captions: list[str]) -> Scores:
            own = mean([pose_frechet(made, data, skeleton) if is_finite(made) else math.nan for made in sets])
            return {"own_pose_frechet": own, "data_pose_frechet": pose_frechet(data, reference.truth, skeleton)}

        lesson = hashlib.sha256(torch.cat(data).numpy().tobytes()).hexdigest()
        return self._of_replications(run, "owndata", [lesson], compute)

    def held_out(self, run: Run, kind: str = "prediction") -> Scores:
        """Errors of held-out clips made clean, of their teachers, or of the truth where it is known."""
        place = run.held_out(self.out)

        def compute() -> dict[str, Any]:
            groups, _ = read_motions(place)
            rows = reprojection_scores(groups, read_folder(self.plan.clips, "test")[1])
            for one in ("prediction", "teacher") if "truth" in groups else ():
                rows[one] = {**held_out_scores(groups[one], groups["truth"], self.card.fps), **rows[one]}
            return rows

        parts = [str(HELD_OUT_RULES), self.card.content_hash, hash_of(place)]
        rows = self._kept(run.scores(self.out, 0).with_name("heldout.json"), "heldout", parts, compute)
        return dict(rows.get(kind, {}))

    def reference_rows(self, split: str = "") -> ReferenceRows:
        """The rows that are not arms."""
        split = split or self.plan.reference
        name = "calibration.json" if split == self.plan.reference else f"calibration-{split}.json"

        def compute() -> dict[str, Any]:
            found = self.reference(split)
            return dataclasses.asdict(self.scorer(split).reference_rows(found.teacher))

        return ReferenceRows(**self._kept(self.out / "scores" / name, "calibration", [self._key(split)], compute))

    # -- how it is kept -----------------------------------------------------------------------------------------------

    def _of_samples(self, samples: Path, place: Path, split: str) -> dict[str, Any]:
        def compute() -> dict[str, Any]:
            groups, captions = read_motions(samples)
            made, scorer = groups["samples"], self.scorer(split)
            scores = scorer.score(made, captions)
            if not self.reference(split).views:  # a plugin's metric may read the truth
                scores = with_plugins(scores, made, self.reference(split))
            rows = scorer.per_clip(made, captions)
            per_clip = {name: [float(f"{value:.{DIGITS}g}") for value in values] for name, values in rows.items()}
            return {"scores": scores, "per_clip": per_clip}

        return self._kept(place, "replication", [self._key(split), hash_of(samples)], compute)

    def _of_replications(
        self, run: Run, name: str, parts: list[str], compute: Callable[[list[list[Tensor]], list[str]], Scores]
    ) -> Scores:
        """Scores of a training's sets of samples together, with their captions."""
        places = [run.replication(self.out, number) for number in range(self.plan.replications)]

        def read() -> dict[str, Any]:
            found = [read_motions(place) for place in places]
            return {"scores": compute([groups["samples"] for groups, _ in found], found[0][1])}

        key = [self._key(self.plan.reference), *parts, *map(hash_of, places)]
        return dict(self._kept(run.scores(self.out, 0).with_name(f"{name}.json"), "replication", key, read)["scores"])

    def _key(self, split: str) -> str:
        """What scores depend on beside the samples; plugins that add metrics have no hash of their code."""
        added = sorted(impl.plugin_name for impl in hook.manager().hook.add_metrics.get_hookimpls())
        facts = [RULES, __version__, self.reference(split).key, sorted(self.identities.items()), *added]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def _kept(self, place: Path, kind: str, parts: list[str], compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What the file holds where its key fits, else, or if wanted anew, what is computed now and written there.

        `parts` identify what was scored, the reference and the evaluators; numbers that are not finite are NaN.
        """
        key, stored = hashlib.sha256("/".join(parts).encode()).hexdigest(), {}
        if not self.anew:
            with contextlib.suppress(DatasetError):  # no file, or something else, which is written anew
                stored = read_json(place, kind)
        if stored.get("key") != key:
            stored = {"key": key, "parts": parts, **plain(compute())}
            write_bytes(str(place), f"{text_of(stored, indent=1, sort_keys=True)}\n".encode(), durable=True)
        return {name: _numbers(entry) for name, entry in stored.items() if name not in ("key", "parts")}


def with_plugins(scores: Scores, samples: list[Any], reference: Reference) -> Scores:
    """The scores with the metrics of plugins, which are columns. PluginError for a name that is taken."""
    added = plugins.add_metrics(hook.manager(), samples=samples, reference=list(reference.truth))
    taken = sorted(added.keys() & scores.keys())
    if taken:
        raise PluginError(f"metric {taken[0]!r}: a plugin's name for a built-in score. Rename it in the plugin.")
    return {**scores, **added}


def make_scoring(plan: Plan, out: Path, *, anew: bool = False, progress: Progress | None = None) -> Scoring:
    """Make every evaluator that is registered and not left out by the plan. `anew`: no kept score counts.

    Without a truth to compare with, views-2d alone is made, with cameras as far and as high as those of the clips.
    DatasetError or ConfigError where the data set is no longer that of the plan.
    """
    fairness.check_evaluators(plan)
    card, reference = fairness.check_data(plan, out), read_reference(plan, plan.reference)
    host = plan.host() if plan.mdm else None
    with contextlib.suppress(HostError):  # its evaluator files may be used
        host = host or checkout.find()
    ground = Ground(
        clips=plan.clips, card=card, cache=out / "evaluators", text_features=plan.text_features,
        checkout=host, weights=plan.evaluators, progress=progress or (lambda what, done, total: None),
    )  # fmt: skip
    names = plugins.collect(hook.manager(), "evaluators") if reference.views else ()
    blind = {name: BLIND.format(split=plan.reference) for name in names if name not in (VIEWS_2D, *plan.without)}
    made, missing = make_all(hook.manager(), ground, without={*plan.without, *blind})
    if reference.views:
        own = "optics" not in card.recipe  # which would hold the range of the set's cameras
        made = [Views2D(own_range(reference.clips)) if own and isinstance(one, Views2D) else one for one in made]
    return Scoring(plan, out, card, tuple(made), {**missing, **blind}, anew, references={plan.reference: reference})


def _numbers(value: Any) -> Any:
    """None as NaN."""
    if isinstance(value, Mapping):
        return {name: _numbers(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_numbers(entry) for entry in value]
    return math.nan if value is None else value
