"""Evaluators that are not trained: what `views-2d` cannot see and must see; `essential` channels give a motion back."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from people import real_motions, turned
from tolerances import ROUND_TRIP_M
from torch import Tensor

from videomdm_ext.bench.evaluators import untrained
from videomdm_ext.bench.evaluators.base import Ground
from videomdm_ext.bench.evaluators.untrained import VIEWS, Views2D, features, project_views
from videomdm_ext.bench.reference import static_pose
from videomdm_ext.data.folder import Card, read_folder
from videomdm_ext.data.motions import Optics, load_motions
from videomdm_ext.errors import DatasetError
from videomdm_ext.geometry.cameras import orbit, to_camera
from videomdm_ext.motion.features import decode
from videomdm_ext.motion.skeletons import SMPL22

FPS = 20.0
MOTIONS = {motion.name: torch.from_numpy(motion.positions).double() for motion in load_motions()}
CLIPS = [clip[at : at + 32] for clip in MOTIONS.values() for at in range(0, len(clip) - 32, 16)]
SPACE = Views2D()
SEEDS = st.integers(0, 10_000)


def drawn(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def camera(azimuth: float = 0.0) -> Tensor:
    """-> one that looks at the chest of a person at the origin, [3, 4]."""
    place = torch.tensor((azimuth, 0.15, 5.0), dtype=torch.float64)
    return orbit(*place, torch.tensor((0.0, 0.9, 0.0), dtype=torch.float64))


def joints(rows: Tensor) -> Tensor:
    """-> mean pose, slow and quick movement of the joints but the root, [N, 3, J - 1, 2]."""
    return rows.view(len(rows), 3, -1, 2)


@given(seed=SEEDS, scale=st.floats(0.1, 20.0))
def test_where_the_person_is_in_the_image_and_how_large_changes_nothing(seed: int, scale: float) -> None:
    points = drawn((2, 24, 22, 2), seed)
    moved = scale * (points + drawn((2, 24, 1, 2), seed + 1))
    torch.testing.assert_close(features(moved, FPS), features(points, FPS), rtol=1e-9, atol=1e-9)


@given(hertz=st.floats(0.2, 9.0), size=st.floats(0.05, 0.5))
def test_a_swing_is_told_in_the_band_of_its_frequency(hertz: float, size: float) -> None:
    """A joint that swings at a whole number of half periods in the clip, among 20 that stand at a unit's distance."""
    frames = 80
    half_periods = max(1, round(2 * hertz * frames / FPS))
    points = torch.zeros(1, frames, 22, 2, dtype=torch.float64)
    points[:, :, 1:, 1] = 1.0
    swing = torch.cos(math.pi / frames * half_periods * (torch.arange(frames).double() + 0.5))
    points[0, :, 5, 0] = size * swing
    scale = 1 / math.sqrt(1 + size**2 / 2 / 21)
    _, slow, quick = joints(features(points, FPS))[0]
    told = half_periods / 2 / frames * FPS
    expected = size / math.sqrt(2) * scale
    assert slow[4, 0].item() == pytest.approx(expected if told <= 1.0 else 0.0, abs=1e-9)
    assert quick[4, 0].item() == pytest.approx(expected if 1.0 < told <= 4.0 else 0.0, abs=1e-9)
    assert slow[4, 1].item() == pytest.approx(0.0, abs=1e-9)


def test_the_bands_are_in_hertz_and_not_in_frames() -> None:
    """A motion of 1.5 Hz stays one when every other frame is left out."""
    time = torch.arange(160).double() / 40.0
    points = torch.zeros(1, 160, 22, 2, dtype=torch.float64)
    points[:, :, 1:, 1] = 1.0
    points[0, :, 5, 0] = 0.3 * torch.cos(2 * math.pi * 1.5 * time)
    every, second = features(points, 40.0), features(points[:, ::2], 20.0)
    torch.testing.assert_close(second, every, rtol=0, atol=0.02)
    assert joints(features(points, 20.0))[0, 1, 4, 0] > 0.1


@given(frames=st.integers(4, 60), seed=SEEDS)
def test_the_transform_takes_the_mean_and_parts_the_variance(frames: int, seed: int) -> None:
    values, (waves, hertz) = drawn((frames,), seed), untrained.cosines(frames)
    parts = waves @ values
    assert parts[0].item() == pytest.approx(values.mean().item())
    assert parts[1:].square().sum().item() == pytest.approx(values.var(correction=0).item())
    assert hertz[0] == 0
    assert hertz[-1] < 0.5


def test_left_and_right_and_up_and_down_are_told_apart() -> None:
    """A person who faces the camera has the left hip on its right, u > 0, and the head above, v < 0."""
    facing = static_pose([MOTIONS["walk"]], SMPL22)[0]
    pose = joints(features(project_views(facing, camera().unsqueeze(0)), FPS))[0, 0]
    assert pose[SMPL22.index("l_hip") - 1, 0] > 0.05
    assert pose[SMPL22.index("r_hip") - 1, 0] < -0.05
    assert pose[SMPL22.index("head") - 1, 1] < -0.5
    behind = joints(features(project_views(facing, camera(math.pi).unsqueeze(0)), FPS))[0, 0]
    assert behind[SMPL22.index("l_hip") - 1, 0] < -0.05


def test_points_are_those_of_a_plain_pinhole() -> None:
    clip, view = CLIPS[3], camera(0.7)
    matrix, points = view.numpy(), clip.numpy()
    seen = points @ matrix[:, :3].T + matrix[:, 3]
    found = project_views(clip, torch.stack((view, camera())))[0]
    np.testing.assert_allclose(found.numpy(), seen[..., :2] / seen[..., 2:], atol=1e-12)


def test_cameras_are_quarter_turns_apart_and_within_the_range() -> None:
    space = Views2D(Optics(elevation=(0.1, 0.3), nearest_joint=(2.0, 3.0)))
    clip = MOTIONS["walk"] + torch.tensor((4.0, 0.0, 1.0))
    found = space.cameras(clip, torch.Generator().manual_seed(1))
    axis = found[:, 2, :3]
    assert (-axis[:, 1]).asin().clamp(0.1, 0.3).tolist() == pytest.approx((-axis[:, 1]).asin().tolist())
    azimuth = torch.atan2(-axis[:, 0], -axis[:, 2])
    assert torch.remainder(azimuth.diff(), 2 * math.pi).tolist() == pytest.approx([math.pi / 2] * (VIEWS - 1))
    depth = to_camera(clip.expand(VIEWS, -1, -1, -1), found.unsqueeze(1).expand(VIEWS, len(clip), 3, 4))[..., 2]
    nearest = depth.amin((1, 2))
    assert ((nearest > 2.0 - 1e-9) & (nearest < 3.0 + 1e-9)).all()
    middle = to_camera(clip[:, :1].mean(0).expand(VIEWS, 1, 3), found)[:, 0]
    torch.testing.assert_close(middle[:, :2], torch.zeros(VIEWS, 2).double(), rtol=0, atol=1e-9)


def test_a_row_is_of_a_clip_and_a_view_and_a_clip_keeps_its_cameras_in_any_set() -> None:
    rows = SPACE.motions(CLIPS[:5], FPS)
    assert rows.shape == (5 * VIEWS, 6 * 21)
    torch.testing.assert_close(SPACE.motions(CLIPS[:3], FPS), rows[: 3 * VIEWS])
    moved = SPACE.motions([MOTIONS["walk"], *CLIPS[1:3]], FPS)
    torch.testing.assert_close(moved[VIEWS:], rows[VIEWS : 3 * VIEWS])
    assert (rows[:VIEWS] - rows[:VIEWS].roll(1, 0)).abs().amax(1).min() > 0.05


def test_walking_off_in_another_place_changes_no_row() -> None:
    moved = [clip + torch.tensor((7.0, 0.0, -3.0)) for clip in CLIPS[:4]]
    torch.testing.assert_close(SPACE.motions(moved, FPS), SPACE.motions(CLIPS[:4], FPS), rtol=0, atol=1e-9)


def test_true_keypoints_of_the_same_cameras_have_the_same_rows() -> None:
    clip = CLIPS[4]
    points = project_views(clip, SPACE.cameras(clip, torch.Generator().manual_seed(untrained.SEED)))
    seen = SPACE.seen([(view, torch.ones(len(clip), 22)) for view in points], FPS)
    torch.testing.assert_close(seen, SPACE.motions([clip], FPS))


def test_gaps_are_filled_on_a_straight_line_whatever_stands_in_them() -> None:
    points = drawn((1, 22, 2)) + torch.arange(20).double().view(20, 1, 1) * drawn((1, 22, 2), 1)
    confidence = torch.ones(20, 22)
    broken = points.clone()
    for joint, gap in ((3, slice(4, 9)), (0, slice(11, 14))):
        confidence[gap, joint] = 0.0
        broken[gap, joint] = math.nan
    torch.testing.assert_close(untrained.filled(broken, confidence), points)
    torch.testing.assert_close(SPACE.seen([(broken, confidence)], FPS), SPACE.seen([(points, confidence + 1)], FPS))


def test_a_view_in_which_a_joint_is_hardly_found_has_no_row() -> None:
    points, whole = drawn((20, 22, 2)), torch.ones(20, 22)
    hardly = whole.clone()
    hardly[:11, 7] = 0.0
    assert len(SPACE.seen([(points, whole), (points, hardly)], FPS)) == 1
    with pytest.raises(DatasetError, match="found none of 1"):
        SPACE.seen([(points, hardly)], FPS)


def ground_of(recipe: dict[str, object]) -> Ground:
    card = Card("set", "smpl22", FPS, "synthetic", "CC0", ("here",), recipe=recipe)
    return Ground("unread", card, Path("unused"))


def test_the_cameras_are_those_of_the_card_and_the_hash_says_so() -> None:
    usual, plain = untrained.make_views_2d(ground_of({})), Views2D()
    low = untrained.make_views_2d(
        ground_of({"optics": {"elevation": [0.0, 0.1], "nearest_joint": [3.0, 4.0], "noise": 0.0}})
    )
    assert usual.identity == plain.identity != low.identity
    assert len(low.identity) == 64
    assert isinstance(low, Views2D)
    assert (low.optics.elevation, low.optics.nearest_joint) == ((0.0, 0.1), (3.0, 4.0))
    assert not low.distrust
    assert low.captions(["a person walks."]) is None


# -- essential ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ground(write_ground, few_splits):
    return write_ground(few_splits)


@pytest.fixture(scope="module")
def evaluator(ground):
    return untrained.make_essential(ground)


def test_a_motion_is_decoded_from_its_rows_times_their_scale(evaluator):
    clip = real_motions()["dance_a"].double()
    rows = evaluator.motions([clip], 20.0)
    assert rows.shape == (len(clip) - 1, 67)
    torch.testing.assert_close(decode(rows * evaluator.std, SMPL22), clip[:-1], atol=ROUND_TRIP_M, rtol=0)


def test_rows_are_frames_clip_by_clip_wherever_they_stand_and_head(evaluator):
    clips = [real_motions()[name] for name in ("walk", "roll")]
    rows = evaluator.motions(clips, 20.0)
    assert not evaluator.per_clip
    assert evaluator.captions(["a person walks."]) is None
    torch.testing.assert_close(rows, torch.cat([evaluator.motions([clip], 20.0) for clip in clips]))
    moved = [turned(clip, torch.tensor(1.9)) + torch.tensor((4.0, 0.0, 1.0)) for clip in clips]
    assert (evaluator.motions(moved, 20.0) - rows).abs().max() < 1e-3


def test_the_scale_is_the_deviation_of_the_true_training_motions_kind_by_kind(evaluator, ground):
    clips = read_folder(ground.clips, "train")[1]
    frames = np.concatenate([clip.truth[:-1] for clip in clips])[:, :67].astype(np.float64)
    deviation = frames.std(0, ddof=1)
    expected = np.repeat([deviation[0], deviation[1:3].mean(), deviation[3], deviation[4:].mean()], [1, 2, 1, 63])
    np.testing.assert_allclose(evaluator.std.numpy(), expected, rtol=1e-3)


def test_equal_truth_in_any_order_gives_an_equal_identity_and_other_truth_another(evaluator, write_ground, few_splits):
    backwards = {split: clips[::-1] for split, clips in few_splits.items()}
    assert untrained.make_essential(write_ground(backwards)).identity == evaluator.identity
    fewer = {"train": few_splits["train"][1:]}
    assert untrained.make_essential(write_ground(fewer)).identity != evaluator.identity
