"""Scores of samples in the embedding spaces of evaluators, against true motions or, where none are known, 2D keypoints.

A clip is positions [T, J, 3] in metres, y up, without padding. In a space a score is called "EVALUATOR/METRIC". A space
with a row a frame, or several rows a clip, has those metrics alone that make sense there; one without a text side has
none of captions.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import normalize

from videomdm_ext.bench import metrics
from videomdm_ext.bench.evaluators.base import Evaluator
from videomdm_ext.bench.evaluators.untrained import Views2D
from videomdm_ext.bench.metrics import Clips, mean
from videomdm_ext.bench.reference import Halves, ReferenceRows, View, random_halves, score_reference_rows, static_pose
from videomdm_ext.errors import DatasetError, PluginError
from videomdm_ext.motion.skeletons import Skeleton

SEED = 0
"""Draws the groups of R-precision, the pairs of the diversity, and the exchanges of captions."""
MULTIMODAL = 100
"""Captions that the multimodality is taken over, the first ones."""

Scores = dict[str, float]


@dataclass(frozen=True)
class Embedded:
    """A set of clips in a space: rows [M, D] and how many of them each clip has, captions, and their rows [N, D]."""

    rows: Tensor
    counts: tuple[int, ...]
    captions: tuple[str, ...]
    texts: Tensor | None

    def part(self, chosen: Sequence[int], following: Sequence[int] | None = None) -> "Embedded":
        """Those clips alone, in that order, with their own captions or those of the clips `following`."""
        pieces, captioned = self.rows.split(self.counts), chosen if following is None else following
        return Embedded(
            torch.cat([pieces[clip] for clip in chosen]),
            tuple(self.counts[clip] for clip in chosen),
            tuple(self.captions[clip] for clip in captioned),
            None if self.texts is None else self.texts[list(captioned)],
        )

    @cached_property
    def unit(self) -> "Embedded":
        """The same with every row of length 1."""
        texts = None if self.texts is None else normalize(self.texts, dim=-1)
        return replace(self, rows=normalize(self.rows, dim=-1), texts=texts)

    @cached_property
    def gaussian(self) -> tuple[Tensor, Tensor]:
        return metrics.gaussian(self.rows)

    @cached_property
    def radii(self) -> Tensor:
        return metrics.radii(self.rows)

    @cached_property
    def gallery(self) -> tuple[list[str], Tensor]:
        """The different captions in sorted order, and their rows; with a text side only."""
        assert self.texts is not None
        different, own = metrics.distinct(self.captions)
        return different, self.texts[[int((own == place).nonzero()[0]) for place in range(len(different))]]


class EmbeddingScores(ABC):
    """Scores sets of samples in the spaces of evaluators; what is known of the truth there is kept.

    `captions` are those of the teacher's motions in `reference_rows`; `groups` name the motion of each true clip.
    """

    def __init__(
        self, evaluators: Sequence[Evaluator], captions: Sequence[str], groups: Sequence[str], skeleton: Skeleton,
        fps: float,
    ) -> None:  # fmt: skip
        self.evaluators = {evaluator.name: evaluator for evaluator in evaluators}
        self.captions, self.groups, self.skeleton, self.fps = tuple(captions), tuple(groups), skeleton, fps
        self._truth: dict[str, Embedded] = {}
        self._texts: dict[str, dict[str, Tensor]] = {}

    @abstractmethod
    def plain_scores(self, samples: Clips) -> Scores:
        """The scores that need no evaluator, and "clips", their number."""

    @abstractmethod
    def reference_rows(self, teacher: Clips) -> ReferenceRows:
        """The rows that are not arms, from the teacher's own motions in the order of their captions."""

    @abstractmethod
    def embed_truth(self, evaluator: Evaluator) -> Embedded:
        """What is known of the truth, in a space."""

    def score(self, samples: Clips, captions: Sequence[str]) -> Scores:
        """All scores by name, and "clips", their number; samples that are not finite score NaN."""
        check_captions(samples, captions)
        found = self.plain_scores(samples)
        finite = metrics.is_finite(samples)
        for name, evaluator in self.evaluators.items():
            scores = self._in_space(self.embed(evaluator, samples, captions) if finite else self.truth(name), name)
            found |= scores if finite else dict.fromkeys(scores, math.nan)
        return found

    def per_clip(self, samples: Clips, captions: Sequence[str]) -> dict[str, list[float]]:
        """The scores that are means over clips, one value a clip."""
        metrics.check_clips(samples, self.skeleton, "samples")
        check_captions(samples, captions)
        found = metrics.every_clips_measures(samples, self.skeleton, self.fps)
        for name, evaluator in self.evaluators.items():
            made = self.embed(evaluator, samples, captions)
            if made.texts is not None:
                found[f"{name}/mm_dist"] = metrics.mm_distances(made.rows, made.texts).tolist()
        return found

    def multimodality(self, replications: Sequence[Clips], captions: Sequence[str]) -> Scores:
        """How far replications of the same captions are apart, where there is a text side; none for under 2."""
        found: Scores = {}
        for name, evaluator in self.evaluators.items() if len(replications) > 1 else ():
            sets = [self.embed(evaluator, clips[:MULTIMODAL], captions[:MULTIMODAL]) for clips in replications]
            if sets[0].texts is not None:
                found[f"{name}/multimodality"] = metrics.multimodality(torch.stack([made.rows for made in sets]))
            if evaluator.published:
                rows = torch.stack([made.unit.rows for made in sets])
                found[f"{name}/normalised_multimodality"] = metrics.multimodality(rows)
        return found

    def rows(self, teacher: Clips, still: Clips) -> dict[str, Scores]:
        """Truth, floor, teacher, static and shuffled in all spaces."""
        splits = random_halves(self.groups)
        rows: dict[str, Scores] = {row: {} for row in ("truth", "floor", "teacher", "static", "shuffled")}
        for name, evaluator in self.evaluators.items():
            truth, floor = self._halved(name, splits)
            rows["truth"] |= truth
            rows["floor"] |= floor
            rows["teacher"] |= self._in_space(self.embed(evaluator, teacher, self.captions), name)
            rows["static"] |= self._in_space(self.embed(evaluator, still, self.captions), name)
            draw, whole = torch.Generator().manual_seed(SEED), self.truth(name)
            orders = [torch.randperm(len(whole.captions), generator=draw).tolist() for _ in splits]
            mixed = [self._of_captions(whole.part(range(len(order)), order), name) for order in orders]
            rows["shuffled"] |= {metric: mean([row[metric] for row in mixed]) for metric in mixed[0]}
        return rows

    @property
    def distrust(self) -> dict[str, str]:
        """Why an evaluator may rank nothing, by its name."""
        return {name: evaluator.distrust for name, evaluator in self.evaluators.items() if evaluator.distrust}

    def truth(self, name: str) -> Embedded:
        """What is known of the truth, in the space of that name."""
        if name not in self._truth:
            self._truth[name] = self.embed_truth(self.evaluators[name])
        return self._truth[name]

    @torch.no_grad()
    def embed(self, evaluator: Evaluator, clips: Clips, captions: Sequence[str]) -> Embedded:
        """The clips in a space, with the rows of their captions where each clip has one row."""
        parts = [clips] if evaluator.per_clip else [[clip] for clip in clips]
        made = [evaluator.motions(part, self.fps).double() for part in parts]
        rows = torch.cat(made)
        counts = [len(rows) // len(clips)] * len(clips) if evaluator.per_clip else [len(part) for part in made]
        if sum(counts) != len(rows):
            raise PluginError(
                f"evaluator {evaluator.name!r}: expected as many rows for every clip, found {len(rows)} for "
                f"{len(clips)} clips. Correct its motions()."
            )
        known, texts = self._texts.setdefault(evaluator.name, {}), None
        missing = sorted(set(captions) - known.keys())
        if len(rows) == len(clips):  # each text is asked for once
            asked = evaluator.captions(missing) if missing else None
            known |= {} if asked is None else dict(zip(missing, asked.double(), strict=True))
            texts = torch.stack([known[text] for text in captions]) if known.keys() >= set(captions) else None
        return Embedded(rows, tuple(counts), tuple(captions), texts)

    def _in_space(self, made: Embedded, name: str, truth: Embedded | None = None) -> Scores:
        """All scores of a set in a space, against the reference or a part of it."""
        truth = truth or self.truth(name)
        enough = min(len(made.rows), len(truth.rows)) > 1
        found = {"fid": metrics.frechet(*made.gaussian, *truth.gaussian) if enough else math.nan}
        if self.evaluators[name].per_clip:
            apart = metrics.distances(made.rows, truth.rows)
            found["precision"], found["recall"] = metrics.precision_and_recall(apart, made.radii, truth.radii)
            found["diversity"] = metrics.diversity(made.rows, metrics.seeded_pairs(len(made.rows), SEED))
        if self.evaluators[name].published:
            found |= self._published(made, truth, enough=enough)
        return {f"{name}/{metric}": value for metric, value in found.items()} | self._of_captions(made, name)

    def _published(self, made: Embedded, truth: Embedded, *, enough: bool) -> Scores:
        """What the literature reports in another way than ours, and what it reports of rows of length 1."""
        unit, pairs = made.unit, metrics.seeded_pairs(len(made.rows), SEED)
        found = {"normalised_fid": metrics.frechet(*unit.gaussian, *truth.unit.gaussian) if enough else math.nan}
        found["normalised_diversity"] = metrics.diversity(unit.rows, pairs)
        groups = metrics.seeded_groups(len(made.captions), SEED)
        for prefix, one in (("mdm_", made), ("normalised_", unit)):
            if one.texts is not None:
                tops = metrics.r_precision_of_mdm(one.rows, one.texts, groups)
                found |= {f"{prefix}r_precision_{top}": value for top, value in zip(metrics.TOPS, tops, strict=True)}
        if unit.texts is not None:
            found["normalised_mm_dist"] = metrics.mm_distances(unit.rows, unit.texts).mean().item()
        return found

    def _of_captions(self, made: Embedded, name: str) -> Scores:
        """How well motions and their captions fit; the gallery holds the captions of the reference too."""
        if made.texts is None:
            return {}
        gallery: dict[str, Tensor] = {}
        for one in (self.truth(name), made):
            gallery |= dict(zip(*one.gallery, strict=True))
        place = {text: index for index, text in enumerate(gallery)}
        own = torch.tensor([place[caption] for caption in made.captions])
        groups = metrics.seeded_groups(len(made.captions), SEED)
        tops = {
            "r_precision": metrics.r_precision(made.rows, made.texts, made.captions, groups),
            "r_precision_gallery": metrics.hits(made.rows, torch.stack(list(gallery.values())), own).mean(0).tolist(),
        }
        found = {f"{name}/{kind}_{top}": v for kind, row in tops.items() for top, v in zip((1, 2, 3), row, strict=True)}
        return found | {f"{name}/mm_dist": metrics.mm_distances(made.rows, made.texts).mean().item()}

    def _halved(self, name: str, splits: Sequence[Halves]) -> tuple[Scores, Scores]:
        """The truth's own scores in a space, and mean errors of one half of it against the other."""
        whole, pairs = self.truth(name), []
        for split in splits:
            first, second = (whole.part(half) for half in split)
            pairs.append((self._in_space(first, name, second), self._in_space(second, name, first)))
        truth, floor = self._in_space(whole, name), {}
        truth |= {metric: 0.0 for metric in truth if metric.endswith("fid")}
        for metric, score in list(truth.items()):
            meant, of_half = metrics.by_name(metric), metric.endswith(("/precision", "/recall"))
            truth[metric] = mean([one[metric] for one, _ in pairs]) if of_half else score
            best = [truth[metric] if of_half else other[metric] for _, other in pairs]
            floor[metric] = mean([meant.error(one[metric], b) for (one, _), b in zip(pairs, best, strict=True)])
        return truth, floor


def check_captions(samples: Clips, captions: Sequence[str]) -> None:
    """DatasetError unless there is a caption for every sample."""
    if len(captions) != len(samples):
        raise DatasetError(
            f"samples: expected a caption for each of {len(samples)} clips, found {len(captions)}. Sample again."
        )


# -- against true motions ----------------------------------------------------------------------------------------------


class TruthScores(EmbeddingScores):
    """Scores sets of samples against one set of true clips, each with a caption."""

    def __init__(
        self, reference: Clips, captions: Sequence[str], groups: Sequence[str], evaluators: Sequence[Evaluator],
        skeleton: Skeleton, fps: float,
    ) -> None:  # fmt: skip
        metrics.check_clips(reference, skeleton, "reference")
        super().__init__(evaluators, captions, groups, skeleton, fps)
        self.reference = list(reference)

    def plain_scores(self, samples: Clips) -> Scores:
        return metrics.score(samples, self.reference, self.skeleton, self.fps)

    def embed_truth(self, evaluator: Evaluator) -> Embedded:
        return self.embed(evaluator, self.reference, self.captions)

    def reference_rows(self, teacher: Clips) -> ReferenceRows:
        """The rows that are not arms: truth, floor, teacher, static pose, shuffled captions.

        Precision and recall of the truth are those of one half against the other, as a set would hold itself whole.
        """
        plain = score_reference_rows(self.reference, teacher, self.skeleton, self.fps, random_halves(self.groups))
        still = [clip.to(self.reference[0].dtype) for clip in static_pose(self.reference, self.skeleton)]
        rows = self.rows(teacher, still)
        for row in ("truth", "floor", "teacher", "static"):
            rows[row] = {**getattr(plain, row), **rows[row]}
        return ReferenceRows(**rows, clips=plain.clips, distrust=self.distrust)


class KeypointScores(EmbeddingScores):
    """Scores sets of samples against views of clips, whose groups are the views' own.

    `refilmed` are such views of the teacher itself, each set with other cameras, one a clip.
    """

    def __init__(
        self, views: Sequence[View], captions: Sequence[str], evaluator: Views2D, skeleton: Skeleton, fps: float,
        *, refilmed: Sequence[Sequence[View]] = (),
    ) -> None:  # fmt: skip
        super().__init__([evaluator], captions, [view.group for view in views], skeleton, fps)
        self.space, self.views, self.refilmed = evaluator, tuple(views), tuple(refilmed)

    def plain_scores(self, samples: Clips) -> Scores:
        metrics.check_clips(samples, self.skeleton, "samples")
        return {**metrics.mean_measures(samples, self.skeleton, self.fps), "clips": float(len(samples))}

    def embed_truth(self, evaluator: Evaluator) -> Embedded:
        return self._embed_views(self.views)

    def _embed_views(self, views: Sequence[View]) -> Embedded:
        rows = self.space.seen([(view.points, view.confidence) for view in views], self.fps).double()
        return Embedded(rows, (1,) * len(rows), tuple(view.caption for view in views), None)

    def reference_rows(self, teacher: Clips) -> ReferenceRows:
        """The rows that are not arms; the kinematic measures have none of the truth, and no floor.

        The floor is one half of the views against the other, or, where that is more, the teacher's own motions against
        themselves as filmed by one camera a clip: the halves share their cameras, which samples never do. The static
        pose is the teacher's mean.
        """
        still = [clip.to(teacher[0].dtype) for clip in static_pose(teacher, self.skeleton)]
        rows = self.rows(teacher, still)
        for row, clips in (("teacher", teacher), ("static", still)):
            rows[row] = {**self.plain_scores(clips), **rows[row]}
        again = self._refilmed_errors(teacher, rows["truth"])
        rows["floor"] = {name: max(floor, again.get(name, 0.0)) for name, floor in rows["floor"].items()}
        return ReferenceRows(**rows, clips=len(self.views), distrust=self.distrust)

    def _refilmed_errors(self, teacher: Clips, truth: Scores) -> Scores:
        """What motions that are right by definition have as errors for their cameras alone, mean over the sets."""
        name, rows = self.space.name, []
        made = self.embed(self.space, teacher, self.captions)
        for films in map(self._embed_views, self.refilmed):
            found = self._in_space(made, name, films)
            best = {**truth, f"{name}/diversity": self._in_space(films, name, films)[f"{name}/diversity"]}
            rows.append({metric: metrics.by_name(metric).error(found[metric], best[metric]) for metric in found})
        return {metric: mean([row[metric] for row in rows]) for metric in (rows[0] if rows else ())}
