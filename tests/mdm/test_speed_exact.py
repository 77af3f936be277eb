"""Savings in MDM's modules: each gives, bit for bit, what a slow twin gives."""

from types import SimpleNamespace

import forks
import mdm_runs
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from videomdm_ext.mdm.speed import exact


def slow_look_up(table: np.ndarray, timesteps: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The values one at a time."""
    values = torch.stack([torch.tensor(table[step]).float() for step in timesteps.tolist()])
    return values.reshape(len(timesteps), *[1] * (len(shape) - 1)).expand(shape)


def slow_norms(parameters: list[Tensor]) -> tuple[float, float]:
    """Squared norms with one transfer each."""
    gradient = weight = 0.0
    for parameter in parameters:
        weight += torch.norm(parameter.detach(), p=2, dtype=torch.float32).item() ** 2
        if parameter.grad is not None:
            gradient += torch.norm(parameter.grad, p=2, dtype=torch.float32).item() ** 2
    return gradient, weight


@pytest.mark.parametrize("shape", [(5,), (5, 3), (5, 263, 1, 20)])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_schedule_values_are_those_of_the_table_however_often_they_are_asked_for(shape, dtype):
    timesteps = torch.tensor([0, 49, 7, 7, 20])
    for seed in (1, 2, 1, 2):
        table = np.random.default_rng(seed).random(50).astype(dtype)
        found = exact.look_up(table, timesteps, shape)
        assert found.dtype == torch.float32
        assert torch.equal(found, slow_look_up(table, timesteps, shape))
        assert found.shape == shape
        table[7] = 9.0
        assert exact.look_up(table, timesteps, shape)[2].max() == 9.0, "a table that is changed in place"


def parameters(frozen: int = 3) -> list[nn.Parameter]:
    """-> weights of several shapes and both precisions, some frozen, some without a gradient."""
    draw = torch.Generator().manual_seed(3)
    made = [nn.Parameter(torch.randn(size, 7, generator=draw)) for size in range(1, 12)]
    made[4] = nn.Parameter(made[4].detach().half())
    for index, parameter in enumerate(made):
        if index % 4 == 1 and frozen:
            parameter.requires_grad = False
        elif index != 2:
            parameter.grad = torch.randn(parameter.shape, generator=draw).to(parameter.dtype)
    return made


def test_norms_are_the_slow_ones_in_every_step_whether_weights_move_or_not():
    trained, known = parameters(), {}
    for _ in range(3):
        assert exact.norms(trained, known) == slow_norms(trained)
        with torch.no_grad():
            trained[0].mul_(1.1)
    assert len(known) == 3
    assert exact.norms([], {}) == (0.0, 0.0)
    assert exact.norms([nn.Parameter(torch.ones(4))], {}) == (0.0, 4.0)


def test_a_frozen_weight_that_changes_all_the_same_is_measured_again():
    trained, known = parameters(), {}
    exact.norms(trained, known)
    with torch.no_grad():
        trained[1].add_(1.0)
    assert exact.norms(trained, known) == slow_norms(trained)
    trained[5].data = torch.ones(2, 2)
    assert exact.norms(trained, known) == slow_norms(trained)
    trained[1].requires_grad = True
    trained[1].grad = torch.ones_like(trained[1])
    assert exact.norms(trained, known) == slow_norms(trained)


@pytest.mark.parametrize("frozen", [True, False])
def test_the_average_moves_by_the_hosts_own_operations_and_of_the_text_encoder_where_it_is_asked_for(frozen):
    model, average = (nn.ModuleDict({"clip_model": nn.Linear(9, 9), "head": nn.Linear(9, 3)}) for _ in range(2))
    model["clip_model"].half().requires_grad_(False)
    average["clip_model"].half()
    model["head"].bias.requires_grad_(False)
    slow = [mean.detach().clone() for mean in average.parameters()]
    moved = [2, 3] if not frozen else [0, 1, 2, 3]
    for _ in range(3):
        exact.move_average(model, average, 0.99, frozen=frozen)
        for index, weight in enumerate(model.parameters()):
            if index in moved:
                slow[index].mul_(0.99).add_(weight.data, alpha=1 - 0.99)
        assert all(map(torch.equal, average.parameters(), slow))


def test_batches_on_a_device_are_the_loaders_own():
    batch = (torch.ones(2), {"y": {"mask": torch.zeros(3), "text": ["a"], "nested": [torch.ones(1)]}, "other": 5})
    data = SimpleNamespace(dataset="theirs")
    kind = type("Loader", (), {"__iter__": lambda self: iter([batch]), "__len__": lambda self: 7, "dataset": "theirs"})
    moved = exact.OnDevice(kind(), torch.device("meta"))
    ((motion, condition),) = moved
    assert motion.device.type == condition["y"]["mask"].device.type == "meta"
    assert condition["y"]["nested"][0].device.type == "cpu"
    assert (condition["y"]["text"], condition["other"]) == (["a"], 5)
    assert (len(moved), moved.dataset) == (7, data.dataset)
    assert batch[1]["y"]["mask"].device.type == "cpu"


PROGRAM = """
import json
import sys
import timeit

import numpy as np
import torch
from torch import nn

torch.set_num_threads(1)
from videomdm_ext.mdm import checkout, hook, remedies
from videomdm_ext.mdm.speed import exact

remedies.prepare()
hook.claim(checkout.find(sys.argv[1]))
from diffusion import fp16_util, gaussian_diffusion as gd, respace

x, t, result = torch.randn(5, 263, 1, 8), torch.tensor([0, 19, 3, 3, 11]), {}


class Net(nn.Module):
    def forward(self, x, timesteps, y=None):
        return x * timesteps.view(-1, 1, 1, 1)


def diffusion(rescale):
    betas = gd.get_named_beta_schedule("cosine", 50, 1.0)
    kinds = gd.ModelMeanType.START_X, gd.ModelVarType.FIXED_SMALL, gd.LossType.MSE
    return respace.SpacedDiffusion(
        respace.space_timesteps(50, [20]), betas=betas, model_mean_type=kinds[0], model_var_type=kinds[1],
        loss_type=kinds[2], rescale_timesteps=rescale,
    )


models = [diffusion(rescale) for rescale in (False, True)]
trainer = fp16_util.MixedPrecisionTrainer(model=nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2).requires_grad_(False)))
trainer.model(torch.ones(3)).sum().backward()


def everything():
    found = []
    for made in models:
        torch.manual_seed(0)
        out = made.p_mean_variance(Net(), x, t, clip_denoised=False, model_kwargs={"y": {}})
        found += [made.q_sample(x, t, noise=x.flip(0)), *out.values(), *made.q_posterior_mean_variance(x, x, t)]
        found.append(made._wrap_model(Net())(x, t, y=None))
    found += [torch.tensor(float(value)) for value in (*trainer._compute_norms(), *trainer._compute_norms(4.0))]
    return found, [type(value).__name__ for value in trainer._compute_norms()]


def seconds():
    return min(timeit.repeat(lambda: models[0].q_sample(x, t, noise=x), number=300, repeat=5))


before, took = everything(), seconds()
exact.attach()
ours = everything()
extract, gd._extract_into_tensor = gd._extract_into_tensor, exact.look_up
as_on_a_gpu = everything()
gd._extract_into_tensor = extract
result["equal"] = [
    all(map(torch.equal, before[0], after[0])) and before[1] == after[1] for after in (ours, as_on_a_gpu)
]
result["count"] = len(before[0])
result["tables"] = exact._table.cache_info().currsize
result["slower"] = seconds() / took
print(json.dumps(result))
"""


@pytest.mark.mdm
def test_mdms_own_results_stay_as_they_are_and_nothing_is_slower_on_the_cpu(mdm_checkout):
    found = mdm_runs.answer(forks.run(["-c", PROGRAM, str(mdm_checkout.root)]))
    assert found["equal"] == [True, True]
    assert found["count"] > 15
    assert found["tables"] > 5
    assert found["slower"] < 2.0, "a wide limit, as other programs may run beside"
