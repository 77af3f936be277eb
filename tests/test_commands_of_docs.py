"""Every command of the pages in docs/ runs to its end, beside those in tests/test_commands.py."""

import commands
import pytest


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> commands.Reader:
    """-> runs commands"""
    return commands.Reader(tmp_path_factory.mktemp("reader"))


@pytest.mark.slow
@pytest.mark.parametrize("command", commands.parameters(docs=True))
def test_a_documented_command_runs_to_its_end(command, reader):
    reader.run(command)
