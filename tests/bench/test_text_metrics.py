"""Scores in a space of motions and captions against plain NumPy, prdc where it is there, and laws of ties and order."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from videomdm_ext.bench import metrics

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


def test_a_motion_looks_for_its_caption_and_not_the_other_way_round() -> None:
    """The motion "b" is nearer to the caption "a": it fails; both captions are nearest to their own motions."""
    motions, texts = torch.tensor([[0.0], [0.9]]), torch.tensor([[0.0], [3.0]])
    everyone = [torch.arange(2)]
    assert metrics.r_precision(motions, texts, ["a", "b"], everyone) == [0.5, 1.0, 1.0]
    assert metrics.distances(texts, motions).argmin(1).tolist() == [0, 1]


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


@given(seed=SEEDS)
def test_the_order_of_clips_matters_only_through_the_groups(seed: int) -> None:
    motions, texts, captions = labelled(70, 50, seed)
    order = torch.randperm(70, generator=torch.Generator().manual_seed(seed))
    groups = metrics.seeded_groups(70, 3)
    moved = [torch.argsort(order)[group] for group in groups]
    shuffled = motions[order], texts[order], [captions[i] for i in order.tolist()]
    assert metrics.r_precision(*shuffled, moved) == pytest.approx(
        metrics.r_precision(motions, texts, captions, groups), abs=1e-12
    )


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
    assert metrics.diversity(rows, 5) == pytest.approx(sum(pairs) / count)
    assert metrics.diversity(3 * rows + 1, 5) == pytest.approx(3 * metrics.diversity(rows, 5))


def test_diversity_takes_as_many_pairs_as_allowed_and_estimates_that_of_all() -> None:
    rows = drawn(1000, 8, 0)
    apart = metrics.distances(rows, rows)
    everyone = apart.sum().item() / (1000 * 999)
    assert metrics.diversity(rows, 0) == pytest.approx(everyone, rel=0.05)
    assert metrics.diversity(rows, 0, pairs=10) != metrics.diversity(rows, 0, pairs=11)
    assert metrics.diversity(torch.eye(7), 3) == pytest.approx(math.sqrt(2))


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


def test_precision_and_recall_are_those_of_prdc() -> None:
    prdc = pytest.importorskip("prdc", reason="prdc is not installed: pip install -e '.[bench]' -c constraints.txt")
    samples, reference = 1.4 * drawn(80, 5, 0), drawn(60, 5, 1)
    for neighbours in (3, 5):
        theirs = prdc.compute_prdc(reference.numpy(), samples.numpy(), neighbours)
        found = scored(samples, reference, neighbours)
        assert found == pytest.approx((theirs["precision"], theirs["recall"]))
        assert 0.1 < found[0] < found[1]


def test_samples_without_variety_have_precision_and_no_recall() -> None:
    reference = drawn(50, 2, 0)
    one = reference[:1].expand(50, -1) + 1e-3
    assert scored(one, reference, 3) == (1.0, 0.0)
    assert scored(reference + 100, reference, 3) == (0.0, 0.0)
    assert scored(reference, reference, 3) == (1.0, 1.0)


def test_of_few_rows_the_ball_reaches_to_the_farthest() -> None:
    assert metrics.radii(torch.tensor([[0.0], [1.0], [5.0]]), 3).tolist() == [5.0, 4.0, 5.0]


def test_the_frechet_distance_is_that_of_torch_fidelity() -> None:
    fidelity = pytest.importorskip("torch_fidelity.metric_fid", reason="torch-fidelity is not installed")
    sets = [drawn(90, 7, 0), 1.5 * drawn(70, 7, 1) + 0.3]
    theirs = fidelity.fid_statistics_to_metric(
        *[{"mu": rows.numpy().mean(0), "sigma": np.cov(rows.numpy().T)} for rows in sets], verbose=False
    )["frechet_inception_distance"]
    assert metrics.frechet(*metrics.gaussian(sets[0]), *metrics.gaussian(sets[1])) == pytest.approx(theirs, rel=1e-6)
