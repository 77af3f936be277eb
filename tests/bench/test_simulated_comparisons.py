"""What a report claims, over many simulated score tables: equal arms are rarely told apart, planted differences found.

A table has heavy-tailed scores (Student's t with 4 degrees of freedom for each training), seeds that arms share, and
metrics that go together, as trainings of a denoiser have them.
"""

import dataclasses
import re

import numpy as np
import pytest
import scipy.stats
from comparisons import CARD

from videomdm_ext.bench.metrics import by_name
from videomdm_ext.bench.reference import ReferenceRows
from videomdm_ext.bench.report.results import Arm, Results, Training
from videomdm_ext.bench.report.verdict import compare, headline, verdict
from videomdm_ext.bench.scoring import Curve

SEEDS = (3, 5, 10)
ARMS = ("3d", "lifted", "2d")
METRICS = ("pose_frechet", "kinematic_frechet", "bone_length_error", "foot_skating", "acceleration", "text-motion/fid")
BEST, FAR = 10.0, 500.0
CALIBRATION = ReferenceRows(
    truth={name: BEST if by_name(name).kind == "level" else 0.0 for name in METRICS},
    floor=dict.fromkeys(METRICS, 1.0),
    teacher=dict.fromkeys(METRICS, FAR),
    static=dict.fromkeys(METRICS, FAR),
    clips=100,
)
PAIRED, COMMON = 0.5, 0.5
"""Shares of the variance that arms have in common at one seed, and that metrics have in common in one training."""


def make_table(
    generator: np.random.Generator, seeds: int, shifts: dict[str, dict[str, float]] | None = None
) -> Results:
    """-> results of three arms, alike but for `shifts`, by arm and metric; the 3d arm is 300 nearer the best."""
    noise = generator.normal(size=(len(ARMS) + 1, seeds, len(METRICS)))
    shared = generator.normal(size=(len(ARMS) + 1, seeds, 1))
    tails = np.sqrt(2 / generator.chisquare(4, (len(ARMS) + 1, seeds, 1)))
    noise = tails * (np.sqrt(1 - COMMON) * noise + np.sqrt(COMMON) * shared)
    scores = FAR + np.sqrt(PAIRED) * noise[-1] + np.sqrt(1 - PAIRED) * noise[:-1]
    scores[0] -= 300
    arms = []
    for name, rows in zip(ARMS, scores, strict=True):
        shift = np.array([(shifts or {}).get(name, {}).get(metric, 0.0) for metric in METRICS])
        runs = (dict(zip(METRICS, row.tolist(), strict=True)) for row in rows + shift)
        empty = Curve([], {})
        arms.append(Arm(name, tuple(Training(seed, run, empty, 1, 1, 1.0) for seed, run in enumerate(runs))))
    return Results(tuple(arms), CALIBRATION, CARD, 100, "none")


def claims(results: Results) -> bool:
    """-> whether the verdict names a winner or a loser in any metric."""
    return re.search(r"(better|worse) in |beats|is worse", " ".join(verdict(results))) is not None


def check_rate(counts: list[int], tables: int) -> None:
    """Over all numbers of seeds at most 5 of 100; for each, no more than 5 of 100 give by chance in 1 of 100 cases."""
    assert sum(counts) / (len(counts) * tables) <= 0.05
    assert max(counts) <= scipy.stats.binom.ppf(0.99, tables, 0.05)


def test_equal_arms_are_told_apart_in_no_metric_in_95_of_100_whole_reports() -> None:
    claimed, closed, naive, tables = [], 0, 0, 150
    for seeds in SEEDS:
        generator = np.random.default_rng(seeds)
        made = [make_table(generator, seeds) for _ in range(tables)]
        claimed.append(sum(claims(table) for table in made))
        for table in made[:50]:
            closed += headline(table)[0].startswith("No difference detected") == (not claims(table))
            naive += any(abs(c.gain.mean) > (c.gain.half_width or 0) for c in compare(table, table.arms[2]))
    check_rate(claimed, tables)
    assert closed == 150
    assert naive / 150 > 0.1, "these tables would show the error that the order of the tests prevents"


@pytest.mark.parametrize("seeds", SEEDS)
def test_a_planted_difference_of_the_stated_size_is_found_in_80_of_100(seeds: int) -> None:
    generator = np.random.default_rng(100 + seeds)
    found, stated, tables = 0, 0, 400
    while stated < tables:
        before = make_table(generator, seeds)
        first = compare(before, before.arms[2])[0]
        if first.outcome != "undetected":
            continue
        assert first.detectable is not None
        stated += 1
        table = make_table(generator, seeds, {"2d": {"pose_frechet": -first.detectable}})
        found += "better in pose Fréchet distance" in verdict(table)[0]
    assert 0.80 <= found / tables < 0.92


def test_a_real_difference_in_the_headline_lends_no_claim_to_metrics_that_are_equal() -> None:
    wrong, tables = [], 400
    for seeds in SEEDS:
        generator = np.random.default_rng(200 + seeds)
        wrong.append(0)
        for _ in range(tables):
            table = make_table(generator, seeds, {"2d": {"pose_frechet": -100.0}})
            found = {entry.metric: entry.outcome for entry in compare(table, table.arms[2])}
            assert found.pop("pose_frechet") == "better"
            wrong[-1] += "better" in found.values() or "worse" in found.values()
    check_rate(wrong, tables)


def test_the_other_metrics_are_claimed_where_they_differ_too() -> None:
    generator = np.random.default_rng(7)
    everywhere = {"2d": dict.fromkeys(METRICS, -100.0)}
    for _ in range(20):
        table = make_table(generator, 10, everywhere)
        assert {found.outcome for found in compare(table, table.arms[2])} == {"better"}


def test_the_headline_is_decided_as_by_scipys_paired_t_test() -> None:
    generator = np.random.default_rng(8)
    for seeds in SEEDS:
        for _ in range(40):
            table = make_table(generator, seeds, {"2d": {"pose_frechet": -1.5}})
            control, own = (list(table.arms[index].values("pose_frechet").values()) for index in (1, 2))
            test = scipy.stats.ttest_rel(control, own)
            found = next(entry for entry in compare(table, table.arms[2]) if entry.metric == "pose_frechet")
            assert found.gain.p == pytest.approx(test.pvalue, abs=1e-9)
            expected = "undetected" if test.pvalue > 0.05 else "better" if test.statistic > 0 else "worse"
            assert found.outcome == expected


def test_the_order_of_the_headline_metrics_is_that_of_the_plan() -> None:
    table = make_table(np.random.default_rng(9), 5, {"2d": {"text-motion/fid": -100.0}})
    before = {found.metric: found.outcome for found in compare(table, table.arms[2])}
    turned = dataclasses.replace(table, primary=("text-motion/fid", "pose_frechet"))
    after = {found.metric: found.outcome for found in compare(turned, turned.arms[2])}
    assert (before["pose_frechet"], before["text-motion/fid"]) == ("undetected", "unclaimed")
    assert (after["pose_frechet"], after["text-motion/fid"]) == ("undetected", "better")
