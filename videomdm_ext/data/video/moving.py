"""A person whom a moving camera saw, in a world of his own: standing feet stay where they are.

One camera that moves cannot tell its own turning from the person's; its heading is taken as the world's.
"""

import torch
from torch import Tensor

from videomdm_ext.data import ground
from videomdm_ext.geometry import pnp
from videomdm_ext.motion.kinematics import smooth
from videomdm_ext.motion.skeletons import Skeleton

STEADY = 0.5
"""Seconds over which the direction up of a moving camera is smoothed."""
WINDOW = 1.0
"""Seconds before and after a frame that tell its direction up."""


def upright_moving(
    body: Tensor, image: Tensor, weight: Tensor, skeleton: Skeleton, fps: float, place: str
) -> tuple[Tensor, Tensor]:
    """Positions [T, J, 3] with y up, the floor at y = 0, and the camera of every frame [T, 3, 4], by PnP.

    body [T, J, 3] in the camera coordinates of each frame, image [T, J, 2] on the normalised plane, weight [T, J].
    """
    turn = torch.stack([ground.world_from_camera(up) for up in _ups(body, skeleton, fps)])
    about_root = (body - body[:, :1]) @ turn.transpose(-1, -2)
    world = about_root + _walked(about_root, skeleton, fps).unsqueeze(1)
    world = world - world.new_tensor((0.0, ground.floor_height(world), 0.0))
    pose = pnp.solve_moving(world, image, weight, place=place)
    return world, pose.extrinsics


def _ups(body: Tensor, skeleton: Skeleton, fps: float) -> Tensor:
    """The direction up [T, 3] in each frame's camera coordinates."""
    half, step = max(1, round(WINDOW * fps)), max(1, round(STEADY * fps))
    at = [*range(0, len(body), step), len(body) - 1]
    found = torch.stack([ground.find_up([body[max(0, t - half) : t + half + 1]], skeleton, fps).direction for t in at])
    every = torch.arange(len(body))
    right = torch.searchsorted(torch.tensor(at), every).clamp(1, len(at) - 1)
    times = torch.tensor(at, dtype=body.dtype)
    share = ((every - times[right - 1]) / (times[right] - times[right - 1]).clamp_min(1.0)).unsqueeze(-1)
    between = found[right - 1] * (1 - share) + found[right] * share
    return torch.nn.functional.normalize(smooth(between, STEADY * fps / 2), dim=-1)


def _walked(about_root: Tensor, skeleton: Skeleton, fps: float) -> Tensor:
    """Where the root is [T, 3] if the lower foot never slides and the lowest joint is on the floor."""
    feet = about_root[:, [skeleton.index(name) for name in ("l_foot", "r_foot")]]
    height = feet[..., 1]
    share = torch.softmax(-(height[1:] + height[:-1]) / 2 / 0.03, -1)  # between feet of nearly one height, both
    step = -(share.unsqueeze(-1) * feet.diff(dim=0)).sum(1)
    way = torch.cat((torch.zeros_like(step[:1]), step.cumsum(0)))
    up = -smooth(about_root[..., 1].amin(-1, keepdim=True), 0.1 * fps)
    return torch.cat((way[:, :1], up, way[:, 2:]), -1)
