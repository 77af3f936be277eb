"""Videos with the results of lifters that ran elsewhere, in the layouts that these write: the right person of the right
video at the right time, in the right place, and everything else by name."""

import collections
import dataclasses
import json
import pickle
import shutil
from types import SimpleNamespace

import joblib
import numpy as np
import pytest
import torch
from clips import CARD, make_clip
from filmed import DIRECT, SIZE, Film, filmed, in_camera, straight, write_source
from lifters import tools
from people import decoded

from videomdm_ext.cli import main as cli
from videomdm_ext.cli import training
from videomdm_ext.cli.videos import import_videos
from videomdm_ext.data import seal
from videomdm_ext.data.building import write_folder
from videomdm_ext.data.folder import read_card, read_clip, read_folder, read_ids
from videomdm_ext.data.importing import relift, run_import, with_lifter
from videomdm_ext.data.sources.base import ImportOptions
from videomdm_ext.data.video import importer as video_importer
from videomdm_ext.data.video import watch
from videomdm_ext.data.video.importer import VideoImporter
from videomdm_ext.data.video.lifted import Person, given_to
from videomdm_ext.data.video.pieces import Stretch
from videomdm_ext.errors import ConfigError, DatasetError, PluginError
from videomdm_ext.geometry.cameras import to_pixels
from videomdm_ext.lifters import pickles

DIAGONAL = 400.0  # of 320 x 240 pixels: the focal length that WHAM and GVHMR take
BETAS = np.array((1.5, -1.0))


@dataclasses.dataclass
class Scene:
    """A film of a body with known parameters, and folders: videos, found, captions.txt, models, results."""

    root: object
    film: Film
    resting: np.ndarray
    pose: np.ndarray
    moved: np.ndarray

    def camera(self, offset=(0.0, 0.0, 0.0)):
        """The parameters in the camera's axes, the person moved by `offset` there. -> pose [F, 72], trans [F, 3]"""
        eye = np.concatenate((self.film.rotation, self.film.translation[:, None]), 1)
        pose, moved = tools.filmed(self.pose, self.moved, self.resting, np.tile(eye, (len(self.pose), 1, 1)))
        return pose, moved + np.asarray(offset)

    def level(self):
        """The same in a level world that is turned and moved."""
        own = np.broadcast_to(tools.LEVEL, (len(self.pose), 3, 4))
        return tools.filmed(self.pose, self.moved, self.resting, own)

    @property
    def betas(self):
        return np.tile((*BETAS, *(0,) * 8), (len(self.pose), 1))

    def importer(self, lifter, **extra):
        given = {"detections": str(self.root / "found"), "format": "blazepose", "results": str(self.root / "results")}
        given |= {"smpl": str(self.root / "models")} if lifter != "motionbert" else {}
        given |= {key: str(value) for key, value in extra.items()}
        options = ImportOptions(captions=str(self.root / "captions.txt"), lifter=lifter, extra=given)
        return VideoImporter(str(self.root / "videos"), options)

    def imported(self, lifter, out="out", **extra):
        """-> the importer, what was left out, and each clip with its positions [T, 22, 3] in the camera, by id."""
        made, out = self.importer(lifter, **extra), str(self.root / out)
        done = run_import(made, out)
        ids = [i for split in ("train", "val", "test") if done.card.counts.get(split) for i in read_ids(out, split)]
        clips = {i: read_clip(out, done.card, i) for i in ids}
        return made, done, {i: (clip, in_camera(clip.teacher, clip.extrinsics)) for i, clip in clips.items()}


@pytest.fixture
def scene(tmp_path):
    """A body that acts for 3.2 seconds, filmed with the focal length that the tools take."""
    resting = tools.rest() + tools.body(tmp_path / "models", "smpl") @ BETAS
    shutil.copytree(tmp_path / "models" / "smpl", tmp_path / "models" / "smplx")
    (tmp_path / "models/smplx/SMPL_NEUTRAL.npz").rename(tmp_path / "models/smplx/SMPLX_NEUTRAL.npz")
    pose, moved = tools.acted(80, fps=25.0)
    film = filmed(tools.walked(resting, pose, moved), focal=DIAGONAL, pitch=-12.0, roll=4.0, distance=6.0)
    write_source(tmp_path, {"act.one": film})
    (tmp_path / "results").mkdir()
    return Scene(tmp_path, film, resting, pose, moved)


def write_wham(scene, video="act.one", people=None):
    """NAME/wham_output.pkl with several subjects, by joblib: 0 stands elsewhere, 3 is the one in view."""
    made = {}
    for who, (offset, frames) in (people or {0: ((1.5, 0, 0), slice(0, 80)), 3: ((0, 0, 0), slice(0, 80))}).items():
        arrays = tools.wham_arrays(scene.camera(offset), scene.level(), scene.betas)
        made[who] = {name: part[frames] for name, part in arrays.items()} | {"verts": np.zeros((80, 5, 3))[frames]}
    made = collections.defaultdict(dict, made)
    place = scene.root / "results" / video / "wham_output.pkl"
    place.parent.mkdir(exist_ok=True)
    joblib.dump(made, place)
    return place


def write_gvhmr(scene, video="act.one"):
    tensors = {"K_fullimg": torch.tensor([[DIAGONAL, 0, SIZE[0] / 2], [0, DIAGONAL, SIZE[1] / 2], [0, 0, 1]])}
    tensors["K_fullimg"] = tensors["K_fullimg"].repeat(80, 1, 1)
    tensors |= tools.gvhmr_tensors(scene.camera(), scene.level(), scene.betas)
    place = scene.root / "results" / video / "hmr4d_results.pt"
    place.parent.mkdir(exist_ok=True)
    torch.save({**tensors, "net_outputs": {"pred_cam": torch.zeros(1, 80, 3)}}, place)


def write_phalp(scene, video="act", switch=40):
    """results/demo_NAME.pkl: the person is track 1, then 7; a ghost is kept on after it is lost; another one is far."""
    pose, _ = scene.camera()
    seen = scene.film.seen
    frames = {}
    for t in range(80):
        turns = tools.Rotation.from_rotvec(pose[t].reshape(24, 3)).as_matrix()
        turns[0] = straight(seen[t, 0]).T @ turns[0]  # as the crop shows it
        smpl = {"global_orient": turns[:1], "body_pose": turns[1:], "betas": scene.betas[t]}
        low, high = scene.film.pixels[t].min(0) - 9, scene.film.pixels[t].max(0) + 9
        box, far = np.concatenate((low, high - low)), np.array((5.0, 5.0, 40.0, 90.0))
        entry = {"time": t, "shot": 0, "tid": [1 if t < switch else 7, 2], "bbox": [box, far], "tracked_time": [0, 0]}
        entry |= {"smpl": [smpl, smpl], "camera": [np.zeros(3)] * 2, "embedding": [torch.zeros(4)] * 2}
        if t >= switch:
            entry["tid"].append(1)
            entry["bbox"].append(far)
            entry["tracked_time"].append(t - switch + 1)
            entry["smpl"].append(smpl)
        frames[f"_DEMO/{video}/img/{t + 1:06d}.jpg"] = entry
    (scene.root / "results" / "results").mkdir(exist_ok=True)
    joblib.dump(frames, scene.root / "results" / "results" / f"demo_{video}.pkl", compress=3)


def write_motionbert(scene, frames=slice(0, 80), video="act.one"):
    tools.write_motionbert(scene.root / "results", video, scene.film.seen[frames], None)


@pytest.mark.parametrize("write", [write_wham, write_gvhmr])
def test_a_body_in_the_tools_own_camera_comes_out_where_it_was_and_upright(scene, write):
    """Of several subjects the watched one; the lens is the tool's, up that of its level world; keypoints stay."""
    write(scene)
    made, done, clips = scene.imported(write.__name__.removeprefix("write_"))
    ((clip_id, (clip, own)),) = clips.items()
    assert clip_id == "act.one_0"
    true = scene.film.at(0.0, clip.length)
    assert np.abs(own - true).max() < 1e-3
    assert np.abs(clip.keypoints - true[..., :2] / true[..., 2:])[:, DIRECT].max() < 0.004
    assert np.degrees(np.arccos(min(1.0, clip.extrinsics[:, 1] @ scene.film.rotation[:, 1]))) < 0.1
    assert done.card.lifter == write.__name__.removeprefix("write_")
    facts = made.found["act.one"].facts
    assert (facts["focal"], facts["focal_told_by"]) == (DIAGONAL, "the lifter")
    assert done.left_out == {}
    if write is write_wham:
        assert made.found["act.one"].clips[clip_id]["lifted"] == "person 3"


def test_another_lens_moves_the_person_along_the_rays(scene):
    """Seen through 300 pixels a person at 3/4 of the depth is as large: the same picture, a smaller world."""
    write_wham(scene)
    _, _, clips = scene.imported("wham", focal=300)
    clip, own = clips["act.one_0"]
    true = scene.film.at(0.0, clip.length)
    assert np.allclose(own[:, 0, 2], true[:, 0, 2] * 0.75, atol=1e-3)
    pixels = 300 * own[:, 0, :2] / own[:, 0, 2:]
    assert np.allclose(pixels, DIAGONAL * true[:, 0, :2] / true[:, 0, 2:], atol=0.1)
    assert np.median(np.abs(300 * own[..., :2] / own[..., 2:] - 300 * clip.keypoints)[:, DIRECT]) < 6


def test_a_moving_camera_has_the_motion_of_the_level_world_and_a_camera_a_frame(scene):
    write_wham(scene)
    _, _, clips = scene.imported("wham", moving="yes")
    clip, own = clips["act.one_0"]
    assert clip.extrinsics.shape == (clip.length, 3, 4)
    assert np.abs(own - scene.film.at(0.0, clip.length)).max() < 1e-3
    positions = decoded(clip.teacher)
    walked = np.linalg.norm(positions[-1, 0, [0, 2]])
    there = scene.film.true[np.searchsorted(scene.film.times, clip.length / 20) - 1, 0] - scene.film.true[0, 0]
    assert walked == pytest.approx(np.linalg.norm(there[[0, 2]]), abs=0.05)


@pytest.mark.parametrize("name", ["4dhumans", "motionbert"])
def test_poses_without_a_place_are_placed_by_the_keypoints(scene, name):
    """PHALP's track of another number is a clip of its own, and what it only remembers is not used."""
    (write_motionbert if name == "motionbert" else write_phalp)(scene)
    made, done, clips = scene.imported(name, focal=DIAGONAL)
    assert list(clips) == (["act.one_0"] if name == "motionbert" else ["act.one_0", "act.one_1"])
    places = made.found["act.one"].clips
    if name != "motionbert":
        assert [place["lifted"] for place in places.values()] == ["track 1", "track 7"]
        assert places["act.one_1"]["start"] == pytest.approx(1.6, abs=0.1)
    for clip_id, (clip, own) in clips.items():
        true = scene.film.at(places[clip_id]["start"], clip.length)
        about_root = (own - own[:, :1]) - (true - true[:, :1])
        assert np.linalg.norm(about_root, axis=-1)[:, DIRECT].mean() < (0.05 if name == "motionbert" else 0.02)
        # of unknown size, a person of usual limbs: 5 % of the depth
        assert np.abs(own - true)[:, 0].max() < (0.4 if name == "motionbert" else 0.06)
        off = np.abs(own[..., :2] / own[..., 2:] - clip.keypoints)[:, DIRECT]
        assert np.median(off) < 0.006
    assert done.card.lifter == name


def test_what_the_lifter_lost_cuts_the_clip_and_a_moment_is_bridged(scene):
    kept = np.array([t for t in range(80) if t not in (10, 11) and not 34 <= t < 44])
    write_wham(scene, people={3: ((0, 0, 0), kept)})
    made, _, clips = scene.imported("wham")
    places = made.found["act.one"].clips
    assert [round(place["start"] * 25) for place in places.values()] == [0, 45]  # the next frame at 20 a second
    assert any("the results lack the person for 0." in note for note in made.found["act.one"].notes)
    for clip_id, (clip, own) in clips.items():
        true = scene.film.at(places[clip_id]["start"], clip.length)
        assert np.median(np.abs(own - true)) < 1e-3
        assert np.abs(own - true).max() < 0.02


def test_results_at_another_rate_are_refused_until_the_rate_is_given(scene):
    write_motionbert(scene, slice(0, 80, 2))
    with pytest.raises(DatasetError, match=r"each of the 80 frames of the video, found 40.*about 12.*lifter.fps=RATE"):
        scene.imported("motionbert", focal=DIAGONAL)
    _, _, clips = scene.imported("motionbert", focal=DIAGONAL, **{"lifter.fps": 12.5})
    clip, own = clips["act.one_0"]
    assert np.abs(own - scene.film.at(0.0, clip.length))[:, 0, :2].max() < 0.05


def test_people_whom_mediapipe_does_not_see_have_the_keypoints_and_the_lifters_motion(scene, monkeypatch):
    """Of two in view, without track ids and in any order, each has his own motion; captions may be one's alone."""
    monkeypatch.setattr(watch, "engine", lambda *, following: lambda picture: None)
    coco = [0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28]
    away, rows = 1.2, []
    for t, points in enumerate(scene.film.pixels[:, coco]):
        shift = np.array((away * DIAGONAL / scene.film.seen[t, 0, 2], 0))
        for person in (points - shift, points + shift)[:: -1 if t % 3 else 1]:
            rows.append(
                {"image_id": t, "keypoints": np.pad(person, ((0, 0), (0, 1)), constant_values=1).ravel().tolist()}
            )
    (scene.root / "found/act.one.json").write_text(json.dumps(rows))
    (scene.root / "captions.txt").write_text("act.one\ta person moves.\nact.one_p1\ta person moves right.\n")
    write_wham(scene, people={0: ((away, 0, 0), slice(0, 80)), 3: ((-away, 0, 0), slice(0, 80))})
    _, done, clips = scene.imported("wham", format="coco", person="all")
    assert done.left_out == {}
    assert [clip.texts for clip, _ in clips.values()] == [("a person moves.",), ("a person moves right.",)]
    for (clip_id, (clip, own)), offset in zip(sorted(clips.items()), (-away, away), strict=True):
        assert clip_id == f"act.one_p{int(offset > 0)}_0"
        assert np.abs(own - scene.film.at(0.0, clip.length) - np.array((offset, 0, 0))).max() < 1e-3


def test_results_of_another_version_of_the_video_are_refused_though_their_frames_are_fewer(scene):
    """Numbers of frames that are no more than the video's fit any lower rate; the keypoints show that they are late."""
    for frames, shown in (
        (slice(0, 80, 2), r"at 12.5 entries a second.*lifter.fps=12.5"),
        (slice(12, 80), "0.50 s la"),
    ):
        write_wham(scene, people={3: ((0, 0, 0), frames)})
        content = pickles.read(str(place := scene.root / "results/act.one/wham_output.pkl"))
        people = {3: {name: pickles.numbers(part) for name, part in content[3].items()}}
        people[3]["frame_ids"] = np.arange(len(people[3]["pose"]))
        joblib.dump(people, place)
        with pytest.raises(DatasetError, match=shown):
            scene.imported("wham")
        if frames.step:
            _, _, clips = scene.imported("wham", **{"lifter.fps": 12.5})
            ((clip, own),) = clips.values()
            assert clip.length > 60
            assert np.abs(own - scene.film.at(0.0, clip.length)).max() < 0.02


def test_a_result_whose_name_was_cut_at_a_dot_is_of_one_video_or_of_none(scene):
    for folder, ending in (("videos", "gif"), ("found", "npz")):
        shutil.copy(scene.root / folder / f"act.one.{ending}", scene.root / folder / f"act.two.{ending}")
    (scene.root / "captions.txt").write_text("act.one\ta person moves.\nact.two\ta person moves.\n")
    place = write_wham(scene, "act")
    with pytest.raises(DatasetError, match=r"expected act.one.npz or act.one/wham_output.npz or .*pkl, found none"):
        scene.imported("wham")
    shutil.copytree(place.parent, scene.root / "results" / "act.two")
    _, done, clips = scene.imported("wham")
    assert list(clips) == ["act.two_0"]
    assert any(key.endswith("results/act/wham_output.pkl") for key in done.left_out)
    with pytest.raises(PluginError, match=r"lifter 'wahm': expected one of .*wham"):
        scene.importer("wahm")
    (scene.root / "videos/act.one.gif").unlink()  # of one video both names: its own goes first
    _, _, clips = scene.imported("wham", "alone")
    assert list(clips) == ["act.two_0"]


def test_every_video_and_every_result_is_used_or_named_and_nothing_is_watched_in_vain(scene, monkeypatch):
    write_source(scene.root / "more", dict.fromkeys(("lost", "twice", "torn", "evil"), scene.film))
    for folder in ("videos", "found"):
        for place in (scene.root / "more" / folder).iterdir():
            shutil.copy(place, scene.root / folder / place.name)
    names = ("act.one", "lost", "twice", "torn", "evil")
    (scene.root / "captions.txt").write_text("".join(f"{name}\ta person moves.\n" for name in names))
    good = write_wham(scene)
    for video in ("twice", "torn", "evil", "nobody"):
        (scene.root / "results" / video).mkdir()
        shutil.copy(good, scene.root / "results" / video / good.name)
    np.savez(scene.root / "results" / "twice.npz", joints=scene.film.seen)
    (scene.root / "results" / "torn" / good.name).write_bytes(good.read_bytes()[:900])
    joblib.dump({0: tools.Harmful()}, scene.root / "results" / "evil" / good.name)
    watched = []
    real = video_importer.watch
    monkeypatch.setattr(video_importer, "watch", lambda video, *more: watched.append(video.path) or real(video, *more))
    _, done, clips = scene.imported("wham")
    assert [place.rpartition("/")[2] for place in watched] == ["act.one.gif"]
    assert list(clips) == ["act.one_0"]
    said = {key.rpartition("results/")[2]: value for key, value in done.left_out.items()}
    assert "expected lost.npz or lost/wham_output.npz or lost/wham_output.pkl, found none" in said["lost.gif"]
    assert "expected one result of the video twice, found twice.npz and twice/wham_output.pkl" in said["twice.gif"]
    assert "torn/wham_output.pkl: expected" in said["torn.gif"]
    assert "found the name builtins.print" in said["evil.gif"]
    assert "expected a video named nobody, found none" in said["nobody/wham_output.pkl"]
    assert set(said) == {"lost.gif", "twice.gif", "torn.gif", "evil.gif", "nobody/wham_output.pkl"}
    watched.clear()
    shutil.rmtree(good.parent)
    with pytest.raises(DatasetError, match=r"found none that can be used. The first: .*Run wham on the video act.one"):
        scene.imported("wham", "other")
    assert not watched


def test_two_people_who_fit_equally_well_are_not_guessed(scene):
    write_wham(scene, people={0: ((0, 0, 0), slice(0, 80)), 3: ((0, 0, 0), slice(0, 80))})
    with pytest.raises(DatasetError, match=r"to be the watched one, found person 0 and person 3, who fit equally well"):
        scene.imported("wham")
    write_wham(scene, people={0: ((1.5, 0, 0), slice(0, 80))})
    with pytest.raises(DatasetError, match=r"found the nearest, person 0, fits by 0.0"):
        scene.imported("wham")


def test_each_of_two_people_gets_his_own_and_none_gets_a_motion_that_may_be_either_ones(scene):
    """With tracks of place, by place; a tool's only motion without a place fits two who move alike."""
    video = SimpleNamespace(path="", scale=np.ones(2), size=SIZE)
    offsets = np.array(((0.0, 0, 0), (1.5, 0, 0)))
    joints = [torch.from_numpy(scene.film.seen + offset) for offset in offsets]
    lens = torch.tensor(((DIAGONAL, 0, 160), (0, DIAGONAL, 120), (0, 0, 1)), dtype=torch.float64)
    pixels = [to_pixels(one[..., :2] / one[..., 2:], lens) for one in joints]
    seen = [Stretch(0.0, one, torch.ones(one.shape[:2]), torch.zeros(80, 22, 3)) for one in pixels]
    tracks = [Person(f"person {n}", np.arange(80), joints[n], lens=lens, placed=True) for n in (1, 0)]
    found = given_to([*seen, seen[0]], tracks, video, 25.0, 25.0, "file")
    assert [parts[0].lifted.name for parts, _ in found] == ["person 0", "person 1", "person 0"]
    only = dataclasses.replace(tracks[0], lens=None, placed=False)
    for parts, notes in given_to(seen, [only], video, 25.0, 25.0, "file"):
        assert not parts
        assert "one of two who were watched at the same time" in notes[0]
    assert given_to(seen[:1], [only], video, 25.0, 25.0, "file")[0][0]


def test_pickles_are_taken_apart_without_running_what_they_name(tmp_path, capsys):
    values = {"c": np.arange(6.0).reshape(2, 3), "f": np.asfortranarray(np.arange(6.0).reshape(2, 3)), "n": np.int64(3)}
    values |= {"big": np.array([1, 2], ">f4"), "list": [np.ones(2), np.zeros(2)], "tensor": torch.ones(2), "word": "a"}
    place = tmp_path / "a.pkl"
    dumps = [lambda v, way=way: joblib.dump(v, place, compress=way) for way in (0, 3)]
    dumps += [lambda v, way=way: place.write_bytes(pickle.dumps(v, way)) for way in (2, 4, 5)]
    for dump in dumps:
        dump(values)
        found = pickles.read(str(place))
        for key in ("c", "f", "n", "big", "list"):
            assert np.array_equal(pickles.numbers(found[key]), np.asarray(values[key], np.float32))
        assert found["word"] == "a"
        with pytest.raises(ValueError, match="in the place of numbers"):
            pickles.numbers(found["tensor"])
        dump([tools.Harmful()])
        with pytest.raises(DatasetError, match=r"found the name .*builtin.*print"):
            pickles.read(str(place))
        dump({"a": np.array([{}, None], object)})
        with pytest.raises((DatasetError, ValueError)):
            pickles.numbers(pickles.read(str(place))["a"])
    assert capsys.readouterr().out == ""


# A second teacher for a finished set


def test_a_finished_set_gets_a_second_lifters_teachers_and_stays_as_it_is(scene, monkeypatch, capsys):
    root, out = scene.root, str(scene.root / "out")
    plain = VideoImporter(
        str(root / "videos"),
        ImportOptions(
            captions=str(root / "captions.txt"),
            extra={"detections": str(root / "found"), "format": "blazepose", "focal": "400"},
        ),
    )
    import_videos(plain, out, "")
    capsys.readouterr()
    words = ["data", "relift", out, "--lifter", "wham", "--option", f"results={root / 'results'}"]
    words += ["--option", f"smpl={root / 'models'}"]
    assert cli.main(words) == 1
    assert "out: expected results of its clips, found none. The first: " in capsys.readouterr().err
    with pytest.raises(ConfigError, match="option results=nowhere: expected a folder, found none"):
        relift(out, "wham", {"results": "nowhere"})
    write_phalp(scene)  # whom it takes for two people, one after the other, has no teacher, and nothing is left behind
    with pytest.raises(DatasetError, match=r"one person for all of act.one_0, found track 1 and then track 7"):
        relift(out, "phalp", {"results": str(root / "results"), "smpl": str(root / "models")})
    assert not (root / "out/lifters").exists()
    film = root / "videos/act.one.gif"
    film.rename(away := root / "away.gif")
    write_wham(scene)
    with pytest.raises(DatasetError, match=r"found none. The first: .*the video that .*videos.json names, found none"):
        relift(out, "wham", {"results": str(root / "results"), "smpl": str(root / "models")})
    away.rename(film)
    before = {str(p): p.read_bytes() for p in (root / "out").rglob("*") if p.is_file()}
    assert cli.main(words) == 0
    assert f"train --arm 2d --clips {out} --lifter wham" in capsys.readouterr().out
    assert {place: (root / place).read_bytes() for place in before} == before
    place = with_lifter(out, "wham")
    card, old = read_card(place), read_card(out)
    assert (place, card.lifter, card.counts) == (f"{out}/lifters/wham", "wham", old.counts)
    (one,), (other,) = (read_folder(where, "train")[1] for where in (place, out))
    assert np.abs(in_camera(one.teacher, one.extrinsics) - scene.film.at(0.0, one.length)).max() < 2e-3
    for part in ("keypoints", "confidence"):
        assert np.array_equal(getattr(one, part), getattr(other, part))
    texts = [(root / "out" / where / "texts" / f"{one.id}.txt").read_bytes() for where in (".", "lifters/wham")]
    assert texts[0] == texts[1]
    assert card.identity not in ("", old.identity)
    for where in (place, out):
        seal.verify(where, thorough=True)
    assert cli.main([*words[:-1], words[-1]]) == 0  # again: the same set
    assert read_card(place).identity == card.identity
    ran = []
    monkeypatch.setattr(training.run, "main", lambda given: ran.append(given) or 0)
    assert cli.main(["train", "--clips", out, "--lifter", "wham", "--num_steps", "1"]) == 0
    assert ran[0][-2:] == ["--clips", place]
    assert cli.main(["data", "refine", out, "--lifter", "wham"]) == 0
    assert (root / "out/lifters/wham/refined/wham" / f"{one.id}.npz").exists()
    assert not (root / "out/refined").exists()
    capsys.readouterr()
    cli.main(["data", "check", out])
    assert f"of wham are a data set of their own: videomdm data check {place}." in capsys.readouterr().out
    cli.main(["data", "check", place])
    assert "a data set of their own" not in capsys.readouterr().out
    assert cli.main(["train", "--clips", out, "--lifter", "gvhmr"]) == 1
    assert "expected one whose teachers" in (said := capsys.readouterr().err)
    assert "mediapipe, wham, found another" in said
    (root / "out" / "texts" / f"{one.id}.txt").write_text("a person jumps.#a/DET person/NOUN#0.0#0.0\n")
    seal.accept(out)
    with pytest.raises(DatasetError, match="expected teachers made for the data set"):
        with_lifter(out, "wham")


def test_clips_of_any_set_are_found_by_their_ids_and_those_without_a_result_are_named(tmp_path):
    made = {name: make_clip(name=name) for name in ("walk", "dance_a", "jump")}
    write_folder(str(tmp_path / "set"), {"train": [made["walk"], made["dance_a"]], "test": [made["jump"]]}, CARD)
    (tmp_path / "results").mkdir()
    for name in ("walk", "jump"):
        seen = in_camera(made[name].teacher, made[name].extrinsics)
        np.save(tmp_path / "results" / f"{made[name].id}.npy", 0.5 * seen)
    options = {"results": str(tmp_path / "results"), "units": "m", "root": "relative", "scale": "arbitrary"}
    card, place, left_out = relift(str(tmp_path / "set"), "joints", options)
    assert card.counts == {"train": 1, "test": 1}
    assert set(left_out) == {made["dance_a"].id}
    assert "expected dance_a_0.npy or dance_a_0.npz, found none" in left_out[made["dance_a"].id]
    clip = read_clip(place, card, made["walk"].id)
    assert clip.texts == made["walk"].texts
    assert np.array_equal(clip.truth, made["walk"].truth)
    assert card.lifter_error["pa_mpjpe"] < 0.02
