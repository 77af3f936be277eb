"""run.json: all that must be known to repeat a comparison, and what it took. It holds times; metrics.json none."""

import datetime
import hashlib
import json
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from videomdm_ext import __version__
from videomdm_ext.bench import cost
from videomdm_ext.bench.comparison import chosen_step
from videomdm_ext.bench.jury import Jury
from videomdm_ext.bench.plan import Plan, Run
from videomdm_ext.bench.score_files import digest
from videomdm_ext.data.files import write_bytes
from videomdm_ext.mdm import checkout, known

SOURCES = Path(__file__).resolve().parents[2]
PACKAGES = ("torch", "numpy", "roma", "scipy", "transformers")
"""Packages whose versions can change a number."""


def write(plan: Plan, out: Path, jury: Jury, command: Sequence[str]) -> dict[str, Any]:
    """Write run.json. -> its content"""
    host = plan.host()
    content = {
        "command": list(command) or _earlier(out),
        "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "sources": {"commit": checkout.commit_of(SOURCES), "dirty": is_dirty(SOURCES)},
        "host": host_facts(host),
        "environment": {
            "platform": platform.platform(),
            "python": platform.python_version(),
            "threads": torch.get_num_threads(),
        },
        "device": device(),
        "dataset": {"content_hash": jury.card.content_hash, "name": jury.card.name, "folder": plan.clips},
        "evaluators": jury.identities,
        "evaluators_missing": dict(jury.missing),
        "seeds": {
            "training": list(range(plan.seeds)),
            "noise": {run.name: [run.noise_seed(number) for number in range(plan.replications)] for run in plan.runs()},
        },
        "runs": {run.name: run_facts(run, out) for run in plan.runs()},
    }
    write_bytes(str(out / "run.json"), (json.dumps(content, indent=2) + "\n").encode())
    return content


def _earlier(out: Path) -> list[str]:
    """The command in the run.json that is there."""
    try:
        return list(json.loads((out / "run.json").read_text(encoding="utf-8"))["command"])
    except (OSError, ValueError, LookupError, TypeError):
        return []


def run_facts(run: Run, out: Path) -> dict[str, Any]:
    """One training: what the host was given, what it cost, and hashes of what it left."""
    step = chosen_step(run, out) or run.steps
    places = [run.replication(out, number) for number in range(run.plan.replications)]
    return {
        "arguments": run.arguments(out),
        "steps": run.steps,
        "samples_seen": run.steps * run.plan.batch_size,
        "passes": round(run.passes()),
        "seconds": cost.read_seconds(run.folder(out)),
        **{name: cost.read(run.folder(out)).get(name) for name in ("memory", "parameters")},
        "checkpoint": {"step": step, "sha256": digest(run.checkpoint(out, step))},
        "samples": {place.name: digest(place) for place in (*places, run.held_out(out))},
    }


def versions() -> dict[str, str]:
    found = {"videomdm_ext": __version__}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU ({platform.machine() or sys.platform})"


def host_facts(host: checkout.Checkout) -> dict[str, Any]:
    """Which host: its commit, files that are not the commit's own, and a hash of what is read or wrapped."""
    if host.kind == "standin":
        return {"kind": host.kind, "sha256": hash_files(host.root, sorted(host.root.rglob("*.py")))}
    nearest, differing = known.closest(host.root)
    return {
        "kind": host.kind,
        "commit": host.commit,
        "supported_commit": nearest.commit,
        "differing": differing,
        "dirty": is_dirty(host.root),
        "sha256": hash_files(host.root, [host.root / seam for seam in checkout.SEAMS]),
    }


def hash_files(root: Path, places: Sequence[Path]) -> str:
    """Hex SHA-256 of names and contents."""
    total = hashlib.sha256()
    for place in places:
        total.update(f"{place.relative_to(root).as_posix()}\n{digest(place)}\n".encode())
    return total.hexdigest()


def is_dirty(root: Path) -> bool | None:
    """Whether a repository holds changes that are not committed; None where it is no repository."""
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "status", "--porcelain"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return bool(done.stdout.strip())


def told(content: Mapping[str, Any]) -> dict[str, Any]:
    """What of run.json a report shows, one line each."""
    host = content["host"]
    dirty = " with changes that are not committed" if content["sources"]["dirty"] else ""
    return {
        "command": " ".join(content["command"]),
        "package": f"videomdm_ext {content['versions']['videomdm_ext']}, commit {content['sources']['commit']}{dirty}",
        "host": f"{host['kind']} {host.get('commit') or host['sha256'][:12]}",
        "versions": ", ".join(f"{name} {version}" for name, version in content["versions"].items()),
        "device": content["device"],
        "data set content": content["dataset"]["content_hash"],
    }
