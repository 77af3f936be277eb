"""Two arms differ in what they declare and in nothing else that the host is given, or the comparison is refused."""

import dataclasses
import json
from pathlib import Path

import pytest

from videomdm_ext.bench import fairness
from videomdm_ext.bench.plan import Plan, Run, known_arms
from videomdm_ext.errors import ConfigError

OUT = Path("out")


def a_plan(*arms: str, **changes: object) -> Plan:
    return dataclasses.replace(Plan("data", "hash", arms or ("3d", "2d"), seeds=2), **changes)  # type: ignore[arg-type]


def arm_file(folder: Path, name: str, text: str) -> str:
    place = folder / f"{name}.yaml"
    place.write_text(text, encoding="utf-8")
    return str(place)


def test_all_arms_together_are_a_fair_comparison():
    fairness.check_pairs(a_plan(*known_arms(), equal_passes=True).runs(), OUT)


def test_an_arm_that_hides_an_option_is_refused_and_the_option_named(tmp_path):
    sly = arm_file(tmp_path, "sly", "supervision: 2d\nunroll_steps: 8\ndeclare: [supervision]\n")
    with pytest.raises(ConfigError, match=r"arm sly: expected it to differ from 2d in .*differ in unroll_steps too"):
        fairness.check_pairs(a_plan("2d", sly).runs(), OUT)
    open_ = arm_file(tmp_path, "open", "supervision: 2d\nunroll_steps: 8\ndeclare: [unroll_steps]\n")
    fairness.check_pairs(a_plan("2d", open_).runs(), OUT)


@pytest.mark.parametrize(("option", "value"), [("--lr", "1"), ("--batch_size", "64"), ("--seed", "9"), ("--mask", "")])
def test_what_the_host_is_given_beside_the_supervision_counts_too(monkeypatch, option, value):
    given = Run.arguments

    def arguments(run, out):
        return [*given(run, out), option, *([value] if value else [])] if run.arm == "2d" else given(run, out)

    monkeypatch.setattr(Run, "arguments", arguments)
    with pytest.raises(ConfigError, match=f"3d and 2d: an unfair comparison.*{option[2:]}"):
        fairness.check_pairs(a_plan().runs(), OUT)


def test_a_training_with_equal_passes_differs_from_its_arm_in_its_steps_alone():
    plan = a_plan("3d", "paper", seeds=1, equal_passes=True, steps=980)
    three, unrolled, again = plan.runs()
    assert again.label == "paper, equal passes"
    assert again.name == "paper-equal-passes-0"
    assert unrolled.passes() == pytest.approx(980 * 1.96)
    assert again.passes() == pytest.approx(three.passes(), rel=0.01)
    apart = fairness.apart(fairness.given(unrolled, OUT), fairness.given(again, OUT))
    assert apart == {"num_steps": ("980", "500"), "lr_anneal_steps": ("980", "500")}
    fairness.check_pairs(plan.runs(), OUT)


def test_differences_are_the_options_in_which_arms_differ_and_no_others():
    assert fairness.differences(a_plan("3d", "lifted", "paper").runs(), OUT).splitlines() == [
        "supervision: 3d 3d, lifted 3d, paper 2d",
        "teacher: 3d gt, lifted lifted, paper lifted",
        "loss: 3d mdm, lifted mdm, paper paper",
        "depth_weight: 3d depth2, lifted depth2, paper mean1",
        "denoiser passes a step, expected: 3d 1, lifted 1, paper 1.96",
    ]


def trained(run: Run, out: Path, **changes: object) -> None:
    """Write the args.json of a training with these arguments, as a host does."""
    stored: dict[str, object] = {**vars(run.config.supervision), "num_heads": 4}
    for name, value in fairness.given(run, out).items():
        if name not in stored:
            stored[name] = True if value == "yes" else float(value) if value.replace(".", "").isdigit() else value
    run.folder(out).mkdir(parents=True, exist_ok=True)
    (run.folder(out) / "args.json").write_text(json.dumps({**stored, **changes}), encoding="utf-8")


@pytest.mark.parametrize("arm", ["3d", "2d", "paper-no-velocity"])
def test_a_folder_trained_with_these_arguments_goes_on_and_with_others_is_refused(tmp_path, arm):
    run = Run(a_plan(arm), arm, 1)
    fairness.check_trained(run, tmp_path)
    trained(run, tmp_path, save_dir="elsewhere", clips="moved", save_interval=7)
    fairness.check_trained(run, tmp_path)
    for name, value in {"lr": 0.1, "batch_size": 3, "seed": 0, "z_near": 0.7, "paired": False}.items():
        trained(run, tmp_path, **{name: value})
        with pytest.raises(ConfigError, match=rf"args\.json: its training had other arguments .*{name} \({value} and"):
            fairness.check_trained(run, tmp_path)


def test_a_run_from_before_an_option_goes_on_where_the_option_changes_nothing(tmp_path):
    run = Run(a_plan("3d"), "3d", 0)
    trained(run, tmp_path)
    place = run.folder(tmp_path) / "args.json"
    stored = json.loads(place.read_text("utf-8"))
    assert stored.pop("conv_kernel") == 0
    place.write_text(json.dumps(stored), encoding="utf-8")
    fairness.check_trained(run, tmp_path)
    with pytest.raises(ConfigError, match=r"conv_kernel \(0 and 9\)"):
        fairness.check_trained(Run(dataclasses.replace(run.plan, conv_kernel=9), "3d", 0), tmp_path)


def test_a_run_that_began_on_teachers_of_another_version_is_refused_and_one_that_did_not_begin_takes_the_new(tmp_path):
    run = Run(a_plan("refined"), "refined", 0)
    fairness.check_teachers(run, tmp_path, "abc 3")
    fairness.note_teachers(run, tmp_path, "abc 2")
    fairness.check_teachers(run, tmp_path, "abc 3")
    fairness.note_teachers(run, tmp_path, "abc 3")
    (run.folder(tmp_path) / "progress.csv").write_text("step,loss\n25,0.5\n", encoding="utf-8")
    fairness.note_teachers(run, tmp_path, "abc 4")
    fairness.check_teachers(run, tmp_path, "abc 3")
    with pytest.raises(
        ConfigError, match=r"teachers\.txt: expected .*\(abc 4\), found .*\(abc 3\)\. Choose another --out"
    ):
        fairness.check_teachers(run, tmp_path, "abc 4")


def test_an_args_json_cut_short_is_refused_only_where_the_training_is_done(tmp_path):
    run = Run(a_plan("3d"), "3d", 0)
    trained(run, tmp_path)
    (run.folder(tmp_path) / "args.json").write_text('{"lr": 0.', encoding="utf-8")
    fairness.check_trained(run, tmp_path)
    run.checkpoint(tmp_path).touch()
    with pytest.raises(ConfigError, match=r"args\.json: expected JSON, found other text"):
        fairness.check_trained(run, tmp_path)
