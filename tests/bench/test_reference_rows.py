"""What the rows that are not arms say: floors, ceilings, and which metrics may rank."""

import math

import pytest
import torch
from torch import Tensor

from videomdm_ext.bench import metrics
from videomdm_ext.bench.reference import ReferenceRows, random_halves, score_reference_rows, separates, static_pose
from videomdm_ext.data.motions import load_motions
from videomdm_ext.motion.skeletons import SMPL22

FPS = 20.0
MOTIONS = {motion.name: torch.from_numpy(motion.positions).double() for motion in load_motions()}
CLIPS = [clip[start : start + 20] for clip in MOTIONS.values() for start in range(0, len(clip) - 20, 20)]


SPACE = {"truth": 0.0, "floor": 0.1, "teacher": 5.0}
CAPTIONS = {"truth": 0.6, "floor": 0.05, "teacher": 0.3}


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
    one, same, other = (
        score_reference_rows(CLIPS, noisy(CLIPS, 0.15), SMPL22, FPS, random_halves([""] * len(CLIPS), seed))
        for seed in (3, 3, 4)
    )
    assert one == same
    assert one.floor != other.floor
    assert one.ranking("acceleration")[0]
    assert one.ranking("bone_length_drift")[0]
    assert one.clips == len(CLIPS)


def test_no_metric_may_rank_where_the_teacher_is_the_truth() -> None:
    reference_rows = score_reference_rows(CLIPS, CLIPS, SMPL22, FPS, random_halves([""] * len(CLIPS)))
    assert not any(reference_rows.ranking(name)[0] for name in metrics.METRICS)


def test_a_metric_may_rank_from_twice_the_floor_and_never_without_an_error() -> None:
    assert separates(2.0, 1.0)
    assert not separates(1.9, 1.0)
    assert separates(0.1, 0.0)
    assert not separates(0.0, 0.0)
    assert not separates(math.nan, 1.0)


def test_halves_of_the_floor_share_out_every_group() -> None:
    groups = [str(index // 2) for index in range(len(CLIPS))]
    twins = [CLIPS[index // 2] for index in range(2 * (len(CLIPS) // 2))]
    apart, mixed = (
        score_reference_rows(twins, twins, SMPL22, FPS, random_halves(names)).floor["pose_frechet"]
        for names in (groups[: len(twins)], [""] * len(twins))
    )
    assert apart < 1e-6
    assert mixed > 1e-3


RANKED = {
    "a level": ("acceleration", {"truth": 4.0, "floor": 0.5, "teacher": 2.0}, {}, ""),
    "a level whose truth is not known": ("jitter", {"floor": 0.5, "teacher": 2.0}, {}, "the truth's own value"),
    "a column": ("motion_energy", {"truth": 1.0, "floor": 0.1, "teacher": 9.0}, {}, "shown only"),
    "a pair": ("heldout_mpjpe", {"teacher": 0.09}, {}, ""),
    "a pair without its teacher": ("heldout_mpjpe", {}, {}, "no calibration row"),
    "a pair that the teacher hits": ("heldout_mpjpe", {"teacher": 0.0}, {}, "under 2 times the floor"),
    "a share": ("heldout_pck_50", {"teacher": 0.8}, {}, ""),
    "a share that is whole": ("heldout_pck_50", {"teacher": 1.0}, {}, "under 2 times the floor"),
    "keypoints that are off": ("heldout_reprojection", {"floor": 0.002, "teacher": 0.003}, {}, "under 2 times the"),
    "keypoints that are nearly right": ("heldout_reprojection", {"floor": 0.001, "teacher": 0.003}, {}, ""),
    "a space": ("near/fid", SPACE, {"distrust": {"other": "no"}}, ""),
    "a space near chance": ("near/fid", SPACE, {"distrust": {"near": "its retrieval is near chance"}}, "near chance"),
    "captions": ("near/r_precision_1", CAPTIONS, {"shuffled": {"near/r_precision_1": 0.1}}, ""),
    "any captions": ("near/r_precision_1", CAPTIONS, {"shuffled": {"near/r_precision_1": 0.55}}, "shuffled captions"),
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
