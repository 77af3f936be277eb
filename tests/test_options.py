"""One dataclass, three forms: what the command line, args.json and a YAML file say comes back the same."""

import argparse
import dataclasses
import json

import pytest
import yaml

from videomdm_ext.config import (
    Source,
    Supervision,
    add_arguments,
    as_flags,
    difference,
    from_args,
    from_mapping,
    option,
    read_yaml,
)
from videomdm_ext.errors import ConfigError

CHANGED = Supervision(
    supervision="2d", teacher="lifted", loss="reprojection,velocity=0.25,still=0.5", depth_weight="none", unroll="off",
    unroll_steps=3, z_near=1e-07,
)  # fmt: skip


DEFAULTS = {item.name: item.default for item in dataclasses.fields(Supervision)}


def parse(words: list[str], config: type = Supervision) -> argparse.Namespace:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_arguments(parser.add_argument_group("diffusion"), config)
    return parser.parse_args(words)


def test_every_field_is_a_flag_with_the_fields_default():
    assert vars(parse([])) == DEFAULTS
    assert from_args(Supervision, parse([])) == Supervision()
    assert vars(parse([], Source)) == dataclasses.asdict(Source())


def test_flags_give_the_dataclass_again_and_leave_defaults_out():
    flags = as_flags(CHANGED)
    assert from_args(Supervision, parse(flags)) == CHANGED
    assert {word for word in flags if word.startswith("--")} == {
        f"--{name}" for name, value in vars(CHANGED).items() if value != DEFAULTS[name]
    }
    assert as_flags(Supervision()) == ["--teacher", "gt", "--loss", "mdm"]


def test_a_switch_that_is_off_by_default_is_turned_on_by_its_name():
    @dataclasses.dataclass(frozen=True)
    class Switch:
        quick: bool = option(False, "Be quick.")

    assert as_flags(Switch(quick=True)) == ["--quick"]
    assert parse(["--quick"], Switch).quick is True
    assert parse(["--no-quick"], Switch).quick is False


def test_numbers_survive_the_way_through_text():
    config = Supervision(teacher="gt", azimuth_noise_degrees=1e-300, z_near=0.1 + 0.2)
    assert from_args(Supervision, parse(as_flags(config))) == config


def test_args_json_gives_the_dataclass_again_and_an_older_one_the_defaults():
    stored = argparse.Namespace(**json.loads(json.dumps(dataclasses.asdict(CHANGED))), layers=3)
    assert from_args(Supervision, stored) == CHANGED
    del stored.depth_weight
    assert from_args(Supervision, stored) == dataclasses.replace(CHANGED, depth_weight="depth2")


def test_a_value_that_is_no_choice_is_refused_by_the_parser_with_the_options_name():
    with pytest.raises(argparse.ArgumentError, match=r"--depth_weight.*'truth'"):
        parse(["--depth_weight", "truth"])
    with pytest.raises(argparse.ArgumentError, match=r"--unroll_steps.*'four'"):
        parse(["--unroll_steps", "four"])


@pytest.mark.parametrize(("words", "name"), [(["--z_near", "-1"], "z_near"), (["--z_near", "nan"], "z_near")])
def test_a_value_that_parses_but_cannot_be_used_is_refused_on_the_way_to_the_dataclass(words, name):
    with pytest.raises(ConfigError, match=f"--{name}: expected"):
        from_args(Supervision, parse(words))


def test_help_may_hold_a_percent_sign():
    @dataclasses.dataclass(frozen=True)
    class Share:
        share: float = option(0.5, "Use 50 % of it.")

    parser = argparse.ArgumentParser()
    add_arguments(parser.add_argument_group("diffusion"), Share)
    assert "Use 50 % of it." in parser.format_help()


def test_yaml_gives_the_dataclass_again(tmp_path):
    place = tmp_path / "arm.yaml"
    place.write_text(yaml.safe_dump(dataclasses.asdict(CHANGED), sort_keys=False), encoding="utf-8")
    assert from_mapping(Supervision, read_yaml(place), str(place)) == CHANGED


def test_a_name_that_no_field_has_is_an_error_that_shows_the_file_the_name_and_the_fields():
    with pytest.raises(ConfigError, match=r"arm\.yaml: .*z_near.* found z_far, 3\."):
        from_mapping(Supervision, {"z_far": 1.0, "supervision": "2d", 3: 4}, "arm.yaml")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"depth_weight": "rays"}, "--depth_weight: expected one of depth2, mean1, none, isotropic, found 'rays'"),
        ({"unroll": "no"}, "--unroll: expected one of on, off, found 'no'"),
        ({"z_near": "1.0"}, "--z_near: expected float, found '1.0'"),
        ({"supervision": 3}, "--supervision: expected one of 2d, 3d, found 3"),
    ],
)
def test_a_value_that_cannot_be_used_is_an_error_that_shows_the_file_and_the_option(values, message):
    with pytest.raises(ConfigError) as caught:
        from_mapping(Supervision, values, "arm.yaml")
    assert str(caught.value).startswith(f"arm.yaml: {message}")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"- 2d\n", "list"),
        (b"", "NoneType"),
        (b"a: [", "while parsing"),
        (b"a: \xff\xfe", "utf-8"),
        (None, "No such file"),
    ],
)
def test_a_file_that_holds_no_names_and_values_is_an_error_that_names_it(tmp_path, content, found):
    place = tmp_path / "arm.yaml"
    if content is not None:
        place.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_yaml(place)
    assert str(place) in str(caught.value)
    assert found in str(caught.value)


def test_a_difference_shows_both_values_of_the_changed_fields_alone():
    other = dataclasses.replace(CHANGED, unroll_steps=5, teacher="refined")
    assert difference(CHANGED, other) == {"teacher": ("lifted", "refined"), "unroll_steps": (3, 5)}
    assert difference(CHANGED, CHANGED) == {}


@pytest.mark.parametrize(("values", "name"), [({"crop_frames": 1}, "crop_frames"), ({"clips": 3}, "clips")])
def test_a_source_that_cannot_be_used_is_an_error_that_names_the_option(values, name):
    with pytest.raises(ConfigError, match=f"--{name}: expected .*found {next(iter(values.values()))!r}"):
        Source(**values)
