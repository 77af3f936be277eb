"""With --supervision 3d an installed checkout trains, bit for bit, what the same checkout trains without us."""

import json
import shutil
import subprocess
from pathlib import Path

import mdm_runs
import pytest
import torch
from mdm_runs import differences

from videomdm_ext.config import Fairness, Source, Speed, Supervision
from videomdm_ext.mdm import checkout

pytestmark = [pytest.mark.mdm, pytest.mark.slow]

RUNS = {
    "plain": (),
    "average": (
        "--arch", "trans_dec", "--use_ema", "--mask_frames", "--weight_decay", "0.01", "--lr_anneal_steps", "100",
    ),
    "recurrent": ("--arch", "gru"),
    "prefix": ("--arch", "trans_dec", "--context_len", "20", "--pred_len", "20", "--mask_frames"),
    "goals": ("--context_len", "20", "--pred_len", "20", "--lambda_target_loc", "1"),
    "unconstrained": ("--unconstrained", "--gen_guidance_param", "1"),
    "kit": ("--dataset", "kit"),
    "actions": ("--dataset", "humanact12", "--num_frames", "30", "--gen_guidance_param", "1"),
}  # fmt: skip
STEPS = ("--num_steps", "3", "--save_interval", "2", "--log_interval", "2")


@pytest.fixture(scope="module")
def saved(mdm_checkout, tmp_path_factory) -> dict[str, Path]:
    """-> the folders with the runs of an unedited and of an installed checkout."""
    found = {}
    for kind, program in (("unedited", mdm_runs.UNEDITED), ("installed", mdm_runs.INSTALLED)):
        place = mdm_runs.clone(mdm_checkout.root, tmp_path_factory.mktemp(kind) / "mdm")
        if kind == "installed":
            checkout.install(place)
        runs = []
        for name, words in RUNS.items():
            own = ("--supervision", "3d") if kind == "installed" else ()
            runs.append(["--save_dir", f"save/{name}", *mdm_runs.SMALL, *STEPS, *words, *own])
        mdm_runs.trainings(place, program, runs)
        found[kind] = place / "save"
    yield found
    for folder in found.values():
        shutil.rmtree(folder.parent)


@pytest.mark.parametrize("name", RUNS)
def test_weights_average_and_optimizer_are_those_of_unedited_mdm(saved, name):
    theirs, ours = (sorted((saved[kind] / name).glob("*.pt")) for kind in ("unedited", "installed"))
    assert [path.name for path in ours] == [path.name for path in theirs]
    assert {"model000000004.pt", "opt000000004.pt"} <= {path.name for path in ours}
    for their, our in zip(theirs, ours, strict=True):
        assert differences(torch.load(their), torch.load(our)) == []


def test_the_weights_of_a_run_change_and_average_and_weights_differ(saved):
    start, end = (torch.load(saved["installed"] / "average" / f"model{step:09d}.pt") for step in (0, 4))
    assert len(differences(start["model"], end["model"])) > 10
    assert len(differences(end["model"], end["model_avg"])) > 10


@pytest.mark.parametrize("name", RUNS)
def test_args_json_differs_by_our_keys_only(saved, name):
    theirs, ours = (json.loads((saved[kind] / name / "args.json").read_text()) for kind in ("unedited", "installed"))
    own = {key for config in (Supervision, Source, Fairness, Speed) for key in vars(config)["__dataclass_fields__"]}
    assert ours.keys() - theirs.keys() == own
    assert {key: ours[key] for key in theirs} == theirs
    assert ours["supervision"] == "3d"
    if name in ("plain", "kit"):
        assert ours["text_features"] == "clip"


def test_run_does_the_same_without_an_edit_and_in_an_edited_checkout(saved, tmp_path):
    place = saved["unedited"].parent
    for folder, host in (("launched", place), ("twice", saved["installed"].parent)):
        words = ["--save_dir", str(tmp_path / folder), *mdm_runs.SMALL, *STEPS, "--supervision", "3d"]
        run = ["-m", "videomdm_ext.run", "--mdm", str(host), "train.train_mdm", *words]
        mdm_runs.must(mdm_runs.python(host, *run))
        for name in ("model000000004.pt", "opt000000004.pt"):
            ours, theirs = torch.load(tmp_path / folder / name), torch.load(saved["unedited"] / "plain" / name)
            assert differences(ours, theirs) == []
    status = subprocess.run(["git", "-C", str(place), "status", "--porcelain", "utils"], capture_output=True, text=True)
    assert status.stdout == ""


def test_a_checkpoint_of_ours_is_loaded_by_unedited_mdm(saved):
    checkpoint = saved["installed"] / "plain" / "model000000004.pt"
    program = f"""
import sys, torch
from videomdm_ext.mdm import remedies
remedies.prepare()
from utils.parser_util import evaluation_parser
from utils.model_util import create_model_and_diffusion, load_saved_model
sys.argv = ["eval", "--model_path", {str(checkpoint)!r}]
args = evaluation_parser()
model, _ = create_model_and_diffusion(args, type("Data", (), {{"dataset": None}}))
load_saved_model(model, args.model_path)
print(args.latent_dim, float(model.output_process.poseFinal.weight.sum()))
"""
    printed = mdm_runs.must(mdm_runs.python(saved["unedited"].parent, "-c", program)).split()
    weight = torch.load(checkpoint)["output_process.poseFinal.weight"]
    assert printed[-2:] == ["32", str(float(weight.detach().sum()))]
