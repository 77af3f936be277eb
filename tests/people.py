"""People, cameras and exact observations that the tests of geometry, motion and supervision share."""

import math
from functools import cache
from typing import Any

import roma
import torch
from torch import Tensor

from videomdm_ext.data.motions import load_motions
from videomdm_ext.geometry.cameras import orbit, project, uniform
from videomdm_ext.geometry.rotations import yaw_quaternion
from videomdm_ext.motion.features import FeatureSpace, decode, encode, mean_and_std
from videomdm_ext.motion.kinematics import RAW, HeadingRule, canonicalise, heading
from videomdm_ext.motion.skeletons import SMPL22, Skeleton
from videomdm_ext.supervision.observation import Observation


def random_motion(
    skeleton: Skeleton,
    batch: tuple[int, ...],
    frames: int,
    generator: torch.Generator,
    *,
    bend: float = 0.3,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Canonical motions [*batch, T, J, 3] of people with constant bones who wander, turn and bend every joint."""
    bones = skeleton.num_joints - 1
    rest = torch.tensor(skeleton.rest_directions[1:], dtype=torch.float64)
    direction = rest + bend * curves(batch, frames, (bones, 3), generator)
    direction = direction / torch.linalg.vector_norm(direction, dim=-1, keepdim=True)
    lengths = torch.tensor([0.1 if joint.endswith("hip") else 0.25 for joint in skeleton.joints[1:]])
    vectors = turned(direction * lengths.double()[:, None], 2.0 * curves(batch, frames, (1,), generator))
    root = curves(batch, frames, (3,), generator) * torch.tensor((1.5, 0.1, 1.5)) + torch.tensor((0.0, 1.0, 0.0))
    placed = [root]
    for joint in range(1, skeleton.num_joints):
        placed.append(placed[skeleton.parents[joint]] + vectors[..., joint - 1, :])
    return canonicalise(torch.stack(placed, -2), skeleton)[0].to(dtype)


def curves(batch: tuple[int, ...], frames: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Smooth random curves of about unit size, [*batch, T, *shape], float64."""
    time = torch.arange(frames, dtype=torch.float64).view(-1, *(1,) * len(shape))
    total = torch.zeros(*batch, frames, *shape, dtype=torch.float64)
    for period in (120.0, 47.0, 19.0):
        phase = torch.rand(*batch, 1, *shape, dtype=torch.float64, generator=generator)
        total += period / 120.0 * torch.sin(2 * math.pi * (time / period + phase))
    return total


def turned(vectors: Tensor, angle: Tensor) -> Tensor:
    """Vectors [..., 3] about +y by `angle` [...], written out: z towards x."""
    x, y, z = vectors.unbind(-1)
    return torch.stack((x * angle.cos() + z * angle.sin(), y + 0 * angle, z * angle.cos() - x * angle.sin()), -1)


@cache
def real_motions() -> dict[str, Tensor]:
    """The bundled clips by name, [T, 22, 3] float32, canonical."""
    return {motion.name: torch.from_numpy(motion.positions) for motion in load_motions()}


def decoded(features: Any, skeleton: Skeleton = SMPL22) -> Any:
    """-> the positions [T, J, 3] that stored features [T, D] hold, float64, in numpy."""
    return decode(torch.as_tensor(features).double(), skeleton).numpy()


def real_batch(frames: int = 40, dtype: torch.dtype = torch.float32) -> Tensor:
    """The start of every bundled clip that is long enough, [B, T, 22, 3]."""
    clips = [clip[:frames] for clip in real_motions().values() if len(clip) >= frames]
    return canonicalise(torch.stack(clips).to(dtype), SMPL22)[0]


def space_of(positions: Tensor, skeleton: Skeleton, rule: HeadingRule = RAW) -> FeatureSpace:
    """The feature space of the motions [B, T, J, 3]."""
    raw = encode(positions, skeleton, heading(positions, skeleton, rule))
    return FeatureSpace(skeleton, *mean_and_std(list(raw), skeleton), rule)


def features_of(positions: Tensor, space: FeatureSpace) -> Tensor:
    """Host tensors [B, D, 1, T] of motions [B, T, J, 3]."""
    return space.features(encode(positions, space.skeleton, heading(positions, space.skeleton, space.rule)))


def orbiting(
    batch: tuple[int, ...],
    generator: torch.Generator,
    *,
    elevation: tuple[float, float] = (-0.2, 0.6),
    distance: tuple[float, float] = (5.0, 7.0),
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Random cameras that look at one metre above the origin, [*batch, 3, 4]."""
    target = torch.tensor((0.0, 1.0, 0.0), dtype=dtype).expand(*batch, 3)
    bounds = ((-math.pi, math.pi), elevation, distance)
    return orbit(*(uniform(*bound, batch, generator).to(dtype) for bound in bounds), target)


def observe(positions: Tensor, cameras: Tensor, **changes: Tensor) -> Observation:
    """What still cameras [B, 3, 4] see of motions [B, T, J, 3], exactly and with full confidence."""
    extrinsics = cameras.unsqueeze(1).expand(*positions.shape[:2], 3, 4)
    seen = {
        "keypoints": project(positions, extrinsics)[0],
        "confidence": torch.ones_like(positions[..., 0]),
        "extrinsics": extrinsics,
        "initial_heading": torch.zeros_like(positions[:, 0, 0, 0]),
        "valid": torch.ones(positions.shape[:2], dtype=torch.bool),
    }
    return Observation.of(**(seen | changes))


def matrix_from_6d(columns: Tensor) -> Tensor:
    """Rotation matrices from two columns by Gram-Schmidt. [..., 6] -> [..., 3, 3]."""
    return roma.special_gramschmidt(columns.unflatten(-1, (2, 3)).transpose(-1, -2))


def forward_kinematics(
    rotations: Tensor, headings: Tensor, root: Tensor, lengths: Tensor, skeleton: Skeleton
) -> Tensor:
    """Positions from local 6D rotations [..., J - 1, 6], headings [...], root [..., 3] and lengths [..., J - 1].

    The inverse of `inverse_kinematics` for a person with these bone lengths. -> [..., J, 3].
    """
    local = matrix_from_6d(rotations)
    turned = [roma.unitquat_to_rotmat(yaw_quaternion(-headings))]
    placed = [root]
    for joint in range(1, skeleton.num_joints):
        turned.append(turned[skeleton.rotation_parents[joint]] @ local[..., joint - 1, :, :])
        bone = turned[joint] @ root.new_tensor(skeleton.rest_directions[joint])
        placed.append(placed[skeleton.parents[joint]] + bone * lengths[..., joint - 1, None])
    return torch.stack(placed, -2)
