"""An evaluation during training that could not end is refused before the training begins."""

import argparse
from pathlib import Path

import pytest
from clips import CARD, make_clip

from videomdm_ext.data.building import write_folder
from videomdm_ext.errors import ConfigError, HostError
from videomdm_ext.mdm import evaluation


def asked(**changes: object) -> argparse.Namespace:
    given = {"dataset": "humanml", "eval_split": "test", "eval_batch_size": 32, "eval_num_samples": 1000, "clips": ""}
    return argparse.Namespace(**{**given, "eval_during_training": True, **changes})


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """-> a checkout, in which the process is, with all files of the evaluator and its own test split."""
    place = tmp_path / "mdm"
    for path in (*evaluation.FILES, Path("dataset/HumanML3D/test.txt")):
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).touch()
    monkeypatch.chdir(place)
    return place


def test_it_is_started_where_the_files_are_that_it_reads(root, tmp_path, monkeypatch):
    evaluation.check_during_training(asked(), root)
    (root / evaluation.FILES[0]).unlink()
    with pytest.raises(HostError, match=r"--eval_during_training: .*expected the files of MDM's evaluator.*Run in the"):
        evaluation.check_during_training(asked(), root)
    evaluation.check_during_training(asked(eval_during_training=False), root)
    evaluation.check_during_training(asked(dataset="humanact12"), root)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HostError, match=f"expected to be started in {root}"):
        evaluation.check_during_training(asked(), root)


def test_it_needs_as_many_motions_as_are_drawn_for_the_diversity(root, tmp_path):
    for made, batch in ((287, 32), (255, 256), (1, 64)):
        with pytest.raises(ConfigError, match=f"--eval_num_samples {made}: expected 300 or more"):
            evaluation.check_during_training(asked(eval_num_samples=made, eval_batch_size=batch), root)
    evaluation.check_during_training(asked(eval_num_samples=300), root)
    data = str(tmp_path / "set")
    write_folder(data, {"train": [make_clip()], "test": [make_clip(name="walk")]}, CARD)
    with pytest.raises(ConfigError, match="expected 320 or more clips of 40 to 199 frames in the split test"):
        evaluation.check_during_training(asked(clips=data), root)


def test_without_a_truth_it_needs_the_hosts_own_split(root):
    with pytest.raises(ConfigError, match=r"--eval_during_training: expected .*HumanML3D/val\.txt to evaluate on"):
        evaluation.check_during_training(asked(eval_split="val"), root)
