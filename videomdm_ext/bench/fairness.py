"""What two trainings are given apart, and whether the arms say so: a comparison that differs in more is refused.

The host's whole command line counts, not the supervision alone; only where a run's files lie may differ.
"""

import argparse
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from videomdm_ext.bench.arms import ArmConfig, load_arm
from videomdm_ext.bench.plan import Run
from videomdm_ext.config import Supervision
from videomdm_ext.data.files import write_bytes
from videomdm_ext.errors import ConfigError
from videomdm_ext.options import difference, from_args

PLACES = ("save_dir", "clips", "save_interval", "resume_checkpoint", "overwrite")
"""What a run is given that does not change what it learns; the clips' content is on the plan."""
FEWER_STEPS = ("num_steps", "lr_anneal_steps")
"""In what a training with equal passes is meant to differ."""
TEACHERS = "teachers.txt"
"""In a run's folder: the identity of the refined teachers that it was trained on."""

Difference = Mapping[str, tuple[str, str]]


def given(run: Run, out: Path) -> dict[str, str]:
    """Everything the host is given, by name: the command line, and the supervision that it leaves at its defaults."""
    words = run.arguments(out)
    found = {name: str(value) for name, value in vars(run.config.supervision).items()}
    for word, after in itertools.zip_longest(words, words[1:], fillvalue="--"):
        if word.startswith("--"):
            found[word.removeprefix("--")] = "yes" if after.startswith("--") else after
    return {name: value for name, value in found.items() if name not in PLACES}


def apart(first: Mapping[str, str], second: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """The names in which two runs differ, with both values; "not given" for one that one of them lacks."""
    names = [*first, *(name for name in second if name not in first)]
    pairs = {name: (first.get(name, "not given"), second.get(name, "not given")) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def declared(arm: ArmConfig, *, equal_passes: bool = False) -> set[str]:
    """The names in which an arm is meant to differ from the arm at the root, those of the arms between included."""
    found = set(arm.declares) | (set(FEWER_STEPS) if equal_passes else set())
    seen = {arm.name}
    while arm.of not in seen:
        arm = load_arm(arm.of)
        seen.add(arm.name)
        found |= set(arm.declares)
    return found


def check_declared(arm: ArmConfig) -> None:
    """An arm differs from the arm that it is a variation of in what it declares and in nothing else. ConfigError."""
    hidden = difference(arm.supervision, load_arm(arm.of).supervision).keys() - set(arm.declares)
    if hidden and arm.name != arm.of:
        raise ConfigError(
            f"arm {arm.name}: expected it to differ from {arm.of} in {', '.join(arm.declares) or 'nothing'} as it "
            f"declares, found it to differ in {', '.join(sorted(hidden))} too. Declare that, or correct the file."
        )


def check_pairs(runs: list[Run], out: Path) -> None:
    """No two arms of a comparison are given more that is different than they declare. ConfigError says what."""
    firsts = [run for run in runs if run.seed == runs[0].seed]
    for run in firsts:
        check_declared(run.config)
    facts = [(run.label, given(run, out), declared(run.config, equal_passes=run.equal_passes)) for run in firsts]
    for (first, ours, our), (second, theirs, their) in itertools.combinations(facts, 2):
        meant, found = our | their, apart(ours, theirs)
        hidden = {name: pair for name, pair in found.items() if name not in meant}
        if hidden:
            raise ConfigError(
                f"{first} and {second}: an unfair comparison. They are meant to differ in "
                f"{', '.join(sorted(meant)) or 'nothing'}, and differ in {_listed(hidden)} too."
            )


def check_trained(run: Run, out: Path) -> None:
    """What a run's folder was trained with is what the plan gives it. ConfigError names the option and both values."""
    place = run.folder(out) / "args.json"
    if not place.is_file():
        return
    try:
        stored: dict[str, Any] = json.loads(place.read_text(encoding="utf-8"))
        supervision = from_args(Supervision, argparse.Namespace(**stored))
    except (OSError, ValueError, TypeError) as error:
        if not run.is_trained(out):
            return  # cut off while the host wrote it, which it does again when it goes on
        raise ConfigError(f"{place}: expected the run's arguments as JSON ({error}). Remove {place.parent}.") from error
    before = {name: str(value) for name, value in {**stored, **vars(supervision)}.items()}
    now = given(run, out)
    switches = {name for name, value in now.items() if value == "yes"}
    now = {name: "True" if name in switches else value for name, value in now.items()}
    found = {name: pair for name, pair in apart(before, now).items() if name in now and not _equal(*pair)}
    if found:
        raise ConfigError(
            f"{place}: its training had other arguments than this comparison gives: {_listed(found)}. Choose another "
            f"--out, or remove {place.parent}."
        )


def note_teachers(run: Run, out: Path, teachers: str) -> None:
    """Keep beside a training that begins which refined teachers it has."""
    if run.config.supervision.diffused == "refined" and not run.steps_done(out):
        write_bytes(str(run.folder(out) / TEACHERS), f"{teachers}\n".encode())


def check_teachers(run: Run, out: Path, teachers: str) -> None:
    """What a run was trained on is what this version refines. ConfigError where an earlier version did it otherwise."""
    place = run.folder(out) / TEACHERS
    if not place.is_file():
        return
    found = place.read_text(encoding="utf-8").strip()
    if run.steps_done(out) and found != teachers:
        raise ConfigError(
            f"{place}: expected refined teachers as this version makes them ({teachers}), found that the training had "
            f"others ({found}). Choose another --out, or remove {place.parent}."
        )


def _equal(first: str, second: str) -> bool:
    """Whether two texts are one number."""
    try:
        return float(first) == float(second)
    except ValueError:
        return first == second


def _listed(found: Difference) -> str:
    return ", ".join(f"{name} ({first} and {second})" for name, (first, second) in found.items())


def table(runs: list[Run], out: Path) -> list[list[str]]:
    """A row for every name in which any two arms differ: the name, then each arm's value. The first row is the head."""
    firsts = [run for run in runs if run.seed == runs[0].seed]
    columns = [given(run, out) for run in firsts]
    names = list(dict.fromkeys(name for column in columns for name in column))
    rows = [[name, *(column.get(name, "not given") for column in columns)] for name in names]
    differing = [row for row in rows if len(set(row[1:])) > 1]
    passes = ["denoiser passes a step, expected", *(f"{run.passes_per_step:.3g}" for run in firsts)]
    return [["option", *(run.label for run in firsts)], *differing, passes]
