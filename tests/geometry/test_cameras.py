"""Cameras: x right, y down, z forward; signed depth; orbits; the same camera in another canonical frame."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from people import orbiting, random_motion, real_motions
from tolerances import CROPPED_PROJECTION, RAY_IS_TRANSVERSE, ROTATION_FLOAT64

from videomdm_ext.geometry import cameras
from videomdm_ext.motion.features import decode, decode_root, encode
from videomdm_ext.motion.skeletons import SMPL22

angles = st.floats(-math.pi, math.pi)
TARGET = torch.tensor((0.3, 1.1, -0.4), dtype=torch.float64)


def scalar(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def orbit(azimuth: float, elevation: float = 0.0, distance: float = 3.0) -> torch.Tensor:
    return cameras.orbit(scalar(azimuth), scalar(elevation), scalar(distance), TARGET)


@given(angles, st.floats(-1.4, 1.4), st.floats(0.5, 20.0))
def test_an_orbit_camera_sees_its_target_in_the_middle_at_its_distance(a: float, e: float, d: float) -> None:
    points, depth = cameras.project(TARGET[None], orbit(a, e, d))
    assert torch.allclose(points, torch.zeros_like(points), atol=1e-10)
    assert depth.item() == pytest.approx(d)


@given(angles, st.floats(-1.4, 1.4))
def test_an_orbit_camera_is_a_rotation_with_a_level_horizon_and_down_is_down(a: float, e: float) -> None:
    extrinsics = orbit(a, e)
    assert cameras.is_rotation(extrinsics, ROTATION_FLOAT64)
    assert extrinsics[0, 1].abs() < ROTATION_FLOAT64
    assert extrinsics[1, 1] < 0


def test_azimuth_zero_stands_in_front_and_sees_the_persons_left_on_the_right() -> None:
    left, up, ahead = TARGET + torch.eye(3, dtype=torch.float64) * 0.5
    points, depth = cameras.project(torch.stack((left, up, ahead)), orbit(0.0))
    assert points[0, 0] > 0.1
    assert points[1, 1] < -0.1
    assert depth.tolist() == pytest.approx([3.0, 3.0, 2.5])


def test_a_positive_azimuth_goes_towards_the_persons_left_and_a_positive_elevation_goes_up() -> None:
    def centre(extrinsics: torch.Tensor) -> torch.Tensor:
        return cameras.to_world(torch.zeros(1, 3, dtype=torch.float64), extrinsics)[0] - TARGET

    assert torch.allclose(centre(orbit(math.pi / 2)), torch.tensor((3.0, 0.0, 0.0)).double(), atol=1e-9)
    assert centre(orbit(0.0, 0.5))[1].item() == pytest.approx(3 * math.sin(0.5))


def test_world_and_camera_are_inverse_and_depth_is_along_the_third_row(generator: torch.Generator) -> None:
    extrinsics = orbiting((4,), generator, dtype=torch.float64)
    points = torch.randn(4, 22, 3, generator=generator, dtype=torch.float64)
    back = cameras.to_world(cameras.to_camera(points, extrinsics), extrinsics)
    assert torch.allclose(back, points, atol=1e-12)
    depth = (points * extrinsics[:, None, 2, :3]).sum(-1) + extrinsics[:, None, 2, 3]
    assert torch.allclose(cameras.project(points, extrinsics)[1], depth)


def test_a_point_behind_the_camera_has_negative_depth_and_does_not_appear_mirrored() -> None:
    ahead, behind = torch.tensor((0.4, 0.2, 2.0)), torch.tensor((0.4, 0.2, -2.0))
    points, depth = cameras.project(torch.stack((ahead, behind)), torch.eye(3, 4), nearest=0.5)
    assert depth.tolist() == [2.0, -2.0]
    assert points[0].tolist() == pytest.approx([0.2, 0.1])
    assert points[1].tolist() == pytest.approx([0.8, 0.4])


def test_pixels_and_normalised_points_are_inverse_with_lens_distortion(generator: torch.Generator) -> None:
    intrinsics = torch.tensor(((900.0, 0.5, 640.0), (0.0, 880.0, 360.0), (0.0, 0.0, 1.0)), dtype=torch.float64)
    distortion = torch.tensor((-0.2, 0.05, 1e-3, -2e-3, 0.01), dtype=torch.float64)
    points = torch.rand(100, 2, generator=generator, dtype=torch.float64) - 0.5
    for lens in (None, distortion):
        pixels = cameras.to_pixels(points, intrinsics, lens)
        assert torch.allclose(cameras.normalise(pixels, intrinsics, lens), points, atol=1e-8)
    assert cameras.to_pixels(torch.zeros(2).double(), intrinsics).tolist() == [640.0, 360.0]
    assert cameras.to_pixels(torch.tensor((0.1, 0.0)).double(), intrinsics).tolist() == pytest.approx([730.0, 360.0])


def test_distortion_matches_the_brown_conrady_polynomial_at_a_point() -> None:
    x, y, r2 = 0.3, -0.2, 0.13
    k1, k2, p1, p2, k3 = coefficients = (0.1, 0.02, 0.003, 0.004, 0.005)
    radial = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3
    expected = (
        x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
        y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
    )
    found = cameras.distort(torch.tensor((x, y)).double(), torch.tensor(coefficients).double())
    assert found.tolist() == pytest.approx(expected, abs=1e-7)


def test_drawn_cameras_keep_the_nearest_joint_at_the_drawn_distance(generator: torch.Generator) -> None:
    motion = random_motion(SMPL22, (50,), 10, generator)
    target = motion[:, 0, 0]
    bounds = {"elevation": (-0.3, 0.9), "distance": (2.0, 4.0)}
    extrinsics = cameras.sample_orbit(target, generator, positions=motion, **bounds)
    nearest = cameras.project(motion, extrinsics.unsqueeze(1))[1].flatten(1).amin(1)
    assert nearest.min() >= 2.0 - 1e-4
    assert nearest.max() <= 4.0 + 1e-4
    axis_y = cameras.sample_orbit(target, generator, **bounds)[:, 2, 1]
    assert -math.sin(0.9) - 1e-5 <= axis_y.min() <= axis_y.max() <= math.sin(0.3) + 1e-5


def test_drawn_azimuths_cover_the_circle_evenly_and_repeat_with_the_seed() -> None:
    def draw() -> torch.Tensor:
        generator = torch.Generator().manual_seed(3)
        return cameras.sample_orbit(torch.zeros(4000, 3), generator, elevation=(0.0, 0.5), distance=(2.0, 3.0))

    axes = draw()[:, 2, :3]
    azimuth = torch.atan2(-axes[:, 0], -axes[:, 2])
    counts = torch.histc(azimuth, 8, -math.pi, math.pi)
    assert counts.min() > 400
    assert torch.equal(draw(), draw())


@given(angles)
def test_a_camera_moved_with_its_clip_sees_the_same_picture(heading: float) -> None:
    generator = torch.Generator().manual_seed(5)
    motion = random_motion(SMPL22, (3,), 4, generator, dtype=torch.float64)
    extrinsics = orbiting((3,), generator, dtype=torch.float64)
    angle, origin = scalar(heading).expand(3), torch.randn(3, 3, generator=generator, dtype=torch.float64)
    moved = cameras.canonical(motion, angle, origin)
    before = cameras.project(motion, extrinsics.unsqueeze(1))
    after = cameras.project(moved, cameras.reexpress(extrinsics, angle, origin).unsqueeze(1))
    for old, new in zip(before, after, strict=True):
        assert torch.allclose(old, new, atol=1e-10)


@pytest.mark.parametrize("name", ["walk", "cartwheel", "dance_a", "spinkick"])
@pytest.mark.parametrize("start", [0, 7, 21])
def test_cropping_clip_and_camera_and_projecting_equals_cropping_the_projection(name: str, start: int) -> None:
    features = encode(real_motions()[name], SMPL22)
    extrinsics = orbiting((), torch.Generator().manual_seed(start))
    whole, _ = cameras.project(decode(features, SMPL22), extrinsics)
    headings, roots = decode_root(features, SMPL22)
    origin = roots[start] * torch.tensor((1.0, 0.0, 1.0))
    camera = cameras.reexpress(extrinsics, headings[start], origin)
    cropped, _ = cameras.project(decode(features[start:], SMPL22), camera)
    assert (cropped - whole[start:]).abs().max() < CROPPED_PROJECTION


def test_perturbing_the_azimuth_is_an_orbit_about_the_origin() -> None:
    origin, angle = torch.zeros(3, dtype=torch.float64), scalar(0.4)
    straight = cameras.orbit(scalar(0.3), scalar(0.2), scalar(4.0), origin)
    around = cameras.orbit(scalar(0.7), scalar(0.2), scalar(4.0), origin)
    assert torch.allclose(cameras.perturb_azimuth(straight, angle), around, atol=1e-12)


def test_a_reflection_or_a_scaled_matrix_is_not_a_rotation() -> None:
    good = orbit(0.5).float()
    assert cameras.is_rotation(good)
    assert not cameras.is_rotation(good * torch.tensor((-1.0, 1.0, 1.0, 1.0)))
    assert not cameras.is_rotation(good * 1.1)


# -- rays --------------------------------------------------------------------------------------------------------------


def seen(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """True points and erroneous ones in camera coordinates, and the true ones' keypoints, float64."""
    truth = torch.randn(200, 22, 3, generator=generator, dtype=torch.float64) + torch.tensor((0.0, 0.0, 6.0))
    wrong = truth + 0.3 * torch.randn(truth.shape, generator=generator, dtype=torch.float64)
    return truth, wrong, cameras.image_points(truth, 1e-3)[0]


def test_squared_distance_to_the_ray_is_the_squared_transverse_error(generator: torch.Generator) -> None:
    truth, wrong, keypoints = seen(generator)
    error = wrong - truth
    sight = truth / torch.linalg.vector_norm(truth, dim=-1, keepdim=True)
    transverse = error.square().sum(-1) - (error * sight).sum(-1).square()
    distance = (wrong - cameras.closest_on_ray(wrong, keypoints, 1e-3)).square().sum(-1)
    assert (distance - transverse).abs().max() < RAY_IS_TRANSVERSE


def test_the_closest_point_lies_on_the_ray_and_is_its_own_closest_point(generator: torch.Generator) -> None:
    _, wrong, keypoints = seen(generator)
    found = cameras.closest_on_ray(wrong, keypoints, 0.5)
    assert torch.allclose(found[..., :2] / found[..., 2:], keypoints, atol=1e-12)
    assert torch.allclose(cameras.closest_on_ray(found, keypoints, 0.5), found, atol=1e-12)


def test_a_point_behind_the_camera_goes_to_the_near_plane_in_front() -> None:
    found = cameras.closest_on_ray(torch.tensor((0.2, 0.1, -3.0)), torch.tensor((0.4, -0.2)), 0.5)
    assert torch.allclose(found, torch.tensor((0.2, -0.1, 0.5)))
