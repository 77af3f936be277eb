"""A package of plugins adds a loss term, a metric, a lifter and an importer, one file and one entry point each."""

import re
import sys
import tomllib
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from clips import motion
from documents import ROOT, blocks
from environments import install_plugin

import videomdm_ext as v
from videomdm_ext import plugins
from videomdm_ext.bench.scoring import with_plugins
from videomdm_ext.cli import main as cli
from videomdm_ext.lifters.base import Lifter
from videomdm_ext.mdm import hook
from videomdm_ext.mdm.loss import loss_terms

TEXTS = [(ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("hooks.md", "plugins.md")]
PAGES = [block for text in TEXTS for block in blocks(text, "python")]
TABLES = """
from pathlib import Path

import torch

from videomdm_ext.data.files import read_arrays
from videomdm_ext.data.sources.base import Importer, Member
from videomdm_ext.hookspecs import hookimpl


class Tables(Importer):
    name, about, extras = "tables", "A folder of NAME.npz with joints [T, 22, 3].", {}

    def members(self):
        return [Member(path.stem, place=str(path)) for path in sorted(Path(self.source).glob("*.npz"))]

    def read(self, member):
        joints = read_arrays(member.place, needed=("joints",))["joints"]
        return self.observed(member.id, (f"a person does {member.id}.",), torch.from_numpy(joints))


@hookimpl
def register_datasets(register):
    register("tables", Tables)
"""


def page(name: str) -> str:
    """-> the block of a documented plugin that defines a name, with what it imports"""
    (source,) = [block for block in PAGES if f"def {name}" in block or f"class {name}" in block]
    return source if "import hookimpl" in source else f"from videomdm_ext.hookspecs import hookimpl\n\n\n{source}"


FILES = {
    "four.term": page("stillness"), "four.metric": page("add_metrics"), "four.lifter": page("Cardboard"),
    "four.importer": TABLES,
}  # fmt: skip


@pytest.fixture
def installed(tmp_path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package is installed as pip would leave it, and this process looks for plugins anew."""
    install_plugin(tmp_path / "site", "four", FILES, {f"four-{name.partition('.')[2]}": name for name in FILES})
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.delenv("VIDEOMDM_PLUGINS", raising=False)
    hook.manager.cache_clear()
    yield
    hook.manager.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "four"]:
        del sys.modules[name]


@pytest.mark.usefixtures("installed")
def test_the_pages_lifter_puts_every_joint_on_its_ray_at_one_depth(generator):
    """By a camera of the test's own: X_c = R X + t of what comes back, divided by its depth, is the keypoint."""
    (settings,) = blocks(TEXTS[1], "toml")
    project, (module,) = tomllib.loads(settings)["project"], tomllib.loads(settings)["tool"]["setuptools"]["py-modules"]
    assert project["entry-points"] == {plugins.GROUP: {"cardboard": module}}
    lifter = plugins.collect(plugins.create_manager(), "lifters")["cardboard"](seed=0)
    assert isinstance(lifter, Lifter)
    keypoints = 0.3 * torch.rand(30, 22, 2, generator=generator) - 0.15
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=generator))[0]
    rotation = rotation * torch.linalg.det(rotation)
    camera = torch.cat((rotation, torch.tensor([[0.3], [1.0], [4.0]])), 1)
    lifted = lifter.lift("a", keypoints=keypoints, confidence=torch.ones(30, 22), extrinsics=camera, fps=20.0)
    seen = torch.einsum("ij,tkj->tki", rotation, lifted) + camera[:, 3]
    torch.testing.assert_close(seen[..., :2] / seen[..., 2:], keypoints, atol=1e-5, rtol=0)
    assert float((seen[..., 2] - seen[:, :1, 2]).abs().max()) < 1e-5
    assert float(seen[..., 2].min()) > 0.5


@pytest.mark.usefixtures("installed")
def test_each_of_four_files_adds_what_it_is_for(tmp_path, capsys):
    (tmp_path / "source").mkdir()
    for name in ("walk", "jump", "kick"):
        np.savez(tmp_path / "source" / f"{name}.npz", joints=motion(name)[:41].numpy())
    place = str(tmp_path / "set")
    words = ["data", "import", "tables", str(tmp_path / "source"), "--lifter", "cardboard", "--out", place]
    assert cli.main([*words, "--split", "1,0,0"]) == 0
    assert "teachers by cardboard: " in capsys.readouterr().out
    card, clips = v.read_folder(place, "train")
    assert card.lifter == "cardboard"
    assert sorted(clip.texts[0] for clip in clips) == [f"a person does {name}." for name in ("jump", "kick", "walk")]

    table = loss_terms(hook.manager())
    assert (table["stillness"].weight, table["stillness"].about) == (0.1, "Mean squared speed of the joints.")
    (loss,) = re.findall(r"`--loss (\S*stillness\S*)`", TEXTS[0])
    assert v.weights_of(loss, table) == {**v.weights_of("reprojection", table), "stillness": 0.5}
    batch = v.collate([v.crop(clip, 0, 30) for clip in clips], length=30)
    space = v.FeatureSpace(clips[0].skeleton, *v.mean_and_std(batch["teacher"], clips[0].skeleton))
    x = space.features(batch["teacher"]).requires_grad_()
    step = v.Step(x, x, torch.zeros(3), torch.ones(3), v.observed(batch), space)
    values = v.Objective(v.weights_of("reprojection,stillness", table), table)(step)
    without = v.Objective(v.weights_of("reprojection", table), table)(step)
    torch.testing.assert_close(values["loss"], without["loss"] + 0.1 * values["stillness"])
    speed = step.positions.diff(dim=1).square().sum(-1).mean((1, 2))
    torch.testing.assert_close(values["stillness"], speed)
    values["stillness"].sum().backward()
    assert (x.grad != 0).any()

    truth = [v.decode(torch.from_numpy(clip.truth), clip.skeleton) for clip in clips]
    raised = [clip + torch.tensor((0.0, 1.0, 0.0)) for clip in truth]
    scores = with_plugins({"jitter": 1.0}, raised, SimpleNamespace(truth=truth))
    height = sum(float(clip[..., 1].mean()) for clip in truth) / len(truth)
    assert scores == {"jitter": 1.0, "mean_height": pytest.approx(1 + height)}
