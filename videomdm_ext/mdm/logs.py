"""Where MDM's logger writes."""

import os
from pathlib import Path


def write_csv(folder: Path) -> None:
    """Let the logger write progress.csv into a folder, from when the host opens it: once in a process."""
    os.environ |= {"OPENAI_LOGDIR": str(folder.resolve()), "OPENAI_LOG_FORMAT": "csv"}
