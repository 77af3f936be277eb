"""What a folder of videos holds: the videos with an id for each, and why everything else is passed over."""

import os
import re
from collections import Counter
from collections.abc import Sequence

from videomdm_ext.data import files
from videomdm_ext.data.folder import CARD
from videomdm_ext.data.video.frames import ENDINGS
from videomdm_ext.data.video.watch import stem
from videomdm_ext.errors import DatasetError

PERSONAL = re.compile(r"_p\d+$")  # the end of a person's name among several of a video


def contents(source: str) -> tuple[list[str], list[str], list[str]]:
    """The videos of a folder and of those below it, in order, the other files, and the data sets inside, whose own
    files, such as films, are in neither. Of a file: itself."""
    if os.path.isfile(source):
        return [source], [], []
    if not os.path.isdir(source):
        raise DatasetError(f"{source}: expected a video, or a folder of videos, found none. Check the path.")
    videos, others, sets = list[str](), list[str](), list[str]()
    for folder, inner, _ in os.walk(source):
        inner[:] = sorted(name for name in inner if name[0] != ".")
        inside = [name for name in inner if os.path.exists(os.path.join(folder, name, CARD))]
        inner[:] = [name for name in inner if name not in inside]
        sets += [os.path.join(folder, name) for name in inside]
        for name in files.list_files(folder, root=source):
            (videos if name.lower().endswith(ENDINGS) else others).append(os.path.join(folder, name))
    return videos, others, sets


def clip_stems(paths: Sequence[str], *, personal: bool) -> list[tuple[str, str]]:
    """How the ids of each video's clips begin, and its path; `personal`: ids name the person too."""
    used, stems = Counter[str](), list[tuple[str, str]]()
    for path in paths:
        own = re.sub(r"[^A-Za-z0-9_.-]+", "_", stem(path)).strip("._-") or "video"
        used[own] += 1
        stems.append((f"{own}_v{used[own]}" if used[own] > 1 else own, path))  # two of one name get numbers
    if personal:  # NAME_p1_0 is to be the person's of NAME alone
        known = {own for own, _ in stems}
        stems = [(f"{own}_v1" if PERSONAL.sub("", own) in known - {own} else own, path) for own, path in stems]
    return stems


def name_of(path: str, source: str) -> str:
    """The name of a video in tables and messages: its path below the source."""
    return os.path.relpath(path, source if os.path.isdir(source) else os.path.dirname(path) or ".")


def passed_over(
    source: str, found: tuple[list[str], list[str], list[str]], used: Sequence[str], *, detections: bool
) -> dict[str, str]:
    """Why other files of a source, and data sets in it, are left out, by name; not those at or below the places that
    are `used`, those of a detector, and those beside a video of their name."""
    videos, others, sets = found
    places = [os.path.abspath(place) + os.sep for place in used if place]
    places = [place for place in places if not f"{os.path.abspath(source)}{os.sep}".startswith(place)]
    beside = {os.path.splitext(path)[0] for path in videos}
    reasons = {
        path: f"{path}: expected a video ({' '.join(ENDINGS)}), found another ending. Convert it."
        for path in others
        if os.path.splitext(path)[0] not in beside and not (detections and path.endswith((".json", ".npz")))
    }
    reasons |= {
        folder: f"{folder}: expected videos, found a data set ({CARD}), which is passed over. To import its films name "
        "their folder as the source."
        for folder in sets
    }
    return {
        name_of(path, source): reason
        for path, reason in reasons.items()
        if not any(f"{os.path.abspath(path)}{os.sep}".startswith(place) for place in places)
    }
