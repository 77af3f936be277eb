"""Importers of motion capture, long takes below a folder seen by seeded orbit cameras: `bvh` and `amass`.

bvh     files of any known naming: CMU (Hahne's conversions), 100STYLE, Mixamo, LAFAN1 and SFU are known by their
        joints' names (`motion.joint_names`), others by a map of the user's. Parsing and kinematics are pybvh's; the
        text is looked at before, so that a file that declares more than it holds is refused unread. BVH has no units
        and no upward axis: the unit is the one that makes the legs as long as a person's, the axis the one along which
        the person stands, in the rest pose and in motion.
amass   SOURCE/**/NAME.npz: poses [T, 156] (SMPL-H), [T, 165] (SMPL-X) or [T, 72] (SMPL) as rotation vectors, trans
        [T, 3], betas, gender, mocap_framerate (or mocap_frame_rate); z up, which becomes y up as in HumanML3D. Needs
        the body model's files (--option smpl=FOLDER).

Takes are cut to pieces of at most 196 frames at 20 fps, which stay on one side of the split.
"""

import contextlib
import logging
import math
import re
import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import torch
import yaml
from torch import Tensor

from videomdm_ext.data import files
from videomdm_ext.data.motions import frames_at, grounded, resample, resample_rotations
from videomdm_ext.data.sources.base import Member, TakesImporter, y_up
from videomdm_ext.errors import DatasetError
from videomdm_ext.geometry.rotations import roma
from videomdm_ext.hookspecs import Register, hookimpl
from videomdm_ext.motion import joint_names
from videomdm_ext.motion.body_models import GENDERS, SITES, BodyModel, find_model, posed, read_model
from videomdm_ext.motion.skeletons import SMPL22

logger = logging.getLogger(__name__)

MAP_BYTES = 1 << 16
FPS = 20.0
HEADER_BYTES = 1 << 19
FILE_BYTES = 1 << 28
MOST_FRAMES = 400_000
MOST_NODES = 1_000
SLOWEST, FASTEST = 5.0, 1000.0  # frames per second of a file
UNITS = {"metres": 1.0, "centimetres": 0.01, "millimetres": 0.001, "inches": 0.0254, "CMU's units": 0.0254 / 0.45}
LEGS = (0.55, 1.15)  # metres from hip to ankle along the leg; no two units put the same file into this range
UPRIGHT = 0.8  # a person stands along an axis when this share of the way from ankles to head is along it
TALL = 1.25  # legs from ankles to head, at least, of a person who stands; 1.7 are usual
JUMP = 8.0  # m/s, of all joints together, between the first two frames: the first one is then a rest pose and no motion


@dataclass(frozen=True)
class Header:
    """What a BVH file declares."""

    frames: int
    fps: float

    @property
    def length(self) -> int:
        """Frames at 20 fps."""
        return int((self.frames - 1) / self.fps * FPS + 1e-3) + 1


@dataclass(frozen=True)
class Reading:
    """How to read files: `rules` instead of the known tables; `scale`, metres in a unit, and `up` where given."""

    rules: joint_names.Rules | None = None
    scale: float | None = None
    up: str = ""


class BvhImporter(TakesImporter):
    """BVH files below a folder; several views become clips NAME_v0, NAME_v1 ..."""

    name = "bvh"
    ending = ".bvh"
    about = "A folder of BVH files (CMU, 100STYLE, Mixamo, LAFAN1, SFU or your own joint names)."
    sources = ("BVH motion capture, projected to orbit cameras",)
    extras: ClassVar[Mapping[str, str] | None] = {
        "map": "a YAML file that says which joints are the 22 SMPL joints",
        "scale": "metres in a unit of the files, by default found from the legs",
        "up": "their upward axis, y or z, by default found from the pose",
    }

    def length(self, path: Path) -> int:
        """Frames of a file at 20 fps, as it declares them."""
        return read_header(path).length

    def read_take(self, path: Path) -> Tensor:
        """The take [T, 22, 3]."""
        return read_take(path, self._reading)

    @cached_property
    def _reading(self) -> Reading:
        place, rules = self.extra("map"), None
        if place:
            try:
                rules = joint_names.rules_from(yaml.safe_load(files.read_text(place, limit=MAP_BYTES)), place)
            except (yaml.YAMLError, RecursionError) as error:
                raise self.refuse(place, "YAML", f"other text ({error})", "Correct the map.") from error
        scale = self.extra_number("scale", 1.0) if self.extra("scale") else None
        return Reading(rules, scale, self.extra("up", among=("", "y", "z")))


def read_header(path: Path) -> Header:
    """What the file declares, checked against its size."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(HEADER_BYTES)
    nodes, channels, frames, seconds, end = _declarations(start)
    if not start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"HIERARCHY") or not end:
        raise _refuse(path, "a BVH file with HIERARCHY, Frames: and Frame Time:", "something else", "Export it again.")
    if channels == 0 or nodes > MOST_NODES:
        raise _refuse(path, f"up to {MOST_NODES} joints with channels", f"{nodes} and {channels}", "Export it again.")
    if not 1 / FASTEST <= seconds <= 1 / SLOWEST:
        expected = f"a frame time of {1 / FASTEST:g} to {1 / SLOWEST:g}"
        raise _refuse(path, expected, f"{seconds:g} seconds", "Correct the line Frame Time.")
    room = (size - end) // 2 + 1
    if not 2 <= frames <= MOST_FRAMES or frames * channels > room or size > FILE_BYTES:
        expected = f"2 to {MOST_FRAMES} frames, all of them in at most {FILE_BYTES >> 20} MB"
        found = f"{frames} frames of {channels} channels declared in {size} bytes"
        raise _refuse(path, expected, found, "The file is cut off, or not one take; export it again.")
    rate = round(1 / seconds)  # a frame time written with few digits means a whole rate
    return Header(frames, rate if abs(rate * seconds - 1) < 1e-3 else 1 / seconds)


def _declarations(start: bytes) -> tuple[int, int, int, float, int]:
    """Nodes, channels, frames, seconds a frame, and where the motion begins; 0 where that is not declared."""
    nodes, channels, frames, at = 0, 0, 0, 0
    for line in start.split(b"\n"):
        at += len(line) + 1
        words = line.split(maxsplit=3)
        kind = words[0] if words else b""
        nodes += kind in (b"ROOT", b"JOINT", b"End")
        if kind == b"CHANNELS" and len(words) > 1:
            channels += int(_number(words[1][:4]))
        elif kind == b"Frames:" and len(words) > 1:
            frames = int(_number(words[1][:18]))
        elif words[:2] == [b"Frame", b"Time:"] and len(words) > 2:
            return nodes, channels, frames, _number(words[2][:30]), at
    return nodes, channels, frames, 0.0, 0


def _number(text: bytes) -> float:
    try:
        value = float(text)
    except ValueError:
        return 0.0
    return value if math.isfinite(value) else 0.0


def read_take(path: Path, reading: Reading) -> Tensor:
    """The take as 22 SMPL joints at 20 fps, metres, y up, floor at 0. -> float32 [T, 22, 3]"""
    header = read_header(path)
    files.note_read(str(path))
    bvh = _parsed(path)
    # of several end sites below one joint only the first can be named
    nodes = joint_names.Nodes.of([f"{node.parent.name}/end" if node.is_end_site() else node.name for node in bvh.nodes])
    table = "the given map" if reading.rules else joint_names.choose_table(nodes, str(path))
    rules = reading.rules or joint_names.TABLES[table]
    if reading.rules:
        joint_names.check_rules(rules, nodes, str(path))
    if table == "cmu":  # give the bones that Hahne's conversion drops their lengths again
        dropped = joint_names.DROPPED_BONES
        known = {name: bvh.nodes[nodes.index(name)].offset.copy() for r in dropped.values() for name in r[:2]}
        for joint, (empty, like, factor) in dropped.items():
            if not known[empty].any():
                bvh.nodes[nodes.index(joint)].offset = factor * known[like]
    rest = joint_names.to_smpl(torch.from_numpy(bvh.rest_pose_positions()), nodes, rules)
    start = joint_names.to_smpl(torch.from_numpy(bvh[: min(2, header.frames)].node_positions()), nodes, rules)
    unit, scale = _unit(start[-1], reading, path)
    if len(start) == 2 and float((start[1] - start[0]).norm(dim=-1).mean() * scale * header.fps) > JUMP:
        bvh, unit = bvh[1:], f"{unit}, without the rest pose in the first frame"
    every = round(header.fps / FPS)
    whole = every >= 1 and abs(header.fps / FPS - every) < 1e-3
    even = bvh[::every] if whole else bvh.resample(FPS)
    positions = joint_names.to_smpl(torch.from_numpy(even.node_positions()), nodes, rules) * scale
    if not bool(torch.isfinite(positions).all()):
        raise _refuse(path, "numbers", "NaN or infinite ones", "Export it again.")
    up = reading.up or _upward(rest * scale, positions, path)
    logger.info("%s: joints of %s, %s, %s up, %d frames", path, table, unit, up, len(positions))
    return grounded(y_up(positions) if up == "z" else positions).float()


def _parsed(path: Path) -> Any:
    try:
        pybvh = import_module("pybvh")
    except ImportError as error:
        advice = 'Install it: pip install -e ".[import]" -c constraints.txt'
        raise _refuse(path, "the package pybvh to read it with", "none", advice) from error
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        place = path
        if path.suffix != ".bvh":  # pybvh knows no other ending
            place = Path(shutil.copyfile(path, Path(folder) / "take.bvh"))
        try:
            return pybvh.read_bvh_file(place, world_up="+y")
        except (ValueError, IndexError, KeyError, TypeError, AttributeError, OSError, RecursionError) as error:
            advice = "Export it with rotations in all joints and a position in the root only."
            raise _refuse(path, "a BVH file", f"one that cannot be read ({str(error)[:200]})", advice) from error


def _leg(pose: Tensor) -> float:
    """Length of a leg from hip to ankle, mean of both. pose [22, 3]"""
    hips, knees, ankles = (
        pose[[SMPL22.index(f"{side}_{joint}") for side in "lr"]] for joint in ("hip", "knee", "ankle")
    )
    return float(((hips - knees).norm(dim=-1) + (knees - ankles).norm(dim=-1)).mean())


def _unit(pose: Tensor, reading: Reading, path: Path) -> tuple[str, float]:
    """The unit of length by name, and how many metres it has."""
    if reading.scale:
        return f"{reading.scale:g} m a unit, as given", reading.scale
    leg = _leg(pose)
    for name, scale in UNITS.items():
        if LEGS[0] <= leg * scale <= LEGS[1]:
            return f"{name} (legs of {leg * scale:.2f} m)", scale
    expected = f"legs of {LEGS[0]:g} to {LEGS[1]:g} m in {', '.join(UNITS)}"
    advice = "Say how many metres a unit has with --option scale=NUMBER."
    raise _refuse(path, expected, f"legs of {leg:.4g} units", advice)


def _upward(rest: Tensor, positions: Tensor, path: Path) -> str:
    """The axis, y or z, along which the person stands: rest [22, 3], positions [T, 22, 3], metres."""
    leg = _leg(positions[0])
    standing, moving = _axis(rest[None], leg, 1.0), _axis(positions, leg, 0.6)
    if standing and moving and standing != moving:
        found = f"a rest pose that stands along {standing} and a motion along {moving}"
        raise _refuse(path, "one upward axis", found, "Name it with --option up=y or --option up=z.")
    found = moving or standing
    if found not in ("y", "z"):
        advice = "Name the axis with --option up=y."
        raise _refuse(path, "a person who stands along y or z", f"one along {found or 'none'}", advice)
    return found


def _axis(positions: Tensor, leg: float, share: float) -> str:
    """The axis along which the head is over the ankles in this share of the frames; empty where there is none."""
    ankles = positions[:, [SMPL22.index("l_ankle"), SMPL22.index("r_ankle")]].mean(1)
    body = positions[:, SMPL22.index("head")] - ankles
    length = body.norm(dim=-1)
    for axis, name in enumerate("xyz"):
        for sign, mark in ((1.0, ""), (-1.0, "-")):
            upright = (sign * body[:, axis] >= UPRIGHT * length) & (length >= TALL * leg)
            if float(upright.float().mean()) >= share:
                return mark + name
    return ""


def _refuse(path: Path, expected: str, found: str, advice: str) -> DatasetError:
    return DatasetError(f"{path}: expected {expected}, found {found}. {advice}")


KINDS = {156: "smplh", 165: "smplx", 72: "smpl"}
"""Kind of body by the number of pose parameters; the first 66 turn the same 22 joints in all of them."""
RATES = ("mocap_framerate", "mocap_frame_rate")


@dataclass(frozen=True)
class Declared:
    """What a file declares, read without its motion: [frames, parameters] of poses, fps and gender."""

    frames: int
    parameters: int
    fps: float
    gender: str

    @property
    def length(self) -> int:
        """Frames at 20 fps."""
        return len(frames_at(self.frames, self.fps, AmassImporter.fps))


class AmassImporter(TakesImporter):
    """AMASS; several views become clips NAME_v0, NAME_v1 ..."""

    name = "amass"
    ending = ".npz"
    about = "AMASS's .npz files (SMPL-H or SMPL-X parameters); needs the body model's files."
    sources = ("AMASS (amass.is.tue.mpg.de), projected to orbit cameras",)
    licence = "AMASS and SMPL: non-commercial research"
    extras: ClassVar[Mapping[str, str] | None] = {
        "smpl": "the folder of the body model's files, such as FOLDER/smplh/male/model.npz",
        "gender": "neutral, male or female instead of the gender that each file names",
    }

    def members(self) -> Sequence[Member]:
        """Those of the takes; without body models nothing can be imported."""
        if not self.extra("smpl"):
            advice = "Joints without a body model go through `videomdm data import joints`."
            advice = f"Get them from {SITES['smplh']}. {advice}"
            raise self.refuse(self.source, "--option smpl=FOLDER, the body model's files", "none", advice)
        return super().members()

    def length(self, path: Path) -> int:
        """Frames of a file at 20 fps, as it declares them."""
        return declared(path).length

    def stem(self, path: Path) -> str:
        """The name without the ending that AMASS gives every file."""
        return path.stem.removesuffix("_poses").removesuffix("_stageii")

    @cached_property
    def takes(self) -> Mapping[Path, str]:
        """The files of motions, with an id for each."""
        return {p: n for p, n in super().takes.items() if p.name != "shape.npz" and not p.stem.endswith("_stagei")}

    def read_take(self, path: Path) -> Tensor:
        """The whole take [T, 22, 3] at 20 fps, y up, floor at 0."""
        facts = declared(path)
        kind = KINDS[facts.parameters]
        gender = self.extra("gender", facts.gender, among=GENDERS)
        place = find_model(self.extra("smpl"), kind, gender)
        if place not in self._models:
            files.note_read(str(place))
            self._models[place] = read_model(place, files.read_only)
        model = self._models[place]
        arrays = files.read_arrays(str(path), needed=("poses", "trans", "betas"), optional=())
        poses, moved, betas = (torch.from_numpy(arrays[name]).double() for name in ("poses", "trans", "betas"))
        if moved.shape != (facts.frames, 3) or betas.ndim != 1:
            found = f"{list(moved.shape)} and {list(betas.shape)}"
            raise self.refuse(path, f"trans [{facts.frames}, 3] and betas [S]", found, "Download it again.")
        if not all(bool(torch.isfinite(part).all()) for part in (poses, moved, betas)):
            raise self.refuse(path, "numbers", "NaN or infinite ones", "Download it again.")
        turns = roma.rotvec_to_rotmat(poses[:, :66].reshape(-1, 22, 3))
        at = frames_at(facts.frames, facts.fps, self.fps)
        joints = posed(model.rest(betas), resample_rotations(turns, at), resample(moved, at))
        return grounded(y_up(joints)).float()

    @cached_property
    def _models(self) -> dict[Path, BodyModel]:
        return {}


def declared(path: Path) -> Declared:
    """What a file declares; DatasetError where it is not one of AMASS's."""
    parts = {}
    try:
        for name in ("poses", *RATES, "gender"):
            with contextlib.suppress(KeyError):
                parts[name] = files.start_of_member(str(path), name)
        shape = files.header_of(*parts["poses"]).shape
        rate = next(name for name in RATES if name in parts)
        fps = float(files.array_from(parts[rate][0], rate).reshape(()))
        # the text is looked at and never unpickled
        word = re.search(rb"female|male|neutral", parts.get("gender", (b"", 0))[0].replace(b"\0", b""))
    except (*files.BROKEN, DatasetError, StopIteration) as error:
        raise DatasetError(
            f"{path}: expected one of AMASS's files with poses, trans, betas, gender and {RATES[0]}, found something "
            f"else ({error}). Remove it from the folder, or download it again."
        ) from error
    if len(shape) != 2 or shape[1] not in KINDS or shape[0] < 2 or not SLOWEST <= fps <= FASTEST:
        expected = " or ".join(map(str, KINDS))
        raise DatasetError(
            f"{path}: expected poses [T, {expected}] at {SLOWEST:g} to {FASTEST:g} fps, found {list(shape)} at "
            f"{fps:g}. Download it again."
        )
    return Declared(*shape, fps, word.group().decode() if word else "neutral")


@hookimpl
def register_datasets(register: Register) -> None:
    """Offer these importers under their names."""
    for importer in (BvhImporter, AmassImporter):
        register(importer.name, importer)
