"""Films of known motion: the camera sees all of the body; the demo's films have the truth of the same moments."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from filmed import DIRECT, FOCAL, SIZE, write_film_set

from videomdm_ext.cli.main import main
from videomdm_ext.data.clip import cameras_of, detector_error
from videomdm_ext.data.film.bundled import BUNDLED, EVERYDAY, build_film_demo, pack
from videomdm_ext.data.film.filming import Shown, positions_at
from videomdm_ext.data.film.stage import MARGIN, Draw, Stage, _view, draw_camera, draw_light, draw_room
from videomdm_ext.data.folder import content_hash, read_card, read_folder, read_ids
from videomdm_ext.data.motions import HELD_OUT, load_motions, own_generator
from videomdm_ext.errors import ConfigError, DatasetError
from videomdm_ext.geometry.cameras import project, to_camera
from videomdm_ext.motion.features import decode
from videomdm_ext.motion.human_mesh import HEADS, SEGMENTS, Body, build_body
from videomdm_ext.motion.skeletons import SMPL22


def walk(frames=40):
    return torch.from_numpy(next(m for m in load_motions() if m.name == "walk").positions[:frames])


def draw(label="film"):
    return Draw(own_generator("test", label))


def stick_body():
    """A body whose vertices are the joints of a resting person, each moved by one segment that ends or starts there."""
    joints = walk()[0].float()
    owner = torch.tensor([_of(joint) for joint in SMPL22.joints])
    faces = torch.tensor([[0, 1, 2]])
    return Body(joints, torch.ones_like(joints), faces, joints, torch.eye(len(SEGMENTS))[owner])


def _of(joint):
    for number, segment in enumerate(SEGMENTS.values()):
        if joint in (segment.start, segment.end) and not segment.rigid:
            return number
    raise AssertionError(joint)


def test_the_joints_of_a_worn_body_are_the_given_ones():
    positions = walk()
    turned = torch.tensor(((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (-1.0, 0.0, 0.0)))
    for motion in (positions, positions @ turned.T + torch.tensor((3.0, 0.0, -2.0)), 1.2 * positions):
        vertices, _ = stick_body().wear(motion)
        assert np.abs(vertices - motion.numpy()).max() < 2e-5


def test_a_body_at_rest_wears_its_own_pose_unchanged():
    body = stick_body()
    vertices, normals = body.wear(body.joints.unsqueeze(0))
    assert np.abs(vertices[0] - body.vertices.numpy()).max() < 1e-5
    assert np.allclose(normals[0], 1 / math.sqrt(3), atol=1e-5)


@pytest.mark.parametrize("number", range(8))
def test_the_camera_sees_every_joint_in_every_frame_from_a_level_horizon(number):
    positions, size = walk(), (640, 480)
    camera = draw_camera(positions, size, (100.0, 400.0), draw(number))
    points, depth = project(positions, camera.extrinsics)
    assert (depth > 1.0).all()
    assert (points.abs() * camera.focal <= MARGIN * torch.tensor(size) + 1e-3).all()
    assert camera.extrinsics[:, 0, 1].abs().max() < 1e-6  # x of the camera is level
    assert camera.extrinsics.shape == (len(positions), 3, 4)
    assert camera.moves == bool((camera.extrinsics.diff(dim=0).abs() > 1e-6).any())


def test_the_person_is_as_tall_in_the_picture_as_was_asked_for():
    still = walk()[:1].expand(30, -1, -1)
    for number in range(6):
        camera = draw_camera(still, (640, 480), (120.0, 200.0), draw(number))
        points, _ = project(still, camera.extrinsics)
        height = float((points[..., 1].amax() - points[..., 1].amin()) * camera.focal)
        assert 100.0 < height < 220.0


def test_furniture_stands_clear_of_the_motion_and_of_the_camera():
    positions = walk()
    for number in range(12):
        one = draw(number)
        camera = draw_camera(positions, (640, 480), (100.0, 400.0), one)
        room = draw_room(positions, camera, one)
        place = -(camera.extrinsics[:, :, :3].mT @ camera.extrinsics[:, :, 3:]).squeeze(-1).numpy()
        for box in room[6:]:  # behind floor, walls and ceiling
            low, high = box.triangles.min((0, 1)), box.triangles.max((0, 1))
            for points in (positions.reshape(-1, 3).numpy(), place):
                assert not ((points[:, (0, 2)] > low[[0, 2]]) & (points[:, (0, 2)] < high[[0, 2]])).all(-1).any()


def test_the_picture_of_a_point_lies_where_the_camera_projects_it():
    positions, size = walk(), (640, 480)
    camera = draw_camera(positions, size, (100.0, 400.0), draw())
    points, _ = project(positions[:1], camera.extrinsics[:1])
    wanted = points[0] * camera.focal + torch.tensor(size) / 2
    homogeneous = np.concatenate([positions[0].numpy(), np.ones((22, 1))], 1)
    clip = homogeneous @ _view(camera.extrinsics[0].numpy(), camera.focal, size).T
    across = (clip[:, :2] / clip[:, 3:] * (1, -1) + 1) / 2 * size
    assert np.abs(across - wanted.numpy()).max() < 0.01


def test_motion_between_frames_is_smooth_and_exact_at_frames():
    positions = walk().double()
    at = np.arange(len(positions)) / 20.0
    assert (positions_at(positions, 20.0, at) - positions).abs().max() < 1e-9
    assert (positions_at(positions, 20.0, np.array([1e9])) - positions[-1:]).abs().max() < 1e-9
    fine = positions_at(positions, 20.0, np.arange(10 * len(positions) - 9) / 200.0)
    assert fine.diff(n=2, dim=0).abs().max() < 2.0 * positions.diff(n=2, dim=0).abs().max() / 100.0


def test_a_film_gives_detected_keypoints_a_lifted_motion_and_the_exact_truth_of_the_same_moments(tmp_path):
    card, clip = write_film_set(tmp_path)
    assert clip.truth is not None
    assert clip.intrinsics[0, 0] == pytest.approx(FOCAL)
    assert clip.image_size == SIZE
    truth = decode(torch.from_numpy(clip.truth), SMPL22)
    points, depth = project(truth, torch.from_numpy(clip.truth_extrinsics).reshape(-1, 3, 4))
    assert np.abs(points.numpy() - clip.keypoints)[:, DIRECT].max() < 0.006
    assert (depth > 1.0).all()
    assert card.detector_error["median"] < 0.01
    assert card.detector_error["unseen"] == 0.0
    assert 0.0 < card.lifter_error["pa_mpjpe"] < 0.08


def test_a_camera_that_moves_is_one_a_frame_in_the_set(tmp_path):
    _, clip = write_film_set(tmp_path, moves=True)
    assert clip.truth_extrinsics.shape == (clip.length, 3, 4)
    assert clip.extrinsics.shape == (clip.length, 3, 4)


@pytest.mark.parametrize("moves", [False, True])
def test_keypoints_may_be_the_truth_as_the_camera_sees_it_beside_the_same_lifted_motion(tmp_path, moves):
    _, detected = write_film_set(tmp_path / "detected", moves=moves)
    card, clip = write_film_set(tmp_path / "true", moves=moves, keypoints="true")
    points, _ = project(decode(torch.from_numpy(clip.truth), SMPL22), cameras_of(clip.truth_extrinsics))
    assert np.abs(points.numpy() - clip.keypoints).max() < 1e-5
    assert np.abs(detected.keypoints - clip.keypoints).max() > 1e-3
    assert (clip.confidence == 1.0).all()
    assert np.array_equal(clip.teacher, detected.teacher)
    assert card.detector_error["q99"] < 1e-5
    with pytest.raises(ConfigError, match="keypoints"):
        write_film_set(tmp_path / "wrong", keypoints="exact")


def test_errors_of_the_detector_are_measured_where_a_truth_is(tmp_path):
    _, clip = write_film_set(tmp_path)
    shifted = clip.keypoints + np.float32(0.01)
    moved = detector_error([dataclasses.replace(clip, keypoints=shifted)])
    assert moved["median"] == pytest.approx(0.01 * math.sqrt(2), rel=0.25)
    swapped = detector_error([dataclasses.replace(clip, keypoints=clip.keypoints[:, list(SMPL22.mirror)])])
    assert swapped["exchanged"] > 0.5 > detector_error([clip])["exchanged"]
    assert detector_error([dataclasses.replace(clip, truth=None)]) == {}


def test_a_film_without_what_it_shows_is_refused_by_name(tmp_path):
    with pytest.raises(DatasetError, match=r"clip\.npz"):
        Shown.of(str(tmp_path / "clip.mp4"))


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--size", "63", "64"], "--size"),
        (["--height", "300", "100"], "--height"),
        (["--processes", "-1"], "--processes: expected 0 or more, found -1"),
        (["--fps", "0"], "fps: expected a number above 0"),
        (["--fps", "61"], "--fps: expected at most 60"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_any_work(tmp_path, capsys, words, match):
    assert main(["data", "film", "bundled", "--out", str(tmp_path / "out"), *words]) == 1
    assert match in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_mesh_wears_a_motion_and_the_stage_draws_it_where_the_camera_sees_it():
    pytest.importorskip("moderngl", reason="needs the extra film")
    pytest.importorskip("anny", reason="needs the extra film")
    body = build_body({"gender": 0.2})
    assert set(HEADS) | {"pelvis"} == set(SMPL22.joints)
    assert body.weights.sum(-1).sub(1.0).abs().max() < 1e-5
    positions, size, one = walk()[:1], (320, 240), draw()
    camera = draw_camera(positions, size, (100.0, 200.0), one)
    vertices, normals = body.wear(positions)
    colours = np.tile(np.float32((1.0, 0.0, 0.0)), (len(body.vertices), 1))
    stage = Stage(size, [], draw_light(one), body.faces.numpy(), colours)
    picture = stage.picture(vertices[0], normals[0], camera.extrinsics[0].numpy(), camera.focal).astype(int)
    stage.context.release()
    red = picture[..., 0] > picture[..., 1] + 20
    points, _ = project(torch.from_numpy(vertices), camera.extrinsics)
    across = (points[0] * camera.focal + torch.tensor(size) / 2).numpy()
    rows, columns = np.nonzero(red)
    assert abs(columns.min() - across[:, 0].min()) < 3
    assert abs(rows.min() - across[:, 1].min()) < 3
    assert abs(rows.max() - across[:, 1].max()) < 3


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("film") / "data")
    return path, build_film_demo(path)


def in_camera(features, camera):
    return to_camera(decode(torch.from_numpy(features), SMPL22), torch.from_numpy(camera).reshape(-1, 3, 4))


def test_the_demo_holds_a_real_detectors_and_a_real_lifters_errors(demo):
    path, card = demo
    assert card.lifter == "mediapipe"
    assert 0.04 < card.lifter_error["pa_mpjpe"] < 0.12
    assert 0.002 < card.detector_error["median"] < 0.02
    assert card.detector_error["q99"] > 3 * card.detector_error["median"]
    assert card.counts["train"] >= 40
    assert card.counts["test"] >= 8
    assert BUNDLED.stat().st_size < 500_000
    assert {i.split("_m")[0] for i in read_ids(path, "test")} <= set(HELD_OUT)
    assert not {i.split("_m")[0] for i in read_ids(path, "train")} & set(HELD_OUT)


def test_truth_and_keypoints_are_of_the_same_moments_and_sides(demo):
    path, _ = demo
    off = []
    for clip in read_folder(path, "train")[1]:
        points, _ = project(
            decode(torch.from_numpy(clip.truth), SMPL22), torch.from_numpy(clip.truth_extrinsics).unsqueeze(0)
        )
        error = np.linalg.norm(clip.keypoints - points.numpy(), axis=-1)
        late = np.linalg.norm(clip.keypoints[8:] - points.numpy()[:-8], axis=-1)
        off.append((np.median(error), np.median(late)))
    near, later = np.median(off, axis=0)
    assert near < 0.02
    assert later > 1.3 * near


def test_the_lifted_motion_stands_where_the_person_stands(demo):
    path, _ = demo
    for clip in read_folder(path, "test")[1]:
        lifted, truth = in_camera(clip.teacher, clip.extrinsics), in_camera(clip.truth, clip.truth_extrinsics)
        assert (lifted[:, 0] - truth[:, 0]).norm(dim=-1).median() < 1.5
        points = lifted[..., :2] / lifted[..., 2:]
        assert np.median(np.linalg.norm(points.numpy() - clip.keypoints, axis=-1)) < 0.03


def test_smaller_sets_are_parts_of_it_that_come_out_the_same(demo, tmp_path):
    path, card = demo
    for name, asked in {"fast": {"views": 1}, "everyday": {"motions": EVERYDAY}}.items():
        part = build_film_demo(str(tmp_path / name), **asked)
        ids = [i for split in ("train", "test") for i in read_ids(str(tmp_path / name), split)]
        assert content_hash(str(tmp_path / name), part, ids) == content_hash(path, card, ids)
        assert all(i.endswith("_v0") for i in ids) == (name == "fast")
        assert (len(ids), {i.split("_m")[0] for i in ids} == set(EVERYDAY)) == ((28, False), (26, True))[name != "fast"]


def test_the_bundle_is_what_packing_a_film_set_gives(tmp_path):
    write_film_set(tmp_path)
    (tmp_path / "films").rename(tmp_path / "out" / "films")
    facts = {
        "videos": {
            "clip": {
                "focal_told_by": "calibration",
                "clips": {"clip_0": {"video": "clip.mp4", "frames": 40, "start": 0.0}},
            }
        }
    }
    (tmp_path / "out" / "videos.json").write_text(json.dumps(facts))
    (tmp_path / "film.npz").write_bytes(pack(str(tmp_path / "out")))
    clip = read_folder(str(tmp_path / "out"), "train")[1][0]
    with np.load(tmp_path / "film.npz") as stored:
        keypoints = np.cumsum(stored["keypoints"], 0) * 2e-4
        lifted = np.cumsum(stored["lifted"], 0) * 1e-3
        assert np.abs(keypoints - clip.keypoints).max() <= 1.01e-4
        assert np.abs(lifted - decode(torch.from_numpy(clip.teacher), SMPL22).numpy()).max() <= 5.1e-4
        assert np.allclose(stored["cameras"][0, 0], clip.extrinsics)
    assert read_card(str(tmp_path / "out")).lifter == "mediapipe"


def test_a_seed_of_the_films_is_refused_and_one_of_our_own_cameras_is_not(tmp_path, capsys):
    words = ["data", "make-demo", "--out", str(tmp_path / "set"), "--fast", "--seed", "3"]
    assert main(words) == 1
    assert "--synthetic" in capsys.readouterr().err
    assert not (tmp_path / "set").exists()
    assert main([*words, "--synthetic"]) == 0
    assert read_card(str(tmp_path / "set")).lifter == "synthetic"
