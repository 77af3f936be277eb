"""The importer `fit3d`: the official folder, four calibrated cameras a take, its motion projected.

SOURCE/train/SUBJECT/joints3d_25/ACTION.json                {"joints3d_25": [T, 25, 3]}, metres, z up, 50 fps
SOURCE/train/SUBJECT/camera_parameters/CAMERA/ACTION.json   {"extrinsics": {"R", "T"}, "intrinsics_w_distortion": ...}
SOURCE/train/SUBJECT/rep_ann.json                           {ACTION: [frames between repetitions]} (optional)
SOURCE/fit3d_info.json                                      {"train_subj_names": [], "subj_to_act": {}} (optional)
SOURCE/train/SUBJECT/smplx/ACTION.json                      SMPL-X parameters (used with --option smpl=FOLDER)

SOURCE may also be the folder `train` itself, or lie above a folder `fit3d`. A take is cut at its repetitions, or evenly
where none are annotated, into parts of at most 196 frames at 20 fps, and every part is a clip for each camera. T is the
camera's place: X_camera = R (X_world - T). Keypoints are the projected motion on the normalised plane, where no lens
distorts; the intrinsics, for drawing, are those of the undistorted image where the source has them. With --option
keypoints=DIR they are what a detector found in the videos (DIR/SUBJECT/CAMERA/ACTION..., named as the source names the
video); its pixels are those of the videos, which the lens distorts, and the videos may go on after the motion ended.

What is public does not say beyond doubt on which side joints 1 to 3 and 11 to 13 are. They are taken as Human3.6M's
(right leg, left leg, left arm, right arm) and checked: toes point ahead (`sides_of`). Only the train split has a truth;
the test split, without joints3d_25, holds nothing to import. So the subjects of the train split are drawn to train,
val and test, unless some that fit3d_info.json does not name for training have a truth here too: these are then tested
on. A take that it lists and that is not here is reported as left out.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any, ClassVar

import blobfile as bf
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from videomdm_ext.data import files
from videomdm_ext.data.clip import Recording
from videomdm_ext.data.motions import frames_at, interpolate, interpolate_confidence, resample
from videomdm_ext.data.sources import base
from videomdm_ext.data.video.detections import FORMATS, find_file, read_detections
from videomdm_ext.data.video.people import choose, follow
from videomdm_ext.errors import ConfigError, DatasetError
from videomdm_ext.geometry.cameras import project, to_pixels
from videomdm_ext.geometry.rotations import roma
from videomdm_ext.hookspecs import Register, hookimpl
from videomdm_ext.motion import joint_maps
from videomdm_ext.motion.body_models import posed
from videomdm_ext.motion.joint_maps import Numbers, confidence22, to_smpl22
from videomdm_ext.motion.skeletons import SMPL22

ITERATIONS = 20  # rounds in which a lens's distortion is removed
BODY, SHAPES = {"global_orient": 1, "body_pose": 21}, 10
"""Rotations of the SMPL-X parameters with their number of joints, and the shape parameters that are used."""
LONGER = 500  # frames by which a video may be longer than its motion
ALIKE = 0.2  # of a person's size, the distance between keypoints and projected truth in the middle, at most


def read_camera(place: str) -> tuple[Tensor, Tensor | None]:
    """Extrinsics [3, 4] in the world with y up, and intrinsics [3, 3] of the undistorted image, from one camera's file.

    The stored world has z up: X = (x, y, z) is (x, z, -y) here.
    """
    stored = files.read_json(place, "object")
    extrinsics = stored.get("extrinsics")
    extrinsics = extrinsics if isinstance(extrinsics, dict) else {}
    rotation = numbers(extrinsics.get("R"), place, "extrinsics R", (3, 3)).double()
    centre = numbers(extrinsics.get("T"), place, "extrinsics T", (3,)).double()
    turned = base.y_up(rotation)
    seen = torch.cat((turned, -(turned @ base.y_up(centre)).unsqueeze(-1)), -1).float()
    lens = stored.get("intrinsics_wo_distortion") or stored.get("intrinsics_w_distortion")
    if not isinstance(lens, dict):
        return seen, None
    intrinsics = torch.diag(torch.cat((numbers(lens.get("f"), place, "intrinsics f", (2,)), torch.ones(1))))
    intrinsics[:2, 2] = numbers(lens.get("c"), place, "intrinsics c", (2,))
    return seen, intrinsics


@dataclass(frozen=True)
class Lens:
    """Focal lengths and centre [2] in pixels of the videos, and their distortion, radial [3] and tangential [2].

    The source's own formula: with q the tangential pair exchanged, x becomes x (1 + k1 r^2 + k2 r^4 + k3 r^6 + q.x) +
    r^2 q, in which OpenCV has 2 q.x.
    """

    focal: Tensor
    centre: Tensor
    radial: Tensor
    tangential: Tensor

    def distort(self, points: Tensor) -> Tensor:
        """Points [..., 2] of the normalised plane as the lens bends them."""
        r2 = points.square().sum(-1, keepdim=True)
        crossed = self.tangential.flip(-1)
        powers = torch.cat((r2, r2.square(), r2**3), -1)
        along = 1 + (powers * self.radial).sum(-1, keepdim=True) + (points * crossed).sum(-1, keepdim=True)
        return points * along + r2 * crossed

    def on_plane(self, pixels: Tensor) -> Tensor:
        """Pixels [..., 2] on the normalised plane, the distortion removed by fixed-point iteration."""
        bent = (pixels - self.centre) / self.focal
        points = bent
        for _ in range(ITERATIONS):
            points = points + bent - self.distort(points)
        return points


def read_lens(place: str) -> Lens:
    """The lens of the videos from one camera's file."""
    stored = files.read_json(place, "object").get("intrinsics_w_distortion")
    stored = stored if isinstance(stored, dict) else {}
    sizes = {"f": 2, "c": 2, "k": 3, "p": 2}
    found = [numbers(stored.get(key), place, f"intrinsics_w_distortion {key}", (n,)) for key, n in sizes.items()]
    return Lens(*(values.double() for values in found))


def read_info(root: str) -> tuple[Mapping[str, tuple[str, ...]], frozenset[str]]:
    """The takes of every subject, and the subjects that are not for training, from fit3d_info.json beside the folder
    `root` of the subjects, or in it; empty where there is none."""

    def words(listed: object) -> tuple[str, ...]:
        return tuple(name for name in listed if isinstance(name, str)) if isinstance(listed, list) else ()

    places = [bf.join(folder, "fit3d_info.json") for folder in (bf.dirname(root.rstrip("/")), root)]
    found = [place for place in places if bf.exists(place)]
    stored = files.read_json(found[0], "object") if found else {}
    takes = stored.get("subj_to_act")
    actions = {name: words(listed) for name, listed in takes.items()} if isinstance(takes, dict) else {}
    trained = words(stored.get("train_subj_names"))
    return actions, frozenset(actions) - frozenset(trained) if trained else frozenset()


def numbers(values: object, place: str, what: str, shape: tuple[int | None, ...]) -> Tensor:
    """Finite numbers of a JSON file, [shape] with None for any length; leading axes of length 1 do not matter."""
    try:
        with np.errstate(all="ignore"):  # what is too large for float32 becomes infinite, and is found as such
            array = np.asarray(values, dtype=np.float32)
        wanted = tuple(-1 if length is None else length for length in shape)
        if None not in shape or array.ndim != len(shape):
            array = array.reshape(wanted)
        good = all(length is None or length == found for length, found in zip(shape, array.shape, strict=True))
    except (ValueError, TypeError, OverflowError):
        array, good = np.zeros(0, dtype=np.float32), False
    if not good or not array.size or not np.isfinite(array).all():
        expected = [length or "T" for length in shape]
        raise DatasetError(f"{place}: expected numbers {what} {expected}, found others. Download the file again.")
    return torch.from_numpy(array)


def _turns(values: object, frames: int, joints: int, place: str, name: str) -> Tensor:
    """Rotations [T, J, 3, 3] from rotation vectors or matrices, whatever axes of length 1 they have."""
    try:
        return roma.rotvec_to_rotmat(numbers(values, place, name, (frames, joints, 3)).double())
    except DatasetError:
        return numbers(values, place, name, (frames, joints, 3, 3)).double()


@dataclass(frozen=True)
class Detected:
    """One person in a video: points [F, 22, 2] on the normalised plane and confidence [F, 22] at times [F], seconds."""

    times: Numbers
    points: Numbers
    confidence: Numbers

    def at(self, seconds: Numbers) -> tuple[Tensor, Tensor]:
        """Keypoints [T, 22, 2] and confidence [T, 22] at other times [T], linearly from frames with the joint."""
        points = interpolate(seconds, self.times, self.points, self.confidence > 0)
        confidence = interpolate_confidence(seconds, self.times, self.confidence)
        confidence[(seconds < self.times[0] - 1e-6) | (seconds > self.times[-1] + 1e-6)] = 0.0
        return torch.from_numpy(points).float(), torch.from_numpy(confidence).float()


def check_alike(points: Tensor, confidence: Tensor, projected: Tensor, place: str) -> None:
    """Refuse keypoints [T, J, 2] that are not those of the projected motion [T, J, 2]."""
    seen = confidence > 0
    if not bool(seen.any()):
        raise DatasetError(f"{place}: expected a person in these frames, found none. Leave the part out.")
    size = (projected.amax(1) - projected.amin(1)).amax(-1, keepdim=True).expand(seen.shape)
    apart = float((torch.linalg.vector_norm(points - projected, dim=-1) / size)[seen].median())
    if not apart <= ALIKE:
        raise DatasetError(
            f"{place}: expected keypoints of this take, found them {apart:.2f} of the person's size away. "
            "Are they of this subject, action and camera, in pixels of the original video?"
        )


SOURCE_FPS = 50.0


class Fit3DImporter(base.Importer):
    """Fit3D's takes; clips are named SUBJECT_ACTION_pPART_cCAMERA."""

    name = "fit3d"
    about = "The official Fit3D folder: takes of exercises before four calibrated cameras."
    licence = "Fit3D (Fieraru et al. 2021), for research, as its licence says"
    sources = ("Fit3D (Fieraru et al. 2021), joints projected to its own cameras",)
    extras: ClassVar[Mapping[str, str] | None] = {
        "test": "subjects to test on, separated by commas; by default drawn by the seed",
        "keypoints": "folder of a detector's files, SUBJECT/CAMERA/ACTION..., in the place of the projected motion",
        "format": f"of these files: {', '.join(FORMATS)}",
        "smpl": "folder of body models, to take the joints from the SMPL-X parameters",
        "lifted": "folder of a lifter's joints, ID.npy, 20 fps",
        "lifted_frame": "whose axes they are in: camera, or world for the clip's own world with y up",
        "lifted_name": "what to call that lifter",
    }

    def __init__(self, source: str, options: base.ImportOptions) -> None:
        super().__init__(source, options)
        self.keypoints, self.format = self.extra("keypoints"), self.extra("format")
        if bool(self.keypoints) != bool(self.format):
            raise ConfigError("--option keypoints: expected --option format with it, found one of the two. Give both.")
        if self.keypoints:
            self.extra("format", among=FORMATS)
            self.sources = ("Fit3D (Fieraru et al. 2021), keypoints of a detector",)
        self._take = lru_cache(maxsize=2)(self._read_take)
        self._detected = lru_cache(maxsize=8)(self._read_detected)

    def caption_names(self, member: base.Member) -> Sequence[str]:
        """SUBJECT_ACTION and ACTION."""
        subject, action, *_ = member.place
        return f"{subject}_{action}", action

    def read(self, member: base.Member) -> Recording:
        """A part as one camera saw it."""
        subject, action, camera, start, stop = member.place
        whole = self._take(subject, action)
        stop = min(stop, len(whole))
        if stop - start < 2:
            advice = "Do the annotated repetitions belong to this take?"
            raise self.refuse(member.id, f"frames from {start} on", f"a take of {len(whole)}", advice)
        at = frames_at(stop - start, SOURCE_FPS, self.fps)[: base.LONGEST + 1] + start
        truth = resample(whole, at)
        extrinsics, intrinsics = read_camera(self._camera_file(subject, camera, action))
        points, depth = project(truth, extrinsics.unsqueeze(0))
        seen = bool((depth > 0).all())
        if seen and intrinsics is not None:  # in an image whose middle the camera's axis meets, about
            centre = to_pixels(points, intrinsics).flatten(0, 1).median(0).values
            seen = bool(((centre > 0) & (centre < 2 * intrinsics[:2, 2])).all())
        if not seen:
            found = f"one outside, {depth.median():.1f} m from it"
            advice = "Do R and T fit X_camera = R (X_world - T)?"
            raise self.refuse(f"{member.id}, camera {camera}", "a person in the picture", found, advice)
        confidence = torch.ones_like(points[..., 0])
        if self.keypoints:
            projected = points
            points, confidence = self._detected(subject, action, camera).at(at.numpy() / SOURCE_FPS)
            check_alike(points, confidence, projected, member.id)
        lifted = None
        if self.results:
            _, results = base.read_results(self.results, (member.id,), truth.shape[1])
            results = base.as_long_as(results, len(truth), bf.join(self.results, member.id))
            lifted = base.placed(results, self.lifted_frame, extrinsics)
        texts = self.given(*self.caption_names(member)) or (caption_of(action),)
        return Recording(
            id=member.id,
            texts=texts,
            fps=self.fps,
            skeleton=self.skeleton,
            keypoints=points,
            confidence=confidence,
            extrinsics=extrinsics,
            lifted=lifted,
            truth=truth,
            intrinsics=intrinsics,
            source=bf.join(subject, "joints3d_25", action),
        )

    @cached_property
    def _root(self) -> str:
        for folder in (bf.join(self.source, *parts) for parts in (("train",), ("fit3d", "train"), ())):
            names = sorted(bf.listdir(folder)) if bf.isdir(folder) else []
            if any(bf.isdir(bf.join(folder, name, "joints3d_25")) for name in names):
                return folder
        expected = "train/SUBJECT/joints3d_25/ACTION.json"
        raise self.refuse(self.source, expected, "no such files", "Name the folder that holds `train`.")

    def members(self) -> Sequence[base.Member]:
        """One for every part of a take and camera. Reads the takes that have no annotated repetitions."""
        subjects = [n for n in sorted(bf.listdir(self._root)) if bf.isdir(bf.join(self._root, n, "joints3d_25"))]
        listed, tested = read_info(self._root)
        named = {name.strip() for name in self.extra("test").split(",")} - {""}
        held_out = named or set(subjects) & tested
        found = []
        for subject in subjects:
            folder = bf.join(self._root, files.checked_id(subject, self._root))
            places = bf.join(folder, "camera_parameters")
            if not bf.isdir(places):
                raise self.refuse(places, "a folder for each camera", "none", "Unpack the cameras' files.")
            cameras = sorted(name for name in bf.listdir(places) if bf.isdir(bf.join(places, name)))
            marks = bf.join(folder, "rep_ann.json")
            repetitions = files.read_json(marks, "object") if bf.exists(marks) else {}
            split = "" if not held_out else "test" if subject in held_out else "train"
            # takes that are here, and those that should be
            for action in sorted({*files.stems(bf.join(folder, "joints3d_25"), ".json"), *listed.get(subject, ())}):
                name = files.checked_id(f"{subject}_{action.replace(' ', '_')}", self._root)
                for part, (start, stop) in enumerate(self._parts(subject, action, repetitions)):
                    for camera in cameras:
                        clip_id = f"{name}_p{part}_c{files.checked_id(camera, subject)}"
                        found.append(base.Member(clip_id, subject, split, (subject, action, camera, start, stop)))
        return found

    def _parts(self, subject: str, action: str, repetitions: Mapping[str, Any]) -> Iterator[tuple[int, int]]:
        """First and last + 1 frame at 50 fps of every part of a take."""
        longest = int(base.LONGEST * SOURCE_FPS / self.fps) + 1
        marks = repetitions.get(action)
        if isinstance(marks, list) and len(marks) > 1 and all(isinstance(m, int | float) and m >= 0 for m in marks):
            yield from grouped([int(mark) for mark in sorted(marks)], longest)
            return
        try:
            frames = len(self._take(subject, action))
        except DatasetError:
            frames = 1  # `read` refuses it, with the reason
        pieces = max(1, -(-frames // longest))
        edges = [round(i * frames / pieces) for i in range(pieces + 1)]
        yield from pairwise(edges)

    def _read_take(self, subject: str, action: str) -> Tensor:
        """Joints [T, 22, 3] at 50 fps, y up, from SMPL-X where body models are at hand, else from the 25 joints."""
        if self.extra("smpl"):
            stored = files.read_json(bf.join(self._root, subject, "smplx", f"{action}.json"), "object")
            place = f"{subject}/smplx/{action}.json"
            moved = numbers(stored.get("transl"), place, "transl", (None, 3)).double()
            turns = [_turns(stored.get(name), len(moved), n, place, name) for name, n in BODY.items()]
            betas = numbers(stored.get("betas"), place, "betas", (None, SHAPES)).double().median(0).values
            rest = self.body_model("smplx").rest(betas)
            return base.y_up(posed(rest, torch.cat(turns, 1), moved).float())
        place = bf.join(self._root, subject, "joints3d_25", f"{action}.json")
        joints = numbers(files.read_json(place, "object").get("joints3d_25"), place, "joints3d_25", (None, 25, 3))
        return base.y_up(smpl22_of(joints, place))

    def _read_detected(self, subject: str, action: str, camera: str) -> Detected:
        """What the detector found in a video. DatasetError where nothing."""
        frames, lens = len(self._take(subject, action)), read_lens(self._camera_file(subject, camera, action))
        folder = bf.join(self.keypoints, files.checked_id(subject, self.keypoints), camera)
        place = find_file(folder, action, self.format)
        found = read_detections(place, self.format, count=frames + LONGER, fps=SOURCE_FPS)
        seen = np.flatnonzero((found.score > 0).any((1, 2)))
        # its first frame is 1 where people are found to the frame `frames`, but none in frame 0
        times = found.times - int(found.world is None and seen[0] > 0 and seen[-1] == frames) / SOURCE_FPS
        pixels, score = np.zeros_like(found.pixels[:, 0]), np.zeros_like(found.score[:, 0])
        for track in choose(follow(found), found.times, "largest", place):  # others only pass by
            pixels[track.frames] = found.pixels[track.frames, track.slots]
            score[track.frames] = found.score[track.frames, track.slots]
        points = lens.on_plane(torch.from_numpy(to_smpl22(pixels, found.layout))).numpy()
        return Detected(times, points, confidence22(score, found.layout))

    def _camera_file(self, subject: str, camera: str, action: str) -> str:
        return bf.join(self._root, subject, "camera_parameters", camera, f"{action}.json")


def caption_of(action: str) -> str:
    """A caption from the name of an exercise."""
    return f"a person does the exercise {' '.join(action.replace('_', ' ').lower().split())}."


def grouped(marks: Sequence[int], longest: int) -> Iterator[tuple[int, int]]:
    """Runs of whole repetitions between `marks` of at most `longest` frames; a repetition that is longer is cut."""
    start = marks[0]
    for mark, following in zip(marks[1:], [*marks[2:], None], strict=True):
        if following is None or following - start > longest:
            for piece in range(start, mark, longest):
                yield piece, min(piece + longest, mark)
            start = mark


LEGS, ARMS = {1: (17, 18), 4: (19, 20)}, (11, 14)
"""First joint of each leg with the two points of its foot, and of each arm."""
TOES = 0.7  # share of the way from the ankle to the tip of the foot at which the ball of the foot is


def smpl22_of(joints: Tensor, place: str) -> Tensor:
    """SMPL joints [T, 22, 3] of Fit3D's [T, 25, 3], in the same world.

    Order: 0 pelvis, 1 to 3 a leg, 4 to 6 the other, 7 spine, 8 neck, 9 chin, 10 crown, 11 to 13 an arm, 14 to 16 the
    other, 17 and 18 the foot at 3, 19 and 20 that at 6, 21 to 24 the hands. What is not direct is derived as in
    `joint_maps`, the head from the middle of chin and crown.
    """
    legs, arms = sides_of(joints, place)
    named = {"nose": joints[:, 9], "crown": joints[:, 10]}
    for side, leg, arm in zip("lr", legs, arms, strict=True):
        named |= {f"{side}_{name}": joints[:, leg + i] for i, name in enumerate(("hip", "knee", "ankle"))}
        named |= {f"{side}_{name}": joints[:, arm + i] for i, name in enumerate(("shoulder", "elbow", "wrist"))}
    feet = {f"{side}_foot": joints[:, leg + 2] + TOES * _tip(joints, leg) for side, leg in zip("lr", legs, strict=True)}
    found = joint_maps.smpl22_of(named) | feet
    return torch.stack([found[joint] for joint in SMPL22.joints], 1)


def _tip(joints: Tensor, leg: int) -> Tensor:
    """Vector [T, 3] from a leg's ankle to the farther of its foot's two points, by the mean distance."""
    reach = joints[:, list(LEGS[leg])] - joints[:, leg + 2 : leg + 3]
    farther = torch.linalg.vector_norm(reach, dim=-1).mean(0).argmax()
    return reach[:, farther]


def sides_of(joints: Tensor, place: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """First joints of the left and right leg and of the left and right arm, from what the body shows.

    Toes point ahead, and shoulders go with hips; with up along the back, ahead is up x (right - left). DatasetError
    where the toes point neither way.
    """
    legs, arms = (4, 1), ARMS
    up = normalize(joints[:, 8] - joints[:, 0], dim=-1)
    ahead = normalize(torch.linalg.cross(up, joints[:, legs[1]] - joints[:, legs[0]], dim=-1), dim=-1)
    toes = sum(normalize(_tip(joints, leg), dim=-1) for leg in LEGS)
    vote = float((toes * ahead).sum(-1).mean())
    if not abs(vote) > 0.2:
        raise DatasetError(
            f"{place}: expected toes that point ahead of hips and back, found a mean of {vote:.2f} of 2. "
            "Is it the order of joints3d_25?"
        )
    legs = legs if vote > 0 else (1, 4)
    width, hips = joints[:, arms[1]] - joints[:, arms[0]], joints[:, legs[1]] - joints[:, legs[0]]
    agree = float(torch.cosine_similarity(width, hips, dim=-1).mean()) > 0
    return legs, arms if agree else (arms[1], arms[0])


@hookimpl
def register_datasets(register: Register) -> None:
    """Offer this importer under its name."""
    register(Fit3DImporter.name, Fit3DImporter)
