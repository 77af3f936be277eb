"""Hosts to test against: the stand-in's modules in this process, a real checkout where there is one."""

import importlib
import sys
from collections.abc import Callable
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
def standin_module() -> Callable[[str], ModuleType]:
    """Imports a module of the stand-in by name."""
    sys.path.insert(0, str(checkout.standin().root))
    importlib.invalidate_caches()
    return importlib.import_module
