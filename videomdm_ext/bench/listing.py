"""Which benches lie under a folder and how far they are, and whether the files of one are what they should be."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videomdm_ext.bench import fairness, schema
from videomdm_ext.bench.plan import Plan, Run, read_plan
from videomdm_ext.bench.score_files import digest
from videomdm_ext.data.folder import read_card
from videomdm_ext.errors import VideoMDMError


@dataclass(frozen=True)
class Listed:
    """A bench in a list: its folder, its plan, how far it is, and the first sentence of its verdict."""

    folder: Path
    plan: Plan
    stage: str
    headline: str


def benches(folder: Path) -> list[Listed]:
    """Every folder with a plan.json under a folder, itself among them, in the order of their names."""
    found = []
    for place in sorted(folder.rglob("plan.json")):
        try:
            plan = read_plan(place.parent)
        except VideoMDMError:
            continue  # another program's plan
        found.append(Listed(place.parent, plan, stage(plan, place.parent), headline(place.parent)))
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


def headline(out: Path) -> str:
    """The first sentence of the verdict in metrics.json, or nothing."""
    try:
        return str(json.loads((out / "metrics.json").read_text(encoding="utf-8"))["verdict"][0])
    except (OSError, ValueError, LookupError, TypeError):
        return ""


def problems(out: Path) -> list[str]:
    """What is missing or changed in the folder of a bench, one line each."""
    plan = read_plan(out)
    found = []
    try:
        card = read_card(plan.clips)
        if card.content_hash != plan.content:
            found.append(f"{plan.clips}: other clips than those of plan.json")
        fairness.check_pairs(plan.runs(), out)
    except VideoMDMError as error:
        found.append(str(error))
    record = _read(out / "run.json", found)
    for run in plan.runs():
        found += _of_run(run, out, record.get("runs", {}).get(run.name, {}))
    content = _read(out / "metrics.json", found)
    if content:
        faults = schema.faults(content, schema.metrics_schema())
        found += [f"{out / 'metrics.json'}: {fault}" for fault in faults]
        found += [] if faults else _of_metrics(plan, content, out / "metrics.json")
    return found + [
        f"{out / name}: missing" for name in ("report.md", "report.html", "table.tex") if not (out / name).is_file()
    ]


def _of_run(run: Run, out: Path, recorded: dict[str, Any]) -> Iterator[str]:
    """What is wrong with the files of one training."""
    try:
        fairness.check_trained(run, out)
    except VideoMDMError as error:
        yield str(error)
    for place in (run.folder(out) / "args.json", run.checkpoint(out), *run.missing_samples(out)):
        if not place.is_file():
            yield f"{place}: missing"
    hashes: dict[Path, str] = {
        run.held_out(out).with_name(name): sha for name, sha in recorded.get("samples", {}).items()
    }
    step = recorded.get("checkpoint", {}).get("step")
    if step is not None:
        hashes[run.checkpoint(out, step)] = recorded["checkpoint"]["sha256"]
    for place, sha in hashes.items():
        if place.is_file() and digest(place) != sha:
            yield f"{place}: changed since run.json was written"


def _of_metrics(plan: Plan, content: dict[str, Any], place: Path) -> Iterator[str]:
    """Whether metrics.json has the plan's arms and seeds."""
    arms = {arm["name"]: arm for arm in content["arms"]}
    for label in dict.fromkeys(run.label for run in plan.runs()):
        seeds = [training["seed"] for training in arms.get(label, {}).get("trainings", ())]
        if seeds != list(range(plan.seeds)):
            yield f"{place}: {label}: expected seeds {list(range(plan.seeds))}, found {seeds}"


def _read(place: Path, found: list[str]) -> dict[str, Any]:
    """A JSON file's object; what is wrong with it goes to `found`."""
    try:
        content = json.loads(place.read_text(encoding="utf-8"))
        if isinstance(content, dict):
            return content
        found.append(f"{place}: expected an object")
    except OSError:
        found.append(f"{place}: missing")
    except ValueError as error:
        found.append(f"{place}: not JSON ({error})")
    return {}
