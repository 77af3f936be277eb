"""MDM's transformer encoder: x_t, the timestep and a text embedding give x_0."""

import math

import torch
from torch import nn


class MDM(nn.Module):
    """Denoiser G(x_t, t, c). The text encoder under `clip_model` is never saved.

    The state-dict keys are MDM's, unless `conv_kernel` asks for layers that MDM has not.
    """

    def __init__(
        self, njoints, nfeats, latent_dim=256, ff_size=1024, num_layers=8, num_heads=4, dropout=0.1, activation="gelu",
        dataset="humanml", clip_dim=512, arch="trans_enc", clip_version=None, cond_mode="no_cond", cond_mask_prob=0.0,
        mask_frames=False, pos_embed_max_len=5000, conv_kernel=0,
    ):  # fmt: skip
        super().__init__()
        self.arch, self.dataset, self.njoints, self.nfeats = arch, dataset, njoints, nfeats
        self.latent_dim, self.clip_dim, self.input_feats = latent_dim, clip_dim, njoints * nfeats
        self.cond_mode, self.cond_mask_prob, self.mask_frames = cond_mode, cond_mask_prob, mask_frames

        self.input_process = InputProcess(self.input_feats, latent_dim)
        self.sequence_pos_encoder = PositionalEncoding(latent_dim, dropout, pos_embed_max_len)
        layer = nn.TransformerEncoderLayer(latent_dim, num_heads, ff_size, dropout, activation)
        if conv_kernel:
            layer = ConvolvedLayer(conv_kernel, latent_dim, num_heads, ff_size, dropout, activation)
        self.seqTransEncoder = nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False)
        self.embed_timestep = TimestepEmbedder(latent_dim, self.sequence_pos_encoder)
        if self.cond_mode == "text":
            self.clip_version = clip_version
            self.clip_model = self.load_and_freeze_clip(clip_version)
            self.embed_text = nn.Linear(clip_dim, latent_dim)
        self.output_process = OutputProcess(self.input_feats, latent_dim, njoints, nfeats)

    def parameters_wo_clip(self):
        return [value for name, value in self.named_parameters() if not name.startswith("clip_model.")]

    def load_and_freeze_clip(self, clip_version):
        """OpenAI's CLIP in evaluation mode, without gradients."""
        encoder, _ = clip_package().load(clip_version, device="cpu", jit=False)
        return encoder.eval().requires_grad_(False)

    def clip_encode_text(self, raw_text):
        """B strings -> [1, B, 512]. At most 20 words' tokens count, as in MDM."""
        tokens = clip_package().tokenize(raw_text, context_length=22, truncate=True)
        tokens = nn.functional.pad(tokens, (0, 77 - tokens.shape[1])).to(next(self.parameters()).device)
        return self.clip_model.encode_text(tokens).float()[None]

    def encode_text(self, raw_text):
        return self.clip_encode_text(raw_text)

    def mask_cond(self, cond, force_mask=False):
        """Hide the condition [1, B, C]: always with force_mask, else in training with probability cond_mask_prob."""
        if force_mask:
            return torch.zeros_like(cond)
        if not self.training or self.cond_mask_prob <= 0:
            return cond
        hidden = torch.bernoulli(torch.full((cond.shape[-2],), self.cond_mask_prob, device=cond.device))
        return cond * (1 - hidden)[None, :, None]

    def condition(self, timesteps, y):
        """The token in front of the frames: timestep plus text. -> [1, B, d]"""
        token = self.embed_timestep(timesteps)
        if self.cond_mode == "text":
            text = y["text_embed"] if "text_embed" in y else self.encode_text(y["text"])
            token = token + self.embed_text(self.mask_cond(text, force_mask=y.get("uncond", False)))
        return token

    def padding(self, y, frames):
        """Which of the 1 + T tokens attention must not see. -> [B, 1 + T] bool, or None"""
        if not self.mask_frames or y["mask"].shape[-1] <= 1:
            return None
        return nn.functional.pad(~y["mask"][:, 0, 0, :frames].bool(), (1, 0))

    def forward(self, x, timesteps, y=None):
        """x [B, J, F, T], timesteps [B] -> prediction of x_0, [B, J, F, T]."""
        tokens = torch.cat([self.condition(timesteps, y), self.input_process(x)])
        hidden = self.padding(y, x.shape[-1])
        if hidden is not None:
            hidden = hidden.to(x.device)
        output = self.seqTransEncoder(self.sequence_pos_encoder(tokens), src_key_padding_mask=hidden)
        return self.output_process(output[1:])


class ConvolvedLayer(nn.TransformerEncoderLayer):
    """A layer of the encoder before which each channel of the frames is convolved in time and added to itself.

    So which frames are neighbours need not be learned. The first token is the condition, no frame.
    """

    def __init__(self, kernel, width, *rest):
        super().__init__(width, *rest)
        self.neighbours = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)

    def forward(self, src, src_mask=None, src_key_padding_mask=None, is_causal=False):
        token, frames = src.split((1, len(src) - 1))
        seen = frames
        if src_key_padding_mask is not None:  # numbers, -inf in the padding
            seen = frames.masked_fill(src_key_padding_mask[:, 1:].T.unsqueeze(-1) != 0, 0.0)
        frames = frames + self.neighbours(seen.permute(1, 2, 0)).permute(2, 0, 1)
        return super().forward(torch.cat((token, frames)), src_mask, src_key_padding_mask, is_causal)


def clip_package():
    """OpenAI's `clip`, imported when first needed."""
    try:
        import clip
    except ImportError as error:
        raise RuntimeError(
            "Text features need OpenAI's package `clip`, which is not installed (the one on PyPI under "
            "that name is another program; clip-anytorch provides it). Install it, or choose "
            "--text_features words or minilm, or train with --unconstrained."
        ) from error
    return clip


class PositionalEncoding(nn.Module):
    """Sinusoids of [max_len, 1, d], added to a sequence [T, B, d]."""

    def __init__(self, d_model, dropout=0.1, max_len=5000):
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        frequency = torch.exp(torch.arange(0, d_model, 2).float() * (-math.log(10000.0) / d_model))
        angle = torch.arange(max_len).float()[:, None] * frequency
        self.register_buffer("pe", torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[:, None, :d_model])

    def forward(self, x):
        return self.dropout(x + self.pe[: len(x)])


class TimestepEmbedder(nn.Module):
    """timesteps [B] -> [1, B, d]"""

    def __init__(self, latent_dim, sequence_pos_encoder):
        super().__init__()
        self.sequence_pos_encoder = sequence_pos_encoder
        self.time_embed = nn.Sequential(nn.Linear(latent_dim, latent_dim), nn.SiLU(), nn.Linear(latent_dim, latent_dim))

    def forward(self, timesteps):
        return self.time_embed(self.sequence_pos_encoder.pe[timesteps]).transpose(0, 1)


class InputProcess(nn.Module):
    """x [B, J, F, T] -> [T, B, d]"""

    def __init__(self, input_feats, latent_dim):
        super().__init__()
        self.poseEmbedding = nn.Linear(input_feats, latent_dim)

    def forward(self, x):
        return self.poseEmbedding(x.flatten(1, 2).permute(2, 0, 1))


class OutputProcess(nn.Module):
    """[T, B, d] -> [B, J, F, T]"""

    def __init__(self, input_feats, latent_dim, njoints, nfeats):
        super().__init__()
        self.njoints, self.nfeats = njoints, nfeats
        self.poseFinal = nn.Linear(latent_dim, input_feats)

    def forward(self, output):
        return self.poseFinal(output).unflatten(-1, (self.njoints, self.nfeats)).permute(1, 2, 3, 0)
