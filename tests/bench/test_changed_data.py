"""What was made from other data is refused by name, by every verb that begins work; what is only touched is not."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import pytest
import small_bench
from clips import FILES, change, nudge

from videomdm_ext.bench import provenance
from videomdm_ext.bench.plan import Plan, read_plan
from videomdm_ext.bench.run import execute, prepare
from videomdm_ext.bench.scoring import make_scoring
from videomdm_ext.cli.main import main
from videomdm_ext.data import refined, seal
from videomdm_ext.data.folder import read_card
from videomdm_ext.data.tasks import Engine
from videomdm_ext.errors import VideoMDMError
from videomdm_ext.mdm import checkout, hook
from videomdm_ext.supervision import refinement

SMALL = [
    "--layers", "1", "--latent_dim", "16", "--ff_size", "16", "--diffusion_steps", "4", "--batch_size", "4",
    "--crop_frames", "16", "--text_features", "words", "--teacher", "lifted", "--save_interval", "2",
    "--log_interval", "1",
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _brief():
    with pytest.MonkeyPatch.context() as patch:
        brief = refinement.Refinement(first=5, rounds=0)
        patch.setattr(refinement, "Refinement", lambda: brief)
        yield


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    """-> a folder with a set, its refined teachers, a training of 2 steps and a bench of which one arm is trained."""
    place = tmp_path_factory.mktemp("changed")
    plan = small_bench.make_plan(place / "set", arms=("3d", "refined"), steps=2)
    prepare(plan, place / "bench")
    execute(plan, place / "bench", engine=Engine(processes=0), watch=lambda done: None, todo=plan.runs()[:1])
    train(place, "--num_steps", "2")
    return place


def train(place: Path, *words: str) -> None:
    given = ["--clips", str(place / "set"), "--save_dir", str(place / "run"), *SMALL, *words]
    hook.run(checkout.standin(), "train.train_mdm", given)


@pytest.fixture
def copy(done, tmp_path, monkeypatch) -> Path:
    """-> a copy of it with equal times, whose plan names the set beside it."""
    place = Path(shutil.copytree(done, tmp_path / "copy"))
    for name in ("bench/plan.json", "run/args.json", "bench/runs/3d-0/args.json"):
        (place / name).write_text((place / name).read_text().replace(str(done), str(place)))
    return place


def plan_of(place: Path) -> Plan:
    return read_plan(place / "bench")


def verbs(place: Path):
    """-> what begins work on a data set, by name."""
    plan, out = plan_of(place), place / "bench"
    return {
        "bench": lambda: prepare(plan, out),
        "the next training of a bench": lambda: execute(
            plan, out, engine=Engine(processes=0), watch=lambda done: None, todo=plan.runs()[1:]
        ),
        "scoring": lambda: make_scoring(plan, out),
        "refine": lambda: refined.make_refined(plan.clips, read_card(plan.clips)),
        "train": lambda: train(place, "--num_steps", "2", "--save_dir", str(place / "new")),
        "resume": lambda: train(place, "--num_steps", "4", "--overwrite"),
        "resume paired": lambda: train(place, "--num_steps", "4", "--paired", "--resume_checkpoint", "latest"),
    }


@pytest.mark.parametrize("name", FILES)
def test_a_change_of_any_file_is_named_by_every_verb_before_it_begins(copy, name):
    change(copy / "set" / name)
    for verb, work in verbs(copy).items():
        with pytest.raises(VideoMDMError) as caught:
            work()
        assert f"found others: {name} " in str(caught.value), verb
    assert any(f"found others: {name} " in problem for problem in provenance.problems(copy / "bench"))
    assert not (copy / "new").exists()


def test_what_is_touched_and_not_changed_is_accepted_without_a_word(copy, capsys, caplog):
    for place in (copy / "set").rglob("*"):
        os.utime(place)
    prepare(plan_of(copy), copy / "bench")
    train(copy, "--num_steps", "4", "--overwrite")
    assert "others" not in capsys.readouterr().out + caplog.text


def test_other_data_made_the_sets_own_are_refused_by_what_was_made_from_the_earlier(copy, capsys):
    nudge(copy / "set" / "keypoints_2d" / "walk_0.npz")
    before = read_card(str(copy / "set"))
    assert main(["data", "check", str(copy / "set"), "--accept", "--no-cache"]) == 0
    after = read_card(str(copy / "set"))
    assert after.content_hash != before.content_hash
    capsys.readouterr()
    plan = dataclasses.replace(plan_of(copy), content=after.content_hash)
    named = f"a few {after.content_hash[:12]}"
    for work in (lambda: prepare(plan, copy / "bench"), lambda: train(copy, "--num_steps", "4", "--overwrite")):
        with pytest.raises(VideoMDMError, match=rf"as recorded in .*\.json, the data set a few .*, found {named}"):
            work()
    assert any(named in problem for problem in provenance.problems(copy / "bench"))
    start = ["--resume_checkpoint", str(copy / "run/model000000002.pt")]
    train(copy, "--num_steps", "4", "--save_dir", str(copy / "new"), *start)
    assert "were trained on the data set a few" in capsys.readouterr().out


def test_a_training_of_a_bench_that_had_other_data_is_named(copy):
    args = copy / "bench" / "runs" / "3d-0" / "args.json"
    stored = json.loads(args.read_text())
    stored["clips_record"] |= {"seal": "0" * 64, "identity": "1" * 64}
    args.write_text(json.dumps(stored))
    with pytest.raises(VideoMDMError, match=rf"as recorded in {args}, the data set a few 1111.* remove {args.parent}"):
        prepare(plan_of(copy), copy / "bench")


def test_a_training_that_was_removed_is_made_again_with_its_samples(copy):
    """It is what the message of another set advises; the samples were those of the weights that are gone."""
    plan, out = plan_of(copy), copy / "bench"
    run = plan.runs()[0]
    assert not run.missing_samples(out)
    before = [place.read_bytes() for place in run.all_samples(out)]
    for place in run.all_samples(out):
        place.write_bytes(b"of other weights")
    shutil.rmtree(run.folder(out))
    execute(plan, out, engine=Engine(processes=0), watch=lambda done: None)
    assert run.is_trained(out)
    assert [place.read_bytes() for place in run.all_samples(out)] == before


def test_refined_teachers_that_were_changed_are_named_and_made_again_alone(copy, caplog):
    path = str(copy / "set")
    place = copy / "set" / "refined" / "bent"
    whole = {p.name: p.read_bytes() for p in place.iterdir()}
    change(place / "walk_0.npz")
    with pytest.raises(VideoMDMError, match=r"refined teachers that were made, found others: refined/bent/walk_0\.npz"):
        prepare(plan_of(copy), copy / "bench")
    assert any("refined/bent/walk_0.npz" in problem for problem in provenance.problems(copy / "bench"))
    assert refined.make_refined(path, read_card(path)) == 0
    assert "refining 1 of 8 clips again (walk_0)" in caplog.text
    prepare(plan_of(copy), copy / "bench")
    now = {p.name: p.read_bytes() for p in place.iterdir()}
    assert {name for name in whole if name.startswith(("jump", "punch", "val", "dance"))} <= {
        n for n in now if now[n] == whole[n]
    }


def test_only_clips_with_other_keypoints_camera_or_lifted_motion_are_refined_again(copy, monkeypatch, caplog):
    path = str(copy / "set")
    solved = []
    solve = refined.solve
    monkeypatch.setattr(
        refined, "solve", lambda lifted, *rest, **named: solved.append(len(lifted)) or solve(lifted, *rest, **named)
    )
    (copy / "set" / "texts" / "walk_0.txt").write_text("to stroll#to/X stroll/X#0.0#0.0\n")
    seal.accept(path)
    assert not refined.is_made(path, read_card(path))
    refined.make_refined(path, read_card(path))
    assert solved == []
    nudge(copy / "set" / "keypoints_2d" / "walk_0.npz")
    seal.accept(path)
    before = {p.name: p.read_bytes() for p in (copy / "set" / "refined" / "bent").iterdir()}
    refined.make_refined(path, read_card(path))
    after = {p.name: p.read_bytes() for p in (copy / "set" / "refined" / "bent").iterdir()}
    assert solved == [1]
    changed = {n for n in before if before[n] != after[n]}
    assert changed == {"walk_0.npz", "Mean.npy", "Std.npy", "inputs.tsv", "made.txt"}
    assert refined.is_made(path, read_card(path))
    refined.verify(path, read_card(path), thorough=True)


def test_a_bench_goes_on_with_its_set_moved_or_made_anew_on_another_cpu(copy, caplog):
    """There the identity and nearly the numbers are equal, and no byte of the arrays is."""
    card, place = read_card(str(copy / "set")), copy / "bench" / "plan.json"
    (copy / "set" / "dataset.json").write_text(dataclasses.replace(card, identity="a" * 64).to_json())
    args = copy / "bench" / "runs" / "3d-0" / "args.json"
    elsewhere = {"seal": "0" * 64, "content": "0" * 64, "identity": "a" * 64}
    for file, name in ((place, "data"), (copy / "run" / "args.json", "clips_record"), (args, "clips_record")):
        stored = json.loads(file.read_text())
        stored[name] |= elsewhere | {"values": [value + 1e-5 for value in card.values]}
        file.write_text(json.dumps(stored | {"content": "0" * 64, "clips": "elsewhere"}))
    plan = dataclasses.replace(plan_of(copy), clips=str(copy / "set"), content=card.content_hash)
    prepare(plan, copy / "bench")
    assert "was made anew, of the same sources" in caplog.text
    assert plan_of(copy) == plan
    train(copy, "--num_steps", "3", "--overwrite")
    assert json.loads((copy / "run" / "args.json").read_text())["clips_record"]["seal"] == card.seal
    stored["clips_record"] |= {"values": [value + 1e-2 for value in card.values]}
    args.write_text(json.dumps(stored))
    with pytest.raises(VideoMDMError, match="the numbers of the data set"):
        prepare(plan, copy / "bench")
