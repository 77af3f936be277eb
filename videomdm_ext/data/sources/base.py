"""The contract of importers: list what a source holds without reading it all, then read one clip at a time."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from videomdm_ext.data.observing import PREFIX, Optics, lifter_options, options_for_lifter
from videomdm_ext.data.recording import Recording
from videomdm_ext.errors import ConfigError, DatasetError
from videomdm_ext.motion.kinematics import RAW, HeadingRule
from videomdm_ext.motion.skeletons import SMPL22, Skeleton

SHARES = (0.8, 0.05, 0.15)
"""Of the trials, for training, validation and test."""


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
    split: tuple[float, float, float] = SHARES
    """Shares of the trials for train, val and test, for sources without splits of their own."""

    def __post_init__(self) -> None:
        # nan fails every comparison
        good = len(self.split) == 3 and all(0 <= share <= 1 for share in self.split) and self.split[0] > 0
        if not good or not math.isclose(sum(self.split), 1.0, abs_tol=1e-6):
            found = ",".join(f"{share:g}" for share in self.split)
            raise ConfigError(
                "--split: expected shares of train, val and test, none below 0, that of train above 0, with the sum 1, "
                f"found {found}. Write them as in --split 0.8,0.05,0.15."
            )


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
    skeleton: Skeleton = SMPL22
    fps: float = 20.0
    """Frames per second of what `read` returns."""
    heading: ClassVar[HeadingRule] = RAW
    licence: ClassVar[str] = ""
    sources: tuple[str, ...] = ()
    extras: ClassVar[Mapping[str, str] | None] = None
    """Keys of `options.extra` that this importer knows, each with a line of help; None: it checks them itself."""
    has_lifter: str = ""
    """Name of the lifter whose motion the source brings along; empty: options.lifter makes it."""

    def __init__(self, source: str, options: ImportOptions) -> None:
        self.source, self.options = source, options
        self.tagged: dict[str, Sequence[tuple[str, str]]] = {}
        """Words with their part of speech of the captions read last, where the source has them."""
        self._check_extras()

    def _check_extras(self) -> None:
        known = self.extras
        wrong = [] if known is None else sorted(set(self.options.extra) - set(known))
        if wrong and not self.has_lifter:
            allowed = lifter_options(self.options.lifter)
            wrong = [key for key in wrong if key.removeprefix(PREFIX) not in allowed]
        if known is not None and wrong:
            raise ConfigError(
                f"--option {wrong[0]}: expected one that data import {self.name} knows, {', '.join(known) or 'none'}, "
                "found another. Correct it."
            )

    @property
    def lifter_extra(self) -> dict[str, str]:
        """The options of the lifter that are among this importer's: lifter.KEY, or a KEY that it does not know."""
        return options_for_lifter(self.options.extra, self.extras or ())

    def extra(self, key: str, default: str = "", *, among: Sequence[str] = ()) -> str:
        """The value of an option of this importer; with `among`, one of these."""
        value = self.options.extra.get(key, default)
        if among and value not in among:
            raise ConfigError(f"--option {key}: expected {' or '.join(among)}, found {value!r}. Correct it.")
        return value

    def extra_number(self, key: str, default: float, *, least: float | None = None) -> float:
        """The value of an option of this importer that is a number above 0, or `least` or more."""
        text = self.options.extra.get(key, "")
        try:
            value = float(text) if text else default
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or (value <= 0 if least is None else value < least):
            expected = "a number above 0" if least is None else f"a number, {least:g} or more"
            raise ConfigError(f"--option {key}: expected {expected}, found {text!r}. Correct it.")
        return value

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
