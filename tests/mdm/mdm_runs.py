"""A clone of the checkout with small synthetic data of every kind, and MDM's programs run in it as a user runs them."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from humanml import write_humanml

REPOSITORY = Path(__file__).parents[2]
SMALL = ("--latent_dim", "32", "--layers", "1", "--diffusion_steps", "20", "--batch_size", "4")

UNEDITED = """
import json, sys, torch
torch.set_num_threads(1)
from videomdm_ext.mdm import remedies
remedies.prepare()
from train import train_mdm
for argv in json.loads(sys.argv[1]):
    sys.argv = ["train.train_mdm", *argv]
    train_mdm.main()
"""
"""MDM as it is, but for the remedies without which it cannot be imported beside current packages."""

INSTALLED = """
import json, sys, torch
torch.set_num_threads(1)
from train import train_mdm
for argv in json.loads(sys.argv[1]):
    sys.argv = ["train.train_mdm", *argv]
    train_mdm.main()
"""
"""The same program in a checkout that `videomdm install` has edited."""

CLIP = """
import torch
from videomdm_ext.mdm import fake_clip

_module = fake_clip.module(layers=1)
load, tokenize, model = _module.load, _module.tokenize, _module.model
"""
"""A package `clip` with a small random tower: the weights of the real one cannot be had in a test."""


def clone(root: Path, place: Path) -> Path:
    """-> a clone of the checkout at `root`, with synthetic HumanML3D, KIT, HumanAct12 and word vectors."""
    subprocess.run(["git", "clone", "-q", "--shared", str(root), str(place)], check=True)
    subprocess.run(["git", "-C", str(place), "checkout", "-q", commit(root)], check=True)
    write_humanml(place, train=44, test=8, glove=True)
    write_kit(place)
    write_humanact12(place)
    package = place.parent / "packages" / "clip"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").write_text(CLIP)
    return place


def commit(root: Path) -> str:
    done = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def write_kit(place: Path, clips: int = 25) -> None:
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


def write_humanact12(place: Path, clips: int = 44) -> None:
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


def python(place: Path, *words: str, timeout: int = 900) -> subprocess.CompletedProcess[str]:
    """python WORDS in the clone, with this package on the path and one thread."""
    path = os.pathsep.join([str(REPOSITORY), str(place.parent / "packages")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    for name in ("VIDEOMDM_PLUGINS", "VIDEOMDM_MDM_ROOT"):
        environment.pop(name, None)
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=timeout)


def must(done: subprocess.CompletedProcess[str]) -> str:
    """-> what it printed, where it succeeded."""
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return done.stdout


def trainings(program: str, place: Path, runs: Sequence[Sequence[str]]) -> None:
    """Several trainings in one process, as importing takes longer than training."""
    must(python(place, "-c", program, json.dumps([list(run) for run in runs])))
