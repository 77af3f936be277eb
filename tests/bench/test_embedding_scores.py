"""Scores in the spaces of evaluators: what is scored where, the rows that calibrate it, what order cannot change."""

import math
import time
from collections import Counter
from collections.abc import Sequence
from functools import cache

import pytest
import torch
from torch import Tensor

from videomdm_ext.bench import metrics
from videomdm_ext.bench.embedding_scores import TruthScores
from videomdm_ext.bench.evaluators.base import Evaluator
from videomdm_ext.bench.evaluators.untrained import Views2D
from videomdm_ext.bench.held_out import held_out_scores
from videomdm_ext.bench.reference import ReferenceRows, random_halves, score_reference_rows, static_pose
from videomdm_ext.data.motions import load_motions
from videomdm_ext.errors import DatasetError, PluginError
from videomdm_ext.motion.skeletons import SMPL22

FPS = 20.0
MOTIONS = {motion.name: torch.from_numpy(motion.positions).double() for motion in load_motions()}
WINDOWS = [(name, clip[at : at + 16]) for name, clip in MOTIONS.items() for at in range(0, len(clip) - 16, 16)]
CAPTIONS = [f"a person: {name}." for name, _ in WINDOWS]
CLIPS = [clip for _, clip in WINDOWS]
GROUPS = [name for name, _ in WINDOWS]


class Poses(Evaluator):
    """A row a clip: its mean pose; a caption lies at the mean of the motion that it names."""

    name = "poses"
    comparable = "Nothing."
    identity = "0" * 64  # type: ignore[assignment]

    def __init__(self) -> None:
        self.asked: list[str] = []

    def motions(self, clips: Sequence[Tensor], fps: float) -> Tensor:
        return torch.stack([metrics.pose_features(clip, SMPL22)[:, ::4].mean(0) for clip in clips])

    def captions(self, captions: Sequence[str]) -> Tensor | None:
        self.asked += captions
        return torch.stack([self.motions([MOTIONS[text[10:-1]]], FPS)[0] for text in captions])


class Frames(Poses):
    """A row a frame."""

    name = "frames"
    per_clip = False

    def motions(self, clips: Sequence[Tensor], fps: float) -> Tensor:
        return torch.cat([metrics.pose_features(clip, SMPL22)[1:, :9] for clip in clips])


class Twice(Poses):
    """Two rows a clip."""

    name = "twice"

    def motions(self, clips: Sequence[Tensor], fps: float) -> Tensor:
        return super().motions(clips, fps).repeat_interleave(2, 0)


class Published(Poses):
    """A space of the literature."""

    name = "published"
    published = True


def scorer(*evaluators: Evaluator) -> TruthScores:
    return TruthScores(CLIPS, CAPTIONS, GROUPS, evaluators or (Poses(),), SMPL22, FPS)


def noisy(size: float, clips: Sequence[Tensor] = CLIPS, seed: int = 0) -> list[Tensor]:
    """-> the clips, every joint of each wrong by its own constant."""
    draw = torch.Generator().manual_seed(seed)
    return [clip + size * torch.randn(1, 22, 3, generator=draw, dtype=torch.float64) for clip in clips]


@cache
def calibrated() -> ReferenceRows:
    return scorer(Poses(), Frames(), Twice()).reference_rows(noisy(0.15))


def in_space(scores: dict[str, float], name: str) -> set[str]:
    return {key.removeprefix(f"{name}/") for key in scores if key.startswith(f"{name}/")}


def test_each_space_has_the_metrics_that_make_sense_in_it() -> None:
    found = scorer(Poses(), Frames(), Twice()).score(CLIPS, CAPTIONS)
    ours = {name for name in metrics.SPACE_METRICS if not name.startswith(("mdm_", "normalised_"))}
    assert in_space(found, "poses") == ours - {"multimodality"}
    assert in_space(found, "frames") == {"fid"}
    assert in_space(found, "twice") == {"fid", "precision", "recall", "diversity"}
    assert found.items() >= metrics.score(CLIPS, CLIPS, SMPL22, FPS).items()


def test_scores_are_those_of_the_spaces_rows() -> None:
    made, captions = noisy(0.1)[:40], CAPTIONS[:40]
    found, space = scorer(Poses(), Frames()).score(made, captions), Poses()
    for name, evaluator in (("poses", space), ("frames", Frames())):
        rows = [metrics.gaussian(evaluator.motions(clips, FPS)) for clips in (made, CLIPS)]
        assert found[f"{name}/fid"] == pytest.approx(metrics.frechet(*rows[0], *rows[1]), rel=1e-9)
    rows, texts = space.motions(made, FPS), space.captions(captions)
    assert texts is not None
    assert found["poses/mm_dist"] == pytest.approx(metrics.mm_distances(rows, texts).mean().item())
    tops = metrics.r_precision(rows, texts, captions, metrics.seeded_groups(40, 0))
    assert [found[f"poses/r_precision_{top}"] for top in (1, 2, 3)] == pytest.approx(tops)


def test_a_published_space_has_normalised_scores_too_which_the_size_of_rows_cannot_change() -> None:
    class Longer(Published):
        def motions(self, clips: Sequence[Tensor], fps: float) -> Tensor:
            return super().motions(clips, fps) * torch.linspace(1, 9, len(clips)).unsqueeze(1)

    made, captions = noisy(0.1)[:40], CAPTIONS[:40]
    own, longer = (scorer(space).score(made, captions) for space in (Published(), Longer()))
    names = set(metrics.SPACE_METRICS) - {"multimodality", "normalised_multimodality"}
    assert in_space(own, "published") == in_space(longer, "published") == names
    equal = {name for name in own if name.startswith("published/normalised_")}
    assert {name: longer[name] for name in equal} == pytest.approx({name: own[name] for name in equal}, abs=1e-7)
    assert longer["published/fid"] > 2 * own["published/fid"]
    rows = torch.nn.functional.normalize(Published().motions(made, FPS), dim=-1)
    true = torch.nn.functional.normalize(Published().motions(CLIPS, FPS), dim=-1)
    expected = metrics.frechet(*metrics.gaussian(rows), *metrics.gaussian(true))
    assert own["published/normalised_fid"] == pytest.approx(expected, rel=1e-6)
    assert own["published/normalised_fid"] < own["published/fid"]
    again = scorer(Published()).multimodality([made, noisy(0.1, seed=3)[:40]], captions)
    assert 0 < again["published/normalised_multimodality"] < again["published/multimodality"]
    truth = scorer(Published()).reference_rows(noisy(0.15)).truth
    assert truth["published/normalised_fid"] == truth["published/fid"] == 0


def test_the_gallery_holds_the_captions_of_the_reference_too() -> None:
    """Samples that all follow one caption find it among all captions, not among one."""
    walks = [clip for name, clip in WINDOWS if name == "walk"]
    wrong = [clip for name, clip in WINDOWS if name == "backflip"]
    caption = "a person: walk."
    right = scorer().score(walks, [caption] * len(walks))
    missed = scorer().score(wrong, [caption] * len(wrong))
    assert right["poses/r_precision_1"] == missed["poses/r_precision_1"] == 1.0
    assert right["poses/r_precision_gallery_1"] > 0.5
    assert missed["poses/r_precision_gallery_1"] == 0.0


def test_each_caption_is_embedded_once() -> None:
    space = Poses()
    scoring = scorer(space)
    scoring.score(CLIPS, CAPTIONS)
    scoring.score(noisy(0.1), CAPTIONS)
    assert sorted(space.asked) == sorted(set(CAPTIONS))


def test_samples_that_are_not_finite_score_nan_in_every_space() -> None:
    good = scorer(Poses(), Frames()).score(CLIPS, CAPTIONS)
    broken = scorer(Poses(), Frames()).score([*CLIPS[1:], torch.full_like(CLIPS[0], math.nan)], CAPTIONS)
    assert set(broken) == set(good)
    assert all(math.isnan(value) for name, value in broken.items() if name != "clips")


def test_one_sample_alone_has_no_distribution_and_everything_else() -> None:
    found = scorer().score(CLIPS[:1], CAPTIONS[:1])
    assert math.isnan(found["poses/fid"])
    assert math.isfinite(found["poses/mm_dist"])


def test_the_values_of_single_clips_have_the_scores_as_their_means() -> None:
    made = noisy(0.1)
    clips, found = scorer().per_clip(made, CAPTIONS), scorer().score(made, CAPTIONS)
    assert {"poses/mm_dist", "acceleration", "foot_skating"} <= set(clips)
    for name, values in clips.items():
        assert len(values) == len(made)
        assert sum(values) / len(values) == pytest.approx(found[name]), name
    assert clips["acceleration"][7] == pytest.approx(metrics.mean_measures(made[7:8], SMPL22, FPS)["acceleration"])


def test_multimodality_tells_replications_apart_and_needs_two() -> None:
    scoring = scorer(Poses(), Twice())
    assert scoring.multimodality([CLIPS], CAPTIONS) == {}
    assert scoring.multimodality([CLIPS, CLIPS], CAPTIONS) == {"poses/multimodality": 0.0}
    lifted = [clip + torch.tensor((0.0, 0.1, 0.0)) for clip in CLIPS]
    rows = [Poses().motions(clips[:100], FPS) for clips in (CLIPS, lifted)]
    expected = torch.linalg.vector_norm(rows[0] - rows[1], dim=-1).mean().item()
    assert scoring.multimodality([CLIPS, lifted], CAPTIONS)["poses/multimodality"] == pytest.approx(expected)


def test_the_truth_is_the_best_and_the_teacher_is_seen_in_every_space() -> None:
    rows = calibrated()
    for name in ("poses", "frames", "twice"):
        assert rows.truth[f"{name}/fid"] == 0.0
        assert rows.teacher[f"{name}/fid"] > 2 * rows.floor[f"{name}/fid"] > 0
        assert rows.ranking(f"{name}/fid")[0]
    assert rows.static["poses/recall"] == 0.0
    assert 0.5 < rows.truth["poses/precision"] < 1.0
    assert set(rows.truth) >= set(rows.floor) - {"bone_length"}


def test_the_plain_rows_are_those_without_evaluators() -> None:
    plain = score_reference_rows(CLIPS, noisy(0.15), SMPL22, FPS, random_halves(GROUPS))
    for row in ("truth", "floor", "teacher", "static"):
        assert getattr(calibrated(), row).items() >= getattr(plain, row).items()


def test_shuffled_captions_fall_to_chance() -> None:
    rows = calibrated()
    shares = [CAPTIONS.count(text) / len(CAPTIONS) for text in set(CAPTIONS)]
    assert rows.truth["poses/r_precision_gallery_1"] > 0.6
    assert rows.shuffled["poses/r_precision_gallery_1"] < 2 * max(shares)
    assert rows.shuffled["poses/mm_dist"] > 1.5 * rows.truth["poses/mm_dist"]
    assert set(rows.shuffled) == {name for name in rows.truth if "r_precision" in name or "mm_dist" in name}


def test_part_of_a_set_is_the_set_of_those_clips_alone() -> None:
    for space in (Poses(), Frames(), Twice()):
        scoring = scorer(space)
        whole = scoring.embed(space, [*CLIPS[:6], MOTIONS["walk"]], [*CAPTIONS[:6], "a person: walk."])
        part = whole.part([6, 2, 0])
        alone = scoring.embed(space, [MOTIONS["walk"], CLIPS[2], CLIPS[0]], ["a person: walk.", *CAPTIONS[2::-2]])
        assert torch.equal(part.rows, alone.rows)
        assert (part.counts, part.captions) == (alone.counts, alone.captions)
        assert part.texts is alone.texts is None or torch.equal(part.texts, alone.texts)  # type: ignore[arg-type]


class Uneven(Poses):
    name = "uneven"

    def motions(self, clips: Sequence[Tensor], fps: float) -> Tensor:
        return super().motions(clips, fps).repeat(2, 1)[1:]


def test_what_cannot_be_scored_is_refused_by_name() -> None:
    with pytest.raises(DatasetError, match=r"samples: expected a caption for each of .* clips, found 1"):
        scorer().score(CLIPS, CAPTIONS[:1])
    with pytest.raises(PluginError, match="evaluator 'uneven'"):
        scorer(Uneven()).score(CLIPS, CAPTIONS)


def test_held_out_errors_tell_depth_from_image() -> None:
    truth = [clip + torch.tensor((0.0, 0.0, 5.0)) for clip in CLIPS[:3]]
    deeper = [clip * torch.linspace(1.0, 1.04, 22).view(1, 22, 1) for clip in truth]
    found = held_out_scores(deeper, truth, FPS)
    seen = {"heldout_reprojection", "heldout_other_view"}
    assert set(found) == {name for name in metrics.METRICS if name.startswith("heldout")} - seen
    assert found["heldout_image_error"] < 1e-9
    assert found["heldout_depth_error"] == pytest.approx(found["heldout_mpjpe"])
    assert 0.05 < found["heldout_mpjpe"] < 0.2
    assert found["heldout_pck_50"] < found["heldout_pck_100"] < 1
    assert found["heldout_pa_mpjpe"] < found["heldout_mpjpe"]
    exact = held_out_scores(truth, truth, FPS)
    assert all(metrics.by_name(name).error(value, math.nan) < 1e-9 for name, value in exact.items())


def test_scoring_a_tenth_of_a_thousand_samples_takes_under_a_tenth_of_two_minutes() -> None:
    """CPU seconds of one thread, with clips of 64 to 196 frames: a busy machine does not count."""
    long = [clip.repeat(1 + 200 // len(clip), 1, 1) for clip in MOTIONS.values()]
    samples = [long[i % len(long)][: 64 + (37 * i) % 133] for i in range(100)]
    captions = [CAPTIONS[i % len(CAPTIONS)] for i in range(100)]
    scoring = scorer(Poses(), Frames(), Views2D())
    start = time.process_time()
    scoring.score(samples, captions)
    assert time.process_time() - start < 12.0


# -- the rows that are not arms ----------------------------------------------------------------------------------------


def test_the_static_pose_does_not_move_and_is_the_ceiling_of_the_distances() -> None:
    still = static_pose(CLIPS, SMPL22)
    found = metrics.score(still, CLIPS, SMPL22, FPS)
    assert [len(clip) for clip in still] == [len(clip) for clip in CLIPS]
    assert found["motion_energy"] == pytest.approx(0, abs=1e-12)
    spread = torch.cat([metrics.pose_features(clip, SMPL22) for clip in CLIPS]).var(0).sum()
    assert found["pose_frechet"] == pytest.approx(100 * spread.item(), rel=0.01)


def test_halves_are_random_and_share_out_every_group() -> None:
    groups = [str(index // 4) for index in range(40)]
    for first, second in random_halves(groups):
        assert sorted((*first, *second)) == list(range(40))
        assert Counter(groups[index] for index in first) == Counter(groups[index] for index in second)
    assert random_halves(groups) == random_halves(groups) != random_halves(groups, 1)


def test_no_metric_may_rank_where_the_teacher_is_the_truth_and_a_trembling_one_is_seen() -> None:
    draw, splits = torch.Generator().manual_seed(0), random_halves([""] * len(CLIPS))
    rows = score_reference_rows(CLIPS, CLIPS, SMPL22, FPS, splits)
    assert not any(rows.ranking(name)[0] for name in metrics.METRICS)
    trembling = [clip + 0.015 * torch.randn(clip.shape, generator=draw) for clip in noisy(0.15)]
    rows = score_reference_rows(CLIPS, trembling, SMPL22, FPS, splits)
    assert rows.ranking("acceleration")[0]
    assert rows.ranking("bone_length_drift")[0]
    assert rows.clips == len(CLIPS)


SPACE_ROWS = {"truth": 0.0, "floor": 0.1, "teacher": 5.0}
CAPTION_ROWS = {"truth": 0.6, "floor": 0.05, "teacher": 0.3}
RANKED = {
    "a level": ("acceleration", {"truth": 4.0, "floor": 0.5, "teacher": 2.0}, {}, ""),
    "a level whose truth is not known": ("jitter", {"floor": 0.5, "teacher": 2.0}, {}, "the truth's own value"),
    "a column": ("motion_energy", {"truth": 1.0, "floor": 0.1, "teacher": 9.0}, {}, "shown only"),
    "a pair": ("heldout_mpjpe", {"teacher": 0.09}, {}, ""),
    "a pair without its teacher": ("heldout_mpjpe", {}, {}, "no calibration row"),
    "a pair that the teacher hits": ("heldout_mpjpe", {"teacher": 0.0}, {}, "under 2 times the floor"),
    "twice the floor": ("heldout_mpjpe", {"floor": 0.5, "teacher": 1.0}, {}, ""),
    "no number": ("heldout_mpjpe", {"teacher": math.nan}, {}, "under 2 times the floor"),
    "a share": ("heldout_pck_50", {"teacher": 0.8}, {}, ""),
    "a share that is whole": ("heldout_pck_50", {"teacher": 1.0}, {}, "under 2 times the floor"),
    "keypoints that are off": ("heldout_reprojection", {"floor": 0.2, "teacher": 0.3}, {}, "under 2 times the floor"),
    "keypoints that are nearly right": ("heldout_reprojection", {"floor": 0.1, "teacher": 0.3}, {}, ""),
    "a space": ("near/fid", SPACE_ROWS, {"distrust": {"other": "no"}}, ""),
    "a space near chance": (
        "near/fid",
        SPACE_ROWS,
        {"distrust": {"near": "its retrieval is near chance"}},
        "near chance",
    ),
    "captions": ("near/r_precision_1", CAPTION_ROWS, {"shuffled": {"near/r_precision_1": 0.1}}, ""),
    "any captions": (
        "near/r_precision_1",
        CAPTION_ROWS,
        {"shuffled": {"near/r_precision_1": 0.55}},
        "shuffled captions",
    ),
}
"""A metric, its rows, what else is known, and why it may not rank."""


@pytest.mark.parametrize("case", RANKED)
def test_a_metric_may_rank_where_it_sees_what_is_wrong_with_the_teacher(case: str) -> None:
    name, values, more, reason = RANKED[case]
    rows = {row: {name: values[row]} if row in values else {} for row in ("truth", "floor", "teacher", "static")}
    ranks, why = ReferenceRows(**rows, clips=10, **more).ranking(name)
    assert ranks == (not reason)
    assert reason in why


def test_a_level_is_wrong_on_both_sides_and_a_share_below_its_best() -> None:
    rows = ReferenceRows({"acceleration": 4.0}, {}, {}, {}, 10)
    assert rows.error("acceleration", 3.0) == rows.error("acceleration", 5.0) == 1.0
    assert rows.error("heldout_pck_50", 0.7) == pytest.approx(0.3)
    assert rows.error("heldout_mpjpe", 0.04) == 0.04
