"""Put our three lines into a checkout's utils/parser_util.py, and take them out again with every byte as it was.

A manifest is written before the file, and each replaces what was there in one step, so that a crash leaves either the
old or the new file; the hashes in the manifest tell which.
"""

import hashlib
import json
import os
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from dataclasses import replace as changed
from pathlib import Path

from videomdm_ext import __version__
from videomdm_ext.errors import HostError
from videomdm_ext.mdm.checkout import STANDIN, Checkout
from videomdm_ext.mdm.known import known
from videomdm_ext.mdm.locking import exchange, folder_of, locked
from videomdm_ext.mdm.placing import ALIAS, PATH, Insertion, find, insert, mixed, numbers, ours, parse, remove, unix
from videomdm_ext.mdm.placing import verify as verify_program

MANIFEST = "install.json"
TREE = "syntax tree"
NOT_INSTALLED, INSTALLED, INTERRUPTED, CHANGED = "not installed", "installed", "interrupted", "changed since"
PENDING = "pending"


@dataclass(frozen=True)
class Manifest:
    """What an installation did: hashes (sha256) of the file before and after, and the numbers of our lines."""

    state: str
    version: str
    source: str
    file: str
    before: str
    after: str
    lines: tuple[int, ...]
    mode: int


@dataclass(frozen=True)
class Status:
    """One of the four states, what it means here, and the manifest where there is one."""

    state: str
    about: str
    manifest: Manifest | None = None


@dataclass(frozen=True)
class Plan:
    """An installation that was checked and not yet made. `source` is a patch's name or TREE."""

    root: Path
    source: str
    insertions: tuple[Insertion, ...]
    before: bytes
    after: bytes

    @property
    def shown(self) -> list[str]:
        """Each line of ours with its number, below the line that is above it."""
        lines = self.after.decode(errors="replace").split("\n")
        return [
            f"{mark} {number:>4}  {lines[number - 1].rstrip()}"
            for own in numbers(self.insertions)
            for mark, number in ((" ", own - 1), ("+", own))
        ]


def install(host: Checkout) -> Manifest:
    """Plan and make an installation, with no question about the places: for programs, and files that are known."""
    return apply(plan(host.root))


def plan(root: Path) -> Plan:
    """Check all that an installation needs, and find the places. Nothing is written."""
    root = root.resolve()
    if root == STANDIN:
        raise HostError(f"{root}: the stand-in has our options already. Name a checkout of MDM with --mdm PATH.")
    status, content = examine(root), target(root).read_bytes()
    _check_free(root, status)
    _check_writable(root)
    edited = status.manifest is not None and sha256(content) == status.manifest.after
    before = _original(root, content, status) if edited else content
    patch = next((commit for commit in known() if commit.fits(before) and not mixed(before)), None)
    if not edited:
        _check_clean(root, content, proven=patch is not None)
    advice = "The patch is broken; restore patches/ from this package's repository." if patch else _elsewhere(root)
    try:
        insertions = patch.insertions if patch else find(before)
        after = insert(before, insertions)
        verify_program(before, after, insertions)
    except HostError as error:
        raise HostError(f"{root / PATH}: {error}. Nothing was changed. {advice}") from error
    if edited and after != content:
        raise HostError(
            f"{root / PATH}: expected to complete an installation, found it was begun by another version "
            f"({status.manifest and status.manifest.version}). Take it out first: videomdm uninstall --mdm {root}"
        )
    return Plan(root, f"{patch.commit}.patch" if patch else TREE, insertions, before, after)


def apply(plan: Plan) -> Manifest:
    """Make a planned installation, if the file is still as it was; one that was interrupted is completed."""
    path = target(plan.root)
    places = numbers(plan.insertions)
    hashes = sha256(plan.before), sha256(plan.after)
    manifest = Manifest(PENDING, __version__, plan.source, PATH, *hashes, places, path.stat().st_mode & 0o7777)
    with locked(plan.root) as folder:
        _check_free(plan.root, examine(plan.root))
        current = path.read_bytes()
        if current not in (plan.before, plan.after):
            raise HostError(f"{path}: expected the file that was planned for, found it changed meanwhile. Repeat it.")
        _write(folder, manifest)
        if current != plan.after:
            exchange(path, plan.after, folder)
        done = changed(manifest, state=INSTALLED)
        _write(folder, done)
    return done


def uninstall(root: Path, *, force: bool = False) -> str:
    """Take our lines out and remove the manifest. -> what was done. `force`: also from a file changed since."""
    root = root.resolve()
    path, folder = target(root), folder_of(root)
    if examine(root).state == NOT_INSTALLED and not folder.exists():
        return "nothing to take out: the file holds none of our lines"
    _check_writable(root)
    with locked(root):
        status, content = examine(root), path.read_bytes()
        kept = _remaining(root, content, status, forced=force)
        if kept != content:
            exchange(path, kept, folder)
        (folder / MANIFEST).unlink(missing_ok=True)
    if kept == content:
        return "the file holds none of our lines; the record of an earlier installation is removed"
    proven = status.manifest is not None and sha256(kept) == status.manifest.before
    return f"our lines are out; {'every byte is as before' if proven else 'the rest is left as it was'}"


def examine(root: Path) -> Status:
    """How a checkout stands. Nothing is written."""
    content, manifest = target(root).read_bytes(), read_manifest(root)
    holds, digest = ALIAS.encode() in content, sha256(content)
    if manifest is None:
        if holds:
            return Status(CHANGED, "our lines are in the file, but there is no record of an installation")
        return Status(NOT_INSTALLED, "the file holds none of our lines")
    if manifest.state == PENDING and digest in (manifest.before, manifest.after):
        found = "with all of our lines" if digest == manifest.after else "as it was"
        return Status(INTERRUPTED, f"an installation did not end; the file is {found}", manifest)
    if digest == manifest.after:
        other = "" if manifest.version == __version__ else f"; this is version {__version__}"
        return Status(INSTALLED, f"by {manifest.source}, version {manifest.version}{other}", manifest)
    if not holds:
        return Status(NOT_INSTALLED, "the file holds none of our lines; a record of an earlier one is left", manifest)
    return Status(CHANGED, _difference(content, manifest), manifest)


def read_manifest(root: Path) -> Manifest | None:
    """The record of an installation, or None."""
    place = folder_of(root) / MANIFEST
    try:
        fields = json.loads(place.read_text(encoding="utf-8"))
        return Manifest(**{**fields, "lines": tuple(int(number) for number in fields["lines"])})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise HostError(
            f"{place}: expected the record of an installation ({error!r}). "
            f"Restore {PATH} (git -C {root} checkout -- {PATH}), then delete {place.parent}."
        ) from error


def target(root: Path) -> Path:
    """The file that is edited, inside the checkout."""
    path = (root / PATH).resolve()
    if not path.is_file():
        raise HostError(f"{root / PATH}: expected a file, found none. Name a checkout of MDM with --mdm PATH.")
    if not path.is_relative_to(root.resolve()):
        raise HostError(
            f"{root / PATH}: expected a file in the checkout, found a link to {path}. "
            f"Put a copy in its place, or run MDM without an edit: {_launcher(root)}"
        )
    return path


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _write(folder: Path, manifest: Manifest) -> None:
    exchange(folder / MANIFEST, json.dumps(asdict(manifest), indent=2).encode() + b"\n", folder)


def _launcher(root: Path) -> str:
    return f"videomdm run --mdm {root} train.train_mdm ARGS..."


def _elsewhere(root: Path) -> str:
    return f"Run MDM without an edit: {_launcher(root)} Or use a commit that `videomdm host pin` names."


def _check_free(root: Path, status: Status) -> None:
    """Refuse what is installed, or holds lines of ours that are in no manifest."""
    if status.state == INSTALLED:
        raise HostError(
            f"{root}: expected a checkout without our lines, found them installed {status.about}. "
            f"Nothing to do; take them out with videomdm uninstall --mdm {root}"
        )
    if status.state == CHANGED:
        raise HostError(
            f"{root / PATH}: expected a file without our lines, found: {status.about}. Nothing was changed. "
            f"Take them out first: videomdm uninstall --mdm {root}"
        )


def _check_writable(root: Path) -> None:
    path = target(root)
    for place in (path, path.parent, root):
        if not place.stat().st_mode & 0o222 or not os.access(place, os.W_OK):
            raise HostError(
                f"{place}: expected to be writable, found it read-only. Nothing was changed. "
                f"Allow it with chmod u+w {place}, or run MDM without an edit: {_launcher(root)}"
            )


def _check_clean(root: Path, content: bytes, *, proven: bool) -> None:
    """Refuse a file with changes that git does not hold; line endings and modes do not count, nor files without git."""
    answer = _git(root, "status", "--porcelain", "--", PATH)
    if answer is None:
        if proven or not (root / ".git").exists():
            return
        raise HostError(
            f"{root}: expected git to tell whether {PATH} has changes, found that it does not answer. Nothing was "
            f"changed. See git -C {root} status, or run MDM without an edit: {_launcher(root)}"
        )
    code = answer[:2].decode()
    committed = _git(root, "show", f"HEAD:./{PATH}") if code.startswith(" ") else None
    if code in ("", "??") or (committed is not None and unix(committed) == unix(content)):
        return
    raise HostError(
        f"{root / PATH}: expected the file as it was committed, found changes (git status: {code.strip()}). Nothing "
        f"was changed. Commit them, or restore the file: git -C {root} checkout HEAD -- {PATH}"
    )


def _git(root: Path, *words: str) -> bytes | None:
    """What git answers about the checkout, or None where it does not."""
    hidden = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment["GIT_OPTIONAL_LOCKS"] = "0"
    with suppress(OSError, subprocess.CalledProcessError):
        command = ["git", "-C", str(root), *words]
        return subprocess.run(command, capture_output=True, check=True, env=environment).stdout
    return None


def _original(root: Path, content: bytes, status: Status) -> bytes:
    """The file before the installation, proven by its hash."""
    manifest = status.manifest
    kept = remove(content, manifest.lines) if manifest else content
    if manifest is None or sha256(kept) != manifest.before:
        raise HostError(
            f"{folder_of(root) / MANIFEST}: expected the lines that give the old file back, found others. Restore the "
            f"file (git -C {root} checkout -- {PATH}), then videomdm uninstall --mdm {root}"
        )
    return kept


def _remaining(root: Path, content: bytes, status: Status, *, forced: bool) -> bytes:
    """The file without our lines. Raises HostError where that is in doubt."""
    manifest, digest = status.manifest, sha256(content)
    if status.state == NOT_INSTALLED or (manifest is not None and digest == manifest.before):
        return content
    if manifest is not None and digest == manifest.after:
        return _original(root, content, status)
    restore = f"git -C {root} checkout -- {PATH}"
    kept = remove(content, ours(content))
    try:
        parse(kept)
    except HostError as error:
        raise HostError(f"{root / PATH}: without our lines, {error}. Restore the file: {restore}") from error
    if ALIAS.encode() in kept:
        raise HostError(f"{root / PATH}: expected our lines as they were written, found others. Restore it: {restore}")
    if forced or (manifest is not None and sha256(kept) == manifest.before):
        return kept
    raise HostError(
        f"{root / PATH}: expected the file that was written, found: {status.about}. Nothing was changed. "
        f"Add --force to take only our lines {ours(content)} out, or restore the file: {restore}"
    )


def _difference(content: bytes, manifest: Manifest) -> str:
    """What is known of a file that was changed after the installation."""
    found: Sequence[int] = ours(content)
    moved = "where they were" if tuple(found) == manifest.lines else f"at lines {tuple(found)}, not {manifest.lines}"
    rest = "as before" if sha256(remove(content, found)) == manifest.before else "not as before"
    return f"{len(found)} of our {len(manifest.lines)} lines are in it, {moved}, and the rest is {rest}"
