"""A camera that moves: one pose a frame, tied to its neighbours by how suddenly a camera can change its motion.

Minimises sum w rho(r / sigma) + sum STIFFNESS (second difference of rotation and centre)^2 by Levenberg-Marquardt, rho
being Geman and McClure's cost. Points X [T, N, 3] are seen at image [T, N, 2] on the normalised plane with weight
[T, N]; a camera is R [T, 3, 3] and t [T, 3] with X_c = R X + t. A step is (w, v): R' = exp(w) R, centre' = centre + v.
Frames only meet those up to two away, so the equations are banded and a long clip costs no more per frame than a short
one.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

NEAREST = 1e-3
"""Depth under which a point counts as behind the camera."""
HIDDEN = 10.0
"""Residual of a point behind the camera: farther out than any keypoint."""
CUT = 4.0
"""Residuals beyond this many standard deviations hardly count; they are no inliers."""
FINEST = 1e-7
"""Smallest standard deviation, on the normalised plane, that a fit may claim."""
STIFFNESS = np.full(6, 0.005**-2)
"""Inverse variances of a camera's acceleration (w, v): radians and metres, per frame and frame."""


@dataclass(frozen=True)
class Sight:
    """What T cameras saw: points [T, N, 3], image [T, N, 2], weight [T, N]."""

    points: Array
    image: Array
    weight: Array


@dataclass(frozen=True)
class Cameras:
    """R [T, 3, 3] and t [T, 3]."""

    rotation: Array
    translation: Array

    def centres(self) -> Array:
        """Where the cameras stand. -> [T, 3]"""
        return -np.einsum("tji,tj->ti", self.rotation, self.translation)


def camera_points(cameras: Cameras, sight: Sight) -> Array:
    """Points in the cameras' coordinates. -> [T, N, 3]"""
    return sight.points @ cameras.rotation.swapaxes(-1, -2) + cameras.translation[:, None]


def behind(cameras: Cameras, sight: Sight) -> NDArray[np.bool_]:
    """Points with a weight that are behind the camera. -> [T, N]"""
    return (camera_points(cameras, sight)[..., 2] <= NEAREST) & (sight.weight > 0)


def residuals(cameras: Cameras, sight: Sight) -> Array:
    """Length of each point's error in the image; HIDDEN behind the camera. -> [T, N]"""
    seen = camera_points(cameras, sight)
    found = seen[..., :2] / np.maximum(seen[..., 2:], NEAREST)
    return np.where(seen[..., 2] > NEAREST, np.linalg.norm(found - sight.image, axis=-1), HIDDEN)


def spread(errors: Array, weight: Array) -> float:
    """Standard deviation of one image coordinate that the weighted median of all errors says."""
    order = errors.ravel().argsort()
    share = weight.ravel()[order].cumsum()
    return max(float(errors.ravel()[order][np.searchsorted(share, 0.5 * share[-1])]) / 1.1774, FINEST)


def smoothed(cameras: Cameras, sight: Sight) -> Cameras:
    """The cameras of a clip's frames, from starts that are roughly right."""
    sigma = 3 * spread(residuals(cameras, sight), sight.weight)
    for _ in range(5):
        cameras = _descend(cameras, sight, sigma, 6)
        sigma = min(spread(residuals(cameras, sight), sight.weight), sigma)
    return _descend(cameras, sight, sigma, 12)


def _descend(cameras: Cameras, sight: Sight, sigma: float, steps: int) -> Cameras:
    """Levenberg-Marquardt on the whole clip with a fixed sigma; a step that does not lower the cost is not taken."""
    damping, cost = 1e-4, _cost(cameras, sight, sigma)
    for _ in range(steps):
        errors = residuals(cameras, sight)
        robust = np.where(errors < HIDDEN, sight.weight / (1 + np.square(errors / (CUT * sigma))) ** 2, 0.0)
        matrix, gradient = normal_equations(cameras, sight, robust / sigma**2)
        gradient = gradient + STIFFNESS * _pulled(_accelerations(cameras), len(gradient))
        floor = damping * np.diagonal(matrix, axis1=-2, axis2=-1) + 1e-9 * STIFFNESS
        step = -solve_banded(matrix + floor[..., None] * np.eye(6), gradient, STIFFNESS)
        tried = moved(cameras, step)
        after = _cost(tried, sight, sigma)
        if after > cost:
            damping *= 20
            continue
        done = cost - after < 1e-10 * cost
        cameras, cost, damping = tried, after, max(damping * 0.1, 1e-9)
        if done:
            break
    return cameras


def _cost(cameras: Cameras, sight: Sight, sigma: float) -> float:
    squared = np.square(residuals(cameras, sight) / (CUT * sigma))
    data = CUT**2 * (sight.weight * squared / (1 + squared)).sum()
    return float(data + (STIFFNESS * np.square(_accelerations(cameras))).sum())


def _accelerations(cameras: Cameras) -> Array:
    """Second differences of rotation (as rotation vectors) and centre. -> [T - 2, 6]"""
    from scipy.spatial.transform import Rotation

    centres = np.diff(cameras.centres(), n=2, axis=0)
    if len(cameras.rotation) < 3:
        return np.zeros((0, 6))
    turns = Rotation.from_matrix(cameras.rotation[1:] @ cameras.rotation[:-1].swapaxes(-1, -2)).as_rotvec()
    return np.concatenate((np.diff(turns, axis=0), centres), -1)


def _pulled(accelerations: Array, frames: int) -> Array:
    """What accelerations [T - 2, 6] pull at every frame: the transpose of the second difference. -> [T, 6]"""
    pull = np.zeros((frames, 6))
    for offset, factor in ((0, 1.0), (1, -2.0), (2, 1.0)):
        pull[offset : offset + len(accelerations)] += factor * accelerations
    return pull


def normal_equations(cameras: Cameras, sight: Sight, weight: Array) -> tuple[Array, Array]:
    """J^T W J [T, 6, 6] and J^T W r [T, 6] of the errors in the image, in (w, v)."""
    seen = camera_points(cameras, sight)
    depth = np.maximum(seen[..., 2], NEAREST)
    found = seen[..., :2] / depth[..., None]
    zero = np.zeros_like(depth)
    gradient = np.stack(  # of u and of v by X_c, [T, N, 2, 3]
        (
            np.stack((1 / depth, zero, -found[..., 0] / depth), -1),
            np.stack((zero, 1 / depth, -found[..., 1] / depth), -1),
        ),
        -2,
    )
    spin = np.cross(seen[:, :, None], gradient)  # X_c - centre' turns with R: d X_c = w x X_c - R v
    jacobian = np.concatenate((spin, -gradient @ cameras.rotation[:, None]), -1)
    weighted = jacobian * weight[..., None, None]
    matrix: Array = np.einsum("tnci,tncj->tij", weighted, jacobian, optimize=True)
    pull: Array = np.einsum("tnci,tnc->ti", weighted, found - sight.image)
    return matrix, pull


def moved(cameras: Cameras, step: Array) -> Cameras:
    """The cameras after a step [T, 6]."""
    from scipy.spatial.transform import Rotation

    rotation = Rotation.from_matrix(Rotation.from_rotvec(step[:, :3]).as_matrix() @ cameras.rotation).as_matrix()
    centre = cameras.centres() + step[:, 3:]
    return Cameras(rotation, -np.einsum("tij,tj->ti", rotation, centre))


def solve_banded(matrix: Array, gradient: Array, stiffness: Array) -> Array:
    """Solve (diag(matrix) + D^T diag(stiffness) D) x = gradient, D the second difference in time.

    matrix [T, 6, 6] symmetric, gradient [T, 6], stiffness [6] -> x [T, 6].
    """
    from scipy.linalg import solveh_banded

    frames = len(gradient)
    ends = max(frames - 2, 0)
    bands = np.zeros((13, frames, 6))  # bands[12 - d, t, j] is the entry d left of the diagonal in column 6 t + j
    for offset in range(6):
        bands[12 - offset, :, offset:] = np.diagonal(matrix, offset, -2, -1)
    for first, second, factor in ((0, 0, 1), (1, 1, 4), (2, 2, 1), (0, 1, -2), (1, 2, -2), (0, 2, 1)):
        bands[12 - 6 * (second - first), second : second + ends] += factor * stiffness
    answer: Array = solveh_banded(bands.reshape(13, -1), gradient.ravel())
    return answer.reshape(frames, 6)
