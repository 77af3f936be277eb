"""The bundled motions, mirrored and retimed, and the demo's set: cameras fit both the truth and the teacher."""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from clips import verify_folder
from numpy.typing import NDArray

from videomdm_ext.data.checks.checking import check_folder
from videomdm_ext.data.clip import Clip
from videomdm_ext.data.folder import Card, read_folder
from videomdm_ext.data.motions import (
    BUNDLED,
    FPS,
    HELD_OUT,
    MAX_FRAMES,
    SUBJECT,
    Motion,
    build_demo,
    find_lifter,
    load_motions,
    mirrored,
    time_scaled,
    variants,
    window,
    with_pace,
)
from videomdm_ext.errors import DatasetError, PluginError, StorageError
from videomdm_ext.geometry.cameras import project
from videomdm_ext.motion.features import decode
from videomdm_ext.motion.measures import mpjpe, pa_mpjpe
from videomdm_ext.motion.skeletons import SMPL22

CONSTANT_BONE_M = 1e-3
ON_THE_FLOOR_M = 0.03
NAMES = (
    "backflip cartwheel crawl dance_a dance_b getup_facedown getup_faceup jump kick punch roll run spin spinkick walk"
)
STEP_SECONDS = {"walk": 38 * 0.033332 / 2, "run": 24 * 0.033332 / 2, "jump": 106 * 0.016666, "spinkick": 77 * 0.016666}
"""Seconds from one seam to the next in the source files."""

MOTIONS = {motion.name: motion for motion in load_motions()}
each_motion = pytest.mark.parametrize("motion", MOTIONS.values(), ids=MOTIONS)


def joint(motion: Motion, name: str) -> NDArray[np.float64]:
    return motion.positions[:, SMPL22.index(name)].astype(np.float64)


def facing(motion: Motion) -> NDArray[np.float64]:
    """Horizontal unit direction the person faces, [T, 3]."""
    across = joint(motion, "l_hip") - joint(motion, "r_hip") + joint(motion, "l_shoulder") - joint(motion, "r_shoulder")
    ahead = np.cross(across, (0.0, 1.0, 0.0))
    return ahead / np.linalg.norm(ahead, axis=-1, keepdims=True)


def bone_lengths(motion: Motion) -> NDArray[np.float64]:
    positions = motion.positions.astype(np.float64)
    return np.linalg.norm(positions[:, 1:] - positions[:, list(SMPL22.parents[1:])], axis=-1)


def bend(motion: Motion, start: str, middle: str, end: str) -> NDArray[np.float64]:
    """How far the middle joint is ahead of the middle between its neighbours, metres, [T]."""
    offset = joint(motion, middle) - 0.5 * (joint(motion, start) + joint(motion, end))
    return (offset * facing(motion)).sum(-1)


def test_the_bundle_holds_fifteen_clips_in_less_than_300_kb() -> None:
    assert list(MOTIONS) == NAMES.split()
    assert BUNDLED.stat().st_size < 300_000


@each_motion
def test_a_motion_is_finite_long_enough_and_starts_over_the_origin_facing_z(motion: Motion) -> None:
    assert motion.positions.dtype == np.float32
    assert motion.positions.shape[1:] == (22, 3)
    assert np.isfinite(motion.positions).all()
    assert motion.fps == FPS == 20
    assert 1.5 * FPS < len(motion.positions) < 5 * FPS
    assert np.allclose(motion.positions[0, 0, [0, 2]], 0, atol=1e-4)
    assert np.allclose(facing(motion)[0], (0, 0, 1), atol=1e-3)
    for name in ("hip", "shoulder"):
        assert joint(motion, f"l_{name}")[0, 0] > joint(motion, f"r_{name}")[0, 0]


@each_motion
def test_the_lowest_joint_is_on_the_floor_and_bones_are_constant_and_equal_on_both_sides(motion: Motion) -> None:
    lowest = motion.positions[..., 1].min(axis=1)
    assert abs(lowest.min()) < ON_THE_FLOOR_M
    assert np.quantile(lowest, 0.3) < 2 * ON_THE_FLOOR_M
    lengths = bone_lengths(motion)
    assert np.ptp(lengths, axis=0).max() < CONSTANT_BONE_M
    mean = np.concatenate(([0.0], lengths.mean(axis=0)))
    assert np.allclose(mean, mean[list(SMPL22.mirror)], atol=CONSTANT_BONE_M)


@pytest.mark.parametrize("side", ["l", "r"])
@pytest.mark.parametrize("name", ["walk", "run"])
def test_knees_bend_backwards_and_elbows_forwards(name: str, side: str) -> None:
    knee = bend(MOTIONS[name], f"{side}_hip", f"{side}_knee", f"{side}_ankle")
    elbow = bend(MOTIONS[name], f"{side}_shoulder", f"{side}_elbow", f"{side}_wrist")
    assert knee.min() > -0.01
    assert knee.max() > 0.08
    assert elbow.max() < 0.01
    assert elbow.min() < -0.03


def test_toes_point_forward_and_the_face_is_in_front_of_the_neck_in_a_walk() -> None:
    walk = MOTIONS["walk"]
    for end, start in (("l_foot", "l_ankle"), ("r_foot", "r_ankle"), ("head", "neck")):
        ahead = ((joint(walk, end) - joint(walk, start)) * facing(walk)).sum(-1)
        assert ahead.mean() > 0.02


def test_walk_and_run_go_straight_forward_upright() -> None:
    head = joint(MOTIONS["walk"], "head")[:, 1]
    assert 1.3 < head.min() < head.max() < 1.6
    for name, speed in (("walk", 0.9), ("run", 3.0)):
        travel = joint(MOTIONS[name], "pelvis")[-1]
        assert travel[2] > speed * len(MOTIONS[name].positions) / FPS
        assert abs(travel[0]) < 0.15 * travel[2]


def test_a_walk_has_four_steps_left_and_right_in_turn() -> None:
    lead = (joint(MOTIONS["walk"], "l_ankle") - joint(MOTIONS["walk"], "r_ankle"))[:, 2]
    assert np.count_nonzero(np.diff(np.sign(lead))) == 4


def test_the_right_leg_kicks_and_the_right_hand_punches() -> None:
    kick, punch = MOTIONS["kick"], MOTIONS["punch"]
    assert joint(kick, "r_ankle")[:, 1].max() > 0.8
    assert joint(kick, "l_ankle")[:, 1].max() < 0.3
    reach = {side: joint(punch, f"{side}_wrist") - joint(punch, "pelvis") for side in "lr"}
    assert reach["r"][:, 2].max() > 0.5 > reach["l"][:, 2].max()


def test_a_cartwheel_goes_left_over_the_hands_and_a_backflip_turns_backwards() -> None:
    assert joint(MOTIONS["cartwheel"], "pelvis")[-1, 0] > 1.5
    upright = joint(MOTIONS["cartwheel"], "head") - joint(MOTIONS["cartwheel"], "pelvis")
    assert upright[:, 1].min() < -0.3
    flip = MOTIONS["backflip"]
    trunk = joint(flip, "neck") - joint(flip, "pelvis")
    turned = np.unwrap(np.arctan2(trunk[:, 2], trunk[:, 1]))
    assert turned[-1] == pytest.approx(-4 * np.pi, abs=0.3)


@pytest.mark.parametrize("name", STEP_SECONDS)
def test_no_jump_shows_where_cycles_meet(name: str) -> None:
    positions, period = MOTIONS[name].positions.astype(np.float64), STEP_SECONDS[name] * FPS
    speed = np.linalg.norm(np.diff(positions, axis=0), axis=-1).mean(axis=-1)
    for k in range(1, round(len(speed) / period)):
        at = int(k * period)
        assert speed[at] < 1.5 * max(speed[at - 1], speed[at + 1])


@each_motion
def test_captions_are_distinct_sentences_that_start_with_who_does_what(motion: Motion) -> None:
    assert 2 <= len(set(motion.captions)) == len(motion.captions) <= 3
    for caption in motion.captions:
        assert caption.endswith(".")
        assert re.match(SUBJECT.pattern + r" [a-z]+s\b", caption)
        assert with_pace(caption, 2.0) != caption


@each_motion
def test_mirrored_twice_is_the_same_motion(motion: Motion) -> None:
    once, twice = mirrored(motion), mirrored(mirrored(motion))
    assert np.array_equal(twice.positions, motion.positions)
    assert (twice.name, twice.captions) == (motion.name, motion.captions)
    assert once.name != motion.name
    assert not np.array_equal(once.positions, motion.positions)


def test_the_mirror_exchanges_sides_in_motion_and_words() -> None:
    kick = mirrored(MOTIONS["kick"])
    assert joint(kick, "l_ankle")[:, 1].max() > 0.8
    assert kick.captions[0] == "a person kicks with the left leg."
    assert np.allclose(facing(kick)[0], (0, 0, 1), atol=1e-3)
    assert joint(kick, "l_hip")[0, 0] > joint(kick, "r_hip")[0, 0]


@each_motion
def test_retiming_keeps_the_bones_changes_the_length_and_passes_through_the_old_frames(motion: Motion) -> None:
    for factor in (0.7, 1.4):
        retimed = time_scaled(motion, factor)
        assert len(retimed.positions) == int((len(motion.positions) - 1) * factor + 1e-6) + 1
        assert np.abs(bone_lengths(retimed) - bone_lengths(motion).mean(axis=0)).max() < CONSTANT_BONE_M
        assert all(("slowly" if factor > 1 else "quickly") in caption for caption in retimed.captions)
    assert np.allclose(time_scaled(motion, 1.0).positions, motion.positions, atol=1e-5)
    assert np.allclose(time_scaled(motion, 3.0).positions[::3], motion.positions, atol=1e-5)


def test_a_slow_walk_has_no_kinks_at_the_old_frames() -> None:
    acceleration = np.abs(np.diff(time_scaled(MOTIONS["walk"], 4.0).positions.astype(np.float64), n=2, axis=0))
    at_frames, between = acceleration[3::4].mean(), acceleration[1::4].mean()
    assert at_frames < 1.5 * between


def test_retiming_words() -> None:
    assert with_pace("a person walks.", 1.5) == "a person slowly walks."
    assert with_pace("someone walks.", 0.5) == "someone quickly walks."
    assert with_pace("walks about.", 0.5) == "walks about quickly."
    assert with_pace("a person walks quickly.", 1.5) == "a person walks quickly."
    assert with_pace("a person walks.", 1.05) == "a person walks."
    with pytest.raises(DatasetError, match=r"walk.*from 0.25 to 4, not 9"):
        time_scaled(MOTIONS["walk"], 9)


def test_a_broken_bundle_and_a_motion_of_another_skeleton_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bundle.npz"
    for content in (None, b"", b"no zip", b"PK\x03\x04 broken"):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(DatasetError, match=r"bundle\.npz: expected (words meta|a file that can be read)"):
            load_motions(path)
    with pytest.raises(DatasetError, match=r"odd: expected positions \[T, 22, 3\].*found \[5, 16, 3\]"):
        Motion("odd", np.zeros((5, 16, 3), np.float32), ("a person stands.",), False)


Built = tuple[Card, str, dict[str, list[Clip]]]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """-> the card, the folder and the clips of the small version."""
    path = str(tmp_path_factory.mktemp("demo"))
    card = build_demo(path, fast=True)
    return card, path, {split: read_folder(path, split)[1] for split in ("train", "test")}


def stem(clip: Clip) -> str:
    return clip.id.rsplit("_", 3)[0]


def test_motions_are_split_whole_into_clips_of_at_most_sixty_frames(built: Built):
    trained, tested = ({stem(clip) for clip in built[2][split]} for split in ("train", "test"))
    assert tested == set(HELD_OUT)
    assert not trained & tested
    assert trained | tested == {motion.name for motion in load_motions()}
    assert built[0].counts == {"train": 24, "test": 6}
    clips = list(itertools.chain(*built[2].values()))
    assert max(clip.length for clip in clips) == MAX_FRAMES
    walks = [name for name, _ in variants(next(m for m in load_motions() if m.name == "walk"), (0.85, 1.0))]
    assert walks == ["walk_m0_s85", "walk_m0_s100", "walk_m1_s85", "walk_m1_s100"]
    assert f"{walks[-1]}_v0" in {clip.id for clip in clips}


def test_the_truth_lands_on_the_keypoints_and_the_teacher_near_them(built: Built):
    """2 mm at 4 m of noise for the truth; the teacher is off by a few centimetres at its distance, not by a frame."""
    for clip in itertools.chain(*built[2].values()):
        keypoints = torch.from_numpy(clip.keypoints)
        for part, camera, bound in (("truth", "truth_extrinsics", 0.0008), ("teacher", "extrinsics", 0.02)):
            positions = decode(torch.from_numpy(getattr(clip, part)), SMPL22)
            points, depth = project(positions, torch.from_numpy(getattr(clip, camera)).unsqueeze(0))
            assert (points - keypoints).square().sum(-1).mean().sqrt() < bound, (clip.id, part)
            assert depth.min() > 1.5


def test_cameras_come_from_all_sides_never_from_below_and_are_two_and_a_half_to_five_metres_away(built: Built):
    nearest = []
    for clip in itertools.chain(*built[2].values()):
        camera = torch.from_numpy(clip.truth_extrinsics).unsqueeze(0)
        nearest.append(project(decode(torch.from_numpy(clip.truth), SMPL22), camera)[1].min().item())
    assert 2.49 < min(nearest) < 3.2
    assert 4.2 < max(nearest) < 5.2
    axes = np.stack([clip.truth_extrinsics[2, :3] for clip in itertools.chain(*built[2].values())])
    assert np.linalg.norm(axes[:, ::2].mean(0)) < 0.4
    assert (axes[:, 1] <= 1e-6).all()
    assert axes[:, 1].min() > -np.sin(np.radians(25.1))


def test_the_card_tells_the_error_of_the_teacher(built: Built):
    card, _, clips = built
    whole = itertools.chain(*clips.values())
    parts = [[torch.from_numpy(features) for features in (clip.teacher, clip.truth)] for clip in whole]
    everything = [[decode(features, SMPL22) for features in pair] for pair in parts]
    aligned = np.mean([pa_mpjpe(teacher, truth).item() for teacher, truth in everything])
    assert card.lifter_error["pa_mpjpe"] == pytest.approx(aligned, rel=0.02)
    assert 0.08 < card.lifter_error["pa_mpjpe"] < 0.125
    assert 0.04 < card.lifter_error["bone_wander"] < 0.07
    assert min(mpjpe(teacher, truth).item() for teacher, truth in everything) > 0.03
    assert set(card.lifter_error) >= {"mpjpe", "root_aligned_mpjpe", "pa_mpjpe", "bone_wander"}
    assert "zlib" in card.licence


def test_the_same_seed_makes_the_same_files_and_another_seed_others(built: Built, tmp_path: Path, monkeypatch):
    assert built[0] == verify_folder(built[1])
    few = [motion for motion in load_motions() if motion.name in ("kick", "run")]
    monkeypatch.setattr("videomdm_ext.data.motions.load_motions", lambda: few)
    one, again, other = (build_demo(str(tmp_path / str(n)), fast=True, seed=n // 2) for n in range(3))
    assert one == again == verify_folder(str(tmp_path / "1"))
    assert other.content_hash != one.content_hash


def test_a_check_finds_nothing_in_it(built: Built):
    found = check_folder(built[1], use_cache=False)
    assert (found.findings, found.clips) == ((), 30)
    assert all(states["found"] == 30 for states in found.counts.values())
    assert not Path(built[1], "checked.json").exists()


def test_views_see_parts_of_at_most_the_longest_length_from_the_start_to_the_end():
    for frames, views in itertools.product((17, 61, 62, 105), (1, 2, 5)):
        parts = [window(frames, view, views) for view in range(views)]
        assert all(part.stop - part.start == min(frames, MAX_FRAMES + 1) for part in parts)
        assert parts[0].start == 0
        assert views == 1 or parts[-1].stop == frames


def test_an_unknown_lifter_and_an_unwritable_folder_are_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(PluginError, match=r"'nobody': expected one of .*synthetic"):
        find_lifter("nobody", 0, SMPL22)
    monkeypatch.setattr("videomdm_ext.data.motions.load_motions", lambda: pytest.fail("work was done"))
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="can be written"):
        build_demo(str(tmp_path / "file" / "demo"))
