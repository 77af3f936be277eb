"""Every command of README.md and CONTRIBUTING.md runs to its end, and none of any document is forgotten."""

import subprocess

import commands
import documents
import environments
import pytest
from documents import ROOT

from videomdm_ext.cli.main import VERBS


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> commands.Reader:
    """-> runs commands"""
    return commands.Reader(tmp_path_factory.mktemp("reader"))


@pytest.mark.slow
@pytest.mark.parametrize("command", commands.parameters(docs=False))
def test_a_documented_command_runs_to_its_end(command, reader):
    reader.run(command)


def test_every_verb_stands_in_a_command_that_is_run():
    run = {commands.verb_of(command.words) for command in commands.ONCE.values() if command.words[0] == "videomdm"}
    assert run == set(VERBS) - {"bench score", "bench report", "report"}  # tests/cli/test_benchmarking.py runs these


def test_what_is_not_run_here_is_run_by_the_whole_check_or_has_a_reason():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    for command in documents.commands():
        line = " ".join(command.words)
        if command.words[0] in commands.LEFT_TO_CI and commands.why_not(command) is None:
            assert line in script, command
        elif command.words[:2] == ("pip", "install"):
            asked = environments.requirements(command.extras)
            assert asked, command
        elif command not in commands.RUNS and command.words[0] != "cd":
            assert commands.why_not(command), command


def test_an_environment_holds_what_its_extras_bring_and_nothing_else(tmp_path):
    site = environments.create(tmp_path / "venv", frozenset())
    code = "from importlib.util import find_spec as f; print(*(f(n) is not None for n in sys.argv[1:]))"
    names = ["torch", "rich", "yaml", "pytest", "PIL", "pip"]
    python = str(tmp_path / "venv" / "bin" / "python")
    done = subprocess.run([python, "-c", f"import sys; {code}", *names], cwd=site, capture_output=True, text=True)
    assert done.stdout.split() == ["True"] * 3 + ["False"] * 3
