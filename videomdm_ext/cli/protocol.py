"""`videomdm bench --protocol mdm`: the published evaluation, through an MDM checkout's own code."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from videomdm_ext.bench import protocol_mdm
from videomdm_ext.bench.protocol_mdm import Asked, Evaluated, Settings
from videomdm_ext.bench.protocol_mdm_report import document
from videomdm_ext.cli.console import bars, by_name, console, parse
from videomdm_ext.data.files import check_writable, write_bytes
from videomdm_ext.errors import ConfigError
from videomdm_ext.mdm import checkout


@dataclass(frozen=True)
class Protocol:
    """MDM's own evaluation of trained runs, through a checkout's own code; hours a run, and it goes on from where it
    was."""

    out: Path | None = None
    """Folder of a bench, whose runs are evaluated unless others are named; protocol_mdm.md and the logs go there."""
    run: tuple[Path, ...] = ()
    """Folders of trained runs."""
    model_path: tuple[Path, ...] = ()
    """Checkpoints, where not the last of a run is wanted."""
    mdm: str = "auto"
    """MDM checkout with the evaluator's files; auto searches for one."""
    eval_mode: Literal["wo_mm", "debug", "mm_short"] = "wo_mm"
    """wo_mm: 20 replications, as published; debug: 5; mm_short: 5, with multimodality."""
    guidance: float = 2.5
    """Classifier-free guidance, MDM's own default."""
    seed: int = 10
    """Seed of the evaluation, MDM's own default."""


def protocol(words: Sequence[str]) -> int:
    """Evaluate what is asked for, run by run; the report is written after each."""
    options = parse(Protocol, "bench --protocol mdm", words)
    host = checkout.find(None if options.mdm == "auto" else options.mdm)
    asked, out = _asked(options)
    settings = Settings(options.eval_mode, options.guidance, options.seed)
    protocol_mdm.check(host, asked)
    check_writable(str(out))
    evaluated: list[Evaluated] = []
    with bars() as progress:
        watch = by_name(progress)
        for run in asked:
            evaluated.append(protocol_mdm.evaluate(host, run, settings, out, watch))
            _write(evaluated, settings, out)
    console.print((out / "protocol_mdm.md").read_text(encoding="utf-8"), markup=False)
    console.print(f"{out / 'protocol_mdm.json'}: every number\nNext: videomdm bench ls {out.parent}")
    return 0


def _asked(options: Protocol) -> tuple[list[Asked], Path]:
    """The checkpoints to evaluate, and where the results go."""
    named = [
        *map(protocol_mdm.of_run, options.run),
        *map(protocol_mdm.of_checkpoint, options.model_path),
    ]
    if named:
        return named, options.out or Path("runs/protocol_mdm")
    if options.out is None:
        raise ConfigError(
            "--out, --run, --model_path: expected the folder of a bench, of runs, or a checkpoint, found none. "
            "Name one of them."
        )
    return protocol_mdm.runs_of_bench(options.out), options.out


def _write(evaluated: Sequence[Evaluated], settings: Settings, out: Path) -> None:
    write_bytes(str(out / "protocol_mdm.json"), protocol_mdm.as_json(evaluated, settings).encode())
    write_bytes(str(out / "protocol_mdm.md"), document(evaluated, settings).encode())
