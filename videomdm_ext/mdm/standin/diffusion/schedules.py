"""Noise schedules of a diffusion."""

import math

import numpy as np


def get_named_beta_schedule(schedule_name, num_diffusion_timesteps, scale_betas=1.0):
    """The betas of a `linear` or `cosine` schedule. -> float64 [T]"""
    steps = num_diffusion_timesteps
    if schedule_name == "linear":
        scale = scale_betas * 1000 / steps
        return np.linspace(scale * 1e-4, scale * 0.02, steps, dtype=np.float64)
    if schedule_name == "cosine":
        return betas_for_alpha_bar(steps, lambda u: math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2)
    raise NotImplementedError(f"unknown schedule {schedule_name!r}; choose linear or cosine")


def betas_for_alpha_bar(num_diffusion_timesteps, alpha_bar, max_beta=0.999):
    """Betas whose running product of 1 - beta follows alpha_bar(u), u from 0 to 1. -> float64 [T]"""
    level = np.array([alpha_bar(i / num_diffusion_timesteps) for i in range(num_diffusion_timesteps + 1)])
    return np.minimum(1 - level[1:] / level[:-1], max_beta)
