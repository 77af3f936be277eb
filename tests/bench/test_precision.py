"""What a saving costs: nothing where nothing is saved, something of bf16, and a sentence where it cannot be had."""

from __future__ import annotations

import sys

import pytest
import small_bench
import torch

from videomdm_ext.bench import precision
from videomdm_ext.cli import main as cli


@pytest.fixture
def _run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small_bench.write_set("set")
    sizes = ["--num_steps", "2", "--layers", "1", "--latent_dim", "32", "--diffusion_steps", "8", "--batch_size", "4"]
    words = ["--text_features", "words", "--device", "-1", "--save_dir", "run"]
    assert cli.main(["train", "--arm", "3d", "--clips", "set", *sizes, *words]) == 0


@pytest.mark.slow
@pytest.mark.usefixtures("_run")
def test_savings_are_set_beside_full_precision_and_beside_other_noise(monkeypatch, capsys):
    savings = {"nothing": (), **precision.SAVINGS}
    del savings["--compile_model"]
    monkeypatch.setattr(precision, "SAVINGS", savings)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cli.main(["bench", "precision", "--run", "run", "--evaluator", "none"]) == 1
    assert "--evaluator: expected one of essential, views-2d" in capsys.readouterr().err
    argv, before = list(sys.argv), torch.get_float32_matmul_precision()
    words = ["--run", "run", "--count", "12", "--evaluator", "essential", "--out", "it.md"]
    assert cli.main(["bench", "precision", *words]) == 0
    assert (sys.argv, torch.get_float32_matmul_precision()) == (argv, before)
    shown = capsys.readouterr().out
    rows = {cells[0]: cells[1:] for line in shown.splitlines() if len(cells := line.strip("| ").split(" | ")) > 1}
    assert rows.pop("--tf32")[0] == "no GPU here"
    numbers = {name: [float(cell) for cell in cells] for name, cells in rows.items() if name in savings}
    assert numbers["nothing"][:3] == pytest.approx([0, 0, 0], abs=1e-6)
    assert 0 < numbers["--autocast bf16"][2] < numbers[precision.OTHER_NOISE][2]
    assert numbers["--one_pass_guidance"][1] < 1e-3
    assert numbers[precision.OTHER_NOISE][0] > numbers["--autocast bf16"][0]
    assert (precision.Path("it.md")).read_text() in shown


def test_what_cannot_be_measured_is_refused(capsys):
    assert cli.main(["bench", "precision", "--run", "none", "--count", "1"]) == 1
    assert "--count: expected 2 or more motions" in capsys.readouterr().err
