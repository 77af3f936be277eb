"""The synthetic lifter: the laws of its error, and its size against real lifters."""

import dataclasses

import numpy as np
import pytest
import torch
from lifters.contract import LifterContract, swaying

from videomdm_ext import plugins
from videomdm_ext.data.motions import load_motions
from videomdm_ext.errors import DatasetError
from videomdm_ext.geometry import cameras
from videomdm_ext.lifters.base import Lifter
from videomdm_ext.lifters.synthetic import Noise, SyntheticError, SyntheticLifter
from videomdm_ext.motion.kinematics import bone_lengths
from videomdm_ext.motion.measures import measure_error, pa_mpjpe
from videomdm_ext.motion.skeletons import NBA16, SMPL22

NONE = SyntheticError(**dict.fromkeys({f.name for f in dataclasses.fields(SyntheticError)} - {"correlation"}, 0.0))


class TestSyntheticLifter(LifterContract):
    def make(self) -> Lifter:
        return SyntheticLifter(seed=3)


class TestSyntheticLifterOfAnotherSkeleton(LifterContract):
    fps = 30.0

    def make(self) -> Lifter:
        return SyntheticLifter(skeleton=NBA16, fps=30.0)


def lift(error: SyntheticError, *, clip_id: str = "clip", seed: int = 0, frames: int = 60, truth=None):
    """-> (lifted, truth, camera) of a swaying person, or of `truth`, four metres away."""
    truth = swaying(SMPL22, frames) if truth is None else truth
    camera = cameras.orbit(*torch.tensor((0.4, 0.2, 4.0)), torch.tensor((0.0, 0.9, 0.0)))
    points, _ = cameras.project(truth, camera.unsqueeze(0))
    lifter = SyntheticLifter(seed=seed, error=error)
    seen = {"keypoints": points, "confidence": torch.ones(points.shape[:2]), "extrinsics": camera}
    return lifter.lift(clip_id, **seen, fps=20.0, truth=truth), truth, camera


def test_no_error_returns_the_truth_and_full_rigidity_keeps_every_bone_length():
    lifted, truth, _ = lift(NONE)
    torch.testing.assert_close(lifted, truth, atol=1e-5, rtol=0)
    error = dataclasses.replace(NONE, depth_bias=0.4, depth_wander=0.3, image_wander=0.05, rigidity=1.0)
    lifted, truth, _ = lift(error)
    torch.testing.assert_close(bone_lengths(lifted, SMPL22), bone_lengths(truth, SMPL22), atol=1e-5, rtol=0)
    assert pa_mpjpe(lifted, truth) > 0.03


@pytest.mark.parametrize("part", ["depth_bias", "depth_wander", "root_drift", "scale"])
def test_errors_of_depth_and_scale_leave_the_image_as_it_is(part: str):
    lifted, truth, camera = lift(dataclasses.replace(NONE, **{part: 0.2}))
    assert (lifted - truth).norm(dim=-1).amax() > 0.01
    seen, was = (cameras.project(x, camera.unsqueeze(0))[0] for x in (lifted, truth))
    torch.testing.assert_close(seen, was, atol=1e-5, rtol=0)


@pytest.mark.parametrize("part", ["image_wander", "root_image_wander", "jitter", "root_jitter"])
def test_other_errors_are_seen_in_the_image(part: str):
    lifted, truth, camera = lift(dataclasses.replace(NONE, **{part: 0.05}))
    seen, was = (cameras.project(x, camera.unsqueeze(0))[0] for x in (lifted, truth))
    assert 0.001 < (seen - was).norm(dim=-1).mean() < 0.1


def test_errors_grow_from_the_root_to_hands_and_feet():
    lifted, truth, _ = lift(dataclasses.replace(NONE, depth_wander=0.3), frames=400)
    error = (lifted - truth).norm(dim=-1).mean(0)
    assert error[0] < 1e-5
    for chain in (("l_hip", "l_knee", "l_ankle"), ("r_collar", "r_shoulder", "r_elbow", "r_wrist")):
        sizes = [error[SMPL22.index(joint)].item() for joint in chain]
        assert sizes == sorted(sizes)


def test_all_but_the_jitter_is_smooth_in_time():
    """A process of unit variance filtered to a correlation time of 10 frames has second differences of 0.07 in all."""
    smooth = dataclasses.replace(SyntheticError(), jitter=0.0, root_jitter=0.0, rigidity=0.0)
    lifted, truth, _ = lift(smooth)
    error = lifted - truth
    assert error.diff(n=2, dim=0).norm(dim=-1).mean() < 0.05 * error.norm(dim=-1).mean()
    lifted, truth, _ = lift(dataclasses.replace(NONE, root_jitter=0.01))
    error = (lifted - truth)[:, 0]
    assert error.diff(n=2, dim=0).square().mean() == pytest.approx(6 * 0.01**2, rel=0.3)


def test_a_smooth_error_has_the_size_and_the_correlation_time_that_it_is_given():
    error = dataclasses.replace(NONE, root_image_wander=0.02, correlation=0.5)
    lifted, truth, _ = lift(error, frames=2000)
    root = (lifted - truth)[:, 0]
    assert root.std().item() == pytest.approx(0.02, rel=0.15)
    assert ((root[10:] * root[:-10]).mean() / root.square().mean()).item() == pytest.approx(np.exp(-1), abs=0.1)


def test_the_drift_starts_at_zero_and_has_its_size_after_three_seconds():
    error = dataclasses.replace(NONE, root_drift=0.1)
    ends, starts = [], []
    for number in range(40):
        lifted, truth, _ = lift(error, clip_id=f"clip{number}", frames=75)
        away = (lifted - truth)[:, 0].norm(dim=-1)
        starts.append(away[0].item())
        ends.append(away[60].item())
    assert max(starts) < 1e-5
    assert np.sqrt(np.mean(np.square(ends))) == pytest.approx(0.1, rel=0.3)


def test_the_seed_and_the_id_of_a_clip_decide_its_error_whose_parts_have_their_own_streams():
    first, _, _ = lift(SyntheticError())
    assert torch.equal(first, lift(SyntheticError())[0])
    assert not torch.allclose(first, lift(SyntheticError(), seed=1)[0], atol=1e-3)
    assert not torch.allclose(first, lift(SyntheticError(), clip_id="clip2")[0], atol=1e-3)
    error = SyntheticError(rigidity=0.0)
    whole, truth, _ = lift(dataclasses.replace(error, scale=0.0))
    parts = torch.zeros_like(truth)
    depth = ("depth_bias", "depth_wander", "root_drift")
    for names in (depth, ("image_wander", "root_image_wander"), ("jitter", "root_jitter")):
        lifted, _, _ = lift(dataclasses.replace(NONE, **{name: getattr(error, name) for name in names}))
        parts += lifted - truth
    torch.testing.assert_close(whole - truth, parts, atol=2e-5, rtol=0)
    noise = Noise("clip", 0, 60, 10.0)
    for draw in (noise.constant, noise.white, noise.smooth):
        assert torch.equal(draw("jitter", 30), draw("jitter", 30))
        assert not torch.allclose(draw("jitter", 30), draw("bias", 30), atol=0.1)


def test_it_is_found_under_its_name_and_a_clip_without_truth_is_refused():
    assert plugins.collect(plugins.create_manager(), "lifters")["synthetic"] is SyntheticLifter
    lifter = SyntheticLifter()
    sight = TestSyntheticLifter().sight(lifter)
    del sight["truth"]
    with pytest.raises(DatasetError, match="needs a true motion"):
        lifter.lift("clip", **sight, fps=20.0)


def test_its_error_on_real_motion_is_that_of_real_lifters():
    """PROTOCOL: PA-MPJPE 84 to 125 mm, bone lengths wander by 4 to 7 %, as of MediaPipe against four views."""
    draw = torch.Generator().manual_seed(5)
    found = []
    for number, motion in enumerate(load_motions() * 2):
        truth = torch.from_numpy(motion.positions[:60])
        camera = cameras.sample_orbit(
            truth[:, 0].mean(0), draw, elevation=(0.0, 0.44), distance=(2.5, 5.0), positions=truth
        )
        points, _ = cameras.project(truth, camera.unsqueeze(0))
        seen = {"keypoints": points, "confidence": torch.ones(points.shape[:2]), "extrinsics": camera}
        lifted = SyntheticLifter().lift(f"{motion.name}{number}", **seen, fps=20.0, truth=truth)
        found.append(measure_error(lifted, truth, SMPL22, fps=20.0))
    mean = {name: np.mean([error[name] for error in found]) for name in found[0]}
    assert 0.084 < mean["pa_mpjpe"] < 0.125, mean
    assert 0.04 < mean["bone_wander"] < 0.07, mean
    assert mean["pa_mpjpe"] < mean["root_aligned_mpjpe"] < mean["mpjpe"], mean
    assert 5.0 < mean["acceleration_error"] < 18.0, mean


def test_measured_errors_are_what_was_put_in():
    truth = swaying(SMPL22, 30)
    moved = measure_error(truth + torch.tensor((0.0, 0.3, 0.4)), truth, SMPL22, fps=20.0)
    assert moved["mpjpe"] == pytest.approx(0.5, abs=1e-4)
    assert moved["root_aligned_mpjpe"] == pytest.approx(0, abs=1e-5)
    assert moved["pa_mpjpe"] == pytest.approx(0, abs=1e-5)
    falling = truth + 0.5 * 9.81 * (torch.arange(30) / 20.0).square()[:, None, None] * torch.tensor((0.0, 1, 0))
    assert measure_error(falling, truth, SMPL22, fps=20.0)["acceleration_error"] == pytest.approx(9.81, rel=1e-2)
    breathing = truth * (1 + 0.1 * (-1.0) ** torch.arange(30))[:, None, None]
    assert measure_error(breathing, truth, SMPL22, fps=20.0)["bone_wander"] == pytest.approx(0.1, rel=1e-3)
