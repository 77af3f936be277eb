"""Evaluators with transformer encoders: TMR (`tmr`) and MotionStreamer's of 272 channels (`motionstreamer-272`).

Both sides are of one kind (TEMOS, 2022): two learned tokens before the sequence, sinusoidal positions, a transformer;
the row of a clip or caption is what becomes of the first token, the mean of its distribution. A caption's sequence is
what DistilBERT makes of its words. TMR reads HumanML3D's 263 channels at 20 fps, the other 272 at 30 fps.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from videomdm_ext.bench.evaluators import t2m, weights
from videomdm_ext.bench.evaluators.base import Evaluator, Ground, UnavailableError
from videomdm_ext.data.motions import frames_at, resample
from videomdm_ext.geometry.rotations import roma
from videomdm_ext.hookspecs import Register, hookimpl
from videomdm_ext.mdm.text import quiet_transformers
from videomdm_ext.motion.features_272 import CHANNELS, FPS, encode_272
from videomdm_ext.motion.skeletons import SMPL22
from videomdm_ext.render.fitting import fit

HEADS = 4
"""Of attention, in both; their weights do not tell."""
BATCH = 32
LONGEST, UNIT = 300, 4
"""Frames of MotionStreamer's motions at most, and what their number is a multiple of."""
NAMES = {"skel_embedding": "embed", "projection.1": "embed", "projection": "embed", "seqTransEncoder": "layers"}
"""Parameters' beginnings in the files, and here."""


class Actor(nn.Module):
    """Sequences [B, S, C], the first `lengths` [B] of each row. -> [B, W]"""

    def __init__(self, channels: int, width: int, hidden: int, layers: int, *, rectified: bool) -> None:
        super().__init__()
        self.before = nn.ReLU() if rectified else nn.Identity()
        self.embed = nn.Linear(channels, width)
        self.tokens = nn.Parameter(torch.zeros(2, width))
        layer = nn.TransformerEncoderLayer(width, HEADS, hidden, 0.0, "gelu", batch_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def forward(self, rows: Tensor, lengths: Tensor) -> Tensor:
        steps = torch.cat((self.tokens.expand(len(rows), -1, -1), self.embed(self.before(rows))), 1)
        outside = torch.arange(steps.shape[1], device=rows.device) >= (lengths.to(rows.device) + 2).unsqueeze(1)
        return self.layers(steps + waves(*steps.shape[1:]).to(steps), src_key_padding_mask=outside)[:, 0]


def waves(places: int, width: int) -> Tensor:
    """Sines and cosines in turn, of wavelengths from 2 pi to 10000 times as long (Vaswani et al. 2017). [S, W]"""
    rate = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    angle = torch.arange(places).unsqueeze(1) * rate
    return torch.stack((angle.sin(), angle.cos()), -1).flatten(1)


def build(state: Mapping[str, Tensor], path: Path, channels: int) -> Actor:
    """An encoder with these weights of a file, named without their module. DatasetError where they do not fit."""
    try:
        own: dict[str, Tensor] = {}
        for name, values in state.items():
            start = next((known for known in NAMES if name.startswith(f"{known}.")), None)
            if start:
                own[f"{NAMES[start]}{name.removeprefix(start)}"] = values
        own["tokens"] = (
            state["tokens"] if "tokens" in state else torch.stack((state["mu_token"], state["logvar_token"]))
        )
        width, found = own["embed.weight"].shape
        if found != channels:
            raise ValueError(f"weights for {found} channels")
        if not all(bool(values.isfinite().all()) for values in own.values()):
            raise ValueError("NaN or infinite ones")
        layers = len({name.split(".")[2] for name in own if name.startswith("layers.layers.")})
        hidden = len(own["layers.layers.0.linear1.weight"])
        actor = Actor(channels, width, hidden, layers, rectified="projection.1.weight" in state)
        actor.load_state_dict(own)
    except weights.BROKEN as error:
        raise weights.unfit(path, f"an encoder's weights for {channels} channels", error) from error
    return actor.eval().requires_grad_(False)


@dataclass(frozen=True)
class Words:
    """DistilBERT and its tokenizer."""

    tokenizer: Any
    model: Any

    def __call__(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """-> [B, S, 768] and the lengths [B]"""
        read = self.tokenizer(list(captions), return_tensors="pt", padding=True).to(self.model.device)
        return self.model(**read).last_hidden_state, read["attention_mask"].sum(1)


def read_words(folder: Path, state: Mapping[str, Tensor] | None = None) -> Words:
    """The tokenizer of a folder, and its model, or one of its configuration with these weights."""
    try:
        if not any((folder / name).is_file() for name in ("vocab.txt", "tokenizer.json")):
            raise ValueError("neither vocab.txt nor tokenizer.json")
        with quiet_transformers() as transformers:
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
            if state is None:
                model = transformers.AutoModel.from_pretrained(folder, local_files_only=True)
            else:
                config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
                model = transformers.AutoModel.from_config(config)
                model.load_state_dict(state)
    except ImportError as error:
        raise UnavailableError(
            f"{folder}: reading DistilBERT needs transformers: pip install -e '.[demo]' -c constraints.txt."
        ) from error
    except weights.BROKEN as error:
        raise weights.unfit(folder, "DistilBERT's tokenizer and model", error) from error
    return Words(tokenizer, model.eval().requires_grad_(False))


class Retrieval(Evaluator):
    """A motion encoder, a text encoder where DistilBERT is there, and the scales [C] of its channels."""

    published: ClassVar[bool] = True
    channels: ClassVar[int]

    def __init__(self, motion: Actor, text: Actor, words: Words | None, mean: Tensor, std: Tensor) -> None:
        self.motion, self.text, self.words, self.mean, self.std = motion, text, words, mean, std
        for network in (motion, text, *(() if words is None else (words.model,))):
            network.to("cuda" if torch.cuda.is_available() else "cpu")

    @cached_property
    def identity(self) -> str:
        parts = {"motion": self.motion, "text": self.text, **({"words": self.words.model} if self.words else {})}
        found = {f"{part}.{name}": v for part, one in parts.items() for name, v in one.state_dict().items()}
        return weights.hash_of_tensors(self.name, mean=self.mean, std=self.std, **found)

    @property
    def facts(self) -> Mapping[str, float | str]:
        return {} if self.words else {"captions": "none: no DistilBERT beside the weights"}

    def features(self, positions: Tensor, fps: float) -> Tensor:
        """Raw features [T, C] of positions [T, 22, 3], m."""
        raise NotImplementedError

    @torch.no_grad()
    def motions(self, clips: Sequence[Tensor], fps: float) -> Tensor:
        scored = [((self.features(clip, fps) - self.mean) / self.std).float() for clip in clips]
        made = []
        for start in range(0, len(scored), BATCH):
            part = scored[start : start + BATCH]
            rows = nn.utils.rnn.pad_sequence(part, batch_first=True).to(self.motion.tokens.device)
            made.append(self.motion(rows, torch.tensor([len(one) for one in part])).cpu())
        return torch.cat(made)

    @torch.no_grad()
    def captions(self, captions: Sequence[str]) -> Tensor | None:
        if self.words is None:
            return None
        parts = [captions[start : start + BATCH] for start in range(0, len(captions), BATCH)]
        return torch.cat([self.text(*self.words(part)).cpu() for part in parts])


class TMR(Retrieval):
    """TMR (Petrovich et al., ICCV 2023), trained on HumanML3D's features without their last frame."""

    name: ClassVar[str] = "tmr"
    comparable: ClassVar[str] = (
        "The weights are TMR's; its own figures are retrieval over a whole test set by angle, as on normalised rows."
    )
    channels: ClassVar[int] = 263

    def features(self, positions: Tensor, fps: float) -> Tensor:
        return t2m.features(positions)[:-1]


class Streamer(Retrieval):
    """MotionStreamer's evaluator (Xiao et al., ICCV 2025)."""

    name: ClassVar[str] = "motionstreamer-272"
    comparable: ClassVar[str] = (
        "Only numbers made here: joints are brought to 30 fps and their rotations fitted; the publisher has SMPL's."
    )
    channels: ClassVar[int] = CHANNELS

    def features(self, positions: Tensor, fps: float) -> Tensor:
        joints = resample(positions.double(), frames_at(len(positions), fps, FPS))[:LONGEST]
        fitted = fit(joints, SMPL22, FPS)
        turns = roma.unitquat_to_rotmat(roma.quat_wxyz_to_xyzw(fitted.rotations.double()))
        return encode_272(joints, turns)[: len(joints) // UNIT * UNIT]


RUN = "models/tmr_humanml3d_guoh3dfeats/"
PARTS = ("motion_encoder", "text_encoder")


def make_tmr(ground: Ground) -> TMR:
    """From the folder of its authors: weights of each encoder, statistics, and DistilBERT where it lies beside them."""
    t2m.check_space(ground, TMR.name)
    root = weights.folder_of(ground, TMR.name)
    places = {part: tuple(f"{below}last_weights/{part}.pt" for below in ("", RUN)) for part in PARTS}
    places |= {part: (f"stats/humanml3d/guoh3dfeats/{part}.pt", f"stats/{part}.npy") for part in ("mean", "std")}
    found = weights.located(root, TMR.name, places)
    scales = weights.read_scales(found["mean"], found["std"], TMR.channels)
    words = read_words(root / DISTILBERT) if (root / DISTILBERT).is_dir() else None
    inputs = words.model.config.hidden_size if words else 768
    motion, text = (
        build(weights.read_state(found[part]), found[part], size)
        for part, size in zip(PARTS, (TMR.channels, inputs), strict=True)
    )
    return TMR(motion, text, words, *scales)


DISTILBERT = "distilbert-base-uncased"


def make_streamer(ground: Ground) -> Streamer:
    """From model.safetensors in the layout of Motius, or from a Lightning checkpoint with statistics and DistilBERT."""
    t2m.check_space(ground, Streamer.name)
    root = weights.folder_of(ground, Streamer.name)
    places = {
        "weights": ("model.safetensors", "epoch=99.ckpt", "Evaluator_272/epoch=99.ckpt"),
        "mean": ("stats/mean.npy", "mean_std/Mean.npy", "humanml3d_272/mean_std/Mean.npy"),
        "std": ("stats/std.npy", "mean_std/Std.npy", "humanml3d_272/mean_std/Std.npy"),
        "tokenizer": ("tokenizer", DISTILBERT, f"Evaluator_272/deps/{DISTILBERT}"),
    }
    found = weights.located(root, Streamer.name, places)
    place = found["weights"]
    names = PARTS if place.suffix == ".safetensors" else ("motionencoder", "textencoder")
    state = weights.read_weights(place, names)
    parts = [{k.removeprefix(f"{n}."): v for k, v in state.items() if k.startswith(f"{n}.")} for n in names]
    language = {k.removeprefix("text_model."): v for k, v in parts[1].items() if k.startswith("text_model.")}
    words = read_words(found["tokenizer"], language)
    text = {name: values for name, values in parts[1].items() if not name.startswith("text_model.")}
    motion = build(parts[0], place, CHANNELS)
    scales = weights.read_scales(found["mean"], found["std"], CHANNELS)
    return Streamer(motion, build(text, place, words.model.config.hidden_size), words, *scales)


@hookimpl
def register_evaluators(register: Register) -> None:
    register(TMR.name, make_tmr)
    register(Streamer.name, make_streamer)
