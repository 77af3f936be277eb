"""The switches are validated once, and an error names the option, what was expected and what was found."""

import math
from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest

from videomdm_ext.config import Supervision
from videomdm_ext.errors import ConfigError

WRONG = [
    ("supervision", "4d", "one of 2d, 3d"),
    ("objective", "rays", "one of ray, reprojection, both"),
    ("ray_depth", "truth", "one of prediction, teacher, blend"),
    ("depth_weight", "depth", "one of depth2, mean1, none, isotropic"),
    ("confidence", "cube", "one of square, linear"),
    ("z_near", 0.0, "above 0"),
    ("z_near", "near", "float"),
    ("unroll", 1, "one of auto, on, off"),
    ("unroll_steps", 1, "2 or more"),
    ("unroll_steps", 4.0, "int"),
    ("unroll_below", 0, "above 0"),
    ("weight_ray", -1.0, "not below 0"),
    ("weight_ray", -1, "not below 0"),
    ("weight_ray", True, "float"),
    ("weight_alignment", math.nan, "not below 0"),
    ("weight_floor", math.inf, "not below 0"),
    ("weight_velocity", None, "float"),
]


@pytest.mark.parametrize(("name", "value", "expected"), WRONG)
def test_a_value_that_cannot_be_used_is_an_error_that_names_the_option(name: str, value: Any, expected: str) -> None:
    with pytest.raises(ConfigError) as error:
        Supervision(**{name: value})
    message = str(error.value)
    assert f"--{name}:" in message
    assert expected in message
    assert repr(value) in message or value == 0.0


def test_whole_numbers_are_good_weights_and_the_defaults_are_valid() -> None:
    assert Supervision(weight_ray=2).weight_ray == 2
    assert Supervision() == Supervision(**{item.name: item.default for item in fields(Supervision)})


def test_switches_cannot_be_changed_once_validated() -> None:
    with pytest.raises(FrozenInstanceError):
        Supervision().weight_ray = -1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("objective", "ray", "reprojection"),
    [("ray", True, False), ("reprojection", False, True), ("both", True, True)],
)
def test_the_objective_switch_chooses_its_forms(objective: str, ray: bool, reprojection: bool) -> None:
    config = Supervision(objective=objective)
    assert (config.uses_ray, config.uses_reprojection) == (ray, reprojection)


@pytest.mark.parametrize(
    ("changes", "unrolls"),
    [
        ({}, False),
        ({"unroll": "on"}, True),
        ({"ray_depth": "prediction"}, True),
        ({"ray_depth": "blend"}, True),
        ({"ray_depth": "blend", "unroll": "off"}, False),
        ({"objective": "reprojection"}, True),
        ({"objective": "both"}, True),
    ],
)
def test_steps_are_unrolled_where_the_target_is_the_predictions_own(changes: dict[str, str], unrolls: bool) -> None:
    assert Supervision(supervision="2d", **changes).unrolls is unrolls
