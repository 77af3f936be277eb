"""A bench from its data to its report: what is there stays, scores are kept by hash, the curve reads val alone."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from small_bench import make_plan

from videomdm_ext.bench import provenance, scoring
from videomdm_ext.bench import run as engine
from videomdm_ext.bench.evaluators.base import Evaluator, UnavailableError
from videomdm_ext.bench.plan import Plan, Run, read_plan
from videomdm_ext.bench.reference import motion, read_reference, start_of
from videomdm_ext.bench.report import figures
from videomdm_ext.bench.run import Bench
from videomdm_ext.cli import benchmarking
from videomdm_ext.data.folder import read_folder, write_folder
from videomdm_ext.errors import ConfigError, VideoMDMError
from videomdm_ext.inference.sample import read_motions

pytestmark = pytest.mark.usefixtures("borrowed_process")


@pytest.fixture(scope="module", autouse=True)
def _without_pictures() -> Any:
    """No pictures are drawn here; test_comparison looks at them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "sections", lambda results, data: [])
        yield


@pytest.fixture(scope="module")
def plan(tmp_path_factory) -> Plan:
    """-> a plan with a curve, a choice by it, and an arm that unrolls, trained again with equal passes."""
    folder = tmp_path_factory.mktemp("bench") / "data"
    arms = ("3d", "paper")
    return make_plan(folder, arms=arms, steps=50, curve=2, select="pose_frechet", equal_passes=True)


@pytest.fixture(scope="module")
def out(plan, borrowed_process, tmp_path_factory) -> Path:
    """-> the folder of the bench, done."""
    folder = tmp_path_factory.mktemp("bench") / "out"
    Bench(plan, folder, workers=0, command=["videomdm", "bench"]).run()
    return folder


def content(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "metrics.json").read_text("utf-8")))


def contents(folder: Path) -> dict[str, int]:
    """-> when each file was last written."""
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def test_a_bench_leaves_every_file_of_its_plan_and_nothing_to_complain_about(plan, out):
    assert provenance.problems(out) == []
    assert [arm["name"] for arm in content(out)["arms"]] == ["3d", "paper", "paper, equal passes"]
    for arm in content(out)["arms"]:
        (training,) = arm["trainings"]
        assert len(training["replications"]) == 2
        pair = [row["pose_frechet"] for row in training["replications"]]
        assert pair[0] != pair[1]
        assert training["metrics"]["pose_frechet"] == pytest.approx(sum(pair) / 2)
        assert training["parameters"] > 1000
    assert content(out)["arms"][2]["equal_passes_of"] == "paper"
    run = json.loads((out / "run.json").read_text("utf-8"))
    assert run["command"] == ["videomdm", "bench"]
    assert run["runs"]["3d-0"]["arguments"] == Run(plan, "3d", 0).arguments(out)
    assert run["runs"]["3d-0"]["samples_seen"] == 200
    assert run["dataset"]["content_hash"] == plan.content
    assert "seconds" not in (out / "metrics.json").read_text("utf-8")


def test_replications_share_captions_and_noise_over_arms_and_differ_among_each_other(plan, out):
    found = [read_motions(out / "samples" / name / "000.npz") for name in ("3d-0", "paper-0")]
    assert found[0][1] == found[1][1]
    assert [len(m) for m in found[0][0]["samples"]] == [len(m) for m in found[1][0]["samples"]]
    other = read_motions(out / "samples" / "3d-0" / "001.npz")
    assert other[1] == found[0][1]
    assert not torch.equal(other[0]["samples"][0], found[0][0]["samples"][0])
    two = dataclasses.replace(plan, seeds=2).runs()
    assert {run.noise_seed(1) for run in two} == {1}
    single = dataclasses.replace(plan, seeds=2, replications=1).runs()
    assert [run.noise_seed(0) for run in single] == [run.seed for run in single]


def test_a_second_start_writes_the_report_alone_with_equal_bytes(plan, out):
    before, metrics = contents(out), (out / "metrics.json").read_bytes()
    Bench(plan, out, workers=0).run()
    changed = {name for name, when in contents(out).items() if before.get(name) != when}
    assert not [name for name in changed if name.split("/")[0] in ("runs", "samples", "scores", "plan.json")]
    assert (out / "metrics.json").read_bytes() == metrics
    assert json.loads((out / "run.json").read_text("utf-8"))["command"] == ["videomdm", "bench"]


def test_scores_are_made_again_where_their_samples_changed_and_nowhere_else(plan, out, tmp_path):
    copy = shutil.copytree(out, tmp_path / "copy")
    (copy / "samples" / "3d-0" / "001.npz").write_bytes((copy / "samples" / "3d-0" / "000.npz").read_bytes())
    (copy / "scores" / "3d-0" / "heldout.json").write_text("{cut", encoding="utf-8")
    before = contents(copy / "scores")
    Bench(plan, copy).score()
    changed = {name for name, when in contents(copy / "scores").items() if before[name] != when}
    assert changed == {f"3d-0/{name}.json" for name in ("001", "several", "owndata", "heldout")}
    one, two = (json.loads((copy / "scores/3d-0" / name).read_text("utf-8")) for name in ("000.json", "001.json"))
    assert one["scores"] == two["scores"]
    assert any("changed since run.json" in problem for problem in provenance.problems(copy))


def test_scoring_anew_writes_every_score_and_the_same_ones(plan, out, tmp_path):
    copy = shutil.copytree(out, tmp_path / "copy")
    before, times = (copy / "metrics.json").read_bytes(), contents(copy / "scores")
    assert benchmarking.score([str(copy)]) == 0
    assert all(times[name] != when for name, when in contents(copy / "scores").items())
    assert (copy / "metrics.json").read_bytes() == before


def test_another_judge_or_another_reference_makes_all_scores_again(plan, out, monkeypatch):
    key = scoring.make_scoring(plan, out)._key("train")
    assert key == scoring.make_scoring(plan, out)._key("train")
    assert key != scoring.make_scoring(plan, out)._key("val")
    assert key != scoring.make_scoring(dataclasses.replace(plan, windows=3), out)._key("train")

    class Heights(Evaluator):
        name = "heights"
        comparable = "nothing"
        identity = "abc"

        def motions(self, clips, fps):
            return torch.stack([clip[..., 1].mean(0) for clip in clips])

    def missing(ground):
        raise UnavailableError("no weights")

    monkeypatch.setattr(scoring.plugins, "collect", lambda *a: {"heights": lambda ground: Heights(), "far": missing})
    judged = scoring.make_scoring(plan, out)
    assert judged._key("train") != key
    assert judged.missing == {"far": "no weights"}
    assert scoring.make_scoring(dataclasses.replace(plan, without=("heights", "far")), out).evaluators == ()


def test_the_curve_and_the_choice_read_validation_clips_alone(plan, out):
    for name in ("3d-0", "paper-0"):
        captions = read_motions(out / "samples" / name / "step000000025.npz")[1]
        assert set(captions) == {f"to dance {number}" for number in range(3)}
        chosen = json.loads((out / "runs" / name / "chosen.json").read_text("utf-8"))
        assert chosen["step"] == (25, 50)[chosen["errors"].index(min(chosen["errors"]))]
        assert (chosen["split"], chosen["metric"]) == ("val", "pose_frechet")
    progress = content(out)["arms"][0]["trainings"][0]["progress"]
    assert progress["steps"] == [25, 50]
    assert not (out / "runs" / "paper-equal-passes-0" / "chosen.json").exists()
    assert any("checkpoints were chosen" in note for note in content(out)["notes"])
    assert "checkpoints were chosen" in (out / "report.md").read_text("utf-8")


def test_the_checkpoint_that_was_chosen_is_the_one_that_is_sampled(plan, out, tmp_path):
    """With the choice moved to the other checkpoint the samples differ; moved back they are the old ones."""
    copy, run = shutil.copytree(out, tmp_path / "copy"), Run(plan, "3d", 0)
    chosen = json.loads(run.chosen(copy).read_text("utf-8"))
    before = read_motions(run.replication(copy, 0))[0]["samples"]
    made = {}
    for step in (25, 50):
        run.chosen(copy).write_text(json.dumps({**chosen, "step": step}), encoding="utf-8")
        run.replication(copy, 0).unlink()
        engine.make_samples(run, copy)
        made[step] = read_motions(run.replication(copy, 0))[0]["samples"]
    assert not torch.equal(made[25][0], made[50][0])
    assert all(torch.equal(a, b) for a, b in zip(made[chosen["step"]], before, strict=True))


def test_a_curve_of_a_training_without_its_checkpoints_is_an_error_that_says_what_to_do(plan, out, tmp_path):
    run = Run(plan, "3d", 0)
    shutil.copytree(run.folder(out), run.folder(tmp_path))
    run.checkpoint(tmp_path, 25).unlink()
    with pytest.raises(engine.HostError, match=r"expected the checkpoint of step 25 for --curve, found none"):
        engine.make_curve(run, tmp_path)


def test_windows_are_the_same_frames_of_truth_and_teacher_and_depend_on_the_clip_alone(plan):
    plan = dataclasses.replace(plan, windows=3)
    found, clips = read_reference(plan, "train"), read_folder(plan.clips, "train")[1]
    assert len(found.truth) == len(found.teacher) == len(found.captions) == len(found.groups) == 12
    starts = [start_of(clip, number, plan) for clip in clips for number in range(3)]
    assert len(set(starts)) > 6
    for index, (clip, start) in enumerate(zip([c for c in clips for _ in range(3)], starts, strict=True)):
        assert 0 <= start <= clip.length - plan.crop_frames
        assert torch.equal(found.truth[index], motion(clip, "truth", start, 16))
        assert torch.equal(found.teacher[index], motion(clip, "teacher", start, 16))
        torch.testing.assert_close(found.truth[index][0, 0, [0, 2]], torch.zeros(2))
    assert {start_of(clip, 0, dataclasses.replace(plan, windows=1)) for clip in clips} == {0}


# -- plans ------------------------------------------------------------------------------------------------------------


def test_a_plan_may_grow_and_be_judged_otherwise_and_nothing_else(plan, out, tmp_path):
    place = tmp_path / "plan.json"
    place.write_bytes((out / "plan.json").read_bytes())
    for change in (
        {"arms": (*plan.arms, "lifted")}, {"seeds": 2}, {"replications": 3}, {"windows": 5}, {"without": ()},
    ):  # fmt: skip
        engine.check_plan(dataclasses.replace(plan, **change), tmp_path, engine.read_card(plan.clips))
    for name, change in {
        "steps": 51, "learning_rate": 0.1, "samples": 7, "seeds": 0, "replications": 1, "arms": ("3d",), "guidance": 2,
    }.items():  # fmt: skip
        with pytest.raises(ConfigError, match=rf"holds another comparison than this one: {name} \("):
            engine.check_plan(dataclasses.replace(plan, **{name: change}), tmp_path, engine.read_card(plan.clips))


def test_a_plan_of_before_the_bench_is_taken_up(plan, tmp_path):
    """Its entries that did not exist then have their defaults."""
    old = dataclasses.replace(plan, curve=0, select="", equal_passes=False, replications=1, windows=1)
    known = dataclasses.asdict(old)
    for name in (
        "replications",
        "windows",
        "reference",
        "mdm",
        "curve",
        "select",
        "equal_passes",
        "primary",
        "without",
    ):
        del known[name]
    (tmp_path / "plan.json").write_text(json.dumps({**known, "settings": {}}), encoding="utf-8")
    engine.check_plan(old, tmp_path, engine.read_card(plan.clips))
    assert read_plan(tmp_path) == old


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"arms": ("3d", "4d")}, "arm '4d'"),
        ({"samples": 1}, "--samples: expected 2 or more"),
        ({"curve": 0}, "--select pose_frechet: expected --curve"),
        ({"select": "beauty"}, "--select: expected a metric among"),
        ({"reference": "all"}, "--reference: expected train, val or test"),
        ({"batch_size": 5}, "--batch-size 5: expected no more than the 4"),
        ({"mdm": "somewhere"}, "which MDM fixes"),
    ],
)
def test_a_plan_that_cannot_be_carried_out_is_refused_before_any_work(plan, tmp_path, changes, found):
    with pytest.raises(ConfigError, match=found):
        Bench(dataclasses.replace(plan, **changes), tmp_path / "out").prepare()
    assert not (tmp_path / "out" / "plan.json").exists()


def test_a_set_without_truth_cannot_train_the_3d_arm_nor_be_compared_with_but_by_views(plan, tmp_path):
    card, clips = read_folder(plan.clips, "train")
    blind = [dataclasses.replace(clip, truth=None, truth_extrinsics=None) for clip in clips]
    held_out = [dataclasses.replace(blind[0], id="held_0")]
    card = write_folder(
        str(tmp_path / "blind"), {"train": blind, "test": held_out}, dataclasses.replace(card, counts={})
    )
    small = dataclasses.replace(plan, clips=str(tmp_path / "blind"), content=card.content_hash, curve=0, select="")
    with pytest.raises(ConfigError, match="expected a truth for every training clip, which 3d learns from"):
        engine.prepare(small, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"expected a truth for every clip of its split train .*Take views-2d"):
        Bench(dataclasses.replace(small, arms=("paper",)), tmp_path / "out").prepare()


# -- ls and validate --------------------------------------------------------------------------------------------------


def test_benches_are_listed_with_how_far_they_are(plan, out, tmp_path):
    (found,) = provenance.benches(out.parent)
    assert (found.folder, found.stage, found.plan) == (out, "reported", plan)
    assert found.headline == content(out)["verdict"][0]
    copy = shutil.copytree(out, tmp_path / "copy")
    shutil.rmtree(copy / "samples" / "3d-0")
    assert provenance.stage(plan, copy) == "sampling, 2 of 3 runs"
    shutil.rmtree(copy / "runs" / "3d-0")
    assert provenance.stage(plan, copy).startswith("training, ")
    assert benchmarking.ls([str(tmp_path)]) == 0


@pytest.mark.parametrize(
    ("break_it", "told"),
    [
        (lambda out: (out / "samples/3d-0/001.npz").unlink(), "001.npz: missing"),
        (lambda out: (out / "runs/3d-0/args.json").write_text('{"seed": 5}'), "other arguments"),
        (lambda out: (out / "runs/3d-0/model000000050.pt").unlink(), "model000000050.pt: missing"),
        (lambda out: (out / "run.json").unlink(), "run.json: missing"),
        (
            lambda out: (out / "metrics.json").write_text('{"arms": 3}'),
            "metrics.json: $.arms: 3 is not of type 'array'",
        ),
        (lambda out: (out / "metrics.json").write_text("{"), "metrics.json: not JSON"),
        (lambda out: (out / "report.html").unlink(), "report.html: missing"),
    ],
)
def test_validate_tells_what_is_missing_or_changed(out, tmp_path, break_it, told):
    copy = shutil.copytree(out, tmp_path / "copy")
    break_it(copy)
    assert any(told in problem for problem in provenance.problems(copy))
    assert benchmarking.validate([str(copy)]) == 1


def test_validate_is_content_with_a_whole_bench(out):
    assert benchmarking.validate([str(out)]) == 0


# -- the schema -------------------------------------------------------------------------------------------------------


def test_metrics_json_follows_the_published_schema_and_a_spoilt_one_is_told_its_place(out, monkeypatch):
    good = content(out)
    assert provenance.schema_faults(good) == []
    for change, place in (({"clips": 1.5}, "$.clips: "), ({"clips": True}, "$.clips: "), ({"arms": []}, "$.arms: ")):
        (fault,) = provenance.schema_faults({**good, **change})
        assert fault.startswith(place)
    del good["verdict"]
    assert provenance.schema_faults(good) == ["$: 'verdict' is a required property"]
    good["arms"][0]["trainings"][0]["metrics"]["jitter"] = "high"
    assert provenance.schema_faults(good)[0].startswith("$.arms[0].trainings[0].metrics.jitter: 'high' is not of type")
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    with pytest.raises(VideoMDMError, match=r"expected the package jsonschema .* pip install -e '\.\[demo\]'"):
        provenance.schema_faults(good)
