"""A data set and a plan that take seconds, for tests of the bench."""

import dataclasses
from pathlib import Path
from typing import Any

from clips import make_clip

from videomdm_ext.bench.plan import DEMO, Plan
from videomdm_ext.data.building import write_folder
from videomdm_ext.data.folder import Card

CARD = Card(
    name="a few", skeleton="smpl22", fps=20.0, lifter="bent", licence="zlib", sources=("a source",),
    lifter_error={"mpjpe": 0.1, "root_aligned_mpjpe": 0.05, "pa_mpjpe": 0.04, "bone_wander": 0.02},
)  # fmt: skip
TRAIN = ("dance_a", "walk", "jump", "punch")


def write_set(folder: Path) -> Card:
    """-> the card of a set with four training clips, three for validation, one for test."""
    train = [make_clip(name=name, texts=(f"to {name}", f"to {name} again")) for name in TRAIN]
    val = [make_clip(name="dance_b", id=f"val{number}_0", texts=(f"to dance {number}",)) for number in range(3)]
    return write_folder(
        str(folder), {"train": train, "val": val, "test": [make_clip(name="dance_b", texts=("to dance",))]}, CARD
    )


def make_plan(folder: Path, content: str = "", **changes: Any) -> Plan:
    """-> a plan on a set, which is written without `content`: arms without refined teachers, a seed, 2 replications."""
    plan = dataclasses.replace(
        DEMO, clips=str(folder), content=content or write_set(folder).content_hash, arms=("3d", "lifted"),
        text_features="words", seeds=1, steps=60, batch_size=4,
        crop_frames=16, latent_dim=16, layers=1, ff_size=16, diffusion_steps=4, adam_beta2=0.999,
        samples=6, replications=2, windows=2,
    )  # fmt: skip
    return dataclasses.replace(plan, **changes)
