"""The verbs `sample`, motions for captions from a trained run, and `lift`, 2D keypoints and a camera to 3D with it."""

import contextlib
import hashlib
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from videomdm_ext.cli.console import chosen_ids, console, counting, quoted, say_next
from videomdm_ext.cli.exporting import human_body, write_fitted
from videomdm_ext.config import Supervision, from_args
from videomdm_ext.data import locks, seal
from videomdm_ext.data.clip import Clip, cameras_of, teacher_of, truth_of
from videomdm_ext.data.files import check_writable, leads_out, read_json, read_text, write_bytes
from videomdm_ext.data.folder import Card, read_clip
from videomdm_ext.data.schemas import text_of
from videomdm_ext.errors import ConfigError, DatasetError, counted
from videomdm_ext.geometry.cameras import to_world
from videomdm_ext.inference import lift as lifting
from videomdm_ext.inference import sample as sampling
from videomdm_ext.inference.sample import Trained
from videomdm_ext.mdm import distributed
from videomdm_ext.mdm.data import with_teacher
from videomdm_ext.mdm.evaluation import hash_of
from videomdm_ext.motion.human_mesh import Body as HumanBody
from videomdm_ext.motion.skeletons import Skeleton
from videomdm_ext.render import figures
from videomdm_ext.render.page import Scene, Track, clip_scene, page

FORMATS = ("npz", "bvh", "glb", "page", "png")
ENDINGS = ("bvh", "glb")
"""Formats with a file a motion, in folders of these names."""
LONGEST_CAPTION = 1000
"""Characters; text encoders read some 20 to 250 words, and drop the rest unsaid."""
FEWEST_FRAMES = 2
PRIOR = "prior"
"""What lifted motions are called beside those of the teachers."""

Wanted = tuple[str, float | None]
"""A caption and seconds, None for the longest that was trained."""


def chosen(formats: str) -> list[str]:
    """The formats of a list with commas; what a picture needs is looked for before any work."""
    found = [name.strip() for name in formats.split(",") if name.strip()]
    if not found or any(name not in FORMATS for name in found):
        raise ConfigError(f"--formats: expected names among {','.join(FORMATS)}, found {formats!r}. Correct it.")
    if "png" in found:
        figures.require()
    return found


def write(
    out: Path, stem: str, motions: Sequence[tuple[str, Tensor]], scenes: Sequence[Scene], formats: Sequence[str],
    skeleton: Skeleton, fps: float, human: HumanBody | None = None,
) -> None:  # fmt: skip
    """BVH and GLB of named motions [T, J, 3] in OUT/bvh and OUT/glb, and OUT/STEM.html of the scenes."""
    endings = [name for name in ENDINGS if name in formats]
    for number, (name, motion) in enumerate(motions if endings else ()):
        places = {ending: place_of(out, number, name, ending) for ending in endings}
        write_fitted(places, motion, skeleton, fps, name, human)
    if "page" in formats:
        text = page(scenes, skeleton, fps, f"{stem} of {out.parent.name}", body=human)
        write_bytes(str(out / f"{stem}.html"), text.encode())


def place_of(out: Path, number: int, name: str, ending: str) -> Path:
    """Where the BVH or GLB of a named motion is."""
    label = f"{number:03}-{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')[:40]}".rstrip("-")
    return out / ending / f"{label}.{ending}"


@contextlib.contextmanager
def replacing(out: Path, stem: str, motions: Sequence[tuple[str, Tensor]], formats: Sequence[str]) -> Iterator[None]:
    """Within, files of named motions [T, J, 3] are written to OUT; then those of an earlier command's others go.

    OUT/.STEM.json has a hash of the motions and of each file of theirs. What is not listed there, was changed since, or
    lies elsewhere behind a link, stays.
    """
    yield
    record, digest = out / f".{stem}.json", hashlib.sha256(repr([name for name, _ in motions]).encode())
    for _, motion in motions:
        digest.update(motion.numpy().tobytes())
    places = [out / f"{stem}.{'html' if name == 'page' else name}" for name in formats if name not in ENDINGS]
    places += [place_of(out, i, name, end) for i, (name, _) in enumerate(motions) for end in ENDINGS if end in formats]
    files = {place.relative_to(out).as_posix(): hash_of(place) for place in places}
    before: dict[str, Any] = {}
    with contextlib.suppress(DatasetError):  # without a record that can be read there is none
        before = read_json(record, "written")
    if before.get("motions") == digest.hexdigest():
        files = {**before["files"], **files}
    elif before:
        listed = {out / name: was for name, was in before["files"].items() if name not in files}
        inside = (place for place in listed if place.is_file() and not leads_out(str(place), str(out)))
        gone = [place for place in inside if hash_of(place) == listed[place]]
        for place in gone:
            place.unlink()
        if gone:
            console.print(f"{out}: {counted(len(gone), 'file')} of earlier motions removed", soft_wrap=True)
    write_bytes(str(record), text_of({"motions": digest.hexdigest(), "files": files}).encode())


def say_where(out: Path, stem: str, formats: Sequence[str]) -> None:
    """Print what to do with what was written."""
    if "page" in formats:
        console.print(f"Next: open {out / stem}.html in a browser", soft_wrap=True)
    else:
        say_next(f"view {quoted(out)}")


@dataclass(frozen=True)
class Sample:
    """Sample motions from a trained run."""

    run: Path | None = None
    """Folder of a run, with model*.pt and args.json."""
    checkpoint: Path | None = None
    """Instead of --run: a folder, or one checkpoint with its args.json beside it."""
    text: tuple[str, ...] = ()
    """Captions; without any, those of the training clips."""
    prompts: Path | None = None
    """A file with a caption a line, perhaps with a tab and seconds behind it."""
    count: int = 8
    """Motions when no caption is given, or variants of each caption."""
    variants: int = 0
    """Variants of each caption; 0: as --count says."""
    frames: int = 0
    """Length of each motion; 0: the longest that was trained."""
    seconds: tuple[float, ...] = ()
    """Length in seconds instead: one for all, or one for each --text."""
    seed: int = 0
    """Seed of the noise."""
    guidance: float = 1.0
    """Classifier-free guidance scale."""
    ddim: int = 0
    """Steps of DDIM, fewer than the schedule has; 0: all steps, with noise."""
    trained_on: Path | None = None
    """Where the data set that the run was trained on lies now, if not where args.json says."""
    mdm: str = ""
    """MDM checkout the run was trained in; empty: the stand-in."""
    out: Path | None = None
    """Folder to write to, by default RUN/samples; files of an earlier sampling there go, but for what was changed."""
    formats: str = ",".join(FORMATS)
    """What to write: arrays, BVH and GLB for other programs, a page for the browser, a picture."""
    body: str = "auto"
    """What GLB and page show: anny, a human mesh (extra `body`), sticks, or auto: anny where it is installed."""

    def __call__(self) -> int:
        place, formats = self.place(), chosen(self.formats)
        if self.count < 1 or self.variants < 0 or self.frames < 0:
            raise ConfigError("--count: expected 1 or more; --variants, --frames: 0 or more. Correct it.")
        asked = captions(self)
        trained = opened(place, self.mdm, self.trained_on)
        if asked and trained.without_text:
            raise ConfigError("--text, --prompts: expected none for a run trained with --unconstrained. Leave it out.")
        times = self.variants or self.count
        wanted = [(text, length(self, seconds, trained)) for text, seconds in asked for _ in range(times)]
        if not asked:
            wanted = sampling.prompts(trained.dataset, self.count, self.seed)
            if self.frames or self.seconds:
                frames = length(self, next(iter(self.seconds), None), trained)
                wanted = [(text, frames) for text, _ in wanted]
        out = self.out or (place if place.is_dir() else place.parent) / "samples"
        with locks.held(out):
            self.make(out, trained, wanted, formats)
        return 0

    def make(self, out: Path, trained: Trained, wanted: Sequence[tuple[str, int]], formats: Sequence[str]) -> None:
        """Sample motions for captions and lengths, and write them."""
        check_writable(str(out))
        drawn = {"glb", "page"} & set(formats)
        human = human_body(self.body, trained.space.skeleton) if drawn else None
        console.print(f"sampling {counted(len(wanted), 'motion')}")
        seed, guidance, bar = self.seed, self.guidance, console.is_terminal
        made = sampling.sample(trained, wanted, seed=seed, guidance=guidance, ddim=self.ddim, progress=bar)
        said = [caption for caption, _ in wanted]
        named = list(zip(said, made, strict=True))
        skeleton, fps = trained.space.skeleton, trained.fps
        scenes = [Scene(text, [Track.of("sample", motion.numpy(), skeleton)]) for text, motion in named]
        with replacing(out, "samples", named, formats):
            write(out, "samples", named, scenes, formats, skeleton, fps, human)
            if "png" in formats:
                shown = [figures.Example(text, {"sample": motion.numpy()}) for text, motion in named[:6]]
                figures.save(figures.strips(shown, skeleton, fps), str(out / "samples.png"))
            if "npz" in formats:
                sampling.write_motions(out / "samples.npz", {"samples": made}, said)
        console.print(f"{out}: {counted(len(made), 'motion')}, {' '.join(formats)}", soft_wrap=True)
        say_where(out, "samples", formats)

    def place(self) -> Path:
        """The run or checkpoint that is named."""
        named = [place for place in (self.run, self.checkpoint) if place is not None]
        if len(named) != 1:
            found = "both" if named else "none"
            raise ConfigError(f"--run, --checkpoint: expected one of the two, found {found}. Name a run's folder.")
        return named[0]


def opened(checkpoint: Path, mdm: str, clips: Path | None = None) -> Trained:
    """The run of a verb, which works as one process."""
    distributed.check_one_process()
    with console.status("loading the checkpoint"):
        return sampling.open_run(checkpoint, mdm=mdm, clips=str(clips or ""))


def captions(options: Sample) -> list[Wanted]:
    """What is asked for by --text and --prompts."""
    if options.seconds and options.frames:
        raise ConfigError("--seconds, --frames: expected one of the two, found both. Leave one out.")
    given = options.seconds
    if len(given) > 1 and len(given) != len(options.text):
        expected = f"one for all, or one for each of {len(options.text)} --text"
        raise ConfigError(f"--seconds: expected {expected}, found {len(given)}. Correct it.")
    lengths = given if len(given) > 1 else [given[0] if given else None] * len(options.text)
    asked: list[Wanted] = [
        (checked(text, f"--text {number}"), seconds)
        for number, (text, seconds) in enumerate(zip(options.text, lengths, strict=True), 1)
    ]
    return asked + (read_prompts(options.prompts, given[0] if len(given) == 1 else None) if options.prompts else [])


def checked(text: str, place: str) -> str:
    """The caption, if an encoder can read it."""
    text = " ".join(text.split())
    if not text or len(text) > LONGEST_CAPTION:
        found = f"{len(text)} characters, {text[:30]!r}" if text else "an empty one"
        raise ConfigError(
            f"{place}: expected a caption of 1 to {LONGEST_CAPTION} characters, found {found}. "
            f"{'Describe one motion in a sentence or two' if text else 'Write what the person does'}."
        )
    return text


def read_prompts(path: Path, usual: float | None) -> list[Wanted]:
    """A caption a line, perhaps with a tab and seconds behind it; empty lines do not count."""
    asked: list[Wanted] = []
    for number, line in enumerate(read_text(str(path)).splitlines(), 1):
        text, tab, told = line.partition("\t")
        if not line.strip():
            continue
        try:
            seconds = float(told) if tab and told.strip() else usual
        except ValueError as error:
            raise ConfigError(
                f"{path}, line {number}: expected CAPTION or CAPTION<tab>SECONDS, found {told!r} behind the tab. "
                "Correct the line."
            ) from error
        asked.append((checked(text, f"{path}, line {number}"), seconds))
    if not asked:
        raise ConfigError(f"{path}: expected a caption a line, found none. Write one.")
    return asked


def length(options: Sample, seconds: float | None, trained: Trained) -> int:
    """Frames of a motion, from its seconds or else from --frames; no more than were trained."""
    longest, fps = trained.dataset.batch_length, trained.fps
    if seconds is None:
        if options.frames > longest or options.frames == 1:
            raise ConfigError(
                f"--frames: expected {longest} or fewer, the longest that was trained, and {FEWEST_FRAMES} or more, "
                f"found {options.frames}. Correct it."
            )
        return options.frames or longest
    if not math.isfinite(seconds) or not FEWEST_FRAMES <= round(seconds * fps) <= longest:
        raise ConfigError(
            f"--seconds: expected {FEWEST_FRAMES / fps:g} to {longest / fps:g} s, the longest that was trained "
            f"({longest} frames at {fps:g} fps), found {seconds:g}. Correct it."
        )
    return round(seconds * fps)


@dataclass(frozen=True)
class Lift:
    """Lift a data set's 2D keypoints to 3D with a trained run, drawn towards the keypoints' rays at every step."""

    clips: Path
    """Folder of a data set."""
    checkpoint: Path
    """Folder of a run, or one checkpoint with its args.json beside it."""
    ids: tuple[str, ...] = ()
    """Clips of any split; without any, those of --split."""
    split: str = "test"
    """train, val or test."""
    teacher: str = "auto"
    """What sampling starts from: lifted, refined, or auto: what the run was trained on, refined for a 3D one."""
    guidance_strength: float = 1.0
    """Fraction of the way to the rays, times the squared confidence; 0 samples without keypoints."""
    start: float = 0.2
    """Share of the schedule to whose noise the teacher is taken; 1: noise alone, the teacher gives the camera only."""
    overlap: float = 0.25
    """Share of a window that the next one covers too, for clips longer than the run's crops."""
    draws: int = 1
    """Draws of noise; their mean is written."""
    ddim: int = 10
    """Steps of DDIM over the whole schedule; 0: all steps, with noise."""
    guidance: float = 1.0
    """Classifier-free guidance scale of the captions."""
    seed: int = 0
    """Seed of the noise."""
    trained_on: Path | None = None
    """Where the data set that the run was trained on lies now, if not where args.json says."""
    mdm: str = ""
    """MDM checkout the run was trained in; empty: the stand-in."""
    out: Path = Path("runs/lifted")
    """Folder to write to; files of an earlier lifting there go, but for what was changed."""
    formats: str = "npz,page"
    """What to write: npz, page, bvh, glb."""
    by_action: bool = False
    """Print the errors of each action too: of the clips that have one first caption."""
    write_teacher: Path | None = None
    """Also write ID.npz for `videomdm data import ... --lifter joints --option results=THIS`."""

    def __call__(self) -> int:
        formats = chosen(self.formats)
        if "png" in formats:
            raise ConfigError("--formats: expected npz, page, bvh or glb, found png. Use page.")
        how = lifting.Lifting(
            strength=self.guidance_strength, start=self.start, overlap=self.overlap, draws=self.draws, ddim=self.ddim,
            text_scale=self.guidance, seed=self.seed,
        )  # fmt: skip
        folder, card = str(self.clips), seal.verify(str(self.clips))
        clips = [read_clip(folder, card, clip_id) for clip_id in chosen_ids(folder, card, self.ids, self.split)]
        trained = opened(self.checkpoint, self.mdm, self.trained_on)
        for clip in clips:
            lifting.check(clip, trained)
        with contextlib.ExitStack() as stack:
            for place in filter(None, (self.out, self.write_teacher)):
                stack.enter_context(locks.held(place))
                check_writable(str(place))
            return self.lift(clips, card, trained, how, formats)

    def lift(
        self, clips: Sequence[Clip], card: Card, trained: Trained, how: lifting.Lifting, formats: Sequence[str]
    ) -> int:
        """Lift the clips and write what came of them."""
        folder, kind = str(self.clips), teacher_kind(self.teacher, trained)
        with console.status(f"reading the {kind} teachers"):
            taught, _ = with_teacher(folder, card, clips, kind)
        with counting("lifting") as step:
            made = lifting.lift(trained, taught, how, progress=step)
        sources = {"lifted teacher": [teacher_of(clip) for clip in clips]}
        if kind == "refined":
            sources["refined teacher"] = [teacher_of(clip) for clip in taught]
        sources[PRIOR] = made
        report(self.out, clips, sources, by_action=self.by_action)
        write_lifted(self.out, clips, taught if kind == "refined" else None, sources, formats)
        if not self.write_teacher:
            say_where(self.out, "lifted", formats)
            return 0
        for clip, motion in zip(clips, made, strict=True):  # in the camera's axes, as the lifter `joints` reads them
            content = io.BytesIO()
            np.savez_compressed(content, joints=motion.numpy())
            write_bytes(str(self.write_teacher / f"{clip.id}.npz"), content.getvalue())
        extra = "" if card.skeleton == "smpl22" else f" --option lifter.skeleton={card.skeleton}"
        say_next(f"data import KIND SOURCE --lifter joints --option results={quoted(self.write_teacher)}{extra}")
        return 0


def teacher_kind(asked: str, trained: Trained) -> str:
    """lifted or refined. The truth, which a 3D run is trained on, is never what lifting starts from."""
    if asked not in ("auto", "lifted", "refined"):
        raise ConfigError(f"--teacher: expected auto, lifted or refined, found {asked!r}. Correct it.")
    if asked != "auto":
        return asked
    return "lifted" if from_args(Supervision, trained.args).teacher == "lifted" else "refined"


def report(
    out: Path, clips: Sequence[Clip], sources: Mapping[str, Sequence[Tensor]], *, by_action: bool = False
) -> None:
    """Print the mean errors, with `by_action` of each action too, and write those of each clip to OUT/lifted.json."""
    rows = {
        name: [lifting.measure(motion, clip) for motion, clip in zip(motions, clips, strict=True)]
        for name, motions in sources.items()
    }
    means = {name: lifting.means(found) for name, found in rows.items()}
    each = [{"id": clip.id} | {name: rows[name][i] for name in rows} for i, clip in enumerate(clips)]
    content = text_of({"units": "metres, seconds, shares", "mean": means, "clips": each}, indent=1)
    write_bytes(str(out / "lifted.json"), content.encode())
    truths = sum(clip.truth is not None for clip in clips)
    many = counted(len(clips), "clip")
    console.print(f"{many}, {truths} with a truth; means over clips, mm where no other unit is named")
    console.print(lifting.table(means), soft_wrap=True, highlight=False)
    actions = {name: lifting.by_action(found, clips) for name, found in rows.items()} if by_action else {}
    for action in next(iter(actions.values()), {}):
        console.print(f"\n{action}", markup=False)
        table = lifting.table({name: found[action] for name, found in actions.items()})
        console.print(table, soft_wrap=True, highlight=False)


def write_lifted(
    out: Path, clips: Sequence[Clip], refined: Sequence[Clip] | None, sources: Mapping[str, Sequence[Tensor]],
    formats: Sequence[str],
) -> None:  # fmt: skip
    """Motions [T, J, 3] in camera coordinates, written in the frame of each clip's teacher, and the page."""
    groups = {name.replace(" ", "_"): motions for name, motions in sources.items() if name != PRIOR}
    truths = [truth for clip in clips if (truth := truth_of(clip)) is not None]
    groups |= {"lifted": sources[PRIOR]} | ({"truth": truths} if len(truths) == len(clips) else {})
    placed = {
        name: [to_world(m, cameras_of(clip.extrinsics)) for m, clip in zip(motions, clips, strict=True)]
        for name, motions in groups.items()
    }
    made = placed["lifted"]
    scenes = [
        clip_scene(clip, refined=refined[i] if refined else None, more=[Track(PRIOR, made[i].numpy())])
        for i, clip in enumerate(clips)
    ]
    named = list(zip([clip.id for clip in clips], made, strict=True))
    with replacing(out, "lifted", named, formats):
        if "npz" in formats:
            sampling.write_motions(out / "lifted.npz", placed, [clip.texts[0] for clip in clips])
        write(out, "lifted", named, scenes, formats, clips[0].skeleton, clips[0].fps)
    console.print(f"{out}: {' '.join(formats)}, lifted.json", soft_wrap=True)
