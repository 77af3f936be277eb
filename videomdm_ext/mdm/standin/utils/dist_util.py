"""Where tensors live: one device, chosen once."""

import torch

used_device = 0


def setup_dist(device=0):
    """Choose the GPU by index; negative means CPU."""
    global used_device
    used_device = device


def dev():
    if used_device >= 0 and torch.cuda.is_available():
        return torch.device("cuda", used_device)
    return torch.device("cpu")


def load_state_dict(path, **kwargs):
    return torch.load(path, **{"weights_only": True, **kwargs})
