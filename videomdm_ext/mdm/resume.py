"""A run's checkpoints: files that appear whole or not at all, and, for a paired run, all that its continuation needs.

A bundle is written before the model and the optimizer that MDM saves, so that whoever finds a model finds its bundle.
"""

import argparse
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from videomdm_ext.errors import HostError
from videomdm_ext.mdm.pairing import random_states

PARTIAL = ".videomdm-partial"
"""Folder in a run's folder in which files are written before they get their places."""
CHECKPOINT = re.compile(r"model(\d+)\.pt")
LATEST = "latest"
"""Value of --resume_checkpoint for the newest checkpoint in --save_dir, or none where there is none."""
FREE = re.compile(
    r"save_dir|overwrite|resume_checkpoint|num_steps|device|cuda|clips|data_dir|\w+_interval|train_platform_type"
    r"|(eval|gen)_\w+"
)
"""Arguments that a continued run may have otherwise: they do not change its updates."""


# -- whole files ------------------------------------------------------------------------------------------------------


def sweep(folder: str | os.PathLike[str]) -> None:
    """Remove what a run that was cut off in writing has left."""
    shutil.rmtree(Path(folder) / PARTIAL, ignore_errors=True)


@contextmanager
def beside(folder: str | os.PathLike[str]) -> Iterator[str]:
    """A folder to write files into; at the end they are moved to `folder`, models last. After an error none is."""
    sweep(folder)
    partial = Path(folder) / PARTIAL
    partial.mkdir()
    try:
        yield str(partial)
        for path in sorted(partial.iterdir(), key=lambda path: (CHECKPOINT.fullmatch(path.name) is not None, path)):
            _flush(path)
            os.replace(path, Path(folder) / path.name)
        _flush(Path(folder))
    finally:
        sweep(folder)


def _flush(path: Path) -> None:
    """Wait until a file, or a folder's list of files, is on the disk; folders cannot be asked everywhere."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# -- where a paired run starts ----------------------------------------------------------------------------------------


def checkpoints(folder: str | os.PathLike[str]) -> list[Path]:
    """Every model*.pt of the folder, by its step."""
    place = Path(folder)
    found = [path for path in place.iterdir() if CHECKPOINT.fullmatch(path.name)] if place.is_dir() else []
    return sorted(found, key=step_of)


def newest(folder: str | os.PathLike[str]) -> Path | None:
    """The model*.pt with the highest step in the folder."""
    return next(reversed(checkpoints(folder)), None)


def step_of(path: Path) -> int:
    """The step in a checkpoint's name. Raises HostError for any other name."""
    match = CHECKPOINT.fullmatch(path.name)
    if match is None:
        raise HostError(f"--resume_checkpoint {path}: expected a file model000000000.pt, whose number is its step.")
    return int(match[1])


def bundle_of(checkpoint: Path) -> Path:
    """Where the bundle of a model*.pt lies."""
    return checkpoint.with_name(f"bundle{step_of(checkpoint):09d}.pt")


def prepare(args: argparse.Namespace, *, bundled: bool) -> None:
    """Settle in `args` where a paired run starts: --resume_checkpoint becomes a path or empty, never silently so.

    `bundled`: its checkpoints have bundles (the stand-in keeps everything in its opt*.pt).
    """
    found = newest(args.save_dir)
    if args.resume_checkpoint == LATEST:
        args.resume_checkpoint = str(found) if found else ""
        args.overwrite = args.overwrite or Path(args.save_dir).is_dir()
    elif found and not args.resume_checkpoint:
        raise HostError(
            f"--save_dir {args.save_dir}: expected no checkpoint, as --paired goes on only where it is told to; found "
            f"{found.name}. Pass --resume_checkpoint {found} (or --resume_checkpoint latest) to go on, or choose "
            "another --save_dir."
        )
    if not args.resume_checkpoint:
        return
    checkpoint = Path(args.resume_checkpoint)
    needed = [checkpoint, bundle_of(checkpoint)] if bundled else [checkpoint]
    for path in needed:
        if not path.is_file():
            raise HostError(
                f"--resume_checkpoint {checkpoint}: expected {path} with --paired, which goes on bit for bit, found "
                "none. Name a checkpoint of a paired run, or leave --paired out."
            )
    args.overwrite = args.overwrite or Path(args.save_dir).is_dir()


# -- bundles ----------------------------------------------------------------------------------------------------------


def without_text_encoder(weights: dict[str, Any]) -> dict[str, Any]:
    """The weights that are saved: the frozen text encoder's never are."""
    return {name: value for name, value in weights.items() if not name.startswith("clip_model.")}


def content_of(loop: Any) -> dict[str, Any]:
    """Weights, their average where there is one, and the optimizer's state: what MDM saves of a loop."""
    content = {"model": without_text_encoder(loop.model.state_dict()), "opt": loop.opt.state_dict()}
    if loop.model_avg is not None:
        content["model_avg"] = without_text_encoder(loop.model_avg.state_dict())
    return content


def write(loop: Any) -> None:
    """Write the bundle of the loop's step."""
    rest = {"step": loop.step, "random": random_states(), "args": json.dumps(vars(loop.args))}
    with beside(loop.save_dir) as partial:
        torch.save({**content_of(loop), **rest}, Path(partial) / f"bundle{loop.step:09d}.pt")


def read(checkpoint: Path, args: argparse.Namespace) -> dict[str, Any]:
    """The bundle of a checkpoint, for a run with the same arguments. Raises HostError where they differ."""
    path = bundle_of(checkpoint)
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    before, now = json.loads(content["args"]), json.loads(json.dumps(vars(args)))
    for name in sorted(before.keys() & now.keys()):
        if before[name] != now[name] and not FREE.fullmatch(name):
            raise HostError(
                f"--{name}: expected {before[name]!r} as in {path}, found {now[name]!r}. A paired run goes on with its "
                "own arguments; give them, or start anew in another --save_dir."
            )
    return content
