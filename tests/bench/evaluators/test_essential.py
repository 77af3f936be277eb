"""The essential channels as an evaluator: a motion can be decoded from them, and the truth gives their scale."""

import numpy as np
import pytest
import torch
from people import real_motions, turned
from tolerances import ROUND_TRIP_M

from videomdm_ext.bench.evaluators import untrained
from videomdm_ext.data.folder import read_folder
from videomdm_ext.motion.features import decode
from videomdm_ext.motion.skeletons import SMPL22


@pytest.fixture(scope="module")
def ground(write_ground, few_splits):
    return write_ground(few_splits)


@pytest.fixture(scope="module")
def evaluator(ground):
    return untrained.make_essential(ground)


def test_a_motion_is_decoded_from_its_rows_times_their_scale(evaluator):
    clip = real_motions()["dance_a"].double()
    rows = evaluator.motions([clip], 20.0)
    assert rows.shape == (len(clip) - 1, 67)
    torch.testing.assert_close(decode(rows * evaluator.std, SMPL22), clip[:-1], atol=ROUND_TRIP_M, rtol=0)


def test_rows_are_frames_clip_by_clip_wherever_they_stand_and_head(evaluator):
    clips = [real_motions()[name] for name in ("walk", "roll")]
    rows = evaluator.motions(clips, 20.0)
    assert not evaluator.per_clip
    assert evaluator.captions(["a person walks."]) is None
    torch.testing.assert_close(rows, torch.cat([evaluator.motions([clip], 20.0) for clip in clips]))
    moved = [turned(clip, torch.tensor(1.9)) + torch.tensor((4.0, 0.0, 1.0)) for clip in clips]
    assert (evaluator.motions(moved, 20.0) - rows).abs().max() < 1e-3


def test_the_scale_is_the_deviation_of_the_true_training_motions_kind_by_kind(evaluator, ground):
    clips = read_folder(ground.clips, "train")[1]
    frames = np.concatenate([clip.truth[:-1] for clip in clips])[:, :67].astype(np.float64)
    deviation = frames.std(0, ddof=1)
    expected = np.repeat([deviation[0], deviation[1:3].mean(), deviation[3], deviation[4:].mean()], [1, 2, 1, 63])
    np.testing.assert_allclose(evaluator.std.numpy(), expected, rtol=1e-3)


def test_equal_truth_in_any_order_gives_an_equal_identity_and_other_truth_another(evaluator, write_ground, few_splits):
    backwards = {split: clips[::-1] for split, clips in few_splits.items()}
    assert untrained.make_essential(write_ground(backwards)).identity == evaluator.identity
    fewer = {"train": few_splits["train"][1:]}
    assert untrained.make_essential(write_ground(fewer)).identity != evaluator.identity
