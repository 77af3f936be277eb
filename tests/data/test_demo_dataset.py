"""The demo's data set: real motion, held-out motions, and cameras that fit both the truth and the teacher."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from clips import verify_folder

from videomdm_ext.data.checks.checking import check_folder
from videomdm_ext.data.clip import Clip
from videomdm_ext.data.folder import Card, read_folder
from videomdm_ext.data.motions import HELD_OUT, MAX_FRAMES, build_demo, load_motions, variants, window
from videomdm_ext.errors import PluginError, StorageError
from videomdm_ext.geometry.cameras import project
from videomdm_ext.motion.features import decode
from videomdm_ext.motion.measures import mpjpe, pa_mpjpe
from videomdm_ext.motion.skeletons import SMPL22

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
        build_demo(str(tmp_path), lifter="nobody")
    monkeypatch.setattr("videomdm_ext.data.motions.load_motions", lambda: pytest.fail("work was done"))
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="can be written"):
        build_demo(str(tmp_path / "file" / "demo"))
