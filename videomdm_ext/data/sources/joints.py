"""The importer `joints`: a folder of 22 SMPL joints a clip, seen by seeded orbit cameras.

SOURCE/joints/NAME.npy    [T, 22, 3], metres, 20 fps and y up unless options say otherwise
SOURCE/texts/NAME.txt     HumanML3D's lines; those about a part of a clip are left out
SOURCE/index.csv          optional, with a column `name` and perhaps `caption`: which clips there are

Names that end in _s0, _s1 ... are pieces of one trial and stay on one side of the split.
"""

import csv
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import ClassVar

import blobfile as bf
import torch
from torch import Tensor

from videomdm_ext.data import files
from videomdm_ext.data.clip import Recording
from videomdm_ext.data.motions import frames_at, resample
from videomdm_ext.data.sources.base import Importer, Member, y_up
from videomdm_ext.data.synthetic_camera import observe, own_generator
from videomdm_ext.data.texts import read_captions, tags_of
from videomdm_ext.errors import DatasetError
from videomdm_ext.hookspecs import Register, hookimpl
from videomdm_ext.motion.skeletons import SMPL22

PIECE = re.compile(r"_s\d+$")  # the end of the name of a piece of a longer trial
SMALLEST, LARGEST = 0.2, 5.0  # metres; the largest extent of a pose lies between


class JointsImporter(Importer):
    """A folder of joints; several views become clips NAME_v0, NAME_v1 ..."""

    name = "joints"
    about = "A folder of 22 joints a clip (joints/NAME.npy, texts/NAME.txt)."
    sources = ("joints of 3D motion, projected to orbit cameras",)
    extras: ClassVar[Mapping[str, str] | None] = {
        "fps": "frames per second of the files, 20 by default",
        "up": "their upward axis, y or z",
    }

    def members(self) -> Sequence[Member]:
        """One for every clip and view."""
        names = [row["name"] for row in self._index] or files.stems(bf.join(self.source, "joints"), ".npy")
        places = [(files.checked_id(name, self.source), view) for name in names for view in range(self.options.views)]
        return [Member(self._id(name, view), trial=PIECE.sub("", name), place=(name, view)) for name, view in places]

    def read(self, member: Member) -> Recording:
        """The motion as one camera saw it."""
        name, _ = member.place
        return observe(
            member.id,
            self._texts(name),
            self._positions(bf.join(self.source, "joints", f"{name}.npy")),
            skeleton=self.skeleton,
            fps=self.fps,
            optics=self.options.optics,
            draw=own_generator(self.name, self.options.seed, member.id),
        )

    def _id(self, name: str, view: int) -> str:
        return name if self.options.views == 1 else f"{name}_v{view}"

    def _positions(self, place: str) -> Tensor:
        """Joints [T, 22, 3] at 20 fps, y up."""
        positions = torch.from_numpy(files.read_array(place))
        if positions.ndim != 3 or tuple(positions.shape[1:]) != (SMPL22.num_joints, 3) or len(positions) < 2:
            advice = "Write the joints in the order of HumanML3D."
            raise self.refuse(place, f"joints [T, {SMPL22.num_joints}, 3]", list(positions.shape), advice)
        if not bool(torch.isfinite(positions).all()):
            raise self.refuse(place, "positions without gaps", "NaN or infinite ones", "Fill or cut the gaps.")
        size = float((positions.amax(-2) - positions.amin(-2)).amax(-1).median())
        if not SMALLEST < size < LARGEST:
            advice = "Are the units metres, not millimetres? Convert the file."
            raise self.refuse(place, f"a person of {SMALLEST:g} to {LARGEST:g} m", f"one of {size:.4g}", advice)
        if self.extra("up", "y", among=("y", "z")) == "z":
            positions = y_up(positions)
        fps = self.extra_number("fps", self.fps)
        return positions if fps == self.fps else resample(positions, frames_at(len(positions), fps, self.fps))

    def _texts(self, name: str) -> tuple[str, ...]:
        """Captions of a clip: its own file, else --captions, else the index."""
        place = bf.join(self.source, "texts", f"{name}.txt")
        if bf.exists(place):
            captions = [caption for caption in read_captions(place) if caption.is_whole]
            self.tagged = tags_of(captions)
            texts = tuple(caption.text for caption in captions)
        else:
            texts = self.given.get(name) or tuple(
                row["caption"] for row in self._index if row["name"] == name and row.get("caption")
            )
        if not texts:
            raise self.refuse(place, "a caption of the whole clip", "none", "Write it, or name a file with --captions.")
        return texts

    @cached_property
    def _index(self) -> list[dict[str, str]]:
        """Rows of index.csv; none where there is no such file."""
        place = bf.join(self.source, "index.csv")
        if not bf.exists(place):
            return []
        rows = list(csv.DictReader(files.read_text(place).splitlines()))
        if not rows or any(not row.get("name") for row in rows):
            raise DatasetError(f"{place}: expected a column `name`, found none or empty names. Correct or remove it.")
        return rows


@hookimpl
def register_datasets(register: Register) -> None:
    """Offer this importer under its name."""
    register(JointsImporter.name, JointsImporter)
