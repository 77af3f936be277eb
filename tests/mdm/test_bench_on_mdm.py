"""`videomdm bench --mdm CHECKOUT`: killed in a training and started again, it ends as one that nothing interrupted."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from clips import CARD, make_clip

from videomdm_ext.bench import provenance
from videomdm_ext.data.folder import write_folder

pytestmark = [pytest.mark.mdm, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
ARMS = ("paper",)
SIZES = ("--layers", "1", "--latent-dim", "32", "--ff-size", "1024", "--dropout", "0.1", "--diffusion-steps", "4")
BENCH = ("--arms", ",".join(ARMS), "--seeds", "1", "--steps", "8", "--curve", "2", "--batch-size", "4", *SIZES)
BENCH += ("--crop-frames", "16", "--samples", "6", "--replications", "1", "--windows", "1", "--workers", "1")
BENCH += ("--text-features", "words", "--without", "t2m,text-motion")

KILLER = """
import os, signal, threading
rename = os.replace
def replace(source, target, **rest):
    rename(source, target, **rest)
    if str(target).endswith(os.environ.get("KILL_AFTER", "no such file")):
        threading.Timer(0.05, os.killpg, (os.getpgrp(), signal.SIGKILL)).start()
os.replace = replace
"""
"""What every Python process does at its start here: soon after a file got its place, all die."""


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """-> a folder with a small set, and a module that can kill."""
    place = tmp_path_factory.mktemp("bench")
    names = ("dance_a", "walk", "jump", "punch")
    train = [make_clip(name=name, texts=(f"to {name}",)) for name in names]
    val, test = (make_clip(name=name, texts=(f"to {name}",)) for name in ("spin", "dance_b"))
    write_folder(str(place / "set"), {"train": train, "val": [val], "test": [test]}, CARD)
    (place / "start").mkdir()
    (place / "start" / "sitecustomize.py").write_text(KILLER)
    return place


def bench(checkout: Path, place: Path, out: str, **environment: str) -> subprocess.Popen[bytes]:
    """-> the bench, started in a session of its own; what it says goes to OUT.txt."""
    paths = os.pathsep.join((str(place / "start"), str(ROOT)))
    known = {name: value for name, value in os.environ.items() if not name.startswith("VIDEOMDM_")}
    known |= {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", **environment}
    words = ["bench", "--dataset", "set", "--mdm", str(checkout), "--out", out, *BENCH]
    with (place / f"{out}.txt").open("a") as log:
        command = [sys.executable, "-m", "videomdm_ext", *words]
        return subprocess.Popen(command, cwd=place, env=known, stdout=log, stderr=log, start_new_session=True)


def ended(made: subprocess.Popen[bytes], log: Path, status: int = 0) -> None:
    """Wait; it ended with this status, and nothing of its session is left where it was killed."""
    found = made.wait(timeout=600)
    assert found == status, log.read_text()[-4000:]
    for _ in range(100):
        try:
            os.killpg(made.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)


def status(checkout: Path) -> str:
    command = ["git", "-C", str(checkout), "status", "--porcelain", "--ignored"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_a_bench_on_mdm_killed_in_a_training_ends_with_the_metrics_of_an_uninterrupted_one(
    mdm_checkout, place, monkeypatch
):
    root = mdm_checkout.root
    before = status(root)
    whole = bench(root, place, "whole")  # beside the other one: importing takes longer than training
    killed = bench(root, place, "killed", KILL_AFTER="paper-0/opt000000004.pt")
    ended(killed, place / "killed.txt", -signal.SIGKILL)
    run = place / "killed" / "runs" / "paper-0"
    assert (run / "model000000004.pt").is_file()
    assert not (run / "model000000008.pt").exists()
    assert not (place / "killed" / "metrics.json").exists()
    ended(bench(root, place, "killed"), place / "killed.txt")
    ended(whole, place / "whole.txt")
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
