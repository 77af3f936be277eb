"""An MDM checkout: where it is, what of it each program of ours hooks, and the one line that hooks MDM's own commands.

`install` appends the line to utils/parser_util.py. It ends in MARKER, as did the three lines of earlier versions;
whatever whole line ends so is ours. Taking them out gives back every other byte as it is: line endings, a missing final
newline, and edits made in the meantime.
"""

import ast
import os
import re
import shutil
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from videomdm_ext.config import repository
from videomdm_ext.errors import HostError, counted

PARSER, LOOP = "utils/parser_util.py", "train/training_loop.py"
MODELS, DATA = "utils/model_util.py", "data_loaders/get_data.py"
DENOISERS = ("MDM", "CMDM", "MDMP")
"""The denoiser's class as MODELS names it, in MDM and in forks."""
OPTIONS, RULES = "add_diffusion_options", "apply_rules"
ENDS = ("train_args", "generate_args", "edit_args", "evaluation_parser")
"""Functions of PARSER that return the final arguments where the host has no RULES, which every one of these calls."""
TRAINERS = ("train_mdm", "train_mdmp")
"""The training's program, in MDM and in a fork."""
PACKAGES = ("utils", "model", "diffusion", "data_loaders", "train", "sample", "eval", "visualize")
"""Top-level packages of MDM."""


@dataclass(frozen=True)
class Seam:
    """One of these names, a function, a class or `Class.method`, at the top of a file, and what it is needed for."""

    file: str
    names: tuple[str, ...]
    use: str

    def gap(self, root: Path) -> str:
        """What a checkout lacks of it and why that matters, in one sentence; empty where it is there."""
        path = root / self.file
        if not path.is_file():
            return f"{self.file} is not there, {self.use}"
        return "" if names_in(path).intersection(self.names) else f"{self.file} has no {self.names[0]}, {self.use}"


_HOOK = (
    Seam(PARSER, (OPTIONS,), "whose options args.json restores"),
    Seam(PARSER, (RULES, *ENDS), "which returns the final arguments"),
)
_TRAIN = (
    *_HOOK,
    Seam(LOOP, ("TrainLoop.run_step",), "after which a step is checked"),
    Seam(LOOP, ("TrainLoop.save",), "which writes checkpoints"),
)
_BUILD = (
    Seam(MODELS, ("create_model_and_diffusion",), "which builds both by the names of this module"),
    Seam(MODELS, DENOISERS, "the denoiser that gets the text features"),
)
_TWO = (
    *_TRAIN,
    *_BUILD,
    Seam(MODELS, ("SpacedDiffusion",), "of which the 2D loss is a subclass"),
    Seam("diffusion/respace.py", ("SpacedDiffusion._wrap_model",), "through which the 2D loss asks the denoiser"),
    Seam(DATA, ("get_dataset",), "in whose place clips are read"),
    Seam(DATA, ("get_collate_fn",), "in whose place clips become batches"),
)
PROGRAMS: dict[str, tuple[Seam, ...]] = {
    "install": _HOOK,
    "train 3d": _TRAIN,
    "train 2d": _TWO,
    "--paired": (*_TWO, Seam(LOOP, ("TrainLoop.forward_backward",), "which draws the timesteps of a step")),
    "resume": (*_TRAIN, Seam(LOOP, ("TrainLoop._load_and_sync_parameters",), "which reads a checkpoint")),
    "sample": (*_HOOK, *_BUILD, Seam("sample/generate.py", ("main",), "which is the program")),
    "edit": (*_HOOK, *_BUILD, Seam("sample/edit.py", ("main",), "which is the program")),
    "evaluate": (*_HOOK, *_BUILD, Seam("eval/eval_humanml.py", ("evaluation",), "which is the program")),
    "uninstall": _HOOK,
}
"""What each program asks of a checkout."""
SEAMS = tuple(dict.fromkeys(seam.file for seams in PROGRAMS.values() for seam in seams))
"""Files with something that is hooked."""
FOREIGN = {
    "train/train_gmd.py": ("GMD", "its options are dataclasses in place of argument groups"),
    "train/train_condmdi.py": ("CondMDI", "its options are dataclasses in place of argument groups"),
    "sample/mas.py": ("MAS", "it trains 2D motions with a trainer of its own"),
    "model/FlowMDM.py": ("FlowMDM", "its programs and loop stand elsewhere, and its batches hold several captions"),
    "sample/transfer.py": ("MoMo", "its data come from data_utils, with features of their own"),
}
"""A file by which another program of this family is known, its name, and why it is not a host."""
TESTED = (
    "d4fd88c86d9210b85323783a73acb9b794d73e44",
    "d178946658a38f6a33027589ba7c579f2644beb6",
    "395f382d690756e20e100920545e2a85dcbc0227",
    "2ce584a5e6a7362cb10847bfb83eb839e162238c",
    "904e4f12764748bf03e44598a1fde5324ea2d951",
    "5224ee516495b35e6d0420702fb08f993fe778c2",
)
"""Commits of MDM that the tests train, the newest first, which has every test marked `mdm`."""
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


def find(explicit: str | os.PathLike[str] | None = None, *, supported: bool = True) -> Checkout:
    """The checkout at `explicit`, else $VIDEOMDM_MDM_ROOT, third_party/, the cache folder, in this order.

    One that cannot be hooked is refused where it has to be `supported`.
    """
    if explicit is not None:
        return open_checkout(Path(explicit), asked_by="--mdm", supported=supported)
    if os.environ.get(VARIABLE):
        return open_checkout(Path(os.environ[VARIABLE]), asked_by=f"${VARIABLE}", supported=supported)
    places = default_places()
    for place in places:
        if place.is_dir():
            return open_checkout(place, asked_by="a default place", supported=supported)
    raise HostError(
        f"No MDM checkout: ${VARIABLE} is not set and there is no {' or '.join(map(str, places))}. "
        f"Clone GuyTevet/{NAME} to one of them, or name a checkout with --mdm PATH."
    )


def default_places() -> list[Path]:
    """Return the folders that are searched when nothing names one: in the package's clone, and in the cache."""
    root = repository()
    own = [] if root is None else [root / "third_party" / NAME]
    return [*own, Path.home() / ".cache" / "videomdm" / NAME]


def open_checkout(root: Path, *, asked_by: str, supported: bool = True) -> Checkout:
    """Check that the folder is a checkout whose options can be hooked, and look up the commit."""
    root = root.expanduser().resolve()
    foreign = foreign_to(root)
    if foreign:
        raise HostError(f"{root} (from {asked_by}): {foreign}")
    if not (root / PARSER).is_file():
        raise HostError(
            f"{root} (from {asked_by}): not an MDM checkout, it lacks {PARSER}. Name the folder that holds MDM's "
            "README.md."
        )
    if supported:
        require(root, "uninstall")
    return Checkout(root=root, commit=commit_of(root), kind="standin" if root == STANDIN else "mdm")


def foreign_to(root: Path) -> str:
    """The sentence about a program of this family that is no MDM; empty where it is none of those known."""
    for file, (name, why) in FOREIGN.items():
        if (root / file).is_file():
            return f"this is {name}, which cannot be a host: {why}. Name a checkout of MDM or of a fork that keeps it."
    return ""


def statements(path: Path) -> list[ast.stmt]:
    """The top of a module. Nothing is imported."""
    try:
        return ast.parse(path.read_bytes()).body
    except (SyntaxError, ValueError) as error:
        raise HostError(f"{path}: expected Python, found: {error}. Restore the file.") from error


def names_in(path: Path) -> set[str]:
    """Names that a module binds at its top, and `Class.method`."""
    found: set[str] = set()
    for node in statements(path):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found.update(f"{node.name}.{item.name}" for item in node.body if isinstance(item, ast.FunctionDef))
        if isinstance(node, ast.Import | ast.ImportFrom):
            found.update(alias.asname or alias.name for alias in node.names)
    return found


def gap(root: Path, program: str) -> str:
    """The first seam that a checkout lacks for one of PROGRAMS, in a sentence; empty where it has all of them."""
    return next(filter(None, (seam.gap(root) for seam in PROGRAMS[program])), "")


def require(root: Path, program: str) -> None:
    """Raise HostError where a checkout lacks a seam of one of PROGRAMS."""
    missing = gap(root, program)
    if missing:
        raise HostError(
            f"{root}: expected a checkout that can be hooked, found that {missing}. Take a tested commit: "
            f"git -C {root} checkout {TESTED[0][:7]}, or see what works here: videomdm host survey {root}"
        )


def trainer(root: Path) -> str:
    """The module of the checkout's training."""
    return f"train.{next((name for name in TRAINERS if (root / 'train' / f'{name}.py').is_file()), TRAINERS[0])}"


def hooked_late(root: Path) -> bool:
    """Whether the training imports more of the checkout before PARSER, so that a line there comes too late for it."""
    path = root / f"{trainer(root).replace('.', '/')}.py"
    body = statements(path) if path.is_file() else []
    names = [node.module or "" for node in body if isinstance(node, ast.ImportFrom)]
    early = [name for name in names if name.split(".")[0] in PACKAGES and name != "utils.fixseed"]
    return bool(early) and early[0] != "utils.parser_util"


def commit_of(root: Path) -> str | None:
    """The commit checked out at root, or None where root is no repository of its own."""
    return git(root, "rev-parse", "HEAD")


def git(root: Path, *words: str) -> str | None:
    """What git answers about a repository, or None where root is none of its own, or git fails."""
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


# -- our line ----------------------------------------------------------------------------------------------------------

MARKER = "# videomdm_ext: remove with videomdm uninstall"
LINE = (
    'import importlib.util, sys; importlib.util.find_spec("videomdm_ext") or sys.exit(f"error: {__file__}: expected '
    "the package videomdm_ext, which {sys.executable} does not have. Install it there, or delete the line of this file "
    'that names it."); from videomdm_ext.mdm import hook as videomdm_ext_hook; videomdm_ext_hook.attach(globals())  '
) + MARKER
NAMES = (b"videomdm_ext_hook", b"videomdm_ext_installed")
"""What a line of ours holds that lost its marker: of LINE, and of the lines of earlier versions."""
_OURS = rb"[^\r\n]*" + re.escape(MARKER.encode()) + rb"[ \t]*"
OURS = re.compile(rb"\r?\n%s\Z|(?:\A|(?<=[\r\n]))%s(?:\r?\n|\Z)" % (_OURS, _OURS))
"""Lines of ours with their line ending, or with the one above for a last line that has none."""
NOT_INSTALLED, INSTALLED, EARLIER, CHANGED = "not installed", "installed", "installed by an earlier version", "changed"


@dataclass(frozen=True)
class Status:
    """How a checkout stands: one of the four states, and what it means here."""

    state: str
    about: str


def appended(content: bytes) -> bytes:
    """The content and LINE, ended like the last line, or not at all where that has no ending."""
    ending = b"\r\n" if content[: content.rfind(b"\n") + 1].endswith(b"\r\n") else b"\n"
    if content.endswith((b"\n", b"\r")) or not content:
        return content + LINE.encode() + ending
    return content + ending + LINE.encode()


def without(content: bytes) -> bytes:
    """The content without our lines."""
    return OURS.sub(b"", content)


def examine(root: Path) -> Status:
    """How a checkout stands. Nothing is written."""
    content = _target(root).read_bytes()
    kept, count = OURS.subn(b"", content)
    if any(name in kept for name in NAMES):
        return Status(CHANGED, f"a line of ours in {PARSER} was edited, so that it can only be taken out by hand")
    if re.search(rb"(?:\A|[\r\n])%s[ \t]*(?:[\r\n]|\Z)" % re.escape(LINE.encode()), content):
        return Status(INSTALLED, f"our line is in {PARSER}")
    if count:
        return Status(EARLIER, f"{counted(count, 'line')} of an earlier version in {PARSER}; install renews it")
    return Status(NOT_INSTALLED, f"{PARSER} holds no line of ours")


def install(root: Path) -> str:
    """Append LINE, in place of what an earlier version put in. -> what was done"""
    if root.resolve() == STANDIN:
        raise HostError(f"{root}: the stand-in has our options already. Name a checkout of MDM with --mdm PATH.")
    state = _whole_state(root)
    if state == INSTALLED:
        return "our line was there already; nothing was changed"
    path = _target(root)
    _replace(path, appended(without(path.read_bytes())))
    _forget(root)
    return "our line is in" if state == NOT_INSTALLED else "our line is in, those of an earlier version are out"


def uninstall(root: Path) -> str:
    """Take our lines out, those of earlier versions too. -> what was done"""
    nothing = _whole_state(root) == NOT_INSTALLED
    if not nothing:
        path = _target(root)
        _replace(path, without(path.read_bytes()))
    _forget(root)
    if nothing:
        return "nothing to take out: the file holds no line of ours"
    return "our line is out; every other byte is as it was"


def _whole_state(root: Path) -> str:
    """The state, or HostError where a line of ours was edited."""
    found = examine(root)
    if found.state == CHANGED:
        raise HostError(
            f"{root / PARSER}: expected whole lines that end in '{MARKER}', found: {found.about}. Nothing was changed. "
            f"Delete it, or restore the file: git -C {root} checkout -- {PARSER}"
        )
    return found.state


def _target(root: Path) -> Path:
    """The file that is edited, where the checkout's folder holds it."""
    path = (root / PARSER).resolve()
    if not path.is_file():
        raise HostError(f"{root / PARSER}: expected a file, found none. Name a checkout of MDM with --mdm PATH.")
    if not path.is_relative_to(root.resolve()):
        raise HostError(f"{root / PARSER}: expected a file of the checkout, found a link to {path}. Put a copy there.")
    return path


def _replace(path: Path, content: bytes) -> None:
    """Give a file new content, its mode and owner kept: written beside it and renamed, so that it is never half."""
    new = path.with_name(f".{path.name}.videomdm-{os.getpid()}")
    try:
        if not path.stat().st_mode & 0o222:
            raise PermissionError(f"{path} is read-only")
        with new.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with suppress(OSError, AttributeError):
            os.chown(new, path.stat().st_uid, path.stat().st_gid)
        shutil.copymode(path, new)
        new.replace(path)
    except OSError as error:
        raise HostError(
            f"{path}: expected to write it, found: {error}. Nothing was changed. Allow it with chmod u+w {path}, or "
            "run MDM without an edit: videomdm run --mdm PATH train.train_mdm ARGS..."
        ) from error
    finally:
        new.unlink(missing_ok=True)


def _forget(root: Path) -> None:
    """Remove the folder .videomdm, in which earlier versions kept a record of what they had done."""
    folder = root / ".videomdm"
    if folder.is_dir() and not folder.is_symlink():
        for name in ("install.json", "lock", "new", ".gitignore"):
            (folder / name).unlink(missing_ok=True)
        with suppress(OSError):
            folder.rmdir()
