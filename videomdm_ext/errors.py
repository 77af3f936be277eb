"""Errors a person can fix: each message names the file or option, what was expected, what was found, what to do."""

import errno
import re
from importlib import import_module
from pathlib import Path
from typing import Any

ADVICE = {
    errno.ENOSPC: "Make room on that disk",
    errno.EDQUOT: "Make room within the quota",
    errno.EFBIG: "Allow larger files there (ulimit -f)",
    errno.EROFS: "Make it writable, or name another folder",
    errno.EACCES: "Correct the rights, or name another folder",
    errno.EPERM: "Correct the rights, or name another folder",
    errno.EIO: "Look whether the disk is sound, or name another folder",
    errno.ENOENT: "Put the folder back, or name another",
    errno.ENOTDIR: "Put the folder back, or name another",
    errno.ESTALE: "Put the folder back, or name another",
    errno.ENAMETOOLONG: "Choose a shorter name",
    errno.ELOOP: "Remove the link that leads to itself",
}
"""What to do about what a disk or a folder refuses."""


CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What would move a terminal's cursor, end a line, or turn the direction of what is printed behind it, and halves of
characters, which no file can hold."""


def printable(text: str) -> str:
    """A text for a terminal or a page: control characters but line ends as \\u001b, which JSON reads back."""
    return CONTROL.sub(lambda found: found[0] if found[0] == "\n" else f"\\u{ord(found[0]):04x}", text)


def counted(count: int, name: str) -> str:
    """`1 error`, `2 errors`."""
    return f"{count} {name}" + ("" if count == 1 else "s")


class VideoMDMError(Exception):
    """Base of all expected errors; the command line prints the message and exits with status 1."""

    def __str__(self) -> str:
        """The message, without control characters of names and contents that it cites."""
        return printable(super().__str__())


class ConfigError(VideoMDMError):
    """An option or configuration file holds a value that cannot be used."""


class DatasetError(VideoMDMError):
    """A clip, a dataset folder or a source file is not what its card or format says."""


class StorageError(VideoMDMError):
    """A disk or a folder takes no more, whatever the data are like: full, read-only, forbidden or gone."""


class HostError(VideoMDMError):
    """The MDM checkout, or a checkpoint made with it, does not fit."""


class PluginError(VideoMDMError):
    """A plugin cannot be loaded, or two plugins claim the same name."""


def optional(module: str, *, user: str, extra: str) -> Any:
    """Import an optional module; ConfigError names what uses it and the extra with which it comes."""
    try:
        return import_module(module)
    except (ImportError, OSError) as error:
        libraries = "; on Debian also the packages libgl1 and libglib2.0-0" if extra == "video" else ""
        raise ConfigError(
            f"{user}: expected the package {module.partition('.')[0]}, found none that works ({error}). "
            f'Install the extra: pip install -e ".[{extra}]" -c constraints.txt{libraries}'
        ) from error


def of_storage(error: OSError, place: str = "") -> StorageError | None:
    """The error in the usual words where a disk or a folder is its reason; None for a file of this program itself."""
    place = place or str(error.filename or "")
    if error.errno not in ADVICE or (place and Path(place).is_relative_to(Path(__file__).parent)):
        return None
    return StorageError(
        f"{place or 'a file'}: expected a place that takes it, found none ({error.strerror}). {ADVICE[error.errno]}; "
        "then start the same command again."
    )


def message_of(error: BaseException) -> str | None:
    """What to print of an error that a person can fix; None for a fault of this program."""
    known = of_storage(error) if isinstance(error, OSError) else error
    return str(known) if isinstance(known, VideoMDMError) else None
