"""Remedies one by one: left alone where they are not needed, and serving where they are."""

import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import humanml
import numpy as np
import pytest
import scipy.linalg
import torch
from matplotlib.figure import Figure
from mpl_toolkits.mplot3d.art3d import Poly3DCollection
from mpl_toolkits.mplot3d.axes3d import Axes3D
from torch import nn

from videomdm_ext.errors import HostError
from videomdm_ext.mdm import imports, remedies


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


def test_the_old_names_of_numpy_are_there_while_a_module_that_needs_them_is_imported_and_for_nobody_else():
    with remedies.numpy_at_import():
        import numpy as inside

        assert np.finfo(inside.float).eps == np.finfo(float).eps
        assert inside.pi == np.pi
    import numpy as outside

    assert outside is np
    assert remedies.lost_names().keys() >= {"float", "int"}
    assert not hasattr(np, "float")


@pytest.mark.filterwarnings("ignore:The `disp` argument")
def test_the_matrix_root_gives_its_error_as_scipy_did(monkeypatch):
    """Where it has lost its switch, as in 1.18."""
    old = scipy.linalg.sqrtm
    monkeypatch.setattr(scipy.linalg, "sqrtm", lambda A: old(A))
    module = ModuleType("metrics")
    module.linalg = scipy.linalg
    remedies.matrix_root(module)
    draws = np.random.default_rng(0).normal(size=(5, 5))
    matrix = draws @ draws.T
    root, error = module.linalg.sqrtm(matrix, disp=False)
    assert np.array_equal(root, old(matrix))
    assert np.array_equal(module.linalg.sqrtm(matrix), root)
    assert error == pytest.approx(np.linalg.norm(root @ root - matrix) ** 2 / np.linalg.norm(matrix))
    if "disp" in remedies.inspect.signature(old).parameters:
        assert error == pytest.approx(old(matrix, disp=False)[1])
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
def worded() -> SimpleNamespace:
    """A module with datasets that make a vectorizer, as MDM's do."""

    class HumanML3D:
        def __init__(self, mode=None, split="train", load_mode=None, folder="", mean=""):
            self.split, self.mean = split, np.load(f"{folder}/{mean}") if mean else None
            self.w_vectorizer = module.WordVectorizer(folder, "our_vab")

    class KIT(HumanML3D):
        pass

    module = SimpleNamespace(WordVectorizer=Vectorizer, HumanML3D=HumanML3D, KIT=KIT)
    remedies.word_vectors(module)
    return module


@pytest.mark.parametrize("name", ["HumanML3D", "KIT"])
@pytest.mark.parametrize("mode", [("train",), {"load_mode": "train"}, {"mode": "train"}], ids=str)
def test_a_training_set_without_glove_gets_empty_word_vectors_whatever_its_mode_is_called(worded, tmp_path, name, mode):
    given, named = ((), mode) if isinstance(mode, dict) else (mode, {})
    dataset = getattr(worded, name)(*given, **named, split="val", folder=str(tmp_path))
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


def test_a_host_without_data_of_its_own_is_refused_with_what_to_do(worded, tmp_path):
    with pytest.raises(HostError, match=r"Mean\.npy: expected MDM's own data .* --clips DIR"):
        worded.HumanML3D("train", folder=str(tmp_path), mean="Mean.npy")


def test_with_glove_the_vectorizer_is_the_hosts_own(worded, tmp_path):
    humanml.write_glove(tmp_path)
    for mode in ("train", "eval"):
        vectorizer = worded.HumanML3D(mode, folder=str(tmp_path / "glove")).w_vectorizer
        assert type(vectorizer) is Vectorizer
        assert (vectorizer.folder, vectorizer.prefix) == (str(tmp_path / "glove"), "our_vab")


def test_ffmpeg_is_called_by_its_name_where_nothing_draws_with_moviepy(tmp_path, monkeypatch):
    pytest.importorskip("imageio_ffmpeg")
    monkeypatch.setenv("PATH", str(tmp_path))
    module = SimpleNamespace(plot_3d_motion=print)
    assert shutil.which("ffmpeg") is None
    assert remedies.find_ffmpeg()
    assert subprocess.run(["ffmpeg", "-version"], capture_output=True).returncode == 0
    monkeypatch.setattr(remedies, "find_ffmpeg", lambda: False)
    monkeypatch.setattr(remedies, "draws_by_itself", lambda: True)
    remedies.drawing(module)
    with pytest.raises(HostError, match=r"out\.mp4: expected ffmpeg to draw it"):
        module.plot_3d_motion("out.mp4", [], None)


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
