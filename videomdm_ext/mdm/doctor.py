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
from videomdm_ext.mdm import imports, remedies, text
from videomdm_ext.mdm.checkout import Checkout

FINE, REMEDIED, MISSING = "fine", "remedied", "missing"


@dataclass(frozen=True)
class Finding:
    """A package or a file: fine, remedied (nothing to do), or missing (and what does not work without it)."""

    name: str
    state: str
    about: str
    advice: str


PARTS = {
    "moviepy.editor": "moviepy",
    "moviepy.video.io.bindings": "moviepy",
    "smplx.lbs": "smplx",
    "eval.eval_humanact12_uestc": "eval",
}
"""Modules of packages that are looked for by themselves."""
PLATFORMS = {"tensorboard": "TensorboardPlatform", "clearml": "ClearmlPlatform"}
"""Packages that MDM's trainer imports when --train_platform_type asks for them."""
TRY = """
import json, sys, warnings
warnings.simplefilter("ignore")
from videomdm_ext.mdm import doctor, imports
made = imports.try_all()
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
    encoders = [
        _finding(f"text: {name}", problem, f"--text_features {name}", "Choose another, or put that right")
        for name, problem in tried.encoders.items()
    ]
    auto = next(name for name in text.AUTO if not tried.encoders.get(name))
    encoders.append(Finding("text: auto", FINE, f"--text_features auto takes {auto} here", ""))
    if checkout.kind == "standin":
        return encoders
    platforms = [
        _finding(name, problem, f"reports under --train_platform_type {PLATFORMS[name]}", f"pip install {name}")
        for name, problem in tried.platforms.items()
    ]
    writes = find_spec("imageio_ffmpeg") or shutil.which("ffmpeg") or os.environ.get("FFMPEG_BINARY")
    ffmpeg = ("ffmpeg", "" if writes else "not installed", "writes the videos that moviepy draws")
    return [
        *examine_changes(),
        *examine_packages(tried),
        *encoders,
        *platforms,
        *examine_files(checkout.root),
        _finding(*ffmpeg, "pip install imageio-ffmpeg"),
    ]


def _finding(name: str, problem: str, about: str, advice: str, absent: str = MISSING) -> Finding:
    """Fine where there is no problem, else `absent`."""
    return Finding(name, absent, f"{about}; {problem}", advice) if problem else Finding(name, FINE, about, "")


def try_encoders() -> dict[str, str]:
    """What is wrong with each text encoder, empty where it really loads; CLIP's weights are not downloaded for that."""
    manager = plugins.create_manager()
    found = {}
    for name in plugins.collect(manager, "text_encoders"):
        try:
            found[name] = text.clip_problem(download=False, load=True) if name == text.HOST else ""
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
    """The packages that MDM imports at the top, with what was the matter; `clip`'s own only where there is `clip`."""
    stood_in = dict(tried.stood_in)
    for part, whole in PARTS.items():
        if part in stood_in:
            stood_in.setdefault(whole, (f"without {part}", stood_in[part][1]))
    findings = []
    for name, package in imports.PACKAGES.items():
        if name in PARTS or (package.within == ("clip",) and "clip" in stood_in):
            continue
        problem, absent = stood_in.get(name, ("", False))
        if name == "clip" and tried.other and not problem:
            other = "another program of that name is installed"
            findings.append(Finding(name, MISSING, other, f"pip uninstall clip, then {imports.EXTRA}"))
            continue
        problem = "not installed" if problem == imports.NONE else problem
        if problem and not absent:
            findings.append(_finding(name, f"{problem}, its part is stood in for", package.about, "", REMEDIED))
        else:  # moviepy and clip are those without which something of the four programs does not work
            state = MISSING if name in ("clip", "moviepy") else REMEDIED
            findings.append(_finding(name, problem, package.about, package.advice, state))
    return findings


def examine_changes() -> list[Finding]:
    """Whether the packages that MDM needs as they were need a remedy, or are not there at all."""
    findings = []
    for remedy in remedies.REMEDIES:
        if remedy.needed is not None:
            try:
                state = REMEDIED if remedy.needed() else FINE
                findings.append(Finding(remedy.name, state, remedy.about, ""))
            except ImportError as error:
                about = f"MDM cannot be imported without it: {error}"
                findings.append(Finding(remedy.name, MISSING, about, imports.EXTRA))
    return findings


def examine_files(root: Path) -> list[Finding]:
    """Files that MDM reads relative to its own folder."""
    humanml = root / "dataset" / "HumanML3D"
    parts = ("new_joint_vecs", "texts", "Mean.npy", "Std.npy", "train.txt", "test.txt")
    return [
        _finding(
            "HumanML3D",
            _gone(*(humanml / part for part in parts)),
            "MDM's training set; without it only --clips can be trained on",
            "Get it as MDM's README says",
        ),
        _finding(
            "GloVe",
            _gone(*(root / "glove" / name for name in remedies.VECTORS)),
            "word vectors of the evaluator; without them eval.eval_humanml does not run, training does",
            "Run bash prepare/download_glove.sh in the checkout",
        ),
        _finding(
            "evaluator",
            try_evaluator(root / remedies.EVALUATOR),
            "MDM's text and motion evaluator; without it eval.eval_humanml does not run",
            "Run bash prepare/download_t2m_evaluators.sh in the checkout",
        ),
        _finding(
            "SMPL",
            _gone(*remedies.body_files(root)),
            "the body model of the action data sets; HumanML3D and KIT never ask it",
            f"Run bash prepare/download_smpl_files.sh in the checkout, and {imports.EXTRA}",
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


def _gone(*paths: Path) -> str:
    """Which of these are not there; empty where all are."""
    gone = [str(path) for path in paths if not path.exists()]
    return f"not there: {', '.join(gone)}" if gone else ""
