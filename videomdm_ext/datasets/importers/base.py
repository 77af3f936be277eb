"""The contract of importers: list what a source holds without reading it all, then read one clip at a time."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from videomdm_ext.datasets.observing import Optics
from videomdm_ext.datasets.recording import Recording
from videomdm_ext.errors import DatasetError
from videomdm_ext.motion.kinematics import RAW, HeadingRule
from videomdm_ext.skeletons import SMPL22, Skeleton


@dataclass(frozen=True)
class ImportOptions:
    """What the user may say about an import. An importer ignores what its source decides by itself."""

    seed: int = 0
    views: int = 1
    lifter: str = "synthetic"
    """Name of a registered lifter, for sources that bring none of their own."""
    captions: str = ""
    """A file with captions, ID<tab>caption, for sources without texts."""
    optics: Optics = field(default_factory=Optics)
    extra: Mapping[str, str] = field(default_factory=dict)
    """KEY=VALUE pairs of one importer alone."""


@dataclass(frozen=True)
class Member:
    """One clip that a source holds. Members of one `trial` go to the same split; `split`, where given, is the source's.

    `place` is whatever the importer needs to read the clip.
    """

    id: str
    trial: str = ""
    split: str = ""
    place: Any = None


class Importer(ABC):
    """Reads one kind of source. A subclass sets the class variables and writes `members` and `read`."""

    name: ClassVar[str]
    about: ClassVar[str]
    """One line for the help."""
    skeleton: ClassVar[Skeleton] = SMPL22
    fps: ClassVar[float] = 20.0
    """Frames per second of what `read` returns."""
    heading: ClassVar[HeadingRule] = RAW
    licence: ClassVar[str] = ""
    sources: ClassVar[tuple[str, ...]] = ()
    has_lifter: ClassVar[str] = ""
    """Name of the lifter whose motion the source brings along; empty: options.lifter makes it."""

    def __init__(self, source: str, options: ImportOptions) -> None:
        self.source, self.options = source, options

    @abstractmethod
    def members(self) -> Sequence[Member]:
        """What there is, always in the same order. DatasetError where the source is not of this kind."""

    @abstractmethod
    def read(self, member: Member) -> Recording:
        """One clip. DatasetError where it cannot be used: it is then left out, with the message in the summary."""

    @property
    def lifter(self) -> str:
        """The name of the lifter that the card will show."""
        return self.has_lifter or self.options.lifter

    def refuse(self, place: object, expected: object, found: object, advice: str) -> DatasetError:
        """An error in the usual words."""
        return DatasetError(f"{place}: expected {expected}, found {found}. {advice}")
