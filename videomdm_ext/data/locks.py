"""One process at a time writes into a folder, by a lock that ends with its process, whatever ends that.

The lock of DIR is the file .DIR.lock beside it, as MDM wants to make the folder of a training itself; where nothing can
be put beside DIR it is DIR/.lock. It names the process that works there, and is removed by it; one that is left belongs
to a process that was killed, which may have left parts of files too.
"""

import contextlib
import datetime
import errno
import functools
import inspect
import json
import logging
import os
import shlex
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

from filelock import FileLock, Timeout

from videomdm_ext.data.files import PART
from videomdm_ext.errors import StorageError, of_storage

logger = logging.getLogger(__name__)

PATIENCE = 3.0
"""Seconds that the other process is waited for: workers outlive one that was killed for a moment."""
LOCKLESS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
"""What a file system that knows no locks answers."""
INSIDE = ".lock"
"""Name of a lock that lies in its folder."""
Given = ParamSpec("Given")
Result = TypeVar("Result")

_mine: set[str] = set()


@dataclass(frozen=True)
class Owner:
    """The process that a lock names."""

    pid: int
    host: str
    since: str
    command: str

    @classmethod
    def here(cls) -> "Owner":
        now = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
        return cls(os.getpid(), socket.gethostname(), now, shlex.join(sys.argv)[:300])

    @classmethod
    def read(cls, path: str) -> "Owner | None":
        """None where the file does not tell."""
        try:
            with open(path, "rb") as file:
                owner = cls(**json.loads(file.read(1 << 12)))
        except (OSError, ValueError, TypeError):
            return None
        words = (owner.host, owner.since, owner.command)
        known = isinstance(owner.pid, int) and all(isinstance(word, str) and word.isprintable() for word in words)
        return owner if known else None


@contextlib.contextmanager
def held(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Within, no other process that asks for the folder gets it. StorageError names the one that has it already.

    A process that has a folder may ask for it again, and those that it starts may work in it too. An object store, and
    a file system that knows no locks, are used without one, which is logged.
    """
    named = os.fspath(folder)
    place = os.path.realpath(named)
    lock = None if place in _mine else _taken(named, place)
    if lock is None:
        yield
        return
    process = os.getpid()
    _mine.add(place)
    try:
        yield
    finally:
        if process == os.getpid():  # a fork ends nothing
            _mine.discard(place)
            with contextlib.suppress(OSError):
                os.unlink(lock.lock_file)
            lock.release()


def writing(argument: str) -> Callable[[Callable[Given, Result]], Callable[Given, Result]]:
    """A decorator: the folder that the function is given under this name is `held` while the function works."""

    def decorated(function: Callable[Given, Result]) -> Callable[Given, Result]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def call(*given: Given.args, **named: Given.kwargs) -> Result:
            with held(signature.bind(*given, **named).arguments[argument]):
                return function(*given, **named)

        return call

    return decorated


def lock_of(place: str) -> str:
    """Where the lock of a folder lies, which need not be there."""
    parent, name = os.path.split(os.path.realpath(place))
    if os.path.ismount(place) or (os.path.isdir(place) and not os.access(parent, os.W_OK)):
        return os.path.join(place, INSIDE)
    return os.path.join(parent, f".{name}.lock")


def _taken(named: str, place: str) -> FileLock | None:
    """The lock, taken; None where there can be none, or where it belongs to the process that started this one."""
    if "://" in named:
        logger.warning("%s: an object store has no locks; let no other process write there", named)
        return None
    if found := next(filter(os.path.isfile, [place, *map(str, Path(place).parents)]), None):
        raise StorageError(
            f"{named}: expected a folder that can be written, found the file {found} in its place. Choose another "
            "folder, or move that file away."
        )
    path = lock_of(place)
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        left = os.path.exists(path)
        Path(path).touch()  # filelock waits where no file can be made
        lock = FileLock(path, timeout=PATIENCE, thread_local=False, fallback_to_soft=False)
        lock.acquire()
    except Timeout:
        for _ in range(10):  # who has just taken it may still be writing its name
            if owner := Owner.read(path):
                break
            time.sleep(0.05)
        if owner and (owner.host, owner.pid) == (socket.gethostname(), os.getppid()):
            return None
        raise _busy(named, owner) from None
    except OSError as error:
        if os.path.exists(path) and not os.access(path, os.W_OK):
            owner = Owner.read(path)
            who = f"process {owner.pid} of {owner.host} since {owner.since}" if owner else "an unknown process"
            raise StorageError(
                f"{path}: expected a lock that can be taken, found one of another user ({who}). Wait until it is done; "
                f"where it has ended, have that file removed. Or choose another folder than {named}."
            ) from error
        if error.errno not in LOCKLESS:
            unknown = StorageError(
                f"{named}: expected a folder that can be written, found none ({error.strerror}). Choose another one."
            )
            known = None if error.errno == errno.ENOENT else of_storage(error, named)
            raise known or unknown from error
        logger.warning("%s: locks are unknown there (%s); let no other process write there", named, error.strerror)
        return None
    if left:
        _sweep(place)
    with contextlib.suppress(OSError):  # on a full disk it is a lock without a name
        Path(path).write_text(json.dumps(asdict(Owner.here())), encoding="utf-8")
    return lock


def _busy(named: str, owner: Owner | None) -> StorageError:
    what, stop = "another one", "end it"
    if owner:
        here = owner.host == socket.gethostname()
        what = f"process {owner.pid}{'' if here else f' of {owner.host}'} since {owner.since} ({owner.command})"
        stop = f"end it (kill {owner.pid})" if here else "end it there"
    return StorageError(
        f"{named}: expected a folder that no other process writes, found {what}. Wait until it is done, {stop}, or "
        "choose another folder."
    )


def _sweep(place: str) -> None:
    """Remove the parts of files that a process which was killed has left."""
    for root, _, names in os.walk(place):
        for name in names:
            if name.endswith(PART):
                with contextlib.suppress(OSError):
                    os.remove(os.path.join(root, name))
