"""The verbs about an MDM checkout: put our line in, take it out, report how it stands, and what it needs."""

import json
import os
import sys
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import tyro

from videomdm_ext.cli.console import quoted
from videomdm_ext.data.files import write_bytes
from videomdm_ext.errors import HostError
from videomdm_ext.mdm import checkout


@dataclass(frozen=True)
class Install:
    """Append one line to utils/parser_util.py of an MDM checkout, so that MDM's own commands take our options."""

    mdm: str = ""
    """MDM checkout; empty: search for one."""

    def __call__(self) -> int:
        host = _find(self.mdm)
        print(checkout.install(host.root))
        print(f"MDM runs with our options under this Python: {sys.executable}")
        print(f"Next: {_next(host.root, checkout.examine(host.root))}")
        return 0


@dataclass(frozen=True)
class Uninstall:
    """Take our lines out of an MDM checkout, those of earlier versions too; every other byte stays as it is."""

    mdm: str = ""
    """MDM checkout; empty: search for one."""

    def __call__(self) -> int:
        host = _find(self.mdm, supported=False)
        print(checkout.uninstall(host.root))
        with suppress(HostError):  # what `run` would refuse
            checkout.require(host.root, "uninstall")
            start = f"videomdm run --mdm {quoted(host.root)} {checkout.trainer(host.root)}"
            print(f"Next: {start} ARGS... runs MDM with our options")
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

    def __call__(self) -> int:
        host = checkout.find(self.mdm or None) if self.json else _find(self.mdm)
        found = checkout.examine(host.root)
        if self.json:
            print(json.dumps(_as_json(host, found), indent=2))
        else:
            _report(host, found)
            print(f"Next: {_next(host.root, found)}")
        return 1 if self.check and found.state != checkout.INSTALLED else 0


@dataclass(frozen=True)
class Doctor:
    """Report how an MDM checkout and the installed packages fit: what is fine, what is remedied, what is missing."""

    mdm: str = ""
    """MDM checkout; empty: search for one, else the stand-in."""
    json: bool = False
    """Print everything as JSON."""

    def __call__(self) -> int:
        examine = import_module("videomdm_ext.mdm.doctor").examine
        try:
            host = checkout.find(self.mdm or None)
        except HostError:
            if self.mdm or checkout.VARIABLE in os.environ or any(map(Path.is_dir, checkout.default_places())):
                raise
            host = checkout.standin()
        found = None if host.kind == "standin" else checkout.examine(host.root)
        if self.json:
            state = _as_json(host, found) if found else {"kind": host.kind}
            print(json.dumps({**state, "findings": [asdict(finding) for finding in examine(host)]}, indent=2))
            return 0
        say_host(host)
        if found:
            _report(host, found)
        findings = examine(host)
        width = max((len(finding.name) for finding in findings), default=0)
        for finding in findings:
            print(f"{finding.state:<9} {finding.name:<{width}}  {finding.about}")
            if finding.advice:
                print(f"{'':<9} {'':<{width}}  -> {finding.advice}")
        print(f"Next: {_next(host.root, found) if found else 'videomdm demo'}")
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

    def __call__(self) -> int:
        doctor = import_module("videomdm_ext.mdm.doctor")
        rows = []
        with doctor.bundled_clips() if self.run else nullcontext() as clips:
            for folder in self.folders:
                rows.append(doctor.survey(folder, clips))
                print(f"{folder}: {', '.join(f'{name} {state}' for name, (state, _) in rows[-1].found.items())}")
        table = doctor.survey_table(rows)
        print(f"\n{table}")
        if self.out is not None:
            write_bytes(str(self.out), table.encode())
        print(f"Next: {'videomdm install --mdm PATH' if self.run else 'videomdm host survey --run DIR...'}")
        return 0


def _find(mdm: str, *, supported: bool = True) -> checkout.Checkout:
    """The checkout, which is named in the first line of every answer."""
    host = checkout.find(mdm or None, supported=supported)
    say_host(host)
    return host


def say_host(host: checkout.Checkout) -> None:
    name = "the stand-in" if host.kind == "standin" else "MDM"
    print(f"{host.root}: {name}{f' at {host.commit}' if host.commit else ', no git commit'}")


def _as_json(host: checkout.Checkout, found: checkout.Status) -> dict[str, Any]:
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


def _report(host: checkout.Checkout, found: checkout.Status) -> None:
    print(f"{found.state}: {found.about}")
    if host.kind == "mdm":
        tested = ", ".join(commit[:7] for commit in checkout.TESTED)
        print(f"this commit is {'' if host.commit in checkout.TESTED else 'not '}one of those tested: {tested}")


def _next(root: Path, found: checkout.Status) -> str:
    """The command that is useful after a state."""
    if found.state == checkout.INSTALLED:
        late = checkout.hooked_late(root)  # then the line in the file alone does not suffice
        start = f"videomdm run --mdm {quoted(root)}" if late else f"cd {quoted(root)} && python -m"
        return f"{start} {checkout.trainer(root)} --supervision 2d --clips FOLDER --save_dir save/2d"
    if found.state == checkout.CHANGED:
        return f"git -C {quoted(root)} diff -- {checkout.PARSER}"
    return f"videomdm install --mdm {quoted(root)}"
