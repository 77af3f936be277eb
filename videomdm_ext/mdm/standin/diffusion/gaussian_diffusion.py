"""Gaussian diffusion of motions: noise, posterior, samplers and MDM's own loss. Tensors are [N, J, F, T], t is [N]."""

import enum
import math

import numpy as np
import torch
from tqdm.auto import tqdm

ModelMeanType = enum.Enum("ModelMeanType", ["PREVIOUS_X", "START_X", "EPSILON"])
ModelVarType = enum.Enum("ModelVarType", ["LEARNED", "FIXED_SMALL", "FIXED_LARGE", "LEARNED_RANGE"])
LossType = enum.Enum("LossType", ["MSE", "RESCALED_MSE", "KL", "RESCALED_KL"])


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


def first_from_second(table, start):
    """`table` [T] with its first entry replaced by the second of `start` (by its only one where T is 1)."""
    return np.append(start[min(1, len(start) - 1)], table[1:])


def inpaint(prediction, y):
    """Put y['inpainted_motion'] where y['inpainting_mask'] [N, J, F, T] bool is set, if both are given.

    The sum keeps the prediction's memory layout, which randn_like follows: other code would draw other noise.
    """
    if "inpainting_mask" not in y or "inpainted_motion" not in y:
        return prediction
    return prediction * ~y["inpainting_mask"] + y["inpainted_motion"] * y["inpainting_mask"]


def unless_last(t, x):
    """1 where t > 0, else 0, shaped for x: the last step adds no noise."""
    return (t != 0).float().view(-1, *[1] * (x.dim() - 1))


def encode_text_once(model, model_kwargs):
    """Keyword arguments whose y carries the text embedding, so that no step encodes the text again."""
    kwargs = model_kwargs or {}
    y = kwargs.get("y", {})
    if "text" not in y or "text_embed" in y or model.cond_mode != "text":
        return kwargs
    with torch.no_grad():
        return {**kwargs, "y": {**y, "text_embed": model.encode_text(y["text"])}}


def last_or_dumped(samples, dump_steps):
    """The last sample, or those at the places `dump_steps`."""
    dumped, sample = [], None
    for i, out in enumerate(samples):
        sample = out["sample"]
        if dump_steps is not None and i in dump_steps:
            dumped.append(sample.clone())
    return sample if dump_steps is None else dumped


def refuse(**options):
    """Options of MDM's samplers that the stand-in does not have must be left alone."""
    used = [name for name, value in options.items() if value not in (None, False)]
    if used:
        raise NotImplementedError(f"This sampler of the stand-in host has no {', '.join(used)}. Use MDM (--mdm).")


def _extract_into_tensor(arr, timesteps, broadcast_shape):
    """Entries of a float64 table at `timesteps` [N], as float32 expanded to `broadcast_shape`."""
    values = torch.from_numpy(arr).to(timesteps.device)[timesteps].float()
    return values.view(-1, *[1] * (len(broadcast_shape) - 1)).expand(broadcast_shape)


def masked_l2(a, b, mask):
    """Mean squared difference of the valid frames, per clip. a, b [N, J, F, T], mask [N, 1, 1, T] -> [N]"""
    total = ((a - b).square() * mask).flatten(1).sum(-1)
    return total / (mask.flatten(1).sum(-1) * a.shape[1] * a.shape[2] + 1e-8)


class GaussianDiffusion:
    """A schedule of T steps and what follows from it; the model predicts x_0 and the variance is fixed."""

    def __init__(
        self, *, betas, model_mean_type, model_var_type, loss_type, rescale_timesteps=False, lambda_vel=0.0,
        lambda_rcxyz=0.0, lambda_fc=0.0, lambda_target_loc=0.0, data_rep="rot6d",
    ):  # fmt: skip
        self.model_mean_type, self.model_var_type, self.loss_type = model_mean_type, model_var_type, loss_type
        self.rescale_timesteps, self.data_rep, self.lambda_vel = rescale_timesteps, data_rep, lambda_vel
        self.refuse_what_only_mdm_has(lambda_rcxyz or lambda_fc or lambda_target_loc)
        self.masked_l2 = masked_l2
        self.set_betas(np.array(betas, dtype=np.float64))

    def refuse_what_only_mdm_has(self, body_model_losses):
        known = (ModelVarType.FIXED_SMALL, ModelVarType.FIXED_LARGE)
        if (
            body_model_losses
            or self.model_var_type not in known
            or self.loss_type is not LossType.MSE
            or (self.model_mean_type is not ModelMeanType.START_X)
        ):
            raise NotImplementedError(
                "The stand-in host predicts x_0 with a fixed variance, an MSE loss and no body "
                "model. Use MDM (--mdm) for anything else."
            )

    def set_betas(self, betas):
        """Fill the float64 tables of length T; betas must lie in (0, 1]."""
        if betas.ndim != 1 or not ((betas > 0) & (betas <= 1)).all():
            raise ValueError("betas must be a list of numbers in (0, 1]")
        self.betas = betas
        self.num_timesteps = len(betas)
        bar = np.cumprod(1 - betas)
        previous = np.append(1.0, bar[:-1])
        self.alphas_cumprod, self.alphas_cumprod_prev, self.alphas_cumprod_next = bar, previous, np.append(bar[1:], 0.0)
        self.sqrt_alphas_cumprod = np.sqrt(bar)
        self.sqrt_one_minus_alphas_cumprod = np.sqrt(1 - bar)
        self.log_one_minus_alphas_cumprod = np.log(1 - bar)
        self.sqrt_recip_alphas_cumprod = np.sqrt(1 / bar)
        self.sqrt_recipm1_alphas_cumprod = np.sqrt(1 / bar - 1)
        variance = betas * (1 - previous) / (1 - bar)
        self.posterior_variance = variance
        self.posterior_log_variance_clipped = np.log(first_from_second(variance, variance))
        self.posterior_mean_coef1 = betas * np.sqrt(previous) / (1 - bar)
        self.posterior_mean_coef2 = (1 - previous) * np.sqrt(1 - betas) / (1 - bar)

    # --- the forward process ---

    def q_sample(self, x_start, t, noise=None):
        """x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) noise."""
        noise = torch.randn_like(x_start) if noise is None else noise
        signal = _extract_into_tensor(self.sqrt_alphas_cumprod, t, x_start.shape)
        return signal * x_start + _extract_into_tensor(self.sqrt_one_minus_alphas_cumprod, t, x_start.shape) * noise

    def q_posterior_mean_variance(self, x_start, x_t, t):
        """Mean, variance and clipped log variance of q(x_{t-1} | x_t, x_0)."""
        mean = (
            _extract_into_tensor(self.posterior_mean_coef1, t, x_t.shape) * x_start
            + _extract_into_tensor(self.posterior_mean_coef2, t, x_t.shape) * x_t
        )
        return (
            mean,
            _extract_into_tensor(self.posterior_variance, t, x_t.shape),
            _extract_into_tensor(self.posterior_log_variance_clipped, t, x_t.shape),
        )

    # --- the backward process ---

    def p_mean_variance(self, model, x, t, clip_denoised=True, denoised_fn=None, model_kwargs=None):
        """p(x_{t-1} | x_t): a dict of mean, variance, log_variance and pred_xstart, each of x's shape."""
        model_kwargs = model_kwargs or {}
        start = inpaint(model(x, self._scale_timesteps(t), **model_kwargs), model_kwargs.get("y", {}))
        if denoised_fn is not None:
            start = denoised_fn(start)
        if clip_denoised:
            start = start.clamp(-1, 1)
        mean, _, _ = self.q_posterior_mean_variance(x_start=start, x_t=x, t=t)
        variance, log_variance = self.fixed_variance()
        return {
            "mean": mean,
            "variance": _extract_into_tensor(variance, t, x.shape),
            "log_variance": _extract_into_tensor(log_variance, t, x.shape),
            "pred_xstart": start,
        }

    def fixed_variance(self):
        """The sampler's variance and its logarithm, float64 [T]."""
        if self.model_var_type is ModelVarType.FIXED_SMALL:
            return self.posterior_variance, self.posterior_log_variance_clipped
        large = first_from_second(self.betas, self.posterior_variance)
        return large, np.log(large)

    def _predict_eps_from_xstart(self, x_t, t, pred_xstart):
        difference = _extract_into_tensor(self.sqrt_recip_alphas_cumprod, t, x_t.shape) * x_t - pred_xstart
        return difference / _extract_into_tensor(self.sqrt_recipm1_alphas_cumprod, t, x_t.shape)

    def _scale_timesteps(self, t):
        return t.float() * (1000.0 / self.num_timesteps) if self.rescale_timesteps else t

    def p_sample(self, model, x, t, clip_denoised=True, denoised_fn=None, model_kwargs=None, const_noise=False):
        """One ancestral step: a dict of sample (x_{t-1}) and pred_xstart."""
        out = self.p_mean_variance(model, x, t, clip_denoised, denoised_fn, model_kwargs)
        noise = torch.randn_like(x)
        if const_noise:
            noise = noise[:1].expand_as(x)
        sample = out["mean"] + unless_last(t, x) * torch.exp(0.5 * out["log_variance"]) * noise
        return {"sample": sample, "pred_xstart": out["pred_xstart"]}

    def ddim_sample(self, model, x, t, clip_denoised=True, denoised_fn=None, model_kwargs=None, eta=0.0):
        """One DDIM step, deterministic for eta 0: a dict of sample and pred_xstart."""
        start = self.p_mean_variance(model, x, t, clip_denoised, denoised_fn, model_kwargs)["pred_xstart"]
        eps = self._predict_eps_from_xstart(x, t, start)
        bar = _extract_into_tensor(self.alphas_cumprod, t, x.shape)
        previous = _extract_into_tensor(self.alphas_cumprod_prev, t, x.shape)
        sigma = eta * torch.sqrt((1 - previous) / (1 - bar)) * torch.sqrt(1 - bar / previous)
        noise = torch.randn_like(x)
        mean = start * torch.sqrt(previous) + torch.sqrt(1 - previous - sigma**2) * eps
        return {"sample": mean + unless_last(t, x) * sigma * noise, "pred_xstart": start}

    def p_sample_loop(self, model, shape, *, dump_steps=None, **options):
        """Ancestral sampling from pure noise. -> sample of `shape`, or the list of samples at `dump_steps`"""
        return last_or_dumped(self.p_sample_loop_progressive(model, shape, **options), dump_steps)

    def p_sample_loop_progressive(self, model, shape, **options):
        """Yields what p_sample returns, from the noisiest step down; the options are p_sample's and walk's."""
        return self.walk(self.p_sample, model, shape, **options)

    def ddim_sample_loop(self, model, shape, **options):
        """DDIM sampling from pure noise. -> sample of `shape`"""
        return last_or_dumped(self.ddim_sample_loop_progressive(model, shape, **options), None)

    def ddim_sample_loop_progressive(self, model, shape, *, dump_steps=None, const_noise=False, **options):
        """Yields what ddim_sample returns, from the noisiest step down; the options are ddim_sample's and walk's."""
        refuse(dump_steps=dump_steps, const_noise=const_noise)
        return self.walk(self.ddim_sample, model, shape, **options)

    def walk(
        self, step, model, shape, noise=None, device=None, progress=False, skip_timesteps=0, init_image=None,
        cond_fn=None, randomize_class=False, cond_fn_with_grad=False, model_kwargs=None, **options,
    ):  # fmt: skip
        """Apply `step` at T - 1 - skip_timesteps, ..., 0 without gradients; yield each result."""
        refuse(cond_fn=cond_fn, randomize_class=randomize_class, cond_fn_with_grad=cond_fn_with_grad)
        kwargs = encode_text_once(model, model_kwargs)
        device = next(model.parameters()).device if device is None else device
        x = torch.randn(*shape, device=device) if noise is None else noise
        first = self.num_timesteps - skip_timesteps - 1
        if skip_timesteps and init_image is None:
            init_image = torch.zeros_like(x)
        if init_image is not None:
            x = self.q_sample(init_image, torch.full((shape[0],), first, device=device), x)
        for i in tqdm(range(first, -1, -1), disable=not progress):
            with torch.no_grad():
                out = step(model, x, torch.full((shape[0],), i, device=device), model_kwargs=kwargs, **options)
            yield out
            x = out["sample"]

    # --- training ---

    def training_losses(self, model, x_start, t, model_kwargs=None, noise=None, dataset=None):
        """MDM's own loss at one timestep a clip: a dict of [N] terms, `loss` their weighted sum."""
        mask = model_kwargs["y"]["mask"]
        noise = torch.randn_like(x_start) if noise is None else noise
        output = model(self.q_sample(x_start, t, noise=noise), self._scale_timesteps(t), **model_kwargs)
        terms = {"rot_mse": self.masked_l2(x_start, output, mask)}
        terms["loss"] = terms["rot_mse"]
        if self.lambda_vel > 0:  # without the last channel, as in MDM
            truth, predicted = x_start.diff(dim=-1)[:, :-1], output.diff(dim=-1)[:, :-1]
            terms["vel_mse"] = self.masked_l2(truth, predicted, mask[..., 1:])
            terms["loss"] = terms["loss"] + self.lambda_vel * terms["vel_mse"]
        return terms
