"""Evaluators whose features are fixed: `views-2d` and `essential`.

`views-2d`: how motions look from random cameras that no training saw (the protocol of MAS, 2024). It needs no 3D truth:
`seen` maps the true keypoints of real views into the same space. On 83 motion capture clips with their lifted teachers
these features saw the teacher at 13 times the split-half floor, a denoising autoencoder trained on the same 2D at 1.7
times.

`essential`: the channels of each frame that a motion is decoded from. Root yaw velocity, root velocity, height and
root-relative positions (67 channels for 22 joints), each kind divided by its standard deviation over the true training
motions.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from videomdm_ext.bench.evaluators.base import Evaluator, Ground, training_truth
from videomdm_ext.data.motions import Optics, interpolate
from videomdm_ext.errors import DatasetError
from videomdm_ext.geometry.cameras import orbit, orbit_distance, project, uniform
from videomdm_ext.hookspecs import Register, hookimpl
from videomdm_ext.motion.features import encode, mean_and_std, redundant
from videomdm_ext.motion.skeletons import Skeleton, by_name

VIEWS_2D, ESSENTIAL = "views-2d", "essential"
VIEWS = 4
"""Cameras of a motion, a quarter turn apart."""
SEED = 20260613
BANDS = (0.0, 1.0, 4.0)
"""Ends of the bands of slow and of quick movement, Hz; what is faster is left out, for keypoints carry noise there."""
LEAST_SEEN = 0.5
"""Share of the frames in which every joint of a real view must have been found."""
MOST_READ = 2048
"""Training clips whose frames give the scale of `essential`, at most; the ones with the lowest hashes of their ids."""
VERSION = 1
"""To be raised with every change that changes numbers."""


class Views2D(Evaluator):
    """Pose, slow and quick movement of each joint in the image, a row a clip and view: [N VIEWS, 6 (J - 1)].

    Clip i of any set is seen by the same cameras, so arms are compared through the same views.
    """

    name = VIEWS_2D
    comparable = "Only numbers of these cameras and features; not those of MAS, whose evaluator is a trained one."

    def __init__(self, optics: Optics | None = None) -> None:
        self.optics = optics or Optics()

    @property
    def identity(self) -> str:
        cameras = (self.optics.elevation, self.optics.nearest_joint, VIEWS, SEED)
        return hashlib.sha256(json.dumps([VIEWS_2D, VERSION, cameras, BANDS]).encode()).hexdigest()

    @property
    def facts(self) -> Mapping[str, float | str]:
        return {"views of a motion": float(VIEWS), "features": "fixed, nothing is trained"}

    def motions(self, clips: Sequence[Tensor], fps: float) -> Tensor:
        draw = torch.Generator().manual_seed(SEED)
        return torch.cat([features(project_views(clip, self.cameras(clip, draw)), fps) for clip in clips])

    def cameras(self, positions: Tensor, draw: torch.Generator) -> Tensor:
        """Orbit cameras about the mean root of a clip [T, J, 3], the first at a random azimuth. -> [VIEWS, 3, 4]."""
        first = uniform(0.0, 2 * math.pi, (1,), draw).double()
        azimuth = first + 2 * math.pi / VIEWS * torch.arange(VIEWS)
        elevation = uniform(*self.optics.elevation, (VIEWS,), draw).double()
        nearest = uniform(*self.optics.nearest_joint, (VIEWS,), draw).double()
        target = positions[:, 0].double().mean(0).expand(VIEWS, 3)
        distance = orbit_distance(positions.double().expand(VIEWS, -1, -1, -1), azimuth, elevation, target, nearest)
        return orbit(azimuth, elevation, distance, target)

    def seen(self, views: Sequence[tuple[Tensor, Tensor]], fps: float) -> Tensor:
        """Rows of true keypoints, one a view: (points [T, J, 2] on the normalised plane, confidence [T, J]) each.

        Gaps of a joint are filled in time. A view in which a joint was found too seldom has no row.
        """
        complete = [filled(points, confidence) for points, confidence in views if is_whole(confidence)]
        if not complete:
            raise DatasetError(
                f"{VIEWS_2D}: expected views in which every joint has a confidence above 0 in {LEAST_SEEN:.0%} of the "
                f"frames, found none of {len(views)}. Score without it, or detect the keypoints again."
            )
        return torch.cat([features(points.unsqueeze(0), fps) for points in complete])


def project_views(positions: Tensor, cameras: Tensor) -> Tensor:
    """A clip [T, J, 3] as seen by still cameras [V, 3, 4]. -> points [V, T, J, 2] on the normalised plane, float64."""
    shape = (len(cameras), *positions.shape[:2])
    points, _ = project(positions.double().expand(shape[0], -1, -1, -1), cameras.unsqueeze(1).expand(*shape[:2], 3, 4))
    return points


def features(points: Tensor, fps: float) -> Tensor:
    """Mean pose, and root mean square of each coordinate's movement in each band. [V, T, J, 2] -> [V, 6 (J - 1)].

    Each frame's root is the origin, and the root mean square distance of the joints to it over the clip is 1; so the
    values hardly depend on where the person stands, on the distance, or on the camera's focal length.
    """
    local = points.double()[:, :, 1:] - points.double()[:, :, :1]
    size = local.square().sum(-1).mean((1, 2)).sqrt().clamp_min(1e-9)
    waves, hertz = cosines(local.shape[1])
    parts = torch.einsum("kt,vtjc->vkjc", waves, local / size.view(-1, 1, 1, 1))
    rows = [parts[:, 0]]
    for low, high in pairwise(BANDS):
        rows.append(parts[:, (hertz * fps > low) & (hertz * fps <= high)].square().sum(1).sqrt())
    return torch.stack(rows, 1).flatten(1)


@lru_cache(maxsize=512)
def cosines(frames: int) -> tuple[Tensor, Tensor]:
    """Cosine transform [T, T] whose first row takes the mean, the squares of the others summing to the variance.

    -> rows, and the frequency [T] of each in cycles a frame.
    """
    order, time = torch.arange(frames, dtype=torch.float64), torch.arange(frames, dtype=torch.float64)
    rows = torch.cos(math.pi / frames * order[:, None] * (time + 0.5)) * (math.sqrt(2) / frames)
    rows[0] = 1 / frames
    return rows, order / (2 * frames)


def is_whole(confidence: Tensor) -> bool:
    """Whether every joint was found in enough frames [T, J]."""
    return bool(((confidence > 0).double().mean(0) >= LEAST_SEEN).all())


def filled(points: Tensor, confidence: Tensor) -> Tensor:
    """Keypoints [T, J, 2] with those of confidence 0 put in from the frames beside them, linearly."""
    time = np.arange(float(len(points)))
    return torch.from_numpy(interpolate(time, time, points.double().numpy(), (confidence > 0).numpy()))


class Essential(Evaluator):
    """A row a frame, [N, 3 J + 1]; the last frame of a clip, which has no next one, has none."""

    name = ESSENTIAL
    per_clip = False
    comparable = "Only numbers of the same true training motions (see the hash)."

    def __init__(self, skeleton: Skeleton, std: Tensor) -> None:
        self.skeleton, self.std = skeleton, std

    @cached_property
    def identity(self) -> str:
        content = hashlib.sha256(f"{ESSENTIAL}\0{VERSION}\0{self.skeleton.name}\0".encode())
        content.update(self.std.numpy().tobytes())
        return content.hexdigest()

    @property
    def facts(self) -> Mapping[str, float | str]:
        return {"channels of a frame": float(len(self.std)), "features": "fixed, nothing is trained"}

    def motions(self, clips: Sequence[Tensor], fps: float) -> Tensor:
        channels = [encode(clip.double(), self.skeleton)[:-1, : len(self.std)] for clip in clips]
        return torch.cat(channels) / self.std


def make_views_2d(ground: Ground) -> Evaluator:
    """With the data set's own range of cameras where its card holds one."""
    optics = ground.card.recipe.get("optics")
    if not isinstance(optics, Mapping) or not {"elevation", "nearest_joint"} <= optics.keys():
        return Views2D()
    (low, high), (near, far) = optics["elevation"], optics["nearest_joint"]
    return Views2D(Optics(elevation=(float(low), float(high)), nearest_joint=(float(near), float(far))))


def make_essential(ground: Ground) -> Evaluator:
    """With the scale of the true training motions."""
    skeleton = by_name(ground.card.skeleton)
    true = [encode(motion.positions, skeleton)[:-1] for motion in training_truth(ground, MOST_READ, ESSENTIAL)]
    return Essential(skeleton, mean_and_std(true, skeleton)[1][: redundant(skeleton).start])


@hookimpl
def register_evaluators(register: Register) -> None:
    register(ESSENTIAL, make_essential)
    register(VIEWS_2D, make_views_2d)
