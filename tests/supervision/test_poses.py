"""The distribution of poses is Student's t: its density and its estimate. Poses know neither place nor heading."""

import pytest
import torch
from people import real_batch, turned
from torch import Tensor

from videomdm_ext.motion.skeletons import SMPL22
from videomdm_ext.supervision.poses import FREEDOM, aligned_poses, estimate_poses, unlikeliness

LEAST = 0.005


def drawn(generator: torch.Generator, scale: Tensor, mean: Tensor, number: int) -> Tensor:
    """Draws [N, P] from a Student's t distribution with that scale [P, P]: Gaussian ones over the root of a gamma's."""
    size = len(scale)
    normal = torch.randn(number, size, generator=generator) @ torch.linalg.cholesky(scale).T
    squares = torch.randn(number, int(FREEDOM), generator=generator).square().sum(1)
    return mean + normal / (squares / FREEDOM).sqrt().unsqueeze(1)


@pytest.fixture
def known(generator) -> tuple[Tensor, Tensor, Tensor]:
    """-> mean [P], scale [P, P] and 20,000 draws of it."""
    root = 0.1 * torch.randn(6, 6, generator=generator)
    scale, mean = root @ root.T + 0.01 * torch.eye(6), torch.randn(6, generator=generator)
    return mean, scale, drawn(generator, scale, mean, 20_000)


def test_poses_are_aligned_by_their_heading_and_their_root():
    motion = real_batch(4)
    angle = torch.linspace(-3.0, 3.0, len(motion))[:, None, None].expand(motion.shape[:-1])
    moved = turned(motion, angle) + torch.tensor((3.0, -1.0, 2.0))
    torch.testing.assert_close(aligned_poses(moved, SMPL22), aligned_poses(motion, SMPL22), atol=1e-5, rtol=0)
    across = aligned_poses(motion, SMPL22).unflatten(-1, (21, 3))
    assert (across[..., 0, 0] > across[..., 1, 0]).all()


def test_unlikeliness_is_twice_the_negative_log_density_less_that_of_the_mean():
    values = torch.linspace(-6, 6, 25)
    density = torch.distributions.StudentT(FREEDOM, loc=1.0, scale=0.5).log_prob
    expected = 2 * (density(torch.tensor(1.0)) - density(values))
    found = unlikeliness(values.unsqueeze(1), torch.tensor([1.0]), torch.tensor([[2.0]]))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_near_the_mean_it_is_the_gaussians_and_far_from_it_the_pull_fades():
    whitening = torch.eye(63)
    steps = torch.tensor([0.01, 100.0]).requires_grad_()
    direction = torch.full((63,), 63**-0.5)
    unlikeliness(steps.unsqueeze(1) * direction, torch.zeros(63), whitening).sum().backward()
    near, far = steps.grad / (2 * steps.detach())
    assert near == pytest.approx((FREEDOM + 63) / FREEDOM, rel=1e-3)
    assert far < 1e-3 * near


def test_the_estimate_finds_what_was_drawn_from(known):
    mean, scale, poses = known
    found, whitening = estimate_poses(poses, LEAST)
    torch.testing.assert_close(found, mean, atol=0.01, rtol=0)
    torch.testing.assert_close(torch.linalg.inv(whitening @ whitening.T), scale, atol=0.003, rtol=0.05)


def test_the_estimate_makes_the_poses_likelier_than_any_near_it(known, generator):
    poses = known[2][:2000]
    mean, whitening = estimate_poses(poses, 0.0)

    def cost(mean: Tensor, whitening: Tensor) -> float:
        return (unlikeliness(poses, mean, whitening).mean() - 2 * torch.linalg.slogdet(whitening)[1]).item()

    least = cost(mean, whitening)
    for _ in range(10):
        assert cost(mean + 0.02 * torch.randn(6, generator=generator), whitening) > least
        assert cost(mean, whitening @ (torch.eye(6) + 0.05 * torch.randn(6, 6, generator=generator))) > least


def test_no_direction_is_narrower_than_the_least_deviation_even_with_fewer_poses_than_directions(generator):
    mean, whitening = estimate_poses(0.1 * torch.randn(5, 63, generator=generator), LEAST)
    assert torch.isfinite(mean).all()
    assert torch.linalg.svdvals(whitening).max() <= 1.001 / LEAST
