"""From a list of clips to one padded batch."""

import torch
from torch.nn.functional import pad


def lengths_to_mask(lengths, max_len):
    """lengths [B] -> [B, max_len] bool, true for frames that exist."""
    return torch.arange(max_len, device=lengths.device) < lengths[:, None]


def collate(batch):
    """Clips with inp [J, F, T], lengths and optional text, tokens, key -> x_start [B, J, F, T], {"y": ...}."""
    batch = [clip for clip in batch if clip is not None]
    frames = max(clip["inp"].shape[-1] for clip in batch)
    motion = torch.stack([pad(clip["inp"], (0, frames - clip["inp"].shape[-1])) for clip in batch])
    lengths = torch.as_tensor([clip.get("lengths", clip["inp"].shape[-1]) for clip in batch])
    y = {"mask": lengths_to_mask(lengths, frames)[:, None, None], "lengths": lengths}
    for name, place in (("text", "text"), ("tokens", "tokens"), ("key", "db_key")):
        if name in batch[0]:
            y[place] = [clip[name] for clip in batch]
    return motion, {"y": y}
