"""Frames of video files with their times, through the ffmpeg that imageio-ffmpeg brings (extra `video`).

ffmpeg turns pictures upright as the file says, and gives frames at an even rate by their time stamps, so that frame k
shows the time k / fps also where the file's own rate varies. GIF files are read by Pillow, with their own times.
"""

import importlib
import itertools
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from videomdm_ext.errors import DatasetError, VideoMDMError

Picture = NDArray[np.uint8]  # [height, width, 3], red, green and blue
ENDINGS = (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".gif")
FASTEST = 60.0  # frames per second that are looked at; of faster videos some are left out
LARGEST_SIDE = 1920  # pixels; larger pictures are scaled down
WIDEST = 16384  # pixels; nothing that declares more is opened


@dataclass(frozen=True)
class Video:
    """What a file declares: frames per second and seconds, width and height in pixels.

    `size` is that of the pictures that `frames` gives, `whole_size` the file's own.
    """

    path: str
    fps: float
    size: tuple[int, int]
    seconds: float
    whole_size: tuple[int, int]

    @property
    def count(self) -> int:
        """About how many frames there are."""
        return max(1, round(self.seconds * self.fps))


def require(module: str) -> Any:
    """The optional module, or an error that names the extra it comes with."""
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:
        raise VideoMDMError(
            f"videos: expected the package {module}, found none that works ({error}). Install the extra: "
            'pip install -e ".[video]" -c constraints.txt; on Debian also the packages libgl1 and libglib2.0-0'
        ) from error


def open_video(path: str) -> Video:
    """Look at a file without decoding it all. DatasetError where it is no video."""
    if not os.path.isfile(path):
        raise DatasetError(f"{path}: expected a video file, found none. Correct the path.")
    if os.path.getsize(path) == 0:
        raise _refused(path, "an empty file")
    if path.lower().endswith(".gif"):
        return _open_gif(path)
    meta = _meta(path)
    width, height = meta.get("size", (0, 0))
    fps, seconds = float(meta.get("fps") or 0.0), float(meta.get("duration") or 0.0)
    if not (0 < width <= WIDEST and 0 < height <= WIDEST and fps > 0):
        raise _refused(path, f"{width} x {height} pixels at {fps:g} frames per second")
    scale = min(1.0, LARGEST_SIDE / max(width, height))
    size = round(width * scale), round(height * scale)
    return Video(path, min(fps, FASTEST), size, seconds, (width, height))


def frames(video: Video, start: float = 0.0, stop: float = float("inf")) -> Iterator[tuple[float, Picture]]:
    """Times in seconds and pictures, in order, from `start` up to before `stop`. DatasetError where it breaks off."""
    is_gif = video.path.lower().endswith(".gif")
    for time, picture in _gif_frames(video) if is_gif else _ffmpeg_frames(video, start):
        if time >= stop:
            return
        if time >= start - 1e-6:
            yield time, picture


def _meta(path: str) -> dict[str, Any]:
    """What ffmpeg reports of a file."""
    reader = _reader(path, [], [])
    try:
        meta: dict[str, Any] = next(reader)
    except (OSError, RuntimeError, StopIteration, ValueError, IndexError, KeyError) as error:
        raise _refused(path, "none that ffmpeg can read") from error
    finally:
        reader.close()
    return meta


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
