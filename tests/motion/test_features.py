"""Positions to the HumanML3D vector and back, its named channels, its gradients and its statistics."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from people import features_of, random_motion, real_batch, real_motions, space_of, turned
from tolerances import ROUND_TRIP_M

from videomdm_ext.motion import features
from videomdm_ext.motion.features import channels, decode, decode_root, encode
from videomdm_ext.motion.kinematics import HUMANML3D, RAW, HeadingRule, contacts, heading
from videomdm_ext.motion.skeletons import NBA16, SKELETONS, SMPL22, Skeleton

each_skeleton = pytest.mark.parametrize("skeleton", SKELETONS.values(), ids=SKELETONS)
each_rule = pytest.mark.parametrize("rule", [RAW, HUMANML3D], ids=["raw", "humanml3d"])


def from_start(positions: torch.Tensor, headings: torch.Tensor) -> torch.Tensor:
    """The clip as `decode` gives it: over the origin, turned back by its first stored heading."""
    origin = positions[..., :1, :1, :] * torch.tensor((1.0, 0.0, 1.0))
    return turned(positions - origin, -headings[..., :1, None].expand(positions.shape[:-1]))


@given(st.integers(0, 10**6), st.sampled_from(list(SKELETONS.values())), st.sampled_from([RAW, HUMANML3D]))
def test_positions_to_features_to_positions_over_random_motion(
    seed: int, skeleton: Skeleton, rule: HeadingRule
) -> None:
    motion = random_motion(skeleton, (2,), 196, torch.Generator().manual_seed(seed), bend=0.6)
    headings = heading(motion, skeleton, rule)
    vector = encode(motion, skeleton, headings)
    assert vector.shape == (2, 196, skeleton.num_features)
    assert (decode(vector, skeleton) - from_start(motion, headings)).abs().max() < ROUND_TRIP_M


@each_rule
@pytest.mark.parametrize("name", real_motions())
def test_positions_to_features_to_positions_over_real_motion(name: str, rule: HeadingRule) -> None:
    motion = real_motions()[name]
    headings = heading(motion, SMPL22, rule)
    found = decode(encode(motion, SMPL22, headings), SMPL22)
    assert (found - from_start(motion, headings)).abs().max() < ROUND_TRIP_M
    if rule is RAW:
        assert (found - motion).abs().max() < 2e-3  # the bundled clips face +z to rounding of the file


@each_skeleton
def test_features_to_positions_to_features_over_random_motion(skeleton: Skeleton, generator: torch.Generator) -> None:
    vector = encode(random_motion(skeleton, (3,), 50, generator, dtype=torch.float64), skeleton)
    assert torch.allclose(encode(decode(vector, skeleton), skeleton), vector, atol=1e-9)


@each_skeleton
def test_features_do_not_change_when_the_clip_is_turned_and_moved_but_for_the_arcs(
    skeleton: Skeleton, generator: torch.Generator
) -> None:
    motion = random_motion(skeleton, (3,), 20, generator, dtype=torch.float64)
    away = turned(motion, torch.tensor(1.1).expand(3, 20, 1)) + torch.tensor((3.0, 0.0, -2.0))
    same = torch.ones(skeleton.num_features, dtype=torch.bool)
    same[channels(skeleton).rotations] = False
    before, after = encode(motion, skeleton), encode(away, skeleton)
    assert torch.allclose(before[..., same], after[..., same], atol=1e-9)
    assert not torch.allclose(before[..., ~same], after[..., ~same], atol=1e-2)
    as_cut = encode(motion, skeleton, initial_heading=1.1)
    assert torch.allclose(as_cut, after, atol=1e-6)


@pytest.mark.parametrize("start", [5, 18])
def test_a_slice_of_the_vector_is_the_vector_of_the_crop_with_its_initial_heading(start: int) -> None:
    vector = encode(real_batch(dtype=torch.float64), SMPL22)
    headings, _ = decode_root(vector, SMPL22)
    crop = vector[:, start:]
    again = encode(decode(crop, SMPL22), SMPL22, initial_heading=headings[:, start])
    assert torch.allclose(again, crop, atol=1e-9)
    assert torch.equal(decode(crop[:, :1], SMPL22)[:, 0], decode(crop, SMPL22)[:, 0])
    assert headings[:, start].abs().max() > 0.1


def test_decoding_does_not_read_the_redundant_channels(generator: torch.Generator) -> None:
    vector = encode(random_motion(SMPL22, (), 8, generator), SMPL22)
    part = features.redundant(SMPL22)
    assert (part.start, part.stop) == (67, 263)
    other = vector.clone()
    other[:, part] = torch.nan
    assert torch.equal(decode(other, SMPL22), decode(vector, SMPL22))


def test_the_channels_lie_where_humanml3d_has_them() -> None:
    parts = channels(SMPL22)
    found = [(part.start, part.stop) for part in vars(parts).values()]
    assert found == [(0, 1), (1, 3), (3, 4), (4, 67), (67, 193), (193, 259), (259, 263)]
    assert channels(NBA16).contacts.stop == 191


@each_skeleton
def test_each_group_of_channels_is_what_its_name_says(skeleton: Skeleton, generator: torch.Generator) -> None:
    motion = random_motion(skeleton, (), 12, generator, dtype=torch.float64)
    parts, headings = channels(skeleton), heading(motion, skeleton)
    vector = encode(motion, skeleton)
    local = turned(motion, -headings[:, None].expand(motion.shape[:2]))
    step = motion.diff(dim=0)
    turned_step = turned(step, -headings[:-1, None].expand(step.shape[:2]))
    ahead = turned(step[:, 0], -headings[1:])
    assert torch.allclose(vector[:-1, 0], -0.5 * headings.diff())
    assert torch.allclose(vector[:-1, parts.root_velocity], ahead[:, ::2])
    assert torch.allclose(vector[:, 3], motion[:, 0, 1])
    body = local[:, 1:] - local[:, :1] * torch.tensor((1.0, 0.0, 1.0))
    assert torch.allclose(vector[:, parts.positions], body.flatten(1))
    assert torch.allclose(vector[:-1, parts.velocities], turned_step.flatten(1))
    assert torch.equal(vector[:-1, parts.contacts], contacts(motion, skeleton))
    assert torch.equal(vector[-1, parts.yaw], vector[-2, parts.yaw])
    assert torch.equal(vector[-1, parts.contacts], vector[-2, parts.contacts])


def test_gradients_of_decode_match_finite_differences(generator: torch.Generator) -> None:
    vector = encode(random_motion(NBA16, (2,), 4, generator, dtype=torch.float64), NBA16).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: decode(v, NBA16), vector, fast_mode=True)


def test_gradients_of_encode_match_finite_differences_but_for_the_contacts(generator: torch.Generator) -> None:
    motion = random_motion(NBA16, (), 3, generator, dtype=torch.float64).requires_grad_()
    touch = channels(NBA16).contacts.start
    assert torch.autograd.gradcheck(lambda p: encode(p, NBA16)[..., :touch], motion, fast_mode=True)


def test_differences_of_the_last_valid_frame_do_not_exist() -> None:
    valid = torch.tensor(((True, True, True, False), (True, True, True, True)))
    mask = features.channel_validity(valid, SMPL22)
    parts = channels(SMPL22)
    assert mask.shape == (2, 4, 263)
    for part in (parts.yaw, parts.root_velocity, parts.velocities, parts.contacts):
        assert mask[0, :, part].all(-1).tolist() == [True, True, False, False]
        assert mask[1, :, part].all(-1).tolist() == [True, True, True, False]
    for part in (parts.height, parts.positions, parts.rotations):
        assert mask[0, :, part].all(-1).tolist() == [True, True, True, False]
    assert mask.any(-1).tolist() == valid.tolist()


def test_mean_and_std_are_those_of_the_frames_with_one_std_a_group(generator: torch.Generator) -> None:
    raw = torch.randn(5, 30, 263, generator=generator) * torch.linspace(0.5, 2.0, 263) + 3.0
    mean, std = features.mean_and_std(list(raw), SMPL22)
    every = raw.flatten(0, 1)
    assert torch.allclose(mean, every.mean(0))
    for part in vars(channels(SMPL22)).values():
        assert torch.allclose(std[part], every.std(0)[part].mean().expand(part.stop - part.start))
    assert features.mean_and_std([torch.ones(9, 263)], SMPL22)[1].min() > 0


@each_skeleton
def test_the_hosts_tensors_are_scored_features_with_frames_last(skeleton: Skeleton, generator: torch.Generator) -> None:
    motion = random_motion(skeleton, (3,), 10, generator)
    space = space_of(motion, skeleton)
    x = features_of(motion, space)
    assert x.shape == (3, skeleton.num_features, 1, 10)
    raw = encode(motion, skeleton)
    assert torch.allclose(space.raw(x), raw, atol=1e-5)
    assert torch.allclose(x[1, 7, 0, 4], (raw[1, 4, 7] - space.mean[7]) / space.std[7], atol=1e-5)
