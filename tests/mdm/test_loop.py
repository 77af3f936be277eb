"""The loop in the place of MDM's: whole files, evaluations that leave no trace, and where a paired run starts.

Here it runs on a small host with MDM's names; test_paired_runs.py has whole trainings of both hosts.
"""

import copy
import math
import random
import re
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from mdm_runs import same
from torch import Tensor, nn
from torch.utils.data import DataLoader

from videomdm_ext.errors import HostError
from videomdm_ext.mdm import loop, resume


class Trainer:
    """MDM's loop in small: the same names, a weight that only every other step has a use for, a frozen encoder."""

    def __init__(self, args: Any, train_platform: Any, model: Any, diffusion: Any, data: Any) -> None:
        self.args, self.model, self.diffusion, self.data = args, model, diffusion, data
        self.save_dir, self.step, self.device, self.num_steps = args.save_dir, 0, torch.device("cpu"), args.num_steps
        self.save_interval, self.log_interval, self.seen = args.save_interval, 1000, []
        self.model_avg = copy.deepcopy(model) if args.use_ema else None
        self._load_and_sync_parameters()
        self.opt = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)

    def _load_and_sync_parameters(self) -> None:
        pass

    def run_step(self, motion: Tensor, cond: dict[str, Any]) -> None:
        for weight in self.model.parameters():
            if weight.grad is not None:
                weight.grad.zero_()
        weights = list(self.model["head"].parameters())[: 1 + (self.step + 1) % 2]
        self.seen.append((self.step, motion, torch.rand(()).item()))
        terms = self.diffusion.training_losses(weights, self.seen[-1][2])
        terms["loss"].sum().backward()
        self.opt.step()
        self.update_average_model()

    def cond_modifiers(self, y: dict[str, Any], motion: Tensor) -> None:
        self.goal = random.random(), torch.rand(()).item()

    def save(self) -> None:
        for name in ("model", "opt"):
            Path(self.save_dir, f"{name}{self.step:09d}.pt").write_text(name)

    def ckpt_file_name(self) -> str:
        return f"model{self.step:09d}.pt"

    def evaluate(self) -> None:
        modules = [*self.model.modules(), *(self.model_avg.modules() if self.model_avg else ())]
        self.seen.append(("evaluated", self.step, any(module.training for module in modules), self.data))
        random.random(), torch.rand(1)

    def generate_during_training(self) -> None:
        self.seen.append(("generated", self.step))


class Step:
    def begin_step(self, step: int) -> None:
        torch.manual_seed(step)

    def training_losses(self, weights: list[Tensor], scale: float) -> dict[str, Tensor]:
        return {"loss": sum((weight * scale).sum() for weight in weights)[None]}


def small_host() -> Any:
    """-> a module with our loop on the small trainer."""
    module = ModuleType("training_loop_of_a_test")
    module.TrainLoop = Trainer
    module.load_model_wo_clip = lambda model, weights: model.load_state_dict(weights, strict=False)
    loop.replace(module)
    loop.replace(module)
    return module.TrainLoop


def small(folder: Path, **changes: Any) -> Any:
    """-> a loop of the small host over ten numbers in batches of three."""
    given = {"save_dir": str(folder), "num_steps": 5, "save_interval": 2, "lr_anneal_steps": 0, "use_ema": True}
    given |= {"paired": True, "seed": 1, "lr": 0.1, "avg_model_beta": 0.5, "resume_checkpoint": "", "overwrite": False}
    given |= {"eval_during_training": True, "gen_during_training": True, "multi_target_cond": False, "batch_size": 3}
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    model = nn.ModuleDict({"head": nn.Linear(2, 2), "clip_model": nn.Linear(2, 2).requires_grad_(False)})
    model["clip_model"].eval()
    size = (given | changes)["batch_size"]
    data = DataLoader(range(10), size, drop_last=True, collate_fn=lambda items: (torch.tensor(items), {"y": {}}))
    return small_host()(SimpleNamespace(**{**given, **changes}), None, model, Step(), data)


def test_evaluation_happens_at_each_save_without_training_and_leaves_no_trace(tmp_path):
    first, second = small(tmp_path / "first"), small(tmp_path / "second", save_interval=100)
    for made in (first, second):
        made.run_loop()
    evaluated = [entry for entry in first.seen if entry[0] == "evaluated"]
    assert [entry[1:3] for entry in evaluated] == [(2, False), (4, False), (5, False)]
    assert all(entry[3] is first.host_data for entry in evaluated)
    assert [entry[1] for entry in first.seen if entry[0] == "generated"] == [2, 4, 5]
    steps = [[entry for entry in made.seen if isinstance(entry[0], int)] for made in (first, second)]
    assert same(*steps)
    assert first.goal == second.goal
    assert [entry[0] for entry in steps[0]] == [0, 1, 2, 3, 4]
    for model in (first.model, first.model_avg):
        assert model["head"].training
        assert not model["clip_model"].training
    assert first.data is not first.host_data
    before = torch.get_rng_state(), random.getstate()
    first.checkpoint()
    assert same(before, (torch.get_rng_state(), random.getstate()))


@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_a_weight_without_a_gradient_in_a_resumed_step_decays_all_the_same(tmp_path, at):
    straight = small(tmp_path / "straight")
    straight.run_loop()
    small(tmp_path / "cut", num_steps=at).run_loop()
    resumed = small(tmp_path / "cut", resume_checkpoint=str(tmp_path / "cut" / f"model{at:09d}.pt"))
    resumed.run_loop()
    assert same(resumed.model.state_dict(), straight.model.state_dict())
    assert same(resumed.model_avg.state_dict(), straight.model_avg.state_dict())
    assert same(resumed.opt.state_dict(), straight.opt.state_dict())
    assert resumed.goal == straight.goal


def test_the_rate_ends_the_run_where_it_has_fallen_to_nothing(tmp_path):
    made = small(tmp_path / "run", lr_anneal_steps=3)
    made.run_loop()
    assert made.step == 3


def test_only_a_paired_run_is_one(tmp_path):
    assert isinstance(small(tmp_path), loop.Paired)
    assert not isinstance(small(tmp_path, paired=False), loop.Paired)
    assert [kind.__name__ for kind in small_host().mro()].count("Whole") == 1, "replacing twice changes nothing"


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 9"), HostError, "cannot be written"),
        (OSError(28, "No space left on device"), HostError, "cannot be written .*No space left"),
        (RuntimeError("CUDA error: an illegal memory access"), RuntimeError, "CUDA"),
    ],
)
def test_what_fails_in_saving_leaves_the_folder_as_it_was_and_a_full_disk_is_named(
    tmp_path, monkeypatch, error, kind, words
):
    made = small(tmp_path, paired=False)
    made.save()

    def broken(self: Any) -> None:
        Path(self.save_dir, "model000000007.pt").write_text("half")
        raise error

    monkeypatch.setattr(Trainer, "save", broken)
    with pytest.raises(kind, match=words):
        made.save()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model000000000.pt", "opt000000000.pt"]
    assert made.save_dir == str(tmp_path)


def spoil(made: Any, what: str, at: int) -> None:
    """From update `at` + 1 on, something of the small loop is not finite."""
    update, losses = made.update_average_model, made.diffusion.training_losses

    def spoiled_update() -> None:
        update()
        if made.step == at:
            if what == "weight":
                made.model["head"].weight.data[0, 1] = math.inf
            elif what == "average":
                made.model_avg["head"].bias.data[1] = math.nan
            elif what == "optimizer":
                made.opt.state[made.model["head"].weight]["exp_avg_sq"][0, 0] = math.inf

    def spoiled_losses(*positional: Any) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = losses(*positional)
        if made.step == at and what == "loss":
            made.loss = made.loss + math.nan
        return terms

    made.update_average_model, made.diffusion.training_losses = spoiled_update, spoiled_losses


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("loss", "the loss is nan at step 4"),
        ("weight", r"the weight head\.weight is not finite at step 4"),
        ("average", r"model_avg\.head\.bias, which model000000004\.pt would hold, is not finite"),
        ("optimizer", r"opt\.state\.0\.exp_avg_sq, which model000000004\.pt would hold, is not finite"),
    ],
)
def test_a_paired_run_stops_where_it_diverges_and_names_the_last_good_checkpoint(tmp_path, what, said):
    made = small(tmp_path / "run", num_steps=8)
    spoil(made, what, at=3)
    with pytest.raises(HostError, match=f"run: {said}.*last good checkpoint is .*model000000002.pt. Lower --lr"):
        made.run_loop()
    assert {resume.step_of(path) for path in resume.checkpoints(tmp_path / "run")} == {2}
    assert len(list((tmp_path / "run").iterdir())) == 3
    content = torch.load(tmp_path / "run" / "bundle000000002.pt")
    assert resume.first_broken(content) == ""


def test_a_run_by_the_hosts_own_count_stops_too_and_says_where_no_checkpoint_was_written(tmp_path):
    made = small(tmp_path, paired=False)
    spoil(made, "weight", at=0)
    with pytest.raises(HostError, match=r"not finite at step 0; the training stopped\. No checkpoint was written"):
        made.run_step(torch.zeros(3), {"y": {}})
    with pytest.raises(HostError, match=r"model\.head\.weight, which model000000000\.pt would hold"):
        made.save()
    assert not list(tmp_path.iterdir())


def test_a_folder_with_the_name_of_a_checkpoint_is_none(tmp_path):
    (tmp_path / "model000000002.pt").touch()
    (tmp_path / "model000000009.pt").mkdir()
    assert resume.newest(tmp_path) == tmp_path / "model000000002.pt"


def test_a_resumed_run_that_diverges_names_the_checkpoint_that_it_went_on_from(tmp_path):
    small(tmp_path / "run", num_steps=2).run_loop()
    start = str(tmp_path / "run" / "model000000002.pt")
    (tmp_path / "other").mkdir()
    resumed = small(tmp_path / "other", resume_checkpoint=start)
    spoil(resumed, "weight", at=2)
    with pytest.raises(HostError, match=f"at step 3.*last good checkpoint is {re.escape(start)}"):
        resumed.run_loop()


def start(folder: Path, checkpoint: str = "", bundled: bool = True) -> SimpleNamespace:
    args = SimpleNamespace(save_dir=str(folder), resume_checkpoint=checkpoint, overwrite=False, paired=True)
    resume.prepare(args, bundled=bundled)
    return args


def test_the_latest_checkpoint_is_the_one_with_the_highest_step_and_none_in_an_empty_folder(tmp_path):
    assert start(tmp_path / "new", "latest").resume_checkpoint == ""
    assert not start(tmp_path / "new", "latest").overwrite
    for step in (3, 12, 1_000_000_000):
        for kind in ("model", "bundle"):
            torch.save({}, tmp_path / f"{kind}{step:09d}.pt")
    (tmp_path / "modelx.pt").touch()
    args = start(tmp_path, "latest")
    assert args.resume_checkpoint == str(tmp_path / "model1000000000.pt")
    assert args.overwrite, "MDM asks for it in a folder that is there"
    assert start(tmp_path, str(tmp_path / "model000000003.pt")).resume_checkpoint.endswith("model000000003.pt")


def test_a_checkpoint_that_cannot_be_continued_is_refused(tmp_path):
    for name, chosen in (("expected a file model000000000.pt", "best.pt"), ("found none", "model000000001.pt")):
        with pytest.raises(HostError, match=name):
            start(tmp_path, str(tmp_path / chosen))
    torch.save({}, tmp_path / "model000000001.pt")
    with pytest.raises(HostError, match=r"bundle000000001\.pt"):
        start(tmp_path, "latest")
    with pytest.raises(HostError, match=r"opt000000001\.pt"):
        start(tmp_path, "latest", bundled=False)
    torch.save({}, tmp_path / "opt000000001.pt")
    assert start(tmp_path, "latest", bundled=False).resume_checkpoint.endswith("model000000001.pt")
