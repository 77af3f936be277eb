"""Between this package and a host: the host's parser gets the options, and the final arguments swap module globals.

The line that `videomdm install` appends to utils/parser_util.py calls `attach`; `run` and `use` do the same from
outside, for a checkout that is not edited. Only names that the host looks up at call time are replaced. Under
`--supervision 3d` with no option of ours in use, nothing is.
"""

import argparse
import atexit
import contextlib
import dataclasses
import functools
import importlib
import importlib.util
import io
import math
import os
import runpy
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

import pluggy

from videomdm_ext import plugins
from videomdm_ext.config import Fairness, Source, Supervision, from_args
from videomdm_ext.data import locks
from videomdm_ext.data.files import read_json
from videomdm_ext.data.folder import read_card, read_folder
from videomdm_ext.errors import ConfigError, HostError, counted, message_of
from videomdm_ext.mdm import data, distributed, evaluation, finetuning, loop, loss, pairing, remedies, resume, text
from videomdm_ext.mdm.checkout import DENOISERS, ENDS, OPTIONS, PACKAGES, PARSER, RULES, STANDIN, Checkout, require
from videomdm_ext.mdm.imports import after
from videomdm_ext.mdm.speed import approximate, exact

TRAINERS = "train"
"""The host's package whose programs train."""

_in_use: Checkout | None = None
_training = contextlib.ExitStack()
atexit.register(_training.close)


# -- the host's command line ------------------------------------------------------------------------------------------


def attach(names: dict[str, Any]) -> None:
    """Hook utils.parser_util, given its globals, as the last thing that its code does. Errors of ours print briefly."""
    usual = sys.excepthook

    def briefly(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        message = message_of(error)
        if message is not None:
            print(f"error: {message}", file=sys.stderr)
        else:
            usual(kind, error, trace)

    sys.excepthook = briefly
    if Path(sys.argv[0]).parent.name == TRAINERS:
        distributed.hush()
    require(root_of(names), "uninstall")
    begin()
    wrap(names)


def wrap(names: dict[str, Any]) -> None:
    """Replace the functions of utils.parser_util by ones that call `add_options` and `activate`. Repeatable.

    Our options go into the group titled `diffusion`, which args.json restores, right after the host has made it.
    """

    def add(parser: argparse.ArgumentParser, _: None) -> None:
        groups = [group for group in parser._action_groups if group.title == "diffusion"]
        if not groups:
            raise HostError(
                f"{PARSER}: {OPTIONS} makes no group titled 'diffusion'. This MDM is too different; "
                "videomdm doctor names commits that are tested."
            )
        add_options(groups[-1])

    names[OPTIONS] = hooked(names[OPTIONS], add)
    for end in (RULES,) if RULES in names else names.keys() & ENDS:
        names[end] = hooked(names[end], lambda *given: activate(given[-1]))


def hooked(own: Callable[..., Any], then: Callable[..., None]) -> Callable[..., Any]:
    """The host's function, after which `then` is called with its arguments and its result."""
    host: Callable[..., Any] = vars(own).get("hooks", own)

    @functools.wraps(host)
    def function(*given: Any, **named: Any) -> Any:
        result = host(*given, **named)
        then(*given, result)
        return result

    function.__dict__["hooks"] = host
    return function


# -- from outside -----------------------------------------------------------------------------------------------------


def run(checkout: Checkout, module: str, argv: Sequence[str]) -> None:
    """Run `module` of the checkout as the main program with the arguments `argv` and this package's options."""
    use(checkout)
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise HostError(f"{checkout.root}: no module {module}. Name one of its programs, for example train.train_mdm.")
    if module.split(".")[0] == TRAINERS:
        distributed.hush()
    before = sys.argv
    sys.argv = [module, *argv]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        _training.close()
        sys.argv = before


def use(checkout: Checkout) -> None:
    """Make the checkout's modules importable in this process and hook its command line. Repeating it is harmless."""
    if checkout.kind == "mdm":
        begin()
    claim(checkout)
    wrap(vars(importlib.import_module("utils.parser_util")))


def claim(checkout: Checkout) -> None:
    """Put the checkout first on the import path, once a process: module names of two checkouts are the same."""
    global _in_use
    if _in_use == checkout:
        return
    if _in_use is not None:
        raise HostError(f"{checkout.root}: this process already uses {_in_use.root}. Start another process for it.")
    root = str(checkout.root)
    sys.path.insert(0, root)
    importlib.invalidate_caches()
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        places = [] if spec is None else [spec.origin, *(spec.submodule_search_locations or [])]
        place = next(filter(None, places), "nothing")
        if (checkout.root / package).is_dir() and not Path(place).is_relative_to(root):
            sys.path.remove(root)
            raise HostError(
                f"{root}: its package {package} is hidden by {place}. "
                "Start from another folder, or uninstall what owns that package."
            )
    _in_use = checkout


# -- the options and what they do -------------------------------------------------------------------------------------


def begin() -> None:
    """Make the process ready before a checkout's modules are imported. Repeating it is harmless."""
    remedies.prepare()
    exact.attach()
    after("train.training_loop", loop.replace)


@cache
def manager() -> pluggy.PluginManager:
    """The plugins of this process, the host's own first."""
    return plugins.create_manager()


def add_options(group: "argparse._ArgumentGroup") -> None:
    """Add every plugin's options to the host's existing group, so that its args.json restores them."""
    manager().hook.add_options(group=group)


def activate(args: argparse.Namespace, *, loading: bool = False) -> None:
    """Check the final arguments, then let the host build what they ask for.

    `loading`: they are those of a training whose checkpoint is to be used, and nothing is trained with them.
    """
    trains = not loading and hasattr(args, "save_dir") and hasattr(args, "num_steps")
    if not loading and not (trains and distributed.launched()):
        distributed.check_one_process()
    start = settle(args, trains=trains)
    _swap_model(args, text.settle(args, sys.argv[1:], manager()), start)
    if pairing.trains_paired(args):
        resume.check_arguments(args)
    if trains and distributed.launched():
        meet(args)
        if start is not None and distributed.rank():  # its own folder, as rank 0 may not have made that of the run yet
            start, args.start_statistics = dataclasses.replace(start, folder=Path(args.save_dir)), args.save_dir
    _swap_data(args, start)


def settle(args: argparse.Namespace, *, trains: bool) -> finetuning.Start | None:
    """Check the final arguments and complete them. -> what a training with --start_from begins with"""
    start = None
    if trains:
        named = getattr(args, "resume_checkpoint", "")
        if named not in ("", resume.LATEST) and (found := resume.newest(named)):  # it is a run's folder
            args.resume_checkpoint = str(found)
        if from_args(Source, args).start_from:
            start = finetuning.settle(args, sys.argv[1:], _root())
        loss.check_numbers(args)
        check_seams(args)
        if os.environ.get("RANK", "0") == "0":  # the others write nothing there
            _training.enter_context(locks.held(args.save_dir))
    moved = text.explicit(sys.argv[1:], "clips")
    if moved is not None:  # the folder may lie elsewhere than where args.json says that the training found it
        args.clips = moved
    paired = pairing.trains_paired(args)
    if paired or (trains and getattr(args, "resume_checkpoint", "") == resume.LATEST):
        # the stand-in's optimizer files hold what a bundle does
        resume.prepare(args, bundled=paired and not _root().is_relative_to(STANDIN))
    if trains:
        resume.refuse_resumed(args)
        resume.check_clips(args)
    elif getattr(args, "model_path", ""):
        checkpoint = Path(args.model_path)
        if (stored := checkpoint.with_name("args.json")).is_file():
            loss.check_stored(argparse.Namespace(**read_json(stored, "args")), checkpoint)
        resume.settle_sampled(args, checkpoint)
    manager().hook.configure(args=args)
    if trains:
        fit_batch(args)
        check_positions(args)
        distributed.check_parts(args)
        if getattr(args, "eval_during_training", False):
            evaluation.check_during_training(args, _root())
    return start


def _swap_model(args: argparse.Namespace, encoder: text.TextEncoder | None, start: finetuning.Start | None) -> None:
    """Let the host build the diffusion and the denoiser that the arguments ask for."""
    model_util = importlib.import_module("utils.model_util")
    own, paired = _own(model_util, "SpacedDiffusion"), pairing.trains_paired(args)
    diffusion = manager().hook.make_diffusion(base=own, args=args, terms=loss.loss_terms(manager()))
    if paired:
        diffusion = pairing.paired_diffusion(diffusion or own, args.seed)
    _swap(model_util, "SpacedDiffusion", diffusion)
    if hasattr(model_util, "get_model_args"):
        clips = from_args(Source, args).clips
        _swap(model_util, "get_model_args", as_wide_as_clips(_own(model_util, "get_model_args")) if clips else None)
    name = next(name for name in DENOISERS if hasattr(model_util, name))
    denoiser = _own(model_util, name)
    exact.keep_last_text(denoiser)
    unconstrained = getattr(args, "unconstrained", False)
    denoiser = without_text(denoiser) if unconstrained else with_text_encoder(denoiser, encoder)
    if start is not None:
        denoiser = start.begun(denoiser)
    denoiser = approximate.quicker(denoiser, approximate.activate(args, sys.argv[1:]))
    _swap(model_util, name, pairing.paired_model(denoiser, args.seed) if paired else denoiser)


def check_seams(args: argparse.Namespace) -> None:
    """Raise HostError where the checkout lacks something that this training hooks."""
    ours = from_args(Supervision, args).supervision == "2d" or bool(from_args(Source, args).clips)
    program = "--paired" if pairing.trains_paired(args) else "train 2d" if ours else "train 3d"
    if not _root().is_relative_to(STANDIN):
        require(_root(), program)


def fit_batch(args: argparse.Namespace) -> None:
    """Lower --batch_size to the number of training clips where there are fewer, for every arm alike, and print it."""
    count = read_card(args.clips).counts.get("train", 0) if args.clips else 0
    if 0 < count < args.batch_size:
        clips = counted(count, "training clip")
        print(f"{args.clips}: {clips}, fewer than --batch_size {args.batch_size}; it is {count} instead")
        args.batch_size = count


def check_positions(args: argparse.Namespace) -> None:
    """Raise ConfigError where the denoiser would have positions for fewer frames than a crop of --clips has."""
    source, table = from_args(Source, args), getattr(args, "pos_embed_max_len", math.inf)
    if source.clips and table <= source.crop_frames:
        frames = min(source.crop_frames, read_folder(source.clips, "train")[1].longest)
        if table <= frames:
            raise ConfigError(
                f"--pos_embed_max_len: expected {frames + 1} or more, for the text and the {frames} frames of a crop, "
                f"found {table}. Raise it, or lower --crop_frames."
            )


def meet(args: argparse.Namespace) -> None:
    """Go on together with the other processes, when rank 0 has made the teachers that all read."""
    source, supervision = from_args(Source, args), from_args(Supervision, args)
    start = resume.start_of(args)
    if source.clips and os.environ["RANK"] == "0":
        data.with_teacher(source.clips, read_card(source.clips), [], supervision.teacher)
    distributed.join(args)
    if distributed.rank():  # its own folder holds no checkpoint
        args.resume_checkpoint = str(start or "")


def _root() -> Path:
    """The folder of the host in use."""
    return root_of(vars(importlib.import_module("utils.parser_util")))


def root_of(names: dict[str, Any]) -> Path:
    """The folder of the host with these globals of utils.parser_util, which may be a link to a file elsewhere in it."""
    return Path(names["__file__"]).absolute().parents[1].resolve()


def _swap(module: Any, name: str, replacement: Any | None) -> None:
    """Replace a module's global, or put the host's own back with None; the host's own stays beside it.

    Forks hand their classes to functions as default arguments, which no name of the module reaches; there the host's
    own class itself makes an instance of what replaces it.
    """
    own = _own(module, name)
    setattr(module, f"_host_{name}", own)
    setattr(module, name, own if replacement is None else replacement)
    if isinstance(own, type) and any(own in (getattr(f, "__defaults__", None) or ()) for f in vars(module).values()):
        own.__new__ = lambda kind, *_, **__: (  # type: ignore[assignment]
            object.__new__(replacement or kind if kind is own else kind)
        )


def _own(module: Any, name: str) -> Any:
    """The host's own global, whether or not it is replaced."""
    return getattr(module, f"_host_{name}", getattr(module, name))


def as_wide_as_clips(own: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """The host's description of its denoiser, which has HumanML3D's 263 features, with those of the clips' skeleton."""

    @functools.wraps(own)
    def get_model_args(args: argparse.Namespace, data: Any) -> dict[str, Any]:
        found = own(args, data)
        return {**found, "njoints": getattr(data.dataset, "num_features", found["njoints"])}

    return get_model_args


def with_text_encoder(base: type, encoder: text.TextEncoder | None) -> type:
    """The host's MDM, which asks `encoder(texts)` [B, 512], where there is one, in place of loading CLIP."""
    if encoder is None:
        return base
    ours = encoder

    class WithTextEncoder(base):
        def __init__(self, *positional: Any, **named: Any) -> None:
            with contextlib.redirect_stdout(io.StringIO()) as said:
                super().__init__(*positional, **named)
            print(said.getvalue().replace("Loading CLIP...", f"Text features: {ours.name}"), end="")

        def load_and_freeze_clip(self, clip_version: str) -> Any:
            return ours

    def encode(self: Any, raw_text: Sequence[str]) -> Any:
        features = ours(raw_text).to(next(self.parameters()).device)
        return features.unsqueeze(0) if name == text.ENCODES[0] else features

    name = text.encodes(base)
    setattr(WithTextEncoder, name, encode)
    return WithTextEncoder


def without_text(base: type) -> type:
    """The host's MDM under --unconstrained, which the captions of a batch do not trip up: the hosts' samplers ask every
    model to encode them, and its decoder asks which encoder it has."""

    class WithoutText(base):
        text_encoder_type = "clip"

        def encode_text(self, raw_text: Sequence[str]) -> Any:
            return next(self.parameters()).new_zeros(1, len(raw_text), self.clip_dim)

    return WithoutText


def _swap_data(args: argparse.Namespace, start: finetuning.Start | None) -> None:
    """Train on --clips where it is given, and let plugins wrap what the host loads; with --paired, read data anew."""
    source, supervision = from_args(Source, args), from_args(Supervision, args)
    get_data = importlib.import_module("data_loaders.get_data")
    if hasattr(get_data, "get_dataset_class"):
        classes = pairing.fresh_dataset_class(_own(get_data, "get_dataset_class"), args.seed)
        alike = from_args(Fairness, args).paired or distributed.size() > 1  # one process would read what another writes
        _swap(get_data, "get_dataset_class", classes if alike else None)
    wrapping = manager().hook.wrap_dataset.get_hookimpls()
    if not source.clips and not wrapping:
        _swap(get_data, "get_dataset", None)
        part = sized_for_part(_own(get_data, "get_collate_fn")) if distributed.size() > 1 else None
        _swap(get_data, "get_collate_fn", part)
        return
    host_dataset, host_collate = _own(get_data, "get_dataset"), _own(get_data, "get_collate_fn")
    opened: list[Any] = []

    @functools.wraps(host_dataset)
    def get_dataset(name: str, num_frames: int, split: str = "train", *rest: Any, **named: Any) -> Any:
        hml_mode = rest[0] if rest else named.get("hml_mode", named.get("load_mode", "train"))
        if start is not None:
            start.write()
        if not source.clips:
            dataset = host_dataset(name, num_frames, split, *rest, **named)
        elif hml_mode in ("eval", "gt"):
            if not hasattr(get_data, "get_dataset_class"):
                raise HostError(
                    f"{get_data.__file__}: expected evaluators for mode {hml_mode!r}, found the stand-in, which has "
                    "none. Run it in an MDM checkout with --mdm, or train and score arms with videomdm bench "
                    "--dataset DIR."
                )
            named.pop("hml_mode", None)
            named = {"num_frames": num_frames, "mode": hml_mode, **named}
            kind = get_data.get_dataset_class(name)
            dataset = data.open_evaluation(kind, source, supervision, split=split, **named)
        else:
            dataset = data.open_for(source, supervision, args, split=split, mode=hml_mode, num_frames=num_frames)
            dataset.device = named.get("device") or "cpu"
        opened[:] = [dataset]
        return plugins.wrap_dataset(manager(), dataset, args=args, split=split)

    @functools.wraps(host_collate)
    def get_collate_fn(name: str, *rest: Any, **named: Any) -> Any:
        dataset = opened[-1] if opened else None
        if not isinstance(dataset, data.HostDataset):
            return sized_for_part(host_collate)(name, *rest, **named)
        batch_size = rest[2] if len(rest) > 2 else named.get("batch_size", getattr(args, "num_samples", 1))
        if len(dataset) < batch_size:
            raise HostError(
                f"{source.clips}: expected {batch_size} clips for a batch, found {len(dataset)}. "
                "Lower --batch_size, or --num_samples when sampling."
            )
        return dataset.collate

    _swap(get_data, "get_dataset", get_dataset)
    _swap(get_data, "get_collate_fn", get_collate_fn)


def sized_for_part(get_collate_fn: Callable[..., Any]) -> Callable[..., Any]:
    """The host's `get_collate_fn`, which fills a batch up to its size, for this process's part of one in training."""

    @functools.wraps(get_collate_fn)
    def get(name: str, hml_mode: str = "train", *rest: Any, **named: Any) -> Any:
        if hml_mode == "train" and len(rest) > 1:
            rest = (*rest[:-1], rest[-1] // distributed.size())
        return get_collate_fn(name, hml_mode, *rest, **named)

    return get
