"""Whether the host's CLIP can be had: OpenAI's package `clip`, and its weights, on the disk or by a download."""

import importlib
import logging
import socket
import threading
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any

from videomdm_ext.errors import VideoMDMError

logger = logging.getLogger(__name__)

VERSION = "ViT-B/32"
"""The CLIP that MDM loads."""
INSTALL = 'pip install -e ".[mdm]" -c constraints.txt'
PATIENCE = 4.0
"""Seconds in which the weights' address must answer; only where they are not there yet."""
STALLED = 30.0
"""Seconds without a byte after which a download that had begun is given up."""
FAILURES = (OSError, RuntimeError, ImportError, ValueError, HTTPException, VideoMDMError)


def path() -> Path:
    """Where the package `clip` keeps the weights."""
    return Path.home() / ".cache" / "clip" / f"{VERSION.replace('/', '-')}.pt"


def problem(*, download: bool = True, load: bool = False) -> str:
    """Why the host's CLIP cannot be used; empty where it can: the weights are there, or were downloaded now.

    Without `download`, it is enough that their address answers. `load`: weights that are there are really loaded.
    """
    try:
        package: Any = importlib.import_module("clip")
    except FAILURES as error:
        return f"OpenAI's package `clip` cannot be imported ({error}); {INSTALL} provides it"
    if not (callable(getattr(package, "load", None)) and callable(getattr(package, "tokenize", None))):
        place = getattr(package, "__file__", None) or "of unknown origin"
        return (
            f"the installed package `clip` ({place}) is another program of that name, without load and tokenize; "
            f"pip uninstall clip, then {INSTALL}"
        )
    unusable = _failure(lambda: package.tokenize(["a person walks"]), "OpenAI's package `clip` cannot be used")
    if unusable:
        return unusable
    if zipfile.is_zipfile(path()):  # the list of a zip's files stands at its end
        return _failure(lambda: _load(package), f"{path()} cannot be loaded") if load else ""
    absent = f"{path()} is not there" if not path().exists() else f"{path()} is not whole"
    address = getattr(getattr(package, "clip", None), "_MODELS", {}).get(VERSION)
    silent = _failure(lambda: _ask(address), f"{absent}, and downloading it failed") if address else ""
    if silent or not download:
        return silent
    logger.warning("CLIP %s: %s, so it is downloaded", VERSION, absent)
    with _impatient():
        return _failure(lambda: _load(package), f"{absent}, and downloading it failed")


def _load(package: Any) -> None:
    package.load(VERSION, device="cpu", jit=False)


def _failure(action: Callable[[], object], what: str) -> str:
    try:
        action()
    except FAILURES as error:
        return f"{what} ({type(error).__name__}: {error})"
    return ""


def _ask(address: str) -> None:
    """Raise OSError unless the address answers in time. Looking up a name knows no time limit, hence the thread."""
    answers: list[Exception | None] = []

    def ask() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=PATIENCE):
                answers.append(None)
        except Exception as error:
            answers.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    if not answers:
        raise TimeoutError(f"no answer from {address} in {PATIENCE:.0f} s")
    if answers[0] is not None:
        raise answers[0]


@contextmanager
def _impatient() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(STALLED)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
