"""Timesteps and noised inputs of a training step: one pass, or a walk that reaches low noise from higher noise.

At low noise x_t shows the teacher, whose depth error follows the camera; the walk of METHOD 5 feeds the denoiser
its own prediction there.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

from videomdm_ext.config import Supervision


@dataclass(frozen=True)
class Ladder:
    """K buckets of `width` timesteps from 0 to `top`; higher timesteps are plain. METHOD 5: T = 50, 4 of 4, top 16."""

    steps: int
    width: int
    total: int

    @classmethod
    def of(cls, config: Supervision, total: int) -> "Ladder":
        """From `unroll_below` and `unroll_steps`, for `total` timesteps; never higher than the schedule itself."""
        width = ceil(config.unroll_below / (config.unroll_steps - 1))
        return cls(config.unroll_steps, max(1, min(width, total // config.unroll_steps)), total)

    @property
    def top(self) -> int:
        return self.steps * self.width

    @property
    def passes(self) -> float:
        """Expected denoiser passes of a training step."""
        share = self.top / self.total
        return 1.0 - share + self.steps * share

    def draw(self, batch: int, generator: torch.Generator) -> Tensor:
        """Timesteps [B, K], one a bucket and falling, with probability top / total; else [B, 1], uniform from top."""
        if torch.rand((), generator=generator).item() * self.total >= self.top:
            return torch.randint(self.top, self.total, (batch, 1), generator=generator)
        start = torch.arange(self.steps - 1, -1, -1) * self.width
        return start + torch.randint(0, self.width, (batch, self.steps), generator=generator)


def draw_plain(batch: int, total: int, generator: torch.Generator) -> Tensor:
    """Timesteps [B, 1], uniform over the schedule."""
    return torch.randint(0, total, (batch, 1), generator=generator)


def noised(x_start: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) noise (METHOD 2); alpha_bar [B]."""
    alpha_bar = alpha_bar.view(-1, *(1,) * (x_start.ndim - 1))
    return alpha_bar.sqrt() * x_start + (1 - alpha_bar).sqrt() * noise


def implied_noise(x_t: Tensor, x_0: Tensor, alpha_bar: Tensor) -> Tensor:
    """The noise that makes x_t of x_0; alpha_bar [B]."""
    alpha_bar = alpha_bar.view(-1, *(1,) * (x_t.ndim - 1))
    return (x_t - alpha_bar.sqrt() * x_0) / (1 - alpha_bar).sqrt()


def walk(
    denoise: Callable[[Tensor, Tensor], Tensor], x_start: Tensor, timesteps: Tensor, alpha_bar: Tensor, noise: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Predictions along falling timesteps [B, K]: yields (x_hat [B, D, 1, T], t [B]) K times.

    `denoise(x_t, t)` predicts x_0, alpha_bar [N] is the schedule. The first input is the noised teacher, each
    further one the last prediction carried down by its own implied noise, detached.
    """
    x_t = noised(x_start, noise, alpha_bar[timesteps[:, 0]])
    for k in range(timesteps.shape[1]):
        prediction = denoise(x_t, timesteps[:, k])
        yield prediction, timesteps[:, k]
        if k + 1 < timesteps.shape[1]:
            x_0 = prediction.detach()
            noise = implied_noise(x_t, x_0, alpha_bar[timesteps[:, k]])
            x_t = noised(x_0, noise, alpha_bar[timesteps[:, k + 1]])
