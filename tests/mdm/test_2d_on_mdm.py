"""A 2D run on bundled motion with MDM's own programs: it learns, samples and edits; tests/mdm/test_protocol_mdm.py
evaluates one."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import mdm_runs
import numpy as np
import pytest

from videomdm_ext.data.folder import read_card, read_folder, write_folder
from videomdm_ext.data.motions import build_demo
from videomdm_ext.mdm import data, install

pytestmark = [pytest.mark.mdm, pytest.mark.slow]

SIZES = ("--latent_dim", "64", "--layers", "1", "--diffusion_steps", "10", "--batch_size", "8", "--lr", "3e-3")
STEPS = 80


@pytest.fixture(scope="module")
def place(mdm_checkout, tmp_path_factory) -> Path:
    """-> an installed checkout with a 2D set."""
    place = mdm_runs.clone(mdm_checkout.root, tmp_path_factory.mktemp("two") / "mdm")
    install.install(place)
    write_set(place / "set", place.parent / "demo")
    yield place
    shutil.rmtree(place)


def write_set(folder: Path, scratch: Path) -> None:
    """The fast demo's training clips, and three of the longer ones for a test."""
    build_demo(str(scratch), fast=True)
    training = read_folder(str(scratch), "train")[1]
    long = [clip for clip in training if clip.length >= data.FRAMES[0]][:3]
    copies = [dataclasses.replace(clip, id=f"{clip.id}-0") for clip in long]
    write_folder(str(folder), {"train": training, "test": copies}, read_card(str(scratch)))


@pytest.fixture(scope="module")
def printed(place) -> str:
    """-> what the training printed."""
    words = ["--save_dir", "save/2d", "--supervision", "2d", "--clips", "set", "--crop_frames", "48", *SIZES]
    words += ["--text_features", "words", "--use_ema", "--avg_model_beta", "0.9", "--unroll", "off", "--loss"]
    words += ["motion,reprojection", "--num_steps", str(STEPS), "--save_interval", str(STEPS), "--log_interval", "8"]
    words += ["--teacher", "lifted", "--paired"]
    return mdm_runs.must(mdm_runs.python(place, "-m", "train.train_mdm", *words))


def test_every_term_of_the_loss_goes_down(printed):
    terms = {}
    for name, value in re.findall(r"^\|\s+(\w+)\s+\|\s+(\S+)\s+\|$", printed, re.MULTILINE):
        terms.setdefault(name, []).append(float(value))
    named = ("loss", "motion", "position", "velocity", "alignment")
    assert all(len(terms[name]) >= 10 for name in named)
    falling = {name: (np.mean(terms[name][1:3]), np.mean(terms[name][-2:])) for name in named}
    assert all(last < 0.9 * first for first, last in falling.values()), falling


def test_args_json_says_how_it_was_trained(place, printed):
    args = json.loads((place / "save/2d/args.json").read_text())
    expected = {
        "supervision": "2d",
        "clips": "set",
        "text_features": "words",
        "loss": "motion,reprojection",
        "teacher": "lifted",
    }
    assert {key: args[key] for key in expected} == expected


def test_mdm_samples_from_it(place, printed):
    words = ["--model_path", "save/2d/model000000080.pt", "--text_prompt", "a person walks.", "--num_samples", "2"]
    words += ["--num_repetitions", "1", "--output_dir", "out", "--motion_length", "2"]
    done = mdm_runs.python(place, "-m", "sample.generate", *words)
    assert (place / "out/results.npy").is_file(), done.stderr[-3000:]
    motion = np.load(place / "out/results.npy", allow_pickle=True).item()["motion"]
    assert motion.shape == (2, 22, 3, 40)
    assert np.isfinite(motion).all()
    height = motion[:, :, 1].max(1) - motion[:, :, 1].min(1)
    assert 0.5 < np.median(height) < 2.5


def test_mdm_takes_captions_from_the_clips(place, printed):
    words = ["--model_path", "save/2d/model000000080.pt", "--num_samples", "3", "--num_repetitions", "1"]
    done = mdm_runs.python(place, "-m", "sample.generate", *words, "--output_dir", "own", "--motion_length", "2")
    assert (place / "own/results.npy").is_file(), done.stderr[-3000:]
    texts = set(np.load(place / "own/results.npy", allow_pickle=True).item()["text"])
    assert texts <= {text for clip in read_folder(str(place / "set"), "test")[1] for text in clip.texts}


def test_mdm_edits_a_clip(place, printed):
    words = ["--model_path", "save/2d/model000000080.pt", "--num_samples", "2", "--num_repetitions", "1"]
    done = mdm_runs.python(place, "-m", "sample.edit", *words, "--output_dir", "edited", "--edit_mode", "in_between")
    assert (place / "edited/results.npy").is_file(), done.stderr[-3000:]
    assert np.load(place / "edited/results.npy", allow_pickle=True).item()["motion"].shape == (2, 22, 3, 196)


def test_our_own_sampling_draws_from_it_in_mdm_and_is_the_same_twice(place, printed):
    words = ["--checkpoint", "save/2d/model000000080.pt", "--mdm", ".", "--seconds", "2", "--count", "2"]
    words += ["--text", "a person walks.", "--formats", "npz,bvh"]
    for out in ("sampled", "again"):
        mdm_runs.must(mdm_runs.python(place, "-m", "videomdm_ext", "sample", *words, "--out", out))
    made, again = (np.load(place / out / "samples.npz")["samples"] for out in ("sampled", "again"))
    assert made.shape == (80, 22, 3)
    np.testing.assert_array_equal(made, again)
    assert 0.5 < np.median(np.ptp(made[..., 1], axis=1)) < 2.5
    assert len(list((place / "sampled").rglob("*.bvh"))) == 2


def test_it_lifts_keypoints_in_mdm_nearer_to_them_than_without(place, printed):
    name = read_folder(str(place / "set"), "train")[1][0].id
    words = ["--clips", "set", "--checkpoint", "save/2d/model000000080.pt", "--mdm", ".", "--split", "train"]
    words += ["--ids", name, "--ddim", "5", "--teacher", "lifted", "--formats", "npz"]
    off_rays = []
    for strength in ("1", "0"):
        drawn = [*words, "--guidance_strength", strength, "--out", f"lifted{strength}"]
        mdm_runs.must(mdm_runs.python(place, "-m", "videomdm_ext", "lift", *drawn))
        errors = json.loads((place / f"lifted{strength}/lifted.json").read_text())["mean"]
        assert np.isfinite(list(errors["prior"].values())).all()
        off_rays.append(errors["prior"]["image"])
    guided, free = off_rays
    assert guided < 0.5 * free


REFUSED = {
    "--context_len 20": "prefix completion",
    "--lambda_target_loc 1": "goals are read from true 3D motion",
    "--multi_target_cond": "goals are read from true 3D motion",
    "--lambda_rcxyz 1": "3D positions",
    "--lambda_vel 1": "3D velocities",
    "--lambda_fc 1": "contacts",
    "--dataset kit": "humanml",
    "--dataset humanact12": "humanml",
}


def test_under_2d_the_rest_is_refused_with_a_reason_before_any_work(place):
    program = """
import json, os, sys
from utils import parser_util
from videomdm_ext.errors import VideoMDMError
for words in json.loads(sys.argv[1]):
    sys.argv = ["train", "--save_dir", "save/refused", "--supervision", "2d", "--clips", "set", *words.split()]
    os.environ.update({"WORLD_SIZE": "2"} if words == "--layers 2" else {"WORLD_SIZE": "1"})
    try:
        parser_util.train_args()
        print("taken:", words)
    except VideoMDMError as error:
        print("stopped:", words)
        print("error:", error, file=sys.stderr)
"""
    done = mdm_runs.python(place, "-c", program, json.dumps([*REFUSED, "--mask_frames", "--layers 2"]))
    printed = mdm_runs.must(done)
    stopped = re.findall(r"^stopped: (.*)$", printed, re.MULTILINE)
    assert stopped == [*REFUSED, "--layers 2"]
    assert "error: WORLD_SIZE=2: expected one process" in done.stderr
    assert "taken: --mask_frames" in printed
    for words, reason in REFUSED.items():
        assert re.search(rf"error: {words.split()[0]}.*{reason}", done.stderr), (words, done.stderr)
    assert not (place / "save/refused").exists()


SHARED = """
import json, os, sys
from utils import parser_util
from videomdm_ext.errors import HostError
os.environ.update(RANK="1", LOCAL_RANK="1", WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT="1")
for name in ("generate_args", "edit_args", "evaluation_parser"):
    sys.argv = ["program", "--model_path", sys.argv[-1]]
    try:
        getattr(parser_util, name)()
        print("taken:", name)
    except HostError as error:
        print(name, "stopped:", error)
"""


def test_sampling_editing_and_evaluation_are_refused_under_torchrun(place, printed):
    done = mdm_runs.python(place, "-c", SHARED, "save/2d/model000000080.pt")
    reasons = re.findall(r"^(\w+) stopped: WORLD_SIZE=2: expected one process, .+$", mdm_runs.must(done), re.MULTILINE)
    assert reasons == ["generate_args", "edit_args", "evaluation_parser"]


def test_an_unconstrained_model_trains_and_is_sampled_with_guidance(place):
    """Stock MDM asks such a model to encode the captions of a batch, and its guidance for a condition."""
    folder = "save/free"
    words = ["--save_dir", folder, "--supervision", "2d", "--clips", "set", "--crop_frames", "48", *SIZES]
    words += ["--unconstrained", "--num_steps", "2", "--save_interval", "2", "--paired", "--teacher"]
    mdm_runs.must(mdm_runs.python(place, "-m", "train.train_mdm", *words, "lifted"))
    args = json.loads((place / folder / "args.json").read_text())
    assert (args["unconstrained"], args["text_features"]) == (True, "auto")
    path = ["--model_path", f"{folder}/model000000002.pt", "--num_samples", "2", "--num_repetitions", "1"]
    done = mdm_runs.python(place, "-m", "sample.generate", *path, "--output_dir", f"{folder}/out")
    assert "Traceback" not in done.stderr, "without moviepy there is no video, but the motions are saved before"
    motion = np.load(place / folder / "out" / "results.npy", allow_pickle=True).item()
    assert np.isfinite(motion["motion"]).all()
    assert motion["text"] == ["unconstrained"] * 2
