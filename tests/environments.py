"""Environments that hold the base requirements and chosen extras, made of links to the packages installed here."""

import runpy
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any
from unittest import mock

from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent


@cache
def setup_arguments() -> dict[str, Any]:
    """What setup.py gives setuptools."""
    with mock.patch("setuptools.setup") as setup:
        runpy.run_path(str(ROOT / "setup.py"))
    return dict(setup.call_args.kwargs)


def requirements(extras: frozenset[str]) -> list[str]:
    """What setup.py asks for with these extras."""
    given = setup_arguments()
    return [*given["install_requires"], *(line for extra in sorted(extras) for line in given["extras_require"][extra])]


@cache
def closure(extras: frozenset[str]) -> tuple[dict[str, metadata.Distribution], list[str]]:
    """The distributions that these extras bring, by name, and those that are not installed here."""
    found: dict[str, metadata.Distribution] = {}
    missing: list[str] = []
    waiting, seen = [(line, frozenset[str]()) for line in requirements(extras)], set()
    while waiting:
        line, of = waiting.pop()
        wanted = Requirement(line)
        if wanted.marker and not any(wanted.marker.evaluate({"extra": extra}) for extra in of or {""}):
            continue
        key = (wanted.name.lower().replace("_", "-"), frozenset(wanted.extras))
        if key in seen:
            continue
        seen.add(key)
        try:
            found[key[0]] = metadata.distribution(wanted.name)
        except metadata.PackageNotFoundError:
            missing.append(wanted.name)
            continue
        waiting += [(more, frozenset({"", *wanted.extras})) for more in found[key[0]].requires or []]
    return found, missing


def create(folder: Path, extras: frozenset[str]) -> Path:
    """Make an environment in a folder, this package among it. -> its folder of packages"""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (site,) = (folder / "lib").glob("python*/site-packages")
    fill(site, extras)
    (site / "own.pth").write_text(f"{ROOT}\n", encoding="utf-8")
    return site


def fill(site: Path, extras: frozenset[str]) -> None:
    """Link what these extras bring into a folder of packages."""
    site.mkdir(exist_ok=True)
    for distribution in closure(extras)[0].values():
        for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            link = site / top
            if not link.is_symlink():
                link.symlink_to(distribution.locate_file(top))


def install_plugin(site: Path, distribution: str, sources: Mapping[str, str], entries: Mapping[str, str]) -> None:
    """Put a distribution into a folder of packages, as pip would: sources by module, modules by entry point."""
    for module, source in sources.items():
        place = site / f"{module.replace('.', '/')}.py"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(source, encoding="utf-8")
    folder = site / f"{distribution.replace('-', '_')}-1.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n", encoding="utf-8")
    lines = "".join(f"{name} = {module}\n" for name, module in entries.items())
    (folder / "entry_points.txt").write_text(f"[videomdm]\n{lines}", encoding="utf-8")
