"""A run's checkpoints: files that appear whole or not at all, with finite numbers, from which a run goes on.

A paired run's bundle holds all that its continuation needs; it is written before the model and the optimizer that MDM
saves, so that whoever finds a model finds its bundle. A training stops at a number that is not finite, no checkpoint is
written with one, and none of those is used.
"""

import argparse
import json
import math
import os
import re
import shlex
import shutil
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from videomdm_ext.config import MADE, Supervision, from_args
from videomdm_ext.data import refined, seal
from videomdm_ext.data.files import flush, read_json
from videomdm_ext.data.folder import CARD, Card, read_card
from videomdm_ext.errors import DatasetError, HostError
from videomdm_ext.mdm import remedies
from videomdm_ext.mdm.pairing import random_states

PARTIAL = ".videomdm-partial"
"""Folder in a run's folder in which files are written before they get their places."""
LATER = {"conv_kernel": 0}
"""Options that came after the first release, with what trainings did before; their args.json lack them."""
CHECKPOINT = re.compile(r"model(\d+)\.pt")
UNWRITABLE = re.compile("inline_container|iostream|PytorchStreamWriter")
"""In the message of torch.save's RuntimeError where the disk is full."""
LATEST = "latest"
"""Value of --resume_checkpoint for the newest checkpoint in --save_dir, or none where there is none."""
FREE = re.compile(
    r"save_dir|overwrite|resume_checkpoint|num_steps|device|cuda|clips|clips_record|verify|data_dir|\w+_interval|train_platform_type"
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
            flush(path)
            os.replace(path, Path(folder) / path.name)
        flush(Path(folder))
    except (OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not UNWRITABLE.search(str(error)):
            raise
        raise HostError(
            f"{folder}: a checkpoint cannot be written ({error}). Make room on the disk, or correct the rights, and "
            "go on from the last one: those that are there are whole."
        ) from error
    finally:
        sweep(folder)


# -- where a paired run starts ----------------------------------------------------------------------------------------


def checkpoints(folder: str | os.PathLike[str]) -> list[Path]:
    """Every file model*.pt of the folder, by its step."""
    place = Path(folder)
    inside = place.iterdir() if place.is_dir() else ()
    return sorted((path for path in inside if CHECKPOINT.fullmatch(path.name) and path.is_file()), key=step_of)


def newest(folder: str | os.PathLike[str]) -> Path | None:
    """The model*.pt with the highest step in the folder."""
    return next(reversed(checkpoints(folder)), None)


def step_of(path: Path) -> int:
    """The step in a checkpoint's name. Raises HostError for any other name."""
    match = CHECKPOINT.fullmatch(path.name)
    if match is None:
        expected = "a file model000000000.pt, whose number is its step"
        raise HostError(f"--resume_checkpoint {path}: expected {expected}, found {path.name}. Name one, or {LATEST}.")
    return int(match[1])


def bundle_of(checkpoint: Path) -> Path:
    """Where the bundle of a model*.pt lies."""
    return checkpoint.with_name(f"bundle{step_of(checkpoint):09d}.pt")


def optimizer_of(checkpoint: Path) -> Path:
    """Where the optimizer of a model*.pt lies."""
    return checkpoint.with_name(f"opt{step_of(checkpoint):09d}.pt")


def beside_of(checkpoint: Path) -> list[Path]:
    """A model*.pt and what there is of its optimizer and its bundle."""
    return [checkpoint, *filter(Path.is_file, (optimizer_of(checkpoint), bundle_of(checkpoint)))]


def prepare(args: argparse.Namespace, *, bundled: bool) -> None:
    """Settle in `args` where a run starts that is paired, or goes on from the latest checkpoint: --resume_checkpoint
    becomes a path or empty, never silently so.

    `bundled`: its checkpoints have bundles (the stand-in keeps everything in its opt*.pt). The latest one is the latest
    whose files are whole, and those that are not are printed; without --paired a host takes the latest, whole or not.
    """
    found = checkpoints(args.save_dir)
    if args.resume_checkpoint == LATEST:
        while args.paired and found and (damage := next(filter(None, map(damage_of, beside_of(found[-1]))), "")):
            print(f"{damage}; going on from the one before")
            found.pop()
        args.resume_checkpoint = str(found[-1]) if found else ""
        args.overwrite = args.overwrite or Path(args.save_dir).is_dir()
    elif found and not args.resume_checkpoint:
        raise HostError(
            f"--save_dir {args.save_dir}: expected no checkpoint, as --paired goes on only where it is told to; found "
            f"{found[-1].name}. Pass --resume_checkpoint {found[-1]} (or --resume_checkpoint latest) to go on, or "
            "choose another --save_dir."
        )
    if not (args.resume_checkpoint and args.paired):
        return
    checkpoint = Path(args.resume_checkpoint)
    for path in (checkpoint, bundle_of(checkpoint) if bundled else optimizer_of(checkpoint)):
        if not path.is_file():
            raise HostError(
                f"--resume_checkpoint {checkpoint}: expected {path} with --paired, which goes on bit for bit, found "
                "none. Name a checkpoint of a paired run, or leave --paired out."
            )
    args.overwrite = args.overwrite or Path(args.save_dir).is_dir()


# -- the data it was trained on ---------------------------------------------------------------------------------------

RECORD = "clips_record"
"""In args.json: which data set --clips was (`data.seal.record`)."""


def check_clips(args: Any) -> None:
    """Record in `args` which data set a training is given.

    Raises DatasetError, before work begins, where files of it were changed, or where the training goes on from a
    checkpoint that was trained on another one. Weights of another run may meet other data, which is printed; so may
    those of a round meet the teachers that they made.
    """
    if not getattr(args, "clips", ""):
        return
    card = read_card(args.clips)
    thorough, teacher = getattr(args, "verify", False), from_args(Supervision, args).teacher
    refines = teacher in MADE
    if os.environ.get("RANK", "0") == "0":
        seal.verify(args.clips, card, thorough=thorough)
        if refines:
            refined.verify(args.clips, card, thorough=thorough, kind=teacher)
    start = start_of(args)
    before = recorded(start.with_name("args.json")) if start else {}
    setattr(args, RECORD, seal.record(card) | ({"teachers": refined.teachers_of(card)} if refines else {}))
    if start is None or card.recipe.get("refreshed", {}).get("from") == before.get("content", ""):
        return
    place, own = start.with_name("args.json"), start.parent.resolve() == Path(args.save_dir).resolve()
    if not before:
        print(f"{place}: it does not say which data set was trained on; going on with {args.clips}")
    elif own or getattr(args, "paired", False):
        advice = "Give --clips with that one, or train anew in another --save_dir."
        seal.check(before, card, place, args.clips, advice)
        if refines:
            _check_version(before, card, place, args.clips)
    elif found := seal.difference(before, card):
        print(f"{args.clips}: the weights of {start} were trained on {found}")


def settle_sampled(args: Any, checkpoint: Path) -> None:
    """Put into `args` where the statistics are that make motion of what is sampled from a checkpoint.

    Raises HostError where it is damaged or not finite, and DatasetError where --clips of its training is not there, or
    has other statistics than then. A training that began with other weights keeps its own beside them; where they are
    as then and the rest is not, that is printed. What an earlier version trained is taken as it is.
    """
    refuse(checkpoint)
    if getattr(args, "start_from", ""):
        args.start_statistics = str(checkpoint.resolve().parent)
    if not getattr(args, "clips", ""):
        return
    place = checkpoint.with_name("args.json")
    if "://" not in args.clips and not os.path.isfile(f"{args.clips}/{CARD}"):
        found = "a folder without a card" if os.path.isdir(args.clips) else "none"
        raise DatasetError(
            f"{args.clips}: expected the data set that {checkpoint} was trained on, found {found}. "
            "If it has been moved, give its folder: --trained_on DIR, or --clips DIR to a program of MDM's."
        )
    before, card, teacher = recorded(place), read_card(args.clips), from_args(Supervision, args).teacher
    seal.verify_whole(args.clips, card)
    refines, started = teacher in MADE, getattr(args, "start_from", "")
    found = seal.difference(before, card) if before else ""
    if found and not (started or (before.get("statistics") == seal.statistics_of(card) != {} and not refines)):
        advice = (
            "Its Mean and Std make motion of what is sampled: give the folder of that set, or train anew on this one."
        )
        raise DatasetError(f"{args.clips}: expected, as recorded in {place}, {found}. {advice}")
    if refines:
        if not started:
            _check_version(before, card, place, args.clips)
        if not refined.is_made(args.clips, card, teacher):
            raise DatasetError(
                f"{args.clips}: expected its {teacher} teachers, which {checkpoint} was trained on, found none that "
                f"are of its clips now. Make them: videomdm data refine {shlex.quote(args.clips)} --kind {teacher}."
            )
        refined.verify(args.clips, card, kind=teacher)
    if found:
        print(f"{args.clips}: {checkpoint} was trained on {found}; their statistics are the same")


def _check_version(before: Mapping[str, Any], card: Card, place: Path, clips: str) -> None:
    """Refuse refined teachers that are made in another way than those of a training; DatasetError."""
    was, now = (text.split()[-1] for text in (before.get("teachers") or "-", refined.teachers_of(card)))
    if was not in ("-", now):
        raise DatasetError(
            f"{clips}: expected refined teachers of version {was}, as recorded in {place}, found {now}, which this "
            "version of the package makes. Train anew in another --save_dir, or use the version that trained it."
        )


def recorded(place: Path) -> dict[str, Any]:
    """Which data set the training with this args.json had; empty where it does not say."""
    try:
        return dict(read_json(place, "args").get(RECORD, {})) if place.is_file() else {}
    except DatasetError:  # cut off while it was written
        return {}


# -- bundles ----------------------------------------------------------------------------------------------------------


def without_text_encoder(weights: dict[str, Any]) -> dict[str, Any]:
    """The weights that are saved: the frozen text encoder's never are."""
    return {name: value for name, value in weights.items() if not name.startswith("clip_model.")}


def content_of(loop: Any) -> dict[str, Any]:
    """Weights, their average where there is one, and the optimizer's state: what MDM saves of a loop."""
    content = {"model": without_text_encoder(loop.model.state_dict()), "opt": loop.opt.state_dict()}
    if getattr(loop, "model_avg", None) is not None:
        content["model_avg"] = without_text_encoder(loop.model_avg.state_dict())
    return content


def write(loop: Any) -> None:
    """Write the bundle of the loop's step."""
    rest = {"step": loop.step, "random": random_states(), "args": json.dumps(vars(loop.args))}
    with beside(loop.save_dir) as partial:
        torch.save({**content_of(loop), **rest}, Path(partial) / f"bundle{loop.step:09d}.pt")


def read(checkpoint: Path) -> dict[str, Any]:
    """The bundle of a checkpoint."""
    content: dict[str, Any] = torch.load(bundle_of(checkpoint), map_location="cpu", weights_only=True)
    return content


def fixed(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments that a continued run must have alike, as JSON has them."""
    content: dict[str, Any] = json.loads(json.dumps(vars(args)))
    return {name: value for name, value in content.items() if not FREE.fullmatch(name)}


def check_arguments(args: argparse.Namespace) -> None:
    """Raise HostError where a paired run goes on with other arguments than it began with, before the host keeps them.

    A bundle has them, or the stand-in's opt*.pt, where no earlier version has written that.
    """
    if not args.resume_checkpoint:
        return
    bundle, optimizer = bundle_of(Path(args.resume_checkpoint)), optimizer_of(Path(args.resume_checkpoint))
    path = bundle if bundle.is_file() else optimizer
    content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    before, now = json.loads(content.get("args", "{}")), fixed(args)
    for name in sorted(before.keys() & now.keys()):
        if before[name] != now[name]:
            raise HostError(
                f"--{name}: expected {before[name]!r} as in {path}, found {now[name]!r}. A paired run goes on with its "
                "own arguments; give them, or start anew in another --save_dir."
            )


# -- numbers that are not finite ---------------------------------------------------------------------------------------

MALFORMED = (RuntimeError, LookupError, TypeError, AttributeError, AssertionError, OSError, EOFError, UnpicklingError)
"""What torch and the hosts raise for a file that is no checkpoint."""


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether every number is finite.

    A finite norm says so at once; where one is not, finite numbers may have overflowed in it, and the largest magnitude
    of each tensor, seven times as slow on a CPU, decides.
    """
    alike: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for tensor in tensors:
        if tensor.is_floating_point() and tensor.numel():
            alike.setdefault((tensor.device, tensor.dtype), []).append(tensor.detach())
    return all(
        any(bool(torch.stack(torch._foreach_norm(part, order)).isfinite().all()) for order in (2, math.inf))
        for part in alike.values()
    )


def tensors_in(content: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors of a checkpoint's nested content, with the names of their places joined by dots."""
    if torch.is_tensor(content):
        yield name, content
    elif isinstance(content, Mapping | list | tuple):
        for key, part in content.items() if isinstance(content, Mapping) else enumerate(content):
            yield from tensors_in(part, f"{name}.{key}" if name else str(key))


def first_broken(content: Any) -> str:
    """The name of the first tensor that has a number which is not finite; empty where there is none."""
    if all_finite(tensor for _, tensor in tensors_in(content)):
        return ""
    return next(name for name, tensor in tensors_in(content) if not all_finite([tensor]))


# -- a training -------------------------------------------------------------------------------------------------------


def start_of(args: Any) -> Path | None:
    """The checkpoint that a training with these arguments goes on from, by the rule of both hosts, or None."""
    found = None if getattr(args, "paired", False) else newest(args.save_dir)
    named = getattr(args, "resume_checkpoint", "")
    return found or (Path(named) if named else None)


class Guard:
    """Stops a training at the step whose loss or weights are not finite, and before it saves any such number."""

    def __init__(self, args: Any, model: torch.nn.Module) -> None:
        self.args, self.good = args, start_of(args)
        self.weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}

    def check_step(self, step: int, loss: Tensor) -> None:
        """Raise HostError where the loss [B] or a weight is not finite after this step."""
        if all_finite([loss, *self.weights.values()]):
            return
        if not all_finite([loss]):
            raise self._error(f"the loss is {loss.mean().item()} at step {step}")
        raise self._error(f"the weight {first_broken(self.weights)} is not finite at step {step}")

    def check_saved(self, content: Any, name: str) -> None:
        """Raise HostError, before anything is written, where what is to be saved under this name is not finite."""
        broken = first_broken(content)
        if broken:
            raise self._error(f"{broken}, which {name} would hold, is not finite")

    def _error(self, what: str) -> HostError:
        last = f"The last good checkpoint is {self.good}" if self.good else "No checkpoint was written before"
        unlimited = getattr(self.args, "gradient_clip", None) == 0  # MDM has no such option
        limit = "or limit the gradient with --gradient_clip 1, " if unlimited else ""
        goes_on = self.good and not getattr(self.args, "paired", False)  # a paired run keeps its --lr
        again = f"go on with --resume_checkpoint {self.good}" if goes_on else "train again"
        return HostError(
            f"{self.args.save_dir}: {what}; the training stopped. {last}. Lower --lr, which is {self.args.lr:g}, "
            f"{limit}and {again} in another --save_dir."
        )


# -- a checkpoint -----------------------------------------------------------------------------------------------------


def refuse_resumed(args: Any) -> None:
    """Raise HostError where a training would go on from no checkpoint, or one with a number that is not finite."""
    start = start_of(args)
    if start is not None and "://" not in args.resume_checkpoint and not start.is_file():
        raise HostError(
            f"--resume_checkpoint {start}: expected a file model*.pt, found no such file. Name one, or {LATEST}."
        )
    if start is None:
        return
    if args.resume_checkpoint and Path(args.resume_checkpoint).resolve() != start.resolve():
        print(f"--resume_checkpoint {args.resume_checkpoint}: not used, as --save_dir goes on from its own {start}")
    refuse(*(beside_of(start) if CHECKPOINT.fullmatch(start.name) else [start]))


def refuse(checkpoint: Path, *beside: Path) -> None:
    """Raise HostError where the checkpoint, or a file beside it, is damaged or holds a number that is not finite."""
    for path in (checkpoint, *beside):
        if fault := damage_of(path) or broken_in(path):
            step = int(match[1]) if (match := CHECKPOINT.fullmatch(checkpoint.name)) else math.inf
            earlier = [other for other in checkpoints(checkpoint.parent) if step_of(other) < step]
            good = next((other for other in reversed(earlier) if not (damage_of(other) or broken_in(other))), None)
            otherwise = "Train again" if "damaged" in fault else "Train with a lower --lr"
            advice = f"Use {good}, the last good one, and remove what is later" if good else otherwise
            raise HostError(f"{fault}. {advice}.")


def broken_in(path: Path) -> str:
    """What to say of a file's first tensor that is not finite; empty where there is none or it cannot be read."""
    try:
        with torch.serialization.safe_globals(remedies.numbers()):
            name = first_broken(torch.load(path, map_location="cpu", weights_only=True))
    except MALFORMED:
        return ""
    return f"{path}: expected finite numbers, found others in {name}, as its training diverged" if name else ""


def damage_of(path: Path) -> str:
    """What to say of a file that is none that torch.save has written whole, or is of another step than its name says.

    Empty where nothing is wrong, or where it is no file: then the host says so.
    """
    if not path.is_file():
        return ""
    damaged = f"{path}: expected a checkpoint, found a damaged file"
    try:
        with zipfile.ZipFile(path) as archive:
            spoilt = archive.testzip()  # torch itself checks no sums
            if spoilt and archive.getinfo(spoilt).CRC:
                return f"{damaged}: its part {spoilt} is not what was written"
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError):
        with path.open("rb") as file:
            legacy = file.read(1) == b"\x80"  # as torch wrote before 2020
        return "" if legacy else f"{damaged} of {path.stat().st_size} bytes, empty or cut off"
    except MALFORMED:
        return ""
    step = content.get("step") if isinstance(content, Mapping) else None
    named = re.sub(r"\D", "", path.stem)
    if isinstance(step, int) and named and int(named) != step:
        return f"{path}: expected step {int(named)}, as its name says, found {step}: a damaged or renamed file"
    return ""
