"""Trainings with --paired: exact steps, equal draws of two arms, a continuation that equals an uninterrupted run.

Each host is imported once, in a process of its own; every run is a fork of it, so that it can be killed for real.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import forks
import mdm_runs
import pytest
import torch
from clips import CARD, make_clip
from mdm_runs import same

from videomdm_ext.data.building import write_folder
from videomdm_ext.data.motions import load_motions
from videomdm_ext.mdm import checkout, resume

KILLED = 9
DRIVER = """
import importlib
import json
import os
import sys
from pathlib import Path

import torch

torch.set_num_threads(1)
from videomdm_ext import run
from videomdm_ext.mdm import checkout, hook, pairing

root, plan = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
drawn, options, replaced = [], {}, []
paired_diffusion, paired_model, replace = pairing.paired_diffusion, pairing.paired_model, os.replace


def watched_diffusion(base, seed):
    class Watched(base):
        def training_losses(self, model, x_start, t, model_kwargs=None, noise=None, dataset=None):
            if self.paired_step == options.get("kill_step"):
                os._exit(9)
            y = model_kwargs["y"]
            drawn.append({"step": self.paired_step, "t": t, "noise": noise, "x": x_start, "text": y["text"],
                          "masks": [], "states": []})
            return super().training_losses(model, x_start, t, model_kwargs=model_kwargs, noise=noise, dataset=dataset)

    return paired_diffusion(Watched, seed)


def watched_model(base, seed):
    class Watched(base):
        def forward(self, x, timesteps, y=None):
            drawn[-1]["states"].append(torch.get_rng_state())
            return super().forward(x, timesteps, y)

        def mask_cond(self, cond, force_mask=False):
            shown = super().mask_cond(cond, force_mask=force_mask)
            drawn[-1]["masks"].append((shown == 0).all(-1))
            return shown

    return paired_model(Watched, seed)


def counted_replace(source, target):
    replace(source, target)
    replaced.append(target)
    if str(target).endswith(".pt") and sum(str(name).endswith(".pt") for name in replaced) == options.get("kill_file"):
        os._exit(9)


def few_workers(get_data):
    loader = get_data.DataLoader
    get_data.DataLoader = lambda *args, num_workers, **rest: loader(*args, num_workers=min(num_workers, 1), **rest)


pairing.paired_diffusion, pairing.paired_model, os.replace = watched_diffusion, watched_model, counted_replace
hook.use(checkout.open_checkout(Path(root), asked_by="a test"))
for name in ("utils.model_util", "train.training_loop", "train.train_platforms", "data_loaders.humanml.data.dataset"):
    if (Path(root) / (name.replace(".", "/") + ".py")).is_file():
        importlib.import_module(name)


def start(name, words):
    handle = os.open(f"{name}.txt", os.O_WRONLY | os.O_CREAT)
    os.dup2(handle, 1), os.dup2(handle, 2)
    place = words[words.index("--save_dir") + 1]
    Path(f"{name}.found").write_text(json.dumps(os.listdir(place) if os.path.isdir(place) else []))
    if name != "straight":
        few_workers(importlib.import_module("data_loaders.get_data"))
    status = run.main(["--mdm", root, "train.train_mdm", *words])
    torch.save(drawn, f"{name}.drawn")
    sys.stdout.flush(), sys.stderr.flush()
    os._exit(status)


statuses = {}
for name, words, extra in plan:
    child = os.fork()
    if child == 0:
        options.update(extra)
        try:
            start(name, words)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(77)
    statuses[name] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
Path("statuses.json").write_text(json.dumps(statuses))
"""
SMALL = ("--layers", "1", "--latent_dim", "32", "--batch_size", "4", "--diffusion_steps", "20", "--lr", "1e-2")
SMALL += ("--use_ema", "--avg_model_beta", "0.9", "--text_features", "words", "--log_interval", "2")
LATEST = ("--resume_checkpoint", "latest")
SEVEN = ("--paired", "--num_steps", "7", "--save_interval", "3", "--lr_anneal_steps", "20", "--weight_decay", "0.01")
ARMS = {
    "3d": ("--supervision", "3d"),
    "2d": ("--supervision", "2d", "--teacher", "lifted", "--unroll", "off", "--loss", "motion"),
    "walked": ("--supervision", "2d", "--teacher", "lifted", "--unroll", "on"),
}
FEW = ("3d", "2d")
KILLS = (2, 5)
"""Files at step 3 and 6 after which a run is killed, before the model that completes them; the stand-in's in a step."""
DIVERGED = ("diverged", "whole_diverged")
OTHER_RATE = ("--num_steps", "30", "--lr_anneal_steps", "100")
"""MDM goes on at the rate of its checkpoint, unless the rate falls."""
Run = tuple[str, list[str], dict[str, int]]


def drive(root: Path, place: Path, plan: list[Run]) -> dict[str, int]:
    """Run the plan with the host at `root`, in the folder `place`. -> the exit status of each run"""
    (place / "plan.json").write_text(json.dumps(plan))
    done = forks.run(["-W", "ignore", "-c", DRIVER, str(root), "plan.json"], cwd=place, env=mdm_runs.PLAIN)
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-1500:]
    return json.loads((place / "statuses.json").read_text())


def seven(name: str, *words: str, folder: str = "", kill: dict[str, int] | None = None) -> Run:
    return name, ["--save_dir", folder or name, *SMALL, *SEVEN, *words], kill or {}


def arms(names: Sequence[str] = tuple(ARMS), few: Sequence[str] = FEW) -> list[Run]:
    """The arms, some of them also with fewer clips than a batch, and one that diverges at once."""
    common = (*SMALL, "--paired", "--num_steps", "4", "--clips", "set", "--crop_frames", "20", "--teacher", "lifted")
    large = (*common, "--batch_size", "64")
    short = [(f"few_{name}", ["--save_dir", f"few_{name}", *large, *ARMS[name]], {}) for name in few]
    diverged = ["--save_dir", "diverged", *common, "--save_interval", "1", "--lr", "1e30", *ARMS["2d"]]
    plan = [(name, ["--save_dir", name, *common, *ARMS[name]], {}) for name in names]
    return [*plan, *short, ("diverged", diverged, {})]


def continuations(*words: str) -> list[Run]:
    """A run of seven steps, and others, with fewer workers, that are killed after a file, and go on."""
    plan = [seven("straight", *words), seven("again", *words, "--overwrite", folder="straight")]
    for number in KILLS:
        name = f"kill_file_{number}"
        plan.append(seven(f"{name}_first", *words, folder=name, kill={"kill_file": number}))
        plan.append(seven(name, *words, *LATEST, folder=name))
    return plan


def write_clips(place: Path) -> None:
    names = [motion.name for motion in load_motions()][:9]
    clips = [make_clip(name=name, moving=number % 2 == 0) for number, name in enumerate(names)]
    write_folder(str(place / "set"), {"train": clips}, CARD)


@pytest.fixture(scope="module")
def standin(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """-> the folder and the exit statuses of runs of the stand-in."""
    place = tmp_path_factory.mktemp("standin")
    write_clips(place)
    words = ("--clips", "set", "--crop_frames", "20", *ARMS["walked"], "--teacher", "lifted")
    plan = [
        *arms(),
        seven("straight", *words),
        seven("again", *words, "--overwrite", folder="straight"),
        seven("resumed_first", *words, folder="resumed", kill={"kill_step": 4}),
        seven("resumed", *words, *LATEST, folder="resumed"),
        seven("older", *words, "--resume_checkpoint", "straight/model000000003.pt", folder="straight"),
        seven("other", *words, *LATEST, "--lr", "0.1", folder="straight"),
        ("unpaired", ["--save_dir", "unpaired", *SMALL, "--num_steps", "2", *words], {}),
    ]
    return SimpleNamespace(place=place, status=drive(checkout.standin().root, place, plan))


@pytest.fixture(scope="module")
def mdm(mdm_checkout: checkout.Checkout, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """-> the folder and the exit statuses of runs of MDM, beside a cache of other data."""
    place = mdm_runs.clone(mdm_checkout.root, tmp_path_factory.mktemp("loop") / "mdm")
    mdm_runs.write_humanml(place, train=12, test=4, parts=True)
    write_clips(place)
    (place / "dataset" / "t2m_train.npy").write_bytes(STALE)
    straight = ("--resume_checkpoint", "straight/model000000003.pt")
    clips = ("--clips", "set", "--crop_frames", "20")
    plan = [
        *arms(("3d", "walked"), few=("2d",)),
        *continuations(),
        seven("elsewhere", *straight),
        seven("other_lr", *straight, "--lr", "0.1"),
        seven("other", *LATEST, "--lr", "0.1", folder="straight"),
        ("unbundled", ["--save_dir", "unbundled", *SMALL, *SEVEN, "--resume_checkpoint", "model000000003.pt"], {}),
        ("goals", ["--save_dir", "goals", *SMALL, "--num_steps", "2", *clips, "--lambda_target_loc", "1"], {}),
        ("uneven", ["--save_dir", "uneven", *SMALL, *clips, "--multi_target_cond", "--crop_frames", "196"], {}),
        ("few", ["--save_dir", "few", *SMALL, *SEVEN, "--batch_size", "64"], {}),
        ("whole_first", whole("--num_steps", "4"), {"kill_file": 3}),
        ("whole", whole("--num_steps", "4", "--overwrite"), {}),
        ("whole_diverged", whole(*OTHER_RATE, "--overwrite", "--lr", "1e30"), {}),
    ]
    (place / "model000000003.pt").write_bytes(b"")
    return SimpleNamespace(place=place, status=drive(place, place, plan))


STALE = b"not what numpy can read"


def whole(*words: str) -> list[str]:
    """A run as MDM makes it, of epochs, on the clips."""
    return ["--save_dir", "whole", *SMALL, "--save_interval", "2", "--clips", "set", "--crop_frames", "20", *words]


def host_of(request: pytest.FixtureRequest, name: str) -> SimpleNamespace:
    return request.getfixturevalue(name)


HOSTS = ("standin", pytest.param("mdm", marks=pytest.mark.mdm))


def output(runs: SimpleNamespace, name: str) -> str:
    return (runs.place / f"{name}.txt").read_text()


def must(runs: SimpleNamespace, name: str) -> list[dict[str, Any]]:
    """-> what the run drew, where it succeeded."""
    assert runs.status[name] == 0, output(runs, name)[-3000:]
    return torch.load(runs.place / f"{name}.drawn")


@pytest.mark.parametrize(
    ("host", "arms"),
    [("standin", ("3d", "2d", "walked")), ("standin", ("few_3d", "few_2d")),
     pytest.param("mdm", ("3d", "walked"), marks=pytest.mark.mdm)],
)  # fmt: skip
def test_all_arms_see_the_same_crops_captions_timesteps_noise_and_hidden_conditions(request, host, arms):
    """Also where there are fewer clips than a batch."""
    runs = host_of(request, host)
    first, *others = (must(runs, arm) for arm in arms)
    assert [draws["step"] for draws in first] == [0, 1, 2, 3]
    for second in others:
        for ours, theirs in zip(first, second, strict=True):
            for name in ("x", "text", "t", "noise"):
                assert same(ours[name], theirs[name]), name
            assert same(ours["masks"][0], theirs["masks"][0])
            assert same(ours["states"][0], theirs["states"][0]), "dropout"


@pytest.mark.parametrize("host", HOSTS)
def test_draws_differ_from_step_to_step_and_conditions_are_hidden_now_and_then(request, host):
    runs = host_of(request, host)
    assert [len(draws["states"]) for draws in must(runs, "3d")] == [1] * 4
    assert 4 in [len(draws["states"]) for draws in must(runs, "walked")], "an arm that walks has passes of its own"
    draws = [draws for name in ("straight", "walked") for draws in must(runs, name)]
    assert len({draw["noise"].sum().item() for draw in draws[:7]}) == 7
    assert len({tuple(draw["t"].tolist()) for draw in draws[:7]}) > 5
    hidden = torch.cat([mask.flatten() for draw in draws for mask in draw["masks"]]).float().mean()
    assert 0 < hidden < 0.4


@pytest.mark.parametrize("host", HOSTS)
def test_with_fewer_clips_than_a_batch_all_of_them_are_trained_on(request, host):
    runs = host_of(request, host)
    draws = must(runs, "few_2d")
    assert [len(step["x"]) for step in draws] == [9] * 4
    assert not same(draws[0]["x"], draws[1]["x"])
    assert "set: 9 training clips, fewer than --batch_size 64; it is 9 instead" in output(runs, "few_2d")
    assert json.loads((runs.place / "few_2d/args.json").read_text())["batch_size"] == 9


@pytest.mark.parametrize(
    ("host", "name"), [("standin", "diverged"), *(pytest.param("mdm", n, marks=pytest.mark.mdm) for n in DIVERGED)]
)
def test_a_run_that_diverges_stops_with_a_message_and_leaves_no_such_number(request, host, name):
    runs = host_of(request, host)
    place = runs.place / name.split("_")[0]
    assert runs.status[name] == 1
    last = "No checkpoint was written before"
    if newest := resume.newest(place):
        last = f"The last good checkpoint is {newest.relative_to(runs.place)}"
    (said,) = re.findall(r"^error: .*", output(runs, name), re.MULTILINE)
    assert re.search(r"the (loss|weight) .* at step \d+; the training stopped\. " + re.escape(last), said), said
    assert "Lower --lr, which is 1e+30" in said
    assert [path.name for path in place.glob("*.pt") if resume.broken_in(path)] == []
    assert newest or name == "diverged"


@pytest.mark.mdm
def test_the_steps_are_exact_and_a_checkpoint_holds_as_many_updates_as_it_says(mdm):
    assert [draws["step"] for draws in must(mdm, "straight")] == list(range(7))
    for name in ("straight", "elsewhere"):
        assert re.findall(r"(\d+)%.*\| (\d+)/(\d+) \[", output(mdm, name))[-1] == ("100", "7", "7"), "the bar"
    names = {path.name for path in (mdm.place / "straight").glob("*.pt")}
    kinds = ("bundle", "model", "opt")
    assert names == {f"{kind}{step:09d}.pt" for kind in kinds for step in (3, 6, 7)}
    for step in (3, 6, 7):
        state = torch.load(mdm.place / f"straight/opt{step:09d}.pt")["state"]
        assert {entry["step"].item() for entry in state.values()} == {step}


@pytest.mark.mdm
def test_a_bundle_holds_what_mdm_saves(mdm):
    bundle, model, opt = (torch.load(mdm.place / f"straight/{kind}000000006.pt") for kind in ("bundle", "model", "opt"))
    for name in ("model", "model_avg"):  # MDM's are an OrderedDict of parameters
        assert same({**bundle[name]}, {key: value.detach() for key, value in model[name].items()})
    assert same(bundle["opt"], opt)
    assert bundle["step"] == 6
    assert json.loads(bundle["args"]) == json.loads((mdm.place / "straight/args.json").read_text())
    assert not same(bundle["model"], bundle["model_avg"])


@pytest.mark.parametrize(
    ("host", "name", "begun"),
    [
        ("standin", "resumed", 3),
        ("standin", "older", 3),
        *(
            pytest.param("mdm", name, begun, marks=pytest.mark.mdm)
            for name, begun in (("kill_file_2", 0), ("kill_file_5", 3), ("elsewhere", 3))
        ),
    ],
)
def test_a_run_that_goes_on_equals_an_uninterrupted_one(request, host, name, begun):
    """From the newest checkpoint after it was killed, or from the one that is named."""
    runs = host_of(request, host)
    assert runs.status.get(f"{name}_first", KILLED) == KILLED
    draws = must(runs, name)
    assert [entry["step"] for entry in draws] == list(range(begun, 7))
    assert same(draws, must(runs, "straight")[begun:])
    if name != "older":  # in the folder of the uninterrupted one
        for kind in ("model", "opt"):
            for path in (runs.place / name).glob(f"{kind}00000000[67].pt"):
                assert same(torch.load(path), torch.load(runs.place / "straight" / path.name)), path.name
        assert (runs.place / name / "model000000007.pt").is_file()
        assert not (runs.place / name / resume.PARTIAL).exists()


def test_without_paired_the_stand_in_has_no_streams_of_ours(standin):
    assert must(standin, "unpaired") == []


OTHER = r"--lr: expected 0\.01 as in straight/(bundle|opt)00000000[37]\.pt, found 0\.1"
AGAIN = r"--save_dir straight: expected no checkpoint.*--resume_checkpoint straight/model000000007\.pt"
REFUSED = {
    "other_lr": OTHER,
    "unbundled": r"--resume_checkpoint model000000003\.pt: expected bundle000000003\.pt with --paired",
    "uneven": "--multi_target_cond with --clips set: expected clips of --crop_frames 196 or more",
    "few": "--batch_size 64: expected as many clips or more, found 18",
}


@pytest.mark.parametrize(
    ("host", "name", "message"),
    [
        *(("standin", *pair) for pair in (("again", AGAIN), ("other", OTHER))),
        *(
            pytest.param("mdm", *pair, marks=pytest.mark.mdm)
            for pair in (("again", AGAIN), ("other", OTHER), *REFUSED.items())
        ),
    ],
)
def test_what_cannot_be_continued_or_begun_is_refused_with_the_option_and_changes_nothing(request, host, name, message):
    runs = host_of(request, host)
    assert runs.status[name] == 1
    assert re.search(f"error: {message}", output(runs, name))
    if name in REFUSED:
        assert not list((runs.place / name).glob("*.pt"))
    args = json.loads((runs.place / "straight/args.json").read_text())
    assert args["lr"] == 0.01
    assert not args["overwrite"] or host == "standin"


def test_a_run_goes_on_from_another_folder_of_its_clips_on_a_cpu_without_vector_instructions(standin, tmp_path):
    """There the last bits are others, and nothing else is."""
    shutil.copytree(standin.place / "set", tmp_path / "moved")
    (tmp_path / "run").mkdir()
    for name in ("args.json", "progress.csv", "model000000003.pt", "opt000000003.pt"):
        shutil.copy2(standin.place / "straight" / name, tmp_path / "run" / name)
    words = seven("run", "--clips", "moved", "--crop_frames", "20", *ARMS["walked"], *LATEST)[1]
    environment = {
        **os.environ,
        "ATEN_CPU_CAPABILITY": "default",
        "PYTHONPATH": str(forks.ROOT),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "videomdm_ext.run", "train.train_mdm", *words]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    places = (standin.place / "straight", tmp_path / "run")
    ours, theirs = (torch.load(place / "model000000007.pt")["model"] for place in places)
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-2)


@pytest.mark.mdm
def test_goals_are_trained_on_clips_where_all_crops_have_one_length(mdm):
    assert mdm.status["goals"] == 0, output(mdm, "goals")[-3000:]
    assert (mdm.place / "goals/model000000000.pt").is_file()


@pytest.mark.mdm
def test_data_are_those_of_now_and_a_cache_of_others_is_left_alone(mdm):
    texts = {text for draws in must(mdm, "straight") for text in draws["text"]}
    assert len(texts) > 7
    assert all(text.startswith("a person") for text in texts)
    assert (mdm.place / "dataset" / "t2m_train.npy").read_bytes() == STALE


@pytest.mark.mdm
def test_without_paired_a_model_never_lies_there_without_its_optimizer(mdm):
    assert mdm.status["whole_first"] == KILLED
    left = json.loads((mdm.place / "whole.found").read_text())
    assert {"opt000000000.pt", "model000000000.pt", "opt000000002.pt"} <= set(left)
    assert "model000000002.pt" not in left
    assert resume.PARTIAL in left


@pytest.mark.mdm
def test_without_paired_mdm_goes_on_by_its_own_rules_and_clears_what_was_cut_off(mdm):
    assert mdm.status["whole"] == 0, output(mdm, "whole")[-3000:]
    names = {path.name for path in (mdm.place / "whole").iterdir()}
    assert {"model000000002.pt", "opt000000002.pt"} <= names
    assert resume.PARTIAL not in names
    assert not any(name.startswith("bundle") for name in names)
    assert torch.load(mdm.place / "whole.drawn") == []
