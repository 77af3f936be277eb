"""Timesteps and noised inputs of a training step: one denoiser pass, or several down to low noise (METHOD 5), or each
clip in the part of the schedule where its motion is good enough.

At low noise x_t shows the teacher, whose depth error follows the camera; an unrolled step gives the denoiser its own
prediction there.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor


@dataclass(frozen=True)
class TimestepBuckets:
    """`count` buckets of `width` timesteps from 0 to `top`; timesteps from `top` to `total` are not unrolled.

    METHOD 5: T = 50 in 4 buckets of 4, top 16.
    """

    count: int
    width: int
    total: int

    @classmethod
    def of(cls, below: float, count: int, total: int) -> "TimestepBuckets":
        """`count` buckets that cover the timesteps under `below`, a share of the schedule of `total` or, from 1 on, a
        timestep, and never more than the schedule."""
        width = ceil((below if below >= 1 else round(below * total, 6)) / (count - 1))
        return cls(count, max(1, min(width, total // count)), total)

    @property
    def top(self) -> int:
        return self.count * self.width

    @property
    def passes(self) -> float:
        """Expected denoiser passes of a training step."""
        share = self.top / self.total
        return 1.0 - share + self.count * share

    def draw(self, batch: int, generator: torch.Generator) -> Tensor:
        """Timesteps [B, K], one a bucket and falling, with probability top / total; else [B, 1], uniform from top."""
        if torch.rand((), generator=generator).item() * self.total >= self.top:
            return torch.randint(self.top, self.total, (batch, 1), generator=generator)
        start = torch.arange(self.count - 1, -1, -1) * self.width
        return start + torch.randint(0, self.width, (batch, self.count), generator=generator)


def divided(t: Tensor, known: Tensor | None, below: float, total: int) -> Tensor:
    """Timesteps [B] of MotionMix (Hoang et al., AAAI 2024) from uniform ones: known clips [B] go under the pivot, a
    share `below` of the schedule, the others from there up, where noise hides what is wrong with them. 0: t itself."""
    if below == 0:
        return t
    pivot = min(max(round(below * total), 1), total - 1)
    low = torch.zeros_like(t, dtype=torch.bool) if known is None else known
    return torch.where(low, t * pivot // total, pivot + t * (total - pivot) // total)


def noised(x_start: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) noise (METHOD 2); alpha_bar [B]."""
    alpha_bar = alpha_bar.view(-1, *(1,) * (x_start.ndim - 1))
    return alpha_bar.sqrt() * x_start + (1 - alpha_bar).sqrt() * noise


def implied_noise(x_t: Tensor, x_0: Tensor, alpha_bar: Tensor) -> Tensor:
    """The noise that makes x_t of x_0; alpha_bar [B]."""
    alpha_bar = alpha_bar.view(-1, *(1,) * (x_t.ndim - 1))
    return (x_t - alpha_bar.sqrt() * x_0) / (1 - alpha_bar).sqrt()


def unrolled_predictions(
    denoise: Callable[[Tensor, Tensor], Tensor], x_start: Tensor, timesteps: Tensor, alpha_bar: Tensor, noise: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Predictions at falling timesteps [B, K]: yields (x_hat [B, D, 1, T], t [B]) K times.

    `denoise(x_t, t)` predicts x_0, alpha_bar [N] is the schedule. The first input is the noised teacher, each
    further one the last prediction noised by its own implied noise, detached.
    """
    x_t = noised(x_start, noise, alpha_bar[timesteps[:, 0]])
    for k in range(timesteps.shape[1]):
        prediction = denoise(x_t, timesteps[:, k])
        yield prediction, timesteps[:, k]
        if k + 1 < timesteps.shape[1]:
            x_0 = prediction.detach()
            noise = implied_noise(x_t, x_0, alpha_bar[timesteps[:, k]])
            x_t = noised(x_0, noise, alpha_bar[timesteps[:, k + 1]])
