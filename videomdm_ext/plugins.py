"""The plugin manager: built-ins by dotted name, then the entry points of the group "videomdm".

VIDEOMDM_PLUGINS=a,b loads only these entry points (the built-ins always load); VIDEOMDM_TRACE=1 prints every call.
"""

import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy

from videomdm_ext import hookspecs
from videomdm_ext.errors import PluginError

GROUP = "videomdm"
KINDS = ("datasets", "lifters", "loss_terms", "text_encoders", "evaluators", "commands")
SIGNATURES: dict[str, tuple[str, ...]] = {"loss_terms": ("step",), "text_encoders": ()}
"""Arguments with which a thing of a kind is called; checked when it is registered."""
BUILTINS: tuple[str, ...] = (
    "videomdm_ext.lifters.synthetic",
    "videomdm_ext.lifters.adapters",
    "videomdm_ext.mdm.loss",
    "videomdm_ext.mdm.text",
    "videomdm_ext.data.sources.humanml3d",
    "videomdm_ext.data.sources.fit3d",
    "videomdm_ext.data.sources.nba",
    "videomdm_ext.data.sources.bvh",
    "videomdm_ext.data.sources.amass",
    "videomdm_ext.data.sources.parquet",
    "videomdm_ext.data.video.importer",
    "videomdm_ext.bench.evaluators.untrained",
    "videomdm_ext.bench.evaluators.text_motion",
    "videomdm_ext.bench.evaluators.t2m",
    "videomdm_ext.bench.evaluators.actor",
)

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


def create_manager(builtins: Sequence[str] = BUILTINS) -> pluggy.PluginManager:
    """Load every plugin and check its hooks. Built-ins come first, then the entry points by name."""
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    if os.environ.get("VIDEOMDM_TRACE", "0") not in ("", "0"):
        manager.add_hookcall_monitoring(_print_call, _print_answer)
    for name in builtins:
        manager.register(import_module(name), name=name)
    owners: dict[str, str] = {}
    for entry in _selected_entry_points():
        _load(manager, entry, owners)
    return manager


def collect(manager: pluggy.PluginManager, kind: str, owners: dict[str, str] | None = None) -> dict[str, Any]:
    """Call `register_<kind>` of every plugin. -> what they registered, by name, in the order of loading.

    `owners` is given the plugin of each name.
    """
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r}: expected one of {', '.join(KINDS)}")
    things: dict[str, Any] = {}
    owners = {} if owners is None else owners
    for plugin, hook in _each_plugin(manager, f"register_{kind}"):
        hook(register=_registrar(kind, plugin, things, owners))
    return things


def origin(plugin: str) -> str:
    """A plugin's name, and where it is an entry point the distribution to install."""
    found = [entry.dist.name for entry in entry_points(group=GROUP) if entry.name == plugin and entry.dist]
    return f"{plugin} (distribution {found[0]})" if found else plugin


def wrap_dataset(manager: pluggy.PluginManager, dataset: Any, *, args: Any, split: str) -> Any:
    """Hand the dataset from plugin to plugin, in the order of loading. -> the last one's."""
    for _, hook in _each_plugin(manager, "wrap_dataset"):
        answers = hook(dataset=dataset, args=args, split=split)
        dataset = answers[0] if answers else dataset
    return dataset


def add_metrics(manager: pluggy.PluginManager, *, samples: Any, reference: Any) -> dict[str, float]:
    """Gather the metrics of every plugin. -> numbers by name."""
    metrics: dict[str, float] = {}
    owners: dict[str, str] = {}
    for plugin, hook in _each_plugin(manager, "add_metrics"):
        for answer in hook(samples=samples, reference=reference):
            register = _registrar("metrics", plugin, metrics, owners)
            for name, number in answer.items():
                register(name, float(number))
    return metrics


def _selected_entry_points() -> list[EntryPoint]:
    """-> the entry points of the group by name, limited to VIDEOMDM_PLUGINS where that is set."""
    found = sorted(entry_points(group=GROUP), key=lambda entry: entry.name)
    if "VIDEOMDM_PLUGINS" not in os.environ:
        return found
    wanted = {name.strip() for name in os.environ["VIDEOMDM_PLUGINS"].split(",")} - {""}
    missing = sorted(wanted - {entry.name for entry in found})
    if missing:
        installed = ", ".join(entry.name for entry in found) or "none"
        raise PluginError(
            f"VIDEOMDM_PLUGINS: no plugin named {', '.join(missing)}; installed: {installed}. "
            "Install the missing package, or correct the variable."
        )
    return [entry for entry in found if entry.name in wanted]


def _load(manager: pluggy.PluginManager, entry: EntryPoint, owners: dict[str, str]) -> None:
    """Import one entry point and register it under its name."""
    distribution = entry.dist.name if entry.dist else "an unknown distribution"
    if manager.has_plugin(entry.name):
        raise PluginError(
            f"plugin {entry.name!r}: offered by {owners.get(entry.name, 'videomdm_ext')} and by {distribution}. "
            "Uninstall one of them."
        )
    try:
        manager.register(entry.load(), name=entry.name)
        manager.check_pending()
    except Exception as error:
        raise PluginError(
            f"plugin {entry.name!r} of distribution {distribution} cannot be loaded from {entry.value!r}: {error}. "
            f"Correct or uninstall {distribution}, or leave it out with VIDEOMDM_PLUGINS."
        ) from error
    owners[entry.name] = distribution


def _each_plugin(manager: pluggy.PluginManager, hook: str) -> Iterator[tuple[str, Callable[..., Any]]]:
    """-> the name of each plugin that has the hook, with a caller of its part alone, in the order of loading."""
    implementing = {impl.plugin_name for impl in getattr(manager.hook, hook).get_hookimpls()}
    loaded = manager.list_name_plugin()
    for name, _ in loaded:
        if name in implementing:
            yield name, manager.subset_hook_caller(hook, [plugin for other, plugin in loaded if other != name])


def _registrar(kind: str, plugin: str, things: dict[str, Any], owners: dict[str, str]) -> hookspecs.Register:
    """-> `register(name, thing)` of one plugin, which refuses a name that is taken or cannot be a flag."""
    label = kind.replace("_", " ").removesuffix("s")

    def register(name: str, thing: Any) -> None:
        if not _NAME.fullmatch(name):
            raise PluginError(
                f"plugin {plugin}: {label} {name!r} is no usable name. Use small letters, digits, '-' and '_'."
            )
        if name in owners:
            raise PluginError(
                f"{label} {name!r}: registered by plugin {owners[name]} and again by plugin {plugin}. "
                "Rename one of them, or leave one plugin out with VIDEOMDM_PLUGINS."
            )
        if kind in SIGNATURES:
            _check_signature(f"plugin {plugin}: {label} {name!r}", thing, SIGNATURES[kind])
        things[name], owners[name] = thing, plugin

    return register


def _check_signature(what: str, thing: Any, names: Sequence[str]) -> None:
    """PluginError unless `thing` can be called with arguments of these names, in this order."""
    try:
        inspect.signature(thing).bind(*names)
    except (TypeError, ValueError) as error:
        raise PluginError(
            f"{what}: expected a function of ({', '.join(names)}), found {thing!r} ({error}). Correct the plugin "
            "(docs/hooks.md)."
        ) from error


def _print_call(hook: str, impls: Sequence[pluggy.HookImpl], arguments: Mapping[str, Any]) -> None:
    """Trace a call: the hook, its arguments' types, who answers."""
    types = ", ".join(f"{name}: {type(value).__name__}" for name, value in arguments.items())
    answering = ", ".join(impl.plugin_name for impl in reversed(impls)) or "nobody"
    print(f"videomdm: {hook}({types}) -> {answering}", file=sys.stderr)


def _print_answer(
    outcome: pluggy.Result[Any], hook: str, impls: Sequence[pluggy.HookImpl], arguments: Mapping[str, Any]
) -> None:
    """Trace the end of a call: the type of its answer, or its exception."""
    answer = outcome.exception if outcome.exception is not None else outcome.get_result()
    print(f"videomdm: {hook} answered {type(answer).__name__}", file=sys.stderr)
