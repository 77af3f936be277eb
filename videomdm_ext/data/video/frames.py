"""What is read of a video: its frames with their times, and the lens and place of calibrated cameras.

Frames come through the ffmpeg that imageio-ffmpeg brings (extra `video`). It turns pictures upright as the file says,
stretches those whose pixels are not square, and gives frames at an even rate by their time stamps, so that frame k
shows the time k / fps also where the file's own rate varies; `frame_times` has the file's own times, for what another
tool counted. GIF files are read by Pillow, with their own times. Where shots begin is told by PySceneDetect.

Calibrations are Pose2Sim's toml, a table a camera with name, size [width, height], matrix [3, 3], distortions (k1, k2,
p1, p2, perhaps k3), rotation (a rotation vector) and translation, X_camera = R X + t, metres; and Qualisys's qca.txt:
XML; intrinsics in 64ths of a pixel, the place in millimetres, axes of the camera x right, y up, z backwards. In both
the world's z is up.
"""

import itertools
import logging
import math
import os
import re
import subprocess
import tomllib
import xml.etree.ElementTree as ElementTree
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from videomdm_ext.data import files
from videomdm_ext.errors import DatasetError, counted, optional
from videomdm_ext.geometry.rotations import roma

Numbers = NDArray[np.float64]
Picture = NDArray[np.uint8]  # [height, width, 3], red, green and blue
ENDINGS = (
    *(".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".gif", ".mts", ".m2ts", ".ts", ".3gp"),
    *(".3g2", ".flv", ".f4v", ".ogv", ".vob", ".dv", ".mxf", ".asf", ".m2v", ".mod", ".tod"),
)
FASTEST = 60.0  # frames per second that are looked at; of faster videos some are left out
LARGEST_SIDE = 1920  # pixels; larger pictures are scaled down
WIDEST = 16384  # pixels; nothing that declares more is opened
SQUARE, LONGEST_PIXEL = 0.005, 4.0  # pixels count as square within so much; nothing films with longer ones


@dataclass(frozen=True)
class Video:
    """What a file declares: frames per second and seconds, width and height in pixels.

    `size` is that of the pictures that `frames` gives, `stored_size` that of the file's own, upright. The two differ in
    shape where the file's pixels are not square, and in scale where it is larger than LARGEST_SIDE.
    """

    path: str
    fps: float
    size: tuple[int, int]
    seconds: float
    stored_size: tuple[int, int]

    @property
    def scale(self) -> Numbers:
        """Pixels [2] along x and y of a picture of `size` per stored one."""
        return np.array(self.size) / np.array(self.stored_size)

    @property
    def count(self) -> int:
        """About how many frames there are."""
        return max(1, round(self.seconds * self.fps))


def require(module: str) -> Any:
    """A module of the extra `video`."""
    return optional(module, user="videos", extra="video")


def open_video(path: str) -> Video:
    """Look at a file without decoding it all. DatasetError where it is no video."""
    if not os.path.isfile(path):
        raise DatasetError(f"{path}: expected a video file, found none. Correct the path.")
    if os.path.getsize(path) == 0:
        raise _refused(path, "an empty file")
    if path.lower().endswith(".gif"):
        return _open_gif(path)
    reader = _reader(path, [], [])
    try:
        meta: dict[str, Any] = next(reader)
    except (OSError, RuntimeError, StopIteration, ValueError, IndexError, KeyError) as error:
        raise _refused(path, "none that ffmpeg can read") from error
    finally:
        reader.close()
    width, height = meta.get("size", (0, 0))
    fps, seconds = float(meta.get("fps") or 0.0), float(meta.get("duration") or 0.0)
    if not (0 < width <= WIDEST and 0 < height <= WIDEST):
        raise _refused(path, f"{width} x {height} pixels")
    declared = fps > 0 and seconds > 0
    aspect, times = _probe(path, *(("-frames:v", "1") if declared else ()))
    if not declared and len(times) > 1 and times[-1] > times[0]:  # a stream that is cut out of a broadcast
        fps = (len(times) - 1) / float(times[-1] - times[0])
        seconds = float(times[-1]) + 1 / fps
    if not fps > 0:
        raise _refused(path, f"{counted(len(times), 'frame')} without a rate")
    wide, tall = width * max(aspect, 1.0), height / min(aspect, 1.0)
    scale = min(1.0, LARGEST_SIDE / max(wide, tall))
    return Video(path, min(fps, FASTEST), (round(wide * scale), round(tall * scale)), seconds, (width, height))


def frame_times(video: Video) -> Numbers:
    """When each frame that a file stores is shown, in seconds, rising [F]; another tool's frame k is the k-th."""
    if video.path.lower().endswith(".gif"):
        with require("PIL.Image").open(video.path) as image:
            return np.array(list(_gif_times(image)))
    _, times = _probe(video.path)
    if len(times) == 0:
        raise _refused(video.path, "no frame")
    return np.maximum.accumulate(times) + 1e-9 * np.arange(len(times))  # some files repeat a time


def _probe(path: str, *limit: str) -> tuple[float, Numbers]:
    """Width over height of a file's pixels, upright, and the time in seconds of each frame that it stores [F]."""
    program = require("imageio_ffmpeg").get_ffmpeg_exe()
    words = ["-v", "quiet", "-protocol_whitelist", "file,pipe", "-i", "file:" + os.path.abspath(path), "-map", "0:v:0"]
    words += [*limit, "-fps_mode", "passthrough", "-enc_time_base", "demux", "-c:v", "wrapped_avframe"]
    done = subprocess.run([program, *words, "-f", "framecrc", "-"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    text = done.stdout.decode("ascii", "replace")
    facts = {key: int(a) / max(int(b), 1) for key, a, b in re.findall(r"^#(tb|sar) 0: (\d+)/(\d+)", text, re.MULTILINE)}
    aspect = facts.get("sar", 1.0)
    if abs(aspect - 1) < SQUARE or not 1 / LONGEST_PIXEL <= aspect <= LONGEST_PIXEL:
        aspect = 1.0
    ticks = re.findall(r"^0, +-?\d+, +(-?\d+),", text, re.MULTILINE)
    return aspect, np.array(ticks, dtype=np.float64) * facts.get("tb", 0.0)


def frames(video: Video, start: float = 0.0, stop: float = float("inf")) -> Iterator[tuple[float, Picture]]:
    """Times in seconds and pictures, in order, from `start` up to before `stop`. DatasetError where it breaks off."""
    is_gif = video.path.lower().endswith(".gif")
    for time, picture in _gif_frames(video) if is_gif else _ffmpeg_frames(video, start):
        if time >= stop:
            return
        if time >= start - 1e-6:
            yield time, picture


def frames_at(video: Video, times: Numbers) -> Iterator[Picture]:
    """The picture that is nearest to each of some rising times, seconds; none for those behind the video's end."""
    done = 0
    for time, picture in frames(video, max(0.0, times[0] - 1.0), times[-1] + 1.0):
        while done < len(times) and time >= times[done] - 0.5 / video.fps:
            yield picture
            done += 1
        if done == len(times):
            return


def _reader(path: str, before: list[str], after: list[str]) -> Any:
    """imageio-ffmpeg's generator: facts first, then the bytes of each frame. Only plain local files are opened."""
    logging.getLogger("imageio_ffmpeg").setLevel(logging.ERROR)  # it warns of every picture that it turns
    source = "file:" + os.path.abspath(path)
    safe = ["-protocol_whitelist", "file", *before]
    return require("imageio_ffmpeg").read_frames(source, pix_fmt="rgb24", input_params=safe, output_params=after)


def _ffmpeg_frames(video: Video, start: float) -> Iterator[tuple[float, Picture]]:
    first = max(0, int(start * video.fps) - 1)
    width, height = video.size
    jump = ["-ss", f"{first / video.fps:.6f}"] if first else []
    reader = _reader(video.path, jump, ["-vf", f"fps={video.fps:.6f},scale={width}:{height}"])
    try:
        next(reader)
        for number in itertools.count(first):
            content = next(reader, None)
            if content is None:
                return
            yield number / video.fps, np.frombuffer(content, np.uint8).reshape(height, width, 3)
    except (OSError, RuntimeError, ValueError) as error:
        raise _refused(video.path, f"one that breaks off ({str(error).strip().splitlines()[-1][:80]})") from error
    finally:
        reader.close()


def _open_gif(path: str) -> Video:
    try:
        with require("PIL.Image").open(path) as image:
            times, size = list(_gif_times(image)), image.size
    except (OSError, ValueError, EOFError) as error:
        raise _refused(path, "none that Pillow can read") from error
    if len(times) < 2 or max(size) > WIDEST:
        raise _refused(path, f"{len(times)} frames of {size[0]} x {size[1]} pixels")
    seconds = times[-1] * len(times) / (len(times) - 1)
    return Video(path, (len(times) - 1) / times[-1], size, seconds, size)


def _gif_times(image: Any) -> Iterator[float]:
    """When each frame begins; a GIF without times runs at 10 frames per second."""
    time = 0.0
    for number in range(image.n_frames):
        image.seek(number)
        yield time
        time += (image.info.get("duration") or 100) / 1000


def _gif_frames(video: Video) -> Iterator[tuple[float, Picture]]:
    with require("PIL.Image").open(video.path) as image:
        for time in _gif_times(image):
            yield time, np.asarray(image.convert("RGB"))


def _refused(path: str, found: str) -> DatasetError:
    return DatasetError(f"{path}: expected a video, found {found}. Leave it out, or convert it to mp4.")


SHARPEST = 4.2  # times the neighbours' change that a cut's is at least: two flashes beside each other reach 4
LEAST = 10.0  # change of hue, saturation and brightness at a cut, mean over the pixels, of 255
WINDOW = 2  # frames on either side that a change is compared with
SIDE = 256  # pixels that the longer side is thinned to, about
REPEATED = 12  # equal frames that are skipped at most: of an uneven or low rate some stand for time alone


def shots(pictures: Iterable[tuple[float, Picture]]) -> Iterator[tuple[float, Picture, bool]]:
    """Times and pictures with whether a shot begins there; a few are held back until that is known (extra `video`)."""
    detector = require("scenedetect").AdaptiveDetector(
        adaptive_threshold=SHARPEST, min_content_val=LEAST, window_width=WINDOW, min_scene_len=1
    )
    held = deque[tuple[float, Picture, int]]()
    before, number, same = None, -1, 0
    begins = set[int]()  # numbers of the frames that the detector was shown
    for time, picture in pictures:
        small = picture[(step := slice(None, None, max(1, max(picture.shape[:2]) // SIDE))), step, ::-1]
        same = same + 1 if before is not None and np.array_equal(small, before) else 0
        if same % (REPEATED + 1) == 0:
            before, number = small, number + 1
            begins.update(detector.process_frame(number, np.ascontiguousarray(small)))
        held.append((time, picture, number))
        while held[0][2] <= number - WINDOW:
            yield *held[0][:2], held[0][2] in begins
            begins.discard(held.popleft()[2])  # of frames that are repeated the first one begins the shot
    for time, picture, number in held:
        yield time, picture, number in begins
        begins.discard(number)


LIMIT = 1 << 20  # bytes of a calibration file


@dataclass(frozen=True)
class Calibration:
    """One camera: intrinsics [3, 3] in pixels of a picture of `size`, distortion (k1, k2, p1, p2, k3) [5].

    extrinsics [3, 4] of a world with z up, metres, or None where the file holds the lens alone. All float64.
    """

    name: str
    size: tuple[int, int]
    intrinsics: Tensor
    distortion: Tensor
    extrinsics: Tensor | None

    @property
    def up(self) -> Tensor | None:
        """The direction up [3] in camera coordinates, where it is known."""
        return None if self.extrinsics is None else self.extrinsics[:, 2]

    def scaled(self, size: tuple[int, int]) -> Tensor:
        """Intrinsics for a picture of another size. A few pixels of difference are a cut edge, not a scale."""
        scale = [given / own for given, own in zip(size, self.size, strict=True)]
        if all(abs(given - own) <= 16 for given, own in zip(size, self.size, strict=True)):
            scale = [1.0, 1.0]
        if abs(scale[0] / scale[1] - 1) > 0.02:
            raise DatasetError(
                f"camera {self.name}: expected pictures of {self.size[0]} x {self.size[1]} or that shape, found "
                f"{size[0]} x {size[1]}. Name the calibration of this video."
            )
        return torch.diag(torch.tensor([*scale, 1.0], dtype=torch.float64)) @ self.intrinsics


def read_calibration(path: str) -> dict[str, Calibration]:
    """Cameras by name. DatasetError where the file has none."""
    text = files.read_text(path, limit=LIMIT)
    try:
        found = _from_qca(text) if text.lstrip().startswith("<") else _from_toml(text)
    except (ValueError, KeyError, TypeError, IndexError, ElementTree.ParseError, RuntimeError) as error:
        raise DatasetError(
            f"{path}: expected a calibration (Pose2Sim's toml, or Qualisys's qca.txt), found something else ({error}). "
            "Name another file, or give --focal."
        ) from error
    sane = bool(found)
    for camera in found.values():
        parts = [camera.intrinsics, camera.distortion, *([] if camera.extrinsics is None else [camera.extrinsics])]
        sane &= min(camera.size) > 0 and bool((camera.intrinsics.diagonal() > 0).all())
        sane &= all(bool(torch.isfinite(part).all()) for part in parts)
    if not sane:
        raise DatasetError(f"{path}: expected cameras with a focal length and a size, found none. Correct the file.")
    return found


def camera_of(cameras: dict[str, Calibration], video: str, path: str) -> Calibration:
    """The camera of a video: the only one, or that whose name or number the video's name has."""
    if len(cameras) == 1:
        return next(iter(cameras.values()))
    numbers = [digits[-1].lstrip("0") if (digits := re.findall(r"\d+", n)) else "" for n in (video, *cameras)]
    for (name, camera), number in zip(cameras.items(), numbers[1:], strict=True):
        if name.lower() in video.lower() or number == numbers[0] != "":
            return camera
    raise DatasetError(
        f"{path}: expected a camera for the video {video}, found {', '.join(cameras)}. Name the video after its camera."
    )


def _numbers(values: Any, *shape: int) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).reshape(shape)


def _from_toml(text: str) -> dict[str, Calibration]:
    found = {}
    for key, table in tomllib.loads(text).items():
        if not isinstance(table, dict) or "matrix" not in table:
            continue
        if table.get("fisheye"):
            raise ValueError("a fisheye lens, which is not supported")
        distortion = [float(value) for value in table.get("distortions", ())][:5]
        extrinsics = None
        if "rotation" in table and "translation" in table:
            rotation = roma.rotvec_to_rotmat(_numbers(table["rotation"], 3))
            extrinsics = torch.cat((rotation, _numbers(table["translation"], 3, 1)), 1)
        width, height = (round(float(value)) for value in table["size"])
        name = str(table.get("name", key))
        padded = _numbers(distortion + [0.0] * (5 - len(distortion)), 5)
        found[name] = Calibration(name, (width, height), _numbers(table["matrix"], 3, 3), padded, extrinsics)
    return found


def _from_qca(text: str) -> dict[str, Calibration]:
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError("it declares entities")
    found: dict[str, Calibration] = {}
    for camera in ElementTree.fromstring(text).iter("camera"):
        lens, place = camera.find("intrinsic"), camera.find("transform")
        picture = camera.find("fov_video")
        if lens is None or place is None or picture is None:
            raise ValueError("a camera without intrinsic, transform or fov_video")
        edges = {side: int(picture.attrib[side]) for side in ("left", "right", "top", "bottom")}
        size = edges["right"] - edges["left"] + 1, edges["bottom"] - edges["top"] + 1
        name = camera.attrib.get("serial", str(len(found)))
        bent = ("radialDistortion1", "radialDistortion2", "tangentalDistortion1", "tangentalDistortion2")
        distortion = [float(lens.attrib[key]) for key in (*bent, "radialDistortion3")]
        optics = [f"{kind}{axis}" for kind in ("focalLength", "centerPoint") for axis in "UV"]
        fu, fv, cu, cv = (float(lens.attrib[key]) / 64 for key in optics)
        if not math.isfinite(fu * fv):
            raise ValueError("a focal length that is no number")
        matrix = _numbers([fu, 0, cu, 0, fv, cv, 0, 0, 1], 3, 3)
        rows = [float(place.attrib[f"r{i}{j}"]) for i in (1, 2, 3) for j in (1, 2, 3)]
        rotation = torch.diag(_numbers([1, -1, -1], 3)) @ _numbers(rows, 3, 3)
        centre = _numbers([float(place.attrib[axis]) / 1000 for axis in "xyz"], 3, 1)
        extrinsics = torch.cat((rotation, -rotation @ centre), 1)
        found[name] = Calibration(name, size, matrix, _numbers(distortion, 5), extrinsics)
    return found
