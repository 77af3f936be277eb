"""Refined teachers of a folder: made once, made again when the clips change, without any truth, and on their rays."""

import contextlib
import dataclasses
import multiprocessing
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from clips import CARD, make_clip

from videomdm_ext.data import refined, tasks
from videomdm_ext.data.building import write_folder
from videomdm_ext.data.clip import (
    Clip,
    collate,
    crop,
    cut,
    floor_height,
    measured_error,
    observed,
    tensor_of,
    with_truth_as_teacher,
)
from videomdm_ext.data.folder import Card, read_folder
from videomdm_ext.data.refined import is_made, make_refined, read_refined, refine_clips
from videomdm_ext.data.tasks import Engine
from videomdm_ext.errors import DatasetError, StorageError
from videomdm_ext.geometry.cameras import project, to_camera
from videomdm_ext.motion.features import decode, mean_and_std
from videomdm_ext.motion.kinematics import HUMANML3D, RAW
from videomdm_ext.motion.measures import root_aligned_mpjpe
from videomdm_ext.motion.skeletons import SMPL22
from videomdm_ext.supervision import refinement
from videomdm_ext.supervision.observation import Observation

TRAIN = [
    make_clip(confidence=np.ones((len(make_clip().teacher), 22), dtype=np.float32)),
    make_clip(name="walk", moving=True),
]
TEST = [make_clip(name="jump")]


@pytest.fixture(autouse=True)
def _brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few iterations: what is asked here does not depend on their number."""
    monkeypatch.setattr(refinement, "Refinement", lambda: BRIEF)


BRIEF = refinement.Refinement(first=20, rounds=1, iterations=5)
BRIEFEST = refinement.Refinement(first=1, rounds=0)


def blind(clip: Clip) -> Clip:
    """The clip with no truth."""
    return dataclasses.replace(clip, truth=None, truth_extrinsics=None)


def write(path: Path, train: list[Clip], test: list[Clip], card: Card = CARD) -> tuple[str, Card]:
    """-> a folder and its card."""
    return str(path), write_folder(str(path), {"train": train, "test": test}, card)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Card]:
    """-> a folder without any truth, with its refined teachers, and its card."""
    path, card = write(tmp_path_factory.mktemp("refined") / "set", [blind(c) for c in TRAIN], [blind(c) for c in TEST])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(refinement, "Refinement", lambda: BRIEF)
        make_refined(path, card)
    return path, card


def contents(path: str) -> dict[str, bytes]:
    """Names and contents of all refined files."""
    folder = Path(path) / "refined"
    return {str(place.relative_to(folder)): place.read_bytes() for place in sorted(folder.rglob("*.*"))}


def test_they_are_made_of_folders_without_truth_with_statistics_of_the_refined_training_clips(made):
    path, card = made
    assert is_made(path, card)
    names = ("dance_a_0.npz", "walk_0.npz", "jump_0.npz", "Mean.npy", "Std.npy", "skeleton.npz", "kept.txt", "made.txt")
    assert set(contents(path)) == {f"bent/{name}" for name in (*names, "inputs.tsv")}
    path, card = made
    clips, found = read_refined(path, card, read_folder(path, "train")[1])
    expected = mean_and_std([torch.from_numpy(clip.teacher) for clip in clips], SMPL22)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-6)


def test_the_truth_changes_no_byte_of_them(made, tmp_path):
    path, card = write(tmp_path / "known", TRAIN, TEST)
    make_refined(path, card)
    ours, theirs = contents(made[0]), contents(path)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == ["bent/inputs.tsv", "bent/made.txt"]


def test_they_lie_on_their_keypoints_rays_with_their_own_cameras(made):
    """The lifted dance is off by centimetres; with full confidence the refined one is within a millimetre or two.

    But for the few keypoints of a quick dance that are taken for outliers in time.
    """
    path, card = made
    for split, names in (("train", ("dance_a_0", "walk_0")), ("test", ("jump_0",))):
        lifted = read_folder(path, split)[1]
        clips, _ = read_refined(path, card, lifted)
        assert [clip.id for clip in clips] == list(names)
        for clip, before in zip(clips, lifted, strict=True):
            error, earlier = off_rays(clip), off_rays(before)
            assert clip.extrinsics.shape == before.extrinsics.shape
            assert earlier.mean() > 0.01
            bound = 0.002 if clip.confidence.min() == 1.0 else 0.25 * earlier.mean().item()
            assert error.median() < bound, clip.id
            assert error.quantile(0.95) < max(2 * bound, 0.25 * earlier.max().item()), clip.id


def off_rays(clip: Clip) -> torch.Tensor:
    """Distances [T, J] of the teacher's joints from their keypoints' rays, at their depth, m."""
    seen = in_camera(decode(torch.from_numpy(clip.teacher), SMPL22), clip.extrinsics)
    return torch.linalg.vector_norm(seen[..., :2] - seen[..., 2:] * torch.from_numpy(clip.keypoints), dim=-1)


def test_each_is_in_its_own_canonical_frame_with_the_floor_where_the_feet_are(made):
    path, card = made
    for split in ("train", "test"):
        for clip in read_refined(path, card, read_folder(path, split)[1])[0]:
            positions = decode(torch.from_numpy(clip.teacher), SMPL22)
            start = positions[0]
            across = start[2] - start[1] + start[17] - start[16]
            assert start[0, [0, 2]].abs().max() < 1e-5
            assert across[2].abs() < 1e-4
            assert across[0] < 0
            assert floor_height(positions) == pytest.approx(0.0, abs=1e-4), clip.id


def test_who_stands_on_something_else_stays_there_and_nobody_under_the_floor():
    heights = [floor_height(decode(torch.from_numpy(raised(by).teacher), SMPL22)) for by in (1.0, 0.1, -1.0)]
    assert heights[0] > 0.8
    assert heights[1:] == pytest.approx([0.0, 0.0], abs=1e-4)


def raised(by: float) -> Clip:
    """The dance refined after it and its camera were moved up."""
    teacher, camera = TRAIN[0].teacher.copy(), TRAIN[0].extrinsics.copy()
    teacher[:, 3] += by
    camera[..., 3] -= by * camera[..., 1]
    (after,), _ = refine_clips([dataclasses.replace(TRAIN[0], teacher=teacher, extrinsics=camera)], RAW)
    assert off_rays(after).median() < 0.002
    return after


def test_only_the_teacher_and_its_camera_are_replaced_and_see_the_detectors_keypoints(made):
    path, card = made
    (before,), ((after,), _) = (read := read_folder(path, "test")[1]), read_refined(path, card, read)
    for item in dataclasses.fields(Clip):
        same = np.array_equal(getattr(before, item.name), getattr(after, item.name))
        assert same == (item.name not in ("teacher", "extrinsics")), item.name
    seen = project(decode(torch.from_numpy(after.teacher), SMPL22), torch.from_numpy(after.extrinsics))[0].numpy()
    assert np.abs(after.keypoints - seen)[after.confidence > 0].mean() < 0.02


def test_the_training_clips_alone_estimate_the_skeleton(made, tmp_path):
    """Other test clips leave the training clips, statistics and skeleton as they are."""
    path, card = write(tmp_path / "other", [blind(c) for c in TRAIN], [blind(make_clip(name="punch"))])
    make_refined(path, card)
    ours, theirs = contents(made[0]), contents(path)
    shared = ours.keys() & theirs.keys() - {"bent/inputs.tsv", "bent/made.txt"}
    assert len(shared) == 6
    assert all(ours[name] == theirs[name] for name in shared)


def test_where_there_are_more_clips_than_are_solved_together_all_say_what_is_shared(made, monkeypatch, tmp_path):
    path, card = str(shutil.copytree(made[0], tmp_path / "set")), made[1]
    shutil.rmtree(Path(path) / "refined")
    clips = read_folder(path, "train")[1]
    parts = [(clip.length, refinement.estimate([positions_and_keypoints(clip)], SMPL22)) for clip in clips]
    monkeypatch.setattr(refined, "GROUP", 1)
    told = []
    make_refined(path, card, lambda done, total: told.append((done, total)))
    assert all(0 <= done <= total for done, total in told)
    assert told[-1][0] == told[-1][1]
    found, expected = np.load(Path(path) / "refined" / "bent" / "skeleton.npz"), refinement.Shared.pooled(parts)
    np.testing.assert_allclose(found["lengths"], expected.lengths.numpy(), atol=1e-6)
    np.testing.assert_allclose(found["mean_pose"], expected.mean.numpy(), atol=1e-5)
    assert (expected.lengths - parts[0][1].lengths).abs().max() > 1e-3


def positions_and_keypoints(clip: Clip) -> tuple[torch.Tensor, Observation]:
    batch = collate([crop(clip, 0, clip.length)], length=clip.length)
    return decode(tensor_of(batch, "teacher"), SMPL22), observed(batch)


def test_a_clip_that_comes_out_unlikely_keeps_its_lifted_motion_and_is_named(tmp_path, monkeypatch, caplog):
    path, card = write(tmp_path / "set", [blind(c) for c in TRAIN], [blind(c) for c in TEST])

    def unlikely(*args, **named):
        positions, energy = refinement.solve(*args, **named)
        return positions, torch.cat((energy[:1] + torch.inf, energy[1:]))

    monkeypatch.setattr(refined, "solve", unlikely)
    make_refined(path, card)
    kept = (Path(path) / "refined" / "bent" / "kept.txt").read_text().split()
    assert "jump_0" in kept
    assert len(kept) == 2
    assert "kept the lifted motion of 2 clips that came out unlikely" in caplog.text
    for before, after in zip(lifted := read_folder(path, "train")[1], read_refined(path, card, lifted)[0], strict=True):
        same = np.array_equal(before.teacher, after.teacher) and np.array_equal(before.extrinsics, after.extrinsics)
        assert same == (before.id in kept)


def test_changed_clips_make_them_stale(made, tmp_path, monkeypatch):
    monkeypatch.setattr(refinement, "Refinement", lambda: BRIEFEST)
    path, card = write(tmp_path / "set", [blind(c) for c in TRAIN], [blind(c) for c in TEST])
    assert not is_made(path, card)
    make_refined(path, card)
    shorter = dataclasses.replace(TEST[0], texts=("someone leaps",))
    _, changed = write(tmp_path / "set", [blind(c) for c in TRAIN], [blind(shorter)])
    assert is_made(path, card)
    assert not is_made(path, changed)
    make_refined(path, changed)
    assert is_made(path, changed)


class Killed(BaseException):
    """What nothing may catch, as nothing catches the end of a process."""


@pytest.fixture
def many(tmp_path, monkeypatch) -> Callable[[str], tuple[str, Card]]:
    """-> writes a set of six clips of unequal lengths in a folder; four and one of them say what is shared."""
    monkeypatch.setattr(refined, "GROUP", 4)
    return lambda name: write_many(tmp_path / name)


def write_many(path: Path) -> tuple[str, Card]:
    clips = [cut(blind(clip), at, at + length) for clip in TRAIN for at, length in ((0, 30), (2, 25), (1, 30))]
    clips = [dataclasses.replace(clip, id=f"{clip.id}_{number}") for number, clip in enumerate(clips)]
    return write(path, clips[1:], clips[:1])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> str:
    """-> the folder of such a set that one process has refined, which tells its progress."""
    path, card = write_many(tmp_path_factory.mktemp("many") / "whole")
    seen: list[tuple[int, int]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(refined, "GROUP", 4)
        patch.setattr(refinement, "Refinement", lambda: BRIEF)
        make_refined(path, card, lambda *done: seen.append(done), batch=2)
    assert seen[-1] == (5 + 6, 5 + 6)
    return path


def test_killed_at_any_moment_it_goes_on_and_comes_out_as_if_it_had_not_been(many, whole, monkeypatch):
    """Before or after a rename, by which each file gets its place, and again and again until it is done."""
    path, card = many("killed")
    draw, rename, deaths = random.Random(1), os.replace, 0
    while not is_made(path, card):
        left, after = draw.randint(1, 8), draw.random() < 0.5

        def dying(source, target, *, after=after):
            nonlocal left
            left -= 1
            if left == 0 and not after:
                raise Killed
            rename(source, target)
            if left == 0:
                raise Killed

        with monkeypatch.context() as patch, contextlib.suppress(Killed):
            patch.setattr(os, "replace", dying)
            deaths += 1
            make_refined(path, card, batch=2)
    assert deaths > 6
    assert make_refined(path, card) == 0
    assert contents(path) == contents(whole)


def test_parts_refined_one_by_one_in_any_order_come_out_as_the_whole_and_the_last_finishes(many, whole):
    path, card = many("parts")
    missing = [make_refined(path, card, share=(part, 3), batch=2) for part in (3, 1, 2)]
    assert missing == [2, 1, 0]
    assert contents(path) == contents(whole)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the processes are forks, which start in a moment")
def test_two_processes_refine_as_one_does(many, whole, monkeypatch):
    monkeypatch.setattr(tasks, "get_context", lambda method: multiprocessing.get_context("fork"))
    monkeypatch.setattr(refinement, "Refinement", type(BRIEF))  # which a process finds by its name
    monkeypatch.setattr(refined, "refinement", SimpleNamespace(Refinement=lambda: BRIEF))
    path, card = many("shared")
    make_refined(path, card, batch=2, engine=Engine(processes=2))
    ours, theirs = contents(path), contents(whole)
    assert ours.keys() == theirs.keys()
    for clip, other in zip(*(read_refined(p, card, read_folder(p, "train")[1])[0] for p in (path, whole)), strict=True):
        np.testing.assert_allclose(clip.teacher, other.teacher, atol=1e-5)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the processes are forks")
def test_whole_refinements_of_one_set_at_once_refuse_nobody_and_come_out_as_one(many, whole):
    """As jobs of an array do, which begin again when they will: no lock, and every byte is that of one alone."""
    path, card = many("together")
    processes = []
    for _ in range(2):
        if (process := os.fork()) == 0:
            with contextlib.suppress(BaseException):
                os._exit(make_refined(path, card, batch=2))
            os._exit(77)
        processes.append(process)
    assert [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes] == [0, 0]
    assert contents(path) == contents(whole)


def test_who_finds_his_files_cleared_away_by_one_who_has_finished_has_finished_too(many, monkeypatch):
    monkeypatch.setattr(refinement, "Refinement", lambda: BRIEFEST)
    path, card = many("late")
    own = refined._Making.finish

    def late(self, *given):
        own(self, *given)
        raise StorageError("the folder is gone")

    monkeypatch.setattr(refined._Making, "finish", late)
    assert make_refined(path, card) == 0
    assert is_made(path, card)


def test_a_set_that_is_replaced_while_it_is_refined_gets_no_mark(many, monkeypatch):
    monkeypatch.setattr(refinement, "Refinement", lambda: BRIEFEST)
    path, card = many("set")
    replaced = dataclasses.replace(card, content_hash="0" * 64)
    monkeypatch.setattr(refined, "read_card", lambda path: replaced)
    with pytest.raises(DatasetError, match=r"set: expected the clips that were there when their refinement began"):
        make_refined(path, card, batch=2)
    assert not is_made(path, card)


def test_the_mark_of_earlier_clips_goes_before_the_first_file_is_replaced(many, monkeypatch):
    """Else it would vouch for a mixture when the earlier clips come back."""
    monkeypatch.setattr(refinement, "Refinement", lambda: BRIEFEST)
    path, card = many("set")
    make_refined(path, card)

    def killed(*args: object, **named: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(refined, "estimate", killed)
        patch.setattr(refined, "WAY", "another")
        with pytest.raises(Killed):
            make_refined(path, card)
    assert not is_made(path, card)


def test_a_missing_file_and_a_folder_that_cannot_be_written_are_refused_before_any_work(made, tmp_path, monkeypatch):
    path, card = made
    with pytest.raises(DatasetError, match=r"refined/bent/lost\.npz"):
        read_refined(path, card, [dataclasses.replace(TRAIN[0], id="lost")])[0][0]
    path, card = write(tmp_path / "set", [blind(TRAIN[0])], [blind(TEST[0])])
    monkeypatch.setattr(refined, "read_clip", lambda *a: pytest.fail("work was done"))
    (tmp_path / "set" / "refined").touch()
    with pytest.raises(StorageError, match="can be written"):
        make_refined(path, card)


def test_the_headings_follow_the_sets_rule(monkeypatch):
    """An exact decode of smoothed headings and of raw ones gives the same body, in vectors that differ."""
    monkeypatch.setattr(refinement, "Refinement", lambda: BRIEFEST)
    smoothed, raw, again = (refine_clips(TRAIN[:1], rule)[0][0] for rule in (HUMANML3D, RAW, RAW))
    bodies = [decode(torch.from_numpy(clip.teacher), SMPL22) for clip in (smoothed, raw)]
    sizes = [torch.linalg.vector_norm(b - b[:, :1], dim=-1) for b in bodies]
    torch.testing.assert_close(*sizes, atol=1e-4, rtol=0)
    assert np.allclose(again.teacher[:, 0], raw.teacher[:, 0], atol=1e-6)
    assert not np.allclose(smoothed.teacher[:, 0], raw.teacher[:, 0], atol=1e-6)


def test_twenty_five_iterations_already_make_a_better_teacher(made):
    path, card = made
    lifted = read_folder(path, "train")[1]
    better, _ = read_refined(path, card, lifted)
    for before, after, known in zip(lifted, better, TRAIN, strict=True):
        true = decode(torch.from_numpy(known.truth), SMPL22)
        errors = [root_error(c, known, true) for c in (before, after)]
        assert errors[1] < errors[0], before.id


def root_error(clip: Clip, known: Clip, true: torch.Tensor) -> float:
    """Root-aligned error against the truth, both in camera coordinates, m."""
    ours = in_camera(decode(torch.from_numpy(clip.teacher), SMPL22), clip.extrinsics)
    return root_aligned_mpjpe(ours, in_camera(true, known.truth_extrinsics)).item()


def in_camera(positions: torch.Tensor, extrinsics: np.ndarray) -> torch.Tensor:
    return to_camera(positions, torch.from_numpy(extrinsics if extrinsics.ndim == 3 else extrinsics[None]))


def test_the_error_of_refined_teachers_is_none_for_the_truth_and_the_growth_of_a_person_who_grew():
    clips = [make_clip(), make_clip(name="walk", moving=True)]
    exact = [with_truth_as_teacher(clip) for clip in clips]
    assert max(measured_error(clips, exact)[name] for name in ("mpjpe", "pa_mpjpe", "root_aligned_mpjpe")) < 1e-4
    lifted = measured_error(clips, clips)
    assert lifted["root_aligned_mpjpe"] > 0.02
    assert lifted["pa_mpjpe"] < 1e-3
    bare = [dataclasses.replace(clip, truth=None, truth_extrinsics=None) for clip in clips]
    assert measured_error(bare, bare) == {}


def test_a_long_clip_is_not_solved_beside_short_ones_that_would_be_padded_to_its_length(monkeypatch):
    def batched(*frames: int) -> list[tuple[int, ...]]:
        entries = [SimpleNamespace(frames=count) for count in frames]
        monkeypatch.setattr(refined, "_clips", lambda *_: SimpleNamespace(entries=entries))
        making = refined._Making("", "content way", 4, "cpu", None, "refined", CARD)
        return [numbers for _, numbers in making.batches("train", range(len(frames)))]

    assert batched(60, 10_000, 40, 50) == [(2, 3, 0), (1,)]
    assert batched(40, 41, 42, 43, 44, 80) == [(0, 1, 2, 3), (4, 5)]
    frames = [int(40 * 1.3 ** (number * 7 % 20)) for number in range(20)]
    found = batched(*frames)
    assert sorted(number for some in found for number in some) == list(range(20))
    assert all(len(some) * max(frames[n] for n in some) <= 2 * sum(frames[n] for n in some) for some in found)
