"""The evaluator `text-motion`: a small contrastive space of motions and captions, trained on the true training clips.

It is trained once a data set, in about a minute on one core, and kept in the cache as plain arrays. Its own retrieval
of held-out true motions is part of every report; where that is near chance, nothing is ranked by it.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from videomdm_ext.bench.evaluators.base import (
    Evaluator,
    Ground,
    Progress,
    Retrieval,
    TrueMotion,
    UnavailableError,
    random_crop,
    read_true,
    retrieve,
    training_truth,
)
from videomdm_ext.bench.evaluators.weights import hash_of_tensors
from videomdm_ext.data import files
from videomdm_ext.data.motions import swap_sides
from videomdm_ext.errors import ConfigError, DatasetError
from videomdm_ext.geometry.rotations import rotate_yaw_together
from videomdm_ext.hookspecs import Register, hookimpl
from videomdm_ext.mdm import hook, text
from videomdm_ext.mdm.text import WIDTH, TextEncoder
from videomdm_ext.motion.kinematics import heading
from videomdm_ext.motion.skeletons import Skeleton, by_name


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


class TextMotion(nn.Module):
    """Both encoders into one space, with weights drawn from the global generator."""

    def __init__(self, skeleton: Skeleton, settings: Settings) -> None:
        super().__init__()
        self.motion = MotionEncoder(num_features(skeleton), settings.width, settings.out)
        self.text = TextProjection(WIDTH, settings.text_width, settings.out, settings.dropout)


# -- training ----------------------------------------------------------------------------------------------------------

LEAST_STD = 1e-3
"""Metres, or metres a second; a channel that hardly varies is not blown up further."""
REPORT_EVERY = 10


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
        seen = [motions[index] for index in taken]
        seen = [mirrored(m, skeleton) if torch.rand((), generator=draw) < 0.5 else m for m in seen]
        crops, lengths, captions = [], [], []
        for motion in seen:
            length = min(frames, len(motion.positions))
            crop = random_crop(motion.positions, length, draw)
            crops.append(torch.cat((crop, crop[-1:].expand(frames - length, -1, -1))))
            lengths.append(length)
            captions.append(motion.texts[int(torch.randint(len(motion.texts), (), generator=draw))])
        fits = torch.tensor([[caption in motion.texts for caption in captions] for motion in seen])
        yield Batch(torch.stack(crops), torch.tensor(lengths), captions, fits)


def contrastive(motion: Tensor, text: Tensor, fits: Tensor, temperature: float) -> Tensor:
    """-log of the share that captions which fit have in each motion's softmax, and the other way round; mean.

    motion and text [B, C] of unit length, fits [B, B] with a true diagonal. -> [], zero where nothing else is alike.
    """
    likeness, parts = motion @ text.T / temperature, []
    for scores, own in ((likeness, fits), (likeness.T, fits.T)):
        parts.append((scores.logsumexp(1) - scores.masked_fill(~own, -math.inf).logsumexp(1)).mean())
    return torch.stack(parts).mean()


def train(
    motions: Sequence[TrueMotion],
    skeleton: Skeleton,
    fps: float,
    encoder: TextEncoder,
    settings: Settings,
    progress: Progress = lambda what, done, total: None,
) -> TextMotion:
    """The trained model. Equal motions, captions and settings give equal weights; the caller's generator is kept."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums in one order, however many threads the caller uses
    with contextlib.ExitStack() as stack:
        stack.callback(torch.set_num_threads, threads)
        stack.enter_context(torch.random.fork_rng(devices=[]))
        torch.manual_seed(settings.seed)
        model = TextMotion(skeleton, settings)
        count, sums = 0, torch.zeros(2, num_features(skeleton), dtype=torch.float64)
        for motion in motions:
            features = frame_features(motion.positions, skeleton, fps).double()
            sums += torch.stack((features.sum(0), features.square().sum(0)))
            count += len(features)
        mean, square = sums / count
        model.motion.mean.copy_(mean)
        model.motion.std.copy_((square - mean.square()).clamp_min(0).sqrt().clamp_min(LEAST_STD))
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


logger = logging.getLogger(__name__)

NAME = "text-motion"
VERSION = 1
"""To be raised with every change that changes numbers."""
MOST_TRAINED = 8192
"""Training clips that are read, at most; the ones with the lowest hashes of their ids."""
MOST_ASKED = 512
"""Clips on which the retrieval quality is measured, at most."""
CHUNK = 64
"""Clips that are embedded at once."""


class TextMotionEvaluator(Evaluator):
    """Unit vectors of clips and of captions; the same motion elsewhere, or turned, has the same vector."""

    name = NAME
    comparable = "Only numbers of this data set by the same weights (see the hash); never published ones."

    def __init__(
        self, model: TextMotion, encoder: TextEncoder, skeleton: Skeleton, fps: float, settings: Settings
    ) -> None:
        self.model, self.encoder, self.skeleton, self.fps, self.settings = model, encoder, skeleton, fps, settings
        self.on_training: Retrieval | None = None
        self.on_held_out: Retrieval | None = None

    @cached_property
    def identity(self) -> str:
        facts = described(self.settings, self.encoder.name, self.skeleton, self.fps)
        return hash_of_tensors(*facts, **self.model.state_dict())

    @property
    def distrust(self) -> str:
        if self.on_held_out is None:
            return "no true motion is held out on which its retrieval could be judged"
        return self.on_held_out.distrust()

    @property
    def facts(self) -> Mapping[str, float | str]:
        found_facts: dict[str, float | str] = {"text features": self.encoder.name}
        for where, found in (("held-out", self.on_held_out), ("training", self.on_training)):
            found_facts |= found.facts(where) if found else {}
        return found_facts

    @torch.no_grad()
    def motions(self, clips: Sequence[Tensor], fps: float) -> Tensor:
        order = sorted(range(len(clips)), key=lambda index: len(clips[index]))
        rows = torch.empty(len(clips), self.settings.out)
        for start in range(0, len(order), CHUNK):
            chosen = order[start : start + CHUNK]
            features = [frame_features(clips[index].float(), self.skeleton, self.fps) for index in chosen]
            lengths = torch.tensor([len(part) for part in features])
            rows[chosen] = self.model.motion(torch.nn.utils.rnn.pad_sequence(features, batch_first=True), lengths)
        return rows

    @torch.no_grad()
    def captions(self, captions: Sequence[str]) -> Tensor:
        made: Tensor = self.model.text(self.encoder(captions))
        return made

    def judge(self, training: Sequence[TrueMotion], held_out: Sequence[TrueMotion]) -> None:
        """Measure the retrieval of true motions; the held-out ones decide about trust."""
        embed = partial(self.motions, fps=self.fps)
        self.on_training = retrieve(training, embed, self.captions) if training else None
        self.on_held_out = retrieve(held_out, embed, self.captions) if held_out else None


def make(ground: Ground, settings: Settings | None = None) -> TextMotionEvaluator:
    """From the cache, or trained on the true training clips and put there."""
    settings, skeleton, fps = settings or Settings(), by_name(ground.card.skeleton), ground.card.fps
    encoder = find_encoder(ground.text_features)
    facts = json.dumps(described(settings, encoder.name, skeleton, fps), sort_keys=True)
    key = hashlib.sha256(f"{facts}/{ground.card.content_hash}".encode()).hexdigest()[:16]
    place = ground.cache / f"{NAME}-{key}.npz"
    model = _kept(str(place), TextMotion(skeleton, settings)) if place.exists() else None
    if model is None:
        motions = training_truth(ground, MOST_TRAINED, NAME)
        if len({motion.texts for motion in motions}) < 2:
            raise UnavailableError(
                f"{ground.clips}: expected training clips with at least 2 different captions for the evaluator {NAME}, "
                "found one. Write captions that differ from clip to clip, or compare without it."
            )
        model = train(motions, skeleton, fps, encoder, settings, ground.progress)
        files.write_bytes(str(place), files.arrays_bytes({k: v.numpy() for k, v in model.state_dict().items()}))
    evaluator = TextMotionEvaluator(model, encoder, skeleton, fps, settings)
    evaluator.judge(read_true(ground, ("train",), MOST_ASKED), read_true(ground, ("val", "test"), MOST_ASKED))
    return evaluator


def described(settings: Settings, text_features: str, skeleton: Skeleton, fps: float) -> list[Any]:
    """Everything but the data and the weights that numbers depend on."""
    return [NAME, VERSION, dataclasses.asdict(settings), text_features, skeleton.name, fps]


def find_encoder(name: str) -> TextEncoder:
    """The text features of that name, ready to use; UnavailableError where they cannot be had, or are the host's."""
    try:
        found = None if name == text.HOST else text.load(hook.manager(), name)
    except ConfigError as error:
        raise UnavailableError(f"evaluator {NAME}: {error}") from error
    if found is None:
        raise UnavailableError(
            f"text features {name!r}: expected some that need no host for the evaluator {NAME}. "
            f"Choose --text-features {' or '.join(text.OURS)}."
        )
    return found


def _kept(path: str, model: TextMotion) -> TextMotion | None:
    """The model with the weights of the file; None, and a warning, where it holds none that fit."""
    try:
        arrays = files.read_arrays(path, needed=tuple(model.state_dict()))
        weights = {name: torch.from_numpy(values) for name, values in arrays.items()}
        if not all(bool(values.isfinite().all()) for values in weights.values()):
            raise DatasetError(f"{path}: expected finite weights, found others.")
        model.load_state_dict(weights)
    except (DatasetError, RuntimeError) as error:
        logger.warning(
            "%s does not hold the weights of the evaluator %s, which is trained again: %s", path, NAME, error
        )
        return None
    return model.eval().requires_grad_(False)


@hookimpl
def register_evaluators(register: Register) -> None:
    register(NAME, make)
