"""A stand-in mesh and Anny's own on motions: read back from the file and from the page, the joints are the motion's."""

import json
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import CHROMIUM, SOFTWARE_3D, browsing
from glb_reader import skinned, taken_apart, worlds

from videomdm_ext.cli.main import main
from videomdm_ext.data.motions import load_motions
from videomdm_ext.inference.sample import write_motions
from videomdm_ext.motion import human_mesh
from videomdm_ext.motion.human_mesh import SEGMENTS, Body, build_body
from videomdm_ext.motion.kinematics import bone_lengths
from videomdm_ext.motion.skeletons import NBA16, SMPL22
from videomdm_ext.render.body import DRESS, LIMBS, RIG, RIGGED, of, regions, wear
from videomdm_ext.render.fitting import rest_offsets
from videomdm_ext.render.glb import at_rest, normals_of, to_glb
from videomdm_ext.render.page import Scene, Track, content, page

MOTIONS = {motion.name: torch.from_numpy(motion.positions).double() for motion in load_motions()}
SHOWN = ("walk", "cartwheel", "crawl", "getup_facedown")
AROUND, ALONG, RADIUS = 8, 9, 0.04
MIDDLE = {"pelvis": (0.04, 0.01), "spine1": (0.12, -0.02), "spine2": (0.19, -0.01), "spine3": (0.26, -0.01),
          "neck": (0.56, 0.01), "head": (0.66, 0.04)}  # fmt: skip
LEFT = {"hip": (0.1, 0.04, 0.01), "knee": (0.13, -0.35, 0.04), "ankle": (0.17, -0.75, 0.0), "foot": (0.15, -0.79, 0.14),
        "collar": (0.02, 0.49, 0.03), "shoulder": (0.16, 0.47, 0.02), "elbow": (0.33, 0.28, 0.02),
        "wrist": (0.45, 0.16, 0.18)}  # fmt: skip
FLOOR = -0.83
"""Of the stand-in: feet reach down to it, and a hand's length ahead of the joint."""


@cache
def stand_in():
    """A person of tubes in a relaxed pose, arms down and elbows bent."""
    joints = torch.zeros(22, 3)
    for joint, (y, z) in MIDDLE.items():
        joints[of(joint)] = torch.tensor((0.0, y, z))
    for joint, (x, y, z) in LEFT.items():
        joints[of(f"l_{joint}")], joints[of(f"r_{joint}")] = torch.tensor((x, y, z)), torch.tensor((-x, y, z))
    vertices, faces, owners = [], [], []
    for number, segment in enumerate(SEGMENTS.values()):
        start, end = joints[of(segment.start)], joints[of(segment.end)]
        way = torch.nn.functional.normalize(end - start, dim=-1)
        side = torch.linalg.cross(way, torch.tensor((0.3, 0.5, 0.8)))
        side = torch.nn.functional.normalize(side, dim=-1)
        over = torch.linalg.cross(way, side)
        if segment.rigid:
            start, end = end, end + 0.17 * way
        elif segment.end.endswith("foot"):
            end = end + 0.07 * way
        turn = 2 * torch.pi * torch.arange(AROUND) / AROUND
        flat = 0.3 if segment.rigid else 1.0  # a hand is flat
        ring = RADIUS * (turn.cos()[:, None] * side + flat * turn.sin()[:, None] * over)
        base = len(vertices) * AROUND * ALONG
        tube = torch.cat([torch.lerp(start, end, k / (ALONG - 1)) + ring for k in range(ALONG)])
        if segment.end.endswith("foot"):
            tube[:, 1] = tube[:, 1].clamp_min(FLOOR)
        vertices.append(tube)
        owners += [number] * AROUND * ALONG
        for k in range(ALONG - 1):
            for a in range(AROUND):
                one, two = base + k * AROUND + a, base + k * AROUND + (a + 1) % AROUND
                faces += [(one, two, one + AROUND), (two, two + AROUND, one + AROUND)]
    points, triangles = torch.cat(vertices), torch.tensor(faces)
    weights = torch.eye(len(SEGMENTS))[torch.tensor(owners)]
    return Body(points, normals_of(points, triangles), triangles, joints, weights)


GENERATOR = torch.Generator().manual_seed(0)
MOTIONS["noisy"] = MOTIONS["walk"] + 0.02 * torch.randn(MOTIONS["walk"].shape, generator=GENERATOR, dtype=torch.double)
"""Its bones change their lengths."""


@cache
def written(name):
    worn = wear(stand_in(), MOTIONS[name], 20.0)
    return worn, taken_apart(to_glb(worn.fitted, RIG, 20.0, name, mesh=worn.mesh, shifts=worn.shifts))


def _near_and_far(points, start, end):
    """Distances of points from the line through a bone, and how far along it they are."""
    bone = end - start
    along = ((points - start) @ bone) / (bone @ bone)
    return np.linalg.norm(points - start - along[:, None] * bone, axis=-1), along


@pytest.mark.parametrize("name", [*SHOWN, "noisy"])
def test_joints_read_back_from_the_file_are_those_of_the_motion(name):
    _, (document, read) = written(name)
    names = [node["name"] for node in document["nodes"]]
    joints = [names.index(joint) for joint in SMPL22.joints]
    for frame in range(0, len(MOTIONS[name]), 6):
        found = worlds(document, read, frame)[joints, :3, 3]
        np.testing.assert_allclose(found, MOTIONS[name][frame], atol=1e-4)
    weights = read(document["meshes"][0]["primitives"][0]["attributes"]["WEIGHTS_0"])
    assert weights.shape[1] == 4
    np.testing.assert_allclose(weights.sum(1), 1.0, atol=1e-6)


@pytest.mark.parametrize("scale", [0.7, 1.0, 1.2])
def test_the_mesh_at_rest_has_the_lengths_of_the_motion_and_stands_on_the_floor(scale):
    worn = wear(stand_in(), scale * MOTIONS["walk"], 20.0)
    rest = at_rest(worn.fitted.offsets, RIG)[RIGGED]
    wanted = torch.linalg.vector_norm(rest_offsets(scale * MOTIONS["walk"], SMPL22), dim=-1)[1:]
    assert (bone_lengths(rest[None], SMPL22)[0] - wanted).abs().max() < 1e-6
    assert float(rest[of("l_ankle"), 1] - worn.mesh.vertices[:, 1].min()) == pytest.approx(worn.heights[0], abs=1e-6)
    own = stand_in().weights.argmax(-1)
    for name in ("l_thigh", "r_upper_arm", "l_forearm"):
        segment = SEGMENTS[name]
        points = worn.mesh.vertices[own == list(SEGMENTS).index(name)].numpy()
        away, along = _near_and_far(points, *(rest[of(j)].numpy() for j in (segment.start, segment.end)))
        assert along.min() == pytest.approx(0.0, abs=1e-3)
        assert along.max() == pytest.approx(1.0, abs=1e-3)
        assert np.ptp(away) < 1e-3


@pytest.mark.parametrize("name", SHOWN)
def test_limbs_keep_their_girth_where_they_twist(name):
    worn, (document, read) = written(name)
    own = stand_in().weights.argmax(-1).numpy()
    girth = {}
    for frame in range(0, len(MOTIONS[name]), 10):
        points = skinned(document, read, frame)
        for limb in ("thigh", "upper_arm", "forearm"):
            for side in "lr":
                segment = SEGMENTS[f"{side}_{limb}"]
                ends = (MOTIONS[name][frame, of(joint)].numpy() for joint in (segment.start, segment.end))
                away, _ = _near_and_far(points[own == list(SEGMENTS).index(f"{side}_{limb}")], *ends)
                girth.setdefault(limb, []).append((away.min(), away.max()))
    rest, _ = _near_and_far(
        worn.mesh.vertices[own == list(SEGMENTS).index("l_thigh")].numpy(),
        *(at_rest(worn.fitted.offsets, RIG)[RIGGED][of(j)].numpy() for j in ("l_hip", "l_knee")),
    )
    for found in girth.values():
        least, most = np.array(found).T
        assert least.min() > 0.7 * rest.min()
        assert most.max() < 1.3 * rest.max()


def test_twist_is_none_where_a_limb_starts_half_in_its_middle_and_whole_at_its_end():
    worn, (document, read) = written("cartwheel")
    for number, (start, end) in enumerate(LIMBS[:2]):
        frame = int(worn.twists[:, number].abs().argmax())
        turned, first = worlds(document, read, frame)[:34, :3, :3], RIG.index(start)
        axis = worn.fitted.offsets[RIG.index(end)].numpy()
        axis = turned[first] @ axis / np.linalg.norm(axis)
        angles = []
        for k in (1, 2):
            turn = turned[first + k] @ turned[first].T
            sine = np.array((turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1])) @ axis / 2
            angles.append(np.arctan2(sine, (np.trace(turn) - 1) / 2))
        whole = float(worn.twists[frame, number])
        assert abs(whole) > 0.3
        np.testing.assert_allclose(angles, (whole / 2, whole), atol=1e-3)
        np.testing.assert_allclose(turned[first + 2], worn.frames[frame, of(start)], atol=1e-4)


@pytest.mark.parametrize("name", ["walk", "cartwheel", "run"])
def test_elbows_bend_about_the_axis_they_bend_about_at_rest(name):
    worn, positions = wear(stand_in(), MOTIONS[name], 20.0), MOTIONS[name]
    rest = at_rest(worn.fitted.offsets, RIG)[RIGGED]
    for side in "lr":
        chain = [of(f"{side}_{joint}") for joint in ("shoulder", "elbow", "wrist")]
        bones = torch.nn.functional.normalize(positions[:, chain[1:]] - positions[:, chain[:-1]], dim=-1)
        bend = torch.linalg.cross(bones[:, 0], bones[:, 1])
        axis = torch.nn.functional.normalize(torch.linalg.cross(*(rest[chain[1:]] - rest[chain[:-1]])), dim=-1)
        clear = torch.linalg.vector_norm(bend, dim=-1) > 0.6
        found = worn.frames[:, chain[0]] @ axis
        agree = (torch.nn.functional.normalize(bend, dim=-1) * found).sum(-1)[clear]
        assert len(agree) == 0 or agree.median() > 0.95


@pytest.mark.parametrize("name", ["walk", "run"])
def test_feet_neither_sink_nor_float(name):
    worn, (document, read) = written(name)
    del worn
    lowest = [skinned(document, read, frame)[:, 1].min() for frame in range(0, len(MOTIONS[name]), 3)]
    assert min(lowest) > -0.015
    if name == "walk":
        assert max(lowest) < 0.025


def test_hands_that_would_go_through_the_floor_bend_at_the_wrist():
    worn, (document, read) = written("cartwheel")
    hands = (worn.mesh.joints[:, 0] >= RIG.index("l_wrist")).numpy()
    low = int(MOTIONS["cartwheel"][:, of("l_wrist"), 1].argmin())
    assert skinned(document, read, low)[hands, 1].min() > -0.04
    straight = MOTIONS["cartwheel"][low, [of("l_elbow"), of("l_wrist")]]
    way = torch.nn.functional.normalize(straight[1] - straight[0], dim=-1)
    assert float((straight[1] + 0.15 * way)[1]) < -0.05


def test_a_coarser_body_has_fewer_vertices_on_the_same_joints():
    body, coarse = stand_in(), stand_in().coarser(0.04)
    assert 100 < len(coarse.vertices) < len(body.vertices)
    assert torch.equal(coarse.joints, body.joints)
    assert coarse.weights.sum(-1).sub(1).abs().max() < 1e-5
    assert int(coarse.faces.max()) < len(coarse.vertices)
    nearest = torch.cdist(coarse.vertices, body.vertices).amin(-1)
    assert nearest.max() < 0.04 * 3**0.5
    outward = (normals_of(coarse.vertices, coarse.faces) * coarse.normals).sum(-1)
    assert (outward > 0).float().mean() > 0.95


def test_shirt_trousers_shoes_and_skin_are_where_they_belong():
    kinds, names = regions(stand_in()), list(DRESS)
    own = stand_in().weights.argmax(-1)
    for name, kind in (("chest", "shirt"), ("l_shin", "trousers"), ("r_foot", "shoes"), ("l_hand", "skin")):
        assert set(kinds[own == list(SEGMENTS).index(name)].tolist()) == {names.index(kind)}
    assert names.index("hair") in kinds[own == list(SEGMENTS).index("head")]


SCENES = [
    Scene("one", [Track.of(name, positions, SMPL22) for name, positions in (
        ("own", MOTIONS["cartwheel"].numpy()), ("small", 0.8 * MOTIONS["cartwheel"].numpy()),
        ("gap", np.where(np.arange(55)[:, None, None] == 3, np.nan, MOTIONS["cartwheel"].numpy())))]),
]  # fmt: skip


def test_a_motion_with_gaps_stays_sticks_in_the_page_and_without_a_body_all_do():
    stored = content(SCENES, SMPL22, 20.0, stand_in())
    assert ["turns" in track for track in stored["scenes"][0]["tracks"]] == [True, True, False]
    assert "body" not in content(SCENES, SMPL22, 20.0)
    assert len(json.dumps(stored["body"])) < 1_000_000


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_the_page_bends_the_mesh_as_the_file_does(tmp_path):
    place = tmp_path / "page.html"
    place.write_text(page(SCENES, SMPL22, 20.0, "body", body=stand_in()))
    coarse = stand_in().coarser(0.018)
    bent = """(() => { const all = JSON.parse(document.getElementById("motions").textContent);
        const track = all.scenes[0].tracks[%d];
        const own = Motion.unpack(track, 22), made = Bodies.make(Bodies.unpack(all.body), track, own);
        made.move(Motion.pose(own, 27, 22), 27); return Array.from(made.points); })()"""
    with browsing(tmp_path / "profile", *SOFTWARE_3D) as found:
        found.open(place, calm=True)
        for number, (scale, off) in enumerate(((1.0, 0.002), (0.8, 0.03))):
            points = np.array(found.evaluate(bent % number)).reshape(-1, 3)
            worn = wear(coarse, scale * MOTIONS["cartwheel"], 20.0)
            read = taken_apart(to_glb(worn.fitted, RIG, 20.0, "x", mesh=worn.mesh, shifts=worn.shifts))
            assert np.linalg.norm(points - skinned(*read, 27), axis=-1).max() < off
        shown = """new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(
            [...document.querySelectorAll(".key li")].filter((one) => one.checkVisibility())
            .map((one) => one.className)))))"""
        assert found.evaluate(shown) == ["left", "right", "touch"], "one of the three has gaps, and stays sticks"
        found.press("3")
        assert found.evaluate(shown) == []
        found.press("l")
        assert found.evaluate(shown) == []
        found.press("b")
        assert found.evaluate(shown) == ["shades", "touch"]
        assert not found.faults


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["--body", "anny"], 'Install the extra: pip install -e ".[body]" -c constraints.txt'),
        (["--body", "smpl"], "--body: expected one of auto, anny, sticks, found 'smpl'"),
        (["--body", "anny", "--smpl", "x"], "--smpl, --body anny: expected one of the two bodies"),
        (["--body", "anny", "--format", "bvh"], "--body anny: expected glb among the formats"),
    ],
)
def test_a_body_that_cannot_be_had_is_refused_in_a_sentence(tmp_path, monkeypatch, capsys, words, found):
    monkeypatch.setitem(sys.modules, "anny", None)
    monkeypatch.setattr(human_mesh, "_model", human_mesh._model.__wrapped__)
    np.save(tmp_path / "walk.npy", MOTIONS["walk"].numpy())
    assert main(["export", str(tmp_path / "walk.npy"), "--out", str(tmp_path / "out"), *words]) == 1
    assert found in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.rglob("*.glb"))


def test_without_the_package_sticks_are_drawn_and_other_skeletons_have_no_body(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "anny", None)
    np.save(tmp_path / "walk.npy", MOTIONS["walk"].numpy())
    assert main(["export", str(tmp_path / "walk.npy"), "--format", "glb"]) == 0
    document, _ = taken_apart((tmp_path / "walk.glb").read_bytes())
    assert [material["name"] for material in document["materials"]] == ["left", "right", "middle"]
    np.save(tmp_path / "nba.npy", np.random.default_rng(0).normal(0, 0.3, (4, NBA16.num_joints, 3)))
    assert main(["export", str(tmp_path / "nba.npy"), "--body", "anny"]) == 1
    assert "--body anny: expected motions of smpl22, found nba16" in " ".join(capsys.readouterr().err.split())


def test_every_verb_that_draws_people_draws_the_body_that_is_asked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("videomdm_ext.cli.exporting.build_body", lambda shape: stand_in())
    np.save(tmp_path / "walk.npy", MOTIONS["walk"].numpy())
    assert main(["export", str(tmp_path / "walk.npy"), "--format", "glb", "--body", "anny"]) == 0
    document, _ = taken_apart((tmp_path / "walk.glb").read_bytes())
    assert len(document["skins"][0]["joints"]) == RIG.num_joints
    assert "off by" not in capsys.readouterr().out
    write_motions(tmp_path / "walk.npz", {"samples": [MOTIONS["walk"]]}, ["a walk"])
    for body, held in (("anny", True), ("sticks", False)):
        place = tmp_path / f"{body}.html"
        assert main(["view", str(tmp_path / "walk.npz"), "--out", str(place), "--body", body]) == 0
        assert ('"turns"' in Path(place).read_text()) == held


def test_anny_walks_on_the_floor_in_a_file_and_in_a_page_of_less_than_a_megabyte(capfd: pytest.CaptureFixture[str]):
    pytest.importorskip("anny", reason="needs the extra body")
    body = build_body({})
    assert "initialized" not in "".join(capfd.readouterr()), "Warp tells nobody about devices"
    worn = wear(body, MOTIONS["walk"], 20.0)
    document, read = taken_apart(to_glb(worn.fitted, RIG, 20.0, "walk", mesh=worn.mesh, shifts=worn.shifts))
    assert {material["name"] for material in document["materials"]} == set(DRESS)
    for frame in (0, 20, 40):
        np.testing.assert_allclose(worlds(document, read, frame)[RIGGED, :3, 3], MOTIONS["walk"][frame], atol=1e-4)
        assert abs(skinned(document, read, frame)[:, 1].min()) < 0.015
    stored = content([Scene("walk", [Track("truth", MOTIONS["walk"].numpy())])], SMPL22, 20.0, body)
    assert len(json.dumps(stored["body"])) < 1_000_000
