"""Speed for last bits: only what was asked for, by little, and the command line has the last word."""

import argparse
import copy
import functools

import forks
import mdm_runs
import numpy as np
import pytest
import torch
from torch import nn

from videomdm_ext.config import Speed
from videomdm_ext.mdm.speed import approximate

NEAR = 1e-5
"""Difference of one pass of guidance to two, of predictions of size 1."""


@pytest.fixture(autouse=True)
def _restored():
    """The process is as slow and exact as before."""
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)
    approximate._one_pass = False


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ([], {}),
        (["--autocast", "off"], {"autocast": "off"}),
        (["--autocast=bf16", "--num_samples", "3"], {"autocast": "bf16"}),
        (["--no-one_pass_guidance", "--tf32"], {"one_pass_guidance": False, "tf32": True}),
        (["--text_prompt", "--like this", "--compile_model"], {"compile_model": True}),
    ],
)
def test_the_command_line_wins_over_what_the_checkpoint_records(argv, expected):
    restored = {"one_pass_guidance": True, "autocast": "bf16", "tf32": False, "compile_model": False}
    args = argparse.Namespace(**restored, seed=10)
    approximate.from_command_line(args, argv)
    assert vars(args) == {**restored, "seed": 10, **expected}


def test_without_options_nothing_changes_and_tf32_is_asked_of_torch():
    before = torch.get_float32_matmul_precision()
    speed = approximate.activate(argparse.Namespace(), [])
    assert speed == Speed()
    assert approximate.quicker(nn.Linear, speed) is nn.Linear
    assert torch.get_float32_matmul_precision() == before
    approximate.activate(argparse.Namespace(tf32=True), [])
    assert torch.get_float32_matmul_precision() == "high"


class Model(nn.Module):
    """A denoiser whose text must not lose precision."""

    def __init__(self) -> None:
        super().__init__()
        self.seqTransEncoder = nn.Linear(64, 64)
        self.seen: list[torch.dtype] = []

    def clip_encode_text(self, raw_text):
        return self.seqTransEncoder(torch.ones(1, len(raw_text), 64))

    def forward(self, x, timesteps, y=None):
        self.seen = [self.clip_encode_text(y["text"]).dtype, self.seqTransEncoder(x).dtype]
        return self.seqTransEncoder(x)


def test_autocast_is_for_the_denoiser_alone_and_gives_float32_back(generator):
    torch.manual_seed(0)
    exact = Model()
    quick = approximate.quicker(Model, Speed(autocast="bf16"))()
    quick.load_state_dict(exact.state_dict())
    x = torch.randn(4, 64, generator=generator)
    found, expected = (model(x, torch.zeros(4), {"text": ["a"]}) for model in (quick, exact))
    assert quick.seen == [torch.float32, torch.bfloat16]
    assert found.dtype == torch.float32
    assert 1e-4 < (found - expected).abs().max() < 2e-2
    found.square().mean().backward()
    assert quick.seqTransEncoder.weight.grad.dtype == torch.float32


class Layered(Model):
    """A denoiser whose transformer is torch's, which Module.compile would leave as it is."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(64, 2, 16, batch_first=True)
        self.seqTransEncoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)


def test_a_compiled_denoiser_is_compiled_and_computes_the_same_with_weights_of_the_same_names(monkeypatch, generator):
    graphs: list[object] = []

    def count(graph: torch.fx.GraphModule, _: object) -> object:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=count))
    plain, model = Layered(), approximate.quicker(Layered, Speed(compile_model=True))()
    assert list(model.state_dict()) == list(plain.state_dict())
    model.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 64, generator=generator)
    for number, each in enumerate((model, copy.deepcopy(model))):
        torch.testing.assert_close(each.eval()(x, None, {"text": ["a"]}), plain.eval()(x, None, {"text": ["a"]}))
        assert len(graphs) > number
        nn.init.zeros_(each.seqTransEncoder.layers[0].norm2.weight)


def test_what_has_one_entry_a_clip_is_doubled_and_what_has_not_is_left_to_two_passes():
    for value in (torch.tensor([1, 2]), np.array([1, 2]), [1, 2]):
        assert list(approximate._double(value, 2)) == [1, 2, 1, 2]
    for value in (torch.ones(1, 3), torch.tensor(1.0), "ab", None, 3, ["a"]):
        assert approximate._double(value, 2) is None


def test_the_stand_ins_guidance_in_one_pass(standin_module, generator):
    """Options act on the stand-in as on MDM."""
    kind = standin_module("model.cfg_sampler").ClassifierFreeSampleModel
    standin_module("utils.parser_util")

    class Guided(nn.Module):
        cond_mode, cond_mask_prob, calls = "text", 0.1, 0
        njoints = nfeats = None
        mask_cond = standin_module("model.mdm").MDM.mask_cond

        def encode_text(self, texts):
            return torch.tensor([[float(len(text)) for text in texts]]).unsqueeze(-1)

        def forward(self, x, timesteps, y):
            self.calls += 1
            text = y["text_embed"] if "text_embed" in y else self.encode_text(y["text"])
            return x + self.mask_cond(text, force_mask=y.get("uncond", False))[0][:, :, None, None] * 0.1

    model = Guided().eval()
    guided = kind(model)
    x, y = torch.randn(2, 3, 1, 4, generator=generator), {"text": ["a", "bcd"], "scale": torch.tensor([2.0, 3.0])}
    own = kind.forward
    two = guided(x, torch.zeros(2), dict(y))
    assert model.calls == 2
    try:
        approximate.activate(argparse.Namespace(one_pass_guidance=True), [])
        one = guided(x, torch.zeros(2), dict(y))
        assert model.calls == 3
        torch.testing.assert_close(one, two)
        torch.testing.assert_close(one - x, torch.tensor([0.2, 0.9])[:, None, None, None].expand_as(x))
        approximate.activate(argparse.Namespace(), [])
        assert torch.equal(guided(x, torch.zeros(2), dict(y)), two)
        assert model.calls == 5
    finally:
        kind.forward = own


PROGRAM = """
import json, sys
import numpy as np
import torch

torch.set_num_threads(1)
from videomdm_ext.mdm.speed import fake_clip

sys.modules["clip"] = fake_clip.module(width=64, layers=1, heads=2)
from videomdm_ext.mdm import checkout, hook
from videomdm_ext.mdm.speed import approximate

hook.use(checkout.find(sys.argv[1]))
import model.mdm
from utils import model_util, parser_util
from utils.sampler_util import ClassifierFreeSampleModel


class Bert(torch.nn.Module):
    def forward(self, texts):
        length = max(map(len, texts))
        hidden = torch.stack([torch.arange(length) < len(text) for text in texts])
        draw = torch.Generator().manual_seed(len(texts))
        return torch.randn(len(texts), length, 768, generator=draw), hidden


model.mdm.load_bert = lambda path: Bert()
SIZES = ["--save_dir", "none", "--layers", "2", "--latent_dim", "64", "--diffusion_steps", "20"]
DIP = ["--arch", "trans_dec", "--text_encoder_type", "bert"]
CASES = {
    "encoder": [], "masked": ["--mask_frames"], "decoder": ["--arch", "trans_dec"],
    "decoder with token": ["--arch", "trans_dec", "--emb_trans_dec"], "recurrent": ["--arch", "gru"],
    "bert": DIP, "prefix": [*DIP, "--context_len", "4", "--pred_len", "8"], "masked prefix": [
        "--context_len", "4", "--pred_len", "8", "--mask_frames"],
    "goals": ["--multi_target_cond"], "actions": ["--dataset", "humanact12"],
}


class Data:
    class dataset:
        num_actions = 12


def condition(case, args, denoiser, count, frames):
    draw = torch.Generator().manual_seed(5)
    y = {"mask": torch.ones(count, 1, 1, frames, dtype=torch.bool), "scale": torch.linspace(1.5, 3, count),
         "lengths": torch.full((count,), frames), "tokens": ["a/DET"] * count, "db_key": [None] * count}
    y["mask"][0, ..., frames - 3:] = False
    if case == "actions":
        return {**y, "action": torch.arange(count).unsqueeze(1), "action_text": ["run"] * count}
    y["text"] = ["a person walks", "someone jumps high", "he sits"][:count]
    if case == "goals":
        y["target_cond"] = torch.randn(count, len(denoiser.all_goal_joint_names) + 2, 3, generator=draw)
        y["target_joint_names"] = np.array([["pelvis"]] * count)
        y["is_heading"] = torch.tensor([True, False, True][:count])
    if args.context_len:
        y["prefix"] = torch.randn(count, 263, 1, args.context_len, generator=draw)
    return y


result = {}
for case, words in CASES.items():
    for embedded in (False, True):
        sys.argv = ["train", *SIZES, *words]
        args = parser_util.train_args()
        torch.manual_seed(0)
        denoiser, _ = model_util.create_model_and_diffusion(args, Data)
        denoiser.eval()
        if case == "actions":
            denoiser.encode_text = None  # MDM's guidance looks for it in every model
        for parameter in denoiser.parameters_wo_clip():
            parameter.data.mul_(1.5)
        guided = ClassifierFreeSampleModel(denoiser)
        count, frames = 3, args.pred_len or 12
        y = condition(case, args, denoiser, count, frames)
        if embedded and "text" in y:
            y["text_embed"] = guided.encode_text(y["text"])
        x = torch.randn(count, denoiser.njoints, denoiser.nfeats, frames, generator=torch.Generator().manual_seed(1))
        t = torch.tensor([1, 7, 19])
        found, keys = [], sorted(y)
        own = denoiser.forward
        for one_pass in (False, True):
            approximate._one_pass = one_pass
            if one_pass:
                approximate.guide_in_one_pass(ClassifierFreeSampleModel)
            calls = []
            denoiser.forward = lambda *given, **named: calls.append(1) or own(*given, **named)
            with torch.no_grad():
                found.append((guided(x, t, y), len(calls)))
        (two, two_calls), (one, one_calls) = found
        unguided = own(x, t, y)
        result[f"{case}, {embedded}"] = {
            "calls": [two_calls, one_calls], "difference": float((one - two).abs().max()),
            "size": float(two.abs().mean()), "guided": float((two - unguided).abs().max()),
            "kept": sorted(y) == keys and y["mask"].shape[-1] == frames and "mask_cond" not in vars(denoiser),
        }
        denoiser.train()
        guided(x, t, y)
        result[f"{case}, {embedded}"]["calls"].append(len(calls) - one_calls)
print(json.dumps(result))
"""


@pytest.mark.mdm
def test_one_pass_differs_by_little_and_is_left_to_two_where_the_clips_of_a_batch_meet(mdm_checkout):
    """MDM's recurrent denoiser takes the clips of a batch for frames."""
    command = ["-W", "ignore", "-c", PROGRAM, str(mdm_checkout.root)]
    guided = mdm_runs.answer(forks.run(command, env={"VIDEOMDM_PLUGINS": None}))
    assert len(guided) == 20
    for case, found in guided.items():
        assert found["calls"] == [2, 2 if case.startswith("recurrent") else 1, 2], case
        assert found["difference"] < NEAR, case
        assert found["guided"] > 100 * NEAR, case
        assert found["size"] > 100 * NEAR, case
        assert found["kept"], case
    assert any(found["difference"] > 0 for found in guided.values()), "which is why it must be asked for"
