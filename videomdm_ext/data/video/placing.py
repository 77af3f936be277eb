"""Where a lifted pose stands in front of a camera, what lens the camera has, and where up and the floor are.

A lifter that sees a person's crop gives joints about the hips, along the axes of a camera that looks straight at them.
Turning them onto the person's own viewing ray and moving them so that they project onto the keypoints is a linear least
squares problem per frame. How well that succeeds depends on the focal length, which is how the focal length is found.

Up is estimated from three witnesses that are weighed against each other by least squares: a person who stands straight
points up; feet that rest lie in one plane; and cameras are mostly held level. None is exact: a standing person's axis
is off by some degrees. One camera that moves cannot tell its own turning from the person's; its heading is taken as the
world's.

Torch, float64; cameras with x right, y down, z forward.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from videomdm_ext.data.clip import floor_height
from videomdm_ext.data.motions import grounded, interpolate
from videomdm_ext.errors import DatasetError
from videomdm_ext.geometry import cameras, pnp
from videomdm_ext.geometry.rotations import roma, shortest_arc
from videomdm_ext.motion.kinematics import smooth
from videomdm_ext.motion.skeletons import Skeleton

DEFAULT_FIELD = math.radians(60.0)
"""Field of view of the picture's longer side where nothing else is known: between a phone's and a camera's."""
FIELDS_DEGREES = (20.0, 110.0)  # fields of view among which one is looked for
FIELDS, BLOCKS = 37, 4
"""Focal lengths that are tried, and parts of a video that are compared to see how sure the result is."""
USUAL = 0.3  # relative standard deviation of other people's focal lengths about that of DEFAULT_FIELD
SUREST, UNSURE = 0.2, 0.35
"""Relative standard deviation of an estimate: never taken to be less, and useless if it is more."""
EXAMINED = 240  # frames that are looked at for the focal length, at most
STEADY = 0.1  # seconds over which the depth of a person is smoothed
FEWEST = 4  # keypoints of a frame, at least, to place a person by
TURN = math.radians(30.0)  # largest turn of the person by which the camera may be corrected
AXIS_SIGMA = math.radians(7.0)
"""Standard deviation of the axis of a person who stands, as a lifter has it, however long one looks."""
FRAME_SIGMA = math.radians(12.0)  # the same from one moment to another
ROLL_SIGMA, PITCH_SIGMA = math.radians(10.0), math.radians(25.0)
"""Standard deviation of the roll and the pitch of other people's cameras."""
FOOT_SIGMA = 0.10  # standard deviation of a resting foot's place across the floor, m
MOMENT = 0.5  # seconds after which errors of a lifter are taken to be independent
RESTING = 0.5  # A foot that is slower than this, m/s, rests
STRAIGHT = math.radians(35.0)  # largest bend at knees and hips of a person who counts as standing
FEWEST_STANDING = 8  # frames of standing, at least; with fewer the camera is taken to be level
UP_STEADY = 0.5  # seconds over which the direction up of a moving camera is smoothed
UP_WINDOW = 1.0  # seconds before and after a frame from which its direction up is estimated


@dataclass(frozen=True)
class Lens:
    """Intrinsics [3, 3] in pixels and distortion [5]; `told_by` is given, calibration, estimated or assumed."""

    intrinsics: Tensor
    told_by: str
    distortion: Tensor | None = None

    @property
    def focal(self) -> float:
        """Focal length in pixels, along u."""
        return float(self.intrinsics[0, 0])


def lens_of(focal: float, size: tuple[int, int], told_by: str) -> Lens:
    """Square pixels, the axis through the middle of the picture."""
    width, height = size
    matrix = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], dtype=torch.float64)
    return Lens(matrix, told_by)


def focal_of(field: float, size: tuple[int, int]) -> float:
    """Focal length in pixels of a field of view, in radians, of the longer side."""
    return max(size) / 2 / math.tan(field / 2)


def turned(body: Tensor, image: Tensor, skeleton: Skeleton) -> Tensor:
    """The pose [T, J, 3] of a camera that looks straight at the hips, for one that has them at `image` [T, J, 2]."""
    hips = image[:, [skeleton.index("l_hip"), skeleton.index("r_hip")]].mean(1)
    rays = torch.nn.functional.pad(hips, (0, 1), value=1.0)
    arc = shortest_arc(rays.new_tensor((0.0, 0.0, 1.0)).expand_as(rays), rays)
    return body @ roma.unitquat_to_rotmat(arc).transpose(-1, -2)


def _least_squares(body: Tensor, image: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Centre of the image points [T, 2], mean miss [T, 2] of a person at depth 0, best depth [T], and its weight [T].

    A point X of a pose [T, J, 3] lies on the ray of (u, v), image [T, J, 2], where X_x = u X_z and X_y = v X_z: linear
    in the translation, which has a closed form by least squares with weight [T, J]; errors count times depth. The
    translation across the axis for any depth is mean + centre * depth.
    """
    total = weight.sum(-1).clamp_min(1e-12)
    centre = (weight.unsqueeze(-1) * image).sum(-2) / total.unsqueeze(-1)
    away = image - centre.unsqueeze(-2)
    told = (weight * away.square().sum(-1)).sum(-1)
    misses = image * body[..., 2:] - body[..., :2]
    mean = (weight.unsqueeze(-1) * misses).sum(-2) / total.unsqueeze(-1)
    depth = -(weight.unsqueeze(-1) * away * (misses - mean.unsqueeze(-2))).sum((-1, -2)) / told.clamp_min(1e-12)
    return centre, mean, depth.unsqueeze(-1), told


def stand(body: Tensor, image: Tensor, weight: Tensor, sigma: float) -> Tensor | None:
    """Poses [T, J, 3] along a camera's axes moved to where their keypoints [T, J, 2] are; or None.

    The depth is smoothed over `sigma` frames, by how well each frame determines it; frames with too few keypoints, or
    with a person behind the camera, get a place between those beside them. float64.
    """
    centre, mean, depth, told = _least_squares(body, image, weight)
    good = ((weight > 0).sum(-1) >= FEWEST) & (told > 1e-9) & (depth[:, 0] > 0)
    if not bool(good.any()):
        return None
    heavy = torch.where(good, told, 1e-3 * told[good].median())
    filtered = smooth(torch.stack((heavy * _bridged(depth, good)[:, 0], heavy), -1), sigma)
    depth = filtered[:, :1] / filtered[:, 1:]
    return body + torch.cat((_bridged(mean + centre * depth, good), depth), -1).unsqueeze(-2)


def _bridged(values: Tensor, good: Tensor) -> Tensor:
    """Values [T, C] with those of other than good frames replaced by the line between their neighbours."""
    at = np.arange(len(values), dtype=float)
    return torch.from_numpy(interpolate(at, at, values.unsqueeze(1).numpy(), good.unsqueeze(1).numpy())[:, 0])


def in_front(body: Tensor, image: Tensor, weight: Tensor, fps: float, place: str) -> Tensor:
    """A person of a video moved to where the keypoints are by `stand`; DatasetError where that is behind the camera."""
    found = stand(body, image, weight, STEADY * fps)
    nearest = -1.0 if found is None else float(found[..., 2].min())
    if found is None or nearest < 0.2:
        raise DatasetError(
            f"{place}: expected the person in front of the camera, found a joint at a depth of {nearest:.1f} m. "
            "Is the focal length right?"
        )
    return found


def agreement(seen: Tensor, keypoints: Tensor, confidence: Tensor) -> float:
    """Correlation of camera points [T, J, 3] with keypoints, each about its middle: 1 the same pose, -1 upside down.

    Place and size do not matter. The median over frames; nan where no frame has enough keypoints.
    """
    weight = (confidence.double() * torch.isfinite(keypoints).all(-1)).unsqueeze(-1)
    total = weight.sum(-2, keepdim=True).clamp_min(1e-12)
    parts = []
    for points in (seen[..., :2].double(), keypoints.double().nan_to_num()):
        parts.append(points - (weight * points).sum(-2, keepdim=True) / total)
    product = [(weight * a * b).sum((-1, -2)) for a, b in ((parts[0], parts[1]), (parts[0],) * 2, (parts[1],) * 2)]
    found = product[0] / (product[1] * product[2]).clamp_min(1e-24).sqrt()
    return float(found[(weight > 0).sum((-1, -2)) >= FEWEST].nanmedian())


def find_lens(body: Tensor, pixels: Tensor, weight: Tensor, size: tuple[int, int], skeleton: Skeleton) -> Lens:
    """The focal length at which poses fit best, weighed against the usual one; DEFAULT_FIELD where parts disagree.

    body [T, J, 3] of a camera that looks straight at the hips; pixels [T, J, 2]; weight [T, J].
    """
    step = -(-len(body) // EXAMINED)
    seen = (body[::step], pixels[::step] - torch.tensor(size).to(pixels) / 2, weight[::step])
    low, high = (math.log(focal_of(math.radians(field), size)) for field in reversed(FIELDS_DEGREES))
    grid = torch.linspace(low, high, FIELDS, dtype=torch.float64)
    costs = torch.stack([_misfit(*seen, focal, skeleton) for focal in grid.exp().tolist()], -1)
    parts = [_lowest(part.mean(0), grid) for part in costs.tensor_split(min(BLOCKS, len(costs)))]
    best, usual = _lowest(costs.mean(0), grid), math.log(focal_of(DEFAULT_FIELD, size))
    deviation = max(torch.tensor(parts).std(correction=0).item() / math.sqrt(len(parts)), SUREST)
    if best in (low, high) or deviation > UNSURE:
        return lens_of(math.exp(usual), size, "assumed")
    share = USUAL**2 / (USUAL**2 + deviation**2)
    return lens_of(math.exp(share * best + (1 - share) * usual), size, "estimated")


def _misfit(body: Tensor, centred: Tensor, weight: Tensor, focal: float, skeleton: Skeleton) -> Tensor:
    """Squared error in pixels of each frame with this focal length. -> [T]"""
    image = centred / focal
    pose = turned(body, image, skeleton)
    centre, mean, depth, _ = _least_squares(pose, image, weight)
    points, _ = cameras.image_points(pose + torch.cat((mean + centre * depth, depth), -1).unsqueeze(1), 0.05)
    error = (focal * (points - image)).square().sum(-1)
    return (weight * error).sum(-1) / weight.sum(-1).clamp_min(1e-9)


def _lowest(cost: Tensor, grid: Tensor) -> float:
    """Where a curve over an even grid is lowest, by a parabola through the three lowest points."""
    at = int(cost.argmin())
    if at in (0, len(grid) - 1):
        return float(grid[at])
    before, here, after = cost[at - 1 : at + 2].tolist()
    shift = 0.5 * (before - after) / max(before - 2 * here + after, 1e-12)
    return float(grid[at] + shift * (grid[1] - grid[0]))


def corrected(positions: Tensor, image: Tensor, weight: Tensor, place: str) -> Tensor:
    """The motion as one still camera sees it that fits the keypoints better, by PnP of the whole clip.

    A lifter turns a person by some degrees, always to the same side; a camera that goes around him by as much makes up
    for it. Positions [T, J, 3] in camera coordinates, before and after. They stay where PnP finds nothing better.
    """
    try:
        pose = pnp.solve_static(positions, image, weight, place=place)
    except DatasetError:
        return positions
    moved = cameras.to_camera(positions, pose.extrinsics)
    angle = roma.rotmat_geodesic_distance(pose.extrinsics[:, :3], torch.eye(3).to(moved))
    better = cameras.reprojection(moved, image, weight) < cameras.reprojection(positions, image, weight)
    return moved if better and float(angle) < TURN and float(moved[..., 2].min()) > 0.2 else positions


@dataclass(frozen=True)
class Up:
    """The direction up [3] of unit length in camera coordinates, its standard deviation in radians, and the witness."""

    direction: Tensor
    deviation: float
    witness: str

    @property
    def roll(self) -> float:
        """Radians by which the camera is turned about its axis; positive: the picture leans to the left."""
        return math.atan2(self.direction[0].item(), -self.direction[1].item())

    @property
    def pitch(self) -> float:
        """Radians by which the camera looks up; negative: down."""
        return math.asin(max(-1.0, min(1.0, self.direction[2].item())))


def body_axes(positions: Tensor, skeleton: Skeleton) -> tuple[Tensor, Tensor]:
    """Directions [T, 3] from the ankles to the neck, and which frames show a person who stands. [T, J, 3] ->"""
    joint = {name: positions[:, number] for number, name in enumerate(skeleton.joints)}
    feet, neck = (joint["l_ankle"] + joint["r_ankle"]) / 2, joint["neck"]
    chains = [(joint[f"{s}_hip"], joint[f"{s}_knee"], joint[f"{s}_ankle"]) for s in "lr"]
    straight = torch.ones(len(positions), dtype=torch.bool)
    for first, middle, last in (*chains, (neck, joint["pelvis"], feet)):
        one, other = middle - first, last - middle
        bend = torch.atan2(torch.linalg.cross(one, other).norm(dim=-1), (one * other).sum(-1))
        straight &= bend < STRAIGHT
    return torch.nn.functional.normalize(neck - feet, dim=-1), straight


def resting_feet(positions: Tensor, skeleton: Skeleton, fps: float) -> Tensor:
    """Places [N, 3] of the slower foot where it hardly moves. [T, J, 3] ->"""
    feet = positions[:, [skeleton.index(name) for name in ("l_foot", "r_foot")]]
    speed = torch.linalg.vector_norm(torch.diff(feet, dim=0), dim=-1) * fps
    speed = torch.cat((speed[:1], (speed[1:] + speed[:-1]) / 2, speed[-1:]))
    return feet[(speed < RESTING) & (speed == speed.amin(1, keepdim=True))]


def find_up(clips: list[Tensor], skeleton: Skeleton, fps: float) -> Up:
    """Up in the coordinates of one still camera, from all clips [T, J, 3] that it saw."""
    axes, standing = (torch.cat(part) for part in zip(*(body_axes(clip, skeleton) for clip in clips), strict=True))
    moments = 1 / (MOMENT * fps)
    witness, told, variance = "a level camera", axes.new_tensor((0.0, -1.0, 0.0)), PITCH_SIGMA**2
    if int(standing.sum()) >= FEWEST_STANDING:
        witness, told = "a person who stands", torch.nn.functional.normalize(axes[standing].median(0).values, dim=0)
        variance = AXIS_SIGMA**2 + FRAME_SIGMA**2 / max(standing.sum().item() * moments, 1.0)
    tilt = axes.new_tensor((ROLL_SIGMA**-2, 0.0, PITCH_SIGMA**-2)).diag()
    information = torch.eye(3).to(axes) / variance + tilt
    for clip in clips:  # resting feet speak against a direction that is not at right angles to their plane
        feet = resting_feet(clip, skeleton, fps)
        apart = feet - feet.mean(0)
        if len(feet) >= FEWEST_STANDING:
            information = information + apart.T @ apart / (FOOT_SIGMA**2 * MOMENT * fps)
    direction = torch.nn.functional.normalize(torch.linalg.solve(information, told / variance), dim=0)
    across = torch.linalg.eigvalsh(information)[0].item()
    return Up(direction, across**-0.5, witness)


def world_from_camera(up: Tensor) -> Tensor:
    """Rotation [3, 3] from camera coordinates to a world with y up, in which the camera looks along -z or nearly so."""
    ahead = up.new_tensor((0.0, 0.0, 1.0))
    if abs(up[2].item()) > 0.99:
        ahead = up.new_tensor((0.0, -1.0, 0.0))
    back = torch.nn.functional.normalize(-(ahead - (ahead @ up) * up), dim=0)
    return torch.stack((torch.linalg.cross(up, back), up, back))


def upright(body: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """Positions [T, J, 3] in camera coordinates in a world with y up and the floor at y = 0, and the camera [3, 4]."""
    turn = world_from_camera(up.to(body))
    world = body @ turn.T
    lift = world.new_tensor((0.0, -floor_height(world), 0.0))
    return world + lift, torch.cat((turn.T, -(turn.T @ lift).unsqueeze(-1)), -1)


def upright_moving(
    body: Tensor, image: Tensor, weight: Tensor, skeleton: Skeleton, fps: float, place: str
) -> tuple[Tensor, Tensor]:
    """Positions [T, J, 3] with y up, the floor at y = 0, and the camera of every frame [T, 3, 4], by PnP.

    body [T, J, 3] in the camera coordinates of each frame, image [T, J, 2] on the normalised plane, weight [T, J].
    """
    turn = torch.stack([world_from_camera(up) for up in _ups(body, skeleton, fps)])
    about_root = (body - body[:, :1]) @ turn.transpose(-1, -2)
    world = grounded(about_root + _walked(about_root, skeleton, fps).unsqueeze(1))
    pose = pnp.solve_moving(world, image, weight, place=place)
    return world, pose.extrinsics


def _ups(body: Tensor, skeleton: Skeleton, fps: float) -> Tensor:
    """The direction up [T, 3] in each frame's camera coordinates."""
    half, step = max(1, round(UP_WINDOW * fps)), max(1, round(UP_STEADY * fps))
    at = sorted({*range(0, len(body), step), len(body) - 1})
    found = torch.stack([find_up([body[max(0, t - half) : t + half + 1]], skeleton, fps).direction for t in at])
    known = np.ones((len(at), 1), dtype=bool)
    between = interpolate(np.arange(len(body), dtype=float), np.array(at, float), found[:, None].numpy(), known)[:, 0]
    return torch.nn.functional.normalize(smooth(torch.from_numpy(between), UP_STEADY * fps / 2), dim=-1)


def _walked(about_root: Tensor, skeleton: Skeleton, fps: float) -> Tensor:
    """Where the root is [T, 3] if the lower foot never slides and the lowest joint is on the floor."""
    feet = about_root[:, [skeleton.index(name) for name in ("l_foot", "r_foot")]]
    height = feet[..., 1]
    share = torch.softmax(-(height[1:] + height[:-1]) / 2 / 0.03, -1)  # between feet of nearly one height, both
    step = -(share.unsqueeze(-1) * feet.diff(dim=0)).sum(1)
    way = torch.cat((torch.zeros_like(step[:1]), step.cumsum(0)))
    up = -smooth(about_root[..., 1].amin(-1, keepdim=True), 0.1 * fps)
    return torch.cat((way[:, :1], up, way[:, 2:]), -1)
