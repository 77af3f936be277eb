"""Cameras and a 2D detector for motion whose 3D is known, and a registered lifter for what they saw."""

import dataclasses
import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from videomdm_ext import plugins
from videomdm_ext.data.clip import Recording
from videomdm_ext.errors import PluginError
from videomdm_ext.geometry import cameras
from videomdm_ext.motion.skeletons import Skeleton

PREFIX = "lifter."  # options with this prefix go to the lifter alone


@dataclass(frozen=True)
class Optics:
    """Orbit cameras and a 2D detector. Angles in radians, metres; noise on the normalised plane."""

    elevation: tuple[float, float] = (0.0, math.radians(25.0))
    nearest_joint: tuple[float, float] = (2.5, 5.0)
    noise: float = 0.0005  # 2 mm at 4 m
    confidence: tuple[float, float] = (0.7, 1.0)


def observe(
    clip_id: str,
    texts: tuple[str, ...],
    truth: Tensor,
    *,
    skeleton: Skeleton,
    fps: float,
    optics: Optics,
    draw: torch.Generator,
) -> Recording:
    """Place a camera about the motion [T, J, 3] and detect its joints; `draw` is the clip's own generator."""
    camera = cameras.sample_orbit(
        truth[:, 0].mean(0), draw, elevation=optics.elevation, distance=optics.nearest_joint, positions=truth
    )
    points, _ = cameras.project(truth, camera.unsqueeze(0))
    keypoints = points + optics.noise * torch.randn(points.shape, generator=draw)
    confidence = cameras.uniform(*optics.confidence, tuple(points.shape[:-1]), draw)
    return Recording(clip_id, texts, fps, skeleton, keypoints, confidence, camera, truth=truth)


def own_generator(*label: object) -> torch.Generator:
    """The generator of a purpose: a stable hash of its label, such as set, seed and clip id."""
    digest = hashlib.sha256("/".join(map(str, label)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def find_lifter(name: str, seed: int, skeleton: Skeleton, extra: Mapping[str, str] | None = None) -> Any:
    """A registered lifter by its name, for this skeleton; of `extra` it gets the keys that its `options` name."""
    known = plugins.collect(plugins.create_manager(), "lifters")
    if name not in known:
        raise PluginError(f"lifter {name!r}: expected one of {', '.join(known)}. Install the plugin that has it.")
    taken = getattr(known[name], "options", None)
    given = {} if taken is None else {"target": skeleton, **(extra or {})}
    lifter = known[name](seed=seed, **given)
    if lifter.info.skeleton != skeleton:
        raise PluginError(
            f"lifter {name!r}: expected {skeleton.name}, found {lifter.info.skeleton.name}. Choose another."
        )
    return lifter


def lifter_options(name: str) -> Mapping[str, str]:
    """Keys of options that a registered lifter takes, each with a line of help; none for an unknown one."""
    found: Mapping[str, str] = getattr(plugins.collect(plugins.create_manager(), "lifters").get(name), "options", {})
    return found


def options_for_lifter(extra: Mapping[str, str], taken: Iterable[str]) -> dict[str, str]:
    """Of an import's KEY=VALUE pairs those for the lifter: lifter.KEY, and KEY where the importer takes no such key."""
    plain = {key: value for key, value in extra.items() if "." not in key and key not in set(taken)}
    return plain | {key[len(PREFIX) :]: value for key, value in extra.items() if key.startswith(PREFIX)}


def lift(lifter: Any, recording: Recording) -> Recording:
    """The recording with what the lifter makes of it."""
    lifted: Tensor = lifter.lift(
        recording.id,
        keypoints=recording.keypoints,
        confidence=recording.confidence,
        extrinsics=recording.extrinsics,
        fps=recording.fps,
        truth=recording.truth,
    )
    return dataclasses.replace(recording, lifted=lifted)
