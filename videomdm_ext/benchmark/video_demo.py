"""The demo on real videos: four views of one person, each made into a clip by itself; then all four tell the truth.

Every view goes through the importer of videos with its lens alone. A 3D arm (on the lifted motion) and the 2D arm are
trained for a short time on these clips. The motion that all four calibrated views triangulate, which no training saw,
judges what each view's lifter, refinement and denoisers say. The videos come with the wheels of Pose2Sim and Sports2D.
"""

import dataclasses
import importlib.util
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from videomdm_ext.benchmark import comparison, sampling
from videomdm_ext.benchmark.comparison import Plan, Run
from videomdm_ext.benchmark.triangulation import triangulate
from videomdm_ext.benchmark.video_demo_report import Row, write_report
from videomdm_ext.datasets import files
from videomdm_ext.datasets.batch import collate, crop, tensor_of
from videomdm_ext.datasets.card import Card
from videomdm_ext.datasets.clip import Clip
from videomdm_ext.datasets.folder import read_folder
from videomdm_ext.datasets.importers.base import ImportOptions, Member
from videomdm_ext.datasets.importers.calibration import Calibration, read_calibration
from videomdm_ext.datasets.importers.joint_maps import confidence22, to_smpl22
from videomdm_ext.datasets.importers.video import VideoImporter, Watching
from videomdm_ext.datasets.importers.video_frames import open_video
from videomdm_ext.datasets.importers.video_watch import Choice, watch
from videomdm_ext.datasets.importing import run_import
from videomdm_ext.datasets.refined import read_refined
from videomdm_ext.errors import VideoMDMError
from videomdm_ext.geometry.cameras import normalise, to_camera
from videomdm_ext.host import checkout
from videomdm_ext.motion.accuracy import pa_mpjpe, root_aligned_mpjpe
from videomdm_ext.motion.features import decode
from videomdm_ext.supervision.unrolling import noised

ADVICE = (
    "pip install --no-deps pose2sim==0.10.49 sports2d==0.8.34 (without --no-deps they bring much that is not needed)"
)
VIEWS = ("cam01", "cam02", "cam03", "cam04")
CAPTION = "a man stands on one leg, leans forward and swings his arms."
ALONE, ALONE_CAPTION = "walk", "a woman walks past a wall."
ARMS = ("3d-on-teacher", "2d")
PERSON = "largest"
SEEN_BY = 3
"""Views that have to agree about a joint for it to judge."""
FEWEST = 15
"""Joints of a frame that have to be known."""
NOISED_TO = 0.1
"""Share of the schedule to which clips are noised before a denoiser says what they are."""


@dataclass(frozen=True)
class Wheels:
    """Files of the installed wheels: the four views with their calibration, and one more video where it is there."""

    views: tuple[Path, ...]
    calibration: Path
    alone: Path | None
    alone_calibration: Path | None


def find_wheels() -> Wheels:
    """The videos, without importing the packages; VideoMDMError says how to get them."""
    folder = _folder_of("Pose2Sim")
    if folder is None:
        raise VideoMDMError(
            f"demo --video: expected the package pose2sim with its videos, found none. Get it: {ADVICE}"
        )
    demo = folder / "Demo_SinglePerson"
    views = tuple(demo / "videos" / f"{name}.mp4" for name in VIEWS)
    calibration = demo / "calibration" / "Calib.qca.txt"
    missing = [str(place) for place in (*views, calibration) if not place.is_file()]
    if missing:
        raise VideoMDMError(f"demo --video: expected {missing[0]}, found none. Install that version: {ADVICE}")
    other = _folder_of("Sports2D")
    alone = None if other is None else other / "Demo" / "demo.mp4"
    if alone is None or not alone.is_file():
        return Wheels(views, calibration, None, None)
    return Wheels(views, calibration, alone, alone.with_name("Calib_demo.toml"))


def _folder_of(package: str) -> Path | None:
    found = importlib.util.find_spec(package)
    places = [] if found is None else list(found.submodule_search_locations or ())
    return Path(places[0]) if places else None


@dataclass(frozen=True)
class VideoDemo:
    """What came out: the report's place, a row a view and source of depth, the data set's card."""

    report: Path
    rows: tuple[Row, ...]
    card: Card


def run_video_demo(
    out: Path,
    *,
    steps: int = 1000,
    workers: int = 2,
    watching: Watching | None = None,
    refining: Callable[[int, int], None] | None = None,
    training: Callable[[Mapping[str, int]], None] | None = None,
) -> VideoDemo:
    """All of it; started again, it goes on. The callbacks hear of frames of a video, of clips, of steps of each run."""
    files.check_writable(str(out))
    wheels = find_wheels()
    importer, card = make_clips(wheels, out, watching)
    batch = min(8, card.counts["train"])
    plan = Plan(str(out / "data"), card.content_hash, arms=ARMS, seeds=1, steps=steps, crop_frames=48, batch_size=batch)
    comparison.prepare(plan, out, refining)
    comparison.execute(plan, out, workers=workers, watch=training or (lambda done: None), finish=say)
    truth = true_motion(wheels, out)
    rows, shown = judge(plan, out, importer, truth)
    place = write_report(out, rows, shown, card, truth.summary, {n: f.facts for n, f in importer.found.items()})
    return VideoDemo(place, tuple(rows), card)


class _TrainingOnly(VideoImporter):
    """All clips are trained on: they are judged by other views' keypoints, which no training sees."""

    def members(self) -> Sequence[Member]:
        return [dataclasses.replace(member, split="train") for member in super().members()]


def make_clips(wheels: Wheels, out: Path, watching: Watching | None = None) -> tuple[VideoImporter, Card]:
    """Each video as a clip by itself, with its lens alone known."""
    videos = out / "videos"
    videos.mkdir(parents=True, exist_ok=True)
    sources = {**dict(zip(VIEWS, wheels.views, strict=True)), **({ALONE: wheels.alone} if wheels.alone else {})}
    for name, source in sources.items():
        if source is not None and not (videos / f"{name}.mp4").exists():
            beside = videos / f"{name}.part"
            shutil.copyfile(source, beside)
            beside.replace(videos / f"{name}.mp4")
    captions, lenses = out / "captions.txt", out / "lenses.toml"
    lines = [f"{name}\t{ALONE_CAPTION if name == ALONE else CAPTION}\n" for name in sources]
    files.write_bytes(str(captions), "".join(lines).encode())
    files.write_bytes(str(lenses), _lenses(wheels).encode())
    extra = {"calibration": str(lenses), "person": PERSON}
    importer = _TrainingOnly(str(videos), ImportOptions(captions=str(captions), extra=extra))
    importer.cache, importer.watching = str(out / "detections"), watching
    return importer, run_import(importer, str(out / "data"), name="video-demo").card


def _lenses(wheels: Wheels) -> str:
    """The lenses of all videos as one calibration file, without where the cameras stand."""
    cameras = dict(read_calibration(str(wheels.calibration)))
    if wheels.alone_calibration is not None and wheels.alone_calibration.is_file():
        cameras[ALONE] = next(iter(read_calibration(str(wheels.alone_calibration)).values()))
    tables = []
    for name, camera in cameras.items():
        tables.append(
            f'[{name}]\nname = "{name}"\nsize = {list(camera.size)}\nmatrix = {camera.intrinsics.tolist()}\n'
            f"distortions = {camera.distortion.tolist()}\n"
        )
    return "\n".join(tables)


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


def _said(trained: sampling.Trained, cut: object, text: str, length: int, timestep: int) -> Tensor:
    """The mean of several draws of noise, for one crop. -> [T, J, 3]"""
    batch = collate([cut] * 8, length=length)  # type: ignore[list-item]
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


@dataclass(frozen=True)
class TrueMotion:
    """What all views triangulate: positions [F, 22, 3] in the world of the calibration, which joints may judge
    [F, 22], times [F], the cameras [V, 3, 4], and the quality in words."""

    positions: Tensor
    known: Tensor
    times: Tensor
    extrinsics: Tensor
    summary: str

    def seen_by(self, view: int, times: Tensor) -> tuple[Tensor, Tensor]:
        """Positions [T, 22, 3] in a camera's coordinates at the frames nearest to times [T], and which are known."""
        nearest = (self.times[None] - times[:, None]).abs().argmin(1)
        return to_camera(self.positions[nearest], self.extrinsics[view].unsqueeze(0)), self.known[nearest]


def true_motion(wheels: Wheels, out: Path) -> TrueMotion:
    """Triangulate the keypoints that were kept of each view; the views run in step."""
    calibration = read_calibration(str(wheels.calibration))
    points, weights, times = [], [], []
    for name in VIEWS:
        seen = watch(open_video(str(out / "videos" / f"{name}.mp4")), Choice(PERSON), str(out / "detections"))
        pixels = torch.from_numpy(to_smpl22(seen.pixels, seen.layout))
        points.append(normalise(pixels, calibration[name].scaled(seen.size), calibration[name].distortion))
        weights.append(torch.from_numpy(confidence22(seen.score, seen.layout)))
        times.append(torch.from_numpy(seen.times))
    count = min(map(len, times))
    extrinsics = torch.stack([_place(calibration[name]) for name in VIEWS])
    seen_points, sure = (torch.stack([part[:count] for part in parts]) for parts in (points, weights))
    found = triangulate(seen_points, sure, extrinsics)
    known = found.views >= SEEN_BY
    focal = float(calibration[VIEWS[0]].intrinsics[0, 0])
    error = focal * float(found.error[known].median())
    summary = (
        f"{count} frames; {100 * float(known.double().mean()):.0f} % of the joints are agreed on by {SEEN_BY} or more "
        f"of {len(VIEWS)} views, at a median reprojection error of {error:.0f} px"
    )
    return TrueMotion(found.positions, known, times[0][:count], extrinsics, summary)


def _place(camera: Calibration) -> Tensor:
    if camera.extrinsics is None:
        raise VideoMDMError(f"camera {camera.name}: expected where it stands, found its lens alone. {ADVICE}")
    return camera.extrinsics


Shown = dict[str, dict[str, Tensor]]
"""By clip: the truth and each source's motion [T, 22, 3] in camera coordinates, and `known` [T, 22]."""


def judge(plan: Plan, out: Path, importer: VideoImporter, truth: TrueMotion) -> tuple[list[Row], Shown]:
    """Errors of each view's lifted and refined motion and of the denoisers, against what all views say."""
    card, clips = read_folder(plan.clips, "train")
    refined = {clip.id: clip for clip in read_refined(plan.clips, card, clips)[0]}
    said = {run.arm: _read_said(run.samples(out)) for run in plan.runs()}
    places = {clip_id: place for found in importer.found.values() for clip_id, place in found.clips.items()}
    rows, shown = [], {}
    for clip in clips:
        view = Path(places[clip.id]["video"]).stem
        if view not in VIEWS:
            continue
        times = places[clip.id]["start"] + torch.arange(clip.length, dtype=torch.float64) / clip.fps
        true, known = truth.seen_by(VIEWS.index(view), times)
        motions = {"lifted": _seen(clip), "refined": _seen(refined[clip.id])}
        motions |= {arm: by_clip[clip.id].double() for arm, by_clip in said.items()}
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
