"""A text tower of the size and interface of CLIP ViT-B/32 with random weights: for timing and tests, never for results.

`module()` stands in for OpenAI's package `clip`. The names below are those of that package's public interface.
"""

import hashlib
import re
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

CONTEXT, VOCABULARY = 77, 49408
START, END = VOCABULARY - 2, VOCABULARY - 1


class Norm(nn.LayerNorm):
    """Layer normalisation in float32, whatever comes in."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float()).to(x.dtype)


class Gelu(nn.Module):
    """CLIP's quick approximation."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (1.702 * x).sigmoid()


class Block(nn.Module):
    """Causal attention and a perceptron, each on normalised input and added to it. [T, B, C] -> [T, B, C]"""

    def __init__(self, width: int, heads: int, attn_mask: Tensor) -> None:
        super().__init__()
        self.attn, self.attn_mask = nn.MultiheadAttention(width, heads), attn_mask
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), Gelu(), nn.Linear(4 * width, width))
        self.ln_1, self.ln_2 = Norm(width), Norm(width)

    def forward(self, x: Tensor) -> Tensor:
        normal = self.ln_1(x)
        x = x + self.attn(normal, normal, normal, need_weights=False, attn_mask=self.attn_mask.to(x))[0]
        return x + self.mlp(self.ln_2(x))


class RandomTower(nn.Module):
    """Tokens [B, 77] -> features [B, `features`], read at the end token, which has the highest number."""

    def __init__(
        self, seed: int = 0, *, width: int = 512, layers: int = 12, heads: int = 8, features: int = 512
    ) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            mask = torch.full((CONTEXT, CONTEXT), float("-inf")).triu(1)
            self.token_embedding = nn.Embedding(VOCABULARY, width)
            self.positional_embedding = nn.Parameter(0.1 * torch.randn(CONTEXT, width))
            self.transformer = nn.ModuleDict(
                {"resblocks": nn.Sequential(*(Block(width, heads, mask) for _ in range(layers)))}
            )
            self.ln_final = Norm(width)
            self.text_projection = nn.Parameter(torch.randn(width, features) / width**0.5)

    @property
    def dtype(self) -> torch.dtype:
        return self.text_projection.dtype

    def encode_text(self, text: Tensor) -> Tensor:
        embedded = self.token_embedding(text).to(self.dtype) + self.positional_embedding.to(self.dtype)
        states = self.ln_final(self.transformer["resblocks"](embedded.transpose(0, 1)).transpose(0, 1))
        return states[torch.arange(len(text)), text.argmax(dim=-1)] @ self.text_projection


def tokenize(texts: str | Sequence[str], context_length: int = CONTEXT, truncate: bool = False) -> Tensor:
    """Each word hashed to a token, between start and end, cut or padded with zeros. -> [B, context_length]"""
    rows = [_tokens(text) for text in ([texts] if isinstance(texts, str) else texts)]
    tokens = torch.zeros(len(rows), context_length, dtype=torch.long)
    for place, row in zip(tokens, rows, strict=True):
        row = row if len(row) <= context_length else [*row[: context_length - 1], END]
        place[: len(row)] = torch.tensor(row)
    return tokens


def _tokens(text: str) -> list[int]:
    words = re.findall(r"[a-z0-9]+|[^\sa-z0-9]", text.lower())
    hashes = [int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "big") for word in words]
    return [START, *(1 + number % (START - 1) for number in hashes), END]


def convert_weights(model: nn.Module) -> None:
    """Halve the precision of the matrices and their biases, as CLIP does; embeddings and norms stay float32."""
    for part in model.modules():
        if isinstance(part, nn.Linear):
            part.half()
        if isinstance(part, nn.MultiheadAttention):
            part.in_proj_weight.data = part.in_proj_weight.data.half()
            part.in_proj_bias.data = part.in_proj_bias.data.half()
        if isinstance(part, RandomTower):
            part.text_projection.data = part.text_projection.data.half()


def module(**size: int) -> ModuleType:
    """A module for sys.modules["clip"] whose `load` gives a RandomTower of this size."""
    package, inner = ModuleType("clip"), ModuleType("clip.model")
    package.__spec__, inner.__spec__ = ModuleSpec("clip", None), ModuleSpec("clip.model", None)

    def load(name: str, device: Any = "cpu", jit: bool = False, **_: Any) -> tuple[RandomTower, None]:
        return RandomTower(**size).to(device).eval(), None

    vars(inner)["convert_weights"] = convert_weights
    vars(package).update(load=load, tokenize=tokenize, model=inner)
    return package
