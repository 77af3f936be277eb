"""2D runs with MDM's own programs, on moving cameras, still ones and motion capture: they learn, sample and edit;
tests/mdm/test_protocol_mdm.py evaluates one."""

import dataclasses
import itertools
import json
import re
import shutil
from pathlib import Path

import mdm_runs
import numpy as np
import pytest
import torch
from clips import camera, make_clip, motion

from videomdm_ext.data.building import write_folder
from videomdm_ext.data.clip import Clip, Recording, to_clip, with_truth_as_teacher
from videomdm_ext.data.folder import Card, read_folder
from videomdm_ext.data.importing import merge
from videomdm_ext.geometry.cameras import project
from videomdm_ext.mdm import checkout
from videomdm_ext.motion.skeletons import SMPL22

pytestmark = [pytest.mark.mdm, pytest.mark.slow]

NAMES = ("walk", "crawl", "jump", "kick", "punch", "spin", "dance_a", "dance_b")
CARD = Card(name="set", skeleton="smpl22", fps=20.0, lifter="bent", licence="zlib", sources=("bundled motion",))
SIZES = ("--latent_dim", "64", "--layers", "1", "--diffusion_steps", "10", "--batch_size", "8", "--lr", "2e-3")
COMMON = (*SIZES, "--supervision", "2d", "--teacher", "lifted", "--text_features", "words", "--paired")
COMMON = (*COMMON, "--crop_frames", "24", "--log_interval", "1000", "--use_ema", "--avg_model_beta", "0.9")
STEPS, FEW = 50, 6
CHECKPOINT = f"save/all/model{STEPS:09d}.pt"

RECORDED = """
import json, os, sys, torch
torch.set_num_threads(1)
from train import train_mdm, training_loop
rows = []
log, loop = training_loop.log_loss_dict, training_loop.TrainLoop.paired
forward_backward = loop.forward_backward
def with_clips(self, batch, cond):
    rows.append({"clips": cond["y"]["db_key"]})
    return forward_backward(self, batch, cond)
def with_terms(diffusion, ts, losses):
    rows[-1].update({name: values.tolist() for name, values in losses.items()})
    return log(diffusion, ts, losses)
loop.forward_backward, training_loop.log_loss_dict = with_clips, with_terms
for argv in json.loads(sys.argv[1]):
    rows.clear()
    sys.argv = ["train.train_mdm", *argv]
    train_mdm.main()
    with open(os.path.join(argv[argv.index("--save_dir") + 1], "rows.json"), "w") as file:
        json.dump(rows, file)
"""
"""MDM's program, which also writes what every clip of every batch paid for every term."""

TURN = torch.tensor(((0.6, 0.0, 0.8), (0.0, 1.0, 0.0), (-0.8, 0.0, 0.6)))
SHIFT = torch.tensor((3.0, 0.0, -2.0))


def known(name: str) -> Clip:
    """-> motion capture that no camera saw."""
    clip = with_truth_as_teacher(make_clip(name=name, id=f"known_{name}"))
    return dataclasses.replace(clip, confidence=np.zeros_like(clip.confidence))


def in_world(name: str, *, turned: bool) -> Clip:
    """-> a motion before a still camera; turned, the same in another world, with the camera said frame by frame."""
    true, seen = motion(name), camera()
    lifted = 1.1 * true + 0.05 * torch.sin(torch.arange(len(true)) / 9.0)[:, None, None]
    points, _ = project(true, seen.unsqueeze(0))
    if turned:  # X' = TURN X + SHIFT
        true, lifted = true @ TURN.T + SHIFT, lifted @ TURN.T + SHIFT
        rotation = seen[:, :3] @ TURN.T
        seen = torch.cat((rotation, (seen[:, 3] - rotation @ SHIFT).unsqueeze(1)), 1).expand(len(true), 3, 4)
    confidence = torch.full(points.shape[:-1], 0.9)
    return to_clip(
        Recording(name, ("a person moves.",), 20.0, SMPL22, points, confidence, seen, lifted=lifted, truth=true)
    )


def write_sets(place: Path) -> None:
    """Sets of moving cameras, of still ones, of motion capture, merged ones, and pairs that differ by the camera."""
    sets = {
        "moving": [make_clip(name=name, id=f"moving_{name}", moving=True) for name in NAMES],
        "still": [make_clip(name=name, id=f"still_{name}", truth=None, truth_extrinsics=None) for name in NAMES],
        "known": [known(name) for name in NAMES],
        "one_world": [in_world(name, turned=False) for name in NAMES],
        "other_world": [in_world(name, turned=True) for name in NAMES],
    }
    moved = sets["one_world"][0].keypoints.copy()
    moved[:, SMPL22.index("l_knee"), 0] += 1 / 600  # about one pixel
    sets["one_pixel"] = [dataclasses.replace(sets["one_world"][0], keypoints=moved), *sets["one_world"][1:]]
    test = [make_clip(name=name, id=f"test_{name}", texts=(f"to {name}.",), moving=True) for name in NAMES[:3]]
    for name, clips in sets.items():
        splits = {"train": clips, "test": test if name == "moving" else []}
        write_folder(str(place / name), splits, dataclasses.replace(CARD, name=name))
    merge([str(place / "still"), str(place / "known")], str(place / "mixed"))
    merge([str(place / "moving"), str(place / "mixed")], str(place / "all"))


@pytest.fixture(scope="module")
def place(mdm_checkout, tmp_path_factory) -> Path:
    """-> an installed checkout in which models were trained on all kinds of clips, and on the same in two worlds."""
    place = mdm_runs.clone(mdm_checkout.root, tmp_path_factory.mktemp("moving") / "mdm")
    checkout.install(place)
    write_sets(place)
    steps = {"all": STEPS, "one_world": FEW, "other_world": FEW}
    runs = [train(name, count) for name, count in steps.items()]
    pairs = itertools.product(("one_world", "one_pixel"), ("posterior", "motion"))
    runs += [train(name, 1, loss, f"{name}_{loss}") for name, loss in pairs]
    mdm_runs.must(mdm_runs.python(place, "-c", RECORDED, json.dumps(runs)))
    yield place
    shutil.rmtree(place)


def train(name: str, steps: int, loss: str = "reprojection", place: str = "") -> list[str]:
    words = ["--save_dir", f"save/{place or name}", "--clips", name, "--num_steps", str(steps)]
    return [*COMMON, *words, "--save_interval", str(steps), "--loss", loss]


def paid(place: Path, name: str) -> list[dict[str, list]]:
    """-> what each clip paid for each term, step by step."""
    return json.loads((place / "save" / name / "rows.json").read_text())


def mean(rows, term: str, kind: str = "") -> float:
    """-> mean of a term over the clips whose id begins with `kind`."""
    return float(
        np.mean([v for row in rows for v, clip in zip(row[term], row["clips"], strict=True) if clip.startswith(kind)])
    )


def test_every_term_is_finite_and_goes_down_and_every_kind_of_clip_is_learnt(place):
    rows, kinds = paid(place, "all"), ("moving", "still", "known")
    assert len(rows) == STEPS
    assert all(np.isfinite(values).all() for row in rows for term, values in row.items() if term != "clips")
    assert {clip.split("_")[0] for row in rows for clip in row["clips"]} == set(kinds)
    for kind in kinds:
        first, last = mean(rows[:10], "loss", kind), mean(rows[-10:], "loss", kind)
        assert last < 0.9 * first, (kind, first, last)
    for term in ("motion", "position", "velocity", "alignment"):
        first, last = mean(rows[:10], term), mean(rows[-10:], term)
        assert last < 0.9 * first, (term, first, last)


def test_motion_is_paid_by_known_clips_alone_and_they_pay_nothing_else(place):
    for row in paid(place, "all"):
        is_known = np.array([clip.startswith("known") for clip in row["clips"]])
        np.testing.assert_array_equal(np.array(row["motion"]) > 0, is_known)
        np.testing.assert_allclose(np.array(row["loss"])[is_known], np.array(row["motion"])[is_known])
        for term in ("position", "velocity", "alignment"):
            np.testing.assert_array_equal(np.array(row[term]) > 0, ~is_known)


def test_the_loss_does_not_depend_on_the_world_in_which_the_same_motion_was_filmed(place):
    name, other = "one_world", "other_world"
    assert [clip.extrinsics.ndim for clip in read_folder(str(place / other), "train")[1]] == [3] * len(NAMES)
    rows, others = paid(place, name), paid(place, other)
    assert len(rows) == len(others) == FEW
    for row, same in zip(rows, others, strict=True):
        assert row.keys() == same.keys()
        assert row["clips"] == same["clips"]
        for term in row.keys() - {"clips", "behind"}:
            np.testing.assert_allclose(same[term], row[term], rtol=1e-4, atol=1e-6, err_msg=term)


@pytest.mark.parametrize(("loss", "changes"), [("posterior", True), ("motion", False)])
def test_a_joint_of_one_clip_moved_by_a_pixel_changes_the_gradient_of_the_2d_loss_and_no_other(place, loss, changes):
    folders = [place / "save" / f"{name}_{loss}" for name in ("one_world", "one_pixel")]
    seen, moved = (torch.load(folder / "opt000000001.pt")["state"] for folder in folders)
    same = [torch.equal(seen[key]["exp_avg"], moved[key]["exp_avg"]) for key in seen]  # a tenth of the only gradient
    assert len(same) > 10
    assert all(same) != changes


def test_mdm_samples_from_it_with_captions_of_the_clips(place):
    words = ["--model_path", CHECKPOINT, "--num_samples", "3", "--num_repetitions", "1"]
    done = mdm_runs.python(place, "-m", "sample.generate", *words, "--output_dir", "own", "--motion_length", "2")
    assert (place / "own/results.npy").is_file(), done.stderr[-3000:]
    results = np.load(place / "own/results.npy", allow_pickle=True).item()
    assert set(results["text"]) <= {f"to {name}." for name in NAMES[:3]}
    motion = results["motion"]
    assert motion.shape == (3, 22, 3, 40)
    assert np.isfinite(motion).all()
    height = motion[:, :, 1].max(1) - motion[:, :, 1].min(1)
    assert 0.5 < np.median(height) < 2.5


def test_mdm_edits_a_clip(place):
    words = ["--model_path", CHECKPOINT, "--num_samples", "2", "--num_repetitions", "1"]
    done = mdm_runs.python(place, "-m", "sample.edit", *words, "--output_dir", "edited", "--edit_mode", "in_between")
    assert (place / "edited/results.npy").is_file(), done.stderr[-3000:]
    assert np.load(place / "edited/results.npy", allow_pickle=True).item()["motion"].shape == (2, 22, 3, 196)


VERBS = """
import json, sys
from videomdm_ext.cli.main import main
sys.exit(max(main(words) for words in json.loads(sys.argv[1])))
"""


def test_our_own_sampling_draws_from_it_in_mdm_and_is_the_same_twice(place):
    words = ["sample", "--checkpoint", CHECKPOINT, "--mdm", ".", "--seconds", "1", "--count", "2"]
    words += ["--text", "a person walks.", "--formats", "npz,bvh", "--out"]
    mdm_runs.must(mdm_runs.python(place, "-c", VERBS, json.dumps([[*words, out] for out in ("sampled", "again")])))
    made, again = (np.load(place / out / "samples.npz")["samples"] for out in ("sampled", "again"))
    assert made.shape == (40, 22, 3)
    np.testing.assert_array_equal(made, again)
    assert 0.5 < np.median(np.ptp(made[..., 1], axis=1)) < 2.5
    assert len(list((place / "sampled").rglob("*.bvh"))) == 2


def test_it_lifts_keypoints_in_mdm_nearer_to_them_than_without(place):
    words = ["lift", "--clips", "all", "--checkpoint", CHECKPOINT, "--mdm", ".", "--split", "train", "--ids"]
    words += ["moving_walk", "--ddim", "5", "--teacher", "lifted", "--formats", "npz"]
    drawn = [[*words, "--guidance_strength", strength, "--out", f"lifted{strength}"] for strength in ("1", "0")]
    mdm_runs.must(mdm_runs.python(place, "-c", VERBS, json.dumps(drawn)))
    guided, free = (json.loads((place / f"lifted{s}/lifted.json").read_text())["mean"]["prior"] for s in ("1", "0"))
    assert np.isfinite([*guided.values(), *free.values()]).all()
    assert guided["image"] < 0.5 * free["image"]


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
    sys.argv = ["train", "--save_dir", "save/refused", "--supervision", "2d", "--clips", "all", *words.split()]
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


def test_sampling_editing_and_evaluation_are_refused_under_torchrun(place):
    done = mdm_runs.python(place, "-c", SHARED, CHECKPOINT)
    reasons = re.findall(r"^(\w+) stopped: WORLD_SIZE=2: expected one process, .+$", mdm_runs.must(done), re.MULTILINE)
    assert reasons == ["generate_args", "edit_args", "evaluation_parser"]


def test_an_unconstrained_model_trains_and_is_sampled_with_guidance(place):
    """Stock MDM asks such a model to encode the captions of a batch, and its guidance for a condition."""
    folder = "save/free"
    words = ["--save_dir", folder, "--supervision", "2d", "--clips", "one_world", "--crop_frames", "24", *SIZES]
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
