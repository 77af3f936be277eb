"""The tables of scores: arms with intervals, calibration rows, what may rank, and paired comparisons."""

import math
import statistics
from collections.abc import Mapping, Sequence

from videomdm_ext.bench.document import Block, Items, Table, plain
from videomdm_ext.bench.metrics import by_name
from videomdm_ext.bench.numerals import estimate_text, number, p_text, ratio_text
from videomdm_ext.bench.plan import CONTROL, FULL, REFERENCE
from videomdm_ext.bench.results import Arm, Results
from videomdm_ext.bench.statistics import ClipInterval, mean_interval
from videomdm_ext.bench.verdict import (
    Comparison,
    ablation_verdict,
    ablations,
    compare_with,
    compared_arms,
    over_clips,
    variation_verdict,
    variations,
)

CALIBRATION = ("truth", "split halves", "teacher", "static pose", "shuffled captions")
READING = (
    "Fréchet distances and errors are best at 0, all other scores at the truth's own value. *Split halves*: one half "
    "of the true clips against the other. *Teacher*: the lifted motion itself. *Static pose*: the mean pose, held."
)
TESTED = (
    "Errors are distances to the best score. ± is a t interval of 95 % for the metric by itself; p: paired t test, "
    "among all metrics (claims in strong metrics come first, the others follow by Holm), sign flips. What could be "
    "detected: with a probability of 0.8."
)
CONTROL_TEXT = (
    f"Seeds paired. Gap closed: ({CONTROL} - arm) / ({CONTROL} - {REFERENCE}), "
    f"with Fieller's interval of 95 %. {TESTED}"
)
READ_AS_ABOVE = "Seeds paired; read as above."
P_COLUMNS = ("p", "p, all metrics", "p, sign flips")
OUTCOMES = {"unclaimed": "nothing claimed: the headline metric shows no difference", "single": "one seed"}
PARTED = (
    " The distance to an arm's own training data is what its denoiser got wrong, that of the data to the truth what "
    "its teacher did."
)
SHUFFLED = " *Shuffled captions*: the truth with captions that are not its own."


def label(name: str) -> str:
    """A metric's label and unit."""
    metric = by_name(name)
    return plain(f"{metric.label} ({metric.unit})" if metric.unit else metric.label)


def score_table(results: Results) -> Table:
    """A row for each metric, a column for each arm and each calibration row that there is; dim: may not rank."""
    names = [plain(arm.name) + (" (frozen)" if results.frozen(arm) else "") for arm in results.arms]
    reference_rows = CALIBRATION if results.reference_rows.shuffled else CALIBRATION[:-1]
    rows = [_score_row(results, name) for name in results.metrics]
    quiet = [index for index, name in enumerate(results.metrics) if name not in results.ranking_metrics]
    return Table(["metric", *names, *reference_rows, "may rank"], rows, quiet=quiet)


def _score_row(results: Results, name: str) -> list[str]:
    metric = by_name(name)
    values = [list(arm.values(name).values()) for arm in results.arms]
    cells = [estimate_text(mean_interval(found), metric.scale) if found else number(None) for found in values]
    return [label(name), *cells, *_calibration_cells(results, name), _yes(results.reference_rows.ranking(name)[0])]


def _calibration_cells(results: Results, name: str) -> list[str]:
    metric, reference_rows = by_name(name), results.reference_rows
    floor = number(reference_rows.floor.get(name) if metric.kind != "column" else None, metric.scale)
    if metric.kind == "level" and name in reference_rows.floor:
        floor = f"± {floor}"
    truth = metric.best if metric.kind == "paired" else reference_rows.truth.get(name)
    rows = [
        reference_rows.teacher,
        reference_rows.static,
        *([reference_rows.shuffled] if reference_rows.shuffled else []),
    ]
    return [number(truth, metric.scale), floor, *(number(row.get(name), metric.scale) for row in rows)]


def _yes(is_so: bool) -> str:
    return "yes" if is_so else "no"


def seeds_text(results: Results) -> str:
    """What a ± is made of."""
    seeds = list(dict.fromkeys(run.seed for arm in results.arms for run in arm.trainings))
    listed = ", ".join(str(seed) for seed in seeds)
    interval = (
        "mean ± half-width of the 95 % t interval over seeds (ddof 1)" if len(seeds) > 1 else "one seed, no interval"
    )
    return f"N = {results.clips} clips a seed; {len(seeds)} training seeds ({listed}); {interval}."


def score_blocks(results: Results) -> list[Block]:
    """All scores, and how to read them."""
    shuffled = SHUFFLED if results.reference_rows.shuffled else ""
    parted = PARTED if "own_pose_frechet" in results.metrics else ""
    return [score_table(results), f"{seeds_text(results)} {READING}{shuffled}{parted}"]


def ranking_blocks(results: Results) -> list[Block]:
    """Which metrics may rank, and why."""
    reference_rows, rows = results.reference_rows, []
    for name in results.metrics:
        metric, (may, reason) = by_name(name), results.reference_rows.ranking(name)
        if metric.kind == "column":
            continue
        teacher = reference_rows.teacher.get(name)
        error = None if teacher is None else reference_rows.error(name, teacher)
        error = None if error is not None and math.isnan(error) and name not in reference_rows.truth else error
        floor = 0.0 if metric.kind == "paired" else reference_rows.floor.get(name)
        shown = (number(error, metric.scale), number(floor, metric.scale))
        rows.append([plain(metric.label), *shown, _yes(may), plain(reason)])
    text = "A metric may rank arms only if it sees what is wrong with the teacher's own data."
    return [text, Table(["metric", "teacher's error", "floor", "may rank", "because"], rows, words=("because",))]


def comparison_blocks(results: Results) -> list[Block]:
    """Every arm against the control, with the share of the gap that it closes."""
    control = results.arm(CONTROL)
    return _compared(results, compared_arms(results), control, CONTROL_TEXT, gap=True) if control else []


def ablation_blocks(results: Results) -> list[Block]:
    """Every other arm against the full method, in words and numbers."""
    full = results.arm(FULL)
    found = _compared(results, ablations(results), full, READ_AS_ABOVE) if full else []
    return [Items(ablation_verdict(results)), *found] if found else []


def variation_blocks(results: Results) -> list[Block]:
    """Variations of other arms than the full method against the arm that each is a variation of."""
    blocks: list[Block] = []
    for base, arms in variations(results):
        found = _compared(results, arms, base, READ_AS_ABOVE)
        blocks += [Items(variation_verdict(results, base)), *found] if found else []
    return blocks


def equal_passes_blocks(results: Results) -> list[Block]:
    """Arms that were trained again with as many denoiser passes as the others have, against the control."""
    shortened, control = [arm for arm in results.arms if arm.equal_passes_of], results.arm(CONTROL)
    if not shortened or control is None:
        return []
    text = (
        "An arm that unrolls passes the denoiser more often than it takes steps. Here it has as many passes as the "
        f"others, and fewer steps. {_passes([*shortened, control])}"
    )
    return [text, *_compared(results, shortened, control, READ_AS_ABOVE)]


def _passes(arms: Sequence[Arm]) -> str:
    means = {arm.name: sum(run.passes for run in arm.trainings) / len(arm.trainings) for arm in arms if arm.trainings}
    return "Passes of a training: " + ", ".join(f"`{name}` {round(mean):,}" for name, mean in means.items()) + "."


def _compared(results: Results, arms: Sequence[Arm], baseline: Arm, text: str, *, gap: bool = False) -> list[Block]:
    """A row for each arm and metric, with the gap's closure where it is asked for; no p-values for one seed."""
    pairs = [(arm, found) for arm in arms for found in compare_with(results, arm, baseline)]
    if not pairs:
        return []
    rows, clips, several = [], {}, any(found.gain.n > 1 for _, found in pairs)
    for arm, found in pairs:
        clips[arm.name, found.metric] = over_clips(results, arm, baseline, found.metric)
        gain = estimate_text(found.gain, by_name(found.metric).scale, "+")
        ratios = [ratio_text(found.closure), ratio_text(found.ratio)] if gap else []
        tested = _p_cells(found) if several else []
        rows.append([_headed(found), plain(arm.name), gain, *ratios, *tested, reading(results, arm, found)])
    ratios = ["gap closed", f"error / {REFERENCE}"] if gap else []
    head = ["metric", "arm", f"error less than {baseline.name}", *ratios, *(P_COLUMNS if several else ()), "reading"]
    return [Table(head, rows, words=("arm", "reading")), text, *_clip_blocks(clips, baseline.name)]


def _headed(found: Comparison) -> str:
    """The metric's label, strong for one that claims are made in."""
    return f"**{label(found.metric)}**" if found.headline else label(found.metric)


def _p_cells(found: Comparison) -> list[str]:
    """p-values of the paired t test, by itself and among all metrics, and of the sign flips."""
    values = (found.gain.p, found.adjusted.p if found.adjusted else None, found.flip.p if found.gain.n > 1 else None)
    return [
        number(None) if value is None else p_text(value).removeprefix("p = ").removeprefix("p ") for value in values
    ]


def _clip_blocks(clips: Mapping[tuple[str, str], ClipInterval | None], baseline: str) -> list[Block]:
    """How far the differences depend on the clips that were scored."""
    rows = []
    for (arm, metric), found in clips.items():
        if found:
            values = (number(value, by_name(metric).scale) for value in (found.value, found.low, found.high))
            rows.append([label(metric), plain(arm), "{} [{}, {}]".format(*values), f"{found.clips:,}"])
    text = (
        "Over clips, the trainings held fixed (bootstrap): how far the choice of the clips matters, and nothing of "
        "other seeds."
    )
    head = ["metric", "arm", f"error less than {baseline}", "clips"]
    return [text, Table(head, rows, words=("arm",))] if rows else []


def reading(results: Results, arm: Arm, found: Comparison) -> str:
    """What a comparison says, in words."""
    if results.frozen(arm):
        return "not counted, frozen"
    if found.outcome == "undetected" and found.detectable is not None:
        size = f"could detect {number(found.detectable, by_name(found.metric).scale)}"
        return f"no difference detected; {size if found.detectable else 'equal scores'}"
    return OUTCOMES.get(found.outcome, found.outcome)


def replication_blocks(results: Results) -> list[Block]:
    """Standard deviations of scores over sampling replications beside those over training seeds."""
    counts = sorted({len(run.replications) for arm in results.arms for run in arm.trainings})
    if not counts or counts[-1] < 2:
        return []
    rows = []
    for name in results.metrics:
        pairs = [(arm.replication_spread(name), _deviation(list(arm.values(name).values()))) for arm in results.arms]
        cells = [" / ".join(number(value, by_name(name).scale) for value in pair) for pair in pairs]
        rows.append([label(name), *cells])
    counted = " to ".join(str(count) for count in dict.fromkeys((counts[0], counts[-1])))
    text = (
        f"Standard deviations (ddof 1): over the {counted} sampling replications of one training, pooled over "
        "seeds / over training seeds. The intervals of this report are made of the second alone."
    )
    return [text, Table(["metric", *(plain(arm.name) for arm in results.arms)], rows)]


def _deviation(values: Sequence[float]) -> float | None:
    """With ddof 1; None for fewer than two."""
    return statistics.stdev(values) if len(values) > 1 else None
