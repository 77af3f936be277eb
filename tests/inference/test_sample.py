"""Prompts and noise are the same for every denoiser, and what was sampled comes back from its file."""

import contextlib
import io
import json
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from videomdm_ext.data.index import Entry
from videomdm_ext.errors import ConfigError
from videomdm_ext.inference import sample as sampling
from videomdm_ext.inference.sample import prompts, read_motions, sample, write_motions
from videomdm_ext.motion.features import FeatureSpace
from videomdm_ext.motion.skeletons import SMPL22


def some_clips() -> SimpleNamespace:
    entries = [Entry(f"c{i}", 20 + i, "", 0, "", json.dumps((f"{i} a", f"{i} b"))) for i in range(5)]
    return SimpleNamespace(clips=SimpleNamespace(entries=entries), crop_frames=22)


def test_every_clip_is_prompted_once_before_any_comes_again_then_with_its_next_caption():
    wanted = prompts(some_clips(), 12, seed=0)
    texts = [text for text, _ in wanted]
    assert sorted(texts[:5]) == [f"{i} a" for i in range(5)]
    assert texts[5:10] == [text.replace("a", "b") for text in texts[:5]]
    assert texts[10:] == texts[:2]
    assert all(length == min(20 + int(text[0]), 22) for text, length in wanted)


def test_prompts_depend_on_the_clips_and_the_seed_not_on_their_order():
    backwards = some_clips()
    backwards.clips.entries.reverse()
    assert prompts(some_clips(), 7, seed=0) == prompts(backwards, 7, seed=0)
    assert prompts(some_clips(), 5, seed=0) != prompts(some_clips(), 5, seed=1)


class Noise:
    """A diffusion whose sample is the noise that it starts from."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def p_sample_loop(self, model, shape, *, noise, clip_denoised, model_kwargs, progress):
        self.shapes.append(tuple(shape))
        assert not clip_denoised
        mask, lengths = model_kwargs["y"]["mask"], model_kwargs["y"]["lengths"]
        assert mask.flatten(1).sum(1).tolist() == lengths.tolist()
        assert tuple(noise.shape) == tuple(shape)
        return noise


def a_trained(batch_length: int = 30, dropout: float = 0.1) -> Any:
    space = FeatureSpace(SMPL22, torch.zeros(263), torch.ones(263))
    model = SimpleNamespace(encode_text=lambda texts: torch.zeros(1, len(texts), 512))
    dataset = SimpleNamespace(batch_length=batch_length)
    return sampling.Trained(model, Noise(), space, SimpleNamespace(cond_mask_prob=dropout), dataset)  # type: ignore[arg-type]


def test_samples_of_two_denoisers_start_from_the_same_noise_and_of_two_seeds_from_another():
    wanted = [("walk", 25), ("jump", 30), ("run", 20)]
    first, second, other = (sample(a_trained(), wanted, seed=seed, guidance=1.0) for seed in (3, 3, 4))
    assert [motion.shape for motion in first] == [(25, 22, 3), (30, 22, 3), (20, 22, 3)]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], other[0])
    assert not torch.equal(first[0][:20], first[2])


def test_no_step_of_the_sampler_draws_what_the_start_was_drawn_from():
    class Stepping(Noise):
        def p_sample_loop(self, model, shape, *, noise, clip_denoised, model_kwargs, progress):
            self.start, self.first = noise, torch.randn(shape)
            return noise

    trained = a_trained()
    object.__setattr__(trained, "diffusion", Stepping())
    sample(trained, [("walk", 20)] * 3, seed=0, guidance=1.0)
    first, start = trained.diffusion.first, trained.diffusion.start
    assert abs(torch.corrcoef(torch.stack((first.flatten(), start.flatten())))[0, 1]) < 0.05


def test_more_prompts_than_a_batch_go_in_several():
    trained = a_trained()
    motions = sample(trained, [("walk", 20)] * 5, seed=0, guidance=1.0, batch=2)
    assert [shape[0] for shape in trained.diffusion.shapes] == [2, 2, 1]
    assert len(motions) == 5
    assert not torch.equal(motions[0], motions[2])


def test_guidance_of_a_denoiser_that_always_saw_its_text_is_refused():
    with pytest.raises(ConfigError, match=r"--guidance 2.5: .*--cond_mask_prob 0"):
        sample(a_trained(dropout=0.0), [("walk", 20)], seed=0, guidance=2.5)


def test_motions_come_back_from_their_file_with_lengths_and_captions(tmp_path):
    groups = {"samples": [torch.rand(n, 22, 3) for n in (3, 7)], "truth": [torch.rand(4, 22, 3)]}
    write_motions(tmp_path / "new" / "a.npz", groups, ["walk", "ünd jump"])
    found, captions = read_motions(tmp_path / "new" / "a.npz")
    assert captions == ["walk", "ünd jump"]
    for name, motions in groups.items():
        assert all(torch.equal(a, b) for a, b in zip(found[name], motions, strict=True))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.npz"]
    write_motions(tmp_path / "a.npz", groups, [])  # held-out clips
    assert read_motions(tmp_path / "a.npz")[1] == []


def spoil(place: Path, how: str) -> None:
    """Write a file of samples that is none."""
    good = {
        "captions": np.array(["walk"]),
        "samples": np.zeros((3, 22, 3), np.float32),
        "samples_lengths": np.array([3]),
    }
    if how == "text":
        place.write_text("not an archive", encoding="utf-8")
    elif how == "empty":
        place.touch()
    elif how == "array":
        with place.open("wb") as file:
            np.save(file, np.zeros(3))
    elif how == "cut":
        np.savez(place, **good)
        place.write_bytes(place.read_bytes()[:-40])
    elif how == "captions":
        np.savez(place, **{name: value for name, value in good.items() if name != "captions"})
    elif how == "lengths":
        np.savez(place, **{**good, "samples_lengths": np.array([2])})
    elif how == "pickle":
        np.savez(place, **{**good, "samples": np.array([object()])})


@pytest.mark.parametrize("how", ["text", "empty", "array", "cut", "captions", "lengths", "pickle", "missing"])
def test_a_file_of_samples_that_is_none_is_an_error_that_names_it(tmp_path, how):
    place = tmp_path / "bad.npz"
    spoil(place, how)
    with pytest.raises(ConfigError, match=r"bad\.npz: expected (motions in npz|a file of motions)"):
        read_motions(place)


WRITTEN = io.BytesIO()
np.savez_compressed(WRITTEN, captions=np.array(["walk"]), a=np.ones((5, 22, 3), np.float32), a_lengths=np.array([5]))


@settings(max_examples=300)
@given(bit=st.integers(0, 8 * len(WRITTEN.getvalue()) - 1))
def test_a_file_of_motions_with_a_flipped_bit_is_read_or_refused(tmp_path_factory, bit):
    place, content = tmp_path_factory.getbasetemp() / "flipped.npz", bytearray(WRITTEN.getvalue())
    content[bit // 8] ^= 1 << bit % 8
    place.write_bytes(content)
    with contextlib.suppress(ConfigError):
        groups, captions = read_motions(place)
        assert [motion.shape[1:] for motions in groups.values() for motion in motions] == [(22, 3)] * len(groups)
        assert captions == ["walk"]


def test_motions_that_unpack_to_far_more_than_was_written_are_refused_before_they_are_unpacked(tmp_path):
    place, frames = tmp_path / "bomb.npz", 80_000
    np.savez_compressed(
        place, captions=np.array(["walk"]), a=np.zeros((frames, 22, 3), np.float32), a_lengths=np.array([frames])
    )
    assert place.stat().st_size < 1 << 20
    tracemalloc.start()
    try:
        with pytest.raises(ConfigError, match=r"bomb\.npz: expected motions in npz, .* unpacks from"):
            read_motions(place)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    still = [torch.zeros(frames, 22, 3)]
    write_motions(tmp_path / "still.npz", {"a": still}, ["stands"])  # what this program itself writes can be read
    assert torch.equal(read_motions(tmp_path / "still.npz")[0]["a"][0], still[0])
