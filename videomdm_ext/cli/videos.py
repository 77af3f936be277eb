"""The verb that makes a data set from videos of people."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import blobfile as bf
import torch
import tyro
from rich.progress import Progress, TaskID

from videomdm_ext.cli.console import bars, console, counting, lifter_summary, parse, quoted
from videomdm_ext.data import files
from videomdm_ext.data.film import filming
from videomdm_ext.data.folder import Card, read_card, read_clip
from videomdm_ext.data.importing import Imported, find_importer, run_import
from videomdm_ext.data.motions import build_demo
from videomdm_ext.data.sources.base import ImportOptions
from videomdm_ext.data.texts import find_tagger
from videomdm_ext.data.video.frames import frames, open_video
from videomdm_ext.data.video.importer import VideoImporter
from videomdm_ext.errors import ConfigError, VideoMDMError
from videomdm_ext.render import clip_sheet, figures

FACTS = "videos.json"
"""File in the data set's folder with what was found out about each video, and where its clips lie."""

MADE = "made.txt"
"""File beside the pictures with the content hash of the clips that they show."""


@dataclass(frozen=True)
class FromVideo:
    """Make a data set from videos of people: keypoints and a noisy 3D teacher by MediaPipe, camera, floor, captions.

    Started again, it goes on where it stopped. Look at the pictures in OUT/sheets before training.
    """

    source: Annotated[str, tyro.conf.Positional]
    """A video, or a folder of videos."""
    captions: str = ""
    """A file with lines NAME<tab>CAPTION, one or more a video; start and end in seconds may be further columns."""
    out: str = "runs/data/video"
    """Folder of the data set."""
    name: str = "video"
    """Name on the card."""
    fps: float = 20.0
    """Frames per second of the data set."""
    focal: float = 0.0
    """Focal length of all videos in pixels; 0: by --fov-degrees, --calibration, or estimated."""
    fov_degrees: Annotated[float, tyro.conf.arg(aliases=["--fov"])] = 0.0
    """Field of view of the picture's longer side."""
    calibration: str = ""
    """File with the cameras, by video name: Pose2Sim's toml or Qualisys's qca.txt."""
    person: str = ""
    """largest, or a number, where several people are in view."""
    detections: str = ""
    """Folder with another detector's files, named after the videos; the keypoints then come from these."""
    format: str = ""
    """Format of these files: openpose, mmpose, alphapose, coco or blazepose."""
    moving: bool = False
    """The camera moves: one camera a frame."""
    seed: int = 0
    """Seed of the split by video."""
    no_sheets: bool = False
    """Draw no picture of each clip over its video in OUT/sheets."""

    def extra(self) -> dict[str, str]:
        """The importer's own options."""
        numbers = {"fps": self.fps, "focal": self.focal, "fov": self.fov_degrees}
        words = {"calibration": self.calibration, "person": self.person, "detections": self.detections}
        words |= {"format": self.format, "moving": "yes" if self.moving else ""}
        chosen = {key: f"{value:g}" for key, value in numbers.items() if value != 0 or key == "fps"}
        return chosen | {key: value for key, value in words.items() if value}


def from_video(words: Sequence[str]) -> int:
    """Videos to a data set, with a picture of each clip."""
    options = parse(FromVideo, "data from-video", words)
    if not options.no_sheets:
        figures.require()
    torch.set_num_threads(1)  # arrays this small only wait for each other
    importer, done = make(options)
    tell(importer, done, options.out)
    if not options.no_sheets:
        with bars() as progress:
            draw_sheets(options.out, counting(progress, "drawing"))
        console.print(f"    look at {options.out}/sheets: do the bones sit on the person?")
    out = quoted(options.out)
    console.print(f"Next: videomdm train --arm 2d --clips {out} --save_dir runs/2d", soft_wrap=True)
    return 0


@dataclass(frozen=True)
class Film:
    """Film known motion, and make a data set of the films as of any videos: a real detector's and lifter's errors
    beside the exact truth.

    Bodies of many shapes wear the motion in many rooms. Started again, it goes on where it stopped.
    """

    source: Annotated[str, tyro.conf.Positional]
    """A data set with true motion, a folder of joints or of BVH files, or `bundled`."""
    out: str = "runs/data/film"
    """Folder of the data set; the films lie in OUT/films."""
    name: str = "film"
    """Name on the card."""
    fps: float = 20.0
    """Frames per second of the data set; the films have 20 to 30."""
    size: tuple[int, int] = (640, 480)
    """Width and height of the films in pixels."""
    height: tuple[float, float] = (100.0, 400.0)
    """Least and greatest height of the person in pixels."""
    moving: float = 0.25
    """Share of the films whose camera moves."""
    processes: int = 2
    """Films at the same time."""
    seed: int = 0
    """Seed of bodies, clothes, rooms, lights and cameras."""
    sheets: bool = False
    """Draw a picture of each clip over its film, in OUT/sheets."""


def film(words: Sequence[str]) -> int:
    """Films, and the data set that watching them gives."""
    options = parse(Film, "data film", words)
    if min(options.size) < 64 or max(options.size) > 4096 or any(side % 2 for side in options.size):
        raise ConfigError(f"--size: expected two even numbers from 64 to 4096, found {options.size}. Correct it.")
    if not 20 <= options.height[0] <= options.height[1]:
        raise ConfigError(f"--height: expected a least and a greatest height from 20 px, found {options.height}.")
    if not 0 <= options.moving <= 1:
        raise ConfigError(f"--moving: expected a share from 0 to 1, found {options.moving:g}. Correct it.")
    if options.processes < 1:
        raise ConfigError(f"--processes: expected 1 or more, found {options.processes}. Correct it.")
    torch.set_num_threads(1)
    given = ImportOptions(seed=options.seed, extra={"fps": f"{options.fps:g}"}, flag="--")
    importer = filming.FilmImporter(str(Path(options.out, filming.FILMS)), given)
    order = filming.Order(options.size, options.height, options.moving, options.seed)
    with bars() as progress:
        source = _motion(options, counting(progress, "motion"))
        filming.film(source, options.out, order, processes=options.processes, progress=counting(progress, "filming"))
    done = _import(importer, options.out, options.name)
    tell(importer, done, options.out)
    console.print(f"    the lifter: {lifter_summary(done.card)}", soft_wrap=True)
    console.print(f"    the detector: {detector_summary(done.card)}", soft_wrap=True)
    if options.sheets:
        with bars() as progress:
            draw_sheets(options.out, counting(progress, "drawing"))
    out = quoted(options.out)
    console.print(f"Next: videomdm bench --dataset {out} --arms 3d,lifted,refined,2d", soft_wrap=True)
    return 0


def _motion(options: Film, progress: Any) -> str:
    """The data set whose truth is filmed: the source itself, or one that is made of it in OUT/motion."""
    source, made = options.source, str(Path(options.out, "motion"))
    if source == "bundled":
        build_demo(made, seed=options.seed, durations=(1.0,))
        return made
    if bf.exists(bf.join(source, "dataset.json")):
        return source
    kind = "joints" if bf.isdir(bf.join(source, "joints")) else "bvh"
    run_import(find_importer(kind)(source, ImportOptions(seed=options.seed)), made, progress=progress)
    return made


def detector_summary(card: Card) -> str:
    """A line about the errors of the keypoints that the card has; empty without."""
    error = card.detector_error
    if not error:
        return ""
    return (
        f"keypoints {error['median']:.4f} (median), {error['q90']:.4f} (90 %), {error['q99']:.4f} (99 %) of the focal "
        f"length from the projected truth, {error['unseen']:.1%} not seen, sides exchanged in {error['exchanged']:.1%} "
        "of the frames"
    )


def make(options: FromVideo) -> tuple[VideoImporter, Imported]:
    """Run the import, and write what was found out about the videos."""
    given = ImportOptions(seed=options.seed, captions=options.captions, extra=options.extra(), flag="--")
    importer = VideoImporter(options.source, given)
    return importer, _import(importer, options.out, options.name)


def _import(importer: VideoImporter, out: str, name: str) -> Imported:
    """Watch the videos; what was seen is kept in OUT/detections, what was found out in OUT/videos.json."""
    importer.cache = os.path.join(out, "detections")
    files.check_writable(out)
    tagger = find_tagger()
    if tagger is None:
        console.print("    captions stay without parts of speech: spaCy and its English model (extra mdm) are missing")
    with bars() as progress:
        importer.watching = _Watched(progress)
        done = run_import(importer, out, tagger=tagger, progress=counting(progress, "clips"), name=name)
    facts = json.dumps(_facts(importer), indent=2, sort_keys=True) + "\n"
    files.write_bytes(os.path.join(out, FACTS), facts.encode())
    return done


class _Watched:
    """A bar a video, which goes away when the video is through."""

    def __init__(self, progress: Progress) -> None:
        self.progress, self.tasks = progress, dict[str, TaskID]()

    def __call__(self, video: str, done: int, total: int) -> None:
        if video not in self.tasks:
            for task in self.tasks.values():
                self.progress.update(task, visible=False)
            self.tasks[video] = self.progress.add_task(video[-24:], total=total)
        self.progress.update(self.tasks[video], completed=done, total=total)


def _facts(importer: VideoImporter) -> dict[str, Any]:
    videos = {name: {**f.facts, "notes": f.notes, "clips": f.clips} for name, f in importer.found.items()}
    return {"videos": videos, "left_out": importer.refused}


def tell(importer: VideoImporter, done: Imported, out: str) -> None:
    """What came of each video, and what was left out and why."""
    card = done.card
    counts = ", ".join(f"{count} {split}" for split, count in card.counts.items())
    console.print(f"{out}: {counts} clips of {card.skeleton} at {card.fps:g} fps, content {card.content_hash[:12]}")
    for name, found in importer.found.items():
        console.print(
            f"    {name}: {_sentence(found.facts, found.clips)}", markup=False, highlight=False, soft_wrap=True
        )
        for note in found.notes:
            console.print(f"        {note}", markup=False, highlight=False, soft_wrap=True)
    for name, reason in {**importer.refused, **done.left_out}.items():
        console.print(f"    left out {name}: {reason}", markup=False, highlight=False, soft_wrap=True)


def _sentence(facts: Mapping[str, Any], clips: Mapping[str, Mapping[str, Any]]) -> str:
    seconds = sum(clip["frames"] for clip in clips.values())
    errors = [clip["error_pixels"] for clip in clips.values() if "error_pixels" in clip]
    words = [
        f"{len(clips)} clip(s), {seconds} frames",
        f"focal length {facts['focal']:.0f} px ({facts['focal_told_by']})",
    ]
    if "camera_roll_degrees" in facts:
        pitch, roll = facts["camera_pitch_degrees"], facts["camera_roll_degrees"]
        words.append(f"camera pitched {pitch:+.0f}° and rolled {roll:+.0f}° (by {facts['up_told_by']})")
    if errors:
        words.append(f"lifted pose {sum(errors) / len(errors):.0f} px off the keypoints (RMS)")
    return ", ".join(words)


def draw_sheets(out: str, progress: Any = None) -> None:
    """A picture of each clip of a data set that was made from videos, where there is none yet."""
    card, content = read_card(out), files.read_json(os.path.join(out, FACTS))
    rows = [
        (clip_id, place, [] if found["focal_told_by"] != "assumed" else ["the focal length is assumed"])
        for found in content["videos"].values()
        for clip_id, place in found["clips"].items()
    ]
    _forget_others(Path(out) / "sheets", card.content_hash)
    for number, (clip_id, place, notes) in enumerate(rows):
        sheet = Path(out) / "sheets" / f"{files.checked_id(clip_id, FACTS)}.png"
        if not sheet.exists():
            _draw(sheet, out, card, clip_id, place, notes)
        if progress:
            progress(number + 1, len(rows))


def _forget_others(folder: Path, content: str) -> None:
    """Remove pictures of clips that are no longer as they were."""
    mark = folder / MADE
    if not mark.is_file() or mark.read_text(encoding="utf-8") != content:
        for sheet in folder.glob("*.png"):
            sheet.unlink()
        files.write_bytes(str(mark), content.encode())


def _draw(sheet: Path, out: str, card: Any, clip_id: str, place: Mapping[str, Any], notes: Sequence[str]) -> None:
    """Draw one clip. A picture that fails is one printed line: the data set is whole without it."""
    beside = sheet.with_suffix(".part")
    try:
        clip = read_clip(out, card, clip_id)
        shown = clip_sheet.shown_frames(clip)
        times = [place["start"] + number / card.fps for number in shown]
        pictures = list(zip(shown, pictures_at(place["video"], times), strict=False))
        sheet.parent.mkdir(parents=True, exist_ok=True)
        clip_sheet.contact_sheet(str(beside), clip, pictures, notes=notes)
        beside.replace(sheet)
    except Exception as error:
        beside.unlink(missing_ok=True)
        reason = str(error) if isinstance(error, VideoMDMError) else f"{type(error).__name__}: {error}"
        console.print(f"    no picture of {clip_id}: {reason}", markup=False, highlight=False, soft_wrap=True)


def pictures_at(path: str, times: Sequence[float]) -> list[Any]:
    """The frames of a video that are nearest to some times, which rise."""
    video = open_video(path)
    found: list[Any] = []
    for time, picture in frames(video, max(0.0, times[0] - 1.0), times[-1] + 1.0):
        while len(found) < len(times) and time >= times[len(found)] - 0.5 / video.fps:
            found.append(picture)
        if len(found) == len(times):
            break
    return found
