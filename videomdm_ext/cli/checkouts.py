"""The verbs about an MDM checkout: put our line in, take it out, report how it stands, and what it needs."""

import json
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import tyro

from videomdm_ext.cli.console import parse, quoted
from videomdm_ext.data.files import write_bytes
from videomdm_ext.errors import HostError
from videomdm_ext.mdm import checkout, install


@dataclass(frozen=True)
class Install:
    """Append one line to utils/parser_util.py of an MDM checkout, so that MDM's own commands take our options."""

    mdm: str = ""
    """MDM checkout; empty: search for one."""


def install_line(words: Sequence[str]) -> int:
    """Our line in a checkout, in place of those of an earlier version."""
    host = _find(parse(Install, "install", words).mdm)
    print(install.install(host.root))
    print(f"MDM runs with our options under this Python: {sys.executable}")
    print(f"Next: {_next(host.root, install.examine(host.root))}")
    return 0


@dataclass(frozen=True)
class Uninstall:
    """Take our lines out of an MDM checkout, those of earlier versions too; every other byte stays as it is."""

    mdm: str = ""
    """MDM checkout; empty: search for one."""


def uninstall(words: Sequence[str]) -> int:
    """A checkout without our lines and without our folder."""
    host = _find(parse(Uninstall, "uninstall", words).mdm, supported=False)
    print(install.uninstall(host.root))
    if not checkout.gap(host.root, "uninstall"):
        print(f"Next: videomdm run --mdm {quoted(host.root)} train.train_mdm ARGS... runs MDM with our options")
    return 0


@dataclass(frozen=True)
class State:
    """Report whether our line is in an MDM checkout, and whether its commit is tested."""

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
        found = install.examine(host.root)
        print(json.dumps(_as_json(host, found), indent=2))
    else:
        host = _find(options.mdm)
        found = _report(host)
        print(f"Next: {_next(host.root, found)}")
    return 1 if options.check and found.state != install.INSTALLED else 0


@dataclass(frozen=True)
class Doctor:
    """Report how an MDM checkout and the installed packages fit: what is fine, what is remedied, what is missing."""

    mdm: str = ""
    """MDM checkout; empty: search for one, else the stand-in."""
    json: bool = False
    """Print everything as JSON."""


def doctor(words: Sequence[str]) -> int:
    """The state of a checkout, and of what it needs."""
    options = parse(Doctor, "doctor", words)
    examine = import_module("videomdm_ext.mdm.doctor").examine
    try:
        host = checkout.find(options.mdm or None)
    except HostError:
        if options.mdm or checkout.VARIABLE in os.environ or any(map(Path.is_dir, checkout.default_places())):
            raise
        host = checkout.standin()
    standin = host.kind == "standin"
    if options.json:
        findings = [asdict(finding) for finding in examine(host)]
        state = {"kind": host.kind} if standin else _as_json(host, install.examine(host.root))
        print(json.dumps({**state, "findings": findings}, indent=2))
        return 0
    say_host(host)
    next_command = "videomdm demo" if standin else _next(host.root, _report(host))
    findings = examine(host)
    width = max((len(finding.name) for finding in findings), default=0)
    for finding in findings:
        print(f"{finding.state:<9} {finding.name:<{width}}  {finding.about}")
        if finding.advice:
            print(f"{'':<9} {'':<{width}}  -> {finding.advice}")
    print(f"Next: {next_command}")
    return 0


@dataclass(frozen=True)
class Survey:
    """Report which programs work with this package in checkouts of MDM and its forks, as a Markdown table."""

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Checkouts."""
    run: bool = False
    """Run the programs on tiny data in a copy of each, about a minute a checkout; without, look for their seams."""
    out: Path | None = None
    """Write the table to this file too."""


def survey(words: Sequence[str]) -> int:
    """A row for each checkout, and why what is not there matters."""
    options = parse(Survey, "host survey", words)
    surveys = import_module("videomdm_ext.mdm.survey")
    rows = []
    with surveys.bundled_clips() if options.run else nullcontext() as clips:
        for folder in options.folders:
            rows.append(surveys.survey(folder, clips))
            print(f"{folder}: {', '.join(f'{name} {state}' for name, (state, _) in rows[-1].found.items())}")
    table = surveys.table(rows)
    print(f"\n{table}")
    if options.out is not None:
        write_bytes(str(options.out), table.encode())
    print(f"Next: {'videomdm install --mdm PATH' if options.run else 'videomdm host survey --run DIR...'}")
    return 0


def _find(mdm: str, *, supported: bool = True) -> checkout.Checkout:
    """The checkout, which is named in the first line of every answer."""
    host = checkout.find(mdm or None, supported=supported)
    say_host(host)
    return host


def say_host(host: checkout.Checkout) -> None:
    name = "the stand-in" if host.kind == "standin" else "MDM"
    print(f"{host.root}: {name}{f' at {host.commit}' if host.commit else ', no git commit'}")


def _as_json(host: checkout.Checkout, found: install.Status) -> dict[str, Any]:
    """What --json reports of a checkout."""
    return {
        "checkout": str(host.root),
        "kind": host.kind,
        "commit": host.commit,
        "tested": host.commit in checkout.TESTED,
        "tested_commits": list(checkout.TESTED),
        "state": found.state,
        "about": found.about,
        "next": _next(host.root, found),
    }


def _report(host: checkout.Checkout) -> install.Status:
    found = install.examine(host.root)
    print(f"{found.state}: {found.about}")
    if host.kind == "mdm":
        tested = ", ".join(commit[:7] for commit in checkout.TESTED)
        print(f"this commit is {'' if host.commit in checkout.TESTED else 'not '}one of those tested: {tested}")
    return found


def _next(root: Path, found: install.Status) -> str:
    """The command that is useful after a state."""
    if found.state == install.INSTALLED:
        return f"cd {quoted(root)} && python -m train.train_mdm --supervision 2d --clips FOLDER --save_dir save/2d"
    if found.state == install.CHANGED:
        return f"git -C {quoted(root)} diff -- {checkout.PARSER}"
    return f"videomdm install --mdm {quoted(root)}"
