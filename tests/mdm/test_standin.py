"""The stand-in host: laws of its own, and where there is MDM, equality with it by itself and under our options."""

import sys
from types import SimpleNamespace

import forks
import pytest
import tolerances
import torch
from clips import CARD
from mdm_runs import CLIPS
from torch import nn

from videomdm_ext.data.building import write_folder
from videomdm_ext.errors import HostError
from videomdm_ext.mdm import checkout

SIZES = {"njoints": 263, "nfeats": 1, "latent_dim": 32, "ff_size": 48, "num_layers": 1, "cond_mode": "text"}


@pytest.fixture
def build(standin_module):
    """A small model: build(latent_dim=16, ...). Its text encoder is an embedding of a text's length."""

    class Model(standin_module("model.mdm").MDM):
        def load_and_freeze_clip(self, clip_version):
            return nn.Embedding(100, 512).requires_grad_(False)

        def clip_encode_text(self, raw_text):
            return self.clip_model(torch.tensor([len(text) for text in raw_text]))[None]

    def make(**changes):
        torch.manual_seed(0)
        return Model(**{**SIZES, "cond_mask_prob": 0.1, **changes}).eval()

    return make


@pytest.fixture
def diffusion(standin_module):
    args = SimpleNamespace(diffusion_steps=8, noise_schedule="cosine", sigma_small=True, lambda_vel=0.0)
    return standin_module("utils.model_util").create_gaussian_diffusion(args)


def batch(frames=12, lengths=(12, 7), generator=None):
    x = torch.randn(len(lengths), 263, 1, frames, generator=generator)
    mask = (torch.arange(frames) < torch.tensor(lengths)[:, None])[:, None, None]
    return x, {"mask": mask, "lengths": torch.tensor(lengths), "text": ["a man walks", "jump"]}


class Oracle(nn.Module):
    """Predicts one clean motion, whatever it sees."""

    cond_mode = "no_cond"

    def __init__(self, clean):
        super().__init__()
        self.clean = nn.Parameter(clean)

    def forward(self, x, timesteps, y=None):
        return self.clean.expand_as(x)


@pytest.mark.parametrize("sampler", ["p_sample_loop", "ddim_sample_loop"])
def test_a_denoiser_that_knows_the_motion_is_sampled_exactly(diffusion, generator, sampler):
    clean = torch.randn(2, 263, 1, 5, generator=generator)
    sample = getattr(diffusion, sampler)(Oracle(clean), clean.shape, clip_denoised=False, model_kwargs={"y": {}})
    torch.testing.assert_close(sample, clean, atol=1e-5, rtol=0)


def test_exact_prediction_costs_nothing_and_padding_does_not_matter(diffusion, generator):
    x, y = batch(generator=generator)
    t = torch.tensor([0, 5])
    assert diffusion.training_losses(Oracle(x), x, t, model_kwargs={"y": y})["loss"].max() == 0
    wrong = x + torch.randn(x.shape, generator=generator) * ~y["mask"]
    assert diffusion.training_losses(Oracle(wrong), x, t, model_kwargs={"y": y})["loss"].max() == 0
    off = diffusion.training_losses(Oracle(x + 2), x, t, model_kwargs={"y": y})["rot_mse"]
    torch.testing.assert_close(off, torch.full((2,), 4.0))


@pytest.mark.parametrize("kernel", [0, 5])
def test_masked_frames_do_not_reach_the_valid_ones(build, generator, kernel):
    model = build(mask_frames=True, conv_kernel=kernel)
    x, y = batch(generator=generator)
    changed = torch.where(y["mask"], x, torch.randn(x.shape, generator=generator))
    before, after = (model(value, torch.tensor([3, 3]), y) * y["mask"] for value in (x, changed))
    torch.testing.assert_close(before, after)
    model.mask_frames = False
    assert not torch.allclose(model(x, torch.tensor([3, 3]), y), model(changed, torch.tensor([3, 3]), y))


def test_a_convolved_layer_is_the_layer_of_frames_to_which_their_neighbours_are_added(build, generator):
    layer = build(conv_kernel=5, num_layers=1).seqTransEncoder.layers[0]
    tokens = torch.randn(1 + 9, 2, 32, generator=generator)
    weight, mixed = layer.neighbours.weight[:, 0].T, tokens.clone()
    for t in range(9):
        near = range(max(t - 2, 0), min(t + 3, 9))
        mixed[1 + t] += layer.neighbours.bias + sum(weight[s - t + 2] * tokens[1 + s] for s in near)
    plain = build(num_layers=1).seqTransEncoder.layers[0]
    plain.load_state_dict({k: v for k, v in layer.state_dict().items() if not k.startswith("neighbours")})
    torch.testing.assert_close(layer(tokens), plain(mixed))


def test_text_changes_the_output_unless_it_is_hidden(build, diffusion, generator):
    model = build()
    x, y = batch(generator=generator)
    t = torch.tensor([1, 4])
    other = {**y, "text": ["sit", "a person turns around"]}
    assert not torch.allclose(model(x, t, y), model(x, t, other))
    assert torch.equal(model(x, t, {**y, "uncond": True}), model(x, t, {**other, "uncond": True}))
    embedded = {"mask": y["mask"], "text_embed": model.encode_text(y["text"])}
    assert torch.equal(model(x, t, embedded), model(x, t, y))
    arguments = {"y": dict(y)}
    diffusion.p_sample_loop(model, x.shape, model_kwargs=arguments)
    assert set(arguments["y"]) == {"mask", "lengths", "text"}, "sampling leaves its arguments as they are"


def test_without_clip_or_data_the_error_says_what_to_choose(standin_module, monkeypatch):
    monkeypatch.setitem(sys.modules, "clip", None)
    with pytest.raises(RuntimeError, match="--text_features words or minilm"):
        standin_module("model.mdm").MDM(**SIZES)
    with pytest.raises(HostError, match="--clips DIR"):
        standin_module("data_loaders.get_data").get_dataset_loader("humanml", 4, 60)


def test_a_checkpoint_of_another_size_is_refused(build, standin_module, tmp_path):
    torch.save(build().state_dict(), tmp_path / "model.pt")
    with pytest.raises(HostError, match=r"args\.json must be its own"):
        standin_module("utils.model_util").load_saved_model(build(latent_dim=16), tmp_path / "model.pt")


def test_the_arguments_of_a_run_before_there_were_convolutions_ask_for_none(standin_module):
    names = "latent_dim ff_size num_heads dropout cond_mask_prob arch dataset pos_embed_max_len mask_frames layers"
    args = SimpleNamespace(**dict.fromkeys(names.split()), unconstrained=True)
    data = SimpleNamespace(dataset=None)
    assert standin_module("utils.model_util").get_model_args(args, data)["conv_kernel"] == 0


OBJECTIVES = ("posterior", "reprojection", "reprojection,motion")
WALKS = ("off", "on")

PROGRAM = """
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import torch
from torch import nn

root, out, weights, folder = sys.argv[1:5]
torch.set_num_threads(1)
clip = sys.modules["clip"] = ModuleType("clip")
clip.load, clip.tokenize = (lambda name, **how: None), list

from videomdm_ext.mdm import checkout, hook, remedies

remedies.prepare()
host = checkout.find(root)
hook.claim(host)
import data_loaders.get_data as get_data
import utils.model_util as mu
from data_loaders.humanml.scripts.motion_process import recover_from_ric
from diffusion.gaussian_diffusion import get_named_beta_schedule
from diffusion.resample import UniformSampler
from diffusion.respace import space_timesteps
from model.cfg_sampler import ClassifierFreeSampleModel
from utils import parser_util

mu.MDM.load_and_freeze_clip = lambda model, version: nn.Module()
sys.argv = ["train", "--save_dir", "none", "--layers", "2", "--latent_dim", "64", "--diffusion_steps", "10"]
args = parser_util.train_args()
args.lambda_vel = 0.5
torch.manual_seed(0)
model, diffusion = mu.create_model_and_diffusion(args, SimpleNamespace(dataset=SimpleNamespace()))
result, tensors = {"initial": {k: v.clone() for k, v in model.state_dict().items()}}, {}
if weights != "none":
    mu.load_saved_model(model, weights + ".own")
torch.save(model.state_dict(), out + ".own")
model.eval()

g = torch.Generator().manual_seed(1)
x, noise = torch.randn(2, 2, 263, 1, 9, generator=g)
mask = (torch.arange(9) < torch.tensor([9, 5])[:, None])[:, None, None]
t = torch.tensor([2, 7])


def y(**more):
    embedding = torch.randn(1, 2, 512, generator=torch.Generator().manual_seed(2))
    return {"mask": mask, "lengths": torch.tensor([9, 5]), "text_embed": embedding, **more}


with torch.no_grad():
    for masked in (False, True):
        model.mask_frames = masked
        tensors[f"denoiser, mask_frames {masked}"] = model(x, t, y())
    tensors["denoiser, text hidden"] = model(x, t, y(uncond=True))
    guided = ClassifierFreeSampleModel(model)
    guided.eval()
    tensors["guided"] = guided(x, t, y(scale=torch.tensor([2.5, 1.5])))
    tensors["q_sample"] = diffusion.q_sample(x, t, noise=noise)
    for name, loop, more in (
        ("p_sample_loop", diffusion.p_sample_loop, {"clip_denoised": False}),
        ("p_sample_loop, clipped, skipping", diffusion.p_sample_loop, {"skip_timesteps": 3, "init_image": x}),
        ("ddim_sample_loop", diffusion.ddim_sample_loop, {"clip_denoised": False}),
    ):
        torch.manual_seed(3)
        tensors[name] = loop(model, tuple(x.shape), model_kwargs={"y": y()}, **more)
    torch.manual_seed(3)
    tensors["p_sample_loop, guided"] = diffusion.p_sample_loop(
        guided, tuple(x.shape), clip_denoised=False, model_kwargs={"y": y(scale=torch.full((2,), 2.5))})

for training in (False, True):
    model.train(training)
    torch.manual_seed(4)
    losses = diffusion.training_losses(model, x, t, model_kwargs={"y": y()}, noise=noise, dataset=None)
    losses["loss"].mean().backward()
    tensors.update({f"training {training}, {k}": v.detach() for k, v in losses.items()})
gradients = {k: p.grad for k, p in model.named_parameters() if p.grad is not None}
tensors["gradients"] = torch.cat([gradients[k].flatten() for k in sorted(gradients)])

for schedule in ("linear", "cosine"):
    tensors[f"betas, {schedule}"] = torch.from_numpy(get_named_beta_schedule(schedule, 50))
for name in ("posterior_variance", "posterior_mean_coef1", "posterior_log_variance_clipped"):
    tensors[f"table {name}"] = torch.from_numpy(getattr(diffusion, name))
large = mu.create_gaussian_diffusion(SimpleNamespace(**{**vars(args), "sigma_small": False}))
torch.manual_seed(3)
tensors["p_sample_loop, large variance"] = large.p_sample_loop(model, tuple(x.shape), model_kwargs={"y": y()})
tensors["spaced"] = torch.tensor([sorted(space_timesteps(100, [10, 6])), sorted(space_timesteps(31, [16]))])
np.random.seed(5)
tensors["timesteps"], tensors["timestep weights"] = UniformSampler(diffusion).sample(20, "cpu")
tensors["positions"] = recover_from_ric(torch.randn(2, 7, 263, generator=g), 22)
result["tensors"] = tensors

hook.use(host)  # from here on under our options
SIZES = ["--save_dir", "none", "--layers", "1", "--latent_dim", "32", "--diffusion_steps", "50", "--mask_frames"]
own = {"SpacedDiffusion": mu.SpacedDiffusion, "MDM": mu.MDM, "get_dataset": get_data.get_dataset,
       "get_collate_fn": get_data.get_collate_fn}


def parse(*words):
    sys.argv = ["train", *SIZES, *words]
    return parser_util.train_args()


def is_own(name):
    module = mu if name in vars(mu) else get_data
    return getattr(module, name) is own[name]


parse()
result["own under 3d"] = {name: is_own(name) for name in own}
result["from"] = own["SpacedDiffusion"].__module__, sys.modules[own["SpacedDiffusion"].__module__].__file__
clips = ["--clips", folder, "--crop_frames", "24", "--text_features", "words"]
two = ["--supervision", "2d", "--teacher", "lifted", *clips]
t = torch.tensor([3, 20, 44])

for objective in ("posterior", "reprojection", "reprojection,motion"):
    for walk in ("off", "on"):
        args = parse(*two, "--loss", objective, "--unroll", walk)
        dataset = get_data.get_dataset("humanml", 60)
        collate = get_data.get_collate_fn("humanml", batch_size=3)
        dataset.set_epoch(0)
        x_start, condition = collate([dataset[i] for i in range(3)])
        torch.manual_seed(0)
        model, diffusion = mu.create_model_and_diffusion(args, type("Data", (), {"dataset": dataset}))
        result["own under 2d"] = {name: is_own(name) for name in own}
        if weights != "none":
            model.load_state_dict(torch.load(weights + ".ours"))
        else:
            torch.save(model.state_dict(), out + ".ours")
        model.eval()
        assert any(key.startswith("observation/") for key in condition["y"])
        for seed in range(40):
            torch.manual_seed(seed)
            terms = diffusion.training_losses(model, x_start, t, model_kwargs=condition, dataset=dataset)
            if terms["passes"][0] == (1 if walk == "off" else 4):
                break
        terms["loss"].mean().backward()
        trained = model.parameters_wo_clip()
        before = [p.detach().clone() for p in trained]
        gradient = torch.cat([p.grad.flatten() for p in trained if p.grad is not None])
        torch.optim.AdamW(trained, lr=1e-2).step()
        moved = sum(not torch.equal(a, b) for a, b in zip(before, trained))
        result[objective, walk] = {
            "terms": {name: value.detach() for name, value in terms.items()}, "gradient": gradient, "moved": moved,
            "parameters": len(before), "y": sorted(condition["y"]),
        }
args = parse("--supervision", "3d", *clips)
dataset = get_data.get_dataset("humanml", 60)
dataset.set_epoch(0)
x_start, condition = get_data.get_collate_fn("humanml", batch_size=3)([dataset[i] for i in range(3)])
_, diffusion = mu.create_model_and_diffusion(args, type("Data", (), {"dataset": dataset}))
torch.manual_seed(1)
terms = diffusion.training_losses(model, x_start, t, model_kwargs=condition, dataset=dataset)
result["three"] = {"type": type(diffusion) is own["SpacedDiffusion"], "loss": terms["loss"].detach(),
                   "terms": sorted(terms)}
torch.save(result, out)
"""


@pytest.fixture(scope="module")
def both(mdm_checkout, tmp_path_factory) -> tuple[dict, dict]:
    """-> what the program found in the stand-in and, with the weights that it saved, in MDM."""
    folder = tmp_path_factory.mktemp("hosts")
    write_folder(str(folder / "set"), {"train": CLIPS}, CARD)
    weights = "none"
    for root in (checkout.standin().root, mdm_checkout.root):
        out = folder / root.name
        words = ["-c", PROGRAM, str(root), str(out), weights, str(folder / "set")]
        done = forks.run(words, env={"VIDEOMDM_PLUGINS": None})
        assert done.returncode == 0, done.stderr
        weights = str(folder / "standin")
    return torch.load(weights), torch.load(out)


@pytest.mark.mdm
def test_equal_weights_give_equal_results_in_both_hosts_which_begin_with_the_same_ones(both):
    """MDM loads what the stand-in has saved, after its own initial values have been noted."""
    ours, theirs = (found["tensors"] for found in both)
    assert set(ours) == set(theirs)
    worst = {name: (ours[name] - theirs[name]).abs().max().item() for name in ours}
    assert {name: error for name, error in worst.items() if not error <= tolerances.EQUAL_WEIGHTS} == {}
    ours, theirs = (found["initial"] for found in both)
    assert list(ours) == list(theirs)
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], msg=name)
    # the comparison is not between constants
    ours = both[0]["tensors"]
    assert all(ours[name].std() > 0.01 for name in ours if "sample_loop" in name)
    assert ours["gradients"].abs().max() > 0
    assert not torch.allclose(ours["denoiser, mask_frames False"], ours["denoiser, mask_frames True"])


@pytest.mark.mdm
def test_under_3d_with_default_options_mdm_keeps_its_own(both, mdm_checkout):
    found = both[1]
    assert found["own under 3d"] == dict.fromkeys(("SpacedDiffusion", "MDM", "get_dataset", "get_collate_fn"), True)
    assert found["from"] == ("diffusion.respace", str(mdm_checkout.root / "diffusion" / "respace.py"))
    assert not any(found["own under 2d"].values())


@pytest.mark.mdm
@pytest.mark.parametrize("walk", WALKS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_equal_weights_batch_and_seed_give_equal_losses_in_both_hosts(both, objective, walk):
    ours, theirs = (found[objective, walk] for found in both)
    assert ours["terms"].keys() == theirs["terms"].keys()
    for name, value in ours["terms"].items():
        torch.testing.assert_close(theirs["terms"][name], value, atol=tolerances.EQUAL_WEIGHTS, rtol=1e-5, msg=name)
    assert ours["terms"]["loss"].min() > 0.01
    assert theirs["moved"] == theirs["parameters"] > 10, "every weight of the denoiser is trained"
    assert torch.isfinite(theirs["gradient"]).all()
    assert theirs["terms"]["passes"].tolist() == [4.0 if walk == "on" else 1.0] * 3
    assert "observation/keypoints" in theirs["y"]
    scale = ours["gradient"].abs().max()
    torch.testing.assert_close(theirs["gradient"] / scale, ours["gradient"] / scale, atol=1e-4, rtol=0)


@pytest.mark.mdm
def test_under_3d_our_clips_get_mdms_own_loss_in_both_hosts(both):
    ours, theirs = (found["three"] for found in both)
    assert ours["type"]
    assert theirs["type"]
    assert theirs["terms"] == ours["terms"]
    torch.testing.assert_close(theirs["loss"], ours["loss"], atol=tolerances.EQUAL_WEIGHTS, rtol=1e-5)
