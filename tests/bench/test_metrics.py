"""Fréchet distances against SciPy's square root, and features that no turn or walk changes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import torch
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


def test_the_frechet_distance_of_lines_is_known_in_closed_form() -> None:
    mean = torch.tensor([1.0])
    assert metrics.frechet(mean, torch.tensor([[4.0]]), mean + 3, torch.tensor([[25.0]])) == pytest.approx(9 + 9)


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


def test_samples_that_are_not_finite_score_nan_in_everything() -> None:
    broken = [*CLIPS[1:], torch.full_like(CLIPS[0], math.inf)]
    found = metrics.score(broken, CLIPS, SMPL22, FPS)
    assert all(math.isnan(value) for name, value in found.items() if name != "clips")


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
    slow = {
        "acceleration": lambda clip: measures.acceleration(clip, FPS),
        "jitter": lambda clip: measures.jitter(clip, FPS),
        "foot_skating": lambda clip: measures.foot_skating(clip, SMPL22, FPS),
        "floating": measures.floating,
        "penetration": measures.penetration,
        "bone_length": lambda clip: measures.mean_bone_length(clip, SMPL22),
        "bone_length_drift": lambda clip: measures.bone_length_drift(clip, SMPL22),
        "motion_energy": lambda clip: measures.motion_energy(clip, FPS),
    }
    assert set(found) == set(slow)
    for name, measure in slow.items():
        assert found[name] == pytest.approx([measure(clip).item() for clip in clips], rel=1e-9, abs=1e-12), name


def test_the_kinematic_features_of_a_set_hold_no_step_from_a_clip_to_the_next() -> None:
    clips = [CLIPS[0], MOTIONS["walk"][:9], CLIPS[5]]
    slow = torch.cat([metrics.kinematic_features(clip, SMPL22) for clip in clips])
    torch.testing.assert_close(metrics.sets_kinematic_features(clips, SMPL22), slow, rtol=0, atol=1e-12)
    torch.testing.assert_close(metrics.sets_kinematic_features(clips[:1], SMPL22), slow[:19], rtol=0, atol=1e-12)


def test_a_metric_in_a_space_is_known_by_its_evaluator_and_its_kind() -> None:
    kinds = {name: metrics.by_name(f"text-motion/{name}").kind for name in metrics.SPACE_METRICS}
    assert kinds.pop("fid") == "distance"
    assert kinds.pop("multimodality") == "column"
    assert set(kinds.values()) == {"level"}
    assert metrics.by_name("text-motion/r_precision_3").label == "text-motion: R-precision top 3"
    assert metrics.by_name("text-motion/unheard_of").kind == metrics.by_name("fid").kind == "column"
