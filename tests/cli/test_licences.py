"""`videomdm licenses`: nothing that is bundled or that an extra installs is without its licence."""

from __future__ import annotations

import json
import re
import runpy
from importlib import metadata
from pathlib import Path

import pytest
import setuptools

from videomdm_ext.cli import licences
from videomdm_ext.cli import main as cli

ROOT = Path(__file__).parents[2]


@pytest.fixture
def setup(monkeypatch: pytest.MonkeyPatch) -> dict:
    """-> what setup.py tells setuptools."""
    told: dict = {}
    monkeypatch.setattr(setuptools, "setup", told.update)
    runpy.run_path(str(ROOT / "setup.py"))
    return told


def names(lines) -> set[str]:
    """Names of requirements, as packages are called."""
    return {re.split(r"[^\w.-]", line)[0].lower().replace("_", "-") for line in lines}


def lines_of(setup: dict) -> list[str]:
    """The metadata that setup.py makes: each requirement, with the extra that asks for it."""
    extras = setup["extras_require"].items()
    return setup["install_requires"] + [f'{line}; extra == "{extra}"' for extra, lines in extras for line in lines]


def test_every_bundled_asset_has_its_licences_text_in_the_repository():
    for asset in licences.BUNDLED:
        text = (ROOT / asset.text).read_text(encoding="utf-8")
        word = {"MIT": "Permission is hereby granted", "zlib": "Altered source versions must be plainly marked"}
        assert word[asset.licence] in text, asset.name
        year = re.search(r"\d{4}(-\d{4})?", asset.attribution)
        assert asset.licence == "zlib" or (year and year[0] in text), asset.name
        assert licences.place_of(asset) == ROOT / asset.text


def test_everything_in_third_party_is_an_asset_and_its_text_goes_into_the_wheel(setup):
    folders = {place.parent.name for place in (ROOT / "third_party").glob("*/LICENSE*")} - {"motion-diffusion-model"}
    assert {Path(asset.text).parent.name for asset in licences.BUNDLED if asset.text != "LICENSE"} == folders
    shipped = {place for pattern in setup["license_files"] for place in ROOT.glob(pattern)}
    assert {ROOT / asset.text for asset in licences.BUNDLED} <= shipped


def test_the_licence_of_every_package_of_a_users_extra_is_known(setup):
    lines = setup["install_requires"] + [
        line
        for extra, lines in setup["extras_require"].items()
        if extra not in licences.FOR_DEVELOPERS
        for line in lines
    ]
    assert not names(lines) - set(licences.LICENCES)
    assert not set(licences.LICENCES) - names(lines), "packages that nothing installs"


def test_the_known_licences_are_those_that_installed_packages_state():
    """Of those that say it in the one field made for it; the first name of ours is in theirs."""
    compared = 0
    for name, licence in licences.LICENCES.items():
        try:
            stated = metadata.metadata(name).get("License-Expression")
        except metadata.PackageNotFoundError:
            continue
        if stated:
            assert re.split(r"[ ;,]", licence)[0] in stated, name
            compared += 1
    assert compared > 2


def test_packages_are_told_by_extra_without_those_for_developers(setup, monkeypatch):
    monkeypatch.setattr(licences.metadata, "requires", lambda name: lines_of(setup))
    told = {package.name: package for package in licences.packages()}
    assert list(told) == sorted(told)
    assert told["torch"].extras == ("",)
    assert told["matplotlib"].extras == ("demo", "mdm", "video")
    assert told["torch"].installed == metadata.version("torch")
    assert "NON-COMMERCIAL" in told["smplx"].licence
    assert not {"pytest", "ruff"} & set(told)


def test_an_unknown_package_is_told_by_its_own_metadata(monkeypatch):
    monkeypatch.setattr(licences.metadata, "requires", lambda name: ["Pytest>=8", "no_such_thing; extra == 'x'"])
    told = {package.name: package for package in licences.packages()}
    assert told["pytest"].licence == "MIT"
    assert (told["no-such-thing"].licence, told["no-such-thing"].installed) == ("see the package's own page", None)
    assert told["no-such-thing"].extras == ("x",)


def test_where_the_package_is_a_wheel_the_text_lies_in_its_metadata(tmp_path, monkeypatch):
    class File:
        def __init__(self, name: str) -> None:
            self.name = name

        def __str__(self) -> str:
            return self.name

        def locate(self) -> Path:
            return tmp_path / self.name

    asset = licences.BUNDLED[1]
    held = [File("videomdm_ext/x.py"), File("x.dist-info/licenses/LICENSE"), File(f"x.dist-info/licenses/{asset.text}")]
    monkeypatch.setattr(licences, "ROOT", tmp_path)
    monkeypatch.setattr(licences.metadata, "files", lambda name: held)
    assert licences.place_of(asset) == tmp_path / "x.dist-info/licenses" / asset.text
    monkeypatch.setattr(licences.metadata, "files", lambda name: None)
    assert licences.place_of(asset) is None


def test_the_verb_prints_every_asset_and_package(setup, monkeypatch, capsys):
    monkeypatch.setattr(licences.metadata, "requires", lambda name: lines_of(setup))
    assert cli.main(["licenses"]) == 0
    shown = capsys.readouterr().out
    for asset in licences.BUNDLED:
        assert f"{asset.name}: {asset.licence}. {asset.attribution}\n" in shown
        assert f"text: {ROOT / asset.text}\n" in shown
    for extra in ("always", "extra demo", "extra mdm", "extra video"):
        assert f"\n{extra}\n" in shown
    assert re.search(r"^    prdc +MIT \(", shown, re.MULTILINE)
    assert shown.splitlines()[-1].startswith("Next: videomdm ")


def test_without_metadata_what_is_bundled_is_told_all_the_same(monkeypatch, capsys):
    def missing(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(licences.metadata, "requires", missing)
    assert cli.main(["licenses", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [asset["name"] for asset in told["bundled"]] == [asset.name for asset in licences.BUNDLED]
    assert told["packages"] == []
