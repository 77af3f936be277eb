"""What a comparison compares: its plan, its arms, and the trainings that follow from them.

An arm is a file in configs/arms with the options of `Supervision` that differ from its defaults. Two more entries name
the arm that it is compared with and the options in which it is meant to differ (`fairness`): `of: NAME`, by default
`2d`, and `declare: [OPTION, ...]`, by default the options that the file names.

OUT/plan.json                   what is compared; a folder holds one plan
OUT/runs/ARM-SEED/              the host's checkpoints and logs, cost, and which refined teachers it had (teachers.txt)
OUT/samples/ARM-SEED/REP.npz    motions from captions, one file a replication; heldout.npz: held-out clips made clean
OUT/samples/ARM-SEED/step*.npz  motions for validation captions from earlier checkpoints (--curve)
OUT/scores/ARM-SEED/REP.json    their scores
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from videomdm_ext.config import Supervision, as_flags, difference, from_mapping, read_yaml, shipped
from videomdm_ext.data.files import read_json
from videomdm_ext.errors import ConfigError, DatasetError
from videomdm_ext.mdm import checkout
from videomdm_ext.mdm.loop import read_rows
from videomdm_ext.supervision.unrolling import TimestepBuckets

REFERENCE, CONTROL, FULL = "3d", "lifted", "2d"
"""The arm that sees the truth, the arm that a 2D method must beat, and the full method that ablations are held against.

Every arm but the first two is compared with both."""
PRIMARY = ("pose_frechet", "text-motion/fid")
"""The metrics that claims are made in, chosen before any score is seen; in this order."""
EQUAL_PASSES = ", equal passes"
"""What is added to an arm's name that is trained again with as many denoiser passes as the others."""
ONLY_STANDIN = ("ff_size", "dropout", "gradient_clip", "conv_kernel")
"""Options of the stand-in that MDM does not have: its own values are fixed."""
MDM_FIXED = {"ff_size": 1024, "dropout": 0.1, "conv_kernel": 0}
"""What MDM fixes; a plan for a checkout holds these values."""
LOGGED = 25
"""Steps that a row of the losses is the mean of, or nearly so many."""
FOLDER = shipped("configs") / "arms"


@dataclass(frozen=True)
class ArmConfig:
    """A named way to supervise; `declares` are the options in which it is meant to differ from the arm `of`."""

    name: str
    supervision: Supervision
    declares: tuple[str, ...] = ()
    of: str = FULL

    @property
    def flags(self) -> list[str]:
        """The host's command-line arguments for this arm."""
        return as_flags(self.supervision)


def known_arms() -> list[str]:
    """Return the names of the arms that come with the package; those of subfolders too, without the folder."""
    return sorted(path.stem for path in FOLDER.rglob("*.yaml"))


def arm_name(arm: str) -> str:
    """What to call an arm that is given by its name or by the path of its YAML file."""
    return Path(arm).stem if arm.endswith((".yaml", ".yml")) else arm


def load_arm(name: str) -> ArmConfig:
    """An arm by its name, or by the path of its YAML file. ConfigError lists those that exist."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else next(FOLDER.rglob(f"{name}.yaml"), FOLDER)
    if not path.is_file():
        raise ConfigError(f"arm {name!r}: expected one of {', '.join(known_arms())}, or a YAML file. Found neither.")
    entries = Supervision.upgraded(read_yaml(path))
    of = entries.pop("of", FULL)
    declares = entries.pop("declare", list(entries))
    if not isinstance(declares, list) or not set(map(str, declares)) <= Supervision.__dataclass_fields__.keys():
        raise ConfigError(f"{path}: declare: expected a list of options of the supervision, found {declares!r}.")
    if of not in known_arms():
        raise ConfigError(f"{path}: of: expected one of {', '.join(known_arms())}, found {of!r}.")
    return ArmConfig(arm_name(name), from_mapping(Supervision, entries, str(path)), tuple(declares), str(of))


def settings(arm: ArmConfig) -> str:
    """In one line, how the arm differs from the defaults."""
    changed = difference(arm.supervision, Supervision())
    return ", ".join(f"{name} {value}" for name, (value, _) in changed.items()) or "defaults"


Hidden = tyro.conf.Suppress[tyro.conf.Fixed[str]]
"""Not an option of the command line: a verb sets it."""


@dataclass(frozen=True)
class Plan:
    """What is equal for all arms, and which arms and seeds there are. Its fields are the options of `bench` and `demo`.

    `clips` is the data set's folder and `content` the hash of its clips.
    """

    clips: Hidden = ""
    content: Hidden = ""
    arms: tuple[str, ...] = ("3d", "lifted", "refined", "2d")
    """Names in configs/arms, or YAML files, with commas or spaces between."""
    seeds: int = 3
    """Trainings of each arm."""
    steps: int = 20000
    """Steps of each training; the learning rate falls to zero over them."""
    batch_size: int = 32
    """Crops of a step."""
    crop_frames: int = 64
    """Longest crop of a clip, frames."""
    learning_rate: Annotated[float, tyro.conf.arg(name="lr")] = 5e-4
    """Learning rate."""
    latent_dim: int = 256
    """Width of the denoiser."""
    layers: int = 4
    """Layers of the denoiser."""
    ff_size: int = 512
    """Width of its feed-forward layers; with --mdm always 1024."""
    dropout: float = 0.0
    """Dropout of the denoiser; with --mdm always 0.1."""
    conv_kernel: int = 0
    """Frames that each layer convolves before attention; 0: none, with --mdm always."""
    diffusion_steps: int = 50
    """Steps of the diffusion."""
    average: float = 0.999
    """Decay of the weights' moving average; longer trainings bear a longer one."""
    adam_beta2: float = 0.99
    """Decay of the optimizer's squared gradients."""
    text_features: str = "auto"
    """words, minilm, clip, a plugin's encoder, or auto: MiniLM where it loads, else words."""
    samples: int = 1000
    """Motions of each replication."""
    guidance: float = 1.0
    """Classifier-free guidance scale of the samples."""
    replications: int = 20
    """Times each training is sampled, with a fixed list of seeds."""
    windows: int = 4
    """Random crops of each true clip that samples are compared with; 1: its first frames."""
    reference: str = "train"
    """Split whose captions are sampled and whose truth is compared with: train, val or test."""
    mdm: str = ""
    """MDM checkout that trains and samples, auto searches for one; empty: the stand-in."""
    curve: int = 0
    """Checkpoints of each training that are scored on validation clips; 0: none."""
    select: str = ""
    """Report the checkpoint with the best of this metric on validation clips; empty: the last one."""
    equal_passes: bool = False
    """Train arms that unroll again, with as many denoiser passes as the others."""
    primary: tuple[str, ...] = PRIMARY
    """Metrics that claims are made in, chosen beforehand, with commas or spaces between."""
    without: tuple[str, ...] = ()
    """Evaluators that are not made, with commas or spaces between."""
    evaluators: str = ""
    """Folder with the files of pretrained evaluators: t2m, mardm-67, tmr, motionstreamer-272."""

    def __post_init__(self) -> None:
        for name in ("arms", "primary", "without"):  # lists where they were read from JSON
            words = (word.strip() for part in getattr(self, name) for word in part.split(","))
            object.__setattr__(self, name, tuple(word for word in words if word))

    def runs(self) -> list["Run"]:
        """All pairs of arm and seed, seed by seed, so that an early stop leaves whole comparisons."""
        found = []
        for run in (Run(self, arm, seed) for seed in range(self.seeds) for arm in self.arms):
            again = self.equal_passes and run.passes_per_step > 1
            found += [run, replace(run, equal_passes=True)] if again else [run]
        return found

    @property
    def curve_steps(self) -> list[int]:
        """Steps of the checkpoints that are scored on validation clips, the last step's among them."""
        return [self.steps // self.curve * number for number in range(1, self.curve)] + [self.steps] * (self.curve > 0)

    @property
    def log_interval(self) -> int:
        """Steps that a row of the losses is the mean of. MDM's logger forgets them when it goes on from a checkpoint,
        so with a checkout the steps of a curve, at which there are checkpoints, are ends of rows."""
        between = self.steps // self.curve if self.mdm and self.curve else 0
        fitting = [steps for steps in range(1, 4 * LOGGED + 1) if between % steps == 0]
        return min(fitting, key=lambda steps: abs(steps - LOGGED))

    def host(self) -> checkout.Checkout:
        """The checkout that trains and samples: the one at `mdm`, one that is searched for, or the stand-in."""
        return checkout.choose(self.mdm)


DEMO = Plan(
    seeds=1, steps=1000, batch_size=16, crop_frames=32, learning_rate=3e-3, latent_dim=128, layers=4, ff_size=256,
    conv_kernel=9, diffusion_steps=50, average=0.99, adam_beta2=0.95, samples=128, replications=1, windows=1,
    without=("t2m", "text-motion", "views-2d"),
)  # fmt: skip
"""The plan of `demo`."""


def read_plan(out: Path) -> Plan:
    """The plan of a comparison's folder."""
    place = out / "plan.json"
    try:
        stored = read_json(place, "plan")
        return Plan(**{name: value for name, value in stored.items() if name not in ("settings", "data")})
    except (DatasetError, TypeError) as error:
        raise ConfigError(
            f"{place}: expected the plan of a comparison ({error}). Make one in a folder of its own: videomdm demo, or "
            "videomdm bench."
        ) from error


@dataclass(frozen=True)
class Run:
    """One training of one arm; `equal_passes`: with fewer steps, so that it costs an unrolled arm no more passes."""

    plan: Plan
    arm: str
    seed: int
    equal_passes: bool = False

    @property
    def config(self) -> ArmConfig:
        return load_arm(self.arm)

    @property
    def label(self) -> str:
        """The arm's name in a report."""
        return arm_name(self.arm) + (EQUAL_PASSES if self.equal_passes else "")

    @property
    def name(self) -> str:
        return f"{arm_name(self.arm)}{'-equal-passes' if self.equal_passes else ''}-{self.seed}"

    @property
    def steps(self) -> int:
        return max(1, round(self.plan.steps / self.passes_per_step)) if self.equal_passes else self.plan.steps

    @property
    def passes_per_step(self) -> float:
        """Expected denoiser passes of a training step."""
        config = self.config.supervision
        if config.supervision == "3d" or config.unroll == "off":
            return 1.0
        return TimestepBuckets.of(config.unroll_below, config.unroll_steps, self.plan.diffusion_steps).passes

    def passes(self) -> float:
        """Expected denoiser passes of the training."""
        return self.steps * self.passes_per_step

    # -- its files ----------------------------------------------------------------------------------------------------

    def folder(self, out: Path) -> Path:
        return out / "runs" / self.name

    def samples(self, out: Path) -> Path:
        """The one file of a comparison whose samples are not scored here, as in the demo on videos."""
        return out / "samples" / f"{self.name}.npz"

    def replication(self, out: Path, number: int) -> Path:
        return out / "samples" / self.name / f"{number:03d}.npz"

    def held_out(self, out: Path) -> Path:
        return out / "samples" / self.name / "heldout.npz"

    def curve_samples(self, out: Path, step: int) -> Path:
        return out / "samples" / self.name / f"step{step:09d}.npz"

    def scores(self, out: Path, number: int) -> Path:
        return out / "scores" / self.name / f"{number:03d}.json"

    def curve_scores(self, out: Path, step: int) -> Path:
        return out / "scores" / self.name / f"step{step:09d}.json"

    def chosen(self, out: Path) -> Path:
        return self.folder(out) / "chosen.json"

    def chosen_step(self, out: Path) -> int | None:
        """The step that --select chose, or None for the last one."""
        if not self.plan.select or self.equal_passes:
            return None
        return int(read_json(self.chosen(out), "chosen")["step"])

    def checkpoint(self, out: Path, step: int | None = None) -> Path:
        return self.folder(out) / f"model{self.steps if step is None else step:09d}.pt"

    # -- how far it is ------------------------------------------------------------------------------------------------

    def is_trained(self, out: Path) -> bool:
        return self.checkpoint(out).is_file()

    def all_samples(self, out: Path) -> list[Path]:
        """Every file of samples that the training has or will have."""
        curve = [self.curve_samples(out, step) for step in self.plan.curve_steps]
        replications = [self.replication(out, number) for number in range(self.plan.replications)]
        return [*replications, self.held_out(out), *curve]

    def missing_samples(self, out: Path) -> list[Path]:
        """Files of samples that are still to be made, those of the curve not counted."""
        own = self.all_samples(out)[: self.plan.replications + 1]
        return [place for place in own if not place.is_file()]

    def missing_curve(self, out: Path) -> list[int]:
        """Steps of the curve whose samples are still to be made; an equal-passes training has no curve."""
        steps = [] if self.equal_passes else self.plan.curve_steps
        return [step for step in steps if not self.curve_samples(out, step).is_file()]

    def steps_done(self, out: Path) -> int:
        """All of them, or those that the log of an unfinished run has seen."""
        if self.is_trained(out):
            return self.steps
        logs = (self.folder(out) / "progress.csv", self.folder(out) / "host" / "progress.csv")
        return max((int(row["step"]) for log in logs for row in read_rows(log)), default=0)

    def noise_seed(self, replication: int) -> int:
        """Seed of x_T and of the sampler, the same for every arm.

        Several replications have one fixed list for all trainings; a single one takes the training's own seed, so that
        the interval over seeds covers what sampling draws.
        """
        return replication if self.plan.replications > 1 else self.seed

    def arguments(self, out: Path) -> list[str]:
        """The host's command line. Checkpoints serve to go on; a curve needs one at each of its steps."""
        plan, between = self.plan, max(2 * LOGGED, self.steps // 4 // LOGGED * LOGGED)
        between = self.steps // plan.curve if plan.curve and not self.equal_passes else between
        flags = {
            "save_dir": self.folder(out), "clips": plan.clips, "seed": self.seed, "num_steps": self.steps,
            "lr_anneal_steps": self.steps, "batch_size": plan.batch_size, "crop_frames": plan.crop_frames,
            "lr": plan.learning_rate, "latent_dim": plan.latent_dim, "layers": plan.layers, "ff_size": plan.ff_size,
            "dropout": plan.dropout, "conv_kernel": plan.conv_kernel, "diffusion_steps": plan.diffusion_steps,
            "avg_model_beta": plan.average, "text_features": plan.text_features, "gradient_clip": 1.0,
            "log_interval": plan.log_interval, "save_interval": between, "pos_embed_max_len": 256,
            "adam_beta2": plan.adam_beta2,
        }  # fmt: skip
        kept = {name: value for name, value in flags.items() if not (plan.mdm and name in ONLY_STANDIN)}
        words = [part for name, value in kept.items() for part in (f"--{name}", str(value))]
        words += ["--use_ema", "--mask_frames", "--overwrite", "--paired", "--resume_checkpoint", "latest"]
        return words + as_flags(self.config.supervision)
