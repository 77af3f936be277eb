"""Files of a run: written beside and renamed, with everything that a resumed run needs to go on bit for bit."""

import os
import random
import re
from pathlib import Path

import numpy as np
import torch

CHECKPOINT = re.compile(r"model(\d+)\.pt")


def step_of(path):
    """The step in a checkpoint's name; 0 for any other name."""
    match = CHECKPOINT.fullmatch(Path(path).name)
    return int(match[1]) if match else 0


def save(content, path):
    """torch.save that leaves the whole file or none."""
    beside = f"{path}.partial"
    torch.save(content, beside)
    os.replace(beside, path)


def write_text(text, path):
    beside = Path(f"{path}.partial")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)


def without_text_encoder(state_dict):
    return {name: value for name, value in state_dict.items() if not name.startswith("clip_model.")}


def random_states():
    """States of the global generators of Python, numpy and torch, as plain values and tensors."""
    kind, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(keys.astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_states(states):
    random.setstate(states["python"])
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])
