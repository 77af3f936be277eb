"""The sections of a report, in order, from the results of a comparison and the facts beside them."""

from collections.abc import Iterator, Sequence

from videomdm_ext.bench.document import Block, Items, Listing, Section, Table, plain
from videomdm_ext.bench.facts import Facts, Judge
from videomdm_ext.bench.metrics import by_name
from videomdm_ext.bench.numerals import number
from videomdm_ext.bench.results import Results, Training
from videomdm_ext.bench.score_tables import (
    ablation_blocks,
    comparison_blocks,
    equal_passes_blocks,
    ranking_blocks,
    replication_blocks,
    score_blocks,
    variation_blocks,
)
from videomdm_ext.bench.statistics import mean_interval


def sections(results: Results, facts: Facts) -> list[Section]:
    """All sections that hold anything."""
    found: Sequence[tuple[str, Sequence[Block]]] = (
        ("Scores", score_blocks(results)),
        ("Against the control", comparison_blocks(results)),
        ("Against the full method", ablation_blocks(results)),
        ("Against the arm that each varies", variation_blocks(results)),
        ("At equal passes", equal_passes_blocks(results)),
        ("Which metrics may rank", ranking_blocks(results)),
        ("Evaluators", _evaluator_blocks(facts)),
        ("Spread over replications", replication_blocks(results)),
        ("Worst captions", _case_blocks(results, facts)),
        ("Cost", _cost_blocks(results, facts)),
        ("How the arms differ", [Listing(facts.differences)] if facts.differences.strip() else []),
        ("Data", [Items(list(_data_items(results)))]),
        ("Run", _run_items(facts)),
        ("Notes", [Items(results.notes)] if results.notes else []),
    )
    return [Section(title, blocks) for title, blocks in found if blocks]


def _evaluator_blocks(facts: Facts) -> list[Block]:
    if not facts.judges:
        return []
    text = "What judged. Equal identities give equal numbers; an evaluator that is not trusted ranks nothing."
    rows = [[f"`{judge.name}`", _trust(judge), _facts(judge), plain(judge.comparable), _hash(judge.identity)]
            for judge in facts.judges]  # fmt: skip
    head = ["evaluator", "trusted", "of itself", "comparable with", "identity"]
    return [text, Table(head, rows, words=head)]


def _trust(judge: Judge) -> str:
    if judge.missing:
        return f"not here: {plain(judge.missing)}"
    return f"no: {plain(judge.distrust)}" if judge.distrust else "yes"


def _facts(judge: Judge) -> str:
    return "; ".join(f"{plain(name.replace('_', ' '))} {_fact(value)}" for name, value in judge.facts.items())


def _fact(value: object) -> str:
    if isinstance(value, float):
        return number(value)
    return plain(str(value))


def _run_items(facts: Facts) -> list[Block]:
    return [Items([f"{plain(name)}: {_fact(value)}" for name, value in facts.run.items()])] if facts.run else []


def _hash(identity: str) -> str:
    return f"`{identity[:12]}`" if identity else ""


def _case_blocks(results: Results, facts: Facts) -> list[Block]:
    if not facts.cases:
        return []
    text = "Captions for which the first training's sample is furthest from the truth, by the score of that clip alone."
    rows = []
    for case in facts.cases:
        metric = by_name(case.metric)
        shown = [number(value, metric.scale) for value in (case.score, case.truth)]
        rows.append([plain(case.arm), plain(case.example.caption), _label(case.metric), *shown])
    return [text, Table(["arm", "caption", "metric", "score", "truth"], rows, words=("caption", "metric"))]


def _label(name: str) -> str:
    metric = by_name(name)
    return plain(f"{metric.label} ({metric.unit})" if metric.unit else metric.label)


def _cost_blocks(results: Results, facts: Facts) -> list[Block]:
    rows = []
    for arm in results.arms:
        runs = arm.trainings
        seconds = [run.seconds for run in runs]
        cells = [_range([run.steps for run in runs])]
        if facts.batch_size:
            cells.append(_range([run.steps * facts.batch_size for run in runs]))
        cells += [
            _range([run.passes for run in runs]),
            number(mean_interval(seconds).mean),
            _peak(runs),
            _weights(runs),
        ]
        rows.append([plain(arm.name), str(len(runs)), *cells, plain(arm.settings)])
    head = ["arm", "seeds", "steps", *(["samples seen"] if facts.batch_size else []), "denoiser passes"]
    head += ["seconds, mean", "peak memory, MiB", "parameters", "settings"]
    return [Table(head, rows, words=("settings",))] if rows else []


def _range(counts: Sequence[int]) -> str:
    return (
        f"{counts[0]:,}" if len(set(counts)) == 1 else f"{min(counts):,} to {max(counts):,}" if counts else number(None)
    )


def _peak(runs: Sequence[Training]) -> str:
    return number(max((run.memory for run in runs if run.memory is not None), default=None))


def _weights(runs: Sequence[Training]) -> str:
    return _range([run.parameters for run in runs if run.parameters is not None])


def _data_items(results: Results) -> Iterator[str]:
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
    return (f"{name}: {fact}" for name, fact in stored.items() if fact)
