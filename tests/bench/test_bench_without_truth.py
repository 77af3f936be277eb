"""A bench on clips whose 3D truth nobody knows: compared with true keypoints, from its data to its report."""

import dataclasses
import json
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_bench
import torch
from clips import make_clip
from small_bench import CARD
from torch import Tensor

from videomdm_ext.bench import provenance, scoring
from videomdm_ext.bench.embedding_scores import KeypointScores
from videomdm_ext.bench.evaluators.untrained import VIEWS, Views2D
from videomdm_ext.bench.evaluators.untrained import VIEWS_2D as NAME
from videomdm_ext.bench.held_out import own_range
from videomdm_ext.bench.plan import Plan
from videomdm_ext.bench.reference import View, drawn_start, read_reference, refilmed, whole_views
from videomdm_ext.bench.report import figures
from videomdm_ext.bench.run import Bench
from videomdm_ext.data.building import write_folder
from videomdm_ext.data.clip import Clip
from videomdm_ext.data.tasks import Engine
from videomdm_ext.errors import ConfigError, DatasetError
from videomdm_ext.geometry import cameras
from videomdm_ext.inference.sample import read_motions
from videomdm_ext.motion.features import decode, encode
from videomdm_ext.motion.kinematics import canonicalise
from videomdm_ext.motion.skeletons import NBA16, SMPL22, Skeleton

TRAIN = ("dance_a", "walk", "jump", "punch", "spinkick", "spin", "roll", "backflip")
OF_SMPL = (0, 2, 5, 8, 1, 4, 7, 12, 15, 15, 16, 18, 20, 17, 19, 21)
"""A joint of smpl22 for each of nba16: hip, right leg, left leg, neck, nose, head, left arm, right arm."""


@pytest.fixture(scope="module", autouse=True)
def _without_pictures() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "sections", lambda results: [])
        yield


def blind(clip: Clip) -> Clip:
    """-> the clip without truth; its teacher's joints are moved along the rays of its camera."""
    camera = torch.from_numpy(clip.extrinsics).double()
    wrong = deeper(decode(torch.from_numpy(clip.teacher), clip.skeleton).double(), camera, 0.6, len(clip.id))
    moved, heading, origin = canonicalise(wrong, clip.skeleton)
    return dataclasses.replace(
        clip, teacher=encode(moved, clip.skeleton)[:-1].float().numpy(), truth=None, truth_extrinsics=None,
        extrinsics=cameras.reexpress(camera, heading, origin).float().numpy(),
        keypoints=clip.keypoints[:-1], confidence=clip.confidence[:-1],
    )  # fmt: skip


def write_blind(folder: Path, change: Any = blind) -> str:
    """-> the content hash of a set without truth: eight training clips, three for validation, two for test."""
    train = [make_clip(name=name, texts=(f"to {name}", f"to {name} again")) for name in TRAIN]
    val = [make_clip(name="dance_b", id=f"val{number}_0", texts=(f"to dance {number}",)) for number in range(3)]
    test = [make_clip(name=name, id=f"test_{name}") for name in ("dance_b", "kick")]
    splits = {"train": train, "val": val, "test": test}
    changed = {split: [change(clip) for clip in clips] for split, clips in splits.items()}
    card = dataclasses.replace(CARD, lifter_error={}, skeleton=changed["train"][0].skeleton.name)
    return write_folder(str(folder), changed, card).content_hash


def make_plan(folder: Path, content: str, **changes: Any) -> Plan:
    arms = ("lifted", "paper")
    own = {"arms": arms, "steps": 8, "replications": 1, "without": ()}
    return small_bench.make_plan(folder, content, **{**own, **changes})


@pytest.fixture(scope="module")
def plan(tmp_path_factory) -> Plan:
    """-> a plan with a curve and a choice by it, on a set without truth."""
    folder = tmp_path_factory.mktemp("blind") / "data"
    return make_plan(folder, write_blind(folder), curve=2, select=f"{NAME}/fid")


@pytest.fixture(scope="module")
def out(plan, tmp_path_factory) -> Path:
    """-> the folder of the bench, done."""
    folder = tmp_path_factory.mktemp("blind") / "out"
    Bench(plan, folder, engine=Engine(processes=0), command=["videomdm", "bench"]).run()
    return folder


def content(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "metrics.json").read_text("utf-8")))


def test_a_bench_without_truth_is_whole_and_follows_the_schema(out):
    assert provenance.problems(out) == []
    assert provenance.schema_faults(content(out)) == []


def test_the_arms_are_scored_from_held_out_views_and_on_held_out_keypoints(out):
    expected = {f"{NAME}/{metric}" for metric in ("fid", "precision", "recall", "diversity")}
    for arm in content(out)["arms"]:
        (training,) = arm["trainings"]
        found = training["metrics"]
        assert {name for name in found if "/" in name} == expected
        assert {"acceleration", "foot_skating", "motion_energy", "heldout_reprojection"} <= found.keys()
        assert not {"pose_frechet", "kinematic_frechet", "bone_length_error", "heldout_mpjpe"} & found.keys()
        assert all(isinstance(value, float) and math.isfinite(value) for value in found.values())
        assert training["progress"]["steps"] == [4, 8]
        assert f"{NAME}/fid" in training["progress"]["terms"]


def test_rows_without_truth_are_those_of_keypoints_and_only_these_rank(out):
    found = content(out)
    rows = found["calibration"]
    assert rows["truth"][f"{NAME}/fid"] == 0.0
    assert rows["floor"][f"{NAME}/fid"] > 0
    for row in ("teacher", "static"):
        assert rows[row].keys() >= {f"{NAME}/fid", f"{NAME}/recall", "acceleration", "motion_energy"}
    assert rows["static"][f"{NAME}/fid"] > rows["floor"][f"{NAME}/fid"]
    assert rows["teacher"]["heldout_reprojection"] > 0
    assert "acceleration" not in rows["truth"].keys() | rows["floor"].keys()
    assert rows["shuffled"] == {}
    may = {name for name, ranking in found["ranking"].items() if ranking["may_rank"]}
    assert {f"{NAME}/fid"} <= may <= {*rows["truth"], "heldout_reprojection"}


def test_the_claims_are_of_the_views_and_against_the_teacher_alone(out):
    found = content(out)
    assert found["primary"] == [f"{NAME}/fid"]
    assert list(found["comparisons"]) == ["paper"]
    (first,) = [entry for entry in found["comparisons"]["paper"] if entry["headline"]]
    assert (first["metric"], first["closure"], first["ratio"]) == (f"{NAME}/fid", None, None)
    assert "closes" not in " ".join([*found["headline"], *found["verdict"]])
    assert "lifted" in found["headline"][0]


def test_what_is_left_out_is_told_with_the_reason(out):
    found, told = content(out), (out / "report.md").read_text("utf-8")
    judges = {judge["name"]: judge["missing"] for judge in found["evaluators"]}
    assert judges[NAME] == ""
    for name in ("text-motion", "essential", "t2m"):
        assert "no truth is known of the clips of split train" in judges[name]
    assert any("pose Fréchet distance" in note and "no truth is known of 8 of the 8" in note for note in found["notes"])
    assert "random cameras" in told
    assert not any("R-precision" in note for note in found["notes"])


def test_the_choice_by_views_reads_validation_clips(plan, out):
    for name in ("lifted-0", "paper-0"):
        chosen = json.loads((out / "runs" / name / "chosen.json").read_text("utf-8"))
        assert chosen["step"] == (4, 8)[chosen["errors"].index(min(chosen["errors"]))]
    assert (out / "scores" / "calibration-val.json").is_file()
    assert "truth" not in read_motions(out / "samples" / "lifted-0" / "heldout.npz")[0]


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"arms": ("3d", "lifted")}, "expected a truth for every training clip, which 3d learns from"),
        ({"arms": ("lifted", "2d-gt")}, "expected a truth for every training clip, which 2d-gt learns from"),
        ({"without": (NAME,)}, "Take views-2d, which needs none, out of --without"),
        ({"primary": ("jitter",)}, "--primary jitter: expected a metric that needs no truth, such as views-2d/fid"),
        ({"select": "pose_frechet"}, "--select pose_frechet: expected a metric that needs no truth"),
        ({"select": "heldout_reprojection"}, "--select heldout_reprojection: expected a metric that needs no truth"),
    ],
)
def test_what_needs_a_truth_is_refused_before_any_work(plan, tmp_path, changes, found):
    with pytest.raises(ConfigError, match=found):
        Bench(dataclasses.replace(plan, **changes), tmp_path / "out").prepare()
    assert not (tmp_path / "out" / "plan.json").exists()


@pytest.mark.parametrize(("changes", "advice"), [({}, "--reference train"), ({"curve": 2}, "--curve 0")])
def test_a_set_of_few_videos_that_holds_none_out_is_told_what_it_can_be_compared_with(tmp_path, changes, advice):
    folder = tmp_path / "data"
    clips = [blind(make_clip(name=name, texts=(f"to {name}",))) for name in TRAIN[:2]]
    card = write_folder(str(folder), {"train": clips}, dataclasses.replace(CARD, lifter_error={}))
    reference = "train" if changes else "test"
    with pytest.raises(ConfigError, match=f"found none. Choose {advice}, or make the set of more"):
        Bench(make_plan(folder, card.content_hash, reference=reference, **changes), tmp_path / "out").prepare()


def of_nba(clip: Clip) -> Clip:
    """-> the clip with the 16 joints of nba16, without truth."""
    moved, heading, origin = canonicalise(decode(torch.from_numpy(clip.teacher), SMPL22)[:, OF_SMPL], NBA16)
    seen_from = cameras.reexpress(torch.from_numpy(clip.extrinsics), heading, origin)
    return blind(
        dataclasses.replace(
            clip, skeleton=NBA16, teacher=encode(moved, NBA16)[:-1].numpy(), extrinsics=seen_from.numpy(),
            keypoints=clip.keypoints[:-1, OF_SMPL], confidence=clip.confidence[:-1, OF_SMPL],
        )
    )  # fmt: skip


def test_clips_of_16_joints_are_compared_too(tmp_path):
    plan = make_plan(tmp_path / "data", write_blind(tmp_path / "data", of_nba), steps=4)
    Bench(plan, tmp_path / "out", engine=Engine(processes=0)).run()
    assert provenance.problems(tmp_path / "out") == []
    assert all(arm["trainings"][0]["metrics"][f"{NAME}/fid"] > 0 for arm in content(tmp_path / "out")["arms"])


def test_windows_of_keypoints_are_those_of_their_frames_and_none_comes_twice(plan):
    found = read_reference(plan, "train")
    assert found.truth == ()
    assert len(found.teacher) == len(found.captions) == 2 * len(found.clips)
    for clip in found.clips:
        views = [view for view in found.views if view.group == clip.id]
        starts = list(dict.fromkeys(drawn_start(clip, number, 16) for number in range(2 * VIEWS)))
        assert len(views) == len(starts) > 2
        for view, start in zip(views, starts, strict=True):
            np.testing.assert_array_equal(view.points.numpy(), clip.keypoints[start : start + 16])
            assert view.confidence.shape == (16, 22)


def test_a_window_in_which_a_joint_is_hardly_found_is_left_out_and_too_few_are_an_error():
    whole, hardly = (View(torch.zeros(8, 22, 2), torch.full((8, 22), c), "", "") for c in (0.5, 0.0))
    assert whole_views([whole, hardly, whole], "here") == (whole, whole)
    with pytest.raises(DatasetError, match=r"here: expected at least 2 windows .* found 1 of 2"):
        whole_views([whole, hardly], "here")


@cache
def true_motion(name: str) -> Tensor:
    """-> a bundled motion as features tell it [T, 22, 3], float64."""
    clip = make_clip(name=name)
    assert clip.truth is not None
    return decode(torch.from_numpy(clip.truth), SMPL22).double()


def filmed(name: str, start: int, azimuth: float) -> tuple[Tensor, Tensor]:
    """-> 24 frames of a bundled motion [T, 22, 3], float64, and a camera [3, 4] that stands about it."""
    positions = true_motion(name)[start : start + 24]
    place = torch.tensor((azimuth, 0.2, 5.0), dtype=torch.float64)
    return positions, cameras.orbit(*place, positions[:, 0].mean(0))


def deeper(positions: Tensor, camera: Tensor, size: float, seed: int) -> Tensor:
    """-> the joints moved along the camera's rays, each by a constant of its own, m: the image stays as it was."""
    draw = torch.Generator().manual_seed(seed)
    there = camera.expand(len(positions), 3, 4)
    points = cameras.to_camera(positions, there)
    points = points * (
        1 + size * torch.randn(1, points.shape[1], 1, generator=draw, dtype=torch.float64) / points[..., 2:]
    )
    return cameras.to_world(points, there)


def blind_scorer(motions: Sequence[tuple[Tensor, Tensor]], skeleton: Skeleton = SMPL22) -> KeypointScores:
    views = [
        View(cameras.project(clip, camera.unsqueeze(0))[0], torch.ones(clip.shape[:2]), "a", f"{number // 4}")
        for number, (clip, camera) in enumerate(motions)
    ]
    return KeypointScores(views, ["a"] * len(views), Views2D(), skeleton, 20.0)


@pytest.fixture(scope="module")
def motions() -> list[tuple[Tensor, Tensor]]:
    """-> windows of five motions, seen from all sides."""
    names = ("walk", "run", "dance_a", "dance_b", "jump")
    windows = [(name, start) for name in names for start in range(0, len(true_motion(name)) - 24, 6)]
    return [filmed(name, start, 2.4 * number) for number, (name, start) in enumerate(windows)]


def test_a_teacher_whose_depth_is_grossly_wrong_scores_worse_though_its_camera_cannot_see_it(motions):
    scorer, fid = blind_scorer(motions), f"{NAME}/fid"
    captions = ["a"] * len(motions)
    good, poor, gross = (
        [deeper(*motion, size, number) for number, motion in enumerate(motions)] for size in (0.0, 0.05, 0.25)
    )
    for wrong, (true, camera) in zip(gross, motions, strict=True):
        image = [cameras.project(clip, camera.unsqueeze(0))[0] for clip in (wrong, true)]
        torch.testing.assert_close(*image, rtol=0, atol=1e-9)
    scores = [scorer.score(clips, captions)[fid] for clips in (good, poor, gross)]
    assert scores[0] < scores[1] < scores[2]
    reference_rows = scorer.reference_rows(gross)
    assert reference_rows.teacher[fid] == scores[2] > 3 * scores[0]
    assert reference_rows.ranking(fid)[0]
    assert reference_rows.floor[fid] > 0
    assert reference_rows.clips == len(motions)
    assert reference_rows.error(fid, scores[2]) > reference_rows.error(fid, scores[0])


def test_the_floor_without_truth_is_what_right_motions_score_for_their_cameras():
    """A camera a clip: right motions score far above the halves, which share the cameras, and are not told as wrong."""
    names = ("walk", "run", "dance_a", "dance_b", "jump", "spin", "punch", "backflip")
    by_clip = [(2.4 * turn, name, start) for turn, name in enumerate(names) for start in range(0, 20, 2)]
    right = [filmed(name, start, azimuth) for azimuth, name, start in by_clip]
    again = [[filmed(name, start, azimuth + turn * turn) for azimuth, name, start in by_clip] for turn in (1, 2, 3)]
    fid, teacher, captions = f"{NAME}/fid", [clip for clip, _ in right], ["a"] * len(right)
    plain, films = blind_scorer(right), [blind_scorer(one) for one in again]
    refilmed_too = KeypointScores(plain.views, captions, Views2D(), SMPL22, 20.0, refilmed=[one.views for one in films])
    found, without = refilmed_too.reference_rows(teacher), plain.reference_rows(teacher)
    errors = [one.score(teacher, captions)[fid] for one in films]
    assert found.floor[fid] == pytest.approx(sum(errors) / 3)
    assert without.ranking(fid)[0]
    assert not found.ranking(fid)[0]
    assert found.teacher[fid] == plain.score(teacher, captions)[fid] > 2 * without.floor[fid]
    assert 0.5 < found.teacher[fid] / found.floor[fid] < 2
    assert found.floor[f"{NAME}/diversity"] < 0.2 * found.truth[f"{NAME}/diversity"]
    assert (
        found.floor[f"{NAME}/precision"] >= found.truth[f"{NAME}/precision"] - found.teacher[f"{NAME}/precision"] - 0.2
    )


def test_teachers_are_filmed_again_in_the_same_windows_by_one_camera_a_clip(plan):
    found, space = read_reference(plan, "train"), Views2D()
    again, other = (refilmed(found.clips, plan, space, seed) for seed in (0, 1))
    assert [(view.caption, view.group) for view in again] == [(view.caption, view.group) for view in found.views]
    assert not torch.equal(again[0].points, other[0].points)
    clip, start = found.clips[0], drawn_start(found.clips[0], 0, 16)
    positions = decode(torch.from_numpy(clip.teacher), SMPL22).double()
    camera = space.cameras(positions, torch.Generator().manual_seed(0))[:1]
    points, _ = cameras.project(positions, camera)
    torch.testing.assert_close(again[0].points, points[start : start + 16])


def test_held_out_cameras_are_as_far_and_as_high_as_the_clips_own(plan):
    clips = list(read_reference(plan, "train").clips)
    one, found = (own_range(some) for some in (clips[:1], clips))
    positions = decode(torch.from_numpy(clips[0].teacher), SMPL22)
    points = cameras.to_camera(positions, torch.from_numpy(clips[0].extrinsics).unsqueeze(0))
    assert one.nearest_joint == pytest.approx([points[..., 2].min().item()] * 2, rel=1e-5)
    assert one.elevation == pytest.approx([0.2] * 2, abs=0.06)
    middle = sorted(own_range([clip]).elevation[0] for clip in clips)[2]
    assert found.elevation[0] <= middle <= found.elevation[1]
    assert found.nearest_joint[0] < found.nearest_joint[1]
    away = np.float32([[0, 0, 0, 0]] * 2 + [[0, 0, 0, 40]])
    far = [dataclasses.replace(clip, extrinsics=clip.extrinsics + away) for clip in clips]
    assert own_range(far).nearest_joint[0] == pytest.approx(found.nearest_joint[0] + 40, rel=1e-4)
    root = decode(torch.from_numpy(clips[0].teacher), SMPL22)[:, 0].mean(0)
    below = dataclasses.replace(clips[0], extrinsics=cameras.orbit(*torch.tensor((0.4, -0.3, 5.0)), root).numpy())
    assert own_range([below]).elevation[0] == pytest.approx(-0.3, abs=0.05)  # it looks up


def test_the_cards_range_of_cameras_goes_before_the_clips_own(plan, out, monkeypatch):
    reference = read_reference(plan, "train")
    (own,) = scoring.make_scoring(plan, out).evaluators
    assert isinstance(own, Views2D)
    assert own.optics.nearest_joint == own_range(reference.clips).nearest_joint
    assert own.identity != Views2D().identity
    optics = {"elevation": [0.0, 0.1], "nearest_joint": [3.0, 4.0]}
    told = dataclasses.replace(reference.card, recipe={"optics": optics})
    monkeypatch.setattr(scoring.fairness, "check_data", lambda plan, out: told)
    (of_card,) = scoring.make_scoring(plan, out).evaluators
    assert isinstance(of_card, Views2D)
    assert of_card.optics.nearest_joint == (3.0, 4.0)
