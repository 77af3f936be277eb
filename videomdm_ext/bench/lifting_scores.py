"""Errors of lifted motions beside those of their teachers: against the truth where there is one, and in the image."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from videomdm_ext.bench.lifting import truth_of
from videomdm_ext.data.clip import Clip
from videomdm_ext.geometry.rays import closest_on_ray
from videomdm_ext.motion.accuracy import (
    acceleration_error,
    depth_and_image_error,
    mpjpe,
    pa_mpjpe,
    pck,
    root_aligned,
    root_aligned_mpjpe,
)

NEAREST = 0.5
COLUMNS = {
    "mpjpe": ("MPJPE", 1000.0),
    "root_aligned_mpjpe": ("root-aligned", 1000.0),
    "pa_mpjpe": ("PA-MPJPE", 1000.0),
    "pck50": ("PCK@50 %", 100.0),
    "pck100": ("PCK@100 %", 100.0),
    "acceleration_error": ("Accel m/s²", 1.0),
    "depth": ("depth", 1000.0),
    "image": ("off its rays", 1000.0),
}
"""Names of the figures in a table, and what takes them from metres and shares to its units; plain names are mm."""


def measure(motion: Tensor, clip: Clip) -> dict[str, float]:
    """Figures of a motion [T, J, 3] in camera coordinates: metres, m/s^2 and shares.

    `image` is the distance from the keypoints' rays, weighted by confidence; `depth` the error along the true joints'
    rays. PCK is root-aligned, MPJPE is not. Without a truth there is `image` alone.
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


def table(sources: Mapping[str, Mapping[str, float]]) -> str:
    """Sources of motion as lines, figures as columns; millimetres where no other unit is named."""
    shown = [name for name in COLUMNS if any(name in row for row in sources.values())]
    width = max(map(len, sources)) + 2
    lines = [" " * width + "".join(f"{COLUMNS[name][0]:>14}" for name in shown)]
    for source, row in sources.items():
        cells = [f"{row[name] * COLUMNS[name][1]:>14.1f}" if name in row else f"{'':>14}" for name in shown]
        lines.append(f"{source:<{width}}" + "".join(cells))
    return "\n".join(lines)
