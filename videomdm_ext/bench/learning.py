"""Scores over training steps, on validation clips alone; with --select the checkpoint that they choose."""

import json
import math
from pathlib import Path

from videomdm_ext.bench.jury import Jury
from videomdm_ext.bench.plan import Run
from videomdm_ext.bench.results import Curve
from videomdm_ext.data.files import write_bytes
from videomdm_ext.errors import ConfigError


def progress(run: Run, jury: Jury) -> Curve | None:
    """The scores at the steps of the curve, or None for a training without one."""
    steps = [] if run.equal_passes else run.plan.curve_steps
    if not steps:
        return None
    rows = [jury.curve_point(run, step) for step in steps]
    names = [name for name in rows[0] if all(name in row for row in rows) and name != "clips"]
    return Curve(steps, {name: [row[name] for row in rows] for name in names})


def select(run: Run, out: Path, jury: Jury) -> int:
    """The step whose samples for validation captions have the least error in `plan.select`; the earliest of equals."""
    metric = run.plan.select
    found = progress(run, jury)
    if found is None or metric not in found.terms:
        known = ", ".join(found.terms) if found else "none"
        raise ConfigError(f"--select: expected a metric that is scored here ({known}), found {metric!r}.")
    calibration = jury.calibration("val")
    errors = [calibration.error(metric, value) for value in found.terms[metric]]
    best = min(range(len(errors)), key=lambda index: (not math.isfinite(errors[index]), errors[index]))
    content = {
        "step": found.steps[best],
        "metric": metric,
        "split": "val",
        "errors": [error if math.isfinite(error) else None for error in errors],
    }
    write_bytes(str(run.chosen(out)), (json.dumps(content, indent=2) + "\n").encode())
    return found.steps[best]
