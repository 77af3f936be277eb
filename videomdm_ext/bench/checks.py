"""What is checked before a comparison's work begins; nothing is written but its plan.json."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from videomdm_ext.bench.arms import arm_name, load_arm
from videomdm_ext.bench.metrics import METRICS, SPACE_METRICS
from videomdm_ext.bench.plan import MDM_FIXED, Plan
from videomdm_ext.config import Supervision
from videomdm_ext.data.card import Card
from videomdm_ext.data.clip import Clip
from videomdm_ext.data.files import write_bytes
from videomdm_ext.data.folder import read_card, read_folder
from videomdm_ext.errors import ConfigError

GROWING = ("arms", "seeds", "replications")
"""What a folder's plan may have more of than before: what is there stays as it is."""
JUDGING = ("windows", "reference", "primary", "without")
"""What a folder's plan may have otherwise than before: saved samples are scored again."""


def check_numbers(plan: Plan) -> None:
    """The plan's own figures fit together. ConfigError names the option."""
    at_least = {"seeds": 1, "steps": 1, "batch_size": 1, "samples": 2, "replications": 1, "windows": 1, "curve": 0}
    for name, least in at_least.items():
        if getattr(plan, name) < least:
            raise ConfigError(
                f"--{name.replace('_', '-')}: expected {least} or more, found {getattr(plan, name)}. Correct it."
            )
    if plan.curve > plan.steps:
        raise ConfigError(f"--curve {plan.curve}: expected no more points than the {plan.steps} steps. Lower it.")
    for option, name in (("select", plan.select), *(("primary", name) for name in plan.primary)):
        _check_metric(option, name)
    if plan.select and plan.curve < 2:
        raise ConfigError(f"--select {plan.select}: expected --curve 2 or more, the checkpoints to choose among.")
    if plan.reference not in ("train", "val", "test"):
        raise ConfigError(f"--reference: expected train, val or test, found {plan.reference!r}.")
    for name, fixed in MDM_FIXED.items() if plan.mdm else ():
        if getattr(plan, name) != fixed:
            raise ConfigError(
                f"--mdm {plan.mdm}: expected {name} {fixed}, which MDM fixes, found {getattr(plan, name)}. Correct it."
            )


def _check_metric(option: str, name: str) -> None:
    space, _, metric = name.rpartition("/")
    if name and not (metric in SPACE_METRICS if space else name in METRICS):
        known = f"{', '.join(METRICS)}, or EVALUATOR/ and one of {', '.join(SPACE_METRICS)}"
        raise ConfigError(f"--{option}: expected a metric among {known}; found {name!r}.")


def check_truth(plan: Plan, arms: Sequence[Supervision]) -> None:
    """There are clips for a batch, and a truth where an arm learns from it. ConfigError otherwise."""
    clips = clips_of(plan, "train")
    blind = [clip.id for clip in clips if clip.truth is None]
    if blind and any(config.diffused == "gt" for config in arms):
        names = ", ".join(
            name for name, config in zip(map(arm_name, plan.arms), arms, strict=True) if config.diffused == "gt"
        )
        raise ConfigError(
            f"{plan.clips}: expected a truth for every training clip, which {names} learns from, found none for "
            f"{len(blind)} of {len(clips)} ({blind[0]}, ...). Leave that arm out."
        )
    if len(clips) < plan.batch_size:
        raise ConfigError(
            f"--batch-size {plan.batch_size}: expected no more than the {len(clips)} training clips of {plan.clips}."
        )


def clips_of(plan: Plan, split: str) -> list[Clip]:
    """The clips of one split. ConfigError where there are none."""
    if not read_card(plan.clips).counts.get(split):
        raise ConfigError(f"{plan.clips}: expected clips in its split {split}, found none. Import the set with splits.")
    return read_folder(plan.clips, split)[1]


def check_plan(plan: Plan, out: Path, card: Card) -> None:
    """A folder that holds a plan already holds this one, apart from what may grow and what only judges. ConfigError."""
    place = out / "plan.json"
    if card.content_hash != plan.content:
        raise ConfigError(f"{plan.clips}: its clips are not those of {place}. Choose another --out.")
    if not place.is_file():
        return
    try:
        stored = json.loads(place.read_text(encoding="utf-8"))
        settings = stored.pop("settings", {})
        before = Plan(**stored)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{place}: expected the plan of a comparison ({error}). Choose another --out.") from error
    found = [
        f"{name} ({getattr(before, name)}, now {getattr(plan, name)})"
        for name in (item.name for item in dataclasses.fields(Plan))
        if getattr(before, name) != getattr(plan, name) and not _may_follow(name, before, plan)
    ]
    now = settings_of(plan)
    found += [f"the file of arm {arm}" for arm in settings if arm in now and _differs(settings[arm], now[arm])]
    if found:
        raise ConfigError(
            f"{place}: holds another comparison than this one: {'; '.join(found)}. Choose another --out, or remove "
            f"{out}."
        )


def _differs(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether an arm's options changed; one that an earlier version did not have counts as its default."""
    return {**dataclasses.asdict(Supervision()), **before} != {**dataclasses.asdict(Supervision()), **now}


def _may_follow(name: str, before: Plan, plan: Plan) -> bool:
    """Whether the plan may differ from the one before in this entry."""
    if name in JUDGING:
        return True
    old, new = getattr(before, name), getattr(plan, name)
    if name == "arms":
        return set(old) <= set(new)
    if name == "replications":  # a single one has its own noise
        return bool(1 < old <= new)
    return name in GROWING and bool(old <= new)


def settings_of(plan: Plan) -> dict[str, Any]:
    """Every option of every arm."""
    return {arm_name(arm): dataclasses.asdict(load_arm(arm).supervision) for arm in plan.arms}


def write_plan(plan: Plan, out: Path) -> None:
    """Write plan.json where it does not say the same already."""
    text = json.dumps({**dataclasses.asdict(plan), "settings": settings_of(plan)}, indent=2) + "\n"
    place = out / "plan.json"
    if not place.is_file() or place.read_text(encoding="utf-8") != text:
        write_bytes(str(place), text.encode())
