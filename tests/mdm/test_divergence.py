"""A training stops at the step that diverges, writes nothing that is not finite, and nothing uses what once was."""

import math
import re
import shutil
from pathlib import Path

import pytest
import torch
from clips import CARD, make_clip
from hypothesis import given
from hypothesis import strategies as st

from videomdm_ext import run
from videomdm_ext.data.building import write_folder
from videomdm_ext.mdm import resume

BROKEN = (math.nan, math.inf, -math.inf)


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int64]))
    ),
    st.data(),
)
def test_one_number_that_is_not_finite_is_found_wherever_it_is_and_the_largest_finite_ones_are_fine(kinds, data):
    tensors = [
        torch.full((size, 2), torch.finfo(kind).max if kind.is_floating_point else 2**62, dtype=kind)
        for size, kind in kinds
    ]
    assert resume.all_finite(tensors)
    assert resume.first_broken({"a": tensors}) == ""
    places = [i for i, (size, kind) in enumerate(kinds) if size and kind.is_floating_point]
    if places:
        place = data.draw(st.sampled_from(places))
        tensors[place][data.draw(st.integers(0, kinds[place][0] - 1)), 1] = data.draw(st.sampled_from(BROKEN))
        assert not resume.all_finite(tensors)
        assert resume.first_broken({"x": 1, "a": tensors}) == f"a.{place}"


SMALL = [
    "--layers", "1", "--latent_dim", "16", "--ff_size", "24", "--num_heads", "2", "--diffusion_steps", "8",
    "--batch_size", "2", "--crop_frames", "12", "--text_features", "words", "--use_ema", "--save_interval", "2",
    "--supervision", "2d", "--teacher", "lifted",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("diverging")
    write_folder(str(place / "set"), {"train": [make_clip(), make_clip(name="walk")]}, CARD)
    return place


def train(place: Path, name: str, *words: str) -> int:
    given = ["--save_dir", str(place / name), "--clips", str(place / "set"), *SMALL, *words]
    return run.main(["train.train_mdm", *given])


def test_a_run_of_the_stand_in_that_diverges_is_stopped_and_its_good_checkpoint_goes_on(folder, capsys):
    """One that is paired: tests/mdm/test_paired_runs.py."""
    name = "run"
    assert train(folder, name, "--num_steps", "4") == 0
    before = {path.name: path.read_bytes() for path in (folder / name).glob("*.pt")}
    capsys.readouterr()
    assert train(folder, name, "--overwrite", "--num_steps", "20", "--lr", "1e30") == 1
    said = capsys.readouterr().err
    assert re.search(r"error: .*: the (loss|weight) .* at step [567]; the training stopped\.", said)
    last = resume.newest(folder / name)
    assert f"The last good checkpoint is {last}. Lower --lr, which is 1e+30, or limit the gradient with" in said
    assert len(said.splitlines()) == 1
    assert {path.name: path.read_bytes() for path in (folder / name).glob("*.pt")}.items() >= before.items()
    assert not [path for path in (folder / name).glob("*.pt") if resume.broken_in(path)]
    assert train(folder, name, "--overwrite", "--num_steps", "6", "--lr", "1e-4") == 0


def renamed(place: Path) -> None:
    """The optimizer of another step under this one's name."""
    shutil.copy(place.with_name("opt000000002.pt"), place.with_name("opt000000004.pt"))


DAMAGES = {
    "empty": lambda place: place.write_bytes(b""),
    "cut": lambda place: place.write_bytes(place.read_bytes()[: place.stat().st_size // 2]),
    "zeros": lambda place: place.write_bytes(bytes(place.stat().st_size)),
    "zeros in the middle": lambda place: place.write_bytes(
        (content := place.read_bytes())[: len(content) // 2] + bytes(64) + content[len(content) // 2 + 64 :]
    ),
    "another step's": renamed,
}
"""What a power loss, or a hand, leaves of a newest checkpoint."""


def test_a_damaged_newest_checkpoint_is_named_and_the_latest_whole_one_goes_on(folder, capsys):
    words = ["--paired", "--num_steps", "6", "--log_interval", "1"]
    assert train(folder, "whole", "--paired", "--num_steps", "4", "--log_interval", "1") == 0
    assert train(folder, "straight", *words) == 0
    wanted = torch.load(folder / "straight" / "model000000006.pt", weights_only=True)["model"]
    for name, damage in DAMAGES.items():
        shutil.copytree(folder / "whole", folder / name)
        place = folder / name / "model000000004.pt"
        damage(place)
        (folder / name / "progress.csv").write_bytes((folder / name / "progress.csv").read_bytes() + bytes(99))
        bad = place.with_name("opt000000004.pt") if "step" in name else place
        before = {path.name: path.read_bytes() for path in (folder / name).iterdir()}
        capsys.readouterr()
        assert train(folder, name, *words, "--resume_checkpoint", str(place)) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {bad}: expected "), line
        assert f"Use {folder / name / 'model000000002.pt'}, the last good one" in line
        assert {path.name: path.read_bytes() for path in (folder / name).iterdir()} == before
        if bad == place:
            assert run.main(["sample.generate", "--model_path", str(place), "--num_samples", "1"]) == 1
            assert f"error: {place}: expected a checkpoint, found a damaged file" in capsys.readouterr().err
        assert train(folder, name, *words, "--resume_checkpoint", "latest") == 0
        assert f"{bad}: expected" in capsys.readouterr().out
        made = torch.load(folder / name / "model000000006.pt", weights_only=True)["model"]
        assert all(torch.equal(made[key], value) for key, value in wanted.items())


def test_a_run_that_is_not_paired_goes_on_from_the_latest_checkpoint_too_and_is_refused_where_that_is_damaged(
    folder, capsys
):
    for steps in ("2", "4"):
        assert train(folder, "free", "--num_steps", steps, "--resume_checkpoint", "latest") == 0
        assert (folder / "free" / f"model00000000{steps}.pt").is_file()
    last = folder / "free" / "model000000004.pt"
    last.write_bytes(b"PK")
    capsys.readouterr()
    assert train(folder, "free", "--num_steps", "6", "--resume_checkpoint", "latest") == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert f"Use {last.with_name('model000000002.pt')}, the last good one, and remove what is later." in said.err


def test_a_runs_folder_stands_for_its_newest_checkpoint(folder, capsys):
    place = folder / "first"
    assert train(folder, "first", "--paired", "--num_steps", "4") == 0
    for kind in ([], ["--paired"]):
        named = ["--num_steps", "6", *kind, "--resume_checkpoint"]
        assert train(folder, "".join(["on", *kind]), *named, str(place)) == 0
        assert f"resumed {place / 'model000000004.pt'}" in capsys.readouterr().out
        assert train(folder, "other", *named, str(folder / "set")) == 1
        assert f"--resume_checkpoint {folder / 'set'}: expected a file model" in capsys.readouterr().err
    assert train(folder, "other", "--num_steps", "6", "--resume_checkpoint", str(place / "args.json")) == 1
    assert f"{place / 'args.json'}: expected a checkpoint, found a damaged file" in capsys.readouterr().err
    named = ["--overwrite", "--num_steps", "6", "--resume_checkpoint"]
    for other, used in ((place, False), (folder / "set" / ".." / "on" / "model000000006.pt", True)):
        assert train(folder, "on", *named, str(other)) == 0
        said = capsys.readouterr().out
        assert ("not used, as --save_dir goes on from its own" in said) is not used


def test_a_paired_run_without_its_optimizer_is_refused(folder, capsys):
    assert train(folder, "alone", "--paired", "--num_steps", "2") == 0
    (folder / "alone" / "opt000000002.pt").unlink()
    capsys.readouterr()
    assert train(folder, "alone", "--paired", "--num_steps", "4", "--resume_checkpoint", "latest") == 1
    assert f"expected {folder / 'alone' / 'opt000000002.pt'} with --paired" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["model", "opt"])
def test_a_run_does_not_go_on_from_numbers_that_are_not_finite_and_writes_nothing(folder, capsys, kind):
    assert train(folder, kind, "--num_steps", "4") == 0
    place = folder / kind / f"{kind}000000004.pt"
    content = torch.load(place, weights_only=True)
    name, tensor = next((name, tensor) for name, tensor in resume.tensors_in(content) if tensor.ndim)
    tensor.view(-1)[0] = math.nan
    torch.save(content, place)
    before = {path.name: path.read_bytes() for path in (folder / kind).iterdir()}
    capsys.readouterr()
    assert train(folder, kind, "--overwrite", "--num_steps", "6", "--log_interval", "1") == 1
    said = capsys.readouterr().err
    assert f"error: {place}: expected finite numbers, found others in {name}, as its training diverged." in said
    assert f"Use {folder / kind / 'model000000002.pt'}, the last good one, and remove what is later." in said
    assert {path.name: path.read_bytes() for path in (folder / kind).iterdir()} == before
    words = ["--model_path", str(folder / kind / "model000000004.pt"), "--num_samples", "1", "--motion_length", "0.5"]
    assert run.main(["sample.generate", *words]) == (1 if kind == "model" else 0)
    assert ("expected finite numbers" in capsys.readouterr().err) == (kind == "model")
