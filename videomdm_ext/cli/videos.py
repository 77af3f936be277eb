"""The verbs that make a data set from videos: of people, or filmed from known motion."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import blobfile as bf
import numpy as np
import torch
import tyro

from videomdm_ext.cli.console import bars, by_name, clips_of, console, counting, lifter_summary, pairs, quoted, say_next
from videomdm_ext.data import files, locks, schemas
from videomdm_ext.data.film import filming
from videomdm_ext.data.folder import read_card, read_clip
from videomdm_ext.data.importing import find_importer, run_import
from videomdm_ext.data.motions import PREFIX, build_demo
from videomdm_ext.data.sources.base import Importer, ImportOptions
from videomdm_ext.data.tasks import HERE, Engine
from videomdm_ext.data.texts import find_tagger
from videomdm_ext.data.video.frames import frames_at, open_video
from videomdm_ext.data.video.importer import VideoImporter
from videomdm_ext.errors import ConfigError, VideoMDMError, counted
from videomdm_ext.render import contact_sheet, figures
from videomdm_ext.render.footage import FACTS

MADE = "made.txt"
"""File beside the pictures with the content hash of the clips that they show."""


@dataclass(frozen=True)
class FromVideo:
    """Make a data set from videos of people: keypoints and a noisy 3D teacher by MediaPipe, camera, floor, captions.

    With --lifter the teacher is what another lifter made of the videos, in --option results=DIR. Started again, it goes
    on where it stopped. Look at the pictures in OUT/sheets before training.
    """

    source: Annotated[str, tyro.conf.Positional]
    """A video, or a folder of videos."""
    captions: str = ""
    """A table (.csv, .tsv, .json) of NAME and CAPTION, one or more rows a video; start and end, in seconds or as 0:01,
    may be further columns."""
    caption: str = ""
    """Caption of videos that the table lacks: in 'a person {folder}.' the name of their folder, in {name} their own."""
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
    """largest, a number, or all, where several people are in view; of all each one's clips are VIDEO_p0_0, ..."""
    detections: str = ""
    """Folder with another detector's files, named after the videos; the keypoints then come from these."""
    format: str = ""
    """Format of these files: openpose, mmpose, alphapose, coco or blazepose."""
    as_given: bool = False
    """Take these keypoints as they are, wherever MediaPipe sees the joints."""
    lifter: str = ""
    """Whose motion is the teacher, by default mediapipe's: wham, gvhmr, phalp, 4dhumans, motionbert, or another one of
    `data import list .`."""
    option: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """KEY=VALUE of the lifter, such as results=DIR, the folder of what it made of the videos; may be repeated."""
    moving: bool = False
    """The camera moves: one camera a frame."""
    seed: int = 0
    """Seed of the split by video."""
    engine: Engine = HERE
    shard: str = ""
    """Import one of several parts of the videos, as 3/8, into an OUT of its own; data merge joins them."""
    no_sheets: bool = False
    """Draw no picture of each clip over its video in OUT/sheets."""

    def __call__(self) -> int:
        if not self.no_sheets:
            figures.require()
        torch.set_num_threads(1)  # arrays this small only wait for each other
        numbers = {"focal": self.focal, "fov": self.fov_degrees}
        words = {name: getattr(self, name) for name in ("calibration", "person", "detections", "format")}
        words |= {"moving": "yes" * self.moving, "shard": self.shard, "as_given": "yes" * self.as_given}
        extra = {"fps": f"{self.fps:g}"} | {key: f"{value:g}" for key, value in numbers.items() if value}
        extra |= {key: value for key, value in words.items() if value}
        extra |= {f"{PREFIX}{key.removeprefix(PREFIX)}": value for key, value in pairs(self.option).items()}
        given = ImportOptions(
            seed=self.seed, lifter=self.lifter or ImportOptions.lifter, captions=self.captions, caption=self.caption,
            extra=extra, flag="--",
        )  # fmt: skip
        importer = VideoImporter(self.source, given)
        check_lifter(importer, self.lifter)
        with locks.held(self.out):
            import_videos(importer, self.out, self.name, self.engine)
            if not self.no_sheets:
                draw_sheets(self.out)
                console.print(f"    look at {self.out}/sheets: do the bones sit on the person?")
        say_next(f"train --arm 2d --clips {quoted(self.out)} --save_dir runs/2d")
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
    keypoints: Literal["detected", "true"] = "detected"
    """MediaPipe's, or the true joints as the camera sees them; the lifted motion is MediaPipe's in both."""
    engine: Engine = field(default=Engine(processes=2))
    seed: int = 0
    """Seed of bodies, clothes, rooms, lights and cameras."""
    sheets: bool = False
    """Draw a picture of each clip over its film, in OUT/sheets."""

    def __call__(self) -> int:
        if min(self.size) < 64 or max(self.size) > 4096 or any(side % 2 for side in self.size):
            raise ConfigError(f"--size: expected two even numbers from 64 to 4096, found {self.size}. Correct it.")
        if not 20 <= self.height[0] <= self.height[1]:
            raise ConfigError(f"--height: expected a least and a greatest height from 20 px, found {self.height}.")
        if not 0 <= self.moving <= 1:
            raise ConfigError(f"--moving: expected a share from 0 to 1, found {self.moving:g}. Correct it.")
        torch.set_num_threads(1)
        extra = {"fps": f"{self.fps:g}"} | ({"keypoints": "true"} if self.keypoints == "true" else {})
        given = ImportOptions(seed=self.seed, extra=extra, flag="--")
        importer = filming.FilmImporter(str(Path(self.out, filming.FILMS)), given)
        order = filming.Order(self.size, self.height, self.moving, self.seed)
        with locks.held(self.out):
            with bars() as progress:
                watch = by_name(progress)
                source = self.motion(partial(watch, "motion"))
                filming.film(source, self.out, order, engine=self.engine, progress=partial(watch, "filming"))
            import_videos(importer, self.out, self.name, self.engine)
            if self.sheets:
                draw_sheets(self.out)
        say_next(f"bench --dataset {quoted(self.out)} --arms 3d,lifted,refined,2d")
        return 0

    def motion(self, progress: Any) -> str:
        """The data set whose truth is filmed: the source itself, or one that is made of it in OUT/motion."""
        source, made = self.source, str(Path(self.out, "motion"))
        if source == "bundled":
            build_demo(made, seed=self.seed, durations=(1.0,))
            return made
        if bf.exists(bf.join(source, "dataset.json")):
            return source
        kind = "joints" if bf.isdir(bf.join(source, "joints")) else "bvh"
        run_import(find_importer(kind)(source, ImportOptions(seed=self.seed)), made, progress=progress)
        return made


def check_lifter(importer: Importer, asked: str) -> None:
    """Refuse a lifter that would be ignored, as the source has another one's motion."""
    if asked and importer.lifter != asked:
        raise ConfigError(
            f"--lifter {asked}: expected {importer.lifter}, whose motion comes with {importer.name}, found another. "
            "Leave it out, or add the lifter's own to the finished set: videomdm data relift."
        )


@locks.writing("out")
def import_videos(importer: VideoImporter, out: str, name: str, engine: Engine = HERE) -> None:
    """Watch the videos, and print what came of each, what was left out and why.

    What was seen is kept in OUT/detections, what was found out in OUT/videos.json.
    """
    importer.cache, importer.engine = str(Path(out, "detections")), engine
    files.check_writable(out)
    tagger = find_tagger()
    if tagger is None:
        console.print("    captions stay without parts of speech: spaCy and its English model (extra mdm) are missing")
    with bars() as progress:
        importer.watching = by_name(progress, alone=True)
        done = run_import(importer, out, tagger=tagger, progress=partial(by_name(progress), "clips"), name=name)
    videos = {key: {**one.facts, "notes": one.notes, "clips": one.clips} for key, one in importer.found.items()}
    facts = schemas.text_of({"videos": videos, "left_out": importer.refused}, indent=2, sort_keys=True) + "\n"
    files.write_bytes(str(Path(out, FACTS)), facts.encode())
    card = done.card
    console.print(f"{out}: {clips_of(card)} of {card.skeleton} at {card.fps:g} fps, content {card.content_hash[:12]}")
    lines = []
    for video, found in importer.found.items():
        lines += [f"    {video}: {_sentence(found.facts, found.clips)}", *(f"        {note}" for note in found.notes)]
    lines += [f"    left out {one}: {reason}" for one, reason in {**importer.refused, **done.left_out}.items()]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if card.lifter_error:
        console.print(f"    the lifter: {lifter_summary(card)}", soft_wrap=True)
    if error := card.detector_error:
        console.print(
            f"    the detector: keypoints {error['median']:.4f} (median), {error['q90']:.4f} (90 %), "
            f"{error['q99']:.4f} (99 %) of the focal length from the projected truth, {error['unseen']:.1%} not seen, "
            f"sides exchanged in {error['exchanged']:.1%} of the frames",
            soft_wrap=True,
        )


def _sentence(facts: Mapping[str, Any], clips: Mapping[str, Mapping[str, Any]]) -> str:
    """What was found out about a video."""
    errors = [clip["error_pixels"] for clip in clips.values() if "error_pixels" in clip]
    words = [f"{counted(len(clips), 'clip')}, {sum(clip['frames'] for clip in clips.values())} frames"]
    words.append(f"focal length {facts['focal']:.0f} px ({facts['focal_told_by']})")
    if "camera_roll_degrees" in facts:
        pitch, roll = facts["camera_pitch_degrees"], facts["camera_roll_degrees"]
        words.append(f"camera pitched {pitch:+.0f}° and rolled {roll:+.0f}° (by {facts['up_told_by']})")
    if errors:
        words.append(f"lifted pose {sum(errors) / len(errors):.0f} px off the keypoints (RMS)")
    return ", ".join(words)


def draw_sheets(out: str) -> None:
    """A picture of each clip of a data set that was made from videos, where there is none yet of these clips.

    A picture that fails is one printed line: the data set is whole without it.
    """
    card, content = read_card(out), files.read_json(Path(out, FACTS), "videos")
    folder, rows = Path(out) / "sheets", []
    for found in content["videos"].values():
        notes = [] if found["focal_told_by"] != "assumed" else ["the focal length is assumed"]
        rows += [(clip_id, place, notes) for clip_id, place in found["clips"].items()]
    mark = folder / MADE
    if not mark.is_file() or mark.read_text(encoding="utf-8") != card.content_hash:  # of clips that are no longer so
        for sheet in folder.glob("*.png"):
            sheet.unlink()
        files.write_bytes(str(mark), card.content_hash.encode())
    with counting("drawing") as step:
        for number, (clip_id, place, notes) in enumerate(rows):
            sheet = folder / f"{files.checked_id(clip_id, FACTS)}.png"
            try:
                if not sheet.exists():
                    clip = read_clip(out, card, clip_id)
                    shown = contact_sheet.shown_frames(clip)
                    pictures = frames_at(open_video(place["video"]), place["start"] + np.array(shown) / card.fps)
                    contact_sheet.contact_sheet(str(sheet), clip, list(zip(shown, pictures, strict=False)), notes=notes)
            except Exception as error:
                sheet.unlink(missing_ok=True)
                reason = str(error) if isinstance(error, VideoMDMError) else f"{type(error).__name__}: {error}"
                message = f"    no picture of {clip_id}: {reason}"
                console.print(message, markup=False, highlight=False, soft_wrap=True)
            step(number + 1, len(rows))
