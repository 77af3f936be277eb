"""A checkout's folder .videomdm: one process at a time writes in it, and files are replaced in one step."""

import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from videomdm_ext.errors import HostError

FOLDER, LOCK, NEW = ".videomdm", "lock", "new"


def folder_of(root: Path) -> Path:
    """Where we keep what we know of a checkout; git does not see it."""
    folder = root / FOLDER
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise HostError(f"{folder}: expected a folder of the checkout, found a link or a file. Move it away.")
    return folder


@contextmanager
def locked(root: Path) -> Iterator[Path]:
    """The checkout's folder, for this process alone; afterwards it is gone unless something was left in it."""
    folder = folder_of(root)
    try:
        folder.mkdir(exist_ok=True)
        handle = os.open(folder / LOCK, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        raise _held(folder / LOCK) from None
    except OSError as error:
        raise HostError(f"{folder}: expected to write here, found: {error}. Repeat it when that is solved.") from error
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump({"process": os.getpid(), "host": platform.node(), "since": time.strftime("%F %T")}, file)
        (folder / ".gitignore").write_text("*\n", encoding="utf-8")
        yield folder
    except OSError as error:
        raise HostError(
            f"{root}: expected to write, found: {error}. When that is solved, repeat the command; "
            f"videomdm status --mdm {root} tells how the file is now."
        ) from error
    finally:
        _release(folder)


def exchange(path: Path, content: bytes, folder: Path) -> None:
    """Give a file new content in one step, with the rights it had. A crash leaves the old content or the new."""
    new = folder / NEW
    new.unlink(missing_ok=True)
    with open(new, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    if path.exists():
        old = path.stat()
        if hasattr(os, "chown"):
            with suppress(OSError):
                os.chown(new, old.st_uid, old.st_gid)
        new.chmod(old.st_mode & 0o7777)
    os.replace(new, path)
    with suppress(OSError):
        _sync(path.parent)


def _sync(folder: Path) -> None:
    """Bring a folder's names to the disk, where the system lets folders be opened."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _release(folder: Path) -> None:
    """Remove the lock, and the folder if nothing but our ignore file is left in it."""
    with suppress(OSError):
        (folder / NEW).unlink(missing_ok=True)
        if {place.name for place in folder.iterdir()} <= {LOCK, ".gitignore"}:
            (folder / ".gitignore").unlink(missing_ok=True)
        (folder / LOCK).unlink(missing_ok=True)
        folder.rmdir()


def _held(lock: Path) -> HostError:
    """Who holds a lock, and what to do."""
    try:
        holder = dict(json.loads(lock.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        holder = {}
    process = holder.get("process")
    gone = holder.get("host") == platform.node() and isinstance(process, int) and not _alive(process)
    who = f"that of process {process} on {holder.get('host')} since {holder.get('since')}" if holder else "one"
    state = "which is gone" if gone else "which may be at work"
    return HostError(
        f"{lock}: expected no lock of another installation, found {who}, {state}. "
        f"{'D' if gone else 'When it has ended, d'}elete this file and repeat the command."
    )


def _alive(process: int) -> bool:
    """Whether a process of this machine is there; unknown counts as there."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
