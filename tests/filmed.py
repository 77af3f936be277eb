"""What a detector would find in a video of a bundled motion: numpy alone, to check the package's geometry by."""

import dataclasses
from dataclasses import dataclass

import numpy as np
from clips import motion
from lifters.tools import into_camera
from people import decoded
from PIL import Image, ImageDraw

from videomdm_ext.data import files
from videomdm_ext.data.film.filming import FilmImporter
from videomdm_ext.data.folder import read_card, read_clip
from videomdm_ext.data.importing import run_import
from videomdm_ext.data.sources.base import ImportOptions
from videomdm_ext.motion.skeletons import SMPL22

SIZE, FOCAL, FPS = (320, 240), 300.0, 25.0
BLAZE = {"shoulder": 11, "elbow": 13, "wrist": 15, "hip": 23, "knee": 25, "ankle": 27}
"""Left joints in BlazePose's order; the right one follows."""
DIRECT = [SMPL22.index(f"{side}_{part}") for side in "lr" for part in BLAZE]
"""Joints of SMPL that detectors see themselves."""
BONES = ((11, 12), (11, 23), (12, 24), (23, 24), (23, 25), (25, 27), (24, 26), (26, 28), (11, 13), (12, 14))


@dataclass(frozen=True)
class Film:
    """times [F]; pixels [F, 33, 2]; visibility [F, 33]; world [F, 33, 3] as MediaPipe gives it; true [F, 22, 3]; and
    the camera, X_c = R X + t."""

    times: np.ndarray
    pixels: np.ndarray
    visibility: np.ndarray
    world: np.ndarray
    true: np.ndarray
    rotation: np.ndarray
    translation: np.ndarray

    @property
    def seen(self) -> np.ndarray:
        """True joints [F, 22, 3] in camera coordinates."""
        return self.true @ self.rotation.T + self.translation

    def at(self, start: float, frames: int) -> np.ndarray:
        """True joints [T, 22, 3] in camera coordinates at 20 frames a second."""
        columns = self.seen.reshape(len(self.times), -1).T
        rows = [np.interp(start + np.arange(frames) / 20, self.times, column) for column in columns]
        return np.stack(rows, 1).reshape(-1, 22, 3)


def in_camera(features, extrinsics) -> np.ndarray:
    """Positions [T, 22, 3] of a clip's features before its camera [3, 4], or those of its frames."""
    return into_camera(decoded(features), extrinsics)


def looking(*, at, distance=5.0, azimuth=25.0, pitch=-10.0, roll=0.0):
    """-> R [3, 3] and t [3] of a camera that looks at a point; degrees, azimuth from +z, a pitch below 0 looks down."""
    a, p, r = np.radians((azimuth, pitch, roll))
    ahead = np.array((-np.sin(a) * np.cos(p), np.sin(p), -np.cos(a) * np.cos(p)))
    right = np.cross(ahead, (0.0, 1.0, 0.0))
    right /= np.linalg.norm(right)
    down = np.cross(ahead, right)
    rows = np.stack((np.cos(r) * right + np.sin(r) * down, np.cos(r) * down - np.sin(r) * right, ahead))
    return rows, -rows @ (np.asarray(at) - distance * ahead)


def film(name="walk", *, noise=0.0, seed=0, **camera) -> Film:
    """A bundled motion at 25 frames a second, seen by a camera, with `noise` metres on the lifted joints."""
    source = motion(name).double().numpy()
    times = np.arange(int((len(source) - 1) / 20 * FPS) + 1) / FPS
    flat = source.reshape(len(source), -1)
    true = np.stack([np.interp(times * 20, np.arange(len(source)), column) for column in flat.T], 1)
    return filmed(true.reshape(-1, 22, 3), noise=noise, seed=seed, **camera)


def filmed(true, *, noise=0.0, seed=0, focal=FOCAL, **camera) -> Film:
    """A motion [F, 22, 3] at 25 frames a second, seen by a camera."""
    rotation, translation = looking(**({"at": true[:, 0].mean(0)} | camera))
    joints = blaze(true) @ rotation.T + translation
    pixels = focal * joints[..., :2] / joints[..., 2:] + np.array(SIZE) / 2
    hips = joints[:, 23:25].mean(1, keepdims=True)
    world = np.stack([straight(h[0]).T @ (j - h).T for j, h in zip(joints, hips, strict=True)]).transpose(0, 2, 1)
    world = world + noise * np.random.default_rng(seed).standard_normal(world.shape)
    times = np.arange(len(true)) / FPS
    return Film(times, pixels, np.full(pixels.shape[:2], 0.95), world, true, rotation, translation)


def brief(whole: Film) -> Film:
    """The first 2.4 seconds of a film."""
    parts = ("times", "pixels", "visibility", "world", "true")
    return dataclasses.replace(whole, **{name: getattr(whole, name)[:60] for name in parts})


def blaze(true):
    """33 joints [F, 33, 3] from SMPL's 22, such that toes, heels and ears lead back to foot and head."""
    joints = np.zeros((len(true), 33, 3))
    for part, index in BLAZE.items():
        for offset, side in enumerate("lr"):
            joints[:, index + offset] = true[:, SMPL22.index(f"{side}_{part}")]
    for offset, side in enumerate("lr"):
        joints[:, [29 + offset, 31 + offset]] = true[:, SMPL22.index(f"{side}_foot")][:, None]
        joints[:, [17 + offset, 19 + offset, 21 + offset]] = true[:, SMPL22.index(f"{side}_wrist")][:, None]
    shoulders = joints[:, 11:13].mean(1)
    joints[:, :11] = (shoulders + (true[:, SMPL22.index("head")] - shoulders) / 0.8)[:, None]
    return joints


def straight(point):
    """The smallest rotation from the viewing axis to the ray of a point, by Rodrigues' formula."""
    ray = point / np.linalg.norm(point)
    x, y, _ = np.cross((0.0, 0.0, 1.0), ray)
    cross = np.array(((0, 0, y), (0, 0, -x), (-y, x, 0)))
    return np.eye(3) + cross + cross @ cross / (1 + ray[2])


def write_gif(path, film: Film) -> None:
    """A video of a stick figure, 40 milliseconds a frame."""
    pictures = []
    for number, points in enumerate(film.pixels):
        picture = Image.new("P", SIZE)
        picture.putpalette((200, 210, 190, 30, 30, 60, 255, 0, 0))
        draw = ImageDraw.Draw(picture)
        for a, b in BONES:
            draw.line([tuple(points[a]), tuple(points[b])], fill=1, width=4)
        draw.rectangle((number % 300, 0, number % 300 + 3, 3), fill=2)  # no two frames are equal
        pictures.append(picture)
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=40, loop=0)


def write_detections(path, film: Film, **changes) -> None:
    """The film as the format blazepose."""
    arrays = {"pixels": film.pixels, "visibility": film.visibility, "world": film.world, "times": film.times} | changes
    np.savez(path, **{name: values.astype(np.float32) for name, values in arrays.items()})


def write_source(root, films: dict[str, Film]):
    """Videos, detections and captions below `root`. -> folder of videos, folder of detections, captions file."""
    videos, found, captions = root / "videos", root / "found", root / "captions.txt"
    for folder in (videos, found):
        folder.mkdir(parents=True)
    for name, one in films.items():
        write_gif(videos / f"{name}.gif", one)
        write_detections(found / f"{name}.npz", one)
    captions.write_text("".join(f"{name}\ta person moves.\n" for name in films), encoding="utf-8")
    return videos, found, captions


def write_film_set(root, *, moves=False, **extra):
    """A film of known motion below ROOT/films and the data set of it in ROOT/out. -> its card and its clip"""
    one = film("walk")
    videos, found, captions = write_source(root, {"clip": one})
    videos = videos.rename(root / "films")
    captions.rename(videos / "captions.tsv")
    source = motion("walk").float()
    extrinsics = np.concatenate([one.rotation, one.translation[:, None]], 1).astype(np.float32)
    shown = {
        "positions": source.numpy(),
        "fps": 20.0,
        "film_fps": 25.0,
        "extrinsics": np.broadcast_to(extrinsics, (len(one.times), 3, 4)),
        "focal": FOCAL,
        "moves": float(moves),
        "split": 0.0,
    }
    arrays = {name: np.array(value, np.float32) for name, value in shown.items()}
    files.write_bytes(str(videos / "clip.npz"), files.arrays_bytes(arrays))
    made = FilmImporter(str(videos), ImportOptions(extra={"detections": str(found), "format": "blazepose"} | extra))
    run_import(made, str(root / "out"))
    card = read_card(str(root / "out"))
    return card, read_clip(str(root / "out"), card, "clip_0")
