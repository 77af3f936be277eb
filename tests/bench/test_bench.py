"""A bench from its data to its report: paired, goes on stage by stage, keeps scores by hash, has its curve on val."""

import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import small_bench
import torch

from videomdm_ext import plugins
from videomdm_ext.bench import fairness, provenance, scoring
from videomdm_ext.bench import plan as plans
from videomdm_ext.bench import run as engine
from videomdm_ext.bench.evaluators.base import Evaluator, UnavailableError
from videomdm_ext.bench.plan import Plan, Run, read_plan
from videomdm_ext.bench.reference import motion, read_reference, start_of
from videomdm_ext.bench.report import figures
from videomdm_ext.bench.report.results import gather
from videomdm_ext.bench.run import Bench, execute, prepare
from videomdm_ext.bench.scoring import make_scoring, with_plugins
from videomdm_ext.cli.main import main
from videomdm_ext.data import refined
from videomdm_ext.data.folder import read_card, read_folder
from videomdm_ext.data.refined import identity
from videomdm_ext.data.tasks import Engine
from videomdm_ext.errors import ConfigError, HostError, PluginError, VideoMDMError
from videomdm_ext.inference import sample as sampling
from videomdm_ext.inference.sample import find_checkpoint, read_motions
from videomdm_ext.mdm import checkout
from videomdm_ext.supervision import refinement

ARMS = ("3d", "lifted", "2d")
LAST = "model000000012.pt"


@pytest.fixture(scope="module", autouse=True)
def _brief() -> Any:
    """No pictures, few iterations of the refinement, a row of losses every 4 steps."""
    with pytest.MonkeyPatch.context() as patch:
        brief = refinement.Refinement(first=15, rounds=0)
        patch.setattr(refinement, "Refinement", lambda: brief)
        patch.setattr(figures, "sections", lambda results: [])
        patch.setattr(plans, "LOGGED", 4)
        yield


@pytest.fixture(scope="module")
def plan(tmp_path_factory) -> Plan:
    """-> a plan with a curve, a choice by it, and an arm that unrolls, trained again with equal passes."""
    folder = tmp_path_factory.mktemp("bench") / "data"
    return small_bench.make_plan(folder, arms=ARMS, steps=12, curve=2, select="pose_frechet", equal_passes=True)


@pytest.fixture(scope="module")
def out(plan, tmp_path_factory) -> Path:
    """-> the folder of the bench, done; no test changes it."""
    folder = tmp_path_factory.mktemp("bench") / "out"
    Bench(plan, folder, engine=Engine(processes=0), command=["videomdm", "bench"]).run()
    return folder


@pytest.fixture
def copy(out, tmp_path) -> Path:
    """-> a folder like it, to be changed."""
    return Path(shutil.copytree(out, tmp_path / "copy"))


def read(place: Path) -> dict[str, Any]:
    return dict(json.loads(place.read_text("utf-8")))


def times(folder: Path) -> dict[str, int]:
    """-> when each file was last written."""
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def test_a_bench_leaves_every_file_of_its_plan_and_nothing_to_complain_about(plan, out):
    assert provenance.problems(out) == []
    assert main(["bench", "validate", str(out)]) == 0
    content = read(out / "metrics.json")
    assert [arm["name"] for arm in content["arms"]] == [*ARMS, "2d, equal passes"]
    assert content["arms"][3]["equal_passes_of"] == "2d"
    for arm in content["arms"]:
        (training,) = arm["trainings"]
        pair = [row["pose_frechet"] for row in training["replications"]]
        assert len(set(pair)) == 2
        assert training["metrics"]["pose_frechet"] == pytest.approx(sum(pair) / 2)
        assert {"heldout_mpjpe", "motion_energy"} <= training["metrics"].keys()
        assert all(np.isfinite(value) for value in training["metrics"].values())
        assert training["parameters"] > 1000
    run = read(out / "run.json")
    assert run["command"] == ["videomdm", "bench"]
    assert run["runs"]["3d-0"]["arguments"] == Run(plan, "3d", 0).arguments(out)
    assert run["runs"]["3d-0"]["samples_seen"] == 48
    assert run["dataset"]["content_hash"] == plan.content
    assert "seconds" not in (out / "metrics.json").read_text("utf-8")


def test_a_distance_is_parted_into_what_the_denoiser_and_what_its_teacher_got_wrong(plan, out):
    results = gather(plan, out)
    trainings = {arm.name: arm.trainings[0] for arm in results.arms}
    rows = {name: training.metrics for name, training in trainings.items()}
    lifted = results.reference_rows.teacher["pose_frechet"]
    assert rows["3d"]["data_pose_frechet"] == pytest.approx(0, abs=1e-6)
    assert rows["3d"]["own_pose_frechet"] == pytest.approx(rows["3d"]["pose_frechet"], rel=1e-4)
    assert rows["lifted"]["data_pose_frechet"] == pytest.approx(lifted, rel=1e-4)
    assert 0 < rows["2d"]["data_pose_frechet"] != pytest.approx(lifted, rel=1e-2)
    assert rows["lifted"]["own_pose_frechet"] != pytest.approx(rows["lifted"]["pose_frechet"], rel=1e-3)
    assert trainings["2d"].losses.steps == [4, 8, 12]
    assert trainings["2d"].seconds > 0
    assert trainings["3d"].passes == 12 < trainings["2d"].passes <= 48
    run, elsewhere = plan.runs()[0], dataclasses.replace(plan, reference="test")
    assert make_scoring(plan, out).against_own_data(run)
    assert make_scoring(elsewhere, out).against_own_data(run) == {}  # samples that follow other captions


def read_both(folder: Path) -> tuple[dict[str, list[torch.Tensor]], list[str]]:
    """-> all motions of a training's first replication, and its captions."""
    samples, captions = read_motions(folder / "000.npz")
    return {**samples, **read_motions(folder / "heldout.npz")[0]}, captions


def test_captions_lengths_noise_and_held_out_clips_are_the_same_for_all_arms_and_replications_differ(plan, out):
    made = {arm: read_both(out / "samples" / f"{arm}-0") for arm in ARMS}
    first, captions = made["3d"]
    assert len(set(captions)) > 3
    assert set(first) == {"samples", "prediction", "teacher", "truth"}
    for groups, texts in made.values():
        assert texts == captions
        assert [len(motion) for motion in groups["samples"]] == [len(motion) for motion in first["samples"]]
        for kind in ("teacher", "truth"):
            assert all(torch.equal(a, b) for a, b in zip(groups[kind], first[kind], strict=True))
        assert len(groups["prediction"]) == 1
    assert not torch.equal(made["2d"][0]["samples"][0], first["samples"][0])
    other = read_motions(out / "samples" / "3d-0" / "001.npz")
    assert other[1] == captions
    assert not torch.equal(other[0]["samples"][0], first["samples"][0])
    two = dataclasses.replace(plan, seeds=2)
    assert {run.noise_seed(1) for run in two.runs()} == {1}
    assert all(run.noise_seed(0) == run.seed for run in dataclasses.replace(two, replications=1).runs())


def test_the_curve_and_the_choice_read_validation_clips_alone(out):
    for name in ("3d-0", "2d-0"):
        assert set(read_motions(out / "samples" / name / "step000000006.npz")[1]) == {f"to dance {n}" for n in range(3)}
        chosen = read(out / "runs" / name / "chosen.json")
        assert chosen["step"] == (6, 12)[chosen["errors"].index(min(chosen["errors"]))]
        assert (chosen["split"], chosen["metric"]) == ("val", "pose_frechet")
    content = read(out / "metrics.json")
    assert content["arms"][0]["trainings"][0]["progress"]["steps"] == [6, 12]
    assert not (out / "runs" / "2d-equal-passes-0" / "chosen.json").exists()
    assert any("checkpoints were chosen" in note for note in content["notes"])
    assert "checkpoints were chosen" in (out / "report.md").read_text("utf-8")


def test_the_checkpoint_that_was_chosen_is_the_one_that_is_sampled(plan, out, copy):
    """With the choice moved to the other checkpoint the samples differ; moved back they are the old ones."""
    run = Run(plan, "3d", 0)
    chosen, before = read(run.chosen(copy)), read_motions(run.replication(copy, 0))[0]["samples"]
    made = {}
    for step in (6, 12):
        run.chosen(copy).write_text(json.dumps({**chosen, "step": step}), encoding="utf-8")
        run.replication(copy, 0).unlink()
        engine.make_samples(run, copy)
        made[step] = read_motions(run.replication(copy, 0))[0]["samples"]
    assert not torch.equal(made[6][0], made[12][0])
    assert all(torch.equal(a, b) for a, b in zip(made[chosen["step"]], before, strict=True))
    run.checkpoint(copy, 6).unlink()
    run.curve_samples(copy, 6).unlink()
    with pytest.raises(HostError, match=r"expected the checkpoint of step 6 for --curve, found none"):
        engine.make_curve(run, copy)


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


def test_a_second_start_writes_the_report_alone_with_equal_bytes_and_records_other_versions(plan, copy, monkeypatch):
    before, metrics = times(copy), (copy / "metrics.json").read_bytes()
    monkeypatch.setattr(provenance, "__version__", "99.0")
    monkeypatch.setattr(provenance.metadata, "version", lambda name: "98.0")
    Bench(plan, copy, engine=Engine(processes=0)).run()
    changed = {name for name, when in times(copy).items() if before.get(name) != when}
    assert not [name for name in changed if name.split("/")[0] in ("runs", "samples", "scores", "plan.json")]
    assert (copy / "metrics.json").read_bytes() == metrics
    found = read(copy / "run.json")
    assert found["command"] == ["videomdm", "bench"]
    assert (found["versions"]["videomdm_ext"], found["versions"]["torch"]) == ("99.0", "98.0")


def test_what_is_missing_is_made_again_and_the_rest_is_left_alone_wherever_the_set_is_now(plan, copy):
    """One arm has lost its samples, another its checkpoints too."""
    plan = dataclasses.replace(plan, clips=str(shutil.copytree(plan.clips, copy.parent / "moved")))
    cut = copy / "runs" / "2d-0"
    before = {name: read_both(copy / "samples" / f"{name}-0") for name in ("3d", "2d")}
    weights = torch.load(cut / LAST)["model_avg"]
    lost = [copy / "samples" / name for name in ("3d-0/000.npz", "2d-0/000.npz", "2d-0/heldout.npz")]
    when = times(copy)
    kept = [name for name in when if ("3d" in name and name.endswith(".pt")) or name.startswith("samples/lifted")]
    for path in (*lost, *cut.glob("*.pt")):
        path.unlink()
    with pytest.raises(ConfigError, match="found none of 3d-0, 2d-0"):
        gather(plan, copy)
    assert provenance.stage(plan, copy).startswith("training, ")
    prepare(plan, copy)
    execute(plan, copy, engine=Engine(processes=0), watch=lambda steps: None)
    assert {times(copy)[name] - when[name] for name in kept} == {0}
    again = torch.load(cut / LAST)["model_avg"]
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    for name, (theirs, same) in before.items():
        ours, texts = read_both(copy / "samples" / f"{name}-0")
        assert texts == same
        for kind, motions in ours.items():
            assert all(torch.equal(a, b) for a, b in zip(motions, theirs[kind], strict=True)), (name, kind)


def test_scores_are_made_again_where_their_samples_changed_and_nowhere_else(plan, copy):
    (copy / "samples" / "3d-0" / "001.npz").write_bytes((copy / "samples" / "3d-0" / "000.npz").read_bytes())
    (copy / "scores" / "3d-0" / "heldout.json").write_text("{cut", encoding="utf-8")
    before = times(copy / "scores")
    Bench(plan, copy).score()
    changed = {name for name, when in times(copy / "scores").items() if before[name] != when}
    assert changed == {f"3d-0/{name}.json" for name in ("001", "several", "owndata", "heldout")}
    one, two = (read(copy / "scores/3d-0" / name) for name in ("000.json", "001.json"))
    assert one["scores"] == two["scores"]
    assert any("changed since run.json" in problem for problem in provenance.problems(copy))


def test_scoring_anew_writes_every_score_and_the_same_ones(copy):
    before, when = (copy / "metrics.json").read_bytes(), times(copy / "scores")
    assert main(["bench", "score", str(copy)]) == 0
    assert all(when[name] != now for name, now in times(copy / "scores").items())
    assert (copy / "metrics.json").read_bytes() == before


def test_another_judge_or_another_reference_makes_all_scores_again(plan, out, monkeypatch):
    key = make_scoring(plan, out)._key("train")
    assert key == make_scoring(plan, out)._key("train")
    assert key != make_scoring(plan, out)._key("val")
    assert key != make_scoring(dataclasses.replace(plan, windows=3), out)._key("train")

    class Heights(Evaluator):
        name = "heights"
        comparable = "nothing"
        identity = "abc"

        def motions(self, clips, fps):
            return torch.stack([clip[..., 1].mean(0) for clip in clips])

    def missing(ground):
        raise UnavailableError("no weights")

    monkeypatch.setattr(scoring.plugins, "collect", lambda *a: {"heights": lambda ground: Heights(), "far": missing})
    judged = make_scoring(plan, out)
    assert judged._key("train") != key
    assert judged.missing == {"far": "no weights"}
    assert make_scoring(dataclasses.replace(plan, without=("heights", "far")), out).evaluators == ()


def test_a_plugins_metric_with_the_name_of_a_built_in_one_is_refused(monkeypatch):
    monkeypatch.setattr(plugins, "add_metrics", lambda manager, **given: {"longer": 1.0})
    with pytest.raises(PluginError, match="'longer'"):
        with_plugins({"longer": 1.0}, [], SimpleNamespace(truth=[]))


def test_a_plan_may_grow_and_be_judged_otherwise_and_nothing_else(plan, out, tmp_path, monkeypatch):
    (tmp_path / "plan.json").write_bytes((out / "plan.json").read_bytes())
    for change in (
        {"arms": (*ARMS, "paper")}, {"seeds": 2}, {"replications": 3}, {"windows": 5}, {"without": ()},
        {"clips": str(shutil.copytree(plan.clips, tmp_path / "moved"))},
    ):  # fmt: skip
        engine.check_plan(dataclasses.replace(plan, **change), tmp_path)
    for name, change in {
        "steps": 51, "learning_rate": 0.1, "samples": 7, "seeds": 0, "replications": 1, "arms": ("3d",), "guidance": 2,
    }.items():  # fmt: skip
        with pytest.raises(ConfigError, match=rf"holds another comparison than this one: {name} \("):
            engine.check_plan(dataclasses.replace(plan, **{name: change}), tmp_path)
    monkeypatch.setattr(fairness, "FORM", 7)
    with pytest.raises(ConfigError, match=r"this one: the 2D loss of arm 2d \(form 2 of another version, now form 7\)"):
        engine.check_plan(plan, tmp_path)
    stored = json.loads((tmp_path / "plan.json").read_text("utf-8"))
    del stored["settings"]["2d"]["posterior_form"]
    (tmp_path / "plan.json").write_text(json.dumps(stored), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"the 2D loss of arm 2d \(form 1 of another version, now form 7\)"):
        engine.check_plan(plan, tmp_path)
    assert read_plan(tmp_path) == plan


def test_a_comparison_trained_on_teachers_of_an_earlier_version_goes_no_further(plan, out, monkeypatch):
    assert (out / "runs" / "2d-0" / "teachers.txt").read_text("utf-8").strip() == identity(read_card(plan.clips))
    assert not (out / "runs" / "3d-0" / "teachers.txt").exists()
    monkeypatch.setattr(engine, "make_refined", lambda *a: pytest.fail("work was done"))
    monkeypatch.setattr(refined, "WAY", "another")
    with pytest.raises(ConfigError, match=r"2d-0/teachers\.txt: expected refined teachers as this version makes them"):
        prepare(plan, out)


def test_benches_are_listed_with_how_far_they_are(plan, out, copy):
    (found,) = provenance.benches(out.parent)
    assert (found["folder"], found["stage"]) == (str(out), "reported")
    assert (found["arms"], found["seeds"], found["steps"]) == (list(plan.arms), plan.seeds, plan.steps)
    assert found["headline"] == read(out / "metrics.json")["verdict"][0]
    shutil.rmtree(copy / "samples" / "3d-0")
    assert provenance.stage(plan, copy) == "sampling, 3 of 4 runs"
    assert main(["bench", "ls", str(copy)]) == 0


def test_validate_tells_what_is_missing_or_changed(copy):
    breaks = {
        "001.npz: missing": lambda: (copy / "samples/3d-0/001.npz").unlink(),
        "other arguments": lambda: (copy / "runs/3d-0/args.json").write_text('{"seed": 5}'),
        f"{LAST}: missing": lambda: (copy / "runs/3d-0" / LAST).unlink(),
        "run.json: missing": lambda: (copy / "run.json").unlink(),
        "metrics.json: $.arms: 3 is not": lambda: (copy / "metrics.json").write_text('{"arms": 3}'),
        "metrics.json: expected JSON": lambda: (copy / "metrics.json").write_text("{"),
        "report.html: missing": lambda: (copy / "report.html").unlink(),
    }
    for told, break_it in breaks.items():
        assert not any(told in problem for problem in provenance.problems(copy))
        break_it()
        assert any(told in problem for problem in provenance.problems(copy)), told
    assert main(["bench", "validate", str(copy)]) == 1


def test_metrics_json_follows_the_published_schema_and_a_spoilt_one_is_told_its_place(out):
    good = read(out / "metrics.json")
    assert provenance.schema_faults(good) == []
    for change, place in (({"clips": 1.5}, "$.clips: "), ({"clips": True}, "$.clips: "), ({"arms": []}, "$.arms: ")):
        (fault,) = provenance.schema_faults({**good, **change})
        assert fault.startswith(place)
    del good["verdict"]
    assert provenance.schema_faults(good) == ["$: 'verdict' is a required property"]
    good["arms"][0]["trainings"][0]["metrics"]["jitter"] = "high"
    assert provenance.schema_faults(good)[0].startswith("$.arms[0].trainings[0].metrics.jitter: 'high' is not of type")


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [('"layers"', '"other"', "expected all arguments"), ('"latent_dim": 16', '"latent_dim": 64', "does not fit")],
)
def test_a_checkpoint_with_the_args_json_of_another_training_is_refused(out, tmp_path, old, new, match):
    (tmp_path / LAST).write_bytes((out / "runs" / "3d-0" / LAST).read_bytes())
    (tmp_path / "args.json").write_text((out / "runs" / "3d-0" / "args.json").read_text().replace(old, new))
    with pytest.raises(VideoMDMError, match=match):
        sampling.load(checkout.standin(), tmp_path / LAST)


def test_a_checkpoint_is_loaded_with_its_averaged_weights_and_its_own_space(out, tmp_path):
    run = out / "runs" / "2d-0"
    assert find_checkpoint(run).name == LAST
    trained, saved = sampling.load(checkout.standin(), find_checkpoint(run)), torch.load(run / LAST)
    state = trained.model.state_dict()
    assert torch.equal(state["embed_text.weight"], saved["model_avg"]["embed_text.weight"])
    assert not torch.equal(state["embed_text.weight"], saved["model"]["embed_text.weight"])
    assert not trained.model.training
    assert trained.fps == 20.0
    assert (trained.args.teacher, trained.args.loss) == ("refined", "posterior")
    mean = np.load(Path(trained.args.clips) / "refined" / "bent" / "Mean.npy")
    np.testing.assert_array_equal(trained.space.mean.numpy(), mean)
    with pytest.raises(HostError, match=r"expected a checkpoint model\*\.pt, found none"):
        find_checkpoint(tmp_path / "nowhere")
