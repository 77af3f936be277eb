"""The one-way rooms, checked wherever import-linter is installed."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_modules_import_only_downward_and_the_mathematics_knows_no_files():
    pytest.importorskip("importlinter", reason="import-linter is in the `dev` extra")
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    answer = subprocess.run([*command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr
