"""The files of Fit3D: cameras, its list of subjects and takes, SMPL-X parameters, and a detector's files of its videos.

DIR/SUBJECT/CAMERA/ACTION...   the detector's file or folder, named as the source names the video (`find_file`)

Its pixels are those of the videos, which the lens distorts. The videos may go on after the motion has ended.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import blobfile as bf
import numpy as np
import roma
import torch
from numpy.typing import NDArray
from torch import Tensor

from videomdm_ext.data import files
from videomdm_ext.data.motions import interpolate, interpolate_confidence
from videomdm_ext.data.sources.base import y_up
from videomdm_ext.data.video.detections import Detections, find_file, read_detections
from videomdm_ext.data.video.people import choose, follow
from videomdm_ext.errors import DatasetError
from videomdm_ext.motion.body_models import find_model, posed, read_model
from videomdm_ext.motion.joint_maps import confidence22, to_smpl22

Numbers = NDArray[np.float64]

ITERATIONS = 20  # rounds in which a lens's distortion is removed
BODY, SHAPES = {"global_orient": 1, "body_pose": 21}, 10
"""Rotations of the SMPL-X parameters with their number of joints, and the shape parameters that are used."""
LONGER = 500  # frames by which a video may be longer than its motion
ALIKE = 0.2  # of a person's size, the distance between keypoints and projected truth in the middle, at most


def read_camera(place: str) -> tuple[Tensor, Tensor | None]:
    """Extrinsics [3, 4] in the world with y up, and intrinsics [3, 3] of the undistorted image, from one camera's file.

    The stored world has z up: X = (x, y, z) is (x, z, -y) here.
    """
    stored = read_object(place)
    extrinsics = stored.get("extrinsics")
    extrinsics = extrinsics if isinstance(extrinsics, dict) else {}
    rotation = numbers(extrinsics.get("R"), place, "extrinsics R", (3, 3)).double()
    centre = numbers(extrinsics.get("T"), place, "extrinsics T", (3,)).double()
    turned = y_up(rotation)
    seen = torch.cat((turned, -(turned @ y_up(centre)).unsqueeze(-1)), -1).float()
    lens = stored.get("intrinsics_wo_distortion") or stored.get("intrinsics_w_distortion")
    if not isinstance(lens, dict):
        return seen, None
    focal = numbers(lens.get("f"), place, "intrinsics f", (2,))
    middle = numbers(lens.get("c"), place, "intrinsics c", (2,))
    intrinsics = torch.eye(3)
    intrinsics[0, 0], intrinsics[1, 1] = focal
    intrinsics[:2, 2] = middle
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
    stored = read_object(place).get("intrinsics_w_distortion")
    stored = stored if isinstance(stored, dict) else {}
    sizes = {"f": 2, "c": 2, "k": 3, "p": 2}
    found = [numbers(stored.get(key), place, f"intrinsics_w_distortion {key}", (n,)) for key, n in sizes.items()]
    return Lens(*(values.double() for values in found))


@dataclass(frozen=True)
class Info:
    """The content of fit3d_info.json: the takes of every subject, and the subjects that are not for training."""

    actions: Mapping[str, tuple[str, ...]]
    tested: frozenset[str]


def read_info(root: str) -> Info:
    """The list beside the folder `root` of the subjects, or in it; empty where there is none."""
    places = [bf.join(folder, "fit3d_info.json") for folder in (bf.dirname(root.rstrip("/")), root)]
    found = [place for place in places if bf.exists(place)]
    stored = read_object(found[0]) if found else {}
    takes = stored.get("subj_to_act")
    actions = {name: _names(listed) for name, listed in takes.items()} if isinstance(takes, dict) else {}
    trained = _names(stored.get("train_subj_names"))
    return Info(actions, frozenset(actions) - frozenset(trained) if trained else frozenset())


def _names(listed: object) -> tuple[str, ...]:
    """The names in a list; none where it is no list of names."""
    return tuple(name for name in listed if isinstance(name, str)) if isinstance(listed, list) else ()


def read_object(place: str) -> dict[str, Any]:
    """The object of a JSON file."""
    found = files.read_json(place)
    if not isinstance(found, dict):
        raise DatasetError(f"{place}: expected names with values, found {type(found).__name__}. Download it again.")
    return found


def numbers(values: object, place: str, what: str, shape: tuple[int | None, ...]) -> Tensor:
    """Finite numbers of a JSON file, [shape] with None for any length; leading axes of length 1 do not matter."""
    try:
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


def body_joints(parameters: Mapping[str, Any], models: str, place: str) -> Tensor:
    """The 22 body joints [T, 22, 3] of SMPL-X parameters, in their own world, metres, by the model in a folder."""
    model = read_model(find_model(models, "smplx", "neutral"), files.read_only)
    moved = numbers(parameters.get("transl"), place, "transl", (None, 3)).double()
    turns = [_turns(parameters.get(name), len(moved), n, place, name) for name, n in BODY.items()]
    betas = numbers(parameters.get("betas"), place, "betas", (None, SHAPES)).double().median(0).values
    return posed(model.rest(betas), torch.cat(turns, 1), moved).float()


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


def read_detected(
    folder: str, kind: str, take: tuple[str, str, str], *, frames: int, fps: float, lens: Lens
) -> Detected:
    """What the detector found in a take (subject, action, camera) of so many frames. DatasetError where nothing."""
    subject, action, camera = take
    place = find_file(bf.join(folder, files.checked_id(subject, folder), camera), action, kind)
    found = read_detections(place, kind, count=frames + LONGER, fps=fps)
    times = found.times - first_frame(found, frames) / fps
    pixels, score = _one_person(found, place)
    points = lens.on_plane(torch.from_numpy(to_smpl22(pixels, found.layout))).numpy()
    return Detected(times, points, confidence22(score, found.layout))


def first_frame(found: Detections, frames: int) -> int:
    """The number of the first frame: 1 where people are found to the frame `frames`, but none in frame 0."""
    seen = np.flatnonzero((found.score > 0).any((1, 2)))
    return int(found.world is None and seen[0] > 0 and seen[-1] == frames)


def _one_person(found: Detections, place: str) -> tuple[Numbers, Numbers]:
    """Pixels [F, K, 2] and score [F, K] of the tallest person of a take, for others only pass by."""
    pixels, score = np.zeros_like(found.pixels[:, 0]), np.zeros_like(found.score[:, 0])
    for track in choose(follow(found), found.times, "largest", place):
        pixels[track.frames] = found.pixels[track.frames, track.slots]
        score[track.frames] = found.score[track.frames, track.slots]
    return pixels, score


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
