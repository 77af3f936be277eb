"""The speed benchmark: times add up, every part is shown, and stock MDM and ours end with equal weights."""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import forks
import mdm_runs
import pytest
import torch

from videomdm_ext.cli import main as cli
from videomdm_ext.cli import measuring as verb
from videomdm_ext.errors import HostError
from videomdm_ext.mdm import checkout
from videomdm_ext.mdm.speed import device, measure
from videomdm_ext.mdm.speed.measure import PARTS, PHASES, Clock, Sizes, Speeds, Timing, captions
from videomdm_ext.supervision.unrolling import TimestepBuckets

SMALL = Sizes(batch=4, frames=24, layers=1, width=32, steps=2, threads=1)


def timing(total: float, first: float | None = None, digest: str = "same") -> Timing:
    seconds = dict.fromkeys(PARTS, total / len(PARTS))
    return Timing(
        {PHASES[0]: {**seconds, "total": first or total}, PHASES[1]: {**seconds, "total": total}}, digest=digest
    )


ONCE = "3d --encode_once"
SPEEDS = Speeds(
    SMALL, {"stock": timing(6.0), "3d": timing(2.0, 3.0), ONCE: timing(1.0, 2.0), "2d": timing(2.2, 3.6)}, "CPU", "CLIP"
)


def test_ratios_are_of_total_times_in_each_phase():
    assert SPEEDS.ratios() == pytest.approx(
        {
            "stock / 3d, first epoch": 2.0,
            "stock / 3d, later epochs": 3.0,
            "stock / 3d --encode_once, first epoch": 3.0,
            "stock / 3d --encode_once, later epochs": 6.0,
            "3d / 3d --encode_once, first epoch": 1.5,
            "3d / 3d --encode_once, later epochs": 2.0,
            "2d / 3d, first epoch": 1.2,
            "2d / 3d, later epochs": 1.1,
        }
    )


def test_the_table_shows_every_part_of_every_variant_and_different_weights(capsys):
    assert SPEEDS.same_weights
    verb._show_speeds(Speeds(SMALL, {**SPEEDS.timings, "stock": timing(6.0, digest="other")}, "CPU", "CLIP"))
    shown = capsys.readouterr().out
    assert "after these steps: different" in shown
    for part in (*PARTS, "total", "stock MDM", "3d", "2d, no unrolling", "first epoch", "later epochs"):
        assert part in shown, part
    assert "8 captions" in shown
    assert Speeds(SMALL, {"3d": timing(1.0), "2d": timing(1.0)}, "CPU", "CLIP").same_weights is None


def test_captions_are_new_in_every_step_and_the_same_in_every_phase():
    first, again = ([captions(SMALL, f"{phase}/{step}") for step in range(2)] for phase in PHASES)
    assert first == again
    every = [text for step in [*first, captions(SMALL, "warm-up")] for text in step]
    assert len(set(every)) == len(every) == 12
    assert len(every) - SMALL.batch == SMALL.pool


def test_a_parts_time_excludes_the_parts_within():
    clock = Clock()
    inner = clock.timed("inner", lambda: time.sleep(0.05))

    def both() -> None:
        time.sleep(0.02)
        inner()
        inner()

    start = time.perf_counter()
    clock.timed("outer", both)()
    took = time.perf_counter() - start
    assert clock.seconds["inner"] >= 0.1
    assert clock.seconds["outer"] >= 0.02
    assert clock.seconds["inner"] + clock.seconds["outer"] <= took


def test_cpu_time_does_not_count_what_others_do_meanwhile():
    clock = Clock(cpu_time=True)
    clock.timed("waiting", lambda: time.sleep(0.1))()
    clock.timed("computing", lambda: sum(range(300_000)))()
    assert clock.seconds["waiting"] < 0.02
    assert clock.seconds["computing"] > 0


def test_an_edited_checkout_has_no_stock_mdm(tmp_path):
    (tmp_path / "utils").mkdir()
    (tmp_path / "utils" / "parser_util.py").write_text(checkout.LINE)
    with pytest.raises(HostError, match=f"videomdm uninstall --mdm {tmp_path}"):
        measure.measure(checkout.Checkout(tmp_path, None, "mdm"), SMALL)


def test_without_mdm_and_with_sizes_that_cannot_be_timed_the_message_says_what_to_do(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("VIDEOMDM_MDM_ROOT", str(tmp_path))
    assert cli.main(["bench", "speed"]) == 1
    assert "Or time the stand-in with --standin" in capsys.readouterr().err
    for words in (["--batch", "0"], ["--frames", "15"], ["--width", "30"], ["--steps", "0"]):
        assert cli.main(["bench", "speed", *words]) == 1
        assert "--batch, --layers, --steps, --many: expected 1 or more" in capsys.readouterr().err


def test_a_process_that_fails_is_an_error_with_its_last_words(tmp_path):
    broken = checkout.Checkout(tmp_path, None, "standin")
    (tmp_path / "plan.json").write_text("{}")
    with measure.worker(tmp_path, "3d", broken, SMALL) as ask, pytest.raises(HostError, match=r"timing 3d .* KeyError"):
        ask("warm-up")


FORKED = """
from pathlib import Path
import forked
import torch
from videomdm_ext.mdm import checkout
from videomdm_ext.mdm.speed import device, measure
from videomdm_ext.mdm.speed.measure import Sizes

forked.fork_workers()
measure.text.clip_path = lambda: Path("none.pt")
measure.TOWER = {"width": 64, "layers": 2, "heads": 2}
"""
"""What is timed in new processes is timed in forks, with a small tower."""


def found(program: str, place: Path) -> Any:
    """-> what a program of forks has saved as `found`."""
    env = {**mdm_runs.PLAIN, "PYTHONPATH": str(Path(forks.__file__).parent)}
    done = forks.run(["-W", "ignore", "-c", FORKED + program], cwd=place, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(place / "found", weights_only=False)


def check(speeds: Speeds, variants: tuple[str, ...]) -> None:
    assert tuple(speeds.timings) == variants
    for timed in speeds.timings.values():
        for phase in PHASES:
            seconds = timed.seconds[phase]
            assert set(seconds) == {*PARTS, "total"}
            assert all(seconds[part] > 0 for part in seconds)
            assert max(seconds[part] for part in PARTS) < seconds["total"]


@pytest.mark.slow
def test_what_a_gpu_has_to_show_is_measured_on_a_cpu_at_a_small_size_with_the_times_of_the_stand_in(tmp_path):
    program = f"""
import functools
from videomdm_ext.supervision import refinement
refinement.Refinement = functools.partial(refinement.Refinement, first=2, rounds=0)
watched, measured, own = [], [], measure.measure
measure.measure = lambda *given: measured.append(own(*given)) or measured[-1]
sizes = {dataclasses.replace(SMALL, many=5, steps=1)}
table = device.report(checkout.standin(), sizes, lambda done, total: watched.append(total - done))
torch.save((watched, measured[0], table), "found")
"""
    watched, speeds, table = found(program, tmp_path)
    assert watched == [2, 1, 0]
    check(speeds, tuple(name for name in device.VARIANTS if name != "stock"))
    assert speeds.timings["3d"].digest != speeds.timings["2d"].digest
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.count("|") == 4]
    cells = {row[0]: row[1] for row in rows if len(row) > 1}
    assert float(cells["parity with the CPU: loss after 10 steps, relative"]) == 0, "here both are the CPU"
    assert float(cells["objective: apart from its plain translation, relative"]) < 1e-4
    assert {"3d: a step", "2d: a step", "2d, unrolled: a step", "5 motions sampled", "5 clips refined"} <= cells.keys()
    assert TimestepBuckets.of(measure.TWICE.unroll_below, measure.TWICE.unroll_steps, 50).top > 0.9 * 50
    assert "1 threads" in table.splitlines()[0]


@pytest.mark.mdm
@pytest.mark.slow
def test_stock_mdm_and_ours_in_3d_take_the_same_steps_and_text_is_encoded_once_where_that_is_asked_for(
    mdm_checkout, monkeypatch, tmp_path
):
    monkeypatch.setenv("VIDEOMDM_TEXTS", str(tmp_path / "texts"))
    program = f"""
sizes = {dataclasses.replace(SMALL, cpu_time=True)}
found = measure.measure(checkout.find({str(mdm_checkout.root)!r}), sizes, variants=("stock", "3d", {ONCE!r}))
torch.save(found, "found")
"""
    speeds = found(program, tmp_path)
    assert not (tmp_path / "texts").exists(), "captions of the first epoch are new, whatever was measured before"
    check(speeds, ("stock", "3d", ONCE))
    assert speeds.same_weights
    text = {name: timed.seconds["later epochs"]["text encoding"] for name, timed in speeds.timings.items()}
    assert text[ONCE] < 0.5 * min(text["stock"], text["3d"])
    stored = json.loads(speeds.as_json())
    assert stored["same_weights"]
    assert stored["timings"]["stock"]["seconds"]["later epochs"]["total"] > 0
