"""Checkouts, the launcher, and whole runs of the stand-in through it, each in a process of its own."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from videomdm_ext.errors import HostError
from videomdm_ext.mdm import checkout

ROOT = Path(__file__).parents[2]

WRAPPER = '''
import random
import sys
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

from videomdm_ext.errors import HostError
from videomdm_ext.mdm import checkout, hook

torch.set_num_threads(1)


class Clips(torch.utils.data.Dataset):
    """Ten clips; the crops come from the global generators, as in MDM, and the epoch shifts the motion."""

    num_features = 263
    epoch = 0
    t2m_dataset = SimpleNamespace(inv_transform=lambda data: data * 2)

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return 10

    def __getitem__(self, i):
        length = random.randint(3, 6)
        motion = torch.randn(263, 1, length, generator=torch.Generator().manual_seed(i))
        return {"inp": motion + np.random.rand() + self.epoch, "lengths": length, "text": f"caption {i}"}


def add_options(group):
    group.add_argument("--colour", default="red")


def activate(args):
    import data_loaders.get_data as data
    import utils.model_util as model_util

    class Model(model_util.MDM):
        def load_and_freeze_clip(self, version):
            return nn.Embedding(100, 512).requires_grad_(False)

        def clip_encode_text(self, raw_text):
            return self.clip_model(torch.tensor([len(text) for text in raw_text]))[None]

    print("active:", args.colour, args.layers)
    model_util.MDM = Model
    data.get_dataset = lambda *args, **kwargs: Clips()


hook.add_options, hook.activate = add_options, activate
try:
    hook.run(checkout.standin(), sys.argv[1], sys.argv[2:])
except HostError as error:
    sys.exit(f"error: {error}")
'''

SMALL = [
    "--layers",
    "1",
    "--latent_dim",
    "16",
    "--ff_size",
    "24",
    "--diffusion_steps",
    "4",
    "--batch_size",
    "3",
    "--use_ema",
    "--avg_model_beta",
    "0.9",
    "--lr",
    "1e-2",
    "--gradient_clip",
    "1",
]


def execute(code: str, *arguments: object, path: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(part for part in (str(ROOT), path) if part)}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def train(folder: Path, steps: int, *more: object) -> subprocess.CompletedProcess[str]:
    return execute(WRAPPER, "train.train_mdm", "--save_dir", folder, *SMALL, "--num_steps", steps, *more)


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Path:
    """A run of 7 steps without interruption (an epoch has 3), a checkpoint after 3."""
    folder = tmp_path_factory.mktemp("runs") / "straight"
    done = train(folder, 7, "--log_interval", 2, "--save_interval", 3, "--colour", "blue")
    assert done.returncode == 0, done.stderr
    return folder


def files(folder: Path, pattern: str) -> list[str]:
    return sorted(path.name for path in folder.glob(pattern))


def assert_same(one: object, other: object, where: str) -> None:
    """Equal bit for bit, through dictionaries and sequences."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for i, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{where}/{i}")
    else:
        assert torch.equal(one, other) if torch.is_tensor(one) else one == other, where


def test_training_takes_exactly_the_steps_asked_for(straight):
    names = ["000000003.pt", "000000006.pt", "000000007.pt"]
    assert files(straight, "model*") == [f"model{name}" for name in names]
    assert files(straight, "opt*") == [f"opt{name}" for name in names]
    bundle = torch.load(straight / "opt000000007.pt")
    assert {float(state["step"]) for state in bundle["opt"]["state"].values()} == {7.0}


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(straight, tmp_path):
    """Interrupted at the end of an epoch, then within one."""
    folder = tmp_path / "resumed"
    for steps in (3, 5, 7):
        done = train(folder, steps, "--log_interval", 2, "--overwrite")
        assert done.returncode == 0, done.stderr
    for name in ("model000000007.pt", "opt000000007.pt"):
        assert_same(torch.load(straight / name), torch.load(folder / name), name)
    assert (straight / "progress.csv").read_bytes() == (folder / "progress.csv").read_bytes()


def test_another_seed_gives_another_run(straight, tmp_path):
    assert train(tmp_path / "other", 3, "--seed", 11).returncode == 0
    ours, other = (torch.load(folder / "model000000003.pt")["model"] for folder in (straight, tmp_path / "other"))
    assert not torch.equal(ours["embed_text.weight"], other["embed_text.weight"])


def test_checkpoints_hold_weights_and_their_average_but_no_text_encoder(straight):
    saved = torch.load(straight / "model000000007.pt")
    assert set(saved) == {"model", "model_avg"}
    assert saved["model"].keys() == saved["model_avg"].keys()
    assert not any(name.startswith("clip_model.") for name in saved["model"])
    assert not torch.equal(saved["model"]["embed_text.weight"], saved["model_avg"]["embed_text.weight"])


def test_progress_has_a_row_an_interval_with_every_term(straight):
    with (straight / "progress.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["2", "4", "6"]
    assert set(rows[0]) == {"step", "rot_mse", "loss"}
    assert all(float(row["loss"]) > 0 for row in rows)


def test_an_existing_save_dir_is_refused_untouched(straight):
    before = {path.name: path.stat().st_mtime_ns for path in straight.iterdir()}
    done = train(straight, 9)
    assert done.returncode == 1
    assert "exists already" in done.stderr
    assert "--overwrite" in done.stderr
    assert {path.name: path.stat().st_mtime_ns for path in straight.iterdir()} == before


def test_too_few_clips_for_a_batch_are_refused(tmp_path):
    done = train(tmp_path / "run", 2, "--batch_size", 11)
    assert done.returncode == 1
    assert "10 clips do not fill a batch of 11" in done.stderr


def test_args_json_is_sorted_and_holds_the_added_option(straight):
    text = (straight / "args.json").read_text(encoding="utf-8")
    args = json.loads(text)
    assert list(args) == sorted(args)
    assert args["colour"] == "blue"


def test_sampling_restores_the_options_of_training(straight, tmp_path):
    arguments = [
        "--model_path",
        straight / "model000000007.pt",
        "--output_dir",
        tmp_path / "out",
        "--num_samples",
        2,
        "--num_repetitions",
        2,
        "--motion_length",
        0.5,
        "--layers",
        5,
    ]
    done = execute(WRAPPER, "sample.generate", *arguments)
    assert done.returncode == 0, done.stderr
    assert "active: blue 1" in done.stdout
    with np.load(tmp_path / "out" / "results.npz", allow_pickle=False) as results:
        assert results["motion"].shape == (4, 22, 3, 10)
        assert results["features"].shape == (4, 10, 263)
        assert results["lengths"].max() <= 6
        assert [text[:8] for text in results["text"]] == ["caption "] * 4
        assert results["text"][0] == results["text"][2]
        assert not np.array_equal(results["motion"][0], results["motion"][2])
        np.testing.assert_allclose(results["motion"][:, 0, 1], results["features"][:, :, 3], rtol=1e-6)


def test_a_prompt_is_sampled_as_often_as_asked(straight, tmp_path):
    arguments = [
        "--model_path",
        straight / "model000000007.pt",
        "--output_dir",
        tmp_path,
        "--num_samples",
        3,
        "--num_repetitions",
        1,
        "--motion_length",
        0.5,
        "--text_prompt",
        "a man walks",
    ]
    done = execute(WRAPPER, "sample.generate", *arguments)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "results.npz", allow_pickle=False) as results:
        assert results["text"].tolist() == ["a man walks"] * 3
        assert results["lengths"].tolist() == [10] * 3


def test_a_checkpoint_without_args_json_is_refused(straight, tmp_path):
    path = tmp_path / "model000000007.pt"
    path.write_bytes((straight / path.name).read_bytes())
    done = execute(WRAPPER, "sample.generate", "--model_path", path)
    assert done.returncode == 1
    assert "args.json" in done.stderr


def test_a_program_that_the_checkout_lacks_is_refused():
    done = execute(WRAPPER, "train.nothing")
    assert done.returncode == 1
    assert "no module train.nothing" in done.stderr


def test_one_process_uses_one_checkout():
    code = """
from dataclasses import replace
from videomdm_ext.errors import HostError
from videomdm_ext.mdm import checkout, hook
calls = []
hook.add_options, hook.activate = lambda group: calls.append(group.title), calls.append
hook.use(checkout.standin())
hook.use(checkout.standin())
from utils import parser_util
from argparse import ArgumentParser
parser_util.add_diffusion_options(ArgumentParser())
parser_util.apply_rules("final")
print(calls)
try:
    hook.use(replace(checkout.standin(), commit="another"))
except HostError as error:
    print(error)
"""
    done = execute(code)
    assert done.stdout.splitlines()[0] == "['diffusion', 'final']", done.stderr
    assert "already uses" in done.stdout.splitlines()[1]


@pytest.mark.mdm
def test_the_options_reach_the_parser_of_mdm(mdm_checkout):
    code = f"""
import sys
from videomdm_ext.mdm import checkout, hook
hook.activate = lambda args: print(args.colour, args.layers)
hook.add_options = lambda group: group.add_argument("--colour", default="red")
hook.use(checkout.find({str(mdm_checkout.root)!r}))
from utils import parser_util
sys.argv = ["train", "--save_dir", "none", "--layers", "3", "--colour", "blue"]
parser_util.train_args()
"""
    done = execute(code)
    assert done.stdout == "blue 3\n", done.stderr


def test_a_package_that_hides_the_checkout_is_named(tmp_path):
    (tmp_path / "utils").mkdir()
    (tmp_path / "utils" / "__init__.py").touch()
    done = execute(WRAPPER, "train.train_mdm", path=str(tmp_path))
    assert done.returncode == 1
    assert f"hidden by {tmp_path}" in done.stderr


def test_the_standin_is_a_checkout_without_a_commit():
    found = checkout.standin()
    assert (found.kind, found.commit) == ("standin", None)
    assert checkout.find(found.root) == found


def test_a_folder_without_the_seams_is_no_checkout(tmp_path):
    (tmp_path / "utils").mkdir()
    (tmp_path / "utils" / "parser_util.py").touch()
    with pytest.raises(HostError, match=r"from --mdm.*lacks utils/model_util\.py"):
        checkout.find(tmp_path)


def test_the_environment_names_a_checkout_before_the_default_places(tmp_path, monkeypatch):
    monkeypatch.setattr(checkout, "default_places", lambda: [checkout.STANDIN])
    monkeypatch.setenv(checkout.VARIABLE, str(tmp_path))
    with pytest.raises(HostError, match=checkout.VARIABLE):
        checkout.find()
    monkeypatch.delenv(checkout.VARIABLE)
    assert checkout.find().root == checkout.STANDIN


def test_without_any_checkout_the_error_says_where_it_looked(tmp_path, monkeypatch):
    monkeypatch.delenv(checkout.VARIABLE, raising=False)
    monkeypatch.setattr(checkout, "default_places", lambda: [tmp_path / "nowhere"])
    with pytest.raises(HostError, match="nowhere"):
        checkout.find()


def test_the_standin_runs_unless_a_checkout_is_named(monkeypatch):
    monkeypatch.setattr(checkout, "find", lambda explicit=None: ("found", explicit))
    assert checkout.choose(None) == checkout.standin()
    assert checkout.choose("auto") == ("found", None)
    assert checkout.choose("some/folder") == ("found", "some/folder")
