"""Which timesteps a training batch gets."""

import numpy as np
import torch


def create_named_schedule_sampler(name, diffusion):
    if name == "uniform":
        return UniformSampler(diffusion)
    raise NotImplementedError(f"unknown schedule sampler {name!r}; the stand-in host has uniform only")


class UniformSampler:
    """Every timestep alike, drawn from numpy's global generator."""

    def __init__(self, diffusion):
        self.diffusion = diffusion

    def weights(self):
        return np.ones(self.diffusion.num_timesteps)

    def sample(self, batch_size, device):
        """Timesteps [N] int64 and importance weights [N] float32."""
        probability = self.weights() / self.weights().sum()
        index = np.random.choice(len(probability), size=(batch_size,), p=probability)
        weights = 1 / (len(probability) * probability[index])
        return torch.from_numpy(index).long().to(device), torch.from_numpy(weights).float().to(device)
