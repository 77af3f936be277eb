"""The record of a comparison as one file that others can check, and two laboratories' records side by side.

A record is a ZIP archive whose members are stored as they are, with one date: equal benches give equal bytes.

record.json              format, rules of scoring, plan, run.json and metrics.json without what is of one machine alone,
                         and the SHA-256 of every other member
scores/ARM-SEED/*.json   every score, of each clip too
samples/ARM-SEED/*.npz   motions, on demand
"""

import hashlib
import io
import math
import re
import zipfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videomdm_ext.bench.metrics import METRICS, by_name
from videomdm_ext.bench.plan import arm_name
from videomdm_ext.bench.provenance import schema_faults
from videomdm_ext.bench.report.tables import Table, label, markdown_block, plain
from videomdm_ext.bench.scoring import HELD_OUT_RULES, RULES
from videomdm_ext.bench.statistics import estimate_text, mean_interval
from videomdm_ext.data.files import BROKEN, BYTES_LIMIT, parse_json, read_bytes, read_json, text_from, write_bytes
from videomdm_ext.data.schemas import text_of
from videomdm_ext.errors import ConfigError, DatasetError

MEMBER = "record.json"
DATE = (1980, 1, 1, 0, 0, 0)
JUDGED = ("reference", "windows", "crop_frames", "samples", "replications", "guidance", "diffusion_steps")
"""Entries of two plans that must be equal: what was sampled, how, and against what it was scored."""
ELSEWHERE = ("clips", "content", "settings", "data", "arms", "primary", "without")
"""Entries of a plan that are compared in another way, or make no score another."""


# -- from the folder of a bench to one file ----------------------------------------------------------------------------


def export(folder: Path, place: Path, *, samples: bool = False) -> dict[str, Any]:
    """Write the record of a bench that is reported. -> its record.json"""
    plan, run = _read(folder / "plan.json", "plan"), _read(folder / "run.json", "record")
    metrics = _read(folder / "metrics.json", "metrics")
    if faults := schema_faults(metrics):
        raise DatasetError(f"{folder / 'metrics.json'}: {faults[0]}. Make it again: videomdm bench report {folder}.")
    files = sorted(folder.glob("scores/**/*.json")) + (sorted(folder.glob("samples/**/*.npz")) if samples else [])
    if samples and not any(file.suffix == ".npz" for file in files):
        raise ConfigError(f"{folder / 'samples'}: expected the samples of a bench, found none. Leave --samples out.")
    members = {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}
    if other := disagreement(metrics, members):
        raise DatasetError(f"{folder / 'metrics.json'}: {other}. Make it again: videomdm bench report {folder}.")
    metrics["card"] = {name: value for name, value in metrics["card"].items() if name not in ("recipe", "files")}
    named = {"clips": metrics["card"]["name"], "arms": [arm_name(arm) for arm in plan.get("arms", [])]}
    runs = {name: {k: v for k, v in own.items() if k != "arguments"} for name, own in run.pop("runs", {}).items()}
    dataset = {name: value for name, value in run.pop("dataset", {}).items() if name != "folder"}
    content = {
        "format": 1,
        "rules": {"scoring": RULES, "held-out clips": HELD_OUT_RULES},
        "plan": {**{k: v for k, v in plan.items() if k not in ("mdm", "evaluators")}, **named},
        "run": {**{k: v for k, v in run.items() if k not in ("command", "seeds")}, "dataset": dataset, "runs": runs},
        "metrics": metrics,
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in members.items()},
    }
    written, head = io.BytesIO(), f"{text_of(content, indent=1, sort_keys=True)}\n".encode()
    with zipfile.ZipFile(written, "w") as archive:
        for name, data in {MEMBER: head, **members}.items():
            archive.writestr(zipfile.ZipInfo(name, DATE), data)
    write_bytes(str(place), written.getvalue())
    return content


def _read(place: Path, kind: str) -> dict[str, Any]:
    if not place.is_file():
        raise ConfigError(
            f"{place}: expected the folder of a bench that is reported, found no such file. Name its folder, or "
            f"report it: videomdm bench report {place.parent}."
        )
    return dict(read_json(place, kind))


def read_record(place: Path) -> dict[str, Any]:
    """record.json of a record all of whose members are as they were written. DatasetError for anything else."""
    content = read_bytes(str(place), limit=BYTES_LIMIT)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for info in archive.infolist():
                if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.file_size > len(content):
                    raise ValueError(f"its member {info.filename[:60]!r} is not stored as it is")
            members = {info.filename: archive.read(info) for info in archive.infolist()}
            head = members.pop(MEMBER)
    except BROKEN as error:
        raise DatasetError(
            f"{place}: expected the record of a comparison, found other content ({str(error)[:200]}). Write one with "
            "videomdm bench export, or copy it again."
        ) from error
    found = dict(parse_json(text_from(head, str(place)), str(place), "exported"))
    known, listed = {name: hashlib.sha256(data).hexdigest() for name, data in members.items()}, found["files"]
    changed = sorted(name for name in known.keys() | listed.keys() if known.get(name) != listed.get(name))
    faults = [f"{name} is not what {MEMBER} lists" for name in changed] or schema_faults(found["metrics"])
    faults = faults or list(filter(None, [disagreement(found["metrics"], members)]))
    if faults:
        raise DatasetError(f"{place}: expected a record that nobody changed, found that {faults[0]}. Copy it again.")
    return found


def disagreement(metrics: Mapping[str, Any], members: Mapping[str, bytes]) -> str:
    """The first mean over replications that is not that of the scores of a training, empty where all are."""
    for arm in metrics["arms"]:
        for run in arm["trainings"]:
            folder = f"scores/{arm['name']}-{run['seed']}/"
            places = [name for name in sorted(members) if re.fullmatch(re.escape(folder) + r"\d+\.json", name)]
            rows = [parse_json(text_from(members[name], name), name, "object").get("scores", {}) for name in places]
            for name in set.intersection(*map(set, rows)) & run["metrics"].keys() if rows else ():
                scores, mean = [row[name] for row in rows], run["metrics"][name]
                known = mean is not None and None not in scores
                if not (math.isclose(mean, sum(scores) / len(scores), rel_tol=1e-6) if known else mean is None):
                    return f"{name} of {arm['name']}, seed {run['seed']}, is {mean} and not the mean of {folder}"
    return ""


# -- two records -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """A row for each arm and metric of both, and what else differs between them: entry, first, second."""

    table: Table
    others: Table
    left_out: tuple[str, ...] = ()


def compare(
    first: Mapping[str, Any], second: Mapping[str, Any], *, without: Collection[str] = (), everything: bool = False
) -> Comparison:
    """Scores of the arms of both, and their differences, with t intervals over the seeds that both have.

    ConfigError names every field that differs and must be equal. `without` names evaluators that do not count.
    Metrics are those that may rank in both, or `everything`.
    """
    pair = (first, second)
    differing = [(field, *values) for field, values in _fields(pair, without) if values[0] != values[1]]
    if differing:
        listed = "; ".join(f"{field} ({a}, {b})" for field, a, b in differing)
        raise ConfigError(
            f"expected two records of one comparison, found another {listed}. Compare records that are equal in these, "
            "or leave evaluators out with --without."
        )
    arms = [{arm["name"]: arm for arm in one["metrics"]["arms"]} for one in pair]
    common = [name for name in arms[0] if name in arms[1]]
    if not common:
        raise ConfigError(f"expected an arm in both records, found {', '.join(arms[0])} and {', '.join(arms[1])}.")
    judges = [set(_evaluators(one)) for one in pair]
    if unknown := sorted(set(without) - judges[0] - judges[1]):
        known = ", ".join(sorted(judges[0] | judges[1])) or "which have none"
        raise ConfigError(
            f"--without {' '.join(unknown)}: expected evaluators of the records ({known}), found others. Correct it."
        )
    lone = sorted((judges[0] ^ judges[1]) | set(without))
    rows, words = [], [plain(name) for name in common]
    for metric in _metrics(pair, lone, everything):
        for name, word in zip(common, words, strict=True):
            values = [{run["seed"]: run["metrics"].get(metric) for run in own[name]["trainings"]} for own in arms]
            scores = [{seed: score for seed, score in own.items() if score is not None} for own in values]
            if scores[0] and scores[1]:
                rows.append([label(metric), word, *_cells(metric, *scores)])
    head = ["metric", "arm", "first", "second", "first less second", "seeds"]
    others = [[field, *map(str, values)] for field, values in _free(pair) if values[0] != values[1]]
    missing = tuple(name for name in dict.fromkeys((*arms[0], *arms[1])) if name not in common)
    left_out = (*(f"arm {name}" for name in missing), *(f"evaluator {name}" for name in lone))
    return Comparison(Table(head, rows, words=("arm",)), Table(["", "first", "second"], others), left_out)


def _fields(pair: tuple[Mapping[str, Any], ...], without: Collection[str]) -> Iterator[tuple[str, list[Any]]]:
    """What must be equal: the name of each field and both values."""
    for name in dict.fromkeys(key for one in pair for key in one["rules"]):
        yield f"version of the rules for {name}", [one["rules"].get(name) for one in pair]
    data = [one["run"]["dataset"] for one in pair]
    known = "identity" if all(one.get("identity") for one in data) else "content_hash"
    yield f"data set {known}", [one.get(known) for one in data]
    for name in JUDGED:
        yield name, [one["plan"].get(name) for one in pair]
    judges = [_evaluators(one) for one in pair]
    for name in sorted(judges[0].keys() & judges[1].keys() - set(without)):
        yield f"evaluator {name}", [own[name] for own in judges]
    options = [one["plan"].get("settings", {}) for one in pair]
    for arm in sorted(options[0].keys() & options[1].keys()):
        for option in sorted(options[0][arm].keys() | options[1][arm].keys()):
            yield f"{option} of arm {arm}", [own[arm].get(option) for own in options]


def _free(pair: tuple[Mapping[str, Any], ...]) -> Iterator[tuple[str, list[Any]]]:
    """What a reader has to know where it differs: of the trainings, and of the machines."""
    plans, runs = [one["plan"] for one in pair], [one["run"] for one in pair]
    for name in sorted((plans[0].keys() | plans[1].keys()) - {*ELSEWHERE, *JUDGED}):
        yield name.replace("_", " "), [plan.get(name) for plan in plans]
    yield "device", [run.get("device") for run in runs]
    for kind in ("host", "versions", "sources"):
        parts = [run.get(kind) or {} for run in runs]
        for name in sorted(parts[0].keys() | parts[1].keys()):
            yield f"{kind}: {name}", [part.get(name) for part in parts]


def _evaluators(record: Mapping[str, Any]) -> dict[str, str]:
    """Identities by name, of those that could be had."""
    return {one["name"]: one["identity"] for one in record["metrics"].get("evaluators", []) if one["identity"]}


def _metrics(pair: tuple[Mapping[str, Any], ...], lone: Collection[str], everything: bool) -> list[str]:
    """Metrics of both in the order of reports, of evaluators that both have."""
    ranking = [one["metrics"]["ranking"] for one in pair]
    found = [name for name in ranking[0] if name in ranking[1] and name.rpartition("/")[0] not in lone]
    kept = [name for name in found if everything or all(own[name]["may_rank"] for own in ranking)]
    return [name for name in METRICS if name in kept] + [name for name in kept if name not in METRICS]


def _cells(metric: str, first: Mapping[int, float], second: Mapping[int, float]) -> list[str]:
    """Means with t intervals over seeds, the mean difference of the seeds of both, and their number."""
    scale, seeds = by_name(metric).scale, sorted(first.keys() & second.keys())
    cells = [estimate_text(mean_interval(list(scores.values())), scale) for scores in (first, second)]
    apart = mean_interval([first[seed] - second[seed] for seed in seeds]) if seeds else None
    return [*cells, estimate_text(apart, scale, "+") if apart else "no seed of both", str(len(seeds))]


def document(found: Comparison, first: str, second: str) -> str:
    """The tables as Markdown."""
    parts = [f"First: {plain(first)}. Second: {plain(second)}. Means over seeds with 95 % t intervals, seeds paired."]
    parts += [markdown_block(found.table) if found.table.rows else "No score is in both."]
    if found.left_out:
        parts.append(f"In one alone, or left out: {', '.join(map(plain, found.left_out))}.")
    parts += ["Else they differ in:", markdown_block(found.others)] if found.others.rows else []
    return "\n\n".join(parts) + "\n"
