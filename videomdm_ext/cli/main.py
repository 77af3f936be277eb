"""The command line: one verb each, no logic. `videomdm VERB --help` describes a verb.

Exit status: 0 done, 1 something that you can put right (one message), 2 an option that does not exist or has no such
value, 3 a fault of this program (with a log), 130 interrupted (start the same command again to go on).
"""

import difflib
import logging
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from textwrap import wrap

from videomdm_ext import __version__
from videomdm_ext.errors import message_of, printable

VERBS = {
    "demo": ("cli.training", "demo", "Make a data set of real motion, train 3D and 2D arms on it, and compare them."),
    "data make-demo": ("cli.training", "MakeDemo", "Make the demo's data set alone."),
    "data import": ("cli.datasets", "ImportData", "Make a data set from other people's data: KIND SOURCE."),
    "data check": ("cli.datasets", "Check", "Tell what is missing or wrong in a data set."),
    "data show": ("cli.datasets", "Show", "Draw one clip: keypoints, teacher, truth, and what is wrong with it."),
    "data film": ("cli.videos", "Film", "Film known motion: real errors beside the truth."),
    "data from-video": ("cli.videos", "FromVideo", "Make a data set from videos of people, with captions."),
    "data merge": ("cli.datasets", "Merge", "Make one data set of several."),
    "data pack": ("cli.datasets", "Pack", "Put a data set's clips into Parquet shards."),
    "data unpack": ("cli.datasets", "Unpack", "Take a packed data set's clips out of their shards."),
    "data relift": ("cli.datasets", "Relift", "Add another lifter's teachers to a data set."),
    "data refine": ("cli.training", "Refine", "Refine a data set's teachers on their keypoints' rays."),
    "data refresh": ("cli.training", "Refresh", "Make the next round's teachers with a trained run."),
    "train": ("cli.training", "train", "Train one arm on a data set; takes every option of the host."),
    "sample": ("cli.sampling", "Sample", "Sample motions from a trained run."),
    "lift": ("cli.sampling", "Lift", "Lift 2D keypoints to 3D with a trained run."),
    "view": ("cli.viewing", "View", "Write one page that plays motions in 3D: a data set's, a demo's, or samples."),
    "export": ("cli.exporting", "Export", "Write motions as BVH, GLB, mp4 or gif."),
    "reproduce": ("cli.reproducing", "Reproduce", "Make a table of the paper from the official folders."),
    "report": ("cli.benchmarking", "Report", "Score a comparison again and rewrite its report."),
    "bench": ("cli.benchmarking", "bench", "Compare arms on a data set: train, sample, score, report; resumes."),
    "bench score": ("cli.benchmarking", "Score", "Score a bench's saved samples again, and report."),
    "bench report": ("cli.benchmarking", "Rebuild", "Rebuild a bench's report from its scores."),
    "bench lift": ("cli.benchmarking", "LiftAll", "Lift unseen clips with every training; errors by action."),
    "bench ls": ("cli.benchmarking", "Ls", "List the benches under a folder."),
    "bench validate": ("cli.benchmarking", "Validate", "Tell what is missing or changed in a bench."),
    "bench export": ("cli.benchmarking", "Export", "Write a bench's record as one file that others can check."),
    "bench compare": ("cli.benchmarking", "Compare", "Compare the records of two laboratories."),
    "bench speed": ("cli.measuring", "Speed", "Time the parts of a training step: stock MDM, ours in 3D, ours in 2D."),
    "bench precision": ("cli.measuring", "Precision", "Tell what each saving of last bits costs in samples."),
    "study": ("cli.studying", "Study", "Write a page on which people compare motions of arms without knowing whose."),
    "study score": ("cli.studying", "Score", "Score the answers to a study."),
    "run": ("run", "main", "Run any program of an MDM checkout with this package's options."),
    "install": ("cli.checkouts", "Install", "Let an MDM checkout's own commands take this package's options."),
    "uninstall": ("cli.checkouts", "Uninstall", "Take that out again; every other byte stays as it is."),
    "status": ("cli.checkouts", "State", "Report whether our line is in a checkout, and whether its commit is tested."),
    "doctor": ("cli.checkouts", "Doctor", "Say how a checkout and the installed packages fit."),
    "host survey": ("cli.checkouts", "Survey", "Report which programs work in checkouts of MDM and its forks."),
}
"""Verb: module, class of its options that returns the exit status when called, or a function of the words behind the
verb, and one line of help."""
FAMILIES = {
    "data": "Data sets",
    "bench": "Compare arms",
    "study": "Ask people which of two motions is better",
    "host": "Checkouts of MDM and its forks",
}
"""Verbs of two words by their first one, and what they are about."""
STATUSES = "Exit status: 0 done, 1 yours to put right, 2 unknown option or value, 3 a fault, 130 interrupted."


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb. -> exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(overview())
        return 0
    if words[0] == "--version":
        print(f"videomdm {__version__}")
        return 0
    if words[0] in FAMILIES and words[0] not in VERBS and words[1:] in ([], ["-h"], ["--help"]):
        print(family_overview(words[0]))
        return 0
    if os.environ.get("NO_COLOR") or not sys.stderr.isatty():
        os.environ.setdefault("PYTHON_TYRO_ANSI_CODES", "False")  # it asks for neither; rich asks for both
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return guarded(lambda: dispatch(words))


def guarded(action: Callable[[], int]) -> int:
    """The exit status of an action, with one message for an expected error."""
    try:
        status = action()
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # `| head` has enough; rich gives up with the same status
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except Exception as error:
        message = message_of(error)
        if message is not None:
            print(f"error: {message}", file=sys.stderr)
            return 1
        with tempfile.NamedTemporaryFile(
            "w", prefix="videomdm-", suffix=".log", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as log:
            traceback.print_exc(file=log)
        what, at = traceback.format_exception_only(error)[-1].strip(), traceback.extract_tb(error.__traceback__)[-1]
        place = f"{at.filename}, line {at.lineno}: {at.line}"  # which may be in a program of the host
        print(printable(f"fault: {what} ({place}). Please report it with {log.name}"), file=sys.stderr)
        return 3


def dispatch(words: list[str]) -> int:
    """Find the verb of one or two words, built in or a plugin's, and call it."""
    for count in (2, 1):
        verb = " ".join(words[:count])
        if len(words) >= count and verb in VERBS:
            module, name, _ = VERBS[verb]
            action = getattr(import_module(f"videomdm_ext.{module}"), name)
            if not isinstance(action, type):
                return int(action(words[count:]))
            from videomdm_ext.cli.console import parse, refuse_repeated

            refuse_repeated(action, words[count:])
            return int(parse(action, verb, words[count:])())
    from videomdm_ext import plugins

    commands = plugins.collect(plugins.create_manager(), "commands")
    if words[0] in commands:
        return int(commands[words[0]](words[1:]) or 0)
    known = [*VERBS, *commands]
    near = difflib.get_close_matches(" ".join(words[:2]), known, 1) or difflib.get_close_matches(words[0], known, 1)
    hint = f"Did you mean {near[0]!r}?" if near else f"Verbs: {', '.join(known)}."
    print(f"error: no verb {words[0]!r}. {hint}", file=sys.stderr)
    return 1


def overview() -> str:
    """Help of the program, on one screen: families of verbs have a line each."""
    singles = {verb: about for verb, (_, _, about) in VERBS.items() if verb.split()[0] not in FAMILIES}
    members = {name: [verb.split()[1] for verb in VERBS if verb.startswith(f"{name} ")] for name in FAMILIES}
    families = [
        (f"{name} ...", line)
        for name, about in FAMILIES.items()
        for line in wrap(f"{about}: {' '.join(members[name])}", 87)
    ]
    title = "videomdm: train 3D human motion diffusion from 2D keypoints, beside MDM."
    last = "videomdm VERB --help describes a verb. Start with: videomdm demo"
    rows, version = _table([*singles.items(), *families]), f"Version {__version__}, {Path(__file__).parent}"
    return "\n".join([title, "", *rows, "", last, STATUSES, version])


def family_overview(name: str) -> str:
    """Help of a family of verbs, a line each."""
    rows = [(verb, about) for verb, (_, _, about) in VERBS.items() if verb.split()[0] == name]
    return "\n".join([f"{FAMILIES[name]}:", "", *_table(rows), "", "videomdm VERB --help describes a verb."])


def _table(rows: Sequence[tuple[str, str]]) -> list[str]:
    width = max(len(verb) for verb, _ in rows)
    return [f"  {verb:<{width}}  {about}" for verb, about in rows]
