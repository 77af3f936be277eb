"""The verb `reproduce` on stand-ins of the official folders: nothing starts while a file is missing, and what is
interrupted goes on to the page."""

import dataclasses
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import humanml
import numpy as np
import pytest
import torch
from official import CAMERAS, joints25, write_fit3d, write_nba

from videomdm_ext.bench import run
from videomdm_ext.bench.plan import Plan
from videomdm_ext.bench.report import figures
from videomdm_ext.bench.reproduction import lifting, needed
from videomdm_ext.bench.reproduction.needed import every_missing
from videomdm_ext.bench.reproduction.published import PAPER, RECIPES
from videomdm_ext.bench.reproduction.reproduce import Reproduction, step_seconds
from videomdm_ext.cli import main as cli
from videomdm_ext.data.building import Builder
from videomdm_ext.data.folder import read_card, read_clip, read_folder
from videomdm_ext.data.importing import run_import
from videomdm_ext.data.motions import find_lifter
from videomdm_ext.data.sources import base
from videomdm_ext.data.sources.base import ImportOptions
from videomdm_ext.data.sources.fit3d import smpl22_of
from videomdm_ext.data.sources.humanml3d import HumanML3DImporter
from videomdm_ext.errors import ConfigError, DatasetError, VideoMDMError
from videomdm_ext.mdm import text
from videomdm_ext.motion.features import decode
from videomdm_ext.supervision import refinement

TOY = (
    "--steps 2 --seeds 1 --batch-size 2 --latent-dim 16 --layers 1 --ff-size 16 --diffusion-steps 4 --samples 3 "
    "--replications 1 --crop-frames 24 --text-features words --average 0.9 --workers 0 --without t2m text-motion"
)


@pytest.fixture(autouse=True)
def _brief(monkeypatch) -> None:
    """No pictures, and a refinement of a few iterations."""
    brief = refinement.Refinement(first=2, rounds=1, iterations=2)
    monkeypatch.setattr(figures, "sections", lambda results: [])
    monkeypatch.setattr(refinement, "Refinement", lambda: brief)


@pytest.fixture(scope="module")
def humanml3d(tmp_path_factory) -> Path:
    """-> a folder with HumanML3D, mirrored ids, a clip with NaN, a part of a clip, and results of MVLift."""
    root = tmp_path_factory.mktemp("humanml3d")
    humanml.write_humanml(root, train=4, test=2, parts=False, frames=(40, 44))
    source = root / "data" / "HumanML3D"
    shutil.move(root / "dataset" / "HumanML3D", source)
    for kind, ending in (("new_joint_vecs", "npy"), ("texts", "txt")):
        shutil.copy(source / kind / f"000000.{ending}", source / kind / f"M000000.{ending}")
        shutil.copy(source / kind / f"000001.{ending}", source / kind / f"007975.{ending}")
    broken = np.load(source / "new_joint_vecs" / "007975.npy")
    broken[3] = np.nan
    np.save(source / "new_joint_vecs" / "007975.npy", broken)
    with (source / "texts" / "000001.txt").open("a") as file:
        file.write("he turns.#he/PRON turn/VERB#0.0#2.0\n")
    lists = {"train": ("000000", "M000000", "000001", "007975"), "val": ("000003",), "test": ("000004", "000005")}
    for split, names in lists.items():
        (source / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    made = run_import(HumanML3DImporter(str(source), ImportOptions()), str(root / "first"))
    assert set(made.left_out) == {"007975"}
    (root / "data" / "mvlift").mkdir()
    for split in ("train", "val", "test"):
        for clip in read_folder(str(root / "first"), split)[1]:
            positions = decode(torch.from_numpy(clip.truth), clip.skeleton)
            wrong = 1.03 * positions + 0.02 * torch.sin(torch.arange(len(positions)) / 3.0)[:, None, None]
            np.save(root / "data" / "mvlift" / f"{clip.id}.npy", wrong.numpy())
    return root / "data"


@pytest.fixture(scope="module")
def fit3d(tmp_path_factory) -> Path:
    """-> a folder with Fit3D and WHAM's results of whole takes at 50 fps, one of them with frame_ids."""
    data = tmp_path_factory.mktemp("fit3d") / "data"
    actions = (("squat", "walk"), ("push up", "dance_a"))
    write_fit3d(data / "fit3d", subjects=("s03", "s04", "s05"), actions=actions)
    for number, subject in enumerate(("s03", "s04", "s05")):
        for action, motion in actions:
            world = smpl22_of(torch.from_numpy(joints25(motion) + np.array((0.1 * number, 0.2, 0))).float(), "here")
            for camera in CAMERAS:
                place = data / "fit3d" / "train" / subject / "camera_parameters" / camera / f"{action}.json"
                outside = json.loads(place.read_text())["extrinsics"]
                turn, centre = (torch.tensor(outside[key]).float() for key in ("R", "T"))
                seen = (world - centre) @ turn.T * torch.tensor((1.0, 1.0, 1.03))
                folder = data / "wham" / subject / camera
                folder.mkdir(parents=True, exist_ok=True)
                np.savez(folder / f"{action}.npz", joints=seen.numpy(), frame_ids=np.arange(len(seen)))
    return data


@pytest.fixture(scope="module")
def nba(tmp_path_factory) -> Path:
    """-> a folder with MAS's sequences at 60 fps and ElePose's results."""
    data = tmp_path_factory.mktemp("nba") / "data"
    write_nba(data / "nba", names="abcdefghijklmnopqrst")
    shutil.move(data / "nba" / "lifted", data / "elepose")
    return data


DATA = ("humanml3d", "fit3d", "nba")


@pytest.fixture
def data(request) -> Path:
    """-> the folder of the data set that a test is about."""
    return request.getfixturevalue(request.node.callspec.params["kind"])


def a_reproduction(kind: str, data: Path, out: Path) -> Reproduction:
    return Reproduction(RECIPES[kind], PAPER, data, out)


def optional(path: Path) -> bool:
    """Whether the official folder's stand-in has a file that nothing reads."""
    return path.name in ("Mean.npy", "Std.npy", "all.txt") or path.stem in ("000002",)


@pytest.mark.parametrize("kind", DATA)
def test_every_file_that_is_missing_is_named_and_nothing_starts(kind, data, tmp_path, capsys):
    made = a_reproduction(kind, data, tmp_path / "out")
    assert every_missing(made.needs()) == []
    files = [path for path in sorted(data.rglob("*")) if path.is_file() and not optional(path)]
    assert len(files) > 15
    for path in files[:: 3 if kind == "fit3d" else 1]:
        kept = path.rename(tmp_path / "away")
        try:
            assert str(path) in every_missing(made.needs()), path
        finally:
            kept.rename(path)
    files[0].rename(tmp_path / "away")
    try:
        words = ["reproduce", kind, "--data", str(data), "--out", str(tmp_path / "out"), *TOY.split()]
        assert cli.main(words) == 1
    finally:
        (tmp_path / "away").rename(files[0])
    said = capsys.readouterr()
    assert files[0].name in said.out
    assert "Nothing was begun" in said.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", DATA)
def test_without_any_file_the_list_says_where_each_is_from(kind, tmp_path, capsys):
    words = ["reproduce", kind, "--data", str(tmp_path), "--out", str(tmp_path / "out"), "--mdm", str(tmp_path)]
    assert cli.main([*words, "--dry-run", *TOY.split()]) == 1
    said = capsys.readouterr()
    assert said.out.count("**missing**") >= 3
    assert "github.com/GuyTevet/motion-diffusion-model" in said.out
    assert "hours of training" in said.out
    assert ("not run: 3d" in said.out) == (kind == "nba")
    assert not (tmp_path / "out").exists()


def interrupted(monkeypatch, words: list[str], owner: object, name: str, calls: int) -> int:
    """-> exit status of a command that is interrupted at the given call of a function."""
    whole, left = getattr(owner, name), [calls]

    def failing(*args: object, **named: object) -> object:
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return whole(*args, **named)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, failing)
        return cli.main(words)


def twice_interrupted(kind: str, data: Path, out: Path, monkeypatch, more: str = "") -> str:
    """-> the page of a reproduction that was stopped while it imported, and while it trained."""
    words = ["reproduce", kind, "--data", str(data), "--out", str(out), *TOY.split(), *more.split()]
    assert interrupted(monkeypatch, words, Builder, "add", 3) == 130
    assert not (out / "data" / "dataset.json").is_file()
    assert interrupted(monkeypatch, words, run, "complete", 2) == 130
    assert list((out / "runs").glob("*/model*.pt"))
    assert not (out / "reproduction.md").exists()
    made = {path: path.stat().st_mtime_ns for path in (out / "runs").glob("*/model*.pt")}
    assert cli.main(words) == 0
    assert all(path.stat().st_mtime_ns == then for path, then in made.items())
    return (out / "reproduction.md").read_text("utf-8")


@pytest.mark.parametrize("arms", [("2d", "motionmix"), pytest.param(PAPER.arms, marks=pytest.mark.soak)])
def test_humanml3d_goes_from_its_folder_to_the_page_interrupted_twice(humanml3d, tmp_path, monkeypatch, arms):
    more = f"--cameras pnp --arms {','.join(arms)}"
    if arms != PAPER.arms:
        more = f"essential views-2d {more}"
    page = twice_interrupted("humanml3d", humanml3d, tmp_path, monkeypatch, more)
    card = read_card(str(tmp_path / "data"))
    assert (card.counts, card.lifter) == ({"train": 4, "val": 1, "test": 2}, "mvlift")
    part = read_clip(str(tmp_path / "data"), card, "A_000001")
    assert 0.001 < np.abs(part.extrinsics - part.truth_extrinsics).max() < 1.0  # found, not given
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {f"{arm}-0" for arm in arms}
    for figure in ("| FID, MDM supervised in 3D | 0.54 |", "| FID, supervised in 2D | 0.88 |"):
        assert figure in page
    assert "| training steps | 2 | 600,000 | **no** |" in page
    assert "| diffusion steps | 4 | 50 | **no** |" in page
    assert "007975: " in page
    assert "lift with motionmix" in page
    assert "<table" in (tmp_path / "reproduction.html").read_text("utf-8")
    monkeypatch.setattr(lifting.sample, "open_run", lambda *a, **k: pytest.fail("lifted again"))
    assert cli.main(["bench", "lift", str(tmp_path)]) == 0
    content = json.loads((tmp_path / "reproduction.json").read_text("utf-8"))
    assert content["content"] == card.content_hash


@pytest.mark.soak
def test_fit3d_goes_from_its_folder_to_the_page_interrupted_twice(fit3d, tmp_path, monkeypatch):
    page = twice_interrupted("fit3d", fit3d, tmp_path, monkeypatch)
    card = read_card(str(tmp_path / "data"))
    assert (card.lifter, card.fps) == ("wham", 20.0)
    assert sum(card.counts.values()) == 12
    assert 0.01 < card.lifter_error["mpjpe"] < 0.3
    assert "| MPJPE, WHAM | 228 mm | VideoMDM, arXiv 2606.13364 | lifted " in page
    assert re.search(r"Accel, WHAM \| 17.66 m/s² \| [^|]* \| lifted [\d.]+ m/s² \|", page)
    assert "lift with 2d" in page
    by_action = (tmp_path / "lifting.md").read_text("utf-8")
    assert "| a person does the exercise push up. |" in by_action


@pytest.mark.soak
def test_nba_goes_from_its_folder_to_the_page_interrupted_twice(nba, tmp_path, monkeypatch):
    page = twice_interrupted("nba", nba, tmp_path, monkeypatch, "--crop-frames 32")
    card = read_card(str(tmp_path / "data"))
    assert (card.skeleton, card.fps, card.lifter) == ("nba16", 30.0, "elepose")
    assert "- 3d: it learns from true motion" in page
    assert "- motionmix: it learns from true motion" in page
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"lifted-0", "refined-0", "paper-0", "2d-0"}


def test_results_of_whole_takes_are_cut_as_the_clips_are(fit3d, tmp_path):
    made = a_reproduction("fit3d", fit3d, tmp_path)
    made.cut_takes()
    member = made.importer().members()[0]
    place = tmp_path / "results" / f"{member.id}.npz"
    stored = np.load(place)["joints"]
    subject, action, camera, start, stop = member.place
    whole = np.load(fit3d / "wham" / subject / camera / f"{action}.npz")["joints"]
    np.testing.assert_array_equal(stored, whole[start:stop])
    before = place.stat().st_mtime_ns
    made.cut_takes()
    assert place.stat().st_mtime_ns == before
    importer = made.importer()
    model = find_lifter(importer.options.lifter, 0, importer.skeleton, importer.lifter_extra)
    lifted = base.lift(model, importer.read(member))
    assert 0.005 < float((lifted.lifted - lifted.truth).norm(dim=-1).mean()) < 0.3


def test_frames_that_a_lifter_names_are_those_that_are_cut(fit3d, tmp_path):
    data = shutil.copytree(fit3d, tmp_path / "data")
    made = a_reproduction("fit3d", data, tmp_path / "out")
    subject, action, camera, *_ = made.importer().members()[0].place
    place = data / "wham" / subject / camera / f"{action}.npz"
    joints = np.load(place)["joints"]
    np.savez(place, joints=joints[10:], frame_ids=np.arange(10, len(joints)))
    made.cut_takes()
    stored = np.load(tmp_path / "out" / "results" / f"{made.importer().members()[0].id}.npz")
    np.testing.assert_array_equal(stored["joints"], joints[10:][: len(stored["joints"])])
    assert stored["frame_ids"][0] == 10
    with pytest.raises(ConfigError, match="such as wham"):
        dataclasses.replace(made, lifter="motionbert").cut_takes()
    np.savez(place, joints=joints[::2])  # of a video at 25 fps
    with pytest.raises(DatasetError, match=rf"expected a person up to frame {len(joints)} at 50 fps, found one up to"):
        dataclasses.replace(made, out=tmp_path / "other").cut_takes()


def test_parameters_of_a_body_need_its_model_and_a_wrong_clip_file_is_named(fit3d, tmp_path, monkeypatch):
    data = shutil.copytree(fit3d, tmp_path / "data")
    place = next((data / "wham").rglob("*.npz"))
    np.savez(place, pose=np.zeros((4, 72)), trans=np.zeros((4, 3)), betas=np.zeros(10))
    missing = every_missing(a_reproduction("fit3d", data, tmp_path / "out").needs())
    assert missing == [f"the folder of --smpl ({place} holds parameters of a body, not joints)"]
    monkeypatch.setattr(text, "clip_path", lambda: place)
    found = needed.host(str(tmp_path), official=True, features="clip")
    with pytest.raises(VideoMDMError, match="expected every file of the check list"):
        needed.refuse(found)


def test_empty_files_are_missing_and_what_systems_hide_in_folders_is_not(fit3d, nba, humanml3d, tmp_path):
    data = shutil.copytree(fit3d, tmp_path / "fit3d")
    subject = data / "fit3d" / "train" / "s03"
    camera = data / "wham" / "s03" / next(iter(CAMERAS))
    for place in (subject, subject / "joints3d_25", subject / "camera_parameters", camera.parent, camera):
        (place / ".DS_Store").write_bytes(b"x")
    (subject / "joints3d_25" / "._squat.json").write_bytes(b"x")
    (camera / "notes.txt").write_bytes(b"x")
    made = a_reproduction("fit3d", data, tmp_path / "out")
    assert every_missing(made.needs()) == []
    (camera / "squat.npz").write_bytes(b"")
    assert every_missing(made.needs()) == [str(camera / "squat.npz")]
    for kind, folder in (("fit3d", data / "fit3d" / "train"), ("nba", tmp_path / "nba" / "motions")):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        needs = a_reproduction(kind, folder.parents[1] if kind == "fit3d" else tmp_path, tmp_path / "out").needs()
        assert str(folder) in every_missing(needs), kind
    data = shutil.copytree(humanml3d, tmp_path / "humanml3d")
    for split in ("train", "val", "test"):
        (data / "HumanML3D" / f"{split}.txt").write_bytes(b"")
    made = a_reproduction("humanml3d", data, tmp_path / "out")
    assert str(data / "HumanML3D" / "val.txt") in every_missing(made.needs())
    assert str(data / "HumanML3D" / "new_joint_vecs") in every_missing(made.needs())
    (data / "HumanML3D" / "train.txt").write_bytes("d\xe9j\xe0\n".encode("latin-1"))
    with pytest.raises(VideoMDMError, match=r"train\.txt: expected"):
        made.needs()


def test_files_that_changed_since_the_import_are_refused_and_copies_are_not(humanml3d, tmp_path):
    data = shutil.copytree(humanml3d, tmp_path / "data")
    made = a_reproduction("humanml3d", data, tmp_path / "out")
    card, left_out = made.make_data()
    assert set(left_out) == {"007975"}
    place = data / "mvlift" / "000000.npy"
    place.touch()
    (data / "HumanML3D" / "notes.txt").touch()
    assert made.make_data() == (card, left_out)
    (tmp_path / "out" / "left_out.json").unlink()  # cut off before it was written
    again, known = made.make_data()
    assert (again.content_hash, known) == (card.content_hash, left_out)
    np.save(place, 1.1 * np.load(place))
    with pytest.raises(ConfigError, match=r"000000\.npy: expected the file that .* was imported of"):
        made.make_data()


def test_a_line_is_called_unequal_only_where_it_is(humanml3d, fit3d, tmp_path):
    host = dataclasses.replace(PAPER, mdm="mdm", text_features="clip")
    for kind, data in (("humanml3d", humanml3d), ("fit3d", fit3d)):
        made = dataclasses.replace(a_reproduction(kind, data, tmp_path), plan=host)
        importer = made.importer()
        facts = {"counts": {"train": 1}, "sources": importer.sources, "lifter": made.lifter_name, "fps": 20.0}
        rows = {what: equal for what, *_, equal in made.differences(host, SimpleNamespace(**facts), {}, [])}
        unequal = {what for what, equal in rows.items() if equal == "**no**"}
        assert unequal == {"humanml3d": {"names of the splits", "evaluated by"}, "fit3d": {"2D"}}[kind]
        assert rows["clips"] == rows["trainings of each arm"] == "not known"


def test_the_time_of_a_step_is_that_of_the_batch(monkeypatch):
    ticks: Iterator[int] = iter(range(100))
    small = dataclasses.replace(PAPER, latent_dim=8, layers=1, ff_size=8, crop_frames=4, batch_size=64)
    assert step_seconds(small, clock=lambda: next(ticks)) == 16.0
    assert isinstance(small, Plan)
