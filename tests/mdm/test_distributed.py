"""Trainings in several processes: two ranks of gloo on the CPU against one process, with the same draws and weights.

Each host is imported once, in a process of its own; the ranks are forks of it, which train one run after the other.
"""

import csv
import json
import signal
from pathlib import Path
from typing import Any

import forks
import mdm_runs
import pytest
import torch
from clips import CARD, make_clip
from torch import Tensor

from videomdm_ext.data.building import write_folder
from videomdm_ext.data.motions import load_motions
from videomdm_ext.mdm import checkout, resume

DRIVER = """
import importlib
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

import torch
import torch._dynamo  # as DDP does, once for all ranks

torch.set_num_threads(1)
from videomdm_ext import run
from videomdm_ext.mdm import checkout, distributed, hook, pairing
from videomdm_ext.mdm.speed import exact
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

root, plan = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
drawn, loops, double = [], [], []
ENDLESS = 100000
paired_diffusion, paired_model, share = pairing.paired_diffusion, pairing.paired_model, distributed.share


def widen(value):
    return value.double() if double and torch.is_tensor(value) and value.is_floating_point() else value


def watched_diffusion(base, seed):
    class Watched(base):
        def training_losses(self, model, x_start, t, model_kwargs=None, noise=None, dataset=None):
            drawn[-1]["noise"] = noise
            y = {name: widen(value) for name, value in model_kwargs["y"].items()}
            named = {"model_kwargs": {"y": y}, "noise": widen(noise), "dataset": dataset}
            return super().training_losses(model, widen(x_start), t, **named)

    return paired_diffusion(Watched, seed)


def watched_model(base, seed):
    class Wide(base):
        def __init__(self, *positional, **named):
            super().__init__(*positional, **named)
            if double:
                self.double()

    class Watched(paired_model(Wide, seed)):
        def mask_cond(self, cond, force_mask=False):
            shown = super().mask_cond(widen(cond), force_mask=force_mask)
            drawn[-1]["masks"].append((shown == 0).all(-1))
            return shown

    return Watched


def watched_share(loop, **named):
    share(loop, **named)
    own = loop.diffusion.training_losses

    def training_losses(model, x_start, t, **rest):
        if loop.args.num_steps == ENDLESS and len(drawn) == 7 and distributed.rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        y = rest["model_kwargs"]["y"]
        kept = {name: y[name] for name in ("text", "target_joint_names", "is_heading") if name in y}
        drawn.append({"x": x_start, "t": t, "masks": [], "state": torch.get_rng_state(), **kept})
        return own(model, x_start, t, **rest)

    loop.diffusion.training_losses = training_losses
    loops.append(loop)


pairing.paired_diffusion, pairing.paired_model = watched_diffusion, watched_model
distributed.share = watched_share
exact.norms = lambda parameters, frozen: (0.0, 0.0)  # they are logged, in single precision only
hook.use(checkout.open_checkout(Path(root), asked_by="a test"))
for name in ("utils.model_util", "train.training_loop", "train.train_platforms", "data_loaders.humanml.data.dataset"):
    if (Path(root) / (name.replace(".", "/") + ".py")).is_file():
        importlib.import_module(name)
get_data = importlib.import_module("data_loaders.get_data")
loader = get_data.DataLoader
get_data.DataLoader = lambda *args, num_workers, **rest: loader(*args, num_workers=0, **rest)


def start(rank, count, runs, port):
    if count > 1:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    for name, words, wide in runs:
        handle = os.open(f"{name}.{rank}.txt", os.O_WRONLY | os.O_CREAT)
        os.dup2(handle, 1), os.dup2(handle, 2)
        drawn.clear()
        double[:] = [True] if wide else []
        status = run.main(["--mdm", root, "train.train_mdm", *words])
        weights = loops[-1].model.state_dict() if loops else {}
        kept = {"status": status, "drawn": drawn, "weights": weights}
        torch.save(kept, f"{name}.{rank}")
        sys.stdout.flush(), sys.stderr.flush()


def launch(runs):
    meeting = {"rdzv_backend": "c10d", "rdzv_endpoint": "127.0.0.1:0"}
    config = LaunchConfig(1, 1, 2, max_restarts=0, start_method="fork", **meeting)
    begun = time.monotonic()
    try:
        elastic_launch(config, train)(*runs[0][1])
    except ChildFailedError as error:
        first = error.get_first_failure()
    seconds = time.monotonic() - begun
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    ended = {"codes": {first[0]: first[1].exitcode}, "seconds": seconds, "left": children}
    Path("killed.json").write_text(json.dumps(ended))


def train(*words):
    handle = os.open(f"killed.{os.environ['RANK']}.txt", os.O_WRONLY | os.O_CREAT)
    os.dup2(handle, 1), os.dup2(handle, 2)
    raise SystemExit(run.main(["--mdm", root, "train.train_mdm", *words]))


for count, runs in plan:
    if count == 0:
        launch(runs)
        continue
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(count):
        child = os.fork()
        if child == 0:
            try:
                start(rank, count, runs, port)
            except BaseException:
                import traceback

                traceback.print_exc(file=sys.__stderr__)
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
"""
SMALL = ("--layers", "1", "--latent_dim", "32", "--batch_size", "4", "--diffusion_steps", "20", "--lr", "1e-3")
SMALL += ("--use_ema", "--avg_model_beta", "0.9", "--text_features", "words", "--log_interval", "3")
CLIPS = ("--clips", "set", "--crop_frames", "20")
ARMS = {
    "3d": ("--supervision", "3d"),
    "2d": ("--supervision", "2d", "--teacher", "lifted", "--unroll", "off", "--loss", "reprojection"),
    "unrolled": ("--supervision", "2d", "--teacher", "lifted", "--loss", "reprojection", "--unroll_steps", "3"),
}
STEPS = 6
DOUBLE = 1e-5
SINGLE = 3e-3
"""How far weights of about 1 may be apart after a few steps at a rate of 1e-3; rounding alone gives 2e-4 in 50."""
Run = tuple[str, list[str], bool]


def arm(name: str, count: int, *words: str, steps: int = STEPS) -> Run:
    paired = ("--paired", "--num_steps", str(steps), "--save_interval", "50")
    return f"{name}-{count}", ["--save_dir", f"{name}-{count}", *SMALL, *CLIPS, *paired, *ARMS[name], *words], True


def drive(root: Path, place: Path, plan: list[tuple[int, list[Run]]]) -> Path:
    """Run the plan, each entry with so many ranks, in the folder `place`."""
    clips = [make_clip(name=motion.name, moving=k % 2 == 0) for k, motion in enumerate(load_motions()[:9])]
    write_folder(str(place / "set"), {"train": clips}, CARD)
    (place / "plan.json").write_text(json.dumps(plan))
    environment = {**mdm_runs.PLAIN, "TMPDIR": str(place)}
    done = forks.run(["-W", "ignore", "-c", DRIVER, str(root), "plan.json"], cwd=place, env=environment)
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-1500:]
    return place


def chain(count: int, steps: int) -> Run:
    """Part of an unrolled run that goes on from what the last part has left, with another number of processes."""
    name, words, wide = arm("unrolled", 2, "--resume_checkpoint", "latest", steps=steps)
    return f"{name}-to-{steps}", words, wide


@pytest.fixture(scope="module")
def standin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """-> the folder of runs of the stand-in."""
    short = ("--num_steps", "4", "--save_interval", "2")
    unpaired = ["--save_dir", "unpaired", *SMALL, *CLIPS, *short, *ARMS["unrolled"]]
    uneven = ["--save_dir", "uneven", *SMALL, *CLIPS, "--batch_size", "5"]
    diverged = ["--save_dir", "diverged", *SMALL, *CLIPS, *short, "--lr", "1e30"]
    again = ["--save_dir", "unpaired", "--overwrite", *SMALL, *CLIPS, *short, *ARMS["unrolled"], "--num_steps", "6"]
    killed = ["--save_dir", "killed", *SMALL, *CLIPS, "--num_steps", "100000", "--save_interval", "2"]
    killed += ["--log_interval", "10"]
    plan = [
        (1, [arm("3d", 1), arm("unrolled", 1), arm("2d", 1)]),
        (2, [arm("3d", 2), arm("2d", 2), chain(2, 3)]),
        (1, [chain(1, 5)]),
        (2, [chain(2, STEPS), ("unpaired", unpaired, False), ("uneven", uneven, False), ("diverged", diverged, False)]),
        (1, [("again", again, False)]),
        (0, [("killed", killed, False)]),
    ]
    for _, runs in plan:
        for _, words, _ in runs:
            words += ["--ff_size", "32"]
    return drive(checkout.standin().root, tmp_path_factory.mktemp("ranks"), plan)


@pytest.fixture(scope="module")
def mdm(mdm_checkout: checkout.Checkout, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """-> the folder of runs of MDM."""
    place = mdm_runs.clone(mdm_checkout.root, tmp_path_factory.mktemp("ranks") / "mdm")
    mdm_runs.write_humanml(place, train=12, test=4)
    own = ["--save_dir", "unpaired", *SMALL, "--num_steps", "2", "--save_interval", "2"]
    goals = [*SMALL, *CLIPS, "--num_steps", "3", "--paired", "--multi_target_cond", "--multi_encoder_type", "multi"]
    plan = [
        (count, [arm("unrolled", count), (f"goals-{count}", ["--save_dir", f"goals-{count}", *goals], False)])
        for count in (1, 2)
    ]
    plan[1][1].append(("unpaired", own, False))
    return drive(place, place, plan)


HOSTS = ("standin", pytest.param("mdm", marks=pytest.mark.mdm))
PAIRS = [("standin", "3d"), ("standin", "2d"), pytest.param("mdm", "unrolled", marks=pytest.mark.mdm)]


def kept(place: Path, name: str, status: int = 0) -> dict[str, Any]:
    """-> what a rank has kept of a run, which ended with this status."""
    assert (place / name).is_file(), (place / f"{name}.txt").read_text()[-3000:]
    found: dict[str, Any] = torch.load(place / name, weights_only=False)
    assert found["status"] == status, (place / f"{name}.txt").read_text()[-3000:]
    return found


def apart(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    """-> the largest difference of two models' weights."""
    assert list(first) == list(second)
    return max((first[name] - second[name]).abs().max().item() for name in first)


def rows(place: Path, folder: str) -> list[list[float]]:
    with (place / folder / "progress.csv").open(newline="") as file:
        return [[float(value) for value in row] for row in list(csv.reader(file))[1:]]


@pytest.mark.parametrize(("host", "name"), PAIRS)
def test_two_processes_train_the_same_weights_as_one(request, host, name):
    place = request.getfixturevalue(host)
    alone, first, second = (kept(place, f"{name}-{which}") for which in ("1.0", "2.0", "2.1"))
    assert len(alone["drawn"]) == STEPS
    assert apart(first["weights"], second["weights"]) == 0, "the ranks"
    assert apart(alone["weights"], first["weights"]) < DOUBLE
    saved = [torch.load(resume.newest(place / f"{name}-{count}") or "") for count in (1, 2)]
    for content in ("model", "model_avg"):
        assert apart(*(state[content] for state in saved)) < DOUBLE


@pytest.mark.parametrize(("host", "name"), PAIRS[1:])
def test_a_process_draws_its_part_of_what_one_alone_draws(request, host, name):
    place = request.getfixturevalue(host)
    alone, *ranks = (kept(place, f"{name}-{which}")["drawn"] for which in ("1.0", "2.0", "2.1"))
    for whole, *parts in zip(alone, *ranks, strict=True):
        for what in ("x", "t", "noise"):
            assert torch.equal(whole[what], torch.cat([part[what] for part in parts])), what
        assert whole["text"] == [text for part in parts for text in part["text"]]
        for masks in zip(*(draw["masks"] for draw in (whole, *parts)), strict=True):
            assert torch.equal(masks[0], torch.cat(masks[1:], -1))
        assert torch.equal(parts[0]["state"], parts[1]["state"])
    hidden = torch.cat([mask.flatten() for draw in alone for mask in draw["masks"]]).float().mean()
    assert 0 < hidden < 0.4


def test_a_run_goes_on_with_another_number_of_processes_and_its_log_is_that_of_one(standin):
    alone = kept(standin, "unrolled-1.0")
    assert {len(draw["masks"]) for draw in alone["drawn"]} == {1, 3}, "several passes go before a backward"
    ended = [kept(standin, f"unrolled-2-to-{STEPS}.{rank}") for rank in (0, 1)]
    assert [len(end["drawn"]) for end in ended] == [1, 1]
    assert [len(kept(standin, f"unrolled-2-to-{steps}.0")["drawn"]) for steps in (3, 5)] == [3, 2]
    for end in ended:
        assert apart(alone["weights"], end["weights"]) < DOUBLE
    assert rows(standin, "unrolled-2") == [pytest.approx(row, rel=DOUBLE) for row in rows(standin, "unrolled-1")]


@pytest.mark.parametrize("host", HOSTS)
def test_processes_of_an_unpaired_run_see_data_of_their_own_and_keep_equal_weights(request, host):
    place = request.getfixturevalue(host)
    ranks = [kept(place, f"unpaired.{rank}") for rank in (0, 1)]
    assert apart(*(end["weights"] for end in ranks)) == 0
    for first, second in zip(*(end["drawn"] for end in ranks), strict=True):
        assert len(first["x"]) == len(second["x"]) == 2
        clips = [clip for draw in (first, second) for clip in draw["x"]]
        assert all(not torch.equal(a, b) for k, a in enumerate(clips) for b in clips[:k]), "each clip once in a batch"
        assert not torch.equal(first["state"], second["state"])
        assert len(first["masks"]) == len(second["masks"])
    assert {path.name for path in (place / "unpaired").glob("*0000002.pt")} == {"model000000002.pt", "opt000000002.pt"}


def test_an_unpaired_run_goes_on_alone(standin):
    assert [len(kept(standin, f"{name}.0")["drawn"]) for name in ("unpaired", "again")] == [4, 2]


@pytest.mark.mdm
def test_goals_are_drawn_for_all_and_weights_without_a_gradient_do_no_harm(mdm):
    alone, *ranks = (kept(mdm, f"goals-{which}") for which in ("1.0", "2.0", "2.1"))
    for whole, *parts in zip(*(end["drawn"] for end in (alone, *ranks)), strict=True):
        assert torch.equal(whole["is_heading"], torch.cat([part["is_heading"] for part in parts]))
        names = [list(name) for part in parts for name in part["target_joint_names"]]
        assert [list(name) for name in whole["target_joint_names"]] == names
    assert apart(alone["weights"], ranks[0]["weights"]) < SINGLE
    assert [(mdm / f"goals-2.{rank}.txt").read_text().count("unused") for rank in (0, 1)] == [0, 0]


def test_rank_0_alone_speaks_and_writes_and_both_stop_where_one_would(standin):
    said = {name: kept(standin, f"{name}.0", status=1) and (standin / f"{name}.0.txt").read_text() for name in STOPS}
    for name, expected in STOPS.items():
        assert kept(standin, f"{name}.1", status=1)
        assert said[name].count("error: ") == 1
        assert expected in said[name]
    assert not (standin / "uneven").exists()
    assert [path.name for path in (standin / "diverged").glob("*") if resume.broken_in(path)] == []
    assert [path for path in standin.glob("*.1.txt") if path.read_text()] == []


STOPS = {
    "uneven": "--batch_size: expected a multiple of 2, the number of processes, which share a batch, found 5. Choose 4",
    "diverged": "the loss is nan at step 2; the training stopped. No checkpoint was written before",
}


def test_a_process_that_dies_ends_all_and_leaves_the_last_checkpoint_whole(standin):
    ended = json.loads((standin / "killed.json").read_text())
    seen_first = ({"1": -signal.SIGKILL}, {"0": 1})  # by torchrun's agent: the killed one, or the other that misses it
    assert ended["codes"] in seen_first
    assert ended["seconds"] < 60
    assert ended["left"] == []
    assert [resume.step_of(path) for path in resume.checkpoints(standin / "killed")] == [2, 4, 6]
    assert [path.name for path in (standin / "killed").iterdir() if path.suffix != ".pt"] == ["args.json"]
    for path in (standin / "killed").glob("*.pt"):
        assert torch.load(path)
        assert resume.broken_in(path) == ""
