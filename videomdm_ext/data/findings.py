"""What the check of a data set can find: kinds of damage, each with what it means and what to do, and the result."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

ERROR, WARNING = "error", "warning"
WHOLE = ""
"""The clip id of findings about the whole set."""
FILES = ("teacher", "truth", "keypoints", "camera", "texts")
"""Kinds of file of a clip."""
STATES = ("found", "missing", "empty", "corrupt")

KINDS: dict[str, tuple[str, str]] = {
    # kind: (what it is, what to do)
    "card": ("a card that cannot be used", "Make the data set again, or correct dataset.json."),
    "unfinished": ("an import that was interrupted", "Start the same import again; it goes on."),
    "card-counts": ("counts on the card that do not fit the split lists", "Make the data set again."),
    "card-hash": ("files changed after the card was written", "Make the data set again, so that runs can name it."),
    "splits": ("a split list that is missing, empty or unreadable", "Correct the list, one id a line."),
    "split-twice": ("an id that is listed twice", "Leave it in one place of one list."),
    "split-leak": ("one trial on two sides of the split", "Split by trial: move all of its clips to one side."),
    "not-listed": ("a clip in no split", "List it in a split, or remove its files."),
    "orphan-file": ("a file that belongs to no whole clip", "Remove it, or make the clip's other files."),
    "bad-name": ("a name that is no id", "Rename the clip: letters, digits, '_', '-' and '.'."),
    "link-out": ("a link that leads out of the folder", "Copy the file into the folder."),
    "missing-file": ("a file that is not there", "Make the clip again, or leave it out."),
    "empty-file": ("a file without content", "Make the clip again, or leave it out."),
    "corrupt-file": ("a file that cannot be read", "Make the clip again, or leave it out."),
    "pickle": ("a pickle, which would run a program when loaded", "Do not load it with anything; make the file again."),
    "channels": ("a wrong number of channels or joints", "Re-import it with the skeleton that it has."),
    "lengths": ("lengths that differ", "Cut teacher, truth, keypoints and camera to the same frames."),
    "not-a-number": ("NaN or infinite numbers", "Make the clip again; keypoints not found get confidence 0."),
    "confidence": (
        "confidence that cannot be used",
        "Scale the detector's scores to 0 to 1; leave out clips of zeros.",
    ),
    "camera-rotation": ("a camera whose matrix is not a rotation", "Give [R | t] without intrinsics or scale."),
    "camera-mirrored": ("a camera whose matrix mirrors", "Turn two axes, not one: x right, y down, z forward."),
    "camera-units": ("a camera too far away or at the person", "Give the translation in metres, in the clip's frame."),
    "camera-inverse": (
        "a camera given the other way round (camera to world)",
        "Invert it: X_camera = R X + t is expected.",
    ),
    "behind": ("a person behind the camera", "Point the camera's z forward: an OpenGL camera looks along -z."),
    "pixels": ("keypoints in pixels", "Remove the intrinsics from them: (u - cx) / fx, (v - cy) / fy."),
    "out-of-view": ("single keypoints far out of any view", "Give keypoints that were not found confidence 0."),
    "flipped-u": ("an image mirrored left to right", "u grows to the right; a mirrored video must be mirrored back."),
    "flipped-v": ("an image upside down", "v grows downwards: change the sign of v, or the camera's y axis."),
    "rolled": ("an image turned by 180 degrees", "Axes are x right, y down; some programs use left and up."),
    "left-right": ("left and right exchanged", "Exchange the left and right joints of the part that is named."),
    "left-right-flips": ("left and right exchanged in some frames", "Look at it with data show; leave it out if bad."),
    "reprojection": (
        "2D that does not belong to its camera or motion",
        "Look at it with data show, then leave it out.",
    ),
    "units": ("a person of a wrong size", "Give metres, not millimetres or centimetres, then make the features again."),
    "z-scored": ("features that are not raw", "Store raw features: undo (x - Mean) / Std."),
    "up-axis": ("a world in which y is not up", "Turn the source's world so that y is up, then import again."),
    "facing": ("a first frame that does not face +z", "Make the clip canonical: pelvis over the origin, facing +z."),
    "floor": ("a floor far from y = 0", "Move the source's world so that its floor is at y = 0."),
    "too-short": ("a clip of too few frames", "Leave it out."),
    "frozen": ("a person or a detector that never moves", "Look at it with data show; leave it out."),
    "teleport": ("a jump that nobody can make", "Cut the clip there, or leave it out."),
    "bones": ("bones that change their length", "Look at it with data show; leave it out if the lifter failed."),
    "speed": ("movements too quick or too slow", "Is the frame rate right? Resample to the card's fps, or correct it."),
    "caption-missing": ("no caption, or an empty one", "Write one, or leave the clip out."),
    "caption-format": ("a line that is no caption", "Write caption#word/TAG ...#0.0#0.0, no '#' in the caption."),
    "caption-encoding": ("a caption in another encoding", "Save the file as UTF-8."),
    "duplicate": ("the same clip under two ids", "Keep one of them."),
    "near-duplicate": ("two clips that hardly differ", "Keep one of them, unless the difference is meant."),
    "statistics": ("Mean or Std that do not fit the clips", "Make the data set again; they are of the training split."),
    "refused": ("a clip that training refuses", "See the message."),
}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a clip, or with the whole set where `clip_id` is empty."""

    clip_id: str
    kind: str
    message: str
    level: str = ERROR

    @property
    def advice(self) -> str:
        """What to do."""
        return KINDS[self.kind][1]

    def to_json(self) -> dict[str, str]:
        return {**asdict(self), "advice": self.advice}


Counts = dict[str, dict[str, int]]
"""How many files of each kind are in each state."""


@dataclass(frozen=True)
class Checked:
    """The result of a check: clips looked at, files by kind and state, findings, and clips known from the cache."""

    path: str
    clips: int
    counts: Counts
    findings: tuple[Finding, ...]
    cached: int = 0

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(item for item in self.findings if item.level == ERROR)

    @property
    def warnings(self) -> tuple[Finding, ...]:
        return tuple(item for item in self.findings if item.level == WARNING)

    @property
    def bad_clips(self) -> tuple[str, ...]:
        """Ids of clips with an error, each once, in order."""
        return tuple(dict.fromkeys(item.clip_id for item in self.errors if item.clip_id != WHOLE))

    def to_json(self) -> str:
        """The text that --json prints."""
        content: dict[str, Any] = {"path": self.path, "clips": self.clips, "cached": self.cached, "files": self.counts}
        content |= {"errors": len(self.errors), "warnings": len(self.warnings), "bad_clips": list(self.bad_clips)}
        content["findings"] = [item.to_json() for item in self.findings]
        return json.dumps(content, indent=2)


@dataclass(frozen=True)
class Report:
    """What the look at one clip gave: findings, and the facts about it that the look at the whole set needs."""

    findings: tuple[Finding, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)


def counted(count: int, name: str) -> str:
    """`1 error`, `2 errors`."""
    return f"{count} {name}" + ("" if count == 1 else "s")


def by_kind(findings: Iterable[Finding]) -> dict[tuple[str, str], list[Finding]]:
    """Findings by level and kind, errors first, in the order of KINDS."""
    order = {kind: number for number, kind in enumerate(KINDS)}
    groups: dict[tuple[str, str], list[Finding]] = {}
    for item in sorted(findings, key=lambda item: (item.level != ERROR, order[item.kind])):
        groups.setdefault((item.level, item.kind), []).append(item)
    return groups


def stored(entries: Sequence[Any], clip_id: str) -> tuple[Finding, ...] | None:
    """Findings of a clip from a cache; None where an entry is none."""
    made = []
    for entry in entries:
        if not (isinstance(entry, list) and len(entry) == 3 and all(isinstance(part, str) for part in entry)):
            return None
        kind, message, level = entry
        if kind not in KINDS or level not in (ERROR, WARNING):
            return None
        made.append(Finding(clip_id, kind, message, level))
    return tuple(made)
