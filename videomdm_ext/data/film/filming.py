"""Films of a data set's true motion, and the importer that watches them as it watches any video.

OUT/films/ID.mp4    the film
OUT/films/ID.npz    what it shows: positions [T, 22, 3] in the world, m, at `fps`; extrinsics [F, 3, 4] and intrinsics
                    of the camera for each of the F frames at `film_fps`; whether it moved; written last
OUT/films/captions.tsv
"""

import dataclasses
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from videomdm_ext.data import files
from videomdm_ext.data.clip import Recording
from videomdm_ext.data.film import stage
from videomdm_ext.data.folder import SPLITS, read_card, read_clip, read_ids
from videomdm_ext.data.motions import own_generator, resample, resample_rotations
from videomdm_ext.data.sources.base import ImportOptions, Member
from videomdm_ext.data.tasks import Engine
from videomdm_ext.data.video.frames import Calibration, Video, require
from videomdm_ext.data.video.importer import Captions, VideoImporter
from videomdm_ext.data.video.placing import Lens, lens_of
from videomdm_ext.errors import DatasetError, StorageError
from videomdm_ext.geometry.cameras import project
from videomdm_ext.motion.features import decode
from videomdm_ext.motion.human_mesh import Body, build_body
from videomdm_ext.motion.skeletons import SMPL22

FILMS, CAPTIONS = "films", "captions.tsv"
FILMS_A_PROCESS = 12
"""Processes make way for others after about as many: Mesa does not give all its memory back."""


@dataclass(frozen=True)
class Order:
    """How films are made: width and height and the least and the greatest height of the person, pixels; the share of
    films whose camera moves."""

    size: tuple[int, int] = (640, 480)
    height: tuple[float, float] = (100.0, 400.0)
    moving: float = 0.25
    seed: int = 0


def film(source: str, out: str, order: Order, *, engine: Engine, progress: Callable[[int, int], None]) -> None:
    """Film the true motion of every clip of a data set; started again, it goes on with those that are missing.

    DatasetError where a clip has no truth, VideoMDMError where a package or OpenGL is missing.
    """
    require("imageio_ffmpeg")
    _, context = stage.require_moderngl()
    context.release()
    build_body({})  # what is slow the first time is kept for the processes
    card = read_card(source)
    if card.skeleton != SMPL22.name:
        raise DatasetError(f"{source}: expected {SMPL22.name}, found {card.skeleton}. Film another data set.")
    rows = [(clip_id, split) for split in SPLITS if card.counts.get(split) for clip_id in read_ids(source, split)]
    folder = Path(out, FILMS)
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{clip_id}\t{text}\n" for clip_id, _ in rows for text in read_clip(source, card, clip_id).texts]
    files.write_bytes(str(folder / CAPTIONS), "".join(lines).encode())
    left = [row for row in rows if not (folder / f"{row[0]}.npz").is_file()]
    done = len(rows) - len(left)
    progress(done, len(rows))
    calls = {clip_id: (source, str(folder), clip_id, split, order) for clip_id, split in left}
    for _ in engine.run(film_clip, calls, out, renewed=FILMS_A_PROCESS):
        done += 1
        progress(done, len(rows))


def film_clip(source: str, folder: str, clip_id: str, split: str, order: Order) -> None:
    """One film, with what it shows beside it."""
    torch.set_num_threads(1)
    card = read_card(source)
    clip = read_clip(source, card, clip_id)
    if clip.truth is None:
        raise DatasetError(f"{source}: {clip_id}: expected a true motion, found none. Film a data set that has them.")
    truth = decode(torch.from_numpy(clip.truth), SMPL22).double()
    draw = stage.Draw(own_generator("film", order.seed, clip_id))
    rate = draw.among(stage.RATES)
    times = np.arange(int((len(truth) - 1) / clip.fps * rate + 1e-6) + 1) / rate
    positions = positions_at(truth, clip.fps, times).float()
    person = build_body(stage.draw_shape(draw))
    camera = stage.draw_camera(positions, order.size, order.height, draw, moving=order.moving)
    colours, light = stage.draw_clothes(person, draw), stage.draw_light(draw)
    room = stage.draw_room(positions, camera, draw)
    drawn = stage.Stage(order.size, room, light, person.faces.numpy(), colours)
    beside = os.path.join(folder, f".{clip_id}.mp4")
    quality = draw.number(5.0, 9.0)
    plain = {"codec": "libx264", "macro_block_size": 1, "ffmpeg_params": ["-threads", "1"]}
    writer = require("imageio").get_writer(beside, fps=rate, quality=quality, **plain)
    try:
        with writer:
            for vertices, normals, extrinsics in _worn(person, positions, camera.extrinsics):
                writer.append_data(drawn.picture(vertices, normals, extrinsics, camera.focal))
    except BrokenPipeError as error:  # ffmpeg's own words come after it
        raise StorageError(f"{beside}: ffmpeg cannot write it ({error}). Make room, and start again.") from error
    finally:
        drawn.context.release()
    os.replace(beside, os.path.join(folder, f"{clip_id}.mp4"))
    shown = {
        "positions": truth.float().numpy(),
        "fps": clip.fps,
        "film_fps": rate,
        "extrinsics": camera.extrinsics.float().numpy(),
        "focal": camera.focal,
        "moves": camera.moves,
        "split": SPLITS.index(split),
    }
    content = files.arrays_bytes({name: np.asarray(value, np.float32) for name, value in shown.items()})
    files.write_bytes(os.path.join(folder, f"{clip_id}.npz"), content)


def _worn(person: Body, positions: Tensor, extrinsics: Tensor) -> Iterator[tuple[Any, Any, Any]]:
    """Vertices, normals and camera frame by frame; few frames at a time are in memory."""
    for start in range(0, len(positions), 8):
        rows = slice(start, start + 8)
        yield from zip(*person.wear(positions[rows]), extrinsics[rows].numpy(), strict=True)


def positions_at(positions: Tensor, fps: float, times: NDArray[np.float64]) -> Tensor:
    """Positions [T, J, 3] at other times [S], seconds, on a cubic spline; later than the last frame they stay."""
    spline = require("scipy.interpolate").CubicSpline(np.arange(len(positions)) / fps, positions.numpy(), axis=0)
    return torch.from_numpy(spline(np.minimum(times, (len(positions) - 1) / fps)))


@dataclass(frozen=True)
class Shown:
    """What a film shows: the arrays of its file."""

    positions: Tensor
    extrinsics: Tensor
    fps: float
    film_fps: float
    focal: float
    moves: bool
    split: str

    @classmethod
    def of(cls, film: str) -> "Shown":
        """Of the file beside a film; DatasetError where there is none."""
        place = os.path.splitext(film)[0] + ".npz"
        single = ("fps", "film_fps", "focal", "moves", "split")
        found = files.read_arrays(place, needed=("positions", "extrinsics", *single))
        tensors = {name: torch.from_numpy(np.asarray(found[name])) for name in found}
        numbers = {name: float(tensors[name].sum()) for name in single}
        shapes = tensors["positions"].shape[1:] == (22, 3) and tensors["extrinsics"].shape[1:] == (3, 4)
        alone = all(tensors[name].numel() == 1 for name in single) and tensors["extrinsics"].numel() > 0
        finite = all(bool(torch.isfinite(values).all()) for values in tensors.values())
        rates = min(numbers["fps"], numbers["film_fps"], numbers["focal"]) > 0
        if not (shapes and alone and finite and rates and numbers["split"] in range(len(SPLITS))):
            raise DatasetError(f"{place}: expected what a film shows, found other arrays. Remove it and film it again.")
        moves, split = numbers.pop("moves") > 0, SPLITS[int(numbers.pop("split"))]
        return cls(tensors["positions"], tensors["extrinsics"], moves=moves, split=split, **numbers)

    def camera_at(self, times: NDArray[np.float64]) -> Tensor:
        """Extrinsics [3, 4] of a still camera, or [S, 3, 4] at these times of one that moved."""
        if not self.moves:
            return self.extrinsics[0]
        at = torch.as_tensor(times, dtype=torch.float64) * self.film_fps
        turns, places = self.extrinsics[..., :3].double(), self.extrinsics[..., 3].double()
        return torch.cat((resample_rotations(turns, at), resample(places, at).unsqueeze(-1)), -1).float()


class FilmImporter(VideoImporter):
    """The films of a folder: watched and lifted like any video, with the known focal length; the truth beside."""

    name = "film"
    about = "films made by `videomdm data film`: MediaPipe's keypoints and motion, with the truth beside"
    extras = VideoImporter.extras | {"keypoints": "detected, or true: the truth as the camera sees it"}

    def __init__(self, source: str, options: ImportOptions) -> None:
        place = os.path.join(source, CAPTIONS)
        super().__init__(source, dataclasses.replace(options, captions=options.captions or place))
        self.exact = self.extra("keypoints", "detected", among=("detected", "true")) == "true"

    def _members_of(self, clip_stem: str, path: str, captions: Captions) -> list[Member]:
        shown = Shown.of(path)
        self.moving = shown.moves
        return [dataclasses.replace(m, split=shown.split) for m in super()._members_of(clip_stem, path, captions)]

    def _lens(self, video: Video, size: tuple[int, int], seen: Any, calibration: Calibration | None) -> Lens:
        return lens_of(Shown.of(video.path).focal, size, "given")

    def read(self, member: Member) -> Recording:
        """What the watching gave, beside the true motion and the true camera; keypoints are its own where asked."""
        recording = super().read(member)
        path, number = member.place
        shown, piece = Shown.of(path), self._seen[path].pieces[number]
        times = piece.start + np.arange(len(piece.pixels)) / self.fps
        truth, camera = positions_at(shown.positions, shown.fps, times).float(), shown.camera_at(times)
        recording = dataclasses.replace(recording, truth=truth, truth_extrinsics=camera)
        if not self.exact:
            return recording
        points, _ = project(truth, camera.expand(len(truth), 3, 4))
        return dataclasses.replace(recording, keypoints=points, confidence=torch.ones_like(recording.confidence))
