"""Detectors' files: each format gives the same people in the same frames, and what does not fit is refused."""

import json

import numpy as np
import pytest

from videomdm_ext.data.video.people import find_file, read_detections
from videomdm_ext.errors import ConfigError, DatasetError

COUNT, FPS = 6, 30.0


def person(joints, x):
    """pixels [K, 2] and score [K] of somebody at x."""
    rows = np.arange(joints, dtype=np.float64)
    return np.stack((x + rows, 10 + 2 * rows), 1), 0.5 + rows / (2 * joints)


def triples(pixels, score):
    return np.concatenate((pixels, score[:, None]), 1).ravel().tolist()


def write(root, kind, joints=17, first=0):
    """One person in all frames but the third, a second one in the last frame."""
    frames = {n: [person(joints, 100 + n)] for n in range(COUNT) if n != 2}
    frames[5].append(person(joints, 10))
    if kind == "openpose":
        folder = root / "clip"
        folder.mkdir()
        for n in range(COUNT):
            people = [{"pose_keypoints_2d": triples(*p)} for p in frames.get(n, ())]
            (folder / f"clip_{n + first:012d}_keypoints.json").write_text(json.dumps({"people": people}))
    elif kind == "mmpose":
        rows = []
        for n in range(COUNT):
            people = [{"keypoints": p.tolist(), "keypoint_scores": s.tolist()} for p, s in frames.get(n, ())]
            rows.append({"frame_id": n + first, "instances": people})
        (root / "clip.json").write_text(json.dumps({"meta_info": {}, "instance_info": rows}))
    else:
        name = "{}.jpg".format if kind == "alphapose" else int
        rows = [{"image_id": name(n + first), "keypoints": triples(*p)} for n, ps in frames.items() for p in ps]
        (root / "clip.json").write_text(json.dumps(rows))
    return find_file(str(root), "clip", kind)


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("kind", ["openpose", "mmpose", "alphapose", "coco"])
def test_every_format_gives_the_same_people(tmp_path, kind, first):
    found = read_detections(write(tmp_path, kind, first=first), kind, count=COUNT, fps=FPS)
    assert found.layout.name == "coco17"
    assert np.allclose(found.times, np.arange(COUNT) / FPS)
    pixels, score = person(17, 104)
    assert np.allclose(found.pixels[4, 0], pixels)
    assert np.allclose(found.score[4, 0], score)
    assert not found.score[2].any()
    assert (found.score[:, 1] > 0).any(1).tolist() == [False] * 5 + [True]


@pytest.mark.parametrize(
    ("joints", "layout"), [(25, "body25"), (26, "halpe26"), (136, "halpe26"), (133, "wholebody23")]
)
def test_the_number_of_joints_tells_the_skeleton(tmp_path, joints, layout):
    found = read_detections(write(tmp_path, "openpose", joints), "openpose", count=COUNT, fps=FPS)
    assert found.layout.name == layout
    assert np.allclose(found.pixels[0, 0, -1], person(joints, 100)[0][len(found.layout.joints) - 1])


def test_flags_of_visibility_become_scores(tmp_path):
    (tmp_path / "clip.json").write_text(
        json.dumps({"images": [{"id": 7, "file_name": "clip_000003.png"}],
                    "annotations": [{"image_id": 7, "keypoints": [5, 6, 2, 7, 8, 1] + [0, 0, 0] * 15}]})
    )  # fmt: skip
    found = read_detections(str(tmp_path / "clip.json"), "coco", count=COUNT, fps=FPS)
    assert found.score[3, 0].tolist() == [1.0, 0.5] + [0.0] * 15


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("no json", "expected JSON"),
        ("[]", "found none in any frame"),
        ('[{"image_id": 3}]', r"json: \[0\]: expected the entries .*, found no keypoints"),
        ('[{"image_id": 1000000000, "keypoints": [1, 2, 3]}]', "found frame 1000000000"),
        ('[{"image_id": -1, "keypoints": [1, 2, 3]}]', r"\[0\].image_id: expected 0 or more, found -1"),
        ('[{"image_id": 1, "keypoints": [1, 2, 0.5, 3, 4, 0.5]}]', "all alike, found 2"),
        ('[{"image_id": 1, "keypoints": [1, 2]}]', "found something else"),
        ('[{"image_id": "x", "keypoints": [1, 2, 3]}]', r"\[0\].image_id: expected a text with \[0-9\]"),
        (json.dumps([{"image_id": 1, "keypoints": [1, 2, 30] * 17}]), "scores from 0 to 1"),
        ('{"annotations": 5}', "annotations: expected a list, found 5"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_file(tmp_path, content, match):
    place = tmp_path / "clip.json"
    place.write_text(content)
    with pytest.raises(DatasetError, match=match) as error:
        read_detections(str(place), "coco", count=COUNT, fps=FPS)
    assert str(place) in str(error.value)


def test_blazepose_files_keep_their_own_times_and_doubtful_rows_count_for_nothing(tmp_path):
    pixels = np.zeros((3, 33, 2), np.float32)
    pixels[1, 4] = np.nan
    arrays = {"visibility": np.ones((3, 33)), "world": np.zeros((3, 33, 3)), "times": np.array([0, 0.1, 0.4])}
    np.savez(tmp_path / "clip.npz", pixels=pixels, **arrays)
    found = read_detections(find_file(str(tmp_path), "clip", "blazepose"), "blazepose", count=99, fps=1.0)
    assert np.allclose(found.times, (0, 0.1, 0.4))
    assert found.world is not None
    assert found.score[1, 0, 4] == 0
    assert found.score[1, 0, 5] == 1
    np.savez(tmp_path / "clip.npz", pixels=np.zeros((3, 17, 2)), **arrays)
    with pytest.raises(DatasetError, match=r"\[F, 33, 2\]"):
        read_detections(str(tmp_path / "clip.npz"), "blazepose", count=3, fps=1.0)


def test_missing_files_unknown_formats_and_frames_of_a_longer_video_are_refused(tmp_path):
    with pytest.raises(DatasetError, match="detections of the video clip"):
        find_file(str(tmp_path), "clip", "mmpose")
    with pytest.raises(ConfigError, match="openpose, mmpose"):
        read_detections("x", "vitpose", count=1, fps=1.0)
    with pytest.raises(DatasetError, match="belong to this video"):
        read_detections(write(tmp_path, "openpose"), "openpose", count=4, fps=FPS)
