"""Hosts to test against: the stand-in's modules in this process, a real checkout where there is one."""

import importlib
import sys
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest

from videomdm_ext.errors import HostError
from videomdm_ext.mdm import checkout


@pytest.fixture(scope="session")
def mdm_checkout() -> checkout.Checkout:
    """A checkout of MDM, or the test is skipped with the reason."""
    try:
        return checkout.find()
    except HostError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def standin_module() -> Iterator[Callable[[str], ModuleType]]:
    """Imports a module of the stand-in by name; a process that did not have its modules forgets them again."""
    root = str(checkout.standin().root)
    known = set(sys.modules)
    added = root not in sys.path
    if added:
        sys.path.insert(0, root)
        importlib.invalidate_caches()
    yield importlib.import_module
    if added:
        sys.path.remove(root)
        for name in set(sys.modules) - known:
            if name.split(".")[0] in ("utils", "model", "diffusion", "data_loaders", "train", "sample"):
                del sys.modules[name]
