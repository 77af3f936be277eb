"""A small data set of known motions: cuts of real ones, each with the caption of what is done in it."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
import torch

from videomdm_ext.bench.evaluators.base import Ground
from videomdm_ext.data.building import write_folder
from videomdm_ext.data.clip import Clip
from videomdm_ext.data.folder import Card
from videomdm_ext.data.motions import load_motions, mirrored, time_scaled
from videomdm_ext.geometry.cameras import orbit
from videomdm_ext.motion.features import encode
from videomdm_ext.motion.kinematics import canonicalise
from videomdm_ext.motion.skeletons import SMPL22

CARD = Card(name="known", skeleton="smpl22", fps=20.0, lifter="none", licence="zlib", sources=("bundled motion",))
DONE = ("cartwheel", "crawl", "kick", "punch", "roll", "walk")
Write = Callable[..., Ground]


def known_clip(clip_id: str, positions: np.ndarray, texts: Sequence[str]) -> Clip:
    """-> a clip of motion that is known as it is, from the first frame on in its own frame."""
    moved, _, _ = canonicalise(torch.from_numpy(positions), SMPL22)
    features = encode(moved, SMPL22)[:-1].numpy()
    camera = orbit(*torch.tensor((0.7, 0.2, 6.0)), torch.tensor((0.0, 0.9, 0.0))).numpy()
    nothing = np.zeros((len(features), 22, 2), dtype=np.float32)
    return Clip(
        id=clip_id,
        fps=20.0,
        skeleton=SMPL22,
        teacher=features,
        keypoints=nothing,
        confidence=nothing[..., 0],
        extrinsics=camera,
        texts=tuple(texts),
        truth=features,
        truth_extrinsics=camera,
    )


def known_clips(factors: Sequence[float]) -> list[Clip]:
    """-> every motion of DONE and its mirror image in each duration, with captions that name it and the side."""
    clips = []
    for motion in (motion for motion in load_motions() if motion.name in DONE):
        for side, seen in zip(("left", "right"), (motion, mirrored(motion)), strict=True):
            for factor in factors:
                positions = time_scaled(seen, factor).positions[:33]
                texts = [f"a person does a {motion.name} to the {side}.", f"a {motion.name}, {side}."]
                clips.append(known_clip(f"{motion.name}_{side}_{round(100 * factor)}", positions, texts))
    return clips


@pytest.fixture(scope="session")
def known_splits() -> dict[str, list[Clip]]:
    return {"train": known_clips((0.9, 1.0, 1.1)), "test": known_clips((0.95, 1.05))}


@pytest.fixture(scope="session")
def write_ground(tmp_path_factory: pytest.TempPathFactory) -> Write:
    """-> writes clips by split as a new data set, and gives the ground for an evaluator, with a cache of its own."""

    def write(clips: Mapping[str, Sequence[Clip]], text_features: str = "words") -> Ground:
        folder = tmp_path_factory.mktemp("ground")
        card = write_folder(str(folder / "set"), clips, CARD)
        return Ground(str(folder / "set"), card, folder / "cache", text_features)

    return write


@pytest.fixture(scope="session")
def few_splits(known_splits: dict[str, list[Clip]]) -> dict[str, list[Clip]]:
    """The same with a quarter of the clips."""
    return {split: clips[::4] for split, clips in known_splits.items()}
