"""The verbs `bench speed`, what the parts of a training step take, and `bench precision`, what savings of bits cost."""

from dataclasses import dataclass, fields
from pathlib import Path

import torch
from rich.table import Table

from videomdm_ext.bench import precision
from videomdm_ext.cli.console import console, counting, say_next
from videomdm_ext.data.files import check_writable, write_bytes
from videomdm_ext.errors import ConfigError, HostError
from videomdm_ext.mdm import checkout
from videomdm_ext.mdm.speed import device
from videomdm_ext.mdm.speed.measure import PARTS, PHASES, Sizes, Speeds, measure

COLUMNS = {
    "stock": ("stock MDM", ("later epochs",)),
    "3d": ("3d", ("later epochs",)),
    "3d --encode_once": ("3d --encode_once", PHASES),
    "2d": ("2d, no unrolling", ("later epochs",)),
}
"""What `bench speed` shows of each variant; epochs are alike where no text is kept."""


@dataclass(frozen=True)
class Speed:
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
    """Folder for speed.json, or gpu.md."""
    checks: bool = False
    """Measure what docs/gpu.md asks of a GPU (or of a CPU, at a small size) instead, and print it as Markdown."""
    many: int = 1000
    """With --checks: motions to sample, and clips to refine."""

    def __call__(self) -> int:
        if min(self.batch, self.layers, self.steps, self.many) < 1 or self.frames < 16 or self.width % 8:
            raise ConfigError(
                "--batch, --layers, --steps, --many: expected 1 or more; --frames: 16 or more; --width: a multiple of "
                "8. Correct the option."
            )
        if self.out is not None:
            check_writable(str(self.out))
        given = {item.name: getattr(self, item.name) for item in fields(Sizes)}
        sizes = Sizes(**given | {"threads": self.threads or torch.get_num_threads()})
        try:
            host = checkout.standin() if self.standin else checkout.find(None if self.mdm == "auto" else self.mdm)
        except HostError as error:
            raise HostError(f"{error} Or time the stand-in with --standin.") from error
        if self.checks:
            with counting("steps") as step:
                table = device.report(host, sizes, step)
            print(table)
            if self.out is not None:
                write_bytes(str(self.out / "gpu.md"), table.encode())
            return 0
        with counting("steps") as step:
            speeds = measure(host, sizes, step)
        _show_speeds(speeds)
        if self.out is not None:
            write_bytes(str(self.out / "speed.json"), speeds.as_json().encode())
            console.print(f"{self.out / 'speed.json'}: every number")
            say_next("bench --dataset DIR --mdm PATH")
        return 0


@dataclass(frozen=True)
class Precision:
    """Sample a run with each saving of the options for speed, and beside full precision; the table is Markdown."""

    run: Path
    """Folder of a run, or a checkpoint with its args.json beside it."""
    mdm: str = ""
    """MDM checkout the run was trained in; empty: the stand-in."""
    count: int = 1000
    """Motions."""
    evaluator: str = "text-motion"
    """Whose space the Fréchet distance is taken in; it is kept, or made, in RUN/evaluators."""
    seed: int = 0
    """Seed of the noise."""
    out: Path | None = None
    """Write the table to this file too."""

    def __call__(self) -> int:
        if self.count < 2:
            raise ConfigError(f"--count: expected 2 or more motions, found {self.count}. Correct it.")
        if self.out is not None:
            check_writable(str(self.out.resolve().parent))
        with counting("sets of motions") as watch:
            table = precision.measure(
                self.run, mdm=self.mdm, count=self.count, name=self.evaluator, seed=self.seed, watch=watch
            )
        print(table)
        if self.out is not None:
            write_bytes(str(self.out.resolve()), table.encode())
        say_next("sample --run RUN")
        return 0


def _show_speeds(speeds: Speeds) -> None:
    """Print seconds by part, a column for each variant and phase, and what follows from them."""
    sizes = speeds.sizes
    unit = "CPU seconds" if sizes.cpu_time else "seconds"
    title = f"A step of {sizes.batch} clips, {sizes.frames} frames, {sizes.layers} layers of {sizes.width}; {unit}"
    table = Table(title=title, title_justify="left")
    table.add_column("part")
    shown = [(v, name, phase) for v, (name, phases) in COLUMNS.items() for phase in phases if v in speeds.timings]
    for variant, name, phase in shown:
        table.add_column(f"{name}\n{phase}" if variant == "3d --encode_once" else name, justify="right")
    for part in (*PARTS, "total"):
        cells = [f"{speeds.timings[variant].seconds[phase][part]:.3f}" for variant, _, phase in shown]
        table.add_row(part, *cells, style="bold" if part == "total" else None)
    console.print(table)
    console.print(f"{speeds.device}; text: {speeds.text}")
    console.print(
        f"{sizes.pool} captions, each drawn once an epoch; --encode_once keeps them. Medians of {sizes.steps} steps, "
        "taken in turns."
    )
    for name, ratio in speeds.ratios().items():
        console.print(f"{name}: {ratio:.2f}")
    if speeds.same_weights is not None:
        equal = "equal, bit for bit" if speeds.same_weights else "[bold red]different[/]"
        console.print(f"Weights of stock MDM and of ours in 3d after these steps: {equal}")
