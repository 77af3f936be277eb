"""What every lifter must do. Subclass `LifterContract`, give it a lifter, and pytest runs the contract on it."""

import pytest
import torch
from people import forward_kinematics
from torch import Tensor

from videomdm_ext.errors import DatasetError
from videomdm_ext.geometry import cameras
from videomdm_ext.lifters.base import Lifter
from videomdm_ext.motion.skeletons import Skeleton


def swaying(skeleton: Skeleton, frames: int) -> Tensor:
    """-> a person [T, J, 3] of any skeleton who sways, bends and turns over the origin."""
    phase = torch.linspace(0, 4, frames)[:, None] + torch.arange(skeleton.num_joints - 1) * 0.7
    columns = torch.eye(3)[:, :2].T.flatten().expand(frames, skeleton.num_joints - 1, 6)
    bent = columns + 0.3 * torch.sin(phase).unsqueeze(-1) * torch.tensor((0.0, 1.0, 0.3, -0.4, 0.0, 1.0))
    root = torch.tensor((0.0, 0.9, 0.0)).expand(frames, 3)
    lengths = torch.linspace(0.1, 0.4, skeleton.num_joints - 1).expand(frames, -1)
    return forward_kinematics(bent, torch.linspace(0, 0.5, frames), root, lengths, skeleton)


class LifterContract:
    """The contract; `make` gives a new lifter, `fps` a frame rate that it accepts."""

    fps = 20.0
    frames = 40

    def make(self) -> Lifter:
        raise NotImplementedError("a subclass gives the lifter")

    def sight(self, lifter: Lifter, *, moving: bool = False) -> dict[str, Tensor]:
        """-> what a still or a moving camera sees of a swaying person, with the truth."""
        truth = swaying(lifter.info.skeleton, self.frames)
        azimuth = torch.linspace(0.4, 1.2, self.frames) if moving else torch.tensor(0.4)
        target = torch.tensor((0.0, 0.9, 0.0)).expand(*azimuth.shape, 3)
        camera = cameras.orbit(azimuth, torch.full_like(azimuth, 0.1), torch.full_like(azimuth, 4.0), target)
        points, _ = cameras.project(truth, camera if moving else camera.unsqueeze(0))
        confidence = torch.full(points.shape[:2], 0.9)
        return {"keypoints": points, "confidence": confidence, "extrinsics": camera, "truth": truth}

    @pytest.mark.parametrize("moving", [False, True])
    def test_it_returns_finite_positions_of_its_skeleton_in_the_world_of_the_camera(self, moving: bool):
        lifter = self.make()
        sight = self.sight(lifter, moving=moving)
        lifted = lifter.lift("clip", **sight, fps=self.fps)
        assert lifted.shape == sight["truth"].shape
        assert torch.isfinite(lifted).all()
        assert (lifted.mean((0, 1)) - sight["truth"].mean((0, 1))).norm() < 2.0
        assert (lifted[:, 0, 1] > -0.5).all(), "the pelvis is far under the floor: is y the up axis?"

    def test_the_same_clip_is_lifted_the_same_way_twice_whatever_came_between(self):
        first, second = self.make(), self.make()
        sight = self.sight(first)
        second.lift("another clip", **sight, fps=self.fps)
        torch.randn(5)
        a, b = (lifter.lift("clip", **sight, fps=self.fps) for lifter in (first, second))
        assert torch.equal(a, b)

    def test_it_changes_nothing_that_it_was_given(self):
        lifter = self.make()
        sight = self.sight(lifter)
        copies = {name: tensor.clone() for name, tensor in sight.items()}
        lifter.lift("clip", **sight, fps=self.fps)
        assert all(torch.equal(sight[name], copies[name]) for name in sight)

    @pytest.mark.parametrize("name", ["keypoints", "confidence"])
    def test_it_refuses_a_clip_of_another_joint_count(self, name: str):
        lifter = self.make()
        sight = self.sight(lifter)
        with pytest.raises(DatasetError, match=f"clip: {name}"):
            lifter.lift("clip", **{**sight, name: sight[name][:, :-1]}, fps=self.fps)

    def test_it_refuses_a_camera_that_is_not_a_rotation(self):
        lifter = self.make()
        sight = self.sight(lifter)
        with pytest.raises(DatasetError, match="a rotation"):
            lifter.lift("clip", **{**sight, "extrinsics": 2 * sight["extrinsics"]}, fps=self.fps)

    def test_it_refuses_another_frame_rate_than_it_declares(self):
        lifter = self.make()
        if lifter.info.fps is None:
            return
        with pytest.raises(DatasetError, match="fps"):
            lifter.lift("clip", **self.sight(lifter), fps=2 * lifter.info.fps)
