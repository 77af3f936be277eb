"""The commits of MDM that are supported: one patch and one record of hashes each, in patches/."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from videomdm_ext.errors import HostError
from videomdm_ext.mdm.placing import PATH, Insertion, numbers, ours, unix
from videomdm_ext.options import shipped

PATCHES = shipped("patches")
HUNK = re.compile(r"@@ -([1-9][0-9]*),0 \+([1-9][0-9]*) @@")


@dataclass(frozen=True)
class Known:
    """A commit of MDM that is supported: its date, hashes of the patched file and of all that we read or wrap."""

    commit: str
    date: str
    blob: str
    sha256: str
    files: Mapping[str, str]
    insertions: tuple[Insertion, ...]

    def fits(self, content: bytes) -> bool:
        """Whether this is the commit's own file, apart from Windows line endings."""
        content = unix(content)
        return git_blob(content) == self.blob and hashlib.sha256(content).hexdigest() == self.sha256

    def differing(self, root: Path) -> list[str]:
        """Files of a checkout that are missing or are not the commit's own, apart from Windows line endings."""
        places = {name: root / name for name in self.files}
        own = {name: place.is_file() and git_blob(unix(place.read_bytes())) for name, place in places.items()}
        return [name for name, blob in self.files.items() if own[name] != blob]


def known() -> list[Known]:
    """Every commit with a file in patches/, the newest first."""
    records = sorted(PATCHES.glob("*.json")) if PATCHES.is_dir() else []
    if not records:
        raise HostError(f"{PATCHES}: expected this package's patches, found none. Install the package anew.")
    return sorted((_read(record) for record in records), key=lambda commit: commit.date, reverse=True)


def _read(record: Path) -> Known:
    try:
        fields = json.loads(record.read_text(encoding="utf-8"))
        insertions = read_patch(record.with_suffix(".patch"))
        blob, files = fields["files"][PATH], {name: blob for name, blob in fields["files"].items() if name != PATH}
        return Known(fields["commit"], fields["date"], blob, fields["sha256"], files, insertions)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise HostError(
            f"{record}: expected commit, date, sha256 and files ({error!r}). Restore patches/ from the repository."
        ) from error


def read_patch(place: Path) -> tuple[Insertion, ...]:
    """The insertions of a patch that holds one new line a hunk and nothing of the host's."""
    lines = place.read_text(encoding="ascii").splitlines()
    hunks = [(HUNK.fullmatch(header), line) for header, line in zip(lines[2::2], lines[3::2], strict=False)]
    found = [Insertion(int(header[1]), line[1:]) for header, line in hunks if header and ours(line[1:].encode())]
    starts = tuple(int(header[2]) for header, _ in hunks if header)
    whole = len(lines) == 2 + 2 * len(found) and lines[:2] == [f"--- a/{PATH}", f"+++ b/{PATH}"]
    whole = whole and all(line.startswith("+") for line in lines[3::2])
    if not whole or not found or starts != numbers(found) or list(starts) != sorted(set(starts)):
        raise HostError(
            f"{place}: expected insertions of single lines into {PATH}, found otherwise. "
            "The patch is broken; restore patches/ from the repository."
        )
    return tuple(found)


def git_blob(content: bytes) -> str:
    """The name that git gives to this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def closest(root: Path) -> tuple[Known, list[str]]:
    """The supported commit that a checkout is nearest to, and the files that differ from it."""
    pairs = [(commit, commit.differing(root)) for commit in known()]
    return min(pairs, key=lambda pair: len(pair[1]))
