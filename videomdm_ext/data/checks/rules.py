"""The rulebook of a clip in one table (`KINDS`): errors, which `data check` reports and reading refuses, and warnings.

An error is surely wrong. What a person may do, a lifter or a detector may get wrong, or somebody may mean is a warning.
Bounds of errors are far outside of what 102 clips of walking, running and jumping, 180 of acrobatics, 154 films watched
by MediaPipe and a lifter with 90 mm of error show.
"""

import functools
import hashlib
import inspect
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from videomdm_ext.data.checks import motion
from videomdm_ext.data.checks.motion import (
    ERROR,
    WARNING,
    Image,
    Positions,
    check_bones,
    check_facing,
    check_floor,
    check_jumps,
    check_sides,
    check_still,
    check_stride,
    compare,
)
from videomdm_ext.data.clip import MIN_FRAMES, Clip
from videomdm_ext.data.files import Array
from videomdm_ext.errors import CONTROL, DatasetError
from videomdm_ext.geometry.cameras import is_rotation
from videomdm_ext.motion.features import channels, decode
from videomdm_ext.motion.kinematics import RAW, HeadingRule
from videomdm_ext.motion.skeletons import Skeleton

WHOLE = ""  # the clip id of findings about the whole set
MOTIONS = {"teacher": "extrinsics", "truth": "truth_extrinsics"}  # each motion and its camera
ARRAYS = ("teacher", "points", "confidence", "extrinsics", "truth", "truth_extrinsics")
SAID = {"points": "keypoints"}  # what messages call an array
ABSURD = 1e8  # no metre, millimetre, pixel or z-score is as large; what is counts as infinite
LONGEST_CAPTION = 2000
WIDEST_IMAGE = 5.0
"""Largest |u| or |v| of a keypoint on the normalised plane: 79 degrees off the axis; pixels are far beyond it."""
LEG = 0.83  # metres from hip to ankle along the bones, of an adult
IMPOSSIBLE_LEG, UNUSUAL_LEG = (0.2, 4.0), (0.55, 1.35)
UNITS = {0.001: "kilometres", 0.0254**-1: "inches", 100.0: "centimetres", 1000.0: "millimetres"}
ALIKE = "teacher and truth alike, so it is the keypoints or both cameras"
"""What is wrong with both motions' projections is wrong with the keypoints, or with both cameras."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a clip, or with the whole set where `clip_id` is empty."""

    clip_id: str
    kind: str
    message: str
    level: str = ERROR

    @property
    def title(self) -> str:
        """What it is."""
        return KINDS[self.kind].title

    @property
    def advice(self) -> str:
        """What to do."""
        return KINDS[self.kind].advice

    def to_json(self) -> dict[str, str]:
        return {**asdict(self), "advice": self.advice}


@dataclass
class Sight:
    """A clip under examination: its arrays as they are, those that are `sound` so far, and its decoded motions.

    `arrays` are those of ARRAYS that there are; `texts` is None where captions could not be read. With `refusing`, only
    errors are looked for.
    """

    clip_id: str
    skeleton: Skeleton
    fps: float
    arrays: dict[str, Array]
    texts: tuple[str, ...] | None
    rule: HeadingRule = RAW
    own_fps: float | None = None
    refusing: bool = False
    sound: dict[str, Array] = field(default_factory=dict)
    moved: dict[str, Positions] = field(default_factory=dict)
    stride: float | None = None
    findings: list[Finding] = field(default_factory=list)

    def add(self, kind: str, message: str, level: str = ERROR) -> None:
        self.findings.append(Finding(self.clip_id, kind, message, level))


def validate(clip: Clip, *, fps: float) -> None:
    """Refuse a clip with an error: DatasetError names it, the kind of error, what was found, and what to do."""
    for item in errors_of(clip, fps=fps):
        plain = item.message.startswith("expected")
        said = item.message if plain else f"expected a clip without {item.title}, found {item.message}"
        raise DatasetError(f"{clip.label}: {said} ({item.kind}). {item.advice}")


def errors_of(clip: Clip, *, fps: float | None = None) -> list[Finding]:
    """What is surely wrong with a clip; its frame rate too, where `fps` is that of its set."""
    arrays = {name: values for name in ARRAYS if (values := getattr(clip, SAID.get(name, name))) is not None}
    sight = Sight(clip.id, clip.skeleton, fps or clip.fps, arrays, clip.texts, own_fps=clip.fps, refusing=True)
    examine(sight)
    return [item for item in sight.findings if item.level == ERROR]


def examine(sight: Sight) -> None:
    """Apply the rules in order, or those of errors alone; findings and what is sound are stored in `sight`."""
    sight.sound = dict(sight.arrays)
    rules = [kind.function for kind in KINDS.values() if kind.function and (kind.level == ERROR or not sight.refusing)]
    for rule in dict.fromkeys(rules):
        rule(sight)


@functools.cache
def version() -> str:
    """A hash of the rules themselves: what others found does not count."""
    source = inspect.getsource(motion) + Path(__file__).read_text(encoding="utf-8")
    return hashlib.sha256(source.encode()).hexdigest()


# -- what the arrays show by themselves --------------------------------------------------------------------------------


def _pair(sight: Sight) -> None:
    if "extrinsics" in sight.arrays and ("truth" in sight.arrays) != ("truth_extrinsics" in sight.arrays):
        sight.add("missing-file", "expected a true motion with truth_extrinsics, its camera, found only one of the two")
    if sight.own_fps is not None and not math.isclose(sight.own_fps, sight.fps, rel_tol=1e-3):
        sight.add("rate", f"expected {sight.fps:g} fps, found {sight.own_fps:g} fps")


def _captions(sight: Sight) -> None:
    if sight.texts is None:
        return
    if not sight.texts:
        sight.add("caption-missing", "expected at least one caption, found none")
    for text in sight.texts:
        if not text.strip():
            sight.add("caption-missing", "expected captions with words, found an empty text")
        if "#" in text or CONTROL.search(text):
            what = "expected captions without '#', line breaks and control characters"
            sight.add("caption-format", f"{what}, found {text[:60]!r}")
        if len(text) > LONGEST_CAPTION:
            what = f"expected captions of at most {LONGEST_CAPTION} characters, found one of {len(text)}"
            sight.add("caption-format", f"{what}: {text[:60]!r}")


def _shapes(sight: Sight) -> None:
    joints, width = sight.skeleton.num_joints, sight.skeleton.num_features
    last = {"teacher": (width,), "truth": (width,), "points": (joints, 2), "confidence": (joints,)}
    for name, values in sight.arrays.items():
        shape = last.get(name, (3, 4))
        if values.shape[1:] == shape and values.ndim == len(shape) + 1:
            continue
        if name in MOTIONS.values() and values.shape == shape:
            continue
        sight.sound.pop(name)
        of = f" of {sight.skeleton.name} ({joints} joints)" if name in last else " or [3, 4]"
        found = str(list(values.shape))
        if name in MOTIONS and values.ndim > 1:
            count, rest = divmod(values.shape[1] + 1, 12)
            found = f"{values.shape[1]} channels" + (", of no skeleton" if rest else f" ({count} joints)")
        elif name in last and values.ndim > 1:
            found = f"{values.shape[1]} joints, {found}"
        sight.add("channels", f"expected {SAID.get(name, name)} [T, {str(list(shape))[1:]}{of}, found {found}")


def _lengths(sight: Sight) -> None:
    still = {name for name in MOTIONS.values() if name in sight.sound and sight.sound[name].ndim == 2}
    lengths = {name: len(values) for name, values in sight.sound.items() if name not in still}
    if not lengths:
        return
    counts = list(lengths.values())
    usual = max(counts, key=lambda length: (counts.count(length), length))
    for name, length in lengths.items():
        if length != usual:
            what = f"expected {SAID.get(name, name)} as long as the others"
            sight.add("lengths", f"{what}, {usual} frames, found {length}")
            sight.sound.pop(name)
    if usual < MIN_FRAMES:
        sight.add("too-short", f"expected at least {MIN_FRAMES} frames, found {usual}")
        sight.sound.clear()


def _numbers(sight: Sight) -> None:
    for name, values in list(sight.sound.items()):
        bad: NDArray[np.bool_] = ~(np.abs(values) < ABSURD)
        if name == "points" and "confidence" in sight.sound:
            bad = bad & ~(sight.sound["confidence"] == 0)[..., None]
        if bad.any():
            first = tuple(np.argwhere(bad)[0].tolist())
            what = f"{int(bad.sum())} NaN or infinite of {bad.size}, the first at {first}"
            sight.add("not-a-number", f"expected numbers in {SAID.get(name, name)}, found {what}")
            sight.sound.pop(name)


def _confidence(sight: Sight) -> None:
    confidence = sight.sound.get("confidence")
    if confidence is None:
        return
    outside = (confidence < 0) | (confidence > 1)
    teacher, truth = sight.sound.get("teacher"), sight.sound.get("truth")
    if outside.any():
        first = tuple(np.argwhere(outside)[0].tolist())
        sight.add("confidence", f"expected confidence from 0 to 1, found {confidence[first]:g} at {first}")
    elif (confidence > 0).any():
        seen = float((confidence > 0.1).mean())
        if seen < 0.2:
            sight.add("confidence", f"only {100 * seen:.0f} % of the keypoints have a confidence above 0.1", WARNING)
        return
    elif teacher is None or truth is None or not np.array_equal(teacher, truth):
        what = "found none; motion that no camera saw needs the truth as its teacher"
        sight.add("confidence", f"expected keypoints with a confidence above 0, {what}")
    sight.sound.pop("confidence")


def _cameras(sight: Sight) -> None:
    for name in MOTIONS.values():
        if name not in sight.sound:
            continue
        good = is_rotation(torch.tensor(sight.sound[name])).reshape(-1).numpy()
        if good.all():
            continue
        rotation = sight.sound.pop(name).reshape(-1, 3, 4)[int(good.argmin()), :, :3].astype(np.float64)
        determinant = float(np.linalg.det(rotation))
        square = bool(np.abs(rotation @ rotation.T - np.eye(3)).max() < 1e-2)
        found = f"one with determinant {determinant:.3f} in matrix {int(good.argmin())} of {len(good)}"
        kind = "camera-mirrored" if square and determinant < 0 else "camera-rotation"
        sight.add(kind, f"expected a rotation in {name}, found {found}")


def _image_plane(sight: Sight) -> None:
    if not {"points", "confidence"} <= set(sight.sound):
        return
    reach = np.where(sight.sound["confidence"] > 0, np.abs(sight.sound["points"]).max(-1), 0)
    far = reach > WIDEST_IMAGE
    if not far.any():
        return
    first = tuple(np.argwhere(far)[0].tolist())
    at = f"{np.round(sight.sound['points'][first], 3).tolist()} at frame and joint {first}"
    what = f"expected keypoints within +-{WIDEST_IMAGE:g} on the normalised image plane, found"
    if np.median(reach[sight.sound["confidence"] > 0]) > WIDEST_IMAGE:
        sight.add("pixels", f"{what} {at}, and most of the others beyond; are the intrinsics still in them?")
        sight.sound.pop("points")
    else:
        sight.add("out-of-view", f"{what} {int(far.sum())} beyond, the first {at}")


def _sizes(sight: Sight) -> None:
    """Decode raw features [T, D]; they are raw, and of a person in metres."""
    for name in MOTIONS:
        if name not in sight.sound:
            continue
        features = sight.sound[name]
        columns = features[:, channels(sight.skeleton).rotations].reshape(len(features), -1, 2, 3)
        off = float((np.abs(np.linalg.norm(columns, axis=-1) - 1) > 0.2).mean())
        if off >= 0.25:  # rotation channels are two columns of length 1; nothing else has such
            what = f"{100 * off:.0f} % of the rotation columns not of length 1"
            sight.add("z-scored", f"expected raw features in {name}, found {what}")
            continue
        positions = decode(torch.from_numpy(features.astype(np.float64)), sight.skeleton).numpy()
        joint = {name: positions[:, number] for number, name in enumerate(sight.skeleton.joints)}
        bones = [(f"{side}_{a}", f"{side}_{b}") for side in "lr" for a, b in (("hip", "knee"), ("knee", "ankle"))]
        lengths = np.array([np.linalg.norm(joint[a] - joint[b], axis=-1) for a, b in bones])
        legs = float(np.median([lengths[0] + lengths[1], lengths[2] + lengths[3]]))
        if IMPOSSIBLE_LEG[0] < legs < IMPOSSIBLE_LEG[1]:
            sight.moved[name] = positions
            if not UNUSUAL_LEG[0] < legs < UNUSUAL_LEG[1]:
                sight.add("units", f"{name}: legs of {legs:.2f} m, adults have {LEG:.2f}", WARNING)
            continue
        factor, guess = min(UNITS.items(), key=lambda item: abs(math.log(max(legs, 1e-9) / (LEG * item[0]))))
        fits = abs(math.log(max(legs, 1e-9) / (LEG * factor))) < 0.5
        what = f"legs of {legs:.4g} m" + (f" ({guess}?)" if fits else "")
        sight.add("units", f"expected a person in metres, with legs of about {LEG:.2f} m, in the {name}, found {what}")


# -- what motion, camera and keypoints show together ------------------------------------------------------------------


def _against_image(sight: Sight) -> None:
    points, confidence = sight.sound.get("points"), sight.sound.get("confidence")
    if points is None or confidence is None:
        return
    seen = {name: camera for name, camera in MOTIONS.items() if name in sight.moved and camera in sight.sound}
    image = Image.of(points, confidence)
    if not sight.refusing and bool(((points[1:] == points[:-1]).all(-1) | (confidence[1:] == 0)).all()):
        sight.add("frozen", "keypoints: the same in every frame", WARNING)
    told = {
        name: compare(sight.moved[name], sight.sound[camera], image, sight.skeleton, refusing=sight.refusing)
        for name, camera in seen.items()
    }
    wrong = {name: item for name, item in told.items() if item is not None}
    if any(kind == "up-axis" for kind, *_ in wrong.values()):
        sight.findings = [item for item in sight.findings if item.kind not in ("floor", "facing")]
    if len(wrong) == 2 and wrong["teacher"][0] == wrong["truth"][0]:
        kind, message, level = wrong["teacher"]
        wrong = {ALIKE: (kind, message, level)}
    for name, (kind, message, level) in wrong.items():
        # a detector may fail, and the teacher with it, as it was made of the keypoints; not if it is off itself
        failed = kind in ("reprojection", "up-axis") and name == "truth"
        part = "keypoints" if kind == "left-right-flips" and name != "teacher" else name  # a truth exchanges no sides
        sight.add(kind, f"{part}: {message}", WARNING if failed else level)


@dataclass(frozen=True)
class Kind:
    """A kind of damage: the level at which it is reported at most, the function that looks for it, what it is, what to
    do."""

    level: str
    function: Callable[[Sight], None] | None
    title: str
    advice: str


KINDS: dict[str, Kind] = {
    # kind: level, what looks for it, what it is, what to do
    "card": Kind(ERROR, None, "a card that cannot be used", "Make the data set again, or correct dataset.json."),
    "unfinished": Kind(ERROR, None, "an import that was interrupted", "Start the same import again; it goes on."),
    "card-counts": Kind(ERROR, None, "counts on the card that do not fit the split lists", "Make the data set again."),
    "card-hash": Kind(ERROR, None, "files changed after the card was written",
        "Make the data set again, so that runs can name it."),
    "splits": Kind(ERROR, None, "a split list that is missing or empty",
        "Correct the list, one id a line."),
    "split-twice": Kind(ERROR, None, "an id that is listed twice", "Leave it in one place of one list."),
    "split-leak": Kind(WARNING, None, "one trial on two sides of the split",
        "Split by trial: move all of its clips to one side."),
    "not-listed": Kind(WARNING, None, "a clip in no split", "List it in a split, or remove its files."),
    "orphan-file": Kind(WARNING, None, "a file that belongs to no whole clip",
        "Remove it, or make the clip's other files."),
    "bad-name": Kind(ERROR, None, "a name that is no id", "Rename the clip: letters, digits, '_', '-' and '.'."),
    "link-out": Kind(ERROR, None, "a link that leads out of the folder", "Copy the file into the folder."),
    "empty-file": Kind(ERROR, None, "a file without content", "Make the clip again, or leave it out."),
    "corrupt-file": Kind(ERROR, None, "a file that cannot be read", "Make the clip again, or leave it out."),
    "pickle": Kind(ERROR, None, "a pickle, which would run a program when loaded",
        "Do not load it with anything; make the file again."),
    "missing-file": Kind(ERROR, _pair, "a file that is not there", "Make the clip again, or leave it out."),
    "rate": Kind(ERROR, _pair, "another frame rate than the card's",
        "Resample the motion and its 2D keypoints together."),
    "caption-missing": Kind(ERROR, _captions, "no caption, or an empty one", "Write one, or leave the clip out."),
    "caption-format": Kind(ERROR, _captions, "a line that is no caption",
        "Write caption#word/TAG ...#0.0#0.0, a sentence without '#' as the caption."),
    "caption-encoding": Kind(ERROR, None, "a caption in another encoding", "Save the file as UTF-8."),
    "channels": Kind(ERROR, _shapes, "a wrong number of channels or joints",
        "Re-import it with the skeleton that it has."),
    "lengths": Kind(ERROR, _lengths, "lengths that differ",
        "Cut teacher, truth, keypoints and camera to the same frames."),
    "too-short": Kind(ERROR, _lengths, "a clip of too few frames", "Leave it out."),
    "not-a-number": Kind(ERROR, _numbers, "NaN or infinite numbers",
        "Make the clip again; keypoints not found get confidence 0."),
    "confidence": Kind(ERROR, _confidence, "confidence that cannot be used",
        "Scale the detector's scores to 0 to 1; leave out clips of zeros."),
    "camera-rotation": Kind(ERROR, _cameras, "a camera whose matrix is not a rotation",
        "Give [R | t] without intrinsics or scale."),
    "camera-mirrored": Kind(ERROR, _cameras, "a camera whose matrix mirrors",
        "Turn two axes, not one: x right, y down, z forward."),
    "pixels": Kind(ERROR, _image_plane, "keypoints in pixels",
        "Remove the intrinsics from them: (u - cx) / fx, (v - cy) / fy."),
    "out-of-view": Kind(ERROR, _image_plane, "single keypoints far out of any view",
        "Give keypoints that were not found confidence 0."),
    "z-scored": Kind(ERROR, _sizes, "features that are not raw", "Store raw features: undo (x - Mean) / Std."),
    "units": Kind(ERROR, _sizes, "a person of a wrong size",
        "Give metres, not millimetres or centimetres, then make the features again."),
    "left-right": Kind(ERROR, _against_image, "left and right exchanged",
        "Exchange the left and right joints of the part that is named."),
    "backwards": Kind(WARNING, check_sides, "toes or nose that point backwards",
        "Look at it with data show: somebody kneels, left is right, or near is far."),
    "facing": Kind(WARNING, check_facing, "a first frame that does not face +z",
        "Make the clip canonical: pelvis over the origin, facing +z."),
    "floor": Kind(WARNING, check_floor, "a floor far from y = 0", "Move the source's world: its floor is at y = 0."),
    "frozen": Kind(WARNING, check_still, "a person or a detector that never moves",
        "Look at it with data show; leave it out."),
    "teleport": Kind(ERROR, check_jumps, "a jump that nobody can make", "Cut the clip there, or leave it out."),
    "speed": Kind(WARNING, check_stride, "movements too quick or too slow",
        "Is the frame rate right? Resample to the card's fps, or correct it."),
    "bones": Kind(WARNING, check_bones, "bones that change their length",
        "Look at it with data show; leave it out if the lifter failed."),
    "camera-units": Kind(ERROR, _against_image, "a camera too far away or at the person",
        "Give the translation in metres, in the clip's frame."),
    "camera-inverse": Kind(ERROR, _against_image, "a camera given the other way round (camera to world)",
        "Invert it: X_camera = R X + t is expected."),
    "behind": Kind(ERROR, _against_image, "a person behind the camera",
        "Point the camera's z forward: an OpenGL camera looks along -z."),
    "flipped-u": Kind(ERROR, _against_image, "an image mirrored left to right",
        "u grows to the right; a mirrored video must be mirrored back."),
    "flipped-v": Kind(ERROR, _against_image, "an image upside down",
        "v grows downwards: change the sign of v, or the camera's y axis."),
    "rolled": Kind(ERROR, _against_image, "an image turned by 180 degrees",
        "Axes are x right, y down; some programs use left and up."),
    "left-right-flips": Kind(WARNING, _against_image, "left and right exchanged in some frames",
        "Look at it with data show; leave it out if bad."),
    "reprojection": Kind(ERROR, _against_image, "2D that does not belong to its camera or motion",
        "Look at it with data show, then leave it out."),
    "up-axis": Kind(ERROR, _against_image, "a world in which y is not up",
        "Turn the source's world so that y is up, then import again."),
    "duplicate": Kind(WARNING, None, "the same clip under two ids", "Keep one of them."),
    "near-duplicate": Kind(WARNING, None, "two clips that hardly differ",
        "Keep one of them, unless the difference is meant."),
    "statistics": Kind(ERROR, None, "Mean or Std that do not fit the clips",
        "Make the data set again; they are of the training split."),
    "outdated": Kind(WARNING, None, "refined teachers that are not of these clips and this version",
        "Make them anew with that command; a training does so first."),
}  # fmt: skip
"""In the order in which functions look; what has none is found in the files or in the whole set (`checking`)."""
