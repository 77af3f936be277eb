"""The verb `export`, motions as files for other programs, and the BVH and GLB of other verbs."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import Tensor

from videomdm_ext.cli.console import console
from videomdm_ext.data import files
from videomdm_ext.errors import ConfigError, DatasetError, counted
from videomdm_ext.inference.sample import read_motions
from videomdm_ext.motion.human_mesh import Body as HumanBody
from videomdm_ext.motion.human_mesh import build_body
from videomdm_ext.motion.skeletons import SKELETONS, SMPL22, Skeleton
from videomdm_ext.render import figures
from videomdm_ext.render.body import RIG, wear
from videomdm_ext.render.bvh import to_bvh
from videomdm_ext.render.fitting import Fitted, fit
from videomdm_ext.render.glb import Body, read_body, to_glb

BODIES = ("auto", "anny", "sticks")
FORMATS = ("bvh", "glb", "mp4", "gif")
SHOWN = 8
"""Motions that get a line of their own."""


def known_joints(between: str) -> str:
    """Numbers of joints by skeleton, in words."""
    return between.join(f"{skeleton.num_joints} ({skeleton.name})" for skeleton in SKELETONS.values())


def human_body(choice: str, skeleton: Skeleton) -> HumanBody | None:
    """The mesh that --body asks for, None for sticks; `auto` is Anny where its package is installed."""
    if choice not in BODIES:
        raise ConfigError(f"--body: expected one of {', '.join(BODIES)}, found {choice!r}. Correct it.")
    fits = skeleton.name == SMPL22.name
    if choice == "anny" and not fits:
        raise ConfigError(f"--body anny: expected motions of {SMPL22.name}, found {skeleton.name}. Use sticks.")
    if choice == "sticks" or not fits or (choice == "auto" and find_spec("anny") is None):
        return None
    with console.status("building the body; the first time takes a few minutes"):
        return build_body({})


def write_fitted(
    places: Mapping[str, Path], motion: Tensor, skeleton: Skeleton, fps: float, name: str, body: HumanBody | Body | None
) -> Fitted | None:
    """Write a motion [T, J, 3] to the places of `bvh` and `glb` that there are.

    Bones of one length are fitted to it, but not for a human mesh, whose joints are the motion's. -> the fit, if any
    """
    if isinstance(body, HumanBody) and "glb" in places:
        worn = wear(body, motion, fps)
        content = to_glb(worn.fitted, RIG, fps, name, mesh=worn.mesh, shifts=worn.shifts)
        files.write_bytes(str(places["glb"]), content)
        places = {ending: place for ending, place in places.items() if ending != "glb"}
    if not {"bvh", "glb"} & places.keys():
        return None
    sized = body.sized(motion) if isinstance(body, Body) else None
    fitted = fit(motion, skeleton, fps, offsets=sized.offsets if sized else None)
    if "bvh" in places:
        files.write_bytes(str(places["bvh"]), to_bvh(fitted, skeleton, fps).encode())
    if "glb" in places:
        content = to_glb(fitted, skeleton, fps, name, mesh=sized.mesh if sized else None)
        files.write_bytes(str(places["glb"]), content)
    return fitted


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
    body: str = "auto"
    """What the GLB shows: anny, a human mesh (extra `body`), sticks, or auto: anny where it is installed."""

    def __call__(self) -> int:
        formats = self.formats()
        moves = self.read()
        skeleton = self.skeleton(moves[0][1])
        out = self.out or self.motions.parent
        files.check_writable(str(out))
        body = read_body(self.smpl, self.gender) if self.smpl else None
        if body and skeleton.num_joints != len(body.offsets):
            raise ConfigError(f"--smpl: expected motions of smpl22, found {skeleton.name}. Leave it out.")
        shown = body or (human_body(self.body, skeleton) if "glb" in formats else None)
        lines = []
        for name, positions, caption in moves:
            places = {ending: out / f"{name}.{ending}" for ending in formats}
            for ending in {"mp4", "gif"} & places.keys():
                example = figures.Example(caption, {name: positions.numpy()})
                figures.animation(str(places[ending]), example, skeleton, fps=self.fps)
            lines.append(f"{out / name}: {counted(len(positions), 'frame')}")
            if off := write_fitted(places, positions, skeleton, self.fps, name, shown):
                mean, most, joint = off.mean_mm.mean(), off.max_mm.max(), skeleton.joints[int(off.max_mm.argmax())]
                lines[-1] += f"; bones of one length are off by {mean:.1f} mm, at most {most:.0f} mm ({joint})"
        for line in lines[:SHOWN]:
            console.print(line, highlight=False)
        console.print(f"{counted(len(moves), 'motion')} written as {', '.join(formats)}")
        console.print("Next: open a .glb in any viewer; in Blender, import a .bvh with scale 0.01")
        return 0

    def formats(self) -> list[str]:
        """The formats asked for, with what they need at hand."""
        formats = list(dict.fromkeys(self.format.lower().split(",")))
        if not set(formats) <= set(FORMATS):
            raise ConfigError(f"--format: expected any of {','.join(FORMATS)}, found {self.format!r}. Correct it.")
        if self.count < 0 or not 0 < self.fps < float("inf"):
            raise ConfigError("--count: expected 0 or more; --fps: a number above 0. Correct it.")
        if self.smpl and self.body == "anny":
            raise ConfigError("--smpl, --body anny: expected one of the two bodies, found both. Leave one out.")
        if (self.smpl or self.body == "anny") and "glb" not in formats:
            option = "--smpl" if self.smpl else "--body anny"
            raise ConfigError(f"{option}: expected glb among the formats, found {self.format!r}. Add it to --format.")
        if {"mp4", "gif"} & set(formats):
            figures.require()
            figures.require("PIL.Image")
        if "mp4" in formats:
            figures.require("imageio_ffmpeg", "video")
        return formats

    def read(self) -> list[tuple[str, Tensor, str]]:
        """Name, positions [T, J, 3] and caption of the motions of the file, at most --count of each group."""
        path = self.motions
        if path.suffix == ".npy":
            return [(path.stem, torch.from_numpy(files.read_array(str(path))), path.stem)]
        groups, captions = read_motions(path)
        moves = []
        for group, motions in groups.items():
            texts = captions if len(captions) == len(motions) else [group] * len(motions)
            pairs = list(zip(motions, texts, strict=True))[: self.count or None]
            moves += [(f"{group}_{number:03d}", motion, text) for number, (motion, text) in enumerate(pairs)]
        if not moves:
            raise DatasetError(f"{path}: expected motions, found none. Name a file that `videomdm sample` wrote.")
        return moves

    def skeleton(self, positions: Tensor) -> Skeleton:
        """The skeleton with as many joints as a motion has."""
        for skeleton in SKELETONS.values():
            if positions.numel() and positions.shape[1:] == (skeleton.num_joints, 3):
                return skeleton
        raise DatasetError(
            f"{self.motions}: expected positions [T, J, 3] of {known_joints(', ')} joints, found "
            f"{list(positions.shape)}. Name another file."
        )
