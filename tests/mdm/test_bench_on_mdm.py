"""`videomdm bench --mdm CHECKOUT`: killed in a training and started again, it ends as one that nothing interrupted."""

import json
import signal
import subprocess
from pathlib import Path

import forks
import mdm_runs
import pytest
import torch
from clips import CARD, make_clip
from official import write_nba

from videomdm_ext.bench import provenance
from videomdm_ext.data.building import write_folder
from videomdm_ext.motion.skeletons import NBA16

pytestmark = [pytest.mark.mdm, pytest.mark.slow]

ARMS = ("paper",)
SIZES = ("--layers", "1", "--latent-dim", "32", "--ff-size", "1024", "--dropout", "0.1", "--diffusion-steps", "4")
BENCH = ("--arms", ",".join(ARMS), "--seeds", "1", "--steps", "8", "--curve", "2", "--batch-size", "4", *SIZES)
BENCH += ("--crop-frames", "16", "--samples", "6", "--replications", "1", "--windows", "1", "--workers", "1")
BENCH += ("--text-features", "words", "--without", "t2m,text-motion")

FIRST = """
import multiprocessing, os, signal
from videomdm_ext.bench.report import figures
from videomdm_ext.data import tasks
os.setsid()
class Forked(type(multiprocessing.get_context("fork"))):
    def get_start_method(self, allow_none=False):
        return "spawn"
if os.environ.get("FORKED"):
    tasks.get_context = lambda method: Forked()
figures.sections = lambda results: []  # no picture is looked at
rename = os.replace
def replace(source, target, **rest):
    rename(source, target, **rest)
    if str(target).endswith(os.environ.get("KILL_AFTER", "no such file")):
        os.killpg(0, signal.SIGKILL)
os.replace = replace
"""
"""What a bench does at its start: as soon as a file has its place, it dies with its worker, which is a fork if asked
for, as that starts in a moment."""


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """-> a folder with a small set."""
    place = tmp_path_factory.mktemp("bench")
    names = ("dance_a", "walk", "jump", "punch")
    train = [make_clip(name=name, texts=(f"to {name}",)) for name in names]
    val, test = (make_clip(name=name, texts=(f"to {name}",)) for name in ("spin", "dance_b"))
    write_folder(str(place / "set"), {"train": train, "val": [val], "test": [test]}, CARD)
    return place


def bench(checkout: Path, place: Path, out: str, status: int = 0, **environment: str) -> None:
    """Run the bench to its end, which has this exit status, in OUT."""
    words = ["-m", "videomdm_ext", "bench", "--dataset", "set", "--mdm", str(checkout), "--out", out, *BENCH]
    known = {**mdm_runs.PLAIN, "PYTHONPATH": str(forks.ROOT), **environment}
    done = forks.run(words, cwd=place, env=known, first=FIRST)
    assert done.returncode == status, done.stdout[-1000:] + done.stderr[-4000:]


def status(checkout: Path) -> str:
    command = ["git", "-C", str(checkout), "status", "--porcelain", "--ignored"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_a_bench_on_mdm_killed_in_a_training_ends_with_the_metrics_of_an_uninterrupted_one(
    mdm_checkout, place, monkeypatch
):
    root = mdm_checkout.root
    before = status(root)
    bench(root, place, "whole")
    bench(root, place, "killed", -signal.SIGKILL, KILL_AFTER="paper-0/model000000004.pt", FORKED="1")
    run = place / "killed" / "runs" / "paper-0"
    assert (run / "opt000000004.pt").is_file()
    assert not (run / "model000000008.pt").exists()
    assert not (place / "killed" / "metrics.json").exists()
    bench(root, place, "killed", FORKED="1")
    assert (place / "killed/metrics.json").read_bytes() == (place / "whole/metrics.json").read_bytes()
    assert status(root) == before

    monkeypatch.chdir(place)
    assert provenance.problems(Path("whole")) == provenance.problems(Path("killed")) == []
    content = json.loads((place / "whole/metrics.json").read_text("utf-8"))
    assert [arm["name"] for arm in content["arms"]] == list(ARMS)
    for arm in content["arms"]:
        (training,) = arm["trainings"]
        assert training["progress"]["steps"] == [4, 8]
        assert training["losses"]["steps"]
        assert training["metrics"]["views-2d/fid"] > 0
    assert json.loads((place / "whole/run.json").read_text("utf-8"))["host"]["kind"] == "mdm"


def test_nba_is_reproduced_on_mdm_whose_denoiser_has_the_features_of_its_skeleton(mdm_checkout, tmp_path):
    _, lifted = write_nba(tmp_path / "data" / "nba", names="abcdefghijklmnopqrst")
    words = ["-m", "videomdm_ext", "reproduce", "nba", "--data", "data", "--results", lifted, "--out", "out"]
    words += ["--mdm", str(mdm_checkout.root), *BENCH, "--arms", "lifted", "--steps", "2", "--curve", "0"]
    known = {**mdm_runs.PLAIN, "PYTHONPATH": str(forks.ROOT), "FORKED": "1"}
    done = forks.run(words, cwd=tmp_path, env=known, first=FIRST)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-4000:]
    weights = torch.load(tmp_path / "out/runs/lifted-0/model000000002.pt")
    assert weights.get("model", weights)["output_process.poseFinal.weight"].shape[0] == NBA16.num_features != 263
    page = (tmp_path / "out/reproduction.md").read_text("utf-8")
    assert "| host | MDM | MDM | yes |" in page
    assert "people who prefer it to MAS" in page
