"""A bench that is killed at any moment goes on, and ends with the numbers of one that was never interrupted."""

import os
from pathlib import Path

import forks
import pytest

HERE = Path(__file__).resolve().parent


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the attempts are forks, which this system does not have")
def test_a_bench_killed_in_every_stage_ends_bit_for_bit_as_an_uninterrupted_one(tmp_path):
    paths = os.pathsep.join(map(str, (HERE, HERE.parent)))
    done = forks.run(["-m", "bench_killer", str(tmp_path)], env={"PYTHONPATH": paths}, timeout=900)
    assert done.returncode == 0, done.stderr
    ends = done.stdout.split("\n")
    assert ends.count("rename died") == 3, done.stdout + done.stderr
    assert ends.count("time died") == 1, done.stdout + done.stderr
    assert "last 0" in ends, done.stderr
    struck = {part for line in ends if line.startswith("at ") for part in Path(line[3:]).parts}
    assert {"runs", "samples", "scores"} <= struck, "some stage was never struck"
    whole, killed = ((tmp_path / name / "metrics.json").read_bytes() for name in ("whole", "killed"))
    assert whole == killed
    assert len(whole) > 5000
