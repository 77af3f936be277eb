"""The verb `sample`: motions for captions from a trained run, as arrays, files for other programs, and a page."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from videomdm_ext.cli.console import console, parse, quoted
from videomdm_ext.data.files import check_writable, read_text, write_bytes
from videomdm_ext.errors import ConfigError
from videomdm_ext.inference import sample as sampling
from videomdm_ext.inference.sample import Trained
from videomdm_ext.motion.skeletons import Skeleton
from videomdm_ext.render import figures
from videomdm_ext.render.bvh import to_bvh
from videomdm_ext.render.fitting import fit
from videomdm_ext.render.glb import to_glb
from videomdm_ext.render.page import Scene, Track, page

FORMATS = ("npz", "bvh", "glb", "page", "png")
LONGEST_CAPTION = 1000
"""Characters; text encoders read some 20 to 250 words, and drop the rest unsaid."""
FEWEST_FRAMES = 2

Wanted = tuple[str, float | None]
"""A caption and seconds, None for the longest that was trained."""


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
    mdm: str = ""
    """MDM checkout the run was trained in; empty: the stand-in."""
    out: Path | None = None
    """Folder to write to; by default RUN/samples."""
    formats: str = ",".join(FORMATS)
    """What to write: arrays, BVH and GLB for other programs, a page for the browser, a picture."""


def sample(words: Sequence[str]) -> int:
    """Motions in every format that is asked for."""
    options = parse(Sample, "sample", words)
    place, formats = _place(options), chosen(options.formats)
    if options.count < 1 or options.variants < 0 or options.frames < 0:
        raise ConfigError("--count: expected 1 or more; --variants, --frames: 0 or more. Correct it.")
    asked = captions(options)
    with console.status("loading the checkpoint"):
        trained = sampling.open_run(place, mdm=options.mdm)
    if asked:
        if trained.without_text:
            raise ConfigError("--text, --prompts: expected none for a run trained with --unconstrained. Leave it out.")
        times = options.variants or options.count
        wanted = [(text, length(options, seconds, trained)) for text, seconds in asked for _ in range(times)]
    else:
        wanted = sampling.prompts(trained.dataset, options.count, options.seed)
        if options.frames or options.seconds:
            wanted = [(text, length(options, next(iter(options.seconds), None), trained)) for text, _ in wanted]
    out = options.out or (place if place.is_dir() else place.parent) / "samples"
    check_writable(str(out))
    console.print(f"sampling {len(wanted)} motions")
    seed, guidance, ddim, bar = options.seed, options.guidance, options.ddim, console.is_terminal
    made = sampling.sample(trained, wanted, seed=seed, guidance=guidance, ddim=ddim, progress=bar)
    said = [caption for caption, _ in wanted]
    skeleton, fps = trained.space.skeleton, trained.fps
    scenes = [Scene(text, [Track.of("sample", m.numpy(), skeleton)]) for text, m in zip(said, made, strict=True)]
    if "npz" in formats:
        sampling.write_motions(out / "samples.npz", {"samples": made}, said)
    write(out, "samples", list(zip(said, made, strict=True)), scenes, formats, skeleton, fps)
    if "png" in formats:
        shown = [figures.Example(caption, {"sample": m.numpy()}) for caption, m in zip(said[:6], made[:6], strict=True)]
        figures.save(figures.strips(shown, skeleton, fps), str(out / "samples.png"))
    console.print(f"{out}: {len(made)} motions, {' '.join(formats)}", soft_wrap=True)
    console.print(next_command(out, "samples", formats), soft_wrap=True)
    return 0


def next_command(out: Path, stem: str, formats: Sequence[str]) -> str:
    """What to do with what was written."""
    if "page" in formats:
        return f"Next: open {out / stem}.html in a browser"
    return f"Next: videomdm view {quoted(out)}"


def chosen(formats: str) -> list[str]:
    """The formats of a list with commas; what a picture needs is looked for before any work."""
    found = [name.strip() for name in formats.split(",") if name.strip()]
    if not found or any(name not in FORMATS for name in found):
        raise ConfigError(f"--formats: expected names among {','.join(FORMATS)}, found {formats!r}. Correct it.")
    if "png" in found:
        figures.require()
    return found


def _place(options: Sample) -> Path:
    """The run or checkpoint that is named."""
    named = [place for place in (options.run, options.checkpoint) if place is not None]
    if len(named) != 1:
        raise ConfigError(
            f"--run, --checkpoint: expected one of the two, found {'both' if named else 'none'}. Name a run's folder."
        )
    return named[0]


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
    for number, line in enumerate(read_text(str(path)).removeprefix("\ufeff").splitlines(), 1):
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


def write(
    out: Path,
    stem: str,
    motions: Sequence[tuple[str, Tensor]],
    scenes: Sequence[Scene],
    formats: Sequence[str],
    skeleton: Skeleton,
    fps: float,
) -> None:
    """BVH and GLB of named motions [T, J, 3] in OUT/bvh and OUT/glb, and OUT/STEM.html of the scenes."""
    for number, (name, motion) in enumerate(motions):
        if not {"bvh", "glb"} & set(formats):
            break
        fitted = fit(motion, skeleton, fps)
        label = f"{number:03}-{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')[:40]}".rstrip("-")
        if "bvh" in formats:
            write_bytes(str(out / "bvh" / f"{label}.bvh"), to_bvh(fitted, skeleton, fps).encode())
        if "glb" in formats:
            write_bytes(str(out / "glb" / f"{label}.glb"), to_glb(fitted, skeleton, fps, name))
    if "page" in formats:
        write_bytes(str(out / f"{stem}.html"), page(scenes, skeleton, fps, f"{stem} of {out.parent.name}").encode())
