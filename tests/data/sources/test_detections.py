"""Detectors' files: each format gives the same people in the same frames, and what does not fit is refused."""

import json

import numpy as np
import pytest

from videomdm_ext.data.video.detections import find_file, read_detections
from videomdm_ext.errors import ConfigError, DatasetError

COUNT, FPS = 6, 30.0


def person(joints, x):
    """pixels [K, 2] and score [K] of somebody at x."""
    rows = np.arange(joints, dtype=np.float64)
    return np.stack((x + rows, 10 + 2 * rows), 1), 0.5 + rows / (2 * joints)


def triples(pixels, score):
    return np.concatenate((pixels, score[:, None]), 1).ravel().tolist()


def read(place, kind="coco", count=COUNT, video=""):
    return read_detections(str(place), kind, count=count, fps=FPS, video=video)


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
    found = read(write(tmp_path, kind, first=first), kind)
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
    found = read(write(tmp_path, "openpose", joints), "openpose")
    assert found.layout.name == layout
    assert np.allclose(found.pixels[0, 0, -1], person(joints, 100)[0][len(found.layout.joints) - 1])


def test_flags_of_visibility_become_scores(tmp_path):
    (tmp_path / "clip.json").write_text(
        json.dumps({"images": [{"id": 7, "file_name": "clip_000003.png"}],
                    "annotations": [{"image_id": 7, "keypoints": [5, 6, 2, 7, 8, 1] + [0, 0, 0] * 15}]})
    )  # fmt: skip
    found = read(tmp_path / "clip.json")
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
        read(place)
    assert str(place) in str(error.value)


def test_blazepose_files_keep_their_own_times_and_doubtful_rows_count_for_nothing(tmp_path):
    pixels = np.zeros((3, 33, 2), np.float32)
    pixels[1, 4] = np.nan
    arrays = {"visibility": np.ones((3, 33)), "world": np.zeros((3, 33, 3)), "times": np.array([0, 0.1, 0.4])}
    np.savez(tmp_path / "clip.npz", pixels=pixels, **arrays)
    found = read(find_file(str(tmp_path), "clip", "blazepose"), "blazepose")
    assert np.allclose(found.times, (0, 0.1, 0.4))
    assert found.world is not None
    assert found.score[1, 0, 4] == 0
    assert found.score[1, 0, 5] == 1
    np.savez(tmp_path / "clip.npz", pixels=np.zeros((3, 17, 2)), **arrays)
    with pytest.raises(DatasetError, match=r"\[F, 33, 2\]"):
        read(tmp_path / "clip.npz", "blazepose")


def test_missing_files_unknown_formats_and_frames_of_a_longer_video_are_refused(tmp_path):
    with pytest.raises(DatasetError, match="detections of the video clip"):
        find_file(str(tmp_path), "clip", "mmpose")
    with pytest.raises(ConfigError, match="openpose, mmpose"):
        read("x", "vitpose")
    with pytest.raises(DatasetError, match="belong to this video"):
        read(write(tmp_path, "openpose"), "openpose", 4)


# Names and numbers of frames


def people_of(number, joints=17):
    return [{"pose_keypoints_2d": triples(*person(joints, 100 + number))}]


def shown(found):
    """x of the first joint of the first person in the frames with one."""
    return {k: float(p[0, 0, 0]) for k, (p, s) in enumerate(zip(found.pixels, found.score, strict=True)) if s.any()}


@pytest.mark.parametrize(
    ("numbers", "first", "doubted"),
    [
        (range(40), 0, False),
        (range(1, 41), 0, False),
        (range(5, 41), 4, False),  # number 40 of 40 counts from 1
        (range(1, 39), 0, True),
        (range(3, 39), 3, True),
    ],
)
def test_what_frames_count_from_is_told_by_the_first_and_the_last_or_doubted(tmp_path, numbers, first, doubted):
    rows = [{"image_id": f"{k:06d}.png", "keypoints": [100 + k, 100, 0.9] * 17, "score": 2.0} for k in numbers]
    (tmp_path / "clip.json").write_text(json.dumps(rows))
    found = read(tmp_path / "clip.json", "alphapose", 40)
    assert list(shown(found)) == list(range(first, first + len(numbers)))
    assert shown(found)[first] == 100 + numbers[0]
    assert ("from 0 or from 1" in found.doubt) == doubted


def test_pictures_without_people_have_their_number_too(tmp_path):
    folder = tmp_path / "clip_json"
    folder.mkdir()
    for k in range(1, COUNT + 1):  # nobody in the last one
        content = {"people": [*people_of(k), None, {"pose_keypoints_2d": []}] if k < COUNT else []}
        (folder / f"clip_{k:06d}.json").write_text(json.dumps(content))
    found = read(find_file(str(tmp_path), "clip", "openpose"), "openpose")
    assert shown(found) == {k: 101.0 + k for k in range(COUNT - 1)}
    assert found.pixels.shape[1] == 1
    assert (found.doubt, found.notes) == ("", ())


@pytest.mark.parametrize(
    ("kind", "name", "content"),
    [
        ("openpose", "clip/{:05d}.json", lambda k: {"people": people_of(k)}),
        ("openpose", "{:03d}.json", lambda k: {"people": people_of(k)}),
        ("openpose", "clip/cam1_{:d}_1920x1080_keypoints.json", lambda k: {"people": people_of(k)}),
        ("mmpose", "clip/clip_{:06d}.json", lambda k: [instance(k)]),
        ("mmpose", "clip/{:d}.json", lambda k: {"meta_info": {}, "instance_info": [instance(k)]}),
        (
            "alphapose",
            "clip/sep-json/{:d}.json",
            lambda k: {"bodies": [{"joints": people_of(k)[0]["pose_keypoints_2d"]}]},
        ),
    ],
)
def test_a_file_a_picture_is_read_under_any_name_with_a_number(tmp_path, kind, name, content):
    for k in range(COUNT):
        place = tmp_path / name.format(k)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps(content(k)))
    found = read(find_file(str(tmp_path), "clip", kind), kind)
    assert shown(found) == {k: 100.0 + k for k in range(COUNT)}


def instance(k):
    pixels, score = person(17, 100 + k)
    return {"keypoints": pixels.tolist(), "keypoint_scores": score.tolist()}


@pytest.mark.parametrize(("group", "key"), [("bodies", "joints"), ("people", "pose_keypoints_2d")])
def test_alphapose_in_the_formats_cmu_and_open_has_openposes_18_joints(tmp_path, group, key):
    rows = {f"{k}.jpg": {group: [{key: triples(*person(18, 100 + k))}]} for k in range(COUNT)}
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "alphapose-results-cmu.json").write_text(json.dumps(rows))
    found = read(find_file(str(tmp_path), "clip", "alphapose"), "alphapose")
    assert found.layout.joints[2:5] == ("r_shoulder", "r_elbow", "r_wrist")
    assert found.layout.joints[11:14] == ("l_hip", "l_knee", "l_ankle")
    assert shown(found) == {k: 100.0 + k for k in range(COUNT)}


def test_pictures_of_other_videos_in_one_list_are_told_apart_or_refused(tmp_path):
    rows = [
        {"image_id": f"{video}/{k:04d}.jpg", "keypoints": [100 + 50 * number + k, 9, 0.9] * 17}
        for number, video in enumerate(("clip", "clip10"))
        for k in range(COUNT)
    ]
    place = tmp_path / "all.json"
    place.write_text(json.dumps(rows))
    found = read(place, video="clip")
    assert shown(found) == {k: 100.0 + k for k in range(COUNT)}
    assert "clip10/0000.jpg" in found.notes[0]
    place.write_text(json.dumps(rows).replace("clip10", "other2").replace("clip", "other1"))
    with pytest.raises(DatasetError, match="several videos"):
        read(place, video="clip")


def test_foreign_and_broken_files_among_the_pictures_are_named_and_the_others_read(tmp_path):
    place = write(tmp_path, "openpose")
    (tmp_path / "clip" / "camera.json").write_text("{}")
    (tmp_path / "clip" / "clip_000000000004_keypoints.json").write_text('{"people": [{"pose_')
    (tmp_path / "clip" / "notes.txt").write_text("x")
    found = read(place, "openpose")
    assert list(shown(found)) == [0, 1, 3, 5]
    assert [any(name in note for note in found.notes) for name in ("camera.json", "000004_key", "notes.txt")] == [
        True
    ] * 3
    assert "expected JSON" in next(note for note in found.notes if "000004" in note)


@pytest.mark.parametrize(
    ("keypoints", "match"),
    [([100, 100, 0] * 17, "scores above 0"), ([0.25, 0.5, 0.9] * 17, "keypoints in pixels, .* from 0.25 to 0.50")],
)
def test_scores_of_zero_and_shares_of_the_picture_are_refused_with_the_reason(tmp_path, keypoints, match):
    (tmp_path / "clip.json").write_text(json.dumps([{"image_id": k, "keypoints": keypoints} for k in range(COUNT)]))
    with pytest.raises(DatasetError, match=match) as error:
        read(tmp_path / "clip.json")
    assert str(tmp_path / "clip.json") in str(error.value)


def test_of_videos_whose_names_begin_alike_in_one_folder_each_gets_its_own_pictures(tmp_path):
    for video, count in (("walk", 4), ("walk_2", 6), ("walk-fast", 5)):
        for k in range(count):
            content = json.dumps({"people": people_of(k + 10 * count)})
            (tmp_path / f"{video}_{k:012d}_keypoints.json").write_text(content)
    for video, count in (("walk", 4), ("walk_2", 6), ("walk-fast", 5)):
        place = find_file(str(tmp_path), video, "openpose")
        found = read(place, "openpose", 8, video)
        assert shown(found) == {k: 100.0 + k + 10 * count for k in range(count)}
        (note,) = found.notes
        assert f"left out {15 - count} file" in note


@pytest.mark.parametrize(
    ("pictures", "count", "doubted"), [(20, 40, True), (14, 40, True), (25, 40, False), (5, 10, False)]
)
@pytest.mark.parametrize("first", [0, 1])
def test_pictures_as_of_a_lower_frame_rate_are_doubted(tmp_path, pictures, count, doubted, first):
    (tmp_path / "clip").mkdir()
    for k in range(pictures):
        (tmp_path / "clip" / f"{k + first:05d}.json").write_text(json.dumps({"people": people_of(k)}))
    found = read(tmp_path / "clip", "openpose", count)
    assert shown(found) == {k: 100.0 + k for k in range(pictures)}
    assert ("give each the number of its frame" in found.doubt) == doubted


def test_where_every_picture_is_left_out_the_reason_is_named(tmp_path):
    (tmp_path / "clip").mkdir()
    for k in range(COUNT):
        (tmp_path / "clip" / f"{k}.json").write_text('{"people": {"0": {}}}')
    with pytest.raises(DatasetError, match=r"none in any frame\. .*0\.json: .*people: expected a list"):
        read(tmp_path / "clip", "openpose")
