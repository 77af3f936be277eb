"""Training that begins with the weights of a checkpoint, a run's or a released one, on a data set (`--start_from`).

Optimizer and step start anew. The data are put into the units of the checkpoint: its Mean and Std, in which its weights
and its noise mean what they meant, are written into the run's folder and go with its checkpoints.
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from videomdm_ext.config import Supervision, from_args
from videomdm_ext.data.files import Array, array_bytes, read_json, write_bytes
from videomdm_ext.data.folder import read_card, read_moments
from videomdm_ext.errors import ConfigError, DatasetError, HostError
from videomdm_ext.mdm import data, remedies, resume, text
from videomdm_ext.motion.skeletons import by_name

MODEL = (
    "arch", "layers", "latent_dim", "ff_size", "conv_kernel", "num_heads", "text_encoder_type", "emb_trans_dec",
    "unconstrained", "mask_frames", "pos_embed_max_len", "pred_len", "context_len", "emb_policy", "emb_before_mask",
    "multi_target_cond", "multi_encoder_type", "target_enc_layers", "noise_schedule", "diffusion_steps", "sigma_small",
)  # fmt: skip
"""Options that a model and its noise are made of: the checkpoint's hold, and others are refused."""
INPUT = "input_process.poseEmbedding.weight"


@dataclass(frozen=True)
class Start:
    """Weights to begin with, and the Mean and Std [D] that they mean, to be written into the run's folder."""

    checkpoint: Path
    weights: Mapping[str, Tensor]
    mean: Array
    std: Array
    folder: Path

    def write(self) -> None:
        """Write Mean.npy and Std.npy into the run's folder, which the host has made."""
        for name, values in (("Mean.npy", self.mean), ("Std.npy", self.std)):
            place = str(self.folder / name)
            write_bytes(place, array_bytes(values), beside=f"{place}.{os.getpid()}")

    def begun(self, base: type) -> type:
        """The host's denoiser, which begins with these weights. HostError where it has others."""
        start = self

        class Begun(base):
            def __init__(self, *positional: Any, **named: Any) -> None:
                super().__init__(*positional, **named)
                start.load(self)

        return Begun

    def load(self, model: Any) -> None:
        """Put the weights into a model; the text encoder's, and tables that are computed, are no part of them."""
        own = {name: value for name, value in model.state_dict().items() if is_weight(name)}
        given = {name: value for name, value in self.weights.items() if is_weight(name)}
        shapes = [
            f"{name} {list(given[name].shape)} in place of {list(own[name].shape)}"
            for name in own.keys() & given.keys()
            if given[name].shape != own[name].shape
        ]
        wrong = [f"no {name}" for name in own.keys() - given.keys()] + [f"also {n}" for n in given.keys() - own.keys()]
        if shapes or wrong:
            raise HostError(
                f"--start_from {self.checkpoint}: expected the weights of the model that its args.json describes, "
                f"found {', '.join(sorted(shapes + wrong)[:4])}. Train in the host that it comes from, with its own "
                "args.json."
            )
        model.load_state_dict(given, strict=False)
        print(f"the weights of {self.checkpoint} to begin with, in its Mean and Std")


def is_weight(name: str) -> bool:
    """Whether an entry of a model's state is trained: the frozen text encoder and the tables of positions are not."""
    return not (name.startswith("clip_model.") or name.endswith("sequence_pos_encoder.pe"))


def settle(args: argparse.Namespace, argv: Sequence[str], root: Path) -> Start | None:
    """Make the options of a training those of the checkpoint --start_from; `root` is the host's folder.

    Returns what to begin with; None where the training goes on from a checkpoint of its own. Raises ConfigError,
    DatasetError or HostError, by name, where checkpoint, options and data do not fit.
    """
    folder = Path(args.save_dir).resolve()
    resumed = resume.newest(folder) if args.resume_checkpoint == resume.LATEST else resume.start_of(args)
    if resumed is not None and resumed.resolve().parent != folder:
        raise ConfigError(
            f"--start_from {args.start_from}: expected no --resume_checkpoint but one of this run, found {resumed}. "
            "Leave one of the two out."
        )
    checkpoint = resumed or find(Path(args.start_from))
    stored = {**resume.LATER, **read_json(checkpoint.with_name("args.json"), "args")}
    if not args.clips:
        raise ConfigError("--start_from: expected --clips with a data set to train on, found none. Name it.")
    asked, known = getattr(args, "dataset", "humanml"), stored.get("dataset", "humanml")
    if known != asked:
        raise ConfigError(
            f"--start_from {checkpoint}: expected a model of {asked}, found one of {known}. Choose another checkpoint."
        )
    for name in (name for name in MODEL if name in stored and hasattr(args, name)):
        value = getattr(args, name)
        given = value is True if isinstance(stored[name], bool) else text.explicit(argv, name) is not None
        if given and value != stored[name]:
            raise ConfigError(
                f"--{name} {value}: expected {stored[name]}, with which {checkpoint} was trained. Leave it out, or "
                "train from the start."
            )
        setattr(args, name, stored[name])
    statistics, args.start_statistics = args.start_statistics, str(folder)
    args.start_from = stored["start_from"] if resumed else str(checkpoint.resolve())
    if resumed:
        return None
    resume.refuse(checkpoint)
    weights = weights_of(checkpoint)
    skeleton = by_name(read_card(args.clips).skeleton)
    if weights[INPUT].shape[0] != args.latent_dim:
        raise HostError(
            f"--start_from {checkpoint}: expected latent_dim {args.latent_dim} as in its args.json, found "
            f"{weights[INPUT].shape[0]}. Keep each checkpoint beside its own args.json."
        )
    width = weights[INPUT].shape[-1] - (stored["latent_dim"] if stored.get("arch") == "gru" else 0)
    if width != skeleton.num_features:
        raise HostError(
            f"--start_from {checkpoint}: expected weights for the {skeleton.num_features} features of {skeleton.name}, "
            f"the skeleton of {args.clips}, found {width}. Choose a checkpoint of that skeleton."
        )
    return Start(checkpoint, weights, *statistics_of(checkpoint, stored, statistics, root, width), folder)


def find(place: Path) -> Path:
    """A checkpoint's file, or the newest one of a run's folder; HostError where there is none with its args.json."""
    checkpoint = place if place.is_file() else resume.newest(place)
    if checkpoint is None:
        raise HostError(
            f"--start_from {place}: expected a checkpoint, or a folder with model*.pt, found none. Correct it."
        )
    if not checkpoint.with_name("args.json").is_file():
        raise HostError(f"{checkpoint}: expected its training's args.json beside it, found none. Put it there.")
    return checkpoint


def weights_of(checkpoint: Path) -> Mapping[str, Tensor]:
    """The weights in a checkpoint, their average where it has one. HostError where it has none of a model of MDM's."""
    try:
        with torch.serialization.safe_globals(remedies.numbers()):
            content = torch.load(checkpoint, map_location="cpu", weights_only=True)
        weights: Mapping[str, Tensor] = content.get("model_avg") or content.get("model") or content
        if INPUT not in weights:
            raise LookupError(f"no {INPUT}")
    except resume.MALFORMED as error:
        raise HostError(f"--start_from {checkpoint}: expected a checkpoint of MDM's, found none ({error}).") from error
    return weights


def statistics_of(
    checkpoint: Path, stored: Mapping[str, Any], given: str, root: Path, width: int
) -> tuple[Array, Array]:
    """Mean and Std [D] of a checkpoint's training: in a folder that is given, beside the checkpoint, of its data set,
    or where that was MDM's own, of the HumanML3D in the checkout."""
    clips, beside = stored.get("clips", ""), checkpoint.parent
    place = given or (str(beside) if (beside / "Mean.npy").is_file() else clips or str(root / data.OWN_DATA))
    try:
        if place != clips:
            return read_moments(place, width)
        teacher = from_args(Supervision, argparse.Namespace(**stored)).teacher
        return data.with_teacher(clips, read_card(clips), [], teacher)[1]
    except DatasetError as error:
        raise DatasetError(
            f"--start_from {checkpoint}: expected the Mean and Std of its training in {place}, found none ({error}). "
            "Name a folder that holds its Mean.npy and Std.npy with --start_statistics DIR."
        ) from error
