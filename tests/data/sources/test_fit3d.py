"""The importer of Fit3D, on a small set in its own layout: cameras, sides, repetitions, captions."""

import json
import shutil

import numpy as np
import pytest
import torch
from lifters import tools
from official import CAMERAS, DIRECT, camera_file, joints25, write_fit3d
from people import decoded, real_motions

from videomdm_ext.data.folder import read_clip
from videomdm_ext.data.importing import run_import
from videomdm_ext.data.sources.base import ImportOptions
from videomdm_ext.data.sources.fit3d import Detected, Fit3DImporter, caption_of, grouped, smpl22_of
from videomdm_ext.errors import ConfigError, DatasetError
from videomdm_ext.motion.skeletons import SMPL22


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """-> the official folder, to be read alone."""
    return write_fit3d(tmp_path_factory.mktemp("fit3d") / "source")


@pytest.fixture
def source(official, tmp_path):
    """-> a copy of the official folder, to be changed."""
    return shutil.copytree(official, tmp_path / "source")


def of(source, **extra):
    return Fit3DImporter(str(source), ImportOptions(extra={key: str(value) for key, value in extra.items()}))


def test_keypoints_are_the_sources_joints_seen_by_the_sources_cameras(official, tmp_path):
    out = str(tmp_path / "set")
    done = run_import(of(official), out)
    assert done.left_out == {}
    names = {f"{s}_{action}" for s in ("s03", "s04", "s05") for action in ("squat", "dumbbell_biceps_curls")}
    assert {member.id.rpartition("_p")[0] for member in of(official).members()} == names
    for camera in CAMERAS:
        place = official / "train" / "s04" / "camera_parameters" / camera / "squat.json"
        stored = json.loads(place.read_text())["extrinsics"]
        world = joints25("walk") + np.array((0.1, 0.2, 0))
        seen = (world - np.array(stored["T"])) @ np.array(stored["R"]).T  # X_camera = R (X_world - T)
        points = (seen[..., :2] / seen[..., 2:])[::5]  # every fifth frame at 50 fps is every second one at 20 fps
        clip = read_clip(out, done.card, f"s04_squat_p0_c{camera}")
        for number, joint in DIRECT.items():
            ours = clip.keypoints[::2, SMPL22.index(joint)]
            np.testing.assert_allclose(ours, points[: len(ours), number], atol=2e-5)
        true = decoded(clip.truth)
        np.testing.assert_allclose(tools.seen(true, clip.truth_extrinsics), clip.keypoints, atol=5e-5)
        for positions in (true, decoded(clip.teacher)):
            assert positions[0, 1, 0] - positions[0, 2, 0] > 0.05  # left hip at +x: faces +z
            assert positions[0, 15, 1] > positions[0, 0, 1] + 0.3  # head above hips
        assert (clip.intrinsics[0, 0], clip.intrinsics[1, 2]) == (np.float32(1000 * CAMERAS[camera][1]), 448)
    assert clip.texts == ("a person does the exercise squat.",)


def test_sides_are_put_right_by_the_toes_and_derived_joints_lie_near_those_of_the_motion():
    usual, exchanged = (torch.from_numpy(joints25("walk", exchanged=flag)).float() for flag in (False, True))
    torch.testing.assert_close(smpl22_of(exchanged, "x"), smpl22_of(usual, "x"))
    only_arms = usual.clone()
    only_arms[:, 11:14], only_arms[:, 14:17] = usual[:, 14:17], usual[:, 11:14]
    torch.testing.assert_close(smpl22_of(only_arms, "x"), smpl22_of(usual, "x"))
    without = usual.clone()
    without[:, 17:21] = usual[:, (3, 3, 6, 6)] + torch.tensor((0.0, 0.0, -0.1))
    with pytest.raises(DatasetError, match="expected toes that point ahead"):
        smpl22_of(without, "x")
    true = real_motions()["walk"].double().numpy()[::2]
    found = smpl22_of(torch.from_numpy(joints25("walk")[::5]), "x").numpy()
    found = np.stack((found[..., 0], found[..., 2], -found[..., 1]), -1)  # z up to y up
    frames = min(len(found), len(true))
    apart = np.linalg.norm(found[:frames] - true[:frames], axis=-1).mean(0)
    assert apart.max() < 0.12, dict(zip(SMPL22.joints, apart.round(3), strict=True))


def test_takes_are_cut_at_repetitions(source):
    edges = [(10, 210), (210, 310), (310, 560), (560, 810), (810, 900), (900, 950)]
    assert list(grouped([10, 110, 210, 310, 900, 950], 250)) == edges
    assert list(grouped([0, 100, 200], 491)) == [(0, 200)]
    marks = json.dumps({"squat": [5, 55, 10_000], "dumbbell_biceps_curls": [20, 100]})
    for subject in ("s03", "s04", "s05"):
        (source / "train" / subject / "rep_ann.json").write_text(marks)
    importer = of(source)
    places = {m.place[3:] for m in importer.members() if m.place[1] == "dumbbell_biceps_curls"}
    assert places == {(20, 100)}
    first = next(m for m in importer.members() if m.place[3:] == (20, 100))
    true = importer.read(first).truth
    assert len(true) == 32  # (80 - 1) / 50 s at 20 fps
    start = joints25("dance_a")[20]
    hip = true[0, SMPL22.index("l_hip")].numpy()
    np.testing.assert_allclose(hip, start[4][[0, 2, 1]] * (1, 1, -1) + (0, 0, -0.2), atol=1e-5)


def test_a_subject_is_on_one_side_and_the_user_may_choose_it(official):
    assert {m.trial for m in of(official).members()} == {"s03", "s04", "s05"}
    chosen = {(m.trial, m.split) for m in of(official, test="s05").members()}
    assert chosen == {("s03", "train"), ("s04", "train"), ("s05", "test")}


def test_captions_come_from_the_exercise_or_from_a_file(official, tmp_path):
    assert caption_of("Dumbbell_biceps curls") == "a person does the exercise dumbbell biceps curls."
    given = tmp_path / "captions.tsv"
    given.write_text("squat\ta person squats.\ns04_squat\ts04 squats.\n")
    importer = Fit3DImporter(str(official), ImportOptions(captions=str(given)))
    texts = {m.trial: importer.read(m).texts for m in importer.members() if m.place[1] == "squat"}
    assert texts == {"s03": ("a person squats.",), "s04": ("s04 squats.",), "s05": ("a person squats.",)}


def test_results_of_a_lifter_are_the_teachers(official, tmp_path):
    plain = of(official)
    member = plain.members()[0]
    seen = plain.read(member)
    lifted = tmp_path / "WHAM results"
    lifted.mkdir()
    np.save(lifted / f"{member.id}.npy", 1.1 * tools.into_camera(seen.truth.numpy(), seen.extrinsics.numpy()))
    importer = of(official, lifted=lifted)
    assert importer.lifter == "wham-results"
    found = importer.read(member).lifted
    centre = -seen.extrinsics[:, :3].T @ seen.extrinsics[:, 3]
    torch.testing.assert_close(found, centre + 1.1 * (seen.truth - centre), atol=1e-4, rtol=0)


def test_joints_of_a_body_model_replace_the_25(source, tmp_path):
    """A body of one shape parameter, turned by a quarter about z and moved, against its joints at rest."""
    parts, added = tools.body_arrays(joints=55, shapes=10)
    np.savez(tmp_path / "SMPLX_NEUTRAL.npz", **parts)
    folder = source / "train" / "s03" / "smplx"
    folder.mkdir()
    frames = 100
    moved = np.stack((np.arange(frames), np.zeros(frames), np.ones(frames)), -1)
    quarter = np.tile((0, 0, np.pi / 2), (frames, 1))  # x becomes y
    betas = np.eye(10)[:1]
    stored = {"transl": moved.tolist(), "global_orient": quarter.tolist(), "betas": betas.tolist()}
    rest = tools.rest() + added @ betas[0]
    x, y, z = (rest - rest[0]).T
    z_up = np.stack((-y, x, z), -1) + rest[0] + moved[:, None]
    expected = np.stack((z_up[..., 0], z_up[..., 2], -z_up[..., 1]), -1)
    for body in (np.tile(np.eye(3), (frames, 21, 1, 1)), np.zeros((frames, 63))):  # matrices, or rotation vectors
        (folder / "squat.json").write_text(json.dumps({**stored, "body_pose": body.tolist()}))
        np.testing.assert_allclose(of(source, smpl=tmp_path)._take("s03", "squat"), expected, atol=1e-4)
    (folder / "squat.json").write_text(json.dumps(stored))
    with pytest.raises(DatasetError, match=r"squat\.json: expected numbers body_pose"):
        of(source, smpl=tmp_path)._take("s03", "squat")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"joints3d_25": [[[1, 2]]]}', "expected numbers joints3d_25"),
        ("[1, 2]", "expected names with values"),
        ('{"joints3d_25": [[["a"]]]}', "expected numbers joints3d_25"),
    ],
)
def test_broken_files_are_told_and_the_rest_is_imported(source, content, message):
    (source / "train" / "s03" / "joints3d_25" / "squat.json").write_text(content)
    importer = of(source)
    member = next(m for m in importer.members() if m.place[:2] == ("s03", "squat"))
    with pytest.raises(DatasetError, match=message):
        importer.read(member)


def test_a_camera_by_another_convention_is_refused(source, tmp_path):
    for place in source.rglob("camera_parameters/*/squat.json"):
        stored = json.loads(place.read_text())
        rotation, centre = np.array(stored["extrinsics"]["R"]), np.array(stored["extrinsics"]["T"][0])
        stored["extrinsics"]["T"] = (-rotation @ centre).tolist()
        place.write_text(json.dumps(stored))
    importer = of(source)
    members = [member for member in importer.members() if member.place[1] == "squat"]
    for member in members[:2]:
        with pytest.raises(DatasetError, match="expected a person in the picture"):
            importer.read(member)
    with pytest.raises(DatasetError, match="expected train/SUBJECT/joints3d_25"):
        of(tmp_path / "nowhere").members()


PARTS = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
MOVED = np.array((0.013, -0.008))  # by this the detector is wrong everywhere, on the normalised plane


def detected(subject, camera, action):
    """-> pixels [T, 17, 2] of COCO's joints in the distorted video, by the source's own formula, each off by MOVED."""
    place, factor = CAMERAS[camera]
    stored = camera_file(np.array(place), factor)
    motion = {"squat": "walk", "dumbbell_biceps_curls": "dance_a"}[action]
    world = joints25(motion) + np.array((0.1 * ("s03", "s04", "s05").index(subject), 0.2, 0))
    seen = (world - np.array(place)) @ np.array(stored["extrinsics"]["R"]).T
    x = seen[..., :2] / seen[..., 2:] + MOVED
    lens = {key: np.array(values[0]) for key, values in stored["intrinsics_w_distortion"].items()}
    r2, p = (x**2).sum(-1, keepdims=True), lens["p"][::-1]
    radial = 1 + lens["k"][0] * r2 + lens["k"][1] * r2**2 + lens["k"][2] * r2**3
    pixels = (x * (radial + (x * p).sum(-1, keepdims=True)) + r2 * p) * lens["f"] + lens["c"]
    by_name = {joint: pixels[:, number] for number, joint in DIRECT.items()}
    face = [pixels[:, 9]] * 5
    return np.stack([*face, *(by_name[f"{side}_{part}"] for part in PARTS for side in "lr")], 1)


def write_detections(root, *, first=0, longer=0, take=detected):
    """The detector's files of s03, DIR/SUBJECT/CAMERA/ACTION; a small second person walks by for a second."""
    for camera in CAMERAS:
        folder = root / "s03" / camera
        folder.mkdir(parents=True)
        for action in ("squat", "dumbbell_biceps_curls"):
            pixels = take("s03", camera, action)
            pixels = np.concatenate((pixels, np.repeat(pixels[-1:], longer, 0)))
            people = [*((frame, pixels[20] * 0.2 + frame) for frame in range(20, 70)), *enumerate(pixels)]
            rows = [(frame, np.pad(p, ((0, 0), (0, 1)), constant_values=0.8).ravel().tolist()) for frame, p in people]
            content = [{"image_id": frame + first, "keypoints": values} for frame, values in rows]
            (folder / f"{action}.json").write_text(json.dumps(content))
    return str(root)


@pytest.mark.parametrize(("first", "longer"), [(0, 30), (1, 0)])
def test_a_detectors_keypoints_take_the_place_of_the_projected_truth(official, tmp_path, first, longer):
    found = write_detections(tmp_path / "found", first=first, longer=longer)
    importer, plain = of(official, keypoints=found, format="coco"), of(official)
    assert importer.sources != plain.sources
    members = [member for member in importer.members() if member.place[:2] == ("s03", "squat")]
    assert {member.place[2] for member in members} == set(CAMERAS)
    for member in members:
        ours, projected = importer.read(member), plain.read(member)
        torch.testing.assert_close(ours.truth, projected.truth)
        for number in DIRECT.values():
            joint = SMPL22.index(number)
            expected = projected.keypoints[:, joint].numpy() + MOVED
            np.testing.assert_allclose(ours.keypoints[:, joint], expected, atol=1e-3)  # straight between two frames
            np.testing.assert_allclose(ours.keypoints[::2, joint], expected[::2], atol=2e-6)
            np.testing.assert_allclose(ours.confidence[:, joint], 0.8, atol=1e-6)
        assert not ours.confidence[:, [SMPL22.index("l_foot"), SMPL22.index("r_foot")]].any()
        assert (ours.confidence[:, SMPL22.index("spine2")] < 0.5).all()


def test_a_set_with_a_detectors_keypoints_says_so_and_leaves_out_what_was_not_detected(official, tmp_path):
    out, found = str(tmp_path / "set"), write_detections(tmp_path / "found")
    done = run_import(of(official, keypoints=found, format="coco", test="s05"), out)
    assert done.card.sources == ("Fit3D (Fieraru et al. 2021), keypoints of a detector",)
    assert {clip_id[:3] for clip_id in done.left_out} == {"s04", "s05"}
    assert all("detections of the video" in message for message in done.left_out.values())
    clip = read_clip(out, done.card, "s03_squat_p0_c50591643")
    assert clip.truth is not None
    assert 0.0 <= clip.confidence.min() < clip.confidence.max() == np.float32(0.8)


def test_frames_without_the_person_have_no_confidence(official, tmp_path):
    found = write_detections(tmp_path / "found")
    place = tmp_path / "found" / "s03" / "50591643" / "squat.json"
    rows = json.loads(place.read_text())
    last = max(row["image_id"] for row in rows)
    gone = (*range(30, 50), *range(last - 9, 999))
    place.write_text(json.dumps([row for row in rows if row["image_id"] not in gone]))
    importer = of(official, keypoints=found, format="coco")
    seen = importer.read(next(m for m in importer.members() if m.id == "s03_squat_p0_c50591643"))
    missing = np.flatnonzero((seen.confidence == 0).all(1))  # at 20 fps, frame n is 2.5 n of the video
    assert missing.tolist() == [*range(12, 20), *range(int((last - 10) / 2.5) + 1, len(seen.confidence))]


def test_keypoints_between_frames_are_between_and_beyond_the_last_frame_there_are_none():
    times, points = np.array((1.0, 2.0, 3.0)), np.arange(6.0).reshape(3, 1, 2)
    confidence = np.array([[0.8], [0.0], [0.4]])
    found, sure = Detected(times, points, confidence).at(np.array((0.5, 1.0, 1.5, 2.0, 3.0, 3.1)))
    np.testing.assert_allclose(found[1:5, 0], [(0, 1), (1, 2), (2, 3), (4, 5)])
    np.testing.assert_allclose(sure[:, 0], (0, 0.8, 0.2, 0, 0.4, 0), atol=1e-6)


def other_camera(subject, camera, action):
    return detected(subject, next(name for name in CAMERAS if name != camera), action)


def undistorted(subject, camera, action):
    return detected(subject, camera, action) * 0.5


@pytest.mark.parametrize("take", [other_camera, undistorted])
def test_keypoints_of_another_camera_or_picture_are_refused(official, tmp_path, take):
    importer = of(official, keypoints=write_detections(tmp_path / "found", take=take), format="coco")
    with pytest.raises(DatasetError, match="expected keypoints of this take, found them"):
        importer.read(importer.members()[0])


def test_keypoints_need_a_format_and_cameras_of_videos_a_lens(source, tmp_path):
    found = write_detections(tmp_path / "found")
    for extra, message in (
        ({"keypoints": found}, "--option keypoints: expected --option format with it"),
        ({"format": "coco"}, "--option keypoints: expected --option format with it"),
        ({"keypoints": found, "format": "cocoa"}, "--option format: expected .*openpose.* found 'cocoa'"),
    ):
        with pytest.raises(ConfigError, match=message):
            of(source, **extra)
    place = source / "train" / "s03" / "camera_parameters" / "50591643" / "squat.json"
    stored = json.loads(place.read_text())
    del stored["intrinsics_w_distortion"]["k"]
    place.write_text(json.dumps(stored))
    importer = of(source, keypoints=found, format="coco")
    with pytest.raises(DatasetError, match=r"squat\.json: expected numbers intrinsics_w_distortion k"):
        importer.read(next(m for m in importer.members() if m.id == "s03_squat_p0_c50591643"))


@pytest.mark.parametrize("inside", [False, True])
def test_the_list_of_subjects_and_takes_tells_whom_to_test_on_and_what_is_missing(source, inside):
    takes = {subject: ["squat", "dumbbell_biceps_curls"] for subject in ("s03", "s04", "s05", "s02")}
    takes["s04"].append("push_up")
    info = {"train_subj_names": ["s03", "s04"], "subj_to_act": takes, "all_camera_names": list(CAMERAS)}
    (source / "fit3d_info.json").write_text(json.dumps(info))
    importer = of(source / "train" if inside else source)
    members = importer.members()
    assert {(m.trial, m.split) for m in members} == {("s03", "train"), ("s04", "train"), ("s05", "test")}
    missing = [m for m in members if m.place[1] == "push_up"]
    assert [m.id for m in missing] == [f"s04_push_up_p0_c{camera}" for camera in sorted(CAMERAS)]
    with pytest.raises(DatasetError, match=r"push_up\.json: expected a file that can be read"):
        importer.read(missing[0])
    chosen = of(source, test="s03").members()
    assert {m.trial for m in chosen if m.split == "test"} == {"s03"}


def test_a_list_that_leads_out_of_the_folder_is_refused_before_anything_is_read(source, monkeypatch):
    (source / "fit3d_info.json").write_text(json.dumps({"subj_to_act": {"s03": ["../../../secret"]}}))
    importer = of(source)
    monkeypatch.setattr(importer, "_take", lambda subject, action: pytest.fail(f"read {action}"))
    with pytest.raises(DatasetError, match="expected an id"):
        importer.members()


@pytest.mark.parametrize("info", ["{}", '{"train_subj_names": ["s03", "s04", "s05"]}', '{"subj_to_act": [1], "x": 2}'])
def test_where_nobody_is_named_for_testing_subjects_are_drawn(source, info):
    (source / "fit3d_info.json").write_text(info)
    assert {m.split for m in of(source).members()} == {""}
