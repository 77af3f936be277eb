"""Arms of a comparison: files in configs/arms that say how `Supervision` differs from its defaults.

Two more entries say what the arm is meant to be compared with and in what it is meant to differ (`fairness`):
`of: NAME`, by default `2d`, and `declare: [OPTION, ...]`, by default the options that the file names.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from videomdm_ext.config import Supervision
from videomdm_ext.errors import ConfigError
from videomdm_ext.options import as_flags, difference, from_mapping, read_yaml, shipped

FOLDER = shipped("configs") / "arms"
ROOT = "2d"
"""The arm that the others are variations of, unless they name another one."""
RENAMED = {"3d-on-teacher": "lifted", "3d-on-refined": "refined", "2d-reprojection": "paper"}
"""Arms by the name that they had before."""


@dataclass(frozen=True)
class ArmConfig:
    """A named way to supervise; `declares` are the options in which it is meant to differ from the arm `of`."""

    name: str
    supervision: Supervision
    declares: tuple[str, ...] = ()
    of: str = ROOT

    @property
    def flags(self) -> list[str]:
        """The host's command-line arguments for this arm."""
        return as_flags(self.supervision)


def known_arms() -> list[str]:
    """Return the names of the arms that come with the package; those of subfolders too, without the folder."""
    return sorted(path.stem for path in FOLDER.rglob("*.yaml"))


def renamed(name: str) -> str | None:
    """The present name of an arm that had the name `name`, or None."""
    for old, new in RENAMED.items():
        if name == old or name.startswith(f"{old}-"):
            return name.replace(old, new, 1)
    return None


def arm_name(arm: str) -> str:
    """What to call an arm that is given by its name or by the path of its YAML file."""
    return Path(arm).stem if arm.endswith((".yaml", ".yml")) else arm


def load_arm(name: str) -> ArmConfig:
    """An arm by its name, or by the path of its YAML file. ConfigError says which there are."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else _place(name)
    if not path.is_file():
        if present := renamed(name):
            raise ConfigError(f"arm {name!r}: it is called {present!r} now. Use that name.")
        raise ConfigError(f"arm {name!r}: expected one of {', '.join(known_arms())}, or a YAML file. Found neither.")
    entries = read_yaml(path)
    of, declares = entries.pop("of", ROOT), entries.pop("declare", list(entries))
    supervision = from_mapping(Supervision, entries, str(path))
    return ArmConfig(arm_name(name), supervision, _options(declares, path), _known(of, path))


def _place(name: str) -> Path:
    """The file of a known arm, or where it would be."""
    return next(FOLDER.rglob(f"{name}.yaml"), FOLDER / f"{name}.yaml")


def _options(declares: Any, path: Path) -> tuple[str, ...]:
    """The list of options under `declare`."""
    known = {item.name for item in fields(Supervision)}
    if not isinstance(declares, list) or not set(map(str, declares)) <= known:
        raise ConfigError(f"{path}: declare: expected a list of options of the supervision, found {declares!r}.")
    return tuple(declares)


def _known(of: Any, path: Path) -> str:
    if of not in known_arms():
        raise ConfigError(f"{path}: of: expected one of {', '.join(known_arms())}, found {of!r}.")
    return str(of)


def settings(arm: ArmConfig) -> str:
    """In one line, how the arm differs from the defaults."""
    changed = difference(arm.supervision, Supervision())
    return ", ".join(f"{name} {value}" for name, (value, _) in changed.items()) or "defaults"
