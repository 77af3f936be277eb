"""What the named savings cost: motions sampled with each, beside those of full precision with the same draws.

The same checkpoint, captions and noise, so that a saving shows by itself: the Fréchet distance in an evaluator's space
between its motions and those of full precision, and how far the positions are apart. A second set of full precision
with other noise gives the scale: that far apart are two equal samplers.
"""

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from videomdm_ext import plugins
from videomdm_ext.bench.evaluators.base import Evaluator, Ground
from videomdm_ext.bench.metrics import frechet, gaussian
from videomdm_ext.bench.report.tables import Table, markdown_block
from videomdm_ext.data.folder import read_card
from videomdm_ext.errors import ConfigError
from videomdm_ext.inference import sample
from videomdm_ext.mdm import checkout, hook

FULL, OTHER_NOISE = "full precision", "full precision, other noise"
SAVINGS = {
    OTHER_NOISE: (),
    "--autocast bf16": ("--autocast", "bf16"),
    "--tf32": ("--tf32",),
    "--compile_model": ("--compile_model",),
    "--one_pass_guidance": ("--one_pass_guidance",),
}
"""Rows of the table, with the words of the command line."""
GUIDANCE = 2.5
"""MDM's own, so that there is something to do in one pass."""


def measure(place: Path, *, mdm: str, count: int, name: str, seed: int, watch: Callable[[int, int], None]) -> str:
    """A table, as Markdown: of each saving what it costs in the space of the evaluator `name`, how far positions are
    apart, and the seconds to sample; or why there is none here.

    `place` is a run or a checkpoint. `watch` gets the sets sampled and their number.
    """
    host, path = checkout.choose(mdm), sample.find_checkpoint(place)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    before = torch.get_float32_matmul_precision()

    def motions(words: Sequence[str], seed: int) -> tuple[list[Tensor], float]:
        argv, sys.argv = sys.argv, [sys.argv[0], *words]  # where the host's programs find them
        try:
            trained = sample.load(host, path, device=device)
            wanted = sample.prompts(trained.dataset, count, 0)
            sample.sample(trained, wanted[:64], seed=seed, guidance=GUIDANCE, ddim=2)
            start = time.perf_counter()
            made = sample.sample(trained, wanted, seed=seed, guidance=GUIDANCE)
            return made, time.perf_counter() - start
        finally:
            sys.argv = argv
            torch.set_float32_matmul_precision(before)

    trained = sample.load(host, path)
    clips, fps = trained.args.clips, trained.fps
    evaluators = plugins.collect(hook.manager(), "evaluators")
    if name not in evaluators:
        raise ConfigError(f"--evaluator: expected one of {', '.join(evaluators)}, found {name!r}. Correct it.")
    evaluator: Evaluator = evaluators[name](Ground(clips, read_card(clips), path.parent / "evaluators"))
    own, seconds = motions((), seed)
    centre = gaussian(evaluator.motions(own, fps))
    rows = [[FULL, "", "", "", f"{seconds:.1f}"]]
    for number, (saving, words) in enumerate(SAVINGS.items()):
        watch(number + 1, len(SAVINGS) + 1)
        if saving == "--tf32" and device == "cpu":
            rows.append([saving, "no GPU here", "", "", ""])
            continue
        try:
            made, took = motions(words, seed + (saving == OTHER_NOISE))
        except RuntimeError as error:  # as without a C++ compiler
            rows.append([saving, f"failed: {type(error).__name__}", "", "", ""])
            continue
        apart = [(one - other).norm(dim=-1) for one, other in zip(made, own, strict=True)]
        largest, mean = max(float(part.max()) for part in apart), float(torch.cat(apart).mean())
        distance = frechet(*gaussian(evaluator.motions(made, fps)), *centre)
        rows.append([saving, f"{distance:.2g}", f"{largest:.1e}", f"{mean:.1e}", f"{took:.1f}"])
    watch(len(SAVINGS) + 1, len(SAVINGS) + 1)
    head = [f"{count} motions", f"FID in `{name}`", "largest difference, m", "mean, m", "seconds"]
    return markdown_block(Table(head, rows)) + "\n"
