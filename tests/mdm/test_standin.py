"""The stand-in host: laws of its own, and equality with MDM where a checkout of it is present."""

import sys
from types import SimpleNamespace

import forks
import pytest
import tolerances
import torch
from torch import nn

from videomdm_ext.errors import HostError
from videomdm_ext.mdm import checkout

SIZES = {"njoints": 263, "nfeats": 1, "latent_dim": 32, "ff_size": 48, "num_layers": 1, "num_heads": 4}
REST = {
    "modeltype": "", "num_actions": 1, "translation": True, "pose_rep": "rot6d", "glob": True, "glob_rot": True,
    "data_rep": "hml_vec", "dataset": "humanml", "clip_version": "ViT-B/32",
}  # fmt: skip


@pytest.fixture
def build(standin_module):
    """A small model: build(cond_mode="text", ...). Its text encoder is an embedding of a text's length."""

    class Model(standin_module("model.mdm").MDM):
        def load_and_freeze_clip(self, clip_version):
            return nn.Embedding(100, 512).requires_grad_(False)

        def clip_encode_text(self, raw_text):
            return self.clip_model(torch.tensor([len(text) for text in raw_text]))[None]

    def make(**changes):
        torch.manual_seed(0)
        return Model(**{**SIZES, **REST, "cond_mode": "text", "cond_mask_prob": 0.1, **changes}).eval()

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


def test_masked_frames_do_not_reach_the_valid_ones(build, generator):
    model = build(mask_frames=True)
    x, y = batch(generator=generator)
    changed = torch.where(y["mask"], x, torch.randn(x.shape, generator=generator))
    before, after = (model(value, torch.tensor([3, 3]), y) * y["mask"] for value in (x, changed))
    torch.testing.assert_close(before, after)
    model.mask_frames = False
    assert not torch.allclose(model(x, torch.tensor([3, 3]), y), model(changed, torch.tensor([3, 3]), y))


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
        standin_module("model.mdm").MDM(**SIZES, **REST, cond_mode="text")
    with pytest.raises(HostError, match="--clips DIR"):
        standin_module("data_loaders.get_data").get_dataset_loader("humanml", 4, 60)


def test_channels_follow_the_dataset(standin_module):
    args = SimpleNamespace(
        latent_dim=32, ff_size=48, layers=1, num_heads=4, dropout=0.1, unconstrained=True, cond_mask_prob=0.1,
        arch="trans_enc", dataset="humanml", text_encoder_type="clip", pos_embed_max_len=100, mask_frames=True,
    )  # fmt: skip
    model_args = standin_module("utils.model_util").get_model_args
    assert model_args(args, SimpleNamespace(dataset=SimpleNamespace(num_features=191)))["njoints"] == 191
    assert model_args(args, SimpleNamespace(dataset=SimpleNamespace()))["njoints"] == 263


def test_a_batch_is_padded_and_masked(standin_module):
    clips = [{"inp": torch.ones(263, 1, n), "lengths": n, "text": f"{n}", "key": f"clip{n}"} for n in (3, 5)]
    motion, cond = standin_module("data_loaders.tensors").collate(clips)
    assert motion.shape == (2, 263, 1, 5)
    assert torch.equal(motion[:, 0, 0].bool(), cond["y"]["mask"][:, 0, 0])
    assert cond["y"]["mask"].sum((1, 2, 3)).tolist() == cond["y"]["lengths"].tolist() == [3, 5]
    assert cond["y"]["text"] == ["3", "5"]
    assert cond["y"]["db_key"] == ["clip3", "clip5"]


def test_a_checkpoint_of_another_size_is_refused(build, standin_module, tmp_path):
    torch.save(build().state_dict(), tmp_path / "model.pt")
    with pytest.raises(HostError, match=r"args\.json must be its own"):
        standin_module("utils.model_util").load_saved_model(build(latent_dim=16), tmp_path / "model.pt")


PROGRAM = """
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import torch
from torch import nn

root, out, weights = sys.argv[1:4]
sys.path.insert(0, root)
torch.set_num_threads(1)


class Empty(nn.Module):
    pass


for name, content in {"clip": {}, "smplx": {"SMPLLayer": Empty}, "smplx.lbs": {"vertices2joints": None}}.items():
    sys.modules[name] = ModuleType(name)
    vars(sys.modules[name]).update(content)

import utils.model_util as mu
from data_loaders.humanml.scripts.motion_process import recover_from_ric
from diffusion.gaussian_diffusion import get_named_beta_schedule
from diffusion.resample import create_named_schedule_sampler
from diffusion.respace import space_timesteps
from model.cfg_sampler import ClassifierFreeSampleModel
from utils import parser_util

try:
    import model.rotation2xyz as rotation2xyz
    rotation2xyz.SMPL = Empty
except ImportError:
    pass


class Model(mu.MDM):
    def load_and_freeze_clip(self, clip_version):
        return Empty()


mu.MDM = Model
sys.argv = ["train", "--save_dir", "none", "--layers", "2", "--latent_dim", "64", "--diffusion_steps", "10"]
args = parser_util.train_args()
args.lambda_vel = 0.5
torch.manual_seed(0)
model, diffusion = mu.create_model_and_diffusion(args, SimpleNamespace(dataset=SimpleNamespace()))
result = {"initial": {k: v.clone() for k, v in model.state_dict().items()}}
if weights != "none":
    mu.load_saved_model(model, weights)
torch.save(model.state_dict(), out + ".weights")
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
        result[f"denoiser, mask_frames {masked}"] = model(x, t, y())
    result["denoiser, text hidden"] = model(x, t, y(uncond=True))
    guided = ClassifierFreeSampleModel(model)
    guided.eval()
    result["guided"] = guided(x, t, y(scale=torch.tensor([2.5, 1.5])))
    result["q_sample"] = diffusion.q_sample(x, t, noise=noise)
    result["q_posterior"] = torch.stack(diffusion.q_posterior_mean_variance(x, noise, t))
    for name, loop, more in (
        ("p_sample_loop", diffusion.p_sample_loop, {"clip_denoised": False}),
        ("p_sample_loop, clipped, skipping", diffusion.p_sample_loop, {"skip_timesteps": 3, "init_image": x}),
        ("p_sample_loop, one noise", diffusion.p_sample_loop, {"const_noise": True}),
        ("ddim_sample_loop", diffusion.ddim_sample_loop, {"clip_denoised": False}),
        ("ddim_sample_loop, eta", diffusion.ddim_sample_loop, {"clip_denoised": False, "eta": 0.5}),
    ):
        torch.manual_seed(3)
        result[name] = loop(model, tuple(x.shape), model_kwargs={"y": y()}, **more)
    torch.manual_seed(3)
    result["p_sample_loop, guided"] = diffusion.p_sample_loop(
        guided, tuple(x.shape), clip_denoised=False, model_kwargs={"y": y(scale=torch.full((2,), 2.5))})
    where = torch.zeros(2, 263, 1, 9, dtype=torch.bool)
    where[..., :3] = True
    torch.manual_seed(3)
    result["p_sample_loop, inpainted"] = diffusion.p_sample_loop(
        model, tuple(x.shape), model_kwargs={"y": y(inpainting_mask=where, inpainted_motion=x)})

for training in (False, True):
    model.train(training)
    torch.manual_seed(4)
    losses = diffusion.training_losses(model, x, t, model_kwargs={"y": y()}, noise=noise, dataset=None)
    losses["loss"].mean().backward()
    result.update({f"training {training}, {k}": v.detach() for k, v in losses.items()})
gradients = {k: p.grad for k, p in model.named_parameters() if p.grad is not None}
result["gradients"] = torch.cat([gradients[k].flatten() for k in sorted(gradients)])

for schedule in ("linear", "cosine"):
    result[f"betas, {schedule}"] = torch.from_numpy(get_named_beta_schedule(schedule, 50))
for name, value in sorted(vars(diffusion).items()):
    if isinstance(value, np.ndarray):
        result[f"table {name}"] = torch.from_numpy(value)
result["spaced"] = torch.tensor([sorted(space_timesteps(100, [10, 6])), sorted(space_timesteps(31, [16]))])
sampler = create_named_schedule_sampler("uniform", diffusion)
np.random.seed(5)
result["timesteps"], result["timestep weights"] = sampler.sample(20, "cpu")
result["positions"] = recover_from_ric(torch.randn(2, 7, 263, generator=g), 22)
torch.save(result, out)
"""


@pytest.mark.mdm
def test_equal_weights_give_equal_results_in_both_hosts_which_begin_with_the_same_ones(mdm_checkout, tmp_path):
    """MDM loads what the stand-in has saved, after its own initial values have been noted."""
    found, weights = {}, "none"
    for host, root in (("standin", checkout.standin().root), ("mdm", mdm_checkout.root)):
        done = forks.run(["-c", PROGRAM, str(root), str(tmp_path / host), weights])
        assert done.returncode == 0, done.stderr
        found[host], weights = torch.load(tmp_path / host), str(tmp_path / "standin.weights")
    ours, theirs = found["standin"], found["mdm"]
    assert set(ours) == set(theirs)
    worst = {name: (ours[name] - theirs[name]).abs().max().item() for name in ours if name != "initial"}
    assert {name: error for name, error in worst.items() if not error <= tolerances.EQUAL_WEIGHTS} == {}
    assert list(ours["initial"]) == list(theirs["initial"])
    for name, value in ours["initial"].items():
        torch.testing.assert_close(value, theirs["initial"][name], msg=name)
    # the comparison is not between constants
    assert all(ours[name].std() > 0.01 for name in ours if "sample_loop" in name)
    assert ours["gradients"].abs().max() > 0
    assert not torch.allclose(ours["denoiser, mask_frames False"], ours["denoiser, mask_frames True"])
