"""A comparison from its plan to its report: paired, resumable stage by stage, and refused where it would mix plans."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from clips import make_clip

from videomdm_ext import plugins
from videomdm_ext.bench import provenance
from videomdm_ext.bench import run as engine
from videomdm_ext.bench.plan import DEMO, Plan, Run, read_plan
from videomdm_ext.bench.report.writing import write
from videomdm_ext.bench.run import execute, prepare
from videomdm_ext.bench.scoring import gather, make_scoring, with_plugins
from videomdm_ext.data import refined
from videomdm_ext.data.folder import Card, read_card, write_folder
from videomdm_ext.data.refined import identity, is_made
from videomdm_ext.errors import ConfigError, DatasetError, HostError, PluginError, VideoMDMError
from videomdm_ext.hookspecs import hookimpl
from videomdm_ext.inference import sample as sampling
from videomdm_ext.inference.sample import newest_checkpoint, read_motions
from videomdm_ext.mdm import checkout, hook
from videomdm_ext.supervision import refinement

CARD = Card(
    name="a few", skeleton="smpl22", fps=20.0, lifter="bent", licence="zlib", sources=("a source",),
    lifter_error={"mpjpe": 0.1, "root_aligned_mpjpe": 0.05, "pa_mpjpe": 0.04, "bone_wander": 0.02},
)  # fmt: skip
ARMS = ("3d", "lifted", "2d")


@pytest.fixture(scope="module", autouse=True)
def _brief() -> Any:
    """Few iterations of the refinement in this process."""
    with pytest.MonkeyPatch.context() as patch:
        brief = refinement.Refinement(first=15, rounds=0)
        patch.setattr(refinement, "Refinement", lambda: brief)
        yield


@pytest.fixture(scope="module")
def plan(tmp_path_factory) -> Plan:
    """-> the plan of a comparison on four training clips, tiny and short."""
    path = str(tmp_path_factory.mktemp("comparison") / "data")
    train = [
        make_clip(name=name, texts=(f"to {name}", f"to {name} again")) for name in ("dance_a", "walk", "jump", "punch")
    ]
    card = write_folder(path, {"train": train, "test": [make_clip(name="dance_b", texts=("to dance",))]}, CARD)
    return dataclasses.replace(
        DEMO, clips=path, content=card.content_hash, arms=ARMS, text_features="words", seeds=1, steps=60,
        batch_size=4, crop_frames=24, latent_dim=32, layers=1,
        ff_size=48, diffusion_steps=10, samples=6,
    )  # fmt: skip


@pytest.fixture(scope="module")
def out(plan, tmp_path_factory) -> Path:
    """-> the folder of the comparison, trained and sampled."""
    folder = tmp_path_factory.mktemp("comparison") / "out"
    told: list[dict[str, int]] = []
    prepare(plan, folder)
    execute(plan, folder, workers=1, watch=lambda steps: told.append(dict(steps)))
    assert told[-1] == {f"{arm}-0": 60 for arm in ARMS}
    return folder


# -- from the plan to the report --------------------------------------------------------------------------------------


def test_a_comparison_ends_in_a_report_with_all_its_pictures(plan, out):
    results = gather(plan, out)
    place = write(results, out)
    assert [arm.name for arm in results.arms] == list(ARMS)
    for arm in results.arms:
        (run,) = arm.trainings
        assert all(np.isfinite(value) for value in run.metrics.values())
        assert {"pose_frechet", "heldout_mpjpe", "motion_energy"} <= set(run.metrics)
        assert run.steps == 60
        assert run.seconds > 0
        assert run.losses.steps == [25, 50]
    passes = [run.passes for arm in results.arms for run in arm.trainings]
    assert passes[:2] == [60, 60]
    assert 60 < passes[2] <= 240
    text = place.read_text(encoding="utf-8")
    pictures = sorted(path.name for path in out.iterdir() if path.suffix in (".png", ".gif"))
    assert len(pictures) >= 4
    assert all(f"({name})" in text for name in pictures)
    assert all((out / name).stat().st_size > 2000 for name in pictures)
    assert all(arm in text for arm in ARMS)
    assert json.loads((out / "metrics.json").read_text("utf-8"))


def test_a_distance_is_parted_into_what_the_denoiser_and_what_its_teacher_got_wrong(plan, out):
    results = gather(plan, out)
    rows = {arm.name: arm.trainings[0].metrics for arm in results.arms}
    assert rows["3d"]["data_pose_frechet"] == pytest.approx(0, abs=1e-6)
    assert rows["3d"]["own_pose_frechet"] == pytest.approx(rows["3d"]["pose_frechet"], rel=1e-4)
    lifted = results.reference_rows.teacher["pose_frechet"]
    assert rows["lifted"]["data_pose_frechet"] == pytest.approx(lifted, rel=1e-4)
    assert 0 < rows["2d"]["data_pose_frechet"] != pytest.approx(lifted, rel=1e-2)
    on_lifted = rows["lifted"]
    assert on_lifted["own_pose_frechet"] != pytest.approx(on_lifted["pose_frechet"], rel=1e-3)


def test_the_part_of_the_denoiser_is_told_only_of_samples_for_training_captions(plan, out):
    run = plan.runs()[0]
    assert make_scoring(plan, out).against_own_data(run)
    elsewhere = dataclasses.replace(plan, reference="test")
    assert make_scoring(elsewhere, out).against_own_data(run) == {}


def test_captions_lengths_and_the_held_out_clips_are_the_same_for_all_arms(out):
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


def read_both(folder: Path) -> tuple[dict[str, list[torch.Tensor]], list[str]]:
    """-> all motions of a training with one replication, and its captions."""
    samples, captions = read_motions(folder / "000.npz")
    return {**samples, **read_motions(folder / "heldout.npz")[0]}, captions


def test_what_is_missing_is_made_again_and_the_rest_is_left_alone(plan, out):
    """One arm has lost its samples, another was cut short after its checkpoint of step 50."""
    lost, cut = out / "samples" / "3d-0" / "000.npz", out / "runs" / "2d-0"
    before = {name: read_both(out / "samples" / f"{name}-0") for name in ("3d", "2d")}
    weights = torch.load(cut / "model000000060.pt")["model_avg"]
    kept = {path: path.stat().st_mtime_ns for path in (out / "runs" / "3d-0").glob("*.pt")}
    for place in ("lifted-0/000.npz", "lifted-0/heldout.npz", "3d-0/heldout.npz"):
        kept[out / "samples" / place] = (out / "samples" / place).stat().st_mtime_ns
    gone = [out / "samples" / "2d-0" / name for name in ("000.npz", "heldout.npz")]
    for path in (lost, cut / "model000000060.pt", cut / "opt000000060.pt", *gone):
        path.unlink()
    with pytest.raises(ConfigError, match=r"found none of 3d-0, 2d-0"):
        gather(plan, out)
    prepare(plan, out)
    execute(plan, out, workers=1, watch=lambda steps: None)
    assert kept == {path: path.stat().st_mtime_ns for path in kept}
    again = torch.load(cut / "model000000060.pt")["model_avg"]
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    for name, (theirs, same) in before.items():
        ours, texts = read_both(out / "samples" / f"{name}-0")
        assert texts == same
        for kind, motions in ours.items():
            assert all(torch.equal(a, b) for a, b in zip(motions, theirs[kind], strict=True)), (name, kind)


def test_nothing_is_started_where_nothing_is_missing(plan, tmp_path, monkeypatch):
    for run in plan.runs():
        run.held_out(tmp_path).parent.mkdir(parents=True)
        run.held_out(tmp_path).touch()
        run.replication(tmp_path, 0).touch()
    monkeypatch.setattr(engine, "ProcessPoolExecutor", lambda *a, **k: pytest.fail("a process was started"))
    execute(plan, tmp_path, workers=1, watch=lambda steps: None)


# -- plans ------------------------------------------------------------------------------------------------------------


def test_another_plan_in_the_folder_is_refused_and_the_same_one_goes_on(plan, tmp_path):
    only = dataclasses.replace(plan, arms=("3d",))
    prepare(only, tmp_path)
    prepare(only, tmp_path)
    stored = (tmp_path / "plan.json").read_bytes()
    with pytest.raises(ConfigError, match=r"plan\.json: holds another comparison"):
        prepare(dataclasses.replace(only, steps=61), tmp_path)
    assert (tmp_path / "plan.json").read_bytes() == stored
    assert read_plan(tmp_path) == only


def test_a_comparison_trained_on_teachers_of_an_earlier_version_goes_no_further(plan, out, monkeypatch):
    assert (out / "runs" / "2d-0" / "teachers.txt").read_text("utf-8").strip() == identity(read_card(plan.clips))
    assert not (out / "runs" / "3d-0" / "teachers.txt").exists()
    monkeypatch.setattr(engine, "make_refined", lambda *a: pytest.fail("work was done"))
    monkeypatch.setattr(refined, "WAY", "4")
    with pytest.raises(ConfigError, match=r"2d-0/teachers\.txt: expected refined teachers as this version makes them"):
        prepare(plan, out)


def test_teachers_are_refined_only_where_an_arm_needs_them(plan, tmp_path):
    path = str(tmp_path / "data")
    card = write_folder(path, {"train": [make_clip()], "test": [make_clip(name="walk")]}, CARD)
    small = dataclasses.replace(plan, clips=path, content=card.content_hash, batch_size=1)
    prepare(dataclasses.replace(small, arms=("3d", "lifted")), tmp_path / "three")
    assert not is_made(path, card)
    prepare(dataclasses.replace(small, arms=("paper",)), tmp_path / "paper")
    assert not is_made(path, card)
    prepare(dataclasses.replace(small, arms=("3d", "2d")), tmp_path / "two")
    assert is_made(path, card)


@pytest.mark.parametrize(("arms", "found"), [((), "none"), (("2d", "3d", "2d"), "2d 3d 2d")])
def test_arms_must_be_named_once_each(plan, tmp_path, arms, found):
    with pytest.raises(ConfigError, match=f"--arms: expected names, each once, found {found}"):
        prepare(dataclasses.replace(plan, arms=arms), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_arm_from_a_file_has_its_runs_in_the_folder_and_no_twin(plan, tmp_path):
    place = tmp_path / "mine.yaml"
    place.write_text("supervision: 2d\n", encoding="utf-8")
    run = Run(plan, str(place), 2)
    assert run.folder(tmp_path / "out") == tmp_path / "out" / "runs" / "mine-2"
    assert run.replication(tmp_path / "out", 7) == tmp_path / "out" / "samples" / "mine-2" / "007.npz"
    twin = tmp_path / "3d.yaml"
    twin.write_text("supervision: 3d\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="--arms: expected names, each once, found 3d 3d"):
        prepare(dataclasses.replace(plan, arms=("3d", str(twin))), tmp_path / "out")


def test_unknown_arms_and_folders_that_cannot_be_written_are_refused_before_any_work(plan, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "make_refined", lambda *a: pytest.fail("work was done"))
    with pytest.raises(ConfigError, match="arm '4d'"):
        prepare(dataclasses.replace(plan, arms=("2d", "4d")), tmp_path)
    assert not (tmp_path / "plan.json").exists()
    (tmp_path / "file").touch()
    with pytest.raises(DatasetError, match="can be written"):
        prepare(plan, tmp_path / "file" / "out")


def test_runs_are_ordered_seed_by_seed_and_all_get_the_same_settings(plan, tmp_path):
    runs = dataclasses.replace(plan, seeds=2).runs()
    assert [run.name for run in runs] == ["3d-0", "lifted-0", "2d-0", "3d-1", "lifted-1", "2d-1"]
    words = [set(zip(run.arguments(tmp_path), run.arguments(tmp_path)[1:], strict=False)) for run in runs[:3]]
    differing = {pair[0] for pair in words[0] ^ words[1] | words[0] ^ words[2] if pair[0].startswith("--")}
    assert differing <= {"--save_dir", "--teacher", "--supervision", "--loss", "--overwrite"}
    assert ("--seed", "1") in set(zip(runs[3].arguments(tmp_path), runs[3].arguments(tmp_path)[1:], strict=False))


def test_the_host_is_the_stand_in_a_checkout_or_one_that_is_searched_for(plan, monkeypatch):
    assert plan.host().kind == "standin"
    monkeypatch.setattr(checkout, "find", lambda place=None: f"found at {place}")
    assert dataclasses.replace(plan, mdm="here").host() == "found at here"
    assert dataclasses.replace(plan, mdm="auto").host() == "found at None"


def test_the_passes_of_unrolled_steps_are_counted(plan):
    full = dataclasses.replace(plan, diffusion_steps=50, steps=100)
    assert Run(full, "3d", 0).passes() == 100
    assert Run(full, "2d-not-unrolled", 0).passes() == 100
    assert Run(full, "2d", 0).passes() == pytest.approx(100 * (0.68 + 4 * 0.32))


def test_steps_are_read_from_the_log_of_a_run(plan, tmp_path):
    run = plan.runs()[0]
    assert run.steps_done(tmp_path) == 0
    run.folder(tmp_path).mkdir(parents=True)
    log = run.folder(tmp_path) / "progress.csv"
    log.write_text("step,loss\n", encoding="utf-8")
    assert run.steps_done(tmp_path) == 0
    log.write_text("step,loss\n25,1.0\n50,0.9\n", encoding="utf-8")
    assert run.steps_done(tmp_path) == 50
    (run.folder(tmp_path) / "model000000060.pt").touch()
    assert run.steps_done(tmp_path) == 60


def test_the_time_of_both_parts_of_an_interrupted_training_counts(tmp_path, monkeypatch):
    for clock in ([10.0, 12.5], [100.0, 104.0]):
        monkeypatch.setattr(provenance, "time", SimpleNamespace(monotonic=iter(clock).__next__))
        with provenance.cost_counted(tmp_path):
            pass
    assert float((tmp_path / "seconds.txt").read_text("utf-8")) == 6.5


# -- checkpoints ------------------------------------------------------------------------------------------------------


def test_the_newest_checkpoint_is_the_one_of_the_last_step(tmp_path):
    for step in (50, 1000, 200):
        (tmp_path / f"model{step:09d}.pt").touch()
    assert newest_checkpoint(tmp_path).name == "model000001000.pt"
    with pytest.raises(HostError, match=r"expected a checkpoint model\*\.pt, found none"):
        newest_checkpoint(tmp_path / "nowhere")


@pytest.mark.usefixtures("borrowed_process")
@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("args.json", None, "args.json"),
        ("args.json", b"{", "args.json"),
        ("args.json", b"[1, 2]", "args.json"),
        ("args.json", b"{}", "args.json"),
        ("args.json", b"\xff", "args.json"),
        ("model000000060.pt", b"", "model000000060.pt"),
        ("model000000060.pt", b"no checkpoint", "model000000060.pt"),
    ],
)
def test_a_checkpoint_or_args_json_that_is_none_is_an_error_that_names_the_file(out, tmp_path, name, content, named):
    for file in ("args.json", "model000000060.pt"):
        (tmp_path / file).write_bytes((out / "runs" / "3d-0" / file).read_bytes())
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(VideoMDMError, match=named):
        sampling.load(checkout.standin(), tmp_path / "model000000060.pt")


@pytest.mark.usefixtures("borrowed_process")
def test_a_checkpoint_cut_short_or_of_another_size_is_an_error_that_says_so(out, tmp_path):
    run = out / "runs" / "3d-0"
    whole = (run / "model000000060.pt").read_bytes()
    (tmp_path / "args.json").write_bytes((run / "args.json").read_bytes())
    (tmp_path / "model000000060.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(HostError, match=r"model000000060\.pt: does not fit .* Train it again"):
        sampling.load(checkout.standin(), tmp_path / "model000000060.pt")
    (tmp_path / "model000000060.pt").write_bytes(whole)
    args = json.loads((run / "args.json").read_text("utf-8"))
    (tmp_path / "args.json").write_text(json.dumps({**args, "latent_dim": 64}), encoding="utf-8")
    with pytest.raises(HostError, match="does not fit"):
        sampling.load(checkout.standin(), tmp_path / "model000000060.pt")


@pytest.mark.usefixtures("borrowed_process")
def test_a_checkpoint_is_loaded_with_its_averaged_weights_and_its_own_space(out):
    run = out / "runs" / "2d-0"
    trained = sampling.load(checkout.standin(), newest_checkpoint(run))
    saved = torch.load(run / "model000000060.pt")
    state = trained.model.state_dict()
    assert torch.equal(state["embed_text.weight"], saved["model_avg"]["embed_text.weight"])
    assert not torch.equal(state["embed_text.weight"], saved["model"]["embed_text.weight"])
    assert not trained.model.training
    assert trained.fps == 20.0
    assert (trained.args.teacher, trained.args.loss) == ("refined", "reprojection")
    refined = np.load(Path(trained.args.clips) / "refined" / "bent" / "Mean.npy")
    np.testing.assert_array_equal(trained.space.mean.numpy(), refined)


def test_a_report_shows_the_metrics_of_plugins_under_names_of_their_own(monkeypatch):
    class Measuring:
        @hookimpl
        def add_metrics(self, samples, reference):
            return {"longer": float(len(samples) - len(reference))}

    manager = plugins.create_manager()
    manager.register(Measuring(), name="measuring")
    monkeypatch.setattr(hook, "manager", lambda: manager)
    truth = SimpleNamespace(truth=[torch.zeros(9, 22, 3)] * 2)
    assert with_plugins({"jitter": 1.0}, [*truth.truth, *truth.truth], truth) == {"jitter": 1.0, "longer": 2.0}
    with pytest.raises(PluginError, match="'longer'"):
        with_plugins({"longer": 1.0}, truth.truth, truth)
