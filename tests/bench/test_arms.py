"""Arms are YAML files that say how the supervision differs from its defaults, and nothing else."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import yaml

from videomdm_ext.bench.plan import FOLDER, ArmConfig, arm_name, known_arms, load_arm, settings
from videomdm_ext.config import Supervision, add_arguments, difference, from_args
from videomdm_ext.errors import ConfigError


def file_of(name: str) -> Path:
    """-> the only file of an arm, wherever below the folder."""
    (place,) = FOLDER.rglob(f"{name}.yaml")
    return place


def written(name: str) -> dict[str, object]:
    """-> the options in an arm's file."""
    entries = yaml.safe_load(file_of(name).read_text("utf-8"))
    return {name: value for name, value in entries.items() if name not in ("of", "declare")}


@pytest.mark.parametrize("name", known_arms())
def test_an_arm_is_the_defaults_with_what_its_file_says(name):
    arm = load_arm(name)
    assert (arm.name, arm.supervision) == (name, Supervision(**written(name)))
    assert all(getattr(arm.supervision, key) == value for key, value in written(name).items())


@pytest.mark.parametrize("name", known_arms())
def test_the_flags_of_an_arm_give_the_host_its_supervision(name):
    parser = argparse.ArgumentParser()
    add_arguments(parser.add_argument_group("diffusion"), Supervision)
    assert from_args(Supervision, parser.parse_args(load_arm(name).flags)) == load_arm(name).supervision


def test_arms_differ_in_which_motion_is_diffused_and_which_terms_are_paid():
    arms = {name: load_arm(name).supervision for name in ("3d", "lifted", "refined", "2d", "paper")}
    assert {name: (arm.supervision, arm.teacher, arm.loss) for name, arm in arms.items()} == {
        "3d": ("3d", "gt", "mdm"),
        "lifted": ("3d", "lifted", "mdm"),
        "refined": ("3d", "refined", "mdm"),
        "2d": ("2d", "refined", "reprojection"),
        "paper": ("2d", "lifted", "paper"),
    }
    for arm in arms.values():
        assert set(difference(arm, arms["3d"])) <= {"supervision", "teacher", "loss", "depth_weight"}
    assert arms["paper"].depth_weight == "mean1"


ABLATIONS = {
    "2d-gt": ("2d", {"teacher": ("gt", "refined")}),
    "2d-not-unrolled": ("2d", {"unroll": ("off", "on")}),
    "paper-gt": ("paper", {"teacher": ("gt", "lifted")}),
    "paper-no-depth-weight": ("paper", {"depth_weight": ("none", "mean1")}),
    "paper-squared-depth": ("paper", {"depth_weight": ("depth2", "mean1")}),
    "paper-isotropic": ("paper", {"depth_weight": ("isotropic", "mean1")}),
    "paper-not-unrolled": ("paper", {"unroll": ("off", "on")}),
    "paper-no-alignment": ("paper", {"loss": ("paper,alignment=0", "paper")}),
    "paper-no-velocity": ("paper", {"loss": ("paper,velocity=0", "paper")}),
}


def test_every_arm_beside_the_five_is_an_ablation():
    assert set(known_arms()) == {"3d", "lifted", "refined", "2d", "paper", *ABLATIONS}


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_is_another_arm_less_one_part(name):
    of, parts = ABLATIONS[name]
    arm = load_arm(name)
    assert arm.of == of
    assert difference(arm.supervision, load_arm(of).supervision) == parts
    assert arm.declares == tuple(parts)


@pytest.mark.parametrize("name", known_arms())
def test_every_file_declares_exactly_in_what_it_differs_from_its_arm(name):
    arm = load_arm(name)
    assert set(difference(arm.supervision, load_arm(arm.of).supervision)) == set(arm.declares)
    assert "declare:" in file_of(name).read_text("utf-8")


def test_an_arm_without_a_declaration_declares_what_its_file_names(tmp_path):
    place = tmp_path / "mine.yaml"
    place.write_text("supervision: 2d\nloss: floor=0.5\n", encoding="utf-8")
    assert load_arm(str(place)).declares == ("supervision", "loss")
    assert load_arm(str(place)).of == "2d"


@pytest.mark.parametrize(
    ("content", "found"),
    [("of: 4d\n", "of: expected one of"), ("declare: [steps]\n", "declare: "), ("declare: teacher\n", "declare: ")],
)
def test_a_wrong_declaration_is_an_error_that_names_the_file(tmp_path, content, found):
    place = tmp_path / "mine.yaml"
    place.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_arm(str(place))
    assert str(caught.value).startswith(f"{place}: {found}")


def test_every_file_says_what_it_is_for():
    assert all(file_of(name).read_text("utf-8").startswith("# ") for name in known_arms())


def test_a_file_of_ones_own_is_an_arm_of_its_name(tmp_path):
    place = tmp_path / "mine.yaml"
    place.write_text("supervision: 2d\nloss: floor=0.5\n", encoding="utf-8")
    arm = load_arm(str(place))
    assert arm.name == arm_name(str(place)) == "mine"
    assert settings(arm) == "supervision 2d, teacher refined, loss floor=0.5"
    assert settings(ArmConfig("plain", Supervision())) == "defaults"


def test_an_unknown_arm_is_an_error_that_lists_those_that_are_there():
    with pytest.raises(ConfigError, match=r"arm '4d': expected one of .*lifted"):
        load_arm("4d")


def test_a_file_with_options_of_an_earlier_version_is_understood(tmp_path):
    place = tmp_path / "mine.yaml"
    place.write_text("supervision: 2d\nobjective: reprojection\nweight_velocity: 0.0\n", encoding="utf-8")
    assert load_arm(str(place)).supervision.loss == "reprojection,velocity=0.0"


@pytest.mark.parametrize(
    ("old", "new"),
    [("3d-on-teacher", "lifted"), ("3d-on-refined", "refined"), ("2d-reprojection", "paper"), ("2d-both", "2d"),
     ("2d-reprojection-refined", "2d"), ("2d-reprojection-no-velocity", "paper-no-velocity")],
)  # fmt: skip
def test_an_arms_old_name_is_refused_with_its_present_one(old, new):
    with pytest.raises(ConfigError, match=f"arm '{old}': it is called '{new}' now"):
        load_arm(old)
    assert load_arm(new).name == new


@pytest.mark.parametrize(
    ("content", "found"), [("supervison: 2d\n", "supervison"), ("unroll_steps: 1\n", "--unroll_steps")]
)
def test_a_wrong_entry_is_an_error_that_names_the_file_and_the_entry(tmp_path, content, found):
    place = tmp_path / "mine.yaml"
    place.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_arm(str(place))
    assert str(caught.value).startswith(f"{place}: ")
    assert found in str(caught.value)
