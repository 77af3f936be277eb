"""Classifier-free guidance at sampling time."""

from torch import nn


class ClassifierFreeSampleModel(nn.Module):
    """Extrapolates from the unconditional to the conditional prediction by y['scale'] [B]."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        for name in ("njoints", "nfeats", "cond_mode", "encode_text"):
            setattr(self, name, getattr(model, name))

    def forward(self, x, timesteps, y=None):
        conditional = self.model(x, timesteps, y)
        unconditional = self.model(x, timesteps, {**y, "uncond": True})
        return unconditional + y["scale"].view(-1, 1, 1, 1) * (conditional - unconditional)
