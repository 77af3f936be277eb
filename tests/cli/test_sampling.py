"""The verbs `sample` and `lift`: what they write, what they read, and clear answers before any work."""

import json
import math
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from clips import CARD, make_clip, nudge

from videomdm_ext import plugins
from videomdm_ext.cli import main as cli
from videomdm_ext.cli import sampling
from videomdm_ext.data import refined, seal
from videomdm_ext.data.building import write_folder
from videomdm_ext.data.clip import teacher_of
from videomdm_ext.data.folder import read_folder, read_statistics
from videomdm_ext.geometry.cameras import to_camera, to_world
from videomdm_ext.hookspecs import hookimpl
from videomdm_ext.inference.sample import find_checkpoint, open_run, read_motions
from videomdm_ext.lifters.adapters import Joints
from videomdm_ext.mdm import hook
from videomdm_ext.mdm.resume import RECORD

SMALL = [
    "--layers", "1", "--latent_dim", "16", "--ff_size", "24", "--diffusion_steps", "5", "--batch_size", "2",
    "--num_steps", "2", "--log_interval", "2", "--crop_frames", "40", "--text_features", "words", "--mask_frames",
]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """-> a data set of two training clips and one held out, and a run on it."""
    place = tmp_path_factory.mktemp("trained")
    data, run = str(place / "set"), place / "a run"
    write_folder(data, {"train": [make_clip(), make_clip(name="walk")], "test": [make_clip(name="jump")]}, CARD)
    assert cli.main(["train", "--arm", "lifted", "--clips", data, "--save_dir", str(run), *SMALL]) == 0
    return data, run


def answer(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    """-> what a command says that fails."""
    assert cli.main([str(word) for word in words]) == 1
    return capsys.readouterr().err


def test_captions_of_words_and_files_are_sampled_as_long_as_asked_in_every_format(trained, tmp_path, capsys):
    _, run = trained
    file = tmp_path / "prompts.txt"
    file.write_text("\ufeffsomeone jumps\t0.5\n\n  a <b>dance</b>  \n", encoding="utf-8")
    out = tmp_path / "made"
    words = ["sample", "--checkpoint", run, "--text", "a  person walks", "--prompts", file, "--variants", "2"]
    assert cli.main([*map(str, words), "--seconds", "0.4", "--ddim", "3", "--out", str(out)]) == 0
    groups, captions = read_motions(out / "samples.npz")
    assert captions == ["a person walks"] * 2 + ["someone jumps"] * 2 + ["a <b>dance</b>"] * 2
    assert [len(motion) for motion in groups["samples"]] == [8, 8, 10, 10, 8, 8]
    assert not torch.equal(groups["samples"][0], groups["samples"][1])
    names = ["000-a-person-walks", "001-a-person-walks", "002-someone-jumps", "003-someone-jumps",
             "004-a-b-dance-b", "005-a-b-dance-b"]  # fmt: skip
    for kind, start in (("bvh", b"HIERARCHY"), ("glb", b"glTF")):
        assert sorted(path.stem for path in (out / kind).iterdir()) == names
        assert all(path.read_bytes().startswith(start) for path in (out / kind).iterdir())
    page = (out / "samples.html").read_text(encoding="utf-8")
    assert "someone jumps" in page
    assert "<b>dance" not in page
    assert (out / "samples.png").stat().st_size > 2000
    assert f"Next: open {out / 'samples.html'} in a browser" in capsys.readouterr().out


def test_samples_lie_beside_the_run_without_another_folder_and_a_run_is_not_trained_over(trained, capsys):
    data, run = trained
    words = ["sample", "--run", str(run), "--text", "a person walks", "--count", "2", "--formats", "npz"]
    assert cli.main(words) == 0
    assert [len(motion) for motion in read_motions(run / "samples" / "samples.npz")[0]["samples"]] == [40, 40]
    assert "--overwrite" in answer(capsys, "train", "--clips", data, "--save_dir", run, *SMALL)


def test_only_the_formats_that_are_asked_for_are_written_from_one_checkpoint_and_a_seed_repeats(trained, tmp_path):
    _, run = trained
    (checkpoint,) = run.glob("model*2.pt")
    for name, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        words = ["--checkpoint", str(checkpoint), "--count", "1", "--frames", "9", "--seed", seed, "--formats", "npz"]
        assert cli.main(["sample", *words, "--out", str(tmp_path / name)]) == 0
        assert sorted(path.name for path in (tmp_path / name).iterdir()) == [".samples.json", "samples.npz"]
    first, same, other = (read_motions(tmp_path / name / "samples.npz")[0]["samples"][0] for name in "abc")
    assert first.shape == (9, 22, 3)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_another_sampling_takes_the_place_of_the_earlier_one_and_the_same_adds_to_it(trained, tmp_path, capsys):
    own = tmp_path / "bvh" / "000-a-walk-edited.bvh"
    own.parent.mkdir()
    own.write_text("by hand")

    def sampled(*words: str) -> list[str]:
        every = ["sample", "--run", str(trained[1]), "--out", str(tmp_path), "--ddim", "2", *words]
        assert cli.main(every) == 0
        return sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("[!.]*.*"))

    mine, walk = "bvh/000-a-walk-edited.bvh", ["--text", "a walk", "--variants", "2", "--formats"]
    first = [mine, "bvh/000-a-walk.bvh", "bvh/001-a-walk.bvh", "samples.npz"]
    assert sampled(*walk, "npz,bvh") == first
    assert sampled(*walk, "glb") == sorted([*first, "glb/000-a-walk.glb", "glb/001-a-walk.glb"])
    assert "earlier" not in capsys.readouterr().out
    changed = tmp_path / "bvh" / "001-a-walk.bvh"
    changed.write_text("changed since")
    found = sampled("--text", "a jump", "--variants", "1", "--formats", "npz,glb")
    assert found == [mine, "bvh/001-a-walk.bvh", "glb/000-a-jump.glb", "samples.npz"]
    changed.unlink()
    said = capsys.readouterr().out
    assert f"{tmp_path}: 3 files of earlier motions removed" in said
    assert f"{tmp_path}: 1 motion, npz glb" in said
    assert sampled("--text", "a jump", "--variants", "1", "--formats", "npz", "--seed", "1") == [mine, "samples.npz"]
    assert f"{tmp_path}: 1 file of earlier motions removed" in capsys.readouterr().out
    assert sampled("--text", "a jump", "--variants", "1", "--formats", "npz", "--seed", "2") == [mine, "samples.npz"]
    assert "removed" not in capsys.readouterr().out
    assert sampled(*walk, "bvh") == first[:3], "without npz"
    assert sampled("--text", "a jump", "--variants", "1", "--formats", "bvh") == ["bvh/000-a-jump.bvh", mine]
    (tmp_path / ".samples.json").write_bytes(b"[1]")
    assert sampled(*walk, "npz") == ["bvh/000-a-jump.bvh", mine, "samples.npz"]


def test_no_file_of_the_users_goes_with_those_of_an_earlier_command(tmp_path):
    out, outside = tmp_path / "out", tmp_path / "mine.bvh"
    own = {"samples.png": b"older", "bvh/000-a-walk.bvh": b"changed since", "bvh/001-a-walk.bvh": b"moved here"}

    def made(formats: str, *names: str) -> list[str]:
        motions = [(name, torch.zeros(1, 22, 3)) for name in names]
        with sampling.replacing(out, "samples", motions, formats.split(",")):
            for name in (f"{i:03}-{name.replace(' ', '-')}" for i, name in enumerate(names) if "bvh" in formats):
                (out / "bvh" / f"{name}.bvh").write_bytes(b"made")
            if "npz" in formats:
                (out / "samples.npz").write_bytes(b"made")
        return sorted(path.relative_to(out).as_posix() for path in out.rglob("[!.]*.*"))

    (out / "bvh").mkdir(parents=True)
    (out / "samples.png").write_bytes(own["samples.png"])
    made("bvh", "a walk", "a walk", "a walk")
    for name in list(own)[1:]:
        (out / name).write_bytes(own[name])
    os.utime(out / "bvh" / "001-a-walk.bvh", (1, 1))
    assert made("npz", "a walk", "a walk", "a walk") == sorted([*own, "bvh/002-a-walk.bvh", "samples.npz"])
    assert made("bvh", "a jump") == sorted([*own, "bvh/000-a-jump.bvh"])
    assert {name: (out / name).read_bytes() for name in own} == own
    record = json.loads((out / ".samples.json").read_text())
    outside.write_bytes(b"made")
    for name in ("../mine.bvh", str(outside), "bvh/../../mine.bvh", "mine.bvh"):
        forged = {"motions": "others", "files": {name: record["files"]["bvh/000-a-jump.bvh"]}}
        (out / ".samples.json").write_text(json.dumps(forged))
        made("npz", "a jump")
    for broken in (b"", b"[1]", b'["a", "a jump"]', b'{"motions": "others"}', (json.dumps(record) + "}").encode()[1:]):
        (out / ".samples.json").write_bytes(broken)
        assert "bvh/000-a-jump.bvh" in made("npz", "a jump")
    assert outside.read_bytes() == b"made"
    made("bvh", "a jump")
    (out / "bvh").rename(tmp_path / "kept elsewhere")
    (out / "bvh").symlink_to(tmp_path / "kept elsewhere")
    made("npz", "a dance")
    assert (tmp_path / "kept elsewhere" / "000-a-jump.bvh").is_file()


def test_the_newest_checkpoint_of_a_folder_is_that_of_the_highest_step_and_no_copy_of_another_name(tmp_path):
    for name in ("model000000999.pt", "model000010000.pt", "model_backup.pt", "opt000020000.pt"):
        (tmp_path / name).touch()
    assert find_checkpoint(tmp_path).name == "model000010000.pt"


def test_a_stopped_command_leaves_what_was_there_and_the_next_one_takes_its_place(tmp_path):
    def made(content: str, *, stops: bool = False) -> None:
        motions = [(content, torch.zeros(1, 22, 3))]
        with sampling.replacing(tmp_path, "lifted", motions, ["bvh"]):
            if stops:
                raise KeyboardInterrupt
            place = sampling.place_of(tmp_path, 0, content, "bvh")
            place.parent.mkdir(exist_ok=True)
            place.write_text(content)

    made("walk")
    with pytest.raises(KeyboardInterrupt):
        made("jump", stops=True)
    assert [path.name for path in (tmp_path / "bvh").iterdir()] == ["000-walk.bvh"]
    made("jump")
    assert [path.name for path in (tmp_path / "bvh").iterdir()] == ["000-jump.bvh"]


def test_a_run_is_used_with_a_plugin_whose_option_came_after_its_training(trained, monkeypatch):
    class Later:
        @hookimpl
        def add_options(self, group):
            group.add_argument("--stillest", type=float, default=0.25)

        @hookimpl
        def configure(self, args):
            found.append(args.stillest)

    found, manager = [], plugins.create_manager()
    manager.register(Later())
    monkeypatch.setattr(hook, "manager", lambda: manager)
    assert open_run(trained[1]).args.stillest == 0.25
    assert found == [0.25]


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_is_shown_the_steps_of_sampling_and_a_pipe_how_many_motions(
    trained, tmp_path, monkeypatch, capsys, terminal
):
    monkeypatch.setattr(sampling.console, "_force_terminal", terminal)
    words = ["--run", str(trained[1]), "--count", "1", "--frames", "8", "--formats", "npz", "--out", str(tmp_path)]
    assert cli.main(["sample", *words]) == 0
    printed, bar = capsys.readouterr()
    assert "sampling 1 motion" in printed
    assert ("5/5" in bar) == terminal


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--text", ""], r"--text 1: expected a caption of 1 to 1000 characters, found an empty one"),
        (["--text", "walk", "x" * 10_000], r"--text 2: expected a caption of 1 to 1000 characters, found 10000"),
        (["--text", "walk", "--seconds", "3600"], "0.1 to 2 s, the longest that was trained (40 frames at 20 fps)"),
        (["--text", "walk", "--seconds", "nan"], "found nan"),
        (["--text", "walk", "--frames", "41"], "--frames: expected 40 or fewer, the longest that was trained"),
        (["--text", "walk", "--seconds", "1", "1"], "--seconds: expected one for all, or one for each of 1 --text"),
        (["--text", "walk", "--seconds", "1", "--frames", "9"], "--seconds, --frames: expected one of the two"),
        (["--formats", "npz,obj"], "--formats: expected names among npz,bvh,glb,page,png, found 'npz,obj'"),
        (["--formats", ""], "--formats: expected names among"),
        (["--count", "1", "--ddim", "6"], "--ddim: expected 2 to 5 steps, those of the schedule, found 6"),
        (["--checkpoint", "elsewhere"], "--run, --checkpoint: expected one of the two, found both"),
        (["--prompts", "nowhere.txt"], "nowhere.txt: expected a file that can be read"),
        (["--count", "0"], "--count"),
        (["--mdm", "nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_sampled_is_answered(trained, tmp_path, capsys, words, named):
    assert named in answer(capsys, "sample", "--run", trained[1], "--out", tmp_path / "out", *words)
    assert not list(tmp_path.glob("out/samples*"))


@pytest.mark.parametrize("verb", ["sample", "lift", "data refresh"])
def test_one_of_several_processes_samples_nothing(trained, tmp_path, monkeypatch, capsys, verb):
    """Each would write the same into one folder; only a training is shared."""
    data, run = trained
    monkeypatch.setenv("WORLD_SIZE", "2")
    clips = {"sample": [], "lift": ["--clips", data], "data refresh": [data]}[verb]
    said = answer(capsys, *verb.split(), *clips, "--checkpoint", run, "--out", tmp_path / "out")
    assert said.startswith("error: WORLD_SIZE=2: expected one process")
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"walk\xff\xfe", "expected text in UTF-8, found other bytes"),
        (b"walk\nrun\tfast\n", "line 2: expected CAPTION or CAPTION<tab>SECONDS, found 'fast'"),
        (b"\t2\n", "line 1: expected a caption of 1 to 1000 characters, found an empty one"),
        (b"walk\t7200\n", "found 7200"),
        (b"\n \n", "expected a caption a line, found none"),
    ],
)
def test_a_file_of_prompts_that_cannot_be_used_is_answered(trained, tmp_path, capsys, content, named):
    file = tmp_path / "prompts.txt"
    file.write_bytes(content)
    said = answer(capsys, "sample", "--run", trained[1], "--prompts", file, "--out", tmp_path / "out")
    assert named in said
    assert len(said.splitlines()) == 1


def spoil(run: Path, place: Path, how: str) -> Path:
    """-> a copy of the run, with its checkpoint spoiled."""
    shutil.copytree(run, place)
    newest = sorted(place.glob("model*.pt"))[-1]
    stored = torch.load(newest, weights_only=True)
    if how == "text":
        newest.write_text("not a checkpoint", encoding="utf-8")
    elif how == "cut":
        newest.write_bytes(newest.read_bytes()[:2000])
    elif how == "list":
        torch.save([1, 2], newest)
    elif how == "skeleton":
        for weights in (stored, *(part for part in stored.values() if isinstance(part, dict))):
            weights |= {name: weights[name][:, :191] for name in weights if "poseEmbedding.weight" in name}
        torch.save(stored, newest)
    elif how == "too large":
        torch.save({name: weight * 1e30 for name, weight in stored.items()}, newest)
    elif how == "not finite":
        next(iter(stored.get("model_avg", stored).values())).view(-1)[0] = math.nan
        torch.save(stored, newest)
    elif how == "lost arguments":
        (place / "args.json").unlink()
    elif how == "no data set":
        stored = json.loads((place / "args.json").read_text(encoding="utf-8"))
        (place / "args.json").write_text(json.dumps({**stored, "clips": ""}), encoding="utf-8")
    elif how == "other arguments":
        (place / "args.json").write_text("[1]", encoding="utf-8")
    return place


@pytest.mark.parametrize(
    ("how", "named"),
    [
        ("text", "expected a checkpoint, found a damaged file"),
        ("cut", "expected a checkpoint, found a damaged file"),
        ("list", "does not fit the arguments in"),
        ("skeleton", "expected 263 channels (22 joints) of smpl22, the skeleton of the clips in"),
        ("too large", "model000000002.pt: expected finite motions from this checkpoint, found others"),
        ("not finite", "model000000002.pt: expected finite numbers, found others in "),
        ("lost arguments", "model000000002.pt: expected its training's args.json beside it, found none. Put it there"),
        ("no data set", "args.json: expected --clips with a data set"),
        ("other arguments", "args.json: expected names with values"),
    ],
)
def test_a_checkpoint_that_is_none_is_answered_by_both_verbs(trained, tmp_path, capsys, how, named):
    data, run = trained
    bad = spoil(run, tmp_path / "run", how)
    said = answer(capsys, "sample", "--checkpoint", bad, "--text", "walk", "--out", tmp_path / "out")
    assert named in said
    assert "found 191 channels (16 joints)" in said or how != "skeleton"
    words = ["--clips", data, "--checkpoint", bad, "--ddim", "3"]
    assert named in answer(capsys, "lift", *words, "--out", tmp_path / "out")


def test_lifted_clips_are_written_with_their_errors_beside_the_teachers(trained, tmp_path, capsys):
    data, run = trained
    (clip,) = read_folder(data, "test")[1]
    out, results = tmp_path / "out", tmp_path / "results"
    words = ["lift", "--clips", data, "--checkpoint", str(run), "--ddim", "3", "--out", str(out), "--by-action"]
    assert cli.main([*words, "--write-teacher", str(results), "--formats", "npz,page,bvh"]) == 0
    groups, captions = read_motions(out / "lifted.npz")
    assert captions == [clip.texts[0]]
    assert sorted(groups) == ["lifted", "lifted_teacher", "truth"]
    stored = json.loads((out / "lifted.json").read_text(encoding="utf-8"))
    assert stored["clips"][0]["id"] == clip.id
    own = to_camera(groups["lifted_teacher"][0], torch.from_numpy(clip.extrinsics))
    assert (own - teacher_of(clip)).abs().max() < 1e-3
    for name, label in (("lifted", "prior"), ("lifted_teacher", "lifted teacher")):
        apart = torch.linalg.vector_norm(groups[name][0] - groups["truth"][0], dim=-1).mean().item()
        assert stored["mean"][label]["mpjpe"] == pytest.approx(apart, abs=1e-4)
    said = capsys.readouterr().out
    assert "1 clip, 1 with a truth" in said
    assert f"\n{clip.texts[0]}\n" in said
    assert said.count(f"{1000 * stored['mean']['prior']['mpjpe']:.1f}") >= 2  # of all clips, and of its action
    assert f"{1000 * stored['mean']['prior']['pa_mpjpe']:.1f}" in said
    assert f"--lifter joints --option results={results}" in said
    assert [path.name for path in (out / "bvh").iterdir()] == [f"000-{clip.id.replace('_', '-')}.bvh"]
    assert clip.texts[0] in (out / "lifted.html").read_text(encoding="utf-8")


def test_another_lifting_takes_the_place_of_the_earlier_one_in_every_format(trained, tmp_path, capsys):
    words = ["lift", "--clips", trained[0], "--checkpoint", str(trained[1]), "--ddim", "2", "--out", str(tmp_path)]
    found = []
    for rest in (["walk_0", "jump_0", "--formats", "bvh,page"], ["dance_a_0", "--formats", "glb"]):
        assert cli.main([*words, "--ids", *rest]) == 0
        found.append(sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("[!.]*.*")))
    assert found[0] == ["bvh/000-walk-0.bvh", "bvh/001-jump-0.bvh", "lifted.html", "lifted.json"]
    assert found[1] == ["glb/000-dance-a-0.glb", "lifted.json"]
    assert f"{tmp_path}: 3 files of earlier motions removed" in capsys.readouterr().out


def test_what_is_written_as_a_teacher_is_read_as_a_lifters_result(trained, tmp_path):
    """Guided all the way, so that the lifter's own checks against the keypoints pass; in the clip's world again."""
    data, run = trained
    out, results = tmp_path / "out", tmp_path / "results"
    words = ["lift", "--clips", data, "--checkpoint", str(run), "--ids", "jump_0", "dance_a_0", "--start", "0.2"]
    assert cli.main([*words, "--out", str(out), "--write-teacher", str(results),
                     "--ddim", "0", "--formats", "npz"]) == 0  # fmt: skip
    clips = {clip.id: clip for split in ("train", "test") for clip in read_folder(data, split)[1]}
    lifted = read_motions(out / "lifted.npz")[0]["lifted"]
    for clip, motion in zip((clips["jump_0"], clips["dance_a_0"]), lifted, strict=True):
        stored = np.load(results / f"{clip.id}.npz")
        assert stored.files == ["joints"]
        camera = torch.from_numpy(clip.extrinsics)
        assert (to_world(torch.from_numpy(stored["joints"]), camera) - motion).abs().max() < 1e-4
        read = Joints(results=str(results)).positions(
            clip.id, torch.from_numpy(clip.keypoints), torch.from_numpy(clip.confidence), camera, clip.fps, None
        )
        assert (read - motion).abs().max() < 1e-4


def test_a_run_keeps_the_space_of_its_own_data_wherever_the_clips_are(trained, tmp_path, monkeypatch, capsys):
    """--clips of `lift` is not taken for the host's; a training set that lies elsewhere now is named."""
    data, run = trained
    other = str(tmp_path / "other")
    write_folder(other, {"train": [make_clip(name="jump")]}, CARD)
    seen = []
    own = sampling.lifting.lift
    monkeypatch.setattr(
        sampling.lifting, "lift", lambda model, *rest, **named: seen.append(model) or own(model, *rest, **named)
    )
    words = ["lift", "--clips", other, "--split", "train", "--checkpoint", str(run), "--out", str(tmp_path / "out")]
    words += ["--formats", "npz", "--ddim", "2"]
    monkeypatch.setattr(sys, "argv", ["videomdm", *words])
    assert cli.main(words) == 0
    mean = read_statistics(data, "bent")[0]
    assert np.array_equal(seen[0].space.mean.numpy(), mean)
    assert not np.array_equal(mean, read_statistics(other, "bent")[0])
    assert sys.argv == ["videomdm", *words]
    moved = shutil.move(data, tmp_path / "moved")
    try:
        assert data in answer(capsys, *words)
        assert cli.main([*words, "--trained-on", str(moved)]) == 0
    finally:
        shutil.move(moved, data)
    assert np.array_equal(seen[1].space.mean.numpy(), mean)


def test_a_run_on_refined_teachers_of_another_version_or_not_made_is_refused_before_they_are_made_again(
    trained, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(refined, "make_refined", lambda *a, **k: pytest.fail("work was done"))
    run = shutil.copytree(trained[1], tmp_path / "run")
    args = json.loads((run / "args.json").read_text())
    args |= {"supervision": "2d", "teacher": "refined"}
    args[RECORD] = args[RECORD] | {"teachers": "any older"}
    (run / "args.json").write_text(json.dumps(args))
    said = answer(capsys, "sample", "--run", str(run), "--count", "1", "--out", str(tmp_path / "out"))
    assert "expected refined teachers of version older, as recorded in" in said
    args[RECORD].pop("teachers")  # as before versions were recorded
    (run / "args.json").write_text(json.dumps(args))
    said = answer(capsys, "sample", "--run", str(run), "--count", "1", "--out", str(tmp_path / "out"))
    assert f"{trained[0]}: expected its refined teachers, which {run}/model000000002.pt was trained on, found" in said
    assert f"Make them: videomdm data refine {trained[0]} --kind refined." in said
    assert not (tmp_path / "out").exists()


def test_a_run_samples_with_the_statistics_that_it_was_trained_with_or_not_at_all(trained, tmp_path, capsys):
    """A set that is absent, moved, of other captions or statistics, and a run that does not say which it had."""
    data, run = Path(trained[0]), shutil.copytree(trained[1], tmp_path / "run")
    copy, args = shutil.copytree(data, tmp_path / "copy"), json.loads((run / "args.json").read_text())

    def words(place: Path) -> list[str]:
        given = ["sample", "--run", run, "--count", "1", "--ddim", "2", "--formats", "npz", "--trained_on", place]
        return [*map(str, given)]

    said = answer(capsys, *words(tmp_path / "gone"))
    assert f"{tmp_path / 'gone'}: expected the data set that {run}" in said
    assert "--trained_on DIR" in said
    assert cli.main(words(copy)) == 0
    assert "were" not in capsys.readouterr().out
    (copy / "texts" / "walk_0.txt").write_text("to stroll#to/X stroll/X#0.0#0.0\n")
    seal.accept(str(copy))
    assert cli.main(words(copy)) == 0
    assert "was trained on the data set" in capsys.readouterr().out
    mean = copy / "teacher_vecs" / "bent" / "Mean.npy"
    np.save(mean, np.load(mean) + 1)
    assert "found others: teacher_vecs/bent/Mean.npy" in answer(capsys, *words(copy))
    seal.accept(str(copy))
    assert f"expected, as recorded in {run / 'args.json'}, the data set" in answer(capsys, *words(copy))
    assert "the data set" in answer(capsys, "lift", "--clips", data, "--checkpoint", run, "--trained_on", copy)
    (run / "args.json").write_text(json.dumps({**args, "start_from": "elsewhere"}))
    shutil.copy(data / "teacher_vecs" / "bent" / "Mean.npy", run)
    shutil.copy(data / "teacher_vecs" / "bent" / "Std.npy", run)
    assert cli.main(words(copy)) == 0  # it keeps its own statistics beside it
    assert cli.main(words(data)) == 0
    args.pop("clips_record")
    (run / "args.json").write_text(json.dumps(args))
    assert cli.main(words(copy)) == 0


def test_clips_that_were_changed_are_neither_lifted_nor_refreshed(trained, tmp_path, capsys):
    copy = shutil.copytree(trained[0], tmp_path / "copy")
    nudge(copy / "keypoints_2d" / "jump_0.npz")
    rest = ["--checkpoint", trained[1], "--out", tmp_path / "out"]
    for words in (["lift", "--clips", copy], ["data", "refresh", copy]):
        assert "found others: keypoints_2d/jump_0.npz " in answer(capsys, *words, *rest)
    assert not (tmp_path / "out").exists()


def test_a_3d_run_lifts_from_the_refined_teacher_and_never_from_its_truth(trained):
    model = sampling_of(trained[1], teacher="gt")
    assert sampling.teacher_kind("auto", model) == "refined"
    assert sampling.teacher_kind("auto", sampling_of(trained[1], teacher="lifted")) == "lifted"
    assert sampling.teacher_kind("lifted", model) == "lifted"


def sampling_of(run: Path, **changes: str) -> object:
    """-> something with the arguments of a run, changed."""
    stored = json.loads((run / "args.json").read_text(encoding="utf-8"))
    return SimpleNamespace(args=SimpleNamespace(**(stored | changes)))


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--ids", "jumb_0"], "found none. There are jump_0"),
        (["--split", "val"], "--split val: expected clips in"),
        (["--split", "most"], "--split: expected one of train, val, test, found 'most'"),
        (["--teacher", "gt"], "--teacher: expected auto, lifted or refined, found 'gt'"),
        (["--formats", "png"], "--formats: expected npz, page, bvh or glb"),
        (["--guidance-strength", "1.5"], "--guidance-strength: expected a share from 0 to 1, found 1.5"),
        (["--start", "0"], "--start: expected a share above 0"),
    ],
)
def test_what_cannot_be_lifted_is_answered(trained, tmp_path, capsys, words, named):
    data, run = trained
    assert named in answer(capsys, "lift", "--clips", data, "--checkpoint", run, "--out", tmp_path / "out", *words)
