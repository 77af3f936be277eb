"""Training from a checkpoint: its weights, sizes, Mean and Std go along, and what does not fit is refused by name."""

import json
import re
import shutil

import mdm_runs
import numpy as np
import pytest
import torch
from clips import CARD, make_clip

from videomdm_ext.cli import main as cli
from videomdm_ext.data.building import write_folder
from videomdm_ext.data.folder import read_statistics
from videomdm_ext.inference.sample import open_run
from videomdm_ext.mdm import checkout

SMALL = [
    *("--batch_size", "2", "--crop_frames", "24", "--latent_dim", "16", "--layers", "1", "--ff_size", "16"),
    *("--text_features", "words", "--diffusion_steps", "8", "--save_interval", "2", "--log_interval", "1"),
]
STILL = ["--batch_size", "2", "--crop_frames", "24", "--num_steps", "2", "--lr", "0", "--save_interval", "2"]
"""A training that leaves every weight as it was."""


def weights(path):
    content = torch.load(path, weights_only=True)
    return content.get("model", content)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """-> a folder with two data sets, `first` and `own`, and a run on the first."""
    root = tmp_path_factory.mktemp("finetuning")
    for name, motions in (("first", ("walk", "jump", "kick")), ("own", ("crawl", "spin"))):
        write_folder(str(root / name), {"train": [make_clip(name=motion) for motion in motions]}, CARD)
    words = ["train", "--arm", "2d-lifted", *SMALL, "--clips", str(root / "first"), "--save_dir", str(root / "base")]
    assert cli.main([*words, "--num_steps", "2", "--use_ema", "--lr", "1e-2"]) == 0
    return root


def test_a_training_begins_with_the_weights_sizes_and_units_of_a_run_and_counts_its_own_steps(base, tmp_path):
    run = tmp_path / "run"
    words = ["train", "--arm", "2d-lifted", "--from", str(base / "base"), *STILL, "--clips", str(base / "own")]
    assert cli.main([*words, "--save_dir", str(run)]) == 0
    before = torch.load(base / "base" / "model000000002.pt", weights_only=True)["model_avg"]
    after = weights(run / "model000000002.pt")
    assert all(torch.equal(before[name], after[name]) for name in after)
    args = json.loads((run / "args.json").read_text())
    assert (args["latent_dim"], args["ff_size"], args["diffusion_steps"], args["text_features"]) == (16, 16, 8, "words")
    mean, std = read_statistics(str(base / "first"), "bent")
    own = read_statistics(str(base / "own"), "bent")
    assert not np.allclose(mean, own[0])
    assert np.array_equal(np.load(run / "Mean.npy"), mean)
    assert np.array_equal(np.load(run / "Std.npy"), std)
    moved = run.rename(tmp_path / "moved")
    trained = open_run(moved)
    assert np.array_equal(trained.space.mean.numpy(), mean)
    assert np.array_equal(trained.dataset.std, std)

    again = tmp_path / "again"  # from a run that itself began so
    words[4] = str(moved / "model000000002.pt")
    assert cli.main([*words, "--save_dir", str(again), "--lr", "1e-3", "--paired"]) == 0
    assert np.array_equal(np.load(again / "Mean.npy"), mean)
    first = weights(again / "model000000002.pt")
    assert any((first[name] != after[name]).any() for name in after)
    shutil.rmtree(moved)  # not needed any more
    words += ["--save_dir", str(again), "--lr", "1e-3", "--paired", "--resume_checkpoint", "latest", "--num_steps", "4"]
    assert cli.main(words) == 0
    assert (again / "model000000004.pt").is_file()
    assert np.array_equal(open_run(again).space.mean.numpy(), mean)
    words[words.index("latest")] = str(base / "base" / "model000000002.pt")
    assert cli.main([*words, "--save_dir", str(tmp_path / "both")]) == 1


@pytest.mark.parametrize(
    ("change", "words", "message"),
    [
        ({}, ["--latent_dim", "32"], "--latent_dim 32: expected 16, with which"),
        ({}, ["--diffusion_steps", "50"], "--diffusion_steps 50: expected 8, with which"),
        ({"conv_kernel": None}, ["--conv_kernel", "9"], "--conv_kernel 9: expected 0, with which"),
        ({}, ["--unconstrained"], "--unconstrained True: expected False"),
        ({}, ["--text_features", "minilm"], "--text_features minilm"),
        ({"dataset": "kit"}, [], "expected a model of humanml, found one of kit"),
        ({"clips": "/nowhere/set"}, [], "Mean and Std of its training in /nowhere/set"),
        ({"clips": ""}, [], "with --start_statistics DIR"),
        ({"latent_dim": 32}, [], "expected latent_dim 32 as in its args.json, found 16"),
        ({"ff_size": 24}, [], "expected the weights of the model that its args.json describes, found .* in place of"),
        (None, [], "expected its training's args.json beside it"),
    ],
)
def test_what_does_not_fit_the_checkpoint_is_refused_by_name_and_nothing_is_lost(
    base, tmp_path, capsys, change, words, message
):
    start = tmp_path / "start"
    shutil.copytree(base / "base", start)
    stored = json.loads((start / "args.json").read_text())
    (start / "args.json").unlink()
    if change is not None:
        kept = {name: value for name, value in (stored | change).items() if value is not None}
        (start / "args.json").write_text(json.dumps(kept))
    run = tmp_path / "run"
    given = ["train", "--arm", "2d-lifted", "--from", str(start), *STILL, *words, "--clips", str(base / "own")]
    assert cli.main([*given, "--save_dir", str(run)]) == 1
    assert re.search(message, capsys.readouterr().err.replace("\n", " "))
    assert not list(run.glob("model*.pt"))


@pytest.mark.mdm
@pytest.mark.slow
def test_mdm_trains_on_from_a_checkpoint_that_knows_nothing_of_this_package(mdm_checkout, base, tmp_path):
    place = mdm_runs.clone(mdm_checkout.root, tmp_path / "mdm")
    draw = np.random.default_rng(0)
    units = {"Mean": draw.normal(size=263).astype(np.float32), "Std": (1 + draw.random(263)).astype(np.float32)}
    for name, values in units.items():
        np.save(place / "dataset" / "HumanML3D" / f"{name}.npy", values)
    common = ["--num_steps", "3", "--save_interval", "2", "--log_interval", "2", "--batch_size", "2", "--overwrite"]
    sizes = ["--latent_dim", "32", "--layers", "1", "--diffusion_steps", "20", "--use_ema", "--avg_model_beta", "0.5"]
    mdm_runs.trainings(place, mdm_runs.UNEDITED, [["--save_dir", "save/base", *common, *sizes]])
    stored = json.loads((place / "save/base/args.json").read_text())
    assert "clips" not in stored
    checkout.install(place)
    clips = ["--supervision", "2d", "--teacher", "lifted", "--clips", str(base / "own"), "--crop_frames", "24"]
    begun = ["--start_from", "save/base", *common, *clips, "--lr", "0", "--weight_decay", "0", "--save_dir", "save/own"]
    mdm_runs.trainings(place, mdm_runs.INSTALLED, [begun])
    newest = sorted((place / "save/base").glob("model*.pt"))[-1]
    before = torch.load(newest, weights_only=True)["model_avg"]
    own = sorted((place / "save/own").glob("model*.pt"))
    assert own[0].name == sorted(p.name for p in (place / "save/base").glob("model*.pt"))[0]  # steps count anew
    after = weights(own[-1])
    assert all(torch.equal(before[name], after[name]) for name in after)
    args = json.loads((place / "save/own/args.json").read_text())
    assert (args["latent_dim"], args["diffusion_steps"], args["text_features"]) == (32, 20, "clip")
    for name, values in units.items():
        assert np.array_equal(np.load(place / "save/own" / f"{name}.npy"), values)
    words = ["--model_path", f"save/own/{own[-1].name}", "--num_samples", "1", "--num_repetitions", "1"]
    seen = "import sys; from utils import parser_util; from data_loaders.get_data import get_dataset_loader as l; "
    seen += f"sys.argv = ['sample.generate', *{words!r}]; args = parser_util.generate_args(); "
    seen += "d = l('humanml', 2, 40, 'train', hml_mode='text_only'); print(d.dataset.mean[:3].tolist())"
    printed = mdm_runs.must(mdm_runs.python(place, "-c", seen))
    assert json.loads(printed.splitlines()[-1]) == pytest.approx(units["Mean"][:3].tolist())
