"""The verbs `data check` and `data show`: what they print, what they write, and their exit status."""

import json
from pathlib import Path

import numpy as np
import pytest
from clips import make_clip, nudge

from videomdm_ext.cli.main import main
from videomdm_ext.data import seal
from videomdm_ext.data.building import write_folder
from videomdm_ext.data.checks import checking
from videomdm_ext.data.folder import Card, read_card
from videomdm_ext.errors import DatasetError

CARD = Card(name="two", skeleton="smpl22", fps=20.0, lifter="bent", licence="zlib", sources=("a source",))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    clips = [make_clip(name=name) for name in ("walk", "jump", "kick", "punch", "spin")]
    write_folder(str(tmp_path / "set"), {"train": clips}, CARD)
    return tmp_path / "set"


def damage(folder: Path, *names: str) -> None:
    """Turn the images of clips upside down."""
    for name in names:
        place = folder / "keypoints_2d" / f"{name}_0.npz"
        with np.load(place) as archive:
            points, confidence = archive["points"], archive["confidence"]
        np.savez(place, points=points * np.float32([1, -1]), confidence=confidence)


def snapshot(folder: Path) -> dict[str, bytes]:
    places = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "checked.json"]
    return {str(p): p.read_bytes() for p in places}


def test_a_sound_set_ends_with_0_and_says_so(folder: Path, capsys: pytest.CaptureFixture[str]):
    before, place = snapshot(folder), folder.parent / "bad.txt"
    assert main(["data", "check", str(folder), "--quarantine", str(place)]) == 0
    out = capsys.readouterr().out
    assert "5 clips: nothing found" in out
    assert f"{place}: empty" in out
    assert place.read_bytes() == b""
    assert [line.split("│")[1:6] for line in out.splitlines() if "keypoints" in line] == [
        [" keypoints ", "     5 ", "       0 ", "     0 ", "       0 "]
    ]
    assert snapshot(folder) == before
    main(["data", "check", str(folder)])
    assert "5 clips (5 known from an earlier check): nothing found" in capsys.readouterr().out


def test_errors_end_with_1_and_the_first_examples_are_shown(folder: Path, capsys: pytest.CaptureFixture[str]):
    damage(folder, "walk", "jump", "kick", "punch")
    assert main(["data", "check", str(folder)]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "error flipped-v (4): an image upside down" in out
    assert "walk_0: teacher and truth alike, so it is the keypoints or both cameras" in out
    assert "and 1 more" in out
    assert "punch_0:" not in out
    assert "v grows downwards" in out
    assert "(clips with errors: 4)" in out
    assert f"videomdm data show {folder} walk_0" in out
    spaced = folder.rename(folder.parent / "my set")
    assert main(["data", "check", str(spaced)]) == 1
    look = capsys.readouterr().out.split("Look at one:")[1].split("Next:")[0]
    assert f"videomdm data show '{spaced}' walk_0" in look


def test_what_is_missing_empty_or_corrupt_is_counted(folder: Path, capsys: pytest.CaptureFixture[str]):
    (folder / "keypoints_2d/walk_0.npz").unlink()
    (folder / "keypoints_2d/jump_0.npz").write_bytes(b"")
    (folder / "keypoints_2d/kick_0.npz").write_bytes(b"PK\x03\x04 and no more")
    assert main(["data", "check", str(folder), "--json"]) == 1
    content = json.loads(capsys.readouterr().out)
    assert set(content) == {"path", "clips", "cached", "files", "errors", "warnings", "bad_clips", "findings"}
    assert (content["path"], content["clips"]) == (str(folder), 5)
    assert content["files"]["keypoints"] == {"found": 2, "missing": 1, "empty": 1, "corrupt": 1}
    assert content["files"]["teacher"]["found"] == 5
    assert content["bad_clips"] == ["walk_0", "jump_0", "kick_0"]
    assert content["errors"] == 4
    kinds = {"missing-file", "empty-file", "corrupt-file", "card-hash"}  # the last of jump and kick
    assert {item["kind"] for item in content["findings"]} == kinds
    assert all(item["advice"] and item["message"] and item["level"] == "error" for item in content["findings"])


def test_quarantine_writes_the_ids_and_touches_nothing_else(folder: Path, capsys: pytest.CaptureFixture[str]):
    damage(folder, "jump", "spin")
    before = snapshot(folder)
    place = folder.parent / "lists" / "bad.txt"
    assert main(["data", "check", str(folder), "--quarantine", str(place), "--no-cache"]) == 1
    assert place.read_text() == "jump_0\nspin_0\n"
    assert snapshot(folder) == before
    assert not (folder / "checked.json").exists()
    out = capsys.readouterr().out
    assert f"{place}: 2 ids, one a line" in out
    assert f"Next: videomdm data check {folder} --drop" in out


def test_drop_takes_clips_with_errors_out_of_the_splits_and_the_set_is_a_sound_one(folder, capsys):
    """Statistics, identity and seal follow; with the ids back in the list it is as before."""
    damage(folder, "walk", "spin")
    path, before = str(folder), read_card(str(folder))
    assert main(["data", "check", path, "--drop"]) == 1  # files are others than on the card: that has to be meant
    assert "data check" in (said := capsys.readouterr().err)
    assert "--drop --accept" in said
    assert seal.accept(path).counts == {"train": 5}
    mean = (folder / "Mean.npy").read_bytes()
    assert main(["data", "check", path, "--drop"]) == 0
    assert (folder / "train.txt").read_text() == "jump_0\nkick_0\npunch_0\n"
    rows = dict(line.split("\t") for line in (folder / "left_out.txt").read_text().splitlines())
    assert list(rows) == ["walk_0", "spin_0"]
    assert all(reason.startswith("train: flipped-v: teacher and truth alike") for reason in rows.values())
    card = seal.verify(path, thorough=True)
    assert card.counts == {"train": 3}
    assert len({before.content_hash, card.content_hash}) == 2
    assert (folder / "Mean.npy").read_bytes() != mean
    capsys.readouterr()
    assert main(["data", "check", path]) == 0
    assert "error" not in capsys.readouterr().out.replace("0 errors", "")
    damage(folder, "walk", "spin")  # upside down once more: as they were
    (folder / "train.txt").write_text("walk_0\njump_0\nkick_0\npunch_0\nspin_0\n")
    assert seal.accept(path).counts == {"train": 5}
    assert main(["data", "check", path]) == 0


def test_drop_changes_nothing_of_a_set_without_errors(folder: Path, capsys: pytest.CaptureFixture[str]):
    """Another's Mean is a warning, which somebody may mean."""
    np.save(folder / "Mean.npy", np.load(folder / "Mean.npy") + np.float32(1))
    seal.accept(str(folder))
    before = snapshot(folder)
    assert main(["data", "check", str(folder), "--drop"]) == 0
    assert "0 clips taken out of the splits: none has an error" in " ".join(capsys.readouterr().out.split())
    assert snapshot(folder) == before


def test_a_missing_file_hides_no_changed_one_of_another_clip(folder: Path, capsys: pytest.CaptureFixture[str]):
    (folder / "cameras/jump_0.npz").unlink()
    before = snapshot(folder)
    nudge(folder / "keypoints_2d/walk_0.npz")
    assert main(["data", "check", str(folder), "--drop"]) == 1
    assert "--drop --accept" in capsys.readouterr().err
    (folder / "keypoints_2d/walk_0.npz").write_bytes(before[str(folder / "keypoints_2d/walk_0.npz")])
    assert main(["data", "check", str(folder), "--drop"]) == 0
    assert seal.verify(str(folder), thorough=True).counts == {"train": 4}


def test_a_drop_that_was_interrupted_is_ended_by_the_next(folder: Path, monkeypatch: pytest.MonkeyPatch):
    damage(folder, "walk", "spin")
    seal.accept(str(folder))
    with monkeypatch.context() as patch:
        patch.setattr(checking, "write_statistics", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            checking.drop(checking.check_folder(str(folder)))
    with pytest.raises(DatasetError, match=r"train\.txt"):
        seal.verify(str(folder))
    (folder / "train.txt").write_text("walk_0\njump_0\nkick_0\npunch_0\nspin_0\n")  # stopped before that
    assert main(["data", "check", str(folder), "--drop"]) == 0
    assert len((folder / "left_out.txt").read_text().splitlines()) == 2
    assert not checking.check_folder(str(folder)).errors


def test_a_name_that_drop_takes_out_of_a_list_is_written_down(folder: Path, capsys: pytest.CaptureFixture[str]):
    with (folder / "train.txt").open("a") as file:
        file.write("jump 7\n")
    assert main(["data", "check", str(folder), "--drop", "--accept"]) == 0
    said = "0 clips taken out of the splits: lists, Mean, Std and card are written anew"
    assert said in " ".join(capsys.readouterr().out.split())
    assert "jump 7" not in (folder / "train.txt").read_text()
    assert "train.txt: expected an id of letters" in (row := (folder / "left_out.txt").read_text())
    assert "'jump 7'" in row


@pytest.mark.parametrize("accept", [(), ("--accept",)], ids=["drop", "both"])
def test_drop_does_not_empty_a_list_that_cannot_be_read(folder: Path, capsys: pytest.CaptureFixture[str], accept):
    damage(folder, "walk")
    (folder / "val.txt").write_bytes(b"spin_0\n\xff\xfe\n")
    before = snapshot(folder)
    assert main(["data", "check", str(folder), "--drop", *accept]) == 1
    assert "error:" in capsys.readouterr().err
    assert snapshot(folder) == before


def test_drop_changes_nothing_where_no_clip_would_be_left(folder: Path, capsys: pytest.CaptureFixture[str]):
    damage(folder, "walk", "jump", "kick", "punch", "spin")
    seal.accept(str(folder))
    before = snapshot(folder)
    assert main(["data", "check", str(folder), "--drop"]) == 1
    assert "expected clips without an error in the split train, found none" in capsys.readouterr().err
    assert snapshot(folder) == before


def test_warnings_alone_end_with_0_and_with_strict_with_1(folder: Path, capsys: pytest.CaptureFixture[str]):
    (folder / "texts" / "nobody.txt").write_text("a#a/DET#0.0#0.0\n")
    assert main(["data", "check", str(folder)]) == 0
    assert "0 errors, 1 warning" in capsys.readouterr().out
    assert main(["data", "check", str(folder), "--strict"]) == 1


@pytest.mark.parametrize("words", ["data check", "view", "sample --run", "data make-demo --synthetic --out", "export"])
def test_a_name_that_no_disk_takes_and_a_link_to_itself_are_one_message(tmp_path, capsys, words):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for place in (tmp_path / ("a" * 300), tmp_path / "loop" / "set"):
        assert main([*words.split(), str(place)]) == 1
        written = capsys.readouterr()
        assert str(place) in written.err + written.out


def test_a_set_with_a_broken_card_is_not_said_to_be_refined_next(folder: Path, capsys: pytest.CaptureFixture[str]):
    (folder / "dataset.json").write_text("{}")
    assert main(["data", "check", str(folder), "--no-cache"]) == 1
    assert "Next:" not in capsys.readouterr().out


def test_square_brackets_in_a_message_are_printed_as_they_are(folder: Path, capsys: pytest.CaptureFixture[str]):
    np.save(folder / "teacher_vecs/bent/walk_0.npy", np.zeros((50, 251), np.float32))
    main(["data", "check", str(folder)])
    assert "expected teacher [T, 263] of smpl22 (22 joints), found 251 channels (21 joints)" in capsys.readouterr().out


def test_show_draws_one_clip_and_tells_what_is_wrong(folder: Path, capsys: pytest.CaptureFixture[str]):
    damage(folder, "walk")
    place = folder.parent / "pictures" / "walk.png"
    assert main(["data", "show", str(folder), "walk_0", "--out", str(place)]) == 0
    assert place.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    out = capsys.readouterr().out
    assert f"{place}: walk_0, train" in out
    assert "error flipped-v: teacher and truth alike" in out


def test_show_refuses_a_folder_for_its_picture_and_names_clips_that_are_there(folder, capsys):
    assert main(["data", "show", str(folder), "walk_0", "--out", str(folder.parent)]) == 1
    assert f"--out {folder.parent}: expected a file for the picture, found a folder" in capsys.readouterr().err
    assert main(["data", "show", str(folder), "nobody"]) == 1
    assert "Ids there: walk_0, jump_0, kick_0" in capsys.readouterr().err
