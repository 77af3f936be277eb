"""The importer `parquet`: motion and captions in other people's Parquet files (extra `scale`), seen by orbit cameras.

SOURCE is a file or a folder of files *.parquet, a row a clip. What a row holds is known by the names of its columns:

    motion            [T, 263] raw features of HumanML3D's kind, kept bit for bit at 20 fps (RoMo-HML-263 has this)
    joints            [T, 22, 3] or [T, 66], metres, y up
    body_pose         [T, 63] with global_orient [T, 3], transl [T, 3] and betas [S] or [T, S], whose mean is taken, y
                      up; needs --option smpl=FOLDER. RoMo-SMPL's names are these with smpl_ before them
    caption...        words or lists of words: every column whose name begins so, or `text`
    sample_id, split, fps    where there are such columns; names of files that begin with train, val or test count too

Rows say their own rate; README.md beside them, a card with `license:` and a row `Frame rate`, may say another one. The
two must agree, or --option fps says which is right. Motion of another rate is resampled to 20 fps.
"""

import dataclasses
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from videomdm_ext.data import files, shards
from videomdm_ext.data.clip import Recording
from videomdm_ext.data.folder import SPLITS
from videomdm_ext.data.motions import frames_at, grounded, resample, resample_rotations
from videomdm_ext.data.sources import base
from videomdm_ext.data.sources.humanml3d import positions_of
from videomdm_ext.errors import ConfigError, DatasetError
from videomdm_ext.geometry.rotations import roma
from videomdm_ext.hookspecs import Register, hookimpl
from videomdm_ext.motion.body_models import posed
from videomdm_ext.motion.kinematics import HUMANML3D_FILES
from videomdm_ext.motion.skeletons import SMPL22

IDS = ("sample_id", "id", "name", "motion_id")
MOTIONS = ("motion", "joints", "body_pose")
BODY = ("body_pose", "global_orient", "transl", "betas")
BODIES = ("smplx", "smplh", "smpl")
TOGETHER = 32
"""Rows that are read at once; a row group may hold hundreds of thousands."""
Comparison = Callable[[Any, Any], bool]
COMPARE: Mapping[str, Comparison] = {
    "!=": operator.ne, "<=": operator.le, ">=": operator.ge, "=": operator.eq, "<": operator.lt, ">": operator.gt,
}  # fmt: skip


class ParquetImporter(base.Importer):
    """Rows of Parquet files; several views become clips ID_v0, ID_v1 ..."""

    name = "parquet"
    about = "Other people's Parquet files: features, joints or SMPL parameters, and captions."
    heading = HUMANML3D_FILES
    extras: ClassVar[Mapping[str, str] | None] = {
        "where": "rows to take, as split=train or fps>=20; several with a comma between them (also --where)",
        "limit": "rows to take at most, the first ones (also --limit)",
        "fps": "frames per second of all rows, or rows: what each row says, whatever the card says",
        "captions": "columns of captions, with commas between them",
        "licence": "the licence, where no card says it",
        "smpl": "the folder of the body model's files, for SMPL parameters",
        "model": f"the body model of SMPL parameters: {', '.join(BODIES)}",
    }

    def __init__(self, source: str, options: base.ImportOptions) -> None:
        super().__init__(source, options)
        place = Path(source) if Path(source).is_dir() else Path(source).parent
        self.card = place / "README.md"
        self.places = [Path(source)] if Path(source).is_file() else sorted(Path(source).rglob("*.parquet"))
        text = files.read_text(str(self.card)) if self.card.is_file() else ""
        lines = re.findall(r"^(licen[sc]e|pretty_name):\s*(\S.*?)\s*$", text, re.MULTILINE)
        head = dict(reversed(lines))  # of several the first counts
        rate = re.search(r"frame rate\W+([\d.]+)|^\W*fps\W+([\d.]+)", text, re.MULTILINE | re.IGNORECASE)
        self.licence = self.extra("licence") or head.get("license") or head.get("licence", "")
        self.sources = (f"{head.get('pretty_name', place.resolve().name)}, projected to orbit cameras",)
        self.declared = float(rate.group(1) or rate.group(2)) if rate else None
        self._reading: tuple[Path, Iterator[Any]] | None = None
        self._rows: Any = ()
        self._first = 0

    def inputs(self) -> Sequence[str]:
        """The files, which pyarrow reads, and their card, which was read before."""
        return [str(path) for path in (*self.places, self.card) if path.is_file()]

    def members(self) -> Sequence[base.Member]:
        """One for every row that is asked for and every view; a file that cannot be read is one, and refused later."""
        limit = int(self.extra_number("limit", math.inf) if self.extra("limit") else 0)
        found: dict[str, tuple[str, Any]] = {}
        for path in self.places:
            try:
                for row, facts in enumerate(self._listed(path)):
                    if limit and len(found) >= limit:
                        break
                    if all(_holds(facts[name], compare, word) for name, compare, word in self._conditions):
                        clip_id, split = self._named(path, row, facts)
                        while clip_id in found:
                            clip_id += "_"
                        found[clip_id] = split, (path, row, facts.get("fps"))
                        self._check_rate(path, facts.get("fps"))
            except DatasetError as error:
                found[base.plain_name(path.stem)] = "", error
        return [base.Member(n + view, n, split, place) for n, (split, place) in found.items() for view in self.views]

    def caption_names(self, member: base.Member) -> Sequence[str]:
        """Its trial's."""
        return (member.trial,)

    def read(self, member: base.Member) -> Recording:
        """The motion as one camera saw it."""
        if isinstance(member.place, DatasetError):
            raise member.place
        path, row, own = member.place
        fps, cells = self._fps(path, own), self._row(path, row)
        columns = self.extra("captions").split(",") if self.extra("captions") else sorted(cells)
        named = [name for name in columns if self.extra("captions") or re.match("caption|text", name)]
        given = [cells[name].as_py() for name in named if name in cells]
        lines = [line for cell in given for line in (cell if isinstance(cell, list) else [cell])]
        plain = dict.fromkeys(re.sub(r"[#\s]+", " ", line).strip() for line in lines if isinstance(line, str))
        texts = tuple(filter(None, plain)) or self.given(*self.caption_names(member))
        place = f"{path}: row {row}"
        if not texts:
            raise self.refuse(place, "a caption", "none", "Name its columns with --option captions=..., or a file.")
        kind = next((name for name in MOTIONS if name in cells and cells[name].is_valid), "")
        if kind == "motion":
            features = self._numbers(cells, kind, place, (SMPL22.num_features,))
            seen = self.observed(member.id, texts, self.at_rate(positions_of(features, SMPL22), fps))
            # equal rates keep the vectors bit for bit
            return seen if fps != self.fps else dataclasses.replace(seen, truth_features=features)
        if kind == "joints":
            joints = self._numbers(cells, kind, place, None)
            if joints[0].numel() != SMPL22.num_joints * 3:
                found = list(joints.shape)
                raise self.refuse(place, f"joints [T, {SMPL22.num_joints}, 3]", found, "Only HumanML3D's 22 are known.")
            joints = joints.reshape(-1, SMPL22.num_joints, 3)
            return self.observed(member.id, texts, self.at_rate(joints, fps))
        if kind == "body_pose":
            return self.observed(member.id, texts, self._body(cells, place, fps))
        raise self.refuse(place, f"a column {', '.join(MOTIONS)}", ", ".join(cells), "Rename the motion's column.")

    def _body(self, cells: Mapping[str, Any], place: str, fps: float) -> Tensor:
        """Joints [T, 22, 3] at 20 fps of SMPL parameters, floor at 0."""
        pose, turn, moved = (self._numbers(cells, name, place, None).double() for name in BODY[:3])
        betas = self._numbers(cells, "betas", place, None).double()
        betas = betas.mean(0) if betas.ndim == 2 else betas
        if pose.ndim != 2 or pose.shape[1] < 63 or {turn.shape, moved.shape} != {(len(pose), 3)}:
            found = f"{list(pose.shape)}, {list(turn.shape)} and {list(moved.shape)}"
            raise self.refuse(place, "body_pose [T, 63], global_orient and transl [T, 3]", found, "Leave the row out.")
        turns = roma.rotvec_to_rotmat(torch.cat((turn, pose[:, :63]), 1).reshape(-1, 22, 3))
        at = frames_at(len(pose), fps, self.fps)
        model = self.body_model(self.extra("model", BODIES[0], among=BODIES))
        return grounded(posed(model.rest(betas), resample_rotations(turns, at), resample(moved, at))).float()

    def _numbers(self, cells: Mapping[str, Any], name: str, place: str, last: tuple[int, ...] | None) -> Tensor:
        """An array of a row as float32; `last` are its dimensions but the first, where they are known."""
        expected = f"{name} [T{''.join(f', {n}' for n in last or ('...',))}] of numbers"
        try:
            values = torch.from_numpy(array_of(cells[name]))
        except (*files.BROKEN, AttributeError) as error:
            raise self.refuse(place, expected, f"something else ({error})", "Leave the row out.") from error
        if not len(values) or (last is not None and tuple(values.shape[1:]) != last):
            raise self.refuse(place, expected, list(values.shape), "Is it of HumanML3D's 22 joints?")
        if not bool(torch.isfinite(values).all()):
            raise self.refuse(place, "numbers", f"NaN or infinite ones in {name}", "Leave the row out.")
        return values

    @cached_property
    def _conditions(self) -> list[tuple[str, Comparison, str]]:
        """Column, comparison and value of each condition of --where."""
        found = []
        for text in filter(None, self.extra("where").split(",")):
            match = re.fullmatch(r"\s*(\w+)\s*(!=|<=|>=|=|<|>)\s*(.*?)\s*", text)
            if not match:
                raise ConfigError(f"--where {text!r}: expected COLUMN=VALUE, or with != < <= > >=. Correct it.")
            found.append((match[1], COMPARE[match[2]], match[3]))
        return found

    def _listed(self, path: Path) -> Iterator[dict[str, Any]]:
        """Of each row of a file what it is chosen and named by."""
        if files.leads_out(str(path), self.source):
            found = "a link that leads out of it"
            raise self.refuse(path, f"a file inside {self.source}", found, "Copy the file there.")
        opened = self._opened(path)
        columns = opened.schema_arrow.names
        asked = [name for name, *_ in self._conditions]
        lacking = [name for name in asked if name not in columns]
        if lacking:
            known = ", ".join(columns)
            raise ConfigError(
                f"--where {lacking[0]}: expected a column of {path} ({known}), found another. Correct it."
            )
        wanted = [name for name in columns if name in {*IDS, "split", "fps", *asked}]
        if not wanted:
            yield from ({} for _ in range(opened.metadata.num_rows))
        for batch in self._batches(path, 4096, wanted) if wanted else ():
            yield from batch.to_pylist()

    def _named(self, path: Path, row: int, facts: Mapping[str, Any]) -> tuple[str, str]:
        """The id of a row, and its split where the source has one."""
        given = next((str(facts[name]) for name in IDS if facts.get(name) is not None), f"{path.stem}_{row}")
        split = str(facts.get("split") or re.split(r"[^a-z]", path.stem.lower())[0]).replace("validation", "val")
        return base.plain_name(given), split if split in SPLITS else ""

    def _check_rate(self, path: Path, own: float | None) -> None:
        """ConfigError where the card and a row name different rates, and no option decides between them."""
        if self.extra("fps") or own is None or self.declared is None or math.isclose(own, self.declared):
            return
        raise ConfigError(
            f"{self.card}: expected the frame rate of the rows, {own:g} fps in {path}, found {self.declared:g}. "
            "Find out which is right; then pass --option fps=rows, or --option fps=NUMBER for all rows."
        )

    def _fps(self, path: Path, own: float | None) -> float:
        """Frames per second of a row."""
        asked = self.extra("fps")
        if asked and asked != "rows":
            return self.extra_number("fps", self.fps)
        fps = self.declared if own is None else float(own)
        if fps is None or not base.SLOWEST <= fps <= base.FASTEST:
            found = "none" if fps is None else f"{fps:g}"
            raise self.refuse(path, "frames per second, 5 to 1000", found, "Pass --option fps=NUMBER.")
        return fps

    def _row(self, path: Path, row: int) -> dict[str, Any]:
        """The cells of a row by column. Rows in order are read in one pass over the file."""
        if self._reading is None or self._reading[0] != path or row < self._first:
            self._reading, self._rows, self._first = (path, self._batches(path, TOGETHER)), (), 0
        while row >= self._first + len(self._rows):
            self._first += len(self._rows)
            self._rows = next(self._reading[1])
        names = self._rows.schema.names
        cells = {name: self._rows.column(name)[row - self._first] for name in names}
        return {name: cells[f"smpl_{name}"] for name in BODY if f"smpl_{name}" in cells} | cells

    def _batches(self, path: Path, size: int, columns: Sequence[str] | None = None) -> Iterator[Any]:
        """The rows of a file, some at a time, as Arrow's record batches."""
        try:
            yield from self._opened(path).iter_batches(size, columns=columns, use_threads=False)
        except files.BROKEN as error:
            raise shards.broken(str(path), error) from error

    def _opened(self, path: Path) -> Any:
        try:
            return shards.open_file(str(path))
        except files.BROKEN as error:
            raise shards.broken(str(path), error) from error


def array_of(cell: Any) -> files.Array:
    """The array of a cell of nested lists, float32. ValueError where they are uneven, one of BROKEN for other cells."""
    values, shape = cell.values, [len(cell.values)]
    while hasattr(values.type, "value_type"):
        flat = values.flatten()
        shape.append(len(flat) // max(len(values), 1))
        if hasattr(values, "value_lengths") and set(values.value_lengths().to_pylist()) - {shape[-1]}:
            raise ValueError("lists of unequal lengths")
        values = flat
    array: files.Array = values.to_numpy(zero_copy_only=False).astype("float32").reshape(shape)
    return array


def _holds(cell: Any, compare: Comparison, word: str) -> bool:
    """A comparison of a cell with a word: as numbers where the cell is one, never true of an empty cell."""
    if not isinstance(cell, int | float) or isinstance(cell, bool):
        return cell is not None and compare(str(cell), word)
    try:
        return compare(float(cell), float(word))
    except ValueError as error:
        raise ConfigError(f"--where: expected a number, as {cell!r} is one, found {word!r}. Correct it.") from error


@hookimpl
def register_datasets(register: Register) -> None:
    """Offer this importer under its name."""
    register(ParquetImporter.name, ParquetImporter)
