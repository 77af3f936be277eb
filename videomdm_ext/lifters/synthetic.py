"""The `synthetic` lifter: true motion with the errors of real monocular lifters, seeded by the clip's id.

Real lifters get bones nearly right and depth wrong. The error is made in camera coordinates and passed down the tree
of bones, so it is largest at hands and feet; all of it is smooth in time, except the jitter. With the defaults
PA-MPJPE is about 90 mm and bone lengths wander by 4 to 7 % (MediaPipe against four views: 84 to 125 mm, 4 to 7 %).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from videomdm_ext.data.motions import own_generator
from videomdm_ext.errors import DatasetError
from videomdm_ext.geometry import cameras
from videomdm_ext.hookspecs import Register, hookimpl
from videomdm_ext.lifters.base import Lifter, LifterInfo
from videomdm_ext.motion.kinematics import bone_lengths, smooth
from videomdm_ext.motion.skeletons import SMPL22, Skeleton


@dataclass(frozen=True)
class SyntheticError:
    """Standard deviations of the parts of the error; shares are of a bone's length, passed on to all joints below it.

    Errors along the viewing ray and the scale leave the image as it is. `rigidity` is the power by which bones go back
    to their true lengths afterwards, 0 not at all, 1 exactly; this moves joints off their rays a little.
    """

    depth_bias: float = 0.45  # share of a bone, along the ray, constant in the clip
    depth_wander: float = 0.20  # share of a bone, along the ray, smooth in time
    image_wander: float = 0.025  # share of a bone, all directions, smooth in time
    root_image_wander: float = 0.008  # m, the root, all directions, smooth in time
    root_drift: float = 0.10  # m, the root along its ray, a random walk, after 3 s
    scale: float = 0.05  # of the whole clip about the camera
    jitter: float = 0.015  # share of a bone, every frame anew
    root_jitter: float = 0.004  # m, the root, every frame anew
    correlation: float = 0.5  # s, after which a smooth error has lost all but 1/e of its correlation
    rigidity: float = 0.6


DRIFT_SECONDS = 3.0


class SyntheticLifter(Lifter):
    """Adds `error` to the truth; the same seed and clip id give the same error."""

    def __init__(
        self,
        *,
        seed: int = 0,
        error: SyntheticError | None = None,
        skeleton: Skeleton = SMPL22,
        fps: float | None = None,
    ) -> None:
        self.info = LifterInfo("synthetic", skeleton, fps=fps)
        self.seed, self.error = seed, error or SyntheticError()

    def positions(
        self, clip_id: str, keypoints: Tensor, confidence: Tensor, extrinsics: Tensor, fps: float, truth: Tensor | None
    ) -> Tensor:
        """The truth with its errors, [T, J, 3]; it sees neither keypoints nor confidence."""
        if truth is None:
            raise DatasetError(
                f"{clip_id}: the lifter 'synthetic' needs a true motion, and there is none. Use another lifter."
            )
        draw = Noise(clip_id, self.seed, len(truth), self.error.correlation * fps)
        true = cameras.to_camera(truth, extrinsics)
        lifted = self._depth_error(true, draw, fps)
        noise = draw.smooth("image", 3 * self.info.skeleton.num_joints)
        lifted = lifted + self._spread(true, self.error.image_wander, self.error.root_image_wander, noise)
        # bring bones back towards their true lengths, from the root outwards, keeping their directions
        ratio = bone_lengths(true, self.info.skeleton) / bone_lengths(lifted, self.info.skeleton).clamp_min(1e-6)
        bones = lifted[:, 1:] - lifted[:, list(self.info.skeleton.parents[1:])]
        lifted = self._accumulated(lifted[:, 0], bones * ratio.pow(self.error.rigidity).unsqueeze(-1))
        noise = draw.white("jitter", 3 * self.info.skeleton.num_joints)
        lifted = lifted + self._spread(true, self.error.jitter, self.error.root_jitter, noise)
        scale = math.exp(self.error.scale * draw.constant("scale", 1).item())
        return cameras.to_world(lifted * scale, extrinsics)

    def _depth_error(self, true: Tensor, draw: "Noise", fps: float) -> Tensor:
        """Move joints along their viewing rays: the root drifts, every bone adds its own share."""
        bones = self.info.skeleton.num_joints - 1
        share = self.error.depth_bias * draw.constant("bias", bones)
        share = share + self.error.depth_wander * draw.smooth("wander", bones)
        drift = draw.walk("drift") * self.error.root_drift / math.sqrt(DRIFT_SECONDS * fps)
        along = self._accumulated(drift, share * bone_lengths(true, self.info.skeleton).mean(0)).unsqueeze(-1)
        return true + along * true / torch.linalg.vector_norm(true, dim=-1, keepdim=True)

    def _spread(self, true: Tensor, share: float, root: float, noise: Tensor) -> Tensor:
        """Errors in all directions, [T, J, 3], from noise of unit variance [T, 3 J]."""
        noise = noise.unflatten(-1, (-1, 3))
        sizes = bone_lengths(true, self.info.skeleton).mean(0).unsqueeze(-1)
        return self._accumulated(root * noise[:, 0], share * noise[:, 1:] * sizes)

    def _accumulated(self, root: Tensor, bones: Tensor) -> Tensor:
        """Sum what bones [T, J - 1, ...] add to their parents', from the root [T, ...] on. -> [T, J, ...]."""
        joints = [root]
        for bone, parent in zip(bones.unbind(1), self.info.skeleton.parents[1:], strict=True):
            joints.append(joints[parent] + bone)
        return torch.stack(joints, 1)


class Noise:
    """Standard normal processes of T frames; every purpose has its own stream, from a stable hash of the clip's id."""

    def __init__(self, clip_id: str, seed: int, frames: int, correlation: float) -> None:
        self.clip_id, self.seed, self.frames = clip_id, seed, frames
        self.sigma = max(correlation / 2, 0.5)  # the autocorrelation of filtered noise is exp(-t^2 / (4 sigma^2))

    def constant(self, purpose: str, channels: int) -> Tensor:
        """One draw a channel, [C]."""
        return torch.randn(channels, generator=self._generator(purpose))

    def white(self, purpose: str, channels: int) -> Tensor:
        """Every frame anew, [T, C]."""
        return torch.randn(self.frames, channels, generator=self._generator(purpose))

    def smooth(self, purpose: str, channels: int) -> Tensor:
        """Gaussian-filtered noise of unit variance, [T, C]."""
        margin = int(4.0 * self.sigma + 0.5)
        noise = torch.randn(self.frames + 2 * margin, channels, generator=self._generator(purpose))
        kept = slice(margin, margin + self.frames)
        return smooth(noise, self.sigma)[kept] * math.sqrt(2 * self.sigma * math.sqrt(math.pi))

    def walk(self, purpose: str) -> Tensor:
        """A filtered random walk with unit steps from zero, [T]."""
        walked = smooth(self.white(purpose, 1).cumsum(0), self.sigma)[:, 0]
        return walked - walked[:1]

    def _generator(self, purpose: str) -> torch.Generator:
        return own_generator("synthetic", purpose, self.seed, self.clip_id)


@hookimpl
def register_lifters(register: Register) -> None:
    """Offer this lifter under its name."""
    register("synthetic", SyntheticLifter)
