"""The bundled text-motion evaluator: what it sees, what it learns, when it is not to be trusted, and its cache."""

import dataclasses
import logging
import random

import numpy as np
import pytest
import torch
from clips import make_clip
from people import real_motions, turned

from videomdm_ext.bench import metrics
from videomdm_ext.bench.evaluators import text_motion
from videomdm_ext.bench.evaluators.base import TrueMotion, UnavailableError, read_true
from videomdm_ext.bench.evaluators.text_motion import Settings, batches, contrastive, frame_features, moments
from videomdm_ext.errors import ConfigError
from videomdm_ext.mdm import text
from videomdm_ext.motion.skeletons import SMPL22

SMALL = Settings(steps=60, batch=24, longest=32, width=32, out=16, text_width=64, learning_rate=5e-3)
ROUNDING = 1e-5


@pytest.fixture(scope="module")
def ground(write_ground, known_splits):
    return write_ground(known_splits)


@pytest.fixture(scope="module")
def evaluator(ground):
    return text_motion.make(ground, SMALL)


def elsewhere(positions: torch.Tensor) -> torch.Tensor:
    """-> the same motion, turned about the vertical and moved along the floor."""
    angle = torch.full(positions.shape[:-1], 2.2, dtype=positions.dtype)
    return turned(positions, angle) + positions.new_tensor((3.0, 0.0, -5.0))


def test_a_frame_is_seen_like_the_kinematic_features_with_steps_as_velocities():
    clip = real_motions()["walk"].double()
    expected = metrics.kinematic_features(clip, SMPL22)
    expected[:, 64:] *= 20.0
    torch.testing.assert_close(frame_features(clip, SMPL22, 20.0), expected, atol=1e-12, rtol=0)


def test_where_a_clip_stands_and_heads_does_not_matter_but_its_height_and_its_sides_do(evaluator):
    clips = [real_motions()[name] for name in ("walk", "cartwheel", "kick")]
    mirrored = [clip[:, list(SMPL22.mirror)] * torch.tensor((-1.0, 1.0, 1.0)) for clip in clips]
    here = evaluator.motions(clips, 20.0)
    assert (evaluator.motions([elsewhere(clip) for clip in clips], 20.0) - here).abs().max() < 1e-4
    for other in ([clip + torch.tensor((0.0, 0.3, 0.0)) for clip in clips], mirrored):
        assert ((evaluator.motions(other, 20.0) - here).norm(dim=1) > 0.02).all()


def test_a_clip_has_the_same_vector_alone_as_beside_longer_ones_in_any_order(evaluator):
    clips = [motion[:length] for motion, length in zip(real_motions().values(), (9, 40, 17, 28, 33), strict=False)]
    together = evaluator.motions(clips, 20.0)
    for clip, row in zip(clips, together, strict=True):
        torch.testing.assert_close(evaluator.motions([clip], 20.0)[0], row, atol=ROUNDING, rtol=0)
    backwards = evaluator.motions(clips[::-1], 20.0).flip(0)
    assert torch.equal(backwards, together)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(5))


def test_moments_are_those_of_the_valid_frames():
    x = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0))
    valid = (torch.arange(6) < torch.tensor([[6], [4]])).unsqueeze(-1).float()
    mean, deviation = moments(x, valid)
    for row, frames in enumerate((6, 4)):
        np.testing.assert_allclose(mean[row], x[row, :frames].numpy().mean(0), atol=1e-6)
        np.testing.assert_allclose(deviation[row] ** 2, x[row, :frames].numpy().var(0) + 1e-4, atol=1e-6)


def handed(side: str, frames: int) -> TrueMotion:
    """-> somebody who holds up the wrist of this side, ahead and outwards, a bit higher in every frame."""
    positions = real_motions()["walk"][:1].repeat(frames, 1, 1)
    wrist = positions[:, SMPL22.index(f"{side[0]}_wrist")]
    wrist[:, 0], wrist[:, 2] = {"left": 1.5, "right": -1.5}[side], 0.7
    wrist[:, 1] = 3.0 + torch.arange(frames) / 1000
    return TrueMotion(side, positions, (f"a person raises the {side} arm.", f"somebody waves, {side}."))


def test_a_mirrored_motion_has_left_and_right_swapped_in_its_caption():
    drawn = list(batches([handed("left", 30), handed("right", 30)], SMPL22, Settings(steps=20, shortest=8)))
    seen = set()
    for batch in drawn:
        for positions, caption in zip(batch.positions, batch.captions, strict=True):
            up = {side: bool(positions[0, SMPL22.index(f"{side[0]}_wrist"), 1] > 2.5) for side in ("left", "right")}
            assert [side for side in up if up[side]] == [side for side in up if side in caption]
            x, _, z = positions[0, positions[0, :, 1].argmax()].tolist()
            assert (x, z) == (1.5 if "left" in caption else -1.5, pytest.approx(0.7))
            seen.add((up["left"], "waves" in caption))
    assert len(seen) == 4


def test_crops_are_frames_in_a_row_with_the_last_one_repeated_behind_a_shorter_clip():
    motions = [handed("left", 12), handed("right", 40)]
    settings = Settings(steps=30, shortest=8, longest=24)
    lengths = set()
    for batch in batches(motions, SMPL22, settings):
        for positions, frames in zip(batch.positions, batch.frames.tolist(), strict=True):
            rising = (positions[:, :, 1].amax(1) - 3.0) * 1000
            torch.testing.assert_close(rising[:frames].diff(), torch.ones(frames - 1), atol=1e-2, rtol=0)
            assert (positions[frames:] == positions[frames - 1]).all()
            assert 8 <= frames <= 24
            lengths.add(len(positions))
    assert len(lengths) > 5


def test_every_motion_is_drawn_once_before_any_comes_again():
    motions = [dataclasses.replace(handed("left", 10), texts=(f"motion {number}.",)) for number in range(7)]
    drawn = [text for batch in batches(motions, SMPL22, Settings(steps=7, batch=3)) for text in batch.captions]
    for start in range(0, 21, 7):
        assert len(set(drawn[start : start + 7])) == 7


def test_a_caption_fits_every_motion_that_has_it_among_its_own():
    one, other = handed("left", 10), handed("right", 10)
    for batch in batches([one, other, one], SMPL22, Settings(steps=5)):
        sides = ["left" if "left" in caption else "right" for caption in batch.captions]
        assert batch.fits.tolist() == [[mine == theirs for theirs in sides] for mine in sides]


def test_the_loss_is_that_of_a_plain_loop_and_equal_captions_are_no_mistakes():
    draw = torch.Generator().manual_seed(0)
    motion, words = (torch.nn.functional.normalize(torch.randn(5, 8, generator=draw), dim=1) for _ in range(2))
    fits = torch.eye(5, dtype=torch.bool)
    fits[1, 0] = True
    weights = np.exp(motion.numpy().astype(float) @ words.numpy().T.astype(float) / 0.5)
    by_motion = [-np.log(sum(row[fit]) / sum(row)) for row, fit in zip(weights, fits.numpy(), strict=True)]
    by_caption = [-np.log(sum(row[fit]) / sum(row)) for row, fit in zip(weights.T, fits.numpy().T, strict=True)]
    expected = (np.mean(by_motion) + np.mean(by_caption)) / 2
    assert contrastive(motion, words, fits, 0.5).item() == pytest.approx(expected, rel=1e-4)
    alike = torch.eye(4)[[0, 0, 1]]
    same = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)
    assert contrastive(alike, alike, same, 0.01).item() < 1e-6
    assert contrastive(alike, alike, torch.eye(3, dtype=torch.bool), 0.01).item() > 0.4


def test_known_motions_are_told_apart_far_above_chance(evaluator):
    assert evaluator.distrust == ""
    found = evaluator.on_held_out
    assert found.groups[0] > 0.5
    assert found.groups[2] > 0.8 > 2 * found.groups_chance[2]
    assert evaluator.facts["held-out R-precision 3"] == found.groups[2]
    assert evaluator.facts["training R-precision 1"] == evaluator.on_training.groups[0]


def test_captions_at_random_are_distrusted(write_ground, known_splits):
    draw = random.Random(0)
    captions = sorted({clip.texts for clip in known_splits["train"]})
    mixed = {
        split: [dataclasses.replace(clip, texts=draw.choice(captions)) for clip in clips]
        for split, clips in known_splits.items()
    }
    found = text_motion.make(write_ground(mixed), SMALL)
    assert "R-precision 3 on held-out true motions" in found.distrust


def test_without_held_out_truth_it_is_distrusted(write_ground, few_splits):
    few = {"train": few_splits["train"]}
    assert "no true motion is held out" in text_motion.make(write_ground(few), replaced(steps=2)).distrust


def test_its_distance_sees_a_wrong_motion(evaluator, ground):
    true = [motion.positions for motion in read_true(ground, ("train",), 100)]
    draw = torch.Generator().manual_seed(0)
    shrunk = [clip * torch.tensor((1.0, 1.0, 0.6)) for clip in true]
    noisy = [clip + 0.03 * torch.randn(clip.shape, generator=draw) for clip in true]
    space = metrics.gaussian(evaluator.motions(true, 20.0))
    other_cut = metrics.gaussian(evaluator.motions([clip[3:] for clip in true], 20.0))
    floor = metrics.frechet(*other_cut, *space)
    for wrong in (shrunk, noisy):
        assert metrics.frechet(*metrics.gaussian(evaluator.motions(wrong, 20.0)), *space) > 2 * floor
    assert metrics.frechet(*space, *space) < ROUNDING


def replaced(**changes) -> Settings:
    return dataclasses.replace(SMALL, **changes)


def test_equal_data_in_any_order_gives_equal_weights_and_other_settings_others(write_ground, few_splits):
    short = replaced(steps=4)
    one = text_motion.make(write_ground(few_splits), short)
    backwards = {split: clips[::-1] for split, clips in few_splits.items()}
    other = write_ground(backwards)
    assert text_motion.make(other, short).identity == one.identity
    assert len(one.identity) == 64
    assert text_motion.make(other, replaced(steps=4, seed=1)).identity != one.identity
    fewer = {**few_splits, "train": few_splits["train"][1:]}
    assert text_motion.make(write_ground(fewer), short).identity != one.identity


def test_training_leaves_the_callers_generator_and_threads_alone(write_ground, few_splits):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    threads = torch.get_num_threads()
    text_motion.make(write_ground(few_splits), replaced(steps=2))
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads


def test_the_cache_is_used_again_as_it_is_and_progress_is_told(write_ground, few_splits, monkeypatch):
    told = []
    ground = dataclasses.replace(write_ground(few_splits), progress=lambda *step: told.append(step))
    first = text_motion.make(ground, replaced(steps=12))
    assert told == [("text-motion", 10, 12), ("text-motion", 12, 12)]
    (kept,) = ground.cache.iterdir()
    before = kept.read_bytes()
    monkeypatch.setattr(text_motion, "train", lambda *_: pytest.fail("trained again"))
    again = text_motion.make(ground, replaced(steps=12))
    assert (again.identity, again.facts) == (first.identity, first.facts)
    assert kept.read_bytes() == before


def test_a_broken_cache_is_told_and_made_again(write_ground, few_splits, caplog):
    ground, settings = write_ground(few_splits), replaced(steps=2)
    first = text_motion.make(ground, settings)
    (kept,) = ground.cache.iterdir()
    whole = kept.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :]
    for broken in (whole[:middle], flipped, b"", b"\x80\x04nonsense"):
        kept.write_bytes(broken)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert text_motion.make(ground, settings).identity == first.identity
        assert f"{kept} does not hold the weights" in caplog.text
        assert kept.read_bytes() == whole


def test_without_truth_or_different_captions_it_is_unavailable_and_says_why(write_ground, few_splits):
    clips = few_splits["train"][:4]
    blind = [dataclasses.replace(make_clip(name="walk"), truth=None, truth_extrinsics=None)]
    with pytest.raises(UnavailableError, match=r"true motion for the evaluator text-motion, found none\. .*views-2d"):
        text_motion.make(write_ground({"train": blind}), SMALL)
    alike = [dataclasses.replace(clip, texts=("a person moves.",)) for clip in clips]
    with pytest.raises(UnavailableError, match="at least 2 different captions"):
        text_motion.make(write_ground({"train": alike}), SMALL)


def test_text_features_that_cannot_be_had_make_it_unavailable(ground, monkeypatch):
    with pytest.raises(UnavailableError, match=r"text features 'clip': .*Choose --text-features minilm or words"):
        text_motion.make(dataclasses.replace(ground, text_features="clip"), SMALL)

    def missing(manager, name):
        raise ConfigError("--text_features minilm: expected the packages of the extra `demo`")

    monkeypatch.setattr(text, "load", missing)
    with pytest.raises(UnavailableError, match=r"evaluator text-motion: .* extra `demo`"):
        text_motion.make(dataclasses.replace(ground, text_features="minilm"), SMALL)
