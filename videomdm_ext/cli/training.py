"""The verbs `demo`, `data make-demo`, `data refine`, `data refresh` and `train`."""

import dataclasses
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from videomdm_ext import run
from videomdm_ext.bench.fairness import check_numbers
from videomdm_ext.bench.plan import DEMO, Plan, load_arm
from videomdm_ext.bench.report.tables import markdown_block
from videomdm_ext.bench.report.video_demo import table
from videomdm_ext.bench.run import Bench
from videomdm_ext.bench.video_demo import run_video_demo
from videomdm_ext.cli.benchmarking import show, text_choice
from videomdm_ext.cli.console import (
    bars,
    by_name,
    clips_of,
    console,
    counting,
    lifter_summary,
    parse,
    quoted,
    say_next,
    take,
)
from videomdm_ext.cli.sampling import opened
from videomdm_ext.data import importing, locks, seal
from videomdm_ext.data.clip import measured_error
from videomdm_ext.data.film.bundled import EVERYDAY, build_film_demo, recipe
from videomdm_ext.data.folder import CARD, Card, read_card, read_folder
from videomdm_ext.data.importing import with_lifter
from videomdm_ext.data.motions import VIEWS, build_demo
from videomdm_ext.data.refined import BATCH, is_made, make_refined, read_refined
from videomdm_ext.data.tasks import HERE, Engine, share_of
from videomdm_ext.errors import ConfigError, counted
from videomdm_ext.inference.lift import Lifting
from videomdm_ext.inference.refresh import REFRESHING, refresh_folder
from videomdm_ext.mdm import distributed
from videomdm_ext.mdm.resume import LATEST, newest, step_of
from videomdm_ext.render import figures

VIDEO_STEPS = 1200
"""Steps of the trainings on videos, unless asked for others."""
LONG: dict[str, Any] = {"seeds": 3, "steps": 4000, "samples": 256}
"""What `demo --long` has other than `demo`."""
FEWEST_STEPS = 50
"""Of a demo's training."""
MEASURED = {"mpjpe": "MPJPE", "root_aligned_mpjpe": "root-aligned", "pa_mpjpe": "PA"}
"""Figures of a teacher's error that are printed."""


@dataclass(frozen=True)
class Demo:
    """Make a data set of real motion, train 3D and 2D arms on it with equal seeds and steps, and compare them.

    The options are those of `bench`, with smaller values.
    """

    out: Path | None = None
    """Folder for everything the demo makes, by default runs/demo; started again, it goes on from what is there."""
    fast: bool = False
    """Few steps, one film of each of all fifteen motions: a minute or two, and too short to mean anything."""
    long: bool = False
    """All fifteen motions, three seeds, 4,000 steps."""
    workers: int = 2
    """Trainings at a time, one thread each."""
    video: bool = False
    """Instead of motion capture: real videos, one view at a time, judged by all four views (extra `video`); of the plan
    only the steps are taken, 1,200 by default."""
    plan: Plan = DEMO


def demo(words: Sequence[str]) -> int:
    """The main job on bundled real motion."""
    options = parse(Demo, "demo", words)
    figures.require()
    distributed.check_one_process()
    plan = options.plan
    if options.workers < 1 or plan.steps < FEWEST_STEPS:
        raise ConfigError(f"--workers: expected 1 or more, and --steps {FEWEST_STEPS} or more. Correct it.")
    if options.video:
        given = any(word.split("=")[0] == "--steps" for word in words)
        return video_demo(options, plan.steps if given else VIDEO_STEPS)
    if options.fast and options.long:
        raise ConfigError("--fast, --long: expected one of them. Leave the other out.")
    if options.fast:
        plan = dataclasses.replace(plan, seeds=1, steps=min(plan.steps, 120), samples=24)
    if options.long:
        longer = {name: value for name, value in LONG.items() if getattr(plan, name) == getattr(DEMO, name)}
        plan = dataclasses.replace(plan, **longer)
    check_numbers(plan)
    out = options.out or Path("runs/demo" + "-fast" * options.fast + "-long" * options.long)
    features = text_choice(plan.text_features)
    with locks.held(out):
        return compared(plan, out, features, options, words)


def compared(plan: Plan, out: Path, features: str, options: Demo, words: Sequence[str]) -> int:
    """The data set, the comparison of a plan on it in the folder `out`, and what came of it."""
    console.print("[bold]1/4[/] real motion, filmed; its keypoints and 3D as MediaPipe found them")
    card = _demo_data(out / "data", () if options.long or options.fast else EVERYDAY, 1 if options.fast else VIEWS)
    console.print(f"    {clips_of(card)}; the lifter is off by {lifter_summary(card)}")
    plan = dataclasses.replace(plan, clips=str(out / "data"), content=card.content_hash, text_features=features)
    with bars() as progress:
        made = Bench(plan, out, Engine(processes=options.workers), ["videomdm", "demo", *words], by_name(progress))
        console.print("[bold]2/4[/] teachers: the lifted motion, and where an arm asks for it, refined")
        made.prepare()
        say_refined(plan.clips)
        many = counted(len(plan.runs()), "training")
        console.print(f"[bold]3/4[/] {many} of {plan.steps} steps, {options.workers} at a time")
        made.train()
        console.print("[bold]4/4[/] scores and pictures")
        results, place = made.report(made.score())
    return show(results, place, f"view {quoted(out)}")


def video_demo(options: Demo, steps: int) -> int:
    """From videos to a trained model, and what its depth is worth beside four views."""
    out, own = options.out or Path("runs/demo-video"), dataclasses.replace(options.plan, steps=DEMO.steps)
    refused = [name for name, value in vars(own).items() if value != getattr(DEMO, name)] + [
        name for name in ("fast", "long") if getattr(options, name)
    ]
    if refused:
        raise ConfigError(f"--{refused[0].replace('_', '-')}: expected none with --video, which has its own. Leave it.")
    console.print("real videos: detect, lift, place before a camera, train, judge by all views")
    with locks.held(out), bars() as progress:
        made = run_video_demo(out, steps=steps, workers=options.workers, progress=by_name(progress))
    console.print(markdown_block(table(made.rows)))
    console.print(f"Report: {made.report}")
    say_next(f"data show {quoted(out / 'data')} cam01_0")
    return 0


def _demo_data(data: Path, motions: Sequence[str], views: int) -> Card:
    """The demo's data set, made unless it is there with the same recipe."""
    if (data / "dataset.json").is_file():
        card = read_card(str(data))
        made = recipe(motions, views)
        if any(card.recipe.get(name) != made.get(name) for name in ("film", "views", "motions")):
            raise ConfigError(
                f"{data}: expected the clips of this demo, found those of one with other motions or films (--fast, "
                "--long, or an earlier version). Choose another --out."
            )
        return card
    with console.status("making the data set"):
        return build_film_demo(str(data), motions=motions, views=views)


@dataclass(frozen=True)
class MakeDemo:
    """Make the demo's data set alone."""

    out: Path = Path("runs/demo/data")
    """Folder of the data set."""
    synthetic: bool = False
    """Cameras, a detector and a lifter of our own making, in place of the films and what MediaPipe saw in them."""
    seed: int = 0
    """Seed of cameras, detector and lifter, with --synthetic."""
    views: int = 2
    """Cameras a variant of a motion, with --synthetic."""
    fast: bool = False
    """One view and the recorded pace only."""

    def __call__(self) -> int:
        if not self.synthetic and (self.seed, self.views) != (0, 2):
            raise ConfigError(
                "--seed, --views: expected --synthetic with them, found none: the films are made. Add it."
            )
        if self.synthetic:
            card = build_demo(str(self.out), seed=self.seed, views=self.views, fast=self.fast)
        else:
            card = build_film_demo(str(self.out), views=1 if self.fast else VIEWS)
        console.print(f"{self.out}: {clips_of(card)}, content {card.content_hash[:12]}; {lifter_summary(card)}")
        say_next(f"train --arm 2d --clips {quoted(self.out)} --save_dir runs/2d")
        return 0


@dataclass(frozen=True)
class Refine:
    """Move a data set's lifted teachers along their keypoints' rays, with one skeleton and smooth motion."""

    clips: Annotated[Path, tyro.conf.Positional]
    """Folder of a data set; an interrupted refinement goes on."""
    engine: Engine = HERE
    shard: str = "1/1"
    """Refine one of several parts, as 3/8; all write into DIR, together or one after the other, and the last one to end
    finishes the whole."""
    batch: int = BATCH
    """Clips that a process solves at the same time; take 256 on a GPU."""
    device: str = "cpu"
    """What computes, as torch calls it."""
    verify: bool = False
    """Read every file of the set and every refined teacher; else those whose size or time is another than before."""
    kind: Literal["refined", "adjusted", "smoothed"] = "refined"
    """Teachers to make: refined, adjusted (without its distribution of poses), or smoothed in time."""
    lifter: str = ""
    """Whose motion to refine, of those that the set has (data relift); by default the set's own."""

    def __call__(self) -> int:
        clips, share = with_lifter(str(self.clips), self.lifter), share_of(self.shard)
        if self.batch < 1:
            raise ConfigError(f"--batch: expected 1 or more, found {self.batch}. Correct it.")
        try:
            torch.zeros(1, device=self.device)
        except (RuntimeError, AssertionError) as error:
            raise ConfigError(
                f"--device {self.device}: expected a device of torch's, as cpu or cuda, found none here ({error})."
            ) from error
        how: dict[str, Any] = {"engine": self.engine, "batch": self.batch, "device": self.device}
        how |= {"thorough": self.verify, "kind": self.kind}
        with counting("refining") as step:
            missing = make_refined(clips, read_card(clips), step, share=share, **how)
        if missing:
            console.print(
                f"{clips}: shard {self.shard} is done; batches of clips of other shards that are missing: {missing}."
            )
            return 0
        say_refined(clips, self.kind)
        arm = "2d" if self.kind == "refined" else self.kind
        say_next(f"train --arm {arm} --clips {quoted(clips)} --save_dir runs/{arm}")
        return 0


def say_refined(path: str, kind: str = "refined") -> None:
    """How far the refined teachers of the training clips are off, where a truth tells."""
    card, clips = read_folder(path, "train")
    if not is_made(path, card, kind):
        return
    some = clips[:: max(len(clips) // importing.MEASURED, 1)]
    errors = [measured_error(some, made) for made in (some, read_refined(path, card, some, kind)[0])]
    if all(errors):
        lifted, refined = ({name: 1000 * error[name] for name in MEASURED} for error in errors)
        parts = [f"{label} {lifted[name]:.0f} -> {refined[name]:.0f}" for name, label in MEASURED.items()]
        console.print(f"    lifted -> {kind} teachers, mm from the truth: {', '.join(parts)}")


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

    def __call__(self) -> int:
        self.make()
        say_next(f"train --arm 2d --clips {quoted(self.out)} --save_dir runs/2d-r1")
        return 0

    def make(self) -> None:
        """Make the data set and print what became of its teachers; started again, it goes on."""
        card = seal.verify(str(self.clips))
        trained = opened(self.checkpoint, self.mdm, self.trained_on)
        how = Lifting(
            strength=self.guidance_strength, start=self.start, draws=self.draws, seed=self.seed,
            ddim=self.ddim or min(REFRESHING.ddim, trained.diffusion.num_timesteps),
        )  # fmt: skip
        with counting("refreshing") as step:
            made, kept = refresh_folder(trained, str(self.clips), card, str(self.out), how, step)
        clips = counted(sum(made.counts.values()), "clip")
        console.print(f"{self.out}: round {made.recipe['refreshed']['round']}, {clips}")
        if kept:
            console.print(f"    {len(kept)} keep their teacher, such as {kept[0]}")
        for name, one in (("before", card), ("after", made)):
            if one.lifter_error:
                console.print(f"    teachers {name}: {lifter_summary(one)}", soft_wrap=True)


def train(words: Sequence[str]) -> int:
    """`videomdm train [--mdm PATH] [--arm NAME] [--from CHECKPOINT] [--rounds N] [--lifter NAME] HOST-OPTIONS`: the
    host's trainer with an arm's options. --lifter names one whose teachers the set of --clips has (`data relift`).

    Under 2D supervision its loss is that of `videomdm_ext/mdm/loss.py`.
    """
    own, rest = dict[str, str | None](), list(words)
    for name in ("mdm", "arm", "rounds", "from", "lifter"):
        own[name], rest = take(rest, f"--{name}")
    mdm, arm, rounds, start, lifter = own.values()
    if lifter is not None:
        clips, rest = take(rest, "--clips")
        if not clips:
            raise ConfigError(f"--lifter {lifter}: expected --clips with the data set, found none. Name it.")
        rest = [*rest, "--clips", with_lifter(clips, lifter)]
    rest = [*rest, *(["--start_from", start] if start else [])]
    host = ["--mdm", mdm] if mdm else []
    given = [*(load_arm(arm).flags if arm else []), *rest]
    folder, _ = take(rest, "--save_dir")
    if rounds is None:
        status = run.main([*host, "train.train_mdm", *given])
    else:
        with locks.held(f"{Path(folder or 'no')}.rounds"):  # each training locks the folder itself
            status = in_rounds(rounds, mdm or "", given)
    if status == 0 and folder:
        where = f" --mdm {quoted(mdm)}" if mdm else ""
        said = "" if "--unconstrained" in rest else ' --text "a person walks."'
        say_next(f"sample --checkpoint {quoted(folder)}{where}{said}")
    return status


def in_rounds(rounds: str, mdm: str, words: Sequence[str]) -> int:
    """Train in rounds of expectation-maximisation: the steps are shared out, and after each round but the last the run
    lifts its own clips, which are the next round's data set, SAVE_DIR/teachers-ROUND. Started again, it goes on; with
    other rounds, steps or clips it is refused.

    Returns the exit status of the training that did not end well, or 0.
    """
    distributed.check_one_process()
    steps, rest = take(list(words), "--num_steps")
    clips, rest = take(rest, "--clips")
    resumed, rest = take(rest, "--resume_checkpoint")
    folder, _ = take(rest, "--save_dir")
    number, total = (int(text) if text.isdecimal() else 0 for text in (rounds, steps or ""))
    if not (clips and folder and resumed in (None, LATEST) and 1 <= number <= total):
        raise ConfigError(
            f"--rounds {rounds}: expected a number of rounds, with --clips, --save_dir, --num_steps of at least a step "
            f"a round, and no --resume_checkpoint but {LATEST}; found --num_steps {steps}. Correct the options."
        )
    for done in range(number):
        after, goal, last = Path(folder, f"teachers-{done + 1}"), total * (done + 1) // number, done + 1 == number
        if after.exists() if last else _of_others(after, clips, goal):
            raise ConfigError(
                f"--save_dir {folder}: expected none but what --rounds {rounds} with --num_steps {steps} and the same "
                f"--clips made, found other rounds ({after}). Give the options of the first start, or another folder."
            )
        reached = newest(folder)
        if reached is not None and step_of(reached) > goal and not (after / CARD).is_file():
            raise ConfigError(
                f"--save_dir {folder}: expected no more than the {goal} steps of round {done + 1}, found "
                f"{reached.name}. Give the options of the first start, put {after} back, or choose another folder."
            )
        if not after.exists():
            console.print(f"round {done + 1} of {number}: trained on {clips}", markup=False)
            words = [*(["--mdm", mdm] if mdm else []), "train.train_mdm", *rest]
            words += ["--paired"] * ("--paired" not in rest)
            words += ["--clips", clips, "--num_steps", str(goal), "--resume_checkpoint", LATEST]
            status = subprocess.run([sys.executable, "-m", "videomdm_ext.run", *words], check=False).returncode
            if status:
                return status
        if not last:
            if not (after / CARD).is_file():
                Refresh(clips=Path(clips), checkpoint=Path(folder), out=after, mdm=mdm).make()
            clips = str(after)
    return 0


def _of_others(made: Path, clips: str, goal: int) -> bool:
    """Whether the teachers that lie there are not those of `clips` after `goal` steps."""
    source = read_card(clips).content_hash
    if not (made / CARD).is_file():
        return False
    past = read_card(str(made)).recipe.get("refreshed", {})
    return past.get("from") != source or not str(past.get("checkpoint")).endswith(f"model{goal:09d}.pt")
