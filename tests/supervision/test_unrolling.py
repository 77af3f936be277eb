"""Buckets of timesteps, and unrolled predictions."""

import gc
import weakref

import pytest
import torch
from torch import Tensor, nn

from videomdm_ext.config import Supervision
from videomdm_ext.errors import HostError
from videomdm_ext.supervision.unrolling import (
    TimestepBuckets,
    implied_noise,
    noised,
    unrolled_predictions,
    with_gradient_taken,
)

METHOD = TimestepBuckets.of(12, 4, 50)
ALPHA_BAR = torch.cos(torch.linspace(0.02, 1.55, 50, dtype=torch.float64)).square()


def test_fifty_steps_from_twelve_in_four_buckets_reach_sixteen_at_1_96_passes() -> None:
    assert (METHOD.count, METHOD.width, METHOD.top) == (4, 4, 16)
    assert METHOD.passes == pytest.approx(1.96)


@pytest.mark.parametrize(("total", "top"), [(20, 8), (50, 16), (100, 32), (1000, 320)])
def test_the_default_is_the_methods_share_of_a_schedule_of_any_length(total: int, top: int) -> None:
    default = Supervision()
    buckets = TimestepBuckets.of(default.unroll_below, default.unroll_steps, total)
    assert buckets.top == top
    assert buckets.passes == pytest.approx(METHOD.passes, abs=0.25)


def test_a_short_schedule_gets_buckets_that_fit_in() -> None:
    short = TimestepBuckets.of(40, 4, 8)
    assert (short.width, short.top) == (2, 8)
    drawn = [short.draw(5, torch.Generator().manual_seed(seed)) for seed in range(20)]
    assert all(timesteps.shape == (5, 4) for timesteps in drawn)


def test_an_unrolled_step_draws_one_falling_timestep_a_bucket_and_others_stay_above(
    generator: torch.Generator,
) -> None:
    draws = [METHOD.draw(16, generator) for _ in range(2000)]
    unrolled = torch.cat([draw for draw in draws if draw.shape[1] == 4])
    plain = torch.cat([draw for draw in draws if draw.shape[1] == 1])
    assert torch.equal(unrolled // 4, torch.tensor((3, 2, 1, 0)).expand_as(unrolled))
    assert (unrolled.diff(dim=1) < 0).all()
    assert unrolled.unique().tolist() == list(range(16))
    assert plain.unique().tolist() == list(range(16, 50))
    share = len(unrolled) / (len(unrolled) + len(plain))
    assert share == pytest.approx(16 / 50, abs=0.03)
    passes = sum(draw.shape[1] for draw in draws) / len(draws)
    assert passes == pytest.approx(METHOD.passes, abs=0.1)


def test_clips_of_a_batch_draw_on_their_own_and_the_seed_decides() -> None:
    one, two = (METHOD.draw(64, torch.Generator().manual_seed(2)) for _ in range(2))
    assert torch.equal(one, two)
    assert len(one[:, 0].unique()) > 1


def test_implied_noise_undoes_noising(generator: torch.Generator) -> None:
    x_0, noise = torch.randn(2, 3, 7, 1, 5, dtype=torch.float64, generator=generator)
    for alpha_bar in (torch.full((3,), 0.9).double(), torch.tensor((0.1, 0.5, 0.999)).double()):
        x_t = noised(x_0, noise, alpha_bar)
        assert torch.allclose(implied_noise(x_t, x_0, alpha_bar), noise, atol=1e-9)
        first = alpha_bar[0].sqrt() * x_0[0] + (1 - alpha_bar[0]).sqrt() * noise[0]
        assert torch.allclose(x_t[0], first)


def test_an_unrolled_step_with_a_perfect_denoiser_sees_what_noising_the_truth_gives(generator: torch.Generator) -> None:
    truth, noise = torch.randn(2, 3, 7, 1, 5, dtype=torch.float64, generator=generator)
    timesteps = torch.tensor(((14, 9, 5, 2), (12, 8, 7, 0), (15, 11, 4, 3)))
    seen: list[Tensor] = []

    def perfect(x_t: Tensor, t: Tensor) -> Tensor:
        seen.append(x_t)
        return truth

    found = list(unrolled_predictions(perfect, truth, timesteps, ALPHA_BAR, noise))
    assert [t.tolist() for _, t in found] == timesteps.T.tolist()
    for k, x_t in enumerate(seen):
        assert torch.allclose(x_t, noised(truth, noise, ALPHA_BAR[timesteps[:, k]]), atol=1e-9)


def test_an_unrolled_step_leaves_the_teacher_for_the_prediction(generator: torch.Generator) -> None:
    teacher, truth, noise = torch.randn(3, 2, 7, 1, 5, dtype=torch.float64, generator=generator)
    timesteps = torch.tensor(((14, 9, 5, 0), (12, 8, 7, 0)))
    inputs = []

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        inputs.append(x_t)
        return truth

    list(unrolled_predictions(denoise, teacher, timesteps, ALPHA_BAR, noise))
    assert torch.equal(inputs[0], noised(teacher, noise, ALPHA_BAR[timesteps[:, 0]]))
    assert (inputs[3] - truth).abs().max() < 0.5 * (inputs[3] - teacher).abs().max()


def test_every_pass_has_its_own_gradient_and_none_flows_between_them(
    generator: torch.Generator,
) -> None:
    teacher, noise = torch.randn(2, 2, 7, 1, 5, dtype=torch.float64, generator=generator)
    scale = torch.ones(4, dtype=torch.float64, requires_grad=True)
    passes = iter(range(4))
    timesteps = torch.tensor(((14, 9, 5, 0), (12, 8, 7, 0)))
    steps = unrolled_predictions(lambda x_t, t: scale[next(passes)] * x_t, teacher, timesteps, ALPHA_BAR, noise)
    for k, (prediction, _) in enumerate(steps):
        gradient = torch.autograd.grad(prediction.sum(), scale)[0]
        assert gradient.nonzero().flatten().tolist() == [k]


class Kept:
    """A tensor that autograd keeps for a backward."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def step(weights: Tensor, *, taken: bool) -> tuple[list[Tensor | None], int]:
    """-> gradients of a step of four passes whose clips weigh so much, and the tensors kept for its backward"""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(7, 33), nn.GELU(), nn.Dropout(0.1), nn.Linear(33, 7))
    network.append(nn.Linear(7, 7).requires_grad_(False))
    first, second, unused = (nn.Parameter(torch.ones(7)) for _ in range(3))  # the first two share their gradient
    trained = [*(weight for weight in network.parameters() if weight.requires_grad), first, second, unused]
    kept, losses = weakref.WeakSet[Kept](), []

    def keep(tensor: Tensor) -> Kept:
        kept.add(found := Kept(tensor))
        return found

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda found: found.tensor):
        for number in range(4):
            loss = (network(torch.randn(6, 7)) + (first + second)).square().mean(1)
            losses.append(with_gradient_taken(loss, trained, 4) if taken and number < 3 else loss)
            del loss
        gc.collect()
        count = len(kept)
        (torch.stack(losses).mean(0) * weights).mean().backward()
    return [weight.grad for weight in trained], count


def test_gradients_taken_pass_by_pass_are_those_of_one_backward_and_keep_one_pass() -> None:
    for factor in (1.0, 8.0):  # as a loss is scaled for half precision
        at_once, all_passes = step(torch.full((6,), factor), taken=False)
        one_by_one, one_pass = step(torch.full((6,), factor), taken=True)
        assert at_once[-1] is one_by_one[-1] is None
        assert all(torch.equal(a, b) for a, b in zip(at_once[:-1], one_by_one[:-1], strict=True))
        assert all(gradient.abs().max() > 0 for gradient in at_once[:-1])
        assert 4 * one_pass <= all_passes + 3


def test_a_loop_that_weighs_clips_unequally_is_refused() -> None:
    with pytest.raises(HostError, match=r"^--unroll on: expected a training loop that weighs all clips .* alike"):
        step(torch.arange(1.0, 7.0), taken=True)
