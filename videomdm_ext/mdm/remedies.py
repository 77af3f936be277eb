"""Changes to single MDM modules for current packages and absent files, each made only where it is needed.

A change gets the module right after its import. What it replaces are names in that module: numpy, scipy, matplotlib
and torch stay as they are for everyone else.
"""

import atexit
import functools
import importlib
import importlib.util
import inspect
import os
import pickle
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from videomdm_ext.errors import HostError
from videomdm_ext.mdm import imports
from videomdm_ext.mdm.imports import Beside, Placeholder

# -- numpy, scipy, torch ----------------------------------------------------------------------------------------------

PLAIN: dict[str, type] = {"float": float, "int": int, "bool": bool, "object": object, "str": str, "complex": complex}


def lost_names() -> dict[str, type]:
    """Python's types that numpy once gave under its own name, and does not give now."""
    return {name: kind for name, kind in PLAIN.items() if name not in vars(np)}


def numpy_names(module: ModuleType) -> None:
    """Let the module say np.float and the like."""
    lost = lost_names()
    if lost and not isinstance(module.np, Beside):
        vars(module)["np"] = Beside(module.np, **lost)


@contextmanager
def numpy_at_import() -> Iterator[None]:
    """Within, a module that imports numpy may say np.float at its top level."""
    lost = lost_names()
    sys.modules["numpy"] = Beside(np, **lost) if lost else np
    try:
        yield
    finally:
        sys.modules["numpy"] = np


def root_has_switch() -> bool:
    """Whether scipy's matrix root still takes `disp`."""
    linalg: Any = importlib.import_module("scipy.linalg")
    return "disp" in inspect.signature(linalg.sqrtm).parameters


def matrix_root(module: ModuleType) -> None:
    """Let the module ask scipy's matrix root for its error with disp=False."""
    if root_has_switch():
        return
    own = module.linalg.sqrtm

    def sqrtm(matrix: Any, disp: bool = True, **named: Any) -> Any:
        root = own(matrix, **named)
        return root if disp else (root, root_error(root, np.asarray(matrix)))

    vars(module)["linalg"] = Beside(module.linalg, sqrtm=sqrtm)


def root_error(root: np.ndarray, matrix: np.ndarray) -> float:
    """|R R - A|^2 / |A| by Frobenius norms, as scipy gave it; infinite where the root is not finite."""
    if not np.isfinite(root).all():
        return float("inf")
    return float(np.linalg.norm(root @ root - matrix) ** 2 / np.linalg.norm(matrix))


EVALUATOR = Path("t2m", "text_mot_match", "model", "finest.tar")


def numbers() -> list[Any]:
    """What the weights of older checkpoints may hold beside tensors: numpy's numbers and arrays."""
    core: Any = importlib.import_module("numpy._core.multiarray")
    kinds = [type(np.dtype(code)) for code in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "?")]
    names = [(getattr(core, name), f"numpy.core.multiarray.{name}") for name in ("scalar", "_reconstruct")]
    return [*names, core.scalar, core._reconstruct, np.dtype, np.ndarray, *kinds]


def old_checkpoints(module: ModuleType) -> None:
    """Let torch.load in this module read numpy's numbers as well, and say where the evaluator's come from."""
    name = next((name for name in ("torch", "th") if hasattr(module, name)), "")
    if not name:  # a module that reads no checkpoint, at an older commit
        return
    own = getattr(module, name)

    @functools.wraps(own.load)
    def load(file: Any, *rest: Any, **named: Any) -> Any:
        try:
            return own.load(file, *rest, **named)
        except FileNotFoundError as error:
            if Path(file).name != EVALUATOR.name:
                raise
            raise HostError(
                f"{file}: expected the weights of MDM's evaluator, found none. "
                "Run bash prepare/download_t2m_evaluators.sh in the checkout."
            ) from error
        except pickle.UnpicklingError:
            with torch.serialization.safe_globals(numbers()):
                return own.load(file, *rest, **named)

    vars(module)[name] = Beside(own, load=load)


# -- drawing ----------------------------------------------------------------------------------------------------------


def draws_by_itself() -> bool:
    """Whether matplotlib still has what MDM's drawing uses."""
    agg: Any = importlib.import_module("matplotlib.backends.backend_agg")
    return hasattr(agg.FigureCanvasAgg, "tostring_rgb")


def drawing(module: ModuleType) -> None:
    """Let plot_3d_motion draw: a picture's bytes, axes that belong to their figure, the distance of the eye.

    Where it does not draw with moviepy, matplotlib and MDM's programs call ffmpeg by its name.
    """
    maker = "moviepy" if hasattr(module, "mplfig_to_npimage") else "ffmpeg"
    if isinstance(sys.modules.get("moviepy.editor"), Placeholder) if maker == "moviepy" else not find_ffmpeg():
        vars(module)["plot_3d_motion"] = functools.partial(_cannot_draw, maker)
    elif not draws_by_itself():
        vars(module)["mplfig_to_npimage"] = imports.picture
        vars(module)["p3"] = Beside(module.p3, Axes3D=attached(module.p3.Axes3D))


def find_ffmpeg() -> bool:
    """Whether ffmpeg can be called by its name, from now on that of imageio-ffmpeg where there is no other."""
    if shutil.which("ffmpeg") is None and importlib.util.find_spec("imageio_ffmpeg") is not None:
        folder = Path(tempfile.mkdtemp(prefix="videomdm-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        (folder / "ffmpeg").symlink_to(importlib.import_module("imageio_ffmpeg").get_ffmpeg_exe())
        os.environ["PATH"] = os.pathsep.join([str(folder), os.environ.get("PATH", "")])
    return shutil.which("ffmpeg") is not None


def attached(own: Any) -> Any:
    """matplotlib's 3D axes, of the figure they are made with, with `dist`, lines that can be set to none, grid(b=)."""

    class Axes3D(own):
        lines = property(own.lines.fget, lambda self, _: emptied(own.lines.fget(self)))
        collections = property(own.collections.fget, lambda self, _: emptied(own.collections.fget(self)))

        def __init__(self, figure: Any, *rest: Any, **named: Any) -> None:
            super().__init__(figure, *rest, **named)
            if self not in figure.axes:
                figure.add_axes(self)

        def grid(self, visible: Any = None, **named: Any) -> None:
            super().grid(named.pop("b", visible), **named)

        @property
        def dist(self) -> float:
            return float(self._dist)

        @dist.setter
        def dist(self, distance: float) -> None:
            self._dist = distance

    return Axes3D


def emptied(artists: Any) -> None:
    """Remove what axes show."""
    for artist in list(artists):
        artist.remove()


def _cannot_draw(maker: str, save_path: str, *_: Any, **__: Any) -> None:
    """In place of plot_3d_motion where nothing can make a video of it."""
    raise HostError(
        f"{save_path}: expected {maker} to draw it, found none that can be used. {imports.EXTRA}. "
        f"The motions themselves are saved: {Path(save_path).parent / 'results.npy'}."
    )


# -- absent files -----------------------------------------------------------------------------------------------------


class WithoutSMPL(nn.Module):
    """Stands in for the SMPL body, which the 263 features never ask."""

    num_betas = 10

    def __init__(self, why: str) -> None:
        super().__init__()
        self.why = why

    def forward(self, *_: Any, **__: Any) -> Any:
        raise HostError(
            f"SMPL: expected the body model for joint rotations, found {self.why}. Data sets with rotations "
            "(humanact12, uestc) need it to sample, to evaluate and for --lambda_rcxyz and --lambda_fc: "
            f"run bash prepare/download_smpl_files.sh in the checkout, and {imports.EXTRA}."
        )


def body_files(root: Path) -> list[Path]:
    """The files that MDM's utils/config.py names."""
    return [root / "body_models" / "smpl" / name for name in ("SMPL_NEUTRAL.pkl", "J_regressor_extra.npy")]


def body(module: ModuleType) -> None:
    """Build MDM's SMPL where its files and packages are there, and an empty module otherwise."""
    own = module.SMPL

    @functools.wraps(own, updated=())
    def smpl(*positional: Any, **named: Any) -> nn.Module:
        if absent := [str(path) for path in body_files(Path()) if not path.is_file()]:
            return WithoutSMPL(f"no {' and no '.join(absent)}")
        try:
            built: nn.Module = own(*positional, **named)
            return built
        except (ImportError, HostError) as error:
            return WithoutSMPL(str(error).rstrip("."))

    vars(module)["SMPL"] = smpl


VECTORS = tuple(f"our_vab_{end}" for end in ("data.npy", "words.pkl", "idx.pkl"))


def word_vectors(module: ModuleType) -> None:
    """Let a training set be built without GloVe, which training never reads; evaluation is refused instead, as is what
    has no data."""
    own: Any = module.WordVectorizer
    build = module.HumanML3D.__init__

    class WithoutVectors(own):
        """Knows no word: zeros of GloVe's width, and the word's own tag."""

        def __init__(self) -> None:
            self.word2vec: dict[str, np.ndarray] = {}

        def __getitem__(self, item: str) -> tuple[np.ndarray, np.ndarray]:
            return np.zeros(300), self._get_pos_ohot(item.rpartition("/")[2])

    def vectorizer(folder: str, prefix: str, *, needed: bool = True) -> Any:
        absent = [path for name in VECTORS if not (path := Path(folder) / name).is_file()]
        if not absent:
            return own(folder, prefix)
        if needed:
            raise HostError(
                f"{absent[0]}: expected GloVe's word vectors for the evaluator, found none. "
                "Run bash prepare/download_glove.sh in the checkout."
            )
        return WithoutVectors()

    @functools.wraps(build)
    def initialise(self: Any, *given: Any, **named: Any) -> None:
        mode = given[0] if given else named.get("mode", named.get("load_mode"))
        lenient = functools.partial(vectorizer, needed=False)
        with imports.swapped(module, WordVectorizer=lenient) if mode == "train" else nullcontext():
            try:
                build(self, *given, **named)
            except FileNotFoundError as error:
                raise HostError(
                    f"{error.filename}: expected MDM's own data under the folder that its program is started in, found "
                    "none. Get them as MDM's README says, or train on a data set of this package: --clips DIR."
                ) from error

    vars(module)["WordVectorizer"] = vectorizer
    module.HumanML3D.__init__ = initialise


# -- all of them -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Remedy:
    """A change to MDM modules, what it is for, and whether this machine's packages need it."""

    name: str
    about: str
    change: Callable[[ModuleType], None]
    modules: tuple[str, ...]
    needed: Callable[[], bool] | None = None
    """None where it depends on a file."""


REMEDIES = (
    Remedy(
        "numpy",
        "np.float and np.int, which numpy gave up in 1.24",
        numpy_names,
        (
            "data_loaders.humanml.scripts.motion_process",
            "data_loaders.humanml.motion_loaders.model_motion_loaders",
            "diffusion.resample",
        ),
        lambda: bool(lost_names()),
    ),
    Remedy(
        "scipy",
        "the matrix root's switch disp, which scipy gave up in 1.18",
        matrix_root,
        ("data_loaders.humanml.utils.metrics", "eval.a2m.action2motion.fid", "eval.a2m.stgcn.fid"),
        lambda: not root_has_switch(),
    ),
    Remedy(
        "matplotlib",
        "pictures' bytes, and 3D axes that join their figure, which matplotlib gave up by 3.10",
        drawing,
        ("data_loaders.humanml.utils.plot_script",),
        lambda: not draws_by_itself(),
    ),
    Remedy(
        "torch",
        "checkpoints that hold numpy's numbers, which torch.load refuses since 2.6",
        old_checkpoints,
        ("data_loaders.humanml.networks.evaluator_wrapper", "utils.model_util", "utils.dist_util"),
    ),
    Remedy("SMPL", "the body model", body, ("model.rotation2xyz",)),
    Remedy("GloVe", "word vectors", word_vectors, ("data_loaders.humanml.data.dataset",)),
)


def prepare() -> None:
    """Apply what is needed before MDM's modules are imported, and arrange for the rest. Repeating it is harmless."""
    imports.attach()
    imports.during("data_loaders.humanml.common.quaternion", numpy_at_import)
    for remedy in REMEDIES:
        for module in remedy.modules:
            imports.after(module, remedy.change)
