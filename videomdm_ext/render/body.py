"""A human mesh on a motion of 22 joints: sized to its bones, on a rig whose joints are the given ones in every frame.

The rig is the 22 joints and two more along every thigh, upper arm and forearm, so that what a limb is turned about
itself is spread along it. Limbs rest as the mesh has them, the trunk as the motion has it. What joints leave open is
chosen with the floor at 0 in mind: feet near it stand flat, toes bend before they would go through it, hands turn their
palms to it and bend at the wrist. V vertices, R joints of the rig, T frames.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from videomdm_ext.geometry.rotations import roma, shortest_arc
from videomdm_ext.motion.human_mesh import SEGMENTS, Body, trunk_frame
from videomdm_ext.motion.kinematics import smooth
from videomdm_ext.motion.skeletons import SMPL22, Bone, Skeleton
from videomdm_ext.render.fitting import Fitted, aimed, checked, local_rotations, rest_offsets, smoothstep
from videomdm_ext.render.glb import Colour, Mesh, Part, at_rest, normals_of, strongest

TWISTED = {"hip": "knee", "shoulder": "elbow", "elbow": "wrist"}
"""Limbs that two joints more divide, by the joints at their ends."""
OPEN = {"hip": (0.0, -0.8, 0.6), "shoulder": (0.8, -0.2, 0.5)}
"""Where a left limb points when it is far from all directions that it cannot reach: twist is none on the shortest way
from there."""
GIRTHS = (0.85, 1.15)
"""A trunk is at most as much slender or wide as this, against the mesh's own at that size."""
ANKLES, TOES = (0.02, 0.14), (0.0, 0.06)
"""Least and most height of ankles above toes, and of toes above the floor, of a foot that stands, m."""
LOW = 0.05
"""Quantile over time of what is low."""
TILT = 0.42
"""Most that the neck is taken to lean in a straight posture, radians."""
NEAR_FOOT, NEAR_HAND = (0.03, 0.15), (0.12, 0.3)
"""Heights above the floor, m, up to which a foot or hand is laid on it, and from which it is not."""
ROLL, PALM = 0.45, 1.4
"""Most that a foot and a palm are turned for it, radians."""
BENDS = {"foot": (-0.5, 1.0), "wrist": (0.0, 1.9)}
"""Most that toes and hands are bent for it, down and up, radians."""
STEPS = 57
SETTLING = 0.08
"""Seconds over which such turns are smoothed."""
SAMPLED = 150
"""Vertices of toes or a hand that are kept off the floor."""
DRESS: dict[str, Colour] = {
    "skin": (0.62, 0.36, 0.24),
    "shirt": (0.12, 0.29, 0.42),
    "trousers": (0.06, 0.07, 0.11),
    "shoes": (0.06, 0.035, 0.025),
    "hair": (0.05, 0.03, 0.02),
}
"""Regions of the surface and their colours, linear red, green and blue."""
WORN = {"shirt": ("abdomen", "waist", "chest", "shoulder", "upper_arm"), "trousers": ("pelvis", "thigh", "shin"),
        "shoes": ("foot",)}  # fmt: skip
"""Segments that clothes cover, without their sides."""
PARTS = [name.partition("_")[2] if name[1] == "_" else name for name in SEGMENTS]
"""Names of SEGMENTS without their sides."""


def _rig() -> Skeleton:
    bones, behind = list[Bone](), dict[str, str]()
    for bone in SMPL22.bones:
        bones.append(Bone(bone.joint, behind.get(bone.parent or "", bone.parent), bone.rest))
        if bone.joint.partition("_")[2] in TWISTED:
            for number in (1, 2):
                bones.append(Bone(f"{bone.joint}_twist{number}", bones[-1].joint, bone.rest))
            behind[bone.joint] = bones[-1].joint
    return Skeleton("smpl22 with twists", tuple(bones), SMPL22.chain_starts, SMPL22.face, SMPL22.contacts)


RIG = _rig()
LIMBS = tuple((f"{side}_{start}", f"{side}_{end}") for side in "lr" for start, end in TWISTED.items())
RIGGED = [RIG.index(joint) for joint in SMPL22.joints]
"""Where the 22 joints are in the rig."""


def of(joint: str) -> int:
    """The number of one of the 22 joints."""
    return SMPL22.index(joint)


@dataclass(frozen=True)
class Worn:
    """A mesh and how it moves: rotations of its skeleton (RIG), and places [T, R, 3] of the joints in their parents'
    frames, m; frames [T, 22, 3, 3] of the 22 joints in the world, limbs' as at their ends; twists [T, 6], radians, of
    LIMBS; heights of ankles and foot joints that stand, m."""

    mesh: Mesh
    fitted: Fitted
    shifts: Tensor
    frames: Tensor
    twists: Tensor
    heights: tuple[float, float]


def wear(body: Body, positions: Tensor, fps: float) -> Worn:
    """Put a mesh on a motion [T, 22, 3], m, y up, the floor at 0. DatasetError where it is no motion of 22 joints."""
    target = checked(positions, SMPL22)
    ankle, toes = _standing(target)
    offsets = _rest(body, target, ankle - toes)
    joints = at_rest(offsets, SMPL22)
    vertices = _sized(body, joints, ankle)
    weights = _weights(body)
    owners, shares = strongest(weights)
    mesh = Mesh(vertices, normals_of(vertices, body.faces), owners, shares, _dressed(body))
    frames = aimed(target, offsets, SMPL22, fps, starts=target)
    frames = _flat_feet(frames, target, ankle, fps)
    palms = {f"{side}_wrist": _palm(vertices, weights, joints, f"{side}_wrist") for side in "lr"}
    turns = {joint: _facing_floor(frames, target, offsets, joint, palm, fps) for joint, palm in palms.items()}
    for joint, turn in turns.items():
        frames[:, of(joint)] = (
            _about(target[:, of(joint)] - target[:, SMPL22.parents[of(joint)]], turn) @ frames[:, of(joint)]
        )
    for joint in ("l_foot", "r_foot", *palms):
        tip = vertices[weights[:, RIG.index(joint)] > 0.5] - joints[of(joint)]
        way, most = joints[of(joint)] - joints[SMPL22.parents[of(joint)]], BENDS[joint[2:]]
        axis = torch.linalg.cross(way, -palms[joint]) if joint in palms else way.new_tensor((-1.0, 0.0, 0.0))
        bend = _kept_up(frames[:, of(joint)], target[:, of(joint)], tip, normalize(axis, dim=-1), most, fps)
        frames[:, of(joint)] = frames[:, of(joint)] @ bend
    return _rigged(mesh, frames, target, offsets, turns, (ankle, toes))


# -- size and shape ----------------------------------------------------------------------------------------------------


def _standing(target: Tensor) -> tuple[float, float]:
    """Heights of ankles and foot joints, m, when feet stand."""
    ankle, toes = (
        float(target[:, [of(f"{side}_{joint}") for side in "lr"], 1].flatten().quantile(LOW))
        for joint in ("ankle", "foot")
    )
    toes = min(max(toes, TOES[0]), TOES[1])
    return toes + min(max(ankle - toes, ANKLES[0]), ANKLES[1]), toes


def _rest(body: Body, target: Tensor, drop: float) -> Tensor:
    """Offsets [22, 3] of the motion's own lengths; limbs as the mesh has them, feet flat, the head straight."""
    offsets, old = rest_offsets(target, SMPL22), body.joints.to(target)
    for joint in (f"{side}_{name}" for side in "lr" for name in ("knee", "ankle", "foot", "elbow", "wrist")):
        one, parent = of(joint), SMPL22.parents[of(joint)]
        length = torch.linalg.vector_norm(offsets[one])
        way = old[one] - old[parent]
        if joint.endswith("foot"):
            down = min(drop, 0.9 * float(length))
            flat = normalize(way * way.new_tensor((1.0, 0.0, 1.0)), dim=-1)
            offsets[one] = flat * (length.square() - down**2).sqrt() - way.new_tensor((0.0, down, 0.0))
        else:
            offsets[one] = normalize(way, dim=-1) * length
    neck, head = of("neck"), of("head")
    chest = trunk_frame(target, "spine3", "neck", "shoulder")
    lean = (chest.mT @ (target[:, head] - target[:, neck]).unsqueeze(-1)).squeeze(-1).median(0).values
    angle = min(max(float(torch.atan2(lean[2], lean[1])), -TILT), TILT)
    up = lean.new_tensor((0.0, math.cos(angle), math.sin(angle)))
    offsets[head] = up * torch.linalg.vector_norm(offsets[head])
    return offsets


def _sized(body: Body, joints: Tensor, ankle: float) -> Tensor:
    """The mesh's vertices [V, 3] around the rest pose [22, 3] of a motion whose ankles stand at this height, m."""
    old, points = body.joints.to(joints), body.vertices.to(joints)
    girth = _span(joints) / _span(old)
    hips, hips_old = ((each[of("l_hip")] + each[of("r_hip")]) / 2 for each in (joints, old))

    def wide(joint: str) -> float:
        ratio = float((joints[of(joint)] - hips)[0] / (old[of(joint)] - hips_old)[0])
        return min(max(ratio, GIRTHS[0] * girth), GIRTHS[1] * girth)

    def trunk(points: Tensor) -> Tensor:
        x, y, z = (points - hips_old).unbind(-1)
        rise, rise_old = joints[of("neck")] - hips, old[of("neck")] - hips_old
        share = (y / rise_old[1]).clamp(0, 1)
        across = wide("l_hip") + smoothstep(share) * (wide("l_shoulder") - wide("l_hip"))
        up = share * rise[1] + girth * (y - share * rise_old[1])
        return torch.stack((across * x, up, girth * z + share * (rise[2] - girth * rise_old[2])), -1) + hips

    floor, floor_old = joints[of("l_ankle"), 1] - ankle, points[:, 1].min()
    found = torch.zeros_like(points)
    for number, (part, segment) in enumerate(zip(PARTS, SEGMENTS.values(), strict=True)):
        start, end = of(segment.start), of(segment.end)
        at, at_old, goal = joints[start], old[start], joints[end].clone()
        if part in ("pelvis", "abdomen", "waist", "chest", "shoulder"):
            placed = trunk(points)
            if part == "shoulder":  # its outer end goes where the arm is
                outward = (points[:, :1] / old[end, 0]).clamp(0, 1)
                placed = placed + outward * (joints[end] - trunk(old[end]))
        elif part in ("neck", "head", "hand"):
            joint = end if part == "hand" else start
            placed = joints[joint] + girth * (points - old[joint])
        else:
            sole = floor + girth * (old[of("l_ankle"), 1] - floor_old)  # how high the mesh's own ankle stands
            if part == "shin":
                goal[1] = sole
            elif part == "foot":
                at = torch.stack((at[0], sole, at[2]))
            bone, new = old[end] - at_old, goal - at
            if part == "foot":
                bone, new = (v * v.new_tensor((1.0, 0.0, 1.0)) for v in (bone, new))
            stretch = float(torch.linalg.vector_norm(new) / torch.linalg.vector_norm(bone)) - girth
            along = torch.outer(bone, bone) / bone.square().sum()
            placed = at + (points - at_old) @ (girth * torch.eye(3).to(points) + stretch * along)
        found += body.weights[:, number, None] * placed
    return found


def _span(joints: Tensor) -> float:
    """How large a person is, m: limbs and trunk."""
    limbs = [(f"{s}_{a}", f"{s}_{b}") for s in "lr" for a, b in (*TWISTED.items(), ("knee", "ankle"))]
    trunk = joints[of("neck")] - (joints[of("l_hip")] + joints[of("r_hip")]) / 2
    bones = [trunk, *(joints[of(end)] - joints[of(start)] for start, end in limbs)]
    return float(torch.linalg.vector_norm(torch.stack(bones), dim=-1).sum())


def _weights(body: Body) -> Tensor:
    """What each joint of the rig moves of the vertices, [V, R]: limbs by three joints each, from end to end."""
    points, joints, found = body.vertices, body.joints, body.weights.new_zeros(len(body.vertices), RIG.num_joints)
    for number, (name, segment) in enumerate(SEGMENTS.items()):
        start, end, own = of(segment.start), of(segment.end), body.weights[:, number]
        bone = joints[end] - joints[start]
        along = (points - joints[start]) @ bone / bone.square().sum()
        if (segment.start, segment.end) in LIMBS and not segment.rigid:
            first = RIG.index(segment.start)
            for k in range(3):
                found[:, first + k] += own * (1 - (2 * along.clamp(0, 1) - k).abs()).clamp_min(0)
        elif name.endswith("foot"):
            toes = ((along - 0.85) / 0.3).clamp(0, 1)
            found[:, RIG.index(segment.end)] += own * toes
            found[:, RIG.index(segment.start)] += own * (1 - toes)
        else:
            joint = segment.end if segment.rigid else segment.start
            found[:, RIG.index(joint)] += own
    return found


def regions(body: Body) -> Tensor:
    """Which of DRESS each vertex is, [V]."""
    kinds = {part: list(DRESS).index(kind) for kind, worn in WORN.items() for part in worn}
    own = body.weights.argmax(-1)
    found = torch.tensor([kinds.get(part, 0) for part in PARTS])[own]
    head = own == PARTS.index("head")
    _, y, z = body.vertices.unbind(-1)
    if head.any():
        top, back = y[head].max(), z[head].mean() - 0.01
        found[head & ((y > top - 0.075) | ((z < back) & (y > top - 0.2)))] = list(DRESS).index("hair")
    return found


def _dressed(body: Body) -> tuple[Part, ...]:
    kinds = regions(body)[body.faces].median(-1).values
    return tuple(
        Part(name, colour, body.faces[kinds == number])
        for number, (name, colour) in enumerate(DRESS.items())
        if (kinds == number).any()
    )


# -- what the joints leave open ----------------------------------------------------------------------------------------


def _about(axis: Tensor, angle: Tensor) -> Tensor:
    """Rotations [..., 3, 3] about axes [..., 3] of any length, radians."""
    return roma.rotvec_to_rotmat(normalize(axis, dim=-1) * angle.unsqueeze(-1))


def _near(height: Tensor, bounds: tuple[float, float]) -> Tensor:
    """1 up to the lower height, 0 from the upper one."""
    return smoothstep((bounds[1] - height) / (bounds[1] - bounds[0]))


def _towards(axis: Tensor, found: Tensor, wanted: Tensor) -> Tensor:
    """The angle [T] about unit axes that brings directions nearest to another, as far as that is clear, radians."""
    flat, aim = (v - (v * axis).sum(-1, keepdim=True) * axis for v in (found, wanted.expand_as(found)))
    angle = torch.atan2((torch.linalg.cross(flat, aim) * axis).sum(-1), (flat * aim).sum(-1))
    return angle * ((torch.linalg.vector_norm(aim, dim=-1) - 0.1) / 0.3).clamp(0, 1)


def _smooth(values: Tensor, fps: float) -> Tensor:
    """Values [T] under a bell of SETTLING seconds."""
    return smooth(values[:, None], SETTLING * fps).squeeze(-1)


def _flat_feet(frames: Tensor, target: Tensor, ankle: float, fps: float) -> Tensor:
    """Feet near the floor turn about themselves until they stand flat."""
    frames, up = frames.clone(), target.new_tensor((0.0, 1.0, 0.0))
    for side in "lr":
        joint, toes = of(f"{side}_ankle"), of(f"{side}_foot")
        way = normalize(target[:, toes] - target[:, joint], dim=-1)
        sole = frames[:, joint, :, 1]
        near = _near(target[:, joint, 1] - ankle, NEAR_FOOT) * sole[:, 1].clamp(0, 1)
        angle = _smooth(near * _towards(way, sole, up).clamp(-ROLL, ROLL), fps)
        frames[:, joint] = _about(way, angle) @ frames[:, joint]
        frames[:, toes] = frames[:, joint]
    return frames


def _palm(vertices: Tensor, weights: Tensor, joints: Tensor, wrist: str) -> Tensor:
    """The unit direction out of a resting palm, [3]: the hand is flattest along it, and it looks at the body."""
    hand = vertices[weights[:, RIG.index(wrist)] > 0.5]
    _, _, axes = torch.linalg.svd(hand - hand.mean(0), full_matrices=False)
    return axes[2] * -torch.sign(axes[2, 0] * joints[of(wrist), 0])


def _facing_floor(frames: Tensor, target: Tensor, offsets: Tensor, wrist: str, palm: Tensor, fps: float) -> Tensor:
    """Angles [T], radians, about the forearm that turn the palm of a hand near the floor to it."""
    joint, elbow = of(wrist), SMPL22.parents[of(wrist)]
    way = normalize(target[:, joint] - target[:, elbow], dim=-1)
    near = _near(target[:, joint, 1], NEAR_HAND)
    angle = _towards(way, frames[:, elbow] @ palm, target.new_tensor((0.0, -1.0, 0.0)))
    return _smooth(near * angle.clamp(-PALM, PALM), fps)


def _kept_up(
    frames: Tensor, places: Tensor, tip: Tensor, axis: Tensor, bounds: tuple[float, float], fps: float
) -> Tensor:
    """Turns [T, 3, 3] about an axis of the rest pose, the least in bounds that keep vertices [N, 3] off the floor."""
    if not len(tip):
        return torch.eye(3).to(frames).expand_as(frames)
    tip = tip[torch.linspace(0, len(tip) - 1, min(SAMPLED, len(tip))).long()]
    angles = torch.linspace(*bounds, STEPS).to(frames)
    angles = angles[angles.abs().argsort()]
    turned = roma.rotvec_to_rotmat(angles[:, None] * axis) @ tip.T  # [STEPS, 3, N]
    lowest = torch.stack([(frames[:, 1] @ each).amin(-1) for each in turned], -1) + places[:, 1:2]
    enough = lowest > lowest.amax(-1, keepdim=True).clamp_max(0.0) - 1e-3
    return roma.rotvec_to_rotmat(_smooth(angles[enough.int().argmax(-1)], fps)[:, None] * axis)


def _twist(frames: Tensor, above: Tensor, rest: Tensor, start: str) -> Tensor:
    """How far a limb is turned about itself against the joint above it, [T], radians, continuous."""
    open_ = rest.new_tensor(OPEN[start[2:]]) * rest.new_tensor((1.0 if start[0] == "l" else -1.0, 1.0, 1.0))
    open_, rest = normalize(open_, dim=-1), normalize(rest, dim=-1)
    way = (frames @ rest).contiguous()
    swing = roma.unitquat_to_rotmat(shortest_arc(above @ open_, way)) @ above
    swing = swing @ roma.unitquat_to_rotmat(shortest_arc(rest, open_))
    turn = roma.rotmat_to_unitquat(swing.mT @ frames)
    angle = 2 * torch.atan2(turn[:, :3] @ rest, turn[:, 3])
    jumps = torch.cat((angle[:1], angle.diff()))
    angle = (torch.remainder(jumps + torch.pi, 2 * torch.pi) - torch.pi).cumsum(0)
    return angle - 2 * torch.pi * torch.round(angle.mean() / (2 * torch.pi))


def _rigged(
    mesh: Mesh, frames: Tensor, target: Tensor, offsets: Tensor, turns: dict[str, Tensor], heights: tuple[float, float]
) -> Worn:
    """The rig's rotations and places from the frames of the 22 joints, and what the forearms are turned."""
    count, joints = len(target), RIG.num_joints
    turned, placed = frames.new_zeros(count, joints, 3, 3), target.new_zeros(count, joints, 3)
    turned[:, RIGGED], placed[:, RIGGED] = frames, target
    rest, twists, outer = target.new_zeros(joints, 3), [], frames.clone()
    rest[RIGGED] = offsets
    for start, end in LIMBS:
        one, first, bone = of(start), RIG.index(start), offsets[of(end)]
        if end in turns:
            angle = turns[end]
            outer[:, one] = _about(frames[:, one] @ bone, angle) @ frames[:, one]
        else:
            angle = _twist(frames[:, one], frames[:, SMPL22.parents[one]], bone, start)
        twists.append(angle)
        rest[[first + 1, first + 2, RIG.index(end)]] = bone / 3
        for k in range(3):
            turned[:, first + k] = _about(outer[:, one] @ bone, (k / 2 - 1) * angle) @ outer[:, one]
            placed[:, first + k] = torch.lerp(target[:, one], target[:, of(end)], k / 3)
    parents = list(RIG.parents[1:])
    local = (turned[:, parents].mT @ (placed[:, 1:] - placed[:, parents]).unsqueeze(-1)).squeeze(-1)
    shifts = torch.cat((placed[:, :1], local), 1)
    exact = target.new_zeros(joints)
    fitted = Fitted(rest, local_rotations(turned, RIG), target[:, 0], exact, exact)
    return Worn(mesh, fitted, shifts, outer, torch.stack(twists, -1), heights)


# -- in the page -------------------------------------------------------------------------------------------------------


def shapes(worn: Worn, model: Worn) -> Tensor:
    """What makes another size of a body out of a model: an affine map about every joint of the rig, [R, 3, 4]."""
    offsets, rest = worn.fitted.offsets, model.fitted.offsets
    girth = _span(at_rest(offsets, RIG)[RIGGED]) / _span(at_rest(rest, RIG)[RIGGED])
    maps = torch.eye(3, 4).to(offsets).repeat(RIG.num_joints, 1, 1) * girth
    for limb in (*LIMBS, ("l_knee", "l_ankle"), ("r_knee", "r_ankle")):
        start, end = (RIG.index(joint) for joint in limb)
        bone, new = rest[end], offsets[end]
        stretch = torch.linalg.vector_norm(new) / torch.linalg.vector_norm(bone) - girth
        maps[start : start + (1 if limb[0].endswith("knee") else 3), :, :3] += (
            stretch * torch.outer(bone, bone) / bone.square().sum()
        )
    for joint, new_height, height in zip(("ankle", "foot"), worn.heights, model.heights, strict=True):
        for side in "lr":  # soles stand on the floor
            maps[RIG.index(f"{side}_{joint}"), 1, 3] = girth * height - new_height
    return maps
