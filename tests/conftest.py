"""What every test shares: one torch thread a worker, a seeded generator, and when tests marked `mdm` run."""

import os
import sys
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
os.environ["VIDEOMDM_TEXTS"] = "off"  # no test reads what another program has kept

settings.register_profile("videomdm", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("videomdm")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip a test marked `mdm("module", ...)` where MDM or one of these modules is missing, and say which.

    Files with slow tests come first, so that the workers end together. Tests marked `soak` need `-m soak`.
    """
    if "soak" not in config.option.markexpr:
        items[:] = [item for item in items if not item.get_closest_marker("soak")]
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
    for item in items:
        marker = item.get_closest_marker("mdm")
        reason = why_no_mdm(marker.args) if marker else None
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=reason))


@cache
def why_no_mdm(modules: tuple[str, ...]) -> str | None:
    """-> why a test that runs a real MDM with these modules beside it cannot run here, or None where it can."""
    from videomdm_ext.errors import HostError
    from videomdm_ext.mdm import checkout

    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        return f"MDM needs {', '.join(missing)}: pip install -e '.[mdm]' -c constraints.txt"
    try:
        checkout.find()
    except HostError as error:
        return str(error)
    return None


@pytest.fixture
def generator() -> torch.Generator:
    """-> a generator on the CPU with a fixed seed, new for each test."""
    return torch.Generator().manual_seed(20260101)


@pytest.fixture(scope="module", autouse=True)
def _own_checkout() -> Iterator[None]:
    """What a file's tests claim in this process, a checkout and its modules, is gone when the next file begins."""
    from videomdm_ext.mdm import checkout, hook

    path, modules, in_use = list(sys.path), set(sys.modules), hook._in_use
    yield
    sys.path[:], hook._in_use = path, in_use
    for name in set(sys.modules) - modules:
        if name.split(".")[0] in checkout.PACKAGES:
            del sys.modules[name]
