"""The demo on real videos: the motion that all views triangulate, and the errors of what each view alone says."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from videomdm_ext.bench import sampling
from videomdm_ext.bench.comparison import Plan
from videomdm_ext.bench.triangulation import NEAR, triangulate
from videomdm_ext.bench.video_demo_report import Row
from videomdm_ext.bench.video_demo_sources import Film, Sources, place_of
from videomdm_ext.data.clip import Clip
from videomdm_ext.data.folder import read_folder
from videomdm_ext.data.refined import read_refined
from videomdm_ext.data.sources.joint_maps import confidence22, to_smpl22
from videomdm_ext.data.video.frames import open_video
from videomdm_ext.data.video.importer import Watching
from videomdm_ext.data.video.watch import Sighting, watch
from videomdm_ext.errors import VideoMDMError
from videomdm_ext.geometry.cameras import normalise, project, to_camera
from videomdm_ext.motion.accuracy import pa_mpjpe, root_aligned_mpjpe
from videomdm_ext.motion.features import decode

SEEN_BY = 3
"""Views that have to agree about a joint for it to judge."""
FEWEST = 15
"""Joints of a frame that have to be known."""


@dataclass(frozen=True)
class TrueMotion:
    """What all views triangulate: positions [F, 22, 3] in the world of the calibration, which joints may judge
    [F, 22], times [F], the cameras [3, 4] by view, the share of its judged joints with which each view agrees, and the
    median reprojection error in pixels.
    """

    positions: Tensor
    known: Tensor
    times: Tensor
    extrinsics: Mapping[str, Tensor]
    agreement: Mapping[str, float]
    error: float

    @property
    def summary(self) -> str:
        """The quality in words."""
        return (
            f"{len(self.times)} frames; {100 * float(self.known.double().mean()):.0f} % of the joints are agreed on by "
            f"{SEEN_BY} or more of {len(self.extrinsics)} views, at a median reprojection error of {self.error:.0f} px"
        )

    def seen_by(self, view: str, times: Tensor) -> tuple[Tensor, Tensor]:
        """Positions [T, 22, 3] in a camera's coordinates at the frames nearest to times [T], and which are known."""
        nearest = (self.times[None] - times[:, None]).abs().argmin(1)
        return to_camera(self.positions[nearest], self.extrinsics[view].unsqueeze(0)), self.known[nearest]


def watched(film: Film, sources: Sources, out: Path, watching: Watching | None = None) -> Sighting:
    """What is seen in one film; kept in OUT/detections, so that it is watched once."""
    video = open_video(str(place_of(film, out)))
    progress = None if watching is None else partial(watching, Path(video.path).name)
    return watch(video, sources.choice, str(out / "detections"), progress)


def true_motion(sources: Sources, out: Path) -> TrueMotion:
    """Triangulate the keypoints that were kept of each view; the views run in step."""
    names = [film.name for film in sources.views]
    sightings = [watched(film, sources, out) for film in sources.views]
    count = min(len(seen.times) for seen in sightings)
    flat = [_on_plane(film, seen) for film, seen in zip(sources.views, sightings, strict=True)]
    points, weights = (torch.stack([pair[part][:count] for pair in flat]) for part in (0, 1))
    extrinsics = torch.stack([_place(film) for film in sources.views])
    found = triangulate(points, weights, extrinsics)
    known = found.views >= SEEN_BY
    near = torch.stack([_near(found.positions, *pair) for pair in zip(points, extrinsics, strict=True)]) & (weights > 0)
    agreement = {name: float(one[known].double().mean()) for name, one in zip(names, near, strict=True)}
    error = float(sources.views[0].camera.intrinsics[0, 0]) * float(found.error[known].median())
    times = torch.from_numpy(sightings[0].times)[:count]
    return TrueMotion(found.positions, known, times, dict(zip(names, extrinsics, strict=True)), agreement, error)


def _on_plane(film: Film, seen: Sighting) -> tuple[Tensor, Tensor]:
    """One view's keypoints [F, 22, 2] on the normalised plane, and their confidence [F, 22]."""
    camera = film.camera
    pixels = torch.from_numpy(to_smpl22(seen.pixels, seen.layout))
    points = normalise(pixels, camera.scaled(seen.size), camera.distortion)
    return points, torch.from_numpy(confidence22(seen.score, seen.layout))


def _near(positions: Tensor, points: Tensor, camera: Tensor) -> Tensor:
    """Which of a view's points [F, 22, 2] are where its camera sees the positions."""
    return torch.linalg.vector_norm(project(positions, camera.unsqueeze(0))[0] - points, dim=-1) <= NEAR


def _place(film: Film) -> Tensor:
    extrinsics = film.camera.extrinsics
    if extrinsics is None:
        raise VideoMDMError(
            f"{film.calibration}: expected where the camera {film.name} stands, found its lens alone. Name a whole "
            "calibration of the views."
        )
    return extrinsics


Shown = dict[str, dict[str, Tensor]]
"""By clip: the truth and each source's motion [T, 22, 3] in camera coordinates, and `known` [T, 22]."""


def judge(plan: Plan, out: Path, places: Mapping[str, Mapping[str, Any]], truth: TrueMotion) -> tuple[list[Row], Shown]:
    """Errors of each view's lifted and refined motion and of the denoisers, against what all views say.

    `places` tells of each clip its `video` and the second of its `start` there.
    """
    card, clips = read_folder(plan.clips, "train")
    refined = {clip.id: clip for clip in read_refined(plan.clips, card, clips)[0]}
    said = {run.arm: _read_said(run.samples(out)) for run in plan.runs()}
    rows: list[Row] = []
    shown: Shown = {}
    for clip in clips:
        view = Path(places[clip.id]["video"]).stem
        if view not in truth.extrinsics:
            continue
        times = places[clip.id]["start"] + torch.arange(clip.length, dtype=torch.float64) / clip.fps
        true, known = truth.seen_by(view, times)
        motions = {"lifted": _seen(clip), "refined": _seen(refined[clip.id])}
        motions |= {f"arm {arm}": by_clip[clip.id].double() for arm, by_clip in said.items()}
        rows += [score(view, clip.id, name, motion, true, known) for name, motion in motions.items()]
        shown[clip.id] = {"truth": true, "known": known, **motions}
    return rows, shown


def _read_said(place: Path) -> dict[str, Tensor]:
    return {name: motions[0] for name, motions in sampling.read_motions(place)[0].items()}


def _seen(clip: Clip) -> Tensor:
    camera = torch.from_numpy(clip.extrinsics).double()
    return to_camera(decode(torch.from_numpy(clip.teacher).double(), clip.skeleton), camera.unsqueeze(0))


def score(view: str, clip_id: str, source: str, motion: Tensor, true: Tensor, known: Tensor) -> Row:
    """Errors in millimetres over the known joints of those frames in which most of them are, the root among them."""
    frames = [t for t in range(len(motion)) if known[t, 0] and int(known[t].sum()) >= FEWEST]
    if not frames:
        return Row(view, clip_id, source, 0, math.nan, math.nan, math.nan)
    pairs = [(motion[t, known[t]].unsqueeze(0), true[t, known[t]].unsqueeze(0)) for t in frames]
    depth = [((one - one[:, :1]) - (other - other[:, :1]))[..., 2].abs().mean() for one, other in pairs]
    figures = [
        torch.stack([pa_mpjpe(*pair) for pair in pairs]),
        torch.stack([root_aligned_mpjpe(*pair) for pair in pairs]),
        torch.stack(depth),
    ]
    return Row(view, clip_id, source, len(frames), *(1000 * float(figure.mean()) for figure in figures))
