"""The demo on real videos: four views of one person, each made into a clip by itself; then all four tell the truth.

Every view goes through the importer of videos with its lens alone. A 3D arm (on the lifted motion) and the 2D arm are
trained for a short time on these clips. The motion that all four calibrated views triangulate, which no training saw,
judges what each view's lifter, refinement and denoisers say. The videos come with the wheels of Pose2Sim and Sports2D.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from videomdm_ext.bench import comparison, sampling
from videomdm_ext.bench.comparison import Plan, Run
from videomdm_ext.bench.video_demo_judging import TrueMotion, judge, true_motion, watched
from videomdm_ext.bench.video_demo_report import About, Row, write_report
from videomdm_ext.bench.video_demo_sources import Sources, find_wheels, lay_out
from videomdm_ext.data import files
from videomdm_ext.data.batch import Crop, collate, crop, tensor_of
from videomdm_ext.data.card import Card
from videomdm_ext.data.importing import run_import
from videomdm_ext.data.sources.base import ImportOptions, Member
from videomdm_ext.data.video.importer import VideoImporter, Watching
from videomdm_ext.geometry.cameras import to_camera
from videomdm_ext.mdm import checkout
from videomdm_ext.motion.features import decode
from videomdm_ext.supervision.unrolling import noised

ARMS = ("lifted", "2d")
NOISED_TO = 0.1
"""Share of the schedule to which clips are noised before a denoiser says what they are."""
DRAWS = 8
"""Draws of noise of which it says the mean."""


@dataclass(frozen=True)
class VideoDemo:
    """What came out: the report's place, a row a view and source of depth, the data set's card, the true motion."""

    report: Path
    rows: tuple[Row, ...]
    card: Card
    truth: TrueMotion


def run_video_demo(
    out: Path,
    sources: Sources | None = None,
    *,
    steps: int,
    workers: int = 2,
    watching: Watching | None = None,
    refining: Callable[[int, int], None] | None = None,
    training: Callable[[Mapping[str, int]], None] | None = None,
) -> VideoDemo:
    """All of it, of the installed wheels' videos where no `sources` are given; started again, it goes on.

    The callbacks hear of frames of a video, of clips, of steps of each run.
    """
    files.check_writable(str(out))
    sources = sources or find_wheels()
    importer, card = make_clips(sources, out, watching)
    batch = min(8, card.counts["train"])
    plan = Plan(str(out / "data"), card.content_hash, arms=ARMS, seeds=1, steps=steps, crop_frames=48, batch_size=batch)
    comparison.prepare(plan, out, refining)
    comparison.execute(plan, out, workers=workers, watch=training or (lambda done: None), finish=say)
    truth = true_motion(sources, out)
    rows, shown = judge(plan, out, _places(importer), truth)
    place = write_report(out, rows, shown, About(steps, card, truth.summary, _told(importer, truth)))
    return VideoDemo(place, tuple(rows), card, truth)


class _TrainingOnly(VideoImporter):
    """All clips are trained on: they are judged by other views' keypoints, which no training sees."""

    def members(self) -> Sequence[Member]:
        return [dataclasses.replace(member, split="train") for member in super().members()]


def make_clips(sources: Sources, out: Path, watching: Watching | None = None) -> tuple[VideoImporter, Card]:
    """Each video as a clip by itself, with its lens alone known.

    All are watched first: clips are made of what is kept, in float32, so that a second start makes the same ones.
    """
    lay_out(sources.films, out)
    for film in sources.films:
        watched(film, sources, out, watching)
    extra = {"calibration": str(out / "lenses.toml"), **sources.extra}
    importer = _TrainingOnly(str(out / "videos"), ImportOptions(captions=str(out / "captions.txt"), extra=extra))
    importer.cache = str(out / "detections")
    return importer, run_import(importer, str(out / "data"), name="video-demo").card


def _places(importer: VideoImporter) -> dict[str, dict[str, Any]]:
    """Of each clip, where it lies in which video."""
    return {clip_id: place for found in importer.found.values() for clip_id, place in found.clips.items()}


def _told(importer: VideoImporter, truth: TrueMotion) -> dict[str, dict[str, Any]]:
    """What the report tells of each video."""
    told: dict[str, dict[str, Any]] = {}
    for name, found in importer.found.items():
        clips = {clip_id: place["frames"] for clip_id, place in found.clips.items()}
        told[name] = {"frames_of_clips": clips, **found.facts}
        if name in truth.agreement:
            told[name]["keypoints_that_agree_percent"] = round(100 * truth.agreement[name])
        if found.notes:
            told[name]["notes"] = found.notes
    return told | {name: {"left_out": reason} for name, reason in importer.refused.items()}


def say(run: Run, out: Path) -> None:
    """Let a trained arm say what the clips are."""
    trained = sampling.load(checkout.standin(), sampling.newest_checkpoint(run.folder(out)))
    said = denoise(trained, timestep=max(1, round(NOISED_TO * run.plan.diffusion_steps)))
    sampling.write_motions(run.samples(out), {name: [motion] for name, motion in said.items()}, list(said))


@torch.no_grad()
def denoise(trained: sampling.Trained, *, timestep: int) -> dict[str, Tensor]:
    """Predictions of the training clips, noised to `timestep`, in camera coordinates [T, J, 3], by id."""
    clips, length = trained.dataset.clips, trained.dataset.batch_length
    said = {}
    for clip in clips:
        parts = []
        for start in range(0, clip.length, length):
            cut = crop(clip, start, min(length, clip.length - start), with_truth=False)
            parts.append(_said(trained, cut, clip.texts[0], length, timestep))
        said[clip.id] = torch.cat(parts)
    return said


def _said(trained: sampling.Trained, cut: Crop, text: str, length: int, timestep: int) -> Tensor:
    """The mean of several draws of noise, for one crop. -> [T, J, 3]"""
    batch = collate([cut] * DRAWS, length=length)
    lengths = tensor_of(batch, "lengths")
    valid = torch.arange(length) < lengths.unsqueeze(1)
    x_start = trained.space.features(tensor_of(batch, "teacher")) * valid[:, None, None]
    noise = torch.randn(x_start.shape, generator=torch.Generator().manual_seed(0))
    t = torch.full((len(x_start),), timestep)
    alpha_bar = torch.as_tensor(trained.diffusion.alphas_cumprod, dtype=torch.float32)[t]
    y = {"text": [text] * len(t), "mask": valid[:, None, None], "lengths": lengths}
    y["text_embed"] = trained.model.encode_text(y["text"])
    x = trained.diffusion._wrap_model(trained.model)(noised(x_start, noise, alpha_bar), t, y=y)
    positions = decode(trained.space.raw(x), trained.space.skeleton)
    return to_camera(positions, tensor_of(batch, "extrinsics"))[:, : int(lengths[0])].mean(0)
