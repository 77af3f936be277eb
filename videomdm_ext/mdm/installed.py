"""What the lines that `videomdm install` puts into a checkout call; importing it makes the process ready for MDM."""

import argparse
import sys
from types import TracebackType

from videomdm_ext.errors import VideoMDMError
from videomdm_ext.mdm import adapter


def add_options(group: "argparse._ArgumentGroup") -> None:
    """Our options in the host's group."""
    adapter.add_options(group)


def activate(args: argparse.Namespace) -> None:
    """Act on the final arguments; an expected error ends the program with one message and status 1."""
    try:
        adapter.activate(args)
    except VideoMDMError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def say_briefly(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Python's last words about an error, which for one of ours is its message alone."""
    if isinstance(error, VideoMDMError):
        print(f"error: {error}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


adapter.begin()
sys.excepthook = say_briefly
