"""Every command of the pages in docs/ runs to its end; in a file of its own, so that two workers share them."""

from collections.abc import Iterator

import commands
import pytest

HERE = [command for command in commands.ONCE.values() if command.document.startswith("docs/")]


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[commands.Reader]:
    """-> runs commands"""
    reader = commands.Reader(tmp_path_factory.mktemp("reader"))
    yield reader
    reader.close()


@pytest.mark.slow
@pytest.mark.parametrize("command", HERE, ids=str)
def test_a_documented_command_runs_to_its_end(command, reader):
    reader.run(command)
