"""The text of metrics.json: every score, raw, with calibration and comparisons; equal results give equal bytes."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from videomdm_ext.bench.facts import Facts
from videomdm_ext.bench.plan import FULL
from videomdm_ext.bench.results import Arm, Results
from videomdm_ext.bench.verdict import (
    Comparison,
    ablation_verdict,
    ablations,
    compare,
    compare_with,
    compared_arms,
    headline,
    variations,
    verdict,
)

ELSEWHERE = ("seconds", "memory", "per_clip")
"""Fields of a training that are not here: what differs from run to run, and the scores of single clips."""


def to_json(results: Results, facts: Facts | None = None) -> str:
    """Every replication of every training, and what was found; numbers that are not finite become null."""
    facts, full = facts or Facts(), results.arm(FULL)
    content = {
        "title": results.title,
        "headline": headline(results),
        "verdict": verdict(results),
        "ablations": ablation_verdict(results),
        "primary": list(results.primary),
        "clips": results.clips,
        "text_features": results.text_features,
        "arms": [_arm(results, arm) for arm in results.arms],
        "calibration": dataclasses.asdict(results.reference_rows),
        "ranking": {
            name: dict(zip(("may_rank", "reason"), results.reference_rows.ranking(name), strict=True))
            for name in results.metrics
        },
        "comparisons": {
            arm.name: [_comparison(found) for found in compare(results, arm)] for arm in compared_arms(results)
        },
        "against_full": {
            arm.name: [_comparison(found) for found in compare_with(results, arm, full)]
            for arm in ablations(results)
            if full
        },
        "against_varied": {
            arm.name: [_comparison(found) for found in compare_with(results, arm, base)]
            for base, arms in variations(results)
            for arm in arms
        },
        "evaluators": [dataclasses.asdict(judge) for judge in facts.judges],
        "differences": facts.differences,
        "worst": [
            {"arm": c.arm, "metric": c.metric, "score": c.score, "truth": c.truth, "caption": c.example.caption}
            for c in facts.cases
        ],
        "card": json.loads(results.card.to_json()),
        "notes": list(results.notes),
    }
    return json.dumps(_plain(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _arm(results: Results, arm: Arm) -> dict[str, Any]:
    """An arm with its trainings, without what stands elsewhere."""
    stored = dataclasses.asdict(arm)
    for training in stored["trainings"]:
        for name in ELSEWHERE:
            del training[name]
    return {**stored, "frozen": results.frozen(arm)}


def _comparison(found: Comparison) -> dict[str, Any]:
    return {**dataclasses.asdict(found), "outcome": found.outcome, "detectable": found.detectable}


def _plain(value: Any) -> Any:
    """Lists, dictionaries and numbers of Python, NaN and infinity as None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, str | bool) or value is None:
        return value
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, Sequence):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
