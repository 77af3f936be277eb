"""Joint rotations of a motion on a skeleton of constant bone lengths, by inverse kinematics.

From the root outwards every bone is aimed at its joint (where bones part, all of them at once), then all rotations of a
frame are refined together by least squares. What remains comes from the motion's own bones changing their length or
the angles between them, and is reported.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from videomdm_ext.errors import DatasetError
from videomdm_ext.geometry.rotations import roma, shortest_arc
from videomdm_ext.motion.skeletons import Skeleton
from videomdm_ext.render.rest import children, rest_offsets
from videomdm_ext.render.twist import cue, twist

DOUBT = 0.03
"""How far joints may be off, m: bones as short as this start as they are in their parent's frame."""
ROUNDS = 8
DAMPING = 1e-3
"""Of the least squares, m^2: what no joint tells stays as it is."""
FEET = 10.0
"""Weight of the foot joints' squared errors against 1 for the others, as feet on the floor should not slide."""
FRAMES = 512
"""Frames that are refined at a time."""


@dataclass(frozen=True)
class Fitted:
    """A motion as rotations, and what it leaves of the positions it was fitted to.

    offsets [J, 3], m: every joint in its parent's frame at rest, zero for the root; rotations [T, J, 4]: local unit
    quaternions wxyz, continuous in time; root [T, 3], m; mean_mm and max_mm [J]: how far the joints are from the
    positions, over time.
    """

    offsets: Tensor
    rotations: Tensor
    root: Tensor
    mean_mm: Tensor
    max_mm: Tensor

    def positions(self, skeleton: Skeleton) -> Tensor:
        """Forward kinematics. -> [T, J, 3], m."""
        local = roma.unitquat_to_rotmat(roma.quat_wxyz_to_xyzw(self.rotations))
        turned = [local[:, 0]]
        for joint in range(1, skeleton.num_joints):
            turned.append(turned[skeleton.parents[joint]] @ local[:, joint])
        return _placed(torch.stack(turned, 1), self.root, self.offsets, skeleton)


def fit(positions: Tensor, skeleton: Skeleton, fps: float, *, offsets: Tensor | None = None) -> Fitted:
    """Rotations that bring a skeleton to positions [T, J, 3], m; its rest pose is the motion's own or `offsets`."""
    target = _checked(positions, skeleton)
    offsets = rest_offsets(target, skeleton) if offsets is None else offsets.to(target)
    turned = _aimed(target, offsets, skeleton, fps)
    parts = [
        _refined(each, each[:, 0], start, offsets, skeleton)
        for each, start in zip(target.split(FRAMES), turned.split(FRAMES), strict=True)
    ]
    turned, root = (torch.cat(part) for part in zip(*parts, strict=True))
    off = 1000 * torch.linalg.vector_norm(_placed(turned, root, offsets, skeleton) - target, dim=-1)
    return Fitted(offsets, _local(turned, skeleton), root, off.mean(0), off.amax(0))


def _checked(positions: Tensor, skeleton: Skeleton) -> Tensor:
    positions = torch.as_tensor(positions).double()
    if positions.ndim != 3 or positions.shape[1:] != (skeleton.num_joints, 3) or not len(positions):
        raise DatasetError(
            f"motion: expected positions [T, {skeleton.num_joints}, 3] of {skeleton.name}, found "
            f"{list(positions.shape)}. Name its skeleton."
        )
    if not positions.isfinite().all():
        bad = int((~positions.isfinite()).flatten(1).any(1).sum())
        raise DatasetError(
            f"motion: expected numbers, found others in {bad} of {len(positions)} frames. Sample again, or cut."
        )
    return positions


def _aimed(target: Tensor, offsets: Tensor, skeleton: Skeleton, fps: float) -> Tensor:
    """Rotations of the joints' frames in the world, one joint after the other. -> [T, J, 3, 3]"""
    turned: list[Tensor] = []
    placed: list[Tensor] = []
    still = torch.eye(3).to(target).expand(len(target), 3, 3)
    for joint, kids in enumerate(children(skeleton)):
        parent = skeleton.parents[joint]
        frame = turned[parent] if joint else still
        place = placed[parent] + frame @ offsets[joint] if joint else target[:, 0]
        if len(kids) == 1:
            usual = torch.nn.functional.normalize(frame @ offsets[kids[0]], dim=-1)
            way = torch.nn.functional.normalize(target[:, kids[0]] - place + DOUBT * usual, dim=-1)
            swing = roma.unitquat_to_rotmat(shortest_arc(usual, way)) @ frame
            told = cue(joint, target, offsets, skeleton)
            angle = twist(swing, way, told, fps) if told else torch.zeros_like(way[:, 0])
            frame = roma.rotvec_to_rotmat(angle[:, None] * way) @ swing
        elif kids:
            doubt = DOUBT if joint else 0.0
            frame = _joined(frame, offsets[list(kids)], target[:, list(kids)] - place[:, None], doubt)
        turned.append(frame)
        placed.append(place)
    return torch.stack(turned, 1)


def _joined(frame: Tensor, shape: Tensor, found: Tensor, doubt: float) -> Tensor:
    """Frames that bring the offsets [K, 3] of all children to where they are, [T, K, 3], and keep near the parent's."""
    shape = torch.cat((shape, doubt * torch.eye(3).to(shape))).expand(len(found), -1, -1)
    return roma.rigid_vectors_registration(shape, torch.cat((found, doubt * frame.mT), 1))


def _placed(turned: Tensor, root: Tensor, offsets: Tensor, skeleton: Skeleton) -> Tensor:
    """Positions from the joints' frames in the world. [T, J, 3, 3], [T, 3], [J, 3] -> [T, J, 3]"""
    placed = [root]
    for joint in range(1, skeleton.num_joints):
        parent = skeleton.parents[joint]
        placed.append(placed[parent] + turned[:, parent] @ offsets[joint])
    return torch.stack(placed, 1)


def _local(turned: Tensor, skeleton: Skeleton) -> Tensor:
    """Local rotations of frames in the world, each quaternion on the side of the one before. -> [T, J, 4], wxyz"""
    parents = turned[:, list(skeleton.parents[1:])]
    local = torch.cat((turned[:, :1], parents.mT @ turned[:, 1:]), 1)
    quaternions = roma.quat_xyzw_to_wxyz(roma.rotmat_to_unitquat(local))
    near = (quaternions[1:] * quaternions[:-1]).sum(-1) < 0
    signs = torch.cat((near.new_zeros(1, near.shape[1]), near)).cumsum(0) % 2
    return quaternions * (1 - 2 * signs[..., None])


def _refined(
    target: Tensor, root: Tensor, turned: Tensor, offsets: Tensor, skeleton: Skeleton
) -> tuple[Tensor, Tensor]:
    """Frames and root nearer to the target: damped Gauss-Newton, each step kept in the frames where it helps."""
    weight = target.new_ones(skeleton.num_joints)
    weight[list(skeleton.contact_joints)] = FEET
    below = _below(skeleton).to(target)
    placed = _placed(turned, root, offsets, skeleton)
    cost = _cost(placed, target, weight)
    for _ in range(ROUNDS):
        step = _step(placed, target, weight, below)
        moved, spun = root + step[:, -1], _turned_by(step[:, :-1], turned, skeleton)
        tried = _placed(spun, moved, offsets, skeleton)
        better = _cost(tried, target, weight) < cost
        root = torch.where(better[:, None], moved, root)
        turned = torch.where(better[:, None, None, None], spun, turned)
        placed = torch.where(better[:, None, None], tried, placed)
        cost = _cost(placed, target, weight)
    return turned, root


def _cost(placed: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    return ((placed - target).square().sum(-1) * weight).sum(-1)


def _below(skeleton: Skeleton) -> Tensor:
    """1 where joint k (row) hangs on joint j (column), [J, J]."""
    below = torch.zeros(skeleton.num_joints, skeleton.num_joints)
    for joint in range(1, skeleton.num_joints):
        parent = skeleton.parents[joint]
        below[joint] = below[parent]
        below[joint, parent] = 1.0
    return below


def _step(placed: Tensor, target: Tensor, weight: Tensor, below: Tensor) -> Tensor:
    """A turn in the world for every joint, radians, and the root's move behind them, m. -> [T, J + 1, 3]"""
    arms = (placed[:, :, None] - placed[:, None]) * below[..., None]
    slopes = torch.linalg.cross(torch.eye(3).to(arms).expand(*arms.shape, 3), arms[..., None, :]).mT
    whole = torch.eye(3).to(placed).expand(*placed.shape[:2], 1, 3, 3)
    rows = torch.cat((slopes, whole), 2).permute(0, 1, 3, 2, 4).flatten(3).flatten(1, 2)
    weights = weight.repeat_interleave(3)[:, None]
    matrix = rows.mT @ (weights * rows) + DAMPING * torch.eye(rows.shape[-1]).to(placed)
    right = rows.mT @ (weights * (target - placed).flatten(1)[..., None])
    return torch.linalg.solve(matrix, right).squeeze(-1).unflatten(-1, (-1, 3))


def _turned_by(turns: Tensor, turned: Tensor, skeleton: Skeleton) -> Tensor:
    """Frames in the world after each joint, with all that hangs on it, is turned by [T, J, 3], radians."""
    own = roma.rotvec_to_rotmat(turns)
    all_of = [own[:, 0]]
    for joint in range(1, skeleton.num_joints):
        all_of.append(all_of[skeleton.parents[joint]] @ own[:, joint])
    return torch.stack(all_of, 1) @ turned
