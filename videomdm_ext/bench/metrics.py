"""Scores of samples against true motion, without checkpoints, and scores in the space of one evaluator.

A clip is positions [T, J, 3] in metres, y up, without padding. A set of clips is a list of them. A Fréchet distance
falls with the number of frames on either side, so only sets of equal size are to be compared.

R-precision ranks a motion's own caption among others by distance (Euclidean, float64). Captions of equal text are one
entry, so an equal caption of another clip is never a false negative; where distances tie, the value is the mean over
all orders of the tied ones. So it depends on the order of clips only through the seeded groups.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from videomdm_ext.errors import DatasetError
from videomdm_ext.geometry.rotations import rotate_yaw
from videomdm_ext.motion import measures
from videomdm_ext.motion.kinematics import bone_lengths, heading
from videomdm_ext.motion.skeletons import Skeleton

Clips = Sequence[Tensor]

MIN_FRAMES = 4
"""Jitter takes three differences."""


@dataclass(frozen=True)
class Metric:
    """A score: what it is called, its unit (shown times `scale`), and what makes it good.

    `distance` is best at 0 and has a floor above it; `paired` is best at `best`, which the truth reaches; `level` is
    best at the truth's own value; `column` is shown and never ranks.
    """

    name: str
    label: str
    unit: str
    kind: Literal["distance", "paired", "level", "column"]
    scale: float = 1.0
    best: float = 0.0

    def error(self, value: float, truth: float) -> float:
        """How far a score is from the best one."""
        return abs(value - (truth if self.kind == "level" else self.best))


METRICS = {
    metric.name: metric
    for metric in (
        Metric("pose_frechet", "pose Fréchet distance", "10⁻² m²", "distance"),
        Metric("own_pose_frechet", "pose Fréchet distance to the arm's own training data", "10⁻² m²", "column"),
        Metric("data_pose_frechet", "pose Fréchet distance of that training data to the truth", "10⁻² m²", "column"),
        Metric("kinematic_frechet", "kinematic Fréchet distance", "", "distance"),
        Metric("mpjpe", "MPJPE", "mm", "paired", 1e3),
        Metric("root_aligned_mpjpe", "root-aligned MPJPE", "mm", "paired", 1e3),
        Metric("pa_mpjpe", "PA-MPJPE", "mm", "paired", 1e3),
        Metric("heldout_mpjpe", "MPJPE of denoised held-out clips, root-aligned", "mm", "paired", 1e3),
        Metric("heldout_pa_mpjpe", "PA-MPJPE of denoised held-out clips", "mm", "paired", 1e3),
        Metric("heldout_depth_error", "their error along the ray, root-aligned", "mm", "paired", 1e3),
        Metric("heldout_image_error", "their error across the ray, root-aligned", "mm", "paired", 1e3),
        Metric("heldout_pck_50", "PCK@50 mm of denoised held-out clips, root-aligned", "%", "paired", 1e2, best=1.0),
        Metric("heldout_pck_100", "PCK@100 mm of denoised held-out clips, root-aligned", "%", "paired", 1e2, best=1.0),
        Metric("heldout_acceleration_error", "acceleration error of denoised held-out clips", "m/s²", "paired"),
        Metric("heldout_reprojection", "reprojection error of denoised held-out clips", "10⁻³ f", "paired", 1e3),
        Metric(
            "heldout_other_view", "their reprojection error in another view, roots made one", "10⁻³ f", "paired", 1e3
        ),
        Metric("acceleration_error", "acceleration error", "m/s²", "paired"),
        Metric("acceleration", "acceleration", "m/s²", "level"),
        Metric("jitter", "jitter", "m/s³", "level"),
        Metric("bone_length_error", "bone-length error", "mm", "distance", 1e3),
        Metric("bone_length", "mean bone length", "mm", "column", 1e3),
        Metric("bone_length_drift", "bone-length drift", "mm", "level", 1e3),
        Metric("foot_skating", "foot skating", "mm/s", "level", 1e3),
        Metric("floating", "floating", "mm", "level", 1e3),
        Metric("penetration", "penetration", "mm", "level", 1e3),
        Metric("motion_energy", "motion energy", "m²/s²", "column"),
    )
}
SPACE_METRICS: Mapping[str, tuple[str, Literal["distance", "level", "column"]]] = {
    "fid": ("FID", "distance"),
    **{f"r_precision_{top}": (f"R-precision top {top}", "level") for top in (1, 2, 3)},
    **{f"r_precision_gallery_{top}": (f"R-precision top {top}, full gallery", "level") for top in (1, 2, 3)},
    "mm_dist": ("MM-dist", "level"),
    "diversity": ("diversity", "level"),
    "multimodality": ("multimodality", "column"),
    "precision": ("precision", "level"),
    "recall": ("recall", "level"),
    **{f"mdm_r_precision_{top}": (f"R-precision top {top}, as MDM's program ranks", "column") for top in (1, 2, 3)},
    "normalised_fid": ("FID, L2-normalised", "distance"),
    **{f"normalised_r_precision_{top}": (f"R-precision top {top}, L2-normalised", "column") for top in (1, 2, 3)},
    "normalised_mm_dist": ("MM-dist, L2-normalised", "column"),
    "normalised_diversity": ("diversity, L2-normalised", "column"),
    "normalised_multimodality": ("multimodality, L2-normalised", "column"),
}
"""Label and kind of what is scored in the space of an evaluator, as "EVALUATOR/METRIC"."""


def by_name(name: str) -> Metric:
    """The metric of that name, "EVALUATOR/METRIC" in a space; one that is not known is a column that never ranks."""
    evaluator, _, scored = name.rpartition("/")
    if evaluator and scored in SPACE_METRICS:
        label, kind = SPACE_METRICS[scored]
        return Metric(name, f"{evaluator}: {label}", "", kind)
    return METRICS.get(name) or Metric(name, name.replace("_", " "), "", "column")


def gaussian(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [D] and covariance [D, D] of features [N, D], N > 1, in float64."""
    features = features.double()
    return features.mean(0), torch.cov(features.T).reshape(features.shape[1], features.shape[1])


def frechet(mean: Tensor, covariance: Tensor, other_mean: Tensor, other_covariance: Tensor) -> float:
    """d² = |m1 - m2|² + tr(S1 + S2 - 2 (S1^½ S2 S1^½)^½), by symmetric eigenvalues; covariances may be singular."""
    values, vectors = torch.linalg.eigh(covariance)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ other_covariance @ root).clamp_min(0).sqrt().sum()
    distance = (mean - other_mean).square().sum() + covariance.trace() + other_covariance.trace() - 2 * cross
    return distance.clamp_min(0).item()


def pose_features(positions: Tensor, skeleton: Skeleton) -> Tensor:
    """Joints relative to the root, turned to face +z, and the root's height. [..., J, 3] -> [N, 3 (J - 1) + 1], m."""
    frames = positions.reshape(-1, skeleton.num_joints, 3).double()
    local = rotate_yaw(frames[:, 1:] - frames[:, :1], -heading(frames, skeleton).unsqueeze(-1))
    return torch.cat((local.flatten(1), frames[:, 0, 1:2]), 1)


def kinematic_features(positions: Tensor, skeleton: Skeleton) -> Tensor:
    """Pose and the step of every joint to the next frame, as seen by the person. [T, J, 3] -> [T - 1, 6 J - 2], m."""
    frames = positions.double()
    step = rotate_yaw(frames.diff(dim=0), -heading(frames[:-1], skeleton).unsqueeze(-1))
    return torch.cat((pose_features(frames[:-1], skeleton), step.flatten(1)), 1)


def sets_kinematic_features(clips: Clips, skeleton: Skeleton) -> Tensor:
    """The kinematic features of all clips, one behind the other, without the steps from a clip to the next."""
    features = kinematic_features(torch.cat(list(clips)), skeleton)
    inside = torch.ones(len(features), dtype=torch.bool)
    inside[torch.tensor([len(clip) for clip in clips]).cumsum(0)[:-1] - 1] = False
    return features[inside]


def pose_frechet(samples: Clips, reference: Clips, skeleton: Skeleton) -> float:
    """Fréchet distance of the poses of all frames, m² times 100."""
    sets = (pose_features(torch.cat(list(clips)), skeleton) for clips in (samples, reference))
    first, second = (gaussian(features) for features in sets)
    return 100 * frechet(*first, *second)


def kinematic_frechet(samples: Clips, reference: Clips, skeleton: Skeleton) -> float:
    """Fréchet distance of poses with steps, each of the two groups divided by its standard deviation in `reference`."""
    first, second = (sets_kinematic_features(clips, skeleton) for clips in (samples, reference))
    width = 3 * skeleton.num_joints - 2
    scale = second.std(0, correction=0).square()
    scale = torch.cat([part.mean().sqrt().clamp_min(1e-6).expand_as(part) for part in (scale[:width], scale[width:])])
    return frechet(*gaussian(first / scale), *gaussian(second / scale))


def bone_length_error(samples: Clips, reference: Clips, skeleton: Skeleton) -> float:
    """Root mean square over frames and bones of the difference to the reference's mean length of that bone, m.

    For sets whose people have one size, as HumanML3D's. A mean length alone would let bones that are too long here
    and too short there, or a teacher's stretched bones and an unfinished training's shrunk ones, make up for another.
    """
    true = bone_lengths(torch.cat(list(reference)).double(), skeleton).mean(0)
    made = bone_lengths(torch.cat(list(samples)).double(), skeleton)
    return (made - true).square().mean().sqrt().item()


DISTANCES = {
    "pose_frechet": pose_frechet, "kinematic_frechet": kinematic_frechet, "bone_length_error": bone_length_error,
}  # fmt: skip
"""Scores of a set against the reference as a whole."""


def every_clips_measures(clips: Clips, skeleton: Skeleton, fps: float) -> dict[str, list[float]]:
    """The kinematic measures, by name, one value a clip in the order of the clips; equal lengths go together."""
    by_length: dict[int, list[int]] = {}
    for index, clip in enumerate(clips):
        by_length.setdefault(len(clip), []).append(index)
    found: dict[str, Tensor] = {}
    for members in by_length.values():
        stacked = torch.stack([clips[index] for index in members]).double()
        measured = {
            "acceleration": measures.acceleration(stacked, fps),
            "jitter": measures.jitter(stacked, fps),
            "foot_skating": measures.foot_skating(stacked, skeleton, fps),
            "floating": measures.floating(stacked),
            "penetration": measures.penetration(stacked),
            "bone_length": measures.mean_bone_length(stacked, skeleton),
            "bone_length_drift": measures.bone_length_drift(stacked, skeleton),
            "motion_energy": measures.motion_energy(stacked, fps),
        }
        for name, values in measured.items():
            found.setdefault(name, values.new_empty(len(clips)))[members] = values
    return {name: values.tolist() for name, values in found.items()}


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def mean_measures(clips: Clips, skeleton: Skeleton, fps: float) -> dict[str, float]:
    """Mean over clips, each counting once; NaN where a coordinate is not finite."""
    finite, measured = is_finite(clips), every_clips_measures(clips, skeleton, fps)
    return {name: mean(values) if finite else math.nan for name, values in measured.items()}


def score(samples: Clips, reference: Clips, skeleton: Skeleton, fps: float) -> dict[str, float]:
    """All scores of samples against true clips, and "clips", their number; samples that are not finite score NaN."""
    check_clips(samples, skeleton, "samples")
    check_clips(reference, skeleton, "reference")
    finite = is_finite(samples)
    found = {name: of(samples, reference, skeleton) if finite else math.nan for name, of in DISTANCES.items()}
    return {**found, **mean_measures(samples, skeleton, fps), "clips": float(len(samples))}


def is_finite(clips: Clips) -> bool:
    """Whether every coordinate is."""
    return all(bool(clip.isfinite().all()) for clip in clips)


def check_clips(clips: Clips, skeleton: Skeleton, what: str) -> None:
    """DatasetError unless there are clips and each has the skeleton's joints and enough frames."""
    if not clips:
        raise DatasetError(f"{what}: expected clips to score, found none. Sample at least one.")
    for number, clip in enumerate(clips):
        if clip.ndim != 3 or clip.shape[0] < MIN_FRAMES or clip.shape[1:] != (skeleton.num_joints, 3):
            raise DatasetError(
                f"{what}, clip {number}: expected positions [T, {skeleton.num_joints}, 3] with T >= {MIN_FRAMES}, "
                f"found {list(clip.shape)}. Cut padding, and leave out clips that are shorter."
            )


# -- in the space of one evaluator: motions [N, D] and captions --------------------------------------------------------

GROUP = 32
"""Motions of a group of R-precision."""
TOPS = (1, 2, 3)
NEIGHBOURS = 3
"""The ball around each clip reaches to its k-th neighbour."""
PAIRS = 300
"""Most pairs of clips that the diversity is taken over."""


def distances(first: Tensor, second: Tensor) -> Tensor:
    """[..., N, D] and [..., M, D] -> [..., N, M]; equal rows give equal distances to the last bit."""
    return torch.cdist(first.double(), second.double(), compute_mode="donot_use_mm_for_euclid_dist")


def seeded_groups(count: int, seed: int) -> list[Tensor]:
    """Disjoint random groups of GROUP of `count` clips, without the rest; one group of all where there are fewer."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    whole = count // GROUP * GROUP
    return list(order[:whole].split(GROUP)) if whole else [order]


def describe_groups(count: int) -> str:
    """What `seeded_groups` does with that many clips, for a report."""
    if count < GROUP:
        return f"one group of {count}, as there are fewer than {GROUP} clips"
    groups, rest = divmod(count, GROUP)
    left_out = f", {rest} of {count} clips left out" if rest else ""
    return f"{groups} group{'s' if groups > 1 else ''} of {GROUP}{left_out}"


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


def r_precision_of_mdm(motions: Tensor, texts: Tensor, groups: Sequence[Tensor]) -> list[float]:
    """Top 1, 2, 3 as MDM's program has it: for each caption, whether its own motion is among the nearest of the group.

    Captions of equal text stay apart, each with its own motion. Motions and their captions' rows [N, D] each.
    """
    found = [hits(texts[group], motions[group], torch.arange(len(group))) for group in groups]
    top: list[float] = torch.cat(found).mean(0).tolist()
    return top


def mm_distances(motions: Tensor, texts: Tensor) -> Tensor:
    """Distance of each motion to its own caption: [N, D] and [N, D] -> [N]; MM-dist is their mean."""
    return torch.linalg.vector_norm(motions.double() - texts.double(), dim=-1)


def seeded_pairs(count: int, seed: int, pairs: int = PAIRS) -> tuple[Tensor, Tensor]:
    """Both sides [P] of seeded pairs of different clips; every clip is in two pairs, or as many as `pairs` allow."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return order[:pairs], order.roll(-1)[:pairs]


def diversity(motions: Tensor, pairs: tuple[Tensor, Tensor]) -> float:
    """Mean distance of pairs of clips: motions [N, D] and the numbers [P] of either side."""
    return mm_distances(motions[pairs[0]], motions[pairs[1]]).mean().item()


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
