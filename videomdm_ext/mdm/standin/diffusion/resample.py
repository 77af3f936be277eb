"""Which timesteps a training batch gets."""

import numpy as np
import torch


class UniformSampler:
    """Every timestep alike, drawn from numpy's global generator."""

    def __init__(self, diffusion):
        self.num_timesteps = diffusion.num_timesteps

    def sample(self, batch_size, device):
        """Timesteps [N] int64 and importance weights [N] float32."""
        probability = np.ones(self.num_timesteps) / self.num_timesteps
        index = np.random.choice(self.num_timesteps, size=(batch_size,), p=probability)
        weights = 1 / (self.num_timesteps * probability[index])
        return torch.from_numpy(index).long().to(device), torch.from_numpy(weights).float().to(device)
