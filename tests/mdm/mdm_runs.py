"""A clone of the checkout with small synthetic data of every kind, and MDM's programs run in it as a user runs them."""

import json
import os
import pickle
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import forks
import numpy as np
import torch
from clips import make_clip
from humanml import write_humanml

PLAIN = {"PYTHONDONTWRITEBYTECODE": "1", "VIDEOMDM_PLUGINS": None, "VIDEOMDM_MDM_ROOT": None}
CLIPS = [make_clip(), make_clip(name="walk", moving=True), make_clip(name="jump")]
"""Of still cameras and a moving one, of 64, 50 and 70 frames."""
SMALL = ("--latent_dim", "32", "--layers", "1", "--diffusion_steps", "20", "--batch_size", "4")

INSTALLED = """
import json, sys, torch
torch.set_num_threads(1)
from train import train_mdm
for argv in json.loads(sys.argv[1]):
    sys.argv = ["train.train_mdm", *argv]
    train_mdm.main()
"""
"""MDM's training in a checkout that `videomdm install` has edited."""
UNEDITED = "from videomdm_ext.mdm import remedies\nremedies.prepare()\n" + INSTALLED
"""MDM as it is, but for the remedies without which it cannot be imported beside current packages."""

NARROW = """
import sys
from pathlib import Path
import torch
from data_loaders.humanml.networks import modules

torch.manual_seed(0)
width, cpu = int(sys.argv[1]), torch.device("cpu")
parts = {
    "movement_encoder": modules.MovementConvEncoder(259, width, width),
    "text_encoder": modules.TextEncoderBiGRUCo(300, 15, width, width, cpu),
    "motion_encoder": modules.MotionEncoderBiGRUCo(width, width, width, cpu),
}
place = Path("t2m/text_mot_match/model/finest.tar")
place.parent.mkdir(parents=True)
torch.save({**{name: part.state_dict() for name, part in parts.items()}, "epoch": 0}, place)
"""
CLIP = """
import torch
from videomdm_ext.mdm.speed import fake_clip

_module = fake_clip.module(width=32, layers=1, heads=2)
load, tokenize, model = _module.load, _module.tokenize, _module.model
"""
"""A package `clip` with a small random tower: the weights of the real one cannot be had in a test."""


def clone(root: Path, place: Path) -> Path:
    """-> a clone of the checkout at `root`, with synthetic HumanML3D, KIT, HumanAct12 and word vectors."""
    subprocess.run(["git", "clone", "-q", "--shared", str(root), str(place)], check=True)
    subprocess.run(["git", "-C", str(place), "checkout", "-q", commit(root)], check=True)
    for loader in ("get_data.py", "humanml/motion_loaders/model_motion_loaders.py"):  # starting eight takes seconds
        path = place / "data_loaders" / loader
        path.write_text(re.sub(r"num_workers=\d", "num_workers=2", path.read_text()))
    write_humanml(place, train=8, test=8, glove=True)
    write_kit(place)
    write_humanact12(place)
    package = place.parent / "packages" / "clip"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").write_text(CLIP)
    return place


def commit(root: Path) -> str:
    done = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def write_kit(place: Path, clips: int = 8) -> None:
    """KIT-ML's layout: 251 features."""
    draw = np.random.default_rng(3)
    folder = place / "dataset" / "KIT-ML"
    for part in ("new_joint_vecs", "texts"):
        (folder / part).mkdir(parents=True)
    ids = [f"{number:05d}" for number in range(clips)]
    for number, name in enumerate(ids):
        motion = draw.normal(size=(40 + 4 * number, 251)).astype(np.float32)
        np.save(folder / "new_joint_vecs" / f"{name}.npy", motion)
        (folder / "texts" / f"{name}.txt").write_text("a person walks#a/DET person/NOUN walk/VERB#0.0#0.0\n")
    for name in ("train", "test"):
        (folder / f"{name}.txt").write_text("".join(f"{clip_id}\n" for clip_id in ids))
    np.save(folder / "Mean.npy", np.zeros(251, np.float32))
    np.save(folder / "Std.npy", np.ones(251, np.float32))


def write_humanact12(place: Path, clips: int = 8) -> None:
    """HumanAct12's file: poses [T, 72], joints [T, 24, 3], an action each."""
    draw = np.random.default_rng(4)
    folder = place / "dataset" / "HumanAct12Poses"
    folder.mkdir(parents=True)
    content = {
        "poses": [draw.normal(scale=0.3, size=(70, 72)).astype(np.float32) for _ in range(clips)],
        "joints3D": [draw.normal(size=(70, 24, 3)).astype(np.float32) for _ in range(clips)],
        "y": [number % 12 for number in range(clips)],
    }
    (folder / "humanact12poses.pkl").write_bytes(pickle.dumps(content))


def python(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """python WORDS in the clone, with this package on the path and one thread."""
    path = os.pathsep.join([str(forks.ROOT), str(place.parent / "packages")])
    return forks.run([*words], cwd=place, env={"PYTHONPATH": path, **PLAIN})


def must(done: subprocess.CompletedProcess[str]) -> str:
    """-> what it printed, where it succeeded."""
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return done.stdout


def answer(done: subprocess.CompletedProcess[str]) -> Any:
    """-> the JSON in the last line that a program printed, where it succeeded."""
    return json.loads(must(done).splitlines()[-1])


def trainings(place: Path, program: str, runs: Sequence[Sequence[str]]) -> None:
    """Several trainings in one process, as importing takes longer than training."""
    must(python(place, "-c", program, json.dumps([list(run) for run in runs])))


def quicken_evaluation(place: Path, replications: int, width: int = 32) -> None:
    """Make the clone's evaluator narrow, with random weights, and its debug evaluation one of few replications."""
    program = place / "eval" / "eval_humanml.py"
    program.write_text(re.sub(r"replication_times = 5\b", f"replication_times = {replications}", program.read_text()))
    wrapper = place / "data_loaders/humanml/networks/evaluator_wrapper.py"
    wrapper.write_text(re.sub(r"('dim_(?:mo|text|coemb)\w*': )\d+", rf"\g<1>{width}", wrapper.read_text()))
    must(python(place, "-c", NARROW, str(width)))


def differences(first: object, second: object, place: str = "") -> list[str]:
    """-> where two saved things differ in any bit, type or key."""
    if type(first) is not type(second):
        return [f"{place}: {type(first)} and {type(second)}"]
    if isinstance(first, torch.Tensor):
        same = first.dtype == second.dtype and torch.equal(first, second)
        return [] if same else [place]
    if isinstance(first, dict):
        if list(first) != list(second):
            return [f"{place}: keys"]
        return [found for key in first for found in differences(first[key], second[key], f"{place}/{key}")]
    if isinstance(first, list | tuple):
        if len(first) != len(second):
            return [f"{place}: length"]
        parts = enumerate(zip(first, second, strict=True))
        return [found for index, (a, b) in parts for found in differences(a, b, f"{place}/{index}")]
    return [] if first == second else [place]


def same(first: object, second: object) -> bool:
    """Whether two saved things are equal in every bit."""
    return differences(first, second) == []
