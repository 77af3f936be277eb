"""The documents: the table of options is the program's, every command is one that exists."""

import re
import runpy
from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any
from unittest import mock

import documents
import pytest
import tyro
from commands import filled, is_named, verb_of
from documents import ROOT

from videomdm_ext import run
from videomdm_ext.bench.plan import load_arm
from videomdm_ext.cli import main as cli
from videomdm_ext.cli import training
from videomdm_ext.config import Fairness, Source, Speed, Supervision, add_arguments
from videomdm_ext.errors import VideoMDMError
from videomdm_ext.mdm import checkout

MAKER = runpy.run_path(str(ROOT / "docs" / "make_options.py"))
OPTIONS = documents.GENERATED.read_text(encoding="utf-8")
COMMANDS = documents.commands()
OURS = [command for command in COMMANDS if command.words[0] == "videomdm"]
OTHERS = {
    "git", "pip", "python3.11", ".", "cd", "pytest", "ruff", "mypy", "lint-imports", ".ci/run", "torchrun",
    "ray", "srun", "blender",
}  # fmt: skip
"""Programs in the documents that are not ours, and are not run here."""
MDM_ONLY = {"eval.eval_humanml"}
"""Modules in the documents that MDM has and the stand-in has not."""
CONFIGS = (Supervision, Source, Fairness, Speed)


def section(verb: str) -> str:
    """The part of options.md about a verb."""
    (found,) = re.findall(rf"^## `videomdm {verb}`\n(.*?)(?=^## |\Z)", OPTIONS, re.MULTILINE | re.DOTALL)
    return found


def test_the_options_are_documented_as_they_are():
    assert MAKER["document"]() == OPTIONS, "docs/options.md is old. Run: python docs/make_options.py"


def test_the_rooms_are_drawn_as_they_are():
    made = runpy.run_path(str(ROOT / "docs" / "make_house.py"))
    page = made["document"]()
    assert page == made["PAGE"].read_text(encoding="utf-8"), "Run: python docs/make_house.py"
    assert "    mdm --> data\n    lifters --> data\n" in page
    assert made["reduced"]({("a", "b"), ("b", "c"), ("a", "c"), ("a", "d")}) == {("a", "b"), ("b", "c"), ("a", "d")}


@pytest.mark.parametrize("verb", [*sorted(set(cli.VERBS) - {"train", "run"}), "bench --protocol mdm"])
def test_the_documented_options_of_a_verb_are_those_of_its_help(verb, capsys):
    """Names, defaults and texts, as the parser itself prints them."""
    with pytest.raises(SystemExit) as stop:
        cli.main([*verb.split(), "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    heads = re.findall(r"^(?:│ | {1,2})(-.*?)(?:  |│|$)", shown, re.MULTILINE)
    told = {name for head in heads for name in re.findall(r"--\w[\w-]*", head)} - {"--help"}
    rows = [re.split(r"(?<!\\) \| ", row.strip("| ")) for row in section(verb).splitlines() if row.startswith("| `")]
    assert {name for row in rows for name in re.findall(r"`(--[\w-]+)`", row[0])} == told
    plain = re.sub(r"[│╭╮╰╯─\s']", "", shown)
    for _, value, default, text in rows:
        found = plain.partition(re.sub(r"[\s']", "", text.replace("\\|", "|").replace("&lt;", "<")))[2]
        assert found, text
        if default:
            written = "(required)" if default == "required" else f"(default:{default.strip('`').replace(' ', '')})"
            assert found.startswith(written) or value.endswith("one or more"), text


class ParsedError(Exception):
    """Raised where a verb has parsed its words."""


def parse(words: Sequence[str]) -> Any:
    """What a verb makes of the words behind it, stopped before it acts. SystemExit for what it does not take."""
    real = tyro.cli

    def stop(*given: Any, **more: Any) -> None:
        raise ParsedError(real(*given, **more))

    def launch(host: object, module: str, args: Sequence[str], **more: Any) -> None:
        raise ParsedError((module, list(args)))

    with (
        mock.patch.object(tyro, "cli", stop),
        mock.patch.object(run.hook, "run", launch),
        mock.patch.object(run.checkout, "find", lambda where=None: where),
        mock.patch.object(training, "with_lifter", lambda path, lifter: path),
        pytest.raises(ParsedError) as parsed,
    ):
        cli.dispatch(list(words))
    return parsed.value.args[0]


def check_host(module: str, words: Sequence[str]) -> None:
    """A module of the host, and options that the stand-in and this package know, with values that they take."""
    if module in MDM_ONLY:
        return
    assert (checkout.STANDIN / f"{module.replace('.', '/')}.py").is_file(), module
    parser = ArgumentParser(allow_abbrev=False)
    host = runpy.run_path(str(checkout.STANDIN / "utils" / "parser_util.py"))
    for title in host["OPTIONS"]:
        host["add_options"](parser, title)
    for kind in CONFIGS:
        add_arguments(parser.add_argument_group(kind.__name__), kind)
    for action in parser._actions:
        action.required = False
    parser.parse_args(list(words))


def test_every_module_that_the_documents_name_is_there():
    rooms = {place.name for place in (ROOT / "videomdm_ext").iterdir() if place.is_dir()}
    for document in documents.DOCUMENTS:
        for name in re.findall(r"[`(]([\w/]+\.py)[`)]", document.read_text(encoding="utf-8")):
            if name.split("/")[0] in {*rooms, "videomdm_ext", "tests", "docs"}:
                assert (ROOT / name).is_file() or (ROOT / "videomdm_ext" / name).is_file(), (document.name, name)


def test_every_test_that_the_documents_name_is_there():
    pages, files = (ROOT / "docs").glob("*.md"), (ROOT / "tests").rglob("*.py")
    named = {name for page in pages for name in re.findall(r"`(test_\w+)`", page.read_text("utf-8"))}
    there = {name for file in files for name in re.findall(r"def (test_\w+)", file.read_text("utf-8"))}
    assert named
    assert named <= there


def test_every_program_in_the_documents_is_known():
    unknown = [str(c) for c in COMMANDS if c.words[0] not in {"videomdm", "python", *OTHERS}]
    assert not unknown
    assert len(OURS) > 30


@pytest.mark.parametrize("command", OURS, ids=str)
def test_a_documented_command_has_a_verb_options_and_values_that_exist(command):
    verb = verb_of(command.words)
    words = filled(command)[1:]
    if "--help" in words or (is_named(command) and verb in cli.VERBS):
        return
    told = parse(words)
    for arm in told.plan.arms if hasattr(told, "plan") else ():
        load_arm(arm)
    if verb in ("train", "run"):
        check_host(*told)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.words[0] == "python"], ids=str)
def test_a_documented_command_of_python_has_a_module_and_options_that_exist(command):
    words = filled(command)[1:]
    if words[0] != "-m":
        assert (ROOT / words[0]).is_file()
    else:
        check_host(words[1], words[2:])


@pytest.mark.parametrize(
    "words",
    [
        "data check set --stric",
        "bench --dataset DIR --seeds many",
        "train --arm 2e",
        "train --arm 2d --clip a",
        "train --unroll x",
    ],
)
def test_a_documented_command_with_an_error_would_be_found(words):
    with pytest.raises((SystemExit, VideoMDMError)):
        check_host(*parse(words.split()))


def test_commands_are_found_in_blocks_and_in_running_text():
    block = (
        'pip install -e ".[demo]" && videomdm demo     # set up\ncd mdm\nA=1 videomdm status --mdm \\\n  .  # here\n'
    )
    found = [(c.words, c.folder) for c in documents.of_block(block, "a")]
    assert found == [
        (("pip", "install", "-e", ".[demo]"), "."), (("videomdm", "demo"), "."), (("cd", "mdm"), "."),
        (("videomdm", "status", "--mdm", "."), "mdm"),
    ]  # fmt: skip
    (command,) = documents.of_text("so `videomdm run\n[--mdm PATH] a|b ARGS...` and `pip`", "a")
    assert command.words == ("videomdm", "run", "--mdm", "PATH", "a", "ARGS")
