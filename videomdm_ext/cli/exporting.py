"""The verb that writes motions for other programs: BVH, GLB, and animations."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import Tensor

from videomdm_ext.cli.console import console, parse
from videomdm_ext.data import files
from videomdm_ext.errors import ConfigError, DatasetError
from videomdm_ext.inference.sample import read_motions
from videomdm_ext.motion.skeletons import SKELETONS, Skeleton
from videomdm_ext.render import figures
from videomdm_ext.render.body import Body, read_body
from videomdm_ext.render.bvh import to_bvh
from videomdm_ext.render.fitting import fit
from videomdm_ext.render.glb import to_glb

FORMATS = ("bvh", "glb", "mp4", "gif")
SHOWN = 8
"""Motions that get a line of their own."""


@dataclass(frozen=True)
class Export:
    """Write motions as files that Blender and others open: BVH, GLB, mp4 and gif."""

    motions: Annotated[Path, tyro.conf.Positional]
    """A .npz of `videomdm sample`, or a .npy of joint positions [T, J, 3], metres, y up."""
    format: str = "bvh,glb"
    """Any of bvh, glb, mp4 and gif, with commas between them."""
    out: Path | None = None
    """Folder to write to; by default beside the motions."""
    count: int = 0
    """Motions of each group, 0 for all."""
    fps: float = 20.0
    """Frames a second."""
    smpl: str = ""
    """A folder with SMPL, SMPL-H or SMPL-X model files of your own: bones are that body's, and the GLB shows it."""
    gender: str = "neutral"
    """Which of those bodies."""


@dataclass(frozen=True)
class Move:
    """One motion to be written, under a name, with its positions [T, J, 3] and its caption."""

    name: str
    positions: Tensor
    caption: str


def export(words: Sequence[str]) -> int:
    """Every motion in every format that is asked for."""
    options = parse(Export, "export", words)
    formats = _formats(options)
    moves = read_moves(options.motions, options.count)
    skeleton = _skeleton(moves[0].positions, options.motions)
    out = options.out or options.motions.parent
    files.check_writable(str(out))
    body = read_body(options.smpl, options.gender) if options.smpl else None
    if body and skeleton.num_joints != len(body.offsets):
        raise ConfigError(f"--smpl: expected motions of smpl22, found {skeleton.name}. Leave it out.")
    off = [write(move, out, formats, skeleton, options.fps, body) for move in moves]
    for move, (mean, most, joint) in list(zip(moves, off, strict=True))[:SHOWN]:
        fitted = f"; bones of one length are off by {mean:.1f} mm, at most {most:.0f} mm ({joint})" if joint else ""
        console.print(f"{out / move.name}: {len(move.positions)} frames{fitted}", highlight=False)
    console.print(f"{len(moves)} motions written as {', '.join(formats)}")
    console.print("Next: open a .glb in any viewer; in Blender, import a .bvh with scale 0.01")
    return 0


def _formats(options: Export) -> list[str]:
    """The formats asked for, with what they need at hand."""
    formats = list(dict.fromkeys(options.format.lower().split(",")))
    if not set(formats) <= set(FORMATS):
        raise ConfigError(f"--format: expected any of {','.join(FORMATS)}, found {options.format!r}. Correct it.")
    if options.count < 0 or not 0 < options.fps < float("inf"):
        raise ConfigError("--count: expected 0 or more; --fps: a number above 0. Correct it.")
    if options.smpl and "glb" not in formats:
        raise ConfigError(f"--smpl: expected glb among the formats, found {options.format!r}. Add it to --format.")
    if {"mp4", "gif"} & set(formats):
        figures.require()
        figures.require("PIL.Image")
    if "mp4" in formats:
        figures.require("imageio_ffmpeg", "video")
    return formats


def read_moves(path: Path, count: int = 0) -> list[Move]:
    """The motions of a file, at most `count` of each group (0: all)."""
    if path.suffix == ".npy":
        return [Move(path.stem, torch.from_numpy(files.read_array(str(path))), path.stem)]
    groups, captions = read_motions(path)
    moves = []
    for group, motions in groups.items():
        texts = captions if len(captions) == len(motions) else [group] * len(motions)
        pairs = list(zip(motions, texts, strict=True))[: count or None]
        moves += [Move(f"{group}_{number:03d}", motion, text) for number, (motion, text) in enumerate(pairs)]
    if not moves:
        raise DatasetError(f"{path}: expected motions, found none. Name a file that `videomdm sample` wrote.")
    return moves


def _skeleton(positions: Tensor, path: Path) -> Skeleton:
    for skeleton in SKELETONS.values():
        if positions.ndim == 3 and positions.shape[1:] == (skeleton.num_joints, 3):
            return skeleton
    known = ", ".join(f"{skeleton.num_joints} ({skeleton.name})" for skeleton in SKELETONS.values())
    raise DatasetError(
        f"{path}: expected positions [T, J, 3] of {known} joints, found {list(positions.shape)}. Name another file."
    )


def write(
    move: Move, out: Path, formats: Sequence[str], skeleton: Skeleton, fps: float, body: Body | None
) -> tuple[float, float, str]:
    """One motion's files. -> how far the fit is off, mm: mean, most, and where; no joint where nothing was fitted"""
    for ending in [name for name in formats if name in ("mp4", "gif")]:
        example = figures.Example(move.caption, {move.name: move.positions.numpy()})
        figures.animation(str(out / f"{move.name}.{ending}"), example, skeleton, fps=fps)
    if not {"bvh", "glb"} & set(formats):
        return 0.0, 0.0, ""
    sized = body.sized(move.positions) if body else None
    fitted = fit(move.positions, skeleton, fps, offsets=sized.offsets if sized else None)
    if "bvh" in formats:
        files.write_bytes(str(out / f"{move.name}.bvh"), to_bvh(fitted, skeleton, fps).encode())
    if "glb" in formats:
        content = to_glb(fitted, skeleton, fps, move.name, mesh=sized.mesh if sized else None)
        files.write_bytes(str(out / f"{move.name}.glb"), content)
    return float(fitted.mean_mm.mean()), float(fitted.max_mm.max()), skeleton.joints[int(fitted.max_mm.argmax())]
