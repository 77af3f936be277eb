"""The report says what the numbers say, for any number of arms and seeds."""

import dataclasses
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from comparisons import LEVELS, held_out, make_arm, make_results, scattered
from rich.console import Console

from videomdm_ext.bench.provenance import schema_faults
from videomdm_ext.bench.report.html import sections, text, to_json, write
from videomdm_ext.bench.report.results import Case, Judge, Results, Training, worst_cases
from videomdm_ext.bench.report.tables import terminal_table
from videomdm_ext.bench.report.verdict import verdict
from videomdm_ext.data.motions import load_motions
from videomdm_ext.errors import StorageError
from videomdm_ext.render.figures import Example


def markdown(results: Results) -> str:
    return text(results, sections(results))


def test_a_metric_that_does_not_separate_the_teacher_takes_no_part_in_the_verdict() -> None:
    results = make_results()
    assert "jitter" in results.metrics
    assert "jitter" not in results.ranking_metrics
    found = markdown(results)
    row = next(line for line in found.split("## Which")[1].splitlines() if line.startswith("| jitter |"))
    assert "| no |" in row
    assert "under 2 times the floor" in row


def test_one_seed_has_no_interval() -> None:
    found = markdown(make_results(*(make_arm(name, 1) for name in LEVELS)))
    table = found.split("## Scores")[1].split("N = ")[0]
    assert "±" not in next(line for line in table.splitlines() if line.startswith("| pose")).split("|")[2]
    assert "N = 18 clips a seed; 1 training seed (0); one seed, no interval." in found


def test_the_held_out_error_is_shown_in_millimetres_beside_that_of_the_teacher() -> None:
    results = held_out({"3d": (0.020, 0.021, 0.019), "lifted": (0.06, 0.061, 0.062), "2d": (0.04, 0.041, 0.039)})
    rows = [line for line in markdown(results).splitlines() if line.startswith("| MPJPE of denoised")]
    scores, comparison, ranking = ([cell.strip() for cell in row.split("|")[1:-1]] for row in rows)
    assert scores[0] == "MPJPE of denoised held-out clips, root-aligned (mm)"
    assert (scores[1][:4], scores[4], scores[6], scores[-1]) == ("20.0", "0", "90.0", "yes")
    assert ranking[1:4] == ["90.0", "0", "yes"]
    assert comparison[2].startswith("+21.0 ± ")
    assert comparison[-1] == "better"


@pytest.mark.parametrize("names", [("2d",), ("3d", "2d"), ("3d", "lifted"), ("lifted", "2d")])
def test_any_selection_of_arms_is_reported(names: tuple[str, ...]) -> None:
    results = make_results(*(make_arm(name, 2) for name in names))
    assert verdict(results)
    assert markdown(results).startswith("# ")
    json.loads(to_json(results))


def test_a_score_that_is_not_finite_is_written_as_such() -> None:
    results = make_results(make_arm("3d"), make_arm("lifted"), make_arm("2d", pose_frechet=math.nan))
    assert "not finite" in markdown(results)
    stored = json.loads(to_json(results))
    assert stored["arms"][2]["trainings"][0]["metrics"]["pose_frechet"] is None


FROZEN = make_results(make_arm("3d"), make_arm("lifted"), make_arm("2d", motion_energy=0.2))
USUAL = ("N = 18", "3 training seeds (0, 1, 2)", "pa mpjpe 0.0912", "`abc123`", "MiniLM", "One note.", "144 train")
PICTURE = "![Scores of every seed with 95 % intervals](metrics.png)"
COST = "| 2d | 3 | 100 | 400 | 12.5 | – | – | 2d settings |"  # noqa: RUF001


@pytest.mark.parametrize(
    ("results", "parts"),
    [
        (make_results(), (*USUAL, PICTURE, COST)),
        (scattered(), ("no difference detected; could detect",)),
        (FROZEN, ("2d (frozen)", "not counted, frozen")),
    ],
)
def test_the_text_holds_what_the_results_hold(results: Results, parts: tuple[str, ...]) -> None:
    found = markdown(results)
    assert [part for part in parts if part not in found] == []


def test_every_row_of_a_table_has_as_many_cells_as_its_head() -> None:
    lines = markdown(make_results()).splitlines()
    blocks, width = 0, 0
    for before, line in zip(["", *lines], lines, strict=False):
        if line.startswith("|"):
            blocks, width = (blocks, width) if before.startswith("|") else (blocks + 1, line.count("|"))
            assert line.count("|") == width
    assert blocks == 4  # scores, against the control, what may rank, cost


@pytest.mark.parametrize(
    ("name", "of", "title"), [("2d-lifted", "2d", "full method"), ("blind", "paper", "arm that each varies")]
)
def test_an_arm_is_held_against_the_one_that_it_varies_too(name: str, of: str, title: str) -> None:
    paper = dataclasses.replace(make_arm("2d"), name="paper")
    worse = dataclasses.replace(make_arm("2d", pose_frechet=18.0), name=name, of=of)
    results = make_results(*(make_arm(arm) for arm in LEVELS), paper, worse)
    section = markdown(results).split(f"## Against the {title}")[1].split("## ")[0]
    assert f"`{name}` is worse than `{of}`" in section
    assert f"| {name} | -8.08 ± 0.20 |" in section
    assert "| 2d |" not in section
    stored = json.loads(to_json(results))
    assert stored["against_full" if of == "2d" else "against_varied"][name][0]["outcome"] == "worse"
    assert schema_faults(stored) == []
    assert "## Against the full method" not in markdown(make_results())


def test_equal_passes_are_told_with_the_passes_of_each() -> None:
    short = dataclasses.replace(make_arm("2d"), name="2d, equal passes", equal_passes_of="2d")
    short = dataclasses.replace(short, trainings=tuple(dataclasses.replace(r, passes=100) for r in short.trainings))
    found = markdown(make_results(*(make_arm(name) for name in LEVELS), short))
    section = found.split("## At equal passes")[1].split("## ")[0]
    assert "`2d, equal passes` 100, `lifted` 400" in section
    assert "| 2d, equal passes | +10.10 ± 0.25 |" in section


def test_spread_over_replications_stands_apart_from_that_over_seeds() -> None:
    def replicated(run: Training) -> Training:
        pair = tuple({**run.metrics, "acceleration": run.metrics["acceleration"] + step} for step in (-1.0, 1.0))
        return dataclasses.replace(run, replications=pair)

    arms = [dataclasses.replace(a, trainings=tuple(map(replicated, a.trainings))) for a in make_results().arms]
    found = markdown(make_results(*arms))
    row = next(line for line in found.split("## Spread")[1].splitlines() if line.startswith("| acceleration"))
    assert [cell.strip() for cell in row.split("|")][2:5] == ["1.41 / 0.0500", "1.41 / 0.110", "1.41 / 0.0450"]
    assert "over the 2 sampling replications" in found
    scores = next(line for line in found.split("## Scores")[1].splitlines() if line.startswith("| acceleration"))
    assert scores == next(line for line in markdown(make_results()).splitlines() if line.startswith("| acceleration"))


def test_facts_are_told_in_sections_of_their_own() -> None:
    example = Example("a | b <script>", {})
    facts = dataclasses.replace(
        make_results(),
        judges=(
            Judge("text-motion", "ab" * 32, "runs on the same data", facts={"r_precision": 0.712}),
            Judge("essential", "cd" * 32, distrust="near chance"),
            Judge("t2m", missing="no weights"),
        ),
        differences="supervision: 3d, 2d",
        batch_size=16,
        run={"command": "videomdm bench"},
        cases=(Case("2d", "bone_length_error", 0.031, 0.0, example),),
    )
    found = markdown(facts)
    for part in (
        "| `text-motion` | yes | r precision 0.712 | runs on the same data | `abababababab` |",
        "| `essential` | no: near chance |",
        "| `t2m` | not here: no weights |",
        "```\nsupervision: 3d, 2d\n```",
        "| 3 | 100 | 1,600 | 400 |",
        "- command: videomdm bench",
        "| 2d | a \\| b \\<script\\> | bone-length error (mm) | 31.0 | 0 |",
    ):
        assert part in found


def test_the_curves_and_pictures_stand_before_the_cost() -> None:
    found = markdown(make_results())
    assert found.index("## Which") < found.index("![Scores of") < found.index("## Cost")


def test_numbers_are_the_same_bytes_whatever_the_trainings_cost() -> None:
    def slower(results: Results) -> Results:
        arms = (
            dataclasses.replace(
                arm, trainings=tuple(dataclasses.replace(r, seconds=99.0, memory=1.0) for r in arm.trainings)
            )
            for arm in results.arms
        )
        return dataclasses.replace(results, arms=tuple(arms))

    assert to_json(make_results()) == to_json(slower(make_results()))
    stored = json.loads(to_json(make_results()))
    assert stored["arms"][0]["trainings"][0]["passes"] == 400
    assert stored["comparisons"]["2d"][0]["outcome"] == "better"
    assert "closes" in stored["headline"][0]


def test_the_terminal_shows_every_arm_and_n() -> None:
    console = Console(width=150, record=True, file=io.StringIO())
    with console.file:
        console.print(terminal_table(make_results()))
        text = console.export_text()
    for part in ("lifted", "pose Fréchet distance", "halves", "N = 18"):
        assert part in text


def test_writing_leaves_text_numbers_and_pictures(tmp_path: Path) -> None:
    motions = {m.name: m for m in load_motions()}
    walk = motions["walk"].positions[:6]
    arms = tuple(make_arm(name, 2) for name in LEVELS)
    example = Example("a person walks forward.", {"truth": walk, **dict.fromkeys(LEVELS, walk)})
    results = dataclasses.replace(make_results(*arms), examples=(example,))
    place = write(results, tmp_path / "report")
    names = {"report.md", "metrics.json", "metrics.png", "losses.png", "strips.png", "motion.gif"}
    names |= {"report.html", "table.tex"}
    assert {path.name for path in place.parent.iterdir()} == names
    assert place.read_text(encoding="utf-8").count("![") == 4
    assert (place.parent / "motion.gif").read_bytes()[:6] == b"GIF89a"
    assert (place.parent / "strips.png").read_bytes()[1:4] == b"PNG"


def test_a_folder_that_cannot_be_written_is_an_error_before_anything_is_drawn(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(StorageError, match="file"):
        write(make_results(), tmp_path / "file" / "report")


CAPTIONS = ("walk", "run", "walk", "jump", "sit")


def cases_in(scores: Sequence[float], metric: str = "acceleration") -> list[Case]:
    """-> the worst captions by these scores of single clips of the 2D arm; their motions hold their places."""

    def example(index: int) -> Example:
        return Example(CAPTIONS[index], {"2d": np.full((4, 22, 3), float(index))})

    arm = make_arm("2d", 1)
    run = dataclasses.replace(arm.trainings[0], per_clip={metric: scores} if scores else {})
    results = make_results(make_arm("3d", 1), dataclasses.replace(arm, trainings=(run,)))
    return list(worst_cases(results, CAPTIONS, example))


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([4.1, 9.0, 3.9, 0.5, -3.0], [("sit", -3.0), ("run", 9.0)]),
        ([30.0, 5.0, 40.0, 4.0, 4.0], [("walk", 40.0), ("run", 5.0)]),
        ([], []),
    ],
)
def test_the_worst_is_furthest_from_the_truth_on_either_side_and_each_caption_comes_once(
    scores: list[float], expected: list[tuple[str, float]]
) -> None:
    cases = cases_in(scores)
    assert [(case.example.caption, case.score) for case in cases] == expected
    for case in cases:
        assert scores[int(case.example.motions["2d"][0, 0, 0])] == case.score
        assert case.arm == "2d"


def test_a_score_that_is_not_finite_is_the_worst_and_a_metric_that_may_not_rank_chooses_nothing_by_itself() -> None:
    cases = cases_in([4.0, 90.0, 4.0, math.nan, 4.0])
    assert [(case.example.caption, case.metric, case.truth) for case in cases] == [
        ("jump", "acceleration", 4.0),
        ("run", "acceleration", 4.0),
    ]
    assert cases_in([50.0, 90.0, 50.0, 51.0, 52.0], "jitter") == []
