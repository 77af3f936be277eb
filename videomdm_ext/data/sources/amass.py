"""The importer of AMASS: long takes of SMPL parameters below a folder, seen by seeded orbit cameras.

SOURCE/**/NAME.npz: poses [T, 156] (SMPL-H), [T, 165] (SMPL-X) or [T, 72] (SMPL) as rotation vectors, trans [T, 3],
betas, gender, mocap_framerate (or mocap_frame_rate); z up, which becomes y up as in HumanML3D. Needs the body model's
files (--option smpl=FOLDER). Takes are cut to pieces of at most 196 frames at 20 fps, which stay on one side of the
split.
"""

import contextlib
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from videomdm_ext.data import files
from videomdm_ext.data.motions import frames_at, grounded, resample, resample_rotations
from videomdm_ext.data.sources.base import FASTEST, SLOWEST, Member, TakesImporter, y_up
from videomdm_ext.errors import DatasetError
from videomdm_ext.geometry.rotations import roma
from videomdm_ext.hookspecs import Register, hookimpl
from videomdm_ext.motion.body_models import GENDERS, SITES, posed
from videomdm_ext.motion.skeletons import SMPL22

logger = logging.getLogger(__name__)

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
    rate: str
    """The name under which the file has its frame rate."""

    @property
    def length(self) -> int:
        """Frames at 20 fps."""
        return len(frames_at(self.frames, self.fps, AmassImporter.fps))


MOST_FALL = 1.4
SHARES = {
    ("pelvis", "neck"): (0.497, 0.5), ("neck", "head"): (0.081, 1.0), ("hip", "knee"): (0.1, 0.433),
    ("knee", "ankle"): (0.0465, 0.433), ("ankle", "foot"): (0.0145, 0.5), ("shoulder", "elbow"): (0.028, 0.436),
    ("elbow", "wrist"): (0.022, 0.43),
}  # fmt: skip
"""Segments of the body between two joints: their share of its mass, and how far along their centre of mass lies
(Winter, Biomechanics and Motor Control of Human Movement, table 4.1); limbs are on either side."""
GRAVITY = 9.81


def fall(positions: Tensor, fps: float) -> float:
    """The downward acceleration of the centre of mass of a take [T, 22, 3], y up, that 2 % of its frames exceed, in g.

    Nothing pulls a person down but gravity, so that it is at most 1 whatever is done; at twice the frame rate
    accelerations are fourfold. Of 102 takes of CMU at 40 fps two exceed MOST_FALL (leaps of dancers), and 55 % of the
    same takes played twice as fast: walking, running and jumping alike, hardly ever who stands.
    """
    centre = positions.new_zeros(len(positions), 3)
    for (start, end), (mass, along) in SHARES.items():
        for side in ("",) if start in ("pelvis", "neck") else ("l_", "r_"):
            a, b = (positions[:, SMPL22.index(side + joint)] for joint in (start, end))
            centre += mass * torch.lerp(a, b, along)
    if len(centre) < 12:
        return 0.0
    height = centre[:, 1]
    down = (2 * height[1:-1] - height[2:] - height[:-2]) * fps**2 / GRAVITY
    return float(torch.quantile(down, 0.98))


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
        model = self.body_model(KINDS[facts.parameters], self.extra("gender", facts.gender, among=GENDERS))
        arrays = files.read_arrays(str(path), needed=("poses", "trans", "betas"), optional=())
        poses, moved, betas = (torch.from_numpy(arrays[name]).double() for name in ("poses", "trans", "betas"))
        if moved.shape != (facts.frames, 3) or betas.ndim != 1:
            found = f"{list(moved.shape)} and {list(betas.shape)}"
            raise self.refuse(path, f"trans [{facts.frames}, 3] and betas [S]", found, "Download it again.")
        if not all(bool(torch.isfinite(part).all()) for part in (poses, moved, betas)):
            raise self.refuse(path, "numbers", "NaN or infinite ones", "Download it again.")
        turns = roma.rotvec_to_rotmat(poses[:, :66].reshape(-1, 22, 3))
        at = frames_at(facts.frames, facts.fps, 2 * self.fps)
        joints = y_up(posed(model.rest(betas), resample_rotations(turns, at), resample(moved, at)))
        pull = fall(joints, 2 * self.fps)
        if pull > MOST_FALL:
            logger.warning(
                "%s: falls with %.1f times the acceleration of gravity, which nobody can. Its frame rate, %g, may be "
                "twice too high, as in some of AMASS's files: look at the gait, and correct %s, or leave the file out.",
                *(path, pull, facts.fps, facts.rate),
            )
        return grounded(joints[::2][: facts.length]).float()


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
    return Declared(*shape, fps, word.group().decode() if word else "neutral", rate)


@hookimpl
def register_datasets(register: Register) -> None:
    """Offer this importer under its name."""
    register(AmassImporter.name, AmassImporter)
