"""Remedies for current packages and absent files: each is applied only where it is needed, and MDM is not edited."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from videomdm_ext.errors import HostError
from videomdm_ext.mdm import imports, placeholders, remedies
from videomdm_ext.mdm.checkout import Checkout

FINE, REMEDIED, MISSING = "fine", "remedied", "missing"


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
        remedies.numpy_names,
        (
            "data_loaders.humanml.scripts.motion_process",
            "data_loaders.humanml.motion_loaders.model_motion_loaders",
            "diffusion.resample",
        ),
        lambda: bool(remedies.lost_names()),
    ),
    Remedy(
        "scipy",
        "the matrix root's switch disp, which scipy gave up in 1.18",
        remedies.matrix_root,
        ("data_loaders.humanml.utils.metrics", "eval.a2m.action2motion.fid", "eval.a2m.stgcn.fid"),
        lambda: not remedies.root_has_switch(),
    ),
    Remedy(
        "matplotlib",
        "pictures' bytes, and 3D axes that join their figure, which matplotlib gave up by 3.10",
        remedies.drawing,
        ("data_loaders.humanml.utils.plot_script",),
        lambda: not remedies.draws_by_itself(),
    ),
    Remedy(
        "torch",
        "checkpoints that hold numpy's numbers, which torch.load refuses since 2.6",
        remedies.old_checkpoints,
        ("data_loaders.humanml.networks.evaluator_wrapper", "utils.model_util", "utils.dist_util"),
    ),
    Remedy("SMPL", "the body model", remedies.body, ("model.rotation2xyz",)),
    Remedy("GloVe", "word vectors", remedies.word_vectors, ("data_loaders.humanml.data.dataset",)),
)


def prepare() -> None:
    """Apply what is needed before MDM's modules are imported, and arrange for the rest. Repeating it is harmless."""
    placeholders.attach()
    for remedy in REMEDIES:
        for module in remedy.modules:
            imports.after(module, remedy.change)


def applied() -> tuple[str, ...]:
    """The remedies that serve in this process: packages stood in for, then changes to MDM's modules."""
    return (*placeholders.stood_in(), *remedies.used())


# -- the doctor -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finding:
    """A package or a file: fine, remedied (nothing to do), or missing (and what does not work without it)."""

    name: str
    state: str
    about: str
    advice: str


NEEDED = ("clip", "moviepy")
"""Packages without which something of the four programs does not work."""
OF_MOVIEPY = ("moviepy.editor", "moviepy.video.io.bindings")
OF_SMPLX = ("smplx.lbs",)
TRY = """
import json, sys, warnings
warnings.simplefilter("ignore")
from videomdm_ext.mdm import placeholders
made = placeholders.try_all()
clip = sys.modules.get("clip")
print("\\n" + json.dumps([made, clip is not None and not callable(getattr(clip, "load", None))]))
"""


def examine(checkout: Checkout) -> list[Finding]:
    """Every package and file that MDM asks for, without importing MDM. Packages are tried in a process of their own."""
    if checkout.kind == "standin":
        return []
    changes = [examine_change(remedy) for remedy in REMEDIES if remedy.needed is not None]
    return [*changes, *examine_packages(), *examine_files(checkout.root), examine_ffmpeg()]


def try_packages() -> tuple[dict[str, tuple[str, bool]], bool]:
    """-> the answer of `placeholders.try_all` in a new process, and whether `clip` is another program."""
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", TRY]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    if done.returncode:
        raise HostError(f"Trying MDM's packages: expected no failure, found {done.stderr[-500:]}. Please report this.")
    made, other = json.loads(done.stdout.splitlines()[-1])
    return {name: (problem, absent) for name, (problem, absent) in made.items()}, other


def examine_packages() -> list[Finding]:
    """The packages that MDM imports at the top; `clip`'s own only where there is `clip`."""
    stood_in, other = try_packages()
    parts = dict.fromkeys(OF_MOVIEPY, "moviepy") | dict.fromkeys(OF_SMPLX, "smplx")
    for part, whole in parts.items():
        if part in stood_in:
            stood_in.setdefault(whole, (f"without {part}", stood_in[part][1]))
    findings = []
    for name, package in placeholders.PACKAGES.items():
        if name in parts or (package.within == ("clip",) and "clip" in stood_in):
            continue
        problem, absent = stood_in.get(name, ("", False))
        findings.append(examine_package(package, problem, absent))
    if other and "clip" not in stood_in:
        findings[0] = Finding(
            "clip",
            MISSING,
            "another program of that name is installed",
            f"pip uninstall clip, then {placeholders.EXTRA}",
        )
    return findings


def examine_package(package: placeholders.Package, problem: str, absent: bool) -> Finding:
    """One package; where it is stood in for, what was the matter with it."""
    if not problem:
        return Finding(package.name, FINE, package.about, "")
    found = "not installed" if problem == placeholders.NONE else problem
    if not absent:
        return Finding(package.name, REMEDIED, f"{package.about}; {found}, its part is stood in for", "")
    state = MISSING if package.name in NEEDED else REMEDIED
    return Finding(package.name, state, f"{package.about}; {found}", package.advice)


def examine_change(remedy: Remedy) -> Finding:
    """Whether the package of that name needs its remedy, or is not there at all."""
    assert remedy.needed is not None
    try:
        return Finding(remedy.name, REMEDIED if remedy.needed() else FINE, remedy.about, "")
    except ImportError as error:
        return Finding(remedy.name, MISSING, f"MDM cannot be imported without it: {error}", placeholders.EXTRA)


def examine_files(root: Path) -> list[Finding]:
    """Files that MDM reads relative to its own folder, and CLIP's weights."""
    humanml = root / "dataset" / "HumanML3D"
    parts = ("new_joint_vecs", "texts", "Mean.npy", "Std.npy", "train.txt", "test.txt")
    clip = Path.home() / ".cache" / "clip" / "ViT-B-32.pt"
    return [
        _files(
            "HumanML3D",
            [humanml / part for part in parts],
            "MDM's training set; without it only --clips can be trained on",
            "Get it as MDM's README says",
        ),
        _files(
            "GloVe",
            [root / "glove" / name for name in remedies.VECTORS],
            "word vectors of the evaluator; without them eval.eval_humanml does not run, training does",
            "Run bash prepare/download_glove.sh in the checkout",
        ),
        _files(
            "evaluator",
            [root / remedies.EVALUATOR],
            "MDM's text and motion evaluator; without it eval.eval_humanml does not run",
            "Run bash prepare/download_t2m_evaluators.sh in the checkout",
        ),
        _files(
            "CLIP weights",
            [clip],
            "text features; the package `clip` downloads them at the first use",
            "Be online then, or choose --text_features minilm or words",
        ),
        _files(
            "SMPL",
            remedies.body_files(root),
            "the body model of the action data sets; HumanML3D and KIT never ask it",
            f"Run bash prepare/download_smpl_files.sh in the checkout, and {placeholders.EXTRA}",
            absent=REMEDIED,
        ),
    ]


def _files(name: str, paths: list[Path], about: str, advice: str, absent: str = MISSING) -> Finding:
    gone = [str(path) for path in paths if not path.exists()]
    if not gone:
        return Finding(name, FINE, about, "")
    return Finding(name, absent, f"{about}; not there: {', '.join(gone)}", advice)


def examine_ffmpeg() -> Finding:
    """What moviepy writes videos with."""
    about = "writes the videos that moviepy draws"
    if find_spec("imageio_ffmpeg") or shutil.which("ffmpeg") or os.environ.get("FFMPEG_BINARY"):
        return Finding("ffmpeg", FINE, about, "")
    return Finding("ffmpeg", MISSING, f"{about}; not installed", "pip install imageio-ffmpeg")
