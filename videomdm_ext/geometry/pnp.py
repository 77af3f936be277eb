"""Cameras from poses (perspective-n-point): points whose 3D is known and their image give the camera.

Starts come from few points at a time (`pnp_starts`), the best are refined by Levenberg-Marquardt with robust weights
(`pnp_refine`). Weights are those of the squared errors, such as confidences; points of weight 0 may hold anything.
Wrong keypoints, up to a third or so, do little harm. Everything is computed in float64 and given back in the points'
type. What no camera explains is refused: too few points, points on a line, large errors, a person behind the camera.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from videomdm_ext.errors import DatasetError
from videomdm_ext.geometry.pnp_checks import (
    FEWEST,
    LIMIT,
    Pose,
    behind_camera,
    prepared,
    quality,
    refuse_bad,
    report,
    to_extrinsics,
)
from videomdm_ext.geometry.pnp_moving import Steadiness, smoothed
from videomdm_ext.geometry.pnp_refine import (
    Cameras,
    Sight,
    normal_equations,
    normalised_cameras,
    residuals,
    robust_cost,
    robust_weight,
    settle,
    spread,
)
from videomdm_ext.geometry.pnp_starts import search, thinned

FIELDS_DEGREES = (20.0, 110.0)
"""Fields of view, of the image's longer side, among which a focal length is looked for."""
FIELDS = 10
"""Focal lengths that are tried."""
FOCAL_JUDGES = 256
"""Points, at most, that choose among the focal lengths; all of them refine the chosen one."""
UNCERTAIN = 0.25
"""Relative standard deviation beyond which a focal length is not determined."""
PIXEL_NOISE = 0.5
"""Pixels; keypoints are never taken to be better than this when the focal length is judged."""
WINDOW = 5
"""Frames that share a camera in the starts of a moving one."""


@dataclass(frozen=True)
class FocalPose:
    """A camera of unknown focal length: `focal` in pixels with its relative standard deviation, and the pose.

    The deviation takes the errors of all keypoints to be independent; those of a detector are not quite.
    """

    pose: Pose
    focal: float
    deviation: float
    intrinsics: Tensor


def solve(
    points: Tensor,
    image: Tensor,
    weight: Tensor,
    *,
    draw: torch.Generator | None = None,
    limit: float = LIMIT,
    place: str = "pose",
) -> Pose:
    """The camera of each set of points [..., N, 3], seen at image [..., N, 2] on the normalised plane.

    weight [..., N]. `draw` picks the points to start from, by default always the same ones; `limit` is the largest
    error; `place` is the file or clip that a DatasetError names.
    """
    sight, middle = prepared(points, image, weight, place)
    cameras, sigma = search(sight, draw or _generator())
    return report(cameras, sight, sigma, middle, points, limit, place)


def solve_static(
    points: Tensor,
    image: Tensor,
    weight: Tensor,
    *,
    draw: torch.Generator | None = None,
    limit: float = LIMIT,
    place: str = "clip",
) -> Pose:
    """One camera for a clip: points [..., T, J, 3], image [..., T, J, 2], weight [..., T, J] -> extrinsics [..., 3, 4].

    The inliers are [..., T, J], the error is [...].
    """
    flat = (points.flatten(-3, -2), image.flatten(-3, -2), weight.flatten(-2))
    pose = solve(*flat, draw=draw, limit=limit, place=place)
    return Pose(pose.extrinsics, pose.error, pose.inliers.unflatten(-1, weight.shape[-2:]))


def solve_moving(
    points: Tensor,
    image: Tensor,
    weight: Tensor,
    *,
    steadiness: Steadiness | None = None,
    draw: torch.Generator | None = None,
    limit: float = LIMIT,
    place: str = "clip",
) -> Pose:
    """One camera a frame, smooth in time: points [T, J, 3], image [T, J, 2], weight [T, J] -> extrinsics [T, 3, 4].

    Frames without keypoints are passed through smoothly. The error is one number, the inliers are [T, J].
    """
    frames, joints = weight.shape
    whole, middle = prepared(points.flatten(0, 1), image.flatten(0, 1), weight.flatten(), place)
    sight = Sight(*(part.reshape(frames, joints, -1).squeeze(-1) for part in (whole.points, whole.image, whole.weight)))
    cameras = smoothed(_starts(sight, draw or _generator(), place), sight, steadiness or Steadiness())
    errors = residuals(cameras, sight).reshape(1, -1)
    error, inliers = quality(errors, whole.weight, spread(errors, whole.weight))
    refuse_bad(error, inliers, whole.weight, behind_camera(cameras, sight).reshape(1, -1), limit, place)
    extrinsics = to_extrinsics(cameras, middle.expand(frames, 1, 3)).to(points.dtype)
    return Pose(extrinsics, error[0].to(points.dtype), inliers.reshape(frames, joints))


def solve_with_focal(
    points: Tensor,
    pixels: Tensor,
    weight: Tensor,
    image_size: tuple[int, int],
    *,
    draw: torch.Generator | None = None,
    limit: float = LIMIT,
    place: str = "clip",
) -> FocalPose:
    """One still camera and its focal length: points [..., 3], pixels [..., 2], weight [...], all of one camera.

    image_size is (width, height). Pixels are square and the principal point is the image's middle. DatasetError where
    the keypoints do not determine the focal length.
    """
    centre, unit = torch.tensor(image_size).double() / 2, max(image_size) / 2
    scaled = (pixels.double() - centre) / unit
    sight, middle = prepared(points.reshape(-1, 3), scaled.reshape(-1, 2), weight.flatten(), place)
    cameras, sigma = _search_focal(sight, draw or _generator())
    focal = cameras.log_focal.exp().item()
    deviation = _focal_deviation(cameras, sight, sigma.clamp_min(PIXEL_NOISE / unit))
    _check_focal(focal, deviation, place)
    seen = Sight(sight.points, sight.image / focal, sight.weight)
    plain = normalised_cameras(cameras.rotation, cameras.translation)
    pose = report(plain, seen, sigma / focal, middle, points.reshape(-1, 3), limit, place)
    intrinsics = torch.tensor([[focal * unit, 0, centre[0]], [0, focal * unit, centre[1]], [0, 0, 1]])
    kept = Pose(pose.extrinsics, pose.error, pose.inliers.reshape(weight.shape))
    return FocalPose(kept, focal * unit, deviation, intrinsics.to(points.dtype))


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _starts(sight: Sight, draw: torch.Generator, place: str) -> Cameras:
    """A camera for every frame, shared by WINDOW frames; windows with too few keypoints take the nearest one's."""
    frames, joints = sight.weight.shape
    length = min(WINDOW, frames)
    firsts = torch.tensor([*range(0, frames - length, length), frames - length])
    rows = firsts[:, None] + torch.arange(length)
    shared = Sight(*(part[rows].flatten(1, 2) for part in (sight.points, sight.image, sight.weight)))
    usable = ((shared.weight > 0).sum(-1) >= max(FEWEST, length * joints // 4)).nonzero().squeeze(-1)
    if len(usable) == 0:
        raise DatasetError(
            f"{place}: expected a quarter of the keypoints in at least {length} frames in a row, found fewer. "
            "Look for one still camera instead."
        )
    cameras, _ = search(shared.pick(usable), draw)
    middles = firsts[usable] + (length - 1) / 2
    nearest = (torch.arange(frames)[:, None] - middles).abs().argmin(-1)
    return cameras.pick(nearest)


def _search_focal(sight: Sight, draw: torch.Generator) -> tuple[Cameras, Tensor]:
    """The camera and focal length that fit best, in units of half the longer side, and sigma in the same units."""
    few = thinned(sight, draw, FOCAL_JUDGES)
    fields = torch.deg2rad(torch.linspace(*FIELDS_DEGREES, FIELDS, dtype=torch.float64))
    focal = 1 / torch.tan(fields / 2)
    many = few.repeat(FIELDS)
    cameras, _ = search(Sight(many.points, many.image / focal[:, None, None], many.weight), draw)
    start = Cameras(cameras.rotation, cameras.translation, focal.log())
    refined, sigma = settle(start, many, free=7)
    errors = residuals(refined, many)
    best = robust_cost(errors, many.weight, sigma.min().expand(FIELDS)).argmin().reshape(1)
    return settle(refined.pick(best), sight, free=7)


def _focal_deviation(cameras: Cameras, sight: Sight, sigma: Tensor) -> float:
    """Relative standard deviation of the focal length, everything else being free too."""
    even = sight.weight / sight.weight[sight.weight > 0].mean()
    weight = robust_weight(residuals(cameras, sight), even, sigma)
    matrix = normal_equations(cameras, sight, weight)[0][0] / sigma.square()
    own, cross, rest = matrix[6, 6], matrix[:6, 6], matrix[:6, :6]
    information = own - cross @ torch.linalg.lstsq(rest, cross.unsqueeze(-1)).solution.squeeze(-1)
    return float(information.clamp_min(1e-12).rsqrt())


def _check_focal(focal: float, deviation: float, place: str) -> None:
    field = math.degrees(2 * math.atan(1 / focal)) if math.isfinite(focal) else math.nan
    low, high = FIELDS_DEGREES
    if not low <= field <= high:
        raise DatasetError(
            f"{place}: expected a field of view from {low:g} to {high:g} degrees, found {field:.0f}. "
            "The keypoints do not tell the focal length; give it."
        )
    if deviation > UNCERTAIN:
        raise DatasetError(
            f"{place}: expected a focal length known to {100 * UNCERTAIN:.0f} %, found {100 * deviation:.0f} %, "
            f"about a field of view of {field:.0f} degrees. The keypoints do not tell it; give the focal length."
        )
