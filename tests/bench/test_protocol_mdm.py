"""The published protocol without MDM: its log is read, nothing is run twice, and what is missing is named before."""

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from clips import CARD, make_clip

from videomdm_ext.bench.report.tables import markdown_block
from videomdm_ext.bench.reproduction import protocol_mdm
from videomdm_ext.bench.reproduction.protocol_mdm import Settings
from videomdm_ext.cli.benchmarking import bench
from videomdm_ext.data.building import write_folder
from videomdm_ext.errors import ConfigError, DatasetError, HostError
from videomdm_ext.mdm import checkout, evaluation

NAMES = ("mm_dist", "r_precision_1", "r_precision_2", "r_precision_3", "fid", "diversity")
ARGS = {"dataset": "humanml", "num_steps": 50, "clips": "", "text_features": "clip"}


def protocol(words: list[str]) -> int:
    return bench(["--protocol", "mdm", *words])


def numbers(count: int, mm: bool = False) -> dict[str, list[dict[str, float]]]:
    """-> scores of each replication, by whom they are of; 4 decimals, all different."""
    draw = np.random.default_rng(count)
    names = {"ground truth": NAMES, "vald": (*NAMES, *(["multimodality"] if mm else []))}
    return {
        who: [{name: round(float(draw.uniform(0, 12)), 4) for name in own} for _ in range(count)]
        for who, own in names.items()
    }


def write_log(scores: dict[str, list[dict[str, float]]]) -> str:
    """A log as MDM's program writes it, its summary included."""
    lines = []
    for number in range(len(scores["vald"])):
        now = {who: replications[number] for who, replications in scores.items()}
        lines += [f"{'=' * 20} Replication {number} {'=' * 20}", "Time: 2026-01-01 00:00:00.000001"]
        for who, own in now.items():
            lines.append(f"---> [{who}] Matching Score: {own['mm_dist']:.4f}")
            tops = "".join(f"(top {k}): {own[f'r_precision_{k}']:.4f} " for k in (1, 2, 3))
            lines.append(f"---> [{who}] R_precision: {tops}")
        for title, name in (("FID", "fid"), ("Diversity", "diversity"), ("Multimodality", "multimodality")):
            lines += ["Time: 2026-01-01 00:00:00.000001"]
            lines += [f"---> [{who}] {title}: {own[name]:.4f}" for who, own in now.items() if name in own]
        lines.append("!!! DONE !!!")
    titles = ("Matching Score", "R_precision", "FID", "Diversity", "MultiModality")
    for title, name in zip(titles, ("mm_dist", "r_precision", "fid", "diversity", "multimodality"), strict=True):
        lines.append(f"========== {title} Summary ==========")
        for who, own in scores.items():
            if name == "r_precision":
                tops = (summed(own, f"{name}_{k}") for k in (1, 2, 3))
                parts = (f"(top {k}) Mean: {m:.4f} CInt: {c:.4f};" for k, (m, c) in enumerate(tops, start=1))
                lines.append(f"---> [{who}]" + "".join(parts))
            elif name in own[0]:
                lines.append("---> [{}] Mean: {:.4f} CInterval: {:.4f}".format(who, *summed(own, name)))
    return "\n".join(lines) + "\n"


def summed(replications: list[dict[str, float]], name: str) -> tuple[float, float]:
    values = np.array([scores[name] for scores in replications])
    return float(values.mean()), float(1.96 * values.std() / len(values) ** 0.5)


@pytest.mark.parametrize(("mode", "count"), [("wo_mm", 20), ("debug", 5), ("mm_short", 5)])
def test_every_number_of_the_log_is_read(mode, count):
    scores = numbers(count, mm=mode == "mm_short")
    found = evaluation.read_log(write_log(scores), mode)
    for who, own in scores.items():
        assert list(found[who].replications) == own
        for name in own[0]:
            expected = summed(own, name)
            assert (found[who].mean[name], found[who].half_width[name]) == pytest.approx(expected, abs=6e-5)
    assert evaluation.replications_done(write_log(scores)) == count


@pytest.mark.parametrize("mode", ["debug", "mm_short"])
def test_a_log_cut_anywhere_is_not_finished_or_says_the_same(mode):
    whole = write_log(numbers(2, mm=mode == "mm_short"))
    expected, finished = evaluation.read_log(whole, mode), 0
    for end in [*range(0, len(whole) - 900, 97), *range(len(whole) - 900, len(whole))]:
        found = evaluation.read_log(whole[:end], mode)
        assert found is None or found == expected
        finished += found is not None
    assert finished < 60


def test_scores_that_are_no_number_are_null_in_the_json():
    text = write_log(numbers(2)).replace(f"FID: {numbers(2)['vald'][0]['fid']:.4f}", "FID: nan")
    scores = evaluation.read_log(text, "debug")
    one = protocol_mdm.Evaluated("a", "the data", ARGS, {"settings": {}}, scores)
    content = json.loads(protocol_mdm.as_json([one], Settings()), parse_constant=pytest.fail)
    replications = content["runs"]["a"]["scores"]["vald"]["replications"]
    assert replications[0]["fid"] is None
    assert replications[1]["fid"] == numbers(2)["vald"][1]["fid"]


def fake_checkout(root: Path) -> Path:
    """-> a folder with the names of all files that are asked for, and nothing in them but what tells an MDM."""
    data = [f"dataset/HumanML3D/{part}" for part in evaluation.OF_DATA]
    for name in (*checkout.SEAMS, "eval/eval_humanml.py", *map(str, evaluation.FILES), *data):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")
    (root / checkout.PARSER).write_text("".join(f"def {name}(): ...\n" for name in (checkout.OPTIONS, checkout.RULES)))
    return root


def write_run(folder: Path, steps: int = 50, **args: object) -> Path:
    folder.mkdir(parents=True)
    (folder / f"model{steps:09d}.pt").write_bytes(b"weights")
    (folder / "args.json").write_text(json.dumps({**ARGS, **args}))
    return folder


PROGRAM = """
import pathlib, sys
checkpoint, count, status = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[3]), int(sys.argv[4])
with count.open("a") as file:
    print(checkpoint.parent.name, file=file)
assert checkpoint.read_bytes() and (checkpoint.parent / "args.json").is_file()
print("what MDM says last")
(checkpoint.parent / "eval_humanml_x_debug.log").write_text(pathlib.Path(sys.argv[2]).read_text())
sys.exit(status)
"""


class Program:
    """Stands in for MDM's: leaves a log, and counts how often it ran for what."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log, self.status = folder, write_log(numbers(5)), 0

    def __call__(self, host: checkout.Checkout, checkpoint: Path, **asked: object) -> list[str]:
        (self.folder / "given.log").write_text(self.log)
        words = [checkpoint, self.folder / "given.log", self.folder / "count", self.status]
        return [sys.executable, "-c", PROGRAM, *map(str, words)]

    @property
    def runs(self) -> list[str]:
        place = self.folder / "count"
        return place.read_text().split() if place.exists() else []


@pytest.fixture
def program(tmp_path, monkeypatch) -> Program:
    made = Program(tmp_path)
    monkeypatch.setattr(evaluation, "command", made)
    return made


def words(tmp_path: Path, *more: str) -> list[str]:
    return ["--mdm", str(tmp_path / "mdm"), "--out", str(tmp_path / "bench"), "--eval_mode", "debug", *more]


def test_every_run_of_a_bench_is_evaluated_once(tmp_path, program, capsys):
    fake_checkout(tmp_path / "mdm")
    for name in ("2d-0", "3d-0"):
        write_run(tmp_path / "bench/runs" / name)
    assert protocol(words(tmp_path)) == 0
    assert program.runs == ["2d-0-debug-guidance2.5-seed10", "3d-0-debug-guidance2.5-seed10"]
    written = {name: (tmp_path / "bench" / name).read_bytes() for name in ("protocol_mdm.json", "protocol_mdm.md")}
    assert protocol(words(tmp_path)) == 0
    assert len(program.runs) == 2
    assert {name: (tmp_path / "bench" / name).read_bytes() for name in written} == written
    content = json.loads(written["protocol_mdm.json"])
    assert content["runs"]["3d-0"]["scores"]["vald"]["replications"] == numbers(5)["vald"]
    assert "2d-0" in capsys.readouterr().out


def test_a_log_of_another_checkpoint_or_evaluator_or_setting_does_not_count(tmp_path, program):
    root = fake_checkout(tmp_path / "mdm")
    run = write_run(tmp_path / "bench/runs/2d-0")
    protocol(words(tmp_path))
    (run / "model000000050.pt").write_bytes(b"other weights")
    protocol(words(tmp_path))
    (root / evaluation.FILES[0]).write_text("another evaluator")
    protocol(words(tmp_path))
    (root / "dataset/HumanML3D/test.txt").write_text("000001\n")
    protocol(words(tmp_path))
    protocol(words(tmp_path, "--seed", "11"))
    assert len(program.runs) == 5
    protocol(words(tmp_path))
    assert len(program.runs) == 5


def test_a_killed_evaluation_is_run_again_and_a_failed_one_says_what_was_printed(tmp_path, program):
    fake_checkout(tmp_path / "mdm")
    write_run(tmp_path / "bench/runs/2d-0")
    program.log, program.status = write_log(numbers(5))[:-700], 1
    with pytest.raises(HostError, match=r"printed\.log: .* status 1: what MDM says last"):
        protocol(words(tmp_path))
    program.status = 0
    with pytest.raises(HostError, match="expected a finished log"):
        protocol(words(tmp_path))
    program.log = write_log(numbers(5))
    assert protocol(words(tmp_path)) == 0
    assert len(program.runs) == 3


def test_a_single_checkpoint_and_a_folder_can_be_named(tmp_path, program, monkeypatch):
    fake_checkout(tmp_path / "mdm")
    early = write_run(tmp_path / "a", steps=20) / "model000000020.pt"
    write_run(tmp_path / "b")
    monkeypatch.chdir(tmp_path)
    assert protocol([*words(tmp_path)[:2], "--run", "b", "--model_path", str(early)]) == 0
    assert program.runs == ["b-wo_mm-guidance2.5-seed10", "a-wo_mm-guidance2.5-seed10"]
    assert (tmp_path / "runs/protocol_mdm/protocol_mdm.md").is_file()


def refused(tmp_path: Path, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        protocol(words(tmp_path))
    assert not (tmp_path / "bench/protocol_mdm").exists()


@pytest.mark.parametrize(
    ("gone", "error", "match"),
    [
        ("eval/eval_humanml.py", HostError, "expected MDM's evaluation, found none"),
        ("t2m/text_mot_match/model/finest.tar", HostError, r"no t2m/.*finest\.tar\. Run .*download_t2m_evaluators\.sh"),
        ("glove/our_vab_words.pkl", HostError, r"no glove/our_vab_words\.pkl\. Run .*download_glove\.sh"),
        ("dataset/HumanML3D/test.txt", ConfigError, r"found no .*HumanML3D/test\.txt"),
    ],
)
def test_what_is_not_there_is_named_before_anything_runs(tmp_path, program, gone, error, match):
    (fake_checkout(tmp_path / "mdm") / gone).unlink()
    write_run(tmp_path / "bench/runs/2d-0")
    refused(tmp_path, error, match)
    assert not program.runs


@pytest.mark.parametrize(
    ("steps", "args", "match"),
    [
        (20, {}, r"finished training of 50 steps, found 20.*--model_path .*model000000020\.pt"),
        (50, {"dataset": "kit"}, "--dataset humanml, found kit"),
        (50, {"ff_size": 384}, "--ff_size 1024, .* found 384"),
        (50, {"conv_kernel": 9}, "--conv_kernel 0, .* found 9"),
    ],
)
def test_runs_that_cannot_be_evaluated_are_refused(tmp_path, program, steps, args, match):
    fake_checkout(tmp_path / "mdm")
    write_run(tmp_path / "bench/runs/2d-0", steps, **args)
    refused(tmp_path, (ConfigError, HostError), match)


def test_nothing_named_no_runs_and_equal_names_are_refused(tmp_path, program):
    fake_checkout(tmp_path / "mdm")
    with pytest.raises(ConfigError, match="--out, --run, --model_path"):
        protocol(words(tmp_path)[:2])
    refused(tmp_path, ConfigError, "expected the trainings of a bench")
    for place in ("x/2d-0", "y/2d-0"):
        write_run(tmp_path / place)
    with pytest.raises(ConfigError, match="found 2d-0 twice"):
        protocol([*words(tmp_path), "--run", str(tmp_path / "x/2d-0"), str(tmp_path / "y/2d-0")])
    (tmp_path / "x/2d-0/args.json").unlink()
    with pytest.raises(DatasetError, match=r"args\.json: expected a file that can be read, found none"):
        protocol([*words(tmp_path), "--run", str(tmp_path / "x/2d-0")])


def test_clips_are_found_from_where_the_training_was_started_and_must_be_enough(tmp_path, program, monkeypatch):
    clip = make_clip()
    write_folder(str(tmp_path / "set"), {"train": [clip], "test": [dataclasses.replace(clip, id="t")]}, CARD)
    fake_checkout(tmp_path / "mdm")
    run = write_run(tmp_path / "bench/runs/2d-0", clips="set")
    monkeypatch.chdir(tmp_path)
    assert protocol_mdm.of_run(run).args["clips"] == str(tmp_path / "set")
    refused(tmp_path, ConfigError, "expected 320 or more clips .* found . of 1")
    blind = dataclasses.replace(clip, id="t", truth=None, truth_extrinsics=None)
    shutil.rmtree(tmp_path / "set")
    write_folder(str(tmp_path / "set"), {"train": [clip], "test": [blind]}, CARD)
    assert protocol(words(tmp_path)) == 0


def evaluated(name: str = "2d-0", data: str = "HumanML3D's test split in the checkout", **args: object):
    scores = evaluation.read_log(write_log(numbers(5, mm=True)), "mm_short")
    files = {"t2m/text_mot_match/model/finest.tar": "ab" * 32}
    return protocol_mdm.Evaluated(name, data, {**ARGS, **args}, {"host": {"files": files}}, scores)


def test_the_table_has_runs_truth_and_published_figures():
    rows = {
        line.split("|")[1].strip(): line for line in markdown_block(protocol_mdm.table([evaluated()])).splitlines()[2:]
    }
    mean, half = summed(numbers(5, mm=True)["vald"], "fid")
    assert f"{mean:.3g}"[:4] in rows["2d-0"]
    assert f"± {half:.3f}" in rows["2d-0"]
    assert "*HumanML3D's test split in the checkout*" in rows
    published = "".join(row for name, row in rows.items() if name.startswith("published"))
    assert all(figure in published for figure in ("0.544 ± 0.044", "0.88", "0.54 ", "2209.14916", "2606.13364"))
    assert len({row.count("|") for row in rows.values()}) == 1


def test_the_report_says_what_makes_it_incomparable():
    text = protocol_mdm.document([evaluated()], Settings())
    for said in ("1.96", "one seed", "last checkpoint", "test split", "groups of 32", "1,024", "cropped", "ab" * 6):
        assert said in text, said
    assert "Not on HumanML3D" not in text
    small = evaluated(
        data="the true motions of the test clips of cmu", clips="cmu", crop_frames=64, text_features="words"
    )
    text = protocol_mdm.document([small], Settings(eval_mode="debug", guidance=1.0))
    for said in ("Not on HumanML3D's test split", "crops of 64 frames", "Text features", "20 replications"):
        assert said in text, said
