"""MDM's own evaluator and its own evaluation, on a checkout with random weights: the figures mean nothing, what is
shown is that they are MDM's.
"""

import dataclasses
import json
import shutil
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace
from typing import BinaryIO

import forks
import mdm_runs
import numpy as np
import pytest
import torch
from clips import make_clip
from humanml import WORDS, make_clips
from tolerances import EQUAL_WEIGHTS

from videomdm_ext.bench.evaluators import t2m
from videomdm_ext.bench.reproduction import protocol_mdm
from videomdm_ext.cli.benchmarking import bench as bench_verb
from videomdm_ext.data.building import write_folder
from videomdm_ext.data.clip import Clip
from videomdm_ext.data.folder import Card
from videomdm_ext.data.motions import load_motions
from videomdm_ext.errors import ConfigError
from videomdm_ext.mdm import checkout, evaluation

pytestmark = [pytest.mark.mdm, pytest.mark.slow]

SMALL = ("--latent_dim", "16", "--layers", "1", "--diffusion_steps", "2", "--batch_size", "4",
         "--save_interval", "2", "--pos_embed_max_len", "256", "--unroll", "off")  # fmt: skip
CARD = Card(name="many copies", skeleton="smpl22", fps=20.0, lifter="bent", licence="zlib", sources=("a source",))
REPLICATIONS = 1
FRAMES = 40
LENGTHS = (40, 196, 60, 61, 63, 120, 60, 44)

ALONE = """
import sys
import numpy as np
import torch
torch.set_num_threads(1)
from videomdm_ext.mdm import remedies
remedies.prepare()
from data_loaders.humanml.networks.evaluator_wrapper import EvaluatorMDMWrapper
from data_loaders.humanml.utils.word_vectorizer import WordVectorizer

given = np.load(sys.argv[1])
mean, std = np.load("dataset/t2m_mean.npy"), np.load("dataset/t2m_std.npy")
wrapper, vectors = EvaluatorMDMWrapper("humanml", torch.device("cpu")), WordVectorizer("glove", "our_vab")
texts, motions = [], []
for number in range(len(given.files) // 2):
    features, words = given[f"features{number}"], ["sos/OTHER", *given[f"words{number}"], "eos/OTHER"]
    length = len(features) // 4 * 4
    padded = np.zeros((1, 196, 263))
    padded[0, :length] = ((features - mean) / std)[:length]
    read = [vectors[word] for word in [*words, *["unk/OTHER"] * (22 - len(words))]]
    embeddings, tags = (torch.from_numpy(np.stack(part))[None] for part in zip(*read))
    text, motion = wrapper.get_co_embeddings(
        embeddings, tags, torch.tensor([len(words)]), torch.from_numpy(padded), torch.tensor([length]))
    texts.append(text)
    motions.append(motion)
np.savez(sys.argv[2], texts=torch.cat(texts), motions=torch.cat(motions))
"""
"""Each clip by itself through MDM's wrapper, so that no order and no neighbour can matter."""


@pytest.fixture(scope="module")
def small(mdm_checkout, tmp_path_factory) -> Path:
    """-> a checkout whose evaluator is narrow, and whose debug evaluation has one replication, to save time."""
    place = mdm_runs.clone(mdm_checkout.root, tmp_path_factory.mktemp("small") / "mdm")
    mdm_runs.quicken_evaluation(place, REPLICATIONS)
    yield place
    shutil.rmtree(place)


def shorten(clip: Clip) -> Clip:
    parts = {part: getattr(clip, part)[:FRAMES] for part in ("teacher", "truth", "keypoints", "confidence")}
    return dataclasses.replace(clip, **parts)


@pytest.fixture(scope="module")
def bench(small) -> Path:
    """-> a folder of a bench with one training of two steps, made on the stand-in."""
    folder = small.parent / "bench"
    sources = [shorten(make_clip(name=motion.name)) for motion in load_motions() if len(motion.positions) > FRAMES][:6]
    copies = [dataclasses.replace(sources[n % 6], id=f"copy-{n}") for n in range(328)]
    write_folder(str(folder / "set"), {"train": copies[:8], "test": copies[8:]}, CARD)
    words = ["--save_dir", str(folder / "runs/2d-0"), "--clips", str(folder / "set"), "--supervision", "2d"]
    words += ["--teacher", "lifted", "--text_features", "words", "--crop_frames", "32", "--num_steps", "2", *SMALL]
    mdm_runs.must(mdm_runs.python(small.parent, "-m", "videomdm_ext.run", "train.train_mdm", *words))
    return folder


def test_embeddings_are_those_of_mdms_wrapper(small, tmp_path):
    draw = np.random.default_rng(1)
    vectors = [make_clips(1, (length, length), draw)[0] for length in LENGTHS]
    tokens = [[f"{word}/{WORDS[word]}" for word in draw.choice(list(WORDS), size=2 + 3 * n % 15)] for n in range(8)]
    given = {f"features{n}": vector for n, vector in enumerate(vectors)}
    given |= {f"words{n}": np.array(words) for n, words in enumerate(tokens)}
    np.savez(tmp_path / "given.npz", **given)
    mdm_runs.must(mdm_runs.python(small, "-c", ALONE, str(tmp_path / "given.npz"), str(tmp_path / "made.npz")))
    evaluator = dataclasses.replace(t2m.load(t2m.T2M, small, "").matching, batch=5)
    with np.load(tmp_path / "made.npz") as made:
        theirs = {name: torch.from_numpy(made[name]) for name in made.files}
    assert torch.pdist(theirs["motions"]).min() > 100 * EQUAL_WEIGHTS
    own = evaluator.motions([torch.from_numpy(vector) for vector in vectors])
    torch.testing.assert_close(own, theirs["motions"], rtol=0, atol=EQUAL_WEIGHTS)
    torch.testing.assert_close(evaluator.captions(tokens), theirs["texts"], rtol=0, atol=EQUAL_WEIGHTS)


def forked(words: list[str], *, cwd: Path, env: dict[str, str], stdout: BinaryIO, **_: object) -> SimpleNamespace:
    """-> a process that has ended, a fork in place of a new one."""
    done = forks.run(words[1:], cwd=cwd, env=env)
    stdout.write((done.stdout + done.stderr).encode())
    return SimpleNamespace(returncode=done.returncode, poll=lambda: done.returncode, wait=int, terminate=int)


def test_a_run_of_a_bench_is_evaluated_by_mdms_own_program_and_only_once(small, bench, monkeypatch):
    monkeypatch.setattr(protocol_mdm, "subprocess", SimpleNamespace(Popen=forked, STDOUT=None))
    before = {path: path.read_bytes() for path in (bench / "runs/2d-0").iterdir() if path.is_file()}
    words = ["--out", str(bench), "--mdm", str(small), "--eval_mode", "debug", "--guidance", "1"]
    assert bench_verb(["--protocol", "mdm", *words]) == 0
    content = json.loads((bench / "protocol_mdm.json").read_text())
    run = content["runs"]["2d-0"]
    assert run["scored_against"] == "the true motions of the test clips of many copies"
    made, truth = run["scores"]["vald"], run["scores"]["ground truth"]
    for scores in (made, truth):
        assert len(scores["replications"]) == REPLICATIONS
        for name, mean in scores["mean"].items():
            values = [replication[name] for replication in scores["replications"]]
            assert mean == pytest.approx(fmean(values), abs=2e-4)
            assert scores["half_width"][name] == pytest.approx(1.96 * np.std(values) / REPLICATIONS**0.5, abs=2e-4)
    assert truth["mean"]["fid"] < made["mean"]["fid"]
    report = (bench / "protocol_mdm.md").read_text()
    assert "| 2d-0 |" in report
    assert "Not on HumanML3D's test split" in report
    assert {path: path.read_bytes() for path in (bench / "runs/2d-0").iterdir() if path.is_file()} == before

    monkeypatch.setattr(evaluation, "command", lambda *_, **__: pytest.fail("a finished log is run again"))
    written = (bench / "protocol_mdm.json").read_bytes()
    assert bench_verb(["--protocol", "mdm", *words]) == 0
    assert (bench / "protocol_mdm.json").read_bytes() == written


UNITS = """
import os, sys
import numpy as np
from videomdm_ext.mdm import checkout, hook
hook.use(checkout.find("."))
from utils.parser_util import evaluation_parser
import data_loaders.get_data as get_data
sys.argv = ["eval", "--model_path", sys.argv[1]]
args = evaluation_parser()
ready = get_data.get_dataset(args.dataset, None, split="test", hml_mode="eval", device="cpu")
truth = get_data.get_dataset(args.dataset, None, split="test", hml_mode="gt", device="cpu")
np.savez("units.npz", mean=ready.t2m_dataset.mean, n=[len(ready), len(truth)], kept=truth.t2m_dataset.mean,
         cache=np.array(os.path.exists("dataset/t2m_test.npy")))
"""


def test_the_evaluated_motion_has_mdms_own_units(small, bench):
    (small / "dataset" / "t2m_test.npy").unlink(missing_ok=True)
    mdm_runs.must(mdm_runs.python(small, "-c", UNITS, str(bench / "runs/2d-0/model000000002.pt")))
    found = np.load(small / "units.npz")
    np.testing.assert_array_equal(found["mean"], np.load(bench / f"set/teacher_vecs/{CARD.lifter}/Mean.npy"))
    np.testing.assert_array_equal(found["kept"], np.load(small / "dataset/t2m_mean.npy"))
    assert found["n"].tolist() == [320, 320]
    assert not found["cache"]


def test_a_run_on_few_clips_or_of_another_shape_is_refused_before_anything_runs(small, bench, tmp_path):
    one = make_clip(name="walk")
    write_folder(str(tmp_path / "few"), {"train": [one], "test": [dataclasses.replace(one, id="t")]}, CARD)
    run = protocol_mdm.of_run(bench / "runs/2d-0")
    host = checkout.open_checkout(small, asked_by="a test")
    wide = dataclasses.replace(run, args={**run.args, "ff_size": 384})
    with pytest.raises(ConfigError, match=r"expected a denoiser with --ff_size 1024, .* found 384"):
        protocol_mdm.check(host, [wide])
    few = dataclasses.replace(run, args={**run.args, "clips": str(tmp_path / "few")})
    with pytest.raises(ConfigError, match="expected 320 or more clips"):
        protocol_mdm.check(host, [few])
