"""The page needs nothing else, holds the motions, shows what a camera saw where it saw it, and plays."""

import base64
import dataclasses
import hashlib
import io
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browser import CHROMIUM, SOFTWARE_3D, Browser, browsing, content_of
from clips import camera, make_clip, motion
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from people import random_motion
from PIL import Image

from videomdm_ext.errors import ConfigError
from videomdm_ext.geometry import cameras
from videomdm_ext.motion.features import decode
from videomdm_ext.motion.kinematics import contacts
from videomdm_ext.motion.skeletons import NBA16, SMPL22
from videomdm_ext.render import page as pages
from videomdm_ext.render.footage import Footage, footage
from videomdm_ext.render.page import Scene, Track, View, clip_scene, content, fitting, page

HOSTILE = 'a man <script>alert(1)</script> & "walks" </script><!-- <img src=x onerror=alert(2)> {{title}}'
WALK = motion("walk")[:40].numpy()
browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
SMALL = {"width": 860, "height": 600}
"""A window, as wide as the least that is no phone; the less there is to draw, the faster."""
HALF_MILLIMETRE = 0.0005001


def seen_walk() -> Scene:
    """-> two tracks of 40 and 30 frames, the first one seen without error by a camera that moves."""
    extrinsics = camera(len(WALK))
    points = cameras.project(torch.from_numpy(WALK), extrinsics)[0].numpy().copy()
    confidence = np.ones(points.shape[:-1])
    confidence[:, 5], points[:, 5] = 0, np.nan
    tracks = [Track.of("truth", WALK, SMPL22), Track.of("teacher", WALK[:30] + 0.1, SMPL22)]
    footage = Footage([np.full((48, 64, 3), (12 * at, 0, 200), np.uint8) for at in range(20)], (-2.0, -2.0, 2.0, 2.0))
    view = View(extrinsics.numpy(), points, confidence, footage, "truth")
    return Scene(HOSTILE, tracks, view, "what it is", "a heading")


def standing() -> NDArray[np.float64]:
    """-> a person who faces +z, left towards +x: positions [4, 22, 3], m."""
    pose = np.zeros((22, 3))
    for joint, parent in enumerate(SMPL22.parents):
        if parent >= 0:
            pose[joint] = pose[parent] + 0.15 * np.array(SMPL22.rest_directions[joint])
    pose[:, 1] -= pose[:, 1].min()
    return np.tile(pose, (4, 1, 1))


SCENES = (
    seen_walk(),
    Scene("a person stands.", [Track("2d", standing(), np.zeros((4, 4)), seed) for seed in (0, 2)], group="another"),
)


class Elements(HTMLParser):
    """Elements with their attributes, and the text outside scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.inside = "", ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self.inside = tag

    def handle_data(self, data: str) -> None:
        self.text += "" if self.inside in ("script", "style") else data


def scripts(text: str) -> list[str]:
    return re.findall(r"<script>(.*?)</script>", text, re.DOTALL)


def unpacked(text: str, kind: str) -> NDArray[Any]:
    return np.frombuffer(base64.b64decode(text), kind)


def placed(stored: dict[str, Any], joints: int = 22) -> NDArray[np.float64]:
    """-> positions [T, J, 3] of a stored track, m."""
    units = unpacked(stored["positions"], "<i2").reshape(-1, joints, 3).astype(float)
    return np.where(units == -32768, np.nan, units * stored["unit"] + stored["origin"])


def test_the_page_loads_nothing_and_may_run_its_own_scripts_alone() -> None:
    text = page(SCENES, SMPL22, 20.0, HOSTILE)
    found = Elements(text).found
    places = [v for _, a in found for k, v in a.items() if k in ("src", "href", "data", "action", "srcset")]
    assert all(place and place.startswith("data:,") for place in places)
    policy = next(a["content"] or "" for tag, a in found if a.get("http-equiv"))
    assert policy.startswith("default-src 'none'")
    allowed = re.search(r"script-src ([^;]*)", policy)
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts(text)]
    assert allowed
    assert allowed.group(1) == " ".join(f"'sha256-{digest}'" for digest in digests)
    ours = "".join(scripts(text)[1:]) + text.split("<style>")[1].split("</style>")[0]
    assert not re.search(r"https?:|url\(|@import|fetch\(|XMLHttpRequest|import\(|innerHTML", ours)


def test_what_others_wrote_is_shown_and_never_run() -> None:
    scene = Scene(HOSTILE, [Track(HOSTILE, WALK)])
    text = page([scene], SMPL22, 20.0, HOSTILE)
    found = Elements(text)
    assert [tag for tag, _ in found.found].count("script") == 1 + len(pages.SCRIPTS)
    assert not any(tag == "img" or name.startswith("on") for tag, a in found.found for name in a)
    assert found.text.count(HOSTILE) == 2
    stored = content_of(text)["scenes"][0]
    assert (stored["caption"], stored["tracks"][0]["name"]) == (HOSTILE, HOSTILE)


@given(st.integers(0, 2**32 - 1), st.sampled_from([SMPL22, NBA16]), st.floats(-100, 100))
def test_positions_are_kept_to_half_a_millimetre_wherever_they_are(seed: int, skeleton: Any, away: float) -> None:
    positions = random_motion(skeleton, (), 5, torch.Generator().manual_seed(seed)).numpy() + away
    (stored,) = content([Scene("", [Track("", positions)])], skeleton, 20.0)["scenes"][0]["tracks"]
    np.testing.assert_allclose(placed(stored, skeleton.num_joints), positions, atol=HALF_MILLIMETRE)


def test_a_way_of_a_kilometre_is_kept_in_larger_units_and_what_is_not_finite_is_missing() -> None:
    positions = np.tile(WALK[:1], (3, 1, 1)).astype(float)
    positions[2, :, 0] += 1000
    positions[1, 3] = (np.nan, np.inf, 1)
    (stored,) = content([Scene("", [Track("", positions)])], SMPL22, 20.0)["scenes"][0]["tracks"]
    found = placed(stored)
    positions[1, 3, 1] = np.nan
    np.testing.assert_allclose(found, positions, atol=0.01)


def test_the_content_tells_sides_feet_contacts_and_what_the_camera_saw() -> None:
    scene = seen_walk()
    stored = content([scene], SMPL22, 25.0)
    sides = dict(zip(SMPL22.joints, stored["sides"], strict=True))
    assert (sides["l_knee"], sides["r_wrist"], sides["head"]) == ("left", "right", "middle")
    assert [SMPL22.joints[foot] for foot in stored["feet"]] == list(SMPL22.contacts)
    assert (SMPL22.joints[stored["head"]], stored["fps"]) == ("head", 25.0)
    touch = unpacked(stored["scenes"][0]["tracks"][0]["contacts"], "u1").reshape(-1, 4)
    expected = contacts(torch.from_numpy(WALK), SMPL22).numpy()
    np.testing.assert_array_equal(touch[:-1], expected)
    np.testing.assert_array_equal(touch[-1], expected[-1])
    assert scene.view
    view = stored["scenes"][0]["view"]
    np.testing.assert_array_equal(unpacked(view["extrinsics"], "<f4").reshape(-1, 3, 4), scene.view.extrinsics)
    points = unpacked(view["keypoints"], "<f4").reshape(-1, 22, 2)
    known = scene.view.confidence > 0
    np.testing.assert_array_equal(points[known], scene.view.keypoints[known])
    np.testing.assert_array_equal(unpacked(view["confidence"], "u1").reshape(-1, 22), 255 * known)


@pytest.mark.parametrize(
    ("scene", "said"),
    [
        (Scene("run", [Track("2d", WALK[:, :21])]), r"positions of '2d'.*\[40, 22, 3\], found \[40, 21, 3\]"),
        (Scene("run", [Track("2d", WALK[:0])]), r"positions of '2d'.*\[1, 22, 3\], found \[0, 22, 3\]"),
    ],
)
def test_a_wrong_shape_is_refused_by_name(scene: Scene, said: str) -> None:
    with pytest.raises(ConfigError, match=rf"(?s)'run'.*{said}"):
        page([scene], SMPL22, 20.0, "")
    with pytest.raises(ConfigError, match="at least one scene"):
        page([], SMPL22, 20.0, "")


def test_pictures_of_a_video_are_made_smaller_and_then_left_out_to_keep_the_page_small(monkeypatch):
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    tracks, view = seen_walk().tracks, seen_walk().view
    assert view
    view = dataclasses.replace(view, footage=Footage([noise] * 8, (0, 0, 1, 1)))
    scenes = [Scene("", tracks, view), Scene("", tracks, view)]
    plain = Scene("", tracks, dataclasses.replace(view, footage=""))
    whole, bare = (len(page(each, SMPL22, 20.0, "")) for each in (scenes, [plain] * 2))
    notes = []
    for share in (0.5, 0.05):
        most = bare + round(share * (whole - bare))
        monkeypatch.setattr(pages, "MOST", most)
        text = page(scenes, SMPL22, 20.0, "")
        stored = content_of(text)["scenes"]
        notes.append([scene["view"]["footage"]["note"] for scene in stored])
        assert len(text) < most + 2_000
    assert all(re.match("Of [246]+ frames one is kept", note) for note in notes[0])
    assert notes[1] == ["The video is left out, so that the page stays small."] * 2
    assert len(fitting(scenes, 1)) == 1
    assert len(fitting(scenes, 10**7)) == 2


def test_footage_is_cut_about_the_person_from_the_video_that_a_set_names(tmp_path: Path) -> None:
    size, focal, start = (80, 60), 40.0, 0.5
    lens = np.array(((focal, 0, 40), (0, focal, 30), (0, 0, 1)), np.float32)
    clip = dataclasses.replace(make_clip(), fps=20.0, intrinsics=lens, image_size=size)
    points = np.zeros_like(clip.keypoints)
    points[:, 1] = (0.25, 0.25)
    clip = dataclasses.replace(clip, id="c", keypoints=points, confidence=np.ones_like(clip.confidence))
    assert footage(str(tmp_path), clip) == ""
    images = [Image.fromarray(np.full((60, 80, 3), 4 * at, np.uint8)) for at in range(60)]
    (tmp_path / "films").mkdir()
    images[0].save(tmp_path / "films" / "v.gif", save_all=True, append_images=images[1:], duration=50)
    place = {"video": "/nowhere/v.gif", "start": start, "frames": clip.length, "error_pixels": 1.0, "confidence": 1.0}
    facts = {
        "videos": {"v": {"clips": {"c": place}, "focal": 1.0, "focal_told_by": "given", "notes": []}},
        "left_out": {},
    }
    (tmp_path / "videos.json").write_text(json.dumps(facts), encoding="utf-8")
    found = footage(str(tmp_path), clip)
    assert isinstance(found, Footage)
    room = 0.35 * 10
    corners = np.array(found.box) * focal + (40, 30, 40, 30)
    np.testing.assert_allclose(corners, (40 - room, 30 - room, 50 + room, 40 + room), atol=1.0)
    shades = [int(picture.mean()) for picture in found.pictures]
    expected = [4 * (10 + 2 * at) for at in range(len(shades))]
    np.testing.assert_allclose(shades, expected, atol=4.5)  # within a frame
    by_stem = dataclasses.replace(clip, id="v")
    assert isinstance(footage(str(tmp_path), by_stem), Footage)
    assert "names no video of other" in str(footage(str(tmp_path), dataclasses.replace(clip, id="other")))
    (tmp_path / "films" / "v.gif").unlink()
    assert str(footage(str(tmp_path), clip)).startswith("v.gif: expected a video file, found none")


def test_three_js_is_the_file_that_its_notice_names() -> None:
    digest = hashlib.sha256(files(pages.__package__).joinpath("page", "three.min.js").read_bytes()).hexdigest()
    notices = Path(__file__).parents[2] / "third_party" / "three"
    assert digest in (notices / "README.md").read_text(encoding="utf-8")
    assert "Permission is hereby granted" in (notices / "LICENSE.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("moving", [False, True])
def test_motions_of_a_clip_are_in_one_frame_and_seen_as_their_own_cameras_see_them(moving: bool) -> None:
    clip = make_clip(moving=moving)
    turned, away = torch.tensor(0.5), torch.tensor((1.0, 0.0, 2.0))  # the frames of truth and teacher are not alike
    own = torch.from_numpy(np.asarray(clip.truth_extrinsics))
    other = cameras.reexpress(own, turned.expand(own.shape[:-2]), away.expand(*own.shape[:-2], 3))
    clip = dataclasses.replace(clip, truth_extrinsics=other.numpy())
    scene = clip_scene(clip, more=[Track("lifted", decode(torch.from_numpy(clip.teacher), SMPL22).numpy())])
    assert [track.name for track in scene.tracks] == ["truth", "teacher", "lifted"]
    assert scene.view
    shared = torch.from_numpy(scene.view.extrinsics).reshape(-1, 3, 4).double()
    for track, features, extrinsics in zip(
        scene.tracks,
        (clip.truth, clip.teacher, clip.teacher),
        (clip.truth_extrinsics, clip.extrinsics, clip.extrinsics),
        strict=True,
    ):
        found = cameras.to_camera(torch.from_numpy(track.positions).double(), shared)
        decoded = decode(torch.from_numpy(np.asarray(features)), SMPL22)
        expected = cameras.to_camera(decoded, torch.from_numpy(np.asarray(extrinsics)).reshape(-1, 3, 4))
        torch.testing.assert_close(found.float(), expected, atol=1e-4, rtol=0)
    np.testing.assert_allclose(scene.tracks[0].positions[0, 0, ::2], 0, atol=1e-6)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsing(tmp_path_factory.mktemp("profile"), *SOFTWARE_3D) as found:
        yield found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """-> a page with a seen walk and a person who stands."""
    found = tmp_path_factory.mktemp("page") / "view.html"
    found.write_text(page(SCENES, SMPL22, 20.0, HOSTILE), encoding="utf-8")
    return found


VIEWER = "document.getElementById('viewer')"
DRAWN = (
    f"new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done({{...{VIEWER}.dataset}}))))"
)
FRAMES = f"""new Promise((done) => {{
  const frames = new Set();
  const watch = () => {{
    frames.add({VIEWER}.dataset.frame);
    if (frames.size > 3) done(frames.size); else requestAnimationFrame(watch);
  }};
  watch();
  setTimeout(() => done(0), 8000);
}})"""
BOX = """(() => {
  const { x, y, width, height } = document.querySelector("[data-part=canvas]").getBoundingClientRect();
  return [x, y, x + width, y + height].map(Math.round);
})()"""


def stage(shown: Browser) -> NDArray[np.float64]:
    """-> the 3D picture [height, width, 3] as a person sees it, 0 to 255."""
    shown.evaluate(DRAWN)
    image = Image.open(io.BytesIO(shown.picture())).convert("RGB").crop(shown.evaluate(BOX))
    return np.asarray(image, np.float64)


def moved(picture: NDArray[np.float64], other: NDArray[np.float64]) -> int:
    """-> the pixels that clearly differ."""
    return int((np.abs(picture - other).max(-1) > 40).sum())


@browser
def test_it_plays_in_3d_without_a_fault(shown: Browser, place: Path) -> None:
    shown.open(place, **SMALL)
    first = stage(shown)
    assert shown.evaluate(FRAMES) == 4
    assert any(moved(stage(shown), first) > 200 for _ in range(20))
    state = shown.evaluate(DRAWN)
    assert (state["state"], state["theme"], state["shown"]) == ("playing", "light", "truth,teacher")
    assert not shown.evaluate("document.querySelector('[data-part=sorry]').checkVisibility()")
    assert shown.faults == []


@browser
def test_keys_step_choose_show_and_hide(shown: Browser, place: Path) -> None:
    shown.open(place, **SMALL, calm=True)
    frames = []
    for key, shift in (("Home", False), ("ArrowRight", False), ("ArrowRight", False), ("ArrowLeft", False),
                       ("ArrowRight", True), ("End", False)):  # fmt: skip
        shown.press(key, shift=shift)
        frames.append(int(shown.evaluate(DRAWN)["frame"]))
    assert frames == [0, 1, 2, 1, 11, 39]
    found = []
    for key in "  1122lcdcn":  # play, pause, twice off and on, overlaid, camera, dark, free, next
        shown.press(key)
        found.append(shown.evaluate(DRAWN))
    assert [found[0]["state"], found[1]["state"], found[-1]["scene"]] == ["playing", "paused", "1"]
    assert [state["shown"] for state in found[2:6]] == ["teacher", "truth,teacher", "truth", "truth,teacher"]
    assert (found[6]["layout"], found[7]["camera"], found[8]["theme"]) == ("overlaid", "own", "dark")
    assert (found[9]["camera"], found[10]["shown"]) == ("free", "2d")
    assert shown.faults == []


@browser
def test_the_picture_shows_points_where_the_camera_projects_them(shown: Browser, place: Path) -> None:
    shown.open(place, **SMALL, calm=True)
    assert seen_walk().view
    extrinsics = camera(len(WALK))
    for frame in (0, 11):
        if frame:
            shown.press("ArrowRight", shift=True)
            shown.press("ArrowRight")
        found = json.loads(shown.evaluate(DRAWN)["points"])
        for name, away in (("truth", 0.0), ("teacher", 0.1)):
            points, depth = cameras.project(torch.from_numpy(WALK[frame]) + away, extrinsics[frame])
            expected = torch.cat((points, depth.unsqueeze(-1)), -1).numpy()
            np.testing.assert_allclose(np.array(found[name])[:, :2], expected[:, :2], atol=5e-4)  # half a millimetre
            np.testing.assert_allclose(np.array(found[name])[:, 2], expected[:, 2], atol=2e-3)
    rows = shown.evaluate("document.querySelector('[data-part=misfits]').innerText").split("\n")
    said = [row.split("\t") for row in rows]
    assert said[0][0] == "truth"
    assert (said[0][1] in "01", said[0][2:]) == (True, ["\u2013"] * 2)
    known = torch.arange(22) != 5
    true, _ = cameras.project(torch.from_numpy(WALK[11]), extrinsics[11])
    points, depth = cameras.project(torch.from_numpy(WALK[11]) + 0.1, extrinsics[11])
    off = (depth * torch.linalg.vector_norm(points - true, dim=-1))[known].mean().item()
    assert abs(int(said[1][1]) - 1000 * off) <= 2
    ray = cameras.to_camera(torch.from_numpy(WALK[11, :1]), extrinsics[11])[0]
    away = extrinsics[11, :, :3].sum(1) * 0.1
    assert abs(int(said[1][2]) - 1000 * (away @ ray / ray.norm()).item()) <= 1
    assert said[1][3] in ("0", "1"), "moved as a whole, its joints are right beside its pelvis"


PIXEL = """(() => {
  const canvas = document.querySelector("[data-part=picture]"), { width, height } = canvas;
  return [...canvas.getContext("2d").getImageData(2, 2, 1, 1).data];
})()"""


@browser
def test_the_video_lies_under_the_picture_and_goes_along_with_it(shown: Browser, place: Path) -> None:
    shown.open(place, **SMALL, calm=True)
    shown.evaluate("Promise.all(Viewer.stored.scenes[0].view.footage.pictures.map((image) => image.decode()))")
    for steps in (0, 1, 2):
        for _ in range(min(steps, 1)):
            shown.press("ArrowRight", shift=True)
        shown.evaluate(DRAWN)
        np.testing.assert_allclose(shown.evaluate(PIXEL), (60 * steps, 0, 200, 255), atol=12)
    shown.press("n")
    assert not shown.evaluate("document.querySelector('[data-part=seen]').checkVisibility()")


@browser
def test_errors_in_depth_are_measured_along_the_rays_beside_the_pelvis(shown: Browser, place: Path) -> None:
    shown.open(place, **SMALL, calm=True)
    true = torch.from_numpy(WALK[3]).double()
    pose = true + 0.2 * torch.randn(true.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrix = camera(1)[0].double()
    numbers = json.dumps([values.flatten().tolist() for values in (pose, true, matrix)])
    found = shown.evaluate(f"Picture.depthErrors(...{numbers}.map((values) => Float32Array.from(values)))")
    beside, seen = true + pose[0] - true[0], cameras.to_camera(pose, matrix)
    off = (seen - cameras.to_camera(beside, matrix)) * torch.nn.functional.normalize(seen, dim=-1)
    np.testing.assert_allclose([part["off"] for part in found["parts"]], off.sum(-1)[1:], atol=1e-5)
    assert abs(found["mean"] - off.sum(-1)[1:].abs().mean()) < 1e-5
    known = cameras.to_camera(true, matrix)[0]
    assert abs(found["pelvis"] - (seen[0] - known) @ known / known.norm()) < 1e-5
    on = torch.tensor([part["on"] for part in found["parts"]], dtype=torch.float64)
    ahead, before = cameras.project(on, matrix)[0], cameras.project(pose[1:], matrix)[0]
    np.testing.assert_allclose(ahead, before, atol=1e-5)
    sides = []
    for key in ("e", "c", "n"):
        shown.press(key)
        sides.append([shown.evaluate(DRAWN)[name] for name in ("depth", "camera")])
    assert sides == [["on", "free"], ["on", "own"], ["off", "free"]]
    assert shown.faults == []


@browser
def test_captions_have_headings_and_arms_are_shown_of_one_seed_at_a_time(shown: Browser, place: Path) -> None:
    shown.open(place, **SMALL, calm=True)
    headings = "[...document.querySelectorAll('nav li.group')].map((one) => one.textContent)"
    assert shown.evaluate(headings) == ["a heading", "another"]
    assert shown.evaluate("document.querySelector('[data-part=note]').textContent") == "what it is"
    assert not shown.evaluate("document.querySelector('[data-part=seed]').checkVisibility()")
    shown.press("n")
    assert shown.evaluate(DRAWN)["shown"] == "2d"
    select = "document.querySelector('[data-part=seed]')"
    shown.evaluate(f"({select}.value = '2', {select}.dispatchEvent(new Event('change')))")
    assert (shown.evaluate(f"{select}.value"), shown.evaluate(DRAWN)["shown"]) == ("2", "2d")
    assert shown.faults == []


LENS = """(([matrix, pose, box]) => {
  const own = Float32Array.from(matrix), fitted = Picture.fit({ u: 0.05, v: -0.1, width: 0.7, height: 0.6 }, box);
  const lens = new THREE.PerspectiveCamera();
  Figures.lookThrough(lens, own, fitted);
  lens.updateMatrixWorld();
  return Picture.project(pose.flat(), own).map(([u, v], joint) => {
    const { x, y, z } = new THREE.Vector3(...pose[joint]).project(lens);
    return [u, v, (fitted.left + fitted.right) / 2 + x * (fitted.right - fitted.left) / 2,
      (fitted.top + fitted.bottom) / 2 - y * (fitted.bottom - fitted.top) / 2, z];
  });
})"""


@browser
def test_looking_through_the_camera_shows_the_motion_where_the_picture_does(shown: Browser, place: Path) -> None:
    shown.open(place, **SMALL, calm=True)
    extrinsics = camera(len(WALK))[20]
    given_ = [extrinsics.flatten().tolist(), WALK[20].tolist(), {"x": 0, "y": 0, "width": 300, "height": 500}]
    found = np.array(shown.evaluate(f"{LENS}({json.dumps(given_)})"))
    expected = cameras.project(torch.from_numpy(WALK[20]), extrinsics)[0].numpy()
    np.testing.assert_allclose(found[:, :2], expected, atol=1e-5)
    np.testing.assert_allclose(found[:, 2:4], expected, atol=1e-5)
    assert (np.abs(found[:, 4]) < 1).all()


def middle(image: NDArray[np.float64], colour: str) -> tuple[float, float]:
    """-> where the pixels of a hue are, as shares of width and height."""
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    is_there = {"left": blue - red > 60, "right": (red - blue > 80) & (red - green > 50), "touch": green - blue > 100}
    rows, columns = np.nonzero(is_there[colour] & ((colour == "touch") | (np.abs(red - green) > 30)))
    assert len(rows) > 60
    return columns.mean() / image.shape[1], rows.mean() / image.shape[0]


@browser
@pytest.mark.parametrize("dark", [False, True])
def test_left_is_left_and_up_is_up_and_dragging_turns_the_person(shown: Browser, tmp_path: Path, dark: bool) -> None:
    (tmp_path / "view.html").write_text(page(SCENES[1:], SMPL22, 20.0, "stand"), encoding="utf-8")
    shown.open(tmp_path / "view.html", width=SMALL["width"], dark=dark, calm=True)
    shown.press("t")
    image = stage(shown)
    assert middle(image, "left")[0] > middle(image, "right")[0] + 0.01
    left, top, right, bottom = shown.evaluate(BOX)
    x, y = (left + right) / 2, top + 40
    shown.drag((x, y), (x + (bottom - top) / 2, y))  # half a turn
    image = stage(shown)
    assert middle(image, "left")[0] < middle(image, "right")[0] - 0.01
    assert shown.evaluate(DRAWN)["theme"] == ("dark" if dark else "light")
    assert shown.faults == []


@browser
def test_feet_light_up_while_they_stand(shown: Browser, tmp_path: Path) -> None:
    touch = np.zeros((4, 4))
    touch[2] = 1
    scene = Scene("stand", [Track("2d", standing(), touch)])
    (tmp_path / "view.html").write_text(page([scene], SMPL22, 20.0, "stand"), encoding="utf-8")
    shown.open(tmp_path / "view.html", **SMALL, calm=True)
    shown.press("Home")
    with pytest.raises(AssertionError):
        middle(stage(shown), "touch")
    for _ in range(2):
        shown.press("ArrowRight")
    image = stage(shown)
    assert middle(image, "touch")[1] > middle(image, "left")[1]


@browser
def test_a_phone_shows_no_more_than_its_width(shown: Browser, place: Path) -> None:
    shown.open(place, width=390, calm=True)
    assert shown.evaluate("document.documentElement.scrollWidth") <= 390
    hidden = shown.evaluate("[...document.querySelectorAll('button, select, input')]"
                            ".filter((one) => one.checkVisibility() && one.getBoundingClientRect().right > 390)"
                            ".map((one) => one.outerHTML)")  # fmt: skip
    assert hidden == []
    assert shown.evaluate("document.querySelector('[data-part=toggle]').getBoundingClientRect().bottom") < 900
    whole = """(() => { const one = document.querySelector("[data-part=caption]");
        one.textContent += " and then turns around to the left (fit3d_s03_band_pull_apart_58860488_v2)";
        return one.checkVisibility() && one.offsetHeight >= one.scrollHeight; })()"""
    assert shown.evaluate(whole), "the list above cuts the id behind a caption"
    assert shown.faults == []
