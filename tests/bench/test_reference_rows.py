"""What the rows that are not arms say: floors, ceilings, and which metrics may rank."""

import math

import pytest
import torch
from torch import Tensor

from videomdm_ext.bench import metrics
from videomdm_ext.bench.reference import ReferenceRows, score_reference_rows, separates, split_half, static_pose
from videomdm_ext.data.motions import load_motions
from videomdm_ext.motion.skeletons import SMPL22

FPS = 20.0
MOTIONS = {motion.name: torch.from_numpy(motion.positions).double() for motion in load_motions()}
CLIPS = [clip[start : start + 20] for clip in MOTIONS.values() for start in range(0, len(clip) - 20, 20)]


def noisy(clips: list[Tensor], size: float, seed: int = 0) -> list[Tensor]:
    """-> the clips with joints moved by a constant error each and a little jitter."""
    generator = torch.Generator().manual_seed(seed)
    constant = [size * torch.randn(1, 22, 3, generator=generator, dtype=torch.float64) for _ in clips]
    return [
        clip + error + 0.1 * size * torch.randn(clip.shape, generator=generator, dtype=torch.float64)
        for clip, error in zip(clips, constant, strict=True)
    ]


def test_the_static_pose_does_not_move_and_is_the_ceiling_of_the_distances() -> None:
    still = static_pose(CLIPS, SMPL22)
    found = metrics.score(still, CLIPS, SMPL22, FPS)
    assert [len(clip) for clip in still] == [len(clip) for clip in CLIPS]
    assert found["motion_energy"] == pytest.approx(0, abs=1e-12)
    spread = torch.cat([metrics.pose_features(clip, SMPL22) for clip in CLIPS]).var(0).sum()
    assert found["pose_frechet"] == pytest.approx(100 * spread.item(), rel=0.01)


def test_calibration_is_the_same_for_the_same_seed_and_lets_a_wrong_teacher_be_seen() -> None:
    teacher = noisy(CLIPS, 0.15)
    first = score_reference_rows(CLIPS, teacher, SMPL22, FPS, seed=3)
    assert first == score_reference_rows(CLIPS, teacher, SMPL22, FPS, seed=3)
    assert first.floor != score_reference_rows(CLIPS, teacher, SMPL22, FPS, seed=4).floor
    assert first.ranking("acceleration")[0]
    assert first.ranking("bone_length_drift")[0]
    assert first.clips == len(CLIPS)


def test_no_metric_may_rank_where_the_teacher_is_the_truth() -> None:
    reference_rows = score_reference_rows(CLIPS, CLIPS, SMPL22, FPS)
    assert not any(reference_rows.ranking(name)[0] for name in metrics.METRICS)


def test_a_metric_may_rank_from_twice_the_floor_and_never_without_an_error() -> None:
    assert separates(2.0, 1.0)
    assert not separates(1.9, 1.0)
    assert separates(0.1, 0.0)
    assert not separates(0.0, 0.0)
    assert not separates(math.nan, 1.0)


def test_a_level_is_wrong_on_both_sides_and_motion_energy_never_ranks() -> None:
    reference_rows = ReferenceRows({"acceleration": 4.0}, {"acceleration": 0.5}, {"acceleration": 2.0}, {}, 10)
    assert reference_rows.error("acceleration", 3.0) == reference_rows.error("acceleration", 5.0) == 1.0
    assert reference_rows.ranking("acceleration")[0]
    assert reference_rows.ranking("motion_energy") == (False, "shown only")
    assert reference_rows.ranking("jitter") == (False, "the truth's own value is not known")


def test_the_held_out_error_may_rank_only_beside_that_of_the_teacher() -> None:
    metric = metrics.by_name("heldout_mpjpe")
    assert (metric.unit, metric.scale, metric.error(0.04, math.nan)) == ("mm", 1e3, 0.04)
    assert ReferenceRows({}, {}, {"heldout_mpjpe": 0.09}, {}, 3).ranking("heldout_mpjpe")[0]
    assert ReferenceRows({}, {}, {}, {}, 3).ranking("heldout_mpjpe") == (False, "no calibration row")
    assert not ReferenceRows({}, {}, {"heldout_mpjpe": 0.0}, {}, 3).ranking("heldout_mpjpe")[0]


def test_halves_of_the_floor_share_out_every_group() -> None:
    groups = [str(index // 2) for index in range(len(CLIPS))]
    twins = [CLIPS[index // 2] for index in range(2 * (len(CLIPS) // 2))]
    generator = torch.Generator().manual_seed(0)
    assert split_half(twins, groups[: len(twins)], SMPL22, FPS, generator)["pose_frechet"] < 1e-6
    assert split_half(twins, [""] * len(twins), SMPL22, FPS, generator)["pose_frechet"] > 1e-3


def test_an_evaluator_that_is_not_trusted_ranks_nothing_and_says_why() -> None:
    rows = ({"near/fid": 0.0}, {"near/fid": 0.1}, {"near/fid": 5.0}, {}, 10)
    assert ReferenceRows(*rows).ranking("near/fid")[0]
    distrusted = ReferenceRows(*rows, distrust={"near": "its retrieval is near chance"})
    assert distrusted.ranking("near/fid") == (False, "its retrieval is near chance")
    assert ReferenceRows(*rows, distrust={"other": "no"}).ranking("near/fid")[0]


def test_a_metric_of_captions_may_rank_only_if_it_sees_that_they_are_exchanged() -> None:
    name = "space/r_precision_1"
    rows = ({name: 0.6}, {name: 0.05}, {name: 0.3}, {}, 10)
    assert ReferenceRows(*rows, shuffled={name: 0.1}).ranking(name)[0]
    ranks, why = ReferenceRows(*rows, shuffled={name: 0.55}).ranking(name)
    assert not ranks
    assert "shuffled captions" in why


def test_a_share_that_is_best_at_one_has_an_error_below_it() -> None:
    metric = metrics.by_name("heldout_pck_50")
    assert metric.error(0.7, math.nan) == pytest.approx(0.3)
    assert ReferenceRows({}, {}, {"heldout_pck_50": 0.8}, {}, 3).ranking("heldout_pck_50")[0]
    assert not ReferenceRows({}, {}, {"heldout_pck_50": 1.0}, {}, 3).ranking("heldout_pck_50")[0]
