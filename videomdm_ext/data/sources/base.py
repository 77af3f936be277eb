"""The contract of importers: list what a source holds without reading it all, then read one clip at a time.

Beside the base class: `TakesImporter` for folders of long takes, which are cut to clips, and the results of a lifter
that ran elsewhere (`read_results`).
"""

import math
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import blobfile as bf
import torch
from torch import Tensor

from videomdm_ext.data import files
from videomdm_ext.data.clip import Clip, Recording, to_clip
from videomdm_ext.data.folder import SPLITS
from videomdm_ext.data.motions import PREFIX, Optics, frames_at, lift, lifter_options, observe, own_generator, resample
from videomdm_ext.data.texts import CaptionSource, Words, composed, words_in
from videomdm_ext.errors import ConfigError, DatasetError
from videomdm_ext.geometry.cameras import to_world
from videomdm_ext.motion.body_models import BodyModel, find_model, read_model
from videomdm_ext.motion.kinematics import RAW, HeadingRule
from videomdm_ext.motion.skeletons import SMPL22, Skeleton

SHARES = (0.8, 0.05, 0.15)  # of the trials, for training, validation and test
SLOWEST, FASTEST = 5.0, 1000.0  # frames per second of a file of motion capture
LONGEST = 196  # frames of a clip at most, as in HumanML3D
FRAMES_OF = ("camera", "world")
"""Whose axes a lifter's results are in: the camera's (x right, y down, z forward) or the world's (y up)."""


@dataclass(frozen=True)
class ImportOptions:
    """Options of an import. An importer ignores what its source decides by itself."""

    seed: int = 0
    views: int = 1
    lifter: str = "synthetic"  # name of a registered lifter, for sources that bring none of their own
    captions: str = ""  # a table of captions by name (`texts.caption_table`), for sources without texts
    caption: str = ""  # a template of one (`texts.CaptionSource`), for files that the table lacks
    optics: Optics = field(default_factory=Optics)
    extra: Mapping[str, str] = field(default_factory=dict)  # KEY=VALUE pairs of one importer alone
    flag: str = "--option "  # what a key of `extra` is written behind, for messages
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
    about: ClassVar[str]  # one line for the help
    skeleton: Skeleton = SMPL22
    fps: float = 20.0  # frames per second of what `read` returns
    heading: ClassVar[HeadingRule] = RAW
    licence: str = ""
    sources: tuple[str, ...] = ()
    extras: ClassVar[Mapping[str, str] | None] = None
    """Keys of `options.extra` that this importer knows, each with a line of help; None: it checks them itself."""
    reads_here: ClassVar[bool] = True
    """Whether what it reads is read in this process, so that it is known what the set was made from; else `inputs`."""
    has_lifter: str = ""  # name of the lifter whose motion the source brings along; empty: options.lifter makes it

    def __init__(self, source: str, options: ImportOptions) -> None:
        self.source, self.options = source, options
        self.tagged: dict[str, Words] = {}
        """Words with their part of speech of the captions read last, where the source has them."""
        self.captions = CaptionSource(options.captions, options.caption)
        self.refused: dict[str, str] = {}
        """Why lines, files or captions were left out that are no members, by their place."""
        self._models: dict[Path, BodyModel] = {}
        known = self.extras or {}
        wrong = [] if self.extras is None else sorted(set(options.extra) - set(known))
        if wrong and not self.has_lifter:
            allowed = lifter_options(options.lifter)
            wrong = [key for key in wrong if key.removeprefix(PREFIX) not in allowed]
        if wrong:
            raise ConfigError(
                f"{self.options.flag}{wrong[0]}: expected one that data import {self.name} knows, "
                f"{', '.join(known) or 'none'}, found another. Correct it."
            )
        self.results = self.extra("lifted") if "lifted" in known else ""
        if self.results:
            self.has_lifter = lifter_name(self.results, self.extra("lifted_name"))
        self.lifted_frame = self.extra("lifted_frame", "camera", among=FRAMES_OF)

    @property
    def lifter_extra(self) -> dict[str, str]:
        """The options of the lifter that are among this importer's: lifter.KEY, or a KEY that it does not know."""
        given = self.options.extra.items()
        plain = {k: v for k, v in given if "." not in k and k not in (self.extras or ())}
        return plain | {k.removeprefix(PREFIX): v for k, v in given if k.startswith(PREFIX)}

    def extra(self, key: str, default: str = "", *, among: Sequence[str] = ()) -> str:
        """The value of an option of this importer; with `among`, one of these."""
        value = self.options.extra.get(key, default)
        if among and value not in among:
            raise ConfigError(f"{self.options.flag}{key}: expected {' or '.join(among)}, found {value!r}. Correct it.")
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
            raise ConfigError(f"{self.options.flag}{key}: expected {expected}, found {text!r}. Correct it.")
        return value

    @abstractmethod
    def members(self) -> Sequence[Member]:
        """What there is, always in the same order. DatasetError where the source is not of this kind."""

    @abstractmethod
    def read(self, member: Member) -> Recording:
        """One clip. DatasetError where it cannot be used: it is then left out, with the message in the summary."""

    def inputs(self) -> Sequence[str]:
        """After `members`: files that are read in other processes."""
        return ()

    def clips(self, members: Sequence[Member], lifter: Any = None) -> Iterator[tuple[Member, Clip | DatasetError]]:
        """Each member with the clip that it gives, lifted where the source brings no motion, or why it gives none."""
        for member in members:
            try:
                recording = self.read(member)
                recording = recording if lifter is None else lift(lifter, recording)
                made: Clip | DatasetError = to_clip(self.finished(recording), self.heading)
            except DatasetError as error:
                made = error
            yield member, made

    def finished(self, recording: Recording) -> Recording:
        """The recording once it is lifted; as it is by default."""
        return recording

    def counted(self) -> Mapping[str, int]:
        """Frames whose sides were exchanged, `repaired` and `doubted`, for the card; nothing by default."""
        return {}

    @property
    def views(self) -> list[str]:
        """What the ids of a motion's clips end in, one for each camera that sees it; nothing of a single one."""
        return [f"_v{view}" for view in range(self.options.views)] if self.options.views > 1 else [""]

    def body_model(self, kind: str, gender: str = "neutral") -> BodyModel:
        """The model of a kind of body, from the folder of --option smpl=FOLDER."""
        place = find_model(self.extra("smpl"), kind, gender)
        if place not in self._models:
            files.note_read(str(place))
            self._models[place] = read_model(place, files.read_only)
        return self._models[place]

    @property
    def lifter(self) -> str:
        """The name of the lifter that the card will show."""
        return self.has_lifter or self.options.lifter

    def listed(self) -> list[tuple[str, str]]:
        """Names with their split from SOURCE/train.txt, val.txt and test.txt; none where there are no such lists."""
        found = []
        for split in SPLITS:
            place = bf.join(self.source, f"{split}.txt")
            lines = files.read_text(place).splitlines() if bf.exists(place) else []
            found += [(files.checked_id(line.strip(), place), split) for line in lines if line.strip()]
        return found

    def caption_names(self, member: Member) -> Sequence[str]:
        """By what names --captions may have a member that it gives a caption to; none where that is no matter."""
        return ()

    def given(self, *names: str, path: str = "") -> tuple[str, ...]:
        """Captions that --captions has of the first of these names, else what --caption makes of the file `path`.

        Those of a part of a clip are left out and reported.
        """
        found = next((name for name in map(composed, names) if name in self.captions.table), "")
        captions = self.captions.find(found, path=path)
        for part in (caption for caption in captions if not caption.is_whole):
            advice = "Leave the times out, or import the part as a clip of its own."
            place = f"{self.options.captions}: {found} from {part.start:g} s"
            self.refused[place] = f"expected a caption of the whole clip, found one of a part. {advice}"
        return tuple(caption.text for caption in captions if caption.is_whole)

    def at_rate(self, positions: Tensor, fps: float) -> Tensor:
        """A motion [T, J, 3] of `fps` frames per second at those of this importer."""
        return positions if fps == self.fps else resample(positions, frames_at(len(positions), fps, self.fps))

    def observed(self, clip_id: str, texts: tuple[str, ...], positions: Tensor, *label: object) -> Recording:
        """A motion [T, J, 3] as a seeded orbit camera sees it; `label`, by default the id, chooses the camera."""
        draw = own_generator(self.name, self.options.seed, *(label or (clip_id,)))
        skeleton, optics = self.skeleton, self.options.optics
        return observe(clip_id, texts, positions, skeleton=skeleton, fps=self.fps, optics=optics, draw=draw)

    def refuse(self, place: object, expected: object, found: object, advice: str) -> DatasetError:
        """An error in the usual words."""
        return DatasetError(f"{place}: expected {expected}, found {found}. {advice}")


class TakesImporter(Importer):
    """Files of long takes below a folder, seen by seeded orbit cameras. A subclass reads a take and its length.

    Clips are named NAME, NAME_s0 ... of a long take, NAME_v0 ... for several views; the parts of a take stay on one
    side of the split.
    """

    ending: ClassVar[str]
    _last: tuple[Path, Tensor] | None = None

    @abstractmethod
    def length(self, path: Path) -> int:
        """Frames of a take at `fps`, read without its motion."""

    @abstractmethod
    def read_take(self, path: Path) -> Tensor:
        """The whole take [T, J, 3] at `fps`: metres, y up, floor at 0."""

    def members(self) -> Sequence[Member]:
        """One for every piece of every file and every view; what cannot be read is one, and refused later."""
        found = []
        for path, name in self.takes.items():
            try:
                frames = self.length(path)
            except (DatasetError, OSError):
                frames = 1
            count = max(math.ceil(frames / LONGEST), 1)
            for number in range(count):
                piece = f"{name}_s{number}" if count > 1 else name
                found += [Member(piece + view, trial=name, place=(path, number, count)) for view in self.views]
        return found

    def read(self, member: Member) -> Recording:
        """A piece of a take as one camera saw it; all pieces are equally long, within a frame."""
        path, number, count = member.place
        if self._last is None or self._last[0] != path:  # its other pieces are asked for next
            self._last = (path, self.read_take(path))
        take, stem = self._last[1], self.stem(path)
        piece = take[round(len(take) * number / count) : round(len(take) * (number + 1) / count)]
        texts = self.given(*self.caption_names(member), path=str(path)) or (neutral_caption(stem),)
        return self.observed(member.id, texts, piece)

    def caption_names(self, member: Member) -> Sequence[str]:
        """Its trial's, and the part of its file's name that describes the motion."""
        return member.trial, self.stem(member.place[0])

    def stem(self, path: Path) -> str:
        """The part of a file's name that describes its motion."""
        return path.stem

    @cached_property
    def takes(self) -> Mapping[Path, str]:
        """The files with an id for each: the stem, or the path where stems repeat.

        Letters that an id cannot have become `_`. Links that lead out of the folder are left out and reported.
        """
        folder = Path(self.source)
        found = sorted(p for p in folder.rglob("*") if p.suffix.lower() == self.ending and p.is_file())
        outside = [path for path in found if files.leads_out(str(path), str(folder))]
        for path in outside:
            self.refused[str(path)] = (
                f"expected a file inside {folder}, found a link that leads out of it. Copy the file there."
            )
        inside = [path for path in found if path not in outside]
        stems = [plain_name(path.stem) for path in inside]
        times, named = Counter(stems), dict[str, Path]()
        for path, stem in zip(inside, stems, strict=True):
            name = stem if times[stem] == 1 else plain_name("_".join(path.relative_to(folder).with_suffix("").parts))
            while name in named:
                name += "_"
            named[name] = path
        return {path: name for name, path in named.items()}


def plain_name(name: str) -> str:
    """A name as an id: letters that none can have become `_`."""
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", name)
    return plain if re.match(r"[A-Za-z0-9_]", plain) else f"_{plain}"


def neutral_caption(stem: str) -> str:
    """A caption of the words in a file's name: `Aeroplane_FW2` gives "a person moves: aeroplane fw."."""
    words = " ".join(re.findall(r"[^\W\d_]{2,}", words_in(stem)))
    return f"a person moves: {words}." if words else "a person moves."


def y_up(positions: Tensor) -> Tensor:
    """Positions [..., 3] of a world with z up in one with y up: (x, y, z) becomes (x, z, -y)."""
    x, y, z = positions.unbind(-1)
    return torch.stack((x, z, -y), -1)


def read_results(folder: str, names: tuple[str, ...], *joints: int) -> tuple[str, Tensor]:
    """The first of these names that has a file DIR/NAME.npy, or DIR/NAME.npz with `joints`, and its [T, J, 3].

    J is one of `joints`. DatasetError where there is none, or where it is of another shape or has gaps.
    """
    places = [(n, bf.join(folder, files.checked_id(n, folder) + ending)) for n in names for ending in (".npy", ".npz")]
    name, place = next(((n, place) for n, place in places if bf.exists(place)), ("", ""))
    if not name:
        raise DatasetError(
            f"{folder}: expected {names[0]}.npy [T, {joints[0]}, 3], what the lifter made of this clip, found none. "
            "Lift the clip, or leave it out."
        )
    single = place.endswith(".npy")
    stored = files.read_array(place) if single else files.read_arrays(place, needed=("joints",))["joints"]
    positions = torch.from_numpy(stored)
    fits = positions.ndim == 3 and positions.shape[1] in joints and positions.shape[2] == 3
    if not fits or not bool(torch.isfinite(positions).all()):
        raise DatasetError(
            f"{place}: expected joints [T, {' or '.join(map(str, joints))}, 3] without gaps, found "
            f"{list(positions.shape)} or NaN. Write the lifter's joints in the skeleton's order."
        )
    return name, positions


def as_long_as(lifted: Tensor, frames: int, place: str) -> Tensor:
    """Results for `frames` frames, of which the last may be missing: the motion then goes on as it was going."""
    if len(lifted) == frames - 1 and frames > 2:
        lifted = torch.cat((lifted, 2 * lifted[-1:] - lifted[-2:-1]))
    if len(lifted) != frames:
        raise DatasetError(
            f"{place}: expected {frames - 1} or {frames} frames, as the clip has, found {len(lifted)}. "
            "Lift the same frames at the same rate."
        )
    return lifted


def placed(lifted: Tensor, frame: str, extrinsics: Tensor) -> Tensor:
    """Positions [T, J, 3] of a lifter in the world of the camera [3, 4] or [T, 3, 4]."""
    if frame == "world":
        return lifted
    return to_world(lifted, extrinsics if extrinsics.ndim == 3 else extrinsics.unsqueeze(0))


def lifter_name(folder: str, given: str) -> str:
    """What the card calls the lifter: as given, else after the folder."""
    name = given or re.sub(r"[^a-z0-9_-]+", "-", bf.basename(folder.rstrip("/")).lower()).strip("-_")
    return files.checked_id(name or "lifted", folder)
