"""What the host gets for --clips in each of its modes: crops to train on and to edit, captions, and an evaluation set.

An evaluation reads the truth of the clips through MDM's own dataset class, so that its evaluators see what they
expect; clips without a truth are evaluated on the host's own HumanML3D. Both speak to the model in the statistics that
it was trained with.
"""

import argparse
import contextlib
import dataclasses
import logging
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import blobfile as bf
import numpy as np
import torch

from videomdm_ext.config import Source, Supervision
from videomdm_ext.data.folder import read_card, read_ids
from videomdm_ext.errors import ConfigError, HostError
from videomdm_ext.mdm.data import HostDataset, Prompts, open_dataset, with_teacher

logger = logging.getLogger(__name__)

FRAMES = (40, 199)
"""Fewest and most frames of a clip that MDM's dataset class keeps."""
DRAWN = 300
"""Motions that MDM's evaluation draws for its diversity; whole batches have to hold more."""
BATCH = 32
"""Motions of its batches."""
OWN_DATA = Path("dataset") / "HumanML3D"
"""Where MDM's programs look for their data, from the folder they are started in."""


def open_for(
    source: Source, supervision: Supervision, args: argparse.Namespace, *, split: str, mode: str, num_frames: int | None
) -> HostDataset:
    """Crops to train on, or for mode `text_only` captions, or for another split crops to edit, padded to num_frames."""
    found = _there(source, split)
    if mode == "text_only":
        frames = min(196, int(getattr(args, "motion_length", 6.0) * 20))
        asked = dataclasses.replace(source, crop_frames=max(frames, 2))
        return open_dataset(asked, supervision, found, args.seed, Prompts)
    dataset = open_dataset(source, supervision, found, args.seed)
    if split != "train":
        dataset.pad_to, dataset.observed = num_frames, False
    return dataset


def _there(source: Source, split: str) -> str:
    """The split, or the training split of a folder that has no other."""
    if read_card(source.clips).counts.get(split):
        return split
    logger.info("%s has no clips in the split %s; taking those of train", source.clips, split)
    return "train"


def open_evaluation(host_class: type, source: Source, supervision: Supervision, *, split: str, **named: Any) -> Any:
    """MDM's dataset for its evaluators (mode `gt`) or for what it generates to be scored (mode `eval`).

    Raises ConfigError where there is nothing that MDM's evaluation could work with.
    """
    ids = with_truth(source.clips, split)
    if ids is None:
        dataset = _own_data(host_class, source, split=split, **named)
    else:
        check_enough(source.clips, split, ids)
        dataset = _on_folder(host_class, Path(source.clips).resolve(), split=split, **named)
    if named["mode"] == "eval":
        speak_training_units(dataset, source, supervision)
    return dataset


def with_truth(path: str, split: str) -> list[str] | None:
    """The ids of a split where every clip has a truth, else None."""
    ids = read_ids(path, split)
    return ids if all(bf.exists(truth_of(path, clip_id)) for clip_id in ids) else None


def truth_of(path: str, clip_id: str) -> str:
    """Where a folder keeps a clip's true motion."""
    return bf.join(path, "new_joint_vecs", f"{clip_id}.npy")


def check_enough(path: str, split: str, ids: Sequence[str], batch: int = BATCH) -> None:
    """Raise ConfigError where whole batches hold no more than DRAWN clips.

    MDM drops clips that are too short or too long without a word, and then fails far away.
    """
    frames = [len(np.load(truth_of(path, clip_id), mmap_mode="r")) for clip_id in ids]
    good = sum(FRAMES[0] <= count <= FRAMES[1] for count in frames)
    least = (DRAWN // batch + 1) * batch
    if good < least:
        raise ConfigError(
            f"{path}: expected {least} or more clips of {FRAMES[0]} to {FRAMES[1]} frames in the split {split} for "
            f"MDM's evaluation, found {good} of {len(ids)}. On a small set, train and score arms with "
            f"videomdm bench --dataset {shlex.quote(path)}."
        )


def _own_data(host_class: type, source: Source, *, split: str, **named: Any) -> Any:
    place = OWN_DATA / f"{split}.txt"
    if not place.is_file():
        raise ConfigError(
            f"{source.clips}: the clips of the split {split} have no truth to evaluate against, and {place} is not "
            "there either. Start the program from an MDM checkout with HumanML3D in it."
        )
    return host_class(split=split, **named)


def _on_folder(host_class: type, folder: Path, **named: Any) -> Any:
    """The host's class on another folder of its format; its cache goes to a temporary folder."""
    module = sys.modules[host_class.__module__]
    get_opt, vectorizer = module.get_opt, module.WordVectorizer

    def pointed(*positional: Any, **rest: Any) -> Any:
        opt = get_opt(*positional, **rest)
        opt.data_root = str(folder)
        opt.motion_dir, opt.text_dir = str(folder / "new_joint_vecs"), str(folder / "texts")
        return opt

    with tempfile.TemporaryDirectory(prefix="videomdm-") as cache:
        (Path(cache) / "dataset").mkdir()
        swaps = {"get_opt": pointed, "WordVectorizer": lambda _, prefix: vectorizer("./glove", prefix)}
        with swapped(module, **swaps):
            return host_class(cache_path=cache, **named)


@contextlib.contextmanager
def swapped(module: ModuleType, **names: Any) -> Iterator[None]:
    """Module globals replaced for a while."""
    before = {name: getattr(module, name) for name in names}
    vars(module).update(names)
    try:
        yield
    finally:
        vars(module).update(before)


def speak_training_units(dataset: Any, source: Source, supervision: Supervision) -> None:
    """Give an evaluation set the Mean and Std that the model was trained with."""
    card = read_card(source.clips)
    mean, std = with_teacher(source.clips, card, [], supervision.teacher)[1]
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
