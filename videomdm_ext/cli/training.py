"""The verbs of the command line: read arguments, call the library, show progress, say what comes next."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.markup import escape

from videomdm_ext import run
from videomdm_ext.bench import drawing
from videomdm_ext.bench import run as engine
from videomdm_ext.bench.arms import load_arm
from videomdm_ext.bench.collect import gather, tell
from videomdm_ext.bench.plan import Plan, read_plan
from videomdm_ext.bench.report import terminal_table, write
from videomdm_ext.bench.results import headline, verdict
from videomdm_ext.bench.scoring import make_scoring
from videomdm_ext.bench.video_demo import run_video_demo
from videomdm_ext.bench.video_demo_report import table
from videomdm_ext.cli.console import bars, by_name, console, counting, lifter_summary, parse, say_refined
from videomdm_ext.data.card import Card
from videomdm_ext.data.demo import build_demo
from videomdm_ext.data.files import check_writable
from videomdm_ext.data.folder import read_card
from videomdm_ext.data.refined import make_refined
from videomdm_ext.errors import ConfigError
from videomdm_ext.mdm import text

STEPS = 360
"""Steps of the demo's trainings, unless asked for others."""
VIDEO_STEPS = 1200
"""The same, of those on videos."""
NOT_FOR_VIDEOS = ("seeds", "batch_size", "average", "adam_beta2", "arms", "fast", "text_features")


@dataclass(frozen=True)
class Demo:
    """Make a data set of real motion, train 3D and 2D arms on it with equal seeds and steps, and compare them."""

    out: Path | None = None
    """Folder for everything the demo makes, by default runs/demo; started again, it goes on from what is there."""
    seeds: int = 5
    """Trainings of each arm."""
    steps: int | None = None
    """Steps of each training, by default 360, with --video 1,200; the learning rate falls to zero over them."""
    batch_size: int = 16
    """Crops of a step."""
    average: float = 0.99
    """Decay of the weights' moving average; longer trainings bear a longer one."""
    adam_beta2: float = 0.999
    """Decay of the optimizer's squared gradients."""
    arms: tuple[str, ...] = ("3d", "lifted", "2d")
    """Names in configs/arms, or YAML files."""
    fast: bool = False
    """One seed, few steps, a quarter of the data: a minute or two, and too short to mean anything."""
    workers: int = 2
    """Trainings at a time, one thread each."""
    text_features: str = "auto"
    """words, minilm, or auto: MiniLM where it is installed."""
    video: bool = False
    """Instead of motion capture: real videos, one view at a time, judged by all four views (extra `video`)."""


def demo(words: Sequence[str]) -> int:
    """The main job on bundled real motion."""
    options = parse(Demo, "demo", words)
    drawing.require()
    steps = options.steps if options.steps is not None else VIDEO_STEPS if options.video else STEPS
    if min(options.seeds, options.workers, options.batch_size) < 1 or steps < 50:
        raise ConfigError("--seeds, --workers, --batch-size: expected 1 or more, and --steps 50 or more. Correct it.")
    if options.video:
        return video_demo(options, steps)
    if not (0 <= options.average < 1 and 0 < options.adam_beta2 < 1):
        raise ConfigError("--average and --adam-beta2: expected numbers from 0 to under 1. Correct the option.")
    out = options.out or Path("runs/demo-fast" if options.fast else "runs/demo")
    check_writable(str(out))
    data = out / "data"
    console.print("[bold]1/4[/] real motion, seen by cameras and lifted with errors")
    card = _demo_data(data, options.fast)
    console.print(f"    {card.counts} clips; the lifter is off by {lifter_summary(card)}")
    features = text_choice(options.text_features)
    plan = Plan(
        clips=str(data),
        content=card.content_hash,
        arms=options.arms,
        seeds=options.seeds,
        steps=steps,
        batch_size=options.batch_size,
        average=options.average,
        adam_beta2=options.adam_beta2,
        text_features=features,
    )
    if options.fast:
        plan = dataclasses.replace(plan, seeds=1, steps=min(steps, 120), samples=24)
    return compare(plan, out, options.workers)


def video_demo(options: Demo, steps: int) -> int:
    """From videos to a trained model, and what its depth is worth beside four views."""
    out = options.out or Path("runs/demo-video")
    ignored = [name for name in NOT_FOR_VIDEOS if getattr(options, name) != getattr(Demo, name)]
    if ignored:
        raise ConfigError(f"--{ignored[0].replace('_', '-')}: expected none with --video, which has its own. Leave it.")
    check_writable(str(out))
    console.print("real videos: detect, lift, place before a camera, train, judge by all views")
    with bars() as progress:
        move = by_name(progress)

        def training(done: Mapping[str, int]) -> None:
            for name, done_steps in done.items():
                move(f"training {name}", done_steps, steps)

        made = run_video_demo(out, steps=steps, workers=options.workers, watching=move, training=training)
    console.print(table(made.rows))
    console.print(f"Report: {made.report}\nNext: videomdm data show {out / 'data'} cam01_0")
    return 0


def _demo_data(data: Path, fast: bool) -> Card:
    """The demo's data set, made unless it is there with the same recipe."""
    if (data / "dataset.json").is_file():
        card = read_card(str(data))
        if (card.recipe.get("views") == 1) != fast:
            raise ConfigError(
                f"{data}: holds the data of a demo {'without' if fast else 'with'} --fast. Choose another --out."
            )
        return card
    with console.status("making the data set"):
        return build_demo(str(data), fast=fast)


def text_choice(asked: str) -> str:
    """`auto` resolved; what was chosen is printed, recorded with the run, and stated in the report."""
    if asked not in ("auto", *text.ENCODERS):
        raise ConfigError(f"--text-features: expected auto, {', '.join(text.ENCODERS)}, found {asked!r}.")
    chosen = asked if asked != "auto" else "minilm" if text.available("minilm") else "words"
    console.print(f"    text features: {chosen}")
    return chosen


def compare(plan: Plan, out: Path, workers: int) -> int:
    """Run the stages of a comparison that are left, and show the result."""
    console.print("[bold]2/4[/] the 2D arm's teacher, refined on the rays of its keypoints")
    with bars() as progress:
        engine.prepare(plan, out, counting(progress, "refining"))
    say_refined(plan.clips)
    console.print(f"[bold]3/4[/] {len(plan.runs())} trainings of {plan.steps} steps, {workers} at a time")
    with bars() as progress:
        tasks = {r.name: progress.add_task(r.name, total=plan.steps, completed=r.steps_done(out)) for r in plan.runs()}

        def watch(done: Mapping[str, int]) -> None:
            for name, steps in done.items():
                progress.update(tasks[name], completed=steps)

        engine.execute(plan, out, workers=workers, watch=watch)
    console.print("[bold]4/4[/] scores and pictures")
    return show(plan, out)


def show(plan: Plan, out: Path) -> int:
    """Score, write the report, print the table and the verdict."""
    with console.status("scoring"):
        scoring = make_scoring(plan, out)
        results = gather(plan, out, scoring)
        place = write(results, out, tell(plan, out, results, scoring))
    console.print(terminal_table(results))
    for sentence in [
        *(f"[bold]{escape(sentence)}[/]" for sentence in headline(results)),
        *map(escape, verdict(results)),
    ]:
        console.print(sentence)
    console.print(f"\nReport: {place}\nNext: videomdm view {out}")
    return 0


@dataclass(frozen=True)
class MakeDemo:
    """Make the demo's data set alone."""

    out: Path = Path("runs/demo/data")
    """Folder of the data set."""
    seed: int = 0
    """Seed of cameras, detector and lifter."""
    views: int = 2
    """Cameras a variant of a motion."""
    fast: bool = False
    """One view and the recorded pace only."""


def make_demo(words: Sequence[str]) -> int:
    """The demo's data set."""
    options = parse(MakeDemo, "data make-demo", words)
    card = build_demo(str(options.out), seed=options.seed, views=options.views, fast=options.fast)
    console.print(f"{options.out}: {card.counts} clips, content {card.content_hash[:12]}; {lifter_summary(card)}")
    console.print(f"Next: videomdm train --arm 2d --clips {options.out} --save_dir runs/2d")
    return 0


@dataclass(frozen=True)
class Refine:
    """Move a data set's lifted teachers along their keypoints' rays, with one skeleton and smooth motion."""

    clips: Annotated[Path, tyro.conf.Positional]
    """Folder of a data set."""


def refine(words: Sequence[str]) -> int:
    """Refined teachers beside the lifted ones."""
    options = parse(Refine, "data refine", words)
    with bars() as progress:
        make_refined(str(options.clips), read_card(str(options.clips)), counting(progress, "refining"))
    say_refined(str(options.clips))
    console.print(f"Next: videomdm train --arm 2d --clips {options.clips} --save_dir runs/2d")
    return 0


def train(words: Sequence[str]) -> int:
    """`videomdm train [--mdm PATH] [--arm NAME] HOST-OPTIONS`: the host's trainer with an arm's options in front."""
    mdm, rest = _take(list(words), "--mdm")
    arm, rest = _take(rest, "--arm")
    flags = load_arm(arm).flags if arm else []
    status = run.main([*(["--mdm", mdm] if mdm else []), "train.train_mdm", *flags, *rest])
    folder, _ = _take(rest, "--save_dir")
    if status == 0 and folder:
        where = f" --mdm {mdm}" if mdm else ""
        console.print(f'Next: videomdm sample --checkpoint {folder}{where} --text "a person walks."', markup=False)
    return status


def _take(words: list[str], option: str) -> tuple[str | None, list[str]]:
    """The value of an option, and the words without it."""
    for index, word in enumerate(words):
        if word.startswith(f"{option}="):
            return word.split("=", 1)[1], words[:index] + words[index + 1 :]
        if word == option:
            if index + 1 == len(words):
                raise ConfigError(f"{option}: expected a value behind it, found none.")
            return words[index + 1], words[:index] + words[index + 2 :]
    return None, words


@dataclass(frozen=True)
class Report:
    """Score a comparison again and rewrite its report."""

    out: Annotated[Path, tyro.conf.Positional] = Path("runs/demo")
    """Folder of a comparison, with plan.json."""


def report(words: Sequence[str]) -> int:
    """The report from saved samples."""
    options = parse(Report, "report", words)
    drawing.require()
    return show(read_plan(options.out), options.out)
