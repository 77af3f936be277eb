"""What happens while MDM's modules are imported: changes to them, and stand-ins for packages that it may do without.

A change is made right after a module's own code has run; the stand-in host's modules are left alone. A package that
MDM imports at the top and that cannot be imported is stood in for: the stand-in can be imported, imported from and
subclassed; calling anything of it raises HostError with advice. It is made when a module of MDM imports the package,
and is gone from sys.modules when that module has been imported, so that nobody else takes it for the package. Only that
of moviepy stays: a program that is started imports it by itself.
"""

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, NoneType, SimpleNamespace
from typing import Any

import numpy as np

from videomdm_ext.errors import HostError
from videomdm_ext.mdm.checkout import PACKAGES as HOST
from videomdm_ext.mdm.checkout import STANDIN

EXTRA = 'pip install -e ".[mdm]" -c constraints.txt'
NONE = "none"
"""What is found of a package that is not installed."""
Change = Callable[[ModuleType], None]


def after(name: str, change: Change) -> None:
    """Call `change(module)` once the module `name` is imported, at once where it is already. Repeating is harmless."""
    changes = _finder.changes.setdefault(name, [])
    if change in changes:
        return
    changes.append(change)
    attach()
    if name in sys.modules:
        _finder.apply(sys.modules[name], [change])


def during(name: str, context: Callable[[], contextlib.AbstractContextManager[None]]) -> None:
    """Run the module `name`'s own code within a context. Repeating is harmless."""
    _finder.contexts[name] = context
    attach()


class Beside(ModuleType):
    """A module with some names of its own beside those of another."""

    def __init__(self, other: ModuleType, **own: Any) -> None:
        super().__init__(other.__name__)
        vars(self).update(own, other=other)

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["other"], name)


@contextlib.contextmanager
def swapped(module: ModuleType, **names: Any) -> Iterator[None]:
    """Module globals replaced for a while."""
    before = {name: getattr(module, name) for name in names}
    vars(module).update(names)
    try:
        yield
    finally:
        vars(module).update(before)


# -- packages that are stood in for ------------------------------------------------------------------------------------


class Missing(type):
    """Kind of every name of an absent package: a class that cannot be called, nor can a subclass of it."""

    why: str

    def __call__(cls, *_: Any, **__: Any) -> Any:
        raise HostError(cls.why)

    def __getattr__(cls, name: str) -> Any:
        return missing(name, cls.why)


def missing(name: str, why: str) -> Any:
    """What an absent package holds under `name`; a double underscore is never there."""
    if name.startswith("__"):
        raise AttributeError(name)
    return Missing(name, (), {"why": why})


class Placeholder(ModuleType):
    """An absent package, or a module of it."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(name, why)
        self.__file__ = None
        self.__path__: list[str] = []
        self.why = why

    def __getattr__(self, name: str) -> Any:
        return missing(name, self.why)


@dataclass(frozen=True)
class Package:
    """A module, why MDM imports it, what to do where it is truly needed, and what stands in for it."""

    name: str
    about: str
    advice: str
    make: Callable[[str, str], ModuleType] = Placeholder
    within: tuple[str, ...] = HOST
    """Stood in for only while one of these is being imported, or where there is none of them."""

    def why(self, problem: str) -> str:
        return f"{self.name}: expected a package that can be imported, found {problem}. It {self.about}. {self.advice}."


def picture(figure: Any) -> np.ndarray:
    """A matplotlib figure, drawn. -> [height, width, 3] of bytes"""
    agg: Any = importlib.import_module("matplotlib.backends.backend_agg")
    canvas = agg.FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]


class Transforms(Placeholder):
    """`torchvision` for `clip`: its steps can be put together, which loading does; what they make raises HostError."""

    InterpolationMode = SimpleNamespace(BICUBIC="bicubic")

    def __getattr__(self, name: str) -> Any:
        refuse = missing(name, self.why)
        return type(name, (), {"__init__": lambda *_, **__: None, "__call__": lambda *_, **__: refuse()})


class Tagger(Placeholder):
    """`spacy`: its language can be loaded, which priorMDM does where it is imported, and tags nothing."""

    def load(self, name: str, **_: Any) -> Any:
        return missing(name, self.why)


def filled(contents: Callable[[], Mapping[str, Any]]) -> Callable[[str, str], ModuleType]:
    """Makes a module with these names, for one that has moved or of which little is used."""

    def make(name: str, why: str) -> ModuleType:
        module = ModuleType(name, why)
        vars(module).update(contents())
        return module

    return make


def public(name: str) -> dict[str, Any]:
    """The public names of a module."""
    return {key: value for key, value in vars(importlib.import_module(name)).items() if not key.startswith("_")}


VIDEOS = "draws motions as videos; without it they are saved as results.npy all the same"
ACTIONS = "turns joint rotations of the action data sets into positions, with SMPL"
PACKAGES = {
    package.name: package
    for package in (
        Package("clip", "encodes text with CLIP", f"{EXTRA}, or choose --text_features minilm or words"),
        Package(
            "pkg_resources",
            "gives `clip` the package `packaging`",
            "Nothing to do",
            filled(lambda: {"packaging": __import__("packaging.version")}),
            ("clip",),
        ),
        Package("torchvision", "prepares images for CLIP, not text", "Nothing to do", Transforms, ("clip",)),
        Package("smplx", ACTIONS, EXTRA),
        Package("smplx.lbs", ACTIONS, EXTRA),
        Package("spacy", "tags the words of new captions; no program of MDM does that", EXTRA, Tagger),
        Package("joblib", "is imported and not used by MDM's samplers", EXTRA),
        Package("wandb", "reports to Weights & Biases under --train_platform_type WandBPlatform", "pip install wandb"),
        Package("moviepy", VIDEOS, EXTRA, within=()),
        Package("moviepy.editor", VIDEOS, EXTRA, filled(lambda: public("moviepy")), ()),
        Package("moviepy.video.io.bindings", VIDEOS, EXTRA, filled(lambda: {"mplfig_to_npimage": picture}), ()),
        Package(
            "eval.eval_humanact12_uestc", "evaluates on action data; LoRA-MDM imports it and has none", "Nothing to do"
        ),
        Package("pandas", "serves the evaluation of unconstrained models on HumanAct12", "pip install pandas"),
        Package("sklearn", "serves the evaluation of unconstrained models", "pip install scikit-learn"),
        Package("scipy.ndimage.filters", "smooths headings", "Nothing to do", filled(lambda: public("scipy.ndimage"))),
    )
}


def attach() -> None:
    """Stand in for what cannot be imported from now on. Repeating it is harmless."""
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)


def stood_in() -> dict[str, str]:
    """Packages that this process made stand-ins for, and what was found instead of each."""
    return dict(_finder.made)


def try_all() -> dict[str, tuple[str, bool]]:
    """Import every package as MDM would. -> what was found of those stood in for, and whether nothing of it works."""
    attach()
    _finder.running.append(HOST[0])
    try:
        for name in [package.name for package in PACKAGES.values() if package.within != ("clip",)]:
            try:
                importlib.import_module(name)
            except ImportError as error:
                _finder.made[name] = str(error)
    finally:
        _finder.running.pop()
        _finder.tidy()
    return {
        name: (problem, type(_finder.modules.get(name)) in (Placeholder, NoneType))
        for name, problem in stood_in().items()
    }


class _Made(Loader):
    """Loads what was made already."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        return None


class _Finder(MetaPathFinder):
    """Asks the other finders, and makes a stand-in where they find nothing, or what they find cannot be run."""

    def __init__(self) -> None:
        self.changes: dict[str, list[Change]] = {}
        self.contexts: dict[str, Callable[[], contextlib.AbstractContextManager[None]]] = {}
        self.made: dict[str, str] = {}
        self.modules: dict[str, ModuleType] = {}
        self.running: list[str] = []

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        parent = sys.modules.get(name.rpartition(".")[0])
        if isinstance(parent, Placeholder):
            return ModuleSpec(name, _Made(type(parent)(name, parent.why)), is_package=True)
        package = PACKAGES.get(name)
        wanted = package is not None and self.wants(package)
        if not wanted and name not in self.changes and name.partition(".")[0] not in (*HOST, "clip"):
            return None
        # a folder of that name without code, such as the one that wandb leaves behind, counts as nothing
        specs = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((spec for spec in specs if spec is not None), None)
        if package is not None and wanted and (spec is None or spec.loader is None):
            return ModuleSpec(name, _Made(self.make(package, NONE)), is_package=True)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module
            spec.loader.exec_module = lambda module: self.run(name, run, module)  # type: ignore[method-assign]
        return spec

    def wants(self, package: Package) -> bool:
        return not package.within or any(name in package.within for name in self.running)

    def make(self, package: Package, problem: str) -> ModuleType:
        self.made[package.name] = problem
        self.modules[package.name] = package.make(package.name, package.why(problem))
        return self.modules[package.name]

    def run(self, name: str, run: Callable[[ModuleType], None], module: ModuleType) -> None:
        """Run the module's own code; where that of a package fails, a stand-in that says how takes its place."""
        package = PACKAGES.get(name)
        self.running.append(name.partition(".")[0])
        try:
            with self.contexts.get(name, contextlib.nullcontext)():
                run(module)
        except Exception as error:
            if package is None or not self.wants(package):
                raise
            forget(name)
            stand_in = self.make(package, f"{getattr(module, '__file__', 'one')}, which fails: {error!r}")
            stand_in.__spec__ = module.__spec__
            sys.modules[name] = stand_in
        finally:
            self.running.pop()
            self.tidy()
        self.apply(module, self.changes.get(name, ()))

    def apply(self, module: ModuleType, changes: Iterable[Change]) -> None:
        if not Path(module.__file__ or "").resolve().is_relative_to(STANDIN):
            for change in changes:
                change(module)

    def tidy(self) -> None:
        """Drop the stand-ins whose time is over."""
        for name, module in self.modules.items():
            if sys.modules.get(name) is module and not self.wants(PACKAGES[name]):
                forget(name)


def forget(name: str) -> None:
    """Drop a module and those inside it, so that they are looked for anew."""
    for known in [known for known in sys.modules if known == name or known.startswith(f"{name}.")]:
        del sys.modules[known]


_finder = _Finder()
