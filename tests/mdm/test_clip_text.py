"""CLIP's text features: the host's own bits, with fewer tokens and without encoding a text twice."""

from __future__ import annotations

import copy
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from videomdm_ext.mdm import clip_text
from videomdm_ext.mdm.tower import CONTEXT, END, START, RandomTower, convert_weights, module, tokenize

SIZE = {"width": 64, "layers": 2, "heads": 2}
WORDS = ("a", "person", "walks", "turns", "left", "and", "jumps", "while", "waving", "the", "right", "hand", "slowly")


class Denoiser(nn.Module):
    """The host's model, as far as it encodes text: 22 tokens padded to 77, every batch anew."""

    def __init__(self, tower: nn.Module | None = None) -> None:
        super().__init__()
        self.clip_model = (tower or RandomTower(**SIZE)).eval().requires_grad_(False)
        self.first = nn.Linear(2, 2)
        self.tokens_read: list[tuple[int, int]] = []
        for block in self.clip_model.transformer.resblocks[:1]:
            block.ln_1.register_forward_pre_hook(lambda _, given: self.tokens_read.append(tuple(given[0].shape[:2])))

    def own(self, raw_text):
        tokens = nn.functional.pad(tokenize(raw_text, context_length=22, truncate=True), (0, CONTEXT - 22))
        return self.clip_model.encode_text(tokens).float().unsqueeze(0)

    clip_encode_text = clip_text.remembering(own)


def captions(count: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return [f"{number} {' '.join(draw.choices(WORDS, k=draw.randint(1, 26)))}" for number in range(count)]


@pytest.fixture
def denoiser() -> Denoiser:
    return Denoiser()


def warm(denoiser: Denoiser, size: int) -> None:
    """The first batch of a shape is spent on finding out what is exact."""
    denoiser.clip_encode_text(captions(size, seed=99))
    denoiser.tokens_read.clear()


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 16])
def test_every_batch_has_the_hosts_own_bits(precision, size):
    denoiser = Denoiser()
    if precision == "float16":
        convert_weights(denoiser.clip_model)
    pool, draw = captions(3 * size), random.Random(size)
    for _ in range(4):
        texts = draw.choices(pool, k=size)
        found = denoiser.clip_encode_text(texts)
        assert found.shape == (1, size, 512)
        assert found.dtype == torch.float32
        assert not found.requires_grad
        assert torch.equal(found, denoiser.own(texts))


def test_known_texts_cost_nothing_and_new_ones_a_batch_of_the_hosts_size_without_padding(denoiser):
    warm(denoiser, 4)
    pool = captions(6)
    denoiser.clip_encode_text(pool[:4])
    assert denoiser.tokens_read == [(clip_text.SHORT, 4)]
    denoiser.clip_encode_text(pool[:4])
    denoiser.clip_encode_text([pool[2], pool[0], pool[2], pool[3]])
    assert denoiser.tokens_read == [(clip_text.SHORT, 4)]
    mixed = denoiser.clip_encode_text([pool[5], pool[0], pool[4], pool[5]])
    assert denoiser.tokens_read == [(clip_text.SHORT, 4)] * 2
    assert torch.equal(mixed, denoiser.own([pool[5], pool[0], pool[4], pool[5]]))


def test_texts_of_the_first_batch_are_known_as_well(denoiser):
    texts = captions(4)
    denoiser.clip_encode_text(texts)
    denoiser.tokens_read.clear()
    denoiser.clip_encode_text(texts[::-1])
    assert denoiser.tokens_read == []


def test_another_batch_size_or_thread_count_is_examined_by_itself(denoiser):
    warm(denoiser, 4)
    texts = captions(3)
    denoiser.clip_encode_text(texts)
    assert (CONTEXT, 3) in denoiser.tokens_read
    denoiser.tokens_read.clear()
    torch.set_num_threads(2)
    try:
        denoiser.clip_encode_text(texts)
    finally:
        torch.set_num_threads(1)
    assert (CONTEXT, 3) in denoiser.tokens_read


def test_what_was_given_out_can_be_changed_without_harm(denoiser):
    texts = captions(4)
    expected = denoiser.own(texts)
    for _ in range(3):
        denoiser.clip_encode_text(texts).zero_()
    assert torch.equal(denoiser.clip_encode_text(texts), expected)


# -- where a saving is not exact --------------------------------------------------------------------------------------


class Off(nn.Module):
    """A tower whose bits depend on something they should not depend on."""

    def __init__(self, on: str) -> None:
        super().__init__()
        self.tower, self.on = RandomTower(**SIZE), on
        for name in ("token_embedding", "positional_embedding", "transformer", "ln_final", "text_projection"):
            setattr(self, name, getattr(self.tower, name))

    @property
    def dtype(self):
        return self.tower.dtype

    def encode_text(self, text):
        features = self.tower.encode_text(text)
        if self.on == "padding":
            return features * (1 + 1e-6 * text.shape[1])
        return features * (1 + 1e-6 * torch.arange(len(text)).unsqueeze(1))


@pytest.mark.parametrize("on", ["padding", "place"])
def test_a_saving_that_gives_other_bits_is_left_out_and_said(on, caplog):
    caplog.set_level("INFO")
    denoiser = Denoiser(Off(on))
    warm(denoiser, 4)
    for seed in (1, 2):
        for _ in range(2):
            assert torch.equal(denoiser.clip_encode_text(captions(4, seed)), denoiser.own(captions(4, seed)))
    assert len(caplog.records) == 1
    said = {"padding": "fewer tokens give other bits", "place": "bits depend on its place in the batch"}
    assert said[on] in caplog.text


def test_where_only_the_padding_matters_texts_are_still_remembered():
    denoiser = Denoiser(Off("padding"))
    warm(denoiser, 4)
    for _ in range(3):
        denoiser.clip_encode_text(captions(4))
    assert denoiser.tokens_read == [(CONTEXT, 4)]


def test_a_tower_without_clips_parts_is_only_asked_as_the_host_asks(caplog):
    caplog.set_level("INFO")

    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.positional_embedding = nn.Parameter(torch.ones(77, 8))
            self.transformer = nn.Module()
            self.transformer.resblocks = nn.Sequential()

        def encode_text(self, text):
            return text.float() @ self.positional_embedding

    denoiser = Denoiser(Other())
    for _ in range(2):
        assert torch.equal(denoiser.clip_encode_text(captions(4)), denoiser.own(captions(4)))
    assert "cannot be asked for fewer tokens" in caplog.text


def test_a_text_beyond_the_short_form_is_read_whole():
    class Long(Denoiser):
        def own(self, raw_text):
            return self.clip_model.encode_text(tokenize(raw_text, truncate=True)).float().unsqueeze(0)

        clip_encode_text = clip_text.remembering(own)

    denoiser = Long()
    warm(denoiser, 2)
    texts = ["walks " * 40 + "left", "walks " * 40 + "right"]
    found = denoiser.clip_encode_text(texts)
    assert torch.equal(found, denoiser.own(texts))
    assert not torch.equal(found[0, 0], found[0, 1])


# -- the model around it ----------------------------------------------------------------------------------------------


def test_names_order_and_copies_of_the_models_weights_stay_as_they_are(denoiser):
    names, parameters = list(denoiser.state_dict()), [name for name, _ in denoiser.named_parameters()]
    warm(denoiser, 4)
    assert list(denoiser.state_dict()) == names
    assert [name for name, _ in denoiser.named_parameters()] == parameters
    assert [name for name, _ in copy.deepcopy(denoiser).named_parameters()] == parameters


def test_a_copy_whose_weights_are_averaged_behind_its_back_makes_its_own_features(denoiser):
    texts = captions(4)
    warm(denoiser, 4)
    denoiser.clip_encode_text(texts)
    averaged = copy.deepcopy(denoiser)
    for _ in range(3):
        for value in averaged.clip_model.parameters():
            value.data.mul_(0.99)
        found = averaged.clip_encode_text(texts)
        assert torch.equal(found, averaged.own(texts))
        assert not torch.equal(found, denoiser.clip_encode_text(texts))
    assert torch.equal(denoiser.clip_encode_text(texts), denoiser.own(texts))


def test_loaded_weights_make_the_model_forget(denoiser):
    texts = captions(4)
    before = denoiser.clip_encode_text(texts)
    denoiser.clip_model.load_state_dict(RandomTower(seed=1, **SIZE).state_dict())
    after = denoiser.clip_encode_text(texts)
    assert torch.equal(after, denoiser.own(texts))
    assert not torch.equal(before, after)


def test_no_random_number_is_drawn(denoiser):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    warm(denoiser, 4)
    denoiser.clip_encode_text(captions(4))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_texts_longest_unused_are_forgotten_beyond_the_limit(denoiser):
    vars(denoiser)["_videomdm_text_memory"] = memory = clip_text.Memory(limit=8)
    pool = captions(40)
    for start in range(0, 40, 4):
        texts = pool[start : start + 4]
        assert torch.equal(denoiser.clip_encode_text(texts), denoiser.own(texts))
        assert torch.equal(denoiser.clip_encode_text(pool[:4]), denoiser.own(pool[:4]))
    (shelf,) = memory.shelves.values()
    assert set(shelf.rows) == {*pool[:4], *pool[36:]}
    assert sorted(shelf.rows.values()) == list(range(8))
    assert len(shelf.table) == 8


@pytest.mark.parametrize("given", ["a person walks", [], [["a", "b"]]])
def test_what_is_no_list_of_texts_goes_to_the_host(given):
    class Watched:
        def own(self, raw_text):
            return ("host", raw_text)

        clip_encode_text = clip_text.remembering(own)

    assert Watched().clip_encode_text(given) == ("host", given)


# -- the tower --------------------------------------------------------------------------------------------------------


def test_the_tower_has_clips_size_and_its_own_randomness():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, again, other = RandomTower(**SIZE), RandomTower(**SIZE), RandomTower(seed=1, **SIZE)
    assert torch.equal(torch.get_rng_state(), before)
    texts = tokenize(captions(3))
    assert torch.equal(first.encode_text(texts), again.encode_text(texts))
    assert not torch.equal(first.encode_text(texts), other.encode_text(texts))
    assert sum(p.numel() for p in RandomTower().parameters()) == 63_165_952 + 262_144


def test_tokens_begin_and_end_and_are_cut_only_when_asked():
    tokens = tokenize(["Walks, fast", "walks"], context_length=8)
    assert tokens.shape == (2, 8)
    assert tokens[:, 0].tolist() == [START, START]
    assert tokens.argmax(1).tolist() == [4, 2]
    assert tokens[0, 1] == tokens[1, 1]
    assert tokens[1, 3:].tolist() == [0] * 5
    with pytest.raises(RuntimeError, match="too long for a context of 8"):
        tokenize("walks " * 9, context_length=8)
    assert tokenize("walks " * 9, context_length=8, truncate=True)[0, -1] == END


def test_half_precision_is_where_clip_has_it():
    package = module(**SIZE)
    tower, _ = package.load("ViT-B/32", device="cpu", jit=False)
    package.model.convert_weights(tower)
    whole = {name for name, value in tower.named_parameters() if value.dtype == torch.float32}
    assert all("ln_" in name or "embedding" in name for name in whole)
    assert len(whole) == 2 + 2 + 4 * SIZE["layers"]
    assert tower.dtype == torch.float16
    assert tower.encode_text(tokenize("a person walks")).dtype == torch.float16


# -- in MDM -----------------------------------------------------------------------------------------------------------

PROGRAM = """
import copy, json, sys
from pathlib import Path
import torch

torch.set_num_threads(1)
from videomdm_ext.mdm import tower

sys.modules["clip"] = tower.module(width=64, layers=2, heads=2)
from videomdm_ext.errors import ConfigError
from videomdm_ext.mdm import adapter, checkout, launcher

adapter.begin()
launcher.use(checkout.find(sys.argv[1]), add_options=adapter.add_options, activate=adapter.activate)
from utils import model_util, parser_util
from utils.sampler_util import ClassifierFreeSampleModel

folder = Path(sys.argv[2])


class Data:
    class dataset:
        pass


def parse(kind, *words):
    sys.argv = ["program", *words]
    return getattr(parser_util, kind)()


def refused(*words):
    try:
        parse("generate_args", *words)
    except ConfigError as error:
        return str(error)


SIZES = ["--save_dir", str(folder / "new"), "--layers", "1", "--latent_dim", "32", "--diffusion_steps", "4"]
result = {"kit": [], "texts": []}
for dataset in ("humanml", "kit"):
    args = parse("train_args", *SIZES, "--dataset", dataset)
    torch.manual_seed(0)
    model, diffusion = model_util.create_model_and_diffusion(args, Data)
    model.eval()
    own = type(model).clip_encode_text.__wrapped__
    for batch in (["a person walks", "someone jumps " * 20, "he sits"], ["he sits", "new", "a person walks"]):
        for _ in range(2):
            result["texts"].append(torch.equal(model.encode_text(batch), own(model, batch)))
calls = []
embedding = model.clip_model.token_embedding
embedding.register_forward_pre_hook(lambda part, given: calls.append(list(given[0].shape)))
average = copy.deepcopy(model)
guided = ClassifierFreeSampleModel(model)
samples, encodings = [], []
texts = [f"motion {number}" for number in range(5)]
for encode in ("remembered", "remembered", "own"):
    if encode == "own":
        guided.encode_text = lambda given: own(model, given)
    calls.clear()
    torch.manual_seed(1)
    y = {"mask": torch.ones(5, 1, 1, 8, dtype=torch.bool), "text": texts, "scale": torch.full((5,), 2.5)}
    with torch.no_grad():
        samples.append(diffusion.p_sample_loop(guided, (5, 251, 1, 8), model_kwargs={"y": y}, clip_denoised=False))
    encodings.append([shape for shape in calls])
result["samples equal"] = [torch.equal(sample, samples[0]) for sample in samples]
result["encodings"] = [len(each) for each in encodings]
for value in average.clip_model.parameters():
    value.data.mul_(0.9)
result["copy"] = torch.equal(average.encode_text(texts), own(average, texts))
result["copy differs"] = not torch.equal(average.encode_text(texts), model.encode_text(texts))
stock = {"layers": 1, "latent_dim": 32, "text_encoder_type": "clip", "dataset": "humanml", "unconstrained": False}
(folder / "run").mkdir()
(folder / "run" / "args.json").write_text(json.dumps(stock))
path = ["--model_path", str(folder / "run" / "model1.pt")]
result["trained"] = args.text_features
result["stock"] = parse("generate_args", *path).text_features
result["stock, words"] = refused(*path, "--text_features", "words")
(folder / "run" / "args.json").write_text(json.dumps({**stock, "text_features": "words"}))
result["words"] = parse("generate_args", *path).text_features
result["words, clip"] = refused(*path, "--text_features", "clip")
result["bert"] = parse("train_args", *SIZES, "--arch", "trans_dec", "--text_encoder_type", "bert").text_features
print("RESULT", json.dumps(result))
"""


@pytest.fixture(scope="module")
def in_mdm(mdm_checkout, tmp_path_factory) -> dict:
    """-> what the program found in MDM."""
    folder = tmp_path_factory.mktemp("clip")
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HOME": str(folder)}
    environment.pop("VIDEOMDM_PLUGINS", None)
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, str(mdm_checkout.root), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-5000:]
    return json.loads(done.stdout.rsplit("RESULT ", 1)[1])


@pytest.mark.mdm
def test_mdm_has_its_own_bits_for_both_of_its_text_data_sets(in_mdm):
    assert in_mdm["texts"] == [True] * 8
    assert in_mdm["copy"]
    assert in_mdm["copy differs"]


@pytest.mark.mdm
def test_sampling_again_from_the_same_texts_encodes_nothing(in_mdm):
    """The first encoding of a batch size is MDM's own and three that examine it; MDM encodes in every sampling."""
    assert in_mdm["encodings"] == [4, 0, 1]
    assert in_mdm["samples equal"] == [True] * 3


@pytest.mark.mdm
def test_mdms_own_programs_record_the_features_and_keep_those_of_a_checkpoint(in_mdm):
    assert (in_mdm["trained"], in_mdm["stock"], in_mdm["words"], in_mdm["bert"]) == ("clip", "clip", "words", "auto")
    assert "trained with clip" in in_mdm["stock, words"]
    assert "trained with words" in in_mdm["words, clip"]
