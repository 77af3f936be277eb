"""Yaw, shortest arcs and the 6D form, as laws of rotations."""

import math

import pytest
import roma
import torch
from hypothesis import given
from hypothesis import strategies as st
from people import matrix_from_6d
from tolerances import ROTATION_FLOAT32, ROTATION_FLOAT64

from videomdm_ext.geometry import rotations

PRECISION = {torch.float32: ROTATION_FLOAT32, torch.float64: ROTATION_FLOAT64}
each_dtype = pytest.mark.parametrize("dtype", PRECISION)


def directions(count: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    vectors = torch.randn(count, 3, dtype=dtype, generator=torch.Generator().manual_seed(seed))
    return vectors / torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)


def apply(quaternion: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    return roma.quat_action(quaternion, vectors)


def test_a_quarter_turn_of_yaw_takes_z_to_x_and_keeps_y() -> None:
    quarter = torch.tensor(math.pi / 2)
    axes = torch.eye(3)
    expected = torch.tensor(((0.0, 0.0, -1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0)))
    assert torch.allclose(rotations.rotate_yaw(axes, quarter), expected, atol=1e-6)


@given(st.floats(-10, 10))
def test_yaw_as_vectors_matrix_and_quaternion_agree(value: float) -> None:
    angle, vectors = torch.tensor(value, dtype=torch.float64), directions(5, torch.float64)
    turned = rotations.rotate_yaw(vectors, angle)
    assert torch.allclose(turned, vectors @ rotations.yaw_matrix(angle).T, atol=ROTATION_FLOAT64)
    assert torch.allclose(turned, apply(rotations.yaw_quaternion(angle).expand(5, 4), vectors), atol=ROTATION_FLOAT64)


@each_dtype
def test_the_shortest_arc_takes_start_to_end_about_an_axis_at_right_angles_to_both(dtype: torch.dtype) -> None:
    start, end = directions(500, dtype), directions(500, dtype, seed=1)
    arc = rotations.shortest_arc(start, 0.3 * end)
    assert torch.allclose(apply(arc, start), end, atol=PRECISION[dtype])
    assert (arc[:, :3] * start).sum(-1).abs().max() < PRECISION[dtype]
    assert (arc[:, :3] * end).sum(-1).abs().max() < PRECISION[dtype]
    assert (arc[:, 3] >= 0).all()


@each_dtype
def test_the_arc_to_the_opposite_direction_is_a_half_turn(dtype: torch.dtype) -> None:
    start = torch.cat((torch.eye(3), -torch.eye(3))).to(dtype)
    arc = rotations.shortest_arc(start, -2.0 * start)
    assert torch.allclose(torch.linalg.vector_norm(arc, dim=-1), torch.ones(6, dtype=dtype))
    assert torch.allclose(apply(arc, start), -start, atol=PRECISION[dtype])


def test_the_arc_to_no_direction_is_the_identity_with_a_finite_gradient() -> None:
    end = torch.zeros(3, requires_grad=True)
    arc = rotations.shortest_arc(torch.tensor((0.0, 1.0, 0.0)), end)
    assert arc.tolist() == [0.0, 0.0, 0.0, 1.0]
    assert torch.isfinite(torch.autograd.grad(arc.sum(), end)[0]).all()


def test_gradients_of_the_shortest_arc_match_finite_differences() -> None:
    start, end = directions(6, torch.float64), directions(6, torch.float64, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: rotations.shortest_arc(start, v), end)


@each_dtype
def test_six_numbers_are_the_first_two_columns_and_give_the_matrix_back(dtype: torch.dtype) -> None:
    quaternion = rotations.shortest_arc(directions(100, dtype), directions(100, dtype, seed=1))
    matrix = roma.unitquat_to_rotmat(quaternion)
    columns = rotations.components_to_6d(quaternion.unbind(-1))
    assert torch.allclose(columns, torch.cat((matrix[..., 0], matrix[..., 1]), -1), atol=PRECISION[dtype])
    assert torch.allclose(matrix_from_6d(columns), matrix, atol=PRECISION[dtype])
