"""Our part in a real MDM: options, data, text and loss through its own builders, with the stand-in's numbers."""

import forks
import pytest
import tolerances
import torch
from clips import CARD, make_clip

from videomdm_ext.data.building import write_folder
from videomdm_ext.mdm import checkout

pytestmark = pytest.mark.mdm
OBJECTIVES = ("posterior", "reprojection", "reprojection,motion")
WALKS = ("off", "on")

PROGRAM = """
import json
import sys
from types import ModuleType

import torch
from torch import nn

root, out, weights, clips = sys.argv[1:5]
torch.set_num_threads(1)


class Empty(nn.Module):
    pass


clip = {"load": lambda name, **how: None, "tokenize": list}
for name, content in {"clip": clip, "smplx": {"SMPLLayer": Empty}, "smplx.lbs": {"vertices2joints": None}}.items():
    sys.modules[name] = ModuleType(name)
    vars(sys.modules[name]).update(content)

from videomdm_ext.mdm import checkout, hook

hook.use(checkout.find(root))
import data_loaders.get_data as get_data
import utils.model_util as model_util
from utils import parser_util

try:
    import model.rotation2xyz as rotation2xyz
    rotation2xyz.SMPL = Empty
except ImportError:
    pass

SIZES = ["--save_dir", "none", "--layers", "1", "--latent_dim", "32", "--diffusion_steps", "50", "--mask_frames"]
own = {"SpacedDiffusion": model_util.SpacedDiffusion, "MDM": model_util.MDM, "get_dataset": get_data.get_dataset,
       "get_collate_fn": get_data.get_collate_fn}


def parse(*words):
    sys.argv = ["train", *SIZES, *words]
    return parser_util.train_args()


def is_own(name):
    module = model_util if name in vars(model_util) else get_data
    return getattr(module, name) is own[name]


parse()
result = {"own under 3d": {name: is_own(name) for name in own}}
result["from"] = own["SpacedDiffusion"].__module__, sys.modules[own["SpacedDiffusion"].__module__].__file__
clips = ["--clips", clips, "--crop_frames", "24", "--text_features", "words"]
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
        model, diffusion = model_util.create_model_and_diffusion(args, type("Data", (), {"dataset": dataset}))
        result["own under 2d"] = {name: is_own(name) for name in own}
        if weights != "none":
            model.load_state_dict(torch.load(weights))
        else:
            torch.save(model.state_dict(), out + ".weights")
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
_, diffusion = model_util.create_model_and_diffusion(args, type("Data", (), {"dataset": dataset}))
torch.manual_seed(1)
terms = diffusion.training_losses(model, x_start, t, model_kwargs=condition, dataset=dataset)
result["three"] = {"type": type(diffusion) is own["SpacedDiffusion"], "loss": terms["loss"].detach(),
                   "terms": sorted(terms)}
torch.save(result, out)
"""


@pytest.fixture(scope="module")
def both(mdm_checkout, tmp_path_factory) -> dict[str, dict]:
    """-> what the program found in the stand-in and, with the same weights, in MDM."""
    folder = tmp_path_factory.mktemp("real")
    write_folder(
        str(folder / "set"), {"train": [make_clip(), make_clip(name="walk", moving=True), make_clip(name="jump")]}, CARD
    )
    found, weights = {}, "none"
    for host, root in (("standin", checkout.standin().root), ("mdm", mdm_checkout.root)):
        out = folder / host
        command = ["-c", PROGRAM, str(root), str(out), weights, str(folder / "set")]
        done = forks.run(command, env={"VIDEOMDM_PLUGINS": None})
        assert done.returncode == 0, done.stderr
        found[host], weights = torch.load(out), f"{out}.weights"
    return found


def test_under_3d_with_default_options_mdm_keeps_its_own(both, mdm_checkout):
    found = both["mdm"]
    assert found["own under 3d"] == dict.fromkeys(("SpacedDiffusion", "MDM", "get_dataset", "get_collate_fn"), True)
    assert found["from"] == ("diffusion.respace", str(mdm_checkout.root / "diffusion" / "respace.py"))
    assert not any(found["own under 2d"].values())


@pytest.mark.parametrize("walk", WALKS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_equal_weights_batch_and_seed_give_equal_losses_in_both_hosts(both, objective, walk):
    ours, theirs = (both[host][objective, walk] for host in ("standin", "mdm"))
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


def test_under_3d_our_clips_get_mdms_own_loss_in_both_hosts(both):
    ours, theirs = both["standin"]["three"], both["mdm"]["three"]
    assert ours["type"]
    assert theirs["type"]
    assert theirs["terms"] == ours["terms"]
    torch.testing.assert_close(theirs["loss"], ours["loss"], atol=tolerances.EQUAL_WEIGHTS, rtol=1e-5)
