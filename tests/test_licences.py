"""LICENSES.md: nothing that is bundled or that a user's extra installs is without its licence."""

import re
from importlib import metadata
from pathlib import Path

from environments import ROOT, setup_arguments

FOR_DEVELOPERS = {"dev", "test"}
"""Extras that add nothing to what a user runs."""
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (ROOT / "LICENSES.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| ")
]
BUNDLED = [row for row in ROWS[1:] if len(row) == 4]
PACKAGES = {row[0]: (row[1], row[2]) for row in ROWS[1:] if len(row) == 3 and row[0] != "package"}


def test_every_bundled_asset_has_its_licences_text_in_the_repository_and_in_the_wheel():
    setup = setup_arguments()
    shipped = {place for pattern in setup["license_files"] for place in ROOT.glob(pattern)}
    words = {"MIT": "Permission is hereby granted", "zlib": "Altered source versions must be plainly marked"}
    for asset, licence, attribution, link in BUNDLED:
        place = ROOT / link.partition("](")[2].rstrip(")")
        text = place.read_text(encoding="utf-8")
        assert words[licence] in text, asset
        year = re.search(r"Copyright (\d{4}(-\d{4})?)", attribution)
        assert licence == "zlib" or (year and year[1] in text), asset
        assert place in shipped
    folders = {place.parent.name for place in (ROOT / "third_party").glob("*/LICENSE*")} - {"motion-diffusion-model"}
    assert {Path(link.partition("](")[2]).parent.name for *_, link in BUNDLED} == folders


def test_every_package_of_a_users_extra_is_listed_with_the_extras_that_install_it():
    setup = setup_arguments()
    asked: dict[str, list[str]] = {}
    for extra, lines in {"always": setup["install_requires"], **setup["extras_require"]}.items():
        for line in lines if extra not in FOR_DEVELOPERS else ():
            asked.setdefault(re.split(r"[^\w.-]", line)[0].lower().replace("_", "-"), []).append(extra)
    assert {name: extras for name, (extras, _) in PACKAGES.items()} == {k: ", ".join(v) for k, v in asked.items()}
    assert list(PACKAGES) == sorted(PACKAGES)


def test_the_listed_licences_are_those_that_installed_packages_state():
    """Of those that say it in the one field made for it; the first name of ours is in theirs."""
    compared = 0
    for name, (_, licence) in PACKAGES.items():
        try:
            stated = metadata.metadata(name).get("License-Expression")
        except metadata.PackageNotFoundError:
            continue
        if stated:
            assert re.split(r"[ ;,]", licence)[0] in stated, name
            compared += 1
    assert compared > 2
    assert "NON-COMMERCIAL" in PACKAGES["smplx"][1]
