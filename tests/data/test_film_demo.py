"""The demo's films: what MediaPipe saw of bundled motion, with the truth of the same moments."""

import json

import numpy as np
import pytest
import torch
from filmed import write_film_set

from videomdm_ext.cli.main import main
from videomdm_ext.data.film.bundled import BUNDLED, EVERYDAY, build_film_demo, pack
from videomdm_ext.data.folder import content_hash, read_card, read_folder, read_ids
from videomdm_ext.data.motions import HELD_OUT
from videomdm_ext.geometry.cameras import project, to_camera
from videomdm_ext.motion.features import decode
from videomdm_ext.motion.skeletons import SMPL22


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
        assert (len(ids), {i.split("_m")[0] for i in ids} == set(EVERYDAY)) == ((29, False), (30, True))[name != "fast"]


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
