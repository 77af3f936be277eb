"""`videomdm bench` turns its options into a plan, and says what cannot be before any work."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from videomdm_ext.bench.run import Bench
from videomdm_ext.cli import benchmarking
from videomdm_ext.cli.main import main
from videomdm_ext.errors import ConfigError

CARD = SimpleNamespace(content_hash="abc")


@pytest.fixture
def asked(monkeypatch) -> list[Bench]:
    """-> the benches that were asked for; none is carried out."""
    found: list[Bench] = []
    monkeypatch.setattr(benchmarking, "read_card", lambda path: CARD)
    monkeypatch.setattr(benchmarking, "show", lambda *a: 0)
    monkeypatch.setattr(Bench, "run", lambda self: (found.append(self), (None, None))[1])
    return found


def test_the_options_become_the_plan(asked, tmp_path):
    words = ["--dataset", "set", "--arms", "3d,2d", "--seeds", "2", "--steps", "900", "--lr", "0.01"]
    words += ["--replications", "3", "--samples", "40", "--curve", "4", "--select", "pose_frechet", "--equal-passes"]
    words += ["--crop-frames", "48", "--text-features", "words", "--reference", "test", "--windows", "7"]
    words += ["--average", "0.9"]
    words += ["--without", "t2m,views-2d", "--primary", "jitter", "--out", str(tmp_path), "--workers", "1"]
    assert benchmarking.bench(words) == 0
    (made,) = asked
    plan = made.plan
    assert (plan.clips, plan.content, plan.arms, plan.seeds, plan.steps) == ("set", "abc", ("3d", "2d"), 2, 900)
    assert (plan.learning_rate, plan.average, plan.crop_frames, plan.text_features) == (0.01, 0.9, 48, "words")
    assert (plan.replications, plan.samples, plan.windows, plan.reference) == (3, 40, 7, "test")
    assert (plan.curve, plan.select, plan.equal_passes) == (4, "pose_frechet", True)
    assert (plan.without, plan.primary) == (("t2m", "views-2d"), ("jitter",))
    assert (made.out, made.engine.processes, made.command) == (tmp_path, 1, ["videomdm", "bench", *words])


def test_the_defaults_are_the_protocols_and_too_few_samples_for_groups_of_32_are_reported(asked, capsys):
    benchmarking.bench(["--dataset", "some/set", "--text-features", "words"])
    assert "groups" not in capsys.readouterr().out
    (made,) = asked
    assert made.plan.arms == ("3d", "lifted", "refined", "2d")
    assert (made.plan.seeds, made.plan.replications, made.plan.curve, made.plan.select) == (3, 20, 0, "")
    assert made.plan.without == ()
    assert str(made.out) == "runs/bench-set"
    benchmarking.bench(["--dataset", "set", "--samples", "20", "--text-features", "words"])
    assert "groups of 20" in capsys.readouterr().out


@pytest.mark.parametrize("arms", [["3d,2d"], ["3d", "2d"], ["3d, ", "2d,"]])
def test_lists_take_commas_or_spaces_and_may_be_empty(asked, arms):
    benchmarking.bench(["--dataset", "set", "--text-features", "words", "--arms", *arms, "--without", ""])
    (made,) = asked
    assert (made.plan.arms, made.plan.without) == (("3d", "2d"), ())


def test_the_published_protocol_gets_the_other_words_and_another_one_is_refused(monkeypatch):
    got: list[Path | None] = []
    monkeypatch.setattr(benchmarking.Protocol, "__call__", lambda options: got.append(options.out) or 4)
    assert benchmarking.bench(["--protocol=mdm", "--out", "x"]) == 4
    assert got == [Path("x")]
    with pytest.raises(ConfigError, match="--protocol: expected mdm, found mas"):
        benchmarking.bench(["--protocol", "mas"])


@pytest.mark.parametrize("content", [None, "{", "[]", "{}", '{"arms": 3}', '{"arms": [], "colour": "red"}'])
def test_a_folder_without_a_plan_is_an_error_that_names_the_file(tmp_path, capsys, content):
    if content is not None:
        (tmp_path / "plan.json").write_text(content, encoding="utf-8")
    for verb in ("bench score", "bench report", "bench validate", "report"):
        assert main([*verb.split(), str(tmp_path)]) == 1
        assert "plan.json: expected the plan of a comparison" in capsys.readouterr().err
