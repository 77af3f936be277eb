"""The importer `amass`: AMASS's .npz files as 22 joints, seen by seeded orbit cameras.

SOURCE/**/NAME.npz    poses [T, 156] (SMPL-H), [T, 165] (SMPL-X) or [T, 72] (SMPL) as rotation vectors, trans [T, 3],
                      betas, gender, mocap_framerate (or mocap_frame_rate); z up

Needs the body model's files (--option smpl=FOLDER). AMASS's z up becomes y up as in HumanML3D: (x, y, z) to (x, z, -y).
"""

import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import roma
import torch
from torch import Tensor

from videomdm_ext.data import files, npfiles
from videomdm_ext.data.observing import observe, own_generator
from videomdm_ext.data.recording import Recording, frames_at
from videomdm_ext.data.sources import body_models
from videomdm_ext.data.sources.base import Importer, Member
from videomdm_ext.data.sources.body_models import GENDERS, BodyModel
from videomdm_ext.data.sources.captions import caption_table
from videomdm_ext.data.sources.joints import y_up
from videomdm_ext.data.sources.takes import Piece, captions_of, grounded, pieces, take_names
from videomdm_ext.errors import DatasetError
from videomdm_ext.hookspecs import Register, hookimpl

KINDS = {156: "smplh", 165: "smplx", 72: "smpl"}
"""Kind of body by the number of pose parameters; the first 66 turn the same 22 joints in all of them."""
RATES = ("mocap_framerate", "mocap_frame_rate")
SLOWEST, FASTEST = 5.0, 1000.0
SMALL = 4096
"""Bytes of a member that holds one number or word."""


@dataclass(frozen=True)
class Declared:
    """What a file says about itself, read without its motion: [frames, parameters] of poses, fps and gender."""

    frames: int
    parameters: int
    fps: float
    gender: str

    @property
    def length(self) -> int:
        """Frames at 20 fps."""
        return len(frames_at(self.frames, self.fps, AmassImporter.fps))


class AmassImporter(Importer):
    """AMASS; several views become clips NAME_v0, NAME_v1 ..."""

    name = "amass"
    about = "AMASS's .npz files (SMPL-H or SMPL-X parameters); needs the body model's files."
    sources = ("AMASS (amass.is.tue.mpg.de), projected to orbit cameras",)
    licence = "AMASS and SMPL: non-commercial research"
    extras: ClassVar[Mapping[str, str] | None] = {
        "smpl": "the folder of the body model's files, such as FOLDER/smplh/male/model.npz",
        "gender": "neutral, male or female instead of the gender that each file names",
    }

    def members(self) -> Sequence[Member]:
        """One for every piece of every file and every view; what cannot be read is one, and refused later."""
        if not self.extra("smpl"):
            raise self.refuse(
                self.source,
                "--option smpl=FOLDER, the body model's files",
                "none",
                f"Get them from {body_models.SITES['smplh']}. Joints without a body model go through "
                "`videomdm data import joints`.",
            )
        found = []
        for path, name in self._names.items():
            try:
                frames = declared(path).length
            except (DatasetError, OSError):
                frames = 1
            found += pieces(path, name, frames, self.options.views)
        return found

    def read(self, member: Member) -> Recording:
        """A piece of a take as one camera saw it."""
        piece: Piece = member.place
        plain = piece.path.with_name(piece.path.stem.removesuffix("_poses").removesuffix("_stageii"))
        return observe(
            member.id,
            captions_of(plain, member.trial, self._given),
            piece.cut(self._take(piece.path)),
            skeleton=self.skeleton,
            fps=self.fps,
            optics=self.options.optics,
            draw=own_generator(self.name, self.options.seed, member.id),
        )

    _last: tuple[Path, Tensor] | None = None

    def _take(self, path: Path) -> Tensor:
        """The whole take [T, 22, 3] at 20 fps, y up, floor at 0; the one read last is kept for its other pieces."""
        if self._last is None or self._last[0] != path:
            self._last = (path, self._read_take(path))
        return self._last[1]

    def _read_take(self, path: Path) -> Tensor:
        facts = declared(path)
        kind = KINDS[facts.parameters]
        gender = self.extra("gender", facts.gender, among=GENDERS)
        model = self._model(body_models.find_model(self.extra("smpl"), kind, gender))
        arrays = files.read_arrays(str(path), needed=("poses", "trans", "betas"), optional=())
        poses, moved, betas = (torch.from_numpy(arrays[name]).double() for name in ("poses", "trans", "betas"))
        if moved.shape != (facts.frames, 3) or betas.ndim != 1:
            found = f"{list(moved.shape)} and {list(betas.shape)}"
            raise self.refuse(path, f"trans [{facts.frames}, 3] and betas [S]", found, "Download it again.")
        if not all(bool(torch.isfinite(part).all()) for part in (poses, moved, betas)):
            raise self.refuse(path, "numbers", "NaN or infinite ones", "Download it again.")
        turns = roma.rotvec_to_rotmat(poses[:, :66].reshape(-1, 22, 3))
        at = frames_at(facts.frames, facts.fps, self.fps)
        joints = body_models.posed(model.rest(betas), *resampled(turns, moved, at))
        return grounded(y_up(joints)).float()

    def _model(self, path: Path) -> BodyModel:
        if path not in self._models:
            self._models[path] = body_models.read_model(path)
        return self._models[path]

    @cached_property
    def _models(self) -> dict[Path, BodyModel]:
        return {}

    @cached_property
    def _names(self) -> Mapping[Path, str]:
        found = take_names(Path(self.source), ".npz")
        return {p: name for p, name in found.items() if p.name != "shape.npz" and not p.stem.endswith("_stagei")}

    @cached_property
    def _given(self) -> Mapping[str, tuple[str, ...]]:
        return caption_table(self.options.captions) if self.options.captions else {}


def resampled(turns: Tensor, moved: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """Rotations [T, 22, 3, 3] along the shortest way, and places [T, 3], at fractional frame numbers [S]."""
    low = at.floor().long().clamp(0, max(len(turns) - 2, 0))
    high = (low + 1).clamp_max(len(turns) - 1)
    share = (at - low).reshape(-1, 1)
    between = roma.rotmat_to_rotvec(turns[low].transpose(-1, -2) @ turns[high])
    turned = turns[low] @ roma.rotvec_to_rotmat(share.unsqueeze(-1) * between)
    return turned, torch.lerp(moved[low], moved[high], share)


def declared(path: Path) -> Declared:
    """What a file declares; DatasetError where it is not one of AMASS's."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            poses = archive.getinfo("poses.npy")
            with archive.open(poses) as file:
                shape = npfiles.parse_header(file.read(npfiles.HEADER_LIMIT), poses.file_size).shape
            rate = next(name for name in RATES if f"{name}.npy" in names)
            fps = float(npfiles.parse_array(_small(archive, rate)).reshape(()))
            gender = _word(_small(archive, "gender")) if "gender.npy" in names else "neutral"
    except (*npfiles.BROKEN_ARCHIVE, StopIteration) as error:
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
    return Declared(*shape, fps, gender)


def _small(archive: zipfile.ZipFile, name: str) -> bytes:
    info = archive.getinfo(f"{name}.npy")
    if info.file_size > SMALL:
        raise ValueError(f"{name} has {info.file_size} bytes")
    return archive.read(info)


def _word(content: bytes) -> str:
    """The gender that the bytes of an array of text name; the text is looked at and never unpickled."""
    found = re.search(rb"female|male|neutral", content.replace(b"\0", b""))
    return found.group().decode() if found else "neutral"


@hookimpl
def register_datasets(register: Register) -> None:
    """Offer this importer under its name."""
    register(AmassImporter.name, AmassImporter)
