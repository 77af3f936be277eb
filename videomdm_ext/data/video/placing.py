"""Where a lifted pose stands in front of a camera, and what lens the camera has. Torch, float64; camera coordinates.

A lifter that sees a person's crop gives joints about the hips, along the axes of a camera that looks straight at them.
Turning them onto the person's own viewing ray and moving them so that they project onto the keypoints is a linear least
squares problem per frame. How well that succeeds depends on the focal length, which is how the focal length is found.
"""

import math
from dataclasses import dataclass

import roma
import torch
from torch import Tensor

from videomdm_ext.errors import DatasetError
from videomdm_ext.geometry import cameras, pnp
from videomdm_ext.geometry.rotations import shortest_arc
from videomdm_ext.motion.kinematics import smooth
from videomdm_ext.motion.skeletons import Skeleton

DEFAULT_FIELD = math.radians(60.0)
"""Field of view of the picture's longer side where nothing tells it: between a phone's and a camera's."""
FIELDS_DEGREES = (20.0, 110.0)
"""Fields of view among which one is looked for."""
FIELDS, BLOCKS = 37, 4
"""Focal lengths that are tried, and parts of a video that are compared to see how sure the result is."""
USUAL = 0.3
"""Relative standard deviation of other people's focal lengths about that of DEFAULT_FIELD."""
SUREST, UNSURE = 0.2, 0.35
"""Relative standard deviation of an estimate: never taken to be less, and useless if it is more."""
EXAMINED = 240
"""Frames that are looked at for the focal length, at most."""
STEADY = 0.1
"""Seconds over which the depth of a person is smoothed."""
TURN = math.radians(30.0)
"""Largest turn of the person by which the camera may be corrected."""


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


def placed(body: Tensor, image: Tensor, weight: Tensor) -> Tensor:
    """Root [T, 3] that lets body [T, J, 3] project nearest to image [T, J, 2]; errors count times depth."""
    u, v = image.unbind(-1)
    x, y, z = body.unbind(-1)
    one, zero = torch.ones_like(u), torch.zeros_like(u)
    rows = torch.cat((torch.stack((one, zero, -u), -1), torch.stack((zero, one, -v), -1)), 1)
    right = torch.cat((u * z - x, v * z - y), 1)
    weighted = rows * torch.cat((weight, weight), 1).unsqueeze(-1)
    matrix = weighted.transpose(-1, -2) @ rows + 1e-9 * torch.eye(3).to(rows)
    return torch.linalg.solve(matrix, (weighted.transpose(-1, -2) @ right.unsqueeze(-1)).squeeze(-1))


def stand(body: Tensor, image: Tensor, weight: Tensor, fps: float, place: str) -> Tensor:
    """The pose [T, J, 3] in camera coordinates, with a steady depth. DatasetError where it is behind the camera.

    Frames without keypoints get a depth between those beside them.
    """
    depth = smooth(_bridged(placed(body, image, weight)[:, 2:], weight.sum(1)), STEADY * fps)
    nearest = float((body[..., 2] + depth).min())
    if nearest < 0.2:
        raise DatasetError(
            f"{place}: expected the person in front of the camera, found a joint at a depth of {nearest:.1f} m. "
            "Is the focal length right?"
        )
    reach = image * (body[..., 2:] + depth.unsqueeze(1)) - body[..., :2]
    across = (weight.unsqueeze(-1) * reach).sum(1) / weight.sum(1, keepdim=True).clamp_min(1e-9)
    return body + torch.cat((_bridged(across, weight.sum(1)), depth), -1).unsqueeze(1)


def _bridged(values: Tensor, weight: Tensor) -> Tensor:
    """Values [T, C] with those of next to no weight [T] replaced by the line between their neighbours."""
    good = (weight > 0.01 * weight.max()).nonzero().squeeze(-1)
    every = torch.arange(len(values))
    after = torch.searchsorted(good, every).clamp(0, len(good) - 1)
    before = (after - (good[after] > every).long()).clamp_min(0)
    span = (good[after] - good[before]).clamp_min(1)
    share = ((every - good[before]) / span).clamp(0, 1).to(values).unsqueeze(-1)
    return values[good[before]] * (1 - share) + values[good[after]] * share


def reprojection(positions: Tensor, image: Tensor, weight: Tensor) -> float:
    """Weighted root mean square distance on the normalised plane of camera points [T, J, 3] from image [T, J, 2]."""
    points, _ = cameras.image_points(positions, 0.05)
    return float(((weight * (points - image).square().sum(-1)).sum() / weight.sum().clamp_min(1e-9)).sqrt())


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
    points, _ = cameras.image_points(pose + placed(pose, image, weight).unsqueeze(1), 0.05)
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
    better = reprojection(moved, image, weight) < reprojection(positions, image, weight)
    return moved if better and float(angle) < TURN and float(moved[..., 2].min()) > 0.2 else positions
