"""How a checkout and this machine fit: what packages and files lack, and which programs work in a checkout or a fork.

`examine` imports nothing of MDM. `survey` looks for seams in the sources; with clips it installs our line in a copy of
the checkout, trains, resumes, samples and edits a tiny denoiser, and takes the line out again.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import torch

from videomdm_ext import plugins
from videomdm_ext.data.motions import build_demo
from videomdm_ext.errors import HostError, VideoMDMError
from videomdm_ext.mdm import checkout, evaluation, imports, remedies, resume, text
from videomdm_ext.mdm.checkout import PARSER, PROGRAMS, Checkout
from videomdm_ext.mdm.speed import texts

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
found = {"stood_in": made, "other": other, "encoders": doctor.try_encoders(), "platforms": doctor.try_platforms()}
print("\\n" + json.dumps(found))
"""


@dataclass(frozen=True)
class Tried:
    """What a process of its own found: packages that are stood in for, whether `clip` is another program, and what is
    wrong with each text encoder and platform, empty where it loads."""

    stood_in: dict[str, tuple[str, bool]]
    other: bool
    encoders: dict[str, str]
    platforms: dict[str, str]


def examine(host: Checkout) -> list[Finding]:
    """Everything that the host asks for, without importing it. Packages are tried in a process of their own."""
    tried = try_packages()
    encoders = [
        _finding(f"text: {name}", problem, f"--text_features {name}", "Choose another, or put that right")
        for name, problem in tried.encoders.items()
    ]
    auto = next(name for name in text.AUTO if not tried.encoders.get(name))
    encoders.append(Finding("text: auto", FINE, f"--text_features auto takes {auto} here", ""))
    encoders.append(Finding("text: kept", FINE, f"features of texts that are encoded once: {texts.describe()}", ""))
    if host.kind == "standin":
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
        *examine_files(host.root),
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
    command = [sys.executable, "-c", TRY]
    done = subprocess.run(command, env=evaluation.environment(), capture_output=True, text=True)
    if done.returncode:
        raise HostError(f"Trying MDM's packages: expected no failure, found {done.stderr[-500:]}. Please report this.")
    return Tried(**json.loads(done.stdout.splitlines()[-1]))


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
    humanml = _gone(*(root / evaluation.data.OWN_DATA / part for part in (*evaluation.OF_DATA, "train.txt")))
    glove = _gone(*(root / "glove" / name for name in remedies.VECTORS))
    rows = (
        ("HumanML3D", humanml, "MDM's training set; without it only --clips can be trained on",
         "Get it as MDM's README says"),
        ("GloVe", glove, "word vectors of the evaluator; without them eval.eval_humanml does not run, training does",
         "Run bash prepare/download_glove.sh in the checkout"),
        ("evaluator", try_evaluator(root / remedies.EVALUATOR),
         "MDM's text and motion evaluator; without it eval.eval_humanml does not run",
         "Run bash prepare/download_t2m_evaluators.sh in the checkout"),
        ("SMPL", _gone(*remedies.body_files(root)),
         "the body model of the action data sets; HumanML3D and KIT never ask it",
         f"Run bash prepare/download_smpl_files.sh in the checkout, and {imports.EXTRA}"),
    )  # fmt: skip
    return [_finding(*row, absent=REMEDIED if row[0] == "SMPL" else MISSING) for row in rows]


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


# -- which programs work in a checkout or a fork -----------------------------------------------------------------------

RAN, LAUNCHED, SEAMS, LACKS, FAILED = "✓", "✓ by `run`", "seams", "lacks", "failed"
"""What is known of a program: it ran; by `videomdm run` alone; its seams are there; one is not; an error ended it."""
FOLDERS = {"train 3d": "three", "train 2d": "free", "--paired": "two"}
"""Where each training of a run writes."""
LARGEST = 2**20
"""Bytes of a file that is copied for a run; data and weights are not needed."""
TINY = ("--latent_dim", "32", "--layers", "1", "--diffusion_steps", "10", "--batch_size", "4", "--save_interval", "100")
SILENT = ("--train_platform_type", "NoPlatform")
SAMPLES = ("--num_samples", "2", "--num_repetitions", "1", "--seed", "1")
EDITS = ("--edit_mode", "in_between")


@dataclass(frozen=True)
class Surveyed:
    """A checkout: its folder's name, its commit, and for each of PROGRAMS what is known, with the reason."""

    name: str
    commit: str
    found: dict[str, tuple[str, str]]


def survey(root: Path, clips: Path | None = None) -> Surveyed:
    """What works in a checkout; with `clips`, a data set to train on, by running it in a copy."""
    root = root.expanduser().resolve()
    if not root.is_dir():
        raise HostError(f"{root}: expected a folder with a checkout, found none. Correct it.")
    foreign = checkout.foreign_to(root)
    gaps = {program: foreign or checkout.gap(root, program) for program in PROGRAMS}
    found = {program: (LACKS if reason else SEAMS, reason) for program, reason in gaps.items()}
    if clips is not None and not gaps["uninstall"]:
        with tempfile.TemporaryDirectory(prefix="videomdm-") as scratch:
            place = shutil.copytree(root, Path(scratch) / "mdm", ignore=_left_out)
            found |= dict(run(place, clips.resolve(), [name for name in PROGRAMS if not gaps[name]]))
    return Surveyed(root.name, (checkout.commit_of(root) or "")[:7], found)


def _left_out(folder: str, names: list[str]) -> set[str]:
    """Files that a run has no use for: the history, data, weights."""
    paths = {name: Path(folder) / name for name in names if name != ".git"}
    large = {name for name, path in paths.items() if path.is_file() and path.stat().st_size > LARGEST}
    return large | {name for name in names if name not in paths or not paths[name].exists()}


@contextmanager
def bundled_clips() -> Iterator[Path]:
    """A data set of bundled motion to train on."""
    with tempfile.TemporaryDirectory(prefix="videomdm-") as scratch:
        build_demo(str(Path(scratch) / "set"), fast=True)
        yield Path(scratch) / "set"


def run(place: Path, clips: Path, programs: Sequence[str]) -> Iterator[tuple[str, tuple[str, str]]]:
    """Run these programs in a copy of a checkout. -> each with what is known of it, and the error where it failed"""
    train = checkout.trainer(place)
    data = ("--clips", str(clips), "--text_features", "words", "--crop_frames", "40", *TINY, *SILENT)
    two = (*data, "--supervision", "2d", "--teacher", "lifted", "--loss", "reprojection")
    more = ("--resume_checkpoint", "save/two/model000000002.pt", "--overwrite", "--num_steps", "2")
    saved = ("--model_path", "save/two/model000000002.pt", *SAMPLES, "--output_dir")
    words: dict[str, tuple[str, ...]] = {
        "train 3d": (train, "--save_dir", "save/three", *data, "--num_steps", "2"),
        "train 2d": (train, "--save_dir", "save/free", *two, "--num_steps", "2"),
        "--paired": (train, "--save_dir", "save/two", *two, "--paired", "--num_steps", "2"),
        "resume": (train, "--save_dir", "save/two", *two, *more),
        "sample": ("sample.generate", *saved, "out/sample", "--motion_length", "2"),
        "edit": ("sample.edit", *saved, "out/edit", *EDITS),
    }
    if "lambda_prior_preserv" in (place / PARSER).read_text(encoding="utf-8"):  # LoRA-MDM: not without --lora_finetune
        words = {name: (*given, "--lambda_prior_preserv", "0") for name, given in words.items()}
    humanml = place / evaluation.data.OWN_DATA
    if not humanml.exists():  # OmniControl: its diffusion reads their scales
        humanml.mkdir(parents=True)
        for name in ("Mean.npy", "Std.npy"):
            shutil.copy(clips / name, humanml)
    before = (place / PARSER).read_bytes()
    checkout.install(place)
    yield "install", (RAN, "")
    for program in [name for name in words if name in programs]:
        for state, launcher in ((RAN, ()), (LAUNCHED, ("videomdm_ext.run", "--mdm", "."))):
            if launcher and program in FOLDERS:  # what the first attempt left would be refused
                shutil.rmtree(place / "save" / FOLDERS[program], ignore_errors=True)
            command = [sys.executable, "-W", "ignore", "-m", *launcher, *words[program]]
            done = subprocess.run(command, cwd=place, env=evaluation.environment(), capture_output=True, text=True)
            if _has_made(place, program):
                yield program, (state, "")
                break
        else:
            yield program, (FAILED, _last_line(done))
    checkout.uninstall(place)
    same = (place / PARSER).read_bytes() == before
    yield "uninstall", (RAN, "") if same else (FAILED, f"{PARSER} differs from what it was")


def _has_made(place: Path, program: str) -> bool:
    """Whether a program has written what it is for; drawing what was sampled is a matter of other packages."""
    if program in ("sample", "edit"):
        return (place / "out" / program / "results.npy").is_file()
    folder = FOLDERS.get(program, "two")
    steps = [resume.step_of(path) for path in resume.checkpoints(place / "save" / folder)]
    return max(steps, default=-1) > (2 if program == "resume" else 0)


def _last_line(done: "subprocess.CompletedProcess[str]") -> str:
    """The message of the error that a program ended with."""
    errors = re.findall(r"^(?:error: |[\w.]*(?:Error|Exception|Interrupt|Exit)\b.*).*$", done.stderr, re.MULTILINE)
    return errors[-1].removeprefix("error: ") if errors else f"exit status {done.returncode}"


def survey_table(rows: Sequence[Surveyed]) -> str:
    """The answers as Markdown, and below it each reason once, with the checkouts and programs that it holds for."""
    lines = [f"| checkout | commit | {' | '.join(PROGRAMS)} |", f"|---|---|{'---|' * len(PROGRAMS)}"]
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        lines.append(f"| {row.name} | {row.commit} | {' | '.join(state for state, _ in row.found.values())} |")
        for program, (_, reason) in row.found.items():
            if reason:
                reasons.setdefault((row.name, reason), []).append(program)
    lines.append("")
    for (name, reason), programs in reasons.items():
        what = "everything" if len(programs) == len(PROGRAMS) else ", ".join(programs)
        lines.append(f"- {name}, {what}: {reason.removesuffix('.')}.")
    return "\n".join(lines).rstrip() + "\n"
