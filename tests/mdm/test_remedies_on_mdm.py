"""MDM's own programs beside current packages: with none of the optional ones, and without licensed files."""

import ast
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import forks
import mdm_runs
import numpy as np
import pytest
from humanml import write_evaluator, write_glove, write_humanml

from videomdm_ext.mdm import remedies

pytestmark = pytest.mark.mdm

PROGRAMS = ("train.train_mdm", "sample.generate", "sample.edit", "eval.eval_humanml")
HIDE = """
import os, sys
from importlib.machinery import PathFinder
ABSENT = {
    "clip", "smplx", "spacy", "moviepy", "wandb", "torchvision", "joblib", "h5py", "trimesh", "chumpy", "pandas",
    "sklearn",
} - {os.environ.get("GIVEN")}
class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in ABSENT else PathFinder.find_spec(name, path, target)
sys.meta_path[:] = [Without if finder is PathFinder else finder for finder in sys.meta_path]
"""
"""Starts a process that finds none of the optional packages, whatever is installed where the test runs."""
MOVIEPY_2 = """
class VideoClip:
    def __init__(self, frame_function):
        self.frame_function = frame_function
def clips_array(clips):
    raise NotImplementedError
"""


@pytest.fixture(scope="module")
def place(mdm_checkout, tmp_path_factory) -> Iterator[Path]:
    """-> a clone with a small data set, without GloVe, evaluator weights and SMPL."""
    root = tmp_path_factory.mktemp("remedies") / "mdm"
    subprocess.run(["git", "clone", "-q", "--shared", str(mdm_checkout.root), str(root)], check=True)
    subprocess.run(["git", "-C", str(root), "checkout", "-q", mdm_runs.commit(mdm_checkout.root)], check=True)
    write_humanml(root, train=8, test=8)
    yield root
    shutil.rmtree(root.parent)


def run(place: Path, *words: str, given: str = "") -> subprocess.CompletedProcess[str]:
    """python WORDS in the clone, with none of the optional packages but the one that is `given` beside the clone."""
    environment = {"PYTHONPATH": str(place.parent / "packages"), "GIVEN": given, **mdm_runs.PLAIN}
    return forks.run(["-W", "ignore", *words], cwd=place, env=environment, first=HIDE)


LOOK = """
import importlib, json, random, sys
import numpy as np
import torch
from videomdm_ext.errors import HostError
from videomdm_ext.mdm import hook, imports
torch.set_num_threads(1)
before = [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]
hook.begin()
for program in json.loads(sys.argv[1]):
    importlib.import_module(program)
from data_loaders.get_data import get_dataset_class
from data_loaders.humanml.networks.evaluator_wrapper import EvaluatorMDMWrapper
from data_loaders.humanml.scripts import motion_process
from diffusion.resample import LossSecondMomentResampler
from model.rotation2xyz import Rotation2xyz
from train.train_platforms import WandBPlatform
after = [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]

def refused(call):
    try:
        call()
    except HostError as error:
        return str(error)

body = Rotation2xyz("cpu")
x = torch.zeros(1, 25, 6, 4)
print(json.dumps({
    "in sys.modules": [name for name in ("clip", "spacy", "wandb", "joblib", "smplx") if name in sys.modules],
    "no draws": before == after,
    "positions": body(x, None, "xyz", True, True, "smpl", True).shape,
    "rotations": refused(lambda: body(x, None, "rot6d", True, True, "smpl", True)),
    "wandb": refused(lambda: WandBPlatform("save/x")),
    "evaluator": refused(lambda: EvaluatorMDMWrapper("humanml", "cpu")),
    "gt": refused(lambda: get_dataset_class("humanml")("gt", split="test")),
    "word": [part.shape for part in get_dataset_class("humanml")("train", split="test").w_vectorizer["walk/VERB"]],
    "counts": str(LossSecondMomentResampler(type("D", (), {"num_timesteps": 4}))._loss_counts.dtype),
    "numpy": [hasattr(motion_process.np, name) for name in ("float", "int")],
    "stood in": list(imports.stood_in()),
}))
"""


def test_all_programs_are_imported_without_the_optional_packages_and_what_cannot_be_done_says_what_to_do(place):
    looked = mdm_runs.answer(run(place, "-c", LOOK, json.dumps(PROGRAMS)))
    assert {"clip", "spacy", "smplx", "joblib", "wandb", "moviepy"} <= set(looked["stood in"])
    assert looked["in sys.modules"] == []
    assert looked["no draws"]
    assert looked["positions"] == [1, 25, 6, 4]
    assert looked["word"] == [[300], [15]]
    assert looked["counts"] == "int64"
    assert looked["numpy"] == [True, True]
    advice = {"rotations": "SMPL_NEUTRAL.pkl", "wandb": "pip install wandb", "gt": "download_glove.sh"}
    advice["evaluator"] = "download_t2m_evaluators.sh"
    for name, said in advice.items():
        assert said in looked[name]


@pytest.mark.filterwarnings("ignore:invalid escape sequence")
def test_no_module_of_the_checkout_uses_a_lost_numpy_name_without_a_remedy(mdm_checkout):
    given = {name.replace(".", "/") + ".py" for name in remedies.REMEDIES[0].modules}
    found = {}
    for path in sorted(mdm_checkout.root.rglob("*.py")):
        name = str(path.relative_to(mdm_checkout.root))
        lost = {used for used in numpy_uses(path) if used not in dir(np)}
        if lost and not name.startswith("visualize/"):
            found[name] = lost
    assert all(lost <= set(remedies.PLAIN) for lost in found.values())
    assert set(found) <= given


def numpy_uses(path: Path) -> set[str]:
    """-> the names that a file takes from `np`."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    used = (node for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name))
    return {node.attr for node in used if node.value.id == "np"}


DRAW = """
import json
import numpy as np
import torch
from videomdm_ext.mdm import imports, remedies
remedies.prepare()
from data_loaders.humanml.scripts.motion_process import recover_from_ric
from data_loaders.humanml.utils.paramUtil import t2m_kinematic_chain
from data_loaders.humanml.utils.plot_script import plot_3d_motion
features = torch.from_numpy(np.load("dataset/HumanML3D/new_joint_vecs/000000.npy")).float()
motion = recover_from_ric(features[None], 22)[0].numpy()
clip = plot_3d_motion("a.mp4", t2m_kinematic_chain, motion, "a person moves", "humanml", fps=20, gt_frames=[0])
np.savez("frames.npz", *[clip.frame_function(seconds) for seconds in (0.0, 1.0, 1.0)])
print(json.dumps(list(imports.stood_in())))
"""
ORANGE = ((221, 90, 55), (214, 158, 0), (183, 90, 57), (255, 109, 0), (221, 181, 14))
BLUE = ((77, 132, 170), (91, 153, 101), (97, 206, 185), (52, 193, 226), (128, 183, 154))
"""Of the five chains of bones: generated frames, and frames that were given."""


@pytest.fixture(scope="module")
def frames(place) -> list[np.ndarray]:
    """-> three frames of MDM's own drawing with a moviepy laid out like the second version."""
    package = place.parent / "packages" / "moviepy"
    (package / "video" / "io").mkdir(parents=True)
    (package / "__init__.py").write_text(MOVIEPY_2)
    stood_in = mdm_runs.answer(run(place, "-c", DRAW, given="moviepy"))
    assert {"moviepy.editor", "moviepy.video.io.bindings"} <= set(stood_in)
    with np.load(place / "frames.npz") as stored:
        return [stored[name] for name in stored.files]


def share(frame: np.ndarray, colour: tuple[int, int, int]) -> float:
    """-> the part of the pixels that are about of this colour."""
    return float((np.abs(frame.astype(int) - colour).max(-1) < 12).mean())


def test_a_motion_is_drawn_in_the_colours_of_its_bones_over_a_floor(frames):
    given, generated = frames[:2]
    assert generated.shape == (300, 300, 3)
    assert generated.dtype == np.uint8
    assert min(share(generated, colour) for colour in ORANGE) > 0.0005
    assert max(share(generated, colour) for colour in BLUE) < 0.0005
    assert min(share(given, colour) for colour in BLUE) > 0.0005
    assert 0.05 < share(generated, (191, 191, 191)) < 0.6
    assert share(generated, (255, 255, 255)) > 0.3
    assert share(generated[:60], (0, 0, 0)) > 0.002


def test_the_figure_stands_upright_in_the_picture(frames):
    """The head's chain is above the legs'."""
    rows = {colour: (np.abs(frames[1].astype(int) - colour).max(-1) < 12).nonzero()[0].mean() for colour in ORANGE}
    legs, spine = (rows[ORANGE[0]] + rows[ORANGE[1]]) / 2, rows[ORANGE[2]]
    assert spine < legs - 10


def test_a_frame_is_drawn_alike_twice_and_frames_differ(frames):
    assert np.array_equal(frames[1], frames[2])
    assert (frames[0] != frames[1]).mean() > 0.01


SMALL = ("--latent_dim", "32", "--layers", "1", "--diffusion_steps", "10", "--batch_size", "4")


@pytest.fixture(scope="module")
def trained(place) -> Path:
    """-> the checkpoint of a short training with MDM's own loop and data."""
    words = ("--save_dir", "save/short", "--num_steps", "3", "--text_features", "words", *SMALL)
    done = run(place, "-m", "videomdm_ext.run", "--mdm", str(place), "train.train_mdm", *words)
    assert done.returncode == 0, done.stderr[-4000:]
    return max((place / "save" / "short").glob("model*.pt"))


def test_training_runs_without_optional_packages_and_files(trained):
    args = json.loads((trained.parent / "args.json").read_text())
    assert args["text_features"] == "words"
    assert trained.name > "model000000002"


def test_generate_saves_its_motions_and_then_says_what_drawing_needs(place, trained):
    words = ("--model_path", str(trained), "--num_samples", "1", "--num_repetitions", "1", "--motion_length", "2")
    program = ("-m", "videomdm_ext.run", "--mdm", str(place), "sample.generate")
    done = run(place, *program, *words, "--text_prompt", "a person walks", "--output_dir", "out")
    assert done.returncode == 1
    message = done.stderr.splitlines()[-1]
    assert message.startswith("error: out/sample00_rep00.mp4: expected moviepy")
    assert message.endswith("The motions themselves are saved: out/results.npy.")
    results = np.load(place / "out" / "results.npy", allow_pickle=True).item()
    assert results["motion"].shape == (1, 22, 3, 40)


EVALUATE = """
import json
from videomdm_ext.mdm import hook
hook.begin()
from eval import eval_humanml
from data_loaders.get_data import get_dataset_loader
from data_loaders.humanml.networks.evaluator_wrapper import EvaluatorMDMWrapper
import torch
torch.multiprocessing.set_sharing_strategy("file_system")
loader = get_dataset_loader("humanml", batch_size=4, num_frames=None, split="test", hml_mode="gt")
wrapper = EvaluatorMDMWrapper("humanml", torch.device("cpu"))
with open("log.txt", "w") as log:
    scores, precision, embeddings = eval_humanml.evaluate_matching_score(wrapper, {"real": loader}, log)
print(json.dumps({"score": float(scores["real"]), "shape": embeddings["real"].shape}))
"""


def test_the_evaluator_measures_once_its_files_are_there(place):
    write_glove(place)
    write_evaluator(place)
    found = mdm_runs.answer(run(place, "-c", EVALUATE))
    assert found["shape"] == [8, 512]
    assert found["score"] > 0
