"""Whole runs of the stand-in under 2D, each in its own process, and an installed plugin that takes part in them."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from clips import make_clip

from videomdm_ext import run
from videomdm_ext.data import motions
from videomdm_ext.data.folder import Card, read_folder, write_folder

ROOT = Path(__file__).parents[2]
CARD = Card(name="a few", skeleton="smpl22", fps=20.0, lifter="bent", licence="zlib", sources=("a source",))
TWO = ("--supervision", "2d", "--teacher", "lifted", "--crop_frames", "20", "--text_features", "words")
SMALL = [
    "--layers", "1", "--latent_dim", "16", "--ff_size", "24", "--diffusion_steps", "50", "--batch_size", "3",
    "--use_ema", "--avg_model_beta", "0.9", "--lr", "1e-2", "--gradient_clip", "1", "--log_interval", "10",
]  # fmt: skip
PLUGIN = '''
from videomdm_ext.hookspecs import hookimpl
from videomdm_ext.lifters.base import Lifter, LifterInfo
from videomdm_ext.motion.skeletons import SMPL22

class Lifted(Lifter):
    """The truth, half a metre further to the right."""

    def __init__(self, *, seed):
        self.info = LifterInfo("beside", SMPL22)

    def positions(self, clip_id, keypoints, confidence, extrinsics, fps, truth):
        return truth + truth.new_tensor((0.5, 0.0, 0.0))

def stillness(step):
    return step.positions.diff(dim=1).square().sum(-1).mean((1, 2)) + 1.0

@hookimpl
def register_loss_terms(register):
    register("stillness", stillness)

@hookimpl
def register_lifters(register):
    register("beside", Lifted)
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """-> a folder with three training clips."""
    path = str(tmp_path_factory.mktemp("runs") / "set")
    train = [make_clip(), make_clip(name="walk", moving=True), make_clip(name="jump")]
    write_folder(path, {"train": train}, CARD)
    return path


def train(folder: Path, *words: object, path: str = "") -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(part for part in (str(ROOT), path) if part),
        "OMP_NUM_THREADS": "1",
    }
    command = [
        sys.executable,
        "-m",
        "videomdm_ext.run",
        "train.train_mdm",
        "--save_dir",
        str(folder),
        *SMALL,
        *map(str, words),
    ]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def rows(folder: Path) -> list[dict[str, float]]:
    with (folder / "progress.csv").open(encoding="utf-8") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def straight(folder, tmp_path_factory) -> Path:
    """-> a run of 60 steps under 2D, unrolled, and a checkpoint after 40."""
    place = tmp_path_factory.mktemp("runs") / "straight"
    done = train(place, "--clips", folder, *TWO, "--unroll", "on", "--num_steps", 60, "--save_interval", 40)
    assert done.returncode == 0, done.stderr
    return place


def test_training_under_2d_lowers_the_loss_and_logs_every_term(straight):
    logged = rows(straight)
    assert [row["step"] for row in logged] == [10, 20, 30, 40, 50, 60]
    assert set(logged[0]) == {"step", "loss", "position", "velocity", "near", "alignment", "behind", "passes"}
    assert logged[-1]["loss"] < 0.6 * logged[0]["loss"]
    assert 1.0 < sum(row["passes"] for row in logged) / 6 < 3.5


def test_a_resumed_2d_run_equals_an_uninterrupted_one_bit_for_bit(straight, folder, tmp_path):
    place = tmp_path / "resumed"
    place.mkdir()
    for name in ("model000000040.pt", "opt000000040.pt", "args.json", "progress.csv"):
        (place / name).write_bytes((straight / name).read_bytes())
    done = train(place, "--clips", folder, *TWO, "--unroll", "on", "--num_steps", 60, "--overwrite")
    assert "resumed" in done.stdout, done.stderr
    ours, theirs = (torch.load(part / "model000000060.pt") for part in (straight, place))
    for kind in ("model", "model_avg"):
        assert all(torch.equal(ours[kind][name], theirs[kind][name]) for name in ours[kind])
    assert (straight / "progress.csv").read_bytes() == (place / "progress.csv").read_bytes()


@pytest.mark.usefixtures("borrowed_process")
def test_2d_without_clips_is_refused_before_anything_is_written(tmp_path, capsys):
    words = ["train.train_mdm", "--save_dir", str(tmp_path / "run"), *SMALL, "--supervision", "2d", "--num_steps", "2"]
    assert run.main(words) == 1
    message = capsys.readouterr().err
    assert message.startswith("error: --supervision 2d: expected --clips")
    assert len(message.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_plugins_loss_term_takes_part_in_training_with_its_weight(beside, folder, tmp_path):
    words = ("--clips", folder, *TWO, "--unroll", "off", "--loss", "motion,stillness=0.5", "--num_steps", 10)
    done = train(tmp_path / "run", *words, path=str(beside))
    assert done.returncode == 0, done.stderr
    (row,) = rows(tmp_path / "run")
    assert row["stillness"] > 1.0
    assert row["loss"] == pytest.approx(row["motion"] + 0.5 * row["stillness"])


# -- an installed plugin ----------------------------------------------------------------------------------------------


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    """-> a folder on which an installed distribution with the plugin lies."""
    (tmp_path / "beside_plugin.py").write_text(PLUGIN, encoding="utf-8")
    place = tmp_path / "beside_plugin-1.0.dist-info"
    place.mkdir()
    (place / "METADATA").write_text("Metadata-Version: 2.1\nName: beside-plugin\nVersion: 1.0\n", "utf-8")
    (place / "entry_points.txt").write_text("[videomdm]\nbeside = beside_plugin\n", "utf-8")
    return tmp_path


def test_an_installed_lifter_makes_the_teacher_of_a_data_set(beside, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(beside)
    few = [m for m in motions.load_motions() if m.name in ("run", "walk")]
    monkeypatch.setattr(motions, "load_motions", lambda: few)
    card = motions.build_demo(str(tmp_path / "set"), fast=True, lifter="beside")
    assert card.lifter == "beside"
    assert card.lifter_error["mpjpe"] == pytest.approx(0.5, abs=1e-4)
    assert card.lifter_error["root_aligned_mpjpe"] == pytest.approx(0.0, abs=1e-4)
    clip = read_folder(str(tmp_path / "set"), "train")[1][0]
    torch.testing.assert_close(torch.from_numpy(clip.teacher), torch.from_numpy(clip.truth), atol=1e-3, rtol=0)
