"""How the samples of a demo walk: python docs/measure_walks.py runs/demo [...], the folders of one or more demos.

From each training 64 motions of "a person walks forward." are sampled. Speed is the way of the root from the first
frame to the last over the time, steps a second how often the ankles pass each other by HYSTERESIS, a step's length how
far they then are apart (medians over samples, of steps the mean); foot skating as in every report. All are shares of
the mean over every window of the true walk's clips that is as long. A training walks if its speed and its steps are
within NEAR of the truth's and it skates at most SKATING times as fast.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from videomdm_ext.bench.plan import read_plan
from videomdm_ext.data.folder import read_folder
from videomdm_ext.errors import DatasetError, VideoMDMError
from videomdm_ext.inference import sample as sampling
from videomdm_ext.mdm import checkout
from videomdm_ext.motion.features import decode
from videomdm_ext.motion.measures import foot_skating
from videomdm_ext.motion.skeletons import SMPL22

CAPTION, SAMPLES = "a person walks forward.", 64
HYSTERESIS = 0.06
"""How far an ankle is before the other one, m, when it has passed it."""
STANDS = 0.4
"""Speed, m/s, under which "forward" is where the hips face."""
NEAR, SKATING = 0.3, 1.5
LEFT, RIGHT = (SMPL22.index(f"{side}_ankle") for side in "lr")
HIPS = [SMPL22.index(f"{side}_hip") for side in "lr"]


def figures(motion: Tensor, fps: float) -> list[float]:
    """Speed, steps a second, a step's length and foot skating of positions [T, 22, 3]."""
    seconds = (len(motion) - 1) / fps
    ground = motion[..., [0, 2]]
    way = ground[-1, 0] - ground[0, 0]
    speed = float(way.norm()) / seconds
    hips = ground[:, HIPS[0]] - ground[:, HIPS[1]]
    ahead = way.expand_as(hips) if speed > STANDS else torch.stack((-hips[:, 1], hips[:, 0]), -1)
    ahead = torch.nn.functional.normalize(ahead, dim=-1)
    apart = ((ground[:, LEFT] - ground[:, RIGHT]) * ahead).sum(-1)
    lengths: list[float] = []
    before = 0
    for value in np.convolve(np.pad(apart.numpy(), 1, mode="edge"), (0.25, 0.5, 0.25), mode="valid").tolist():
        side = int(value > HYSTERESIS) - int(value < -HYSTERESIS)
        if side and side != before:
            before = side
            lengths.append(0.0)
        if before:
            lengths[-1] = max(lengths[-1], value * before)
    whole = lengths[1:-1] if len(lengths) > 2 else lengths or [0.0]  # the window may cut the first and the last
    return [speed, max(len(lengths) - 1, 0) / seconds, float(np.mean(whole)), float(foot_skating(motion, SMPL22, fps))]


def together(rows: Sequence[list[float]]) -> list[float]:
    """Of many motions: medians, of steps a second the mean, as they are few and whole."""
    middle = np.median(rows, axis=0)
    middle[1] = np.mean(rows, axis=0)[1]
    return list(middle)


def measured(bench: Path) -> None:
    """Print a row for each training of a demo."""
    plan = read_plan(bench)
    card, clips = read_folder(plan.clips, "train")
    true = [clip.truth for clip in clips if CAPTION in clip.texts and clip.truth is not None]
    if not true:
        raise DatasetError(
            f"{plan.clips}: expected training clips with the caption {CAPTION!r} and a truth, found none. Give a demo."
        )
    walks = [decode(torch.from_numpy(motion), SMPL22) for motion in true]
    frames = min(plan.crop_frames, *map(len, walks))
    windows = [walk[start : start + frames] for walk in walks for start in range(len(walk) - frames + 1)]
    truth = np.mean([figures(window, card.fps) for window in windows], axis=0)
    print(f"{bench}: truth {truth[0]:.2f} m/s, {truth[1]:.2f} steps/s of {truth[2]:.2f} m, skating {truth[3]:.2f} m/s")
    for run in plan.runs():
        trained = sampling.load(checkout.choose(""), run.checkpoint(bench), clips=plan.clips)
        motions = sampling.sample(trained, [(CAPTION, frames)] * SAMPLES, seed=run.seed)
        shares = together([figures(motion, card.fps) for motion in motions]) / truth
        walking = max(abs(shares[:2] - 1)) <= NEAR and shares[3] <= SKATING
        print(f"{run.name:12}", *(f"{share:5.2f}" for share in shares), "walks" if walking else "", flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(f"{sys.argv[0]}: expected the folder of a demo, found nothing. Name it.")
    print("training     speed steps length skating")
    try:
        for word in sys.argv[1:]:
            measured(Path(word))
    except VideoMDMError as error:
        sys.exit(f"error: {error}")
