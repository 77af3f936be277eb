"""Runs a small bench again and again, killing it each time, until it is done: python bench_killer.py FOLDER.

The modules are loaded once; every attempt is a fork, in a state as after a fresh start. An attempt dies right before
or right after one of the next renames of some stage, by which every file gets its place, or by SIGKILL after some time.
tests/soak.py kills more. Prints a line an attempt: how it ended.
"""

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from small_bench import make_plan

from videomdm_ext.bench import plan as plans
from videomdm_ext.bench.plan import Plan
from videomdm_ext.bench.report import figures
from videomdm_ext.bench.run import Bench
from videomdm_ext.data.tasks import Engine

STAGES = {"runs": 5, "samples": 2, "scores": 1}
"""In each of these folders an attempt dies at one of so many renames."""
DIED = 9
"""Exit status of an attempt that died by itself."""


def bench(plan: Plan, out: Path) -> None:
    """All stages; of the report the numbers alone, which come first."""
    figures.sections = lambda results: []  # type: ignore[assignment]
    Bench(plan, out, engine=Engine(processes=0)).run()


def die_at(stage: str, count: int, *, after: bool) -> None:
    """Die at the rename with this number in the folder of a stage, before it or after it."""
    rename, left = os.replace, [count]

    def dying(source: str, target: str) -> None:
        if stage not in Path(target).parts:
            rename(source, target)
            return
        left[0] -= 1
        if left[0] == 0:
            os.write(1, f"at {target}\n".encode())  # past what redirects the output
        if left[0] == 0 and not after:
            os._exit(DIED)
        rename(source, target)
        if left[0] == 0:
            os._exit(DIED)

    os.replace = dying  # type: ignore[assignment]


def attempt(action: Callable[[], None], *, seconds: float | None = None) -> int:
    """Fork, do it there, kill it after some seconds. -> the status that waitpid tells"""
    child = os.fork()
    if child == 0:
        try:
            action()
            os._exit(0)
        except BaseException as error:
            print(f"failed: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    plans.LOGGED = 10  # a checkpoint at step 20 and the last one
    draw = random.Random(20260101)
    plan = make_plan(folder / "data", steps=24)
    started = time.monotonic()
    assert attempt(lambda: bench(plan, folder / "whole")) == 0
    whole = time.monotonic() - started
    status = attempt(lambda: bench(plan, folder / "killed"), seconds=draw.uniform(0.1, 0.3) * whole)
    print("time", "died" if os.WIFSIGNALED(status) else f"ended {status}", flush=True)
    for stage, most in STAGES.items():

        def dying(stage: str = stage, count: int = draw.randint(1, most), after: bool = draw.random() < 0.5) -> None:
            die_at(stage, count, after=after)
            bench(plan, folder / "killed")

        status = attempt(dying)
        print("rename", "died" if os.waitstatus_to_exitcode(status) == DIED else f"ended {status}", flush=True)
    print("last", os.waitstatus_to_exitcode(attempt(lambda: bench(plan, folder / "killed"))), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
