"""Own random streams: a draw depends on the seed, its purpose and its place alone, not on what was drawn before."""

import random
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mdm_runs import same
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from videomdm_ext.mdm import pairing


class Drawing(Dataset[Any]):
    """Items drawn from all three global generators, as MDM's are from two of them."""

    mean = np.arange(3)

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> tuple[int, float, float, float]:
        return index, random.random(), float(np.random.rand()), torch.rand(()).item()


class Telling(Drawing):
    """A dataset that keys its draws itself, once it is told the epoch."""

    epoch = None

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __getitem__(self, index: int) -> tuple[int, int]:
        return self.epoch, index


def loader(dataset: Dataset[Any], workers: int = 0, batch_size: int = 3) -> DataLoader[Any]:
    """-> a loader as the host makes it."""
    return DataLoader(dataset, batch_size, shuffle=True, num_workers=workers, drop_last=True, collate_fn=list)


def batches(dataset: Dataset[Any], *, seed: int = 1, epoch: int = 0, start: int = 0, workers: int = 0) -> list[Any]:
    keyed, order = pairing.keyed_loader(loader(dataset, workers), seed)
    order.begin(epoch, start)
    return list(keyed)


def stir() -> None:
    """Draw something from every generator."""
    random.random(), np.random.rand(), torch.rand(())


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """The global generators of the other tests are left alone."""
    with pairing.preserved():
        yield


def test_a_seed_is_the_same_on_every_machine_and_fits_every_generator():
    assert pairing.derive(10, "noise", 3) == 8589562540330767022
    pairing.seed_all(pairing.derive(10, "noise", 3))
    assert torch.initial_seed() == 8589562540330767022


@given(st.lists(st.tuples(st.integers(0, 99), st.sampled_from(["order", "noise"]), st.integers(0, 99)), unique=True))
def test_different_places_get_different_seeds_below_2_to_the_63(places):
    seeds = [pairing.derive(*place) for place in places]
    assert len(set(seeds)) == len(places)
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize("epoch", [0, 7])
def test_an_epoch_takes_every_clip_at_most_once_in_whole_batches(epoch):
    indices = [item[0] for batch in batches(Drawing(), epoch=epoch) for item in batch]
    assert len(indices) == len(set(indices)) == 9
    assert set(indices) <= set(range(10))


def test_the_order_and_the_draws_differ_between_epochs_and_between_seeds_and_not_between_runs():
    first = batches(Drawing())
    items = [item for batch in first for item in batch]
    assert len({value for item in items for value in item[1:]}) == 3 * len(items), "each of its own"
    stir()
    assert batches(Drawing()) == first
    others = [batches(Drawing(), epoch=1), batches(Drawing(), seed=2)]
    for other in others:
        assert [item[0] for batch in other for item in batch] != [item[0] for batch in first for item in batch]
    assert {item[1:] for batch in first for item in batch}.isdisjoint(item[1:] for o in others for b in o for item in b)


@pytest.mark.parametrize("start", [1, 2, 3])
def test_a_later_start_gives_the_rest_of_the_same_epoch_without_loading_what_is_done(start):
    class Counting(Drawing):
        loaded = 0

        def __getitem__(self, index: int) -> tuple[int, float, float, float]:
            self.loaded += 1
            return super().__getitem__(index)

    dataset = Counting()
    assert batches(dataset, epoch=4, start=start) == batches(Drawing(), epoch=4)[start:]
    assert dataset.loaded == 3 * (3 - start)


@pytest.mark.parametrize("kind", [Drawing, Telling])
def test_workers_that_live_on_give_the_same_as_no_workers_in_every_epoch(kind):
    keyed, order = pairing.keyed_loader(loader(kind(), workers=2), 1)
    for epoch in (0, 5):
        order.begin(epoch, 0)
        assert list(keyed) == batches(kind(), epoch=epoch)
    assert {item[0] for batch in batches(Telling(), epoch=6) for item in batch} == {6}, "it keys its draws itself"


def test_loading_an_item_leaves_the_global_generators_alone():
    with pairing.preserved():
        expected = random.random(), np.random.rand(), torch.rand(()).item()
    keyed = pairing.Keyed(Drawing(), 1)
    assert keyed[0, 2] != keyed[1, 2]
    assert keyed.mean is Drawing.mean
    assert len(keyed) == 10
    assert not hasattr(keyed, "__getitems__")
    assert not hasattr(keyed, "space")
    assert (random.random(), np.random.rand(), torch.rand(()).item()) == expected


MODULE = """
import random
import numpy as np

class Data:
    def __init__(self, mode, split="train", **named):
        self.cached = named.get("use_cache", True)
        self.names = [random.choice("ABCDEFGH") for _ in range(20)]
        np.save(named["place"], self.names)

    def kind(self):
        return np.ndarray
"""


@pytest.fixture
def module(monkeypatch) -> ModuleType:
    """-> a module with a dataset class that caches as MDM's does."""
    made = ModuleType("data_of_a_test")
    monkeypatch.setitem(sys.modules, made.__name__, made)
    exec(MODULE, vars(made))
    made.Data.__module__ = made.__name__
    return made


def test_data_are_read_anew_with_the_same_names_and_the_cache_is_left_alone(module, tmp_path):
    cache = tmp_path / "cache.npy"
    fresh = pairing.fresh_dataset_class(lambda name: module.Data, 3)("humanml")
    numpy = module.np
    state = pairing.random_states()
    first = fresh("train", split="train", place=cache)
    assert same(pairing.random_states(), state), "no trace is left"
    stir()
    again = fresh("train", split="train", place=cache)
    other = fresh("train", split="test", place=cache)
    assert not first.cached
    assert not cache.exists()
    assert first.names == again.names != other.names
    assert issubclass(fresh, module.Data)
    assert fresh.__module__ == module.__name__
    assert module.np is numpy
    module.Data("train", place=cache)
    assert cache.exists()
    assert pairing.fresh_dataset_class(lambda name: module.Data, 3)("uestc") is module.Data, "it has no cache"


class Model(nn.Module):
    """A denoiser with a condition to hide and with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4))
        self.dropout = nn.Dropout(0.5)

    def mask_cond(self, cond: Tensor, force_mask: bool = False) -> Tensor:
        if force_mask:
            return torch.zeros_like(cond)
        return cond * torch.bernoulli(torch.full((cond.shape[-2], 1), 0.5)) if self.training else cond

    def forward(self, x: Tensor, timesteps: Tensor, y: Any = None) -> Tensor:
        hidden = self.mask_cond(torch.ones(1, 16, 1))
        y["seen"].append((hidden.flatten(), self.dropout(torch.ones(32))))
        return self.weight * x


class Diffusion:
    """A loss of some passes, before which `before` numbers are drawn."""

    def __init__(self, before: int = 0, passes: int = 1) -> None:
        self.before, self.passes = before, passes

    def training_losses(
        self, model: Any, x_start: Tensor, t: Tensor, model_kwargs: Any = None, noise: Tensor | None = None
    ) -> dict[str, Tensor]:
        ladder = torch.rand(3)
        torch.rand(self.before)
        for _ in range(self.passes):
            model(x_start, t, y=model_kwargs)
        return {"noise": noise, "ladder": ladder}


def one_step(step: int, *, before: int = 0, passes: int = 1, training: bool = True) -> SimpleNamespace:
    """-> what a step drew."""
    model = pairing.paired_model(Model, 1)()
    model.train(training)
    diffusion = pairing.paired_diffusion(Diffusion, 1)(before, passes)
    stir()
    diffusion.begin_step(step)
    t = np.random.rand(5)
    seen: list[tuple[Tensor, Tensor]] = []
    losses = diffusion.training_losses(model, torch.zeros(2, 4), torch.zeros(2), model_kwargs={"seen": seen})
    return SimpleNamespace(t=t, seen=seen, model=model, **losses)


def test_steps_of_arms_that_draw_differently_see_the_same():
    plain, walked = one_step(3), one_step(3, before=100, passes=3)
    assert np.array_equal(plain.t, walked.t)
    assert torch.equal(plain.noise, walked.noise)
    assert torch.equal(plain.ladder, walked.ladder)
    for ours, theirs in zip(plain.seen[0], walked.seen[0], strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(plain.model.weight, walked.model.weight)
    diffusion, given = pairing.paired_diffusion(Diffusion, 1)(), torch.ones(2, 4)
    diffusion.begin_step(0)
    more = {"model_kwargs": {"seen": []}, "noise": given}
    assert diffusion.training_losses(Model(), torch.zeros(2, 4), torch.zeros(2), **more)["noise"] is given


def test_passes_of_a_step_and_steps_of_a_run_differ():
    walked, next_step = one_step(3, passes=2), one_step(4)
    for place in (0, 1):
        assert not torch.equal(walked.seen[0][place], walked.seen[1][place])
        assert not torch.equal(walked.seen[0][place], next_step.seen[0][place])
    assert not torch.equal(walked.noise, next_step.noise)
    assert not np.array_equal(walked.t, next_step.t)


def test_hidden_conditions_are_drawn_beside_the_dropout():
    """A pass that hides nothing has the dropout of one that does."""

    class Shown(Model):
        def mask_cond(self, cond: Tensor, force_mask: bool = False) -> Tensor:
            return cond

    seen: list[tuple[Tensor, Tensor]] = []
    for kind in (Model, Shown):
        model = pairing.paired_model(kind, 1)()
        model.begin_step(2)
        model(torch.zeros(4), torch.zeros(2), y={"seen": seen})
    assert torch.equal(seen[0][1], seen[1][1])
    assert 0 < seen[0][0].sum() < 16


def test_outside_of_a_step_the_model_is_the_hosts_own():
    model = one_step(3).model
    for training in (True, False):
        model.train(training)
        torch.manual_seed(5)
        expected = Model().train(training), {"seen": []}
        torch.manual_seed(7)
        expected[0](torch.zeros(4), torch.zeros(2), y=expected[1])
        torch.manual_seed(7)
        found: dict[str, Any] = {"seen": []}
        model(torch.zeros(4), torch.zeros(2), y=found)
        for ours, theirs in zip(found["seen"][0], expected[1]["seen"][0], strict=True):
            assert torch.equal(ours, theirs)


def test_an_error_in_a_step_ends_it():
    class Broken(Diffusion):
        def training_losses(self, *positional: Any, **named: Any) -> dict[str, Tensor]:
            raise ValueError

    diffusion, model = pairing.paired_diffusion(Broken, 1)(), pairing.paired_model(Model, 1)()
    diffusion.begin_step(0)
    with pytest.raises(ValueError):  # noqa: PT011
        diffusion.training_losses(model, torch.zeros(2, 4), torch.zeros(2))
    assert model.paired_step is None
