"""The hook on the stand-in: what it replaces and what it leaves, and the loss under 2D."""

import argparse
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from videomdm_ext import plugins
from videomdm_ext.bench.plan import load_arm
from videomdm_ext.config import OLD_OPTIONS
from videomdm_ext.data.folder import read_folder
from videomdm_ext.errors import ConfigError, HostError, PluginError
from videomdm_ext.hookspecs import hookimpl
from videomdm_ext.mdm import hook, text
from videomdm_ext.mdm.loss import loss_terms
from videomdm_ext.mdm.speed import approximate
from videomdm_ext.motion.skeletons import SMPL22
from videomdm_ext.supervision.objective import Objective, weights_of
from videomdm_ext.supervision.observation import PREFIX, Observation
from videomdm_ext.supervision.terms import TERMS, Step, Term
from videomdm_ext.supervision.unrolling import noised

TWO = ("--supervision", "2d", "--teacher", "lifted", "--crop_frames", "20", "--text_features", "words")
SEAMS = (("utils.model_util", ("SpacedDiffusion", "MDM")), ("data_loaders.get_data", ("get_dataset", "get_collate_fn")))


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


def test_what_is_no_training_is_refused_in_one_of_several_processes(monkeypatch, tmp_path):
    """Before it reads the checkpoint, which is not there."""
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "here", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(HostError, match=r"WORLD_SIZE=2: expected one process, .* A training can be started as several"):
        hook.activate(arguments(model_path=str(tmp_path / "model000000001.pt")))


@pytest.fixture
def seams(standin_module: Callable[[str], ModuleType]) -> Iterator[Callable[[], dict[str, Any]]]:
    """-> what the four replaceable globals of the stand-in are now; afterwards they are the host's own again."""
    modules = {module: standin_module(module) for module, _ in SEAMS}
    hook.activate(arguments())  # whatever another test has left
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


def test_under_2d_all_seams_are_replaced_by_kinds_of_the_hosts_own_and_under_3d_none(seams, folder):
    """However often: nothing piles up, and the host gets its own again."""
    before = seams()
    hook.activate(arguments())
    assert all(value is before[name] for name, value in seams().items())
    for _ in range(3):
        hook.activate(arguments("--clips", folder, *TWO))
    now = seams()
    assert all(now[name] is not before[name] for name in before)
    for name in ("SpacedDiffusion", "MDM"):
        assert issubclass(now[name], before[name])
    assert [kind.__name__ for kind in now["SpacedDiffusion"].mro()].count("Supervised2D") == 1
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


def test_one_pass_noises_the_teacher_as_the_host_does_and_no_observation_reaches_the_denoiser(host):
    built = host(*TWO, "--unroll", "off")
    before = {key: value.clone() if torch.is_tensor(value) else list(value) for key, value in built.y.items()}
    model = Watched()
    losses(built, model)
    ((x, t, y),) = model.calls
    torch.manual_seed(5)
    torch.testing.assert_close(x, built.diffusion.q_sample(built.x_start, t, noise=torch.randn_like(built.x_start)))
    assert set(y) == {"mask", "lengths", "text", "db_key"}
    assert t.tolist() == [30, 30, 30]
    assert built.y.keys() == before.keys()
    assert any(key.startswith(PREFIX) for key in built.y)
    assert all(torch.equal(built.y[key], before[key]) for key in before if torch.is_tensor(before[key]))


def paid(built: SimpleNamespace, loss: str, prediction: Tensor, t: int = 0, **settings: Any) -> dict[str, Tensor]:
    """What the objective by itself gives."""
    observation, _ = Observation.take(built.y)
    timesteps = torch.full((len(prediction),), t)
    alpha_bar = torch.as_tensor(built.diffusion.alphas_cumprod, dtype=prediction.dtype)[timesteps]
    step = Step(prediction, built.x_start, timesteps, alpha_bar, observation, built.dataset.space, **settings)
    return Objective(weights_of(loss, TERMS), TERMS)(step)


def test_the_loss_of_one_pass_is_the_objective_of_the_prediction(host):
    loss = "reprojection,motion=0.5,floor"
    built = host(*TWO, "--unroll", "off", "--loss", loss, "--z_near", "0.7", "--depth_weight", "mean1")
    answer = built.x_start + 0.1 * torch.randn(built.x_start.shape, generator=torch.Generator().manual_seed(1))
    expected = paid(built, loss, answer, 30, near=0.7, depth_weight="mean1")
    found = losses(built, Watched(answer))
    assert found.keys() == expected.keys() | {"passes"}
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=name)
    assert found["passes"].tolist() == [1.0, 1.0, 1.0]
    assert found["motion"].min() > 1e-4


def unrolled(built: SimpleNamespace, model: nn.Module) -> dict[str, Tensor]:
    """The losses of the first seed that is unrolled."""
    for seed in range(60):
        model.calls.clear()
        found = losses(built, model, seed=seed)
        if len(model.calls) > 1:
            return found
    pytest.fail("no step was unrolled")


def test_an_unrolled_step_takes_four_passes_down_its_own_predictions_and_pays_their_mean(host):
    built = host(*TWO, "--unroll", "on", "--loss", "reprojection")
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
    # a prediction that is always the same costs the same in every pass, while `t` has no part in it
    torch.testing.assert_close(found["loss"], paid(built, "reprojection", model.answer)["loss"])


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


def gradient(built: SimpleNamespace, keypoints: Tensor) -> Tensor:
    """Of the loss with respect to the weights of the denoiser, for other keypoints of the same batch."""
    changed = SimpleNamespace(**{**vars(built), "y": {**built.y, f"{PREFIX}keypoints": keypoints}})
    built.model.zero_grad()
    losses(changed, built.model)["loss"].mean().backward()
    return torch.cat([p.grad.flatten() for p in built.model.parameters() if p.grad is not None])


@pytest.mark.parametrize(("arm", "changes"), [("2d", True), ("paper", True), ("refined", False), ("lifted", False)])
def test_the_keypoints_of_a_batch_change_the_gradient_of_2d_arms_and_of_no_other(host, folder, arm, changes):
    built = host(*load_arm(arm).flags, "--crop_frames", "20", "--text_features", "words")
    keypoints = built.y[f"{PREFIX}keypoints"]
    moved = keypoints.clone()
    moved[0, 5, SMPL22.index("l_knee"), 0] += 1 / 600  # one keypoint by about one pixel
    first, second = (gradient(built, points) for points in (keypoints, moved))
    assert torch.equal(gradient(built, keypoints), first)
    assert (not torch.equal(first, second)) == changes
    detected = {clip.id: clip for clip in read_folder(folder, "train")[1]}
    for name, length, seen in zip(built.y["db_key"], built.y["lengths"], keypoints, strict=True):
        points = torch.from_numpy(detected[name].keypoints)
        starts = range(len(points) - length + 1)
        assert any(torch.equal(seen[:length], points[start : start + length]) for start in starts), "the detector's"


def plugin(**terms: object) -> object:
    """A plugin that registers these loss terms."""

    def register_loss_terms(register: Callable[[str, object], None]) -> None:
        for name, term in terms.items():
            register(name, term)

    return type("Plugin", (), {"register_loss_terms": staticmethod(hookimpl(register_loss_terms))})()


def terms_with(**terms: object) -> dict[str, Term]:
    """The table with those of a plugin called `mine`."""
    manager = plugins.create_manager()
    manager.register(plugin(**terms), name="mine")
    return loss_terms(manager)


def test_a_plugins_terms_are_entries_of_the_table_with_their_weight_and_description():
    def stillness(step):
        """How little moves."""
        return step.positions.mean((1, 2, 3))

    table = terms_with(stillness=stillness, calm=Term(stillness, 0.25, "The same."))
    assert list(table) == [*TERMS, "stillness", "calm"]
    assert table["stillness"] == Term(stillness, 1.0, "How little moves.")
    assert weights_of("calm,stillness=3", table) == {"calm": 0.25, "stillness": 3.0}


@pytest.mark.parametrize(
    ("name", "term", "found"),
    [
        ("mine", lambda prediction, observation, space: 0, r"expected a function of \(step\), found"),
        ("mine", lambda: 0, r"expected a function of \(step\), found"),
        ("mine", "stillness", r"expected a function of \(step\), found 'stillness'"),
        ("mine", Term(lambda: 0), r"expected a function of \(step\), found"),
        ("behind", lambda step: 0, "expected a name that neither training logs"),
        ("reprojection", lambda step: 0, "nor --loss has as a preset"),
    ],
)
def test_a_term_that_cannot_be_one_is_refused_when_it_is_collected_with_the_plugins_name(name, term, found):
    with pytest.raises(PluginError, match=f"plugin mine: loss term '{name}': .*{found}"):
        terms_with(**{name: term})


def test_a_loss_with_an_unknown_term_is_refused_before_any_work(seams, folder):
    with pytest.raises(
        ConfigError, match=r"--loss jitter=1: expected reprojection, paper, or terms among position, .*'jitter'"
    ):
        hook.activate(arguments("--clips", folder, *TWO, "--loss", "jitter=1"))


def test_old_flags_are_written_back_as_the_loss_that_they_stand_for(seams, folder):
    """Each of them: tests/supervision/test_switches.py."""
    words = ("--objective", "both", "--weight_ray", "0.5", "--ray_depth", "teacher", "--teacher", "refined")
    args = arguments("--clips", folder, *TWO, *words)
    hook.activate(args)
    assert args.loss == "motion=0.5,reprojection"
    assert not vars(args).keys() & OLD_OPTIONS.keys()
    left_open = arguments("--clips", folder, "--supervision", "2d", "--text_features", "words")
    hook.activate(left_open)
    assert (left_open.teacher, left_open.loss, left_open.unroll) == ("refined", "posterior", "on")


def test_old_flags_are_neither_shown_nor_restored_from_args_json():
    group = argparse.ArgumentParser().add_argument_group("diffusion")
    hook.add_options(group)
    assert not {action.dest for action in group._group_actions} & OLD_OPTIONS.keys()
