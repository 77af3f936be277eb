"""The closest point on a keypoint's ray, and that its distance is the error the image shows."""

import torch
from people import orbiting
from tolerances import RAY_IS_TRANSVERSE

from videomdm_ext.geometry.cameras import closest_on_ray, project, ray_directions, to_camera


def scene(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """True points and erroneous ones in camera coordinates, and the true ones' keypoints, float64."""
    extrinsics = orbiting((200,), generator, dtype=torch.float64)
    truth = torch.randn(200, 22, 3, generator=generator, dtype=torch.float64)
    wrong = truth + 0.3 * torch.randn(truth.shape, generator=generator, dtype=torch.float64)
    return to_camera(truth, extrinsics), to_camera(wrong, extrinsics), project(truth, extrinsics)[0]


def test_squared_distance_to_the_ray_is_the_squared_transverse_error(generator: torch.Generator) -> None:
    truth, wrong, keypoints = scene(generator)
    error = wrong - truth
    sight = truth / torch.linalg.vector_norm(truth, dim=-1, keepdim=True)
    transverse = error.square().sum(-1) - (error * sight).sum(-1).square()
    distance = (wrong - closest_on_ray(wrong, keypoints, 1e-3)).square().sum(-1)
    assert (distance - transverse).abs().max() < RAY_IS_TRANSVERSE


def test_the_closest_point_lies_on_the_ray_and_is_its_own_closest_point(generator: torch.Generator) -> None:
    _, wrong, keypoints = scene(generator)
    found = closest_on_ray(wrong, keypoints, 0.5)
    assert torch.allclose(found[..., :2] / found[..., 2:], keypoints, atol=1e-12)
    assert torch.allclose(closest_on_ray(found, keypoints, 0.5), found, atol=1e-12)


def test_no_other_point_of_the_ray_is_closer(generator: torch.Generator) -> None:
    _, wrong, keypoints = scene(generator)
    found = closest_on_ray(wrong, keypoints, 1e-3)
    for step in (-0.1, -1e-3, 1e-3, 0.1):
        other = found + step * ray_directions(keypoints)
        assert ((wrong - other).square().sum(-1) > (wrong - found).square().sum(-1)).all()


def test_a_point_behind_the_camera_goes_to_the_near_plane_in_front() -> None:
    found = closest_on_ray(torch.tensor((0.2, 0.1, -3.0)), torch.tensor((0.4, -0.2)), 0.5)
    assert torch.allclose(found, torch.tensor((0.2, -0.1, 0.5)))
