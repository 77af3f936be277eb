"""GLB files, taken apart by a parser of the tests: structure, and what the skin does to the surface in every frame."""

import json
import shutil
import subprocess
from functools import cache

import numpy as np
import pytest
import torch
from glb_reader import skinned, taken_apart, worlds

from videomdm_ext.data.motions import load_motions
from videomdm_ext.motion.skeletons import NBA16, SMPL22
from videomdm_ext.render.fitting import fit
from videomdm_ext.render.glb import Mesh, Part, to_glb

MOTIONS = {motion.name: motion for motion in load_motions()}
SKULL = 0.16
"""Farthest that a vertex may be from its bones, m."""
VALIDATOR = """
require("gltf-validator").validateBytes(new Uint8Array(require("fs").readFileSync(process.argv[1])))
    .then((report) => console.log(JSON.stringify(report.issues)));
"""


@cache
def written(name):
    """-> positions of the fit [T, 22, 3], and the file"""
    fitted = fit(torch.from_numpy(MOTIONS[name].positions), SMPL22, 20.0)
    return fitted.positions(SMPL22).numpy(), to_glb(fitted, SMPL22, 20.0, name)


@pytest.mark.parametrize("name", ["walk", "cartwheel"])
def test_joints_are_where_the_fit_has_them_in_every_frame(name):
    wanted, content = written(name)
    document, read = taken_apart(content)
    names = [document["nodes"][number]["name"] for number in document["skins"][0]["joints"]]
    assert tuple(names) == SMPL22.joints
    for frame in range(0, len(wanted), 5):
        np.testing.assert_allclose(worlds(document, read, frame)[:22, :3, 3], wanted[frame], atol=1e-5)


@pytest.mark.parametrize("name", ["walk", "cartwheel"])
def test_the_surface_stays_around_the_bones_in_every_frame(name):
    wanted, content = written(name)
    document, read = taken_apart(content)
    parents = np.array(SMPL22.parents[1:])
    for frame in range(0, len(wanted), 10):
        points = skinned(document, read, frame)
        start, end = wanted[frame, parents], wanted[frame, 1:]
        along = ((points[:, None] - start) * (end - start)).sum(-1) / ((end - start) ** 2).sum(-1)
        nearest = start + along.clip(0, 1)[..., None] * (end - start)
        away = np.linalg.norm(points[:, None] - nearest, axis=-1).min(1)
        assert away.max() < SKULL
        assert np.median(away) < 0.04


def test_what_is_blue_is_at_the_left_at_rest():
    document, read = taken_apart(written("cartwheel")[1])
    (mesh,) = document["meshes"]
    for primitive in mesh["primitives"]:
        material = document["materials"][primitive["material"]]
        colour = material["pbrMetallicRoughness"]["baseColorFactor"][:3]
        left = read(primitive["attributes"]["POSITION"])[read(primitive["indices"]), 0].mean()
        assert (left > 0.1) == (material["name"] == "left") == (colour[2] > 2 * max(colour[:2]))


def test_times_run_from_zero_at_the_frame_rate_with_their_bounds():
    wanted, content = written("walk")
    document, read = taken_apart(content)
    for sampler in document["animations"][0]["samplers"]:
        accessor, times = document["accessors"][sampler["input"]], read(sampler["input"])
        np.testing.assert_allclose(times, np.arange(len(wanted)) / 20, atol=1e-6)
        assert accessor["min"] == [0.0]
        assert accessor["max"] == pytest.approx([times[-1]])
        assert document["accessors"][sampler["output"]]["count"] == len(times)


def test_everything_is_aligned_within_bounds_and_of_the_declared_kind():
    document, read = taken_apart(written("walk")[1])
    assert all(view["byteOffset"] % 4 == 0 for view in document["bufferViews"])
    ends = [view["byteOffset"] + view["byteLength"] for view in document["bufferViews"]]
    assert ends == sorted(ends)
    assert ends[-1] <= document["buffers"][0]["byteLength"]
    skin, attributes = document["skins"][0], document["meshes"][0]["primitives"][0]["attributes"]
    positions, accessor = read(attributes["POSITION"]), document["accessors"][attributes["POSITION"]]
    np.testing.assert_array_equal(positions.min(0), np.float32(accessor["min"]))
    np.testing.assert_array_equal(positions.max(0), np.float32(accessor["max"]))
    np.testing.assert_allclose(read(attributes["WEIGHTS_0"]).sum(1), 1, atol=1e-6)
    assert read(attributes["JOINTS_0"]).max() < len(skin["joints"]) == 22
    assert document["accessors"][skin["inverseBindMatrices"]]["count"] == 22
    for primitive in document["meshes"][0]["primitives"]:
        assert read(primitive["indices"]).max() < len(positions)
        assert document["bufferViews"][document["accessors"][primitive["indices"]]["bufferView"]]["target"] == 34963
    for sampler in document["animations"][0]["samplers"][1:]:
        np.testing.assert_allclose(np.linalg.norm(read(sampler["output"]), axis=1), 1, atol=1e-6)


def test_a_mesh_of_ones_own_bends_where_two_joints_share_it():
    fitted = fit(torch.from_numpy(MOTIONS["walk"].positions), SMPL22, 20.0)
    shared = torch.tensor([[18, 16, 0, 0]] * 3)
    weights = torch.tensor([[0.25, 0.75, 0.0, 0.0]] * 3)
    vertices = torch.eye(3) + torch.tensor((0.5, 0.2, 0.0))
    mesh = Mesh(vertices, torch.eye(3), shared, weights, (Part("skin", (1.0, 0.5, 0.2), torch.tensor([[0, 1, 2]])),))
    document, read = taken_apart(to_glb(fitted, SMPL22, 20.0, "shared", mesh=mesh))
    rest = np.zeros((22, 3))
    for joint, parent in enumerate(SMPL22.parents[1:], start=1):
        rest[joint] = rest[parent] + fitted.offsets[joint].numpy()
    world = worlds(document, read, 7)
    each = [world[joint, :3, 3] + (vertices.numpy() - rest[joint]) @ world[joint, :3, :3].T for joint in (18, 16)]
    np.testing.assert_allclose(skinned(document, read, 7), 0.25 * each[0] + 0.75 * each[1], atol=1e-5)


def test_a_single_frame_of_the_skeleton_of_16_joints_is_written():
    fitted = fit(torch.from_numpy(np.random.default_rng(0).normal(0, 0.3, (1, 16, 3))), NBA16, 20.0)
    document, read = taken_apart(to_glb(fitted, NBA16, 20.0, "still"))
    np.testing.assert_allclose(worlds(document, read, 0)[:16, :3, 3], fitted.positions(NBA16)[0], atol=1e-5)


def test_khronos_validator_finds_nothing(tmp_path):
    node = shutil.which("node")
    found = node and subprocess.run([node, "-e", 'require.resolve("gltf-validator")'], capture_output=True, check=False)
    if not found or found.returncode:
        pytest.skip("needs node and, where NODE_PATH says, the npm package gltf-validator")
    (tmp_path / "walk.glb").write_bytes(written("walk")[1])
    command = [node, "-e", VALIDATOR, str(tmp_path / "walk.glb")]
    issues = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    counts = {kind: issues[kind] for kind in ("numErrors", "numWarnings", "numInfos", "numHints")}
    assert not any(counts.values()), issues["messages"]
