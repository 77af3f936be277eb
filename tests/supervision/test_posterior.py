"""The posterior target: its derivatives, its system, its fixed points, and what may not change it."""

import math
from dataclasses import replace

import pytest
import torch
from people import features_of, observe, orbiting, random_motion, space_of
from tolerances import EXACT_LOSS
from torch import Tensor
from torch.autograd.functional import jacobian, jvp, vjp
from torch.utils._python_dispatch import TorchDispatchMode

from videomdm_ext.geometry.cameras import orbit, project
from videomdm_ext.motion.features import FeatureSpace, channel_validity, decode, decode_root, encode, redundant
from videomdm_ext.motion.kinematics import RAW, HeadingRule, heading
from videomdm_ext.motion.skeletons import NBA16, SMPL22
from videomdm_ext.supervision.observation import Observation
from videomdm_ext.supervision.posterior import (
    QUICK,
    Decoding,
    Gaussian,
    by_axis,
    posterior_target,
)
from videomdm_ext.supervision.terms import DIFFUSED, Step, posterior

IMAGE_ALONE = Gaussian(acceleration=math.inf)


def scene(
    skeleton=SMPL22, frames: int = 12, noise: float = 0.1, rule: HeadingRule = RAW, **changes: Tensor
) -> tuple[Tensor, Tensor, Observation, FeatureSpace]:
    """Predictions and the truth [B, D, 1, T], what cameras see of the truth, and the space, in float64."""
    generator = torch.Generator().manual_seed(11)
    motion = random_motion(skeleton, (3,), frames, generator, dtype=torch.float64)
    space = space_of(motion, skeleton, rule)
    space = FeatureSpace(skeleton, space.mean.double(), space.std.double(), rule)
    truth = features_of(motion, space)
    seen = observe(
        decode(space.raw(truth), skeleton),
        orbiting((3,), generator, dtype=torch.float64),
        initial_heading=heading(motion, skeleton, rule)[:, 0],
        **changes,
    )
    return truth + noise * torch.randn(truth.shape, generator=generator, dtype=torch.float64), truth, seen, space


def distance(x: Tensor, y: Tensor) -> Tensor:
    return (x - y).square().mean()


@pytest.mark.parametrize("skeleton", [SMPL22, NBA16], ids=lambda skeleton: skeleton.name)
def test_the_derivative_of_decoding_and_its_transpose_are_those_of_autograd(skeleton):
    x, _, _, space = scene(skeleton)
    raw, used = space.raw(x), redundant(skeleton).start
    generator = torch.Generator().manual_seed(1)
    change = torch.randn(*raw.shape[:2], used, generator=generator, dtype=raw.dtype)
    force = torch.randn(*raw.shape[:2], skeleton.num_joints, 3, generator=generator, dtype=raw.dtype)

    def positions(essential: Tensor) -> Tensor:
        return decode(torch.cat((essential, raw[..., used:]), -1), skeleton)

    pushed = jvp(positions, raw[..., :used], change)[1]
    pulled = vjp(positions, raw[..., :used], force)[1]
    decoding, order = Decoding(raw, skeleton), by_axis(skeleton)
    torch.testing.assert_close(decoding.push(change[..., order]).mT, pushed, rtol=0, atol=1e-10)
    torch.testing.assert_close(decoding.pull(force.mT), pulled[..., order], rtol=0, atol=1e-9)


class Operations(TorchDispatchMode):
    """Counts what torch carries out, views of tensors too."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def test_operations_are_few_whatever_the_number_of_frames_and_joints():
    """On a GPU each costs, however small; a loop over axes would be 1,000 more."""
    counts = []
    for skeleton, frames in ((SMPL22, 8), (SMPL22, 16), (NBA16, 8)):
        x, _, seen, space = scene(skeleton, frames)
        with Operations() as operations:
            posterior_target(x, seen, space, known=Gaussian(tremble=0.05, rest=0.0025), teacher=x, relaxed=True)
        counts.append(operations.count)
    assert max(counts) <= 2050
    assert counts[0] == counts[1]
    assert abs(counts[2] - counts[0]) < 20, "rest directions alone"


def residuals(positions: Tensor, seen: Observation, known: Gaussian, at: Tensor) -> list[Tensor]:
    """The rows of r written out plainly, with depths held as they are at the positions `at`."""

    def acceleration(points: Tensor) -> Tensor:
        return points[:, 2:] - 2 * points[:, 1:-1] + points[:, :-2]

    points, _ = project(positions, seen.extrinsics)
    depth = project(at, seen.extrinsics)[1]
    image = (seen.weight.sqrt() * depth).unsqueeze(-1) * (points - seen.keypoints) / known.keypoint
    rows = [image, (acceleration(positions) - acceleration(at)) / known.acceleration]
    if known.rest == math.inf:
        return rows
    off = (seen.weight.sqrt() * depth).unsqueeze(-1) * (project(at, seen.extrinsics)[0] - seen.keypoints)
    missed = (off / known.keypoint).square().clamp(0, 1).amax(-1)
    missed = torch.maximum(missed[:, 1:], missed[:, :-1]).unsqueeze(-1)
    steps, first = positions[:, 1:] - positions[:, :-1], at[:, 1:] - at[:, :-1]
    held = 1 / (1 + (first.norm(dim=-1, keepdim=True) / QUICK).square()) / known.rest
    still = held * (seen.valid[:, 1:] & seen.valid[:, :-1])[..., None, None] * (steps - first + missed * first)
    return [*rows, still[:, :, list(SMPL22.contact_joints)]]


@pytest.mark.parametrize("known", [Gaussian(), Gaussian(rest=0.0025)])
def test_the_target_equals_a_dense_solve(known):
    x, _, seen, space = scene(frames=6)
    raw, used = space.raw(x), redundant(SMPL22).start
    exists = channel_validity(seen.valid, SMPL22)[..., :used]
    target = space.raw(posterior_target(x, seen, space, 2.0, known=known, iterations=6 * used))
    for clip in range(len(x)):
        one = Observation(*(part[clip : clip + 1] for part in list(vars(seen).values())[:5]))
        at = decode(raw[clip : clip + 1], SMPL22)

        def stacked(scored: Tensor, clip=clip, one=one, at=at) -> Tensor:
            essential = torch.where(exists[clip], scored * space.std[:used], 0.0) + raw[clip, :, :used]
            moved = decode(torch.cat((essential, raw[clip, :, used:]), -1)[None], SMPL22)
            return torch.cat([part.flatten() for part in residuals(moved, one, known, at)])

        still = torch.zeros(6, used, dtype=torch.float64)
        rows = jacobian(stacked, still, vectorize=True).flatten(1)
        system = rows.T @ rows + 2.0 * torch.eye(6 * used, dtype=torch.float64)
        move = torch.linalg.solve(system, -rows.T @ stacked(still)).unflatten(0, (6, used)) * space.std[:used]
        wanted = torch.where(exists[clip], raw[clip, :, :used] + move, target[clip, :, :used])
        torch.testing.assert_close(target[clip, :, :used], wanted, rtol=0, atol=1e-6)


def test_the_fixed_points_are_those_of_reprojection():
    x, _, seen, space = scene(noise=0.03)
    for _ in range(40):
        x = posterior_target(x, seen, space, 0.01, known=IMAGE_ALONE, iterations=30)
    essential = x[:, : redundant(SMPL22).start].clone().requires_grad_()
    positions = decode(space.raw(torch.cat((essential, x[:, redundant(SMPL22)]), 1)), SMPL22)
    points, depth = project(positions, seen.extrinsics)
    loss = (depth.detach().square() * (points - seen.keypoints).square().sum(-1)).mean()
    assert loss < 1e-10
    assert torch.autograd.grad(loss, essential)[0].abs().max() < 1e-6


def test_a_heading_that_the_body_does_not_have_costs():
    """The positions are exact, and written with headings turned by a right angle from the second frame on."""
    _, truth, seen, space = scene()
    positions = decode(space.raw(truth), SMPL22)
    headings = decode_root(space.raw(truth), SMPL22)[0].clone()
    headings[:, 1:] += math.pi / 2
    turned = space.features(encode(positions, SMPL22, headings))
    torch.testing.assert_close(decode(space.raw(turned), SMPL22), positions)
    assert distance(turned, posterior_target(turned, seen, space, known=IMAGE_ALONE, teacher=truth)) > 0.1


def test_over_relaxation_makes_the_expectation_over_azimuth_the_whole_error():
    """Local positions off by one fixed error, seen from far away, from all sides at one elevation."""
    generator = torch.Generator().manual_seed(4)
    motion = random_motion(SMPL22, (1,), 3, generator, dtype=torch.float64)
    space = space_of(motion, SMPL22)
    space = FeatureSpace(SMPL22, space.mean.double(), torch.full_like(space.std.double(), 0.1), RAW)
    truth = features_of(motion, space)
    wrong = truth.clone()
    wrong[:, 4:67] += 0.1 * torch.randn(1, 63, 1, 1, generator=generator, dtype=torch.float64)
    sides = 180
    angles = torch.arange(sides, dtype=torch.float64) * (2 * math.pi / sides)
    far, high = torch.full_like(angles, 300.0), torch.full_like(angles, 0.5)
    cameras = orbit(angles, high, far, torch.tensor((0.0, 1.0, 0.0), dtype=torch.float64).expand(sides, 3))
    seen = observe(decode(space.raw(truth), SMPL22).expand(sides, -1, -1, -1), cameras)
    tight = Gaussian(keypoint=1e-5, acceleration=math.inf)
    x = wrong.expand(sides, -1, -1, -1)
    stiff = torch.full((67,), 1.0, dtype=torch.float64)
    stiff[:4] = 1e9  # the root holds still: what is seen is the error of the joints
    for relaxed, share in ((True, 1.0), (False, None)):
        target = posterior_target(x, seen, space, stiff, known=tight, iterations=40, relaxed=relaxed)
        moved = (target - x)[:, 4:67].mean(0)
        wanted = (truth - wrong)[0, 4:67]
        off = (moved - wanted).norm() / wanted.norm()
        assert off < 0.02 if share else off > 0.2


def test_tremble_that_the_keypoints_do_not_confirm_is_calmed_and_a_motion_that_they_confirm_is_left_alone():
    x, truth, seen, space = scene(frames=24, noise=0.5)
    calm = Gaussian(tremble=0.05)
    made = [decode(space.raw(posterior_target(x, seen, space, known=known)), SMPL22) for known in (Gaussian(), calm)]
    trembles = [positions.diff(n=4, dim=1).abs().mean() for positions in made]
    assert trembles[1] < 0.8 * trembles[0]
    exact = posterior_target(truth, seen, space, known=calm)
    exists = channel_validity(seen.valid, SMPL22).transpose(1, 2).unsqueeze(2)
    assert torch.where(exists, truth - exact, 0.0).square().mean() < EXACT_LOSS


@pytest.mark.parametrize("relaxed", [False, True])
def test_feet_rest_that_slide_as_the_keypoints_jitter_and_a_motion_that_they_confirm_is_left_alone(generator, relaxed):
    """A person stands, 10 mm of noise on every joint: its prediction and its keypoints have nothing in common."""
    x, truth, seen, space = scene(frames=24)
    known, feet = (Gaussian(), Gaussian(rest=0.0025)), list(SMPL22.contact_joints)
    standing = decode(space.raw(truth), SMPL22)[:, :1].expand(-1, 24, -1, -1)
    noise = 0.01 * torch.randn((2, *standing.shape), generator=generator, dtype=torch.float64)
    x = features_of(standing + noise[0], space)
    jittered = replace(seen, keypoints=project(standing + noise[1], seen.extrinsics)[0])
    stiff = {"iterations": 40, "relaxed": relaxed}
    made = [decode(space.raw(posterior_target(x, jittered, space, 5.0, known=one, **stiff)), SMPL22) for one in known]
    slid, *steps = (motion[:, 1:, feet] - motion[:, :-1, feet] for motion in (standing + noise[0], *made))
    assert steps[1].norm(dim=-1).mean() < 0.5 * steps[0].norm(dim=-1).mean()
    inside = (seen.valid[:, 1:] & seen.valid[:, :-1])[..., None, None]
    turned = (steps[1] * slid * inside).sum() / (slid.square() * inside).sum()
    assert turned > 0, "what is left of a slide does not go the other way"
    exact = posterior_target(truth, seen, space, known=known[1])
    exists = channel_validity(seen.valid, SMPL22).transpose(1, 2).unsqueeze(2)
    assert torch.where(exists, truth - exact, 0.0).square().mean() < EXACT_LOSS


def test_without_keypoints_the_target_is_between_prediction_and_diffused_motion_the_nearer_to_it_the_more_noise():
    """Two Gaussian sources, of variances 1 - alpha_bar and DIFFUSED: nothing but their mean."""
    x, diffused, seen, space = scene(confidence=torch.zeros(3, 12, 22, dtype=torch.float64))
    noise = torch.tensor((0.9, 0.5, 0.1), dtype=torch.float64)
    step = Step(x.requires_grad_(), diffused, torch.zeros(3), 1 - noise, seen, space)
    (gradient,) = torch.autograd.grad(posterior(step).sum(), x)
    exists = channel_validity(seen.valid, SMPL22)
    towards = (gradient * (x - diffused)).detach().squeeze(2).transpose(1, 2)
    apart = (x - diffused).detach().square().squeeze(2).transpose(1, 2)
    essential = exists.clone()
    essential[..., redundant(SMPL22).start :] = False
    count = exists.flatten(1).sum(1)
    found = (towards * essential).flatten(1).sum(1) * count / (2 * (apart * essential).flatten(1).sum(1))
    torch.testing.assert_close(found, noise / (noise + DIFFUSED), rtol=1e-5, atol=0)


def test_a_prediction_is_as_uncertain_as_its_poses_miss_their_keypoints_wherever_its_root_is():
    """Joints moved at random by s metres have the variance s^2 in units of the features' own; a moved root has none."""
    _, truth, seen, space = scene(frames=40)
    positions = decode(space.raw(truth), SMPL22)
    size = space.std[4:67].square().mean()
    for moved, wanted in ((0.0, 0.0), (0.1, 0.01 / size), (0.2, 0.04 / size)):
        off = moved * torch.randn(positions.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        off = off + torch.tensor((0.4, -0.2, 0.1), dtype=torch.float64)
        step = Step(features_of(positions + off, space), truth, torch.zeros(3), torch.ones(3), seen, space)
        torch.testing.assert_close(step.missed, wanted * torch.ones(3), rtol=0.3, atol=0.02, check_dtype=False)


def test_an_outlier_or_exchanged_sides_make_no_prediction_uncertain():
    """They are repaired first: the image that a prediction is held to is the same for its target and its variance."""
    _, truth, seen, space = scene(frames=40)
    keypoints = seen.keypoints.clone()
    keypoints[:, 20] = keypoints[:, 20][:, list(SMPL22.mirror)]
    keypoints[:, 9, 4] += 50.0
    step = Step(truth, truth, torch.zeros(3), torch.ones(3), replace(seen, keypoints=keypoints), space)
    assert (step.missed < EXACT_LOSS).all()


def test_the_target_of_a_prediction_that_misses_its_keypoints_is_nearer_to_the_diffused_motion():
    x, truth, seen, space = scene(noise=1.5)
    exists = channel_validity(seen.valid, SMPL22).transpose(1, 2).unsqueeze(2)
    far = []
    for believed in (True, False):
        step = Step(
            x.clone().requires_grad_(), truth, torch.zeros(3), torch.full((3,), 0.9, dtype=torch.float64), seen, space
        )
        if believed:
            step.__dict__["missed"] = torch.zeros(3, dtype=torch.float64)
        (gradient,) = torch.autograd.grad(posterior(step).sum(), step.x)
        target = step.x - gradient * exists.flatten(1).sum(1)[:, None, None, None] / 2
        far.append(torch.where(exists, target - truth, 0.0).flatten(1).norm(dim=1))
    assert (far[1] < 0.7 * far[0]).all()
