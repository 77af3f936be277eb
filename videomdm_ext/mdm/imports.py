"""Changes to an MDM checkout's modules, made right after each is imported; the stand-in's modules are left alone."""

import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from videomdm_ext.mdm.checkout import STANDIN

Change = Callable[[ModuleType], None]

_changes: dict[str, list[Change]] = {}


def after(name: str, change: Change) -> None:
    """Call `change(module)` once the module `name` is imported, at once where it is already. Repeating is harmless."""
    changes = _changes.setdefault(name, [])
    if change in changes:
        return
    changes.append(change)
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    if name in sys.modules:
        _apply(sys.modules[name], (change,))


def _apply(module: ModuleType, changes: Sequence[Change]) -> None:
    if Path(module.__file__ or "").resolve().is_relative_to(STANDIN):
        return
    for change in changes:
        change(module)


class _Finder(MetaPathFinder):
    """Finds nothing by itself; lets the usual finders find, and has the module changed after its code has run."""

    def __init__(self) -> None:
        self.busy: set[str] = set()

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name not in _changes or name in self.busy:
            return None
        self.busy.add(name)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self.busy.discard(name)
        if spec is None or spec.loader is None:
            return spec
        run = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            run(module)
            _apply(module, _changes[name])

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
