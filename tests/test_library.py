"""The package as a library: its names come lazily, and docs/library.md runs from top to bottom."""

import functools
import subprocess
import sys

import documents
import pytest
import torch
from clips import CARD, make_clip
from documents import ROOT

import videomdm_ext
from videomdm_ext.cli import main as cli
from videomdm_ext.data.building import write_folder
from videomdm_ext.supervision import refinement

TINY = (
    "--arm 2d --teacher lifted --clips set --save_dir runs/mine --layers 1 --latent_dim 16 --ff_size 24 --num_steps 1 "
    "--diffusion_steps 10 --batch_size 1 --crop_frames 40 --text_features words --mask_frames --unroll off"
)


def test_every_name_of_the_package_is_there_and_a_misspelt_one_is_answered_with_them():
    assert {*videomdm_ext.__all__, "__version__"} == set(dir(videomdm_ext))
    assert all(getattr(videomdm_ext, name) is not None for name in videomdm_ext.__all__)
    assert set(videomdm_ext._PLACES) == set(videomdm_ext.__all__)
    with pytest.raises(AttributeError, match=r"no attribute 'smaple'; there are .*sample"):
        videomdm_ext.smaple  # noqa: B018


def test_importing_the_package_imports_nothing_and_the_verbs_nothing_that_takes_long():
    """The compiler of torch takes as long as torch itself, and pictures are drawn by few."""
    code = (
        "import sys, videomdm_ext; heavy = ('torch', 'numpy', 'pluggy', 'yaml', 'videomdm_ext.')\n"
        "print([m for m in sys.modules if m.startswith(heavy)])\n"
        "from importlib import import_module; from videomdm_ext.cli.main import VERBS\n"
        "for module, *_ in VERBS.values(): import_module(f'videomdm_ext.{module}')\n"
        "print([m for m in ('torch._dynamo', 'matplotlib', 'scipy', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]"] * 2


def test_the_page_about_the_library_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(refinement, "Refinement", functools.partial(refinement.Refinement, first=2, rounds=0))
    write_folder("set", {"train": [make_clip(), make_clip(name="walk")]}, CARD)
    assert cli.main(["train", *TINY.split()]) == 0
    scope: dict = {}
    blocks = documents.blocks((ROOT / "docs" / "library.md").read_text(encoding="utf-8"), "python")
    for number, block in enumerate(blocks, 1):
        exec(compile(block, f"docs/library.md, block {number}", "exec"), scope)
    assert [motion.shape for motion in scope["motions"]] == [(40, 22, 3), (30, 22, 3)]
    assert scope["lifted"][0].shape == scope["positions"].shape == (scope["clips"][0].length, 22, 3)
    assert scope["values"]["loss"].shape == (2,)
    assert torch.isfinite(scope["x"].grad).all()
    assert (scope["x"].grad != 0).any()
    assert (tmp_path / "walk.bvh").read_text().startswith("HIERARCHY")
    assert "motions" in (tmp_path / "walk.html").read_text(encoding="utf-8")
