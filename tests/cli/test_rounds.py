"""Training in rounds: each round's run makes the next one's teachers, and what is done is not done again."""

import json
import shutil
from types import SimpleNamespace

import forks
import pytest
import torch
from clips import CARD, make_clip

from videomdm_ext.cli import main as cli
from videomdm_ext.cli import training
from videomdm_ext.data.building import write_folder
from videomdm_ext.data.folder import read_card, read_folder

SMALL = [
    *("--batch_size", "2", "--crop_frames", "24", "--latent_dim", "16", "--layers", "1", "--ff_size", "16"),
    *("--text_features", "words", "--diffusion_steps", "8", "--save_interval", "2", "--log_interval", "1"),
]


@pytest.fixture
def words(tmp_path, monkeypatch):
    """The words of a training; that of each round is a fork."""
    run = SimpleNamespace(run=lambda command, check: forks.run(command[1:], env={"PYTHONPATH": str(forks.ROOT)}))
    monkeypatch.setattr(training, "subprocess", run)
    clips = [make_clip(name=name) for name in ("walk", "jump", "kick")]
    write_folder(str(tmp_path / "set"), {"train": clips}, CARD)
    place = ["--clips", str(tmp_path / "set"), "--save_dir", str(tmp_path / "run")]
    return ["train", "--arm", "2d-lifted", *SMALL, *place]


def weights(path):
    content = torch.load(path, weights_only=True)
    return content.get("model", content)


def test_every_round_is_trained_on_what_the_one_before_made_of_the_clips_and_goes_on_when_interrupted(
    words, tmp_path, capsys
):
    run, made = tmp_path / "run", tmp_path / "run" / "teachers-1"
    assert cli.main([*words, "--rounds", "2", "--num_steps", "6"]) == 0
    card = read_card(str(made))
    assert (card.lifter, card.recipe["refreshed"]["round"]) == ("bent-r1", 1)
    assert card.recipe["refreshed"]["checkpoint"].endswith("model000000003.pt")
    assert json.loads((run / "args.json").read_text())["clips"] == str(made)
    before, after = read_folder(str(tmp_path / "set"), "train")[1], read_folder(str(made), "train")[1]
    assert any((one.teacher != two.teacher).any() for one, two in zip(before, after, strict=True))
    assert all((one.keypoints == two.keypoints).all() for one, two in zip(before, after, strict=True))
    whole, teachers = weights(run / "model000000006.pt"), card.content_hash
    for kind in ("model", "opt"):  # stopped in the second round, and started again
        for step in (4, 6):
            (run / f"{kind}{step:09d}.pt").unlink()
    assert cli.main([*words, "--rounds", "2", "--num_steps", "6"]) == 0
    assert read_card(str(made)).content_hash == teachers
    again = weights(run / "model000000006.pt")
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    write_folder(str(tmp_path / "other"), {"train": [make_clip(name="walk")]}, CARD)
    kept = (run / "args.json").read_bytes()
    for changed in (["3", "--num_steps", "6"], ["1", "--num_steps", "6"], ["2", "--num_steps", "8"]):
        assert cli.main([*words, "--rounds", *changed]) == 1
        assert f"found other rounds ({made})" in capsys.readouterr().err
    others = [str(tmp_path / "other") if word == str(tmp_path / "set") else word for word in words]
    assert cli.main([*others, "--rounds", "2", "--num_steps", "6"]) == 1
    assert f"found other rounds ({made})" in capsys.readouterr().err
    shutil.rmtree(made)  # the weights are those of the second round
    assert cli.main([*words, "--rounds", "2", "--num_steps", "6"]) == 1
    assert "expected no more than the 3 steps of round 1, found model000000006.pt" in capsys.readouterr().err
    assert not made.exists()
    assert (run / "args.json").read_bytes() == kept


def test_rounds_begin_with_the_weights_of_a_checkpoint_and_stay_in_its_units(words, tmp_path):
    assert cli.main([*words, "--num_steps", "2"]) == 0
    (tmp_path / "run").rename(tmp_path / "base")
    other = [make_clip(name=name, moving=True) for name in ("walk", "jump")]
    write_folder(str(tmp_path / "own"), {"train": other}, CARD)
    begun = ["train", "--arm", "2d-lifted", *SMALL, "--from", str(tmp_path / "base"), "--clips", str(tmp_path / "own")]
    begun += ["--save_dir", str(tmp_path / "run"), "--rounds", "2", "--num_steps", "4"]
    assert cli.main(begun) == 0
    run = tmp_path / "run"
    for name in ("Mean.npy", "Std.npy"):
        assert (run / name).read_bytes() != (run / "teachers-1" / name).read_bytes()
    assert json.loads((run / "args.json").read_text())["start_from"].endswith("base/model000000002.pt")
    whole = weights(run / "model000000004.pt")
    for place in run.glob("*000000004.pt"):
        place.unlink()
    shutil.rmtree(tmp_path / "base")  # not needed any more
    assert cli.main(begun) == 0
    assert all(torch.equal(value, whole[name]) for name, value in weights(run / "model000000004.pt").items())


@pytest.mark.parametrize("wrong", [["two"], ["0"], ["²"], ["7"], ["2", "--resume_checkpoint", "model000000003.pt"]])
def test_rounds_that_cannot_be_are_refused_before_training(words, tmp_path, capsys, wrong):
    assert cli.main([*words, "--num_steps", "6", "--rounds", *wrong]) == 1
    assert f"error: --rounds {wrong[0]}: expected a number of rounds" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
