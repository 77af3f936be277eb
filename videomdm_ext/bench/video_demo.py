"""The demo on real videos: four views of one person, each made into a clip by itself; then all four give the truth.

Every view goes through the importer of videos with its lens alone. A 3D arm (on the lifted motion) and the 2D arm are
trained for a short time on these clips. The motion that all four calibrated views triangulate, which no training saw,
judges what each view's lifter, refinement and denoisers make of it. The videos come with the wheels of Pose2Sim and
Sports2D, which are looked into but never imported.
"""

import dataclasses
import importlib.util
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from videomdm_ext.bench import run as engine
from videomdm_ext.bench.evaluators.base import Progress
from videomdm_ext.bench.plan import DEMO, Plan, Run
from videomdm_ext.bench.report.video_demo import Row, Shown, write_report
from videomdm_ext.data import files
from videomdm_ext.data.clip import Clip, crop
from videomdm_ext.data.folder import Card, read_folder
from videomdm_ext.data.importing import run_import
from videomdm_ext.data.refined import is_made, make_refined, read_refined
from videomdm_ext.data.sources.base import ImportOptions
from videomdm_ext.data.tasks import Engine
from videomdm_ext.data.video.frames import Calibration, camera_of, open_video, read_calibration
from videomdm_ext.data.video.importer import VideoImporter, Watching
from videomdm_ext.data.video.watch import Choice, Sighting, watch
from videomdm_ext.errors import VideoMDMError
from videomdm_ext.geometry.cameras import normalise, project, to_camera
from videomdm_ext.geometry.triangulation import NEAR, triangulate
from videomdm_ext.inference import sample as sampling
from videomdm_ext.mdm import checkout
from videomdm_ext.motion.features import decode
from videomdm_ext.motion.joint_maps import confidence22, to_smpl22
from videomdm_ext.motion.measures import pa_mpjpe, root_aligned_mpjpe

ADVICE = (
    "pip install --no-deps pose2sim==0.10.49 sports2d==0.8.34 (without --no-deps they bring much that is not needed)"
)
VIEWS = ("cam01", "cam02", "cam03", "cam04")
CAPTION = "a man stands on one leg, leans forward and swings his arms."
PERSON = "largest"


@dataclass(frozen=True)
class Film:
    """One video under its name, the file that holds its camera's calibration, and what happens in it."""

    name: str
    video: Path
    calibration: Path
    caption: str

    @property
    def camera(self) -> Calibration:
        """The camera of this name, or the only one of its file."""
        return camera_of(read_calibration(str(self.calibration)), self.name, str(self.calibration))

    @property
    def extrinsics(self) -> Tensor:
        """Where the camera stands [3, 4]. VideoMDMError where its file does not hold it."""
        if self.camera.extrinsics is None:
            raise VideoMDMError(
                f"{self.calibration}: expected where the camera {self.name} stands, found its lens alone. Name a whole "
                "calibration of the views."
            )
        return self.camera.extrinsics

    def kept(self, out: Path) -> Path:
        """Where the demo keeps the video."""
        return out / "videos" / f"{self.name}{self.video.suffix.lower()}"


@dataclass(frozen=True)
class Sources:
    """`views` show one person at the same time from places that the calibration holds: they judge. `others` only train.

    Another detector's files, named after the films, may lie in the folder `detections`; without them MediaPipe looks.
    """

    views: tuple[Film, ...]
    others: tuple[Film, ...] = ()
    detections: str = ""
    format: str = ""

    @property
    def films(self) -> tuple[Film, ...]:
        return self.views + self.others


def find_wheels() -> Sources:
    """The videos of the installed wheels; VideoMDMError names the command that installs them."""
    folder = _folder_of("Pose2Sim")
    if folder is None:
        raise VideoMDMError(
            f"demo --video: expected the package pose2sim with its videos, found none. Get it: {ADVICE}"
        )
    demo = folder / "Demo_SinglePerson"
    calibration = demo / "calibration" / "Calib.qca.txt"
    views = tuple(Film(name, demo / "videos" / f"{name}.mp4", calibration, CAPTION) for name in VIEWS)
    missing = [str(place) for place in (*(view.video for view in views), calibration) if not place.is_file()]
    if missing:
        raise VideoMDMError(f"demo --video: expected {missing[0]}, found none. Install that version: {ADVICE}")
    other = (_folder_of("Sports2D") or folder / "none") / "Demo"
    walk = Film("walk", other / "demo.mp4", other / "Calib_demo.toml", "a woman walks past a wall.")
    return Sources(views, (walk,) if walk.video.is_file() and walk.calibration.is_file() else ())


def _folder_of(package: str) -> Path | None:
    found = importlib.util.find_spec(package)
    places = [] if found is None else list(found.submodule_search_locations or ())
    return Path(places[0]) if places else None


def lay_out(films: Sequence[Film], out: Path) -> None:
    """OUT/videos, OUT/captions.txt and OUT/lenses.toml, as the importer of videos takes them.

    A lens is a table of Pose2Sim's toml, without where the camera stands.
    """
    (out / "videos").mkdir(parents=True, exist_ok=True)
    lenses = []
    for film in films:
        place, camera, name = film.kept(out), film.camera, json.dumps(film.name)
        if not place.exists():
            files.write_bytes(str(place), film.video.read_bytes())
        lenses.append(
            f"[{name}]\nname = {name}\nsize = {list(camera.size)}\nmatrix = {camera.intrinsics.tolist()}\n"
            f"distortions = {camera.distortion.tolist()}\n"
        )
    captions = "".join(f"{film.name}\t{film.caption}\n" for film in films)
    files.write_bytes(str(out / "captions.txt"), captions.encode())
    files.write_bytes(str(out / "lenses.toml"), "\n".join(lenses).encode())


# -- the motion that all views triangulate, and errors against it ------------------------------------------------------

SEEN_BY, FEWEST = 3, 15
"""Views that have to agree about a joint for it to judge; joints of a frame that have to be known."""


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
    video = open_video(str(film.kept(out)))
    progress = None if watching is None else partial(watching, Path(video.path).name)
    return watch(video, Choice(PERSON, sources.detections, sources.format), str(out / "detections"), progress)[0]


def true_motion(sources: Sources, out: Path) -> TrueMotion:
    """Triangulate the keypoints that were kept of each view; the views run in step."""
    names = [film.name for film in sources.views]
    sightings = [watched(film, sources, out) for film in sources.views]
    count = min(len(seen.times) for seen in sightings)
    flat, weight = [], []
    for film, seen in zip(sources.views, sightings, strict=True):
        pixels, camera = torch.from_numpy(to_smpl22(seen.pixels, seen.layout))[:count], film.camera
        flat.append(normalise(pixels, camera.scaled(seen.size), camera.distortion))
        weight.append(torch.from_numpy(confidence22(seen.score, seen.layout))[:count])
    points, weights = torch.stack(flat), torch.stack(weight)
    extrinsics = torch.stack([film.extrinsics for film in sources.views])
    found = triangulate(points, weights, extrinsics)
    known = found.views >= SEEN_BY
    projected = project(found.positions.expand(len(points), -1, -1, -1), extrinsics.unsqueeze(1))[0]
    near = (torch.linalg.vector_norm(projected - points, dim=-1) <= NEAR) & (weights > 0)
    agreement = {name: float(one[known].double().mean()) for name, one in zip(names, near, strict=True)}
    error = float(sources.views[0].camera.intrinsics[0, 0]) * float(found.error[known].median())
    times = torch.from_numpy(sightings[0].times)[:count]
    return TrueMotion(found.positions, known, times, dict(zip(names, extrinsics, strict=True)), agreement, error)


def judge(plan: Plan, out: Path, importer: VideoImporter, truth: TrueMotion) -> tuple[list[Row], Shown]:
    """Errors of each view's lifted and refined motion and of the denoisers, against what all views give."""

    def seen(clip: Clip) -> Tensor:
        camera = torch.from_numpy(clip.extrinsics).double()
        return to_camera(decode(torch.from_numpy(clip.teacher).double(), clip.skeleton), camera.unsqueeze(0))

    places = {clip_id: place for found in importer.found.values() for clip_id, place in found.clips.items()}
    card, clips = read_folder(plan.clips, "train")
    if not is_made(plan.clips, card):
        make_refined(plan.clips, card)
    refined = {clip.id: clip for clip in read_refined(plan.clips, card, clips)[0]}
    predicted = {run.arm: sampling.read_motions(run.samples(out))[0] for run in plan.runs()}
    rows: list[Row] = []
    shown: dict[str, dict[str, Tensor]] = {}
    for clip in clips:
        view = Path(places[clip.id]["video"]).stem
        if view not in truth.extrinsics:
            continue
        times = places[clip.id]["start"] + torch.arange(clip.length, dtype=torch.float64) / clip.fps
        true, known = truth.seen_by(view, times)
        motions = {"lifted": seen(clip), "refined": seen(refined[clip.id])}
        motions |= {f"arm {arm}": by_clip[clip.id][0].double() for arm, by_clip in predicted.items()}
        rows += [score(view, clip.id, name, motion, true, known) for name, motion in motions.items()]
        shown[clip.id] = {"truth": true, "known": known, **motions}
    return rows, shown


def score(view: str, clip_id: str, source: str, motion: Tensor, true: Tensor, known: Tensor) -> Row:
    """Errors in millimetres over the known joints of those frames in which most of them are, the root among them."""
    frames = [t for t in range(len(motion)) if known[t, 0] and int(known[t].sum()) >= FEWEST]
    if not frames:
        return Row(view, clip_id, source, 0, math.nan, math.nan, math.nan)
    pairs = [(motion[t, known[t]].unsqueeze(0), true[t, known[t]].unsqueeze(0)) for t in frames]
    depth = [((one - one[:, :1]) - (other - other[:, :1]))[..., 2].abs().mean() for one, other in pairs]
    errors = ([pa_mpjpe(*pair) for pair in pairs], [root_aligned_mpjpe(*pair) for pair in pairs], depth)
    return Row(view, clip_id, source, len(frames), *(1000 * float(torch.stack(one).mean()) for one in errors))


# -- from videos to a report -------------------------------------------------------------------------------------------

NOISED_TO, DRAWS = 0.1, 8
"""Share of the schedule to which clips are noised before a denoiser predicts them; draws that are averaged."""


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
    progress: Progress = lambda what, done, total: None,
) -> VideoDemo:
    """All of it, of the installed wheels' videos where no `sources` are given; started again, it goes on."""
    files.check_writable(str(out))
    sources = sources or find_wheels()
    for film in sources.views:
        _ = film.extrinsics  # refused before work begins
    importer, card = make_clips(sources, out, progress)
    plan = dataclasses.replace(
        DEMO, clips=str(out / "data"), content=card.content_hash, arms=("lifted", "2d"), seeds=1, steps=steps,
        crop_frames=48, adam_beta2=0.999, batch_size=min(8, card.counts["train"]), text_features="words",
    )  # fmt: skip

    def watch(done: Mapping[str, int]) -> None:
        for name, count in done.items():
            progress(f"training {name}", count, steps)

    engine.prepare(plan, out, partial(progress, "refining"))
    todo = [run for run in plan.runs() if not run.samples(out).is_file()]
    engine.execute(plan, out, engine=Engine(processes=workers), watch=watch, finish=predict, todo=todo)
    truth = true_motion(sources, out)
    rows, shown = judge(plan, out, importer, truth)
    videos: dict[str, dict[str, Any]] = {}
    for name, found in importer.found.items():
        videos[name] = {"frames_of_clips": {clip_id: place["frames"] for clip_id, place in found.clips.items()}}
        videos[name] |= found.facts | ({"notes": found.notes} if found.notes else {})
        if name in truth.agreement:
            videos[name]["keypoints_that_agree_percent"] = round(100 * truth.agreement[name])
    videos |= {name: {"left_out": reason} for name, reason in importer.refused.items()}
    place = write_report(out, rows, shown, steps=steps, card=card, truth=truth.summary, videos=videos)
    return VideoDemo(place, tuple(rows), card, truth)


def make_clips(sources: Sources, out: Path, watching: Watching | None = None) -> tuple[VideoImporter, Card]:
    """Each video as a clip by itself, with its lens alone known.

    All are watched first: clips are made of what is kept, in float32, so that a second start makes the same ones.
    """
    lay_out(sources.films, out)
    for film in sources.films:
        watched(film, sources, out, watching)
    given = {"person": PERSON, "detections": sources.detections, "format": sources.format}
    extra = {"calibration": str(out / "lenses.toml"), **{key: value for key, value in given.items() if value}}
    shares = (1.0, 0.0, 0.0)  # all are trained on: other views' keypoints, which no training sees, judge them
    options = ImportOptions(captions=str(out / "captions.txt"), extra=extra, split=shares)
    importer = VideoImporter(str(out / "videos"), options)
    importer.cache = str(out / "detections")
    return importer, run_import(importer, str(out / "data"), name="video-demo").card


def predict(run: Run, out: Path) -> None:
    """Write what a trained arm predicts of the training clips, noised a little."""
    trained = sampling.load(checkout.standin(), sampling.find_checkpoint(run.folder(out)))
    made = denoise(trained, timestep=max(1, round(NOISED_TO * run.plan.diffusion_steps)))
    sampling.write_motions(run.samples(out), {name: [motion] for name, motion in made.items()}, list(made))


def denoise(trained: sampling.Trained, *, timestep: int) -> dict[str, Tensor]:
    """Mean predictions of the training clips, noised to `timestep`, in camera coordinates [T, J, 3], by id."""
    length, made = trained.dataset.batch_length, {}
    for clip in trained.dataset.clips:
        parts = []
        for start in range(0, clip.length, length):
            cut = crop(clip, start, min(length, clip.length - start), with_truth=False)
            draws = sampling.denoise(trained, [cut] * DRAWS, [clip.texts[0]] * DRAWS, timestep=timestep, seed=0)
            parts.append(torch.stack(draws).mean(0))
        made[clip.id] = torch.cat(parts)
    return made
