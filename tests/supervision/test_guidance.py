"""Laws of guidance: what fits its rays stays, the rest moves as far as asked, and no choice of axes matters."""

from dataclasses import replace

import pytest
import torch
from people import features_of, observe, orbiting, random_motion, space_of, turned

from videomdm_ext.geometry.cameras import closest_on_ray, project, reexpress, to_camera
from videomdm_ext.motion.features import FeatureSpace, decode
from videomdm_ext.motion.kinematics import RAW, HeadingRule, canonicalise
from videomdm_ext.motion.skeletons import NBA16, SMPL22, Skeleton
from videomdm_ext.supervision.observation import Observation
from videomdm_ext.supervision.rays import guide, place


def scene(
    generator: torch.Generator, *, skeleton: Skeleton = SMPL22, rule: HeadingRule = RAW, confidence: float = 1.0
) -> tuple[torch.Tensor, Observation, FeatureSpace, torch.Tensor]:
    """-> features [3, D, 1, 12] of a wrong motion, what the camera saw of the true one, their space, the true ones."""
    motion = canonicalise(random_motion(skeleton, (3,), 12, generator, dtype=torch.float64), skeleton, rule)[0]
    space = space_of(motion, skeleton, rule)
    seen = torch.full(motion.shape[:-1], confidence, dtype=torch.float64)
    observation = observe(motion, orbiting((3,), generator, dtype=torch.float64), confidence=seen)
    wrong = motion + 0.1 * torch.randn(motion.shape, generator=generator, dtype=torch.float64)
    wrong = canonicalise(wrong, skeleton, rule)[0]
    return features_of(wrong, space), observation, space, features_of(motion, space)


def in_camera(x: torch.Tensor, observation: Observation, space: FeatureSpace) -> torch.Tensor:
    return to_camera(decode(space.raw(x), space.skeleton), observation.extrinsics)


@pytest.mark.parametrize("skeleton", [SMPL22, NBA16])
@pytest.mark.parametrize("rule", [RAW, HeadingRule(20.0)])
def test_a_motion_on_its_rays_stays_as_it_is_and_so_does_its_camera(generator, skeleton, rule):
    _, observation, space, exact = scene(generator, skeleton=skeleton, rule=rule, confidence=0.8)
    found, moved = guide(exact, observation, space, 1.0, nearest=0.5)
    assert (found - exact).abs().max() < 1e-8
    assert torch.allclose(moved.extrinsics, observation.extrinsics, atol=1e-10)
    assert torch.allclose(moved.initial_heading, observation.initial_heading, atol=1e-10)


@pytest.mark.parametrize("what", ["strength", "confidence"])
def test_no_strength_and_no_confidence_leave_every_bit(generator, what):
    x, observation, space, _ = scene(generator)
    x = x + torch.randn(x.shape, generator=generator, dtype=x.dtype)  # redundant channels that contradict the rest
    if what == "confidence":
        observation = replace(observation, weight=torch.zeros_like(observation.weight))
    found, moved = guide(x, observation, space, 0.0 if what == "strength" else 1.0, nearest=0.5)
    assert torch.equal(found, x)
    assert torch.equal(moved.extrinsics, observation.extrinsics)


@pytest.mark.parametrize("skeleton", [SMPL22, NBA16])
@pytest.mark.parametrize("rule", [RAW, HeadingRule(20.0)])
def test_whole_strength_puts_every_joint_on_its_ray_as_the_moved_camera_sees_it(generator, skeleton, rule):
    x, observation, space, _ = scene(generator, skeleton=skeleton, rule=rule)
    before = project(decode(space.raw(x), skeleton), observation.extrinsics)[0]
    found, moved = guide(x, observation, space, 1.0, nearest=0.5)
    after = project(decode(space.raw(found), skeleton), moved.extrinsics)[0]
    assert (before - observation.keypoints).abs().max() > 0.02
    assert torch.allclose(after, observation.keypoints, atol=1e-9)


def test_the_body_moves_as_one_and_then_joints_go_the_shortest_way_by_strength_times_weight(generator):
    x, observation, space, _ = scene(generator, confidence=0.8)
    start = in_camera(x, observation, space)
    whole = place(decode(space.raw(x), SMPL22), observation) @ observation.extrinsics[:, 0, :, :3].transpose(-1, -2)
    there = start + whole.unsqueeze(-2)
    goal = there + 0.64 * (closest_on_ray(there, observation.keypoints, 0.5) - there)
    for strength in (1.0, 0.5, 0.0):
        found, moved = guide(x, observation, space, strength, nearest=0.5)
        expected = start + strength * (goal - start)
        assert torch.allclose(in_camera(found, moved, space), expected, atol=1e-9)


def test_a_body_that_stands_elsewhere_is_placed_where_its_keypoints_are_however_little_counts(generator):
    """Depth too, which its size tells; the least squares of each frame are written out where the frames are alike."""
    motion = random_motion(SMPL22, (3,), 12, generator, dtype=torch.float64)
    seen = torch.rand(motion.shape[:-1], generator=generator, dtype=torch.float64) * 0.3
    observation = observe(motion, orbiting((3,), generator, dtype=torch.float64), confidence=seen)
    away = torch.tensor((0.3, -0.2, 0.5)).double()
    assert torch.allclose(place(motion + away, observation), -away.expand(3, 12, 3), atol=1e-2)
    still = motion[:, :1].expand_as(motion)
    observation = observe(still, observation.extrinsics[:, 0])
    wrong = still + 0.1 * torch.randn(still[:, :1].shape, generator=generator).double()
    found = place(wrong, observation)
    for b in range(3):
        axes = observation.extrinsics[b, 0, :, :3]
        rows, goals = [], []
        for (u, v), point in zip(
            observation.keypoints[b, 0], to_camera(wrong, observation.extrinsics)[b, 0], strict=True
        ):
            ray = torch.stack((u, v, torch.ones_like(u))) / (1 + u * u + v * v).sqrt()
            flat = torch.eye(3).double() - torch.outer(ray, ray)
            rows.append(flat @ axes)
            goals.append(-flat @ point)
        expected = torch.linalg.lstsq(torch.cat(rows), torch.cat(goals).unsqueeze(-1)).solution.squeeze(-1)
        assert torch.allclose(found[b], expected.expand(12, 3), atol=1e-5)


def test_guided_features_are_those_of_the_moved_motion(generator):
    """Of all channels, and from a first frame that has moved and turned: rotations and headings follow the body."""
    x, observation, space, _ = scene(generator)
    observation = replace(observation, initial_heading=torch.zeros(3, dtype=torch.float64))
    found, moved = guide(x, observation, space, 1.0, nearest=0.5)
    assert moved.initial_heading.abs().min() > 1e-3
    camera, axes = in_camera(found, moved, space), observation.extrinsics
    world = (camera - axes[..., 3].unsqueeze(-2)) @ axes[..., :3]
    own = canonicalise(world, SMPL22)[0]
    apart = (found - features_of(own, space)).squeeze(2)
    assert apart[:, 3:67].abs().max() < 1e-8  # heights and positions
    assert apart[:, :3, :-1].abs().max() < 1e-8  # the root's ways to the next frame
    assert apart[:, 193:, :-1].abs().max() < 1e-8  # velocities and contacts
    turned_back = torch.stack([turned(own[i], moved.initial_heading[i].expand(12, 22)) for i in range(3)])
    arcs = features_of(turned_back, space).squeeze(2)[:, 73:193]  # arcs are taken in the frame before the move
    assert (found.squeeze(2)[:, 73:193] - arcs).abs().max() < 1e-8


@pytest.mark.parametrize("skeleton", [SMPL22, NBA16])
def test_a_world_moved_together_with_its_camera_changes_nothing(generator, skeleton):
    """The same clip, cut from a take that started elsewhere and facing another way."""
    x, observation, space, _ = scene(generator, skeleton=skeleton)
    axes, heading = observation.extrinsics, torch.tensor((0.4, -2.0, 3.0)).double()
    origin = torch.randn(3, 3, generator=generator).double() * torch.tensor((1.0, 0.0, 1.0)).double()
    there = reexpress(axes, heading[:, None].expand(3, 12), origin[:, None].expand(3, 12, 3))
    positions = decode(space.raw(x), skeleton)
    back = turned(positions - origin[:, None, None], -heading[:, None, None].expand(positions.shape[:-1]))
    assert torch.allclose(to_camera(back, there), to_camera(positions, axes), atol=1e-9)  # one and the same view
    own = canonicalise(back, skeleton)
    again = reexpress(there, own[1][:, None].expand(3, 12), own[2][:, None].expand(3, 12, 3))
    first, second = (
        in_camera(*guide(start, replace(observation, extrinsics=camera), space, 1.0, nearest=0.5), space)
        for start, camera in ((x, axes), (features_of(own[0], space), again))
    )
    assert torch.allclose(first, second, atol=1e-8)


def test_padding_takes_no_part(generator):
    x, observation, space, _ = scene(generator)
    valid = (torch.arange(12) < 7).expand(3, 12)
    padded = replace(observation, valid=valid, weight=observation.weight * valid[..., None])
    found, moved = guide(x, padded, space, 1.0, nearest=0.5)
    assert torch.equal(found[..., 7:], x[..., 7:])
    alone = Observation(*(getattr(observation, name)[:, :7] for name in ("keypoints", "weight", "extrinsics")),
                        observation.initial_heading, valid[:, :7])  # fmt: skip
    short, _ = guide(x[..., :7], alone, space, 1.0, nearest=0.5)
    assert torch.allclose(decode(space.raw(found), SMPL22)[:, :7], decode(space.raw(short), SMPL22), atol=1e-9)
    assert torch.equal(moved.valid, valid)
