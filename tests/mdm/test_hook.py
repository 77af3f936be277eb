"""The hook on the stand-in: what it replaces and what it leaves, and the loss under 2D."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from clips import make_clip
from torch import Tensor, nn

from videomdm_ext import plugins
from videomdm_ext.config import Supervision
from videomdm_ext.data.folder import Card, write_folder
from videomdm_ext.data.refined import make_refined
from videomdm_ext.errors import ConfigError, HostError
from videomdm_ext.hookspecs import hookimpl
from videomdm_ext.mdm import hook, text
from videomdm_ext.mdm.speed import approximate
from videomdm_ext.mdm.supervise import OWN, weighted
from videomdm_ext.supervision import refinement
from videomdm_ext.supervision.objective import Objective
from videomdm_ext.supervision.observation import PREFIX, Observation
from videomdm_ext.supervision.unrolling import Ladder, noised

ROOT = Path(__file__).parents[2]
CARD = Card(name="a few", skeleton="smpl22", fps=20.0, lifter="bent", licence="zlib", sources=("a source",))
TWO = ("--supervision", "2d", "--teacher", "lifted", "--crop_frames", "20", "--text_features", "words")
SEAMS = (("utils.model_util", ("SpacedDiffusion", "MDM")), ("data_loaders.get_data", ("get_dataset", "get_collate_fn")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """-> a folder with three training clips and refined teachers after few iterations."""
    path = str(tmp_path_factory.mktemp("hook") / "set")
    members = {
        "train": [make_clip(), make_clip(name="walk", moving=True), make_clip(name="jump")],
        "test": [make_clip(name="punch")],
    }
    card = write_folder(path, members, CARD)
    with pytest.MonkeyPatch.context() as patch:
        brief = refinement.Refinement(first=10, rounds=0)
        patch.setattr(refinement, "Refinement", lambda: brief)
        make_refined(path, card)
    return path


def arguments(*words: str, **changes: Any) -> argparse.Namespace:
    """The host's final arguments, as far as the hook and model_util look at them."""
    parser = argparse.ArgumentParser()
    hook.add_options(parser.add_argument_group("diffusion"))
    host = {
        "seed": 10, "dataset": "humanml", "latent_dim": 16, "ff_size": 24, "layers": 1, "num_heads": 2, "dropout": 0.0,
        "unconstrained": False, "cond_mask_prob": 0.1, "arch": "trans_enc", "text_encoder_type": "clip",
        "pos_embed_max_len": 100, "mask_frames": True, "diffusion_steps": 50, "noise_schedule": "cosine",
        "sigma_small": True, "lambda_vel": 0.0,
    }  # fmt: skip
    return argparse.Namespace(**{**host, **changes}, **vars(parser.parse_args(list(words))))


@pytest.fixture(autouse=True)
def _clip_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` is the host's own text, as where CLIP loads."""
    own = text.load
    monkeypatch.setattr(text, "load", lambda manager, name: None if name == text.HOST else own(manager, name))


@pytest.fixture
def seams(standin_module: Callable[[str], ModuleType]) -> Iterator[Callable[[], dict[str, Any]]]:
    """-> what the four replaceable globals of the stand-in are now; afterwards they are the host's own again."""
    modules = {module: standin_module(module) for module, _ in SEAMS}
    yield lambda: {name: getattr(modules[module], name) for module, names in SEAMS for name in names}
    hook.activate(arguments())


@pytest.fixture
def host(seams, folder, standin_module) -> Callable[..., SimpleNamespace]:
    """-> activates with these words, builds what they ask for, and gives diffusion, model, dataset and one batch."""

    def build(*words: str, **changes: Any) -> SimpleNamespace:
        args = arguments("--clips", folder, *words, **changes)
        hook.activate(args)
        loader = standin_module("data_loaders.get_data").get_dataset_loader("humanml", 3, 20)
        torch.manual_seed(0)
        model, diffusion = standin_module("utils.model_util").create_model_and_diffusion(args, loader)
        loader.generator.manual_seed(0)
        loader.dataset.set_epoch(0)
        x_start, condition = next(iter(loader))
        return SimpleNamespace(
            model=model, diffusion=diffusion, dataset=loader.dataset, x_start=x_start, y=condition["y"]
        )

    return build


class Watched(nn.Module):
    """Predicts `answer` or, without one, what it is given, and keeps what it was asked."""

    def __init__(self, answer: Tensor | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.answer, self.calls = answer, []

    def forward(self, x: Tensor, t: Tensor, y: dict[str, Any]) -> Tensor:
        self.calls.append((x, t, y))
        return self.weight * (x if self.answer is None else self.answer)


def losses(built: SimpleNamespace, model: nn.Module, timestep: int = 30, seed: int = 5) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    t = torch.full((len(built.x_start),), timestep)
    return built.diffusion.training_losses(model, built.x_start, t, model_kwargs={"y": built.y}, dataset=built.dataset)


# -- what is replaced -------------------------------------------------------------------------------------------------


def test_under_3d_without_our_options_nothing_of_the_host_is_replaced(seams):
    before = seams()
    hook.activate(arguments())
    assert all(value is before[name] for name, value in seams().items())


def test_under_2d_all_seams_are_replaced_by_kinds_of_the_hosts_own(seams, folder):
    before = seams()
    hook.activate(arguments("--clips", folder, *TWO))
    now = seams()
    assert all(now[name] is not before[name] for name in before)
    for name in ("SpacedDiffusion", "MDM"):
        assert issubclass(now[name], before[name])


def test_going_back_to_3d_gives_the_host_its_own_again_and_nothing_piles_up(seams, folder):
    before = seams()
    for _ in range(3):
        hook.activate(arguments("--clips", folder, *TWO))
    assert [kind.__name__ for kind in seams()["SpacedDiffusion"].mro()].count("Supervised2D") == 1
    hook.activate(arguments())
    assert all(value is before[name] for name, value in seams().items())


@pytest.mark.parametrize(
    ("words", "replaced"),
    [
        (("--text_features", "words"), {"MDM"}),
        (("--clips", "somewhere"), {"get_dataset", "get_collate_fn"}),
        (("--clips", "somewhere", "--supervision", "2d"), {"SpacedDiffusion", "get_dataset", "get_collate_fn"}),
    ],
)
def test_an_option_replaces_what_it_speaks_of_and_no_more(seams, words, replaced):
    before = seams()
    hook.activate(arguments(*words))
    assert {name for name, value in seams().items() if value is not before[name]} == replaced


def test_the_stand_in_says_that_it_has_no_evaluators(seams, folder):
    hook.activate(arguments("--clips", folder))
    for mode in ("eval", "gt"):
        with pytest.raises(HostError, match=f"get_data.py: .*mode {mode!r}.*stand-in.*videomdm bench --dataset"):
            seams()["get_dataset"]("humanml", 20, split="test", hml_mode=mode)
    assert len(seams()["get_dataset"]("humanml", 20, split="test", hml_mode="text_only")) == 1


def test_a_plugin_wraps_what_is_loaded(seams, folder, monkeypatch):
    class Wrapping:
        @hookimpl
        def wrap_dataset(self, dataset: Any, split: str) -> Any:
            return (dataset, split)

    manager = plugins.create_manager()
    manager.register(Wrapping(), name="wrapping")
    monkeypatch.setattr(hook, "manager", lambda: manager)
    hook.activate(arguments("--clips", folder))
    dataset, split = seams()["get_dataset"]("humanml", 20, split="test")
    assert (dataset.clips[0].id, split) == ("punch_0", "test")


def test_the_denoiser_asks_our_encoder_for_its_text(host):
    built = host("--text_features", "words")
    texts = ["a person walks", "someone jumps"]
    expected = torch.stack([text.encode_words(each) for each in texts])
    assert torch.equal(built.model.encode_text(texts), expected.unsqueeze(0))


@pytest.mark.parametrize("words", [("--supervision", "3d", "--teacher", "lifted", "--crop_frames", "20"), TWO])
def test_an_unconstrained_model_trains_and_is_sampled_with_guidance_and_captions(host, standin_module, words):
    """What guides is the difference that a caption makes; there is none."""
    built = host(*words, unconstrained=True)
    assert {"loss"} <= losses(built, built.model).keys()
    built.model.eval()
    kind = standin_module("model.cfg_sampler").ClassifierFreeSampleModel
    own = kind.forward
    try:
        approximate.activate(arguments(unconstrained=True), [])
        guided = kind(built.model)
        x, t = torch.ones_like(built.x_start), torch.full((len(built.x_start),), 3)
        y = {**built.y, "text_embed": guided.encode_text(built.y["text"]), "scale": torch.full((len(x),), 2.5)}
        with torch.no_grad():
            assert torch.equal(guided(x, t, y), built.model(x, t, built.y))
    finally:
        kind.forward = own


# -- the loss ---------------------------------------------------------------------------------------------------------


def test_no_observation_reaches_the_denoiser_and_the_batch_keeps_its_own(host):
    built = host(*TWO, "--unroll", "off")
    before = {key: value.clone() if torch.is_tensor(value) else list(value) for key, value in built.y.items()}
    model = Watched()
    losses(built, model)
    ((_, t, y),) = model.calls
    assert set(y) == {"mask", "lengths", "text", "db_key"}
    assert t.tolist() == [30, 30, 30]
    assert built.y.keys() == before.keys()
    assert any(key.startswith(PREFIX) for key in built.y)
    assert all(torch.equal(built.y[key], before[key]) for key in before if torch.is_tensor(before[key]))


def test_one_pass_noises_the_teacher_as_the_host_does(host):
    built = host(*TWO, "--unroll", "off")
    model = Watched()
    losses(built, model, timestep=17)
    torch.manual_seed(5)
    expected = built.diffusion.q_sample(built.x_start, torch.full((3,), 17), noise=torch.randn_like(built.x_start))
    torch.testing.assert_close(model.calls[0][0], expected)


def test_the_loss_of_one_pass_is_the_objective_of_the_prediction(host):
    built = host(*TWO, "--unroll", "off", "--objective", "both", "--confidence", "linear", "--weight_ray", "0.5")
    answer = built.x_start + 0.1 * torch.randn(built.x_start.shape, generator=torch.Generator().manual_seed(1))
    config = Supervision(
        supervision="2d", teacher="lifted", unroll="off", objective="both", confidence="linear", weight_ray=0.5
    )
    observation, _ = Observation.take(built.y, "linear")
    expected = Objective(config, built.dataset.space)(answer, observation, built.x_start, torch.full((3,), 30))
    found = losses(built, Watched(answer))
    assert found.keys() == expected.keys() | {"passes"}
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=name)
    assert found["passes"].tolist() == [1.0, 1.0, 1.0]
    assert found["ray"].min() > 1e-4


def unrolled(built: SimpleNamespace, model: nn.Module) -> dict[str, Tensor]:
    """The losses of the first seed that draws a walk."""
    for seed in range(60):
        model.calls.clear()
        found = losses(built, model, seed=seed)
        if len(model.calls) > 1:
            return found
    pytest.fail("no walk was drawn")


def test_a_walk_takes_four_passes_from_the_noised_teacher_down_its_own_predictions(host):
    built = host(*TWO, "--unroll", "on")
    model = Watched(answer=0.5 * built.x_start)
    found = unrolled(built, model)
    assert found["passes"].tolist() == [4.0, 4.0, 4.0]
    timesteps = torch.stack([t for _, t, _ in model.calls], 1)
    assert (timesteps.diff(dim=1) < 0).all()
    assert (timesteps // 4 == torch.tensor([3, 2, 1, 0])).all()
    alpha_bar = torch.as_tensor(built.diffusion.alphas_cumprod, dtype=torch.float32)
    (x, t, _), (following, after, _) = model.calls[:2]
    implied = (x - alpha_bar[t].sqrt()[:, None, None, None] * model.answer) / (1 - alpha_bar[t]).sqrt()[
        :, None, None, None
    ]
    torch.testing.assert_close(following, noised(model.answer, implied, alpha_bar[after]), atol=1e-5, rtol=1e-4)
    assert not following.requires_grad


def test_the_loss_of_a_walk_is_the_mean_of_its_passes(host):
    """A prediction that is always the same costs the same in every pass, while `t` serves no part of the walk."""
    built = host(*TWO, "--unroll", "on")
    answer = 0.5 * built.x_start
    observation, _ = Observation.take(built.y)
    config = Supervision(supervision="2d", teacher="lifted")
    expected = Objective(config, built.dataset.space)(
        answer, observation, built.x_start, torch.zeros(3, dtype=torch.long)
    )
    torch.testing.assert_close(unrolled(built, Watched(answer))["loss"], expected["loss"])


def test_walks_are_as_frequent_as_the_ladder_says(host):
    built = host(*TWO, "--unroll", "on")
    torch.manual_seed(0)
    widths = [built.diffusion.walk_timesteps(torch.zeros(3, dtype=torch.long)).shape[1] for _ in range(600)]
    assert set(widths) == {1, 4}
    assert sum(widths) / 600 == pytest.approx(Ladder(4, 4, 50).passes, abs=0.2)


def test_the_gradient_reaches_the_denoiser_and_not_its_text(host):
    built = host(*TWO, "--unroll", "on")
    losses(built, built.model)["loss"].mean().backward()
    gradients = {name: p.grad for name, p in built.model.named_parameters()}
    assert all(g is not None and torch.isfinite(g).all() for g in gradients.values())
    assert gradients["output_process.poseFinal.weight"].abs().sum() > 0
    assert not any(name.startswith("clip_model") for name in gradients)


def test_the_loss_under_3d_is_the_hosts_own_masked_error_on_our_clips(host, seams):
    built = host("--supervision", "3d", "--teacher", "lifted", "--crop_frames", "105", "--text_features", "words")
    assert type(built.diffusion) is seams()["SpacedDiffusion"]
    assert type(built.diffusion).__module__ == "diffusion.respace"
    answer = 0.9 * built.x_start + 0.3
    found = losses(built, Watched(answer))
    valid = built.y["mask"]
    error = (answer - built.x_start).square() * valid
    expected = error.sum((1, 2, 3)) / (263 * valid.sum((1, 2, 3)))
    assert valid.float().mean() < 0.95
    torch.testing.assert_close(found["loss"], expected)
    assert set(found) == {"loss", "rot_mse"}


# -- terms of plugins -------------------------------------------------------------------------------------------------


def test_terms_are_chosen_with_their_weights():
    terms = {"a": min, "b": max}
    assert weighted(terms, "b=0.5,a=2") == {"b": (0.5, max), "a": (2.0, min)}
    assert weighted(terms, "") == {}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("c=1", "--extra_terms: expected terms among a, b, found 'c'"),
        ("a", "--extra_terms a: expected NAME=WEIGHT"),
        ("a=much", "--extra_terms a=much: expected NAME=WEIGHT, found weight 'much'"),
        ("a=nan", "--extra_terms a=nan: expected"),
        ("a=inf", "--extra_terms a=inf: expected"),
        ("a=-1", "--extra_terms a=-1: expected"),
        ("a=1,a=2", "--extra_terms: expected each term once, found 'a' twice"),
    ],
)
def test_terms_that_cannot_be_used_are_refused_with_the_option(asked, message):
    with pytest.raises(ConfigError) as caught:
        weighted({"a": min, "b": max}, asked)
    assert str(caught.value).startswith(message)


def test_a_term_that_would_hide_a_built_in_figure_is_refused(host):
    """The list of built-in names is complete: every objective and every term is on."""
    everything = ("--objective", "both", "--weight_floor", "1", "--weight_bone_length", "1")
    built = host(*TWO, *everything)
    logged = set(losses(built, Watched()))
    assert logged | {"motion"} == set(OWN)
    for name in logged:
        with pytest.raises(ConfigError, match=f"--extra_terms: '{name}' names a built-in figure"):
            weighted(dict.fromkeys(logged, min), f"{name}=1")
