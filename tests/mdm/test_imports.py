"""While the host is imported: packages that are absent or fail are stood in for, and changes come right after."""

import importlib
import importlib.util
import runpy
import sys
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

import pytest
import scipy.ndimage

from videomdm_ext.errors import HostError
from videomdm_ext.mdm import imports, remedies

FAKED = (
    "clip", "spacy", "wandb", "moviepy", "pkg_resources", "torchvision", "joblib", "smplx", "pandas", "sklearn", "eval",
    "imported",
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


def test_a_folder_of_runs_is_not_taken_for_the_package(write):
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


def test_moviepy_2_serves_from_its_own_places(write):
    for path in ("moviepy/video/__init__.py", "moviepy/video/io/__init__.py"):
        write(path, "")
    write("moviepy/__init__.py", "VideoClip, clips_array = 1, 2\n")
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


# -- changes right after a module's own code ---------------------------------------------------------------------------


def add_two(module: ModuleType) -> None:
    module.value.append(2)


def test_changes_come_right_after_the_modules_own_code_in_order_each_once(write):
    write("imported/__init__.py", "value = [1]\n")
    write("imported/late.py", "value = 1\n")
    write("imported/user.py", "from imported.late import value\n")
    imports.after("imported.late", lambda module: setattr(module, "value", module.value + 1))
    imports.after("imported.late", lambda module: setattr(module, "value", module.value * 10))
    assert importlib.import_module("imported.user").value == 20
    write("imported/program.py", "value = 3\n")
    imports.after("imported.program", add_two)
    assert runpy.run_module("imported.program", run_name="__main__")["value"] == 3, "it can still be run"
    for _ in range(2):  # what is there already is changed at once
        imports.after("imported", add_two)
    assert sys.modules["imported"].value == [1, 2]


def test_an_error_of_the_module_is_its_own(write):
    write("imported/__init__.py", "raise ValueError('broken')\n")
    imports.after("imported", add_two)
    with pytest.raises(ValueError, match="broken"):
        importlib.import_module("imported")
    imports.after("imported_nowhere", add_two)
    with pytest.raises(ModuleNotFoundError, match="imported_nowhere"):
        importlib.import_module("imported_nowhere")


def test_modules_of_the_stand_in_are_left_alone(write, tmp_path, monkeypatch):
    write("imported/__init__.py", "value = [1]\n")
    monkeypatch.setattr(imports, "STANDIN", tmp_path)
    imports.after("imported", add_two)
    assert importlib.import_module("imported").value == [1]
