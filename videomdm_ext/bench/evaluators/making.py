"""Make the evaluators that plugins register, or say why one cannot be had."""

from collections.abc import Collection

import pluggy

from videomdm_ext import plugins
from videomdm_ext.bench.evaluators.base import Evaluator, Ground, UnavailableError
from videomdm_ext.errors import PluginError


def make_all(
    manager: pluggy.PluginManager, ground: Ground, *, without: Collection[str] = ()
) -> tuple[list[Evaluator], dict[str, str]]:
    """-> the evaluators in the order of loading, and for each that cannot be had here the reason, by name.

    `without` names those that are not wanted: they are neither made nor told.
    """
    made: list[Evaluator] = []
    missing: dict[str, str] = {}
    for name, make in plugins.collect(manager, "evaluators").items():
        if name in without:
            continue
        try:
            made.append(_checked(name, make(ground)))
        except UnavailableError as error:
            missing[name] = str(error)
    return made, missing


def _checked(name: str, evaluator: object) -> Evaluator:
    """The evaluator, if it is one and calls itself what it is registered as: metrics bear its name."""
    if not isinstance(evaluator, Evaluator) or evaluator.name != name:
        found = f"one named {evaluator.name!r}" if isinstance(evaluator, Evaluator) else type(evaluator).__name__
        raise PluginError(
            f"evaluator {name!r}: expected make(ground) to return an Evaluator of this name, found {found}. "
            "Correct the plugin (docs/hooks.md)."
        )
    return evaluator
