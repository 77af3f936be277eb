"""The importer of BVH: long takes below a folder, seen by seeded orbit cameras.

Files of any known naming are read: the tables of `motion.joint_names`, others by a map of the user's. A position
channel replaces its axis of the joint's OFFSET, at the root as at any other joint. BVH has no units and no upward axis:
the unit is the one that makes the legs as long as a person's, the axis the one along which the person stands, in the
rest pose and in motion. Takes are cut to pieces of at most 196 frames at 20 fps, which stay on one side of the split.
"""

import codecs
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, NoReturn

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from torch import Tensor

from videomdm_ext.data import files
from videomdm_ext.data.motions import frames_at, grounded, resample, resample_rotations
from videomdm_ext.data.sources.base import FASTEST, SLOWEST, TakesImporter, y_up
from videomdm_ext.errors import DatasetError
from videomdm_ext.geometry.rotations import roma
from videomdm_ext.hookspecs import Register, hookimpl
from videomdm_ext.motion import joint_names
from videomdm_ext.motion.skeletons import SMPL22

logger = logging.getLogger(__name__)

MAP_BYTES = 1 << 16
FPS = 20.0
HEADER_BYTES = 1 << 19
FILE_BYTES = 1 << 28
MOST_FRAMES = 400_000
MOST_NODES = 1_000
UNITS = {"metres": 1.0, "centimetres": 0.01, "millimetres": 0.001, "inches": 0.0254, "CMU's units": 0.0254 / 0.45}
LEGS = (0.55, 1.15)  # metres from hip to ankle along the leg; no two units put the same file into this range
USUAL_LEGS = (0.65, 1.05)  # of people from 1.4 to 2.2 m
UPRIGHT = 0.8  # a person stands along an axis when this share of the way from ankles to head is along it
TALL = 1.25  # legs from ankles to head, at least, of a person who stands; 1.7 are usual
NO_BONE = 1e-3  # share of the OFFSET that a position channel reaches at least where it takes its place
JUMP = 8.0  # m/s, of all joints together, between the first two frames: the first one is then a rest pose and no motion


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
    about = "A folder of BVH files (CMU, Mixamo, Xsens, Rokoko and others, or your own joint names)."
    sources = ("BVH motion capture, projected to orbit cameras",)
    extras: ClassVar[Mapping[str, str] | None] = {
        "map": "a YAML file that says which joints are the 22 SMPL joints",
        "scale": "metres in a unit of the files, by default found from the legs",
        "up": "their upward axis, y or z, by default found from the pose",
    }

    def length(self, path: Path) -> int:
        """Frames of a file at 20 fps, as it declares them."""
        return len(frames_at(*read_header(path), FPS))

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


def read_header(path: Path) -> tuple[int, float]:
    """Frames, and frames per second, as the file declares them, checked against its size."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(HEADER_BYTES)
    _check_text(start, path)
    nodes = len(re.findall(rb"^[ \t]*(?:ROOT|JOINT|End)\b", start, re.MULTILINE))
    channels = sum(int(count) for count in re.findall(rb"^[ \t]*CHANNELS[ \t]+(\d{1,4})\b", start, re.MULTILINE))
    counted = re.search(rb"^[ \t]*Frames:[ \t]*(\d{1,18})\b", start, re.MULTILINE)
    timed = re.search(rb"^[ \t]*Frame[ \t]+Time:[ \t]*(\S{1,30}).*\n", start, re.MULTILINE)
    if not start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"HIERARCHY") or not timed:
        _refuse(path, "a BVH file with HIERARCHY, Frames: and Frame Time:", "something else", "Export it again.")
    frames, end = int(counted[1]) if counted else 0, timed.end()
    try:
        seconds = float(timed[1])
    except ValueError:
        seconds = 0.0
    if channels == 0 or nodes > MOST_NODES:
        _refuse(path, f"up to {MOST_NODES} joints with channels", f"{nodes} and {channels}", "Export it again.")
    if not 1 / FASTEST <= seconds <= 1 / SLOWEST:
        expected = f"a frame time of {1 / FASTEST:g} to {1 / SLOWEST:g}"
        _refuse(path, expected, f"{seconds:g} seconds", "Correct the line Frame Time.")
    if not 2 <= frames <= MOST_FRAMES or size > FILE_BYTES:
        expected = f"2 to {MOST_FRAMES} frames in at most {FILE_BYTES >> 20} MB"
        _refuse(path, expected, f"{frames} in {size} bytes", "Export one take, or correct the line Frames:.")
    if frames * channels > (size - end) // 2 + 1:  # a number takes two bytes at least
        with path.open("rb") as file:
            file.seek(end)
            _miscounted(path, frames, sum(1 for line in file if line.strip()))
    rate = round(1 / seconds)  # a frame time written with few digits means a whole rate
    return frames, rate if abs(rate * seconds - 1) < 1e-3 else 1 / seconds


def _check_text(start: bytes, path: Path) -> None:
    """Refuse, by the first bytes of a file, what no line of it can be read of."""
    wide = start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    if wide or any(start.startswith("HIERARCHY".encode(f"utf-16-{end}")) for end in ("le", "be")):
        _refuse(path, "plain text (ASCII or UTF-8)", "UTF-16", "Save it as UTF-8.")
    if b"\n" not in start and start.count(b"\r") > 1:
        advice = "Convert its ends of lines, as with: tr '\\r' '\\n' < OLD > NEW."
        _refuse(path, "lines that end in LF or CR LF", "ends of CR alone", advice)
    roots = len(re.findall(rb"^[ \t]*ROOT\b", start, re.MULTILINE))
    if roots > 1:
        _refuse(path, "one person, with one ROOT", f"{roots}", "Export each person to a file of its own.")
    comma = re.search(rb"^[ \t]*(?:OFFSET|Frame Time:).*,.*", start, re.MULTILINE)
    if comma:
        _comma(path, comma[0].decode(errors="replace"))


def _comma(path: Path, text: str) -> NoReturn:
    advice = "Export it with decimal points and spaces, or replace the commas."
    _refuse(path, "numbers as 0.5 with spaces between them", f"commas in {text.strip()[:60]!r}", advice)


def _miscounted(path: Path, frames: int, lines: int) -> NoReturn:
    advice = "Correct the line Frames:, or where the end of the take is missing, export it again."
    _refuse(path, f"{frames} frames, as its line Frames: says", f"{lines} lines of numbers", advice)


Numbers = NDArray[np.float64]
MOVES = ("xposition", "yposition", "zposition")
TURNS = ("xrotation", "yrotation", "zrotation")


@dataclass(frozen=True)
class Motion:
    """The joints and end sites of a file, parents first, and its rows [T, C] of channels.

    parents are -1 for the root; offsets [N, 3] in the file's unit; channels by node in the order of the columns.
    """

    names: tuple[str, ...]
    parents: tuple[int, ...]
    offsets: Numbers
    channels: tuple[tuple[str, ...], ...]
    rows: Numbers

    def local(self, rows: Numbers) -> tuple[Tensor, Tensor]:
        """Rotations [S, N, 3, 3] and places [S, N, 3] of the nodes, each in the axes of its parent."""
        moved = torch.from_numpy(np.tile(self.offsets, (len(rows), 1, 1)))
        most = max(sum(channel in TURNS for channel in own) for own in self.channels)
        vectors = torch.zeros(most, *moved.shape, dtype=torch.float64)  # a channel's turn as a rotation vector
        column = 0
        for node, own in enumerate(self.channels):
            turned = 0
            for channel in own:
                values = torch.from_numpy(rows[:, column])
                if channel in MOVES:
                    moved[:, node, MOVES.index(channel)] = values
                else:
                    vectors[turned, :, node, TURNS.index(channel)] = torch.deg2rad(values)
                    turned += 1
                column += 1
        turns = torch.eye(3, dtype=torch.float64).expand(*moved.shape, 3)
        for vector in vectors:
            turns = turns @ roma.rotvec_to_rotmat(vector)
        return turns, moved

    def placed(self, turns: Tensor, moved: Tensor) -> Tensor:
        """Positions [S, N, 3] in the file's world of local rotations and places, as `local` returns them."""
        at, frames = list(moved.unbind(1)), list(turns.unbind(1))
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                at[node] = at[parent] + (frames[parent] @ moved[:, node, :, None]).squeeze(-1)
                frames[node] = frames[parent] @ turns[:, node]
        return torch.stack(at, 1)

    def above(self, node: int) -> list[int]:
        """The nodes that a node hangs on, from its parent to the root."""
        found = []
        while (node := self.parents[node]) >= 0:
            found.append(node)
        return found

    def rest(self, pelvis: int) -> Tensor:
        """Positions [N, 3] without the rotations of the pelvis and what hangs on it, with those of a node above it that
        never turns: such a node says how the file's world lies."""
        turns, moved = self.local(self.rows[:1])
        still = torch.eye(3, dtype=torch.float64).repeat(1, len(self.names), 1, 1)
        steady = self.local(self.rows[:: max(len(self.rows) // 64, 1)])[0]
        for node in self.above(pelvis):
            if float((steady[:, node] - steady[:1, node]).abs().max()) < 1e-6:
                still[:, node] = turns[:, node]
        return self.placed(still, moved)[0]


def read_motion(path: Path, frames: int) -> Motion:
    """The joints and channels of a file of so many frames. DatasetError names what is wrong with it, and where."""
    text = files.read_bytes(str(path), limit=FILE_BYTES).decode("utf-8-sig", "replace")
    head, found, body = (*re.split(r"^([ \t]*MOTION)\b", text, maxsplit=1, flags=re.MULTILINE), "", "")[:3]
    lines = body.split("\n")
    first = next((k for k, line in enumerate(lines) if re.match(r"\s*Frame\s+Time:", line)), -1)
    if not found or first < 0:
        _refuse(path, "the word MOTION between joints and numbers", "none", "Export it again.")
    names, parents, offsets, channels = _hierarchy(head, path)
    width, before = sum(map(len, channels)), head.count("\n") + 1
    rows: list[Numbers] = []
    wrong: list[tuple[int, int]] = []  # lines with another count of numbers, and that count
    for number, line in enumerate(lines[first + 1 :], before + first + 1):
        if not line.strip():
            continue
        rows.append(_row(line, number, path))
        if len(rows[-1]) != width:
            wrong.append((number, len(rows[-1])))
    total = sum(map(len, rows))
    if not wrong and len(rows) != frames:
        _miscounted(path, frames, len(rows))
    if total != frames * width:  # a frame may be broken to several lines
        number, count = wrong[0]
        advice = "The file is cut off, or its numbers do not belong to its joints; export it again."
        _refuse(path, f"{width} numbers a line, as its CHANNELS add up to", f"{count} in line {number}", advice)
    values = np.concatenate(rows).reshape(frames, width)
    if not np.isfinite(values).all():
        _refuse(path, "numbers", "NaN or infinite ones", "Export it again.")
    return Motion(names, parents, offsets, channels, values)


def _row(line: str, number: int, path: Path) -> Numbers:
    try:
        return np.array([float(word) for word in line.split()])
    except ValueError:
        if "," in line:
            _comma(path, line)
        if glued := next((word for word in line.split() if re.search(r"[\d.]-|\.\d*\.", word)), ""):
            advice = "Export it with a space between all numbers, or put spaces in front of the minus signs."
            found = f"{glued[:40]!r} in line {number}, glued together"
            _refuse(path, "numbers with spaces between them", found, advice)
        _refuse(path, f"numbers in line {number}", repr(line.strip()[:60]), "Export it again.")


def _hierarchy(text: str, path: Path) -> tuple[tuple[str, ...], tuple[int, ...], Numbers, tuple[tuple[str, ...], ...]]:
    """Names, parents, offsets and channels of the joints and end sites, NAME/end, in the order of the file."""
    names: list[str] = []
    parents: list[int] = []
    offsets: dict[int, list[float]] = {}
    channels: dict[int, tuple[str, ...]] = {}
    open_nodes: list[int] = []
    for line in re.sub(r"([{}])", r"\n\1\n", text).split("\n"):
        kind, *words = line.split() or [""]
        good = True
        if kind in ("ROOT", "JOINT", "End"):
            parent = open_nodes[-1] if open_nodes else -1
            good = (kind == "ROOT") == (parent < 0) and (kind == "ROOT") == (not names)
            name = f"{names[parent]}/end" if kind == "End" else " ".join(words)
            names, parents = [*names, name], [*parents, parent]
        elif kind == "{":
            good = bool(names) and len(names) - 1 not in open_nodes
            open_nodes.append(len(names) - 1)
        elif kind == "}":
            good = bool(open_nodes)
            open_nodes = open_nodes[:-1]
        elif kind == "OFFSET" and open_nodes:
            try:
                offsets[open_nodes[-1]] = [float(word) for word in words]
            except ValueError:
                good = False
            good = good and len(words) == 3
        elif kind == "CHANNELS" and open_nodes:
            own = tuple(word.lower() for word in words[1:])
            others = [word for word in words[1:] if word.lower() not in (*MOVES, *TURNS)]
            if others:
                advice = "Export it with positions and rotations alone."
                _refuse(path, "channels of positions and rotations", ", ".join(others)[:60], advice)
            good = words[0] == str(len(own)) and sum(channel in TURNS for channel in own) <= 3
            channels[open_nodes[-1]] = own
        elif kind not in ("", "HIERARCHY"):
            good = False
        if not good:
            _refuse(path, "a hierarchy of joints", f"the line {line.strip()[:60]!r} out of place", "Export it again.")
    if open_nodes or len(offsets) != len(names):
        _refuse(path, "an OFFSET and { } for each joint", "some without", "The file is cut off; export it again.")
    placed = np.array([offsets[node] for node in range(len(names))]).reshape(-1, 3)
    return tuple(names), tuple(parents), placed, tuple(channels.get(node, ()) for node in range(len(names)))


def read_take(path: Path, reading: Reading) -> Tensor:
    """The take as 22 SMPL joints at 20 fps, metres, y up, floor at 0. -> float32 [T, 22, 3]"""
    frames, fps = read_header(path)
    bvh = read_motion(path, frames)
    nodes = joint_names.Nodes.of(bvh.names)  # of several end sites below one joint only the first can be named
    table = "the given map" if reading.rules else joint_names.choose_table(nodes, str(path))
    rules = reading.rules or joint_names.TABLES[table]
    if reading.rules:
        joint_names.check_rules(rules, nodes, str(path))
    joint_names.check_single(rules, nodes, str(path))
    if table == "cmu":  # give the bones that Hahne's conversion drops their lengths again
        dropped = joint_names.DROPPED_BONES
        known = {name: bvh.offsets[nodes.index(name)].copy() for r in dropped.values() for name in r[:2]}
        for joint, (empty, like, factor) in dropped.items():
            if not known[empty].any():
                bvh.offsets[nodes.index(joint)] = factor * known[like]
    pelvis = nodes.index(rules["pelvis"] if isinstance(rules["pelvis"], str) else rules["pelvis"][0])
    _check_bones(bvh, pelvis, path)
    rest = joint_names.to_smpl(bvh.rest(pelvis), nodes, rules)
    start = joint_names.to_smpl(bvh.placed(*bvh.local(bvh.rows[:2])), nodes, rules)
    unit, scale = _unit(start[-1], reading, path)
    rows = bvh.rows
    if float((start[1] - start[0]).norm(dim=-1).mean() * scale * fps) > JUMP:
        rows, unit = rows[1:], f"{unit}, without the rest pose in the first frame"
    at = frames_at(len(rows), fps, FPS)
    low = at.floor().long().clamp_max(max(len(rows) - 2, 0))
    beside = torch.stack((low, (low + 1).clamp_max(len(rows) - 1)), 1).flatten()  # only these are turned to matrices
    between = 2 * torch.arange(len(at)) + (at - low)
    turns, moved = bvh.local(rows[beside.numpy()])
    found = bvh.placed(resample_rotations(turns, between), resample(moved, between))
    positions = joint_names.to_smpl(found, nodes, rules) * scale
    up = reading.up or _upward(rest * scale, positions, path)
    logger.info("%s: joints of %s, %s, %s up, %d frames", path, table, unit, up, len(positions))
    return grounded(y_up(positions) if up == "z" else positions).float()


def _check_bones(bvh: Motion, pelvis: int, path: Path) -> None:
    """Refuse position channels that are about 0 throughout at a joint with an OFFSET: as they replace it, its bone
    would have no length, so that the file must mean something else."""
    column, above = 0, {pelvis, *bvh.above(pelvis)}
    for node, own in enumerate(bvh.channels):
        moves = [column + number for number, channel in enumerate(own) if channel in MOVES]
        column += len(own)
        longest = np.linalg.norm(bvh.rows[:, moves], axis=1).max(initial=0.0)
        if moves and node not in above and longest < NO_BONE * np.linalg.norm(bvh.offsets[node]):
            expected = f"position channels that take the place of the OFFSET of {bvh.names[node]}"
            _refuse(path, expected, "about zeros throughout", "Export it with positions in the root only.")


def _leg(pose: Tensor) -> float:
    """Length of a leg from hip to ankle, mean of both. pose [22, 3]"""
    hips, knees, ankles = (pose[[SMPL22.index(f"{s}_{joint}") for s in "lr"]] for joint in ("hip", "knee", "ankle"))
    return float(((hips - knees).norm(dim=-1) + (knees - ankles).norm(dim=-1)).mean())


def _unit(pose: Tensor, reading: Reading, path: Path) -> tuple[str, float]:
    """The unit of length by name, and how many metres it has."""
    leg = _leg(pose)
    if reading.scale:
        name, scale = f"{reading.scale:g} m a unit, as given", reading.scale
    else:
        fits = {name: scale for name, scale in UNITS.items() if LEGS[0] <= leg * scale <= LEGS[1]}
        name, scale = next(iter(fits.items()), ("", 1.0))
    if name and not USUAL_LEGS[0] <= leg * scale <= USUAL_LEGS[1]:
        logger.warning(
            "%s: read in %s, which makes legs of %.2f m (usual are %g to %g). If this is no person of that size, say "
            "how many metres a unit has with --option scale=NUMBER.",
            *(path, name, leg * scale, *USUAL_LEGS),
        )
    if name:
        return f"{name} (legs of {leg * scale:.2f} m)", scale
    expected = f"legs of {LEGS[0]:g} to {LEGS[1]:g} m in {', '.join(UNITS)}"
    advice = "Say how many metres a unit has with --option scale=NUMBER."
    _refuse(path, expected, f"legs of {leg:.4g} units", advice)


def _upward(rest: Tensor, positions: Tensor, path: Path) -> str:
    """The axis, y or z, along which the person stands: rest [22, 3], positions [T, 22, 3], metres."""
    leg = _leg(positions[0])
    standing, moving = _axis(rest[None], leg, 1.0), _axis(positions, leg, 0.6)
    if standing and moving and standing != moving:
        found = f"a rest pose that stands along {standing} and a motion along {moving}"
        _refuse(path, "one upward axis", found, "Name it with --option up=y or --option up=z.")
    found = moving or standing
    if found not in ("y", "z"):
        advice = "Name the axis with --option up=y."
        _refuse(path, "a person who stands along y or z", f"one along {found or 'none'}", advice)
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


def _refuse(path: Path, expected: str, found: str, advice: str) -> NoReturn:
    raise DatasetError(f"{path}: expected {expected}, found {found}. {advice}")


@hookimpl
def register_datasets(register: Register) -> None:
    """Offer this importer under its name."""
    register(BvhImporter.name, BvhImporter)
