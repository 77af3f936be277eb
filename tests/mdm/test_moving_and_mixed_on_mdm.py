"""Moving cameras, and motion capture beside videos, trained under 2D supervision by MDM's own program."""

import dataclasses
import json
import shutil
from pathlib import Path

import mdm_runs
import numpy as np
import pytest
import torch
from clips import camera, make_clip, motion

from videomdm_ext.data.clip import Clip, Recording, to_clip, with_truth_as_teacher
from videomdm_ext.data.folder import Card, read_folder, write_folder
from videomdm_ext.data.importing import merge
from videomdm_ext.geometry.cameras import project
from videomdm_ext.mdm import install
from videomdm_ext.motion.skeletons import SMPL22

pytestmark = [pytest.mark.mdm, pytest.mark.slow]

NAMES = ("walk", "crawl", "jump", "kick", "punch", "spin", "dance_a", "dance_b")
CARD = Card(name="set", skeleton="smpl22", fps=20.0, lifter="bent", licence="zlib", sources=("bundled motion",))
SIZES = ("--latent_dim", "64", "--layers", "1", "--diffusion_steps", "10", "--batch_size", "8", "--lr", "2e-3")
COMMON = (*SIZES, "--supervision", "2d", "--teacher", "lifted", "--text_features", "words", "--paired")
COMMON = (*COMMON, "--crop_frames", "24", "--log_interval", "1000")
STEPS, FEW = 50, 6

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
    for name, clips in sets.items():
        write_folder(str(place / name), {"train": clips}, dataclasses.replace(CARD, name=name))
    merge([str(place / "still"), str(place / "known")], str(place / "mixed"))
    merge([str(place / "moving"), str(place / "mixed")], str(place / "all"))


@pytest.fixture(scope="module")
def place(mdm_checkout, tmp_path_factory) -> Path:
    """-> an installed checkout in which models were trained on all kinds of clips, and on the same in two worlds."""
    place = mdm_runs.clone(mdm_checkout.root, tmp_path_factory.mktemp("moving") / "mdm")
    install.install(place)
    write_sets(place)
    steps = {"all": STEPS, "one_world": FEW, "other_world": FEW}
    runs = [train(name, count, "reprojection") for name, count in steps.items()]
    mdm_runs.must(mdm_runs.python(place, "-c", RECORDED, json.dumps(runs)))
    yield place
    shutil.rmtree(place)


def train(name: str, steps: int, loss: str) -> list[str]:
    words = ["--save_dir", f"save/{name}", "--clips", name, "--num_steps", str(steps), "--save_interval", str(steps)]
    return [*COMMON, *words, "--loss", loss]


def paid(place: Path, name: str) -> list[dict[str, list]]:
    """-> what each clip paid for each term, step by step."""
    return json.loads((place / "save" / name / "rows.json").read_text())


def mean(rows, term: str, kind: str = "") -> float:
    """-> mean of a term over the clips whose id begins with `kind`."""
    return float(
        np.mean([v for row in rows for v, clip in zip(row[term], row["clips"], strict=True) if clip.startswith(kind)])
    )


def test_every_term_is_finite_and_every_kind_of_clip_is_learnt(place):
    rows, kinds = paid(place, "all"), ("moving", "still", "known")
    assert len(rows) == STEPS
    assert all(np.isfinite(values).all() for row in rows for term, values in row.items() if term != "clips")
    assert {clip.split("_")[0] for row in rows for clip in row["clips"]} == set(kinds)
    for kind in kinds:
        first, last = mean(rows[:10], "loss", kind), mean(rows[-10:], "loss", kind)
        assert last < 0.9 * first, (kind, first, last)


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
