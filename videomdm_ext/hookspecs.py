"""Every extension point, in firing order. A plugin marks its functions with `hookimpl`; docs/hooks.md has examples.

The kinds of thing that are registered by name live in higher layers, so they are `object` here; the module that looks
them up states their contract. A hook may take fewer arguments than its specification, never others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from argparse import Namespace, _ArgumentGroup

PROJECT = "videomdm"

Register = Callable[[str, Any], None]
"""`register(name, thing)`: offers `thing` under `name`; a taken name is an error that names both plugins."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


# -- once, at the first look-up -------------------------------------------------------------------------------------


@hookspec
def register_datasets(register: Register) -> None:
    """Register importers: each is a class that lists what a source holds and reads one recording at a time."""


@hookspec
def register_lifters(register: Register) -> None:
    """Register lifters: each declares its skeleton, units, up axis and fps, and makes a teacher from keypoints."""


@hookspec
def register_loss_terms(register: Register) -> None:
    """Register loss terms: functions `term(step)` that return one non-negative loss a clip, [B]."""


@hookspec
def register_text_encoders(register: Register) -> None:
    """Register text encoders: each is a function make() that returns encode(text), a row [C] of features."""


@hookspec
def register_evaluators(register: Register) -> None:
    """Register evaluators: each maps motions to the space in which a report compares them."""


@hookspec
def register_commands(register: Register) -> None:
    """Register verbs of the command line: each is called with the rest of the arguments and returns an exit status."""


# -- the host builds its parser -------------------------------------------------------------------------------------


@hookspec
def add_options(group: _ArgumentGroup) -> None:
    """Add options to the host's existing group, so that its args.json restores them when sampling and evaluating."""


# -- the arguments are final, nothing is seeded yet -----------------------------------------------------------------


@hookspec
def configure(args: Namespace) -> None:
    """Look at the final arguments; raise ConfigError to stop before any work is done."""


# -- the host builds its parts --------------------------------------------------------------------------------------


@hookspec
def wrap_dataset(dataset: object, args: Namespace, split: str) -> object | None:
    """Return the dataset to use for `split` in place of `dataset`; None keeps it. Each plugin gets the last one's."""


@hookspec(firstresult=True)
def make_diffusion(base: type, args: Namespace, terms: Mapping[str, object]) -> type | None:
    """Return a subclass of the host's diffusion class `base`, or None: under `3d` nothing happens.

    `terms` holds the loss terms of the package and of plugins by name.
    """


# -- each report ----------------------------------------------------------------------------------------------------


@hookspec
def add_metrics(samples: object, reference: object) -> Mapping[str, float] | None:
    """Return numbers by name that compare an arm's samples with the reference; a taken name is an error."""
