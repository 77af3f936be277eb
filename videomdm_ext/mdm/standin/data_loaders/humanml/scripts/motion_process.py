"""Positions from the HumanML3D vector. The stored yaw velocity is the half angle."""

import torch


def turn(vectors, half_yaw):
    """Turn vectors [..., 3] about y from the heading frame, whose half yaw is [...], into the clip's frame."""
    sine, cosine = torch.sin(2 * half_yaw), torch.cos(2 * half_yaw)
    x, y, z = vectors.unbind(-1)
    return torch.stack([cosine * x - sine * z, y, sine * x + cosine * z], dim=-1)


def accumulate(velocity):
    """Running sum over frames [..., T, C] that starts at zero and leaves out the last frame's velocity."""
    return torch.cat([torch.zeros_like(velocity[..., :1, :]), velocity[..., :-1, :].cumsum(-2)], dim=-2)


def recover_from_ric(data, joints_num):
    """data [..., T, D] -> positions [..., T, J, 3], from the root channels and the root-relative positions."""
    half_yaw = accumulate(data[..., :1])[..., 0]
    step = torch.stack([data[..., 1], torch.zeros_like(data[..., 1]), data[..., 2]], dim=-1)
    # a step is stored in the heading frame of the frame it leads to
    arrived = torch.cat([half_yaw[..., 1:], half_yaw[..., -1:]], dim=-1)
    ground = accumulate(turn(step, arrived))
    root = torch.cat([ground[..., :1], data[..., 3:4], ground[..., 2:]], dim=-1)
    local = data[..., 4 : 4 + 3 * (joints_num - 1)].unflatten(-1, (joints_num - 1, 3))
    joints = turn(local, half_yaw[..., None]) + ground[..., None, :]
    return torch.cat([root[..., None, :], joints], dim=-2)
