"""The importer `bvh`: a folder of BVH files of any known naming, seen by seeded orbit cameras.

CMU (Hahne's conversions), 100STYLE, Mixamo, LAFAN1 and SFU are known by their joints' names (`bvh_names`), others by a
map of the user's. Long takes are cut to pieces of at most 196 frames at 20 fps, which stay on one side of the split.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import yaml
from torch import Tensor

from videomdm_ext.data import files
from videomdm_ext.data.observing import observe, own_generator
from videomdm_ext.data.recording import Recording
from videomdm_ext.data.sources.base import Importer, Member
from videomdm_ext.data.sources.bvh_names import Rules, rules_from
from videomdm_ext.data.sources.bvh_takes import Reading, read_header, read_take
from videomdm_ext.data.sources.captions import caption_table
from videomdm_ext.data.sources.takes import Piece, captions_of, pieces, take_names
from videomdm_ext.errors import DatasetError
from videomdm_ext.hookspecs import Register, hookimpl

MAP_BYTES = 1 << 16


class BvhImporter(Importer):
    """BVH files below a folder; several views become clips NAME_v0, NAME_v1 ..."""

    name = "bvh"
    about = "A folder of BVH files (CMU, 100STYLE, Mixamo, LAFAN1, SFU or your own joint names)."
    sources = ("BVH motion capture, projected to orbit cameras",)
    extras: ClassVar[Mapping[str, str] | None] = {
        "map": "a YAML file that says which joints are the 22 SMPL joints",
        "scale": "metres in a unit of the files, by default told from the legs",
        "up": "their upward axis, y or z, by default told from the pose",
    }

    def members(self) -> Sequence[Member]:
        """One for every piece of every file and every view; a file that cannot be read is one, and refused later."""
        found = []
        for path, name in self._names.items():
            try:
                frames = read_header(path).length
            except (DatasetError, OSError):
                frames = 1
            found += pieces(path, name, frames, self.options.views)
        return found

    def read(self, member: Member) -> Recording:
        """A piece of a take as one camera saw it."""
        piece: Piece = member.place
        return observe(
            member.id,
            captions_of(piece.path, member.trial, self._given),
            piece.cut(self._take(piece.path)),
            skeleton=self.skeleton,
            fps=self.fps,
            optics=self.options.optics,
            draw=own_generator(self.name, self.options.seed, member.id),
        )

    def _take(self, path: Path) -> Tensor:
        """The whole take; the one read last is kept, as its pieces are asked for one after the other."""
        if self._last is None or self._last[0] != path:
            self._last = (path, read_take(path, self._reading))
        return self._last[1]

    _last: tuple[Path, Tensor] | None = None

    @cached_property
    def _names(self) -> Mapping[Path, str]:
        return take_names(Path(self.source), ".bvh")

    @cached_property
    def _given(self) -> Mapping[str, tuple[str, ...]]:
        return caption_table(self.options.captions) if self.options.captions else {}

    @cached_property
    def _reading(self) -> Reading:
        scale = self.extra_number("scale", 1.0) if self.extra("scale") else None
        up = self.extra("up", among=("", "y", "z"))
        return Reading(self._rules(), scale, up)

    def _rules(self) -> Rules | None:
        place = self.extra("map")
        if not place:
            return None
        text = files.read_text(place, limit=MAP_BYTES)
        try:
            entries = yaml.safe_load(text)
        except (yaml.YAMLError, RecursionError) as error:
            raise self.refuse(place, "YAML", f"other text ({error})", "Correct the map.") from error
        return rules_from(entries, place)


@hookimpl
def register_datasets(register: Register) -> None:
    """Offer this importer under its name."""
    register(BvhImporter.name, BvhImporter)
