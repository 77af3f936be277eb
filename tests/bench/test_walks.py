"""How the demo's samples walk: docs/measure_walks.py tells a walker from who glides, stands or steps on the spot."""

import dataclasses
import math
import runpy
import sys
from pathlib import Path

import pytest
import torch
from clips import make_clip
from small_bench import CARD, make_plan

from videomdm_ext.bench.fairness import write_plan
from videomdm_ext.bench.run import complete
from videomdm_ext.data.building import write_folder
from videomdm_ext.motion.skeletons import SMPL22

SCRIPT = str(Path(__file__).parents[2] / "docs" / "measure_walks.py")


def walker(speed: float, rate: float, stride: float, towards: float = 0.7) -> torch.Tensor:
    """Two seconds at 20 frames a second of somebody whose ankles pass each other `rate` times a second."""
    time = torch.arange(41) / 20.0
    ahead = torch.tensor((math.sin(towards), 0.0, math.cos(towards)))
    aside = torch.tensor((math.cos(towards), 0.0, -math.sin(towards)))
    motion = (speed * time)[:, None, None] * ahead + torch.zeros(41, 22, 3)
    for side, sign in (("l", 1.0), ("r", -1.0)):
        swing = 0.5 * stride * torch.sin(math.pi * rate * (time + 0.1))[:, None]
        for joint in ("hip", "ankle", "foot"):
            motion[:, SMPL22.index(f"{side}_{joint}")] += 0.1 * sign * aside
        for joint in ("ankle", "foot"):
            motion[:, SMPL22.index(f"{side}_{joint}")] += sign * swing * ahead
    return motion


@pytest.mark.parametrize(
    ("speed", "rate", "stride"), [(1.0, 1.5, 0.6), (1.5, 2.0, 0.8), (0.0, 1.5, 0.6), (1.0, 1.5, 0.0), (0.0, 1.0, 0.0)]
)
@pytest.mark.parametrize("towards", [0.0, 0.7, 3.0])
def test_speed_steps_and_their_length_are_those_of_the_walk(speed, rate, stride, towards):
    found = runpy.run_path(SCRIPT)["figures"](walker(speed, rate, stride, towards), 20.0)
    assert found[0] == pytest.approx(speed, abs=1e-5)
    assert found[1] == pytest.approx(rate if stride else 0.0, abs=0.5)
    assert found[2] == pytest.approx(stride, rel=0.1, abs=1e-6)
    assert found[3] == pytest.approx(speed, rel=0.1) if not stride else found[3] > 0


def test_a_training_has_a_row_and_a_folder_without_a_walk_is_refused(tmp_path, monkeypatch, capsys):
    clips = [make_clip(name=name, texts=("a person walks forward.",)) for name in ("walk", "jump", "punch", "dance_a")]
    card = write_folder(str(tmp_path / "set"), {"train": clips, "test": [make_clip(name="dance_b")]}, CARD)
    plan = make_plan(tmp_path / "set", card.content_hash, arms=("3d",), steps=2, batch_size=2)
    write_plan(plan, tmp_path / "bench", card)
    complete(plan.runs()[0], tmp_path / "bench", lambda run, out: None)
    monkeypatch.setattr(sys, "argv", [SCRIPT, str(tmp_path / "bench")])
    runpy.run_path(SCRIPT, run_name="__main__")
    title, truth, row = capsys.readouterr().out.splitlines()
    assert title.split() == ["training", "speed", "steps", "length", "skating"]
    assert "steps/s" in truth
    assert row.startswith("3d-0 ")
    assert len([float(word) for word in row.split()[1:5]]) == 4
    others = [dataclasses.replace(clip, texts=("to dance",)) for clip in clips]
    card = write_folder(str(tmp_path / "others"), {"train": others, "test": [make_clip(name="dance_b")]}, CARD)
    write_plan(make_plan(tmp_path / "others", card.content_hash, arms=("3d",)), tmp_path / "still", card)
    monkeypatch.setattr(sys, "argv", [SCRIPT, str(tmp_path / "still")])
    with pytest.raises(SystemExit, match="expected training clips with the caption"):
        runpy.run_path(SCRIPT, run_name="__main__")
