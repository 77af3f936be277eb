"""Run commands of the documents, each in a fork of this process, which has imported what takes long.

Reads a line of JSON for each command (words, folder, log, env; its PYTHONPATH is one more folder of packages) and
answers with a line, its exit status and the seconds of the processor that it took.
"""

import contextlib
import dataclasses
import functools
import json
import os
import runpy
import sys
import traceback
from importlib import import_module
from typing import Any

from forked import fork_workers

from videomdm_ext.cli.main import VERBS, main
from videomdm_ext.mdm import checkout, doctor, text
from videomdm_ext.mdm.speed import measure
from videomdm_ext.supervision import refinement


def run(words: list[str]) -> int:
    """A command: ours, a module of Python, or a file of Python."""
    sys.argv = words[2:] if words[1] == "-m" else words[1:]
    try:
        if words[0] == "videomdm":
            return main(words[1:])
        sys.path.insert(0, os.getcwd() if words[1] == "-m" else os.path.dirname(os.path.abspath(words[1])))
        if words[1] == "-m":
            runpy.run_module(words[2], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(words[1], run_name="__main__")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return 0


def measured_once(
    host: checkout.Checkout,
    sizes: measure.Sizes,
    watch: Any = None,
    variants: Any = (),
    measured: Any = measure.measure,
) -> measure.Speeds:
    """A training in 3D stands for every variant: each takes a process."""
    found: measure.Speeds = measured(host, sizes, watch or (lambda done, total: None), ("3d",))
    return dataclasses.replace(found, timings=dict.fromkeys(variants or measure.VARIANTS, found.timings["3d"]))


def child(request: dict[str, Any]) -> None:
    """Carry one command out, with everything that it prints in its log, and leave."""
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.chdir(request["folder"])
    os.environ.update(request["env"])
    sys.path.append(request["env"]["PYTHONPATH"])
    status = 1
    try:
        status = run(request["words"])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    refinement.Refinement = functools.partial(refinement.Refinement, first=2, rounds=0)  # type: ignore[misc,assignment]
    measure.measure = measured_once  # type: ignore[assignment]
    fork_workers()
    doctor.TRY = doctor.TRY.replace("doctor.try_encoders()", "{}")
    measure.TOWER |= {"width": 8, "layers": 1, "heads": 1}
    for verb_module, *_ in VERBS.values():
        import_module(f"videomdm_ext.{verb_module}")
    for module in ("roma", "matplotlib.figure", "matplotlib.backends.backend_agg", "scipy.stats", "scipy.optimize"):
        with contextlib.suppress(ImportError):
            import_module(module)
    with contextlib.suppress(ImportError):
        text.make_minilm()
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            child(json.loads(line))
        _, status, used = os.wait4(pid, 0)
        print(os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime, flush=True)
