"""The verb `lift`: 2D keypoints and a camera to 3D with a trained prior, and its errors where a truth tells."""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from torch import Tensor

from videomdm_ext.cli.console import bars, chosen_ids, console, counting, lifter_summary, parse, quoted
from videomdm_ext.cli.sampling import chosen, next_command, write
from videomdm_ext.config import Supervision, from_args
from videomdm_ext.data.clip import Clip
from videomdm_ext.data.files import check_writable, write_bytes
from videomdm_ext.data.folder import Card, read_card, read_clip
from videomdm_ext.errors import ConfigError
from videomdm_ext.geometry.cameras import to_world
from videomdm_ext.inference import lift as lifting
from videomdm_ext.inference import sample as sampling
from videomdm_ext.inference.lift import Lifting, cameras_of
from videomdm_ext.inference.refresh import REFRESHING, refresh_folder
from videomdm_ext.inference.sample import Trained
from videomdm_ext.mdm.data import with_teacher
from videomdm_ext.render.page import clip_scene

PRIOR = "prior"
"""What its motions are called beside those of the teachers."""


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
    """Folder to write to."""
    formats: str = "npz,page"
    """What to write: npz, page, bvh, glb."""
    write_teacher: Path | None = None
    """Also write ID.npz for `videomdm data import ... --lifter joints --option results=THIS`."""


def lift(words: Sequence[str]) -> int:
    """Lifted motions, their errors beside the teachers', and what uses them next."""
    options = parse(Lift, "lift", words)
    formats = chosen(options.formats)
    if "png" in formats:
        raise ConfigError("--formats: expected npz, page, bvh or glb, found png. Use page.")
    how = how_to(options)
    card = read_card(str(options.clips))
    clips = str(options.clips)
    found = [read_clip(clips, card, clip_id) for clip_id in chosen_ids(clips, card, options.ids, options.split)]
    with console.status("loading the checkpoint"):
        trained = sampling.open_run(options.checkpoint, mdm=options.mdm, clips=str(options.trained_on or ""))
    for clip in found:
        lifting.check(clip, trained)
    for place in filter(None, (options.out, options.write_teacher)):
        check_writable(str(place))
    kind = teacher_kind(options.teacher, trained)
    taught = taught_by(kind, options, card, found)
    with bars() as progress:
        made = lifting.lift(trained, taught, how, progress=counting(progress, "lifting"))
    sources = {"lifted teacher": [lifting.teacher_of(clip) for clip in found]}
    if kind == "refined":
        sources["refined teacher"] = [lifting.teacher_of(clip) for clip in taught]
    sources[PRIOR] = made
    report(options.out, found, sources)
    write_all(options, found, taught if kind == "refined" else None, sources, formats)
    return 0


def how_to(options: Lift) -> Lifting:
    """The options as what the library takes, checked."""
    return Lifting(
        strength=options.guidance_strength,
        start=options.start,
        overlap=options.overlap,
        draws=options.draws,
        ddim=options.ddim,
        text_scale=options.guidance,
        seed=options.seed,
    )


def teacher_kind(asked: str, trained: Trained) -> str:
    """lifted or refined. The truth, which a 3D run is trained on, is never what lifting starts from."""
    if asked not in ("auto", "lifted", "refined"):
        raise ConfigError(f"--teacher: expected auto, lifted or refined, found {asked!r}. Correct it.")
    if asked != "auto":
        return asked
    return "lifted" if from_args(Supervision, trained.args).teacher == "lifted" else "refined"


def taught_by(kind: str, options: Lift, card: Card, found: Sequence[Clip]) -> list[Clip]:
    """The clips with the teacher that sampling starts from."""
    with console.status(f"reading the {kind} teachers"):
        taught, _ = with_teacher(str(options.clips), card, found, kind)
    return taught


def report(out: Path, clips: Sequence[Clip], sources: dict[str, list[Tensor]]) -> None:
    """Print the mean errors, and write those of each clip to OUT/lifted.json."""
    rows = {
        name: [lifting.measure(motion, clip) for motion, clip in zip(motions, clips, strict=True)]
        for name, motions in sources.items()
    }
    means = {name: lifting.means(found) for name, found in rows.items()}
    each = [{"id": clip.id} | {name: rows[name][i] for name in rows} for i, clip in enumerate(clips)]
    content = json.dumps({"units": "metres, seconds, shares", "mean": means, "clips": each}, indent=1)
    write_bytes(str(out / "lifted.json"), content.encode())
    truths = sum(clip.truth is not None for clip in clips)
    console.print(f"{len(clips)} clips, {truths} with a truth; means over clips, mm where no other unit is named")
    console.print(lifting.table(means), soft_wrap=True, highlight=False)


def write_all(
    options: Lift,
    clips: Sequence[Clip],
    refined: Sequence[Clip] | None,
    sources: dict[str, list[Tensor]],
    formats: Sequence[str],
) -> None:
    """Motions in the frame of each clip's teacher, the page, and results for a lifter's reader."""
    groups = {name.replace(" ", "_"): in_world(motions, clips) for name, motions in sources.items()}
    groups["lifted"] = groups.pop(PRIOR)
    truths = [truth for clip in clips if (truth := lifting.truth_of(clip)) is not None]
    if len(truths) == len(clips):
        groups["truth"] = in_world(truths, clips)
    out, skeleton, fps = options.out, clips[0].skeleton, clips[0].fps
    if "npz" in formats:
        sampling.write_motions(out / "lifted.npz", groups, [clip.texts[0] for clip in clips])
    scenes = [
        clip_scene(clip, refined=refined[i] if refined else None, more={PRIOR: groups["lifted"][i].numpy()})
        for i, clip in enumerate(clips)
    ]
    named = list(zip([clip.id for clip in clips], groups["lifted"], strict=True))
    write(out, "lifted", named, scenes, formats, skeleton, fps)
    console.print(f"{out}: {' '.join(formats)}, lifted.json", soft_wrap=True)
    if options.write_teacher:
        for clip, motion in zip(clips, sources[PRIOR], strict=True):
            write_result(options.write_teacher / f"{clip.id}.npz", motion)
        extra = "" if skeleton.name == "smpl22" else f" --option lifter.skeleton={skeleton.name}"
        to_use = f"--lifter joints --option results={quoted(options.write_teacher)}{extra}"
        console.print(f"Next: videomdm data import KIND SOURCE {to_use}", soft_wrap=True)
    else:
        console.print(next_command(out, "lifted", formats), soft_wrap=True)


def in_world(motions: Sequence[Tensor], clips: Sequence[Clip]) -> list[Tensor]:
    """Motions [T, J, 3] in camera coordinates, in the canonical frame of each clip's teacher."""
    return [to_world(motion, cameras_of(clip.extrinsics)) for motion, clip in zip(motions, clips, strict=True)]


def write_result(path: Path, motion: Tensor) -> None:
    """One clip's joints [T, J, 3], metres, in the camera's axes frame by frame, as the lifter `joints` reads them."""
    content = io.BytesIO()
    np.savez_compressed(content, joints=motion.numpy())
    write_bytes(str(path), content.getvalue())


@dataclass(frozen=True)
class Refresh:
    """Make the next round's data set: a trained run lifts the clips that it was trained on, and these are the teachers.

    Keypoints and truth stay. Train on OUT again, from the run's weights with --resume_checkpoint or afresh.
    """

    clips: Annotated[Path, tyro.conf.Positional]
    """Folder of a data set."""
    checkpoint: Path
    """Folder of a run, or one checkpoint with its args.json beside it."""
    out: Path
    """Folder of the new data set."""
    guidance_strength: float = REFRESHING.strength
    """Fraction of the way to the rays, times the squared confidence."""
    start: float = REFRESHING.start
    """Share of the schedule to whose noise the teacher is taken."""
    draws: int = REFRESHING.draws
    """Draws of noise; their mean is the teacher."""
    ddim: int = 0
    """Steps of DDIM over the whole schedule; 0: 25, or as many as it has."""
    seed: int = 0
    """Seed of the noise."""
    trained_on: Path | None = None
    """Where the data set that the run was trained on lies now, if not where args.json says."""
    mdm: str = ""
    """MDM checkout the run was trained in; empty: the stand-in."""


def refresh(words: Sequence[str]) -> int:
    """A data set with refreshed teachers, and how far they are off where a truth tells."""
    options = parse(Refresh, "data refresh", words)
    refresh_once(options)
    out = quoted(options.out)
    console.print(f"Next: videomdm train --arm 2d --clips {out} --save_dir runs/2d-r1", soft_wrap=True)
    return 0


def refresh_once(options: Refresh) -> None:
    """Make the data set and print what became of its teachers; started again, it goes on."""
    card = read_card(str(options.clips))
    check_writable(str(options.out))
    with console.status("loading the checkpoint"):
        trained = sampling.open_run(options.checkpoint, mdm=options.mdm, clips=str(options.trained_on or ""))
    how = Lifting(
        strength=options.guidance_strength, start=options.start, draws=options.draws, seed=options.seed,
        ddim=options.ddim or min(REFRESHING.ddim, trained.diffusion.num_timesteps),
    )  # fmt: skip
    with bars() as progress:
        made, kept = refresh_folder(
            trained, str(options.clips), card, str(options.out), how, counting(progress, "refreshing")
        )
    console.print(f"{options.out}: round {made.recipe['refreshed']['round']}, {sum(made.counts.values())} clips")
    if kept:
        console.print(f"    {len(kept)} keep their teacher, such as {kept[0]}")
    for name, one in (("before", card), ("after", made)):
        if one.lifter_error:
            console.print(f"    teachers {name}: {lifter_summary(one)}", soft_wrap=True)
