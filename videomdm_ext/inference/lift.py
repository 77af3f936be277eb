"""2D keypoints and a camera to 3D with a trained prior (METHOD 7): sampling that is drawn towards the rays.

It starts from the noised teacher, as SDEdit does. A clip longer than the prior's crops goes in windows that overlap.
Errors of lifted motions are measured against the truth where there is one, and in the image.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from videomdm_ext.data.clip import Clip, Crop, collate, crop, observed, tensor_of, truth_of
from videomdm_ext.errors import ConfigError
from videomdm_ext.geometry.cameras import closest_on_ray
from videomdm_ext.inference.sample import Trained, condition, denoiser, finite, in_camera, sampler, stream
from videomdm_ext.motion.measures import (
    acceleration_error,
    depth_and_image_error,
    mpjpe,
    pa_mpjpe,
    pck,
    root_aligned,
    root_aligned_mpjpe,
)
from videomdm_ext.supervision.observation import Observation
from videomdm_ext.supervision.rays import guide


@dataclass(frozen=True)
class Lifting:
    """How clips are lifted: `strength`, the share of the way to its ray by which each step moves a joint, times its
    keypoint's weight; `nearest`, the least depth, m; `start`, the share of the schedule to whose noise the teacher is
    taken (1: noise alone);
    the share of a window that the next one covers too; draws of noise whose mean is given; DDIM steps, 0 for none;
    the scale of classifier-free guidance by the caption."""

    strength: float = 1.0
    nearest: float = 0.5
    start: float = 0.2
    overlap: float = 0.25
    draws: int = 1
    ddim: int = 0
    text_scale: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise ConfigError(
                f"--guidance-strength: expected a share from 0 to 1, found {self.strength:g}. Correct it."
            )
        if not 0 < self.start <= 1:
            raise ConfigError(f"--start: expected a share above 0, at most 1, found {self.start:g}. Correct it.")
        if not 0 <= self.overlap <= 0.5:
            raise ConfigError(f"--overlap: expected a share from 0 to 0.5, found {self.overlap:g}. Correct it.")
        if self.draws < 1:
            raise ConfigError(f"--draws: expected 1 or more, found {self.draws}. Correct it.")


@dataclass(frozen=True)
class Window:
    """Frames of one clip that are sampled together: the clip's place, the crop, its first frame, caption and noise."""

    place: int
    cut: Crop
    first: int
    text: str
    noise: Tensor


def lift(
    trained: Trained,
    clips: Sequence[Clip],
    how: Lifting = Lifting(),
    *,
    batch: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> list[Tensor]:
    """Motions of clips [T, J, 3] in camera coordinates, m. Each clip's teacher is diffused; no truth is read."""
    for clip in clips:
        check(clip, trained)
    windows = [window for draw in range(how.draws) for window in windows_of(trained, clips, how, draw)]
    total = [torch.zeros(clip.length, clip.skeleton.num_joints, 3) for clip in clips]
    weight = [torch.zeros(clip.length, 1, 1) for clip in clips]
    for start in range(0, len(windows), batch):
        part = windows[start : start + batch]
        torch.manual_seed(stream(how.seed, f"steps/{start}"))
        for window, motion in zip(part, sample_windows(trained, part, how), strict=True):
            frames = slice(window.first, window.first + len(motion))
            share = ramp(len(motion))[:, None, None]
            total[window.place][frames] += share * motion
            weight[window.place][frames] += share
        if progress:
            progress(start + len(part), len(windows))
    return [motion / share for motion, share in zip(total, weight, strict=True)]


def check(clip: Clip, trained: Trained) -> None:
    """Refuse a clip that the prior cannot lift."""
    known = trained.space.skeleton
    if clip.skeleton != known:
        raise ConfigError(
            f"{clip.label}: expected {known.name} ({known.num_joints} joints), the skeleton of the checkpoint, found "
            f"{clip.skeleton.name} ({clip.skeleton.num_joints}). Use a checkpoint that was trained on it."
        )
    if abs(clip.fps - trained.fps) > 1e-3 * trained.fps:
        raise ConfigError(
            f"{clip.label}: expected {trained.fps:g} fps, as in training, found {clip.fps:g}. Import it at that rate."
        )
    if clip.is_known:
        raise ConfigError(f"{clip.label}: expected keypoints, found motion that no camera saw. Leave the clip out.")


def spans(frames: int, longest: int, overlap: float) -> list[tuple[int, int]]:
    """First frame and length of the windows of a clip, as few as cover it with at least that share in common."""
    length = min(frames, longest)
    step = max(1, longest - round(overlap * longest))
    count = 1 + max(0, -(-(frames - length) // step))
    return [(round(i * (frames - length) / max(1, count - 1)), length) for i in range(count)]


def ramp(frames: int) -> Tensor:
    """Weights [T] of a window's frames where it meets others: more in its middle than at its ends."""
    place = torch.arange(frames)
    return (1 + torch.minimum(place, frames - 1 - place)).float() / frames


def windows_of(trained: Trained, clips: Sequence[Clip], how: Lifting, draw: int) -> Iterator[Window]:
    """All windows of all clips; those of a clip share its noise where they overlap."""
    longest = trained.dataset.batch_length
    for place, clip in enumerate(clips):
        own = torch.Generator().manual_seed(stream(how.seed, f"lift/{clip.id}/{draw}"))
        noise = torch.randn(trained.space.skeleton.num_features, 1, max(clip.length, longest), generator=own)
        for first, length in spans(clip.length, longest, how.overlap):
            cut = crop(clip, first, length, with_truth=False)
            yield Window(place, cut, first, clip.texts[0], noise[..., first : first + longest])


def sample_windows(trained: Trained, windows: Sequence[Window], how: Lifting) -> list[Tensor]:
    """Motions [T, J, 3] of windows in camera coordinates, one pass through the host's sampler."""
    batch = collate([window.cut for window in windows], length=trained.dataset.batch_length)
    lengths = tensor_of(batch, "lengths")
    observation = observed(batch)
    x_start = trained.space.features(tensor_of(batch, "teacher")) * observation.valid[:, None, None]
    model = Guided(denoiser(trained, how.text_scale), observation, trained, how)
    loop, steps = sampler(trained, how.ddim)
    kept = max(1, round(how.start * steps))
    noised: dict[str, Any] = {}
    if how.start < 1:
        noised = {"skip_timesteps": steps - kept, "init_image": x_start.to(trained.device)}
    x = loop(
        model,
        tuple(x_start.shape),
        noise=torch.stack([window.noise for window in windows]).to(trained.device),
        clip_denoised=False,
        model_kwargs={"y": condition(trained, [window.text for window in windows], lengths, how.text_scale)},
        **noised,
    )
    raw = trained.space.raw(finite(x, trained).cpu())
    return in_camera(trained, raw, model.observation.extrinsics, lengths)


class Guided(torch.nn.Module):
    """A denoiser whose predictions are drawn towards their rays; `observation` follows the camera from step to step."""

    def __init__(self, model: Any, observation: Observation, trained: Trained, how: Lifting) -> None:
        super().__init__()
        self.model, self.observation, self.how, self.space = model, observation, how, trained.space
        self.cond_mode, self.encode_text = model.cond_mode, model.encode_text

    def forward(self, x: Tensor, timesteps: Tensor, y: dict[str, Any] | None = None) -> Tensor:
        """x [B, D, 1, T], timesteps [B] of the whole schedule -> the guided prediction of x_0, [B, D, 1, T]."""
        prediction = self.model(x, timesteps, y=y)
        guided, self.observation = guide(
            prediction.cpu(), self.observation, self.space, self.how.strength, nearest=self.how.nearest
        )
        return guided.to(x.device)


# -- errors of lifted motions ------------------------------------------------------------------------------------------

NEAREST = 0.5
COLUMNS = {
    "mpjpe": ("MPJPE", 1000.0),
    "root_aligned_mpjpe": ("root-aligned", 1000.0),
    "pa_mpjpe": ("PA-MPJPE", 1000.0),
    "pck50": ("PCK@50 %", 100.0),
    "pck100": ("PCK@100 %", 100.0),
    "pck150": ("PCK@150 %", 100.0),
    "auc": ("AUC@150 %", 100.0),
    "acceleration_error": ("Accel m/s²", 1.0),
    "depth": ("depth", 1000.0),
    "image": ("off its rays", 1000.0),
}
"""Names of the figures in a table, and what takes them from metres and shares to its units; plain names are mm."""


def measure(motion: Tensor, clip: Clip) -> dict[str, float]:
    """Figures of a motion [T, J, 3] in camera coordinates: metres, m/s^2 and shares.

    `image` is the distance from the keypoints' rays, weighted by confidence; `depth` the error along the true joints'
    rays. PCK is root-aligned, MPJPE is not; `auc` is the mean PCK over distances of 5 to 150 mm in steps of 5. Without
    a truth there is `image` alone.
    """
    found = {"image": off_rays(motion, clip)}
    truth = truth_of(clip)
    if truth is None:
        return found
    at_root = root_aligned(motion, truth)
    return found | {
        "mpjpe": mpjpe(motion, truth).item(),
        "root_aligned_mpjpe": root_aligned_mpjpe(motion, truth).item(),
        "pa_mpjpe": pa_mpjpe(motion, truth).item(),
        "pck50": pck(at_root, truth, within=0.05).item(),
        "pck100": pck(at_root, truth, within=0.1).item(),
        "pck150": pck(at_root, truth, within=0.15).item(),
        "auc": sum(pck(at_root, truth, within=0.005 * step).item() for step in range(1, 31)) / 30,
        "acceleration_error": acceleration_error(motion, truth, clip.fps).item(),
        "depth": depth_and_image_error(motion, truth)[0].item(),
    }


def off_rays(motion: Tensor, clip: Clip) -> float:
    """Mean distance, m, of joints [T, J, 3] in camera coordinates from their rays, weighted by confidence."""
    keypoints, confidence = torch.from_numpy(clip.keypoints), torch.from_numpy(clip.confidence)
    usable = (confidence > 0) & torch.isfinite(keypoints).all(-1)
    points = torch.where(usable.unsqueeze(-1), keypoints, 0.0)
    distance = torch.linalg.vector_norm(motion - closest_on_ray(motion, points, NEAREST), dim=-1)
    weight = torch.where(usable, confidence, 0.0)
    return ((distance * weight).sum() / weight.sum().clamp_min(1e-9)).item()


def means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean over clips of each figure, over the clips that have it."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: sum(r[name] for r in rows if name in r) / sum(name in r for r in rows) for name in names}


def by_action(rows: Sequence[Mapping[str, float]], clips: Sequence[Clip]) -> dict[str, dict[str, float]]:
    """Means of clips' figures by action, in the order of their names. Clips with one first caption show one action, as
    those of Fit3D and of folders named after what is done; other captions each have a row of their own."""
    groups: dict[str, list[Mapping[str, float]]] = {}
    for row, clip in zip(rows, clips, strict=True):
        groups.setdefault(clip.texts[0].strip(), []).append(row)
    return {action: means(groups[action]) for action in sorted(groups)}


def table(sources: Mapping[str, Mapping[str, float]]) -> str:
    """Sources of motion as lines, figures as columns; millimetres where no other unit is named."""
    shown = [name for name in COLUMNS if any(name in row for row in sources.values())]
    width = max(map(len, sources)) + 2
    lines = [" " * width + "".join(f"{COLUMNS[name][0]:>14}" for name in shown)]
    for source, row in sources.items():
        cells = [f"{row[name] * COLUMNS[name][1]:>14.1f}" if name in row else f"{'':>14}" for name in shown]
        lines.append(f"{source:<{width}}" + "".join(cells))
    return "\n".join(lines)
