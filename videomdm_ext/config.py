"""Every switch of a run as frozen dataclasses, validated once, and their forms: command line, args.json, YAML."""

import argparse
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib import resources
from math import inf
from pathlib import Path
from typing import Any, TypeVar

import yaml

from videomdm_ext.errors import ConfigError


def option(default: Any, help: str, choices: tuple[str, ...] = ()) -> Any:
    """A field with its help text and, for names, the allowed values."""
    return field(default=default, metadata={"help": help, "choices": choices})


def check_choices(config: Any) -> None:
    """Refuse a value that is not among a field's choices, or is not of its type. Raises ConfigError."""
    for item in fields(config):
        value, choices = getattr(config, item.name), item.metadata.get("choices", ())
        if choices and value not in choices:
            raise ConfigError(f"--{item.name}: expected one of {', '.join(choices)}, found {value!r}.")
        expected = type(item.default)
        if type(value) is not expected and (expected, type(value)) != (float, int):
            raise ConfigError(f"--{item.name}: expected {expected.__name__}, found {value!r}.")
        if expected is float and not 0 <= value < inf:
            raise ConfigError(f"--{item.name}: expected a number not below 0, found {value!r}.")


MADE = ("smoothed", "adjusted", "refined")
"""Teachers that are made of the lifted ones and kept beside them."""


@dataclass(frozen=True)
class Supervision:
    """What supervises the denoiser: which motion is diffused and which terms are paid (docs/method.md).

    `auto` is replaced by what it stands for, so that what is stored with a run says what ran.
    """

    supervision: str = option("3d", "Supervise with 3D motion (MDM's own loss) or with 2D keypoints.", ("2d", "3d"))
    teacher: str = option(
        "auto",
        "What is diffused: the lifter's motion, the same smoothed in time, adjusted on its keypoints' rays (bundle "
        "adjustment), refined there (adjusted, with likely poses), or the truth (gt). auto: gt under 3d, refined under "
        "2d.",
        ("auto", "gt", "lifted", *MADE),
    )
    loss: str = option(
        "auto",
        "The 2D loss: `posterior` and other terms of docs/method.md or of plugins by name, the presets `reprojection` "
        "and `paper`, and NAME=WEIGHT, with commas between; later ones win, 0 drops a term. auto: MDM's own loss "
        "(`mdm`) under 3d, posterior under 2d.",
    )
    depth_weight: str = option(
        "depth2",
        "Weight of the image residual: squared depth of each joint, the clip's mean depth (parity), none, "
        "or depth2 with horizontal residuals raised to an isotropic expectation.",
        ("depth2", "mean1", "none", "isotropic"),
    )
    azimuth_noise_degrees: float = option(
        0.0,
        "Standard deviation of an error of each clip's camera azimuth, an orbit about the clip's origin (ablation).",
    )
    z_near: float = option(0.5, "Joints nearer than this to the camera plane pay a hinge, m.")
    unroll: str = option("on", "Under 2d, reach low-noise timesteps from higher noise.", ("on", "off"))
    unroll_below: float = option(
        0.24, "Timesteps under this share of the schedule, or under this timestep (1 and more), come from higher noise."
    )
    unroll_steps: int = option(4, "Denoiser passes of an unrolled step.")
    best_share: float = option(
        1.0, "Share of the training clips, those whose lifted motion is nearest to its keypoints."
    )
    known_share: float = option(
        0.0, "Share of the training clips whose truth is diffused and paid in 3D, under 2d; drawn by their ids."
    )
    mix_below: float = option(
        0.0,
        "MotionMix: share of the schedule that clips of known motion alone train, the others the rest of it; 0: all "
        "train all of it.",
    )

    def __post_init__(self) -> None:
        check_choices(self)
        two = self.supervision == "2d"
        if not two and self.loss not in ("auto", "mdm"):
            raise ConfigError(
                f"--loss {self.loss}: expected none under --supervision 3d, where MDM's own loss is paid. Leave it "
                "out, or choose --supervision 2d."
            )
        if self.teacher == "auto":
            object.__setattr__(self, "teacher", "refined" if two else "gt")
        if self.loss == "auto":
            object.__setattr__(self, "loss", "posterior" if two else "mdm")
        if self.azimuth_noise_degrees > 0 and self.teacher in MADE:
            raise ConfigError(
                f"--azimuth_noise_degrees: expected --teacher lifted or gt, found {self.teacher}, which is made with "
                "the true cameras. Choose another --teacher."
            )
        if not 0 < self.best_share <= 1 or self.known_share > 1 or self.mix_below >= 1:
            raise ConfigError(
                "--best_share, --known_share, --mix_below: expected shares: above 0 and at most 1, at most 1, under 1; "
                f"found {self.best_share:g}, {self.known_share:g}, {self.mix_below:g}. Correct them."
            )
        if (self.known_share or self.mix_below) and not two:
            raise ConfigError("--known_share, --mix_below: expected --supervision 2d, found 3d. Leave them out.")
        if self.mix_below and self.unroll == "on":
            raise ConfigError("--mix_below: expected --unroll off, found on, which draws timesteps itself. Add it.")
        if self.unroll_steps < 2:
            raise ConfigError(f"--unroll_steps: expected 2 or more passes, found {self.unroll_steps}.")
        if self.unroll_below <= 0:
            raise ConfigError(f"--unroll_below: expected a share or a timestep above 0, found {self.unroll_below}.")
        if self.z_near <= 0:
            raise ConfigError(f"--z_near: expected a distance above 0 m, found {self.z_near}.")

    @staticmethod
    def upgraded(values: Mapping[str, Any]) -> dict[str, Any]:
        """Options of earlier versions (`OLD_OPTIONS`) in terms of `loss` and `unroll`; other names stay as they are."""
        new = {name: value for name, value in values.items() if name not in OLD_OPTIONS}
        old = {name: value for name, value in values.items() if name in OLD_OPTIONS}
        two = values.get("supervision", "3d") == "2d"
        if values.get("unroll") == "auto":
            fixed_target = two and (old.get("objective"), old.get("ray_depth")) == ("ray", "teacher")
            new["unroll"] = "off" if fixed_target else "on"
        if not (two and old) and not old.get("extra_terms"):
            return new
        asked = values.get("loss", "auto")
        if values.get("teacher", "auto") == "auto":
            new["teacher"] = "refined" if two else "auto"
        # With the refined teacher's own depth the target of `ray` was the teacher, to 4.5e-6: MDM's own loss.
        identity = old.get("ray_depth", "teacher") == "teacher" and values.get("teacher", "auto") in ("auto", "refined")
        ray = f"{'motion' if identity else 'ray'}={old.get('weight_ray', 1.0)}"
        objective = old.get("objective", "reprojection")
        parts = (
            {"ray": [ray], "both": [ray, "reprojection"]}.get(objective, [objective]) if asked == "auto" else [asked]
        )
        given = [name for name in OLD_OPTIONS if name.startswith("weight_") and name in old and name != "weight_ray"]
        if objective == "ray":
            given = [name for name in given if name in ("weight_floor", "weight_bone_length")]
        parts += [f"{name.removeprefix('weight_')}={old[name]}" for name in given]
        new["loss"] = ",".join((*parts, *filter(None, (old.get("extra_terms"),))))
        return new


OLD_OPTIONS: Mapping[str, type] = {
    "objective": str, "ray_depth": str, "extra_terms": str, "weight_ray": float, "weight_position": float,
    "weight_velocity": float, "weight_alignment": float, "weight_near": float, "weight_floor": float,
    "weight_bone_length": float,
}  # fmt: skip
"""Options of version 0.1 that `--loss` replaces, with their types; they are still understood, see `upgraded`."""


@dataclass(frozen=True)
class Source:
    """What this package gives the host to train on; with the defaults the host is left as it is."""

    clips: str = option("", "Folder of a data set made by `videomdm data`; empty: the host's own data.")
    crop_frames: int = option(196, "Longest crop of a clip, frames.")
    start_from: str = option(
        "",
        "Begin with the weights of a checkpoint, or of the newest in a run's folder, with its args.json beside it; "
        "`videomdm train --from` is the same.",
    )
    start_statistics: str = option(
        "", "Folder with the Mean.npy and Std.npy of that checkpoint's training; empty: as its args.json says."
    )
    text_features: str = option(
        "auto",
        "Text features: clip (the host's own), minilm (extra `demo`), words (hashed, no model), the name of a plugin's "
        "encoder, or auto: the first of these three that loads. A checkpoint keeps its own.",
    )
    verify: bool = option(
        False, "Before a training, read every file of --clips; else those whose size or time is another than before."
    )

    def __post_init__(self) -> None:
        check_choices(self)
        if self.crop_frames < 2:
            raise ConfigError(f"--crop_frames: expected 2 or more frames, found {self.crop_frames}.")


@dataclass(frozen=True)
class Fairness:
    """What makes runs comparable beyond the host's own habits."""

    paired: bool = option(
        False,
        "Exactly --num_steps updates, the data as they are now, no silent resumption, and own random streams for "
        "order, crop, noise, timestep and condition dropout, so that two arms see the same draws.",
    )


@dataclass(frozen=True)
class Speed:
    """Savings that change the last bits of a result; those that change none are always on."""

    one_pass_guidance: bool = option(False, "One denoiser pass for both halves of guidance (differences about 1e-6).")
    autocast: str = option("off", "Number format of the denoiser's matrix products.", ("off", "bf16"))
    tf32: bool = option(False, "TF32 matrix products, where a GPU has them.")
    compile_model: bool = option(False, "Compile the denoiser with torch.compile.")
    encode_once: bool = option(
        False,
        "Encode each text of CLIP once, by itself and without its padding (differences about 1e-6 of a feature's "
        "length, 1e-3 in half precision).",
    )

    def __post_init__(self) -> None:
        check_choices(self)


Config = TypeVar("Config")


def repository() -> Path | None:
    """Return the clone that this package runs from, or None where it was installed from a wheel."""
    root = Path(str(resources.files("videomdm_ext"))).parent
    return root if (root / "setup.py").is_file() else None


def shipped(name: str) -> Path:
    """Return the folder `configs`: beside the package in a clone, inside it in a wheel (setup.py)."""
    inside = Path(str(resources.files("videomdm_ext") / name))
    return inside if inside.is_dir() else inside.parents[1] / name


def add_arguments(group: "argparse._ArgumentGroup | argparse.ArgumentParser", config: type[Any]) -> None:
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
        if isinstance(group, argparse._ArgumentGroup):
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
        values = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: expected a readable YAML file, found: {error}. Correct the file.") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected names and values, found {type(values).__name__}. Correct the file.")
    return values


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
