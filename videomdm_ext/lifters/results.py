"""Lifters that ran elsewhere: an adapter finds what they wrote about a clip, and takes it into the clip's world.

DIR/ID.npy, DIR/ID.npz or a file that the tool itself writes, by default in a folder DIR/ID. What the files hold is the
adapter's `Description`; files that do not fit are refused. Of a video, whose name takes the place of ID, `people` gives
everybody in a file (data/video/lifted.py).
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from videomdm_ext.data import files
from videomdm_ext.data.motions import resample
from videomdm_ext.data.video import placing
from videomdm_ext.data.video.lifted import Person
from videomdm_ext.data.video.placing import agreement, stand
from videomdm_ext.errors import ConfigError, DatasetError
from videomdm_ext.geometry.cameras import to_camera, to_world
from videomdm_ext.geometry.rotations import yaw_matrix
from videomdm_ext.lifters.base import Lifter, LifterInfo
from videomdm_ext.motion.joint_maps import LAYOUTS, LIFTERS, can_map, to_skeleton
from videomdm_ext.motion.kinematics import bone_lengths
from videomdm_ext.motion.skeletons import SMPL22, Skeleton

SMALLEST, LARGEST = 0.6, 1.6  # sizes of a person against the usual one that metres may show
ALIKE = 0.5  # correlation of lifted poses with the keypoints, at least
STANDING, UNSURE = 0.7, 0.85
"""Cosine of a body and an axis from which it stands along it; correlation under which it is asked whether it should."""
MIRRORED = 0.1  # by so much the correlation may be better with left and right exchanged
OFF = 2.0  # of a person's size in the image, the distance between lifted joints and keypoints at most
LIMBS = {"knee": 0.422, "ankle": 0.410, "elbow": 0.275, "wrist": 0.259}
"""Metres of thigh, shank, upper arm and forearm by the joint at their end: the bundled motions' means."""
SMOOTHED = 0.15  # seconds, standard deviation of the filter over the depth of a person whom keypoints place
_ID = re.compile(r"\w[\w. -]*")
_AXES = "xyz"
SKELETONS = tuple(layout.name for layout in LIFTERS)
UNITS = {"m": 1.0, "cm": 0.01, "mm": 0.001}  # metres in each
UP_AXES = {"camera": ("-y", "y"), "world": ("y", "z", "-y"), "own": ("y", "z", "-y")}
"""Of each frame: the camera's axes (y down as OpenCV's, or up, with z towards the viewer then), the clip's own world,
or a level world of the lifter's, turned and moved against the clip's."""
SCALES = ("metric", "arbitrary")
ROOTS = ("absolute", "relative")
OPTIONS = {
    "skeleton": f"joints of the files: {', '.join(SKELETONS)}",
    "units": f"of the files: {', '.join(UNITS)}",
    "up": "their upward axis: y, z or -y; -y for a camera with y down",
    "fps": "frames per second of the files, by default those of the clip",
    "frame": "camera, world for the clip's own world, own for a level world of the lifter's",
    "scale": "metric, or arbitrary: fixed by the lengths of arms and legs",
    "root": "absolute, or relative: placed by the 2D keypoints",
}
"""Keys of options that change a description, each with a line of help."""


@dataclass(frozen=True)
class Description:
    """What the files of a lifter hold. `fps` is None where they follow the clip frame by frame."""

    skeleton: str
    units: str = "m"
    up_axis: str = "-y"
    fps: float | None = None
    frame: str = "camera"
    scale: str = "metric"
    root: str = "absolute"

    def __post_init__(self) -> None:
        up = (self.up_axis, UP_AXES.get(self.frame, ()), f" of frame {self.frame}")
        for key, (found, expected, where) in {
            "skeleton": (self.skeleton, SKELETONS, ""), "units": (self.units, tuple(UNITS), ""),
            "frame": (self.frame, tuple(UP_AXES), ""), "up": up, "scale": (self.scale, SCALES, ""),
            "root": (self.root, ROOTS, ""),
        }.items():  # fmt: skip
            if found not in expected:
                expectation = f"expected one of {', '.join(expected)}{where}"
                raise ConfigError(f"{key} of the lifter: {expectation}, found {found!r}. Correct it.")
        if self.fps is not None and not (math.isfinite(self.fps) and self.fps > 0):
            raise ConfigError(f"fps of the lifter: expected a number above 0, found {self.fps:g}. Correct it.")
        if self.frame == "own" and self.root == "relative":
            raise ConfigError("root of the lifter: expected absolute with frame own, found relative. Choose another.")
        if self.frame == "world" and self.scale == "arbitrary" and self.root == "absolute":
            raise ConfigError(
                "scale of the lifter: expected metric with an absolute root in the clip's world, found arbitrary. "
                "Say root=relative, so that the keypoints place the person."
            )

    def changed(self, options: Mapping[str, str]) -> "Description":
        """The description with what options KEY=VALUE of `OPTIONS` say instead."""
        found: dict[str, object] = {{"up": "up_axis"}.get(key, key): value for key, value in options.items()}
        if "fps" in options:
            try:
                found["fps"] = float(options["fps"])
            except ValueError:
                found["fps"] = math.nan
        if "up" not in options and options.get("frame", self.frame) in UP_AXES:
            was, now = (frame == "camera" for frame in (self.frame, options.get("frame", self.frame)))
            if was != now:
                found["up_axis"] = "-y" if now else "y"
        return dataclasses.replace(self, **found)  # type: ignore[arg-type]

    @property
    def joints(self) -> int:
        """Joints of a pose in the files."""
        return len(LAYOUTS[self.skeleton].joints)

    def turned(self, positions: Tensor) -> Tensor:
        """Positions [..., 3] of the files in metres, a camera's with x right, y down, z forward, a world's y up.

        All axes stay right-handed. Units of an arbitrary scale mean nothing and are left alone.
        """
        if self.scale == "metric":
            positions = positions * UNITS[self.units]
        x, y, z = positions.unbind(-1)
        if self.up_axis == "z":
            return torch.stack((x, z, -y), -1)
        usual = "-y" if self.frame == "camera" else "y"
        return positions if self.up_axis == usual else torch.stack((x, -y, -z), -1)


class ResultsLifter(Lifter):
    """A folder of results as a lifter. A subclass names it, describes its files, and may read them in its own way."""

    name: ClassVar[str]
    description: Description
    changeable: ClassVar[tuple[str, ...]] = ("fps", "root")  # which of `OPTIONS` the user may change
    own: ClassVar[Mapping[str, str]] = {}  # further options KEY=VALUE of this adapter, each with a line of help
    endings: ClassVar[tuple[str, ...]] = (".npy", ".npz")  # of the files DIR/ID that it reads
    written: ClassVar[tuple[str, ...]] = ()  # files that it reads too, {} for the ID
    straight: ClassVar[bool] = False  # whether poses are as a camera sees them that looks straight at the person
    elsewhere: ClassVar[bool] = True  # it ran on what was exported, of a part of a clip on that alone
    options: ClassVar[Mapping[str, str]] = {}  # all keys that it takes, filled in by itself

    def __init_subclass__(cls) -> None:
        told = {key: OPTIONS[key] for key in cls.changeable}
        cls.options = {"results": f"folder of what {cls.name} made of the clips"} | told | dict(cls.own)

    def __init__(self, *, seed: int = 0, target: Skeleton = SMPL22, **options: str) -> None:
        """`target` is the skeleton to give; the options say what the files hold. Nothing is drawn from the seed."""
        wrong = sorted(set(options) - set(self.options))
        if wrong or not options.get("results"):
            expected = f"one that lifter {self.name} knows, {', '.join(self.options)}" if wrong else "the folder DIR"
            raise ConfigError(f"--option {wrong[0] if wrong else 'results=DIR'}: expected {expected}, found none.")
        self.folder = Path(options["results"])
        if not self.folder.is_dir():
            raise ConfigError(f"--option results={self.folder}: expected a folder, found none. Correct the path.")
        self.said = {key: options[key] for key in self.own if key in options}
        self.description = self.description.changed({key: options[key] for key in self.changeable if key in options})
        if not can_map(self.description.skeleton, target):
            raise ConfigError(
                f"lifter {self.name}: expected joints that {target.name} can be told from, found "
                f"{self.description.skeleton}. Choose another lifter."
            )
        self.info = LifterInfo(self.name, target)

    def read(self, path: Path) -> Tensor:
        """Positions [N, K, 3] of a file as it has them; here a .npy, or `joints` of a .npz."""
        if path.suffix == ".npy":
            return torch.from_numpy(files.read_array(str(path)))
        arrays = files.read_arrays(str(path), needed=(), optional=("joints", "fps"))
        if "joints" not in arrays:
            raise self.refuse(path, "an array `joints`", "none", "Write it, [T, J, 3].")
        self.check_rate(path, arrays)
        return torch.from_numpy(arrays["joints"])

    def positions(
        self, clip_id: str, keypoints: Tensor, confidence: Tensor, extrinsics: Tensor, fps: float, truth: Tensor | None
    ) -> Tensor:
        """The file's motion in the world of the clip, [T, J, 3], metres."""
        path = self.find(clip_id)
        found = self.read(path)
        self._check_shape(path, found)
        bad = ~torch.isfinite(found).all(-1).all(-1)
        if bool(bad.any()):
            what = f"NaN or infinity in {int(bad.sum())} frames, the first {int(bad.int().argmax())}"
            raise self.refuse(path, "numbers", what, "Run the lifter again, or cut the clip where it lost the person.")
        found = self._at_rate(path, self.description.turned(found.double()), len(keypoints), fps)
        found = to_skeleton(found, self.description.skeleton, self.info.skeleton)
        found = self._sized(path, found).to(keypoints.dtype)
        placed = self._placed(path, found, keypoints, confidence, extrinsics, fps)
        self._check_image(path, (found, placed), keypoints, confidence, extrinsics)
        return placed

    def _check_shape(self, path: Path, found: Tensor) -> None:
        joints = self.description.joints
        if found.ndim != 3 or tuple(found.shape[1:]) != (joints, 3) or len(found) < 2:
            expected = f"joints [T, {joints}, 3] of {self.description.skeleton}"
            raise self.refuse(path, expected, list(found.shape), f"Are these the results of {self.name}?")

    def find(self, clip_id: str) -> Path:
        """The file about a clip."""
        if not _ID.fullmatch(clip_id):
            raise self.refuse(self.folder, "an id of letters, digits, '_', '-' and '.'", repr(clip_id), "Rename it.")
        return self._found(self._places(clip_id), "Run the lifter on this clip, or leave it out.")[0]

    def _places(self, name: str) -> list[Path]:
        return [self.folder / f"{name}{ending}" for ending in self.endings] + [
            self.folder / pattern.format(name) for pattern in self.written
        ]

    def _found(self, places: Sequence[Path], advice: str) -> list[Path]:
        """Those of the places that have a file; DatasetError where none has."""
        if not (found := [place for place in places if place.is_file()]):
            expected = " or ".join(str(place.relative_to(self.folder)) for place in places)
            raise self.refuse(self.folder, expected, "none", advice)
        return found

    # -- videos --------------------------------------------------------------------------------------------------------

    def find_video(self, video: str, others: Iterable[str] = ()) -> Path:
        """The file about a video with this name, less its ending; DatasetError where there is none, or several.

        Some tools cut names at the first dot, which tells nothing where `others`, names of videos too, begin alike.
        """
        cut = video.partition(".")[0]
        rivals = [name for name in others if name != video and name.partition(".")[0] == cut]
        own = self._places(video)
        places = own if cut == video or rivals or any(map(Path.is_file, own)) else [*own, *self._places(cut)]
        found = self._found(places, f"Run {self.name} on the video {video}, and name the result after it.")
        if len(found) > 1:
            what = " and ".join(str(place.relative_to(self.folder)) for place in found)
            raise self.refuse(self.folder, f"one result of the video {video}", what, "Leave the right one there.")
        return found[0]

    def videos(self) -> dict[str, list[str]]:
        """Places of all results in the folder, by the names of the videos that they should be of."""
        found: dict[str, list[str]] = {}
        for pattern in (*(f"{{}}{ending}" for ending in self.endings), *self.written):
            before, _, after = pattern.partition("{}")
            for place in sorted(self.folder.glob(f"{before}*{after}")):
                name = str(place.relative_to(self.folder))[len(before) : -len(after)]
                if place.is_file() and "/" not in name:
                    found.setdefault(name, []).append(str(place))
        return found

    def sources(self) -> list[str]:
        """Files beside the results on which the motion depends."""
        return []

    def people(self, video: str, size: tuple[int, int]) -> list[Person]:
        """Everybody in the file about a video whose stored pictures have this size; here the only one there is."""
        path = self.find_video(video)
        return [self._person(path, "the only person", self.read(path))]

    def _person(self, path: Path, name: str, found: Tensor, **facts: Any) -> Person:
        """A person from positions [N, K, 3] as the file has them; frames that hold no numbers count as missing."""
        if self.description.frame != "camera":
            advice = "Take the lifter's joints in the camera; a world of its own does not say where the video saw them."
            raise self.refuse(path, "joints of frame camera", self.description.frame, advice)
        self._check_shape(path, found)
        rows = torch.isfinite(found).all(-1).all(-1)
        if int(rows.sum()) < 2:
            raise self.refuse(path, f"numbers for {name}", "NaN or infinity in every frame", "Run the lifter again.")
        joints = to_skeleton(self.description.turned(found[rows].double()), self.description.skeleton, SMPL22)
        frames = facts.pop("frames", np.arange(len(found)))[rows.numpy()]
        facts = {k: v[rows.numpy()] if k == "boxes" else v[rows] if k == "level" else v for k, v in facts.items()}
        placed = self.description.root == "absolute"
        return Person(name, frames, self._sized(path, joints), placed=placed, straight=self.straight, **facts)

    def check(self, place: str, body: Tensor, keypoints: Tensor, confidence: Tensor) -> None:
        """Raise DatasetError where camera points [T, J, 3] contradict the keypoints [T, J, 2] of the clip."""
        self._check_image(Path(place), (body, body), keypoints, confidence, torch.eye(4)[:3].to(body))

    def refuse(self, place: object, expected: object, found: object, advice: str) -> DatasetError:
        """An error in the usual words."""
        return DatasetError(f"{place}: expected {expected}, found {found}. {advice}")

    def check_rate(self, path: Path, arrays: Mapping[str, object]) -> None:
        """Refuse a file with another rate than is declared."""
        told, declared = arrays.get("fps"), self.description.fps
        if told is None:
            return
        rate = float(torch.as_tensor(told).reshape(-1)[:1].sum())
        if declared is None or not math.isclose(rate, declared, rel_tol=1e-3):
            expected = "the clip's rate" if declared is None else f"{declared:g} fps, as declared"
            raise self.refuse(path, expected, f"{rate:g} fps in it", f"Say --option lifter.fps={rate:g}.")

    def _at_rate(self, path: Path, found: Tensor, frames: int, fps: float) -> Tensor:
        """The motion at the clip's frames [T, K, 3], linearly; the last frame may be missing and then goes on."""
        step = (self.description.fps or fps) / fps
        least, most = (frames - 1) * step, frames * step + 1
        if not least <= len(found) + 1e-6 <= most:
            rate = "the clip's rate" if self.description.fps is None else f"{self.description.fps:g} fps"
            guess = fps * (len(found) - 1) / (frames - 1)
            expected = f"{round(least) + 1} frames at {rate} for the clip's {frames} at {fps:g} fps"
            advice = f"Lift the whole clip; if the file has about {guess:.4g} fps, say --option lifter.fps=RATE."
            raise self.refuse(path, expected, len(found), advice)
        longer = torch.cat((found, 2 * found[-1:] - found[-2:-1]))
        return resample(longer, torch.arange(frames, dtype=torch.float64) * step)

    def _sized(self, path: Path, found: Tensor) -> Tensor:
        """The motion in metres: arbitrary scale fixed by the limbs, metric scale checked by them."""
        ratio = size_ratio(found, self.info.skeleton)
        if not ratio > 0:
            raise self.refuse(path, "a person with arms and legs", "none", f"Are these the results of {self.name}?")
        if self.description.scale == "arbitrary":
            return found / ratio
        if not SMALLEST <= ratio <= LARGEST:
            units = {1000: "mm", 100: "cm", 0.001: "km"}
            likely = [unit for factor, unit in units.items() if SMALLEST <= ratio / factor <= LARGEST]
            what = f"arms and legs {ratio:.3g} times as long as usual" + (f"; these are {likely[0]}" if likely else "")
            advice = "Convert the file, or declare its units where the lifter joints reads it (lifter.units)."
            raise self.refuse(path, f"a person in {self.description.units}", what, advice)
        return found

    def _placed(
        self, path: Path, found: Tensor, keypoints: Tensor, confidence: Tensor, extrinsics: Tensor, fps: float
    ) -> Tensor:
        frame = self.description.frame
        if frame == "own":
            return place_whole(found, keypoints, confidence, extrinsics)
        if self.description.root == "absolute":
            return found if frame == "world" else to_world(found, extrinsics)
        if frame == "world":
            found = found @ extrinsics[..., :3].transpose(-1, -2)
        if self.straight:
            found = placing.turned(found, keypoints.nan_to_num().to(found.dtype), self.info.skeleton)
        found = found - found[:, :1]
        weight = confidence.double().square() * torch.isfinite(keypoints).all(-1)
        placed = stand(found.double(), keypoints.double().nan_to_num(), weight, SMOOTHED * fps)
        if placed is None:
            what = "no frame with enough of them, or none in front of the camera"
            raise self.refuse(path, "keypoints that place the person", what, "Leave the clip out.")
        return to_world(placed.to(found.dtype), extrinsics)

    def _check_image(
        self, path: Path, found: tuple[Tensor, Tensor], keypoints: Tensor, confidence: Tensor, extrinsics: Tensor
    ) -> None:
        """Refuse poses that the keypoints of the clip contradict; found in their own frame, and as placed."""
        seen = to_camera(found[1], extrinsics)
        alike = agreement(seen, keypoints, confidence)
        if math.isnan(alike):
            return
        if alike < UNSURE:
            self._check_up(path, found[0], alike)
        if alike < ALIKE:
            what = f"poses that correlate with them by {alike:.2f}"
            advice = "Do the axes fit, and is it the clip's camera? Say lifter.frame and lifter.up where they differ."
            raise self.refuse(path, f"poses as the keypoints show, {ALIKE:g} or more", what, advice)
        other = agreement(seen[:, list(self.info.skeleton.mirror)], keypoints, confidence)
        if other > alike + MIRRORED:
            what = f"poses that fit better with the sides exchanged ({other:.2f}, not {alike:.2f})"
            raise self.refuse(path, "left and right as in the keypoints", what, "Correct the order of the joints.")
        self._check_place(path, seen, keypoints, confidence)

    def _check_up(self, path: Path, found: Tensor, alike: float) -> None:
        """Refuse a body that stands along another axis of the world than the one that is declared to be up."""
        face = self.info.skeleton.face_joints
        along = found[:, face[2:]].mean(1) - found[:, face[:2]].mean(1)
        up = torch.nn.functional.normalize(along, dim=-1).mean(0)
        axis = int(up.abs().argmax())
        if self.description.frame != "camera" and (axis != 1 or up[1] < 0) and abs(float(up[axis])) > STANDING:
            where = f"{'-' if up[axis] < 0 else ''}{_AXES[axis]} of the world"
            advice = "Declare the upward axis: lifter.up=z, or -y, where the lifter joints reads the file."
            what = f"a body along {where}, unlike its keypoints ({alike:.2f})"
            raise self.refuse(path, f"{self.description.up_axis} up", what, advice)

    def _check_place(self, path: Path, seen: Tensor, keypoints: Tensor, confidence: Tensor) -> None:
        """Refuse a person who is not where the keypoints are: another camera, or another world."""
        weight = (confidence * torch.isfinite(keypoints).all(-1)).unsqueeze(-1)
        total = weight.sum(1, keepdim=True).clamp_min(1e-9)
        points = keypoints.nan_to_num()
        size = (weight * (points - (weight * points).sum(1, keepdim=True) / total).square()).sum((1, 2))
        size = (size / total.flatten()).sqrt()
        gap = (weight * (seen[..., :2] / seen[..., 2:].clamp_min(1e-3) - points)).sum(1) / total[:, 0]
        off = float((torch.linalg.vector_norm(gap, dim=-1) / size.clamp_min(1e-6)).median())
        behind = float((seen[:, 0, 2] <= 0).float().mean())
        if off > OFF or behind > 0.5:
            what = "the person behind the camera" if behind > 0.5 else f"it {off:.1f} sizes of the person away"
            advice = "The lifter saw another camera: say --option lifter.root=relative, or lifter.frame=own."
            raise self.refuse(path, "the person where the keypoints are", what, advice)


def size_ratio(positions: Tensor, skeleton: Skeleton) -> float:
    """Median over the eight long bones of length (median over time) by `LIMBS`. [T, J, 3] -> 1 for the usual person."""
    lengths = bone_lengths(positions, skeleton).median(0).values
    ratios = [lengths[skeleton.index(f"{side}_{end}") - 1] / usual for end, usual in LIMBS.items() for side in "lr"]
    return float(torch.stack(ratios).median())


def place_whole(positions: Tensor, keypoints: Tensor, confidence: Tensor, extrinsics: Tensor) -> Tensor:
    """Turn a motion [T, J, 3] in a level world about its vertical and move it, so that it fits its keypoints best.

    Each angle has its best translation in closed form; the best angle is searched in steps of 5, then 0.5 and 0.05
    degrees. Extrinsics [T, 3, 4] are the clip's, and so is the world of what is returned.
    """
    points = keypoints.double().nan_to_num()
    weight = confidence.double() * torch.isfinite(keypoints).all(-1)
    camera, motion = extrinsics.double(), positions.double()
    rows = camera[:, None, :2, :3] - points.unsqueeze(-1) * camera[:, None, 2:, :3]
    rows = (rows * weight[..., None, None]).flatten(0, 2)
    inverse = torch.linalg.pinv(rows)

    def fit(angle: float) -> tuple[float, Tensor]:
        turned = motion @ yaw_matrix(torch.tensor(angle, dtype=torch.float64)).T
        seen = to_camera(turned, camera)
        wanted = ((points * seen[..., 2:] - seen[..., :2]) * weight.unsqueeze(-1)).flatten()
        moved = inverse @ wanted
        return float((rows @ moved - wanted).square().sum()), turned + moved

    best, width = 0.0, math.pi
    for steps in (36, 10, 10):
        angles = [best + width * step / steps for step in range(-steps, steps + 1)]
        best, width = min(angles, key=lambda angle: fit(angle)[0]), width / steps
    return fit(best)[1].to(positions.dtype)
