"""What tests have other processes do, which find it by its name."""

import os
import signal
import time
from pathlib import Path
from typing import Any

from videomdm_ext.data.video.importer import VideoImporter
from videomdm_ext.errors import DatasetError


class SlowImporter(VideoImporter):
    """With `seconds` it takes these for a video, and tells whose process does it in OUT/NAME.begun until the end."""

    seconds = 0.0

    def _members_of(self, clip_stem: str, path: str, captions: Any) -> Any:
        if not self.seconds:
            return super()._members_of(clip_stem, path, captions)
        begun = Path(self.cache).parent / f"{clip_stem}.begun"
        begun.write_text(str(os.getpid()))
        time.sleep(self.seconds)
        found = super()._members_of(clip_stem, path, captions)
        begun.unlink()
        return found


def count(folder: str, number: int) -> int:
    """Leave a file; the first takes longer than the others."""
    Path(folder, str(number)).touch()
    time.sleep(0.0 if number else 1.0)
    return number


def write_on(folder: str) -> None:
    """Write a file that is named after this process again and again, without end."""
    while True:
        Path(folder, str(os.getpid())).write_text(str(time.monotonic()), encoding="utf-8")
        time.sleep(0.02)


def die() -> None:
    """End as a process does that is killed."""
    os.kill(os.getpid(), signal.SIGKILL)


def refuse() -> None:
    """Raise what a person can put right."""
    raise DatasetError("clip: expected one, found none. Make it.")


def gpus() -> list[str]:
    """-> the GPUs that Ray lets this process have"""
    import ray

    return list(ray.get_runtime_context().get_accelerator_ids()["GPU"])
