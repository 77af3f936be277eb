"""What times a variant in a new process, as a fork of the one that starts it, which has imported what takes long."""

import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from videomdm_ext.mdm.speed import measure


class Forked:
    """In place of subprocess.Popen in `measure.worker`."""

    returncode: int | None = None

    def __init__(self, command: list[str], *, cwd: Path, env: dict[str, str], stderr: Any, **_: object) -> None:
        (read, asked), (answered, write) = os.pipe(), os.pipe()
        self.pid = os.fork()
        if not self.pid:
            for place, stream in enumerate((read, write, stderr.fileno())):
                os.dup2(stream, place)
            os.chdir(cwd), os.environ.update(env)
            sys.stdin = os.fdopen(0)
            measure.main(Path(command[-2]), command[-1])
            os._exit(0)
        os.close(read), os.close(write)
        self.stdin, self.stdout = os.fdopen(asked, "wb"), os.fdopen(answered, "rb")

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> None:
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def fork_workers() -> None:
    """Have `measure` fork from now on."""
    measure.subprocess = SimpleNamespace(Popen=Forked, PIPE=None)  # type: ignore[attr-defined]
