"""One line at the end of an MDM checkout's utils/parser_util.py lets MDM's own commands take our options.

The line ends in MARKER, as did the three lines of earlier versions; whatever whole line ends so is ours. Taking them
out gives back every other byte as it is: line endings, a missing final newline, and edits made in the meantime.
"""

import os
import re
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from videomdm_ext.errors import HostError
from videomdm_ext.mdm.checkout import PARSER, STANDIN

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
        return Status(EARLIER, f"{count} line{'s' * (count > 1)} of an earlier version in {PARSER}; install renews it")
    return Status(NOT_INSTALLED, f"{PARSER} holds no line of ours")


def install(root: Path) -> str:
    """Append LINE, in place of what an earlier version put in. -> what was done"""
    if root.resolve() == STANDIN:
        raise HostError(f"{root}: the stand-in has our options already. Name a checkout of MDM with --mdm PATH.")
    state = _examine_safely(root).state
    if state == INSTALLED:
        return "our line was there already; nothing was changed"
    path = _target(root)
    _replace(path, appended(without(path.read_bytes())))
    _forget(root)
    return "our line is in" if state == NOT_INSTALLED else "our line is in, those of an earlier version are out"


def uninstall(root: Path) -> str:
    """Take our lines out, those of earlier versions too. -> what was done"""
    state = _examine_safely(root).state
    if state != NOT_INSTALLED:
        path = _target(root)
        _replace(path, without(path.read_bytes()))
    _forget(root)
    if state == NOT_INSTALLED:
        return "nothing to take out: the file holds no line of ours"
    return "our line is out; every other byte is as it was"


def _examine_safely(root: Path) -> Status:
    """The status, or HostError where a line of ours was edited."""
    found = examine(root)
    if found.state == CHANGED:
        raise HostError(
            f"{root / PARSER}: expected whole lines that end in '{MARKER}', found: {found.about}. Nothing was changed. "
            f"Delete it, or restore the file: git -C {root} checkout -- {PARSER}"
        )
    return found


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
