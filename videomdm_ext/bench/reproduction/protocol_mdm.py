"""The published protocol: MDM's own evaluation, run through a checkout's own code for one checkpoint after another.

OUT/protocol_mdm/RUN-MODE-.../  args.json, a link to the checkpoint, evaluation.json (what is evaluated), MDM's log
OUT/protocol_mdm.json, .md      every score, and a table with published figures beside

A finished log of the same checkpoint, data, files and settings is not run again. The run's own folder stays as it is.
"""

import contextlib
import hashlib
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from videomdm_ext.bench.report import templates
from videomdm_ext.bench.report.tables import Table, markdown_block, plain
from videomdm_ext.bench.statistics import number
from videomdm_ext.data.files import read_json, write_bytes
from videomdm_ext.data.folder import read_card
from videomdm_ext.data.schemas import text_of
from videomdm_ext.errors import ConfigError, HostError
from videomdm_ext.mdm import evaluation
from videomdm_ext.mdm.checkout import Checkout
from videomdm_ext.mdm.evaluation import MADE, REPLICATIONS, TRUTH, Scores

Watch = Callable[[str, int, int], None]
"""`watch(run, replications done, replications in all)`."""


@dataclass(frozen=True)
class Settings:
    """What MDM's program is asked for; guidance 2.5 and seed 10 are its own defaults."""

    eval_mode: str = "wo_mm"
    guidance: float = 2.5
    seed: int = 10


@dataclass(frozen=True)
class Asked:
    """A checkpoint to evaluate, with the arguments it was trained with."""

    name: str
    checkpoint: Path
    args: Mapping[str, Any]


@dataclass(frozen=True)
class Evaluated:
    """A checkpoint's scores and those of the true motions beside; `data` names what it was scored against."""

    name: str
    data: str
    args: Mapping[str, Any]
    identity: Mapping[str, Any]
    scores: Mapping[str, Scores]


# -- which checkpoints ------------------------------------------------------------------------------------------------


def runs_of_bench(out: Path) -> list[Asked]:
    """The last checkpoint of every training in OUT/runs."""
    folders = sorted(path for path in (out / "runs").glob("*") if path.is_dir())
    if not folders:
        raise ConfigError(
            f"{out / 'runs'}: expected the trainings of a bench, found none. Name its folder with --out, or trained "
            "runs with --run DIR."
        )
    return [of_run(folder) for folder in folders]


def of_run(folder: Path) -> Asked:
    """The last checkpoint of a finished training."""
    found = sorted(folder.glob("model*.pt"))
    if not found:
        raise HostError(f"{folder}: expected a checkpoint model*.pt, found none. Train first, or name another folder.")
    asked = of_checkpoint(found[-1])
    steps, wanted = re.sub(r"\D", "", found[-1].stem), asked.args.get("num_steps", 0)
    if steps and int(steps) < int(wanted):
        raise HostError(
            f"{folder}: expected a finished training of {wanted} steps, found {int(steps)}. Finish it, or name the "
            f"checkpoint: --model_path {found[-1]}."
        )
    return asked


def of_checkpoint(checkpoint: Path) -> Asked:
    """A checkpoint with the args.json beside it, named by its folder."""
    place = checkpoint.with_name("args.json")
    if not checkpoint.is_file():
        raise HostError(f"{checkpoint}: expected a checkpoint, found none. Name a file model*.pt.")
    args = dict(read_json(place, "args"))
    if args.get("clips") and "://" not in args["clips"]:
        args["clips"] = str(Path(args["clips"]).expanduser().resolve())
    return Asked(checkpoint.absolute().parent.name, checkpoint.absolute(), args)


# -- everything before anything runs ----------------------------------------------------------------------------------


def check(checkout: Checkout, asked: Sequence[Asked]) -> None:
    """Raise an error that names what is missing, of the checkout or of any of the runs."""
    evaluation.check(checkout)
    names = [run.name for run in asked]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"--run: expected folders of different names, found {', '.join(twice)} twice. Rename one.")
    for run in asked:
        evaluation.check_arguments(run.args, run.checkpoint.with_name("args.json"))
        scored_against(checkout, run)


def scored_against(checkout: Checkout, run: Asked) -> tuple[str, str]:
    """What MDM's program will compare with, in words, and a hash of it."""
    clips = run.args.get("clips")
    if clips and evaluation.check_truth(clips):
        card = read_card(clips)
        return f"the true motions of the test clips of {card.name}", card.content_hash
    folder = evaluation.check_own_data(checkout)
    parts = [(folder / part).read_bytes() for part in evaluation.OF_DATA if (folder / part).is_file()]
    return "HumanML3D's test split in the checkout", hashlib.sha256(b"".join(parts)).hexdigest()


# -- one after another ------------------------------------------------------------------------------------------------


def evaluate(checkout: Checkout, run: Asked, settings: Settings, out: Path, watch: Watch) -> Evaluated:
    """The scores of a checkpoint, from a finished log of the same thing, or from MDM's program now."""
    data, content = scored_against(checkout, run)
    identity = {
        "checkpoint": evaluation.hash_of(run.checkpoint),
        "args": dict(run.args),
        "data": content,
        "settings": asdict(settings),
        "host": {"commit": checkout.commit, "files": evaluation.hashes(checkout.root)},
    }
    name = f"{run.name}-{settings.eval_mode}-guidance{settings.guidance:g}-seed{settings.seed}"
    folder = out / "protocol_mdm" / name
    if (scores := _finished(folder, identity, settings.eval_mode)) is None:
        prepare(folder, run, identity)
        execute(checkout, run, settings, folder, watch)
        scores = _finished(folder, identity, settings.eval_mode)
    if scores is None:
        raise HostError(
            f"{folder}: expected a finished log of MDM's evaluation, found none although it ended well. "
            "This MDM writes another log than that of commit d4fd88c, which is the one that is read."
        )
    return Evaluated(run.name, data, run.args, identity, scores)


def evaluate_all(
    checkout: Checkout, asked: Sequence[Asked], settings: Settings, out: Path, watch: Watch
) -> list[Evaluated]:
    """All checkpoints, one after another; protocol_mdm.json and protocol_mdm.md are written after each."""
    evaluated: list[Evaluated] = []
    for run in asked:
        evaluated.append(evaluate(checkout, run, settings, out, watch))
        write_bytes(str(out / "protocol_mdm.json"), as_json(evaluated, settings).encode())
        write_bytes(str(out / "protocol_mdm.md"), document(evaluated, settings).encode())
    return evaluated


def _finished(folder: Path, identity: Mapping[str, Any], mode: str) -> dict[str, Scores] | None:
    """The scores of a finished log of this very thing."""
    place, log = folder / "evaluation.json", evaluation.log_in(folder)
    if log is None or not place.is_file() or place.read_text(encoding="utf-8") != _text(identity):
        return None
    return evaluation.read_log(log.read_text(encoding="utf-8"), mode)


def _text(content: Mapping[str, Any]) -> str:
    return text_of(content, indent=2, sort_keys=True) + "\n"


def prepare(folder: Path, run: Asked, identity: Mapping[str, Any]) -> None:
    """A folder with the run's arguments, a link to its checkpoint, and nothing of an earlier evaluation."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in list(folder.iterdir()):
        if old.is_symlink() or old.suffix == ".log":
            old.unlink()
    (folder / run.checkpoint.name).symlink_to(run.checkpoint)
    write_bytes(str(folder / "args.json"), _text(run.args).encode())
    write_bytes(str(folder / "evaluation.json"), _text(identity).encode())


def execute(checkout: Checkout, run: Asked, settings: Settings, folder: Path, watch: Watch) -> None:
    """MDM's program in a process of its own; what it prints goes to FOLDER/printed.log."""
    checkpoint = folder.resolve() / run.checkpoint.name
    mode, printed, total = settings.eval_mode, folder / "printed.log", REPLICATIONS[settings.eval_mode]
    words = evaluation.command(checkout, checkpoint, mode=mode, guidance=settings.guidance, seed=settings.seed)
    with printed.open("wb") as file:
        streams: dict[str, Any] = {"stdout": file, "stderr": subprocess.STDOUT}
        process = subprocess.Popen(words, cwd=checkout.root, env=evaluation.environment(), **streams)
        try:
            watch(run.name, 0, total)
            while process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(1.0)
                log = evaluation.log_in(folder)
                watch(run.name, evaluation.replications_done(log.read_text(encoding="utf-8")) if log else 0, total)
        finally:
            process.terminate()
            process.wait()
    if process.returncode:
        last = printed.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]
        raise HostError(
            f"{printed}: MDM's evaluation of {run.name} ended with status {process.returncode}: "
            f"{' | '.join(last) or 'it printed nothing'}. Read that file; videomdm doctor reports what MDM lacks here."
        )


# -- protocol_mdm.json ------------------------------------------------------------------------------------------------


def as_json(evaluated: Sequence[Evaluated], settings: Settings) -> str:
    """Every score of every replication, by run; scores that are no number are null."""
    runs = {}
    for one in evaluated:
        identity = {key: value for key, value in one.identity.items() if key != "settings"}
        scores = {who: asdict(found) for who, found in one.scores.items()}
        runs[one.name] = {"scored_against": one.data, **identity, "scores": scores}
    return _text({"format": 1, "protocol": "mdm", "settings": asdict(settings), "runs": runs})


# -- protocol_mdm.md --------------------------------------------------------------------------------------------------

COLUMNS = {
    "fid": "FID ↓",
    "r_precision_1": "R-precision top 1 ↑",
    "r_precision_2": "top 2 ↑",
    "r_precision_3": "top 3 ↑",
    "mm_dist": "MM-dist ↓",
    "diversity": "diversity → truth",
    "multimodality": "multimodality",
}
DASH = "\N{EN DASH}"
MDM_PAPER = "arXiv 2209.14916, table 1, as printed there"
VIDEOMDM_PAPER = "arXiv 2606.13364"
PUBLISHED: Mapping[str, Mapping[str, str]] = {
    f"the true motions ({MDM_PAPER})": {
        "fid": "0.002 ± 0.000", "r_precision_3": "0.797 ± 0.002", "mm_dist": "2.974 ± 0.008",
        "diversity": "9.503 ± 0.065",
    },
    f"MDM ({MDM_PAPER})": {
        "fid": "0.544 ± 0.044", "r_precision_3": "0.611 ± 0.007", "mm_dist": "5.566 ± 0.027",
        "diversity": "9.559 ± 0.086", "multimodality": "2.799 ± 0.072",
    },
    f"VideoMDM's MDM in 3D ({VIDEOMDM_PAPER})": {"fid": "0.54"},
    f"VideoMDM in 2D ({VIDEOMDM_PAPER})": {"fid": "0.88"},
}  # fmt: skip
"""Figures on HumanML3D from papers, each with its ± where one is printed."""


def document(evaluated: Sequence[Evaluated], settings: Settings) -> str:
    """The text of protocol_mdm.md: a table, and what sets these runs apart from published ones and from our report."""
    own = [one for one in evaluated if "HumanML3D" not in one.data]
    crops = {one.name: int(one.args.get("crop_frames", 0) or 0) for one in evaluated if one.args.get("clips")}
    short = {name: frames for name, frames in crops.items() if 0 < frames < 196}
    files = {one.identity["host"]["files"]["t2m/text_mot_match/model/finest.tar"] for one in evaluated}
    return templates().get_template("protocol_mdm.md").render(
        settings=settings, replications=REPLICATIONS[settings.eval_mode], table=markdown_block(table(evaluated)),
        own=[one.name for one in own], data=sorted({one.data for one in own}),
        short=list(short), longest=sorted(set(short.values())),
        features=sorted({str(one.args.get("text_features", "clip")) for one in evaluated} - {"clip", "host"}),
        weights=sorted(file[:12] for file in files),
    )  # fmt: skip


def table(evaluated: Sequence[Evaluated]) -> Table:
    """Runs, the truth that each was scored against, and published figures."""
    truths = {one.data: one.scores[TRUTH] for one in evaluated}
    rows = [[plain(one.name), *_cells(one.scores[MADE])] for one in evaluated]
    rows += [[f"*{plain(data)}*", *_cells(scores)] for data, scores in truths.items()]
    rows += [[f"published: {name}", *(one.get(key, DASH) for key in COLUMNS)] for name, one in PUBLISHED.items()]
    return Table(["", *COLUMNS.values()], rows)


def _cells(scores: Scores) -> list[str]:
    return [
        f"{number(scores.mean[key])} ± {scores.half_width[key]:.3f}" if key in scores.mean else DASH for key in COLUMNS
    ]
