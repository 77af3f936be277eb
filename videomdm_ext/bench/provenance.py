"""run.json, the record of how a comparison was made; the benches under a folder; whether the files of one are whole.

run.json holds all that must be known to repeat a comparison, and what it took. It holds times; metrics.json none.
In a training's folder: seconds.txt, of all parts that were not killed; cost.json, peak memory in MiB and weights.
"""

import contextlib
import datetime
import hashlib
import json
import platform
import re
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from videomdm_ext import __version__
from videomdm_ext.bench import fairness
from videomdm_ext.bench.plan import Plan, Run, read_plan
from videomdm_ext.config import repository
from videomdm_ext.data.files import read_json, read_text, write_bytes
from videomdm_ext.data.schemas import text_of
from videomdm_ext.data.seal import record
from videomdm_ext.errors import DatasetError, VideoMDMError
from videomdm_ext.mdm import checkout
from videomdm_ext.mdm.evaluation import hash_of

if TYPE_CHECKING:
    from videomdm_ext.bench.scoring import Scoring

SCHEMA = Path(__file__).with_name("metrics_schema.json")
PACKAGES = ("torch", "numpy", "roma", "scipy", "transformers")
"""Packages whose versions can change a number."""


def write(plan: Plan, out: Path, scoring: "Scoring", command: Sequence[str]) -> dict[str, Any]:
    """Write run.json. -> its content"""
    host, root, versions = plan.host(), repository(), {"videomdm_ext": __version__}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    cpu = f"CPU ({platform.machine() or sys.platform})"
    content = {
        "command": list(command) or _read(out / "run.json", "record", []).get("command") or [],
        "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": versions,
        "sources": {"commit": root and checkout.commit_of(root), "dirty": root and is_dirty(root)},
        "host": host_facts(host),
        "environment": {
            "platform": platform.platform(),
            "python": platform.python_version(),
            "threads": torch.get_num_threads(),
        },
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else cpu,
        "dataset": {**record(scoring.card), "content_hash": scoring.card.content_hash, "folder": plan.clips},
        "evaluators": scoring.identities,
        "evaluators_missing": dict(scoring.missing),
        "seeds": {
            "training": list(range(plan.seeds)),
            "noise": {run.name: [run.noise_seed(number) for number in range(plan.replications)] for run in plan.runs()},
        },
        "runs": {run.name: run_facts(run, out) for run in plan.runs()},
    }
    write_bytes(str(out / "run.json"), f"{text_of(content, indent=2)}\n".encode(), durable=True)
    return content


def run_facts(run: Run, out: Path) -> dict[str, Any]:
    """One training: what the host was given, what it cost, and hashes of what it left."""
    step = run.chosen_step(out) or run.steps
    places = [run.replication(out, number) for number in range(run.plan.replications)]
    return {
        "arguments": run.arguments(out),
        "steps": run.steps,
        "samples_seen": run.steps * run.plan.batch_size,
        "passes": round(run.passes()),
        "seconds": read_seconds(run.folder(out)),
        **{name: read_cost(run.folder(out)).get(name) for name in ("memory", "parameters")},
        "checkpoint": {"step": step, "sha256": hash_of(run.checkpoint(out, step))},
        "samples": {place.name: hash_of(place) for place in (*places, run.held_out(out))},
    }


def host_facts(host: checkout.Checkout) -> dict[str, Any]:
    """Which host: its commit, whether that is tested and changed, and a hash of what is read or wrapped."""
    if host.kind == "standin":
        return {"kind": host.kind, "sha256": hash_files(host.root, sorted(host.root.rglob("*.py")))}
    return {
        "kind": host.kind,
        "commit": host.commit,
        "tested": host.commit in checkout.TESTED,
        "dirty": is_dirty(host.root),
        "sha256": hash_files(host.root, [host.root / seam for seam in checkout.SEAMS if (host.root / seam).is_file()]),
    }


def hash_files(root: Path, places: Sequence[Path]) -> str:
    """Hex SHA-256 of names and contents."""
    total = hashlib.sha256()
    for place in places:
        total.update(f"{place.relative_to(root).as_posix()}\n{hash_of(place)}\n".encode())
    return total.hexdigest()


def is_dirty(root: Path) -> bool | None:
    """Whether a repository holds changes that are not committed; None where it is no repository."""
    changed = checkout.git(root, "status", "--porcelain")
    return None if changed is None else bool(changed)


def summary(content: Mapping[str, Any]) -> dict[str, Any]:
    """What of run.json a report shows, one line each."""
    host, sources = content["host"], content["sources"]
    commit = f"commit {sources['commit']}" if sources["commit"] else "not from a clone"
    dirty = " with changes that are not committed" if sources["dirty"] else ""
    return {
        "command": " ".join(content["command"]),
        "package": f"videomdm_ext {content['versions']['videomdm_ext']}, {commit}{dirty}",
        "host": f"{host['kind']} {host.get('commit') or host['sha256'][:12]}",
        "versions": ", ".join(f"{name} {version}" for name, version in content["versions"].items()),
        "device": content["device"],
        "data set content": content["dataset"]["content_hash"],
        "data set identity": content["dataset"]["identity"],
    }


# -- benches under a folder, and whether the files of one are whole ----------------------------------------------------


def benches(folder: Path) -> list[dict[str, Any]]:
    """Of every folder with a plan.json under a folder, itself among them, in the order of their names: where it is,
    what its plan is, how far it is, and the first sentence of its verdict."""
    found = []
    for out in sorted(place.parent for place in folder.rglob("plan.json")):
        try:
            plan = read_plan(out)
        except VideoMDMError:
            continue  # another program's plan
        facts = {"folder": str(out), "dataset": plan.clips, "stage": stage(plan, out)}
        facts |= {"headline": (_read(out / "metrics.json", "metrics", []).get("verdict") or [""])[0]}
        found.append({**facts, "arms": list(plan.arms), "seeds": plan.seeds, "steps": plan.steps})
    return found


def stage(plan: Plan, out: Path) -> str:
    """How far a bench is, in words."""
    runs = plan.runs()
    trained = sum(run.is_trained(out) for run in runs)
    sampled = sum(not run.missing_samples(out) or run.samples(out).is_file() for run in runs)
    if trained < len(runs):
        done = sum(run.steps_done(out) for run in runs) / sum(run.steps for run in runs)
        return f"training, {100 * done:.0f} % of the steps"
    if sampled < len(runs):
        return f"sampling, {sampled} of {len(runs)} runs"
    return "reported" if (out / "report.md").is_file() else "sampled"


def problems(out: Path, *, thorough: bool = False) -> list[str]:
    """What is missing or changed in the folder of a bench and in its data set, one line each.

    With `thorough` every file of the data set is read, else those whose size or time is another than before.
    """
    plan = read_plan(out)
    found = []
    for check in (
        lambda: fairness.check_data(plan, out, thorough=thorough),
        lambda: fairness.check_pairs(plan.runs(), out),
    ):
        try:
            check()
        except VideoMDMError as error:
            found.append(str(error))
    recorded = _read(out / "run.json", "record", found)
    for run in plan.runs():
        found += _of_run(run, out, recorded.get("runs", {}).get(run.name, {}))
    place, wanted = out / "metrics.json", list(range(plan.seeds))
    content = _read(place, "object", found)
    faults = schema_faults(content) if content else []
    found += [f"{place}: {fault}" for fault in faults]
    if content and not faults:
        arms = {arm["name"]: [training["seed"] for training in arm["trainings"]] for arm in content["arms"]}
        others = {run.label: arms.get(run.label, []) for run in plan.runs() if arms.get(run.label) != wanted}
        found += [f"{place}: {label}: expected seeds {wanted}, found {seeds}" for label, seeds in others.items()]
    files = [out / name for name in ("report.md", "report.html", "table.tex")]
    return found + [f"{file}: missing" for file in files if not file.is_file()]


def _of_run(run: Run, out: Path, recorded: dict[str, Any]) -> Iterator[str]:
    """What is wrong with the files of one training."""
    try:
        fairness.check_trained(run, out)
    except VideoMDMError as error:
        yield str(error)
    for place in (run.folder(out) / "args.json", run.checkpoint(out), *run.missing_samples(out)):
        if not place.is_file():
            yield f"{place}: missing"
    hashes = {run.held_out(out).with_name(name): sha for name, sha in recorded.get("samples", {}).items()}
    if "checkpoint" in recorded:
        hashes[run.checkpoint(out, recorded["checkpoint"]["step"])] = recorded["checkpoint"]["sha256"]
    for place, sha in hashes.items():
        if place.is_file() and hash_of(place) != sha:
            yield f"{place}: changed since run.json was written"


def _read(place: Path, kind: str, found: list[str]) -> dict[str, Any]:
    """The content of a JSON file of a kind; what is wrong with it goes to `found`."""
    try:
        return dict(read_json(place, kind))
    except DatasetError as error:
        found.append(str(error) if place.is_file() else f"{place}: missing")
    return {}


def schema_faults(content: Any) -> list[str]:
    """What in the content of a metrics.json does not follow the published schema, each with its place."""
    import jsonschema

    rules = json.loads(SCHEMA.read_text(encoding="utf-8"))
    found = jsonschema.Draft202012Validator(rules).iter_errors(content)
    return sorted(f"{error.json_path}: {textwrap.shorten(error.message, 160)}" for error in found)


# -- what a training cost ----------------------------------------------------------------------------------------------

PEAK = Path("/proc/self/status")
"""Where Linux says how much memory a process took at most."""


@contextlib.contextmanager
def cost_counted(folder: Path) -> Iterator[None]:
    """Add seconds and peak memory of what happens within to those of the parts of a training before it.

    MiB, of the GPU where one is used, else of this process on Linux; 0 where neither can be known.
    """
    started, cuda = time.monotonic(), torch.cuda.is_available()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):  # the peak of this process begins anew, so that it is not an earlier run's
        PEAK.with_name("clear_refs").write_text("5", encoding="ascii")
    try:
        yield
    finally:
        seconds = (read_seconds(folder) or 0.0) + time.monotonic() - started
        write_bytes(str(folder / "seconds.txt"), f"{seconds:.1f}".encode())
        lines = PEAK.read_text(encoding="ascii").splitlines() if PEAK.is_file() else []
        peak = next((int(line.split()[1]) / 2**10 for line in lines if line.startswith("VmHWM")), 0.0)
        peak = torch.cuda.max_memory_allocated() / 2**20 if cuda else peak
        note_cost(folder, memory=max(peak, read_cost(folder).get("memory") or 0.0))


def read_seconds(folder: Path) -> float | None:
    place = folder / "seconds.txt"
    if not place.is_file():
        return None
    text = read_text(str(place)).strip()
    if not re.fullmatch(r"\d{1,12}(\.\d{1,9})?", text, re.ASCII):
        raise DatasetError(f"{place}: expected seconds, found {text[:40]!r}. Remove the file.")
    return float(text)


def note_cost(folder: Path, **facts: float) -> None:
    """Add facts to cost.json."""
    text = text_of({**read_cost(folder), **facts}, indent=2, sort_keys=True) + "\n"
    write_bytes(str(folder / "cost.json"), text.encode())


def read_cost(folder: Path) -> dict[str, Any]:
    place = folder / "cost.json"
    return dict(read_json(place, "cost")) if place.is_file() else {}
