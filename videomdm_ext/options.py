"""Frozen dataclasses on the command line and in YAML: one definition serves argparse, args.json and config files."""

import argparse
import dataclasses
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import yaml

from videomdm_ext.config import OLD_OPTIONS, Supervision
from videomdm_ext.errors import ConfigError

Config = TypeVar("Config")


def repository() -> Path | None:
    """Return the clone that this package runs from, or None where it was installed from a wheel."""
    root = Path(str(resources.files("videomdm_ext"))).parent
    return root if (root / "setup.py").is_file() else None


def shipped(name: str) -> Path:
    """Return the folder `configs`: beside the package in a clone, inside it in a wheel (setup.py)."""
    inside = Path(str(resources.files("videomdm_ext") / name))
    return inside if inside.is_dir() else inside.parents[1] / name


def add_arguments(group: "argparse._ArgumentGroup", config: type[Any]) -> None:
    """One flag a field of the dataclass `config`; a switch also gets its --no- form."""
    for item in dataclasses.fields(config):
        name, about = f"--{item.name}", item.metadata["help"].replace("%", "%%")
        if isinstance(item.default, bool):
            group.add_argument(name, action=argparse.BooleanOptionalAction, default=item.default, help=about)
        else:
            choices = item.metadata["choices"] or None
            group.add_argument(name, type=type(item.default), default=item.default, choices=choices, help=about)
    for old, kind in OLD_OPTIONS.items() if config is Supervision else ():
        action = group.add_argument(f"--{old}", type=kind, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        group._group_actions.remove(action)  # what a host restores from args.json are the options of this group


def from_args(config: type[Config], args: argparse.Namespace) -> Config:
    """The dataclass from parsed (or restored) arguments; a field that args.json does not know keeps its default."""
    names, values = [item.name for item in dataclasses.fields(config)], _upgraded(config, vars(args))  # type: ignore[arg-type]
    return config(**{name: values[name] for name in names if name in values})


def _upgraded(config: type[Any], values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Names and values with those of earlier versions replaced, where the dataclass had others."""
    return Supervision.upgraded(values) if config is Supervision else values


def from_mapping(config: type[Config], values: Mapping[str, Any], source: str) -> Config:
    """The dataclass from names and values; ConfigError names `source` for one that it does not have."""
    names, values = [item.name for item in dataclasses.fields(config)], _upgraded(config, values)  # type: ignore[arg-type]
    unknown = [name for name in values if name not in names]
    if unknown:
        raise ConfigError(f"{source}: expected options among {', '.join(names)}, found {', '.join(map(str, unknown))}.")
    try:
        return config(**values)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file of names and values."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: expected a readable YAML file, found: {error}. Correct the file.") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected names and values, found {type(values).__name__}. Correct the file.")
    return values


def to_yaml(config: Any) -> str:
    """Every field with its value."""
    return yaml.safe_dump(dataclasses.asdict(config), sort_keys=False)


def difference(first: Any, second: Any) -> dict[str, tuple[Any, Any]]:
    """Fields in which two dataclasses of one kind differ, with both values."""
    one, two = dataclasses.asdict(first), dataclasses.asdict(second)
    return {name: (one[name], two[name]) for name in one if one[name] != two[name]}


def as_flags(config: Any) -> list[str]:
    """Command-line arguments that give this dataclass again; fields at their default are left out."""
    flags: list[str] = []
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if value == item.default:
            continue
        if isinstance(value, bool):
            flags.append(f"--{item.name}" if value else f"--no-{item.name}")
        else:
            flags += [f"--{item.name}", str(value)]
    return flags
