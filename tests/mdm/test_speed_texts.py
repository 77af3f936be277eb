"""Features of texts on disk: the bits that would be computed, whatever else writes there, or none."""

from pathlib import Path

import forks
import pytest
import torch
from torch import nn

from videomdm_ext.config import Speed
from videomdm_ext.mdm import text
from videomdm_ext.mdm.speed import approximate, exact, texts
from videomdm_ext.mdm.speed.fake_clip import CONTEXT, RandomTower, convert_weights, tokenize

SIZE = {"width": 64, "layers": 2, "heads": 2}
WALKS = ["a person walks", "someone jumps high and waves", "he sits", "a person walks"]


@pytest.fixture
def place(monkeypatch, tmp_path) -> Path:
    monkeypatch.setenv(texts.VARIABLE, str(tmp_path / "texts"))
    return tmp_path / "texts"


def files(place: Path) -> list[Path]:
    return sorted(found for found in place.rglob("*") if found.is_file())


class Denoiser(nn.Module):
    """The host's model, as far as it encodes text, with weights of a seed and CLIP's half precision."""

    seed = 0

    def __init__(self) -> None:
        super().__init__()
        self.clip_model = self.load_and_freeze_clip("ViT-B/32")
        self.encoded: list[tuple[str, ...]] = []

    def load_and_freeze_clip(self, clip_version):
        tower = RandomTower(self.seed, **SIZE).eval().requires_grad_(False)
        convert_weights(tower)
        return tower

    def clip_encode_text(self, raw_text):
        self.encoded.append(tuple(raw_text))
        tokens = nn.functional.pad(tokenize(raw_text, context_length=22, truncate=True), (0, CONTEXT - 22))
        return self.clip_model.encode_text(tokens).float().unsqueeze(0)


class OfAnotherSeed(Denoiser):
    seed = 1


def once(kind: type = Denoiser) -> Denoiser:
    return approximate.quicker(kind, Speed(encode_once=True))()


def computed(monkeypatch) -> list[int]:
    """-> the lengths of the texts that are computed from now on."""
    lengths: list[int] = []
    own = approximate.encode_alone
    monkeypatch.setattr(
        approximate, "encode_alone", lambda tower, tokens: lengths.append(len(tokens)) or own(tower, tokens)
    )
    return lengths


def test_the_next_program_reads_the_bits_that_the_first_computed(place, monkeypatch):
    lengths = computed(monkeypatch)
    first = once().clip_encode_text(WALKS)
    assert sorted(lengths) == [4, 5, 7]
    assert len(files(place)) == 3
    assert torch.equal(once().clip_encode_text(WALKS[::-1]).flip(1), first)
    assert len(lengths) == 3, "nothing was computed again"
    monkeypatch.setenv(texts.VARIABLE, "off")
    assert torch.equal(once().clip_encode_text(WALKS), first)
    assert len(lengths) == 6


def test_other_weights_and_another_processor_have_files_of_their_own(place, monkeypatch):
    one, other = (once(kind).clip_encode_text(WALKS[:1]) for kind in (Denoiser, OfAnotherSeed))
    assert not torch.equal(one, other)
    assert len({path.parents[1] for path in files(place)}) == 2
    monkeypatch.setattr(texts, "processor", lambda device: "another")
    once().clip_encode_text(WALKS[:1])
    assert len(files(place)) == 3


def test_a_text_has_the_same_bits_with_any_number_of_threads():
    """Where several threads share a product, its last bits differ."""
    alone = once().clip_encode_text(WALKS * 3)
    torch.set_num_threads(2)
    try:
        several = once().clip_encode_text(WALKS * 3)
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


def mine() -> text.Encode:
    def encode(words: str) -> torch.Tensor:
        return torch.arange(5.0) + len(words)

    vars(encode)["identity"] = lambda: "ab" * 32
    return encode


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


# -- the host's own encoder, which nothing changes ---------------------------------------------------------------------


def test_a_batch_that_is_asked_for_again_is_encoded_once_and_any_other_anew():
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
