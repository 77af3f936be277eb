"""The objective beside a denoiser step: printed, not asserted. `pytest -n0 --benchmark-enable -s` with this file."""

from collections.abc import Callable, Iterator

import pytest
import torch
from people import features_of, observe, orbiting, random_motion, space_of
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from videomdm_ext.motion.skeletons import SMPL22
from videomdm_ext.supervision.objective import Objective, weights_of
from videomdm_ext.supervision.terms import TERMS, Step

BATCH, FRAMES = 64, 196
THREADS = 2

OBJECTIVES = {
    "posterior": "posterior",
    "reprojection and alignment": "reprojection",
    "reprojection": "reprojection,alignment=0",
}


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)


def denoiser_step() -> Callable[[], None]:
    """Forward and backward of a network of MDM's size: 8 layers, 512 wide, on the frames and one token."""
    layer = torch.nn.TransformerEncoderLayer(512, nhead=4, dim_feedforward=1024, activation="gelu")
    network = torch.nn.TransformerEncoder(layer, num_layers=8, enable_nested_tensor=False)
    tokens = torch.randn(FRAMES + 1, BATCH, 512, generator=torch.Generator().manual_seed(0))
    return lambda: network(tokens).square().mean().backward()


def objective_step(loss: str) -> Callable[[], None]:
    """Forward and backward of the objective alone, from a prediction that is off by a third of a Std."""
    generator = torch.Generator().manual_seed(0)
    positions = random_motion(SMPL22, (BATCH,), FRAMES, generator)
    space = space_of(positions, SMPL22)
    observation = observe(positions, orbiting((BATCH,), generator))
    x_start = features_of(positions, space)
    prediction = x_start + 0.3 * torch.randn(x_start.shape, generator=generator)
    objective = Objective(weights_of(loss, TERMS), TERMS)
    timesteps = torch.randint(0, 50, (BATCH,), generator=generator)

    def step() -> Tensor:
        x = prediction.clone().requires_grad_()
        loss = objective(Step(x, x_start, timesteps, 1 - timesteps / 50, observation, space))["loss"].mean()
        return torch.autograd.grad(loss, x)[0]

    assert torch.isfinite(step()).all()
    return step


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("name", ["denoiser step", *OBJECTIVES])
def test_cost_of_the_objective_beside_a_denoiser_step(benchmark: BenchmarkFixture, name: str) -> None:
    if benchmark.disabled:
        pytest.skip("a benchmark: run it with -n0 --benchmark-enable")
    step = denoiser_step() if name == "denoiser step" else objective_step(OBJECTIVES[name])
    benchmark.pedantic(step, rounds=2 if name == "denoiser step" else 9, warmup_rounds=1)
    print(f"\n{name}: {benchmark.stats.stats.min * 1e3:.0f} ms")
