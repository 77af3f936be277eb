"""A folder of clips as the host's dataset: crops, captions, and what the camera saw of them."""

import dataclasses
import hashlib
import logging
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from videomdm_ext.config import Source, Supervision
from videomdm_ext.datasets.batch import Crop, Path, collate, crop, flatten_observation, tensor_of
from videomdm_ext.datasets.clip import Clip, with_truth_as_teacher
from videomdm_ext.datasets.folder import read_folder, read_statistics
from videomdm_ext.datasets.refined import is_made, make_refined, read_refined
from videomdm_ext.errors import ConfigError
from videomdm_ext.geometry.cameras import perturb_azimuth
from videomdm_ext.motion.features import FeatureSpace

logger = logging.getLogger(__name__)


@dataclass
class HostDataset:
    """Clips with the attributes that MDM's programs read from a dataset.

    Item: (crop, caption). The crop and the caption of an item depend on the seed, the epoch and the clip alone where
    the host tells the epoch (`set_epoch`); otherwise they come from Python's generator, as MDM's do.
    """

    clips: Sequence[Clip]
    space: FeatureSpace
    crop_frames: int
    seed: int
    epoch: int | None = None
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
        cut = crop(clip, start, length, path=self.paths[index], with_truth=False)
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
    def t2m_dataset(self) -> "HostDataset":
        return self

    def inv_transform(self, features: Tensor) -> Tensor:
        """z-scored [..., D] to raw features."""
        return features * self.space.std.to(features.device) + self.space.mean.to(features.device)

    @cached_property
    def paths(self) -> list[Path]:
        """Headings and roots of every clip, for its crops."""
        return [Path.of(clip.teacher, clip.skeleton) for clip in self.clips]

    @cached_property
    def batch_length(self) -> int:
        """Frames of a padded batch: the longest crop there can be."""
        return min(self.crop_frames, max(clip.length for clip in self.clips))

    def collate(self, items: Sequence[tuple[Crop, str]]) -> tuple[Tensor, dict[str, dict[str, Any]]]:
        """-> x_start [B, D, 1, T], z-scored, zero in the padding; the condition with text, mask and observation."""
        crops = [item for item, _ in items]
        batch = collate(crops, length=self.batch_length)
        lengths = tensor_of(batch, "lengths")
        valid = torch.arange(self.batch_length) < lengths.unsqueeze(1)
        motion = self.space.features(tensor_of(batch, "teacher")) * valid[:, None, None]
        y = {
            "mask": valid[:, None, None],
            "lengths": lengths,
            "text": [text for _, text in items],
            "db_key": [item.id for item in crops],
            **flatten_observation(batch),
        }
        return motion, {"y": y}


def open_dataset(source: Source, supervision: Supervision, split: str, seed: int) -> HostDataset:
    """The clips of --clips with the teacher that the supervision names in the place of the diffused motion."""
    diffused = supervision.diffused
    card, clips = read_folder(source.clips, split)
    statistics = None
    if diffused == "gt":
        clips = [with_truth_as_teacher(clip) for clip in clips]
    elif diffused == "refined":
        if not is_made(source.clips, card):
            logger.info("refining the teachers of %s", source.clips)
            make_refined(source.clips, card)
        clips, statistics = read_refined(source.clips, card, clips)
    else:
        statistics = read_statistics(source.clips, card.lifter)
    clips = [with_azimuth_error(clip, supervision.azimuth_noise_degrees) for clip in clips]
    mean, std = statistics or read_statistics(source.clips)
    space = FeatureSpace(clips[0].skeleton, torch.from_numpy(mean), torch.from_numpy(std), card.heading)
    return HostDataset(clips, space, source.crop_frames, seed)


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
    if supervision.supervision == "2d" or supervision.teacher in ("lifted", "refined"):
        asked = "--supervision 2d" if supervision.supervision == "2d" else f"--teacher {supervision.teacher}"
        raise ConfigError(f"{asked}: expected --clips with a folder of 2D clips, found none. Make one: videomdm data.")
