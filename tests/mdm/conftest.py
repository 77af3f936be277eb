"""Hosts to test against, the stand-in's modules in this process, a real checkout where there is one; and clips."""

import importlib
import sys
from collections.abc import Callable
from types import ModuleType

import pytest
from clips import CARD, make_clip
from mdm_runs import CLIPS

from videomdm_ext.data.building import write_folder
from videomdm_ext.data.refined import make_refined
from videomdm_ext.errors import HostError
from videomdm_ext.mdm import checkout
from videomdm_ext.supervision import refinement


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


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """-> a folder with three training clips, a test clip, and refined teachers after few iterations."""
    path = str(tmp_path_factory.mktemp("clips") / "a set")
    card = write_folder(path, {"train": CLIPS, "test": [make_clip(name="punch")]}, CARD)
    with pytest.MonkeyPatch.context() as patch:
        brief = refinement.Refinement(first=10, rounds=0)
        patch.setattr(refinement, "Refinement", lambda: brief)
        make_refined(path, card)
    return path
