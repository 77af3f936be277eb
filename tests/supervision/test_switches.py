"""The switches are validated once, and an error names the option, what was expected and what was found."""

import math
from typing import Any

import pytest

from videomdm_ext.config import OLD_OPTIONS, Supervision
from videomdm_ext.errors import ConfigError

WRONG = [
    ("supervision", "4d", "one of 2d, 3d"),
    ("teacher", "truth", "one of auto, gt, lifted, smoothed, adjusted, refined"),
    ("loss", 1.0, "str"),
    ("depth_weight", "depth", "one of depth2, mean1, none, isotropic"),
    ("z_near", 0.0, "above 0"),
    ("z_near", "near", "float"),
    ("z_near", -1, "not below 0"),
    ("z_near", True, "float"),
    ("z_near", math.nan, "not below 0"),
    ("z_near", math.inf, "not below 0"),
    ("z_near", None, "float"),
    ("unroll", 1, "one of on, off"),
    ("unroll", "auto", "one of on, off"),
    ("unroll_steps", 1, "2 or more"),
    ("unroll_steps", 4.0, "int"),
    ("unroll_below", 0, "above 0"),
]


@pytest.mark.parametrize(("name", "value", "expected"), WRONG)
def test_a_value_that_cannot_be_used_is_an_error_that_names_the_option(name: str, value: Any, expected: str) -> None:
    with pytest.raises(ConfigError) as error:
        Supervision(**{name: value})
    message = str(error.value)
    assert f"--{name}:" in message
    assert expected in message
    assert repr(value) in message or value == 0.0


def test_a_whole_number_is_a_good_distance() -> None:
    assert Supervision(z_near=2).z_near == 2


@pytest.mark.parametrize(
    ("given", "teacher", "loss"),
    [
        ({}, "gt", "mdm"),
        ({"teacher": "refined"}, "refined", "mdm"),
        ({"supervision": "2d"}, "refined", "posterior"),
        ({"supervision": "2d", "teacher": "lifted", "loss": "floor=2"}, "lifted", "floor=2"),
    ],
)
def test_what_is_left_open_is_replaced_by_what_runs(given: dict[str, str], teacher: str, loss: str) -> None:
    config = Supervision(**given)
    assert (config.teacher, config.loss) == (teacher, loss)
    assert Supervision(**vars(config)) == config


def test_under_3d_a_loss_of_ones_own_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--loss floor=1: expected none under --supervision 3d.*Leave it out"):
        Supervision(loss="floor=1")
    assert Supervision(loss="mdm").loss == "mdm"


OLD = {"objective": "ray", "ray_depth": "teacher", "extra_terms": "", "unroll": "auto"} | {
    f"weight_{name}": weight
    for name, weight in {"ray": 1.0, "position": 0.3, "velocity": 15.0, "alignment": 1.0, "near": 1.0, "floor": 0.0,
                         "bone_length": 0.0}.items()
}  # fmt: skip
"""What args.json of version 0.1 holds beside the supervision."""
REPROJECTION = "reprojection,position=0.3,velocity=15.0,alignment=1.0,near=1.0,floor=0.0,bone_length=0.0"


@pytest.mark.parametrize(
    ("old", "loss", "unroll"),
    [
        ({"teacher": "auto"}, "motion=1.0,floor=0.0,bone_length=0.0", "off"),
        ({"teacher": "refined", "weight_ray": 2.0}, "motion=2.0,floor=0.0,bone_length=0.0", "off"),
        ({"teacher": "lifted"}, "ray=1.0,floor=0.0,bone_length=0.0", "off"),
        ({"ray_depth": "blend", "unroll": "on"}, "ray=1.0,floor=0.0,bone_length=0.0", "on"),
        ({"objective": "reprojection"}, REPROJECTION, "on"),
        ({"objective": "reprojection", "unroll": "off"}, REPROJECTION, "off"),
        ({"objective": "both", "extra_terms": "still=2"}, f"motion=1.0,{REPROJECTION},still=2", "on"),
    ],
)
def test_the_options_of_an_earlier_version_are_understood(old: dict[str, Any], loss: str, unroll: str) -> None:
    found = Supervision.upgraded({"supervision": "2d", "layers": 3, **OLD, **old})
    assert (found["loss"], found["unroll"], found["layers"]) == (loss, unroll, 3)
    assert not found.keys() & OLD_OPTIONS.keys()


def test_old_flags_beside_a_loss_change_it_and_alone_change_the_reprojection() -> None:
    two = {"supervision": "2d", "loss": "auto"}
    assert Supervision.upgraded({**two, "weight_velocity": 0.0})["loss"] == "reprojection,velocity=0.0"
    assert Supervision.upgraded({**two, "loss": "motion", "extra_terms": "still=1"})["loss"] == "motion,still=1"
    assert Supervision.upgraded(two) == two


def test_under_3d_old_options_meant_nothing_and_a_plugins_term_is_refused_now() -> None:
    three = Supervision.upgraded({"supervision": "3d", "teacher": "lifted", **OLD})
    assert three == {"supervision": "3d", "teacher": "lifted", "unroll": "on"}
    with pytest.raises(ConfigError, match=r"--loss .*still=1: expected none under --supervision 3d"):
        Supervision(**Supervision.upgraded({"extra_terms": "still=1"}))
