"""Find an MDM checkout: a folder with MDM's modules at their places, of a commit that has the functions we hook."""

import os
import re
import subprocess
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

from videomdm_ext.config import repository
from videomdm_ext.errors import HostError

PARSER = "utils/parser_util.py"
FUNCTIONS = ("apply_rules", "add_diffusion_options")
"""Functions of PARSER that the options go through; MDM has the first since FIRST."""
SEAMS = (
    PARSER,
    "utils/model_util.py",
    "utils/fixseed.py",
    "utils/dist_util.py",
    "model/mdm.py",
    "model/cfg_sampler.py",
    "diffusion/gaussian_diffusion.py",
    "diffusion/respace.py",
    "data_loaders/get_data.py",
    "data_loaders/tensors.py",
    "train/train_mdm.py",
    "train/training_loop.py",
    "sample/generate.py",
)
PACKAGES = ("utils", "model", "diffusion", "data_loaders", "train", "sample", "eval", "visualize")
"""Top-level packages of MDM."""
TESTED = ("d4fd88c86d9210b85323783a73acb9b794d73e44", "d178946658a38f6a33027589ba7c579f2644beb6")
"""Commits of MDM that the tests train: the newest, with every test marked `mdm`, and FIRST."""
FIRST = "d178946"
VARIABLE = "VIDEOMDM_MDM_ROOT"
NAME = "motion-diffusion-model"
STANDIN = Path(__file__).resolve().parent / "standin"


@dataclass(frozen=True)
class Checkout:
    """A host: its folder, its git commit where it has one, and `mdm` or `standin`."""

    root: Path
    commit: str | None
    kind: str


def standin() -> Checkout:
    """The stand-in that this package brings along."""
    return open_checkout(STANDIN, asked_by="this package's own files")


def choose(mdm: str | None) -> Checkout:
    """The stand-in, unless --mdm names a checkout or, by `auto`, asks to search for one."""
    return find(None if mdm == "auto" else mdm) if mdm else standin()


def find(explicit: str | os.PathLike[str] | None = None, *, older: bool = False) -> Checkout:
    """The checkout at `explicit`, else $VIDEOMDM_MDM_ROOT, third_party/, the cache folder, in this order.

    One that is older than FIRST is refused unless `older`.
    """
    if explicit is not None:
        return open_checkout(Path(explicit), asked_by="--mdm", older=older)
    if os.environ.get(VARIABLE):
        return open_checkout(Path(os.environ[VARIABLE]), asked_by=f"${VARIABLE}", older=older)
    places = default_places()
    for place in places:
        if place.is_dir():
            return open_checkout(place, asked_by="a default place", older=older)
    raise HostError(
        f"No MDM checkout: ${VARIABLE} is not set and there is no {' or '.join(map(str, places))}. "
        f"Clone GuyTevet/{NAME} to one of them, or name a checkout with --mdm PATH."
    )


def default_places() -> list[Path]:
    """Return the folders that are searched when nothing names one: in the package's clone, and in the cache."""
    root = repository()
    own = [] if root is None else [root / "third_party" / NAME]
    return [*own, Path.home() / ".cache" / "videomdm" / NAME]


def open_checkout(root: Path, *, asked_by: str, older: bool = False) -> Checkout:
    """Check that every seam is at its place, and look up the commit."""
    root = root.expanduser().resolve()
    missing = [seam for seam in SEAMS if not (root / seam).is_file()]
    if missing:
        raise HostError(
            f"{root} (from {asked_by}): not an MDM checkout, it lacks {', '.join(missing[:3])}"
            f"{' and more' if len(missing) > 3 else ''}. Name the folder that holds MDM's README.md."
        )
    if not older:
        check_functions(root, names_of(root))
    return Checkout(root=root, commit=commit_of(root), kind="standin" if root == STANDIN else "mdm")


def names_of(root: Path) -> set[str]:
    """Every name in the checkout's PARSER."""
    return set(re.findall(r"\w+", (root / PARSER).read_text(encoding="utf-8", errors="replace")))


def is_supported(root: Path) -> bool:
    """Whether the checkout's PARSER has FUNCTIONS."""
    return names_of(root).issuperset(FUNCTIONS)


def check_functions(root: Path, names: Container[str]) -> None:
    """Raise HostError unless FUNCTIONS are among the names of the checkout's PARSER."""
    missing = [name for name in FUNCTIONS if name not in names]
    if missing:
        raise HostError(
            f"{root / PARSER}: expected the function {missing[0]}, which MDM has since {FIRST} (February 2025), found "
            f"none. Older commits are not supported; take a tested one: git -C {root} checkout {TESTED[0][:7]}."
        )


def commit_of(root: Path) -> str | None:
    """The commit checked out at root, or None where root is no repository of its own."""
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
