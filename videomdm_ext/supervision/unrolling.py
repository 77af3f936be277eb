"""Timesteps and noised inputs of a training step: one denoiser pass, or several down to low noise (METHOD 5), or each
clip in the part of the schedule where its motion is good enough.

At low noise x_t shows the teacher, whose depth error follows the camera; an unrolled step gives the denoiser its own
prediction there.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
from torch import Tensor

from videomdm_ext.errors import HostError


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


def with_gradient_taken(loss: Tensor, weights: Sequence[Tensor], passes: int) -> Tensor:
    """The loss [B] of one of several passes, which keeps its gradient in the weights and nothing else of the pass.

    No gradient flows between passes, so that a step needs the memory of one, and not of all until its backward. The
    gradient is that of a mean over clips and passes, times what the loss is multiplied by; bits are those of a single
    backward, up to rounding for a weight that a pass uses again (`--arch gru`). HostError, in the backward, where clips
    weigh unequally.
    """
    if not loss.requires_grad:
        return loss
    expected = torch.ones_like(loss) / len(loss) / passes
    gradients = torch.autograd.grad(loss, weights, expected, allow_unused=True)
    taken: Tensor = _Taken.apply(loss.detach(), expected, gradients, *weights)
    return taken


class _Taken(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: Tensor, expected: Tensor, gradients: Sequence[Tensor | None], *_: Tensor) -> Tensor:
        ctx.expected, ctx.gradients = expected, gradients
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        factor = upstream / ctx.expected
        if not torch.equal(factor, factor[:1].expand_as(factor)):
            raise HostError(
                "--unroll on: expected a training loop that weighs all clips of a batch alike, found one that does not "
                "(its sampler of timesteps). Train with --unroll off."
            )
        return None, None, None, *(None if g is None else g * factor[0] for g in ctx.gradients)
