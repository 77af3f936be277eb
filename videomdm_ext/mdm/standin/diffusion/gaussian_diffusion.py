"""Gaussian diffusion of motions: noise, posterior, samplers and MDM's own loss. Tensors are [N, J, F, T], t is [N]."""

import enum
import math

import numpy as np
import torch
from tqdm.auto import tqdm

ModelVarType = enum.Enum("ModelVarType", ["FIXED_SMALL", "FIXED_LARGE"])


def get_named_beta_schedule(schedule_name, num_diffusion_timesteps):
    """The betas of a `linear` or `cosine` schedule. -> float64 [T]"""
    steps = num_diffusion_timesteps
    if schedule_name == "linear":
        scale = 1000 / steps
        return np.linspace(scale * 1e-4, scale * 0.02, steps, dtype=np.float64)
    level = np.array([math.cos((i / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(steps + 1)])
    return np.minimum(1 - level[1:] / level[:-1], 0.999)


def first_from_second(table, start):
    """`table` [T] with its first entry replaced by the second of `start` (by its only one where T is 1)."""
    return np.append(start[min(1, len(start) - 1)], table[1:])


def encode_text_once(model, model_kwargs):
    """Keyword arguments whose y carries the text embedding, so that no step encodes the text again."""
    y = model_kwargs["y"]
    if "text" not in y or "text_embed" in y or model.cond_mode != "text":
        return model_kwargs
    with torch.no_grad():
        return {**model_kwargs, "y": {**y, "text_embed": model.encode_text(y["text"])}}


def _extract_into_tensor(arr, timesteps, broadcast_shape):
    """Entries of a float64 table at `timesteps` [N], as float32 expanded to `broadcast_shape`."""
    values = torch.from_numpy(arr).to(timesteps.device)[timesteps].float()
    return values.view(-1, *[1] * (len(broadcast_shape) - 1)).expand(broadcast_shape)


def masked_l2(a, b, mask):
    """Mean squared difference of the valid frames, per clip. a, b [N, J, F, T], mask [N, 1, 1, T] -> [N]"""
    total = ((a - b).square() * mask).flatten(1).sum(-1)
    return total / (mask.flatten(1).sum(-1) * a.shape[1] * a.shape[2] + 1e-8)


class GaussianDiffusion:
    """A schedule of T steps and what follows from it; the model predicts x_0 and the variance is fixed.

    `model_mean_type`, `loss_type` and `rescale_timesteps` are there for callers that hand them from one to the next.
    """

    def __init__(
        self, *, betas, model_var_type, lambda_vel=0.0, model_mean_type=None, loss_type=None, rescale_timesteps=False
    ):
        self.model_var_type, self.lambda_vel = model_var_type, lambda_vel
        self.model_mean_type, self.loss_type, self.rescale_timesteps = model_mean_type, loss_type, rescale_timesteps
        self.betas = np.array(betas, dtype=np.float64)
        self.num_timesteps = len(betas)
        bar = np.cumprod(1 - self.betas)
        previous = np.append(1.0, bar[:-1])
        self.alphas_cumprod, self.alphas_cumprod_prev = bar, previous
        self.sqrt_alphas_cumprod = np.sqrt(bar)
        self.sqrt_one_minus_alphas_cumprod = np.sqrt(1 - bar)
        self.sqrt_recip_alphas_cumprod = np.sqrt(1 / bar)
        self.sqrt_recipm1_alphas_cumprod = np.sqrt(1 / bar - 1)
        self.posterior_variance = self.betas * (1 - previous) / (1 - bar)
        self.posterior_log_variance_clipped = np.log(
            first_from_second(self.posterior_variance, self.posterior_variance)
        )
        self.posterior_mean_coef1 = self.betas * np.sqrt(previous) / (1 - bar)
        self.posterior_mean_coef2 = (1 - previous) * np.sqrt(1 - self.betas) / (1 - bar)

    def q_sample(self, x_start, t, noise=None):
        """x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) noise."""
        noise = torch.randn_like(x_start) if noise is None else noise
        signal = _extract_into_tensor(self.sqrt_alphas_cumprod, t, x_start.shape)
        return signal * x_start + _extract_into_tensor(self.sqrt_one_minus_alphas_cumprod, t, x_start.shape) * noise

    def p_mean_variance(self, model, x, t, clip_denoised=True, model_kwargs=None):
        """p(x_{t-1} | x_t): its mean, log variance and the prediction of x_0, each of x's shape."""
        start = model(x, self._scale_timesteps(t), **model_kwargs)
        if clip_denoised:
            start = start.clamp(-1, 1)
        mean = (
            _extract_into_tensor(self.posterior_mean_coef1, t, x.shape) * start
            + _extract_into_tensor(self.posterior_mean_coef2, t, x.shape) * x
        )
        log_variance = self.posterior_log_variance_clipped
        if self.model_var_type is ModelVarType.FIXED_LARGE:
            log_variance = np.log(first_from_second(self.betas, self.posterior_variance))
        return mean, _extract_into_tensor(log_variance, t, x.shape), start

    def _scale_timesteps(self, t):
        return t

    def p_sample(self, model, x, t, clip_denoised=True, model_kwargs=None):
        """One ancestral step. -> x_{t-1}"""
        mean, log_variance, _ = self.p_mean_variance(model, x, t, clip_denoised, model_kwargs)
        noisy = (t != 0).float().view(-1, 1, 1, 1)  # the last step adds no noise
        return mean + noisy * torch.exp(0.5 * log_variance) * torch.randn_like(x)

    def ddim_sample(self, model, x, t, clip_denoised=True, model_kwargs=None):
        """One deterministic DDIM step. -> x at the timestep before"""
        _, _, start = self.p_mean_variance(model, x, t, clip_denoised, model_kwargs)
        difference = _extract_into_tensor(self.sqrt_recip_alphas_cumprod, t, x.shape) * x - start
        eps = difference / _extract_into_tensor(self.sqrt_recipm1_alphas_cumprod, t, x.shape)
        previous = _extract_into_tensor(self.alphas_cumprod_prev, t, x.shape)
        return start * torch.sqrt(previous) + torch.sqrt(1 - previous) * eps

    def p_sample_loop(self, model, shape, **options):
        """Ancestral sampling from pure noise. -> sample of `shape`"""
        return self.walk(self.p_sample, model, shape, **options)

    def ddim_sample_loop(self, model, shape, **options):
        """DDIM sampling from pure noise. -> sample of `shape`"""
        return self.walk(self.ddim_sample, model, shape, **options)

    @torch.no_grad()
    def walk(
        self, step, model, shape, noise=None, progress=False, skip_timesteps=0, init_image=None, clip_denoised=True,
        model_kwargs=None,
    ):  # fmt: skip
        """Apply `step` at T - 1 - skip_timesteps, ..., 0, from noise, or from `init_image` with noise added."""
        kwargs = encode_text_once(model, model_kwargs)
        device = next(model.parameters()).device
        x = torch.randn(*shape, device=device) if noise is None else noise
        first = self.num_timesteps - skip_timesteps - 1
        if init_image is not None:
            x = self.q_sample(init_image, torch.full((shape[0],), first, device=device), x)
        for i in tqdm(range(first, -1, -1), disable=not progress):
            x = step(model, x, torch.full((shape[0],), i, device=device), clip_denoised, kwargs)
        return x

    def training_losses(self, model, x_start, t, model_kwargs=None, noise=None, dataset=None):
        """MDM's own loss at one timestep a clip: a dict of [N] terms, `loss` their weighted sum."""
        mask = model_kwargs["y"]["mask"]
        noise = torch.randn_like(x_start) if noise is None else noise
        output = model(self.q_sample(x_start, t, noise=noise), self._scale_timesteps(t), **model_kwargs)
        terms = {"rot_mse": masked_l2(x_start, output, mask)}
        terms["loss"] = terms["rot_mse"]
        if self.lambda_vel > 0:  # without the last channel, as in MDM
            truth, predicted = x_start.diff(dim=-1)[:, :-1], output.diff(dim=-1)[:, :-1]
            terms["vel_mse"] = masked_l2(truth, predicted, mask[..., 1:])
            terms["loss"] = terms["loss"] + self.lambda_vel * terms["vel_mse"]
        return terms
