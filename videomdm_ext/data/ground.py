"""Where up is and where the floor is, told by a person whom a camera saw. Cameras: x right, y down, z forward.

Three witnesses are weighed against each other by least squares: a person who stands straight points up; feet that rest
lie in one plane; and cameras are mostly held level. None is exact: a standing person's axis is off by some degrees.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from videomdm_ext.motion.skeletons import Skeleton

AXIS_SIGMA = math.radians(7.0)
"""Standard deviation of the axis of a person who stands, as a lifter has it, however long one looks."""
FRAME_SIGMA = math.radians(12.0)
"""The same from one moment to another."""
ROLL_SIGMA, PITCH_SIGMA = math.radians(10.0), math.radians(25.0)
"""Standard deviation of the roll and the pitch of other people's cameras."""
FOOT_SIGMA = 0.10
"""Standard deviation of a resting foot's place across the floor, m."""
MOMENT = 0.5
"""Seconds after which errors of a lifter are taken to be independent."""
RESTING = 0.5
"""A foot that is slower than this, m/s, rests."""
STRAIGHT = math.radians(35.0)
"""Largest bend at knees and hips of a person who counts as standing."""
FEWEST = 8
"""Frames of standing, at least; with fewer the camera is taken to be level."""
FLOOR = 0.05
"""Quantile of the lowest joint's height at which the floor is."""


@dataclass(frozen=True)
class Up:
    """The direction up [3] of unit length in camera coordinates, its standard deviation in radians, and who told it."""

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
    feet = _middle(positions, skeleton, "l_ankle", "r_ankle")
    hips, neck = _middle(positions, skeleton, "pelvis"), _middle(positions, skeleton, "neck")
    bends = [_bend(positions, skeleton, f"{s}_hip", f"{s}_knee", f"{s}_ankle") for s in ("l", "r")]
    waist = _angle(neck - hips, hips - feet)
    bend = torch.stack((*bends, waist)).amax(0)
    return torch.nn.functional.normalize(neck - feet, dim=-1), bend < STRAIGHT


def _middle(positions: Tensor, skeleton: Skeleton, *names: str) -> Tensor:
    return positions[:, [skeleton.index(name) for name in names]].mean(1)


def _bend(positions: Tensor, skeleton: Skeleton, *names: str) -> Tensor:
    """Angle [T] by which a chain of three joints is bent; 0: straight."""
    first, middle, last = (positions[:, skeleton.index(name)] for name in names)
    return _angle(middle - first, last - middle)


def _angle(one: Tensor, other: Tensor) -> Tensor:
    return torch.atan2(torch.linalg.cross(one, other).norm(dim=-1), (one * other).sum(-1))


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
    if int(standing.sum()) >= FEWEST:
        witness, told = "a person who stands", torch.nn.functional.normalize(axes[standing].median(0).values, dim=0)
        variance = AXIS_SIGMA**2 + FRAME_SIGMA**2 / max(standing.sum().item() * moments, 1.0)
    tilt = axes.new_tensor((ROLL_SIGMA**-2, 0.0, PITCH_SIGMA**-2)).diag()
    plane = sum((_plane(clip, skeleton, fps) for clip in clips), start=torch.zeros_like(tilt))
    information = torch.eye(3).to(axes) / variance + tilt + plane
    direction = torch.nn.functional.normalize(torch.linalg.solve(information, told / variance), dim=0)
    across = torch.linalg.eigvalsh(information)[0].item()
    return Up(direction, across**-0.5, witness)


def _plane(positions: Tensor, skeleton: Skeleton, fps: float) -> Tensor:
    """What resting feet say against a direction [3] that is not at right angles to their plane. -> [3, 3]"""
    feet = resting_feet(positions, skeleton, fps)
    if len(feet) < FEWEST:
        return positions.new_zeros(3, 3)
    apart = feet - feet.mean(0)
    return apart.T @ apart / (FOOT_SIGMA**2 * MOMENT * fps)


def world_from_camera(up: Tensor) -> Tensor:
    """Rotation [3, 3] from camera coordinates to a world with y up, in which the camera looks along -z or nearly so."""
    ahead = up.new_tensor((0.0, 0.0, 1.0))
    if abs(up[2].item()) > 0.99:
        ahead = up.new_tensor((0.0, -1.0, 0.0))
    back = torch.nn.functional.normalize(-(ahead - (ahead @ up) * up), dim=0)
    return torch.stack((torch.linalg.cross(up, back), up, back))


def floor_height(positions: Tensor) -> float:
    """Height of the floor under a clip [T, J, 3] with y up: a low quantile of each frame's lowest joint."""
    return float(torch.quantile(positions[..., 1].amin(-1), FLOOR))
