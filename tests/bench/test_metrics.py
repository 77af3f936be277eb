"""Metrics without checkpoints, and those in the space of an evaluator, against plain forms of them."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from videomdm_ext.bench import metrics
from videomdm_ext.data.motions import load_motions
from videomdm_ext.errors import DatasetError
from videomdm_ext.geometry.rotations import rotate_yaw
from videomdm_ext.motion import measures
from videomdm_ext.motion.kinematics import bone_lengths
from videomdm_ext.motion.skeletons import NBA16, SMPL22

FPS = 20.0
MOTIONS = {motion.name: torch.from_numpy(motion.positions).double() for motion in load_motions()}
CLIPS = [clip[start : start + 20] for clip in MOTIONS.values() for start in range(0, len(clip) - 20, 20)]


def scipy_frechet(first: Tensor, second: Tensor) -> float:
    """The textbook formula with the square root of a matrix that is not symmetric."""
    a, b = first.numpy(), second.numpy()
    s, t = np.cov(a.T), np.cov(b.T)
    root = scipy.linalg.sqrtm(s @ t)
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s + t - 2 * np.real(root)))


def test_the_frechet_distance_is_that_of_scipys_matrix_root(generator: torch.Generator) -> None:
    mix = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    first = torch.randn(200, 6, generator=generator, dtype=torch.float64) @ mix
    second = torch.randn(300, 6, generator=generator, dtype=torch.float64) * 1.7 + 0.4
    found = metrics.frechet(*metrics.gaussian(first), *metrics.gaussian(second))
    assert found == pytest.approx(scipy_frechet(first, second), rel=1e-8)


def test_the_frechet_distance_is_symmetric_and_zero_for_equal_sets_of_low_rank(generator: torch.Generator) -> None:
    flat = torch.randn(50, 2, generator=generator) @ torch.randn(2, 8, generator=generator)
    moved = flat @ torch.randn(8, 8, generator=generator) + 1
    a, b = metrics.gaussian(flat), metrics.gaussian(moved)
    assert metrics.frechet(*a, *a) == pytest.approx(0, abs=1e-6)
    assert metrics.frechet(*a, *b) == pytest.approx(metrics.frechet(*b, *a), rel=1e-6)


def test_pose_features_have_three_numbers_a_bone_and_the_height() -> None:
    clip = MOTIONS["walk"]
    assert metrics.pose_features(clip, SMPL22).shape == (len(clip), 3 * 21 + 1)
    assert metrics.pose_features(torch.rand(5, 16, 3), NBA16).shape == (5, 3 * 15 + 1)
    torch.testing.assert_close(metrics.pose_features(clip, SMPL22)[:, -1], clip[:, 0, 1])


@pytest.mark.parametrize("features", [metrics.pose_features, metrics.kinematic_features])
def test_turning_and_moving_a_clip_over_the_floor_changes_no_feature(features) -> None:  # type: ignore[no-untyped-def]
    clip = MOTIONS["dance_a"]
    moved = rotate_yaw(clip, torch.tensor(2.1, dtype=torch.float64)) + torch.tensor((3.0, 0.0, -2.0))
    torch.testing.assert_close(features(moved, SMPL22), features(clip, SMPL22), rtol=0, atol=1e-9)


def test_a_person_who_walks_forward_steps_along_positive_z_whatever_the_heading() -> None:
    turned = rotate_yaw(MOTIONS["walk"], torch.tensor(-1.2, dtype=torch.float64))
    root_step = metrics.kinematic_features(turned, SMPL22)[:, 64:67].mean(0)
    assert root_step[2] > 0.03
    assert root_step[0].abs() < 0.2 * root_step[2]


def test_lifting_a_clip_is_seen_by_the_pose_distance_as_the_square_of_the_height() -> None:
    lifted = [clip + torch.tensor((0.0, 0.3, 0.0)) for clip in CLIPS]
    assert metrics.pose_frechet(lifted, CLIPS, SMPL22) == pytest.approx(100 * 0.09, rel=1e-6)


def test_both_groups_of_the_kinematic_distance_count_in_their_own_scale() -> None:
    quick = [clip[::2] for clip in CLIPS]
    assert metrics.pose_frechet(quick, CLIPS, SMPL22) < 0.1
    assert metrics.kinematic_frechet(quick, CLIPS, SMPL22) > 20
    scaled = [2 * clip for clip in CLIPS]
    assert metrics.kinematic_frechet(scaled, [2 * clip for clip in quick], SMPL22) == pytest.approx(
        metrics.kinematic_frechet(CLIPS, quick, SMPL22), rel=1e-6
    )


def test_a_set_scores_zero_distance_to_itself_and_its_own_levels() -> None:
    found = metrics.score(CLIPS, CLIPS, SMPL22, FPS)
    assert found["pose_frechet"] == pytest.approx(0, abs=1e-6)
    assert found["kinematic_frechet"] == pytest.approx(0, abs=1e-6)
    assert found["clips"] == len(CLIPS)
    assert found["bone_length"] == pytest.approx(0.2, abs=0.05)
    assert set(found) - {"clips"} <= set(metrics.METRICS)


def test_scores_do_not_depend_on_the_order_of_clips_and_a_clip_counts_once() -> None:
    short, long = MOTIONS["kick"][:6], MOTIONS["walk"]
    found = metrics.score([short, long], CLIPS, SMPL22, FPS)
    again = metrics.score([long, short], CLIPS, SMPL22, FPS)
    assert found == pytest.approx(again)
    parts = [metrics.mean_measures([clip], SMPL22, FPS)["acceleration"] for clip in (short, long)]
    assert found["acceleration"] == pytest.approx(sum(parts) / 2)


@pytest.mark.parametrize(
    ("clips", "found"), [([], "found none"), ([torch.zeros(3, 22, 3)], "[3, 22, 3]"), ([torch.zeros(9, 16, 3)], "16")]
)
def test_clips_that_cannot_be_scored_are_refused_by_number(clips: list[Tensor], found: str) -> None:
    with pytest.raises(DatasetError, match="samples") as error:
        metrics.score(clips, CLIPS, SMPL22, FPS)
    assert found in str(error.value)


def test_bone_length_error_is_the_rms_of_a_planted_stretch() -> None:
    stretched = [clip * 1.05 for clip in CLIPS]
    lengths = torch.cat([bone_lengths(clip, SMPL22) for clip in CLIPS]).double().mean(0)
    expected = 0.05 * lengths.square().mean().sqrt().item()
    assert metrics.bone_length_error(CLIPS, CLIPS, SMPL22) < 1e-4
    assert metrics.bone_length_error(stretched, CLIPS, SMPL22) == pytest.approx(expected, rel=1e-2)
    mixed = [clip * (1.05 if index % 2 else 0.95) for index, clip in enumerate(CLIPS)]
    assert metrics.bone_length_error(mixed, CLIPS, SMPL22) == pytest.approx(expected, rel=1e-2)


def test_measures_of_many_clips_are_those_of_each_alone_in_their_order() -> None:
    clips = [CLIPS[0], MOTIONS["walk"][:9], CLIPS[5], MOTIONS["kick"][:9], CLIPS[2]]
    found = metrics.every_clips_measures(clips, SMPL22, FPS)
    alone = [metrics.every_clips_measures([clip], SMPL22, FPS) for clip in clips]
    for name, values in found.items():
        assert values == pytest.approx([own[name][0] for own in alone], rel=1e-9, abs=1e-12), name
    assert found["floating"] == pytest.approx([measures.floating(clip).item() for clip in clips])


def test_the_kinematic_features_of_a_set_hold_no_step_from_a_clip_to_the_next() -> None:
    clips = [CLIPS[0], MOTIONS["walk"][:9], CLIPS[5]]
    slow = torch.cat([metrics.kinematic_features(clip, SMPL22) for clip in clips])
    torch.testing.assert_close(metrics.sets_kinematic_features(clips, SMPL22), slow, rtol=0, atol=1e-12)
    torch.testing.assert_close(metrics.sets_kinematic_features(clips[:1], SMPL22), slow[:19], rtol=0, atol=1e-12)


def test_a_metric_in_a_space_is_known_by_its_evaluator_and_its_kind() -> None:
    kinds = {name: metrics.by_name(f"text-motion/{name}").kind for name in metrics.SPACE_METRICS}
    assert kinds.pop("fid") == kinds.pop("normalised_fid") == "distance"
    columns = {name for name in kinds if name.startswith(("mdm_", "normalised_"))} | {"multimodality"}
    assert {name for name, kind in kinds.items() if kind == "column"} == columns
    assert set(kinds.values()) == {"level", "column"}
    assert metrics.by_name("text-motion/r_precision_3").label == "text-motion: R-precision top 3"
    assert metrics.by_name("text-motion/unheard_of").kind == metrics.by_name("fid").kind == "column"


SEEDS = st.integers(0, 10_000)


def drawn(count: int, width: int, seed: int) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labelled(count: int, different: int, seed: int) -> tuple[Tensor, Tensor, list[str]]:
    """-> motions near their captions' rows, those rows, and captions of which some are equal."""
    captions = [f"caption {index % different}" for index in range(count)]
    texts = drawn(different, 6, seed)[[index % different for index in range(count)]]
    return texts + 1.5 * drawn(count, 6, seed + 1), texts, captions


def plain_r_precision(motions: Tensor, texts: Tensor, captions: list[str], groups: list[Tensor]) -> list[float]:
    """The definition, with loops: the different captions of the group in the order of their distance."""
    tops = np.zeros(3)
    total = 0
    for group in groups:
        rows = {captions[i]: texts[i].numpy() for i in group.tolist()}
        for i in group.tolist():
            order = sorted(rows, key=lambda text, i=i: float(np.sqrt(((motions[i].numpy() - rows[text]) ** 2).sum())))
            tops += [captions[i] in order[:k] for k in (1, 2, 3)]
            total += 1
    return list(tops / total)


@given(seed=SEEDS, count=st.integers(2, 70), different=st.integers(1, 40))
def test_r_precision_is_that_of_a_plain_sort(seed: int, count: int, different: int) -> None:
    motions, texts, captions = labelled(count, different, seed)
    groups = metrics.seeded_groups(count, seed)
    found = metrics.r_precision(motions, texts, captions, groups)
    assert found == pytest.approx(plain_r_precision(motions, texts, captions, groups))
    assert found == sorted(found)


def test_an_equal_caption_of_another_clip_is_no_false_negative() -> None:
    motions = torch.tensor([[0.0], [0.1], [0.2], [9.0]])
    texts = torch.tensor([[0.05], [0.05], [0.05], [9.0]])
    assert metrics.r_precision(motions, texts, ["walk", "walk", "walk", "run"], [torch.arange(4)])[0] == 1.0
    apart = metrics.r_precision(motions, texts, ["walk", "stroll", "amble", "run"], [torch.arange(4)])
    assert apart == pytest.approx([(3 / 3 + 1) / 4, (3 * 2 / 3 + 1) / 4, 1.0])


@given(count=st.integers(1, 32))
def test_a_space_that_tells_nothing_apart_scores_chance(count: int) -> None:
    same = torch.ones(count, 4)
    found = metrics.r_precision(same, same, [f"{index:02d}" for index in range(count)], [torch.arange(count)])
    assert found == pytest.approx([min(1.0, top / count) for top in (1, 2, 3)])


def test_ties_at_the_edge_are_the_mean_over_all_orders() -> None:
    """Caption c has one nearer and one equally near: first in none, second in half, third in all orders."""
    texts = torch.tensor([[0.5], [1.0], [-1.0]])
    assert metrics.hits(torch.zeros(1, 1), texts, torch.tensor([2])).tolist() == [[0.0, 0.5, 1.0]]


@given(count=st.integers(1, 200), seed=SEEDS)
def test_groups_are_disjoint_of_one_size_and_fixed_by_the_seed(count: int, seed: int) -> None:
    groups = metrics.seeded_groups(count, seed)
    members = torch.cat(groups).tolist()
    assert len(set(members)) == len(members)
    assert set(members) <= set(range(count))
    assert {len(group) for group in groups} == ({32} if count >= 32 else {count})
    assert len(members) == (count // 32 * 32 or count)
    assert [group.tolist() for group in groups] == [g.tolist() for g in metrics.seeded_groups(count, seed)]


def test_groups_are_random_and_what_is_left_out_is_said() -> None:
    assert metrics.seeded_groups(64, 0)[0].tolist() != metrics.seeded_groups(64, 1)[0].tolist()
    assert metrics.describe_groups(67) == "2 groups of 32, 3 of 67 clips left out"
    assert metrics.describe_groups(32) == "1 group of 32"
    assert metrics.describe_groups(20) == "one group of 20, as there are fewer than 32 clips"


@given(seed=SEEDS)
def test_mm_distance_is_the_mean_distance_of_pairs(seed: int) -> None:
    motions, texts = drawn(9, 5, seed), drawn(9, 5, seed + 1)
    plain = [math.dist(a.tolist(), b.tolist()) for a, b in zip(motions, texts, strict=True)]
    assert metrics.mm_distances(motions, texts).tolist() == pytest.approx(plain)


@given(seed=SEEDS, count=st.integers(2, 40))
def test_diversity_is_the_mean_over_the_seeds_pairs(seed: int, count: int) -> None:
    rows = drawn(count, 4, seed)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(5)).tolist()
    pairs = [math.dist(rows[order[i]].tolist(), rows[order[i - 1]].tolist()) for i in range(1, count)]
    pairs.append(math.dist(rows[order[-1]].tolist(), rows[order[0]].tolist()))
    drawn_pairs = metrics.seeded_pairs(count, 5)
    assert metrics.diversity(rows, drawn_pairs) == pytest.approx(sum(pairs) / count)
    assert metrics.diversity(3 * rows + 1, drawn_pairs) == pytest.approx(3 * metrics.diversity(rows, drawn_pairs))


def test_diversity_takes_as_many_pairs_as_allowed_and_estimates_that_of_all() -> None:
    rows = drawn(1000, 8, 0)
    apart = metrics.distances(rows, rows)
    everyone = apart.sum().item() / (1000 * 999)
    assert metrics.diversity(rows, metrics.seeded_pairs(1000, 0)) == pytest.approx(everyone, rel=0.05)
    few, more = (metrics.diversity(rows, metrics.seeded_pairs(1000, 0, pairs=count)) for count in (10, 11))
    assert few != more
    assert metrics.diversity(torch.eye(7), metrics.seeded_pairs(7, 3)) == pytest.approx(math.sqrt(2))


@given(seed=SEEDS, count=st.integers(2, 5))
def test_multimodality_is_the_mean_over_replications_of_each_caption(seed: int, count: int) -> None:
    rows = drawn(count * 6, 3, seed).view(count, 6, 3)
    plain = [
        math.dist(rows[first, caption].tolist(), rows[second, caption].tolist())
        for caption in range(6)
        for first in range(count)
        for second in range(first)
    ]
    assert metrics.multimodality(rows) == pytest.approx(sum(plain) / len(plain))
    assert metrics.multimodality(rows[:1].expand(count, -1, -1)) == 0


def scored(samples: Tensor, reference: Tensor, neighbours: int) -> tuple[float, float]:
    apart = metrics.distances(samples, reference)
    return metrics.precision_and_recall(apart, metrics.radii(samples, neighbours), metrics.radii(reference, neighbours))


def plain_precision(samples: Tensor, reference: Tensor, neighbours: int) -> float:
    """With loops: a sample counts where some reference row's k-th neighbour is farther from it than the sample."""
    inside = 0
    rows = reference.tolist()
    for sample in samples.tolist():
        inside += any(
            math.dist(sample, row) < sorted(math.dist(row, other) for other in rows)[neighbours] for row in rows
        )
    return inside / len(samples)


@given(seed=SEEDS, neighbours=st.sampled_from([1, 3, 5]), spread=st.floats(0.3, 3.0))
def test_precision_and_recall_are_those_of_plain_loops(seed: int, neighbours: int, spread: float) -> None:
    samples, reference = spread * drawn(14, 3, seed), drawn(11, 3, seed + 1)
    found = scored(samples, reference, neighbours)
    assert found[0] == pytest.approx(plain_precision(samples, reference, neighbours))
    assert found[1] == pytest.approx(plain_precision(reference, samples, neighbours))


def test_samples_without_variety_have_precision_and_no_recall() -> None:
    reference = drawn(50, 2, 0)
    one = reference[:1].expand(50, -1) + 1e-3
    assert scored(one, reference, 3) == (1.0, 0.0)
    assert scored(reference + 100, reference, 3) == (0.0, 0.0)
    assert scored(reference, reference, 3) == (1.0, 1.0)


def test_of_few_rows_the_ball_reaches_to_the_farthest() -> None:
    assert metrics.radii(torch.tensor([[0.0], [1.0], [5.0]]), 3).tolist() == [5.0, 4.0, 5.0]
