"""A folder of clips as the host's dataset: crops and what the camera saw of them, captions, and an evaluation set.

An evaluation reads the truth of the clips through MDM's own dataset class, so that its evaluators see what they
expect; clips without a truth are evaluated on the host's own HumanML3D. Both speak to the model in the statistics that
it was trained with.
"""

import argparse
import dataclasses
import hashlib
import logging
import math
import pathlib
import random
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from videomdm_ext.config import MADE, Source, Supervision
from videomdm_ext.data.clip import (
    Clip,
    Crop,
    collate,
    crop,
    flatten_observation,
    tensor_of,
    with_truth_as_teacher,
)
from videomdm_ext.data.files import Array
from videomdm_ext.data.folder import Card, read_card, read_folder, read_moments, read_statistics
from videomdm_ext.data.index import Clips, best, with_known
from videomdm_ext.data.refined import is_made, make_refined, read_refined
from videomdm_ext.errors import ConfigError, HostError
from videomdm_ext.geometry.cameras import perturb_azimuth
from videomdm_ext.mdm.imports import swapped
from videomdm_ext.motion.features import FeatureSpace
from videomdm_ext.motion.skeletons import by_name

logger = logging.getLogger(__name__)


@dataclass
class HostDataset:
    """Clips with the attributes that MDM's programs read from a dataset.

    Item: (crop, caption). The crop and the caption of an item depend on the seed, the epoch and the clip alone where
    the host tells the epoch (`set_epoch`); otherwise they come from Python's generator, as MDM's do. `pad_to` fixes the
    frames of a batch; `observed` says whether batches hold what the cameras saw, which sampling has no use for;
    `device` is where the host reads Mean and Std for its loss of goals.
    """

    clips: Clips
    space: FeatureSpace
    crop_frames: int
    seed: int
    epoch: int | None = None
    pad_to: int | None = None
    observed: bool = True
    device: Any = "cpu"
    opt: SimpleNamespace = field(default_factory=SimpleNamespace)

    def __post_init__(self) -> None:
        self.opt = SimpleNamespace(joints_num=self.space.skeleton.num_joints, max_motion_length=self.crop_frames)

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> tuple[Crop, str]:
        clip = self.clips[index]
        draw = random.Random(self._stream(clip)) if self.epoch is not None else random
        length = min(clip.length, self.crop_frames)
        start = draw.randint(0, clip.length - length)
        cut = crop(clip, start, length, with_truth=False)
        return cut, draw.choice(clip.texts)

    def _stream(self, clip: Clip) -> int:
        label = f"{self.seed}/{self.epoch}/{clip.id}".encode()
        return int.from_bytes(hashlib.sha256(label).digest()[:8], "big")

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    @property
    def num_features(self) -> int:
        return self.space.skeleton.num_features

    @property
    def mean(self) -> np.ndarray[Any, Any]:
        return self.space.mean.numpy()

    @property
    def std(self) -> np.ndarray[Any, Any]:
        return self.space.std.numpy()

    @property
    def mean_gpu(self) -> Tensor:
        """Mean as MDM's loss of goals reads it, [1, D, 1, 1] on the device."""
        return self.space.mean.to(self.device)[None, :, None, None]

    @property
    def std_gpu(self) -> Tensor:
        return self.space.std.to(self.device)[None, :, None, None]

    @property
    def t2m_dataset(self) -> "HostDataset":
        return self

    def inv_transform(self, features: Tensor) -> Tensor:
        """z-scored [..., D] to raw features."""
        return features * self.space.std.to(features.device) + self.space.mean.to(features.device)

    @cached_property
    def mixed(self) -> bool:
        """Whether some clips supervise in 3D."""
        return any(entry.is_known for entry in self.clips.entries)

    @cached_property
    def batch_length(self) -> int:
        """Frames of a padded batch: the longest crop there can be, or what `pad_to` asks for."""
        return self.pad_to or min(self.crop_frames, self.clips.longest)

    def collate(self, items: Sequence[tuple[Crop, str]]) -> tuple[Tensor, dict[str, dict[str, Any]]]:
        """-> x_start [B, D, 1, T], z-scored, zero in the padding; the condition with text, mask and observation."""
        batch = collate([item for item, _ in items], length=self.batch_length)
        lengths = tensor_of(batch, "lengths")
        valid = torch.arange(self.batch_length) < lengths.unsqueeze(1)
        motion = self.space.features(tensor_of(batch, "teacher")) * valid[:, None, None]
        seen = flatten_observation(batch, mixed=self.mixed) if self.observed else {}
        return motion, {"y": {**_condition(items, lengths, valid[:, None, None]), **seen}}


def _condition(items: Sequence[tuple[Crop, str]], lengths: Tensor, mask: Tensor) -> dict[str, Any]:
    """The host's y of a batch."""
    texts, ids = [text for _, text in items], [crop.id for crop, _ in items]
    return {"mask": mask, "lengths": lengths, "text": texts, "db_key": ids}


@dataclass
class Prompts(HostDataset):
    """Captions for sampling, without motion: every item asks for `crop_frames` frames."""

    def collate(self, items: Sequence[tuple[Crop, str]]) -> tuple[Tensor, dict[str, dict[str, Any]]]:
        """-> an empty motion [B, D, 1, 1], as MDM's own captions come with; the condition with text and lengths."""
        lengths = torch.full((len(items),), self.crop_frames)
        mask = torch.ones(len(items), 1, 1, 1, dtype=torch.bool)
        return torch.zeros(len(items), self.num_features, 1, 1), {"y": _condition(items, lengths, mask)}


def open_dataset(
    source: Source, supervision: Supervision, split: str, seed: int, kind: type[HostDataset] = HostDataset
) -> HostDataset:
    """The clips of --clips with the teacher that the supervision names in the place of the diffused motion."""
    card, whole = read_folder(source.clips, split, fixed=True)
    shares = supervision if split == "train" else dataclasses.replace(supervision, best_share=1.0, known_share=0.0)
    clips, (mean, std) = supervised_clips(source.clips, card, whole, shares, source.start_statistics)
    clips = clips.map(partial(with_azimuth_error, degrees=supervision.azimuth_noise_degrees))
    space = FeatureSpace(by_name(card.skeleton), torch.from_numpy(mean), torch.from_numpy(std), card.heading)
    pad_to = None if len(clips) == len(whole) else min(source.crop_frames, whole.longest)  # as the other arms'
    return kind(clips, space, source.crop_frames, seed, pad_to=pad_to)


def supervised_clips(
    path: str, card: Card, clips: Sequence[Clip], supervision: Supervision, start: str = ""
) -> tuple[Clips, tuple[Array, Array]]:
    """The training clips that a supervision takes, with what it diffuses as their teacher; its Mean and Std [D]."""
    taken = Clips.of(clips)
    if supervision.best_share < 1:
        taken = best(taken, supervision.best_share)
    made, statistics = with_teacher(path, card, taken, supervision.teacher, start)
    return with_known(made, taken, supervision.known_share) if supervision.known_share else made, statistics


def with_teacher(
    path: str, card: Card, clips: Sequence[Clip], diffused: str, start: str = ""
) -> tuple[Clips, tuple[Array, Array]]:
    """The clips with what is diffused as their teacher, refined first where that is asked; its Mean and Std [D].

    Teachers that a run made keep that run's, and a training that began with other weights those of the folder `start`,
    so that weights which go on mean what they meant.
    """
    clips = Clips.of(clips)
    if diffused == "gt":
        for number in (i for i, entry in enumerate(clips.entries) if not entry.has_truth):
            with_truth_as_teacher(clips[number])  # refuse the first of them before any work
        clips, statistics = clips.map(with_truth_as_teacher), read_statistics(path)
    elif diffused in MADE:
        if not is_made(path, card, diffused):
            logger.info("making the %s teachers of %s", diffused, path)
            make_refined(path, card, _log_tenths, kind=diffused)
        clips, statistics = read_refined(path, card, clips, diffused)
    else:
        statistics = read_statistics(path, card.lifter)
    if start:
        return clips, read_moments(start, by_name(card.skeleton).num_features)
    past = card.recipe.get("refreshed", {}) if diffused != "gt" else {}
    kept = [np.asarray(past[name], np.float32) for name in ("mean", "std") if name in past]
    return clips, (kept[0], kept[1]) if kept else statistics


def _log_tenths(done: int, total: int) -> None:
    if done * 10 // total > (done - 1) * 10 // total:
        logger.info("refining: %d %%", 100 * done // total)


def with_azimuth_error(clip: Clip, degrees: float) -> Clip:
    """The clip with its camera moved on an orbit about the clip's origin, by an angle that depends on the id alone."""
    if degrees == 0:
        return clip
    seed = int.from_bytes(hashlib.sha256(f"azimuth/{clip.id}".encode()).digest()[:8], "big")
    angle = math.radians(degrees) * random.Random(seed).gauss()
    extrinsics = torch.from_numpy(clip.extrinsics)
    moved = perturb_azimuth(extrinsics, torch.full(extrinsics.shape[:-2], angle))
    return dataclasses.replace(clip, extrinsics=moved.numpy())


def check_source(source: Source, supervision: Supervision) -> None:
    """Refuse, before work begins, what cannot be trained: 2D supervision or a lifted teacher without clips."""
    if source.clips:
        return
    if supervision.supervision == "2d" or supervision.teacher in ("lifted", *MADE):
        asked = "--supervision 2d" if supervision.supervision == "2d" else f"--teacher {supervision.teacher}"
        raise ConfigError(f"{asked}: expected --clips with a folder of 2D clips, found none. Make one: videomdm data.")


WITH_CLIPS: Mapping[str, str] = {
    "context_len": "prefix completion (DiP) trains on MDM's own windows of fixed length",
    "pred_len": "prefix completion (DiP) trains on MDM's own windows of fixed length",
    "autoregressive": "only a prefix-completion model, which trains on MDM's own windows, samples in a loop",
}
"""Options of the host that --clips cannot serve, and why."""
UNDER_2D: Mapping[str, str] = {
    "lambda_rcxyz": "it compares with 3D positions, which 2D supervision does not have",
    "lambda_vel": "it compares with 3D velocities, which 2D supervision does not have",
    "lambda_fc": "it needs true foot contacts; --loss reprojection,floor=1 keeps feet on the floor from 2D",
    "lambda_target_loc": "goals are read from true 3D motion",
    "multi_target_cond": "goals are read from true 3D motion",
    "lora_finetune": "LoRA-MDM's finetuning compares with a prior's 3D motions",
    "inpainting_mask": "it trains another diffusion, whose loss is not ours",
    **WITH_CLIPS,
}
"""Options of the host that make no sense under --supervision 2d, and why."""


def check_host(source: Source, supervision: Supervision, args: argparse.Namespace) -> None:
    """Refuse options of the host that our data or our loss cannot serve. Raises ConfigError with the reason."""
    two = supervision.supervision == "2d"
    if not source.clips and not two:
        return
    asked = "--supervision 2d" if two else "--clips"
    dataset = getattr(args, "dataset", "humanml")
    if dataset != "humanml":
        raise ConfigError(
            f"--dataset {dataset} with {asked}: expected humanml, whose 263 features, captions and evaluators our "
            "clips use. Leave --dataset out and name the data with --clips."
        )
    for name, reason in (UNDER_2D if two else WITH_CLIPS).items():
        value = getattr(args, name, 0)
        if value:
            needed = " without --clips" if name in WITH_CLIPS else ""
            other = f"take --supervision 3d{needed}" if two else "take MDM's own data, without --clips"
            raise ConfigError(f"--{name} {value} with {asked}: expected none, as {reason}. Leave it out, or {other}.")
    if not getattr(args, "multi_target_cond", False):
        return
    clips = read_folder(source.clips, "train")[1]
    short = [entry for entry in clips.entries if entry.frames < source.crop_frames]
    if short:
        least = min(entry.frames for entry in short)
        raise ConfigError(
            f"--multi_target_cond with --clips {source.clips}: expected clips of --crop_frames {source.crop_frames} or "
            f"more, as goals need crops of one length, found {len(short)} of {len(clips)} shorter ({short[0].id}: "
            f"{short[0].frames}). Pass --crop_frames {least} or less, or leave the shorter ones out."
        )


# -- what the host gets in each of its modes ---------------------------------------------------------------------------

FRAMES = (40, 199)
"""Fewest and most frames of a clip that MDM's dataset class keeps."""
DRAWN = 300
"""Motions that MDM's evaluation draws for its diversity; whole batches have to hold more."""
BATCH = 32
"""Motions of its batches."""
OWN_DATA = pathlib.Path("dataset") / "HumanML3D"
"""Where MDM's programs look for their data, from the folder they are started in."""


def open_for(
    source: Source, supervision: Supervision, args: argparse.Namespace, *, split: str, mode: str, num_frames: int | None
) -> HostDataset:
    """Crops to train on, or for mode `text_only` captions, or for another split crops to edit, padded to num_frames."""
    found = split
    if not read_card(source.clips).counts.get(split):
        logger.info("%s has no clips in the split %s; taking those of train", source.clips, split)
        found = "train"
    if mode == "text_only":
        frames = min(196, int(getattr(args, "motion_length", 6.0) * 20))
        asked = dataclasses.replace(source, crop_frames=max(frames, 2))
        return open_dataset(asked, supervision, found, args.seed, Prompts)
    dataset = open_dataset(source, supervision, found, args.seed)
    if split != "train":
        dataset.pad_to, dataset.observed = num_frames, False
    elif getattr(args, "use_gcn", False):  # mdmp's layers know that many frames
        dataset.pad_to = 196
    return dataset


def open_evaluation(host_class: type, source: Source, supervision: Supervision, *, split: str, **named: Any) -> Any:
    """MDM's dataset for its evaluators (mode `gt`) or for what it generates to be scored (mode `eval`).

    Raises ConfigError where there is nothing that MDM's evaluation could work with.
    """
    clips = read_folder(source.clips, split)[1]
    if clips.missing_truth():
        place = OWN_DATA / f"{split}.txt"
        if not place.is_file():
            raise ConfigError(
                f"{source.clips}: the clips of the split {split} have no truth to evaluate against, and {place} is not "
                "there either. Start the program from an MDM checkout with HumanML3D in it."
            )
        dataset = host_class(split=split, **named)
    else:
        check_enough(source.clips, split, clips)
        check_unpacked(source.clips)
        dataset = _on_folder(host_class, pathlib.Path(source.clips).resolve(), split=split, **named)
    if named["mode"] == "eval":
        speak_training_units(dataset, source, supervision)
    return dataset


def check_enough(path: str, split: str, clips: Clips, batch: int = BATCH) -> None:
    """Raise ConfigError where whole batches hold no more than DRAWN clips.

    MDM drops clips that are too short or too long without a word, and then fails far away.
    """
    good = sum(FRAMES[0] <= entry.frames <= FRAMES[1] for entry in clips.entries)
    least = (DRAWN // batch + 1) * batch
    if good < least:
        raise ConfigError(
            f"{path}: expected {least} or more clips of {FRAMES[0]} to {FRAMES[1]} frames in the split {split} for "
            f"MDM's evaluation, found {good} of {len(clips)}. On a small set, train and score arms with "
            f"videomdm bench --dataset {shlex.quote(path)}."
        )


def check_unpacked(path: str) -> None:
    """Raise ConfigError where clips lie in shards, which MDM's dataset class cannot read."""
    if read_card(path).packed:
        raise ConfigError(
            f"{path}: expected a set of files for MDM's evaluation, found a packed one. "
            f"Unpack it: videomdm data unpack {shlex.quote(path)} --out DIR."
        )


def _on_folder(host_class: type, folder: pathlib.Path, **named: Any) -> Any:
    """The host's class on another folder of its format; its cache goes to a temporary folder."""
    module = sys.modules[host_class.__module__]
    get_opt, vectorizer = module.get_opt, module.WordVectorizer

    def pointed(*positional: Any, **rest: Any) -> Any:
        opt = get_opt(*positional, **rest)
        opt.data_root = str(folder)
        opt.motion_dir, opt.text_dir = str(folder / "new_joint_vecs"), str(folder / "texts")
        return opt

    with tempfile.TemporaryDirectory(prefix="videomdm-") as cache:
        (pathlib.Path(cache) / "dataset").mkdir()
        swaps = {"get_opt": pointed, "WordVectorizer": lambda _, prefix: vectorizer("./glove", prefix)}
        with swapped(module, **swaps):
            return host_class(cache_path=cache, **named)


def speak_training_units(dataset: Any, source: Source, supervision: Supervision) -> None:
    """Give an evaluation set the Mean and Std that the model was trained with."""
    card = read_card(source.clips)
    mean, std = with_teacher(source.clips, card, [], supervision.teacher, source.start_statistics)[1]
    if mean.shape != dataset.mean.shape:
        raise HostError(
            f"{source.clips}: expected statistics of {dataset.mean.shape[0]} features as the host's data have, found "
            f"{mean.shape[0]}. Train and score arms on this skeleton "
            f"with videomdm bench --dataset {shlex.quote(source.clips)}."
        )
    for part in (dataset, dataset.t2m_dataset):
        part.mean, part.std = mean, std
    for name, values in (("mean_gpu", mean), ("std_gpu", std)):
        if hasattr(dataset, name):
            setattr(dataset, name, torch.from_numpy(values).to(getattr(dataset, name))[None, :, None, None])
