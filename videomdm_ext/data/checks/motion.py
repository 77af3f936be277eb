"""What a motion shows by itself, and with its camera and the keypoints: whose axes, sides or camera are wrong.

The keypoints are compared with the projection of the motion as they are, and with each of a few known mistakes undone.
Distances are shares of the person's size in the image, medians over what was seen. On 180 clips with a lifter's error
of 90 mm the projection is off by 0.02 (0.04 at most), and with any of the mistakes by at least 0.04, which undoing it
brings down to 0.56 of that at most. Of 154 films that MediaPipe watched the lifted motion is off by 0.03 at most, and
no mistake undone brings it below 1.2 of that.
"""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from videomdm_ext.data.files import Array
from videomdm_ext.motion.kinematics import RAW, heading
from videomdm_ext.motion.skeletons import Skeleton

if TYPE_CHECKING:
    from videomdm_ext.data.checks.rules import Sight

NEAREST, FARTHEST, IN_SIGHT = 0.1, 1000.0, 100.0
"""Metres of the person's median depth. Beyond the last one the projection has to fit: lifters that assume a long lens
put people there."""
UNDONE, CLEAR, FITS = 0.7, 0.02, 0.15
"""A mistake is named where undoing it leaves this share of a distance that was at least this, and this at most."""
SURE = (0.06, 0.5)
"""The least distance that is an error, and the largest share of it that undoing a mistake may leave."""
FAR_OFF = (0.15, 0.4)
"""Distances of the projection that get a warning and an error: a lifter may drift, but not by half a person."""
OTHER_POSE = (0.06, 0.1)
"""The same after moving each frame's centre onto the other, an error beside a distance of FAR_OFF[0] alone. Keypoints
of other clips have 0.12 and more in 90 % of all pairs; the clip's own 0.03 at most, under a lifter's error of 90 mm."""
OPPOSITE = -0.5
"""Cosine between the left-to-right differences of keypoints and motion in a frame whose sides are exchanged."""
FLIPPED_FRAMES = (0.04, 0.9)
TILTED = 0.8  # length of the mean direction of a spine that keeps its direction

ERROR, WARNING = "error", "warning"
Positions = NDArray[np.float64]
Told = tuple[str, str, str]  # kind, message and level of a finding

FACING, FACING_SMOOTHED = math.radians(20), math.radians(60)
"""Of the angle from +z at the first frame; smoothed headings differ by up to 24 degrees."""
FLOOR = 0.6  # metres of the lowest joints from y = 0; lifters are off by half a metre, stairs lead on
FASTEST = (22.0, 40.0)  # m/s of any joint: kicks and throws reach 16, with a lifter's jitter 20
STILLEST = 0.01  # metres that the joint that moves most moves in the whole clip
BONE, BONE_CHANGE = 0.15, 0.3
"""Metres of the bones that are looked at, and the share of its length by which a true bone may not change."""
OFF_TEACHER, OFF_FAR = 0.12, 0.8
"""The same of a teacher, which mistakes depth: in this share of all bones and frames (5 % is usual), or one bone by
OFF_FAR of its length in a tenth of the frames."""
BACKWARD = -0.2
"""Of the mean cosine of toes or nose against the body's forward side: who walks has 0.4 and more, who kneels -0.8, and
a lifter may take near for far."""
STRIDE = (0.42, 1.4)  # Hz of a walking person's strides: people have 0.6 to 1.15
WALKED, STEPPED = 24, 0.12  # frames, and metres that the ankles swing, from which a stride can be timed

MISTAKES: dict[tuple[int, int, bool], str] = {
    # (sign of u, sign of v, sides exchanged): kind
    (1, 1, True): "left-right",
    (1, -1, False): "flipped-v",
    (-1, 1, False): "flipped-u",
    (-1, 1, True): "flipped-u",
    (-1, -1, False): "rolled",
    (1, -1, True): "flipped-v",
    (-1, -1, True): "rolled",
}


@dataclass(frozen=True)
class Image:
    """Keypoints [T, J, 2], which of them were seen [T, J], and the person's size on the normalised plane."""

    points: Positions
    seen: NDArray[np.bool_]
    size: float

    @classmethod
    def of(cls, points: Array, confidence: Array) -> "Image":
        seen = confidence > 0
        spread = np.where(seen[..., None], points.astype(np.float64), np.nan)
        frames = seen.sum(-1) > 1
        extent = np.nanmax(spread[frames], 1) - np.nanmin(spread[frames], 1) if frames.any() else np.zeros((1, 2))
        size = float(np.median(np.linalg.norm(extent, axis=-1)))
        return cls(np.where(seen[..., None], points, 0).astype(np.float64), seen, max(size, 1e-6))


def compare(
    positions: Positions, extrinsics: Array, image: Image, skeleton: Skeleton, *, refusing: bool = False
) -> Told | None:
    """The first thing that does not fit between a motion [T, J, 3], its camera and the keypoints, or None.

    With `refusing` only errors are sure to be found.
    """
    depth, points = project(positions, extrinsics)
    middle = float(np.median(depth))
    if refusing and _error(points, image) < SURE[0] and NEAREST < middle < FARTHEST:
        return None
    size = float(np.median(np.linalg.norm(np.ptp(points, 1), axis=-1)))
    image = replace(image, size=max(image.size, size / 2))  # a person of whom a part was seen is as large as ever
    before = _error(points, image)
    undone = _undone(positions, extrinsics, image, skeleton, points, in_front=middle > 0)
    kind, error = min(undone.items(), key=lambda item: item[1])
    if error < FITS and (middle <= 0 or (before > CLEAR and error < UNDONE * before)):
        off = f"the projection is off by {before:.2f} of the person"
        what = "the person is behind the camera" if middle <= 0 else off
        sure = middle <= 0 or (before >= SURE[0] and error < SURE[1] * before)
        return kind, f"{what}; it is off by {error:.2f} of the person with this undone", ERROR if sure else WARNING
    if not NEAREST < abs(middle) < (FARTHEST if before < FITS else IN_SIGHT):
        return "camera-units", f"the person is {middle:.4g} m from the camera", ERROR
    behind = float((depth[image.seen] <= 0).mean())
    level = ERROR if middle <= 0 else WARNING  # who reaches past a camera is in front of it
    found = _elsewhere(image, points, before)
    if behind and not (found and level == WARNING):
        return "behind", f"{100 * behind:.0f} % of the joints are behind the camera", level
    if tilted := _tilted(positions, extrinsics, image, skeleton, fits=found is None):
        return (
            "up-axis",
            f"the person stands in the image, and along {tilted} in the world",
            found[2] if found else WARNING,
        )
    return found or _flipped(image, skeleton, points)


def project(positions: Positions, extrinsics: Array) -> tuple[Positions, Positions]:
    """Signed depth [T, J] and normalised image points [T, J, 2] of positions [T, J, 3]."""
    matrices = np.broadcast_to(extrinsics.astype(np.float64), (len(positions), 3, 4))
    seen = np.einsum("tij,tkj->tki", matrices[..., :3], positions) + matrices[:, None, :, 3]
    nearest = np.where(np.abs(seen[..., 2:]) < 1e-3, 1e-3, seen[..., 2:])
    return seen[..., 2], seen[..., :2] / nearest


def _error(points: Positions, image: Image) -> float:
    """Median distance of image points from the keypoints, as a share of the person."""
    return float(np.median(np.linalg.norm(points - image.points, axis=-1)[image.seen])) / image.size


def _undone(
    positions: Positions, extrinsics: Array, image: Image, skeleton: Skeleton, points: Positions, *, in_front: bool
) -> dict[str, float]:
    """The error that is left when each known mistake is undone, by its kind."""
    turned = np.swapaxes(extrinsics[..., :3], -1, -2)
    inverse = np.concatenate((turned, -turned @ extrinsics[..., 3:]), -1)  # [R | t] of the way back
    errors = {"camera-inverse": _error(_in_front(positions, inverse), image)}
    if not in_front:
        turned = extrinsics * np.array((1.0, -1.0, -1.0), dtype=np.float32)[:, None]
        return errors | {"behind": _error(_in_front(positions, turned), image)}
    mirror = list(skeleton.mirror)
    for (u, v, exchanged), kind in MISTAKES.items():
        undone = points * np.array((u, v))
        error = _error(undone[:, mirror] if exchanged else undone, image)
        errors[kind] = min(error, errors.get(kind, error))
    facing = (positions * np.array((-1.0, 1.0, -1.0)))[:, mirror]  # hips that were exchanged turned the whole clip
    errors["left-right"] = min(errors["left-right"], _error(_in_front(facing, extrinsics), image))
    return errors


def _in_front(positions: Positions, extrinsics: Array) -> Positions:
    depth, points = project(positions, extrinsics)
    return np.where((depth > 0)[..., None], points, np.inf)


def upright(positions: Positions, skeleton: Skeleton) -> Positions:
    """Mean direction [3] from pelvis to neck."""
    return np.asarray(unit(positions[:, skeleton.index("neck")] - positions[:, 0]).mean(0))


def unit(vectors: Positions) -> Positions:
    """The directions of vectors [..., 3]; a zero stays one."""
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9))


def lies_along(direction: Positions, least: float) -> str:
    """The axis along which somebody lies, such as -x; empty for one who stands along y, or along no axis."""
    axis = int(np.abs(direction).argmax())
    if abs(direction[axis]) < least or (axis == 1 and direction[1] > 0):
        return ""
    return ("-" if direction[axis] < 0 else "") + "xyz"[axis]


def _tilted(positions: Positions, extrinsics: Array, image: Image, skeleton: Skeleton, *, fits: bool) -> str:
    """The axis of the world along which a person lies who stands in the image, where that is the camera's up or does
    not fit; empty for others."""
    direction = upright(positions, skeleton)
    along, neck = lies_along(direction, TILTED), skeleton.index("neck")
    both = image.seen[:, 0] & image.seen[:, neck]
    if not along or not both.any():
        return ""
    spine = (image.points[:, neck] - image.points[:, 0])[both]
    if (-spine[:, 1] / np.maximum(np.linalg.norm(spine, axis=-1), 1e-9)).mean() < TILTED:
        return ""  # how far the direction from pelvis to neck points up in the image
    up = -np.broadcast_to(extrinsics, (len(positions), 3, 4))[:, 1, :3].mean(0)
    axis = "xyz".index(along[-1])
    return "" if fits and (float(up[axis]) * np.sign(direction[axis]) < 0.7 or up[1] > 0.5) else along


def _elsewhere(image: Image, points: Positions, place: float) -> Told | None:
    """`place` is the distance of the points from the keypoints."""
    apart = np.where(image.seen[..., None], points - image.points, np.nan)[image.seen.any(-1)]
    centred = apart - np.nanmedian(apart, 1, keepdims=True)
    pose = float(np.nanmedian(np.linalg.norm(centred, axis=-1))) / image.size
    if not (place > FAR_OFF[0] or pose > OTHER_POSE[0]):
        return None
    sure = place > FAR_OFF[1] or (place > FAR_OFF[0] and pose > OTHER_POSE[1])
    message = f"the projection is off by {place:.2f} of the person, its pose by {pose:.2f}"
    return "reprojection", message, ERROR if sure else WARNING


def _flipped(image: Image, skeleton: Skeleton, points: Positions) -> Told | None:
    """Frames in which the detector, or the lifter, took left for right."""
    left = [joint for joint, other in enumerate(skeleton.mirror) if other > joint]
    right = [skeleton.mirror[joint] for joint in left]
    both = (image.seen[:, left] & image.seen[:, right])[..., None]
    seen, made = ((p[:, left] - p[:, right]) * both for p in (image.points, points))
    sizes = [np.sqrt((d**2).sum((1, 2)) / np.maximum(both.sum((1, 2)), 1)) for d in (seen, made)]
    wide = (np.minimum(*sizes) > 0.05 * image.size) & both.any((1, 2))
    length = np.sqrt((seen**2).sum((1, 2)) * (made**2).sum((1, 2)))
    cosine = (seen * made).sum((1, 2)) / np.maximum(length, 1e-12)
    share = float(((cosine < OPPOSITE) & wide).mean())
    if FLIPPED_FRAMES[0] < share < FLIPPED_FRAMES[1]:
        return "left-right-flips", f"left and right are exchanged in {100 * share:.0f} % of the frames", WARNING
    return None


# -- what a motion shows by itself -----------------------------------------------------------------------------------


def check_sides(sight: "Sight") -> None:
    """Toes, or the nose, point to where hips and spine say that the front is: else left may be called right."""
    for name, positions in sight.moved.items():
        joints = {joint: positions[:, number] for number, joint in enumerate(sight.skeleton.joints)}
        front = np.cross(joints["l_hip"] - joints["r_hip"], joints["neck"] - joints["pelvis"])
        if "l_foot" in joints:
            ahead = joints["l_foot"] - joints["l_ankle"] + joints["r_foot"] - joints["r_ankle"]
        else:
            ahead = joints["nose"] - joints["neck"]
        cosine = float((unit(front) * unit(ahead)).sum(-1).mean())
        if cosine < BACKWARD:
            sight.add("backwards", f"{name}: toes or nose point backwards (cosine {cosine:.2f})", WARNING)


def check_facing(sight: "Sight") -> None:
    for name, positions in sight.moved.items():
        angle = float(heading(torch.from_numpy(positions), sight.skeleton, sight.rule)[0])
        if abs(angle) > (FACING if sight.rule == RAW else FACING_SMOOTHED):
            message = f"{name}: faces {math.degrees(angle):.0f} degrees off +z at the first frame"
            sight.add("facing", message, WARNING)


def check_floor(sight: "Sight") -> None:
    for name, positions in sight.moved.items():
        lowest = float(np.quantile(positions[..., 1].min(-1), 0.05))
        if abs(lowest) > FLOOR:
            sight.add("floor", f"{name}: the lowest joints are at y = {lowest:.2f} m", WARNING)


def check_still(sight: "Sight") -> None:
    for name, positions in sight.moved.items():
        moved = float(np.linalg.norm(np.ptp(positions, axis=0), axis=-1).max())
        if moved < STILLEST:
            message = f"{name}: no joint moves more than {1000 * moved:.2f} mm in {len(positions)} frames"
            sight.add("frozen", message, WARNING)


def check_jumps(sight: "Sight") -> None:
    """A jump of a true motion beyond all movement is an error; a lifter may be wrong about depth in single frames."""
    for name, positions in sight.moved.items():
        speed = np.linalg.norm(np.diff(positions, axis=0), axis=-1) * sight.fps
        if speed.max() <= FASTEST[0]:
            continue
        frame, joint = (int(i) for i in np.unravel_index(int(speed.argmax()), speed.shape))
        fastest = speed.max(-1)
        near = np.delete(fastest[max(frame - 3, 0) : frame + 4], min(frame, 3))
        alone = bool(fastest[frame] > 3 * np.median(near))  # a jump, not a quick movement
        message = f"{name}: joint {joint} has {speed.max():.0f} m/s after frame {frame}"
        sure = alone and name == "truth" and speed.max() > FASTEST[1]
        sight.add("teleport" if alone else "speed", message, ERROR if sure else WARNING)


def check_bones(sight: "Sight") -> None:
    skeleton = sight.skeleton
    for name, positions in sight.moved.items():
        lengths = np.linalg.norm(positions[:, 1:] - positions[:, list(skeleton.parents[1:])], axis=-1)
        usual = np.median(lengths, axis=0)
        long = usual > BONE
        low, high = np.quantile(lengths, (0.05, 0.95), axis=0)
        change = (high - low) / np.maximum(usual, 1e-6) * long
        bad = change.max() > BONE_CHANGE
        if name == "teacher":
            off = np.abs(lengths / np.maximum(usual, 1e-6) - 1) * long
            bad = (off > BONE_CHANGE).sum() / max(off.shape[0] * long.sum(), 1) > OFF_TEACHER
            bad = bad or (off > OFF_FAR).mean(0).max() > 0.1
        if bad:
            worst = int(change.argmax())
            bone = f"the bone to {skeleton.joints[worst + 1]} is {low[worst]:.2f} to {high[worst]:.2f} m long"
            sight.add("bones", f"{name}: {bone}", WARNING)


def check_stride(sight: "Sight") -> None:
    """A walk at twice or half the pace of people, where a caption speaks of walking."""
    main = sight.moved.get("truth", sight.moved.get("teacher"))
    if main is None or not any("walk" in text.lower() for text in sight.texts or ()):
        return
    sight.stride = stride(main, sight.skeleton, sight.fps)
    if sight.stride is not None and not STRIDE[0] < sight.stride < STRIDE[1]:
        sight.add("speed", f"walks with {sight.stride:.2f} strides a second, people have 0.6 to 1.15", WARNING)


def stride(positions: Positions, skeleton: Skeleton, fps: float) -> float | None:
    """Hz at which the ankles pass each other back and forth, None where they do not."""
    across = positions[:, skeleton.index("l_hip")] - positions[:, skeleton.index("r_hip")]
    ahead = unit(across[:, [2, 1, 0]] * np.array((-1.0, 0.0, 1.0)))
    apart = positions[:, skeleton.index("l_ankle")] - positions[:, skeleton.index("r_ankle")]
    swing = (apart * ahead).sum(-1)
    swing = swing - swing.mean()
    if len(swing) < WALKED or swing.std() < STEPPED:
        return None
    size = max(1024, 1 << (len(swing) * 4).bit_length())
    power = np.abs(np.fft.rfft(swing * np.hanning(len(swing)), size)) ** 2
    rate = np.fft.rfftfreq(size, 1 / fps)
    return float(rate[int(np.where(rate > 0.2, power, 0).argmax())])
