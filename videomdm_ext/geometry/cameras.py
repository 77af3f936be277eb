"""Cameras in the OpenCV convention: x right, y down, z forward, X_c = R X + t. Extrinsics are [R | t], [..., 3, 4].

A moving camera has one matrix a frame. Points [..., J, 3] and extrinsics [..., 3, 4] share their leading
dimensions; for a static camera of a clip pass `extrinsics.unsqueeze(-3)`.
"""

import torch
from torch import Tensor

from videomdm_ext.geometry.rotations import rotate_yaw, yaw_matrix


def to_camera(points: Tensor, extrinsics: Tensor) -> Tensor:
    """World points [..., J, 3] in camera coordinates. -> [..., J, 3], metres."""
    return points @ extrinsics[..., :3].transpose(-1, -2) + extrinsics[..., 3].unsqueeze(-2)


def to_world(points: Tensor, extrinsics: Tensor) -> Tensor:
    """Camera points [..., J, 3] in world coordinates; the inverse of `to_camera`."""
    return (points - extrinsics[..., 3].unsqueeze(-2)) @ extrinsics[..., :3]


def image_points(camera_points: Tensor, nearest: float) -> tuple[Tensor, Tensor]:
    """Normalised image points [..., 2] and signed depth [...] of camera points [..., 3].

    Points with depth under `nearest` divide by `nearest`: they are finite, and never land where a point
    in front of the camera would by a flip of sign.
    """
    across, depth = camera_points.split((2, 1), -1)
    return across / depth.clamp_min(nearest), depth.squeeze(-1)


def project(points: Tensor, extrinsics: Tensor, nearest: float = 1e-3) -> tuple[Tensor, Tensor]:
    """Project world points [..., J, 3]. -> normalised image points [..., J, 2] and signed depth [..., J] in metres."""
    return image_points(to_camera(points, extrinsics), nearest)


def reprojection(points: Tensor, image: Tensor, weight: Tensor) -> float:
    """Weighted root mean square distance on the normalised plane of camera points [T, J, 3] from image [T, J, 2]."""
    seen, _ = image_points(points, 0.05)
    return float(((weight * (seen - image).square().sum(-1)).sum() / weight.sum().clamp_min(1e-9)).sqrt())


def normalise(pixels: Tensor, intrinsics: Tensor, distortion: Tensor | None = None) -> Tensor:
    """Pixels [..., 2] to the normalised image plane, with K [..., 3, 3] and lens distortion removed.

    `distortion` is (k1, k2, p1, p2, k3) of the Brown-Conrady model, inverted by fixed-point iteration.
    """
    ones = torch.ones_like(pixels[..., :1])
    points = torch.linalg.solve(intrinsics, torch.cat((pixels, ones), -1).unsqueeze(-1)).squeeze(-1)[..., :2]
    if distortion is None:
        return points
    undistorted = points
    for _ in range(20):
        undistorted = undistorted + points - distort(undistorted, distortion)
    return undistorted


def to_pixels(points: Tensor, intrinsics: Tensor, distortion: Tensor | None = None) -> Tensor:
    """Normalised image points [..., 2] to pixels; the inverse of `normalise`."""
    if distortion is not None:
        points = distort(points, distortion)
    return points @ intrinsics[..., :2, :2].transpose(-1, -2) + intrinsics[..., :2, 2]


def distort(points: Tensor, distortion: Tensor) -> Tensor:
    """Apply the Brown-Conrady model (k1, k2, p1, p2, k3) to normalised points [..., 2]."""
    k1, k2, p1, p2, k3 = distortion.unbind(-1)
    x, y = points.unbind(-1)
    r2 = x * x + y * y
    radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
    dx = 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
    dy = p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
    return torch.stack((x * radial + dx, y * radial + dy), -1)


def orbit(azimuth: Tensor, elevation: Tensor, distance: Tensor, target: Tensor) -> Tensor:
    """Cameras on a sphere about `target` [..., 3], looking at it with the horizon level. -> extrinsics [..., 3, 4].

    Azimuth 0 stands in front of a person who faces +z; a positive azimuth goes towards +x. Radians, metres;
    the elevation stays under a right angle.
    """
    flat = torch.cos(elevation)
    outwards = torch.stack((flat * torch.sin(azimuth), torch.sin(elevation), flat * torch.cos(azimuth)), -1)
    right = torch.stack((torch.cos(azimuth), torch.zeros_like(azimuth), -torch.sin(azimuth)), -1)
    down = torch.linalg.cross(-outwards, right, dim=-1)
    rotation = torch.stack((right, down, -outwards), -2)
    centre = target + distance.unsqueeze(-1) * outwards
    return torch.cat((rotation, -rotation @ centre.unsqueeze(-1)), -1)


def orbit_distance(positions: Tensor, azimuth: Tensor, elevation: Tensor, target: Tensor, nearest: Tensor) -> Tensor:
    """Distance of an orbit at which the nearest joint of positions [..., T, J, 3] has depth `nearest` [...]."""
    axis = -orbit(azimuth, elevation, torch.ones_like(azimuth), target)[..., 2, :3]
    reach = ((positions - target[..., None, None, :]) * axis[..., None, None, :]).sum(-1).flatten(-2).amax(-1)
    return nearest + reach


def uniform(low: float, high: float, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Uniform draws in [low, high) from the caller's own generator."""
    return low + (high - low) * torch.rand(shape, generator=generator)


def sample_orbit(
    target: Tensor,
    generator: torch.Generator,
    *,
    elevation: tuple[float, float],
    distance: tuple[float, float],
    positions: Tensor | None = None,
) -> Tensor:
    """Random cameras about `target` [..., 3]: uniform azimuth, elevation and distance. -> extrinsics [..., 3, 4].

    With `positions` [..., T, J, 3] the drawn distance is the depth of the nearest joint, otherwise of the target.
    """
    shape = tuple(target.shape[:-1])
    azimuth = uniform(-torch.pi, torch.pi, shape, generator)
    tilt = uniform(*elevation, shape, generator)
    depth = uniform(*distance, shape, generator)
    if positions is not None:
        depth = orbit_distance(positions, azimuth, tilt, target, depth)
    return orbit(azimuth, tilt, depth, target)


def reexpress(extrinsics: Tensor, heading: Tensor, origin: Tensor) -> Tensor:
    """The same camera for X' = Ry(-heading) (X - origin), a clip's own canonical frame (METHOD 6).

    Extrinsics [..., 3, 4], heading [...] radians, origin [..., 3]. R' = R Ry(heading), t' = t + R origin.
    """
    rotation, translation = extrinsics[..., :3], extrinsics[..., 3]
    moved = translation + (rotation @ origin.unsqueeze(-1)).squeeze(-1)
    return torch.cat((rotation @ yaw_matrix(heading), moved.unsqueeze(-1)), -1)


def canonical(points: Tensor, heading: Tensor, origin: Tensor) -> Tensor:
    """X' = Ry(-heading) (X - origin) for points [..., T, J, 3], heading [...] and origin [..., 3]."""
    return rotate_yaw(points - origin[..., None, None, :], -heading[..., None, None])


def perturb_azimuth(extrinsics: Tensor, angle: Tensor) -> Tensor:
    """Orbit the cameras [..., 3, 4] about the world's vertical axis by `angle` [...] radians."""
    return reexpress(extrinsics, -angle, torch.zeros_like(extrinsics[..., 3]))


def is_rotation(extrinsics: Tensor, tolerance: float = 1e-3) -> Tensor:
    """Whether the left 3x3 of [..., 3, 4] is a proper rotation. -> bool [...]."""
    rotation = extrinsics[..., :3]
    identity = torch.eye(3, dtype=rotation.dtype, device=rotation.device)
    orthogonal = (rotation @ rotation.transpose(-1, -2) - identity).abs().amax((-1, -2)) < tolerance
    return orthogonal & (torch.linalg.det(rotation) > 0)


def ray_directions(keypoints: Tensor) -> Tensor:
    """d = (u, v, 1) of normalised keypoints [..., 2]. -> [..., 3]; a multiple of d has that multiple as its depth."""
    return torch.cat((keypoints, torch.ones_like(keypoints[..., :1])), -1)


def closest_on_ray(points: Tensor, keypoints: Tensor, nearest: float) -> Tensor:
    """Point of each keypoint's ray closest to the camera points [..., 3], no nearer than `nearest` metres.

    X* = d (X . d) / (d . d) (METHOD 4, step 1). Keypoints [..., 2] -> [..., 3].
    """
    directions = ray_directions(keypoints)
    depth = (points * directions).sum(-1, keepdim=True) / directions.square().sum(-1, keepdim=True)
    return directions * depth.clamp_min(nearest)
