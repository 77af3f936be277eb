"""The data loader. The stand-in has no dataset of its own: an adapter replaces get_dataset and get_collate_fn."""

import torch
from torch.utils.data import DataLoader

from videomdm_ext.errors import HostError


def get_dataset(name, num_frames, split="train", hml_mode="train", **named):
    raise HostError(
        f"The stand-in host has no data of its own (asked for {name}, split {split}). "
        "Pass --clips DIR with a dataset folder, or use MDM with --mdm."
    )


def get_collate_fn(name, hml_mode="train", pred_len=0, batch_size=1):
    """What makes a batch of clips."""
    return None


def get_dataset_loader(name, batch_size, num_frames, split="train", hml_mode="train", pred_len=0, **named):
    """Shuffled full batches, loaded in this process; `loader.generator` alone decides the order."""
    dataset = get_dataset(name, num_frames, split=split, hml_mode=hml_mode, **named)
    return DataLoader(
        dataset,
        batch_size=batch_size,
        shuffle=True,
        num_workers=0,
        drop_last=True,
        collate_fn=get_collate_fn(name, hml_mode, pred_len, batch_size),
        generator=torch.Generator(),
    )
