"""Run every command line of the documents to its end, in the order in which they stand, on small data, in an
environment that holds just the extras that the text names."""

import dataclasses
import functools
import re
import shutil
import subprocess
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import documents
import environments
import forks
import numpy as np
import pytest
from clips import CARD, make_clip, motion
from conftest import why_no_mdm
from documents import ROOT, Command
from filmed import FOCAL, brief, film, write_source
from lifters.tools import write_wham

from videomdm_ext.cli.main import VERBS
from videomdm_ext.data.building import write_folder
from videomdm_ext.data.clip import Clip
from videomdm_ext.mdm import checkout

LIGHTENED = f"import sys; sys.path.insert(0, {str(ROOT / 'tests')!r}); import command_settings; sys.path.pop(0)"
"""What the process of the commands runs before the first of them."""
ENVIRONMENT = {"VIDEOMDM_PLUGINS": None, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
LEFT_TO_CI = {"pytest", "ruff", "mypy", "lint-imports"}
"""Programs that .ci/run runs as the documents say."""
NOT_HERE = {
    "python3.11": "it makes the environment that these tests run in",
    ".": "it makes the environment that these tests run in",
    ".ci/run": "it runs these tests",
    "python docs/make_": "tests/test_documents.py makes the same page and compares",
    "python tests/test_golden.py": "tests/test_golden.py computes the same and compares",
    "blender": "Blender, which makes an FBX of a GLB that tests/render/test_body.py reads",
    "pytest -n 0": "minutes: it measures the cost of the objective",
    "python -m eval.eval_humanml": "it needs HumanML3D's evaluator and GloVe, which cannot be passed on",
    "torchrun": "several processes: tests/mdm/test_distributed.py starts them",
    "videomdm bench --protocol": "it needs HumanML3D's evaluator and GloVe, which cannot be passed on",
    "videomdm bench --dataset DIR --evaluators": "it needs files that cannot be passed on: tests/bench/evaluators",
    "videomdm bench export": "it needs a bench that is reported: tests/bench/test_record.py",
    "videomdm bench compare": "it needs the records of two benches: tests/bench/test_record.py",
    "videomdm bench precision": "it compiles a denoiser, and needs a run: tests/bench/test_precision.py",
    "videomdm bench speed --checks --mdm": "minutes: the same page runs it with --standin, small",
    "videomdm data refine DIR --processes": "several processes: tests/data/test_refined.py starts them",
    "videomdm data from-video --engine": "a cluster: tests/data/test_tasks.py starts one",
    "videomdm data refine --engine": "a cluster: tests/data/test_tasks.py starts one",
    "videomdm reproduce": "it needs the official folders: tests/bench/test_reproduce.py writes stand-ins",
    "videomdm data import humanml3d": "the same",
    "videomdm bench lift": "it needs trainings: the same",
    "videomdm lift --clips DIR --checkpoint RUN --by-action": "it needs a run trained on the set: tests/cli",
    "videomdm study": "it needs samples of two arms, and answers: tests/cli/test_studying.py",
    "ray ": "a cluster: tests/data/test_tasks.py starts one",
    "srun ": "Slurm, whose machines ray symmetric-run joins: not tested",
    "videomdm data from-video VIDEOS --shard": "of a set of two videos: tests/data/test_tasks.py takes parts",
    "videomdm data merge parts/": "the same",
    "python docs/measure_scale.py watch": "it detects people: minutes",
    "python docs/measure_walks.py": "it needs a demo's trainings: tests/bench/test_walks.py",
    "videomdm train --arm 2d --clips real --lifter": "its results are needed: tests/data/sources/test_lifted.py",
    "videomdm data relift": "it needs videos and a lifter's results of them: tests/data/sources/test_lifted.py",
    "videomdm train --mdm mdm --from": "it needs a checkpoint of MDM: tests/mdm/test_finetuning.py",
    "videomdm sample --checkpoint runs/mine --mdm mdm": "it needs what the command before trains: the same",
    "videomdm data refresh": "it needs a run trained on the set: tests/inference/test_refresh.py",
    "videomdm data film": "minutes: it renders films and detects people in them; tests/data/test_film.py",
    "videomdm export MOTIONS.npz --body": "the extra body: tests/render/test_body.py",
    "videomdm demo": "tests/test_wheel.py runs it, from a wheel",
    "videomdm demo --video": "minutes, and two wheels of videos: tests/bench/test_video_demo_end_to_end.py",
}
"""Commands that are not run here, by how they begin, and why."""
STAND_FOR = {
    "ARGS": "--clips set --supervision 2d --save_dir NEW", "BENCH": "bench", "CMU": "source", "DIR": "HERE/set",
    "FILE": "captions.txt", "ID": "dance_a_0", "KIND": "joints", "MODULE ARGS": "train.train_mdm --help",
    "PATH": "mdm", "RUN": "runs/mine", "SOURCE": "source", "VIDEOS": "videos", "VIDEO_OR_FOLDER": "videos",
    "runs/demo": "HERE/set", "SETS/k1": "set", "SETS/k5": "set", "SETS/p5": "NEW", "WHAT": "HERE/set",
    "DETECTIONS": "found", "captions.tsv": "captions.txt", "captions.txt": "prompts.txt", "VERB": "demo",
}  # fmt: skip
"""What stands in a command for what its reader replaces."""
NAMED = {
    "data refine": "set", "data merge": "set other --out merged", "data import": "joints source --out imported",
    "data from-video": "videos --captions captions.txt --out mine", "doctor": "--mdm mdm",
    "bench": "--dataset HERE/set",
}  # fmt: skip
"""What a verb is given where a document only names it."""
SMALL_TRAINING = "--num_steps 2 --layers 1 --latent_dim 32 --diffusion_steps 10 --device -1"
SMALL_PLAN = (
    "--seeds 1 --steps 2 --batch-size 1 --crop-frames 16 --layers 1 --latent-dim 32 --ff-size 32 --diffusion-steps 4 "
    "--samples 8 --replications 1 --curve 0 --workers 0 --windows 1 --arms 2d-lifted --without text-motion,views-2d"
)
SMALL = {
    "demo": "--steps 50 --batch-size 2 --crop-frames 16 --arms 3d --layers 1 --latent-dim 32 --ff-size 32 "
    "--diffusion-steps 4 --samples 8 --workers 1 --out runs/demo --replications 1 --windows 1 "
    "--without text-motion,views-2d",
    "train": SMALL_TRAINING,
    "run": SMALL_TRAINING,
    "train.train_mdm": SMALL_TRAINING,
    "bench": SMALL_PLAN,
    "bench speed": "--standin --batch 1 --steps 1 --frames 40 --layers 1 --width 32 --threads 1 --many 1",
    "sample": "--count 1 --frames 20",
    "data from-video": f"--detections found --format blazepose --focal {FOCAL}",
    "data make-demo": "--fast",
    "docs/measure_scale.py": "--clips 130 --batches 1",
}
"""The smallest settings of what takes long, by verb or module; for videos, what a detector found in them. The speed
of MDM itself is measured in tests/mdm/test_speed_measure.py, and arms are looked up in tests/test_documents.py."""
PLACES = ("--clips", "--dataset", "--out", "--save_dir", "--name")
"""Options whose values make no other command."""
ALSO = tuple(
    Command(("videomdm", *words.split()), "what the documents name in passing", extras=frozenset({"demo", "video"}))
    for words in (
        "status", "data check set --no-cache --quarantine bad.txt", "view set --out set.html --count 1",
        "export source/joints/walk.npy --out exported", "bench ls runs", "bench validate runs/bench-set",
    )
)  # fmt: skip
RUNS = [command for command in documents.commands() if command.words[0] in ("videomdm", "python", "git")]


def verb_of(words: Sequence[str]) -> str:
    """The verb of one or two words behind `videomdm`, or the module behind `python -m`."""
    if words[1:2] == ("-m",):
        return words[2]
    two = " ".join(words[1:3])
    return two if two in VERBS else "".join(words[1:2])


def is_named(command: Command) -> bool:
    """Whether a command is a verb and nothing behind it, which is where a document speaks of the verb."""
    return len(command.words) == 1 + len(verb_of(command.words).split())


def filled(command: Command) -> list[str]:
    """The words of a command with something for each placeholder, and its smallest settings."""
    text = list(command.words)
    if "--out" in text and text[text.index("--out") + 1] == "DIR":
        text[text.index("--out") + 1] = "NEW"
    if text[-2:] == ["MODULE", "ARGS"]:
        text[-2:] = STAND_FOR["MODULE ARGS"].split()
    words = [part for word in text for part in (STAND_FOR[word].split() if word in STAND_FOR else [word])]
    verb = verb_of(command.words)
    if is_named(command):
        words += NAMED.get(verb, "").split()
    if verb == "demo" and "--fast" not in words:
        words = [word for word in words if word != "--long"] + ["--fast"]
    if not {"--help", "--protocol"} & {*words}:
        words += SMALL.get(verb, "").split()
    return [f"runs/new-{RUNS.index(command)}" if word == "NEW" else word for word in words]


def why_not(command: Command) -> str | None:
    """Why a command is not run here, or None."""
    line = " ".join(command.words)
    for start, reason in sorted(NOT_HERE.items(), reverse=True):  # the longer of two first
        if line.startswith(start) and (start != "." or command.words[0] == "."):
            return reason
    return why_no_mdm(()) if needs_mdm(command) else None


def needs_mdm(command: Command) -> bool:
    """Whether a command works on a checkout of MDM."""
    return bool({"mdm", "install", "uninstall", "status"} & {*filled(command), command.folder})


PLUGINS = {
    "my_mocap": "from videomdm_ext.data.sources.humanml3d import JointsImporter\n"
    "from videomdm_ext.hookspecs import hookimpl\n\n"
    "@hookimpl\ndef register_datasets(register):\n    register('my-mocap', JointsImporter)\n",
    "cardboard": documents.blocks((ROOT / "docs" / "plugins.md").read_text(encoding="utf-8"), "python")[0],
}
"""What docs/hooks.md and docs/plugins.md have their readers install: source by module and entry point."""


def likeness(command: Command) -> tuple[object, ...]:
    """What two commands that differ in places and numbers alone have in common."""
    words = filled(command)
    if words[0] == "git":
        return tuple(words)
    options: dict[str, str] = {}
    plain, name = [], ""
    for word in words:
        if word.startswith("--"):
            name, options[word] = word, ""
        elif name:
            options[name] = "" if name in PLACES or re.fullmatch(r"[\d.,e-]+", word) else f"{options[name]} {word}"
        else:
            plain.append(word)
    shown = {name: value for name, value in options.items() if name != "--out"}
    return (*plain, *sorted(shown.items()), command.folder)


ONCE: dict[tuple[object, ...], Command] = {}
"""Those that are run: once each, unless a later one stands where fewer extras were asked for."""
for one in [*RUNS, *ALSO]:
    alike = [before for before in ONCE.values() if likeness(before) == likeness(one)]
    if not alike or not (is_named(one) or any(before.extras <= one.extras for before in alike)):
        ONCE[(*likeness(one), one.extras)] = one


def parameters(*, docs: bool) -> list[Any]:
    """The commands of the pages in docs/, or of the other documents, for a test of each.

    One whose extras bring more than `test` does is marked.
    """
    chosen = [command for command in ONCE.values() if command.document.startswith("docs/") == docs]
    marks = [[pytest.mark.extras] if command.extras - Command.extras else [] for command in chosen]
    return [pytest.param(one, marks=found, id=str(one)) for one, found in zip(chosen, marks, strict=True)]


def short(name: str, frames: int = 40) -> Clip:
    """The start of a clip."""
    whole = make_clip(name=name)
    parts = ("teacher", "truth", "keypoints", "confidence")
    return dataclasses.replace(whole, **{part: getattr(whole, part)[:frames] for part in parts})


def prepare(place: Path) -> None:
    """Small data in a new folder: data sets, a folder of joints, videos with what a detector found in them."""
    place.mkdir()
    clips = {"train": [short("dance_a"), short("walk")], "test": [short("jump")]}
    write_folder(str(place / "set"), clips, CARD)
    shutil.copytree(place / "set", place / "other")
    (place / "docs").symlink_to(ROOT / "docs")
    for name in ("walk", "jump", "kick", "run", "spin", "dance_a", "dance_b", "punch"):
        for folder in ("joints", "texts"):
            (place / "source" / folder).mkdir(parents=True, exist_ok=True)
        np.save(place / "source" / "joints" / f"{name}.npy", motion(name)[:41].numpy())
        (place / "source" / "texts" / f"{name}.txt").write_text(f"a person {name}s.#a/DET person/NOUN#0.0#0.0\n")
    (place / "prompts.txt").write_text("a person walks.\n", encoding="utf-8")
    films = {name: brief(film(name)) for name in ("walk", "dance_b", "jump")}
    write_source(place, films)
    for name, one in films.items():
        write_wham(place / "RESULTS", name, one.seen, one.true)
        (place / "JOINTS").mkdir(exist_ok=True)
        np.save(place / "JOINTS" / f"{name}.npy", one.seen)


class Reader:
    """Somebody who types what the documents say, in a folder of small data, with an environment for each set of extras.

    One process has imported what the extras that all of them name bring, and forks for each command; what else its
    extras bring is on the path of the fork alone.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.place = folder, folder / "data"

    @cached_property
    def server(self) -> forks.Server:
        """The process of a new environment that runs the commands, which find small data."""
        prepare(self.place)
        venv, common = self.folder / "environment", frozenset.intersection(*(one.extras for one in ONCE.values()))
        site = environments.create(venv, common)
        environments.install_plugin(site, "documented", PLUGINS, {module: module for module in PLUGINS})
        return forks.Server(str(venv / "bin" / "python"), LIGHTENED)

    def run(self, command: Command) -> None:
        """Run a command to its end, or skip the test with the reason."""
        missing = set(environments.closure(command.extras)[1]) - {"mediapipe"}  # what it would find is given
        if reason := why_not(command):
            pytest.skip(reason)
        if missing:
            pytest.skip(f"{', '.join(sorted(command.extras))}: {', '.join(sorted(missing))} is not installed here")
        server, place = self.server, self.place
        words = [word.replace("HERE", str(place)) for word in filled(command)]
        if words[0] == "git":
            git(place, *(str(checkout.find().root) if word.startswith("https://") else word for word in words[1:]))
            return
        if needs_mdm(command) and not (place / "mdm").exists():
            git(place, "clone", str(checkout.find().root), "mdm")
        site = self.folder / "-".join(sorted(command.extras))
        if not site.exists():
            environments.fill(site, command.extras)
        env = ENVIRONMENT | {"VIDEOMDM_MDM_ROOT": str(place / "mdm"), "PYTHONPATH": str(site)}
        enter = functools.partial(server.run, cwd=place / command.folder, env=env)
        if verb_of(words) == "install":
            enter(["-m", "videomdm_ext", "uninstall", "--mdm", "mdm"])  # what another command has left
        done = enter(words[1:] if words[0] == "python" else ["-m", "videomdm_ext", *words[1:]])
        shown = done.stdout + done.stderr
        print(shown)
        assert done.returncode == 0
        assert shown.strip()
        assert "\x1b" not in shown


def git(place: Path, *words: str) -> None:
    """A command of git, without a network."""
    subprocess.run(["git", *words], cwd=place, check=True, capture_output=True)
