"""From videos to clips: who is watched, where a video is cut, and what camera, floor and sides come out of it."""

import dataclasses
import math
import os
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from filmed import DIRECT, FOCAL, SIZE, film, in_camera, write_detections, write_gif, write_source
from people import decoded
from scipy.spatial.transform import Rotation

from videomdm_ext.data.folder import read_card, read_clip
from videomdm_ext.data.importing import run_import
from videomdm_ext.data.sources.base import LONGEST, ImportOptions
from videomdm_ext.data.tasks import Engine
from videomdm_ext.data.texts import Caption
from videomdm_ext.data.video import watch as video_watch
from videomdm_ext.data.video.comparing import mirror_of
from videomdm_ext.data.video.detections import Detections
from videomdm_ext.data.video.frames import camera_of, frame_times, frames, open_video, read_calibration, shots
from videomdm_ext.data.video.importer import VideoImporter
from videomdm_ext.data.video.listing import contents
from videomdm_ext.data.video.people import choose, count_others, everybody, follow, segments
from videomdm_ext.data.video.pieces import Stretch, cut
from videomdm_ext.data.video.placing import corrected, find_lens, in_front, lens_of, turned
from videomdm_ext.data.video.watch import Found, find_people
from videomdm_ext.errors import ConfigError, DatasetError, VideoMDMError
from videomdm_ext.geometry import cameras
from videomdm_ext.motion.joint_maps import BLAZEPOSE33, COCO17, to_smpl22
from videomdm_ext.motion.kinematics import heading
from videomdm_ext.motion.skeletons import SMPL22


def importer(root, films, **extra):
    videos, found, captions = write_source(root, films)
    given = {"detections": str(found), "format": "blazepose"} | {key: str(value) for key, value in extra.items()}
    made = VideoImporter(str(videos), ImportOptions(captions=str(captions), extra=given))
    made.cache = str(root / "cache")
    return made


def imported(root, one, **extra):
    """The only clip of a film. -> clip, positions [T, 22, 3], its importer"""
    source = importer(root, {"clip": one}, **extra)
    out = str(root / "out")
    run_import(source, out)
    clip = read_clip(out, read_card(out), "clip_0")
    return clip, decoded(clip.teacher), source


# What comes out at the end


def test_a_clip_shows_the_true_picture_and_stands_upright_where_the_person_stood(tmp_path):
    one = film("walk", pitch=-15.0, roll=5.0)
    clip, positions, source = imported(tmp_path, one, focal=FOCAL)
    true = one.at(0, clip.length)
    expected = true[..., :2] / true[..., 2:]
    # both are interpolated, before and after projecting
    assert np.abs(clip.keypoints - expected)[:, DIRECT].max() < 0.004
    own = in_camera(clip.teacher, clip.extrinsics)
    assert np.abs(own[..., :2] / own[..., 2:] - expected)[:, DIRECT].max() < 0.01
    assert np.linalg.norm(own - true, axis=-1)[:, DIRECT].mean() < 0.03
    assert clip.intrinsics[0, 0] == pytest.approx(FOCAL)
    assert clip.image_size == SIZE
    up = clip.extrinsics[:, 1]
    assert math.degrees(math.acos(up @ one.rotation[:, 1])) < 6
    assert np.quantile(positions[..., 1].min(1), 0.05) == pytest.approx(0.0, abs=0.02)
    assert positions[:, SMPL22.index("head"), 1].min() > 1.2
    assert abs(float(heading(torch.from_numpy(positions[:1]), SMPL22)[0])) < 0.01
    assert positions[0, SMPL22.index("l_hip"), 0] > 0.05 > -0.05 > positions[0, SMPL22.index("r_hip"), 0]
    assert positions[-1, 0, 2] > 1.5  # the walk goes ahead
    assert source.found["clip"].facts["camera_pitch_degrees"] == pytest.approx(-15, abs=6)


def test_noise_of_the_lifter_stays_in_the_teacher_and_out_of_the_keypoints(tmp_path):
    one = film("walk", noise=0.04)
    clip, _, source = imported(tmp_path, one, focal=FOCAL)
    own = in_camera(clip.teacher, clip.extrinsics)
    off = np.linalg.norm(own[..., :2] / own[..., 2:] - clip.keypoints, axis=-1)[:, DIRECT] * 5.0
    assert 0.02 < off.mean() < 0.08  # metres at 5 m
    assert source.found["clip"].clips["clip_0"]["error_pixels"] == pytest.approx(off.mean() / 5 * FOCAL, rel=0.5)


def test_a_calibration_tells_lens_and_gravity(tmp_path):
    one = film("dance_b", pitch=-20.0, roll=25.0)
    y_to_z = np.array(((1, 0, 0), (0, 0, 1), (0, -1, 0)), dtype=float)  # of a world with z up: y = z', z = -y'
    angles = Rotation.from_matrix(one.rotation @ y_to_z).as_rotvec()
    (tmp_path / "cameras.toml").write_text(
        f'[only]\nname = "only"\nsize = [{SIZE[0]}, {SIZE[1]}]\nmatrix = [[{FOCAL}, 0, {SIZE[0] / 2}], [0, {FOCAL}, '
        f"{SIZE[1] / 2}], [0, 0, 1]]\ndistortions = [0, 0, 0, 0]\nrotation = {angles.tolist()}\n"
        f"translation = {one.translation.tolist()}\nfisheye = false\n[metadata]\nerror = 0.0\n"
    )
    clip, _, source = imported(tmp_path / "run", one, calibration=tmp_path / "cameras.toml")
    assert math.degrees(math.acos(min(1.0, clip.extrinsics[:, 1] @ one.rotation[:, 1]))) < 0.1
    assert source.found["clip"].facts["up_told_by"] == "calibration"
    assert source.found["clip"].facts["focal_told_by"] == "calibration"
    assert clip.intrinsics[0, 0] == pytest.approx(FOCAL)
    shoulder = SMPL22.index("l_shoulder")
    seen = one.pixels[0, 11] - np.array(SIZE) / 2
    assert clip.keypoints[0, shoulder] == pytest.approx(seen / FOCAL, abs=1e-4)


def test_a_moving_camera_follows_a_person_whose_standing_feet_stay(tmp_path):
    still = film("walk", pitch=-10.0)
    ahead = still.world + np.array((0.0, 0.0, 5.0))  # a camera that goes along and keeps the person in the middle
    pixels = FOCAL * ahead[..., :2] / ahead[..., 2:] + np.array(SIZE) / 2
    along = dataclasses.replace(still, pixels=pixels)
    clip, positions, _ = imported(tmp_path, along, focal=FOCAL, moving="yes")
    assert clip.extrinsics.shape == (clip.length, 3, 4)
    assert positions[-1, 0, 2] > 1.2  # 2.4 m in truth; a step or two is lost where both feet hardly touch
    own = in_camera(clip.teacher, clip.extrinsics)
    assert np.abs(own[..., :2] / own[..., 2:] - clip.keypoints)[:, DIRECT].mean() < 0.01
    assert np.quantile(positions[..., 1].min(1), 0.05) == pytest.approx(0.0, abs=0.03)


# Lens and place


def test_the_focal_length_of_people_at_the_edge_is_found_and_of_those_in_the_middle_assumed():
    one = film("dance_a", at=(0.2, 0.3, 0.0), distance=2.7)
    body = torch.from_numpy(to_smpl22(one.world, BLAZEPOSE33))
    pixels = torch.from_numpy(to_smpl22(one.pixels, BLAZEPOSE33))
    found = find_lens(body, pixels, torch.ones(pixels.shape[:2]).double(), SIZE, SMPL22)
    assert found.told_by == "estimated"
    assert found.focal == pytest.approx(FOCAL, rel=0.06)  # drawn a little to the usual one, 277
    noise = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0)).double()
    lost = find_lens(body[:8], pixels[:8] + 60 * noise[:8], torch.ones(8, 22).double(), SIZE, SMPL22)
    assert lost.told_by == "assumed"
    assert lost.focal == pytest.approx(SIZE[0] / 2 / math.tan(math.radians(30)))


def test_a_stretch_of_several_clips_counts_once_for_the_focal_length(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "videomdm_ext.data.video.placing.find_lens", lambda *given: asked.append(len(given[0])) or find_lens(*given)
    )
    source = importer(tmp_path, {"clip": film("walk")})
    for rows in (("clip\twalks.\t0\t1.2",), ("clip\twalks.\t0\t1.2", "clip\tgoes.\t1\t2.2")):
        (tmp_path / "captions.txt").write_text("\n".join(rows))
        again = VideoImporter(source.source, source.options)
        assert len(again.members()) == len(rows)
    assert asked[0] == asked[1] > 40


def sighted(one):
    """-> lifted joints, keypoints on the normalised plane and their weights."""
    body = torch.from_numpy(to_smpl22(one.world, BLAZEPOSE33))
    image = cameras.normalise(torch.from_numpy(to_smpl22(one.pixels, BLAZEPOSE33)), lens_of(FOCAL, SIZE, "").intrinsics)
    return body, image, torch.ones(image.shape[:2]).double()


def test_a_pose_is_placed_where_it_was_also_without_keypoints_and_never_behind_the_camera():
    one = film("walk", at=(1.2, 0.2, 1.0), distance=4.0, roll=10.0)
    body, image, weight = sighted(one)
    placed = in_front(turned(body, image, SMPL22), image, weight, 25.0, "clip")
    assert np.linalg.norm(placed.numpy() - one.seen, axis=-1)[:, DIRECT].max() < 0.05  # depth is smoothed
    without = in_front(body, image, weight, 25.0, "clip")
    assert cameras.reprojection(without, image, weight) > 4 * cameras.reprojection(placed, image, weight)
    one = film("walk")
    body, image, weight = sighted(one)
    weight[20:25] = 0
    placed = in_front(turned(body, image, SMPL22), image, weight, 25.0, "clip")
    assert np.linalg.norm(placed.numpy() - one.seen, axis=-1)[20:25, DIRECT].max() < 0.1
    body = torch.from_numpy(to_smpl22(film("walk").world, BLAZEPOSE33))
    image = (body[..., :2] / 0.1).clamp(-4, 4)
    with pytest.raises(DatasetError, match="in front of the camera"):
        in_front(body, -image, torch.ones(image.shape[:2]).double(), 25.0, "clip")


def test_a_person_whom_the_lifter_turned_is_turned_back_by_his_camera():
    one = film("dance_b", pitch=0.0)
    true = torch.from_numpy(one.seen)
    image = true[..., :2] / true[..., 2:]
    middle = true[:, 0].mean(0)
    c, s = math.cos(math.radians(12)), math.sin(math.radians(12))
    yaw = torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]]).double()
    wrong = (true - middle) @ yaw.T + middle
    weight = torch.ones(image.shape[:2]).double()
    found = corrected(wrong, image, weight, "clip")
    assert torch.linalg.vector_norm(found - true, dim=-1).max() < 0.01
    assert torch.linalg.vector_norm(wrong - true, dim=-1).max() > 0.1


def test_qualisys_and_toml_files_of_one_camera_agree(tmp_path):
    one = film("walk", pitch=-20.0, roll=5.0)
    rows = np.diag((1, -1, -1)) @ one.rotation
    centre = -one.rotation.T @ one.translation * 1000
    place = " ".join(f'r{i + 1}{j + 1}="{rows[i, j]}"' for i in range(3) for j in range(3))
    place += " ".join(f' {axis}="{value}"' for axis, value in zip("xyz", centre, strict=True))
    (tmp_path / "c.qca.txt").write_text(
        f'<?xml version="1.0"?><calibration><cameras><camera serial="cam02"><fov_video left="0" right="319" top="0" '
        f'bottom="239"/><transform {place}/><intrinsic focalLengthU="{64 * 300}" focalLengthV="{64 * 310}" '
        'centerPointU="10240" centerPointV="7680" radialDistortion1="0.1" radialDistortion2="0.2" '
        'radialDistortion3="0.3" tangentalDistortion1="0.01" tangentalDistortion2="0.02"/></camera></cameras>'
        "</calibration>"
    )
    angles = Rotation.from_matrix(one.rotation).as_rotvec()
    (tmp_path / "c.toml").write_text(
        '[cam_02]\nname = "cam02"\nsize = [320.0, 240.0]\nmatrix = [[300, 0, 160], [0, 310, 120], [0, 0, 1]]\n'
        f"distortions = [0.1, 0.2, 0.01, 0.02, 0.3]\nrotation = {angles.tolist()}\n"
        f"translation = {one.translation.tolist()}\n"
    )
    one_file, other = (read_calibration(str(tmp_path / name))["cam02"] for name in ("c.qca.txt", "c.toml"))
    for name in ("intrinsics", "distortion", "extrinsics"):
        assert torch.allclose(getattr(one_file, name), getattr(other, name), atol=1e-6), name
    assert one_file.size == other.size == SIZE
    assert np.allclose(other.extrinsics[:, :3].numpy(), one.rotation)
    assert other.scaled((640, 480))[0, 0] == 600
    with pytest.raises(DatasetError, match="320 x 240"):
        other.scaled((240, 640))


@pytest.mark.parametrize("text", ["", "nonsense", "<a", "[cam]\nmatrix = 3", "<!DOCTYPE x [<!ENTITY a 'b'>]><c/>"])
def test_a_file_that_is_no_calibration_is_refused(tmp_path, text):
    place = tmp_path / "c.toml"
    place.write_text(text)
    with pytest.raises(DatasetError, match=r"calibration|focal length"):
        read_calibration(str(place))


def test_a_video_is_matched_with_its_camera_by_name_or_number():
    named = dict.fromkeys(("cam01", "cam02"))
    found = [camera_of({k: k for k in named}, video, "f") for video in ("walk_cam02", "view_2", "CAM01")]
    assert found == ["cam02", "cam02", "cam01"]
    with pytest.raises(DatasetError, match="cam01, cam02"):
        camera_of({k: k for k in named}, "view", "f")


# People, gaps and cuts


def crowd(*boxes_over_time, fps=20.0):
    """People as 17 joints spread over boxes [F, 4]; NaN: not seen."""
    spread = np.random.default_rng(0).uniform(0, 1, (17, 2))
    spread[:2] = ((0, 0), (1, 1))
    boxes = np.stack(boxes_over_time, 1)
    pixels = boxes[:, :, None, :2] + spread * (boxes[:, :, None, 2:] - boxes[:, :, None, :2])
    score = np.where(np.isfinite(pixels).all(-1), 0.9, 0.0)
    return Detections(COCO17, np.arange(len(boxes)) / fps, np.nan_to_num(pixels), score)


def walker(start, speed, frames=40, height=100.0):
    x = start + speed * np.arange(frames)
    return np.stack((x, 0 * x + 50, x + 40, 0 * x + 50 + height), 1)


def test_jumps_and_long_losses_end_a_track():
    path = walker(0, 2)
    path[20:, [0, 2]] += 400
    assert [track.frames.tolist() for track in follow(crowd(path))] == [list(range(20)), list(range(20, 40))]
    path = walker(0, 1, frames=60)
    path[10:15] = np.nan
    path[30:45] = np.nan
    assert [len(track.frames) for track in follow(crowd(path))] == [25, 15]


def test_several_people_are_refused_unless_one_is_named_or_far_away():
    found = crowd(walker(0, 1), walker(200, 1, height=150.0))
    tracks = follow(found)
    with pytest.raises(DatasetError, match=r"found several \(0: .* 1: .*--person NUMBER or largest, or .*--person all"):
        choose(tracks, found.times, "", "v.mp4")
    assert choose(tracks, found.times, "largest", "v.mp4")[0].height == pytest.approx(150)
    assert choose(tracks, found.times, "0", "v.mp4")[0].height == pytest.approx(100)
    with pytest.raises(DatasetError, match="2 people"):
        choose(tracks, found.times, "2", "v.mp4")
    away = walker(200, 0, height=30.0)
    first, second = walker(0, 1), walker(0, 1)
    first[20:], second[:32] = np.nan, np.nan
    found = crowd(first, second, away)
    assert [len(t.frames) for t in choose(follow(found), found.times, "", "v.mp4")] == [20, 8]


def test_of_everybody_each_who_lasts_is_a_person_and_one_at_a_time_are_one():
    found = crowd(walker(0, 1), walker(200, 1), walker(400, 0, height=30.0), np.full((40, 4), np.nan))
    tracks = follow(found)
    people = everybody(tracks, found.times, "v.mp4")
    assert [[track.boxes[0, 0] for track in one] for one in people] == [[0.0], [200.0]]
    assert count_others(tracks, [track for one in people for track in one], found.times) == 1
    first, second = walker(0, 1), walker(0, 1)
    first[20:], second[:32] = np.nan, np.nan
    found = crowd(first, second)
    assert [len(one) for one in everybody(follow(found), found.times, "v.mp4")] == [2]


@pytest.mark.parametrize("noise", [0.5, 8.0])
@pytest.mark.parametrize("hidden", [0.0, 15.0, 40.0])
@pytest.mark.parametrize("meeting", ["pass", "turn", "part"])
def test_two_people_who_cross_keep_their_tracks_or_lose_them_and_never_exchange_them(noise, hidden, meeting):
    """Those behind are not detected within `hidden` pixels of the others, who are 100 pixels tall."""
    exchanged = whole = 0
    for seed in range(2):
        draw = np.random.default_rng(seed)
        shapes = draw.uniform(0, 1, (2, 17, 2)) * (40, 100)
        t = np.arange(60) / 25.0
        x = 60 * (t - 1.2) + draw.uniform(-3, 3)
        x = {"pass": x, "turn": -np.abs(x) - 4, "part": np.where(t < 1.2, x, np.sign(seed % 2 - 0.5) * x)}[meeting]
        middles = np.stack((x, -x), 1)[..., None] * (1, 0) + (200, 50)
        steps = 6 * np.sin(2 * np.pi * (1.5 * t[:, None] + draw.uniform(0, 1, 34))).reshape(60, 1, 17, 2)
        pixels = middles[:, :, None] + shapes + steps * np.array((1, -1))[:, None, None]
        pixels = pixels + noise * draw.standard_normal(pixels.shape)
        score = np.full(pixels.shape[:3], 0.9)
        behind = np.abs(2 * x) < hidden
        score[behind, np.where(draw.random() < 0.5, 0, 1)] = 0.0
        order = np.argsort(draw.random((60, 2)), 1)  # the detector's own order means nothing
        rows = np.arange(60)[:, None]
        tracks = follow(Detections(COCO17, t, pixels[rows, order], score[rows, order]))
        true = [{*order[track.frames, track.slots].tolist()} for track in tracks]
        exchanged += sum(len(one) > 1 for one in true)
        whole += len(tracks) == 2
    assert exchanged == 0
    assert whole == 2 or noise > 3 or hidden > 15 or meeting != "pass"


def test_people_of_whom_none_lasts_are_named_as_several():
    blinks = np.full((2, 20, 4), np.nan)
    blinks[0, ::14], blinks[1, ::14] = (0.0, 10.0, 40.0, 110.0), (200.0, 10.0, 240.0, 110.0)
    for people, found in (
        (blinks, "up to 2 people at a time, of whom none can be followed"),
        (blinks[:1], "none for more than a frame"),
    ):
        seen = crowd(*people)
        with pytest.raises(DatasetError, match=f"found {found}"):
            choose(follow(seen), seen.times, "", "v.mp4")


def test_behind_a_cut_the_person_is_searched_anew(monkeypatch):
    made = []
    nobody = Found(np.zeros((33, 2)), np.zeros(33), np.zeros((33, 3)))

    def engine(*, following):
        made.append(following)
        return lambda picture: nobody

    monkeypatch.setattr(video_watch, "engine", engine)
    shown = [(k / 25, np.zeros((20, 30, 3), np.uint8), k in (4, 8)) for k in range(12)]
    assert [row[2] for row in video_watch._followed(iter(shown))] == [[(nobody, 0)]] * 12
    assert made == [True] * 3


def test_gaps_jumps_and_cuts_end_a_stretch():
    times, cuts = np.arange(100) / 25.0, np.zeros(100)
    pixels = np.zeros((100, 8, 2)) + np.arange(8)[:, None] * 10.0 + np.arange(100)[:, None, None]
    score = np.full((100, 8), 0.9)

    def found():
        return segments(times, pixels, score, cuts, bad=0.3)

    assert found() == [(0, 100)]
    score[20:24] = 0.0  # 0.2 s
    assert found() == [(0, 100)]
    score[20:30] = 0.0
    assert found() == [(0, 20), (30, 100)]
    pixels[60:] += 300
    assert found() == [(0, 20), (30, 60), (60, 100)]
    cuts[80] = 1.0
    assert found() == [(0, 20), (30, 60), (60, 80), (80, 100)]
    score[:] = 0.0
    assert found() == []


def test_a_cut_begins_a_shot_and_a_pan_a_flash_and_repeated_frames_do_not():
    draw = np.random.default_rng(0)
    rooms = [np.kron(draw.integers(0, 255, (3, 10, 3)), np.ones((40, 40, 1))).astype(np.uint8) for _ in range(2)]

    def begins(pictures):
        found = list(shots(enumerate(pictures)))
        assert [time for time, *_ in found] == list(range(len(pictures)))
        assert all(np.array_equal(one, picture) for (_, one, _), picture in zip(found, pictures, strict=True))
        return [time for time, _, cut in found if cut]

    pan = [rooms[0][:, 15 * k : 15 * k + 160] for k in range(12)]
    other = [rooms[1][:, k : k + 160] for k in range(12)]
    assert begins(pan + other) == [12]
    assert begins([(0.1 * one).astype(np.uint8) for one in pan + other]) == [12]  # a dark room
    lit = [*other[:5], *[np.full_like(other[0], 255)] * 2, *other[5:]]
    assert begins(lit) == []
    assert begins([one for one in pan for _ in range(3)]) == []  # 10 frames a second, shown as 30
    assert begins([pan[0]] * 40 + [other[0]] * 40) == [40]


# Captions and lengths


def stretch(frames, start=0.0):
    return Stretch(start, torch.zeros(frames, 22, 2), torch.ones(frames, 22), torch.zeros(frames, 22, 3))


def test_long_stretches_become_equal_clips_and_a_caption_of_a_part_makes_a_clip_of_that_part():
    whole = [Caption("a person walks.")]
    assert [len(p.pixels) for p in cut(stretch(2 * LONGEST + 2), whole, 20.0)] == [132, 132, 132]
    assert [len(p.pixels) for p in cut(stretch(LONGEST + 1), whole, 20.0)] == [LONGEST + 1]
    assert [len(p.pixels) for p in cut(stretch(17), whole, 20.0)] == [17]  # 16 frames when the last one is dropped
    assert cut(stretch(16), whole, 20.0) == []
    captions = [Caption("walks."), Caption("kicks.", 3.0, 5.0), Caption("hits.", 3.0, 5.0)]
    pieces = cut(stretch(200, start=1.0), captions, 20.0)
    assert [(piece.start, len(piece.pixels), piece.texts) for piece in pieces] == [
        (1.0, 101, ("walks.",)),
        (6.0, 100, ("walks.",)),
        (3.0, 41, ("kicks.", "hits.")),
    ]
    assert cut(stretch(100), [Caption("later.", 60.0, 70.0)], 20.0) == []


def test_captions_are_found_by_file_name_and_stem_and_by_folder_where_names_repeat(tmp_path):
    """Of two videos of one name in two folders neither takes a caption that may be the other's."""
    for name in ("walking_fast/01.gif", "jump/01.gif", "jump/02.GIF", "old/03.gif", ".hidden/04.gif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"no film")
    (tmp_path / "old" / "dataset.json").write_text("{}")  # a data set, whose films are no source
    found, _, sets = contents(str(tmp_path))
    assert found == [str(tmp_path / name) for name in ("jump/01.gif", "jump/02.GIF", "walking_fast/01.gif")]
    assert sets == [str(tmp_path / "old")]
    table = tmp_path / "captions.csv"
    table.write_text("walking_fast/01,one.\n02.GIF,two.\n02,three.,0:01.5,0:03\n01,whose?\n03.gif,lost.\n")

    def looked_up(**options):
        importer = VideoImporter(str(tmp_path), ImportOptions(captions=str(table), **options))
        importer.engine = Engine()
        with pytest.raises(DatasetError, match="that can be used"):  # they are no films
            importer.members()
        return importer

    importer = looked_up()
    said = {os.path.relpath(path, tmp_path): captions for _, _, path, captions in importer._tasks.values()}
    assert said == {
        "walking_fast/01.gif": {"": [Caption("one.")]},
        "jump/02.GIF": {"": [Caption("two."), Caption("three.", 1.5, 3)]},
    }
    assert "Add a line jump/01.gif<tab>CAPTION" in importer.refused["jump/01.gif"]
    assert {f"{table}: 01", f"{table}: 03.gif"} < set(importer.refused)  # nothing in the table is lost in silence

    importer = looked_up(caption="a person {folder}.")
    said = {os.path.relpath(path, tmp_path): captions for _, _, path, captions in importer._tasks.values()}
    assert said["jump/01.gif"] == {"": [Caption("a person jump.")]}
    assert said["walking_fast/01.gif"] == {"": [Caption("one.")]}
    importer = looked_up(caption="a person {folder}.", extra={"detections": str(tmp_path), "format": "coco"})
    assert "no video in another folder has" in importer.refused["jump/01.gif"]  # both would take those of 01
    table.write_text("02,two.\n02_p1,four.\njump/01_p0,five.\n01_p0,whose?\n")  # captions of one person
    importer = looked_up(extra={"person": "all"})
    said = {os.path.relpath(path, tmp_path): captions for _, _, path, captions in importer._tasks.values()}
    assert said == {
        "jump/01.gif": {"": [], "p0": [Caption("five.")]},
        "jump/02.GIF": {"": [Caption("two.")], "p1": [Caption("four.")]},
    }
    assert f"{table}: 01_p0" in importer.refused
    assert f"{table}: 02_p1" in looked_up().refused  # of whom nobody was asked for


# Files, and going on


def test_a_gif_keeps_its_own_times(tmp_path):
    write_gif(tmp_path / "a.gif", film("kick"))
    video = open_video(str(tmp_path / "a.gif"))
    times = [time for time, _ in frames(video)]
    assert video.fps == pytest.approx(25.0)
    assert times == pytest.approx(film("kick").times, abs=1e-6)
    assert [round(t, 2) for t, _ in frames(video, 0.2, 0.3)] == [0.2, 0.24, 0.28]


def test_what_is_no_video_is_told_and_the_others_go_on(tmp_path):
    source = importer(tmp_path, {"good": film("walk"), "far": film("kick")}, focal=FOCAL)
    videos = tmp_path / "videos"
    (videos / "empty.gif").write_bytes(b"")
    (videos / "words.gif").write_text("not a video" * 20)
    write_gif(videos / "silent.gif", film("kick"))
    write_detections(tmp_path / "found" / "far.npz", film("kick"), visibility=np.zeros((38, 33)))
    with (tmp_path / "captions.txt").open("a") as file:
        file.write("empty\tx.\nwords\tx.\n")
    assert [m.id for m in source.members()] == ["good_0"]
    reasons = {name: message.partition(": ")[2] for name, message in source.refused.items()}
    assert "an empty file" in reasons["empty.gif"]
    assert "Pillow" in reasons["words.gif"]
    assert "caption" in reasons["silent.gif"]
    assert "person in view" in reasons["far.gif"]
    (videos / "good.gif").unlink()
    with pytest.raises(DatasetError, match=r"The first: .*an empty file"):
        VideoImporter(source.source, source.options).members()


def test_a_second_run_does_not_watch_again_and_a_changed_video_is_watched(tmp_path, monkeypatch):
    source = importer(tmp_path, {"clip": film("walk")}, focal=FOCAL)
    first = source.members()
    kept = list((tmp_path / "cache").iterdir())
    assert len(kept) == 1
    monkeypatch.setattr(video_watch, "_with_detections", lambda *a: pytest.fail("watched"))
    again = VideoImporter(source.source, source.options)
    again.cache = source.cache
    assert [m.id for m in again.members()] == [m.id for m in first]
    a, b = source.read(first[0]), again.read(again.members()[0])
    assert torch.allclose(a.lifted, b.lifted, atol=1e-4)
    write_gif(tmp_path / "videos" / "clip.gif", film("walk", pitch=-20.0))
    with pytest.raises(pytest.fail.Exception):
        again.members()


def test_short_parts_are_left_out_with_a_note(tmp_path):
    one = film("walk")
    one.visibility[10:22] = 0.0
    source = importer(tmp_path, {"clip": one}, focal=FOCAL)
    assert [m.id for m in source.members()] == ["clip_0"]
    assert "shorter than 16 frames" in source.found["clip"].notes[0]
    assert source.found["clip"].clips["clip_0"]["start"] == pytest.approx(22 / 25, abs=1e-4)


def beside(root, monkeypatch, one, *, first=0, scale=1.0, frames=None, step=1):
    """An importer of a film with OpenPose's files beside it; the watcher sees the film's own joints in each picture."""
    videos, found, captions = write_source(root, {"clip": one})
    (found / "clip.npz").unlink()
    coco = [BLAZEPOSE33.index(j) for j in COCO17.joints]
    folder = found / "clip_json"
    folder.mkdir()
    for number, points in enumerate(one.pixels[:frames:step, coco] * scale):
        rows = np.concatenate((points, np.full((17, 1), 0.8)), 1).ravel().tolist()
        place = folder / f"clip_{number + first:06d}.json"
        place.write_text(f'{{"people": [{{"pose_keypoints_2d": {rows}}}]}}')

    def seen(picture):
        row = np.flatnonzero((picture[1] == (255, 0, 0)).all(-1))  # the film's mark has the number of the frame
        return Found(one.pixels[row[0]], one.visibility[row[0]], one.world[row[0]])

    monkeypatch.setattr(video_watch, "engine", lambda *, following: None)
    monkeypatch.setattr(video_watch, "find_people", lambda picture, find: [seen(picture)])
    monkeypatch.setattr(video_watch, "find_in_box", lambda picture, box, find: seen(picture))
    extra = {"detections": str(found), "format": "openpose", "focal": str(FOCAL)}
    return VideoImporter(str(videos), ImportOptions(captions=str(captions), extra=extra))


@pytest.mark.parametrize(
    ("first", "scale", "frames", "line"),
    [
        (0, 1.0, None, ""),
        (1, 1.0, 58, ""),  # 000001 to 000058 of 62: from 1, as the pictures show
        (3, 1.0, 56, "corrected: 3 frames earlier"),
        (0, 0.75, None, "corrected: scaled by 1.333"),
    ],
)
def test_other_detectors_keypoints_are_used_where_they_belong_with_mediapipes_depth(
    tmp_path, monkeypatch, first, scale, frames, line
):
    one = film("walk")
    source = beside(tmp_path, monkeypatch, one, first=first, scale=scale, frames=frames)
    recording = source.read(source.members()[0])
    assert recording.confidence[:, SMPL22.index("l_foot")].max() == 0
    assert recording.confidence[2:-6, SMPL22.index("l_knee")].min() == pytest.approx(0.8, abs=1e-6)
    seen = cameras.to_camera(recording.lifted.double(), recording.extrinsics.double()).numpy()
    assert np.linalg.norm(seen - one.at(0, len(seen)), axis=-1)[:, DIRECT].mean() < 0.05
    expected = one.at(0, len(seen))
    off = np.abs(recording.keypoints.numpy() - expected[..., :2] / expected[..., 2:])[:, DIRECT] * FOCAL
    assert off.max() < 1.5  # pixels
    notes = source.found["clip"].notes
    assert [line in note for note in notes] == [True] * bool(line)


@pytest.mark.parametrize("amount", [0.1, 1.0])
def test_keypoints_at_half_the_frame_rate_are_refused_also_of_a_person_who_hardly_moves(tmp_path, monkeypatch, amount):
    one = film("walk")
    for values in (one.pixels, one.world):
        values[:] = values.mean(0) + amount * (values - values.mean(0))
    source = beside(tmp_path, monkeypatch, one, step=2)
    with pytest.raises(DatasetError, match=r"every frame, found those of one in 2|no nearer in other frames"):
        source.members()


def test_keypoints_of_something_else_are_refused_and_what_nothing_compares_is_noted(tmp_path, monkeypatch):
    one = film("walk")
    other = beside(
        tmp_path / "a", monkeypatch, dataclasses.replace(one, pixels=one.pixels[::-1] * (0.6, 1.3) + (50, 0))
    )
    right = beside(tmp_path / "b", monkeypatch, one)
    with pytest.raises(DatasetError, match="from where MediaPipe sees the joints, and no nearer in other frames"):
        other.members()
    extra = {**other.options.extra, "as_given": "yes"}
    taken = VideoImporter(other.source, dataclasses.replace(other.options, extra=extra))
    assert taken.members()
    assert any("they are taken as given" in note for note in taken.found["clip"].notes)
    monkeypatch.setattr(video_watch, "find_people", lambda picture, find: [])
    assert right.members()
    assert any("nothing compares" in note for note in right.found["clip"].notes)


def test_every_file_of_a_folder_is_used_or_named_and_what_was_put_right_is_on_the_card(tmp_path):
    one, still = film("walk"), film("kick")
    for values in (one.pixels, one.world):
        values[20:30] = values[20:30][:, mirror_of(BLAZEPOSE33)]
    still = dataclasses.replace(
        still, pixels=0 * still.pixels + still.pixels[:1], world=0 * still.world + still.world[:1]
    )
    source = importer(tmp_path, {"clip": one, "still": still}, focal=FOCAL)
    videos = tmp_path / "videos"
    for name in ("photo.jpg", "old.rmvb", "inner/notes.txt", "clip.srt", "captions.txt"):
        (videos / name).parent.mkdir(exist_ok=True)
        (videos / name).write_bytes(b"x")
    (videos / "inner" / "set").mkdir()
    (videos / "inner" / "set" / "dataset.json").write_text("{}")
    write_gif(videos / "inner" / "set" / "film.gif", one)
    one.visibility[45:] = 0.0
    write_detections(tmp_path / "found" / "clip.npz", one)
    (videos / "captions.txt").write_text((tmp_path / "captions.txt").read_text())
    source = VideoImporter(str(videos), dataclasses.replace(source.options, captions=str(videos / "captions.txt")))
    done = run_import(source, str(tmp_path / "out"))
    assert set(done.left_out) == {"photo.jpg", "old.rmvb", "inner/notes.txt", "inner/set"}
    assert "found a data set" in done.left_out["inner/set"]
    assert "expected a video (.mp4" in done.left_out["old.rmvb"]
    assert done.card.sides_exchanged == {"repaired": 10, "doubted": 0}
    assert any("exchanged in 10 of" in note for note in source.found["clip"].notes)
    assert any("still picture" in note for note in source.found["still"].notes)
    assert not any("still picture" in note for note in source.found["clip"].notes)


@pytest.mark.parametrize(
    ("extra", "match"),
    [
        ({"focal": "900", "fov": "60"}, "--fov"),
        ({"format": "openpose"}, "--format"),
        ({"detections": "x", "format": "nine"}, "openpose"),
        ({"person": "me"}, "largest"),
        ({"fps": "500"}, "--fps"),
        ({"moving": "maybe"}, "moving"),
        ({"lens": "1"}, "lens"),
        ({}, "--captions"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_any_work(extra, match):
    with pytest.raises(ConfigError, match=match):
        VideoImporter("nowhere", ImportOptions(captions="" if match == "--captions" else "c", extra=extra))


# The detector


class Watcher:
    """Finds white boxes, the largest first and one at a time, unless they are too small a share of the picture."""

    def __init__(self, least=0):
        self.least = least

    def __call__(self, picture):
        rows, columns = np.nonzero((picture == 255).all(-1))
        parts = [(columns >= left) & (columns < left + 100) for left in range(0, picture.shape[1], 100)]
        best = max(parts, key=np.count_nonzero)
        if np.count_nonzero(best) <= self.least * picture.size:
            return None
        corners = np.array([[columns[best].min(), rows[best].min()], [columns[best].max(), rows[best].max()]], float)
        points = np.resize(corners, (33, 2))
        return Found(points, np.ones(33), np.zeros((33, 3)))


def test_people_are_found_one_after_the_other_also_small_ones_in_a_half():
    picture = np.zeros((100, 400, 3), np.uint8)
    picture[10:90, 20:60] = 255
    picture[30:80, 210:240] = 255
    picture[40:55, 340:350] = 255
    found = find_people(picture, Watcher())
    assert [tuple(person.box) for person in found] == [(20, 10, 59, 89), (210, 30, 239, 79), (340, 40, 349, 54)]
    assert picture.max() == 255  # what was given is not painted over
    least = 15 * 10 / (100 * 300 * 3)  # the smallest one is too small in the whole picture, not in its half
    assert Watcher(least)(picture[:, 301:]) is not None
    assert len(find_people(picture, Watcher(least))) == 3
    assert len(find_people(picture, Watcher(2 * least))) == 2


def test_a_mediapipe_without_a_model_leads_to_other_tools_detections(monkeypatch):
    monkeypatch.setitem(sys.modules, "mediapipe", ModuleType("mediapipe"))
    with pytest.raises(VideoMDMError, match=r"--detections DIR --format blazepose \(docs/data.md"):
        video_watch.engine(following=False)


def test_a_watcher_that_is_not_used_any_more_gives_its_memory_back(monkeypatch):
    closed = []
    pose = SimpleNamespace(close=lambda: closed.append(1), process=lambda picture: SimpleNamespace(pose_landmarks=None))
    solutions = SimpleNamespace(pose=SimpleNamespace(Pose=lambda **options: pose))
    monkeypatch.setitem(sys.modules, "mediapipe", SimpleNamespace(solutions=solutions))
    find = video_watch.engine(following=True)
    assert find(np.zeros((4, 4, 3), np.uint8)) is None
    assert closed == []
    del find
    assert closed == [1]


def test_mediapipe_sees_nobody_in_an_empty_picture():
    pytest.importorskip("mediapipe", reason="needs the extra video")
    assert find_people(np.full((120, 160, 3), 90, np.uint8), video_watch.engine(following=False)) == []


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_ffmpeg_gives_odd_sizes_turned_pictures_and_right_times(tmp_path):
    # imageio-ffmpeg leaves a pipe to the garbage collector
    ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="needs the extra video").get_ffmpeg_exe()

    def make(name, *words):
        subprocess.run([ffmpeg, "-y", "-loglevel", "error", *words, str(tmp_path / name)], check=True)
        return open_video(str(tmp_path / name))

    odd = make("odd.mp4", "-f", "lavfi", "-i", "testsrc=size=161x123:rate=25:duration=1", "-pix_fmt", "yuv444p")
    assert odd.size == (161, 123)
    assert [p.shape for _, p in frames(odd)] == [(123, 161, 3)] * 25
    make("plain.mp4", "-f", "lavfi", "-i", "testsrc=size=160x120:rate=25:duration=1")
    turned_video = make("turned.mp4", "-display_rotation", "90", "-i", str(tmp_path / "plain.mp4"), "-c", "copy")
    assert turned_video.size == (120, 160)
    assert [time for time, _ in frames(turned_video, 0.5)] == pytest.approx(np.arange(0.52, 1.0, 0.04), abs=0.021)
    uneven = make("uneven.mp4", "-i", str(tmp_path / "plain.mp4"), "-vf", "select=not(mod(n\\,3))", "-fps_mode", "vfr")
    times = [time for time, _ in frames(uneven)]
    assert times[-1] == pytest.approx(0.96, abs=0.13)
    assert uneven.count == len(frame_times(uneven))
    # what people have: pixels that are not square, a rate that changes, one above 60, other endings, half a file
    wide = make("wide.mp4", "-i", str(tmp_path / "plain.mp4"), "-vf", "scale=144:96,setsar=4/3")
    assert (wide.size, wide.stored_size, wide.scale.tolist()) == ((192, 96), (144, 96), [192 / 144, 1.0])
    assert next(frames(wide))[1].shape == (96, 192, 3)
    tall = make("tall.mp4", "-display_rotation", "90", "-i", str(tmp_path / "wide.mp4"), "-c", "copy")
    assert (tall.size, tall.stored_size) == ((96, 192), (96, 144))
    fast = ("-f", "lavfi", "-i", "testsrc=size=64x48:rate=60:duration=3")
    changing = make("changing.mp4", *fast, "-vf", "select='lt(n,100)+not(mod(n,4))'", "-fps_mode", "vfr")
    times = frame_times(changing)
    assert times[[0, 50, 99, 100, 101]] == pytest.approx(np.array((0, 50, 99, 100, 104)) / 60, abs=1e-3)
    slow = make("slow.mp4", "-f", "lavfi", "-i", "testsrc=size=64x48:rate=240:duration=1")
    assert frame_times(slow) == pytest.approx(np.arange(240) / 240, abs=1e-3)
    assert slow.fps == 60
    (tmp_path / "words.mp4").write_text("#EXTM3U\nfile:///etc/passwd\n")
    with pytest.raises(DatasetError, match="none that ffmpeg can read"):
        open_video(str(tmp_path / "words.mp4"))
