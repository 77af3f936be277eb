"""Whole runs of the stand-in under 2D, an installed plugin that takes part in them, the launcher and checkouts."""

import csv
import json
import re
import subprocess
from pathlib import Path

import forks
import numpy as np
import pytest
import torch
from clips import CARD
from mdm_runs import CLIPS, differences

from videomdm_ext import run
from videomdm_ext.data.building import write_folder
from videomdm_ext.errors import HostError
from videomdm_ext.mdm import checkout

TWO = (
    "--supervision", "2d", "--teacher", "lifted", "--loss", "reprojection", "--crop_frames", "20",
    "--text_features", "words",
)  # fmt: skip
SMALL = [
    "--layers", "1", "--latent_dim", "16", "--ff_size", "24", "--diffusion_steps", "50", "--batch_size", "3",
    "--use_ema", "--avg_model_beta", "0.9", "--lr", "1e-2", "--gradient_clip", "1", "--log_interval", "10",
]  # fmt: skip
PLUGIN = """
from videomdm_ext.hookspecs import hookimpl

def stillness(step):
    return step.positions.diff(dim=1).square().sum(-1).mean((1, 2)) + 1.0

@hookimpl
def register_loss_terms(register):
    register("stillness", stillness)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """-> a folder with three training clips."""
    path = str(tmp_path_factory.mktemp("runs") / "set")
    write_folder(path, {"train": CLIPS}, CARD)
    return path


def train(folder: Path, *words: object, path: Path = forks.ROOT) -> subprocess.CompletedProcess[str]:
    command = ["-m", "videomdm_ext.run", "train.train_mdm", "--save_dir", str(folder), *SMALL, *map(str, words)]
    return forks.run(command, env={"PYTHONPATH": str(path)})


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


def test_training_takes_exactly_the_steps_asked_for_and_saves_all_but_the_text_encoder(straight):
    assert {path.name for path in straight.glob("*.pt")} == {
        f"{kind}{step:09d}.pt" for kind in ("model", "opt") for step in (40, 60)
    }
    bundle = torch.load(straight / "opt000000060.pt")
    assert {float(state["step"]) for state in bundle["opt"]["state"].values()} == {60.0}
    saved = torch.load(straight / "model000000060.pt")
    assert set(saved) == {"model", "model_avg"}
    assert saved["model"].keys() == saved["model_avg"].keys()
    assert not any(name.startswith("clip_model.") for name in saved["model"])
    assert not torch.equal(saved["model"]["embed_text.weight"], saved["model_avg"]["embed_text.weight"])
    args = json.loads((straight / "args.json").read_text(encoding="utf-8"))
    assert list(args) == sorted(args)
    assert args["loss"] == "reprojection"


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit_and_one_of_another_seed_does_not(
    straight, folder, tmp_path
):
    """Interrupted twice."""
    words, place = ("--clips", folder, *TWO, "--unroll", "on", "--num_steps", 60, "--overwrite"), tmp_path / "resumed"
    place.mkdir()
    for name in ("model000000040.pt", "opt000000040.pt", "args.json", "progress.csv"):
        (place / name).write_bytes((straight / name).read_bytes())
    done = train(place, *words, "--num_steps", 52)
    assert "resumed" in done.stdout, done.stderr
    assert "resumed" in train(place, *words).stdout
    for name in ("model000000060.pt", "opt000000060.pt"):
        assert differences(torch.load(straight / name), torch.load(place / name)) == []
    assert (straight / "progress.csv").read_bytes() == (place / "progress.csv").read_bytes()
    for seed in (10, 11):
        once = train(tmp_path / str(seed), "--clips", folder, *TWO, "--num_steps", 1, "--seed", seed)
        assert once.returncode == 0, once.stderr
    first, other = (torch.load(tmp_path / seed / "model000000001.pt")["model"] for seed in ("10", "11"))
    assert not torch.equal(first["embed_text.weight"], other["embed_text.weight"])


def sampled(straight: Path, out: Path, *words: object) -> dict[str, np.ndarray]:
    """-> what the stand-in's own sampler wrote of the run, whatever --layers says."""
    command = ["-m", "videomdm_ext.run", "sample.generate", "--model_path", straight / "model000000060.pt"]
    command += ["--output_dir", out, "--motion_length", 0.5, "--layers", 5, "--num_samples", 2, *words]
    done = forks.run([*map(str, command)])
    assert done.returncode == 0, done.stderr
    with np.load(out / "results.npz", allow_pickle=False) as results:
        return {name: results[name] for name in results.files}


def test_sampling_restores_the_options_of_training_and_takes_captions_of_the_clips(straight, tmp_path):
    results = sampled(straight, tmp_path / "out", "--num_repetitions", 2)
    assert results["motion"].shape == (4, 22, 3, 10)
    assert results["features"].shape == (4, 10, 263)
    assert set(results["text"]) <= {text for clip in CLIPS for text in clip.texts}
    assert results["text"][0] == results["text"][2]
    assert not np.array_equal(results["motion"][0], results["motion"][2])
    np.testing.assert_allclose(results["motion"][:, 0, 1], results["features"][:, :, 3], rtol=1e-6)


def test_a_prompt_is_sampled_as_often_as_asked(straight, tmp_path):
    results = sampled(straight, tmp_path, "--num_repetitions", 1, "--text_prompt", "a man walks")
    assert results["text"].tolist() == ["a man walks"] * 2
    assert results["lengths"].tolist() == [10] * 2


def test_what_cannot_be_begun_is_refused_and_nothing_is_touched(straight, folder, tmp_path):
    before = {path.name: path.stat().st_mtime_ns for path in straight.iterdir()}
    (tmp_path / "model000000060.pt").write_bytes((straight / "model000000060.pt").read_bytes())
    start = ["-m", "videomdm_ext.run"]
    sample = forks.run([*start, "sample.generate", "--model_path", str(tmp_path / "model000000060.pt")])
    (tmp_path / "hiding" / "utils").mkdir(parents=True)
    (tmp_path / "hiding" / "utils" / "__init__.py").touch()
    for done, said in (
        (train(straight, "--clips", folder, *TWO, "--num_steps", 61), "exists already.*--overwrite"),
        (sample, "args.json"),
        (forks.run([*start, "train.nothing"]), "no module train.nothing"),
        (train(tmp_path / "run", path=tmp_path / "hiding"), f"hidden by {tmp_path / 'hiding'}"),
    ):
        assert done.returncode == 1
        assert re.search(said, done.stderr)
    assert {path.name: path.stat().st_mtime_ns for path in straight.iterdir()} == before


def test_2d_without_clips_is_refused_before_anything_is_written(tmp_path, capsys):
    words = ["--supervision", "2d", "--teacher", "lifted", "--num_steps", "2"]
    assert run.main(["train.train_mdm", "--save_dir", str(tmp_path / "run"), *SMALL, *words]) == 1
    message = capsys.readouterr().err
    assert message.startswith("error: --supervision 2d: expected --clips")
    assert len(message.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_plugins_loss_term_takes_part_in_training_with_its_weight(beside, folder, tmp_path):
    words = ("--clips", folder, *TWO, "--unroll", "off", "--loss", "motion,stillness=0.5", "--num_steps", 10)
    done = train(tmp_path / "run", *words, path=beside)
    assert done.returncode == 0, done.stderr
    (row,) = rows(tmp_path / "run")
    assert row["stillness"] > 1.0
    assert row["loss"] == pytest.approx(row["motion"] + 0.5 * row["stillness"])


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    """-> a folder on which an installed distribution with the plugin lies."""
    (tmp_path / "beside_plugin.py").write_text(PLUGIN, encoding="utf-8")
    place = tmp_path / "beside_plugin-1.0.dist-info"
    place.mkdir()
    (place / "METADATA").write_text("Metadata-Version: 2.1\nName: beside-plugin\nVersion: 1.0\n", "utf-8")
    (place / "entry_points.txt").write_text("[videomdm]\nbeside = beside_plugin\n", "utf-8")
    return tmp_path


def test_one_process_uses_one_checkout():
    code = """
from dataclasses import replace
from videomdm_ext.errors import HostError
from videomdm_ext.mdm import checkout, hook
calls = []
hook.add_options, hook.activate = lambda group: calls.append(group.title), calls.append
hook.use(checkout.standin())
hook.use(checkout.standin())
from utils import parser_util
from argparse import ArgumentParser
parser_util.add_diffusion_options(ArgumentParser())
parser_util.apply_rules("final")
print(calls)
try:
    hook.use(replace(checkout.standin(), commit="another"))
except HostError as error:
    print(error)
"""
    done = forks.run(["-c", code])
    assert done.stdout.splitlines()[0] == "['diffusion', 'final']", done.stderr
    assert "already uses" in done.stdout.splitlines()[1]


@pytest.mark.mdm
def test_the_options_reach_the_parser_of_mdm(mdm_checkout):
    code = f"""
import sys
from videomdm_ext.mdm import checkout, hook
hook.activate = lambda args: print(args.colour, args.layers)
hook.add_options = lambda group: group.add_argument("--colour", default="red")
hook.use(checkout.find({str(mdm_checkout.root)!r}))
from utils import parser_util
sys.argv = ["train", "--save_dir", "none", "--layers", "3", "--colour", "blue"]
parser_util.train_args()
"""
    done = forks.run(["-c", code])
    assert done.stdout == "blue 3\n", done.stderr


def test_a_checkout_is_the_one_named_else_of_the_environment_else_of_a_default_place_and_none_the_stand_in(
    tmp_path, monkeypatch
):
    standin = checkout.choose(None)
    assert (standin.kind, standin.commit) == ("standin", None)
    monkeypatch.setattr(checkout, "default_places", lambda: [checkout.STANDIN])
    monkeypatch.setenv(checkout.VARIABLE, str(tmp_path))
    assert checkout.choose(str(standin.root)) == standin
    with pytest.raises(HostError, match=checkout.VARIABLE):
        checkout.choose("auto")
    monkeypatch.delenv(checkout.VARIABLE)
    assert checkout.choose("auto") == standin
    monkeypatch.setattr(checkout, "default_places", lambda: [tmp_path / "nowhere"])
    with pytest.raises(HostError, match="nowhere"):
        checkout.choose("auto")
