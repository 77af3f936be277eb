"""The networks of the bundled text-motion evaluator, and what they see of a motion."""

import torch
from torch import Tensor, nn

from videomdm_ext.geometry.rotations import rotate_yaw_together
from videomdm_ext.motion.kinematics import heading
from videomdm_ext.skeletons import Skeleton


def frame_features(positions: Tensor, skeleton: Skeleton, fps: float) -> Tensor:
    """Each frame as the person sees it: joints from the root, the root's height, m, and joint velocities, m/s.

    Where a clip stands and heads does not matter; nothing is smoothed. [..., T, J, 3] -> [..., T - 1, 6 J - 2]
    """
    frames, velocity = positions[..., :-1, :, :], positions.diff(dim=-3) * fps
    turned = -heading(frames, skeleton)
    local = rotate_yaw_together(frames[..., 1:, :] - frames[..., :1, :], turned)
    seen = rotate_yaw_together(velocity, turned)
    return torch.cat((local.flatten(-2), frames[..., 0, 1:2], seen.flatten(-2)), -1)


def num_features(skeleton: Skeleton) -> int:
    """Channels of `frame_features`."""
    return 6 * skeleton.num_joints - 2


def moments(x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over the valid frames. [B, T, C], [B, T, 1] -> [B, C] each."""
    count = valid.sum(1)
    mean = (x * valid).sum(1) / count
    spread = ((x - mean.unsqueeze(1)).square() * valid).sum(1) / count
    return mean, (spread + 1e-4).sqrt()


class Block(nn.Module):
    """A dilated convolution over the frames of normalised input, added to it. [B, T, C] -> [B, T, C]"""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mix = nn.Conv1d(width, width, 5, padding=2 * dilation, dilation=dilation)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """`valid` [B, T, 1] is 0 in the padding, which is then seen as zeros, like what lies beyond a clip's ends."""
        mixed = self.mix((self.norm(x) * valid).transpose(1, 2)).transpose(1, 2)
        return x + self.out(nn.functional.gelu(mixed))


class MotionEncoder(nn.Module):
    """Features [B, T, D] of clips with lengths [B] -> [B, C] of unit length, from moments over the valid frames."""

    mean: Tensor
    std: Tensor

    def __init__(self, features: int, width: int, out: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))
        self.enter = nn.Linear(features, width)
        self.blocks = nn.ModuleList(Block(width, dilation) for dilation in (1, 2, 4))
        self.leave = nn.Sequential(nn.LayerNorm(2 * width), nn.Linear(2 * width, out))

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        valid = (torch.arange(features.shape[1]) < lengths.unsqueeze(1)).unsqueeze(-1).to(features)
        x = self.enter((features - self.mean) / self.std)
        for block in self.blocks:
            x = block(x, valid)
        return nn.functional.normalize(self.leave(torch.cat(moments(x, valid), -1)), dim=-1)


class TextProjection(nn.Module):
    """Fixed text features [B, F] -> [B, C] of unit length."""

    def __init__(self, features: int, width: int, out: int, dropout: float) -> None:
        super().__init__()
        hidden = (nn.Linear(features, width), nn.GELU(), nn.Dropout(dropout))
        self.layers = nn.Sequential(*hidden, nn.Linear(width, out))

    def forward(self, features: Tensor) -> Tensor:
        return nn.functional.normalize(self.layers(nn.functional.normalize(features, dim=-1)), dim=-1)


class TextMotion(nn.Module):
    """Both encoders into one space."""

    def __init__(self, motion: MotionEncoder, text: TextProjection) -> None:
        super().__init__()
        self.motion, self.text = motion, text
