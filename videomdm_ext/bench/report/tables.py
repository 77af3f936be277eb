"""The tables of a report: scores with calibration rows, what may rank, paired comparisons, cost, data and the run."""

import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from videomdm_ext.bench.metrics import by_name
from videomdm_ext.bench.plan import CONTROL, FULL, REFERENCE
from videomdm_ext.bench.report.data import Judge, ReportData
from videomdm_ext.bench.report.document import (
    Block,
    Items,
    Listing,
    Section,
    Table,
    estimate_text,
    latex,
    number,
    p_text,
    plain,
    ratio_text,
    unmarked,
)
from videomdm_ext.bench.results import Arm, Results
from videomdm_ext.bench.statistics import mean_interval
from videomdm_ext.bench.verdict import (
    Comparison,
    ablation_verdict,
    ablations,
    compare,
    compare_with,
    compared_arms,
    over_clips,
    variation_verdict,
    variations,
)

if TYPE_CHECKING:
    from rich.table import Table as TerminalTable

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
WORST = "Captions for which the first training's sample is furthest from the truth, by the score of that clip alone."
YES = {True: "yes", False: "no"}


def sections(results: Results, data: ReportData) -> list[Section]:
    """All sections of tables that hold anything."""
    found: Sequence[tuple[str, Sequence[Block]]] = (
        ("Scores", _scores(results)),
        ("Against the control", _against_control(results)),
        ("Against the full method", _against_full(results)),
        ("Against the arm that each varies", _against_varied(results)),
        ("At equal passes", _at_equal_passes(results)),
        ("Which metrics may rank", _ranking(results)),
        ("Evaluators", _evaluators(data)),
        ("Spread over replications", _replications(results)),
        ("Worst captions", _worst(data)),
        ("Cost", _cost(results, data)),
        ("How the arms differ", [Listing(data.differences)] if data.differences.strip() else []),
        ("Data", [Items(_data(results))]),
        ("Run", [Items([f"{plain(name)}: {_fact(value)}" for name, value in data.run.items()])] if data.run else []),
        ("Notes", [Items(results.notes)] if results.notes else []),
    )
    return [Section(title, blocks) for title, blocks in found if blocks]


def label(name: str) -> str:
    """A metric's label and unit."""
    metric = by_name(name)
    return f"{metric.label} ({metric.unit})" if metric.unit else metric.label


# -- scores -----------------------------------------------------------------------------------------------------------


def score_table(results: Results) -> Table:
    """A row for each metric, a column for each arm and each calibration row that there is; dim: may not rank."""
    calibration = CALIBRATION if results.reference_rows.shuffled else CALIBRATION[:-1]
    names = [plain(arm.name) + (" (frozen)" if results.frozen(arm) else "") for arm in results.arms]
    rows = []
    for name in results.metrics:
        values = [list(arm.values(name).values()) for arm in results.arms]
        scale = by_name(name).scale
        cells = [estimate_text(mean_interval(found), scale) if found else number(None) for found in values]
        may = YES[results.reference_rows.ranking(name)[0]]
        rows.append([plain(label(name)), *cells, *_calibration_cells(results, name), may])
    quiet = [index for index, name in enumerate(results.metrics) if name not in results.ranking_metrics]
    return Table(["metric", *names, *calibration, "may rank"], rows, quiet=quiet)


def _calibration_cells(results: Results, name: str) -> list[str]:
    metric, calibration = by_name(name), results.reference_rows
    floor = number(calibration.floor.get(name) if metric.kind != "column" else None, metric.scale)
    if metric.kind == "level" and name in calibration.floor:
        floor = f"± {floor}"
    truth = metric.best if metric.kind == "paired" else calibration.truth.get(name)
    rows = [calibration.teacher, calibration.static, *([calibration.shuffled] if calibration.shuffled else [])]
    return [number(truth, metric.scale), floor, *(number(row.get(name), metric.scale) for row in rows)]


def seeds_text(results: Results) -> str:
    """What a ± is made of."""
    seeds = list(dict.fromkeys(run.seed for arm in results.arms for run in arm.trainings))
    listed = ", ".join(str(seed) for seed in seeds)
    interval = (
        "mean ± half-width of the 95 % t interval over seeds (ddof 1)" if len(seeds) > 1 else "one seed, no interval"
    )
    return f"N = {results.clips} clips a seed; {len(seeds)} training seeds ({listed}); {interval}."


def _scores(results: Results) -> list[Block]:
    shuffled = SHUFFLED if results.reference_rows.shuffled else ""
    parted = PARTED if "own_pose_frechet" in results.metrics else ""
    return [score_table(results), f"{seeds_text(results)} {READING}{shuffled}{parted}"]


def terminal_table(results: Results) -> "TerminalTable":
    """The table of scores for a terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as TerminalTable

    scores, arms = score_table(results), len(results.arms)
    style: dict[str, Any] = {"title_style": "bold", "box": SIMPLE_HEAD, "pad_edge": False, "collapse_padding": True}
    table = TerminalTable(title=results.title, caption=f"{seeds_text(results)} Dim: may not rank.", **style)
    table.add_column(scores.head[0], min_width=12, overflow="fold")
    for column, name in enumerate([*scores.head[1 : arms + 2], "halves", "teacher"]):
        table.add_column(name, justify="right", style="bold" if column < arms else None, no_wrap=True)
    for index, row in enumerate(scores.rows):
        cells = [unmarked(cell).replace(" ± ", "±").replace("± ", "±") for cell in row[: arms + 4]]
        table.add_row(*cells, style="dim" if index in scores.quiet else None)
    return table


def latex_table(results: Results) -> str:
    """table.tex: arms, truth and teacher; bold where an arm is better than the control."""
    scores, arms = score_table(results), len(results.arms)
    kept = [*range(arms + 2), arms + 3]
    bold = {
        (results.metrics.index(found.metric), 1 + results.arms.index(arm))
        for arm in compared_arms(results)
        if not results.frozen(arm)
        for found in compare(results, arm)
        if found.outcome == "better"
    }
    caption = [f"{results.title}. {seeds_text(results)}"]
    caption += [f"Bold: better than {CONTROL}, seeds paired."] if bold else []
    caption += ["Below the line: may not rank arms."] if scores.quiet else []
    rows = [[row[column] for column in kept] for row in scores.rows]
    table = Table([scores.head[column] for column in kept], rows, quiet=scores.quiet)
    return latex(table, " ".join(caption), bold)


def _ranking(results: Results) -> list[Block]:
    """Which metrics may rank, and why."""
    calibration, rows = results.reference_rows, []
    for name in results.metrics:
        metric, (may, reason) = by_name(name), results.reference_rows.ranking(name)
        if metric.kind == "column":
            continue
        teacher = calibration.teacher.get(name)
        error = None if teacher is None else calibration.error(name, teacher)
        error = None if error is not None and math.isnan(error) and name not in calibration.truth else error
        floor = 0.0 if metric.kind == "paired" else calibration.floor.get(name)
        cells = (number(error, metric.scale), number(floor, metric.scale))
        rows.append([plain(metric.label), *cells, YES[may], plain(reason)])
    text = "A metric may rank arms only if it sees what is wrong with the teacher's own data."
    return [text, Table(["metric", "teacher's error", "floor", "may rank", "because"], rows, words=("because",))]


def _replications(results: Results) -> list[Block]:
    """Standard deviations of scores over sampling replications beside those over training seeds."""
    counts = sorted({len(run.replications) for arm in results.arms for run in arm.trainings})
    if not counts or counts[-1] < 2:
        return []
    rows = []
    for name in results.metrics:
        seeds = [list(arm.values(name).values()) for arm in results.arms]
        over_seeds = [statistics.stdev(values) if len(values) > 1 else None for values in seeds]
        pairs = zip((arm.replication_spread(name) for arm in results.arms), over_seeds, strict=True)
        cells = [" / ".join(number(value, by_name(name).scale) for value in pair) for pair in pairs]
        rows.append([plain(label(name)), *cells])
    counted = " to ".join(str(count) for count in dict.fromkeys((counts[0], counts[-1])))
    text = (
        f"Standard deviations (ddof 1): over the {counted} sampling replications of one training, pooled over "
        "seeds / over training seeds. The intervals of this report are made of the second alone."
    )
    return [text, Table(["metric", *(plain(arm.name) for arm in results.arms)], rows)]


# -- comparisons ------------------------------------------------------------------------------------------------------


def _against_control(results: Results) -> list[Block]:
    """Every arm against the control, with the share of the gap that it closes."""
    control = results.arm(CONTROL)
    return _compared(results, compared_arms(results), control, CONTROL_TEXT, gap=True) if control else []


def _against_full(results: Results) -> list[Block]:
    """Every other arm against the full method, in words and numbers."""
    full = results.arm(FULL)
    found = _compared(results, ablations(results), full, READ_AS_ABOVE) if full else []
    return [Items(ablation_verdict(results)), *found] if found else []


def _against_varied(results: Results) -> list[Block]:
    """Variations of other arms than the full method against the arm that each is a variation of."""
    blocks: list[Block] = []
    for base, arms in variations(results):
        found = _compared(results, arms, base, READ_AS_ABOVE)
        blocks += [Items(variation_verdict(results, base)), *found] if found else []
    return blocks


def _at_equal_passes(results: Results) -> list[Block]:
    """Arms that were trained again with as many denoiser passes as the others have, against the control."""
    shortened, control = [arm for arm in results.arms if arm.equal_passes_of], results.arm(CONTROL)
    if not shortened or control is None:
        return []
    passes = {
        arm.name: sum(run.passes for run in arm.trainings) / len(arm.trainings)
        for arm in (*shortened, control)
        if arm.trainings
    }
    text = (
        "An arm that unrolls passes the denoiser more often than it takes steps. Here it has as many passes as the "
        "others, and fewer steps. Passes of a training: "
        + ", ".join(f"`{name}` {round(mean):,}" for name, mean in passes.items())
    )
    return [f"{text}.", *_compared(results, shortened, control, READ_AS_ABOVE)]


def _compared(results: Results, arms: Sequence[Arm], baseline: Arm, text: str, *, gap: bool = False) -> list[Block]:
    """A row for each arm and metric, with the gap's closure where it is asked for; no p-values for one seed."""
    pairs = [(arm, found) for arm in arms for found in compare_with(results, arm, baseline)]
    if not pairs:
        return []
    rows, several = [], any(found.gain.n > 1 for _, found in pairs)
    for arm, found in pairs:
        name = plain(label(found.metric))
        gain = estimate_text(found.gain, by_name(found.metric).scale, "+")
        ratios = [ratio_text(found.closure), ratio_text(found.ratio)] if gap else []
        tested = _p_cells(found) if several else []
        row = [f"**{name}**" if found.headline else name, plain(arm.name), gain, *ratios, *tested]
        rows.append([*row, reading(results, arm, found)])
    ratios = ["gap closed", f"error / {REFERENCE}"] if gap else []
    head = ["metric", "arm", f"error less than {baseline.name}", *ratios, *(P_COLUMNS if several else ()), "reading"]
    table = Table(head, rows, words=("arm", "reading"))
    return [table, text, *_over_clips(results, pairs, baseline)]


def _p_cells(found: Comparison) -> list[str]:
    """p-values of the paired t test, by itself and among all metrics, and of the sign flips."""
    values = (found.gain.p, found.adjusted.p if found.adjusted else None, found.flip.p if found.gain.n > 1 else None)
    return [
        number(None) if value is None else p_text(value).removeprefix("p = ").removeprefix("p ") for value in values
    ]


def _over_clips(results: Results, pairs: Sequence[tuple[Arm, Comparison]], baseline: Arm) -> list[Block]:
    """How far the differences depend on the clips that were scored."""
    rows = []
    for arm, comparison in pairs:
        metric = comparison.metric
        found = over_clips(results, arm, baseline, metric)
        if found:
            values = (number(value, by_name(metric).scale) for value in (found.value, found.low, found.high))
            cell = "{} [{}, {}]".format(*values)
            rows.append([plain(label(metric)), plain(arm.name), cell, f"{found.clips:,}"])
    text = (
        "Over clips, the trainings held fixed (bootstrap): how far the choice of the clips matters, and nothing of "
        "other seeds."
    )
    head = ["metric", "arm", f"error less than {baseline.name}", "clips"]
    return [text, Table(head, rows, words=("arm",))] if rows else []


def reading(results: Results, arm: Arm, found: Comparison) -> str:
    """What a comparison says, in words."""
    if results.frozen(arm):
        return "not counted, frozen"
    if found.outcome == "undetected" and found.detectable is not None:
        size = f"could detect {number(found.detectable, by_name(found.metric).scale)}"
        return f"no difference detected; {size if found.detectable else 'equal scores'}"
    return OUTCOMES.get(found.outcome, found.outcome)


# -- beside the scores ------------------------------------------------------------------------------------------------


def _evaluators(data: ReportData) -> list[Block]:
    if not data.judges:
        return []
    text = "What judged. Equal identities give equal numbers; an evaluator that is not trusted ranks nothing."
    rows = []
    for judge in data.judges:
        facts = "; ".join(f"{plain(name.replace('_', ' '))} {_fact(value)}" for name, value in judge.facts.items())
        identity = f"`{judge.identity[:12]}`" if judge.identity else ""
        rows.append([f"`{judge.name}`", _trust(judge), facts, plain(judge.comparable), identity])
    head = ["evaluator", "trusted", "of itself", "comparable with", "identity"]
    return [text, Table(head, rows, words=head)]


def _trust(judge: Judge) -> str:
    if judge.missing:
        return f"not here: {plain(judge.missing)}"
    return f"no: {plain(judge.distrust)}" if judge.distrust else "yes"


def _fact(value: object) -> str:
    return number(value) if isinstance(value, float) else plain(str(value))


def _worst(data: ReportData) -> list[Block]:
    rows = []
    for case in data.cases:
        cells = [number(value, by_name(case.metric).scale) for value in (case.score, case.truth)]
        rows.append([plain(case.arm), plain(case.example.caption), plain(label(case.metric)), *cells])
    head = ["arm", "caption", "metric", "score", "truth"]
    return [WORST, Table(head, rows, words=("caption", "metric"))] if rows else []


def _cost(results: Results, data: ReportData) -> list[Block]:
    rows = []
    for arm in results.arms:
        runs = arm.trainings
        cells = [_range([run.steps for run in runs])]
        cells += [_range([run.steps * data.batch_size for run in runs])] if data.batch_size else []
        cells += [_range([run.passes for run in runs]), number(mean_interval([run.seconds for run in runs]).mean)]
        cells.append(number(max((run.memory for run in runs if run.memory is not None), default=None)))
        cells.append(_range([run.parameters for run in runs if run.parameters is not None]))
        rows.append([plain(arm.name), str(len(runs)), *cells, plain(arm.settings)])
    head = ["arm", "seeds", "steps", *(["samples seen"] if data.batch_size else []), "denoiser passes"]
    head += ["seconds, mean", "peak memory, MiB", "parameters", "settings"]
    return [Table(head, rows, words=("settings",))] if rows else []


def _range(counts: Sequence[int]) -> str:
    if not counts:
        return number(None)
    return f"{counts[0]:,}" if len(set(counts)) == 1 else f"{min(counts):,} to {max(counts):,}"


def _data(results: Results) -> list[str]:
    card = results.card
    errors = (f"{name.replace('_', ' ')} {number(value)}" for name, value in card.lifter_error.items())
    stored = {
        "data set": plain(card.name),
        "clips": ", ".join(f"{count} {split}" for split, count in card.counts.items()),
        "skeleton": f"{card.skeleton}, {card.fps:g} fps",
        "teacher": f"the lifter `{card.lifter}`",
        "its error": ", ".join(errors),
        "text features": plain(results.text_features),
        "sources": plain("; ".join(card.sources)),
        "licence": plain(card.licence),
        "content": f"`{card.content_hash}`" if card.content_hash else "",
    }
    return [f"{name}: {fact}" for name, fact in stored.items() if fact]
