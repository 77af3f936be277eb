"""What an MDM checkout and this machine's packages and files lack, and what to do about it, without importing MDM."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import torch

from videomdm_ext import plugins
from videomdm_ext.errors import HostError, VideoMDMError
from videomdm_ext.mdm import clip_weights, placeholders, remedies, text
from videomdm_ext.mdm.checkout import Checkout

FINE, REMEDIED, MISSING = "fine", "remedied", "missing"


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
PLATFORMS = {"tensorboard": "TensorboardPlatform", "clearml": "ClearmlPlatform"}
"""Packages that MDM's trainer imports when --train_platform_type asks for them."""
TRY = """
import json, sys, warnings
warnings.simplefilter("ignore")
from videomdm_ext.mdm import doctor, placeholders
made = placeholders.try_all()
clip = sys.modules.get("clip")
other = clip is not None and not callable(getattr(clip, "load", None))
print("\\n" + json.dumps([made, other, doctor.try_encoders(), doctor.try_platforms()]))
"""


@dataclass(frozen=True)
class Tried:
    """What a process of its own found: packages that are stood in for, whether `clip` is another program, and what is
    wrong with each text encoder and platform, empty where it loads."""

    stood_in: dict[str, tuple[str, bool]]
    other: bool
    encoders: dict[str, str]
    platforms: dict[str, str]


def examine(checkout: Checkout) -> list[Finding]:
    """Everything that the host asks for, without importing it. Packages are tried in a process of their own."""
    tried = try_packages()
    encoders = examine_encoders(tried.encoders)
    if checkout.kind == "standin":
        return encoders
    changes = [examine_change(remedy) for remedy in remedies.REMEDIES if remedy.needed is not None]
    platforms = [
        _loaded(name, problem, f"reports under --train_platform_type {PLATFORMS[name]}", f"pip install {name}")
        for name, problem in tried.platforms.items()
    ]
    files = examine_files(checkout.root)
    return [*changes, *examine_packages(tried), *encoders, *platforms, *files, examine_ffmpeg()]


def examine_encoders(problems: dict[str, str]) -> list[Finding]:
    """Each text encoder, and which one `auto` takes."""
    found = [
        _loaded(f"text: {name}", problem, f"--text_features {name}", "Choose another, or put that right")
        for name, problem in problems.items()
    ]
    auto = next(name for name in text.AUTO if not problems.get(name))
    return [*found, Finding("text: auto", FINE, f"--text_features auto takes {auto} here", "")]


def _loaded(name: str, problem: str, about: str, advice: str) -> Finding:
    if not problem:
        return Finding(name, FINE, about, "")
    return Finding(name, MISSING, f"{about}; {problem}", advice)


def try_encoders() -> dict[str, str]:
    """What is wrong with each text encoder, empty where it really loads; CLIP's weights are not downloaded for that."""
    manager = plugins.create_manager()
    found = {}
    for name in plugins.collect(manager, "text_encoders"):
        try:
            found[name] = clip_weights.problem(download=False, load=True) if name == text.HOST else ""
            if name != text.HOST:
                text.load(manager, name)
        except VideoMDMError as error:
            found[name] = str(error)
    return found


def try_platforms() -> dict[str, str]:
    """What is wrong with each reporting platform, empty where it really loads."""
    found = dict.fromkeys(PLATFORMS, "")
    for name in PLATFORMS:
        try:
            if name == "tensorboard":
                with tempfile.TemporaryDirectory() as folder:
                    import_module("torch.utils.tensorboard").SummaryWriter(log_dir=folder).close()
            else:
                import_module(name)
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found


def try_packages() -> Tried:
    """Try every package, text encoder and platform in a new process."""
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", TRY]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    if done.returncode:
        raise HostError(f"Trying MDM's packages: expected no failure, found {done.stderr[-500:]}. Please report this.")
    made, other, encoders, platforms = json.loads(done.stdout.splitlines()[-1])
    return Tried({name: (problem, absent) for name, (problem, absent) in made.items()}, other, encoders, platforms)


def examine_packages(tried: Tried) -> list[Finding]:
    """The packages that MDM imports at the top; `clip`'s own only where there is `clip`."""
    stood_in = dict(tried.stood_in)
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
    if tried.other and "clip" not in stood_in:
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


def examine_change(remedy: remedies.Remedy) -> Finding:
    """Whether the package of that name needs its remedy, or is not there at all."""
    assert remedy.needed is not None
    try:
        return Finding(remedy.name, REMEDIED if remedy.needed() else FINE, remedy.about, "")
    except ImportError as error:
        return Finding(remedy.name, MISSING, f"MDM cannot be imported without it: {error}", placeholders.EXTRA)


def examine_files(root: Path) -> list[Finding]:
    """Files that MDM reads relative to its own folder."""
    humanml = root / "dataset" / "HumanML3D"
    parts = ("new_joint_vecs", "texts", "Mean.npy", "Std.npy", "train.txt", "test.txt")
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
        _loaded(
            "evaluator",
            try_evaluator(root / remedies.EVALUATOR),
            "MDM's text and motion evaluator; without it eval.eval_humanml does not run",
            "Run bash prepare/download_t2m_evaluators.sh in the checkout",
        ),
        _files(
            "SMPL",
            remedies.body_files(root),
            "the body model of the action data sets; HumanML3D and KIT never ask it",
            f"Run bash prepare/download_smpl_files.sh in the checkout, and {placeholders.EXTRA}",
            absent=REMEDIED,
        ),
    ]


def try_evaluator(path: Path) -> str:
    """What is wrong with the weights of MDM's evaluator, empty where they load."""
    try:
        with torch.serialization.safe_globals(remedies.numbers()):
            stored = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return f"not there: {path}"
    except Exception as error:
        return f"{path} cannot be read: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    absent = [name for name in ("movement_encoder", "text_encoder", "motion_encoder") if name not in stored]
    return f"{path} has no {', '.join(absent)}" if absent else ""


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
