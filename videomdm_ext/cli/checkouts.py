"""The verbs about an MDM checkout: put our lines in, take them out, say how it stands, and which commits are known."""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from videomdm_ext.cli.console import parse
from videomdm_ext.errors import HostError
from videomdm_ext.mdm import checkout, known, patching

REPOSITORY = f"https://github.com/GuyTevet/{checkout.NAME}"


@dataclass(frozen=True)
class Install:
    """Put three lines into utils/parser_util.py of an MDM checkout, so that MDM's own commands take our options."""

    mdm: str = ""
    """MDM checkout; empty: search for one."""
    yes: bool = False
    """Agree to places that were found by syntax tree."""


def install(words: Sequence[str]) -> int:
    """Our lines in a checkout, after a question where no patch is known for its file."""
    options = parse(Install, "install", words)
    host = _find(options.mdm)
    plan = patching.plan(host.root)
    print(f"{patching.PATH} gets three lines, at the places by {plan.source}:")
    print("\n".join(plan.shown))
    if plan.source == patching.TREE and not options.yes and not _agreed(host.root):
        print(f"Nothing was changed. Without an edit: videomdm run --mdm {host.root} train.train_mdm ARGS...")
        return 1
    patching.apply(plan)
    print(f"installed. MDM runs with our options under this Python: {sys.executable}")
    print(f"Next: cd {host.root} && python -m train.train_mdm --supervision 2d --clips FOLDER --save_dir save/2d")
    return 0


def _agreed(root: Path) -> bool:
    """Ask in a terminal; elsewhere an error, for nobody can answer."""
    if not sys.stdin.isatty():
        raise HostError(
            f"{root / patching.PATH}: expected a file of a known commit, found another, so these places were found by "
            "syntax tree. Nothing was changed. Look at them; if they are right, repeat with --yes"
        )
    try:
        return input("No patch is known for this file. Are these places right? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


@dataclass(frozen=True)
class Uninstall:
    """Take our lines out of an MDM checkout; every byte is as before, which is proven before anything is written."""

    mdm: str = ""
    """MDM checkout; empty: search for one."""
    force: bool = False
    """Take our lines also out of a file that was changed since, and leave the rest of it."""


def uninstall(words: Sequence[str]) -> int:
    """A checkout without our lines and without our folder."""
    options = parse(Uninstall, "uninstall", words)
    host = _find(options.mdm)
    print(patching.uninstall(host.root, force=options.force))
    print(f"Next: videomdm run --mdm {host.root} train.train_mdm ARGS... runs MDM with our options without an edit")
    return 0


@dataclass(frozen=True)
class State:
    """Say whether our lines are in an MDM checkout, and how it differs from the known commit."""

    mdm: str = ""
    """MDM checkout; empty: search for one."""
    check: bool = False
    """Exit with status 1 unless installed."""
    json: bool = False
    """Print everything as JSON."""


def status(words: Sequence[str]) -> int:
    """How a checkout stands; nothing is written."""
    options = parse(State, "status", words)
    if options.json:
        host = checkout.find(options.mdm or None)
        found = patching.examine(host.root)
        print(json.dumps(_as_json(host, found), indent=2))
    else:
        host = _find(options.mdm)
        found = _say_state(host)
        print(f"Next: {_next(host.root, found)}")
    return 1 if options.check and found.state != patching.INSTALLED else 0


@dataclass(frozen=True)
class Doctor:
    """Say how an MDM checkout and the installed packages fit: what is fine, what is remedied, what is missing."""

    mdm: str = ""
    """MDM checkout; empty: search for one, else the stand-in."""
    json: bool = False
    """Print everything as JSON."""


def doctor(words: Sequence[str]) -> int:
    """The state of a checkout, and of what it needs."""
    options = parse(Doctor, "doctor", words)
    examine = import_module("videomdm_ext.mdm.compat").examine
    try:
        host = checkout.find(options.mdm or None)
    except HostError:
        if options.mdm or checkout.VARIABLE in os.environ:
            raise
        host = checkout.standin()
    standin = host.kind == "standin"
    if options.json:
        findings = [asdict(finding) for finding in examine(host)]
        state = {"kind": host.kind} if standin else _as_json(host, patching.examine(host.root))
        print(json.dumps({**state, "findings": findings}, indent=2))
        return 0
    say_host(host)
    next_command = "videomdm demo" if standin else _next(host.root, _say_state(host))
    findings = examine(host)
    width = max((len(finding.name) for finding in findings), default=0)
    for finding in findings:
        print(f"{finding.state:<9} {finding.name:<{width}}  {finding.about}")
        if finding.advice:
            print(f"{'':<9} {'':<{width}}  -> {finding.advice}")
    print(f"Next: {next_command}")
    return 0


@dataclass(frozen=True)
class Pin:
    """Name the commits of MDM that are supported, and how to get the newest of them."""


def pin(words: Sequence[str]) -> int:
    """Supported commits, newest first."""
    parse(Pin, "host pin", words)
    commits = known.known()
    for commit in commits:
        print(f"{commit.commit}  {commit.date}")
    print(f"git clone {REPOSITORY}")
    print(f"git -C {checkout.NAME} checkout {commits[0].commit}")
    print(f"Next: videomdm install --mdm {checkout.NAME}")
    return 0


def _find(mdm: str) -> checkout.Checkout:
    """The checkout, which is named in the first line of every answer."""
    host = checkout.find(mdm or None)
    say_host(host)
    return host


def say_host(host: checkout.Checkout) -> None:
    name = "the stand-in" if host.kind == "standin" else "MDM"
    print(f"{host.root}: {name}{f' at {host.commit}' if host.commit else ', no git commit'}")


def _as_json(host: checkout.Checkout, found: patching.Status) -> dict[str, Any]:
    """What --json tells of a checkout; an MDM is compared with the known commit that is nearest."""
    commit, differing = known.closest(host.root)
    return {
        "checkout": str(host.root),
        "kind": host.kind,
        "commit": host.commit,
        "state": found.state,
        "about": found.about,
        "nearest_known_commit": commit.commit if host.kind == "mdm" else None,
        "differing_files": list(differing) if host.kind == "mdm" else [],
        "next": _next(host.root, found),
    }


def _say_state(host: checkout.Checkout) -> patching.Status:
    found = patching.examine(host.root)
    print(f"{found.state}: {found.about}")
    commit, differing = known.closest(host.root)
    if host.kind == "mdm":
        print(_comparison(commit.commit[:7], len(commit.files), differing))
    return found


def _comparison(commit: str, total: int, differing: Sequence[str]) -> str:
    if not differing:
        return f"the {total} other files that this package reads or wraps are those of {commit}, which is tested"
    return (
        f"{len(differing)} of the {total} other files that this package reads or wraps differ from {commit}, which is "
        f"tested: {', '.join(differing)}"
    )


def _next(root: Path, found: patching.Status) -> str:
    """The command that is useful after a state."""
    if found.state == patching.INSTALLED:
        return f"cd {root} && python -m train.train_mdm --supervision 2d --clips FOLDER --save_dir save/2d"
    if found.state == patching.CHANGED:
        return f"videomdm uninstall --mdm {root}"
    return f"videomdm install --mdm {root}"
