"""The card of a dataset folder, dataset.json: the facts that a run must know about its data."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from videomdm_ext.data import files
from videomdm_ext.errors import DatasetError
from videomdm_ext.motion.kinematics import RAW, HeadingRule

FORMAT = 1
"""Version of the folder format; a reader refuses any other."""


@dataclass(frozen=True)
class Card:
    """What a folder holds. `lifter` names the maker of the teacher; `lifter_error` its measured figures, by name.

    `heading` is the rule by which headings of the feature vectors were found, `counts` the clips of each split,
    `recipe` the settings it was made with, `content_hash` the SHA-256 of all clip files. `write_folder` fills in
    counts and hash.
    """

    name: str
    skeleton: str
    fps: float
    lifter: str
    licence: str
    sources: tuple[str, ...]
    heading: HeadingRule = RAW
    units: str = "m"
    lifter_error: Mapping[str, float] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    content_hash: str = ""

    def to_json(self) -> str:
        """The text of dataset.json; the same card always gives the same text."""
        return json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str, path: str) -> "Card":
        """Read the text of dataset.json; DatasetError names `path` and the entry that does not fit."""
        entries = files.parse_json(text, path)
        if not isinstance(entries, dict) or entries.get("format") != FORMAT:
            found = entries.get("format") if isinstance(entries, dict) else type(entries).__name__
            raise DatasetError(f"{path}: expected format {FORMAT}, found {found!r}. Make the data set again.")
        return cls._checked({key: value for key, value in entries.items() if key != "format"}, path)

    @classmethod
    def _checked(cls, entries: dict[str, Any], path: str) -> "Card":
        known = {item.name: item for item in dataclasses.fields(cls)}
        needed = ("name", "skeleton", "fps", "lifter", "licence", "sources", "heading", "content_hash")
        missing = [name for name in needed if name not in entries]
        unknown = [name for name in entries if name not in known]
        if missing or unknown:
            raise DatasetError(
                f"{path}: expected the entries of format {FORMAT}, found {', '.join(missing) or 'none'} missing and "
                f"{', '.join(unknown) or 'none'} unknown. Make the data set again, or correct the card."
            )
        try:
            heading, sources = HeadingRule(**entries["heading"]), tuple(entries["sources"])
            card = cls(**{**entries, "heading": heading, "sources": sources, "fps": float(entries["fps"])})
        except (TypeError, ValueError) as error:
            raise DatasetError(f"{path}: an entry has the wrong type ({error}). Correct the card.") from error
        if card.units != "m" or not card.fps > 0:
            raise DatasetError(
                f"{path}: expected units 'm' and a positive fps, found {card.units!r} and {card.fps:g}. "
                "Convert the data set, then correct the card."
            )
        return card
