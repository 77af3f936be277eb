"""Run a module of an MDM checkout with this package's options, without editing the checkout.

Two module globals of utils.parser_util are wrapped: `add_diffusion_options`, so that the options land in the group
that args.json restores, and `apply_rules`, which every parser calls last, so that the options act before the rest.
"""

import argparse
import functools
import importlib
import importlib.util
import runpy
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from videomdm_ext.errors import HostError
from videomdm_ext.mdm import placing
from videomdm_ext.mdm.checkout import Checkout

PACKAGES = ("utils", "model", "diffusion", "data_loaders", "train", "sample", "eval", "visualize")
INSTALLED = placing.ALIAS
"""Name under which an edited utils/parser_util.py imports mdm/installed.py; such a checkout needs no wrapping."""
AddOptions = Callable[[argparse._ArgumentGroup], None]
Activate = Callable[[argparse.Namespace], None]

_in_use: Checkout | None = None


def run(checkout: Checkout, module: str, argv: Sequence[str], *, add_options: AddOptions, activate: Activate) -> None:
    """Run `module` of the checkout as the main program with the arguments `argv`."""
    use(checkout, add_options=add_options, activate=activate)
    if not exists(module):
        raise HostError(f"{checkout.root}: no module {module}. Name one of its programs, for example train.train_mdm.")
    before = sys.argv
    sys.argv = [module, *argv]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        sys.argv = before


def use(checkout: Checkout, *, add_options: AddOptions, activate: Activate) -> None:
    """Make the checkout's modules importable in this process and hook its command line. Repeating it is harmless."""
    claim(checkout)
    names = vars(importlib.import_module("utils.parser_util"))
    if INSTALLED in names:
        return
    names["add_diffusion_options"] = with_options(original(names["add_diffusion_options"]), add_options)
    names["apply_rules"] = with_activation(original(names["apply_rules"]), activate)


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
        place = location(package)
        if (checkout.root / package).is_dir() and not Path(place).is_relative_to(root):
            sys.path.remove(root)
            raise HostError(
                f"{root}: its package {package} is hidden by {place}. "
                "Start from another folder, or uninstall what owns that package."
            )
    _in_use = checkout


def location(package: str) -> str:
    """Where an import of this package leads."""
    spec = importlib.util.find_spec(package)
    places = [] if spec is None else [spec.origin or "", *(spec.submodule_search_locations or [])]
    return next((place for place in places if place), "nothing")


def exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def original(function: Callable[..., Any]) -> Callable[..., Any]:
    """The checkout's own function, whether or not it is wrapped already."""
    return getattr(function, "__wrapped__", function)


def with_options(add: Callable[..., Any], add_options: AddOptions) -> Callable[..., Any]:
    """Add our options to the group titled `diffusion` right after the host has made it."""

    @functools.wraps(add)
    def wrapper(parser: argparse.ArgumentParser) -> None:
        add(parser)
        groups = [group for group in parser._action_groups if group.title == "diffusion"]
        if not groups:
            raise HostError(
                "utils/parser_util.py: add_diffusion_options makes no group titled 'diffusion'. "
                "This MDM is too different; use commit d4fd88c."
            )
        add_options(groups[-1])

    return wrapper


def with_activation(rules: Callable[..., Any], activate: Activate) -> Callable[..., Any]:
    """Activate with the final arguments, after the host's own rules."""

    @functools.wraps(rules)
    def wrapper(args: argparse.Namespace) -> argparse.Namespace:
        final = rules(args)
        activate(final)
        return final

    return wrapper
