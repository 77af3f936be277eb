"""Joint rotations of a motion on a skeleton of constant bone lengths, by inverse kinematics.

The rest pose is the person's own: constant bone lengths, equal on both sides, the arms out to the sides (a T pose).
From the root outwards every bone is aimed at its joint (where bones part, all of them at once), then all rotations of a
frame are refined together by least squares. What remains comes from the motion's own bones changing their length or
the angles between them, and is reported.

How a bone is turned about itself, its ends do not tell. Thighs and upper arms are turned so that knee and elbow bend in
their own plane, the spine's parts share what the chest is turned against the pelvis. Where a limb is straight nothing
tells its twist: it then comes from the frames around, and fades to none.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from videomdm_ext.errors import DatasetError
from videomdm_ext.geometry.rotations import roma, shortest_arc
from videomdm_ext.motion.kinematics import bone_lengths, bone_vectors
from videomdm_ext.motion.skeletons import Skeleton

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
        return _placed(_chained(local, skeleton), self.root, self.offsets, skeleton)


def fit(positions: Tensor, skeleton: Skeleton, fps: float, *, offsets: Tensor | None = None) -> Fitted:
    """Rotations that bring a skeleton to positions [T, J, 3], m; its rest pose is the motion's own or `offsets`."""
    target = checked(positions, skeleton)
    offsets = rest_offsets(target, skeleton) if offsets is None else offsets.to(target)
    turned = aimed(target, offsets, skeleton, fps)
    parts = [
        _refined(each, each[:, 0], start, offsets, skeleton)
        for each, start in zip(target.split(FRAMES), turned.split(FRAMES), strict=True)
    ]
    turned, root = (torch.cat(part) for part in zip(*parts, strict=True))
    off = 1000 * torch.linalg.vector_norm(_placed(turned, root, offsets, skeleton) - target, dim=-1)
    return Fitted(offsets, local_rotations(turned, skeleton), root, off.mean(0), off.amax(0))


def checked(positions: Tensor, skeleton: Skeleton) -> Tensor:
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


def aimed(target: Tensor, offsets: Tensor, skeleton: Skeleton, fps: float, *, starts: Tensor | None = None) -> Tensor:
    """Rotations of the joints' frames in the world, one joint after the other. -> [T, J, 3, 3]

    A bone starts where the frames before it place its joint, or at `starts` [T, J, 3].
    """
    turned: list[Tensor] = []
    placed: list[Tensor] = []
    still = torch.eye(3).to(target).expand(len(target), 3, 3)
    for joint, kids in enumerate(children(skeleton)):
        parent = skeleton.parents[joint]
        frame = turned[parent] if joint else still
        place = placed[parent] + frame @ offsets[joint] if joint else target[:, 0]
        place = place if starts is None else starts[:, joint]
        if len(kids) == 1:
            usual = torch.nn.functional.normalize(frame @ offsets[kids[0]], dim=-1)
            way = torch.nn.functional.normalize(target[:, kids[0]] - place + DOUBT * usual, dim=-1)
            swing = roma.unitquat_to_rotmat(shortest_arc(usual, way)) @ frame
            frame = swing
            if told := cue(joint, target, offsets, skeleton):
                rest, found, share = told
                angle = share * twist(swing, way, rest, found, fps)
                frame = roma.rotvec_to_rotmat(angle[:, None] * way) @ swing
        elif kids:  # all children's offsets are brought to where they are, and the frame is kept near the parent's
            doubt = DOUBT if joint else 0.0
            shape = torch.cat((offsets[list(kids)], doubt * torch.eye(3).to(target))).expand(len(target), -1, -1)
            found = torch.cat((target[:, list(kids)] - place[:, None], doubt * frame.mT), 1)
            frame = roma.rigid_vectors_registration(shape, found)
        turned.append(frame)
        placed.append(place)
    return torch.stack(turned, 1)


def _placed(turned: Tensor, root: Tensor, offsets: Tensor, skeleton: Skeleton) -> Tensor:
    """Positions from the joints' frames in the world. [T, J, 3, 3], [T, 3], [J, 3] -> [T, J, 3]"""
    placed = [root]
    for joint in range(1, skeleton.num_joints):
        parent = skeleton.parents[joint]
        placed.append(placed[parent] + turned[:, parent] @ offsets[joint])
    return torch.stack(placed, 1)


def local_rotations(turned: Tensor, skeleton: Skeleton) -> Tensor:
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
        moved, spun = root + step[:, -1], _chained(roma.rotvec_to_rotmat(step[:, :-1]), skeleton) @ turned
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


def _chained(local: Tensor, skeleton: Skeleton) -> Tensor:
    """Each joint's rotation after those of all that it hangs on. [T, J, 3, 3] -> [T, J, 3, 3]"""
    turned = [local[:, 0]]
    for joint in range(1, skeleton.num_joints):
        turned.append(turned[skeleton.parents[joint]] @ local[:, joint])
    return torch.stack(turned, 1)


# -- the rest pose -----------------------------------------------------------------------------------------------------

DIRECTIONS = {"shoulder": (1.0, 0.0, 0.0), "elbow": (1.0, 0.0, 0.0), "wrist": (1.0, 0.0, 0.0),
              "foot": (0.0, -0.4, 0.9), "head": (0.0, 1.0, 0.0)}  # fmt: skip
"""Where bones to these joints point at rest, on the left side, if not as `Skeleton.rest_directions` has it."""
POSES = 12


def children(skeleton: Skeleton) -> tuple[tuple[int, ...], ...]:
    """The joints whose parent each joint is."""
    return tuple(tuple(k for k, p in enumerate(skeleton.parents) if p == j) for j in range(skeleton.num_joints))


def rest_offsets(positions: Tensor, skeleton: Skeleton) -> Tensor:
    """Every joint in its parent's frame at rest, zero for the root. [T, J, 3] -> [J, 3], m.

    Lengths are medians over time and both sides. Where bones part, as at the pelvis, the angles between them are the
    motion's own: the mean shape of that part of the body, made symmetric.
    """
    lengths = bone_lengths(positions, skeleton).median(-2).values
    lengths = torch.cat((lengths.new_zeros(1), lengths))
    lengths = (lengths + lengths[list(skeleton.mirror)]) / 2
    offsets = torch.nn.functional.normalize(_directions(skeleton).to(positions), dim=-1) * lengths[:, None]
    bones = torch.cat((torch.zeros_like(positions[:, :1]), bone_vectors(positions, skeleton)), 1)
    for kids in children(skeleton):
        if len(kids) > 1:
            offsets = _shaped(offsets, bones, list(kids), skeleton)
    return offsets


def _directions(skeleton: Skeleton) -> Tensor:
    """Unit directions of the bones at rest, [J, 3]."""
    found = []
    for joint, usual in zip(skeleton.joints, skeleton.rest_directions, strict=True):
        side, _, part = joint.rpartition("_")
        x, y, z = DIRECTIONS.get(part, usual)
        found.append((-x if side == "r" and part in DIRECTIONS else x, y, z))
    return torch.tensor(found)


def _shaped(offsets: Tensor, bones: Tensor, kids: list[int], skeleton: Skeleton) -> Tensor:
    """Offsets of one joint's children from the mean of what the motion [T, J, 3] has there, turned into one frame."""
    flip = offsets.new_tensor((-1.0, 1.0, 1.0))
    length = torch.linalg.vector_norm(offsets, dim=-1, keepdim=True)
    for _ in range(POSES):
        shape, found = offsets[kids].expand(len(bones), -1, -1), bones[:, kids]
        turned = roma.rigid_vectors_registration(shape, found)
        mean = torch.zeros_like(offsets)
        mean[kids] = (found @ turned).mean(0)
        mean = torch.nn.functional.normalize(mean + mean[list(skeleton.mirror)] * flip, dim=-1) * length
        offsets = offsets.index_copy(0, torch.tensor(kids), mean[kids])
    return offsets


# -- turns about a bone ------------------------------------------------------------------------------------------------

HINGES = {"hip": (1.0, 0.0, 0.0), "l_shoulder": (0.0, -1.0, 0.0), "r_shoulder": (0.0, 1.0, 0.0)}
"""The axis about which the next joint bends, in a rest pose that does not bend it."""
FOOT = 0.3
"""Weight of the foot's direction beside the knee's bend."""
FAINT, CLEAR = 0.1, 0.4
"""Sines of bend under which a limb is straight, and above which its plane is wholly believed."""
SETTLING, FADING = 0.1, 0.7
"""Seconds over which a twist is smoothed, and over which it fades where nothing tells it."""


def cue(joint: int, target: Tensor, offsets: Tensor, skeleton: Skeleton) -> tuple[Tensor, Tensor, float] | None:
    """What tells the twist of a joint with one child, if anything does.

    An axis of the rest pose [3], where it points in the motion [T, 3], as long as it is clear, and what share of the
    twist this bone takes.
    """
    name, kids = skeleton.joints[joint], children(skeleton)
    hinge = HINGES.get(name) or HINGES.get(name.rpartition("_")[2])
    chain = [joint]
    while len(kids[chain[-1]]) == 1:
        chain.append(kids[chain[-1]][0])
    if name.startswith(("l_", "r_")) and hinge and len(chain) > 2:
        own = torch.linalg.cross(*torch.nn.functional.normalize(offsets[chain[1:3]], dim=-1))
        clear = float(torch.linalg.vector_norm(own)) > CLEAR
        return own if clear else offsets.new_tensor(hinge), _bend(target, chain), 1.0
    pair = [k for side in ("l_", "r_") for k in kids[chain[-1]] if skeleton.joints[k].startswith(side)]
    if len(pair) == 2:
        across = target[:, pair[0]] - target[:, pair[1]]
        found = torch.nn.functional.normalize(across, dim=-1)
        return offsets[pair[0]] - offsets[pair[1]], found, 1 / len(chain)
    return None


def _bend(target: Tensor, chain: list[int]) -> Tensor:
    """The axis of a limb's bend, as long as the sine of the angle; a foot tells a straight leg's sides. -> [T, 3]"""
    ways = torch.nn.functional.normalize(target[:, chain[1:]] - target[:, chain[:-1]], dim=-1).unbind(1)
    axis = torch.linalg.cross(ways[0], ways[1])
    return axis + FOOT * torch.linalg.cross(ways[2], ways[0]) if len(ways) > 2 else axis


def twist(swing: Tensor, way: Tensor, rest: Tensor, found: Tensor, fps: float) -> Tensor:
    """Angle [T] about the unit direction `way` [T, 3] that a bone turned by `swing` [T, 3, 3] has to be turned.

    The axis `rest` [3] of the rest pose then points as `found` [T, 3].
    """
    axis = swing @ rest
    sine = (way * torch.linalg.cross(axis, found)).sum(-1)
    axis, found = (v - (v * way).sum(-1, keepdim=True) * way for v in (axis, found))
    angle = torch.atan2(sine, (axis * found).sum(-1))
    clear = (torch.linalg.vector_norm(found, dim=-1) - FAINT) / (CLEAR - FAINT)
    return _settled(angle, smoothstep(clear), fps)


def smoothstep(share: Tensor) -> Tensor:
    """From 0, at 0 and below, to 1, at 1 and above, level at both ends."""
    share = share.clamp(0, 1)
    return share.square() * (3 - 2 * share)


def _settled(angle: Tensor, weight: Tensor, fps: float) -> Tensor:
    """Angles [T] made continuous and smooth, as near to `angle` as the weights [T] ask for, fading to 0 without any."""
    wanted, last = [], 0.0
    for each, believed in zip(angle.tolist(), weight.tolist(), strict=True):
        near = last + math.remainder(each - last, 2 * math.pi)
        last += believed * (near - last)
        wanted.append(near)
    stiff = (SETTLING * fps) ** 2
    diagonal = (weight + stiff / (FADING * fps) ** 2 + 2 * stiff).tolist()
    diagonal[0] -= stiff
    diagonal[-1] -= stiff
    return angle.new_tensor(
        _tridiagonal(diagonal, -stiff, [w * a for w, a in zip(weight.tolist(), wanted, strict=True)])
    )


def _tridiagonal(diagonal: list[float], beside: float, right: list[float]) -> list[float]:
    """Solve a symmetric system with one value beside its diagonal (Thomas)."""
    above, found = [0.0], [0.0]
    for middle, value in zip(diagonal, right, strict=True):
        pivot = middle - beside * above[-1]
        above.append(beside / pivot)
        found.append((value - beside * found[-1]) / pivot)
    for k in range(len(right) - 1, 0, -1):
        found[k] -= above[k] * found[k + 1]
    return found[1:]
