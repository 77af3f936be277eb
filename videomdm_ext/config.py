"""Every switch of a run as frozen dataclasses, validated once. Files and command lines are read in options.py."""

from dataclasses import Field, dataclass, field, fields
from math import inf
from typing import Any

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
        _check_type(item, value)
        if type(item.default) is float and not 0 <= value < inf:
            raise ConfigError(f"--{item.name}: expected a number not below 0, found {value!r}.")


def _check_type(item: "Field[Any]", value: Any) -> None:
    expected = type(item.default)
    if expected is float and type(value) is int:
        return
    if type(value) is not expected:
        raise ConfigError(f"--{item.name}: expected {expected.__name__}, found {value!r}.")


@dataclass(frozen=True)
class Supervision:
    """What supervises the denoiser, and how (docs/method.md). Under `3d` the host's own loss is left alone."""

    supervision: str = option("3d", "Supervise with 3D motion (MDM's own loss) or with 2D keypoints.", ("2d", "3d"))
    teacher: str = option(
        "auto",
        "What is diffused: the lifter's motion, the same refined on its keypoints' rays, or the truth (gt). "
        "auto: gt under 3d, refined under 2d.",
        ("auto", "gt", "lifted", "refined"),
    )
    objective: str = option("ray", "Form of the 2D loss.", ("ray", "reprojection", "both"))
    ray_depth: str = option(
        "teacher",
        "Where a ray target's depth comes from; blend takes the teacher at high noise, the prediction at low noise.",
        ("prediction", "teacher", "blend"),
    )
    depth_weight: str = option(
        "depth2",
        "Weight of the image residual: squared depth of each joint, the clip's mean depth (parity), none, "
        "or depth2 with horizontal residuals raised to an isotropic expectation.",
        ("depth2", "mean1", "none", "isotropic"),
    )
    confidence: str = option(
        "square",
        "Weight g(s) of a keypoint with confidence s.",
        ("square", "linear", "above0.4", "above0.6", "none"),
    )
    azimuth_noise_degrees: float = option(
        0.0,
        "Standard deviation of an error of each clip's camera azimuth, an orbit about the clip's origin (ablation).",
    )
    z_near: float = option(0.5, "Joints nearer than this to the camera plane pay a hinge, m.")
    unroll: str = option(
        "auto",
        "Start low-noise timesteps from higher noise. auto: where the target is the prediction's own "
        "(reprojection, and ray with ray_depth prediction or blend).",
        ("auto", "on", "off"),
    )
    unroll_below: int = option(12, "Timesteps under this start from higher noise.")
    unroll_steps: int = option(4, "Denoiser passes of one unrolled walk.")
    weight_ray: float = option(1.0, "Weight of the ray term.")
    weight_position: float = option(7 / 22, "Weight of the reprojected positions.")
    weight_velocity: float = option(350 / 22, "Weight of the reprojected velocities.")
    weight_alignment: float = option(1.0, "Weight of the representation alignment.")
    weight_near: float = option(1.0, "Weight of the near-plane hinge.")
    weight_floor: float = option(0.0, "Weight of the lowest joint's distance to the floor.")
    weight_bone_length: float = option(0.0, "Weight of the change of bone lengths over time.")

    extra_terms: str = option("", "Loss terms of plugins with their weights: NAME=WEIGHT,NAME=WEIGHT.")

    def __post_init__(self) -> None:
        check_choices(self)
        if self.azimuth_noise_degrees > 0 and self.diffused == "refined":
            raise ConfigError(
                "--azimuth_noise_degrees: expected --teacher lifted or gt, found refined, which is made with the true "
                "cameras. Choose another --teacher."
            )
        if self.unroll_steps < 2:
            raise ConfigError(f"--unroll_steps: expected 2 or more passes, found {self.unroll_steps}.")
        if self.unroll_below < 1:
            raise ConfigError(f"--unroll_below: expected a timestep above 0, found {self.unroll_below}.")
        if self.z_near <= 0:
            raise ConfigError(f"--z_near: expected a distance above 0 m, found {self.z_near}.")

    @property
    def diffused(self) -> str:
        """The teacher, with `auto` resolved."""
        if self.teacher != "auto":
            return self.teacher
        return "gt" if self.supervision == "3d" else "refined"

    @property
    def unrolls(self) -> bool:
        """Whether training steps are unrolled, with `auto` resolved."""
        if self.unroll != "auto":
            return self.unroll == "on"
        return self.uses_reprojection or self.ray_depth != "teacher"

    @property
    def uses_ray(self) -> bool:
        return self.objective != "reprojection"

    @property
    def uses_reprojection(self) -> bool:
        return self.objective != "ray"


@dataclass(frozen=True)
class Source:
    """What this package gives the host to train on; with the defaults the host is left as it is."""

    clips: str = option("", "Folder of a data set made by `videomdm data`; empty: the host's own data.")
    crop_frames: int = option(196, "Longest crop of a clip, frames.")
    text_features: str = option(
        "auto",
        "Text features: clip (the host's own), minilm (extra `demo`), words (hashed, no model), the name of a plugin's "
        "encoder, or auto: the first of these three that loads. A checkpoint keeps its own.",
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
