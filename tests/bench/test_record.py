"""The record of a bench as one file: equal bytes, whole or refused; two records compared, or refused by field."""

import dataclasses
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import comparisons
import pytest
import small_bench
import torch

from videomdm_ext.bench import fairness, record
from videomdm_ext.bench.report.html import to_json
from videomdm_ext.bench.report.results import Judge
from videomdm_ext.bench.statistics import mean_interval
from videomdm_ext.cli.main import main
from videomdm_ext.data.folder import read_card
from videomdm_ext.errors import ConfigError, DatasetError
from videomdm_ext.inference.sample import write_motions

SCORES = {"lifted": (20.0, 21.0, 25.0), "2d": (10.0, 11.0, 15.0)}


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Path:
    """-> the folder of a bench with the files that a report leaves, and samples."""
    root = tmp_path_factory.mktemp("record")
    return write_bench(root / "bench", root / "set", SCORES)


def write_bench(folder: Path, data: Path, scores: dict[str, tuple[float, ...]], **changes: Any) -> Path:
    plan = small_bench.make_plan(data, arms=tuple(scores), seeds=3, **changes)
    card = read_card(str(data))
    folder.mkdir()
    fairness.write_plan(plan, folder, card)
    arms = [comparisons.with_scores(comparisons.make_arm(name), "pose_frechet", row) for name, row in scores.items()]
    judges = (Judge("text-motion", "a" * 64), Judge("t2m", missing="no files"))
    (folder / "metrics.json").write_text(to_json(dataclasses.replace(comparisons.make_results(*arms), judges=judges)))
    run = {
        "command": ["videomdm", "bench", "--dataset", str(data)],
        "versions": {"torch": "2"}, "device": "CPU", "host": {"kind": "standin"}, "sources": {"commit": None},
        "dataset": {"content_hash": card.content_hash, "identity": "d" * 64, "folder": str(data)},
        "runs": {"2d-0": {"arguments": ["--save_dir", str(folder)], "passes": 400}},
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(run))
    place = folder / "scores" / "2d-0" / "0.json"
    place.parent.mkdir(parents=True)
    place.write_text(json.dumps({"key": "k", "parts": [], "scores": {"jitter": 40.0}}))
    write_motions(folder / "samples" / "2d-0" / "0.npz", {"samples": [torch.zeros(5, 22, 3)]}, ["to walk"])
    return folder


def changed(content: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """-> the record with another value at a path of names with slashes."""
    found = json.loads(json.dumps(content))
    *names, last = path.split("/")
    part = found
    for name in names:
        part = part[int(name) if name.isdigit() else name]
    part[last] = value
    return found


def test_equal_benches_give_equal_bytes_with_no_path_of_the_machine(bench, tmp_path):
    copied = shutil.copytree(bench, tmp_path / "copied")
    for file in sorted(copied.rglob("*"), reverse=True):
        file.touch()
    written = [tmp_path / "first.record", tmp_path / "second.record", tmp_path / "more.record"]
    for folder, place, samples in zip((bench, copied, bench), written, (False, False, True), strict=True):
        content = record.export(folder, place, samples=samples)
        assert record.read_record(place) == content
        assert set(content["files"]) == {"scores/2d-0/0.json", *(["samples/2d-0/0.npz"] if samples else [])}
    assert written[0].read_bytes() == written[1].read_bytes()
    with zipfile.ZipFile(written[2]) as archive:
        assert archive.read("samples/2d-0/0.npz") == (bench / "samples/2d-0/0.npz").read_bytes()
        head = archive.read("record.json").decode()
    assert str(bench.parent) not in head
    assert json.loads(head)["metrics"]["arms"][0]["trainings"][2]["metrics"]["pose_frechet"] == 25.0


def test_damaged_and_foreign_files_are_refused_with_one_message(bench, tmp_path):
    place = tmp_path / "a.record"
    record.export(bench, place)
    whole = place.read_bytes()
    with zipfile.ZipFile(place) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for number, (content, message) in enumerate(
        [
            (whole[: len(whole) // 2], "expected the record of a comparison"),
            (whole.replace(b'"pose_frechet": 25.0', b'"pose_frechet": 24.0'), "expected the record of a comparison"),
            (b"{}", "expected the record of a comparison"),
            ({"record.json": members["record.json"]}, "scores/2d-0/0.json is not what record.json lists"),
            ({**members, "more.txt": b"x"}, "more.txt is not what record.json lists"),
            ({**members, "record.json": b'{"format": 2}'}, "expected"),
            ({"scores/2d-0/0.json": b"{}"}, "expected the record of a comparison"),
            (
                {**members, "record.json": members["record.json"].replace(b'"jitter": 40.0', b'"jitter": 4.0')},
                "jitter of .*, seed 0, is 4.0 and not the mean of scores/2d-0/",
            ),
        ]
    ):
        other = tmp_path / f"{number}.record"
        if isinstance(content, bytes):
            other.write_bytes(content)
        else:
            with zipfile.ZipFile(other, "w") as archive:
                for name, data in content.items():
                    archive.writestr(name, data)
        with pytest.raises(DatasetError, match=message):
            record.read_record(other)
    with zipfile.ZipFile(tmp_path / "packed.record", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("record.json", members["record.json"])
    with pytest.raises(DatasetError, match="is not stored as it is"):
        record.read_record(tmp_path / "packed.record")
    with pytest.raises(ConfigError, match=r"plan\.json: expected the folder of a bench that is reported"):
        record.export(tmp_path, tmp_path / "b.record")
    assert not (tmp_path / "b.record").exists()


def test_a_page_that_is_not_of_its_scores_is_not_exported_and_an_unknown_evaluator_not_left_out(bench, tmp_path):
    folder = shutil.copytree(bench, tmp_path / "bench")
    content = record.export(folder, tmp_path / "a.record")
    with pytest.raises(ConfigError, match=r"--without text-moton: expected evaluators of the records \(text-motion\)"):
        record.compare(content, content, without=("text-moton",))
    place = folder / "scores" / "2d-0" / "0.json"
    place.write_text(place.read_text().replace("40.0", "41.0"))
    with pytest.raises(DatasetError, match=r"metrics\.json: jitter of 2d, seed 0, is 40\.0 and not the mean"):
        record.export(folder, tmp_path / "b.record")


def test_differences_are_those_of_paired_seeds_with_their_interval(bench, tmp_path):
    ours = record.export(bench, tmp_path / "a.record")
    theirs, lower = json.loads(json.dumps(ours)), (7.0, 9.0, 11.0)
    trainings = theirs["metrics"]["arms"][1]["trainings"]
    for training, score in zip(trainings, lower, strict=True):
        training["metrics"]["pose_frechet"] = score
    theirs["plan"]["steps"] = 1000
    found = record.compare(ours, theirs)
    rows = {(row[0].split(" (")[0], row[1]): row[2:] for row in found.table.rows}
    apart = mean_interval([a - b for a, b in zip(SCORES["2d"], lower, strict=True)])
    assert rows["pose Fréchet distance", "2d"][2] == f"{apart.mean:+.1f} ± {apart.half_width:.1f}"
    assert rows["pose Fréchet distance", "2d"][3] == "3"
    assert rows["pose Fréchet distance", "lifted"][0] == rows["pose Fréchet distance", "lifted"][1]
    assert rows["pose Fréchet distance", "lifted"][2].lstrip("+").startswith("0 ±")
    assert ("motion energy", "2d") not in rows
    assert any(row[0].startswith("motion energy") for row in record.compare(ours, theirs, everything=True).table.rows)
    assert [row for row in found.others.rows if row[0] == "steps"] == [["steps", "60", "1000"]]
    del trainings[1:]
    theirs["metrics"]["arms"][0]["name"] = "else"
    alone = record.compare(ours, theirs)
    assert alone.left_out == ("arm lifted", "arm else")
    (row,) = (row for row in alone.table.rows if row[0].startswith("pose"))
    assert row[-2:] == ["3.00", "1"]


FIELDS = {
    "rules/scoring": 999, "run/dataset/identity": "e" * 64, "plan/samples": 7, "plan/replications": 1,
    "plan/guidance": 2.5, "plan/reference": "test", "metrics/evaluators/0/identity": "b" * 64,
    "plan/settings/2d/crop_frames": 99,
}  # fmt: skip


@pytest.mark.parametrize("path", FIELDS)
def test_what_must_be_equal_is_refused_by_name(bench, tmp_path, path):
    ours = record.export(bench, tmp_path / "a.record")
    theirs = changed(ours, path, FIELDS[path])
    names = {"metrics/evaluators/0/identity": "evaluator text-motion", "run/dataset/identity": "data set identity"}
    name = names.get(path, "rules for scoring" if path.startswith("rules") else path.split("/")[-1])
    with pytest.raises(ConfigError, match=f"found another .*{name}") as caught:
        record.compare(ours, theirs)
    assert str(FIELDS[path]) in str(caught.value)
    if path in names and "evaluator" in names[path]:
        assert record.compare(ours, theirs, without=("text-motion",)).left_out == ("evaluator text-motion",)
    if path == "run/dataset/identity":  # of a set whose identity one does not know, the content counts
        theirs["run"]["dataset"]["identity"] = ""
        record.compare(ours, theirs)
        theirs["run"]["dataset"]["content_hash"] = "f" * 64
        with pytest.raises(ConfigError, match="data set content_hash"):
            record.compare(ours, theirs)


def test_the_two_verbs_write_a_record_and_a_page_or_end_with_one_message(bench, tmp_path, capsys):
    first, second, page = (str(tmp_path / name) for name in ("a.record", "b.record", "c.md"))
    assert main(["bench", "export", str(bench), "--out", first]) == 0
    assert "bench compare" in capsys.readouterr().out
    other = write_bench(tmp_path / "other", tmp_path / "set", {"2d": (9.0, 10.0, 12.0)})
    assert main(["bench", "export", str(other), "--out", second, "--samples"]) == 0
    assert main(["bench", "compare", first, second, "--out", page]) == 0
    text = Path(page).read_text(encoding="utf-8")
    assert "| pose Fréchet distance (10⁻² m²) | 2d |" in text
    assert "In one alone, or left out: arm lifted." in text
    plan = json.loads((other / "plan.json").read_text())
    (other / "plan.json").write_text(json.dumps({**plan, "guidance": 2.5}))
    assert main(["bench", "export", str(other), "--out", second]) == 0
    capsys.readouterr()
    assert main(["bench", "compare", first, second]) == 1
    assert "guidance (1.0, 2.5)" in " ".join(capsys.readouterr().err.split())
