"""The importer `video`: any videos of people, by MediaPipe (extra `video`) or from another detector's files.

A video is watched once; its frames are cut where the person is out of sight, jumps, or another shot begins; every
stretch is brought to an even rate by its time stamps, placed in front of the camera, and turned upright. The camera is
taken to stand still unless `moving` says otherwise. There is no true motion: the teacher is MediaPipe's, or what a
lifter that ran elsewhere made of the videos.
"""

import dataclasses
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from videomdm_ext.data.clip import MIN_FRAMES, Clip, Recording
from videomdm_ext.data.motions import PREFIX, find_lifter, lift
from videomdm_ext.data.sources.base import Importer, ImportOptions, Member
from videomdm_ext.data.tasks import HERE, part_of, share_of
from videomdm_ext.data.texts import Caption, composed
from videomdm_ext.data.video import frames as video_frames
from videomdm_ext.data.video import lifted, listing, placing
from videomdm_ext.data.video.detections import FORMATS, find_files
from videomdm_ext.data.video.frames import Calibration, Video, camera_of, open_video, read_calibration
from videomdm_ext.data.video.pieces import Stretch, cut, put_right, stretches
from videomdm_ext.data.video.watch import Choice, Sighting, stem, watch
from videomdm_ext.errors import ConfigError, DatasetError, counted
from videomdm_ext.geometry import cameras
from videomdm_ext.hookspecs import Register, hookimpl

Numbers = NDArray[np.float64]

STILL = 0.004  # liveliness of a person who does not move: a standing one sways by more
UNSEEN = 1.0  # seconds without anybody that are worth a note


Captions = Mapping[str, Sequence[Caption]]  # of a video under "", and under p0, p1, ... of a person who has his own
Watching = Callable[[str, int, int], None]  # `watching(video, done, total)` in frames
FASTEST = 60.0  # frames per second of a data set, at most


@dataclass(frozen=True)
class Seen:
    """One video as far as it is understood: lens, up in camera coordinates (None of a moving camera), stretches."""

    video: Video
    lens: placing.Lens
    up: placing.Up | None
    pieces: tuple[Stretch, ...]  # each with its body in camera coordinates


@dataclass
class Findings:
    """What is worth telling of one video: facts by name, notes in words, clips with where they lie in the video."""

    facts: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    clips: dict[str, dict[str, Any]] = field(default_factory=dict)

    def note(self, who: str, words: Sequence[str]) -> None:
        """Add notes about one person, of several if he has a name."""
        self.notes += [f"{who}: {word}" if who else word for word in words]


class VideoImporter(Importer):
    """`source` is a video or a folder of videos. `cache` is a folder that keeps what was seen, by default none; other
    processes than this one need it. Each video is a task of `engine`.

    After `members`, `refused` holds by name why videos were left out, and `found` what is known of the others. Where
    `options.lifter` names a lifter with `results`, or any other than MediaPipe, the teacher is what it made of a video.
    """

    name = "video"
    about = "videos of people, watched by MediaPipe or with another detector's files; captions in --captions FILE"
    licence = "as the videos"
    reads_here = False
    has_lifter = "mediapipe"
    extras = {  # noqa: RUF012
        "fps": "frames per second of the data set, 20",
        "focal": "focal length in pixels",
        "fov": "field of view of the picture's longer side, in degrees",
        "calibration": "file with the cameras: Pose2Sim's toml or Qualisys's qca.txt",
        "person": "largest, a number, or all, where several people are in view",
        "detections": "folder with another detector's files, named after the videos",
        "format": f"of these files: {', '.join(FORMATS)}",
        "as_given": "yes: these keypoints are taken as they are, wherever MediaPipe sees the joints",
        "moving": "yes: the camera moves",
        "shard": "one of several parts of the videos, as 3/8; data merge joins them",
    }

    def __init__(self, source: str, options: ImportOptions) -> None:
        own = options.lifter in ("", ImportOptions.lifter) or (
            options.lifter == type(self).has_lifter and not {"results", f"{PREFIX}results"} & set(options.extra)
        )
        self.has_lifter = type(self).has_lifter if own else ""
        super().__init__(source, options)
        self.model = None
        if not own:
            self.has_lifter = options.lifter
            self.model = find_lifter(options.lifter, options.seed, self.skeleton, self.lifter_extra)
        self.results: Any = self.model if hasattr(self.model, "people") else None
        self.fps = self.extra_number("fps", 20.0)
        self.cache, self.engine = "", HERE
        self.share = share_of(self.extra("shard", "1/1"), f"{options.flag}shard")
        self.moving = self.extra("moving", "no", among=("yes", "no")) == "yes"
        if self.extra("as_given", "no", among=("yes", "no")) == "yes" and not self.extra("detections"):
            raise ConfigError("--as-given: expected --detections with it, found none. Leave it out.")
        self.watching: Watching | None = None
        self.found: dict[str, Findings] = {}
        self._seen: dict[str, Seen] = {}
        self._tasks: dict[str, tuple[Any, ...]] = {}
        # what does not go together, or cannot be read, is refused before any work
        self.cameras = read_calibration(self.extra("calibration")) if self.extra("calibration") else {}
        if self.fps > FASTEST:
            raise ConfigError(f"--fps: expected at most {FASTEST:g}, found {self.fps:g}. Correct it.")
        told = [*filter(self.extra, ("focal", "fov", "calibration"))]
        if len(told) > 1:
            raise ConfigError(f"--{told[0]}: expected one source of the focal length, found also --{told[1]}. Choose.")
        if bool(self.extra("detections")) != bool(self.extra("format")):
            raise ConfigError("--detections: expected --format with it, found one of the two. Give both, or neither.")
        self.extra("format", among=("", *FORMATS))
        person = self.extra("person")
        if person not in ("", "largest", "all") and not person.isdigit():
            raise ConfigError(f"--person: expected 'largest', a number from 0, or 'all', found {person!r}. Correct it.")
        if not (options.captions or options.caption):
            raise ConfigError(
                "--captions: expected a table with NAME and CAPTION in its columns, one or more rows a video, perhaps "
                "with start and end in further columns, found none. Write one, or for folders named after what is done "
                "in their videos give --caption 'a person {folder}.'."
            )

    def members(self) -> Sequence[Member]:
        """The clips of all videos; the videos are watched for it, unless that was kept."""
        members: list[Member] = []
        listed = paths, *_ = listing.contents(self.source)
        everybody = self.extra("person") == "all"
        stems = listing.clip_stems(paths, personal=everybody)
        self._tasks, own = {}, part_of(stems, self.share)
        wanted = set(own)
        folders: dict[str, set[str]] = {}
        for path in paths:
            folders.setdefault(stem(path), set()).add(os.path.dirname(path))
        personal: dict[str, list[tuple[str, str]]] = {}
        for key in self.captions.table if everybody else ():
            if at := listing.PERSONAL.search(key):
                personal.setdefault(key[: at.start()], []).append((at[0][1:], key))
        for clip_stem, path in stems:
            name, alone = listing.name_of(path, self.source), len(folders[stem(path)]) == 1
            names = (name, os.path.splitext(name)[0], *((os.path.basename(path), stem(path)) if alone else ()))
            texts = {"": self.captions.find(*names, path=path)}  # of all videos: those of other parts are no mistakes
            for stemmed in dict.fromkeys(map(composed, names)):
                texts |= {who: self.captions.find(key) for who, key in personal.get(stemmed, ())}
            if (clip_stem, path) not in wanted:
                continue
            try:
                self._check_usable(path, name, texts, folders)
                self._tasks[clip_stem] = (self, clip_stem, path, texts)
            except DatasetError as error:
                self.refused[name] = str(error)
        seen_beside = dict[str, str]()
        looks = self.engine.run(_look, self._tasks, self._place, ordered=True)
        for number, (task, (clips, findings)) in enumerate(zip(self._tasks.values(), looks, strict=True), 1):
            _, clip_stem, path, _ = task
            members += clips
            if isinstance(findings, str):
                self.refused[listing.name_of(path, self.source)] = findings
                self.found.pop(clip_stem, None)
            else:
                self.found[clip_stem] = findings
                if beside := findings.facts.get("others"):
                    seen_beside[f"{listing.name_of(path, self.source)}, others"] = (
                        f"{path}: seen beside those who were taken: {counted(beside, 'track')} of people. --person all "
                        "takes everybody who is large and long enough in view."
                    )
            if self.watching and not self.engine.is_here(len(self._tasks)):
                self.watching("videos", number, len(self._tasks))
        order = [listing.name_of(path, self.source) for _, path in own]
        self.refused = {name: self.refused[name] for name in order if name in self.refused}
        used = [self.options.captions, *self.options.extra.values(), self._place if self.cache else ""]
        detections = bool(self.extra("detections"))
        self.refused |= seen_beside | self.captions.unused
        self.refused |= listing.passed_over(self.source, listed, used, detections=detections)
        if self.results:
            self.refused |= lifted.unclaimed(self.results.videos(), [stem(path) for path in paths])
        if not members:
            first = next(iter(self.refused.values()), "")
            found = f"none that can be used. The first: {first}" if first else "none. Name another folder."
            endings = ", ".join(video_frames.ENDINGS)
            raise DatasetError(f"{self.source}: expected a video, or a folder of videos ({endings}), found {found}")
        return members

    def _check_usable(self, path: str, name: str, captions: Captions, folders: Mapping[str, set[str]]) -> None:
        """Refuse a video without a caption, or without a result of the lifter, before anything is watched."""
        if not any(captions.values()):
            advice = f"Add a line {name}<tab>CAPTION."
            raise self.refuse(path, f"a caption in {self.captions.place}", "none", advice)
        if (self.extra("detections") or self.results) and len(folders[stem(path)]) > 1:
            expected = "a name that no video in another folder has, for --detections and results of a lifter"
            raise self.refuse(path, f"{expected} are found by it", "several", "Rename the video and them.")
        try:
            if self.results:
                self.results.find_video(stem(path), folders)
        except DatasetError as error:
            raise DatasetError(f"{path}: {error}") from error

    def counted(self) -> dict[str, int]:
        """Frames of all videos in which left and right were exchanged."""
        rows = [one.facts["sides_exchanged"] for one in self.found.values() if "sides_exchanged" in one.facts]
        return {key: sum(row[key] for row in rows) for key in rows[0]} if rows else {}

    def inputs(self) -> Sequence[str]:
        """The captions, the calibration, and the videos that are used, each with its detections."""
        found = [*filter(None, (self.options.captions, self.extra("calibration")))]
        found += self.results.sources() if self.results else []
        for _, _, path, *_ in (self._tasks[clip_stem] for clip_stem in self.found):
            found += [path, *([str(self.results.find_video(stem(path)))] if self.results else ())]
            if detections := self.extra("detections"):
                found += find_files(detections, stem(path), self.extra("format"))
        return found

    @property
    def _place(self) -> str:
        """The folder in which all processes work."""
        return os.path.dirname(self.cache) or "."

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs."""
        return vars(self) | {"watching": None, "refused": {}, "found": {}, "_seen": {}, "_tasks": {}}

    def clips(self, members: Sequence[Member], lifter: Any = None) -> Iterator[tuple[Member, Clip | DatasetError]]:
        """As of any importer; where other processes have watched, they lift too, a video at a time."""
        if all(member.place[0] in self._seen for member in members):
            yield from super().clips(members, lifter)
            return
        videos: dict[str, list[Member]] = {}
        for member in members:
            videos.setdefault(member.trial, []).append(member)
        calls = {name: (*self._tasks[name], found) for name, found in videos.items()}
        for made in self.engine.run(_lift, calls, self._place, ordered=True):
            yield from made

    def _members_of(self, clip_stem: str, path: str, captions: Captions) -> list[Member]:
        findings = self.found[clip_stem] = Findings()
        video = open_video(path)
        words = {key: self.extra(key) for key in ("person", "detections", "format")}
        choice = Choice(**words, as_given=self.extra("as_given") == "yes")
        results = self.results.people(stem(path), video.stored_size) if self.results else []
        told = self.watching
        progress = None if told is None else (lambda done, total: told(os.path.basename(path), done, total))
        people = watch(video, choice, self.cache, progress)
        size, others = people[0].size, people[0].others
        if others:
            findings.facts["others"] = others
        found = [stretch for one in people for stretch in self._stretches(one, findings)]
        if self.results:
            findings.facts["results"] = place = str(self.results.find_video(stem(path)))
            given = lifted.given_to(found, results, video, self.fps, self.results.description.fps, place)
            for stretch, (_, notes) in zip(found, given, strict=True):
                findings.note(stretch.person, notes)
            found = [part for parts, _ in given for part in parts]
        known = {one.who: [stretch for stretch in found if stretch.person == one.who] for one in people}
        pieces = [piece for who, own in known.items() for piece in self._pieces(own, who, captions, findings)]
        findings.notes += people[0].notes
        nobody = np.all([(one.score == 0).all(1) for one in people], axis=0)
        unseen = float(nobody.mean()) * video.seconds
        if unseen > max(UNSEEN, 0.1 * video.seconds):
            findings.notes.append(f"Nobody is seen in {unseen:.1f} of {video.seconds:.1f} s.")
        if missing := [who for who in captions if who and who not in known]:
            findings.notes.append(f"The captions of {', '.join(missing)} were left out: there is no such person.")
        if not pieces:
            raise DatasetError(
                f"{path}: expected {MIN_FRAMES + 1} frames in a row ({(MIN_FRAMES + 1) / self.fps:.2f} s) of one "
                f"person with a caption, found fewer. {' '.join(findings.notes)} Leave the video out."
            )
        seen = self._seen[path] = self._understood(video, size, pieces, findings)
        members, counts = list[Member](), Counter[str]()
        for number, piece in enumerate(seen.pieces):
            error = cameras.reprojection(piece.body, *self._image(piece, seen.lens))
            name = f"{clip_stem}_{piece.person}" if piece.person else clip_stem
            members.append(Member(f"{name}_{counts[name]}", trial=clip_stem, place=(path, number)))
            counts[name] += 1
            findings.clips[members[-1].id] = {
                "video": path,
                "start": round(piece.start, 4),
                "frames": len(piece.pixels),
                "confidence": round(float(piece.confidence.mean()), 3),
                "error_pixels": round(error * seen.lens.focal, 2),
                **({} if piece.lifted is None else {"lifted": piece.lifted.name}),
            }
        return members

    def _stretches(self, seen: Sighting, findings: Findings) -> list[Stretch]:
        """The stretches of one person, and notes and counts about them."""
        seen, sides = put_right(seen)
        found, notes = stretches(seen, self.fps, lifted=not self.results)
        if sides.repaired or sides.doubted:
            counted = findings.facts.get("sides_exchanged", {})
            findings.facts["sides_exchanged"] = {
                key: count + counted.get(key, 0) for key, count in dataclasses.asdict(sides).items()
            }
            note = f"Left and right were exchanged in {sides.repaired + sides.doubted} of {len(seen.times)} frames"
            doubt = f"; in {sides.doubted} of them nothing tells which part is right, and they count less."
            notes.append(f"{note} and are put right{doubt if sides.doubted else '.'}")
        findings.note(seen.who, notes)
        return found

    def _pieces(
        self, found: Sequence[Stretch], who: str, captions: Captions, findings: Findings
    ) -> list[tuple[Stretch, Stretch]]:
        """The clips of one person's stretches, by his own captions or the video's, each with its stretch."""
        texts = captions.get(who, captions[""])
        notes = [
            f"The caption {caption.text!r} of {caption.start:g} to {caption.stop:g} s was left out: at that time "
            f"nobody is in view for {MIN_FRAMES + 1} frames."
            for caption in texts
            if not any(cut(stretch, [caption], self.fps) for stretch in found)
        ]
        if found and max(stretch.liveliness() for stretch in found) < STILL:
            notes.append("The person does not move: is it a still picture?")
        if not texts:
            notes.append("Left out: there is no caption.")
        findings.note(who, notes)
        return [(piece, stretch) for stretch in found for piece in cut(stretch, texts, self.fps)]

    def _understood(
        self, video: Video, size: tuple[int, int], pieces: list[tuple[Stretch, Stretch]], findings: Findings
    ) -> Seen:
        place = self.extra("calibration")
        calibration = camera_of(self.cameras, stem(video.path), place) if place else None
        once = {id(stretch): stretch for _, stretch in pieces}  # several clips may be cut from one
        lens = self._lens(video, size, list(once.values()), calibration)
        if lens.told_by == "assumed":
            findings.notes.append(
                "The focal length could not be told; a field of view of "
                f"{math.degrees(placing.DEFAULT_FIELD):.0f} degrees of the longer side is assumed. "
                "Give --focal or --fov-degrees if you know better."
            )
        kept, up = self._standing([piece for piece, _ in pieces], lens, video, findings), None
        if not self.moving:
            if calibration is not None and calibration.up is not None:
                up = placing.Up(calibration.up, 0.0, "calibration")
            elif all(piece.lifted and piece.lifted.level is not None for piece in kept):
                up = lifted.up_of(kept)
            else:
                up = placing.find_up([piece.body for piece in kept], self.skeleton, self.fps)
        findings.facts |= {"focal": round(lens.focal, 1), "focal_told_by": lens.told_by, "size": list(video.size)}
        if up is not None:
            degrees = {"up_deviation": up.deviation, "camera_pitch": up.pitch, "camera_roll": up.roll}
            findings.facts |= {f"{name}_degrees": round(math.degrees(angle), 1) for name, angle in degrees.items()}
            findings.facts["up_told_by"] = up.witness
        return Seen(video, lens, up, tuple(kept))

    def _standing(
        self, pieces: Sequence[Stretch], lens: placing.Lens, video: Video, findings: Findings
    ) -> list[Stretch]:
        """Those pieces that can be placed, with their bodies in camera coordinates."""
        kept = []
        for piece in pieces:
            image, weight = self._image(piece, lens)
            place = f"{video.path} from {piece.start:.2f} s"
            try:
                if piece.lifted is None:
                    pose = placing.turned(piece.body, image, self.skeleton)
                    body = placing.in_front(pose, image, weight, self.fps, place)
                else:
                    body = piece.lifted.before(lens.intrinsics, image, weight, self.skeleton, self.fps, place)
                    self.results.check(place, body, image, piece.confidence)
            except DatasetError as error:
                findings.notes.append(f"Left out: {error}")
                continue
            if not (self.moving or (piece.lifted is not None and piece.lifted.placed)):
                body = placing.corrected(body, image, weight, place)
            kept.append(dataclasses.replace(piece, body=body))
        if not kept:
            raise DatasetError(findings.notes[-1].removeprefix("Left out: "))
        return kept

    def _lens(
        self, video: Video, size: tuple[int, int], seen: list[Stretch], calibration: Calibration | None
    ) -> placing.Lens:
        if calibration is not None:
            return placing.Lens(calibration.scaled(size), "calibration", calibration.distortion)
        if self.extra("focal"):
            # large pictures are scaled down before anything looks at them
            scale = float(video.scale.min())
            return placing.lens_of(self.extra_number("focal", 1.0) * scale, size, "given")
        if self.extra("fov"):
            degrees = self.extra_number("fov", 60.0)
            if not 5 <= degrees <= 150:
                raise ConfigError(f"--fov-degrees: expected 5 to 150 degrees, found {degrees:g}. Correct it.")
            return placing.lens_of(placing.focal_of(math.radians(degrees), size), size, "given")
        own = [s.lifted.lens for s in seen if s.lifted and s.lifted.placed and s.lifted.lens is not None]
        if own:
            return placing.Lens(own[0], "the lifter")
        parts = [torch.cat([getattr(s, name) for s in seen]) for name in ("body", "pixels", "confidence")]
        parts = [part[parts[0].any(-1).any(-1)] for part in parts]  # where MediaPipe saw a pose
        if not len(parts[0]):
            return placing.lens_of(placing.focal_of(placing.DEFAULT_FIELD, size), size, "assumed")
        return placing.find_lens(parts[0], parts[1], parts[2].square(), size, self.skeleton)

    def _image(self, piece: Stretch, lens: placing.Lens) -> tuple[Tensor, Tensor]:
        """Keypoints [T, 22, 2] on the normalised plane and their weight [T, 22]."""
        return cameras.normalise(piece.pixels, lens.intrinsics, lens.distortion), piece.confidence.square()

    def read(self, member: Member) -> Recording:
        """One clip in its own world: y up, the floor at y = 0."""
        path, number = member.place
        seen = self._seen[path]
        piece, body = seen.pieces[number], seen.pieces[number].body
        image, weight = self._image(piece, seen.lens)
        level = piece.lifted and piece.lifted.level
        if seen.up is not None:
            positions, extrinsics = placing.upright(body, seen.up.direction)
        elif level is not None:
            positions, extrinsics = lifted.moving(body, level)
        else:
            positions, extrinsics = placing.upright_moving(body, image, weight, self.skeleton, self.fps, member.id)
        made = Recording(
            id=member.id,
            texts=piece.texts,
            fps=self.fps,
            skeleton=self.skeleton,
            keypoints=image.float(),
            confidence=piece.confidence.float(),
            extrinsics=extrinsics.float(),
            lifted=positions.float(),
            intrinsics=seen.lens.intrinsics.float(),
            image_size=seen.video.size,
            source=f"{path} from {piece.start:.2f} s",
        )
        return lift(self.model, made) if self.model is not None and self.results is None else made


def _look(
    importer: VideoImporter, clip_stem: str, path: str, captions: Captions
) -> tuple[list[Member], Findings | str]:
    """The clips of a video and what is known of it, or why it is left out."""
    try:
        return importer._members_of(clip_stem, path, captions), importer.found[clip_stem]
    except DatasetError as error:
        return [], str(error)


def _lift(
    importer: VideoImporter, clip_stem: str, path: str, captions: Captions, members: Sequence[Member]
) -> list[tuple[Member, Clip | DatasetError]]:
    """The clips of a video that was watched."""
    importer._members_of(clip_stem, path, captions)
    return list(importer.clips(members))


@hookimpl
def register_datasets(register: Register) -> None:
    """Offer this importer under its name."""
    register(VideoImporter.name, VideoImporter)
