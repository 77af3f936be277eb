"""Which programs work with this package in a checkout of MDM or a fork: by its seams, or by running them there.

Seams are looked for in the sources, without importing anything. A run installs our line in a copy of the checkout,
trains, resumes, samples and edits a tiny denoiser on bundled motion, and takes the line out again.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from videomdm_ext.data.motions import build_demo
from videomdm_ext.errors import HostError
from videomdm_ext.mdm import evaluation, install, resume
from videomdm_ext.mdm.checkout import PARSER, PROGRAMS, commit_of, foreign_to, gap

RAN, LAUNCHED, SEAMS, LACKS, FAILED = "ran", "ran by `run`", "seams", "lacks", "failed"
"""What is known of a program: it ran; by `videomdm run` alone; its seams are there; one is not; an error ended it."""
TRAINERS = ("train_mdm", "train_mdmp")
"""The training's program, in MDM and in a fork."""
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
    foreign = foreign_to(root)
    gaps = {program: foreign or gap(root, program) for program in PROGRAMS}
    found = {program: (LACKS if reason else SEAMS, reason) for program, reason in gaps.items()}
    if clips is not None and not gaps["uninstall"]:
        with tempfile.TemporaryDirectory(prefix="videomdm-") as scratch:
            place = shutil.copytree(root, Path(scratch) / "mdm", ignore=_left_out)
            found |= dict(run(place, clips.resolve(), [name for name in PROGRAMS if not gaps[name]]))
    return Surveyed(root.name, (commit_of(root) or "")[:7], found)


def _left_out(folder: str, names: list[str]) -> set[str]:
    """Files that a run has no use for: the history, data, weights."""
    paths = {name: Path(folder) / name for name in names}
    return {name for name, path in paths.items() if name == ".git" or not path.exists() or _is_large(path)}


def _is_large(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > LARGEST


@contextmanager
def bundled_clips() -> Iterator[Path]:
    """A data set of bundled motion to train on."""
    with tempfile.TemporaryDirectory(prefix="videomdm-") as scratch:
        build_demo(str(Path(scratch) / "set"), fast=True)
        yield Path(scratch) / "set"


def run(place: Path, clips: Path, programs: Sequence[str]) -> Iterator[tuple[str, tuple[str, str]]]:
    """Run these programs in a copy of a checkout. -> each with what is known of it, and the error where it failed"""
    trainer = next((name for name in TRAINERS if (place / "train" / f"{name}.py").is_file()), TRAINERS[0])
    data = ("--clips", str(clips), "--text_features", "words", "--crop_frames", "40", *TINY, *SILENT)
    two = (*data, "--supervision", "2d", "--teacher", "lifted", "--loss", "reprojection")
    more = ("--resume_checkpoint", "save/two/model000000002.pt", "--overwrite", "--num_steps", "2")
    saved = ("--model_path", "save/two/model000000002.pt", *SAMPLES, "--output_dir")
    words: dict[str, tuple[str, ...]] = {
        "train 3d": (f"train.{trainer}", "--save_dir", "save/three", *data, "--num_steps", "2"),
        "train 2d": (f"train.{trainer}", "--save_dir", "save/free", *two, "--num_steps", "2"),
        "--paired": (f"train.{trainer}", "--save_dir", "save/two", *two, "--paired", "--num_steps", "2"),
        "resume": (f"train.{trainer}", "--save_dir", "save/two", *two, *more),
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
    install.install(place)
    for program in [name for name in words if name in programs]:
        answer = (FAILED, "")
        for state, launcher in ((RAN, ()), (LAUNCHED, ("videomdm_ext.run", "--mdm", "."))):
            command = [sys.executable, "-W", "ignore", "-m", *launcher, *words[program]]
            done = subprocess.run(command, cwd=place, env=evaluation.environment(), capture_output=True, text=True)
            answer = (state, "") if _has_made(place, program) else (FAILED, _last_line(done))
            if answer[0] != FAILED:
                break
        yield program, answer
    install.uninstall(place)
    same = (place / PARSER).read_bytes() == before
    yield "uninstall", (RAN, "") if same else (FAILED, f"{PARSER} differs from what it was")


def _has_made(place: Path, program: str) -> bool:
    """Whether a program has written what it is for; drawing what was sampled is a matter of other packages."""
    if program in ("sample", "edit"):
        return (place / "out" / program / "results.npy").is_file()
    folder = {"train 3d": "three", "train 2d": "free"}.get(program, "two")
    steps = [resume.step_of(path) for path in resume.checkpoints(place / "save" / folder)]
    return max(steps, default=-1) > (2 if program == "resume" else 0)


def _last_line(done: "subprocess.CompletedProcess[str]") -> str:
    """The message of the error that a program ended with."""
    errors = re.findall(r"^(?:error: |[\w.]*(?:Error|Exception|Interrupt|Exit)\b.*).*$", done.stderr, re.MULTILINE)
    return errors[-1].removeprefix("error: ") if errors else f"exit status {done.returncode}"


def table(rows: Sequence[Surveyed]) -> str:
    """The answers as Markdown, and below it each reason once, with the checkouts and programs that it holds for."""
    lines = [f"| checkout | commit | {' | '.join(PROGRAMS)} |", f"|---|---|{'---|' * len(PROGRAMS)}"]
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        lines.append(f"| {row.name} | {row.commit} | {' | '.join(state for state, _ in row.found.values())} |")
        for program, (_, reason) in row.found.items():
            if reason:
                reasons.setdefault((row.name, reason), []).append(program)
    notes = []
    for (name, reason), programs in reasons.items():
        what = "everything" if len(programs) == len(PROGRAMS) else ", ".join(programs)
        notes.append(f"- {name}, {what}: {reason.removesuffix('.')}.")
    return "\n".join([*lines, "", *notes]).rstrip() + "\n"
