"""The verb `bench speed`: where the time of a training step goes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.table import Table

from videomdm_ext.cli.console import bars, console, counting, parse
from videomdm_ext.data.files import check_writable
from videomdm_ext.errors import ConfigError, HostError
from videomdm_ext.mdm import checkout
from videomdm_ext.mdm.speed.measure import PARTS, PHASES, Sizes, Speeds, measure

COLUMNS = {
    "stock": ("stock MDM", ("later epochs",)),
    "3d": ("3d", ("later epochs",)),
    "3d --text_once": ("3d --text_once", PHASES),
    "2d": ("2d, no unrolling", ("later epochs",)),
}
"""What is shown of each variant; epochs are alike where no text is kept."""


@dataclass(frozen=True)
class BenchSpeed:
    """Time the parts of a training step: MDM as it is, with this package in 3D, and in 2D without unrolling."""

    mdm: str = "auto"
    """MDM checkout; auto searches for one."""
    standin: bool = False
    """Time the stand-in instead, which has no stock variant."""
    batch: int = 64
    """Clips of a step."""
    frames: int = 196
    """Frames of a clip."""
    layers: int = 8
    """Layers of the denoiser."""
    width: int = 512
    """Width of the denoiser."""
    steps: int = 5
    """Steps timed in each phase; the median is shown."""
    threads: int = 0
    """Threads of each process; 0: torch's own choice."""
    cpu_time: bool = False
    """Count the processes' CPU seconds instead of the clock's, for a machine that others use at the same time."""
    out: Path | None = None
    """Folder for speed.json."""


def speed(words: Sequence[str]) -> int:
    """Measure, print, write."""
    options = parse(BenchSpeed, "bench speed", words)
    if min(options.batch, options.layers, options.steps) < 1 or options.frames < 16 or options.width % 8:
        raise ConfigError(
            "--batch, --layers, --steps: expected 1 or more; --frames: 16 or more; --width: a multiple of 8. "
            "Correct the option."
        )
    if options.out is not None:
        check_writable(str(options.out))
    threads = options.threads or torch.get_num_threads()
    sizes = Sizes(
        options.batch, options.frames, options.layers, options.width, options.steps, threads, options.cpu_time
    )
    with bars() as progress:
        speeds = measure(_host(options), sizes, counting(progress, "steps"))
    show(speeds)
    if options.out is not None:
        (options.out / "speed.json").write_text(speeds.as_json(), encoding="utf-8")
        console.print(f"{options.out / 'speed.json'}: every number\nNext: videomdm bench --dataset DIR --mdm PATH")
    return 0


def _host(options: BenchSpeed) -> checkout.Checkout:
    if options.standin:
        return checkout.standin()
    try:
        return checkout.find(None if options.mdm == "auto" else options.mdm)
    except HostError as error:
        raise HostError(f"{error} videomdm host pin says which, or time the stand-in with --standin.") from error


def show(speeds: Speeds) -> None:
    """The table and what follows from it."""
    console.print(table(speeds))
    sizes = speeds.sizes
    console.print(f"{speeds.device}; text: {speeds.text}")
    console.print(
        f"{sizes.pool} captions, each drawn once an epoch; --text_once keeps them. Medians of {sizes.steps} steps, "
        "taken in turns."
    )
    for name, ratio in speeds.ratios().items():
        console.print(f"{name}: {ratio:.2f}")
    if speeds.same_weights is not None:
        equal = "equal, bit for bit" if speeds.same_weights else "[bold red]different[/]"
        console.print(f"Weights of stock MDM and of ours in 3d after these steps: {equal}")


def table(speeds: Speeds) -> Table:
    """Seconds by part, a column for each variant and phase."""
    sizes = speeds.sizes
    unit = "CPU seconds" if sizes.cpu_time else "seconds"
    title = f"A step of {sizes.batch} clips, {sizes.frames} frames, {sizes.layers} layers of {sizes.width}; {unit}"
    made = Table(title=title, title_justify="left")
    made.add_column("part")
    shown = [(v, name, phase) for v, (name, phases) in COLUMNS.items() for phase in phases if v in speeds.timings]
    for variant, name, phase in shown:
        made.add_column(f"{name}\n{phase}" if variant == "3d --text_once" else name, justify="right")
    for part in (*PARTS, "total"):
        cells = [f"{speeds.timings[variant].seconds[phase][part]:.3f}" for variant, _, phase in shown]
        made.add_row(part, *cells, style="bold" if part == "total" else None)
    return made
