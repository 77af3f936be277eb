"""Which text features a run uses: what was asked, what its checkpoint was trained with, and what loads here.

The choice is written into the arguments, so that args.json records it, with the plugin that registered the encoder.
`auto` stays where there is nothing to choose: a model without text, and MDM's BERT, which brings its own features. An
args.json without the key is stock MDM's: clip.
"""

import argparse
import json
import logging
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pluggy

from videomdm_ext import plugins
from videomdm_ext.errors import ConfigError
from videomdm_ext.mdm import text

logger = logging.getLogger(__name__)

OPTION, PLUGIN = "text_features", "text_features_plugin"
"""Keys of args.json."""


def settle(args: Namespace, argv: Sequence[str], manager: pluggy.PluginManager) -> text.TextEncoder | None:
    """Write into `args` what the run uses. -> its encoder; None is the host's own. ConfigError where it cannot be had.

    The same on the stand-in and on MDM: under `auto` the first encoder that loads, tried before anything is written.
    """
    asked = _known(getattr(args, OPTION, "auto"))
    if not has_choice(args):
        refuse_beside_bert(args, asked)
        if hasattr(args, OPTION):
            args.text_features = "auto"
        return None
    folder, before = checkpoint_folder(args), recorded(args)
    chosen = agree(asked, explicit(argv, OPTION), before.get(OPTION), folder)
    if chosen == "auto":
        chosen, problems = text.first(manager, text.AUTO)
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
        encoder = text.load(manager, chosen)
    except ConfigError as error:
        others = ", ".join(name for name in known if name != chosen)
        advice = f"{folder} was trained with them, so nothing else serves." if before else f"Or choose {others}."
        raise ConfigError(f"{error} {advice}") from error
    args.text_features = chosen
    if chosen not in text.AUTO:
        setattr(args, PLUGIN, plugins.origin(owners[chosen]))
    return encoder


def has_choice(args: Namespace) -> bool:
    """Whether the model reads text features that can be chosen."""
    reads = getattr(args, "dataset", "humanml") in ("humanml", "kit") and not getattr(args, "unconstrained", False)
    return reads and getattr(args, "text_encoder_type", "clip") == "clip"


def refuse_beside_bert(args: Namespace, asked: str) -> None:
    """MDM's BERT has features of another width than ours."""
    unconstrained = getattr(args, "unconstrained", False)
    if not unconstrained and getattr(args, "text_encoder_type", "clip") == "bert" and asked not in ("auto", "clip"):
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


def recorded(args: Namespace) -> dict[str, str]:
    """OPTION, and for an encoder of a plugin PLUGIN, of the checkpoint that is loaded or resumed.

    Empty where there is none, no args.json, or no choice in it.
    """
    folder = checkpoint_folder(args)
    if folder is None or not (folder / "args.json").is_file():
        return {}
    try:
        stored: dict[str, Any] = json.loads((folder / "args.json").read_text(encoding="utf-8"))
        found = {OPTION: _known(str(stored.get(OPTION, "clip")))}
        found |= {PLUGIN: str(stored[PLUGIN])} if PLUGIN in stored else {}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ConfigError(f"{folder / 'args.json'}: expected a run's arguments as JSON, found: {error}.") from error
    return {} if found[OPTION] == "auto" else found


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
