"""Hosts that lack what the newest MDM has: stand-in trees without it train, and what cannot be hooked is refused.

The trees are the stand-in with seams as older commits and forks have them, so that no checkout is needed.
"""

import shutil
import subprocess
from pathlib import Path
from types import ModuleType, SimpleNamespace

import forks
import numpy as np
import pytest
import torch
from clips import CARD
from mdm_runs import CLIPS
from torch import nn

from videomdm_ext.cli import main as cli
from videomdm_ext.data.building import write_folder
from videomdm_ext.mdm import checkout, doctor, hook, loop, text
from videomdm_ext.mdm.checkout import DATA, LOOP, MODELS, PARSER, STANDIN
from videomdm_ext.mdm.speed import approximate

SIZES = ("--layers", "1", "--latent_dim", "16", "--ff_size", "24", "--diffusion_steps", "20", "--batch_size", "3")
TRAINING = '''
from pathlib import Path
from types import SimpleNamespace

import torch
from diffusion.resample import UniformSampler


class TrainLoop:
    """An early loop: no average, no goals, no samples, and a checkpoint that is asked for every weight."""

    def __init__(self, args, train_platform, model, diffusion, data):
        self.args, self.model, self.diffusion, self.data = args, model, diffusion, data
        self.save_dir, self.device, self.ddp_model = args.save_dir, torch.device("cpu"), model
        self.batch_size, self.save_interval, self.log_interval = data.batch_size, args.save_interval, args.log_interval
        self.step = self.resume_step = 0
        self._load_and_sync_parameters()
        self.opt = torch.optim.AdamW(model.parameters(), lr=args.lr)
        self.schedule_sampler = UniformSampler(diffusion)

    def _load_and_sync_parameters(self):
        if self.args.resume_checkpoint:
            self.resume_step = int(Path(self.args.resume_checkpoint).stem[5:])
            self.model.load_state_dict(torch.load(self.args.resume_checkpoint))

    def run_loop(self):
        for motion, cond in self.data:
            self.run_step(motion, cond)
            self.step += 1
        self.save()

    def evaluate(self):
        pass

    def run_step(self, motion, cond):
        self.forward_backward(motion, cond)
        self.opt.step()

    def forward_backward(self, motion, cond):
        self.opt.zero_grad()
        assert self.batch_size == len(motion)
        t, weights = self.schedule_sampler.sample(len(motion), "cpu")
        losses = self.diffusion.training_losses(self.ddp_model, motion, t, model_kwargs=cond, dataset=self.data.dataset)
        (losses["loss"] * weights).mean().backward()

    def ckpt_file_name(self):
        return f"model{self.step + self.resume_step:09d}.pt"

    def save(self):
        weights = {name: value for name, value in self.model.state_dict().items() if not name.startswith("clip_model.")}
        torch.save(weights, Path(self.save_dir, self.ckpt_file_name()))
        torch.save(self.opt.state_dict(), Path(self.save_dir, f"opt{self.step + self.resume_step:09d}.pt"))
'''
OLD = {
    PARSER: [
        ("def apply_rules(args):", "def other_rules(args):"),
        ("return apply_rules(args)", "return args"),
        ("return apply_rules(parser.parse_args())", "return parser.parse_args()"),
    ],
    MODELS: [("def load_saved_model", "def load_differently")],
    DATA: [
        ("split=split, hml_mode=hml_mode, **named", "split, hml_mode"),
        ("hml_mode, pred_len, batch_size)", "hml_mode)"),
    ],
    "model/mdm.py": [
        ("    def encode_text(self, raw_text):\n        return self.clip_encode_text(raw_text)\n", ""),
        ("def clip_encode_text", "def encode_text"),
        ("[None, :, None]", "[:, None]"),
        ('y["text_embed"] if "text_embed" in y else ', ""),
    ],
    "train/train_mdm.py": [
        (
            "import json",
            "from utils.parser_util import train_args\nimport data_loaders.humanml.common.quaternion\nimport json",
        )
    ],
}
"""Edits of the stand-in that give it the seams of MDM in 2022."""
FORK = {
    MODELS: [
        (
            "(args, data):\n    return MDM(**get_model_args(args, data)), create_gaussian_diffusion(args)",
            "(args, data, Kind=MDM, Diffusion=SpacedDiffusion):\n"
            "    return Kind(**get_model_args(args, data)), create_gaussian_diffusion(args, Diffusion)",
        ),
        ("def create_gaussian_diffusion(args)", "def create_gaussian_diffusion(args, Diffusion=SpacedDiffusion)"),
        ("return SpacedDiffusion(", "return Diffusion("),
    ],
    DATA: [("hml_mode", "load_mode")],
    LOOP: [("diffusion, data)", "diffusion, data, prior_data)")],
    "train/train_mdm.py": [
        (
            "TrainLoop(args, platform, model, diffusion, data)",
            "TrainLoop(args, platform, model, diffusion, data, prior)",
        ),
        (
            "model, diffusion = create_model_and_diffusion(args, data)",
            "prior = data if args.data_dir else None\n"
            "    model, diffusion = create_model_and_diffusion(args, data, Diffusion=SpacedDiffusion)",
        ),
        ("from utils import dist_util", "from diffusion.respace import SpacedDiffusion\nfrom utils import dist_util"),
    ],
}
"""On top of those what forks do: classes handed over as arguments, other names of arguments, a second data set."""


def tree(place: Path, *changes: dict[str, list[tuple[str, str]]]) -> Path:
    """-> a copy of the stand-in with an early loop, after these edits."""
    shutil.copytree(STANDIN, place, ignore=shutil.ignore_patterns("__pycache__"))
    common = place / "data_loaders" / "humanml" / "common"
    common.mkdir()
    (common / "quaternion.py").write_text("import numpy as np\n\nEPS = np.finfo(np.float).eps\n")
    (place / LOOP).write_text(TRAINING)
    for file, pairs in [item for edits in changes for item in edits.items()]:
        for old, new in pairs:
            content = (place / file).read_text()
            assert old in content, (file, old)
            (place / file).write_text(content.replace(old, new))
    return place


@pytest.fixture(scope="module")
def host(tmp_path_factory) -> Path:
    """-> an early tree as forks have changed it, installed, with a data set beside it."""
    place = tree(tmp_path_factory.mktemp("fork") / "mdm", OLD, FORK)
    write_folder(str(place / "set"), {"train": CLIPS}, CARD)
    checkout.install(place)
    return place


def run(host: Path, module: str, *words: str) -> subprocess.CompletedProcess[str]:
    return forks.run(["-m", module, *words], cwd=host, env={"PYTHONPATH": str(forks.ROOT), "VIDEOMDM_PLUGINS": None})


def train(host: Path, name: str, *words: str) -> subprocess.CompletedProcess[str]:
    given = ["--save_dir", f"save/{name}", "--clips", "set", "--crop_frames", "20", "--text_features", "words", *SIZES]
    return run(host, "train.train_mdm", *given, "--lr", "1e-2", *words)


TWO = ("--supervision", "2d", "--teacher", "lifted", "--loss", "reprojection", "--unroll", "off")


def weights(host: Path, name: str, step: int) -> dict[str, torch.Tensor]:
    return torch.load(host / "save" / name / f"model{step:09d}.pt")


def test_it_trains_in_3d_and_in_2d_and_a_checkpoint_without_text_weights_is_resumed(host):
    """The early loop asks a checkpoint for every weight; the text encoder of a plugin may have some."""
    for name, words in (("three", ()), ("two", TWO)):
        done = train(host, name, *words)
        assert (host / "save" / name / "model000000001.pt").is_file(), done.stderr
    more = ("--resume_checkpoint", "save/two/model000000001.pt", "--overwrite")
    done = train(host, "two", *TWO, *more)
    assert (host / "save/two/model000000002.pt").is_file(), done.stderr
    three, two, later = weights(host, "three", 1), weights(host, "two", 1), weights(host, "two", 2)
    assert three.keys() == two.keys() == later.keys()
    name = "output_process.poseFinal.weight"
    assert not torch.equal(three[name], two[name]), "the 2D loss reached the loop"
    assert not torch.equal(two[name], later[name])


def test_a_paired_run_goes_on_bit_for_bit(host):
    assert train(host, "once", *TWO, "--paired", "--num_steps", "3").returncode == 0
    assert train(host, "again", *TWO, "--paired", "--num_steps", "2").returncode == 0
    done = train(host, "again", *TWO, "--paired", "--num_steps", "3", "--resume_checkpoint", "latest")
    assert "resumed" in done.stdout, done.stderr
    once, again, before = weights(host, "once", 3), weights(host, "again", 3), weights(host, "again", 2)
    assert all(torch.equal(once[name], again[name]) for name in once)
    assert not all(torch.equal(once[name], before[name]) for name in once)


def test_our_sampling_reads_its_checkpoint(host):
    train(host, "sampled", *TWO, "--paired", "--num_steps", "1")
    words = ["--checkpoint", "save/sampled/model000000001.pt", "--mdm", ".", "--seconds", "1", "--count", "2"]
    done = run(host, "videomdm_ext", "sample", *words, "--text", "a person", "--formats", "npz", "--out", "out")
    assert done.returncode == 0, done.stderr
    assert np.load(host / "out" / "samples.npz")["samples"].shape == (40, 22, 3)


def test_a_second_data_set_is_refused_with_paired_alone(host):
    done = train(host, "mixed", *TWO, "--paired", "--data_dir", "more")
    assert (done.returncode, done.stdout.count("updates")) == (1, 0)
    assert "--paired: expected a training on one data set" in done.stderr
    assert train(host, "alone", *TWO, "--data_dir", "more").returncode == 0


def test_the_log_of_losses_takes_what_a_fork_adds():
    module = ModuleType("train.training_loop")
    module.TrainLoop = type("TrainLoop", (), {})
    module.log_loss_dict = lambda diffusion, ts, losses, log_quartiles=4: (ts, losses, log_quartiles)
    loop.replace(module)
    times, terms = torch.tensor([1, 2]), {"loss": torch.ones(2)}
    assert module.log_loss_dict(None, times, terms) == (times, terms, 4)
    assert module.log_loss_dict(None, times, terms, log_quartiles=0) == (times, terms, 0)


class Early(nn.Module):
    """A denoiser that encodes as MDM did at first."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.asked: list[list[str]] = []

    def encode_text(self, raw_text: list[str]) -> torch.Tensor:
        self.asked.append(list(raw_text))
        return torch.tensor([[float(len(each)), 1.0] for each in raw_text])

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor, y: object = None, more: int = 0) -> torch.Tensor:
        return x + more


def test_an_early_denoiser_gets_features_of_two_axes_and_texts_are_encoded_once():
    encoder = text.TextEncoder("one", lambda word: torch.full((512,), float(len(word))))
    denoiser = hook.with_text_encoder(Early, encoder)()
    features = denoiser.encode_text(["a", "abc"])
    assert features.shape == (2, 512)
    assert features[:, 0].tolist() == [1.0, 3.0]
    once = approximate.quicker(Early, approximate.Speed(encode_once=True))()
    for _ in range(2):
        assert once.encode_text(["a", "abc"]).tolist() == [[1.0, 1.0], [3.0, 1.0]]
    assert once.asked == [["a"], ["abc"]]
    assert once(torch.zeros(2), torch.zeros(2), None, more=3).tolist() == [3.0, 3.0]


def test_early_text_features_are_doubled_for_one_pass_of_guidance():
    features = torch.arange(6.0).view(2, 3)
    model = type("Model", (), {"cond_mode": "text", "encode_text": lambda self, texts: features})()
    twice = approximate.doubled(model, {"text": ["a", "b"]}, 2)
    assert twice is not None
    assert torch.equal(twice["text_embed"], torch.cat([features, features]))
    assert twice["text"] == ["a", "b", "a", "b"]


GAPS = {
    PARSER: ({*checkout.PROGRAMS}, "is not there, whose options args.json restores"),
    MODELS: ({"train 2d", "--paired", "sample", "edit", "evaluate"}, "is not there, which builds both"),
    DATA: ({"train 2d", "--paired"}, "is not there, in whose place clips are read"),
    LOOP: ({"train 3d", "train 2d", "--paired", "resume"}, "is not there, after which a step is checked"),
    "diffusion/respace.py": ({"train 2d", "--paired"}, "is not there, through which the 2D loss asks the denoiser"),
    "sample/generate.py": ({"sample"}, "is not there, which is the program"),
}


@pytest.mark.parametrize("file", GAPS)
def test_a_file_is_missed_by_the_programs_that_need_it_and_by_no_other(file, tmp_path):
    place = tree(tmp_path / "mdm", OLD)
    lacks = {"edit", "evaluate"}  # of which the stand-in has none
    before = doctor.survey(place).found
    assert {name for name, (state, _) in before.items() if state == doctor.LACKS} == lacks
    (place / file).unlink()
    found = doctor.survey(place).found
    programs, reason = GAPS[file]
    assert {name for name, (state, _) in found.items() if state == doctor.LACKS} == lacks | programs
    assert all(found[name][1].startswith(f"{file} {reason}") for name in programs)


def test_a_training_without_its_seam_is_refused_before_anything_is_written(host, tmp_path):
    place = Path(shutil.copytree(host, tmp_path / "mdm", ignore=shutil.ignore_patterns("save", "out")))
    content = (place / "diffusion/respace.py").read_text()
    (place / "diffusion/respace.py").write_text(content.replace("def _wrap_model", "def _wrapped"))
    done = train(place, "two", *TWO)
    assert done.returncode == 1
    sentence = "diffusion/respace.py has no SpacedDiffusion._wrap_model, through which the 2D loss asks the denoiser"
    assert f"error: {place}: expected a checkout that can be hooked, found that {sentence}. Take" in done.stderr
    assert not (place / "save").exists()


@pytest.mark.parametrize(("file", "name"), [(file, name) for file, (name, _) in checkout.FOREIGN.items()])
def test_another_structure_is_refused_by_its_name(file, name, tmp_path, capsys):
    place = tree(tmp_path / "mdm")
    (place / file).parent.mkdir(exist_ok=True)
    (place / file).touch()
    assert cli.main(["install", "--mdm", str(place)]) == 1
    assert f"this is {name}, which cannot be a host: " in capsys.readouterr().err
    table = doctor.survey_table([doctor.survey(place)])
    assert f"- mdm, everything: this is {name}, which cannot be a host" in table


def test_the_survey_runs_what_it_says_and_leaves_the_checkout_alone(tmp_path, capsys, monkeypatch):
    """Of the whole command, the stand-in's tree trains, resumes and samples; what fails says why."""
    place = tree(tmp_path / "mdm", OLD)

    def quickly(command: list[str], cwd: Path, env: dict[str, str], **_: object) -> subprocess.CompletedProcess[str]:
        return forks.run(command[1:], cwd=cwd, env=env)

    monkeypatch.setattr(doctor, "subprocess", SimpleNamespace(run=quickly))
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    out = tmp_path / "table.md"
    assert cli.main(["host", "survey", str(place), "--run", "--out", str(out)]) == 0
    shown, table = capsys.readouterr().out, out.read_text()
    assert table in shown
    rows = {line.split(" | ")[0]: line for line in table.splitlines() if line.startswith("| ")}
    assert rows["| mdm"] == "| mdm |  | ✓ | ✓ | ✓ | ✓ | ✓ | failed | lacks | lacks | ✓ |"
    assert "- mdm, sample: " in table  # it writes another file than MDM
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before


def test_a_folder_that_is_not_there_is_no_checkout_to_survey(tmp_path, capsys):
    assert cli.main(["host", "survey", str(tmp_path / "nowhere")]) == 1
    assert "expected a folder with a checkout, found none" in capsys.readouterr().err
