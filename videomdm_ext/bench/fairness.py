"""What is refused before work begins: plans that cannot be carried out, and unfair comparisons.

Arms may differ in what they declare and in nothing else. The host's whole command line counts, not the supervision
alone; only where a run's files lie may differ.
"""

import argparse
import dataclasses
import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from videomdm_ext.bench.evaluators.untrained import VIEWS_2D
from videomdm_ext.bench.metrics import METRICS, SPACE_METRICS
from videomdm_ext.bench.plan import MDM_FIXED, PRIMARY, ArmConfig, Plan, Run, arm_name, load_arm, read_plan
from videomdm_ext.config import MADE, Supervision, difference, from_args
from videomdm_ext.data import refined, seal
from videomdm_ext.data.files import read_json, write_bytes
from videomdm_ext.data.folder import Card, read_card, read_folder
from videomdm_ext.data.index import Clips, count_of
from videomdm_ext.data.schemas import text_of
from videomdm_ext.data.seal import check, record
from videomdm_ext.errors import ConfigError, VideoMDMError
from videomdm_ext.mdm.hook import manager
from videomdm_ext.mdm.loss import loss_terms
from videomdm_ext.mdm.resume import LATER, recorded
from videomdm_ext.supervision.objective import weights_of
from videomdm_ext.supervision.terms import FORM

JUDGING = ("windows", "reference", "primary", "without", "evaluators", "clips")
"""What a plan may have otherwise than its folder: saved samples are scored again, and equal clips may have moved."""
PLACES = ("save_dir", "clips", "save_interval", "resume_checkpoint", "overwrite")
"""What a run is given that does not change what it learns; the clips' content is on the plan."""
TEACHERS = "teachers.txt"
"""In a run's folder: the identity of the refined teachers that it was trained on."""


def check_numbers(plan: Plan) -> None:
    """The plan's own figures fit together. ConfigError names the option."""
    at_least = {"seeds": 1, "steps": 1, "batch_size": 1, "samples": 2, "replications": 1, "windows": 1, "curve": 0}
    for name, least in at_least.items():
        if (found := getattr(plan, name)) < least:
            raise ConfigError(f"--{name.replace('_', '-')}: expected {least} or more, found {found}. Correct it.")
    if not (0 < plan.learning_rate < math.inf and math.isfinite(plan.guidance)):
        raise ConfigError("--lr and --guidance: expected finite numbers, the first above 0. Correct the option.")
    if not (0 <= plan.average < 1 and 0 < plan.adam_beta2 < 1):
        raise ConfigError("--average and --adam-beta2: expected numbers from 0 to under 1. Correct the option.")
    if plan.conv_kernel and not (0 < plan.conv_kernel < 256 and plan.conv_kernel % 2):
        raise ConfigError(
            f"--conv-kernel: expected 0 or an odd number of frames up to 255, found {plan.conv_kernel}. Correct it."
        )
    if plan.curve > plan.steps:
        raise ConfigError(f"--curve {plan.curve}: expected no more points than the {plan.steps} steps. Lower it.")
    for option, name in (("select", plan.select), *(("primary", name) for name in plan.primary)):
        space, _, metric = name.rpartition("/")
        if name and not (metric in SPACE_METRICS if space else name in METRICS):
            known = f"{', '.join(METRICS)}, or EVALUATOR/ and one of {', '.join(SPACE_METRICS)}"
            raise ConfigError(f"--{option}: expected a metric among {known}; found {name!r}.")
    check_evaluators(plan)
    if plan.select and plan.curve < 2:
        raise ConfigError(f"--select {plan.select}: expected --curve 2 or more, the checkpoints to choose among.")
    if plan.reference not in ("train", "val", "test"):
        raise ConfigError(f"--reference: expected train, val or test, found {plan.reference!r}.")
    other = {name: fixed for name, fixed in MDM_FIXED.items() if plan.mdm and getattr(plan, name) != fixed}
    if other:
        wanted = " ".join(f"--{name.replace('_', '-')} {fixed}" for name, fixed in other.items())
        found = ", ".join(str(getattr(plan, name)) for name in other)
        raise ConfigError(f"--mdm {plan.mdm}: expected {wanted}, which MDM fixes, found {found}. Give these options.")


def kinds(plan: Plan) -> list[str]:
    """The kinds of teachers that are made for the arms."""
    return sorted({load_arm(arm).supervision.teacher for arm in plan.arms} & set(MADE))


def check_evaluators(plan: Plan) -> None:
    """The folder of pretrained evaluators is there. ConfigError otherwise."""
    if plan.evaluators and not Path(plan.evaluators).is_dir():
        raise ConfigError(
            f"--evaluators {plan.evaluators}: expected a folder with a folder for each evaluator, found none. Correct "
            "the path, or give the bench again with --evaluators ''."
        )


def check_truth(plan: Plan) -> None:
    """There are clips for a batch, and a truth where an arm learns from it. ConfigError otherwise."""
    clips = clips_of(plan, "train")
    blind = clips.missing_truth()
    arms = {arm_name(arm): load_arm(arm).supervision for arm in plan.arms}
    seeing = [name for name, config in arms.items() if config.teacher == "gt" or config.known_share]
    if blind and seeing:
        raise ConfigError(
            f"{plan.clips}: expected a truth for every training clip, which {', '.join(seeing)} learns from, found "
            f"none for {len(blind)} of {len(clips)} ({blind[0]}, ...). Leave that arm out."
        )
    taught: dict[Supervision, str] = {}
    for name, config in arms.items():  # a small set rounds shares to one and the same number of clips
        known = count_of(config.known_share, len(clips)) if config.known_share else 0
        other = taught.setdefault(dataclasses.replace(config, known_share=min(known / len(clips), 1.0)), name)
        if other != name and arms[other].known_share != config.known_share:
            raise ConfigError(
                f"{plan.clips}: expected another number of known clips for {name} than for {other}, found {known} of "
                f"{len(clips)} for both, which makes them one training. Leave one of them out."
            )
    fewest = min(count_of(config.best_share, len(clips)) for config in arms.values())
    if fewest < plan.batch_size:
        raise ConfigError(
            f"--batch-size {plan.batch_size}: expected no more than the {fewest} training clips of {plan.clips}"
            f"{' that an arm takes' if fewest < len(clips) else ''}."
        )


def check_judged(plan: Plan) -> None:
    """There are held-out clips, and what is asked for can be scored with what is known of them. ConfigError otherwise.

    Where clips that samples are compared with have no truth, their keypoints are compared with, by views-2d alone.
    """
    clips_of(plan, "test")
    asked = {plan.reference: ("primary", () if plan.primary == PRIMARY else plan.primary)}
    if plan.curve:
        asked = {"val": ("select", (plan.select,) if plan.select else ()), **asked}
    for split, (option, names) in asked.items():
        clips = clips_of(plan, split)
        blind = clips.missing_truth()
        found = f"found none for {len(blind)} of {len(clips)} ({next(iter(blind), '')}, ...)"
        if blind and VIEWS_2D in plan.without:
            raise ConfigError(
                f"{plan.clips}: expected a truth for every clip of its split {split} to compare with, {found}. Take "
                f"{VIEWS_2D}, which needs none, out of --without."
            )
        for name in names if blind else ():
            if not (name.startswith(f"{VIEWS_2D}/") or (option, name) == ("primary", "heldout_reprojection")):
                raise ConfigError(
                    f"--{option} {name}: expected a metric that needs no truth, such as {VIEWS_2D}/fid, as every clip "
                    f"of its split {split} would have to have one, {found}. Choose another."
                )


def clips_of(plan: Plan, split: str) -> Clips:
    """The clips of one split. ConfigError where there are none."""
    counts = read_card(plan.clips).counts
    if not counts.get(split):
        having = " or ".join(f"--reference {name}" for name, count in sorted(counts.items()) if count)
        raise ConfigError(
            f"{plan.clips}: expected clips in its split {split}, found none. Choose "
            f"{having if split == plan.reference else '--curve 0'}, or make the set of more trials or videos, so that "
            "some are held out."
        )
    return read_folder(plan.clips, split)[1]


def check_data(plan: Plan, out: Path, *, thorough: bool = False, trains: bool = False) -> Card:
    """The plan's data set is whole, the one that the comparison's folder records, and that of every training in it.

    DatasetError names the file that was changed (every content is read with `thorough`), ConfigError the plan or the
    training that had another set. Where the host `trains` next, it looks at the files itself. -> the set's card
    """
    card, place = read_card(plan.clips) if trains else seal.verify(plan.clips, thorough=thorough), out / "plan.json"
    for kind in () if trains else kinds(plan):
        refined.verify(plan.clips, card, thorough=thorough, kind=kind)
    before = read_json(place, "plan").get("data") if place.is_file() else None
    advice = "Give --dataset with that one, or choose another --out."
    if before:
        check(before, card, place, plan.clips, advice)
    elif card.content_hash != plan.content:
        raise ConfigError(f"{plan.clips}: its clips are not those of {place}. {advice}")
    for run in plan.runs():
        args = run.folder(out) / "args.json"
        if own := recorded(args):
            check(own, card, args, plan.clips, f"{advice} Or remove {args.parent}, to train again.")
    return card


def check_plan(plan: Plan, out: Path, *, thorough: bool = False) -> Card:
    """A folder that holds a plan already holds this one, apart from what may grow and what only judges. ConfigError.

    -> the card of its data set, which is as `check_data` wants it
    """
    card, place = check_data(plan, out, thorough=thorough), out / "plan.json"
    if not place.is_file():
        return card
    before, stored = read_plan(out), read_json(place, "plan")
    settings, free = stored.get("settings", {}), (*JUDGING, *(("clips", "content") if stored.get("data") else ()))
    pairs = {name: (old, getattr(plan, name)) for name, old in vars(before).items() if name not in free}
    more = {
        "arms": set(before.arms) <= set(plan.arms), "seeds": before.seeds <= plan.seeds,
        "replications": 1 < before.replications <= plan.replications,  # a single one has its own noise
    }  # fmt: skip
    others = {name: pair for name, pair in pairs.items() if pair[0] != pair[1] and not more.get(name)}
    found = [f"{name} ({old}, now {new})" for name, (old, new) in others.items()]
    now = settings_of(plan)
    for arm in sorted(settings.keys() & now.keys()):
        before_it = {"posterior_form": 1} if "posterior_form" in now[arm] else {}
        differ = apart(before_it | settings[arm], now[arm])
        if (forms := differ.pop("posterior_form", None)) and "loss" not in differ:
            found.append(f"the 2D loss of arm {arm} (form {forms[0]} of another version, now form {forms[1]})")
        found += [f"{name} of arm {arm} ({old}, now {new})" for name, (old, new) in differ.items()]
    if found:
        raise ConfigError(
            f"{place}: holds another comparison than this one: {'; '.join(found)}. Choose another --out, or remove "
            f"{out}."
        )
    return card


def settings_of(plan: Plan) -> dict[str, Any]:
    """Every option of every arm, and the form of the term `posterior` where it is paid."""
    found = {}
    for arm in plan.arms:
        own = load_arm(arm)
        found[own.name] = dataclasses.asdict(own.supervision)
        if "posterior" in paid(own):
            found[own.name]["posterior_form"] = FORM
    return found


def write_plan(plan: Plan, out: Path, card: Card) -> None:
    """Write plan.json, with a record of the data set, where its text differs or is missing."""
    content = {**dataclasses.asdict(plan), "settings": settings_of(plan), "data": record(card)}
    text = text_of(content, indent=2) + "\n"
    place = out / "plan.json"
    if not place.is_file() or place.read_text(encoding="utf-8") != text:
        write_bytes(str(place), text.encode(), durable=True)


# -- equal but for what is declared ------------------------------------------------------------------------------------


def given(run: Run, out: Path) -> dict[str, str]:
    """Everything the host is given, by name: the command line, and the supervision that it leaves at its defaults."""
    words = run.arguments(out)
    found = {name: str(value) for name, value in vars(run.config.supervision).items()}
    for word, after in itertools.zip_longest(words, words[1:], fillvalue="--"):
        if word.startswith("--"):
            found[word.removeprefix("--")] = "yes" if after.startswith("--") else after
    return {name: value for name, value in found.items() if name not in PLACES}


def apart(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The names in which two runs differ, with both values; "not given" for one that one of them lacks."""
    pairs = {name: (first.get(name, "not given"), second.get(name, "not given")) for name in {**first, **second}}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def declared(arm: ArmConfig, *, equal_passes: bool = False) -> set[str]:
    """The names in which an arm is meant to differ from the arm at the root, those of the arms between included."""
    found = {*arm.declares, *(("num_steps", "lr_anneal_steps") if equal_passes else ())}
    seen = {arm.name}
    while arm.of not in seen:
        arm = load_arm(arm.of)
        seen.add(arm.name)
        found |= set(arm.declares)
    return found


def check_declared(arm: ArmConfig) -> None:
    """An arm differs from the arm that it is a variation of in what it declares and in nothing else. ConfigError."""
    hidden = difference(arm.supervision, load_arm(arm.of).supervision).keys() - set(arm.declares)
    paid(arm)
    if hidden and arm.name != arm.of:
        raise ConfigError(
            f"arm {arm.name}: expected it to differ from {arm.of} in {', '.join(arm.declares) or 'nothing'} as it "
            f"declares, found it to differ in {', '.join(sorted(hidden))} too. Declare that, or correct the file."
        )


def paid(arm: ArmConfig) -> dict[str, float]:
    """The terms of an arm's 2D loss, with their weights; none under 3d. ConfigError where one is not known."""
    if arm.supervision.supervision != "2d":
        return {}
    try:
        return weights_of(arm.supervision.loss, loss_terms(manager()))
    except ConfigError as error:
        raise ConfigError(f"arm {arm.name}: {error}") from error


def check_pairs(runs: list[Run], out: Path) -> None:
    """No two arms of a comparison differ in more than they declare. ConfigError names the options."""
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
        stored = read_json(place, "args")
        supervision = from_args(Supervision, argparse.Namespace(**stored))
    except VideoMDMError as error:
        if not run.is_trained(out):
            return  # cut off while the host wrote it, which it does again when it goes on
        raise ConfigError(f"{place}: {str(error).removeprefix(f'{place}: ')} Or remove {place.parent}.") from error
    before = {name: str(value) for name, value in {**LATER, **stored, **vars(supervision)}.items()}
    now = {name: "True" if value == "yes" else value for name, value in given(run, out).items()}
    found = {name: pair for name, pair in apart(before, now).items() if name in now and not _equal(*pair)}
    if found:
        raise ConfigError(
            f"{place}: its training had other arguments than this comparison gives: {_listed(found)}. Choose another "
            f"--out, or remove {place.parent}."
        )


def note_teachers(run: Run, out: Path, teachers: str) -> None:
    """Keep beside a training that begins which refined teachers it has."""
    if run.config.supervision.teacher in MADE and not run.steps_done(out):
        write_bytes(str(run.folder(out) / TEACHERS), f"{teachers}\n".encode(), durable=True)


def check_teachers(run: Run, out: Path, *teachers: str) -> None:
    """What a run was trained on is what this version refines, by one of these names. ConfigError where an earlier
    version did it otherwise."""
    place = run.folder(out) / TEACHERS
    if not place.is_file():
        return
    found = place.read_text(encoding="utf-8").strip()
    if run.steps_done(out) and found not in teachers:
        raise ConfigError(
            f"{place}: expected refined teachers as this version makes them ({teachers[0]}), found that the training "
            f"had others ({found}). Choose another --out, or remove {place.parent}."
        )


def _equal(first: str, second: str) -> bool:
    """Whether two texts are one number."""
    try:
        return float(first) == float(second)
    except ValueError:
        return first == second


def _listed(found: Mapping[str, tuple[str, str]]) -> str:
    return ", ".join(f"{name} ({first} and {second})" for name, (first, second) in found.items())


def differences(runs: list[Run], out: Path) -> str:
    """A line for every name in which any two arms differ, with each arm's value, and one for the passes of a step."""
    firsts = [run for run in runs if run.seed == runs[0].seed]
    columns = [given(run, out) for run in firsts]
    names = dict.fromkeys(name for column in columns for name in column)
    rows = {name: [column.get(name, "not given") for column in columns] for name in names}
    rows = {name: row for name, row in rows.items() if len(set(row)) > 1}
    rows["denoiser passes a step, expected"] = [f"{run.passes_per_step:.3g}" for run in firsts]
    pairs = {name: zip([run.label for run in firsts], row, strict=True) for name, row in rows.items()}
    return "\n".join(f"{name}: {', '.join(map(' '.join, own))}" for name, own in pairs.items())
