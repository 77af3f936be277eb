"""A diffusion on a subset of the timesteps of another."""

import numpy as np
import torch
from diffusion.gaussian_diffusion import GaussianDiffusion


def space_timesteps(num_timesteps, section_counts):
    """Choose timesteps: a count for each of the equal sections. -> set"""
    size, extra = divmod(num_timesteps, len(section_counts))
    chosen, start = set(), 0
    for i, count in enumerate(section_counts):
        length = size + (i < extra)
        stride = (length - 1) / (count - 1) if count > 1 else 1
        chosen |= {start + round(k * stride) for k in range(count)}
        start += length
    return chosen


class SpacedDiffusion(GaussianDiffusion):
    """Diffusion that visits only `use_timesteps`; the model sees the original timestep numbers."""

    def __init__(self, use_timesteps, **kwargs):
        self.timestep_map = sorted(use_timesteps)
        bar = GaussianDiffusion(**kwargs).alphas_cumprod[self.timestep_map]
        super().__init__(**{**kwargs, "betas": 1 - bar / np.append(1.0, bar[:-1])})

    def p_mean_variance(self, model, *args, **kwargs):
        return super().p_mean_variance(self._wrap_model(model), *args, **kwargs)

    def training_losses(self, model, *args, **kwargs):
        return super().training_losses(self._wrap_model(model), *args, **kwargs)

    def _wrap_model(self, model):
        return model if isinstance(model, _WrappedModel) else _WrappedModel(model, self.timestep_map)


class _WrappedModel:
    """Calls the model with original timestep numbers."""

    rescale_timesteps = False

    def __init__(self, model, timestep_map):
        self.model = model
        self.timestep_map = timestep_map

    def __call__(self, x, ts, **kwargs):
        return self.model(x, torch.tensor(self.timestep_map, device=ts.device, dtype=ts.dtype)[ts], **kwargs)
