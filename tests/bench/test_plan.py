"""Arms are YAML files that say how the supervision differs from its defaults; a plan says what runs, or is refused."""

import argparse
import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from clips import make_clip
from small_bench import CARD, make_plan, write_set

from videomdm_ext.bench import provenance
from videomdm_ext.bench import run as engine
from videomdm_ext.bench.plan import FOLDER, ArmConfig, Plan, arm_name, known_arms, load_arm, settings
from videomdm_ext.bench.run import Bench, execute, prepare
from videomdm_ext.config import Supervision, add_arguments, difference, from_args
from videomdm_ext.data import tasks
from videomdm_ext.data.building import write_folder
from videomdm_ext.data.refined import is_made
from videomdm_ext.data.tasks import Engine
from videomdm_ext.errors import ConfigError, StorageError
from videomdm_ext.supervision import refinement


@pytest.mark.parametrize("name", known_arms())
def test_an_arm_is_the_defaults_with_what_its_file_says_and_declares_in_what_it_differs(name):
    (place,) = FOLDER.rglob(f"{name}.yaml")
    text, arm = place.read_text("utf-8"), load_arm(name)
    written = {key: value for key, value in yaml.safe_load(text).items() if key not in ("of", "declare")}
    assert (arm.name, arm.supervision) == (name, Supervision(**written))
    assert set(difference(arm.supervision, load_arm(arm.of).supervision)) == set(arm.declares)
    assert text.startswith("# ")
    assert "declare:" in text
    parser = argparse.ArgumentParser()
    add_arguments(parser.add_argument_group("diffusion"), Supervision)
    assert from_args(Supervision, parser.parse_args(arm.flags)) == arm.supervision


def test_arms_differ_in_which_motion_is_diffused_and_which_terms_are_paid():
    arms = {name: load_arm(name).supervision for name in ("3d", "lifted", "refined", "2d", "paper")}
    assert {name: (arm.supervision, arm.teacher, arm.loss) for name, arm in arms.items()} == {
        "3d": ("3d", "gt", "mdm"),
        "lifted": ("3d", "lifted", "mdm"),
        "refined": ("3d", "refined", "mdm"),
        "2d": ("2d", "refined", "posterior"),
        "paper": ("2d", "lifted", "paper"),
    }
    for arm in arms.values():
        assert set(difference(arm, arms["3d"])) <= {"supervision", "teacher", "loss", "depth_weight"}
    assert arms["paper"].depth_weight == "mean1"


def test_every_arm_beside_the_five_and_the_baselines_is_another_arm_less_one_part():
    others = set(known_arms()) - {"3d", "lifted", "refined", "2d", "paper", "motionmix", "smoothed", "adjusted"}
    assert len(others) == 16
    for arm in map(load_arm, others):
        assert arm.of in ("2d", "lifted", "paper")
        (part,) = difference(arm.supervision, load_arm(arm.of).supervision)
        assert part in ("teacher", "loss", "unroll", "depth_weight", "known_share", "best_share")


def write_arm(folder: Path, text: str, name: str = "mine") -> str:
    place = folder / f"{name}.yaml"
    place.write_text(text, encoding="utf-8")
    return str(place)


def test_a_file_of_ones_own_is_an_arm_of_its_name_that_declares_what_it_names(tmp_path):
    place = write_arm(tmp_path, "supervision: 2d\nloss: floor=0.5\n")
    arm = load_arm(place)
    assert arm.name == arm_name(place) == "mine"
    assert (arm.declares, arm.of) == (("supervision", "loss"), "2d")
    assert settings(arm) == "supervision 2d, teacher refined, loss floor=0.5"
    assert settings(ArmConfig("plain", Supervision())) == "defaults"
    old = write_arm(tmp_path, "supervision: 2d\nobjective: reprojection\nweight_velocity: 0.0\n")
    assert load_arm(old).supervision.loss == "reprojection,velocity=0.0"


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("of: 4d\n", "of: expected one of"),
        ("declare: [steps]\n", "declare: "),
        ("declare: teacher\n", "declare: "),
        ("supervison: 2d\n", "supervison"),
        ("unroll_steps: 1\n", "--unroll_steps"),
    ],
)
def test_a_wrong_entry_is_an_error_that_names_the_file_and_the_entry(tmp_path, content, found):
    place = write_arm(tmp_path, content)
    with pytest.raises(ConfigError, match=found) as caught:
        load_arm(place)
    assert str(caught.value).startswith(f"{place}: ")
    with pytest.raises(ConfigError, match=r"arm '4d': expected one of .*lifted"):
        load_arm("4d")


@pytest.fixture(scope="module")
def plan(tmp_path_factory) -> Plan:
    folder = tmp_path_factory.mktemp("plan") / "data"
    return make_plan(folder, write_set(folder).content_hash, arms=("3d", "lifted", "2d"), replications=1)


def test_runs_are_ordered_seed_by_seed_and_all_get_the_same_settings(plan, tmp_path):
    runs = dataclasses.replace(plan, seeds=2).runs()
    assert [run.name for run in runs] == ["3d-0", "lifted-0", "2d-0", "3d-1", "lifted-1", "2d-1"]
    words = [set(zip(run.arguments(tmp_path), run.arguments(tmp_path)[1:], strict=False)) for run in runs]
    differing = {pair[0] for pair in words[0] ^ words[1] | words[0] ^ words[2] if pair[0].startswith("--")}
    assert differing <= {"--save_dir", "--teacher", "--supervision", "--loss", "--overwrite"}
    assert ("--seed", "1") in words[3]


def test_steps_are_read_from_the_log_of_a_run(plan, tmp_path):
    run, log = plan.runs()[0], plan.runs()[0].folder(tmp_path) / "progress.csv"
    assert run.steps_done(tmp_path) == 0
    log.parent.mkdir(parents=True)
    for rows, done in (("", 0), ("25,1.0\n50,0.9\n", 50)):
        log.write_text(f"step,loss\n{rows}", encoding="utf-8")
        assert run.steps_done(tmp_path) == done
    run.checkpoint(tmp_path).touch()
    assert run.steps_done(tmp_path) == 60


def test_the_time_of_both_parts_of_an_interrupted_training_counts(tmp_path, monkeypatch):
    for clock in ([10.0, 12.5], [100.0, 104.0]):
        monkeypatch.setattr(provenance, "time", SimpleNamespace(monotonic=iter(clock).__next__))
        with provenance.cost_counted(tmp_path):
            pass
    assert float((tmp_path / "seconds.txt").read_text("utf-8")) == 6.5


def test_nothing_is_started_where_nothing_is_missing(plan, tmp_path, monkeypatch):
    for run in plan.runs():
        run.held_out(tmp_path).parent.mkdir(parents=True)
        run.held_out(tmp_path).touch()
        run.replication(tmp_path, 0).touch()
        run.folder(tmp_path).mkdir(parents=True)
        (run.folder(tmp_path) / "args.json").touch()
    monkeypatch.setattr(tasks, "ProcessPoolExecutor", lambda *a, **k: pytest.fail("a process was started"))
    execute(plan, tmp_path, engine=Engine(processes=1), watch=lambda steps: None)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"arms": ("3d", "4d")}, "arm '4d'"),
        ({"arms": ()}, "--arms: expected names, each once, found none"),
        ({"arms": ("2d", "3d", "2d")}, "--arms: expected names, each once, found 2d 3d 2d"),
        ({"samples": 1}, "--samples: expected 2 or more"),
        ({"select": "pose_frechet"}, "--select pose_frechet: expected --curve"),
        ({"select": "beauty"}, "--select: expected a metric among"),
        ({"reference": "all"}, "--reference: expected train, val or test"),
        ({"batch_size": 5}, "--batch-size 5: expected no more than the 4"),
        (
            {"mdm": "somewhere"},
            "--dropout 0.1 --conv-kernel 0, which MDM fixes, found 16, 0.0, 9",
        ),
        ({"conv_kernel": 4}, "--conv-kernel: expected 0 or an odd number"),
    ],
)
def test_a_plan_that_cannot_be_carried_out_is_refused_before_any_work(plan, tmp_path, monkeypatch, changes, found):
    monkeypatch.setattr(engine, "make_refined", lambda *a: pytest.fail("work was done"))
    with pytest.raises(ConfigError, match=found):
        Bench(dataclasses.replace(plan, **changes), tmp_path / "out").prepare()
    assert not (tmp_path / "out").exists()


def test_twins_and_folders_that_cannot_be_written_are_refused(plan, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "make_refined", lambda *a: pytest.fail("work was done"))
    twin = write_arm(tmp_path, "supervision: 3d\n", "3d")
    with pytest.raises(ConfigError, match="--arms: expected names, each once, found 3d 3d"):
        prepare(dataclasses.replace(plan, arms=("3d", twin)), tmp_path / "out")
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="can be written"):
        prepare(plan, tmp_path / "file" / "out")


def test_teachers_are_refined_only_where_an_arm_needs_them(plan, tmp_path, monkeypatch):
    brief = refinement.Refinement(first=5, rounds=0)
    monkeypatch.setattr(refinement, "Refinement", lambda: brief)
    path = str(tmp_path / "data")
    card = write_folder(path, {"train": [make_clip()], "test": [make_clip(name="walk")]}, CARD)
    small = dataclasses.replace(plan, clips=path, content=card.content_hash, batch_size=1)
    for arms, made in ((("3d", "lifted", "2d-lifted"), False), (("3d", "2d"), True)):
        prepare(dataclasses.replace(small, arms=arms), tmp_path / arms[-1])
        assert is_made(path, card) == made
