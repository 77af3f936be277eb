"""TMR and MotionStreamer's evaluator from files in their layouts, against attention by loops over numbers."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from clips import CARD
from guo_files import write_manifest
from people import real_motions
from safetensors.torch import save_file
from scipy.special import erf
from torch import Tensor

from videomdm_ext.bench.evaluators import actor, t2m
from videomdm_ext.bench.evaluators.base import Ground, UnavailableError
from videomdm_ext.errors import DatasetError
from videomdm_ext.motion.features_272 import decode_272

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.extras

WIDTH, HIDDEN, LAYERS, LANGUAGE = 8, 12, 2, 16
VOCABULARY = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "person", "walks", "quickly", ".")
CAPTIONS = ("a person walks.", "a person walks quickly a person.", "zigzag")
Weights = dict[str, Tensor]


def encoder(channels: int, kind: str, seed: int) -> Weights:
    """-> random weights under the names of TMR (`tmr`), or of MotionStreamer's motion or text encoder."""
    draw = torch.Generator().manual_seed(seed)

    def layer(name: str, out: int, *shape: int) -> Weights:
        return {
            f"{name}.weight": torch.randn(out, *shape, generator=draw) / 2,
            f"{name}.bias": torch.randn(out, generator=draw),
        }

    tokens = torch.randn(2, WIDTH, generator=draw)
    name = {"tmr": "projection", "motion": "skel_embedding", "text": "projection.1"}[kind]
    found = layer(name, WIDTH, channels)
    found[f"{name}.weight"] *= 3 / channels**0.5  # attention to all steps, not to one alone
    if kind == "tmr":
        found["tokens"] = tokens
    else:
        found |= {
            "mu_token": tokens[0],
            "logvar_token": tokens[1],
            "sequence_pos_encoding.pe": torch.zeros(9, 1, WIDTH),
        }
    for number in range(LAYERS):
        start = f"seqTransEncoder.layers.{number}"
        inner = layer("in", 3 * WIDTH, WIDTH)
        found |= {f"{start}.self_attn.in_proj_{part}": inner[f"in.{part}"] for part in ("weight", "bias")}
        found |= layer(f"{start}.self_attn.out_proj", WIDTH, WIDTH)
        found |= layer(f"{start}.linear1", HIDDEN, WIDTH) | layer(f"{start}.linear2", WIDTH, HIDDEN)
        found |= layer(f"{start}.norm1", WIDTH) | layer(f"{start}.norm2", WIDTH)
    return found


def by_hand(rows: np.ndarray, own: Weights, *, relu: bool = False) -> np.ndarray:
    """What becomes of the first token of a sequence [T, C]."""
    value = {name: values.double().numpy() for name, values in own.items()}
    name = next(name for name in value if name.endswith("weight"))
    tokens = value["tokens"] if "tokens" in value else np.stack((value["mu_token"], value["logvar_token"]))
    embedded = (np.maximum(rows, 0) if relu else rows) @ value[name].T + value[name.replace("weight", "bias")]
    steps = np.concatenate((tokens, embedded))
    for place in range(len(steps)):
        for wave in range(WIDTH // 2):
            angle = place / 10000 ** (2 * wave / WIDTH)
            steps[place, 2 * wave] += math.sin(angle)
            steps[place, 2 * wave + 1] += math.cos(angle)

    def normed(values: np.ndarray, name: str) -> np.ndarray:
        spread = np.sqrt(values.var(1, keepdims=True) + 1e-5)
        return (values - values.mean(1, keepdims=True)) / spread * value[f"{name}.weight"] + value[f"{name}.bias"]

    for number in range(LAYERS):
        start, size = f"seqTransEncoder.layers.{number}", WIDTH // 4
        three = steps @ value[f"{start}.self_attn.in_proj_weight"].T + value[f"{start}.self_attn.in_proj_bias"]
        query, key, content = np.split(three, 3, 1)
        heads = []
        for at in (slice(head * size, (head + 1) * size) for head in range(4)):
            weight = np.exp(query[:, at] @ key[:, at].T / math.sqrt(size))
            heads.append(weight / weight.sum(1, keepdims=True) @ content[:, at])
        found = np.concatenate(heads, 1) @ value[f"{start}.self_attn.out_proj.weight"].T
        steps = normed(steps + found + value[f"{start}.self_attn.out_proj.bias"], f"{start}.norm1")
        inner = steps @ value[f"{start}.linear1.weight"].T + value[f"{start}.linear1.bias"]
        inner = inner * (1 + erf(inner / math.sqrt(2))) / 2
        inner = inner @ value[f"{start}.linear2.weight"].T + value[f"{start}.linear2.bias"]
        steps = normed(steps + inner, f"{start}.norm2")
    return steps[0]


def write_language(folder: Path, *, weights: bool) -> Weights:
    """Write a small DistilBERT, with its weights or without. -> them"""
    folder.mkdir(parents=True)
    sizes = {"vocab_size": len(VOCABULARY), "dim": LANGUAGE, "n_layers": 1, "n_heads": 2, "hidden_dim": 20}
    config = transformers.DistilBertConfig(**sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        model = transformers.DistilBertModel(config)
    config.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    if weights:
        save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    return model.state_dict()


def write_tmr(root: Path) -> Path:
    """-> the folder of --evaluators"""
    place = root / "tmr"
    for part, channels, seed in (("motion_encoder", 263, 1), ("text_encoder", LANGUAGE, 2)):
        file = place / "models/tmr_humanml3d_guoh3dfeats/last_weights" / f"{part}.pt"
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(encoder(channels, "tmr", seed), file)
    stats = place / "stats/humanml3d/guoh3dfeats"
    stats.mkdir(parents=True)
    for part, values in scales(263).items():
        torch.save(values, stats / f"{part}.pt")
    write_language(place / "distilbert-base-uncased", weights=True)
    return root


def write_streamer(root: Path) -> Path:
    """-> the folder of --evaluators"""
    place = root / "motionstreamer-272"
    language = write_language(place / "tokenizer", weights=False)
    state = {f"motion_encoder.{name}": v for name, v in encoder(272, "motion", 1).items()}
    state |= {f"text_encoder.{name}": v for name, v in encoder(LANGUAGE, "text", 2).items()}
    state |= {f"text_encoder.text_model.{name}": v for name, v in language.items()}
    save_file(state, place / "model.safetensors")
    (place / "stats").mkdir()
    for part, values in scales(272).items():
        np.save(place / "stats" / f"{part}.npy", values.numpy())
    write_manifest(place)
    return root


def scales(channels: int) -> Weights:
    return {"mean": torch.linspace(-0.1, 0.1, channels), "std": torch.linspace(0.1, 0.4, channels)}


def ground(folder: Path) -> Ground:
    return Ground(clips=str(folder / "set"), card=CARD, cache=folder, weights=str(folder))


KINDS = {
    "tmr": (write_tmr, actor.make_tmr, "tmr"),
    "motionstreamer-272": (write_streamer, actor.make_streamer, "motion"),
}


@pytest.mark.parametrize("name", KINDS)
def test_rows_of_motions_and_captions_are_those_of_attention_by_hand(tmp_path, name):
    write, make, kind = KINDS[name]
    evaluator = make(ground(write(tmp_path)))
    clips = [clip[:frames] for clip, frames in zip(real_motions().values(), (13, 8), strict=False)]
    rows = evaluator.motions(clips, 20.0).double().numpy()
    own = scales(evaluator.channels)
    for row, clip in zip(rows, clips, strict=True):
        scored = (evaluator.features(clip, 20.0).double() - own["mean"]) / own["std"]
        expected = by_hand(scored.numpy(), encoder(evaluator.channels, kind, 1))
        np.testing.assert_allclose(row, expected, rtol=0, atol=1e-5)
    texts = evaluator.captions(CAPTIONS)
    text_kind = "tmr" if kind == "tmr" else "text"
    for row, caption in zip(texts.double().numpy(), CAPTIONS, strict=True):
        (words,), (length,) = evaluator.words([caption])
        assert length == len(words) == {"zigzag": 3}.get(caption, len(caption.replace(".", " .").split()) + 2)
        expected = by_hand(words.double().numpy(), encoder(LANGUAGE, text_kind, 2), relu=text_kind == "text")
        np.testing.assert_allclose(row, expected, rtol=0, atol=1e-5)
    assert np.ptp(rows, 0).max() > 5e-4
    identity = evaluator.identity
    again = make(ground(tmp_path))
    assert again.identity == identity
    again.motion.embed.bias += 1e-3
    assert type(again)(again.motion, again.text, again.words, again.mean, again.std).identity != identity


def test_a_streamers_features_are_its_motion_at_30_frames_a_second(tmp_path):
    evaluator = actor.make_streamer(ground(write_streamer(tmp_path)))
    clip = real_motions()["dance_a"][:20]
    features = evaluator.features(clip, 20.0)
    assert features.shape == (28, 272)  # 19 / 20 s are 29 frames
    joints, _ = decode_272(features)
    rate = torch.linalg.vector_norm(joints[1:] - joints[:-1], dim=-1).mean() * 30
    assert rate == pytest.approx(torch.linalg.vector_norm(clip.diff(dim=0), dim=-1).mean().item() * 20, rel=0.1)


def test_missing_and_foreign_files_are_named_and_tmr_does_without_a_language_model(tmp_path):
    for make in (actor.make_tmr, actor.make_streamer):
        with pytest.raises(UnavailableError, match=r"in the folder of --evaluators, found none in"):
            make(ground(tmp_path))
    root = write_tmr(tmp_path) / "tmr"
    (root / "distilbert-base-uncased" / "vocab.txt").unlink()
    with pytest.raises(DatasetError, match=r"distilbert-base-uncased: expected DistilBERT.*neither vocab\.txt nor"):
        actor.make_tmr(ground(tmp_path))
    (root / "distilbert-base-uncased").rename(tmp_path / "elsewhere")
    torch.save(encoder(768, "tmr", 2), root / "models/tmr_humanml3d_guoh3dfeats/last_weights/text_encoder.pt")
    evaluator = actor.make_tmr(ground(tmp_path))
    assert evaluator.captions(CAPTIONS) is None
    assert "no DistilBERT" in str(evaluator.facts["captions"])
    assert evaluator.motions([real_motions()["dance_a"]], 20.0).shape == (1, WIDTH)
    for part, values, message in (
        ("std", torch.zeros(263), r"std\.pt: expected 263 deviations above 0, found other content \(0\)"),
        ("mean", torch.zeros(272), r"mean\.pt: expected 263 finite numbers, found other content"),
    ):
        place = root / "stats/humanml3d/guoh3dfeats" / f"{part}.pt"
        whole = place.read_bytes()
        torch.save(values, place)
        with pytest.raises(DatasetError, match=message):
            actor.make_tmr(ground(tmp_path))
        place.write_bytes(whole)
    place = root / "models/tmr_humanml3d_guoh3dfeats/last_weights/motion_encoder.pt"
    torch.save({name: values * torch.nan for name, values in encoder(263, "tmr", 1).items()}, place)
    with pytest.raises(DatasetError, match=r"motion_encoder\.pt: .*\(NaN or infinite ones\)"):
        actor.make_tmr(ground(tmp_path))
    torch.save(encoder(251, "tmr", 1), place)
    with pytest.raises(
        DatasetError, match=r"motion_encoder\.pt: .*263 channels, found other content \(weights for 251"
    ):
        actor.make_tmr(ground(tmp_path))
    assert t2m.features(real_motions()["dance_a"]).shape[1] == 263
