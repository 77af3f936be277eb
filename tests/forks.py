"""Python programs in forks of one process that has imported what takes long, in place of `subprocess.run`.

A fork has its own folder, environment, path, arguments, random numbers and files to print into, and no module of a
host or of an optional package that the process has not imported for it.
"""

import atexit
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
IMPORTED = (
    "blobfile", "matplotlib.animation", "matplotlib.backends.backend_agg", "matplotlib.pyplot", "mpl_toolkits.mplot3d",
    "roma", "scipy.linalg", "scipy.ndimage", "scipy.optimize", "scipy.stats", "torch.utils.data",
    "videomdm_ext.cli.main", "videomdm_ext.cli.sampling", "videomdm_ext.mdm.doctor", "videomdm_ext.mdm.hook",
    "videomdm_ext.run",
)  # fmt: skip


class Server:
    """A process that has imported IMPORTED, run the code `first`, and forks for each program."""

    def __init__(self, python: str = sys.executable, first: str = "") -> None:
        known = {name: value for name, value in os.environ.items() if not name.startswith("VIDEOMDM_")}
        known |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([python, __file__, first], env=known, stdin=pipe, stdout=pipe, text=True)
        atexit.register(self.process.communicate)

    def run(
        self,
        words: list[str],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str | None] | None = None,
        first: str = "",
        timeout: int = 600,
    ) -> subprocess.CompletedProcess[str]:
        """`python WORDS` with the environment of this process but for `env`, where None takes a variable away.

        The code `first` is run before, in the same process.
        """
        known = {name: value for name, value in {**os.environ, **(env or {})}.items() if value is not None}
        with tempfile.TemporaryDirectory() as folder:
            request = {"words": words, "cwd": str(cwd or Path.cwd()), "env": known, "log": folder}
            request |= {"timeout": timeout, "first": first}
            assert self.process.stdin is not None
            assert self.process.stdout is not None
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            status = int(self.process.stdout.readline())
            out, err = ((Path(folder) / name).read_text(encoding="utf-8", errors="replace") for name in ("out", "err"))
        return subprocess.CompletedProcess(words, status, out, err)


@cache
def server() -> Server:
    """The server of each process of pytest."""
    return Server()


def run(words: list[str], **given: Any) -> subprocess.CompletedProcess[str]:
    """`Server.run` by the server of this process."""
    return server().run(words, **given)


def fork(request: dict) -> int:
    """Carry out one program in a fork. -> its exit status"""
    pid = os.fork()
    if pid == 0:
        child(request)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def child(request: dict) -> None:
    """Carry out one program and leave."""
    import importlib
    import random
    import signal
    from multiprocessing import util

    import numpy as np
    import torch

    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for stream, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(os.path.join(request["log"], name), os.O_WRONLY | os.O_CREAT), stream)
    signal.alarm(request["timeout"])
    sys.dont_write_bytecode = True
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    paths = [path for path in request["env"].get("PYTHONPATH", "").split(os.pathsep) if path and path not in sys.path]
    sys.path[:0] = paths
    importlib.invalidate_caches()
    random.seed(), np.random.seed(), torch.seed()
    status = 0
    try:
        exec(request["first"], {})
        start(request["words"])
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    atexit._run_exitfuncs()
    sys.stdout.flush(), sys.stderr.flush()
    util._exit_function()
    os._exit(status)


def start(words: list[str]) -> None:
    """-W FILTER, then -c CODE, -m MODULE or FILE, and arguments."""
    import runpy
    import warnings
    from types import ModuleType

    if words[0] == "-W":
        warnings.simplefilter(words[1])
        words = words[2:]
    sys.argv = words[1:]
    if words[0] == "-m":
        sys.path.insert(0, os.getcwd())
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] != "-c":
        sys.argv = words
        sys.path.insert(0, os.path.dirname(os.path.abspath(words[0])))
        runpy.run_path(words[0], run_name="__main__")
    else:
        sys.argv[0] = "-c"
        sys.path.insert(0, "")
        sys.modules["__main__"] = ModuleType("__main__")
        exec(compile(words[1], "<string>", "exec", dont_inherit=True), vars(sys.modules["__main__"]))


def serve(first: str) -> None:
    """Fork for each line of the standard input and answer with the exit status."""
    from importlib import import_module

    sys.path.pop(0)
    for name in IMPORTED:
        with contextlib.suppress(ImportError):  # of an extra that this Python lacks
            import_module(name)
    import_module("torch").set_num_threads(1)
    exec(first, {})
    for line in sys.stdin:
        print(fork(json.loads(line)), flush=True)


if __name__ == "__main__":
    serve(sys.argv[1])
