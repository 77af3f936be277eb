"""The networks of the bundled text-motion evaluator, and their contrastive training on true motions.

Training is deterministic, on one thread.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from videomdm_ext.bench.evaluators.base import Progress, TrueMotion
from videomdm_ext.data.motions import swap_sides
from videomdm_ext.geometry.rotations import rotate_yaw_together
from videomdm_ext.mdm.text import WIDTH, TextEncoder
from videomdm_ext.motion.kinematics import heading
from videomdm_ext.motion.skeletons import Skeleton


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


# -- training ----------------------------------------------------------------------------------------------------------

LEAST_STD = 1e-3
"""Metres, or metres a second; a channel that hardly varies is not blown up further."""
REPORT_EVERY = 10


@dataclass(frozen=True)
class Settings:
    """Crops have `shortest` to `longest` frames; half of them are mirrored, left and right in the caption too."""

    steps: int = 200
    batch: int = 48
    shortest: int = 24
    longest: int = 196
    width: int = 128
    out: int = 64
    text_width: int = 256
    dropout: float = 0.2
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    temperature: float = 0.1
    seed: int = 0


@dataclass(frozen=True)
class Batch:
    """positions [B, T, J, 3] with each clip's last frame repeated behind it, frames [B], a caption each.

    `fits` [B, B]: whether the motion of the row has the caption of the column among its own.
    """

    positions: Tensor
    frames: Tensor
    captions: list[str]
    fits: Tensor


def mirrored(motion: TrueMotion, skeleton: Skeleton) -> TrueMotion:
    """The motion seen in a mirror, left and right exchanged in its joints and its captions."""
    positions = motion.positions[:, list(skeleton.mirror)] * motion.positions.new_tensor((-1.0, 1.0, 1.0))
    return TrueMotion(motion.id, positions, tuple(swap_sides(text) for text in motion.texts))


def new_model(skeleton: Skeleton, settings: Settings) -> TextMotion:
    """Both encoders with weights drawn from the global generator."""
    motion = MotionEncoder(num_features(skeleton), settings.width, settings.out)
    return TextMotion(motion, TextProjection(WIDTH, settings.text_width, settings.out, settings.dropout))


def batches(motions: Sequence[TrueMotion], skeleton: Skeleton, settings: Settings) -> Iterator[Batch]:
    """One batch a step: every motion once before any comes again, crops of one random length, at random places."""
    draw = torch.Generator().manual_seed(settings.seed)
    longest = max(settings.shortest, min(settings.longest, max(len(motion.positions) for motion in motions)))
    order: list[int] = []
    for _ in range(settings.steps):
        share = torch.rand((), generator=draw).item()
        frames = round(settings.shortest * (longest / settings.shortest) ** share)
        while len(order) < min(settings.batch, len(motions)):
            order += torch.randperm(len(motions), generator=draw).tolist()
        taken, order = order[: settings.batch], order[settings.batch :]
        yield _batch([motions[index] for index in taken], frames, skeleton, draw)


def _batch(motions: Sequence[TrueMotion], frames: int, skeleton: Skeleton, draw: torch.Generator) -> Batch:
    crops, lengths, captions = [], [], []
    seen = [mirrored(m, skeleton) if torch.rand((), generator=draw) < 0.5 else m for m in motions]
    for motion in seen:
        length = min(frames, len(motion.positions))
        crop = random_crop(motion.positions, length, draw)
        crops.append(torch.cat((crop, crop[-1:].expand(frames - length, -1, -1))))
        lengths.append(length)
        captions.append(motion.texts[int(torch.randint(len(motion.texts), (), generator=draw))])
    fits = torch.tensor([[caption in motion.texts for caption in captions] for motion in seen])
    return Batch(torch.stack(crops), torch.tensor(lengths), captions, fits)


def random_crop(positions: Tensor, frames: int, draw: torch.Generator) -> Tensor:
    """`frames` frames in a row of [T, J, 3], T >= frames."""
    start = int(torch.randint(len(positions) - frames + 1, (), generator=draw))
    return positions[start : start + frames]


def contrastive(motion: Tensor, text: Tensor, fits: Tensor, temperature: float) -> Tensor:
    """-log of the share that captions which fit have in each motion's softmax, and the other way round; mean.

    motion and text [B, C] of unit length, fits [B, B] with a true diagonal. -> [], zero where nothing else is alike.
    """
    likeness = motion @ text.T / temperature
    parts = [_missed(likeness, fits), _missed(likeness.T, fits.T)]
    return torch.stack(parts).mean()


def _missed(likeness: Tensor, fits: Tensor) -> Tensor:
    own = likeness.masked_fill(~fits, -math.inf)
    return (likeness.logsumexp(1) - own.logsumexp(1)).mean()


def train(
    motions: Sequence[TrueMotion],
    skeleton: Skeleton,
    fps: float,
    encoder: TextEncoder,
    settings: Settings,
    progress: Progress = lambda what, done, total: None,
) -> TextMotion:
    """The trained model. Equal motions, captions and settings give equal weights; the caller's generator is kept."""
    with _one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = new_model(skeleton, settings)
        _set_scale(model.motion, motions, skeleton, fps)
        optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
        rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, total_steps=settings.steps)
        for step, batch in enumerate(batches(motions, skeleton, settings)):
            made = model.motion(frame_features(batch.positions, skeleton, fps), batch.frames - 1)
            loss = contrastive(made, model.text(encoder(batch.captions)), batch.fits, settings.temperature)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
            if (step + 1) % REPORT_EVERY == 0 or step + 1 == settings.steps:
                progress("text-motion", step + 1, settings.steps)
    return model.eval().requires_grad_(False)


def _set_scale(encoder: MotionEncoder, motions: Sequence[TrueMotion], skeleton: Skeleton, fps: float) -> None:
    """Each channel's mean and standard deviation over all frames."""
    count, sums = 0, torch.zeros(2, num_features(skeleton), dtype=torch.float64)
    for motion in motions:
        features = frame_features(motion.positions, skeleton, fps).double()
        sums += torch.stack((features.sum(0), features.square().sum(0)))
        count += len(features)
    mean, square = sums / count
    encoder.mean.copy_(mean)
    encoder.std.copy_((square - mean.square()).clamp_min(0).sqrt().clamp_min(LEAST_STD))


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Sums in one order, however many threads the caller uses."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
