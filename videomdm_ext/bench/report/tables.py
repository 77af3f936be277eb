"""What a report is made of: sections of words, tables and figures, written once; and the sections of tables.

Texts and cells are Markdown with `code`, **strong** and *emphasis*; `plain` escapes what others wrote.
"""

import html
import math
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from videomdm_ext.bench.metrics import by_name
from videomdm_ext.bench.plan import CONTROL, FULL, REFERENCE
from videomdm_ext.bench.report import verdict
from videomdm_ext.bench.report.results import Arm, Results
from videomdm_ext.bench.report.verdict import Comparison
from videomdm_ext.bench.statistics import estimate_text, mean_interval, number, p_text, ratio_text
from videomdm_ext.errors import counted
from videomdm_ext.motion.skeletons import Skeleton
from videomdm_ext.render.page import Scene

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from rich.table import Table as TerminalTable


@dataclass(frozen=True)
class Table:
    """Head and rows of cells; the first column and those named in `words` are aligned left, rows in `quiet` are dim."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: Collection[str] = ()
    quiet: Collection[int] = ()

    def left(self, column: int) -> bool:
        """Whether a column is aligned left."""
        return column == 0 or self.head[column] in self.words


@dataclass(frozen=True)
class Items:
    """A list of points."""

    texts: Sequence[str]


@dataclass(frozen=True)
class Listing:
    """Lines that keep their breaks and spaces and hold no marks."""

    text: str


@dataclass(frozen=True)
class Figure:
    """A picture: what it shows, in words, and a function that draws it; of a .gif one that writes it to a path.

    With a `file`, its name, it stands beside report.md, without in the page, under a `note`. `scene` is the number of
    the scene of the page's player that it is of.
    """

    text: str
    draw: Callable[..., Any]
    file: str = ""
    note: str = ""
    scene: int | None = None


@dataclass(frozen=True)
class Motions:
    """Scenes that the page plays, under a note."""

    scenes: Sequence[Scene]
    skeleton: Skeleton
    fps: float
    note: str = ""


Block = str | Table | Items | Listing | Figure | Motions


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    title: str
    blocks: Sequence[Block]

    @property
    def anchor(self) -> str:
        """Its name in links."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


# -- Markdown ---------------------------------------------------------------------------------------------------------


def plain(text: str) -> str:
    """Words of others as Markdown that shows them as they are, on one line."""
    return re.sub(r"([\\`*_<>\[\]#&~])", r"\\\1", " ".join(text.split()))


@cache
def _reader() -> "MarkdownIt":
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark", {"html": False})


def inline(text: str) -> str:
    """A line of Markdown as HTML; everything in it is escaped."""
    return str(_reader().renderInline(text))


def unmarked(text: str) -> str:
    """A cell as it reads: without marks and escapes."""
    return html.unescape(re.sub(r"<[^>]*>", "", inline(text)))


def markdown(section: Section) -> str:
    """A section of report.md; nothing where all of it is for the page."""
    blocks = [text for block in section.blocks if (text := markdown_block(block))]
    return "\n\n".join([f"## {section.title}", *blocks]) if blocks else ""


def markdown_block(block: Block) -> str:
    """A block of report.md; nothing where it is for the page."""
    match block:
        case Table():
            ruler = ["---" if block.left(column) else "---:" for column in range(len(block.head))]
            lines = [block.head, ruler, *block.rows]
            return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        case Items():
            return "\n".join(f"- {text}" for text in block.texts)
        case Listing():
            fence = max(["```", *(f"{run}`" for run in re.findall("`{3,}", block.text))], key=len)
            return f"{fence}\n{block.text.rstrip()}\n{fence}"
        case Figure():
            return f"{block.text}\n\n![{block.text}]({block.file})" if block.file else ""
    return block if isinstance(block, str) else ""


# -- the sections -----------------------------------------------------------------------------------------------------

CALIBRATION = ("truth", "split halves", "teacher", "static pose", "shuffled captions")
READING = (
    "Fréchet distances and errors are best at 0, all other scores at the truth's own value. *Split halves*: one half "
    "of the true clips against the other. *Teacher*: the lifted motion itself. *Static pose*: the mean pose, held."
)
CONTROL_TEXT = (
    f"Seeds paired. Gap closed: ({CONTROL} - arm) / ({CONTROL} - {REFERENCE}), with Fieller's interval of 95 %. Errors "
    "are distances to the best score. ± is a t interval of 95 % for the metric by itself; p: paired t test, among all "
    "metrics (claims in strong metrics come first, the others follow by Holm), sign flips. What could be detected: "
    "with a probability of 0.8."
)
OUTCOMES = {"unclaimed": "nothing claimed: the headline metric shows no difference", "single": "one seed"}
PARTED = (
    " The distance to an arm's own training data is what its denoiser got wrong, that of the data to the truth what "
    "its teacher did."
)
SHUFFLED = " *Shuffled captions*: the truth with captions that are not its own."
WORST = "Captions for which the first training's sample is furthest from the truth, by the score of that clip alone."
YES = {True: "yes", False: "no"}


def sections(results: Results) -> list[Section]:
    """All sections of tables that hold anything."""
    control, full = results.arm(CONTROL), results.arm(FULL)
    compared = _compared(results, verdict.compared_arms(results), control, gap=True) if control else []
    held: dict[bool, list[Block]] = {True: [], False: []}
    for base, arms in [*([(full, verdict.ablations(results))] if full else []), *verdict.variations(results)]:
        found = _compared(results, arms, base)
        held[base is full] += [Items(verdict.against(results, arms, base)), *found] if found else []
    parted = SHUFFLED if results.reference_rows.shuffled else ""
    parted += PARTED if "own_pose_frechet" in results.metrics else ""
    every: Sequence[tuple[str, Sequence[Block]]] = (
        ("Scores", [score_table(results), f"{seeds_text(results)} {READING}{parted}"]),
        ("Against the control", compared),
        ("Against the full method", held[True]),
        ("Against the arm that each varies", held[False]),
        ("At equal passes", _at_equal_passes(results)),
        ("Which metrics may rank", _ranking(results)),
        ("Evaluators", _evaluators(results)),
        ("Spread over replications", _replications(results)),
        ("Worst captions", _worst(results)),
        ("Cost", _cost(results)),
        ("How the arms differ", [Listing(results.differences)] if results.differences.strip() else []),
        ("Data", [Items(_data(results))]),
        ("Run", [Items([f"{plain(k)}: {_fact(v)}" for k, v in results.run.items()])] if results.run else []),
        ("Notes", [Items(results.notes)] if results.notes else []),
    )
    return [Section(title, blocks) for title, blocks in every if blocks]


def label(name: str) -> str:
    """A metric's label and unit."""
    metric = by_name(name)
    return f"{metric.label} ({metric.unit})" if metric.unit else metric.label


def scaled(name: str, *values: float | None) -> list[str]:
    """Values of a metric in the unit shown."""
    return [number(value, by_name(name).scale) for value in values]


# -- scores -----------------------------------------------------------------------------------------------------------


def score_table(results: Results) -> Table:
    """A row for each metric, a column for each arm and each calibration row that there is; dim: may not rank."""
    known, rows = results.reference_rows, []
    names = [plain(arm.name) + (" (frozen)" if results.frozen(arm) else "") for arm in results.arms]
    others = [known.teacher, known.static, *([known.shuffled] if known.shuffled else [])]
    for name in results.metrics:
        metric, values = by_name(name), [list(arm.values(name).values()) for arm in results.arms]
        cells = [estimate_text(mean_interval(found), metric.scale) if found else number(None) for found in values]
        truth = metric.best if metric.kind == "paired" else known.truth.get(name)
        (floor,) = scaled(name, known.floor.get(name) if metric.kind != "column" else None)
        floor = f"± {floor}" if metric.kind == "level" and name in known.floor else floor
        cells += [*scaled(name, truth), floor, *scaled(name, *(row.get(name) for row in others))]
        rows.append([plain(label(name)), *cells, YES[known.ranking(name)[0]]])
    quiet = [index for index, name in enumerate(results.metrics) if name not in results.ranking_metrics]
    calibration = CALIBRATION if known.shuffled else CALIBRATION[:-1]
    return Table(["metric", *names, *calibration, "may rank"], rows, quiet=quiet)


def seeds_text(results: Results) -> str:
    """What a ± is made of."""
    seeds = list(dict.fromkeys(run.seed for arm in results.arms for run in arm.trainings))
    several = "mean ± half-width of the 95 % t interval over seeds (ddof 1)"
    interval = several if len(seeds) > 1 else "one seed, no interval"
    trained = f"{counted(len(seeds), 'training seed')} ({', '.join(map(str, seeds))})"
    return f"N = {counted(results.clips, 'clip')} a seed; {trained}; {interval}."


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


def _ranking(results: Results) -> list[Block]:
    """Which metrics may rank, and why."""
    known, rows = results.reference_rows, []
    for name in results.metrics:
        metric, (may, reason) = by_name(name), known.ranking(name)
        if metric.kind == "column":
            continue
        teacher = known.teacher.get(name)
        error = None if teacher is None else known.error(name, teacher)
        error = None if error is not None and math.isnan(error) and name not in known.truth else error
        floor = 0.0 if metric.kind == "paired" else known.floor.get(name)
        rows.append([plain(metric.label), *scaled(name, error, floor), YES[may], plain(reason)])
    text = "A metric may rank arms only if it sees what is wrong with the teacher's own data."
    return [text, Table(["metric", "teacher's error", "floor", "may rank", "because"], rows, words=("because",))]


def _replications(results: Results) -> list[Block]:
    """Standard deviations of scores over sampling replications beside those over training seeds."""
    counts = sorted({len(run.replications) for arm in results.arms for run in arm.trainings})
    if not counts or counts[-1] < 2:
        return []
    rows = [
        [plain(label(name)), *(" / ".join(scaled(name, *arm.spreads(name))) for arm in results.arms)]
        for name in results.metrics
    ]
    counted = " to ".join(str(count) for count in dict.fromkeys((counts[0], counts[-1])))
    text = (
        f"Standard deviations (ddof 1): over the {counted} sampling replications of one training, pooled over "
        "seeds / over training seeds. The intervals of this report are made of the second alone."
    )
    return [text, Table(["metric", *(plain(arm.name) for arm in results.arms)], rows)]


# -- comparisons ------------------------------------------------------------------------------------------------------


def _at_equal_passes(results: Results) -> list[Block]:
    """Arms that were trained again with as many denoiser passes as the others have, against the control."""
    shortened, control = [arm for arm in results.arms if arm.equal_passes_of], results.arm(CONTROL)
    if not shortened or control is None:
        return []
    counted = [(arm.name, [run.passes for run in arm.trainings]) for arm in (*shortened, control) if arm.trainings]
    passes = [f"`{name}` {round(sum(counts) / len(counts)):,}" for name, counts in counted]
    text = (
        "An arm that unrolls passes the denoiser more often than it takes steps. Here it has as many passes as the "
        f"others, and fewer steps. Passes of a training: {', '.join(passes)}."
    )
    return [text, *_compared(results, shortened, control)]


def _compared(results: Results, arms: Sequence[Arm], baseline: Arm, *, gap: bool = False) -> list[Block]:
    """A row for each arm and metric, with the gap's closure where it is asked for; no p-values for one seed.

    Below it, how far the differences depend on the clips that were scored.
    """
    pairs = [(arm, found) for arm in arms for found in verdict.compare_with(results, arm, baseline)]
    if not pairs:
        return []
    rows, by_clips, several = [], [], any(found.gain.n > 1 for _, found in pairs)
    for arm, found in pairs:
        name = plain(label(found.metric))
        gain = estimate_text(found.gain, by_name(found.metric).scale, "+")
        row = [f"**{name}**" if found.headline else name, plain(arm.name), gain]
        row += [ratio_text(found.closure), ratio_text(found.ratio)] if gap else []
        if several:
            adjusted = found.adjusted.p if found.adjusted else None
            p_values = (found.gain.p, adjusted, found.flip.p if found.gain.n > 1 else None)
            row += [number(None) if p is None else p_text(p).removeprefix("p = ").removeprefix("p ") for p in p_values]
        rows.append([*row, reading(results, arm, found)])
        if clips := verdict.over_clips(results, arm, baseline, found.metric):
            cell = "{} [{}, {}]".format(*scaled(found.metric, clips.value, clips.low, clips.high))
            by_clips.append([name, plain(arm.name), cell, f"{clips.clips:,}"])
    less = f"error less than {baseline.name}"
    ratios = ["gap closed", f"error / {REFERENCE}"] if gap else []
    tests = ["p", "p, all metrics", "p, sign flips"] if several else []
    head = ["metric", "arm", less, *ratios, *tests, "reading"]
    blocks: list[Block] = [Table(head, rows, words=("arm", "reading"))]
    blocks.append(CONTROL_TEXT if gap else "Seeds paired; read as above.")
    if by_clips:
        blocks.append(
            "Over clips, the trainings held fixed (bootstrap): how far the choice of the clips matters, and nothing of "
            "other seeds."
        )
        blocks.append(Table(["metric", "arm", less, "clips"], by_clips, words=("arm",)))
    return blocks


def reading(results: Results, arm: Arm, found: Comparison) -> str:
    """What a comparison says, in words."""
    if results.frozen(arm):
        return "not counted, frozen"
    if found.outcome == "undetected" and found.detectable is not None:
        size = f"could detect {scaled(found.metric, found.detectable)[0]}"
        return f"no difference detected; {size if found.detectable else 'equal scores'}"
    return OUTCOMES.get(found.outcome, found.outcome)


# -- beside the scores ------------------------------------------------------------------------------------------------


def _evaluators(results: Results) -> list[Block]:
    if not results.judges:
        return []
    text = "What judged. Equal identities give equal numbers; an evaluator that is not trusted ranks nothing."
    rows = []
    for judge in results.judges:
        reason = f"not here: {plain(judge.missing)}" if judge.missing else f"no: {plain(judge.distrust)}"
        trust = reason if judge.missing or judge.distrust else "yes"
        facts = "; ".join(f"{plain(name.replace('_', ' '))} {_fact(value)}" for name, value in judge.facts.items())
        identity = f"`{judge.identity[:12]}`" if judge.identity else ""
        rows.append([f"`{judge.name}`", trust, facts, plain(judge.comparable), identity])
    head = ["evaluator", "trusted", "of itself", "comparable with", "identity"]
    return [text, Table(head, rows, words=head)]


def _fact(value: object) -> str:
    return number(value) if isinstance(value, float) else plain(str(value))


def _worst(results: Results) -> list[Block]:
    rows = [
        [plain(c.arm), plain(c.example.caption), plain(label(c.metric)), *scaled(c.metric, c.score, c.truth)]
        for c in results.cases
    ]
    table = Table(["arm", "caption", "metric", "score", "truth"], rows, words=("caption", "metric"))
    return [WORST, table] if rows else []


def _cost(results: Results) -> list[Block]:
    rows, batch = [], results.batch_size
    for arm in results.arms:
        runs = arm.trainings
        steps, passes = [run.steps for run in runs], [run.passes for run in runs]
        cells = [_range(steps), *([_range([count * batch for count in steps])] if batch else []), _range(passes)]
        cells.append(number(mean_interval([run.seconds for run in runs]).mean))
        cells.append(number(max((run.memory for run in runs if run.memory is not None), default=None)))
        cells.append(_range([run.parameters for run in runs if run.parameters is not None]))
        rows.append([plain(arm.name), str(len(runs)), *cells, plain(arm.settings)])
    head = ["arm", "seeds", "steps", *(["samples seen"] if batch else []), "denoiser passes"]
    head += ["seconds, mean", "peak memory, MiB", "parameters", "settings"]
    return [Table(head, rows, words=("settings",))] if rows else []


def _range(counts: Sequence[int]) -> str:
    if not counts:
        return number(None)
    return f"{counts[0]:,}" if len(set(counts)) == 1 else f"{min(counts):,} to {max(counts):,}"


def _data(results: Results) -> list[str]:
    card = results.card
    stored = {
        "data set": plain(card.name),
        "clips": ", ".join(f"{count} {split}" for split, count in card.counts.items()),
        "skeleton": f"{card.skeleton}, {card.fps:g} fps",
        "teacher": f"the lifter `{card.lifter}`",
        "its error": ", ".join(f"{k.replace('_', ' ')} {number(v)}" for k, v in card.lifter_error.items()),
        "text features": plain(results.text_features),
        "sources": plain("; ".join(card.sources)),
        "licence": plain(card.licence),
        "content": f"`{card.content_hash}`" if card.content_hash else "",
    }
    return [f"{name}: {fact}" for name, fact in stored.items() if fact]
