"""Kills a command at random moments, starts it again, and looks at every file: python -m soak VERB FOLDER KILLS [MDM].

What a command needs is imported once, and each attempt is a fork, which SIGKILL ends with all its processes or, every
other time, alone. Where an attempt comes to its end, the result is compared with that of an uninterrupted run, and all
begins anew until there were as many kills. Prints one line of JSON: kills, files looked at, those that cannot be read,
and comparisons with those that found a difference.
"""

import contextlib
import importlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mdm_runs
import numpy as np
import torch
from clips import CARD, make_clip, motion
from small_bench import make_plan, write_set

from videomdm_ext import run
from videomdm_ext.bench import plan as plans
from videomdm_ext.bench.report import figures
from videomdm_ext.bench.run import Bench
from videomdm_ext.cli.main import main as videomdm
from videomdm_ext.data import tasks
from videomdm_ext.data.building import write_folder
from videomdm_ext.data.folder import read_card
from videomdm_ext.data.tasks import Engine
from videomdm_ext.mdm import checkout, hook
from videomdm_ext.mdm.resume import damage_of
from videomdm_ext.supervision import refinement

NAMES = ("dance_a", "walk", "jump", "punch", "kick", "spin")
SIZES = "--layers 1 --latent_dim 32 --ff_size 32 --batch_size 4 --diffusion_steps 20 --text_features words"
TRAIN = f"--paired --num_steps 40 --save_interval 4 --log_interval 2 --clips set --crop_frames 20 {SIZES}"
TRAIN += " --supervision 2d --teacher lifted --resume_checkpoint latest --save_dir"
OTHERS = (
    "seconds.txt", "cost.json", "run.json", "run.log", "files.bin", "args.json", "plan.json", "report.md",
    "report.html",
)  # fmt: skip
"""Files with times, or with the folder's name."""


class Forked(type(multiprocessing.get_context("fork"))):
    """Worker processes that start in a moment."""

    def get_start_method(self, allow_none: bool = False) -> str:
        return "spawn"


def clips(place: Path) -> None:
    members = [make_clip(name=name, texts=(f"to {name}",)) for name in NAMES]
    write_folder(str(place / "set"), {"train": members[:5], "test": members[5:]}, CARD)


def joints(place: Path) -> None:
    for part in ("joints", "texts"):
        (place / "joints" / part).mkdir(parents=True)
    for number in range(24):
        name = f"{NAMES[number % len(NAMES)]}{number}"
        np.save(place / "joints" / "joints" / f"{name}.npy", motion(NAMES[number % len(NAMES)]).numpy())
        (place / "joints" / "texts" / f"{name}.txt").write_text(f"a person does {name}.\n", encoding="utf-8")


def films(place: Path) -> None:
    members = [make_clip(name=name, texts=(f"to {name}",)) for name in NAMES[:3]]
    write_folder(str(place / "set"), {"train": members[:2], "test": members[2:]}, CARD)


def refine(out: str) -> int:
    if not Path(out).exists():  # as it was before: a copy that is there at once
        shutil.copytree("set", f"{out}.new")
        os.rename(f"{out}.new", out)
    return videomdm(["data", "refine", out, "--batch", "2"])


def bench(out: str) -> int:
    plan = make_plan(Path("set"), read_card("set").content_hash, steps=24)
    Bench(plan, Path(out), engine=Engine(processes=2)).run()
    return 0


def train_mdm(root: str) -> Callable[[str], int]:
    hook.use(checkout.open_checkout(Path(root), asked_by="a test"))
    for name in ("utils.model_util", "train.training_loop", "train.train_platforms", "data_loaders.get_data"):
        importlib.import_module(name)
    get_data: Any = sys.modules["data_loaders.get_data"]
    loader = get_data.DataLoader
    get_data.DataLoader = lambda *given, num_workers, **named: loader(*given, num_workers=min(num_workers, 1), **named)
    return lambda out: run.main(["--mdm", root, "train.train_mdm", *TRAIN.replace("--ff_size 32", "").split(), out])


FILM = "--size 320 240 --processes 0"  # no forks beside the threads of what renders and watches
VERBS: dict[str, tuple[Callable[[Path], object], Callable[[str], int]]] = {
    "train": (clips, lambda out: run.main(["train.train_mdm", *TRAIN.split(), out])),
    "train_mdm": (clips, lambda out: 1),
    "import": (joints, lambda out: videomdm(["data", "import", "joints", "joints", "--out", out])),
    "refine": (clips, refine),
    "bench": (lambda place: write_set(place / "set"), bench),
    "film": (films, lambda out: videomdm(["data", "film", "set", "--out", out, *FILM.split()])),
}
"""Of each command: what it needs, made in a folder, and the command that writes the folder OUT there."""


def begin(action: Callable[[], int], log: Path) -> int:
    """Fork and do it there, as the leader of a group of processes. -> its number"""
    child = os.fork()
    if child == 0:
        os.setsid()
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, 1), os.dup2(handle, 2)
        status = 77
        with contextlib.suppress(BaseException):
            status = action()
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(status)
    return child


def readable(path: Path) -> bool:
    """Whether a file that has its name is whole."""
    try:
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix == ".pt":
            torch.load(path, map_location="cpu", weights_only=True)
            return not damage_of(path)
        elif path.suffix == ".npz":
            with zipfile.ZipFile(path) as archive:
                return archive.testzip() is None
        elif path.suffix == ".npy":
            np.load(path)
        elif path.suffix == ".csv":
            return path.read_bytes().endswith(b"\n")
        elif path.suffix == ".mp4":
            with importlib.import_module("imageio").get_reader(path) as film:
                return sum(1 for _ in film) > 0  # its length is infinite
        return path.stat().st_size > 0 or path.name.endswith((".txt", "moving", ".log"))
    except Exception:
        return False


def looked_at(folder: Path) -> list[Path]:
    """Files that anybody reads: no parts, no hidden ones."""
    found = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".part"]
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def content_of(path: Path) -> dict[str, Any]:
    """A checkpoint without its arguments, which name the folder."""
    content = torch.load(path, weights_only=True)
    return {name: value for name, value in content.items() if name != "args"}


def without_name(path: Path, folder: Path) -> bytes:
    """A file's content less the name of the folder that it may name."""
    return path.read_bytes().replace(f"{folder.name}/".encode(), b"")


def same(first: Path, second: Path) -> list[str]:
    """-> what differs in two results."""
    ours, theirs = ({str(p.relative_to(folder)): p for p in looked_at(folder)} for folder in (first, second))
    found = sorted(ours.keys() ^ theirs.keys())
    for name in ours.keys() & theirs.keys():
        one, other = ours[name], theirs[name]
        if name.endswith(".pt"):
            found += mdm_runs.differences(*map(content_of, (one, other)), name)
        elif (
            one.name not in OTHERS and "making" not in name and without_name(one, first) != without_name(other, second)
        ):
            found.append(name)
    return found


def main(verb: str, folder: str, kills: int, root: str = "") -> None:
    torch.set_num_threads(1)
    tasks.get_context = lambda method: Forked()  # type: ignore[assignment, return-value]
    figures.sections = lambda results: []  # type: ignore[assignment]
    plans.LOGGED = 10  # a checkpoint at step 20 and the last one
    brief = refinement.Refinement(first=20, rounds=1, iterations=5)
    refinement.Refinement = lambda: brief  # type: ignore[assignment, misc]
    place = Path(folder).resolve()
    place.mkdir(parents=True, exist_ok=True)
    os.chdir(place)
    prepare, action = VERBS[verb]
    prepare(place)
    if root:
        action = train_mdm(root)
    draw, log = random.Random(verb), place / "log.txt"
    started = time.monotonic()
    if os.waitpid(begin(lambda: action("whole"), log), 0)[1]:
        raise SystemExit(log.read_text(errors="replace")[-3000:])
    whole, out = time.monotonic() - started, place / "killed"
    counts = {"verb": verb, "seconds": round(whole, 1), "kills": 0, "files": 0, "unreadable": [], "compared": 0}
    counts["different"] = []
    begun = 0
    while True:
        child = begin(lambda: action("killed"), log)
        until, ended = time.monotonic() + draw.uniform(0.0, 0.4 * whole), 0
        last = counts["kills"] >= kills
        while not ended and (last or time.monotonic() < until):
            ended, status = os.waitpid(child, os.WNOHANG)
            time.sleep(0.005)
        if not ended:
            group = draw.random() < 0.5
            (os.killpg if group else os.kill)(child, signal.SIGKILL)
            os.waitpid(child, 0)
            counts["kills"] += 1
            begun += 1
            found = looked_at(out) if out.exists() else []
            counts["files"] += len(found)
            counts["unreadable"] += [str(path) for path in found if path.exists() and not readable(path)]
            continue
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        if os.waitstatus_to_exitcode(status):
            raise SystemExit(log.read_text(errors="replace")[-3000:])
        if begun:
            counts["compared"] += 1
            counts["different"] += same(place / "whole", out)
        if last:
            break
        begun = 0
        shutil.rmtree(out)
    print(json.dumps(counts))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), *sys.argv[4:5])
