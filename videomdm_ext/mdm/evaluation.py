"""MDM's own evaluation: the files of its text-motion evaluator, and its program eval/eval_humanml.py."""

import argparse
import hashlib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import videomdm_ext
from videomdm_ext.data.folder import read_folder
from videomdm_ext.errors import ConfigError, HostError
from videomdm_ext.mdm import data, remedies
from videomdm_ext.mdm.checkout import Checkout

# -- the evaluator -----------------------------------------------------------------------------------------------------

SCALES = (Path("dataset", "t2m_mean.npy"), Path("dataset", "t2m_std.npy"))
"""Mean and Std of the features that the evaluator was trained on."""
VECTORS = tuple(Path("glove") / name for name in remedies.VECTORS)
FILES = (remedies.EVALUATOR, *VECTORS, *SCALES)
ADVICE = {
    remedies.EVALUATOR: "bash prepare/download_t2m_evaluators.sh",
    **dict.fromkeys(VECTORS, "bash prepare/download_glove.sh"),
    **dict.fromkeys(SCALES, "git checkout dataset"),
}
"""What to run in the checkout for a file that is not there."""


def absent_files(root: Path) -> str:
    """Which of the evaluator's files are not in the checkout, and how to get them; empty where all are there."""
    absent = [path for path in FILES if not (root / path).is_file()]
    if not absent:
        return ""
    commands = dict.fromkeys(ADVICE[path] for path in absent)
    return (
        f"{root}: expected the files of MDM's evaluator, found no {', '.join(map(str, absent))}. "
        f"Run in the checkout: {'; '.join(commands)}."
    )


def hashes(root: Path) -> dict[str, str]:
    """SHA-256 of each of the evaluator's files, by name."""
    return {path.as_posix(): hash_of(root / path) for path in FILES}


def hash_of(path: Path) -> str:
    """SHA-256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# -- its program, before it runs ---------------------------------------------------------------------------------------

PROGRAM = "eval.eval_humanml"
REPLICATIONS = {"wo_mm": 20, "debug": 5, "mm_short": 5}
"""Modes of the program, with their replications."""
OF_DATA = ("new_joint_vecs", "texts", "Mean.npy", "Std.npy", "test.txt")
TRUTH, MADE = "ground truth", "vald"
"""What the program calls the true motions and those of the checkpoint."""
SCORES = {
    "Matching Score": "mm_dist",
    "R_precision": "r_precision",
    "FID": "fid",
    "Diversity": "diversity",
    "MultiModality": "multimodality",
}
"""Sections of the log, with our names."""
FIXED = {"ff_size": 1024, "num_heads": 4, "conv_kernel": 0}
"""What the stand-in has options for, and MDM's denoiser has not."""
_NUMBER = r"(-?\d+\.\d{4}|nan|-?inf)"


@dataclass(frozen=True)
class Scores:
    """Scores by name of each replication, their means, and the half-widths that the program prints beside."""

    replications: tuple[Mapping[str, float], ...]
    mean: Mapping[str, float]
    half_width: Mapping[str, float]


def check(checkout: Checkout) -> None:
    """Raise HostError unless the checkout has the program and the evaluator's files."""
    program = checkout.root / f"{PROGRAM.replace('.', '/')}.py"
    if checkout.kind != "mdm" or not program.is_file():
        raise HostError(f"{program}: expected MDM's evaluation, found none. Name a checkout of MDM with --mdm PATH.")
    absent = absent_files(checkout.root)
    if absent:
        raise HostError(absent)


def check_arguments(args: Mapping[str, Any], place: Path) -> None:
    """Raise ConfigError unless the program can build the denoiser that was trained with these arguments."""
    if args.get("dataset") != "humanml":
        raise ConfigError(
            f"{place}: expected a run with --dataset humanml, found {args.get('dataset')}. Leave it out: this "
            "evaluation is HumanML3D's."
        )
    for name, value in FIXED.items():
        if args.get(name, value) != value:
            raise ConfigError(
                f"{place}: expected a denoiser with --{name} {value}, as every one of MDM has, found {args[name]}. "
                "Train in an MDM checkout (--mdm), or with that option."
            )


def check_own_data(checkout: Checkout) -> Path:
    """The checkout's HumanML3D; ConfigError names what is not there of it."""
    folder = checkout.root / data.OWN_DATA
    absent = [str(folder / part) for part in OF_DATA if not (folder / part).exists()]
    if absent:
        raise ConfigError(
            f"{folder}: expected HumanML3D to evaluate on, found no {', '.join(absent)}. Get it as MDM's README says."
        )
    return folder


def check_truth(path: str, split: str = "test", batch: int = data.BATCH) -> bool:
    """Whether a run on these clips is evaluated on their own truth; ConfigError where they have it, but too little."""
    clips = read_folder(path, split)[1]
    if clips.missing_truth():
        return False
    data.check_enough(path, split, clips, batch)
    data.check_unpacked(path)
    return True


def check_during_training(args: argparse.Namespace, root: Path) -> None:
    """Refuse, before a training begins, --eval_during_training of HumanML3D features that would fail at a checkpoint.

    The program reads its files from the folder that it is started in, which has to be the checkout's `root`.
    """
    if not args.eval_during_training or args.dataset != "humanml":
        return
    option = "--eval_during_training"
    if not Path.cwd().samefile(root):
        raise HostError(f"{option}: expected to be started in {root}, whose files it reads, found {Path.cwd()}.")
    absent = absent_files(root)
    if absent:
        raise HostError(f"{option}: {absent} Or leave the option out, and evaluate afterwards.")
    batch, made = args.eval_batch_size, args.eval_num_samples
    if (made // batch + 1) * batch <= data.DRAWN:
        raise ConfigError(f"--eval_num_samples {made}: expected {data.DRAWN} or more with {option}. Raise it.")
    if not (args.clips and check_truth(args.clips, args.eval_split, batch)):
        place = root / data.OWN_DATA / f"{args.eval_split}.txt"
        if not place.is_file():
            raise ConfigError(f"{option}: expected {place} to evaluate on, found none. Leave the option out.")


# -- the program ------------------------------------------------------------------------------------------------------


def command(checkout: Checkout, checkpoint: Path, *, mode: str, guidance: float, seed: int) -> list[str]:
    """The command line; it is to be started in the checkout's folder."""
    words = ["--model_path", str(checkpoint), "--eval_mode", mode, "--seed", str(seed)]
    start = [sys.executable, "-m", "videomdm_ext.run", "--mdm", str(checkout.root), PROGRAM]
    return [*start, *words, "--guidance_param", str(guidance)]


def environment() -> dict[str, str]:
    """The environment with this package on the path, and no compiled files left in the checkout."""
    package = str(Path(videomdm_ext.__file__).parents[1])
    path = os.pathsep.join(part for part in (package, os.environ.get("PYTHONPATH", "")) if part)
    return {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}


def log_in(folder: Path) -> Path | None:
    """The log that the program has written beside a checkpoint in this folder."""
    return next(iter(sorted(folder.glob("eval_humanml_*.log"))), None)


# -- its log ----------------------------------------------------------------------------------------------------------


def replications_done(text: str) -> int:
    """Replications that a log has finished."""
    return text.count("!!! DONE !!!")


def read_log(text: str, mode: str) -> dict[str, Scores] | None:
    """Scores by TRUTH and MADE; None for a log that is not finished."""
    parts = re.split(r"^=+ Replication \d+ =+$", text, flags=re.MULTILINE)[1:]
    sections = re.split(r"^=+ (.+) Summary =+$", text, flags=re.MULTILINE)
    summary = dict(zip(sections[1::2], sections[2::2], strict=True))
    found = {who: _scores(who, parts, summary) for who in (TRUTH, MADE)}
    expected = {"mm_dist", "r_precision_1", "r_precision_2", "r_precision_3", "fid", "diversity"}
    for who, scores in found.items():
        wanted = expected | ({"multimodality"} if mode == "mm_short" and who == MADE else set())
        if set(scores.mean) != wanted or not parts or any(set(part) != wanted for part in scores.replications):
            return None
    return found


def _scores(who: str, parts: Sequence[str], summary: Mapping[str, str]) -> Scores:
    mean: dict[str, float] = {}
    half_width: dict[str, float] = {}
    figures = re.compile(rf"(?:\(top (\d)\))? ?Mean: {_NUMBER} CInt(?:erval)?: {_NUMBER}(?:;|$)")
    for section, name in SCORES.items():
        for line in re.findall(rf"^---> \[{who}\](.*)$", summary.get(section, ""), re.MULTILINE):
            for top, value, half in figures.findall(line):
                key = f"{name}_{top}" if top else name
                mean[key], half_width[key] = float(value), float(half)
    return Scores(tuple(_replication(who, part) for part in parts), mean, half_width)


def _replication(who: str, part: str) -> dict[str, float]:
    """Scores by name in the part of the log that a replication has written."""
    part = part.partition("!!! DONE !!!")[0]
    names = {section.lower(): name for section, name in SCORES.items()}
    found = {}
    for section, rest in re.findall(rf"^---> \[{who}\] ([\w ]+): (.+)$", part, re.MULTILINE):
        for top, value in re.findall(rf"(?:\(top (\d)\): )?{_NUMBER}(?:\s|$)", rest):
            found[names.get(section.lower(), section) + (f"_{top}" if top else "")] = float(value)
    return found
