"""CLIP's text features: the host's own function, or with --encode_once each text once, by itself, without padding.

Features of texts on disk are the bits that would be computed, whatever else writes there, or none.
"""

import copy
import random
from pathlib import Path

import forks
import mdm_runs
import pytest
import torch
from torch import nn

from videomdm_ext.config import Speed
from videomdm_ext.mdm import text
from videomdm_ext.mdm.speed import approximate, exact, texts
from videomdm_ext.mdm.speed.fake_clip import CONTEXT, RandomTower, convert_weights, module, tokenize

SIZE = {"width": 64, "layers": 2, "heads": 2}
WORDS = ("a", "person", "walks", "turns", "left", "and", "jumps", "while", "waving", "the", "right", "hand", "slowly")
WALKS = ["a person walks", "someone jumps high and waves", "he sits", "a person walks"]


class Denoiser(nn.Module):
    """The host's model, as far as it encodes text: 22 tokens padded to 77, every batch anew."""

    def __init__(self, half: bool = True, seed: int = 0) -> None:
        super().__init__()
        self.half_precision, self.seed = half, seed
        self.clip_model = self.load_and_freeze_clip("ViT-B/32")
        self.encoded: list[tuple[str, ...]] = []
        self.tokens_read: list[int] = []
        self.clip_model.transformer.resblocks[0].ln_1.register_forward_pre_hook(
            lambda _, given: self.tokens_read.append(len(given[0]))
        )

    def load_and_freeze_clip(self, clip_version):
        tower = RandomTower(self.seed, **SIZE).eval().requires_grad_(False)
        if self.half_precision:
            convert_weights(tower)
        return tower

    def clip_encode_text(self, raw_text):
        self.encoded.append(tuple(raw_text))
        tokens = nn.functional.pad(tokenize(raw_text, context_length=22, truncate=True), (0, CONTEXT - 22))
        return self.clip_model.encode_text(tokens).float().unsqueeze(0)


Once = approximate.quicker(Denoiser, Speed(encode_once=True))


def captions(count: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return [f"{number} {' '.join(draw.choices(WORDS, k=draw.randint(1, 26)))}" for number in range(count)]


@pytest.mark.parametrize(("half", "bound"), [(False, 1e-5), (True, 2e-2)])
def test_a_texts_features_are_close_to_the_hosts_own_and_the_same_in_every_batch(half, bound):
    """Whatever the processor: a text is encoded by itself, so nothing else can touch its bits."""
    one, another, host = Once(half), Once(half), Denoiser(half)
    given = captions(7)
    found = one.clip_encode_text(given)
    assert found.shape == (1, 7, 512)
    assert found.dtype == torch.float32
    assert not found.requires_grad
    own = host.clip_encode_text(given)
    torch.testing.assert_close(found, own, atol=bound * float(own.norm(dim=-1).mean()) / 512**0.5, rtol=0)
    apart = [another.clip_encode_text(part)[0] for part in ([given[6]], given[3:6] * 2, given[2::-1])]
    assert torch.equal(torch.cat([apart[2].flip(0), apart[1][:3], apart[0]]), found[0])


def test_each_text_is_encoded_once_up_to_its_end():
    model = Once()
    model.clip_encode_text(["walks", "a person jumps", "walks"])
    model.clip_encode_text(["a person jumps", "left"])
    assert model.tokens_read == [3, 5, 3]
    model.clip_encode_text(["walks " * 40 + "left"])
    assert model.tokens_read[3:] == [22], "the host cuts texts there"


def test_a_copy_shares_what_is_known_and_no_name_of_a_weight_changes():
    model, given = Once(), captions(4)
    before = torch.get_rng_state()
    expected = model.clip_encode_text(given).clone()
    assert torch.equal(torch.get_rng_state(), before), "no random number is drawn"
    model.clip_encode_text(given).zero_()
    averaged = copy.deepcopy(model)
    read = len(model.tokens_read)
    for value in averaged.clip_model.parameters():
        value.data.mul_(0.99)
    assert torch.equal(averaged.clip_encode_text(given), expected)
    assert len(model.tokens_read) == read
    assert averaged.clip_model.encode_text.args[0] is averaged.clip_model
    assert list(averaged.state_dict()) == list(Denoiser().state_dict())


def test_a_batch_that_is_asked_for_again_is_encoded_once_by_the_host_and_any_other_anew():
    class Kept(Denoiser):
        def clip_encode_text(self, raw_text):
            return super().clip_encode_text(raw_text)

    exact.keep_last_text(Kept)
    exact.keep_last_text(Kept)
    model = Kept()
    expected = Denoiser().clip_encode_text(WALKS)
    for _ in range(3):
        assert torch.equal(model.clip_encode_text(WALKS), expected)
        model.clip_encode_text(WALKS).zero_()
    assert model.encoded == [tuple(WALKS)]
    model.clip_encode_text(WALKS[:2])
    model.clip_encode_text(WALKS)
    assert len(model.encoded) == 3
    model.clip_model.ln_final.weight.requires_grad_()
    for _ in range(2):
        model.clip_encode_text(WALKS[2:])
    assert len(model.encoded) == 5, "an encoder that is trained is asked every time"


# -- on disk -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def place(monkeypatch, tmp_path) -> Path:
    monkeypatch.setenv(texts.VARIABLE, str(tmp_path / "texts"))
    return tmp_path / "texts"


def files(place: Path) -> list[Path]:
    return sorted(found for found in place.rglob("*") if found.is_file())


def mine() -> text.Encode:
    def encode(words: str) -> torch.Tensor:
        return torch.arange(5.0) + len(words)

    vars(encode)["identity"] = lambda: "ab" * 32
    return encode


def test_the_next_program_reads_the_bits_that_the_first_computed(place, monkeypatch):
    first, second = Once(), Once()
    expected = first.clip_encode_text(WALKS)
    assert sorted(first.tokens_read) == [4, 5, 7]
    assert len(files(place)) == 3
    assert torch.equal(second.clip_encode_text(WALKS[::-1]).flip(1), expected)
    assert second.tokens_read == [], "nothing was computed again"
    monkeypatch.setenv(texts.VARIABLE, "off")
    assert torch.equal((third := Once()).clip_encode_text(WALKS), expected)
    assert len(third.tokens_read) == 3


def test_other_weights_and_another_processor_have_files_of_their_own(place, monkeypatch):
    one, other = (Once(seed=seed).clip_encode_text(WALKS[:1]) for seed in (0, 1))
    assert not torch.equal(one, other)
    assert len({path.parents[1] for path in files(place)}) == 2
    monkeypatch.setattr(texts, "processor", lambda device: "another")
    Once().clip_encode_text(WALKS[:1])
    assert len(files(place)) == 3


def test_a_text_has_the_same_bits_with_any_number_of_threads():
    """Where several threads share a product, its last bits differ."""
    alone = Once().clip_encode_text(WALKS * 3)
    torch.set_num_threads(2)
    try:
        several = Once().clip_encode_text(WALKS * 3)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert torch.equal(several, alone)


@pytest.mark.parametrize("damage", [b"", b"short", None])
def test_a_damaged_file_is_computed_anew_with_a_warning(place, damage, caplog):
    encoder = text.TextEncoder("mine", mine())
    expected = encoder(["walks"])
    (path,) = files(place)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]) if damage is None else damage)
    assert torch.equal(text.TextEncoder("mine", mine())(["walks"]), expected)
    assert f"{path}: expected a text's features as they were written" in caplog.text
    assert path.read_bytes() == whole


def test_an_encoder_without_an_identity_is_not_kept_on_disk(place):
    text.TextEncoder("mine", lambda words: torch.ones(3))(["walks"])
    assert not files(place)


WRITE_MANY = """
import os
import torch
from videomdm_ext.mdm import text

def encode(words):
    return torch.arange(5.0) + len(words)

encode.identity = lambda: "ab" * 32
child = os.fork()
found = text.TextEncoder("mine", encode)([f"{'walks' * (number % 7)} {number}" for number in range(60)])
print(found.sum(1).tolist())
child and os.waitpid(child, 0)
"""


def test_several_processes_may_write_the_same_texts_at_once(place):
    done = forks.run(["-c", WRITE_MANY])
    one, other = done.stdout.splitlines()
    assert one == other
    assert one.count(",") == 59
    assert not done.stderr
    assert len(files(place)) == 60, "nothing is left beside"


def test_where_nothing_can_be_written_it_is_computed_and_said_once(monkeypatch, tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv(texts.VARIABLE, str(tmp_path / "file"))
    found = text.TextEncoder("mine", mine())(["a", "bc"])
    assert found[1, 0] == 2
    assert caplog.text.count("VIDEOMDM_TEXTS=DIR names a folder") == 1


def test_how_much_is_kept_is_described(place, monkeypatch):
    text.TextEncoder("mine", mine())(["a", "bc"])
    assert texts.describe() == f"2 kept in {place}, 0.0 MB; VIDEOMDM_TEXTS=DIR|off puts them elsewhere"
    monkeypatch.setenv(texts.VARIABLE, "off")
    assert texts.describe() == "not kept on disk (VIDEOMDM_TEXTS=off)"
    monkeypatch.delenv(texts.VARIABLE)
    assert texts.folder() == Path.home() / ".cache" / "videomdm" / "texts"


# -- the random tower ------------------------------------------------------------------------------------------------


def test_the_tower_has_clips_size_its_own_randomness_and_half_precision_where_clip_has_it():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, again, other = RandomTower(**SIZE), RandomTower(**SIZE), RandomTower(seed=1, **SIZE)
    assert torch.equal(torch.get_rng_state(), before)
    tokens = tokenize(captions(3))
    assert torch.equal(first.encode_text(tokens), again.encode_text(tokens))
    assert not torch.equal(first.encode_text(tokens), other.encode_text(tokens))
    with torch.device("meta"):
        assert sum(p.numel() for p in RandomTower().parameters()) == 63_165_952 + 262_144
    package = module(**SIZE)
    tower, _ = package.load("ViT-B/32", device="cpu", jit=False)
    package.model.convert_weights(tower)
    whole = {name for name, value in tower.named_parameters() if value.dtype == torch.float32}
    assert all("ln_" in name or "embedding" in name for name in whole)
    assert len(whole) == 2 + 2 + 4 * SIZE["layers"]
    assert tower.encode_text(tokens).dtype == tower.dtype == torch.float16


PROGRAM = """
import json, sys
from pathlib import Path
import torch

torch.set_num_threads(1)
from videomdm_ext.mdm.speed import fake_clip

sys.modules["clip"] = fake_clip.module(width=64, layers=2, heads=2)
from videomdm_ext.errors import ConfigError
from videomdm_ext.mdm import checkout, hook

hook.use(checkout.find(sys.argv[1]))
from model.mdm import MDM
from utils import model_util, parser_util

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
TEXTS = ["a person walks", "someone jumps " * 20, "he sits"]
result = {"own": [], "once": [], "apart": [], "again": []}
for dataset in ("humanml", "kit"):
    features = []
    for words in ([], ["--encode_once"]):
        args = parse("train_args", *SIZES, "--dataset", dataset, *words)
        torch.manual_seed(0)
        model, diffusion = model_util.create_model_and_diffusion(args, Data)
        if not words:
            result["own"].append(type(model) is MDM and MDM.__module__ == MDM.clip_encode_text.__module__)
        model.eval()
        features.append(model.encode_text(TEXTS))
        if not words:
            calls, tower = [], model.clip_model.encode_text
            model.clip_model.encode_text = lambda tokens: calls.append(1) or tower(tokens)
            again = [model.encode_text(texts) for texts in (TEXTS, TEXTS[:2], TEXTS[:2], TEXTS)]
            result["again"].append([len(calls), torch.equal(again[0], features[0]), torch.equal(again[3], again[0])])
    result["once"].append(issubclass(type(model), MDM) and model._features_of.cache_info().misses == len(TEXTS))
    own, ours = features
    result["apart"].append(float((ours - own).abs().max() / own.abs().max()))
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
print(json.dumps(result))
"""


@pytest.fixture(scope="module")
def in_mdm(mdm_checkout, tmp_path_factory) -> dict:
    """-> what the program found in MDM."""
    folder = tmp_path_factory.mktemp("clip")
    command = ["-W", "ignore", "-c", PROGRAM, str(mdm_checkout.root), str(folder)]
    return mdm_runs.answer(forks.run(command, env={"HOME": str(folder), "VIDEOMDM_PLUGINS": None}))


@pytest.mark.mdm
def test_mdms_own_model_encodes_unless_texts_are_asked_to_be_encoded_once(in_mdm):
    """Both of its text data sets; its towers are of half precision."""
    assert in_mdm["own"] == [True, True]
    assert in_mdm["once"] == [True, True]
    assert max(in_mdm["apart"]) < 0.02, "on some processors there is no difference at all"


@pytest.mark.mdm
def test_mdms_own_model_encodes_a_batch_of_texts_once_in_a_row(in_mdm):
    assert in_mdm["again"] == [[2, True, True]] * 2, "the pair, and the three after it"


@pytest.mark.mdm
def test_mdms_own_programs_record_the_features_and_keep_those_of_a_checkpoint(in_mdm):
    assert (in_mdm["trained"], in_mdm["stock"], in_mdm["words"], in_mdm["bert"]) == ("clip", "clip", "words", "auto")
    assert "trained with clip" in in_mdm["stock, words"]
    assert "trained with words" in in_mdm["words, clip"]
