"""Lifters that ran elsewhere: an adapter finds what they wrote about a clip, and takes it into the clip's world.

DIR/ID.npy, DIR/ID.npz or, in a folder DIR/ID, a file that the tool itself writes. What the files hold is the adapter's
`Description`; files that do not fit are refused.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from videomdm_ext.errors import ConfigError, DatasetError
from videomdm_ext.geometry.cameras import to_camera, to_world
from videomdm_ext.lifters import placing
from videomdm_ext.lifters.arrays import read_npy, read_npz
from videomdm_ext.lifters.base import Lifter, LifterInfo
from videomdm_ext.lifters.description import OPTIONS, Description
from videomdm_ext.lifters.skeleton_maps import can_map, to_skeleton
from videomdm_ext.motion.skeletons import SMPL22, Skeleton

SMALLEST, LARGEST = 0.6, 1.6
"""Sizes of a person against the usual one that metres may show."""
ALIKE = 0.5
"""Correlation of lifted poses with the keypoints, at least."""
STANDING, UNSURE = 0.7, 0.85
"""Cosine of a body and an axis from which it stands along it; correlation under which it is asked whether it should."""
MIRRORED = 0.1
"""By so much the correlation may be better with left and right exchanged."""
OFF = 2.0
"""Of a person's size in the image, the distance between lifted joints and keypoints at most."""
_ID = re.compile(r"\w[\w. -]*")
_AXES = "xyz"


class ResultsLifter(Lifter):
    """A folder of results as a lifter. A subclass names it, describes its files, and may read them in its own way."""

    name: ClassVar[str]
    description: Description
    changeable: ClassVar[tuple[str, ...]] = ("fps", "root")
    """Which of `description.OPTIONS` the user may say."""
    own: ClassVar[Mapping[str, str]] = {}
    """Further options KEY=VALUE of this adapter, each with a line of help."""
    endings: ClassVar[tuple[str, ...]] = (".npy", ".npz")
    """Of the files DIR/ID that it reads."""
    written: ClassVar[tuple[str, ...]] = ()
    """Files in a folder DIR/ID that it reads too."""
    pickles: ClassVar[Mapping[str, str]] = {}
    """Files of the tool in DIR/ID that are not read, each with a command that converts PICKLE to TARGET."""
    options: ClassVar[Mapping[str, str]] = {}
    """All keys that it takes, filled in by itself."""

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
            return torch.from_numpy(read_npy(path))
        arrays = read_npz(path, ("joints", "fps"))
        if "joints" not in arrays:
            raise self.refuse(path, "an array `joints`", "none", "Write it, [T, J, 3].")
        self.check_rate(path, arrays)
        return torch.from_numpy(arrays["joints"])

    def positions(
        self, clip_id: str, keypoints: Tensor, confidence: Tensor, extrinsics: Tensor, fps: float, truth: Tensor | None
    ) -> Tensor:
        """The file's motion in the world of the clip, [T, J, 3], metres."""
        path = self.find(clip_id)
        found = self.description.turned(self._checked(path, self.read(path)).double())
        found = self._at_rate(path, found, len(keypoints), fps)
        found = to_skeleton(found, self.description.skeleton, self.info.skeleton)
        found = self._sized(path, found).to(keypoints.dtype)
        placed = self._placed(path, found, keypoints, confidence, extrinsics, fps)
        self._check_image(path, (found, placed), keypoints, confidence, extrinsics)
        return placed

    def find(self, clip_id: str) -> Path:
        """The file about a clip."""
        if not _ID.fullmatch(clip_id):
            raise self.refuse(self.folder, "an id of letters, digits, '_', '-' and '.'", repr(clip_id), "Rename it.")
        places = [self.folder / f"{clip_id}{ending}" for ending in self.endings]
        places += [self.folder / clip_id / name for name in self.written]
        for place in places:
            if place.is_file():
                return place
        for name, command in self.pickles.items():
            place = self.folder / clip_id / name
            if place.is_file():
                command = command.replace("PICKLE", str(place)).replace("TARGET", str(places[0]))
                advice = f"If you trust the file, convert it: {command}"
                raise self.refuse(place, "arrays", "a pickle, which may run any program when it is loaded", advice)
        expected = " or ".join(str(place.relative_to(self.folder)) for place in places)
        raise self.refuse(self.folder, expected, "none", "Run the lifter on this clip, or leave it out.")

    def refuse(self, place: object, expected: object, found: object, advice: str) -> DatasetError:
        """An error in the usual words."""
        return DatasetError(f"{place}: expected {expected}, found {found}. {advice}")

    def check_rate(self, path: Path, arrays: Mapping[str, object]) -> None:
        """Refuse a file that tells another rate than is declared."""
        told, declared = arrays.get("fps"), self.description.fps
        if told is None:
            return
        rate = float(torch.as_tensor(told).reshape(-1)[:1].sum())
        if declared is None or not math.isclose(rate, declared, rel_tol=1e-3):
            expected = "the clip's rate" if declared is None else f"{declared:g} fps, as declared"
            raise self.refuse(path, expected, f"{rate:g} fps in it", f"Say --option lifter.fps={rate:g}.")

    def _checked(self, path: Path, found: Tensor) -> Tensor:
        joints = self.description.joints
        if found.ndim != 3 or tuple(found.shape[1:]) != (joints, 3) or len(found) < 2:
            expected = f"joints [T, {joints}, 3] of {self.description.skeleton}"
            raise self.refuse(path, expected, list(found.shape), f"Are these the results of {self.name}?")
        bad = ~torch.isfinite(found).all(-1).all(-1)
        if bool(bad.any()):
            first = int(bad.int().argmax())
            what = f"NaN or infinity in {int(bad.sum())} frames, the first {first}"
            raise self.refuse(path, "numbers", what, "Run the lifter again, or cut the clip where it lost the person.")
        return found

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
        at = torch.arange(frames, dtype=found.dtype) * step
        low = at.floor().long().clamp_max(len(found) - 2)
        return torch.lerp(found[low], found[low + 1], (at - low)[:, None, None])

    def _sized(self, path: Path, found: Tensor) -> Tensor:
        """The motion in metres: arbitrary scale fixed by the limbs, metric scale checked by them."""
        ratio = placing.size_ratio(found, self.info.skeleton)
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
        """The motion in the world of the clip."""
        frame = self.description.frame
        if frame == "own":
            return placing.place_whole(found, keypoints, confidence, extrinsics)
        if self.description.root == "absolute":
            return found if frame == "world" else to_world(found, extrinsics)
        if frame == "world":
            found = found @ extrinsics[..., :3].transpose(-1, -2)
        found = found - found[:, :1]
        placed = placing.place_root(found, keypoints, confidence, fps)
        if placed is None:
            what = "no frame with enough of them, or none in front of the camera"
            raise self.refuse(path, "keypoints that place the person", what, "Leave the clip out.")
        return to_world(placed, extrinsics)

    def _check_image(
        self, path: Path, found: tuple[Tensor, Tensor], keypoints: Tensor, confidence: Tensor, extrinsics: Tensor
    ) -> None:
        """Refuse poses that the keypoints of the clip contradict; found in their own frame, and as placed."""
        seen = to_camera(found[1], extrinsics)
        alike = placing.agreement(seen, keypoints, confidence)
        if math.isnan(alike):
            return
        if alike < UNSURE:
            self._check_up(path, found[0], alike)
        if alike < ALIKE:
            what = f"poses that correlate with them by {alike:.2f}"
            advice = "Do the axes fit, and is it the clip's camera? Say lifter.frame and lifter.up where they differ."
            raise self.refuse(path, f"poses as the keypoints show, {ALIKE:g} or more", what, advice)
        other = placing.agreement(seen[:, list(self.info.skeleton.mirror)], keypoints, confidence)
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
