"""MDM's transformer encoder: x_t, the timestep and a text embedding give x_0."""

import math

import torch
from torch import nn


class MDM(nn.Module):
    """Denoiser G(x_t, t, c). The state-dict keys are MDM's; the text encoder under `clip_model` is never saved."""

    def __init__(
        self, modeltype, njoints, nfeats, num_actions, translation, pose_rep, glob, glob_rot, latent_dim=256,
        ff_size=1024, num_layers=8, num_heads=4, dropout=0.1, ablation=None, activation="gelu", legacy=False,
        data_rep="rot6d", dataset="amass", clip_dim=512, arch="trans_enc", emb_trans_dec=False, clip_version=None,
        **kargs,
    ):  # fmt: skip
        super().__init__()
        self.cond_mode = kargs.get("cond_mode", "no_cond")
        if arch != "trans_enc" or data_rep != "hml_vec" or self.cond_mode not in ("text", "no_cond"):
            raise ValueError(
                "The stand-in host has arch trans_enc, data_rep hml_vec and cond_mode text or no_cond; "
                f"found {arch}, {data_rep}, {self.cond_mode}. Use MDM (--mdm)."
            )
        self.arch, self.data_rep, self.dataset = arch, data_rep, dataset
        self.njoints, self.nfeats, self.num_actions = njoints, nfeats, num_actions
        self.pose_rep, self.glob, self.translation = pose_rep, glob, translation
        self.latent_dim, self.ff_size, self.clip_dim = latent_dim, ff_size, clip_dim
        self.num_layers, self.num_heads, self.dropout = num_layers, num_heads, dropout
        self.input_feats = njoints * nfeats
        self.cond_mask_prob = kargs.get("cond_mask_prob", 0.0)
        self.mask_frames = kargs.get("mask_frames", False)

        self.input_process = InputProcess(self.input_feats, latent_dim)
        self.sequence_pos_encoder = PositionalEncoding(latent_dim, dropout, kargs.get("pos_embed_max_len", 5000))
        layer = nn.TransformerEncoderLayer(latent_dim, num_heads, ff_size, dropout, activation)
        self.seqTransEncoder = nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False)
        self.embed_timestep = TimestepEmbedder(latent_dim, self.sequence_pos_encoder)
        if self.cond_mode == "text":
            self.clip_version = clip_version
            self.clip_model = self.load_and_freeze_clip(clip_version)
            self.embed_text = nn.Linear(clip_dim, latent_dim)
        self.output_process = OutputProcess(self.input_feats, latent_dim, njoints, nfeats)
        self.rot2xyz = Rotation2xyz()

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


class Rotation2xyz:
    """MDM's joint extractor, for positions only: they pass through."""

    def __init__(self):
        self.smpl_model = nn.Module()

    def __call__(self, x, mask=None, pose_rep="xyz", **kwargs):
        if pose_rep != "xyz":
            raise ValueError(f"The stand-in host has no body model; pose_rep must be xyz, found {pose_rep}.")
        return x
