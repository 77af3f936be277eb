"""Where the shots of a video begin, by PySceneDetect's adaptive detector (extra `video`)."""

from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np

from videomdm_ext.data.video.frames import Picture, require

SHARPEST = 4.2  # times the neighbours' change that a cut's is at least: two flashes beside each other reach 4
LEAST = 10.0  # change of hue, saturation and brightness at a cut, mean over the pixels, of 255
WINDOW = 2  # frames on either side that a change is compared with
SIDE = 256  # pixels that the longer side is thinned to, about
REPEATED = 12  # equal frames that are skipped at most: of an uneven or low rate some stand for time alone


def shots(pictures: Iterable[tuple[float, Picture]]) -> Iterator[tuple[float, Picture, bool]]:
    """Times and pictures with whether a shot begins there; a few are held back until that is known."""
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
