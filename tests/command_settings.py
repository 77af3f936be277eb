"""What is smaller in the process that runs the documents' commands than for their reader, so that none takes long."""

import contextlib
import dataclasses
import functools
import os
import shutil
import tempfile
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import forks
from forked import fork_workers

from videomdm_ext.cli.main import VERBS
from videomdm_ext.mdm import checkout, doctor, text
from videomdm_ext.mdm.speed import measure
from videomdm_ext.supervision import refinement

measured = measure.measure


def measured_once(
    host: checkout.Checkout, sizes: measure.Sizes, watch: Any = None, variants: Any = measure.VARIANTS
) -> measure.Speeds:
    """A training in 3D stands for every variant: each takes a process."""
    found = measured(host, sizes, watch or (lambda done, total: None), ("3d",))
    return dataclasses.replace(found, timings=dict.fromkeys(variants, found.timings["3d"]))


def tried(command: list[str], env: dict[str, str], **_: object) -> SimpleNamespace:
    """What doctor runs in another Python, in a fork."""
    folder = tempfile.mkdtemp()  # a TemporaryDirectory would be gone at the end of the fork
    request = {"words": command[1:], "cwd": folder, "env": env, "log": folder, "timeout": 60, "first": ""}
    status = forks.fork(request)
    out, err = (Path(folder, name).read_text(encoding="utf-8") for name in ("out", "err"))
    shutil.rmtree(folder)
    return SimpleNamespace(returncode=status, stdout=out, stderr=err)


refinement.Refinement = functools.partial(refinement.Refinement, first=2, rounds=0)  # type: ignore[misc,assignment]
measure.measure = measured_once
fork_workers()
doctor.subprocess = SimpleNamespace(run=tried)  # type: ignore[assignment]
doctor.TRY = doctor.TRY.replace("doctor.try_encoders()", "{}")
measure.TOWER |= {"width": 8, "layers": 1, "heads": 1}
for module, *_ in VERBS.values():
    import_module(f"videomdm_ext.{module}")
os.environ["TOKENIZERS_PARALLELISM"] = "false"  # else it warns of forks
text.make_minilm = functools.cache(text.make_minilm)  # all forks share the one that is made here
with contextlib.suppress(ImportError):
    text.make_minilm()
