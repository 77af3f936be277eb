"""Changes right after an import: once, in order, also for a module that is there already, never in the stand-in."""

import importlib
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from videomdm_ext.mdm import checkout, imports


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """-> a folder on the import path; afterwards no change of the test and no module of it is left."""
    known = dict(imports._finder.changes)
    monkeypatch.syspath_prepend(tmp_path)
    before, finders = set(sys.modules), list(sys.meta_path)
    yield tmp_path
    sys.meta_path[:] = finders
    imports._finder.changes.clear()
    imports._finder.changes.update(known)
    for name in set(sys.modules) - before:
        if name.startswith("imported_"):
            del sys.modules[name]


def write(place: Path, name: str, text: str) -> None:
    (place / f"{name}.py").write_text(text)
    importlib.invalidate_caches()


def test_a_change_comes_right_after_the_modules_own_code(place):
    write(place, "imported_late", "value = 1\n")
    imports.after("imported_late", lambda module: setattr(module, "value", module.value + 1))
    imports.after("imported_late", lambda module: setattr(module, "value", module.value * 10))
    write(place, "imported_user", "from imported_late import value\n")
    assert importlib.import_module("imported_user").value == 20


def test_a_module_that_is_there_is_changed_at_once_and_only_once(place):
    write(place, "imported_early", "value = [1]\n")
    module = importlib.import_module("imported_early")
    for _ in range(2):
        imports.after("imported_early", add_two)
    assert module.value == [1, 2]


def add_two(module):
    module.value.append(2)


def test_a_module_inside_a_package_is_changed_too(place):
    (place / "imported_package").mkdir()
    (place / "imported_package" / "__init__.py").touch()
    (place / "imported_package" / "part.py").write_text("value = 1\n")
    importlib.invalidate_caches()
    imports.after("imported_package.part", lambda module: setattr(module, "value", 5))
    assert importlib.import_module("imported_package.part").value == 5
    write(place, "imported_program", "value = 3\n")
    imports.after("imported_program", lambda module: setattr(module, "value", 4))
    assert runpy.run_module("imported_program", run_name="__main__")["value"] == 3, "it can still be run"


def test_an_error_of_the_module_is_its_own(place):
    write(place, "imported_broken", "raise ValueError('broken')\n")
    imports.after("imported_broken", lambda module: None)
    with pytest.raises(ValueError, match="broken"):
        importlib.import_module("imported_broken")
    imports.after("imported_nowhere", lambda module: None)
    with pytest.raises(ModuleNotFoundError, match="imported_nowhere"):
        importlib.import_module("imported_nowhere")


def test_modules_of_the_stand_in_are_left_alone(place, monkeypatch):
    write(place, "imported_inside", "value = 1\n")
    monkeypatch.setattr(imports, "STANDIN", place)
    imports.after("imported_inside", lambda module: setattr(module, "value", 2))
    assert importlib.import_module("imported_inside").value == 1
    assert checkout.STANDIN.is_dir()
