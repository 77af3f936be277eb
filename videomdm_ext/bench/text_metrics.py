"""Scores of motions [N, D] and captions in the space of one evaluator. Distances are Euclidean, in float64.

R-precision asks of each motion where its own caption stands among others when they are ordered by distance. Captions of
equal text are one entry, so an equal caption of another clip is never a false negative; where distances tie, the value
is the mean over all orders of the tied ones. So it depends on the order of clips only through the seeded groups.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

GROUP = 32
"""Motions of a group, whose captions are told apart."""
TOPS = (1, 2, 3)
NEIGHBOURS = 3
"""The ball around each clip reaches to its k-th neighbour."""
PAIRS = 300
"""Most pairs of clips that the diversity is taken over."""


def distances(first: Tensor, second: Tensor) -> Tensor:
    """[..., N, D] and [..., M, D] -> [..., N, M]; equal rows give equal distances to the last bit."""
    return torch.cdist(first.double(), second.double(), compute_mode="donot_use_mm_for_euclid_dist")


def seeded_groups(count: int, seed: int, size: int = GROUP) -> list[Tensor]:
    """Disjoint random groups of `size` of `count` clips, without the rest; one group of all where there are fewer."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    whole = count // size * size
    return list(order[:whole].split(size)) if whole else [order]


def describe_groups(count: int, size: int = GROUP) -> str:
    """What `seeded_groups` does with that many clips, for a report."""
    if count < size:
        return f"one group of {count}, as there are fewer than {size} clips"
    groups, rest = divmod(count, size)
    left_out = f", {rest} of {count} clips left out" if rest else ""
    return f"{groups} group{'s' if groups > 1 else ''} of {size}{left_out}"


def distinct(captions: Sequence[str]) -> tuple[list[str], Tensor]:
    """The captions of different text in sorted order, and the place [N] of each caption among them."""
    texts = sorted(set(captions))
    place = {text: index for index, text in enumerate(texts)}
    return texts, torch.tensor([place[caption] for caption in captions], dtype=torch.long)


def hits(motions: Tensor, texts: Tensor, own: Tensor) -> Tensor:
    """Share of orders in which a motion's own caption is among the nearest 1, 2, 3.

    Motions [N, D], different captions [M, D], own [N] the place of each motion's caption among them. -> [N, 3].
    """
    apart = distances(motions, texts)
    reach = apart.gather(1, own.unsqueeze(1))
    nearer = (apart < reach).sum(1, keepdim=True)
    level = (apart == reach).sum(1, keepdim=True)
    return ((torch.tensor(TOPS) - nearer) / level.double()).clamp(0.0, 1.0)


def r_precision(motions: Tensor, texts: Tensor, captions: Sequence[str], groups: Sequence[Tensor]) -> list[float]:
    """Top 1, 2, 3: mean over the motions of all groups. Motions and their captions' rows [N, D] each."""
    found = []
    for group in groups:
        different, own = distinct([captions[index] for index in group.tolist()])
        first = [int((own == place).nonzero()[0]) for place in range(len(different))]
        found.append(hits(motions[group], texts[group][first], own))
    top: list[float] = torch.cat(found).mean(0).tolist()
    return top


def mm_distances(motions: Tensor, texts: Tensor) -> Tensor:
    """Distance of each motion to its own caption: [N, D] and [N, D] -> [N]; MM-dist is their mean."""
    return torch.linalg.vector_norm(motions.double() - texts.double(), dim=-1)


def diversity(motions: Tensor, seed: int, pairs: int = PAIRS) -> float:
    """Mean distance of seeded pairs of different clips; every clip is in two pairs, or as many as `pairs` allow."""
    order = torch.randperm(len(motions), generator=torch.Generator().manual_seed(seed))
    chosen = motions.double()[order]
    return torch.linalg.vector_norm(chosen - chosen.roll(-1, 0), dim=-1)[:pairs].mean().item()


def multimodality(motions: Tensor) -> float:
    """Mean distance of any two of R > 1 replications of a caption, mean over captions. [R, N, D] -> one number."""
    count = len(motions)
    apart = distances(motions.transpose(0, 1), motions.transpose(0, 1))
    return (apart.sum((-1, -2)) / (count * (count - 1))).mean().item()


def radii(rows: Tensor, neighbours: int = NEIGHBOURS) -> Tensor:
    """Distance of each row to its k-th nearest other one, or to the farthest where there are fewer. [N, D] -> [N]."""
    return distances(rows, rows).kthvalue(min(neighbours + 1, len(rows)), 1).values


def precision_and_recall(apart: Tensor, sample_radii: Tensor, reference_radii: Tensor) -> tuple[float, float]:
    """Share of samples in a ball about any reference row, and of reference rows in one about any sample.

    From distances [N, M] of samples to reference and the `radii` of both (Kynkäänniemi et al. 2019); edges are out.
    """
    covered = (apart < reference_radii).any(1), (apart < sample_radii.unsqueeze(1)).any(0)
    return covered[0].double().mean().item(), covered[1].double().mean().item()
