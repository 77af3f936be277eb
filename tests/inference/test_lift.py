"""Lifting with a prior: windows, noise and cameras are put together again, and figures say what they should."""

import dataclasses
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from clips import make_clip

from videomdm_ext.data.clip import Clip, crop, teacher_of, truth_of
from videomdm_ext.errors import ConfigError
from videomdm_ext.geometry.cameras import to_camera
from videomdm_ext.inference import lift as lifting
from videomdm_ext.inference import sample as sampling
from videomdm_ext.inference.lift import Lifting, lift, spans
from videomdm_ext.inference.sample import Trained
from videomdm_ext.mdm import checkout, hook
from videomdm_ext.motion.features import FeatureSpace, decode, mean_and_std
from videomdm_ext.motion.skeletons import NBA16, SMPL22

WINDOW = 30


class Believer(torch.nn.Module):
    """A denoiser that believes what it is shown."""

    cond_mode = "text"

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor, y: Any = None) -> torch.Tensor:
        return x

    def encode_text(self, texts: list[str]) -> torch.Tensor:
        return torch.zeros(1, len(texts), 512)


class OneStep:
    """A sampler of one step, which shows the teacher without noise."""

    num_timesteps = 50

    def p_sample_loop(self, model, shape, *, noise, clip_denoised, model_kwargs, skip_timesteps, init_image):
        assert not clip_denoised
        assert tuple(noise.shape) == tuple(init_image.shape) == shape
        assert skip_timesteps == 40
        return model(init_image, torch.zeros(len(init_image), dtype=torch.long), y=model_kwargs["y"])


def a_trained(clip: Clip, model: Any = None, diffusion: Any = None) -> Trained:
    space = FeatureSpace(SMPL22, *mean_and_std([torch.from_numpy(clip.teacher)], SMPL22))
    dataset: Any = SimpleNamespace(batch_length=WINDOW, clips=[clip])
    args: Any = SimpleNamespace(cond_mask_prob=0.1)
    return Trained(model or Believer(), diffusion or OneStep(), space, args, dataset)


def with_true_teacher(clip: Clip) -> Clip:
    return dataclasses.replace(clip, teacher=clip.truth, extrinsics=clip.truth_extrinsics)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
def test_windows_cover_a_clip_evenly_and_share_at_least_what_is_asked(overlap):
    for frames in (2, 29, 30, 31, 45, 60, 61, 200):
        found = spans(frames, WINDOW, overlap)
        assert found[0][0] == 0
        assert sum(found[-1]) == frames
        assert {length for _, length in found} == {min(frames, WINDOW)}
        shared = [first + length - after for (first, length), (after, _) in pairwise(found)]
        assert min(shared, default=WINDOW) >= round(overlap * WINDOW) - 1
        assert len(found) <= 1 + max(0, -(-(frames - WINDOW) // (WINDOW - round(overlap * WINDOW))))


def test_windows_of_a_clip_share_its_noise_where_they_overlap_and_draws_do_not():
    clip = make_clip()
    first, second = list(lifting.windows_of(a_trained(clip), [clip], Lifting(), 0))[:2]
    shift = second.first - first.first
    assert torch.equal(first.noise[..., shift:], second.noise[..., :-shift])
    assert not torch.equal(next(iter(lifting.windows_of(a_trained(clip), [clip], Lifting(), 1))).noise, first.noise)


@pytest.mark.parametrize("moving", [False, True])
def test_without_strength_the_windows_of_a_believed_teacher_are_the_teacher_again(moving):
    """Through crops, features, cameras of crops and cross-fades, for a long clip and a short one."""
    long, short = make_clip(moving=moving), make_clip(name="walk", moving=moving)
    short = dataclasses.replace(
        short, **{n: getattr(short, n)[:20] for n in ("teacher", "keypoints", "confidence", "truth")}
    )
    if moving:
        short = dataclasses.replace(short, extrinsics=short.extrinsics[:20])
    seen: list[tuple[int, int]] = []
    made = lift(a_trained(long), [long, short], Lifting(strength=0.0), batch=2, progress=lambda *at: seen.append(at))
    assert long.length > 2 * WINDOW
    for clip, motion in zip((long, short), made, strict=True):
        assert motion.shape == (clip.length, 22, 3)
        assert (motion - teacher_of(clip)).abs().max() < 1e-3
    assert seen[-1][0] == seen[-1][1] == len(spans(long.length, WINDOW, 0.25)) + 1


def test_guidance_takes_a_wrong_teacher_nearer_to_its_rays_the_more_the_stronger():
    clip = make_clip(moving=True)
    unsure = clip.confidence.copy()
    unsure[:, 5], unsure[:, 9] = 0.0, 0.3
    keypoints = clip.keypoints.copy()
    keypoints[:, 5] = np.nan
    clip = dataclasses.replace(clip, confidence=unsure, keypoints=keypoints)
    weak, whole = (lift(a_trained(clip), [clip], Lifting(strength=share))[0] for share in (0.1, 1.0))
    before, between, after = (lifting.off_rays(motion, clip) for motion in (teacher_of(clip), weak, whole))
    assert after < 0.5 * before
    assert after < between < before


def test_a_truth_is_never_read():
    clip = make_clip()
    without = dataclasses.replace(clip, truth=None, truth_extrinsics=None)
    assert torch.equal(lift(a_trained(clip), [clip], Lifting())[0], lift(a_trained(clip), [without], Lifting())[0])


@pytest.mark.parametrize("ddim", [0, 4])
def test_without_strength_lifting_from_noise_is_the_hosts_own_sampling(ddim):
    """And from a share of the schedule, the host starts from the noised teacher there, with the same draws."""
    trained = of_standin(make_clip())
    clip = dataclasses.replace(make_clip(), teacher=make_clip().teacher[:WINDOW])
    clip = dataclasses.replace(
        clip, **{n: getattr(clip, n)[:WINDOW] for n in ("keypoints", "confidence", "truth")}, texts=("a walk",)
    )
    for start, skipped in ((1.0, 0), (0.75, 1 if ddim else 2)):
        (window,) = lifting.windows_of(trained, [clip], Lifting(start=start), 0)
        loop, steps = sampling.sampler(trained, ddim)
        assert steps == (ddim or 8)
        y = sampling.condition(trained, ["a walk"], torch.tensor([WINDOW]), 1.0)
        begin = {"skip_timesteps": skipped, "init_image": trained.space.features(window.cut.teacher[None])}
        torch.manual_seed(sampling.stream(0, "steps/0"))
        x = loop(
            trained.model, (1, 263, 1, WINDOW), noise=window.noise[None], clip_denoised=False, model_kwargs={"y": y},
            **(begin if skipped else {}),
        )  # fmt: skip
        plain = to_camera(decode(trained.space.raw(x), SMPL22), crop(clip, 0, WINDOW).extrinsics[None])[0]
        (made,) = lift(trained, [clip], Lifting(strength=0.0, start=start, ddim=ddim))
        assert (made - plain).abs().max() < 1e-4
        assert (lift(trained, [clip], Lifting(start=start, ddim=ddim))[0] - plain).abs().max() > 1e-2


def of_standin(clip: Clip) -> Trained:
    """A small denoiser of the stand-in with random weights, 8 steps."""
    hook.use(checkout.standin())
    from model.mdm import MDM  # type: ignore[import-not-found]
    from utils.model_util import create_gaussian_diffusion  # type: ignore[import-not-found]

    torch.manual_seed(0)
    model = MDM(263, 1, latent_dim=16, ff_size=16, num_layers=1, num_heads=1).eval()
    settings = SimpleNamespace(diffusion_steps=8, noise_schedule="cosine", sigma_small=True, lambda_vel=0.0)
    return a_trained(clip, model, create_gaussian_diffusion(settings))


def test_ddim_visits_evenly_spaced_steps_from_the_last_to_the_first_and_draws_nothing():
    class Watching(Believer):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))
            self.times: list[int] = []

        def forward(self, x: torch.Tensor, timesteps: torch.Tensor, y: Any = None) -> torch.Tensor:
            self.times.append(int(timesteps[0]))
            return 0.5 * x

    trained = of_standin(make_clip())
    watching = Watching()
    trained = dataclasses.replace(trained, model=watching)
    first = sampling.sample(trained, [("walk", 20)], seed=0, guidance=1.0, ddim=3)
    assert watching.times == [7, 4, 0]
    torch.manual_seed(5)
    again = sampling.sample(trained, [("walk", 20)], seed=0, guidance=1.0, ddim=3)
    assert torch.equal(first[0], again[0])
    for steps in (1, 9):
        with pytest.raises(ConfigError, match=f"--ddim: expected 2 to 8 steps.*found {steps}"):
            sampling.sample(trained, [("walk", 20)], seed=0, guidance=1.0, ddim=steps)


def test_a_clip_that_the_prior_does_not_know_is_refused():
    clip = make_clip()
    trained = a_trained(clip)
    other = SimpleNamespace(label="clips/b.npy", skeleton=NBA16, fps=20.0, is_known=False)
    with pytest.raises(ConfigError, match=r"b\.npy: expected smpl22 \(22 joints\).*found nba16 \(16\)"):
        lift(trained, [other], Lifting())  # type: ignore[list-item]
    with pytest.raises(ConfigError, match="expected 20 fps, as in training, found 30"):
        lift(trained, [dataclasses.replace(clip, fps=30.0)], Lifting())
    known = dataclasses.replace(with_true_teacher(clip), confidence=np.zeros_like(clip.confidence))
    with pytest.raises(ConfigError, match="expected keypoints, found motion that no camera saw"):
        lift(trained, [known], Lifting())


@pytest.mark.parametrize(
    ("given", "named"),
    [({"start": 0.0}, "--start"), ({"start": 1.1}, "--start"), ({"overlap": 0.6}, "--overlap"), ({"draws": 0}, "--dr")],
)
def test_a_lifting_that_means_nothing_is_refused(given, named):
    with pytest.raises(ConfigError, match=f"^{named}"):
        Lifting(**given)


def test_the_truth_itself_has_no_error():
    clip = make_clip(moving=True)
    truth = truth_of(clip)
    assert truth is not None
    found = lifting.measure(truth, clip)
    assert set(found) == set(lifting.COLUMNS)
    assert [found.pop(name) for name in ("pck50", "pck100", "pck150", "auc")] == [1, 1, 1, pytest.approx(1)]
    assert max(found.values()) < 1e-3


def test_each_figure_sees_its_own_kind_of_error():
    clip = make_clip()
    truth = truth_of(clip)
    assert truth is not None
    away = lifting.measure(truth + torch.tensor((0.0, 0.0, 0.2)), clip)
    assert away["mpjpe"] == pytest.approx(0.2, abs=1e-4)
    assert away["depth"] > 0.15
    assert max(away[name] for name in ("root_aligned_mpjpe", "pa_mpjpe", "acceleration_error")) < 1e-3
    assert away["pck50"] == 1
    bent = truth.clone()
    bent[:, 20, 0] += 0.07
    off = lifting.measure(bent, clip)
    assert (off["pck50"], off["pck100"]) == (pytest.approx(21 / 22), 1)
    assert off["root_aligned_mpjpe"] == pytest.approx(0.07 / 22, abs=1e-5)
    shaking = truth + 0.01 * torch.tensor((1.0, -1.0)).repeat(len(truth))[: len(truth), None, None]
    expected = 0.04 * 400 * 3**0.5
    assert lifting.measure(shaking, clip)["acceleration_error"] == pytest.approx(expected, rel=1e-3)


def test_along_its_ray_a_joint_is_not_off_it_and_across_it_is_as_far_as_it_moved():
    clip = make_clip()
    truth = truth_of(clip)
    assert truth is not None
    assert lifting.off_rays(1.2 * truth, clip) < 1e-4
    across = torch.linalg.cross(truth, torch.tensor((0.0, 1.0, 0.0)).expand_as(truth))
    moved = truth + 0.05 * torch.nn.functional.normalize(across, dim=-1)
    assert lifting.off_rays(moved, clip) == pytest.approx(0.05, rel=1e-2)
    nowhere = np.where(np.arange(22)[:, None] == 4, np.nan, clip.keypoints).astype(np.float32)
    half = dataclasses.replace(clip, keypoints=nowhere)
    assert lifting.off_rays(moved, half) == pytest.approx(0.05, rel=1e-2)


def test_without_a_truth_the_image_alone_is_measured_and_means_are_over_what_there_is():
    clip = make_clip(truth=None, truth_extrinsics=None)
    found = lifting.measure(teacher_of(clip), clip)
    assert list(found) == ["image"]
    rows = [found, {"image": found["image"] + 0.01, "mpjpe": 0.2}]
    means = lifting.means(rows)
    assert means == {"image": pytest.approx(found["image"] + 0.005), "mpjpe": 0.2}
    first, second, third = lifting.table({"a teacher": means, "prior": found}).splitlines()
    assert first.split() == ["MPJPE", "off", "its", "rays"]
    assert second.split()[:3] == ["a", "teacher", "200.0"]
    assert third.split() == ["prior", f"{1000 * found['image']:.1f}"]
