"""The figure of capsules, and bodies from a small model that the test writes."""

import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from bodies import PARENTS, WALK, body_arrays, write_body
from scipy.spatial.transform import Rotation

from videomdm_ext.errors import ConfigError, DatasetError
from videomdm_ext.motion.skeletons import SMPL22
from videomdm_ext.render.fitting import fit, rest_offsets
from videomdm_ext.render.glb import at_rest, capsules, read_body


@pytest.fixture(scope="module")
def figure():
    return capsules(rest_offsets(WALK, SMPL22), SMPL22)


def from_segment(points, start, end):
    """Distance of points [N, 3] from a segment."""
    along = np.clip((points - start) @ (end - start) / ((end - start) @ (end - start)), 0, 1)
    return np.linalg.norm(points - start - along[:, None] * (end - start), axis=-1)


def test_every_vertex_lies_at_its_radius_around_a_bone_of_the_joint_that_moves_it(figure):
    rest = at_rest(rest_offsets(WALK, SMPL22), SMPL22).numpy()
    points, owners = figure.vertices.numpy(), figure.joints[:, 0].numpy()
    count = len(points) // 22  # 21 bones and a head
    for bone in range(1, 22):
        mine = points[(bone - 1) * count : bone * count]
        away = from_segment(mine, rest[PARENTS[bone]], rest[bone])
        assert np.ptp(away) < 1e-9
        assert 0.0179 < away[0] < 0.0451
        assert set(owners[(bone - 1) * count : bone * count]) == {PARENTS[bone]}
    assert set(owners[21 * count :]) == {SMPL22.index("head")}
    assert points[21 * count :, 1].max() > rest[SMPL22.index("head"), 1] + 0.1


def test_weights_add_up_and_sides_are_where_they_belong(figure):
    np.testing.assert_allclose(figure.weights.sum(-1), 1)
    middle = {part.name: figure.vertices[part.faces].mean((0, 1))[0] for part in figure.parts}
    assert middle["left"] > 0.1
    assert middle["right"] < -0.1
    assert abs(middle["middle"]) < 1e-3


def test_the_surface_is_closed_and_faces_outward(figure):
    faces = torch.cat([part.faces for part in figure.parts])
    edges = Counter((int(f[k]), int(f[(k + 1) % 3])) for f in faces.tolist() for k in range(3))
    assert set(edges.values()) == {1}
    assert all((end, start) in edges for start, end in edges)
    a, b, c = figure.vertices[faces].unbind(1)
    outward = torch.linalg.cross(b - a, c - a)
    assert float((outward * figure.normals[faces].mean(1)).sum(-1).min()) > 0
    np.testing.assert_allclose(figure.normals.norm(dim=-1), 1, atol=1e-9)


def test_a_body_has_the_models_joints_vertices_and_triangles(tmp_path):
    arrays, body = body_arrays(), read_body(write_body(tmp_path))
    rest = arrays["J_regressor"] @ arrays["v_template"]
    np.testing.assert_allclose(body.offsets[1:], rest[1:22] - rest[PARENTS[1:]], atol=1e-6)
    assert not body.offsets[0].any()
    np.testing.assert_allclose(body.mesh.vertices, arrays["v_template"] - rest[0], atol=1e-6)
    np.testing.assert_array_equal(body.mesh.parts[0].faces, arrays["f"])
    shares = torch.zeros(72, 22).double().scatter_add_(1, body.mesh.joints, body.mesh.weights)
    np.testing.assert_allclose(shares[0, :3], (0.5, 0.3, 0.2), atol=1e-6)


def test_hands_are_moved_by_their_wrists(tmp_path):
    mesh = read_body(write_body(tmp_path)).mesh
    np.testing.assert_array_equal(mesh.joints[66:72, 0], [20, 20, 20, 21, 21, 21])
    np.testing.assert_allclose(mesh.weights[66:72, 0], 1, atol=1e-6)


def test_a_body_is_made_as_large_as_the_person_and_follows_the_joints(tmp_path):
    body = read_body(write_body(tmp_path)).sized(WALK)
    np.testing.assert_allclose(body.offsets, rest_offsets(WALK, SMPL22), atol=1e-6)
    fitted = fit(WALK, SMPL22, 20.0, offsets=body.offsets)
    assert float(fitted.max_mm.max()) < 0.5
    turns = Rotation.from_quat(fitted.rotations.numpy().reshape(-1, 4), scalar_first=True).as_matrix()
    turns, rest = turns.reshape(-1, 22, 3, 3), at_rest(body.offsets, SMPL22).numpy()
    frames = [turns[:, 0]]
    for joint in range(1, 22):
        frames.append(frames[PARENTS[joint]] @ turns[:, joint])
    for joint in (7, 18, 20):  # three vertices around each joint are centred on it, in any pose
        corners = body.mesh.vertices[3 * joint : 3 * joint + 3].numpy() - rest[joint]
        found = WALK[:, joint].numpy()[:, None] + corners @ frames[joint].transpose(0, 2, 1)
        np.testing.assert_allclose(found.mean(1), WALK[:, joint], atol=1e-3)


def test_a_folder_without_a_model_an_unknown_gender_and_a_broken_model_are_told(tmp_path):
    with pytest.raises(ConfigError, match=r"--smpl .*expected a body model of gender neutral, found none"):
        read_body(str(tmp_path))
    with pytest.raises(ConfigError, match="--gender: expected one of neutral, male, female, found 'none'"):
        read_body(str(tmp_path), "none")
    write_body(tmp_path, weights=np.zeros((72, 21)))
    with pytest.raises(DatasetError, match=r"expected a body model of 22 joints or more, found .*weights \[72, 21\]"):
        read_body(str(tmp_path))


def test_a_pickled_model_goes_through_smplx(tmp_path):
    (tmp_path / "smpl").mkdir()
    arrays = {**body_arrays(), "posedirs": np.zeros((72, 3, 207))}
    (tmp_path / "smpl" / "SMPL_NEUTRAL.pkl").write_bytes(pickle.dumps(arrays))
    pytest.importorskip("smplx", reason="smplx is in the `mdm` extra")
    pickled, plain = read_body(str(tmp_path)), read_body(write_body(tmp_path / "npz"))
    np.testing.assert_allclose(pickled.mesh.vertices, plain.mesh.vertices, atol=1e-5)
    np.testing.assert_array_equal(pickled.mesh.joints[:, 0], plain.mesh.joints[:, 0])
    np.testing.assert_array_equal(pickled.mesh.parts[0].faces, plain.mesh.parts[0].faces)


def test_without_smplx_a_pickled_model_is_refused_with_the_extra_to_install(tmp_path, monkeypatch):
    (tmp_path / "smpl").mkdir()
    (tmp_path / "smpl" / "SMPL_NEUTRAL.pkl").write_bytes(b"")
    monkeypatch.setitem(__import__("sys").modules, "smplx", None)
    with pytest.raises(ConfigError, match=r"expected the package smplx to read a \.pkl, found none.*\[mdm\]"):
        read_body(str(tmp_path))
