"""Arms of a comparison: files in configs/arms that say how `Supervision` differs from its defaults."""

from dataclasses import dataclass
from pathlib import Path

from videomdm_ext.config import Supervision
from videomdm_ext.errors import ConfigError
from videomdm_ext.options import as_flags, difference, from_mapping, read_yaml

FOLDER = Path(__file__).resolve().parents[2] / "configs" / "arms"


@dataclass(frozen=True)
class ArmConfig:
    """A named way to supervise."""

    name: str
    supervision: Supervision

    @property
    def flags(self) -> list[str]:
        """The host's command-line arguments for this arm."""
        return as_flags(self.supervision)


def known_arms() -> list[str]:
    """Names of the arms that come with the package's sources."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def arm_name(arm: str) -> str:
    """What to call an arm that is given by its name or by the path of its YAML file."""
    return Path(arm).stem if arm.endswith((".yaml", ".yml")) else arm


def load_arm(name: str) -> ArmConfig:
    """An arm by its name, or by the path of its YAML file. ConfigError says which there are."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(known_arms()) or f"none: {FOLDER} is missing; install with pip install -e"
        raise ConfigError(f"arm {name!r}: expected one of {known}, or a YAML file. Found neither.")
    return ArmConfig(arm_name(name), from_mapping(Supervision, read_yaml(path), str(path)))


def settings(arm: ArmConfig) -> str:
    """In one line, how the arm differs from the defaults."""
    changed = difference(arm.supervision, Supervision())
    return ", ".join(f"{name} {value}" for name, (value, _) in changed.items()) or "defaults"
