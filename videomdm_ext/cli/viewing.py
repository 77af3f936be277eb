"""The verbs `view`, motions as one page for the browser, and `export`, motions as files for other programs."""

import dataclasses
import http.server
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import Tensor

from videomdm_ext.bench.plan import Plan, read_plan
from videomdm_ext.bench.reference import motion, motion_of
from videomdm_ext.cli.console import chosen_ids, console, parse, quoted
from videomdm_ext.data import files
from videomdm_ext.data.clip import Clip
from videomdm_ext.data.files import Array
from videomdm_ext.data.folder import CARD, SPLITS, read_card, read_clip, read_folder
from videomdm_ext.data.refined import is_made, read_refined
from videomdm_ext.errors import ConfigError, DatasetError
from videomdm_ext.inference.sample import read_motions
from videomdm_ext.motion.skeletons import SKELETONS, Skeleton, by_name
from videomdm_ext.render import figures
from videomdm_ext.render.body import Body, read_body
from videomdm_ext.render.bvh import to_bvh
from videomdm_ext.render.fitting import fit
from videomdm_ext.render.glb import to_glb
from videomdm_ext.render.page import Scene, Track, clip_scene, page


@dataclass(frozen=True)
class View:
    """Write motions as one page that plays them in 3D in a browser, without a network."""

    what: Annotated[Path, tyro.conf.Positional]
    """A data set, the folder of a demo or bench, a folder of samples, or a file of motions (npz)."""
    out: Path | None = None
    """The page; by default NAME.html in the current folder."""
    ids: tuple[str, ...] = ()
    """Clips of the data set; without any, the first ones of --split."""
    split: str = "train"
    """Split of the data set that clips are taken from."""
    count: int = 12
    """Captions on the page, at most."""
    clips: Path | None = None
    """Data set of a comparison, where it has moved."""
    fps: float = 20.0
    """Frame rate of a file of motions, which does not tell its own."""
    serve: bool = False
    """Serve the page on this computer until Ctrl-C."""
    port: int = 8000
    """Port of --serve; 0: any that is free."""


@dataclass(frozen=True)
class Found:
    """What the page will show."""

    scenes: Sequence[Scene]
    skeleton: Skeleton
    fps: float
    title: str


def view(words: Sequence[str]) -> int:
    """Write the page, say how to open it, and with --serve serve it."""
    options = parse(View, "view", words)
    _check_numbers(options)
    found = find(options)
    text = page(found.scenes, found.skeleton, found.fps, found.title)
    out = options.out or Path(f"{options.what.resolve().name.removesuffix('.npz')}.html")
    files.check_writable(str(out.absolute().parent))
    files.write_bytes(str(out.absolute()), text.encode())
    many = "1 caption" if len(found.scenes) == 1 else f"{len(found.scenes)} captions"
    console.print(f"{out}: {many}, {len(text) / 1e6:.1f} MB", soft_wrap=True, markup=False)
    if options.serve:
        return serve(text, options.port)
    console.print(f"Open it: {out.absolute().as_uri()}", soft_wrap=True, markup=False)
    return 0


def _check_numbers(options: View) -> None:
    good = options.count > 0 and options.fps > 0 and math.isfinite(options.fps) and 0 <= options.port < 65536
    if not good or options.split not in SPLITS:
        raise ConfigError(
            f"view: expected --count and --fps above 0, --port from 0 to 65535 and --split {', '.join(SPLITS)}, found "
            f"{options.count}, {options.fps:g}, {options.port} and {options.split}. Correct the options."
        )


def find(options: View) -> Found:
    """Tell what the path is, and read it."""
    what = options.what
    if (what / CARD).is_file():
        return of_clips(what, options)
    if (what / "plan.json").is_file():
        return of_comparison(what, options)
    for place in (what, what / "samples.npz", what / "lifted.npz", what / "samples" / "samples.npz"):
        if place.suffix == ".npz" and place.is_file():
            return of_motions(place, options)
    if next(what.glob("model*.pt"), None):
        raise ConfigError(
            f"{what}: expected motions, found a training run that was not sampled. "
            f"Sample first: videomdm sample --checkpoint {quoted(what)}"
        )
    raise ConfigError(
        f"{what}: expected a data set ({CARD}), a comparison (plan.json), samples (samples.npz) or a file of motions "
        "(npz), found none. Give the folder that a command named as its output."
    )


def of_clips(path: Path, options: View) -> Found:
    """Truth, teacher and refined teacher of clips, with what their camera saw."""
    place = str(path)
    card = read_card(place)
    ids = chosen_ids(place, card, options.ids, options.split)
    ids = ids if options.ids else ids[: options.count]
    clips = [read_clip(place, card, clip_id) for clip_id in ids]
    refined: Sequence[Clip | None] = (
        read_refined(place, card, clips)[0] if is_made(place, card) else [None] * len(clips)
    )
    scenes = [
        dataclasses.replace(clip_scene(clip, refined=made), caption=f"{clip.texts[0]} ({clip.id})")
        for clip, made in zip(clips, refined, strict=True)
    ]
    return Found(scenes, by_name(card.skeleton), card.fps, f"{path.resolve().name}: {len(clips)} clips")


def of_comparison(out: Path, options: View) -> Found:
    """What each arm made of the same captions with the first seed, beside truth and teacher."""
    plan = read_plan(out)
    runs = {run.label: run.replication(out, 0) for run in plan.runs() if run.seed == 0}
    made = {label: read_motions(place) for label, place in runs.items() if place.is_file()}
    if not made:
        advice = f"Look at its clips instead: videomdm view {plan.clips}"
        raise ConfigError(f"{out}: expected samples of its arms, found none. Run it again. {advice}")
    captions = next(iter(made.values()))[1]
    try:
        card, clips = read_folder(str(options.clips or plan.clips), plan.reference)
    except DatasetError as error:
        raise ConfigError(f"{error} If the data set has moved, name it with --clips.") from error
    by_caption = {text: clip for clip in clips for text in clip.texts}
    skeleton, scenes = by_name(card.skeleton), []
    for caption, index in _different(captions, by_caption)[: options.count]:
        motions = _own(by_caption.get(caption), plan)
        motions |= {label: groups["samples"][index].numpy() for label, (groups, _) in made.items()}
        scenes.append(Scene(caption, [Track.of(name, motion, skeleton) for name, motion in motions.items()]))
    return Found(scenes, skeleton, card.fps, f"{out.resolve().name}: {len(made)} arms on {card.name}")


def _different(captions: Sequence[str], by_caption: Mapping[str, Clip]) -> list[tuple[str, int]]:
    """Each caption once, with the index of its first sample: first one of every recorded motion, then the second."""
    seen: Counter[str] = Counter()
    ranked = []
    for caption in dict.fromkeys(captions):
        motion = motion_of(by_caption[caption]) if caption in by_caption else caption
        ranked.append((seen[motion], captions.index(caption), caption))
        seen[motion] += 1
    return [(caption, index) for _, index, caption in sorted(ranked)]


def _own(clip: Clip | None, plan: Plan) -> dict[str, Array]:
    """Truth and teacher of a caption's clip, cut as the samples are."""
    known = [] if clip is None else ["teacher"] if clip.truth is None else ["truth", "teacher"]
    return {kind: motion(clip, kind, 0, plan.crop_frames).numpy() for kind in known if clip is not None}


def of_motions(place: Path, options: View) -> Found:
    """Groups of motions that belong together by their order; the number of joints tells the skeleton."""
    groups, captions = read_motions(place)
    joints = sorted({motion.shape[1] for motions in groups.values() for motion in motions})
    fitting = [skeleton for skeleton in SKELETONS.values() if joints == [skeleton.num_joints]]
    if not fitting or any(len(motions) != len(captions) for motions in groups.values()):
        known = " or ".join(f"{skeleton.num_joints} ({skeleton.name})" for skeleton in SKELETONS.values())
        raise ConfigError(
            f"{place}: expected one motion of {known} joints for every caption in each group, found {joints} joints, "
            f"{len(captions)} captions and {', '.join(f'{len(v)} in {k}' for k, v in groups.items()) or 'no group'}. "
            "Sample again."
        )
    scenes = [
        Scene(caption, [Track.of(name, motions[index].numpy(), fitting[0]) for name, motions in groups.items()])
        for index, caption in enumerate(captions[: options.count])
    ]
    return Found(scenes, fitting[0], options.fps, f"{place.resolve().parent.name}: {len(captions)} motions")


def serve(text: str, port: int) -> int:
    """Serve the page, and nothing else, to this computer alone, until Ctrl-C."""
    try:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", port), handler(text.encode()))
    except OSError as error:
        raise ConfigError(
            f"--port {port}: expected a free port, found none ({error}). Choose another, or 0."
        ) from error
    with server:
        console.print(f"Open http://127.0.0.1:{server.server_port} in a browser; Ctrl-C ends it.", soft_wrap=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            console.print("ended")
    return 0


def handler(content: bytes) -> type[http.server.BaseHTTPRequestHandler]:
    """Answers / with the page, and everything else with 404."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path != "/":
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Requests are not told."""

    return Handler


FORMATS = ("bvh", "glb", "mp4", "gif")
SHOWN = 8
"""Motions that get a line of their own."""


@dataclass(frozen=True)
class Export:
    """Write motions as files that Blender and others open: BVH, GLB, mp4 and gif."""

    motions: Annotated[Path, tyro.conf.Positional]
    """A .npz of `videomdm sample`, or a .npy of joint positions [T, J, 3], metres, y up."""
    format: str = "bvh,glb"
    """Any of bvh, glb, mp4 and gif, with commas between them."""
    out: Path | None = None
    """Folder to write to; by default beside the motions."""
    count: int = 0
    """Motions of each group, 0 for all."""
    fps: float = 20.0
    """Frames a second."""
    smpl: str = ""
    """A folder with SMPL, SMPL-H or SMPL-X model files of your own: bones are that body's, and the GLB shows it."""
    gender: str = "neutral"
    """Which of those bodies."""


@dataclass(frozen=True)
class Move:
    """One motion to be written, under a name, with its positions [T, J, 3] and its caption."""

    name: str
    positions: Tensor
    caption: str


def export(words: Sequence[str]) -> int:
    """Every motion in every format that is asked for."""
    options = parse(Export, "export", words)
    formats = _formats(options)
    moves = read_moves(options.motions, options.count)
    skeleton = _skeleton(moves[0].positions, options.motions)
    out = options.out or options.motions.parent
    files.check_writable(str(out))
    body = read_body(options.smpl, options.gender) if options.smpl else None
    if body and skeleton.num_joints != len(body.offsets):
        raise ConfigError(f"--smpl: expected motions of smpl22, found {skeleton.name}. Leave it out.")
    off = [write(move, out, formats, skeleton, options.fps, body) for move in moves]
    for move, (mean, most, joint) in list(zip(moves, off, strict=True))[:SHOWN]:
        fitted = f"; bones of one length are off by {mean:.1f} mm, at most {most:.0f} mm ({joint})" if joint else ""
        console.print(f"{out / move.name}: {len(move.positions)} frames{fitted}", highlight=False)
    console.print(f"{len(moves)} motions written as {', '.join(formats)}")
    console.print("Next: open a .glb in any viewer; in Blender, import a .bvh with scale 0.01")
    return 0


def _formats(options: Export) -> list[str]:
    """The formats asked for, with what they need at hand."""
    formats = list(dict.fromkeys(options.format.lower().split(",")))
    if not set(formats) <= set(FORMATS):
        raise ConfigError(f"--format: expected any of {','.join(FORMATS)}, found {options.format!r}. Correct it.")
    if options.count < 0 or not 0 < options.fps < float("inf"):
        raise ConfigError("--count: expected 0 or more; --fps: a number above 0. Correct it.")
    if options.smpl and "glb" not in formats:
        raise ConfigError(f"--smpl: expected glb among the formats, found {options.format!r}. Add it to --format.")
    if {"mp4", "gif"} & set(formats):
        figures.require()
        figures.require("PIL.Image")
    if "mp4" in formats:
        figures.require("imageio_ffmpeg", "video")
    return formats


def read_moves(path: Path, count: int = 0) -> list[Move]:
    """The motions of a file, at most `count` of each group (0: all)."""
    if path.suffix == ".npy":
        return [Move(path.stem, torch.from_numpy(files.read_array(str(path))), path.stem)]
    groups, captions = read_motions(path)
    moves = []
    for group, motions in groups.items():
        texts = captions if len(captions) == len(motions) else [group] * len(motions)
        pairs = list(zip(motions, texts, strict=True))[: count or None]
        moves += [Move(f"{group}_{number:03d}", motion, text) for number, (motion, text) in enumerate(pairs)]
    if not moves:
        raise DatasetError(f"{path}: expected motions, found none. Name a file that `videomdm sample` wrote.")
    return moves


def _skeleton(positions: Tensor, path: Path) -> Skeleton:
    for skeleton in SKELETONS.values():
        if positions.ndim == 3 and positions.shape[1:] == (skeleton.num_joints, 3):
            return skeleton
    known = ", ".join(f"{skeleton.num_joints} ({skeleton.name})" for skeleton in SKELETONS.values())
    raise DatasetError(
        f"{path}: expected positions [T, J, 3] of {known} joints, found {list(positions.shape)}. Name another file."
    )


def write(
    move: Move, out: Path, formats: Sequence[str], skeleton: Skeleton, fps: float, body: Body | None
) -> tuple[float, float, str]:
    """One motion's files. -> how far the fit is off, mm: mean, most, and where; no joint where nothing was fitted"""
    for ending in [name for name in formats if name in ("mp4", "gif")]:
        example = figures.Example(move.caption, {move.name: move.positions.numpy()})
        figures.animation(str(out / f"{move.name}.{ending}"), example, skeleton, fps=fps)
    if not {"bvh", "glb"} & set(formats):
        return 0.0, 0.0, ""
    sized = body.sized(move.positions) if body else None
    fitted = fit(move.positions, skeleton, fps, offsets=sized.offsets if sized else None)
    if "bvh" in formats:
        files.write_bytes(str(out / f"{move.name}.bvh"), to_bvh(fitted, skeleton, fps).encode())
    if "glb" in formats:
        content = to_glb(fitted, skeleton, fps, move.name, mesh=sized.mesh if sized else None)
        files.write_bytes(str(out / f"{move.name}.glb"), content)
    return float(fitted.mean_mm.mean()), float(fitted.max_mm.max()), skeleton.joints[int(fitted.max_mm.argmax())]
